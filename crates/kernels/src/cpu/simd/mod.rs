//! Sixteen lanes of `f32` in portable code, AVX2 (two registers) and AVX-512 (one).
//!
//! A value of a type that implements [`Simd`] proves that the processor has the instructions, so the methods are safe.
//! All implementations add lanes up in the same order.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
#[cfg(target_arch = "x86_64")]
mod sixteen_bytes;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use portable::Portable;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// The memory image of a vector.
pub(crate) type Lanes = [f32; LANES];

/// 1.5 · 2^23: adding it to a small `f32` rounds that to an integer, which then stands in the sum's low bits.
const ROUND: f32 = 12_582_912.0;

/// Instructions on sixteen lanes of `f32`.
pub(crate) trait Simd: Copy {
    /// Sixteen lanes.
    type F: Copy;
    /// Sixteen bytes.
    type B: Copy;

    /// Whether there is room for more than two dozen vectors in registers.
    const MANY_REGISTERS: bool;

    /// Asks for the cache lines of these bytes ahead of their use.
    fn prefetch(self, bytes: &[u8]);
    /// All lanes the same.
    fn splat(self, x: f32) -> Self::F;
    /// Lanes from memory of any alignment.
    fn load(self, from: &Lanes) -> Self::F;
    /// Lanes to memory of any alignment.
    fn store(self, x: Self::F, to: &mut Lanes);
    /// a + b
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// a − b
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// a · b
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// a / b
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger of each lane.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller of each lane.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// a · b + c, rounded once where the processor can, twice in portable code.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// 2^n, where `x` is `ROUND + n` and n is from −126 to 127.
    fn power_of_two(self, x: Self::F) -> Self::F;
    /// The sum of the lanes: lane i with i + 8, then i + 4, i + 2, i + 1.
    fn sum(self, x: Self::F) -> f32;
    /// The largest of the lanes; where one is no number, any of them.
    fn largest(self, x: Self::F) -> f32;
    /// Lanes of `a` where their bit is 1 (the first lane's is the lowest), of `b` elsewhere.
    fn select(self, bits: u16, a: Self::F, b: Self::F) -> Self::F;
    /// Lane j of vector i becomes lane i of vector j.
    fn transpose(self, x: &mut [Self::F; LANES]);
    /// The first eight lanes `low`, the others `high`.
    fn low_and_high(self, low: f32, high: f32) -> Self::F;
    /// Sixteen bytes from memory.
    fn bytes(self, from: &[u8; LANES]) -> Self::B;
    /// All bytes the same.
    fn bytes_splat(self, byte: u8) -> Self::B;
    /// Sixteen bytes from two little-endian words.
    fn bytes_of_words(self, low: u64, high: u64) -> Self::B;
    /// 0xff for each bit that is 1, the lowest first.
    fn bytes_of_bits(self, bits: u16) -> Self::B;
    /// a & b
    fn bytes_and(self, a: Self::B, b: Self::B) -> Self::B;
    /// a | b
    fn bytes_or(self, a: Self::B, b: Self::B) -> Self::B;
    /// a ^ b
    fn bytes_xor(self, a: Self::B, b: Self::B) -> Self::B;
    /// a − b, each byte on its own, wrapping.
    fn bytes_sub(self, a: Self::B, b: Self::B) -> Self::B;
    /// Each byte shifted right; what enters above is the neighbour's and must be masked off.
    fn bytes_shift_right<const N: i32>(self, x: Self::B) -> Self::B;
    /// Each byte shifted left; what enters below is the neighbour's, so the upper `N` bits must be 0.
    fn bytes_shift_left<const N: i32>(self, x: Self::B) -> Self::B;
    /// `table[code]` for each code below 16.
    fn bytes_lookup(self, table: &[i8; LANES], codes: Self::B) -> Self::B;
    /// Unsigned bytes as numbers.
    fn unsigned(self, x: Self::B) -> Self::F;
    /// Signed bytes as numbers.
    fn signed(self, x: Self::B) -> Self::F;
    /// A half as a number.
    fn half(self, bits: u16) -> f32;
    /// Little-endian floats as numbers.
    fn floats(self, bytes: &[u8; 4 * LANES]) -> Self::F;
    /// Little-endian halves as numbers.
    fn halves_to_f32(self, bytes: &[u8; 2 * LANES]) -> Self::F;
    /// Little-endian bfloat16 as numbers.
    fn bf16_to_f32(self, bytes: &[u8; 2 * LANES]) -> Self::F;

    /// The low and the high nibbles.
    #[inline(always)]
    fn nibbles(self, x: Self::B) -> [Self::B; 2] {
        let mask = self.bytes_splat(15);
        [self.bytes_and(x, mask), self.bytes_and(self.bytes_shift_right::<4>(x), mask)]
    }

