//! What a processor's kernels were measured to do, and how long work takes by it.
//!
//! Owns the formulas of products, attention and vectors on the processor. `probe` measures the figures with the kernels that will run; a
//! machine without them is forecast from its two rates alone. Must never know a model.
//!
//! ```text
//! product   = bytes × seconds a byte (type, columns)  +  rows × seconds a row, or outputs × seconds an output
//!           = at hand × hand  +  (1 − at hand) × max( hand , bytes × seconds a byte of RAM )      one column
//! hand      = bytes × min( seconds a byte at hand , of RAM )  +  rows × seconds a row  +  seconds of a job's start
//! attention = operations / rate  +  scores × seconds a score     prompts: queries meet keys and values as matrices
//!           = kept numbers × (unpacking + heads × use)  one token: each number is unpacked for the heads that share it
//!             + heads of keys × seconds of one's start
//! vectors   = Σ kinds  numbers × seconds a number       norms, sums, rounding to 8 bits, activations, turns, keeping; a logit counts as two sums
//! steps     = jobs for all threads × seconds of one that does nothing
//! ```
//!
//! Seconds a byte are interpolated between measured numbers of columns, in time and linearly. With one column RAM's are so by the bytes of a job too, which
//! are all matrices that are handed to the threads at once: a short one ends before memory is read at its full rate (30 µs of the 88 that a
//! matrix of 2048 × 2048 in `Q4_1` takes on two cores), and of one that is shorter than any measured the start is left. What a token reads and a last-level cache still holds for the next one is *at hand*: then
//! the cores' unpacking is the limit, and a job's start is a microsecond or two. How much of it is at hand follows from how much faster sets of
//! that size are read again than RAM. With fewer threads than cores work takes as
//! many times longer, but for one column from RAM: there a thread has what RAM gives to so many, or what it unpacks by itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::QuantType;
use crate::machine::{is_rate, is_time};

/// The numbers of columns that products are measured with.
pub const COLUMNS: [u32; 7] = [1, 2, 4, 8, 16, 64, 256];

/// Weights of a short job and of a long one, by which products with one column are measured: 2048 rows of 1024, and 32,768 of 4096. Large models' jobs are as long
/// as that: on 16 cores one of 4096 rows takes 0.14 ms, half of which is its start, and what a long one takes cannot be told from it.
pub const SHORT_JOB: usize = 512 * 4096;
/// The long one.
pub const LONG_JOB: usize = 64 * SHORT_JOB;

/// How fast matrices of one type are multiplied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Product {
    /// Bytes of weights per second that meet so many columns as [`COLUMNS`] says, from RAM and with all cores.
    pub bytes_per_s: [f64; COLUMNS.len()],
    /// The same with one thread and one column.
    pub one_thread: f64,
    /// The same with all cores and one column, in jobs of [`SHORT_JOB`] weights; the other figures are of [`LONG_JOB`].
    pub short: f64,
    /// The same with all cores and one column, of weights that a cache holds.
    pub at_hand: f64,
    /// Seconds until a job of such weights is on its way.
    pub start_s: f64,
    /// Seconds of a row, beside its bytes and with all cores.
    pub row_s: f64,
}

/// Seconds for one number, with all cores unless said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Vectors {
    /// A norm's.
    pub norm_s: f64,
    /// A sum's; one thread's work.
    pub add_s: f64,
    /// Rounding to 8 bits.
    pub round_s: f64,
    /// An activation's: gate and up give one number.
    pub activate_s: f64,
    /// A turn's, of a query or a key.
    pub turn_s: f64,
    /// Keeping a key or a value in the cache; one thread's work.
    pub keep_s: f64,
    /// A score's of a router: choosing experts; one thread's work.
    pub choose_s: f64,
}

