//! Channels in a process of their own: the programs of `src/bin/channels.rs`.

use gopark_tests::process::run;
use std::process::Command;

#[track_caller]
fn assert_works(program: &str) {
    run(Command::new(env!("CARGO_BIN_EXE_channels"))
        .arg(program)
        .env_remove("GOPARK_MAXPROCS")
        .env("RUST_BACKTRACE", "0"))
    .assert_success();
}

#[test]
fn channels_work_without_a_runtime_until_an_operation_waits() {
    assert_works("before-start");
}

#[test]
fn a_channel_in_a_static_joins_goroutines_and_threads() {
    assert_works("static");
}

#[test]
fn the_memory_of_a_burst_is_given_back() {
    assert_works("burst");
}

#[test]
fn a_channel_in_steady_use_allocates_nothing() {
    assert_works("steady");
}

#[test]
fn waits_allocate_nothing() {
    assert_works("waits");
}
