//! Several GPUs of unlike sizes and rates: whole layers in turn, none over its line, never slower than one of them.

use std::fmt::Write as _;

use plan::profile::parse;
use plan::{Bytes, Device, Inventory, Machine, Overrides, Plan, Role, Tier, plan};
use proptest::prelude::*;

use crate::common;

/// A desktop with GPUs of these sizes in MiB and rates in GB/s.
fn machine(cards: &[(u64, f64)]) -> Machine {
    let machine = common::desktop(Bytes(64 << 30));
    let gpus = cards.iter().map(|(_, rate)| {
        let mut gpu = machine.gpus[0].clone();
        gpu.read.rate.0 = rate * 1e9;
        gpu
    });
    Machine { gpus: gpus.collect(), ..machine.clone() }
}

fn profile(cards: impl Iterator<Item = (usize, u64)>, rest: &str) -> String {
    let mut text = "version: 1\ntiers:\n  ram: { memory: 40GiB }\n".to_owned();
    for (number, mib) in cards {
        let _ = writeln!(text, "  gpu:{number}: {{ memory: {mib}MiB }}");
    }
    text + rest
}

/// The plan over those of the cards that are `used`.
fn planned(model: &Inventory, cards: &[(u64, f64)], used: impl Fn(usize) -> bool, rest: &str) -> Plan {
    let named = cards.iter().enumerate().map(|(number, (mib, _))| (number, *mib)).filter(|(number, _)| used(*number));
    let text = profile(named, rest);
    let profile = parse(&text, "p.yaml").unwrap_or_else(|error| panic!("{text}\n{error}"));
    plan(&profile, model, &machine(cards)).unwrap_or_else(|refusal| panic!("{text}\n{refusal}"))
}

/// The cards in the order in which a token meets them.
fn way(plan: &Plan) -> Vec<u32> {
    let layers = plan.blocks.iter().flat_map(|layer| [layer.attention, layer.ffn]);
    let mut way: Vec<u32> = layers
        .chain([plan.output])
        .filter_map(|device| if let Device::Gpu(number) = device { Some(number) } else { None })
        .collect();
    way.dedup();
    way
}

fn check(plan: &Plan, model: &Inventory, what: &str) -> Result<(), TestCaseError> {
    for tier in &plan.tiers {
        prop_assert!(tier.ceiling.is_none_or(|ceiling| tier.bytes() <= ceiling), "{what}: {tier:?}");
    }
    let way = way(plan);
    let once = way.iter().enumerate().all(|(place, card)| !way[..place].contains(card));
    // What is copied to a card for each token is between layers of the processor.
    prop_assert!(once || plan.streams_in_decode(), "{what}: {way:?}, {:?}", plan.blocks);
    for (layer, devices) in plan.blocks.iter().enumerate() {
        let two = devices.attention != Device::Cpu && devices.ffn != Device::Cpu && devices.attention != devices.ffn;
        prop_assert!(!two || plan.streams_in_decode(), "{what}: layer {layer} is torn");
        let home = if let Device::Gpu(number) = devices.attention { Tier::Gpu(number) } else { Tier::Ram };
        prop_assert_eq!(plan.kv.homes[layer], home);
    }
    // What is computed together lies on one card, or in RAM.
    for (unit, placement) in model.units.iter().zip(&plan.placements) {
        let Some(devices) = unit.layer.and_then(|layer| plan.blocks.get(layer as usize)) else { continue };
        let device = if unit.role == Role::Attention { devices.attention } else { devices.ffn };
        match (placement.home, placement.prefill) {
            (Tier::Gpu(card), _) => prop_assert_eq!(device, Device::Gpu(card)),
            (_, Device::Gpu(card)) => {
                prop_assert!([Device::Cpu, Device::Gpu(card)].contains(&device), "{what}: {placement:?}");
                prop_assert!(plan.device_staging.iter().any(|(ring, _)| *ring == card), "{what}: {placement:?}");
            }
            _ => {}
        }
    }
    Ok(())
}

const STILL: &str = "aim: decode\ncontext: { tokens: 1024 }\nprefill: { micro_batch: 64, stream_to: none }\n\
                     decode: { stream_layers: 0, fetch_experts: 0 }\n";

