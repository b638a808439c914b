//! Contended locks of `std` under settings of their own: the programs of `src/bin/std_locks.rs`.

use gopark_tests::process::{Ended, run};
use gopark_tests::rounds;
use gopark_tests::std_locks::PROGRAMS;
use std::process::Command;

fn program(arguments: &[&str]) -> Ended {
    run(Command::new(env!("CARGO_BIN_EXE_std_locks"))
        .args(arguments)
        .env_remove("GOPARK_MAXPROCS")
        .env_remove("GOPARK_REPORTS")
        .env("RUST_BACKTRACE", "0"))
}

#[track_caller]
fn assert_ends(arguments: &[&str]) {
    let ended = program(arguments);
    ended.assert_success();
    ended.assert_said("done, ");
    if arguments.contains(&"park") {
        ended.assert_said("done, 0 rescues\n");
    }
}

/// How often a program runs: fewer times, the slower it is.
fn rounds_of(program: &str) -> String {
    let most = match program {
        "chat" | "meeting" => 1,
        "thread" | "barrier" => 3,
        _ => 20,
    };
    rounds(most).to_string()
}

#[test]
fn programs_that_would_hang_come_to_an_end_again_and_again() {
    for (name, _) in PROGRAMS {
        let rounds = rounds_of(name);
        for settings in [&["1p"][..], &["2p"], &["4p", "migrate"]] {
            assert_ends(&[&[name, &rounds], settings].concat());
        }
    }
}

#[test]
fn programs_that_would_hang_come_to_an_end_if_each_contended_lock_parks() {
    for (name, _) in PROGRAMS {
        let rounds = rounds_of(name);
        for settings in [&["1p"][..], &["2p"], &["4p", "migrate"]] {
            assert_ends(&[&[name, &rounds, "park"], settings].concat());
        }
    }
}

#[test]
fn each_lock_of_std_parks_and_what_is_no_lock_does_not() {
    assert_ends(&["states", "park"]);
    assert_ends(&["states", "park", "4p", "migrate"]);
}

#[test]
fn no_neighbour_runs_where_parking_is_forbidden() {
    assert_ends(&["without-parking", "park"]);
}

#[test]
fn a_wake_counts_goroutines_and_threads_together() {
    assert_ends(&["wakes", "park"]);
}

const RESCUED: &str = "blocked its thread in a lock of std";

#[test]
fn the_first_rescue_is_reported_once_with_both_goroutines() {
    let ended = program(&["first-rescue"]);
    ended.assert_success();
    assert_eq!(ended.output.matches(RESCUED).count(), 1, "{}", ended.output);
    assert_eq!(ended.output.lines().count(), 3, "{}", ended.output);
    for name in ["waiter", "holder"] {
        ended.assert_said(&format!(
            "\"{name}\" (spawned at tests/src/bin/std_locks.rs:"
        ));
    }
    ended.assert_said("gopark::sync");
    ended.assert_said("done, ");
}

#[test]
fn the_report_of_a_rescue_can_be_silenced() {
    let ended = program(&["first-rescue", "quiet"]);
    ended.assert_success();
    assert!(ended.output.starts_with("\ndone, "), "{}", ended.output);
    assert_eq!(ended.output.lines().count(), 2, "{}", ended.output);
}

/// Fails unless the program ends with a report of a deadlock that says all of `lines`.
#[track_caller]
fn assert_deadlock(arguments: &[&str], lines: &[&str]) {
    let ended = program(arguments);
    assert_eq!(ended.status.code(), Some(2), "{}", ended.output);
    ended.assert_said("fatal error: all goroutines are asleep - deadlock!");
    lines.iter().for_each(|line| ended.assert_said(line));
}

/// The first words of the state of a goroutine that waits for a lock, and the rest.
fn assert_names_a_lock(arguments: &[&str], name: &str) {
    let ended = program(arguments);
    let state = ended.output.split_once(&format!("\"{name}\" [std lock"));
    let state = state.and_then(|(_, rest)| rest.split_once(']'));
    let (state, _) = state.unwrap_or_else(|| panic!("{name}:\n{}", ended.output));
    assert!(state.contains(" at 0x"), "{state}");
}

#[test]
#[cfg_attr(
    gopark_sanitize = "thread",
    ignore = "ThreadSanitizer has a thread that gopark cannot account for"
)]
fn a_ring_of_locks_of_std_is_a_deadlock() {
    for settings in [&["1p"][..], &["2p"], &["4p", "migrate"], &["1p", "park"]] {
        let arguments = [&["crossed"], settings].concat();
        let lines = [
            "\"first\" [std lock",
            "\"second\" [std lock",
            "\"main\" [join",
        ];
        assert_deadlock(&arguments, &lines);
    }
    assert_names_a_lock(&["crossed"], "first");
}

#[test]
#[cfg_attr(
    gopark_sanitize = "thread",
    ignore = "ThreadSanitizer has a thread that gopark cannot account for"
)]
fn a_goroutine_that_waits_for_its_own_lock_of_std_is_a_deadlock() {
    assert_deadlock(&["own"], &["\"main\" [std lock"]);
    assert_deadlock(&["own", "park", "2p"], &["\"main\" [std lock"]);
}

#[test]
#[cfg_attr(
    gopark_sanitize = "thread",
    ignore = "ThreadSanitizer has a thread that gopark cannot account for"
)]
fn a_join_with_the_lock_held_that_the_other_waits_for_is_a_deadlock() {
    let lines = ["\"main\" [join", "\"locks\" [std lock"];
    assert_deadlock(&["joins-with-its-lock"], &lines);
    assert_deadlock(&["joins-with-its-lock", "park"], &lines);
}

#[test]
fn goroutines_park_in_an_allocator_whose_lock_is_that_of_std() {
    let rounds = rounds(40).to_string();
    for (locks, procs) in [
        ("park", "1"),
        ("park", "2"),
        ("rescue", "1"),
        ("rescue", "2"),
    ] {
        let ended = run(Command::new(env!("CARGO_BIN_EXE_allocator"))
            .args([locks, procs, &rounds])
            .env_remove("GOPARK_MAXPROCS"));
        ended.assert_success();
        ended.assert_said("done, ");
    }
}
