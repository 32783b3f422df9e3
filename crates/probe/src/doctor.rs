//! Whether a machine lets plimsoll do its best: each thing looked at, what was found, and what helps.
//!
//! Owns the checks. Must never change anything: the one file that it writes, to see how a folder's drive is read, it removes again.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kernels::cpu::Isa;
use kernels::memory::{ByteSource, Depth, FileSource, Method, Queue};
use plan::Bytes;
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use crate::busy::Watch;
use crate::cache::Rates;
use crate::look::{Drive, Seen, allowed_processors, driver_version, gpu_names};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// It works, and not as well as it could.
    Warn,
    /// Something that is there cannot be used.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What helps, where anything is amiss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    fn pass(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Pass, found: found.into(), remedy: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, remedy: &str) -> Self {
        Self { name, verdict: Verdict::Warn, found: found.into(), remedy: Some(remedy.to_owned()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, remedy: &str) -> Self {
        Self { verdict: Verdict::Fail, ..Self::warn(name, found, remedy) }
    }
}

/// Every check, with the drive of `path` (a model, or a folder for models) and the rates kept in `cache`.
#[must_use]
pub fn examine(path: &Path, cache: Option<&Path>) -> Vec<Check> {
    let seen = Seen::look();
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let mut checks = vec![
        instructions(Isa::best(), &read("/proc/cpuinfo")),
        cores(seen.cores, allowed_processors().len()),
        numa(nodes(Path::new("/sys/devices/system/node"))),
        memory(&seen),
        huge_pages(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
        memlock(getrlimit(Resource::Memlock).current),
        others(),
    ];
    checks.extend(drive(path));
    #[cfg(feature = "cuda")]
    let trouble = crate::driver_trouble();
    #[cfg(not(feature = "cuda"))]
    let trouble = Some("this build has no code for GPUs (feature cuda)".to_owned());
    checks.push(gpu(&gpu_names(), driver_version().as_deref(), trouble.as_deref()));
    checks.push(rates(cache.is_some_and(|cache| Rates::load(cache, &seen).is_some())));
    checks
}

/// Sets of instructions that kernels use, as `/proc/cpuinfo` names them.
const FLAGS: [&str; 7] = ["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "amx_int8"];

fn instructions(isa: Isa, cpuinfo: &str) -> Check {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    let flags: Vec<&str> =
        FLAGS.into_iter().filter(|flag| flags.split_whitespace().any(|word| word == *flag)).collect();
    let found = format!("kernels for {} ({})", isa.name(), flags.join(", "));
    if isa == Isa::PORTABLE {
        let remedy = "products are several times slower without AVX2: use a processor of 2013 or later, or let the virtual machine see it";
        return Check::warn("instructions", found, remedy);
    }
    Check::pass("instructions", found)
}

fn cores(cores: u32, allowed: usize) -> Check {
    let found = format!("{cores} physical cores may be used, {allowed} processors allowed");
    if cores < 2 {
        let remedy = "one core reads less than RAM gives: give the process more (cpuset, quota, taskset)";
        return Check::warn("cores", found, remedy);
    }
    Check::pass("cores", found)
}

fn nodes(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 1 };
    let is_node = |name: &str| name.strip_prefix("node").is_some_and(|number| number.parse::<u32>().is_ok());
    entries.flatten().filter(|entry| is_node(&entry.file_name().to_string_lossy())).count().max(1)
}

fn numa(nodes: usize) -> Check {
    if nodes == 1 {
        return Check::pass("memory nodes", "1");
    }
    let remedy = "weights land on the node that loads them: start with `numactl --interleave=all`, or keep to one node with `numactl -N 0 -m 0`";
    Check::warn("memory nodes", nodes.to_string(), remedy)
}

/// Less is not enough for any model of use.
const RAM_LEAST: Bytes = Bytes(512 << 20);

fn memory(seen: &Seen) -> Check {
    let Seen { ram_installed, ram_total, ram_available, .. } = seen;
    let limit = if ram_total < ram_installed {
        format!(", of {ram_installed} installed: a control group's limit")
    } else {
        String::new()
    };
    let found = format!("{ram_available} available of {ram_total}{limit}");
    if *ram_available < RAM_LEAST {
        return Check::fail("RAM", found, "close other programs, or raise the control group's memory.max");
    }
    Check::pass("RAM", found)
}

fn huge_pages(enabled: &str) -> Check {
    let chosen = enabled.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    match chosen {
        Some(chosen @ ("always" | "madvise")) => Check::pass("huge pages", chosen),
        Some(chosen) => {
            let remedy = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled (as root): the ring's direct reads and large weights gain";
            Check::warn("huge pages", chosen, remedy)
        }
        None => Check::warn("huge pages", "the kernel has none", "use a kernel with transparent huge pages"),
    }
}

/// What older kernels count of a queue of reads, with some to spare.
const MEMLOCK_LEAST: Bytes = Bytes(1 << 20);

fn memlock(limit: Option<u64>) -> Check {
    match limit {
        None => Check::pass("locked memory", "no limit"),
        Some(limit) if limit >= MEMLOCK_LEAST.0 => Check::pass("locked memory", format!("up to {}", Bytes(limit))),
        Some(limit) => {
            let remedy = "kernels before 5.12 count io_uring's queues there: ulimit -l unlimited, or memlock in /etc/security/limits.conf";
            Check::warn("locked memory", format!("up to {}", Bytes(limit)), remedy)
        }
    }
}

fn others() -> Check {
    let watch = Watch::start();
    std::thread::sleep(Duration::from_millis(300));
    match watch.others() {
        Some(share) if share > 0.1 => {
            let found = format!("others use {:.0} % of the processors now", share * 100.0);
            Check::warn("other programs", found, "speeds will be lower than forecast while they do")
        }
        Some(share) => Check::pass("other programs", format!("{:.0} % of the processors", share * 100.0)),
        None => Check::pass("other programs", "not known"),
    }
}

/// The drive: whether it is read past the page cache, by `io_uring`, and whether its platters turn.
fn drive(path: &Path) -> Vec<Check> {
    let (file, temporary) = match readable(path) {
        Ok(found) => found,
        Err(error) => {
            let remedy = "give a model on the drive in question with -m";
            return vec![Check::warn("direct reads", format!("{}: {error}", path.display()), remedy)];
        }
    };
    let mut checks = Vec::new();
    match FileSource::open(&file) {
        Ok(source) => {
            checks.push(direct(source.why_not_direct()));
            let queue = Queue::open(vec![Arc::new(source) as Arc<dyn ByteSource>], Depth::USUAL, Method::Uring);
            checks.push(uring(queue.refused()));
        }
        Err(error) => {
            let found = format!("{}: {error}", file.display());
            checks.push(Check::fail("direct reads", found, "give a file that may be read"));
        }
    }
    if Drive::of(&file).and_then(Drive::rotates) == Some(true) {
        let remedy = "what does not fit in RAM is read for each token: put the model on an SSD";
        checks.push(Check::warn("drive", "platters that turn", remedy));
    }
    drop(temporary);
    checks
}

fn direct(refused: Option<String>) -> Check {
    match refused {
        None => Check::pass("direct reads", "past the page cache"),
        Some(why) => {
            let remedy = "put models on ext4, xfs or btrfs: on other file systems the page cache is read, which is slower and counts against limits";
            Check::warn("direct reads", why, remedy)
        }
    }
}

fn uring(refused: Option<&str>) -> Check {
    match refused {
        None => Check::pass("io_uring", "usable"),
        Some(why) => {
            let remedy = "threads read instead, at more cost: sysctl kernel.io_uring_disabled=0, or allow io_uring in the container's seccomp profile";
            Check::warn("io_uring", why, remedy)
        }
    }
}

/// A file of some pages in a folder, removed again.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Nothing can be done about a file that will not go.
        let _ = fs::remove_file(&self.0);
    }
}

