//! The keys `aim` and `lengths`.

use super::ProfileError;
use super::prove::{Prover, TOKENS_MAX, did_you_mean, quoted};
use super::raw::{RawLengths, Text};
use crate::{Aim, Lengths};

impl Prover<'_> {
    pub(super) fn aim(&self, text: &Text) -> Result<Aim, ProfileError> {
        Aim::ALL.into_iter().find(|aim| aim.name() == text.value).ok_or_else(|| {
            let message = format!("{} is no aim", quoted(&text.value));
            self.bad(text, message, did_you_mean(&text.value, &Aim::ALL.map(Aim::name)))
        })
    }

    pub(super) fn lengths(&self, raw: &RawLengths) -> Result<Lengths, ProfileError> {
        let usual = Lengths::default();
        let length = |text: &Option<Text>, usual: u32| match text {
            Some(text) => Ok(self.number(text, "tokens", 1..=TOKENS_MAX)?.value().copied().unwrap_or(usual)),
            None => Ok(usual),
        };
        Ok(Lengths { prompt: length(&raw.prompt, usual.prompt)?, answer: length(&raw.answer, usual.answer)? })
    }
}
