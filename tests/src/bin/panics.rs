//! Programs in which goroutines panic, for `suites/panics.rs`, which reads their output.

use gopark::sync::Cancel;
use gopark::{Builder, Cancelled, go};
use std::hint::black_box;
use std::sync::mpsc;
use std::{env, panic, thread};

fn main() {
    let program = env::args().nth(1).expect("the name of a program");
    match program.as_str() {
        "named" => named(),
        "twice" => {
            (0..2).for_each(|round| _ = go(move || panic!("round {round}")).join().unwrap_err())
        }
        "small-stack" => small_stack(),
        "pool" => pool(),
        "left-behind" => left_behind(),
        "thread" => thread(),
        "own-hook" => own_hook(),
        "later-hook" => later_hook(),
        "while-panicking" => while_panicking(),
        "started-by-a-panic" => started_by_a_panic(),
        _ => panic!("there is no program {program}"),
    }
}

#[inline(never)]
fn culprit(what: u32) {
    panic!("there is no column {}", black_box(what));
}

fn named() {
    gopark::run(|| {
        let importer = go(|| {
            gopark::set_name("importer");
            culprit(3);
        });
        println!("goroutine {}.", importer.id());
        importer.join().unwrap_err();
    });
}

fn small_stack() {
    Builder::new().stack_size(64 * 1024).start().unwrap();
    go(|| culprit(4)).join().unwrap_err();
}

fn pool() {
    gopark::run(|| {
        gopark::set_name("reader");
        let failed = panic::catch_unwind(|| gopark::blocking(|| culprit(5)));
        failed.unwrap_err();
    });
    gopark::run(|| panic::catch_unwind(|| gopark::blocking(|| panic!("of another"))).unwrap_err());
}

fn left_behind() {
    let (begins, begun) = mpsc::channel();
    let (cancelled, is_cancelled) = mpsc::channel::<()>();
    let (ends, ended) = mpsc::channel::<()>();
    let cancel = Cancel::new();
    let theirs = cancel.clone();
    let reader = go(move || {
        gopark::set_name("reader");
        let work = move || {
            begins.send(()).unwrap();
            is_cancelled.recv().unwrap();
            // The unwinding drops it.
            let _ends = ends;
            culprit(11);
        };
        theirs.run(|| gopark::try_blocking(work))
    });
    begun.recv().unwrap();
    cancel.cancel();
    assert_eq!(reader.join().unwrap(), Err(Cancelled));
    cancelled.send(()).unwrap();
    ended.recv().unwrap_err();
    println!("the process goes on");
}

fn thread() {
    gopark::run(|| ());
    let thread = thread::Builder::new()
        .name("an ordinary thread".into())
        .spawn(|| culprit(6))
        .unwrap();
    thread.join().unwrap_err();
}

fn own_hook() {
    panic::set_hook(Box::new(|info| eprintln!("my own hook: {info}")));
    go(|| culprit(7)).join().unwrap_err();
}

fn later_hook() {
    gopark::run(|| ());
    own_hook();
}

fn while_panicking() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            culprit(9);
        }
    }
    go(|| {
        let _bomb = Bomb;
        culprit(8);
    })
    .join()
    .unwrap_err();
}

/// The first use of gopark is in a destructor that runs during a panic.
fn started_by_a_panic() {
    struct Late;
    impl Drop for Late {
        fn drop(&mut self) {
            go(|| panic!("in a goroutine")).join().unwrap_err();
        }
    }
    let late = panic::catch_unwind(|| {
        let _late = Late;
        culprit(10);
    });
    late.unwrap_err();
}
