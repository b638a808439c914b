//! Files that other processes share: what they are, and the flags of pipes.

#![allow(
    unsafe_code,
    reason = "system calls; each says why its memory is valid"
)]

use super::check;
use core::mem::MaybeUninit;
use gopark_core::os::{Borrowed, Errno};

/// What a descriptor refers to, as far as waiting for it is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamKind {
    /// A regular file, a directory or a block device. It is always ready, and the disk may block.
    File,
    /// A pipe or FIFO. When it is writable, it takes `PIPE_BUF` (4096) bytes without blocking.
    Pipe,
    /// A socket.
    Socket,
    /// A terminal. When it is writable, it takes at least one byte without blocking.
    Terminal,
    /// Another device, or a file of no known type.
    Other,
}

/// Asks what `fd` refers to (fstat(2)).
pub fn kind(fd: Borrowed<'_>) -> Result<StreamKind, Errno> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` is writable.
    check(unsafe { libc::fstat(fd.raw(), stat.as_mut_ptr()) } as isize)?;
    // SAFETY: the call has succeeded, so it has filled `stat`.
    let mode = unsafe { stat.assume_init() }.st_mode;
    Ok(match mode & libc::S_IFMT {
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFBLK => StreamKind::File,
        libc::S_IFIFO => StreamKind::Pipe,
        libc::S_IFSOCK => StreamKind::Socket,
        libc::S_IFCHR if is_terminal(fd) => StreamKind::Terminal,
        _ => StreamKind::Other,
    })
}

fn is_terminal(fd: Borrowed<'_>) -> bool {
    // SAFETY: no memory is passed.
    unsafe { libc::isatty(fd.raw()) == 1 }
}

/// Sets or clears `O_NONBLOCK` of the open file, which all duplicates of the descriptor share.
#[doc(alias = "F_SETFL")]
#[doc(alias = "O_NONBLOCK")]
pub fn set_nonblocking(fd: Borrowed<'_>, on: bool) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    let old = check(unsafe { libc::fcntl(fd.raw(), libc::F_GETFL) } as isize)? as libc::c_int;
    let new = match on {
        true => old | libc::O_NONBLOCK,
        false => old & !libc::O_NONBLOCK,
    };
    if new == old {
        return Ok(());
    }
    // SAFETY: as above.
    check(unsafe { libc::fcntl(fd.raw(), libc::F_SETFL, new) } as isize).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::tests::{lend, pipe};
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn files_are_told_apart() {
        let of = |file: &dyn AsRawFd| kind(lend(file.as_raw_fd()));
        let (reader, writer) = pipe();
        assert_eq!(of(&reader), Ok(StreamKind::Pipe));
        assert_eq!(of(&writer), Ok(StreamKind::Pipe));
        let (socket, _peer) = UnixStream::pair().unwrap();
        assert_eq!(of(&socket), Ok(StreamKind::Socket));
        for (path, kind) in [
            ("/proc/self/exe", StreamKind::File),
            ("/", StreamKind::File),
            ("/dev/null", StreamKind::Other),
            ("/dev/ptmx", StreamKind::Terminal),
        ] {
            let Ok(file) = File::open(path) else { continue };
            assert_eq!(of(&file), Ok(kind), "{path}");
        }
        assert_eq!(kind(lend(-1)), Err(Errno::new(libc::EBADF)));
    }

    #[test]
    fn the_flag_of_a_pipe_changes_and_changes_back() {
        let (reader, _writer) = crate::linux::tests::pipe();
        use std::os::fd::AsRawFd;
        let flags = || {
            // SAFETY: no memory is passed.
            unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_GETFL) & libc::O_NONBLOCK != 0 }
        };
        for on in [true, false, false, true] {
            set_nonblocking(lend(reader.as_raw_fd()), on).unwrap();
            assert_eq!(flags(), on);
        }
        let bad = set_nonblocking(lend(-1), true);
        assert_eq!(bad, Err(Errno::new(libc::EBADF)));
    }
}
