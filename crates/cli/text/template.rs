//! The chat template that comes with a model: Jinja, rendered as `transformers` renders it.
//!
//! A template is code from a file that somebody else made, so it runs bounded: instructions ([`FUEL`]), source, output
//! and strings that grow are capped, and a caller waits at most [`DEADLINE`]. It sees the messages and nothing else: no
//! file, no environment, no other template. Owns rendering; must never know tokens.

use std::io::Write;
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use gguf::{GgufError, Metadata};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value};
use serde_json::{Map, Value as Json};

use super::TextError;
use super::python;

/// The longest source that is taken.
pub const TEMPLATE_BYTES_MAX: usize = 1 << 20;
/// Instructions that one rendering may take; a thousand messages take about 50,000.
const FUEL: u64 = 1_000_000;
/// How long a caller waits. Rendering takes about a millisecond; the rest is for busy machines.
const DEADLINE: Duration = Duration::from_secs(1);
/// Output that is allowed beyond a multiple of the input.
const OUTPUT_BYTES_BASE: usize = 1 << 20;
/// Output that is allowed for each byte of messages and tools.
const OUTPUT_PER_INPUT_BYTE: usize = 8;
/// Stack of the thread that renders: deep recursion ends at the engine's own limit before it ends here.
const STACK_BYTES: usize = 8 << 20;

/// Variables that the renderer itself sets: what a caller passes on may not have these names.
pub const OWN_VARIABLES: [&str; 7] =
    ["messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "unk_token", "pad_token"];

/// What to render beside the messages.
#[derive(Clone, Debug, Default)]
pub struct RenderOptions {
    /// End with what begins the assistant's turn.
    pub add_generation_prompt: bool,
    /// Descriptions of the tools that the model may call: a JSON array.
    pub tools: Option<Json>,
    /// Further variables of the template, such as `enable_thinking`; none of [`OWN_VARIABLES`].
    pub extra: Map<String, Json>,
    /// The time that `strftime_now` tells, in UTC; the clock's where it is none.
    pub now: Option<SystemTime>,
}

/// A model's chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: String,
    /// The template for conversations with tools, where the model has one of its own.
    with_tools: Option<String>,
    /// Texts of special tokens under the names that templates use.
    tokens: Vec<(&'static str, String)>,
}

impl ChatTemplate {
    /// The model's template: `tokenizer.chat_template`, and `tokenizer.chat_template.tool_use` for tools. It needs the
    /// vocabulary too, for the texts of special tokens: build it before that is forgotten.
    ///
    /// # Errors
    /// [`TextError::NoTemplate`] where there is none: which one a model was trained with cannot be guessed.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, TextError> {
        const DEFAULT: &str = "tokenizer.chat_template";
        let Some(source) = metadata.text(DEFAULT)? else {
            return Err(TextError::NoTemplate { named: offered(metadata)? });
        };
        let mut template = Self::new(source, metadata)?;
        template.with_tools = metadata.text("tokenizer.chat_template.tool_use")?.map(prepared).transpose()?;
        Ok(template)
    }

    /// The model's template of this name, one of `tokenizer.chat_templates`.
    ///
    /// # Errors
    /// [`TextError::NoTemplate`] where there is none of this name.
    pub fn named(metadata: &Metadata, name: &str) -> Result<Self, TextError> {
        if name == "default" {
            return Self::from_metadata(metadata);
        }
        match metadata.text(&format!("tokenizer.chat_template.{name}"))? {
            Some(source) => Self::new(source, metadata),
            None => Err(TextError::NoTemplate { named: format!(" named {name:?}{}", offered(metadata)?) }),
        }
    }

    /// A template from elsewhere, with the model's special tokens.
    ///
    /// # Errors
    /// [`TextError::TemplateTooLong`], or [`TextError::TemplateFailed`] where it does not parse.
    pub fn new(source: &str, metadata: &Metadata) -> Result<Self, TextError> {
        let template = Self { source: prepared(source)?, with_tools: None, tokens: special_tokens(metadata)? };
        environment(&template.source, usize::MAX, SystemTime::UNIX_EPOCH).map_err(|error| failed(&error))?;
        Ok(template)
    }

    /// The text that the template makes of these messages: JSON objects with `role` and `content`.
    ///
    /// # Errors
    /// [`TextError::TemplateRefused`] in the template's own words, [`TextError::TemplateFailed`] where it cannot render
    /// them, and [`TextError::TemplateLimit`] where it ran past a bound.
    pub fn render(&self, messages: &[Json], options: &RenderOptions) -> Result<String, TextError> {
        let source = match (&self.with_tools, &options.tools) {
            (Some(source), Some(_)) => source.clone(),
            _ => self.source.clone(),
        };
        let now = options.now.unwrap_or_else(SystemTime::now);
        let input_bytes = size(&messages) + size(&options.tools) + size(&options.extra);
        let output_max = OUTPUT_BYTES_BASE + OUTPUT_PER_INPUT_BYTE * input_bytes;
        let context = self.context(messages, options);
        let (sender, receiver) = mpsc::sync_channel(1);
        let render = move || {
            // Nobody listens any more once the deadline has passed.
            let _ = sender.send(render_here(&source, &context, output_max, now));
        };
        let thread = std::thread::Builder::new().name("chat template".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(render).map_err(|source| TextError::Thread { source })?;
        match receiver.recv_timeout(DEADLINE) {
            Ok(rendered) => rendered,
            Err(mpsc::RecvTimeoutError::Timeout) => Err(limit(&format!("{} ms", DEADLINE.as_millis()))),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(TextError::TemplateFailed { message: "the template engine gave up".to_owned() })
            }
        }
    }

    /// The template's source, as the model brings it but for training marks.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template that would render tools looks at them.
    #[must_use]
    pub fn reads_tools(&self) -> bool {
        reads(self.with_tools.as_deref().unwrap_or(&self.source), "tools")
    }

    /// Whether the template looks at a variable of this name, such as `enable_thinking`.
    #[must_use]
    pub fn reads(&self, variable: &str) -> bool {
        reads(&self.source, variable)
    }

    fn context(&self, messages: &[Json], options: &RenderOptions) -> Value {
        let mut context: Vec<(&str, Value)> = vec![
            ("messages", Value::from(Serde(messages))),
            ("tools", Value::from(Serde(&options.tools))),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(options.add_generation_prompt)),
        ];
        context.extend(self.tokens.iter().map(|(name, text)| (*name, Value::from(text.as_str()))));
        context.extend(options.extra.iter().map(|(name, value)| (name.as_str(), Value::from(Serde(value)))));
        Value::from_pairs(context)
    }
}

