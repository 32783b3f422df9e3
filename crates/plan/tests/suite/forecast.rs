//! The forecast against sums done by hand.

use plan::card::{CardKernels, CardProduct};
use plan::profile::parse;
use plan::{
    Bytes, BytesPerSecond, Forecast, Gpu, Inventory, Machine, ModelShape, Plan, QuantType, Rate, Source,
    VocabularySize, plan, plan_for,
};

use crate::common;

const ROUND: f64 = 1e-6;

/// Two layers of 1000 × 1000 F32 matrices (4 MB each), one of attention and one of feed-forward, with their own output.
fn model() -> Inventory {
    let shape = ModelShape {
        architecture: "llama".to_owned(),
        layers: 2,
        embedding: 1000,
        heads: 1,
        feed_forward: 1000,
        vocabulary: 1000,
        context_train: 512,
        kv_per_token: vec![(1000, 1000); 2],
        kv_row: (1000, 1000),
        latent: None,
        indexer_per_token: Vec::new(),
        delta: None,
        experts: 0,
        experts_used: 0,
    };
    let matrix = |name: &str| (name.to_owned(), QuantType::F32, vec![1000, 1000]);
    let list = [
        matrix("token_embd.weight"),
        matrix("blk.0.attn_q.weight"),
        matrix("blk.0.ffn_up.weight"),
        matrix("blk.1.attn_q.weight"),
        matrix("blk.1.ffn_up.weight"),
        matrix("output.weight"),
    ];
    common::build("by hand", shape, VocabularySize::default(), list)
}

/// RAM at 4 GB/s (a matrix in 1 ms), disk at 0.4 GB/s (a matrix in 10 ms), 2 GFLOP/s (a token's matrix in 1 ms).
fn machine() -> Machine {
    let rate = |per_second: f64| Rate { rate: BytesPerSecond(per_second), source: Source::Measured };
    Machine { ram_read: rate(4e9), disk_read: rate(0.4e9), cpu_ops_per_second: 2e9, ..common::laptop() }
}

fn forecast(rest: &str, machine: &Machine) -> (Forecast, Vec<String>) {
    let text = format!("version: 1\ntiers: {{ ram: {{ memory: 1GiB }}, disk: {{}} }}\n{rest}\n");
    let plan = plan(&parse(&text, "p.yaml").unwrap(), &model(), machine).unwrap();
    (plan.forecast, plan.notes)
}

pub(crate) fn near(found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() < ROUND, "found {found}, expected {expected}");
}

/// A layer of two matrices in RAM, with 512 tokens in the cache: reading takes 2.512 ms, with 4 kB of keys and values for
/// each; operations, 2 × 2000 for each beside the weights', take 3.024 ms.
const LAYER_S: f64 = 0.003_024;

#[test]
fn in_ram_a_token_reads_every_matrix_and_one_row_of_the_embedding() {
    let (forecast, _) = forecast("", &machine());
    // The output takes 1 ms; the row of the embedding a thousandth of that.
    near(forecast.decode_tokens_per_s, 1.0 / (2.0 * LAYER_S + 0.001_001));
    // Six matrices come from disk once.
    near(forecast.load_s, 0.060);
    assert!(forecast.measured);
}

#[test]
fn disk_hides_the_processor_inside_a_layer_and_not_across_layers() {
    let (forecast, _) = forecast("placement: [{ role: dense_ffn, layers: 1, home: disk }]", &machine());
    // Layer 0: no disk. Layer 1: 10 ms of disk hide the rest. Output: 1 ms, and the row.
    near(forecast.decode_tokens_per_s, 1.0 / (LAYER_S + 0.010 + 0.001_001));
}

#[test]
fn a_drive_is_slower_while_the_processor_computes() {
    let decode = |disk: f64| {
        let disk_read = Rate { rate: BytesPerSecond(disk), source: Source::Measured };
        let machine = Machine { disk_read, disk_beside: 0.5, ..machine() };
        forecast("placement: [{ role: dense_ffn, layers: 1, home: disk }]", &machine).0.decode_tokens_per_s
    };
    // While layer 1 is computed, half as many bytes come as else: the rest of its 10 ms takes as much longer as half of that.
    near(decode(0.4e9), 1.0 / (LAYER_S + 0.010 + LAYER_S / 2.0 + 0.001_001));
    // What takes 1 ms alone takes 2 ms, and is there before the layer is computed.
    near(decode(4e9), 1.0 / (2.0 * LAYER_S + 0.001_001));
}

