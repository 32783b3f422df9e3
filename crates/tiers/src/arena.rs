//! One allocation that holds every unit whose home is RAM.

use kernels::memory::Buffer;
use plan::{Bytes, Inventory, Plan, Tier, UnitId};

use crate::TierError;
use crate::load::{Loader, READ, Starts, layout};

/// Units start at multiples of this, a cache line.
const ALIGN: u64 = 64;

/// Resident units, side by side.
pub(crate) struct Arena {
    buffer: Buffer,
    starts: Starts,
}

impl Arena {
    /// Allocates the arena and reads every unit into it.
    pub(crate) fn load(plan: &Plan, inventory: &Inventory, loader: &mut Loader) -> Result<Self, TierError> {
        let (starts, length) = layout(plan, inventory, Tier::Ram, ALIGN);
        let mut buffer = Buffer::try_new(length as usize).map_err(|source| TierError::Memory {
            what: "weights in RAM",
            bytes: Bytes(length),
            source,
        })?;
        for ((_, unit), place) in inventory.iter().zip(&starts) {
            let Some((start, length)) = *place else { continue };
            for (piece, into) in buffer[start..start + length].chunks_mut(READ).enumerate() {
                loader.read(unit, piece * READ, into)?;
            }
        }
        Ok(Self { buffer, starts })
    }

    /// The bytes of `unit`, if it lives here.
    pub(crate) fn unit(&self, unit: UnitId) -> Option<&[u8]> {
        let (start, length) = (*self.starts.get(unit.0 as usize)?)?;
        Some(&self.buffer[start..start + length])
    }

    /// Bytes of the whole arena.
    pub(crate) fn bytes(&self) -> Bytes {
        Bytes(self.buffer.len() as u64)
    }
}