/// The file itself, or one that is made in the folder.
fn readable(path: &Path) -> std::io::Result<(PathBuf, Option<Temporary>)> {
    if !path.is_dir() {
        return Ok((path.to_owned(), None));
    }
    let temporary = Temporary(path.join(format!(".plimsoll-doctor.{}.tmp", std::process::id())));
    fs::File::create(&temporary.0)?.write_all(&[7; 16 << 10])?;
    Ok((temporary.0.clone(), Some(temporary)))
}

fn gpu(names: &[String], driver: Option<&str>, trouble: Option<&str>) -> Check {
    if names.is_empty() {
        return Check::pass("GPU", "no NVIDIA GPU is shown");
    }
    let driver = driver.map_or("no driver version".to_owned(), |version| format!("driver {version}"));
    let found = format!("{}, {driver}", names.join(", "));
    match trouble {
        None => Check::pass("GPU", found),
        Some(why) => {
            let remedy = "build with `--features cuda`, and have an NVIDIA driver for CUDA 12.8 or newer whose libcuda.so.1 is found";
            Check::fail("GPU", format!("{found}: {why}"), remedy)
        }
    }
}

fn rates(kept: bool) -> Check {
    if kept {
        return Check::pass("measured rates", "of this machine and these kernels");
    }
    Check::warn("measured rates", "none: forecasts are estimates", "run `plimsoll probe` while nothing else runs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_knows_good_from_bad() {
        let seen = |available| Seen {
            cpu: String::new(),
            cores: 2,
            ram_installed: Bytes(8 << 30),
            ram_total: Bytes(2 << 30),
            ram_available: Bytes(available),
            gpus: String::new(),
        };
        let card = ["a card".to_owned()];
        for (check, verdict, found) in [
            (instructions(Isa::PORTABLE, "flags\t: fpu avx2 sse\n"), Verdict::Warn, "(avx2)"),
            (cores(1, 2), Verdict::Warn, "1 physical"),
            (cores(8, 16), Verdict::Pass, "8 physical"),
            (numa(1), Verdict::Pass, "1"),
            (numa(4), Verdict::Warn, "4"),
            (memory(&seen(1 << 30)), Verdict::Pass, "8.00 GiB installed: a control group"),
            (memory(&seen(1 << 20)), Verdict::Fail, "1.00 MiB available"),
            (huge_pages("always [madvise] never\n"), Verdict::Pass, "madvise"),
            (huge_pages("always madvise [never]\n"), Verdict::Warn, "never"),
            (huge_pages(""), Verdict::Warn, "none"),
            (memlock(None), Verdict::Pass, "no limit"),
            (memlock(Some(64 << 10)), Verdict::Warn, "64.00 KiB"),
            (direct(None), Verdict::Pass, "past"),
            (direct(Some("Invalid argument".into())), Verdict::Warn, "Invalid"),
            (uring(None), Verdict::Pass, "usable"),
            (uring(Some("not permitted")), Verdict::Warn, "not permitted"),
            (gpu(&[], None, Some("no driver")), Verdict::Pass, "no NVIDIA"),
            (gpu(&card, Some("580.1"), None), Verdict::Pass, "driver 580.1"),
            (gpu(&card, None, Some("no code")), Verdict::Fail, "no code"),
            (rates(true), Verdict::Pass, "these kernels"),
            (rates(false), Verdict::Warn, "estimates"),
        ] {
            assert!(check.verdict == verdict && check.found.contains(found), "{check:?}");
            assert_eq!(check.remedy.is_some(), verdict != Verdict::Pass, "{check:?}");
        }
    }

    #[test]
    fn this_machine_is_examined_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let checks = examine(folder.path(), Some(folder.path()));
        assert!(checks.len() >= 10, "{checks:?}");
        assert!(checks.iter().any(|check| check.name == "io_uring"), "{checks:?}");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
        let missing = examine(&folder.path().join("absent"), None);
        assert!(
            missing.iter().any(|check| check.name == "direct reads" && check.verdict == Verdict::Fail),
            "{missing:?}"
        );
    }
}