#[test]
fn a_prompt_is_bound_by_operations_and_makes_logits_once() {
    let (forecast, _) = forecast("prefill: { micro_batch: 100 }", &machine());
    // A layer: 2 matrices × 100 tokens × 2e6 operations, and attention's 2000 × 100²; the output for one token,
    // which the RAM bounds beside a tenth of the embedding's rows.
    let layer = (2.0 * 100.0 * 2e6 + 2000.0 * 1e4) / 2e9;
    let seconds = 2.0 * layer + 0.0011;
    near(forecast.prompt_tokens_per_s, 100.0 / seconds);
    near(forecast.time_to_first_token_s, seconds);
}

#[test]
fn fewer_threads_than_cores_scale_the_processor_and_say_so() {
    let machine = machine();
    let text = "version: 1\ntiers: { ram: { memory: 1GiB, threads: 1 } }\n";
    let plan = plan(&parse(text, "p.yaml").unwrap(), &model(), &machine).unwrap();
    near(plan.forecast.decode_tokens_per_s, 1.0 / (4.0 * (2.0 * LAYER_S + 0.001_001)));
    assert!(plan.notes.iter().any(|note| note.contains("4 cores down to 1 threads")), "{:?}", plan.notes);
}

#[test]
fn estimates_are_said_to_be_estimates() {
    let mut machine = machine();
    machine.disk_read.source = Source::Estimated;
    let (forecast, notes) = forecast("", &machine);
    assert!(!forecast.measured);
    assert!(notes.iter().any(|note| note.contains("estimated rates of the model's drive (0.4 GB/s)")), "{notes:?}");
}

#[test]
fn experts_count_by_the_share_that_a_token_uses() {
    let model = common::inventory("deepseek-r1-iq1_s");
    let text = "version: 1\ntiers: { ram: { memory: 180GiB } }\n";
    let machine = Machine { ram_read: machine().ram_read, ..common::desktop(Bytes(192 << 30)) };
    let plan = plan(&parse(text, "p.yaml").unwrap(), &model, &machine).unwrap();
    // 8 of 256 experts, and of the embedding one row.
    let experts: u64 = model.units.iter().filter(|unit| unit.expert.is_some()).map(|unit| unit.bytes.0).sum();
    let embedding = model.tensors[0].bytes.0;
    let read = (model.bytes().0 - experts - embedding + experts / 32) as f64 + model.tensors[0].row_bytes().as_f64();
    // In each of 61 layers 512 latents.
    let cache = 61.0 * 512.0 * 576.0 * 2.0;
    near(plan.forecast.decode_tokens_per_s, 4e9 / (read + cache));
    assert!((plan.tiers[0].read_per_token.as_f64() - read).abs() < 2.0);
}

#[test]
fn latents_are_attended_to_as_they_are_in_decode_and_expanded_for_prompts() {
    let model = common::inventory("deepseek-r1-iq1_s");
    // Nothing but operations takes time: a millionth of a second for a million.
    let rate = Rate { rate: BytesPerSecond(1e18), source: Source::Measured };
    let machine =
        Machine { ram_read: rate, disk_read: rate, cpu_ops_per_second: 1e12, ..common::desktop(Bytes(192 << 30)) };
    let forecast = |context: u32, batch: u32| {
        let text = format!(
            "version: 1\ntiers: {{ ram: {{ memory: 180GiB }} }}\n\
             context: {{ tokens: {context} }}\nprefill: {{ micro_batch: {batch} }}\n"
        );
        plan(&parse(&text, "p.yaml").unwrap(), &model, &machine).unwrap().forecast
    };
    let decode = |context: u32| 1.0 / forecast(context, 16).decode_tokens_per_s;
    // 256 positions more for 128 heads, each of 512 + 64 numbers of the latent as a key and 512 as a value.
    near((decode(512) - decode(256)) * 1e12, 61.0 * 2.0 * 128.0 * 1088.0 * 256.0);
    near(decode(4096), decode(512));
    // Twice the prompt has four times the attention, over keys of 192 and values of 128, and all else twice but the output.
    let prompt = |batch: u32| forecast(512, batch).time_to_first_token_s;
    let output = 2.0 * 7168.0 * 129_280.0;
    near((prompt(512) - 2.0 * prompt(256)) * 1e12, 61.0 * 128.0 * 320.0 * 2.0 * 256.0 * 256.0 - output);
}

