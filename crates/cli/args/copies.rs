//! Flags of the commands that copy models and check copies.

// Doc comments are the help texts here, where backticks would be shown.
#![allow(clippy::doc_markdown)]

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::ModelArgs;

/// Arguments of `repack`.
#[derive(Args, Debug)]
#[command(after_help = "\
The copy is a GGUF file of the same name that any program reads; a split set stays one. Checksums are beside it, in FILE.sums. The path of the
(first) file is printed to stdout. What reading from it would gain, plimsoll plan says; the model that was copied is left alone.

Example: plimsoll run -m \"$(plimsoll repack -m model.gguf -o /mnt/fast)\" -p Hello")]
pub struct RepackArgs {
    /// The model
    #[command(flatten)]
    pub model: ModelArgs,

    /// The folder to write to; it is made where there is none
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: PathBuf,
}

/// Arguments of `verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The model
    #[command(flatten)]
    pub model: ModelArgs,

    /// Make checksums of the model as it is now, in FILE.sums; those that are there are replaced
    #[arg(long, conflicts_with = "json")]
    pub write: bool,

    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}
