//! The merge loop: the best pair of neighbours becomes one symbol, until no pair is left.
//!
//! Byte-level BPE ranks a pair by its place in the list of merges, `SentencePiece` by the score of what it makes; the loop
//! is the same. It costs O(n log n) time and at most [`BYTES_PER_SYMBOL`] bytes a symbol. Owns the loop; must never know
//! which vocabulary it serves.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A symbol that is no token yet.
pub(super) const NO_TOKEN: u32 = u32::MAX;

/// The most memory that merging takes for each symbol that it starts with: the symbol, and up to two candidates.
pub(super) const BYTES_PER_SYMBOL: usize = size_of::<Symbol>() + 2 * size_of::<Candidate>();

const NONE: u32 = u32::MAX;

/// Which neighbours may become one symbol.
pub(super) trait Pairs {
    /// The rank (lower goes first) and the token of two neighbours, whose joined text is `text`.
    fn join(&self, left: u32, right: u32, text: &[u8]) -> Option<(u32, u32)>;
}

/// A stretch of the text: a token, or a character that no token writes.
#[derive(Clone, Copy)]
struct Symbol {
    start: u32,
    /// Bytes; 0 once it was merged into its left neighbour.
    len: u32,
    token: u32,
    previous: u32,
    next: u32,
}

/// A pair that may be merged: ordered by rank, then from left to right.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    right: u32,
    /// Bytes of both. With `left` and `right` it says whether the pair is still what it was.
    len: u32,
    token: u32,
}

/// The loop's memory, kept from word to word.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Merges one word of less than 2³² bytes. `first` gives the symbols to begin with, in order, as bytes and token;
    /// `out` receives what is left, as text and token.
    pub(super) fn merge<E>(
        &mut self,
        word: &[u8],
        first: impl Iterator<Item = (usize, u32)>,
        pairs: &impl Pairs,
        mut out: impl FnMut(&[u8], u32) -> Result<(), E>,
    ) -> Result<(), E> {
        self.begin(first);
        for right in 1..self.symbols.len() {
            self.offer(word, right as u32 - 1, right as u32, pairs);
        }
        while let Some(Reverse(best)) = self.queue.pop() {
            let (left, right) = (self.symbols[best.left as usize], self.symbols[best.right as usize]);
            if left.len == 0 || right.len == 0 || left.len + right.len != best.len {
                continue; // one of the two was merged with another neighbour meanwhile
            }
            self.symbols[best.right as usize].len = 0;
            let merged = &mut self.symbols[best.left as usize];
            merged.len = best.len;
            merged.token = best.token;
            merged.next = right.next;
            if right.next != NONE {
                self.symbols[right.next as usize].previous = best.left;
            }
            self.offer(word, left.previous, best.left, pairs);
            self.offer(word, best.left, right.next, pairs);
        }
        self.symbols.iter().filter(|symbol| symbol.len > 0).try_for_each(|symbol| out(text(word, symbol), symbol.token))
    }

    fn begin(&mut self, first: impl Iterator<Item = (usize, u32)>) {
        self.queue.clear();
        self.symbols.clear();
        let mut start = 0;
        for (index, (len, token)) in (0..).zip(first) {
            let len = len as u32;
            let previous = if index == 0 { NONE } else { index - 1 };
            self.symbols.push(Symbol { start, len, token, previous, next: index + 1 });
            start += len;
        }
        if let Some(last) = self.symbols.last_mut() {
            last.next = NONE;
        }
    }

    fn offer(&mut self, word: &[u8], left: u32, right: u32, pairs: &impl Pairs) {
        if left == NONE || right == NONE {
            return;
        }
        let (a, b) = (self.symbols[left as usize], self.symbols[right as usize]);
        let joined = &word[a.start as usize..(b.start + b.len) as usize];
        if let Some((rank, token)) = pairs.join(a.token, b.token, joined) {
            self.queue.push(Reverse(Candidate { rank, left, right, len: a.len + b.len, token }));
        }
    }
}

fn text<'a>(word: &'a [u8], symbol: &Symbol) -> &'a [u8] {
    &word[symbol.start as usize..(symbol.start + symbol.len) as usize]
}
