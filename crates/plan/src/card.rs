//! What a card's kernels were measured to do, one by one.
//!
//! Owns the figures, and those that stand for a card which nobody measured. `probe` measures them with the kernels that will run, as they follow
//! each other in decode. Must never know a model.
//!
//! ```text
//! product  =  start of the type  +  max( bytes / rate of the type , operations / rate )
//! experts  =  2 × start of experts of the type  +  bytes / rate of the type      gate, up and what joins them; down
//! ```
//!
//! A card with hundreds of thousands of threads has a matrix of a few megabytes read before its kernel has got going: of the 22 kernels that one token
//! takes in a layer of R1's shape on an H100, bytes explain a third of the time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::QuantType;
use crate::machine::{is_rate, is_time};

/// How fast matrices of one type meet one column.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CardProduct {
    /// Bytes of weights per second, of large matrices.
    pub bytes_per_s: f64,
    /// Seconds of a matrix beside its bytes.
    pub start_s: f64,
    /// The same of each of the two kernels for a token's experts.
    pub experts_s: f64,
}

/// What a card's kernels do. [`Default`] are those of an H100.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CardKernels {
    /// Products with one column, by how the matrix is stored; what is not there reads at the card's one rate, and starts as on an H100.
    pub products: BTreeMap<QuantType, CardProduct>,
    /// Seconds of a sum, norm and rounding of one token.
    pub norm_s: f64,
    /// Of gates, as they join what they gate, with rounding.
    pub gate_s: f64,
    /// Of rounding alone.
    pub round_s: f64,
    /// Of what is done with heads: norms, turns, the cache.
    pub heads_s: f64,
    /// Of attention, with few positions.
    pub attention_s: f64,
    /// The same over latents.
    pub latents_s: f64,
    /// Of a router's choice.
    pub route_s: f64,
    /// Operations a second of prompts' products with matrices of floats; 0 where nobody knows, and then a share of the card's others.
    pub floats_per_s: f64,
    /// The same of prompts' attention.
    pub attention_per_s: f64,
    /// The same of quantized matrices that meet [`MANY_COLUMNS`]; 0 where nobody knows, and then as many as with fewer.
    pub many_per_s: f64,
}

/// The columns with which a card's usual rate of operations is measured.
pub const USUAL_COLUMNS: u32 = 512;
/// And those of its rate with very many: weights are unpacked once for all of them.
pub const MANY_COLUMNS: u32 = 2048;

impl Default for CardKernels {
    /// As `probe` measured them on an H100 (2026-11-23-h100-beside-llamacpp, "Kernels of one token"). Cards differ little in what a small kernel takes.
    fn default() -> Self {
        Self {
            products: BTreeMap::new(),
            norm_s: 2.7e-6,
            gate_s: 2.1e-6,
            round_s: 1.4e-6,
            heads_s: 2.8e-6,
            attention_s: 11.4e-6,
            latents_s: 16.9e-6,
            route_s: 18.1e-6,
            floats_per_s: 0.0,
            attention_per_s: 0.0,
            many_per_s: 0.0,
        }
    }
}

/// The most columns that go through the kernels for one.
const ONE_BY_ONE: f64 = 8.0;
/// Fewer columns than this take as long: a block of 32 takes what 51 do in wide ones (-h100-steps, "256 experts": 1.9 ms with 16 and with 32, 4.9 with 128).
const NARROW: f64 = 51.0;
/// Of a card's operations with quantized matrices, those with floats: 7.1 of 170 T/s (-h100-steps, "A router of F32").
const FLOATS_OF_OPERATIONS: f64 = 0.042;
/// And attention's: 97 to 132 T/s (-h100-steps, "Attention of prompts", 2,048 tokens).
const ATTENTION_OF_OPERATIONS: f64 = 0.65;

impl CardKernels {
    /// What a card that reads so many bytes a second does with matrices of one type.
    #[must_use]
    pub fn product(&self, quant: QuantType, read: f64) -> CardProduct {
        self.products.get(&quant).copied().unwrap_or_else(|| Self::assumed(quant, read))
    }

    /// An H100's starts, at this rate: the middle ones of types that are stored as numbers, in blocks of 32 and in blocks of 256, as `probe` measured them
    /// (2026-11-23-h100-beside-llamacpp, "Products by type": 2.0 to 2.3, 2.5 to 3.4 and 2.9 to 4.6 µs, of experts 2.0 to 2.3, 3.3 to 6.4 and 6.0 to 9.7).
    #[must_use]
    pub fn assumed(quant: QuantType, read: f64) -> CardProduct {
        let (start_s, experts_s) = match quant.block_elements() {
            ..32 => (2.1e-6, 2.1e-6),
            32..256 => (3.2e-6, 4.8e-6),
            256.. => (3.5e-6, 7.8e-6),
        };
        CardProduct { bytes_per_s: read, start_s, experts_s }
    }

