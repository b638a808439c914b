//! What the scheduler asks of the simulated computer: threads, clock, memory and pollers.

use crate::computer::{FAR, State, Visibility, computer};
use crate::kernel::Kernel;
use gopark_core::os::{Delay, Errno, Events, Mode, Nanos, Netpoll, Os, ThreadState};
use gopark_core::tagptr::TaggedPtr;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// The simulated operating system. Its state is in the `Computer` of the run.
pub(crate) struct SimulatedOs;

/// Bytes of address space that a run may reserve: a few hundred stacks.
const ADDRESS_SPACE: usize = 32 << 20;

// SAFETY: the clock never goes back; the futex compares and goes to sleep in one step, because one
// real thread runs the whole simulation; reservations are mappings that no other run uses at the
// same time, zeroed for each run.
unsafe impl Os for SimulatedOs {
    fn now(&self) -> Nanos {
        computer().step("now", [0; 2]);
        computer().now()
    }

    fn futex_wait(&self, word: &AtomicU32, expected: u32, timeout: Option<Nanos>) {
        let computer = computer();
        // The timeout counts from the call, as the caller has just read the clock.
        let until = timeout.map_or(FAR, |timeout| computer.now().saturating_add(timeout));
        computer.step(
            "futex_wait",
            [expected.into(), timeout.map_or(0, |timeout| timeout as u64)],
        );
        if word.load(Ordering::Relaxed) != expected
            || computer.one_in(computer.odds.interrupt.saturating_mul(4))
        {
            return;
        }
        computer.switch(State::Futex {
            word: std::ptr::from_ref(word) as usize,
            until,
        });
        computer.note("futex_wait ends", [0; 2]);
    }

    fn futex_wake(&self, word: *const AtomicU32) {
        let computer = computer();
        computer.step("futex_wake", [0; 2]);
        computer.wake_where(
            |state| matches!(state, State::Futex { word: w, .. } if w == word as usize),
        );
        computer.step("futex_wake ends", [0; 2]);
    }

    fn spawn(&self, _: fmt::Arguments<'_>, entry: fn(usize), arg: usize) -> Result<(), Errno> {
        let computer = computer();
        let thread = computer.spawn(move || entry(arg));
        computer.note("spawn", [thread as u64, 0]);
        Ok(())
    }

    fn thread_id(&self) -> u32 {
        computer().current() as u32
    }

    fn thread_state(&self, thread: u32) -> ThreadState {
        computer().step("thread_state", [thread.into(), 0]);
        if matches!(
            computer().odds.visibility,
            Visibility::Clocks | Visibility::Nothing
        ) {
            return ThreadState::Unknown;
        }
        match computer().state(thread as usize) {
            State::Futex { .. } | State::Poll { .. } => ThreadState::Blocked(Some(0)),
            // For the scheduler, a thread that computes until an even time is blocked in a system
            // call of its own.
            State::Busy(until) if until % 2 == 0 => ThreadState::Blocked(Some(1)),
            _ => ThreadState::Running,
        }
    }

    /// The clock of a blocked thread stands still. Every other thread has a CPU of its own.
    fn cpu_time(&self, thread: u32) -> Nanos {
        let now = self.now();
        match (
            computer().odds.visibility,
            computer().state(thread as usize),
        ) {
            (Visibility::States | Visibility::Nothing, _) => 0,
            (_, State::Futex { .. } | State::Poll { .. }) => 1,
            (_, State::Busy(until)) if until % 2 == 0 => 1,
            _ => now,
        }
    }

    fn barrier(&self) -> bool {
        computer().step("barrier", [0; 2]);
        true
    }

    fn yield_thread(&self) {
        let computer = computer();
        computer.step("yield_thread", [0; 2]);
        computer.switch(State::Yields);
    }

