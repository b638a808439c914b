//! Models of the lease: an M that visits the scheduler, against the taker of its P. `Mail` is the P: loom calls it a race if two use it at once,
//! or one after the other with nothing in between.

use super::Retake;
use crate::models::{Immortal, Mail, check};
use crate::sync::{Ordering, fence};
use loom::thread;

struct Leased {
    retake: Retake,
    p: Mail,
}

impl Leased {
    /// An M that runs a goroutine.
    fn new() -> Immortal<Self> {
        let leased = Leased {
            retake: Retake::new(),
            p: Mail::new(),
        };
        leased.retake.leave();
        Immortal::new(leased)
    }

    /// A goroutine that visits the scheduler. Whether its M still had the P.
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
        let owner = Leased::new();
        let leased = owner.get();
        let m = thread::spawn(|| leased.visit(1));
        if leased.take() {
            leased.p.put(2);
        }
        m.join().unwrap();
    });
}

#[test]
fn a_p_kept_once_can_be_retaken_later() {
    check(|| {
        let owner = Leased::new();
        let leased = owner.get();
        let m = thread::spawn(|| leased.visit(1) && leased.visit(2));
        let taken = leased.take() || leased.take();
        if taken {
            leased.p.put(3);
        }
        let held = m.join().unwrap();
        assert!(taken || held, "neither has it");
        assert!(
            taken || leased.take(),
            "it is outside, and nobody has answered"
        );
    });
}

#[test]
fn an_m_that_lost_its_p_does_not_use_it_until_it_has_another() {
    check(|| {
        let owner = Leased::new();
        let leased = owner.get();
        assert!(leased.take());
        let m = thread::spawn(|| leased.visit(1) || leased.visit(1));
        leased.p.put(2);
        assert!(!m.join().unwrap());
        leased.retake.renew();
        assert!(leased.visit(3));
    });
}
