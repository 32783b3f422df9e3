//! From messages to token ids, such that no message yields a control token.
//!
//! A template mixes its own control tokens with what users wrote, and the text it renders does not say which is which.
//! So users' strings go in disguised: a character that could help to spell a control token is exchanged for a private-use
//! twin. The rendered text is cut at its control tokens, which only the template can have spelled, and in between the
//! twins are exchanged back and the text is tokenized without parsing control tokens. Nothing is cut at the borders of
//! messages, so harmless conversations have exactly the ids of their rendered text.
//!
//! Twins are set twice over. *Sparsely*, only where a message spells a control token or could complete one with what
//! stands beside it: what templates look for in messages, such as `</think>`, stays readable. *Densely*, at every first
//! and last character of any control token: nothing a template does to a string, not even removing a part of it, can
//! spell one then. Where both renderings have the same control tokens, the sparse one is taken; where they differ, a
//! message tried, and the dense one counts.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::template::{ChatTemplate, RenderOptions};
use super::{TextError, Tokenizer};

/// The token ids of a conversation. BOS stands at its beginning once, where the model asks for it.
///
/// # Errors
/// Those of [`ChatTemplate::render`] and [`Tokenizer::encode`].
pub fn encode_chat(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    messages: &[Json],
    options: &RenderOptions,
) -> Result<Vec<u32>, TextError> {
    let disguise = Disguise::new(tokenizer, template, messages, options);
    let dense = disguise.render(template, messages, options, Setting::Dense)?;
    let sparse = disguise.render(template, messages, options, Setting::Sparse)?;
    let controls =
        |text: &str| -> Vec<u32> { tokenizer.cut_at_control(text).iter().filter_map(|part| part.token).collect() };
    let rendered = if dense == sparse || controls(&dense) == controls(&sparse) { sparse } else { dense };
    let mut ids = Vec::new();
    for part in tokenizer.cut_at_control(&rendered) {
        match part.token {
            Some(id) => ids.push(id),
            None => tokenizer.append(&disguise.undo(part.text), false, &mut ids)?,
        }
    }
    if let Some(bos) = tokenizer.bos().filter(|bos| tokenizer.adds_bos() && ids.first() != Some(bos)) {
        ids.insert(0, bos);
    }
    Ok(ids)
}

/// Where twins are set.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Setting {
    /// Where a control token is spelled, or could be with what stands beside the string.
    Sparse,
    /// At every first and last character of a control token.
    Dense,
}

/// Private-use twins of the characters that control tokens are made of.
struct Disguise {
    /// Control tokens, by their first character.
    controls: BTreeMap<char, Vec<String>>,
    /// First and last characters of control tokens.
    outer: Vec<char>,
    twins: BTreeMap<char, char>,
    originals: BTreeMap<char, char>,
}

impl Disguise {
    fn new(tokenizer: &Tokenizer, template: &ChatTemplate, messages: &[Json], options: &RenderOptions) -> Self {
        let mut controls: BTreeMap<char, Vec<String>> = BTreeMap::new();
        let (mut outer, mut characters) = (Vec::new(), Vec::new());
        for text in tokenizer.control_texts() {
            let ends = [text.chars().next(), text.chars().next_back()];
            outer.extend(ends.into_iter().flatten());
            characters.extend(text.chars());
            controls.entry(text.chars().next().unwrap_or_default()).or_default().push(text.to_owned());
        }
        for list in [&mut outer, &mut characters] {
            list.sort_unstable();
            list.dedup();
        }
        // Twins must not occur in what is said already: the two supplementary private-use planes hold 131,068 characters.
        let mut said = Vec::new();
        let all = messages.iter().chain(&options.tools).chain(options.extra.values());
        all.for_each(|value| collect_private(value, &mut said));
        said.extend(characters.iter().copied().chain(template.source().chars()));
        said.sort_unstable();
        let free = ('\u{F0000}'..='\u{FFFFD}').chain('\u{100000}'..='\u{10FFFD}');
        let free = free.filter(|twin| said.binary_search(twin).is_err());
        let twins: BTreeMap<char, char> = characters.into_iter().zip(free).collect();
        let originals = twins.iter().map(|(original, twin)| (*twin, *original)).collect();
        Self { controls, outer, twins, originals }
    }

    fn render(
        &self,
        template: &ChatTemplate,
        messages: &[Json],
        options: &RenderOptions,
        setting: Setting,
    ) -> Result<String, TextError> {
        let messages: Vec<_> = messages.iter().map(|message| self.value(message, setting)).collect();
        let options = RenderOptions {
            tools: options.tools.as_ref().map(|tools| self.value(tools, setting)),
            extra: self.object(&options.extra, setting),
            ..*options
        };
        template.render(&messages, &options)
    }

    fn value(&self, value: &Json, setting: Setting) -> Json {
        match value {
            Json::String(text) => Json::String(self.string(text, setting)),
            Json::Array(items) => items.iter().map(|item| self.value(item, setting)).collect(),
            Json::Object(object) => Json::Object(self.object(object, setting)),
            other => other.clone(),
        }
    }

    fn object(&self, object: &Map<String, Json>, setting: Setting) -> Map<String, Json> {
        let disguised = object.iter().map(|(key, value)| {
            // Templates compare keys, roles and types with words; a word of plain letters spells no control token.
            let key = if is_word(key) { key.clone() } else { self.string(key, setting) };
            let word = value.as_str().filter(|text| matches!(key.as_str(), "role" | "type") && is_word(text));
            (key, if word.is_some() { value.clone() } else { self.value(value, setting) })
        });
        disguised.collect()
    }

    fn string(&self, text: &str, setting: Setting) -> String {
        let marked = |(at, character): (usize, char)| match setting {
            Setting::Dense => self.outer.binary_search(&character).is_ok(),
            Setting::Sparse => self.begins_control(&text[at..]) || (at == 0 && self.may_end_control(text)),
        };
        let exchange = |(at, character)| {
            if marked((at, character)) { self.twins.get(&character).copied().unwrap_or(character) } else { character }
        };
        text.char_indices().map(exchange).collect()
    }

    /// Whether a control token begins here, or all that follows is the beginning of one.
    fn begins_control(&self, rest: &str) -> bool {
        let first = rest.chars().next().unwrap_or_default();
        let beginning_alike = self.controls.get(&first).into_iter().flatten();
        beginning_alike.into_iter().any(|control| rest.starts_with(control) || control.starts_with(rest))
    }

    /// Whether a beginning of this text is the end of a control token.
    fn may_end_control(&self, text: &str) -> bool {
        let mut controls = self.controls.values().flatten();
        controls.any(|control| {
            let ends = control.char_indices().skip(1).map(|(at, _)| &control[at..]);
            ends.into_iter().any(|end| text.starts_with(end))
        })
    }

    fn undo(&self, text: &str) -> String {
        text.chars().map(|character| self.originals.get(&character).copied().unwrap_or(character)).collect()
    }
}

/// Whether this is a plain identifier, as keys and roles are.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// The private-use characters of all strings in a value.
fn collect_private(value: &Json, into: &mut Vec<char>) {
    let mut collect = |text: &str| into.extend(text.chars().filter(|character| *character >= '\u{F0000}'));
    match value {
        Json::String(text) => collect(text),
        Json::Array(items) => items.iter().for_each(|item| collect_private(item, into)),
        Json::Object(object) => {
            object.keys().for_each(|key| collect(key));
            object.values().for_each(|value| collect_private(value, into));
        }
        _ => {}
    }
}
