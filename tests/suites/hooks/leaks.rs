//! What a hook of `Builder::on_leak` is told.

use crate::check;
use gopark::sync::Cancel;
use gopark::time::{Duration, timeout};
use gopark::{
    JoinHandle, Leak, Leaked, chan, go, go_local, metrics, select, shield, thread, try_go,
};
use gopark_tests::{join, until};
use std::any::Any;
use std::error::Error;
use std::io;
use std::panic::Location;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

const SHORT: Duration = Duration::from_millis(2);

/// An error of a type that gopark does not know.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Own(u32);

/// What the hook was told of a goroutine.
#[derive(Clone, Debug)]
struct Told {
    id: u64,
    name: Option<String>,
    site: &'static Location<'static>,
    what: What,
    line: String,
}

#[derive(Clone, PartialEq, Debug)]
enum What {
    Panic(String),
    Own(Result<u32, Own>),
    Io(String),
    Other,
}

static TOLD: Mutex<Vec<Told>> = Mutex::new(Vec::new());

/// The hook.
pub(crate) fn note(leak: &Leak<'_>) {
    let told = Told {
        id: leak.id(),
        name: leak.name().map(Into::into),
        site: leak.site(),
        what: what(leak.result()),
        line: leak.to_string(),
    };
    let mut all = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    all.push(told);
}

fn what(result: Leaked<'_>) -> What {
    match result {
        Leaked::Panic(payload) => {
            let text = payload.downcast_ref::<&str>().copied();
            What::Panic(text.expect("a panic of this suite").into())
        }
        Leaked::Value(value) => {
            let own = value.downcast_ref().copied().map(What::Own);
            let io = || match value.downcast_ref::<io::Result<()>>()? {
                Err(error) => Some(What::Io(error.to_string())),
                Ok(()) => None,
            };
            own.or_else(io).unwrap_or(What::Other)
        }
        _ => What::Other,
    }
}

/// What the hook was told of a goroutine, each time.
fn told_of(id: u64) -> Vec<Told> {
    let all = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    all.iter().filter(|told| told.id == id).cloned().collect()
}

#[track_caller]
fn finished<T>(goroutine: JoinHandle<T>) -> JoinHandle<T> {
    until("it ends", || goroutine.is_finished());
    goroutine
}

/// Drops the handle of a goroutine that has ended. Returns what the hook was told.
#[track_caller]
fn dropped_after<T>(goroutine: JoinHandle<T>) -> Option<What> {
    let id = goroutine.id();
    drop(finished(goroutine));
    let mut told = told_of(id);
    assert!(told.len() <= 1, "{told:?}");
    told.pop().map(|told| told.what)
}

fn current_id() -> u64 {
    thread::current().id().goroutine().unwrap()
}

fn refused() -> io::Result<()> {
    Err(io::Error::other("refused"))
}

#[test]
fn an_unread_panic_is_told_with_the_goroutine_and_its_payload() {
    check(|| {
        let builder = thread::Builder::new().name("importer".into());
        let (site, goroutine) = (Location::caller(), builder.spawn(|| panic!("no column")));
        let id = goroutine.unwrap().id(); // Drops the handle.
        until("it is told", || told_of(id).len() == 1);
        let told = told_of(id).pop().unwrap();
        assert_eq!(told.name.as_deref(), Some("importer"));
        assert_eq!(
            (told.site.file(), told.what),
            (site.file(), What::Panic("no column".into()))
        );
        let goroutine = format!("goroutine {id} \"importer\" (spawned at {})", told.site);
        let line = goroutine + " panicked, which nothing has read: no column";
        assert_eq!(told.line, line);
    });
}

#[test]
fn an_unread_error_is_told_whether_the_handle_is_dropped_before_the_end_or_after() {
    check(|| {
        let expected = What::Io("refused".into());
        assert_eq!(dropped_after(go(refused)), Some(expected.clone()));

        let (hold, held) = chan::bounded::<()>(0);
        let goroutine = go(move || {
            gopark::set_name("renamed");
            _ = held.recv();
            refused()
        });
        let id = goroutine.id();
        drop(goroutine);
        assert!(told_of(id).is_empty());
        drop(hold);
        until("it is told", || !told_of(id).is_empty());
        let told = told_of(id).pop().unwrap();
        assert_eq!(
            (told.what, told.name.as_deref()),
            (expected, Some("renamed"))
        );
        let end = "returned an error that nothing has read: refused";
        assert!(told.line.ends_with(end), "{}", told.line);
    });
}

#[test]
fn every_result_of_an_unknown_type_is_told_for_the_hook_to_judge() {
    check(|| {
        let own = |result: Result<u32, Own>| dropped_after(go(move || result));
        assert_eq!(own(Err(Own(7))), Some(What::Own(Err(Own(7)))));
        assert_eq!(own(Ok(3)), Some(What::Own(Ok(3))));
        assert_eq!(dropped_after(go(|| "7".parse::<i32>())), Some(What::Other));
    });
}

#[test]
fn what_is_no_error_is_not_told() {
    check(|| {
        assert_eq!(dropped_after(go(|| ())), None);
        assert_eq!(dropped_after(go(|| Some(Own(1)))), None);
        assert_eq!(dropped_after(go(|| io::Result::Ok(()))), None);
        assert_eq!(dropped_after(go(|| Ok::<(), String>(()))), None);
        assert_eq!(
            dropped_after(go(|| Ok::<(), Box<dyn Error + Send + Sync>>(()))),
            None
        );
    });
}

