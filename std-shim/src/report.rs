//! What sysmon has seen, told to the program or on stderr.

use crate::dump::{self, Call, Does};
use crate::environment;
use crate::runtime::LINUX;
use crate::stderr::{self, Stderr};
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

/// Called with each stall.
pub(crate) type OnStall = Arc<dyn Fn(&Stall) + Send + Sync>;

/// How reports reach the program.
#[derive(Default)]
pub(crate) struct Settings {
    /// Whether stderr gets what the program has not asked for.
    pub(crate) unasked: bool,
    /// Whether stalls are among that.
    pub(crate) unasked_stalls: bool,
    pub(crate) on_stall: Option<OnStall>,
}

/// Set before the first goroutine runs.
pub(crate) static SETTINGS: OnceLock<Settings> = OnceLock::new();

/// After how long a goroutine is reported, if the program has not said, that is blocked while others
/// wait. Longer than what a busy disk takes.
pub(crate) const BLOCKED_FOR: Duration = Duration::from_secs(1);

/// Lines about stalls in a minute, at most, if the program has not asked for them.
const LINES_A_MINUTE: u32 = 5;

const VARIABLE: &str = "GOPARK_REPORTS";

/// Whether stderr gets what the program has not asked for: as `setting` says, or the environment.
pub(crate) fn are_wanted(setting: Option<bool>) -> io::Result<bool> {
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

/// A goroutine that has kept its thread for longer than [`Builder::stall_after`](crate::Builder::stall_after):
/// it computes, or sits in a system call that blocks.
///
/// Its `Display` is two lines, of which the second says what to do:
///
/// ```text
/// goroutine 7 "importer", spawned at src/main.rs:20:5, keeps its thread for 101 ms in system call fsync; 3 goroutines wait for it
///     hand the call to gopark::blocking, or make it on a std::thread
/// ```
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

    /// The number of the system call that its thread is blocked in. `None` if it computes, or if the
    /// system does not say.
    pub fn system_call(&self) -> Option<u32> {
        match self.0.doing {
            ThreadState::Blocked(number) => number,
            _ => None,
        }
    }

    /// How many goroutines are ready and can run on that thread only. In a stall that is reported
    /// unasked, and whose system call is `futex`, those that have started on that thread and join
    /// this goroutine count as well.
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
            Does(self.0.doing)
        )?;
        match self.waiting() {
            0 => {}
            1 => write!(f, "; 1 goroutine waits for it")?,
            n => write!(f, "; {n} goroutines wait for it")?,
        }
        write!(f, "\n    {}", remedy(self.0.doing))
    }
}

