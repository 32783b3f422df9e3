//! Properties that every plan has, over random models, ceilings and rules.

use std::fmt::Write as _;

use plan::gpu::{Abilities, NOW};
use plan::profile::{parse, to_yaml};
use plan::{
    Bytes, Device, Inventory, Machine, ModelShape, Plan, QuantType, Refusal, Role, Tier, VocabularySize, compare_for,
    plan_for,
};
use proptest::prelude::*;

use crate::common;

/// A model of random shape: dense, or with experts in its later layers; tied or not.
fn models() -> impl Strategy<Value = Inventory> {
    let shape = (1_u32..6, 1_u64..5, 1_u64..9, prop_oneof![Just(0_u32), Just(4), Just(16)], any::<bool>(), 1_u64..40);
    let quants = [QuantType::Q4K, QuantType::Q6K, QuantType::F16, QuantType::Iq1S];
    (shape, proptest::collection::vec(proptest::sample::select(quants.to_vec()), 8)).prop_map(
        |((layers, width, wide, experts, tied, words), quants)| {
            let (d, ff, vocabulary) = (width * 256, wide * 512, words * 256);
            let mut list = vec![("token_embd.weight".to_owned(), quants[0], vec![d, vocabulary])];
            for layer in 0..layers {
                let mut add = |name: &str, quant: QuantType, dims: Vec<u64>| {
                    list.push((format!("blk.{layer}.{name}"), quant, dims));
                };
                add("attn_norm.weight", QuantType::F32, vec![d]);
                add("attn_q.weight", quants[1], vec![d, d]);
                add("attn_k.weight", quants[2], vec![d, 64]);
                add("attn_v.weight", quants[3], vec![d, 64]);
                add("attn_output.weight", quants[4], vec![d, d]);
                add("ffn_norm.weight", QuantType::F32, vec![d]);
                if experts > 0 && layer > 0 {
                    let count = u64::from(experts);
                    add("ffn_gate_inp.weight", QuantType::F32, vec![d, count]);
                    add("ffn_gate_exps.weight", quants[5], vec![d, 256, count]);
                    add("ffn_up_exps.weight", quants[6], vec![d, 256, count]);
                    add("ffn_down_exps.weight", quants[7], vec![256, d, count]);
                } else {
                    add("ffn_gate.weight", quants[5], vec![d, ff]);
                    add("ffn_up.weight", quants[6], vec![d, ff]);
                    add("ffn_down.weight", quants[7], vec![ff, d]);
                }
            }
            list.push(("output_norm.weight".to_owned(), QuantType::F32, vec![d]));
            if !tied {
                list.push(("output.weight".to_owned(), quants[1], vec![d, vocabulary]));
            }
            let shape = ModelShape {
                architecture: "llama".to_owned(),
                layers,
                embedding: d as u32,
                heads: 4,
                feed_forward: ff as u32,
                vocabulary: vocabulary as u32,
                context_train: 8192,
                kv_per_token: vec![(64, 64); layers as usize],
                kv_row: (16, 16),
                latent: None,
                indexer_per_token: Vec::new(),
                delta: None,
                experts,
                experts_used: experts / 4,
            };
            let vocabulary =
                VocabularySize { tokens: vocabulary, merges: vocabulary, text_bytes: Bytes(vocabulary * 8) };
            common::build("random", shape, vocabulary, list)
        },
    )
}

