//! Ranges of layers and experts, as people write them: `5`, `3..`, `0..=9`, `3..10`, `0-31`, `0..4, 60`.

use std::fmt;

/// Numbers from `first` to `last`, both included; without `last` there is no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first number.
    pub first: u32,
    /// The last number, or none where the range is open.
    pub last: Option<u32>,
}

/// A set of numbers: never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges(Vec<Range>);

/// Why a text is not a range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotARange {
    /// It is not written as a range is.
    #[error("{0:?} is not a range")]
    Form(String),
    /// It ends before it starts.
    #[error("{0:?} is empty: it ends before it starts")]
    Empty(String),
}

impl Ranges {
    /// Every number from `first` on, or up to and including `last`.
    #[must_use]
    pub fn new(first: u32, last: Option<u32>) -> Self {
        Self(vec![Range { first, last }])
    }

    /// The set of these numbers, which must be ascending; none where there is none.
    #[must_use]
    pub fn of(numbers: impl IntoIterator<Item = u32>) -> Option<Self> {
        let mut ranges: Vec<Range> = Vec::new();
        for number in numbers {
            match ranges.last_mut() {
                Some(Range { last: Some(last), .. }) if number <= last.saturating_add(1) => *last = number.max(*last),
                _ => ranges.push(Range { first: number, last: Some(number) }),
            }
        }
        (!ranges.is_empty()).then_some(Self(ranges))
    }

    /// Reads `5`, `3..`, `..4`, `0..=9`, `3..10` (10 left out), `0-31` (31 included), or several with commas.
    ///
    /// # Errors
    /// Where the text is no range, or an empty one.
    pub fn parse(text: &str) -> Result<Self, NotARange> {
        text.split(',').map(|part| Range::parse(part.trim())).collect::<Result<_, _>>().map(Self)
    }

    /// Whether the number is in the set.
    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        self.0.iter().any(|range| range.first <= number && range.last.is_none_or(|last| number <= last))
    }

    /// The largest number that is written, to be checked against what the model has.
    #[must_use]
    pub fn highest(&self) -> u32 {
        self.0.iter().map(|range| range.last.unwrap_or(range.first)).max().unwrap_or(0)
    }
}

impl Range {
    fn parse(text: &str) -> Result<Self, NotARange> {
        let form = || NotARange::Form(text.to_owned());
        let empty = || NotARange::Empty(text.to_owned());
        let number = |digits: &str| digits.trim().parse::<u32>().map_err(|_| form());
        let (first, last) = if let Some((from, to)) = text.split_once("..=") {
            (if from.trim().is_empty() { 0 } else { number(from)? }, Some(number(to)?))
        } else if let Some((from, to)) = text.split_once("..") {
            let first = if from.trim().is_empty() { 0 } else { number(from)? };
            let end = if to.trim().is_empty() { None } else { Some(number(to)?) };
            if from.trim().is_empty() && end.is_none() {
                return Err(form());
            }
            (first, end.map(|end| end.checked_sub(1).ok_or_else(empty)).transpose()?)
        } else if let Some((from, to)) = text.split_once('-') {
            (number(from)?, Some(number(to)?))
        } else {
            let only = number(text)?;
            (only, Some(only))
        };
        if last.is_some_and(|last| last < first) { Err(empty()) } else { Ok(Self { first, last }) }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.last {
            None => write!(f, "{}..", self.first),
            Some(last) if last == self.first => write!(f, "{last}"),
            Some(last) => write!(f, "{}..={last}", self.first),
        }
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(Range::to_string).collect();
        f.pad(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_read_as_people_write_them() {
        for (text, shown, inside, outside) in [
            ("5", "5", vec![5], vec![4, 6]),
            ("3..", "3..", vec![3, 1000], vec![2]),
            ("0..=9", "0..=9", vec![0, 9], vec![10]),
            ("3..10", "3..=9", vec![3, 9], vec![2, 10]),
            ("..4", "0..=3", vec![0, 3], vec![4]),
            ("0-31", "0..=31", vec![0, 31], vec![32]),
            ("0..2, 7", "0..=1, 7", vec![0, 1, 7], vec![2, 6, 8]),
        ] {
            let ranges = Ranges::parse(text).unwrap();
            assert_eq!(ranges.to_string(), shown, "{text}");
            assert!(inside.iter().all(|n| ranges.contains(*n)), "{text}");
            assert!(!outside.iter().any(|n| ranges.contains(*n)), "{text}");
            assert_eq!(Ranges::parse(shown), Ok(ranges), "{text}");
        }
    }

    #[test]
    fn nonsense_is_no_range() {
        for text in
            ["", "..", "a..b", "-3", "3-", "1..2..3", "9..=3", "4..4", "..0", "1,,2", "99999999999", "3..=", "1.5"]
        {
            assert!(Ranges::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_become_the_fewest_ranges() {
        assert_eq!(Ranges::of([0, 1, 2, 5, 7, 8]).unwrap().to_string(), "0..=2, 5, 7..=8");
        assert_eq!(Ranges::of([]), None);
    }
}
