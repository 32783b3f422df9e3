//! Commands that tell of models and machines, and load nothing.

// Doc comments are the help texts here, where backticks would be shown.
#![allow(clippy::doc_markdown)]

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::shared::{ModelArgs, PlacementArgs};

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
