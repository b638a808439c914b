//! Snapshots: the goroutines, what each does, and where on its stack it stopped. No goroutine is
//! stopped for it.
//!
//! A goroutine that has started is found through the owner words of its stack, and a watcher that
//! looks at it pins them, which keeps the goroutine in memory (`stack::StackOwner`). The watcher
//! reads what the goroutine left when it stopped as under a sequence lock (`wait_info`), and so it
//! does with the stack, which the system copies, since the goroutine may run again at any time. One
//! that has not started is in a queue. The watcher takes it out and puts it at the end of the
//! global queue.
#![allow(
    unsafe_code,
    reason = "goroutines and poll descriptors are found by address"
)]

use crate::cancel::{Cancellation, cancellation};
use crate::g::{G, Pinned, Status};
use crate::join::{Owner, owner};
use crate::lock_wait::LockKind;
use crate::m::M;
use crate::os::{Nanos, Observe, ThreadState};
use crate::polldesc::PollDesc;
use crate::sched::Sched;
use crate::sync::Ordering;
use crate::trace::Identity;
use crate::wait_info::{Descriptor, LastStop, Place, Wait};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::panic::Location;

/// A goroutine at the moment of the snapshot.
#[derive(Debug)]
pub struct Goroutine<'a> {
    /// Its number.
    pub id: u64,
    /// The name it was given.
    pub name: Option<Arc<str>>,
    /// Where it was spawned.
    pub site: &'static Location<'static>,
    /// What waits for it to return.
    pub owner: Owner,
    /// What it does.
    pub state: State,
    /// Whether it is cancelled, and by what.
    pub cancelled: Option<Cancellation>,
    /// The goroutine that keeps its thread, if it is runnable and that thread is kept.
    pub behind: Option<Behind>,
    /// Bytes of stack in use. 0 if it runs or has not started.
    pub stack: usize,
    /// Bytes of memory behind the stack: the most that it has used so far, or that an earlier
    /// goroutine has used of the same stack. `None` if the system does not report it, if no stacks
    /// were asked for, or if it runs or has not started.
    pub touched: Option<u64>,
    /// Its stack. `None` if it runs or has not started, or if the system does not copy stacks.
    pub stopped: Option<StackCopy<'a>>,
}

/// What a goroutine does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It has not run yet.
    New,
    /// It waits for its turn.
    Runnable,
    /// It runs.
    Running {
        /// The number that the system gives its thread.
        thread: u32,
        /// What the thread does.
        doing: ThreadState,
        /// The wait for a lock that blocks the thread, if a
        /// [`FutexTable`](crate::futex::FutexTable) knows of it.
        lock: Option<LockBlock>,
    },
    /// It waits for something else.
    Waiting {
        /// For what.
        wait: Wait,
        /// Since when, by sysmon's clock, which is up to 10 ms late. `None` without sysmon.
        since: Option<Nanos>,
    },
}

/// A wait for a lock that blocks the thread of a goroutine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockBlock {
    /// The kind of lock.
    pub kind: LockKind,
    /// The address of its word.
    pub address: usize,
    /// Since when.
    pub since: Nanos,
}

/// A goroutine that keeps the thread on which a runnable goroutine waits for its turn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Behind {
    /// Its number.
    pub id: u64,
    /// The name it was given.
    pub name: Option<Arc<str>>,
    /// What its thread does.
    pub doing: ThreadState,
    /// Since when the runnable goroutine waits for it, exact to the 10 ms between looks of sysmon.
    pub since: Nanos,
}

/// The stack of a goroutine that has stopped: a copy, from which a debugger's unwinder can tell its
/// callers.
#[derive(Clone, Copy, Debug)]
pub struct StackCopy<'a> {
    /// Where, and the registers that say so.
    pub place: Place,
    /// What is in memory from `place.sp` up to the end of the stack.
    pub bytes: &'a [u8],
}

/// How often a watcher reads a goroutine that was resumed during the last try, before it shows the
/// goroutine as running.
const LOOKS: usize = 4;

impl Sched {
    /// The calling goroutine. `None` on an ordinary thread.
    pub fn identity(&self) -> Option<Identity> {
        self.current().map(G::identity)
    }

    /// The goroutine whose stack or guard has `address`: for a fault handler.
    ///
    /// # Safety
    ///
    /// The goroutine of that stack exists and does not return during the call. It is the one that
    /// has just faulted.
    pub unsafe fn goroutine_at(&self, address: usize) -> Option<Identity> {
        // SAFETY: the caller's promise.
        unsafe {
            self.arena()
                .owner_at(address)?
                .current()
                .cast::<G>()
                .as_ref()
        }
        .map(G::identity)
    }

