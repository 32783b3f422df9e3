//! Models of any size with random weights: real structure, real bytes, no meaning.

use std::fs::File;
use std::io::{BufWriter, Result, Seek, SeekFrom, Write};
use std::path::Path;

use gguf::testing::{Draft, Field, Info};
use plan::QuantType;

/// Widths of a dense model.
pub(crate) struct Sizes {
    pub(crate) layers: u32,
    pub(crate) width: u32,
    pub(crate) inner: u32,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) vocabulary: u32,
}

/// Llama 3.2 1B: 0.80 GB at `Q4_K` and `Q6_K`, embedding and output tied.
pub(crate) const LLAMA_1B: Sizes =
    Sizes { layers: 16, width: 2048, inner: 8192, heads: 32, kv_heads: 8, vocabulary: 128_256 };

/// Widths of a mixture with latent attention.
pub(crate) struct LatentSizes {
    pub(crate) layers: u32,
    pub(crate) dense_layers: u32,
    pub(crate) width: u32,
    pub(crate) dense_inner: u32,
    pub(crate) inner: u32,
    pub(crate) heads: u32,
    pub(crate) query_rank: u32,
    pub(crate) rank: u32,
    pub(crate) plain: u32,
    pub(crate) rotated: u32,
    pub(crate) value: u32,
    pub(crate) experts: u32,
    pub(crate) used: u32,
    pub(crate) groups: (u32, u32),
    pub(crate) vocabulary: u32,
}

/// `DeepSeek` V3 and R1: 671B with 61 layers.
pub(crate) const DEEPSEEK_V3: LatentSizes = LatentSizes {
    layers: 61,
    dense_layers: 3,
    width: 7168,
    dense_inner: 18_432,
    inner: 2048,
    heads: 128,
    query_rank: 1536,
    rank: 512,
    plain: 128,
    rotated: 64,
    value: 128,
    experts: 256,
    used: 8,
    groups: (8, 4),
    vocabulary: 129_280,
};

const F32: QuantType = QuantType::F32;

/// A llama.
pub(crate) fn llama(s: &Sizes) -> Draft {
    let mut draft = common("llama", s.layers, s.width, s.vocabulary);
    for (key, value) in
        [("feed_forward_length", s.inner), ("attention.head_count", s.heads), ("attention.head_count_kv", s.kv_heads)]
    {
        draft.set(&format!("llama.{key}"), Field::u32(value));
    }
    let (q4, q6) = (QuantType::Q4K, QuantType::Q6K);
    let kv = s.width / s.heads * s.kv_heads;
    add(&mut draft, "token_embd.weight", &[s.width, s.vocabulary], q6);
    for layer in 0..s.layers {
        let mut add =
            |name: &str, dims: &[u32], quant| add(&mut draft, &format!("blk.{layer}.{name}.weight"), dims, quant);
        add("attn_norm", &[s.width], F32);
        add("attn_q", &[s.width, s.width], q4);
        add("attn_k", &[s.width, kv], q4);
        add("attn_v", &[s.width, kv], q6);
        add("attn_output", &[s.width, s.width], q4);
        add("ffn_norm", &[s.width], F32);
        add("ffn_gate", &[s.width, s.inner], q4);
        add("ffn_up", &[s.width, s.inner], q4);
        add("ffn_down", &[s.inner, s.width], if layer % 2 == 0 { q6 } else { q4 });
    }
    add(&mut draft, "output_norm.weight", &[s.width], F32);
    draft
}

/// A `DeepSeek` V3 of other widths, its experts in `IQ1_S` and everything else in `Q8_0`.
pub(crate) fn deepseek(s: &LatentSizes) -> Draft {
    latent("deepseek2", s)
}

/// A `DeepSeek` V3.2 of other widths, whose indexers have so many heads of so many numbers and choose so many positions.
pub(crate) fn sparse(s: &LatentSizes, [heads, width, top_k]: [u32; 3]) -> Draft {
    let mut draft = latent("deepseek32", s);
    for (key, value) in [("head_count", heads), ("key_length", width), ("top_k", top_k)] {
        draft.set(&format!("deepseek32.attention.indexer.{key}"), Field::u32(value));
    }
    for layer in 0..s.layers {
        let mut add = |name: &str, dims: &[u32]| add(&mut draft, &format!("blk.{layer}.indexer.{name}"), dims, F32);
        add("attn_q_b.weight", &[s.query_rank, heads * width]);
        add("attn_k.weight", &[s.width, width]);
        add("k_norm.weight", &[width]);
        add("k_norm.bias", &[width]);
        add("proj.weight", &[s.width, heads]);
    }
    draft
}

