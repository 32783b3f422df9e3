//! `plimsoll chat`: a conversation, line by line.
//!
//! Each turn renders the whole conversation through the model's template; the KV cache keeps the longest beginning that
//! is the same as before, so that only what is new is computed.

mod conversation;
mod order;

use std::path::{Path, PathBuf};

use anyhow::Context;
use engine::{Finish, Sampling, Session};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::answer::{Limits, answer, sampling, stats_line};
use crate::args::ChatArgs;
use crate::open::{self, Running};
use crate::text::ChatTemplate;
use crate::{output, show};

use conversation::Conversation;
use order::Order;

/// What opens and closes a text of several lines.
const FENCE: &str = "\"\"\"";

pub(super) fn run(args: &ChatArgs) -> anyhow::Result<()> {
    let (ready, template) = open::ready(&args.model, &args.placement)?;
    let template = template?;
    let mut running = ready.start()?;
    let session = running.engine.session()?;
    let conversation = Conversation::new(args.system.clone());
    let sampling = sampling(&args.sampling);
    show::note(&format!("{} · /help for commands, Ctrl-D to leave", running.model.inventory.name));
    let mut chat = Chat {
        running: &mut running,
        template,
        session,
        conversation,
        sampling,
        max_tokens: args.n_predict,
        last: None,
    };
    let history = open::cache_folder().map(|folder| folder.join("chat-history.txt"));
    let mut lines = Lines::open(history)?;
    while let Some(line) = lines.next()? {
        // What a line fails at is said, and the conversation goes on; only a closed standard output ends it.
        match chat.take(&line) {
            Ok(Next::Exit) => break,
            Ok(Next::Go) => {}
            Err(error) if crate::failure::is_silent(&error) => return Err(error),
            Err(error) => show::note(&format!("error: {}", crate::failure::message(&error))),
        }
    }
    lines.keep_history();
    Ok(())
}

enum Next {
    Go,
    Exit,
}

/// A conversation with everything it needs.
struct Chat<'a> {
    running: &'a mut Running,
    template: ChatTemplate,
    session: Session,
    conversation: Conversation,
    sampling: Sampling,
    max_tokens: Option<u32>,
    /// The last answer's cost, in one line.
    last: Option<String>,
}

impl Chat<'_> {
    fn take(&mut self, line: &str) -> anyhow::Result<Next> {
        let order = Order::parse(line)?;
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
            Order::Stats => show::note(self.last.as_deref().unwrap_or("nothing was generated yet")),
            Order::Save(path) => {
                output::write_whole(&path, &self.conversation.to_json()?)?;
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
        let tokens = super::chat_tokens(&self.running.tokenizer, &self.template, &self.conversation.messages())?;
        let known = common_prefix(self.session.tokens(), &tokens);
        self.session.truncate(known);
        let limits = Limits { max_tokens: self.max_tokens, sampling: self.sampling, stop: &[] };
        let answer = answer(self.running, &mut self.session, &tokens[known..], &limits, &mut show::product)?;
        show::product("\n")?;
        match answer.finish {
            Finish::Interrupted => show::note("(stopped)"),
            Finish::ContextFull => show::note("(the context is full: /clear, or start with a larger -c)"),
            _ => {}
        }
        self.last = Some(stats_line(answer.prompt_tokens, answer.tokens.len(), &answer.stats));
        if answer.finish == Finish::Interrupted && answer.tokens.is_empty() {
            return Ok(());
        }
        self.conversation.answered(answer.text);
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

fn load(path: &Path) -> anyhow::Result<Conversation> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Conversation::from_json(&text).with_context(|| format!("{} holds no saved conversation", path.display()))
}

/// Lines from the terminal, with editing and history, or from a pipe.
struct Lines {
    editor: DefaultEditor,
    history: Option<PathBuf>,
}

impl Lines {
    fn open(history: Option<PathBuf>) -> anyhow::Result<Self> {
        let mut editor = DefaultEditor::new().context("cannot read from the terminal")?;
        if let Some(path) = &history {
            // The first time there is none.
            let _ = editor.load_history(path);
        }
        Ok(Self { editor, history })
    }

    /// The next line or fenced text; none at the end. Ctrl-C empties the line.
    fn next(&mut self) -> anyhow::Result<Option<String>> {
        let mut text = match self.read("> ")? {
            Read::End => return Ok(None),
            Read::Emptied => return Ok(Some(String::new())),
            Read::Line(line) => line,
        };
        if let Some(first) = text.trim_start().strip_prefix(FENCE) {
            let mut lines = first.to_owned();
            while !lines.trim_end().ends_with(FENCE) {
                match self.read("… ")? {
                    Read::Line(line) => {
                        lines.push('\n');
                        lines.push_str(&line);
                    }
                    Read::Emptied => return Ok(Some(String::new())),
                    Read::End => break,
                }
            }
            let closed = lines.trim_end();
            closed.strip_suffix(FENCE).unwrap_or(closed).trim_matches('\n').clone_into(&mut text);
        }
        if !text.trim().is_empty() {
            // History is a comfort: a line that it refuses is no failure.
            let _ = self.editor.add_history_entry(text.as_str());
        }
        Ok(Some(text))
    }

    fn read(&mut self, prompt: &str) -> anyhow::Result<Read> {
        match self.editor.readline(prompt) {
            Ok(line) => Ok(Read::Line(line)),
            Err(ReadlineError::Interrupted) => Ok(Read::Emptied),
            Err(ReadlineError::Eof) => Ok(Read::End),
            Err(error) => Err(anyhow::Error::new(error).context("cannot read from the terminal")),
        }
    }

    fn keep_history(&mut self) {
        let Some(path) = &self.history else { return };
        let kept =
            path.parent().map_or(Ok(()), std::fs::create_dir_all).is_ok() && self.editor.save_history(path).is_ok();
        if !kept {
            show::note(&format!("note: the history could not be kept in {}", path.display()));
        }
    }
}

enum Read {
    Line(String),
    Emptied,
    End,
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
