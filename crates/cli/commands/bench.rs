//! `plimsoll bench`: prompt and generation speed, measured and printed as llama-bench does.

use std::time::Instant;

use engine::{Engine, EngineError, Session, TierStats};
use plan::{Cost, Forecaster, Logits, Phase};
use serde::Serialize;

use crate::args::{BenchArgs, BenchFormat, BenchOf};
use crate::failure::Usage;
use crate::open::{self, Running};
use crate::show::{self, Progress, Table};
use crate::{expert_stats, verify};

/// One row: fields of llama-bench, then our own.
#[derive(Debug, Serialize)]
struct Row {
    build_version: &'static str,
    cpu_info: String,
    model_filename: String,
    model_type: String,
    model_size: u64,
    n_threads: u32,
    n_ubatch: u32,
    type_k: &'static str,
    type_v: &'static str,
    n_prompt: u32,
    n_gen: u32,
    n_depth: u32,
    avg_ns: u64,
    stddev_ns: u64,
    avg_ts: f64,
    stddev_ts: f64,
    samples_ns: Vec<u64>,
    samples_ts: Vec<f64>,
    /// Tokens per second that the plan expects of this test.
    forecast_ts: f64,
    /// What it expects the time to be spent on.
    cost: Cost,
    tiers: Vec<TierStats>,
    /// What was asked and is not so.
    fallbacks: Vec<String>,
}

/// What a row measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Prompt(u32),
    Generation(u32),
}

impl Work {
    const fn tokens(self) -> u32 {
        match self {
            Self::Prompt(n) | Self::Generation(n) => n,
        }
    }

    /// llama-bench's name for it.
    fn name(self, depth: u32) -> String {
        let name = match self {
            Self::Prompt(n) => format!("pp{n}"),
            Self::Generation(n) => format!("tg{n}"),
        };
        if depth == 0 { name } else { format!("{name} @ d{depth}") }
    }
}

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    match (args.of, &args.trace) {
        (BenchOf::Cache, Some(trace)) => return super::bench_cache::run(args, trace),
        (BenchOf::Speed, None) => {}
        _ => return Err(Usage("--trace belongs to `bench cache`, and only there\n\nhint: plimsoll bench cache -m MODEL --trace FILE --ram 8GB".into()).into()),
    }
    let works = works(args);
    let (Some(longest), Some(deepest)) = (works.iter().map(|work| work.tokens()).max(), args.n_depth.iter().max())
    else {
        return Err(Usage("nothing to measure\n\nhint: give -p or -n above 0".into()).into());
    };
    let mut placement = args.placement.clone();
    placement.ctx_size = placement.ctx_size.or(Some(longest.saturating_add(*deepest)));
    placement.logits = Logits::Unread;
    let experts = args.expert_stats.as_deref().map(expert_stats::read).transpose()?;
    let mut running = open::running(&args.model, &placement, experts)?;
    let mut session = running.engine.session()?;
    let total = works.len() * args.n_depth.len() * (args.repetitions as usize + 1);
    let bar = Progress::steps("bench", total as u64);
    let mut rows = Vec::new();
    for &depth in &args.n_depth {
        for &work in &works {
            bar.now(&work.name(depth));
            rows.push(measure(&mut running, &mut session, work, depth, args.repetitions, &bar)?);
        }
    }
    drop(bar);
    match args.output {
        BenchFormat::Json => show::json(&rows),
        BenchFormat::Md => show::product(&table(&rows)),
    }
}

/// Prompts first, then generations; 0 asks for none.
fn works(args: &BenchArgs) -> Vec<Work> {
    let prompts = args.n_prompt.iter().map(|n| Work::Prompt(*n));
    let generations = args.n_gen.iter().map(|n| Work::Generation(*n));
    prompts.chain(generations).filter(|work| work.tokens() > 0).collect()
}

fn measure(
    running: &mut Running,
    session: &mut Session,
    work: Work,
    depth: u32,
    repetitions: u32,
    bar: &Progress,
) -> anyhow::Result<Row> {
    let Running { engine, signals, .. } = &mut *running;
    let gentle = signals.gently();
    session.truncate(0);
    go_back(engine, session, depth)?;
    // The warm-up is a whole prompt, or one token: as llama-bench has it.
    let warm_up = if let Work::Prompt(n) = work { Work::Prompt(n) } else { Work::Generation(1) };
    perform(engine, session, warm_up)?;
    bar.step();
    engine.reset_stats();
    let mut samples_ns = Vec::new();
    for _ in 0..repetitions {
        go_back(engine, session, depth)?;
        let started = Instant::now();
        perform(engine, session, work)?;
        samples_ns.push(started.elapsed().as_nanos() as u64);
        bar.step();
    }
    drop(gentle);
    let stats = running.engine.stats(probe::resident().peak);
    let (phase, measured) = match work {
        Work::Prompt(_) => (Phase::Prompt, stats.prompt),
        Work::Generation(_) => (Phase::Decode, stats.decode),
    };
    if let Some(note) = verify::bench(running, phase, depth, work.tokens(), repetitions, &measured) {
        show::note(&note);
    }
    Ok(row(running, work, depth, samples_ns))
}

/// Goes back to `depth` tokens of context, or makes them anew where layers keep a state that cannot go back.
fn go_back(engine: &mut Engine, session: &mut Session, depth: u32) -> Result<(), EngineError> {
    session.truncate(depth as usize);
    let tokens = some_tokens(depth, engine.vocabulary());
    match &tokens[session.position()..] {
        [] => Ok(()),
        missing => engine.prefill(session, missing).map(|_| ()),
    }
}