fn latent(architecture: &str, s: &LatentSizes) -> Draft {
    let mut draft = common(architecture, s.layers, s.width, s.vocabulary);
    for (key, value) in [
        ("feed_forward_length", s.dense_inner),
        ("leading_dense_block_count", s.dense_layers),
        ("attention.head_count", s.heads),
        ("attention.head_count_kv", 1),
        ("attention.q_lora_rank", s.query_rank),
        ("attention.kv_lora_rank", s.rank),
        ("attention.key_length", s.rank + s.rotated),
        ("attention.value_length", s.rank),
        ("attention.key_length_mla", s.plain + s.rotated),
        ("attention.value_length_mla", s.value),
        ("rope.dimension_count", s.rotated),
        ("expert_count", s.experts),
        ("expert_used_count", s.used),
        ("expert_shared_count", 1),
        ("expert_feed_forward_length", s.inner),
        ("expert_group_count", s.groups.0),
        ("expert_group_used_count", s.groups.1),
        ("expert_gating_func", 2),
    ] {
        draft.set(&format!("{architecture}.{key}"), Field::u32(value));
    }
    draft.set(&format!("{architecture}.expert_weights_scale"), Field::f32(2.5));
    draft.set(&format!("{architecture}.expert_weights_norm"), Field::boolean(true));
    let (q8, expert) = (QuantType::Q8_0, QuantType::Iq1S);
    add(&mut draft, "token_embd.weight", &[s.width, s.vocabulary], q8);
    for layer in 0..s.layers {
        let mut add = |name: &str, dims: &[u32], quant| {
            let suffix = if name == "exp_probs_b" { "bias" } else { "weight" };
            add(&mut draft, &format!("blk.{layer}.{name}.{suffix}"), dims, quant);
        };
        add("attn_norm", &[s.width], F32);
        add("attn_q_a", &[s.width, s.query_rank], q8);
        add("attn_q_a_norm", &[s.query_rank], F32);
        add("attn_q_b", &[s.query_rank, s.heads * (s.plain + s.rotated)], q8);
        add("attn_kv_a_mqa", &[s.width, s.rank + s.rotated], q8);
        add("attn_kv_a_norm", &[s.rank], F32);
        add("attn_k_b", &[s.plain, s.rank, s.heads], q8);
        add("attn_v_b", &[s.rank, s.value, s.heads], q8);
        add("attn_output", &[s.heads * s.value, s.width], q8);
        add("ffn_norm", &[s.width], F32);
        if layer < s.dense_layers {
            add("ffn_gate", &[s.width, s.dense_inner], q8);
            add("ffn_up", &[s.width, s.dense_inner], q8);
            add("ffn_down", &[s.dense_inner, s.width], q8);
            continue;
        }
        add("ffn_gate_inp", &[s.width, s.experts], F32);
        add("exp_probs_b", &[s.experts], F32);
        add("ffn_gate_exps", &[s.width, s.inner, s.experts], expert);
        add("ffn_up_exps", &[s.width, s.inner, s.experts], expert);
        add("ffn_down_exps", &[s.inner, s.width, s.experts], expert);
        add("ffn_gate_shexp", &[s.width, s.inner], q8);
        add("ffn_up_shexp", &[s.width, s.inner], q8);
        add("ffn_down_shexp", &[s.inner, s.width], q8);
    }
    add(&mut draft, "output_norm.weight", &[s.width], F32);
    add(&mut draft, "output.weight", &[s.width, s.vocabulary], q8);
    draft
}

fn common(architecture: &str, layers: u32, width: u32, vocabulary_size: u32) -> Draft {
    let mut draft = Draft::default();
    draft.set("general.architecture", Field::text(architecture));
    draft.set("general.name", Field::text("synthetic"));
    for (key, value) in [
        ("block_count", layers),
        ("context_length", 8192),
        ("embedding_length", width),
        ("vocab_size", vocabulary_size),
    ] {
        draft.set(&format!("{architecture}.{key}"), Field::u32(value));
    }
    draft.set(&format!("{architecture}.attention.layer_norm_rms_epsilon"), Field::f32(1e-5));
    draft.set(&format!("{architecture}.rope.freq_base"), Field::f32(5e5));
    draft.set("tokenizer.ggml.model", Field::text("gpt2"));
    draft.set("tokenizer.ggml.pre", Field::text("llama-bpe"));
    let (tokens, merges) = vocabulary(vocabulary_size);
    draft.set("tokenizer.ggml.tokens", Field::texts(&tokens));
    draft.set("tokenizer.ggml.merges", Field::texts(&merges));
    draft
}

