//! Models of the wake word: an M that looks, declares that it sleeps, and sleeps, against those who
//! notify and recruit it.

use super::{Asleep, WakeWord};
use crate::models::{Immortal, Mail, System, check};
use crate::os::Os;
use crate::sync::{AtomicBool, AtomicU32, Ordering};
use loom::thread;

struct Sleeper {
    wake: WakeWord,
    /// The queue: looked at without an order of its own, as inboxes and heaps are.
    work: AtomicBool,
    mail: Mail,
    system: System,
}

impl Sleeper {
    fn new() -> Immortal<Self> {
        let (wake, work) = (WakeWord(AtomicU32::new(0)), AtomicBool::new(false));
        Immortal::new(Sleeper {
            wake,
            work,
            mail: Mail::new(),
            system: System::default(),
        })
    }

    /// Sleeps once, if the word lets it. Whether it was recruited.
    fn sleep(&self) -> bool {
        if self.wake.prepare(Asleep::Futex) {
            self.system
                .futex_wait(self.wake.futex(), Asleep::Futex.bits(), None);
        }
        self.wake.awake()
    }

    fn unpark(&self, asleep: Option<Asleep>) -> bool {
        if asleep.is_some() {
            self.system.futex_wake(self.wake.futex());
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
        let recruiter = thread::spawn(|| sleeper.unpark(sleeper.wake.notify_idle()));
        let taken = sleeper.sleep();
        notifier.join().unwrap();
        let given = recruiter.join().unwrap();
        // The recruiter finds the M asleep, or leaves no trace.
        assert_eq!(taken, given);
        assert!(!sleeper.wake.awake());
    });
}

#[test]
fn an_unparked_m_sees_what_its_waker_wrote() {
    check(|| {
        let owner = Sleeper::new();
        let sleeper = owner.get();
        let recruiter = thread::spawn(|| {
            sleeper.mail.put(1);
            if !sleeper.unpark(sleeper.wake.notify_idle()) {
                sleeper.unpark(sleeper.wake.notify());
            }
        });
        // Notified or recruited, either orders what came before.
        sleeper.sleep();
        assert_eq!(sleeper.mail.get(), 1);
        recruiter.join().unwrap();
    });
}
