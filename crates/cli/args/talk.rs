//! Commands that make a model speak.

// Doc comments are the help texts here, where backticks would be shown.
#![allow(clippy::doc_markdown)]

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::shared::{self, ModelArgs, PlacementArgs, SamplingArgs, ThinkArgs};

/// Arguments of `run`.
#[allow(clippy::struct_excessive_bools)] // Each is a flag of its own; what excludes what is said to clap.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plimsoll run -m model.gguf -p 'Name three rivers.' --temp 0 -n 64
  plimsoll run -m model.gguf -f prompt.txt --raw --json | jq .text
  echo 'def fib(n):' | plimsoll run -m model.gguf --raw --ram 4GiB")]
pub struct RunArgs {
    /// The model
    #[command(flatten)]
    pub model: ModelArgs,

    /// The prompt; without -p and -f it is read from stdin
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "file")]
    pub prompt: Option<String>,

    /// A file with the prompt
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,

    /// The most tokens to generate; without it or with -1, until the model ends or the context is full
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = shared::count_or_all)]
    pub n_predict: Option<u32>,

    /// Hand the prompt to the model as it is, even where there is a chat template
    #[arg(long, conflicts_with_all = ["chat", "system", "think", "chat_template_kwargs"])]
    pub raw: bool,

    /// Put the prompt through the chat template; fails where the model has none. Without --raw and --chat the
    /// template is used where there is one
    #[arg(long)]
    pub chat: bool,

    /// Read control tokens where the prompt spells them; only with --raw
    #[arg(long, requires = "raw")]
    pub special: bool,

    /// A system message before the prompt (-sys)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub system: Option<String>,

    /// Stop before this text in the answer; may be given again
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Vec<String>,

    /// Write how often each expert of a mixture was chosen (JSON), for plan --expert-stats; a file that is there is replaced
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub expert_stats: Option<PathBuf>,

    /// Write the sequence of choices too, for studies of caches; only with --expert-stats
    #[arg(long, requires = "expert_stats")]
    pub trace: bool,

    /// Print one JSON document: text (the answer), thinking (where there is some), tokens (all of them), prompt_tokens, stats
    #[arg(long)]
    pub json: bool,

    /// How the prompt is put
    #[command(flatten)]
    pub thinking: ThinkArgs,

    /// How tokens are chosen
    #[command(flatten)]
    pub sampling: SamplingArgs,

    /// What may be used
    #[command(flatten)]
    pub placement: PlacementArgs,
}

/// Arguments of `chat`.
#[derive(Args, Debug)]
pub struct ChatArgs {
    /// The model
    #[command(flatten)]
    pub model: ModelArgs,

    /// A system message (-sys)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub system: Option<String>,

    /// The most tokens of one answer; without it or with -1, until the model ends it or the context is full
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = shared::count_or_all)]
    pub n_predict: Option<u32>,

    /// How messages are put
    #[command(flatten)]
    pub thinking: ThinkArgs,

    /// How tokens are chosen
    #[command(flatten)]
    pub sampling: SamplingArgs,

    /// What may be used
    #[command(flatten)]
    pub placement: PlacementArgs,
}
