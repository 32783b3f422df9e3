//! What can be wrong with a profile or a placement flag, and where it was written.

use std::fmt;
use std::sync::Arc;

/// A place in a profile's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The file's name as it was given.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// That line's text.
    pub text: Arc<str>,
}

/// Who asked for something: messages name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// A line of a profile.
    Profile(Mark),
    /// A command-line flag, as it was written.
    Flag(String),
    /// Nobody: plimsoll chose it for this machine.
    #[default]
    Automatic,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Profile(mark) => write!(f, "{}:{}:{}", mark.file, mark.line, mark.column),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Automatic => write!(f, "automatic profile"),
        }
    }
}

impl Origin {
    /// As it reads inside a sentence about a rule: `rule in line 9`.
    #[must_use]
    pub fn short(&self) -> String {
        match self {
            Self::Profile(mark) => format!("rule in line {}", mark.line),
            Self::Flag(flag) => format!("flag {flag}"),
            Self::Automatic => "automatic rule".to_owned(),
        }
    }
}

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The text is no YAML, or more of it than a profile may be.
    Syntax,
    /// A key that profiles do not have.
    UnknownKey,
    /// A key that must be there.
    MissingKey,
    /// A value of the wrong form or out of its range.
    BadValue,
    /// A tier is used that `tiers` does not name.
    UnnamedTier,
    /// A pattern is no regular expression, or too large a one.
    BadPattern,
    /// A rule that places nothing in this model.
    DeadRule,
    /// A role, layer or expert that this model lacks.
    NotInModel,
    /// A device that this machine lacks, or one too old.
    NotOnMachine,
}

/// One thing that is wrong with a profile or a placement flag. Its text is made for people: what, where, the line,
/// and a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileError {
    /// What kind of thing is wrong.
    pub fault: Fault,
    /// Where it was written.
    pub origin: Origin,
    /// What is wrong.
    pub message: String,
    /// A way out.
    pub hint: String,
}

impl ProfileError {
    pub(crate) fn new(fault: Fault, origin: &Origin, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { fault, origin: origin.clone(), message: message.into(), hint: hint.into() }
    }

    /// The line and column, where it stands in a profile.
    #[must_use]
    pub fn position(&self) -> Option<(u32, u32)> {
        match &self.origin {
            Origin::Profile(mark) => Some((mark.line, mark.column)),
            Origin::Flag(_) | Origin::Automatic => None,
        }
    }
}

impl std::error::Error for ProfileError {}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)?;
        if let Origin::Profile(mark) = &self.origin {
            snippet(f, mark)?;
        }
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\n\nhint: {}", self.hint) }
    }
}

/// Characters of a line that a snippet shows, and how many of them stand before the column.
const SNIPPET_CHARS: usize = 96;
const SNIPPET_BEFORE: usize = 60;

/// The line under the message, with a caret below the column. Long lines are shown around the column.
fn snippet(f: &mut fmt::Formatter<'_>, mark: &Mark) -> fmt::Result {
    if mark.text.trim().is_empty() {
        return Ok(());
    }
    let column = (mark.column as usize).saturating_sub(1);
    let start = if column < SNIPPET_CHARS { 0 } else { column - SNIPPET_BEFORE };
    // Tabs and control characters become one blank each, so that the caret stands where it should.
    let shown = mark.text.chars().skip(start).take(SNIPPET_CHARS);
    let shown: String = shown.map(|c| if c.is_control() { ' ' } else { c }).collect();
    let number = mark.line.to_string();
    let gutter = " ".repeat(number.len());
    let caret = " ".repeat(column - start);
    write!(f, "\n{gutter} |\n{number} | {}\n{gutter} | {caret}^", shown.trim_end())
}

/// Turns places in one text into [`Origin`]s.
pub(super) struct Lines<'a> {
    file: Arc<str>,
    lines: Vec<&'a str>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(file: &str, text: &'a str) -> Self {
        Self { file: file.into(), lines: text.lines().collect() }
    }

    /// The origin at this line and column, both from 1; a line that is not there becomes the last one.
    pub(super) fn at(&self, line: u64, column: u64) -> Origin {
        let line = usize::try_from(line).unwrap_or(usize::MAX).clamp(1, self.lines.len().max(1));
        let text = self.lines.get(line - 1).copied().unwrap_or_default();
        let column = usize::try_from(column).unwrap_or(usize::MAX).clamp(1, text.chars().count() + 1);
        Origin::Profile(Mark {
            file: Arc::clone(&self.file),
            line: line as u32,
            column: column as u32,
            text: text.into(),
        })
    }
}