    /// Calls `see` for each goroutine, in no order. Goroutines run on: one that is spawned or
    /// returns during the call may be missed.
    ///
    /// `stacks` copies the stacks of those that have stopped. Goroutines of
    /// [`go_local`](Self::go_local) that have not started on a busy thread are missing: they are in
    /// a queue that other threads cannot read.
    pub fn snapshot(
        &'static self,
        stacks: Option<&dyn Observe>,
        mut see: impl FnMut(&Goroutine<'_>),
    ) {
        let mut memory = Vec::new();
        let keepers = self.keepers();
        self.each_started(true, |g| {
            see(&self.look_at_g(&g, &keepers, stacks, &mut memory))
        });
        self.unstarted().iter().for_each(see);
    }

    /// The name of the goroutine with this number, if it has one and has not returned.
    pub(super) fn name_of(&'static self, id: u64) -> Option<Arc<str>> {
        let mut name = None;
        self.each_started(false, |g| {
            if g.id() == id {
                name = g.name();
            }
        });
        name
    }

    /// Calls `f` for each goroutine that has started and not returned. If another watcher has
    /// pinned one, this waits for that watcher if `all` is set, and leaves the goroutine out
    /// otherwise.
    pub(super) fn each_started(&'static self, all: bool, mut f: impl FnMut(Pinned)) {
        for slot in self.arena().slots() {
            let owner = self.arena().owner(slot);
            loop {
                // SAFETY: only `GRef::start` binds the owner words of the arena.
                match unsafe { Pinned::new(owner) } {
                    Some(g) => break f(g),
                    None if all && owner.is_pinned() => self.os().yield_thread(),
                    None => break,
                }
            }
        }
    }

    /// The goroutines that keep their Ms, as sysmon has noted, each with the index of its M.
    fn keepers(&'static self) -> Vec<(usize, Behind)> {
        let kept = |m: &M| m.kept.get() > 0 && m.retake.in_goroutine();
        let mut keepers = Vec::new();
        if self.ms().any(kept) {
            self.each_started(true, |g| {
                if g.status() == Status::Running && kept(self.m_of(&g)) {
                    let m = self.m_of(&g);
                    let doing = self.os().thread_state(m.thread.load(Ordering::Relaxed));
                    keepers.push((
                        m.index,
                        Behind {
                            id: g.id(),
                            name: g.name(),
                            doing,
                            since: m.kept.get(),
                        },
                    ));
                }
            });
        }
        keepers
    }

    fn look_at_g<'a>(
        &'static self,
        g: &Pinned,
        keepers: &[(usize, Behind)],
        stacks: Option<&dyn Observe>,
        memory: &'a mut Vec<u8>,
    ) -> Goroutine<'a> {
        let (state, place) = self.state_of(g, stacks, memory);
        let stopped = place.filter(|_| !memory.is_empty()).map(|place| StackCopy {
            place,
            bytes: memory,
        });
        let stack = place.map_or(0, |place| {
            self.arena()
                .end_of(place.sp)
                .map_or(0, |end| end - place.sp)
        });
        let touched = place
            .zip(stacks)
            .and_then(|(place, system)| self.arena().resident_at(place.sp, system));
        let keeper = keepers
            .iter()
            .find(|(m, _)| state == State::Runnable && g.home() == Some(*m));
        let behind = keeper.map(|(_, keeper)| Behind {
            since: keeper.since.max(g.wait_info.read().since),
            ..keeper.clone()
        });
        Goroutine {
            id: g.id(),
            name: g.name(),
            site: g.site(),
            // SAFETY: it is pinned.
            owner: unsafe { owner(g.as_raw()) },
            state,
            cancelled: cancellation(g),
            behind,
            stack,
            touched,
            stopped,
        }
    }

    /// What `g` does, and where it has stopped. Copies its stack to `memory` if `stacks` is given
    /// and it has stopped.
    fn state_of(
        &'static self,
        g: &G,
        stacks: Option<&dyn Observe>,
        memory: &mut Vec<u8>,
    ) -> (State, Option<Place>) {
        for _ in 0..LOOKS {
            let count = g.wait_info.resumes.count();
            let status = g.status();
            if matches!(status, Status::Running | Status::Dead) {
                break;
            }
            let stop = g.wait_info.read();
            if let Some(system) = stacks {
                self.copy_stack(system, stop.place.sp, memory);
            }
            if !g.wait_info.resumes.validate(count) {
                continue;
            }
            let state = match status {
                Status::Waiting => self.waiting(g, &stop, stacks),
                _ => State::Runnable,
            };
            // The holder of a mutex was copied from memory that the goroutine may free.
            if g.wait_info.resumes.validate(count) {
                return (state, Some(stop.place));
            }
        }
        memory.clear();
        (self.running(g), None)
    }

    fn running(&self, g: &G) -> State {
        let m = self.ms().find(|m| is_on(g, m));
        let thread = m.map_or(0, |m| m.thread.load(Ordering::Relaxed));
        let lock = m.and_then(|m| m.lock_wait.get()).map(|wait| LockBlock {
            kind: wait.kind,
            address: wait.address,
            since: wait.since,
        });
        State::Running {
            thread,
            doing: self.os().thread_state(thread),
            lock,
        }
    }

    /// What a goroutine waits for, by what it left when it stopped. The caller has validated that,
    /// and does so again.
    fn waiting(&'static self, g: &G, stop: &LastStop, system: Option<&dyn Observe>) -> State {
        let descriptor = |address, mode| {
            // SAFETY: `netpoll` encodes addresses of poll descriptors only.
            let desc = unsafe { PollDesc::at(address) };
            Descriptor {
                fd: desc.fd(),
                deadline: desc.deadline(mode),
            }
        };
        let holder = |word| system.map_or(0, |system| self.holder_of(g, word, system));
        State::Waiting {
            wait: Wait::decode(stop.wait, descriptor, holder),
            since: (stop.since > 0).then_some(stop.since),
        }
    }

    /// The number of the goroutine that holds the mutex which `waiter` waits for. `word` is the
    /// address at which the mutex keeps an address on its holder's stack. The system copies it,
    /// since the mutex may be freed as soon as the waiter runs again.
    fn holder_of(&'static self, waiter: &G, word: usize, system: &dyn Observe) -> u64 {
        let mut copy = [0; size_of::<usize>()];
        if system.copy(word, &mut copy) < copy.len() {
            return 0;
        }
        let Some(owner) = self.arena().owner_at(usize::from_ne_bytes(copy)) else {
            return 0;
        };
        // The caller has pinned the waiter, which may have locked the mutex itself.
        if owner.current().cast() == core::ptr::from_ref(waiter).cast_mut() {
            return waiter.id();
        }
        // SAFETY: only `GRef::start` binds the owner words of the arena.
        unsafe { Pinned::new(owner) }.map_or(0, |holder| holder.id())
    }

    /// Copies the stack from `sp` to its end into `memory`. Leaves that empty if `sp` lies on no
    /// stack, or if the system copies less.
    fn copy_stack(&self, system: &dyn Observe, sp: usize, memory: &mut Vec<u8>) {
        memory.clear();
        let Some(end) = self.arena().end_of(sp) else {
            return;
        };
        memory.resize(end - sp, 0);
        if system.copy(sp, memory) < end - sp {
            memory.clear();
        }
    }

    fn unstarted(&'static self) -> Vec<Goroutine<'static>> {
        let mut found = Vec::new();
        self.each_queued(|g| {
            // In a migrating scheduler the same queues hold started ones, which their stacks lead
            // to.
            if !g.started() {
                found.push(Goroutine {
                    id: g.id(),
                    name: g.name(),
                    site: g.site(),
                    // SAFETY: the `GRef` keeps it alive.
                    owner: unsafe { owner(g.as_raw()) },
                    state: State::New,
                    cancelled: None,
                    behind: None,
                    stack: 0,
                    touched: None,
                    stopped: None,
                });
            }
        });
        found
    }

    /// The goroutine that runs on `m`, and how many goroutines are ready and at home there. With
    /// `joiners`, those at home that join the running one count too: one of them may hold the lock
    /// that it waits for.
    pub(super) fn walk_home(&'static self, m: &M, joiners: bool) -> (Option<Identity>, usize) {
        let (mut keeper, mut joined) = (None, Vec::new());
        let mut count = m.counts.unstarted.get() as usize;
        self.each_started(false, |g| match g.status() {
            Status::Running if is_on(&g, m) => keeper = Some(g.identity()),
            Status::Runnable if g.home() == Some(m.index) => count += 1,
            Status::Waiting if joiners && g.home() == Some(m.index) => {
                if let State::Waiting {
                    wait: Wait::Join(id),
                    ..
                } = self.state_of(&g, None, &mut Vec::new()).0
                {
                    joined.push(id);
                }
            }
            _ => {}
        });
        let id = keeper.as_ref().map(|keeper| keeper.id);
        let joiners = joined
            .into_iter()
            .filter(|&joined| Some(joined) == id)
            .count();
        (keeper, count + joiners)
    }
}

fn is_on(g: &G, m: &M) -> bool {
    core::ptr::eq(g.m().cast(), m)
}
