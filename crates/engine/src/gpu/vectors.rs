//! A card's copies of a model's vectors: norm weights, biases, sinks. They are small, and stay with the processor as well.

use kernels::cpu::dequantize;
use kernels::cuda::{Arena, DeviceBuffer, Gpu, Slice};
use plan::{Bytes, Inventory, Role, Unit};
use tiers::Tiers;

use super::Result;
use crate::spec::Vector;

/// By unit, those that are vectors, as 32-bit floats.
pub(super) struct Vectors(Vec<Option<DeviceBuffer<f32>>>);

impl Vectors {
    /// Unpacks every vector of the model and copies it to the card.
    pub(super) fn new(gpu: &Gpu, arena: &mut Arena, inventory: &Inventory, tiers: &mut Tiers) -> Result<Self> {
        let mut vectors = Vec::with_capacity(inventory.units.len());
        for (id, unit) in inventory.iter() {
            if !is_used(inventory, unit) {
                vectors.push(None);
                continue;
            }
            let tensor = inventory.tensor_of(unit);
            let mut row = vec![0; unit.bytes.0 as usize];
            let mut numbers = vec![0.0; numbers(inventory, unit)];
            tiers.gather(id, 0, &mut row)?;
            dequantize(tensor.quant, &row, &mut numbers);
            let mut buffer = arena.take(numbers.len())?;
            gpu.compute().upload_now(&numbers, &mut buffer.slice_mut())?;
            vectors.push(Some(buffer));
        }
        Ok(Self(vectors))
    }

    /// What they take of an arena.
    pub(super) fn bytes(inventory: &Inventory) -> Bytes {
        let used = inventory.units.iter().filter(|unit| is_used(inventory, unit));
        used.map(|unit| Arena::bytes_of::<f32>(numbers(inventory, unit))).sum()
    }

    pub(super) fn get(&self, vector: &Vector) -> Slice<'_, f32> {
        let Some(buffer) = &self.0[vector.slice.unit.0 as usize] else {
            unreachable!("every vector of the model has a copy")
        };
        buffer.slice().range(vector.start..vector.start + vector.length)
    }
}

fn is_used(inventory: &Inventory, unit: &Unit) -> bool {
    unit.role != Role::MultiToken && inventory.is_vector(unit)
}

fn numbers(inventory: &Inventory, unit: &Unit) -> usize {
    (unit.rows * inventory.tensor_of(unit).row_elements()) as usize
}
