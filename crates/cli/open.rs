//! From arguments to a running model: the main path, in the order in which things happen.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use engine::{Engine, EngineError, Isa};
use kernels::memory::{ByteSource, FileSource};
use plan::hardware::Build;
use plan::profile::Overrides;
use plan::{Bytes, ExpertUse, Inventory, Machine, Plan, Profile, Tier};

use crate::args::{ModelArgs, PlacementArgs};
use crate::failure::{NoWeights, Strict, Usage};
use crate::signals::Signals;
use crate::text::{ChatTemplate, TextError, Tokenizer};
use crate::{fetch, input, show};

/// A model under a plan, nothing loaded.
pub(crate) struct Planned {
    pub(crate) model: gguf::Model,
    pub(crate) machine: Machine,
    pub(crate) plan: Plan,
    /// The counts of experts that it was made with.
    pub(crate) experts: Option<ExpertUse>,
}

/// A model that this build can run under its plan, nothing loaded yet.
pub(crate) struct Ready {
    planned: Planned,
    pub(crate) tokenizer: Tokenizer,
    signals: Signals,
}

/// A model's chat template. That it has none, or a broken one, matters only to those who ask.
pub(crate) type Template = Result<ChatTemplate, TextError>;

/// A model that can be asked.
pub(crate) struct Running {
    pub(crate) engine: Engine,
    /// Its header, less the vocabulary.
    pub(crate) model: gguf::Model,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) machine: Machine,
    /// The counts of experts that its plan was made with.
    pub(crate) experts: Option<ExpertUse>,
    pub(crate) signals: Signals,
}

/// Reads the model's header.
pub(crate) fn header(args: &ModelArgs) -> anyhow::Result<gguf::Model> {
    Ok(gguf::open(&path(args)?)?)
}

/// Reads the model's header, and fetches nothing else of a model on the hub.
pub(crate) fn header_alone(args: &ModelArgs) -> anyhow::Result<gguf::Model> {
    if fetch::is_hub_name(&args.model) { fetch::header(&args.model, args.offline) } else { header(args) }
}

/// The model's file, fetched if it is named on the hub.
fn path(args: &ModelArgs) -> anyhow::Result<PathBuf> {
    if fetch::is_hub_name(&args.model) {
        return Ok(fetch::resolve(&args.model, args.offline)?);
    }
    Ok(PathBuf::from(&args.model))
}

/// Plans the model on this machine: what the user allows, what the model is, what this machine has.
pub(crate) fn planned(model: gguf::Model, placement: &PlacementArgs) -> anyhow::Result<Planned> {
    planned_on(model, placement, None, None)
}

/// [`planned`], with counts of how often each expert was chosen, and on another machine than this one.
pub(crate) fn planned_on(
    model: gguf::Model,
    placement: &PlacementArgs,
    experts: Option<ExpertUse>,
    build: Option<&Build>,
) -> anyhow::Result<Planned> {
    has_weights(&model)?;
    let machine = machine_for(&model, build);
    let made = |machine: &Machine| -> anyhow::Result<Plan> {
        let profile = profile_for(placement, machine)?;
        Ok(plan::plan_with(&profile, &model.inventory, machine, experts.as_ref())?)
    };
    let mut plan = made(&machine)?;
    if let Err(error @ EngineError::NotOnGpu { .. }) = engine::check_plan(&model, &plan) {
        let why = first_line(&error);
        // What nobody asked for is not worth a refusal.
        if placement.leaves_gpus_open() {
            plan = made(&Machine { gpus: Vec::new(), ..machine.clone() })?;
        }
        plan.notes.push(why);
    }
    let shows_gpus = build.is_none() && placement.profile.is_none() && placement.gpu_mem != Some(Bytes::ZERO);
    if shows_gpus {
        plan.notes.extend(unused_gpus());
    }
    plan.notes.extend(not_runnable(&model));
    if placement.strict {
        as_asked(&plan, &machine)?;
    }
    // Where there is no card, none was asked for.
    if shows_gpus {
        plan.notes.extend(no_driver());
    }
    let at_hub = |file: &plan::ModelFile| fetch::is_hub_name(&file.path);
    if build.is_none() && model.inventory.files.first().is_some_and(at_hub) {
        plan.notes
            .push("its weights are not here yet: `plimsoll pull` fetches them, and so does `plimsoll run`".to_owned());
    }
    // Like a forecast by estimates, which follows from it, this is no difference from what was asked.
    if let (None, Some(cache)) = (build, cache_folder()) {
        plan.notes.extend(probe::damage(&cache).map(|damage| damage.to_string().replace("\n\nhint:", ";")));
    }
    Ok(Planned { model, machine, plan, experts })
}

