//! Keys and values of heads made from latents (DeepSeek-V2, <https://arxiv.org/abs/2405.04434>, section 2.1), for attention of prompts.
//!
//! What it saves, for R1's widths and 4,096 tokens from the first position on: absorbed, a layer's pairs of query and position cost 2 · 1,088
//! operations each, 2.3 tera-operations in 128 heads; expanded they cost 2 · 320, 0.7, and the expansion 0.14.

use plan::KvType;

use super::kv::KvRows;
use super::launch::{Address, Param, Shape, launch};
use super::{CudaError, KvStore, Slice, SliceMut, Stream};

/// As in `expand.cu`: threads of a block, and positions and outputs that it makes.
const THREADS: u32 = 256;
const POSITIONS: usize = 128;
const OUTPUTS: usize = 128;
/// Numbers that are read and written at once.
const EIGHT: usize = 8;
/// The most blocks in the grid's second and third direction.
const BLOCKS_MAX: usize = 65_535;

/// Widths of latents and of what heads make of them, and the heads that are made at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expansion {
    /// Heads.
    pub heads: usize,
    /// Numbers of a latent.
    pub rank: usize,
    /// Numbers behind it, which every head's keys end with.
    pub rotated: usize,
    /// Numbers of a key before those.
    pub key: usize,
    /// Numbers of a value.
    pub value: usize,
}

/// Rows of some heads in floats, and how many numbers lie from one head's first to the next one's.
#[derive(Clone, Copy, Debug)]
pub struct HeadRooms<'a> {
    /// For each head `key` rows of `rank` numbers, or where `transposed` is set `rank` rows of `key`.
    pub keys: (Slice<'a, f32>, usize),
    /// For each head `value` rows of `rank` numbers.
    pub values: (Slice<'a, f32>, usize),
    /// How the first lie.
    pub transposed: bool,
}

/// `struct Expansion` of `expand.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    latents: KvRows,
    key_weights: Address,
    value_weights: Address,
    key_step: u32,
    value_step: u32,
    keys: Address,
    values: Address,
    positions: u32,
    rank: u32,
    rotated: u32,
    key: u32,
    value: u32,
}

// SAFETY: the kernel's structure, field for field.
unsafe impl Param for Parameters {}

impl Expansion {
    /// Whether latents that are kept so can be expanded on tensor cores: in halves or 8 bits, eight numbers at a time.
    #[must_use]
    pub fn serves(&self, kind: KvType) -> bool {
        let Self { rank, rotated, key, value, .. } = *self;
        let eights = [rank, rotated, key, value].iter().all(|count| count.is_multiple_of(EIGHT));
        // A scale of 8 bits is one for 32 numbers from a row's first on.
        kind != KvType::F32 && eights && rank > 0 && key > 0 && value > 0
    }

    /// Numbers of `f32` that keep the halves of all heads' keys at so many positions, and of their values.
    #[must_use]
    pub const fn numbers(&self, positions: usize) -> [usize; 2] {
        let rows = self.heads * positions;
        [rows * (self.key + self.rotated) / 2, rows * self.value / 2]
    }

    /// Numbers of a head's weights.
    #[must_use]
    pub const fn weights(&self) -> usize {
        (self.key + self.value) * self.rank
    }
}

/// `keys` and `values` of each head at the first `positions` positions of `latents`, as [`KvPart::halves`](super::KvPart::halves) takes them. Weights
/// are rounded to halves, and so are results: each is within 2^-11 of its own size and of the sum of its products' sizes.
///
/// # Errors
/// Where the launch fails.
///
/// # Panics
/// Where the latents cannot be expanded so ([`Expansion::serves`]), or lengths do not fit.
pub fn expand(
    stream: &Stream,
    latents: &KvStore,
    shape: &Expansion,
    weights: &HeadRooms<'_>,
    positions: usize,
    keys: &mut SliceMut<'_, f32>,
    values: &mut SliceMut<'_, f32>,
) -> Result<(), CudaError> {
    let Expansion { heads, rank, rotated, key, value } = *shape;
    assert!(shape.serves(latents.kind()), "{shape:?} of latents in {}", latents.kind().name());
    assert!(latents.heads() == 1 && latents.dim() == rank + rotated, "rows of {} for {shape:?}", latents.dim());
    assert!(positions <= latents.capacity(), "{positions} positions of {}", latents.capacity());
    let tiles = key.div_ceil(OUTPUTS) + value.div_ceil(OUTPUTS);
    assert!(heads <= BLOCKS_MAX && tiles <= BLOCKS_MAX, "{shape:?}");
    let lengths = [keys.len(), values.len()];
    assert!(shape.numbers(positions) == lengths, "{positions} positions of {shape:?} in {lengths:?} numbers");
    for ((rows, step), width) in [(weights.keys, key), (weights.values, value)] {
        let end = heads.saturating_sub(1).checked_mul(step).and_then(|last| last.checked_add(width * rank));
        assert!(heads == 0 || end.is_some_and(|end| end <= rows.len()), "weights of {heads} heads {step} apart");
        assert!(u32::try_from(step).is_ok() && step.is_multiple_of(4), "heads {step} apart");
        assert!(rows.address().0.is_multiple_of(16), "rows begin at multiples of 16 bytes");
    }
    let sixteen = |address: Address| address.0.is_multiple_of(16);
    assert!(sixteen(keys.address()) && sixteen(values.address()), "rows begin at multiples of 16 bytes");
    if heads == 0 || positions == 0 {
        return Ok(());
    }
    let parameters = Parameters {
        latents: latents.rows(),
        key_weights: weights.keys.0.address(),
        value_weights: weights.values.0.address(),
        key_step: weights.keys.1 as u32,
        value_step: weights.values.1 as u32,
        keys: keys.address(),
        values: values.address(),
        positions: positions as u32,
        rank: rank as u32,
        rotated: rotated as u32,
        key: key as u32,
        value: value as u32,
    };
    let way = if weights.transposed { "transposed_" } else { "" };
    let kernel = stream.kernel(&format!("expand_{way}{}", latents.kind().name()))?;
    let blocks = (positions.div_ceil(POSITIONS) as u32, heads as u32, tiles as u32);
    // SAFETY: weights, latents and outputs were checked against the shape; nothing else is touched.
    unsafe { launch!(stream, kernel, Shape { blocks, threads: (THREADS, 1), shared: 0 }, parameters) }
}
