//! What a reasoning model thinks, told apart from what it answers, while the text streams.
//!
//! Owns the marks that models write around their thinking. Must never know tokens, nor a model's name: the chat template
//! says which marks are used, and the end of the prompt whether the model begins inside its thinking.

use super::stream::held_back;

/// A part of what a model writes. All parts together are the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// What it thinks.
    Thinking(String),
    /// What it answers.
    Answer(String),
    /// What tells the two apart: a mark, and the white space that only sets it off.
    Mark(String),
}

/// How a model marks its thinking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// One stretch of thinking between an opening and a closing tag, before the answer.
    Tags {
        /// What opens it: written by the model, or by the template at the end of the prompt.
        open: &'static str,
        /// What closes it.
        close: &'static str,
    },
    /// `OpenAI`'s harmony format, in which each message names its channel:
    /// <https://github.com/openai/harmony/blob/main/docs/format.md>. `analysis` and `commentary` are thinking.
    Harmony,
}

/// Opening and closing tags: `DeepSeek`, Qwen, GLM, `MiniMax` and Kimi; Seed-OSS; Mistral.
const TAGS: [(&str, &str); 3] = [("<think>", "</think>"), ("<seed:think>", "</seed:think>"), ("[THINK]", "[/THINK]")];

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const CONSTRAIN: &str = "<|constrain|>";
/// Harmony's control tokens.
const HARMONY: [&str; 7] = [START, CHANNEL, MESSAGE, "<|end|>", "<|return|>", "<|call|>", CONSTRAIN];

impl Marks {
    /// The marks that a chat template's source speaks of.
    #[must_use]
    pub fn of(template: &str) -> Option<Self> {
        if template.contains(CHANNEL) && template.contains(MESSAGE) {
            return Some(Self::Harmony);
        }
        let known = TAGS.into_iter().find(|(open, close)| template.contains(open) || template.contains(close));
        known.map(|(open, close)| Self::Tags { open, close })
    }
}

/// Where in the text a [`Splitter`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Before anything but white space: only here may a tag open.
    Begin,
    /// After an opening tag, and nothing but white space.
    Opened,
    /// In the thinking, up to a closing tag.
    Thinking,
    /// After a closing tag, and nothing but white space.
    Closed,
    /// In an answer that nothing ends.
    Answer,
    /// In harmony's header of a message, with what was read of its channel's name.
    Header(String),
    /// In harmony's text of a message.
    Message {
        /// Whether its channel is one for thinking.
        thinks: bool,
    },
}

/// Tells thinking from answering in a text that arrives in pieces, however it is cut.
///
/// Holds back no more than what may be the beginning of a mark, and loses nothing.
#[derive(Clone, Debug)]
pub struct Splitter {
    marks: Option<Marks>,
    state: State,
    held: String,
}

impl Splitter {
    /// A splitter of what follows a prompt with this end. Without marks all is answer.
    #[must_use]
    pub fn new(marks: Option<Marks>, prompt_end: &str) -> Self {
        let state = match marks {
            None => State::Answer,
            Some(Marks::Tags { open, .. }) if prompt_end.trim_end().ends_with(open) => State::Opened,
            Some(Marks::Tags { .. }) => State::Begin,
            // Text without a header is an answer, unless the prompt has written one that names another channel.
            Some(Marks::Harmony) => match prompt_end.rsplit_once(CHANNEL).map(|(_, name)| name.split_once(MESSAGE)) {
                Some(Some((name, text))) if !text.contains("<|") => State::Message { thinks: is_for_thinking(name) },
                _ => State::Message { thinks: false },
            },
        };
        Self { marks, state, held: String::new() }
    }

    /// Whether a control token with this text is a mark, to be pushed as text; others are nothing to read.
    #[must_use]
    pub fn reads(&self, control: &[u8]) -> bool {
        match self.marks {
            None => false,
            Some(Marks::Tags { open, close }) => [open, close].iter().any(|mark| mark.as_bytes() == control),
            Some(Marks::Harmony) => HARMONY.iter().any(|mark| mark.as_bytes() == control),
        }
    }

