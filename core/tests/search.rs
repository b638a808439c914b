//! A search of all reachable states of the waiter word and the poll descriptor.
//!
//! The protocol of `core/src/waiter.rs`, `polldesc.rs` and `polldesc/deadline.rs` is written here a
//! second time in plain Rust, one read-modify-write a step.
//!
//! The actors:
//!
//! - `W`, the waiter, reads a few times.
//! - `N`, two Ms, fetch edges and deliver them.
//! - `D` sets a few deadlines: ahead, passed, none.
//! - `T` is the deadline's timer.
//! - `X` closes the descriptor and, when no actor uses it, opens its next use.
//!
//! `D`, `T` and `X` hold the descriptor's lock from their first step to their last but one. The
//! last step readies the waiter that the actor took out of the slot.
//!
//! A ghost variable counts the bytes that the kernel has posted and `W` has not consumed. A state
//! with no step under way is wrong if `W` sleeps in it and there are such bytes, or the deadline
//! has passed, or the descriptor is closing. Without the ghost, a lost wake-up looks like a legal
//! sleep.
//!
//! Each mutant of Go's protocol is a switch, and the search must find a wrong state. The eighth of
//! them, a waiter subtracted from the count before it is runnable, does not apply: here a waiter
//! counts itself.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Mutant {
    None,
    NoSecondLook,
    PublishAfterCancel,
    ReadyDoesNotCount,
    ResetAfterWouldBlock,
    CancelDestroysReady,
    TimerWithoutSeq,
    CommitByStore,
    NewsDroppedBeforeCommit,
}

// The slot.
const NIL: u8 = 0;
const READY: u8 = 1;
const WAIT: u8 = 2;
const PARKED: u8 = 3;

// The deadline.
const NONE: u8 = 0;
const AHEAD: u8 = 1;
const PASSED: u8 = 2;

/// The next step of the waiter.
#[derive(Clone, Copy, PartialEq, Debug)]
enum W {
    MayTry,
    Reset,
    Call,
    MayWait,
    Announce,
    SecondLook,
    Commit,
    Asleep,
    Settle,
    ThirdLook,
    Done,
}

/// The progress of `D`, `T` or `X`: 0 rests, 1 has locked and changed the state, 2 has published, 3
/// has cancelled the wait and unlocked. `took` is whether it took the waiter out and must ready it.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Holder {
    step: u8,
    took: bool,
}

/// The progress of an M: 0 rests, 1 has fetched an event of use `of`, 2 has compared its tag, 3 has
/// notified the slot.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Fetcher {
    step: u8,
    of: u8,
    took: bool,
}

#[derive(Clone, Copy, Debug)]
struct State {
    w: W,
    reads: u8,
    runnable: bool,
    slot: u8,
    /// The published word: closing, expired.
    info: [bool; 2],
    // Protected by the descriptor's lock.
    closing: bool,
    when: u8,
    seq: u8,
    running: bool,
    /// The sequence number with which the timer was armed, while it is in the heap.
    armed: Option<u8>,
    d: Holder,
    sets: u8,
    t: Holder,
    /// The sequence number of the timer that `T` has taken out of the heap.
    fired: Option<u8>,
    x: Holder,
    n: [Fetcher; 2],
    /// The number of this use.
    of: u8,
    /// The ghost: bytes in the kernel that `W` has not consumed.
    bytes: u8,
    /// Bytes still to come in this use; and by use, the events that no M has fetched.
    to_come: u8,
    events: [u8; 2],
}

/// How many reads, bytes, deadlines and uses there are.
#[derive(Clone, Copy)]
struct Program {
    reads: u8,
    bytes: u8,
    sets: u8,
    uses: u8,
}

impl State {
    fn start(program: Program) -> Self {
        State {
            w: W::MayTry,
            reads: program.reads,
            runnable: false,
            slot: NIL,
            info: [false; 2],
            closing: false,
            when: NONE,
            seq: 0,
            running: false,
            armed: None,
            d: Holder::default(),
            sets: program.sets,
            t: Holder::default(),
            fired: None,
            x: Holder::default(),
            n: [Fetcher::default(); 2],
            of: 0,
            bytes: 0,
            to_come: program.bytes,
            events: [0; 2],
        }
    }

