//! Runs of numbers of activation tensors, and how operations reach them.
//!
//! Owns the bridge from candle's tensors to slices. To candle a part of a tensor is another tensor, whose shape, strides and
//! graph node are allocated; a span is a tensor with a range, which costs a count of references, and the range is cut out
//! where an operation runs. Must never know what an operation computes.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Storage, Tensor, bail};

/// A run of numbers of a contiguous f32 tensor.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    tensor: Tensor,
    start: usize,
    count: usize,
}

/// An operation that changes numbers.
pub(crate) trait Change {
    /// What candle calls it.
    const NAME: &'static str;

    /// Changes `x`.
    fn change(&self, x: &mut [f32]);
}

/// An operation that makes numbers from others, or changes them by others.
pub(crate) trait Make {
    /// What candle calls it.
    const NAME: &'static str;

    /// Makes `out` from `x`.
    fn make(&self, out: &mut [f32], x: &[f32]);
}

impl Span {
    /// `count` numbers of `tensor` from `start` on.
    pub(crate) fn new(tensor: &Tensor, start: usize, count: usize) -> Self {
        let length = tensor.elem_count();
        assert!(start + count <= length, "{count} numbers from {start} of a tensor of {length}");
        Self { tensor: tensor.clone(), start, count }
    }

    /// `count` of its numbers from `start` on.
    pub(crate) fn part(&self, start: usize, count: usize) -> Self {
        assert!(start + count <= self.count, "{count} numbers from {start} of a span of {}", self.count);
        Self { tensor: self.tensor.clone(), start: self.start + start, count }
    }

    fn range(&self) -> Range<usize> {
        self.start..self.start + self.count
    }

    /// Runs an operation that changes it.
    pub(crate) fn change(&self, op: &impl Change) -> Result<()> {
        self.tensor.inplace_op1(&Within { op, own: self.range(), other: 0..0 })
    }

    /// Runs an operation that makes it from `x`, which is of another tensor.
    pub(crate) fn make(&self, x: &Self, op: &impl Make) -> Result<()> {
        self.tensor.inplace_op2(&x.tensor, &Within { op, own: self.range(), other: x.range() })
    }

    /// Hands its numbers to `use_them`.
    pub(crate) fn with<T>(&self, use_them: impl FnOnce(&[f32]) -> T) -> Result<T> {
        with_all([self], |[numbers]| use_them(numbers))
    }

    /// Hands its numbers, to be changed, to `use_them`.
    pub(crate) fn with_mut<T>(&self, use_them: impl FnOnce(&mut [f32]) -> T) -> Result<T> {
        let call = Once::new(|(x, _): Lists| use_them(x));
        self.change(&call)?;
        Ok(call.answer())
    }

    /// Hands its numbers, to be changed, and those of `x`, which is of another tensor, to `use_them`.
    pub(crate) fn with_from<T>(&self, x: &Self, use_them: impl FnOnce(&mut [f32], &[f32]) -> T) -> Result<T> {
        let call = Once::new(|(out, x): Lists| use_them(out, x));
        self.make(x, &call)?;
        Ok(call.answer())
    }
}

/// Hands the numbers of spans to `use_them`.
pub(crate) fn with_all<const N: usize, T>(spans: [&Span; N], use_them: impl FnOnce([&[f32]; N]) -> T) -> Result<T> {
    let held = spans.map(|span| span.tensor.storage_and_layout());
    let mut lists: [&[f32]; N] = [&[]; N];
    for ((list, span), (storage, layout)) in lists.iter_mut().zip(spans).zip(&held) {
        *list = match &**storage {
            Storage::Cpu(cpu) => &numbers(cpu, layout)?[span.range()],
            _ => bail!("expected a tensor on the CPU"),
        };
    }
    Ok(use_them(lists))
}

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

/// An operation on ranges of its tensors.
struct Within<'a, O> {
    op: &'a O,
    own: Range<usize>,
    other: Range<usize>,
}

impl<O: Change> InplaceOp1 for Within<'_, O> {
    fn name(&self) -> &'static str {
        O::NAME
    }
    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        self.op.change(&mut numbers_mut(storage, layout)?[self.own.clone()]);
        Ok(())
    }
}

impl<O: Make> InplaceOp2 for Within<'_, O> {
    fn name(&self) -> &'static str {
        O::NAME
    }
    fn cpu_fwd(&self, s1: &mut CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<()> {
        let (out, x) = (numbers_mut(s1, l1)?, numbers(s2, l2)?);
        self.op.make(&mut out[self.own.clone()], &x[self.other.clone()]);
        Ok(())
    }
}

/// Numbers to be changed, and others.
type Lists<'a> = (&'a mut [f32], &'a [f32]);

/// A function that is called by one operation, and what it answered.
struct Once<F, T>(RefCell<(Option<F>, Option<T>)>);

impl<T, F: FnOnce(Lists) -> T> Once<F, T> {
    const fn new(function: F) -> Self {
        Self(RefCell::new((Some(function), None)))
    }

    fn call(&self, lists: Lists) {
        let mut state = self.0.borrow_mut();
        state.1 = state.0.take().map(|function| function(lists));
    }

    fn answer(self) -> T {
        self.0.into_inner().1.expect("candle runs an operation once, or gives an error")
    }
}

impl<T, F: FnOnce(Lists) -> T> Change for Once<F, T> {
    const NAME: &'static str = "with_mut";
    fn change(&self, x: &mut [f32]) {
        self.call((x, &[]));
    }
}

impl<T, F: FnOnce(Lists) -> T> Make for Once<F, T> {
    const NAME: &'static str = "with_from";
    fn make(&self, out: &mut [f32], x: &[f32]) {
        self.call((out, x));
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    struct Double;
    impl Change for Double {
        const NAME: &'static str = "Double";
        fn change(&self, x: &mut [f32]) {
            for x in x {
                *x *= 2.0;
            }
        }
    }

    fn tensor(count: usize) -> Tensor {
        let tensor = Tensor::zeros((2, count / 2), DType::F32, &Device::Cpu).expect("memory");
        let fill = |x: &mut [f32]| x.iter_mut().zip(0u8..).for_each(|(x, i)| *x = f32::from(i));
        Span::new(&tensor, 0, count).with_mut(fill).expect("a CPU tensor");
        tensor
    }

    #[test]
    fn operations_see_their_span_alone() -> Result<()> {
        let (a, b) = (tensor(8), tensor(6));
        let span = Span::new(&a, 2, 5).part(1, 3);
        span.change(&Double)?;
        Span::new(&a, 0, 8).with(|all| assert_eq!(all, [0.0, 1.0, 2.0, 6.0, 8.0, 10.0, 6.0, 7.0]))?;
        let sum = span.with_from(&Span::new(&b, 3, 3), |out, x| {
            out.copy_from_slice(x);
            x.iter().sum::<f32>()
        })?;
        assert_eq!(sum.to_bits(), 12f32.to_bits());
        with_all([&span, &span.part(2, 1), &Span::new(&b, 0, 2)], |[a, one, b]| {
            assert_eq!((a, one, b), (&[3.0, 4.0, 5.0][..], &[5.0][..], &[0.0, 1.0][..]));
        })
    }

    #[test]
    fn one_tensor_is_not_read_and_changed_at_once() {
        let a = tensor(8);
        assert!(Span::new(&a, 0, 2).with_from(&Span::new(&a, 4, 2), |_, _| ()).is_err());
    }
}