/// A file with a vocabulary only can be read, and neither planned nor run.
pub(crate) fn has_weights(model: &gguf::Model) -> Result<(), NoWeights> {
    if model.inventory.tensors.is_empty() {
        let file = model.inventory.files.first().map_or(&model.inventory.name, |file| &file.path);
        return Err(NoWeights(file.clone()));
    }
    Ok(())
}

/// A note where a model can be planned, and this version cannot compute it.
fn not_runnable(model: &gguf::Model) -> Option<String> {
    let error = engine::check_model(model).err()?;
    Some(format!("this version cannot run it yet: {}", first_line(&error)))
}

/// What an error says, without its hint.
fn first_line(error: &EngineError) -> String {
    let error = error.to_string();
    let mut lines = error.lines();
    let mut what = lines.next().unwrap_or_default().to_owned();
    // A list begins on the next line: its first entry is enough.
    if let (true, Some(first)) = (what.ends_with(':'), lines.next()) {
        what.push(' ');
        what.push_str(first.trim());
    }
    what
}

/// Refuses a plan that differs from what was asked. A forecast from estimates is no difference.
fn as_asked(plan: &Plan, machine: &Machine) -> Result<(), Strict> {
    let estimates = plan::forecast_notes(plan, machine);
    let differences: Vec<&str> =
        plan.notes.iter().filter(|note| !estimates.contains(note)).map(String::as_str).collect();
    if differences.is_empty() { Ok(()) } else { Err(Strict(differences.join("\n  "))) }
}

/// GPUs that are there and cannot be used, with the reason.
pub(crate) fn unused_gpus() -> Vec<String> {
    #[cfg(not(feature = "cuda"))]
    let trouble = Some("this build has no code for it (feature cuda)".to_owned());
    #[cfg(feature = "cuda")]
    let trouble = probe::driver_trouble();
    let Some(trouble) = trouble else { return Vec::new() };
    probe::gpu_names().iter().map(|name| format!("{name}: found, not used: {trouble}")).collect()
}

/// Why a build for GPUs uses none, on a machine that shows none.
#[cfg(feature = "cuda")]
fn no_driver() -> Option<String> {
    let trouble = probe::driver_trouble().filter(|_| probe::gpu_names().is_empty());
    trouble.map(|why| format!("no GPU is used: {why}"))
}

#[cfg(not(feature = "cuda"))]
const fn no_driver() -> Option<String> {
    None
}

/// Reads and checks everything that can be checked before memory is filled; with counts of how often each expert was chosen, or none.
pub(crate) fn ready(
    args: &ModelArgs,
    placement: &PlacementArgs,
    experts: Option<ExpertUse>,
) -> anyhow::Result<(Ready, Template)> {
    let signals = Signals::install()?;
    let model = header(args)?;
    has_weights(&model)?;
    engine::check_model(&model)?;
    let mut planned = planned_on(model, placement, experts, None)?;
    engine::check_plan(&planned.model, &planned.plan)?;
    exactly_on_cpu(&planned.plan)?;
    let metadata = &mut planned.model.metadata;
    let tokenizer = Tokenizer::from_metadata(metadata)?;
    let template = ChatTemplate::from_metadata(metadata);
    // The tokenizer keeps its own packed copy, and the ceiling of RAM has room for one.
    metadata.forget(|key| key.starts_with("tokenizer."));
    Ok((Ready { planned, tokenizer, signals }, template))
}

/// [`ready`] and [`Ready::start`], for those who have nothing to ask in between.
pub(crate) fn running(
    args: &ModelArgs,
    placement: &PlacementArgs,
    experts: Option<ExpertUse>,
) -> anyhow::Result<Running> {
    ready(args, placement, experts)?.0.start()
}

