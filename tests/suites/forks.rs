//! What a child process made by fork may do, and the refusals of what it may not: the programs of
//! `src/bin/forks.rs`.

use gopark_tests::process::{Ended, run};
use std::process::Command;

const FORKED: &str = gopark_core::sched::FORKED;

#[track_caller]
fn forks(place: &str, deed: &str) -> Ended {
    let ended = run(Command::new(env!("CARGO_BIN_EXE_forks")).args([place, deed]));
    ended.assert_success();
    ended
}

#[track_caller]
fn assert_refused(place: &str, deed: &str) {
    let ended = forks(place, deed);
    ended.assert_said("the child: exit status: 101\n");
    ended.assert_said(FORKED);
    ended.assert_said("the parent goes on\n");
}

#[track_caller]
fn assert_aborted(place: &str, deed: &str) {
    let ended = forks(place, deed);
    ended.assert_said("the child: signal: 6 (SIGABRT)");
    ended.assert_said(&format!(
        "gopark: a goroutine has parked, yielded or returned, but {FORKED}"
    ));
    ended.assert_said("the parent goes on\n");
}

#[track_caller]
fn assert_works(place: &str, deed: &str) {
    let ended = forks(place, deed);
    ended.assert_said("the child: exit status: 0\n");
    ended.assert_said("the parent goes on\n");
    assert!(!ended.output.contains("fork"), "{}", ended.output);
}

#[test]
fn what_needs_the_runtime_is_refused_in_the_child_of_a_thread() {
    for deed in [
        "go",
        "run",
        "yield",
        "sleep",
        "start",
        "read",
        "connect",
        "join",
        "close-under-a-reader",
        "recv",
        "select",
    ] {
        assert_refused("thread", deed);
    }
}

#[test]
fn what_needs_the_runtime_is_refused_in_the_child_of_a_goroutine() {
    for deed in [
        "go", "run", "yield", "sleep", "start", "read", "connect", "recv", "select",
    ] {
        assert_refused("goroutine", deed);
    }
}

#[test]
fn a_goroutine_that_parks_or_returns_in_a_child_ends_it() {
    for deed in ["join", "return"] {
        assert_aborted("goroutine", deed);
    }
}

#[test]
fn what_does_not_wait_works_in_a_child_and_leaves_the_parent_its_events() {
    for place in ["thread", "goroutine"] {
        for deed in ["write", "drop", "close", "exec", "channel"] {
            assert_works(place, deed);
        }
    }
}

#[test]
fn a_fork_before_the_start_gives_each_process_a_runtime() {
    forks("before-the-start", "").assert_said("the child: exit status: 0\n");
}

#[test]
fn commands_run_from_goroutines() {
    forks("command", "").assert_said("the parent goes on\n");
}
