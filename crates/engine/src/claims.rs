//! Which tensors an architecture uses, and whether the file has them in the right shape, and no others.

use plan::{Inventory, Role, UnitId};
use std::collections::{HashMap, HashSet};
use tiers::RowSlice;

use crate::EngineError;
use crate::spec::{Linear, Vector};

/// Differences shown in a refusal.
const SHOWN: usize = 5;

/// Tensors taken so far, and what was wrong with them.
pub(crate) struct Claims<'a> {
    inventory: &'a Inventory,
    by_name: HashMap<&'a str, UnitId>,
    taken: HashSet<UnitId>,
    wrong: Vec<String>,
}

impl<'a> Claims<'a> {
    pub(crate) fn new(inventory: &'a Inventory) -> Self {
        let first = inventory.iter().filter(|(_, unit)| unit.expert.is_none_or(|expert| expert == 0));
        let by_name = first.map(|(id, unit)| (inventory.tensor_of(unit).name.as_str(), id)).collect();
        Self { inventory, by_name, taken: HashSet::new(), wrong: Vec::new() }
    }

    /// Whether the model has this tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The tensor with this name and these dimensions. What is wrong is kept for [`Self::finish`], so that a refusal
    /// lists more than the first difference; the unit returned then is never used.
    fn take(&mut self, name: &str, dims: &[usize]) -> UnitId {
        let Some(&unit) = self.by_name.get(name) else {
            self.wrong.push(format!("  {name} is missing"));
            return UnitId(0);
        };
        let tensor = self.inventory.tensor_of(self.inventory.unit(unit));
        let same = tensor.dims.iter().map(|n| *n as usize).eq(dims.iter().copied());
        if !same {
            self.wrong.push(format!("  {name} has shape {:?}, expected {dims:?}", tensor.dims));
        }
        self.taken.insert(unit);
        unit
    }

    /// A vector that must be there.
    pub(crate) fn vector(&mut self, name: &str, length: usize) -> Vector {
        let unit = self.take(name, &[length]);
        // Vectors are used in part and number by number: blocks will not do, and no converter writes them.
        let quant = self.inventory.tensor_of(self.inventory.unit(unit)).quant;
        if quant.block_elements() != 1 {
            self.wrong.push(format!("  {name} is stored as {quant}, expected F32, F16 or BF16"));
        }
        let slice = RowSlice { unit, rows: 0..1 };
        Vector { slice, start: 0, length }
    }

    /// A vector that may be there.
    pub(crate) fn optional(&mut self, name: &str, length: usize) -> Option<Vector> {
        self.has(name).then(|| self.vector(name, length))
    }

    /// `name.weight`, and `name.bias` where the model has one and `bias` allows it.
    pub(crate) fn matrix(&mut self, name: &str, inputs: usize, outputs: usize, bias: bool) -> Linear {
        let unit = self.take(&format!("{name}.weight"), &[inputs, outputs]);
        let bias = if bias { self.optional(&format!("{name}.bias"), outputs) } else { None };
        Linear { weight: RowSlice { unit, rows: 0..outputs as u64 }, bias, inputs, outputs }
    }

    /// Several matrices stored as one, rows of one after rows of the other.
    pub(crate) fn fused<const N: usize>(&mut self, name: &str, inputs: usize, outputs: [usize; N]) -> [Linear; N] {
        let whole = self.matrix(name, inputs, outputs.iter().sum(), true);
        let mut start = 0;
        outputs.map(|outputs| {
            let rows = start as u64..(start + outputs) as u64;
            let bias = whole.bias.as_ref().map(|b| Vector { slice: b.slice.clone(), start, length: outputs });
            start += outputs;
            Linear { weight: RowSlice { unit: whole.weight.unit, rows }, bias, inputs, outputs }
        })
    }

    /// Refuses the model where tensors were missing or misshapen, or where some are left that nothing uses.
    pub(crate) fn finish(mut self, architecture: &str) -> Result<(), EngineError> {
        let taken: HashSet<u32> = self.taken.iter().map(|id| self.inventory.unit(*id).tensor).collect();
        let tensors =
            self.inventory.iter().filter(|(_, unit)| unit.role != Role::MultiToken).map(|(_, unit)| unit.tensor);
        let mut unused: Vec<u32> = tensors.filter(|tensor| !taken.contains(tensor)).collect();
        unused.dedup();
        let unused = unused.iter().map(|i| format!("  {} is not used", self.inventory.tensors[*i as usize].name));
        let unused: Vec<String> = unused.collect();
        self.wrong.extend(unused);
        if self.wrong.is_empty() {
            return Ok(());
        }
        let more = self.wrong.len().saturating_sub(SHOWN);
        self.wrong.truncate(SHOWN);
        if more > 0 {
            self.wrong.push(format!("  and {more} more"));
        }
        Err(EngineError::Tensors { architecture: architecture.to_owned(), list: self.wrong.join("\n") })
    }
}
