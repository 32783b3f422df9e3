//! The matrix product against the reference, and the promise that no cut of the matrix changes a bit.

mod common;

use common::{Draw, assert_close, bits, pools};
use kernels::{cpu, reference};
use plan::QuantType;
use proptest::prelude::*;

/// Rounding of sums of up to a few thousand `f32` products, relative to the sum of their magnitudes.
const SUM_TOLERANCE: f32 = 1e-6;

fn supported() -> impl Iterator<Item = QuantType> {
    QuantType::ALL.iter().copied().filter(|quant| cpu::supports(*quant))
}

struct Case {
    quant: QuantType,
    rows: usize,
    k: usize,
    m: usize,
    weights: Vec<u8>,
    x: Vec<f32>,
}

impl Case {
    fn new(quant: QuantType, rows: usize, k: usize, m: usize) -> Self {
        let mut draw = Draw(u64::from(quant.id()) << 40 | (rows << 24 | k << 8 | m) as u64);
        let (weights, x) = (draw.blocks(quant, rows * k), draw.numbers(m * k));
        Self { quant, rows, k, m, weights, x }
    }

    fn reference(&self) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.m * self.rows];
        reference::matmul(self.quant, &self.weights, self.rows, self.k, &self.x, self.m, &mut out, self.rows, 0);
        out
    }

    /// The products with columns that are not rounded.
    fn exact(&self) -> Vec<f32> {
        let mut weights = vec![0.0; self.rows * self.k];
        reference::dequantize(self.quant, &self.weights, &mut weights);
        let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        let mut exact = vec![f32::NAN; self.m * self.rows];
        reference::matmul(QuantType::F32, &bytes, self.rows, self.k, &self.x, self.m, &mut exact, self.rows, 0);
        exact
    }

    /// Σ |w·x| for each output.
    fn sizes(&self) -> Vec<f32> {
        let mut w = vec![0.0; self.rows * self.k];
        reference::dequantize(self.quant, &self.weights, &mut w);
        let sum = |w: &[f32], x: &[f32]| w.iter().zip(x).map(|(w, x)| (w * x).abs()).sum();
        self.x.chunks(self.k).flat_map(|x| w.chunks(self.k).map(move |w| sum(w, x))).collect()
    }

    fn run(&self, pool: &cpu::Pool) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.m * self.rows];
        cpu::matmul(pool, self.quant, &self.weights, self.rows, self.k, &self.x, self.m, &mut out, self.rows, 0);
        out
    }
}

fn check(case: &Case) {
    let (reference, sizes) = (case.reference(), case.sizes());
    for (isa, pools) in pools() {
        let what = format!("{isa} {} {}×{} by {}", case.quant, case.rows, case.k, case.m);
        let first = case.run(&pools[0]);
        assert_close(&what, &first, &reference, |i| sizes[i] + f32::MIN_POSITIVE, SUM_TOLERANCE);
        assert_eq!(bits(&case.run(&pools[1])), bits(&first), "{what} on more threads");
    }
}

#[test]
fn every_type_agrees_with_the_reference() {
    for quant in supported() {
        for (rows, blocks, m) in [(1, 1, 1), (7, 2, 3), (5, 5, 1), (33, 1, 17), (3, 9, 6)] {
            check(&Case::new(quant, rows, blocks * quant.block_elements(), m));
        }
    }
}

/// Over 16 rows of many numbers: the mean square of what rounding columns to 8 bits adds, against that of the exact products.
#[test]
fn rounding_columns_costs_less_than_a_two_thousandth_of_the_power() {
    for quant in supported().filter(|quant| cpu::in_integers(*quant)) {
        for m in [1, 9] {
            let case = Case::new(quant, 16, 1024, m);
            let exact = case.exact();
            for (isa, pools) in pools() {
                let found = case.run(&pools[0]);
                let error: f64 = found.iter().zip(&exact).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                let power: f64 = exact.iter().map(|x| f64::from(*x).powi(2)).sum();
                assert!(error <= 5e-4 * power, "{isa} {quant} by {m}: {:e}", error / power);
            }
        }
    }
}

/// Rows, and blocks of a row (of floats: 37 numbers each): one of each, and what fills no panel and no tile.
const ODD_SHAPES: [(usize, usize); 6] = [(1, 1), (1, 5), (15, 2), (16, 1), (17, 3), (37, 2)];

