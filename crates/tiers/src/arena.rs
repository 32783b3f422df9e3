//! One allocation that holds every unit whose home is RAM.

use std::sync::Arc;

use kernels::memory::{Buffer, ByteSource, read_exact_at};
use plan::{Bytes, Inventory, Plan, Tier, UnitId};

use crate::TierError;

/// Units start at multiples of this, a cache line.
const ALIGN: u64 = 64;
/// Units are read in pieces of this size, so that progress is seen and little page cache is caused.
const READ: usize = 8 << 20;

/// Resident units, side by side.
pub(crate) struct Arena {
    buffer: Buffer,
    /// By unit: where it starts and how long it is, if it is here.
    places: Vec<Option<(usize, usize)>>,
}

impl Arena {
    /// Bytes that the plan's RAM-homed units take here, alignment included.
    fn layout(plan: &Plan, inventory: &Inventory) -> (Vec<Option<(usize, usize)>>, u64) {
        let mut end = 0u64;
        let places = inventory.iter().map(|(id, unit)| {
            (plan.home(id) == Tier::Ram).then(|| {
                let start = end;
                end = (start + unit.bytes.0).next_multiple_of(ALIGN);
                (start as usize, unit.bytes.0 as usize)
            })
        });
        let places = places.collect();
        (places, end)
    }

    /// Allocates the arena and reads every unit into it.
    pub(crate) fn load(
        plan: &Plan,
        inventory: &Inventory,
        sources: &[Arc<dyn ByteSource>],
        progress: &mut dyn FnMut(Bytes, Bytes),
    ) -> Result<Self, TierError> {
        let (places, length) = Self::layout(plan, inventory);
        let total = Bytes(length);
        let mut buffer = Buffer::try_new(length as usize).map_err(|source| TierError::Memory {
            what: "weights in RAM",
            bytes: total,
            source,
        })?;
        let mut done = 0;
        for ((_, unit), place) in inventory.iter().zip(&places) {
            let Some((start, length)) = *place else { continue };
            let file = inventory.tensor_of(unit).file as usize;
            let mut offset = unit.offset;
            for chunk in buffer[start..start + length].chunks_mut(READ) {
                read_exact_at(sources[file].as_ref(), offset, chunk)
                    .map_err(|source| TierError::Read { path: inventory.files[file].path.clone(), source })?;
                sources[file].forget(offset, chunk.len() as u64);
                offset += chunk.len() as u64;
                done += chunk.len() as u64;
                progress(Bytes(done), total);
            }
        }
        Ok(Self { buffer, places })
    }

    /// The bytes of `unit`, if it lives here.
    pub(crate) fn unit(&self, unit: UnitId) -> Option<&[u8]> {
        let (start, length) = (*self.places.get(unit.0 as usize)?)?;
        Some(&self.buffer[start..start + length])
    }

    /// Bytes of the whole arena.
    pub(crate) fn bytes(&self) -> Bytes {
        Bytes(self.buffer.len() as u64)
    }
}
