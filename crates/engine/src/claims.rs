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
        let mut by_name = HashMap::with_capacity(inventory.tensors.len());
        for (id, unit) in inventory.iter() {
            // Of a tensor that holds many experts, the first one's unit.
            by_name.entry(inventory.tensor_of(unit).name.as_str()).or_insert(id);
        }
        Self { inventory, by_name, taken: HashSet::new(), wrong: Vec::new() }
    }

    /// Whether the model has this tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The tensor with this name and these dimensions. What is wrong is kept for [`Self::finish`], so that a refusal
    /// lists more than the first difference; the unit returned then is never used.
    pub(crate) fn take(&mut self, name: &str, dims: &[usize]) -> UnitId {
        let Some(&unit) = self.by_name.get(name) else {
            self.wrong.push(format!("  {name} is missing"));
            return UnitId(0);
        };
        let tensor = self.inventory.tensor_of(self.inventory.unit(unit));
        // Dimensions of 1 at the end say nothing.
        let found = &tensor.dims[..tensor.dims.iter().rposition(|n| *n != 1).map_or(1, |last| last + 1)];
        let wanted = &dims[..dims.iter().rposition(|n| *n != 1).map_or(1, |last| last + 1)];
        let same = found.iter().map(|n| *n as usize).eq(wanted.iter().copied());
        if !same {
            self.wrong.push(format!("  {name} has shape {:?}, expected {dims:?}", tensor.dims));
        }
        self.taken.insert(unit);
        unit
    }

    /// A vector that must be there.
    pub(crate) fn vector(&mut self, name: &str, length: usize) -> Vector {
        self.table(name, &[length])
    }

    /// Vectors are used in part and number by number: blocks will not do, and no converter writes them.
    fn check_numbers(&mut self, name: &str, unit: UnitId) {
        let quant = self.inventory.tensor_of(self.inventory.unit(unit)).quant;
        if quant.block_elements() != 1 {
            self.wrong.push(format!("  {name} is stored as {quant}, expected F32, F16 or BF16"));
        }
    }

    /// Refuses the model for a reason of its own.
    pub(crate) fn refuse(&mut self, why: &str) {
        self.wrong.push(format!("  {why}"));
    }

    /// A vector that may be there.
    pub(crate) fn optional(&mut self, name: &str, length: usize) -> Option<Vector> {
        self.has(name).then(|| self.vector(name, length))
    }

    /// A vector that may be there, of the first length or the second.
    pub(crate) fn one_of(&mut self, name: &str, lengths: [usize; 2]) -> Option<Vector> {
        let unit = *self.by_name.get(name)?;
        let found = self.inventory.tensor_of(self.inventory.unit(unit)).row_elements();
        let length = lengths.into_iter().find(|length| *length as u64 == found).unwrap_or(lengths[0]);
        Some(self.vector(name, length))
    }

    /// All numbers of a small tensor, row after row.
    pub(crate) fn table(&mut self, name: &str, dims: &[usize]) -> Vector {
        let rows: usize = dims[1..].iter().product();
        let unit = self.take(name, dims);
        self.check_numbers(name, unit);
        Vector { slice: RowSlice { unit, rows: 0..rows as u64 }, start: 0, length: dims[0] * rows }
    }

    /// Lets a tensor be there that is not used, since others say the same.
    pub(crate) fn skip(&mut self, name: &str) {
        self.taken.extend(self.by_name.get(name));
    }

    /// A matrix of one row, which may be stored as a vector.
    pub(crate) fn row(&mut self, name: &str, inputs: usize) -> Linear {
        self.matrix(name, inputs, 1, false)
    }

    /// The matrices `name_exps.weight` of all experts, or `name.E.weight` of each.
    pub(crate) fn experts(&mut self, name: &str, dims: &[usize; 2], count: usize) -> Vec<UnitId> {
        if self.has(&format!("{name}.0.weight")) {
            return (0..count).map(|e| self.take(&format!("{name}.{e}.weight"), dims)).collect();
        }
        self.each_expert(&format!("{name}_exps.weight"), &[dims[0], dims[1], count])
    }

    /// A vector for each expert.
    pub(crate) fn expert_vectors(&mut self, name: &str, length: usize, count: usize) -> Vec<UnitId> {
        let units = self.each_expert(name, &[length, count]);
        if let Some(first) = units.first() {
            self.check_numbers(name, *first);
        }
        units
    }

    /// The units of a tensor that holds all experts. They stand together.
    fn each_expert(&mut self, name: &str, dims: &[usize]) -> Vec<UnitId> {
        let wrong = self.wrong.len();
        let first = self.take(name, dims);
        let count = dims[dims.len() - 1] as u32;
        // A tensor of another shape may have fewer units. The model is refused then, and none is used.
        let step = u32::from(self.wrong.len() == wrong);
        (0..count).map(|e| UnitId(first.0 + step * e)).collect()
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
