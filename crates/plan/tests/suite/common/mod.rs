//! Recorded inventories and machines for tests: the headers of real models, without the models.

#![allow(dead_code, reason = "each test target uses its own part")]
#![allow(clippy::disallowed_methods, reason = "tests read files; the crate does not")]

use plan::gpu::Abilities;
use plan::{
    Bytes, BytesPerSecond, Calibration, Gpu, Inventory, Latent, Machine, ModelFile, ModelShape, QuantType, Rate, Role,
    Source, Tensor, Unit, VocabularySize,
};
use serde::Deserialize;

/// A recorded header.
#[derive(Deserialize)]
struct Recorded {
    name: String,
    architecture: String,
    layers: u32,
    embedding: u32,
    heads: u32,
    feed_forward: u32,
    vocabulary: u32,
    context_train: u32,
    kv_per_token: (u32, u32),
    experts: u32,
    experts_used: u32,
    tokens: u64,
    merges: u64,
    text_bytes: u64,
    tensors: Vec<(String, String, Vec<u64>)>,
}

/// The inventory recorded under `tests/inventories/NAME.json`.
pub(crate) fn inventory(name: &str) -> Inventory {
    let path = format!("{}/tests/inventories/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let recorded: Recorded = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
    let head = recorded.embedding / recorded.heads;
    let shape = ModelShape {
        architecture: recorded.architecture,
        layers: recorded.layers,
        embedding: recorded.embedding,
        heads: recorded.heads,
        feed_forward: recorded.feed_forward,
        vocabulary: recorded.vocabulary,
        context_train: recorded.context_train,
        kv_per_token: vec![recorded.kv_per_token; recorded.layers as usize],
        // A latent is one row; the other recorded models have heads of the usual width.
        kv_row: if recorded.kv_per_token.1 == 0 { recorded.kv_per_token } else { (head, head) },
        // The recorded models with latents are DeepSeek's.
        latent: (recorded.kv_per_token.1 == 0).then_some(Latent { rank: 512, key: 192, value: 128 }),
        indexer_per_token: Vec::new(),
        delta: None,
        experts: recorded.experts,
        experts_used: recorded.experts_used,
    };
    let vocabulary =
        VocabularySize { tokens: recorded.tokens, merges: recorded.merges, text_bytes: Bytes(recorded.text_bytes) };
    let tensors = recorded.tensors.into_iter().map(|(name, quant, dims)| (name, quant.parse().unwrap(), dims));
    build(&recorded.name, shape, vocabulary, tensors)
}

/// An inventory of these tensors, laid out one after the other as a writer would.
pub(crate) fn build(
    name: &str,
    shape: ModelShape,
    vocabulary: VocabularySize,
    list: impl IntoIterator<Item = (String, QuantType, Vec<u64>)>,
) -> Inventory {
    let mut offset = 1 << 20;
    let (mut tensors, mut units) = (Vec::new(), Vec::new());
    for (index, (name, quant, dims)) in list.into_iter().enumerate() {
        let bytes = quant.bytes(dims.iter().product()).unwrap_or_else(|| panic!("{name}: no whole blocks"));
        let (role, layer) = role_of(&name, &shape);
        let tensor = Tensor { name, quant, dims, file: 0, offset, bytes };
        let slices = if role == Role::RoutedExpert { u64::from(shape.experts) } else { 1 };
        for slice in 0..slices {
            let bytes = Bytes(bytes.0 / slices);
            units.push(Unit {
                tensor: index as u32,
                role,
                layer,
                expert: (role == Role::RoutedExpert).then_some(slice as u32),
                rows: tensor.rows() / slices,
                offset: offset + slice * bytes.0,
                bytes,
            });
        }
        tensors.push(tensor);
        offset = (offset + bytes.0).next_multiple_of(32);
    }
    let files = vec![ModelFile { path: format!("{name}.gguf"), bytes: Bytes(offset) }];
    Inventory { name: name.to_owned(), files, shape, vocabulary, tensors, units }
}

/// The role and layer of a tensor, for the names that the recorded models use.
fn role_of(name: &str, shape: &ModelShape) -> (Role, Option<u32>) {
    let Some((layer, rest)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        return match name {
            "token_embd.weight" => (Role::Embedding, None),
            "output.weight" => (Role::Output, None),
            "output_norm.weight" => (Role::Norm, None),
            _ => (Role::Attention, None),
        };
    };
    let layer: u32 = layer.parse().unwrap();
    let role = match rest {
        _ if layer >= shape.layers => Role::MultiToken,
        rest if rest.contains("_norm") => Role::Norm,
        rest if rest.contains("_exps") => Role::RoutedExpert,
        rest if rest.contains("_shexp") => Role::SharedExpert,
        rest if rest.contains("gate_inp") || rest.contains("exp_probs") => Role::Router,
        rest if rest.starts_with("ffn_") => Role::DenseFfn,
        _ => Role::Attention,
    };
    (role, Some(layer))
}

/// GPUs that compute whatever a model has: what is planned then does not change with each kernel.
pub(crate) const ALL: Abilities = Abilities { mixtures: true, latents: true, streams: true, fetches: true, gpus: 2 };

const fn rate(bytes_per_second: f64) -> Rate {
    Rate { rate: BytesPerSecond(bytes_per_second), source: Source::Measured }
}

/// A small machine without a GPU.
pub(crate) fn laptop() -> Machine {
    Machine {
        cpu: "test processor".to_owned(),
        cores: 4,
        ram_total: Bytes(16 << 30),
        ram_available: Bytes(12 << 30),
        ram_read: rate(30e9),
        cpu_ops_per_second: 400e9,
        disk_read: rate(3e9),
        disk_reads: plan::Reads::USUAL,
        disk_beside: 1.0,
        gpus: Vec::new(),
        processor: None,
        calibration: Calibration::NONE,
    }
}

/// The desktop of the users that plimsoll is made for: 8 cores, an RTX 3060 with 12 GB, this much RAM.
pub(crate) fn desktop(ram: Bytes) -> Machine {
    Machine {
        cpu: "test processor".to_owned(),
        cores: 8,
        ram_total: ram,
        ram_available: Bytes(ram.0 / 16 * 15),
        ram_read: rate(50e9),
        cpu_ops_per_second: 1e12,
        disk_read: rate(6e9),
        disk_reads: plan::Reads::USUAL,
        disk_beside: 1.0,
        gpus: vec![Gpu {
            name: "NVIDIA GeForce RTX 3060".to_owned(),
            memory_total: Bytes(12 << 30),
            memory_free: Bytes((12 << 30) - (300 << 20)),
            capability: (8, 6),
            read: rate(340e9),
            link: rate(24e9),
            ops_per_second: 0.0,
            link_back: None,
            crossing_s: 0.0,
            launch_s: 0.0,
            kernels: plan::card::CardKernels::default(),
            context: Bytes::ZERO,
        }],
        processor: None,
        calibration: Calibration::NONE,
    }
}
