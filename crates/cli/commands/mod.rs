//! One module per command; each turns its arguments into output on stdout.

mod advise;
mod bench;
mod bench_cache;
mod chat;
mod doctor;
mod hardware;
mod inspect;
mod logits;
mod perplexity;
mod plan;
mod probe;
mod profile;
mod render;
mod repack;
mod run;
mod tokenize;
mod verify;

use std::path::Path;

use ::plan::Bytes;
use clap::CommandFactory;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::answer::Answer;
use crate::args::{Cli, Command, CompletionsArgs, PullArgs, Think, ThinkArgs};
use crate::failure::Usage;
use crate::signals::Signals;
use crate::text::{ChatTemplate, Marks, RenderOptions, Splitter, Tokenizer, encode_chat};
use crate::{fetch, input, show};

/// Runs one command to its end.
///
/// # Errors
/// Whatever stopped it; [`crate::failure`] turns that into a message and an exit code.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Advise(args) => advise::run(&args),
        Command::Hardware(args) => hardware::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Probe(args) => probe::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Pull(args) => pull(&args),
        Command::Repack(args) => repack::run(&args),
        Command::Verify(args) => verify::run(&args),
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

/// How a conversation is put to a model.
struct Manner {
    template: ChatTemplate,
    /// Variables of the template.
    variables: Map<String, Value>,
}

impl Manner {
    /// As the flags say. What the template cannot do is told on stderr.
    fn new(template: ChatTemplate, args: &ThinkArgs) -> Self {
        let (variables, notes) = variables(&template, args);
        for note in notes {
            show::note(&format!("note: {note}"));
        }
        Self { template, variables }
    }

    /// The tokens of a conversation that wants an answer.
    fn tokens(&self, tokenizer: &Tokenizer, messages: &[Value]) -> anyhow::Result<Vec<u32>> {
        let extra = self.variables.clone();
        let options = RenderOptions { add_generation_prompt: true, extra, ..RenderOptions::default() };
        Ok(encode_chat(tokenizer, &self.template, messages, &options)?)
    }

    /// What tells thinking from answering after these tokens.
    fn splitter(&self, tokenizer: &Tokenizer, tokens: &[u32]) -> Splitter {
        // An opening tag may be spelled in several tokens, and harmony's header has seven.
        const END: usize = 32;
        let end = &tokens[tokens.len().saturating_sub(END)..];
        Splitter::new(Marks::of(self.template.source()), &tokenizer.decode(end))
    }
}

/// The variables by which templates are asked for no thinking: Qwen's and GLM's, `DeepSeek`'s, Seed-OSS's.
fn no_thinking() -> [(&'static str, Value); 3] {
    [("enable_thinking", false.into()), ("thinking", false.into()), ("thinking_budget", 0.into())]
}

/// The template's variables, and what the flags ask for that it cannot give.
fn variables(template: &ChatTemplate, args: &ThinkArgs) -> (Map<String, Value>, Vec<String>) {
    let mut variables = args.template.chat_template_kwargs.clone().unwrap_or_default();
    let mut notes: Vec<_> = unread(template, &variables).collect();
    if args.think == Think::Off {
        let mut can = false;
        for (name, value) in no_thinking().into_iter().filter(|(name, _)| template.reads(name)) {
            variables.entry(name).or_insert(value);
            can = true;
        }
        if !can && Marks::of(template.source()).is_some() {
            let less = if template.reads("reasoning_effort") {
                r#" (--chat-template-kwargs '{"reasoning_effort": "low"}' makes it short)"#
            } else {
                ""
            };
            notes.push(format!("the model's chat template cannot turn thinking off{less}; it is hidden"));
        }
    }
    (variables, notes)
}

/// What to tell where nothing was printed, since the answer did not begin.
fn still_thinking(answer: &Answer, think: Think) -> Option<&'static str> {
    let silent = think != Think::Show && answer.text.is_empty() && !answer.thinking.is_empty();
    silent.then_some(
        "note: the model was still thinking when it ended; -n and -c give it more room, --think show its thoughts",
    )
}

/// What to tell of variables that change nothing.
fn unread(template: &ChatTemplate, variables: &Map<String, Value>) -> impl Iterator<Item = String> {
    let names = variables.keys().filter(|name| !template.reads(name));
    names.map(|name| format!("the model's chat template reads no variable {name:?}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::args::TemplateArgs;

    fn asked(source: &str, think: Think, kwargs: &Value) -> (Value, Vec<String>) {
        let tokens =
            gguf::Metadata::new(vec![("tokenizer.ggml.tokens".into(), gguf::Value::Strings(gguf::Strings::default()))]);
        let template = ChatTemplate::new(source, &tokens).expect("a template");
        let chat_template_kwargs = kwargs.as_object().cloned();
        let (variables, notes) =
            variables(&template, &ThinkArgs { think, template: TemplateArgs { chat_template_kwargs } });
        (Value::Object(variables), notes)
    }

    #[test]
    fn thinking_is_turned_off_where_the_template_can() {
        const QWEN: &str = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>{% endif %}";
        const SEED: &str =
            "{% if not thinking_budget is defined %}{% set thinking_budget = -1 %}{% endif %}<seed:think>";
        const R1: &str = "{{ messages }}<think>";
        const HARMONY: &str = "{{ reasoning_effort }}{{ messages[0].thinking }}<|channel|><|message|>";
        for (source, think, kwargs, variables, note) in [
            (QWEN, Think::Off, json!({}), json!({"enable_thinking": false}), ""),
            (QWEN, Think::Off, json!({"enable_thinking": true}), json!({"enable_thinking": true}), ""),
            (QWEN, Think::Hide, json!({}), json!({}), ""),
            (QWEN, Think::Show, json!({"x": 1}), json!({"x": 1}), "reads no variable \"x\""),
            (SEED, Think::Off, json!({}), json!({"thinking_budget": 0}), ""),
            (R1, Think::Off, json!({}), json!({}), "cannot turn thinking off; it is hidden"),
            (HARMONY, Think::Off, json!({}), json!({}), "cannot turn thinking off (--chat-template-kwargs"),
            ("{{ messages }}", Think::Off, json!({}), json!({}), ""),
        ] {
            let (found, notes) = asked(source, think, &kwargs);
            assert_eq!(found, variables, "{source}");
            assert_eq!(notes.len(), usize::from(!note.is_empty()), "{source}: {notes:?}");
            assert!(notes.concat().contains(note), "{source}: {notes:?}");
        }
    }
}