    /// Returns the state in 64 bits. Different states have different words.
    fn word(&self) -> u64 {
        let mut word = 0;
        let mut put = |value: u8, bits: u32| {
            assert!(u32::from(value) < 1 << bits, "{value} in {bits} bits");
            word = word << bits | u64::from(value);
        };
        let flags = [
            self.runnable,
            self.info[0],
            self.info[1],
            self.closing,
            self.running,
            self.d.took,
            self.t.took,
            self.x.took,
        ];
        flags
            .into_iter()
            .chain(self.n.map(|n| n.took))
            .for_each(|flag| put(flag.into(), 1));
        put(self.w as u8, 4);
        for seq in [self.armed, self.fired] {
            put(seq.map_or(0, |seq| seq + 1), 4);
        }
        put(self.seq, 3);
        for two_bits in [
            self.reads,
            self.slot,
            self.when,
            self.d.step,
            self.sets,
            self.t.step,
            self.x.step,
        ] {
            put(two_bits, 2);
        }
        for n in self.n {
            put(n.step, 2);
            put(n.of, 1);
        }
        put(self.of, 1);
        for two_bits in [self.bytes, self.to_come, self.events[0], self.events[1]] {
            put(two_bits, 2);
        }
        word
    }

    fn locked(&self) -> bool {
        [self.d, self.t, self.x]
            .iter()
            .any(|holder| matches!(holder.step, 1 | 2))
    }

    /// Advances the sequence number. It wraps after eight steps, more than a program makes while a
    /// timer is under way.
    fn bump(&mut self) {
        self.seq = (self.seq + 1) % 8;
    }

    fn publish(&mut self) {
        self.info = [self.closing, self.when == PASSED];
    }

    /// `Side::set` and `Side::follow`.
    fn set(&mut self, when: u8) {
        self.when = when;
        if self.running {
            self.bump();
        }
        self.running = when == AHEAD;
        self.armed = self.running.then_some(self.seq);
    }

    /// `WaitSlot::cancel`. Returns whether it took the waiter out.
    fn cancel(&mut self, mutant: Mutant) -> bool {
        let before = self.slot;
        if before != READY || mutant == Mutant::CancelDestroysReady {
            self.slot = NIL;
        }
        before == PARKED
    }

