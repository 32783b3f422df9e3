//! The road to a card for bytes that it cannot read where they are: of files, and of memory that is not registered.

use kernels::cuda::{Event, Gpu, Pinned, SliceMut, Stream};

use super::Lent;
use crate::TierError;
use crate::load::READ;

/// Two pinned slots: while one is copied to the card, the other is filled. They take 16 MiB of RAM.
pub(crate) struct Road {
    slots: [(Pinned<u8>, Event); 2],
    turn: usize,
    /// Bytes of weights that were brought to be computed with, by this road and past it.
    pub(crate) brought: u64,
    /// What goes past it: slots of the ring from disk, where they are pinned themselves.
    pub(super) lent: Option<Lent>,
}

impl Road {
    /// The most bytes of one [`send`](Self::send).
    pub(crate) const STEP: usize = READ;

    pub(crate) fn new(gpu: &Gpu) -> Result<Self, TierError> {
        let slot = || Ok::<_, TierError>((Pinned::new(gpu, Self::STEP)?, Event::new(gpu)?));
        Ok(Self { slots: [slot()?, slot()?], turn: 0, brought: 0, lent: None })
    }

    /// Copies what `fill` writes to `to`, in the stream's time. Waits for the copy before the last one.
    pub(crate) fn send(
        &mut self,
        stream: &Stream,
        to: &mut SliceMut<'_, u8>,
        fill: impl FnOnce(&mut [u8]) -> Result<(), TierError>,
    ) -> Result<(), TierError> {
        let (slot, copied) = &mut self.slots[self.turn % 2];
        copied.synchronize()?;
        let count = to.len();
        fill(&mut slot[..count])?;
        stream.upload(slot.part(..count), to)?;
        copied.record(stream)?;
        self.turn += 1;
        Ok(())
    }

    /// Copies `from` to `to`, however long, in the stream's time.
    pub(crate) fn carry(&mut self, stream: &Stream, from: &[u8], to: &mut SliceMut<'_, u8>) -> Result<(), TierError> {
        let mut start = 0;
        for step in from.chunks(Self::STEP) {
            let range = start..start + step.len();
            start = range.end;
            self.send(stream, &mut to.range(range), |slot| {
                slot.copy_from_slice(step);
                Ok(())
            })?;
        }
        Ok(())
    }
}
