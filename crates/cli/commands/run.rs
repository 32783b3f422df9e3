//! `plimsoll run`: one prompt, one answer.

use std::io::IsTerminal;

use engine::Finish;
use plan::Bytes;
use serde_json::{Value, json};

use super::{Manner, still_thinking};
use crate::answer::{Answer, Limits, answer, sampling, stats_line};
use crate::args::RunArgs;
use crate::expert_stats::ExpertStats;
use crate::failure::{Interrupted, Usage};
use crate::open::{self, Template};
use crate::speech::Speech;
use crate::text::{EncodeOptions, Piece, Splitter, TextError, Tokenizer};
use crate::{input, show, verify};

pub(super) fn run(args: &RunArgs) -> anyhow::Result<()> {
    let prompt = prompt(args)?;
    let (ready, template) = open::ready(&args.model, &args.placement, None)?;
    let (tokens, splitter) = tokens(&ready.tokenizer, template, args, &prompt)?;
    ready.check_room(tokens.len())?;
    let stats = args.expert_stats.as_deref();
    let stats = stats.map(|path| ExpertStats::create(path, args.trace, ready.inventory())).transpose()?;
    let mut running = ready.start()?;
    let recording = stats.map(|stats| stats.follow(&mut running.engine));
    let mut session = running.engine.session()?;
    let limits = Limits { max_tokens: args.n_predict, sampling: sampling(&args.sampling), stop: &args.stop };
    let mut speech = Speech::new(args.thinking.think);
    let mut stream = |piece: &Piece| if args.json { Ok(()) } else { speech.say(piece) };
    let answer = answer(&mut running, &mut session, &tokens, splitter, &limits, &mut stream)?;
    if args.json {
        show::json(&document(&answer, limits.sampling.seed))?;
    } else {
        speech.end()?;
    }
    if let Some(recording) = recording {
        recording.finish(&mut running.engine)?;
    }
    if let Some(note) = still_thinking(&answer, args.thinking.think) {
        show::note(note);
    }
    if answer.finish == Finish::ContextFull {
        show::note("note: the context is full; -c gives more room");
    }
    for note in verify::run(&running, &answer.stats) {
        show::note(&note);
    }
    show::note(&stats_line(answer.prompt_tokens, answer.tokens.len(), &answer.stats));
    if answer.finish == Finish::Interrupted { Err(Interrupted.into()) } else { Ok(()) }
}

/// An answer for scripts. The text is the answer alone; thinking has a field of its own, where there is some.
fn document(answer: &Answer, seed: u64) -> Value {
    let mut document = json!({
        "text": answer.text,
        "tokens": answer.tokens,
        "prompt_tokens": answer.prompt_tokens,
        "finish": finish_name(answer.finish),
        "seed": seed,
        "stats": answer.stats,
    });
    if !answer.thinking.is_empty() {
        document["thinking"] = json!(answer.thinking);
    }
    document
}

const fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::EndOfText => "end_of_text",
        Finish::Length => "length",
        Finish::Stopped => "stop",
        Finish::Interrupted => "interrupted",
        Finish::ContextFull => "context_full",
    }
}

/// The longest prompt that is read: more text than any context holds.
const PROMPT_MAX: Bytes = Bytes(64 << 20);

/// The prompt from -p, -f or stdin. Files and pipes end with a newline that nobody meant.
fn prompt(args: &RunArgs) -> anyhow::Result<String> {
    let mut text = match (&args.prompt, &args.file) {
        (Some(text), _) => return Ok(text.clone()),
        (None, Some(path)) => input::read_text(path, PROMPT_MAX, "the prompt")?,
        (None, None) => {
            // Nobody types a prompt into a program that says nothing.
            let typed = std::io::stdin().is_terminal();
            let text = if typed { String::new() } else { input::read_stdin(PROMPT_MAX, "the prompt")? };
            if text.is_empty() {
                let text = "no prompt\n\nhint: give -p TEXT or -f FILE, pipe text in, or use plimsoll chat";
                return Err(Usage(text.into()).into());
            }
            text
        }
    };
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// A template would make a message of nothing, and the model an answer to it.
fn not_empty(prompt: &str) -> Result<(), Usage> {
    if prompt.is_empty() {
        let hint = "give some text with -p or -f; with --raw, models that know a first token begin from nothing";
        return Err(Usage(format!("the prompt is empty\n\nhint: {hint}")));
    }
    Ok(())
}

/// The prompt's tokens, through the chat template where the model has one and --raw does not forbid it; and what tells
/// thinking from answering after them.
fn tokens(
    tokenizer: &Tokenizer,
    template: Template,
    args: &RunArgs,
    prompt: &str,
) -> anyhow::Result<(Vec<u32>, Splitter)> {
    let plain = |parse_special| {
        let options = EncodeOptions { add_special: true, parse_special };
        Ok((tokenizer.encode(prompt, options)?, Splitter::new(None, "")))
    };
    if args.raw {
        return plain(args.special);
    }
    let asks_for_template = args.chat || args.system.is_some() || args.thinking.template.chat_template_kwargs.is_some();
    match template {
        Ok(template) => {
            not_empty(prompt)?;
            let system = args.system.iter().map(|text| json!({ "role": "system", "content": text }));
            let messages: Vec<_> = system.chain([json!({ "role": "user", "content": prompt })]).collect();
            let manner = Manner::new(template, &args.thinking);
            let tokens = manner.tokens(tokenizer, &messages)?;
            let splitter = manner.splitter(tokenizer, &tokens);
            Ok((tokens, splitter))
        }
        Err(TextError::NoTemplate { .. }) if !asks_for_template => {
            show::note("note: the model has no chat template; the prompt goes in as it is");
            plain(false)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_prompt_is_no_message() {
        let error = not_empty("").expect_err("a refusal").to_string();
        assert!(error.starts_with("the prompt is empty\n\nhint: "), "{error}");
        assert!(not_empty(" ").is_ok(), "what was written is taken");
    }
}
