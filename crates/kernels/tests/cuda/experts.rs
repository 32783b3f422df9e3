//! Mixtures by tables of addresses: some experts here, some elsewhere.

use kernels::cuda::{
    Arena, Chosen, DeviceBuffer, ExpertTable, Gpu, Joining, Quantized, experts_down, experts_up, in_integers,
};
use kernels::reference;
use plan::{Bytes, QuantType};

use crate::card::{download, gpu, numbers_of, poisoned, quantized, upload};
use crate::common::Draw;

const EXPERTS: usize = 5;
/// The expert that is on another device.
const ABSENT: usize = 3;
const TOKENS: usize = 3;
const PER_TOKEN: usize = 4;

/// One kind of matrix of every expert.
struct Matrices {
    table: ExpertTable,
    _bytes: DeviceBuffer<u8>,
    /// By expert, as numbers.
    numbers: Vec<Vec<f32>>,
    rows: usize,
    width: usize,
}

impl Matrices {
    fn new(gpu: &Gpu, arena: &mut Arena, draw: &mut Draw, quant: QuantType, rows: usize, width: usize) -> Self {
        let mut table = ExpertTable::new(arena, quant, EXPERTS, rows, width).unwrap();
        let bytes = draw.blocks(quant, EXPERTS * rows * width);
        let (each, on_card) = (bytes.len() / EXPERTS, upload(gpu, &bytes));
        let mut numbers = vec![vec![0.0; rows * width]; EXPERTS];
        for (e, numbers) in numbers.iter_mut().enumerate() {
            reference::dequantize(quant, &bytes[e * each..][..each], numbers);
            table.set(e, (e != ABSENT).then_some((&on_card, e * each)));
        }
        table.upload(gpu.compute()).unwrap();
        Self { table, _bytes: on_card, numbers, rows, width }
    }

    /// `w·x` for each row of an expert, and `|w|·|x|`.
    fn times(&self, expert: usize, x: &[f32]) -> Vec<(f64, f64)> {
        let product = |w: &[f32]| {
            let terms = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
        };
        self.numbers[expert].chunks(self.width).map(product).collect()
    }
}

fn join(joining: Joining, gate: f64, up: f64) -> f64 {
    let (gate, up, mut out) = ([gate as f32], [up as f32], [0.0]);
    match joining {
        Joining::Silu => reference::silu_mul(&gate, &up, &mut out),
        Joining::Gelu => reference::gelu_tanh_mul(&gate, &up, &mut out),
        Joining::Clamped { limit, alpha } => reference::swiglu_clamped_mul(&gate, &up, limit, alpha, &mut out),
    }
    f64::from(out[0])
}

