//! Matrices times many columns, as prompts ask for: what counts is arithmetic, on tensor cores.
//!
//! Two ways were weighed. *Integers*: weights as signed bytes, activations as the CPU has them (8 bits, a scale for each 32), products by
//! `mma.m16n8k32.s8`, whose sums are scaled group after group. *Halves*: weights unpacked to f16, products by `mma.m16n8k16` with sums in f32.
//!
//! | | RTX 3060 (28 multiprocessors, 1.78 GHz) | H100 (132, 1.7 GHz, without Hopper's own instructions) |
//! |---|---|---|
//! | int8 tensor cores | 101 TOP/s | about 1,000 |
//! | scaling: 8 multiply-adds for 8,192 operations, 12 with minima, twice that with scales for 16 | 200 G instructions/s: 137–205 TOP/s | 900 G: 610–920 |
//! | bound of integers | 101 TOP/s | 610–920 |
//! | bound of halves | 25.5 TFLOP/s | about 620 |
//!
//! Integers win fourfold on the cards that most have, and give what the CPU gives but for the order of sums. An H100 reaches 235 TOP/s with `Q4_K`
//! and 122 with `Q6_K` so; for very many columns large cards go by way of halves ([`HalvesRoom`](super::HalvesRoom)).

use plan::QuantType;

use super::launch::{Address, Param, Shape, launch};
use super::matvec::check_out;
use super::{CudaError, Matrix, Plain, Quantized, Slice, SliceMut, Stream, in_floats, in_integers};

/// Rows of a block.
const ROWS: usize = 128;
/// Columns of a block where there are many, and where there are few: an expert's.
const WIDE: usize = 128;
const NARROW: usize = 32;
/// Columns of a matrix above which [`JobList::wide`] pays.
pub const JOB_COLUMNS: usize = NARROW;
/// Rows and columns of a block of floats.
const TILE: usize = 64;
const THREADS: u32 = 256;
/// Bytes of a block's shared memory: the most that any type needs (`matmul.cuh` holds them against it).
const WIDE_ROOM: u32 = 83 * 1024;
const NARROW_ROOM: u32 = 68 * 1024;
/// The most blocks in the grid's second direction.
const BLOCKS_MAX: usize = 65_535;

/// One matrix of a job list, on the card: the address of its bytes and which columns of the list it is multiplied with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixJob {
    weights: Address,
    first: u32,
    count: u32,
}

impl MatrixJob {
    /// As the card reads it.
    pub(super) const fn words(self) -> [u32; 4] {
        [self.weights.0 as u32, (self.weights.0 >> 32) as u32, self.first, self.count]
    }
}

// SAFETY: plain numbers without padding. Bits that are no address of a matrix are kept from kernels by `JobList`.
unsafe impl Plain for MatrixJob {}
// SAFETY: as above.
unsafe impl Param for MatrixJob {}

/// `struct Product` of `matmul.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    jobs: Address,
    one: MatrixJob,
    columns: Address,
    codes: Address,
    scales: Address,
    out: Address,
    x_stride: u32,
    out_step: u32,
    rows: u32,
    groups: u32,
}

// SAFETY: the kernels' structure, field for field.
unsafe impl Param for Parameters {}

/// `struct FloatProduct` of `matmul_floats.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct FloatParameters {
    weights: Address,
    x: Address,
    out: Address,
    out_step: u32,
    rows: u32,
    columns: u32,
    width: u32,
}

// SAFETY: the kernels' structure, field for field.
unsafe impl Param for FloatParameters {}

