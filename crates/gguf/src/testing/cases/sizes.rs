//! Malformed files whose sizes contradict each other or their tensors.

use super::Row;
use crate::testing::{Draft, Field, Info};

/// Makes a model keep latents of this rank, of whose heads 8 numbers rotate.
fn latent(draft: &mut Draft, rank: u32, key: Option<u32>, own_key: Option<u32>) {
    draft.add("llama.attention.kv_lora_rank", Field::u32(rank));
    draft.add("llama.rope.dimension_count", Field::u32(8));
    for (name, length) in [("key_length", key), ("key_length_mla", own_key)] {
        if let Some(length) = length {
            draft.add(format!("llama.attention.{name}"), Field::u32(length));
        }
    }
}

/// Makes a model's only layer keep a state, of these heads, numbers of all values, and taps.
fn delta(draft: &mut Draft, heads: u32, values: u32, taps: Option<u32>) {
    draft.add("llama.full_attention_interval", Field::u32(2));
    for (name, number) in [("group_count", 2), ("time_step_rank", heads), ("inner_size", values), ("state_size", 8)] {
        draft.add(format!("llama.ssm.{name}"), Field::u32(number));
    }
    if let Some(taps) = taps {
        draft.add("llama.ssm.conv_kernel", Field::u32(taps));
    }
}

