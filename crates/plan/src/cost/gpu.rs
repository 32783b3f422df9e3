//! What a card holds besides weights and the KV cache.
//!
//! The engine takes its buffers in one allocation each for weights, activations, caches and the ring; where it needs more than is counted here,
//! it refuses to open.

use super::{CHOICE, LOGIT_ROWS, Widths};
use crate::{Bytes, Gpu, Inventory, Role, Unit};

/// What a CUDA context with its kernels takes on a small card, where nobody has measured it: the driver's part grows with the card's
/// multiprocessors, and an H100's is 532 MiB.
pub const CONTEXT: Bytes = Bytes(448 << 20);
/// Units start at multiples of this in a card's memory.
pub const ALIGNMENT: u64 = 256;
/// What allocations lose because a card's memory is given out in whole 2 MiB, eight of them, with the zeros behind the last unit and the
/// gaps between caches; and what the driver takes beyond a probe's context while a model runs: `nvidia-smi` showed up to 46 MiB more.
pub const SLACK: Bytes = Bytes(32 * (2 << 20));

/// Multiprocessors of the largest cards, by which attention is cut into splits: a plan does not ask which card it is.
const MULTIPROCESSORS: u64 = 192;
/// Queries of all splits of attention for each multiprocessor, at most: two blocks of 64 queries on each, cut in two.
const SPLIT_QUERIES: u64 = 256;
/// The same of latents: one block of 32 queries.
const SPLIT_LATENT_QUERIES: u64 = 64;
/// Addresses of an expert's three matrices.
const TABLES: u64 = 3 * 8;
/// Entries of their lists, which are 16 bytes each and lose up to 12 where one is a list of its own.
const ENTRIES: u64 = 3 * (16 + 12);
/// Choices of 8 tokens, of 4 bytes.
const UNTOLD: u64 = 8 * 4;
/// Ropes of one model.
const ROPES: u64 = 2;

/// Room for parts of matrices and of columns in 16 bits, on cards that [multiply in halves](in_halves): 4,096 rows of [`HALVES_DEPTH`] numbers
/// and [`HALVES_PART`] columns.
pub const HALVES: Bytes = Bytes(96 << 20);
/// Columns from which on products go by way of that room.
pub const HALVES_COLUMNS: u32 = 512;
/// The most columns that are in it at one time.
pub const HALVES_PART: usize = 2048;
/// The most numbers of a row.
pub const HALVES_DEPTH: usize = 8192;

/// Whether tensor cores of this compute capability multiply halves, with sums in 32 bits, at half the rate of bytes, as those of large computers
/// do (A100, H100, B200), and not at a quarter. Source: CUDA C++ Programming Guide, "Arithmetic Instructions", results per clock.
#[must_use]
pub const fn in_halves(capability: (u32, u32)) -> bool {
    capability.0 >= 8 && capability.1 == 0
}

/// What products of many columns take besides activations, for a micro-batch of so many tokens.
#[must_use]
pub fn halves(capability: (u32, u32), micro_batch: u32) -> Bytes {
    let serves = in_halves(capability) && micro_batch >= HALVES_COLUMNS;
    if serves { HALVES + Bytes((4 * HALVES_PART as u64).next_multiple_of(ALIGNMENT)) } else { Bytes::ZERO }
}

/// The driver's own part of a card.
#[must_use]
pub fn process(gpu: &Gpu) -> Bytes {
    if gpu.context == Bytes::ZERO { CONTEXT } else { gpu.context }
}

/// Bytes that a unit occupies on a card.
#[must_use]
pub const fn resident(unit: &Unit) -> Bytes {
    Bytes(unit.bytes.0.next_multiple_of(ALIGNMENT))
}

/// Copies of all vectors (norms, biases), as 32-bit floats, each at a multiple of 256 bytes.
#[must_use]
pub fn vectors(inventory: &Inventory) -> Bytes {
    let run = |unit: &&Unit| unit.role != Role::MultiToken && inventory.is_vector(unit);
    let numbers = |unit: &Unit| unit.rows * inventory.tensor_of(unit).row_elements();
    inventory.units.iter().filter(run).map(|unit| Bytes((4 * numbers(unit)).next_multiple_of(ALIGNMENT))).sum()
}