    /// Operations a second of prompts with matrices of one type and so many columns, where quantized ones have `usual` with [`USUAL_COLUMNS`]; 0 where
    /// nobody knows.
    #[must_use]
    pub fn operations(&self, quant: QuantType, columns: f64, usual: f64) -> f64 {
        match quant {
            QuantType::F32 | QuantType::F16 | QuantType::Bf16 if self.floats_per_s > 0.0 => self.floats_per_s,
            QuantType::F32 | QuantType::F16 | QuantType::Bf16 => usual * FLOATS_OF_OPERATIONS,
            _ => usual / self.longer(columns, usual),
        }
    }

    /// How many times longer an operation with quantized weights takes with so many columns than with [`USUAL_COLUMNS`].
    fn longer(&self, columns: f64, usual: f64) -> f64 {
        let (few, many) = (f64::from(USUAL_COLUMNS), f64::from(MANY_COLUMNS));
        if columns <= ONE_BY_ONE || usual <= 0.0 {
            1.0
        } else if columns <= few || self.many_per_s <= 0.0 {
            (NARROW / columns).max(1.0)
        } else {
            // What is unpacked once for all columns is shared out among them.
            let share = ((columns.recip() - many.recip()) / (few.recip() - many.recip())).max(0.0);
            let least = usual / self.many_per_s;
            least + (1.0 - least) * share
        }
    }

    /// Operations a second of prompts' attention, where products have `usual`; 0 where nobody knows.
    #[must_use]
    pub fn attention(&self, usual: f64) -> f64 {
        if self.attention_per_s > 0.0 { self.attention_per_s } else { usual * ATTENTION_OF_OPERATIONS }
    }

    /// Whether every figure is one that a card may have.
    #[must_use]
    pub fn is_sane(&self) -> bool {
        let seconds =
            [self.norm_s, self.gate_s, self.round_s, self.heads_s, self.attention_s, self.latents_s, self.route_s];
        let products = || self.products.values();
        seconds.into_iter().chain(products().flat_map(|p| [p.start_s, p.experts_s])).all(is_time)
            && products().all(|product| is_rate(product.bytes_per_s))
            && [self.floats_per_s, self.attention_per_s, self.many_per_s]
                .into_iter()
                .all(|rate| rate == 0.0 || is_rate(rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_an_h100s_start_at_the_cards_rate() {
        let measured = CardProduct { bytes_per_s: 1e12, start_s: 2e-6, experts_s: 3e-6 };
        let kernels = CardKernels { products: [(QuantType::Q4K, measured)].into(), ..CardKernels::default() };
        assert_eq!(kernels.product(QuantType::Q4K, 3e12), measured);
        let [plain, small, grid] =
            [QuantType::Bf16, QuantType::Q8_0, QuantType::Iq1S].map(|q| kernels.product(q, 3e12));
        assert!([plain, small, grid].iter().all(|product| product.bytes_per_s.to_bits() == 3e12_f64.to_bits()));
        for (less, more) in [(plain, small), (small, grid)] {
            assert!(less.start_s < more.start_s && less.experts_s < more.experts_s, "{less:?} {more:?}");
        }
    }

    #[test]
    fn operations_follow_columns() {
        let kernels = CardKernels { many_per_s: 300e12, floats_per_s: 7e12, ..CardKernels::default() };
        // With 1,024 columns an operation takes a third of the way from 1/300 to 1/150: 1/225.
        for (columns, expected) in [
            (1.0, 150.0),
            (8.0, 150.0),
            (17.0, 50.0),
            (51.0, 150.0),
            (512.0, 150.0),
            (1024.0, 225.0),
            (2048.0, 300.0),
            (9e3, 300.0),
        ] {
            let found = kernels.operations(QuantType::Q4K, columns, 150e12) / 1e12;
            assert!((found / expected - 1.0).abs() < 1e-9, "{columns}: {found}");
        }
        let found = kernels.operations(QuantType::F32, 2048.0, 150e12);
        assert!((found - 7e12).abs() < 1.0, "{found}");
        let unknown = CardKernels::default();
        assert!((unknown.operations(QuantType::Q4K, 2048.0, 150e12) - 150e12).abs() < 1.0);
        assert_eq!(unknown.operations(QuantType::Q4K, 2048.0, 0.0).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn a_cards_figures_are_figures() {
        assert!(CardKernels::default().is_sane());
        assert!(!CardKernels { route_s: -1.0, ..CardKernels::default() }.is_sane());
        assert!(!CardKernels { floats_per_s: f64::NAN, ..CardKernels::default() }.is_sane());
        let product = CardProduct { bytes_per_s: 0.0, start_s: 0.0, experts_s: 0.0 };
        assert!(!CardKernels { products: [(QuantType::F16, product)].into(), ..CardKernels::default() }.is_sane());
    }
}
