//! `plimsoll bench cache`: a recorded trace replayed by policies of the experts that change places.
//!
//! Nothing is loaded and nothing is timed: the plan says how many experts of each layer RAM has room for, the trace what routers chose.

use std::path::Path;

use plan::Bytes;
use plan::expert_cache::{Policy, Replay, Replayed, Tally, replay, starts};
use serde::Serialize;

use crate::args::{BenchArgs, BenchFormat};
use crate::expert_stats;
use crate::failure::Usage;
use crate::open::{self, Planned};
use crate::show::{self, Table};

/// What is replayed: the name, and how.
const REPLAYS: [(&str, Replay); 7] = [
    ("as planned, fixed", Replay::Policy(Policy::Fixed)),
    ("most used of the trace, fixed", Replay::MostUsed),
    ("least recently used", Replay::Policy(Policy::Recent)),
    ("least used, half-life 16", Replay::Policy(Policy::Decayed(16))),
    ("least used, half-life 64", Replay::Policy(Policy::USUAL)),
    ("least used, half-life 256", Replay::Policy(Policy::Decayed(256))),
    ("optimal (the bound)", Replay::Optimal),
];

/// One policy's outcome.
#[derive(Debug, Serialize)]
struct Row {
    policy: String,
    decode: Part,
    prompt: Part,
}

/// The outcome of passes of one kind.
#[derive(Debug, Serialize)]
struct Part {
    tokens: u64,
    hits: u64,
    misses: u64,
    hit_rate: f64,
    /// Bytes of experts that come from disk for one token.
    read_bytes_per_token: u64,
    /// What reading them takes at the rate of the model's drive.
    read_ms_per_token: f64,
}

impl Part {
    fn new(tally: &Tally, layers: u64, bytes_per_second: f64) -> Self {
        let tokens = tally.tokens / layers.max(1);
        let read = tally.read.as_f64() / tokens.max(1) as f64;
        Self {
            tokens,
            hits: tally.hits,
            misses: tally.misses,
            hit_rate: tally.hit_rate(),
            read_bytes_per_token: read as u64,
            read_ms_per_token: read / bytes_per_second.max(1.0) * 1e3,
        }
    }

    /// Hits, bytes and time; nothing where there were no such passes.
    fn cells(&self) -> [String; 3] {
        if self.tokens == 0 {
            return [String::new(), String::new(), String::new()];
        }
        [
            format!("{:.1} %", self.hit_rate * 100.0),
            Bytes(self.read_bytes_per_token).to_string(),
            format!("{:.1} ms", self.read_ms_per_token),
        ]
    }
}

pub(super) fn run(args: &BenchArgs, trace: &Path) -> anyhow::Result<()> {
    let counts = expert_stats::read(trace)?;
    let model = open::header_alone(&args.model)?;
    counts.check(&model.inventory)?;
    if counts.trace().is_empty() {
        let text = format!("{}: there is no trace in it", trace.display());
        return Err(Usage(format!("{text}\n\nhint: record one with `plimsoll run --expert-stats FILE --trace`")).into());
    }
    // The plan knows nothing of the trace: it has to show how policies find their way.
    let Planned { model, machine, plan, .. } = open::planned(model, &args.placement)?;
    let layers = starts(&model.inventory, &plan.placements);
    if layers.is_empty() {
        let text = "no layer has experts in RAM and on disk that may change places";
        return Err(
            Usage(format!("{text}\n\nhint: another --ram, or a profile that does not name experts' homes")).into()
        );
    }
    let rate = machine.disk_read.rate.0;
    let part = |tally: &Tally| Part::new(tally, layers.len() as u64, rate);
    let rows = REPLAYS.map(|(policy, by)| {
        let Replayed { prompt, decode } = replay(counts.trace(), &layers, by);
        let done = if by == Replay::Policy(plan.exchange) { " (what a run does)" } else { "" };
        Row { policy: format!("{policy}{done}"), decode: part(&decode), prompt: part(&prompt) }
    });
    match args.output {
        BenchFormat::Json => show::json(&rows),
        BenchFormat::Md => show::product(&table(&rows)),
    }
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new(&[
        "policy",
        "decode: found in RAM",
        "disk per token",
        "takes",
        "prompt: found",
        "per token",
        "takes",
    ]);
    for row in rows {
        let cells = [row.policy.clone()].into_iter().chain(row.decode.cells()).chain(row.prompt.cells());
        table.row(cells);
    }
    table.markdown()
}
