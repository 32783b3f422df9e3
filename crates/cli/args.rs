//! The command line: every command and flag, as written by the user.
//!
//! Owns names, defaults and help texts. Must never open a file or decide anything: values are proved where they are used.

// Doc comments are the help texts here, where backticks would be shown.
#![allow(clippy::doc_markdown)]

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use plan::Bytes;

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
    /// Show what a model file holds
    Inspect(InspectArgs),
    /// Measure this machine: RAM, processor and drive (under 30 s), and keep the rates
    Probe(ProbeArgs),
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

/// Which model.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// The model: a GGUF file (any file of a split set), or hf:OWNER/REPO:QUANT
    #[arg(short, long, value_name = "FILE|hf:OWNER/REPO:QUANT", value_hint = ValueHint::FilePath)]
    pub model: String,

    /// Never use the network: hf: names are looked up in the local cache only
    #[arg(long)]
    pub offline: bool,
}

/// What the model may use, and how.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Placement")]
pub struct PlacementArgs {
    /// A placement profile (YAML); without one, every tier that is found is used
    #[arg(long, value_name = "YAML", value_hint = ValueHint::FilePath)]
    pub profile: Option<PathBuf>,

    /// The line for RAM, such as 16GiB: plimsoll never uses more
    #[arg(long, value_name = "SIZE")]
    pub ram: Option<Bytes>,

    /// The line for each GPU's memory, such as 11.5GiB
    #[arg(long, value_name = "SIZE")]
    pub gpu_mem: Option<Bytes>,

    /// Tokens of context (-c)
    #[arg(short = 'c', long, value_name = "TOKENS")]
    pub ctx_size: Option<u32>,

    /// How keys are kept: f32, f16 or q8_0 (-ctk)
    #[arg(long, value_name = "TYPE", value_parser = kv_type)]
    pub cache_type_k: Option<plan::KvType>,

    /// How values are kept: f32, f16 or q8_0 (-ctv)
    #[arg(long, value_name = "TYPE", value_parser = kv_type)]
    pub cache_type_v: Option<plan::KvType>,

    /// CPU threads
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,

    /// Prompt tokens computed in one pass (-ub)
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub ubatch_size: Option<u32>,

    /// Layers whose home is gpu:0, counted from the last (-ngl)
    #[arg(long, value_name = "N")]
    pub n_gpu_layers: Option<u32>,

    /// Layers, counted from the first, whose routed experts stay in RAM (-ncmoe)
    #[arg(long, value_name = "N")]
    pub n_cpu_moe: Option<u32>,

    /// Home of tensors by name: REGEX=CPU, REGEX=CUDA0 or REGEX=DISK; may be given again (-ot)
    #[arg(long, value_name = "REGEX=HOME")]
    pub override_tensor: Vec<String>,

    /// Refuse where the plan has a note: what differs from what was asked or usual, or rests on an estimate
    #[arg(long)]
    pub strict: bool,
}

/// How tokens are chosen.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Temperature; 0 takes the likeliest token each time
    #[arg(long, value_name = "T", default_value_t = 0.8, value_parser = non_negative)]
    pub temp: f32,

    /// Keep the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: u32,

    /// Keep the likeliest tokens that together reach this probability; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = probability)]
    pub top_p: f32,

    /// Drop tokens less likely than this share of the likeliest; 0 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = probability)]
    pub min_p: f32,

    /// Divide the odds of recent tokens by this; 1 changes nothing
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = positive)]
    pub repeat_penalty: f32,

    /// How many recent tokens that counts for
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub repeat_last_n: u32,

    /// The same seed gives the same text; random where not given
    #[arg(short, long)]
    pub seed: Option<u64>,
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

    /// The most tokens to generate; without it, until the model ends or the context is full
    #[arg(short, long, value_name = "N")]
    pub n_predict: Option<u32>,

    /// Hand the prompt to the model as it is, even where there is a chat template
    #[arg(long, conflicts_with_all = ["chat", "system"])]
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

    /// Stop before this text; may be given again
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Vec<String>,

    /// Print one JSON document: text, tokens, prompt_tokens, stats
    #[arg(long)]
    pub json: bool,

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

    /// The most tokens of one answer
    #[arg(short, long, value_name = "N")]
    pub n_predict: Option<u32>,

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
  plimsoll plan -m model.gguf --explain blk.12.ffn_down.weight")]
pub struct PlanArgs {
    /// The model
    #[command(flatten)]
    pub model: ModelArgs,

    /// Print the plan as one JSON document
    #[arg(long)]
    pub json: bool,

    /// Write the profile that gives this plan
    #[arg(short, long, value_name = "PROFILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,

    /// Tell why this tensor lives where it does
    #[arg(long, value_name = "TENSOR", conflicts_with = "json")]
    pub explain: Option<String>,

    /// What may be used
    #[command(flatten)]
    pub placement: PlacementArgs,
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

/// Arguments of `bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// The model
    #[command(flatten)]
    pub model: ModelArgs,

    /// Prompt lengths to measure; 0 measures none
    #[arg(short = 'p', long, value_name = "TOKENS", value_delimiter = ',', default_value = "512")]
    pub n_prompt: Vec<u32>,

    /// Generation lengths to measure; 0 measures none
    #[arg(short = 'n', long, value_name = "TOKENS", value_delimiter = ',', default_value = "128")]
    pub n_gen: Vec<u32>,

