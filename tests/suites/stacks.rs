//! What stacks ask of the system, and what a process with limits gets: programs of
//! `src/bin/stacks.rs`, each in a process of its own.

use gopark_tests::process::{Ended, run};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

fn stacks(program: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stacks"));
    command.arg(program).env_remove("GOPARK_MAXPROCS").env("RUST_BACKTRACE", "0");
    command
}

#[track_caller]
fn succeeds(program: &str) -> Ended {
    let ended = run(&mut stacks(program));
    ended.assert_success();
    ended
}

#[test]
fn a_core_dump_contains_the_stacks_that_were_used_and_no_reservation() {
    let dumped: u64 = succeeds("dumped").output.trim().parse().unwrap();
    assert!(dumped < 1 << 30, "{dumped} bytes");
}

/// Where the kernel writes core files into the working directory.
#[test]
fn a_core_file_is_small() {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if !pattern.starts_with("core") {
        return eprintln!("not tried: core dumps go to {pattern}");
    }
    let directory = std::env::temp_dir().join(format!("gopark-core-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let ended = run(stacks("crash").current_dir(&directory));
    let files: Vec<_> = fs::read_dir(&directory).unwrap().map(|file| file.unwrap().metadata().unwrap()).collect();
    fs::remove_dir_all(&directory).unwrap();
    ended.assert_killed_by(libc::SIGABRT);
    for file in files {
        assert!(file.size() < 1 << 30, "{} bytes, {} of them on disk", file.size(), file.blocks() * 512);
    }
}

#[test]
fn of_a_limited_address_space_most_is_left_to_the_program() {
    succeeds("limited-address-space");
}

#[test]
fn stacks_count_as_memory_when_they_are_opened_and_running_out_names_the_limit() {
    let ended = succeeds("limited-data");
    ended.assert_said("no stack for another goroutine: ");
    ended.assert_said("and memory for more was refused (errno 12; `ulimit -d` and vm.overcommit_memory=2 limit it)");
}

#[test]
fn memory_may_be_locked_before_the_start_and_after_it() {
    for program in ["locked-before", "locked-after"] {
        succeeds(program);
    }
}

#[test]
fn locked_memory_that_is_used_up_names_its_limit() {
    let ended = succeeds("little-locked");
    ended.assert_said("no address space for stacks: ");
    ended.assert_said("; after mlockall(MCL_FUTURE): raise `ulimit -l`)");
    ended.assert_said("small stacks are no trouble");
}
