//! What a layer's router will choose, guessed by applying it to what the layer before reads: so that experts on disk are asked for while the
//! drive would rest. Guesses change no number.
//!
//! Owns whether guesses are worth their reads. How well a router can be foreseen is the model's affair: routers of random weights choose what was
//! guessed as often as chance has it (6 % of 8 in 128, where a guess that is read and not used costs up to a tenth of the speed). So guesses
//! are made without reads first, now and then, and with reads as long as half of them come true.

/// Tokens of which one is guessed for while guesses are not read.
const EVERY: u64 = 32;
/// Guesses after which older ones count half, and after the first half of which they are judged.
const MEMORY: u32 = 256;

/// How guesses turned out.
#[derive(Debug, Default)]
pub(crate) struct Foresight {
    /// The layer that was guessed for, and its experts.
    layer: Option<usize>,
    guessed: Vec<u32>,
    weights: Vec<f32>,
    made: u32,
    right: u32,
}

impl Foresight {
    /// Whether guesses are made for a token at this position.
    pub(crate) fn looks(&self, position: usize) -> bool {
        self.reads() || (position as u64).is_multiple_of(EVERY)
    }

    /// Whether what is guessed is read.
    pub(crate) fn reads(&self) -> bool {
        self.made >= MEMORY / 2 && self.right * 2 >= self.made
    }

    /// Room for a guess for a layer, of `count` experts and their weights.
    pub(crate) fn guess(&mut self, layer: usize, count: usize) -> (&mut [u32], &mut [f32]) {
        self.layer = Some(layer);
        self.guessed.resize(count, 0);
        self.weights.resize(count, 0.0);
        (&mut self.guessed, &mut self.weights)
    }

    /// Leaves those of the guess that are `away`, since the others need not be read, in the order in which they would be used.
    pub(crate) fn leave(&mut self, away: impl Fn(u32) -> bool) -> &[u32] {
        self.guessed.retain(|expert| away(*expert));
        self.guessed.sort_unstable();
        &self.guessed
    }

    /// Takes what a layer's router chose.
    pub(crate) fn chose(&mut self, layer: usize, chosen: &[u32]) {
        if self.layer.take() != Some(layer) {
            return;
        }
        self.made += self.guessed.len() as u32;
        self.right += self.guessed.iter().filter(|expert| chosen.contains(expert)).count() as u32;
        if self.made >= MEMORY {
            (self.made, self.right) = (self.made / 2, self.right / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_are_read_while_half_of_them_come_true() {
        let mut foresight = Foresight::default();
        let mut rounds = |count: u32, chosen: &[u32]| {
            for _ in 0..count {
                foresight.guess(3, 5).0.copy_from_slice(&[7, 2, 5, 9, 1]);
                assert_eq!(foresight.leave(|expert| expert != 9), [1, 2, 5, 7]);
                foresight.chose(3, chosen);
            }
            foresight.reads()
        };
        assert!(!rounds(31, &[1, 2, 5, 7]), "too few to judge by");
        assert!(rounds(1, &[1, 2, 5, 7]));
        assert!(rounds(200, &[1, 2, 3, 4]), "two of four");
        assert!(!rounds(64, &[1, 3, 4, 6]), "one of four, and older ones fade");
        assert!(rounds(300, &[7, 5, 2]));
        foresight.guess(3, 1);
        foresight.chose(4, &[0]);
        assert!(
            foresight.layer.is_none()
                && foresight.looks(1)
                && Foresight::default().looks(64)
                && !Foresight::default().looks(65)
        );
    }
}
