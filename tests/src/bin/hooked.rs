//! Programs with hooks of `Builder`, for `suites/hooks.rs`.
#![allow(
    unsafe_code,
    reason = "`migrate` asks for goroutines that stand it, which these do"
)]

use gopark::{Builder, JoinHandle, go};
use gopark_tests::{turns, until_on_thread};
use std::env;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

fn main() {
    let program = env::args().nth(1).expect("the name of a program");
    match program.as_str() {
        "migrates" => migrates(),
        "switch-panics" => switch_panics(),
        "leak-panics" => leak_panics(),
        "unread" => unread(Builder::new()),
        "unread-without-reports" => unread(Builder::new().reports(false)),
        "unread-panic" => drop(finished(go(|| -> () { panic!("unread") }))),
        _ => panic!("there is no program {program}"),
    }
}

fn finished<T>(goroutine: JoinHandle<T>) -> JoinHandle<T> {
    until_on_thread("it ends", || goroutine.is_finished());
    goroutine
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

fn leak_panics() {
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    Builder::new()
        .on_leak(|_| {
            TOLD.fetch_add(1, SeqCst);
            panic!("the hook has enough");
        })
        .start()
        .unwrap();
    let fails = || Err::<(), _>("unread");
    // On an ordinary thread, in a goroutine, and at the end of the goroutine itself.
    drop(finished(go(fails)));
    go(move || drop(finished(go(fails)))).join().unwrap();
    drop(go(fails));
    until_on_thread("the last one is told", || TOLD.load(SeqCst) == 3);
    until_on_thread("it ends", || gopark::num_goroutines() == 0);
    println!("told {} times", TOLD.load(SeqCst));
}

fn unread(settings: Builder) {
    settings.start().unwrap();
    let importer = gopark::thread::Builder::new().name("importer".into());
    let reset = || Err::<(), _>(io::Error::other("connection reset"));
    drop(finished(importer.spawn(reset).unwrap()));
    drop(finished(go(|| Ok::<(), io::Error>(()))));
    drop(finished(go(|| Err::<u8, _>("of an unknown type"))));
    _ = go(|| Err::<(), _>("read")).join();
}
