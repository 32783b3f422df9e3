//! The entry point of AVX-VNNI, which adds dot products alone.

use super::WideKernel;
use crate::cpu::integer;

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) fn run_wide<K: WideKernel>(kernel: K) -> K::Output {
    // SAFETY: this function's own features are those that the token stands for.
    kernel.run(unsafe { integer::AvxVnni::new() })
}
