//! Sums and products of vectors. Too little work for a second thread, and what the compiler makes of them is good.

/// `x += y`.
///
/// # Panics
/// Where the lengths differ.
pub fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "a sum's parts");
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Adds `bias` to each row of its length.
///
/// # Panics
/// Where `x` is not whole rows.
pub fn add_bias(x: &mut [f32], bias: &[f32]) {
    assert!(!bias.is_empty() && x.len().is_multiple_of(bias.len()), "{} numbers, rows of {}", x.len(), bias.len());
    for row in x.chunks_exact_mut(bias.len()) {
        add(row, bias);
    }
}

/// `x *= factor`.
pub fn scale(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

/// Multiplies each row of `width` numbers with its factor.
///
/// # Panics
/// Where there is not one factor for each row.
pub fn scale_rows(x: &mut [f32], factors: &[f32], width: usize) {
    assert_eq!(Some(x.len()), factors.len().checked_mul(width), "{} rows of {width}", factors.len());
    for (row, factor) in x.chunks_exact_mut(width.max(1)).zip(factors) {
        scale(row, *factor);
    }
}
