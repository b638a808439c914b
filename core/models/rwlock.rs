//! Models of the read-write lock. It protects a [`Mail`]: loom reports a race if a writer and
//! another thread use it at once.
#![allow(unsafe_code, reason = "a lock relies on its owners to unlock it")]

use super::RawRwLock;
use crate::models::{Immortal, Mail, ModelSched, explore};
use crate::sched::Sched;
use crate::sync::Ordering;
use loom::thread;

struct Shared {
    lock: RawRwLock<&'static Sched>,
    mail: Mail,
}

impl Shared {
    fn read(&self) -> u32 {
        self.lock.read();
        let seen = self.mail.get();
        // SAFETY: this thread has locked for reading.
        unsafe { self.lock.unlock_read() };
        seen
    }

    fn add(&self) {
        self.lock.write();
        self.add_owned();
    }

    /// As `add`, with a limit that has passed. Returns whether it locked.
    fn add_at_once(&self) -> bool {
        let locked = self.lock.write_until(0);
        if locked {
            self.add_owned();
        }
        locked
    }

    fn add_owned(&self) {
        self.mail.put(self.mail.get() + 1);
        // SAFETY: the caller has locked for writing.
        unsafe { self.lock.unlock_write() };
    }

    /// Asserts that the next caller need not take the lock of the queue.
    fn is_as_new(&self) {
        assert_eq!(self.lock.word.load(Ordering::Relaxed), 0);
    }
}

fn run<F: Fn(&'static Shared) + Send + Sync + 'static>(model: F) {
    explore::<F>(move || {
        let owner = ModelSched::new(1, 1);
        let shared = Immortal::new(Shared {
            lock: RawRwLock::new(owner.get()),
            mail: Mail::new(),
        });
        model(shared.get());
    });
}

#[test]
fn a_writer_excludes_a_reader_and_another_writer() {
    run(|shared| {
        let reader = thread::spawn(|| shared.read());
        let writer = thread::spawn(|| shared.add());
        shared.add();
        assert!(reader.join().unwrap() <= 2);
        writer.join().unwrap();
        assert_eq!(shared.read(), 2);
        shared.is_as_new();
    });
}

#[test]
fn a_writer_waits_for_two_readers() {
    run(|shared| {
        let readers = [(), ()].map(|()| thread::spawn(|| shared.read()));
        shared.add();
        for reader in readers {
            assert!(reader.join().unwrap() <= 1);
        }
        assert_eq!(shared.read(), 1);
        shared.is_as_new();
    });
}

#[test]
fn a_writer_admits_a_reader_that_waits_and_one_that_comes_later() {
    run(|shared| {
        shared.lock.write();
        let readers = [(), ()].map(|()| thread::spawn(|| shared.read()));
        shared.add_owned();
        for reader in readers {
            assert_eq!(reader.join().unwrap(), 1);
        }
        shared.is_as_new();
    });
}

#[test]
fn a_writer_gives_up_while_a_reader_unlocks_and_another_comes() {
    run(|shared| {
        shared.lock.read();
        let writer = thread::spawn(|| shared.add_at_once());
        let reader = thread::spawn(|| shared.read());
        assert_eq!(shared.mail.get(), 0);
        // SAFETY: this thread has locked for reading.
        unsafe { shared.lock.unlock_read() };
        let added = u32::from(writer.join().unwrap());
        assert!(reader.join().unwrap() <= added);
        assert_eq!(shared.read(), added);
        shared.is_as_new();
    });
}

#[test]
fn a_try_excludes_a_writer_that_waits_for_a_reader() {
    run(|shared| {
        shared.lock.read();
        let writer = thread::spawn(|| shared.add());
        let tries = thread::spawn(|| {
            let locked = shared.lock.try_write();
            if locked {
                shared.add_owned();
            }
            u32::from(locked)
        });
        assert_eq!(shared.mail.get(), 0);
        // SAFETY: this thread has locked for reading.
        unsafe { shared.lock.unlock_read() };
        writer.join().unwrap();
        let tried = tries.join().unwrap();
        assert_eq!(shared.read(), 1 + tried);
        shared.is_as_new();
    });
}

#[test]
fn a_downgrade_admits_a_reader_and_keeps_a_writer_out() {
    run(|shared| {
        shared.lock.write();
        let reader = thread::spawn(|| shared.read());
        let writer = thread::spawn(|| shared.add());
        shared.mail.put(1);
        // SAFETY: this thread has locked for writing.
        unsafe { shared.lock.downgrade() };
        assert_eq!(shared.mail.get(), 1);
        // SAFETY: this thread now has a lock for reading.
        unsafe { shared.lock.unlock_read() };
        assert!(reader.join().unwrap() >= 1);
        writer.join().unwrap();
        assert_eq!(shared.read(), 2);
        shared.is_as_new();
    });
}
