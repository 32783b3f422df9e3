//! Tells the tiers what comes next, as far ahead as it is known: to the next router's choice.
//!
//! Owns how far that is. Where a pass ends, the pass that will most likely follow is expected already, so that the drive does
//! not rest between tokens.

use tiers::{RowSlice, TierError, Tiers};

use crate::route::Route;
use crate::spec::{Form, Spec};

/// What follows a pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct After {
    /// How often the output matrix is used.
    pub(crate) logits: usize,
    /// The form of the pass after it.
    pub(crate) form: Form,
}

/// How far the tiers have been told.
#[derive(Debug)]
pub(crate) struct Lookahead {
    /// Layers of this pass that were expected.
    queued: usize,
    form: Form,
    after: After,
    /// Layers of the next pass that were expected, by [`After::form`].
    next: usize,
}

impl Lookahead {
    pub(crate) const fn new() -> Self {
        Self { queued: 0, form: Form::DECODE, after: After { logits: 0, form: Form::DECODE }, next: 0 }
    }

    /// Starts a pass: what was expected of it stands, if it is the one that was foreseen.
    pub(crate) fn begin(
        &mut self,
        tiers: &mut Tiers,
        spec: &Spec,
        route: &Route,
        form: Form,
        after: After,
    ) -> Result<(), TierError> {
        if self.next > 0 && self.after.form == form {
            self.queued = self.next;
        } else {
            tiers.forget_expected();
            self.queued = 0;
        }
        (self.next, self.form, self.after) = (0, form, after);
        if self.queued > 0 && spec.layers[self.queued - 1].ffn.chooses() {
            return Ok(());
        }
        self.go_on(tiers, spec, route)
    }

    /// Goes on to the next choice: called at the start, and when experts were chosen and are expected.
    pub(crate) fn go_on(&mut self, tiers: &mut Tiers, spec: &Spec, route: &Route) -> Result<(), TierError> {
        if expect_layers(tiers, spec, route, &mut self.queued, self.form)? {
            return Ok(());
        }
        for _ in 0..self.after.logits {
            expect(tiers, route, &spec.output_norm.slice)?;
            expect(tiers, route, &spec.output.weight)?;
        }
        expect_layers(tiers, spec, route, &mut self.next, self.after.form).map(|_| ())
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
    form: Form,
) -> Result<bool, TierError> {
    while *from < spec.layers.len() {
        let mut expected = Ok(());
        spec.each_slice(*from, form, &mut |slice| {
            if expected.is_ok() {
                expected = expect(tiers, route, slice);
            }
        });
        expected?;
        *from += 1;
        if spec.layers[*from - 1].ffn.chooses() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Expects what the processor reads.
fn expect(tiers: &mut Tiers, route: &Route, slice: &RowSlice) -> Result<(), TierError> {
    if route.is_copied(slice.unit) { Ok(()) } else { tiers.expect(slice) }
}
