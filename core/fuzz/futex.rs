//! The table of futexes and the set of hot addresses against plain lists.
//!
//! There is one thread. When an operation waits, the rest of the program runs inside the sleep of
//! the thread until a step wakes it. So waits are nested, and the innermost resumes first. A wait
//! is that of an ordinary thread, or of a goroutine that has an M of its own for as long.
#![allow(unsafe_code, reason = "the program continues inside a futex wait")]

use super::hot::{self, FORGOTTEN_AFTER, Recent, WAYS};
use super::{FutexTable, FutexWait, FutexWaited, LockKind, Policy};
use crate::fuzz::base::{FuzzOs, sched};
use crate::g::{self, GRef};
use crate::m::M;
use crate::os::Nanos;
use crate::sync::{Ordering, Word};
use crate::waiter::WaiterList;
use core::cell::{Cell, RefCell};
use core::ptr::{self, NonNull};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::vec::Vec;

const WORDS: usize = 4;
/// The most waits at the same time: each takes a part of the stack.
const WAITS_MAX: usize = 10;
/// Addresses that share a place in the set of hot ones: more than fit.
const NEIGHBOURS: usize = WAYS + 2;
const UNIT: Nanos = 16;
const FAR: Nanos = 1 << 50;

/// A goroutine that never runs, and its M.
struct Caller {
    g: GRef,
    m: &'static M,
}

impl Caller {
    fn new(index: usize) -> Self {
        let m: &M = Box::leak(Box::new(M::new(index)));
        let g = g::idle::goroutine_on(NonNull::from(m).cast(), index as u64 + 1);
        Caller { g, m }
    }
}

std::thread_local! {
    static DRIVER: Cell<*const Driver<'static>> = const { Cell::new(ptr::null()) };
    static CALLERS: &'static [Caller] = Vec::leak((0..WAITS_MAX).map(Caller::new).collect());
    static NEARBY: [usize; NEIGHBOURS] = {
        let mut neighbours = (1..).map(|n| n * 4).filter(|&n| hot::place(n, hot::SETS) == 7);
        core::array::from_fn(|_| neighbours.next().expect("there are many"))
    };
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    Woken,
    Expired,
}

/// A wait that sleeps.
#[derive(Clone, Copy, Debug)]
struct Wait {
    word: usize,
    /// In the table, and not in the kernel.
    here: bool,
    /// By a goroutine, of this kind.
    kind: Option<LockKind>,
    limit: Option<Nanos>,
    since: Nanos,
    again: Nanos,
    ended: Option<Ending>,
}

/// The first rescue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum First {
    None,
    Rescued(usize),
    /// The number of the waiter.
    Known(u64),
    Told,
}

#[derive(Clone, Copy, Default)]
struct Hot {
    address: usize,
    used: Nanos,
    waker: Option<u64>,
}

struct Model {
    now: Nanos,
    policy: Policy,
    /// The innermost last.
    waits: Vec<Wait>,
    hot: BTreeMap<usize, [Hot; WAYS]>,
    first: First,
    /// How many rescues there were since when.
    rescues: (u32, Nanos),
}

struct Driver<'a> {
    table: FutexTable,
    words: [Word; WORDS],
    steps: Cell<&'a [u8]>,
    model: RefCell<Model>,
    /// The waits in the kernel that were not woken.
    kernel: RefCell<Vec<usize>>,
    /// The waits in the table, and the words on which the thread sleeps.
    asleep: RefCell<Vec<(usize, *const Word)>>,
}

/// Two bytes are one step: what, and how.
pub fn run(input: &[u8]) {
    let driver = Driver {
        table: FutexTable::default(),
        words: core::array::from_fn(|_| Word::new(0)),
        steps: Cell::new(input),
        model: RefCell::new(Model {
            now: UNIT,
            policy: Policy::Block,
            waits: Vec::new(),
            hot: BTreeMap::new(),
            first: First::None,
            rescues: (0, 0),
        }),
        kernel: RefCell::default(),
        asleep: RefCell::default(),
    };
    FutexTable::forbid_parking_by(|forbid| sched().set_unparkable(forbid));
    FuzzOs::set_now(UNIT);
    DRIVER.set((&raw const driver).cast());
    FuzzOs::on_sleep(|word| {
        // SAFETY: `run` has stored the address, and its frame is further out on this stack.
        unsafe { &*DRIVER.get() }.sleep(word)
    });
    while driver.step() {}
    assert_eq!(sched().timers().next(), None, "a timer is left");
    DRIVER.set(ptr::null());
    FuzzOs::set_now(1);
}

