//! The fuzz target `backend`: random writes, reads and closes on pipes and socket pairs, and the
//! poller's reports compared with what `poll(2)` says of the same descriptors.
//!
//! The model is the contract of `Netpoll`. A direction that is armed and ready must be reported by
//! the next poll; by an edge-triggered poller only if it has become ready since its last report.
//! Every report must have been true at some time since then, and carry the token of the current
//! registration. Without new events, polls report nothing. A wake ends one poll that waits, and no
//! poll without delay.
#![allow(
    unsafe_code,
    reason = "pipes, and poll(2) as the reference, are libc's"
)]

use crate::reports_levels;
use gopark_backends::Poller;
use gopark_core::os::{Delay, Events, Mode, Nanos, Netpoll, Ready};
use gopark_core::tagptr::{ALIGN, TaggedPtr};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

const PAIRS: usize = 3;
const MODES: [Mode; 2] = [Mode::Read, Mode::Write];
const BITS: [Ready; 2] = [Ready::READ, Ready::WRITE];

/// Nanoseconds: a poll that takes longer has lost its event.
const LONG: Nanos = 20_000_000_000;

/// One end of a pipe or of a socket pair.
struct End {
    fd: Option<OwnedFd>,
    is_socket: bool,
    /// What its events carry, while it is registered.
    token: Option<TaggedPtr>,
    /// The last answer of poll(2), and all its answers since the last report.
    level: Ready,
    been: Ready,
    /// For each direction: whether it has become ready since its last report, and whether it was
    /// armed since then.
    risen: [bool; 2],
    armed: [bool; 2],
}

struct Driver<'a> {
    poller: &'a dyn Netpoll,
    /// Whether the poller is level-triggered: it reports what is armed and ready. Others report
    /// changes.
    levels: bool,
    ends: [End; 2 * PAIRS],
    /// The number of registrations so far.
    uses: u32,
    wake: bool,
}

std::thread_local! {
    /// The pollers of this thread, each made when it is first used.
    static POLLERS: RefCell<HashMap<Poller, Rc<dyn Netpoll>>> = RefCell::default();
}

fn of_this_thread(poller: Poller) -> Rc<dyn Netpoll> {
    let make = || {
        // SAFETY: it changes how SIGPIPE is handled: a write to a pipe without a reader must fail,
        // not end the process.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        poller.init().unwrap().into()
    };
    POLLERS.with_borrow_mut(|pollers| pollers.entry(poller).or_insert_with(make).clone())
}

/// Runs a program over each poller that is compiled in.
pub fn fuzz_all(input: &[u8]) {
    Poller::compiled().for_each(|poller| fuzz(poller, input));
}

/// Runs a program over `poller`. Each byte is one step: what to do (4 bits), at which end (3), and
/// how (1).
pub fn fuzz(poller: Poller, input: &[u8]) {
    let none = || End {
        fd: None,
        is_socket: false,
        token: None,
        level: Ready::empty(),
        been: Ready::empty(),
        risen: [false; 2],
        armed: [false; 2],
    };
    let made = of_this_thread(poller);
    let mut driver = Driver {
        poller: &*made,
        levels: reports_levels(poller),
        ends: [(); 2 * PAIRS].map(|()| none()),
        uses: 0,
        wake: false,
    };
    for &step in input {
        driver.step(
            step & 15,
            usize::from(step >> 4 & 7) % (2 * PAIRS),
            usize::from(step >> 7),
        );
    }
    driver.settle();
    for at in 0..2 * PAIRS {
        driver.close(at);
    }
    driver.wait();
    driver.settle();
}

