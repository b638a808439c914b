//! Results of goroutines that nothing reads. A panic or an error among them is counted and passed
//! to the program's hook.
//!
//! The result of a goroutine that has a handle is a [`Finished`]. A value that cannot be an error
//! is in it as it is. A suspect is boxed with the identity of its goroutine, which the drop of a
//! handle could not ask for any more, and reports itself if it is dropped before it was read.

use crate::panics;
use crate::report;
use crate::runtime::started;
use gopark_core::metrics::Metrics;
use gopark_core::watch::Identity;
use std::any::{self, Any};
use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe, Location};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

/// The hook of [`Builder::on_leak`](crate::Builder::on_leak).
pub(crate) type OnLeak = Arc<dyn Fn(&Leak<'_>) + Send + Sync>;

static ON_LEAK: OnceLock<OnLeak> = OnceLock::new();

static UNSEEN_PANICS: AtomicU64 = AtomicU64::new(0);
static UNSEEN_ERRORS: AtomicU64 = AtomicU64::new(0);

/// Installs the hook. Called once, before the first goroutine runs.
pub(crate) fn install(on_leak: OnLeak) {
    _ = ON_LEAK.set(on_leak);
}

/// Fills in the figures of this module.
pub(crate) fn count(metrics: &mut Metrics) {
    metrics.unseen_panics = UNSEEN_PANICS.load(Ordering::Relaxed);
    metrics.unseen_errors = UNSEEN_ERRORS.load(Ordering::Relaxed);
}

/// The result of a goroutine that nothing has read.
///
/// [`Builder::on_leak`](crate::Builder::on_leak) receives it, and has an example. Its `Display` is
/// one line:
///
/// ```text
/// goroutine 7 (spawned at src/main.rs:20:5) returned an error that nothing has read: not found
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Leak<'a> {
    goroutine: &'a Identity,
    result: Leaked<'a>,
}

/// What a goroutine has ended with: see [`Leak::result`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Leaked<'a> {
    /// A panic, with its payload.
    Panic(&'a dyn Any),
    /// A return of this value, a `Result`.
    Value(&'a dyn Any),
}

impl<'a> Leak<'a> {
    /// Returns the goroutine's number, that of [`JoinHandle::id`](crate::JoinHandle::id).
    pub fn id(&self) -> u64 {
        self.goroutine.id
    }

    /// Returns the name that the goroutine had at its end, if it had one: that of
    /// [`set_name`](crate::set_name).
    pub fn name(&self) -> Option<&'a str> {
        self.goroutine.name.as_deref()
    }

    /// Returns where the goroutine was spawned.
    pub fn site(&self) -> &'static Location<'static> {
        self.goroutine.site
    }

    /// Returns what the goroutine has ended with.
    pub fn result(&self) -> Leaked<'a> {
        self.result
    }

    /// Returns the error, if it is one of a type that is recognized.
    fn error(&self) -> Option<&'a dyn fmt::Display> {
        match self.result {
            Leaked::Value(value) => recognized(value)?.err(),
            Leaked::Panic(_) => None,
        }
    }
}

impl fmt::Display for Leak<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let goroutine = self.goroutine;
        match (self.result, self.error()) {
            (Leaked::Panic(payload), _) => {
                let message = panics::message(payload);
                write!(f, "{goroutine} panicked, which nothing has read: {message}")
            }
            (Leaked::Value(_), Some(error)) => {
                write!(
                    f,
                    "{goroutine} returned an error that nothing has read: {error}"
                )
            }
            (Leaked::Value(_), None) => {
                write!(f, "{goroutine} returned a result that nothing has read")
            }
        }
    }
}

/// What a goroutine with a handle has ended with.
pub(crate) enum Finished<T> {
    /// A value that may be dropped unread.
    Value(T),
    Suspect(Box<Suspect<T>>),
}

/// A panic, or a value that may be an error. Reports itself if it is dropped unread.
pub(crate) struct Suspect<T> {
    /// `None` once it was read.
    result: Option<thread::Result<T>>,
    /// `None` in a child of `fork`.
    goroutine: Option<Identity>,
    report: fn(&Identity, &thread::Result<T>),
}

impl<T: 'static> Finished<T> {
    /// Called by the goroutine whose result it is.
    #[inline]
    pub(crate) fn new(result: thread::Result<T>) -> Self {
        match result {
            Ok(value) if !is_suspect(&value) => Finished::Value(value),
            result => Self::suspect(result),
        }
    }

    #[cold]
    fn suspect(result: thread::Result<T>) -> Self {
        Finished::Suspect(Box::new(Suspect {
            result: Some(result),
            goroutine: started().and_then(|sched| sched.identity()),
            report: report::<T>,
        }))
    }
}

