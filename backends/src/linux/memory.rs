//! Address space for stacks, and the guards between them.
//!
//! A reservation has no access, so that neither `mlockall` nor the commit limit nor a core dump
//! counts it; parts are opened (`mprotect`) as they are needed, each beside the last, and become
//! one mapping.
//!
//! A guard region (`MADV_GUARD_INSTALL`, Linux 6.13) is a mark in the page table: the mapping stays whole, and there may be millions.
//! A kernel without it leaves `mprotect`, where a guard splits its mapping in three. A process may have `vm.max_map_count` mappings, and
//! one that has them all fails in odd places: `malloc`, thread stacks, `dlopen`. So the fallback stops before, and says so.
//!
//! Advice is a hint to some that stand in for a kernel: qemu's user emulation says yes to what it does not know, and does nothing. So the first
//! guard is tried.

#![allow(
    unsafe_code,
    reason = "mmap, madvise and mprotect of memory that this module mapped"
)]

use super::text::number;
use super::{check, read_file};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use gopark_core::os::Errno;

/// Copies this process's memory from `start` on, as another process could: no access of this program's own, which would race with threads that
/// write there. None if a filter forbids the system call.
pub(super) fn copy(start: usize, to: &mut [u8]) -> usize {
    let local = libc::iovec {
        iov_base: to.as_mut_ptr().cast(),
        iov_len: to.len(),
    };
    let remote = libc::iovec {
        iov_base: ptr::with_exposed_provenance_mut(start),
        iov_len: to.len(),
    };
    // SAFETY: `local` describes a borrowed slice; the kernel checks the remote range itself.
    check(unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) }).unwrap_or(0)
}

/// How the stacks of this process are guarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guards {
    /// By guard regions, of which there is no limit.
    #[doc(alias = "MADV_GUARD_INSTALL")]
    Lightweight,
    /// By pages without access, each of which costs two mappings.
    Mprotect {
        /// How many guards there may be: seven eighths of `vm.max_map_count`, halved. The last eighth is the program's own.
        limit: usize,
    },
}

/// Advice 102; libc does not have it yet.
const MADV_GUARD_INSTALL: libc::c_int = 102;

/// Advice 23, in Linux since 5.14, which musl's headers may be without. Where there is a guard it is refused.
const MADV_POPULATE_READ: libc::c_int = 23;

/// The kernel's default for `vm.max_map_count`.
const MAX_MAP_COUNT: usize = 65530;

/// A guard and the memory behind it, split from the memory before.
const MAPPINGS_PER_GUARD: usize = 2;

/// Whether the fallback is in use, and what it has spent.
pub(super) struct GuardState {
    /// How many guards the fallback may install; zero while guard regions work. It leaves zero once, for good.
    limit: AtomicUsize,
    /// How many it has installed.
    installed: AtomicUsize,
    /// Whether a guard region was found to be one.
    tried: AtomicBool,
}

impl GuardState {
    pub(super) const fn new() -> Self {
        GuardState {
            limit: AtomicUsize::new(0),
            installed: AtomicUsize::new(0),
            tried: AtomicBool::new(false),
        }
    }

    pub(super) fn kind(&self) -> Guards {
        match self.limit.load(Ordering::Relaxed) {
            0 => Guards::Lightweight,
            limit => Guards::Mprotect { limit },
        }
    }

