//! Sixteen rows side by side: the instructions that integer products are written over.
//!
//! A [`Wide::V`] holds four bytes of each of sixteen rows, row r in lane r; sums, scales and products have the same lanes. So
//! nothing is ever added up across lanes, every row's sum has one order, and it is the same for every instruction set.
//! Must never know a quantization type.

mod portable;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod grid_dot;

pub(crate) use self::portable::Portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use self::{
    avx2::{Avx2, AvxVnni},
    avx512::Avx512,
};

/// Rows of a panel: the lanes of all vectors here.
pub(crate) const ROWS: usize = 16;

/// Four bytes of each row, in memory.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quad(pub(crate) [[u8; 4]; ROWS]);

/// One number of each row, in memory.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column(pub(crate) [f32; ROWS]);

/// What sums of integers begin at: a float's bits, so that a sum of magnitude below 2²² is that float plus itself, whose last
/// place is one. Then to scale it and take the float off again is one instruction, as converting it would be.
pub(crate) const DOTS_FROM: i32 = 0x4b40_0000;

/// The float.
pub(crate) const SHIFT: f32 = 12_582_912.0;

/// One instruction set, by way of a token that proves that the processor has it.
///
/// Shifts are of whole lanes: what crosses from one byte to the next is for the caller to mask.
pub(crate) trait Wide: Copy {
    /// Four bytes, or one `i32`, of each row.
    type V: Copy;
    /// One `f32` of each row.
    type F: Copy;

    /// Whether products are added up in 16 bits, by twos: then [`dot`](Self::dot) holds only as long as they fit these.
    const PAIRS: bool;
    /// How many vectors fit the processor's registers: none where nothing is known of them.
    const REGISTERS: usize;
    /// Whether [`lookup_128s`](Self::lookup_128s), [`windows`](Self::windows) and [`lookup_64`](Self::lookup_64) are instructions.
    const TABLES: bool = false;

