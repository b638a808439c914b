//! Panics of goroutines: the message names the goroutine, where that of `std` names a thread of the runtime.
//!
//! `std` has one hook for a process, and no way to ask whether a program has set its own. But a hook that is taken leaves that of `std`
//! behind, so the second of two takes tells what it is. Only that one is replaced, so a program's own hook stays, and one that is set
//! later takes the place of this one.

use crate::environment;
use crate::runtime::started;
use gopark_core::sched::Identity;
use std::backtrace::Backtrace;
use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

thread_local! {
    /// On a thread of `blocking`'s pool: the goroutine that it works for.
    static EMPLOYER: RefCell<Option<Identity>> = const { RefCell::new(None) };
}

type Hook = dyn Fn(&PanicHookInfo<'_>) + Sync + Send;

/// Has panics name their goroutines, unless the program has a hook of its own.
pub(crate) fn install() {
    // A thread that panics may not touch the hook. That is one whose destructor is the program's first use of this crate.
    if thread::panicking() {
        return;
    }
    let found = panic::take_hook();
    let standard = panic::take_hook();
    if is_same(&*found, &*standard) {
        panic::set_hook(Box::new(move |info| match panicking() {
            Some(who) => tell(&who, info),
            None => standard(info),
        }));
    } else {
        panic::set_hook(latest(found, standard, panic::take_hook()));
    }
}

/// Of three hooks that were taken one after another, the last one that the program set: what is behind it is that of `std`. Another
/// thread may have set one between two takes.
fn latest(first: Box<Hook>, second: Box<Hook>, third: Box<Hook>) -> Box<Hook> {
    if is_same(&*second, &*third) {
        first
    } else if is_same(&*first, &*third) {
        second
    } else {
        third
    }
}

/// Neither has captures, so the one place in `std` that makes the box of its hook is told by the table of functions.
#[allow(
    ambiguous_wide_pointer_comparisons,
    reason = "tables that differ for one hook only leave that hook in place"
)]
fn is_same(one: &Hook, other: &Hook) -> bool {
    std::ptr::eq(one, other)
}

/// Who panics.
struct Panicking {
    goroutine: Identity,
    /// The work that it gave to `blocking` panics.
    in_pool: bool,
}

impl fmt::Display for Panicking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.goroutine)?;
        if self.in_pool {
            f.write_str(", in gopark::blocking,")
        } else {
            Ok(())
        }
    }
}

fn panicking() -> Option<Panicking> {
    let here = started()?.identity().map(|goroutine| Panicking {
        goroutine,
        in_pool: false,
    });
    here.or_else(|| {
        employer().map(|goroutine| Panicking {
            goroutine,
            in_pool: true,
        })
    })
}

/// On a thread of `blocking`'s pool: the goroutine that it works for. Such a thread may ask in a
/// signal handler.
pub(crate) fn employer() -> Option<Identity> {
    EMPLOYER
        .try_with(|employer| employer.try_borrow().ok()?.clone())
        .ok()?
}

/// Runs `work`, which a goroutine gave to the pool. On that goroutine's own stack there is nothing to note, and `work` may park.
pub(crate) fn on_behalf_of<T>(goroutine: Option<Identity>, work: impl FnOnce() -> T) -> T {
    if started().is_none_or(|sched| sched.identity().is_some()) {
        return work();
    }
    EMPLOYER.set(goroutine);
    let result = work();
    EMPLOYER.set(None);
    result
}

/// What the hook of `std` writes, in the same order and on the same conditions, with the goroutine in place of the thread. At once, so that
/// other threads' lines do not come in between.
fn tell(who: &Panicking, info: &PanicHookInfo<'_>) {
    let mut text = format!("{who} panicked");
    // Writing to a String does not fail.
    let _ = match info.location() {
        Some(place) => writeln!(text, " at {place}:\n{}", message(info)),
        None => writeln!(text, ":\n{}", message(info)),
    };
    text += &calls();
    // A closed stderr is no reason to end.
    let _ = io::stderr().write_all(text.as_bytes());
}

fn message<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = info.payload();
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref().map(String::as_str))
        .unwrap_or("Box<dyn Any>")
}

/// The calls that led here, if `RUST_BACKTRACE` asks for them, or the first time how to ask.
fn calls() -> Cow<'static, str> {
    static SAID: AtomicBool = AtomicBool::new(false);
    match environment::var("RUST_BACKTRACE") {
        Some(value) if value == "full" => format!(
            "stack backtrace:\n{}",
            resolved(|backtrace| format!("{backtrace:#}"))
        )
        .into(),
        Some(value) if value != "0" => {
            let text = resolved(Backtrace::to_string);
            let note = "note: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace.";
            format!("stack backtrace:\n{}{note}\n", of_the_program(&text)).into()
        }
        _ if SAID.swap(true, Ordering::Relaxed) => "".into(),
        _ => {
            "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n".into()
        }
    }
}

/// The calls until here as text. Reading debug information takes more stack than a goroutine may have, so another thread does it, unless there
/// is none to be had.
fn resolved(show: fn(&Backtrace) -> String) -> String {
    let backtrace = std::sync::Arc::new(Backtrace::force_capture());
    let theirs = backtrace.clone();
    let reader = thread::Builder::new()
        .name("gopark-panic".into())
        .spawn(move || show(&theirs));
    reader
        .ok()
        .and_then(|reader| reader.join().ok())
        .unwrap_or_else(|| show(&backtrace))
}

/// The lines between the marks that `std`'s own short backtraces go by: without those of the panic and of the runtime.
fn of_the_program(text: &str) -> String {
    let has = |mark: &'static str| move |line: &&str| line.contains(mark);
    let lines: Vec<&str> = text.lines().collect();
    let start = lines
        .iter()
        .position(|line| has("__rust_end_short_backtrace")(line))
        .map_or(0, |at| at + 1);
    let lines = lines[start..]
        .iter()
        .skip_while(|line| line.trim_start().starts_with("at "));
    lines
        .take_while(|line| !has("__rust_begin_short_backtrace")(line))
        .flat_map(|line| [line, "\n"])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_backtrace_is_that_of_the_program() {
        let text = "   0: std::panicking::hook\n   1: x::__rust_end_short_backtrace\n             at std.rs:1\n   2: panic_fmt\n   3: main\n\
                    \x20            at main.rs:2\n   4: gopark::__rust_begin_short_backtrace\n             at g.rs:3\n   5: clone\n";
        assert_eq!(
            of_the_program(text),
            "   2: panic_fmt\n   3: main\n             at main.rs:2\n"
        );
        assert_eq!(of_the_program("   0: unmarked\n"), "   0: unmarked\n");
    }

    #[test]
    fn the_hook_of_std_is_told_from_others() {
        let one: Box<Hook> = Box::new(|_| ());
        let other: Box<Hook> = Box::new(|_| panic!("never called"));
        assert!(is_same(&*one, &*one));
        assert!(!is_same(&*one, &*other));
    }

    #[test]
    fn a_hook_that_another_thread_sets_between_two_takes_is_not_lost() {
        fn standard() -> Box<Hook> {
            Box::new(|_| ())
        }
        fn set() -> Box<Hook> {
            Box::new(|_| panic!("never called"))
        }
        fn other() -> Box<Hook> {
            Box::new(|_| panic!("nor is this one"))
        }
        assert!(is_same(&*latest(set(), standard(), standard()), &*set()));
        assert!(is_same(&*latest(standard(), set(), standard()), &*set()));
        assert!(is_same(&*latest(set(), standard(), other()), &*other()));
    }
}
