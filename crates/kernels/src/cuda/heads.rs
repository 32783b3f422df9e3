//! What happens to heads of queries, keys and values between the matrices that make them and attention, in one launch for a layer: norm,
//! rotation, growth with the position, and the way into the cache.

use super::kv::KvRows;
use super::launch::{Address, Param, Shape, launch};
use super::{Arena, CudaError, DeviceBuffer, Gpu, KvStore, Rows, Slice, SliceMut, Stream};
use crate::cpu::RopeStyle;
use plan::KvType;

/// Heads, and so warps, of a block.
const WARPS: usize = 4;
/// The widest head.
pub const HEAD_DIM_MAX: usize = 2048;
/// Parts of one launch.
const PARTS: usize = 3;

/// Cosines and sines of a pass's positions on a card, computed there once for all layers and heads that share frequencies: what
/// [`cpu::RopeTable`](crate::cpu::RopeTable) is, computed alike in `f64`.
#[derive(Debug)]
pub struct RopeTable {
    frequencies: DeviceBuffer<f32>,
    turns: DeviceBuffer<f32>,
    attention_factor: f32,
    tokens: usize,
}

impl RopeTable {
    /// A table for passes of up to `tokens` tokens; frequencies and factor as in [`cpu::RopeTable::fill`](crate::cpu::RopeTable::fill).
    ///
    /// # Errors
    /// Where the arena has too little, or the copy fails.
    pub fn new(
        gpu: &Gpu,
        arena: &mut Arena,
        frequencies: &[f32],
        attention_factor: f32,
        tokens: usize,
    ) -> Result<Self, CudaError> {
        let turns = arena.take(2 * frequencies.len() * tokens)?;
        let mut on_card = arena.take(frequencies.len())?;
        gpu.compute().upload_now(frequencies, &mut on_card.slice_mut())?;
        Ok(Self { frequencies: on_card, turns, attention_factor, tokens: 0 })
    }

    /// What such a table takes of an arena.
    #[must_use]
    pub const fn bytes(pairs: usize, tokens: usize) -> plan::Bytes {
        plan::Bytes(Arena::bytes_of::<f32>(2 * pairs * tokens).0 + Arena::bytes_of::<f32>(pairs).0)
    }

    /// Computes the turns of `tokens` positions from the one that `position` holds when the stream comes to it.
    ///
    /// # Errors
    /// Where the launch fails.
    ///
    /// # Panics
    /// Where the table has not the room, or `position` is not one word.
    pub fn fill(&mut self, stream: &Stream, position: Slice<'_, u32>, tokens: usize) -> Result<(), CudaError> {
        let pairs = self.pairs();
        assert!(2 * pairs * tokens <= self.turns.len(), "no room for {tokens} tokens");
        assert_eq!(position.len(), 1, "a position");
        self.tokens = tokens;
        if pairs == 0 || tokens == 0 {
            return Ok(());
        }
        let kernel = stream.kernel("turns")?;
        let (from, out) = (self.frequencies.slice().address(), self.turns.slice_mut().address());
        // SAFETY: a block for each token writes 2 · pairs numbers, for which there is room.
        unsafe {
            let shape = Shape::line(tokens as u32, 128);
            launch!(stream, kernel, shape, position.address(), from, self.attention_factor, pairs as u32, out)
        }
    }

    /// Pairs that are turned.
    #[must_use]
    pub const fn pairs(&self) -> usize {
        self.frequencies.len()
    }
}

/// Adds `count` to the position: the last step of a pass that is replayed.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// Where `position` is not one word.
pub fn advance(stream: &Stream, position: &mut SliceMut<'_, u32>, count: u32) -> Result<(), CudaError> {
    assert_eq!(position.len(), 1, "a position");
    let kernel = stream.kernel("advance")?;
    // SAFETY: one word, borrowed alone.
    unsafe { launch!(stream, kernel, Shape::line(1, 32), position.address(), count) }
}

/// The norm of each head, or of as many of its first numbers as there are weights: `x / sqrt(mean(x²) + eps)`, times the weight where there
/// is one.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorm<'a> {
    /// A head's weights.
    pub weight: Option<Slice<'a, f32>>,
    /// Keeps a head of zeros from dividing by zero.
    pub eps: f32,
    /// Whether heads are normed after they were turned.
    pub last: bool,
}

