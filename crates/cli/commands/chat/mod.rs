//! `plimsoll chat`: a conversation, line by line.
//!
//! Each turn renders the whole conversation through the model's template; the KV cache keeps the longest beginning that
//! is the same as before, so that only what is new is computed.

mod conversation;
mod lines;
mod order;

use std::path::Path;

use ::plan::Bytes;
use engine::{EngineError, Finish, Sampling, Session};

use crate::answer::{Limits, answer, sampling, stats_line};
use crate::args::{ChatArgs, Think};
use crate::failure::{Usage, is_silent, message};
use crate::open::{self, Running};
use crate::speech::Speech;
use crate::{input, output, show};

use super::Manner;
use conversation::Conversation;
use lines::{Entry, Lines};
use order::Order;

/// The largest saved conversation that is read.
const SAVED_MAX: Bytes = Bytes(64 << 20);

pub(super) fn run(args: &ChatArgs) -> anyhow::Result<()> {
    let (ready, template) = open::ready(&args.model, &args.placement, None)?;
    let template = template?;
    let mut running = ready.start()?;
    let session = running.engine.session()?;
    let conversation = Conversation::new(args.system.clone());
    let sampling = sampling(&args.sampling);
    show::note(&format!("{} · /help for commands, Ctrl-D to leave", running.model.inventory.name));
    let mut chat = Chat {
        running: &mut running,
        manner: Manner::new(template, &args.thinking),
        think: args.thinking.think,
        session,
        conversation,
        sampling,
        max_tokens: args.n_predict,
        last: None,
    };
    let history = open::cache_folder().map(|folder| folder.join("chat-history.txt"));
    let mut lines = Lines::open(history)?;
    let mut failures = Failures::default();
    while let Some(entry) = lines.next()? {
        // What a line fails at is said, and the conversation goes on; only a closed standard output ends it.
        match chat.take(entry) {
            Ok(Next::Exit) => break,
            Ok(Next::Go) => {}
            Err(error) if is_silent(&error) => return Err(error),
            Err(error) => {
                show::note(&format!("error: {}", message(&error)));
                failures.add(error);
            }
        }
    }
    lines.keep_history();
    if let Some(cost) = &chat.last {
        show::note(cost);
    }
    // Whoever sits at a terminal has seen them; a script sees the exit code.
    if lines.is_terminal() { Ok(()) } else { failures.end() }
}

/// What went wrong in a conversation that went on.
#[derive(Default)]
struct Failures {
    first: Option<anyhow::Error>,
    count: usize,
}

impl Failures {
    fn add(&mut self, error: anyhow::Error) {
        self.count += 1;
        self.first.get_or_insert(error);
    }

    /// The first failure, whose exit code the conversation ends with.
    fn end(self) -> anyhow::Result<()> {
        let Some(first) = self.first else { return Ok(()) };
        let what = if self.count == 1 {
            "one line failed".to_owned()
        } else {
            format!("{} lines failed, the first of them so", self.count)
        };
        Err(first.context(what))
    }
}

enum Next {
    Go,
    Exit,
}

/// A conversation with everything it needs.
struct Chat<'a> {
    running: &'a mut Running,
    manner: Manner,
    think: Think,
    session: Session,
    conversation: Conversation,
    sampling: Sampling,
    max_tokens: Option<u32>,
    /// The last answer's cost, in one line.
    last: Option<String>,
}

