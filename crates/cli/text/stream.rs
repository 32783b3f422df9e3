//! Text as it arrives: whole characters out of token bytes, and stop strings that span tokens.
//!
//! Owns what must be held back between two tokens. Must never know tokens themselves.

/// Turns bytes that arrive in pieces into text that is complete at every step.
///
/// Holds back at most 3 bytes: the beginning of a character whose end has not come. What is invalid becomes U+FFFD, so
/// that all parts together equal [`String::from_utf8_lossy`] of all bytes.
#[derive(Debug, Default)]
pub struct Utf8Stream {
    held: Vec<u8>,
}

impl Utf8Stream {
    /// A stream that holds nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes and gives the text that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut text = String::new();
        let mut taken = 0;
        for chunk in self.held.utf8_chunks() {
            text.push_str(chunk.valid());
            taken += chunk.valid().len();
            // An unfinished character can only be last; everywhere else an invalid stretch is final.
            let is_last = taken + chunk.invalid().len() == self.held.len();
            if chunk.invalid().is_empty() || (is_last && is_unfinished(chunk.invalid())) {
                continue;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            taken += chunk.invalid().len();
        }
        self.held.drain(..taken);
        text
    }

    /// Ends the stream: U+FFFD where a character was left unfinished.
    #[must_use]
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }
}

/// Whether these bytes, which are not valid UTF-8, would be with more bytes after them.
fn is_unfinished(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}

/// Watches streamed text for strings that end it, and holds back what may be the beginning of one.
#[derive(Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopStrings {
    /// Watches for these strings; empty ones are ignored.
    #[must_use]
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self { stops, held: String::new(), stopped: false }
    }

    /// Whether a stop string has come.
    #[must_use]
    pub const fn stopped(&self) -> bool {
        self.stopped
    }

    /// Takes text and gives what may be shown: all before the first stop string, nothing after it.
    pub fn push(&mut self, text: &str) -> String {
        if self.stopped {
            return String::new();
        }
        if self.stops.is_empty() {
            return text.to_owned();
        }
        self.held.push_str(text);
        if let Some(start) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.stopped = true;
            self.held.truncate(start);
            return std::mem::take(&mut self.held);
        }
        let stops = self.stops.iter().map(String::as_str);
        let rest = self.held.split_off(self.held.len() - held_back(&self.held, stops));
        std::mem::replace(&mut self.held, rest)
    }

    /// Gives what was held back, where the text is interrupted or ends: a stop string spans no gap.
    pub fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes at the end of a text that may be the beginning of one of these.
pub(super) fn held_back<'a>(text: &str, marks: impl IntoIterator<Item = &'a str>) -> usize {
    let overlap = |mark: &str| {
        let ends = mark.char_indices().map(|(end, _)| end).rev();
        ends.into_iter().find(|end| text.ends_with(&mark[..*end])).unwrap_or(0)
    };
    marks.into_iter().map(overlap).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn streamed_bytes_equal_the_whole(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                any::<String>().prop_map(String::into_bytes),
                proptest::collection::vec(prop_oneof![Just(0xF0_u8), Just(0x9F), Just(0x98), Just(0x80), Just(0xE2), Just(0x41)], 0..40),
            ],
            step in 1_usize..6,
        ) {
            let mut stream = Utf8Stream::new();
            let mut text = String::new();
            for part in bytes.chunks(step) {
                text.push_str(&stream.push(part));
                prop_assert!(stream.held.len() <= 3);
            }
            text.push_str(&stream.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes).into_owned());
        }

        #[test]
        fn streamed_stops_equal_the_whole(
            text in "[abc]{0,24}", stops in proptest::collection::vec("[abc]{1,4}", 0..3), step in 1_usize..5,
        ) {
            let mut matcher = StopStrings::new(stops.clone());
            let mut shown = String::new();
            for part in text.as_bytes().chunks(step) {
                shown.push_str(&matcher.push(std::str::from_utf8(part).unwrap()));
                if matcher.stopped() {
                    break;
                }
            }
            let stopped = matcher.stopped();
            shown.push_str(&matcher.flush());
            // The stop that is complete first ends the text; of several that end there, the one that began first.
            let first_end = (0..=text.len()).find(|end| stops.iter().any(|stop| text[..*end].ends_with(stop)));
            prop_assert_eq!(stopped, first_end.is_some());
            if first_end.is_none() {
                prop_assert_eq!(shown, text);
            } else {
                prop_assert!(text.starts_with(&shown));
                prop_assert!(stops.iter().any(|stop| text[shown.len()..].starts_with(stop)));
                prop_assert!(!stops.iter().any(|stop| shown.contains(stop)));
            }
        }
    }

    #[test]
    fn a_character_waits_for_its_end() {
        let mut stream = Utf8Stream::new();
        assert_eq!(stream.push(&[0xE2, 0x82]), "");
        assert_eq!(stream.push(&[0xAC, b'!']), "€!");
        assert_eq!(stream.push(&[0xF0, 0x9F]), "");
        assert_eq!(stream.finish(), "\u{FFFD}");
    }

    #[test]
    fn a_possible_stop_is_held_back_and_given_when_it_was_none() {
        let mut stops = StopStrings::new(["</s>".to_owned(), String::new()]);
        assert_eq!(stops.push("a<"), "a");
        assert_eq!(stops.push("/b"), "</b");
        assert_eq!(stops.push("c</"), "c");
        assert_eq!(stops.push("s>d"), "");
        assert!(stops.stopped());
        assert_eq!(stops.push("e"), "");
        assert_eq!(stops.flush(), "");
    }
}
