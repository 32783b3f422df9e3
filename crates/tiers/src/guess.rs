//! Reads of what a router may choose, before it has: made where nothing that is expected waits, and given up for it at any time.
//!
//! Owns which guesses are under way or have landed. A guess that comes true is handed over as if it had been expected; others are wasted.

use std::collections::VecDeque;

use kernels::memory::{Buffer, Landed};

use crate::Piece;

/// Marks the names of reads that are guesses.
pub(crate) const GUESS: u64 = 1 << 63;

/// Guesses of what comes next.
#[derive(Default)]
pub(crate) struct Guesses {
    /// Not asked for yet.
    wanted: VecDeque<Piece>,
    held: Vec<Held>,
    named: u64,
    /// Bytes that came true, and that did not.
    pub(crate) used: u64,
    pub(crate) wasted: u64,
}

struct Held {
    tag: u64,
    piece: Piece,
    state: State,
}

enum State {
    UnderWay,
    Landed(Landed),
    /// It came true under this name before it landed.
    Promised(u64),
    GivenUp,
}

impl Guesses {
    pub(crate) fn want(&mut self, piece: Piece) {
        self.wanted.push_back(piece);
    }

    /// The next one to be asked for.
    pub(crate) fn peek(&self) -> Option<&Piece> {
        self.wanted.front()
    }

    /// The same taken, with the name to ask under.
    pub(crate) fn next(&mut self) -> Option<(u64, Piece)> {
        let piece = self.wanted.pop_front()?;
        let tag = GUESS | self.named;
        self.named += 1;
        self.held.push(Held { tag, piece: piece.clone(), state: State::UnderWay });
        Some((tag, piece))
    }

    /// Whether `piece` was guessed: then it comes under the name `tag`, and is in the first list if it is there already.
    pub(crate) fn comes_true(&mut self, piece: &Piece, tag: u64, early: &mut Vec<Landed>) -> bool {
        let open = |held: &Held| matches!(held.state, State::UnderWay | State::Landed(_)) && held.piece == *piece;
        let Some(place) = self.held.iter().position(open) else { return false };
        self.used += piece.bytes();
        if let State::Landed(landed) = std::mem::replace(&mut self.held[place].state, State::Promised(tag)) {
            self.held.swap_remove(place);
            early.push(Landed { tag, ..landed });
        }
        true
    }

    /// Takes a guess that has landed; gives it back where it came true, with its name, and its slot where it did not.
    pub(crate) fn landed(&mut self, landed: Landed) -> Result<Option<Landed>, Buffer> {
        let Some(place) = self.held.iter().position(|held| held.tag == landed.tag) else { return Err(landed.buffer) };
        match self.held[place].state {
            State::Promised(tag) => {
                self.held.swap_remove(place);
                Ok(Some(Landed { tag, ..landed }))
            }
            State::UnderWay if landed.outcome.is_ok() => {
                self.held[place].state = State::Landed(landed);
                Ok(None)
            }
            _ => {
                self.held.swap_remove(place);
                Err(landed.buffer)
            }
        }
    }

    /// The slot of a guess that has landed, for something that is expected.
    pub(crate) fn give_up_one(&mut self) -> Option<Buffer> {
        let place = self.held.iter().position(|held| matches!(held.state, State::Landed(_)))?;
        let held = self.held.swap_remove(place);
        self.wasted += held.piece.bytes();
        let State::Landed(landed) = held.state else { return None };
        Some(landed.buffer)
    }

    /// Gives up what has not come true, but for what `may` still; slots that are being filled come back when they have landed.
    pub(crate) fn give_up(&mut self, free: &mut Vec<Buffer>, may: impl Fn(&Piece) -> bool) {
        self.wanted.clear();
        for mut held in std::mem::take(&mut self.held) {
            held.state = match held.state {
                state @ (State::UnderWay | State::Landed(_)) if may(&held.piece) => state,
                State::Landed(landed) => {
                    self.wasted += held.piece.bytes();
                    free.push(landed.buffer);
                    continue;
                }
                State::UnderWay => {
                    self.wasted += held.piece.bytes();
                    State::GivenUp
                }
                state => state,
            };
            self.held.push(held);
        }
    }
}
