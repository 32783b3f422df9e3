//! Matrices times very many columns on cards whose tensor cores multiply halves as fast as those of large computers do.
//!
//! [`matmul`](super::matmul) weighs integers against halves. On an H100 integers are held up by what scales their sums: 8 multiply-adds of plain
//! cores for each product of tensor cores, twice that with scales for 16. Measured there, weights of 8192 numbers a row, 2048 columns, in TOP/s:
//! 236 with `Q4_K`, 123 with `Q6_K`; with weights unpacked to bytes beforehand, which leaves nothing but products and scaling, 265 and 189.
//! Halves need no scaling, so weights and columns are unpacked to them first, a room's worth at a time, and then multiplied with sums in f32:
//! 327 and 329, of which a seventh of the time is unpacking.
//! A weight and an activation are each within 2^-11 of their size; a column is divided by a power of two first, since halves end at 65,504.
//! Cards for games multiply halves at a quarter of the rate of bytes where sums are in f32, and stay with integers.

use plan::QuantType;
use plan::cost::gpu::{HALVES_COLUMNS, HALVES_DEPTH, HALVES_PART};

use super::launch::{Address, Param, Shape, launch};
use super::matvec::check_out;
use super::{Arena, CudaError, DeviceBuffer, Matrix, Quantized, SliceMut, Stream, in_integers};

/// As in `matmul_halves.cu`: rows and columns of a block, and the bytes of a row of both that it keeps at one time.
const ROWS: usize = 128;
const COLUMNS: usize = 128;
const STEPS: usize = 3 * 128;
/// Columns from which on types with a scale for each 32 numbers are faster so.
const MANY: usize = 1024;
const THREADS: u32 = 256;
const GROUP: usize = 32;

/// `struct HalveRows` of `halve.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct HalveRows {
    weights: Address,
    out: Address,
    rows: u32,
    row_groups: u32,
    first: u32,
    groups: u32,
}

/// `struct HalveColumns` of `halve.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct HalveColumns {
    codes: Address,
    scales: Address,
    out: Address,
    factors: Address,
    stride: u32,
    first: u32,
    groups: u32,
}

/// `struct Product` of `matmul_halves.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Product {
    weights: Address,
    x: Address,
    factors: Address,
    out: Address,
    rows: u32,
    columns: u32,
    depth: u32,
    out_step: u32,
    add: u32,
}

// SAFETY: the kernel's structure, field for field.
unsafe impl Param for HalveRows {}
// SAFETY: the kernel's structure, field for field.
unsafe impl Param for HalveColumns {}
// SAFETY: the kernel's structure, field for field.
unsafe impl Param for Product {}

/// Room on a card for parts of matrices and columns in halves.
#[derive(Debug)]
pub struct HalvesRoom {
    halves: DeviceBuffer<u16>,
    factors: DeviceBuffer<f32>,
}

/// A part of the columns and of their depth, which has been unpacked to the front of the room.
#[derive(Clone, Copy)]
struct Part {
    first: usize,
    count: usize,
    /// The first group of a row, and how many.
    group: usize,
    groups: usize,
}

impl HalvesRoom {
    /// Room of [`plan::cost::gpu::HALVES`] bytes.
    ///
    /// # Errors
    /// Where the arena has too little.
    pub fn new(arena: &mut Arena) -> Result<Self, CudaError> {
        let halves = plan::cost::gpu::HALVES.0 as usize / size_of::<u16>();
        Ok(Self { halves: arena.take(halves)?, factors: arena.take(HALVES_PART)? })
    }

    /// Whether this way is the faster one for a type and so many columns.
    #[must_use]
    pub fn serves(quant: QuantType, columns: usize) -> bool {
        use QuantType as Q;
        let scales_for_16 = matches!(quant, Q::Q2K | Q::Q3K | Q::Q6K | Q::Iq1M | Q::Iq2Xs | Q::Iq2S);
        fits_halves(quant) && columns >= if scales_for_16 { HALVES_COLUMNS as usize } else { MANY }
    }

