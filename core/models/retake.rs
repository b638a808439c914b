//! Models of the retake: an M that enters and leaves the scheduler, against the taker of its P.
//!
//! A [`Mail`] stands for the P: loom reports a race if two threads use it at once, or one after the
//! other without an order between them.

use super::Retake;
use crate::models::{Immortal, Mail, check};
use crate::sync::{Ordering, fence};
use loom::thread;

struct Retaken {
    retake: Retake,
    p: Mail,
}

impl Retaken {
    /// Returns an M that runs a goroutine.
    fn new() -> Immortal<Self> {
        let state = Retaken {
            retake: Retake::new(),
            p: Mail::new(),
        };
        state.retake.leave();
        Immortal::new(state)
    }

    /// A goroutine calls into the scheduler. Returns whether its M still had the P.
    fn visit(&self, value: u32) -> bool {
        let held = self.retake.enter();
        if held {
            self.p.put(value);
        }
        self.retake.leave();
        held
    }

    fn take(&self) -> bool {
        self.retake.take(|| {
            fence(Ordering::SeqCst);
            true
        })
    }
}

#[test]
fn a_p_has_one_owner() {
    check(|| {
        let owner = Retaken::new();
        let state = owner.get();
        let m = thread::spawn(|| state.visit(1));
        if state.take() {
            state.p.put(2);
        }
        m.join().unwrap();
    });
}

#[test]
fn a_p_kept_once_can_be_retaken_later() {
    check(|| {
        let owner = Retaken::new();
        let state = owner.get();
        let m = thread::spawn(|| state.visit(1) && state.visit(2));
        let taken = state.take() || state.take();
        if taken {
            state.p.put(3);
        }
        let held = m.join().unwrap();
        assert!(taken || held, "neither has it");
        assert!(
            taken || state.take(),
            "the M runs a goroutine and the retake fails"
        );
    });
}

#[test]
fn an_m_that_lost_its_p_does_not_use_it_until_it_has_another() {
    check(|| {
        let owner = Retaken::new();
        let state = owner.get();
        assert!(state.take());
        let m = thread::spawn(|| state.visit(1) || state.visit(1));
        state.p.put(2);
        assert!(!m.join().unwrap());
        state.retake.renew();
        assert!(state.visit(3));
    });
}
