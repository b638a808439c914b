//! Locks, condition variables, semaphores, wait groups and notifications against plain counters and
//! queues of numbers.
//!
//! There is one thread. When an operation waits, the rest of the program runs inside its futex wait
//! until a step wakes it. So the operations that wait are nested, and the innermost resumes first.
//!
//! A waiter of a mutex that was woken and has not run yet keeps the others waiting. If it is
//! further out on the stack, it cannot run before they do. So every wait for the mutex has a limit,
//! except that of a condition variable's waiter. For it, an unlock hands the mutex over.
#![allow(unsafe_code, reason = "locks rely on their owners to unlock them")]

use crate::condvar::RawCondvar;
use crate::fuzz::base::{FuzzOs, sched};
use crate::mutex::RawMutex;
use crate::notify::RawNotify;
use crate::os::Nanos;
use crate::runtime::Runtime;
use crate::rwlock::RawRwLock;
use crate::sched::Sched;
use crate::semaphore::RawSemaphore;
use crate::sync::{AtomicU32, Ordering};
use crate::wait_group::RawWaitGroup;
use crate::waiter::WaiterList;
use core::cell::{Cell, RefCell};
use core::ptr;
use std::collections::VecDeque;
use std::vec::Vec;

/// The most operations that wait at the same time: each takes a part of the stack.
const WAITS_MAX: usize = 10;
/// A waiter that has waited so long is handed the mutex.
const STARVING: Nanos = 1_000_000;
/// Later than the steps of a program.
const FAR: Nanos = 1 << 40;
const BEGIN: Nanos = 1_000;

const READ: usize = 0;
const WRITE: usize = 1;

/// The scheduler of the thread.
#[derive(Clone, Copy, Default)]
pub(crate) struct Fuzzed;

impl Runtime for Fuzzed {
    type Instant = Nanos;

    fn sched(self) -> &'static Sched {
        sched()
    }

    fn started(self) -> Option<&'static Sched> {
        Some(sched())
    }

    fn nanos(self, limit: Nanos) -> Nanos {
        limit
    }

    fn now(self) -> Nanos {
        sched().now()
    }
}

std::thread_local! {
    static DRIVER: Cell<*const Driver<'static>> = const { Cell::new(ptr::null()) };
}

/// What a wait is for. The discriminants index [`Model::queues`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Mutex,
    Condvar,
    RwLock,
    Semaphore,
    Group,
    Notify,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    Served,
    /// The waiter owns the mutex.
    HandedOver,
    Expired,
}

#[derive(Clone, Copy)]
struct Wait {
    place: Place,
    /// Permits, or the access to the read-write lock.
    wants: usize,
    since: Nanos,
    limit: Option<Nanos>,
    /// What ended the wait. The waiter may still have to run.
    ended: Option<Ending>,
    /// Whether a notification ended the wait for the condition variable.
    notified: Option<bool>,
    result: Option<bool>,
}

#[derive(Default)]
struct Model {
    now: Nanos,
    locked: bool,
    /// A waiter of the mutex was woken and has not run yet.
    woken: bool,
    readers: usize,
    writer: bool,
    permits: usize,
    members: usize,
    notification: bool,
    waits: Vec<Wait>,
    /// Waiters that have expired stay in their queue until they run, or until they are first.
    queues: [VecDeque<usize>; 6],
}

struct Driver<'a> {
    mutex: RawMutex<Fuzzed>,
    condvar: RawCondvar<Fuzzed>,
    lock: RawRwLock<Fuzzed>,
    semaphore: RawSemaphore<Fuzzed>,
    group: RawWaitGroup<Fuzzed>,
    notify: RawNotify<Fuzzed>,
    steps: Cell<&'a [u8]>,
    model: RefCell<Model>,
    /// The wait that the next futex wait belongs to.
    next: Cell<Option<usize>>,
    /// The waits that sleep, and their words.
    asleep: RefCell<Vec<(usize, *const AtomicU32)>>,
}

