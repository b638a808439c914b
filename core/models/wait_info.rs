//! Models of a goroutine that is resumed, against a watcher that changes its stack.
//!
//! A [`Mail`] stands for the stack: loom reports a race if both use it at once.

use super::ResumeSeq;
use crate::models::{Immortal, Mail, check};
use crate::sync::{AtomicBool, Ordering, fence};
use loom::thread;

struct Stopped {
    resumes: ResumeSeq,
    /// Whether the goroutine is stopped; its M writes it.
    stopped: AtomicBool,
    stack: Mail,
}

impl Stopped {
    fn new() -> Immortal<Self> {
        Immortal::new(Stopped {
            resumes: ResumeSeq::new(),
            stopped: AtomicBool::new(true),
            stack: Mail::new(),
        })
    }

    fn run(&self) {
        self.stopped.store(false, Ordering::Release);
        self.resumes.begin(thread::yield_now);
        self.stack.put(1);
        self.stopped.store(true, Ordering::Release);
    }

    /// Changes the stack of a stopped goroutine, as a watcher does. Returns whether it could.
    fn shrink(&self) -> bool {
        let count = self.resumes.count();
        if !self.stopped.load(Ordering::Acquire) {
            return false;
        }
        self.resumes.hold();
        // The fence stands for the system's barrier, which orders both sides.
        fence(Ordering::SeqCst);
        let still = self.resumes.validate(count);
        if still {
            self.stack.put(2);
        }
        self.resumes.release();
        still
    }
}

#[test]
fn a_resume_and_a_change_of_the_stack_never_overlap() {
    check(|| {
        let owner = Stopped::new();
        let goroutine = owner.get();
        let m = thread::spawn(|| {
            goroutine.run();
            goroutine.run();
        });
        goroutine.shrink();
        goroutine.shrink();
        m.join().unwrap();
    });
}
