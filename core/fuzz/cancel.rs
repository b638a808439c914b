//! Cancels and their members against a plain tree. After each step every cause, deadline, member
//! and wait is compared with the model's.
//!
//! There are two kinds of members. *Guests* are made by hand: they join and leave in any order, and
//! publish, commit and withdraw waits step by step. The thread of the target is a member of each
//! scope that it enters, and really waits. When it sleeps, the rest of the program runs inside its
//! futex wait, so waits are nested, and the innermost resumes first.
#![allow(unsafe_code, reason = "the program continues inside a futex wait")]

#[path = "cancel/guests.rs"]
mod guests;

use super::{Cause, Node, RawCancel};
use crate::fuzz::base::{FuzzOs, sched};
use crate::os::{Mode, Nanos};
use crate::polldesc::{PollDesc, PollError};
use crate::sched::Sched;
use crate::semaphore::RawSemaphore;
use crate::sync::{AtomicU32, Ordering};
use crate::waiter::WaiterList;
use crate::withdraw::Cancelled;
use core::cell::{Cell, RefCell};
use core::ptr;
use guests::Guest;
use std::collections::{BTreeSet, VecDeque};
use std::vec::Vec;

const CANCELS: usize = 8;
const GUESTS: usize = 8;
/// The most scopes that the thread is in: each takes a part of the stack.
const DEPTH_MAX: usize = 16;
/// The unit of time. Deadlines lie a different fraction of it after a full unit for each cancel, so
/// that their order is known.
const UNIT: Nanos = 16;

struct Driver<'a> {
    steps: Cell<&'a [u8]>,
    handles: [RefCell<Vec<RawCancel>>; CANCELS],
    guests: [RefCell<Option<Guest>>; GUESTS],
    semaphore: RawSemaphore<&'static Sched>,
    /// What the thread waits for with `Event::Ready`.
    desc: Cell<Option<&'static PollDesc>>,
    model: RefCell<Model>,
}

struct Model {
    now: Nanos,
    /// Those that have handles, and those that the thread is in because it has entered one cancel
    /// within another.
    cancels: [Option<State>; CANCELS + DEPTH_MAX],
    /// What the thread is in, the innermost last.
    scopes: Vec<Scope>,
    /// The waits of the thread, the innermost last.
    waits: Vec<Wait>,
    permits: usize,
    /// The indices of the waits for a permit, with those that were cancelled and have not left.
    queue: VecDeque<usize>,
}

/// A cancel that has users.
struct State {
    node: *const Node,
    /// How many `RawCancel`s there are.
    users: usize,
    /// One, or two if it was entered within another one.
    parents: [Option<usize>; 2],
    cause: Option<Cause>,
    due: Option<Nanos>,
}

impl State {
    fn is_child_of(&self, parent: usize) -> bool {
        self.parents.contains(&Some(parent))
    }
}

#[derive(Clone, Copy)]
struct Scope {
    /// Which cancel reaches the thread.
    cancel: Option<usize>,
    /// It is the futex wait of a wait.
    is_sleep: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Event {
    Time(Nanos),
    Permit,
    /// A descriptor is ready.
    Ready,
    Cancel(usize),
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    Event,
    Cancelled,
    /// One call has brought both.
    Either,
}

struct Wait {
    event: Event,
    /// Which cancel reaches it.
    cancel: Option<usize>,
    /// The address of the word on which the thread sleeps.
    word: Option<usize>,
    end: Option<End>,
}

std::thread_local! {
    static DRIVER: Cell<*const Driver<'static>> = const { Cell::new(ptr::null()) };
}

/// One byte is one step: what (4 bits), which cancel or guest (3), and how (1).
pub fn run(input: &[u8]) {
    let driver = Driver {
        steps: Cell::new(input),
        handles: Default::default(),
        guests: Default::default(),
        semaphore: RawSemaphore::new(0, sched()),
        desc: Cell::new(None),
        model: RefCell::new(Model {
            now: UNIT,
            cancels: [const { None }; CANCELS + DEPTH_MAX],
            scopes: Vec::new(),
            waits: Vec::new(),
            permits: 0,
            queue: VecDeque::new(),
        }),
    };
    FuzzOs::set_now(UNIT);
    DRIVER.set((&raw const driver).cast());
    FuzzOs::on_sleep(sleep);
    while let Some(step) = driver.next() {
        driver.step(step);
    }
    driver.finish();
    DRIVER.set(ptr::null());
    FuzzOs::set_now(1);
}

/// The futex wait of the thread: runs further steps until one has woken it.
fn sleep(word: &AtomicU32) {
    // SAFETY: `run` has stored the address, and its frame is further out on this stack.
    let driver = unsafe { &*DRIVER.get() };
    let event = driver
        .model
        .borrow_mut()
        .sleeps(ptr::from_ref(word).expose_provenance());
    let scope = Scope {
        cancel: None,
        is_sleep: true,
    };
    driver.within(scope, || {
        sched().shield(|| {
            driver.compare();
            while word.load(Ordering::Relaxed) == 0 {
                match driver.next() {
                    Some(step) => _ = driver.step(step),
                    None => {
                        driver.bring(event);
                        driver.compare();
                    }
                }
            }
        });
    });
}

impl Model {
    /// The thread sleeps in its innermost wait. Returns what it waits for.
    fn sleeps(&mut self, word: usize) -> Event {
        let wait = self.waits.last_mut().expect("a woken thread sleeps");
        assert_eq!((wait.word, wait.end), (None, None), "a wait sleeps");
        wait.word = Some(word);
        wait.event
    }