impl<T> Finished<T> {
    /// Returns the result, which counts as read.
    #[inline]
    pub(crate) fn read(self) -> thread::Result<T> {
        match self {
            Finished::Value(value) => Ok(value),
            Finished::Suspect(mut suspect) => suspect.result.take().expect("it is read once"),
        }
    }
}

impl<T> Drop for Suspect<T> {
    fn drop(&mut self) {
        if let (Some(result), Some(goroutine)) = (&self.result, &self.goroutine) {
            (self.report)(goroutine, result);
        }
    }
}

/// Returns whether `value` is to be reported if it is dropped unread. Optimized code decides it
/// without a look at the value, unless `T` is a `Result`.
#[inline]
fn is_suspect<T: 'static>(value: &T) -> bool {
    match recognized(value) {
        Some(result) => result.is_err(),
        None => is_result::<T>() && ON_LEAK.get().is_some(),
    }
}

/// Returns whether `T` is a `Result` of any two types. Only the name of a type tells this.
#[inline]
fn is_result<T>() -> bool {
    any::type_name::<T>().starts_with("core::result::Result<")
}

/// Returns `value` if it is of a type whose errors are recognized:
/// [`Builder::on_leak`](crate::Builder::on_leak) lists them.
#[inline]
fn recognized(value: &dyn Any) -> Option<Result<(), &dyn fmt::Display>> {
    #[inline]
    fn of<E: fmt::Display + 'static>(value: &dyn Any) -> Option<Result<(), &dyn fmt::Display>> {
        let result = value.downcast_ref::<Result<(), E>>()?;
        Some(match result {
            Ok(()) => Ok(()),
            Err(error) => Err(error),
        })
    }
    of::<io::Error>(value)
        .or_else(|| of::<Box<dyn Error + Send + Sync>>(value))
        .or_else(|| of::<Box<dyn Error + Send>>(value))
        .or_else(|| of::<String>(value))
        .or_else(|| of::<&'static str>(value))
}

/// Counts and reports a result that nothing has read. No panic leaves it: the caller is a drop,
/// perhaps the last one of a goroutine.
#[cold]
fn report<T: 'static>(goroutine: &Identity, result: &thread::Result<T>) {
    let result = match result {
        Ok(value) => Leaked::Value(value),
        Err(payload) => Leaked::Panic(&**payload),
    };
    report_leak(&Leak { goroutine, result });
}

fn report_leak(leak: &Leak<'_>) {
    let is_error = leak.error().is_some();
    match leak.result {
        Leaked::Panic(_) => _ = UNSEEN_PANICS.fetch_add(1, Ordering::Relaxed),
        Leaked::Value(_) => _ = UNSEEN_ERRORS.fetch_add(is_error.into(), Ordering::Relaxed),
    }
    let told = panic::catch_unwind(AssertUnwindSafe(|| match ON_LEAK.get() {
        Some(on_leak) => on_leak(leak),
        // The panic hook has printed a panic.
        None if is_error && cfg!(debug_assertions) && report::is_default() => {
            write_line(format_args!("{leak}"));
        }
        None => {}
    }));
    if told.is_err() {
        write_line(format_args!(
            "gopark: the report of {} has panicked",
            leak.goroutine
        ));
    }
}

/// Writes a line in a single write, which keeps lines of other threads from coming in between.
fn write_line(line: fmt::Arguments<'_>) {
    // A closed stderr is not an error.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_recognized_by_the_name_of_its_type() {
        assert!(is_result::<Result<u8, Vec<u8>>>());
        assert!(is_result::<io::Result<()>>());
        assert!(!is_result::<()>());
        assert!(!is_result::<Option<Result<(), ()>>>());
    }

    #[test]
    fn errors_of_five_types_are_recognized() {
        fn check<E: fmt::Display + 'static>(error: E) {
            let text = error.to_string();
            let result = Err::<(), E>(error);
            let found = recognized(&result).expect("a type that is recognized");
            assert_eq!(found.unwrap_err().to_string(), text);
            assert!(is_suspect(&result) && !is_suspect(&Ok::<(), E>(())));
        }
        check(io::Error::other("io"));
        check::<Box<dyn Error + Send + Sync>>("both".into());
        check::<Box<dyn Error + Send>>(Box::new(io::Error::other("one")));
        check(String::from("a string"));
        check("a text");
        assert!(recognized(&Err::<u8, io::Error>(io::Error::other("other"))).is_none());
        assert!(recognized(&"no result").is_none());
    }
}