    /// Takes text and gives the pieces that it completes.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while self.step(&mut pieces) {}
        pieces
    }

    /// Ends the text and gives what was held back. Thinking that nothing closed is thinking.
    #[must_use]
    pub fn finish(self) -> Option<Piece> {
        let piece = match self.state {
            State::Begin | State::Answer | State::Message { thinks: false } => Piece::Answer(self.held),
            State::Opened | State::Thinking | State::Message { thinks: true } => Piece::Thinking(self.held),
            State::Closed | State::Header(_) => Piece::Mark(self.held),
        };
        if piece.text().is_empty() { None } else { Some(piece) }
    }

    /// Takes one part off what is held; `false` where more text is needed to know.
    fn step(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let Some(marks) = self.marks else { return self.give(self.held.len(), Piece::Answer, State::Answer, pieces) };
        let (open, close) = match marks {
            Marks::Tags { open, close } => (open, close),
            Marks::Harmony => return self.step_harmony(pieces),
        };
        let space = self.held.len() - self.held.trim_start().len();
        let text = &self.held[space..];
        match &self.state {
            State::Begin if text.starts_with(open) => self.give(space + open.len(), Piece::Mark, State::Opened, pieces),
            State::Opened | State::Closed if space > 0 => self.give(space, Piece::Mark, self.state.clone(), pieces),
            // What the template opened, some models open once more.
            State::Opened if text.starts_with(open) => self.give(open.len(), Piece::Mark, State::Opened, pieces),
            State::Begin | State::Opened if open.starts_with(text) => false,
            State::Opened => self.turn(State::Thinking),
            State::Closed if text.is_empty() => false,
            State::Begin | State::Closed => self.turn(State::Answer),
            State::Thinking => match self.held.find(close) {
                Some(0) => self.give(close.len(), Piece::Mark, State::Closed, pieces),
                Some(at) => self.give(at, Piece::Thinking, State::Thinking, pieces),
                None => {
                    let sure = self.held.len() - held_back(&self.held, [close]);
                    self.give(sure, Piece::Thinking, State::Thinking, pieces)
                }
            },
            State::Answer | State::Header(_) | State::Message { .. } => {
                self.give(self.held.len(), Piece::Answer, State::Answer, pieces)
            }
        }
    }

    fn step_harmony(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let next = HARMONY.iter().filter_map(|mark| Some((self.held.find(mark)?, *mark))).min();
        let Some((0, mark)) = next else {
            let sure = next.map_or_else(|| self.held.len() - held_back(&self.held, HARMONY), |(at, _)| at);
            return self.give_text(sure, pieces);
        };
        let state = match (mark, &self.state) {
            (MESSAGE, State::Header(name)) => State::Message { thinks: is_for_thinking(name) },
            (MESSAGE, other) => other.clone(),
            // The name of the channel stands before a constraint.
            (CONSTRAIN, header @ State::Header(_)) => header.clone(),
            (START | CHANNEL, _) => State::Header(String::new()),
            _ => State::Message { thinks: false },
        };
        self.give(mark.len(), Piece::Mark, state, pieces)
    }

    /// Gives text of harmony that holds no mark.
    fn give_text(&mut self, len: usize, pieces: &mut Vec<Piece>) -> bool {
        let (kind, state): (fn(String) -> Piece, _) = match &self.state {
            State::Header(name) => {
                let name = name.chars().chain(self.held[..len].chars()).take(NAME_CHARS).collect();
                (Piece::Mark, State::Header(name))
            }
            State::Message { thinks: true } => (Piece::Thinking, self.state.clone()),
            _ => (Piece::Answer, self.state.clone()),
        };
        self.give(len, kind, state, pieces)
    }

    /// Gives the first bytes of what is held as one piece, and turns to `state`; `false` where there was nothing to give.
    fn give(&mut self, len: usize, kind: fn(String) -> Piece, state: State, pieces: &mut Vec<Piece>) -> bool {
        self.state = state;
        if len == 0 {
            return false;
        }
        let rest = self.held.split_off(len);
        pieces.push(kind(std::mem::replace(&mut self.held, rest)));
        true
    }

    fn turn(&mut self, state: State) -> bool {
        self.state = state;
        true
    }
}

