//! Activations, sums of rows, and the vectors of tokens.

use kernels::cpu::OutputGate;
use kernels::cuda::{
    Arena, Change, Joining, Matrix, Output, Quantized, Rows, WeightedRows, add, add_weighted, change, gate_rows, gated,
    lookup, scale_rows, supports, unpack,
};
use kernels::reference;
use plan::QuantType;

use crate::card::{download, gpu, numbers_of, poisoned, upload};
use crate::common::{Draw, assert_close, bits};

/// An exponential and a division, relative to numbers up to some 60.
const TOLERANCE: f32 = 2e-5;

#[test]
fn gates_open_what_is_beside_them() {
    let Some(gpu) = gpu() else { return };
    for (rows, width) in [(1, 1), (3, 45), (2, 1056), (5, 2048), (1, 18_432)] {
        let numbers: Vec<f32> = Draw(width as u64).numbers(rows * 2 * width).iter().map(|x| 9.0 * x).collect();
        let both = upload(gpu, &numbers);
        let half = |first: usize| {
            numbers.chunks(2 * width).flat_map(|row| row[first..first + width].to_vec()).collect::<Vec<_>>()
        };
        let (gates, ups) = (half(0), half(width));
        for joining in [Joining::Silu, Joining::Gelu, Joining::Clamped { limit: 7.0, alpha: 1.702 }] {
            let mut out = poisoned(gpu, rows * width);
            let part = |first: usize| Rows { numbers: both.slice().range(first..), step: 2 * width };
            let mut arena = Arena::new(gpu, "a test", Quantized::bytes(width, rows)).unwrap();
            let mut columns = Quantized::new(&mut arena, width, rows).unwrap();
            let rounds = width % 32 == 0;
            let mut numbers = out.slice_mut();
            let to = Output { numbers: Some(&mut numbers), rounded: rounds.then_some(&mut columns) };
            gated(gpu.compute(), joining, part(0), part(width), rows, width, to).unwrap();
            let found = download(gpu, out.slice());
            let mut wanted = vec![f32::NAN; rows * width];
            match joining {
                Joining::Silu => reference::silu_mul(&gates, &ups, &mut wanted),
                Joining::Gelu => reference::gelu_tanh_mul(&gates, &ups, &mut wanted),
                Joining::Clamped { limit, alpha } => {
                    reference::swiglu_clamped_mul(&gates, &ups, limit, alpha, &mut wanted);
                }
            }
            assert_close(&format!("{joining:?} of {rows} × {width}"), &found, &wanted, |_| 1.0, TOLERANCE);
            if rounds {
                assert_eq!(numbers_of(gpu, &columns), reference::rounded(&found, width), "{joining:?} rounded");
            }
        }
        for kind in [OutputGate::Silu, OutputGate::Sigmoid] {
            let (mut x, mut wanted) = (upload(gpu, &ups), ups.clone());
            let gates = Rows { numbers: both.slice(), step: 2 * width };
            gate_rows(gpu.compute(), kind, &mut x.slice_mut(), gates, width).unwrap();
            reference::gate_rows(kind, &mut wanted, &numbers, width, 2 * width, 0);
            assert_close("gates", &download(gpu, x.slice()), &wanted, |_| 1.0, TOLERANCE);
        }
    }
}

#[test]
fn numbers_change_one_by_one() {
    let Some(gpu) = gpu() else { return };
    let x: Vec<f32> = Draw(5).numbers(1037).iter().map(|x| 40.0 * x).collect();
    for by in [Change::Scale(0.3), Change::Sigmoid, Change::SoftCap(30.0)] {
        let mut on_card = upload(gpu, &x);
        change(gpu.compute(), &mut on_card.slice_mut(), by).unwrap();
        let changed = |x: f64| match by {
            Change::Scale(factor) => x * f64::from(factor),
            Change::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Change::SoftCap(cap) => f64::from(cap) * (x / f64::from(cap)).tanh(),
        };
        let wanted: Vec<f32> = x.iter().map(|x| changed(f64::from(*x)) as f32).collect();
        assert_close(&format!("{by:?}"), &download(gpu, on_card.slice()), &wanted, |_| 30.0, 1e-6);
    }
}

