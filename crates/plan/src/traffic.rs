//! How much of a unit a pass of tokens reads, on average.
//!
//! Owns the likelihoods: which rows of a table, which experts of a layer. Must never know where a unit lives.

use crate::{ExpertUse, Inventory, Role, Unit};

/// A model with what is known about the use of its experts.
#[derive(Clone, Copy)]
pub(crate) struct Traffic<'a> {
    inventory: &'a Inventory,
    experts: Option<&'a ExpertUse>,
    tied: bool,
}

impl<'a> Traffic<'a> {
    pub(crate) fn new(inventory: &'a Inventory, experts: Option<&'a ExpertUse>) -> Self {
        Self { inventory, experts, tied: inventory.tied_output() }
    }

    /// The counts of experts, where there are any.
    pub(crate) fn counted(&self) -> Option<&'a ExpertUse> {
        self.experts.filter(|experts| experts.tokens() > 0)
    }

    /// Whether a table of vectors serves as the output too.
    pub(crate) fn tied(&self) -> bool {
        self.tied
    }

    /// The share of tokens that choose this routed expert: as counted, or else one that all of them have.
    pub(crate) fn expert_share(&self, unit: &Unit) -> f64 {
        let shape = &self.inventory.shape;
        let counted = || Some(self.counted()?.likely_share(unit.layer?, unit.expert?));
        let uniform = || f64::from(shape.experts_used) / f64::from(shape.experts.max(1));
        counted().unwrap_or_else(uniform).min(1.0)
    }

    /// The share of a unit that `tokens` tokens of one pass touch: of an expert with the share p, `1 − (1 − p)^tokens`.
    pub(crate) fn touched(&self, unit: &Unit, tokens: u32) -> f64 {
        match unit.role {
            Role::MultiToken => 0.0,
            Role::Embedding if !self.tied => (f64::from(tokens) / unit.rows.max(1) as f64).min(1.0),
            Role::RoutedExpert => 1.0 - (1.0 - self.expert_share(unit)).powf(f64::from(tokens)),
            _ => 1.0,
        }
    }

    /// Columns that meet each row of a unit that is read at all, where `tokens` tokens pass.
    pub(crate) fn columns(&self, unit: &Unit, tokens: u32) -> f64 {
        match unit.role {
            // The tied embedding makes logits of the last token only.
            Role::Embedding => 1.0,
            Role::RoutedExpert => {
                let touched = self.touched(unit, tokens).max(f64::MIN_POSITIVE);
                (self.expert_share(unit) * f64::from(tokens) / touched).max(1.0)
            }
            _ => f64::from(tokens),
        }
    }

    /// Bytes of this unit that are read for one decoded token.
    pub(crate) fn read_per_token(&self, unit: &Unit) -> f64 {
        unit.bytes.as_f64() * self.touched(unit, 1)
    }

    /// Bytes of this unit that tokens read again and again: of an expert all, since the next token that chooses it comes after others.
    pub(crate) fn read_again(&self, unit: &Unit) -> f64 {
        if unit.role == Role::RoutedExpert { unit.bytes.as_f64() } else { self.read_per_token(unit) }
    }

    /// Multiplications and additions with this unit for so many tokens.
    pub(crate) fn operations(&self, unit: &Unit, tokens: u32) -> f64 {
        let tensor = self.inventory.tensor_of(unit);
        if tensor.dims.len() < 2 || unit.role == Role::MultiToken || (unit.role == Role::Embedding && !self.tied) {
            return 0.0;
        }
        let used = if unit.role == Role::RoutedExpert { self.expert_share(unit) } else { 1.0 };
        // The tied embedding makes logits of the last token only.
        let tokens = if unit.role == Role::Embedding { 1 } else { tokens };
        let quant = tensor.quant;
        let elements = unit.bytes.as_f64() / quant.block_bytes() as f64 * quant.block_elements() as f64;
        2.0 * elements * used * f64::from(tokens)
    }
}