    /// `out[t·out_step + r] = Σ_k w[r][k]·x[t][k]` for each column `t`. Each output is summed in one order, whatever the other rows and columns.
    ///
    /// # Errors
    /// Where a launch fails.
    ///
    /// # Panics
    /// Where the type is never [served](Self::serves), or lengths do not fit.
    pub fn multiply(
        &mut self,
        stream: &Stream,
        matrix: &Matrix<'_>,
        columns: &Quantized,
        out: &mut SliceMut<'_, f32>,
        out_step: usize,
    ) -> Result<(), CudaError> {
        matrix.check();
        assert!(fits_halves(matrix.quant), "no kernel that unpacks {}", matrix.quant);
        assert_eq!(columns.width(), matrix.width, "numbers of a column");
        check_out(matrix.rows, columns.columns(), out, out_step);
        for first in (0..columns.columns()).step_by(HALVES_PART) {
            for group in (0..matrix.width / GROUP).step_by(HALVES_DEPTH / GROUP) {
                let count = HALVES_PART.min(columns.columns() - first);
                let part =
                    Part { first, count, group, groups: (HALVES_DEPTH / GROUP).min(matrix.width / GROUP - group) };
                self.halve_columns(stream, columns, part)?;
                self.add_part(stream, matrix, part, out, out_step)?;
            }
        }
        Ok(())
    }

    /// Unpacks a part of the columns to the front of the room.
    fn halve_columns(&mut self, stream: &Stream, columns: &Quantized, part: Part) -> Result<(), CudaError> {
        let (stride, start) = (columns.stride(), part.first * columns.stride());
        let end = start + part.count * stride;
        let parameters = HalveColumns {
            codes: columns.codes().range(start..end).address(),
            scales: columns.scales().range(start / GROUP..end / GROUP).address(),
            out: self.halves.slice_mut().range(..part.count * part.groups * GROUP).address(),
            factors: self.factors.slice_mut().range(..part.count).address(),
            stride: stride as u32,
            first: part.group as u32,
            groups: part.groups as u32,
        };
        let kernel = stream.kernel("halve_columns")?;
        // SAFETY: ranges were taken as long as the kernel reads and writes them.
        unsafe { launch!(stream, kernel, Shape::line(part.count as u32, THREADS), parameters) }
    }

    /// Adds the products of all rows with a part of the columns, or begins with them.
    fn add_part(
        &mut self,
        stream: &Stream,
        matrix: &Matrix<'_>,
        part: Part,
        out: &mut SliceMut<'_, f32>,
        out_step: usize,
    ) -> Result<(), CudaError> {
        let Matrix { quant, weights, rows, width } = *matrix;
        let depth = part.groups * GROUP;
        let taken = part.count * depth;
        let (mut x, mut room) = self.halves.slice_mut().split_at(taken);
        let fit = room.len() / depth / ROWS * ROWS;
        let row_bytes = weights.len() / rows.max(1);
        let halve = stream.kernel(&format!("halve_{}", quant.name()))?;
        let multiply = stream.kernel("matmul_halves")?;
        for row in (0..rows).step_by(fit) {
            let count = fit.min(rows - row);
            let unpacked = room.range(..count * depth).address();
            let rows_of = HalveRows {
                weights: weights.range(row * row_bytes..(row + count) * row_bytes).address(),
                out: unpacked,
                rows: count as u32,
                row_groups: (width / GROUP) as u32,
                first: part.group as u32,
                groups: part.groups as u32,
            };
            let shape = Shape::line((count * part.groups).div_ceil(THREADS as usize) as u32, THREADS);
            // SAFETY: the matrix's bytes were checked; weights are read by whole 16 bytes around a row, which an allocation, beginning and ending
            // at multiples of 256, always has. `room` has as much as is written.
            unsafe { launch!(stream, halve, shape, rows_of)? }
            let first = part.first * out_step + row;
            let product = Product {
                weights: unpacked,
                x: x.range(..taken).address(),
                factors: self.factors.slice().address(),
                out: out.range(first..first + (part.count - 1) * out_step + count).address(),
                rows: count as u32,
                columns: part.count as u32,
                depth: depth as u32,
                out_step: out_step as u32,
                add: u32::from(part.group > 0),
            };
            let shape = Shape {
                blocks: (part.count.div_ceil(COLUMNS) as u32, count.div_ceil(ROWS) as u32, 1),
                threads: (THREADS, 1),
                shared: (STEPS * (ROWS + COLUMNS)) as u32,
            };
            // SAFETY: weights and columns lie in the room since the launches before; outputs were checked.
            unsafe { launch!(stream, multiply, shape, product)? }
        }
        Ok(())
    }
}

/// Whether weights of a type are unpacked to halves: those in MXFP4 may be beyond them, since their scales go from 2^-127 on.
fn fits_halves(quant: QuantType) -> bool {
    in_integers(quant) && quant != QuantType::Mxfp4
}
