//! `plimsoll tokenize`: texts to token ids, line by line.

use std::io::BufRead;

use anyhow::Context;
use plan::Bytes;

use crate::args::TokenizeArgs;
use crate::failure::Usage;
use crate::text::{EncodeOptions, Tokenizer};
use crate::{input, open, show};

/// The longest line that is read; no context holds that much.
const LINE_MAX: Bytes = Bytes(16 << 20);

pub(super) fn run(args: &TokenizeArgs) -> anyhow::Result<()> {
    let model = open::header_alone(&args.model)?;
    let tokenizer = Tokenizer::from_metadata(&model.metadata)?;
    let options = EncodeOptions { add_special: false, parse_special: args.special };
    each_line(&mut std::io::stdin().lock(), &mut |text| {
        let ids = tokenizer.encode(text, options)?;
        show::product(&(serde_json::to_string(&ids)? + "\n"))
    })
}

/// Reads JSON strings, one a line, and tells where one is none.
fn each_line(reader: &mut impl BufRead, take: &mut dyn FnMut(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for number in 1.. {
        let Some(line) = input::read_line(reader, number, LINE_MAX, "a text to tokenize")? else { break };
        let fail =
            |error| Usage(format!("line {number}: {error}\n\nhint: each line is a JSON string, such as \"Hello\""));
        let text: String = serde_json::from_str(&line).map_err(fail)?;
        take(&text).with_context(|| format!("line {number}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Exit, exit, message};

    #[test]
    fn each_line_is_one_text_and_a_bad_one_is_named() {
        let mut texts = Vec::new();
        let mut take = |text: &str| {
            texts.push(text.to_owned());
            Ok(())
        };
        each_line(&mut &b"\"a\"\n\"b\\n\""[..], &mut take).expect("texts");
        for (input, start) in [
            (&b"\"c\"\nplain\n"[..], "line 2: "),
            (b"\"d\"\n\"e\"\n\xFF\n", "line 3 is not UTF-8"),
            (b"\n", "line 1: "),
        ] {
            let error = each_line(&mut &input[..], &mut take).expect_err(start);
            assert_eq!(exit(&error), Exit::Usage);
            assert!(message(&error).starts_with(start), "{error}");
        }
        let error = each_line(&mut std::io::BufReader::new(std::io::repeat(0)), &mut take).expect_err("endless");
        assert_eq!(exit(&error), Exit::Usage);
        assert_eq!(texts, ["a", "b\n", "c", "d", "e"]);
    }
}
