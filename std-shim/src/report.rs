//! sysmon's reports: passes each to the program's callback, or writes it to stderr.

use crate::dump::{self, SystemCall, ThreadActivity};
use crate::environment;
use crate::runtime::LINUX;
use crate::std_locks;
use crate::stderr::{self, Stderr};
use gopark_core::futex::LockKind;
use gopark_core::os::{Observe, Os, ThreadState};
use gopark_core::sched::{self, Report, Sched};
use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::panic::Location;
use std::process;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The callback of [`Builder::on_stall`](crate::Builder::on_stall).
pub(crate) type OnStall = Arc<dyn Fn(&Stall) + Send + Sync>;

/// Which reports are written to stderr, and the callback.
#[derive(Default)]
pub(crate) struct Settings {
    /// Whether stderr gets the reports that are on by default.
    pub(crate) default_reports: bool,
    /// Whether stalls are on by default, and so limited to one line per spawn site.
    pub(crate) default_stalls: bool,
    pub(crate) on_stall: Option<OnStall>,
}

/// Set before the first goroutine runs.
pub(crate) static SETTINGS: OnceLock<Settings> = OnceLock::new();

/// How long a goroutine must be blocked, while others wait for its thread, until it is reported by
/// default: longer than a busy disk takes.
pub(crate) const BLOCKED_FOR: Duration = Duration::from_secs(1);

/// The most stalls per minute that are reported by default: few enough for a log.
const LINES_A_MINUTE: u32 = 5;

const VARIABLE: &str = "GOPARK_REPORTS";

/// Returns whether stderr gets the reports that are on by default: as
/// [`Builder::reports`](crate::Builder::reports) says, or else `GOPARK_REPORTS`.
pub(crate) fn are_enabled(setting: Option<bool>) -> io::Result<bool> {
    let value = environment::nonempty(VARIABLE);
    let default = match value.as_ref().map(|value| value.to_str()) {
        None | Some(Some("on")) => true,
        Some(Some("off")) => false,
        Some(_) => {
            return Err(environment::invalid(
                VARIABLE,
                &value.unwrap_or_default(),
                "`on` or `off`",
            ));
        }
    };
    Ok(setting.unwrap_or(default))
}

/// Returns whether stderr gets the reports that are on by default.
pub(crate) fn is_default() -> bool {
    SETTINGS
        .get()
        .is_some_and(|settings| settings.default_reports)
}

/// A report of a goroutine that keeps its thread busy: it computes, or is blocked in a system call,
/// for longer than [`Builder::stall_after`](crate::Builder::stall_after).
///
/// [`Builder::on_stall`](crate::Builder::on_stall) receives it. Its `Display` has two lines; the
/// second is the remedy:
///
/// ```text
/// goroutine 7, spawned at src/main.rs:20:5, keeps its thread for 101 ms in system call fsync
///     hand the call to gopark::blocking, or make it on a std::thread
/// ```
///
/// ```
/// use std::{sync::mpsc, thread, time::Duration};
///
/// let (sender, stalls) = mpsc::channel();
/// gopark::Builder::new()
///     .stall_after(Duration::from_millis(20))
///     .on_stall(move |stall| _ = sender.send(stall.clone()))
///     .start()?;
/// let goroutine = gopark::go(|| thread::sleep(Duration::from_millis(200)));
///
/// let stall = stalls.recv().unwrap();
/// assert_eq!(stall.id(), goroutine.id());
/// assert!(stall.lasts() >= Duration::from_millis(20));
/// assert_eq!((stall.name(), stall.waiting()), (None, 0));
/// println!("{stall}");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Stall(sched::StallReport);

impl Stall {
    /// Returns the goroutine's number, that of [`JoinHandle::id`](crate::JoinHandle::id).
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Returns the goroutine's name, if it has one: that of [`set_name`](crate::set_name).
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    /// Returns where the goroutine was spawned.
    pub fn site(&self) -> &'static Location<'static> {
        self.0.site
    }

    /// Returns how long the goroutine has kept its thread so far, exact to about 10 ms.
    pub fn lasts(&self) -> Duration {
        Duration::from_nanos(self.0.lasts as u64)
    }

