//! The rows of keys or values that attention looks back at.

mod rows;

use std::ops::Range;

use plan::KvType;

use super::Pool;
use super::isa::Kernel;
use super::simd::{LANES, Lanes, Portable, Simd};
use crate::memory::{AllocError, Buffer};
use crate::tables::u16_at;

/// Numbers of a `q8_0` block, and its bytes: a half for the scale, then the numbers as signed bytes.
const Q8_BLOCK: usize = 32;
const Q8_BYTES: usize = 34;

/// Numbers that one task of [`KvStore::read_rows`] reads.
const READ_NUMBERS: usize = 32 * 1024;

/// One layer's K or V: for each head, `capacity` rows of `dim` numbers. A head's rows lie together, so that attention
/// reads one run of memory for each head.
#[derive(Debug)]
pub struct KvStore {
    kind: KvType,
    heads: usize,
    dim: usize,
    capacity: usize,
    row_bytes: usize,
    buffer: Buffer,
}

impl KvStore {
    /// An empty store for `capacity` positions.
    ///
    /// # Errors
    /// [`AllocError`] where the system gives no memory.
    pub fn try_new(kind: KvType, heads: usize, dim: usize, capacity: usize) -> Result<Self, AllocError> {
        let row_bytes = kind.bytes(dim as u64).0 as usize;
        let bytes = heads.checked_mul(capacity).and_then(|rows| rows.checked_mul(row_bytes));
        let buffer = Buffer::try_new(bytes.ok_or(AllocError { bytes: usize::MAX })?)?;
        Ok(Self { kind, heads, dim, capacity, row_bytes, buffer })
    }

    /// How the numbers are kept.
    #[must_use]
    pub fn kind(&self) -> KvType {
        self.kind
    }

    /// Heads.
    #[must_use]
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Numbers of a row.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Positions it holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes it takes when all its pages are touched.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Keeps the rows of one position, heads × dim.
    ///
    /// # Panics
    /// Where the position is beyond the capacity or `rows` has another length.
    pub fn write(&mut self, position: usize, rows: &[f32]) {
        assert!(position < self.capacity, "position {position} of {}", self.capacity);
        assert_eq!(rows.len(), self.heads * self.dim, "{} heads of {}", self.heads, self.dim);
        for (head, numbers) in rows.chunks_exact(self.dim).enumerate() {
            let at = (head * self.capacity + position) * self.row_bytes;
            let row = &mut self.buffer[at..][..self.row_bytes];
            match self.kind {
                KvType::F32 => encode(row.chunks_exact_mut(4), numbers, f32::to_le_bytes),
                KvType::F16 => encode(row.chunks_exact_mut(2), numbers, |x| half::f16::from_f32(x).to_le_bytes()),
                KvType::Q8_0 => {
                    for (block, numbers) in row.chunks_exact_mut(Q8_BYTES).zip(numbers.chunks(Q8_BLOCK)) {
                        encode_q8(block, numbers);
                    }
                }
            }
        }
    }

    /// Makes an F32 store of other sizes of this one, in the memory it has. What it kept is lost.
    ///
    /// # Panics
    /// Where it keeps another type, or has not the room.
    pub fn reshape(&mut self, heads: usize, dim: usize, capacity: usize) {
        assert_eq!(self.kind, KvType::F32, "only stores of whole numbers are shaped anew");
        let numbers = heads.checked_mul(dim).and_then(|row| row.checked_mul(capacity));
        let room = self.buffer.len() / 4;
        assert!(numbers.is_some_and(|n| n <= room), "{heads} × {dim} × {capacity} numbers in a store of {room}");
        (self.heads, self.dim, self.capacity, self.row_bytes) = (heads, dim, capacity, 4 * dim);
    }

    /// All numbers of an F32 store: for each head its rows, one after the other.
    ///
    /// # Panics
    /// Where it keeps another type.
    pub fn numbers_mut(&mut self) -> &mut [f32] {
        assert_eq!(self.kind, KvType::F32, "only stores of whole numbers are written as such");
        let numbers = self.heads * self.capacity * self.dim;
        &mut self.buffer.as_f32_mut()[..numbers]
    }

