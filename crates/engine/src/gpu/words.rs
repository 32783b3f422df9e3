//! What a card is told of a mixture's grouped pairs: who belongs to whom, as words in one buffer.
//!
//! Owns where they stand. Must never know how experts are computed.

use std::ops::Range;

use crate::pairs::Pairs;

/// Where the words about pairs begin: of each pair the token, the expert, its weight and 1; of each choice of a token, in ascending order of
/// experts, the pair, its weight and its expert.
#[derive(Clone, Copy)]
pub(super) struct Words {
    pub(super) pairs: usize,
    pub(super) choices: usize,
}

/// Words that each pair, and each choice, has at most.
pub(super) const WORDS_OF_PAIR: usize = 7;

impl Words {
    /// The words of all pairs, of one of four kinds.
    pub(super) const fn of_pair(self, which: usize) -> Range<usize> {
        which * self.pairs..(which + 1) * self.pairs
    }

    /// The words of all choices, of one of three kinds.
    pub(super) const fn of_choice(self, which: usize) -> Range<usize> {
        let start = 4 * self.pairs + which * self.choices;
        start..start + self.choices
    }

    /// All of them.
    pub(super) const fn count(self) -> usize {
        4 * self.pairs + 3 * self.choices
    }

    /// Writes them. Where a token has chosen an expert of another device, there is a pair and an expert that nobody has, of weight 0.
    pub(super) fn write(self, pairs: &Pairs, used: usize, was_weighed: bool, words: &mut [u32]) {
        for (which, none) in [(0, u32::MAX), (1, 0), (2, u32::MAX)] {
            words[self.of_choice(which)].fill(none);
        }
        let experts = pairs.groups().flat_map(|(expert, range)| range.map(move |_| expert as u32));
        for (pair, expert) in experts.enumerate() {
            let (token, weight) = (pairs.token(pair), pairs.weight(pair));
            for (which, word) in [token as u32, expert, weight.to_bits(), 1f32.to_bits()].into_iter().enumerate() {
                words[self.of_pair(which)][pair] = word;
            }
            let weight = if was_weighed { 1.0 } else { weight };
            let of_token = token * used..(token + 1) * used;
            let free = |places: &[u32]| places.iter().position(|place| *place == u32::MAX);
            let Some(free) = free(&words[self.of_choice(0)][of_token.clone()]) else {
                unreachable!("a token's choices")
            };
            for (which, word) in [pair as u32, weight.to_bits(), expert].into_iter().enumerate() {
                words[self.of_choice(which)][of_token.start + free] = word;
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn pairs(chosen: &[u32], mine: &[usize]) -> Pairs {
        let mut pairs = Pairs::default();
        pairs.clear(chosen.len());
        pairs.chosen.copy_from_slice(chosen);
        pairs.weights.iter_mut().zip(1u8..).for_each(|(weight, i)| *weight = f32::from(i));
        pairs.group(8, 2, &|expert| mine.contains(&expert));
        pairs
    }

    #[test]
    fn words_name_each_tokens_pairs_in_ascending_order_of_experts() {
        let pairs = pairs(&[3, 0, 0, 1, 6, 7], &[0, 3, 7]);
        let words = Words { pairs: pairs.len(), choices: 6 };
        let mut all = vec![9; words.count()];
        words.write(&pairs, 2, false, &mut all);
        let floats = |range: Range<usize>| all[range].iter().map(|bits| f32::from_bits(*bits)).collect::<Vec<_>>();
        let none = u32::MAX;
        assert_eq!(all[words.of_pair(0)], [0, 1, 0, 2], "tokens");
        assert_eq!(all[words.of_pair(1)], [0, 0, 3, 7], "experts");
        assert_eq!((floats(words.of_pair(2)), floats(words.of_pair(3))), (vec![2.0, 3.0, 1.0, 6.0], vec![1.0; 4]));
        assert_eq!(all[words.of_choice(0)], [0, 2, 1, none, 3, none]);
        assert_eq!(floats(words.of_choice(1)), [2.0, 1.0, 3.0, 0.0, 6.0, 0.0]);
        assert_eq!(all[words.of_choice(2)], [0, 3, 0, none, 7, none]);
        words.write(&pairs, 2, true, &mut all);
        let weights = all[words.of_choice(1)].iter().map(|bits| f32::from_bits(*bits));
        assert_eq!(weights.collect::<Vec<_>>(), [1.0, 1.0, 1.0, 0.0, 1.0, 0.0]);
        assert!(words.count() <= WORDS_OF_PAIR * 6);
    }
}
