//! What can be seen of a machine without measuring: processor, memory, drives, names of GPUs.
//!
//! Owns the reading of `/proc` and `/sys`. Must never measure a rate.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use plan::Bytes;

use crate::cgroup::Limits;

/// Resident memory of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// Bytes in RAM now.
    pub current: Bytes,
    /// The most there ever were.
    pub peak: Bytes,
}

/// Resident memory of this process, from `/proc/self/status`; zeros where the system has no such file.
#[must_use]
pub fn resident() -> Resident {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    Resident { current: kib_line(&status, "VmRSS:"), peak: kib_line(&status, "VmHWM:") }
}

/// Names of the GPUs that the NVIDIA driver shows, whether or not this build can use them.
#[must_use]
pub fn gpu_names() -> Vec<String> {
    let Ok(folders) = fs::read_dir("/proc/driver/nvidia/gpus") else { return Vec::new() };
    let mut folders: Vec<_> = folders.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    folders
        .iter()
        .filter_map(|folder| fs::read_to_string(folder.join("information")).ok())
        .filter_map(|text| colon_line(&text, "Model").map(str::to_owned))
        .collect()
}

/// The NVIDIA driver's version, such as `580.95.05`.
pub(crate) fn driver_version() -> Option<String> {
    let text = fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let numeric = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.split_whitespace().find(numeric).map(str::to_owned)
}

/// What was seen of this machine.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) cpu: String,
    /// Physical cores, within affinity and quota.
    pub(crate) cores: u32,
    /// All RAM of the machine, whatever the groups allow.
    pub(crate) ram_installed: Bytes,
    pub(crate) ram_total: Bytes,
    pub(crate) ram_available: Bytes,
    /// GPUs and their driver, in words; empty where there are none.
    pub(crate) gpus: String,
}

impl Seen {
    pub(crate) fn look() -> Self {
        let limits = Limits::read(Path::new("/"));
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let (installed, free) = (kib_line(&memory, "MemTotal:"), kib_line(&memory, "MemAvailable:"));
        let cores = physical_cores(Path::new("/sys/devices/system/cpu"), &allowed_processors());
        Self {
            cpu: colon_line(&cpu, "model name").unwrap_or("unknown processor").to_owned(),
            cores: within_quota(cores, limits.processors),
            ram_installed: installed,
            ram_total: limits.memory.map_or(installed, |limit| limit.min(installed)),
            ram_available: limits.memory_left.map_or(free, |left| left.min(free)),
            gpus: gpu_names().into_iter().chain(driver_version()).collect::<Vec<_>>().join(", "),
        }
    }
}

/// The drive that a path lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drive {
    major: u32,
    minor: u32,
}

impl Drive {
    /// The drive of the file or folder at `path`, if it can be seen.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let device = fs::metadata(path).ok()?.dev();
        Some(Self { major: rustix::fs::major(device), minor: rustix::fs::minor(device) })
    }

    /// The name in the cache of rates.
    pub(crate) fn key(self) -> String {
        format!("{}:{}", self.major, self.minor)
    }

    /// Whether its platters turn; `None` where the system does not say, or says so of any virtual drive.
    pub(crate) fn rotates(self) -> Option<bool> {
        let block = Path::new("/sys/dev/block").join(self.key());
        let name = fs::canonicalize(&block).ok()?.file_name()?.to_string_lossy().into_owned();
        if ["vd", "xvd"].iter().any(|guest| name.starts_with(guest)) {
            return None;
        }
        // A partition keeps its queue in the folder of the whole drive.
        let queue = [block.join("queue/rotational"), block.join("../queue/rotational")];
        let text = queue.iter().find_map(|path| fs::read_to_string(path).ok())?;
        Some(text.trim() == "1")
    }
}

/// Processors that this process may run on.
pub(crate) fn allowed_processors() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
        Err(_) => (0..std::thread::available_parallelism().map_or(1, usize::from)).collect(),
    }
}

/// Distinct pairs of package and core among `processors`; a processor that names none counts as a core.
fn physical_cores(sys: &Path, processors: &[usize]) -> u32 {
    let part = |cpu: usize, file: &str| fs::read_to_string(sys.join(format!("cpu{cpu}/topology/{file}"))).ok();
    let cores: BTreeSet<_> = processors
        .iter()
        .map(|&cpu| match (part(cpu, "physical_package_id"), part(cpu, "core_id")) {
            (Some(package), Some(core)) => (package, core),
            _ => (String::new(), cpu.to_string()),
        })
        .collect();
    cores.len().max(1) as u32
}

/// A quota below the cores leaves as many threads as it can keep busy, at least one.
fn within_quota(cores: u32, processors: Option<f64>) -> u32 {
    processors.map_or(cores, |quota| cores.min(quota.floor().max(1.0) as u32))
}

/// The value of a line `Name:   123 kB`, or zero.
fn kib_line(text: &str, name: &str) -> Bytes {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    Bytes(kib.unwrap_or(0).saturating_mul(1024))
}

/// The value of the first line `name : value`.
fn colon_line<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_one_core_count_once() {
        let sys = tempfile::tempdir().expect("a folder");
        for (cpu, package, core) in [(0, 0, 0), (1, 0, 1), (2, 0, 0), (3, 0, 1), (4, 1, 0)] {
            let folder = sys.path().join(format!("cpu{cpu}/topology"));
            fs::create_dir_all(&folder).expect("folders");
            fs::write(folder.join("physical_package_id"), package.to_string()).expect("a file");
            fs::write(folder.join("core_id"), core.to_string()).expect("a file");
        }
        for (processors, cores) in [(&[0, 1, 2, 3, 4][..], 3), (&[0, 2], 1), (&[1, 4], 2), (&[7, 8], 2), (&[], 1)] {
            assert_eq!(physical_cores(sys.path(), processors), cores, "{processors:?}");
        }
    }

    #[test]
    fn a_quota_lowers_the_cores_but_leaves_one() {
        for (cores, quota, left) in [(8, None, 8), (8, Some(2.5), 2), (8, Some(0.3), 1), (2, Some(16.0), 2)] {
            assert_eq!(within_quota(cores, quota), left, "{cores} {quota:?}");
        }
    }

    #[test]
    fn lines_of_proc_are_read_by_name() {
        let text = "VmPeak:\t 9 kB\nVmRSS:\t  12 kB\nmodel name\t: A CPU\n";
        assert_eq!(kib_line(text, "VmRSS:"), Bytes(12 * 1024));
        assert_eq!(kib_line(text, "VmHWM:"), Bytes::ZERO);
        assert_eq!(colon_line(text, "model name"), Some("A CPU"));
    }

    #[test]
    fn this_process_is_resident() {
        let now = resident();
        assert!(now.current > Bytes(100_000) && now.peak >= now.current, "{now:?}");
    }
}
