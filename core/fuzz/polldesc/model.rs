//! One descriptor as the tables of the protocol describe it, and the steps that its reader and its
//! writer make on it.
//!
//! Each step calls core's own code, compares the result with the tables and changes the model. What
//! happens between two steps (events, deadlines, closes, reuse) is in `polldesc.rs`.

use super::{ARMED, FuzzPoller, MODES, PollDesc, PollError};
use crate::os::{Mode, Nanos};
use crate::waiter::Announced;
use core::fmt::Write;

/// What is in a slot.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Word {
    Nil,
    Ready,
    Wait,
    Parked,
}

/// The step that a reader or writer makes next.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Phase {
    Begin,
    SystemCall,
    Register,
    Watch,
    MayWait,
    Announce,
    Look,
    Commit,
    Parked,
    Settle,
    LookAgain,
}

/// One direction of a descriptor: its waiter, and what the model knows.
#[derive(Clone, Copy)]
pub(super) struct Side {
    pub(super) phase: Phase,
    pub(super) word: Word,
    /// 0: no deadline; < 0: it has passed.
    pub(super) when: Nanos,
    /// Changes whenever a timer that is under way must not count any more.
    pub(super) timer_seq: u32,
    /// The kernel has data, or room.
    pub(super) level: bool,
    /// The kernel has an event to report.
    pub(super) edge: bool,
    /// An error kept the operation from waiting, and it makes one last system call.
    last_try: bool,
}

pub(super) struct Desc {
    pub(super) desc: &'static PollDesc,
    pub(super) fd: i32,
    pub(super) open: bool,
    pub(super) closing: bool,
    /// The descriptor has joined a poller, or an operation is about to register it.
    pub(super) joined: bool,
    /// A second operation arrived while the first registers the descriptor.
    pub(super) awaited: bool,
    /// The last event was nothing but an error.
    pub(super) error: bool,
    pub(super) hung_up: bool,
    /// The tag of this use, and of the last.
    pub(super) tag: u32,
    pub(super) stale: u32,
    pub(super) sides: [Side; 2],
}

impl Side {
    const FRESH: Side = Side {
        phase: Phase::Begin,
        word: Word::Nil,
        when: 0,
        timer_seq: 0,
        level: false,
        edge: false,
        last_try: false,
    };

    /// Readiness arrives. Returns whether it wakes the waiter.
    pub(super) fn notify(&mut self) -> bool {
        core::mem::replace(&mut self.word, Word::Ready) == Word::Parked
    }

    /// A deadline or a close ends the wait; latched readiness stays. Returns whether it wakes the
    /// waiter.
    pub(super) fn cancel(&mut self) -> bool {
        let before = self.word;
        if before != Word::Ready {
            self.word = Word::Nil;
        }
        before == Word::Parked
    }
}

impl Desc {
    pub(super) fn fresh(desc: &'static PollDesc, fd: i32, tag: u32, stale: u32) -> Self {
        Desc {
            desc,
            fd,
            open: true,
            closing: false,
            joined: false,
            awaited: false,
            error: false,
            hung_up: false,
            tag,
            stale,
            sides: [Side::FRESH; 2],
        }
    }

    pub(super) fn is_watched(&self) -> bool {
        self.joined && FuzzPoller::watches(self.fd)
    }

    /// A close takes precedence over a deadline, and a deadline over an error, which ends only the
    /// waits of a reader.
    pub(super) fn expected_error(&self, mode: Mode, to_wait: bool) -> Result<(), PollError> {
        match self {
            _ if self.closing => Err(PollError::Closing),
            _ if self.sides[mode as usize].when < 0 => Err(PollError::Timeout),
            _ if self.error && to_wait && mode == Mode::Read => Err(PollError::NotPollable),
            _ => Ok(()),
        }
    }

    /// Makes one step of a reader or writer that concerns this descriptor only.
    pub(super) fn step(&mut self, side: usize) {
        let (this, mode) = (self.desc, MODES[side]);
        let phase = match self.sides[side].phase {
            Phase::Begin => match this.may_try(mode) {
                Ok(()) => {
                    this.slot(mode).reset();
                    self.sides[side].word = Word::Nil;
                    Phase::SystemCall
                }
                Err(error) => self.fail(mode, error),
            },
            Phase::SystemCall => self.system_call(side),
            Phase::Register if this.join_poller() => {
                assert!(!self.joined, "two operations register");
                self.joined = true;
                Phase::Watch
            }
            Phase::Register => {
                assert!(self.joined, "no operation registers");
                self.awaited |= !self.is_watched();
                Phase::MayWait
            }
            Phase::MayWait => match this.may_wait(mode) {
                Ok(()) => {
                    ARMED.set(None);
                    this.arm(mode);
                    assert_eq!(ARMED.get(), self.is_watched().then_some((self.fd, mode)));
                    Phase::Announce
                }
                Err(error) => self.fail(mode, error),
            },
            Phase::Announce => self.announce(side),
            Phase::Look if this.may_wait(mode).is_ok() => Phase::Commit,
            Phase::Look => Phase::Settle,
            Phase::Settle => self.settle(side),
            // A deadline that passed and was moved since does not end the wait.
            Phase::LookAgain => match this.may_wait(mode) {
                Ok(()) => Phase::Announce,
                Err(error) => self.fail(mode, error),
            },
            phase @ (Phase::Watch | Phase::Commit | Phase::Parked) => phase,
        };
        self.sides[side].phase = phase;
    }

    fn announce(&mut self, side: usize) -> Phase {
        let announced = self.desc.slot(MODES[side]).announce();
        let word = &mut self.sides[side].word;
        match announced {
            Announced::Ready => {
                assert_eq!(*word, Word::Ready);
                *word = Word::Nil;
                Phase::SystemCall
            }
            Announced::Waiting => {
                assert_eq!(*word, Word::Nil, "latched readiness is lost");
                *word = Word::Wait;
                Phase::Look
            }
        }
    }

    fn settle(&mut self, side: usize) -> Phase {
        let ready = self.desc.slot(MODES[side]).settle();
        let word = &mut self.sides[side].word;
        assert_eq!(
            ready,
            *word == Word::Ready,
            "whether the wait ended with readiness"
        );
        *word = Word::Nil;
        if ready {
            Phase::SystemCall
        } else {
            Phase::LookAgain
        }
    }

    /// The operation fails. After an error of the descriptor it makes one more system call instead.
    fn fail(&mut self, mode: Mode, error: PollError) -> Phase {
        let mut text = heapless::String::<64>::new();
        write!(text, "{error}").expect("it is short");
        let expected = match error {
            PollError::Closing => "use of closed network connection",
            PollError::Timeout => "i/o timeout",
            PollError::NotPollable => "not pollable",
            PollError::Cancelled => unreachable!("nothing here is cancelled"),
            PollError::Unwinding => unreachable!("nothing here panics"),
        };
        assert_eq!(text, expected);
        if error == PollError::NotPollable {
            self.sides[mode as usize].last_try = true;
            return Phase::SystemCall;
        }
        Phase::Begin
    }

    /// The operation ends if the kernel has something for it, and waits otherwise. After an error
    /// of the descriptor, an operation on a socket waits again; an operation on any other file
    /// ends.
    fn system_call(&mut self, side: usize) -> Phase {
        let is_socket = self.fd == 1;
        let side = &mut self.sides[side];
        let last = core::mem::take(&mut side.last_try);
        if core::mem::take(&mut side.level) || last && !is_socket {
            return Phase::Begin;
        }
        if last {
            self.desc.forget_error();
            self.error = false;
        }
        Phase::Register
    }
}
