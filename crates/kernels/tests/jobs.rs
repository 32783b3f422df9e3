//! Products of many matrices at once against the reference, and the promise that neither threads nor cuts change a bit.

mod common;

use common::{Draw, bits, on_every_pool, pools};
use kernels::cpu::{Activations, Column, Columns, Input, Job, Pool, WeightedColumn, WeightedJob};
use kernels::{cpu, reference};
use plan::QuantType::{self, F16, F32, Mxfp4, Q4K, Q6K, Q8_0};
use proptest::prelude::*;

/// Rounding of sums of up to a few thousand `f32` products, relative to the sum of their magnitudes.
const SUM_TOLERANCE: f32 = 1e-6;
/// The same, one product after the other instead of sixteen sums side by side.
const CHAIN_TOLERANCE: f32 = 4e-6;

fn supported() -> impl Iterator<Item = QuantType> {
    QuantType::ALL.iter().copied().filter(|quant| cpu::supports(*quant))
}

/// Columns of `k` numbers in integers.
fn quantized(pool: &Pool, x: &[f32], k: usize) -> Activations {
    let mut columns = Activations::default();
    columns.quantize(pool, &x[..x.len() / k * k], k);
    columns
}

fn jobs_of(pool: &Pool, jobs: &[Job], k: usize, x: &[f32], out: &mut [f32]) {
    cpu::matmul_jobs(pool, jobs, k, Input { numbers: x, quantized: Some(&quantized(pool, x, k)) }, out);
}

fn weighted_of(pool: &Pool, jobs: &[WeightedJob], k: usize, x: &[f32], out: &mut [f32]) {
    cpu::matmul_weighted(pool, jobs, k, Input { numbers: x, quantized: Some(&quantized(pool, x, k)) }, out);
}

/// A type's shortest row of at least `least` numbers.
fn row_of(quant: QuantType, least: usize) -> usize {
    least.next_multiple_of(quant.block_elements())
}

/// Matrices of one width, each with its own type and rows.
struct Matrices {
    quants: Vec<QuantType>,
    weights: Vec<Vec<u8>>,
    rows: Vec<usize>,
    row_elements: usize,
}

impl Matrices {
    fn new(quants: &[QuantType], rows: &[usize], least: usize, draw: &mut Draw) -> Self {
        let row_elements = quants.iter().fold(least, |least, quant| row_of(*quant, least));
        let weights = quants.iter().zip(rows).map(|(quant, rows)| draw.blocks(*quant, rows * row_elements)).collect();
        Self { quants: quants.to_vec(), weights, rows: rows.to_vec(), row_elements }
    }

    fn job<'a>(&'a self, i: usize, columns: Columns<'a>) -> Job<'a> {
        Job { quant: self.quants[i], weights: &self.weights[i], rows: self.rows[i], columns }
    }

    /// The matrix as magnitudes.
    fn sizes(&self, i: usize) -> Vec<u8> {
        let mut numbers = vec![0.0; self.rows[i] * self.row_elements];
        reference::dequantize(self.quants[i], &self.weights[i], &mut numbers);
        numbers.iter().flat_map(|x: &f32| x.abs().to_le_bytes()).collect()
    }
}

fn magnitudes(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| x.abs()).collect()
}

/// `lists[i]` columns of job i, each `from` drawn among the `inputs` columns of x, outputs one after the other.
fn lists(
    counts: &[usize],
    inputs: usize,
    input: usize,
    outputs: &[usize],
    draw: &mut Draw,
) -> (Vec<Vec<Column>>, usize) {
    let mut to = 0;
    let mut column = |outputs: usize| {
        to += outputs;
        Column { from: draw.bits() as usize % inputs * input, to: to - outputs }
    };
    let lists = counts.iter().zip(outputs).map(|(count, outputs)| (0..*count).map(|_| column(*outputs)).collect());
    (lists.collect(), to)
}

