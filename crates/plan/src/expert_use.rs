//! How often the router chose each expert: counted by a run, read by the planner.
//!
//! Owns the counts and the file that they are kept in. Must never know who counts, or when.
//!
//! # The file
//!
//! One JSON document. Keys may stand in any order, and no others may:
//!
//! ```json
//! {
//!   "version": 1,
//!   "model": "DeepSeek R1", "architecture": "deepseek2",
//!   "experts": 4, "experts_used": 2,
//!   "trace": [
//!     [0, 3, [1, 3], [0, 3]],
//!     [2, 3, [1, 2]]
//!   ],
//!   "tokens": 3,
//!   "layers": [
//!     { "layer": 3, "counts": [1, 2, 1, 2] }
//!   ]
//! }
//! ```
//!
//! `layers` has an entry for each layer with a router, in ascending order, and `counts` one number for each expert: how
//! many of `tokens` tokens chose it. `"foreseen": { "guessed": 9, "chosen": 5 }` may stand beside them: experts of a next layer that a run guessed
//! before its router chose, and how many of those it then chose. `trace` may be left out. It tells the same in order, for studies of caches: one
//! entry for each pass through a layer, as it ran: the position in the context of its first token, the layer, and for
//! each token of the pass the experts that it chose. Positions are those of the conversation: one that does not go on
//! from the last is a new conversation, or a prompt that kept the beginning of the one before.
//!
//! A trace is long, and the counts are known when it ends: so it stands before them, and [`ExpertUseWriter`] makes the
//! text piece by piece.

mod format;
mod trace;

pub use format::ExpertUseWriter;
pub use trace::{ExpertTrace, TracedPass};

use std::collections::BTreeSet;

use crate::{Inventory, Role};

/// Characters of a model's name in messages.
const NAME_CHARS: usize = 60;

/// The counts of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layer {
    number: u32,
    /// How many tokens chose each expert.
    counts: Vec<u64>,
    /// The sum of `counts`.
    choices: u64,
}

/// How often the router of each layer chose each expert. A dense model has no layers here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertUse {
    model: String,
    architecture: String,
    experts: u32,
    experts_used: u32,
    tokens: u64,
    /// In ascending order.
    layers: Vec<Layer>,
    trace: ExpertTrace,
    foreseen: Foreseen,
}

/// How guesses of the next layer's experts turned out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Foreseen {
    /// Experts that were guessed, those left out that were in RAM anyway.
    pub guessed: u64,
    /// Those of them that the router then chose.
    pub chosen: u64,
}

/// Guesses that are too few to judge by.
const GUESSES_MIN: u64 = 128;

impl Foreseen {
    /// Whether reading guesses ahead pays: half of them come true or more.
    #[must_use]
    pub const fn pays(self) -> bool {
        self.guessed >= GUESSES_MIN && self.chosen.saturating_mul(2) >= self.guessed
    }
}

impl ExpertUse {
    /// No counts yet, for this model.
    #[must_use]
    pub fn new(inventory: &Inventory) -> Self {
        let shape = &inventory.shape;
        let layer = |number: u32| Layer { number, counts: vec![0; shape.experts as usize], choices: 0 };
        Self {
            model: inventory.name.clone(),
            architecture: shape.architecture.clone(),
            experts: shape.experts,
            experts_used: shape.experts_used,
            tokens: 0,
            layers: mixture_layers(inventory).into_iter().map(layer).collect(),
            trace: ExpertTrace::default(),
            foreseen: Foreseen::default(),
        }
    }

