//! Programs that wait without end if a lock keeps the thread of a goroutine.

mod locks;
mod pools;

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Once, mpsc};
use std::time::Duration;

/// A program that takes longer counts as hung.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs `program` in a goroutine.
#[track_caller]
pub(crate) fn run(settings: gopark::Builder, program: impl FnOnce() + Send + 'static) {
    static START: Once = Once::new();
    START.call_once(|| settings.start().expect("the runtime starts"));
    let (done, outcome) = mpsc::channel();
    drop(gopark::go(move || {
        _ = done.send(panic::catch_unwind(AssertUnwindSafe(program)));
    }));
    match outcome.recv_timeout(LIMIT) {
        Ok(Ok(())) => {}
        Ok(Err(payload)) => panic::resume_unwind(payload),
        Err(_) => panic!("hung: it has not come to an end in {LIMIT:?}"),
    }
}
