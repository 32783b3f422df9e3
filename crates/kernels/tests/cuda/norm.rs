//! Norms, with sums before and rounding behind, against the reference.

use kernels::cuda::{Arena, Norm, NormKind, Output, Quantized, add_norm, norm, norm_in_place};
use kernels::reference;

use crate::card::{download, gpu, numbers_of, poisoned, upload};
use crate::common::{Draw, assert_close, bits};

/// Squares, their sum and a root, relative to numbers near 3.
const TOLERANCE: f32 = 3e-6;

/// Rows, width, whether the norm has a weight.
const SHAPES: [(usize, usize, bool); 9] = [
    (1, 1, true),
    (3, 37, false),
    (2, 64, true),
    (5, 100, true),
    (1, 1026, true),
    (4, 2880, false),
    (2, 4096, true),
    (1, 7168, true),
    (2, 18_432, true),
];

fn expected(kind: NormKind, x: &[f32], weight: Option<&[f32]>, n: usize, eps: f32) -> Vec<f32> {
    let mut out = x.to_vec();
    match kind {
        NormKind::Rms => reference::rms_norm(x, weight, n, eps, &mut out),
        NormKind::Layer => reference::layer_norm(x, weight, n, eps, &mut out),
        NormKind::Length => {
            reference::l2_norm(&mut out, n, eps);
            if let Some(weight) = weight {
                out.chunks_mut(n).for_each(|row| row.iter_mut().zip(weight).for_each(|(x, w)| *x *= w));
            }
        }
    }
    out
}

#[test]
fn norms_of_every_kind() {
    let Some(gpu) = gpu() else { return };
    for (rows, width, weighted) in SHAPES {
        for kind in [NormKind::Rms, NormKind::Length, NormKind::Layer] {
            let mut draw = Draw((rows * width) as u64);
            let x: Vec<f32> = draw.numbers(rows * width).iter().map(|x| 3.0 * x + 0.5).collect();
            let weight = weighted.then(|| draw.numbers(width));
            let on_card = weight.as_ref().map(|weight| upload(gpu, weight));
            let rule = Norm { kind, width, weight: on_card.as_ref().map(|weight| weight.slice()), eps: 1e-5 };
            let (mut from, mut out) = (upload(gpu, &x), poisoned(gpu, x.len()));
            norm(gpu.compute(), &rule, from.slice(), Output::numbers(&mut out.slice_mut())).unwrap();
            norm_in_place(gpu.compute(), &rule, &mut from.slice_mut()).unwrap();
            let found = download(gpu, out.slice());
            let what = format!("{kind:?} of {rows} × {width}");
            assert_close(&what, &found, &expected(kind, &x, weight.as_deref(), width, 1e-5), |_| 1.0, TOLERANCE);
            assert_eq!(bits(&download(gpu, from.slice())), bits(&found), "{what} in place");
        }
    }
}

#[test]
fn a_sum_is_normed_and_rounded_in_one_go() {
    let Some(gpu) = gpu() else { return };
    for (rows, width) in [(1, 32), (3, 96), (2, 2880), (1, 7168), (7, 4096)] {
        let mut draw = Draw(width as u64);
        let [x, added] = [(); 2].map(|()| draw.numbers(rows * width));
        let weight = draw.numbers(width);
        let on_card = upload(gpu, &weight);
        let rule = Norm { kind: NormKind::Rms, width, weight: Some(on_card.slice()), eps: 1e-6 };
        let mut arena = Arena::new(gpu, "a test", Quantized::bytes(width, rows)).unwrap();
        let mut columns = Quantized::new(&mut arena, width, rows).unwrap();
        let (mut residual, mut out) = (upload(gpu, &x), poisoned(gpu, x.len()));
        let both = &mut out.slice_mut();
        let to = Output::both(both, &mut columns);
        add_norm(gpu.compute(), &rule, &mut residual.slice_mut(), upload(gpu, &added).slice(), to).unwrap();
        let sum: Vec<f32> = x.iter().zip(&added).map(|(x, y)| x + y).collect();
        assert_eq!(bits(&download(gpu, residual.slice())), bits(&sum), "the sum stays");
        let found = download(gpu, out.slice());
        let wanted = expected(NormKind::Rms, &sum, Some(&weight), width, 1e-6);
        assert_close("the norm of the sum", &found, &wanted, |_| 1.0, TOLERANCE);
        assert_eq!(numbers_of(gpu, &columns), reference::rounded(&found, width), "as it is rounded alone");
    }
}
