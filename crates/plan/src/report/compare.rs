//! The planner's choice beside simple placements.

use std::fmt::Write as _;

use super::figure;
use crate::{Aim, Bytes, Compared, Plan, Profile, Tier};

/// The table of `plan --compare`: what each way of placing would give by the same forecast.
#[must_use]
pub fn compare(rows: &[Compared], profile: &Profile) -> String {
    let lengths = profile.lengths;
    let (prompt, answer) = (lengths.prompt, lengths.answer);
    let what = match profile.aim.value().copied().unwrap_or_default() {
        Aim::Decode => format!("an answer of {answer} tokens"),
        Aim::Prefill => format!("a prompt of {prompt} tokens"),
        Aim::Balanced => format!("a prompt of {prompt} tokens and an answer of {answer}"),
    };
    let mut out = format!("by the forecast, for {what}\n\n");
    let _ = writeln!(
        out,
        "  {:<28}{:>9}{:>10}{:>9}{:>12}{:>12}{:>12}",
        "placed", "seconds", "prompt/s", "decode/s", "gpu", "ram", "disk"
    );
    for row in rows {
        let name = if row.chosen { "the planner's choice".to_owned() } else { row.scheme.to_string() };
        let Some(plan) = &row.plan else {
            let _ = writeln!(out, "  {name:<28}does not fit under the ceilings");
            continue;
        };
        let forecast = plan.forecast;
        let (seconds, prompt, decode) =
            (figure(row.seconds), figure(forecast.prompt_tokens_per_s), figure(forecast.decode_tokens_per_s));
        let [gpu, ram, disk] = weights(plan).map(|bytes| bytes.to_string());
        let _ = writeln!(out, "  {name:<28}{seconds:>9}{prompt:>10}{decode:>9}{gpu:>12}{ram:>12}{disk:>12}");
    }
    if let Some(chosen) = rows.iter().find(|row| row.chosen) {
        let plan = chosen.plan.as_ref();
        let (batch, context) = plan.map_or((0, 0), |plan| (plan.micro_batch, plan.kv.tokens));
        let _ =
            writeln!(out, "\n  chosen: {}, micro-batch {batch}, context {context}; bytes are weights", chosen.scheme);
    }
    out
}

/// Bytes of weights on GPUs, in RAM and on disk.
fn weights(plan: &Plan) -> [Bytes; 3] {
    let mut sums = [Bytes::ZERO; 3];
    for tier in &plan.tiers {
        let place = match tier.tier {
            Tier::Gpu(_) => 0,
            Tier::Ram => 1,
            Tier::Disk => 2,
        };
        sums[place] += tier.loads.iter().filter(|load| load.what == "weights").map(|load| load.bytes).sum();
    }
    sums
}