/// What to do about a goroutine that keeps its thread.
fn remedy(doing: ThreadState) -> &'static str {
    let ThreadState::Blocked(call) = doing else {
        return "hand the work to gopark::blocking or a std::thread, or call gopark::yield_now now and then";
    };
    match call.and_then(|number| Call(number).name()) {
        Some("futex") => {
            "hold no std lock over a call of gopark, and wait for std locks and channels in gopark::blocking: the goroutine that would unlock or \
             send may be one of those that wait (GOPARK_DUMP=USR1 and kill -USR1 show them)"
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

/// The stalls that were told though the program had not asked: the spawn sites, and how many lines in
/// the minute that began when.
struct Told {
    sites: BTreeSet<&'static Location<'static>>,
    minute: Option<Instant>,
    lines: u32,
}

static TOLD: Mutex<Told> = Mutex::new(Told::new());

impl Told {
    const fn new() -> Self {
        Told {
            sites: BTreeSet::new(),
            minute: None,
            lines: 0,
        }
    }

    /// Whether a stall that the program has not asked for is worth a line: one for each spawn site, and
    /// few in a minute.
    fn is_news(&mut self, site: &'static Location<'static>, now: Instant) -> bool {
        if self
            .minute
            .is_none_or(|began| now.saturating_duration_since(began) >= Duration::from_secs(60))
        {
            (self.minute, self.lines) = (Some(now), 0);
        }
        let news = self.lines < LINES_A_MINUTE && self.sites.insert(site);
        self.lines += u32::from(news);
        news
    }
}

/// On sysmon's thread, which writes nothing itself while the process is to go on.
pub(crate) fn report(_: &'static Sched, report: Report<'_>) {
    let settings = SETTINGS.get();
    match report {
        Report::Stall(stall) => {
            let stall = Stall(stall.clone());
            match settings {
                Some(Settings {
                    on_stall: Some(tell),
                    ..
                }) => tell(&stall),
                Some(Settings {
                    unasked_stalls: true,
                    ..
                }) if !TOLD
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .is_news(stall.site(), Instant::now()) => {}
                _ => stderr::line_later(format!("gopark: {stall}\n")),
            }
        }
        Report::Deadlock => {
            // The process ends, with its texts or without.
            let mut stderr = Stderr::with_timeout();
            let _ = stderr
                .write_all(format!("fatal error: {report}\n\n").as_bytes())
                .and_then(|()| dump::dump(&mut stderr));
            // Go's status.
            process::exit(2);
        }
        Report::Asked => stderr::dump_later(),
        Report::Trace(trace) => stderr::line_later(format!("{trace}\n")),
        Report::NoThread { .. } | Report::PoolFull { .. }
            if settings.is_some_and(|settings| !settings.unasked) => {}
        report => stderr::line_later(format!("gopark: {report}\n")),
    }
}

/// Says what the system does not let sysmon see or do, if there is such a thing. Called at the start.
pub(crate) fn tell_what_is_off() {
    let thread = LINUX.thread();
    let (states, clocks) = (
        LINUX.doing(thread) != ThreadState::Unknown,
        LINUX.cpu_time(thread) > 0,
    );
    let full = |error: io::Error| matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
    let descriptors = !File::open("/proc/self/stat").is_err_and(full);
    let off = Off {
        descriptors,
        states,
        clocks,
        threads: LINUX.threads().is_some(),
        takes: LINUX.barrier(),
    }
    .to_string();
    if !off.is_empty() {
        let text = format!(
            "gopark: the system refuses what the runtime watches goroutines with{off} (GOPARK_REPORTS=off silences this)\n"
        );
        // A closed stderr is no reason not to start.
        let _ = Stderr::with_timeout().write_all(text.as_bytes());
    }
}

/// What can be known of threads and done about them; as text, what follows from what cannot.
struct Off {
    /// Whether a file of `/proc` can be opened as far as the limits of descriptors go.
    descriptors: bool,
    /// What they do.
    states: bool,
    /// How much CPU they use.
    clocks: bool,
    /// How many there are.
    threads: bool,
    /// Whether a goroutine that keeps its thread may lose its proc.
    takes: bool,
}

impl fmt::Display for Off {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.takes {
            return f.write_str("; without membarrier, a goroutine that blocks its thread or computes holds up all others of its proc");
        }
        let proc = if self.descriptors {
            "/proc"
        } else {
            "a descriptor to read /proc with (raise `ulimit -n`)"
        };
        match (self.states, self.clocks) {
            (true, true) => {}
            (true, false) => {
                f.write_str("; without CPU clocks, what runs for 10 ms counts as computing")?
            }
            (false, true) => write!(
                f,
                "; without {proc}, threads that block are noticed by their CPU clocks, some ms later, and no system call is named"
            )?,
            (false, false) => write!(
                f,
                "; without {proc} and CPU clocks, what runs for 10 ms counts as computing, and others take over for 8 of these for each proc",
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
    fn a_spawn_site_is_told_once_and_few_lines_a_minute() {
        #[track_caller]
        fn here() -> &'static Location<'static> {
            Location::caller()
        }
        let sites = [here(), here(), here(), here(), here(), here(), here()];
        let mut told = Told::new();
        let start = Instant::now();
        let news: Vec<_> = sites.iter().map(|site| told.is_news(site, start)).collect();
        assert_eq!(news, [true, true, true, true, true, false, false]);
        assert!(!told.is_news(sites[6], start + Duration::from_secs(59)));
        assert!(told.is_news(sites[6], start + Duration::from_secs(60)));
        assert!(
            !told.is_news(sites[0], start + Duration::from_secs(200)),
            "a site is told once"
        );
    }

    #[test]
    fn every_remedy_is_for_its_call() {
        let call = |call: syscalls::Sysno| remedy(ThreadState::Blocked(Some(call.id() as u32)));
        assert!(
            call(syscalls::Sysno::futex).contains("std lock")
                && call(syscalls::Sysno::futex).contains("gopark::blocking")
        );
        assert!(call(syscalls::Sysno::clock_nanosleep).contains("gopark::sleep"));
        assert!(call(syscalls::Sysno::recvfrom).contains("gopark::net"));
        assert!(call(syscalls::Sysno::fsync).contains("gopark::blocking"));
        assert!(remedy(ThreadState::Blocked(None)).contains("gopark::blocking"));
        assert!(remedy(ThreadState::Running).contains("yield_now"));
    }

    #[test]
    fn what_is_off_is_named_and_nothing_else() {
        let all = Off {
            descriptors: true,
            states: true,
            clocks: true,
            threads: true,
            takes: true,
        };
        assert_eq!(all.to_string(), "");
        assert!(
            Off {
                takes: false,
                ..all
            }
            .to_string()
            .contains("membarrier")
        );
        assert_eq!(
            Off {
                threads: false,
                ..all
            }
            .to_string(),
            "; deadlocks are not noticed"
        );
        assert!(
            Off {
                states: false,
                threads: false,
                ..all
            }
            .to_string()
            .contains("without /proc,")
        );
        let full = Off {
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
