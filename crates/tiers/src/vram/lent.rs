//! Slots of the ring from disk that a card reads where they are.
//!
//! Owns each of them until its copy is done, and gives it back to the ring then: not before, or the drive would write over what is being copied. Never
//! holds more than its share, so that the processor finds a slot without waiting for a card, which may wait for it.

use std::collections::VecDeque;

use kernels::cuda::{Event, Gpu, SliceMut, Stream};
use kernels::memory::Buffer;

use super::{Road, Vram};
use crate::TierError;
use crate::ring::{Ring, Staged};

/// The slots that one card reads.
pub(crate) struct Lent {
    /// Those whose copies were asked for, in that order, each with the mark behind its copy.
    slots: VecDeque<(Buffer, Event)>,
    /// Marks for others.
    marks: Vec<Event>,
}

impl Lent {
    /// The fewest that gain anything: one is copied while the next is waited for.
    const LEAST: usize = 2;

    fn new(gpu: &Gpu, share: usize) -> Result<Self, TierError> {
        let marks = (0..share).map(|_| Event::new(gpu)).collect::<Result<_, _>>()?;
        Ok(Self { slots: VecDeque::with_capacity(share), marks })
    }

    /// Copies what has come from disk to a card, in the stream's time.
    pub(super) fn send(
        &mut self,
        stream: &Stream,
        staged: Staged<'_>,
        to: &mut SliceMut<'_, u8>,
    ) -> Result<(), TierError> {
        let Some((bytes, mark)) = staged.pinned().zip(self.marks.pop()) else {
            unreachable!("asked where there is room")
        };
        stream.upload(bytes, to)?;
        mark.record(stream)?;
        self.slots.extend(staged.keep().map(|slot| (slot, mark)));
        Ok(())
    }

    /// Gives those back whose copies are done.
    pub(crate) fn give_back(&mut self, disk: &mut Ring) -> Result<(), TierError> {
        while let Some((slot, mark)) = self.slots.pop_front() {
            if !mark.has_come()? {
                self.slots.push_front((slot, mark));
                break;
            }
            self.marks.push(mark);
            disk.give_back(slot);
        }
        Ok(())
    }

    /// [`Self::give_back`], and waits for the oldest where there would be no room for another.
    pub(super) fn make_room(&mut self, disk: &mut Ring) -> Result<(), TierError> {
        if let ([], Some((_, oldest))) = (&self.marks[..], self.slots.front()) {
            oldest.synchronize()?;
        }
        self.give_back(disk)
    }
}

/// Has cards that something is brought to read the slots of the ring from disk where they are, and says where they do not.
pub(crate) fn lend(cards: &mut [Vram], disk: &mut Ring) -> Result<Option<String>, TierError> {
    let mut cards: Vec<&mut Vram> = cards.iter_mut().filter(|card| card.streams() || card.fetches()).collect();
    let share = disk.spare() / cards.len().max(1);
    let Some(first) = cards.first() else { return Ok(None) };
    let refusal = if share < Lent::LEAST {
        Some("its slots are too few".to_owned())
    } else {
        disk.register(first.gpu()).err().map(|error| error.to_string())
    };
    if let Some(why) = refusal {
        let ring = disk.bytes();
        return Ok(Some(format!("the ring from disk ({ring}) is not pinned, and copied on the way to the GPU: {why}")));
    }
    for card in &mut cards {
        let lent = Lent::new(card.gpu(), share)?;
        card.road().lent = Some(lent);
    }
    Ok(None)
}

impl Road {
    /// Copies what has come from disk to a card, in the stream's time: where it is, if the card may read it there.
    pub(super) fn pass_on(
        &mut self,
        stream: &Stream,
        staged: Staged<'_>,
        to: &mut SliceMut<'_, u8>,
    ) -> Result<(), TierError> {
        match &mut self.lent {
            Some(lent) => lent.send(stream, staged, to),
            None => self.carry(stream, &staged, to),
        }
    }
}
