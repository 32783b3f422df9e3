//! The steps of a model as in-place candle operations over activation tensors that were created once.
//!
//! Owns the bridge from tensors to `kernels`. Each operation works on the first `rows` rows of its tensors. Must never
//! know units, tiers or sessions: bytes and caches are handed in.

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};
use kernels::cpu::{self, AttentionShape, KvStore, Pool, RopeShape, RopeTable, Sight};
use plan::QuantType;

use crate::arch::Activation;

/// The numbers of a contiguous f32 tensor.
fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((start, end))) => Ok(&all[start..end]),
        _ => bail!("expected a contiguous f32 tensor, found {layout:?}"),
    }
}

fn numbers_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(all), Some((start, end))) => Ok(&mut all[start..end]),
        _ => bail!("expected a contiguous f32 tensor, found {layout:?}"),
    }
}

/// Hands the numbers of `tensor` to `use_them`.
pub(crate) fn with_numbers<T>(tensor: &Tensor, use_them: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(cpu) => Ok(use_them(numbers(cpu, layout)?)),
        _ => bail!("expected a tensor on the CPU"),
    }
}

/// Hands the numbers of `tensor`, to be changed, to `use_them`.
pub(crate) fn with_numbers_mut<T>(tensor: &Tensor, use_them: impl FnOnce(&mut [f32]) -> T) -> Result<T> {
    let call = Once::new(use_them);
    tensor.inplace_op1(&call)?;
    Ok(call.answer())
}

/// Hands the numbers of `out`, to be changed, and those of `x` to `use_them`.
pub(crate) fn between<T>(out: &Tensor, x: &Tensor, use_them: impl FnOnce(&mut [f32], &[f32]) -> T) -> Result<T> {
    let call = Once::new(use_them);
    out.inplace_op2(x, &call)?;
    Ok(call.answer())
}

/// Hands the numbers of tensors to `use_them`.
pub(crate) fn with_all<const N: usize, T>(tensors: [&Tensor; N], use_them: impl FnOnce([&[f32]; N]) -> T) -> Result<T> {
    let held = tensors.map(Tensor::storage_and_layout);
    let mut lists: [&[f32]; N] = [&[]; N];
    for (list, (storage, layout)) in lists.iter_mut().zip(&held) {
        *list = match &**storage {
            candle_core::Storage::Cpu(cpu) => numbers(cpu, layout)?,
            _ => bail!("expected a tensor on the CPU"),
        };
    }
    Ok(use_them(lists))
}

/// A function that is called by one operation, and what it answered.
struct Once<F, T>(RefCell<(Option<F>, Option<T>)>);

impl<F, T> Once<F, T> {
    const fn new(function: F) -> Self {
        Self(RefCell::new((Some(function), None)))
    }

    fn call(&self, with: impl FnOnce(F) -> T) {
        let mut state = self.0.borrow_mut();
        state.1 = state.0.take().map(with);
    }

    fn answer(self) -> T {
        self.0.into_inner().1.expect("candle runs an operation once, or gives an error")
    }
}

impl<F: FnOnce(&mut [f32]) -> T, T> InplaceOp1 for Once<F, T> {
    fn name(&self) -> &'static str {
        "with_numbers_mut"
    }
    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let numbers = numbers_mut(storage, layout)?;
        self.call(|function| function(numbers));
        Ok(())
    }
}

impl<F: FnOnce(&mut [f32], &[f32]) -> T, T> InplaceOp2 for Once<F, T> {
    fn name(&self) -> &'static str {
        "between"
    }
    fn cpu_fwd(&self, s1: &mut CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<()> {
        let (out, x) = (numbers_mut(s1, l1)?, numbers(s2, l2)?);
        self.call(|function| function(out, x));
        Ok(())
    }
}

/// An operation that changes one tensor.
macro_rules! in_place {
    ($name:ty, |$op:ident, $x:ident| $body:expr) => {
        impl InplaceOp1 for $name {
            fn name(&self) -> &'static str {
                stringify!($name)
            }
            fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
                let ($op, $x) = (self, numbers_mut(storage, layout)?);
                $body;
                Ok(())
            }
        }
    };
}

/// An operation that changes its first tensor by its second.
macro_rules! from_second {
    ($name:ty, |$op:ident, $out:ident, $x:ident| $body:expr) => {
        impl InplaceOp2 for $name {
            fn name(&self) -> &'static str {
                stringify!($name)
            }
            fn cpu_fwd(&self, s1: &mut CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<()> {
                let ($op, $out, $x) = (self, numbers_mut(s1, l1)?, numbers(s2, l2)?);
                $body;
                Ok(())
            }
        }
    };
}

