//! Reading units from their files into their homes, whatever a home is made of.

use std::sync::Arc;

use kernels::memory::{Buffer, ByteSource, Queue, Reading, read_exact_at};
use plan::{Bytes, Inventory, Plan, Tier, Unit};

use crate::TierError;

/// Units are read in pieces of this size, so that progress is seen and little page cache is caused.
#[cfg(feature = "cuda")]
pub(crate) const READ: usize = 8 << 20;

/// Bytes of one range of [`Loader::read_all`], and how many are under way: enough to keep a drive busy while one is copied, and less
/// than the activations that will take their place.
const RANGE: usize = 1 << 20;
const RANGES: usize = 6;

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

    /// Reads the bytes of `unit` on their way to a card from `start` on.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "for units on their way to a card"))]
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

    /// Reads every unit that has a place in `home` there, many ranges at once.
    pub(crate) fn read_all(&mut self, queue: &mut Queue, starts: &Starts, home: &mut [u8]) -> Result<(), TierError> {
        let inventory = self.inventory;
        let mut ranges = inventory.iter().zip(starts).flat_map(|((_, unit), place)| {
            let (start, length) = place.unwrap_or((0, 0));
            let file = inventory.tensor_of(unit).file as usize;
            (0..length)
                .step_by(RANGE)
                .map(move |at| (file, unit.offset + at as u64, start + at, RANGE.min(length - at)))
        });
        let room = Queue::room(RANGE);
        let memory = |source| TierError::Memory { what: "loading", bytes: Bytes((RANGES * room) as u64), source };
        let mut free = Buffer::try_parts(room, RANGES).map_err(memory)?;
        let mut landed = Vec::new();
        loop {
            while let Some(buffer) = free.pop() {
                let Some((source, offset, start, length)) = ranges.next() else { break };
                queue.add(Reading { tag: start as u64, source, offset, length, buffer });
            }
            if queue.under_way() == 0 {
                return Ok(());
            }
            queue.step(&mut landed).map_err(|_| TierError::ReaderGone)?;
            for part in landed.drain(..) {
                let path = &inventory.files[part.source].path;
                part.outcome.map_err(|source| TierError::Read { path: path.clone(), source })?;
                let bytes = &part.buffer[part.range];
                home[part.tag as usize..][..bytes.len()].copy_from_slice(bytes);
                self.done += bytes.len() as u64;
                (self.progress)(Bytes(self.done), Bytes(self.total));
                free.push(part.buffer);
            }
        }
    }
}
