//! [`Linux`]: the operating system under a scheduler.
//!
//! Calls for which libc adds nothing mostly go through `syscall`, one symbol for all. Each libc
//! function costs a dynamic program 86 bytes, and a static program the function itself
//! (`docs/minimal.md`).

#![allow(
    unsafe_code,
    reason = "system calls; each argues that the memory it passes is valid for the call"
)]

pub mod batch;
pub mod control;
pub mod file;
pub mod io;
pub mod membarrier;
mod memory;
pub mod message;
pub mod process;
mod procs;
pub mod signal;
pub mod socket;
pub mod stream;
mod text;
mod thread;
mod tls;

pub use memory::Guards;
pub use procs::{affinity, available_procs};
pub use thread::{overflowed, with_signal_stack};
pub use tls::{has_thread_locals, thread_locals_around};

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::ptr::{self, NonNull};
use core::sync::atomic::AtomicU32;
use gopark_core::os::{Borrowed, Errno, Nanos, Observe, Os, Outcome, ThreadState};
use memory::GuardState;
use text::Text;

/// The Linux system calls behind [`Os`].
///
/// A process needs one, as a static, because it counts the memory mappings that guards have used
/// up.
pub struct Linux {
    guards: GuardState,
    signal_stacks: Option<thread::SignalStacks>,
    address_space: Option<fn() -> usize>,
    threads: Option<ThreadReaders>,
}

/// What a thread does, and how long it has computed, by its number.
type ThreadReaders = (fn(u32) -> ThreadState, fn(u32) -> Nanos);

impl Linux {
    /// Makes no system call.
    pub const fn new() -> Self {
        Linux {
            guards: GuardState::new(),
            signal_stacks: None,
            address_space: None,
            threads: None,
        }
    }

    /// Gives each thread that it starts an alternate stack for signal handlers (sigaltstack(2)). A
    /// goroutine that has overflowed its stack has no room left for the handler that reports it.
    /// The threads' own stacks get a guard that is larger than the frames of C code, and
    /// [`overflowed`] recognises it.
    ///
    /// Each thread calls `run` with what it is for, which passes that to [`with_signal_stack`].
    #[doc(alias = "sigaltstack")]
    pub const fn with_signal_stacks(self, run: fn(fn(usize), usize)) -> Self {
        Linux {
            signal_stacks: Some(thread::SignalStacks::new(run)),
            ..self
        }
    }

    /// Asks for the limit of the process's address space, so that stacks leave most of it to the
    /// program: RLIMIT_AS, and RLIMIT_MEMLOCK after `mlockall(MCL_FUTURE)`. Without this call,
    /// stacks take half of what they can get.
    #[doc(alias = "getrlimit")]
    pub const fn with_limits(self) -> Self {
        Linux {
            address_space: Some(memory::address_space),
            ..self
        }
    }

    /// Reads in `/proc` what a thread does, and its CPU clock. For programs with sysmon or dumps.
    /// Without this call, sysmon takes a goroutine that blocks in the system for one that computes.
    pub const fn with_thread_states(self) -> Self {
        Linux {
            threads: Some((thread::state, thread::cpu_time)),
            ..self
        }
    }

    /// How stacks are guarded, judging by the guards that were installed so far. It names the limit
    /// behind an `ENOMEM` from [`guard`](Os::guard).
    pub fn guard_kind(&self) -> Guards {
        self.guards.kind()
    }
}

impl Default for Linux {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY:
// - `now`: CLOCK_MONOTONIC never goes back, and it starts at zero when the machine does;
// - `futex_wait` and `futex_wake` are the system calls of that name on the word's own address;
// - `reserve`: the kernel chooses a free range, and nothing here unmaps one;
// - `open`: an anonymous mapping consists of zeroed pages, and only a guard takes access away;
// - `guard`: a guard region and PROT_NONE both fault on every access, and nothing here lifts them;
// - `spawn`: pthread_create starts the thread once or fails;
// - `barrier`: this is what membarrier(2) promises.
unsafe impl Os for Linux {
    fn now(&self) -> Nanos {
        // Cannot fail: every Linux has this clock.
        clock(libc::CLOCK_MONOTONIC)
    }