    fn ready(&mut self) -> Result<(), &'static str> {
        if self.w != W::Asleep || self.runnable {
            return Err("a waiter that does not wait is readied");
        }
        self.runnable = true;
        Ok(())
    }

    /// Makes step 1, 2 or 3 of a holder, which cancels the wait if `bad`.
    fn holder_step(
        &mut self,
        holder: fn(&mut State) -> &mut Holder,
        bad: bool,
        mutant: Mutant,
    ) -> Result<(), &'static str> {
        let Holder { step, took } = *holder(self);
        // The mutant swaps the two middle steps.
        let publishes = (step == 1) != (mutant == Mutant::PublishAfterCancel);
        let mut next = Holder {
            step: step + 1,
            took,
        };
        match step {
            1 | 2 if publishes => self.publish(),
            1 | 2 => next.took = bad && self.cancel(mutant),
            _ => {
                if took {
                    self.ready()?;
                }
                next = Holder::default();
            }
        }
        *holder(self) = next;
        Ok(())
    }

    fn step_w(mut self, mutant: Mutant) -> Result<Option<Self>, &'static str> {
        let bad = self.info[0] || self.info[1];
        let end = if self.reads <= 1 { W::Done } else { W::MayTry };
        let mut ended = false;
        self.w = match self.w {
            W::MayTry | W::MayWait | W::ThirdLook if bad => {
                ended = true;
                end
            }
            W::MayTry if mutant == Mutant::ResetAfterWouldBlock => W::Call,
            W::MayTry => W::Reset,
            W::Reset => {
                if self.slot == WAIT || self.slot == PARKED {
                    return Err("reset while the waiter waits");
                }
                self.slot = NIL;
                if mutant == Mutant::ResetAfterWouldBlock {
                    W::MayWait
                } else {
                    W::Call
                }
            }
            W::Call if self.bytes > 0 => {
                self.bytes -= 1;
                ended = true;
                end
            }
            W::Call if mutant == Mutant::ResetAfterWouldBlock => W::Reset,
            W::Call => W::MayWait,
            W::MayWait | W::ThirdLook => W::Announce,
            W::Announce => match self.slot {
                NIL => {
                    self.slot = WAIT;
                    if mutant == Mutant::NoSecondLook {
                        W::Commit
                    } else {
                        W::SecondLook
                    }
                }
                READY => {
                    self.slot = NIL;
                    W::Call
                }
                _ => return Err("double wait"),
            },
            W::SecondLook if bad => W::Settle,
            W::SecondLook => W::Commit,
            W::Commit if self.slot == WAIT || mutant == Mutant::CommitByStore => {
                self.slot = PARKED;
                W::Asleep
            }
            W::Commit => W::Settle,
            W::Asleep if self.runnable => {
                self.runnable = false;
                W::Settle
            }
            W::Asleep | W::Done => return Ok(None),
            W::Settle => {
                let before = std::mem::replace(&mut self.slot, NIL);
                match before {
                    READY if mutant != Mutant::ReadyDoesNotCount => W::Call,
                    PARKED => return Err("the waiter's address is in the slot after the wait"),
                    _ => W::ThirdLook,
                }
            }
        };
        self.reads -= u8::from(ended);
        Ok(Some(self))
    }

    fn step_n(mut self, i: usize, mutant: Mutant) -> Result<Option<Self>, &'static str> {
        let Fetcher { step, of, took } = self.n[i];
        self.n[i] = match step {
            1 if of != self.of => Fetcher::default(),
            1 => Fetcher { step: 2, of, took },
            2 => {
                // The use may have ended since the comparison. Its readiness is then a spurious
                // wake-up of the next use.
                let drops = mutant == Mutant::NewsDroppedBeforeCommit && self.slot == WAIT;
                let before = if drops {
                    WAIT
                } else {
                    std::mem::replace(&mut self.slot, READY)
                };
                Fetcher {
                    step: 3,
                    of,
                    took: before == PARKED,
                }
            }
            3 => {
                if took {
                    self.ready()?;
                }
                Fetcher::default()
            }
            _ => return Ok(None),
        };
        Ok(Some(self))
    }

    /// Adds all states that one step leads to.
    fn successors(
        self,
        program: Program,
        mutant: Mutant,
        next: &mut Vec<State>,
    ) -> Result<(), &'static str> {
        next.extend(self.step_w(mutant)?);
        for i in 0..2 {
            next.extend(self.step_n(i, mutant)?);
        }
        // The kernel posts a byte and its edge.
        if self.to_come > 0 && !self.closing {
            let (to_come, bytes) = (self.to_come - 1, self.bytes + 1);
            let mut events = self.events;
            events[usize::from(self.of)] = (events[usize::from(self.of)] + 1).min(3);
            next.push(State {
                to_come,
                bytes,
                events,
                ..self
            });
        }
        // An M fetches an event of this use or an earlier one. The two Ms are alike, so the second
        // fetches only while the first is busy.
        if let Some(i) = self.n.iter().position(|n| n.step == 0) {
            for of in (0..2).filter(|&of| self.events[usize::from(of)] > 0) {
                let mut after = self;
                after.events[usize::from(of)] -= 1;
                after.n[i] = Fetcher {
                    step: 1,
                    of,
                    took: false,
                };
                next.push(after);
            }
        }
        self.holders_continue(mutant, next)?;
        if !self.locked() {
            self.holders_begin(mutant, next)?;
            next.extend(self.reuse(program));
        }
        Ok(())
    }

    /// Adds the next steps of `D`, `T` and `X`, if they are under way.
    fn holders_continue(self, mutant: Mutant, next: &mut Vec<State>) -> Result<(), &'static str> {
        let holders: [fn(&mut State) -> &mut Holder; 3] =
            [|s| &mut s.d, |s| &mut s.t, |s| &mut s.x];
        let bad = [self.when == PASSED, true, true];
        for (holder, bad) in holders.into_iter().zip(bad) {
            let mut after = self;
            if holder(&mut after).step > 0 {
                after.holder_step(holder, bad, mutant)?;
                next.push(after);
            }
        }
        // The timer is due: its M takes it out of the heap, and then locks the descriptor.
        if self.armed.is_some() && self.fired.is_none() {
            next.push(State {
                armed: None,
                fired: self.armed,
                ..self
            });
        }
        Ok(())
    }

    /// Adds the first steps of `D`, `T` and `X`, which lock the descriptor.
    fn holders_begin(self, mutant: Mutant, next: &mut Vec<State>) -> Result<(), &'static str> {
        let one = Holder {
            step: 1,
            took: false,
        };
        if self.d == Holder::default() && self.sets > 0 && !self.closing {
            for when in [NONE, AHEAD, PASSED] {
                let mut after = State {
                    d: one,
                    sets: self.sets - 1,
                    ..self
                };
                after.set(when);
                next.push(after);
            }
        }
        if let (0, Some(seq)) = (self.t.step, self.fired) {
            let mut after = State {
                fired: None,
                ..self
            };
            if seq == self.seq || mutant == Mutant::TimerWithoutSeq {
                if self.when != AHEAD {
                    return Err("a timer fires for a deadline that is not ahead");
                }
                (after.when, after.t) = (PASSED, one);
            }
            next.push(after);
        }
        if self.x == Holder::default() && !self.closing {
            let mut after = State {
                closing: true,
                x: one,
                ..self
            };
            after.bump();
            (after.running, after.armed) = (false, None);
            next.push(after);
        }
        Ok(())
    }

    /// Frees the descriptor and opens its next use, if no actor uses it. Events and a fired timer
    /// of the last use may still be under way.
    fn reuse(self, program: Program) -> Option<Self> {
        let idle = self.w == W::Done && [self.d, self.t, self.x] == [Holder::default(); 3];
        if !self.closing || !idle || self.of + 1 >= program.uses {
            return None;
        }
        let mut after = State {
            of: self.of + 1,
            seq: self.seq,
            fired: self.fired,
            n: self.n,
            events: self.events,
            ..State::start(program)
        };
        after.bump();
        Some(after)
    }

    /// Returns an error if the waiter sleeps, has a reason to run, and no step under way can wake
    /// it.
    fn check(&self) -> Result<(), &'static str> {
        let holders = [self.d, self.t, self.x]
            .iter()
            .any(|holder| holder.step > 0);
        let under_way = holders
            || self.n.iter().any(|n| n.step > 0)
            || self.events != [0; 2]
            || self.fired.is_some();
        match () {
            () if self.w != W::Asleep || self.runnable || under_way => Ok(()),
            () if self.bytes > 0 => Err("lost wake-up: bytes were posted and are not consumed"),
            () if self.closing => Err("lost wake-up: the descriptor is closing"),
            () if self.when == PASSED => Err("lost wake-up: the deadline has passed"),
            () => Ok(()),
        }
    }
}