/// Two bytes are one step: what, and how.
pub fn run(input: &[u8]) {
    let driver = Driver {
        mutex: RawMutex::default(),
        condvar: RawCondvar::default(),
        lock: RawRwLock::default(),
        semaphore: RawSemaphore::default(),
        group: RawWaitGroup::default(),
        notify: RawNotify::default(),
        steps: Cell::new(input),
        model: RefCell::new(Model {
            now: BEGIN,
            ..Model::default()
        }),
        next: Cell::new(None),
        asleep: RefCell::default(),
    };
    FuzzOs::set_now(BEGIN);
    DRIVER.set((&raw const driver).cast());
    FuzzOs::on_sleep(sleep);
    while driver.step() {}
    driver.finish();
    DRIVER.set(ptr::null());
    FuzzOs::set_now(1);
}

/// The futex wait of an operation: runs further steps until one has woken it.
fn sleep(word: &AtomicU32) {
    // SAFETY: `run` has stored the address, and its frame is further out on this stack.
    let driver = unsafe { &*DRIVER.get() };
    let wait = driver.next.take();
    let wait = wait.expect("an operation waits although it need not");
    driver.asleep.borrow_mut().push((wait, word));
    while word.load(Ordering::Relaxed) == 0 {
        if !driver.step() {
            driver.release_all();
        }
    }
    driver.asleep.borrow_mut().retain(|&(at, _)| at != wait);
    if driver.model.borrow().waits[wait].place == Place::Condvar {
        driver.let_the_mutex_be_locked_again();
    }
    let waits_again = !driver.model.borrow_mut().resume(wait);
    driver.next.set(waits_again.then_some(wait));
}

impl Model {
    fn queue(&mut self, place: Place) -> &mut VecDeque<usize> {
        &mut self.queues[place as usize]
    }

    fn admits(&self, place: Place, wants: usize) -> bool {
        match place {
            Place::Mutex => !self.locked,
            Place::Condvar => false,
            Place::RwLock => !self.writer && (wants == READ || self.readers == 0),
            Place::Semaphore => self.permits >= wants,
            Place::Group => self.members == 0,
            Place::Notify => self.notification,
        }
    }

    fn admit(&mut self, place: Place, wants: usize) {
        match place {
            Place::Mutex => self.locked = true,
            Place::RwLock if wants == READ => self.readers += 1,
            Place::RwLock => self.writer = true,
            Place::Semaphore => self.permits -= wants,
            Place::Notify => self.notification = false,
            Place::Condvar | Place::Group => {}
        }
    }

    fn need_not_wait(&self, place: Place, wants: usize) -> bool {
        let in_order = matches!(place, Place::RwLock | Place::Semaphore);
        self.admits(place, wants) && (!in_order || self.queues[place as usize].is_empty())
    }

    /// Ends the wait of the first waiter that has not expired, if `wanted`.
    fn pop(&mut self, place: Place, ending: Ending, wanted: impl Fn(&Self, Wait) -> bool) -> bool {
        while let Some(&first) = self.queue(place).front() {
            let wait = self.waits[first];
            if wait.ended.is_none() && !wanted(self, wait) {
                return false;
            }
            self.queue(place).pop_front();
            if wait.ended.is_none() {
                self.waits[first].ended = Some(ending);
                if matches!(place, Place::RwLock | Place::Semaphore) {
                    self.admit(place, wait.wants);
                }
                return true;
            }
        }
        false
    }

    /// Admits the first waiters.
    fn serve(&mut self, place: Place) {
        while self.pop(place, Ending::Served, |model, wait| {
            model.admits(place, wait.wants)
        }) {}
    }

    fn wake_all(&mut self, place: Place) {
        while self.pop(place, Ending::Served, |_, _| true) {}
    }

    fn unlock(&mut self) {
        assert!(self.locked);
        if self.woken {
            self.locked = false;
            return;
        }
        let handed_over = self.pop(Place::Mutex, Ending::HandedOver, |model, wait| {
            model.now - wait.since >= STARVING
        });
        if !handed_over {
            self.woken = self.pop(Place::Mutex, Ending::Served, |_, _| true);
            self.locked = false;
        }
    }

