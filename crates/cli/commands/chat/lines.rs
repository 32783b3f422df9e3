//! What is typed into a chat, or piped into it.
//!
//! Owns editing, history and messages of several lines. Must never know what an order means.

use std::collections::VecDeque;
use std::io::{IsTerminal, StdinLock};
use std::path::PathBuf;

use ::plan::Bytes;
use anyhow::Context;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::{input, show};

/// What opens and closes a message of several lines.
const FENCE: &str = "\"\"\"";
/// The longest line that a pipe may send.
const LINE_MAX: Bytes = Bytes(16 << 20);

/// What somebody wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A line: an order or a message.
    Line(String),
    /// A message from between fences, whatever it begins with.
    Message(String),
    /// A message whose closing fence did not come: half of it is nobody's wish.
    Unclosed,
}

/// Lines from the terminal, with editing and history, or from a pipe.
pub(super) struct Lines {
    source: Source,
    /// Entries that came together and wait for their turn.
    waiting: VecDeque<Entry>,
}

enum Source {
    Terminal { editor: Box<DefaultEditor>, history: Option<PathBuf> },
    Pipe { stdin: StdinLock<'static>, lines: usize },
}

enum Read {
    Line(String),
    Emptied,
    End,
}

impl Lines {
    pub(super) fn open(history: Option<PathBuf>) -> anyhow::Result<Self> {
        let stdin = std::io::stdin();
        let source = if stdin.is_terminal() {
            let mut editor = DefaultEditor::new().context("cannot read from the terminal")?;
            if let Some(path) = &history {
                // The first time there is none.
                let _ = editor.load_history(path);
            }
            Source::Terminal { editor: Box::new(editor), history }
        } else {
            Source::Pipe { stdin: stdin.lock(), lines: 0 }
        };
        Ok(Self { source, waiting: VecDeque::new() })
    }

    /// Whether somebody sits there who sees each error.
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self.source, Source::Terminal { .. })
    }

    /// The next entry; none at the end. Ctrl-C empties the line.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Entry>> {
        if let Some(entry) = self.waiting.pop_front() {
            return Ok(Some(entry));
        }
        let Some(entry) = entry(&mut |prompt| self.source.read(prompt))? else { return Ok(None) };
        self.source.remember(&entry);
        self.waiting.extend(apart(entry));
        Ok(self.waiting.pop_front())
    }

    pub(super) fn keep_history(&mut self) {
        let Source::Terminal { editor, history: Some(path) } = &mut self.source else { return };
        let kept = path.parent().map_or(Ok(()), std::fs::create_dir_all).is_ok() && editor.save_history(path).is_ok();
        if !kept {
            show::note(&format!("note: the history could not be kept in {}", path.display()));
        }
    }
}

impl Source {
    fn read(&mut self, prompt: &str) -> anyhow::Result<Read> {
        match self {
            Self::Pipe { stdin, lines } => {
                *lines += 1;
                let line = input::read_line(stdin, *lines, LINE_MAX, "a message")?;
                Ok(line.map_or(Read::End, Read::Line))
            }
            Self::Terminal { editor, .. } => match editor.readline(prompt) {
                Ok(line) => Ok(Read::Line(line)),
                Err(ReadlineError::Interrupted) => Ok(Read::Emptied),
                Err(ReadlineError::Eof) => Ok(Read::End),
                Err(error) => Err(anyhow::Error::new(error).context("cannot read from the terminal")),
            },
        }
    }

    /// Keeps an entry for the arrow keys; a message keeps its fences, so that it means the same again.
    fn remember(&mut self, entry: &Entry) {
        let Self::Terminal { editor, .. } = self else { return };
        let text = match entry {
            Entry::Line(line) if !line.trim().is_empty() => line.clone(),
            Entry::Message(text) => format!("{FENCE}\n{text}\n{FENCE}"),
            _ => return,
        };
        // History is a comfort: a line that it refuses is no failure.
        let _ = editor.add_history_entry(text);
    }
}