fn check_jobs(quants: &[QuantType], rows: &[usize], counts: &[usize], least: usize) {
    let mut draw = Draw((quants[0].id() as usize * 1000 + rows[0] * 100 + counts[0] + least) as u64);
    let matrices = Matrices::new(quants, rows, least, &mut draw);
    let k = matrices.row_elements;
    let x = draw.numbers(9 * k);
    let (lists, outputs) = lists(counts, 9, k, rows, &mut draw);
    let jobs: Vec<Job> = lists.iter().enumerate().map(|(i, list)| matrices.job(i, Columns::Listed(list))).collect();
    let (mut expected, mut sizes) = (vec![0.0; outputs], vec![0.0; outputs]);
    reference::matmul_jobs(&jobs, k, &x, &mut expected);
    let positive: Vec<Vec<u8>> = (0..jobs.len()).map(|i| matrices.sizes(i)).collect();
    let size_jobs: Vec<Job> =
        jobs.iter().zip(&positive).map(|(job, weights)| Job { quant: F32, weights, ..*job }).collect();
    reference::matmul_jobs(&size_jobs, k, &magnitudes(&x), &mut sizes);
    let what = format!("{quants:?} {rows:?} by {counts:?}, {k}");
    on_every_pool(
        &what,
        &expected,
        |i| sizes[i] + f32::MIN_POSITIVE,
        SUM_TOLERANCE,
        |pool, out| {
            jobs_of(pool, &jobs, k, &x, out);
            // Each column alone gives the same bits.
            for (job, list) in jobs.iter().zip(&lists) {
                for column in list {
                    let mut alone = vec![f32::NAN; job.rows];
                    cpu::matmul(pool, job.quant, job.weights, job.rows, k, &x[column.from..], 1, &mut alone, 0, 0);
                    assert_eq!(bits(&alone), bits(&out[column.to..][..job.rows]), "{what}: a column alone");
                }
            }
        },
    );
}

#[test]
fn jobs_of_many_rows_and_columns_agree_with_the_reference() {
    check_jobs(&[Q4K, Q6K], &[70, 300], &[130, 5], 1280);
    jobs_of(&pools()[0].1[0], &[], 3, &[], &mut []);
}

#[test]
fn strided_heads_are_jobs_of_their_own() {
    // Heads of a token lie side by side in x and in the outputs: rows × k matrices for each head.
    let (heads, tokens, rows) = (7, 5, 6);
    let mut draw = Draw(3);
    let matrices = Matrices::new(&[Q8_0; 7], &[rows; 7], 64, &mut draw);
    let k = matrices.row_elements;
    let x = draw.numbers(tokens * heads * k);
    let strided = |head: usize| Columns::Strided {
        from: head * k,
        from_step: heads * k,
        to: head * rows,
        to_step: heads * rows,
        count: tokens,
    };
    let listed: Vec<Vec<Column>> = (0..heads)
        .map(|h| (0..tokens).map(|t| Column { from: (t * heads + h) * k, to: (t * heads + h) * rows }).collect())
        .collect();
    let strided_jobs: Vec<Job> = (0..heads).map(|head| matrices.job(head, strided(head))).collect();
    let listed_jobs: Vec<Job> = (0..heads).map(|head| matrices.job(head, Columns::Listed(&listed[head]))).collect();
    for (isa, pools) in pools() {
        let run = |jobs: &[Job]| {
            let mut out = vec![f32::NAN; tokens * heads * rows];
            jobs_of(&pools[1], jobs, k, &x, &mut out);
            bits(&out)
        };
        assert_eq!(run(&strided_jobs), run(&listed_jobs), "{isa}");
    }
}

