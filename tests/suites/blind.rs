//! Hand-offs and reports where the system shows little or forbids much: the program
//! `src/bin/blind.rs`. Not under sanitizers, which need what it takes away.
#![cfg(not(any(gopark_sanitize = "thread", gopark_sanitize = "address")))]

use gopark_tests::process::{Ended, copy_program, run};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_blind");

fn blind(wheres: &[&str]) -> Ended {
    run(Command::new(PROGRAM)
        .args(wheres)
        .env_remove("GOPARK_REPORTS")
        .env("RUST_BACKTRACE", "0"))
}

/// Whether the program could set up its restrictions. If not, prints the reason.
fn arranged(ended: &Ended) -> bool {
    ended.assert_success();
    match ended
        .output
        .lines()
        .find(|line| line.starts_with("skipped: "))
    {
        Some(line) => eprintln!("{line}"),
        None => println!("{}", ended.output),
    }
    !ended.output.contains("skipped: ")
}

/// Fails unless the goroutines were handed off and the report appeared with these words.
#[track_caller]
fn assert_watched(ended: &Ended, doing: &str) {
    ended.assert_said("a fresh goroutine ran ");
    ended.assert_said("\"blocked\", spawned at tests/src/bin/blind.rs:");
    ended.assert_said(&format!("{doing}; 1 goroutine waits for it\n    "));
}

#[test]
fn a_start_without_restrictions_prints_nothing() {
    let ended = blind(&["in-sight"]);
    assert_watched(&ended, "in system call clock_nanosleep");
    assert!(!ended.output.contains("refuses"), "{}", ended.output);
}

#[test]
fn threads_are_handed_off_in_a_process_that_is_not_dumpable() {
    // Root can read what other users cannot, so the program runs as another user.
    let folder = std::env::temp_dir().join(format!("gopark-blind-{}", std::process::id()));
    let program = Program::for_everybody(folder);
    let mut command = Command::new(program.0.join("blind"));
    command
        .arg("undumpable")
        .env_remove("GOPARK_REPORTS")
        .env("RUST_BACKTRACE", "0");
    let ended = match is_root() {
        true => run(command.uid(65534).gid(65534).current_dir("/")),
        false => run(&mut command),
    };
    if arranged(&ended) {
        assert_watched(&ended, "in a system call");
        assert!(!ended.output.contains("refuses"), "{}", ended.output);
    }
}

struct Program(PathBuf);

impl Program {
    fn for_everybody(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        copy_program(PROGRAM.as_ref(), &folder.join("blind"));
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        Program(folder)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self")
        .is_ok_and(|process| std::os::unix::fs::MetadataExt::uid(&process) == 0)
}

#[test]
fn threads_are_handed_off_without_proc_and_the_start_reports_what_is_off() {
    let ended = blind(&["no-proc"]);
    if arranged(&ended) {
        assert_watched(&ended, "in a system call");
        let said = ended.output.lines().filter(|line| line.contains("refuses"));
        let said: Vec<_> = said
            .filter(|line| {
                line.contains("without /proc") && line.contains("deadlocks are not noticed")
            })
            .collect();
        assert_eq!(said.len(), 1, "{}", ended.output);
    }
}

#[test]
fn a_start_that_takes_the_last_descriptor_reports_missing_descriptors_and_not_proc() {
    let ended = blind(&["no-descriptor"]);
    if arranged(&ended) {
        ended.assert_said(
            "; without a descriptor to read /proc with (raise `ulimit -n`), threads that block ",
        );
        assert!(!ended.output.contains("without /proc"), "{}", ended.output);
    }
}

#[test]
fn threads_are_handed_off_even_if_their_clocks_cannot_be_read() {
    let ended = blind(&["no-clock"]);
    if arranged(&ended) {
        assert_watched(&ended, "in system call clock_nanosleep");
        ended.assert_said("without CPU clocks");
    }
}

#[test]
fn threads_are_handed_off_even_if_neither_state_nor_clock_can_be_read() {
    let ended = blind(&["no-proc", "no-clock"]);
    if arranged(&ended) {
        ended.assert_said("a fresh goroutine ran ");
        ended.assert_said("without /proc and CPU clocks");
    }
}

#[test]
fn a_start_without_membarrier_reports_that_threads_are_not_handed_off() {
    let ended = blind(&["no-membarrier"]);
    if arranged(&ended) {
        ended.assert_said(
            "without membarrier, a goroutine that blocks its thread or computes \
             holds up all others of its proc",
        );
    }
}

#[test]
fn a_variable_silences_what_the_program_has_not_asked_for() {
    let ended = run(Command::new(PROGRAM)
        .args(["no-clock"])
        .env("GOPARK_REPORTS", "off")
        .env("RUST_BACKTRACE", "0"));
    if arranged(&ended) {
        ended.assert_said("a fresh goroutine ran ");
        assert!(!ended.output.contains("gopark: "), "{}", ended.output);
    }
}