/// `out[t·out_step + r] = Σ_k w[r][k]·x[t][k]` for each column `t`, however many.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// Where the type is not multiplied [in integers](in_integers), or lengths do not fit.
pub fn matmul(
    stream: &Stream,
    matrix: &Matrix<'_>,
    columns: &Quantized,
    out: &mut SliceMut<'_, f32>,
    out_step: usize,
) -> Result<(), CudaError> {
    let Matrix { weights, rows, width, .. } = *matrix;
    matrix.check();
    assert_eq!(columns.width(), width, "numbers of a column");
    let m = columns.columns();
    check_columns(columns);
    check_out(rows, m, out, out_step);
    if rows == 0 || m == 0 {
        return Ok(());
    }
    let parameters = Parameters {
        one: MatrixJob { weights: weights.address(), first: 0, count: m as u32 },
        ..parameters(rows, width, columns, out, out_step)
    };
    let of = if m <= NARROW { NARROW } else { WIDE };
    // SAFETY: lengths of weights, columns and outputs were checked.
    unsafe { start(stream, matrix.quant, of, m.div_ceil(of), parameters) }
}

/// Matrices of one type and shape, each times some columns: what experts are in a prompt. Made on the host, used on the card.
#[derive(Clone, Debug, Default)]
pub struct JobList<'a> {
    jobs: Vec<MatrixJob>,
    /// Column of the activations that each output is made from.
    columns: Vec<u32>,
    shape: Option<(QuantType, usize, usize)>,
    wide: bool,
    matrices: std::marker::PhantomData<Slice<'a, u8>>,
}

impl<'a> JobList<'a> {
    /// A list whose matrices have many columns each, by the mean more than [`JOB_COLUMNS`]; the default is for fewer.
    #[must_use]
    pub fn wide() -> Self {
        Self { wide: true, ..Self::default() }
    }

    /// The most columns of an entry.
    const fn of(&self) -> usize {
        if self.wide { WIDE } else { NARROW }
    }

    /// Adds a matrix, whose outputs are made from these columns in turn, behind those of the matrices before.
    ///
    /// # Panics
    /// Where the matrix has not the type and shape of the others.
    pub fn push(&mut self, matrix: &Matrix<'a>, columns: impl IntoIterator<Item = u32>) {
        matrix.check();
        let shape = (matrix.quant, matrix.rows, matrix.width);
        assert_eq!(*self.shape.get_or_insert(shape), shape, "matrices of a list are alike");
        let first = self.columns.len();
        self.columns.extend(columns);
        for start in (first..self.columns.len()).step_by(self.of()) {
            let count = self.of().min(self.columns.len() - start) as u32;
            self.jobs.push(MatrixJob { weights: matrix.weights.address(), first: start as u32, count });
        }
    }

    /// Outputs of the list.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.columns.len()
    }

    /// The entries, to be copied to the card.
    #[must_use]
    pub fn jobs(&self) -> &[MatrixJob] {
        &self.jobs
    }

    /// The column of each output, to be copied to the card.
    #[must_use]
    pub fn columns(&self) -> &[u32] {
        &self.columns
    }
}

/// [`matmul`] for a list of matrices in one launch: output i of the list goes to `out[i·out_step..]`. [`JobRoom`](super::JobRoom) sends the list.
///
/// # Errors
/// Where the launch fails.
///
/// # Safety
/// When the stream comes to it, `jobs` and `sources` hold copies of what `list` has, and the list's matrices are still where they were.
///
/// # Panics
/// Where the type is not multiplied [in integers](in_integers), or lengths do not fit.
pub(super) unsafe fn matmul_jobs(
    stream: &Stream,
    list: &JobList<'_>,
    jobs: Slice<'_, MatrixJob>,
    sources: Slice<'_, u32>,
    columns: &Quantized,
    out: &mut SliceMut<'_, f32>,
    out_step: usize,
) -> Result<(), CudaError> {
    let Some((quant, rows, width)) = list.shape else { return Ok(()) };
    assert!(jobs.len() == list.jobs.len() && sources.len() == list.columns.len(), "copies of the list");
    assert_eq!(columns.width(), width, "numbers of a column");
    let last = list.columns.iter().max().map_or(0, |last| *last as usize + 1);
    assert!(last <= columns.columns(), "column {last} of {}", columns.columns());
    check_columns(columns);
    check_out(rows, list.columns.len(), out, out_step);
    if rows == 0 || jobs.is_empty() {
        return Ok(());
    }
    let parameters = Parameters {
        jobs: jobs.address(),
        columns: sources.address(),
        ..parameters(rows, width, columns, out, out_step)
    };
    // SAFETY: the list's matrices were checked when they were added, its columns and the outputs here; the rest is the caller's promise.
    unsafe { start(stream, quant, list.of(), jobs.len(), parameters) }
}

