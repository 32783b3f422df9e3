//! What a caller asks for, and whether it fits the slices that come with it.

use plan::QuantType;

use crate::cpu::{Activations, integer, supports};

/// What matrices are multiplied with.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// All columns.
    pub numbers: &'a [f32],
    /// The same, cut into columns as long as a row, for the matrices that are multiplied [in
    /// integers](crate::cpu::in_integers). Without them every matrix is unpacked to `f32`: exact, and several times slower.
    pub quantized: Option<&'a Activations>,
}

impl<'a> Input<'a> {
    /// The columns in integers, where a matrix of this type is multiplied with those.
    pub(super) fn integers(&self, quant: QuantType) -> Option<&'a Activations> {
        self.quantized.filter(|_| integer::takes(quant))
    }
}

/// A quantized matrix and the columns it is multiplied with.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// How the weights are stored.
    pub quant: QuantType,
    /// The rows, one after the other.
    pub weights: &'a [u8],
    /// How many rows.
    pub rows: usize,
    /// Where the columns and their outputs lie.
    pub columns: Columns<'a>,
}

/// Where columns start in the input and their outputs in the output, in numbers.
#[derive(Clone, Copy, Debug)]
pub enum Columns<'a> {
    /// The same step from each to the next.
    Strided {
        /// Where the first column starts.
        from: usize,
        /// From one column to the next.
        from_step: usize,
        /// Where the first column's outputs start.
        to: usize,
        /// From the outputs of one column to those of the next.
        to_step: usize,
        /// How many columns.
        count: usize,
    },
    /// Each on its own: the tokens that chose an expert.
    Listed(&'a [Column]),
}

/// One column and its outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Where the column starts in the input, in numbers.
    pub from: usize,
    /// Where its outputs start in the output, in numbers.
    pub to: usize,
}

/// A quantized matrix and the columns whose products with it are weighted and added to what is there.
#[derive(Clone, Copy, Debug)]
pub struct WeightedJob<'a> {
    /// How the weights are stored.
    pub quant: QuantType,
    /// The rows, one after the other.
    pub weights: &'a [u8],
    /// How many rows.
    pub rows: usize,
    /// The columns, in the order in which they are added.
    pub columns: &'a [WeightedColumn],
}

/// One column, the outputs it adds to, and by how much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightedColumn {
    /// Where the column starts in the input, in numbers.
    pub from: usize,
    /// Where the outputs start, in numbers.
    pub to: usize,
    /// What the product is multiplied with.
    pub weight: f32,
}

impl Columns<'_> {
    /// How many columns.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Strided { count, .. } => *count,
            Self::Listed(columns) => columns.len(),
        }
    }

    /// Whether there is no column.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The column at `index`.
    #[inline(always)]
    pub(crate) fn at(&self, index: usize) -> Column {
        match *self {
            Self::Strided { from, from_step, to, to_step, .. } => {
                Column { from: from + index * from_step, to: to + index * to_step }
            }
            Self::Listed(columns) => columns[index],
        }
    }

    /// Panics unless each column lies within the input and its outputs within the output; both as (numbers of one
    /// column, numbers of the slice).
    pub(super) fn check(&self, from: (usize, usize), to: (usize, usize)) {
        match *self {
            // Steps do not go back, so the last column lies highest.
            Self::Strided { from: first, from_step, to: first_to, to_step, count } if count > 0 => {
                let last = |first, step| (count - 1).checked_mul(step).and_then(|far| far.checked_add(first));
                check_column(last(first, from_step).unwrap_or(usize::MAX), from.0, from.1);
                check_column(last(first_to, to_step).unwrap_or(usize::MAX), to.0, to.1);
            }
            Self::Strided { .. } => {}
            Self::Listed(columns) => {
                for column in columns {
                    check_column(column.from, from.0, from.1);
                    check_column(column.to, to.0, to.1);
                }
            }
        }
    }
}

/// Panics unless `count` numbers from `start` are within `length`; no numbers lie anywhere.
pub(super) fn check_column(start: usize, count: usize, length: usize) {
    let fits = start.checked_add(count).is_some_and(|end| end <= length);
    assert!(fits || count == 0, "a column of {count} numbers at {start} of {length}");
}

/// Panics unless the kernels take the type, rows are whole blocks and the bytes hold all of them.
pub(super) fn check_weights(quant: QuantType, weights: &[u8], rows: usize, row_elements: usize) {
    assert!(supports(quant), "no kernel multiplies {quant}: ask `supports` first");
    let whole = row_elements.is_multiple_of(quant.block_elements());
    assert!(whole, "a row of {row_elements} is not whole blocks of {quant}");
    let row_bytes = row_bytes(quant, row_elements);
    let fits = rows.checked_mul(row_bytes).is_some_and(|need| need <= weights.len());
    assert!(fits, "{} bytes for {rows} rows of {row_bytes}", weights.len());
}

/// Panics unless columns were quantized where the type needs it.
pub(super) fn check_quantized(quant: QuantType, row_elements: usize, x: &Input) {
    let Some(quantized) = x.integers(quant) else { return };
    let (width, columns) = (quantized.width(), quantized.columns());
    assert!(width == row_elements, "columns were quantized {width} numbers long, rows have {row_elements}");
    assert!(columns * width <= x.numbers.len(), "{columns} columns of {width} were quantized of fewer numbers");
}

/// Bytes of a row.
#[inline(always)]
pub(in crate::cpu) fn row_bytes(quant: QuantType, row_elements: usize) -> usize {
    row_elements / quant.block_elements() * quant.block_bytes()
}

/// Whether no output belongs to two columns; `outputs` says how many one column of a job has. Slow.
pub(super) fn apart(jobs: &[Job], outputs: impl Fn(&Job) -> usize) -> bool {
    let mut all = Vec::new();
    for job in jobs.iter().filter(|job| outputs(job) > 0) {
        all.extend((0..job.columns.len()).map(|i| (job.columns.at(i).to, outputs(job))));
    }
    all.sort_unstable();
    all.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0)
}

/// Whether outputs of two columns are the same or apart. Slow.
pub(super) fn apart_or_equal(jobs: &[WeightedJob], rows: usize) -> bool {
    let mut all: Vec<usize> = jobs.iter().flat_map(|job| job.columns.iter().map(|column| column.to)).collect();
    all.sort_unstable();
    all.dedup();
    all.windows(2).all(|pair| pair[0] + rows <= pair[1])
}
