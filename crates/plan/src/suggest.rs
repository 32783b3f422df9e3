//! Finds the known word that a mistyped one was meant to be.

/// Words longer than this are not typing mistakes of a key; comparing them would only cost time.
const WORD_CHARS_MAX: usize = 64;

/// The word of `known` that differs least from `word`, if it differs by at most a third of its letters.
pub(crate) fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters = word.chars().count();
    if letters == 0 || letters > WORD_CHARS_MAX {
        return None;
    }
    let word = word.to_ascii_lowercase();
    known
        .into_iter()
        .filter(|candidate| candidate.len() <= 2 * WORD_CHARS_MAX)
        .map(|candidate| (distance(&word, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(edits, candidate)| *edits <= (candidate.chars().count().max(letters) / 3).max(1))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Edits between two words: letters inserted, dropped or replaced (Levenshtein's distance, one row at a time).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let known = ["memory", "threads", "routed_expert", "router"];
        for (word, expected) in [
            ("memry", Some("memory")),
            ("Thread", Some("threads")),
            ("routed_experts", Some("routed_expert")),
            ("rooter", Some("router")),
            ("bananas", None),
            ("", None),
        ] {
            assert_eq!(closest(word, known), expected, "{word}");
        }
        assert_eq!(closest(&"x".repeat(100_000), known), None);
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
