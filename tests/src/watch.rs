//! A poller used as core uses it: a waiter arms first, readiness is latched until a waiter takes
//! it, and it may be spurious.
//!
//! A test over it passes with edge- and level-triggered pollers, if no readiness is lost.
#![allow(unsafe_code, reason = "descriptors and signals are libc's")]

use crate::LIMIT;
use gopark_backends::Poller;
use gopark_backends::linux::io;
use gopark_core::os::{Borrowed, Delay, Errno, Event, Events, Mode, Netpoll, Outcome, Ready};
use gopark_core::tagptr::{ALIGN, TaggedPtr};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::Instant;

/// The token with tag `tag`.
pub fn token(tag: u32) -> TaggedPtr {
    TaggedPtr::pack(ALIGN, tag)
}

/// Lends a test's descriptor.
pub fn lend(fd: &impl AsRawFd) -> Borrowed<'_> {
    // SAFETY: the test owns the descriptor and has borrowed it here, or the number is not open.
    unsafe { Borrowed::new(fd.as_raw_fd()) }
}

/// The events of one poll.
pub fn poll(poller: &impl Deref<Target = dyn Netpoll>, delay: Delay) -> Vec<Event> {
    let mut events = Events::new();
    poller.poll(delay, &mut events);
    events.to_vec()
}

/// A poller for one thread, with the readiness that it has reported and no waiter has taken.
pub struct Watch {
    /// The poller.
    pub poller: Box<dyn Netpoll>,
    latched: RefCell<HashMap<u32, Ready>>,
    seen: RefCell<HashMap<u32, Ready>>,
}

impl Watch {
    /// A poller that watches nothing.
    pub fn new(poller: Poller) -> Self {
        Watch {
            poller: poller.init().unwrap(),
            latched: RefCell::default(),
            seen: RefCell::default(),
        }
    }

    /// A poller that watches `fd` under tag 1.
    pub fn of(poller: Poller, fd: &impl AsRawFd) -> Self {
        let watch = Self::new(poller);
        watch.open(fd, 1);
        watch
    }

    /// Watches `fd` under `tag`.
    #[track_caller]
    pub fn open(&self, fd: &impl AsRawFd, tag: u32) {
        self.poller.open(fd.as_raw_fd(), token(tag)).unwrap();
    }

    /// Polls once and latches what is reported. Returns the number of events.
    pub fn poll(&self, delay: Delay) -> usize {
        let events = poll(&self.poller, delay);
        for event in &events {
            let tag = event.token.tag();
            assert_eq!(event.token, token(tag), "a token that was never registered");
            *self
                .latched
                .borrow_mut()
                .entry(tag)
                .or_insert(Ready::empty()) |= event.ready;
            // `ERROR` holds only for the last event.
            let mut seen = self.seen.borrow_mut();
            let seen = seen.entry(tag).or_insert(Ready::empty());
            *seen = seen.difference(Ready::ERROR) | event.ready;
        }
        events.len()
    }

    /// Everything that was reported for `tag`.
    pub fn seen(&self, tag: u32) -> Ready {
        self.seen
            .borrow()
            .get(&tag)
            .copied()
            .unwrap_or(Ready::empty())
    }

    /// Arms `fd`, watched under `tag`, and waits until it is reported ready.
    #[track_caller]
    pub fn wait(&self, fd: &impl AsRawFd, tag: u32, mode: Mode) {
        self.poller.arm(fd.as_raw_fd(), token(tag), mode);
        self.wait_armed(tag, mode);
    }

    /// Like `wait`, for a direction that is already armed.
    #[track_caller]
    pub fn wait_armed(&self, tag: u32, mode: Mode) {
        let direction = direction(mode);
        let start = Instant::now();
        while !self.latched(tag).contains(direction) {
            let rest = LIMIT.checked_sub(start.elapsed());
            let rest = rest.unwrap_or_else(|| panic!("lost: {mode:?} of tag {tag}"));
            self.poll(Delay::AtMost(rest.as_nanos().max(1) as i64));
        }
        self.forget(tag, mode);
    }

    /// Forgets the readiness reported so far, as an operation does before it asks the kernel.
    pub fn forget(&self, tag: u32, mode: Mode) {
        self.latched
            .borrow_mut()
            .entry(tag)
            .or_insert(Ready::empty())
            .remove(direction(mode));
    }

    fn latched(&self, tag: u32) -> Ready {
        self.latched
            .borrow()
            .get(&tag)
            .copied()
            .unwrap_or(Ready::empty())
    }

