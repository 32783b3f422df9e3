//! What kernels reach of the figures on data sheets.
//!
//! Every number here was measured on the project's own machines; `benches/results/` says how. What they stand for on a part that nobody here
//! has is an estimate: nothing is known of its clock under load, its cooling or its memory's timings.

use std::collections::BTreeMap;

use super::{Build, Card, Kernels};
use crate::card::{CardKernels, CardProduct};
use crate::cost::gpu::in_halves;
use crate::traffic::Traffic;
use crate::{Bytes, BytesPerSecond, Calibration, Gpu, Inventory, Machine, QuantType, Rate, Reads, Source, Unit};

/// Of what plain reads get from RAM, where memory is the limit: 8B in `Q4_K_M` on 8 cores (2026-11-22-xeon-16core, 93 %), 70B (-h100-split, 91 %).
const RAM_OF_READS: f64 = 0.92;
/// Of what one core does alone, where arithmetic is the limit: 8 cores did 34.3 GB/s of `IQ2_XXS` where one does 6.8 (-xeon-16core, -xeon-2core-integers).
const CORE_OF_ALONE: f64 = 0.63;
/// Of a card's peak, where memory is the limit: `Q4_K` at 2,737 of an H100's 3,352 GB/s (-h100-kernels).
const CARD_OF_PEAK: f64 = 0.82;
/// Multiprocessors × cycles a second of the H100 that the card's figures were measured on.
const H100_CYCLES: f64 = 132.0 * 1.83e9;
/// Operations a second of products with many columns there (-h100-streaming).
const H100_OPERATIONS: f64 = 172e12;
/// With very many columns, by way of halves: 296 and 327 of matrices of a 70B (-h100-plans, "Products of many columns").
const H100_MANY: f64 = 300e12;
/// Of sixteen lanes: 54.9 of 63.0 GB/s from pinned memory (-h100-kernels, "The link").
const LINK_OF_LANES: f64 = 0.87;
/// Of a drive's sequential rate: 3.16 GB/s in the ring where the best plain loop had 3.43 (-xeon-2core-disk).
const DISK_OF_READS: f64 = 0.92;
/// Of four lanes, what their protocol leaves: 7.45 of 7.88 GB/s are the most that drives of generation 4 are sold with.
const DRIVE_OF_LANES: f64 = 0.95;
/// What a system without a desktop's windows holds of RAM.
const SYSTEM: Bytes = Bytes(2 << 30);

impl Build {
    /// The machine that a plan sees, for this model: capacities are the data sheets', rates are
    ///
    /// ```text
    /// RAM    =  min( bandwidth × reachable × 0.92 , cores × one core's rate for the type × 0.63 )
    /// CPU    =  cores × one core's operations for the type × 0.63
    /// card   =  min( bandwidth × 0.82 , an H100's rate for the type × multiprocessors × clock / the H100's )
    /// card   =  172 TOP/s × multiprocessors × clock / the H100's             (operations; with very many columns 300 where halves are fast)
    /// link   =  16 × lane of the older of card and board × 0.87
    /// drive  =  min( sequential reads , 4 × lane of the board × 0.95 ) × 0.92
    /// ```
    ///
    /// where a rate by type is the mean over what the model reads for a token: `Σ bytes / Σ (bytes / rate)`; a card's products are told by type beside it.
    /// The numbers are measured ones; crossings, launches and what kernels take to start are those that a plan assumes of any card. Its figures are marked [`Source::Catalogue`].
    #[must_use]
    pub fn machine(&self, model: &Inventory) -> Machine {
        let memory = &self.memory;
        let cores = f64::from(self.cores) * CORE_OF_ALONE;
        let mix = Mix::of(model);
        let reads = memory.bandwidth.value.0 * memory.reachable.value * RAM_OF_READS;
        let kernels = memory.kernels.value;
        let ram = mix.bytes(|quant| reads.min(cores * core(quant, kernels).0));
        let lanes =
            self.drive.pcie.as_ref().map(|pcie| 4.0 * pcie.value.min(memory.pcie.value).lane().0 * DRIVE_OF_LANES);
        let disk = self.drive.bandwidth.value.0.min(lanes.unwrap_or(f64::INFINITY)) * DISK_OF_READS;
        Machine {
            cpu: memory.title.clone(),
            cores: self.cores,
            ram_total: self.ram,
            ram_available: self.ram.saturating_sub(SYSTEM),
            ram_read: rate(ram),
            cpu_ops_per_second: mix.operations(|quant| cores * core(quant, kernels).1),
            disk_read: rate(disk),
            disk_reads: Reads::USUAL,
            disk_beside: 1.0,
            gpus: self.cards.iter().map(|card| self.gpu(card, &mix)).collect(),
            processor: None,
            calibration: Calibration::NONE,
        }
    }

