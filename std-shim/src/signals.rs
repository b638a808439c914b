//! The handlers of signals, for dumps and for `signal::notify`: which signals can be caught, and
//! one handler for both purposes.
//!
//! A signal has one handler in a process. [`install`] counts for what a signal is caught, and
//! [`release`] restores the action of before when the last purpose is gone.
#![allow(unsafe_code, reason = "signal handlers are installed through libc")]

use crate::environment;
use crate::runtime::started;
use gopark_backends::linux::signal::{Doorbell, process_id};
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

const VARIABLE: &str = "GOPARK_DUMP";

/// Returns the signals named by `setting` ([`Builder::dump_on`](crate::Builder::dump_on)) and by
/// `GOPARK_DUMP`. Fails if one of them cannot request a dump.
pub(crate) fn requested(setting: Option<i32>) -> io::Result<Vec<i32>> {
    let mut signals = Vec::new();
    if let Some(signal) = setting {
        check_dump(signal)
            .map_err(|why| io::Error::new(ErrorKind::InvalidInput, format!("dump_on: {why}")))?;
        signals.push(signal);
    }
    if let Some(value) = environment::nonempty(VARIABLE) {
        let signal = value.to_str().and_then(number);
        let signal = signal.ok_or_else(|| {
            environment::invalid(VARIABLE, &value, "the name or number of a signal")
        })?;
        check_dump(signal)
            .map_err(|why| io::Error::new(ErrorKind::InvalidInput, format!("{VARIABLE}: {why}")))?;
        if !signals.contains(&signal) {
            signals.push(signal);
        }
    }
    Ok(signals)
}

const NAMES: [(&str, i32); 31] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// Parses a signal: `USR1`, `SIGUSR1` or `10`, in upper or lower case.
fn number(text: &str) -> Option<i32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|&(_, signal)| signal)
        .or_else(|| text.parse().ok())
}

/// The name of a signal, such as `SIGUSR1` or `SIGRTMIN+1`, or its number.
pub(crate) fn name(signal: i32) -> String {
    let standard = NAMES.iter().find(|&&(_, known)| known == signal);
    match standard {
        Some((name, _)) => format!("SIG{name}"),
        None if (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&signal) => {
            format!("SIGRTMIN+{}", signal - libc::SIGRTMIN())
        }
        None => format!("{signal}"),
    }
}

/// Returns why `signal` cannot be caught, as an error.
pub(crate) fn check(signal: i32) -> Result<(), String> {
    let (last, last_standard) = (libc::SIGRTMAX(), 31);
    let why = match signal {
        libc::SIGSEGV
        | libc::SIGBUS
        | libc::SIGILL
        | libc::SIGFPE
        | libc::SIGTRAP
        | libc::SIGSYS => {
            "comes from the instruction that faulted, which would fault again after the handler"
        }
        libc::SIGKILL | libc::SIGSTOP => "cannot be caught",
        _ if !(1..=last).contains(&signal) => {
            return Err(format!("{signal} is not a signal: signals are 1 to {last}"));
        }
        _ if signal > last_standard && signal < libc::SIGRTMIN() => {
            "is used by libc, for setuid() and to cancel threads"
        }
        _ => return Ok(()),
    };
    Err(format!("{} {why}", name(signal)))
}

/// Returns why `signal` cannot request a dump, as an error.
fn check_dump(signal: i32) -> Result<(), String> {
    let checked = match signal {
        libc::SIGPIPE | libc::SIGTTOU | libc::SIGXFSZ => Err(format!(
            "{} comes from writing, so that writing a dump could request the next one",
            name(signal)
        )),
        _ => check(signal),
    };
    checked.map_err(|why| format!("{why}; choose another, such as SIGUSR1 or SIGQUIT"))
}

/// For what a signal is caught.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// It requests a dump.
    Dump,
    /// `signal::notify` sends it to channels.
    Notify,
}