    fn futex_wait(&self, word: &AtomicU32, expected: u32, timeout: Option<Nanos>) {
        let limit = timeout.map(timespec_longs);
        let limit = limit.as_ref().map_or(ptr::null(), |limit| limit.as_ptr());
        // The result is ignored: the caller looks at the word again in any case.
        // SAFETY: `word` is borrowed for the call, and `limit` is null or points to two longs that
        // outlive it.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                expected,
                limit,
            )
        };
    }

    fn futex_wake(&self, word: *const AtomicU32) {
        let threads: libc::c_int = 1;
        let mut failures = 0;
        // Of all bits, so of all sleepers. `FUTEX_WAKE` would go to the std shim's table of
        // goroutines, whose locks a signal handler must not take.
        // SAFETY: the kernel uses the address of a private wake as a key and does not read it.
        let wake = || unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.addr(),
                libc::FUTEX_WAKE_BITSET | libc::FUTEX_PRIVATE_FLAG,
                threads,
                0_usize,
                0_usize,
                u32::MAX,
            )
        };
        while let Err(errno) = check(wake() as isize) {
            retry_or_abort(format_args!("futex"), errno, &mut failures);
        }
    }

    fn spawn(&self, name: fmt::Arguments<'_>, entry: fn(usize), arg: usize) -> Result<(), Errno> {
        thread::spawn(name, self.signal_stacks, entry, arg)
    }

    fn thread_id(&self) -> u32 {
        // SAFETY: no memory is passed.
        unsafe { libc::syscall(libc::SYS_gettid) as u32 }
    }

    fn thread_state(&self, thread: u32) -> ThreadState {
        self.threads
            .map_or(ThreadState::Unknown, |(state, _)| state(thread))
    }

    fn cpu_time(&self, thread: u32) -> Nanos {
        self.threads.map_or(0, |(_, cpu_time)| cpu_time(thread))
    }

    fn barrier(&self) -> bool {
        membarrier::private_expedited().is_ok()
    }

    fn yield_thread(&self) {
        // SAFETY: no memory is passed.
        unsafe { libc::syscall(libc::SYS_sched_yield) };
    }

    fn reserve(&self, len: usize) -> Result<NonNull<u8>, Errno> {
        memory::reserve(len)
    }

    unsafe fn open(&self, start: NonNull<u8>, len: usize) -> Result<(), Errno> {
        memory::open(start, len)
    }

    fn address_space(&self) -> usize {
        self.address_space.map_or(usize::MAX, |ask| ask())
    }

    unsafe fn guard(&self, start: NonNull<u8>, len: usize) -> Result<(), Errno> {
        self.guards.install(start, len)
    }

    unsafe fn discard(&self, start: NonNull<u8>, len: usize) {
        // SAFETY: the caller promises that the range is private anonymous memory with contents that
        // are no longer needed. If the call fails, the memory stays.
        unsafe { libc::syscall(libc::SYS_madvise, start.as_ptr(), len, libc::MADV_DONTNEED) };
    }

    unsafe fn close(&self, fd: i32) {
        io::close(fd);
    }

    fn is_socket(&self, fd: Borrowed<'_>) -> bool {
        let mut kind: libc::c_int = 0;
        let mut len = size_of_val(&kind) as libc::socklen_t;
        // SAFETY: `kind` is writable for `len` bytes. Unlike `SO_ERROR`, this takes nothing away.
        unsafe {
            libc::syscall(
                libc::SYS_getsockopt,
                fd.raw(),
                libc::SOL_SOCKET,
                libc::SO_TYPE,
                &raw mut kind,
                &raw mut len,
            ) == 0
        }
    }

    fn page_size(&self) -> usize {
        // SAFETY: no memory is passed.
        unsafe { libc::getauxval(libc::AT_PAGESZ) as usize }
    }

    fn abort(&self, message: fmt::Arguments<'_>) -> ! {
        let mut buffer = [0; LINE_MAX];
        let mut line = Text::new(&mut buffer);
        // If the message is too long, its beginning is printed.
        let _ = line.write_fmt(message);
        // SAFETY: the standard error belongs to the whole process by convention, and stays open.
        io::write(
            unsafe { Borrowed::new(libc::STDERR_FILENO) },
            line.as_line(),
        );
        // SAFETY: ends the process.
        unsafe { libc::abort() }
    }
}

impl Observe for Linux {
    fn threads(&self) -> Option<usize> {
        thread::count()
    }

    fn copy(&self, start: usize, to: &mut [u8]) -> usize {
        memory::copy(start, to)
    }

