//! Instance: an epoll descriptor with its wake-up, and the wait in it. Both epoll pollers use it.
//!
//! Refused: a `timerfd` for delays below a millisecond. `epoll_pwait2` (Linux 5.11, epoll_wait(2))
//! takes nanoseconds and needs no second descriptor.

#![allow(unsafe_code, reason = "the epoll system calls")]

use crate::linux::{OwnedFd, check, retry_or_abort};
use crate::mask::Mask;
use crate::probe::probe;
use crate::wakeup::WakeUp;
use core::mem::MaybeUninit;
use core::ptr;
use core::slice;
use core::sync::atomic::{AtomicBool, Ordering};
use gopark_core::os::{Delay, EVENT_BATCH, Errno, Nanos};
use gopark_core::tagptr::TaggedPtr;

/// An epoll instance and the eventfd that wakes it.
///
/// `poll` and `wake` abort the process if the kernel refuses either descriptor. That happens when
/// other code has closed it; no descriptor would become ready again.
pub(crate) struct Instance {
    epfd: OwnedFd,
    /// Registered level-triggered under [`WAKEUP`]: every poll sees it until a waiting poll drains
    /// it.
    wakeup: WakeUp,
    /// The kernel (before 5.11) or a seccomp filter has refused `epoll_pwait2`.
    no_pwait2: AtomicBool,
}

/// The word of the wake-up descriptor. No token and no key is zero.
const WAKEUP: u64 = TaggedPtr::NULL.to_bits();

type Buffer = [MaybeUninit<libc::epoll_event>; EVENT_BATCH];

const INTERRUPTED: Errno = Errno::new(libc::EINTR);

