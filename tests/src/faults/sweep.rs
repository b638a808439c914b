//! The k-th call fails: for every system call that the subject makes, every error of [`ROWS`], and
//! k = 1, 2, 3, 12, 48 ….
//!
//! An interruption also comes at every second call, and an accept fails at every fourth.
//!
//! strace counts calls for each thread, from before the runtime starts: "the third" is the third
//! call of every thread that makes three. A point counts if its trace shows `(INJECTED)`. Then:
//!
//! - the subject ends by itself, in time, and prints that it survived; where it cannot continue, it
//!   prints the call that failed and aborts;
//! - each trouble names the injected error, no trouble is without a fault that explains it, and the
//!   next round has none;
//! - it has as many descriptors as before, and no goroutine is left.
//!
//! `FAULTS=all` tries every k, in more arrangements; `FAULTS_CALLS` names the system calls to try.
#![allow(
    unsafe_code,
    reason = "children are stopped, continued and killed through libc"
)]

use super::others;
use super::table::{Error, Expected, LEVEL_ROWS, ROWS, Row};
use super::{THIS_PROGRAM, Tally};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// A subject that takes longer hangs. One that waits for deadlines takes a few of them.
const LIMIT: Duration = Duration::from_secs(40);

/// How the runtime is started, and the system calls to try there. No calls: all.
const ARRANGEMENTS: [(&str, &[&str]); 7] = [
    ("one", &[]),
    ("two", &[]),
    ("locks", &["futex"]),
    ("others", others::CALLS),
    ("shared", SLEEP),
    ("migrating", SLEEP),
    ("default", PROCS),
];

/// The calls with which Ms that share a poller sleep and wake each other.
const SLEEP: &[&str] = &[
    "futex",
    "epoll_wait",
    "epoll_pwait2",
    "ppoll",
    "read",
    "write",
    "sched_yield",
];

/// The calls that find the number of CPUs, if no setting gives the number of Ps.
const PROCS: &[&str] = &["sched_getaffinity", "openat", "read"];

/// One fault.
struct Point {
    arrangement: &'static str,
    row: &'static Row,
    error: Error,
    /// In strace's notation: `k`, or `first..last+step`.
    when: String,
}

/// How a subject ended under a fault.
struct Ended {
    /// `None` if it hung.
    status: Option<ExitStatus>,
    output: String,
    /// How many calls were made to fail.
    hits: usize,
}

/// For each system call: points, how many of them struck, and how many of those ended the process,
/// as they had to.
#[derive(Default)]
struct Count {
    points: usize,
    struck: usize,
    died: usize,
    failed: usize,
}

/// Runs all points.
pub fn cases(tally: &mut Tally) {
    if let Err(reason) = traceable() {
        return tally.skip("the k-th call fails", &reason);
    }
    let all = std::env::var("FAULTS").is_ok_and(|value| value == "all");
    let only = std::env::var("FAULTS_CALLS").unwrap_or_default();
    let only: Vec<_> = only.split(' ').filter(|call| !call.is_empty()).collect();
    let mut points: Vec<_> = ARRANGEMENTS
        .iter()
        .flat_map(|&(arrangement, calls)| points(arrangement, calls, all))
        .collect();
    points.retain(|point| only.is_empty() || only.contains(&point.row.call));
    println!("{} points", points.len());
    let queue = Mutex::new(points.into_iter());
    let results = Mutex::new(BTreeMap::<&str, Count>::new());
    // A subject waits most of its time: for deadlines, sleeps and its tracer.
    let workers = 3 * thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for worker in 0..workers {
            let (queue, results) = (&queue, &results);
            scope.spawn(move || {
                let log = std::env::temp_dir()
                    .join(format!("gopark-faults-{}-{worker}", std::process::id()));
                loop {
                    let Some(point) = queue.lock().unwrap().next() else {
                        break;
                    };
                    let start = Instant::now();
                    let ended = point.run(&log);
                    let verdict = point.judge(&ended);
                    let mut results = results.lock().unwrap();
                    let row = results.entry(point.row.call).or_default();
                    row.points += 1;
                    row.struck += usize::from(ended.hits > 0);
                    row.died += usize::from(ended.status.is_none_or(|status| !status.success()));
                    if let Err(reason) = verdict {
                        row.failed += 1;
                        println!(
                            "FAILED  {} ({:?}): {reason}\n{}",
                            point.name(),
                            start.elapsed(),
                            ended.output.trim_end()
                        );
                    }
                }
                let _ = fs::remove_file(log);
            });
        }
    });
    println!(
        "{:20} {:>7} {:>7} {:>7} {:>7}",
        "system call", "points", "struck", "died", "failed"
    );
    let results = results.into_inner().unwrap();
    let struck: usize = results.values().map(|row| row.struck).sum();
    for (call, row) in results {
        println!(
            "{call:20} {:7} {:7} {:7} {:7}",
            row.points, row.struck, row.died, row.failed
        );
        tally.failed += row.failed;
        tally.passed += row.struck - row.failed.min(row.struck);
    }
    println!("{struck} faults struck");
}

