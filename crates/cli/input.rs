//! Texts that users name or pipe in, read within bounds.
//!
//! Owns the caps on what is read whole: a device that never ends, or the wrong file, must not fill memory. Must never know
//! what a text means.

use std::fs::File;
use std::io::{BufRead, ErrorKind, Read};
use std::path::Path;

use plan::Bytes;

use crate::failure::Usage;

/// Reads a file whole; `what` says in words what it should hold, such as `the prompt`.
///
/// # Errors
/// An I/O error with the path, or [`Usage`] where the file is larger than `cap` or no UTF-8.
pub(crate) fn read_text(path: &Path, cap: Bytes, what: &str) -> anyhow::Result<String> {
    let place = path.display().to_string();
    let file = File::open(path).map_err(|error| unreadable(error, &place, what))?;
    text(file, cap, &place, what)
}

/// Reads standard input to its end.
///
/// # Errors
/// Those of [`read_text`].
pub(crate) fn read_stdin(cap: Bytes, what: &str) -> anyhow::Result<String> {
    text(std::io::stdin().lock(), cap, "standard input", what)
}

/// The next line without its end, or none at the end of the input; `number` is its number, from 1.
///
/// # Errors
/// Those of [`read_text`], with the line's number.
pub(crate) fn read_line(
    reader: &mut impl BufRead,
    number: usize,
    cap: Bytes,
    what: &str,
) -> anyhow::Result<Option<String>> {
    let place = format!("line {number}");
    let mut bytes = Vec::new();
    let mut bounded = reader.by_ref().take(cap.0.saturating_add(1));
    bounded.read_until(b'\n', &mut bytes).map_err(|error| unreadable(error, &place, what))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    checked(bytes, cap, &place, what).map(Some)
}

fn text(reader: impl Read, cap: Bytes, place: &str, what: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let read = reader.take(cap.0.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(error, place, what))?;
    checked(bytes, cap, place, what)
}

fn checked(bytes: Vec<u8>, cap: Bytes, place: &str, what: &str) -> anyhow::Result<String> {
    if bytes.len() as u64 > cap.0 {
        let text = format!("{place} holds more than {cap}, too much for {what}\n\nhint: is this the right file?");
        return Err(Usage(text).into());
    }
    let not_text = |error: std::string::FromUtf8Error| {
        let at = error.utf8_error().valid_up_to();
        Usage(format!("{place} is not UTF-8 at byte {at}\n\nhint: {what} must be text; is this the right file?"))
    };
    Ok(String::from_utf8(bytes).map_err(not_text)?)
}

fn unreadable(error: std::io::Error, place: &str, what: &str) -> anyhow::Error {
    let hint = match error.kind() {
        ErrorKind::NotFound => "there is no such file; a relative path counts from the current folder",
        ErrorKind::PermissionDenied => "this user may not read it",
        ErrorKind::IsADirectory => "that is a folder; name a file",
        _ => "check the drive that it lies on",
    };
    let text = format!("cannot read {what} from {place}\n\nhint: {hint}");
    anyhow::Error::new(error).context(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Exit, exit, message};

    const CAP: Bytes = Bytes(8);

    #[test]
    fn what_fits_is_read_and_one_byte_more_is_refused() {
        assert_eq!(text(&b"8 bytes!"[..], CAP, "a.txt", "the prompt").expect("a text"), "8 bytes!");
        let error = text(&b"9 bytes!!"[..], CAP, "a.txt", "the prompt").expect_err("too long");
        assert_eq!(exit(&error), Exit::Usage);
        assert!(message(&error).starts_with("a.txt holds more than 8 B, too much for the prompt"), "{error}");
    }

    #[test]
    fn what_never_ends_is_refused() {
        let error = text(std::io::repeat(0), CAP, "/dev/zero", "the prompt").expect_err("no end");
        assert_eq!(exit(&error), Exit::Usage);
        let mut endless = std::io::BufReader::new(std::io::repeat(b'x'));
        let error = read_line(&mut endless, 3, CAP, "a text").expect_err("no end");
        assert!(message(&error).starts_with("line 3 holds more than 8 B"), "{error}");
    }

    #[test]
    fn bytes_that_are_no_text_are_named() {
        let error = text(&b"ab\xFFcd"[..], CAP, "a.txt", "the prompt").expect_err("no text");
        assert_eq!(exit(&error), Exit::Usage);
        assert!(message(&error).starts_with("a.txt is not UTF-8 at byte 2"), "{error}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_a_way_out() {
        let folder = tempfile::tempdir().expect("a folder");
        for (path, hint) in [(folder.path().join("none.txt"), "no such file"), (folder.path().into(), "name a file")] {
            let error = read_text(&path, CAP, "the prompt").expect_err("no file");
            let text = message(&error);
            assert_eq!(exit(&error), Exit::Io);
            assert!(text.contains(&path.display().to_string()) && text.contains(hint), "{text}");
        }
    }

    #[test]
    fn lines_come_one_by_one_without_their_ends() {
        let mut reader = &b"one\r\n\ntwo\n12345678"[..];
        for (number, line) in [Some("one"), Some(""), Some("two"), Some("12345678"), None].into_iter().enumerate() {
            let read = read_line(&mut reader, number + 1, CAP, "a text").expect("a line");
            assert_eq!(read.as_deref(), line, "line {}", number + 1);
        }
    }
}
