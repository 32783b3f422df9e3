//! What `plimsoll inspect` shows of a model, as plain values.

use std::collections::BTreeMap;

use plan::{Bytes, Inventory, QuantType, Role, Tensor};

use crate::{GgufError, Metadata, Model};

/// All units of one role that are stored in one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// What they do.
    pub role: Role,
    /// How they are stored.
    pub quant: QuantType,
    /// Tensors; one that holds many experts counts once.
    pub tensors: u64,
    /// Units; each expert counts.
    pub units: u64,
    /// Numbers.
    pub parameters: u64,
    /// Bytes in the files.
    pub bytes: Bytes,
}

/// The chat template's mark: models with equal marks have equal templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateMark {
    /// Length of the template.
    pub bytes: Bytes,
    /// 64-bit FNV-1a of its text: to tell templates apart, not to prove where one comes from.
    pub fnv1a: u64,
}

/// Totals of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// By role in the order of [`Role::ALL`], then by type.
    pub shares: Vec<Share>,
    /// Where the model has a chat template.
    pub template: Option<TemplateMark>,
}

impl Summary {
    /// Numbers in all tensors.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.shares.iter().map(|share| share.parameters).sum()
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.shares.iter().map(|share| share.bytes).sum()
    }

    /// Bits that a number takes on average; 0 for a file without tensors.
    #[must_use]
    pub fn bits_per_parameter(&self) -> f64 {
        self.bytes().as_f64() * 8.0 / self.parameters().max(1) as f64
    }
}

/// Sums a model up by role and type.
///
/// # Errors
/// Where the chat template is no string.
pub fn summary(model: &Model) -> Result<Summary, GgufError> {
    let inventory = &model.inventory;
    let mut shares: BTreeMap<(Role, QuantType), Share> = BTreeMap::new();
    let mut last_tensor = None;
    for unit in &inventory.units {
        let tensor = inventory.tensor_of(unit);
        let (role, quant) = (unit.role, tensor.quant);
        let empty = Share { role, quant, tensors: 0, units: 0, parameters: 0, bytes: Bytes::ZERO };
        let share = shares.entry((role, quant)).or_insert(empty);
        // Units stand by tensor, so that a new tensor shows by its number.
        share.tensors += u64::from(last_tensor.replace(unit.tensor) != Some(unit.tensor));
        share.units += 1;
        share.parameters += unit.rows * tensor.row_elements();
        share.bytes += unit.bytes;
    }
    Ok(Summary { shares: shares.into_values().collect(), template: template_mark(&model.metadata)? })
}

/// The mark of the model's chat template.
///
/// # Errors
/// Where the template is no string.
pub fn template_mark(metadata: &Metadata) -> Result<Option<TemplateMark>, GgufError> {
    let template = metadata.text("tokenizer.chat_template")?;
    Ok(template.map(|text| TemplateMark { bytes: Bytes(text.len() as u64), fnv1a: fnv1a(text.as_bytes()) }))
}

/// FNV-1a with 64 bits, by its authors' offset and prime (<http://www.isthe.com/chongo/tech/comp/fnv/>).
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Tensors of one type that something cannot compute with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// The type.
    pub quant: QuantType,
    /// How many tensors have it.
    pub tensors: u64,
    /// Their bytes.
    pub bytes: Bytes,
    /// The first of them.
    pub first: String,
}

/// The types that `supported` refuses, each with its tensors. Tensors that are never run do not count.
pub fn unsupported(inventory: &Inventory, supported: impl Fn(QuantType) -> bool) -> Vec<Unsupported> {
    let mut run = vec![false; inventory.tensors.len()];
    for unit in inventory.units.iter().filter(|unit| unit.role != Role::MultiToken) {
        run[unit.tensor as usize] = true;
    }
    let bad = |(tensor, run): (&'_ Tensor, bool)| run && !supported(tensor.quant);
    let mut found: BTreeMap<QuantType, Unsupported> = BTreeMap::new();
    for (tensor, _) in inventory.tensors.iter().zip(run).filter(|(tensor, run)| bad((tensor, *run))) {
        let entry = found.entry(tensor.quant).or_insert_with(|| Unsupported {
            quant: tensor.quant,
            tensors: 0,
            bytes: Bytes::ZERO,
            first: tensor.name.clone(),
        });
        entry.tensors += 1;
        entry.bytes += tensor.bytes;
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv1a_agrees_with_its_published_values() {
        for (text, hash) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
        {
            assert_eq!(fnv1a(text.as_bytes()), hash, "{text}");
        }
    }
}
