//! What a token will cost, before anything is loaded.
//!
//! A model is a row of stages: its layers, and after them the output. Units of a stage wait for those of the stage
//! before. Inside a stage devices compute while the ring fills; across stages it does not matter how far the ring has
//! run ahead, for it is small beside a layer. Inside a layer attention comes before the feed-forward part, each on its device; of a
//! mixture, routed experts outside a GPU's memory are computed by the processor beside what the GPU has of it. Hence, for decode,
//!
//! ```text
//! seconds per token = Σ stages  max( disk , cpu + gpu + max( cpu beside , gpu beside , fetch ) + crossings )
//! disk  =  min( bytes / rate  +  cpu × ( 1 − share ) , bytes / rate / share )      where beside busy cores that share of the drive's rate is left
//! cpu  =  Σ units product  +  attention  +  vectors      each by what its kernels were measured to do: see [`processor`](crate::processor)
//! fetch       =  max( copied bytes / link + gpu , (RAM's bytes of both) / ( 1.1 × RAM's rate with all cores ) )
//! crossings  +=  3 × copied experts × 1.7 × seconds of a launch                    the processor asks for copies before its own experts
//! gpu  =  max( Σ matrices ( start + max( bytes / rate , operations / rate ) )  +  Σ steps , kernels × 1.7 × seconds of a launch )
//!         where one launch replays a run of layers the first of the two; start, rate and steps by what kernels were measured to do: see [`card`](crate::card)
//! steps  =  max( Σ norms, heads, attention, rounding, gates, choices , numbers that they move × 8 bytes × tokens / gpu rate )
//! operations = 2 × weights  +  2 × heads × widths × positions  (attention)
//! crossing   = its latency  +  4 × embedding × tokens / link
//! ```
//!
//! where routed experts count by the share that one token uses, and of an embedding only a row is read. There is a crossing wherever a
//! block's device is not that of the block before, two for each mixture with experts on both sides, and two for each matrix that a GPU's block
//! has elsewhere. A plan's decode is
//! forecast at [`depth`], a short one: the keys and values of so many positions are read where a layer's cache lives, and
//! attended to there. `widths` are those of a head's key and value together; a layer with latents of rank r and t rotated
//! numbers works in their space, where a key has r + t numbers and a value r (DeepSeek-V2, arXiv 2405.04434, section
//! 2.1). Of the experts that a token chooses and no GPU holds, a plan has as many copied to one (fetch) as make a token fastest; the processor
//! has the others. Where the GPU keeps experts that came, those that a token finds there (by a replay of a trace, else as likely as any) cost it their products alone. Of a machine whose kernels nobody measured a unit takes `max( bytes / RAM rate , operations / CPU rate )`, and so does attention;
//! both rates are those of all cores, scaled down where fewer threads are asked for. A prompt of one micro-batch of m tokens is the same with
//! other numbers; where its weights are streamed to a GPU, that computes all blocks:
//!
//! ```text
//! seconds = Σ stages  max( streamed bytes / link , disk bytes / disk rate , gpu + crossings , asking + cpu beside )
//! asking  = 11 × slots of the ring that come × 1.7 × seconds of a launch           before the processor computes experts that stay with it
//! operations = 2 × weights × m  +  heads × widths × m²  (causal attention, half of all pairs; after n others 2 × heads × widths × m × n more)
//! ```
//!
//! where m tokens touch `1 − (1 − p)^m` of an expert that is chosen by a share p of them, `p × m` by that share are the columns that a touched one
//! meets, the output is computed for the
//! last token only, and latents are expanded to keys and values of every head. Without counts p is `used / experts` for
//! each; with them it is the share that was counted, with half a choice more for each expert
//! ([`ExpertUse::likely_share`](crate::ExpertUse::likely_share)). Where experts change places and the counts come with a trace, a decoded token reads
//! from disk what the tiers' policy would have missed in it ([`replay`](crate::expert_cache::replay())); otherwise what lives there. A plan streams from the fewest tokens on for which that is the shorter
//! pass. Windows and indexers, which make attention cheaper, are not counted, nor are keys and values that pass the link. All seconds are
//! multiplied by what recorded runs took longer ([`Calibration`](crate::Calibration)).

