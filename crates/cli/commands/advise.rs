//! `plimsoll advise`: the cheapest machines of the catalogue that are fast enough for a model.

use std::fmt::Write as _;

use plan::hardware::{Advice, advise};
use serde_json::{Value, json};

use crate::args::AdviseArgs;
use crate::{hardware, open, show};

pub(super) fn run(args: &AdviseArgs) -> anyhow::Result<()> {
    let model = open::header_alone(&args.model)?;
    open::has_weights(&model)?;
    let found = advise(&hardware::catalogue(), &model.inventory, args.budget_tps, args.most as usize)?;
    if args.json {
        return show::json(&found.iter().map(document).collect::<Vec<_>>());
    }
    show::product(&text(&found, args.budget_tps))
}

fn text(found: &[Advice], budget: f64) -> String {
    let mut out = format!(
        "{budget} tokens/s or more of decode, cheapest first; prices are approximate, of new or used parts\n\n"
    );
    for advice in found {
        let (decode, prompt) = (advice.forecast.decode_tokens_per_s, advice.forecast.prompt_tokens_per_s);
        let (price, limit, build) = (advice.price_usd, advice.limit.name(), advice.build.to_string());
        let _ = writeln!(out, "  {price:>7.0} USD  {build:<40} {decode:>7.2} decode {prompt:>7.0} prompt  {limit}");
    }
    out.push_str("\nForecasts from data sheets; `plimsoll plan --on MACHINE` shows one as a whole, `plimsoll hardware --json` where figures are from.\n");
    out
}

fn document(advice: &Advice) -> Value {
    json!({
        "on": advice.build.to_string(),
        "price_usd": advice.price_usd,
        "forecast": advice.forecast,
        "limit": advice.limit.name(),
    })
}