/// A product's start there; what attention has beside its product: norm, heads, attention, rounding; a dense layer: norm, gate; and a mixture: norm,
/// choice, gate. And what the processor takes to ask for a kernel.
pub(crate) const START_S: f64 = 2e-6;
pub(crate) const ATTENTION_S: f64 = 7e-6;
const DENSE_S: f64 = 2e-6;
pub(crate) const MIXTURE_S: f64 = 7e-6;
pub(crate) const ASKING_S: f64 = 1.7e-6;

/// The same machine with a GPU: a matrix in 0.1 ms, read or multiplied; the link as fast as RAM (4 kB in 1 µs).
pub(crate) fn with_gpu(ops_per_second: f64) -> Machine {
    let rate = |per_second: f64| Rate { rate: BytesPerSecond(per_second), source: Source::Measured };
    let product = CardProduct { bytes_per_s: 40e9, start_s: START_S, experts_s: 3e-6 };
    let kernels = CardKernels {
        products: [(QuantType::F32, product)].into(),
        norm_s: 1e-6,
        gate_s: 1e-6,
        round_s: 1e-6,
        heads_s: 1e-6,
        attention_s: 4e-6,
        latents_s: 1.0,
        route_s: 5e-6,
        floats_per_s: ops_per_second,
        attention_per_s: ops_per_second,
        many_per_s: ops_per_second,
    };
    let gpu = Gpu {
        read: rate(40e9),
        link: rate(4e9),
        ops_per_second,
        crossing_s: 10e-6,
        launch_s: 1e-6,
        kernels,
        ..common::desktop(Bytes(1 << 30)).gpus.remove(0)
    };
    Machine { gpus: vec![gpu], ..machine() }
}

fn planned_on_gpu(model: &Inventory, rest: &str, ops_per_second: f64) -> Plan {
    let text = format!("version: 1\ntiers: {{ gpu:0: {{ memory: 2GiB }}, ram: {{ memory: 1GiB }} }}\n{rest}\n");
    plan_for(&parse(&text, "p.yaml").unwrap(), model, &with_gpu(ops_per_second), None, &common::ALL).unwrap()
}

pub(crate) const CROSSING_S: f64 = 11e-6;

#[test]
fn a_layer_on_a_gpu_costs_its_reads_its_launches_and_a_crossing() {
    let rules = "placement: [{ layers: 0, home: ram }, { layers: 1, home: gpu:0 }, { role: output, home: gpu:0 }, \
                 { role: embedding, home: ram }]\nprefill: { stream_to: none }";
    let plan = planned_on_gpu(&model(), rules, 2e10);
    // A matrix is 0.1 ms, and attention 2 × 2000 operations for each of 512 tokens.
    let layer = 0.000_1 + 0.000_102_4 + 0.000_1 + 2.0 * START_S + ATTENTION_S + DENSE_S + CROSSING_S;
    // A norm, the way back, and a row of the embedding from RAM.
    let output = 0.000_1 + START_S + 1e-6 + CROSSING_S + 1e-6;
    near(plan.forecast.decode_tokens_per_s, 1.0 / (LAYER_S + layer + output));
}