/// Which numbers of a head turn, and how they are paired; as many as the table has pairs of.
#[derive(Clone, Copy, Debug)]
pub struct HeadTurn {
    /// The first.
    pub offset: usize,
    /// Which are a pair.
    pub style: RopeStyle,
}

/// Numbers grow by `1 + growth · ln(1 + ⌊(position + 1) / floor⌋)` (Llama 4's queries).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// Positions of a step; above 0.
    pub floor: f32,
    /// What a step's logarithm counts.
    pub growth: f32,
}

/// Where heads go.
#[derive(Debug)]
pub enum HeadsTo<'a, 'b> {
    /// To numbers, head after head and token after token.
    Numbers(&'a mut SliceMut<'b, f32>),
    /// The same, of which each head's numbers begin so many behind the one's before: something else lies between.
    Apart(&'a mut SliceMut<'b, f32>, usize),
    /// Back to these numbers, where they are instead of in `from.numbers`: tokens `from.step` apart, and heads behind each other in them.
    Back(&'a mut SliceMut<'b, f32>),
    /// To the rows of the pass's positions in a cache, from this number of each row on (a multiple of 32 in rows of `Q8_0`).
    Store(&'a mut KvStore, usize),
}

/// Heads of each token that are treated alike: queries, keys or values.
#[derive(Debug)]
pub struct HeadPart<'a, 'b> {
    /// Each token's heads.
    pub from: Rows<'a>,
    /// Numbers from one head's begin to the next's: the head's width, or more where something else lies between.
    pub head_step: usize,
    /// Heads of a token.
    pub heads: usize,
    /// Numbers of a head.
    pub dim: usize,
    /// Whether and how heads are normed.
    pub norm: Option<HeadNorm<'a>>,
    /// Whether and how they turn.
    pub turn: Option<HeadTurn>,
    /// Whether they grow.
    pub growth: Option<Growth>,
    /// Where they go.
    pub to: HeadsTo<'a, 'b>,
}

/// `struct HeadPart` of `heads.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Part {
    x: Address,
    out: Address,
    kept: KvRows,
    kept_from: u32,
    out_step: u32,
    token_step: u32,
    head_step: u32,
    heads: u32,
    dim: u32,
    weight: Address,
    normed: u32,
    norm: u32,
    eps: f32,
    turned_from: u32,
    pairs: u32,
    interleaved: u32,
    floor: f32,
    growth: f32,
}

/// `struct HeadParts` of `heads.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parts([Part; PARTS]);

// SAFETY: the kernel's structure, field for field.
unsafe impl Param for Parts {}

/// Takes up to three kinds of heads of `tokens` tokens to where they go; the first token stands where `position` says when the stream comes to
/// it. What would lie beyond a cache's capacity is not kept.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// Where lengths and widths do not fit each other, or `table` does not hold the pass's turns.
pub fn heads(
    stream: &Stream,
    parts: &mut [HeadPart<'_, '_>],
    tokens: usize,
    table: Option<&RopeTable>,
    position: Slice<'_, u32>,
) -> Result<(), CudaError> {
    assert!(parts.len() <= PARTS, "{} parts", parts.len());
    assert_eq!(position.len(), 1, "a position");
    let all: usize = parts.iter().map(|part| part.heads).sum();
    if tokens == 0 || all == 0 {
        return Ok(());
    }
    let mut packed = [Part::NONE; PARTS];
    let mut room = 0;
    for (packed, part) in packed.iter_mut().zip(&mut *parts) {
        *packed = part.parameters(tokens, table);
        room = room.max(part.dim);
    }
    let turns = table.map_or(Address::NONE, |table| table.turns.slice().address());
    let kernel = stream.kernel("heads")?;
    let shape = Shape {
        blocks: (tokens as u32, all.div_ceil(WARPS) as u32, 1),
        threads: ((WARPS * 32) as u32, 1),
        shared: (WARPS * room * 4) as u32,
    };
    // SAFETY: `parameters` checked every part against its inputs and outputs, which are borrowed alone where they are written.
    unsafe { launch!(stream, kernel, shape, Parts(packed), parts.len() as u32, room as u32, turns, position.address()) }
}

