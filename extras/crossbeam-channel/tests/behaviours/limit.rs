//! A limit for each behaviour.

use std::sync::Once;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A behaviour that takes longer counts as hung.
const LIMIT: Duration = Duration::from_secs(120);

/// Starts the runtime of this process, unless it runs already.
#[allow(dead_code, reason = "the suite of threads has no settings")]
pub(crate) fn start(settings: gopark::Builder) {
    static START: Once = Once::new();
    START.call_once(|| settings.start().expect("the runtime starts"));
}

/// Fails if `finishes` returns false or hangs.
#[track_caller]
pub(crate) fn within_limit(finishes: impl FnOnce() -> bool + Send + 'static) {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(finishes()));
    match receiver.recv_timeout(LIMIT) {
        Ok(passed) => assert!(passed, "the behaviour has panicked"),
        Err(_) => panic!("the behaviour hangs"),
    }
}
