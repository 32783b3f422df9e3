//! `plimsoll run`: one prompt, one answer.

use std::io::IsTerminal;

use engine::Finish;
use plan::Bytes;
use serde_json::json;

use crate::answer::{Limits, answer, sampling, stats_line};
use crate::args::RunArgs;
use crate::failure::{Interrupted, Usage};
use crate::open::{self, Template};
use crate::text::{EncodeOptions, TextError, Tokenizer};
use crate::{input, show};

pub(super) fn run(args: &RunArgs) -> anyhow::Result<()> {
    let prompt = prompt(args)?;
    let (ready, template) = open::ready(&args.model, &args.placement)?;
    let tokens = tokens(&ready.tokenizer, template, args, &prompt)?;
    ready.check_room(tokens.len())?;
    let mut running = ready.start()?;
    let mut session = running.engine.session()?;
    let limits = Limits { max_tokens: args.n_predict, sampling: sampling(&args.sampling), stop: &args.stop };
    let mut stream = |text: &str| if args.json { Ok(()) } else { show::product(text) };
    let answer = answer(&mut running, &mut session, &tokens, &limits, &mut stream)?;
    if args.json {
        show::json(&json!({
            "text": answer.text,
            "tokens": answer.tokens,
            "prompt_tokens": answer.prompt_tokens,
            "finish": finish_name(answer.finish),
            "seed": limits.sampling.seed,
            "stats": answer.stats,
        }))?;
    } else if !answer.text.ends_with('\n') {
        show::product("\n")?;
    }
    if answer.finish == Finish::ContextFull {
        show::note("note: the context is full; -c gives more room");
    }
    show::note(&stats_line(answer.prompt_tokens, answer.tokens.len(), &answer.stats));
    if answer.finish == Finish::Interrupted { Err(Interrupted.into()) } else { Ok(()) }
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

/// The prompt's tokens: through the chat template where the model has one and --raw does not forbid it.
fn tokens(tokenizer: &Tokenizer, template: Template, args: &RunArgs, prompt: &str) -> anyhow::Result<Vec<u32>> {
    let plain = |parse_special| {
        let options = EncodeOptions { add_special: true, parse_special };
        tokenizer.encode(prompt, options).map_err(anyhow::Error::new)
    };
    if args.raw {
        return plain(args.special);
    }
    match template {
        Ok(template) => {
            not_empty(prompt)?;
            let system = args.system.iter().map(|text| json!({ "role": "system", "content": text }));
            let messages: Vec<_> = system.chain([json!({ "role": "user", "content": prompt })]).collect();
            super::chat_tokens(tokenizer, &template, &messages)
        }
        Err(TextError::NoTemplate { .. }) if !args.chat && args.system.is_none() => {
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