    /// The first lanes from a slice shorter than a vector, zeros after it.
    #[inline(always)]
    fn load_part(self, from: &[f32]) -> Self::F {
        let mut lanes = [0.0; LANES];
        lanes[..from.len()].copy_from_slice(from);
        self.load(&lanes)
    }

    /// e^x to about one unit in the last place, for x clamped to ±87. NaN stays NaN.
    ///
    /// x = n·ln 2 + r with integer n, and e^r by its Taylor series to r^7: |r| ≤ 0.35 leaves 5e-9.
    #[inline(always)]
    fn exp(self, x: Self::F) -> Self::F {
        let (power, r, two) = self.exp_parts(x);
        self.mul(self.mul_add(power, r, self.splat(1.0)), two)
    }

    /// tanh(x) to a few units in the last place, near 0 too. NaN stays NaN.
    ///
    /// With d = e^2x − 1 it is d / (d + 2), and d = 2^n·(e^r − 1) + (2^n − 1) loses nothing where x is small.
    #[inline(always)]
    fn tanh(self, x: Self::F) -> Self::F {
        // From 10 on the result is 1.
        let x = self.min(self.splat(10.0), self.max(self.splat(-10.0), x));
        let (power, r, two) = self.exp_parts(self.add(x, x));
        let d = self.mul_add(self.mul(power, r), two, self.sub(two, self.splat(1.0)));
        self.div(d, self.add(d, self.splat(2.0)))
    }

    /// (e^r − 1) / r, r and 2^n for x = n·ln 2 + r: see [`exp`](Self::exp).
    #[inline(always)]
    fn exp_parts(self, x: Self::F) -> (Self::F, Self::F, Self::F) {
        /// ln 2 in two parts: products of the first with small integers are exact.
        const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
        const SERIES: [f32; 7] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0];
        // Of two operands with a NaN, `max` and `min` give the second: so a NaN goes through, and is seen at the end.
        let x = self.min(self.splat(87.0), self.max(self.splat(-87.0), x));
        let rounded = self.add(self.mul(x, self.splat(std::f32::consts::LOG2_E)), self.splat(ROUND));
        let n = self.sub(rounded, self.splat(ROUND));
        let r = self.mul_add(n, self.splat(-LN_2.0), x);
        let r = self.mul_add(n, self.splat(-LN_2.1), r);
        let mut power = self.splat(SERIES[0]);
        for term in &SERIES[1..] {
            power = self.mul_add(power, r, self.splat(*term));
        }
        (power, r, self.power_of_two(rounded))
    }
}

/// Splits a slice into whole vectors and the rest.
#[inline(always)]
pub(crate) fn lanes(x: &[f32]) -> (&[Lanes], &[f32]) {
    x.as_chunks()
}

#[cfg(test)]
mod tests {
    use super::super::isa::{Isa, Kernel};
    use super::*;

    struct ExpOfNan;

    impl Kernel for ExpOfNan {
        type Output = Lanes;

        fn run<S: Simd>(self, s: S) -> Lanes {
            let mut lanes = [0.0; LANES];
            s.store(s.exp(s.splat(f32::NAN)), &mut lanes);
            lanes
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for isa in Isa::all() {
            assert!(isa.run(ExpOfNan).iter().all(|x| x.is_nan()), "{isa:?}");
        }
    }

    struct Check;

    impl Kernel for Check {
        type Output = Vec<f32>;

        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let ramp: Lanes = std::array::from_fn(|i| i as f32 - 7.5);
            let x = s.load(&ramp);
            let mut all = Vec::new();
            let mut keep = |x: S::F| {
                let mut lanes = [f32::NAN; LANES];
                s.store(x, &mut lanes);
                all.extend(lanes);
            };
            keep(s.add(x, s.splat(1.0)));
            keep(s.sub(x, s.splat(1.0)));
            keep(s.mul(x, x));
            keep(s.div(x, s.splat(4.0)));
            keep(s.max(x, s.splat(0.0)));
            keep(s.min(x, s.splat(0.0)));
            keep(s.mul_add(x, x, x));
            keep(s.power_of_two(s.add(x, s.splat(ROUND))));
            keep(s.low_and_high(3.0, -4.0));
            let bytes = s.bytes(&std::array::from_fn(|i| 17 * i as u8));
            let other = s.bytes_of_words(0x0123_4567_89ab_cdef, 0x1122_3344_5566_7788);
            keep(s.unsigned(bytes));
            keep(s.signed(other));
            keep(s.unsigned(s.bytes_and(bytes, other)));
            keep(s.unsigned(s.bytes_or(bytes, other)));
            keep(s.unsigned(s.bytes_xor(bytes, other)));
            keep(s.unsigned(s.bytes_sub(bytes, other)));
            keep(s.unsigned(s.bytes_of_bits(0b1010_0000_1111_0001)));
            keep(s.unsigned(s.bytes_and(s.bytes_shift_right::<2>(other), s.bytes_splat(3))));
            keep(s.unsigned(s.bytes_shift_left::<2>(s.bytes_and(other, s.bytes_splat(3)))));
            for nibbles in s.nibbles(other) {
                keep(s.unsigned(nibbles));
                keep(s.signed(s.bytes_lookup(&std::array::from_fn(|i| 3 * i as i8 - 20), nibbles)));
            }
            let halves = std::array::from_fn(|i| 7 * i as u8);
            keep(s.halves_to_f32(&halves));
            keep(s.bf16_to_f32(&halves));
            keep(s.floats(&std::array::from_fn(|i| 7 * (i % 16) as u8)));
            all_halves(s, &mut keep);
            keep(s.load_part(&ramp[..5]));
            keep(s.select(0b1010_0000_1111_0001, x, s.splat(9.0)));
            let mut square: [S::F; LANES] = [x; LANES];
            for (i, row) in square.iter_mut().enumerate() {
                *row = s.mul_add(s.splat(16.0), s.splat(i as f32), x);
            }
            s.transpose(&mut square);
            for row in square {
                keep(row);
            }
            all.push(s.sum(s.mul(x, s.splat(0.1))));
            all.push(s.largest(s.mul(x, x)));
            all.push(s.largest(s.sub(s.splat(-1.0), x)));
            all
        }
    }

