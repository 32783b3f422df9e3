//! What is refused before anything is loaded, and logits that make no sense.

use kernels::cpu;
use kernels::memory::Buffer;
use plan::cost::HostTokens;
use plan::{Inventory, Plan, Tier};

use crate::EngineError;
use crate::route::Route;
use crate::scratch::Scratch;
use crate::spec::Spec;

type Result<T> = std::result::Result<T, EngineError>;

/// Refuses logits that are infinite or no numbers.
pub(crate) fn check_finite(logits: &[f32], position: usize) -> Result<()> {
    if logits.chunks(RUN).all(is_finite) { Ok(()) } else { Err(EngineError::NotFinite { position }) }
}

/// Copies logits, and refuses them where they are infinite or no numbers.
pub(crate) fn copy_finite(logits: &[f32], to: &mut [f32], position: usize) -> Result<()> {
    let mut runs = logits.chunks(RUN).zip(to.chunks_mut(RUN));
    let whole = runs.all(|(run, to)| {
        to.copy_from_slice(run);
        is_finite(run)
    });
    if whole { Ok(()) } else { Err(EngineError::NotFinite { position }) }
}

/// Logits that are looked at together, within which nothing stops early: there are a quarter of a million for each token.
const RUN: usize = 1024;

fn is_finite(run: &[f32]) -> bool {
    run.iter().fold(true, |finite, logit| finite & logit.is_finite())
}

/// Refuses activations that the plan has no room for, or that the system will not give: candle would abort.
pub(crate) fn check_activations(plan: &Plan, spec: &Spec, inventory: &Inventory) -> Result<()> {
    let of = |tokens| Scratch::bytes_for(spec, &inventory.shape, plan, tokens);
    let needed = of(HostTokens::of(plan, inventory));
    let loads = plan.tier(Tier::Ram).into_iter().flat_map(|tier| &tier.loads);
    let planned = loads.filter(|load| load.what == "activations").map(|load| load.bytes).next();
    if let Some(planned) = planned.filter(|planned| *planned < needed) {
        return Err(EngineError::PlanTooSmall { what: "activations", planned, needed });
    }
    let bytes = of(HostTokens::all(plan.micro_batch));
    let trial = Buffer::try_new(bytes.0 as usize).map(drop);
    trial.map_err(|source| EngineError::Memory { what: "activations", bytes, source })
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use plan::cost::{self, Widths};
    use plan::{Bytes, BytesPerSecond, Calibration, Machine, Rate, Source};

    use super::*;

    #[test]
    fn plans_count_what_each_part_of_a_pass_uses() {
        let rate = Rate { rate: BytesPerSecond(1e9), source: Source::Estimated };
        let machine = Machine {
            cpu: "test".into(),
            cores: 2,
            ram_total: Bytes::GIB,
            ram_available: Bytes::GIB,
            ram_read: rate,
            cpu_ops_per_second: 1e9,
            disk_read: rate,
            disk_reads: plan::Reads::USUAL,
            disk_beside: 1.0,
            gpus: Vec::new(),
            processor: None,
            calibration: Calibration::NONE,
        };
        let text =
            "version: 1\ntiers: { ram: { memory: 900MiB } }\ncontext: { tokens: 64 }\nprefill: { micro_batch: 64 }\n";
        let profile = plan::profile::parse(text, "p.yaml").unwrap();
        let files = |folder: &Path| folder.read_dir().into_iter().flatten().map(|entry| entry.unwrap().path());
        let folders = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures"));
        let mut models = 0;
        for path in
            folders.flat_map(|folder| files(&folder)).filter(|path| path.extension().is_some_and(|e| e == "gguf"))
        {
            let model = gguf::open(&path).unwrap();
            let (spec, inventory) = (check(&model, 64).unwrap(), &model.inventory);
            let plan = plan::plan(&profile, inventory, &machine).unwrap();
            for (attention, ffn) in [(64, 64), (64, 0), (0, 64), (0, 0), (7, 64), (64, 3)] {
                let tokens = HostTokens { pass: 64, attention, ffn, away: 0 };
                let used = Scratch::bytes_for(&spec, &inventory.shape, &plan, tokens);
                let widths = Widths::of(inventory);
                let counted = cost::activations(&widths, tokens, plan.threads, plan.kv.tokens, plan.logits);
                assert!(used <= counted, "{}: {used} of {counted} for {tokens:?}", path.display());
            }
            models += 1;
        }
        assert!(models > 12, "{models} fixtures");
    }
}
