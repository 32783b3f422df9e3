//! Products of latent attention's matrices (DeepSeek-V2, <https://arxiv.org/abs/2405.04434>, section 2.1), which hold some rows for each head, with
//! columns that differ by head: queries on their way into the latent's space, and what they gathered there on its way to values.
//!
//! R1 has 128 heads of 128 × 512 numbers for each of the two: with 8.5 bits a number 8.9 MB, 2.9 µs of an H100's memory and 25 µs of an RTX
//! 3060's. Blocks of 8 tokens read them once; what runs of 8 read again comes from the second-level cache.

use plan::QuantType;

use super::launch::{Address, Param, Shape, launch};
use super::{CudaError, Slice, SliceMut, Stream, in_floats, supports};

/// As in `head_product.cu`: threads of a block, tokens of one, and of one that unpacks rows, and numbers that such a one makes.
const THREADS: u32 = 256;
const COLUMNS: usize = 8;
const PAIR: usize = 2;
const TRANSPOSED_NUMBERS: usize = 256;
const TRANSPOSED_FLOATS: usize = 64;
/// Numbers that are rounded together.
const GROUP: usize = 32;
/// Bytes of a block's rows, and of the sums that it keeps, at most.
const TILE_BYTES: usize = 16 << 10;
/// Rows of a block at least, where heads alone are too few for the card.
const TILE_ROWS: usize = 8;
/// Numbers of a row at most, and rows of a head where they are summed over: they lie in a block's memory.
const WIDTH_MAX: usize = 2048;
/// The most blocks in the grid's second and third direction.
const BLOCKS_MAX: usize = 65_535;

/// Rows of each head on a card, in the blocks of the file.
#[derive(Clone, Copy, Debug)]
pub struct HeadMatrix<'a> {
    /// The type of its blocks.
    pub quant: QuantType,
    /// From the first head's first row to the last head's last, or further.
    pub weights: Slice<'a, u8>,
    /// Heads.
    pub heads: usize,
    /// Rows from one head's first to the next one's: rows of something else may lie between.
    pub step: usize,
    /// Rows of a head.
    pub rows: usize,
    /// Numbers of a row: whole blocks.
    pub width: usize,
}

/// Numbers from one head's first to the next one's, and from one token's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadSteps {
    /// From one head to the next.
    pub head: usize,
    /// From one token to the next.
    pub token: usize,
}

/// `struct HeadProduct` of `head_product.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    weights: Address,
    x: Address,
    out: Address,
    head_bytes: u64,
    x_head: u32,
    x_token: u32,
    out_head: u32,
    out_token: u32,
    rows: u32,
    width: u32,
    tile: u32,
    tokens: u32,
}

// SAFETY: the kernels' structure, field for field.
unsafe impl Param for Parameters {}

/// For each head h of each token t: `out[h·head + t·token + r] = Σ_k w[h][r][k]·x[h·head + t·token + k]`, with each slice's own steps. Columns meet
/// quantized weights in 8 bits, as [`Quantized`](super::Quantized) rounds them, and weights of floats as they are. Each output is summed in
/// one order, whatever the other tokens.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// Where the type has no kernel on cards, or lengths and sizes do not fit each other.
pub fn head_product(
    stream: &Stream,
    matrix: &HeadMatrix<'_>,
    x: Slice<'_, f32>,
    from: HeadSteps,
    out: &mut SliceMut<'_, f32>,
    to: HeadSteps,
    tokens: usize,
) -> Result<(), CudaError> {
    let HeadMatrix { quant, heads, rows, width, .. } = *matrix;
    let parameters = matrix.parameters((x, from, width), (out, to, rows), tokens);
    if heads * rows * tokens == 0 {
        return Ok(());
    }
    let runs = tokens.div_ceil(COLUMNS);
    let columns = tokens.min(COLUMNS);
    let (tile, shared) = if in_floats(quant) {
        (rows.div_ceil(rows.div_ceil(64)), 4 * columns * width)
    } else {
        let row = (matrix.row_bytes(), width);
        let cut = Cut::new(stream.info().multiprocessors as usize, heads, rows, row, columns, runs);
        (cut.tile, cut.shared)
    };
    let parameters = Parameters { tile: tile as u32, ..parameters };
    let kernel = stream.kernel(&format!("head_product_{}", quant.name()))?;
    let blocks = (rows.div_ceil(tile) as u32, heads as u32, runs as u32);
    let shape = Shape { blocks, threads: (THREADS, 1), shared: shared as u32 };
    // SAFETY: `parameters` checked weights, columns and outputs. Weights are read by whole 16 bytes around a tile, which an allocation,
    // beginning and ending at multiples of 256, always has.
    unsafe { launch!(stream, kernel, shape, parameters) }
}

/// The same with rows summed over: `out[h·head + t·token + k] = Σ_r w[h][r][k]·x[h·head + t·token + r]`. Columns are not rounded.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// As [`head_product`].
pub fn head_product_transposed(
    stream: &Stream,
    matrix: &HeadMatrix<'_>,
    x: Slice<'_, f32>,
    from: HeadSteps,
    out: &mut SliceMut<'_, f32>,
    to: HeadSteps,
    tokens: usize,
) -> Result<(), CudaError> {
    let HeadMatrix { quant, heads, rows, width, .. } = *matrix;
    let parameters = matrix.parameters((x, from, rows), (out, to, width), tokens);
    if heads * width * tokens == 0 {
        return Ok(());
    }
    let (at_once, numbers) = if in_floats(quant) { (COLUMNS, TRANSPOSED_FLOATS) } else { (PAIR, TRANSPOSED_NUMBERS) };
    let kernel = stream.kernel(&format!("head_transposed_{}", quant.name()))?;
    let blocks = (width.div_ceil(numbers) as u32, heads as u32, tokens.div_ceil(at_once) as u32);
    let shape = Shape { blocks, threads: (THREADS, 1), shared: (4 * at_once * rows) as u32 };
    // SAFETY: as above.
    unsafe { launch!(stream, kernel, shape, parameters) }
}

