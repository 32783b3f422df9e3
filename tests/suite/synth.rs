//! A llama model of any size with random weights: real structure, real bytes, no meaning.

use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::path::Path;

/// Widths of a model.
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

const Q4_K: (u32, u64, u64) = (12, 256, 144);
const Q6_K: (u32, u64, u64) = (14, 256, 210);
const F32: (u32, u64, u64) = (0, 1, 4);

type Tensor = (String, Vec<u64>, (u32, u64, u64));

/// Writes the model to `path`.
pub(crate) fn write(path: &Path, sizes: &Sizes) -> Result<()> {
    let tensors = tensors(sizes);
    let mut header = Vec::new();
    header.extend(b"GGUF");
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    let (pairs, count) = metadata(sizes);
    header.extend(count.to_le_bytes());
    header.extend(pairs);
    let mut offset = 0u64;
    for (name, dims, quant) in &tensors {
        string(&mut header, name);
        header.extend((dims.len() as u32).to_le_bytes());
        for n in dims {
            header.extend(n.to_le_bytes());
        }
        header.extend(quant.0.to_le_bytes());
        header.extend(offset.to_le_bytes());
        offset += bytes(dims, *quant).next_multiple_of(32);
    }
    header.resize(header.len().next_multiple_of(32), 0);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(&header)?;
    let mut random = 1u64;
    for (_, dims, quant) in &tensors {
        write_tensor(&mut out, bytes(dims, *quant), *quant, &mut random)?;
    }
    out.flush()
}

fn tensors(s: &Sizes) -> Vec<Tensor> {
    let (d, inner) = (u64::from(s.width), u64::from(s.inner));
    let kv = d / u64::from(s.heads) * u64::from(s.kv_heads);
    let mut list = vec![("token_embd.weight".to_owned(), vec![d, u64::from(s.vocabulary)], Q6_K)];
    for layer in 0..s.layers {
        let mut add =
            |name: &str, dims: &[u64], quant| list.push((format!("blk.{layer}.{name}.weight"), dims.to_vec(), quant));
        add("attn_norm", &[d], F32);
        add("attn_q", &[d, d], Q4_K);
        add("attn_k", &[d, kv], Q4_K);
        add("attn_v", &[d, kv], Q6_K);
        add("attn_output", &[d, d], Q4_K);
        add("ffn_norm", &[d], F32);
        add("ffn_gate", &[d, inner], Q4_K);
        add("ffn_up", &[d, inner], Q4_K);
        add("ffn_down", &[inner, d], if layer % 2 == 0 { Q6_K } else { Q4_K });
    }
    list.push(("output_norm.weight".to_owned(), vec![d], F32));
    list
}

fn metadata(s: &Sizes) -> (Vec<u8>, u64) {
    let mut out = Vec::new();
    let mut count = 0u64;
    let mut pair = |key: &str, kind: u32, value: &dyn Fn(&mut Vec<u8>)| {
        string(&mut out, key);
        out.extend(kind.to_le_bytes());
        value(&mut out);
        count += 1;
    };
    pair("general.architecture", 8, &|o| string(o, "llama"));
    pair("general.name", 8, &|o| string(o, "synthetic"));
    let numbers = [
        ("block_count", s.layers),
        ("context_length", 8192),
        ("embedding_length", s.width),
        ("feed_forward_length", s.inner),
        ("attention.head_count", s.heads),
        ("attention.head_count_kv", s.kv_heads),
        ("vocab_size", s.vocabulary),
    ];
    for (key, value) in numbers {
        pair(&format!("llama.{key}"), 4, &|o| o.extend(value.to_le_bytes()));
    }
    pair("llama.attention.layer_norm_rms_epsilon", 6, &|o| o.extend(1e-5f32.to_le_bytes()));
    pair("llama.rope.freq_base", 6, &|o| o.extend(5e5f32.to_le_bytes()));
    pair("tokenizer.ggml.model", 8, &|o| string(o, "gpt2"));
    pair("tokenizer.ggml.pre", 8, &|o| string(o, "llama-bpe"));
    let (tokens, merges) = vocabulary(s.vocabulary);
    pair("tokenizer.ggml.tokens", 9, &|o| strings(o, &tokens));
    pair("tokenizer.ggml.merges", 9, &|o| strings(o, &merges));
    (out, count)
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

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn strings(out: &mut Vec<u8>, list: &[String]) {
    out.extend(8u32.to_le_bytes());
    out.extend((list.len() as u64).to_le_bytes());
    for text in list {
        string(out, text);
    }
}

fn bytes(dims: &[u64], (_, elements, block): (u32, u64, u64)) -> u64 {
    dims.iter().product::<u64>() / elements * block
}

/// Random blocks whose scales keep weights near ±0.02; norms of ones.
fn write_tensor(out: &mut impl Write, length: u64, quant: (u32, u64, u64), random: &mut u64) -> Result<()> {
    let mut block = vec![0u8; quant.2 as usize];
    for _ in 0..length / quant.2 {
        for chunk in block.chunks_mut(8) {
            *random ^= *random << 13;
            *random ^= *random >> 7;
            *random ^= *random << 17;
            chunk.copy_from_slice(&random.to_le_bytes()[..chunk.len()]);
        }
        match quant {
            Q4_K => block[..4].copy_from_slice(&[0x70, 0x08, 0x00, 0x10]), // d 1.3e-4, dmin 4.9e-4
            Q6_K => block[208..].copy_from_slice(&[0x10, 0x00]),           // d 9.5e-7
            _ => block.copy_from_slice(&1f32.to_le_bytes()),
        }
        out.write_all(&block)?;
    }
    let padding = length.next_multiple_of(32) - length;
    out.write_all(&[0; 32][..padding as usize])
}
