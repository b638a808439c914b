//! Models of the wake word: an M that checks for work, declares its sleep, and sleeps, against
//! threads that call `notify` and `notify_idle`.

use super::{Asleep, WakeWord};
use crate::models::{Immortal, Mail, ModelOs, check};
use crate::os::Os;
use crate::sync::{AtomicBool, AtomicU32, Ordering};
use loom::thread;

struct Sleeper {
    wake: WakeWord,
    /// The queue. The M reads it without an ordering, like inboxes and heaps.
    work: AtomicBool,
    mail: Mail,
    os: ModelOs,
}

impl Sleeper {
    fn new() -> Immortal<Self> {
        let (wake, work) = (WakeWord(AtomicU32::new(0)), AtomicBool::new(false));
        Immortal::new(Sleeper {
            wake,
            work,
            mail: Mail::new(),
            os: ModelOs::default(),
        })
    }

    /// Sleeps once, unless the word forbids it. Returns whether `notify_idle` woke the M.
    fn sleep(&self) -> bool {
        if self.wake.prepare(Asleep::Futex) {
            self.os
                .futex_wait(self.wake.futex(), Asleep::Futex.bits(), None);
        }
        self.wake.awake()
    }

    fn unpark(&self, asleep: Option<Asleep>) -> bool {
        if asleep.is_some() {
            self.os.futex_wake(self.wake.futex());
        }
        asleep.is_some()
    }
}

#[test]
fn work_published_before_a_notify_is_found() {
    check(|| {
        let owner = Sleeper::new();
        let sleeper = owner.get();
        let m = thread::spawn(|| {
            while !sleeper.work.load(Ordering::Relaxed) {
                sleeper.sleep();
            }
        });
        sleeper.work.store(true, Ordering::Relaxed);
        sleeper.unpark(sleeper.wake.notify());
        m.join().unwrap();
    });
}

#[test]
fn a_second_notify_publishes_what_came_before_it() {
    check(|| {
        let owner = Sleeper::new();
        let sleeper = owner.get();
        let other = thread::spawn(|| sleeper.unpark(sleeper.wake.notify()));
        let m = thread::spawn(|| {
            while !sleeper.work.load(Ordering::Relaxed) {
                sleeper.sleep();
            }
        });
        sleeper.work.store(true, Ordering::Relaxed);
        sleeper.unpark(sleeper.wake.notify());
        other.join().unwrap();
        m.join().unwrap();
    });
}

#[test]
fn a_spinning_slot_is_given_once_and_taken_once() {
    check(|| {
        let owner = Sleeper::new();
        let sleeper = owner.get();
        let notifier = thread::spawn(|| sleeper.unpark(sleeper.wake.notify()));
        let waker = thread::spawn(|| sleeper.unpark(sleeper.wake.notify_idle()));
        let taken = sleeper.sleep();
        notifier.join().unwrap();
        let given = waker.join().unwrap();
        // `notify_idle` finds the M asleep, or changes nothing.
        assert_eq!(taken, given);
        assert!(!sleeper.wake.awake());
    });
}

#[test]
fn an_unparked_m_sees_what_its_waker_wrote() {
    check(|| {
        let owner = Sleeper::new();
        let sleeper = owner.get();
        let waker = thread::spawn(|| {
            sleeper.mail.put(1);
            if !sleeper.unpark(sleeper.wake.notify_idle()) {
                sleeper.unpark(sleeper.wake.notify());
            }
        });
        // Both calls order what the waker wrote before.
        sleeper.sleep();
        assert_eq!(sleeper.mail.get(), 1);
        waker.join().unwrap();
    });
}
