//! Every type's product with one to eight columns, at odd shapes and addresses.

use kernels::cuda::{self, Gpu, Matrix, in_floats, in_integers, matvec, matvec_floats};
use kernels::reference;
use plan::QuantType;

use crate::card::{download, gpu, numbers_of, poisoned, quantized, upload};
use crate::common::{Draw, assert_close, bits};

/// Rounding of sums of up to a few thousand `f32` products, relative to the sum of their magnitudes.
const SUM_TOLERANCE: f32 = 2e-6;

/// Rows, blocks of a row (or numbers, for floats), columns, bytes before the matrix.
const SHAPES: [(usize, usize, usize, usize); 9] = [
    (1, 1, 1, 0),
    (1, 1, 8, 2),
    (2, 3, 2, 6),
    (3, 2, 3, 14),
    (17, 5, 4, 0),
    (33, 7, 5, 10),
    (64, 1, 6, 0),
    (31, 11, 7, 4),
    (300, 9, 8, 8),
];

/// Needs no card: what planners are told beforehand is what kernels were compiled for.
#[test]
fn a_plan_knows_which_types_have_kernels() {
    for quant in QuantType::ALL {
        assert_eq!(plan::gpu::supports(*quant), cuda::supports(*quant), "{quant}");
    }
}

struct Case {
    quant: QuantType,
    rows: usize,
    width: usize,
    columns: usize,
    weights: Vec<u8>,
    x: Vec<f32>,
}

impl Case {
    fn new(quant: QuantType, rows: usize, width: usize, columns: usize) -> Self {
        let mut draw = Draw(u64::from(quant.id()) << 40 | (rows << 24 | width << 8 | columns) as u64);
        let (weights, x) = (draw.blocks(quant, rows * width), draw.numbers(columns * width));
        Self { quant, rows, width, columns, weights, x }
    }

    /// The product on the card, whose outputs lie `stride` apart, and its inputs as the card rounded them.
    fn run(&self, gpu: &Gpu, before: usize, stride: usize, add: Option<f32>) -> (Vec<f32>, Vec<f32>) {
        let bytes = [vec![0xff; before], self.weights.clone()].concat();
        let buffer = upload(gpu, &bytes);
        let (quant, rows, width) = (self.quant, self.rows, self.width);
        let matrix = Matrix { quant, weights: buffer.slice().range(before..), rows, width };
        let mut out = match add {
            Some(number) => upload(gpu, &vec![number; stride * self.columns]),
            None => poisoned(gpu, stride * self.columns),
        };
        let mut to = out.slice_mut();
        let x = if in_floats(quant) {
            let x = upload(gpu, &self.x);
            matvec_floats(gpu.compute(), &matrix, x.slice(), &mut to, stride, add.is_some()).unwrap();
            self.x.clone()
        } else {
            let columns = quantized(gpu, &self.x, width);
            matvec(gpu.compute(), &matrix, &columns, &mut to, stride, add.is_some()).unwrap();
            numbers_of(gpu, &columns)
        };
        (download(gpu, out.slice()), x)
    }
}

/// `Σ w·x` and `Σ |w·x|` of every row with every column, in `f64`.
fn products(case: &Case, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let mut weights = vec![0.0; case.rows * case.width];
    reference::dequantize(case.quant, &case.weights, &mut weights);
    let sum = |w: &[f32], x: &[f32], f: fn(f64) -> f64| {
        w.iter().zip(x).map(|(w, x)| f(f64::from(*w) * f64::from(*x))).sum::<f64>() as f32
    };
    let all = |f: fn(f64) -> f64| {
        x.chunks(case.width).flat_map(|x| weights.chunks(case.width).map(move |w| sum(w, x, f))).collect()
    };
    (all(|x| x), all(f64::abs))
}

fn types() -> impl Iterator<Item = QuantType> {
    QuantType::ALL.iter().copied().filter(|quant| cuda::supports(*quant))
}

#[test]
fn supported_types_are_those_that_the_reference_reads() {
    assert_eq!(types().count(), 23);
    for quant in types() {
        assert!(reference::supports(quant) && in_integers(quant) != in_floats(quant), "{quant}");
    }
}

#[test]
fn every_type_agrees_with_the_reference_at_every_shape() {
    let Some(gpu) = gpu() else { return };
    for quant in types() {
        for (rows, blocks, columns, before) in SHAPES {
            // Rows of floats of lengths that are no multiple of anything, and long ones.
            let width = blocks * if in_floats(quant) { 37 } else { quant.block_elements() };
            // The oddest address that blocks of the type can have.
            let before = before >> 1 << quant.block_bytes().trailing_zeros().min(4);
            let case = Case::new(quant, rows, width, columns);
            let (found, x) = case.run(gpu, before, rows, None);
            let (expected, sizes) = products(&case, &x);
            let what = format!("{quant} {rows}×{width} by {columns}");
            assert_close(&what, &found, &expected, |i| sizes[i] + f32::MIN_POSITIVE, SUM_TOLERANCE);
        }
    }
}

#[test]
fn long_rows_and_many_of_them_agree_with_the_reference() {
    let Some(gpu) = gpu() else { return };
    for quant in types() {
        for (rows, width, columns) in [
            (5, 18_432, 1),
            (2049, 512, 1),
            (1030, 2048, 2),
            (37, 7168, 4),
            (40, 14_336, 8),
            (9, 5120, 3),
            (600, 256, 8),
        ] {
            let case = Case::new(quant, rows, width, columns);
            let (found, x) = case.run(gpu, 0, rows, None);
            let (expected, sizes) = products(&case, &x);
            let what = format!("{quant} {rows}×{width} by {columns}");
            assert_close(&what, &found, &expected, |i| sizes[i] + f32::MIN_POSITIVE, 2.0 * SUM_TOLERANCE);
        }
    }
}

#[test]
fn a_column_alone_gives_the_bits_that_it_gives_among_others() {
    let Some(gpu) = gpu() else { return };
    for quant in types() {
        let case = Case::new(quant, 19, 1024, 7);
        let (all, _) = case.run(gpu, 0, 19, None);
        for (column, expected) in case.x.chunks(1024).zip(all.chunks(19)) {
            let alone = Case { columns: 1, x: column.to_vec(), weights: case.weights.clone(), ..case };
            assert_eq!(bits(&alone.run(gpu, 0, 19, None).0), bits(expected), "{quant}");
        }
    }
}

#[test]
fn outputs_land_at_their_stride_or_are_added() {
    let Some(gpu) = gpu() else { return };
    for quant in [QuantType::Q6K, QuantType::F16] {
        let case = Case::new(quant, 5, 512, 3);
        let (plain, _) = case.run(gpu, 0, 5, None);
        let (apart, _) = case.run(gpu, 0, 11, None);
        for (t, row) in apart.chunks(11).enumerate() {
            assert_eq!(bits(&row[..5]), bits(&plain[t * 5..][..5]), "{quant}");
            assert!(row[5..].iter().all(|x| x.is_nan()), "{quant}: nothing beside the rows");
        }
        let (added, _) = case.run(gpu, 0, 5, Some(1.5));
        assert_eq!(bits(&added), bits(&plain.iter().map(|x| 1.5 + x).collect::<Vec<_>>()), "{quant}");
    }
}
