//! The edge-triggered epoll poller.
//!
//! Goal: no system call for a wait but the waiting itself. A descriptor is added once, for both directions, and from then on every
//! change of its readiness arrives as one event, whoever waits; the waiter words of core latch it.
//!
//! Refused: level-triggered or one-shot registration, which costs an `epoll_ctl` for each wait that the latch makes unnecessary; a
//! `timerfd` for delays below a millisecond, where `epoll_pwait2` needs no second descriptor; a signal as wake-up, which is lost if
//! it lands just before the wait.
//!
//! The hard race is the wake-up: several threads may ask for one while the sleeper is about to sleep, sleeps, or has just returned.
//! An eventfd holds the request until a waiting poll drains it; `wake_sig` keeps all but the first waker from writing to it.

#![allow(unsafe_code, reason = "the epoll and eventfd system calls, and the tokens that they keep")]

use crate::linux::{OwnedFd, check};
use crate::wake::WakeSig;
use core::mem::MaybeUninit;
use core::ptr;
use core::slice;
use core::sync::atomic::{AtomicBool, Ordering};
use gopark_core::os::{Delay, EVENT_BATCH, Errno, Event, Events, Nanos, Netpoll, Ready};
use gopark_core::tagptr::TaggedPtr;

/// An epoll instance and the eventfd that wakes it.
///
/// # Panics
///
/// `poll` and `wake` panic if the kernel refuses either descriptor: somebody else closed it, and nothing would ever become ready again.
/// So does `poll` if its batch is not empty and overflows.
pub struct Epoll {
    epfd: OwnedFd,
    /// Registered level-triggered under [`TaggedPtr::NULL`]: it shows in every poll until a waiting one drains it.
    eventfd: OwnedFd,
    wake_sig: WakeSig,
    /// The kernel (before 5.11) or a seccomp filter has refused `epoll_pwait2`.
    no_pwait2: AtomicBool,
}

bitflags::bitflags! {
    /// An epoll event mask.
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct Mask: u32 {
        const IN = libc::EPOLLIN as u32;
        const PRI = libc::EPOLLPRI as u32;
        const OUT = libc::EPOLLOUT as u32;
        const ERR = libc::EPOLLERR as u32;
        const HUP = libc::EPOLLHUP as u32;
        const RDHUP = libc::EPOLLRDHUP as u32;
        const ET = libc::EPOLLET as u32;
    }
}

/// What a descriptor is watched for; the kernel adds `ERR` and `HUP`.
const INTEREST: Mask = Mask::IN.union(Mask::OUT).union(Mask::RDHUP).union(Mask::PRI).union(Mask::ET);

type Buffer = [MaybeUninit<libc::epoll_event>; EVENT_BATCH];

const WOULD_BLOCK: Errno = Errno::new(libc::EAGAIN);
const INTERRUPTED: Errno = Errno::new(libc::EINTR);

