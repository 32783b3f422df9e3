//! What a run did, in the words of the command line's `stats`.

use std::time::Duration;

use plan::{Bytes, Forecast, Plan, Tier};
use serde::Serialize;
use tiers::Counts;

/// One tier's part of [`Stats`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TierStats {
    /// `ram`, `disk` or `gpu:N`.
    pub name: String,
    /// The tier's ceiling; none for disk.
    pub limit_bytes: Option<u64>,
    /// The most it held: measured for `ram` (the process's peak resident size), for `gpu:N` all that was taken there, and else
    /// what the plan counted.
    pub peak_bytes: u64,
    /// Bytes of weights read from it for one decoded token.
    pub read_bytes_per_token: f64,
    /// Milliseconds that it worked for one decoded token: `gpu:N` computing, or `ram` where no GPU does; `disk` reading.
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
    /// How fast, while the link was busy.
    pub bytes_per_s: f64,
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
    /// Every tier in use.
    pub tiers: Vec<TierStats>,
    /// Every link in use.
    pub links: Vec<LinkStats>,
    /// Use of the expert cache.
    pub expert_cache: ExpertCacheStats,
    /// What was asked and is not so.
    pub fallbacks: Vec<String>,
}

/// Counts of one phase: prompt or decode.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Phase {
    pub(crate) tokens: u64,
    pub(crate) wall: Duration,
    pub(crate) ram_bytes: u64,
    pub(crate) vram_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) disk_busy: Duration,
    pub(crate) stall: Duration,
}

impl Phase {
    /// Adds a pass over `tokens` that took `wall`, with the tiers' counts before and after it.
    pub(crate) fn add(&mut self, tokens: usize, wall: Duration, before: Counts, after: Counts) {
        self.tokens += tokens as u64;
        self.wall += wall;
        self.ram_bytes += after.ram_bytes - before.ram_bytes;
        self.vram_bytes += after.vram_bytes - before.vram_bytes;
        self.disk_bytes += after.disk_bytes - before.disk_bytes;
        self.disk_busy += after.disk_busy.saturating_sub(before.disk_busy);
        self.stall += after.disk_stall.saturating_sub(before.disk_stall);
    }

    /// `total` shared out to this phase's tokens.
    fn each(&self, total: f64) -> f64 {
        if self.tokens == 0 { 0.0 } else { total / self.tokens as f64 }
    }

    pub(crate) fn tokens_per_s(&self) -> f64 {
        if self.wall.is_zero() { 0.0 } else { self.tokens as f64 / self.wall.as_secs_f64() }
    }
}

/// Everything counted since the engine was opened or its counts were reset.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
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
        let computing = phase.wall.saturating_sub(phase.stall);
        let on_gpu = phase.vram_bytes > 0;
        let tiers = plan.tiers.iter().map(|tier| {
            let (peak, read, busy) = match tier.tier {
                Tier::Ram => (ram_peak, phase.ram_bytes, if on_gpu { Duration::ZERO } else { computing }),
                Tier::Disk => (tier.bytes(), phase.disk_bytes, phase.disk_busy),
                Tier::Gpu(_) => (tier.bytes(), phase.vram_bytes, if on_gpu { computing } else { Duration::ZERO }),
            };
            TierStats {
                name: tier.tier.to_string(),
                limit_bytes: tier.ceiling.map(|c| c.0),
                peak_bytes: peak.0,
                read_bytes_per_token: phase.each(read as f64),
                busy_ms_per_token: phase.each(ms(busy)),
            }
        });
        let disk_bytes = self.prompt.disk_bytes + self.decode.disk_bytes;
        let disk_busy = self.prompt.disk_busy + self.decode.disk_busy;
        let rate = if disk_busy.is_zero() { 0.0 } else { disk_bytes as f64 / disk_busy.as_secs_f64() };
        let disk = LinkStats { from: "disk".into(), to: "ram".into(), bytes: disk_bytes, bytes_per_s: rate };
        Stats {
            load_ms: ms(self.load),
            ttft_ms: self.ttft.map(ms),
            prompt_tokens_per_s: self.prompt.tokens_per_s(),
            decode_tokens_per_s: self.decode.tokens_per_s(),
            forecast: plan.forecast.into(),
            tiers: tiers.collect(),
            links: if disk_bytes > 0 { vec![disk] } else { Vec::new() },
            expert_cache: ExpertCacheStats::default(),
            fallbacks: plan.notes.clone(),
        }
    }
}
