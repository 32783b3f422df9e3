//! Columns of activations in 8 bits on a card: what products with quantized weights read.

use plan::Bytes;

use super::launch::{Shape, launch};
use super::{Arena, CudaError, DeviceBuffer, Slice, Stream};

/// Numbers that share a scale.
const GROUP: usize = 32;
/// Threads of a block of the kernel; each takes four numbers.
const THREADS: usize = 256;

/// Columns of one length, quantized as the CPU's [`Activations`](crate::cpu::Activations) are: for each 32 numbers the largest magnitude over
/// 127 as the scale, and codes rounded to the nearest, ties to even.
///
/// Columns lie one behind another: `stride` codes of a byte (the width rounded up to 32, zeros behind it), and elsewhere for each
/// 32 codes the scale (`f32`) and the sums of the first and the last 16 codes (`i16`).
#[derive(Debug)]
pub struct Quantized {
    codes: DeviceBuffer<i8>,
    scales: DeviceBuffer<u64>,
    width: usize,
    columns: usize,
}

impl Quantized {
    /// Room for `columns` columns of up to `width` numbers.
    ///
    /// # Errors
    /// Where the arena has too little.
    pub fn new(arena: &mut Arena, width: usize, columns: usize) -> Result<Self, CudaError> {
        let codes = arena.take(stride_of(width) * columns)?;
        let scales = arena.take(codes.len() / GROUP)?;
        Ok(Self { codes, scales, width: 0, columns: 0 })
    }

    /// What such room takes of an arena.
    #[must_use]
    pub const fn bytes(width: usize, columns: usize) -> Bytes {
        let codes = stride_of(width).saturating_mul(columns);
        Bytes(Arena::bytes_of::<i8>(codes).0 + Arena::bytes_of::<u64>(codes / GROUP).0)
    }

    /// Replaces all columns by those of `x`, `width` numbers each, in the stream's time. A number that is not finite makes its group's scale
    /// NaN, and so every product that it takes part in.
    ///
    /// # Errors
    /// Where the launch fails.
    ///
    /// # Panics
    /// Where `x` is not whole columns or there is no room for them.
    pub fn quantize(&mut self, stream: &Stream, x: Slice<'_, f32>, width: usize) -> Result<(), CudaError> {
        assert!(width > 0 && x.len().is_multiple_of(width), "{} numbers are not columns of {width}", x.len());
        let columns = x.len() / width;
        let stride = self.resize(width, columns);
        if columns == 0 {
            return Ok(());
        }
        let kernel = stream.kernel("quantize")?;
        let shape = Shape {
            blocks: (stride.div_ceil(4 * THREADS) as u32, columns as u32, 1),
            ..Shape::line(1, THREADS as u32)
        };
        // SAFETY: `x` has `columns · width` numbers, and `resize` made sure of `columns · stride` codes and their scales.
        unsafe {
            launch!(
                stream,
                kernel,
                shape,
                x.address(),
                width as u32,
                width as u32,
                self.codes.slice().address(),
                self.scales.slice().address(),
                stride as u32
            )
        }
    }

    /// Makes this `columns` columns of `width` numbers, whose contents a kernel writes next, and returns their stride.
    ///
    /// # Panics
    /// Where there is no room.
    pub(crate) fn resize(&mut self, width: usize, columns: usize) -> usize {
        let stride = stride_of(width);
        assert!(
            stride.saturating_mul(columns) <= self.codes.len() && columns <= 65_535,
            "no room for {columns} columns of {width}: {} codes",
            self.codes.len()
        );
        (self.width, self.columns) = (width, columns);
        stride
    }

    /// Numbers of a column.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// How many columns.
    #[must_use]
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// Codes from one column to the next.
    #[must_use]
    pub const fn stride(&self) -> usize {
        stride_of(self.width)
    }

    /// The codes of all columns.
    #[must_use]
    pub fn codes(&self) -> Slice<'_, i8> {
        self.codes.slice().range(..self.stride() * self.columns)
    }

    /// For each 32 codes, from the lowest bits: the scale's 32, the sums of the first and of the last 16 codes in 16 each.
    #[must_use]
    pub fn scales(&self) -> Slice<'_, u64> {
        self.scales.slice().range(..self.stride() * self.columns / GROUP)
    }
}

const fn stride_of(width: usize) -> usize {
    width.div_ceil(GROUP).saturating_mul(GROUP)
}