/// A hasher for the words of states, whose values are dense.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only words are hashed")
    }

    fn write_u64(&mut self, word: u64) {
        let mixed = (word ^ word >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}

/// Returns the number of reachable states, or the first wrong state.
fn search(program: Program, mutant: Mutant) -> Result<usize, (&'static str, State)> {
    let start = State::start(program);
    let mut seen = HashSet::<u64, BuildHasherDefault<Spread>>::default();
    seen.insert(start.word());
    let (mut open, mut next) = (vec![start], Vec::new());
    while let Some(state) = open.pop() {
        state
            .check()
            .and_then(|()| state.successors(program, mutant, &mut next))
            .map_err(|wrong| (wrong, state))?;
        open.extend(next.drain(..).filter(|state| seen.insert(state.word())));
    }
    Ok(seen.len())
}

const SMALL: Program = Program {
    reads: 2,
    bytes: 2,
    sets: 2,
    uses: 1,
};

#[test]
fn no_state_is_wrong() {
    let program = match std::env::var_os("GOPARK_SEARCH_LONG") {
        // An unoptimised build searches a small program, as a test of the search itself.
        None if cfg!(debug_assertions) => SMALL,
        None => Program {
            reads: 3,
            bytes: 2,
            sets: 2,
            uses: 2,
        },
        Some(_) => Program {
            reads: 3,
            bytes: 3,
            sets: 3,
            uses: 2,
        },
    };
    let states = search(program, Mutant::None)
        .unwrap_or_else(|(wrong, state)| panic!("{wrong}: {state:#?}"));
    println!("search: {states} states");
    assert!(
        cfg!(debug_assertions) || states >= 10_000_000,
        "only {states} states"
    );
}

#[test]
fn every_mutant_reaches_a_wrong_state() {
    let lost = "lost wake-up";
    for (mutant, wrong) in [
        (Mutant::NoSecondLook, lost),
        (Mutant::PublishAfterCancel, lost),
        (Mutant::ReadyDoesNotCount, lost),
        (Mutant::ResetAfterWouldBlock, lost),
        (Mutant::CancelDestroysReady, lost),
        (
            Mutant::TimerWithoutSeq,
            "a timer fires for a deadline that is not ahead",
        ),
        (Mutant::CommitByStore, lost),
        (Mutant::NewsDroppedBeforeCommit, lost),
    ] {
        let (found, _) = search(SMALL, mutant).expect_err("a mutant with no wrong state");
        println!("search: {mutant:?}: {found}");
        assert!(
            found.starts_with(wrong) || mutant == Mutant::CommitByStore,
            "{mutant:?}: {found}"
        );
    }
    assert!(search(SMALL, Mutant::None).is_ok());
}
