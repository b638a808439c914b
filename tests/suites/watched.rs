//! The reports about programs that go wrong: the programs of `src/bin/watched.rs`.

use gopark_tests::process::{Ended, run};
use std::process::Command;

fn watched(program: &str) -> Ended {
    run(Command::new(env!("CARGO_BIN_EXE_watched"))
        .arg(program)
        .env_remove("GOPARK_MAXPROCS")
        .env("RUST_BACKTRACE", "0"))
}

#[test]
#[cfg_attr(
    gopark_sanitize = "thread",
    ignore = "ThreadSanitizer's own thread could wake a goroutine, as far as gopark knows"
)]
fn a_deadlock_of_all_goroutines_is_reported_and_ends_the_process() {
    let ended = watched("deadlock");
    assert_eq!(ended.status.code(), Some(2), "{}", ended.output);
    ended.assert_said("fatal error: all goroutines are asleep - deadlock!\n\ngopark: ");
    ended.assert_said("\"main\" [join");
    ended.assert_said("\"other\" [semacquire");
    ended.assert_said("created at tests/src/bin/watched.rs:");
}

#[test]
#[cfg_attr(
    gopark_sanitize = "thread",
    ignore = "ThreadSanitizer's own thread could wake a goroutine, as far as gopark knows"
)]
fn an_ordinary_thread_that_waits_in_vain_is_a_deadlock() {
    let ended = watched("deadlock-of-a-thread");
    assert_eq!(ended.status.code(), Some(2), "{}", ended.output);
    ended.assert_said("all goroutines are asleep - deadlock!");
}

#[test]
#[cfg_attr(
    gopark_sanitize = "thread",
    ignore = "ThreadSanitizer's own thread could wake a goroutine, as far as gopark knows"
)]
fn a_deadlock_of_a_thread_is_found_after_the_runtime_was_idle() {
    let ended = watched("deadlock-of-a-thread-later");
    assert_eq!(ended.status.code(), Some(2), "{}", ended.output);
    ended.assert_said("all goroutines are asleep - deadlock!");
}

#[test]
fn a_thread_that_could_still_wake_a_goroutine_prevents_the_report_of_a_deadlock() {
    let ended = watched("rescue");
    ended.assert_success();
    ended.assert_said("rescued");
}

#[test]
#[cfg_attr(
    gopark_sanitize = "thread",
    ignore = "ThreadSanitizer's own thread could wake a goroutine, as far as gopark knows"
)]
fn a_deadlock_is_found_when_the_last_thread_that_could_help_has_ended() {
    let ended = watched("abandoned");
    assert_eq!(ended.status.code(), Some(2), "{}", ended.output);
    ended.assert_said("all goroutines are asleep - deadlock!");
}

#[test]
fn timers_connections_and_work_elsewhere_are_no_deadlock() {
    let ended = watched("asleep");
    ended.assert_success();
    ended.assert_said("awake");
}

/// The program sets an alarm, which is all that ends it.
#[test]
fn a_sleep_to_the_end_of_time_is_no_deadlock() {
    watched("asleep-for-ever").assert_killed_by(libc::SIGALRM);
}

#[test]
fn a_stall_report_names_the_goroutine_its_spawn_site_its_system_call_and_the_waiters() {
    let ended = watched("stall");
    ended.assert_success();
    let lines: Vec<_> = ended
        .output
        .lines()
        .filter(|line| line.starts_with("gopark: goroutine "))
        .collect();
    assert_eq!(lines.len(), 2, "{}", ended.output);
    let says = |line: &str, words: &[&str]| {
        words
            .iter()
            .for_each(|word| assert!(line.contains(word), "it does not say {word:?}: {line}"))
    };
    says(
        lines[0],
        &[
            "\"sleeper\", spawned at tests/src/bin/watched.rs:",
            "keeps its thread for ",
            " ms in system call clock_nanosleep; 3 goroutines wait for it",
        ],
    );
    says(
        lines[1],
        &[
            "\"worker\", spawned at tests/src/bin/watched.rs:",
            "keeps its thread for ",
            " ms computing",
        ],
    );
}

#[test]
fn a_stall_goes_to_the_programs_own_callback_once() {
    let ended = watched("stall-callback");
    ended.assert_success();
    ended.assert_said("told once: true");
    assert!(!ended.output.contains("gopark:"), "{}", ended.output);
}

#[test]
fn goroutines_that_keep_all_threads_are_reported_with_the_limit_and_the_remedy() {
    let ended = watched("no-more-threads");
    ended.assert_success();
    ended.assert_said(
        "gopark: all 2 threads are kept busy, and no more are allowed (Builder::max_threads)",
    );
    ended.assert_said("gopark::blocking");
    ended.assert_said("done");
}

#[test]
fn a_pool_that_is_used_up_is_reported_once_with_the_limit_and_the_remedy() {
    let ended = watched("pool-used-up");
    ended.assert_success();
    ended.assert_said(
        "gopark: gopark::blocking has 2 threads, all busy for a second, and no more are allowed \
         (Builder::max_threads): 3 calls wait for one",
    );
    assert_eq!(
        ended.output.matches("gopark::blocking has").count(),
        1,
        "{}",
        ended.output
    );
    ended.assert_said("done");
}

#[test]
fn leaked_goroutines_are_in_a_dump_with_their_spawn_sites() {
    let ended = watched("leaked");
    ended.assert_success();
    ended.assert_said(" KiB touched\n");
    let leaked = ended
        .output
        .split("\n\n")
        .filter(|entry| entry.contains("[semacquire"));
    let from_here = leaked.filter(|entry| entry.contains("created at tests/src/bin/watched.rs:"));
    assert_eq!(from_here.count(), 3, "{}", ended.output);
}

#[test]
fn a_signal_produces_a_dump_while_every_thread_is_busy() {
    let ended = watched("stuck");
    ended.assert_success();
    assert_eq!(
        ended.output.matches("\"busy\" [running, thread ").count(),
        2,
        "{}",
        ended.output
    );
    ended.assert_said("[runnable, not started]");
}

#[test]
fn a_dump_of_many_goroutines_names_every_wait_reason_and_disturbs_none() {
    let count = if cfg!(any(gopark_sanitize = "thread", gopark_sanitize = "address")) {
        "500"
    } else {
        "5000"
    };
    let ended = run(Command::new(env!("CARGO_BIN_EXE_watched"))
        .args(["crowd", count])
        .env("RUST_BACKTRACE", "0"));
    ended.assert_success();
    ended.assert_said("all have ended");
}

#[test]
#[cfg_attr(
    any(gopark_sanitize = "thread", gopark_sanitize = "address"),
    ignore = "sanitizers make frames larger, and keep memory for each page of a stack, which counts"
)]
fn stacks_give_back_what_was_touched_once_and_keep_what_is_used() {
    watched("shrinks").assert_success();
}

#[test]
fn stacks_that_shrink_all_the_time_lose_nothing() {
    let program = || Command::new(env!("CARGO_BIN_EXE_watched"));
    run(program().arg("shrinks-at-all-times")).assert_success();
    run(program().args(["shrinks-at-all-times", "migrate"])).assert_success();
}
