//! Which device computes what, from the homes that a plan gives.
//!
//! A layer is computed where its matrices live. This version takes all layers of a model to one GPU, with what they keep of a
//! conversation, or none; the output may stay with the processor. Vectors do not count: each device has copies of those that
//! it uses. Everything else is refused by name, before anything is loaded. Must never know how a device computes.

use plan::{Device, Inventory, Plan, Role, Tier, Unit, UnitId};

use crate::EngineError;
use crate::spec::{Ffn, HeadNorm, Kind, Layer, Spec};

/// Where the blocks of a model are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// All layers.
    pub(crate) layers: Device,
    /// The last norm and the output matrix.
    pub(crate) output: Device,
}

/// What stands in the way of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    /// A matrix of a layer lives elsewhere.
    Matrix(UnitId),
    Cache,
    Output,
}

impl Route {
    /// The devices of a plan.
    ///
    /// # Errors
    /// [`EngineError::NotOnGpu`] for a plan that this version cannot run, with the first thing that stands in the way.
    pub(crate) fn new(plan: &Plan, spec: &Spec, inventory: &Inventory) -> Result<Self, EngineError> {
        let multiplied =
            |unit: &Unit| unit.layer.is_some() && unit.role != Role::MultiToken && !inventory.is_vector(unit);
        let matrices = inventory.iter().filter(|(_, unit)| multiplied(unit)).map(|(id, _)| (id, plan.home(id)));
        let output = plan.home(spec.output.weight.unit);
        let described = |id: UnitId| {
            let tensor = inventory.tensor_of(inventory.unit(id));
            format!("{} lives in {}", tensor.name, plan.home(id))
        };
        // One home for all layers, as far as this version goes: else the first that is not a GPU's.
        let homes = || plan.kv.homes.iter().copied();
        let cache = homes().find(|home| !matches!(home, Tier::Gpu(_))).or_else(|| homes().next()).unwrap_or(Tier::Ram);
        let route = Self::of(&matrices.collect::<Vec<_>>(), output, cache).map_err(|(tier, obstacle)| {
            let why = match obstacle {
                Obstacle::Matrix(unit) => described(unit),
                Obstacle::Output => described(spec.output.weight.unit),
                Obstacle::Cache => format!("the KV cache lives in {cache}"),
            };
            EngineError::NotOnGpu { tier, why }
        })?;
        let Device::Gpu(number) = route.layers else { return Ok(route) };
        match spec.layers.iter().enumerate().find_map(|(index, layer)| Some((index, missing(layer)?))) {
            None => Ok(route),
            Some((index, what)) => {
                Err(EngineError::NotOnGpu { tier: Tier::Gpu(number), why: format!("layer {index} has {what}") })
            }
        }
    }

    /// The devices of homes, or a GPU that is given something and cannot compute with it.
    fn of(matrices: &[(UnitId, Tier)], output: Tier, cache: Tier) -> Result<Self, (Tier, Obstacle)> {
        let on_gpu = |tier: &Tier| matches!(tier, Tier::Gpu(_));
        let Some(gpu) = matrices.iter().map(|(_, home)| *home).find(on_gpu) else {
            return match (output, cache) {
                (_, Tier::Gpu(_)) => Err((cache, Obstacle::Cache)),
                (Tier::Gpu(_), _) => Err((output, Obstacle::Output)),
                _ => Ok(Self { layers: Device::Cpu, output: Device::Cpu }),
            };
        };
        if let Some((unit, _)) = matrices.iter().find(|(_, home)| *home != gpu) {
            return Err((gpu, Obstacle::Matrix(*unit)));
        }
        if cache != gpu {
            return Err((gpu, Obstacle::Cache));
        }
        if on_gpu(&output) && output != gpu {
            return Err((output, Obstacle::Output));
        }
        Ok(Self { layers: device(gpu), output: device(output) })
    }

    /// The GPU that takes part, if any does.
    #[cfg(feature = "cuda")]
    pub(crate) const fn gpu(self) -> Option<u32> {
        match self.layers {
            Device::Gpu(number) => Some(number),
            Device::Cpu => None,
        }
    }
}

const fn device(home: Tier) -> Device {
    match home {
        Tier::Gpu(number) => Device::Gpu(number),
        Tier::Ram | Tier::Disk => Device::Cpu,
    }
}

/// What a layer has that no GPU computes yet.
fn missing(layer: &Layer) -> Option<&'static str> {
    match (&layer.attention.kind, &layer.ffn) {
        (Kind::Latent(_), _) => Some("latent attention"),
        (Kind::Delta(_), _) => Some("a delta net"),
        (Kind::Heads(heads), _) if heads.gated => Some("gated heads"),
        (Kind::Heads(heads), _) if [&heads.q_norm, &heads.k_norm].iter().any(|norm| spans_heads(norm, heads.k_dim)) => {
            Some("a norm over all heads together")
        }
        (Kind::Heads(_), Ffn::Mixture(_)) => Some("routed experts"),
        (Kind::Heads(_), Ffn::Dense(_)) => None,
    }
}

/// Whether a norm is over more than one head.
fn spans_heads(norm: &HeadNorm, width: usize) -> bool {
    matches!(norm, HeadNorm::Weighted(vector) if vector.length != width)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: Tier = Tier::Gpu(0);
    const OTHER: Tier = Tier::Gpu(1);

    #[test]
    fn a_model_is_on_one_gpu_with_all_its_layers_or_on_none() {
        use Tier::{Disk, Ram};
        let (cpu, gpu) = (Device::Cpu, Device::Gpu(0));
        let whole = |layers, output| Ok(Route { layers, output });
        let matrix = |unit| Obstacle::Matrix(UnitId(unit));
        for (matrices, output, cache, expected) in [
            ([Ram, Disk, Ram], Ram, Ram, whole(cpu, cpu)),
            ([GPU, GPU, GPU], GPU, GPU, whole(gpu, gpu)),
            ([GPU, GPU, GPU], Ram, GPU, whole(gpu, cpu)),
            ([GPU, GPU, GPU], Disk, GPU, whole(gpu, cpu)),
            ([OTHER, OTHER, OTHER], OTHER, OTHER, whole(Device::Gpu(1), Device::Gpu(1))),
            ([GPU, Ram, GPU], GPU, GPU, Err((GPU, matrix(1)))),
            ([Ram, Ram, GPU], GPU, GPU, Err((GPU, matrix(0)))),
            ([GPU, GPU, OTHER], GPU, GPU, Err((GPU, matrix(2)))),
            ([GPU, GPU, GPU], GPU, Ram, Err((GPU, Obstacle::Cache))),
            ([GPU, GPU, GPU], GPU, OTHER, Err((GPU, Obstacle::Cache))),
            ([GPU, GPU, GPU], OTHER, GPU, Err((OTHER, Obstacle::Output))),
            ([Ram, Ram, Ram], GPU, Ram, Err((GPU, Obstacle::Output))),
            ([Ram, Ram, Ram], Ram, GPU, Err((GPU, Obstacle::Cache))),
        ] {
            let units: Vec<_> = (0..).map(UnitId).zip(matrices).collect();
            assert_eq!(Route::of(&units, output, cache), expected, "{matrices:?} {output} {cache}");
        }
    }
}
