//! What a line in `chat` asks for.

use std::fmt;
use std::path::PathBuf;

use engine::Sampling;

use crate::failure::Usage;

pub(super) const HELP: &str = "\
/help            this list
/clear           forget the conversation; the system message stays
/regen           answer the last message again
/system TEXT     set the system message; without TEXT, take it away
/set NAME VALUE  temp, top-k, top-p, min-p, repeat-penalty, seed or n-predict; alone, the list of their values
/stats           what the last answer cost
/save FILE       write the conversation
/load FILE       read a conversation
/exit            leave, as Ctrl-D does
\"\"\"              opens and closes a message of several lines
Ctrl-C           stops an answer";

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Order {
    Say(String),
    Help,
    Clear,
    Regenerate,
    System(String),
    Set(Setting),
    Settings,
    Stats,
    Save(PathBuf),
    Load(PathBuf),
    Exit,
}

/// A setting with its value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Setting {
    Temperature(f32),
    TopK(usize),
    TopP(f32),
    MinP(f32),
    RepeatPenalty(f32),
    Seed(u64),
    /// None is no limit.
    MaxTokens(Option<u32>),
}

impl Order {
    /// Reads a line: an order begins with a slash, everything else is said to the model.
    pub(super) fn parse(line: &str) -> Result<Self, Usage> {
        let trimmed = line.trim();
        let Some(order) = trimmed.strip_prefix('/') else { return Ok(Self::Say(line.to_owned())) };
        let (name, rest) = order.split_once(char::is_whitespace).unwrap_or((order, ""));
        let rest = rest.trim();
        let file = |make: fn(PathBuf) -> Self| {
            let none = || Usage(format!("/{name} wants a file\n\nhint: such as /{name} chat.json"));
            if rest.is_empty() { Err(none()) } else { Ok(make(rest.into())) }
        };
        Ok(match name {
            "help" | "?" => Self::Help,
            "clear" => Self::Clear,
            "regen" => Self::Regenerate,
            "system" => Self::System(rest.to_owned()),
            "set" if rest.is_empty() => Self::Settings,
            "set" => Self::Set(Setting::parse(rest)?),
            "stats" => Self::Stats,
            "save" => file(Self::Save)?,
            "load" => file(Self::Load)?,
            "exit" | "bye" | "quit" => Self::Exit,
            _ => return Err(Usage(format!("there is no order /{name}\n\nhint: /help lists them"))),
        })
    }
}

