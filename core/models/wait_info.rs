//! Models of a goroutine that is resumed, against a watcher that wants to change its stack. `Mail`
//! is the stack: loom calls it a race if both touch it at once.

use super::ResumeSeq;
use crate::models::{Immortal, Mail, check};
use crate::sync::{AtomicBool, Ordering, fence};
use loom::thread;

struct Stopped {
    resumes: ResumeSeq,
    /// Whether the goroutine is stopped, as its M says.
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

    /// What a watcher does to the stack of a goroutine that has stopped. Whether it could.
    fn shrink(&self) -> bool {
        let count = self.resumes.count();
        if !self.stopped.load(Ordering::Acquire) {
            return false;
        }
        self.resumes.hold();
        // What the barrier of the system does for both sides.
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
