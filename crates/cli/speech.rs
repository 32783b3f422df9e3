//! What of an answer reaches standard output, and in which dress.
//!
//! Owns hiding and dimming of thinking. Must never change what is said: elsewhere than on a terminal, thinking that is shown
//! comes as the model wrote it, marks and all, and no escape code is printed.

use std::io::IsTerminal;

use crate::args::Think;
use crate::show;
use crate::text::Piece;

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Prints the pieces of one answer as they come.
pub(crate) struct Speech {
    think: Think,
    /// Whether thinking is dimmed; marks are left out then.
    dims: bool,
    /// Whether what was printed last is thinking, dimmed.
    thinking: bool,
    /// Newlines at the end of what was printed.
    newlines: usize,
}

impl Speech {
    /// For this process's standard output. `NO_COLOR` (<https://no-color.org>) asks for no escape codes on a terminal either.
    pub(crate) fn new(think: Think) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self::dressed(think, std::io::stdout().is_terminal() && !plain)
    }

    const fn dressed(think: Think, dims: bool) -> Self {
        Self { think, dims, thinking: false, newlines: 0 }
    }

    /// Prints a piece, or what of it is to be seen.
    pub(crate) fn say(&mut self, piece: &Piece) -> anyhow::Result<()> {
        let text = self.dress(piece);
        if text.is_empty() { Ok(()) } else { show::product(&text) }
    }

    /// Ends the line.
    pub(crate) fn end(&self) -> anyhow::Result<()> {
        if self.newlines > 0 { Ok(()) } else { show::product("\n") }
    }

    fn dress(&mut self, piece: &Piece) -> String {
        let shows = self.think == Think::Show;
        let dressed = match piece {
            Piece::Answer(text) if self.thinking => {
                // The dimmed thinking and the answer stand apart by an empty line, where marks did that.
                let gap = "\n".repeat(2_usize.saturating_sub(self.newlines));
                format!("{gap}{text}")
            }
            Piece::Answer(text) => text.clone(),
            Piece::Thinking(text) if shows && self.dims => format!("{DIM}{text}{PLAIN}"),
            Piece::Thinking(text) | Piece::Mark(text) if shows && !self.dims => text.clone(),
            Piece::Thinking(_) | Piece::Mark(_) => return String::new(),
        };
        self.thinking = self.dims && matches!(piece, Piece::Thinking(_));
        let seen = if self.thinking { piece.text() } else { &dressed };
        let trailing = seen.len() - seen.trim_end_matches('\n').len();
        self.newlines = if trailing == seen.len() { self.newlines + trailing } else { trailing };
        dressed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(think: Think, dims: bool) -> String {
        let pieces = [
            Piece::Mark("<think>\n".into()),
            Piece::Thinking("h".into()),
            Piece::Thinking("m\n".into()),
            Piece::Mark("</think>\n\n".into()),
            Piece::Answer("ye".into()),
            Piece::Answer("s".into()),
        ];
        let mut speech = Speech::dressed(think, dims);
        pieces.iter().map(|piece| speech.dress(piece)).collect()
    }

    #[test]
    fn thinking_is_shown_as_it_was_written_or_dimmed_or_not_at_all() {
        assert_eq!(said(Think::Show, false), "<think>\nhm\n</think>\n\nyes");
        assert_eq!(said(Think::Show, true), format!("{DIM}h{PLAIN}{DIM}m\n{PLAIN}\nyes"));
        for think in [Think::Hide, Think::Off] {
            for dims in [true, false] {
                assert_eq!(said(think, dims), "yes", "{think:?}");
            }
        }
    }

    #[test]
    fn the_end_of_a_line_is_known() {
        let mut speech = Speech::dressed(Think::Show, false);
        for (text, newlines) in [("", 0), ("a\n", 1), ("\n", 2), ("b", 0), ("\n\n", 2)] {
            speech.dress(&Piece::Answer(text.into()));
            assert_eq!(speech.newlines, newlines, "{text:?}");
        }
    }
}