/// What sizes the model.
pub(super) const SIZES: &[Row] = &[
    ("no architecture", "MissingKey", "general.architecture", |d| d.remove("general.architecture")),
    ("architecture as number", "WrongValue", "a string", |d| d.set("general.architecture", Field::u32(1))),
    ("empty architecture", "WrongValue", "general.architecture", |d| d.set("general.architecture", Field::text(""))),
    ("architecture of other keys", "MissingKey", "qwen2.block_count", |d| {
        d.set("general.architecture", Field::text("qwen2"));
    }),
    ("adapter", "NotAModel", "LoRA", |d| d.add("general.type", Field::text("adapter"))),
    ("projector", "NotAModel", "projector", |d| d.add("general.type", Field::text("mmproj"))),
    ("importance matrix", "NotAModel", "importance", |d| {
        d.remove("general.architecture");
        d.add("general.type", Field::text("imatrix"));
    }),
    ("old projector", "NotAModel", "projector", |d| d.set("general.architecture", Field::text("clip"))),
    ("type as number", "WrongValue", "general.type", |d| d.add("general.type", Field::u32(1))),
    ("name as number", "WrongValue", "general.name", |d| d.set("general.name", Field::u32(1))),
    ("no layer count", "MissingKey", "llama.block_count", |d| d.remove("llama.block_count")),
    ("layer count as text", "WrongValue", "block_count", |d| d.set("llama.block_count", Field::text("1"))),
    ("layer count as float", "WrongValue", "a float", |d| d.set("llama.block_count", Field::f32(1.0))),
    ("layer count as array", "WrongValue", "an array", |d| d.set("llama.block_count", Field::i32s(&[1]))),
    ("negative layer count", "WrongValue", "block_count", |d| d.set("llama.block_count", Field::i32(-1))),
    ("no layers", "WrongValue", "1 to 1024", |d| d.set("llama.block_count", Field::u32(0))),
    ("too many layers", "WrongValue", "found 1025", |d| d.set("llama.block_count", Field::u32(1025))),
    ("layer count of 64 ones", "WrongValue", "block_count", |d| d.set("llama.block_count", Field::u64(u64::MAX))),
    ("layers all for later tokens", "WrongValue", "nextn", |d| d.add("llama.nextn_predict_layers", Field::u32(1))),
    ("no width", "MissingKey", "llama.embedding_length", |d| d.remove("llama.embedding_length")),
    ("width 0", "WrongValue", "embedding_length", |d| d.set("llama.embedding_length", Field::u32(0))),
    ("width of all ones", "WrongValue", "embedding_length", |d| d.set("llama.embedding_length", Field::u32(u32::MAX))),
    ("width of another model", "TensorMismatch", "[64, 8]", |d| d.set("llama.embedding_length", Field::u32(64))),
    ("no context length", "MissingKey", "context_length", |d| d.remove("llama.context_length")),
    ("context length 0", "WrongValue", "context_length", |d| d.set("llama.context_length", Field::u32(0))),
    ("context length of all ones", "WrongValue", "context", |d| d.set("llama.context_length", Field::u32(u32::MAX))),
    ("no head count", "MissingKey", "attention.head_count", |d| d.remove("llama.attention.head_count")),
    ("no heads", "WrongValue", "head_count", |d| d.set("llama.attention.head_count", Field::u32(0))),
    ("head count as text", "WrongValue", "head_count", |d| d.set("llama.attention.head_count", Field::text("4"))),
    ("too many heads", "WrongValue", "65537", |d| d.set("llama.attention.head_count", Field::u32(65_537))),
    ("head counts for two layers", "WrongValue", "each of 1 layers", |d| {
        d.set("llama.attention.head_count", Field::i32s(&[4, 4]));
    }),
    ("negative head count in an array", "WrongValue", "negative", |d| {
        d.set("llama.attention.head_count", Field::i32s(&[-4]));
    }),
    ("heads of states that do not divide", "WrongValue", "a multiple of 2", |d| delta(d, 3, 24, Some(4))),
    ("values of states that do not divide", "WrongValue", "a multiple of 4", |d| delta(d, 4, 26, Some(4))),
    ("a state without a convolution", "MissingKey", "ssm.conv_kernel", |d| delta(d, 4, 32, None)),
    ("heads of states that are too wide", "WrongValue", "1 to 4194304 for 4 heads", |d| {
        delta(d, 4, 32, Some(4));
        d.set("llama.attention.head_count_kv", Field::i32s(&[0]));
        d.add("llama.kda.head_dim", Field::u32(1 << 23));
    }),
    ("a convolution that is too long", "WrongValue", "1 to 8", |d| delta(d, 4, 32, Some(9))),
    ("KV heads that do not divide", "WrongValue", "a divisor of the 4", |d| {
        d.set("llama.attention.head_count_kv", Field::u32(3));
    }),
    ("more KV heads than heads", "WrongValue", "found 8", |d| d.set("llama.attention.head_count_kv", Field::u32(8))),
    ("KV head counts for no layer", "WrongValue", "0 numbers", |d| {
        d.set("llama.attention.head_count_kv", Field::i32s(&[]));
    }),
    ("key length 0", "WrongValue", "key_length", |d| d.add("llama.attention.key_length", Field::u32(0))),
    ("key length of all ones", "WrongValue", "key_length", |d| {
        d.add("llama.attention.key_length", Field::u32(u32::MAX));
    }),
    ("negative value length", "WrongValue", "value_length", |d| d.add("llama.attention.value_length", Field::i32(-8))),
    ("KV of more than 2^32 numbers", "WrongValue", "2^32", |d| {
        d.set("llama.attention.head_count", Field::u32(65_536));
        d.set("llama.attention.head_count_kv", Field::u32(65_536));
        d.add("llama.attention.key_length", Field::u32(1 << 24));
    }),
    ("latent rank as text", "WrongValue", "kv_lora_rank", |d| {
        d.add("llama.attention.kv_lora_rank", Field::text("512"));
    }),
    ("latent rank of all ones", "WrongValue", "kv_lora_rank", |d| {
        d.add("llama.attention.kv_lora_rank", Field::u32(u32::MAX));
    }),
    ("latents without a part that rotates", "MissingKey", "rope.dimension_count", |d| {
        d.add("llama.attention.kv_lora_rank", Field::u32(16));
    }),
    ("latents of which nothing rotates", "WrongValue", "rope.dimension_count", |d| {
        d.add("llama.attention.kv_lora_rank", Field::u32(16));
        d.add("llama.rope.dimension_count", Field::u32(0));
    }),
    ("latents without a key length", "MissingKey", "attention.key_length", |d| latent(d, 16, None, None)),
    ("heads of latents that rotate whole", "WrongValue", "more than the 8 numbers that rotate", |d| {
        latent(d, 16, Some(8), None);
    }),
    ("expanded heads of latents that rotate whole", "WrongValue", "key_length_mla: expected more than the 8", |d| {
        latent(d, 16, Some(24), Some(8));
    }),
    ("latents of another length", "WrongValue", "24 (kv_lora_rank 16 + rope.dimension_count 8), found 25", |d| {
        latent(d, 16, Some(25), Some(16));
    }),
    ("an indexer without a key length", "MissingKey", "attention.indexer.key_length", |d| {
        d.tensors.push(Info::f32("blk.0.indexer.attn_k.weight", &[32, 16]));
    }),
    ("recurrence of two layers", "WrongValue", "recurrent_layers", |d| {
        d.add("llama.attention.recurrent_layers", Field::array(7, 2, &[0, 1]));
    }),
    ("attention every 0 layers", "WrongValue", "full_attention", |d| {
        d.add("llama.full_attention_interval", Field::u32(0));
    }),
    ("feed-forward width as text", "WrongValue", "feed_forward", |d| {
        d.set("llama.feed_forward_length", Field::text("32"));
    }),
    ("feed-forward width of all ones", "WrongValue", "feed_forward", |d| {
        d.set("llama.feed_forward_length", Field::u32(u32::MAX));
    }),
    ("rope base not a number", "WrongValue", "NaN", |d| d.set("llama.rope.freq_base", Field::f32(f32::NAN))),
    ("rope base infinite", "WrongValue", "inf", |d| d.set("llama.rope.freq_base", Field::f32(f32::INFINITY))),
    ("rope base 0", "WrongValue", "a positive number", |d| d.set("llama.rope.freq_base", Field::f32(0.0))),
    ("rope base negative", "WrongValue", "a positive number", |d| d.set("llama.rope.freq_base", Field::f32(-1.0))),
    ("rope base as text", "WrongValue", "freq_base", |d| d.set("llama.rope.freq_base", Field::text("1e4"))),
    ("epsilon not a number", "WrongValue", "epsilon", |d| {
        d.set("llama.attention.layer_norm_rms_epsilon", Field::f32(f32::NAN));
    }),
    ("epsilon negative", "WrongValue", "epsilon", |d| {
        d.set("llama.attention.layer_norm_rms_epsilon", Field::f32(-1e-5));
    }),
    ("an infinite number in an array", "WrongValue", "swiglu", |d| {
        d.add("llama.swiglu_clamp_exp", Field::f32s(&[f32::NEG_INFINITY]));
    }),
];

