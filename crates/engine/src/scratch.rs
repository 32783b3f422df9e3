//! Activation tensors, created once for the largest micro-batch.

use candle_core::{DType, Device, Result, Tensor};
use plan::Bytes;
use plan::cost::LOGIT_ROWS;

use crate::spec::{Layer, Spec};

/// The activations of one pass, each `[micro_batch, width]`.
pub(crate) struct Scratch {
    /// The residual stream.
    pub(crate) x: Tensor,
    /// What a norm made of it.
    pub(crate) normed: Tensor,
    pub(crate) q: Tensor,
    pub(crate) k: Tensor,
    pub(crate) v: Tensor,
    /// Attention's output, all heads.
    pub(crate) attended: Tensor,
    pub(crate) gate: Tensor,
    pub(crate) up: Tensor,
    /// The activated gate times up.
    pub(crate) inner: Tensor,
    /// A block's output before it joins the residual stream.
    pub(crate) block: Tensor,
    /// `[LOGIT_ROWS, vocabulary]`.
    pub(crate) logits: Tensor,
    /// One norm weight or bias.
    pub(crate) vector: Vec<f32>,
    /// One row of the embedding table, as stored.
    pub(crate) row: Vec<u8>,
    /// One token's vector.
    pub(crate) token: Vec<f32>,
    tokens: usize,
}

/// Width of each tensor, in the order of [`Scratch`]'s fields, logits apart.
fn widths(spec: &Spec) -> [usize; 10] {
    let widest = |of: fn(&Layer) -> usize| spec.layers.iter().map(of).max().unwrap_or(1);
    [
        spec.width,
        spec.width,
        widest(|l| l.attention.q.outputs),
        widest(|l| l.attention.k.outputs),
        widest(|l| l.attention.v.outputs),
        widest(|l| l.attention.output.inputs),
        widest(|l| l.ffn.gate.outputs),
        widest(|l| l.ffn.up.outputs),
        widest(|l| l.ffn.down.inputs),
        spec.width,
    ]
}

impl Scratch {
    pub(crate) fn new(spec: &Spec, micro_batch: usize, embedding_row: usize) -> Result<Self> {
        let rows = |count: usize, width: usize| Tensor::zeros((count, width), DType::F32, &Device::Cpu);
        let [x, normed, q, k, v, attended, gate, up, inner, block] = widths(spec).map(|width| rows(micro_batch, width));
        Ok(Self {
            x: x?,
            normed: normed?,
            q: q?,
            k: k?,
            v: v?,
            attended: attended?,
            gate: gate?,
            up: up?,
            inner: inner?,
            block: block?,
            logits: rows(LOGIT_ROWS as usize, spec.vocabulary)?,
            vector: vec![0.0; spec.longest_vector()],
            row: vec![0; embedding_row],
            token: vec![0.0; spec.width],
            tokens: micro_batch,
        })
    }

    /// Bytes of all tensors for this model and micro-batch.
    pub(crate) fn bytes_for(spec: &Spec, micro_batch: usize) -> Bytes {
        let token: usize = widths(spec).iter().sum();
        let logits = LOGIT_ROWS as usize * spec.vocabulary;
        Bytes(4 * token as u64).times(micro_batch as u64) + Bytes(4 * logits as u64)
    }

    /// The largest micro-batch.
    pub(crate) const fn tokens(&self) -> usize {
        self.tokens
    }
}

/// The first `count` rows of `width` numbers at the start of `tensor`, whatever its own width.
pub(crate) fn rows(tensor: &Tensor, count: usize, width: usize) -> Result<Tensor> {
    tensor.flatten_all()?.narrow(0, 0, count * width)
}