fn add(draft: &mut Draft, name: &str, dims: &[u32], quant: QuantType) {
    let dims: Vec<u64> = dims.iter().map(|n| u64::from(*n)).collect();
    draft.tensors.push(Info { kind: quant.id(), ..Info::f32(name, &dims) });
}

/// The 256 byte symbols of byte-level BPE, then words grown from them by merges.
fn vocabulary(count: u32) -> (Vec<String>, Vec<String>) {
    let plain = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let shifted = (0..256).filter(|b| !plain(*b)).enumerate().map(|(i, _)| 256 + i as u32);
    let symbols = (0..256).filter(|b| plain(*b)).chain(shifted);
    let mut tokens: Vec<String> = symbols.map(|c| char::from_u32(c).unwrap().to_string()).collect();
    let mut merges = Vec::new();
    let mut known: std::collections::HashSet<String> = tokens.iter().cloned().collect();
    let mut grow = 0;
    while tokens.len() < count as usize {
        // Every token so far, continued by each of 26 letters, in turn.
        let (left, right) = (tokens[grow / 26].clone(), char::from(b'a' + (grow % 26) as u8).to_string());
        grow += 1;
        let word = format!("{left}{right}");
        if known.insert(word.clone()) {
            merges.push(format!("{left} {right}"));
            tokens.push(word);
        }
    }
    (tokens, merges)
}

/// Writes the model to `path` with random weights.
pub(crate) fn write(path: &Path, draft: &Draft) -> Result<()> {
    write_but(path, draft, |_| false)
}

/// Writes the model with random weights, and zeros that take no room on the drive in the tensors that `hole` names.
pub(crate) fn write_but(path: &Path, draft: &Draft, hole: impl Fn(&str) -> bool) -> Result<()> {
    let header = draft.header();
    let start = (header.len() as u64).next_multiple_of(draft.alignment);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(&header)?;
    let (mut random, mut offset) = (1u64, 0);
    for info in &draft.tensors {
        let name = String::from_utf8_lossy(&info.name);
        let quant = QuantType::from_id(info.kind).unwrap();
        let length = quant.bytes(info.dims.iter().product()).unwrap().0;
        if !hole(&name) {
            out.seek(SeekFrom::Start(start + offset))?;
            write_tensor(&mut out, length, quant, &name, &mut random)?;
        }
        offset = (offset + length).next_multiple_of(draft.alignment);
    }
    out.flush()?;
    out.into_inner()?.set_len(start + offset)
}

/// Random blocks whose scales keep weights near ±0.02; norms of ones, biases of zeros.
fn write_tensor(out: &mut impl Write, length: u64, quant: QuantType, name: &str, random: &mut u64) -> Result<()> {
    let mut block = vec![0u8; quant.block_bytes()];
    for _ in 0..length / block.len() as u64 {
        for chunk in block.chunks_mut(8) {
            *random ^= *random << 13;
            *random ^= *random >> 7;
            *random ^= *random << 17;
            chunk.copy_from_slice(&random.to_le_bytes()[..chunk.len()]);
        }
        match quant {
            QuantType::Q4K => block[..4].copy_from_slice(&[0x70, 0x08, 0x00, 0x10]), // d 1.3e-4, dmin 4.9e-4
            QuantType::Q6K => block[208..].copy_from_slice(&[0x10, 0x00]),           // d 9.5e-7
            QuantType::Q8_0 => block[..2].copy_from_slice(&[0x50, 0x0c]),            // d 2.6e-4
            QuantType::Iq1S => block[..2].copy_from_slice(&[0x60, 0x19]),            // d 2.6e-3
            _ if name.ends_with("norm.weight") => block.copy_from_slice(&1f32.to_le_bytes()),
            _ if name.ends_with("bias") => block.fill(0),
            _ => {
                let number = (*random >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
                block.copy_from_slice(&(0.1 * number).to_le_bytes());
            }
        }
        out.write_all(&block)?;
    }
    Ok(())
}