mod kept;
mod layers;
mod passes;
mod streams;
mod terms;

use passes::{Pass, Passes};

pub use terms::{Cost, TERMS, Term};

use crate::blocks::{Block, block_of};
use crate::profile::{Decode, Prefill};
use crate::traffic::Traffic;
use crate::{Aim, Device, ExpertUse, Fetch, Forecast, Inventory, Lengths, Machine, Plan, Rate, Source, Tier};

/// Tokens in the cache when decode is forecast.
const DEPTH: u32 = 512;

/// Tokens in the cache when a plan's decode is forecast: 512, or the whole context where it is shorter.
pub(crate) fn depth(plan: &Plan) -> u32 {
    plan.kv.tokens.min(DEPTH)
}

/// How so many tokens of a prompt pass.
fn pass_of(stream_from: Option<u32>, first: u32, tokens: u32) -> Pass {
    match stream_from {
        _ if tokens == 1 => Pass::Decode { depth: first },
        Some(from) if tokens >= from => Pass::Streamed { first, tokens },
        _ => Pass::Prompt { first, tokens },
    }
}

/// A prompt of `tokens` tokens after `first` others, in the plan's micro-batches. What one costs grows evenly with those before it, so that full ones
/// cost as often what the middle one does.
fn prompt(passes: &Passes<'_>, plan: &Plan, first: u32, tokens: u32) -> Cost {
    let batch = plan.micro_batch.max(1);
    let (full, rest) = (tokens / batch, tokens % batch);
    let mut cost = Cost::default();
    if full > 0 {
        let middle = first + (full - 1) * batch / 2;
        cost += passes.cost(pass_of(plan.stream_from, middle, batch)).times(f64::from(full));
    }
    if rest > 0 {
        cost += passes.cost(pass_of(plan.stream_from, first + full * batch, rest));
    }
    cost
}

/// What runs of a plan will cost, for any lengths of prompt and answer.
pub struct Forecaster<'a> {
    passes: Passes<'a>,
    plan: &'a Plan,
}

impl<'a> Forecaster<'a> {
    /// Of this plan, which was made with these counts of experts or none.
    #[must_use]
    pub fn new(plan: &'a Plan, inventory: &'a Inventory, machine: &'a Machine, experts: Option<&'a ExpertUse>) -> Self {
        Self { passes: Passes::new(plan, inventory, machine, Traffic::new(inventory, experts)), plan }
    }

    /// A prompt of `tokens` tokens after `first` others, in micro-batches.
    #[must_use]
    pub fn prompt(&self, first: u32, tokens: u32) -> Cost {
        prompt(&self.passes, self.plan, first, tokens)
    }

    /// The decoding of `tokens` tokens after `first` others. What a token costs grows evenly with those before it.
    #[must_use]
    pub fn decode(&self, first: u32, tokens: u32) -> Cost {
        self.passes.cost(Pass::Decode { depth: first + tokens / 2 }).times(f64::from(tokens))
    }
}

/// A forecast of nothing, to be replaced.
pub(crate) const NONE: Forecast = Forecast {
    prompt_tokens_per_s: 0.0,
    decode_tokens_per_s: 0.0,
    time_to_first_token_s: 0.0,
    load_s: 0.0,
    measured: false,
};