    fn resident(&self, start: NonNull<u8>, len: usize) -> Option<usize> {
        memory::resident(start, len)
    }
}

/// A panic handler for programs without std: prints location and message, and aborts the process.
///
/// It does not print the `PanicInfo` itself: that links `str` padding and truncation, which is a
/// kilobyte.
pub fn panicked(info: &PanicInfo<'_>) -> ! {
    struct Verbatim<'a>(&'a str);

    impl fmt::Display for Verbatim<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    let (file, line, column) = info.location().map_or(("?", 0, 0), |place| {
        (place.file(), place.line(), place.column())
    });
    let (file, line, column) = (Verbatim(file), line as usize, column as usize);
    Linux::new().abort(format_args!(
        "panicked at {file}:{line}:{column}:\n{}",
        info.message()
    ))
}

/// The time of a clock, or 0 if the clock does not exist.
fn clock(clock: libc::clockid_t) -> Nanos {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as Nanos * 1_000_000_000 + time.tv_nsec as Nanos
}

/// A delay as futex(2) takes it: two longs on every architecture, even where libc's `timespec` is
/// wider.
fn timespec_longs(limit: Nanos) -> [libc::c_long; 2] {
    let limit = limit.max(0);
    let seconds = (limit / 1_000_000_000).min(libc::c_long::MAX as Nanos);
    [
        seconds as libc::c_long,
        (limit % 1_000_000_000) as libc::c_long,
    ]
}

/// Bytes. The longest message that [`Os::abort`] prints whole. It is at most `PIPE_BUF` (4096), so
/// a `write` to a pipe is not interleaved with other threads' output (pipe(7)).
const LINE_MAX: usize = 512;

/// The error of the system call that has just failed on this thread.
///
/// Never inlined, and the only place here that reads errno. errno is a thread-local, and a retry
/// loop may park between two failures and resume on another thread. If this were inlined, the
/// compiler could keep errno's address across the park.
#[inline(never)]
fn errno() -> Errno {
    // SAFETY: libc gives every thread an errno at this address.
    Errno::new(unsafe { *libc::__errno_location() })
}

/// The result of a system call; -1 means an error.
#[inline]
pub(crate) fn check(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| errno())
}

/// For a call that must not fail, because a thread would then sleep without end. `times` counts its
/// failures in a row. Sleeps for a millisecond and returns, for the caller to try again, or aborts.
///
/// It does not panic: that would end the goroutine that happens to make the call, while others wait
/// for a wake that never comes. `EBADF`, `EFAULT` and `EINVAL` are permanent: other code has closed
/// a poller's descriptor, or overwritten its number. `EBADR` is io_uring's error for lost
/// completions. Errors that the manual pages do not list come from a filter between program and
/// kernel, and may pass. The sleep keeps the CPU free.
#[cold]
pub(crate) fn retry_or_abort(call: fmt::Arguments<'_>, errno: Errno, times: &mut u32) {
    const TRIES: u32 = 100;
    *times += 1;
    if matches!(
        errno.raw(),
        libc::EBADF | libc::EFAULT | libc::EINVAL | libc::EBADR
    ) || *times == TRIES
    {
        Linux::new().abort(format_args!(
            "gopark: {call} has failed: {errno} (closed, or refused by seccomp?)"
        ));
    }
    let millisecond = timespec_longs(1_000_000);
    // Not a futex wait: futex may be the call that fails.
    // SAFETY: two longs are readable, and the rest of the time is not asked for.
    unsafe {
        libc::syscall(
            libc::SYS_nanosleep,
            millisecond.as_ptr(),
            ptr::null_mut::<libc::c_long>(),
        )
    };
}

/// A descriptor that is closed on drop.
pub(crate) struct OwnedFd(pub(crate) i32);

impl OwnedFd {
    fn borrow(&self) -> Borrowed<'_> {
        // SAFETY: `self` keeps the descriptor open.
        unsafe { Borrowed::new(self.0) }
    }

    fn into_raw(self) -> i32 {
        let fd = self.0;
        core::mem::forget(self);
        fd
    }
}

impl Drop for OwnedFd {
    fn drop(&mut self) {
        io::close(self.0);
    }
}

/// Bytes of the paths that this module reads. The directory of a control group may be long.
const PATH_MAX: usize = 1024;

