//! The file of expert statistics: text in, counts out, and back.

use std::fmt::{self, Write as _};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};

use super::{ExpertTrace, ExpertUse, ExpertUseError, Foreseen, Layer, shown};

/// The only version of the file.
const VERSION: u64 = 1;

/// Characters of a JSON error in messages: it may quote a key of any length.
const PROBLEM_CHARS: usize = 240;

/// Makes the text of a file with a trace ([`ExpertUse::parse`] reads it) piece by piece, so that nobody holds it whole: the head,
/// a line for each pass through a layer, the tail.
///
/// ```
/// # fn example(expert_use: &plan::ExpertUse) -> String {
/// let mut writer = plan::ExpertUseWriter::default();
/// let mut text = writer.head(expert_use);
/// text += &writer.line(0, 3, [[1, 3], [0, 3]]); // tokens 0 and 1, in layer 3
/// text += &writer.tail(expert_use); // when all is counted
/// # text
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct ExpertUseWriter {
    lines: u64,
}

impl ExpertUseWriter {
    /// What stands before the trace.
    #[must_use]
    pub fn head(&self, expert_use: &ExpertUse) -> String {
        format!("{},\n  \"trace\": [", opening(expert_use))
    }

    /// One pass through a layer: the position of its first token, the layer, and each token's experts in turn.
    #[must_use]
    pub fn line<T: AsRef<[u32]>>(
        &mut self,
        first_position: u32,
        layer: u32,
        chosen: impl IntoIterator<Item = T>,
    ) -> String {
        let mut line = if self.lines == 0 { String::from("\n    ") } else { String::from(",\n    ") };
        self.lines += 1;
        let _ = write!(line, "[{first_position}, {layer}");
        for token in chosen {
            let _ = write!(line, ", {:?}", token.as_ref());
        }
        line.push(']');
        line
    }

    /// What stands behind the trace: the counts.
    #[must_use]
    pub fn tail(self, expert_use: &ExpertUse) -> String {
        format!("\n  ],\n{}", closing(expert_use))
    }
}

/// The file without a trace.
pub(super) fn json(expert_use: &ExpertUse) -> String {
    format!("{},\n{}", opening(expert_use), closing(expert_use))
}

/// The keys that are known before anything is counted.
fn opening(expert_use: &ExpertUse) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        "{{\n  \"version\": {VERSION},\n  \"model\": {}, \"architecture\": {},\n  \"experts\": {}, \"experts_used\": {}",
        text(&expert_use.model),
        text(&expert_use.architecture),
        expert_use.experts,
        expert_use.experts_used
    )
}

/// The counts, and the end.
fn closing(expert_use: &ExpertUse) -> String {
    let Foreseen { guessed, chosen } = expert_use.foreseen;
    let foreseen = format!("  \"foreseen\": {{ \"guessed\": {guessed}, \"chosen\": {chosen} }},\n");
    let foreseen = if guessed > 0 { foreseen } else { String::new() };
    let mut out = format!("{foreseen}  \"tokens\": {},\n  \"layers\": [", expert_use.tokens);
    for (place, layer) in expert_use.layers.iter().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        let _ = write!(out, "{comma}\n    {{ \"layer\": {}, \"counts\": {:?} }}", layer.number, layer.counts);
    }
    out.push_str(if expert_use.layers.is_empty() { "]\n}\n" } else { "\n  ]\n}\n" });
    out
}

/// The file as it stands.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    version: u64,
    model: String,
    architecture: String,
    experts: u32,
    experts_used: u32,
    tokens: u64,
    layers: Vec<RawLayer>,
    #[serde(default)]
    foreseen: RawForeseen,
    #[serde(default)]
    trace: Traced,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawForeseen {
    guessed: u64,
    chosen: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLayer {
    layer: u32,
    counts: Vec<u64>,
}

/// What shows whether a trace belongs to the counts beside it.
#[derive(Default)]
struct Summary {
    passes: u64,
    /// In ascending order.
    layers: Vec<u32>,
    expert_max: u32,
    chosen_max: usize,
}

impl Summary {
    fn add(&mut self, pass: &RawPass) {
        self.passes += 1;
        if let Err(place) = self.layers.binary_search(&pass.layer) {
            self.layers.insert(place, pass.layer);
        }
        for token in &pass.chosen {
            self.chosen_max = self.chosen_max.max(token.len());
            self.expert_max = token.iter().copied().fold(self.expert_max, u32::max);
        }
    }
}

/// The passes of a trace.
#[derive(Default)]
struct Traced {
    summary: Summary,
    trace: ExpertTrace,
}

impl<'de> Deserialize<'de> for Traced {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Passes;
        impl<'de> Visitor<'de> for Passes {
            type Value = Traced;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of passes, each [first position, layer, [experts of a token], …]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Traced, A::Error> {
                let mut traced = Traced::default();
                while let Some(pass) = list.next_element::<RawPass>()? {
                    traced.summary.add(&pass);
                    traced.trace.add(pass.first_position, pass.layer, &pass.chosen);
                }
                Ok(traced)
            }
        }
        from.deserialize_seq(Passes)
    }
}

