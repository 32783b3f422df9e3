//! The processor's experts of a mixture over many tokens: their inputs come down with the choice, and their sum goes up when all are computed.
//!
//! Owns the memory through which both cross, which the card copies by itself. Must never know where experts live.

use std::time::Instant;

use kernels::cuda::{self, Gpu, Pinned};

use super::experts::{Lists, Mixtures};
use super::{GpuPass, Result};
use crate::spec::Mixture;
use crate::steps::{Part, Register};

/// Numbers that one thread empties at a time.
const PIECE: usize = 1 << 14;

/// Numbers of all tokens on their way down and up, in memory that the card copies by itself.
pub(super) struct Mail {
    x: Pinned<f32>,
    sum: Pinned<f32>,
}

impl Mail {
    /// For so many numbers each way.
    pub(super) fn new(gpu: &Gpu, numbers: usize) -> Result<Self> {
        Ok(Self { x: Pinned::new(gpu, numbers)?, sum: Pinned::new(gpu, numbers)? })
    }
}

/// That of a card's mixtures.
fn mail(mixtures: &mut Option<Mixtures>) -> &mut Mail {
    match mixtures {
        Some(Mixtures { lists: Lists { mail: Some(mail), .. }, .. }) => mail,
        _ => unreachable!("a card to whose mixtures the processor belongs has mail"),
    }
}

impl GpuPass<'_, '_> {
    /// Takes what the processor's experts read to it, waits for that, and empties their sum, which was sent up for the last time long ago:
    /// the choice of this layer has come down since.
    pub(super) fn send_away(&mut self, x: Part) -> Result<()> {
        let side = &mut *self.side;
        side.settle()?;
        let Mail { x: to, sum } = mail(&mut side.mixtures);
        let started = Instant::now();
        side.gpu.compute().download_now(side.registers.get(x), &mut to[..x.count])?;
        side.passage.arrived(x.count, started);
        self.host.pool.run_pieces(&mut sum[..x.count], PIECE, &|_, sum| sum.fill(0.0));
        Ok(())
    }

    /// Has the processor compute its experts with what came down, and adds their sum to `block`.
    pub(super) fn add_away(&mut self, f: &Mixture, block: Part) -> Result<()> {
        if self.host.scratch.pairs.len() == 0 {
            return Ok(());
        }
        let side = &mut *self.side;
        let Mail { x, sum } = mail(&mut side.mixtures);
        self.host.join_experts(f, &x[..block.count], &mut sum[..block.count])?;
        let (stream, there) = (side.gpu.compute(), Part { register: Register::Attended, start: 0, count: block.count });
        stream.upload(sum.part(..block.count), &mut side.registers.get_mut(there))?;
        let (sum, mut to) = side.registers.pair(there, block);
        cuda::add(stream, &mut to, sum)?;
        side.writes(there);
        side.passage.sent(block.count);
        Ok(())
    }
}
