//! The forecast against sums done by hand.

mod common;

use plan::profile::parse;
use plan::{
    Bytes, BytesPerSecond, Forecast, Inventory, Machine, ModelShape, QuantType, Rate, Source, VocabularySize, plan,
};

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
        indexer_per_token: Vec::new(),
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

fn near(found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() < ROUND, "found {found}, expected {expected}");
}

#[test]
fn in_ram_a_token_reads_every_matrix_and_one_row_of_the_embedding() {
    let (forecast, _) = forecast("", &machine());
    // Five matrices of 1 ms; the row of the embedding takes a thousandth of one.
    near(forecast.decode_tokens_per_s, 1.0 / 0.005_001);
    // Six matrices come from disk once.
    near(forecast.load_s, 0.060);
    assert!(forecast.measured);
}

#[test]
fn disk_hides_the_processor_inside_a_layer_and_not_across_layers() {
    let (forecast, _) = forecast("placement: [{ role: dense_ffn, layers: 1, home: disk }]", &machine());
    // Layer 0: 2 ms of RAM. Layer 1: 10 ms of disk beside 2 ms of RAM. Output: 1 ms, and the row.
    near(forecast.decode_tokens_per_s, 1.0 / 0.013_001);
}

#[test]
fn a_prompt_is_bound_by_operations_and_makes_logits_once() {
    let (forecast, _) = forecast("prefill: { micro_batch: 100 }", &machine());
    // A layer: 2 matrices × 100 tokens × 2e6 operations, and attention's 2 × 1000 × 100²; the output for one token,
    // which the RAM bounds beside a tenth of the embedding's rows.
    let layer = (2.0 * 100.0 * 2e6 + 2.0 * 1000.0 * 1e4) / 2e9;
    let seconds = 2.0 * layer + 0.0011;
    near(forecast.prompt_tokens_per_s, 100.0 / seconds);
    near(forecast.time_to_first_token_s, seconds);
}

#[test]
fn fewer_threads_than_cores_scale_the_processor_and_say_so() {
    let machine = machine();
    let text = "version: 1\ntiers: { ram: { memory: 1GiB, threads: 1 } }\n";
    let plan = plan(&parse(text, "p.yaml").unwrap(), &model(), &machine).unwrap();
    near(plan.forecast.decode_tokens_per_s, 1.0 / (4.0 * 0.005_001));
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
    near(plan.forecast.decode_tokens_per_s, 4e9 / read);
    assert!((plan.tiers[0].read_per_token.as_f64() - read).abs() < 2.0);
}