    /// Reads a [file](crate::expert_use#the-file); `file_name` is for messages.
    ///
    /// # Errors
    /// Where the text is no JSON of this form, or its numbers contradict each other.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, ExpertUseError> {
        format::parse(text, file_name)
    }

    /// The [file](crate::expert_use#the-file), without a trace.
    #[must_use]
    pub fn to_json(&self) -> String {
        format::json(self)
    }

    /// Counts the experts that one or more tokens chose in a layer, one id for each choice. A layer without a router and
    /// an expert that the model lacks are mistakes of the caller, and are not counted.
    pub fn add(&mut self, layer: u32, chosen: &[u32]) {
        let Ok(place) = self.layers.binary_search_by_key(&layer, |known| known.number) else {
            debug_assert!(false, "layer {layer} has no router");
            return;
        };
        let layer = &mut self.layers[place];
        for expert in chosen {
            let Some(count) = layer.counts.get_mut(*expert as usize) else {
                debug_assert!(false, "expert {expert} of {}", self.experts);
                continue;
            };
            *count += 1;
            layer.choices += 1;
        }
    }

    /// Forgets all counts.
    pub fn clear(&mut self) {
        (self.tokens, self.trace, self.foreseen) = (0, ExpertTrace::default(), Foreseen::default());
        for layer in &mut self.layers {
            layer.choices = 0;
            layer.counts.fill(0);
        }
    }

    /// Counts tokens that passed through the model.
    pub fn add_tokens(&mut self, tokens: u64) {
        self.tokens = self.tokens.saturating_add(tokens);
    }

    /// Counts guesses of a layer's experts, and those that came true.
    pub fn add_guesses(&mut self, guessed: u64, chosen: u64) {
        self.foreseen.guessed = self.foreseen.guessed.saturating_add(guessed);
        self.foreseen.chosen = self.foreseen.chosen.saturating_add(chosen.min(guessed));
    }

    /// How guesses turned out.
    #[must_use]
    pub const fn foreseen(&self) -> Foreseen {
        self.foreseen
    }

    /// The model's name for people.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Tokens that were counted.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Routed experts of a layer.
    #[must_use]
    pub fn experts(&self) -> u32 {
        self.experts
    }

    /// Routed experts that each token uses in a layer.
    #[must_use]
    pub fn experts_used(&self) -> u32 {
        self.experts_used
    }

    /// Passes in the trace of the file that this was read from; 0 where it has none.
    #[must_use]
    pub fn passes_traced(&self) -> u64 {
        self.trace.len() as u64
    }

    /// The trace of the file that this was read from; empty where it has none.
    #[must_use]
    pub fn trace(&self) -> &ExpertTrace {
        &self.trace
    }

    /// The layers that have a router, in ascending order, each with the count of each expert.
    pub fn layers(&self) -> impl Iterator<Item = (u32, &[u64])> {
        self.layers.iter().map(|layer| (layer.number, layer.counts.as_slice()))
    }

    /// The share of a layer's tokens that chose this expert, from 0 to 1; none where the layer has no counts.
    ///
    /// A layer's tokens are its choices by [`Self::experts_used`]: the last layer may compute fewer tokens of a prompt
    /// than the others.
    #[must_use]
    pub fn share(&self, layer: u32, expert: u32) -> Option<f64> {
        let (layer, count) = self.count(layer, expert)?;
        (layer.choices > 0).then(|| (count as f64 / self.tokens_of(layer)).min(1.0))
    }

    /// The share to plan with, from 0 to 1. With counts of the layer, and half a choice more for each expert,
    ///
    /// ```text
    /// share = experts_used × (count + ½) / (choices + experts / 2)
    /// ```
    ///
    /// which is the estimator of Krichevsky and Trofimov (<https://doi.org/10.1109/TIT.1981.1056331>): an expert that no
    /// token chose may be chosen yet, and the shares of a layer add up to `experts_used`. Where a layer has no counts,
    /// every expert is as likely as any other.
    #[must_use]
    pub fn likely_share(&self, layer: u32, expert: u32) -> f64 {
        let (choices, count) = self.count(layer, expert).map_or((0, 0), |(layer, count)| (layer.choices, count));
        let half = f64::from(self.experts.max(1)) / 2.0;
        (f64::from(self.experts_used) * (count as f64 + 0.5) / (choices as f64 + half)).min(1.0)
    }

    /// Refuses counts of another model.
    ///
    /// # Errors
    /// [`ExpertUseError::OtherModel`] where the architecture, the layers with a router or the experts differ.
    pub fn check(&self, inventory: &Inventory) -> Result<(), ExpertUseError> {
        let shape = &inventory.shape;
        let layers: Vec<u32> = self.layers.iter().map(|layer| layer.number).collect();
        let mixture: Vec<u32> = mixture_layers(inventory).into_iter().collect();
        let listed = |layers: &[u32]| match (layers.first(), layers.last()) {
            (Some(first), Some(last)) => format!("{} layers with experts ({first} to {last})", layers.len()),
            _ => "no layers with experts".to_owned(),
        };
        let found = [
            format!("architecture {}", self.architecture),
            format!("{} experts in a layer", self.experts),
            format!("{} experts for each token", self.experts_used),
            listed(&layers),
        ];
        let expected =
            [shape.architecture.clone(), shape.experts.to_string(), shape.experts_used.to_string(), listed(&mixture)];
        let differs = [
            self.architecture != shape.architecture,
            self.experts != shape.experts,
            self.experts_used != shape.experts_used,
            layers != mixture,
        ];
        match differs.into_iter().position(|differs| differs) {
            None => Ok(()),
            Some(place) => Err(ExpertUseError::OtherModel {
                counted: shown(&self.model, NAME_CHARS),
                model: shown(&inventory.name, NAME_CHARS),
                found: found[place].clone(),
                expected: expected[place].clone(),
            }),
        }
    }

    fn count(&self, layer: u32, expert: u32) -> Option<(&Layer, u64)> {
        let place = self.layers.binary_search_by_key(&layer, |known| known.number).ok()?;
        let layer = &self.layers[place];
        Some((layer, *layer.counts.get(expert as usize)?))
    }

    fn tokens_of(&self, layer: &Layer) -> f64 {
        layer.choices as f64 / f64::from(self.experts_used.max(1))
    }
}

/// Layers that run with routed experts.
fn mixture_layers(inventory: &Inventory) -> BTreeSet<u32> {
    let routed = inventory.units.iter().filter(|unit| unit.role == Role::RoutedExpert);
    routed.filter_map(|unit| unit.layer).collect()
}

/// Foreign text as messages show it, in so many characters.
fn shown(text: &str, most: usize) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    if text.chars().count() <= most { clean.collect() } else { clean.take(most - 1).chain(['…']).collect() }
}

/// What can be wrong with expert statistics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpertUseError {
    /// The text is no JSON of the right form.
    #[error(
        "{file}: these are no expert statistics: {problem}\n\nhint: `plimsoll run --expert-stats FILE` writes them"
    )]
    Form {
        /// The file's name.
        file: String,
        /// What is wrong, with its line and column.
        problem: String,
    },
    /// A number that the rest of the file contradicts.
    #[error(
        "{file}: {place}: expected {expected}, found {found}\n\n\
         hint: the file was edited or joined wrongly; count again with `plimsoll run --expert-stats FILE`"
    )]
    Value {
        /// The file's name.
        file: String,
        /// The key, with its layer and expert.
        place: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The statistics of another model.
    #[error(
        "expert statistics of {counted} say {found}, and {model} has {expected}\n\n\
         hint: statistics fit every quantization of one model, and no other model; \
         count this one's with `plimsoll run --expert-stats FILE`"
    )]
    OtherModel {
        /// The model that was counted.
        counted: String,
        /// The model to be planned.
        model: String,
        /// What the statistics say.
        found: String,
        /// What the model has.
        expected: String,
    },
}
