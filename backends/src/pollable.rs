//! Which files can be polled. epoll refuses a file that is always ready with `EPERM`; poll(2) and
//! io_uring report it as ready, so their pollers ask here.
//!
//! Source: Linux `fs/eventpoll.c`, `do_epoll_ctl` (`file_can_poll`), and `drivers/char/mem.c`.

#![allow(unsafe_code, reason = "the fstat system call")]

use crate::linux::check;
use core::mem::MaybeUninit;
use gopark_core::os::Errno;

/// Fails with `EPERM` for a file that `epoll_ctl` would refuse: regular files, directories, block
/// devices, and the memory devices that are always ready (`/dev/null`, `/dev/zero` and others).
/// Other devices without a poll function are taken for pollable; a wait on them ends at once.
pub(crate) fn check_pollable(fd: i32) -> Result<(), Errno> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` is writable.
    check(unsafe { libc::fstat(fd, stat.as_mut_ptr()) } as isize)?;
    // SAFETY: the call has succeeded, so it has filled `stat`.
    let stat = unsafe { stat.assume_init() };
    let always_ready = match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFBLK => true,
        libc::S_IFCHR => {
            libc::major(stat.st_rdev) == MEMORY
                && !POLLABLE_MEMORY.contains(&libc::minor(stat.st_rdev))
        }
        _ => false,
    };
    if always_ready {
        Err(Errno::new(libc::EPERM))
    } else {
        Ok(())
    }
}

/// The major number of the memory devices (Linux `Documentation/admin-guide/devices.txt`).
const MEMORY: libc::c_uint = 1;

/// Minor numbers: `/dev/random` and `/dev/kmsg`.
const POLLABLE_MEMORY: [libc::c_uint; 2] = [8, 11];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::OwnedFd;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    #[test]
    fn it_refuses_what_epoll_refuses() {
        // SAFETY: no memory is passed.
        let epoll = OwnedFd(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) });
        for path in [
            "/dev/null",
            "/dev/zero",
            "/dev/full",
            "/dev/random",
            "/dev/urandom",
            "/",
            "/proc/self/exe",
            "/dev/tty",
            "/dev/ptmx",
        ] {
            let Ok(file) = File::open(path) else { continue };
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            // SAFETY: `event` is readable.
            let added = check(unsafe {
                libc::epoll_ctl(epoll.0, libc::EPOLL_CTL_ADD, file.as_raw_fd(), &mut event)
            } as isize);
            assert_eq!(check_pollable(file.as_raw_fd()), added.map(drop), "{path}");
        }
    }
}
