//! Whether others use the processors while something is measured.
//!
//! Owns the reading of the system's and this process's counts of time. Must never know what is measured.

use std::fs;

use crate::look::allowed_processors;

/// Counts at one moment, in ticks of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    /// Of the processors that this process may use: all that passed.
    all: u64,
    /// Of those, what somebody had, a hypervisor's other guests too.
    used: u64,
    /// What this process had.
    own: u64,
}

/// A watch over the processors, from when it is made.
pub(crate) struct Watch(Option<Ticks>);

impl Watch {
    pub(crate) fn start() -> Self {
        Self(Ticks::now())
    }

    /// The share of the processors' time that others had since; nothing where the system does not say.
    pub(crate) fn others(&self) -> Option<f64> {
        Ticks::now()?.others(&self.0?)
    }
}

impl Ticks {
    fn now() -> Option<Self> {
        let system = fs::read_to_string("/proc/stat").ok()?;
        let process = fs::read_to_string("/proc/self/stat").ok()?;
        Self::read(&system, &process, &allowed_processors())
    }

    fn read(system: &str, process: &str, processors: &[usize]) -> Option<Self> {
        let (mut all, mut used) = (0, 0);
        for line in system.lines() {
            let mut words = line.split_whitespace();
            let number = words.next().and_then(|name| name.strip_prefix("cpu")).and_then(|number| number.parse().ok());
            if !number.is_some_and(|number: usize| processors.contains(&number)) {
                continue;
            }
            // user, nice, system, idle, waiting, interrupts twice, stolen; guests are in user already.
            let ticks: Vec<u64> = words.take(8).filter_map(|word| word.parse().ok()).collect();
            let sum: u64 = ticks.iter().sum();
            all += sum;
            used += sum - ticks.get(3)? - ticks.get(4)?;
        }
        // The second word is the name, which may hold anything but ends with the last bracket.
        let rest = process.rsplit_once(')')?.1;
        let own = rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
        Some(Self { all, used, own })
    }

    fn others(self, before: &Self) -> Option<f64> {
        let all = self.all.saturating_sub(before.all);
        let used = self.used.saturating_sub(before.used);
        let own = self.own.saturating_sub(before.own);
        (all > 0).then(|| used.saturating_sub(own) as f64 / all as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_is_what_is_used_and_not_ours() {
        let process = |own: u64| format!("7 (a (b) c) R 1 2 3 4 5 6 7 8 9 10 {own} 5 0 0");
        let system = |busy: u64| {
            format!(
                "cpu 9 9 9 9 9 9 9 9 0 0\ncpu0 {busy} 0 10 100 5 0 0 5 3 0\ncpu1 0 0 0 200 0 0 0 0 0 0\ncpu2 9 9 9 9 9 9 9 9 0 0\n"
            )
        };
        let before = Ticks::read(&system(100), &process(10), &[0, 1]).expect("counts");
        assert_eq!(before, Ticks { all: 420, used: 115, own: 15 });
        let after = Ticks::read(&system(200), &process(60), &[0, 1]).expect("counts");
        assert_eq!(after.others(&before), Some(0.5));
        assert_eq!(before.others(&before), None, "no time has passed");
        assert_eq!(Ticks::read(&system(1), "nonsense", &[0]), None);
    }

    #[test]
    fn this_machine_can_be_watched() {
        let watch = Watch::start();
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert!(watch.others().is_none_or(|share| (0.0..=1.0).contains(&share)));
    }
}
