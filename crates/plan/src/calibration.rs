//! What recorded runs took, beside what was forecast of them, and the corrections that follow.
//!
//! Owns which figure a run speaks of. Must never know where runs are kept.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::{Calibration, Cost};

/// A phase of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The prompt was read.
    Prompt,
    /// The answer was made.
    Decode,
}

/// Seconds of one phase, in all and by who worked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Parts {
    /// From begin to end.
    pub seconds: f64,
    /// The processor worked.
    pub cpu_s: f64,
    /// GPUs worked.
    pub gpu_s: f64,
    /// The drive worked.
    pub disk_s: f64,
}

impl From<Cost> for Parts {
    fn from(cost: Cost) -> Self {
        Self { seconds: cost.seconds, cpu_s: cost.cpu_s, gpu_s: cost.gpu_s, disk_s: cost.disk_s }
    }
}

/// A phase that was forecast and measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The model's name.
    pub model: String,
    /// Which phase.
    pub phase: Phase,
    /// Its tokens.
    pub tokens: u64,
    /// What was forecast by measured rates, corrections left out.
    pub forecast: Parts,
    /// What was measured.
    pub measured: Parts,
}

/// A forecast that is further off than this is reported.
pub const DRIFT: f64 = 0.15;
/// Parts that are less of a phase than this say nothing about a figure.
const PART_MIN: f64 = 0.2;
/// No figure is corrected by more: what is further off is another fault.
const FACTOR_MOST: f64 = 4.0;
/// What figures are corrected by.
const FACTORS: RangeInclusive<f64> = 1.0 / FACTOR_MOST..=FACTOR_MOST;
/// A week: no phase of a run is longer.
const SECONDS_MOST: f64 = 7.0 * 86_400.0;

impl Observation {
    /// Whether a run may have taken so long: a damaged line says nothing about a machine.
    #[must_use]
    pub fn is_sane(&self) -> bool {
        let may_be = |parts: &Parts| {
            let times = [parts.seconds, parts.cpu_s, parts.gpu_s, parts.disk_s];
            times.iter().all(|seconds| (0.0..=SECONDS_MOST).contains(seconds)) && parts.seconds > 0.0
        };
        self.tokens > 0 && may_be(&self.forecast) && may_be(&self.measured)
    }

    /// How much longer the phase took than forecast: 0.2 is a fifth longer, −0.2 a fifth shorter.
    #[must_use]
    pub fn drift(&self) -> f64 {
        ratio(self.measured.seconds, self.forecast.seconds) - 1.0
    }

    /// Who worked longer or shorter than forecast by most seconds, with both figures.
    #[must_use]
    pub fn wrong(&self) -> (&'static str, f64, f64) {
        let parts = [
            ("the CPU", self.forecast.cpu_s, self.measured.cpu_s),
            ("the GPU", self.forecast.gpu_s, self.measured.gpu_s),
            ("the drive", self.forecast.disk_s, self.measured.disk_s),
        ];
        let off = |part: &(&str, f64, f64)| (part.2 - part.1).abs();
        parts.into_iter().max_by(|a, b| off(a).total_cmp(&off(b))).unwrap_or(parts[0])
    }

    /// What to tell where the forecast was wrong by more than [`DRIFT`].
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        let drift = self.drift();
        if drift.abs() <= DRIFT {
            return None;
        }
        let phase = match self.phase {
            Phase::Prompt => "the prompt",
            Phase::Decode => "decode",
        };
        let rate = |parts: &Parts| ratio(self.tokens as f64, parts.seconds);
        let (who, forecast, measured) = self.wrong();
        let each = 1e3 / self.tokens.max(1) as f64;
        Some(format!(
            "{phase} took {:.0} % {} than forecast ({:.2} tokens/s, not {:.2}): {who} worked {:.2} ms a token, not {:.2}",
            drift.abs() * 100.0,
            if drift > 0.0 { "longer" } else { "less" },
            rate(&self.measured),
            rate(&self.forecast),
            measured * each,
            forecast * each,
        ))
    }
}

impl Calibration {
    /// Whether every factor is one that runs may have given.
    #[must_use]
    pub fn is_sane(&self) -> bool {
        [self.decode, self.prompt, self.disk, self.gpu].iter().all(|factor| FACTORS.contains(factor))
    }

