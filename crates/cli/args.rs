//! The command line: every command and flag, as written by the user.
//!
//! Owns names, defaults and help texts. Must never open a file or decide anything: values are proved where they are used.

// Doc comments are the help texts here, where backticks would be shown.
#![allow(clippy::doc_markdown)]

mod shared;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

pub use shared::{ModelArgs, PlacementArgs, SamplingArgs, TemplateArgs, Think, ThinkArgs, spelled_out};

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

/// Arguments of `plan`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  plimsoll plan -m model.gguf --ram 16GiB -o mine.yaml    then edit mine.yaml, and run with --profile mine.yaml
  plimsoll plan -m model.gguf --explain blk.12.ffn_down.weight
  plimsoll plan -m moe.gguf --expert-stats use.json -o hot.yaml    the experts that were used most go nearest
  plimsoll plan -m hf:OWNER/REPO:Q4_K_M --on rtx3060+ddr4-3200x2:64GiB+nvme4    on a machine that nobody here owns

A machine is parts with + between them: one memory with its size, one drive, any GPUs (2*rtx3090), and 16cores where that is not what the
catalogue says. plimsoll hardware lists the parts. Of a model on the hub only the header is fetched then.")]
pub struct PlanArgs {
    /// The model
    #[command(flatten)]
    pub model: ModelArgs,

    /// Print the plan as one JSON document
    #[arg(long)]
    pub json: bool,

    /// Write the profile that gives this plan; - writes it to stdout instead of the table
    #[arg(short, long, value_name = "PROFILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,

    /// Counts of how often each expert was chosen, as run --expert-stats writes them: the hot ones are placed nearer
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub expert_stats: Option<PathBuf>,

    /// Show the choice beside simple placements: layer by layer as -ngl, and experts on the CPU as -cmoe
    #[arg(long, conflicts_with_all = ["output", "explain"])]
    pub compare: bool,

    /// Plan for a machine of the catalogue, in place of this one
    #[arg(long, value_name = "MACHINE")]
    pub on: Option<String>,

    /// Write the plan as a page for a browser, whole in itself
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "json")]
    pub html: Option<PathBuf>,

    /// First correct this machine's forecasts by what recorded runs took beside theirs
    #[arg(long, conflicts_with = "on")]
    pub calibrate: bool,

    /// Tell why this tensor lives where it does, and what moving it would cost or gain; `NAME[E]` asks for its expert E
    #[arg(long, value_name = "TENSOR", conflicts_with = "json")]
    pub explain: Option<String>,

    /// What may be used
    #[command(flatten)]
    pub placement: PlacementArgs,
}

/// Arguments of `advise`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example: plimsoll advise -m hf:unsloth/Llama-3.3-70B-Instruct-GGUF:Q4_K_M --budget-tps 5

Of a model on the hub only the header is fetched. Prices and figures are those of plimsoll hardware.")]
pub struct AdviseArgs {
    /// The model
    #[command(flatten)]
    pub model: ModelArgs,

    /// Tokens of an answer per second, at least
    #[arg(long, value_name = "TOKENS", allow_negative_numbers = true)]
    pub budget_tps: f64,

    /// How many machines to list, each with another pair of GPU and memory
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub most: u32,

    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `hardware`.
#[derive(Args, Debug)]
pub struct HardwareArgs {
    /// Print one JSON document, with the source of each figure
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// The model
    #[command(flatten)]
    pub model: ModelArgs,

    /// List every tensor
    #[arg(long)]
    pub tensors: bool,

    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `probe`.
#[derive(Args, Debug)]
pub struct ProbeArgs {
    /// A model on the drive to measure; without it, the drive of the current folder is measured with a temporary file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub model: Option<PathBuf>,

    /// Print one JSON document
    #[arg(long)]
    pub json: bool,

    /// Measure again what is kept, and keep it even where other programs were running
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// A model on the drive to look at; without it, the drive of the current folder
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub model: Option<PathBuf>,

    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
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

/// How `bench` prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum BenchFormat {
    /// A table
    #[default]
    Md,
    /// A list of objects with llama-bench's fields
    Json,
}

/// What `bench` measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum BenchOf {
    /// Tokens per second
    #[default]
    Speed,
    /// How often a recorded trace would have found its experts in RAM, by policies; nothing is loaded
    Cache,
}

/// Arguments of `bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// What to measure
    #[arg(value_enum, default_value_t)]
    pub of: BenchOf,

    /// For cache: expert statistics with a trace, which `run --expert-stats FILE --trace` writes
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, required_if_eq("of", "cache"))]
    pub trace: Option<PathBuf>,

    /// The model
    #[command(flatten)]
    pub model: ModelArgs,

    /// Prompt lengths to measure; 0 measures none
    #[arg(
        short = 'p',
        long,
        value_name = "TOKENS",
        value_delimiter = ',',
        default_value = "512",
        allow_negative_numbers = true
    )]
    pub n_prompt: Vec<u32>,

    /// Generation lengths to measure; 0 measures none
    #[arg(
        short = 'n',
        long,
        value_name = "TOKENS",
        value_delimiter = ',',
        default_value = "128",
        allow_negative_numbers = true
    )]
    pub n_gen: Vec<u32>,

    /// Tokens already in the context when measuring starts
    #[arg(
        short = 'd',
        long,
        value_name = "TOKENS",
        value_delimiter = ',',
        default_value = "0",
        allow_negative_numbers = true
    )]
    pub n_depth: Vec<u32>,

    /// Measurements of each, after one warm-up
    #[arg(short, long, value_name = "N", default_value_t = 5, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repetitions: u32,

    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: BenchFormat,

    /// What may be used
    #[command(flatten)]
    pub placement: PlacementArgs,
}

/// Arguments of `logits`.
#[derive(Args, Debug)]
pub struct LogitsArgs {
    /// The model
    #[command(flatten)]
    pub model: ModelArgs,

    /// A JSON array of token ids
    #[arg(long, value_name = "IDS.json", value_hint = ValueHint::FilePath)]
    pub tokens: PathBuf,

    /// Where to write float32 [tokens, vocabulary]
    #[arg(short, long, value_name = "OUT.npy", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,

    /// What may be used; keys and values are kept in f32 where not said otherwise
    #[command(flatten)]
    pub placement: PlacementArgs,
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

/// Arguments of `perplexity`.
#[derive(Args, Debug)]
pub struct PerplexityArgs {
    /// The model
    #[command(flatten)]
    pub model: ModelArgs,

    /// The text
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// The most chunks to score
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub chunks: Option<u32>,

    /// Print one JSON document: perplexity, tokens, chunks
    #[arg(long)]
    pub json: bool,

    /// What may be used; -c is the length of a chunk, 512 where not given
    #[command(flatten)]
    pub placement: PlacementArgs,
}

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}