impl Part {
    const NONE: Self = Self {
        x: Address::NONE,
        out: Address::NONE,
        kept: KvRows::NONE,
        kept_from: 0,
        out_step: 0,
        token_step: 0,
        head_step: 0,
        heads: 0,
        dim: 0,
        weight: Address::NONE,
        normed: 0,
        norm: 0,
        eps: 0.0,
        turned_from: 0,
        pairs: 0,
        interleaved: 0,
        floor: 0.0,
        growth: 0.0,
    };
}

impl HeadPart<'_, '_> {
    fn parameters(&mut self, tokens: usize, table: Option<&RopeTable>) -> Part {
        let (heads, dim) = (self.heads, self.dim);
        assert!(dim > 0 && dim <= HEAD_DIM_MAX && heads < 65_536, "{heads} heads of {dim}");
        let numbers = match &self.to {
            HeadsTo::Back(numbers) => numbers.as_slice(),
            _ => self.from.numbers,
        };
        if heads > 0 {
            let width = (heads - 1).checked_mul(self.head_step).and_then(|last| last.checked_add(dim));
            Rows { numbers, step: self.from.step }.check(tokens, width.unwrap_or(usize::MAX));
        }
        let x = numbers.address();
        let (out, out_step, kept, kept_from) = match &mut self.to {
            HeadsTo::Numbers(out) => {
                assert_eq!(out.len(), tokens * heads * dim, "room for {tokens} tokens of {heads} heads");
                (out.address(), dim, KvRows::NONE, 0)
            }
            HeadsTo::Back(out) => {
                let apart = heads.checked_mul(self.head_step);
                assert!(self.head_step >= dim && apart == Some(self.from.step), "tokens of {heads} heads");
                (out.address(), self.head_step, KvRows::NONE, 0)
            }
            HeadsTo::Apart(out, step) => {
                let end = (tokens * heads).saturating_sub(1).checked_mul(*step).and_then(|last| last.checked_add(dim));
                assert!(*step >= dim && u32::try_from(*step).is_ok(), "heads of {dim}, {step} apart");
                assert!(
                    heads == 0 || end.is_some_and(|end| end <= out.len()),
                    "room for {tokens} tokens of {heads} heads"
                );
                (out.address(), *step, KvRows::NONE, 0)
            }
            HeadsTo::Store(store, from) => {
                assert!(store.heads() == heads && *from + dim <= store.dim(), "{heads} heads of {dim} from {from}");
                let whole = from.is_multiple_of(32) && (*from + dim == store.dim() || dim.is_multiple_of(32));
                assert!(store.kind() != KvType::Q8_0 || whole, "{dim} numbers from {from}");
                (Address::NONE, 0, store.rows(), *from as u32)
            }
        };
        let mut part = Part {
            x,
            out,
            kept,
            kept_from,
            out_step: out_step as u32,
            token_step: self.from.step as u32,
            head_step: self.head_step as u32,
            heads: heads as u32,
            dim: dim as u32,
            ..Part::NONE
        };
        if let Some(HeadNorm { weight, eps, last }) = self.norm {
            let normed = weight.map_or(dim, |weight| weight.len());
            assert!(normed > 0 && normed <= dim, "a norm of {normed} numbers in heads of {dim}");
            part.normed = normed as u32;
            (part.weight, part.norm, part.eps) = (Address::of(weight), if last { 2 } else { 1 }, eps);
        }
        if let Some(HeadTurn { offset, style }) = self.turn {
            let Some(table) = table else { panic!("heads turn without a table") };
            let pairs = table.pairs();
            assert!(table.tokens == tokens, "turns of {} tokens for {tokens}", table.tokens);
            assert!(offset + 2 * pairs <= dim, "{pairs} pairs from {offset} in heads of {dim}");
            part.interleaved = u32::from(style == RopeStyle::Interleaved);
            (part.turned_from, part.pairs) = (offset as u32, pairs as u32);
        }
        if let Some(Growth { floor, growth }) = self.growth {
            assert!(floor > 0.0, "a floor of {floor}");
            (part.floor, part.growth) = (floor, growth);
        }
        part
    }
}
