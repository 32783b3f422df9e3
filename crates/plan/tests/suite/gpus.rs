//! What goes to GPUs: whole blocks, their caches, experts, in which order; and what is refused.

use plan::cost::{self, HostTokens, Widths};
use plan::gpu::Abilities;
use plan::profile::parse;
use plan::{Bytes, Device, Inventory, LayerDevices, Machine, Overrides, Plan, Profile, Role, Scheme, Tier, plan_for};

use crate::common;

const GPU: Device = Device::Gpu(0);
/// GPUs that compute dense models only.
const DENSE: Abilities = Abilities { mixtures: false, latents: false, streams: false, fetches: false, gpus: 1 };

fn machine(gpus: usize) -> Machine {
    let machine = common::desktop(Bytes(64 << 30));
    Machine { gpus: vec![machine.gpus[0].clone(); gpus], ..machine }
}

fn attempt(model: &Inventory, text: &str, abilities: &Abilities) -> Result<Plan, String> {
    let profile = parse(text, "p.yaml").unwrap_or_else(|error| panic!("{text}\n{error}"));
    plan_for(&profile, model, &machine(2), None, abilities).map_err(|refusal| refusal.to_string())
}

fn planned(model: &Inventory, text: &str) -> Plan {
    attempt(model, text, &common::ALL).unwrap_or_else(|refusal| panic!("{text}\n{refusal}"))
}

/// A profile with one GPU of so many MiB.
fn one(mib: u64, rest: &str) -> String {
    format!("version: 1\ntiers: {{ gpu:0: {{ memory: {mib}MiB }}, ram: {{ memory: 56GiB }} }}\n{rest}\n")
}

fn llama() -> Inventory {
    common::inventory("llama-1b-q4_k_m")
}