/// The reason why this machine cannot inject faults, if any.
fn traceable() -> Result<(), String> {
    let mut sleeper = Command::new("sleep")
        .arg("60")
        .spawn()
        .map_err(|error| format!("sleep: {error}"))?;
    let mut command = Command::new("strace");
    let command = command
        .args(["-o", "/dev/null", "-p", &sleeper.id().to_string()])
        .stderr(Stdio::piped());
    let said = command.spawn().and_then(|mut strace| {
        let mut line = String::new();
        BufReader::new(strace.stderr.take().expect("piped")).read_line(&mut line)?;
        sleeper.kill()?;
        strace.wait()?;
        Ok(line)
    });
    let _ = sleeper.kill();
    let _ = sleeper.wait();
    match said {
        Ok(line) if line.contains("attached") => Ok(()),
        Ok(line) => Err(line.trim().into()),
        Err(error) => Err(format!("strace: {error}")),
    }
}

/// The calls that the subject makes in this arrangement, and the faults to try on them.
fn points(arrangement: &'static str, calls: &[&str], all: bool) -> Vec<Point> {
    let log = std::env::temp_dir().join(format!("gopark-faults-{}-calls", std::process::id()));
    let trace = subject(arrangement, &log, &["-e", "trace=all"]);
    assert!(
        trace.status.is_some_and(|status| status.success()) && trace.output.contains("survived"),
        "without faults: {}",
        trace.output
    );
    let mut counts = BTreeMap::<(String, String), usize>::new();
    for line in fs::read_to_string(&log)
        .expect("strace has written it")
        .lines()
    {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((call, _)) = rest.trim_start().split_once('(') else {
            continue;
        };
        *counts
            .entry((call.to_string(), thread.to_string()))
            .or_default() += 1;
    }
    let _ = fs::remove_file(log);
    let mut points = Vec::new();
    let level = if crate::reports_levels(crate::poller()) {
        LEVEL_ROWS
    } else {
        &[]
    };
    for row in ROWS
        .iter()
        .chain(level)
        .filter(|row| all || calls.is_empty() || calls.contains(&row.call))
    {
        let most = counts
            .iter()
            .filter(|((call, _), _)| call == row.call)
            .map(|(_, n)| *n)
            .max()
            .unwrap_or(0);
        for &error in row.errors {
            let mut push = |when: String| {
                points.push(Point {
                    arrangement,
                    row,
                    error,
                    when,
                })
            };
            let mut k = 1;
            while k <= most {
                push(k.to_string());
                k += if all || k < 3 { 1 } else { 3 * k };
            }
            match error.0 {
                "EINTR" | "ECONNABORTED" if most > 0 && row.expected == Expected::Absorbed => {
                    push("1+2".into())
                }
                "EMFILE" | "EPERM" if most > 0 && row.call == "accept4" => push("4..12+4".into()),
                _ => {}
            }
        }
    }
    points
}

impl Point {
    fn name(&self) -> String {
        format!(
            "{} {} {} when={}",
            self.arrangement, self.row.call, self.error.0, self.when
        )
    }

    fn run(&self, log: &Path) -> Ended {
        let trace = format!("trace={}", self.row.call);
        let inject = format!(
            "inject={}:error={}:when={}",
            self.row.call, self.error.0, self.when
        );
        subject(self.arrangement, log, &["-e", &trace, "-e", &inject])
    }

    fn judge(&self, ended: &Ended) -> Result<(), String> {
        let Some(status) = ended.status else {
            return Err("it hangs".into());
        };
        let expected = self.row.expected;
        if ended.hits == 0 {
            return if status.success() {
                Ok(())
            } else {
                Err(format!("{status}, without a fault"))
            };
        }
        if !status.success() {
            let said = |text: &str| ended.output.contains(text);
            return match expected {
                Expected::Dies(text) | Expected::MayDie(text) if said(text) => Ok(()),
                _ => Err(format!("{status}")),
            };
        }
        if matches!(expected, Expected::Dies(_)) {
            return Err("it goes on".into());
        }
        self.judge_survivor(ended)
    }

