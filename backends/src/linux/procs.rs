//! How many threads of this process can run at the same time.
//!
//! Source: sched_getaffinity(2); cgroups(7); Linux `Documentation/admin-guide/cgroup-v2.rst`,
//! `cpu.max`; Go `src/internal/runtime/cgroup`.

#![allow(unsafe_code, reason = "sched_getaffinity")]

use super::{check, read_file};
use core::str;

/// A quota never leaves fewer Ps than this, as in Go. With one P, a long computation stops
/// everything else until it is preempted; and a quota is an average over time, which two threads
/// can share.
const PROCS_UNDER_QUOTA_MIN: usize = 2;

/// Where control group hierarchies are mounted. Version 1 has one for each controller.
const V2_MOUNT: &str = "/sys/fs/cgroup";
const V1_CPU_MOUNT: &str = "/sys/fs/cgroup/cpu";

/// The CPUs that the calling thread may use, limited by the CPU quota of the process's control
/// group. At least 1.
///
/// The quota is the smallest one of cgroup version 1 or 2 on the way up the hierarchy, rounded up
/// to whole CPUs. As in Go, it limits to 2 at least.
#[doc(alias = "GOMAXPROCS")]
pub fn available_procs() -> usize {
    let mut buffer = [0; 4096];
    let quota = read_file(format_args!("/proc/self/cgroup"), &mut buffer)
        .and_then(|text| quota(str::from_utf8(text).ok()?));
    limited(affinity(), quota)
}

fn limited(cpus: usize, quota: Option<usize>) -> usize {
    cpus.min(quota.map_or(cpus, |quota| quota.max(PROCS_UNDER_QUOTA_MIN)))
}

/// The CPUs that the calling thread may use, without regard to any quota. At least 1.
#[doc(alias = "sched_getaffinity")]
pub fn affinity() -> usize {
    // Bits for 8192 CPUs, the most that a kernel can be built for (Linux `arch/x86/Kconfig`,
    // NR_CPUS). libc's `cpu_set_t` has 1024.
    let mut mask = [0u8; 1024];
    // SAFETY: the kernel writes at most the length of `mask`. Thread 0 is the caller.
    let written = check(unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            0,
            mask.len(),
            mask.as_mut_ptr(),
        )
    } as isize);
    let cpus: u32 = mask
        .iter()
        .take(written.unwrap_or(0))
        .map(|byte| byte.count_ones())
        .sum();
    (cpus as usize).max(1)
}

/// The smallest quota of the groups that `membership` names. `membership` is the text of
/// `/proc/self/cgroup`, with `id:controllers:path` in each line (cgroups(7)).
fn quota(membership: &str) -> Option<usize> {
    let groups = membership.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        if controllers.is_empty() {
            smallest_upwards(V2_MOUNT, path, v2_quota)
        } else if controllers.split(',').any(|controller| controller == "cpu") {
            smallest_upwards(V1_CPU_MOUNT, path, v1_quota)
        } else {
            None
        }
    });
    groups.min()
}

/// The smallest quota of `path` and its parents.
///
/// In a container `path` may exist on the host only. Such directories have no files here, and the
/// walk ends at the mount, which is the container's own group.
fn smallest_upwards(
    mount: &str,
    path: &str,
    quota: fn(&str, &str) -> Option<usize>,
) -> Option<usize> {
    let parents = core::iter::successors(Some(path), |path| {
        path.rsplit_once('/').map(|(parent, _)| parent)
    });
    parents.filter_map(|path| quota(mount, path)).min()
}

/// `cpu.max` holds "quota period" in microseconds, or "max period".
fn v2_quota(mount: &str, group: &str) -> Option<usize> {
    let mut buffer = [0; 64];
    let text = read_group_file(mount, group, "cpu.max", &mut buffer)?;
    let (quota, period) = text.split_once(' ')?;
    cpus(quota, period)
}

/// The quota is -1 if there is none.
fn v1_quota(mount: &str, group: &str) -> Option<usize> {
    let (mut quota, mut period) = ([0; 32], [0; 32]);
    let quota = read_group_file(mount, group, "cpu.cfs_quota_us", &mut quota)?;
    let period = read_group_file(mount, group, "cpu.cfs_period_us", &mut period)?;
    cpus(quota, period)
}

fn cpus(quota: &str, period: &str) -> Option<usize> {
    let (quota, period) = (quota.parse::<usize>().ok()?, period.parse::<usize>().ok()?);
    (period != 0).then(|| quota.div_ceil(period))
}

fn read_group_file<'a>(
    mount: &str,
    group: &str,
    file: &str,
    buffer: &'a mut [u8],
) -> Option<&'a str> {
    Some(
        str::from_utf8(read_file(format_args!("{mount}{group}/{file}"), buffer)?)
            .ok()?
            .trim_end(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::{env, fs, thread};

    #[test]
    fn a_quota_never_limits_below_two() {
        let limited = [
            (8, None),
            (8, Some(3)),
            (8, Some(1)),
            (8, Some(9)),
            (1, Some(1)),
        ]
        .map(|(cpus, quota)| limited(cpus, quota));
        assert_eq!(limited, [8, 3, 2, 8, 1]);
    }

    #[test]
    fn a_thread_bound_to_one_cpu_has_one() {
        thread::spawn(|| {
            // SAFETY: all zeroes is an empty set, and both calls stay inside it.
            unsafe {
                let mut set: libc::cpu_set_t = core::mem::zeroed();
                libc::CPU_SET(libc::sched_getcpu() as usize, &mut set);
                assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &set), 0);
            }
            assert_eq!(available_procs(), 1);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_affinity_mask_is_the_one_that_proc_shows() {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed:"))
            .unwrap();
        let cpus: u32 = mask
            .chars()
            .filter_map(|digit| digit.to_digit(16))
            .map(u32::count_ones)
            .sum();
        assert_eq!(affinity(), cpus as usize);
    }

    /// A directory tree with the given files, in place of a mounted hierarchy.
    fn hierarchy(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let mount = env::temp_dir().join(std::format!("gopark-{name}-{}", std::process::id()));
        for (path, text) in files {
            let path = mount.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        mount
    }

    #[test]
    fn the_smallest_quota_up_the_hierarchy_applies() {
        let files = [
            ("cpu.max", "max 100000\n"),
            ("a/cpu.max", "150000 100000\n"),
            ("a/b/cpu.max", "400000 100000\n"),
        ];
        let mount = hierarchy("v2", &files);
        let limit = |group| smallest_upwards(mount.to_str().unwrap(), group, v2_quota);
        assert_eq!(
            ["/", "/a", "/a/b", "/a/b/only/on/the/host"].map(limit),
            [None, Some(2), Some(2), Some(2)]
        );
        fs::remove_dir_all(&mount).unwrap();
    }

    #[test]
    fn version_1_has_quota_and_period_in_two_files() {
        let files = [
            ("cpu.cfs_quota_us", "-1\n"),
            ("a/cpu.cfs_quota_us", "250000\n"),
            ("a/cpu.cfs_period_us", "100000\n"),
        ];
        let mount = hierarchy("v1", &files);
        let limit = |group| smallest_upwards(mount.to_str().unwrap(), group, v1_quota);
        assert_eq!(["/", "/a"].map(limit), [None, Some(3)]);
        fs::remove_dir_all(&mount).unwrap();
    }

    #[test]
    fn a_membership_without_cpu_controller_is_no_quota() {
        assert_eq!(
            quota("4:memory:/no/such\n3:cpuset:/\n0::/no/such/group\nnonsense\n"),
            None
        );
    }
}
