//! Activation tensors, created once for the largest micro-batch.

use candle_core::{DType, Device, Result, Tensor};
use plan::Bytes;
use plan::cost::LOGIT_ROWS;

use crate::spec::Spec;

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

impl Scratch {
    pub(crate) fn new(spec: &Spec, micro_batch: usize, embedding_row: usize) -> Result<Self> {
        let widest = |of: fn(&crate::spec::Layer) -> usize| spec.layers.iter().map(of).max().unwrap_or(1);
        let rows = |count: usize, width: usize| Tensor::zeros((count, width), DType::F32, &Device::Cpu);
        let tensor = |width| rows(micro_batch, width);
        Ok(Self {
            x: tensor(spec.width)?,
            normed: tensor(spec.width)?,
            q: tensor(widest(|l| l.attention.q.outputs))?,
            k: tensor(widest(|l| l.attention.k.outputs))?,
            v: tensor(widest(|l| l.attention.v.outputs))?,
            attended: tensor(widest(|l| l.attention.output.inputs))?,
            gate: tensor(widest(|l| l.ffn.gate.outputs))?,
            up: tensor(widest(|l| l.ffn.up.outputs))?,
            inner: tensor(widest(|l| l.ffn.down.inputs))?,
            block: tensor(spec.width)?,
            logits: rows(LOGIT_ROWS as usize, spec.vocabulary)?,
            vector: vec![0.0; spec.longest_vector()],
            row: vec![0; embedding_row],
            token: vec![0.0; spec.width],
            tokens: micro_batch,
        })
    }

    /// The largest micro-batch.
    pub(crate) const fn tokens(&self) -> usize {
        self.tokens
    }

    /// Bytes of all tensors.
    pub(crate) fn bytes(&self) -> Bytes {
        let Self { x, normed, q, k, v, attended, gate, up, inner, block, logits, .. } = self;
        let all = [x, normed, q, k, v, attended, gate, up, inner, block, logits];
        Bytes(all.iter().map(|tensor| tensor.elem_count() as u64 * 4).sum())
    }
}

/// The first `count` rows of `width` numbers at the start of `tensor`, whatever its own width.
pub(crate) fn rows(tensor: &Tensor, count: usize, width: usize) -> Result<Tensor> {
    tensor.flatten_all()?.narrow(0, 0, count * width)
}
