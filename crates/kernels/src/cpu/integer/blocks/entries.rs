//! Grids whose entries are words: a row's entry holds four numbers as bytes, or eight in parts of bytes.
//!
//! Entries are fetched for sixteen rows at once, by gathers where there are any.

use super::super::wide::Wide;
use super::bits::look_up;
use crate::cpu::decode::codebook;
use crate::tables::{IQ2_MAGNITUDES, grids};

/// Eight numbers of two bits: byte b holds number b from bit `first` on and number b + 4 from bit `second` on.
const fn eights<const N: usize>(packed: &[u16; N], first: usize, second: usize) -> [u32; N] {
    let mut grid = [0; N];
    let mut entry = 0;
    while entry < N {
        let mut i = 0;
        while i < 8 {
            let bit = 8 * (i % 4) + if i < 4 { first } else { second };
            grid[entry] |= (packed[entry] as u32 >> (2 * i) & 3) << bit;
            i += 1;
        }
        entry += 1;
    }
    grid
}

pub(super) static IQ2_XXS: [u32; 256] = eights(&grids::IQ2_XXS, 0, 4);
pub(super) static IQ2_XS: [u32; 512] = eights(&grids::IQ2_XS, 0, 4);
pub(super) static IQ2_S: [u32; 1024] = eights(&grids::IQ2_S, 0, 4);
pub(super) use codebook::{IQ3_S, IQ3_XXS};
/// A number's bits are where they stand for eight times it, and eight.
static IQ1: [u32; 2048] = eights(&grids::IQ1, 3, 5);

/// The bytes of a word, each with bits that do not matter above it.
#[inline(always)]
pub(super) fn byte_places<W: Wide>(w: W, x: W::V) -> [W::V; 4] {
    [x, w.shift_right::<8>(x), w.shift_right::<16>(x), w.shift_right::<24>(x)]
}

/// The four places whose low bits are the bytes of `low`, and whose upper bits are those of `mask` in a vector each.
#[inline(always)]
pub(super) fn places<W: Wide>(w: W, low: W::V, uppers: [W::V; 4], mask: i32) -> [W::V; 4] {
    let mut places = byte_places(w, low);
    for (place, upper) in places.iter_mut().zip(uppers) {
        *place = w.or(w.and(*place, w.each(0xff)), w.and(upper, w.each(mask)));
    }
    places
}

/// Four numbers of each of four places.
#[inline(always)]
pub(super) fn fours<W: Wide, const N: usize>(w: W, grid: &[u32; N], places: [W::V; 4]) -> [W::V; 4] {
    let mut found = places;
    for x in &mut found {
        *x = w.entries(grid, *x);
    }
    found
}

/// The bits of `mask` of four bytes, and those `SHIFT` above them, of each of four places.
#[inline(always)]
fn parts<W: Wide, const SHIFT: u32, const N: usize>(w: W, grid: &[u32; N], places: [W::V; 4], mask: u8) -> [W::V; 8] {
    let [a, b, c, d] = fours(w, grid, places);
    let [e, f, g, h] =
        [w.shift_right::<SHIFT>(a), w.shift_right::<SHIFT>(b), w.shift_right::<SHIFT>(c), w.shift_right::<SHIFT>(d)];
    let mut eight = [a, e, b, f, c, g, d, h];
    for x in &mut eight {
        *x = w.and(*x, w.bytes(mask));
    }
    eight
}

/// The magnitudes of eight numbers of each of four places.
#[inline(always)]
pub(super) fn iq2<W: Wide, const N: usize>(w: W, grid: &[u32; N], places: [W::V; 4]) -> [W::V; 8] {
    const MAGNITUDES: [u8; 16] = {
        let [a, b, c, d] = IQ2_MAGNITUDES;
        [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    };
    look_up(w, &MAGNITUDES, parts::<W, 4, N>(w, grid, places, 3))
}

/// Eight times eight numbers of each of four places, and eight.
#[inline(always)]
pub(super) fn iq1<W: Wide>(w: W, places: [W::V; 4]) -> [W::V; 8] {
    parts::<W, 2, 2048>(w, &IQ1, places, 0b11 << 3)
}
