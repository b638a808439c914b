//! Sleep: a wait that only its time limit ends.

use crate::choice::Choice;
use crate::os::Nanos;
use crate::sched::Sched;
use crate::sync::AtomicU32;
use crate::wait_info::Wait;

impl Sched {
    /// Sleeps until the monotonic clock shows `when`: a goroutine parks, an ordinary thread sleeps.
    #[doc(alias = "timeSleep")]
    pub fn sleep_until(&'static self, when: Nanos) {
        if when <= self.now() {
            return;
        }
        if self.current().is_none() {
            return self.sleep_thread(when);
        }
        self.wait_until(&Choice::new(), Some(when), Wait::Sleep(when).encode());
    }

    fn sleep_thread(&self, when: Nanos) {
        let never_woken = AtomicU32::new(0);
        loop {
            match when - self.now() {
                ..=0 => return,
                rest => self.os().futex_wait(&never_woken, 0, Some(rest)),
            }
        }
    }
}
