//! The page `docs/hardware.md`: plans of recorded models over the catalogue.

use std::fmt::Write as _;
use std::path::Path;

use plan::hardware::{Build, Catalogue, Limit, Text, most_tokens_per_s};
use plan::{Inventory, Profile, QuantType, plan};

use crate::common;

/// The catalogue of `configs/hardware/`.
pub(crate) fn catalogue() -> Catalogue {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/hardware");
    let files = ["gpus.yaml", "memories.yaml", "drives.yaml"];
    let texts = files.map(|file| std::fs::read_to_string(folder.join(file)).unwrap());
    let texts: Vec<Text<'_>> = files.iter().zip(&texts).map(|(file, text)| Text { file, text }).collect();
    Catalogue::parse(&texts).unwrap_or_else(|error| panic!("{error}"))
}

/// A recorded model with other types.
fn retyped(name: &str, title: &str, quant: impl Fn(QuantType) -> QuantType) -> Inventory {
    let model = common::inventory(name);
    let list = model.tensors.iter().map(|tensor| {
        let quant = if tensor.dims.len() < 2 { tensor.quant } else { quant(tensor.quant) };
        (tensor.name.clone(), quant, tensor.dims.clone())
    });
    common::build(title, model.shape.clone(), model.vocabulary, list.collect::<Vec<_>>())
}

/// The models of the page, by their place.
const MODELS: [&str; 6] = [
    "Llama 70B, FP16",
    "Llama 70B, Q8_0",
    "Llama 70B, Q4_K_M",
    "DeepSeek R1 671B, Q4_K_M",
    "DeepSeek R1 671B, IQ2_XXS",
    "DeepSeek R1 671B, IQ1_S",
];

fn model(place: usize) -> Inventory {
    let floats = |quant: QuantType| if quant == QuantType::F32 { quant } else { QuantType::F16 };
    let eights = |quant: QuantType| if quant == QuantType::F32 { quant } else { QuantType::Q8_0 };
    let twos = |quant: QuantType| if quant == QuantType::Iq1S { QuantType::Iq2Xxs } else { quant };
    match place {
        0 => retyped("llama-70b-q4_k_m", "70B", floats),
        1 => retyped("llama-70b-q4_k_m", "70B", eights),
        2 => common::inventory("llama-70b-q4_k_m"),
        3 => common::inventory("deepseek-r1-q4_k_m"),
        4 => retyped("deepseek-r1-iq1_s", "R1", twos),
        _ => common::inventory("deepseek-r1-iq1_s"),
    }
}

const CARDS: [&str; 10] =
    ["", "rtx3060", "rtx3090", "rtx4090", "rtx5090", "a100-40", "a100-80", "h100", "h200", "b200"];
const MEMORIES: [&str; 7] = [
    "ddr4-2666x2:64GiB",
    "ddr4-3200x2:128GiB",
    "ddr5-5600x2:192GiB",
    "ddr5-6000x2:192GiB",
    "ddr4-3200x8:512GiB",
    "ddr4-3200x8-xeon:512GiB",
    "ddr5-4800x12:768GiB",
];

/// (who claims it, model by its place, machine, tokens per second)
const CLAIMS: [(&str, usize, &str, f64); 5] = [
    ("craftrigs: 70B on an RTX 3060, 18 and more", 2, "rtx3060+ddr5-6000x2:96GiB+nvme5", 18.0),
    ("runlocalai: 70B on an RTX 4090", 2, "rtx4090+ddr5-6000x2:96GiB+nvme5", 14.8),
    ("ubergarm: 70B IQ4_XS, 3090 Ti, 96 GB of tuned DDR5", 2, "rtx3090+ddr5-6000x2:96GiB+nvme4", 4.5),
    ("a blog: R1 IQ1_S from a desktop's NVMe alone", 5, "ddr5-6000x2:32GiB+nvme5", 2.0),
    ("ik_llama.cpp: R1 IQ1_S, 192 GB of DDR5, RTX 4090", 5, "rtx4090+ddr5-5600x2:192GiB+nvme4", 7.0),
];