    /// Fails with `ENOMEM` once the fallback's limit is reached.
    pub(super) fn install(&self, start: NonNull<u8>, len: usize) -> Result<(), Errno> {
        if self.kind() == Guards::Lightweight {
            // SAFETY: the range lies in a reservation whose owner gives up access to it.
            let advise = |advice: libc::c_int| {
                check(
                    unsafe { libc::syscall(libc::SYS_madvise, start.as_ptr(), len, advice) }
                        as isize,
                )
            };
            match advise(MADV_GUARD_INSTALL) {
                Ok(_) if self.tried.load(Ordering::Relaxed) => return Ok(()),
                Ok(_) if advise(MADV_POPULATE_READ).is_err() => {
                    self.tried.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                // EINVAL also for a mapping that cannot have guard regions, as all those of a process that locks its memory.
                Err(errno) if errno.raw() != libc::EINVAL => return Err(errno),
                _ => self
                    .limit
                    .store(guards_max(max_map_count()), Ordering::Relaxed),
            }
        }
        self.install_by_mprotect(start, len)
    }

    fn install_by_mprotect(&self, start: NonNull<u8>, len: usize) -> Result<(), Errno> {
        let protected = if self.installed.fetch_add(1, Ordering::Relaxed)
            < self.limit.load(Ordering::Relaxed)
        {
            // SAFETY: the range lies in a reservation whose owner gives up access to it.
            check(
                unsafe { libc::syscall(libc::SYS_mprotect, start.as_ptr(), len, libc::PROT_NONE) }
                    as isize,
            )
        } else {
            Err(Errno::new(libc::ENOMEM))
        };
        if protected.is_err() {
            self.installed.fetch_sub(1, Ordering::Relaxed);
        }
        protected.map(drop)
    }
}

/// At least one, since zero means that there is no limit.
fn guards_max(max_map_count: usize) -> usize {
    ((max_map_count - max_map_count / 8) / MAPPINGS_PER_GUARD).max(1)
}

fn max_map_count() -> usize {
    let mut buffer = [0; 32];
    read_file(format_args!("/proc/sys/vm/max_map_count"), &mut buffer)
        .and_then(number)
        .map_or(MAX_MAP_COUNT, |count| count as usize)
}

/// A mapping without access: it counts against the limit of address space and no other, and nothing
/// populates it. A huge page would commit two megabytes for the first touch of a stack.
pub(super) fn reserve(len: usize) -> Result<NonNull<u8>, Errno> {
    let start = map(len)?;
    for advice in [libc::MADV_NOHUGEPAGE, libc::MADV_DONTDUMP] {
        // MAP_STACK says the first since Linux 6.7, and it fails on a kernel without huge pages,
        // which does not make any. Without the second, tools that write core dumps look through the
        // whole range. SAFETY: the range was mapped above, and the advice does not change its
        // contents.
        unsafe { libc::syscall(libc::SYS_madvise, start.as_ptr(), len, advice) };
    }
    Ok(start)
}

fn map(len: usize) -> Result<NonNull<u8>, Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
    // SAFETY: the kernel chooses a free range, so no memory in use is touched.
    let start = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(super::errno());
    }
    // Page zero it maps only for those who ask.
    NonNull::new(start.cast()).ok_or(Errno::new(libc::ENOMEM))
}

/// Gives access to a part of a reservation. With access and advice as its open neighbour has them,
/// it becomes one mapping with that.
pub(super) fn open(start: NonNull<u8>, len: usize) -> Result<(), Errno> {
    // SAFETY: the range lies in a reservation, which code reaches through its owner only.
    check(unsafe {
        libc::syscall(
            libc::SYS_mprotect,
            start.as_ptr(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
        )
    } as isize)?;
    // SAFETY: the advice does not change the contents.
    unsafe { libc::syscall(libc::SYS_madvise, start.as_ptr(), len, libc::MADV_DODUMP) };
    Ok(())
}

/// The limit of the address space: RLIMIT_AS, and if all that is mapped is also locked (`mlockall`
/// with MCL_FUTURE), RLIMIT_MEMLOCK. The kernel does not say whether it is, but refuses a mapping
/// beyond the limit with EAGAIN.
pub(super) fn address_space() -> usize {
    let all = limit(libc::RLIMIT_AS as libc::c_int);
    let locked = limit(libc::RLIMIT_MEMLOCK as libc::c_int);
    if locked >= all {
        return all;
    }
    // Half of the numbers is more address space than there is. A page more than the limit, or a few
    // where pages are small.
    const PAGE_MAX: usize = 64 << 10;
    match map(locked.next_multiple_of(PAGE_MAX).saturating_add(PAGE_MAX)) {
        Err(errno) if errno.raw() == libc::EAGAIN => locked,
        Err(_) => all,
        Ok(start) => {
            // SAFETY: mapped above, and nothing uses it.
            unsafe {
                libc::syscall(
                    libc::SYS_munmap,
                    start.as_ptr(),
                    locked.next_multiple_of(PAGE_MAX).saturating_add(PAGE_MAX),
                )
            };
            all
        }
    }
}

/// A limit of this process; `usize::MAX` if there is none.
fn limit(resource: libc::c_int) -> usize {
    let mut limit = [u64::MAX; 2];
    // SAFETY: the structure is two numbers of 64 bits on every architecture, and is writable.
    unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            ptr::null::<u64>(),
            limit.as_mut_ptr(),
        )
    };
    usize::try_from(limit[0]).unwrap_or(usize::MAX)
}

