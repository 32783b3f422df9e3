//! `plimsoll tokenize`: texts to token ids, line by line.

use std::io::BufRead;

use anyhow::Context;

use crate::args::TokenizeArgs;
use crate::failure::Usage;
use crate::text::{EncodeOptions, Tokenizer};
use crate::{open, show};

pub(super) fn run(args: &TokenizeArgs) -> anyhow::Result<()> {
    let model = open::header(&args.model)?;
    let tokenizer = Tokenizer::from_metadata(&model.metadata)?;
    let options = EncodeOptions { add_special: false, parse_special: args.special };
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line.context("cannot read standard input")?;
        let fail = |error| {
            Usage(format!("line {}: {error}\n\nhint: each line is a JSON string, such as \"Hello\"", number + 1))
        };
        let text: String = serde_json::from_str(&line).map_err(fail)?;
        let ids = tokenizer.encode(&text, options).with_context(|| format!("line {}", number + 1))?;
        show::product(&(serde_json::to_string(&ids)? + "\n"))?;
    }
    Ok(())
}
