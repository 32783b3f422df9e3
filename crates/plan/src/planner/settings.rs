//! The search over what a profile leaves open: tokens of context, micro-batch, ring and streaming buffers.

use std::collections::BTreeMap;

use super::Planner;
use super::draft::Draft;
use super::refusal::{DoesNotFit, Refusal};
use super::rules::Wish;
use crate::{Bytes, KvPlan, KvType, Load, Staging, Tier, cost};

/// One choice of everything that the profile leaves open.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) kv: KvPlan,
    pub(super) micro_batch: u32,
    pub(super) staging: Staging,
    /// The GPUs that weights are streamed to in prefill.
    pub(super) stream: Vec<u32>,
    /// The GPU that chosen experts are copied to in decode.
    pub(super) fetch: Option<u32>,
}

/// What is fixed before settings are searched.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fixed {
    /// Tokens of context.
    pub(super) context: Option<u32>,
    /// Tokens of a micro-batch.
    pub(super) micro_batch: Option<u32>,
    /// How keys and values are kept.
    pub(super) kv: Option<KvType>,
    /// Whether no weights are streamed to a GPU.
    pub(super) still: bool,
    /// The one GPU that the planner fills by itself, of several.
    pub(super) alone: Option<u32>,
    /// Slots of the ring that weights are streamed through, where they are.
    pub(super) slots: Option<u32>,
    /// Experts that stay on the GPU which fetches them, where the profile leaves that open.
    pub(super) kept: u32,
}

const NO_RING: Staging = Staging { slot: Bytes::ZERO, slots: 0 };

/// The best settings that fit: the largest context and micro-batch that are not greedy, else the largest that fit.
pub(super) fn search(planner: &Planner) -> Result<Draft, Refusal> {
    let (contexts, batches) = (contexts(planner), micro_batches(planner));
    let mut fallback = None;
    for tokens in &contexts {
        for micro_batch in &batches {
            let draft = settle(planner, &planner.kv(*tokens), within(*micro_batch, *tokens));
            if draft.over.is_some() {
                continue;
            }
            if !greedy(planner, &draft) {
                return Ok(draft);
            }
            fallback.get_or_insert(draft);
        }
    }
    let (tokens, batch) = (*contexts.last().unwrap_or(&1), *batches.last().unwrap_or(&1));
    fallback.ok_or_else(|| refuse(planner, tokens, within(batch, tokens)))
}

/// A micro-batch that the context can hold: no prompt is longer, so more would only reserve memory.
pub(super) fn within(micro_batch: u32, tokens: u32) -> u32 {
    micro_batch.min(tokens)
}

/// Tokens of context to try, the most wanted first.
fn contexts(planner: &Planner) -> Vec<u32> {
    if let Some(tokens) = planner.way.fixed.context.or(planner.profile.context.tokens.value().copied()) {
        return vec![tokens];
    }
    let most = cost::CONTEXTS[0].min(planner.inventory.shape.context_train.max(1));
    let mut tokens = vec![most];
    tokens.extend(cost::CONTEXTS.into_iter().filter(|tokens| *tokens < most));
    tokens
}

/// Micro-batches to try, the most wanted first.
fn micro_batches(planner: &Planner) -> Vec<u32> {
    match planner.way.fixed.micro_batch.or(planner.profile.prefill.micro_batch.value().copied()) {
        Some(tokens) => vec![tokens],
        None if !planner.stream_wished().is_empty() => cost::MICRO_BATCHES_STREAMED.to_vec(),
        None => cost::MICRO_BATCHES.to_vec(),
    }
}

/// Whether settings that nobody asked for take memory that weights need more. In RAM while weights are read from disk,
/// and on a GPU while weights live elsewhere, the planner's own choice of context may take a quarter of the ceiling,
/// and its choice of micro-batch an eighth.
fn greedy(planner: &Planner, draft: &Draft) -> bool {
    let setup = &draft.setup;
    let ram = (setup.staging.slots > 0).then_some(Tier::Ram);
    let elsewhere = setup.kv.homes.contains(&Tier::Ram);
    let gpus = planner.gpus().into_iter().filter(|gpu| elsewhere && draft.devices.uses(*gpu)).map(Tier::Gpu);
    let batch_is_ours = planner.profile.prefill.micro_batch.value().is_none();
    let context_is_ours = planner.profile.context.tokens.value().is_none();
    ram.into_iter().chain(gpus).any(|tier| {
        let (ceiling, loads) = (planner.ceiling(tier).0, planner.limits.iter().position(|limit| limit.tier == tier));
        let takes = |what: &str| {
            let loads = loads.into_iter().flat_map(|place| &draft.loads[place]);
            loads.filter(|load| load.what == what).map(|load| load.bytes.0).sum::<u64>()
        };
        batch_is_ours && takes("activations") > ceiling / 8 || context_is_ours && takes("KV cache") > ceiling / 4
    })
}

