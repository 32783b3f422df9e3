//! Tells the tiers what comes next, as far ahead as it is known: to the next router's choice.
//!
//! Owns how far that is. Where a pass ends, the pass that will most likely follow is expected already, so that the drive does
//! not rest between tokens.

use tiers::{RowSlice, TierError, Tiers};

use crate::foresight::Foresight;
use crate::route::{Brought, Route, Streaming};
use crate::spec::{Ffn, Form, Mixture, Spec, Use};

/// What follows a pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct After {
    /// How often the output matrix is used.
    pub(crate) logits: usize,
    /// The form of the pass after it.
    pub(crate) form: Form,
    /// Whether and how weights are brought to cards for that pass.
    pub(crate) streaming: Option<Streaming>,
}

/// How a pass uses units.
type Way = (Form, Option<Streaming>);

/// How far into one pass the tiers have been told.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// Layers.
    layers: usize,
    /// Whether the last one's router has to choose first.
    waits: bool,
}

/// How far the tiers have been told.
#[derive(Debug)]
pub(crate) struct Lookahead {
    /// Of this pass.
    this: Told,
    way: Way,
    after: After,
    /// Of the next one, if the tiers have been told of all of this one.
    next: Option<Told>,
    /// Beyond the next router.
    pub(crate) foresight: Foresight,
}

impl Lookahead {
    /// Nothing told yet; `foresee` experts of each guess are read.
    pub(crate) fn new(foresee: u32) -> Self {
        let after = After { logits: 0, form: Form::DECODE, streaming: None };
        let this = Told { layers: 0, waits: false };
        Self { this, way: (Form::DECODE, None), after, next: None, foresight: Foresight::new(foresee) }
    }

    /// Starts a pass: what was expected of it stands, if it is the one that was foreseen.
    pub(crate) fn begin(
        &mut self,
        tiers: &mut Tiers,
        spec: &Spec,
        route: &Route,
        way: Way,
        after: After,
    ) -> Result<(), TierError> {
        let foreseen = (self.after.form, self.after.streaming) == way;
        self.this = self.next.take().filter(|_| foreseen).unwrap_or_else(|| {
            tiers.forget_expected();
            Told::default()
        });
        (self.way, self.after) = (way, after);
        if self.this.waits { Ok(()) } else { self.go_on(tiers, spec, route) }
    }

    /// Goes on to the next choice: called at the start, and when experts were chosen and are expected.
    pub(crate) fn go_on(&mut self, tiers: &mut Tiers, spec: &Spec, route: &Route) -> Result<(), TierError> {
        if self.next.is_some() {
            return Ok(());
        }
        expect_layers(tiers, spec, route, &mut self.this, self.way)?;
        if self.this.waits {
            return Ok(());
        }
        for _ in 0..self.after.logits {
            expect(tiers, route, &spec.output_norm.slice)?;
            expect(tiers, route, &spec.output.weight)?;
        }
        let next = self.next.insert(Told::default());
        expect_layers(tiers, spec, route, next, (self.after.form, self.after.streaming))
    }

    /// After a pass that failed nothing is known.
    pub(crate) fn reset(&mut self) {
        self.next = None;
    }
}

/// Expects layers on, to the first whose router has to choose.
fn expect_layers(
    tiers: &mut Tiers,
    spec: &Spec,
    route: &Route,
    told: &mut Told,
    (form, streaming): Way,
) -> Result<(), TierError> {
    told.waits = false;
    while told.layers < spec.layers.len() && !told.waits {
        let layer = &spec.layers[told.layers];
        let mut expected = Ok(());
        let streamed = route.streamed_to(told.layers).map(|card| route.brought_to(card?, streaming));
        let mut expect = |brought: Option<Brought>, used: Use| {
            if expected.is_ok() {
                let brought = brought.or(match used {
                    Use::Matrix(slice) => route.comes(slice.unit),
                    Use::Bias(..) | Use::Vector(_) => None,
                });
                expected = match (brought, used) {
                    (Some(brought), Use::Matrix(slice)) => expect_on(tiers, route, brought, [slice]),
                    // A card has copies of all vectors.
                    (Some(_), _) => Ok(()),
                    (None, Use::Matrix(slice)) => self::expect(tiers, route, slice),
                    (None, Use::Bias(_, vector) | Use::Vector(vector)) => self::expect(tiers, route, &vector.slice),
                };
            }
        };
        layer.attention.each_use(form, &mut |used| expect(streamed[0], used));
        layer.ffn.each_use(&mut |used| expect(streamed[1], used));
        expected?;
        if let Ffn::Mixture(f) = &layer.ffn {
            match streamed[1].filter(|brought| brought.all) {
                Some(brought) => expect_experts(tiers, route, brought, f, 0..f.experts.len())?,
                None => told.waits = true,
            }
        }
        told.layers += 1;
    }
    Ok(())
}

/// Expects what the processor reads.
fn expect(tiers: &mut Tiers, route: &Route, slice: &RowSlice) -> Result<(), TierError> {
    if route.is_copied(slice.unit) { Ok(()) } else { tiers.expect(slice) }
}

/// Expects these experts on a card that they do not live on, each as a whole, but for those that the processor keeps.
pub(crate) fn expect_experts(
    tiers: &mut Tiers,
    route: &Route,
    brought: Brought,
    f: &Mixture,
    mut experts: impl Iterator<Item = usize>,
) -> Result<(), TierError> {
    experts.try_for_each(|expert| {
        let expert = &f.experts[expert];
        if route.keeps(expert.gate.unit) {
            return Ok(());
        }
        expect_on(tiers, route, brought, [&expert.gate, &expert.up, &expert.down])
    })
}

/// Expects matrices on a card, side by side, as far as they do not live there.
#[cfg(feature = "cuda")]
fn expect_on<const N: usize>(
    tiers: &mut Tiers,
    route: &Route,
    brought: Brought,
    together: [&RowSlice; N],
) -> Result<(), TierError> {
    let elsewhere = |slice: &&RowSlice| {
        tiers.home(slice.unit) != plan::Tier::Gpu(brought.card) && !route.needs_no_bringing(slice.unit)
    };
    let together: Vec<RowSlice> = together.into_iter().filter(elsewhere).cloned().collect();
    if together.is_empty() { Ok(()) } else { tiers.expect_on(brought.card, &together) }
}

#[cfg(not(feature = "cuda"))]
fn expect_on<const N: usize>(_: &mut Tiers, _: &Route, _: Brought, _: [&RowSlice; N]) -> Result<(), TierError> {
    unreachable!("tiers refuse a plan with GPUs in this build")
}
