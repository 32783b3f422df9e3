//! What a run did, in the words of the command line's `stats`.

use std::collections::BTreeMap;
use std::time::Duration;

use plan::{Bytes, Forecast, Plan, Tier};
use serde::Serialize;
use tiers::{Counts, DriveCounts};

/// One tier's part of [`Stats`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TierStats {
    /// `ram`, `disk` or `gpu:N`.
    pub name: String,
    /// The tier's ceiling; none for disk.
    pub limit_bytes: Option<u64>,
    /// The most it held: measured for `ram` (the process's peak resident size) and `gpu:N` (what was taken there, or what the card has given
    /// away since it was opened where that is more), and else what the plan counted.
    pub peak_bytes: u64,
    /// What the plan counted there.
    pub planned_bytes: u64,
    /// Bytes of weights read from it for one decoded token.
    pub read_bytes_per_token: f64,
    /// Milliseconds that it worked for one decoded token: `ram` with what the processor computes, `gpu:N` from when it is given
    /// something until its results are there, `disk` reading.
    pub busy_ms_per_token: f64,
}

/// One link's part of [`Stats`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LinkStats {
    /// Where bytes came from.
    pub from: String,
    /// Where they went.
    pub to: String,
    /// How many.
    pub bytes: u64,
    /// How fast, while the link was busy; 0 where that was not measured, as for activations.
    pub bytes_per_s: f64,
}

/// Reads of one drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DriveStats {
    /// The model's files on it.
    pub files: Vec<String>,
    /// Bytes that were asked of it since the model was opened, loading included.
    pub bytes: u64,
    /// The most reads that were under way at once.
    pub reads_at_once: u64,
    /// Who reads: `io_uring`, or `threads` where that or direct reads are refused.
    pub method: String,
}

impl From<DriveCounts> for DriveStats {
    fn from(counts: DriveCounts) -> Self {
        let DriveCounts { files, bytes, depth, method } = counts;
        Self { files, bytes, reads_at_once: depth, method: method.to_string() }
    }
}

/// Reads from disk. All zero where nothing is homed there.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DiskStats {
    /// The drives that the model's files lie on: parts on different ones are read side by side.
    pub drives: Vec<DriveStats>,
    /// The most that were under way at once, of all drives.
    pub reads_at_once: u64,
    /// Milliseconds that computation waited for them, for one decoded token.
    pub stall_ms_per_token: f64,
    /// Bytes of experts that were read before their router had chosen them, for one decoded token.
    pub prefetch_used_bytes_per_token: f64,
    /// The same of experts that it did not choose.
    pub prefetch_wasted_bytes_per_token: f64,
}

/// Chosen experts by where they were, of prompt and decode together: an expert counts once for each pass and layer that
/// computes with it. All zero for dense models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExpertCacheStats {
    /// Experts that were wholly in RAM.
    pub hits: u64,
    /// Experts of which some matrix came from disk.
    pub misses: u64,
    /// Bytes of them that came from disk.
    pub bytes_read: u64,
}

/// The forecast's part of [`Stats`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ForecastStats {
    /// Forecast prompt tokens per second.
    pub prompt_tokens_per_s: f64,
    /// Forecast decoded tokens per second.
    pub decode_tokens_per_s: f64,
}

impl From<Forecast> for ForecastStats {
    fn from(f: Forecast) -> Self {
        Self { prompt_tokens_per_s: f.prompt_tokens_per_s, decode_tokens_per_s: f.decode_tokens_per_s }
    }
}

/// One phase's time, by who worked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PhaseStats {
    /// Its tokens.
    pub tokens: u64,
    /// Seconds from begin to end of its passes.
    pub seconds: f64,
    /// Seconds in which the processor computed: those in which it waited for the drive or a GPU left out.
    pub cpu_s: f64,
    /// Seconds in which a GPU had something to do.
    pub gpu_s: f64,
    /// Seconds in which the drive had something to read.
    pub disk_s: f64,
}

