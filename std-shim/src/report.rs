//! What sysmon has seen, told to the program or to whoever reads stderr.

use crate::dump::{self, Does};
use gopark_core::sched::{self, Report, Sched};
use std::fmt;
use std::io::{self, Write};
use std::panic::Location;
use std::process;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Called with each stall.
pub(crate) type OnStall = Arc<dyn Fn(&Stall) + Send + Sync>;

/// Set before the runtime starts.
pub(crate) static ON_STALL: OnceLock<OnStall> = OnceLock::new();

/// A goroutine that has kept its thread for longer than [`Builder::stall_after`](crate::Builder::stall_after): it computes, or sits in a system call
/// that blocks.
///
/// Its `Display` is one line: `goroutine 7 "importer", spawned at src/main.rs:20:5, keeps its thread for 101 ms in system call fsync; 3 goroutines
/// wait for it`.
#[derive(Clone, Debug)]
pub struct Stall(sched::Stall);

impl Stall {
    /// The goroutine's number.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The name it was given with [`set_name`](crate::set_name).
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    /// Where it was spawned.
    pub fn site(&self) -> &'static Location<'static> {
        self.0.site
    }

    /// For how long it has kept its thread.
    pub fn lasts(&self) -> Duration {
        Duration::from_nanos(self.0.lasts as u64)
    }

    /// The number of the system call that its thread is blocked in. `None` if it computes.
    pub fn system_call(&self) -> Option<u32> {
        match self.0.doing {
            gopark_core::os::Doing::Blocked(number) => Some(number),
            _ => None,
        }
    }

    /// How many goroutines are ready and can run on that thread only.
    pub fn waiting(&self) -> usize {
        self.0.waiting
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "goroutine {}", self.id())?;
        if let Some(name) = self.name() {
            write!(f, " \"{name}\"")?;
        }
        write!(f, ", spawned at {}, keeps its thread for {} ms {}", self.site(), self.lasts().as_millis(), Does(self.0.doing))?;
        match self.waiting() {
            0 => Ok(()),
            1 => write!(f, "; 1 goroutine waits for it"),
            n => write!(f, "; {n} goroutines wait for it"),
        }
    }
}

/// On sysmon's thread.
pub(crate) fn report(_: &'static Sched, report: Report<'_>) {
    match report {
        Report::Stall(stall) => {
            let stall = Stall(stall.clone());
            match ON_STALL.get() {
                Some(tell) => tell(&stall),
                None => line(format_args!("gopark: {stall}")),
            }
        }
        Report::Deadlock => {
            line(format_args!("fatal error: {report}\n"));
            // As a closed stderr.
            let _ = dump::dump(&mut io::stderr().lock());
            // Go's status.
            process::exit(2);
        }
        Report::Asked => dump::in_background(),
        Report::Trace(trace) => line(format_args!("{trace}")),
        report => line(format_args!("gopark: {report}")),
    }
}

/// With one system call, so that other processes' lines do not come in between. A closed stderr is no reason to end.
fn line(text: fmt::Arguments<'_>) {
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}
