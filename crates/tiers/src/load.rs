//! Reading units from their files into their homes, whatever a home is made of.

use std::sync::Arc;

use kernels::memory::{ByteSource, read_exact_at};
use plan::{Bytes, Inventory, Plan, Tier, Unit};

use crate::TierError;

/// Units are read in pieces of this size, so that progress is seen and little page cache is caused.
pub(crate) const READ: usize = 8 << 20;

/// By unit: where it starts in its home and how long it is, if it is there.
pub(crate) type Starts = Vec<Option<(usize, usize)>>;

/// Where the units of `home` lie side by side, each at a multiple of `align`, and where the last ends.
pub(crate) fn layout(plan: &Plan, inventory: &Inventory, home: Tier, align: u64) -> (Starts, u64) {
    let mut end = 0u64;
    let starts = inventory.iter().map(|(id, unit)| {
        (plan.home(id) == home).then(|| {
            let start = end;
            end = (start + unit.bytes.0).next_multiple_of(align);
            (start as usize, unit.bytes.0 as usize)
        })
    });
    (starts.collect(), end)
}

/// Reads units piece by piece and says how far it has come.
pub(crate) struct Loader<'a> {
    inventory: &'a Inventory,
    sources: &'a [Arc<dyn ByteSource>],
    progress: &'a mut dyn FnMut(Bytes, Bytes),
    done: u64,
    total: u64,
}

impl<'a> Loader<'a> {
    /// To load what `plan` homes elsewhere than on disk.
    pub(crate) fn new(
        plan: &Plan,
        inventory: &'a Inventory,
        sources: &'a [Arc<dyn ByteSource>],
        progress: &'a mut dyn FnMut(Bytes, Bytes),
    ) -> Self {
        let loaded = inventory.iter().filter(|(id, _)| plan.home(*id) != Tier::Disk);
        let total = loaded.map(|(_, unit)| unit.bytes.0).sum();
        Self { inventory, sources, progress, done: 0, total }
    }

    /// Reads the bytes of `unit` from `start` on.
    pub(crate) fn read(&mut self, unit: &Unit, start: usize, into: &mut [u8]) -> Result<(), TierError> {
        let file = self.inventory.tensor_of(unit).file as usize;
        let (offset, length) = (unit.offset + start as u64, into.len() as u64);
        read_exact_at(self.sources[file].as_ref(), offset, into)
            .map_err(|source| TierError::Read { path: self.inventory.files[file].path.clone(), source })?;
        self.sources[file].forget(offset, length);
        self.done += length;
        (self.progress)(Bytes(self.done), Bytes(self.total));
        Ok(())
    }
}
