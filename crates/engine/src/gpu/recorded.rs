//! Layers of a card that one token goes through again and again, by one launch.
//!
//! Owns what was recorded, for which conversation, and what the processor has to note as if the steps had been asked for one by one. A
//! recording is out of date once the card has given memory back, as when a conversation ends; then another is made.

use std::ops::Range;

use kernels::cuda::{Gpu, Recording};
use plan::Device;

use super::{GpuSide, Result};
use crate::blocks::Pass;
use crate::steps::Part;

/// Conversations whose runs of layers are remembered.
pub(super) const CONVERSATIONS: usize = 2;

/// Which results a card has beside those in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    rounded: Option<Part>,
    pending: Option<(Part, Part)>,
}

/// One run of layers.
pub(super) struct Recorded {
    layers: Range<usize>,
    session: u64,
    before: Open,
    after: Open,
    /// Bytes of weights that it reads on the card.
    read: u64,
    recording: Recording,
}

impl GpuSide {
    fn open(&self) -> Open {
        Open { rounded: self.rounded, pending: self.pending }
    }

    /// Launches what was recorded of these layers. The bytes of weights that it reads, or nothing where it has to be recorded.
    fn replay(&mut self, layers: &Range<usize>, session: u64) -> Result<Option<u64>> {
        let open = self.open();
        let known = |r: &Recorded| r.layers == *layers && r.session == session && r.before == open;
        let Some(place) = self.recorded.iter().position(known) else { return Ok(None) };
        let recorded = &self.recorded[place];
        if !recorded.recording.replay()? {
            self.recorded.clear();
            return Ok(None);
        }
        (self.rounded, self.pending) = (recorded.after.rounded, recorded.after.pending);
        Ok(Some(recorded.read))
    }

    fn remember(&mut self, recorded: Recorded) {
        if self.recorded.len() == self.recorded.capacity() {
            self.recorded.remove(0);
        }
        self.recorded.push(recorded);
    }
}

impl Pass<'_> {
    /// Does what `run` asks of a card for these layers, of which nobody else has a part: by one launch where it was recorded.
    pub(crate) fn recorded(
        &mut self,
        device: Device,
        layers: &Range<usize>,
        session: u64,
        run: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let Device::Gpu(number) = device else { return run(self) };
        if let Some(read) = self.card(number).replay(layers, session)? {
            self.tiers.count_on_card(number, read);
            return Ok(());
        }
        let (gpu, before, counted): (Gpu, _, _) = {
            let counted = self.tiers.card_counts(number).read_bytes;
            let side = self.card(number);
            (side.gpu.clone(), side.open(), counted)
        };
        // Somebody else's turn: another token will do.
        let Some(recorder) = gpu.recorder() else { return run(self) };
        let (recording, ()) = recorder.record(|| run(self))?;
        recording.replay()?;
        let read = self.tiers.card_counts(number).read_bytes - counted;
        let side = self.card(number);
        let after = side.open();
        side.remember(Recorded { layers: layers.clone(), session, before, after, read, recording });
        Ok(())
    }
}