/// Whether a template looks at a variable that it does not make itself.
fn reads(source: &str, variable: &str) -> bool {
    let environment = environment(source, usize::MAX, SystemTime::UNIX_EPOCH);
    let names =
        environment.and_then(|environment| Ok(environment.get_template("chat template")?.undeclared_variables(false)));
    // A template that does not parse says so when it renders.
    names.map_or(true, |names| names.contains(variable))
}

/// Which named templates there are, for the message that the wanted one is missing.
fn offered(metadata: &Metadata) -> Result<String, TextError> {
    let Some(names) = metadata.strings("tokenizer.chat_templates")? else { return Ok(String::new()) };
    let names: Vec<_> = names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    Ok(format!(" (there are: {})", names.join(", ")))
}

/// The source, checked for length, with the marks that only training uses made harmless.
fn prepared(source: &str) -> Result<String, TextError> {
    if source.len() > TEMPLATE_BYTES_MAX {
        return Err(TextError::TemplateTooLong { bytes: source.len(), max: TEMPLATE_BYTES_MAX });
    }
    // `{% generation %}` marks what the assistant says, for training; a condition that always holds means the same here.
    let mut prepared = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        prepared.push_str(before);
        match tag.trim_matches(['{', '}', '%', '-', '+', ' ', '\t', '\n']) {
            "generation" => prepared.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => prepared.push_str(&tag.replace("endgeneration", "endif")),
            _ => prepared.push_str(tag),
        }
        rest = after;
    }
    prepared.push_str(rest);
    Ok(prepared)
}

