//! One answer of a model: tokens in, text out as it comes.
//!
//! Owns streaming, stop strings and what an answer was made of. Must never know how a prompt was written.

use std::ops::ControlFlow;

use engine::{Finish, Request, Sampling, Session, Stats, generate};

use crate::args::SamplingArgs;
use crate::open::Running;
use crate::show::Progress;
use crate::text::{Piece, Splitter, StopStrings, Utf8Stream};

/// What one answer was.
pub(crate) struct Answer {
    /// Its text: thinking, control tokens and the stop string left out.
    pub(crate) text: String,
    /// What the model thought before; empty where it did not.
    pub(crate) thinking: String,
    /// All its tokens, those of the thinking too.
    pub(crate) tokens: Vec<u32>,
    /// Tokens of the prompt that had to be computed.
    pub(crate) prompt_tokens: usize,
    /// Why it ended.
    pub(crate) finish: Finish,
    /// What it cost.
    pub(crate) stats: Stats,
}

/// Continues the session by `prompt`; `show` gets each piece of text that is complete, as `splitter` tells them apart.
///
/// # Errors
/// What the engine refuses, or what `show` fails with. A signal is no error: [`Finish::Interrupted`] tells.
pub(crate) fn answer(
    running: &mut Running,
    session: &mut Session,
    prompt: &[u32],
    splitter: Splitter,
    limits: &Limits<'_>,
    show: &mut dyn FnMut(&Piece) -> anyhow::Result<()>,
) -> anyhow::Result<Answer> {
    let Running { engine, tokenizer, signals, .. } = running;
    let _gentle = signals.gently();
    engine.reset_stats();
    let request = Request {
        prompt,
        max_tokens: limits.max_tokens.map_or(usize::MAX, |n| n as usize),
        sampling: limits.sampling,
        stop_tokens: tokenizer.end_tokens(),
    };
    let mut text = Text::new(splitter, limits.stop, show);
    let mut failed = None;
    let known = session.position();
    let mut waiting = Some(Progress::waiting(&format!("reading a prompt of {} tokens", prompt.len())));
    let generation = generate(engine, session, &request, &mut |token| {
        waiting = None;
        // Of control tokens only those are read that tell thinking from answering.
        let piece = tokenizer.piece(token);
        if tokenizer.is_control(token) && !text.splitter.reads(&piece) {
            return ControlFlow::Continue(());
        }
        match text.push(&piece) {
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
            Ok(()) if text.stops.stopped() => ControlFlow::Break(()),
            Ok(()) => ControlFlow::Continue(()),
        }
    });
    // An error finds a clean line too.
    drop(waiting);
    let generation = generation?;
    if let Some(error) = failed {
        return Err(error);
    }
    let (text, thinking) = text.finish()?;
    let stats = engine.stats(probe::resident().peak);
    Ok(Answer {
        text,
        thinking,
        tokens: generation.tokens,
        prompt_tokens: computed(generation.prompt_tokens, known, session.position()),
        finish: generation.finish,
        stats,
    })
}

/// The text of an answer as it grows.
struct Text<'a> {
    characters: Utf8Stream,
    splitter: Splitter,
    /// Watches the answer; thinking may hold any text.
    stops: StopStrings,
    show: &'a mut dyn FnMut(&Piece) -> anyhow::Result<()>,
    answer: String,
    thinking: String,
    /// Whether a mark came after the thinking so far.
    parted: bool,
}

impl<'a> Text<'a> {
    fn new(splitter: Splitter, stop: &[String], show: &'a mut dyn FnMut(&Piece) -> anyhow::Result<()>) -> Self {
        let stops = StopStrings::new(stop.iter().cloned());
        let (answer, thinking) = (String::new(), String::new());
        Self { characters: Utf8Stream::new(), splitter, stops, show, answer, thinking, parted: false }
    }

    /// Takes the bytes of a token.
    fn push(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let text = self.characters.push(bytes);
        self.split(&text)
    }

