//! The errors that each system call is made to fail with, and the outcome that each must have:
//! those of its manual page, and of `ip(7)` and `tcp(7)`.
//!
//! Left out are answers that the kernel gives only together with an effect that an injection cannot
//! have: no program could handle them.
//!
//! | left out | because the kernel gives it only |
//! |---|---|
//! | `EAGAIN` on an edge-triggered socket | when it is not ready, and then an edge follows |
//! | `EAGAIN` of the write to an eventfd | when the eventfd is readable |
//! | `EISCONN` of `connect` | when there is a connection |
//! | every error of `brk` | never: it returns an address |
//!
//! Also left out is `rseq`, which libc calls for each thread: if it fails, libc ends the process.

/// The outcome that a fault must have, besides the checks of [`super::sweep`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// The operation that made the call fails with this error, or succeeds in another way. Nothing
    /// else fails.
    Reported,
    /// No operation fails.
    Absorbed,
    /// Like `Reported`, or an operation waits until its deadline: the kernel would have started
    /// something.
    ReportedOrLate,
    /// Like `Reported`, but the descriptor stays open: only the kernel could have released it.
    Leaks,
    /// The process prints this and aborts.
    Dies(&'static str),
    /// The process prints this and aborts, or the outcome is as for `Reported`: several callers
    /// make the call.
    MayDie(&'static str),
}

/// A system call with some of its errors.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The system call, as strace names it.
    pub call: &'static str,
    /// Errors, as strace names them.
    pub errors: &'static [Error],
    /// The outcome that each of them must have.
    pub expected: Expected,
}