impl Instance {
    pub(crate) fn new() -> Result<Self, Errno> {
        // SAFETY: no memory is passed.
        let epfd =
            OwnedFd(check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) } as isize)? as i32);
        let instance = Instance {
            epfd,
            wakeup: WakeUp::new()?,
            no_pwait2: AtomicBool::new(false),
        };
        instance.control(libc::EPOLL_CTL_ADD, instance.wakeup.fd(), Mask::IN, WAKEUP)?;
        Ok(instance)
    }

    /// Returns the error of the system if it refuses to wait in this instance: a seccomp filter may
    /// allow a program to create instances and not to wait in them. `epoll_pwait2` needs no probe,
    /// since `epoll_wait` replaces it.
    ///
    /// It does not call `wait`, so that the function of the hot path keeps one caller and is
    /// inlined.
    pub(crate) fn probe(&self) -> Result<(), Errno> {
        let mut event = MaybeUninit::<libc::epoll_event>::uninit();
        probe(format_args!("epoll_wait"), || {
            // SAFETY: `event` has room for one event.
            unsafe { self.epoll_wait(event.as_mut_ptr(), 1, 0) }
        })
    }

    /// Removes `fd`. The call fails only if `fd` is not registered, and then nothing is left to do.
    pub(crate) fn delete(&self, fd: i32) {
        // SAFETY: the kernel reads no event for a DEL.
        unsafe { libc::epoll_ctl(self.epfd.0, libc::EPOLL_CTL_DEL, fd, ptr::null_mut()) };
    }

    /// Adds or modifies `fd`. Either makes the kernel look at its readiness anew. `poll` reports
    /// `word`, which must not be zero.
    pub(crate) fn control(
        &self,
        operation: i32,
        fd: i32,
        interest: Mask,
        word: u64,
    ) -> Result<(), Errno> {
        let mut event = libc::epoll_event {
            events: interest.bits(),
            u64: word,
        };
        // SAFETY: `event` lives through the call, and the kernel copies it.
        check(unsafe { libc::epoll_ctl(self.epfd.0, operation, fd, &mut event) } as isize).map(drop)
    }

    /// Waits as [`Netpoll::poll`](gopark_core::os::Netpoll::poll) does, and passes each event to
    /// `report`: at most [`EVENT_BATCH`].
    pub(crate) fn poll(&self, delay: Delay, mut report: impl FnMut(u64, Mask)) {
        let mut buffer = [const { MaybeUninit::uninit() }; EVENT_BATCH];
        // `epoll_event` is packed on x86-64, so its fields are copied and not borrowed.
        for &libc::epoll_event {
            events: mask,
            u64: word,
        } in self.wait(delay, &mut buffer)
        {
            if word != WAKEUP {
                report(word, Mask::from_bits_retain(mask));
            } else {
                self.wakeup.consume(delay);
            }
        }
    }

    pub(crate) fn wake(&self) {
        self.wakeup.request();
    }

    /// Waits, and returns the events that the kernel wrote to the front of `buffer`.
    fn wait<'a>(&self, delay: Delay, buffer: &'a mut Buffer) -> &'a [libc::epoll_event] {
        let mut failures = 0;
        let count = loop {
            let waited = match delay {
                Delay::None => self.wait_millis(buffer, 0),
                Delay::Forever => self.wait_millis(buffer, -1),
                Delay::AtMost(limit) => self.wait_at_most(buffer, limit),
            };
            match (waited, delay) {
                (Ok(count), _) => break count,
                // The time left is not known here; the caller computes the delay anew.
                (Err(INTERRUPTED), Delay::AtMost(_)) => break 0,
                (Err(INTERRUPTED), _) => {}
                (Err(errno), _) => retry_or_abort(format_args!("epoll_wait"), errno, &mut failures),
            }
        };
        // SAFETY: the kernel has written `count` events, which is at most the length of `buffer`.
        unsafe { slice::from_raw_parts(buffer.as_ptr().cast(), count) }
    }

    /// Waits at most `limit`: in nanoseconds, or in milliseconds rounded up if `epoll_pwait2` is
    /// refused.
    fn wait_at_most(&self, buffer: &mut Buffer, limit: Nanos) -> Result<usize, Errno> {
        if !self.no_pwait2.load(Ordering::Relaxed) {
            match self.epoll_pwait2(buffer, limit) {
                Err(errno) if matches!(errno.raw(), libc::ENOSYS | libc::EPERM | libc::EACCES) => {
                    self.no_pwait2.store(true, Ordering::Relaxed)
                }
                waited => return waited,
            }
        }
        self.wait_millis(buffer, millis_rounded_up(limit))
    }

    fn wait_millis(&self, buffer: &mut Buffer, millis: i32) -> Result<usize, Errno> {
        // SAFETY: EVENT_BATCH is the length of `buffer`.
        unsafe { self.epoll_wait(buffer.as_mut_ptr().cast(), EVENT_BATCH as i32, millis) }
    }

    /// The system call that libc's `epoll_wait` makes. libc's function is a cancellation point
    /// (pthreads(7)), which costs two more atomic operations a call.
    ///
    /// # Safety
    ///
    /// There is room for `len` events at `events`.
    #[cfg(not(gopark_sanitize = "thread"))]
    #[inline]
    unsafe fn epoll_wait(
        &self,
        events: *mut libc::epoll_event,
        len: i32,
        millis: i32,
    ) -> Result<usize, Errno> {
        #[cfg(target_arch = "x86_64")]
        const CALL: libc::c_long = libc::SYS_epoll_wait;
        #[cfg(not(target_arch = "x86_64"))]
        const CALL: libc::c_long = libc::SYS_epoll_pwait;
        let no_sigmask = ptr::null::<libc::sigset_t>();
        // SAFETY: by the caller's promise the kernel has room for the events. A null mask leaves
        // the blocked signals as they are; `SYS_epoll_wait` has no mask.
        check(
            unsafe { libc::syscall(CALL, self.epfd.0, events, len, millis, no_sigmask, 0usize) }
                as isize,
        )
    }

    /// ThreadSanitizer runs no signal handler in a thread that sleeps in a call which it does not
    /// intercept.
    #[cfg(gopark_sanitize = "thread")]
    unsafe fn epoll_wait(
        &self,
        events: *mut libc::epoll_event,
        len: i32,
        millis: i32,
    ) -> Result<usize, Errno> {
        // SAFETY: by the caller's promise the kernel has room for the events.
        check(unsafe { libc::epoll_wait(self.epfd.0, events, len, millis) } as isize)
    }

    fn epoll_pwait2(&self, buffer: &mut Buffer, limit: Nanos) -> Result<usize, Errno> {
        // The kernel's own layout. libc's `timespec` has 32-bit fields on some architectures.
        let timeout: [i64; 2] = [limit / 1_000_000_000, limit % 1_000_000_000];
        let no_sigmask = ptr::null::<libc::sigset_t>();
        // SAFETY: the kernel writes at most EVENT_BATCH events, which is the length of `buffer`;
        // `timeout` has the layout of `__kernel_timespec`, and a null mask leaves the blocked
        // signals as they are.
        check(unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epfd.0,
                buffer.as_mut_ptr(),
                EVENT_BATCH as libc::c_int,
                timeout.as_ptr(),
                no_sigmask,
                0usize,
            )
        } as isize)
    }
}

/// Milliseconds. Go's cap, eleven and a half days: the caller computes its next timer anew in any
/// case.
const MILLIS_MAX: i64 = 1_000_000_000;

fn millis_rounded_up(limit: Nanos) -> i32 {
    let millis = limit / 1_000_000 + i64::from(limit % 1_000_000 != 0);
    millis.min(MILLIS_MAX) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::Linux;
    use gopark_core::os::Os;

    #[test]
    fn without_epoll_pwait2_a_timed_poll_never_returns_early() {
        let instance = Instance::new().unwrap();
        instance.no_pwait2.store(true, Ordering::Relaxed);
        for limit in [1, 50_000, 1_000_000, 1_000_001, 2_500_000] {
            let start = Linux::new().now();
            instance.poll(Delay::AtMost(limit), |word, mask| {
                panic!("{word:#x}: {mask:?}")
            });
            assert!(Linux::new().now() - start >= limit, "{limit} ns");
        }
    }

    #[test]
    fn milliseconds_are_rounded_up_and_capped() {
        let rounded = [1, 999_999, 1_000_000, 1_000_001, Nanos::MAX].map(millis_rounded_up);
        assert_eq!(rounded, [1, 1, 1, 2, 1_000_000_000]);
    }
}