    /// Returns the number of the system call (`libc::SYS_…`) in which the thread is blocked. `None`
    /// if the goroutine computes, or if the system does not permit to read the number.
    pub fn system_call(&self) -> Option<u32> {
        match self.0.doing {
            ThreadState::Blocked(number) => number,
            _ => None,
        }
    }

    /// Returns how many goroutines are ready and can run on that thread only.
    ///
    /// If the report is on by default and the system call is `futex`, the goroutines that have
    /// started on that thread and join this goroutine count as well.
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
        write!(
            f,
            ", spawned at {}, keeps its thread for {} ms {}",
            self.site(),
            self.lasts().as_millis(),
            ThreadActivity(self.0.doing)
        )?;
        match self.waiting() {
            0 => {}
            1 => write!(f, "; 1 goroutine waits for it")?,
            n => write!(f, "; {n} goroutines wait for it")?,
        }
        write!(f, "\n    {}", remedy(self.0.doing, self.0.lock))
    }
}

/// Returns what to do about a goroutine that keeps its thread.
fn remedy(doing: ThreadState, lock: Option<LockKind>) -> &'static str {
    let ThreadState::Blocked(call) = doing else {
        return "hand the work to gopark::blocking or a std::thread, \
                or call gopark::yield_now now and then";
    };
    if let Some(kind) = lock {
        return lock_remedy(kind);
    }
    match call.and_then(|number| SystemCall(number).name()) {
        Some("futex") if !std_locks::is_linked() => {
            "use gopark::sync and gopark::chan in place of std's locks and channels, or wait for \
             these in gopark::blocking: the goroutine that is to unlock or send may be among those \
             that wait (GOPARK_DUMP=USR1 and kill -USR1 show them)"
        }
        Some("futex") => {
            "it waits for a lock or thread of libc (pthread_mutex_lock, or the join of a \
             std::thread): wait for it in gopark::blocking, since the goroutine that is to unlock \
             it may be among those that wait (GOPARK_DUMP=USR1 and kill -USR1 show them)"
        }
        Some("nanosleep" | "clock_nanosleep") => "call gopark::sleep",
        Some(
            "accept" | "accept4" | "connect" | "epoll_pwait" | "epoll_pwait2" | "epoll_wait"
            | "poll" | "ppoll" | "pselect6" | "recvfrom" | "recvmmsg" | "recvmsg" | "select"
            | "sendmmsg" | "sendmsg" | "sendto",
        ) => "use gopark::net, or hand the call to gopark::blocking, or make it on a std::thread",
        _ => "hand the call to gopark::blocking, or make it on a std::thread",
    }
}

/// Returns what to do about a goroutine whose thread waits for a lock. Another goroutine that could
/// end the wait may be among those that wait for the thread.
fn lock_remedy(kind: LockKind) -> &'static str {
    match kind {
        LockKind::Std => {
            "it waits for a lock of std, which parks with Builder::std_locks(StdLocks::Rescue): \
             the holder may be among the goroutines that wait (GOPARK_DUMP=USR1 and kill -USR1 \
             show them); use gopark::sync"
        }
        LockKind::Forbidden => {
            "it waits for a lock of std in gopark::without_parking, in a panic, or for one in a \
             thread-local: the holder may be among the goroutines that wait (GOPARK_DUMP=USR1 and \
             kill -USR1 show them); wait in gopark::blocking, and not in a destructor that a \
             panic runs or in a panic hook"
        }
        LockKind::ThreadPark => {
            "it waits in std::thread::park, as the channels of std::sync::mpsc and \
             crossbeam-channel, once_cell and others do: the sender may be among the goroutines \
             that wait (GOPARK_DUMP=USR1 and kill -USR1 show them); use gopark::chan, \
             gopark::sync::mpsc or gopark::thread::park, or wait in gopark::blocking, or patch \
             crossbeam-channel with gopark's (extras/ in its repository)"
        }
        LockKind::Other => {
            "it waits for a lock that calls futex(2) itself, as those of parking_lot do: the \
             holder may be among the goroutines that wait (GOPARK_DUMP=USR1 and kill -USR1 show \
             them); use gopark::sync, or wait in gopark::blocking, or patch parking_lot with \
             gopark's (extras/ in its repository)"
        }
    }
}