/// An error's name and number.
pub type Error = (&'static str, i32);

macro_rules! row {
    ($call:ident, $expected:expr, $($error:ident)*) => {
        Row {
            call: stringify!($call),
            expected: $expected,
            errors: &[$((stringify!($error), libc::$error)),*],
        }
    };
}

use Expected::{Absorbed, Dies, Leaks, MayDie, Reported, ReportedOrLate};

/// The message of a Rust program without memory.
const NO_MEMORY: &str = "memory allocation of";

/// All rows.
pub const ROWS: &[Row] = &[
    row!(accept4, Absorbed, ECONNABORTED EINTR),
    row!(accept4, Reported, EMFILE ENFILE ENOBUFS ENOMEM EPERM EPROTO EBADF EFAULT EINVAL
        ENOTSOCK EOPNOTSUPP ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET EHOSTUNREACH ENETUNREACH ENOSR
        ESOCKTNOSUPPORT EPROTONOSUPPORT ETIMEDOUT),
    row!(socket, Reported, EACCES EAFNOSUPPORT EINVAL EMFILE ENFILE ENOBUFS ENOMEM EPROTONOSUPPORT),
    row!(connect, Absorbed, EADDRNOTAVAIL),
    row!(connect, Reported, EACCES EPERM EADDRINUSE EAFNOSUPPORT EAGAIN EBADF ECONNREFUSED
        EFAULT ENETUNREACH ENOTSOCK EPROTOTYPE ETIMEDOUT),
    row!(connect, ReportedOrLate, EINTR EINPROGRESS EALREADY),
    row!(bind, Reported, EACCES EADDRINUSE EBADF EINVAL ENOTSOCK EADDRNOTAVAIL EFAULT ENOMEM),
    row!(listen, Reported, EADDRINUSE EBADF ENOTSOCK EOPNOTSUPP),
    row!(setsockopt, Reported, EBADF EFAULT EINVAL ENOPROTOOPT ENOTSOCK),
    row!(getsockopt, Reported, EBADF EFAULT EINVAL ENOPROTOOPT ENOTSOCK),
    row!(getsockname, Reported, EBADF EFAULT EINVAL ENOBUFS ENOTSOCK),
    row!(getpeername, Reported, EBADF EFAULT EINVAL ENOBUFS ENOTSOCK),
    row!(getpeername, ReportedOrLate, ENOTCONN),
    row!(recvfrom, Absorbed, EINTR),
    row!(recvfrom, Reported, EBADF ECONNREFUSED EFAULT EINVAL ENOMEM ENOTCONN ENOTSOCK
        ECONNRESET ETIMEDOUT),
    row!(recvmsg, Absorbed, EINTR),
    row!(recvmsg, Reported, EBADF ECONNREFUSED EFAULT EINVAL ENOMEM ENOTCONN ENOTSOCK ECONNRESET
        ETIMEDOUT),
    row!(sendto, Absorbed, EINTR),
    row!(sendto, Reported, EACCES EALREADY EBADF ECONNRESET EDESTADDRREQ EFAULT EINVAL EISCONN
        EMSGSIZE ENOBUFS ENOMEM ENOTCONN ENOTSOCK EOPNOTSUPP EPIPE),
    row!(sendmsg, Absorbed, EINTR),
    row!(sendmsg, Reported, EACCES EALREADY EBADF ECONNRESET EDESTADDRREQ EFAULT EINVAL EISCONN
        EMSGSIZE ENOBUFS ENOMEM ENOTCONN ENOTSOCK EOPNOTSUPP EPIPE),
    row!(recvmmsg, Absorbed, EINTR),
    row!(recvmmsg, Reported, EBADF EFAULT EINVAL ENOMEM ENOTSOCK),
    row!(sendmmsg, Absorbed, EINTR),
    row!(sendmmsg, Reported, EBADF EFAULT EINVAL ENOBUFS ENOMEM ENOTSOCK EPERM),
    row!(socketpair, Reported, EMFILE ENFILE ENOMEM EAFNOSUPPORT),
    row!(pidfd_open, Absorbed, EINVAL EMFILE ENFILE ENODEV ENOMEM ENOSYS EPERM),
    row!(waitid, Absorbed, EINTR),
    row!(splice, Absorbed, EINTR),
    // What the file does not support is known from the first call, and absorbed then.
    row!(splice, Reported, EBADF ENOMEM EINVAL),
    row!(sendfile, Absorbed, EINTR),
    row!(sendfile, Reported, EBADF EFAULT EIO ENOMEM EINVAL ENOSYS EOPNOTSUPP),
    row!(copy_file_range, Reported, EBADF EIO ENOMEM ENOSPC EINVAL ENOSYS EOPNOTSUPP EXDEV),
    row!(preadv2, Absorbed, EAGAIN EOPNOTSUPP ENOSYS EINTR),
    row!(preadv2, Reported, EIO EBADF),
    row!(shutdown, Reported, EBADF EINVAL ENOTCONN ENOTSOCK),
    row!(close, Leaks, EBADF EINTR EIO ENOSPC EDQUOT),
    row!(dup3, Absorbed, EBUSY EINTR EBADF EINVAL EMFILE),
    row!(epoll_create1, Reported, EINVAL EMFILE ENFILE ENOMEM),
    row!(eventfd2, Reported, EINVAL EMFILE ENFILE ENODEV ENOMEM),
    row!(epoll_ctl, Reported, ENOMEM ENOSPC EBADF EEXIST EINVAL ELOOP ENOENT EPERM),
    row!(epoll_wait, Absorbed, EINTR EIO ENOMEM EPERM EAGAIN),
    row!(epoll_wait, Dies("gopark: epoll_wait has failed"), EBADF EFAULT EINVAL),
    row!(epoll_pwait2, Absorbed, EINTR EIO ENOMEM EPERM EAGAIN ENOSYS),
    row!(epoll_pwait2, Dies("gopark: epoll_wait has failed"), EBADF EFAULT EINVAL),
    row!(ppoll, Absorbed, EINTR EIO ENOMEM EPERM EAGAIN),
    row!(ppoll, Dies("gopark: poll has failed"), EFAULT EINVAL),
    row!(io_uring_setup, Reported, EFAULT EINVAL EMFILE ENFILE ENOMEM ENOSYS EPERM),
    row!(io_uring_enter, Reported, EAGAIN EBUSY EINTR ENXIO EOPNOTSUPP EPERM),
    row!(io_uring_enter, MayDie("gopark: io_uring_enter has failed"), EBADF EBADR EFAULT EINVAL),
    row!(poll, Absorbed, EINTR EIO ENOMEM EPERM EAGAIN),
    // The poller `poll` aborts. For io_uring the call is a second check only.
    row!(poll, MayDie("gopark: poll has failed"), EFAULT EINVAL),
    row!(read, Absorbed, EAGAIN EBADF EFAULT EINTR EINVAL EIO EISDIR),
    row!(write, Absorbed, EINTR EDESTADDRREQ EDQUOT EFBIG EIO ENOSPC EPERM EPIPE),
    row!(write, MayDie("gopark: write to the eventfd of a poller has failed"), EBADF EFAULT EINVAL),
    row!(futex, Absorbed, EACCES EAGAIN EINTR ENFILE ENOMEM ENOSYS EPERM ESRCH ETIMEDOUT),
    row!(futex, MayDie("gopark: futex has failed"), EFAULT EINVAL),
    row!(sched_yield, Absorbed, EINVAL ENOSYS EPERM),
    row!(sched_getaffinity, Absorbed, EFAULT EINVAL EPERM ESRCH),
    row!(openat, Absorbed, EACCES EINTR EMFILE ENFILE ENOENT ENOMEM ELOOP ENOTDIR EPERM),
    row!(newfstatat, Reported, EACCES EBADF EFAULT ENOENT ENOMEM EOVERFLOW),
    row!(fstat, Reported, EBADF EFAULT ENOMEM EOVERFLOW),
    row!(clone3, Reported, EAGAIN EACCES EBUSY EEXIST EINVAL ENOMEM ENOSPC EPERM EUSERS),
    row!(clone3, Absorbed, ENOSYS),
    row!(mmap, MayDie(NO_MEMORY), ENOMEM EACCES EAGAIN EINVAL ENFILE ENODEV EOVERFLOW EPERM),
    row!(mprotect, MayDie(NO_MEMORY), ENOMEM EACCES EINVAL),
    row!(munmap, Absorbed, EINVAL),
    row!(madvise, Reported, ENOMEM EACCES EAGAIN EBADF EIO EPERM),
    row!(madvise, Absorbed, EINVAL),
    row!(prlimit64, Absorbed, EFAULT EINVAL EPERM ESRCH),
    row!(membarrier, Absorbed, EINVAL ENOSYS EPERM),
    row!(prctl, Absorbed, EINVAL EPERM EFAULT),
    row!(sigaltstack, Absorbed, EFAULT EINVAL ENOMEM EPERM),
    row!(rt_sigaction, Absorbed, EFAULT EINVAL),
    row!(rt_sigprocmask, Absorbed, EFAULT EINVAL),
    row!(set_robust_list, Absorbed, EINVAL),
];

/// For level-triggered pollers, which cannot tell a fault from a socket that is still ready.
pub const LEVEL_ROWS: &[Row] = &[
    row!(accept4, Absorbed, EAGAIN),
    row!(recvfrom, Absorbed, EAGAIN),
    row!(recvmsg, Absorbed, EAGAIN),
    row!(sendto, Absorbed, EAGAIN),
    row!(sendmsg, Absorbed, EAGAIN),
];
