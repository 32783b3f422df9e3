//! The forecast beside what a run measured: told where it was wrong, and kept so that it can be corrected.

use engine::{PhaseStats, Stats};
use plan::{Calibration, Cost, Forecaster, Machine, Observation, Parts, Phase, Plan, Source};

use crate::open::{self, Running};

/// Tokens from which on a phase is long enough to judge its forecast by.
const PROMPT_MIN: u64 = 32;
const DECODE_MIN: u64 = 8;

/// Compares a run that began with nothing in the context with its forecast, and keeps what it took. Gives what to tell.
pub(crate) fn run(running: &Running, stats: &Stats) -> Vec<String> {
    let (machine, plan) = (&running.machine, running.engine.plan());
    if !plan.forecast.measured {
        return Vec::new();
    }
    let prompt = stats.prompt.tokens as u32;
    let phases = [
        (Phase::Prompt, PROMPT_MIN, &stats.prompt, (0, prompt)),
        (Phase::Decode, DECODE_MIN, &stats.decode, (prompt, stats.decode.tokens as u32)),
    ];
    let long = phases.into_iter().filter(|(_, least, measured, _)| measured.tokens >= *least);
    let seen: Vec<_> = long
        .map(|(phase, _, measured, (first, tokens))| {
            observe(running, phase, measured, &|plan, machine| cost(running, plan, machine, phase, first, tokens))
        })
        .collect();
    let complaints = seen.iter().filter_map(|(told, _)| told.complaint());
    let mut notes: Vec<String> = complaints.map(|complaint| format!("note: {complaint}")).collect();
    if machine.ram_read.source == Source::Measured && !notes.is_empty() {
        notes.push("note: `plimsoll plan --calibrate` corrects forecasts by recorded runs, `plimsoll probe --force` measures anew".to_owned());
    }
    let kept: Vec<Observation> = seen.into_iter().map(|(_, kept)| kept).collect();
    notes.extend(keep(&kept));
    notes
}

/// Keeps what a test of a bench took, all its repetitions together; `times` is how many there were. Gives what to tell.
pub(crate) fn bench(
    running: &Running,
    phase: Phase,
    first: u32,
    tokens: u32,
    times: u32,
    measured: &PhaseStats,
) -> Option<String> {
    if running.engine.plan().forecast.measured && measured.tokens == u64::from(tokens) * u64::from(times) {
        let (_, kept) = observe(running, phase, measured, &|plan, machine| {
            cost(running, plan, machine, phase, first, tokens).times(f64::from(times))
        });
        return keep(&[kept]);
    }
    None
}

fn cost(running: &Running, plan: &Plan, machine: &Machine, phase: Phase, first: u32, tokens: u32) -> Cost {
    let forecaster = Forecaster::new(plan, &running.model.inventory, machine, running.experts.as_ref());
    match phase {
        Phase::Prompt => forecaster.prompt(first, tokens),
        Phase::Decode => forecaster.decode(first, tokens),
    }
}

/// A phase beside its forecast as it was told, and as it would have been without corrections: those are made anew from all runs.
fn observe(
    running: &Running,
    phase: Phase,
    measured: &PhaseStats,
    cost: &dyn Fn(&Plan, &Machine) -> Cost,
) -> (Observation, Observation) {
    let PhaseStats { tokens, seconds, cpu_s, gpu_s, disk_s } = *measured;
    let plan = running.engine.plan();
    let of = |machine: &Machine| Observation {
        model: running.model.inventory.name.clone(),
        phase,
        tokens,
        forecast: Parts::from(cost(plan, machine)),
        measured: Parts { seconds, cpu_s, gpu_s, disk_s },
    };
    (of(&running.machine), of(&Machine { calibration: Calibration::NONE, ..running.machine.clone() }))
}

/// Keeps what was seen. A run is not worth an error where that fails: it is told.
fn keep(seen: &[Observation]) -> Option<String> {
    let error = probe::record(&open::cache_folder()?, seen).err()?;
    Some(format!("note: this run is not kept to calibrate by: {error}"))
}