/// Reads a small file into `buffer`. `None` if it cannot be read or does not fit.
fn read_file<'a>(path: fmt::Arguments<'_>, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut name = [0; PATH_MAX];
    // The last byte stays zero and ends the C string.
    Text::new(&mut name[..PATH_MAX - 1]).write_fmt(path).ok()?;
    // SAFETY: `name` is a C string.
    let file = OwnedFd(
        check(unsafe {
            libc::syscall(
                libc::SYS_openat,
                libc::AT_FDCWD,
                name.as_ptr(),
                libc::O_RDONLY | libc::O_CLOEXEC,
            )
        } as isize)
        .ok()? as i32,
    );
    let mut len = 0;
    loop {
        match io::read(file.borrow(), buffer.get_mut(len..)?) {
            Outcome::Done(0) => return buffer.get(..len),
            Outcome::Done(count) => len += count,
            Outcome::Interrupted => {}
            Outcome::WouldBlock | Outcome::Failed(_) => return None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use core::sync::atomic::Ordering;
    use std::boxed::Box;
    use std::fs::{self, File};
    use std::io::Read;
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::string::String;
    use std::sync::{PoisonError, RwLock, mpsc};
    use std::time::Duration;
    use std::{format, thread};

    const MILLISECOND: Nanos = 1_000_000;

    /// A non-blocking pipe: its reading and its writing end.
    pub(crate) fn pipe() -> (File, File) {
        let mut fds = [0; 2];
        // SAFETY: room for two descriptors.
        check(
            unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } as isize,
        )
        .unwrap();
        // SAFETY: both descriptors are new, and no other code has them.
        let [reader, writer] = fds.map(|fd| unsafe { File::from_raw_fd(fd) });
        (reader, writer)
    }

    /// Lends a descriptor that the test owns, or a number that is not a descriptor.
    pub(crate) fn lend(fd: i32) -> Borrowed<'static> {
        // SAFETY: no test here uses it after it has closed the descriptor.
        unsafe { Borrowed::new(fd) }
    }

    /// Held while a child runs. Children inherit the descriptors of all tests.
    static CHILDREN: RwLock<()> = RwLock::new(());

    /// Until the guard is dropped, no child keeps a socket of the test open.
    pub(crate) fn without_children() -> impl Drop {
        CHILDREN.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `passed` in a forked child and returns its wait status: 0 if `passed` returns true. For
    /// tests that would disturb the others.
    pub(crate) fn in_child(passed: impl FnOnce() -> bool) -> i32 {
        let _children = CHILDREN.read();
        // SAFETY: the child makes system calls, allocates, which libc permits here, and exits
        // without running exit handlers.
        match unsafe { libc::fork() } {
            0 => {
                // Without this, a panic would end the test in the child, which would then exit with
                // 0.
                let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(passed));
                let status = if matches!(passed, Ok(true)) { 0 } else { 1 };
                // SAFETY: ends the process.
                unsafe { libc::_exit(status) }
            }
            child => {
                let mut status = 0;
                // SAFETY: `status` is writable.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                status
            }
        }
    }

    /// What a forked child writes to its standard error before `fatal` aborts it.
    pub(crate) fn last_words(fatal: impl FnOnce()) -> String {
        let (mut reader, writer) = pipe();
        // Children of other tests may keep the writing end open: the end of the pipe is waited for.
        // SAFETY: no memory is passed.
        unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETFL, 0) };
        let status = in_child(|| {
            // SAFETY: no memory is passed.
            unsafe { libc::dup2(writer.as_raw_fd(), 2) };
            fatal();
            false
        });
        drop(writer);
        let mut printed = std::vec::Vec::new();
        reader.read_to_end(&mut printed).unwrap();
        let printed = String::from_utf8_lossy(&printed).into_owned();
        assert!(
            libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT,
            "{status:#x}: {printed}"
        );
        printed
    }

    pub(crate) fn is_open(fd: i32) -> bool {
        // SAFETY: no memory is passed.
        unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
    }

    /// Makes `signal` interrupt system calls.
    pub(crate) fn handle_signal(signal: i32) {
        extern "C" fn nothing(_: i32) {}
        // SAFETY: all zeroes is an action with no mask and no flags; the handler does nothing.
        unsafe {
            let mut action: libc::sigaction = core::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            assert_eq!(libc::sigaction(signal, &action, ptr::null_mut()), 0);
        }
    }

    fn thread_id() -> i32 {
        // SAFETY: no memory is passed.
        unsafe { libc::gettid() }
    }

    /// Waits until thread `id` sleeps in the kernel or has ended.
    fn asleep(id: i32) {
        let running = || {
            let stat = fs::read_to_string(format!("/proc/self/task/{id}/stat")).ok()?;
            Some(stat.rsplit_once(')')?.1.starts_with(" R"))
        };
        while running() == Some(true) {
            thread::yield_now();
        }
    }

    #[test]
    fn the_clock_advances_and_is_positive() {
        let os = Linux::new();
        let first = os.now();
        assert!(first > 0);
        while os.now() == first {}
        assert!(os.now() > first);
    }

    #[test]
    fn a_futex_wait_ends_by_timeout_and_not_before() {
        let os = Linux::new();
        let word = AtomicU32::new(0);
        let start = os.now();
        // A spurious return is allowed, so the loop checks the deadline.
        while os.now() < start + MILLISECOND {
            os.futex_wait(&word, 0, Some(start + MILLISECOND - os.now()));
        }
        os.futex_wait(&word, 0, Some(-1));
    }

    #[test]
    fn a_futex_wait_on_a_changed_word_does_not_sleep() {
        Linux::new().futex_wait(&AtomicU32::new(1), 0, None);
    }

    #[test]
    fn a_futex_wake_ends_a_wait() {
        static WORD: AtomicU32 = AtomicU32::new(0);
        let (sender, receiver) = mpsc::channel();
        let sleeper = thread::spawn(move || {
            sender.send(thread_id()).unwrap();
            while WORD.load(Ordering::Acquire) == 0 {
                Linux::new().futex_wait(&WORD, 0, None);
            }
        });
        asleep(receiver.recv().unwrap());
        WORD.store(1, Ordering::Release);
        Linux::new().futex_wake(&WORD);
        sleeper.join().unwrap();
    }

    #[test]
    fn a_futex_wake_of_a_word_that_is_gone_is_harmless() {
        Linux::new().futex_wake(ptr::without_provenance(8));
    }

    #[test]
    fn a_spawned_thread_has_its_argument_and_a_name() {
        type Report = (usize, String);
        fn entry(arg: usize) {
            // SAFETY: the test gives each thread a leaked sender of its own.
            let sender = unsafe {
                Box::from_raw(ptr::with_exposed_provenance_mut::<mpsc::Sender<Report>>(
                    arg,
                ))
            };
            sender
                .send((arg, fs::read_to_string("/proc/thread-self/comm").unwrap()))
                .unwrap();
        }
        let (sender, receiver) = mpsc::channel::<Report>();
        let arg = Box::into_raw(Box::new(sender)).expose_provenance();
        Linux::new().spawn(format_args!("m7"), entry, arg).unwrap();
        assert_eq!(
            receiver.recv_timeout(Duration::from_secs(10)).unwrap(),
            (arg, "gopark-m7\n".into())
        );
    }

    #[test]
    fn a_thread_that_cannot_start_is_an_error() {
        let status = in_child(|| {
            let none = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // RLIMIT_AS, because root is exempt from RLIMIT_NPROC.
            // SAFETY: `none` is readable.
            unsafe { libc::setrlimit(libc::RLIMIT_AS, &none) };
            // The first threads may get stacks that libc has cached.
            (0..1000).any(|_| {
                Linux::new()
                    .spawn(format_args!("m0"), |_| thread::park(), 0)
                    .is_err()
            })
        });
        assert_eq!(status, 0);
    }

    #[test]
    fn a_futex_wake_that_the_kernel_refuses_aborts_with_a_message() {
        let misaligned = || Linux::new().futex_wake(ptr::without_provenance(3));
        let printed = last_words(misaligned);
        assert!(
            printed.starts_with("gopark: futex has failed: errno 22 "),
            "{printed}"
        );
    }

    #[test]
    fn abort_prints_one_cut_line_and_raises_sigabrt() {
        let printed = last_words(|| {
            Linux::new().abort(format_args!(
                "corrupt word {:#x} {}",
                0xbad,
                "é".repeat(LINE_MAX)
            ))
        });
        assert!(printed.starts_with("corrupt word 0xbad é") && printed.ends_with('\n'));
        assert_eq!(printed.len(), LINE_MAX);
    }
}
