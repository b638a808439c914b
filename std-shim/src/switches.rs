//! The program's hook for switches between goroutines.

use crate::stderr::Stderr;
use gopark_core::sched::{Sched, Switch};
use std::io::Write;
use std::panic::{self, AssertUnwindSafe};
use std::process;
use std::sync::{Arc, OnceLock};

/// The hook of [`Builder::on_switch`](crate::Builder::on_switch).
pub(crate) type OnSwitch = Arc<dyn Fn(Switch) + Send + Sync>;

static ON_SWITCH: OnceLock<OnSwitch> = OnceLock::new();

/// Installs the hook. Called once, before the first goroutine runs.
pub(crate) fn install(sched: &'static Sched, on_switch: OnSwitch) {
    _ = ON_SWITCH.set(on_switch);
    sched.on_switch(call);
}

/// Runs on the thread's own stack, which has no place for a panic to go to.
fn call(switch: Switch) {
    let Some(on_switch) = ON_SWITCH.get() else {
        return;
    };
    if panic::catch_unwind(AssertUnwindSafe(|| on_switch(switch))).is_err() {
        let text =
            b"gopark: the hook of Builder::on_switch has panicked: the process ends, because \
                     its thread cannot go on\n";
        // The process ends, whether or not stderr accepts the text.
        let _ = Stderr::with_timeout().write_all(text);
        process::abort();
    }
}