    /// Ends the text; gives the answer and the thinking.
    fn finish(mut self) -> anyhow::Result<(String, String)> {
        let rest = std::mem::take(&mut self.characters).finish();
        self.split(&rest)?;
        if let Some(last) = std::mem::replace(&mut self.splitter, Splitter::new(None, "")).finish() {
            self.take(last)?;
        }
        self.flush()?;
        let end = self.thinking.trim_end().len();
        self.thinking.truncate(end);
        Ok((self.answer, self.thinking))
    }

    fn split(&mut self, text: &str) -> anyhow::Result<()> {
        self.splitter.push(text).into_iter().try_for_each(|piece| self.take(piece))
    }

    fn take(&mut self, piece: Piece) -> anyhow::Result<()> {
        if self.stops.stopped() {
            return Ok(());
        }
        if let Piece::Answer(text) = piece {
            let text = self.stops.push(&text);
            return self.say(text);
        }
        // What was held back of an answer comes before what interrupts it.
        self.flush()?;
        match &piece {
            Piece::Thinking(text) => {
                if std::mem::take(&mut self.parted) {
                    self.thinking.push('\n');
                }
                self.thinking.push_str(text);
            }
            _ => self.parted = !self.thinking.is_empty(),
        }
        (self.show)(&piece)
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let held = self.stops.flush();
        self.say(held)
    }

    fn say(&mut self, text: String) -> anyhow::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.answer.push_str(&text);
        (self.show)(&Piece::Answer(text))
    }
}

/// How many tokens of a prompt were computed, by the session's positions before and after: where it was interrupted, it is
/// not in the session, or not whole.
const fn computed(prompt: usize, before: usize, after: usize) -> usize {
    let grown = after.saturating_sub(before);
    if prompt < grown { prompt } else { grown }
}

/// What bounds an answer.
pub(crate) struct Limits<'a> {
    /// The most tokens; none means until the model ends or the context is full.
    pub(crate) max_tokens: Option<u32>,
    /// How tokens are chosen.
    pub(crate) sampling: Sampling,
    /// Texts that end it.
    pub(crate) stop: &'a [String],
}

/// The sampling that flags ask for; a seed that is not given is drawn.
pub(crate) fn sampling(args: &SamplingArgs) -> Sampling {
    Sampling {
        temperature: args.temp,
        top_k: args.top_k as usize,
        top_p: args.top_p,
        min_p: args.min_p,
        repeat_penalty: args.repeat_penalty,
        repeat_last_n: args.repeat_last_n as usize,
        seed: args.seed.unwrap_or_else(random),
    }
}

/// A number that differs from run to run. The standard library seeds each hasher from the system's randomness. It has 53
/// bits, so that readers of JSON that keep numbers as floats give back the same one.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) >> 11
}

/// The last line of a run, for people.
///
/// `prompt 512 tok 210 t/s · gen 128 tok 9.4 t/s · TTFT 2.4 s · ram 61/90 MiB · disk 43 MB/tok @2.9 GB/s · forecast …`
pub(crate) fn stats_line(prompt_tokens: usize, generated: usize, stats: &Stats) -> String {
    let mut parts = vec![
        format!("prompt {prompt_tokens} tok {} t/s", rate(stats.prompt_tokens_per_s)),
        format!("gen {generated} tok {} t/s", rate(stats.decode_tokens_per_s)),
    ];
    // Where the prompt was interrupted there was no first token.
    parts.extend(stats.ttft_ms.map(|ms| format!("TTFT {}", seconds(ms / 1e3))));
    for tier in &stats.tiers {
        if let Some(limit) = tier.limit_bytes {
            parts.push(format!("{} {}", tier.name, of(tier.peak_bytes, limit)));
        } else if tier.read_bytes_per_token > 0.0 {
            let link = stats.links.iter().find(|link| link.from == tier.name);
            let speed = link.map_or_else(String::new, |link| format!(" @{:.1} GB/s", link.bytes_per_s / 1e9));
            parts.push(format!("{} {:.0} MB/tok{speed}", tier.name, tier.read_bytes_per_token / 1e6));
        }
    }
    let cache = stats.expert_cache;
    if cache.hits + cache.misses > 0 {
        parts.push(format!("experts hit {:.0} %", 100.0 * cache.hits as f64 / (cache.hits + cache.misses) as f64));
    }
    let forecast = &stats.forecast;
    parts.push(format!(
        "forecast {} and {} t/s",
        rate(forecast.prompt_tokens_per_s),
        rate(forecast.decode_tokens_per_s)
    ));
    parts.join(" · ")
}