impl Ready {
    /// Refuses a prompt that the context cannot hold, before loading takes its time.
    pub(crate) fn check_room(&self, prompt_tokens: usize) -> Result<(), EngineError> {
        let capacity = self.planned.plan.kv.tokens as usize;
        if prompt_tokens <= capacity {
            return Ok(());
        }
        Err(EngineError::ContextFull { position: 0, asked: prompt_tokens, capacity })
    }

    /// What the model holds.
    pub(crate) fn inventory(&self) -> &Inventory {
        &self.planned.model.inventory
    }

    /// Fills the memory that the plan counts: the one place where that happens.
    pub(crate) fn start(self) -> anyhow::Result<Running> {
        let Self { planned: Planned { model, machine, plan, experts }, tokenizer, mut signals } = self;
        // Nothing falls back silently: whoever starts an engine hears what is not as asked.
        for note in &plan.notes {
            show::note(&format!("note: {note}"));
        }
        let files = model.inventory.files.iter().map(|file| source(Path::new(&file.path)));
        let sources = files.collect::<anyhow::Result<Vec<_>>>()?;
        let bar = show::Progress::bytes("loading", Bytes::ZERO);
        let mut progress = |done, total| bar.at(done, total);
        let mut engine = Engine::open(&model, plan, isa()?, sources, &mut progress)?;
        for fallback in engine.fallbacks() {
            show::note(&format!("note: {fallback}"));
        }
        engine.compute_exactly(exactly()?);
        signals.raise(engine.interrupt())?;
        Ok(Running { engine, model, tokenizer, machine, experts, signals })
    }
}

/// A model's file, to be read.
pub(crate) fn source(path: &Path) -> anyhow::Result<Arc<dyn ByteSource>> {
    let file = FileSource::open(path).with_context(|| path.display().to_string())?;
    Ok(Arc::new(file))
}

/// Refuses activations in 32-bit floats where a GPU computes: quantized weights meet 8 bits there.
fn exactly_on_cpu(plan: &Plan) -> anyhow::Result<()> {
    let on_gpu = |tier: &Tier| matches!(tier, Tier::Gpu(_));
    match plan.placements.iter().map(|placement| placement.home).find(on_gpu) {
        Some(gpu) if exactly()? => {
            let message = format!("PLIMSOLL_ACTIVATIONS=f32 is for the CPU, and the plan uses {gpu}");
            Err(Usage(format!("{message}\n\nhint: leave the GPU out: --gpu-mem 0")).into())
        }
        _ => Ok(()),
    }
}

/// This machine, or one that somebody names.
pub(crate) fn machine_for(model: &gguf::Model, build: Option<&Build>) -> Machine {
    build.map_or_else(|| machine(model), |build| build.machine(&model.inventory))
}

/// What the user allows and asks, flags included.
pub(crate) fn profile_for(placement: &PlacementArgs, machine: &Machine) -> anyhow::Result<Profile> {
    Ok(profile(placement, machine)?.with(&overrides(placement))?)
}

/// The profile that the user wrote, or the automatic one.
fn profile(placement: &PlacementArgs, machine: &Machine) -> anyhow::Result<Profile> {
    match &placement.profile {
        None => Ok(Profile::automatic(machine)),
        Some(path) => read_profile(path),
    }
}

/// What is read of a profile. Parsing allows less, and says how much; this only keeps a device from filling memory.
const PROFILE_MAX: Bytes = Bytes(4 << 20);

/// Reads and checks a profile.
pub(crate) fn read_profile(path: &Path) -> anyhow::Result<Profile> {
    let text = input::read_text(path, PROFILE_MAX, "the profile")?;
    Ok(plan::profile::parse(&text, &path.to_string_lossy())?)
}

/// This machine, as seen from the drive that holds the model, or will hold it.
pub(crate) fn machine(model: &gguf::Model) -> Machine {
    let folder = model.inventory.files.first().map_or_else(|| PathBuf::from("."), |file| fetch::home(&file.path));
    probe::machine(&folder, cache_folder().as_deref())
}

/// Where measured rates are kept: `XDG_CACHE_HOME/plimsoll`, else `~/.cache/plimsoll`.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
    cache.map(|cache| cache.join("plimsoll"))
}

