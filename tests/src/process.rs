//! Child processes, for tests of what ends a process or changes its limits.

use crate::LIMIT;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Instant;

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// What it wrote to stdout, then what it wrote to stderr.
    pub output: String,
}

impl Ended {
    /// Fails unless it exited with 0.
    #[track_caller]
    pub fn assert_success(&self) {
        assert!(self.status.success(), "{}\n{}", self.status, self.output);
    }

    /// Fails unless it died of `signal`.
    #[track_caller]
    pub fn assert_killed_by(&self, signal: i32) {
        assert_eq!(
            self.status.signal(),
            Some(signal),
            "{}\n{}",
            self.status,
            self.output
        );
    }

    /// Fails unless it wrote `text`.
    #[track_caller]
    pub fn assert_said(&self, text: &str) {
        assert!(
            self.output.contains(text),
            "it did not say {text:?}:\n{}",
            self.output
        );
    }
}

/// Copies a program, in a child process: if this process had the copy open for writing, a child
/// that another thread forks at that moment would inherit the descriptor, and the copy could not be
/// run (`ETXTBSY`).
#[track_caller]
pub fn copy_program(from: &Path, to: &Path) {
    run(Command::new("cp").args([from, to])).assert_success();
}

/// Runs `command` to its end. Kills it and fails if it hangs.
#[track_caller]
pub fn run(command: &mut Command) -> Ended {
    attempt(command).unwrap_or_else(|hung| panic!("{hung}"))
}

/// Like [`run`], but returns a message if the command hangs.
pub fn attempt(command: &mut Command) -> Result<Ended, String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program exists");
    let outputs: [Box<dyn Read + Send>; 2] = [
        Box::new(child.stdout.take().unwrap()),
        Box::new(child.stderr.take().unwrap()),
    ];
    let readers = outputs.map(|mut output| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            output
                .read_to_end(&mut bytes)
                .map(|_| String::from_utf8_lossy(&bytes).into_owned())
        })
    });
    let start = Instant::now();
    let status = loop {
        match child.try_wait().expect("a child can be waited for") {
            Some(status) => break Some(status),
            None if start.elapsed() > LIMIT => break None,
            None => thread::sleep(std::time::Duration::from_millis(2)),
        }
    };
    if status.is_none() {
        child.kill().expect("the child is still there");
        child.wait().expect("a killed child ends");
    }
    let output = readers
        .map(|reader| reader.join().unwrap().expect("a pipe can be read"))
        .concat();
    let status = status.ok_or_else(|| {
        format!("hung: {command:?} has not come to an end in {LIMIT:?}\n{output}")
    })?;
    Ok(Ended { status, output })
}