/// Three digits are enough for a rate; a dash where nothing was timed, such as the decoding of `-n 1`.
fn rate(per_second: f64) -> String {
    match per_second {
        r if r <= 0.0 => "–".to_owned(),
        r if r >= 100.0 => format!("{r:.0}"),
        r if r >= 10.0 => format!("{r:.1}"),
        r => format!("{r:.2}"),
    }
}

fn seconds(s: f64) -> String {
    if s < 1.0 { format!("{:.0} ms", s * 1e3) } else { format!("{s:.1} s") }
}

/// `61/90 MiB`: both in one unit where that tells enough, else each in its own.
fn of(part: u64, whole: u64) -> String {
    const MIB: f64 = 1_048_576.0;
    let (part, whole) = (part as f64 / MIB, whole as f64 / MIB);
    match (part >= 1024.0, whole >= 10_240.0) {
        (_, false) => format!("{part:.0}/{whole:.0} MiB"),
        (true, true) => format!("{:.1}/{:.1} GiB", part / 1024.0, whole / 1024.0),
        (false, true) => format!("{part:.0} MiB/{:.1} GiB", whole / 1024.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Marks;
    use engine::{DiskStats, ExpertCacheStats, ForecastStats, LinkStats, PhaseStats, TierStats};

    fn tier(name: &str, limit_bytes: Option<u64>, peak_bytes: u64, read_bytes_per_token: f64) -> TierStats {
        TierStats {
            name: name.into(),
            limit_bytes,
            peak_bytes,
            planned_bytes: peak_bytes,
            read_bytes_per_token,
            busy_ms_per_token: 0.0,
        }
    }

    #[test]
    fn the_last_line_says_what_the_json_says() {
        let stats = Stats {
            prompt: PhaseStats::default(),
            decode: PhaseStats::default(),
            load_ms: 12.0,
            ttft_ms: Some(2400.0),
            prompt_tokens_per_s: 210.4,
            decode_tokens_per_s: 9.41,
            forecast: ForecastStats { prompt_tokens_per_s: 200.0, decode_tokens_per_s: 9.876 },
            tiers: vec![tier("ram", Some(90 << 20), 61 << 20, 1e6), tier("disk", None, 0, 43e6)],
            links: vec![LinkStats { from: "disk".into(), to: "ram".into(), bytes: 1, bytes_per_s: 2.9e9 }],
            crossings_per_token: 0.0,
            overlap: 1.3,
            disk: DiskStats { reads_at_once: 8, ..DiskStats::default() },
            expert_cache: ExpertCacheStats::default(),
            fallbacks: Vec::new(),
        };
        let line = "prompt 512 tok 210 t/s · gen 128 tok 9.41 t/s · TTFT 2.4 s · ram 61/90 MiB · \
                    disk 43 MB/tok @2.9 GB/s · forecast 200 and 9.88 t/s";
        assert_eq!(stats_line(512, 128, &stats), line);
    }

    #[test]
    fn a_small_part_of_much_keeps_its_own_unit() {
        for (part, whole, text) in [
            (61 << 20, 90 << 20, "61/90 MiB"),
            (3 << 29, 16 << 30, "1.5/16.0 GiB"),
            (109 << 20, 21 << 30, "109 MiB/21.0 GiB"),
        ] {
            assert_eq!(of(part, whole), text);
        }
    }

    #[test]
    fn a_tier_that_was_not_read_is_not_mentioned() {
        let stats = Stats {
            prompt: PhaseStats::default(),
            decode: PhaseStats::default(),
            load_ms: 0.0,
            ttft_ms: Some(40.0),
            prompt_tokens_per_s: 0.0,
            decode_tokens_per_s: 0.0,
            forecast: ForecastStats { prompt_tokens_per_s: 1.0, decode_tokens_per_s: 1.0 },
            tiers: vec![tier("ram", Some(16 << 30), 3 << 29, 0.0), tier("disk", None, 0, 0.0)],
            links: Vec::new(),
            crossings_per_token: 0.0,
            overlap: 0.0,
            disk: DiskStats::default(),
            expert_cache: ExpertCacheStats { hits: 3, misses: 1, bytes_read: 0 },
            fallbacks: Vec::new(),
        };
        let line = "prompt 1 tok – t/s · gen 0 tok – t/s · TTFT 40 ms · ram 1.5/16.0 GiB · experts hit 75 % · \
                    forecast 1.00 and 1.00 t/s";
        assert_eq!(stats_line(1, 0, &stats), line);
        let interrupted = Stats { ttft_ms: None, ..stats };
        assert!(!stats_line(0, 0, &interrupted).contains("TTFT"));
    }

    /// What an answer's text becomes, and all that was shown of it.
    fn answered(marks: Marks, stop: &[&str], parts: &[&str]) -> (String, String, String) {
        let mut shown = String::new();
        let stop: Vec<String> = stop.iter().map(ToString::to_string).collect();
        let mut show = |piece: &Piece| {
            shown.push_str(piece.text());
            Ok(())
        };
        let mut text = Text::new(Splitter::new(Some(marks), ""), &stop, &mut show);
        for part in parts {
            text.push(part.as_bytes()).expect("shown");
        }
        let (answer, thinking) = text.finish().expect("shown");
        (answer, thinking, shown)
    }

    #[test]
    fn stop_strings_end_the_answer_and_not_the_thinking() {
        let think = Marks::of("<think>").expect("marks");
        let harmony = Marks::of("<|channel|><|message|>").expect("marks");
        for (marks, stop, parts, answer, thinking, shown) in [
            (
                think,
                &["\n\n"][..],
                &["<think>a\n\nb\n</think>\n\nc\n", "\nd"][..],
                "c",
                "a\n\nb",
                "<think>a\n\nb\n</think>\n\nc",
            ),
            (think, &["END"], &["<think>a</think>cE", "N"], "cEN", "a", "<think>a</think>cEN"),
            (think, &[], &["plain"], "plain", "", "plain"),
            (
                harmony,
                &[],
                &[
                    "<|channel|>analysis<|message|>a<|end|><|channel|>commentary<|message|>b<|end|><|channel|>final<|message|>c",
                ],
                "c",
                "a\nb",
                "<|channel|>analysis<|message|>a<|end|><|channel|>commentary<|message|>b<|end|><|channel|>final<|message|>c",
            ),
        ] {
            let expected = (answer.to_owned(), thinking.to_owned(), shown.to_owned());
            assert_eq!(answered(marks, stop, parts), expected, "{parts:?}");
        }
    }

    #[test]
    fn only_computed_tokens_of_a_prompt_are_counted() {
        for (prompt, before, after, counted) in [(9, 0, 0, 0), (9, 5, 5, 0), (9, 5, 9, 4), (9, 5, 14, 9), (9, 0, 99, 9)]
        {
            assert_eq!(computed(prompt, before, after), counted, "{prompt} {before} {after}");
        }
    }

    #[test]
    fn seeds_survive_as_floats() {
        for _ in 0..100 {
            let seed = random();
            assert!(seed < 1 << 53 && seed as f64 as u64 == seed, "{seed}");
        }
    }
}
