//! What the sanitizers find in goroutines: without this suite, a run without reports would prove
//! nothing. Each program of `src/bin/alone.rs` that it runs contains a fault. `ci/sanitizers.sh`
//! runs the suite; in an ordinary build it is empty.
#![cfg(any(gopark_sanitize = "thread", gopark_sanitize = "address"))]

use gopark_tests::process::{Ended, run};
use std::process::Command;

/// Reports go to stderr, which is the default.
fn alone(program: &str, use_after_return: bool) -> Ended {
    let options = format!(
        "detect_stack_use_after_return={}",
        u8::from(use_after_return)
    );
    run(Command::new(env!("CARGO_BIN_EXE_alone"))
        .arg(program)
        .env_remove("TSAN_OPTIONS")
        .env("ASAN_OPTIONS", options))
}

fn assert_reported(program: &str, report: &str) {
    let ended = alone(program, program == "use-after-return");
    ended.assert_said(report);
    assert!(!ended.status.success());
}

#[cfg(gopark_sanitize = "thread")]
#[test]
fn a_race_of_goroutines_on_two_threads_is_reported() {
    assert_reported("relaxed-publish", "ThreadSanitizer: data race");
}

#[cfg(gopark_sanitize = "address")]
#[test]
fn the_use_of_freed_memory_in_a_goroutine_is_reported() {
    assert_reported("use-after-free", "AddressSanitizer: heap-use-after-free");
}

#[cfg(gopark_sanitize = "address")]
#[test]
fn an_overrun_on_the_stack_of_a_goroutine_is_reported() {
    assert_reported("overrun", "AddressSanitizer: stack-buffer-overflow");
}

#[cfg(gopark_sanitize = "address")]
#[test]
fn the_use_of_a_frame_that_a_goroutine_has_left_is_reported() {
    assert_reported(
        "use-after-return",
        "AddressSanitizer: stack-use-after-return",
    );
}

#[cfg(gopark_sanitize = "address")]
#[test]
fn what_goroutines_leak_is_reported() {
    assert_reported("leak", "LeakSanitizer: detected memory leaks");
}

#[cfg(gopark_sanitize = "address")]
#[test]
fn what_a_parked_goroutine_keeps_is_not_called_a_leak() {
    alone("keep", false).assert_success();
}
