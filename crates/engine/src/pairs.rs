//! Which token goes to which expert in one layer, grouped by expert.
//!
//! A pair is one token at one of its chosen experts. Pairs are numbered by expert, ascending, and by token within one.

use std::ops::Range;

use kernels::cpu::{Column, WeightedColumn};

/// The pairs of one pass in one layer, with lists that are kept from layer to layer.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    /// Experts of each token, as the router gave them.
    pub(crate) chosen: Vec<u32>,
    /// Their weights.
    pub(crate) weights: Vec<f32>,
    /// By pair.
    tokens: Vec<u32>,
    pair_weights: Vec<f32>,
    /// Each chosen expert with its pairs.
    groups: Vec<(usize, Range<usize>)>,
    starts: Vec<usize>,
    gate_columns: Vec<Column>,
    up_columns: Vec<Column>,
    weighted: Vec<WeightedColumn>,
}

impl Pairs {
    /// Room for so many pairs of so many experts: no later pass asks for more.
    pub(crate) fn with_capacity(pairs: usize, experts: usize) -> Self {
        Self {
            chosen: Vec::with_capacity(pairs),
            weights: Vec::with_capacity(pairs),
            tokens: Vec::with_capacity(pairs),
            pair_weights: Vec::with_capacity(pairs),
            groups: Vec::with_capacity(experts.min(pairs)),
            starts: Vec::with_capacity(experts + 1),
            gate_columns: Vec::with_capacity(pairs),
            up_columns: Vec::with_capacity(pairs),
            weighted: Vec::with_capacity(pairs),
        }
    }

    /// Makes room for the choices of a pass.
    pub(crate) fn clear(&mut self, count: usize) {
        self.chosen.clear();
        self.chosen.resize(count, 0);
        self.weights.clear();
        self.weights.resize(count, 0.0);
    }

    /// Numbers the pairs of what was chosen, `used` experts a token, leaving out those whose experts are not `mine`.
    pub(crate) fn group(&mut self, experts: usize, used: usize, mine: &dyn Fn(usize) -> bool) {
        self.starts.clear();
        self.starts.resize(experts + 1, 0);
        for expert in self.chosen.iter().map(|expert| *expert as usize).filter(|expert| mine(*expert)) {
            self.starts[expert + 1] += 1;
        }
        self.groups.clear();
        for expert in 0..experts {
            let start = self.starts[expert];
            self.starts[expert + 1] += start;
            if self.starts[expert + 1] > start {
                self.groups.push((expert, start..self.starts[expert + 1]));
            }
        }
        self.tokens.resize(self.starts[experts], 0);
        self.pair_weights.resize(self.starts[experts], 0.0);
        for (i, (expert, weight)) in self.chosen.iter().zip(&self.weights).enumerate() {
            if !mine(*expert as usize) {
                continue;
            }
            let pair = &mut self.starts[*expert as usize];
            self.tokens[*pair] = (i / used) as u32;
            self.pair_weights[*pair] = *weight;
            *pair += 1;
        }
    }

    /// Grouped pairs of this pass.
    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Each chosen expert with its pairs, in ascending order.
    pub(crate) fn groups(&self) -> impl ExactSizeIterator<Item = (usize, Range<usize>)> + use<'_> {
        self.groups.iter().cloned()
    }

    /// How many experts were chosen.
    pub(crate) fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// One of [`Self::groups`].
    pub(crate) fn group_at(&self, index: usize) -> (usize, Range<usize>) {
        self.groups[index].clone()
    }

    /// The token of a pair.
    pub(crate) fn token(&self, pair: usize) -> usize {
        self.tokens[pair] as usize
    }

    /// The weight of a pair.
    pub(crate) fn weight(&self, pair: usize) -> f32 {
        self.pair_weights[pair]
    }

    /// The weights of all pairs.
    pub(crate) fn pair_weights(&self) -> &[f32] {
        &self.pair_weights
    }

    /// Lists where each pair finds its token's numbers, and where its gate and its up go: the gates of all pairs come
    /// first, each of `inner` numbers.
    pub(crate) fn list_columns(&mut self, width: usize, inner: usize) {
        let count = self.len();
        let column = |(pair, token): (usize, &u32)| Column { from: *token as usize * width, to: pair * inner };
        self.gate_columns.clear();
        self.gate_columns.extend(self.tokens.iter().enumerate().map(column));
        self.up_columns.clear();
        let up = |gate: &Column| Column { from: gate.from, to: gate.to + count * inner };
        self.up_columns.extend(self.gate_columns.iter().map(up));
    }

    /// The columns of gates or ups, by pair.
    pub(crate) fn columns(&self, up: bool) -> &[Column] {
        if up { &self.up_columns } else { &self.gate_columns }
    }

    /// Lists where each pair's inner numbers are and which token's sum its output joins, with its weight, or with 1 where
    /// it `was_weighed` before.
    pub(crate) fn list_weighted(&mut self, inner: usize, width: usize, was_weighed: bool) {
        let column = |(pair, token): (usize, &u32)| WeightedColumn {
            from: pair * inner,
            to: *token as usize * width,
            weight: if was_weighed { 1.0 } else { self.pair_weights[pair] },
        };
        self.weighted.clear();
        self.weighted.extend(self.tokens.iter().enumerate().map(column));
    }

    /// The columns of outputs, by pair.
    pub(crate) fn weighted(&self) -> &[WeightedColumn] {
        &self.weighted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_stand_by_expert_and_then_by_token() {
        let mut pairs = Pairs::default();
        pairs.clear(6);
        pairs.chosen.copy_from_slice(&[3, 0, 0, 1, 3, 0]);
        pairs.weights.copy_from_slice(&[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]);
        pairs.group(5, 2, &|_| true);
        assert_eq!(pairs.groups().collect::<Vec<_>>(), [(0, 0..3), (1, 3..4), (3, 4..6)]);
        let listed: Vec<(usize, f32)> = (0..6).map(|pair| (pairs.token(pair), pairs.weight(pair))).collect();
        assert_eq!(listed, [(0, 0.2), (1, 0.3), (2, 0.6), (1, 0.4), (0, 0.1), (2, 0.5)]);
        pairs.list_columns(10, 4);
        assert_eq!(pairs.columns(false)[3], Column { from: 10, to: 12 });
        assert_eq!(pairs.columns(true)[3], Column { from: 10, to: 36 });
        pairs.list_weighted(4, 10, false);
        assert_eq!(pairs.weighted()[5], WeightedColumn { from: 20, to: 20, weight: 0.5 });
    }

    #[test]
    fn experts_of_another_device_are_left_out() {
        let mut pairs = Pairs::default();
        pairs.clear(6);
        pairs.chosen.copy_from_slice(&[3, 0, 0, 1, 3, 0]);
        pairs.weights.copy_from_slice(&[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]);
        for (mine, expected) in
            [(&[0][..], &[(0, 0.2), (1, 0.3), (2, 0.6)][..]), (&[1, 3], &[(1, 0.4), (0, 0.1), (2, 0.5)]), (&[2], &[])]
        {
            pairs.group(5, 2, &|expert| mine.contains(&expert));
            let listed: Vec<(usize, f32)> =
                (0..pairs.len()).map(|pair| (pairs.token(pair), pairs.weight(pair))).collect();
            assert_eq!(listed, expected, "{mine:?}");
            assert_eq!(pairs.groups().map(|(_, range)| range.len()).sum::<usize>(), expected.len(), "{mine:?}");
        }
    }
}
