//! What a card keeps for mixtures: where each layer's experts are, how kernels find those that are here, and room for choices.
//!
//! Must never know in which order a mixture's steps are done: that is `mixture` and `lists`.

use kernels::cuda::{
    Arena, CHOICES_MAX, Crossing, DeviceBuffer, EXPERTS_MAX, ExpertTable, Gpu, JobRoom, Pinned, Quantized, RouteMail,
    SENT_TOKENS_MAX, in_integers,
};
use plan::{Device, Plan, QuantType, Tier};
use tiers::{RowSlice, Tiers};

use super::Result;
use super::away::Mail;
use super::counts::Counts;
use super::fetched::Fetching;
use super::lists::Run;
use crate::blocks::Quants;
use crate::pairs::Pairs;
use crate::route::{self, Route};
use crate::spec::{Expert, Ffn, Mixture, Spec};

/// Tokens of a pass whose choice kernels and processor get without a word between them; for more, experts are grouped first.
pub(super) const FEW: usize = SENT_TOKENS_MAX;

/// Where an expert's matrices are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// All of them on this card.
    Here,
    /// None of them.
    Away,
    /// Some of them: it is computed here, with the processor's help.
    Apart,
}

/// The routed experts of one layer.
pub(super) struct Experts {
    homes: Vec<Home>,
    /// Where kernels find those that are here; none where no expert is, or where they are not alike.
    pub(super) tables: Option<Tables>,
}

/// Gate, up and down of all experts of a layer.
pub(super) struct Tables {
    pub(super) gate: ExpertTable,
    pub(super) up: ExpertTable,
    pub(super) down: ExpertTable,
}

/// What a card needs for the mixtures of a model.
pub(super) struct Mixtures {
    /// First, since a stream that waits for the processor is let go when this is dropped. None where no expert is away.
    pub(super) way: Option<Way>,
    /// For those that are copied here as they are chosen, if any are.
    pub(super) fetching: Option<Fetching>,
    pub(super) layers: Layers,
    /// Experts and weights of each token, in the order of choice.
    pub(super) chosen: DeviceBuffer<u32>,
    pub(super) weights: DeviceBuffer<f32>,
    /// What experts' second matrices read, in 8 bits.
    pub(super) inner: Quantized,
    /// The layer whose sum the card waits for, and which the processor has still to compute.
    pub(super) owed: Option<usize>,
    pub(super) untold: Untold,
    pub(super) lists: Lists,
    pub(super) counts: Counts,
}

/// The routed experts of each layer whose mixture is on this card.
pub(super) struct Layers(Vec<Option<Experts>>);

impl Layers {
    pub(super) fn at(&self, index: usize) -> &Experts {
        let Some(experts) = self.get(index) else { unreachable!("layer {index} has no mixture here") };
        experts
    }

    /// Those of a layer, if its mixture is here.
    pub(super) fn get(&self, index: usize) -> Option<&Experts> {
        self.0.get(index)?.as_ref()
    }
}

/// The way of a few tokens' choices and inputs to the processor, and of its experts' outputs back.
pub(super) struct Way {
    pub(super) crossing: Crossing,
    pub(super) mail: RouteMail,
}

/// Choices that nobody waited for, to be told when their pass is done.
pub(super) struct Untold {
    /// Experts of a few tokens, layer after layer.
    pub(super) chosen: DeviceBuffer<u32>,
    /// How many are noted.
    pub(super) end: usize,
    /// Layers in order, each with the first of its choices, of a pass from this position on over so many tokens.
    pub(super) layers: Vec<(usize, usize)>,
    pub(super) first_position: usize,
    pub(super) tokens: usize,
}

/// Room for what more tokens, grouped by expert, need.
pub(super) struct Lists {
    /// Pairs of tokens and experts that are computed here.
    pub(super) pairs: Pairs,
    pub(super) jobs: JobRoom,
    /// Words about pairs, on their way to the card and there.
    pub(super) words: Pinned<u32>,
    pub(super) there: DeviceBuffer<u32>,
    /// Experts that are computed together.
    pub(super) runs: Vec<Run>,
    /// The way to the processor's experts, if it has any in passes of many tokens.
    pub(super) mail: Option<Mail>,
}

