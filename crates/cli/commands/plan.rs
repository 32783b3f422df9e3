//! `plimsoll plan`: where every byte would live and what a token would cost, before anything is loaded.

use std::path::Path;

use plan::expert_cache::Policy;
use plan::hardware::Build;
use plan::report::HomeExperts;
use plan::{
    Bytes, Calibration, Compared, Device, ExpertUse, Fetch, Forecast, Inventory, KvPlan, LayerDevices, Logits, Machine,
    Placement, Plan, QuantType, Reads, Role, Scheme, Staging, TierPlan,
};
use serde::Serialize;

use crate::args::PlanArgs;
use crate::failure::Usage;
use crate::open::{self, Planned};
use crate::{expert_stats, hardware, output, show};

pub(super) fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let to_stdout = args.output.as_deref() == Some(Path::new("-"));
    if to_stdout && (args.json || args.explain.is_some()) {
        let text = "-o - writes the profile to stdout, where --json and --explain write too";
        return Err(Usage(format!("{text}\n\nhint: name a file for the profile, or leave out the other flag")).into());
    }
    if args.calibrate {
        show::note(&calibrate()?);
    }
    let experts = args.expert_stats.as_deref().map(expert_stats::read).transpose()?;
    let build = args.on.as_deref().map(hardware::build).transpose()?;
    let model = open::header_alone(&args.model)?;
    if args.compare {
        return compare(args, &model, experts.as_ref(), build.as_ref());
    }
    let Planned { model, plan, machine, experts } = open::planned_on(model, &args.placement, experts, build.as_ref())?;
    let inventory = &model.inventory;
    if to_stdout {
        return show::product(&plan::profile::to_yaml(&plan, inventory));
    }
    if let Some(path) = &args.output {
        show::note(&write(path, &plan::profile::to_yaml(&plan, inventory))?);
    }
    if args.json {
        let on = build.as_ref().map(|build| OnEntry {
            name: build.to_string(),
            price_usd: build.price_usd(),
            machine: &machine,
        });
        return show::json(&Document { on, ..Document::new(&plan, inventory, experts.as_ref()) });
    }
    if let Some(tensor) = &args.explain {
        return show::product(&plan::report::explain_on(&plan, inventory, &machine, tensor, experts.as_ref())?);
    }
    let profile = open::profile_for(&args.placement, &machine)?;
    let why = plan::report::why(&plan, &profile, inventory, &machine, experts.as_ref());
    if let Some(path) = &args.html {
        show::note(&write(path, &plan::report::html(&plan, inventory, &machine, &why))?);
    }
    let on = build.as_ref().map(|build| plan::report::on(build, &machine)).unwrap_or_default();
    show::product(&(on + &plan::report::text_with(&plan, inventory, experts.as_ref()) + &why.text()))
}

/// The choice beside simple placements.
fn compare(
    args: &PlanArgs,
    model: &gguf::Model,
    experts: Option<&ExpertUse>,
    build: Option<&Build>,
) -> anyhow::Result<()> {
    open::has_weights(model)?;
    let machine = open::machine_for(model, build);
    let profile = open::profile_for(&args.placement, &machine)?;
    let rows = plan::compare(&profile, &model.inventory, &machine, experts)?;
    if args.json {
        return show::json(&rows.iter().map(ComparedEntry::new).collect::<Vec<_>>());
    }
    let on = build.map(|build| plan::report::on(build, &machine)).unwrap_or_default();
    show::product(&(on + &plan::report::compare(&rows, &profile)))
}

/// One way of placing as JSON.
#[derive(Serialize)]
struct ComparedEntry<'a> {
    scheme: Scheme,
    chosen: bool,
    /// Of the conversation and by the aim that the profile names; none where it does not fit.
    seconds: Option<f64>,
    forecast: Option<&'a Forecast>,
    tiers: &'a [TierPlan],
}

