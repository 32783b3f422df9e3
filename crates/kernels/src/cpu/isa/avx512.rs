//! Entry points of AVX-512.

use super::{Kernel, WideKernel};
use crate::cpu::{integer, simd};

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own features are those that the token stands for.
    kernel.run(unsafe { simd::Avx512::new() })
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn run_wide<K: WideKernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own features are those that the token stands for.
    kernel.run(unsafe { integer::Avx512::new() })
}