impl Purpose {
    /// The signals that are caught for this, by their bits. Changed under the lock of [`CAUGHT`],
    /// and read by the handler.
    fn signals(self) -> &'static AtomicU64 {
        static DUMPED: AtomicU64 = AtomicU64::new(0);
        static NOTIFIED: AtomicU64 = AtomicU64::new(0);
        match self {
            Purpose::Dump => &DUMPED,
            Purpose::Notify => &NOTIFIED,
        }
    }

    fn includes(self, signal: i32) -> bool {
        self.signals().load(Ordering::Relaxed) & bit(signal) != 0
    }
}

/// The largest number of a signal on the supported processors, except MIPS, where it is 127: the
/// signals above cannot be caught here.
const LAST: usize = 64;

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// The signals with this crate's handler, each with the action that it replaced.
static CAUGHT: Mutex<Vec<(i32, libc::sigaction)>> = Mutex::new(Vec::new());

/// How often each signal has come since [`take`], if it is caught to be notified.
static PENDING: [AtomicU32; LAST + 1] = [const { AtomicU32::new(0) }; LAST + 1];

/// Rung by the handler after it has counted in [`PENDING`].
static BELL: OnceLock<Doorbell> = OnceLock::new();

/// The process whose thread waits for [`BELL`].
static OWNER: AtomicI32 = AtomicI32::new(0);

/// Returns what wakes the thread that distributes signals, and makes it on the first call.
/// [`install`] for [`Purpose::Notify`] comes after it.
pub(crate) fn bell() -> io::Result<&'static Doorbell> {
    if let Some(bell) = BELL.get() {
        return match OWNER.load(Ordering::Relaxed) == process_id() {
            true => Ok(bell),
            false => Err(io::Error::new(
                ErrorKind::Unsupported,
                "this process is a fork of the one whose thread distributes signals, and the \
                 thread is not here: in the child call exec or _exit, or fork before \
                 signal::notify",
            )),
        };
    }
    let opened = Doorbell::open().map_err(|errno| io::Error::from_raw_os_error(errno.raw()))?;
    OWNER.store(process_id(), Ordering::Relaxed);
    Ok(BELL.get_or_init(|| opened))
}

/// Returns the signals that have come since the last call, each as often as it came.
pub(crate) fn take() -> impl Iterator<Item = i32> {
    (1..=LAST as i32).flat_map(|signal| {
        let count = PENDING[signal as usize].swap(0, Ordering::Acquire);
        (0..count).map(move |_| signal)
    })
}

/// Catches `signal` for `purpose`, for which it is not caught yet.
pub(crate) fn install(signal: i32, purpose: Purpose) -> io::Result<()> {
    let mut caught = CAUGHT.lock().unwrap_or_else(PoisonError::into_inner);
    if signal as usize > LAST {
        return Err(ErrorKind::Unsupported.into());
    }
    // Before the handler is there: it does nothing for a signal without a purpose.
    purpose.signals().fetch_or(bit(signal), Ordering::Relaxed);
    if caught.iter().any(|&(known, _)| known == signal) {
        return Ok(());
    }
    // SAFETY: all-zero is a valid sigaction, and `on_signal` is async-signal-safe.
    let (result, before) = unsafe {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        let mut before = MaybeUninit::<libc::sigaction>::zeroed();
        (
            libc::sigaction(signal, &action, before.as_mut_ptr()),
            before.assume_init(),
        )
    };
    if result != 0 {
        let error = io::Error::last_os_error();
        purpose.signals().fetch_and(!bit(signal), Ordering::Relaxed);
        return Err(io::Error::new(
            error.kind(),
            format!("cannot install a handler for signal {signal}: {error}"),
        ));
    }
    caught.push((signal, before));
    Ok(())
}

/// Ends what [`install`] began. Restores the action of before if no purpose is left.
pub(crate) fn release(signal: i32, purpose: Purpose) {
    let mut caught = CAUGHT.lock().unwrap_or_else(PoisonError::into_inner);
    let last = [Purpose::Dump, Purpose::Notify]
        .into_iter()
        .all(|other| other == purpose || !other.includes(signal));
    if last {
        caught.retain(|(known, before)| {
            if *known == signal {
                // SAFETY: `before` is the action that the kernel returned.
                unsafe { libc::sigaction(signal, before, ptr::null_mut()) };
            }
            *known != signal
        });
    }
    // After the action is restored: until then the handler must not ignore the signal.
    purpose.signals().fetch_and(!bit(signal), Ordering::Relaxed);
}

