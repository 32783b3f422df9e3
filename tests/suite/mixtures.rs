//! Mixtures of experts at their real shapes: what is read, counted; deep and wide models under a small ceiling.

use engine::Engine;
use gguf::testing::Field;
use plan::{Bytes, Role, Tier};

use crate::support::{ALL_IN_RAM, machine, open_plan, plimsoll};
use crate::synth::{self, DEEPSEEK_V3, LatentSizes};

/// Two layers of narrow matrices, with 256 experts in the second.
const NARROW: LatentSizes = LatentSizes {
    layers: 2,
    dense_layers: 1,
    width: 256,
    dense_inner: 256,
    inner: 256,
    heads: 4,
    query_rank: 64,
    rank: 64,
    plain: 32,
    rotated: 32,
    value: 32,
    vocabulary: 600,
    ..DEEPSEEK_V3
};

fn open(path: &std::path::Path, home: impl Fn(&plan::Unit) -> Tier) -> (gguf::Model, Engine) {
    open_foreseeing(path, 0, home)
}

/// The same, with so many likely experts of the next layer read ahead.
fn open_foreseeing(path: &std::path::Path, foresee: u32, home: impl Fn(&plan::Unit) -> Tier) -> (gguf::Model, Engine) {
    let model = gguf::open(path).unwrap();
    let profile = ALL_IN_RAM.replace("tokens: 256", "tokens: 1024").replace("micro_batch: 64", "micro_batch: 512");
    let profile = plan::profile::parse(&profile, "test.yaml").unwrap();
    let mut plan = plan::plan(&profile, &model.inventory, &machine()).unwrap();
    for (placement, unit) in plan.placements.iter_mut().zip(&model.inventory.units) {
        placement.home = home(unit);
    }
    plan.staging = plan::Staging { slot: Bytes(1 << 20), slots: 12 };
    plan.foresee = foresee;
    let engine = open_plan(&model, plan);
    (model, engine)
}

#[test]
fn a_prompt_reads_each_chosen_expert_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("narrow.gguf");
    synth::write(&path, &synth::deepseek(&NARROW)).unwrap();
    let tokens: Vec<u32> = (0..512).map(|i| i * 7 % 600).collect();
    for home in [Tier::Ram, Tier::Disk] {
        let (model, mut engine) = open(&path, |unit| if unit.role == Role::RoutedExpert { home } else { Tier::Ram });
        let mut session = engine.session().unwrap();
        engine.prefill(&mut session, &tokens).unwrap();
        let (_, counts) = engine.expert_use().layers().next().unwrap();
        let chosen = |expert: u32| counts[expert as usize] > 0;
        let experts = counts.iter().filter(|count| **count > 0).count() as u64;
        assert_eq!(counts.iter().sum::<u64>(), 512 * 8, "each token chooses eight");
        assert!((16..=256).contains(&experts), "{experts} experts were chosen");
        let expert_bytes = |unit: &&plan::Unit| unit.expert.is_some_and(chosen);
        let bytes: u64 = model.inventory.units.iter().filter(expert_bytes).map(|unit| unit.bytes.0).sum();
        let stats = engine.stats(Bytes(0));
        let read = stats.expert_cache;
        let link: u64 = stats.links.iter().map(|link| link.bytes).sum();
        match home {
            Tier::Disk => {
                assert_eq!((read.hits, read.misses, read.bytes_read), (0, experts, bytes));
                // Nothing else lives on disk: the link carried each chosen expert once and no other.
                assert_eq!(link, bytes);
            }
            _ => assert_eq!((read.hits, read.misses, read.bytes_read, link), (experts, 0, 0, 0)),
        }
    }
}