/// What a run did: the JSON object `stats`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// Milliseconds to open the model.
    pub load_ms: f64,
    /// Milliseconds from the prompt to the first token, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<f64>,
    /// Prompt tokens per second.
    pub prompt_tokens_per_s: f64,
    /// Decoded tokens per second.
    pub decode_tokens_per_s: f64,
    /// What the plan expected.
    pub forecast: ForecastStats,
    /// The reading of the prompt.
    pub prompt: PhaseStats,
    /// The making of the answer.
    pub decode: PhaseStats,
    /// Every tier in use.
    pub tiers: Vec<TierStats>,
    /// Every link in use.
    pub links: Vec<LinkStats>,
    /// Times that a decoded token's numbers went from the processor to a GPU or back.
    pub crossings_per_token: f64,
    /// How many tiers worked at one time while tokens were decoded: the sum of what they worked, by the time that it took.
    pub overlap: f64,
    /// Reads from disk.
    pub disk: DiskStats,
    /// Use of the expert cache.
    pub expert_cache: ExpertCacheStats,
    /// What was asked and is not so.
    pub fallbacks: Vec<String>,
}

/// What a card has done, and what has gone between it and the processor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Traffic {
    /// Bytes of weights that it read where they live on it.
    pub(crate) read_bytes: u64,
    /// Bytes to the card: of activations, and of weights that are brought there.
    pub(crate) up_bytes: u64,
    /// Bytes of activations from the card.
    pub(crate) down_bytes: u64,
    /// Times that numbers went, either way.
    pub(crate) crossings: u64,
    /// Time that the card had something to do.
    pub(crate) busy: Duration,
    /// Time that the processor waited for the card.
    pub(crate) waited: Duration,
}

/// Everything that grows while an engine runs, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Moment {
    pub(crate) counts: Counts,
    /// Of each card, by number.
    pub(crate) cards: Vec<(u32, Traffic)>,
}

/// Counts of one phase: prompt or decode.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Phase {
    pub(crate) tokens: u64,
    pub(crate) wall: Duration,
    pub(crate) ram_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) disk_busy: Duration,
    /// The most reads of the drive at once, up to the phase's end.
    pub(crate) disk_depth: u64,
    pub(crate) stall: Duration,
    pub(crate) guessed_bytes: u64,
    pub(crate) wasted_bytes: u64,
    /// Of each card, by number.
    pub(crate) cards: BTreeMap<u32, Traffic>,
}

impl Traffic {
    /// Adds what was done between two moments.
    fn add(&mut self, before: Self, after: Self) {
        self.read_bytes += after.read_bytes - before.read_bytes;
        self.up_bytes += after.up_bytes - before.up_bytes;
        self.down_bytes += after.down_bytes - before.down_bytes;
        self.crossings += after.crossings - before.crossings;
        self.busy += after.busy.saturating_sub(before.busy);
        self.waited += after.waited.saturating_sub(before.waited);
    }
}

impl Phase {
    /// Adds a pass over `tokens` that took `wall`, with what was counted before and after it.
    pub(crate) fn add(&mut self, tokens: usize, wall: Duration, before: &Moment, after: &Moment) {
        for ((card, old), (_, new)) in before.cards.iter().zip(&after.cards) {
            self.cards.entry(*card).or_default().add(*old, *new);
        }
        let (before, after) = (before.counts, after.counts);
        self.tokens += tokens as u64;
        self.wall += wall;
        self.ram_bytes += after.ram_bytes - before.ram_bytes;
        self.disk_bytes += after.disk_bytes - before.disk_bytes;
        self.disk_busy += after.disk_busy.saturating_sub(before.disk_busy);
        self.disk_depth = after.disk_depth;
        self.stall += after.disk_stall.saturating_sub(before.disk_stall);
        self.guessed_bytes += after.guessed_bytes - before.guessed_bytes;
        self.wasted_bytes += after.wasted_bytes - before.wasted_bytes;
    }

    /// `total` shared out to this phase's tokens.
    fn each(&self, total: f64) -> f64 {
        if self.tokens == 0 { 0.0 } else { total / self.tokens as f64 }
    }

    /// What this card did.
    fn card(&self, number: u32) -> Traffic {
        self.cards.get(&number).copied().unwrap_or_default()
    }

    /// Time that cards had something to do, added up.
    fn busy(&self) -> Duration {
        self.cards.values().map(|card| card.busy).sum()
    }

    /// Time that the processor computed.
    fn computing(&self) -> Duration {
        // A processor that multiplies with nothing is only told to wait for a GPU.
        let waited: Duration = self.cards.values().map(|card| card.waited).sum();
        let computing = self.wall.saturating_sub(self.stall + waited);
        if self.ram_bytes + self.disk_bytes > 0 { computing } else { Duration::ZERO }
    }

