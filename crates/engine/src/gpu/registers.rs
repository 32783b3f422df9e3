//! The registers of a card: one buffer for each, created once for the largest micro-batch.

use kernels::cuda::{Arena, DeviceBuffer, Slice, SliceMut};
use plan::Bytes;

use super::Result;
use crate::steps::{Part, REGISTERS};

/// Buffers in the order of [`Register`](crate::steps::Register).
pub(super) struct Registers([DeviceBuffer<f32>; REGISTERS]);

impl Registers {
    /// Takes so many numbers for each.
    pub(super) fn new(arena: &mut Arena, counts: &[usize; REGISTERS]) -> Result<Self> {
        let mut buffers = Vec::with_capacity(REGISTERS);
        for count in counts {
            buffers.push(arena.take(*count)?);
        }
        let Ok(buffers) = buffers.try_into() else { unreachable!("a buffer for each register") };
        Ok(Self(buffers))
    }

    /// What they take of an arena.
    pub(super) fn bytes(counts: &[usize; REGISTERS]) -> Bytes {
        counts.iter().map(|count| Arena::bytes_of::<f32>(*count)).sum()
    }

    pub(super) fn get(&self, part: Part) -> Slice<'_, f32> {
        self.0[part.register as usize].slice().range(part.start..part.start + part.count)
    }

    pub(super) fn get_mut(&mut self, part: Part) -> SliceMut<'_, f32> {
        cut(&mut self.0[part.register as usize], part)
    }

    /// A part to read and one of another register to write.
    pub(super) fn pair(&mut self, x: Part, out: Part) -> (Slice<'_, f32>, SliceMut<'_, f32>) {
        let Ok([from, to]) = self.0.get_disjoint_mut([x.register as usize, out.register as usize]) else {
            unreachable!("no step reads and writes one register: {x:?}, {out:?}")
        };
        (from.slice().range(x.start..x.start + x.count), cut(to, out))
    }

    /// Parts of two registers to write.
    pub(super) fn both_mut(&mut self, one: Part, other: Part) -> (SliceMut<'_, f32>, SliceMut<'_, f32>) {
        let Ok([first, second]) = self.0.get_disjoint_mut([one.register as usize, other.register as usize]) else {
            unreachable!("two registers: {one:?}, {other:?}")
        };
        (cut(first, one), cut(second, other))
    }

    /// A part to read, and two of other registers to write.
    pub(super) fn triple(&mut self, x: Part, out: [Part; 2]) -> (Slice<'_, f32>, SliceMut<'_, f32>, SliceMut<'_, f32>) {
        let registers = [x.register as usize, out[0].register as usize, out[1].register as usize];
        let Ok([from, first, second]) = self.0.get_disjoint_mut(registers) else {
            unreachable!("no step reads and writes one register: {x:?}, {out:?}")
        };
        (from.slice().range(x.start..x.start + x.count), cut(first, out[0]), cut(second, out[1]))
    }
}

fn cut(buffer: &mut DeviceBuffer<f32>, part: Part) -> SliceMut<'_, f32> {
    buffer.slice_mut().split_at(part.start).1.split_at(part.count).0
}