/// Whether `PLIMSOLL_ACTIVATIONS` asks that activations meet quantized weights in 32-bit floats: to see what rounding them costs.
fn exactly() -> anyhow::Result<bool> {
    match std::env::var("PLIMSOLL_ACTIVATIONS").as_deref() {
        Ok("f32") => Ok(true),
        Ok("" | "int8") | Err(_) => Ok(false),
        Ok(other) => {
            let hint = "hint: int8 (which is what is done without it) and f32 are";
            Err(Usage(format!("PLIMSOLL_ACTIVATIONS: {other:?} is no form of activations\n\n{hint}")).into())
        }
    }
}

/// The instruction set that `PLIMSOLL_ISA` names, else the best one of this processor.
pub(crate) fn isa() -> anyhow::Result<Isa> {
    match std::env::var("PLIMSOLL_ISA") {
        Ok(name) if !name.is_empty() => {
            Isa::named(&name).map_err(|error| Usage(format!("PLIMSOLL_ISA: {error}")).into())
        }
        _ => Ok(Isa::best()),
    }
}

fn overrides(args: &PlacementArgs) -> Overrides {
    Overrides {
        ram: args.ram,
        gpu_mem: args.gpu_mem,
        context: args.ctx_size,
        k_type: args.cache_type_k,
        v_type: args.cache_type_v,
        threads: args.threads,
        micro_batch: args.ubatch_size,
        logits: Some(args.logits),
        gpu_layers: args.n_gpu_layers,
        cpu_moe_layers: if args.cpu_moe { Some(Overrides::ALL_LAYERS) } else { args.n_cpu_moe },
        override_tensors: args.override_tensor.clone(),
    }
}

#[cfg(test)]
mod tests {
    use plan::{Bytes, Source};

    use super::*;
    use crate::failure::{Exit, exit, message};

    fn model() -> gguf::Model {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama-rope3-tied");
        gguf::open(&folder.join("model-bf16.gguf")).expect("a model")
    }

    fn placement() -> PlacementArgs {
        PlacementArgs { ram: Some(Bytes(1 << 30)), gpu_mem: Some(Bytes::ZERO), ..PlacementArgs::default() }
    }

    #[test]
    fn a_vocabulary_alone_is_a_fault_of_the_model() {
        let mut model = model();
        model.inventory.tensors.clear();
        model.inventory.units.clear();
        let error = planned(model, &placement()).err().expect("a refusal");
        assert_eq!(exit(&error), Exit::Model);
        let text = message(&error);
        assert!(text.contains("holds a vocabulary and no weights") && text.contains("\n\nhint: "), "{text}");
    }

    #[test]
    fn what_cannot_be_run_is_planned_with_a_note() {
        assert_eq!(not_runnable(&model()), None);
        let mut model = model();
        let tensor = model.inventory.tensors.iter_mut().find(|tensor| tensor.name == "blk.0.attn_q.weight");
        tensor.expect("a tensor").name = "blk.0.attn_x.weight".to_owned();
        let notes = planned(model, &placement()).expect("a plan").plan.notes;
        let note = notes.last().expect("a note");
        assert!(note.starts_with("this version cannot run it yet: llama model"), "{note}");
        assert!(note.contains("blk.0.attn_") && !note.contains('\n'), "{note}");
    }

    #[test]
    fn profiles_are_read_within_bounds_and_named_where_they_are_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("mine.yaml");
        let error = read_profile(&path).expect_err("no file");
        assert_eq!(exit(&error), Exit::Io);
        assert!(message(&error).contains("mine.yaml") && message(&error).contains("\n\nhint: "), "{error:#}");
        std::fs::write(&path, vec![b'#'; PROFILE_MAX.0 as usize + 1]).expect("a file");
        let error = read_profile(&path).expect_err("too long");
        assert_eq!(exit(&error), Exit::Usage);
        assert!(message(&error).contains("more than 4.00 MiB"), "{error:#}");
    }

    #[test]
    fn strict_minds_differences_and_no_estimates() {
        let Planned { mut plan, mut machine, .. } = planned(model(), &placement()).expect("a plan");
        machine.ram_read.source = Source::Estimated;
        plan.notes = plan::forecast_notes(&plan, &machine);
        assert!(!plan.notes.is_empty());
        assert!(as_asked(&plan, &machine).is_ok());
        plan.notes.push("half of it".to_owned());
        let error = as_asked(&plan, &machine).expect_err("a refusal").to_string();
        assert!(error.contains("asked:\n  half of it\n\nhint"), "{error}");
    }
}
