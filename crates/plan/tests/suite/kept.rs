//! Experts that stay on a GPU: what that costs and gains by sums done by hand, and when the planner has some stay.

use plan::profile::{parse, to_yaml};
use plan::{BytesPerSecond, ExpertUse, ExpertUseWriter, Fetch, Inventory, Plan, Rate, Source, Tier, plan_for};

use crate::common;
use crate::forecast::{ASKING_S, ATTENTION_S, CROSSING_S, MIXTURE_S, START_S, mixture_of, near, with_gpu};

/// What is needed besides, and some 20 experts of 4 MB.
const MEMORY: &str = "850MiB";

fn planned(model: &Inventory, memory: &str, rest: &str, counts: Option<&ExpertUse>) -> Plan {
    let text = format!(
        "version: 1\ntiers: {{ gpu:0: {{ memory: {memory} }}, ram: {{ memory: 1GiB }} }}\nprefill: {{ stream_to: none }}\n{rest}\n"
    );
    plan_for(&parse(&text, "p.yaml").unwrap(), model, &with_gpu(2e10), counts, &common::ALL).unwrap()
}

#[test]
fn what_stayed_costs_its_products_alone() {
    let model = mixture_of(4, 2);
    let rules = |decode: &str| format!("placement: [{{ role: routed_expert, home: ram }}]\ndecode: {{ {decode} }}");
    let plan = planned(&model, "4GiB", &rules("fetch_experts: 1, keep_experts: 2"), None);
    // Two of four experts stay, so that of two that a token uses one is there. Half of the other comes: 2 MB of 4 GB/s, and the GPU's 0.1 ms for it and
    // for the one that is there; RAM gives 4.4 GB/s to what comes and to the processor's half of an expert.
    let comes_s = 0.000_5 + 0.000_15 + 7e-6;
    let beside_s = f64::max(comes_s, 0.004 / 4.4);
    let kernels = 2.0 * START_S + ATTENTION_S + MIXTURE_S + 3.0 * 0.5 * ASKING_S;
    let layer = 0.000_1 + 0.000_102_4 + 0.4e-6 + beside_s + 3.0 * CROSSING_S + kernels;
    let output = 0.000_1 + START_S + 1e-6 + CROSSING_S + 1e-6;
    near(plan.forecast.decode_tokens_per_s, 1.0 / (layer + output));
    // Bytes of weights a token: the expert that is there counts as the GPU's.
    let without = planned(&model, "4GiB", &rules("fetch_experts: 1"), None);
    let read = |plan: &Plan, tier| plan.tier(tier).unwrap().read_per_token.0;
    assert_eq!(read(&plan, Tier::Gpu(0)) - read(&without, Tier::Gpu(0)), 4_000_000);
    assert_eq!(read(&without, Tier::Ram) - read(&plan, Tier::Ram), 4_000_000);
    // Rooms for three experts instead of one, and their tables.
    let rooms = |plan: &Plan| plan.tiers[0].loads.iter().find(|load| load.what == "fetched experts").unwrap().bytes.0;
    assert_eq!(rooms(&plan) - rooms(&without), 2 * (4_000_000_u64 + 512).next_multiple_of(256) + 2 * 96);
    let written = to_yaml(&plan, &model);
    assert!(written.contains("keep_experts: 2"), "{written}");
    assert!(!to_yaml(&without, &model).contains("keep_experts"));
}

/// Counts and trace of 2,000 tokens, each of which chooses 4 of `span` experts next to each other; where these begin moves by `span` of 64 every
/// `every` tokens.
fn traced(model: &Inventory, span: u32, every: u32) -> ExpertUse {
    let (mut writer, mut counts) = (ExpertUseWriter::default(), ExpertUse::new(model));
    let mut text = writer.head(&counts);
    let mut state = 1_u32;
    for token in 0..2000_u32 {
        let mut chosen = Vec::new();
        while chosen.len() < 4 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let expert = (token / every * span + (state >> 16) % span) % 64;
            if !chosen.contains(&expert) {
                chosen.push(expert);
            }
        }
        counts.add(0, &chosen);
        counts.add_tokens(1);
        text += &writer.line(token, 0, [&chosen]);
    }
    text += &writer.tail(&counts);
    ExpertUse::parse(&text, "use.json").unwrap()
}

#[test]
fn experts_stay_where_a_trace_says_that_it_gains() {
    let model = mixture_of(64, 4);
    let plan_with = |counts: Option<&ExpertUse>| planned(&model, MEMORY, "aim: decode", counts);
    let homes = |plan: &Plan| {
        let experts = model.units.iter().zip(&plan.placements).filter(|(unit, _)| unit.expert.is_some());
        experts.filter(|(_, placement)| placement.home == Tier::Gpu(0)).count()
    };
    let usual = plan_with(None);
    assert!((8..40).contains(&homes(&usual)), "{} experts on the GPU", homes(&usual));
    // All of them in the end as often as others, and a few for a while: whoever is kept by use is found.
    let drifting = traced(&model, 8, 100);
    let plan = plan_with(Some(&drifting));
    let Fetch { kept, experts, .. } = plan.fetch.unwrap();
    assert!(kept >= 8 && experts > 0, "{:?}", plan.fetch);
    let fixed = planned(&model, MEMORY, "aim: decode\ndecode: { keep_experts: 0 }", Some(&drifting));
    assert_eq!(fixed.fetch.map_or(0, |fetch| fetch.kept), 0);
    let [gained, before] = [&plan, &fixed].map(|plan| plan.forecast.decode_tokens_per_s);
    assert!(gained > 1.5 * before, "{gained} {before}");
    assert!(plan.tier(Tier::Gpu(0)).unwrap().bytes() <= plan.tier(Tier::Gpu(0)).unwrap().ceiling.unwrap());
    // The same without order: nothing is gained by what comes and goes.
    let plan = plan_with(Some(&traced(&model, 64, 2000)));
    assert_eq!((plan.fetch.map_or(0, |fetch| fetch.kept), homes(&plan) > 0), (0, true));
    // Counts without a trace do not tell.
    let counts = ExpertUse::parse(&drifting.to_json(), "use.json").unwrap();
    assert_eq!(plan_with(Some(&counts)).fetch.map_or(0, |fetch| fetch.kept), 0);
}

#[test]
fn a_slow_link_brings_one_expert_at_least_where_some_stay() {
    let model = mixture_of(64, 4);
    let text = "version: 1\ntiers: { gpu:0: { memory: 4GiB }, ram: { memory: 1GiB } }\nprefill: { stream_to: none }\n\
                placement: [{ role: routed_expert, home: ram }]\ndecode: { keep_experts: 32 }\n";
    let mut machine = with_gpu(2e10);
    machine.gpus[0].link = Rate { rate: BytesPerSecond(1e8), source: Source::Measured };
    let plan = plan_for(&parse(text, "p.yaml").unwrap(), &model, &machine, None, &common::ALL).unwrap();
    let fetch = plan.fetch.unwrap();
    assert_eq!((fetch.experts, fetch.kept), (1, 32));
    assert_eq!([0, 1, 2, 4].map(|away| fetch.share(away)), [0, 1, 1, 1]);
    assert_eq!((fetch.rooms(), fetch.kept_by_each(3), fetch.kept_by_each(0)), (33, 10, 0));
}
