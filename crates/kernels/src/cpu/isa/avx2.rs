//! Entry points of AVX2.

use super::{Kernel, WideKernel};
use crate::cpu::{integer, simd};

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own features are those that the token stands for.
    kernel.run(unsafe { simd::Avx2::new() })
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run_wide<K: WideKernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own features are those that the token stands for.
    kernel.run(unsafe { integer::Avx2::new() })
}