/// Experts.
pub(super) const MIXTURES: &[Row] = &[
    ("no expert count", "MissingKey", "llama.expert_count", |d| {
        d.remove("llama.expert_count");
        d.remove("llama.expert_used_count");
    }),
    ("expert count 0", "WrongValue", "expert_used_count", |d| d.set("llama.expert_count", Field::u32(0))),
    ("expert count as text", "WrongValue", "expert_count", |d| d.set("llama.expert_count", Field::text("4"))),
    ("too many experts", "WrongValue", "4097", |d| d.set("llama.expert_count", Field::u32(4097))),
    ("another expert count", "TensorMismatch", "8 experts", |d| d.set("llama.expert_count", Field::u32(8))),
    ("more experts used than there are", "WrongValue", "found 5", |d| {
        d.set("llama.expert_used_count", Field::u32(5));
    }),
    ("no expert used", "WrongValue", "1 to 4", |d| d.set("llama.expert_used_count", Field::u32(0))),
    ("no count of experts used", "WrongValue", "found 0", |d| d.remove("llama.expert_used_count")),
    ("experts without their dimension", "TensorMismatch", "ffn_up_exps", |d| {
        d.tensor("blk.0.ffn_up_exps.weight").dims = vec![32, 128];
    }),
    ("one expert more in a tensor", "TensorMismatch", "4 experts", |d| {
        d.tensor("blk.0.ffn_down_exps.weight").dims = vec![32, 32, 5];
    }),
    ("a single expert beyond the count", "TensorMismatch", "expert 4", |d| {
        d.tensors.push(Info::f32("blk.0.ffn_gate.4.weight", &[32, 32]));
    }),
    ("more chunks than experts", "TensorMismatch", "4 experts or fewer", |d| {
        d.tensors.push(Info::f32("blk.0.ffn_up_chexps.weight", &[32, 32, 5]));
    }),
    ("groups that do not divide the experts", "WrongValue", "a divisor of the 4 experts, found 3", |d| {
        d.set("llama.expert_group_count", Field::u32(3));
        d.set("llama.expert_group_used_count", Field::u32(1));
    }),
    ("more groups than experts", "WrongValue", "a divisor of the 4 experts, found 8", |d| {
        d.set("llama.expert_group_count", Field::u32(8));
    }),
    ("groups of which none is used", "WrongValue", "1 to 2, found 0", |d| {
        d.set("llama.expert_group_count", Field::u32(2));
        d.set("llama.expert_group_used_count", Field::u32(0));
    }),
    ("groups of which no count is used", "MissingKey", "expert_group_used_count", |d| {
        d.set("llama.expert_group_count", Field::u32(2));
    }),
    ("more groups used than there are", "WrongValue", "1 to 2, found 3", |d| {
        d.set("llama.expert_group_count", Field::u32(2));
        d.set("llama.expert_group_used_count", Field::u32(3));
    }),
    ("more experts used than the groups hold", "WrongValue", "at most 2, the experts of 1 of 2 groups, found 3", |d| {
        d.set("llama.expert_group_count", Field::u32(2));
        d.set("llama.expert_group_used_count", Field::u32(1));
        d.set("llama.expert_used_count", Field::u32(3));
    }),
    ("more dense layers than layers", "WrongValue", "leading_dense_block_count: expected 0 to 1, found 2", |d| {
        d.set("llama.leading_dense_block_count", Field::u32(2));
    }),
    ("a gate that GGUF does not have", "WrongValue", "expert_gating_func: expected 0 to 4, found 5", |d| {
        d.set("llama.expert_gating_func", Field::u32(5));
    }),
    ("experts without a router", "TensorMismatch", "a router beside it, blk.0.ffn_gate_inp.weight", |d| {
        d.tensors.retain(|info| info.name != b"blk.0.ffn_gate_inp.weight");
    }),
    ("a router of other experts", "TensorMismatch", "one row for each of 4 experts, found 3 rows", |d| {
        d.tensor("blk.0.ffn_gate_inp.weight").dims = vec![32, 3];
    }),
    ("an expert count without experts", "WrongValue", "llama.expert_count: expected 0, for no tensor holds", |d| {
        d.tensors.retain(|info| !info.name.ends_with(b"_exps.weight"));
    }),
    ("experts outside any layer", "TensorMismatch", "layer 7", |d| {
        d.tensors.push(Info::f32("blk.7.ffn_up_exps.weight", &[32, 32, 4]));
    }),
];
