//! Chosen experts of a mixture, found on the card by tables of addresses: a token's layer is two launches, and nobody waits for the choice.

use std::sync::Arc;

use plan::QuantType;

use super::launch::{Address, Shape, launch};
use super::matvec::{Cut, in_integers};
use super::memory::Block;
use super::{Arena, CudaError, DeviceBuffer, Matrix, Quantized, Slice, SliceMut, Stream};

/// The most experts of a token.
pub const CHOICES_MAX: usize = 32;
/// Rows of a block of the first launch: a group of what the second reads.
const UP_ROWS: usize = 32;
/// Warps of a block of the second: which experts are here, and so the cut, is known on the card only.
const DOWN_WARPS: u32 = 8;
/// Rows of a tile at most, as in `rows.cuh`, and blocks that the registers of a multiprocessor hold.
const TILE: usize = 64;
const RESIDENT: usize = 4;

/// Where each expert's matrix of one kind (gate, up or down) of a layer lies on the card, if it is there.
#[derive(Debug)]
pub struct ExpertTable {
    quant: QuantType,
    rows: usize,
    width: usize,
    /// By expert; 0 for those that are not here.
    addresses: Vec<u64>,
    on_card: DeviceBuffer<u64>,
    /// Keeps the memory behind the addresses, and behind those that the card's copy of them still has.
    blocks: Vec<Option<Arc<Block>>>,
    replaced: Vec<Arc<Block>>,
}

impl ExpertTable {
    /// A table of `experts` matrices of one shape and type, none of them here yet.
    ///
    /// # Errors
    /// Where the arena has too little.
    ///
    /// # Panics
    /// Where the type is not multiplied [in integers](super::in_integers) or rows are not whole blocks.
    pub fn new(
        arena: &mut Arena,
        quant: QuantType,
        experts: usize,
        rows: usize,
        width: usize,
    ) -> Result<Self, CudaError> {
        assert!(in_integers(quant), "no integer kernel for {quant}");
        assert!(width.is_multiple_of(quant.block_elements()), "rows of {width} in {quant}");
        let (addresses, blocks) = (vec![0; experts], vec![None; experts]);
        Ok(Self { quant, rows, width, addresses, on_card: arena.take(experts)?, blocks, replaced: Vec::new() })
    }

    /// Says that an expert's matrix begins at byte `at` of `buffer`, or that it is not here. Takes effect with [`upload`](Self::upload).
    ///
    /// # Panics
    /// Where there is no such expert, the buffer is too short, or the address odd.
    pub fn set(&mut self, expert: usize, place: Option<(&DeviceBuffer<u8>, usize)>) {
        self.replaced.extend(self.blocks[expert].take());
        self.addresses[expert] = 0;
        let Some((buffer, at)) = place else { return };
        let bytes = self.quant.bytes(self.width as u64).map_or(0, |row| row.0 as usize) * self.rows;
        let weights = buffer.slice().range(at..at + bytes);
        Matrix { quant: self.quant, weights, rows: self.rows, width: self.width }.check();
        self.addresses[expert] = weights.address().0;
        self.blocks[expert] = Some(Arc::clone(buffer.block()));
    }

    /// Sends the table to the card.
    ///
    /// # Errors
    /// Where the copy fails.
    pub fn upload(&mut self, stream: &Stream) -> Result<(), CudaError> {
        stream.upload_now(&self.addresses, &mut self.on_card.slice_mut())?;
        self.replaced.clear();
        Ok(())
    }

    /// How many experts.
    #[must_use]
    pub fn experts(&self) -> usize {
        self.addresses.len()
    }
}

/// Which experts each token uses.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// Numbers of experts, `per_token` for each token. A number that no expert has chooses nothing.
    pub experts: Slice<'a, u32>,
    /// How much each counts.
    pub weights: Slice<'a, f32>,
    /// Choices of a token.
    pub per_token: usize,
}

/// How gate g and up u of an expert join.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Joining {
    /// g·sigmoid(g)·u.
    Silu,
    /// gelu(g)·u, in the form with tanh.
    Gelu,
    /// g·sigmoid(alpha·g)·(u + 1) with g at most `limit` and u within ±`limit`.
    Clamped {
        /// The limit.
        limit: f32,
        /// The factor in the sigmoid.
        alpha: f32,
    },
}