    /// Every half that is a number, with the subnormal ones.
    fn all_halves<S: Simd>(s: S, keep: &mut impl FnMut(S::F)) {
        for bits in (0..0x7c00).step_by(5).chain(0x8000..0x8410) {
            keep(s.splat(s.half(bits)));
        }
    }

    #[test]
    fn every_instruction_set_does_the_same() {
        let portable = Isa::PORTABLE.run(Check);
        for isa in Isa::all() {
            assert_eq!(isa.run(Check), portable, "{}", isa.name());
        }
    }

    struct Transposed;

    impl Kernel for Transposed {
        type Output = [Lanes; LANES];

        fn run<S: Simd>(self, s: S) -> [Lanes; LANES] {
            let mut square = [s.splat(0.0); LANES];
            for (i, row) in square.iter_mut().enumerate() {
                *row = s.load(&std::array::from_fn(|j| (LANES * i + j) as f32));
            }
            s.transpose(&mut square);
            let mut out = [[0.0; LANES]; LANES];
            for (row, out) in square.into_iter().zip(&mut out) {
                s.store(row, out);
            }
            out
        }
    }

    #[test]
    fn rows_become_columns() {
        for isa in Isa::all() {
            for (j, row) in isa.run(Transposed).iter().enumerate() {
                assert_eq!(*row, std::array::from_fn(|i| (LANES * i + j) as f32), "{}", isa.name());
            }
        }
    }

    struct Tanh(Lanes);

    impl Kernel for Tanh {
        type Output = Lanes;

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Lanes {
            let mut out = [0.0; LANES];
            s.store(s.tanh(s.load(&self.0)), &mut out);
            out
        }
    }

    #[test]
    fn tanh_is_within_a_few_units_in_the_last_place() {
        for isa in Isa::all() {
            for step in 0..20_000 {
                // From 1e-6 to 22, in equal ratios, of either sign.
                let x: Lanes = std::array::from_fn(|i| {
                    let x = 1e-6 * f32::powf(2.2e7, (step * LANES + i) as f32 / 320_000.0);
                    if i % 2 == 0 { x } else { -x }
                });
                for (x, y) in x.iter().zip(isa.run(Tanh(x))) {
                    let exact = f64::from(*x).tanh();
                    assert!((f64::from(y) / exact - 1.0).abs() < 4e-7, "{} tanh({x}) = {y}", isa.name());
                }
            }
            assert_eq!(isa.run(Tanh([0.0; LANES])), [0.0; LANES]);
            assert!(isa.run(Tanh([f32::NAN; LANES])).iter().all(|x| x.is_nan()));
            assert_eq!(isa.run(Tanh([f32::NEG_INFINITY; LANES])), [-1.0; LANES]);
        }
    }

    struct Exp(Lanes);

    impl Kernel for Exp {
        type Output = Lanes;

        fn run<S: Simd>(self, s: S) -> Lanes {
            let mut out = [0.0; LANES];
            s.store(s.exp(s.load(&self.0)), &mut out);
            out
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for isa in Isa::all() {
            for step in 0..40_000 {
                let x: Lanes = std::array::from_fn(|i| (step * 16 + i) as f32 * (174.0 / 640_000.0) - 87.0);
                for (x, y) in x.iter().zip(isa.run(Exp(x))) {
                    let exact = f64::from(*x).exp();
                    assert!((f64::from(y) / exact - 1.0).abs() < 2.5e-7, "{} exp({x}) = {y}", isa.name());
                }
            }
            assert_eq!(isa.run(Exp([0.0; LANES])), [1.0; LANES]);
            assert!(isa.run(Exp([f32::NEG_INFINITY; LANES]))[0] < 1.7e-38);
        }
    }
}
