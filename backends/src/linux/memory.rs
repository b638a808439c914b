//! Address space for stacks, and the guards between them.
//!
//! A reservation has no access, so `mlockall`, the commit limit and core dumps ignore it. The stack
//! arena opens it part by part with mprotect(2), each part beside the last, and the kernel merges
//! them into one mapping.
//!
//! A guard region (`MADV_GUARD_INSTALL`, Linux 6.13, madvise(2)) is a mark in the page table. The
//! mapping stays whole, so there may be millions of guards. On older kernels the fallback is
//! mprotect(2), where each guard splits its mapping in three. A process may have `vm.max_map_count`
//! mappings. When they are used up, `malloc`, thread creation and `dlopen` fail. So the fallback
//! stops before that, with `ENOMEM`.
//!
//! Some emulated kernels take madvise(2) for a hint: qemu's user emulation accepts any advice and
//! does nothing. So the first guard is verified.

#![allow(
    unsafe_code,
    reason = "mmap, madvise and mprotect of memory that this module mapped"
)]

use super::text::number;
use super::{check, read_file};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use gopark_core::os::Errno;

/// Copies this process's memory, from `start` on, as another process could (process_vm_readv(2)).
/// The program makes no access of its own, which would race with threads that write there. Returns
/// the number of bytes copied: 0 if a filter forbids the call.
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
    /// By guard regions, without a limit.
    #[doc(alias = "MADV_GUARD_INSTALL")]
    Lightweight,
    /// By pages without access. Each guard costs two mappings.
    Mprotect {
        /// The most guards there may be: seven eighths of `vm.max_map_count`, halved. The last
        /// eighth is left to the program.
        limit: usize,
    },
}

/// From `asm-generic/mman-common.h`; libc does not have it yet.
const MADV_GUARD_INSTALL: libc::c_int = 102;

/// Linux 5.14; musl's headers may lack it. It fails on a guard region.
const MADV_POPULATE_READ: libc::c_int = 23;

/// The kernel's default for `vm.max_map_count` (Linux `Documentation/admin-guide/sysctl/vm.rst`).
const MAX_MAP_COUNT: usize = 65530;

/// A guard and the memory behind it, which it splits off.
const MAPPINGS_PER_GUARD: usize = 2;

/// Whether the fallback is in use, and how much of it is used up.
pub(super) struct GuardState {
    /// The most guards that the fallback may install; zero while guard regions work. It changes
    /// once.
    limit: AtomicUsize,
    /// The number of guards that the fallback has installed.
    installed: AtomicUsize,
    /// Whether a guard region was found to fault.
    verified: AtomicBool,
}

impl GuardState {
    pub(super) const fn new() -> Self {
        GuardState {
            limit: AtomicUsize::new(0),
            installed: AtomicUsize::new(0),
            verified: AtomicBool::new(false),
        }
    }

    pub(super) fn kind(&self) -> Guards {
        match self.limit.load(Ordering::Relaxed) {
            0 => Guards::Lightweight,
            limit => Guards::Mprotect { limit },
        }
    }