#[test]
fn a_result_that_a_join_or_a_select_takes_is_read() {
    check(|| {
        let panics = || go(|| -> io::Result<()> { panic!("it is read") });
        for goroutine in [go(refused), panics()] {
            let id = goroutine.id();
            let _ = goroutine.join();
            assert!(told_of(id).is_empty());
        }
        for goroutine in [go(refused), panics()] {
            let id = goroutine.id();
            select! { join(goroutine) -> result => drop(result) }
            drop(goroutine);
            assert!(told_of(id).is_empty());
        }
    });
}

#[test]
fn the_result_of_a_goroutine_whose_join_was_cancelled_is_unread() {
    check(|| {
        let (hold, held) = chan::bounded::<()>(0);
        let goroutine = go(move || -> () {
            _ = held.recv();
            panic!("too late");
        });
        let id = goroutine.id();
        let cancel = Cancel::new();
        cancel.cancel();
        let joined = cancel.run(|| goroutine.join());
        assert!(joined.unwrap_err().is::<gopark::Cancelled>());
        drop(hold);
        until("it is told", || !told_of(id).is_empty());
        assert_eq!(
            told_of(id).pop().unwrap().what,
            What::Panic("too late".into())
        );
    });
}

#[test]
fn a_failure_after_the_limit_of_a_timeout_is_told() {
    /// Returns the goroutine whose timeout has passed before it ended as `end` does.
    fn late<T: Send + 'static>(end: fn() -> T) -> u64 {
        let (hold, held) = chan::bounded::<()>(0);
        let (send_id, id) = chan::bounded(1);
        let outcome = timeout(SHORT, move || {
            send_id.try_send(current_id()).unwrap();
            _ = shield(|| held.recv());
            end()
        });
        assert!(outcome.is_err());
        let id = id.recv().unwrap();
        assert!(told_of(id).is_empty());
        drop(hold);
        id
    }
    check(|| {
        let failures = [
            (late(refused), What::Io("refused".into())),
            (late(|| panic!("too late")), What::Panic("too late".into())),
        ];
        for (id, what) in failures {
            until("it is told", || !told_of(id).is_empty());
            assert_eq!(told_of(id).pop().unwrap().what, what);
        }
    });
}

#[test]
fn a_failure_that_a_timeout_returns_is_read() {
    check(|| {
        let (send_id, id) = chan::bounded(2);
        let fails = |fail: fn() -> io::Result<()>| {
            let send_id = send_id.clone();
            timeout(Duration::from_secs(3600), move || {
                send_id.send(current_id()).unwrap();
                fail()
            })
        };
        assert!(fails(refused).unwrap().is_err());
        assert!(std::panic::catch_unwind(|| fails(|| panic!("it is read"))).is_err());
        for _ in 0..2 {
            assert!(told_of(id.recv().unwrap()).is_empty());
        }
    });
}

#[test]
fn all_that_start_a_goroutine_with_a_handle_report() {
    check(|| {
        let told = Some(What::Io("refused".into()));
        assert_eq!(dropped_after(try_go(refused).unwrap()), told);
        assert_eq!(dropped_after(go_local(refused)), told);
        assert_eq!(dropped_after(thread::spawn(refused)), told);
    });
}

#[test]
fn a_value_that_is_not_send_is_told_on_its_thread() {
    check(|| {
        let shared = std::rc::Rc::new(5);
        let goroutine = go_local(move || Err::<(), _>(shared));
        assert_eq!(dropped_after(goroutine), Some(What::Other));
    });
}

#[test]
fn a_panic_of_a_scope_comes_out_of_the_scope_and_is_not_told() {
    check(|| {
        let id = AtomicUsize::new(0);
        let outcome = std::panic::catch_unwind(|| {
            gopark::scope(|s| {
                let goroutine = s.go(|| panic!("it comes out"));
                id.store(goroutine.id() as usize, SeqCst);
            })
        });
        let payload: Box<dyn Any + Send> = outcome.unwrap_err();
        assert_eq!(payload.downcast_ref(), Some(&"it comes out"));
        assert!(told_of(id.into_inner() as u64).is_empty());
    });
}

#[test]
fn a_value_is_dropped_once_whether_it_is_told_or_read() {
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    check(|| {
        let drops = Arc::new(AtomicUsize::new(0));
        let start = || {
            let value = Counted(drops.clone());
            go(move || Err::<(), _>(value))
        };
        drop(finished(start()));
        assert_eq!(drops.load(SeqCst), 1);
        drop(join(start()));
        assert_eq!(drops.load(SeqCst), 2);
        drop(start());
        until("it ends", || drops.load(SeqCst) == 3);
    });
}

#[test]
fn metrics_count_unread_panics_and_errors_that_are_recognized() {
    crate::start();
    gopark_tests::alone_in_goroutine(|| {
        let before = metrics();
        drop(finished(go(|| -> () { panic!("unread") })));
        drop(finished(go(refused)));
        drop(finished(go(|| Err::<(), _>("a text"))));
        drop(finished(go(|| Err::<(), _>(Own(1)))));
        drop(finished(go(|| Ok::<(), String>(()))));
        join(go(refused)).unwrap_err();
        let after = metrics();
        assert_eq!(after.unseen_panics - before.unseen_panics, 1);
        assert_eq!(after.unseen_errors - before.unseen_errors, 2);
    });
}