/// The smallest reservation of ring and streaming buffers that covers what the homes then need.
///
/// Reservations are tried from none at all to the usual ring, then smaller rings, of which the last is taken wherever
/// it fits; a larger one only while it takes at most a quarter of what is left for it and weights.
fn settle(planner: &Planner, kv: &KvPlan, micro_batch: u32) -> Draft {
    let mut stream = planner.stream_wished();
    let fetch = planner.fetch_wished();
    let setup = |stream: &[u32], fetch: Option<u32>, staging: Staging| Setup {
        kv: kv.clone(),
        micro_batch,
        staging,
        stream: stream.to_vec(),
        fetch,
    };
    let bare = planner.draft(setup(&[], None, NO_RING));
    if covers(planner, &bare) {
        return trimmed(planner, bare);
    }
    // A GPU with nothing to bring needs no ring.
    if stream.len() > 1 {
        let used = streams(planner, &planner.draft(setup(&stream, fetch, NO_RING)));
        let fewer = planner.draft(setup(&used, fetch, NO_RING));
        if streams(planner, &fewer).iter().all(|gpu| used.contains(gpu)) {
            stream = used;
        }
    }
    if !stream.is_empty() || fetch.is_some() {
        let streamed = planner.draft(setup(&stream, fetch, NO_RING));
        if covers(planner, &streamed) {
            return trimmed(planner, streamed);
        }
    }
    let share = planner.ceiling(Tier::Ram).saturating_sub(fixed_in_ram(planner, &bare)).0 / 4;
    let mut last = bare;
    if planner.limit(Tier::Disk).is_none() {
        return last;
    }
    for (place, ring) in cost::RINGS.into_iter().enumerate() {
        let staging = planner.ring(ring);
        let smallest = place + 1 == cost::RINGS.len();
        if staging.bytes().0 > share && !smallest {
            continue;
        }
        last = planner.draft(setup(&stream, fetch, staging));
        if covers(planner, &last) {
            return trimmed(planner, last);
        }
    }
    last
}

/// The GPUs that something is streamed to, of those that it may be.
fn streams(planner: &Planner, draft: &Draft) -> Vec<u32> {
    let stays = |gpu: &u32| planner.streams_to(draft).any(|used| used == *gpu);
    draft.setup.stream.iter().copied().filter(stays).collect()
}

/// Whether a draft fits, and reserves what its homes need.
fn covers(planner: &Planner, draft: &Draft) -> bool {
    let needs_ring = || planner.any(&draft.homes, Planner::uses_ring);
    let needs_stream = || !planner.stream_wished().is_empty() && planner.any(&draft.homes, Planner::is_streamed);
    draft.over.is_none()
        && (draft.setup.staging.slots > 0 || !needs_ring())
        && (!draft.setup.stream.is_empty() || !needs_stream())
        && (draft.setup.fetch.is_some() || planner.fetch_wished().is_none() || !planner.fetches_any(draft))
}

/// Gives back what was reserved and is not needed after all.
fn trimmed(planner: &Planner, mut draft: Draft) -> Draft {
    let mut changed = false;
    if draft.setup.staging.slots > 0 && !planner.any(&draft.homes, Planner::uses_ring) {
        draft.setup.staging = NO_RING;
        changed = true;
    }
    let used = streams(planner, &draft);
    if used.len() < draft.setup.stream.len() {
        draft.setup.stream = used;
        changed = true;
    }
    if draft.setup.fetch.is_some() && !planner.fetches_any(&draft) {
        draft.setup.fetch = None;
        changed = true;
    }
    if changed {
        planner.weigh(&mut draft);
    }
    draft
}

/// What RAM holds besides weights.
fn fixed_in_ram(planner: &Planner, draft: &Draft) -> Bytes {
    let loads = planner.limits.iter().zip(&draft.loads).find(|(limit, _)| limit.tier == Tier::Ram);
    let fixed = loads.into_iter().flat_map(|(_, loads)| &loads[..loads.len() - 1]);
    fixed.map(|load| load.bytes).sum()
}

/// The refusal of the most modest settings; ways out are added later.
fn refuse(planner: &Planner, tokens: u32, micro_batch: u32) -> Refusal {
    let mut draft = settle(planner, &planner.kv(tokens), micro_batch);
    let place = draft.over.unwrap_or(0);
    let limit = &planner.limits[place];
    let mut loads = std::mem::take(&mut draft.loads[place]);
    // Weights item by item: who wants them there.
    loads.pop();
    let mut weights: BTreeMap<Option<u32>, Bytes> = BTreeMap::new();
    for (index, unit) in planner.inventory.units.iter().enumerate() {
        if draft.homes[index] == limit.tier && planner.wishes.wish[index] != Wish::NotRun {
            let bytes =
                if matches!(limit.tier, Tier::Gpu(_)) { cost::gpu::resident(unit) } else { cost::resident(unit) };
            *weights.entry(planner.wishes.rule[index]).or_default() += bytes;
        }
    }
    for (rule, bytes) in weights {
        let what = match rule {
            None => "weights".to_owned(),
            Some(rule) => format!("weights, {}", planner.profile.rules[rule as usize].origin.short()),
        };
        loads.push(Load { what, bytes });
    }
    Refusal::DoesNotFit(Box::new(DoesNotFit {
        tier: limit.tier,
        ceiling: limit.ceiling.unwrap_or_default(),
        origin: limit.origin.clone(),
        machine_has_less: limit.cut,
        loads,
        ways_out: Vec::new(),
    }))
}