/// out[t][first..] = W x[t], for a run of rows of W.
pub(crate) struct MatMul<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) quant: QuantType,
    pub(crate) weights: &'a [u8],
    pub(crate) inputs: usize,
    /// Which outputs these rows make.
    pub(crate) first: usize,
    pub(crate) rows: usize,
    /// Outputs of the whole matrix: the length of one row of `out`.
    pub(crate) outputs: usize,
    pub(crate) tokens: usize,
}
from_second!(MatMul<'_>, |op, out, x| {
    cpu::matmul(op.pool, op.quant, op.weights, op.rows, op.inputs, x, op.tokens, out, op.outputs, op.first);
});

/// x[t] += vector.
pub(crate) struct AddVector<'a>(pub(crate) &'a [f32]);
in_place!(AddVector<'_>, |op, x| cpu::add_bias(x, op.0));

/// out[t] = x[t] / rms(x[t]) (· weight), for each run of `width` numbers.
pub(crate) struct RmsNorm<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) weight: Option<&'a [f32]>,
    pub(crate) width: usize,
    pub(crate) eps: f32,
}
from_second!(RmsNorm<'_>, |op, out, x| cpu::rms_norm(op.pool, x, op.weight, op.width, op.eps, out));
in_place!(RmsNorm<'_>, |op, x| cpu::rms_norm_in_place(op.pool, x, op.weight, op.width, op.eps));

/// x = (x − mean) / deviation · weight, for each run of `width` numbers.
pub(crate) struct LayerNorm<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) weight: &'a [f32],
    pub(crate) width: usize,
    pub(crate) eps: f32,
}
in_place!(LayerNorm<'_>, |op, x| cpu::layer_norm_in_place(op.pool, x, Some(op.weight), op.width, op.eps));

/// Multiplies each row of `width` numbers by its factor.
pub(crate) struct ScaleRows<'a> {
    pub(crate) width: usize,
    pub(crate) factors: &'a [f32],
}
in_place!(ScaleRows<'_>, |op, x| cpu::scale_rows(x, op.factors, op.width));

/// x = 1 / (1 + e^-x).
pub(crate) struct Sigmoid<'a>(pub(crate) &'a Pool);
in_place!(Sigmoid<'_>, |op, x| cpu::sigmoid(op.0, x));

/// Rotates the heads of each token by its position.
pub(crate) struct Rotate<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) shape: RopeShape,
    pub(crate) table: &'a RopeTable,
}
in_place!(Rotate<'_>, |op, x| cpu::rope(op.pool, x, op.shape, op.table));

/// out[t] = causal attention of the heads of q[t] over the cache.
pub(crate) struct Attend<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) shape: AttentionShape,
    pub(crate) keys: &'a KvStore,
    pub(crate) values: &'a KvStore,
    pub(crate) first_position: usize,
    pub(crate) sight: Sight<'a>,
}
from_second!(Attend<'_>, |op, out, q| {
    cpu::attention_with(op.pool, &op.shape, q, op.keys, op.values, op.first_position, &op.sight, out);
});

/// gpt-oss's bounds, and its sigmoid's slope (<https://github.com/openai/gpt-oss>).
const SWIGLU_LIMIT: f32 = 7.0;
const SWIGLU_ALPHA: f32 = 1.702;

/// out = activation(gate) · up.
pub(crate) struct Activate<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) activation: Activation,
}
impl InplaceOp3 for Activate<'_> {
    fn name(&self) -> &'static str {
        "Activate"
    }
    fn cpu_fwd(
        &self,
        s1: &mut CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<()> {
        let (out, gate, up) = (numbers_mut(s1, l1)?, numbers(s2, l2)?, numbers(s3, l3)?);
        match self.activation {
            Activation::Silu => cpu::silu_mul(self.pool, gate, up, out),
            Activation::GeluTanh => cpu::gelu_tanh_mul(self.pool, gate, up, out),
            Activation::SwigluClamped => cpu::swiglu_clamped_mul(self.pool, gate, up, SWIGLU_LIMIT, SWIGLU_ALPHA, out),
        }
        Ok(())
    }
}

/// x += y.
pub(crate) struct Add;
from_second!(Add, |_op, x, y| cpu::add(x, y));

/// x = cap · tanh(x / cap).
pub(crate) struct SoftCap(pub(crate) f32);
in_place!(SoftCap, |op, x| for v in x {
    *v = op.0 * (*v / op.0).tanh();
});

/// Writes one row of numbers into a tensor.
pub(crate) struct SetRow<'a> {
    pub(crate) row: usize,
    pub(crate) numbers: &'a [f32],
}
in_place!(SetRow<'_>, |op, x| {
    let start = op.row * op.numbers.len();
    x[start..start + op.numbers.len()].copy_from_slice(op.numbers);
});
