//! Placement never changes the answer: bit-equal logits wherever units live.

use std::path::{Path, PathBuf};

use plan::{Role, Staging, Tier};
use proptest::prelude::*;

use crate::support::{ALL_IN_RAM, machine, open_plan, own_fixture};

const PROMPT: [u32; 9] = [509, 3, 17, 250, 17, 99, 400, 8, 41];

fn fixture() -> PathBuf {
    own_fixture("qwen3-kq").join("model-q4_k_m.gguf")
}

/// Logits of every prompt position and of four decoded tokens, with these units on disk.
fn logits(path: &Path, on_disk: &[bool], slot: u64) -> Vec<u32> {
    let model = gguf::open(path).unwrap();
    let profile = plan::profile::parse(ALL_IN_RAM, "test.yaml").unwrap();
    let mut plan = plan::plan(&profile, &model.inventory, &machine()).unwrap();
    for (placement, disk) in plan.placements.iter_mut().zip(on_disk) {
        placement.home = if *disk { Tier::Disk } else { Tier::Ram };
    }
    let longest = model.inventory.tensors.iter().map(plan::Tensor::row_bytes).max().unwrap();
    plan.staging = Staging { slot: longest.max(plan::Bytes(slot)), slots: 3 };
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