/// How a head's rows are cut into blocks of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    /// Rows of a block.
    tile: usize,
    /// Bytes of its memory: codes, blocks, scales, sums.
    shared: usize,
}

impl Cut {
    /// As many rows (of so many bytes and numbers) as a block's memory is for, and fewer where blocks would be fewer than two for each
    /// multiprocessor.
    fn new(
        multiprocessors: usize,
        heads: usize,
        rows: usize,
        row: (usize, usize),
        columns: usize,
        runs: usize,
    ) -> Self {
        let (row_bytes, width) = row;
        let groups = width / GROUP;
        let most = (TILE_BYTES / row_bytes).min(TILE_BYTES / 4 / (columns * (groups | 1))).max(1);
        let wanted = (2 * multiprocessors).div_ceil(heads * runs).min(rows.div_ceil(TILE_ROWS));
        let tile = rows.div_ceil(rows.div_ceil(most).max(wanted));
        let blocks = (tile * row_bytes + 30) / 16 * 16 + 16;
        let shared = columns * width + blocks + 8 * columns * groups + 4 * columns * tile * (groups | 1);
        Self { tile, shared }
    }
}

impl HeadMatrix<'_> {
    fn row_bytes(&self) -> usize {
        self.width / self.quant.block_elements() * self.quant.block_bytes()
    }

    /// Checks the matrix against inputs and outputs: numbers, steps, and how many there are of each head.
    fn parameters(
        &self,
        (x, from, inputs): (Slice<'_, f32>, HeadSteps, usize),
        (out, to, outputs): (&mut SliceMut<'_, f32>, HeadSteps, usize),
        tokens: usize,
    ) -> Parameters {
        let Self { quant, weights, heads, step, rows, width } = *self;
        assert!(supports(quant), "no kernel for {quant}");
        assert!(rows > 0 && rows <= WIDTH_MAX && width > 0 && width <= WIDTH_MAX, "heads of {rows} × {width}");
        assert!(width.is_multiple_of(quant.block_elements()), "rows of {width} in {quant}");
        assert!(heads <= BLOCKS_MAX && tokens <= PAIR * BLOCKS_MAX, "{heads} heads of {tokens} tokens");
        let last = heads.saturating_sub(1);
        let end = last.checked_mul(step).and_then(|first| first.checked_add(if heads > 0 { rows } else { 0 }));
        let bytes = end.and_then(|end| end.checked_mul(self.row_bytes()));
        assert!(bytes.is_some_and(|bytes| bytes <= weights.len()), "{heads} heads {step} rows apart");
        let alignment = 1 << quant.block_bytes().trailing_zeros().min(4);
        assert!(weights.address().0.is_multiple_of(alignment), "{quant} blocks at no multiple of {alignment} bytes");
        from.check(heads, tokens, inputs, x.len());
        to.check(heads, tokens, outputs, out.len());
        Parameters {
            weights: weights.address(),
            x: x.address(),
            out: out.address(),
            head_bytes: (step * self.row_bytes()) as u64,
            x_head: from.head as u32,
            x_token: from.token as u32,
            out_head: to.head as u32,
            out_token: to.token as u32,
            rows: rows as u32,
            width: width as u32,
            tile: rows as u32,
            tokens: tokens as u32,
        }
    }
}

impl HeadSteps {
    /// Whether `count` numbers for each head of each token lie within `length`.
    fn check(self, heads: usize, tokens: usize, count: usize, length: usize) {
        let Self { head, token } = self;
        assert!(u32::try_from(head).is_ok() && u32::try_from(token).is_ok(), "steps of {head} and {token}");
        let last = |count: usize, step: usize| count.saturating_sub(1).checked_mul(step);
        let start = last(heads, head).zip(last(tokens, token)).and_then(|(a, b)| a.checked_add(b));
        let end = start.and_then(|start| start.checked_add(count));
        let none = heads == 0 || tokens == 0;
        assert!(none || end.is_some_and(|end| end <= length), "{tokens} tokens of {heads} heads in {length} numbers");
    }
}

#[cfg(test)]
mod tests {
    use QuantType::{Iq1S, Q4K, Q8_0};

    use super::*;

    #[test]
    fn blocks_fit_their_memory_and_are_enough() {
        for (multiprocessors, quant, heads, rows, width, tokens, tile) in [
            // R1's: queries into the latent's space, and out of it.
            (132, Q8_0, 128, 512, 128, 1, 103),
            (28, Q8_0, 128, 512, 128, 1, 103),
            (132, Q8_0, 128, 128, 512, 1, 26),
            (132, Q4K, 128, 128, 512, 1, 43),
            (132, Q4K, 128, 128, 512, 512, 26),
            // V2 Lite's, of few heads: smaller blocks, but not of fewer than 8 rows.
            (132, Q8_0, 16, 512, 128, 1, 31),
            (132, Q8_0, 1, 128, 512, 1, 8),
            (132, Iq1S, 128, 128, 2048, 512, 7),
            (1, Q8_0, 1, 1, 32, 1, 1),
        ] {
            let row = (quant.bytes(width as u64).unwrap().0 as usize, width);
            let cut = Cut::new(multiprocessors, heads, rows, row, tokens.min(COLUMNS), tokens.div_ceil(COLUMNS));
            assert_eq!(cut.tile, tile, "{quant}, {heads} heads of {rows} × {width}");
            assert!(cut.shared <= 64 << 10, "{cut:?}");
        }
    }
}
