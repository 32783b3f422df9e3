//! One module per command; each turns its arguments into output on stdout.

mod bench;
mod chat;
mod inspect;
mod logits;
mod perplexity;
mod plan;
mod probe;
mod profile;
mod render;
mod run;
mod tokenize;

use std::path::Path;

use ::plan::Bytes;
use clap::CommandFactory;
use serde::de::DeserializeOwned;

use crate::args::{Cli, Command, CompletionsArgs, PullArgs};
use crate::failure::Usage;
use crate::signals::Signals;
use crate::text::{ChatTemplate, RenderOptions, Tokenizer, encode_chat};
use crate::{fetch, input, show};

/// Runs one command to its end.
///
/// # Errors
/// Whatever stopped it; [`crate::failure`] turns that into a message and an exit code.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Probe(args) => probe::run(&args),
        Command::Pull(args) => pull(&args),
        Command::Profile(command) => profile::run(&command),
        Command::Chat(args) => chat::run(&args),
        Command::Render(args) => render::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Completions(args) => completions(&args),
    }
}

fn pull(args: &PullArgs) -> anyhow::Result<()> {
    Signals::install()?;
    let path = fetch::pull(&args.model, args.offline)?;
    show::product(&format!("{}\n", path.display()))
}

fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "plimsoll", &mut script);
    show::product(&String::from_utf8_lossy(&script))
}

/// The longest JSON file that is read: tokens of the longest contexts, or messages that could fill one.
const JSON_MAX: Bytes = Bytes(64 << 20);

/// Reads a JSON file of a form that `expected` describes; `-` is standard input.
fn read_json<T: DeserializeOwned>(path: &Path, expected: &str) -> anyhow::Result<T> {
    let text = if path == Path::new("-") {
        input::read_stdin(JSON_MAX, expected)?
    } else {
        input::read_text(path, JSON_MAX, expected)?
    };
    let fail = |error| Usage(format!("{}: {error}\n\nhint: expected {expected}", path.display()));
    Ok(serde_json::from_str(&text).map_err(fail)?)
}

/// The tokens of a conversation that wants an answer.
fn chat_tokens(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    messages: &[serde_json::Value],
) -> anyhow::Result<Vec<u32>> {
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    Ok(encode_chat(tokenizer, template, messages, &options)?)
}
