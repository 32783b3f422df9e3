//! Plans with counts of how often each expert was chosen.

#![allow(clippy::disallowed_methods, reason = "tests read files; the crate does not")]

use std::collections::BTreeMap;

use plan::expert_cache::Policy;
use plan::profile::{parse, to_yaml};
use plan::report::ExpertHome;
use plan::{
    Bytes, ExpertUse, Inventory, Machine, ModelShape, Plan, QuantType, Refusal, Tier, VocabularySize, plan, plan_for,
    plan_with, report,
};

use crate::common;

/// One layer of 4 experts, of which a token uses 2: each of three matrices of 4 MB, and a bias.
fn small() -> Inventory {
    let shape = ModelShape {
        architecture: "gpt-oss".to_owned(),
        layers: 1,
        embedding: 1000,
        heads: 1,
        feed_forward: 1000,
        vocabulary: 100,
        context_train: 512,
        kv_per_token: vec![(100, 100)],
        kv_row: (100, 100),
        latent: None,
        indexer_per_token: Vec::new(),
        delta: None,
        experts: 4,
        experts_used: 2,
    };
    let experts = |name: &str, dims: Vec<u64>| (format!("blk.0.ffn_{name}"), QuantType::F32, dims);
    let list = [
        experts("gate_exps.weight", vec![1000, 1000, 4]),
        experts("up_exps.weight", vec![1000, 1000, 4]),
        experts("down_exps.weight", vec![1000, 1000, 4]),
        experts("down_exps.bias", vec![1000, 4]),
    ];
    common::build("small", shape, VocabularySize::default(), list)
}

/// Seven tokens, of which 1, 7, 0 and 6 chose each expert of the small model.
fn counts_of_small() -> ExpertUse {
    let mut counts = ExpertUse::new(&small());
    counts.add_tokens(7);
    for (expert, uses) in [(0, 1), (1, 7), (3, 6)] {
        counts.add(0, &vec![expert; uses]);
    }
    counts
}

/// Counts as routers make them: few experts have most uses, others in each layer.
fn skewed(model: &Inventory) -> ExpertUse {
    let mut counts = ExpertUse::new(model);
    counts.add_tokens(2500);
    let layers: Vec<u32> = counts.layers().map(|(layer, _)| layer).collect();
    for layer in layers {
        for expert in 0..counts.experts() {
            let rank = (expert * 37 + layer * 11) % counts.experts();
            counts.add(layer, &vec![expert; 4000 / (rank as usize + 4)]);
        }
    }
    counts
}

fn with_counts(model: &Inventory, text: &str, machine: &Machine, counts: &ExpertUse) -> Plan {
    let profile = parse(text, "p.yaml").unwrap_or_else(|error| panic!("{error}"));
    plan_for(&profile, model, machine, Some(counts), &common::ALL).unwrap_or_else(|refusal| panic!("{refusal}"))
}