impl Experts {
    fn of(f: &Mixture, number: u32, quants: &Quants, tiers: &Tiers, arena: &mut Arena) -> Result<Self> {
        let here = |slice: &RowSlice| tiers.home(slice.unit) == Tier::Gpu(number);
        let homes: Vec<Home> = f.experts.iter().map(|expert| home(parts(expert).map(here))).collect();
        let resident = || f.experts.iter().zip(&homes).filter(|(_, home)| **home == Home::Here).map(|(e, _)| e);
        let types = resident().map(|expert| parts(expert).map(|part| quants.get(part.unit)));
        let Some([gate, up, down]) = common(types).filter(|_| !f.weighs_input) else {
            return Ok(Self { homes, tables: None });
        };
        let width = f.router.inputs;
        let count = f.experts.len();
        let mut tables = Tables {
            gate: ExpertTable::new(arena, gate, count, f.inner, width)?,
            up: ExpertTable::new(arena, up, count, f.inner, width)?,
            down: ExpertTable::new(arena, down, count, width, f.inner)?,
        };
        let Some(gpu) = tiers.card(number) else { unreachable!("a mixture is on a card that is open") };
        for (table, part) in [(&mut tables.gate, 0), (&mut tables.up, 1), (&mut tables.down, 2)] {
            for (index, _) in homes.iter().enumerate().filter(|(_, home)| **home == Home::Here) {
                table.set(index, tiers.place_on_card(number, parts(&f.experts[index])[part]));
            }
            table.upload(gpu.compute())?;
        }
        Ok(Self { homes, tables: Some(tables) })
    }

    /// Where this expert is.
    pub(super) fn home(&self, expert: usize) -> Home {
        self.homes[expert]
    }

    /// Whether any expert is there.
    pub(super) fn any(&self, home: Home) -> bool {
        self.homes.contains(&home)
    }

    /// Whether a few tokens need no grouping: kernels find all experts by tables but those that are away.
    pub(super) fn by_table(&self) -> bool {
        !self.any(Home::Apart) && (self.tables.is_some() || !self.any(Home::Here))
    }
}

/// Gate, up and down.
pub(super) fn parts(expert: &Expert) -> [&RowSlice; 3] {
    [&expert.gate, &expert.up, &expert.down]
}

fn home(here: [bool; 3]) -> Home {
    match here {
        [true, true, true] => Home::Here,
        [false, false, false] => Home::Away,
        _ => Home::Apart,
    }
}

/// The types that all have, where one pair of kernels multiplies with them.
pub(super) fn common(mut all: impl Iterator<Item = [QuantType; 3]>) -> Option<[QuantType; 3]> {
    let first = all.next()?;
    let [gate, up, _] = first;
    (gate == up && first.into_iter().all(in_integers) && all.all(|types| types == first)).then_some(first)
}

/// The mixture of a network, if it is one.
pub(super) fn mixture(ffn: &Ffn) -> Option<&Mixture> {
    match ffn {
        Ffn::Mixture(mixture) => Some(mixture),
        Ffn::Dense(_) => None,
    }
}