impl Driver<'_> {
    fn step(&mut self, what: u8, at: usize, how: usize) {
        match what {
            0 | 1 => self.make(at, what == 0),
            2 => self.register(at),
            3 => self.unregister(at),
            4 | 5 => self.arm(at, how),
            6 => _ = self.write(at, 1 + 100 * how),
            7 => while self.write(at, 1024) {},
            8 => _ = self.read(at, 1 + 1023 * how),
            9 => while self.read(at, 4096) {},
            10 => self.close(at),
            11 if self.ends[at].is_socket => {
                if let Some(fd) = &self.ends[at].fd {
                    // SAFETY: a system call on a descriptor of ours.
                    unsafe { libc::shutdown(fd.as_raw_fd(), [libc::SHUT_WR, libc::SHUT_RD][how]) };
                }
            }
            12 | 13 => return self.settle(),
            14 => {
                self.poller.wake();
                self.wake = true;
            }
            _ => return self.wait(),
        }
        self.look();
    }

    /// Replaces `at` and its neighbour by both ends of a new pair.
    fn make(&mut self, at: usize, socket: bool) {
        let at = at & !1;
        self.close(at);
        self.close(at + 1);
        let fds = if socket { socket_pair() } else { pipe() };
        for (end, fd) in self.ends[at..].iter_mut().zip(fds) {
            (end.fd, end.is_socket, end.level) = (Some(fd), socket, Ready::empty());
        }
    }

    fn register(&mut self, at: usize) {
        let end = &mut self.ends[at];
        let Some(fd) = &end.fd else { return };
        if end.token.is_some() {
            return;
        }
        self.uses += 1;
        let token = TaggedPtr::pack(ALIGN * (1 + at), self.uses);
        self.poller.open(fd.as_raw_fd(), token).unwrap();
        end.token = Some(token);
        (end.level, end.been) = (Ready::empty(), Ready::empty());
        (end.risen, end.armed) = ([false; 2], [false; 2]);
    }

    fn unregister(&mut self, at: usize) {
        let end = &mut self.ends[at];
        if end.token.take().is_some() {
            self.poller.close(
                end.fd
                    .as_ref()
                    .expect("what is registered is open")
                    .as_raw_fd(),
            );
        }
    }

    fn arm(&mut self, at: usize, side: usize) {
        let end = &mut self.ends[at];
        if let (Some(fd), Some(token)) = (&end.fd, end.token) {
            self.poller.arm(fd.as_raw_fd(), token, MODES[side]);
            end.armed[side] = true;
        }
    }

    fn close(&mut self, at: usize) {
        self.unregister(at);
        self.ends[at].fd = None;
        self.look();
    }

    /// Whether bytes were written.
    fn write(&self, at: usize, count: usize) -> bool {
        let Some(fd) = &self.ends[at].fd else {
            return false;
        };
        let bytes = [0u8; 1024];
        // SAFETY: `bytes` is readable for `count`, which is at most its length.
        unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), count) > 0 }
    }

    /// Whether bytes were read.
    fn read(&self, at: usize, count: usize) -> bool {
        let Some(fd) = &self.ends[at].fd else {
            return false;
        };
        let mut bytes = [0u8; 4096];
        // SAFETY: `bytes` is writable for `count`, which is at most its length.
        unsafe { libc::read(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), count) > 0 }
    }

    /// Asks poll(2) about every registered end, after an event.
    fn look(&mut self) {
        for end in self.ends.iter_mut().filter(|end| end.token.is_some()) {
            let level = level(end.fd.as_ref().expect("what is registered is open"));
            let news = level - end.level;
            // A hang-up or an error makes both directions ready.
            for (risen, bit) in end.risen.iter_mut().zip(BITS) {
                *risen |=
                    news.contains(bit) || level.contains(bit) && news.intersects(Ready::HANGUP);
            }
            (end.level, end.been) = (level, end.been | level);
        }
    }

    /// Polls without waiting until nothing is reported. Fails if something that had to be reported
    /// was not.
    fn settle(&mut self) {
        self.look();
        let owed = self.owed();
        let mut reported = [Ready::empty(); 2 * PAIRS];
        let mut rounds = 0;
        while self.poll(Delay::None, &mut reported) {
            rounds += 1;
            assert!(rounds < 3, "reports go on though nothing happens");
        }
        for (at, (owed, reported)) in owed.into_iter().zip(reported).enumerate() {
            assert!(
                reported.contains(owed),
                "end {at} is {owed:?}, reported is {reported:?}"
            );
        }
    }

    /// Polls with a wait, if there is a reason for the poll to end.
    fn wait(&mut self) {
        self.look();
        let owed = self.owed();
        if !self.wake && owed.iter().all(|owed| owed.is_empty()) {
            return;
        }
        let before = Instant::now();
        let mut reported = [Ready::empty(); 2 * PAIRS];
        self.poll(Delay::AtMost(LONG), &mut reported);
        assert!(
            before.elapsed() < Duration::from_nanos(LONG as u64 / 2),
            "a poll sleeps over {owed:?}, wake {}",
            self.wake
        );
        self.wake = false;
    }

    /// What must be reported, by end.
    fn owed(&self) -> [Ready; 2 * PAIRS] {
        core::array::from_fn(|at| {
            let end = &self.ends[at];
            let mut owed = Ready::empty();
            for (side, bit) in BITS.into_iter().enumerate() {
                owed.set(
                    bit,
                    end.token.is_some()
                        && end.armed[side]
                        && end.level.contains(bit)
                        && (self.levels || end.risen[side]),
                );
            }
            owed
        })
    }

    /// Polls once and adds what it reports. Returns whether it reported anything.
    fn poll(&mut self, delay: Delay, reported: &mut [Ready; 2 * PAIRS]) -> bool {
        let mut events = Events::new();
        self.poller.poll(delay, &mut events);
        for event in &events {
            // A late event may carry the token of an earlier registration.
            assert!(
                (1..=self.uses).contains(&event.token.tag()),
                "no end was registered as {:?}",
                event.token
            );
            let Some(at) = self
                .ends
                .iter()
                .position(|end| end.token == Some(event.token))
            else {
                continue;
            };
            let end = &mut self.ends[at];
            assert!(
                (end.been | Ready::ERROR).contains(event.ready),
                "end {at}: {:?} is reported, but it has been {:?}",
                event.ready,
                end.been
            );
            for (side, bit) in BITS.into_iter().enumerate() {
                if event.ready.contains(bit) {
                    (end.risen[side], end.armed[side]) = (false, false);
                }
            }
            end.been = end.level;
            reported[at] |= event.ready;
        }
        !events.is_empty()
    }
}