    /// Makes `len` bytes from `start` on fault at every access. `ENOMEM` once the fallback's limit
    /// is reached.
    pub(super) fn install(&self, start: NonNull<u8>, len: usize) -> Result<(), Errno> {
        if self.kind() == Guards::Lightweight {
            let advise = |advice: libc::c_int| {
                // SAFETY: the range lies in a reservation whose owner gives up access to it.
                let done = unsafe { libc::syscall(libc::SYS_madvise, start.as_ptr(), len, advice) };
                check(done as isize)
            };
            match advise(MADV_GUARD_INSTALL) {
                Ok(_) if self.verified.load(Ordering::Relaxed) => return Ok(()),
                Ok(_) if advise(MADV_POPULATE_READ).is_err() => {
                    self.verified.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                // `EINVAL` also for locked memory, which cannot have guard regions (madvise(2)).
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

/// At least 1, since zero in [`GuardState::limit`] means that guard regions work.
fn guards_max(max_map_count: usize) -> usize {
    ((max_map_count - max_map_count / 8) / MAPPINGS_PER_GUARD).max(1)
}

fn max_map_count() -> usize {
    let mut buffer = [0; 32];
    read_file(format_args!("/proc/sys/vm/max_map_count"), &mut buffer)
        .and_then(number)
        .map_or(MAX_MAP_COUNT, |count| count as usize)
}

/// Reserves `len` bytes without access: they count against the limit of address space and no other,
/// and nothing populates them. Huge pages are off, because the first touch of a stack would commit
/// two megabytes.
pub(super) fn reserve(len: usize) -> Result<NonNull<u8>, Errno> {
    let start = map(len)?;
    for advice in [libc::MADV_NOHUGEPAGE, libc::MADV_DONTDUMP] {
        // MAP_STACK implies the first since Linux 6.7. It fails on a kernel without huge pages,
        // which is harmless. Without the second, tools that write core dumps read the whole range.
        // SAFETY: the range was mapped above, and the advice does not change its contents.
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
    // mmap(2) returns address zero only if it is asked for.
    NonNull::new(start.cast()).ok_or(Errno::new(libc::ENOMEM))
}

/// Gives access to a part of a reservation. The part then has the access and advice of its open
/// neighbour, so the kernel merges both into one mapping.
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

/// The limit of the address space: RLIMIT_AS, and RLIMIT_MEMLOCK if each new mapping is locked
/// (`mlockall` with MCL_FUTURE). The kernel does not say whether that is so, but refuses a mapping
/// beyond RLIMIT_MEMLOCK with `EAGAIN` (mmap(2)).
pub(super) fn address_space() -> usize {
    let all = limit(libc::RLIMIT_AS as libc::c_int);
    let locked = limit(libc::RLIMIT_MEMLOCK as libc::c_int);
    if locked >= all {
        return all;
    }
    // Bytes. The largest page size of the supported architectures: the probe exceeds the limit by
    // at least one page, whatever the page size is.
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

/// The soft limit of this process for `resource`; `usize::MAX` if there is none.
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

/// Bytes of a range that are resident, in whole pages (mincore(2)). `None` if the kernel does not
/// say.
pub(super) fn resident(start: NonNull<u8>, len: usize) -> Option<usize> {
    // SAFETY: no memory is passed.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    // One byte for each page. A goroutine's stack has room for this array.
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
    use core::ops::Range;
    use gopark_core::os::Outcome;
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::string::String;

    const PAGE: usize = 4096;

    /// Whether the kernel can read the byte: it answers `EFAULT` where an access would be a
    /// SIGSEGV.
    fn is_readable(address: NonNull<u8>) -> bool {
        let (_reader, writer) = pipe();
        // SAFETY: the slice stays inside the call, and only the kernel reads its byte.
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
    fn a_failed_guard_does_not_count_against_the_limit() {
        let state = fallback(1);
        assert!(state.install(NonNull::dangling(), PAGE).is_err());
        let [_, guard, ..] = pages(3);
        assert_eq!(state.install(guard, PAGE), Ok(()));
    }

    #[test]
    fn locked_memory_is_guarded_by_the_fallback() {
        let state = GuardState::new();
        let [_, guard, ..] = pages(3);
        // Not libc's `mlock`, which sanitizers turn into a no-op.
        // SAFETY: the page is reserved.
        let locked = unsafe { libc::syscall(libc::SYS_mlock, guard.as_ptr(), PAGE) };
        assert_eq!(locked, 0);
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

    /// The mapping that contains `address`, and its flags, from `/proc/self/smaps`.
    fn mapping_of(address: NonNull<u8>) -> (Range<usize>, String) {
        let bounds = |line: &str| {
            let (from, to) = line.split(' ').next()?.split_once('-')?;
            let [from, to] = [from, to].map(|address| usize::from_str_radix(address, 16).ok());
            Some(from?..to?)
        };
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps.lines();
        let mapping = lines
            .by_ref()
            .filter_map(bounds)
            .find(|mapping| mapping.contains(&address.as_ptr().addr()))
            .unwrap();
        let flags = lines.find(|line| line.starts_with("VmFlags:")).unwrap();
        (mapping, flags.into())
    }

    #[test]
    fn reserved_memory_has_no_access_and_opened_memory_is_zeroed_without_huge_pages() {
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
        let opened = unsafe { core::slice::from_raw_parts(start.as_ptr(), LEN) };
        assert!(opened.iter().all(|&byte| byte == 0));
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
    fn adjacent_opened_parts_form_one_mapping_even_when_used_and_guarded() {
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
        // It may have merged with a neighbour of another test.
        // SAFETY: inside the reservation.
        let mapping = mapping_of(unsafe { start.add(PAGE) }).0;
        let last = start.as_ptr().addr() + 63 * PART + PAGE;
        assert!(
            mapping.contains(&last) || state.kind() != Guards::Lightweight,
            "{mapping:x?}"
        );
    }

    #[test]
    fn opening_a_range_twice_keeps_its_contents() {
        let start = memory(2 * PAGE);
        // SAFETY: opened above.
        unsafe { start.write(7) };
        open(start, 2 * PAGE).unwrap();
        // SAFETY: opened above.
        assert_eq!(unsafe { start.read() }, 7);
    }

    #[test]
    fn the_address_space_is_its_limit_or_that_of_locked_memory() {
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
        // More pages than one `mincore` reports.
        const LEN: usize = 3000 * PAGE;
        let start = memory(LEN);
        assert_eq!(resident(start, LEN), Some(0));
        // SAFETY: reserved above, and not in use.
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
