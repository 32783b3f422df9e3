//! Mixtures over many tokens whose experts live elsewhere: a card computes with them as they are brought, a slot's worth at a time.
//!
//! Experts come in ascending order, each as a whole, whether all of a layer do or those that were chosen. One lease holds as many as lie
//! side by side; those of them that have tokens are computed by lists, as experts that live here are, and the others are given back. What
//! the card has no list for (matrices of floats, experts some of whose matrices live here) is computed one by one.

use kernels::cuda::in_integers;
use plan::Tier;
use tiers::RowSlice;

use super::experts::parts;
use super::lists::{Kind, Run, cut};
use super::mixture::NO_ROOM;
use super::words::Words;
use super::{GpuPass, Result};
use crate::blocks::Pass;
use crate::lookahead::expect_experts;
use crate::spec::Mixture;
use crate::steps::Part;

/// An expert that is brought, with its group of pairs if it was chosen.
#[derive(Debug, PartialEq, Eq)]
struct Coming {
    expert: usize,
    group: Option<usize>,
    /// Whether all of it comes, in types that lists have.
    listed: bool,
}

/// The experts that are brought, in the order in which they come: of each expert which of its matrices live elsewhere, and whether lists have
/// its types; `chosen` are the groups' in ascending order, and `all` says whether others come, too.
fn coming(
    experts: impl Iterator<Item = ([bool; 3], bool)>,
    chosen: impl Iterator<Item = usize>,
    all: bool,
) -> Vec<Coming> {
    let mut groups = chosen.enumerate().peekable();
    let mut coming = Vec::with_capacity(experts.size_hint().0);
    for (expert, (away, has_lists)) in experts.enumerate() {
        let group = groups.next_if(|(_, chosen)| *chosen == expert).map(|(group, _)| group);
        if away.contains(&true) && (all || group.is_some()) {
            coming.push(Coming { expert, group, listed: has_lists && away == [true; 3] });
        }
    }
    coming
}

impl Pass<'_> {
    /// Has the chosen experts brought to this card, unless all are on their way, and counts them.
    pub(super) fn bring_experts(&mut self, card: u32, f: &Mixture, chosen: &[usize]) -> Result<()> {
        let Some(brought) = self.devices.brought_to(card) else { return Ok(()) };
        for expert in chosen {
            let hit = parts(&f.experts[*expert]).iter().all(|part| self.tiers.home(part.unit) != Tier::Disk);
            self.experts.used(hit);
        }
        if brought.all {
            return Ok(());
        }
        Ok(expect_experts(self.tiers, &self.devices.route, brought, f, chosen.iter().copied())?)
    }
}

impl GpuPass<'_, '_> {
    /// Adds the outputs of experts that are brought here.
    pub(super) fn add_brought(&mut self, f: &Mixture, words: Words, x: Part, block: Part) -> Result<()> {
        let Some(brought) = self.brought() else { return Ok(()) };
        let Some(m) = &self.side.mixtures else { unreachable!("{NO_ROOM}") };
        let experts = f.experts.iter().map(|matrices| {
            if self.host.devices.route.keeps(matrices.gate.unit) {
                return ([false; 3], false);
            }
            let types = parts(matrices).map(|part| self.host.quants.get(part.unit));
            (parts(matrices).map(|part| self.is_away(part)), types.into_iter().all(in_integers))
        });
        let coming = coming(experts, m.lists.pairs.groups().map(|(expert, _)| expert), brought.all);
        let mut next = 0;
        while let Some(first) = coming.get(next) {
            if first.listed {
                next += self.add_side_by_side(f, &coming[next..], words, (x, block))?;
                continue;
            }
            match first.group {
                Some(group) => {
                    let Some(m) = &self.side.mixtures else { unreachable!("{NO_ROOM}") };
                    let (_, pairs) = m.lists.pairs.group_at(group);
                    let run = Run { kind: Kind::Brought, groups: group..group + 1, pairs };
                    self.add_run(f, &run, words, x, block)?;
                }
                None => self.give_back(f, first.expert)?,
            }
            next += 1;
        }
        Ok(())
    }