/// The installed handlers for dumps. Unless [`keep`](Self::keep) is called, the drop releases them.
pub(crate) struct Handlers(Vec<i32>);

impl Handlers {
    /// Installs a handler for each of `signals`, or on an error for none. A handler does nothing
    /// until the scheduler runs.
    pub(crate) fn install(signals: &[i32]) -> io::Result<Self> {
        let mut installed = Handlers(Vec::new());
        for &signal in signals {
            install(signal, Purpose::Dump)?;
            installed.0.push(signal);
        }
        Ok(installed)
    }

    /// Keeps the handlers installed for the life of the process.
    pub(crate) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        for &signal in &self.0 {
            release(signal, Purpose::Dump);
        }
    }
}

/// The signal handler. For a dump it sets a flag for sysmon, which then reports `Report::Asked`.
extern "C" fn on_signal(signal: libc::c_int) {
    // SAFETY: errno is restored for the interrupted code, which may be about to read it.
    unsafe {
        let errno = *libc::__errno_location();
        if Purpose::Dump.includes(signal) {
            if let Some(sched) = started() {
                sched.ask();
            }
        }
        if Purpose::Notify.includes(signal) {
            notify(signal);
        }
        *libc::__errno_location() = errno;
    }
}

/// The part of the handler that wakes the thread that distributes signals.
fn notify(signal: i32) {
    if OWNER.load(Ordering::Relaxed) != process_id() {
        return default_in_child(signal);
    }
    // Release pairs with the Acquire in `take`.
    PENDING[signal as usize].fetch_add(1, Ordering::Release);
    if let Some(bell) = BELL.get() {
        bell.ring();
    }
}

/// A child made by fork has the handler, and not the thread. The signal does there what it does by
/// default, once the handler returns and it is unblocked.
fn default_in_child(signal: i32) {
    // SAFETY: both are async-signal-safe, and the default action is no function.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_parsed_by_name_with_or_without_sig_and_by_number() {
        for text in ["USR1", "SIGUSR1", "usr1", "sigusr1", "10"] {
            assert_eq!(number(text), Some(libc::SIGUSR1), "{text}");
        }
        for text in ["", "SIG", "USR3", "1.5", " 10", "SIG10"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn signals_that_cannot_request_a_dump_are_refused() {
        let standard = [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGTRAP,
            libc::SIGSYS,
            libc::SIGKILL,
            libc::SIGSTOP,
            libc::SIGPIPE,
            libc::SIGTTOU,
            libc::SIGXFSZ,
        ];
        let never = [
            i32::MIN,
            -1,
            0,
            32,
            33,
            libc::SIGRTMAX() + 1,
            1000,
            i32::MAX,
        ];
        let refused: Vec<_> = standard.into_iter().chain(never).collect();
        assert!(refused.iter().all(|&signal| check_dump(signal).is_err()));
        let allowed = (1..=31)
            .chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
            .filter(|signal| !refused.contains(signal));
        allowed.for_each(|signal| check_dump(signal).unwrap());
        assert!(
            check_dump(libc::SIGUSR1).is_ok()
                && check_dump(libc::SIGQUIT).is_ok()
                && check_dump(libc::SIGRTMIN()).is_ok()
        );
    }

    #[test]
    fn signals_have_names() {
        for (signal, expected) in [
            (libc::SIGUSR1, "SIGUSR1"),
            (libc::SIGIO, "SIGIO"),
            (libc::SIGRTMIN(), "SIGRTMIN+0"),
            (libc::SIGRTMIN() + 3, "SIGRTMIN+3"),
            (33, "33"),
            (-1, "-1"),
        ] {
            assert_eq!(name(signal), expected);
        }
    }
}
