//! Files, and moving bytes inside the kernel: one system call in each function.
//!
//! `EINTR` and `EAGAIN` are reported as in [`io`](super::io).

#![allow(
    unsafe_code,
    reason = "system calls on the caller's buffers and descriptors"
)]

use super::io::outcome;
use super::{OwnedFd, check};
use core::ptr;
use gopark_core::os::{Borrowed, Errno, Outcome};

/// The most bytes that one call of [`sendfile`] or [`copy_file_range`] moves (sendfile(2)).
pub const TRANSFER_MAX: usize = 0x7fff_f000;

/// Reads what is in the page cache, without waiting for a device: `preadv2(2)` with `RWF_NOWAIT`.
/// At `offset`, or with `None` at the file's position, which moves.
///
/// `WouldBlock` if the data is not in the cache. Fewer bytes than requested if only a part of them
/// is. 0 may be the end of the file, or not: Linux 5.9 and 5.10 also return it before the end
/// (preadv2(2)). Many file systems fail with `EOPNOTSUPP`, also tmpfs; kernels before 4.14 do.
#[doc(alias = "preadv2")]
#[doc(alias = "RWF_NOWAIT")]
pub fn read_cached(fd: Borrowed<'_>, buffer: &mut [u8], offset: Option<u64>) -> Outcome<usize> {
    let vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // -1: the position. The kernel joins two registers to an offset. On 64-bit systems it ignores
    // the upper one.
    let offset = offset.unwrap_or(u64::MAX);
    let half = usize::BITS / 2;
    let (low, high) = (offset as usize, (offset >> half >> half) as usize);
    // SAFETY: the vector has one buffer, which is writable for its length.
    outcome(unsafe {
        libc::syscall(
            libc::SYS_preadv2,
            fd.raw(),
            &vector,
            1_usize,
            low,
            high,
            libc::RWF_NOWAIT,
        )
    } as isize)
}

/// Whether reads of the file go past the page cache to the device. [`read_cached`] would wait for
/// that, too.
#[doc(alias = "O_DIRECT")]
pub fn is_direct(fd: Borrowed<'_>) -> bool {
    // SAFETY: no memory is passed.
    let flags = unsafe { libc::fcntl(fd.raw(), libc::F_GETFL) };
    flags != -1 && flags & libc::O_DIRECT != 0
}

/// Moves up to `len` bytes between a pipe and another file without copying them: `splice(2)`. One
/// of `from` and `to` is a pipe. 0: `from` is at its end.
///
/// `WouldBlock` does not say which of the two would block. Raises `SIGPIPE` if `to` is a pipe
/// without a reader or a socket whose connection has ended, also where [`send`](super::io::send)
/// would not: std ignores that signal, a program without std has to.
pub fn splice(from: Borrowed<'_>, to: Borrowed<'_>, len: usize) -> Outcome<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    let position = ptr::null_mut::<libc::loff_t>();
    // SAFETY: no memory is passed; both files are open.
    outcome(unsafe {
        libc::syscall(
            libc::SYS_splice,
            from.raw(),
            position,
            to.raw(),
            position,
            len,
            flags,
        )
    } as isize)
}

/// Moves up to `len` bytes from the position of file `from` to `to`: `sendfile(2)`. 0: `from` is at
/// its end. `EINVAL` if `from` is not a file that can be mapped.
///
/// It waits for the disk, if the data is not in the page cache, also where `to` is non-blocking.
/// Raises `SIGPIPE` as [`splice`] does.
pub fn sendfile(to: Borrowed<'_>, from: Borrowed<'_>, len: usize) -> Outcome<usize> {
    // SAFETY: no memory is passed; both files are open.
    outcome(unsafe { libc::sendfile(to.raw(), from.raw(), ptr::null_mut(), len.min(TRANSFER_MAX)) })
}

/// Moves up to `len` bytes from the position of file `from` to that of file `to`:
/// `copy_file_range(2)`. 0: `from` is at its end. `EXDEV`, `EINVAL` and others if the file systems
/// cannot do it.
///
/// It waits for the disk. If both can share blocks, it copies nothing.
pub fn copy_file_range(from: Borrowed<'_>, to: Borrowed<'_>, len: usize) -> Outcome<usize> {
    let position = ptr::null_mut::<libc::loff_t>();
    // SAFETY: no memory is passed; both files are open.
    outcome(unsafe {
        libc::syscall(
            libc::SYS_copy_file_range,
            from.raw(),
            position,
            to.raw(),
            position,
            len.min(TRANSFER_MAX),
            0_usize,
        )
    } as isize)
}

/// A pipe in the kernel for [`splice`]: non-blocking, close-on-exec.
pub struct KernelPipe {
    reader: OwnedFd,
    writer: OwnedFd,
    capacity: usize,
}

impl KernelPipe {
    /// Makes a pipe that holds `capacity` bytes, or fewer if the system does not permit that
    /// (pipe(7), `/proc/sys/fs/pipe-max-size` and `pipe-user-pages-soft`).
    ///
    /// # Errors
    ///
    /// `EMFILE` and `ENFILE` if there are too many descriptors.
    #[doc(alias = "pipe2")]
    #[doc(alias = "F_SETPIPE_SZ")]
    pub fn new(capacity: usize) -> Result<Self, Errno> {
        let mut ends = [-1; 2];
        // SAFETY: `ends` has room for two numbers.
        let made = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) };
        check(made as isize)?;
        let [reader, writer] = ends.map(OwnedFd);
        let wanted = libc::c_int::try_from(capacity).unwrap_or(libc::c_int::MAX);
        // SAFETY: no memory is passed.
        unsafe { libc::fcntl(writer.0, libc::F_SETPIPE_SZ, wanted) };
        // SAFETY: as above.
        let capacity = check(unsafe { libc::fcntl(writer.0, libc::F_GETPIPE_SZ) } as isize)?;
        Ok(KernelPipe {
            reader,
            writer,
            capacity,
        })
    }

    /// How many bytes it holds at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The end to read from.
    pub fn reader(&self) -> Borrowed<'_> {
        // SAFETY: the pipe owns the descriptor, which stays open during the borrow.
        unsafe { Borrowed::new(self.reader.0) }
    }

    /// The end to write to.
    pub fn writer(&self) -> Borrowed<'_> {
        // SAFETY: as above.
        unsafe { Borrowed::new(self.writer.0) }
    }
}
