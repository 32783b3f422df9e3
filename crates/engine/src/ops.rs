//! The steps of a model as in-place operations over spans of activation tensors that were created once.
//!
//! Owns which kernel a step is. Must never know units, tiers or sessions: bytes and caches are handed in.

use kernels::cpu::{self, Activations, AttentionShape, Input, Job, KvStore, Pool, RopeShape, RopeTable, Sight};

use crate::arch::Activation;
use crate::span::{Change, Make};

/// An operation that changes a span.
macro_rules! changes {
    ($name:ty, |$op:ident, $x:ident| $body:expr) => {
        impl Change for $name {
            const NAME: &'static str = stringify!($name);
            fn change(&self, $x: &mut [f32]) {
                let $op = self;
                $body;
            }
        }
    };
}

/// An operation that makes a span from another, or changes it by another.
macro_rules! makes {
    ($name:ty, |$op:ident, $out:ident, $x:ident| $body:expr) => {
        impl Make for $name {
            const NAME: &'static str = stringify!($name);
            fn make(&self, $out: &mut [f32], $x: &[f32]) {
                let $op = self;
                $body;
            }
        }
    };
}

/// The products of matrices that read the same columns of `inputs` numbers.
pub(crate) struct Products<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) jobs: &'a [Job<'a>],
    pub(crate) inputs: usize,
    /// The columns in 8 bits.
    pub(crate) rounded: Option<&'a Activations>,
}
makes!(Products<'_>, |op, out, x| {
    cpu::matmul_jobs(op.pool, op.jobs, op.inputs, Input { numbers: x, quantized: op.rounded }, out);
});

/// x[t] += vector.
pub(crate) struct AddVector<'a>(pub(crate) &'a [f32]);
changes!(AddVector<'_>, |op, x| cpu::add_bias(x, op.0));

/// out[t] = x[t] / rms(x[t]) (· weight), for each run of `width` numbers.
pub(crate) struct RmsNorm<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) weight: Option<&'a [f32]>,
    pub(crate) width: usize,
    pub(crate) eps: f32,
}
makes!(RmsNorm<'_>, |op, out, x| cpu::rms_norm(op.pool, x, op.weight, op.width, op.eps, out));
changes!(RmsNorm<'_>, |op, x| cpu::rms_norm_in_place(op.pool, x, op.weight, op.width, op.eps));

/// x = (x − mean) / deviation · weight, for each run of `width` numbers.
pub(crate) struct LayerNorm<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) weight: &'a [f32],
    pub(crate) width: usize,
    pub(crate) eps: f32,
}
changes!(LayerNorm<'_>, |op, x| cpu::layer_norm_in_place(op.pool, x, Some(op.weight), op.width, op.eps));

/// Multiplies each row of `width` numbers by its factor.
pub(crate) struct ScaleRows<'a> {
    pub(crate) width: usize,
    pub(crate) factors: &'a [f32],
}
changes!(ScaleRows<'_>, |op, x| cpu::scale_rows(x, op.factors, op.width));

/// x = 1 / (1 + e^-x).
pub(crate) struct Sigmoid<'a>(pub(crate) &'a Pool);
changes!(Sigmoid<'_>, |op, x| cpu::sigmoid(op.0, x));

/// Rotates the heads of each token by its position.
pub(crate) struct Rotate<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) shape: RopeShape,
    pub(crate) table: &'a RopeTable,
}
changes!(Rotate<'_>, |op, x| cpu::rope(op.pool, x, op.shape, op.table));

/// out[t] = causal attention of the heads of q[t] over the cache.
pub(crate) struct Attend<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) shape: AttentionShape,
    pub(crate) keys: &'a KvStore,
    pub(crate) values: &'a KvStore,
    pub(crate) first_position: usize,
    pub(crate) sight: Sight<'a>,
}
makes!(Attend<'_>, |op, out, q| {
    cpu::attention_with(op.pool, &op.shape, q, op.keys, op.values, op.first_position, &op.sight, out);
});

/// gpt-oss's bounds, and its sigmoid's slope (<https://github.com/openai/gpt-oss>).
pub(crate) const SWIGLU_LIMIT: f32 = 7.0;
pub(crate) const SWIGLU_ALPHA: f32 = 1.702;

/// out = activation(gate) · up, from all gates and then all ups.
pub(crate) struct Activate<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) activation: Activation,
}
makes!(Activate<'_>, |op, out, both| {
    let (gate, up) = both.split_at(out.len());
    match op.activation {
        Activation::Silu => cpu::silu_mul(op.pool, gate, up, out),
        Activation::GeluTanh => cpu::gelu_tanh_mul(op.pool, gate, up, out),
        Activation::SwigluClamped => cpu::swiglu_clamped_mul(op.pool, gate, up, SWIGLU_LIMIT, SWIGLU_ALPHA, out),
    }
});

/// x += y.
pub(crate) struct Add;
makes!(Add, |_op, x, y| cpu::add(x, y));

/// x = cap · tanh(x / cap).
pub(crate) struct SoftCap(pub(crate) f32);
changes!(SoftCap, |op, x| for v in x {
    *v = op.0 * (*v / op.0).tanh();
});
