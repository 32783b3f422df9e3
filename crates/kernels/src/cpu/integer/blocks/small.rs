//! How blocks of few numbers are read: a whole run's bytes as one stream, of which every byte is fetched once.
//!
//! Fetching two bytes of each of sixteen rows costs nearly what fetching sixteen does. So the scales of small blocks come
//! with the codes: the run is read sixteen bytes at a time wherever its blocks begin, and a block's bytes are shifted together.

use super::super::panel::{Rows, Unpacked};
use super::super::wide::Wide;
use super::bits::each;

/// Words of a run in the widest type here (`Q8_0`).
const WORDS_MAX: usize = 68;

/// The bytes of one block of each row.
pub(super) trait Source<W: Wide> {
    /// Four bytes from `at`.
    fn word(&self, w: W, at: usize) -> W::V;
    /// Sixteen bytes from `at`.
    fn sixteen(&self, w: W, at: usize) -> [W::V; 4];
}

/// A type of blocks of fewer than 256 numbers.
pub(super) trait Small {
    /// Bytes of a block.
    const BYTES: usize;
    /// Numbers of a block.
    const NUMBERS: usize;

    /// Unpacks block `index` of a run.
    fn unpack<W: Wide>(w: W, index: usize, block: &impl Source<W>, out: &mut Unpacked);
}

/// Any block of a run.
struct One<'a> {
    rows: Rows<'a>,
    start: usize,
}

impl<W: Wide> Source<W> for One<'_> {
    #[inline(always)]
    fn word(&self, w: W, at: usize) -> W::V {
        self.rows.words(w, self.start + at)
    }

    #[inline(always)]
    fn sixteen(&self, w: W, at: usize) -> [W::V; 4] {
        self.rows.sixteen(w, self.start + at)
    }
}

/// A block of a run whose words have been fetched. With `start` known to the compiler no word is looked up.
struct Fetched<'a, W: Wide> {
    words: &'a [W::V; WORDS_MAX],
    start: usize,
}

impl<W: Wide> Source<W> for Fetched<'_, W> {
    #[inline(always)]
    fn word(&self, w: W, at: usize) -> W::V {
        let at = self.start + at;
        let place = at / 4;
        let low = self.words[place];
        match at % 4 {
            0 => low,
            1 => w.or(w.shift_right::<8>(low), w.shift_left::<24>(self.words[place + 1])),
            2 => w.or(w.shift_right::<16>(low), w.shift_left::<16>(self.words[place + 1])),
            _ => w.or(w.shift_right::<24>(low), w.shift_left::<8>(self.words[place + 1])),
        }
    }

    #[inline(always)]
    fn sixteen(&self, w: W, at: usize) -> [W::V; 4] {
        [self.word(w, at), self.word(w, at + 4), self.word(w, at + 8), self.word(w, at + 12)]
    }
}

/// Unpacks `numbers` numbers of each row.
#[inline(always)]
pub(super) fn unpack<W: Wide, B: Small>(w: W, rows: Rows, numbers: usize, out: &mut Unpacked) {
    if numbers < 256 {
        for index in 0..numbers / B::NUMBERS {
            B::unpack(w, index, &One { rows, start: index * B::BYTES }, out);
        }
        return;
    }
    let mut words = [w.each(0); WORDS_MAX];
    each!(index in 0 1 2 3 4 5 6 7 => {
        if index < 256 / B::NUMBERS {
            fetch::<W, B>(w, rows, index, &mut words);
            B::unpack(w, index, &Fetched { words: &words, start: index * B::BYTES }, out);
        }
    });
}

/// Fetches what block `index` has bytes of and the blocks before it have not.
#[inline(always)]
fn fetch<W: Wide, B: Small>(w: W, rows: Rows, index: usize, words: &mut [W::V; WORDS_MAX]) {
    let last = 256 / B::NUMBERS * B::BYTES - 16;
    for piece in (index * B::BYTES).div_ceil(16)..((index + 1) * B::BYTES).div_ceil(16) {
        // The last piece may overlap the one before.
        let at = last.min(16 * piece);
        let four = rows.sixteen(w, at);
        for (i, word) in four.into_iter().enumerate() {
            words[at / 4 + i] = word;
        }
    }
}