/// Limits the stalls that are reported by default.
struct Limiter {
    /// The spawn sites that have been reported.
    sites: BTreeSet<&'static Location<'static>>,
    /// When the current minute began.
    minute: Option<Instant>,
    /// Reports in that minute.
    lines: u32,
}

static LIMITER: Mutex<Limiter> = Mutex::new(Limiter::new());

impl Limiter {
    const fn new() -> Self {
        Limiter {
            sites: BTreeSet::new(),
            minute: None,
            lines: 0,
        }
    }

    /// Returns whether to report a stall: one per spawn site, and at most [`LINES_A_MINUTE`].
    fn permits(&mut self, site: &'static Location<'static>, now: Instant) -> bool {
        if self
            .minute
            .is_none_or(|began| now.saturating_duration_since(began) >= Duration::from_secs(60))
        {
            (self.minute, self.lines) = (Some(now), 0);
        }
        let permits = self.lines < LINES_A_MINUTE && self.sites.insert(site);
        self.lines += u32::from(permits);
        permits
    }
}

/// Passes on a report. Runs on sysmon's thread, so it does not write to stderr itself, which could
/// block, except for a deadlock, which ends the process.
pub(crate) fn report(sched: &'static Sched, report: Report<'_>) {
    let settings = SETTINGS.get();
    match report {
        Report::Stall(stall) => {
            let stall = Stall(stall.clone());
            match settings {
                Some(Settings {
                    on_stall: Some(on_stall),
                    ..
                }) => on_stall(&stall),
                Some(Settings {
                    default_stalls: true,
                    ..
                }) if !LIMITER
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .permits(stall.site(), Instant::now()) => {}
                _ => stderr::line_later(format!("gopark: {stall}\n")),
            }
        }
        Report::Deadlock => {
            // The process ends, whether or not stderr accepts the texts.
            let mut stderr = Stderr::with_timeout();
            let _ = stderr
                .write_all(format!("fatal error: {report}\n\n").as_bytes())
                .and_then(|()| dump::write(sched, &mut stderr));
            // Go's exit status of a deadlock.
            process::exit(2);
        }
        Report::Asked => stderr::dump_later(),
        Report::Trace(trace) => stderr::line_later(format!("{trace}\n")),
        Report::NoThread { .. } | Report::PoolFull { .. } | Report::Rescue { .. }
            if settings.is_some_and(|settings| !settings.default_reports) => {}
        report => stderr::line_later(format!("gopark: {report}\n")),
    }
}

/// Reports that the start has passed over pollers, as the text says.
pub(crate) fn report_passed_over(text: &str) {
    let line = format!("gopark: {text} (GOPARK_REPORTS=off silences this)\n");
    // A closed stderr must not prevent the start.
    let _ = Stderr::with_timeout().write_all(line.as_bytes());
}

/// Reports that waits for locks of `std` block their threads, because this crate does not see them.
pub(crate) fn report_foreign_std() {
    let text = "gopark: std is linked dynamically (-C prefer-dynamic), or the program defines \
                `syscall`: goroutines that wait for locks of std block their threads, and those \
                that hold them may never run; use gopark::sync (GOPARK_REPORTS=off silences \
                this)\n";
    // A closed stderr must not prevent the start.
    let _ = Stderr::with_timeout().write_all(text.as_bytes());
}

/// Reports what the system does not permit sysmon to see or do, if anything. Called at the start.
pub(crate) fn report_restrictions() {
    let thread = LINUX.thread_id();
    let (states, clocks) = (
        LINUX.thread_state(thread) != ThreadState::Unknown,
        LINUX.cpu_time(thread) > 0,
    );
    let full = |error: io::Error| matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
    let descriptors = !File::open("/proc/self/stat").is_err_and(full);
    let restrictions = Permitted {
        descriptors,
        states,
        clocks,
        threads: LINUX.threads().is_some(),
        handoff: LINUX.barrier(),
    }
    .to_string();
    if !restrictions.is_empty() {
        let text = format!(
            "gopark: the system refuses part of what the runtime needs to watch goroutines\
             {restrictions} (GOPARK_REPORTS=off silences this)\n"
        );
        // A closed stderr must not prevent the start.
        let _ = Stderr::with_timeout().write_all(text.as_bytes());
    }
}