impl Model {
    /// Ends up to `most` waits for a word. Returns how many.
    fn wake(&mut self, word: usize, address: usize, most: u32) -> u32 {
        let mut woken = 0_u32;
        for here in [true, false] {
            let sleeps = !here && self.waits.iter().any(|wait| !wait.here);
            // A sleeper of the kernel wakes in any case.
            let limit = if sleeps {
                most.max(woken.saturating_add(1))
            } else {
                most
            };
            for (index, wait) in self.waits.iter_mut().enumerate() {
                let fits = wait.word == word && wait.here == here && wait.ended.is_none();
                if !fits || woken == limit {
                    continue;
                }
                wait.ended = Some(Ending::Woken);
                woken += 1;
                if here && self.first == First::Rescued(word) {
                    self.first = First::Known(index as u64 + 1);
                }
                if let Some(hot) = Self::hot(&mut self.hot, address).filter(|_| here) {
                    hot.waker = None;
                }
            }
        }
        woken.min(most)
    }

    fn hot(hot: &mut BTreeMap<usize, [Hot; WAYS]>, address: usize) -> Option<&mut Hot> {
        let ways = hot.get_mut(&hot::place(address, hot::SETS))?;
        ways.iter_mut().find(|hot| hot.address == address)
    }

    fn contains(&mut self, address: usize, now: Nanos) -> bool {
        let hot = Self::hot(&mut self.hot, address);
        let Some(hot) = hot.filter(|hot| now - hot.used < FORGOTTEN_AFTER) else {
            return false;
        };
        hot.used = now;
        true
    }

    fn insert(&mut self, address: usize) {
        if let Some(hot) = Self::hot(&mut self.hot, address) {
            hot.used = self.now;
            return;
        }
        let place = hot::place(address, hot::SETS);
        let ways = self.hot.entry(place).or_default();
        let oldest = ways.iter_mut().min_by_key(|hot| hot.used);
        *oldest.expect("there are some") = Hot {
            address,
            used: self.now,
            waker: None,
        };
    }
}