    /// The rows of one position as they were kept, heads × dim.
    ///
    /// # Panics
    /// Where the position is beyond the capacity or `rows` has another length.
    pub fn read(&self, position: usize, rows: &mut [f32]) {
        assert!(position < self.capacity, "position {position} of {}", self.capacity);
        assert_eq!(rows.len(), self.heads * self.dim, "{} heads of {}", self.heads, self.dim);
        for (head, numbers) in rows.chunks_exact_mut(self.dim).enumerate() {
            self.read_row(Portable, head, position, 0, numbers);
        }
    }

    /// The numbers `numbers` of one head's rows at `positions`, one row after the other: how latents come back.
    ///
    /// # Panics
    /// Where head, positions or numbers lie outside of the store, the first number is not a multiple of 32, or `out` has
    /// another length.
    pub fn read_rows(&self, pool: &Pool, head: usize, positions: Range<usize>, numbers: Range<usize>, out: &mut [f32]) {
        let within = head < self.heads && positions.end <= self.capacity && numbers.end <= self.dim;
        assert!(within, "head {head}, {positions:?}, {numbers:?} of {} × {} × {}", self.heads, self.capacity, self.dim);
        assert!(numbers.start.is_multiple_of(Q8_BLOCK), "numbers from {}", numbers.start);
        let width = numbers.len();
        assert_eq!(out.len(), positions.len() * width, "{} rows of {width}", positions.len());
        if out.is_empty() {
            return;
        }
        let rows = (READ_NUMBERS / width).max(1);
        pool.run_pieces(out, rows * width, &|i, out| {
            let position = positions.start + i * rows;
            pool.isa().run(ReadRows { store: self, head, position, from: numbers.start, width, out });
        });
    }

    /// The bytes of one row.
    #[inline(always)]
    pub(super) fn row(&self, head: usize, position: usize) -> &[u8] {
        &self.buffer[(head * self.capacity + position) * self.row_bytes..][..self.row_bytes]
    }

    /// The bytes of `count` rows of a head from position `first` on, or of as many as there are.
    #[inline(always)]
    pub(super) fn some_rows(&self, head: usize, first: usize, count: usize) -> &[u8] {
        let first = first.min(self.capacity);
        let count = count.min(self.capacity - first);
        &self.buffer[(head * self.capacity + first) * self.row_bytes..][..count * self.row_bytes]
    }

    /// `out.len()` numbers of a row from number `from`, a multiple of 32.
    #[inline(always)]
    pub(super) fn read_row<S: Simd>(&self, s: S, head: usize, position: usize, from: usize, out: &mut [f32]) {
        let row = self.row(head, position);
        match self.kind {
            KvType::F32 => read::<S, F32>(s, row, from / LANES, out),
            KvType::F16 => read::<S, F16>(s, row, from / LANES, out),
            KvType::Q8_0 => read::<S, Q8>(s, row, from / LANES, out),
        }
    }
}

/// How the numbers of a row come into registers: whole numbers in groups of sixteen, which are to be multiplied with
/// a scale where the type has one.
pub(super) trait Stored {
    /// Groups that share a scale; 0 where there are none.
    const SCALED: usize;

    /// Groups that lie in a row as a whole.
    fn whole(row: &[u8]) -> usize;

    /// The numbers of such a group.
    fn load<S: Simd>(s: S, row: &[u8], group: usize) -> S::F;

    /// The bits of a group's scale, a half.
    #[inline(always)]
    fn scale(_: &[u8], _: usize) -> u16 {
        0
    }

    /// The numbers of a group of which only the first ones lie in the row.
    fn load_end<S: Simd>(s: S, row: &[u8], group: usize) -> S::F;
}

/// Floats.
pub(super) struct F32;

impl Stored for F32 {
    const SCALED: usize = 0;

    #[inline(always)]
    fn whole(row: &[u8]) -> usize {
        row.len() / (4 * LANES)
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, row: &[u8], group: usize) -> S::F {
        s.floats(&row.as_chunks().0[group])
    }