#[test]
fn rows_are_added_and_weighed() {
    let Some(gpu) = gpu() else { return };
    let mut draw = Draw(8);
    for (rows, width) in [(1, 5), (3, 300), (4, 1024)] {
        let (x, bias, factors) = (draw.numbers(rows * width), draw.numbers(width), draw.numbers(rows));
        let mut on_card = upload(gpu, &x);
        add(gpu.compute(), &mut on_card.slice_mut(), upload(gpu, &bias).slice()).unwrap();
        scale_rows(gpu.compute(), &mut on_card.slice_mut(), upload(gpu, &factors).slice(), width).unwrap();
        let mut sum: Vec<f32> = (0..x.len()).map(|i| (x[i] + bias[i % width]) * factors[i / width]).collect();
        assert_eq!(bits(&download(gpu, on_card.slice())), bits(&sum), "{rows} × {width}");

        // Rows count from 5; the last place of each row names none of them, by turns below and beyond.
        let (y, weights) = (draw.numbers(7 * width), draw.numbers(rows * 3));
        let places: Vec<u32> = (0..rows * 3)
            .map(|i| if i % 3 == 2 { 4 + 8 * (i as u32 % 2) } else { 5 + draw.bits() as u32 % 7 })
            .collect();
        let (y_there, places_there, weights_there) = (upload(gpu, &y), upload(gpu, &places), upload(gpu, &weights));
        let first = 5;
        let weighted = WeightedRows {
            y: y_there.slice(),
            places: places_there.slice(),
            first,
            weights: weights_there.slice(),
            used: 3,
        };
        add_weighted(gpu.compute(), &mut on_card.slice_mut(), &weighted, width).unwrap();
        for (i, (place, weight)) in places.iter().zip(&weights).enumerate().filter(|(i, _)| i % 3 < 2) {
            let row = &mut sum[i / 3 * width..][..width];
            row.iter_mut()
                .zip(&y[(*place - first) as usize * width..])
                .for_each(|(sum, y)| *sum = weight.mul_add(*y, *sum));
        }
        assert_close("weighted rows", &download(gpu, on_card.slice()), &sum, |_| 3.0, 1e-6);
    }
}

#[test]
fn vectors_of_tokens_come_out_of_every_type() {
    let Some(gpu) = gpu() else { return };
    for quant in QuantType::ALL.iter().copied().filter(|quant| supports(*quant)) {
        let (rows, width) = (9, 3 * quant.block_elements().max(96));
        let weights = Draw(u64::from(quant.id())).blocks(quant, rows * width);
        let mut unpacked = vec![f32::NAN; rows * width];
        reference::dequantize(quant, &weights, &mut unpacked);
        let there = upload(gpu, &weights);
        let matrix = Matrix { quant, weights: there.slice(), rows, width };
        // A row that is not there gives the last.
        let ids = [3, 0, 8, 3, 100];
        let mut out = poisoned(gpu, ids.len() * width);
        lookup(gpu.compute(), &matrix, upload(gpu, &ids).slice(), 2.0, &mut out.slice_mut()).unwrap();
        let wanted: Vec<f32> =
            ids.iter().flat_map(|id| &unpacked[(*id as usize).min(8) * width..][..width]).map(|x| 2.0 * x).collect();
        let size = |i: usize| wanted[i / 32 * 32..][..32].iter().fold(f32::MIN_POSITIVE, |max, x| max.max(x.abs()));
        assert_close(quant.name(), &download(gpu, out.slice()), &wanted, size, 1e-6);
        let mut all = poisoned(gpu, rows * width);
        unpack(gpu.compute(), &matrix, -2.0, &mut all.slice_mut()).unwrap();
        let wanted: Vec<f32> = unpacked.iter().map(|x| -2.0 * x).collect();
        let size = |i: usize| wanted[i / 32 * 32..][..32].iter().fold(f32::MIN_POSITIVE, |max, x| max.max(x.abs()));
        assert_close(quant.name(), &download(gpu, all.slice()), &wanted, size, 1e-6);
    }
}