/// Does the work once, after what the session holds.
fn perform(engine: &mut Engine, session: &mut Session, work: Work) -> Result<(), EngineError> {
    let tokens = some_tokens(work.tokens(), engine.vocabulary());
    match work {
        Work::Prompt(_) => engine.prefill(session, &tokens).map(|_| ()),
        Work::Generation(_) => tokens.iter().try_for_each(|token| engine.decode(session, *token).map(|_| ())),
    }
}

/// Tokens that look random and are the same each time, spread over the vocabulary by a multiplicative hash.
fn some_tokens(count: u32, vocabulary: usize) -> Vec<u32> {
    (1..=count).map(|i| ((u64::from(i.wrapping_mul(2_654_435_761)) * vocabulary as u64) >> 32) as u32).collect()
}

fn row(running: &Running, work: Work, depth: u32, samples_ns: Vec<u64>) -> Row {
    let plan = running.engine.plan();
    let stats = running.engine.stats(probe::resident().peak);
    let samples_ts: Vec<f64> = samples_ns.iter().map(|ns| f64::from(work.tokens()) * 1e9 / *ns as f64).collect();
    let ns: Vec<f64> = samples_ns.iter().map(|ns| *ns as f64).collect();
    let ((avg_ns, stddev_ns), (avg_ts, stddev_ts)) = (mean_and_deviation(&ns), mean_and_deviation(&samples_ts));
    let inventory = &running.model.inventory;
    let forecaster = Forecaster::new(plan, inventory, &running.machine, running.experts.as_ref());
    let (n_prompt, n_gen, cost) = match work {
        Work::Prompt(n) => (n, 0, forecaster.prompt(depth, n)),
        Work::Generation(n) => (0, n, forecaster.decode(depth, n)),
    };
    Row {
        build_version: env!("CARGO_PKG_VERSION"),
        cpu_info: running.machine.cpu.clone(),
        model_filename: inventory.files.first().map_or_else(String::new, |file| file.path.clone()),
        model_type: format!("{} {}", inventory.shape.architecture, inventory.name),
        model_size: inventory.bytes().0,
        n_threads: plan.threads,
        n_ubatch: plan.micro_batch,
        type_k: plan.kv.k_type.name(),
        type_v: plan.kv.v_type.name(),
        n_prompt,
        n_gen,
        n_depth: depth,
        avg_ns: avg_ns as u64,
        stddev_ns: stddev_ns as u64,
        avg_ts,
        stddev_ts,
        samples_ns,
        samples_ts,
        forecast_ts: f64::from(work.tokens()) / cost.seconds,
        cost,
        tiers: stats.tiers,
        fallbacks: stats.fallbacks,
    }
}

/// The mean and the sample standard deviation; one sample deviates by nothing.
fn mean_and_deviation(samples: &[f64]) -> (f64, f64) {
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let squares: f64 = samples.iter().map(|x| (x - mean).powi(2)).sum();
    (mean, if samples.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new(&["model", "size", "threads", "ubatch", "test", "t/s", "forecast t/s"]);
    for row in rows {
        let work = if row.n_prompt > 0 { Work::Prompt(row.n_prompt) } else { Work::Generation(row.n_gen) };
        table.row([
            row.model_type.clone(),
            plan::Bytes(row.model_size).to_string(),
            row.n_threads.to_string(),
            row.n_ubatch.to_string(),
            work.name(row.n_depth),
            format!("{:.2} ± {:.2}", row.avg_ts, row.stddev_ts),
            format!("{:.2}", row.forecast_ts),
        ]);
    }
    table.markdown()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_row() -> Row {
        Row {
            build_version: "0",
            cpu_info: "a processor".into(),
            model_filename: "m.gguf".into(),
            model_type: "llama m".into(),
            model_size: 1 << 20,
            n_threads: 2,
            n_ubatch: 512,
            type_k: "f16",
            type_v: "f16",
            n_prompt: 0,
            n_gen: 64,
            n_depth: 128,
            avg_ns: 1,
            stddev_ns: 0,
            avg_ts: 12.345,
            stddev_ts: 0.5,
            samples_ns: vec![1],
            samples_ts: vec![12.345],
            forecast_ts: 12.0,
            cost: Cost::default(),
            tiers: Vec::new(),
            fallbacks: vec!["x".into()],
        }
    }

    #[test]
    fn the_json_has_llama_benchs_fields_and_ours() {
        let json = serde_json::to_value([some_row()]).expect("JSON");
        for field in [
            "n_prompt",
            "n_gen",
            "n_depth",
            "n_threads",
            "n_ubatch",
            "avg_ts",
            "stddev_ts",
            "samples_ts",
            "forecast_ts",
            "tiers",
            "fallbacks",
        ] {
            assert!(json[0].get(field).is_some(), "{field}");
        }
    }

    #[test]
    fn the_table_names_tests_as_llama_bench_does() {
        let text = table(&[some_row()]);
        assert!(text.contains("| tg64 @ d128 | 12.35 ± 0.50 |"), "{text}");
        assert_eq!(Work::Prompt(512).name(0), "pp512");
    }

    #[test]
    fn a_deviation_is_that_of_a_sample() {
        assert_eq!(mean_and_deviation(&[5.0]), (5.0, 0.0));
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, 2f64.sqrt()));
    }

    #[test]
    fn tokens_stay_inside_the_vocabulary_and_differ() {
        let tokens = some_tokens(500, 1000);
        assert!(tokens.iter().all(|token| *token < 1000));
        assert!(tokens.iter().collect::<std::collections::BTreeSet<_>>().len() > 300);
    }
}