impl Mixtures {
    /// Takes what the mixtures on the card `gpu:number` need.
    pub(super) fn new(
        gpu: &Gpu,
        arena: &mut Arena,
        (spec, quants, tiers): (&Spec, &Quants, &Tiers),
        counts: Counts,
        (plan, route): (&Plan, &Route),
    ) -> Result<Self> {
        let number = gpu.info().ordinal;
        let always = |index: usize| route.layers[index].ffn == Device::Gpu(number);
        let experts = |(index, layer): (usize, &crate::spec::Layer)| {
            let f = mixture(&layer.ffn).filter(|_| always(index) || route.streamed_to(index)[1] == Some(number));
            f.map(|f| Experts::of(f, number, quants, tiers, arena)).transpose()
        };
        let layers: Vec<Option<Experts>> = spec.layers.iter().enumerate().map(experts).collect::<Result<_>>()?;
        // In passes to which weights are brought, nothing of a few tokens is left to the processor.
        let owes = |(index, layer): (usize, &Experts)| always(index) && layer.any(Home::Away);
        let here = || layers.iter().enumerate().filter_map(|(index, layer)| Some((index, layer.as_ref()?)));
        let away = here().any(owes);
        let keeps = |index: usize| {
            let experts = mixture(&spec.layers[index].ffn).into_iter().flat_map(|f| &f.experts);
            experts.map(|expert| expert.gate.unit).any(|unit| route.keeps(unit))
        };
        let left = |(index, layer): (usize, &Experts)| match owes((index, layer)) {
            _ if keeps(index) => counts.tokens,
            true => route.left_of(index, number, counts.tokens),
            false => 0,
        };
        let left = here().map(left).max().unwrap_or(0);
        let mail = (left > 0).then(|| Mail::new(gpu, left * spec.width));
        let way = away.then(|| Way::new(gpu, arena, FEW.min(counts.tokens) * spec.width)).transpose()?;
        let (entries, columns) = counts.jobs();
        let layers = Layers(layers);
        let fetching = Fetching::of(gpu, (spec, quants, tiers), plan, &layers, counts)?;
        Ok(Self {
            way,
            fetching: fetching.filter(|_| away),
            layers,
            chosen: arena.take(counts.pairs())?,
            weights: arena.take(counts.pairs())?,
            inner: Quantized::new(arena, counts.inner, counts.inner_columns())?,
            owed: None,
            untold: Untold {
                chosen: arena.take(counts.untold())?,
                end: 0,
                layers: Vec::with_capacity(spec.layers.len()),
                first_position: 0,
                tokens: 0,
            },
            lists: Lists {
                pairs: Pairs::with_capacity(counts.pairs(), counts.experts),
                jobs: JobRoom::new(gpu, arena, entries, columns)?,
                words: Pinned::new(gpu, counts.words())?,
                there: arena.take(counts.words())?,
                runs: Vec::new(),
                mail: mail.transpose()?,
            },
            counts,
        })
    }

    /// Whether any layer has experts that the processor computes.
    pub(super) const fn cross(&self) -> bool {
        self.way.is_some()
    }

    /// Empties the rooms of experts that were fetched: what they hold is not known, or of another conversation.
    pub(super) fn forget_kept(&mut self) {
        if let Some(fetching) = &mut self.fetching {
            fetching.forget();
        }
    }

    /// Ends what a pass that failed left behind.
    pub(super) fn give_up(&mut self) -> Result<()> {
        self.owed = None;
        self.untold.clear();
        self.forget_kept();
        if let Some(way) = &mut self.way {
            way.crossing.give_up()?;
            way.mail.give_up()?;
        }
        Ok(())
    }
}

impl Untold {
    /// Notes that a layer chooses next, and says where its choice goes.
    pub(super) fn note(&mut self, layer: usize, choices: usize, first_position: usize, tokens: usize) -> usize {
        (self.first_position, self.tokens) = (first_position, tokens);
        self.layers.push((layer, self.end));
        self.end += choices;
        self.end - choices
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.end = 0;
        self.layers.clear();
    }
}

impl Way {
    fn new(gpu: &Gpu, arena: &mut Arena, numbers: usize) -> Result<Self> {
        // Experts take milliseconds: a wait of the driver's that lasts so long is looked at again late.
        let crossing = Crossing::new(gpu, numbers)?.with_waiting_kernel();
        Ok(Self { crossing, mail: RouteMail::new(gpu, arena)? })
    }
}

// What a route promises, and kernels keep.
const _: () = assert!(route::CHOICES_MAX == CHOICES_MAX && route::EXPERTS_MAX == EXPERTS_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expert_is_computed_where_all_of_it_is() {
        for (here, expected) in [
            ([true; 3], Home::Here),
            ([false; 3], Home::Away),
            ([true, true, false], Home::Apart),
            ([false, false, true], Home::Apart),
        ] {
            assert_eq!(home(here), expected, "{here:?}");
        }
    }

    #[test]
    fn tables_are_of_experts_alike() {
        use QuantType::{F16, Mxfp4, Q4K, Q6K};
        for (types, expected) in [
            (&[][..], None),
            (&[[Q4K, Q4K, Q6K], [Q4K, Q4K, Q6K]], Some([Q4K, Q4K, Q6K])),
            (&[[Mxfp4; 3]], Some([Mxfp4; 3])),
            (&[[Q4K, Q4K, Q6K], [Q4K; 3]], None),
            (&[[Q4K, Q6K, Q6K]], None),
            (&[[Q4K, Q4K, F16]], None),
        ] {
            assert_eq!(common(types.iter().copied()), expected, "{types:?}");
        }
    }
}