    fn gpu(&self, card: &Card, mix: &Mix) -> Gpu {
        let scale = f64::from(card.multiprocessors.value) * card.clock.value / H100_CYCLES;
        let peak = card.bandwidth.value.0 * CARD_OF_PEAK;
        let lanes = 16.0 * card.pcie.value.min(self.memory.pcie.value).lane().0;
        Gpu {
            name: card.title.clone(),
            memory_total: card.memory.value,
            memory_free: card.memory.value,
            capability: card.capability.value,
            read: rate(mix.bytes(|quant| peak.min(scale * h100(quant)))),
            link: rate(lanes * LINK_OF_LANES),
            ops_per_second: scale * H100_OPERATIONS,
            link_back: None,
            crossing_s: 0.0,
            launch_s: 0.0,
            kernels: CardKernels {
                products: mix.types(|quant| peak.min(scale * h100(quant))),
                many_per_s: if in_halves(card.capability.value) { scale * H100_MANY } else { 0.0 },
                ..CardKernels::default()
            },
            context: Bytes::ZERO,
        }
    }
}

const fn rate(per_second: f64) -> Rate {
    Rate { rate: BytesPerSecond(per_second), source: Source::Catalogue }
}

/// What one token reads and computes of a model, by type.
struct Mix(Vec<(QuantType, f64, f64)>);

impl Mix {
    fn of(model: &Inventory) -> Self {
        let traffic = Traffic::new(model, None);
        let mut mix: Vec<(QuantType, f64, f64)> = Vec::new();
        let mut add = |unit: &Unit| {
            let (quant, bytes) = (model.tensor_of(unit).quant, traffic.read_per_token(unit));
            let operations = traffic.operations(unit, 1);
            match mix.iter_mut().find(|(known, ..)| *known == quant) {
                Some(entry) => (entry.1, entry.2) = (entry.1 + bytes, entry.2 + operations),
                None => mix.push((quant, bytes, operations)),
            }
        };
        model.units.iter().for_each(&mut add);
        Self(mix)
    }

    /// What a card that nobody measured does with each type, by these rates.
    fn types(&self, rate: impl Fn(QuantType) -> f64) -> BTreeMap<QuantType, CardProduct> {
        self.0.iter().map(|(quant, ..)| (*quant, CardKernels::assumed(*quant, rate(*quant)))).collect()
    }

    fn bytes(&self, rate: impl Fn(QuantType) -> f64) -> f64 {
        mean(self.0.iter().map(|(quant, bytes, _)| (*bytes, rate(*quant))))
    }

    fn operations(&self, rate: impl Fn(QuantType) -> f64) -> f64 {
        mean(self.0.iter().map(|(quant, _, operations)| (*operations, rate(*quant))))
    }
}

/// `Σ amounts / Σ (amount / rate)`; of nothing, the slowest rate.
fn mean(parts: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (mut amounts, mut seconds, mut slowest) = (0.0, 0.0, f64::INFINITY);
    for (amount, rate) in parts {
        (amounts, seconds, slowest) = (amounts + amount, seconds + amount / rate, slowest.min(rate));
    }
    if seconds > 0.0 {
        amounts / seconds
    } else if slowest.is_finite() {
        slowest
    } else {
        1.0
    }
}

