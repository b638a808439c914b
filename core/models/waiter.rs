//! Models of the waiter word: one waiter against up to three threads that notify or cancel it. The
//! waiter is a thread that sleeps on the futex of [`ModelOs`].

use super::{Announced, Thread, WaitSlot};
use crate::models::{Immortal, Mail, ModelOs, check};
use crate::sync::{AtomicBool, Ordering};
use loom::thread;

struct Word {
    slot: WaitSlot,
    /// The reason not to wait, like `PollDesc::info`. The waiter reads it between `announce` and
    /// `commit`.
    closed: AtomicBool,
    mail: Mail,
    os: ModelOs,
}

impl Word {
    fn new() -> Immortal<Self> {
        let word = Word {
            slot: WaitSlot::new(),
            closed: AtomicBool::new(false),
            mail: Mail::new(),
            os: ModelOs::default(),
        };
        Immortal::new(word)
    }

    /// Waits once, as `Sched::wait` does. Returns whether readiness ended the wait.
    fn wait(&self) -> bool {
        if self.slot.announce() == Announced::Ready {
            return true;
        }
        if !self.closed.load(Ordering::SeqCst) {
            let thread = Thread::new();
            if self.slot.commit(thread.waiter()).is_ok() {
                thread.block(&self.os);
            }
        }
        self.slot.settle()
    }

    fn notify(&self) {
        if let Some(super::Waiter::Thread(thread)) = self.slot.notify() {
            thread.wake(&self.os);
        }
    }

    fn cancel(&self) {
        if let Some(super::Waiter::Thread(thread)) = self.slot.cancel() {
            thread.wake(&self.os);
        }
    }

    /// Publishes the reason, then cancels the wait.
    fn close(&self) {
        // A read-modify-write, as in `Info::update`.
        self.closed.swap(true, Ordering::SeqCst);
        self.cancel();
    }
}

#[test]
fn a_notified_waiter_resumes_and_sees_what_the_waker_wrote() {
    check(|| {
        let owner = Word::new();
        let word = owner.get();
        let waker = thread::spawn(|| {
            word.mail.put(1);
            word.notify();
        });
        assert!(word.wait());
        assert_eq!(word.mail.get(), 1);
        waker.join().unwrap();
    });
}

#[test]
fn latched_readiness_publishes_what_the_waker_wrote() {
    check(|| {
        let owner = Word::new();
        let word = owner.get();
        let waker = thread::spawn(|| {
            word.mail.put(1);
            word.notify();
        });
        thread::yield_now();
        if word.slot.announce() == Announced::Ready || word.slot.settle() {
            assert_eq!(word.mail.get(), 1);
        }
        waker.join().unwrap();
    });
}

#[test]
fn a_waker_sees_what_the_waiter_wrote_before_commit() {
    check(|| {
        let owner = Word::new();
        let word = owner.get();
        let waker = thread::spawn(|| {
            if let Some(super::Waiter::Thread(thread)) = word.slot.notify() {
                assert_eq!(word.mail.get(), 1);
                thread.wake(&word.os);
            }
        });
        if word.slot.announce() == Announced::Waiting {
            // A goroutine likewise writes to its stack before its M commits.
            word.mail.put(1);
            let thread = Thread::new();
            if word.slot.commit(thread.waiter()).is_ok() {
                thread.block(&word.os);
            }
            assert!(word.slot.settle());
        }
        waker.join().unwrap();
    });
}

#[test]
fn a_waiter_does_not_sleep_through_a_close() {
    check(|| {
        let owner = Word::new();
        let word = owner.get();
        let closer = thread::spawn(|| {
            word.mail.put(1);
            word.close();
        });
        assert!(!word.wait());
        // The cancelled waiter sees the reason.
        assert!(word.closed.load(Ordering::SeqCst));
        assert_eq!(word.mail.get(), 1);
        closer.join().unwrap();
    });
}

#[test]
fn readiness_survives_a_concurrent_close() {
    check(|| {
        let owner = Word::new();
        let word = owner.get();
        let closer = thread::spawn(|| word.close());
        let waker = thread::spawn(|| word.notify());
        let first = word.wait();
        closer.join().unwrap();
        waker.join().unwrap();
        // Either this wait or the next sees the notification, and never both.
        assert_ne!(first, word.slot.is_ready());
    });
}

#[test]
fn a_waiter_is_handed_out_once_to_two_closers_and_a_waker() {
    check(|| {
        let owner = Word::new();
        let word = owner.get();
        let others = [
            thread::spawn(|| word.cancel()),
            thread::spawn(|| word.close()),
            thread::spawn(|| word.notify()),
        ];
        let first = word.wait();
        for other in others {
            other.join().unwrap();
        }
        assert_ne!(first, word.slot.is_ready());
    });
}

#[test]
fn two_notifications_wake_two_waits_or_count_as_one() {
    check(|| {
        let owner = Word::new();
        let word = owner.get();
        let wakers = [
            thread::spawn(|| word.notify()),
            thread::spawn(|| word.notify()),
        ];
        assert!(word.wait());
        for waker in wakers {
            waker.join().unwrap();
        }
        // If the second notification is latched, a second wait returns at once and consumes it.
        if word.slot.is_ready() {
            assert!(word.wait());
        }
        assert!(!word.slot.is_ready());
    });
}

#[test]
fn a_reset_before_the_system_call_loses_no_later_readiness() {
    check(|| {
        let owner = Word::new();
        let word = owner.get();
        let waker = thread::spawn(|| {
            // First the data, then the edge.
            word.closed.store(true, Ordering::Release);
            word.notify();
        });
        word.slot.reset();
        if !word.closed.load(Ordering::Acquire) {
            let parked = word.slot.announce() == Announced::Waiting;
            let thread = Thread::new();
            if parked && word.slot.commit(thread.waiter()).is_ok() {
                thread.block(&word.os);
            }
            assert!(!parked || word.slot.settle());
        }
        waker.join().unwrap();
    });
}

#[test]
fn a_woken_thread_frees_its_futex_word_at_once() {
    check(|| {
        let owner = Word::new();
        let word = owner.get();
        let waker = thread::spawn(|| word.notify());
        // The second wait may use the same futex address. The first wake must not count for it.
        assert!(word.wait());
        waker.join().unwrap();
        let waker = thread::spawn(|| word.notify());
        assert!(word.wait());
        waker.join().unwrap();
    });
}
