//! Tells the tiers what comes next, as far ahead as it is known: to the next router's choice.
//!
//! Owns how far that is. Where a pass ends, the pass that will most likely follow is expected already, so that the drive does
//! not rest between tokens.

use tiers::{RowSlice, TierError, Tiers};

use crate::route::Route;
use crate::spec::{Form, Spec, Use};

/// What follows a pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct After {
    /// How often the output matrix is used.
    pub(crate) logits: usize,
    /// The form of the pass after it.
    pub(crate) form: Form,
    /// The card that weights are brought to for that pass, if they are.
    pub(crate) streams: Option<u32>,
}

/// How far the tiers have been told.
#[derive(Debug)]
pub(crate) struct Lookahead {
    /// Layers of this pass that were expected.
    queued: usize,
    form: Form,
    /// The card that weights are brought to for this pass, if they are.
    streams: Option<u32>,
    after: After,
    /// Layers of the next pass that were expected, by [`After::form`].
    next: usize,
}

impl Lookahead {
    pub(crate) const fn new() -> Self {
        let after = After { logits: 0, form: Form::DECODE, streams: None };
        Self { queued: 0, form: Form::DECODE, streams: None, after, next: 0 }
    }

    /// Starts a pass: what was expected of it stands, if it is the one that was foreseen.
    pub(crate) fn begin(
        &mut self,
        tiers: &mut Tiers,
        spec: &Spec,
        route: &Route,
        (form, streams): (Form, Option<u32>),
        after: After,
    ) -> Result<(), TierError> {
        if self.next > 0 && (self.after.form, self.after.streams) == (form, streams) {
            self.queued = self.next;
        } else {
            tiers.forget_expected();
            self.queued = 0;
        }
        (self.next, self.form, self.streams, self.after) = (0, form, streams, after);
        if self.queued > 0 && spec.layers[self.queued - 1].ffn.chooses() {
            return Ok(());
        }
        self.go_on(tiers, spec, route)
    }

    /// Goes on to the next choice: called at the start, and when experts were chosen and are expected.
    pub(crate) fn go_on(&mut self, tiers: &mut Tiers, spec: &Spec, route: &Route) -> Result<(), TierError> {
        if expect_layers(tiers, spec, route, &mut self.queued, (self.form, self.streams))? {
            return Ok(());
        }
        for _ in 0..self.after.logits {
            expect(tiers, route, &spec.output_norm.slice)?;
            expect(tiers, route, &spec.output.weight)?;
        }
        expect_layers(tiers, spec, route, &mut self.next, (self.after.form, self.after.streams)).map(|_| ())
    }

    /// After a pass that failed nothing is known.
    pub(crate) fn reset(&mut self) {
        self.next = 0;
    }
}

/// Expects layers from `*from` on, to the first whose router has to choose. Whether there was one.
fn expect_layers(
    tiers: &mut Tiers,
    spec: &Spec,
    route: &Route,
    from: &mut usize,
    (form, streams): (Form, Option<u32>),
) -> Result<bool, TierError> {
    while *from < spec.layers.len() {
        let layer = &spec.layers[*from];
        let mut expected = Ok(());
        let streamed = route.is_streamed(*from).map(|block| streams.filter(|_| block));
        let mut expect = |card: Option<u32>, used: Use| {
            if expected.is_ok() {
                expected = match (card, used) {
                    (Some(card), Use::Matrix(slice)) if !route.is_copied(slice.unit) => expect_on(tiers, card, slice),
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
        *from += 1;
        if layer.ffn.chooses() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Expects what the processor reads.
fn expect(tiers: &mut Tiers, route: &Route, slice: &RowSlice) -> Result<(), TierError> {
    if route.is_copied(slice.unit) { Ok(()) } else { tiers.expect(slice) }
}

/// Expects a matrix on a card that it does not live on.
#[cfg(feature = "cuda")]
fn expect_on(tiers: &mut Tiers, card: u32, slice: &RowSlice) -> Result<(), TierError> {
    if tiers.home(slice.unit) == plan::Tier::Gpu(card) {
        return Ok(());
    }
    tiers.expect_on(card, std::slice::from_ref(slice))
}

#[cfg(not(feature = "cuda"))]
fn expect_on(_: &mut Tiers, _: u32, _: &RowSlice) -> Result<(), TierError> {
    unreachable!("tiers refuse a plan with GPUs in this build")
}
