//! Entry points of plain code.

use super::{Kernel, WideKernel};
use crate::cpu::{integer, simd};

/// On its own: within callers its stack, tens of kilobytes, would be theirs with every instruction set.
#[inline(never)]
pub(super) fn run_wide<K: WideKernel>(kernel: K) -> K::Output {
    kernel.run(integer::Portable)
}

/// On its own for the same reason.
#[inline(never)]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(simd::Portable)
}