// SAFETY: the kernel gives back the word that a descriptor was added with, and only `add` adds one. The eventfd's is kept here.
unsafe impl Netpoll for Epoll {
    fn init() -> Result<Self, Errno> {
        // SAFETY: no memory is passed.
        let epfd = OwnedFd(check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) } as isize)? as i32);
        // SAFETY: no memory is passed.
        let eventfd = OwnedFd(check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) } as isize)? as i32);
        let poller = Epoll { epfd, eventfd, wake_sig: WakeSig::new(), no_pwait2: AtomicBool::new(false) };
        poller.add(poller.eventfd.0, Mask::IN, TaggedPtr::NULL)?;
        Ok(poller)
    }

    fn open(&self, fd: i32, token: TaggedPtr) -> Result<(), Errno> {
        self.add(fd, INTEREST, token)
    }

    fn close(&self, fd: i32) {
        // Fails only for a descriptor that is not registered, and then nothing is left to do.
        // SAFETY: the kernel reads no event for a DEL.
        unsafe { libc::epoll_ctl(self.epfd.0, libc::EPOLL_CTL_DEL, fd, ptr::null_mut()) };
    }

    fn poll(&self, delay: Delay, events: &mut Events) {
        let mut buffer = [const { MaybeUninit::uninit() }; EVENT_BATCH];
        // `epoll_event` is packed on x86-64: its fields are copied, never borrowed.
        for &libc::epoll_event { events: mask, u64: bits } in self.wait(delay, &mut buffer) {
            let token = TaggedPtr::from_bits(bits);
            if token == TaggedPtr::NULL {
                self.wake_sig.seen(delay != Delay::None, || self.drain());
            } else {
                let pushed = events.push(Event { token, ready: ready(Mask::from_bits_retain(mask)) });
                pushed.expect("Netpoll::poll needs an empty batch");
            }
        }
    }

    fn wake(&self) {
        self.wake_sig.ask(|| {
            loop {
                let one = 1u64;
                // SAFETY: `one` is 8 readable bytes.
                match check(unsafe { libc::write(self.eventfd.0, (&raw const one).cast(), size_of_val(&one)) }) {
                    // EAGAIN: the counter is full, so it is readable.
                    Ok(_) | Err(WOULD_BLOCK) => return,
                    Err(INTERRUPTED) => {}
                    Err(errno) => panic!("write to the eventfd of a poller: {errno}"),
                }
            }
        });
    }
}

impl Epoll {
    fn add(&self, fd: i32, interest: Mask, token: TaggedPtr) -> Result<(), Errno> {
        let mut event = libc::epoll_event { events: interest.bits(), u64: token.to_bits() };
        // SAFETY: `event` lives through the call, and the kernel copies it.
        check(unsafe { libc::epoll_ctl(self.epfd.0, libc::EPOLL_CTL_ADD, fd, &mut event) } as isize).map(drop)
    }

    /// The events that the kernel wrote to the front of `buffer`.
    fn wait<'a>(&self, delay: Delay, buffer: &'a mut Buffer) -> &'a [libc::epoll_event] {
        let count = loop {
            let waited = match delay {
                Delay::None => self.epoll_wait(buffer, 0),
                Delay::Forever => self.epoll_wait(buffer, -1),
                Delay::AtMost(limit) => self.wait_at_most(buffer, limit),
            };
            match (waited, delay) {
                (Ok(count), _) => break count,
                // The rest of the delay is not known here.
                (Err(INTERRUPTED), Delay::AtMost(_)) => break 0,
                (Err(INTERRUPTED), _) => {}
                (Err(errno), _) => panic!("epoll_wait: {errno}"),
            }
        };
        let filled = &buffer[..count];
        // SAFETY: the kernel initialised these.
        unsafe { slice::from_raw_parts(filled.as_ptr().cast(), filled.len()) }
    }

    fn wait_at_most(&self, buffer: &mut Buffer, limit: Nanos) -> Result<usize, Errno> {
        if !self.no_pwait2.load(Ordering::Relaxed) {
            match self.epoll_pwait2(buffer, limit) {
                Err(errno) if matches!(errno.raw(), libc::ENOSYS | libc::EPERM) => self.no_pwait2.store(true, Ordering::Relaxed),
                waited => return waited,
            }
        }
        self.epoll_wait(buffer, millis_rounded_up(limit))
    }

    fn epoll_wait(&self, buffer: &mut Buffer, millis: i32) -> Result<usize, Errno> {
        // SAFETY: the kernel writes at most EVENT_BATCH events, which is the length of `buffer`.
        check(unsafe { libc::epoll_wait(self.epfd.0, buffer.as_mut_ptr().cast(), EVENT_BATCH as i32, millis) } as isize)
    }

    fn epoll_pwait2(&self, buffer: &mut Buffer, limit: Nanos) -> Result<usize, Errno> {
        // The kernel's own layout, also where libc's `timespec` has 32-bit fields.
        let timeout: [i64; 2] = [limit / 1_000_000_000, limit % 1_000_000_000];
        let no_sigmask = ptr::null::<libc::sigset_t>();
        // SAFETY: as for `epoll_wait`; `timeout` is what a `__kernel_timespec` is, and the null mask leaves signals as they are.
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

    /// Empties the eventfd.
    fn drain(&self) {
        let mut count = 0u64;
        // A failed read leaves the eventfd readable: the next poll returns at once and drains it, so nothing is lost.
        // SAFETY: `count` is 8 writable bytes.
        unsafe { libc::read(self.eventfd.0, (&raw mut count).cast(), size_of_val(&count)) };
    }
}

