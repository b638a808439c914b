//! Programs with hooks of `Builder`, for `suites/hooks.rs`.
#![allow(
    unsafe_code,
    reason = "`migrate` asks for goroutines that stand it, which these do"
)]

use gopark::{Builder, go};
use gopark_tests::turns;
use std::env;

fn main() {
    let program = env::args().nth(1).expect("the name of a program");
    match program.as_str() {
        "migrates" => migrates(),
        "switch-panics" => switch_panics(),
        _ => panic!("there is no program {program}"),
    }
}

fn migrates() {
    let settings = Builder::new().max_procs(4).on_switch(turns::log);
    // SAFETY: these goroutines keep nothing that belongs to a thread across a park.
    unsafe { settings.migrate() }.start().unwrap();
    turns::run_a_mix();
    assert!(turns::check_pairs() > 400);
}

fn switch_panics() {
    let settings = Builder::new().on_switch(|_| panic!("the hook has enough"));
    settings.start().unwrap();
    _ = go(|| ()).join();
}