/// `bos_token` and its like, as the model writes them.
fn special_tokens(metadata: &Metadata) -> Result<Vec<(&'static str, String)>, TextError> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    const NAMES: [(&str, &str); 4] = [
        ("bos_token", "tokenizer.ggml.bos_token_id"),
        ("eos_token", "tokenizer.ggml.eos_token_id"),
        ("unk_token", "tokenizer.ggml.unknown_token_id"),
        ("pad_token", "tokenizer.ggml.padding_token_id"),
    ];
    let texts = metadata.strings(TOKENS)?.ok_or_else(|| GgufError::missing_key(TOKENS))?;
    let is_sentencepiece = metadata.text("tokenizer.ggml.model")? == Some("llama");
    let mut tokens = Vec::new();
    for (index, (name, key)) in NAMES.into_iter().enumerate() {
        let default = [1, 2, 0].get(index).copied().filter(|_| is_sentencepiece);
        let id = metadata.unsigned(key)?.or(default).and_then(|id| usize::try_from(id).ok());
        if let Some(text) = id.and_then(|id| texts.get(id)) {
            tokens.push((name, String::from_utf8_lossy(text).into_owned()));
        }
    }
    Ok(tokens)
}

/// The bytes of a value written as JSON.
fn size(value: &impl serde::Serialize) -> usize {
    struct Count(usize);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // Counting cannot fail; a value that JSON cannot write would be refused by the template engine too.
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

/// Why a rendering was stopped, carried through the template engine's errors.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stop {
    #[error("{0}")]
    Refused(String),
    #[error("the limit of {0}")]
    Limit(String),
}

impl Stop {
    /// The engine's error that carries this.
    pub(super) fn into_error(self) -> minijinja::Error {
        minijinja::Error::new(ErrorKind::InvalidOperation, self.to_string()).with_source(self)
    }

    /// The error for a string that grows past its bound.
    pub(super) fn too_large(bytes_max: usize) -> minijinja::Error {
        Self::Limit(format!("{bytes_max} bytes of text")).into_error()
    }
}

/// The engine with one template, bound to `bytes_max` bytes for each string that a filter makes.
fn environment(source: &str, bytes_max: usize, now: SystemTime) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    python::install(&mut environment, bytes_max);
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(Stop::Refused(message).into_error())
    });
    environment.add_function("strftime_now", move |format: String| python::strftime(&format, now));
    environment.add_template_owned("chat template", source.to_owned())?;
    Ok(environment)
}

fn render_here(source: &str, context: &Value, bytes_max: usize, now: SystemTime) -> Result<String, TextError> {
    let environment = environment(source, bytes_max, now).map_err(|error| failed(&error))?;
    let template = environment.get_template("chat template").map_err(|error| failed(&error))?;
    let mut output = Bounded { bytes: Vec::new(), bytes_max };
    let rendered = template.render_captured_to(context.clone(), &mut output);
    rendered.map_err(|error| failed(&error))?;
    String::from_utf8(output.bytes).map_err(|error| TextError::TemplateFailed { message: error.to_string() })
}

/// Output that refuses to grow past a bound.
struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.bytes_max {
            return Err(std::io::Error::other(Stop::Limit(format!("{} bytes of text", self.bytes_max))));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Our error for one of the engine's.
fn failed(error: &minijinja::Error) -> TextError {
    if error.kind() == ErrorKind::OutOfFuel {
        return limit(&format!("{FUEL} instructions"));
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        let carried = inner.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let stop = carried.and_then(|carried| carried.downcast_ref()).or_else(|| inner.downcast_ref());
        match stop {
            Some(Stop::Refused(message)) => return TextError::TemplateRefused { message: message.clone() },
            Some(Stop::Limit(what)) => return limit(what),
            None => cause = inner.source(),
        }
    }
    let place = error.line().map(|line| format!("line {line}: ")).unwrap_or_default();
    let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    TextError::TemplateFailed { message: format!("{place}{}{detail}", error.kind()) }
}

fn limit(what: &str) -> TextError {
    TextError::TemplateLimit { limit: what.to_owned() }
}