/// How often a token's residual stream changes its device, from the table of vectors to the logits.
fn crossings(plan: &Plan) -> usize {
    let layers = plan.blocks.iter().flat_map(|layer| [layer.attention, layer.ffn]);
    let way: Vec<Device> = [Device::Cpu].into_iter().chain(layers).chain([plan.output, Device::Cpu]).collect();
    way.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

fn on_gpu(plan: &Plan) -> usize {
    plan.blocks.iter().filter(|layer| **layer == LayerDevices { attention: GPU, ffn: GPU }).count()
}

/// Bytes of a layer's matrices for attention, or of its others.
fn part(model: &Inventory, layer: u32, attention: bool) -> u64 {
    let here = |unit: &&plan::Unit| {
        unit.layer == Some(layer) && !model.is_vector(unit) && (unit.role == Role::Attention) == attention
    };
    model.units.iter().filter(here).map(|unit| unit.bytes.0.next_multiple_of(256)).sum()
}

#[test]
fn dense_models_go_to_a_gpu_by_whole_layers_from_the_last_one_down() {
    let model = llama();
    for mib in (520..2200).step_by(20) {
        let plan =
            planned(&model, &one(mib, "context: { tokens: 2048 }\nprefill: { micro_batch: 128, stream_to: none }"));
        let whole = on_gpu(&plan);
        // Layers are not all of one size: what has no room for one may have it for a smaller one further down.
        let gpu = |layer: &&LayerDevices| **layer == LayerDevices { attention: GPU, ffn: GPU };
        assert!(plan.blocks.iter().rev().take_while(gpu).count() + 1 >= whole, "{mib} MiB: {:?}", plan.blocks);
        // What is left has no room for anything more, unless whole layers alone are faster: a block by itself costs two crossings.
        if plan.scheme != Scheme::ByUse {
            continue;
        }
        let left = plan.tier(Tier::Gpu(0)).map_or(0, |tier| (mib << 20) - tier.bytes().0);
        for (layer, devices) in plan.blocks.iter().enumerate() {
            let cache = 2048 * 2 * 512 * 2;
            assert!(
                devices.attention == GPU || whole == 0 || left < part(&model, layer as u32, true) + cache,
                "{mib} MiB"
            );
            assert!(devices.ffn == GPU || whole == 0 || left < part(&model, layer as u32, false), "{mib} MiB");
        }
        let single = plan.blocks.iter().filter(|layer| layer.attention != layer.ffn).count();
        assert!(crossings(&plan) <= 6 + 2 * single, "{mib} MiB: {:?}", plan.blocks);
    }
    let plan = planned(&model, &one(2200, "prefill: { micro_batch: 128 }"));
    assert_eq!((on_gpu(&plan), plan.output, crossings(&plan)), (16, GPU, 2));
}

#[test]
fn vectors_stay_in_ram_and_decide_nothing() {
    let model = llama();
    let plan = planned(&model, &one(4096, ""));
    assert_eq!((on_gpu(&plan), plan.output, crossings(&plan)), (16, GPU, 2));
    for (id, unit) in model.iter() {
        let expected = if model.is_vector(unit) { Tier::Ram } else { Tier::Gpu(0) };
        assert_eq!(plan.home(id), expected, "{}", model.tensor_of(unit).name);
    }
    let plan = planned(
        &model,
        &one(4096, "default: ram\nplacement: [{ role: norm, home: gpu:0 }]\ndecode: { stream_layers: 0 }"),
    );
    assert_eq!((on_gpu(&plan), plan.output, crossings(&plan)), (0, Device::Cpu, 0));
}

#[test]
fn a_layers_cache_lives_where_its_attention_is_computed() {
    let model = llama();
    let profile = parse(&one(4096, "context: { tokens: 1024, kv_home: gpu:0 }"), "p.yaml").unwrap();
    let profile = profile.with(&Overrides { gpu_layers: Some(4), ..Overrides::default() }).unwrap();
    let plan = plan_for(&profile, &model, &machine(1), None, &DENSE).unwrap();
    for (layer, home) in plan.kv.homes.iter().enumerate() {
        assert_eq!(*home, if layer < 12 { Tier::Ram } else { Tier::Gpu(0) });
    }
    assert_eq!(plan.kv.home_names(), "gpu:0 and ram");
    let cache = |tier| plan.tier(tier).unwrap().loads.iter().find(|load| load.what == "KV cache").unwrap().bytes;
    // Keys and values of 512 numbers, at 2 bytes.
    assert_eq!(
        (cache(Tier::Gpu(0)), cache(Tier::Ram)),
        (Bytes(4 * 1024 * 2 * 512 * 2), Bytes(12 * 1024 * 2 * 512 * 2))
    );
}

#[test]
fn attention_goes_where_the_cache_is_asked_for() {
    let model = llama();
    for (home, device) in [("gpu:0", GPU), ("ram", Device::Cpu)] {
        let plan = planned(&model, &one(4096, &format!("context: {{ tokens: 512, kv_home: {home} }}")));
        assert!(plan.blocks.iter().all(|layer| layer.attention == device && layer.ffn == GPU), "{home}");
        assert_eq!(plan.kv.home_names(), home);
    }
    let both = "version: 1\ntiers: { gpu:0: { memory: 2GiB }, gpu:1: { memory: 2GiB }, ram: { memory: 8GiB } }\n";
    for (rest, expected) in [
        (
            "context: { kv_home: gpu:0 }\nplacement: [{ role: attention, layers: 3, home: ram }]",
            "p.yaml:3:21: the KV cache is to be in gpu:0, and attention of layer 3 is elsewhere by the rule in line 4",
        ),
        (
            "context: { kv_home: ram }\nplacement: [{ tensors: 'blk.5.attn_q', home: gpu:1 }]",
            "the KV cache is to be in ram, and attention of layer 5 is elsewhere",
        ),
        (
            "placement: [{ tensors: 'blk.2.attn_q.w', home: gpu:0 }, { tensors: 'blk.2.attn_k.w', home: gpu:1 }]",
            "attention of layer 2 would be on gpu:0 and on gpu:1",
        ),
    ] {
        let refusal = attempt(&model, &format!("{both}{rest}\n"), &common::ALL).expect_err(rest);
        assert!(refusal.contains(expected) && refusal.contains("\n\nhint: "), "{refusal}");
    }
    // One matrix of the processor's among others of the GPU's is slow, and runs.
    let text = format!("{both}context: {{ kv_home: gpu:0 }}\nplacement: [{{ tensors: 'blk.3.attn_q', home: ram }}]\n");
    assert_eq!(planned(&model, &text).blocks[3].attention, GPU);
}

#[test]
fn a_block_of_which_rules_keep_a_part_is_left_to_the_processor() {
    let plan =
        planned(&llama(), &one(4096, "placement: [{ tensors: 'ffn_up', home: ram }]\ndecode: { stream_layers: 0 }"));
    assert!(plan.blocks.iter().all(|layer| *layer == LayerDevices { attention: GPU, ffn: Device::Cpu }));
}

#[test]
fn more_gpus_get_whole_layers_in_turn() {
    let model = llama();
    let text = "version: 1\ntiers: { gpu:0: { memory: 900MiB }, gpu:1: { memory: 800MiB }, ram: { memory: 8GiB } }\n\
                prefill: { micro_batch: 128, stream_to: none }\n";
    let plan = planned(&model, text);
    let on = |gpu| LayerDevices { attention: Device::Gpu(gpu), ffn: Device::Gpu(gpu) };
    let count = |gpu| plan.blocks.iter().filter(|layer| **layer == on(gpu)).count();
    let (first, last) = (count(0), count(1));
    assert!(first > 0 && last > 0, "{:?}", plan.blocks);
    assert_ne!(plan.output, Device::Gpu(0), "what comes last is on the last of equal GPUs");
    assert!(plan.blocks[16 - last..].iter().all(|layer| *layer == on(1)));
    assert!(plan.blocks[16 - last - first..16 - last].iter().all(|layer| *layer == on(0)));
    // A version that uses one says so.
    let plan = attempt(&model, text, &DENSE).unwrap();
    assert!(plan.tier(Tier::Gpu(1)).is_none());
    assert!(plan.notes.iter().any(|note| note.starts_with("gpu:1 is not used: ")), "{:?}", plan.notes);
}

#[test]
fn of_mixtures_what_every_token_reads_goes_first_and_experts_go_where_their_router_is() {
    let model = common::inventory("deepseek-r1-iq1_s");
    for (mib, all) in [(4144, false), (12 << 10, true)] {
        let text = format!(
            "version: 1\ntiers: {{ gpu:0: {{ memory: {mib}MiB }}, ram: {{ memory: 56GiB }}, disk: {{}} }}\n\
             context: {{ tokens: 4096 }}\ndecode: {{ fetch_experts: 0, stream_layers: 0 }}\n"
        );
        let plan = planned(&model, &text);
        assert_eq!(on_gpu(&plan) == 61, all, "{mib} MiB: {}", on_gpu(&plan));
        let experts = model.iter().filter(|(id, unit)| unit.expert.is_some() && plan.home(*id) == Tier::Gpu(0));
        let layers: Vec<usize> = experts.map(|(_, unit)| unit.layer.unwrap() as usize).collect();
        assert_eq!(layers.is_empty(), !all, "{mib} MiB");
        assert!(layers.iter().all(|layer| plan.blocks[*layer].ffn == GPU));
        let every = model.iter().filter(|(id, unit)| plan.home(*id) == Tier::Gpu(0) && unit.role == Role::Router);
        assert!(every.count() >= on_gpu(&plan).saturating_sub(3));
    }
}

#[test]
fn what_no_gpu_computes_stays_with_the_processor_and_is_said() {
    let model = common::inventory("deepseek-r1-iq1_s");
    let disk = |text: String| text.replace("56GiB }", "56GiB }, disk: {}");
    let plan = attempt(&model, &disk(one(8 << 10, "")), &DENSE).unwrap();
    assert!(plan.blocks.iter().all(|layer| layer.attention == Device::Cpu));
    for note in [
        "attention of layers 0..=60 on the CPU: no GPU computes latent attention yet",
        "the feed-forward part of layers 3..=60 on the CPU: no GPU computes routed experts yet",
    ] {
        assert!(plan.notes.iter().any(|told| told == note), "{:?}", plan.notes);
    }
    // Dense layers and the output are computed there.
    assert_eq!((plan.output, plan.blocks[0].ffn, plan.blocks[3].ffn), (GPU, GPU, Device::Cpu));
    // A rule with somewhere else to go is followed as far as it can be, and says why.
    let rest = "placement: [{ role: routed_expert, layers: 5, home: gpu:0, overflow: disk }]";
    let plan = attempt(&model, &disk(one(8 << 10, rest)), &DENSE).unwrap();
    let expert = &plan.placements[model.find("blk.5.ffn_up_exps.weight").unwrap().0 as usize];
    assert_eq!((expert.home, expert.reason.as_ref()), (Tier::Disk, "rule in line 3: no routed experts there yet"));
}

#[test]
fn a_gpu_that_computes_nothing_takes_nothing() {
    let model = llama();
    let plan = planned(&model, &one(4096, "default: ram\nprefill: { stream_to: none }"));
    assert_eq!(plan.tiers.iter().map(|tier| tier.tier).collect::<Vec<_>>(), [Tier::Ram]);
    let without = Profile::automatic(&Machine { gpus: Vec::new(), ..machine(1) });
    let without = plan_for(&without, &model, &machine(1), None, &DENSE).unwrap();
    let process = |plan: &Plan| plan.tier(Tier::Ram).unwrap().loads[0].bytes;
    assert_eq!(process(&plan), process(&without));
}

#[test]
fn the_processors_rooms_are_counted_for_what_it_computes() {
    let (llama, r1) = (llama(), common::inventory("deepseek-r1-iq1_s"));
    let tokens = |attention, ffn, away| HostTokens { pass: 1024, attention, ffn, away };
    let batch = "context: { tokens: 2048 }\nprefill: { micro_batch: 1024, ";
    for (model, mib, rest, expected) in [
        (&llama, 6000, "stream_to: none }", |_| (0, 0, 0)),
        (&llama, 1000, "stream_to: none }\ndecode: { stream_layers: 0 }", |_| (1024, 1024, 0)),
        (&llama, 1000, "stream_to: gpu:0 }\ndecode: { stream_layers: 0 }", |short| (short, short, 0)),
        (&r1, 14_000, "stream_to: none }", |_| (0, 1024, 1024)),
        (&r1, 14_000, "stream_to: gpu:0, cpu_experts: 0 }", |short| (0, short, short)),
        // Those that stay may be chosen by all tokens.
        (&r1, 14_000, "stream_to: gpu:0, cpu_experts: 3 }", |_| (0, 1024, 1024)),
    ] as [(&Inventory, u64, &str, fn(u32) -> (u32, u32, u32)); 6]
    {
        let text = one(mib, &format!("{batch}{rest}")).replace("56GiB", "300GiB");
        let profile = parse(&text, "p.yaml").unwrap();
        let machine = Machine { ram_total: Bytes(400 << 30), ram_available: Bytes(400 << 30), ..machine(1) };
        let plan = plan_for(&profile, model, &machine, None, &common::ALL).unwrap();
        let (attention, ffn, away) = expected(plan.stream_from.map_or(0, |from| from - 1));
        let (found, wanted) = (HostTokens::of(&plan, model), tokens(attention, ffn, away));
        assert_eq!(found, wanted, "{mib} {rest}");
        let widths = Widths::of(model);
        let rooms = cost::activations(&widths, wanted, plan.threads, plan.kv.tokens, plan.logits);
        let loads = &plan.tier(Tier::Ram).unwrap().loads;
        let counted = loads.iter().find(|load| load.what == "activations").unwrap().bytes;
        assert_eq!(counted, rooms + cost::mail(&widths, wanted), "{mib} {rest}");
        assert_eq!(cost::mail(&widths, wanted) == Bytes::ZERO, away == 0, "{mib} {rest}");
    }
}