/// The table on [`Ready`].
fn ready(mask: Mask) -> Ready {
    let ended = Mask::HUP | Mask::ERR;
    let mut ready = Ready::empty();
    ready.set(Ready::READ, mask.intersects(ended | Mask::IN | Mask::RDHUP | Mask::PRI));
    ready.set(Ready::WRITE, mask.intersects(ended | Mask::OUT));
    ready.set(Ready::HANGUP, mask.intersects(ended | Mask::RDHUP | Mask::PRI));
    ready.set(Ready::ERROR, mask == Mask::ERR);
    ready
}

/// Go's cap, eleven days and a half: the caller computes its next timer anew anyway.
const MILLIS_MAX: i64 = 1_000_000_000;

fn millis_rounded_up(limit: Nanos) -> i32 {
    let millis = limit / 1_000_000 + i64::from(limit % 1_000_000 != 0);
    millis.min(MILLIS_MAX) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::Linux;
    use crate::linux::io;
    use crate::linux::tests::{SIGNALS, asleep, handle_signal, in_child, is_open, pipe, send_signal, thread_id};
    use gopark_core::os::{Os, Outcome};
    use gopark_core::tagptr::ALIGN;
    use std::fs::File;
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::sync::{Arc, mpsc};
    use std::thread;
    use std::vec::Vec;

    const SECOND: Nanos = 1_000_000_000;

    fn token(tag: u32) -> TaggedPtr {
        TaggedPtr::pack(ALIGN, tag)
    }

    /// Tags, and what they are ready for.
    type Polled = Vec<(u32, Ready)>;

    fn poll(poller: &Epoll, delay: Delay) -> Polled {
        let mut events = Events::new();
        poller.poll(delay, &mut events);
        events.iter().map(|event| (event.token.tag(), event.ready)).collect()
    }

    /// A poller that watches `fd` under tag 1.
    fn watch(fd: &impl AsRawFd) -> Epoll {
        let poller = Epoll::init().unwrap();
        poller.open(fd.as_raw_fd(), token(1)).unwrap();
        poller
    }

    /// A poller, and a thread that sleeps in it with its id.
    fn sleep_in(delay: Delay) -> (Arc<Epoll>, thread::JoinHandle<Polled>, i32) {
        let poller = Arc::new(Epoll::init().unwrap());
        let (sender, receiver) = mpsc::channel();
        let sleeper = thread::spawn({
            let poller = poller.clone();
            move || {
                sender.send(thread_id()).unwrap();
                poll(&poller, delay)
            }
        });
        let id = receiver.recv().unwrap();
        asleep(id);
        (poller, sleeper, id)
    }

    #[test]
    fn readiness_from_before_open_is_reported() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"x").unwrap();
        assert_eq!(poll(&watch(&ours), Delay::None), [(1, Ready::READ | Ready::WRITE)]);
    }

    #[test]
    fn a_change_is_reported_once() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let poller = watch(&ours);
        assert_eq!(poll(&poller, Delay::None), [(1, Ready::WRITE)]);
        assert_eq!(poll(&poller, Delay::None), []);
        for _ in 0..2 {
            theirs.write_all(b"x").unwrap();
            assert_eq!(poll(&poller, Delay::Forever), [(1, Ready::READ | Ready::WRITE)]);
            assert_eq!(poll(&poller, Delay::None), []);
        }
    }

    #[test]
    fn masks_map_as_the_table_on_ready_says() {
        let ended = Ready::READ | Ready::WRITE | Ready::HANGUP;
        for (mask, expected) in [
            (Mask::IN, Ready::READ),
            (Mask::RDHUP, Ready::READ | Ready::HANGUP),
            (Mask::PRI, Ready::READ | Ready::HANGUP),
            (Mask::OUT, Ready::WRITE),
            (Mask::HUP, ended),
            (Mask::ERR, ended | Ready::ERROR),
            (Mask::ERR | Mask::HUP, ended),
            (Mask::ERR | Mask::OUT, ended),
            (Mask::IN | Mask::OUT, Ready::READ | Ready::WRITE),
        ] {
            assert_eq!(ready(mask), expected, "mask {:#x}", mask.bits());
        }
    }

    #[test]
    fn a_peer_that_stops_writing_is_a_hangup_for_readers() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let poller = watch(&ours);
        poll(&poller, Delay::None);
        theirs.shutdown(Shutdown::Write).unwrap();
        assert_eq!(poll(&poller, Delay::Forever), [(1, Ready::READ | Ready::WRITE | Ready::HANGUP)]);
    }

    #[test]
    fn a_full_pipe_without_reader_is_nothing_but_an_error() {
        let (reader, writer) = pipe();
        while io::write(writer.as_raw_fd(), &[0; 4096]) != Outcome::WouldBlock {}
        let poller = watch(&writer);
        assert_eq!(poll(&poller, Delay::None), []);
        drop(reader);
        assert_eq!(poll(&poller, Delay::Forever), [(1, Ready::all())]);
    }

    #[test]
    fn a_broken_pipe_with_room_is_no_polling_error() {
        let (reader, writer) = pipe();
        drop(reader);
        assert_eq!(poll(&watch(&writer), Delay::None), [(1, Ready::READ | Ready::WRITE | Ready::HANGUP)]);
    }

    #[test]
    fn an_urgent_mark_is_a_hangup() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        let poller = watch(&ours);
        poll(&poller, Delay::None);
        // SAFETY: one readable byte.
        let sent = unsafe { libc::send(theirs.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) };
        assert_eq!(sent, 1);
        let [(1, ready)] = poll(&poller, Delay::Forever)[..] else { panic!("one event") };
        assert!(ready.contains(Ready::READ | Ready::HANGUP), "{ready:?}");
    }

    #[test]
    fn a_regular_file_cannot_be_polled() {
        let file = File::open("/proc/self/exe").unwrap();
        let poller = Epoll::init().unwrap();
        assert_eq!(poller.open(file.as_raw_fd(), token(1)), Err(Errno::new(libc::EPERM)));
    }

    #[test]
    fn a_closed_descriptor_is_silent_though_a_duplicate_is_open() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let poller = watch(&ours);
        let _duplicate = ours.try_clone().unwrap();
        poller.close(ours.as_raw_fd());
        theirs.write_all(b"x").unwrap();
        assert_eq!(poll(&poller, Delay::None), []);
        poller.close(ours.as_raw_fd());
    }

    #[test]
    fn what_exceeds_a_batch_stays_for_the_next() {
        let poller = Epoll::init().unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let watched: Vec<_> = (0..200).map(|_| ours.try_clone().unwrap()).collect();
        for (tag, fd) in watched.iter().enumerate() {
            poller.open(fd.as_raw_fd(), token(tag as u32)).unwrap();
        }
        let first = poll(&poller, Delay::None);
        let second = poll(&poller, Delay::None);
        assert_eq!((first.len(), second.len()), (EVENT_BATCH, 200 - EVENT_BATCH));
        let mut tags: Vec<_> = first.iter().chain(&second).map(|&(tag, _)| tag).collect();
        tags.sort();
        assert_eq!(tags, Vec::from_iter(0..200));
    }

    #[test]
    fn a_wake_ends_a_poll_that_sleeps() {
        let (poller, sleeper, _) = sleep_in(Delay::Forever);
        poller.wake();
        assert_eq!(sleeper.join().unwrap(), []);
    }

    #[test]
    fn a_poll_without_delay_leaves_the_wake_to_one_that_waits() {
        let poller = Epoll::init().unwrap();
        poller.wake();
        assert_eq!(poll(&poller, Delay::None), []);
        assert_eq!(poll(&poller, Delay::None), []);
        assert_eq!(poll(&poller, Delay::Forever), []);
    }

    #[test]
    fn wakes_that_nobody_took_count_as_one() {
        let poller = Epoll::init().unwrap();
        for _ in 0..3 {
            poller.wake();
        }
        assert_eq!(poll(&poller, Delay::Forever), []);
        let start = Linux::new().now();
        poll(&poller, Delay::AtMost(SECOND / 500));
        assert!(Linux::new().now() - start >= SECOND / 500, "a second wake was pending");
    }

    #[test]
    fn the_last_wake_is_not_lost_while_earlier_ones_are_drained() {
        let poller = Epoll::init().unwrap();
        let last = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..100_000 {
                    poller.wake();
                }
                last.store(true, Ordering::Relaxed);
                poller.wake();
            });
            // Relaxed is enough: who returns has acquired what the waker wrote.
            while !last.load(Ordering::Relaxed) {
                poll(&poller, Delay::Forever);
            }
        });
    }

    #[test]
    fn a_timed_poll_never_returns_early() {
        for no_pwait2 in [false, true] {
            let poller = Epoll::init().unwrap();
            poller.no_pwait2.store(no_pwait2, Ordering::Relaxed);
            for limit in [1, 999, 50_000, 1_000_000, 1_000_001, 2_500_000] {
                let start = Linux::new().now();
                assert_eq!(poll(&poller, Delay::AtMost(limit)), []);
                assert!(Linux::new().now() - start >= limit, "{limit} ns, no_pwait2: {no_pwait2}");
            }
        }
    }

    #[test]
    fn milliseconds_are_rounded_up_and_capped() {
        let rounded = [1, 999_999, 1_000_000, 1_000_001, Nanos::MAX].map(millis_rounded_up);
        assert_eq!(rounded, [1, 1, 1, 2, 1_000_000_000]);
    }

    #[test]
    fn an_event_ends_the_longest_delay() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(poll(&watch(&ours), Delay::AtMost(Nanos::MAX)), [(1, Ready::WRITE)]);
    }

    #[test]
    fn a_signal_ends_a_timed_poll() {
        handle_signal(libc::SIGUSR1);
        let (_poller, sleeper, id) = sleep_in(Delay::AtMost(3600 * SECOND));
        while !sleeper.is_finished() {
            send_signal(id, libc::SIGUSR1);
            thread::yield_now();
        }
        assert_eq!(sleeper.join().unwrap(), []);
    }

    #[test]
    fn a_signal_does_not_end_an_endless_poll() {
        handle_signal(libc::SIGUSR2);
        let (poller, sleeper, id) = sleep_in(Delay::Forever);
        send_signal(id, libc::SIGUSR2);
        while SIGNALS.load(Ordering::Acquire) & 1 << libc::SIGUSR2 == 0 {
            thread::yield_now();
        }
        asleep(id);
        assert!(!sleeper.is_finished(), "the signal ended the poll");
        poller.wake();
        sleeper.join().unwrap();
    }

    #[test]
    fn dropping_a_poller_closes_its_descriptors() {
        let status = in_child(|| {
            let poller = Epoll::init().unwrap();
            let fds = [poller.epfd.0, poller.eventfd.0];
            let open = fds.map(is_open);
            drop(poller);
            (open, fds.map(is_open)) == ([true; 2], [false; 2])
        });
        assert_eq!(status, 0);
    }
}