/// How fast queries meet keys and values, with all cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttentionRates {
    /// Operations per second of a prompt's queries.
    pub operations_per_s: f64,
    /// Seconds of one of their scores, which becomes a weight.
    pub score_s: f64,
    /// Seconds to unpack one number of a key or a value for one token.
    pub unpack_s: f64,
    /// Seconds that each head which shares it takes for it.
    pub use_s: f64,
    /// Seconds with which one token's attention to a head of keys begins, however few positions there are.
    pub start_s: f64,
}

/// Positions that attention computes with beside those that a query sees, on average: they come in blocks of 64, and queries in tiles.
pub const ATTENTION_WASTE: f64 = 48.0;

/// What a processor's kernels were measured to do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Processor {
    /// Products, by how the matrix is stored.
    pub products: BTreeMap<QuantType, Product>,
    /// Threads, ascending up to all cores, with the bytes of weights per second that so many read for one column.
    pub reads: Vec<(u32, f64)>,
    /// Bytes that are read over and over, ascending, with how many times faster that is than from RAM; what is more is read from RAM.
    pub again: Vec<(f64, f64)>,
    /// Seconds of an output with many columns, beside the row's bytes.
    pub output_s: f64,
    /// Attention.
    pub attention: AttentionRates,
    /// Vectors.
    pub vectors: Vectors,
    /// Seconds of a job for all threads that does nothing.
    pub step_s: f64,
}

impl Processor {
    /// Whether every figure is one that a processor may have.
    #[must_use]
    pub fn is_sane(&self) -> bool {
        let Self { attention: a, vectors: v, .. } = self;
        let products =
            self.products.values().flat_map(|p| p.bytes_per_s.into_iter().chain([p.one_thread, p.short, p.at_hand]));
        let positive = products.chain(self.reads.iter().map(|(_, rate)| *rate)).chain([a.operations_per_s]);
        let vectors = [v.norm_s, v.add_s, v.round_s, v.activate_s, v.turn_s, v.keep_s, v.choose_s];
        let attention = [a.unpack_s, a.use_s, a.score_s, a.start_s];
        let seconds = vectors.into_iter().chain(attention).chain([self.output_s, self.step_s]);
        let seconds = seconds.chain(self.products.values().flat_map(|p| [p.row_s, p.start_s]));
        positive.into_iter().all(is_rate)
            && seconds.into_iter().all(is_time)
            && self.reads.first().is_some_and(|(threads, _)| *threads > 0)
            && self.reads.is_sorted_by(|a, b| a.0 < b.0)
            && self.again.is_sorted_by(|a, b| a.0 < b.0)
            && self.again.iter().all(|(bytes, faster)| is_rate(*bytes) && (1.0..=1e6).contains(faster))
    }

    /// The share of its weights that a token which reads so many bytes finds at hand: all where sets of that size are read again as fast as the
    /// smallest one, and none where they are read as from RAM.
    #[must_use]
    pub fn at_hand(&self, bytes: f64) -> f64 {
        let Some((_, fastest)) = self.again.first().filter(|(_, fastest)| *fastest > 1.0) else { return 0.0 };
        let Some(place) = self.again.iter().position(|(most, _)| bytes <= *most) else { return 0.0 };
        // Of the seconds from RAM, as many are saved as of all are where everything is at hand.
        let saved = |place: usize| (1.0 - self.again[place].1.recip()) / (1.0 - fastest.recip());
        let Some(before) = place.checked_sub(1) else { return 1.0 };
        let (below, above) = (self.again[before].0, self.again[place].0);
        (saved(before) + (saved(place) - saved(before)) * (bytes - below) / (above - below)).clamp(0.0, 1.0)
    }

    /// How many times longer work takes with `threads` threads than with all cores.
    #[must_use]
    pub fn slower(&self, threads: u32) -> f64 {
        let cores = self.reads.last().map_or(1, |(cores, _)| *cores);
        f64::from(cores) / f64::from(threads.clamp(1, cores))
    }

