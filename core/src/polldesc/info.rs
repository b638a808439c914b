//! The published word of a PollDesc: what a waiter checks without the lock.
//!
//! ```text
//!   24 .................... 5 | 4      | 3             | 2            | 1     | 0
//!   low 20 bits of fdseq      | HANGUP | EXPIRED_WRITE | EXPIRED_READ | ERROR | CLOSING
//! ```
//!
//! | bits | written by | meaning |
//! |---|---|---|
//! | `ERROR` | events, without the lock | the *last* event was only an error |
//! | `HANGUP` | events, without the lock | an end or an error was reported in this use |
//! | the others | `publish`, under the PollDesc's lock | closing, passed deadlines, the use |
//!
//! An event may arrive while the PollDesc is closed and reused. `note_event` compares the sequence
//! number in the same word, so an event of an earlier use changes nothing.

use crate::os::{Mode, Ready};
use crate::polldesc::PollError;
use crate::sync::{AtomicU32, Ordering};

bitflags::bitflags! {
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Bits: u32 {
        const CLOSING = 1;
        const ERROR = 1 << 1;
        const EXPIRED_READ = 1 << 2;
        const EXPIRED_WRITE = 1 << 3;
        const HANGUP = 1 << 4;
        const SEQ = ((1 << SEQ_BITS) - 1) << SEQ_SHIFT;
        const EVENT = Self::ERROR.bits() | Self::HANGUP.bits();
    }
}

/// The width of the sequence number. Go's number.
const SEQ_BITS: u32 = 20;
const SEQ_SHIFT: u32 = 5;

fn seq_bits(seq: u32) -> Bits {
    Bits::from_bits_retain(seq << SEQ_SHIFT) & Bits::SEQ
}

pub(super) struct Info(AtomicU32);

impl Info {
    pub(super) fn new() -> Self {
        Info(AtomicU32::new(0))
    }

    fn update(&self, next: impl Fn(Bits) -> Option<Bits>) {
        // SeqCst: this read-modify-write comes before the `cancel` of the slots (`waiter`). A
        // waiter that announces itself after that `cancel` synchronizes with it, and its later load
        // of this word in `check` sees this update.
        let _ = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| {
                next(Bits::from_bits_retain(word)).map(|bits| bits.bits())
            });
    }

    /// Starts a use: clears the bits of the last one.
    pub(super) fn open(&self, seq: u32) {
        self.update(|_| Some(seq_bits(seq)));
    }

    pub(super) fn publish(&self, closing: bool, expired_read: bool, expired_write: bool, seq: u32) {
        let mut bits = seq_bits(seq);
        bits.set(Bits::CLOSING, closing);
        bits.set(Bits::EXPIRED_READ, expired_read);
        bits.set(Bits::EXPIRED_WRITE, expired_write);
        self.update(|old| Some(bits | old & Bits::EVENT));
    }

    /// Notes the qualifying bits of an event of use `seq`.
    pub(super) fn note_event(&self, ready: Ready, seq: u32) {
        self.update(|old| {
            let mut new = old;
            new.set(Bits::ERROR, ready.contains(Ready::ERROR));
            new.set(
                Bits::HANGUP,
                old.contains(Bits::HANGUP) || ready.contains(Ready::HANGUP),
            );
            (old & Bits::SEQ == seq_bits(seq) && new != old).then_some(new)
        });
    }

    /// Clears `ERROR`. The caller is an operation on the descriptor, so the use cannot change.
    pub(super) fn forget_error(&self) {
        self.update(|old| old.contains(Bits::ERROR).then_some(old - Bits::ERROR));
    }

    #[inline]
    pub(super) fn check(&self, mode: Mode, to_wait: bool) -> Result<(), PollError> {
        let bits = Bits::from_bits_retain(self.0.load(Ordering::SeqCst));
        let expired = match mode {
            Mode::Read => Bits::EXPIRED_READ,
            Mode::Write => Bits::EXPIRED_WRITE,
        };
        if bits.contains(Bits::CLOSING) {
            Err(PollError::Closing)
        } else if bits.contains(expired) {
            Err(PollError::Timeout)
        } else if to_wait && mode == Mode::Read && bits.contains(Bits::ERROR) {
            // A write gets the error from its system call.
            Err(PollError::NotPollable)
        } else {
            Ok(())
        }
    }

    #[inline]
    pub(super) fn hung_up(&self) -> bool {
        Bits::from_bits_retain(self.0.load(Ordering::Acquire)).contains(Bits::HANGUP)
    }
}
