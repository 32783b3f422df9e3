//! The table of tensor types that GGUF files hold: number, name, block length and block bytes.
//!
//! Source: the `ggml_type` enumeration of the GGUF specification
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>) and the block layouts of `ggml-common.h`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Bytes;

macro_rules! quant_types {
    ($($variant:ident = $id:literal, $name:literal, $elements:literal, $bytes:literal;)*) => {
        /// How a tensor's numbers are stored. Every type that GGUF has had is known here by its size,
        /// also those that no kernel computes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum QuantType {
            $(
                #[doc = concat!("`", $name, "`: blocks of ", stringify!($elements), " numbers in ", stringify!($bytes), " bytes.")]
                #[serde(rename = $name)]
                $variant,
            )*
        }

        impl QuantType {
            /// Every type, by its number in files.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The number that GGUF files use.
            #[must_use]
            pub const fn id(self) -> u32 {
                match self { $(Self::$variant => $id,)* }
            }

            /// The name that users and peers use: `Q4_K`, `IQ2_XXS`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Numbers in one block.
            #[must_use]
            pub const fn block_elements(self) -> usize {
                match self { $(Self::$variant => $elements,)* }
            }

            /// Bytes of one block.
            #[must_use]
            pub const fn block_bytes(self) -> usize {
                match self { $(Self::$variant => $bytes,)* }
            }
        }
    };
}

quant_types! {
    F32 = 0, "F32", 1, 4;
    F16 = 1, "F16", 1, 2;
    Q4_0 = 2, "Q4_0", 32, 18;
    Q4_1 = 3, "Q4_1", 32, 20;
    Q5_0 = 6, "Q5_0", 32, 22;
    Q5_1 = 7, "Q5_1", 32, 24;
    Q8_0 = 8, "Q8_0", 32, 34;
    Q8_1 = 9, "Q8_1", 32, 36;
    Q2K = 10, "Q2_K", 256, 84;
    Q3K = 11, "Q3_K", 256, 110;
    Q4K = 12, "Q4_K", 256, 144;
    Q5K = 13, "Q5_K", 256, 176;
    Q6K = 14, "Q6_K", 256, 210;
    Q8K = 15, "Q8_K", 256, 292;
    Iq2Xxs = 16, "IQ2_XXS", 256, 66;
    Iq2Xs = 17, "IQ2_XS", 256, 74;
    Iq3Xxs = 18, "IQ3_XXS", 256, 98;
    Iq1S = 19, "IQ1_S", 256, 50;
    Iq4Nl = 20, "IQ4_NL", 32, 18;
    Iq3S = 21, "IQ3_S", 256, 110;
    Iq2S = 22, "IQ2_S", 256, 82;
    Iq4Xs = 23, "IQ4_XS", 256, 136;
    I8 = 24, "I8", 1, 1;
    I16 = 25, "I16", 1, 2;
    I32 = 26, "I32", 1, 4;
    I64 = 27, "I64", 1, 8;
    F64 = 28, "F64", 1, 8;
    Iq1M = 29, "IQ1_M", 256, 56;
    Bf16 = 30, "BF16", 1, 2;
    Tq1_0 = 34, "TQ1_0", 256, 54;
    Tq2_0 = 35, "TQ2_0", 256, 66;
    Mxfp4 = 39, "MXFP4", 32, 17;
    Nvfp4 = 40, "NVFP4", 64, 36;
    Q1_0 = 41, "Q1_0", 128, 18;
    Q2_0 = 42, "Q2_0", 64, 18;
}

impl QuantType {
    /// The type with this number, if GGUF has one. 4, 5, 31–33 and 36–38 were removed from the format.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|q| q.id() == id)
    }

    /// Bytes of `elements` numbers, or `None` where they do not fill whole blocks or the count overflows.
    #[must_use]
    pub fn bytes(self, elements: u64) -> Option<Bytes> {
        let block = self.block_elements() as u64;
        if !elements.is_multiple_of(block) {
            return None;
        }
        (elements / block).checked_mul(self.block_bytes() as u64).map(Bytes)
    }

    /// Whether codes are looked up in a table of grids.
    #[must_use]
    pub const fn is_grid(self) -> bool {
        use QuantType as Q;
        matches!(self, Q::Iq1S | Q::Iq1M | Q::Iq2Xxs | Q::Iq2Xs | Q::Iq2S | Q::Iq3Xxs | Q::Iq3S)
    }

    /// Bits per number, the usual measure of a quantization.
    #[must_use]
    pub fn bits(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_elements() as f64
    }
}

impl fmt::Display for QuantType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no quantization type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a quantization type")]
pub struct NotAQuantType(pub String);

impl FromStr for QuantType {
    type Err = NotAQuantType;

    fn from_str(text: &str) -> Result<Self, NotAQuantType> {
        let known = Self::ALL.iter().copied().find(|q| q.name().eq_ignore_ascii_case(text));
        known.ok_or_else(|| NotAQuantType(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_find_their_type_again() {
        for quant in QuantType::ALL {
            assert_eq!(QuantType::from_id(quant.id()), Some(*quant));
            assert_eq!(quant.name().parse(), Ok(*quant));
        }
        for removed in [4, 5, 31, 32, 33, 36, 37, 38, 43, u32::MAX] {
            assert_eq!(QuantType::from_id(removed), None);
        }
    }

    #[test]
    fn bytes_count_whole_blocks_only() {
        assert_eq!(QuantType::Q4K.bytes(512), Some(Bytes(288)));
        assert_eq!(QuantType::Q4K.bytes(500), None);
        assert_eq!(QuantType::F64.bytes(u64::MAX), None);
    }
}