    /// Bytes of weights per second that `threads` threads read for one column, of the type that `reads` is about.
    #[must_use]
    pub fn read_rate(&self, threads: u32) -> f64 {
        let threads = f64::from(threads);
        let mut below = (0.0, 0.0);
        for (count, rate) in &self.reads {
            let above = (f64::from(*count), *rate);
            if threads <= above.0 {
                return below.1 + (above.1 - below.1) * (threads - below.0) / (above.0 - below.0);
            }
            below = above;
        }
        below.1
    }

    /// Seconds of a matrix of this type, so many bytes in so many rows, with some columns; none where the type was not measured. With one column it is
    /// part of a job of `job` bytes, of `all` that a token reads.
    #[must_use]
    pub fn product_s(
        &self,
        quant: QuantType,
        (bytes, rows): (f64, f64),
        columns: f64,
        threads: u32,
        (job, all): (f64, f64),
    ) -> Option<f64> {
        let product = self.products.get(&quant)?;
        let slower = self.slower(threads);
        if columns <= 1.0 {
            let start_s = if job > 0.0 { product.start_s * bytes / job } else { 0.0 };
            let every = self.read_rate(u32::MAX);
            // All cores' rate, less what fewer get of RAM; but no more than each unpacks by itself.
            let shared = product.bytes_per_s[0] * self.read_rate(threads) / every.max(1.0);
            let rate = if slower > 1.0 { shared.min(product.one_thread * f64::from(threads)) } else { shared };
            let far = bytes / rate.max(1.0) * product.in_job(quant, job);
            // No cache is slower than RAM in a job as long: what others of a shared machine drive out of it comes from there.
            let read_s = (bytes / product.at_hand.max(1.0) * slower).min(far);
            let hand = read_s + rows * product.row_s * slower + start_s;
            let near = self.at_hand(all);
            return Some(near * hand + (1.0 - near) * hand.max(far));
        }
        let outputs = (rows * columns * self.output_s).max(rows * product.row_s);
        Some((bytes * product.byte_s(columns) + outputs) * slower)
    }

    /// Seconds of attention of some tokens after `first` others, with `heads` heads of so many numbers of key and value together.
    #[must_use]
    pub fn prompt_attention_s(&self, heads: f64, widths: f64, first: f64, tokens: f64, threads: u32) -> f64 {
        let scores = heads * tokens * (first + tokens / 2.0 + ATTENTION_WASTE);
        let AttentionRates { operations_per_s, score_s, .. } = self.attention;
        scores * (2.0 * widths / operations_per_s.max(1.0) + score_s) * self.slower(threads)
    }

    /// Seconds of one token's attention over so many positions, of which each keeps `numbers` of so many heads that `sharing` heads use.
    #[must_use]
    pub fn token_attention_s(&self, (numbers, kept): (f64, f64), sharing: f64, positions: f64, threads: u32) -> f64 {
        let AttentionRates { unpack_s, use_s, start_s, .. } = self.attention;
        let each = numbers * (positions + ATTENTION_WASTE) * (unpack_s + sharing * use_s);
        (each + kept * start_s) * self.slower(threads)
    }
}

impl Product {
    /// How many times longer a byte takes in a job of so many bytes than in a long one. Jobs' seconds are interpolated between the two that were
    /// measured, and below them to the start of one of no bytes.
    fn in_job(&self, quant: QuantType, bytes: f64) -> f64 {
        let size = |weights: usize| (weights / quant.block_elements() * quant.block_bytes()) as f64;
        let (short, long) = (size(SHORT_JOB), size(LONG_JOB));
        let byte_s = self.bytes_per_s[0].recip();
        let short_s = short / self.short.max(1.0);
        let beyond = (bytes - short).max(0.0) / (long - short);
        let least_s = self.start_s.min(short_s);
        let seconds = if bytes <= short {
            least_s + (short_s - least_s) * bytes / short
        } else {
            short_s + (long * byte_s - short_s) * beyond
        };
        if bytes > 0.0 { (seconds / (bytes * byte_s)).max(1.0) } else { 1.0 }
    }

