//! Products with many columns, alone and by lists of matrices.

use kernels::cuda::{
    Arena, HalvesRoom, JOB_COLUMNS, JobList, JobRoom, Matrix, in_floats, in_integers, matmul, matmul_floats, supports,
};
use kernels::reference;
use plan::QuantType;

use crate::card::{download, gpu, numbers_of, poisoned, quantized, upload};
use crate::common::{Draw, assert_close};

/// Rounding of sums of up to a few thousand `f32` products, relative to the sum of their magnitudes. Minima are multiplied as two parts each,
/// without the product of the small ones: 2^-17 of the whole, of which 4.4e-6 was seen on an H100.
const TOLERANCE: f32 = 7.7e-6;

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

/// What two numbers of a product lose as halves, relative to the sum of their products' sizes: 2^-11 each at most, and mostly less.
const HALVES_TOLERANCE: f32 = 6e-4;

#[test]
fn every_type_by_way_of_halves() {
    let Some(gpu) = gpu() else { return };
    let mut arena = Arena::new(gpu, "halves", plan::cost::gpu::halves((8, 0), 2048)).unwrap();
    let mut room = HalvesRoom::new(&mut arena).unwrap();
    for quant in QuantType::ALL.iter().copied().filter(|quant| HalvesRoom::serves(*quant, 1024)) {
        // Rows, numbers of a row by 32, columns: the second has rows that are cut, the last columns.
        for (rows, groups, columns) in [(1, 1, 1), (70, 33 * 8, 40), (130, 11, 257), (9, 3, 2100)] {
            let width = (groups * 32_usize).next_multiple_of(quant.block_elements());
            let mut draw = Draw(u64::from(quant.id()) << 32 | (rows * columns) as u64);
            let (weights, mut x) = (draw.blocks(quant, rows * width), draw.numbers(columns * width));
            // Columns beyond what halves hold, and so small that they would hold nothing.
            for (column, x) in x.chunks_mut(width).enumerate() {
                let size = [1.0, 1e7, 1e-9, 0.0][column % 4];
                for x in x.iter_mut() {
                    *x *= size;
                }
            }
            let there = upload(gpu, &weights);
            let matrix = Matrix { quant, weights: there.slice(), rows, width };
            let (rounded, step) = (quantized(gpu, &x, width), rows + 3);
            let x = numbers_of(gpu, &rounded);
            let mut out = poisoned(gpu, columns * step);
            room.multiply(gpu.compute(), &matrix, &rounded, &mut out.slice_mut(), step).unwrap();
            let (expected, sizes) = products(quant, &weights, rows, &x, width);
            let found = download(gpu, out.slice());
            let what = format!("{quant} by way of halves: {rows} × {width} times {columns}");
            let products: Vec<f32> = found.chunks(step).flat_map(|column| &column[..rows]).copied().collect();
            assert_close(&what, &products, &expected, |i| sizes[i] + 1e-30, HALVES_TOLERANCE);
            let between = found.chunks(step).flat_map(|column| &column[rows..]);
            assert!(between.copied().all(f32::is_nan), "{what}: what lies between outputs is not written");
        }
    }
}

#[test]
fn rows_that_are_cut_to_fit_a_room_of_halves_are_all_there() {
    let Some(gpu) = gpu() else { return };
    let mut arena = Arena::new(gpu, "halves", plan::cost::gpu::halves((8, 0), 2048)).unwrap();
    let mut room = HalvesRoom::new(&mut arena).unwrap();
    let (quant, rows, width, columns) = (QuantType::Q4K, 7000, 8448, 300);
    let mut draw = Draw(5);
    let pattern = draw.blocks(quant, 37 * width);
    let weights: Vec<u8> = pattern.iter().copied().cycle().take(pattern.len() / 37 * rows).collect();
    let x = draw.numbers(columns * width);
    let there = upload(gpu, &weights);
    let rounded = quantized(gpu, &x, width);
    let multiply = |room: &mut HalvesRoom, first: usize, rows: usize| {
        let bytes = pattern.len() / 37;
        let weights = there.slice().range(first * bytes..(first + rows) * bytes);
        let mut out = poisoned(gpu, columns * rows);
        let matrix = Matrix { quant, weights, rows, width };
        room.multiply(gpu.compute(), &matrix, &rounded, &mut out.slice_mut(), rows).unwrap();
        download(gpu, out.slice())
    };
    let whole = multiply(&mut room, 0, rows);
    let (expected, sizes) = products(quant, &pattern, 37, &numbers_of(gpu, &rounded), width);
    let first: Vec<f32> = whole.chunks(rows).flat_map(|column| &column[..37]).copied().collect();
    assert_close("the first rows", &first, &expected, |i| sizes[i] + 1e-30, HALVES_TOLERANCE);
    for (column, found) in whole.chunks(rows).enumerate() {
        for (row, found) in found.iter().enumerate() {
            assert!(found.to_bits() == whole[column * rows + row % 37].to_bits(), "row {row} of column {column}");
        }
    }
    // No output depends on the rows beside it.
    let few = multiply(&mut room, 37, 40);
    for (whole, few) in whole.chunks(rows).zip(few.chunks(40)) {
        assert!(whole[37..77].iter().zip(few).all(|(whole, few)| whole.to_bits() == few.to_bits()));
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
