//! Commands that measure a model: its speed, its logits, its perplexity.

// Doc comments are the help texts here, where backticks would be shown.
#![allow(clippy::doc_markdown)]

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use super::shared::{ModelArgs, PlacementArgs};

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

    /// Counts of how often each expert was chosen, as run --expert-stats writes them: the plan and its forecast go by them
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "trace")]
    pub expert_stats: Option<PathBuf>,

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
