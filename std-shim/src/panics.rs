//! The panic hook of the runtime. Its message names the goroutine; that of `std` would name a
//! thread of the runtime.
//!
//! `std` has one hook for the process and no way to ask whether the program has set it. `take_hook`
//! returns the current hook and leaves that of `std` behind. Two takes in a row therefore return
//! the same hook if, and only if, it is that of `std`. The runtime replaces only that one: it keeps
//! a hook that the program has set before, and a hook set later replaces the runtime's.

use crate::environment;
use crate::runtime::started;
use gopark_core::watch::Identity;
use std::any::Any;
use std::backtrace::Backtrace;
use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

thread_local! {
    /// On a thread of the pool of `blocking`: the goroutine whose work it runs.
    static CALLER: RefCell<Option<Identity>> = const { RefCell::new(None) };
}

type Hook = dyn Fn(&PanicHookInfo<'_>) + Sync + Send;

/// Installs the hook, unless the program has set its own.
pub(crate) fn install() {
    // A thread that panics must not change the hook. It can get here if a destructor is the
    // program's first use of this crate.
    if thread::panicking() {
        return;
    }
    let found = panic::take_hook();
    let standard = panic::take_hook();
    if is_same(&*found, &*standard) {
        panic::set_hook(Box::new(move |info| match panicking() {
            Some(panicking) => write_report(&panicking, info),
            None => standard(info),
        }));
    } else {
        panic::set_hook(latest(found, standard, panic::take_hook()));
    }
}

/// Returns the hook that the program set last, from three successive takes. The take after it
/// returned the hook of `std`, unless another thread set a hook between two takes.
fn latest(first: Box<Hook>, second: Box<Hook>, third: Box<Hook>) -> Box<Hook> {
    if is_same(&*second, &*third) {
        first
    } else if is_same(&*first, &*third) {
        second
    } else {
        third
    }
}

/// Returns whether both are the hook of `std`. That hook has no captures, so a box of it has no
/// address of its own and is recognized by its vtable.
#[allow(
    ambiguous_wide_pointer_comparisons,
    reason = "different vtables for the hook of std would only leave that hook in place"
)]
fn is_same(one: &Hook, other: &Hook) -> bool {
    std::ptr::eq(one, other)
}

/// The goroutine that panics.
struct Panicking {
    goroutine: Identity,
    /// Whether the panic is in work that the goroutine passed to `blocking`.
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

/// Returns the goroutine whose code the thread runs, if any.
fn panicking() -> Option<Panicking> {
    let here = started()?.identity().map(|goroutine| Panicking {
        goroutine,
        in_pool: false,
    });
    here.or_else(|| {
        blocking_caller().map(|goroutine| Panicking {
            goroutine,
            in_pool: true,
        })
    })
}

/// Returns the goroutine whose work the thread runs, on a thread of the pool of `blocking`. Such a
/// thread may call it in a signal handler.
pub(crate) fn blocking_caller() -> Option<Identity> {
    CALLER
        .try_with(|caller| caller.try_borrow().ok()?.clone())
        .ok()?
}

/// Runs `work` for `goroutine`, which passed it to the pool. While `work` runs on a thread of the
/// pool, [`blocking_caller`] returns that goroutine there.
///
/// The pool may also run `work` on the goroutine's own stack. The scheduler then knows the
/// goroutine, and `CALLER` must not be set: `work` may park, and other goroutines of the thread
/// would see it.
pub(crate) fn on_behalf_of<T>(goroutine: Option<Identity>, work: impl FnOnce() -> T) -> T {
    if started().is_none_or(|sched| sched.identity().is_some()) {
        return work();
    }
    CALLER.set(goroutine);
    let result = work();
    CALLER.set(None);
    result
}

/// Writes what the hook of `std` writes, with the goroutine in place of the thread. A single write
/// keeps lines of other threads from coming in between.
fn write_report(panicking: &Panicking, info: &PanicHookInfo<'_>) {
    let mut text = format!("{panicking} panicked");
    // Writing to a String does not fail.
    let _ = match info.location() {
        Some(place) => writeln!(text, " at {place}:\n{}", message(info.payload())),
        None => writeln!(text, ":\n{}", message(info.payload())),
    };
    text += &backtrace_or_note();
    // A closed stderr is not an error.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Returns the message in the payload of a panic.
pub(crate) fn message(payload: &dyn Any) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref().map(String::as_str))
        .unwrap_or("Box<dyn Any>")
}

/// Returns a backtrace if `RUST_BACKTRACE` asks for it. Otherwise returns the note how to get one,
/// on the first call only.
fn backtrace_or_note() -> Cow<'static, str> {
    static NOTE_WRITTEN: AtomicBool = AtomicBool::new(false);
    match environment::var("RUST_BACKTRACE") {
        Some(value) if value == "full" => format!(
            "stack backtrace:\n{}",
            resolved(|backtrace| format!("{backtrace:#}"))
        )
        .into(),
        Some(value) if value != "0" => {
            let text = resolved(Backtrace::to_string);
            let note = "note: Some details are omitted, \
                        run with `RUST_BACKTRACE=full` for a verbose backtrace.";
            format!("stack backtrace:\n{}{note}\n", short_backtrace(&text)).into()
        }
        _ if NOTE_WRITTEN.swap(true, Ordering::Relaxed) => "".into(),
        _ => {
            "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n".into()
        }
    }
}

/// Captures a backtrace and returns it as text. Reading debug information may take more stack than
/// a goroutine has, so a thread does it. If the system refuses one, the goroutine does it itself.
fn resolved(show: fn(&Backtrace) -> String) -> String {
    let backtrace = std::sync::Arc::new(Backtrace::force_capture());
    let shared = backtrace.clone();
    let reader = thread::Builder::new()
        .name("gopark-panic".into())
        .spawn(move || show(&shared));
    reader
        .ok()
        .and_then(|reader| reader.join().ok())
        .unwrap_or_else(|| show(&backtrace))
}

/// Returns the lines between the two marks that delimit `std`'s short backtraces: those of the
/// program, without those of the panic machinery and of the runtime.
fn short_backtrace(text: &str) -> String {
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
    fn a_short_backtrace_has_the_lines_between_the_marks() {
        let text = "   0: std::panicking::hook\n   1: x::__rust_end_short_backtrace\n\
                    \x20            at std.rs:1\n   2: panic_fmt\n   3: main\n\
                    \x20            at main.rs:2\n   4: gopark::__rust_begin_short_backtrace\n\
                    \x20            at g.rs:3\n   5: clone\n";
        assert_eq!(
            short_backtrace(text),
            "   2: panic_fmt\n   3: main\n             at main.rs:2\n"
        );
        assert_eq!(short_backtrace("   0: unmarked\n"), "   0: unmarked\n");
    }

    #[test]
    fn different_hooks_are_not_the_same() {
        let one: Box<Hook> = Box::new(|_| ());
        let other: Box<Hook> = Box::new(|_| panic!("never called"));
        assert!(is_same(&*one, &*one));
        assert!(!is_same(&*one, &*other));
    }

    #[test]
    fn a_hook_set_by_another_thread_between_two_takes_is_kept() {
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
