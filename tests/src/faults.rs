//! Faults with real sockets: system calls that fail, limits that are reached, peers that vanish,
//! networks that lose packets.
//!
//! One small program, the [`subject`], listens, dials, echoes, sleeps and joins. Every case injects
//! a fault and then makes the same checks: the subject ends by itself, only the operation with the
//! fault fails, no descriptor is left open, and every goroutine has returned.

pub mod network;
mod others;
pub mod real;
pub mod seccomp;
pub mod subject;
pub mod sweep;
pub mod table;

use crate::process;
use std::env;
use std::process::{Command, ExitCode};

/// The program of children, even if the file is replaced during the run.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// The results of a part.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Cases that passed.
    pub passed: usize,
    /// Cases that failed.
    pub failed: usize,
    /// Cases that this machine cannot try.
    pub skipped: usize,
}

impl Tally {
    /// Counts a case and prints its outcome.
    pub fn count(&mut self, name: &str, outcome: Result<String, String>) {
        match outcome {
            Ok(remark) => {
                self.passed += 1;
                println!(
                    "ok      {name}{}{remark}",
                    if remark.is_empty() { "" } else { ": " }
                );
            }
            Err(reason) => {
                self.failed += 1;
                println!("FAILED  {name}: {reason}");
            }
        }
    }

    /// Counts a case that cannot be tried, and prints why.
    pub fn skip(&mut self, name: &str, reason: &str) {
        self.skipped += 1;
        println!("skipped {name}: {reason}");
    }

    /// Runs another program of this binary and counts how it ended. Its last line is the remark;
    /// or, after `skip: `, the reason why it cannot be tried.
    pub fn child(&mut self, name: &str, arguments: &[&str]) {
        let mut command = Command::new(THIS_PROGRAM);
        command
            .args(arguments)
            .env("RUST_BACKTRACE", "0")
            .env_remove("GOPARK_MAXPROCS");
        match process::attempt(&mut command) {
            Err(hung) => self.count(name, Err(hung)),
            Ok(ended) => {
                let last = ended.output.trim_end().lines().last().unwrap_or("");
                match last.strip_prefix("skip: ") {
                    Some(reason) => self.skip(name, reason),
                    None if ended.status.success() => self.count(name, Ok(last.into())),
                    None => self.count(
                        name,
                        Err(format!("{}\n{}", ended.status, ended.output.trim_end())),
                    ),
                }
            }
        }
    }

    fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// `faults` runs everything, `faults PART…` some of it. The other programs are children of these.
pub fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["subject", ref settings @ ..] => return subject::main(settings),
        ["real", program, ref rest @ ..] => return real::main(program, rest),
        ["network", program] => return network::main(program),
        _ => {}
    }
    type Part = (&'static str, fn(&mut Tally));
    let parts: [Part; 4] = [
        ("limits", real::cases),
        ("seccomp", seccomp::cases),
        ("namespaces", network::cases),
        ("sweep", sweep::cases),
    ];
    let mut total = Tally::default();
    for (name, part) in parts {
        if words.is_empty() || words.contains(&name) {
            println!("\n== {name}");
            let mut tally = Tally::default();
            part(&mut tally);
            total.add(tally);
        }
    }
    println!();
    if total.skipped > 0 {
        println!("{} skipped", total.skipped);
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    if total.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