/// One pass.
struct RawPass {
    first_position: u32,
    layer: u32,
    /// Of each token; at least one.
    chosen: Vec<Vec<u32>>,
}

impl<'de> Deserialize<'de> for RawPass {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = RawPass;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[first position, layer, [experts of a token], …]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<RawPass, A::Error> {
                let missing = |place| A::Error::invalid_length(place, &self);
                let first_position = list.next_element()?.ok_or_else(|| missing(0))?;
                let layer = list.next_element()?.ok_or_else(|| missing(1))?;
                let mut chosen = Vec::new();
                while let Some(token) = list.next_element()? {
                    chosen.push(token);
                }
                if chosen.is_empty() { Err(missing(2)) } else { Ok(RawPass { first_position, layer, chosen }) }
            }
        }
        from.deserialize_seq(One)
    }
}

pub(super) fn parse(text: &str, file: &str) -> Result<ExpertUse, ExpertUseError> {
    let raw: Raw = serde_json::from_str(text).map_err(|error| form(&error, file))?;
    let wrong = |place: String, expected: String, found: String| ExpertUseError::Value {
        file: file.to_owned(),
        place,
        expected,
        found,
    };
    if raw.version != VERSION {
        return Err(wrong("version".into(), VERSION.to_string(), raw.version.to_string()));
    }
    if raw.experts_used > raw.experts {
        let expected = format!("at most {}, the number of experts", raw.experts);
        return Err(wrong("experts_used".into(), expected, raw.experts_used.to_string()));
    }
    let RawForeseen { guessed, chosen } = raw.foreseen;
    if chosen > guessed {
        return Err(wrong(
            "foreseen: chosen".into(),
            format!("at most {guessed}, as were guessed"),
            chosen.to_string(),
        ));
    }
    let mut layers: Vec<Layer> = Vec::with_capacity(raw.layers.len());
    for RawLayer { layer, counts } in raw.layers {
        if let Some(last) = layers.last().filter(|last| last.number >= layer) {
            let expected = format!("layers in ascending order, one above {}", last.number);
            return Err(wrong("layers".into(), expected, layer.to_string()));
        }
        if counts.len() != raw.experts as usize {
            let expected = format!("{} counts, one for each expert", raw.experts);
            return Err(wrong(format!("layer {layer}: counts"), expected, counts.len().to_string()));
        }
        // A token chooses an expert once.
        if let Some(expert) = counts.iter().position(|count| *count > raw.tokens) {
            let expected = format!("at most {}, the number of tokens", raw.tokens);
            return Err(wrong(format!("layer {layer}: counts: expert {expert}"), expected, counts[expert].to_string()));
        }
        let choices: u128 = counts.iter().map(|count| u128::from(*count)).sum();
        let most = u128::from(raw.tokens) * u128::from(raw.experts_used);
        let Some(choices) = u64::try_from(choices).ok().filter(|_| choices <= most) else {
            let expected = format!("at most {most} choices ({} tokens × {})", raw.tokens, raw.experts_used);
            return Err(wrong(format!("layer {layer}: counts"), expected, format!("{choices} together")));
        };
        layers.push(Layer { number: layer, counts, choices });
    }
    let expert_use = ExpertUse {
        model: raw.model,
        architecture: raw.architecture,
        experts: raw.experts,
        experts_used: raw.experts_used,
        tokens: raw.tokens,
        layers,
        trace: raw.trace.trace,
        foreseen: Foreseen { guessed, chosen },
    };
    match untraceable(&raw.trace.summary, &expert_use) {
        Some((expected, found)) => Err(wrong("trace".into(), expected, found)),
        None => Ok(expert_use),
    }
}

/// Where the text is no JSON of this form, and why.
fn form(error: &serde_json::Error, file: &str) -> ExpertUseError {
    let text = error.to_string();
    // The place stands behind the message, which may be cut.
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
    let message = shown(message, PROBLEM_CHARS);
    let problem = format!("line {}, column {}: {message}", error.line(), error.column());
    ExpertUseError::Form { file: file.to_owned(), problem }
}

/// What a trace holds that cannot have been counted with the rest: expected, found.
fn untraceable(trace: &Summary, of: &ExpertUse) -> Option<(String, String)> {
    if trace.passes == 0 {
        return None;
    }
    let counted = |layer: &u32| of.layers.binary_search_by_key(layer, |known| known.number).is_ok();
    if let Some(layer) = trace.layers.iter().find(|layer| !counted(layer)) {
        return Some(("layers that have counts".to_owned(), format!("layer {layer}")));
    }
    if trace.expert_max >= of.experts {
        return Some((format!("experts below {}", of.experts), format!("expert {}", trace.expert_max)));
    }
    let used = of.experts_used as usize;
    (trace.chosen_max > used).then(|| (format!("at most {used} experts for a token"), trace.chosen_max.to_string()))
}
