//! [`Signal`].

use crate::signals;
use std::fmt;

/// A signal: its number, with the names of signal(7). Go's `syscall.Signal`.
///
/// ```
/// use gopark::signal::Signal;
///
/// assert_eq!(Signal::INT.to_string(), "SIGINT");
/// assert_eq!(Signal::from_raw(libc::SIGTERM), Signal::TERM);
/// assert_eq!(Signal::from_raw(libc::SIGRTMIN() + 1).to_string(), "SIGRTMIN+1");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(i32);

macro_rules! signals {
    ($($(#[$doc:meta])* $name:ident = $raw:ident;)*) => {
        impl Signal {
            $($(#[$doc])* pub const $name: Signal = Signal(libc::$raw);)*
        }
    };
}

signals! {
    /// A terminal was closed. Daemons read their configuration again. Ends the process.
    HUP = SIGHUP;
    /// Ctrl-C in a terminal. Ends the process.
    #[doc(alias = "Interrupt")]
    INT = SIGINT;
    /// Ctrl-\ in a terminal. Ends the process with a core dump.
    QUIT = SIGQUIT;
    /// `abort`. Ends the process with a core dump.
    ABRT = SIGABRT;
    /// Ends the process and cannot be caught.
    KILL = SIGKILL;
    /// For programs. Ends the process.
    USR1 = SIGUSR1;
    /// For programs. Ends the process.
    USR2 = SIGUSR2;
    /// A write to a pipe without readers. Programs in Rust ignore it, and get `BrokenPipe`.
    PIPE = SIGPIPE;
    /// The timer of `alarm`. Ends the process.
    ALRM = SIGALRM;
    /// The request to end, from `kill` and from supervisors. Ends the process.
    TERM = SIGTERM;
    /// A child has ended or stopped. Ignored.
    CHLD = SIGCHLD;
    /// The process goes on after a stop.
    CONT = SIGCONT;
    /// Stops the process and cannot be caught.
    STOP = SIGSTOP;
    /// Ctrl-Z in a terminal. Stops the process.
    TSTP = SIGTSTP;
    /// A process in the background has read from its terminal. Stops the process.
    TTIN = SIGTTIN;
    /// A process in the background has written to its terminal. Stops the process.
    TTOU = SIGTTOU;
    /// Urgent data on a socket. Ignored.
    URG = SIGURG;
    /// The limit of CPU time. Ends the process with a core dump.
    XCPU = SIGXCPU;
    /// The limit of a file's size. Ends the process with a core dump.
    XFSZ = SIGXFSZ;
    /// A timer of CPU time. Ends the process.
    VTALRM = SIGVTALRM;
    /// A timer of profilers. Ends the process.
    PROF = SIGPROF;
    /// The size of the terminal has changed. Ignored.
    WINCH = SIGWINCH;
    /// A descriptor has become ready (`O_ASYNC`). Ends the process.
    IO = SIGIO;
    /// The power fails. Ends the process.
    PWR = SIGPWR;
}

impl Signal {
    /// The signal of this number. Whether there is such a signal is checked when it is used.
    ///
    /// ```
    /// use gopark::signal::Signal;
    ///
    /// assert_eq!(Signal::from_raw(libc::SIGHUP), Signal::HUP);
    /// ```
    pub const fn from_raw(number: i32) -> Signal {
        Signal(number)
    }

    /// Its number, such as `libc::SIGINT`.
    ///
    /// ```
    /// assert_eq!(gopark::signal::Signal::HUP.raw(), libc::SIGHUP);
    /// ```
    pub const fn raw(self) -> i32 {
        self.0
    }
}

/// Its name, such as `SIGINT` or `SIGRTMIN+1`, or the number of one without a name.
impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&signals::name(self.0))
    }
}

/// As for `Display`.
impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