/// A profile over some tiers with tight or wide ceilings and some rules.
fn profiles() -> impl Strategy<Value = String> {
    let tiers = (20_u64..400, proptest::option::of(460_u64..800), proptest::bool::weighted(0.8));
    let rules = [
        "{ role: attention, home: ram, overflow: disk }",
        "{ role: norm, home: disk }",
        "{ role: dense_ffn, layers: 0, home: disk }",
        "{ tensors: 'blk.*_(k|v)', home: ram }",
        "{ role: embedding, home: disk }",
        "{ layers: 0, home: gpu:0, overflow: ram }",
        "{ tensors: 'ffn_up', home: gpu:0, overflow: disk }",
        "{ tensors: 'attn_q.weight', layers: 0, home: gpu:0 }",
    ];
    let rules = proptest::sample::subsequence(rules.to_vec(), 0..4);
    let settings = (proptest::option::of(16_u32..3000), proptest::option::of(1_u32..600), any::<bool>());
    (tiers, rules, settings).prop_map(|((ram, gpu, disk), rules, (tokens, batch, q8))| {
        let mut text = format!("version: 1\ntiers:\n  ram: {{ memory: {ram}MiB, threads: 3 }}\n");
        let named = |rule: &&&str| (disk || !rule.contains("disk")) && (gpu.is_some() || !rule.contains("gpu"));
        if disk {
            text.push_str("  disk: {}\n");
        }
        if let Some(gpu) = gpu {
            let _ = writeln!(text, "  gpu:0: {{ memory: {gpu}MiB }}");
        }
        let kv = if q8 { "q8_0" } else { "f16" };
        let auto = |value: Option<u32>| value.map_or("auto".to_owned(), |value| value.to_string());
        let _ = writeln!(text, "context: {{ tokens: {}, kv_type: {kv} }}", auto(tokens));
        let _ = writeln!(text, "prefill: {{ micro_batch: {} }}", auto(batch));
        let rules: Vec<&&str> = rules.iter().filter(named).collect();
        if !rules.is_empty() {
            text.push_str("placement:\n");
            for rule in rules {
                let _ = writeln!(text, "  - {rule}");
            }
        }
        text
    })
}

fn abilities() -> impl Strategy<Value = Abilities> {
    prop_oneof![Just(NOW), Just(common::ALL)]
}

fn machine() -> Machine {
    common::desktop(Bytes(8 << 30))
}

/// A plan, or nothing where the profile is refused; a refusal shows a sum that is really too much.
fn planned(text: &str, model: &Inventory, abilities: &Abilities) -> Option<Plan> {
    let profile = parse(text, "p.yaml").unwrap_or_else(|error| panic!("{text}\n{error}"));
    match plan_for(&profile, model, &machine(), None, abilities) {
        Ok(plan) => Some(plan),
        Err(Refusal::DoesNotFit(refusal)) => {
            assert!(refusal.needed() > refusal.ceiling, "{text}\n{refusal}");
            assert!(!refusal.ways_out.is_empty(), "{text}\n{refusal}");
            if !text.contains("gpu") {
                // The sum is what it says: that much is enough.
                assert!(refusal.to_string().contains("--ram"), "{text}\n{refusal}");
            }
            None
        }
        Err(Refusal::Profile(_) | Refusal::Experts(_)) => None,
    }
}

