//! `plimsoll perplexity`: how well a model foresees a text, by llama.cpp's definition.
//!
//! The whole text is tokenized once and cut into chunks of `-c` tokens. Each chunk stands alone; where the model's texts
//! begin with BOS, that takes the place of a chunk's first token. The tokens of its second half are foreseen, each from all before it in
//! the chunk: positions `c/2` to `c - 2` score the token that follows. The result is exp of the mean negative log
//! probability.

use engine::{Engine, EngineError, Session};
use plan::Bytes;
use serde_json::json;

use crate::args::PerplexityArgs;
use crate::failure::Usage;
use crate::input;
use crate::open::{self, Running};
use crate::show::{self, Progress};
use crate::text::EncodeOptions;

/// llama.cpp's chunk length.
const CHUNK: u32 = 512;
/// The longest text that is read.
const TEXT_MAX: Bytes = Bytes(64 << 20);

pub(super) fn run(args: &PerplexityArgs) -> anyhow::Result<()> {
    let text = input::read_text(&args.file, TEXT_MAX, "the text")?;
    let mut placement = args.placement.clone();
    placement.logits = plan::Logits::Every;
    let length = *placement.ctx_size.get_or_insert(CHUNK) as usize;
    if length < 4 {
        return Err(Usage(format!("-c {length}: a chunk has at least 4 tokens")).into());
    }
    let Running { mut engine, tokenizer, signals, .. } = open::running(&args.model, &placement, None)?;
    let mut tokens = tokenizer.encode(&text, EncodeOptions { add_special: true, parse_special: false })?;
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let most = args.chunks.map_or(usize::MAX, |n| n as usize);
    let chunks = (tokens.len() / length).min(most);
    if chunks == 0 {
        let text = format!("{} has {} tokens, and a chunk has {length}", args.file.display(), tokens.len());
        return Err(Usage(format!("{text}\n\nhint: give a longer text, or shorter chunks with -c")).into());
    }
    let mut session = engine.session()?;
    let bar = Progress::steps("perplexity", chunks as u64);
    let mut sum = Sum::default();
    let _gentle = signals.gently();
    for chunk in tokens.chunks_exact_mut(length).take(chunks) {
        if let Some(bos) = bos {
            chunk[0] = bos;
        }
        score(&mut engine, &mut session, chunk, &mut sum)?;
        bar.step();
        bar.now(&format!("perplexity {:.4}", sum.perplexity()));
    }
    drop(bar);
    if args.json {
        return show::json(&json!({ "perplexity": sum.perplexity(), "tokens": sum.tokens, "chunks": chunks }));
    }
    show::product(&format!("perplexity {:.4} ± {:.4} over {} tokens\n", sum.perplexity(), sum.error(), sum.tokens))
}

/// Scores the second half of one chunk.
fn score(engine: &mut Engine, session: &mut Session, chunk: &[u32], sum: &mut Sum) -> Result<(), EngineError> {
    let half = chunk.len() / 2;
    session.truncate(0);
    engine.prefill(session, &chunk[..half])?;
    // The last token foresees nothing that could be compared.
    let mut broken = None;
    engine.every_logit(session, &chunk[half..chunk.len() - 1], &mut |i, logits| {
        let surprise = surprise(logits, chunk[half + i + 1]);
        if !surprise.is_finite() {
            broken.get_or_insert(half + i);
        }
        sum.add(surprise);
    })?;
    broken.map_or(Ok(()), |position| Err(EngineError::NotFinite { position }))
}

/// The negative natural logarithm of the probability that `logits` give to `token`.
fn surprise(logits: &[f32], token: u32) -> f64 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - highest).exp()).sum();
    sum.ln() - f64::from(logits[token as usize] - highest)
}

/// Surprises added up.
#[derive(Default)]
struct Sum {
    tokens: usize,
    surprise: f64,
    squares: f64,
}

impl Sum {
    fn add(&mut self, surprise: f64) {
        self.tokens += 1;
        self.surprise += surprise;
        self.squares += surprise * surprise;
    }

    fn perplexity(&self) -> f64 {
        (self.surprise / self.tokens as f64).exp()
    }

    /// The standard error of the mean, carried through the exponential.
    fn error(&self) -> f64 {
        let n = self.tokens as f64;
        let mean = self.surprise / n;
        let variance = (self.squares / n - mean * mean).max(0.0);
        (variance / (n - 1.0).max(1.0)).sqrt() * self.perplexity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surprise_is_that_of_a_softmax() {
        let logits = [0.0, 2f32.ln(), 1f32.ln()];
        assert!((surprise(&logits, 1) - 2f64.ln()).abs() < 1e-6);
        assert!((surprise(&[1000.0, 1000.0], 0) - 2f64.ln()).abs() < 1e-9, "large logits do not overflow");
    }

    #[test]
    fn a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary() {
        let mut sum = Sum::default();
        (0..100).for_each(|_| sum.add(surprise(&[0.5; 7], 3)));
        assert!((sum.perplexity() - 7.0).abs() < 1e-9);
        assert!(sum.error() < 1e-6);
    }
}