#[test]
fn jobs_that_do_not_fit_are_refused() {
    let pool = &pools()[0].1[1];
    let weights = vec![0; 2 * 4 * 4];
    let refused = |columns: Columns, transposed: bool| {
        let job = Job { quant: F32, weights: &weights, rows: 2, columns };
        let run = std::panic::AssertUnwindSafe(|| {
            let (x, mut out) = (vec![0.0; 12], vec![0.0; 12]);
            if transposed {
                cpu::matmul_transposed(pool, &[job], 4, &x, &mut out, false);
            } else {
                jobs_of(pool, &[job], 4, &x, &mut out);
            }
        });
        std::panic::catch_unwind(run).is_err()
    };
    let list = |from, to| [Column { from, to }];
    assert!(!refused(Columns::Listed(&list(8, 10)), false) && !refused(Columns::Listed(&list(10, 8)), true));
    assert!(refused(Columns::Listed(&list(9, 0)), false) && refused(Columns::Listed(&list(0, 9)), true));
    assert!(refused(Columns::Listed(&list(0, 11)), false) && refused(Columns::Listed(&list(11, 0)), true));
    assert!(refused(Columns::Listed(&list(usize::MAX, 0)), false));
    for step in [usize::MAX, usize::MAX / 2, 5] {
        let strided = |from_step, to_step| Columns::Strided { from: 1, from_step, to: 1, to_step, count: 3 };
        assert!(refused(strided(step, 2), false) && refused(strided(1, step), false));
    }
    if cfg!(debug_assertions) {
        let two = [Column { from: 0, to: 0 }, Column { from: 4, to: 1 }];
        assert!(refused(Columns::Listed(&two), false) && refused(Columns::Listed(&two), true));
    }
}

/// Experts with their tokens, down-projected: the weighted sums of all of them.
struct Mixture {
    matrices: Matrices,
    columns: Vec<Vec<WeightedColumn>>,
    x: Vec<f32>,
    start: Vec<f32>,
}

impl Mixture {
    /// `used` experts for each token.
    fn new(quants: &[QuantType], rows: usize, least: usize, (tokens, used): (usize, usize)) -> Self {
        let mut draw = Draw((rows * 1000 + least + tokens) as u64 ^ u64::from(quants[0].id()) << 32);
        let matrices = Matrices::new(quants, &vec![rows; quants.len()], least, &mut draw);
        let mut columns = vec![Vec::new(); quants.len()];
        for place in 0..tokens * used {
            let expert = (draw.bits() as usize % quants.len() + place) % quants.len();
            let from = place * matrices.row_elements;
            // A token may meet an expert twice: then the order within the job counts.
            columns[expert].push(WeightedColumn { from, to: place / used * rows, weight: draw.number() });
        }
        let x = draw.numbers(tokens * used * matrices.row_elements);
        let start = draw.numbers(tokens * rows);
        Self { matrices, columns, x, start }
    }

    /// The jobs, each of the rows given.
    fn jobs<'a>(&'a self, columns: &'a [Vec<WeightedColumn>], rows: std::ops::Range<usize>) -> Vec<WeightedJob<'a>> {
        let job = |(i, columns): (usize, &'a Vec<WeightedColumn>)| {
            let quant = self.matrices.quants[i];
            let row_bytes = quant.bytes(self.matrices.row_elements as u64).unwrap().0 as usize;
            let weights = &self.matrices.weights[i][rows.start * row_bytes..rows.end * row_bytes];
            WeightedJob { quant, weights, rows: rows.len(), columns }
        };
        columns.iter().enumerate().map(job).collect()
    }

