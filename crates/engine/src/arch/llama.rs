//! Llama 2 and 3, R1-Distill-Llama, Mistral, `SmolLM2` (<https://arxiv.org/abs/2407.21783>), Mixtral
//! (<https://arxiv.org/abs/2401.04088>). Llama 3's rope scaling comes as the tensor `rope_freqs`. Files of this architecture
//! have the rows of q and k permuted for interleaved rotation.

use kernels::cpu::RopeStyle;

use super::{Family, PLAIN};

pub(crate) const LLAMA: Family = Family { names: &["llama"], rope: RopeStyle::Interleaved, ..PLAIN };