#[test]
fn a_card_waits_for_kernels_that_are_asked_for_one_by_one() {
    let decode_s = |launch_s: f64, ffn: &str| {
        let mut machine = with_gpu(2e10);
        machine.gpus[0].launch_s = launch_s;
        let text = format!(
            "version: 1\ntiers: {{ gpu:0: {{ memory: 2GiB }}, ram: {{ memory: 1GiB }} }}\nplacement: [{{ layers: 0, home: ram }}, \
             {{ layers: 1, role: attention, home: gpu:0 }}, {{ layers: 1, home: {ffn} }}, {{ role: output, home: ram }}, \
             {{ role: embedding, home: ram }}]\nprefill: {{ stream_to: none }}\ndecode: {{ stream_layers: 0 }}\n"
        );
        let plan = plan_for(&parse(&text, "p.yaml").unwrap(), &model(), &machine, None, &common::ALL).unwrap();
        plan.forecast.decode_tokens_per_s.recip()
    };
    // Attention's product and five kernels take 0.21 ms, and 1.7 ms each until they are asked for. A layer that a card has all of is replayed.
    let own = 0.000_1 + 0.000_102_4 + START_S + ATTENTION_S;
    near(decode_s(1e-3, "ram") - decode_s(1e-9, "ram"), 6.0 * 1.7e-3 - own);
    near(decode_s(1e-3, "gpu:0"), decode_s(1e-9, "gpu:0"));
}

#[test]
fn gpus_work_in_turn_and_a_boundary_costs_a_crossing_of_each() {
    let rules = "placement: [{ layers: 0, home: gpu:0 }, { layers: 1, home: gpu:1 }, { role: output, home: gpu:1 }, \
                 { role: embedding, home: ram }]\nprefill: { stream_to: none }";
    let text = format!(
        "version: 1\ntiers: {{ gpu:0: {{ memory: 2GiB }}, gpu:1: {{ memory: 2GiB }}, ram: {{ memory: 2GiB }} }}\n{rules}\n"
    );
    let mut machine = with_gpu(2e10);
    machine.gpus.push(machine.gpus[0].clone());
    // The second reads twice as fast, and its way takes 21 µs.
    machine.gpus[1].read.rate.0 *= 2.0;
    machine.gpus[1].kernels.products.get_mut(&QuantType::F32).unwrap().bytes_per_s *= 2.0;
    machine.gpus[1].kernels.floats_per_s *= 2.0;
    machine.gpus[1].ops_per_second *= 2.0;
    machine.gpus[1].crossing_s = 20e-6;
    let plan = plan_for(&parse(&text, "p.yaml").unwrap(), &model(), &machine, None, &common::ALL).unwrap();
    let (first, second) = (CROSSING_S, 21e-6);
    let (matrices, kernels) = (0.000_1 + 0.000_102_4 + 0.000_1, 2.0 * START_S + ATTENTION_S + DENSE_S);
    let layers = first + matrices + kernels + (first + second) + matrices / 2.0 + kernels;
    let output = 0.000_05 + START_S + 1e-6 + second + 1e-6;
    near(plan.forecast.decode_tokens_per_s, 1.0 / (layers + output));
}

#[test]
fn a_matrix_elsewhere_costs_its_gpus_block_two_crossings() {
    let rules = "placement: [{ tensors: 'blk.1.attn', home: gpu:0 }, { tensors: 'blk.1.ffn', home: ram }, { layers: 0, home: ram }, \
                 { role: output, home: gpu:0 }, { role: embedding, home: ram }]\nprefill: { stream_to: none }";
    let whole = planned_on_gpu(&model(), rules, 2e10).forecast.decode_tokens_per_s;
    let mut model = model();
    // As if the second layer's feed-forward matrix were one of attention's.
    for unit in model.units.iter_mut().filter(|unit| unit.layer == Some(1)) {
        unit.role = plan::Role::Attention;
    }
    let foreign = planned_on_gpu(&model, rules, 2e10).forecast.decode_tokens_per_s;
    // There the feed-forward block is the processor's. Here it has nothing of its own, and is so too: there and back for the matrix alone.
    near(1.0 / foreign, 1.0 / whole + 2.0 * CROSSING_S);
}

/// One layer with 4 experts of one matrix each, of which a token uses 2.
fn mixture() -> Inventory {
    mixture_of(4, 2)
}