    /// Which cancel reaches the thread.
    fn reached_by(&self) -> Option<usize> {
        self.scopes.last()?.cancel
    }

    fn is_cancelled(&self, cancel: Option<usize>) -> bool {
        cancel.is_some_and(|index| self.state(index).cause.is_some())
    }

    /// Whether `below` is `above`, or is cancelled with it.
    fn is_above(&self, above: usize, below: usize) -> bool {
        let mut parents = self.state(below).parents.iter().flatten();
        above == below || parents.any(|&parent| self.is_above(above, parent))
    }

    /// Adds a cancel with these parents.
    fn add(&mut self, index: usize, node: *const Node, parents: [Option<usize>; 2]) {
        let is_cancelled = parents.iter().any(|parent| self.is_cancelled(*parent));
        for parent in parents.into_iter().flatten() {
            *self.users(parent) += 1;
        }
        self.cancels[index] = Some(State {
            node,
            users: 1,
            parents,
            cause: is_cancelled.then_some(Cause::Parent),
            due: None,
        });
    }

    fn state(&self, index: usize) -> &State {
        self.cancels[index].as_ref().expect("it has users")
    }

    fn users(&mut self, index: usize) -> &mut usize {
        &mut self.cancels[index].as_mut().expect("it has users").users
    }

    /// A `RawCancel` is dropped.
    fn drops(&mut self, index: usize) {
        *self.users(index) -= 1;
        if let Some(gone) = self.cancels[index].take_if(|state| state.users == 0) {
            let parents = gone.parents.into_iter().flatten();
            parents.for_each(|parent| self.drops(parent));
        }
    }

    /// Cancels one and its descendants. Returns those that were not cancelled before.
    fn cancel(&mut self, index: usize, cause: Cause) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut rest = std::vec![(index, cause)];
        while let Some((index, cause)) = rest.pop() {
            let state = self.cancels[index].as_mut().expect("it has users");
            if state.cause.is_some() {
                continue;
            }
            state.cause = Some(cause);
            reached.insert(index);
            for (child, state) in self.cancels.iter().enumerate() {
                if state.as_ref().is_some_and(|state| state.is_child_of(index)) {
                    rest.push((child, Cause::Parent));
                }
            }
        }
        for wait in self.waits.iter_mut().filter(|wait| wait.end.is_none()) {
            let has_come = matches!(wait.event, Event::Cancel(index) if reached.contains(&index));
            let is_cancelled = wait.cancel.is_some_and(|index| reached.contains(&index));
            wait.end = match (has_come, is_cancelled) {
                (true, true) => Some(End::Either),
                (true, false) => Some(End::Event),
                (false, true) => Some(End::Cancelled),
                (false, false) => None,
            };
        }
        reached
    }

    /// Adds a wait, and returns its index. It has ended already if it need not sleep.
    fn begin_wait(&mut self, event: Event, cancel: Option<usize>) -> usize {
        let (index, is_cancelled) = (self.waits.len(), self.is_cancelled(cancel));
        let mut end = is_cancelled.then_some(End::Cancelled);
        match event {
            _ if is_cancelled => {}
            Event::Time(_) | Event::Ready => {}
            Event::Permit if self.queue.is_empty() && self.permits > 0 => {
                self.permits -= 1;
                end = Some(End::Event);
            }
            Event::Permit => self.queue.push_back(index),
            Event::Cancel(index) => {
                end = self.is_cancelled(Some(index)).then_some(End::Event);
            }
        }
        self.waits.push(Wait {
            event,
            cancel,
            word: None,
            end,
        });
        index
    }

