//! Sessions: caches of every type, going back, interruption, threads and micro-batches.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use engine::{Engine, EngineError, Finish, Isa, Request, Sampling, generate};
use kernels::memory::{ByteSource, FileSource};

use crate::support::{machine, open, own_fixture};
use crate::synth::{self, DEEPSEEK_V3, LatentSizes};

const PROMPT: [u32; 12] = [509, 3, 17, 250, 17, 99, 400, 8, 41, 7, 7, 300];

fn profile(context: u32, kv: &str, micro_batch: u32, threads: u32) -> String {
    format!(
        "version: 1\ntiers: {{ ram: {{ memory: 1GiB, threads: {threads} }} }}\n\
         context: {{ tokens: {context}, kv_type: {kv} }}\nprefill: {{ micro_batch: {micro_batch} }}\n"
    )
}

const DENSE: &str = "qwen3-kq/model-q4_k_m.gguf";
/// A mixture that keeps latents.
const LATENT: &str = "deepseek_v2-lite/model-bf16.gguf";
/// Mixtures whose layers keep states, the other ones keys and values, or latents.
const STATES: [&str; 2] = ["qwen3_next/model-bf16.gguf", "kimi_linear/model-bf16.gguf"];
/// A mixture with windows and sinks.
const WINDOWS: &str = "gpt_oss/model-mxfp4.gguf";

fn fixture(profile: &str) -> Engine {
    open(&own_fixture(DENSE), profile)
}

fn logits(model: &str, profile: &str) -> Vec<f32> {
    logits_of(&mut open(&own_fixture(model), profile))
}

/// The same without rounding, which would hide smaller differences.
fn exact_logits(model: &str, profile: &str) -> Vec<f32> {
    let mut engine = open(&own_fixture(model), profile);
    engine.compute_exactly(true);
    logits_of(&mut engine)
}

fn logits_of(engine: &mut Engine) -> Vec<f32> {
    let mut session = engine.session().unwrap();
    engine.prefill(&mut session, &PROMPT).unwrap();
    engine.decode(&mut session, 5).unwrap().to_vec()
}

#[test]
fn threads_and_micro_batches_do_not_change_a_bit() {
    for model in [DENSE, WINDOWS, STATES[0]] {
        let expected = logits(model, &profile(64, "f16", 64, 1));
        for (micro_batch, threads) in [(64, 2), (64, 3), (16, 1), (5, 2), (1, 1)] {
            let found = logits(model, &profile(64, "f16", micro_batch, threads));
            assert!(found == expected, "{model} {micro_batch} {threads}");
        }
    }
}

#[test]
fn the_two_forms_of_latent_attention_agree() {
    // A whole prompt at once expands latents, one token after another absorbs queries; threads change no bit of either.
    let expected = logits(LATENT, &profile(64, "f32", 64, 1));
    assert!(logits(LATENT, &profile(64, "f32", 64, 3)) == expected);
    let absorbed = logits(LATENT, &profile(64, "f32", 1, 2));
    let worst = largest_difference(&absorbed, &expected);
    assert!(worst > 0.0 && worst <= 1e-4, "{worst}");
}

#[test]
fn the_two_forms_agree_on_what_an_indexer_chose() {
    // One dense layer, so that nothing but attention differs; its latents are wider than its heads.
    let sizes = LatentSizes {
        layers: 1,
        dense_layers: 1,
        width: 256,
        dense_inner: 256,
        heads: 4,
        query_rank: 64,
        rank: 128,
        plain: 32,
        rotated: 32,
        value: 32,
        experts: 0,
        used: 0,
        groups: (0, 0),
        vocabulary: 600,
        ..DEEPSEEK_V3
    };
    let folder = tempfile::tempdir().unwrap();
    let prompt: Vec<u32> = (0..100).map(|i| i * 37 % 600).collect();
    let logits = |top_k: u32, micro_batch: u32, threads: u32| {
        let path = folder.path().join(format!("{top_k}.gguf"));
        synth::write(&path, &synth::sparse(&sizes, [3, 40, top_k])).unwrap();
        let mut engine = open(&path, &profile(128, "f32", micro_batch, threads));
        let mut session = engine.session().unwrap();
        engine.prefill(&mut session, &prompt).unwrap().to_vec()
    };
    let expanded = logits(20, 128, 1);
    assert!(logits(20, 128, 3) == expanded);
    let size = expanded.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
    let worst = |other: &[f32]| largest_difference(other, &expanded) / size;
    let (absorbed, dense) = (worst(&logits(20, 1, 2)), worst(&logits(100, 128, 2)));
    println!("of {size:e}: {absorbed:e} between forms, {dense:e} where all positions are seen");
    assert!(absorbed > 0.0 && absorbed <= 1e-5, "{absorbed}");
    assert!(dense > 1e-3, "{dense}");
}

