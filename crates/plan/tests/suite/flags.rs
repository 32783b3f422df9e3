//! Flags that change a profile.

use plan::profile::{Fault, parse};
use plan::{Bytes, KvType, Overrides, Plan, Profile, Role, Tier, plan};

use crate::common;

fn with(profile: &str, flags: &Overrides) -> Result<Profile, plan::ProfileError> {
    parse(profile, "p.yaml").unwrap_or_else(|error| panic!("{error}")).with(flags)
}

const BOTH: &str = "version: 1\ntiers: { gpu:0: { memory: 11GiB }, ram: { memory: 60GiB }, disk: {} }\n";
const RAM: &str = "version: 1\ntiers: { ram: { memory: 60GiB } }\n";

fn planned(model: &str, flags: &Overrides) -> (Plan, plan::Inventory) {
    let model = common::inventory(model);
    let profile = with(BOTH, flags).unwrap_or_else(|error| panic!("{error}"));
    let plan = plan(&profile, &model, &common::desktop(Bytes(64 << 30))).unwrap_or_else(|refusal| panic!("{refusal}"));
    (plan, model)
}

#[test]
fn settings_stand_above_the_profile() {
    let flags = Overrides {
        ram: Some(Bytes(50 << 30)),
        gpu_mem: Some(Bytes(6 << 30)),
        context: Some(3000),
        k_type: Some(KvType::Q8_0),
        v_type: Some(KvType::F32),
        threads: Some(5),
        micro_batch: Some(77),
        ..Overrides::default()
    };
    let (plan, _) = planned("llama-1b-q4_k_m", &flags);
    assert_eq!(plan.tier(Tier::Ram).unwrap().ceiling, flags.ram);
    assert_eq!(plan.tier(Tier::Gpu(0)).unwrap().ceiling, flags.gpu_mem);
    assert_eq!((plan.kv.tokens, plan.kv.k_type, plan.kv.v_type), (3000, KvType::Q8_0, KvType::F32));
    assert_eq!((plan.threads, plan.micro_batch), (5, 77));
}

#[test]
fn no_flags_change_nothing() {
    assert_eq!(with(BOTH, &Overrides::default()), Ok(parse(BOTH, "p.yaml").unwrap()));
}

#[test]
fn layers_on_the_gpu_are_the_last_ones_and_then_the_output() {
    for (layers, output) in [(0, Tier::Ram), (4, Tier::Ram), (16, Tier::Ram), (17, Tier::Gpu(0)), (99, Tier::Gpu(0))] {
        let (plan, model) = planned("llama-1b-q4_k_m", &Overrides { gpu_layers: Some(layers), ..Overrides::default() });
        for (id, unit) in model.iter() {
            let expected = match unit.layer {
                Some(layer) if layer + layers >= 16 => Tier::Gpu(0),
                Some(_) => Tier::Ram,
                None if unit.role == Role::Embedding => Tier::Ram,
                None => output,
            };
            assert_eq!(plan.home(id), expected, "-ngl {layers}: {:?}", model.tensor_of(unit).name);
        }
    }
}

#[test]
fn experts_of_the_first_layers_stay_in_ram() {
    let flags = Overrides { cpu_moe_layers: Some(10), ..Overrides::default() };
    let (plan, model) = planned("deepseek-r1-iq1_s", &flags);
    let first = model.iter().filter(|(_, unit)| unit.role == Role::RoutedExpert && unit.layer < Some(10));
    let first: Vec<_> = first.map(|(id, _)| id).collect();
    assert_eq!(first.len(), 7 * 3 * 256);
    for id in first {
        assert_eq!(plan.home(id), Tier::Ram);
        assert_eq!(plan.placements[id.0 as usize].reason, "flag -ncmoe 10");
    }
    // A model without experts does not mind, as with llama.cpp, and says so.
    let (plan, _) = planned("llama-1b-q4_k_m", &flags);
    let note = "-ncmoe 10: Llama 1B shape has no routed_expert, so this changes nothing";
    assert!(plan.notes.iter().any(|told| told == note), "{:?}", plan.notes);
}

#[test]
fn all_layers_are_all_layers() {
    let all = Some(Overrides::ALL_LAYERS);
    let (plan, model) = planned("deepseek-r1-iq1_s", &Overrides { cpu_moe_layers: all, ..Overrides::default() });
    let experts = model.iter().filter(|(_, unit)| unit.role == Role::RoutedExpert).map(|(id, _)| id);
    let mut reasons = experts.map(|id| plan.placements[id.0 as usize].reason.as_ref());
    assert!(reasons.all(|reason| reason.starts_with("flag -cmoe")));
    assert!(!plan.notes.iter().any(|note| note.contains("changes nothing")), "{:?}", plan.notes);

    let (plan, model) = planned("llama-1b-q4_k_m", &Overrides { gpu_layers: all, ..Overrides::default() });
    for name in ["blk.0.attn_q.weight", "blk.15.ffn_down.weight", "output_norm.weight"] {
        let placement = &plan.placements[model.find(name).unwrap().0 as usize];
        assert_eq!((placement.home, placement.reason.as_ref()), (Tier::Gpu(0), "flag -ngl -1"), "{name}");
    }
}

