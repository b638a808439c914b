//! Models of the read-write lock. It protects a [`Mail`]: loom reports a race if a writer and
//! another thread use it at once.

use super::RawRwLock;
use crate::models::{Immortal, Mail, ModelSched, explore};
use crate::sched::Sched;
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
        self.mail.put(self.mail.get() + 1);
        // SAFETY: this thread has locked for writing.
        unsafe { self.lock.unlock_write() };
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
    });
}