    fn reserve(&self, len: usize) -> Result<NonNull<u8>, Errno> {
        if len > ADDRESS_SPACE {
            return Err(Errno::new(crate::kernel::ENOMEM));
        }
        Ok(computer().reserve(len))
    }

    unsafe fn open(&self, start: NonNull<u8>, len: usize) -> Result<(), Errno> {
        computer().open(start, len);
        Ok(())
    }

    unsafe fn guard(&self, start: NonNull<u8>, len: usize) -> Result<(), Errno> {
        computer().guard(start, len);
        Ok(())
    }

    unsafe fn discard(&self, _: NonNull<u8>, _: usize) {}

    unsafe fn close(&self, fd: i32) {
        Kernel::close(fd);
    }

    fn page_size(&self) -> usize {
        4096
    }

    fn abort(&self, message: fmt::Arguments<'_>) -> ! {
        computer().fail(message.to_string());
        panic!("{message}");
    }
}

/// A poller of the simulated kernel.
pub(crate) struct SimulatedPoller(usize);

// SAFETY: each token in an event was given to `open`; the kernel keeps tokens of closed descriptors
// for late events.
unsafe impl Netpoll for SimulatedPoller {
    fn init() -> Result<Self, Errno> {
        Ok(SimulatedPoller(computer().kernel.borrow_mut().add_poller()))
    }

    fn open(&self, fd: i32, token: TaggedPtr) -> Result<(), Errno> {
        let computer = computer();
        computer.step("open", [fd as u64, token.tag().into()]);
        let opened = computer
            .kernel
            .borrow_mut()
            .watch(computer, self.0, fd, token);
        computer.step("open ends", [fd as u64, opened.is_ok().into()]);
        opened
    }

    fn close(&self, fd: i32) {
        computer().step("forget", [fd as u64, 0]);
        computer().kernel.borrow_mut().forget(self.0, fd);
        computer().step("forget ends", [fd as u64, 0]);
    }

    fn arm(&self, fd: i32, token: TaggedPtr, mode: Mode) {
        let computer = computer();
        if computer.kernel.borrow().level {
            computer.step("arm", [fd as u64, (mode == Mode::Write).into()]);
            computer.kernel.borrow_mut().arm(computer, fd, token, mode);
        }
    }

    fn poll(&self, delay: Delay, events: &mut Events) {
        let computer = computer();
        let until = match delay {
            Delay::None => 0,
            Delay::AtMost(delay) => computer.now().saturating_add(delay),
            Delay::Forever => FAR,
        };
        let waits = delay != Delay::None;
        computer.step("poll", [self.0 as u64, until as u64]);
        if delay == Delay::AtMost(0) || !events.is_empty() {
            computer.fail("poll was called with AtMost(0), or with events in its batch".into());
        }
        loop {
            Kernel::deliver(computer);
            let woken = {
                let mut kernel = computer.kernel.borrow_mut();
                kernel.fetch(computer, self.0, waits, events);
                waits && std::mem::take(&mut kernel.pollers[self.0].wake)
            };
            let interrupted = matches!(delay, Delay::AtMost(_))
                && computer.one_in(computer.odds.interrupt.saturating_mul(4));
            if !waits || woken || interrupted || !events.is_empty() || computer.now() >= until {
                break;
            }
            if computer
                .any_state(|state| matches!(state, State::Poll { poller, .. } if poller == self.0))
            {
                computer.fail(format!("two threads sleep in poller {}", self.0));
            }
            computer.switch(State::Poll {
                poller: self.0,
                until,
            });
        }
        computer.step("poll ends", [self.0 as u64, events.len() as u64]);
    }

    fn wake(&self) {
        let computer = computer();
        computer.step("wake", [self.0 as u64, 0]);
        computer.kernel.borrow_mut().pollers[self.0].wake = true;
        computer
            .wake_where(|state| matches!(state, State::Poll { poller, .. } if poller == self.0));
        computer.step("wake ends", [self.0 as u64, 0]);
    }
}
