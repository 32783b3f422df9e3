//! Limits that control groups put on this process: memory and processor time, versions 1 and 2.
//!
//! Owns the way from `/proc/self/cgroup` and `/proc/self/mountinfo` to the files that hold limits. Must never know what
//! a limit is used for.

use std::fs;
use std::path::{Path, PathBuf};

use plan::Bytes;

/// What the groups of this process, and all groups above them, allow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Limits {
    /// The lowest memory limit on the way to the root.
    pub(crate) memory: Option<Bytes>,
    /// The least that any limited group has left, counting page cache that the kernel can drop as left.
    pub(crate) memory_left: Option<Bytes>,
    /// Processors' worth of time, such as 1.5.
    pub(crate) processors: Option<f64>,
}

impl Limits {
    /// Reads the limits of this process, `root` being the file system's root (another folder in tests). What cannot
    /// be read is no limit: a machine without control groups is an ordinary machine.
    pub(crate) fn read(root: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let groups = read("proc/self/cgroup");
        let mounts = read("proc/self/mountinfo");
        let mut limits = Self::default();
        for mount in mounts.lines().filter_map(Mount::parse) {
            if let Some(group) = mount.group(&groups) {
                for folder in folders(root, &mount, &group) {
                    limits.tighten(&folder, mount.version_2);
                }
            }
        }
        limits
    }

    fn tighten(&mut self, folder: &Path, version_2: bool) {
        let (limit_files, usage_file): (&[&str], _) =
            if version_2 { (&["memory.max", "memory.high"], "memory.current") } else { V1_MEMORY };
        let limit = limit_files.iter().filter_map(|file| number(&folder.join(file))).min();
        if let Some(limit) = limit.filter(|limit| *limit < NO_LIMIT) {
            let usage = number(&folder.join(usage_file)).unwrap_or(0);
            let held = usage.saturating_sub(droppable(&folder.join("memory.stat"), version_2));
            lower(&mut self.memory, Bytes(limit));
            lower(&mut self.memory_left, Bytes(limit.saturating_sub(held)));
        }
        if let Some(processors) = quota(folder, version_2) {
            lower(&mut self.processors, processors);
        }
    }
}

const V1_MEMORY: (&[&str], &str) = (&["memory.limit_in_bytes"], "memory.usage_in_bytes");

/// Version 1 writes the largest page-aligned `i64` for "no limit"; no machine has 2^60 bytes.
const NO_LIMIT: u64 = 1 << 60;

fn lower<T: PartialOrd + Copy>(slot: &mut Option<T>, value: T) {
    if slot.is_none_or(|old| value < old) {
        *slot = Some(value);
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Page cache of a group: the kernel drops it before it refuses memory. Pages of tmpfs are not counted by these
/// two lines, and are not droppable.
fn droppable(stat: &Path, version_2: bool) -> u64 {
    let keys = if version_2 { ["active_file", "inactive_file"] } else { ["total_active_file", "total_inactive_file"] };
    let text = fs::read_to_string(stat).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(key, _)| keys.contains(key))
        .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
        .sum()
}

/// Processor time per period, as processors.
fn quota(folder: &Path, version_2: bool) -> Option<f64> {
    let (quota, period) = if version_2 {
        let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
        let (quota, period) = text.trim().split_once(' ')?;
        (quota.parse().ok()?, period.parse().ok()?)
    } else {
        let quota = fs::read_to_string(folder.join("cpu.cfs_quota_us")).ok()?.trim().parse::<i64>().ok()?;
        // Version 1 says -1 for "no quota".
        (u64::try_from(quota).ok()?, number(&folder.join("cpu.cfs_period_us"))?)
    };
    (period > 0).then(|| quota as f64 / period as f64)
}

/// A mounted hierarchy of control groups.
struct Mount {
    /// The group that shows at the mount point: `/` unless a container mounts its own group only.
    root: String,
    point: String,
    version_2: bool,
    /// Version 1: the controllers of this hierarchy.
    controllers: Vec<String>,
}

impl Mount {
    /// Reads one line of mountinfo: `id parent device root point options [tags] - type source super_options`.
    fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?.to_owned(), left.next()?.to_owned());
        let mut right = right.split(' ');
        let version_2 = match right.next()? {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        let controllers = right.nth(1)?.split(',').map(str::to_owned).collect();
        Some(Self { root, point, version_2, controllers })
    }

    /// This process's group in this hierarchy, from lines `number:controllers:path`.
    fn group(&self, groups: &str) -> Option<String> {
        groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let ours = if self.version_2 {
                number == "0" && controllers.is_empty()
            } else {
                !controllers.is_empty() && controllers.split(',').all(|name| self.controllers.iter().any(|c| c == name))
            };
            ours.then(|| path.to_owned())
        })
    }
}