    /// Computes the experts at the front of `coming` that lie side by side, and says how many they are.
    fn add_side_by_side(
        &mut self,
        f: &Mixture,
        coming: &[Coming],
        words: Words,
        (x, block): (Part, Part),
    ) -> Result<usize> {
        let (host, side) = (&mut *self.host, &mut *self.side);
        let quants = host.quants;
        let listed = coming.iter().take_while(|coming| coming.listed);
        let next: Vec<RowSlice> = listed.flat_map(|coming| parts(&f.experts[coming.expert])).cloned().collect();
        let lease = host.tiers.lease_on(side.number, &next)?;
        let coming = &coming[..lease.len() / 3];
        let (Some(first), Some(last)) = (coming.first(), coming.last()) else {
            unreachable!("experts come as a whole")
        };
        let Some(m) = &side.mixtures else { unreachable!("{NO_ROOM}") };
        let mut groups = coming.iter().filter_map(|coming| coming.group);
        let Some(start) = groups.next() else { return Ok(coming.len()) };
        let end = groups.next_back().unwrap_or(start) + 1;
        let kind = |expert: usize| {
            let within = (first.expert..=last.expert).contains(&expert);
            let types = parts(&f.experts[expert]).map(|part| quants.get(part.unit));
            // Groups between are of experts that live here, and were computed with those.
            if within && coming.iter().any(|coming| coming.expert == expert) {
                Kind::Listed(types)
            } else {
                Kind::Brought
            }
        };
        let runs = cut(&m.lists.pairs, start..end, m.counts.run, kind);
        let place = |expert: usize, part: usize| {
            let Some(at) = coming.iter().position(|coming| coming.expert == expert) else {
                unreachable!("runs are of experts that have come")
            };
            lease.bytes(3 * at + part)
        };
        for run in runs.iter().filter(|run| run.kind != Kind::Brought) {
            side.add_listed(quants, f, (run, words), (x, block), &place)?;
        }
        Ok(coming.len())
    }

    /// Takes what was brought of an expert that nobody chose.
    fn give_back(&mut self, f: &Mixture, expert: usize) -> Result<()> {
        let away = parts(&f.experts[expert]).into_iter().filter(|part| self.is_away(part)).cloned();
        let mut rest: Vec<RowSlice> = away.collect();
        while !rest.is_empty() {
            let count = self.host.tiers.lease_on(self.side.number, &rest)?.len();
            rest.drain(..count);
        }
        Ok(())
    }

    fn is_away(&self, part: &RowSlice) -> bool {
        self.host.tiers.home(part.unit) != Tier::Gpu(self.side.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_expert_that_was_expected_comes_in_its_turn() {
        let (here, away, last) = ([false; 3], [true; 3], [false, false, true]);
        let one = |expert, group, listed| Coming { expert, group, listed };
        for (homes, has_lists, chosen, all, expected) in [
            ([here; 4], true, &[0, 3][..], true, vec![]),
            ([away; 4], true, &[1, 3], false, vec![one(1, Some(0), true), one(3, Some(1), true)]),
            ([away, here, away, here], true, &[0, 1], false, vec![one(0, Some(0), true)]),
            ([away, here, away, here], true, &[1, 2], true, vec![one(0, None, true), one(2, Some(1), true)]),
            // Those of which a part lives here are computed one by one, and given back where nobody chose them.
            (
                [last, here, last, last],
                true,
                &[2],
                true,
                vec![one(0, None, false), one(2, Some(0), false), one(3, None, false)],
            ),
            ([last, away, away, here], false, &[0, 2], false, vec![one(0, Some(0), false), one(2, Some(1), false)]),
        ] {
            let experts = homes.into_iter().map(|away| (away, has_lists));
            assert_eq!(coming(experts, chosen.iter().copied(), all), expected, "{homes:?} {chosen:?} {all}");
        }
    }
}
