//! What a token will cost, before anything is loaded.
//!
//! A model is a row of stages: its layers, and after them the output. Units of a stage wait for those of the stage
//! before. Inside a stage the CPU computes while the ring fills; across stages it does not matter how far the ring has
//! run ahead, for it is small beside a layer. Hence, for decode,
//!
//! ```text
//! seconds per token = Σ stages  max( disk bytes / disk rate , (ram + disk bytes) / ram rate , operations / CPU rate )
//!                             +  max( gpu bytes / gpu rate , operations there / its rate )
//! operations = 2 × weights  +  2 × heads × widths × positions  (attention)
//! ```
//!
//! where routed experts count by the share that one token uses, and of an embedding only a row is read. Decode is
//! forecast at [`depth`], a short one: the keys and values of so many positions are read where the cache lives, and
//! attended to there. `widths` are those of a head's key and value together; a layer with latents of rank r and t rotated
//! numbers works in their space, where a key has r + t numbers and a value r (DeepSeek-V2, arXiv 2405.04434, section
//! 2.1). RAM's rate is the one that the CPU kernels reach with all cores, scaled down where
//! fewer threads are asked for. For a prompt of one micro-batch of m tokens,
//!
//! ```text
//! seconds = Σ stages  max( disk bytes / disk rate , bytes / ram rate , operations / CPU rate , streamed bytes / link )
//!                   +  max( gpu bytes / gpu rate , operations there / its rate )
//! operations = 2 × weights × m  +  heads × widths × m²  (causal attention, half of all pairs)
//! ```
//!
//! where m tokens touch `1 − (1 − p)^m` of an expert that is chosen by a share p of them, the output is computed for the
//! last token only, and latents are expanded to keys and values of every head. Without counts p is `used / experts` for
//! each; with them it is the share that was counted, with half a choice more for each expert
//! ([`ExpertUse::likely_share`](crate::ExpertUse::likely_share)). Operations with what is streamed to a GPU are not counted:
//! its link is the limit until a batch is very large. Windows and indexers, which make attention cheaper, are not counted either.

use crate::traffic::Traffic;
use crate::{Device, Forecast, Gpu, Inventory, Machine, ModelShape, Plan, Role, Source, Tier, cost};

/// Tokens in the cache when decode is forecast.
const DEPTH: u32 = 512;

/// Tokens in the cache when a plan's decode is forecast: 512, or the whole context where it is shorter.
pub(crate) fn depth(plan: &Plan) -> u32 {
    plan.kv.tokens.min(DEPTH)
}

/// A forecast of nothing, to be replaced.
pub(crate) const NONE: Forecast = Forecast {
    prompt_tokens_per_s: 0.0,
    decode_tokens_per_s: 0.0,
    time_to_first_token_s: 0.0,
    load_s: 0.0,
    measured: false,
};

/// Rates of a machine, none of them zero.
struct Rates {
    ram: f64,
    disk: f64,
    operations: f64,
}

/// What the units of one stage cost.
#[derive(Clone, Copy, Default)]
struct Stage {
    disk_bytes: f64,
    cpu_bytes: f64,
    link_s: f64,
    gpu_s: f64,
    operations: f64,
}

impl Stage {
    fn seconds(&self, rates: &Rates) -> f64 {
        let cpu = (self.cpu_bytes / rates.ram).max(self.operations / rates.operations);
        cpu.max(self.disk_bytes / rates.disk).max(self.link_s) + self.gpu_s
    }
}

/// The forecast of a plan, and notes on every estimate behind it.
pub(crate) fn forecast(
    plan: &Plan,
    inventory: &Inventory,
    machine: &Machine,
    traffic: Traffic<'_>,
) -> (Forecast, Vec<String>) {
    let share = f64::from(plan.threads.min(machine.cores)) / f64::from(machine.cores.max(1));
    let rates = Rates {
        ram: (machine.ram_read.rate.0 * share).max(1.0),
        disk: machine.disk_read.rate.0.max(1.0),
        operations: (machine.cpu_ops_per_second * share).max(1.0),
    };
    let seconds = |pass: Pass| -> f64 {
        stages(plan, inventory, machine, traffic, pass).iter().map(|stage| stage.seconds(&rates)).sum()
    };
    let (decode_s, prompt_s) = (seconds(Pass::Decode), seconds(Pass::Prompt(plan.micro_batch)));
    let resident: f64 = inventory
        .units
        .iter()
        .zip(&plan.placements)
        .filter(|(_, placement)| placement.home != Tier::Disk)
        .map(|(unit, _)| unit.bytes.as_f64())
        .sum();
    let per_second = |tokens: f64, seconds: f64| if seconds > 0.0 { tokens / seconds } else { 0.0 };
    let forecast = Forecast {
        prompt_tokens_per_s: per_second(f64::from(plan.micro_batch), prompt_s),
        decode_tokens_per_s: per_second(1.0, decode_s),
        time_to_first_token_s: prompt_s,
        load_s: resident / rates.disk,
        measured: estimated_rates(plan, machine).is_empty(),
    };
    (forecast, forecast_notes(plan, machine))
}

