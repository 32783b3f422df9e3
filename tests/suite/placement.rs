//! Placement never changes the answer: bit-equal logits wherever units live.

use std::path::{Path, PathBuf};

use engine::EngineError;
use plan::cost::{self, HostTokens, Widths};
use plan::{Device, Inventory, LayerDevices, Plan, Role, Staging, Tier};
use proptest::prelude::*;

use crate::oracle;
use crate::support::{ALL_IN_RAM, all_fixtures, machine, open_plan, own_fixture, planned, profile};

pub(crate) const GPU: Tier = Tier::Gpu(0);
const PROMPT: [u32; 9] = [509, 3, 17, 250, 17, 99, 400, 8, 41];

/// The plan with these homes, and what follows from them.
pub(crate) fn with_homes(mut plan: Plan, inventory: &Inventory, homes: &[Tier]) -> Plan {
    let nothing = LayerDevices { attention: Device::Cpu, ffn: Device::Cpu };
    (plan.blocks, plan.output) = (vec![nothing; inventory.shape.layers as usize], Device::Cpu);
    let output = inventory.units.iter().any(|unit| unit.role == Role::Output && !inventory.is_vector(unit));
    for ((placement, unit), home) in plan.placements.iter_mut().zip(&inventory.units).zip(homes) {
        placement.home = *home;
        placement.decode = match home {
            Tier::Gpu(card) => Device::Gpu(*card),
            Tier::Ram | Tier::Disk => Device::Cpu,
        };
        let card = placement.decode;
        if card == Device::Cpu || inventory.is_vector(unit) {
            continue;
        }
        match (unit.role, unit.layer) {
            (Role::Attention, Some(layer)) => plan.blocks[layer as usize].attention = card,
            (_, Some(layer)) => plan.blocks[layer as usize].ffn = card,
            (Role::Output, None) => plan.output = card,
            (Role::Embedding, None) if !output => plan.output = card,
            _ => {}
        }
    }
    let beside = |devices: &LayerDevices| match devices.attention {
        Device::Cpu => Tier::Ram,
        Device::Gpu(card) => Tier::Gpu(card),
    };
    plan.kv.homes = plan.blocks.iter().map(beside).collect();
    let longest = inventory.tensors.iter().map(plan::Tensor::row_bytes).max().unwrap();
    // So many that each of two cards reads slots where they are.
    plan.staging = Staging { slot: longest.max(plan::Bytes(4096)), slots: 10 };
    // The processor may have to compute what the plan had given to a card.
    let tokens = HostTokens::all(plan.micro_batch);
    let widths = Widths::of(inventory);
    let rooms = cost::activations(&widths, tokens, plan.threads, plan.kv.tokens, plan.logits);
    let loads = plan.tiers.iter_mut().filter(|tier| tier.tier == Tier::Ram).flat_map(|tier| &mut tier.loads);
    loads.filter(|load| load.what == "activations").for_each(|load| load.bytes = rooms);
    plan
}