/// The group's folder and those above it, up to the mount point.
fn folders(root: &Path, mount: &Mount, group: &str) -> Vec<PathBuf> {
    let point = root.join(mount.point.trim_start_matches('/'));
    // Inside a container the mount may show only a part of the hierarchy, and the path may name the whole.
    let below = group.strip_prefix(mount.root.as_str()).unwrap_or(group).trim_start_matches('/');
    let mut folders = vec![point.clone()];
    let mut folder = point;
    for part in below.split('/').filter(|part| !part.is_empty() && *part != "..") {
        folder.push(part);
        folders.push(folder.clone());
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Writes the files of a made-up machine, reads its limits.
    fn limits(files: &[(&str, &str)]) -> Limits {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            fs::write(path, text).expect("a file");
        }
        Limits::read(root.path())
    }

    #[test]
    fn a_machine_without_groups_has_no_limits() {
        assert_eq!(limits(&[]), Limits::default());
    }

    #[test]
    fn version_2_takes_the_tightest_of_the_whole_path_and_counts_page_cache_as_left() {
        let found = limits(&[
            ("proc/self/cgroup", "0::/outer/inner\n"),
            ("proc/self/mountinfo", "40 30 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            ("sys/fs/cgroup/outer/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/outer/memory.current", "943718400\n"),
            ("sys/fs/cgroup/outer/memory.stat", "anon 1\nactive_file 104857600\ninactive_file 104857600\n"),
            ("sys/fs/cgroup/outer/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/outer/inner/memory.max", "max\n"),
            ("sys/fs/cgroup/outer/inner/cpu.max", "max 100000\n"),
        ]);
        assert_eq!(found.memory, Some(Bytes(1024 * MIB)));
        assert_eq!(found.memory_left, Some(Bytes((1024 - 900 + 200) * MIB)));
        assert_eq!(found.processors, Some(1.5));
    }

    #[test]
    fn version_1_reads_its_own_names_and_ignores_the_mark_for_no_limit() {
        let found = limits(&[
            ("proc/self/cgroup", "4:memory:/box\n1:cpu,cpuacct:/box\n0::/\n"),
            (
                "proc/self/mountinfo",
                "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                 32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "536870912\n"),
            ("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "209715200\n"),
            ("sys/fs/cgroup/memory/box/memory.stat", "total_inactive_file 104857600\ntotal_active_file 0\n"),
            ("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(found.memory, Some(Bytes(512 * MIB)));
        assert_eq!(found.memory_left, Some(Bytes(412 * MIB)));
        assert_eq!(found.processors, None);
    }

    #[test]
    fn a_container_that_mounts_only_its_group_is_understood() {
        let found = limits(&[
            ("proc/self/cgroup", "0::/docker/abc\n"),
            ("proc/self/mountinfo", "40 30 0:30 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            ("sys/fs/cgroup/memory.max", "1048576\n"),
        ]);
        assert_eq!(found.memory, Some(Bytes(MIB)));
    }
}