/// Fills in the tokens from which prompts are streamed, if a ring is there for it, the experts that the processor computes in those, what is copied
/// to a GPU in decode, as far as that was not asked, and the forecast.
pub(crate) fn fill(
    plan: &mut Plan,
    inventory: &Inventory,
    machine: &Machine,
    traffic: Traffic<'_>,
    (prefill, decode): (&Prefill, &Decode),
) {
    let streamed: Vec<Device> = plan.placements.iter().map(|placement| placement.prefill).collect();
    kept::keep(plan, inventory, machine, traffic, prefill.cpu_experts.value().copied());
    let mut passes = Passes::new(plan, inventory, machine, traffic);
    let is_open = decode.fetch_experts.value().is_none();
    let fetch = plan.fetch.filter(|_| is_open).map(|fetch| Fetch { experts: passes.best_fetch(fetch), ..fetch });
    let come = passes.best_layers(decode.stream_layers.value().copied());
    let seconds = |pass| passes.cost(pass).seconds;
    let gains = |tokens| seconds(Pass::Streamed { first: 0, tokens }) < seconds(Pass::Prompt { first: 0, tokens });
    let streams = !plan.device_staging.is_empty();
    let stream_from = (streams && plan.micro_batch > 1 && gains(plan.micro_batch)).then(|| {
        // The smallest number that gains, for with more tokens a copy serves more of them. One token is decode, which has its own way.
        let (mut least, mut most) = (2, plan.micro_batch);
        while least < most {
            let middle = least.midpoint(most);
            if gains(middle) { most = middle } else { least = middle + 1 }
        }
        most
    });
    let batch = plan.micro_batch;
    let (decode_s, prompt_s) = (passes.decode_s(), seconds(pass_of(stream_from, 0, batch)));
    let resident: f64 = inventory
        .units
        .iter()
        .zip(&plan.placements)
        .filter(|(_, placement)| placement.home != Tier::Disk)
        .map(|(unit, _)| unit.bytes.as_f64())
        .sum();
    let per_second = |tokens: f64, seconds: f64| if seconds > 0.0 { tokens / seconds } else { 0.0 };
    let forecast = Forecast {
        prompt_tokens_per_s: per_second(f64::from(batch), prompt_s),
        decode_tokens_per_s: per_second(1.0, decode_s),
        time_to_first_token_s: prompt_s,
        load_s: resident / machine.disk_read.rate.0.max(1.0),
        measured: rates(plan, machine).iter().all(|(_, rate)| rate.source == Source::Measured),
    };
    (plan.stream_from, plan.forecast) = (stream_from, forecast);
    if stream_from.is_none() {
        plan.cpu_experts = 0;
        plan.placements.iter_mut().zip(streamed).for_each(|(placement, device)| placement.prefill = device);
    }
    plan.fetch = fetch.or(plan.fetch);
    for (placement, unit) in plan.placements.iter_mut().zip(&inventory.units) {
        let Some(Block::Ffn(layer)) = block_of(inventory, unit, traffic.tied()) else { continue };
        if come.binary_search(&layer).is_ok() {
            placement.decode = placement.prefill;
            plan.blocks[layer as usize].ffn = placement.prefill;
        }
    }
}

/// Seconds of a prompt in micro-batches and of an answer, as an aim counts them. Each token of the answer counts as one at [`depth`].
pub(crate) fn seconds(
    plan: &Plan,
    inventory: &Inventory,
    machine: &Machine,
    traffic: Traffic<'_>,
    aim: Aim,
    lengths: Lengths,
) -> f64 {
    let passes = Passes::new(plan, inventory, machine, traffic);
    let answer_s = f64::from(lengths.answer) * passes.decode_s();
    Lengths::seconds(aim, prompt(&passes, plan, 0, lengths.prompt).seconds, answer_s)
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
    if rates(plan, machine).iter().any(|(_, rate)| rate.source == Source::Catalogue) {
        notes.push("the forecast is for parts of the catalogue: what data sheets say, times what kernels reached of that elsewhere".to_owned());
    }
    if plan.threads < machine.cores {
        notes.push(format!("the forecast scales rates of {} cores down to {} threads", machine.cores, plan.threads));
    }
    notes
}

/// The rates behind the plan's forecast that are guesses.
fn estimated_rates(plan: &Plan, machine: &Machine) -> Vec<String> {
    let rates = rates(plan, machine).into_iter().filter(|(_, rate)| rate.source == Source::Estimated);
    rates.map(|(what, rate)| format!("{what} ({})", rate.rate)).collect()
}

/// The rates behind the plan's forecast.
fn rates(plan: &Plan, machine: &Machine) -> Vec<(&'static str, Rate)> {
    let mut rates = vec![("RAM and CPU", machine.ram_read), ("the model's drive", machine.disk_read)];
    for tier in &plan.tiers {
        if let Tier::Gpu(number) = tier.tier
            && let Some(gpu) = machine.gpus.get(number as usize)
        {
            rates.extend([("GPU memory", gpu.read), ("the link to the GPU", gpu.link)]);
        }
    }
    rates
}