impl Chat<'_> {
    fn take(&mut self, entry: Entry) -> anyhow::Result<Next> {
        let order = match entry {
            Entry::Line(line) => Order::parse(&line)?,
            Entry::Message(text) => Order::Say(text),
            Entry::Unclosed => {
                let text = "the message was not sent: it has no end\n\nhint: \"\"\" closes what \"\"\" opened";
                return Err(Usage(text.into()).into());
            }
        };
        match order {
            Order::Say(text) if text.trim().is_empty() => {}
            Order::Say(text) => {
                self.conversation.say(text);
                // A message that fails is as if it had not been said.
                let answered = self.answer();
                if answered.is_err() || self.conversation.waits_for_answer() {
                    self.conversation.take_back_message();
                }
                answered?;
            }
            Order::Exit => return Ok(Next::Exit),
            Order::Help => show::note(order::HELP),
            Order::Clear => {
                self.conversation.clear();
                show::note("forgotten");
            }
            Order::Regenerate if self.conversation.take_back_answer() => self.answer()?,
            Order::Regenerate => show::note("there is nothing to answer yet"),
            Order::System(text) => {
                self.conversation.set_system(text);
                show::note("system message set; it counts from the first message on");
            }
            Order::Set(setting) => {
                setting.apply(&mut self.sampling, &mut self.max_tokens);
                show::note(&setting.to_string());
            }
            Order::Settings => show::note(&order::settings(&self.sampling, self.max_tokens)),
            Order::Stats => show::note(self.last.as_deref().unwrap_or("nothing was generated yet")),
            Order::Save(path) => {
                output::write_whole(&path, &self.conversation.to_json()?).map_err(|error| {
                    error.context("not saved\n\nhint: /save takes any file in a folder that exists")
                })?;
                show::note(&format!("saved to {}", path.display()));
            }
            Order::Load(path) => {
                self.conversation = load(&path)?;
                show::note(&format!("{} messages", self.conversation.len()));
            }
        }
        Ok(Next::Go)
    }

    /// Lets the model answer the conversation as it stands.
    fn answer(&mut self) -> anyhow::Result<()> {
        let tokenizer = &self.running.tokenizer;
        let tokens = self.manner.tokens(tokenizer, &self.conversation.messages())?;
        let splitter = self.manner.splitter(tokenizer, &tokens);
        // Earlier thinking is in the session and mostly not in the messages: the session goes back to where they part.
        self.session.truncate(common_prefix(self.session.tokens(), &tokens));
        // A model whose layers keep a state cannot go back but to nothing.
        let known = self.session.position();
        let limits = Limits { max_tokens: self.max_tokens, sampling: self.sampling, stop: &[] };
        let mut speech = Speech::new(self.think);
        let mut say = |piece: &_| speech.say(piece);
        let answer = answer(self.running, &mut self.session, &tokens[known..], splitter, &limits, &mut say);
        let answer = answer.map_err(with_way_out)?;
        show::product("\n")?;
        if let Some(note) = super::still_thinking(&answer, self.think) {
            show::note(note);
        }
        match answer.finish {
            Finish::Interrupted => show::note("(stopped)"),
            Finish::ContextFull => show::note("(the context is full: /clear, or start with a larger -c)"),
            _ => {}
        }
        self.last = Some(stats_line(answer.prompt_tokens, answer.tokens.len(), &answer.stats));
        if answer.finish == Finish::Interrupted && answer.tokens.is_empty() {
            return Ok(());
        }
        self.conversation.answered(answer.text, answer.thinking);
        // Each answer draws anew, so that /regen gives another one.
        self.sampling.seed = self.sampling.seed.wrapping_add(1);
        Ok(())
    }
}

/// How many tokens at the beginning are the same; at least one of `new` is left to compute.
fn common_prefix(old: &[u32], new: &[u32]) -> usize {
    let same = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    same.min(new.len().saturating_sub(1))
}

/// In a conversation there is another way out of a full context than those that the engine knows.
fn with_way_out(error: anyhow::Error) -> anyhow::Error {
    if matches!(error.downcast_ref(), Some(EngineError::ContextFull { .. })) {
        return error.context("the conversation does not fit\n\nhint: /clear forgets it");
    }
    error
}

fn load(path: &Path) -> anyhow::Result<Conversation> {
    let text = input::read_text(path, SAVED_MAX, "a conversation")?;
    let fail = |error| {
        Usage(format!("{} holds no saved conversation: {error}\n\nhint: /load reads what /save wrote", path.display()))
    };
    Ok(Conversation::from_json(&text).map_err(fail)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Exit, exit};

    #[test]
    fn what_is_known_is_not_computed_again_but_for_one_token() {
        for (old, new, known) in [
            (&[][..], &[1, 2][..], 0),
            (&[1, 2, 3], &[1, 2, 3, 4, 5], 3),
            (&[1, 2, 3, 9, 9], &[1, 2, 3, 4], 3),
            (&[1, 2, 3], &[1, 2, 3], 2),
            (&[1, 2, 3], &[1, 2], 1),
            (&[7], &[1, 2], 0),
        ] {
            assert_eq!(common_prefix(old, new), known, "{old:?} {new:?}");
        }
    }

    #[test]
    fn a_full_context_has_a_way_out_of_a_conversation() {
        let full = EngineError::ContextFull { position: 9, asked: 9, capacity: 16 };
        let text = message(&with_way_out(full.into()));
        assert!(text.contains("hint: /clear") && text.contains("9 tokens kept"), "{text}");
        let other = message(&with_way_out(EngineError::EmptyPrompt.into()));
        assert!(!other.contains("/clear"), "{other}");
    }

    #[test]
    fn a_script_learns_that_a_line_failed() {
        let mut failures = Failures::default();
        failures.add(Usage("no order /fly".into()).into());
        failures.add(anyhow::anyhow!("something else"));
        let error = failures.end().expect_err("failures");
        assert_eq!(exit(&error), Exit::Usage, "the first decides");
        assert_eq!(message(&error), "2 lines failed, the first of them so: no order /fly");
        assert!(Failures::default().end().is_ok());
    }

    #[test]
    fn what_cannot_be_loaded_is_named_with_a_way_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.json");
        std::fs::write(&file, "[]").expect("written");
        for (path, hint) in [(file, "what /save wrote"), (folder.path().join("b.json"), "no such file")] {
            let text = message(&load(&path).expect_err("no conversation"));
            assert!(text.contains(&path.display().to_string()) && text.contains(hint), "{text}");
        }
    }
}