/// The test's machine with rates of any kind: a drive faster than a link, a card slower than RAM.
fn machines() -> impl Strategy<Value = Machine> {
    let rate = || (0.0_f64..4.0).prop_map(|digits| 1e8 * 10.0_f64.powf(digits));
    (rate(), rate(), rate(), rate(), 0.0_f64..4.0).prop_map(|(ram, disk, card, link, operations)| {
        let mut machine = machine();
        (machine.ram_read.rate.0, machine.disk_read.rate.0) = (ram, disk);
        (machine.gpus[0].read.rate.0, machine.gpus[0].link.rate.0) = (card, link);
        machine.gpus[0].ops_per_second = 1e10 * 10.0_f64.powf(operations);
        machine
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_simple_placement_is_faster_by_the_forecast(
        model in models(),
        text in profiles(),
        machine in machines(),
        abilities in abilities(),
        aim in proptest::sample::select(vec!["", "aim: decode\n", "aim: prefill\n", "aim: balanced\nlengths: { prompt: 3000, answer: 7 }\n"]),
    ) {
        let profile = parse(&format!("{text}{aim}"), "p.yaml").unwrap();
        let Ok(rows) = compare_for(&profile, &model, &machine, None, &abilities) else { return Ok(()) };
        prop_assert!(rows[0].chosen && rows[0].plan.is_some() && rows[0].seconds.is_finite());
        for row in &rows[1..] {
            prop_assert!(!row.chosen && rows[0].seconds <= row.seconds * (1.0 + 1e-9), "{text}{aim}{rows:?}");
            // Simple placements keep to the same ceilings and rules.
            for tier in row.plan.iter().flat_map(|plan| &plan.tiers) {
                prop_assert!(tier.ceiling.is_none_or(|ceiling| tier.bytes() <= ceiling), "{text}\n{tier:?}");
            }
        }
        prop_assert_eq!(rows.len(), if model.shape.experts > 0 { 3 } else { 2 });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_tier_is_over_its_line_and_every_unit_has_a_home(model in models(), text in profiles(), abilities in abilities()) {
        let Some(plan) = planned(&text, &model, &abilities) else { return Ok(()) };
        for tier in &plan.tiers {
            if let Some(ceiling) = tier.ceiling {
                prop_assert!(tier.bytes() <= ceiling, "{text}\n{tier:?}");
            }
        }
        prop_assert_eq!(plan.placements.len(), model.units.len());
        for placement in &plan.placements {
            prop_assert!(plan.tier(placement.home).is_some(), "{text}\n{placement:?}");
            prop_assert!(text.contains(&placement.home.to_string()));
            prop_assert!(!placement.reason.is_empty());
        }
        let streams = |role: Role| role != Role::Embedding || model.tied_output();
        let disk = |(index, unit): (usize, &plan::Unit)| plan.placements[index].home == Tier::Disk && streams(unit.role);
        let needs_ring = model.units.iter().enumerate().any(disk);
        prop_assert_eq!(needs_ring, plan.staging.slots > 0, "{}", text);
        let row = model.tensors.iter().map(plan::Tensor::row_bytes).max().unwrap();
        prop_assert!(!needs_ring || plan.staging.slot >= row);
        // A block is the GPU's on which one of its matrices lives or to which it comes in decode, and a layer's cache lives where its attention is
        // computed.
        for (layer, devices) in plan.blocks.iter().enumerate() {
            for (device, attention) in [(devices.attention, true), (devices.ffn, false)] {
                let here = |unit: &plan::Unit| {
                    unit.layer == Some(layer as u32) && !model.is_vector(unit) && (unit.role == Role::Attention) == attention
                };
                let mut placed = model.units.iter().zip(&plan.placements).filter(|(unit, _)| here(unit));
                let on_gpu = placed.any(|(_, p)| matches!(p.home, Tier::Gpu(_)) || p.decode == Device::Gpu(0));
                prop_assert_eq!(device, if on_gpu { Device::Gpu(0) } else { Device::Cpu }, "layer {}: {}", layer, text);
            }
            let home = if devices.attention == Device::Cpu { Tier::Ram } else { Tier::Gpu(0) };
            prop_assert_eq!(plan.kv.homes[layer], home);
        }
        let caches: Bytes = plan.tiers.iter().flat_map(|tier| &tier.loads).filter(|load| load.what == "KV cache").map(|load| load.bytes).sum();
        prop_assert_eq!(caches, plan.kv.bytes);
        prop_assert_eq!(plan.stream_from.is_some() || plan.streams_in_decode(), !plan.device_staging.is_empty());
        prop_assert!(plan.stream_from.is_none_or(|from| from > 1), "one token is decode: {}", text);
        let forecast = plan.forecast;
        for figure in [forecast.decode_tokens_per_s, forecast.prompt_tokens_per_s, forecast.load_s] {
            prop_assert!(figure.is_finite() && figure >= 0.0, "{forecast:?}");
        }
    }

    #[test]
    fn the_same_question_has_the_same_answer(model in models(), text in profiles()) {
        prop_assert_eq!(planned(&text, &model, &common::ALL), planned(&text, &model, &common::ALL));
    }

    #[test]
    fn a_plan_written_down_gives_itself_again(model in models(), text in profiles(), abilities in abilities()) {
        let Some(plan) = planned(&text, &model, &abilities) else { return Ok(()) };
        let written = to_yaml(&plan, &model);
        let Some(again) = planned(&written, &model, &abilities) else {
            return Err(TestCaseError::fail(format!("refused:\n{text}\n{written}")));
        };
        let homes = |plan: &Plan| -> Vec<_> {
            plan.placements.iter().map(|placement| (placement.home, placement.decode, placement.prefill)).collect()
        };
        prop_assert_eq!(homes(&plan), homes(&again), "{}\n{}", text, written);
        prop_assert_eq!((&plan.blocks, plan.output, &plan.device_staging), (&again.blocks, again.output, &again.device_staging));
        prop_assert_eq!(&plan.tiers, &again.tiers, "{}\n{}", text, written);
        prop_assert_eq!((&plan.kv, plan.staging), (&again.kv, again.staging), "{}\n{}", text, written);
        prop_assert_eq!((plan.micro_batch, plan.threads), (again.micro_batch, again.threads));
        prop_assert_eq!(plan.forecast, again.forecast);
    }
}