#[test]
fn without_a_gpu_flags_about_gpus_say_so() {
    let none = Overrides::default;
    for (flags, flag) in [
        (Overrides { gpu_layers: Some(10), ..none() }, "-ngl"),
        (Overrides { gpu_mem: Some(Bytes(1 << 30)), ram: Some(Bytes(1 << 30)), ..none() }, "--gpu-mem"),
    ] {
        let error = Profile::automatic(&common::laptop()).with(&flags).unwrap_err();
        assert_eq!(error.hint, format!("no usable GPU here; leave out {flag}"));
        // Whoever wrote the tiers can write one more.
        assert!(with(RAM, &flags).unwrap_err().hint.contains("under `tiers`"));
    }
}

#[test]
fn a_micro_batch_is_never_more_than_the_context() {
    let flags = |context, micro_batch| Overrides { context: Some(context), micro_batch, ..Overrides::default() };
    for (context, asked, batch, told) in [
        (100, Some(4096), 100, true),
        (100, Some(100), 100, false),
        (100, None, 100, false),
        (4000, Some(64), 64, false),
    ] {
        let (plan, _) = planned("llama-1b-q4_k_m", &flags(context, asked));
        assert_eq!(plan.micro_batch, batch, "-c {context} -ub {asked:?}");
        let notes: Vec<_> = plan.notes.iter().filter(|note| note.contains("micro-batch")).collect();
        assert_eq!(!notes.is_empty(), told, "{notes:?}");
        assert!(notes.iter().all(|note| note.starts_with("-ub 4096: micro-batch 100 instead of 4096")), "{notes:?}");
    }
}

#[test]
fn tensors_go_where_patterns_say() {
    let pattern = r"blk\.[01]\.ffn_.*=CPU,output_norm=CUDA0".to_owned();
    let flags = Overrides { override_tensors: vec![pattern, "attn_q=disk".to_owned()], ..Overrides::default() };
    let (plan, model) = planned("llama-1b-q4_k_m", &flags);
    for (name, home) in
        [("blk.1.ffn_up.weight", Tier::Ram), ("output_norm.weight", Tier::Gpu(0)), ("blk.7.attn_q.weight", Tier::Disk)]
    {
        assert_eq!(plan.home(model.find(name).unwrap()), home, "{name}");
    }
}

#[test]
fn flags_come_before_the_rules_of_the_profile() {
    let text = format!("{BOTH}placement: [{{ role: attention, home: ram }}]\n");
    let flags = Overrides { override_tensors: vec!["attn_q=disk".to_owned()], ..Overrides::default() };
    let model = common::inventory("llama-1b-q4_k_m");
    let plan = plan(&with(&text, &flags).unwrap(), &model, &common::desktop(Bytes(64 << 30))).unwrap();
    assert_eq!(plan.home(model.find("blk.0.attn_q.weight").unwrap()), Tier::Disk);
    assert_eq!(plan.home(model.find("blk.0.attn_k.weight").unwrap()), Tier::Ram);
}

#[test]
fn taking_the_gpus_away_leaves_ram() {
    let flags = Overrides { gpu_mem: Some(Bytes::ZERO), ..Overrides::default() };
    assert!(with(BOTH, &flags).unwrap().tier(Tier::Gpu(0)).is_none());
    let text = format!("{BOTH}context: {{ kv_home: gpu:0 }}\n");
    let error = with(&text, &flags).unwrap_err();
    assert!(error.to_string().contains("takes away gpu:0"), "{error}");
}

#[test]
fn flags_that_cannot_be_followed_are_refused_by_name() {
    let none = Overrides::default;
    for (flags, fault, expected) in [
        (Overrides { gpu_layers: Some(9), ..none() }, Fault::UnnamedTier, "-ngl 9: tier gpu:0 is not among"),
        (Overrides { gpu_mem: Some(Bytes(1)), ..none() }, Fault::UnnamedTier, "--gpu-mem 1 B: no GPU"),
        (Overrides { context: Some(0), ..none() }, Fault::BadValue, "-c 0: zero"),
        (Overrides { threads: Some(0), ..none() }, Fault::BadValue, "-t 0: zero"),
        (Overrides { micro_batch: Some(0), ..none() }, Fault::BadValue, "-ub 0: zero"),
        // As far as a profile may go, so that `-o` writes what can be read.
        (Overrides { context: Some(u32::MAX), ..none() }, Fault::BadValue, "-c 4294967295: more than"),
        (Overrides { threads: Some(4097), ..none() }, Fault::BadValue, "-t 4097: more than"),
        (Overrides { micro_batch: Some(65_537), ..none() }, Fault::BadValue, "-ub 65537: more than"),
        (Overrides { override_tensors: vec!["attn".into()], ..none() }, Fault::BadValue, "-ot attn: no `=`"),
        (
            Overrides { override_tensors: vec!["attn=vram".into()], ..none() },
            Fault::BadValue,
            "\"vram\" is not a device",
        ),
        (Overrides { override_tensors: vec!["attn=CUDA0".into()], ..none() }, Fault::UnnamedTier, "gpu:0 is not among"),
        (Overrides { override_tensors: vec!["(=ram".into()], ..none() }, Fault::BadPattern, "no regular expression"),
    ] {
        let error = with(RAM, &flags).unwrap_err();
        assert_eq!(error.fault, fault, "{error}");
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains("\n\nhint: "), "{text}");
    }
}
