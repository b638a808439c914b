//! Models of the mutex, and of the condition variable on it. The mutex protects a [`Mail`]: loom
//! reports a race if two threads use it at once.

use super::RawMutex;
use crate::condvar::RawCondvar;
use crate::models::{Immortal, Mail, ModelSched, explore};
use crate::sched::Sched;
use loom::thread;

struct Shared {
    mutex: RawMutex<&'static Sched>,
    changed: RawCondvar<&'static Sched>,
    mail: Mail,
}

impl Shared {
    fn locked<T>(&self, f: impl FnOnce(&Mail) -> T) -> T {
        self.mutex.lock();
        self.owned(f)
    }

    /// Unlocks after `f`.
    fn owned<T>(&self, f: impl FnOnce(&Mail) -> T) -> T {
        let result = f(&self.mail);
        // SAFETY: the caller owns the lock.
        unsafe { self.mutex.unlock() };
        result
    }

    fn add(&self) {
        self.locked(|mail| mail.put(mail.get() + 1));
    }

    /// Waits until the mail is at least `count`.
    fn wait(&self, count: u32) {
        self.mutex.lock();
        while self.mail.get() < count {
            // SAFETY: this thread owns the lock.
            unsafe { self.changed.wait(&self.mutex, None) };
        }
        self.owned(|_| ());
    }
}

fn run<F: Fn(&'static Shared) + Send + Sync + 'static>(model: F) {
    explore::<F>(move || {
        let owner = ModelSched::new(1, 1);
        let shared = Immortal::new(Shared {
            mutex: RawMutex::new(owner.get()),
            changed: RawCondvar::new(owner.get()),
            mail: Mail::new(),
        });
        model(shared.get());
    });
}

#[test]
fn two_lockers_take_turns() {
    run(|shared| {
        let other = thread::spawn(|| {
            shared.add();
            shared.add();
        });
        shared.add();
        shared.add();
        other.join().unwrap();
        assert_eq!(shared.locked(Mail::get), 4);
        assert!(!shared.mutex.is_locked());
    });
}

#[test]
fn three_lockers_take_turns() {
    run(|shared| {
        let others = [(), ()].map(|()| thread::spawn(|| shared.add()));
        shared.add();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(shared.locked(Mail::get), 3);
    });
}

#[test]
fn two_waiters_of_a_held_mutex_both_get_it() {
    run(|shared| {
        shared.mutex.lock();
        let others = [(), ()].map(|()| thread::spawn(|| shared.add()));
        shared.owned(|mail| mail.put(1));
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(shared.locked(Mail::get), 3);
    });
}

#[test]
fn a_try_excludes_a_locker() {
    run(|shared| {
        let other = thread::spawn(|| {
            let locked = shared.mutex.try_lock();
            if locked {
                shared.owned(|mail| mail.put(mail.get() + 1));
            }
            u32::from(locked)
        });
        shared.add();
        let tried = other.join().unwrap();
        assert_eq!(shared.locked(Mail::get), 1 + tried);
    });
}

#[test]
fn a_notification_after_the_change_is_not_lost() {
    run(|shared| {
        let waiter = thread::spawn(|| shared.wait(1));
        shared.add();
        shared.changed.notify_one();
        waiter.join().unwrap();
    });
}

#[test]
fn a_broadcast_wakes_both_waiters() {
    run(|shared| {
        let waiters = [(), ()].map(|()| thread::spawn(|| shared.wait(1)));
        shared.add();
        shared.changed.notify_all();
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}