fn cards(most: u64) -> impl Strategy<Value = Vec<(u64, f64)>> {
    proptest::collection::vec((460..most, 60.0_f64..2000.0), 2..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_dense_model_goes_to_cards_by_runs_of_whole_layers(cards in cards(1500)) {
        let model = common::inventory("llama-1b-q4_k_m");
        let all = planned(&model, &cards, |_| true, STILL);
        check(&all, &model, &format!("{cards:?}"))?;
        for alone in 0..cards.len() {
            let one = planned(&model, &cards, |number| number == alone, STILL);
            let (all, one) = (all.forecast.decode_tokens_per_s, one.forecast.decode_tokens_per_s);
            prop_assert!(all >= one * (1.0 - 1e-9), "{cards:?}: {all} on all, {one} on gpu:{alone}");
        }
        check(&planned(&model, &cards, |_| true, "context: { tokens: 1024 }\n"), &model, &format!("streamed, {cards:?}"))?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mixture_has_a_share_of_its_layers_on_each_card(cards in cards(14_000)) {
        let model = common::inventory("deepseek-r1-iq1_s");
        let rest = format!("  disk: {{}}\n{STILL}");
        let all = planned(&model, &cards, |_| true, &rest);
        check(&all, &model, &format!("{cards:?}"))?;
        for alone in 0..cards.len() {
            let one = planned(&model, &cards, |number| number == alone, &rest);
            let (all, one) = (all.forecast.decode_tokens_per_s, one.forecast.decode_tokens_per_s);
            prop_assert!(all >= one * (1.0 - 1e-9), "{cards:?}: {all} on all, {one} on gpu:{alone}");
        }
    }
}

#[test]
fn what_fits_the_faster_card_leaves_the_other_alone() {
    let model = common::inventory("llama-1b-q4_k_m");
    for (cards, fast) in [([(4000, 360.0), (4000, 900.0)], 1), ([(4000, 900.0), (4000, 360.0)], 0)] {
        let plan = planned(&model, &cards, |_| true, STILL);
        assert_eq!(way(&plan), [fast], "{cards:?}");
        let idle = format!("gpu:{} is not used: ", 1 - fast);
        assert!(plan.notes.iter().any(|note| note.starts_with(&idle)), "{:?}", plan.notes);
    }
}

#[test]
fn a_mixture_uses_the_room_of_both_cards_for_experts() {
    let model = common::inventory("deepseek-r1-iq1_s");
    let plan = planned(&model, &[(12 << 10, 360.0); 2], |_| true, &format!("  disk: {{}}\n{STILL}"));
    assert_eq!(way(&plan), [0, 1]);
    for card in [Tier::Gpu(0), Tier::Gpu(1)] {
        let tier = plan.tier(card).unwrap();
        assert!(tier.bytes().as_f64() > 0.97 * tier.ceiling.unwrap().as_f64(), "{tier:?}");
        assert!(model.iter().any(|(id, unit)| unit.role == Role::RoutedExpert && plan.home(id) == card), "{card}");
    }
}

#[test]
fn prompts_of_a_mixture_come_to_the_card_that_has_their_router() {
    let model = common::inventory("deepseek-r1-iq1_s");
    let rest = "  disk: {}\ncontext: { tokens: 4096 }\nprefill: { micro_batch: 2048 }\n";
    let plan = planned(&model, &[(12 << 10, 360.0); 2], |_| true, rest);
    check(&plan, &model, "streamed").unwrap();
    assert_eq!(plan.device_staging.iter().map(|(card, _)| *card).collect::<Vec<_>>(), [0, 1], "{:?}", plan.stream_from);
    let one = planned(&model, &[(12 << 10, 360.0); 2], |number| number == 0, rest);
    // Each link fills its ring, and the second card's experts need not come.
    assert!(
        plan.forecast.prompt_tokens_per_s > one.forecast.prompt_tokens_per_s,
        "{:?} {:?}",
        plan.forecast,
        one.forecast
    );
    let again = profile_again(&plan, &model);
    assert_eq!((&again.placements, &again.device_staging), (&plan.placements, &plan.device_staging));
}

/// The plan of what a plan is written as, but for the reasons that it names then.
fn profile_again(plan: &Plan, model: &Inventory) -> Plan {
    let text = plan::profile::to_yaml(plan, model);
    let profile = parse(&text, "p.yaml").unwrap_or_else(|error| panic!("{text}\n{error}"));
    let mut again = plan::plan(&profile, model, &machine(&[(12 << 10, 360.0); 2])).unwrap();
    for (again, first) in again.placements.iter_mut().zip(&plan.placements) {
        again.reason.clone_from(&first.reason);
    }
    again
}

#[test]
fn layers_that_a_flag_counts_go_to_all_cards_in_turn() {
    let model = common::inventory("llama-1b-q4_k_m");
    let cards = [(1050, 360.0), (850, 360.0)];
    let named = cards.iter().enumerate().map(|(number, (mib, _))| (number, *mib));
    let text = profile(named, STILL);
    for (layers, expected) in [(1, vec![1]), (16, vec![0, 1])] {
        let flags = Overrides { gpu_layers: Some(layers), ..Overrides::default() };
        let profile = parse(&text, "p.yaml").unwrap().with(&flags).unwrap();
        let plan = plan(&profile, &model, &machine(&cards)).unwrap_or_else(|refusal| panic!("{refusal}"));
        let on_cards = plan.blocks.iter().filter(|layer| layer.attention != Device::Cpu && layer.ffn != Device::Cpu);
        assert_eq!((on_cards.count() as u32, way(&plan)), (layers, expected), "{layers}: {:?}", plan.blocks);
    }
    // More than there is room for is refused with the sum, as it is on one card.
    let flags = Overrides { gpu_layers: Some(16), gpu_mem: Some(Bytes(600 << 20)), ..Overrides::default() };
    let profile = parse(&text, "p.yaml").unwrap().with(&flags).unwrap();
    let refusal = plan(&profile, &model, &machine(&cards)).unwrap_err().to_string();
    assert!(refusal.contains("gpu:") && refusal.contains("too much"), "{refusal}");
}