    fn check(&self) {
        let (rows, k) = (self.matrices.rows[0], self.matrices.row_elements);
        let jobs = self.jobs(&self.columns, 0..rows);
        let mut expected = self.start.clone();
        reference::matmul_weighted(&jobs, k, &self.x, &mut expected);
        let mut sizes = vec![1.0; expected.len()];
        let positive: Vec<Vec<u8>> = (0..jobs.len()).map(|i| self.matrices.sizes(i)).collect();
        let columns: Vec<Vec<WeightedColumn>> = self
            .columns
            .iter()
            .map(|list| list.iter().map(|c| WeightedColumn { weight: c.weight.abs(), ..*c }).collect())
            .collect();
        let size_jobs: Vec<WeightedJob> = positive
            .iter()
            .zip(&columns)
            .map(|(weights, columns)| WeightedJob { quant: F32, weights, rows, columns })
            .collect();
        reference::matmul_weighted(&size_jobs, k, &magnitudes(&self.x), &mut sizes);
        for size in &mut sizes {
            *size += 1.0;
        }
        let what = format!("{:?}, {rows}×{k}", self.matrices.quants);
        on_every_pool(
            &what,
            &expected,
            |i| sizes[i],
            SUM_TOLERANCE,
            |pool, out| {
                out.copy_from_slice(&self.start);
                weighted_of(pool, &jobs, k, &self.x, out);
                self.check_cuts(pool, &bits(out));
            },
        );
    }

    /// Rows in pieces, and the list of jobs in pieces, give the same bits.
    fn check_cuts(&self, pool: &Pool, whole: &[u32]) {
        let (rows, k) = (self.matrices.rows[0], self.matrices.row_elements);
        let mut by_job = self.start.clone();
        for job in self.jobs(&self.columns, 0..rows) {
            let (left, right) = job.columns.split_at(job.columns.len() / 2);
            weighted_of(pool, &[WeightedJob { columns: left, ..job }], k, &self.x, &mut by_job);
            weighted_of(pool, &[WeightedJob { columns: right, ..job }], k, &self.x, &mut by_job);
        }
        assert_eq!(bits(&by_job), whole, "one job at a time");
        let mut by_rows = self.start.clone();
        let (mut row, mut piece) = (0, 1);
        while row < rows {
            let end = rows.min(row + piece);
            let shifted: Vec<Vec<WeightedColumn>> = self
                .columns
                .iter()
                .map(|list| list.iter().map(|c| WeightedColumn { to: c.to + row, ..*c }).collect())
                .collect();
            weighted_of(pool, &self.jobs(&shifted, row..end), k, &self.x, &mut by_rows);
            (row, piece) = (end, piece + 2);
        }
        assert_eq!(bits(&by_rows), whole, "some rows at a time");
    }
}

#[test]
fn weighted_sums_of_many_tokens_agree_with_the_reference_in_any_cut() {
    for (quants, rows, least, tokens) in
        [(&[Q4K, Q6K][..], 37, 1100, (40, 2)), (&[Mxfp4; 5], 70, 96, (9, 4)), (&[F32], 3, 7, (150, 1))]
    {
        Mixture::new(quants, rows, least, tokens).check();
    }
    weighted_of(&pools()[0].1[0], &[], 3, &[], &mut []);
}