impl Driver<'_> {
    /// Makes one step. False if there is none.
    fn step(&self) -> bool {
        let &[what, how, ref rest @ ..] = self.steps.get() else {
            return false;
        };
        self.steps.set(rest);
        let word = usize::from(how & 3);
        match what % 16 {
            0..=4 => self.wait(word, how >> 2, what >> 4),
            5..=7 => self.wake(word, [1, 1, 2, u32::MAX][usize::from(how >> 2 & 3)]),
            8 => _ = self.words[word].fetch_add(1, Ordering::Relaxed),
            9 => self.pass(match how {
                0..128 => UNIT * Nanos::from(how),
                _ => FORGOTTEN_AFTER / 64 * Nanos::from(how - 127),
            }),
            10 => {
                let policy = [Policy::Park, Policy::Rescue, Policy::Block][usize::from(how % 3)];
                self.table.set_policy(policy);
                self.model.borrow_mut().policy = policy;
            }
            11 | 12 => self.insert(how),
            13 => self.look(how),
            14 if how & 1 == 0 => self.begin_first(usize::from(how >> 1 & 3)),
            14 => self.take_first(),
            _ => self.postpone(how),
        }
        true
    }

    fn address(&self, word: usize) -> usize {
        ptr::from_ref(&self.words[word]).addr()
    }

    /// One of the words, or of other addresses with one place.
    fn any_address(&self, how: u8) -> usize {
        let how = usize::from(how);
        match how % (WORDS + NEIGHBOURS) {
            word @ 0..WORDS => self.address(word),
            other => NEARBY.with(|nearby| nearby[other - WORDS]),
        }
    }

    /// Waits for a word: as a thread, or as a goroutine that may park or must not.
    fn wait(&self, word: usize, caller: u8, how: u8) {
        let changed = how >> 2 == 3;
        let is_goroutine = caller & 3 != 3;
        let obstacle = (caller & 3 == 2).then_some(caller >> 2 & 3);
        let Some((number, kind)) = self.begin(word, is_goroutine, obstacle, [caller, how]) else {
            return;
        };
        let begun = self.model.borrow().waits[number];
        let wait = FutexWait {
            word: &self.words[word],
            expected: self.words[word].load(Ordering::Relaxed) + u32::from(changed),
            until: begun.limit,
            kind,
        };
        let kernel = || {
            if !changed {
                self.sleep_in_kernel(number);
            }
            number
        };
        let waited = match is_goroutine {
            false => self.table.wait(sched(), wait, kernel),
            true => self.wait_as(number, obstacle, wait, kernel),
        };
        let ended = self.model.borrow_mut().waits.pop();
        let ended = ended.expect("`begin` has pushed it").ended;
        let expected = match ended {
            _ if !begun.here => FutexWaited::Kernel(number),
            _ if changed => FutexWaited::Changed,
            Some(Ending::Woken) => FutexWaited::Woken,
            Some(Ending::Expired) => FutexWaited::Expired,
            None => {
                let passed = begun.limit.is_some_and(|limit| limit <= begun.since);
                assert!(passed, "a wait ends by itself");
                FutexWaited::Expired
            }
        };
        assert_eq!(waited, expected, "how {begun:?} ends");
        self.compare();
    }

    /// Notes a wait, and returns its number and the kind that its caller says it is. `None` if
    /// there are too many.
    fn begin(
        &self,
        word: usize,
        is_goroutine: bool,
        obstacle: Option<u8>,
        [caller, how]: [u8; 2],
    ) -> Option<(usize, LockKind)> {
        let mut model = self.model.borrow_mut();
        let (number, now) = (model.waits.len(), model.now);
        if number == WAITS_MAX {
            return None;
        }
        let kind = match obstacle {
            Some(2) => LockKind::ThreadPark,
            Some(3) => LockKind::Other,
            _ => LockKind::Std,
        };
        let seen = match obstacle {
            Some(0 | 1) => LockKind::Forbidden,
            _ => kind,
        };
        let here = is_goroutine
            && obstacle.is_none()
            && match model.policy {
                Policy::Park => true,
                Policy::Rescue => model.contains(self.address(word), sched().coarse_time()),
                Policy::Block => false,
            };
        model.waits.push(Wait {
            word,
            here,
            kind: is_goroutine.then_some(seen),
            limit: match how & 3 {
                0 | 1 => None,
                2 => Some(now - Nanos::from(caller & 1)),
                _ => Some(now + UNIT * Nanos::from(1 + (caller >> 4))),
            },
            since: now,
            again: now,
            ended: None,
        });
        Some((number, kind))
    }

    /// Waits as goroutine `number`, whose home is any M or its own.
    fn wait_as(
        &self,
        number: usize,
        obstacle: Option<u8>,
        wait: FutexWait<'_>,
        kernel: impl FnOnce() -> usize,
    ) -> FutexWaited<usize> {
        let Caller { g, m } = CALLERS.with(|callers| &callers[number]);
        g.unparkable().store(obstacle == Some(0), Ordering::Relaxed);
        match obstacle {
            Some(1) => assert!(m.retake.enter()),
            _ => m.retake.leave(),
        }
        let migrates = wait.expected % 2 == 0;
        match migrates {
            true => g.leave_home(),
            false => g.set_home(number),
        }
        let waited = self.table.wait_as(sched(), g, wait, kernel);
        assert_eq!(g.home(), (!migrates).then_some(number), "its home");
        waited
    }

    /// The sleep of a wait in the table, the innermost one.
    fn sleep(&self, word: &Word) {
        let number = self.model.borrow().waits.len() - 1;
        CALLERS.with(|callers| {
            assert_eq!(callers[number].g.home(), Some(number), "parked at home");
        });
        self.asleep.borrow_mut().push((number, word));
        while word.load(Ordering::Relaxed) == 0 {
            if !self.step() {
                self.release_all();
            }
        }
        self.asleep.borrow_mut().retain(|&(wait, _)| wait != number);
    }

    fn sleep_in_kernel(&self, number: usize) {
        self.kernel.borrow_mut().push(number);
        self.compare();
        while self.kernel.borrow().contains(&number) {
            if !self.step() {
                self.release_all();
            }
        }
    }

    /// Wakes up to `most` waiters of a word.
    fn wake(&self, word: usize, most: u32) {
        let address = self.address(word);
        let expected = self.model.borrow_mut().wake(word, address, most);
        let kernel = |most| {
            let (model, mut woken) = (self.model.borrow(), 0);
            self.kernel.borrow_mut().retain(|&wait| {
                let wakes = woken < most && model.waits[wait].word == word;
                woken += u32::from(wakes);
                !wakes
            });
            woken
        };
        let woken = self.table.wake(sched(), address, most, kernel);
        assert_eq!(woken, expected, "how many were woken");
        self.compare();
    }

    /// Advances the clock and runs the timers.
    fn pass(&self, by: Nanos) {
        let mut model = self.model.borrow_mut();
        model.now += by;
        let now = model.now;
        for wait in &mut model.waits {
            let comes = wait.here && wait.limit.is_some_and(|limit| limit <= now);
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

    fn insert(&self, how: u8) {
        let address = self.any_address(how);
        let mut model = self.model.borrow_mut();
        model.insert(address);
        let now = model.now;
        self.table.hot.insert(address, now);
        let (count, since) = &mut model.rescues;
        if now - *since >= Recent::WINDOW {
            (*count, *since) = (0, now);
        }
        *count += 1;
        self.table.recent.count(now);
        self.compare_rescues(&model);
    }

    fn compare_rescues(&self, model: &Model) {
        let (count, since) = model.rescues;
        let many = count >= Recent::MANY && model.now - since < Recent::WINDOW;
        assert_eq!(self.table.recent.are_many(model.now), many, "rescues");
    }

    /// Looks for an address, or notes a waker there.
    fn look(&self, how: u8) {
        let address = self.any_address(how);
        let mut model = self.model.borrow_mut();
        if how >> 6 == 0 {
            let waker = Some(u64::from(how));
            self.table
                .hot
                .note_waker(address, waker.filter(|&id| id > 0));
            if let Some(hot) = Model::hot(&mut model.hot, address) {
                hot.waker = waker.filter(|&id| id > 0);
            }
        }
        self.compare_rescues(&model);
        let waker = Model::hot(&mut model.hot, address).and_then(|hot| hot.waker);
        assert_eq!(self.table.last_waker(address), waker, "the last waker");
        if how >> 6 > 1 {
            let now = model.now;
            let expected = model.contains(address, now);
            assert_eq!(self.table.hot.contains(address, now), expected, "hot");
        }
    }

    fn begin_first(&self, word: usize) {
        let mut model = self.model.borrow_mut();
        if matches!(model.first, First::None | First::Rescued(_)) {
            model.first = First::Rescued(word);
        }
        self.table.first.begin(self.address(word));
    }

    fn take_first(&self) {
        let mut model = self.model.borrow_mut();
        let known = match model.first {
            First::Known(waiter) => Some(waiter),
            _ => None,
        };
        if known.is_some() {
            model.first = First::Told;
        }
        let taken = self.table.take_first();
        assert!(taken.as_ref().is_none_or(|(_, waker)| waker.is_none()));
        assert_eq!(taken.map(|(waiter, _)| waiter.id), known, "the first");
    }

    /// sysmon has ended a wait, and does not do so again soon.
    fn postpone(&self, how: u8) {
        let number = usize::from(how) % WAITS_MAX;
        let mut model = self.model.borrow_mut();
        let again = model.now + UNIT;
        let Some(wait) = model.waits.get_mut(number) else {
            return;
        };
        if !wait.here && wait.kind.is_some() {
            wait.again = again;
            CALLERS.with(|callers| callers[number].m.lock_wait.postpone(again));
        }
        drop(model);
        self.compare();
    }

    /// Ends every wait.
    fn release_all(&self) {
        (0..WORDS).for_each(|word| self.wake(word, u32::MAX));
        self.pass(FAR);
    }

    /// Compares which waits go on, and what watchers see of them.
    fn compare(&self) {
        let model = self.model.borrow();
        let waits = &model.waits;
        let here = waits.iter().filter(|wait| wait.here).count();
        assert_eq!(self.table.num_parked(), here as u32, "how many are parked");
        let blocks = |wait: &Wait| !wait.here && wait.kind.is_some();
        let any = waits.iter().any(blocks);
        assert_eq!(self.table.is_any_blocked(), any, "whether any blocks");
        for &(number, word) in &*self.asleep.borrow() {
            // SAFETY: the word of a wait further out on this stack.
            let woken = unsafe { &*word }.load(Ordering::Relaxed) != 0;
            assert_eq!(woken, waits[number].ended.is_some(), "wait {number}");
        }
        for &number in &*self.kernel.borrow() {
            assert_eq!(waits[number].ended, None, "wait {number} in the kernel");
        }
        CALLERS.with(|callers| {
            for (number, caller) in callers.iter().enumerate() {
                let seen = caller.m.lock_wait.get();
                let seen = seen.map(|seen| (seen.address, seen.kind, seen.since, seen.again));
                let wait = waits.get(number).filter(|wait| blocks(wait));
                let expected = wait.and_then(|wait| {
                    let address = self.address(wait.word);
                    Some((address, wait.kind?, wait.since, wait.again))
                });
                assert_eq!(seen, expected, "what watchers see of wait {number}");
            }
        });
    }
}
