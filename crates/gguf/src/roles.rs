//! What a tensor does, from its name, for every architecture that GGUF names.
//!
//! Names are `GLOBAL.SUFFIX` or `blk.LAYER.BASE.SUFFIX`; the suffix is `weight`, `bias`, `scale` or absent. The names
//! stand in gguf-py's `constants.py` and llama.cpp's `llama-arch.cpp`. Must never refuse a name: whether an
//! architecture claims a tensor is the engine's question.

use plan::Role;

/// Which routed experts a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Experts {
    /// None.
    None,
    /// This one, as in the first Mixtral files.
    One(u32),
    /// All of its layer, along the last dimension.
    All,
    /// Groups that share a chunk, along the last dimension (GroveMoE): fewer than the layer has experts.
    Chunks,
}

/// What a name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) role: Role,
    pub(crate) layer: Option<u32>,
    pub(crate) experts: Experts,
}

/// Reads a tensor's name.
pub(crate) fn place(name: &str) -> Place {
    match in_layer(name) {
        Some((layer, rest)) => {
            let (role, experts) = layer_role(base(rest));
            Place { role, layer: Some(layer), experts }
        }
        None => Place { role: global_role(base(name)), layer: None, experts: Experts::None },
    }
}

/// Splits `blk.7.attn_q.weight` into 7 and `attn_q.weight`.
fn in_layer(name: &str) -> Option<(u32, &str)> {
    let rest = ["blk.", "enc.blk.", "dec.blk."].iter().find_map(|prefix| name.strip_prefix(prefix))?;
    let (number, rest) = rest.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// A name without its suffix.
fn base(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((base, "weight" | "bias" | "scale" | "input_scale")) => base,
        _ => name,
    }
}

/// Whether a word of the name says norm. `time_mix_ln` is RWKV's; `enorm` and `hnorm` belong to token prediction.
fn is_norm(base: &str) -> bool {
    base.split(['.', '_']).any(|word| matches!(word, "norm" | "norm1" | "norm2" | "ln")) || base == "layer_output_scale"
}

fn global_role(base: &str) -> Role {
    match base {
        "token_embd" | "per_layer_token_embd" | "position_embd" | "token_types" => Role::Embedding,
        _ if base.starts_with("nextn.") => Role::MultiToken,
        _ if is_norm(base) => Role::Norm,
        _ if base.starts_with("rope_") || base.contains("attn") => Role::Attention,
        "output" | "cls" | "cls.output" | "d2t" | "dense_2" | "dense_3" => Role::Output,
        _ if base.starts_with("output_") => Role::Output,
        // Projections between embedding and layers (AltUp, convolutions): every token passes them, as a dense layer.
        _ => Role::DenseFfn,
    }
}

