//! What a layer's router will choose, guessed by applying it to what the layer before reads: so that experts on disk are asked for while the
//! drive would rest. Guesses change no number.
//!
//! Owns the guess. How well a router can be foreseen is the model's affair: routers of random weights choose what was guessed as often as chance
//! has it (6 % of 8 in 128, where a guess that is read and not used costs up to a tenth of the speed). So what is read is the plan's decision;
//! where it reads nothing, guesses are made now and then all the same, and counted for the next plan.

/// Tokens of which one is guessed for while guesses are not read.
const EVERY: u64 = 32;

/// The last guess.
#[derive(Debug)]
pub(crate) struct Foresight {
    /// Experts of a guess that are read.
    most: usize,
    /// The layer that was guessed for, and its experts.
    layer: Option<usize>,
    guessed: Vec<u32>,
    weights: Vec<f32>,
    read: Vec<u32>,
}

impl Foresight {
    /// Has `most` experts of each guess read.
    pub(crate) fn new(most: u32) -> Self {
        Self { most: most as usize, layer: None, guessed: Vec::new(), weights: Vec::new(), read: Vec::new() }
    }

    /// Whether guesses are made for a token at this position.
    pub(crate) fn looks(&self, position: usize) -> bool {
        self.most > 0 || (position as u64).is_multiple_of(EVERY)
    }

    /// Room for a guess for a layer, of `count` experts and their weights.
    pub(crate) fn guess(&mut self, layer: usize, count: usize) -> (&mut [u32], &mut [f32]) {
        self.layer = Some(layer);
        self.guessed.resize(count, 0);
        self.weights.resize(count, 0.0);
        (&mut self.guessed, &mut self.weights)
    }

    /// Leaves those of the guess that are `away`, since the others need not be read; gives those that are read, in the order in which they would be
    /// used.
    pub(crate) fn leave(&mut self, away: impl Fn(u32) -> bool) -> &[u32] {
        self.guessed.retain(|expert| away(*expert));
        self.read.clear();
        self.read.extend(self.guessed.iter().take(self.most));
        self.read.sort_unstable();
        &self.read
    }

    /// Takes what a layer's router chose; gives how many experts were guessed for it, and how many of those it chose.
    pub(crate) fn chose(&mut self, layer: usize, chosen: &[u32]) -> (u64, u64) {
        if self.layer.take() != Some(layer) {
            return (0, 0);
        }
        let right = self.guessed.iter().filter(|expert| chosen.contains(expert)).count();
        (self.guessed.len() as u64, right as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_read_as_the_plan_says_and_all_are_counted() {
        for (most, read) in [(0, &[][..]), (2, &[2, 7]), (8, &[1, 2, 5, 7])] {
            let mut foresight = Foresight::new(most);
            foresight.guess(3, 5).0.copy_from_slice(&[7, 2, 5, 9, 1]);
            assert_eq!(foresight.leave(|expert| expert != 9), read);
            assert_eq!(foresight.chose(3, &[1, 3, 9, 7]), (4, 2));
            assert_eq!(foresight.chose(3, &[1]), (0, 0), "a guess counts once");
            foresight.guess(3, 1);
            assert_eq!(foresight.chose(4, &[0]), (0, 0), "another layer's");
            assert_eq!((foresight.looks(64), foresight.looks(65)), (true, most > 0));
        }
    }
}