/// Bytes of a reservation that have memory behind them, whole pages. `None` if the kernel does not say.
pub(super) fn resident(start: NonNull<u8>, len: usize) -> Option<usize> {
    // SAFETY: no memory is passed.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    // One byte for each page. A goroutine's stack has room for it.
    let mut pages = [0u8; 1024];
    let batch = pages.len() * page;
    let mut resident = 0;
    for from in (0..len).step_by(batch) {
        let bytes = batch.min(len - from);
        // SAFETY: `pages` has a byte for each page of the range, which is only looked up.
        check(unsafe {
            libc::mincore(
                start.as_ptr().wrapping_add(from).cast(),
                bytes,
                pages.as_mut_ptr(),
            )
        } as isize)
        .ok()?;
        resident += pages[..bytes.div_ceil(page)]
            .iter()
            .filter(|&&page| page & 1 != 0)
            .count()
            * page;
    }
    Some(resident)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::io;
    use crate::linux::tests::{in_child, pipe};
    use gopark_core::os::Outcome;
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::string::String;

    const PAGE: usize = 4096;

    /// The kernel answers `EFAULT` where an access of our own would be a SIGSEGV.
    fn is_readable(address: NonNull<u8>) -> bool {
        let (_reader, writer) = pipe();
        // SAFETY: the slice never leaves the call, and only the kernel looks at its byte.
        let byte = unsafe { core::slice::from_raw_parts(address.as_ptr(), 1) };
        match io::write(crate::linux::tests::lend(writer.as_raw_fd()), byte) {
            Outcome::Done(1) => true,
            Outcome::Failed(errno) if errno.raw() == libc::EFAULT => false,
            outcome => panic!("{outcome:?}"),
        }
    }

    /// A state in which the kernel has refused guard regions.
    fn fallback(limit: usize) -> GuardState {
        GuardState {
            limit: AtomicUsize::new(limit),
            ..GuardState::new()
        }
    }

    /// Zeroed memory.
    fn memory(len: usize) -> NonNull<u8> {
        let start = reserve(len).unwrap();
        open(start, len).unwrap();
        start
    }

    fn pages(count: usize) -> [NonNull<u8>; 8] {
        let start = memory(count * PAGE);
        // SAFETY: inside the reservation.
        core::array::from_fn(|page| unsafe { start.add(page.min(count - 1) * PAGE) })
    }

    #[test]
    fn a_guard_faults_and_its_neighbours_do_not() {
        for state in [GuardState::new(), fallback(1)] {
            let [before, guard, after, ..] = pages(3);
            state.install(guard, PAGE).unwrap();
            assert_eq!(
                [before, guard, after].map(is_readable),
                [true, false, true],
                "{:?}",
                state.kind()
            );
        }
    }

    #[test]
    fn the_fallback_stops_at_its_limit() {
        let state = fallback(2);
        let [_, first, _, second, _, third, ..] = pages(7);
        assert_eq!(state.install(first, PAGE), Ok(()));
        assert_eq!(state.install(second, PAGE), Ok(()));
        for _ in 0..2 {
            assert_eq!(state.install(third, PAGE), Err(Errno::new(libc::ENOMEM)));
        }
        assert!(is_readable(third));
    }

    #[test]
    fn a_guard_that_failed_costs_nothing() {
        let state = fallback(1);
        assert!(state.install(NonNull::dangling(), PAGE).is_err());
        let [_, guard, ..] = pages(3);
        assert_eq!(state.install(guard, PAGE), Ok(()));
    }

    #[test]
    fn locked_memory_is_guarded_by_the_fallback() {
        let state = GuardState::new();
        let [_, guard, ..] = pages(3);
        // Not by libc's `mlock`, which does nothing in a program with a sanitizer.
        // SAFETY: the page is reserved.
        assert_eq!(
            unsafe { libc::syscall(libc::SYS_mlock, guard.as_ptr(), PAGE) },
            0
        );
        state.install(guard, PAGE).unwrap();
        assert!(!is_readable(guard));
        assert_eq!(
            state.kind(),
            Guards::Mprotect {
                limit: guards_max(max_map_count())
            }
        );
    }

    #[test]
    fn an_eighth_of_the_mappings_is_left_to_the_program() {
        assert_eq!(guards_max(65530), 28669);
        assert_eq!(guards_max(0), 1);
        let sysctl = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
        assert_eq!(max_map_count(), sysctl.trim().parse().unwrap());
    }

    /// What the kernel says of the mapping that `address` lies in: its bounds and access, and its
    /// flags.
    fn mapping_of(address: NonNull<u8>) -> (String, String) {
        let address = address.as_ptr().addr();
        let holds_it = |line: &&str| {
            let (from, to) = line.split(' ').next()?.split_once('-')?;
            let [from, to] = [from, to].map(|address| usize::from_str_radix(address, 16).ok());
            Some((from?..to?).contains(&address))
        };
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps
            .lines()
            .skip_while(|line| holds_it(line) != Some(true));
        let bounds = lines.next().unwrap().into();
        (
            bounds,
            lines
                .find(|line| line.starts_with("VmFlags:"))
                .unwrap()
                .into(),
        )
    }

    #[test]
    fn a_reservation_has_no_access_and_what_is_opened_is_zeroed_and_not_for_huge_pages() {
        const LEN: usize = 4 << 20;
        let start = reserve(2 * LEN).unwrap();
        assert!(!is_readable(start));
        let (_, flags) = mapping_of(start);
        assert!(
            flags.contains(" dd") && !flags.contains(" rd") && !flags.contains(" wr"),
            "{flags}"
        );
        open(start, LEN).unwrap();
        // SAFETY: opened above.
        assert!(
            unsafe { core::slice::from_raw_parts(start.as_ptr(), LEN) }
                .iter()
                .all(|&byte| byte == 0)
        );
        let (_, flags) = mapping_of(start);
        assert!(
            [" rd", " wr", " nh", " nr"]
                .iter()
                .all(|flag| flags.contains(flag))
                && !flags.contains(" dd"),
            "{flags}"
        );
        // SAFETY: inside the reservation.
        assert!(!is_readable(unsafe { start.add(LEN) }));
    }

    #[test]
    fn what_is_opened_in_turn_is_one_mapping_though_it_is_used_and_guarded() {
        const PART: usize = 8 * PAGE;
        let state = GuardState::new();
        let start = reserve(64 * PART).unwrap();
        for part in 0..64 {
            // SAFETY: inside the reservation.
            let part = unsafe { start.add(part * PART) };
            open(part, PART).unwrap();
            state.install(part, PAGE).unwrap();
            // SAFETY: opened above, and not the guard.
            unsafe { part.add(PAGE).write(1) };
        }
        // SAFETY: inside the reservation.
        let [first, last] =
            [0, 63].map(|part| mapping_of(unsafe { start.add(part * PART + PAGE) }).0);
        assert!(
            first == last || state.kind() != Guards::Lightweight,
            "{first}\n{last}"
        );
    }

    #[test]
    fn opening_again_keeps_what_is_there() {
        let start = memory(2 * PAGE);
        // SAFETY: opened above.
        unsafe { start.write(7) };
        open(start, 2 * PAGE).unwrap();
        // SAFETY: the same.
        assert_eq!(unsafe { start.read() }, 7);
    }

    #[test]
    fn the_address_space_is_what_its_limit_says_or_that_of_locked_memory() {
        fn set(resource: libc::__rlimit_resource_t, bytes: u64) {
            let limit = libc::rlimit {
                rlim_cur: bytes,
                rlim_max: bytes,
            };
            // SAFETY: the structure is read.
            assert_eq!(unsafe { libc::setrlimit(resource, &limit) }, 0);
        }
        let status = in_child(|| {
            set(libc::RLIMIT_MEMLOCK, 4 << 20);
            set(libc::RLIMIT_AS, 3 << 40);
            address_space() == 3 << 40
        });
        assert_eq!(status, 0);
        let status = in_child(|| {
            set(libc::RLIMIT_MEMLOCK, 4 << 20);
            // SAFETY: no memory is passed. Without privileges the limit counts.
            unsafe {
                libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534);
                libc::syscall(libc::SYS_mlockall, libc::MCL_FUTURE) == 0
                    && address_space() == 4 << 20
            }
        });
        assert_eq!(status, 0);
    }

    #[test]
    fn touched_pages_are_resident_and_guards_are_not() {
        // More than one look at the page table.
        const LEN: usize = 3000 * PAGE;
        let start = memory(LEN);
        assert_eq!(resident(start, LEN), Some(0));
        // SAFETY: reserved above, and nobody uses it.
        GuardState::new().install(start, PAGE).unwrap();
        for page in [1, 500, 2999] {
            // SAFETY: reserved above.
            unsafe { start.add(page * PAGE).write(1) };
        }
        assert_eq!(resident(start, LEN), Some(3 * PAGE));
        assert_eq!(resident(start, 2 * PAGE), Some(PAGE));
        assert_eq!(
            resident(
                NonNull::new(ptr::without_provenance_mut(PAGE)).unwrap(),
                PAGE
            ),
            None,
            "it is not mapped"
        );
    }

    #[test]
    fn more_than_the_address_space_is_refused() {
        assert_eq!(
            reserve(1 << (usize::BITS - 2)),
            Err(Errno::new(libc::ENOMEM))
        );
    }
}