/// One layer with so many experts of one matrix each, of which a token uses some.
pub(crate) fn mixture_of(experts: u32, experts_used: u32) -> Inventory {
    let shape = ModelShape { layers: 1, kv_per_token: vec![(1000, 1000)], experts, experts_used, ..model().shape };
    let matrix = |name: &str| (name.to_owned(), QuantType::F32, vec![1000, 1000]);
    let list = [
        matrix("token_embd.weight"),
        matrix("blk.0.attn_q.weight"),
        ("blk.0.ffn_gate_inp.weight".to_owned(), QuantType::F32, vec![1000, u64::from(experts)]),
        ("blk.0.ffn_up_exps.weight".to_owned(), QuantType::F32, vec![1000, 1000, u64::from(experts)]),
        matrix("output.weight"),
    ];
    common::build("mixture by hand", shape, VocabularySize::default(), list)
}

#[test]
fn experts_in_ram_are_computed_beside_those_on_the_gpu() {
    let rules = "placement: [{ role: routed_expert, experts: 1-3, home: ram }]\nprefill: { stream_to: none }\ndecode: { fetch_experts: 0 }";
    let plan = planned_on_gpu(&mixture(), rules, 2e10);
    let gpu = plan.placements.iter().filter(|placement| placement.home == plan::Tier::Gpu(0)).count();
    assert_eq!(gpu, 4, "attention, router, an expert, the output");
    // Half of three experts from RAM, which hides half of one on the GPU; the router; there and back; and the way in.
    let layer = 0.000_1 + 0.000_102_4 + 0.4e-6 + 0.001_5 + 3.0 * CROSSING_S + 2.0 * START_S + ATTENTION_S + MIXTURE_S;
    let output = 0.000_1 + START_S + 1e-6 + CROSSING_S + 1e-6;
    near(plan.forecast.decode_tokens_per_s, 1.0 / (layer + output));
}

#[test]
fn as_many_experts_are_fetched_as_make_a_token_fastest() {
    // The processor takes 1 ms for each of the two experts of a token, and so does a link of 4 GB/s; but RAM gives 4.4 GB/s to both, 8 MB in
    // 1.82 ms. The GPU takes 0.1 ms for each, and 1 µs and twice 3 to start; the processor asks for three copies of each before its own.
    for (link, asked, expected, expert_s) in [
        (2e9, "auto", 0, 0.002),
        (4e9, "auto", 1, 0.008 / 4.4),
        (1e12, "auto", 1, 0.008 / 4.4),
        (1e12, "2", 2, 0.008 / 4.4),
        (1e12, "0", 0, 0.002),
        (2e9, "9", 2, 0.004 + 0.000_2 + 7e-6),
    ] {
        let mut machine = with_gpu(2e10);
        machine.gpus[0].link = Rate { rate: BytesPerSecond(link), source: Source::Measured };
        let text = format!(
            "version: 1\ntiers: {{ gpu:0: {{ memory: 4GiB }}, ram: {{ memory: 1GiB }} }}\n\
             placement: [{{ role: routed_expert, home: ram }}]\nprefill: {{ stream_to: none }}\ndecode: {{ fetch_experts: {asked} }}\n"
        );
        let plan = plan_for(&parse(&text, "p.yaml").unwrap(), &mixture(), &machine, None, &common::ALL).unwrap();
        let fetch = plan.fetch.map_or(0, |fetch| fetch.experts);
        assert_eq!(fetch, expected, "{link} {asked}");
        let has_room = plan.tiers[0].loads.iter().any(|load| load.what == "fetched experts");
        assert_eq!(has_room, expected > 0, "{link} {asked}");
        let crossing = 10e-6 + 4000.0 / link;
        let kernels = 2.0 * START_S + ATTENTION_S + MIXTURE_S + 3.0 * f64::from(expected) * ASKING_S;
        let layer = 0.000_1 + 0.000_102_4 + 0.4e-6 + expert_s + 3.0 * crossing + kernels;
        let output = 0.000_1 + START_S + 1e-6 + crossing + 1e-6;
        near(plan.forecast.decode_tokens_per_s, 1.0 / (layer + output));
    }
}

