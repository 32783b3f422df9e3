//! What no card computes, or not in such a place: refused by name before anything is loaded.

use plan::{Device, Inventory, LayerDevices, Plan, Tier, UnitId};

use super::{CHOICES_MAX, EXPERTS_MAX, Route, device, each_matrix, number};
use crate::EngineError;
use crate::spec::{Attention, Ffn, HeadNorm, HeadRows, Kind, Layer, Spec};

/// What stands in the way of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// A matrix of a card's block lives on another one.
    Apart(UnitId),
    /// What attention of this layer looks back at lives elsewhere.
    Memory(usize, Tier),
    /// A part of this layer that no card computes.
    Missing(usize, &'static str),
    /// A matrix that only the card can multiply with lives elsewhere.
    Matrix(UnitId),
}

impl Route {
    /// Refuses a plan that this version cannot run.
    ///
    /// # Errors
    /// [`EngineError::NotOnGpu`] with the first thing that stands in the way.
    pub(super) fn refuse_what_is_missing(
        &self,
        plan: &Plan,
        spec: &Spec,
        inventory: &Inventory,
    ) -> Result<(), EngineError> {
        let checked = self.check(&plan.kv.homes, &spec.layers);
        let checked = checked.and_then(|()| self.check_rows(plan, &spec.layers));
        let checked = checked.and_then(|()| self.check_apart(plan, spec, inventory));
        checked.map_err(|(number, obstacle)| {
            let why = match obstacle {
                Obstacle::Memory(layer, home) => format!("the KV cache of layer {layer} lives in {home}"),
                Obstacle::Missing(layer, what) => format!("layer {layer} has {what}"),
                Obstacle::Matrix(unit) => {
                    let tensor = inventory.tensor_of(inventory.unit(unit));
                    format!("{} lives in {}, and its layer's attention there", tensor.name, plan.home(unit))
                }
                Obstacle::Apart(unit) => {
                    let tensor = inventory.tensor_of(inventory.unit(unit));
                    format!(
                        "{} lives in {}, and the rest of what is computed with it there",
                        tensor.name,
                        plan.home(unit)
                    )
                }
            };
            EngineError::NotOnGpu { tier: Tier::Gpu(number), why }
        })
    }

    /// Refuses what this version does not compute, with the number of the card that would have to.
    pub(super) fn check(&self, memories: &[Tier], layers: &[Layer]) -> Result<(), (u32, Obstacle)> {
        let elsewhere = |(devices, home): (&LayerDevices, &Tier)| device(*home) != devices.attention;
        if let Some(layer) = self.layers.iter().zip(memories).position(elsewhere) {
            let home = memories[layer];
            let card = number(self.layers[layer].attention).or(number(device(home))).unwrap_or(0);
            return Err((card, Obstacle::Memory(layer, home)));
        }
        for (index, (layer, devices)) in layers.iter().zip(&self.layers).enumerate() {
            let attention = number(devices.attention).zip(missing_attention(&layer.attention));
            if let Some((card, what)) = attention.or(number(devices.ffn).zip(missing_ffn(&layer.ffn))) {
                return Err((card, Obstacle::Missing(index, what)));
            }
        }
        Ok(())
    }

    /// Refuses a latent layer whose matrices by head are not where its attention is: queries in the latent's space are too many to cross.
    fn check_rows(&self, plan: &Plan, layers: &[Layer]) -> Result<(), (u32, Obstacle)> {
        for (layer, devices) in layers.iter().zip(&self.layers) {
            let (Kind::Latent(latent), Device::Gpu(number)) = (&layer.attention.kind, devices.attention) else {
                continue;
            };
            let units = match latent.rows {
                HeadRows::Split { k, v } => [k, v],
                HeadRows::Combined(both) => [both; 2],
            };
            if let Some(unit) = units.into_iter().find(|unit| device(plan.home(*unit)) != devices.attention) {
                return Err((number, Obstacle::Matrix(unit)));
            }
        }
        Ok(())
    }

    /// Refuses a block of which two cards have matrices: numbers do not go from card to card within one.
    fn check_apart(&self, plan: &Plan, spec: &Spec, inventory: &Inventory) -> Result<(), (u32, Obstacle)> {
        let mut found = None;
        let mut check = |block: Device, unit: UnitId| {
            let other = number(device(plan.home(unit))).filter(|card| block != Device::Gpu(*card));
            if let Some(card) = other.filter(|_| found.is_none() && !inventory.is_vector(inventory.unit(unit))) {
                found = Some((number(block).unwrap_or(card), Obstacle::Apart(unit)));
            }
        };
        for (layer, devices) in spec.layers.iter().zip(&self.layers) {
            each_matrix(layer, &mut |block, slice| check([devices.attention, devices.ffn][block], slice.unit));
        }
        check(self.output, spec.output.weight.unit);
        found.map_or(Ok(()), Err)
    }
}

/// What attention has that no GPU computes yet.
pub(super) fn missing_attention(attention: &Attention) -> Option<&'static str> {
    match &attention.kind {
        Kind::Latent(latent) if latent.is_indexed() => Some("latent attention over chosen positions"),
        Kind::Delta(_) => Some("a delta net"),
        Kind::Heads(heads)
            if heads.norm_last && [&heads.q_norm, &heads.k_norm].iter().any(|norm| spans_heads(norm, heads.k_dim)) =>
        {
            Some("a norm over all turned heads together")
        }
        Kind::Heads(_) | Kind::Latent(_) => None,
    }
}

/// What a feed-forward network has that no GPU computes yet.
pub(super) const fn missing_ffn(ffn: &Ffn) -> Option<&'static str> {
    match ffn {
        Ffn::Mixture(f) if f.routing.used > CHOICES_MAX || f.routing.experts > EXPERTS_MAX => {
            Some("more than 1,024 experts, or 32 of a token")
        }
        Ffn::Mixture(_) | Ffn::Dense(_) => None,
    }
}

/// Whether a norm is over more than one head.
fn spans_heads(norm: &HeadNorm, width: usize) -> bool {
    matches!(norm, HeadNorm::Weighted(vector) if vector.length != width)
}
