//! Models of the table of futexes.

use super::{FutexTable, FutexWait, FutexWaited, LockKind, Policy};
use crate::models::{Immortal, Mail, ModelSched, explore};
use crate::sync::Ordering;
use loom::sync::atomic::AtomicU32;
use loom::thread;

struct Shared {
    table: FutexTable,
    word: AtomicU32,
    mail: Mail,
}

fn run<F: Fn(&'static Shared, &'static crate::sched::Sched) + Send + Sync + 'static>(model: F) {
    explore::<F>(move || {
        let owner = ModelSched::new(1, 1);
        let table = FutexTable::new();
        table.set_policy(Policy::Park);
        let shared = Immortal::new(Shared {
            table,
            word: AtomicU32::new(1),
            mail: Mail::new(),
        });
        model(shared.get(), owner.get());
    });
}