/// Mean squares over all outputs of one to nine columns, since a single output may be near zero by chance.
#[test]
fn every_type_and_odd_shape_is_near_the_exact_products_of_one_to_nine_columns() {
    for quant in supported() {
        let bound = if cpu::in_integers(quant) { 5e-4 } else { 1e-7 };
        for (rows, blocks) in ODD_SHAPES {
            let k = blocks * if quant.block_elements() == 1 { 37 } else { quant.block_elements() };
            let cases: Vec<Case> = (1..=9).map(|m| Case::new(quant, rows, k, m)).collect();
            let exact: Vec<Vec<f32>> = cases.iter().map(Case::exact).collect();
            for (isa, pools) in pools() {
                let (mut error, mut power) = (0.0, 0.0);
                for (case, exact) in cases.iter().zip(&exact) {
                    let found = case.run(&pools[1]);
                    let what = format!("{isa} {quant} {rows}×{k} by {}", case.m);
                    assert_eq!(bits(&case.run(&pools[1])), bits(&found), "{what}, again");
                    assert_eq!(bits(&case.run(&pools[0])), bits(&found), "{what} on one thread");
                    error += found.iter().zip(exact).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
                    power += exact.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
                }
                assert!(error <= bound * power, "{isa} {quant} {rows}×{k}: {:e}", error / power);
            }
        }
    }
}

#[test]
fn instruction_sets_with_fused_sums_give_the_same_bits() {
    for quant in supported().filter(|quant| cpu::in_integers(*quant)) {
        let case = Case::new(quant, 37, 5 * 256, 11);
        let mut all =
            pools().into_iter().filter(|(isa, _)| *isa != "portable").map(|(isa, pools)| (isa, case.run(&pools[0])));
        let Some((first, expected)) = all.next() else { return };
        for (isa, found) in all {
            assert_eq!(bits(&found), bits(&expected), "{quant}: {isa} and {first}");
        }
    }
}

#[test]
fn what_is_not_finite_is_not_hidden() {
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut case = Case::new(QuantType::Q8_0, 3, 320, 2);
        case.x[320 + 300] = wrong;
        for (isa, pools) in pools() {
            let found = case.run(&pools[0]);
            assert!(
                found[..3].iter().all(|x| x.is_finite()) && found[3..].iter().all(|x| x.is_nan()),
                "{isa}: {found:?}"
            );
        }
    }
}

#[test]
fn rows_of_any_length_agree_with_the_reference() {
    for quant in [QuantType::F32, QuantType::F16, QuantType::Bf16] {
        for k in [1, 3, 15, 16, 17, 100, 1023, 1024, 1025, 2100] {
            check(&Case::new(quant, 6, k, 2));
        }
    }
}

#[test]
fn no_cut_of_the_matrix_changes_a_bit() {
    for quant in supported() {
        // Two chunks, and row counts that fill no tile.
        let k = quant.block_elements().max(16) * (1280 / quant.block_elements().max(16));
        let case = Case::new(quant, 41, k, 19);
        let row_bytes = case.weights.len() / case.rows;
        for (isa, pools) in pools() {
            let whole = case.run(&pools[0]);
            for columns in [2, 3, 5, 6] {
                for (first, x) in case.x.chunks(k * columns).enumerate() {
                    let part = &whole[first * columns * case.rows..][..x.len() / k * case.rows];
                    let mut out = vec![f32::NAN; part.len()];
                    let m = x.len() / k;
                    cpu::matmul(&pools[1], quant, &case.weights, case.rows, k, x, m, &mut out, case.rows, 0);
                    assert_eq!(bits(&out), bits(part), "{isa} {quant} by {m} columns");
                }
            }
            for (column, x) in case.x.chunks(k).enumerate() {
                let mut out = vec![f32::NAN; case.rows];
                // One column at a time, and the rows in pieces of 1, 2, 3, … as a ring would bring them.
                let (mut row, mut piece) = (0, 1);
                while row < case.rows {
                    let rows = piece.min(case.rows - row);
                    // Odd addresses: the bytes come at any alignment.
                    let bytes: Vec<u8> = std::iter::once(0)
                        .chain(case.weights[row * row_bytes..][..rows * row_bytes].iter().copied())
                        .collect();
                    cpu::matmul(&pools[1], quant, &bytes[1..], rows, k, x, 1, &mut out, case.rows, row);
                    (row, piece) = (row + rows, piece + 1);
                }
                assert_eq!(bits(&out), bits(&whole[column * case.rows..][..case.rows]), "{isa} {quant}");
            }
        }
    }
}

#[test]
fn outputs_land_at_their_stride_and_offset_and_nowhere_else() {
    let case = Case::new(QuantType::Q8_0, 5, 64, 3);
    let pool = &pools()[0].1[1];
    let plain = case.run(pool);
    let mut out = vec![f32::NAN; 3 * 11];
    cpu::matmul(pool, case.quant, &case.weights, 5, 64, &case.x, 3, &mut out, 11, 4);
    for (t, row) in out.chunks(11).enumerate() {
        assert_eq!(bits(&row[4..9]), bits(&plain[t * 5..][..5]));
        assert!(row[..4].iter().chain(&row[9..]).all(|x| x.is_nan()));
    }
    cpu::matmul(pool, case.quant, &[], 0, 64, &case.x, 3, &mut [], 11, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn odd_shapes_agree_with_the_reference(
        quant in prop::sample::select(supported().collect::<Vec<_>>()),
        rows in 1_usize..70,
        blocks in 1_usize..6,
        m in 1_usize..40,
    ) {
        check(&Case::new(quant, rows, blocks * quant.block_elements(), m));
    }
}