/// Those of the plan's notes that are about its forecast alone: rates that nobody measured, or that were scaled down.
/// A plan that has no other notes does what was asked.
#[must_use]
pub fn forecast_notes(plan: &Plan, machine: &Machine) -> Vec<String> {
    let mut notes = Vec::new();
    let estimated = estimated_rates(plan, machine);
    if !estimated.is_empty() {
        let rates = estimated.join(", ");
        notes.push(format!("the forecast uses estimated rates of {rates}: `plimsoll probe` measures them"));
    }
    if plan.threads < machine.cores {
        notes.push(format!("the forecast scales rates of {} cores down to {} threads", machine.cores, plan.threads));
    }
    notes
}

/// The rates behind the plan's forecast that nobody measured.
fn estimated_rates(plan: &Plan, machine: &Machine) -> Vec<String> {
    let mut sources = vec![("RAM and CPU", machine.ram_read), ("the model's drive", machine.disk_read)];
    for tier in &plan.tiers {
        if let Tier::Gpu(number) = tier.tier
            && let Some(gpu) = machine.gpus.get(number as usize)
        {
            sources.extend([("GPU memory", gpu.read), ("the link to the GPU", gpu.link)]);
        }
    }
    let estimated = sources.iter().filter(|(_, rate)| rate.source == Source::Estimated);
    estimated.map(|(what, rate)| format!("{what} ({})", rate.rate)).collect()
}

#[derive(Clone, Copy)]
enum Pass {
    Decode,
    Prompt(u32),
}

fn stages(plan: &Plan, inventory: &Inventory, machine: &Machine, traffic: Traffic<'_>, pass: Pass) -> Vec<Stage> {
    let layers = inventory.shape.layers as usize;
    let tokens = match pass {
        Pass::Decode => 1,
        Pass::Prompt(tokens) => tokens,
    };
    let mut stages = vec![Stage::default(); layers + 1];
    for (unit, placement) in inventory.units.iter().zip(&plan.placements) {
        let stage = unit.layer.map_or(layers, |layer| (layer as usize).min(layers));
        // After a prompt only the last token's logits are wanted.
        let tokens = if stage == layers && unit.role != Role::Embedding { 1 } else { tokens };
        let device = match pass {
            Pass::Decode => placement.decode,
            Pass::Prompt(_) => placement.prefill,
        };
        let bytes = unit.bytes.as_f64() * traffic.touched(unit, tokens);
        let stage = &mut stages[stage];
        if placement.home == Tier::Disk {
            stage.disk_bytes += bytes;
        }
        match device {
            Device::Cpu => {
                stage.cpu_bytes += bytes;
                stage.operations += traffic.operations(unit, tokens);
            }
            Device::Gpu(number) => {
                let Some(gpu) = machine.gpus.get(number as usize) else { continue };
                if matches!(placement.home, Tier::Gpu(_)) {
                    let computing = gpu_seconds(gpu, traffic.operations(unit, tokens));
                    stage.gpu_s += (bytes / gpu.read.rate.0.max(1.0)).max(computing);
                } else {
                    stage.link_s += bytes / gpu.link.rate.0.max(1.0);
                }
            }
        }
    }
    for (layer, stage) in stages[..layers].iter_mut().enumerate() {
        attend(stage, plan, &inventory.shape, machine, layer, pass);
    }
    stages
}

/// Seconds of operations on a GPU, where its rate is known.
fn gpu_seconds(gpu: &Gpu, operations: f64) -> f64 {
    if gpu.ops_per_second > 0.0 { operations / gpu.ops_per_second } else { 0.0 }
}

/// Adds a layer's attention to its stage: what it reads of the cache, and its operations.
fn attend(stage: &mut Stage, plan: &Plan, shape: &ModelShape, machine: &Machine, layer: usize, pass: Pass) {
    let numbers = |(k, v): &(u32, u32)| f64::from(*k) + f64::from(*v);
    let own = shape.kv_per_token.get(layer).map_or(0.0, numbers);
    if own == 0.0 {
        return;
    }
    let (row_k, row_v) = (f64::from(shape.kv_row.0), f64::from(shape.kv_row.1));
    let heads = f64::from(shape.heads);
    let (bytes, operations) = match pass {
        Pass::Decode => {
            // The cache's layers differ by the numbers that they keep.
            let all: f64 = shape.kv_per_token.iter().map(numbers).sum();
            let cache = cost::kv_cache(shape, depth(plan), plan.kv.k_type, plan.kv.v_type);
            let widths = shape.latent.map_or(row_k + row_v, |latent| row_k + f64::from(latent.rank));
            (cache.as_f64() * own / all, 2.0 * heads * widths * f64::from(depth(plan)))
        }
        Pass::Prompt(tokens) => {
            let expanded = shape.latent.map(|latent| f64::from(latent.key) + f64::from(latent.value));
            (0.0, heads * expanded.unwrap_or(row_k + row_v) * f64::from(tokens).powi(2))
        }
    };
    match plan.kv.homes.get(layer).copied().unwrap_or(Tier::Ram) {
        Tier::Gpu(number) => {
            if let Some(gpu) = machine.gpus.get(number as usize) {
                stage.gpu_s += (bytes / gpu.read.rate.0.max(1.0)).max(gpu_seconds(gpu, operations));
            }
        }
        Tier::Ram | Tier::Disk => {
            stage.cpu_bytes += bytes;
            stage.operations += operations;
        }
    }
}