/// The answer of poll(2) for a descriptor, by the table on [`Ready`].
fn level(fd: &OwnedFd) -> Ready {
    let mut entry = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP | libc::POLLPRI,
        revents: 0,
    };
    // SAFETY: one writable entry.
    while unsafe { libc::poll(&mut entry, 1, 0) } < 0 {
        // The fuzzer's alarm may interrupt even a call that does not wait.
        let error = io::Error::last_os_error();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted, "poll: {error}");
    }
    let has = |bits| entry.revents & bits != 0;
    let ended = has(libc::POLLHUP | libc::POLLERR);
    let mut ready = Ready::empty();
    ready.set(
        Ready::READ,
        ended || has(libc::POLLIN | libc::POLLRDHUP | libc::POLLPRI),
    );
    ready.set(Ready::WRITE, ended || has(libc::POLLOUT));
    ready.set(Ready::HANGUP, ended || has(libc::POLLRDHUP | libc::POLLPRI));
    ready
}

/// A socket pair with buffers of a few kilobytes.
fn socket_pair() -> [OwnedFd; 2] {
    let (a, b) = UnixStream::pair().unwrap();
    [a, b].map(|end| {
        end.set_nonblocking(true).unwrap();
        socket2::SockRef::from(&end)
            .set_send_buffer_size(4096)
            .unwrap();
        end.into()
    })
}

/// A pipe with a buffer of one page.
fn pipe() -> [OwnedFd; 2] {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for two.
    let result = unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    // SAFETY: both are new.
    let ends = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: a system call on a descriptor of ours.
    unsafe { libc::fcntl(ends[0].as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
    ends
}