impl<'a> ComparedEntry<'a> {
    fn new(row: &'a Compared) -> Self {
        let plan = row.plan.as_ref();
        Self {
            scheme: row.scheme,
            chosen: row.chosen,
            seconds: plan.map(|_| row.seconds),
            forecast: plan.map(|plan| &plan.forecast),
            tiers: plan.map_or(&[], |plan| &plan.tiers),
        }
    }
}

/// Corrects this machine's forecasts by recorded runs; says by how much.
fn calibrate() -> anyhow::Result<String> {
    let hint = "hint: `plimsoll probe` measures this machine; `plimsoll run` and `bench` record what they took";
    let none = || Usage(format!("there are no recorded runs to calibrate by\n\n{hint}"));
    let cache = open::cache_folder().ok_or_else(none)?;
    if let Some(damage) = probe::damage(&cache) {
        return Err(damage.into());
    }
    let runs = probe::runs(&cache)?;
    let found = Calibration::of(&runs).ok_or_else(none)?;
    probe::calibrate(&cache, found)?.ok_or_else(none)?;
    let Calibration { decode, prompt, disk, gpu } = found;
    let count = runs.len();
    Ok(format!(
        "calibrated by {count} phases of runs: the CPU takes {decode:.2} times its measured time in decode and {prompt:.2} in prompts, \
         the drive {disk:.2}, GPUs {gpu:.2}"
    ))
}

/// Writes a profile or a page; says so, and whether there was another one.
fn write(path: &Path, profile: &str) -> anyhow::Result<String> {
    let replaces = path.exists();
    output::write_whole(path, profile)?;
    let place = path.display();
    Ok(if replaces { format!("note: {place} was there and is replaced") } else { format!("wrote {place}") })
}

/// A plan as JSON: whatever the plan knows by number has its name beside it.
#[derive(Serialize)]
struct Document<'a> {
    model: ModelEntry<'a>,
    /// The machine of the catalogue that it is for; none where it is for this one.
    on: Option<OnEntry<'a>>,
    tiers: Vec<TierEntry<'a>>,
    placements: Vec<UnitEntry<'a>>,
    /// Routed experts by home; empty for dense models.
    experts: Vec<HomeExperts>,
    blocks: &'a [LayerDevices],
    output: Device,
    kv: &'a KvPlan,
    staging: &'a Staging,
    disk_reads: Reads,
    device_staging: &'a [(u32, Staging)],
    stream_from: Option<u32>,
    cpu_experts: u32,
    fetch: Option<Fetch>,
    foresee: u32,
    exchange: Policy,
    micro_batch: u32,
    threads: u32,
    logits: Logits,
    scheme: Scheme,
    forecast: &'a Forecast,
    notes: &'a [String],
}

/// Which model was planned.
#[derive(Serialize)]
struct ModelEntry<'a> {
    name: &'a str,
    /// The first file of a split set.
    file: &'a str,
    bytes: Bytes,
}

/// A machine that is not this one.
#[derive(Serialize)]
struct OnEntry<'a> {
    name: String,
    price_usd: Option<f64>,
    machine: &'a Machine,
}

/// A tier, also in the words of a run's stats.
#[derive(Serialize)]
struct TierEntry<'a> {
    name: String,
    limit_bytes: Option<Bytes>,
    read_bytes_per_token: Bytes,
    #[serde(flatten)]
    plan: &'a TierPlan,
}

/// A unit with its place.
#[derive(Serialize)]
struct UnitEntry<'a> {
    name: &'a str,
    role: Role,
    layer: Option<u32>,
    expert: Option<u32>,
    bytes: Bytes,
    quant: QuantType,
    #[serde(flatten)]
    placement: &'a Placement,
}