    #[inline(always)]
    fn load_end<S: Simd>(s: S, row: &[u8], group: usize) -> S::F {
        s.floats(&padded(&row[4 * LANES * group..]))
    }
}

/// Halves.
pub(super) struct F16;

impl Stored for F16 {
    const SCALED: usize = 0;

    #[inline(always)]
    fn whole(row: &[u8]) -> usize {
        row.len() / (2 * LANES)
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, row: &[u8], group: usize) -> S::F {
        s.halves_to_f32(&row.as_chunks().0[group])
    }

    #[inline(always)]
    fn load_end<S: Simd>(s: S, row: &[u8], group: usize) -> S::F {
        s.halves_to_f32(&padded(&row[2 * LANES * group..]))
    }
}

/// Blocks of `q8_0`.
pub(super) struct Q8;

impl Stored for Q8 {
    const SCALED: usize = Q8_BLOCK / LANES;

    #[inline(always)]
    fn whole(row: &[u8]) -> usize {
        row.len() / Q8_BYTES * (Q8_BLOCK / LANES)
    }

    #[inline(always)]
    fn load<S: Simd>(s: S, row: &[u8], group: usize) -> S::F {
        let block = &row.as_chunks::<Q8_BYTES>().0[group / 2];
        s.signed(s.bytes(&block[2..].as_chunks().0[group % 2]))
    }

    #[inline(always)]
    fn scale(row: &[u8], group: usize) -> u16 {
        u16_at(&row.as_chunks::<Q8_BYTES>().0[group / 2], 0)
    }

    #[inline(always)]
    fn load_end<S: Simd>(s: S, row: &[u8], group: usize) -> S::F {
        // Rows have whole blocks.
        Self::load(s, row, group)
    }
}

/// Bytes of a row's end as those of a whole vector.
#[inline(always)]
fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut whole = [0; N];
    whole[..bytes.len()].copy_from_slice(bytes);
    whole
}

/// Numbers of a row from number 16 · `group` on.
#[inline(always)]
fn read<S: Simd, N: Stored>(s: S, row: &[u8], group: usize, out: &mut [f32]) {
    let (whole, rest) = out.as_chunks_mut::<LANES>();
    let end = group + whole.len();
    for (group, out) in (group..).zip(whole) {
        s.store(scaled::<S, N>(s, row, group, N::load(s, row, group)), out);
    }
    if !rest.is_empty() {
        let mut lanes: Lanes = [0.0; LANES];
        // The row may go on beyond what is read.
        let numbers = if end < N::whole(row) { N::load(s, row, end) } else { N::load_end(s, row, end) };
        s.store(scaled::<S, N>(s, row, end, numbers), &mut lanes);
        rest.copy_from_slice(&lanes[..rest.len()]);
    }
}

#[inline(always)]
fn scaled<S: Simd, N: Stored>(s: S, row: &[u8], group: usize, numbers: S::F) -> S::F {
    if N::SCALED > 0 { s.mul(s.splat(s.half(N::scale(row, group))), numbers) } else { numbers }
}

/// Some numbers of the rows from `position` on.
struct ReadRows<'a> {
    store: &'a KvStore,
    head: usize,
    position: usize,
    from: usize,
    width: usize,
    out: &'a mut [f32],
}

impl Kernel for ReadRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (position, out) in (self.position..).zip(self.out.chunks_exact_mut(self.width)) {
            self.store.read_row(s, self.head, position, self.from, out);
        }
    }
}

fn encode<'a, const N: usize>(
    places: impl Iterator<Item = &'a mut [u8]>,
    numbers: &[f32],
    bytes: impl Fn(f32) -> [u8; N],
) {
    for (place, number) in places.zip(numbers) {
        place.copy_from_slice(&bytes(*number));
    }
}

/// Up to 32 numbers as whole multiples of their largest magnitude / 127; missing ones are 0.
fn encode_q8(block: &mut [u8], numbers: &[f32]) {
    let largest = numbers.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    block.fill(0);
    block[..2].copy_from_slice(&half::f16::from_f32(scale).to_le_bytes());
    for (place, number) in block[2..].iter_mut().zip(numbers) {
        *place = (number * inverse).round() as i8 as u8;
    }
}