fn parameters(rows: usize, width: usize, columns: &Quantized, out: &SliceMut<'_, f32>, out_step: usize) -> Parameters {
    Parameters {
        jobs: Address::NONE,
        one: MatrixJob { weights: Address::NONE, first: 0, count: 0 },
        columns: Address::NONE,
        codes: columns.codes().address(),
        scales: columns.scales().address(),
        out: out.address(),
        x_stride: columns.stride() as u32,
        out_step: out_step as u32,
        rows: rows as u32,
        groups: (width / 32) as u32,
    }
}

/// # Safety
/// The parameters' addresses lead to as much as the kernel touches.
unsafe fn start(
    stream: &Stream,
    quant: QuantType,
    of: usize,
    across: usize,
    parameters: Parameters,
) -> Result<(), CudaError> {
    assert!(in_integers(quant), "no integer kernel for {quant}");
    let down = (parameters.rows as usize).div_ceil(ROWS);
    assert!(down <= BLOCKS_MAX, "{} rows", parameters.rows);
    let kernel = stream.kernel(&format!("matmul_{}_{of}", quant.name()))?;
    let shape = Shape {
        blocks: (across as u32, down as u32, 1),
        threads: (THREADS, 1),
        shared: if of == WIDE { WIDE_ROOM } else { NARROW_ROOM },
    };
    // SAFETY: the caller's promise. Weights are read by whole 16 bytes around a row, which an allocation, beginning and ending at multiples
    // of 256, always has.
    unsafe { launch!(stream, kernel, shape, parameters) }
}

/// [`matmul`] for weights and columns of floats: `x` is columns of the matrix's width, one behind another. In f32 on plain cores.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// Where the type is not multiplied [in floats](in_floats), or lengths do not fit.
pub fn matmul_floats(
    stream: &Stream,
    matrix: &Matrix<'_>,
    x: Slice<'_, f32>,
    out: &mut SliceMut<'_, f32>,
    out_step: usize,
) -> Result<(), CudaError> {
    let Matrix { quant, weights, rows, width } = *matrix;
    matrix.check();
    assert!(in_floats(quant), "no float kernel for {quant}");
    assert!(width > 0 && x.len().is_multiple_of(width), "{} numbers are not columns of {width}", x.len());
    let columns = x.len() / width;
    check_out(rows, columns, out, out_step);
    if rows == 0 || columns == 0 {
        return Ok(());
    }
    let down = rows.div_ceil(TILE);
    assert!(down <= BLOCKS_MAX && u32::try_from(columns).is_ok(), "{rows} rows by {columns} columns");
    let parameters = FloatParameters {
        weights: weights.address(),
        x: x.address(),
        out: out.address(),
        out_step: out_step as u32,
        rows: rows as u32,
        columns: columns as u32,
        width: width as u32,
    };
    let kernel = stream.kernel(&format!("matmul_{}", quant.name()))?;
    let shape = Shape { blocks: (columns.div_ceil(TILE) as u32, down as u32, 1), threads: (THREADS, 1), shared: 0 };
    // SAFETY: lengths of weights, columns and outputs were checked, and nothing else is touched.
    unsafe { launch!(stream, kernel, shape, parameters) }
}

/// Kernels count codes by 32 bits.
fn check_columns(columns: &Quantized) {
    assert!(u32::try_from(columns.codes().len()).is_ok(), "{} codes", columns.codes().len());
}