    /// A waiter runs again. Returns false if it waits again.
    fn resume(&mut self, number: usize) -> bool {
        let wait = self.waits[number];
        let ending = wait.ended.expect("a wait ends by itself");
        self.queue(wait.place).retain(|&queued| queued != number);
        match (wait.place, ending) {
            (Place::Condvar, _) => {
                let wait = &mut self.waits[number];
                wait.notified = Some(ending == Ending::Served);
                (wait.place, wait.limit, wait.since) = (Place::Mutex, None, self.now);
                return self.compete(number, false);
            }
            (Place::Mutex, Ending::Served) => {
                self.woken = false;
                return self.compete(number, true);
            }
            (Place::RwLock | Place::Semaphore, Ending::Expired) => self.serve(wait.place),
            _ => {}
        }
        self.end(number, ending != Ending::Expired);
        true
    }

    fn end(&mut self, number: usize, result: bool) {
        let wait = &mut self.waits[number];
        wait.result = Some(wait.notified.unwrap_or(result));
    }

    /// Locks the mutex, or queues the waiter again. Returns false if it waits.
    fn compete(&mut self, number: usize, in_front: bool) -> bool {
        let locks = !self.locked;
        let expired = self.waits[number]
            .limit
            .is_some_and(|limit| limit <= self.now);
        if locks || expired {
            self.locked = true;
            self.end(number, locks);
            return true;
        }
        self.waits[number].ended = None;
        match in_front {
            true => self.queue(Place::Mutex).push_front(number),
            false => self.queue(Place::Mutex).push_back(number),
        }
        false
    }

    /// Begins a wait. Returns its number, and false if it ends at once.
    fn wait(&mut self, place: Place, wants: usize, limit: Option<Nanos>) -> (usize, bool) {
        let number = self.waits.len();
        self.waits.push(Wait {
            place,
            wants,
            since: self.now,
            limit,
            ended: None,
            notified: None,
            result: None,
        });
        self.queue(place).push_back(number);
        if place == Place::Condvar {
            self.unlock();
        }
        if limit.is_some_and(|limit| limit <= self.now) {
            self.waits[number].ended = Some(Ending::Expired);
            return (number, !self.resume(number));
        }
        (number, true)
    }
}