/// What the system permits sysmon. `Display` lists the consequences of what it does not.
struct Permitted {
    /// To open files of `/proc`, as far as the limits of descriptors go.
    descriptors: bool,
    /// To read what a thread does.
    states: bool,
    /// To read how much CPU time a thread has used.
    clocks: bool,
    /// To count the threads of the process.
    threads: bool,
    /// To hand off the P of a goroutine that keeps its thread.
    handoff: bool,
}

impl fmt::Display for Permitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.handoff {
            return f.write_str(
                "; without membarrier, a goroutine that blocks its thread or computes \
                 holds up all others of its proc",
            );
        }
        let proc = if self.descriptors {
            "/proc"
        } else {
            "a descriptor to read /proc with (raise `ulimit -n`)"
        };
        match (self.states, self.clocks) {
            (true, true) => {}
            (true, false) => {
                f.write_str("; without CPU clocks, a turn of 10 ms counts as computing")?
            }
            (false, true) => write!(
                f,
                "; without {proc}, threads that block are noticed by their CPU clocks, \
                 some ms later, and no system call is named"
            )?,
            (false, false) => write!(
                f,
                "; without {proc} and CPU clocks, a turn of 10 ms counts as computing, \
                 and other threads take over for 8 such goroutines per proc",
            )?,
        }
        if !self.threads {
            f.write_str("; deadlocks are not noticed")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spawn_site_is_reported_once_and_few_per_minute() {
        #[track_caller]
        fn here() -> &'static Location<'static> {
            Location::caller()
        }
        let sites = [here(), here(), here(), here(), here(), here(), here()];
        let mut limiter = Limiter::new();
        let start = Instant::now();
        let mut permits = |site: usize, seconds| {
            limiter.permits(sites[site], start + Duration::from_secs(seconds))
        };
        let first: Vec<_> = (0..7).map(|site| permits(site, 0)).collect();
        assert_eq!(first, [true, true, true, true, true, false, false]);
        assert!(!permits(6, 59));
        assert!(permits(6, 60));
        assert!(!permits(0, 200), "a site is reported once");
    }

    #[test]
    fn each_system_call_and_each_kind_of_lock_has_its_remedy() {
        let call =
            |call: syscalls::Sysno| remedy(ThreadState::Blocked(Some(call.id() as u32)), None);
        assert_eq!(
            call(syscalls::Sysno::futex).contains("pthread_mutex_lock"),
            std_locks::is_linked()
        );
        assert!(call(syscalls::Sysno::clock_nanosleep).contains("gopark::sleep"));
        assert!(call(syscalls::Sysno::recvfrom).contains("gopark::net"));
        assert!(call(syscalls::Sysno::fsync).contains("gopark::blocking"));
        assert!(remedy(ThreadState::Blocked(None), None).contains("gopark::blocking"));
        assert!(remedy(ThreadState::Running, None).contains("yield_now"));
        let lock = |kind| remedy(ThreadState::Blocked(None), Some(kind));
        assert!(lock(LockKind::Std).contains("std_locks"));
        assert!(lock(LockKind::Forbidden).contains("without_parking"));
        assert!(lock(LockKind::ThreadPark).contains("gopark::chan"));
        assert!(lock(LockKind::Other).contains("parking_lot"));
    }

    #[test]
    fn only_the_consequences_of_refusals_are_listed() {
        let all = Permitted {
            descriptors: true,
            states: true,
            clocks: true,
            threads: true,
            handoff: true,
        };
        assert_eq!(all.to_string(), "");
        assert!(
            Permitted {
                handoff: false,
                ..all
            }
            .to_string()
            .contains("membarrier")
        );
        assert_eq!(
            Permitted {
                threads: false,
                ..all
            }
            .to_string(),
            "; deadlocks are not noticed"
        );
        assert!(
            Permitted {
                states: false,
                threads: false,
                ..all
            }
            .to_string()
            .contains("without /proc,")
        );
        let full = Permitted {
            descriptors: false,
            states: false,
            ..all
        }
        .to_string();
        assert!(
            full.contains("without a descriptor to read /proc with (raise `ulimit -n`),"),
            "{full}"
        );
    }
}