    fn judge_survivor(&self, ended: &Ended) -> Result<(), String> {
        let expected = self.row.expected;
        if !ended.output.contains("survived") {
            return Err("not survived".into());
        }
        for line in ended
            .output
            .lines()
            .filter(|line| line.starts_with("broken"))
        {
            if expected != Expected::Leaks || !line.contains(" have become ") {
                return Err(line.into());
            }
        }
        let troubles: Vec<_> = ended
            .output
            .lines()
            .filter(|line| line.starts_with("trouble"))
            .collect();
        let (named, other): (Vec<_>, Vec<_>) =
            troubles.iter().copied().partition(|line| self.names(line));
        if expected == Expected::Absorbed && !troubles.is_empty() {
            return Err(format!("{} operations have failed", troubles.len()));
        }
        if expected == Expected::ReportedOrLate
            && troubles.len() <= ended.hits
            && other
                .iter()
                .all(|line| *line == "trouble dial: i/o timeout")
        {
            return Ok(());
        }
        // The trouble that the peer sees may have the same name.
        let ends = if named.iter().any(|line| follows(line)) {
            2
        } else {
            1
        };
        if named.len() > ends * ended.hits {
            return Err(format!(
                "{} operations have failed by {} faults",
                named.len(),
                ended.hits
            ));
        }
        match other.iter().find(|line| !follows(line)) {
            Some(line) => Err(format!("no fault explains: {line}")),
            None if other.len() > ended.hits => Err(format!("{} others have failed", other.len())),
            None => Ok(()),
        }
    }

    fn names(&self, line: &str) -> bool {
        // pthread_create fails with `EAGAIN` for every shortage, and io_uring turns `EAGAIN` into
        // `ENOMEM`. For `EPERM` from a poller there is a message of its own.
        let numbers: &[_] = match self.error.1 {
            libc::EPERM if line.contains("not pollable") => return true,
            libc::EAGAIN | libc::ENOMEM => &[libc::EAGAIN, libc::ENOMEM],
            ref number => std::slice::from_ref(number),
        };
        numbers.iter().any(|number| {
            line.contains(&format!("os error {number})"))
                || line.contains(&format!("errno {number};"))
                || line.contains(&format!("errno {number})"))
        })
    }
}

/// Whether a trouble is that of the peer of a connection that was given up.
fn follows(trouble: &str) -> bool {
    ["talk: ", "serve: "]
        .iter()
        .any(|end| trouble.contains(end))
        && [
            "unexpected end of file",
            "failed to fill whole buffer",
            "reset by peer",
            "Broken pipe",
            "not connected",
            "bytes of ",
        ]
        .iter()
        .any(|end| trouble.contains(end))
}

/// Runs the subject under strace.
fn subject(arrangement: &str, log: &Path, options: &[&str]) -> Ended {
    let mut command = Command::new(THIS_PROGRAM);
    command
        .args(["subject", arrangement, "stop"])
        .env("RUST_BACKTRACE", "0")
        .env_remove("GOPARK_MAXPROCS");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it is this program");
    let pid = child.id() as i32;
    let mut stopped = 0;
    // SAFETY: `stopped` is writable. The child is not reaped here: std does that.
    unsafe { libc::waitpid(pid, &mut stopped, libc::WUNTRACED) };
    assert!(
        libc::WIFSTOPPED(stopped),
        "the subject stops itself: {stopped:#x}"
    );
    let id = pid.to_string();
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-p", &id, "-o"])
        .arg(log)
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut strace = strace.spawn().expect("it was there before");
    let mut notes = BufReader::new(strace.stderr.take().expect("piped"));
    let mut attached = String::new();
    notes.read_line(&mut attached).expect("a pipe can be read");
    assert!(attached.contains("attached"), "{attached}");
    // SAFETY: no memory is passed.
    unsafe { libc::kill(pid, libc::SIGCONT) };
    let status = finish(&mut child);
    thread::spawn(move || notes.read_to_string(&mut String::new()));
    let _ = strace.wait();
    let mut output = String::new();
    let _ = child
        .stdout
        .take()
        .expect("piped")
        .read_to_string(&mut output);
    let _ = child
        .stderr
        .take()
        .expect("piped")
        .read_to_string(&mut output);
    let hits = fs::read_to_string(log).map_or(0, |text| text.matches("(INJECTED)").count());
    Ended {
        status,
        output,
        hits,
    }
}

/// Waits for the end of `child`, and kills it after [`LIMIT`].
fn finish(child: &mut Child) -> Option<ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("the child is still there");
    child.wait().expect("a killed child ends");
    None
}