    /// Gives permits to the first waits.
    fn serve(&mut self) {
        while let Some(&first) = self.queue.front() {
            let wait = &mut self.waits[first];
            if wait.end.is_none() {
                let Some(left) = self.permits.checked_sub(1) else {
                    return;
                };
                (self.permits, wait.end) = (left, Some(End::Event));
            }
            self.queue.pop_front();
        }
    }
}

impl Driver<'_> {
    fn next(&self) -> Option<u8> {
        let (&step, rest) = self.steps.get().split_first()?;
        self.steps.set(rest);
        Some(step)
    }

    /// Runs a step. Returns whether the thread leaves its innermost scope.
    fn step(&self, step: u8) -> bool {
        let (index, how) = (usize::from(step >> 4 & 7), step >> 7 == 1);
        match (step & 15, how) {
            (0, _) => self.make(index),
            (1, _) => self.make_child(index),
            (2, _) => self.drop_one(index),
            (3, _) => self.cancel(index),
            (4, false) => self.set_deadline(index, |now| Some(now + UNIT + index as Nanos)),
            (4, true) => self.set_deadline(index, |now| Some(now + 4 * UNIT + index as Nanos)),
            (5, false) => self.set_deadline(index, |_| None),
            (5, true) => self.set_deadline(index, |now| Some(now - index as Nanos)),
            (6, _) => {
                let now = self.model.borrow().now;
                self.pass(now + UNIT * (1 + index as Nanos));
            }
            (7, false) => self.join(index, index),
            (7, true) => self.join(index, 0),
            (8, _) => self.leave(index),
            (9, _) => self.publish(index, how),
            (10, _) => self.commit(index),
            (11, _) => self.event(index),
            (12, _) => self.withdraw(index),
            (13, false) => self.enter(Some(index)),
            (13, true) => self.enter(None),
            (14, false) => {
                let scope = self.model.borrow().scopes.last().copied();
                return scope.is_some_and(|scope| !scope.is_sleep);
            }
            (14, true) if index < 4 => self.release(),
            (14, true) => self.notify(),
            (_, true) => self.wait(Event::Cancel(index)),
            (_, false) if index < 4 => {
                let when = self.model.borrow().now + UNIT * (1 + index as Nanos) + UNIT - 1;
                self.wait(Event::Time(when));
            }
            (_, false) if index < 6 => self.wait(Event::Permit),
            (_, false) => self.wait(Event::Ready),
        }
        self.compare();
        false
    }

    /// One more user of a cancel, if it has users.
    fn handle(&self, index: usize) -> Option<RawCancel> {
        let handle = self.handles[index].borrow().first().cloned()?;
        *self.model.borrow_mut().users(index) += 1;
        Some(handle)
    }

    fn add(&self, index: usize, handle: RawCancel, parent: Option<usize>) {
        let node = ptr::from_ref::<Node>(&handle.0);
        self.model.borrow_mut().add(index, node, [parent, None]);
        self.handles[index].borrow_mut().push(handle);
    }

    fn make(&self, index: usize) {
        if let Some(handle) = self.handle(index) {
            self.handles[index].borrow_mut().push(handle);
        } else if self.model.borrow().cancels[index].is_none() {
            self.add(index, RawCancel::new(sched()), None);
        }
    }

    fn make_child(&self, parent: usize) {
        let free = self.model.borrow().cancels[..CANCELS]
            .iter()
            .position(Option::is_none);
        let child = self.handles[parent].borrow().first().map(RawCancel::child);
        if let (Some(free), Some(child)) = (free, child) {
            self.add(free, child, Some(parent));
        }
    }

    fn drop_one(&self, index: usize) {
        let is_awaited = |wait: &Wait| wait.event == Event::Cancel(index);
        // `bring` needs one.
        let kept = usize::from(self.model.borrow().waits.iter().any(is_awaited));
        let handles = &mut *self.handles[index].borrow_mut();
        if handles.len() > kept {
            handles.pop();
            self.model.borrow_mut().drops(index);
        }
    }

    fn cancel(&self, index: usize) {
        let Some(handle) = self.handle(index) else {
            return;
        };
        let reached = self.model.borrow_mut().cancel(index, Cause::Asked);
        self.end_guests(&reached);
        assert_eq!(handle.cancel(), !reached.is_empty());
        drop(handle);
        self.model.borrow_mut().drops(index);
    }

    fn set_deadline(&self, index: usize, when: impl Fn(Nanos) -> Option<Nanos>) {
        let Some(handle) = self.handle(index) else {
            return;
        };
        let when = when(self.model.borrow().now);
        handle.set_deadline(when);
        let reached = {
            let model = &mut *self.model.borrow_mut();
            let has_passed = when.is_some_and(|when| when <= model.now);
            let reached = match has_passed {
                true => model.cancel(index, Cause::Deadline),
                false => BTreeSet::new(),
            };
            let is_cancelled = model.is_cancelled(Some(index));
            let state = model.cancels[index].as_mut().expect("it has users");
            state.due = when.filter(|_| !is_cancelled);
            reached
        };
        self.end_guests(&reached);
        drop(handle);
        self.model.borrow_mut().drops(index);
    }

    /// The clock shows `now`, and timers that are due fire.
    fn pass(&self, now: Nanos) {
        FuzzOs::set_now(now);
        let mut woken = WaiterList::new();
        sched().timers().run(now, &mut woken);
        sched().ready_list(woken);
        let model = &mut *self.model.borrow_mut();
        model.now = now;
        let due = |index: usize| model.cancels[index].as_ref().and_then(|state| state.due);
        let mut order = Vec::from_iter((0..CANCELS).filter(|&index| due(index) <= Some(now)));
        order.retain(|&index| due(index).is_some());
        order.sort_by_key(|&index| due(index));
        for wait in &mut model.waits {
            if matches!(wait.event, Event::Time(when) if when <= now) {
                wait.end.get_or_insert(End::Event);
            }
        }
        for index in order {
            model.cancels[index].as_mut().expect("it is due").due = None;
            let reached = model.cancel(index, Cause::Deadline);
            self.end_guests(&reached);
        }
    }

    /// Enters a cancel, or a shield, and continues there.
    fn enter(&self, cancel: Option<usize>) {
        if self.model.borrow().scopes.len() >= DEPTH_MAX {
            return;
        }
        let scope = |cancel| Scope {
            cancel,
            is_sleep: false,
        };
        let body = || {
            self.compare();
            while let Some(step) = self.next() {
                if self.step(step) {
                    return;
                }
            }
        };
        let Some(index) = cancel else {
            return self.within(scope(None), || sched().shield(body));
        };
        let Some(handle) = self.handle(index) else {
            return;
        };
        let outer = self.model.borrow().reached_by();
        match outer {
            Some(outer) if self.model.borrow().is_above(index, outer) => {
                self.within(scope(Some(outer)), || handle.run(body));
            }
            Some(outer) if !self.model.borrow().is_above(outer, index) => {
                let both = CANCELS + self.model.borrow().scopes.len();
                handle.run(|| {
                    let current = RawCancel::current(sched()).expect("the thread is in it");
                    let node = ptr::from_ref::<Node>(&current.0);
                    drop(current);
                    let parents = [Some(index), Some(outer)];
                    self.model.borrow_mut().add(both, node, parents);
                    self.within(scope(Some(both)), body);
                });
                self.model.borrow_mut().drops(both);
            }
            _ => self.within(scope(Some(index)), || handle.run(body)),
        }
        drop(handle);
        self.model.borrow_mut().drops(index);
    }

    fn within(&self, scope: Scope, f: impl FnOnce()) {
        self.model.borrow_mut().scopes.push(scope);
        f();
        self.model.borrow_mut().scopes.pop();
    }

    /// Waits for an event.
    fn wait(&self, event: Event) {
        let model = self.model.borrow();
        let (cancel, depth) = (model.reached_by(), model.scopes.len());
        drop(model);
        // Only members sleep by a choice.
        let sleeps_alone = matches!(event, Event::Time(_)) && cancel.is_none();
        let is_second = event == Event::Ready && self.desc.get().is_some();
        if sleeps_alone || is_second || depth >= DEPTH_MAX {
            return;
        }
        let Event::Cancel(index) = event else {
            return self.wait_with(event, cancel, None);
        };
        if let Some(handle) = self.handle(index) {
            self.wait_with(event, cancel, Some(&handle));
            drop(handle);
            self.model.borrow_mut().drops(index);
        }
    }

    fn wait_with(&self, event: Event, cancel: Option<usize>, handle: Option<&RawCancel>) {
        let index = self.model.borrow_mut().begin_wait(event, cancel);
        let outcome = match (event, handle) {
            (Event::Time(when), _) => {
                sched().sleep_until(when);
                None
            }
            (Event::Permit, _) => Some(self.semaphore.acquire_or_cancel(1, None).map(drop)),
            (Event::Ready, _) => Some(self.wait_ready()),
            (Event::Cancel(_), handle) => handle.map(RawCancel::wait),
        };
        let model = &mut *self.model.borrow_mut();
        let wait = model.waits.pop().expect("it waited");
        match (wait.end, outcome) {
            (Some(_), None) | (Some(End::Either), _) => {}
            (Some(End::Event), Some(outcome)) => assert_eq!(outcome, Ok(())),
            (Some(End::Cancelled), Some(outcome)) => assert_eq!(outcome, Err(Cancelled)),
            (None, _) => panic!("a wait has ended without a reason"),
        }
        if model.queue.contains(&index) {
            model.queue.retain(|&queued| queued != index);
            model.serve();
        }
    }

    fn release(&self) {
        self.semaphore.release(1);
        let model = &mut *self.model.borrow_mut();
        model.permits += 1;
        model.serve();
    }

    fn wait_ready(&self) -> Result<(), Cancelled> {
        let desc = sched().poll_open(0);
        self.desc.set(Some(desc));
        let outcome = sched().poll_wait(desc, Mode::Read);
        self.desc.set(None);
        sched().poll_unblock(desc);
        sched().poll_close(desc);
        outcome.map_err(|error| {
            assert_eq!(error, PollError::Cancelled);
            Cancelled
        })
    }

    fn notify(&self) {
        let Some(desc) = self.desc.get() else {
            return;
        };
        if let Some(waiter) = desc.slot(Mode::Read).notify() {
            sched().ready(waiter);
        }
        let is_ready = |wait: &&mut Wait| wait.event == Event::Ready;
        let mut model = self.model.borrow_mut();
        let wait = model.waits.iter_mut().find(is_ready);
        // Readiness latches, also after a cancel.
        wait.expect("it has the descriptor").end = Some(End::Event);
    }

    /// Lets an event come.
    fn bring(&self, event: Event) {
        match event {
            Event::Time(when) => self.pass(when),
            Event::Permit => self.release(),
            Event::Ready => self.notify(),
            Event::Cancel(index) => {
                let reached = self.model.borrow_mut().cancel(index, Cause::Asked);
                self.end_guests(&reached);
                let handle = self.handles[index].borrow().first().cloned();
                handle.expect("the wait has a handle").cancel();
            }
        }
    }

    /// Compares everything with the model.
    fn compare(&self) {
        let model = self.model.borrow();
        let mut armed = 0;
        for (index, handles) in self.handles.iter().enumerate() {
            let Some(state) = &model.cancels[index] else {
                assert!(handles.borrow().is_empty());
                continue;
            };
            armed += usize::from(state.due.is_some());
            for handle in &*handles.borrow() {
                assert_eq!(
                    (handle.cause(), handle.deadline()),
                    (state.cause, state.due)
                );
                let others = model.cancels.iter().flatten();
                let children = others.filter(|other| other.is_child_of(index)).count();
                let expected = if handle.is_cancelled() { 0 } else { children };
                assert_eq!(
                    handle.0.with(|state| state.children.len()),
                    expected,
                    "children"
                );
            }
        }
        let asleep = |wait: &&Wait| {
            let limited = matches!(wait.event, Event::Time(_));
            limited && wait.word.is_some()
        };
        let limits = model.waits.iter().filter(asleep);
        let fired = limits.clone().filter(|wait| match wait.event {
            Event::Time(when) => when <= model.now,
            _ => false,
        });
        armed += limits.count() - fired.count();
        assert_eq!(sched().timers().armed(), armed, "timers");
        for wait in &model.waits {
            if let Some(word) = wait.word {
                // SAFETY: the word of the thread, which sleeps further out on this stack.
                let word = unsafe { &*ptr::with_exposed_provenance::<AtomicU32>(word) };
                let is_woken = word.load(Ordering::Relaxed) == 1;
                assert_eq!(is_woken, wait.end.is_some(), "whether a wait has ended");
            }
        }
        assert_eq!(self.semaphore.available(), model.permits);
        let reached_by = model.reached_by();
        assert_eq!(sched().check().is_err(), model.is_cancelled(reached_by));
        let current =
            RawCancel::current(sched()).map(|current| std::ptr::from_ref::<Node>(&current.0));
        let expected = reached_by.map(|index| model.state(index).node);
        assert_eq!(current, expected, "the innermost cancel");
        for guest in &self.guests {
            if let Some(guest) = &*guest.borrow() {
                guest.compare(model.is_cancelled(Some(guest.cancel)));
            }
        }
    }

    fn finish(&self) {
        (0..GUESTS).for_each(|index| self.leave(index));
        for index in 0..CANCELS {
            while !self.handles[index].borrow().is_empty() {
                self.drop_one(index);
            }
        }
        assert!(self.model.borrow().cancels.iter().all(Option::is_none));
        self.compare();
    }
}
