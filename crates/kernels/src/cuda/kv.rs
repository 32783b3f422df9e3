//! The rows of keys or values that attention looks back at, on a card.

use std::marker::PhantomData;

use plan::{Bytes, KvType};

use super::launch::{Address, Param};
use super::{Arena, CudaError, DeviceBuffer, Slice, SliceMut};

/// Numbers of a `q8_0` block.
const GROUP: usize = 32;

/// One layer's K or V: for each head `capacity` rows of `dim` numbers, in as many bytes as [`cpu::KvStore`](crate::cpu::KvStore) takes.
///
/// `F32` and `F16` lie as there. Of `Q8_0` the codes of all rows come first, each row rounded up to whole blocks of 32, and then the scales of
/// all rows, so that codes are read by whole words; values are the same.
#[derive(Debug)]
pub struct KvStore {
    kind: KvType,
    heads: usize,
    dim: usize,
    capacity: usize,
    bytes: DeviceBuffer<u8>,
}

/// `struct KvRows` of `kv.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct KvRows {
    base: Address,
    kind: u32,
    heads: u32,
    dim: u32,
    capacity: u32,
}

// SAFETY: the kernels' structure, field for field.
unsafe impl Param for KvRows {}

/// Keys or values that attention looks back at: a [store](KvStore)'s, or rows of halves in any memory.
#[derive(Clone, Copy)]
pub struct KvPart<'a> {
    kind: KvType,
    rows: KvRows,
    memory: PhantomData<&'a ()>,
}

impl<'a> KvPart<'a> {
    /// Rows of halves, two of them in each number of `memory`: for each head `capacity` rows of `dim`.
    ///
    /// # Panics
    /// Where the memory is shorter, or does not begin at a multiple of 16 bytes.
    #[must_use]
    pub fn halves(memory: Slice<'a, f32>, heads: usize, dim: usize, capacity: usize) -> Self {
        let halves = heads.checked_mul(capacity).and_then(|rows| rows.checked_mul(dim));
        assert!(halves.is_some_and(|halves| halves <= 2 * memory.len()), "{heads} × {capacity} × {dim} halves");
        assert!([heads, dim, capacity].iter().all(|count| *count < 1 << 31), "{heads} × {capacity} × {dim}");
        assert!(memory.address().0.is_multiple_of(16), "rows begin at multiples of 16 bytes");
        let (heads, dim, capacity) = (heads as u32, dim as u32, capacity as u32);
        let rows = KvRows { base: memory.address(), kind: 1, heads, dim, capacity };
        Self { kind: KvType::F16, rows, memory: PhantomData }
    }

    pub(super) const fn kind(&self) -> KvType {
        self.kind
    }

    pub(super) const fn heads(&self) -> usize {
        self.rows.heads as usize
    }

    pub(super) const fn dim(&self) -> usize {
        self.rows.dim as usize
    }

    pub(super) const fn capacity(&self) -> usize {
        self.rows.capacity as usize
    }

    pub(super) const fn rows(&self) -> KvRows {
        self.rows
    }

    /// Whether both are the same rows.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.rows.base == other.rows.base && self.dim() == other.dim()
    }
}

impl KvRows {
    /// Where nothing is kept.
    pub(super) const NONE: Self = Self { base: Address::NONE, kind: 0, heads: 0, dim: 0, capacity: 0 };
}

impl KvStore {
    /// A store for `capacity` positions, with whatever its bytes hold.
    ///
    /// # Errors
    /// Where the arena has too little.
    ///
    /// # Panics
    /// Where there is nothing to keep or more than 2^32 of anything.
    pub fn new(arena: &mut Arena, kind: KvType, heads: usize, dim: usize, capacity: usize) -> Result<Self, CudaError> {
        let counts = [heads, dim, capacity];
        assert!(counts.iter().all(|count| *count > 0 && *count < 1 << 31), "{heads} × {capacity} × {dim}");
        let bytes = arena.take(Self::len(kind, heads, dim, capacity))?;
        Ok(Self { kind, heads, dim, capacity, bytes })
    }

    /// What such a store takes of an arena.
    #[must_use]
    pub fn bytes(kind: KvType, heads: usize, dim: usize, capacity: usize) -> Bytes {
        Arena::bytes_of::<u8>(Self::len(kind, heads, dim, capacity))
    }

    fn len(kind: KvType, heads: usize, dim: usize, capacity: usize) -> usize {
        heads.saturating_mul(capacity).saturating_mul(kind.bytes(dim as u64).0 as usize)
    }

    /// How the numbers are kept.
    #[must_use]
    pub const fn kind(&self) -> KvType {
        self.kind
    }

    /// Heads.
    #[must_use]
    pub const fn heads(&self) -> usize {
        self.heads
    }

    /// Numbers of a row.
    #[must_use]
    pub const fn dim(&self) -> usize {
        self.dim
    }

    /// Positions it holds.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// What attention looks back at.
    #[must_use]
    pub const fn part(&self) -> KvPart<'_> {
        KvPart { kind: self.kind, rows: self.rows(), memory: PhantomData }
    }

    /// All its bytes.
    #[must_use]
    pub const fn slice(&self) -> Slice<'_, u8> {
        self.bytes.slice()
    }

    /// All its bytes, to write.
    #[must_use]
    pub const fn slice_mut(&mut self) -> SliceMut<'_, u8> {
        self.bytes.slice_mut()
    }

    /// Bytes of a row's codes: of `Q8_0` its scales lie elsewhere.
    pub(super) const fn row_bytes(&self) -> usize {
        match self.kind {
            KvType::F32 => 4 * self.dim,
            KvType::F16 => 2 * self.dim,
            KvType::Q8_0 => self.dim.next_multiple_of(GROUP),
        }
    }

    /// Bytes of a row's scales that lie apart.
    pub(super) const fn scale_bytes(&self) -> usize {
        match self.kind {
            KvType::F32 | KvType::F16 => 0,
            KvType::Q8_0 => self.dim.div_ceil(GROUP) * 2,
        }
    }

    /// One row out of a copy of all bytes.
    ///
    /// # Panics
    /// Where the copy is not that long, or there is no such row.
    #[must_use]
    pub fn row_of(&self, copy: &[u8], head: usize, position: usize) -> Vec<f32> {
        assert_eq!(copy.len(), self.bytes.len(), "a copy of all bytes");
        assert!(head < self.heads && position < self.capacity, "head {head}, position {position}");
        let row = head * self.capacity + position;
        let numbers = &copy[row * self.row_bytes()..][..self.row_bytes()];
        let half = |bytes: &[u8]| half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        match self.kind {
            KvType::F32 => numbers.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            KvType::F16 => numbers.chunks(2).map(half).collect(),
            KvType::Q8_0 => {
                let groups = self.dim.div_ceil(GROUP);
                let scales = &copy[self.heads * self.capacity * self.row_bytes() + row * groups * 2..];
                let number = |i: usize| half(&scales[i / GROUP * 2..]) * f32::from(numbers[i] as i8);
                (0..self.dim).map(number).collect()
            }
        }
    }

    pub(super) const fn rows(&self) -> KvRows {
        KvRows {
            base: self.bytes.slice().address(),
            kind: match self.kind {
                KvType::F32 => 0,
                KvType::F16 => 1,
                KvType::Q8_0 => 2,
            },
            heads: self.heads as u32,
            dim: self.dim as u32,
            capacity: self.capacity as u32,
        }
    }
}
