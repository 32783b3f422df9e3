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
        .map(|candidate| {
            let lower = candidate.to_ascii_lowercase();
            // A word that was only begun is as near as one slip.
            let begun = letters > 1 && lower.starts_with(&word);
            (if begun { 1 } else { distance(&word, &lower) }, candidate)
        })
        .filter(|(edits, candidate)| *edits <= (candidate.chars().count().max(letters) / 3).max(1))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// Slips between two words: letters inserted, dropped, replaced, or two neighbours swapped (the distance of optimal
/// string alignment, three rows at a time).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let (mut before, mut above): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..=b.len()).collect());
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = above[j] + usize::from(a[i] != b[j]);
            let mut least = replaced.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
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
            ("memroy", Some("memory")),
            ("thr", Some("threads")),
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
        assert_eq!(distance("teirs", "tiers"), 1);
        assert_eq!(distance("same", "same"), 0);
    }
}