    fn load(self, from: &Quad) -> Self::V;
    fn store(self, x: Self::V, to: &mut Quad);
    /// The same four bytes, or the same `i32`, for each row.
    fn each(self, x: i32) -> Self::V;
    /// The same byte everywhere.
    #[inline(always)]
    fn bytes(self, x: u8) -> Self::V {
        self.each(i32::from_le_bytes([x; 4]))
    }
    /// Sixteen bytes of each row, whose bytes at `from` are `stride` apart: four at a time.
    ///
    /// # Safety
    /// `from + r · stride` is good for reading 16 bytes, for each r below 16.
    unsafe fn sixteen(self, from: *const u8, stride: usize) -> [Self::V; 4];
    fn and(self, a: Self::V, b: Self::V) -> Self::V;
    fn or(self, a: Self::V, b: Self::V) -> Self::V;
    fn xor(self, a: Self::V, b: Self::V) -> Self::V;
    fn shift_left<const BITS: u32>(self, x: Self::V) -> Self::V;
    fn shift_right<const BITS: u32>(self, x: Self::V) -> Self::V;
    /// Byte by byte.
    fn add_bytes(self, a: Self::V, b: Self::V) -> Self::V;
    /// Byte by byte.
    fn sub_bytes(self, a: Self::V, b: Self::V) -> Self::V;
    /// Each byte, which is below 16, replaced by the table's.
    fn lookup(self, table: &[u8; 16], x: Self::V) -> Self::V;
    /// Each byte of `low`, with the bits of `upper`'s byte above it, replaced by the entry of `128 · T` that it counts out. `T` is
    /// 2, 4 or 8; bits of `upper` that are too many do not matter.
    #[inline(always)]
    fn lookup_128s<const T: usize>(self, tables: &[[u8; 128]; T], low: Self::V, upper: Self::V) -> Self::V {
        let tables = tables.as_flattened();
        self.bytewise(low, upper, |low, upper| tables[(usize::from(low) | usize::from(upper) << 8) % tables.len()])
    }
    /// Each byte replaced by the entry that its lowest six bits count out.
    #[inline(always)]
    fn lookup_64(self, table: &[u8; 64], x: Self::V) -> Self::V {
        self.bytewise(x, x, |x, _| table[usize::from(x % 64)])
    }
    /// For each row the entry of a grid that its word counts out. `N` is a power of two; bits that are too many do not matter.
    fn entries<const N: usize>(self, grid: &[u32; N], places: Self::V) -> Self::V;
    /// For byte b of each row the eight bits of the row's word from bit `FIRST + b · STEP` on, which is −7 to 31; those that the
    /// word does not have may be anything.
    #[inline(always)]
    fn windows<const FIRST: i32, const STEP: i32>(self, x: Self::V) -> Self::V {
        let mut quad = Quad([[0; 4]; ROWS]);
        self.store(x, &mut quad);
        for row in &mut quad.0 {
            let word = u64::from(u32::from_le_bytes(*row)) << 8;
            *row = std::array::from_fn(|b| (word >> (FIRST + b as i32 * STEP + 8)) as u8);
        }
        self.load(&quad)
    }
    /// A function of two bytes, by way of memory.
    #[inline(always)]
    fn bytewise(self, a: Self::V, b: Self::V, f: impl Fn(u8, u8) -> u8) -> Self::V {
        let mut quads = [Quad([[0; 4]; ROWS]); 2];
        self.store(a, &mut quads[0]);
        self.store(b, &mut quads[1]);
        let [a, b] = &mut quads;
        for (a, b) in a.0.as_flattened_mut().iter_mut().zip(b.0.as_flattened()) {
            *a = f(*a, *b);
        }
        self.load(a)
    }
    /// Where bit b of the `FIRST`-th nibble of a row's `signs` is set, the row's byte b is replaced by its negative.
    fn negate<const FIRST: u32>(self, x: Self::V, signs: Self::V) -> Self::V;
    /// What [`dot`](Self::dot) adds products to, which [`end`](Self::end) adds to `sums`.
    fn begin(self, sums: Self::V) -> Self::V;
    /// `parts + a · x` over the four unsigned bytes of `a` and the four signed ones of `x` (not −128).
    fn dot(self, parts: Self::V, a: Self::V, x: Self::V) -> Self::V;
    /// The sums that `parts` began with, and the products that have been added since.
    fn end(self, sums: Self::V, parts: Self::V) -> Self::V;
    /// `sums + a · x` for any bytes of `a`: signed ones where products are added up by twos, else unsigned ones.
    fn dot_full(self, sums: Self::V, a: Self::V, x: Self::V) -> Self::V;
    /// `sums + g · x` over the 32 bytes of the four entries that a row's four bytes at `from` and on count out of the grid, which are below
    /// 64 and negative where the row's bit of `signs` is set. From one row's bytes to the next it is `stride`.
    ///
    /// # Safety
    /// `from + r · stride` is good for reading 4 bytes, for each r below 16.
    #[inline(always)]
    unsafe fn grid_dot(
        self,
        sums: Self::V,
        grid: &[u64; 256],
        from: *const u8,
        stride: usize,
        signs: Self::V,
        x: &[[i8; 4]; 8],
    ) -> Self::V {
        let mut quads = [Quad([[0; 4]; ROWS]); 2];
        self.store(sums, &mut quads[0]);
        self.store(signs, &mut quads[1]);
        let [sums, signs] = &mut quads;
        for (row, (sum, signs)) in sums.0.iter_mut().zip(signs.0).enumerate() {
            // SAFETY: the caller's.
            let places = unsafe { *from.add(row * stride).cast::<[u8; 4]>() };
            let entries = places.map(|place| grid[usize::from(place)].to_le_bytes());
            let signs = u32::from_le_bytes(signs);
            let mut all = i32::from_le_bytes(*sum);
            for (i, (g, x)) in entries.as_flattened().iter().zip(x.as_flattened()).enumerate() {
                let product = i32::from(*g) * i32::from(*x);
                all = all.wrapping_add(if signs >> i & 1 == 1 { -product } else { product });
            }
            *sum = all.to_le_bytes();
        }
        self.load(sums)
    }
    /// Signed integers as floats.
    fn to_float(self, x: Self::V) -> Self::F;
    /// The low half of each lane as a float.
    fn low_half(self, x: Self::V) -> Self::F;
    /// The lanes' bits as floats.
    fn as_float(self, x: Self::V) -> Self::F;
    fn each_float(self, x: f32) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`; with one rounding but in portable code, where that would be slow.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn load_floats(self, from: &Column) -> Self::F;
    fn store_floats(self, x: Self::F, to: &mut Column);
    /// Sixteen small integers times a factor, and [`DOTS_FROM`] added.
    fn starts(self, x: &[i16; ROWS], factor: i32) -> Self::V;
    /// `dots · scale` for sums that began at [`DOTS_FROM`], one rounding in all. `shift` is `scale · −SHIFT`, exactly.
    #[inline(always)]
    fn scaled(self, dots: Self::V, scale: Self::F, shift: Self::F) -> Self::F {
        self.mul_add(self.as_float(dots), scale, shift)
    }
    /// Asks for the cache line of an address, which need not exist.
    fn prefetch(self, at: *const u8);

    /// Byte `I` of each lane as a number from 0 to 255.
    #[inline(always)]
    fn byte<const BITS: u32>(self, x: Self::V) -> Self::F {
        self.to_float(self.and(self.shift_right::<BITS>(x), self.each(255)))
    }
}

/// For each byte of four rows, which byte holds the row's nibble `FIRST` out of four.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn spread_of_nibble<const FIRST: u32>() -> std::arch::x86_64::__m128i {
    let place = (FIRST / 2) as i32 * 0x0101_0101;
    // SAFETY: SSE2 is part of the platform.
    unsafe { std::arch::x86_64::_mm_setr_epi32(place, place + 0x0404_0404, place + 0x0808_0808, place + 0x0c0c_0c0c) }
}

/// For each byte of a row, the bit of the nibble's byte that is its own.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
const fn own_bits(first: u32) -> i32 {
    if first.is_multiple_of(2) { i32::from_le_bytes([1, 2, 4, 8]) } else { i32::from_le_bytes([16, 32, 64, 128]) }
}
