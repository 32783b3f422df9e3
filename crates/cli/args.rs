//! The command line: every command and flag, as written by the user.
//!
//! Owns names, defaults and help texts. Must never open a file or decide anything: values are proved where they are used.

// Doc comments are the help texts here, where backticks would be shown.
#![allow(clippy::doc_markdown)]

mod copies;
mod measure;
mod plans;
mod shared;
mod talk;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};

pub use copies::{RepackArgs, VerifyArgs};
pub use measure::{BenchArgs, BenchFormat, BenchOf, LogitsArgs, PerplexityArgs};
pub use plans::{AdviseArgs, DoctorArgs, HardwareArgs, InspectArgs, PlanArgs, ProbeArgs};
pub use shared::{ModelArgs, PlacementArgs, SamplingArgs, TemplateArgs, Think, ThinkArgs, spelled_out};
pub use talk::{ChatArgs, RunArgs};

/// Runs language models that are bigger than the GPU: VRAM, RAM and NVMe loaded up to their line, never over it.
#[derive(Debug, Parser)]
#[command(name = "plimsoll", version, propagate_version = true, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  plimsoll run -m model.gguf -p 'Why is the sky blue?' -n 128
  plimsoll plan -m model.gguf --ram 16GiB -c 8192        where every byte would live, and how fast
  plimsoll chat -m hf:bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M
  plimsoll probe -m model.gguf                           measure this machine once, for honest forecasts

Exit codes: 1 failure, 2 usage, 3 model, 4 does not fit, 5 input/output, 130 interrupted.";

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Generate text from one prompt
    Run(Box<RunArgs>),
    /// Talk to a model
    Chat(Box<ChatArgs>),
    /// Show where every byte of a model would live and what a token would cost, before anything is loaded
    Plan(Box<PlanArgs>),
    /// List the cheapest machines of the catalogue that are fast enough for a model
    Advise(AdviseArgs),
    /// List the parts of which plan --on makes machines
    Hardware(HardwareArgs),
    /// Show what a model file holds
    Inspect(InspectArgs),
    /// Measure this machine: RAM, processor and drive (under 30 s), and keep the rates
    Probe(ProbeArgs),
    /// Look whether this machine lets plimsoll do its best (exit code 0), could do better (1), or has something unusable (2)
    Doctor(DoctorArgs),
    /// Get a model from the Hugging Face hub
    Pull(PullArgs),
    /// Copy a model so that each tensor starts on a page of the drive, with a checksum for each tensor and expert
    Repack(RepackArgs),
    /// Compare a model with its checksums, and name what differs
    Verify(VerifyArgs),
    /// Check a placement profile, or print the schema of profiles
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Measure prompt and generation speed, as llama-bench does
    Bench(Box<BenchArgs>),
    /// Write the logits of every position of a token sequence
    Logits(Box<LogitsArgs>),
    /// Turn JSON strings, one a line on stdin, into JSON arrays of token ids
    Tokenize(TokenizeArgs),
    /// Print what the model's chat template makes of a conversation
    Render(RenderArgs),
    /// Measure perplexity on a text, with llama.cpp's definition
    Perplexity(Box<PerplexityArgs>),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// Arguments of `pull`.
#[derive(Args, Debug)]
#[command(after_help = "\
Files land in the hub's cache (HF_HOME, else ~/.cache/huggingface); an interrupted download goes on where it stopped.
The path of the model's (first) file is printed to stdout.

Example: plimsoll run -m \"$(plimsoll pull hf:unsloth/Qwen3-0.6B-GGUF:Q8_0)\" -p Hello")]
pub struct PullArgs {
    /// The model: hf:OWNER/REPO:QUANT; QUANT is Q4_K_M where not given
    #[arg(value_name = "hf:OWNER/REPO:QUANT")]
    pub model: String,

    /// Look in the local cache only
    #[arg(long)]
    pub offline: bool,
}

/// What `profile` can do.
#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    /// Check profiles; with a model, also that they fit it and this machine
    Check(ProfileCheckArgs),
    /// Print the JSON Schema of profiles, for editors
    Schema,
}

/// Arguments of `profile check`.
#[derive(Args, Debug)]
pub struct ProfileCheckArgs {
    /// The profiles
    #[arg(required = true, value_name = "YAML", value_hint = ValueHint::FilePath)]
    pub profiles: Vec<PathBuf>,

    /// A model that they must fit
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub model: Option<PathBuf>,
}

/// Arguments of `tokenize`.
#[derive(Args, Debug)]
pub struct TokenizeArgs {
    /// The model; a file with a vocabulary only will do
    #[command(flatten)]
    pub model: ModelArgs,

    /// Read control tokens where the text spells them
    #[arg(long)]
    pub special: bool,
}

/// Arguments of `render`.
#[derive(Args, Debug)]
pub struct RenderArgs {
    /// The model
    #[command(flatten)]
    pub model: ModelArgs,

    /// A JSON array of messages with role and content
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub messages: PathBuf,

    /// A JSON array of tools
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub tools: Option<PathBuf>,

    /// Leave out the opening of the answer
    #[arg(long)]
    pub no_generation_prompt: bool,

    /// How it is rendered
    #[command(flatten)]
    pub template: TemplateArgs,
}

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}