/// Jobs with the transposed matrices: the reference, and rows in pieces that add.
fn check_transposed(quants: &[QuantType], rows: &[usize], counts: &[usize], least: usize) {
    let mut draw = Draw((quants[0].id() as usize * 77 + rows[0] * 10 + counts[0] + least) as u64);
    let matrices = Matrices::new(quants, rows, least, &mut draw);
    let n = matrices.row_elements;
    let x = draw.numbers(1000 + rows.iter().max().unwrap());
    let (lists, outputs) = lists(counts, 500, 2, &vec![n; rows.len()], &mut draw);
    let jobs: Vec<Job> = lists.iter().enumerate().map(|(i, list)| matrices.job(i, Columns::Listed(list))).collect();
    let positive: Vec<Vec<u8>> = (0..jobs.len()).map(|i| matrices.sizes(i)).collect();
    let size_jobs: Vec<Job> =
        jobs.iter().zip(&positive).map(|(job, weights)| Job { quant: F32, weights, ..*job }).collect();
    let what = format!("{quants:?} {rows:?} by {counts:?}, {n}");
    for add in [false, true] {
        let start = if add { draw.numbers(outputs) } else { vec![f32::NAN; outputs] };
        let (mut expected, mut sizes) = (start.clone(), magnitudes(&start));
        reference::matmul_transposed(&jobs, n, &x, &mut expected, add);
        reference::matmul_transposed(&size_jobs, n, &magnitudes(&x), &mut sizes, add);
        on_every_pool(
            &what,
            &expected,
            |i| sizes[i] + f32::MIN_POSITIVE,
            CHAIN_TOLERANCE,
            |pool, out| {
                out.copy_from_slice(&start);
                cpu::matmul_transposed(pool, &jobs, n, &x, out, add);
                for (job, list) in jobs.iter().zip(&lists) {
                    for column in list {
                        let whole = column.to..column.to + n;
                        let mut alone = start[whole.clone()].to_vec();
                        let column = [Column { to: 0, ..*column }];
                        let job = Job { columns: Columns::Listed(&column), ..*job };
                        cpu::matmul_transposed(pool, &[job], n, &x, &mut alone, add);
                        assert_eq!(bits(&alone), bits(&out[whole]), "{what}: a column alone");
                    }
                }
                let mut pieces = start.clone();
                for (job, list) in jobs.iter().zip(&lists) {
                    let row_bytes = job.quant.bytes(n as u64).unwrap().0 as usize;
                    // No rows at all make zeros.
                    for from in (0..job.rows.max(1)).step_by(7) {
                        let weights = &job.weights[from * row_bytes..];
                        let columns: Vec<Column> = list.iter().map(|c| Column { from: c.from + from, ..*c }).collect();
                        let part =
                            Job { weights, rows: 7.min(job.rows - from), columns: Columns::Listed(&columns), ..*job };
                        cpu::matmul_transposed(pool, &[part], n, &x, &mut pieces, add || from > 0);
                    }
                }
                assert_eq!(bits(&pieces), bits(out), "{what}: some rows at a time");
            },
        );
    }
}

#[test]
fn transposed_products_of_heads_and_prompts_agree_with_the_reference() {
    check_transposed(&[Q8_0; 6], &[128; 6], &[1; 6], 512);
    check_transposed(&[Q8_0], &[512], &[150], 128);
    check_transposed(&[Q4K, F16], &[40, 3], &[70, 2], 600);
}

/// Types, rows and numbers of columns of some matrices: of one type, or of several.
fn several() -> impl Strategy<Value = (Vec<QuantType>, Vec<usize>, Vec<usize>)> {
    let quant = || prop::sample::select(supported().collect::<Vec<_>>());
    let mixed = prop::collection::vec(quant(), 1..5);
    let same = (quant(), 1_usize..5).prop_map(|(quant, count)| vec![quant; count]);
    prop_oneof![same, mixed].prop_flat_map(|quants| {
        let sizes = |most: usize| prop::collection::vec(0..most, quants.len());
        (Just(quants.clone()), sizes(41), sizes(10))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn jobs_agree_with_the_reference_and_with_each_column_alone(
        (quants, rows, counts) in several(),
        least in 1_usize..700,
    ) {
        check_jobs(&quants, &rows, &counts, least);
    }

    #[test]
    fn weighted_sums_agree_with_the_reference_in_any_cut(
        (quants, ..) in several(),
        (rows, least) in (1_usize..41, 1_usize..700),
        tokens in (1_usize..10, 1_usize..4),
    ) {
        Mixture::new(&quants, rows, least, tokens).check();
    }

    #[test]
    fn transposed_products_agree_with_the_reference((quants, rows, counts) in several(), least in 1_usize..700) {
        check_transposed(&quants, &rows, &counts, least);
    }
}

#[test]
fn every_type_is_multiplied_as_jobs_weighted_and_transposed() {
    for quant in supported() {
        check_jobs(&[quant; 4], &[5, 9, 1, 4], &[1, 3, 0, 17], 100);
        Mixture::new(&[quant; 3], 13, 64, (2, 2)).check();
        check_transposed(&[quant; 3], &[5, 17, 33], &[1, 4, 9], 64);
    }
}