fn cell(model: &Inventory, catalogue: &Catalogue, text: &str) -> String {
    let build = Build::parse(text, catalogue).unwrap_or_else(|error| panic!("{error}"));
    let machine = build.machine(model);
    match plan(&Profile::automatic(&machine), model, &machine) {
        Err(_) => "–".to_owned(),
        Ok(plan) => {
            let rate = plan.forecast.decode_tokens_per_s;
            let letter = match Limit::of(&plan, &machine) {
                Limit::Card => "G",
                Limit::Ram => "R",
                Limit::Disk => "D",
                Limit::Latency => "L",
            };
            let digits = if rate >= 10.0 {
                0
            } else if rate >= 1.0 {
                1
            } else {
                2
            };
            format!("{rate:.digits$} {letter}")
        }
    }
}

/// Parts of the page: what stands before the models, each of them, and what others claim.
pub(crate) const PARTS: usize = MODELS.len() + 2;

/// A part of the page, as it stands in `docs/`; all after another are the page.
pub(crate) fn part(number: usize) -> String {
    match number {
        0 => BEFORE.to_owned(),
        _ if number <= MODELS.len() => table(number - 1),
        _ => claims(),
    }
}

const BEFORE: &str = "# What hardware gives\n\n\
     Written by `cargo run -p plan --example hardware > docs/hardware.md`; a test holds it equal to that. Tokens per second of decode with 512 tokens in\n\
     the context, by the planner's forecast for machines of [configs/hardware](../configs/hardware): data sheets, times what kernels reached of them on the\n\
     machines of [benches/results](../benches/results). **None of these machines was measured here** but for the H100. The letter is what binds: **G** the\n\
     GPU's memory, **R** RAM or the cores that read it, **D** the drive, **L** launches and crossings. Drives are PCIe 4.0 (`nvme4`). Headers\n\
     of 70B and R1 are recorded; FP16, Q8_0 and IQ2_XXS are their tensors in other types. No type is taken to be faster for each multiprocessor and\n\
     cycle than an H100 showed, whose memory was the limit for most: larger cards may do better.\n\n\
     What this version's planner gives to a GPU by itself is what these tables show; memories are as large as is written.\n";

/// One model on all machines.
fn table(place: usize) -> String {
    let (catalogue, model) = (catalogue(), model(place));
    let memories: Vec<String> = MEMORIES.iter().map(|memory| format!("`{memory}`")).collect();
    let mut out = format!("\n## {}, {}\n\n", MODELS[place], model.bytes());
    let _ = writeln!(out, "| GPU | {} |\n|---|{}", memories.join(" | "), "---|".repeat(MEMORIES.len()));
    // Of mixtures, whose plans take longest, the cards that differ most.
    let cards =
        CARDS.iter().filter(|card| model.shape.experts == 0 || matches!(**card, "" | "rtx3060" | "rtx4090" | "h100"));
    for card in cards {
        let row = MEMORIES.iter().map(|memory| match *card {
            "" => cell(&model, &catalogue, &format!("{memory}+nvme4")),
            card => cell(&model, &catalogue, &format!("{card}+{memory}+nvme4")),
        });
        let card = if card.is_empty() { "none" } else { card };
        let _ = writeln!(out, "| {card} | {} |", row.collect::<Vec<_>>().join(" | "));
    }
    out
}

/// What others publish, beside what no placement can exceed.
fn claims() -> String {
    let catalogue = catalogue();
    let mut out = String::from(
        "\n## Published claims\n\nThe bound is what no placement can exceed: what every token reads has the fastest memories to itself, then experts, chosen evenly; all\n\
         memories are read at the same time, at their data sheets' peaks. Speculation, which makes several tokens of one reading, is not in it.\n\n\
         | claim | tokens/s | machine taken | bound | |\n|---|---|---|---|---|\n",
    );
    for (claim, place, text, rate) in CLAIMS {
        let build = Build::parse(text, &catalogue).unwrap_or_else(|error| panic!("{error}"));
        let bound = most_tokens_per_s(&build, &model(place));
        let verdict = if rate > bound { "**no placement reaches it**" } else { "within the bound" };
        let _ = writeln!(out, "| {claim} | {rate} | `{text}` | {bound:.1} | {verdict} |");
    }
    out
}
