//! Mistakes that hang a program, and the reports that gopark prints without being asked: the
//! programs of `src/bin/hangs.rs`.

use gopark_tests::process::{Ended, run};
use std::process::Command;

fn hangs(program: &str) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hangs"));
    run(command
        .arg(program)
        .env_remove("GOPARK_MAXPROCS")
        .env_remove("GOPARK_REPORTS")
        .env("RUST_BACKTRACE", "0"))
}

const STD_LOCK: &str = "for a lock of std, which parks with Builder::std_locks(StdLocks::Rescue)";
const THREAD_PARK: &str = "in std::thread::park, as the channels of std::sync::mpsc";

/// Fails unless the program reports that `waiting` goroutines wait for the goroutine `name`, which
/// is blocked in a futex, and names the remedy.
#[track_caller]
fn assert_told(program: &str, name: &str, waiting: &str, remedy: &str) -> Ended {
    let ended = hangs(program);
    ended.assert_success();
    ended.assert_said("gopark: goroutine ");
    ended.assert_said(&format!("{name}, spawned at tests/src/bin/hangs.rs:"));
    ended.assert_said(&format!(
        " ms in system call futex; {waiting} for it\n    it waits "
    ));
    ended.assert_said(remedy);
    ended
}

#[test]
fn a_mutex_held_over_writes_that_yield_is_reported() {
    assert_told("mutex", " \"logger\"", "1 goroutine waits", STD_LOCK);
}

#[test]
fn a_std_channel_between_goroutines_of_one_thread_is_reported() {
    assert_told("channel", " \"writer\"", "1 goroutine waits", THREAD_PARK);
}

#[test]
fn a_mutex_held_over_the_join_of_a_goroutine_that_locks_it_is_reported() {
    assert_told("join", " \"locks\"", "1 goroutine waits", STD_LOCK);
}

#[test]
fn a_condvar_between_goroutines_of_one_thread_is_reported() {
    assert_told("condvar", "", "1 goroutine waits", STD_LOCK);
}

#[test]
fn a_once_lock_whose_initialiser_parks_is_reported() {
    assert_told("once-lock", "", "1 goroutine waits", STD_LOCK);
}

#[test]
fn a_lazy_lock_whose_initialiser_parks_is_reported() {
    assert_told("lazy-lock", "", "1 goroutine waits", STD_LOCK);
}

#[test]
fn a_main_goroutine_that_waits_for_one_that_has_not_started_is_reported() {
    assert_told("main-blocks", " \"main\"", "1 goroutine waits", THREAD_PARK);
}

#[test]
fn a_goroutine_that_keeps_the_main_goroutine_waiting_is_reported() {
    assert_told(
        "main-waits",
        " \"blocked\"",
        "1 goroutine waits",
        THREAD_PARK,
    );
}

#[test]
fn a_waiting_goroutine_that_becomes_runnable_late_is_reported_later() {
    assert_told("late-neighbour", "", "1 goroutine waits", THREAD_PARK);
}

#[test]
fn a_hang_is_reported_even_if_all_threads_are_blocked() {
    let ended = hangs("every-thread");
    ended.assert_success();
    ended.assert_said("\"waits\", spawned at");
}

#[test]
fn a_hang_is_reported_even_at_the_limit_of_threads() {
    assert_told("no-spare-thread", "", "1 goroutine waits", STD_LOCK);
}

#[test]
fn a_spawn_site_is_reported_once() {
    let ended = hangs("twice");
    ended.assert_success();
    ended.assert_said("done");
    assert_eq!(
        ended.output.matches("keeps its thread").count(),
        2,
        "{}",
        ended.output
    );
    ended.assert_said(
        "in system call clock_nanosleep; 1 goroutine waits for it\n    call gopark::sleep\n",
    );
}

#[test]
fn a_goroutine_that_computes_or_delays_no_other_is_not_reported() {
    let ended = hangs("others-go-on");
    ended.assert_success();
    assert_eq!(ended.output, "done\n");
}

#[test]
fn what_the_documentation_allows_between_goroutines_of_one_thread_works() {
    let ended = hangs("works");
    ended.assert_success();
    assert_eq!(ended.output, "done\n");
}

#[test]
fn a_dump_names_the_goroutine_that_blocks_the_thread_of_a_waiting_one() {
    let ended = hangs("dump");
    ended.assert_success();
    let (_, kept) = ended
        .output
        .split_once("\"neighbour\" [runnable, ")
        .expect(&ended.output);
    let (kept, _) = kept.split_once(']').unwrap();
    let (_, by) = kept
        .split_once(", its thread is kept by goroutine ")
        .expect(kept);
    assert!(by.ends_with(" \"logger\" in futex"), "{kept}");
}

#[test]
fn a_full_stderr_does_not_prevent_hand_offs() {
    let ended = hangs("full-stderr");
    ended.assert_success();
    assert_eq!(ended.output, "done\n");
}

#[test]
#[cfg_attr(
    gopark_sanitize = "thread",
    ignore = "ThreadSanitizer has a thread that gopark cannot account for"
)]
fn a_deadlock_ends_the_process_even_if_stderr_is_full() {
    assert_eq!(hangs("deadlock-with-full-stderr").status.code(), Some(2));
}

/// Fails unless the program ends with a report of a deadlock that says all of `lines`.
#[track_caller]
fn assert_deadlock(program: &str, lines: &[&str]) {
    let ended = hangs(program);
    assert_eq!(ended.status.code(), Some(2), "{}", ended.output);
    ended.assert_said("fatal error: all goroutines are asleep - deadlock!");
    lines.iter().for_each(|line| ended.assert_said(line));
}

#[test]
#[cfg_attr(
    gopark_sanitize = "thread",
    ignore = "ThreadSanitizer has a thread that gopark cannot account for"
)]
fn a_deadlock_over_channels_says_which_goroutine_receives_and_which_sends() {
    assert_deadlock(
        "deadlock-over-two-channels",
        &[
            "\"first\" [chan receive",
            "\"second\" [chan send",
            "\"main\" [join",
        ],
    );
}

#[test]
#[cfg_attr(
    gopark_sanitize = "thread",
    ignore = "ThreadSanitizer has a thread that gopark cannot account for"
)]
fn a_deadlock_in_a_select_is_reported() {
    assert_deadlock("deadlock-in-select", &["\"selects\" [select"]);
    assert_deadlock(
        "deadlock-of-a-thread-in-select",
        &[", 1 thread waits in gopark"],
    );
}

#[test]
#[cfg_attr(
    gopark_sanitize = "thread",
    ignore = "ThreadSanitizer has a thread that gopark cannot account for"
)]
fn a_loop_over_a_channel_whose_sender_it_holds_is_a_deadlock() {
    assert_deadlock("deadlock-with-own-sender", &["\"main\" [chan receive"]);
}

#[test]
fn a_process_in_which_only_idle_connections_wait_for_others_is_not_dead() {
    let ended = hangs("idle-connection");
    ended.assert_success();
    assert_eq!(ended.output, "done\n");
}
