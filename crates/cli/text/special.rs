//! Cuts special tokens out of a text before that is split and merged.
//!
//! The longest special token of the text goes first, then the next; that is llama.cpp's order, found here in one pass:
//! a match gives way only to a longer one that begins inside it. Owns the cutting; must never know what comes after it.

use std::convert::Infallible;

use super::vocabulary::{Kind, Vocabulary};

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part<'a> {
    /// Where it begins in the whole, in bytes.
    pub(super) start: usize,
    /// Its text.
    pub(super) text: &'a str,
    /// The special token that it spells out; none where it holds no special token.
    pub(super) token: Option<u32>,
}

/// Where special tokens may begin and how long they are.
pub(super) struct Specials {
    /// For each first byte, the lengths of the tokens that begin with it, longest first.
    lengths: Box<[Vec<u32>; 256]>,
    /// Whether whitespace after a special token belongs to it (Phi-3's tokens are made so).
    strips_after: bool,
}

/// A special token found in a text.
#[derive(Clone, Copy)]
struct Match {
    start: usize,
    end: usize,
    token: u32,
}

impl Match {
    const fn len(&self) -> usize {
        self.end - self.start
    }
}

impl Specials {
    /// The special tokens of a vocabulary.
    pub(super) fn of(vocabulary: &Vocabulary, strips_after: bool) -> Self {
        let mut lengths = Box::new([const { Vec::new() }; 256]);
        for (_, kind, text) in vocabulary.iter() {
            if let Some(&first) = text.first().filter(|_| kind.is_special() && std::str::from_utf8(text).is_ok()) {
                lengths[usize::from(first)].push(text.len() as u32);
            }
        }
        for of_byte in lengths.iter_mut() {
            of_byte.sort_unstable_by(|a, b| b.cmp(a));
            of_byte.dedup();
            of_byte.shrink_to_fit();
        }
        Self { lengths, strips_after }
    }

    /// Gives the parts of a text in order. Control and unknown tokens are recognised only where `parse_special`;
    /// user-defined ones always, as the model's own tokenizer does.
    pub(super) fn cut<'a, E>(
        &self,
        vocabulary: &Vocabulary,
        text: &'a str,
        parse_special: bool,
        mut out: impl FnMut(Part<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        let wanted = |kind: Kind| if parse_special { kind.is_special() } else { kind == Kind::UserDefined };
        // A match that was preferred to an earlier, shorter one waits until the text before it is done.
        let mut waiting: Vec<(Match, usize)> = Vec::new();
        let (mut from, mut end) = (0, text.len());
        loop {
            match self.first(vocabulary, text.as_bytes(), from, end, &wanted) {
                Some((first, best)) if first < best.start => {
                    waiting.push((best, end));
                    end = best.start;
                    continue;
                }
                Some((_, best)) => {
                    from = self.emit(vocabulary, text, (from, best, end), &mut out)?;
                    continue;
                }
                None if from < end => out(Part { start: from, text: &text[from..end], token: None })?,
                None => {}
            }
            let Some((best, outer_end)) = waiting.pop() else { return Ok(()) };
            from = self.emit(vocabulary, text, (end, best, outer_end), &mut out)?;
            end = outer_end;
        }
    }

    /// The parts of a text as a list; for short texts.
    pub(super) fn parts<'a>(&self, vocabulary: &Vocabulary, text: &'a str, parse_special: bool) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        let push = |part| {
            parts.push(part);
            Ok::<(), Infallible>(())
        };
        match self.cut(vocabulary, text, parse_special, push) {
            Ok(()) => parts,
        }
    }

    /// Gives the text before a match and its token; returns where to go on.
    fn emit<'a, E>(
        &self,
        vocabulary: &Vocabulary,
        text: &'a str,
        (from, found, end): (usize, Match, usize),
        out: &mut impl FnMut(Part<'a>) -> Result<(), E>,
    ) -> Result<usize, E> {
        if from < found.start {
            out(Part { start: from, text: &text[from..found.start], token: None })?;
        }
        out(Part { start: found.start, text: &text[found.start..found.end], token: Some(found.token) })?;
        let rest = &text[found.end..end];
        let keeps = matches!(vocabulary.text(found.token), b"<unk>" | b"<s>" | b"<|endoftext|>");
        if !self.strips_after || keeps {
            return Ok(found.end);
        }
        let is_space = |c: char| matches!(c, ' ' | '\t' | '\n' | '\u{B}' | '\u{C}' | '\r');
        Ok(end - rest.trim_start_matches(is_space).len())
    }

    /// Where the first match in `from..end` begins, and the match to take: the longest of those that overlap each
    /// other there.
    fn first(
        &self,
        vocabulary: &Vocabulary,
        text: &[u8],
        from: usize,
        end: usize,
        wanted: &impl Fn(Kind) -> bool,
    ) -> Option<(usize, Match)> {
        let first = (from..end).find_map(|start| self.longest(vocabulary, text, (start, end), 0, wanted))?;
        let mut best = first;
        loop {
            let mut longer = None::<Match>;
            for start in best.start + 1..best.end {
                let floor = longer.map_or(best.len(), |found| found.len());
                longer = self.longest(vocabulary, text, (start, end), floor, wanted).or(longer);
            }
            match longer {
                Some(found) => best = found,
                None => return Some((first.start, best)),
            }
        }
    }

    /// The longest match at `start` that is longer than `floor`.
    fn longest(
        &self,
        vocabulary: &Vocabulary,
        text: &[u8],
        (start, end): (usize, usize),
        floor: usize,
        wanted: &impl Fn(Kind) -> bool,
    ) -> Option<Match> {
        let lengths = self.lengths[usize::from(text[start])].iter().map(|len| *len as usize);
        lengths.take_while(|len| *len > floor).filter(|len| start + len <= end).find_map(|len| {
            let token = vocabulary.find(&text[start..start + len], wanted)?;
            Some(Match { start, end: start + len, token })
        })
    }
}