/// One entry, of as many lines as its fence asks for.
fn entry(read: &mut dyn FnMut(&str) -> anyhow::Result<Read>) -> anyhow::Result<Option<Entry>> {
    let nothing = || Ok(Some(Entry::Line(String::new())));
    let line = match read("> ")? {
        Read::End => return Ok(None),
        Read::Emptied => return nothing(),
        Read::Line(line) => line,
    };
    let Some(first) = line.trim_start().strip_prefix(FENCE) else { return Ok(Some(Entry::Line(line))) };
    let mut text = first.to_owned();
    loop {
        if let Some(message) = text.trim_end().strip_suffix(FENCE) {
            return Ok(Some(Entry::Message(message.trim_matches('\n').to_owned())));
        }
        match read("… ")? {
            Read::Line(line) => {
                text.push('\n');
                text.push_str(&line);
            }
            Read::Emptied => return nothing(),
            Read::End => return Ok(Some(Entry::Unclosed)),
        }
    }
}

/// Orders that were pasted as one text are an entry each; any other text of several lines is one message.
fn apart(entry: Entry) -> Vec<Entry> {
    match &entry {
        Entry::Line(text) if text.contains('\n') => {
            let lines = || text.lines().filter(|line| !line.trim().is_empty());
            if lines().all(|line| line.trim_start().starts_with('/')) {
                lines().map(|line| Entry::Line(line.to_owned())).collect()
            } else {
                vec![entry]
            }
        }
        _ => vec![entry],
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    /// The entries that these lines make; `^C` stands for Ctrl-C.
    fn entries(lines: &[&str]) -> Vec<Entry> {
        let mut lines = lines.iter();
        let mut read = |_: &str| {
            Ok(match lines.next() {
                None => Read::End,
                Some(&"^C") => Read::Emptied,
                Some(line) => Read::Line((*line).to_owned()),
            })
        };
        std::iter::from_fn(|| entry(&mut read).expect("an entry")).flat_map(apart).collect()
    }

    #[test]
    fn lines_and_fences_are_entries() {
        let line = |text: &str| Entry::Line(text.to_owned());
        let message = |text: &str| Entry::Message(text.to_owned());
        for (lines, expected) in [
            (&["a", "/b"][..], vec![line("a"), line("/b")]),
            (&["\"\"\"", "/etc/passwd", "b", "\"\"\"", "c"], vec![message("/etc/passwd\nb"), line("c")]),
            (&["\"\"\"one\"\"\""], vec![message("one")]),
            (&["\"\"\"\n/one\n\"\"\""], vec![message("/one")]),
            (&["\"\"\"", "half", "^C", "c"], vec![line(""), line("c")]),
            (&["\"\"\"", "half"], vec![Entry::Unclosed]),
            (&["/set temp 1\n/stats\n"], vec![line("/set temp 1"), line("/stats")]),
            (&["say\n/this"], vec![line("say\n/this")]),
        ] {
            assert_eq!(entries(lines), expected, "{lines:?}");
        }
    }

    /// A terminal may hand over several lines in one go. The test runs itself again in one: there it reads the lines.
    #[test]
    fn lines_typed_ahead_are_not_lost() {
        const INSIDE: &str = "PLIMSOLL_TEST_IN_TERMINAL";
        if std::env::var_os(INSIDE).is_some() {
            let mut lines = Lines::open(None).expect("a terminal");
            assert!(lines.is_terminal());
            for expected in ["one", "two", "three"] {
                assert_eq!(lines.next().expect("a line"), Some(Entry::Line(expected.to_owned())));
            }
            return;
        }
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&controller).and_then(|()| unlockpt(&controller)).expect("a terminal");
        let name = ptsname(&controller, Vec::new()).expect("a name").into_string().expect("UTF-8");
        let terminal = File::options().read(true).write(true).open(name).expect("a terminal");
        File::from(controller.try_clone().expect("a handle")).write_all(b"one\rtwo\rthree\r").expect("written");
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "commands::chat::lines::tests::lines_typed_ahead_are_not_lost"])
            .env(INSIDE, "1")
            .env("TERM", "xterm")
            .stdin(Stdio::from(terminal))
            .stdout(Stdio::null())
            .spawn()
            .expect("a child");
        let deadline = Instant::now() + Duration::from_secs(20);
        let status = loop {
            match child.try_wait().expect("a status") {
                Some(status) => break Some(status),
                None if Instant::now() > deadline => break None,
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        if status.is_none() {
            child.kill().expect("killed");
        }
        assert!(status.is_some_and(|status| status.success()), "the child waits for lines that were lost");
    }
}
