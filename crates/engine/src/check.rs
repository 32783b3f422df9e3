//! What is refused before anything is loaded, and logits that make no sense.

use kernels::cpu;
use kernels::memory::Buffer;
use plan::{Inventory, ModelShape, Plan, Tier};

use crate::EngineError;
use crate::route::Route;
use crate::scratch::Scratch;
use crate::spec::Spec;

type Result<T> = std::result::Result<T, EngineError>;

/// Refuses logits that are infinite or no numbers.
pub(crate) fn check_finite(logits: &[f32], position: usize) -> Result<()> {
    // By runs, within which nothing stops early: there are a quarter of a million for each token.
    let finite = |run: &[f32]| run.iter().fold(true, |finite, logit| finite & logit.is_finite());
    if logits.chunks(1024).all(finite) { Ok(()) } else { Err(EngineError::NotFinite { position }) }
}

/// Refuses activations that the plan has no room for, or that the system will not give: candle would abort.
pub(crate) fn check_activations(plan: &Plan, spec: &Spec, shape: &ModelShape) -> Result<()> {
    let needed = Scratch::bytes_for(spec, shape, plan);
    let loads = plan.tier(Tier::Ram).into_iter().flat_map(|tier| &tier.loads);
    let planned = loads.filter(|load| load.what == "activations").map(|load| load.bytes).next();
    if let Some(planned) = planned.filter(|planned| *planned < needed) {
        return Err(EngineError::PlanTooSmall { what: "activations", planned, needed });
    }
    Buffer::try_new(needed.0 as usize).map(drop).map_err(|source| EngineError::Memory {
        what: "activations",
        bytes: needed,
        source,
    })
}

/// Checks that the engine can run this model, without loading anything.
///
/// # Errors
/// Where the architecture or a tensor type is not supported, or tensors do not fit the architecture.
pub fn check_model(model: &gguf::Model) -> Result<()> {
    check(model, model.inventory.shape.context_train).map(|_| ())
}

/// Checks that the engine can run this plan of the model, without loading anything.
///
/// # Errors
/// As [`check_model`], and where the plan gives a GPU what this version does not compute there.
pub fn check_plan(model: &gguf::Model, plan: &Plan) -> Result<()> {
    let spec = check(model, plan.kv.tokens)?;
    check_route(plan, &spec, &model.inventory).map(|_| ())
}

/// The devices of a plan, which have kernels for all that they are given.
pub(crate) fn check_route(plan: &Plan, spec: &Spec, inventory: &Inventory) -> Result<Route> {
    let route = Route::new(plan, spec, inventory)?;
    check_types(plan, inventory)?;
    Ok(route)
}

/// Refuses matrices on a card that no kernel there multiplies with.
fn check_types(plan: &Plan, inventory: &Inventory) -> Result<()> {
    for (id, unit) in inventory.iter() {
        let (home, tensor) = (plan.home(id), inventory.tensor_of(unit));
        if matches!(home, Tier::Gpu(_)) && !plan::gpu::supports(tensor.quant) {
            let why = format!("{} is stored as {}, which has no kernel there yet", tensor.name, tensor.quant);
            return Err(EngineError::NotOnGpu { tier: home, why });
        }
    }
    Ok(())
}

/// The model as the engine would run it in a context of so many tokens.
pub(crate) fn check(model: &gguf::Model, context: u32) -> Result<Spec> {
    let unsupported = unsupported_types(&model.inventory);
    if !unsupported.is_empty() {
        let list = unsupported.iter().map(|found| format!("{} ({} tensors)", found.quant, found.tensors));
        return Err(EngineError::UnsupportedTypes { list: list.collect::<Vec<_>>().join(", ") });
    }
    Spec::build(&model.metadata, &model.inventory, context)
}

/// Tensor types of the model that no kernel computes. Tensors that are never run do not count.
#[must_use]
pub fn unsupported_types(inventory: &Inventory) -> Vec<gguf::Unsupported> {
    gguf::unsupported(inventory, cpu::supports)
}