/// What one core alone does with a type: bytes of weights a second from RAM with one column, and operations a second with 512
/// (-xeon-2core-integers, "Kernels, one thread"). With AVX2 six types were measured; the others follow the one of their kind.
fn core(quant: QuantType, kernels: Kernels) -> (f64, f64) {
    use QuantType as Q;
    let (read, operations) = match quant {
        Q::F32 => (16.3, 90.0),
        Q::F16 => (16.1, 101.0),
        Q::Bf16 => (15.6, 88.0),
        Q::Q5_0 => (12.9, 463.0),
        Q::Q5_1 => (12.4, 442.0),
        Q::Q8_0 => (13.4, 461.0),
        Q::Q2K => (10.5, 330.0),
        Q::Q3K => (11.0, 390.0),
        Q::Q4K => (14.3, 440.0),
        Q::Q5K => (11.4, 468.0),
        Q::Q6K => (13.4, 370.0),
        Q::Iq1S => (2.9, 393.0),
        Q::Iq1M => (3.1, 345.0),
        Q::Iq2Xxs => (6.8, 448.0),
        Q::Iq2Xs => (6.0, 344.0),
        Q::Iq2S => (5.5, 359.0),
        Q::Iq3Xxs => (7.2, 440.0),
        Q::Iq3S => (6.7, 418.0),
        Q::Iq4Xs => (13.9, 433.0),
        Q::Tq1_0 => (4.3, 404.0),
        Q::Tq2_0 => (10.4, 436.0),
        Q::Nvfp4 => (10.7, 356.0),
        // Q4_1; Q4_0, IQ4_NL and MXFP4, which are within 3 % of it; and what nobody publishes models in.
        _ => (13.1, 431.0),
    };
    let grid = quant.is_grid();
    let float = matches!(quant, Q::F32 | Q::F16 | Q::Bf16);
    let (of_read, of_operations) = match kernels {
        Kernels::Avx512 => (1.0, 1.0),
        // Floats meet floats: half the lanes, and the same memory.
        Kernels::AvxVnni | Kernels::Avx2 if float => (1.0, 0.5),
        // IQ2_XXS 3.6 of 6.8, IQ1_S 2.4 of 2.9; Q4_K 9.9 of 14.3. Operations: 253 of 440, 290 of 448.
        Kernels::AvxVnni if grid => (0.62, 0.65),
        Kernels::AvxVnni => (0.70, 0.60),
        // IQ2_XXS 3.5 of 6.8, IQ1_S 2.2 of 2.9; Q4_K 9.5 of 14.3. Operations: 134 of 440, 123 of 448, Q8_0 86 of 461.
        Kernels::Avx2 if grid => (0.60, 0.28),
        Kernels::Avx2 => (0.67, 0.29),
    };
    (read * of_read * 1e9, operations * of_operations * 1e9)
}

/// Bytes of weights a second with one column on an H100 (-h100-kernels). Above some 2,300 GB/s its memory is the limit, so that a card with less
/// bandwidth for each multiprocessor is bound by its own.
fn h100(quant: QuantType) -> f64 {
    use QuantType as Q;
    let gigabytes: f64 = match quant {
        Q::Iq1S => 1432.0,
        Q::Iq1M => 1178.0,
        Q::Iq2Xxs => 1462.0,
        Q::Iq2Xs => 1606.0,
        Q::Iq2S => 1661.0,
        Q::Iq3Xxs => 1832.0,
        Q::Iq3S => 1953.0,
        Q::Q3K => 2012.0,
        Q::Mxfp4 => 2290.0,
        Q::Iq4Xs => 2319.0,
        Q::Iq4Nl => 2450.0,
        Q::Q2K => 2573.0,
        Q::Q5_0 => 2582.0,
        Q::Q4_1 => 2675.0,
        Q::Q5K | Q::Q5_1 => 2707.0,
        Q::Q4K => 2737.0,
        Q::Q6K => 2766.0,
        Q::F32 => 2777.0,
        _ => 2831.0,
    };
    gigabytes * 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_rate_is_that_of_the_whole_time() {
        let near = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-12, "{found} {expected}");
        near(mean([(2.0, 1.0), (2.0, 2.0)].into_iter()), 4.0 / 3.0);
        near(mean([(0.0, 5.0), (0.0, 7.0)].into_iter()), 5.0);
        near(mean([].into_iter()), 1.0);
    }

    #[test]
    fn no_kernel_is_faster_without_dot_products() {
        for quant in QuantType::ALL {
            let [vector, narrow, plain] =
                [Kernels::Avx512, Kernels::AvxVnni, Kernels::Avx2].map(|kernels| core(*quant, kernels));
            assert!(vector.0 >= narrow.0 && narrow.0 >= plain.0, "{quant:?}");
            assert!(vector.1 >= narrow.1 && narrow.1 >= plain.1 && plain.1 > 0.0, "{quant:?}");
            assert!(h100(*quant) > 0.0);
        }
    }
}