impl Driver<'_> {
    /// Makes one step. False if there is none.
    fn step(&self) -> bool {
        let &[what, how, ref rest @ ..] = self.steps.get() else {
            return false;
        };
        self.steps.set(rest);
        let (wants, limit) = (usize::from(how & 3), self.limit(how >> 2));
        let (lock, write) = (&self.lock, usize::from(how & 1));
        let far = Some(limit.unwrap_or(self.model.borrow().now + FAR / 2));
        match what % 16 {
            0 => self.operate(Place::Mutex, 0, far, |limit| {
                self.mutex.lock_until(limit.unwrap_or(FAR))
            }),
            1 => self.unlock(),
            2 => self.attempt(Place::Mutex, 0, || self.mutex.try_lock()),
            3 => self.wait_for_condition(limit),
            4 if how & 1 == 0 => self.wake_one(Place::Condvar, || self.condvar.notify_one()),
            4 => self.wake_all(Place::Condvar, || self.condvar.notify_all()),
            5 | 6 => self.operate(Place::RwLock, write, limit, |limit| match (write, limit) {
                (READ, Some(limit)) => lock.read_until(limit),
                (READ, None) => done(|| lock.read()),
                (_, Some(limit)) => lock.write_until(limit),
                (_, None) => done(|| lock.write()),
            }),
            7 => self.unlock_lock(how & 1 == 0),
            8 if write == READ => self.attempt(Place::RwLock, READ, || lock.try_read()),
            8 => self.attempt(Place::RwLock, WRITE, || lock.try_write()),
            9 => self.operate(Place::Semaphore, wants, limit, |limit| match limit {
                _ if how & 1 == 0 => self.semaphore.acquire_or_cancel(wants, limit) == Ok(true),
                Some(limit) => self.semaphore.acquire_until(wants, limit),
                None => done(|| self.semaphore.acquire(wants)),
            }),
            10 if how & 4 == 0 => self.release(wants),
            10 => self.attempt(Place::Semaphore, wants, || {
                self.semaphore.try_acquire(wants)
            }),
            11 => self.add(wants),
            12 => self.operate(Place::Group, 0, None, |_| done(|| self.group.wait())),
            13 => self.operate(Place::Notify, 0, limit, |limit| match limit {
                Some(limit) => self.notify.wait_until(limit),
                None => done(|| self.notify.wait()),
            }),
            14 if how & 1 == 0 => self.notify_one(),
            14 => self.wake_all(Place::Notify, || self.notify.notify_waiters()),
            _ => self.pass(Nanos::from(how) * STARVING / 128),
        }
        true
    }

    /// None, one that has come, or one up to 15 / 8 of the time after which a waiter starves.
    fn limit(&self, how: u8) -> Option<Nanos> {
        let now = self.model.borrow().now;
        match how & 3 {
            0 | 1 => None,
            2 => Some(now - Nanos::from(how >> 2 & 1)),
            _ => Some(now + 1 + Nanos::from(how >> 2) * STARVING / 8),
        }
    }

    /// Runs an operation that waits, and compares its result with the model's.
    fn operate(
        &self,
        place: Place,
        wants: usize,
        limit: Option<Nanos>,
        operation: impl FnOnce(Option<Nanos>) -> bool,
    ) {
        let mut model = self.model.borrow_mut();
        let wait = if model.need_not_wait(place, wants) {
            model.admit(place, wants);
            None
        } else if self.asleep.borrow().len() == WAITS_MAX {
            return;
        } else {
            Some(model.wait(place, wants, limit))
        };
        drop(model);
        let sleeper = wait.and_then(|(number, sleeps)| sleeps.then_some(number));
        self.next.set(sleeper);
        let result = operation(limit);
        assert_eq!(self.next.take(), None, "an operation does not wait");
        let model = self.model.borrow();
        let expected = wait.map_or(Some(true), |(number, _)| model.waits[number].result);
        assert_eq!(Some(result), expected, "how a wait for {place:?} ends");
        drop(model);
        self.compare();
    }

    /// Runs an operation that does not wait.
    fn attempt(&self, place: Place, wants: usize, operation: impl FnOnce() -> bool) {
        let mut model = self.model.borrow_mut();
        let expected = model.need_not_wait(place, wants);
        if expected {
            model.admit(place, wants);
        }
        drop(model);
        assert_eq!(operation(), expected, "whether an attempt succeeds");
        self.compare();
    }

    fn wait_for_condition(&self, limit: Option<Nanos>) {
        if self.model.borrow().locked {
            self.let_the_mutex_be_handed_over();
            self.operate(Place::Condvar, 0, limit, |limit| {
                // SAFETY: the mutex is locked.
                unsafe {
                    match limit {
                        None => self.condvar.wait(&self.mutex, None),
                        // Without a cancel it is the same wait.
                        limit => self.condvar.wait_or_cancel(&self.mutex, limit) == Ok(true),
                    }
                }
            });
        }
    }

    fn unlock(&self) {
        if self.model.borrow().locked {
            self.let_the_mutex_be_handed_over();
            self.model.borrow_mut().unlock();
            // SAFETY: the mutex is locked.
            unsafe { self.mutex.unlock() };
            self.compare();
        }
    }

    /// Passes so much time that a waiter without a limit is handed the mutex.
    fn let_the_mutex_be_handed_over(&self) {
        let endless = {
            let model = self.model.borrow();
            let queue = &model.queues[Place::Mutex as usize];
            queue.iter().any(|&wait| model.waits[wait].limit.is_none())
        };
        if endless {
            self.pass(STARVING);
        }
    }

    /// Unlocks the mutex if a waiter without a limit would wait behind one that was woken.
    fn let_the_mutex_be_locked_again(&self) {
        let behind = {
            let model = self.model.borrow();
            model.locked && model.woken
        };
        if behind {
            self.unlock();
        }
    }

    /// Unlocks the read-write lock for its writer or for one reader.
    fn unlock_lock(&self, downgrade: bool) {
        let mut model = self.model.borrow_mut();
        let (writer, readers) = (model.writer, model.readers);
        if !writer && readers == 0 {
            return;
        }
        model.writer = false;
        model.readers = if writer {
            usize::from(downgrade)
        } else {
            readers - 1
        };
        model.serve(Place::RwLock);
        drop(model);
        // SAFETY: the lock has a writer, or else readers.
        unsafe {
            match (writer, downgrade) {
                (true, true) => self.lock.downgrade(),
                (true, false) => self.lock.unlock_write(),
                (false, _) => self.lock.unlock_read(),
            }
        }
        self.compare();
    }

    fn release(&self, permits: usize) {
        let mut model = self.model.borrow_mut();
        model.permits += permits;
        model.serve(Place::Semaphore);
        drop(model);
        self.semaphore.release(permits);
        self.compare();
    }

    /// Adds members to the group, or ends one.
    fn add(&self, members: usize) {
        let mut model = self.model.borrow_mut();
        model.members += members;
        if members > 0 {
            drop(model);
            self.group.add(members);
        } else if model.members > 0 {
            model.members -= 1;
            if model.members == 0 {
                model.wake_all(Place::Group);
            }
            drop(model);
            self.group.done();
        } else {
            return;
        }
        self.compare();
    }

    fn notify_one(&self) {
        let mut model = self.model.borrow_mut();
        let served = model.pop(Place::Notify, Ending::Served, |_, _| true);
        model.notification |= !served;
        drop(model);
        self.notify.notify_one();
        self.compare();
    }

    fn wake_one(&self, place: Place, operation: impl FnOnce()) {
        self.model
            .borrow_mut()
            .pop(place, Ending::Served, |_, _| true);
        operation();
        self.compare();
    }

    fn wake_all(&self, place: Place, operation: impl FnOnce()) {
        self.model.borrow_mut().wake_all(place);
        operation();
        self.compare();
    }

    /// Advances the clock and runs the timers.
    fn pass(&self, by: Nanos) {
        let mut model = self.model.borrow_mut();
        model.now += by;
        let now = model.now;
        for wait in &mut model.waits {
            let comes = wait.limit.is_some_and(|limit| limit <= now);
            if comes && wait.ended.is_none() {
                wait.ended = Some(Ending::Expired);
            }
        }
        drop(model);
        FuzzOs::set_now(now);
        let mut woken = WaiterList::new();
        sched().timers().run(now, &mut woken);
        sched().ready_list(woken);
        self.compare();
    }

    /// Brings every wait nearer to its end.
    fn release_all(&self) {
        self.pass(FAR);
        self.unlock();
        self.unlock_lock(false);
        self.release(4);
        let members = self.model.borrow().members;
        (0..members).for_each(|_| self.add(0));
        self.wake_all(Place::Condvar, || self.condvar.notify_all());
        self.wake_all(Place::Notify, || self.notify.notify_waiters());
    }

    /// Compares the state with the model, and the waits that are woken.
    fn compare(&self) {
        let model = self.model.borrow();
        assert_eq!(self.mutex.is_locked(), model.locked, "the mutex");
        let owners = (self.lock.is_locked(), self.lock.is_write_locked());
        let owned = model.writer || model.readers > 0;
        assert_eq!(owners, (owned, model.writer), "the read-write lock");
        assert_eq!(self.semaphore.available(), model.permits, "permits");
        assert_eq!(self.group.count(), model.members, "members");
        for &(wait, word) in &*self.asleep.borrow() {
            // SAFETY: the word of an operation that waits further out on this stack.
            let woken = unsafe { &*word }.load(Ordering::Relaxed) != 0;
            let Wait { place, ended, .. } = model.waits[wait];
            assert_eq!(
                woken,
                ended.is_some(),
                "whether wait {wait} ({place:?}) is woken"
            );
        }
    }

    /// Asserts that no operation has left a node or a timer.
    fn finish(&self) {
        let (readers, writer) = {
            let model = self.model.borrow();
            (model.readers, model.writer)
        };
        (0..readers + usize::from(writer)).for_each(|_| self.unlock_lock(false));
        self.attempt(Place::RwLock, WRITE, || self.lock.try_write());
        self.release(1);
        self.attempt(Place::Semaphore, 1, || self.semaphore.try_acquire(1));
        self.unlock();
        self.attempt(Place::Mutex, 0, || self.mutex.try_lock());
        assert!(self.model.borrow().queues.iter().all(VecDeque::is_empty));
        assert_eq!(sched().timers().next(), None, "a timer is left");
    }
}

/// Runs an operation without a limit, which succeeds.
fn done(operation: impl FnOnce()) -> bool {
    operation();
    true
}