    fn stats(&self) -> PhaseStats {
        PhaseStats {
            tokens: self.tokens,
            seconds: self.wall.as_secs_f64(),
            cpu_s: self.computing().as_secs_f64(),
            gpu_s: self.busy().as_secs_f64(),
            disk_s: self.disk_busy.as_secs_f64(),
        }
    }

    pub(crate) fn tokens_per_s(&self) -> f64 {
        if self.wall.is_zero() { 0.0 } else { self.tokens as f64 / self.wall.as_secs_f64() }
    }
}

/// Everything counted since the engine was opened or its counts were reset.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Record {
    pub(crate) load: Duration,
    pub(crate) ttft: Option<Duration>,
    pub(crate) prompt: Phase,
    pub(crate) decode: Phase,
}

impl Record {
    /// This record in the words of the command line.
    pub(crate) fn stats(&self, plan: &Plan, ram_peak: Bytes) -> Stats {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        // Per decoded token: a run that decoded nothing has none of it.
        let phase = &self.decode;
        let computing = phase.computing();
        let tiers = plan.tiers.iter().map(|tier| {
            let (peak, read, busy) = match tier.tier {
                Tier::Ram => (ram_peak, phase.ram_bytes, computing),
                Tier::Disk => (tier.bytes(), phase.disk_bytes, phase.disk_busy),
                Tier::Gpu(number) => (tier.bytes(), phase.card(number).read_bytes, phase.card(number).busy),
            };
            TierStats {
                name: tier.tier.to_string(),
                limit_bytes: tier.ceiling.map(|c| c.0),
                peak_bytes: peak.0,
                planned_bytes: tier.bytes().0,
                read_bytes_per_token: phase.each(read as f64),
                busy_ms_per_token: phase.each(ms(busy)),
            }
        });
        let disk_bytes = self.prompt.disk_bytes + self.decode.disk_bytes;
        let disk_busy = self.prompt.disk_busy + self.decode.disk_busy;
        let rate = if disk_busy.is_zero() { 0.0 } else { disk_bytes as f64 / disk_busy.as_secs_f64() };
        let link = |from: &str, to: &str, bytes, bytes_per_s| LinkStats {
            from: from.into(),
            to: to.into(),
            bytes,
            bytes_per_s,
        };
        let mut links = vec![link("disk", "ram", disk_bytes, rate)];
        for tier in &plan.tiers {
            let Tier::Gpu(number) = tier.tier else { continue };
            let (gpu, [prompt, decode]) =
                (tier.tier.to_string(), [&self.prompt, phase].map(|phase| phase.card(number)));
            links.push(link("ram", &gpu, prompt.up_bytes + decode.up_bytes, 0.0));
            links.push(link(&gpu, "ram", prompt.down_bytes + decode.down_bytes, 0.0));
        }
        let crossings: u64 = phase.cards.values().map(|card| card.crossings).sum();
        let busy = computing + phase.busy() + phase.disk_busy;
        Stats {
            load_ms: ms(self.load),
            ttft_ms: self.ttft.map(ms),
            prompt_tokens_per_s: self.prompt.tokens_per_s(),
            decode_tokens_per_s: self.decode.tokens_per_s(),
            forecast: plan.forecast.into(),
            prompt: self.prompt.stats(),
            decode: self.decode.stats(),
            tiers: tiers.collect(),
            links: links.into_iter().filter(|link| link.bytes > 0).collect(),
            crossings_per_token: phase.each(crossings as f64),
            overlap: if phase.wall.is_zero() { 0.0 } else { busy.as_secs_f64() / phase.wall.as_secs_f64() },
            disk: DiskStats {
                drives: Vec::new(),
                reads_at_once: self.prompt.disk_depth.max(phase.disk_depth),
                stall_ms_per_token: phase.each(ms(phase.stall)),
                prefetch_used_bytes_per_token: phase.each(phase.guessed_bytes as f64),
                prefetch_wasted_bytes_per_token: phase.each(phase.wasted_bytes as f64),
            },
            expert_cache: ExpertCacheStats::default(),
            fallbacks: plan.notes.clone(),
        }
    }
}