    /// The corrections by which recorded runs would have been forecast: of each figure the middle one. None where no run speaks of any.
    #[must_use]
    pub fn of(runs: &[Observation]) -> Option<Self> {
        type Part = fn(&Parts) -> f64;
        let middle = |phase: Option<Phase>, part: Part| {
            let runs = runs.iter().filter(|run| phase.is_none_or(|phase| run.phase == phase));
            let speaks = |run: &&Observation| {
                let enough = |parts: &Parts| part(parts) >= PART_MIN * parts.seconds;
                enough(&run.forecast) && enough(&run.measured)
            };
            let of = |run: &Observation| ratio(part(&run.measured), part(&run.forecast));
            let mut factors: Vec<f64> = runs.filter(speaks).map(of).filter(|factor| factor.is_finite()).collect();
            factors.sort_by(f64::total_cmp);
            let factor = factors.get(factors.len() / 2).copied();
            factor.map(|factor| factor.clamp(*FACTORS.start(), *FACTORS.end()))
        };
        let found = [
            middle(Some(Phase::Decode), |parts| parts.cpu_s),
            middle(Some(Phase::Prompt), |parts| parts.cpu_s),
            middle(None, |parts| parts.disk_s),
            middle(None, |parts| parts.gpu_s),
        ];
        let [decode, prompt, disk, gpu] = found.map(|factor| factor.unwrap_or(1.0));
        found.iter().any(Option::is_some).then_some(Self { decode, prompt, disk, gpu })
    }
}

fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(phase: Phase, forecast: (f64, f64), measured: (f64, f64)) -> Observation {
        let parts = |(cpu_s, disk_s): (f64, f64)| Parts { seconds: f64::max(cpu_s, disk_s), cpu_s, disk_s, gpu_s: 0.0 };
        Observation { model: "m".into(), phase, tokens: 10, forecast: parts(forecast), measured: parts(measured) }
    }

    #[test]
    fn a_drift_is_told_with_the_part_that_was_wrong() {
        assert_eq!(run(Phase::Decode, (1.0, 0.5), (1.1, 0.5)).complaint(), None);
        let slow = run(Phase::Decode, (1.0, 0.5), (1.0, 2.0)).complaint().expect("a complaint");
        assert_eq!(
            slow,
            "decode took 100 % longer than forecast (5.00 tokens/s, not 10.00): the drive worked 200.00 ms a token, not 50.00"
        );
        let fast = run(Phase::Prompt, (1.0, 0.0), (0.5, 0.0)).complaint().expect("a complaint");
        assert!(
            fast.starts_with("the prompt took 50 % less than forecast") && fast.contains("the CPU worked"),
            "{fast}"
        );
    }

    #[test]
    fn impossible_times_are_no_observation() {
        assert!(run(Phase::Decode, (1.0, 0.5), (1.1, 0.5)).is_sane());
        for (forecast, measured) in [
            ((-1.0, 0.5), (1.0, 0.5)),
            ((1.0, 0.5), (f64::NAN, 0.5)),
            ((0.0, 0.0), (1.0, 0.0)),
            ((1.0, 1e300), (1.0, 1.0)),
        ] {
            assert!(!run(Phase::Decode, forecast, measured).is_sane(), "{forecast:?} {measured:?}");
        }
        assert!(!Observation { tokens: 0, ..run(Phase::Prompt, (1.0, 0.0), (1.0, 0.0)) }.is_sane());
    }

    #[test]
    fn corrections_are_the_middle_of_what_runs_say() {
        assert_eq!(Calibration::of(&[]), None);
        let runs = [
            run(Phase::Decode, (1.0, 0.01), (1.2, 0.9)),
            run(Phase::Decode, (1.0, 0.0), (1.1, 0.0)),
            run(Phase::Decode, (1.0, 0.0), (9.0, 0.0)),
            run(Phase::Prompt, (1.0, 2.0), (0.8, 4.0)),
        ];
        let found = Calibration::of(&runs).expect("corrections");
        // A drive that was hardly forecast to work says nothing, and nobody speaks of a GPU.
        assert_eq!(found, Calibration { decode: 1.2, prompt: 0.8, disk: 2.0, gpu: 1.0 });
        assert!(found.is_sane() && !Calibration { disk: -1.0, ..found }.is_sane());
        let wild = Calibration::of(&runs[2..3]).expect("corrections");
        assert!((wild.decode - FACTOR_MOST).abs() < 1e-9, "{wild:?}");
    }
}