    /// Tokens already in the context when measuring starts
    #[arg(short = 'd', long, value_name = "TOKENS", value_delimiter = ',', default_value = "0")]
    pub n_depth: Vec<u32>,

    /// Measurements of each, after one warm-up
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
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
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
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

/// llama.cpp's flags of several letters after one dash, which clap would read as several flags.
const SPELLINGS: [(&str, &str); 8] = [
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-ub", "--ubatch-size"),
    ("-ngl", "--n-gpu-layers"),
    ("-ncmoe", "--n-cpu-moe"),
    ("-ot", "--override-tensor"),
    ("-sys", "--system"),
    ("--gpu-layers", "--n-gpu-layers"),
];

/// The arguments with llama.cpp's spellings turned into ours, up to a `--`.
#[must_use]
pub fn spelled_out(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut open = true;
    let spell = |argument: OsString| {
        open &= argument != "--";
        match SPELLINGS.iter().find(|(short, _)| open && argument == *short) {
            Some((_, long)) => OsString::from(long),
            None => argument,
        }
    };
    arguments.into_iter().map(spell).collect()
}

fn kv_type(text: &str) -> Result<plan::KvType, String> {
    let known = [plan::KvType::F32, plan::KvType::F16, plan::KvType::Q8_0];
    known.into_iter().find(|kv| kv.name() == text).ok_or_else(|| "known types are f32, f16 and q8_0".to_owned())
}

fn number_in(text: &str, range: impl Fn(f32) -> bool, what: &str) -> Result<f32, String> {
    text.parse().ok().filter(|x: &f32| x.is_finite() && range(*x)).ok_or_else(|| format!("expected {what}"))
}

fn non_negative(text: &str) -> Result<f32, String> {
    number_in(text, |x| x >= 0.0, "a number from 0 up")
}

fn positive(text: &str) -> Result<f32, String> {
    number_in(text, |x| x > 0.0, "a number above 0")
}

fn probability(text: &str) -> Result<f32, String> {
    number_in(text, |x| (0.0..=1.0).contains(&x), "a number from 0 to 1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(spelled_out(line.split(' ').map(OsString::from)))
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn llama_cpps_spellings_are_understood() {
        let line =
            "plimsoll run -m a.gguf -p -ngl -n 3 -ctk q8_0 -ctv f32 -ub 64 -ncmoe 4 -ot exps=CPU -ot x=DISK -t 2 -c 99";
        let Command::Run(run) = parse(line).expect("a command line").command else { panic!("run") };
        assert_eq!(run.prompt.as_deref(), Some("--n-gpu-layers"), "the price of spellings");
        let line = line.replace("-p -ngl", "-p hi -ngl 7 --ram 11.5GiB --seed 3");
        let Command::Run(run) = parse(&line).expect("a command line").command else { panic!("run") };
        let placement = run.placement;
        assert_eq!(placement.cache_type_k, Some(plan::KvType::Q8_0));
        assert_eq!(placement.cache_type_v, Some(plan::KvType::F32));
        assert_eq!((placement.ubatch_size, placement.n_gpu_layers, placement.n_cpu_moe), (Some(64), Some(7), Some(4)));
        assert_eq!(placement.override_tensor, ["exps=CPU", "x=DISK"]);
        assert_eq!((placement.threads, placement.ctx_size, run.n_predict), (Some(2), Some(99), Some(3)));
        assert_eq!(placement.ram, Some(Bytes(12_348_030_976)));
        assert_eq!(run.sampling.seed, Some(3));
    }

    #[test]
    fn bench_takes_lists_and_llama_benchs_names() {
        let line = "plimsoll bench -m a.gguf -t 2 -p 128,512 -n 0 -d 64 -r 1 -o json";
        let Command::Bench(bench) = parse(line).expect("a command line").command else { panic!("bench") };
        assert_eq!((bench.n_prompt, bench.n_gen, bench.n_depth), (vec![128, 512], vec![0], vec![64]));
        assert_eq!((bench.repetitions, bench.output), (1, BenchFormat::Json));
    }

    #[test]
    fn wrong_flags_are_usage_errors() {
        for (line, kind) in [
            ("plimsoll run", ErrorKind::MissingRequiredArgument),
            ("plimsoll run -m a --temp -1", ErrorKind::UnknownArgument),
            ("plimsoll run -m a --temp NaN", ErrorKind::ValueValidation),
            ("plimsoll run -m a --top-p 1.5", ErrorKind::ValueValidation),
            ("plimsoll run -m a --repeat-penalty 0", ErrorKind::ValueValidation),
            ("plimsoll run -m a --ram 12parsecs", ErrorKind::ValueValidation),
            ("plimsoll run -m a -ctk q4_0", ErrorKind::ValueValidation),
            ("plimsoll run -m a -t 0", ErrorKind::ValueValidation),
            ("plimsoll run -m a --raw --chat", ErrorKind::ArgumentConflict),
            ("plimsoll run -m a -p x -f y", ErrorKind::ArgumentConflict),
            ("plimsoll fly", ErrorKind::InvalidSubcommand),
            ("plimsoll profile check", ErrorKind::MissingRequiredArgument),
        ] {
            assert_eq!(parse(line).expect_err(line).kind(), kind, "{line}");
        }
    }

    #[test]
    fn after_two_dashes_nothing_is_spelled_out() {
        let words = ["plimsoll", "-ngl", "--", "-ngl"].map(OsString::from);
        assert_eq!(spelled_out(words), ["plimsoll", "--n-gpu-layers", "--", "-ngl"]);
    }
}
