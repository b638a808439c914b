//! Models of `FdMutex`. A lock protects a [`Mail`]: loom reports a race if two
//! threads use it at once.

use super::{AfterUse, FdMutex, RWAIT, RWAITS};
use crate::models::{Immortal, Mail, ModelSched, explore};
use crate::os::Mode;
use crate::sched::Sched;
use crate::sync::{AtomicU32, Ordering};
use loom::thread;

struct File {
    mutex: FdMutex,
    /// Accessed under the read lock, and by the user that destroys the file.
    content: Mail,
    destroyed: AtomicU32,
    sched: &'static Sched,
}

impl File {
    fn new(sched: &ModelSched) -> Immortal<Self> {
        Immortal::new(File {
            mutex: FdMutex::new(),
            content: Mail::new(),
            destroyed: AtomicU32::new(0),
            sched: sched.get(),
        })
    }

    fn release(&self, after: AfterUse) {
        if after == AfterUse::Destroy {
            self.content.put(0);
            self.destroyed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads once. Returns whether the file was open.
    fn read(&self) -> bool {
        let open = self.mutex.lock(Mode::Read, self.sched).is_ok();
        if open {
            self.content.put(self.content.get() + 1);
            self.release(self.mutex.unlock(Mode::Read, self.sched));
        }
        open
    }

    /// As [`read`](Self::read), if no other reader reads.
    fn try_read(&self) -> bool {
        let locked = self.mutex.try_lock(Mode::Read, self.sched) == Ok(true);
        if locked {
            self.content.put(self.content.get() + 1);
            self.release(self.mutex.unlock(Mode::Read, self.sched));
        }
        locked
    }

    fn write(&self) -> bool {
        let open = self.mutex.lock(Mode::Write, self.sched).is_ok();
        if open {
            self.release(self.mutex.unlock(Mode::Write, self.sched));
        }
        open
    }

    fn close(&self) -> bool {
        let first = self.mutex.close(self.sched).is_ok();
        if first {
            self.release(self.mutex.decref());
        }
        first
    }

    fn assert_destroyed_once(&self) {
        assert_eq!(self.destroyed.load(Ordering::Relaxed), 1);
    }
}

/// Explores a model of one file.
fn run<F: Fn(&'static File) + Send + Sync + 'static>(model: F) {
    explore::<F>(move || {
        let owner = ModelSched::new(1, 1);
        let file = File::new(&owner);
        model(file.get());
    });
}

#[test]
fn a_reader_and_a_try_exclude_each_other() {
    run(|file| {
        let other = thread::spawn(|| file.read());
        let tried = file.try_read();
        assert!(other.join().unwrap());
        assert!(file.try_read());
        assert_eq!(file.content.get(), 2 + u32::from(tried));
    });
}

#[test]
fn a_try_in_the_race_against_a_close_uses_an_open_file_or_none() {
    run(|file| {
        let closer = thread::spawn(|| assert!(file.close()));
        file.try_read();
        closer.join().unwrap();
        file.assert_destroyed_once();
        assert!(!file.try_read());
    });
}

#[test]
fn two_readers_take_turns() {
    run(|file| {
        let other = thread::spawn(|| file.read());
        assert!(file.read());
        assert!(other.join().unwrap());
        assert_eq!(file.content.get(), 2);
    });
}

#[test]
fn three_readers_take_turns() {
    run(|file| {
        let others = [(), ()].map(|()| thread::spawn(|| file.read()));
        assert!(file.read());
        for other in others {
            assert!(other.join().unwrap());
        }
        assert_eq!(file.content.get(), 3);
    });
}

#[test]
fn a_reader_and_a_writer_do_not_wait_for_each_other() {
    run(|file| {
        assert!(file.mutex.lock(Mode::Write, file.sched).is_ok());
        let reader = thread::spawn(|| file.read());
        let second = thread::spawn(|| file.write());
        assert!(reader.join().unwrap());
        file.release(file.mutex.unlock(Mode::Write, file.sched));
        assert!(second.join().unwrap() && file.close());
        file.assert_destroyed_once();
    });
}

#[test]
fn after_a_close_no_reader_waits_for_the_lock() {
    run(|file| {
        let readers = [(), ()].map(|()| thread::spawn(|| file.read()));
        assert!(file.close());
        for reader in readers {
            reader.join().unwrap();
        }
        assert!(!file.read());
        file.assert_destroyed_once();
    });
}

#[test]
fn a_close_wakes_the_waiters_of_a_held_lock() {
    run(|file| {
        assert!(file.mutex.lock(Mode::Read, file.sched).is_ok());
        let waiter = thread::spawn(|| file.read());
        assert!(file.close());
        // This thread keeps the lock until the waiter has returned, so only the close can wake it.
        assert!(!waiter.join().unwrap());
        assert_eq!(file.destroyed.load(Ordering::Relaxed), 0);
        file.release(file.mutex.unlock(Mode::Read, file.sched));
        file.assert_destroyed_once();
    });
}

#[test]
fn one_of_two_closers_is_refused_and_the_last_user_destroys() {
    run(|file| {
        let user = thread::spawn(|| {
            if file.mutex.incref().is_ok() {
                file.release(file.mutex.decref());
            }
        });
        let closer = thread::spawn(|| file.close());
        assert!(file.close() != closer.join().unwrap());
        user.join().unwrap();
        file.assert_destroyed_once();
    });
}

#[test]
fn a_cancelled_reader_passes_its_turn_on() {
    run(|file| {
        let (mutex, sched) = (&file.mutex, file.sched);
        assert!(mutex.lock(Mode::Read, sched).is_ok());
        // A reader that waited and has left the queue, but not the count.
        mutex.state.fetch_add(RWAIT, Ordering::Relaxed);
        let cancelled = thread::spawn(|| mutex.leave(Mode::Read, sched));
        let other = thread::spawn(|| file.read());
        file.release(mutex.unlock(Mode::Read, sched));
        // The other may now wait for the turn that the cancelled reader takes.
        assert!(file.read());
        cancelled.join().unwrap();
        assert!(other.join().unwrap());
        assert_eq!(mutex.state.load(Ordering::Relaxed) & RWAITS, 0);
    });
}
