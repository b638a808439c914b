//! Models of the wake word: an M that looks, declares that it sleeps, and sleeps, against those who notify and recruit it.

use super::{Bed, WakeWord};
use crate::models::{Immortal, Mail, System, check};
use crate::os::Os;
use crate::sync::{AtomicBool, AtomicU32, Ordering};
use loom::thread;

struct Bedside {
    wake: WakeWord,
    /// The queue: looked at without an order of its own, as inboxes and heaps are.
    work: AtomicBool,
    mail: Mail,
    system: System,
}

impl Bedside {
    fn new() -> Immortal<Self> {
        let (wake, work) = (WakeWord(AtomicU32::new(0)), AtomicBool::new(false));
        Immortal::new(Bedside { wake, work, mail: Mail::new(), system: System::default() })
    }

    /// Sleeps once, if the word lets it. Whether it was recruited.
    fn sleep(&self) -> bool {
        if self.wake.prepare(Bed::Futex) {
            self.system.futex_wait(self.wake.futex(), Bed::Futex.bits(), None);
        }
        self.wake.awake()
    }

    fn rouse(&self, bed: Option<Bed>) -> bool {
        if bed.is_some() {
            self.system.futex_wake(self.wake.futex());
        }
        bed.is_some()
    }
}

#[test]
fn work_published_before_a_notify_is_found() {
    check(|| {
        let owner = Bedside::new();
        let bedside = owner.get();
        let m = thread::spawn(|| {
            while !bedside.work.load(Ordering::Relaxed) {
                bedside.sleep();
            }
        });
        bedside.work.store(true, Ordering::Relaxed);
        bedside.rouse(bedside.wake.notify());
        m.join().unwrap();
    });
}

#[test]
fn a_second_notify_hands_over_what_came_before_it() {
    check(|| {
        let owner = Bedside::new();
        let bedside = owner.get();
        let other = thread::spawn(|| bedside.rouse(bedside.wake.notify()));
        let m = thread::spawn(|| {
            while !bedside.work.load(Ordering::Relaxed) {
                bedside.sleep();
            }
        });
        bedside.work.store(true, Ordering::Relaxed);
        bedside.rouse(bedside.wake.notify());
        other.join().unwrap();
        m.join().unwrap();
    });
}

#[test]
fn a_place_among_the_spinning_is_given_once_and_taken_once() {
    check(|| {
        let owner = Bedside::new();
        let bedside = owner.get();
        let notifier = thread::spawn(|| bedside.rouse(bedside.wake.notify()));
        let recruiter = thread::spawn(|| bedside.rouse(bedside.wake.recruit()));
        let taken = bedside.sleep();
        notifier.join().unwrap();
        let given = recruiter.join().unwrap();
        // The recruiter finds the M asleep, or leaves no trace.
        assert_eq!(taken, given);
        assert!(!bedside.wake.awake());
    });
}

#[test]
fn an_m_that_is_up_sees_what_whoever_roused_it_did() {
    check(|| {
        let owner = Bedside::new();
        let bedside = owner.get();
        let recruiter = thread::spawn(|| {
            bedside.mail.put(1);
            if !bedside.rouse(bedside.wake.recruit()) {
                bedside.rouse(bedside.wake.notify());
            }
        });
        // Notified or recruited, either orders what came before.
        bedside.sleep();
        assert_eq!(bedside.mail.get(), 1);
        recruiter.join().unwrap();
    });
}
