//! The output when goroutines panic: the programs of `src/bin/panics.rs`.

use gopark_tests::process::{Ended, run};
use std::process::Command;

fn panics(program: &str, backtrace: Option<&str>) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_panics"));
    command
        .arg(program)
        .env_remove("RUST_BACKTRACE")
        .env_remove("RUST_LIB_BACKTRACE");
    run(match backtrace {
        Some(value) => command.env("RUST_BACKTRACE", value),
        None => &mut command,
    })
}

/// The output of `program`, without line numbers, which change with the source.
#[track_caller]
fn said(program: &str) -> String {
    let ended = panics(program, None);
    ended.assert_success();
    let mut output = String::new();
    let mut rest = ended.output.as_str();
    while let Some(at) = rest.find("panics.rs:") {
        let end = at + "panics.rs".len();
        output += &rest[..end];
        rest = rest[end..].trim_start_matches(|c: char| c == ':' || c.is_ascii_digit());
    }
    output + rest
}

const NOTE: &str = "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace";

#[test]
fn a_panic_names_goroutine_and_spawn_site_in_the_form_of_std() {
    let ended = panics("named", None);
    ended.assert_success();
    let (id, _) = ended
        .output
        .strip_prefix("goroutine ")
        .unwrap()
        .split_once(".\n")
        .unwrap();
    ended.assert_said(&format!(
        "goroutine {id} \"importer\" (spawned at tests/src/bin/panics.rs:"
    ));
    let expected = format!(
        "goroutine {id}.\n\
         goroutine {id} \"importer\" (spawned at tests/src/bin/panics.rs) panicked \
         at tests/src/bin/panics.rs\n\
         there is no column 3\n{NOTE}\n"
    );
    assert_eq!(said("named"), expected);
}

#[test]
fn the_hint_about_backtraces_is_printed_once() {
    let output = said("twice");
    assert!(
        output.contains("round 0") && output.contains("round 1"),
        "{output}"
    );
    assert_eq!(output.matches(NOTE).count(), 1, "{output}");
}

#[test]
fn a_short_backtrace_shows_the_calls_of_the_program() {
    let ended = panics("named", Some("1"));
    ended.assert_success();
    ended.assert_said("stack backtrace:\n");
    ended.assert_said("panics::culprit\n");
    ended.assert_said(
        "note: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace.",
    );
    for noise in [
        "short_backtrace",
        "corosensei",
        "gopark_core",
        "rust_panic_with_hook",
        NOTE,
    ] {
        assert!(!ended.output.contains(noise), "{noise}: {}", ended.output);
    }
    let full = panics("named", Some("full"));
    // Some compilers show the hash of the crate between its name and the rest of the path.
    full.assert_said("::culprit");
    full.assert_said("gopark_core");
    assert!(
        !panics("named", Some("0"))
            .output
            .contains("stack backtrace")
    );
}

#[test]
fn a_backtrace_needs_no_more_stack_than_the_panic() {
    let ended = panics("small-stack", Some("1"));
    ended.assert_success();
    ended.assert_said("panics::culprit\n");
}

#[test]
fn a_panic_on_a_thread_of_the_pool_names_the_calling_goroutine() {
    let output = said("pool");
    let name = "\"reader\" (spawned at tests/src/bin/panics.rs), in gopark::blocking, panicked \
                at tests/src/bin/panics.rs\nthere is no column 5\n";
    assert!(output.contains(name), "{output}");
    let (_, second) = output.split_once("there is no column 5\n").unwrap();
    assert!(
        second.contains("of another") && !second.contains("reader"),
        "{output}"
    );
}

#[test]
fn a_panic_of_work_that_was_left_behind_is_reported_and_the_process_goes_on() {
    let output = said("left-behind");
    let report = "\"reader\" (spawned at tests/src/bin/panics.rs), in gopark::blocking, panicked \
                  at tests/src/bin/panics.rs\nthere is no column 11\n";
    assert!(output.contains(report), "{output}");
    assert!(output.contains("the process goes on"), "{output}");
}

#[test]
fn ordinary_threads_panic_as_without_gopark() {
    let output = said("thread");
    assert!(
        output.contains("thread 'an ordinary thread'") && !output.contains("goroutine"),
        "{output}"
    );
}

#[test]
fn a_panic_hook_of_the_program_is_kept_whenever_it_was_set() {
    for program in ["own-hook", "later-hook"] {
        let output = said(program);
        assert!(
            output.starts_with("my own hook: panicked at") && !output.contains("spawned"),
            "{output}"
        );
    }
}

#[test]
fn a_panic_while_panicking_aborts_and_both_are_reported() {
    let ended = panics("while-panicking", None);
    ended.assert_killed_by(libc::SIGABRT);
    ended.assert_said("there is no column 8");
    ended.assert_said("there is no column 9");
    // The third message is std's: a destructor must not unwind.
    assert_eq!(
        ended.output.matches("(spawned at ").count(),
        3,
        "{}",
        ended.output
    );
}

#[test]
fn a_runtime_that_starts_during_a_panic_keeps_the_hook() {
    let output = said("started-by-a-panic");
    assert!(
        output.contains("in a goroutine") && output.contains("there is no column 10"),
        "{output}"
    );
}