#[test]
fn the_processor_keeps_experts_of_a_streamed_prompt_where_both_together_are_faster() {
    // Two tokens take 1 ms of the processor for each of four experts, since each token uses half of them; three quarters of their 4 MB each come by the
    // link: 0.75 ms at 4 GB/s, so that two stay.
    let launched = |launch_s: f64, link: f64, asked: &str| {
        let mut machine = with_gpu(2e13);
        machine.ram_read.rate = BytesPerSecond(4e10);
        machine.gpus[0].launch_s = launch_s;
        machine.gpus[0].link = Rate { rate: BytesPerSecond(link), source: Source::Measured };
        let text = format!(
            "version: 1\ntiers: {{ gpu:0: {{ memory: 4GiB }}, ram: {{ memory: 1GiB }} }}\nplacement: [{{ role: routed_expert, home: ram }}]\n\
             prefill: {{ stream_to: gpu:0, micro_batch: 2, cpu_experts: {asked} }}\ndecode: {{ fetch_experts: 0 }}\n"
        );
        plan_for(&parse(&text, "p.yaml").unwrap(), &mixture(), &machine, None, &common::ALL).unwrap()
    };
    let planned = |link, asked: &str| launched(1e-6, link, asked);
    for (link, expected) in [(1.5e9, 3), (4e9, 2), (6e9, 1), (12e9, 0)] {
        let plan = planned(link, "auto");
        assert_eq!((plan.cpu_experts, plan.stream_from), (expected, Some(2)), "{link}");
        let stays =
            |placement: &&plan::Placement| placement.home == plan::Tier::Ram && placement.prefill == plan::Device::Cpu;
        let model = mixture();
        let experts = model.units.iter().zip(&plan.placements).filter(|(_, placement)| stays(placement));
        let stay: Vec<u32> = experts.filter_map(|(unit, _)| unit.expert).collect();
        assert_eq!(stay, (4 - expected..4).collect::<Vec<_>>(), "the last ones stay");
    }
    let seconds = |asked: &str| planned(4e9, asked).forecast.time_to_first_token_s;
    // The link is the clock with none and with one, and the processor with two and with three.
    near(seconds("0") - seconds("1"), 0.000_75);
    near(seconds("3") - seconds("2"), 0.001);
    near(seconds("auto"), seconds("2"));
    // It begins when it has asked for what comes: one slot, eleven times 1.7 launches.
    near(launched(4e-6, 4e9, "2").forecast.time_to_first_token_s - seconds("2"), 11.0 * 1.7 * 3e-6);
    // With all of them nothing is left to stream.
    let all = planned(4e9, "9");
    assert_eq!((all.stream_from, all.cpu_experts), (None, 0));
}

#[test]
fn feed_forward_matrices_come_in_decode_while_the_processor_computes() {
    let rules =
        "placement: [{ role: attention, home: ram }, { role: dense_ffn, home: ram }, { role: output, home: ram }]\n";
    let with = |asked: &str| {
        let rules =
            format!("{rules}prefill: {{ stream_to: gpu:0, micro_batch: 1 }}\ndecode: {{ stream_layers: {asked} }}");
        planned_on_gpu(&model(), &rules, 2e10)
    };
    let comes = |plan: &Plan| plan.blocks.iter().map(|layer| layer.ffn == plan::Device::Gpu(0)).collect::<Vec<_>>();
    // Attention takes 2.024 ms; a matrix comes in 1 ms meanwhile, and the GPU has it in 0.1 ms: there and back, and two kernels that take longer to be
    // asked for than to run.
    let attention = LAYER_S - 0.001;
    let layer = attention + 0.000_1 + START_S + 2.0 * ASKING_S + 2.0 * CROSSING_S;
    let plan = with("auto");
    assert_eq!(comes(&plan), [true, true]);
    // Both layers would take 5.30 ms, but RAM gives 4.4 GB/s to both sides: five matrices, a row, keys and values.
    let bytes = 5.0 * 4e6 + 4e3 + 2.0 * 512.0 * 4e3;
    assert!(2.0 * layer + 0.001_001 < bytes / 4.4e9);
    near(plan.forecast.decode_tokens_per_s, 4.4e9 / bytes);
    assert_eq!(plan.device_staging[0].1.slots, plan::streaming::SLOTS_DECODE);
    assert!(model().iter().all(|(id, unit)| plan.comes(id) == (unit.role == plan::Role::DenseFfn)));
    let plan = with("1");
    assert_eq!(comes(&plan), [false, true]);
    near(plan.forecast.decode_tokens_per_s, 1.0 / (LAYER_S + layer + 0.001_001));
    let plan = with("0");
    assert_eq!((comes(&plan), plan.device_staging.len()), (vec![false, false], 0));
}