impl Setting {
    fn parse(text: &str) -> Result<Self, Usage> {
        let (name, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let value = value.trim();
        let fail = |want: &str| {
            let found = if value.is_empty() { String::new() } else { format!(", not {value:?}") };
            Usage(format!("{name} wants {want}{found}\n\nhint: /set alone lists the values as they are"))
        };
        let float = |least: f32, most: f32, want: &str| {
            value.parse().ok().filter(|x: &f32| x.is_finite() && (least..=most).contains(x)).ok_or_else(|| fail(want))
        };
        Ok(match name {
            "temp" | "temperature" => Self::Temperature(float(0.0, f32::MAX, "a number from 0 up")?),
            "top-k" => Self::TopK(value.parse().map_err(|_| fail("a whole number"))?),
            "top-p" => Self::TopP(float(0.0, 1.0, "a number from 0 to 1")?),
            "min-p" => Self::MinP(float(0.0, 1.0, "a number from 0 to 1")?),
            "repeat-penalty" => Self::RepeatPenalty(float(f32::MIN_POSITIVE, f32::MAX, "a number above 0")?),
            "seed" => Self::Seed(value.parse().map_err(|_| fail("a whole number"))?),
            "n-predict" if value == "none" => Self::MaxTokens(None),
            "n-predict" => Self::MaxTokens(Some(value.parse().map_err(|_| fail("a whole number or none"))?)),
            _ => {
                let names = "temp, top-k, top-p, min-p, repeat-penalty, seed or n-predict";
                return Err(Usage(format!("/set knows no {name:?}\n\nhint: it sets {names}")));
            }
        })
    }

    pub(super) fn apply(self, sampling: &mut Sampling, max_tokens: &mut Option<u32>) {
        match self {
            Self::Temperature(x) => sampling.temperature = x,
            Self::TopK(n) => sampling.top_k = n,
            Self::TopP(x) => sampling.top_p = x,
            Self::MinP(x) => sampling.min_p = x,
            Self::RepeatPenalty(x) => sampling.repeat_penalty = x,
            Self::Seed(n) => sampling.seed = n,
            Self::MaxTokens(n) => *max_tokens = n,
        }
    }
}

/// The values of all settings, a line each.
pub(super) fn settings(sampling: &Sampling, max_tokens: Option<u32>) -> String {
    let all = [
        Setting::Temperature(sampling.temperature),
        Setting::TopK(sampling.top_k),
        Setting::TopP(sampling.top_p),
        Setting::MinP(sampling.min_p),
        Setting::RepeatPenalty(sampling.repeat_penalty),
        Setting::Seed(sampling.seed),
        Setting::MaxTokens(max_tokens),
    ];
    all.map(|setting| setting.to_string()).join("\n")
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Temperature(x) => write!(f, "temp {x}"),
            Self::TopK(n) => write!(f, "top-k {n}"),
            Self::TopP(x) => write!(f, "top-p {x}"),
            Self::MinP(x) => write!(f, "min-p {x}"),
            Self::RepeatPenalty(x) => write!(f, "repeat-penalty {x}"),
            Self::Seed(n) => write!(f, "seed {n}"),
            Self::MaxTokens(Some(n)) => write!(f, "n-predict {n}"),
            Self::MaxTokens(None) => write!(f, "n-predict none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_are_meant() {
        for (line, order) in [
            ("Hello /world", Order::Say("Hello /world".into())),
            ("/help", Order::Help),
            ("  /regen ", Order::Regenerate),
            ("/system Be brief.", Order::System("Be brief.".into())),
            ("/system", Order::System(String::new())),
            ("/save a b.json", Order::Save("a b.json".into())),
            ("/bye", Order::Exit),
            ("/set temp 0.5", Order::Set(Setting::Temperature(0.5))),
            ("/set ", Order::Settings),
            ("/set n-predict none", Order::Set(Setting::MaxTokens(None))),
        ] {
            assert_eq!(Order::parse(line).expect(line), order, "{line}");
        }
    }

    #[test]
    fn mistakes_are_answered_with_what_would_do() {
        for (line, part) in [
            ("/fly", "no order /fly"),
            ("/save", "wants a file"),
            ("/load", "hint: such as /load chat.json"),
            ("/set warmth 1", "it sets temp"),
            ("/set temp", "wants a number from 0 up\n\nhint: /set alone"),
            ("/set top-p 2", "a number from 0 to 1"),
            ("/set temp NaN", "a number from 0 up"),
            ("/set top-k -1", "a whole number"),
            ("/set repeat-penalty 0", "above 0"),
        ] {
            let error = Order::parse(line).expect_err(line);
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn a_setting_changes_what_it_names() {
        let (mut sampling, mut most) = (Sampling::default(), None);
        for setting in [Setting::TopK(7), Setting::MaxTokens(Some(9)), Setting::Seed(3)] {
            setting.apply(&mut sampling, &mut most);
        }
        assert_eq!((sampling.top_k, sampling.seed, most), (7, 3, Some(9)));
    }

    #[test]
    fn all_settings_are_listed_as_they_would_be_set() {
        let (sampling, most) = (Sampling { seed: 7, ..Sampling::default() }, Some(5));
        let (mut again, mut most_again) = (Sampling { seed: 1, temperature: 9.0, ..Sampling::default() }, None);
        for line in settings(&sampling, most).lines() {
            Setting::parse(line).expect(line).apply(&mut again, &mut most_again);
        }
        assert_eq!((again, most_again), (sampling, most));
    }
}