fn check(gpu: &Gpu, quant: QuantType, joining: Joining, with_biases: bool) {
    let block = quant.block_elements().max(64);
    let (inner, width) = (2 * block, 3 * block);
    let mut draw = Draw(u64::from(quant.id()));
    let mut arena = Arena::new(gpu, "a test", Bytes(4 << 20)).unwrap();
    let [gate, up] = [(); 2].map(|()| Matrices::new(gpu, &mut arena, &mut draw, quant, inner, width));
    let down = Matrices::new(gpu, &mut arena, &mut draw, quant, width - 5, inner);
    // Small inputs, so that functions of gates are not all flat.
    let largest = gate.numbers.iter().flatten().fold(0.0_f32, |largest, w| largest.max(w.abs()));
    let x: Vec<f32> = draw.numbers(TOKENS * width).iter().map(|x| x / largest / 4.0).collect();
    let columns = quantized(gpu, &x, width);
    let x = numbers_of(gpu, &columns);
    // A number that no expert has, and the one that is elsewhere, in every token's choices.
    let experts: Vec<u32> = (0..TOKENS as u32).flat_map(|t| [t % 3, ABSENT as u32, 77 + t, 4]).collect();
    let weights = draw.numbers(TOKENS * PER_TOKEN);
    let (on_card, weights_on_card) = (upload(gpu, &experts), upload(gpu, &weights));
    let chosen = Chosen { experts: on_card.slice(), weights: weights_on_card.slice(), per_token: PER_TOKEN };
    let [gate_bias, up_bias] = [(); 2].map(|()| draw.numbers(EXPERTS * inner));
    let down_bias = draw.numbers(EXPERTS * down.rows);
    let biases_on_card = [&gate_bias, &up_bias, &down_bias].map(|bias| upload(gpu, bias));
    let bias = |numbers: &[f32], at: usize| if with_biases { f64::from(numbers[at]) } else { 0.0 };

    let mut joined = Quantized::new(&mut arena, inner, TOKENS * PER_TOKEN).unwrap();
    let ups = with_biases.then(|| [biases_on_card[0].slice(), biases_on_card[1].slice()]);
    experts_up(gpu.compute(), &gate.table, &up.table, ups, joining, &columns, &chosen, &mut joined).unwrap();
    let found = numbers_of(gpu, &joined);
    let here = |choice: usize| Some(experts[choice] as usize).filter(|e| *e < EXPERTS && *e != ABSENT);
    for (choice, found) in found.chunks(inner).enumerate() {
        let Some(e) = here(choice) else {
            assert!(found.iter().all(|x| *x == 0.0), "{quant}: choice {choice} is not here");
            continue;
        };
        let x = &x[choice / PER_TOKEN * width..][..width];
        let pairs = gate.times(e, x).into_iter().zip(up.times(e, x)).enumerate();
        let expected: Vec<f64> = pairs
            .map(|(r, ((g, _), (u, _)))| {
                join(joining, g + bias(&gate_bias, e * inner + r), u + bias(&up_bias, e * inner + r))
            })
            .collect();
        for (group, (found, expected)) in found.chunks(32).zip(expected.chunks(32)).enumerate() {
            let largest = expected.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
            for (found, expected) in found.iter().zip(expected) {
                // Half a step of rounding, and what the sums before it were off by.
                let error = (f64::from(*found) - expected).abs();
                assert!(
                    error <= largest * (0.51 / 127.0),
                    "{quant} choice {choice} group {group}: {found}, not {expected}"
                );
            }
        }
    }

    for add in [false, true] {
        let mut out = if add { upload(gpu, &vec![0.25; TOKENS * width]) } else { poisoned(gpu, TOKENS * width) };
        let down_bias_on_card = with_biases.then(|| biases_on_card[2].slice());
        let to = &mut out.slice_mut();
        experts_down(gpu.compute(), &down.table, down_bias_on_card, &joined, &chosen, to, width, add).unwrap();
        for (t, out) in download(gpu, out.slice()).chunks(width).enumerate() {
            let mut expected = vec![(if add { 0.25 } else { 0.0 }, 0.25); down.rows];
            for choice in t * PER_TOKEN..(t + 1) * PER_TOKEN {
                let Some(e) = here(choice) else { continue };
                let weight = f64::from(weights[choice]);
                for (r, (sum, size)) in down.times(e, &found[choice * inner..][..inner]).into_iter().enumerate() {
                    let bias = bias(&down_bias, e * down.rows + r);
                    expected[r].0 += weight * (sum + bias);
                    expected[r].1 += weight.abs() * (size + bias.abs());
                }
            }
            for (r, (found, (expected, size))) in out.iter().zip(expected).enumerate() {
                assert!(
                    (f64::from(*found) - expected).abs() <= 4e-6 * size,
                    "{quant} row {r}: {found}, not {expected}"
                );
            }
            assert!(
                out[down.rows..].iter().all(|x| if add { *x == 0.25 } else { x.is_nan() }),
                "nothing behind the rows"
            );
        }
    }
}

#[test]
fn a_layer_in_two_launches_agrees_with_the_reference() {
    let Some(gpu) = gpu() else { return };
    for quant in QuantType::ALL.iter().copied().filter(|quant| in_integers(*quant)) {
        check(gpu, quant, Joining::Silu, false);
    }
    for joining in [Joining::Gelu, Joining::Clamped { limit: 0.4, alpha: 1.702 }] {
        check(gpu, QuantType::Mxfp4, joining, true);
        check(gpu, QuantType::Q4K, joining, true);
    }
}