/// Two layers whose attention takes a GPU of 10 TFLOP/s 0.44 s with 512 tokens, and whose feed-forward matrices of 4 GiB a link of 10 GB/s 0.43 s.
fn long_attention() -> Inventory {
    let shape = ModelShape {
        embedding: 16_384,
        heads: 512,
        feed_forward: 65_536,
        kv_per_token: vec![(16_384, 16_384); 2],
        kv_row: (16_384, 16_384),
        ..model().shape
    };
    let list = [
        ("token_embd.weight", 1000),
        ("blk.0.attn_q.weight", 1024),
        ("blk.0.ffn_up.weight", 65_536),
        ("blk.1.attn_q.weight", 1024),
        ("blk.1.ffn_up.weight", 65_536),
        ("output.weight", 1000),
    ];
    let list = list.map(|(name, rows)| (name.to_owned(), QuantType::F32, vec![16_384, rows]));
    common::build("by hand", shape, VocabularySize::default(), list)
}

#[test]
fn rings_are_searched_from_the_length_that_they_have() {
    let mut machine = with_gpu(1e13);
    machine.gpus[0].link = Rate { rate: BytesPerSecond(1e10), source: Source::Measured };
    // Where decode streams too a ring has eight slots to begin with, and no more are needed for a decode alone.
    for (layers, micro_batch, expected) in [(0, 512, 24), (1, 512, 24), (1, 1, plan::streaming::SLOTS_DECODE)] {
        let text = format!(
            "version: 1\ntiers: {{ gpu:0: {{ memory: 8GiB }}, ram: {{ memory: 64GiB }} }}\n\
             placement: [{{ role: attention, home: gpu:0 }}, {{ role: dense_ffn, home: ram }}, {{ role: output, home: ram }}]\n\
             prefill: {{ stream_to: gpu:0, micro_batch: {micro_batch} }}\ndecode: {{ stream_layers: {layers} }}"
        );
        let plan = plan_for(&parse(&text, "p.yaml").unwrap(), &long_attention(), &machine, None, &common::ALL);
        let plan = plan.unwrap_or_else(|refusal| panic!("{refusal}"));
        assert_eq!(plan.device_staging[0].1.slots, expected, "{layers} layers, {micro_batch} tokens");
    }
}

#[test]
fn prompts_are_streamed_from_where_the_link_is_faster_than_the_processor() {
    let rules = "placement: [{ role: attention, home: ram }, { role: dense_ffn, home: ram }, { role: output, home: ram }]\n\
                 prefill: { stream_to: gpu:0, micro_batch: 100 }\ndecode: { stream_layers: 0 }";
    let plan = planned_on_gpu(&model(), rules, 1e13);
    // Two matrices over the link hide the GPU's 0.2 ms and the prompt's way there; the output as on the processor, and a row's way back.
    near(plan.forecast.time_to_first_token_s, 2.0 * 0.002 + 0.0011 + CROSSING_S);
    // One token takes 2.001 ms a layer where it is; two take 4.
    assert_eq!(plan.stream_from, Some(2));
    assert_eq!(plan.device_staging, [(0, plan::streaming::ring(&model(), plan::streaming::SLOTS))]);
    // A link that is slower than the processor for the whole batch is not used, and its ring not there.
    let slow = "placement: [{ role: attention, home: ram }, { role: dense_ffn, home: ram }, { role: output, home: ram }]\n\
                prefill: { stream_to: gpu:0, micro_batch: 1 }\ndecode: { stream_layers: 0 }";
    let plan = planned_on_gpu(&model(), slow, 1e13);
    assert_eq!((plan.stream_from, plan.device_staging.len()), (None, 0));
}