fn layer_role(base: &str) -> (Role, Experts) {
    const ATTENTION: [&str; 9] =
        ["attn_", "cross_attn_", "indexer", "ssm_", "time_mix_", "shortconv", "rope_", "hc_attn_", "vis_attn_"];
    let role = match base {
        _ if base.starts_with("nextn.") => Role::MultiToken,
        "ffn_gate_inp" | "ffn_gate_tid2eid" | "exp_probs_b" | "exp_probs_b_vl" => Role::Router,
        _ if is_norm(base) => Role::Norm,
        _ if base.ends_with("_shexp") => Role::SharedExpert,
        _ if base.ends_with("_chexps") => return (Role::RoutedExpert, Experts::Chunks),
        _ if base.ends_with("_exps") => return (Role::RoutedExpert, Experts::All),
        _ if ATTENTION.iter().any(|start| base.starts_with(start)) => Role::Attention,
        _ => match base.rsplit_once('.').map(|(matrix, number)| (matrix, number.parse())) {
            Some(("ffn_gate" | "ffn_up" | "ffn_down", Ok(expert))) => {
                return (Role::RoutedExpert, Experts::One(expert));
            }
            // `ffn_*`, RWKV's `channel_mix_*`, Gemma's per-layer gates and their like: every token passes them.
            _ => Role::DenseFfn,
        },
    };
    (role, Experts::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_role_layer_and_experts() {
        use Role::{Attention, DenseFfn, Embedding, MultiToken, Norm, Output, RoutedExpert, Router, SharedExpert};
        let none = Experts::None;
        for (name, role, layer, experts) in [
            ("token_embd.weight", Embedding, None, none),
            ("per_layer_token_embd.weight", Embedding, None, none),
            ("position_embd.weight", Embedding, None, none),
            ("token_embd_norm.weight", Norm, None, none),
            ("output.weight", Output, None, none),
            ("output_norm.weight", Norm, None, none),
            ("output_hc_fn.weight", Output, None, none),
            ("enc.output_norm.weight", Norm, None, none),
            ("rope_freqs.weight", Attention, None, none),
            ("rope_factors_long.weight", Attention, None, none),
            ("nextn.pre_projection.weight", MultiToken, None, none),
            ("altup_proj.weight", DenseFfn, None, none),
            ("per_layer_proj_norm.weight", Norm, None, none),
            ("blk.0.attn_q.weight", Attention, Some(0), none),
            ("blk.0.attn_q.bias", Attention, Some(0), none),
            ("blk.12.attn_qkv.weight", Attention, Some(12), none),
            ("blk.12.attn_kv_a_mqa.weight", Attention, Some(12), none),
            ("blk.12.attn_kv_a_norm.weight", Norm, Some(12), none),
            ("blk.12.attn_q_norm.weight", Norm, Some(12), none),
            ("blk.12.attn_sinks.weight", Attention, Some(12), none),
            ("blk.12.attn_norm_2.weight", Norm, Some(12), none),
            ("blk.12.post_attention_norm.weight", Norm, Some(12), none),
            ("blk.12.post_ffw_norm.weight", Norm, Some(12), none),
            ("blk.12.layer_output_norm.weight", Norm, Some(12), none),
            ("blk.12.ffn_sub_norm.weight", Norm, Some(12), none),
            ("blk.12.indexer.k_norm.bias", Norm, Some(12), none),
            ("blk.12.indexer.attn_k.weight", Attention, Some(12), none),
            ("blk.12.rope_factors_short.weight", Attention, Some(12), none),
            ("blk.1.ssm_a", Attention, Some(1), none),
            ("blk.1.ssm_conv1d.weight", Attention, Some(1), none),
            ("blk.1.ssm_norm.weight", Norm, Some(1), none),
            ("blk.1.time_mix_ln.weight", Norm, Some(1), none),
            ("blk.1.time_mix_w1.weight", Attention, Some(1), none),
            ("blk.1.channel_mix_key.weight", DenseFfn, Some(1), none),
            ("blk.1.shortconv.conv.weight", Attention, Some(1), none),
            ("dec.blk.4.cross_attn_k.weight", Attention, Some(4), none),
            ("enc.blk.4.ffn_up.weight", DenseFfn, Some(4), none),
            ("blk.3.ffn_down.weight", DenseFfn, Some(3), none),
            ("blk.3.ffn.act", DenseFfn, Some(3), none),
            ("blk.3.ffn_norm.weight", Norm, Some(3), none),
            ("blk.3.ffn_gate_inp.weight", Router, Some(3), none),
            ("blk.3.ffn_gate_inp.bias", Router, Some(3), none),
            ("blk.3.exp_probs_b.bias", Router, Some(3), none),
            ("blk.3.ffn_gate_inp_shexp.weight", SharedExpert, Some(3), none),
            ("blk.3.ffn_up_shexp.weight", SharedExpert, Some(3), none),
            ("blk.3.ffn_up_exps.weight", RoutedExpert, Some(3), Experts::All),
            ("blk.3.ffn_gate_up_exps.weight", RoutedExpert, Some(3), Experts::All),
            ("blk.3.ffn_down_exps.bias", RoutedExpert, Some(3), Experts::All),
            ("blk.3.ffn_down_chexps.weight", RoutedExpert, Some(3), Experts::Chunks),
            ("blk.3.ffn_norm_exps.weight", Norm, Some(3), none),
            ("blk.3.ffn_gate.5.weight", RoutedExpert, Some(3), Experts::One(5)),
            ("blk.61.nextn.eh_proj.weight", MultiToken, Some(61), none),
            ("blk.61.nextn.enorm.weight", MultiToken, Some(61), none),
            ("blk.x.attn_q.weight", Attention, None, none),
            ("blk.", DenseFfn, None, none),
            ("blk.3", DenseFfn, None, none),
        ] {
            assert_eq!(place(name), Place { role, layer, experts }, "{name}");
        }
    }
}