/// Tokens of a pass whose experts may be fetched, at most.
pub const FETCH_TOKENS: u64 = 8;

/// What fetched experts are computed with, besides their rooms, for [`FETCH_TOKENS`] tokens each:
///
/// ```text
///   4 × embedding                     the sum of their outputs
/// + 40 B for each 32 of embedding     the input in 8 bits
/// + 40 B for each 32 of feed_forward  what their second matrices read, a column for each expert of a token
/// + 4 B × used                        which of them lies where
/// + 32 KiB                            tables of addresses; each buffer starts at a multiple of 256 bytes
/// + 96 B × kept                       the same of rooms whose experts stay, for four kinds of them
/// ```
#[must_use]
pub fn fetched(widths: &Widths, kept: u64) -> Bytes {
    let runs = widths.embedding.div_ceil(32) + widths.feed_forward.div_ceil(32) + 4 * widths.experts_used;
    Bytes(FETCH_TOKENS * (4 * widths.embedding + 40 * runs + 4 * widths.experts_used) + (32 << 10) + 96 * kept)
}

/// Buffers of activations, in 32-bit floats unless said, but for latents' ([`gpu_latent`](super::gpu_latent)):
///
/// ```text
/// micro_batch × ( 4 × embedding      residual, normed, result of a block, spare
///               + 3 × attention      what attention's input makes, queries, attention's output
///               + kv                 keys and values before they are stored
///               + 3 × feed_forward   gate, up, product
///               + experts            the router's scores
///               + 2 × head           turns of two ropes
///               + 72 B × used        choices, their weights, and lists of columns by expert
///               + 40 B for each 32   the widest row in 8 bits, with a scale and a sum
///               + 4 B )              the token
/// + of mixtures:
///   micro_batch × 40 B for each 32     experts' inner numbers in 8 bits, with a scale and a sum
///   24 B × experts × layers            where gate, up and down of each expert lie
///   84 B × experts                     entries of lists by expert, as many as pairs at most
///   32 B × used × layers               choices of a few tokens that are told when their pass is over
/// + what splits of attention gather  256 queries for each multiprocessor, of latents 64: a head's numbers and two more
/// + LOGIT_ROWS × vocabulary          logits
/// + 16 KiB                           each buffer starts at a multiple of 256 bytes
/// ```
#[must_use]
pub fn activations(widths: &Widths, micro_batch: u32) -> Bytes {
    let widest = widths.embedding.max(widths.attention).max(widths.feed_forward);
    let floats = 4 * widths.embedding
        + 3 * widths.attention
        + widths.kv
        + 3 * widths.feed_forward
        + widths.experts
        + ROPES * widths.head;
    // Each chosen expert's inner numbers are a column of their own, which may end within a run.
    let runs = widest.div_ceil(32) + widths.experts_used;
    let token = 4 * floats + CHOICE.0 * widths.experts_used + 40 * runs + 4;
    let queries = if widths.latent == 0 { SPLIT_QUERIES } else { SPLIT_LATENT_QUERIES };
    let gathered = 4 * MULTIPROCESSORS * queries * (widths.head + 2);
    let logits = 4 * u64::from(LOGIT_ROWS) * widths.vocabulary;
    Bytes(token * u64::from(micro_batch) + mixtures(widths, micro_batch) + gathered + logits + (16 << 10))
}

/// What mixtures need besides what every block does.
fn mixtures(widths: &Widths, micro_batch: u32) -> u64 {
    let Widths { experts, experts_used: used, layers, feed_forward, .. } = *widths;
    if experts == 0 {
        return 0;
    }
    let pairs = used * u64::from(micro_batch);
    let inner = 40 * (feed_forward.div_ceil(32) + used) * u64::from(micro_batch);
    inner + TABLES * experts * layers + ENTRIES * experts.min(pairs) + UNTOLD * used * layers
}
