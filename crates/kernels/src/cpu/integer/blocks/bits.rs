//! Bits of sixteen rows' words, moved to where codes have them.

use super::super::panel::Unpacked;
use super::super::wide::{Quad, Wide};

/// A loop that is written out: what is shifted by, or where a register is, must be known to the compiler.
macro_rules! each {
    ($i:ident in $($value:literal)* => $body:block) => {$({
        let $i: usize = $value;
        $body
    })*};
}
pub(super) use each;

/// The codes of 32 numbers, of which sixteen bytes hold the first half in their low nibbles and the second in their high ones.
#[inline(always)]
pub(super) fn nibbles<W: Wide>(w: W, bytes: [W::V; 4]) -> [W::V; 8] {
    let low = w.bytes(15);
    let [a, b, c, d] = bytes;
    [
        w.and(a, low),
        w.and(b, low),
        w.and(c, low),
        w.and(d, low),
        w.and(w.shift_right::<4>(a), low),
        w.and(w.shift_right::<4>(b), low),
        w.and(w.shift_right::<4>(c), low),
        w.and(w.shift_right::<4>(d), low),
    ]
}

/// What the table holds at each place. (No closure: see `isa::Kernel`.)
#[inline(always)]
pub(super) fn look_up<W: Wide, const N: usize>(w: W, table: &[u8; 16], places: [W::V; N]) -> [W::V; N] {
    let mut codes = places;
    for code in &mut codes {
        *code = w.lookup(table, *code);
    }
    codes
}

/// Stores the pairs of bits that begin at bit `from` of each byte.
#[inline(always)]
pub(super) fn put_crumbs<W: Wide>(w: W, words: [W::V; 4], from: usize, to: &mut [Quad]) {
    for (word, to) in words.into_iter().zip(to) {
        w.store(w.and(moved(w, word, from, 0), w.bytes(3)), to);
    }
}

/// Stores the `BITS` bits of each byte that begin at bit `from`: where they stand, if products take any byte, so that nothing has to be
/// shifted. The scales of their groups are then to be taken [`in_place`] as well.
#[inline(always)]
pub(super) fn put_bits<W: Wide, const BITS: u32>(w: W, words: [W::V; 4], from: usize, to: &mut [Quad]) {
    let ones = (1_u8 << BITS) - 1;
    for (word, to) in words.into_iter().zip(to) {
        let code =
            if W::PAIRS { w.and(moved(w, word, from, 0), w.bytes(ones)) } else { w.and(word, w.bytes(ones << from)) };
        w.store(code, to);
    }
}

/// Divides the scales of `count` groups from `first` on by what codes are multiplied with that [`put_bits`] leaves at bit `FROM`: a power of
/// two, so every product is the same to the last bit.
#[inline(always)]
pub(super) fn in_place<W: Wide, const FROM: u32, const COUNT: usize>(w: W, first: usize, out: &mut Unpacked) {
    if W::PAIRS {
        return;
    }
    let part = w.each_float(1.0 / f32::from(1_u8 << FROM));
    for scale in &mut out.scales[first..first + COUNT] {
        w.store_floats(w.mul(w.load_floats(scale), part), scale);
    }
}

/// Signed bytes as codes around 128, or as they are where products want those beyond 127 so.
#[inline(always)]
pub(super) fn signed<W: Wide>(w: W, x: W::V) -> W::V {
    if W::PAIRS { x } else { w.xor(x, w.bytes(128)) }
}

/// Stores vectors of codes.
#[inline(always)]
pub(super) fn put<W: Wide, const N: usize>(w: W, codes: [W::V; N], to: &mut [Quad]) {
    for (code, to) in codes.into_iter().zip(to) {
        w.store(code, to);
    }
}

/// The four bytes of each lane as numbers.
#[inline(always)]
pub(super) fn bytes<W: Wide>(w: W, x: W::V) -> [W::F; 4] {
    [w.byte::<0>(x), w.byte::<8>(x), w.byte::<16>(x), w.byte::<24>(x)]
}

/// Gives `count` groups from `first` on the same scale.
#[inline(always)]
pub(super) fn same_scale<W: Wide>(w: W, scale: W::F, first: usize, count: usize, out: &mut Unpacked) {
    for to in &mut out.scales[first..first + count] {
        w.store_floats(scale, to);
    }
}

/// Bit `from` of each byte as its bit `to` (and other bits elsewhere), up to seven places away.
#[inline(always)]
pub(super) fn moved<W: Wide>(w: W, x: W::V, from: usize, to: usize) -> W::V {
    match 8 + to - from {
        1 => w.shift_right::<7>(x),
        2 => w.shift_right::<6>(x),
        3 => w.shift_right::<5>(x),
        4 => w.shift_right::<4>(x),
        5 => w.shift_right::<3>(x),
        6 => w.shift_right::<2>(x),
        7 => w.shift_right::<1>(x),
        8 => x,
        9 => w.shift_left::<1>(x),
        10 => w.shift_left::<2>(x),
        11 => w.shift_left::<3>(x),
        12 => w.shift_left::<4>(x),
        13 => w.shift_left::<5>(x),
        14 => w.shift_left::<6>(x),
        _ => w.shift_left::<7>(x),
    }
}

/// Exchanges the bits of `mask` with those `BY` places above.
#[inline(always)]
fn exchange<W: Wide, const BY: u32>(w: W, x: W::V, mask: u32) -> W::V {
    let different = w.and(w.xor(x, w.shift_right::<BY>(x)), w.each(mask as i32));
    w.xor(w.xor(x, different), w.shift_left::<BY>(different))
}

/// 32 bits of each row, bit 4q + b of which becomes bit [`spread_bit`]`(q)` of byte b.
///
/// Of the five digits of a bit's place the upper two trade theirs with the lower two: the byte's number gets to the top.
#[inline(always)]
pub(super) fn spread_bits<W: Wide>(w: W, x: W::V) -> W::V {
    exchange::<W, 7>(w, exchange::<W, 14>(w, x, 0x0000_cccc), 0x00aa_00aa)
}

/// Where [`spread_bits`] puts the bits of quad `q` of eight.
#[inline(always)]
pub(super) const fn spread_bit(q: usize) -> usize {
    q / 2 + q % 2 * 4
}

/// Sixteen pairs of bits of each row, pair 4q + b of which becomes pair q of byte b.
#[inline(always)]
pub(super) fn spread_crumbs<W: Wide>(w: W, x: W::V) -> W::V {
    exchange::<W, 6>(w, exchange::<W, 12>(w, x, 0x0000_f0f0), 0x00cc_00cc)
}