impl Piece {
    /// Its text.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Thinking(text) | Self::Answer(text) | Self::Mark(text) => text,
        }
    }
}

/// Characters of a channel's name that are kept: more than any name has.
const NAME_CHARS: usize = 32;

/// Whether harmony's channel is one that users are not meant to read. A message without a channel is an answer.
fn is_for_thinking(channel: &str) -> bool {
    let name = channel.trim_start();
    name.starts_with("analysis") || name.starts_with("commentary")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const THINK: Marks = Marks::Tags { open: "<think>", close: "</think>" };
    const SEED: Marks = Marks::Tags { open: "<seed:think>", close: "</seed:think>" };

    /// The pieces of a text that arrives in parts, neighbours of one kind joined.
    fn pieces<'a>(marks: Option<Marks>, prompt_end: &str, parts: impl IntoIterator<Item = &'a str>) -> Vec<Piece> {
        let mut splitter = Splitter::new(marks, prompt_end);
        let mut joined: Vec<Piece> = Vec::new();
        let mut add = |piece: Piece| match (joined.last_mut(), piece) {
            (Some(Piece::Thinking(text)), Piece::Thinking(more))
            | (Some(Piece::Answer(text)), Piece::Answer(more))
            | (Some(Piece::Mark(text)), Piece::Mark(more)) => text.push_str(&more),
            (_, piece) => joined.push(piece),
        };
        for part in parts {
            splitter.push(part).into_iter().for_each(&mut add);
            // Beside white space before a tag, no more is held than a beginning of a mark.
            assert!(splitter.held.trim_start().len() < "</seed:think>".len(), "{:?} is held", splitter.held);
        }
        splitter.finish().into_iter().for_each(&mut add);
        joined
    }

    /// `t:` thinking, `a:` answer, `m:` mark, for tables.
    fn brief(pieces: &[Piece]) -> String {
        let brief = pieces.iter().map(|piece| match piece {
            Piece::Thinking(text) => format!("t:{text}"),
            Piece::Answer(text) => format!("a:{text}"),
            Piece::Mark(text) => format!("m:{text}"),
        });
        brief.collect::<Vec<_>>().join("|")
    }

    #[test]
    fn thinking_is_told_from_answering() {
        for (marks, prompt_end, text, expected) in [
            (None, "<think>", "<think>a</think>b", "a:<think>a</think>b"),
            (Some(THINK), "", "<think>\nhm\n</think>\n\nyes\n", "m:<think>\n|t:hm\n|m:</think>\n\n|a:yes\n"),
            (Some(THINK), "", "\n<think>hm</think>yes", "m:\n<think>|t:hm|m:</think>|a:yes"),
            (Some(THINK), "", "<think></think>\n", "m:<think></think>\n"),
            (Some(THINK), "", "  plain <think> text", "a:  plain <think> text"),
            (Some(THINK), "", "\n <thi", "a:\n <thi"),
            (Some(THINK), "", "<think>no end </thi", "m:<think>|t:no end </thi"),
            (Some(THINK), "", "<think>a</think>b<think>c</think>", "m:<think>|t:a|m:</think>|a:b<think>c</think>"),
            // The template has opened it, and the model perhaps once more.
            (Some(THINK), "<|assistant|><think>\n", "hm</think>yes", "t:hm|m:</think>|a:yes"),
            (Some(THINK), "<think>", "\n<think>hm</think> yes", "m:\n<think>|t:hm|m:</think> |a:yes"),
            (Some(THINK), "<think>", "cut short", "t:cut short"),
            (Some(THINK), "<think>", "</think>at once", "m:</think>|a:at once"),
            // The template has opened and closed it.
            (Some(THINK), "<think>\n\n</think>\n\n", "yes", "a:yes"),
            (Some(SEED), "", "<seed:think>hm</seed:think>yes", "m:<seed:think>|t:hm|m:</seed:think>|a:yes"),
            (Some(SEED), "", "<think>", "a:<think>"),
        ] {
            assert_eq!(brief(&pieces(marks, prompt_end, [text])), expected, "{prompt_end:?} {text:?}");
        }
    }

    #[test]
    fn channels_are_told_apart() {
        const TWO: &str = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>yes";
        const CALL: &str = "<|channel|>commentary to=f <|constrain|>json<|message|>{}<|call|>";
        for (prompt_end, text, expected) in [
            (
                "<|start|>assistant",
                TWO,
                "m:<|channel|>analysis<|message|>|t:hm|m:<|end|><|start|>assistant<|channel|>final<|message|>|a:yes",
            ),
            ("", CALL, "m:<|channel|>commentary to=f <|constrain|>json<|message|>|t:{}|m:<|call|>"),
            ("", "no header at all <|x", "a:no header at all <|x"),
            ("", "<|message|>yes<|return|>", "m:<|message|>|a:yes|m:<|return|>"),
            ("<|start|>assistant<|channel|>analysis<|message|>", "hm<|end|>", "t:hm|m:<|end|>"),
            ("<|channel|>analysis<|message|>x<|end|><|start|>assistant", "yes", "a:yes"),
            ("", "<|channel|>ana", "m:<|channel|>ana"),
        ] {
            assert_eq!(brief(&pieces(Some(Marks::Harmony), prompt_end, [text])), expected, "{prompt_end:?} {text:?}");
        }
    }

    #[test]
    fn templates_tell_their_marks() {
        for (template, marks) in [
            ("{{ messages }}", None),
            ("{{ content.split('</think>')[-1] }}", Some(THINK)),
            ("{%- set begin = '<seed:think>' -%}", Some(SEED)),
            ("<|channel|>analysis<|message|>{{ message.thinking }}", Some(Marks::Harmony)),
        ] {
            assert_eq!(Marks::of(template), marks, "{template}");
        }
        let splitter = Splitter::new(Some(Marks::Harmony), "");
        assert!(splitter.reads(b"<|channel|>") && !splitter.reads(b"<|endoftext|>"));
        let splitter = Splitter::new(Some(THINK), "");
        assert!(splitter.reads(b"</think>") && !splitter.reads(b"<|im_end|>"));
        assert!(!Splitter::new(None, "").reads(b"<think>"));
    }

    proptest! {
        #[test]
        fn cuts_change_nothing_and_nothing_is_lost(
            words in proptest::collection::vec(prop_oneof![
                Just("<think>"), Just("</think>"), Just("</thi"), Just("<"), Just("<|"), Just(" "), Just("\n"), Just("é"),
                Just("<|channel|>"), Just("<|message|>"), Just("<|start|>"), Just("<|end|>"), Just("<|constrain|>"),
                Just("analysis"), Just("final"), Just("a"),
            ], 0..12),
            step in 1_usize..9,
            marks in prop_oneof![Just(None), Just(Some(THINK)), Just(Some(Marks::Harmony))],
            inside in any::<bool>(),
        ) {
            let text = words.concat();
            let prompt_end = if inside { "<|channel|>analysis<|message|> <think>\n" } else { "" };
            let characters: Vec<char> = text.chars().collect();
            let parts: Vec<String> = characters.chunks(step).map(|part| part.iter().collect()).collect();
            let whole = pieces(marks, prompt_end, [text.as_str()]);
            prop_assert_eq!(&pieces(marks, prompt_end, parts.iter().map(String::as_str)), &whole);
            prop_assert_eq!(whole.iter().map(Piece::text).collect::<String>(), text);
        }
    }
}