#[test]
fn what_is_foreseen_is_read_ahead_and_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("foreseen.gguf");
    // Where all experts are chosen each guess is right.
    let sizes = LatentSizes { layers: 20, experts: 8, used: 8, ..NARROW };
    let mut draft = synth::deepseek(&sizes);
    for key in ["expert_group_count", "expert_group_used_count"] {
        draft.set(&format!("deepseek2.{key}"), Field::u32(1));
    }
    synth::write(&path, &draft).unwrap();
    let [in_ram, unread, on_disk] = [(Tier::Ram, 8), (Tier::Disk, 0), (Tier::Disk, 8)].map(|(home, foresee)| {
        let homes = |unit: &plan::Unit| if unit.role == Role::RoutedExpert { home } else { Tier::Ram };
        let (model, mut engine) = open_foreseeing(&path, foresee, homes);
        let mut session = engine.session().unwrap();
        let mut bits = Vec::new();
        for token in 0..40 {
            bits.extend(engine.decode(&mut session, token * 7).unwrap().iter().map(|logit| logit.to_bits()));
        }
        let counts = engine.expert_use().clone();
        // What a run has seen decides the next plan.
        let profile = "version: 1\ntiers: { ram: { memory: 1GiB, threads: 2 }, disk: {} }\nplacement: [{ role: routed_expert, home: disk }]\n";
        let profile = plan::profile::parse(profile, "test.yaml").unwrap();
        let next = plan::plan_with(&profile, &model.inventory, &machine(), Some(&counts)).unwrap();
        assert_eq!(next.foresee, if home == Tier::Disk { 8 } else { 0 });
        assert_eq!(plan::plan(&profile, &model.inventory, &machine()).unwrap().foresee, 0);
        let written = plan::profile::to_yaml(&next, &model.inventory);
        assert_eq!(written.contains("foresee_experts: 8"), next.foresee > 0, "{written}");
        let read = plan::ExpertUse::parse(&counts.to_json(), "use.json").unwrap();
        assert_eq!((read.foreseen(), read.foreseen().guessed), (counts.foreseen(), counts.foreseen().chosen));
        (bits, engine.stats(Bytes(0)).disk)
    });
    assert!(in_ram.0 == on_disk.0 && in_ram.0 == unread.0);
    let foreseen = |disk: &engine::DiskStats| disk.prefetch_used_bytes_per_token;
    assert!(
        foreseen(&in_ram.1) == 0.0 && foreseen(&unread.1) == 0.0 && foreseen(&on_disk.1) > 0.0,
        "{:?} {:?}",
        in_ram.1,
        on_disk.1
    );
    assert!(on_disk.1.prefetch_wasted_bytes_per_token < foreseen(&on_disk.1), "{:?}", on_disk.1);
}

#[test]
fn indexers_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse.gguf");
    for (key, value, words) in [
        ("top_k", 7, None),
        ("top_k", 0, Some("1 to 4294967295")),
        ("key_length", 16, Some("32 to 1024")),
        ("head_count", 4, Some("blk.0.indexer.attn_q_b.weight has shape")),
        ("types", 1, Some("an array of booleans")),
    ] {
        let mut draft = synth::sparse(&NARROW, [3, 40, 7]);
        draft.set(&format!("deepseek32.attention.indexer.{key}"), Field::u32(value));
        synth::write(&path, &draft).unwrap();
        let refusal = engine::check_model(&gguf::open(&path).unwrap()).err().map(|e| e.to_string());
        let told = refusal.as_deref().unwrap_or_default();
        assert_eq!(refusal.is_some(), words.is_some(), "{key} {value}: {told}");
        assert!(told.contains(words.unwrap_or_default()), "{key} {value}: {told}");
    }
}

/// Generates a few tokens under a ceiling.
fn generate(model: &std::path::Path, ram: &str) -> serde_json::Value {
    let arguments = ["run", "-m", model.to_str().unwrap(), "--raw", "--json", "--temp", "0", "-n", "3", "-c", "64"];
    let output = plimsoll(&[&arguments[..], &["--ram", ram, "-p", "hello"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_model_of_61_thin_layers_gives_the_same_text_under_any_ceiling() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("thin.gguf");
    let thin = LatentSizes { layers: 61, dense_layers: 3, experts: 32, used: 4, ..NARROW };
    synth::write(&path, &synth::deepseek(&thin)).unwrap();
    let all = generate(&path, "1GiB");
    let few = generate(&path, "60MiB");
    assert_eq!(all["tokens"], few["tokens"]);
    assert_eq!(all["stats"]["expert_cache"]["misses"], 0);
    let misses = few["stats"]["expert_cache"]["misses"].as_u64().unwrap();
    assert!(misses > 0, "{}", few["stats"]);
    let ram = few["stats"]["tiers"].as_array().unwrap().iter().find(|tier| tier["name"] == "ram").unwrap();
    assert!(ram["peak_bytes"].as_u64() <= ram["limit_bytes"].as_u64(), "{ram}");
}

#[test]
fn four_layers_of_671b_at_their_true_widths_run_under_a_small_ceiling() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wide.gguf");
    let draft = synth::deepseek(&LatentSizes { layers: 4, vocabulary: 4096, ..DEEPSEEK_V3 });
    // Attention, dense layers and experts are holes: 7 GB in the file, and 0.1 GB on the drive.
    let hole = |name: &str| {
        !name.contains("norm") && ["attn", "exps", "gate.", "up.", "down."].iter().any(|part| name.contains(part))
    };
    synth::write_but(&path, &draft, hole).unwrap();
    let (tight, tighter) = (generate(&path, "700MiB"), generate(&path, "350MiB"));
    let tokens = tight["tokens"].as_array().unwrap();
    assert!(tokens.len() == 3 && tokens.iter().any(|token| *token != 0), "{tokens:?}");
    assert_eq!(tight["tokens"], tighter["tokens"]);
    assert!(tighter["stats"]["expert_cache"]["misses"].as_u64() >= Some(8), "{}", tighter["stats"]);
}