    /// Tries `op` until it does not block, and waits in between. Earlier readiness is forgotten.
    #[track_caller]
    pub fn operate<T>(
        &self,
        fd: &impl AsRawFd,
        tag: u32,
        mode: Mode,
        mut op: impl FnMut(Borrowed<'_>) -> Outcome<T>,
    ) -> Result<T, Errno> {
        self.forget(tag, mode);
        loop {
            match op(lend(fd)) {
                Outcome::Done(value) => return Ok(value),
                Outcome::WouldBlock => self.wait(fd, tag, mode),
                Outcome::Interrupted => {}
                Outcome::Failed(errno) => return Err(errno),
            }
        }
    }

    /// Reads once, and waits as long as there is nothing to read.
    #[track_caller]
    pub fn read(&self, fd: &impl AsRawFd, tag: u32, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.operate(fd, tag, Mode::Read, |fd| io::read(fd, buffer))
    }

    /// Reads `len` bytes, or fewer at the end of the stream, as core does: after a short read it
    /// waits before it asks the kernel again, unless a hang-up was reported.
    #[track_caller]
    pub fn read_spent(&self, fd: &impl AsRawFd, tag: u32, len: usize) -> Result<Vec<u8>, Errno> {
        let mut all = Vec::new();
        let mut buffer = [0; 16];
        self.forget(tag, Mode::Read);
        while all.len() < len {
            let n = loop {
                match io::read(lend(fd), &mut buffer) {
                    Outcome::Done(n) => break n,
                    Outcome::WouldBlock => self.wait(fd, tag, Mode::Read),
                    Outcome::Interrupted => {}
                    Outcome::Failed(errno) => return Err(errno),
                }
            };
            all.extend_from_slice(&buffer[..n]);
            match n {
                0 => break,
                _ if n == buffer.len() || self.seen(tag).contains(Ready::HANGUP) => {
                    self.forget(tag, Mode::Read)
                }
                _ if all.len() < len => self.wait(fd, tag, Mode::Read),
                _ => {}
            }
        }
        Ok(all)
    }

    /// Fails if the poller reports more than `expected` events that were not armed.
    #[track_caller]
    pub fn assert_quiet(&self, expected: usize) {
        let reported: usize = (0..20).map(|_| self.poll(Delay::None)).sum::<usize>()
            + self.poll(Delay::AtMost(2_000_000));
        assert!(
            reported <= expected,
            "{reported} events, {:?}",
            self.seen.borrow()
        );
    }
}

fn direction(mode: Mode) -> Ready {
    match mode {
        Mode::Read => Ready::READ,
        Mode::Write => Ready::WRITE,
    }
}

/// Makes `fd` non-blocking.
pub fn nonblocking<T: AsFd>(fd: T) -> T {
    socket2::SockRef::from(&fd).set_nonblocking(true).unwrap();
    fd
}

/// A non-blocking pipe: its reading and its writing end.
pub fn pipe() -> (File, File) {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    let result = unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) };
    assert_eq!(result, 0);
    // SAFETY: both are new and ours.
    let [reader, writer] = fds.map(|fd| unsafe { File::from_raw_fd(fd) });
    (reader, writer)
}

/// A non-blocking eventfd with nothing to read.
pub fn eventfd() -> OwnedFd {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    assert!(fd >= 0);
    // SAFETY: new, and ours.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The master and the slave of a terminal in raw mode, non-blocking.
pub fn terminal() -> (File, File) {
    let mut fds = [0; 2];
    let [master, slave] = &mut fds;
    // SAFETY: room for both descriptors; the other arguments may be null. All zeroes is a
    // `termios`, which tcgetattr fills.
    unsafe {
        let null = std::ptr::null_mut();
        assert_eq!(
            libc::openpty(master, slave, null, null.cast(), null.cast()),
            0
        );
        let mut settings = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(*slave, &mut settings), 0);
        libc::cfmakeraw(&mut settings);
        assert_eq!(libc::tcsetattr(*slave, libc::TCSANOW, &settings), 0);
    }
    // SAFETY: both are new and ours.
    let [master, slave] = fds.map(|fd| unsafe { File::from_raw_fd(fd) });
    (nonblocking(master), nonblocking(slave))
}

/// Writes until the buffer is full.
pub fn fill(fd: &impl AsRawFd) {
    while io::write(lend(fd), &[7; 4096]) != Outcome::WouldBlock {}
}

/// The kernel's id of this thread.
pub fn thread_id() -> i32 {
    // SAFETY: no memory is passed.
    unsafe { libc::gettid() }
}

/// The state of thread `id` in `/proc`: `R` runs, `S` sleeps, `D` sleeps and cannot be interrupted.
/// `None` if it has ended.
pub fn state_of(id: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/self/task/{id}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Waits until thread `id` sleeps in the kernel or has ended.
pub fn asleep(id: i32) {
    while state_of(id) == Some('R') {
        thread::yield_now();
    }
}

/// How often the handler of [`interrupt`]'s signal has run.
pub static INTERRUPTS: AtomicU32 = AtomicU32::new(0);

/// Interrupts the system call of thread `id`.
pub fn interrupt(id: i32) {
    extern "C" fn note(_: i32) {
        INTERRUPTS.fetch_add(1, SeqCst);
    }
    // SAFETY: all zeroes is an action with an empty mask and no flags; the handler is
    // async-signal-safe. For a thread that has ended, `tgkill` fails.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = note as *const () as usize;
        assert_eq!(
            libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()),
            0
        );
        libc::syscall(libc::SYS_tgkill, libc::getpid(), id, libc::SIGUSR1);
    }
}
