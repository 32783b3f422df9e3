//! A card's copies of a model's vectors: norm weights, biases, sinks. They are small, and stay with the processor as well.

use kernels::cpu::dequantize;
use kernels::cuda::{Arena, DeviceBuffer, Gpu, Slice};
use plan::{Bytes, Inventory, Role, Unit, UnitId};
use tiers::Tiers;

use super::Result;
use crate::spec::Vector;

/// Those of each tensor side by side, as 32-bit floats.
pub(super) struct Vectors {
    tensors: Vec<DeviceBuffer<f32>>,
    /// By unit: its tensor's place among those, its first number and its numbers.
    places: Vec<Option<(usize, usize, usize)>>,
}

impl Vectors {
    /// Unpacks every vector of the model and copies it to the card.
    pub(super) fn new(gpu: &Gpu, arena: &mut Arena, inventory: &Inventory, tiers: &mut Tiers) -> Result<Self> {
        let (mut tensors, mut places) = (Vec::new(), vec![None; inventory.units.len()]);
        for (first, units) in by_tensor(inventory) {
            let counts = units.iter().map(|unit| numbers(inventory, unit));
            let mut buffer = arena.take(counts.sum())?;
            let mut start = 0;
            for (index, unit) in units.iter().enumerate() {
                let mut row = vec![0; unit.bytes.0 as usize];
                let mut numbers = vec![0.0; numbers(inventory, unit)];
                tiers.gather(UnitId((first + index) as u32), 0, &mut row)?;
                dequantize(inventory.tensor_of(unit).quant, &row, &mut numbers);
                let range = start..start + numbers.len();
                gpu.compute().upload_now(&numbers, &mut buffer.slice_mut().range(range))?;
                places[first + index] = Some((tensors.len(), start, numbers.len()));
                start += numbers.len();
            }
            tensors.push(buffer);
        }
        Ok(Self { tensors, places })
    }

    /// What they take of an arena.
    pub(super) fn bytes(inventory: &Inventory) -> Bytes {
        let tensor = |units: &[Unit]| units.iter().map(|unit| numbers(inventory, unit)).sum();
        by_tensor(inventory).map(|(_, units)| Arena::bytes_of::<f32>(tensor(units))).sum()
    }

    pub(super) fn get(&self, vector: &Vector) -> Slice<'_, f32> {
        let (tensor, start, _) = self.place(vector.slice.unit);
        self.tensors[tensor].slice().range(start + vector.start..start + vector.start + vector.length)
    }

    /// Those of `count` experts, the first of which is `first`, one after another.
    pub(super) fn of_experts(&self, first: UnitId, count: usize) -> Slice<'_, f32> {
        let (tensor, start, numbers) = self.place(first);
        self.tensors[tensor].slice().range(start..start + count * numbers)
    }

    /// The numbers of a unit, if it is a vector.
    pub(super) fn copy(&self, unit: UnitId) -> Option<Slice<'_, f32>> {
        let (tensor, start, numbers) = self.places[unit.0 as usize]?;
        Some(self.tensors[tensor].slice().range(start..start + numbers))
    }

    fn place(&self, unit: UnitId) -> (usize, usize, usize) {
        let Some(place) = self.places[unit.0 as usize] else { unreachable!("every vector of the model has a copy") };
        place
    }
}

/// The vectors of each tensor, with the number of the first. They stand together.
fn by_tensor(inventory: &Inventory) -> impl Iterator<Item = (usize, &[Unit])> {
    let mut first = 0;
    let tensors = inventory.units.chunk_by(|a, b| a.tensor == b.tensor).map(move |units| {
        first += units.len();
        (first - units.len(), units)
    });
    tensors.filter(|(_, units)| units.iter().all(|unit| is_used(inventory, unit)))
}

fn is_used(inventory: &Inventory, unit: &Unit) -> bool {
    unit.role != Role::MultiToken && inventory.is_vector(unit)
}

fn numbers(inventory: &Inventory, unit: &Unit) -> usize {
    (unit.rows * inventory.tensor_of(unit).row_elements()) as usize
}
