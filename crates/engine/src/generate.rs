//! The loop from a prompt to a text: prefill, then sample and decode until something ends it.

use std::ops::ControlFlow;

use crate::{Engine, EngineError, Sampler, Sampling, Session};

/// What is asked of [`generate`].
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Tokens to add to the session first. At least one.
    pub prompt: &'a [u32],
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// How they are chosen.
    pub sampling: Sampling,
    /// Tokens that end the text. They are not part of it.
    pub stop_tokens: &'a [u32],
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model said so.
    EndOfText,
    /// `max_tokens` were generated.
    Length,
    /// The caller's function said so: a stop string, usually.
    Stopped,
    /// The engine's interrupt was raised.
    Interrupted,
    /// The context is full.
    ContextFull,
}

/// A generated text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its tokens, without the one that ended it.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
}

/// Continues `session` by a prompt and what the model says to it. `on_token` hears each token as it is chosen.
///
/// # Errors
/// Where the prompt does not fit, or a pass fails. An interrupt is no error: what was generated comes back.
pub fn generate(
    engine: &mut Engine,
    session: &mut Session,
    request: &Request<'_>,
    on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
) -> Result<Generation, EngineError> {
    let mut sampler = Sampler::new(request.sampling);
    let mut tokens = Vec::new();
    let done = |tokens, finish| Ok(Generation { tokens, finish, prompt_tokens: request.prompt.len() });
    let mut logits = match engine.prefill(session, request.prompt) {
        Err(EngineError::Interrupted) => return done(tokens, Finish::Interrupted),
        logits => logits?,
    };
    while tokens.len() < request.max_tokens {
        let token = sampler.sample(logits, session.tokens());
        if request.stop_tokens.contains(&token) {
            return done(tokens, Finish::EndOfText);
        }
        tokens.push(token);
        if on_token(token).is_break() {
            return done(tokens, Finish::Stopped);
        }
        if tokens.len() == request.max_tokens {
            break;
        }
        logits = match engine.decode(session, token) {
            Err(EngineError::Interrupted) => return done(tokens, Finish::Interrupted),
            Err(EngineError::ContextFull { .. }) => return done(tokens, Finish::ContextFull),
            logits => logits?,
        };
    }
    done(tokens, Finish::Length)
}
