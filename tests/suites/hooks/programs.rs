//! What processes with hooks print, and how they end: the programs of `src/bin/hooked.rs`.

use gopark_tests::process::{Ended, run};
use std::fs;
use std::path::Path;
use std::process::Command;

fn hooked(program: &str) -> Ended {
    run(Command::new(env!("CARGO_BIN_EXE_hooked"))
        .arg(program)
        .env_remove("GOPARK_REPORTS")
        .env("RUST_BACKTRACE", "0"))
}

#[test]
fn in_and_out_alternate_for_goroutines_that_migrate() {
    hooked("migrates").assert_success();
}

#[test]
fn a_timeline_and_a_hook_for_switches_work_together() {
    let name = format!("hooked-{}.json", std::process::id());
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_hooked"));
    run(command.arg("migrates").env("GOPARK_TRACE", &file)).assert_success();
    let timeline = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    assert!(timeline.contains("\"yielded\""), "{timeline}");
}

#[test]
fn a_panic_in_the_hook_for_switches_aborts_and_says_so() {
    let ended = hooked("switch-panics");
    ended.assert_killed_by(libc::SIGABRT);
    ended.assert_said("the hook has enough");
    ended.assert_said("gopark: the hook of Builder::on_switch has panicked");
}

#[test]
fn a_panic_in_the_hook_for_leaks_is_printed_and_goes_no_further() {
    let ended = hooked("leak-panics");
    ended.assert_success();
    ended.assert_said("the hook has enough");
    ended.assert_said("gopark: the report of goroutine ");
    ended.assert_said("told 3 times");
}

/// Without a hook.
#[test]
fn debug_builds_print_errors_that_nothing_has_read() {
    let ended = hooked("unread");
    ended.assert_success();
    let lines: Vec<_> = ended.output.lines().collect();
    if !cfg!(debug_assertions) {
        assert!(lines.is_empty(), "{}", ended.output);
        return;
    }
    assert_eq!(lines.len(), 1, "{}", ended.output);
    let start = "goroutine 1 \"importer\" (spawned at tests/src/bin/hooked.rs:";
    let end = ") returned an error that nothing has read: connection reset";
    assert!(
        lines[0].starts_with(start) && lines[0].ends_with(end),
        "{}",
        ended.output
    );
}

#[test]
fn a_panic_that_nothing_has_read_is_printed_once() {
    let ended = hooked("unread-panic");
    ended.assert_success();
    assert_eq!(
        ended.output.matches("goroutine").count(),
        1,
        "{}",
        ended.output
    );
}

#[test]
fn reports_that_are_off_include_errors_that_nothing_has_read() {
    let ended = hooked("unread-without-reports");
    ended.assert_success();
    assert_eq!(ended.output, "");
}
