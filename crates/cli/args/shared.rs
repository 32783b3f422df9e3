//! Flags that several commands share, and llama.cpp's spellings of them.

// Doc comments are the help texts here, where backticks would be shown.
#![allow(clippy::doc_markdown)]

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};
use plan::Bytes;
use serde_json::{Map, Value};

use crate::text::OWN_VARIABLES;

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
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub ram: Option<Bytes>,

    /// The line for each GPU's memory, such as 11.5GiB
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub gpu_mem: Option<Bytes>,

    /// What the command makes logits for: it says so itself
    #[arg(skip)]
    pub logits: plan::Logits,

    /// Tokens of context: the prompt and what is generated
    #[arg(short = 'c', long, value_name = "TOKENS", allow_negative_numbers = true)]
    pub ctx_size: Option<u32>,

    /// How keys are kept: f32, f16 or q8_0 (-ctk)
    #[arg(long, value_name = "TYPE", value_parser = kv_type)]
    pub cache_type_k: Option<plan::KvType>,

    /// How values are kept: f32, f16 or q8_0 (-ctv)
    #[arg(long, value_name = "TYPE", value_parser = kv_type)]
    pub cache_type_v: Option<plan::KvType>,

    /// CPU threads; one for each physical core that may be used, unless told otherwise
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,

    /// Prompt tokens computed in one pass (-ub)
    #[arg(long, value_name = "TOKENS", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    pub ubatch_size: Option<u32>,

    /// Layers that live on GPUs, on several in turn, counted from the last; -1 for all (-ngl)
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = count_or_all)]
    pub n_gpu_layers: Option<u32>,

    /// Layers, counted from the first, whose routed experts stay in RAM (-ncmoe)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub n_cpu_moe: Option<u32>,

    /// Keep the routed experts of all layers in RAM (-cmoe)
    #[arg(long, conflicts_with = "n_cpu_moe")]
    pub cpu_moe: bool,

    /// Home of tensors by name: REGEX=CPU, REGEX=CUDA0 or REGEX=DISK; may be given again (-ot)
    #[arg(long, value_name = "REGEX=HOME")]
    pub override_tensor: Vec<String>,

    /// Refuse where the plan has a note: what differs from what was asked or usual
    #[arg(long)]
    pub strict: bool,
}

impl PlacementArgs {
    /// Whether nothing is said of GPUs, so that the planner may leave them out.
    pub(crate) const fn leaves_gpus_open(&self) -> bool {
        self.profile.is_none()
            && self.gpu_mem.is_none()
            && self.n_gpu_layers.is_none()
            && self.override_tensor.is_empty()
    }
}

/// How tokens are chosen.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Temperature; 0 takes the likeliest token each time
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true, value_parser = non_negative)]
    pub temp: f32,

    /// Keep the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 40, allow_negative_numbers = true)]
    pub top_k: u32,

    /// Keep the likeliest tokens that together reach this probability; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true, value_parser = probability)]
    pub top_p: f32,

    /// Drop tokens less likely than this share of the likeliest; 0 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.05, allow_negative_numbers = true, value_parser = probability)]
    pub min_p: f32,

    /// Divide the odds of recent tokens by this; 1 changes nothing
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true, value_parser = positive)]
    pub repeat_penalty: f32,

    /// How many recent tokens that counts for
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true)]
    pub repeat_last_n: u32,

    /// The same seed gives the same text; random where not given
    #[arg(short, long, allow_negative_numbers = true)]
    pub seed: Option<u64>,
}

/// What becomes of a reasoning model's thinking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Think {
    /// Print it before the answer, as the model writes it
    #[default]
    Show,
    /// Let the model think, and print the answer only
    Hide,
    /// Ask the template for no thinking; what comes all the same is hidden
    Off,
}

/// How a conversation is put to the model.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Chat template")]
pub struct ThinkArgs {
    /// What becomes of a reasoning model's thinking: on a terminal it is shown dimmed, elsewhere with the model's marks
    /// around it
    #[arg(long, value_enum, default_value_t)]
    pub think: Think,

    /// Variables
    #[command(flatten)]
    pub template: TemplateArgs,
}

/// Variables of the chat template.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Chat template")]
pub struct TemplateArgs {
    /// Variables of the chat template, such as {"enable_thinking": false} or {"reasoning_effort": "low"}
    #[arg(long, value_name = "JSON", value_parser = variables)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
}

/// llama.cpp's flags of several letters after one dash, which clap would read as several flags.
const SPELLINGS: [(&str, &str); 9] = [
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-ub", "--ubatch-size"),
    ("-ngl", "--n-gpu-layers"),
    ("-ncmoe", "--n-cpu-moe"),
    ("-cmoe", "--cpu-moe"),
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

/// A JSON object with variables of a chat template.
fn variables(text: &str) -> Result<Map<String, Value>, String> {
    const HINT: &str = r#"hint: an object such as {"enable_thinking": false}"#;
    let value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}\n\n{HINT}"))?;
    let Value::Object(variables) = value else { return Err(format!("not a JSON object\n\n{HINT}")) };
    if let Some(name) = OWN_VARIABLES.into_iter().find(|name| variables.contains_key(*name)) {
        return Err(format!("{name} is set by plimsoll itself\n\nhint: leave it out; any other variable may be given"));
    }
    Ok(variables)
}

fn kv_type(text: &str) -> Result<plan::KvType, String> {
    let known = [plan::KvType::F32, plan::KvType::F16, plan::KvType::Q8_0];
    known.into_iter().find(|kv| kv.name() == text).ok_or_else(|| "known types are f32, f16 and q8_0".to_owned())
}

/// A count, where -1 stands for as many as there are: the largest number.
pub(super) fn count_or_all(text: &str) -> Result<u32, String> {
    let number = if text == "-1" { Some(u32::MAX) } else { text.parse().ok() };
    number.ok_or_else(|| format!("expected a whole number from 0 to {}, or -1 for no limit", u32::MAX))
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