/// Homes that chance gives, the same for the same seed.
pub(crate) fn random_homes(count: usize, seed: u64) -> Vec<Tier> {
    let mut state = seed;
    let mut next = || {
        // SplitMix64, <https://prng.di.unimi.it/splitmix64.c>.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..count).map(|_| [GPU, Tier::Ram, Tier::Disk][(next() % 3) as usize]).collect()
}

fn fixture() -> PathBuf {
    own_fixture("qwen3-kq").join("model-q4_k_m.gguf")
}

/// Logits of every prompt position and of four decoded tokens, with these units on disk. Where slots are short, what is resident is cut to short runs
/// as well, between which reads go on.
fn logits(path: &Path, on_disk: &[bool], slot: u64) -> Vec<u32> {
    let model = gguf::open(path).unwrap();
    let profile = plan::profile::parse(ALL_IN_RAM, "test.yaml").unwrap();
    let mut plan = plan::plan(&profile, &model.inventory, &machine()).unwrap();
    for (placement, disk) in plan.placements.iter_mut().zip(on_disk) {
        placement.home = if *disk { Tier::Disk } else { Tier::Ram };
    }
    let longest = model.inventory.tensors.iter().map(plan::Tensor::row_bytes).max().unwrap();
    plan.staging = Staging { slot: longest.max(plan::Bytes(slot)), slots: 3 };
    plan.disk_reads = plan::Reads { at_once: 1, bytes: plan::Bytes(slot.max(4096)) };
    let mut engine = open_plan(&model, plan);
    let mut session = engine.session().unwrap();
    let mut bits = Vec::new();
    engine.every_logit(&mut session, &PROMPT, &mut |_, row| bits.extend(row.iter().map(|x| x.to_bits()))).unwrap();
    for token in [5, 6, 7, 8] {
        bits.extend(engine.decode(&mut session, token).unwrap().iter().map(|x| x.to_bits()));
    }
    bits
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn random_placements_give_the_same_bits(
        on_disk in proptest::collection::vec(any::<bool>(), 64),
        slot in prop_oneof![Just(1u64), Just(5_000), Just(1 << 20)],
    ) {
        let expected = logits(&fixture(), &[], 1 << 20);
        let found = logits(&fixture(), &on_disk, slot);
        prop_assert!(found == expected, "units on disk: {on_disk:?}");
    }
}

/// Mixtures: biased experts in MXFP4, groups of experts over both forms of latent attention, shared experts, delta nets.
const MIXTURES: [&str; 8] = [
    "gpt_oss/model-mxfp4.gguf",
    "deepseek_v2/model-bf16.gguf",
    "deepseek_v2/model-combined-bf16.gguf",
    "ernie4_5_moe/model-bf16.gguf",
    "qwen2_moe/model-bf16.gguf",
    "glm_dsa/model-bf16.gguf",
    "qwen3_next/model-bf16.gguf",
    "kimi_linear/model-bf16.gguf",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn random_placements_of_experts_give_the_same_bits(
        model in proptest::sample::select(&MIXTURES),
        on_disk in proptest::collection::vec(any::<bool>(), 512),
        others_too in any::<bool>(),
        slot in prop_oneof![Just(1u64), Just(3_000), Just(1 << 20)],
    ) {
        let path = own_fixture(model);
        let units = gguf::open(&path).unwrap().inventory.units;
        let expert = |(unit, disk): (&plan::Unit, &bool)| *disk && (others_too || unit.role == Role::RoutedExpert);
        let on_disk: Vec<bool> = units.iter().zip(on_disk.iter().cycle()).map(expert).collect();
        prop_assert!(logits(&path, &on_disk, slot) == logits(&path, &[], 1 << 20), "{model}: {on_disk:?}");
    }
}

#[test]
fn everything_on_disk_gives_the_same_bits() {
    for model in ["phi3/model-bf16.gguf", "llama-rope3-tied/model-bf16.gguf"].iter().chain(&MIXTURES) {
        let path = own_fixture(model);
        assert!(logits(&path, &[true; 2048], 1) == logits(&path, &[], 1), "{model}");
    }
}

/// Needs no card: plans are judged before one is opened.
#[test]
fn any_homes_of_a_dense_model_can_be_run() {
    for file in ["llama-rope3-tied/model-bf16.gguf", "phi3/model-bf16.gguf", "qwen3-kq/model-q4_k_m.gguf"] {
        let model = gguf::open(&own_fixture(file)).unwrap();
        for seed in 0..50 {
            let homes = random_homes(model.inventory.units.len(), seed);
            let mut plan = with_homes(planned(&model, &profile("f16", 64)), &model.inventory, &homes);
            engine::check_plan(&model, &plan).unwrap_or_else(|error| panic!("{file}, seed {seed}: {error}"));
            let Some(layer) = plan.kv.homes.iter().position(|home| *home == GPU) else { continue };
            plan.kv.homes[layer] = Tier::Ram;
            let error = engine::check_plan(&model, &plan).unwrap_err();
            assert!(matches!(error, EngineError::NotOnGpu { .. }), "{error}");
            assert!(error.to_string().contains(&format!("the KV cache of layer {layer} lives in ram")), "{error}");
        }
    }
}

/// Needs no card either: `plan::gpu` says what the engine computes there, and a plan that nobody asked anything of keeps to that.
#[test]
fn what_a_gpu_is_given_by_the_planner_alone_can_be_run() {
    let Some(fixtures) = all_fixtures("what_a_gpu_is_given_by_the_planner_alone_can_be_run") else { return };
    let anywhere = profile("f16", 64).replace(", kv_home: gpu:0", "");
    for (folder, file, _) in oracle::DENSE.iter().chain(oracle::MIXTURES) {
        let path = fixtures.join(folder).join(file);
        if !path.exists() {
            println!("{folder}/{file}: not here");
            continue;
        }
        let model = gguf::open(&path).unwrap();
        let plan = planned(&model, &anywhere);
        engine::check_plan(&model, &plan).unwrap_or_else(|error| panic!("{folder}/{file}: {error}"));
        let kept_off = plan.notes.iter().any(|note| note.contains("no GPU computes"));
        let gpu = LayerDevices { attention: Device::Gpu(0), ffn: Device::Gpu(0) };
        assert!(kept_off || plan.blocks.iter().all(|layer| *layer == gpu), "{folder}/{file}: {:?}", plan.blocks);
    }
}

/// Nor does what the planner would never give: it is refused by name.
#[test]
fn what_no_gpu_computes_is_refused_by_name() {
    let Some(fixtures) = all_fixtures("what_no_gpu_computes_is_refused_by_name") else { return };
    let everything = format!("{}default: gpu:0\n", profile("f16", 64));
    for (folder, file, _) in oracle::MIXTURES {
        let model = gguf::open(&fixtures.join(folder).join(file)).unwrap();
        let Err(error) = engine::check_plan(&model, &planned(&model, &everything)) else { continue };
        let EngineError::NotOnGpu { why, .. } = &error else { panic!("{folder}: {error}") };
        let known = ["latent", "norm over all heads"];
        assert!(known.iter().any(|what| why.contains(what)), "{folder}: {why}");
    }
}