fn config() -> String {
    let path = format!("{}/../../configs/rtx3060-12g-671b.yaml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

/// The home of each expert, which none of its matrices leaves.
fn homes(plan: &Plan, model: &Inventory) -> BTreeMap<(u32, u32), Tier> {
    let mut homes = BTreeMap::new();
    for (id, unit) in model.iter().filter(|(_, unit)| unit.rows > 1) {
        if let (Some(layer), Some(expert)) = (unit.layer, unit.expert) {
            let home = *homes.entry((layer, expert)).or_insert(plan.home(id));
            assert_eq!(home, plan.home(id), "expert {expert} of layer {layer} is torn");
        }
    }
    homes
}

/// The least ceiling of RAM that holds so many experts of the small model.
fn holding(experts: usize, counts: &ExpertUse) -> Plan {
    let text = |kib: u64| {
        format!(
            "version: 1\ntiers: {{ ram: {{ memory: {kib}KiB, threads: 1 }}, disk: {{}} }}\n\
             context: {{ tokens: 64 }}\nprefill: {{ micro_batch: 16 }}\n"
        )
    };
    let plans = (18_000..80_000).step_by(500).filter_map(|kib| {
        let profile = parse(&text(kib), "p.yaml").unwrap();
        plan_with(&profile, &small(), &common::laptop(), Some(counts)).ok()
    });
    let held = |plan: &Plan| homes(plan, &small()).values().filter(|home| **home == Tier::Ram).count();
    plans.into_iter().find(|plan| held(plan) == experts).unwrap_or_else(|| panic!("no ceiling holds {experts}"))
}

#[test]
fn the_experts_with_most_uses_are_nearest_and_ties_go_by_number() {
    let near = |experts: usize, counts: &ExpertUse| -> Vec<u32> {
        let homes = homes(&holding(experts, counts), &small());
        homes.into_iter().filter(|(_, home)| *home == Tier::Ram).map(|((_, expert), _)| expert).collect()
    };
    assert_eq!(near(1, &counts_of_small()), [1]);
    assert_eq!(near(2, &counts_of_small()), [1, 3]);
    assert_eq!(near(3, &counts_of_small()), [0, 1, 3]);
    assert_eq!(near(2, &ExpertUse::new(&small())), [0, 1]);
}

#[test]
fn a_profile_says_who_makes_room_and_whether_anybody_does() {
    let (model, counts) = (small(), counts_of_small());
    let ram = holding(2, &counts).tiers.iter().find(|tier| tier.tier == Tier::Ram).and_then(|tier| tier.ceiling);
    let kib = ram.expect("a ceiling").0 >> 10;
    for (asked, policy) in [
        ("auto", Policy::USUAL),
        ("least_used", Policy::USUAL),
        ("least_recent", Policy::Recent),
        ("none", Policy::Fixed),
    ] {
        let text = format!(
            "version: 1\ntiers: {{ ram: {{ memory: {kib}KiB, threads: 1 }}, disk: {{}} }}\ncontext: {{ tokens: 64 }}\n\
             prefill: {{ micro_batch: 16 }}\ndecode: {{ exchange_experts: {asked} }}\n"
        );
        let plan = with_counts(&model, &text, &common::laptop(), &counts);
        assert_eq!(plan.exchange, policy, "{asked}");
        let experts =
            model.units.iter().zip(&plan.placements).filter(|(unit, _)| unit.rows > 1 && unit.expert.is_some());
        assert!(experts.into_iter().all(|(_, placement)| placement.exchanges == (asked != "none")), "{asked}");
        let near = homes(&plan, &model).into_iter().filter(|(_, home)| *home == Tier::Ram);
        assert_eq!(near.map(|((_, expert), _)| expert).collect::<Vec<_>>(), [1, 3], "{asked}");
    }
}

#[test]
fn experts_with_matrices_in_several_tiers_are_counted_apart_and_their_bytes_where_they_are() {
    let (model, counts) = (small(), counts_of_small());
    let rules =
        "placement: [{ tensors: ffn_down_exps.weight, experts: 1..=2, home: disk }, { experts: 3, home: disk }]";
    let text = format!("version: 1\ntiers: {{ ram: {{ memory: 1GiB }}, disk: {{}} }}\n{rules}\n");
    let plan = with_counts(&model, &text, &common::laptop(), &counts);
    let homes = report::experts(&plan, &model, Some(&counts));
    let found: Vec<_> = homes.iter().map(|home| (home.home.to_string(), home.experts, home.parts.clone())).collect();
    let expected = [("ram", 1), ("disk", 1), ("split", 2)];
    assert_eq!(found, expected.map(|(home, experts)| (home.to_owned(), experts, vec![(0, experts)])));
    // A matrix has 4 MB; the shares are those above.
    let read = |matrices: f64| Some(Bytes((matrices * 4e6).round() as u64));
    let [ram, disk, split] = &homes[..] else { panic!("{homes:?}") };
    assert_eq!(ram.read_per_token, read((3.0 * 1.5 + 2.0 * 7.5 + 2.0 * 0.5) / 8.0));
    assert_eq!(disk.read_per_token, read((3.0 * 6.5 + 7.5 + 0.5) / 8.0));
    assert_eq!((split.read_per_token, split.uses), (None, 1.0 / 2.0));
    let bias_bytes = plan.tier(Tier::Disk).unwrap().read_per_token - disk.read_per_token.unwrap();
    assert!(bias_bytes < Bytes(8000), "{bias_bytes}");
    let text = report::text_with(&plan, &model, Some(&counts));
    assert!(text.contains("split        2   50.0 %   50.0 %    in each tier  2 of layer 0\n"), "{text}");
}

#[test]
fn biases_of_experts_go_with_the_small_vectors() {
    let (model, plan) = (small(), holding(1, &counts_of_small()));
    for (id, unit) in model.iter().filter(|(_, unit)| unit.rows == 1) {
        assert_eq!(plan.home(id), Tier::Ram, "expert {:?}", unit.expert);
    }
}

#[test]
fn the_forecast_takes_the_shares_that_were_counted() {
    let (model, counts) = (small(), counts_of_small());
    let plan = holding(2, &counts);
    // 14 choices, and half a one more for each of four experts: 2/16 of a token for a choice. Experts 1 and 3 are in RAM.
    let (expert, bias) = (12e6, 4000.0);
    let (hot, cold) = ((7.5 + 6.5) / 8.0, (1.5 + 0.5) / 8.0);
    let read = |tier: Tier| plan.tier(tier).unwrap().read_per_token.as_f64();
    assert!((read(Tier::Disk) - expert * cold).abs() < 2.0, "{}", read(Tier::Disk));
    let near = expert * hot + bias * (hot + cold);
    assert!((read(Tier::Ram) - near).abs() < 2.0, "{}", read(Tier::Ram));
    // The disk of the laptop reads 3 GB/s, its RAM a quarter of 30 GB/s with one thread of four. The cache holds 64 tokens.
    let (weights, cache) = ((expert + bias) * (hot + cold), 64.0 * 400.0);
    let seconds = (expert * cold / 3e9).max((weights + cache) / 7.5e9);
    let decode = plan.forecast.decode_tokens_per_s;
    assert!((decode * seconds - 1.0).abs() < 1e-6, "{decode} against {}", 1.0 / seconds);
    let experts = report::experts(&plan, &model, Some(&counts));
    assert_eq!(
        experts.iter().map(|home| (home.home, home.experts)).collect::<Vec<_>>(),
        [(ExpertHome::In(Tier::Ram), 2), (ExpertHome::In(Tier::Disk), 2)]
    );
    assert!((experts[0].uses - hot / (hot + cold)).abs() < 1e-9);
}

#[test]
fn counts_of_no_token_change_nothing() {
    let model = common::inventory("deepseek-r1-iq1_s");
    let machine = common::desktop(Bytes(64 << 30));
    let profile = parse(&config(), "p.yaml").unwrap();
    let without = plan(&profile, &model, &machine).unwrap();
    assert_eq!(plan_with(&profile, &model, &machine, Some(&ExpertUse::new(&model))).unwrap(), without);
}

#[test]
fn counts_of_another_model_are_refused() {
    let model = common::inventory("deepseek-r1-iq1_s");
    let profile = parse(&config(), "p.yaml").unwrap();
    let machine = common::desktop(Bytes(64 << 30));
    let refusal = plan_with(&profile, &model, &machine, Some(&counts_of_small())).unwrap_err();
    assert!(matches!(refusal, Refusal::Experts(_)), "{refusal}");
    assert!(refusal.to_string().contains("and DeepSeek R1 671B has deepseek2"), "{refusal}");
}

#[test]
fn hot_experts_of_a_671b_model_are_near_and_make_it_faster() {
    let model = common::inventory("deepseek-r1-iq1_s");
    let (machine, counts) = (common::desktop(Bytes(64 << 30)), skewed(&model));
    let profile = parse(&config(), "p.yaml").unwrap();
    let plain = plan(&profile, &model, &machine).unwrap();
    let plan = with_counts(&model, &config(), &machine, &counts);
    let disk = |plan: &Plan| plan.tier(Tier::Disk).unwrap().read_per_token;
    assert!(disk(&plan).times(2) < disk(&plain), "{} against {}", disk(&plan), disk(&plain));
    assert!(plan.forecast.decode_tokens_per_s > 1.5 * plain.forecast.decode_tokens_per_s);
    let homes = homes(&plan, &model);
    let share = |(layer, expert): &(u32, u32)| counts.share(*layer, *expert).unwrap();
    // Of the layers that share a rule, and sizes.
    let of = |home: Tier| homes.iter().filter(move |((layer, _), tier)| *layer > 6 && **tier == home);
    let coldest = of(Tier::Ram).map(|(expert, _)| share(expert)).fold(1.0, f64::min);
    let hottest = of(Tier::Disk).map(|(expert, _)| share(expert)).fold(0.0, f64::max);
    assert!(coldest >= hottest, "{coldest} in ram, {hottest} on disk");
}

#[test]
fn a_plan_by_counts_reads_well() {
    let model = common::inventory("deepseek-r1-iq1_s");
    let (machine, counts) = (common::desktop(Bytes(64 << 30)), skewed(&model));
    let plan = with_counts(&model, &config(), &machine, &counts);
    let mut text = report::text_with(&plan, &model, Some(&counts));
    for name in ["blk.4.ffn_gate_exps.weight", "blk.4.ffn_gate_exps.weight[17]", "blk.40.ffn_down_exps.weight[5]"] {
        text = format!("{text}\n{}", report::explain_with(&plan, &model, name, Some(&counts)).unwrap());
    }
    for name in ["blk.4.ffn_gate_exps.weight[256]", "blk.4.ffn_gate_exps.weight[", "output.weight[0]"] {
        text = format!("{text}\n{}\n", report::explain_with(&plan, &model, name, Some(&counts)).unwrap_err());
    }
    for line in text.lines().filter(|line| !line.starts_with("hint") && !line.contains("to move it")) {
        assert!(line.chars().count() <= report::COLUMNS, "{line}");
    }
    insta::assert_snapshot!("by_counts", text);
}

#[test]
fn a_plan_by_counts_written_down_gives_itself_again() {
    let model = common::inventory("deepseek-r1-iq1_s");
    let (machine, counts) = (common::desktop(Bytes(64 << 30)), skewed(&model));
    let first = with_counts(&model, &config(), &machine, &counts);
    let text = to_yaml(&first, &model);
    let again = with_counts(&model, &text, &machine, &counts);
    assert_eq!(homes(&first, &model), homes(&again, &model));
    assert_eq!((first.tiers, first.forecast), (again.tiers, again.forecast));
}