impl<'a> Document<'a> {
    fn new(plan: &'a Plan, inventory: &'a Inventory, counts: Option<&ExpertUse>) -> Self {
        let Plan { tiers, placements, blocks, kv, staging, device_staging, forecast, notes, .. } = plan;
        let tier = |plan: &'a TierPlan| TierEntry {
            name: plan.tier.to_string(),
            limit_bytes: plan.ceiling,
            read_bytes_per_token: plan.read_per_token,
            plan,
        };
        let units = inventory.units.iter().zip(placements).map(|(unit, placement)| {
            let tensor = inventory.tensor_of(unit);
            UnitEntry {
                name: &tensor.name,
                role: unit.role,
                layer: unit.layer,
                expert: unit.expert,
                bytes: unit.bytes,
                quant: tensor.quant,
                placement,
            }
        });
        let file = inventory.files.first().map_or("", |file| &file.path);
        Self {
            model: ModelEntry { name: &inventory.name, file, bytes: inventory.bytes() },
            on: None,
            tiers: tiers.iter().map(tier).collect(),
            placements: units.collect(),
            experts: plan::report::experts(plan, inventory, counts),
            blocks,
            output: plan.output,
            kv,
            staging,
            disk_reads: plan.disk_reads,
            device_staging,
            stream_from: plan.stream_from,
            cpu_experts: plan.cpu_experts,
            fetch: plan.fetch,
            foresee: plan.foresee,
            exchange: plan.exchange,
            micro_batch: plan.micro_batch,
            threads: plan.threads,
            logits: plan.logits,
            scheme: plan.scheme,
            forecast,
            notes,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;
    use crate::args::{Cli, Command, PlacementArgs};

    #[test]
    fn the_json_names_models_tiers_and_units() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama-rope3-tied/model-bf16.gguf");
        let model = gguf::open(&file).expect("a model");
        let placement =
            PlacementArgs { ram: Some(Bytes(1 << 30)), gpu_mem: Some(Bytes::ZERO), ..PlacementArgs::default() };
        let Planned { model, plan, .. } = open::planned(model, &placement).expect("a plan");
        let document = serde_json::to_value(Document::new(&plan, &model.inventory, None)).expect("JSON");
        assert_eq!(document["model"]["name"], json!(model.inventory.name));
        assert_eq!(document["model"]["file"], json!(file));
        let unit = document["placements"].as_array().expect("a list");
        let unit = unit.iter().find(|unit| unit["name"] == "blk.0.attn_q.weight").expect("a tensor");
        let expected = [("role", json!("attention")), ("layer", json!(0)), ("expert", json!(null))];
        for (key, value) in expected.into_iter().chain([("quant", json!("BF16")), ("home", json!("ram"))]) {
            assert_eq!(unit[key], value, "{key} in {unit}");
        }
        assert!(unit["bytes"].as_u64() > Some(0) && unit["reason"].is_string(), "{unit}");
        let tier = &document["tiers"][0];
        assert_eq!((&tier["name"], &tier["tier"]), (&json!("ram"), &json!("ram")));
        assert_eq!((&tier["limit_bytes"], &tier["ceiling"]), (&json!(1 << 30), &json!(1 << 30)));
        assert_eq!(tier["read_bytes_per_token"], tier["read_per_token"]);
        // What the plan says by itself is all there.
        let plain = serde_json::to_value(&plan).expect("JSON");
        for (key, value) in plain.as_object().expect("an object") {
            if key != "tiers" && key != "placements" {
                assert_eq!(document.get(key), Some(value), "{key}");
            }
        }
    }

    #[test]
    fn one_thing_at_a_time_goes_to_stdout() {
        for other in [&["--json"][..], &["--explain", "x"]] {
            let line = [&["plimsoll", "plan", "-m", "absent.gguf", "-o", "-"], other].concat();
            let Command::Plan(args) = Cli::try_parse_from(line).expect("a command line").command else {
                panic!("plan")
            };
            let error = run(&args).expect_err("a refusal").to_string();
            assert!(error.starts_with("-o - writes the profile to stdout"), "{error}");
        }
    }

    #[test]
    fn a_profile_that_is_replaced_is_said_to_be() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("mine.yaml");
        assert!(write(&path, "a").expect("written").starts_with("wrote "));
        assert!(write(&path, "b").expect("written").starts_with("note: "));
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), "b");
    }
}
