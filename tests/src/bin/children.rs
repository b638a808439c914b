//! Programs with child processes and signals that change the whole process. `suites/processes.rs`
//! runs them by name.
#![allow(
    unsafe_code,
    reason = "signals are sent, limits are set and processes are forked through libc"
)]

use gopark::process::{Child, Command, Stdio};
use gopark::signal::{self, Signal};
use gopark::sync::Cancel;
use gopark::{Builder, PollError, chan, go, poll_error, yield_now};
use gopark_tests::{join, thread_names, until, until_on_thread};
use std::io::{self, BufRead, ErrorKind};
use std::time::Duration;

fn main() {
    let program = std::env::args().nth(1).expect("the name of a program");
    match program.as_str() {
        "sigchld-ignored" => gopark::run(sigchld_ignored),
        "no-descriptors" => gopark::run(no_descriptors),
        "fork" => fork(),
        "notify-and-dump" => notify_and_dump(),
        "waits-for-a-signal" => gopark::run(waits_for_a_signal),
        "deadlock-afterwards" => gopark::run(deadlock_afterwards),
        "starts-later" => starts_later(),
        _ => panic!("there is no program {program}"),
    }
}

fn cat() -> Child {
    let mut cat = Command::new("cat");
    cat.stdin(Stdio::piped()).spawn().unwrap()
}

fn raise(signal: Signal) {
    // SAFETY: no memory is passed.
    assert_eq!(unsafe { libc::raise(signal.raw()) }, 0);
}

/// The kernel fetches the status of children itself.
fn sigchld_ignored() {
    // SAFETY: the action is no function.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let no_child = |result: io::Result<std::process::ExitStatus>| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ECHILD));
    };
    no_child(cat().wait());
    no_child(Command::new("true").status());
    let mut child = Command::new("true").spawn().unwrap();
    until("it has ended", || child.try_wait().is_err());
    no_child(child.wait());
    // A leak check at the end waits for a child of its own. SAFETY: as above.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Waits for children while all descriptors are in use: on the pool.
fn no_descriptors() {
    let mut children = [cat(), cat()];
    let inputs = children.each_mut().map(|child| child.stdin.take().unwrap());
    let mut before = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `before` is writable.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut before) };
    assert_eq!(result, 0);
    let none = libc::rlimit {
        rlim_cur: 0,
        ..before
    };
    // SAFETY: `none` is readable.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &none) }, 0);
    let [mut first, mut second] = children;
    let late = first.wait_timeout(Duration::from_millis(2)).unwrap_err();
    assert_eq!(
        (late.kind(), poll_error(&late)),
        (ErrorKind::TimedOut, Some(PollError::Timeout))
    );
    let cancel = Cancel::new();
    let theirs = cancel.clone();
    let waiting = go(move || theirs.run(|| (second.wait(), second)));
    yield_now();
    cancel.cancel();
    let (result, mut second) = join(waiting);
    let error = result.unwrap_err();
    assert_eq!(poll_error(&error), Some(PollError::Cancelled));
    let waiting = go(move || first.wait().unwrap().success() && second.wait().unwrap().success());
    yield_now();
    assert!(!waiting.is_finished());
    drop(inputs);
    assert!(join(waiting));
    // A leak check at the end opens files. SAFETY: `before` is readable.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &before) }, 0);
}

/// A child made by fork has the default action, and does not disturb the parent.
fn fork() {
    let signals = signal::notify([Signal::USR1, Signal::USR2]).unwrap();
    // SAFETY: the child calls async-signal-safe functions only.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: as above.
        unsafe {
            libc::raise(libc::SIGUSR1);
            libc::_exit(0);
        }
    }
    let mut status = 0;
    // SAFETY: `status` is writable.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGUSR1);
    raise(Signal::USR2);
    assert_eq!(signals.recv(), Ok(Signal::USR2));
    assert!(signals.is_empty());
}

/// A signal that requests a dump and is notified does both, and then the dump alone.
fn notify_and_dump() {
    Builder::new()
        .max_procs(1)
        .dump_on(libc::SIGUSR1)
        .start()
        .unwrap();
    let signals = signal::notify([Signal::USR1]).unwrap();
    raise(Signal::USR1);
    assert_eq!(signals.recv(), Ok(Signal::USR1));
    let mut lines = io::stdin().lock().lines();
    // After the first dump.
    lines.next();
    drop(signals);
    raise(Signal::USR1);
    // After the second one.
    lines.next();
}

/// The runtime starts, with dumps, while the signal is notified. They stay afterwards.
fn starts_later() {
    let signals = signal::notify([Signal::USR1]).unwrap();
    raise(Signal::USR1);
    // A receive that waits would start the runtime.
    until_on_thread("the signal", || signals.try_recv().is_ok());
    Builder::new()
        .max_procs(1)
        .dump_on(libc::SIGUSR1)
        .start()
        .unwrap();
    drop(signals);
    raise(Signal::USR1);
    io::stdin().lock().lines().next();
}

fn waits_for_a_signal() {
    let signals = signal::notify([Signal::TERM]).unwrap();
    println!("ready");
    println!("{}", signals.recv().unwrap());
}

fn deadlock_afterwards() {
    drop(signal::notify([Signal::TERM]).unwrap());
    until("the thread has ended", || {
        !thread_names().contains(&"gopark-signals".into())
    });
    let (_sender, receiver) = chan::bounded::<u8>(1);
    let _ = receiver.recv();
}
