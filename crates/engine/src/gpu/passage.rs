//! The way of activations between a card and the processor.
//!
//! Owns how numbers cross: a few, as decode has them, through memory that both sides watch; many, as prompts have them, by copies.
//! Counts what crosses, and how long the processor waits for it. Must never know what the numbers are.

use std::time::{Duration, Instant};

use kernels::cuda::{Crossing, Event, Gpu, Slice, SliceMut};

use super::Result;
use crate::stats::Traffic;

/// The way in both directions.
pub(super) struct Passage {
    crossing: Crossing,
    /// Numbers that cross by it at one time.
    few: usize,
    /// Numbers that were asked to come down and are not received yet.
    leaving: bool,
    /// When the card has taken what was sent to it last.
    taken: Event,
    /// Since when the card has had something to do in this pass.
    working: Option<Instant>,
    pub(super) traffic: Traffic,
}

impl Passage {
    /// A way on which up to `few` numbers cross fast.
    pub(super) fn new(gpu: &Gpu, few: usize) -> Result<Self> {
        let (crossing, taken) = (Crossing::new(gpu, few)?, Event::new(gpu)?);
        Ok(Self { crossing, few, leaving: false, taken, working: None, traffic: Traffic::default() })
    }

    /// Starts a pass, perhaps after one that failed: what that one asked for is received and dropped.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.working = None;
        if std::mem::take(&mut self.leaving) {
            self.crossing.receive()?;
        }
        Ok(())
    }

    /// The card has something to do from now on.
    pub(super) fn works(&mut self) {
        self.working.get_or_insert_with(Instant::now);
    }

    /// Takes numbers to the card, in the time of its stream.
    pub(super) fn up(&mut self, gpu: &Gpu, from: &[f32], to: &mut SliceMut<'_, f32>) -> Result<()> {
        self.sent(from.len());
        if from.len() > self.few {
            return Ok(gpu.compute().upload_now(from, to)?);
        }
        self.taken.synchronize()?;
        self.crossing.room()[..from.len()].copy_from_slice(from);
        self.crossing.arrive(to)?;
        self.crossing.send();
        Ok(self.taken.record(gpu.compute())?)
    }

    /// Sets numbers on their way to the processor, where they are few: what the stream is given next is done meanwhile.
    pub(super) fn leave(&mut self, from: Slice<'_, f32>) -> Result<()> {
        if from.len() <= self.few {
            self.crossing.leave(from)?;
            self.leaving = true;
        }
        Ok(())
    }

    /// Waits for the numbers that [`leave`](Self::leave) was called with.
    pub(super) fn down(&mut self, gpu: &Gpu, from: Slice<'_, f32>, to: &mut [f32]) -> Result<()> {
        let started = Instant::now();
        if std::mem::take(&mut self.leaving) {
            to.copy_from_slice(self.crossing.receive()?);
        } else {
            gpu.compute().download_now(from, to)?;
        }
        self.arrived(to.len(), started);
        Ok(())
    }

    /// Counts numbers that went up in a way of their own.
    pub(super) fn sent(&mut self, count: usize) {
        self.traffic.up_bytes += (count * size_of::<f32>()) as u64;
        self.traffic.crossings += 1;
        self.works();
    }

    /// Counts numbers that came down, for which the processor waited since then.
    pub(super) fn arrived(&mut self, count: usize, since: Instant) {
        self.traffic.down_bytes += (count * size_of::<f32>()) as u64;
        self.traffic.crossings += 1;
        self.traffic.waited += since.elapsed();
        self.traffic.busy += self.working.take().map_or(Duration::ZERO, |since| since.elapsed());
    }
}
