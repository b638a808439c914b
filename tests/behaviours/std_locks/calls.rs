//! The function `syscall` of libc, which gopark defines, does what libc's does.
#![allow(unsafe_code, reason = "calls the system")]

use crate::behaviours::check_on_thread;
use crate::behaviours::sync::until_all_wait;
use crate::check;
use gopark::go;
use gopark_core::watch::Wait;
use gopark_tests::join;
use libc::{
    FUTEX_PRIVATE_FLAG, FUTEX_WAIT, FUTEX_WAIT_BITSET, FUTEX_WAKE, c_int, c_long, timespec,
};
use std::fs::File;
use std::io::{Error, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

/// Runs `f` in a goroutine, and on an ordinary thread.
fn everywhere(f: fn()) {
    check(f);
    check_on_thread(f);
}

fn errno() -> i32 {
    Error::last_os_error().raw_os_error().unwrap()
}

fn set_errno(errno: i32) {
    // SAFETY: the errno of this thread.
    unsafe { *libc::__errno_location() = errno };
}

/// The result of a call, or its errno.
fn outcome(result: c_long) -> Result<c_long, i32> {
    match result {
        -1 => Err(errno()),
        result => Ok(result),
    }
}

#[test]
fn a_system_call_returns_its_result_and_leaves_errno_alone() {
    everywhere(|| {
        set_errno(libc::EXDEV);
        // SAFETY: no memory is passed.
        let both = unsafe { (libc::syscall(libc::SYS_gettid), libc::gettid()) };
        assert_eq!(both.0, both.1.into());
        assert_eq!(errno(), libc::EXDEV);
    });
}

#[test]
fn a_system_call_that_fails_returns_minus_one_and_sets_errno() {
    everywhere(|| {
        set_errno(0);
        // SAFETY: no memory is passed.
        assert_eq!(unsafe { libc::syscall(libc::SYS_close, -1) }, -1);
        assert_eq!(errno(), libc::EBADF);
    });
}

#[test]
fn a_system_call_takes_six_arguments() {
    const PAGE: usize = 4096;
    everywhere(|| {
        // SAFETY: the name ends with a zero; the descriptor is new and ours.
        let mut file = unsafe {
            let fd = libc::syscall(libc::SYS_memfd_create, c"pages".as_ptr(), 0);
            File::from_raw_fd(c_int::try_from(outcome(fd).unwrap()).unwrap())
        };
        file.write_all(&[1; PAGE]).unwrap();
        file.write_all(&[2; PAGE]).unwrap();
        let null: *mut u8 = ptr::null_mut();
        // SAFETY: a new mapping, which is read within its bounds and then removed.
        unsafe {
            let page = libc::syscall(
                libc::SYS_mmap,
                null,
                PAGE,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                PAGE,
            );
            let page = ptr::with_exposed_provenance_mut::<u8>(outcome(page).unwrap() as usize);
            assert_eq!(*page, 2);
            assert_eq!(libc::syscall(libc::SYS_munmap, page, PAGE), 0);
        }
    });
}

fn futex(
    word: *const AtomicU32,
    operation: c_int,
    value: u32,
    limit: Option<timespec>,
) -> Result<c_long, i32> {
    let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: a private operation on a word that the caller owns or that the kernel refuses.
    outcome(unsafe {
        libc::syscall(
            libc::SYS_futex,
            word,
            operation | FUTEX_PRIVATE_FLAG,
            value,
            limit,
            ptr::null::<u32>(),
            u32::MAX,
        )
    })
}

#[test]
fn a_futex_call_returns_what_the_kernel_would() {
    everywhere(|| {
        let word = AtomicU32::new(5);
        let time = |tv_sec, tv_nsec| Some(timespec { tv_sec, tv_nsec });
        for wait in [FUTEX_WAIT, FUTEX_WAIT_BITSET] {
            assert_eq!(futex(&word, wait, 4, None), Err(libc::EAGAIN));
            assert_eq!(futex(&word, wait, 5, time(0, 1)), Err(libc::ETIMEDOUT));
            assert_eq!(futex(&word, wait, 4, time(0, 1)), Err(libc::EAGAIN));
            for (seconds, nanos) in [(0, 1_000_000_000), (0, -1), (-1, 0)] {
                let result = futex(&word, wait, 5, time(seconds, nanos));
                assert_eq!(result, Err(libc::EINVAL), "{seconds} s, {nanos} ns");
            }
            let between = ptr::from_ref(&word).cast::<u8>().wrapping_add(1).cast();
            assert_eq!(futex(between, wait, 5, None), Err(libc::EINVAL));
            assert_eq!(futex(ptr::null(), wait, 5, None), Err(libc::EFAULT));
        }
        for most in [0, 1, i32::MAX as u32, u32::MAX] {
            assert_eq!(futex(&word, FUTEX_WAKE, most, None), Ok(0));
        }
        let between = ptr::from_ref(&word).cast::<u8>().wrapping_add(1).cast();
        assert_eq!(futex(between, FUTEX_WAKE, 1, None), Err(libc::EINVAL));
    });
}

#[test]
fn a_wake_counts_the_goroutines_that_it_has_woken() {
    check(|| {
        let word = Arc::new(AtomicU32::new(0));
        let waiters = [(); 3].map(|()| {
            let word = word.clone();
            go(move || {
                while word.load(SeqCst) == 0 {
                    // A wait may end without a cause.
                    _ = futex(&*word, FUTEX_WAIT_BITSET, 0, None);
                }
            })
        });
        until_all_wait(&waiters, Wait::StdLock(0));
        word.store(1, SeqCst);
        let wake = |most| futex(&*word, FUTEX_WAKE, most, None);
        assert_eq!([wake(1), wake(9), wake(1)], [Ok(1), Ok(2), Ok(0)]);
        waiters.into_iter().for_each(join);
    });
}