    /// Seconds of a byte of weights that meets so many columns, more than one.
    fn byte_s(&self, columns: f64) -> f64 {
        let at = |place: usize| (f64::from(COLUMNS[place]), 1.0 / self.bytes_per_s[place].max(1.0));
        let last = COLUMNS.len() - 1;
        let place = (1..last).find(|place| columns <= at(*place).0).unwrap_or(last);
        let (below, above) = (at(place - 1), at(place));
        if columns >= above.0 {
            return above.1 * columns / above.0;
        }
        below.1 + (above.1 - below.1) * (columns - below.0) / (above.0 - below.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte costs 1 ns with up to 16 columns, and a sixteenth of that for each column beyond; four cores, of which two read as fast.
    fn processor() -> Processor {
        let product = Product {
            bytes_per_s: [1e9, 1e9, 1e9, 1e9, 1e9, 0.25e9, 0.0625e9],
            one_thread: 0.4e9,
            short: 0.5e9,
            at_hand: 2e9,
            start_s: 1e-7,
            row_s: 2e-9,
        };
        Processor {
            products: [(QuantType::Q4K, product)].into(),
            reads: vec![(1, 5e9), (2, 10e9), (4, 10e9)],
            again: vec![(100.0, 2.0), (300.0, 1.25)],
            output_s: 1e-9,
            attention: AttentionRates {
                operations_per_s: 1e9,
                score_s: 3e-9,
                unpack_s: 1e-9,
                use_s: 0.5e-9,
                start_s: 1e-6,
            },
            vectors: Vectors::default(),
            step_s: 1e-6,
        }
    }

    #[test]
    fn products_are_interpolated_between_what_was_measured() {
        // (columns, threads, microseconds of 1000 bytes in 100 rows)
        for (columns, threads, expected) in [
            (1.0, 4, 1.0),
            // Two threads get as much of RAM, and unpack 0.8 GB/s of it in 1.25 µs; but what is at hand takes them longer, with its rows.
            (1.0, 2, 2.0 * 0.7),
            (1.0, 1, 4.0 * 0.7),
            (3.0, 4, 1.0 + 0.3),
            (40.0, 4, 2.5 + 4.0),
            (256.0, 4, 16.0 + 25.6),
            (512.0, 4, 32.0 + 51.2),
            (512.0, 1, 4.0 * (32.0 + 51.2)),
            // More threads than cores are no faster.
            (512.0, 9, 32.0 + 51.2),
        ] {
            let found = processor()
                .product_s(QuantType::Q4K, (1000.0, 100.0), columns, threads, (f64::INFINITY, f64::INFINITY))
                .expect("measured");
            assert!((found * 1e6 - expected).abs() < 1e-9, "{columns} columns, {threads} threads: {found}");
        }
        assert_eq!(processor().product_s(QuantType::Q8_0, (1.0, 1.0), 1.0, 1, (1.0, 1.0)), None);
    }

    #[test]
    fn short_jobs_take_longer_a_byte() {
        // Q4_K has 144 bytes for 256 weights; short jobs are read at half the rate.
        let short = (SHORT_JOB / 256 * 144) as f64;
        for (job, expected) in [
            (0.0, 1.0),
            // And two thirds of a start, 0.1 µs, on a third of the short one's bytes.
            (short / 3.0, 2.0 + 200.0 / short),
            (short, 2.0),
            // Half way in bytes, from 2 to 64 times what a short one's bytes take: 33 of 32.5.
            (32.5 * short, 33.0 / 32.5),
            (64.0 * short, 1.0),
            (f64::INFINITY, 1.0),
        ] {
            let found =
                processor().product_s(QuantType::Q4K, (1000.0, 0.0), 1.0, 4, (job, f64::INFINITY)).expect("measured")
                    * 1e6;
            assert!((found - expected).abs() < 1e-9, "{job}: {found}, expected {expected}");
        }
    }

    #[test]
    fn what_a_cache_holds_is_at_hand() {
        for (bytes, expected) in [(1.0, 1.0), (100.0, 1.0), (200.0, 0.7), (300.0, 0.4), (301.0, 0.0)] {
            let found = processor().at_hand(bytes);
            assert!((found - expected).abs() < 1e-9, "{bytes}: {found}, expected {expected}");
        }
        let without = Processor { again: vec![(100.0, 1.0)], ..processor() };
        assert_eq!(without.at_hand(1.0).to_bits(), 0.0_f64.to_bits());
        // 1000 bytes in 100 rows at hand: 0.5 µs and 0.2, and half of a start; from RAM 1 µs, or 4 µs by one thread's unpacking.
        let hand = 0.5 + 0.2 + 0.05;
        // From RAM half of a short job's, with what is left of half of a start.
        let far = 2.0 + 0.05 * (1.0 - 2000.0 / (SHORT_JOB / 256 * 144) as f64);
        for (all, threads, expected) in
            [(50.0, 4, hand), (200.0, 4, 0.7 * hand + 0.3 * far), (400.0, 4, far), (50.0, 1, 4.0 * 0.7 + 0.05)]
        {
            let found = processor().product_s(QuantType::Q4K, (1000.0, 100.0), 1.0, threads, (2000.0, all));
            assert!((found.expect("measured") * 1e6 - expected).abs() < 1e-9, "{all}, {threads}: {found:?}");
        }
        // A cache that was slower than RAM was others' while it was measured: what is in it comes as fast as from RAM, in short jobs and in long ones.
        let mut shared = processor();
        shared.products.get_mut(&QuantType::Q4K).expect("there").at_hand = 0.1e9;
        let short = (SHORT_JOB / 256 * 144) as f64;
        for (job, expected) in [(f64::INFINITY, 1.0), (short, 2.0 + 0.1 * 1000.0 / short)] {
            for all in [50.0, 400.0] {
                let found = shared.product_s(QuantType::Q4K, (1000.0, 0.0), 1.0, 4, (job, all)).expect("measured");
                assert!((found * 1e6 - expected).abs() < 1e-9, "{job} {all}: {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn attention_follows_pairs_in_prompts_and_kept_numbers_in_decode() {
        let near = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-9, "{found} {expected}");
        let scores = 2.0 * 104.0 * 200.0;
        near(processor().prompt_attention_s(2.0, 10.0, 100.0, 104.0, 4), scores * (20.0 / 1e9 + 3e-9));
        near(processor().token_attention_s((10.0, 5.0), 4.0, 52.0, 2), 2.0 * (10.0 * 100.0 * 3e-9 + 5e-6));
    }

    #[test]
    fn reads_follow_threads() {
        for (threads, expected) in [(1, 5e9), (2, 10e9), (3, 10e9), (4, 10e9), (64, 10e9)] {
            assert_eq!(processor().read_rate(threads).to_bits(), f64::to_bits(expected), "{threads}");
        }
    }

    #[test]
    fn impossible_figures_are_not_believed() {
        let with = |change: fn(&mut Processor)| {
            let mut processor = processor();
            change(&mut processor);
            processor.is_sane()
        };
        assert!(with(|_| ()));
        assert!(!with(|p| p.step_s = -1e-6));
        assert!(!with(|p| p.reads.clear()));
        assert!(!with(|p| p.reads.reverse()));
        // No core reads nothing, and no sum of seconds is made of infinities.
        assert!(!with(|p| p.reads = vec![(0, 5e9)]));
        assert!(!with(|p| p.reads[1].1 = 1e300));
        assert!(!with(|p| p.output_s = 1e300));
        assert!(!with(|p| p.again[1].1 = f64::INFINITY));
        assert!(!with(|p| p.attention.operations_per_s = 0.0));
        assert!(!with(|p| p.products.get_mut(&QuantType::Q4K).expect("there").bytes_per_s[3] = f64::NAN));
    }
}
