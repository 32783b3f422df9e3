//! What people see: progress on a terminal, tables, numbers with units.
//!
//! Owns stdout and stderr. stdout carries the product only; everything else goes to stderr.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::anyhow;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use plan::Bytes;

use crate::failure::ReaderGone;

/// Writes a part of the product to stdout, at once.
pub(crate) fn product(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(anyhow!(ReaderGone)),
        Err(error) => Err(anyhow::Error::new(error).context("cannot write to standard output")),
    }
}

/// Writes one JSON document and a newline to stdout.
pub(crate) fn json(document: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(document)?;
    text.push('\n');
    product(&text)
}

/// Writes a line for people to stderr. Where stderr is closed nobody wants to know.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A progress bar of bytes or steps, drawn on stderr and only where that is a terminal.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar that counts bytes.
    pub(crate) fn bytes(what: &str, total: Bytes) -> Self {
        Self::new(what, total.0, "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}")
    }

    /// A bar that counts steps.
    pub(crate) fn steps(what: &str, total: u64) -> Self {
        Self::new(what, total, "{msg} [{wide_bar}] {pos}/{len} {eta}")
    }

    /// A sign of life while there is nothing to count.
    pub(crate) fn waiting(what: &str) -> Self {
        let bar = Self::new(what, 0, "{spinner} {msg} {elapsed}");
        // Ticking takes a thread, which only a terminal is worth.
        if !bar.0.is_hidden() {
            bar.0.enable_steady_tick(Duration::from_millis(200));
        }
        bar
    }

    fn new(what: &str, total: u64, template: &str) -> Self {
        // indicatif draws nothing where stderr is no terminal.
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(8));
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(what.to_owned());
        Self(bar)
    }

    /// Moves the bar to `done` of `total`.
    pub(crate) fn at(&self, done: Bytes, total: Bytes) {
        // Setting a length draws the bar, so only where it changes.
        if self.0.length() != Some(total.0) {
            self.0.set_length(total.0);
        }
        self.0.set_position(done.0);
    }

    /// Moves the bar on.
    #[cfg(feature = "fetch")]
    pub(crate) fn add(&self, done: Bytes) {
        self.0.inc(done.0);
    }

    /// One step further.
    pub(crate) fn step(&self) {
        self.0.inc(1);
    }

    /// Names what is being done now.
    pub(crate) fn now(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Characters of a text from a file that are shown.
const SHOWN_CHARS: usize = 80;

/// Text from a file, cut short and without control characters: a terminal would obey them.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(SHOWN_CHARS) {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// Columns of text: the first one left, numbers right.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(ToString::to_string).collect()] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Whether a column holds numbers: its cells then stand at the right.
    fn right(&self, column: usize) -> bool {
        let mut cells = self.rows.iter().skip(1).filter_map(|row| row.get(column)).filter(|cell| !cell.is_empty());
        cells.all(|cell| cell.starts_with(|c: char| c.is_ascii_digit() || c == '-'))
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |column| self.rows.iter().filter_map(|row| row.get(column)).map(|cell: &String| cell.chars().count()).max();
        (0..columns).map(|column| width(column).unwrap_or(0)).collect()
    }

    /// The table as text for a terminal.
    pub(crate) fn plain(&self) -> String {
        let widths = self.widths();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().enumerate().map(|(column, cell)| pad(cell, widths[column], self.right(column)));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    /// The table in Markdown.
    pub(crate) fn markdown(&self) -> String {
        let widths = self.widths();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let cells = row.iter().enumerate().map(|(column, cell)| pad(cell, widths[column], self.right(column)));
            let _ = writeln!(text, "| {} |", cells.collect::<Vec<_>>().join(" | "));
            if number == 0 {
                let rules = widths.iter().enumerate().map(|(column, width)| {
                    let (dashes, end) = ("-".repeat(*width + 1), if self.right(column) { ":" } else { "-" });
                    format!("{dashes}{end}")
                });
                let _ = writeln!(text, "|{}|", rules.collect::<Vec<_>>().join("|"));
            }
        }
        text
    }
}

fn pad(cell: &str, width: usize, right: bool) -> String {
    if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_from_files_cannot_steer_a_terminal() {
        assert_eq!(visible("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(visible(&"x".repeat(100)).chars().count(), SHOWN_CHARS + 1);
    }

    #[test]
    fn tables_align_words_left_and_numbers_right() {
        let mut table = Table::new(&["role", "bytes"]);
        table.row(["norm".into(), "8 B".into()]);
        table.row(["embedding".into(), "100 KiB".into()]);
        assert_eq!(table.plain(), "role         bytes\nnorm           8 B\nembedding  100 KiB\n");
        assert_eq!(
            table.markdown(),
            "| role      |   bytes |\n|-----------|--------:|\n| norm      |     8 B |\n| embedding | 100 KiB |\n"
        );
    }
}
