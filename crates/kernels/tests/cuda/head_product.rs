//! Products by head, straight and transposed, of every type, at odd shapes and places.

use kernels::cuda::{
    self, DeviceBuffer, Gpu, HeadMatrix, HeadSteps, head_product, head_product_transposed, in_floats, in_integers,
};
use kernels::reference;
use plan::QuantType;

use crate::card::{download, gpu, numbers_of, poisoned, quantized, upload};
use crate::common::{Draw, assert_close, bits};

/// Rounding of sums of up to a few hundred `f32` products, relative to the sum of their magnitudes.
const SUM_TOLERANCE: f32 = 2e-6;

struct Case {
    quant: QuantType,
    heads: usize,
    /// Rows of a head that are used, those before them, and behind them.
    rows: usize,
    others: [usize; 2],
    width: usize,
    tokens: usize,
    transposed: bool,
}

/// What a case is computed from, and where its results lie.
struct Data {
    weights: Vec<u8>,
    /// Each head's column begins some numbers behind the end of the one before.
    x: Vec<f32>,
    from: HeadSteps,
    to: HeadSteps,
}

impl Case {
    const fn inputs(&self) -> usize {
        if self.transposed { self.rows } else { self.width }
    }

    const fn outputs(&self) -> usize {
        if self.transposed { self.width } else { self.rows }
    }

    const fn step(&self) -> usize {
        self.others[0] + self.rows + self.others[1]
    }

    fn data(&self) -> Data {
        let seed = (self.heads << 30 | self.rows << 20 | self.width << 8 | self.tokens) as u64;
        let mut draw = Draw(u64::from(self.quant.id()) << 50 | seed);
        let steps = |count: usize, apart: usize| HeadSteps { head: count + apart, token: self.heads * (count + apart) };
        let (from, to) = (steps(self.inputs(), 3), steps(self.outputs(), 5));
        let weights = draw.blocks(self.quant, self.heads * self.step() * self.width);
        Data { weights, x: draw.numbers(self.tokens * from.token), from, to }
    }

    /// The products of some tokens from `first` on, poison between them.
    fn run(&self, gpu: &Gpu, data: &Data, first: usize, tokens: usize) -> Vec<f32> {
        let Self { quant, heads, rows, width, .. } = *self;
        let row = quant.bytes(width as u64).unwrap().0 as usize;
        let buffer = upload(gpu, &data.weights);
        let weights = buffer.slice().range(self.others[0] * row..);
        let matrix = HeadMatrix { quant, weights, heads, step: self.step(), rows, width };
        let x: DeviceBuffer<f32> = upload(gpu, &data.x[first * data.from.token..]);
        let mut out = poisoned(gpu, tokens * data.to.token);
        let run = if self.transposed { head_product_transposed } else { head_product };
        run(gpu.compute(), &matrix, x.slice(), data.from, &mut out.slice_mut(), data.to, tokens).unwrap();
        download(gpu, out.slice())
    }

    /// Products and the sums of their parts' magnitudes, in `f64`; poison between them.
    fn expected(&self, gpu: &Gpu, data: &Data) -> (Vec<f32>, Vec<f32>) {
        let (step, width, inputs) = (self.step(), self.width, self.inputs());
        let mut weights = vec![0.0; self.heads * step * width];
        reference::dequantize(self.quant, &data.weights, &mut weights);
        let mut out = vec![f32::NAN; self.tokens * data.to.token];
        let mut sizes = out.clone();
        for t in 0..self.tokens {
            for h in 0..self.heads {
                let x = &data.x[t * data.from.token + h * data.from.head..][..inputs];
                let rounded = in_integers(self.quant) && !self.transposed;
                let x = if rounded { numbers_of(gpu, &quantized(gpu, x, inputs)) } else { x.to_vec() };
                let own = &weights[(h * step + self.others[0]) * width..][..self.rows * width];
                for o in 0..self.outputs() {
                    let product = |(i, x): (usize, &f32)| {
                        let at = if self.transposed { i * width + o } else { o * width + i };
                        f64::from(*x) * f64::from(own[at])
                    };
                    let products = || x.iter().enumerate().map(product);
                    let place = t * data.to.token + h * data.to.head + o;
                    out[place] = products().sum::<f64>() as f32;
                    sizes[place] = products().map(f64::abs).sum::<f64>() as f32;
                }
            }
        }
        (out, sizes)
    }
}

fn types() -> impl Iterator<Item = QuantType> {
    QuantType::ALL.iter().copied().filter(|quant| cuda::supports(*quant))
}

/// Heads, rows, rows before and behind, blocks of a row (or so many times 37 numbers, for floats), tokens.
const SHAPES: [(usize, usize, [usize; 2], usize, usize); 6] = [
    (1, 1, [0, 0], 1, 1),
    (2, 3, [0, 2], 2, 2),
    (5, 33, [7, 0], 1, 3),
    (3, 70, [4, 1], 3, 8),
    (7, 16, [0, 0], 4, 9),
    (2, 129, [1, 0], 2, 21),
];

#[test]
fn every_type_agrees_with_the_reference_by_head() {
    let Some(gpu) = gpu() else { return };
    for quant in types() {
        for (heads, rows, others, blocks, tokens) in SHAPES {
            for transposed in [false, true] {
                let width = blocks * if in_floats(quant) { 37 } else { quant.block_elements() };
                let case = Case { quant, heads, rows, others, width, tokens, transposed };
                let data = case.data();
                let (expected, sizes) = case.expected(gpu, &data);
                let found = case.run(gpu, &data, 0, tokens);
                let what = format!("{quant}, {heads} heads of {rows} × {width}, {tokens} tokens, {transposed}");
                let known = |all: &[f32]| -> Vec<f32> { all.iter().copied().filter(|x| !x.is_nan()).collect() };
                for (found, expected) in found.iter().zip(&expected) {
                    assert_eq!(found.is_nan(), expected.is_nan(), "{what}: outputs where they belong");
                }
                let sizes = known(&sizes);
                let size = |i: usize| sizes[i] + f32::MIN_POSITIVE;
                assert_close(&what, &known(&found), &known(&expected), size, SUM_TOLERANCE);
            }
        }
    }
}

#[test]
fn a_token_alone_gives_the_bits_that_it_gives_among_others() {
    let Some(gpu) = gpu() else { return };
    for quant in [QuantType::Q8_0, QuantType::Q4K, QuantType::Iq2S, QuantType::Bf16] {
        for transposed in [false, true] {
            // R1's shape, of fewer heads.
            let (rows, others, width, tokens) = (128, [0, 128], 512, 11);
            let case = Case { quant, heads: 4, rows, others, width, tokens, transposed };
            let data = case.data();
            let all = case.run(gpu, &data, 0, tokens);
            for (t, expected) in all.chunks(data.to.token).enumerate() {
                assert_eq!(bits(&case.run(gpu, &data, t, 1)), bits(expected), "{quant}, token {t}, {transposed}");
            }
        }
    }
}