#[test]
fn smaller_caches_stay_near_the_exact_one() {
    for (model, f16, q8_0) in [(DENSE, 4.4e-2, 4e-1), (LATENT, 4.6e-2, 1.5), (WINDOWS, 4.6e-2, 6e-1)] {
        let exact = exact_logits(model, &profile(64, "f32", 64, 2));
        for (kind, tolerance) in [("f16", f16), ("q8_0", q8_0)] {
            let worst = largest_difference(&exact_logits(model, &profile(64, kind, 64, 2)), &exact);
            println!("{model}, cache in {kind}: largest difference {worst:.1e}");
            assert!(worst > 0.0 && worst <= tolerance, "{model} {kind}: {worst}");
        }
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn going_back_forgets() {
    let mut engine = fixture(&profile(64, "f16", 64, 2));
    let mut session = engine.session().unwrap();
    let expected = engine.prefill(&mut session, &PROMPT).unwrap().to_vec();
    engine.prefill(&mut session, &[1, 2, 3, 4]).unwrap();
    session.truncate(PROMPT.len() - 1);
    assert_eq!(session.tokens(), &PROMPT[..PROMPT.len() - 1]);
    assert!(engine.decode(&mut session, PROMPT[PROMPT.len() - 1]).unwrap() == expected);
}

#[test]
fn a_state_goes_back_to_nothing() {
    for model in STATES {
        let mut engine = open(&own_fixture(model), &profile(64, "f16", 64, 2));
        let mut session = engine.session().unwrap();
        let expected = engine.prefill(&mut session, &PROMPT).unwrap().to_vec();
        let next = engine.prefill(&mut session, &[1, 2, 3, 4]).unwrap().to_vec();
        // As long as it is, nothing has to go.
        session.truncate(PROMPT.len() + 4);
        assert_eq!(session.position(), PROMPT.len() + 4);
        session.truncate(PROMPT.len());
        assert_eq!((session.position(), session.tokens()), (0, &[][..]), "{model}");
        assert!(engine.prefill(&mut session, &PROMPT).unwrap() == expected, "{model}");
        assert!(engine.prefill(&mut session, &[1, 2, 3, 4]).unwrap() == next, "{model}");
    }
}

#[test]
fn passes_that_end_early_leave_states_as_they_were() {
    for model in STATES {
        let mut engine = open(&own_fixture(model), &profile(64, "f16", 5, 2));
        let mut run = |interrupted: bool| {
            let mut session = engine.session().unwrap();
            engine.prefill(&mut session, &PROMPT[..3]).unwrap();
            if interrupted {
                // Within the second of two passes: the first has changed every state, this one some of them.
                let interrupt = engine.interrupt();
                engine.trace_experts(Some(Box::new(move |choice| {
                    interrupt.fetch_or((choice.first_position, choice.layer) == (8, 1), Ordering::Relaxed);
                })));
                let error = engine.prefill(&mut session, &PROMPT[3..]).unwrap_err();
                assert!(matches!(error, EngineError::Interrupted), "{error}");
                assert_eq!(session.tokens(), &PROMPT[..3]);
                engine.trace_experts(None);
            }
            engine.prefill(&mut session, &PROMPT[3..]).unwrap();
            engine.decode(&mut session, 5).unwrap().to_vec()
        };
        let expected = run(false);
        assert!(run(true) == expected, "{model}");
    }
}

#[test]
fn an_interrupt_ends_a_pass_and_the_session_goes_on() {
    let mut engine = fixture(&profile(64, "f16", 64, 2));
    let mut session = engine.session().unwrap();
    let expected = engine.prefill(&mut session, &PROMPT).unwrap().to_vec();
    let mut session = engine.session().unwrap();
    engine.interrupt().store(true, Ordering::Relaxed);
    assert!(matches!(engine.prefill(&mut session, &PROMPT), Err(EngineError::Interrupted)));
    assert_eq!(session.position(), 0);
    assert!(engine.prefill(&mut session, &PROMPT).unwrap() == expected);
}

/// A file that fails from a chosen read on, until it is mended.
struct Failing {
    file: FileSource,
    reads_left: Arc<AtomicI64>,
}

impl ByteSource for Failing {
    fn len(&self) -> u64 {
        self.file.len()
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> std::io::Result<usize> {
        if self.reads_left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            return Err(std::io::Error::from_raw_os_error(5));
        }
        self.file.read_at(offset, out)
    }
}

#[test]
fn a_drive_that_fails_anywhere_in_a_pass_leaves_the_session_as_it_was() {
    for model in ["deepseek_v2/model-bf16.gguf", "deepseek_v2/model-combined-bf16.gguf", WINDOWS] {
        let path = own_fixture(model);
        let model = gguf::open(&path).unwrap();
        let profile = plan::profile::parse(&profile(64, "f32", 64, 2), "test.yaml").unwrap();
        let mut plan = plan::plan(&profile, &model.inventory, &machine()).unwrap();
        plan.placements.iter_mut().for_each(|placement| placement.home = plan::Tier::Disk);
        plan.staging = plan::Staging { slot: plan::Bytes(1 << 16), slots: 3 };
        let reads_left = Arc::new(AtomicI64::new(i64::MAX));
        let file = FileSource::open(&path).unwrap();
        let source: Arc<dyn ByteSource> = Arc::new(Failing { file, reads_left: Arc::clone(&reads_left) });
        let mut engine = Engine::open(&model, plan, Isa::best(), vec![source], &mut |_, _| {}).unwrap();
        let mut session = engine.session().unwrap();
        let expected = engine.prefill(&mut session, &PROMPT).unwrap().to_vec();
        let mut failed = 0;
        for reads in (0..400).step_by(23) {
            session.truncate(0);
            reads_left.store(reads, Ordering::Relaxed);
            failed += u32::from(engine.prefill(&mut session, &PROMPT).is_err());
            reads_left.store(i64::MAX, Ordering::Relaxed);
            session.truncate(0);
            assert!(engine.prefill(&mut session, &PROMPT).unwrap() == expected, "after {reads} reads");
        }
        assert!(failed > 2, "{failed} passes failed");
    }
}

#[test]
fn a_full_context_is_an_error_that_changes_nothing() {
    let mut engine = fixture(&profile(16, "f16", 64, 2));
    let mut session = engine.session().unwrap();
    engine.prefill(&mut session, &PROMPT).unwrap();
    let error = engine.prefill(&mut session, &[1, 2, 3, 4, 5]).unwrap_err();
    assert!(matches!(error, EngineError::ContextFull { position: 12, asked: 5, capacity: 16 }), "{error}");
    assert_eq!(session.position(), 12);
    engine.prefill(&mut session, &[1, 2, 3, 4]).unwrap();
}

#[test]
fn prompts_that_make_no_sense_are_refused() {
    let mut engine = fixture(&profile(16, "f16", 64, 2));
    let mut session = engine.session().unwrap();
    assert!(matches!(engine.prefill(&mut session, &[]), Err(EngineError::EmptyPrompt)));
    let vocabulary = engine.vocabulary() as u32;
    assert!(matches!(engine.prefill(&mut session, &[0, vocabulary]), Err(EngineError::NoSuchToken { .. })));
}

#[test]
fn generation_ends_for_the_reason_it_gives() {
    let mut engine = fixture(&profile(32, "f16", 64, 2));
    let mut run = |max_tokens: usize, stop: &[u32], take: usize| {
        let mut session = engine.session().unwrap();
        let request = Request { prompt: &PROMPT, max_tokens, sampling: Sampling::default(), stop_tokens: stop };
        let mut left = take;
        let mut listen = |_| {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        generate(&mut engine, &mut session, &request, &mut listen).unwrap()
    };
    let all = run(5, &[], 99);
    assert_eq!((all.finish, all.tokens.len(), all.prompt_tokens), (Finish::Length, 5, PROMPT.len()));
    let stopped = run(5, &[all.tokens[3]], 99);
    let first = all.tokens.iter().position(|token| *token == all.tokens[3]).unwrap();
    assert_eq!((stopped.finish, &stopped.tokens[..]), (Finish::EndOfText, &all.tokens[..first]));
    assert_eq!(run(5, &[], 2).finish, Finish::Stopped);
    assert_eq!(run(0, &[], 99).tokens.len(), 0);
    let full = run(100, &[], 99);
    // 12 of the prompt, 20 generated and kept, and one more whose logits were never asked for.
    assert_eq!((full.finish, full.tokens.len()), (Finish::ContextFull, 21));
}