/// Gate, up and what joins them, for each choice: `out`'s column `t·per_token + j` is token t's with its j-th expert, rounded to 8 bits; zeros
/// where that expert is not here. `biases` are the gates' and the ups', `rows` numbers for each expert.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// Where the two tables or any lengths do not fit.
#[allow(clippy::too_many_arguments)]
pub fn experts_up(
    stream: &Stream,
    gate: &ExpertTable,
    up: &ExpertTable,
    biases: Option<[Slice<'_, f32>; 2]>,
    joining: Joining,
    columns: &Quantized,
    chosen: &Chosen<'_>,
    out: &mut Quantized,
) -> Result<(), CudaError> {
    let ExpertTable { quant, rows, width, .. } = *gate;
    assert!((quant, rows, width) == (up.quant, up.rows, up.width), "gate and up of one shape and type");
    assert_eq!(gate.experts(), up.experts(), "experts of gate and up");
    assert_eq!(columns.width(), width, "numbers of a column");
    let choices = columns.columns() * chosen.per_token;
    assert_eq!(chosen.experts.len(), choices, "choices of {} tokens", columns.columns());
    let biases = addresses_of(biases.as_ref().map_or(&[], <[_; 2]>::as_slice), gate);
    let stride = out.resize(rows, choices);
    if choices == 0 || rows == 0 {
        return Ok(());
    }
    let (number, limit, alpha) = match joining {
        Joining::Silu => (0, 0.0, 0.0),
        Joining::Gelu => (1, 0.0, 0.0),
        Joining::Clamped { limit, alpha } => (2, limit, alpha),
    };
    let kernel = stream.kernel(&format!("experts_up_{}", quant.name()))?;
    let Cut { warps, .. } = Cut::new(1, TILE, rows, width);
    let blocks = (rows.div_ceil(UP_ROWS) as u32, choices as u32, 1);
    let shape = Shape { blocks, threads: ((warps * 32) as u32, 1), shared: 0 };
    // SAFETY: tables hold whole matrices of their shape, whose memory they keep; numbers of experts are held against theirs on the card; `resize`
    // made sure of the outputs, whose groups of 32 are as many as blocks write.
    unsafe {
        launch!(
            stream,
            kernel,
            shape,
            gate.on_card.slice().address(),
            up.on_card.slice().address(),
            gate.experts() as u32,
            chosen.experts.address(),
            chosen.per_token as u32,
            rows as u32,
            (width / 32) as u32,
            columns.codes().address(),
            columns.scales().address(),
            columns.stride() as u32,
            biases[0],
            biases[1],
            number as u32,
            limit,
            alpha,
            out.codes().address(),
            out.scales().address(),
            stride as u32
        )
    }
}

/// `out[t·out_stride + r] = Σ_j weight[t][j]·(w_e[r]·column[t·per_token + j] + bias_e[r])` over a token's experts e in the order of choice, or that
/// added to what is there. Experts that are not here add nothing.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// Where a token has more than [`CHOICES_MAX`] choices, or lengths do not fit.
#[allow(clippy::too_many_arguments)]
pub fn experts_down(
    stream: &Stream,
    down: &ExpertTable,
    bias: Option<Slice<'_, f32>>,
    columns: &Quantized,
    chosen: &Chosen<'_>,
    out: &mut SliceMut<'_, f32>,
    out_stride: usize,
    add: bool,
) -> Result<(), CudaError> {
    let ExpertTable { quant, rows, width, .. } = *down;
    let choices = columns.columns();
    assert!((1..=CHOICES_MAX).contains(&chosen.per_token), "{} experts of a token", chosen.per_token);
    assert!(
        chosen.experts.len() == choices && chosen.weights.len() == choices,
        "experts and weights of {choices} choices"
    );
    assert!(columns.width() == width && choices.is_multiple_of(chosen.per_token), "{choices} columns of {width}");
    let bias = addresses_of(bias.as_slice(), down);
    let tokens = choices / chosen.per_token;
    if tokens == 0 || rows == 0 {
        return Ok(());
    }
    let fit = (tokens - 1).saturating_mul(out_stride).saturating_add(rows) <= out.len() && rows <= out_stride;
    assert!(
        fit && u32::try_from(out_stride).is_ok(),
        "{rows} rows of {tokens} tokens do not fit {} outputs",
        out.len()
    );
    let kernel = stream.kernel(&format!("experts_down_{}", quant.name()))?;
    // All of a token's choices are one long row.
    let slots = stream.info().multiprocessors as usize * RESIDENT;
    let Cut { tile, .. } = Cut::new(slots, TILE, rows * tokens, width * chosen.per_token);
    let shape = Shape { blocks: (rows.div_ceil(tile) as u32, tokens as u32, 1), ..Shape::line(1, DOWN_WARPS * 32) };
    // SAFETY: as in `experts_up`; the outputs fit.
    unsafe {
        launch!(
            stream,
            kernel,
            shape,
            down.on_card.slice().address(),
            down.experts() as u32,
            chosen.experts.address(),
            chosen.weights.address(),
            chosen.per_token as u32,
            rows as u32,
            tile as u32,
            (width / 32) as u32,
            columns.codes().address(),
            columns.scales().address(),
            columns.stride() as u32,
            bias[0],
            out.address(),
            out_stride as u32,
            u32::from(add)
        )
    }
}

/// Addresses of biases of a table's matrices, 0 for none.
fn addresses_of(biases: &[Slice<'_, f32>], table: &ExpertTable) -> [Address; 2] {
    let mut addresses = [Address(0); 2];
    for (address, bias) in addresses.iter_mut().zip(biases) {
        assert_eq!(bias.len(), table.experts() * table.rows, "a bias for each row of each expert");
        *address = bias.address();
    }
    addresses
}
