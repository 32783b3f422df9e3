//! Products with many columns, alone and by lists of matrices.

use kernels::cuda::{
    Arena, JOB_COLUMNS, JobList, JobRoom, Matrix, in_floats, in_integers, matmul, matmul_floats, supports,
};
use kernels::reference;
use plan::QuantType;

use crate::card::{download, gpu, numbers_of, poisoned, quantized, upload};
use crate::common::{Draw, assert_close};

/// Rounding of sums of up to a few thousand `f32` products, relative to the sum of their magnitudes. Types with minima join two such sums,
/// and were seen at 2.7e-6 on an H100.
const TOLERANCE: f32 = 4e-6;

/// `Σ w·x` and `Σ |w·x|` of every row with every column, in `f64`.
fn products(quant: QuantType, weights: &[u8], rows: usize, x: &[f32], width: usize) -> (Vec<f32>, Vec<f32>) {
    let mut unpacked = vec![0.0; rows * width];
    reference::dequantize(quant, weights, &mut unpacked);
    let sum = |w: &[f32], x: &[f32], f: fn(f64) -> f64| {
        w.iter().zip(x).map(|(w, x)| f(f64::from(*w) * f64::from(*x))).sum::<f64>() as f32
    };
    let all =
        |f: fn(f64) -> f64| x.chunks(width).flat_map(|x| unpacked.chunks(width).map(move |w| sum(w, x, f))).collect();
    (all(|x| x), all(f64::abs))
}

#[test]
fn every_type_with_few_and_many_columns() {
    let Some(gpu) = gpu() else { return };
    for quant in QuantType::ALL.iter().copied().filter(|quant| supports(*quant)) {
        // Rows, numbers of a row by 32, columns, bytes before the matrix.
        for (rows, groups, columns, before) in
            [(1, 1, 1, 0), (130, 11, 31, 2), (65, 3, 33, 6), (128, 16, 128, 0), (300, 25, 141, 14), (7, 40, 300, 16)]
        {
            let width = (groups * 32_usize).next_multiple_of(quant.block_elements());
            let mut draw = Draw(u64::from(quant.id()) << 32 | (rows * columns) as u64);
            let (weights, x) = (draw.blocks(quant, rows * width), draw.numbers(columns * width));
            // The oddest address that blocks of the type can have.
            let before = before >> 1 << quant.block_bytes().trailing_zeros().min(4);
            let there = upload(gpu, &[vec![0xff; before], weights.clone()].concat());
            let matrix = Matrix { quant, weights: there.slice().range(before..), rows, width };
            let step = rows + 3;
            let mut out = poisoned(gpu, columns * step);
            let x = if in_floats(quant) {
                let on_card = upload(gpu, &x);
                matmul_floats(gpu.compute(), &matrix, on_card.slice(), &mut out.slice_mut(), step).unwrap();
                x
            } else {
                let rounded = quantized(gpu, &x, width);
                matmul(gpu.compute(), &matrix, &rounded, &mut out.slice_mut(), step).unwrap();
                numbers_of(gpu, &rounded)
            };
            let (expected, sizes) = products(quant, &weights, rows, &x, width);
            let found = download(gpu, out.slice());
            let what = format!("{quant}: {rows} × {width} times {columns}");
            let products: Vec<f32> = found.chunks(step).flat_map(|column| &column[..rows]).copied().collect();
            assert_close(&what, &products, &expected, |i| sizes[i] + 1e-30, TOLERANCE);
            let between = found.chunks(step).flat_map(|column| &column[rows..]);
            assert!(between.copied().all(f32::is_nan), "{what}: what lies between outputs is not written");
        }
    }
}

#[test]
fn a_list_of_matrices_takes_each_its_own_columns() {
    let Some(gpu) = gpu() else { return };
    let mut draw = Draw(77);
    let mut arena = Arena::new(gpu, "lists", JobRoom::bytes(10, 2 * (JOB_COLUMNS + 27))).unwrap();
    let mut room = JobRoom::new(gpu, &mut arena, 10, 2 * (JOB_COLUMNS + 27)).unwrap();
    for quant in QuantType::ALL.iter().copied().filter(|quant| in_integers(*quant)) {
        let (rows, width, tokens) = (70, 512, 50);
        let x = draw.numbers(tokens * width);
        let rounded = quantized(gpu, &x, width);
        let x = numbers_of(gpu, &rounded);
        let weights: Vec<Vec<u8>> = (0..4).map(|_| draw.blocks(quant, rows * width)).collect();
        let there: Vec<_> = weights.iter().map(|weights| upload(gpu, weights)).collect();
        let wide = draw.bits().is_multiple_of(2);
        let mut list = if wide { JobList::wide() } else { JobList::default() };
        let mut expected = (Vec::new(), Vec::new());
        for (expert, count) in [(2, 1), (0, 0), (3, JOB_COLUMNS + 9), (1, 17)] {
            let columns: Vec<u32> = (0..count).map(|_| draw.bits() as u32 % tokens as u32).collect();
            let matrix = Matrix { quant, weights: there[expert].slice(), rows, width };
            list.push(&matrix, columns.iter().copied());
            let x: Vec<f32> = columns.iter().flat_map(|c| &x[*c as usize * width..][..width]).copied().collect();
            let (products, sizes) = products(quant, &weights[expert], rows, &x, width);
            expected.0.extend(products);
            expected.1.extend(sizes);
        }
        // Twice in the room's length, and once more when it was emptied.
        for emptied in [false, false, true] {
            if emptied {
                room.empty().unwrap();
            }
            let mut out = poisoned(gpu, list.outputs() * rows);
            room.multiply(&list, &rounded, &mut out.slice_mut(), rows).unwrap();
            let found = download(gpu, out.slice());
            assert_close(quant.name(), &found, &expected.0, |i| expected.1[i] + 1e-30, TOLERANCE);
        }
        room.empty().unwrap();
    }
}
