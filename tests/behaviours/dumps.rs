//! What a dump says of a goroutine: what has cancelled it, and what waits for it.

use crate::check;
use gopark::sync::{Cancel, Mutex};
use gopark::{JoinHandle, go, scope, set_name, shield, thread, try_scope};
use gopark_tests::{Dice, join, rounds};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

const LOCKING: &str = "sync.Mutex.Lock";
const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(2);

fn dumped() -> String {
    let mut text = Vec::new();
    gopark::dump(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// The entry of the goroutine `name` in the first dump in which it is in this state: its first and
/// its last line.
fn entry(name: &str, state: &str) -> (String, String) {
    loop {
        let text = dumped();
        let found = text
            .split("\n\n")
            .find(|entry| entry.contains(&format!("\"{name}\" [{state}")));
        if let Some(entry) = found {
            let line = |line: Option<&str>| line.unwrap_or_default().to_owned();
            let mut lines = entry.trim_end().lines();
            return (line(lines.next()), line(lines.next_back()));
        }
        gopark::yield_now();
    }
}

/// What the entry of the goroutine `name`, which waits for a mutex, says beside that.
fn cancelled(name: &str) -> String {
    let (first, _) = entry(name, LOCKING);
    let (_, rest) = first.split_once(", locked by ").expect(&first);
    let rest = rest.strip_suffix("]:").expect(&first);
    rest.split_once(", ")
        .map_or("", |(_, rest)| rest)
        .to_owned()
}

/// What the entry says once it says something else than `before`.
fn until_other(name: &str, before: &str) -> String {
    loop {
        let text = cancelled(name);
        if text != before {
            return text;
        }
        gopark::yield_now();
    }
}

/// A mutex that its goroutine has locked: a wait for it is one that no cancel ends.
struct Locked {
    mutex: Arc<Mutex<()>>,
    unlock: Arc<AtomicBool>,
    holder: JoinHandle<()>,
}

impl Locked {
    fn new() -> Self {
        let (mutex, unlock) = (Arc::new(Mutex::new(())), Arc::new(AtomicBool::new(false)));
        let (theirs, may) = (mutex.clone(), unlock.clone());
        let holder = go(move || {
            let _guard = theirs.lock();
            while !may.load(SeqCst) {
                gopark::thread::park();
            }
        });
        while mutex.try_lock().is_ok() {
            gopark::yield_now();
        }
        Locked {
            mutex,
            unlock,
            holder,
        }
    }

    /// What waits for the mutex and unlocks it.
    fn passer(&self) -> impl FnOnce() + Send + 'static {
        let mutex = self.mutex.clone();
        move || drop(mutex.lock())
    }

    fn unlock(self) {
        self.unlock.store(true, SeqCst);
        self.holder.thread().unpark();
        join(self.holder);
    }
}

/// A goroutine with this name, which waits for the mutex as a member of `cancel`.
fn member(name: &'static str, cancel: &Cancel, locked: &Locked) -> JoinHandle<()> {
    let (cancel, pass) = (cancel.clone(), locked.passer());
    go(move || {
        set_name(name);
        cancel.run(pass);
    })
}

/// The line after the caller's, with its file.
#[track_caller]
fn next_line() -> String {
    let here = panic::Location::caller();
    format!("{}:{}:", here.file(), here.line() + 1)
}

#[test]
fn a_dump_names_the_goroutine_that_has_called_cancel_and_the_place() {
    check(|| {
        let (cancel, locked) = (Cancel::new(), Locked::new());
        let member = member("stopped", &cancel, &locked);
        assert_eq!(cancelled("stopped"), "");
        let canceller = go(move || {
            let place = next_line();
            cancel.cancel();
            place
        });
        let id = canceller.id();
        let place = join(canceller);
        let text = cancelled("stopped");
        let expected = format!("cancelled by goroutine {id} at {place}");
        assert!(text.starts_with(&expected), "{text}, not {expected}");
        locked.unlock();
        join(member);
    });
}

#[test]
fn a_dump_names_the_place_at_which_a_thread_has_called_cancel() {
    check(|| {
        let (cancel, locked) = (Cancel::new(), Locked::new());
        let member = member("stopped by a thread", &cancel, &locked);
        cancelled("stopped by a thread");
        let place = gopark::blocking(|| {
            let place = next_line();
            cancel.cancel();
            place
        });
        let text = cancelled("stopped by a thread");
        let expected = format!("cancelled by a thread at {place}");
        assert!(text.starts_with(&expected), "{text}, not {expected}");
        locked.unlock();
        join(member);
    });
}

#[test]
fn a_dump_names_the_deadline_and_what_has_cancelled_a_parent() {
    check(|| {
        let (grandparent, locked) = (Cancel::new(), Locked::new());
        let parent = grandparent.child();
        let before = member("with its parent", &parent.child(), &locked);
        let limited = member("out of time", &grandparent, &locked);
        cancelled("with its parent");
        cancelled("out of time");
        grandparent.set_timeout(SHORT);
        let text = until_other("out of time", "");
        assert_eq!(text, "cancelled by its deadline");
        // A child that is made later, and a member that joins later.
        let after = member("after its parent", &parent.child(), &locked);
        for name in ["with its parent", "after its parent"] {
            let text = until_other(name, "");
            assert_eq!(text, "cancelled with its parent by a deadline");
        }
        locked.unlock();
        [before, limited, after].into_iter().for_each(join);
    });
}

#[test]
fn a_dump_says_which_goroutine_of_a_scope_has_failed() {
    check(|| {
        let locked = Locked::new();
        let pass = locked.passer();
        let of_panic = panic::catch_unwind(AssertUnwindSafe(|| {
            scope(|s| {
                s.go_named("beside a panic", pass);
                cancelled("beside a panic");
                let id = s.go(|| panic::resume_unwind(Box::new(()))).id();
                let expected = format!("cancelled by the failure of goroutine {id}");
                assert_eq!(until_other("beside a panic", ""), expected);
                shield(|| locked.unlock());
            });
        }));
        assert!(of_panic.unwrap_err().is::<()>());
        let locked = Locked::new();
        let of_error = try_scope(|s| {
            s.scope().go_named("beside an error", locked.passer());
            cancelled("beside an error");
            let id = s.go(|| Err::<(), _>(())).id();
            let expected = format!("cancelled by the failure of goroutine {id}");
            assert_eq!(until_other("beside an error", ""), expected);
            shield(|| locked.unlock());
            Ok(())
        });
        assert_eq!(of_error, Err(()));
    });
}

#[test]
fn the_innermost_cancelled_member_counts_until_it_is_left() {
    check(|| {
        let (outer, inner) = (Cancel::new(), Cancel::new());
        let (first, second, third) = (Locked::new(), Locked::new(), Locked::new());
        let (theirs, passes) = (outer.clone(), [&first, &second, &third].map(Locked::passer));
        let nested = inner.clone();
        let goroutine = go(move || {
            set_name("nested");
            let [first, second, third] = passes;
            theirs.run(|| {
                nested.run(first);
                second();
            });
            third();
        });
        cancelled("nested");
        inner.set_deadline(Some(std::time::Instant::now()));
        let place = next_line();
        outer.cancel();
        let by_deadline = "cancelled with its parent by a deadline";
        assert_eq!(cancelled("nested"), by_deadline);
        first.unlock();
        let text = until_other("nested", by_deadline);
        assert!(text.contains(&place), "{text}");
        second.unlock();
        assert_eq!(until_other("nested", &text), "");
        third.unlock();
        join(goroutine);
    });
}

#[test]
fn a_dump_says_that_a_cancel_does_not_reach_into_a_shield() {
    check(|| {
        let locked = Locked::new();
        let (cancel, inner) = (Cancel::new(), Cancel::new());
        let [in_shield, further_in] = [0; 2].map(|_| (cancel.clone(), locked.passer()));
        let goroutines = [
            go(move || {
                set_name("in a shield");
                let (cancel, pass) = in_shield;
                cancel.run(|| shield(pass));
            }),
            go(move || {
                set_name("further in");
                let (cancel, pass) = further_in;
                cancel.run(|| shield(|| inner.run(pass)));
            }),
        ];
        let names = ["in a shield", "further in"];
        names.iter().for_each(|name| _ = cancelled(name));
        cancel.cancel();
        for name in names {
            let text = cancelled(name);
            let at_end = text.starts_with("cancelled by ") && text.ends_with(", shielded");
            assert!(at_end, "{text}");
        }
        locked.unlock();
        goroutines.into_iter().for_each(join);
    });
}

#[test]
fn a_running_goroutine_is_shown_as_cancelled() {
    check(|| {
        join(go(|| {
            set_name("shows itself");
            let cancel = Cancel::new();
            cancel.cancel();
            let (first, _) = cancel.run(|| entry("shows itself", "running"));
            assert!(first.contains(", cancelled by goroutine "), "{first}");
            let (first, _) = entry("shows itself", "running");
            assert!(!first.contains("cancelled"), "{first}");
        }));
    });
}

#[test]
fn a_dump_tells_scoped_goroutines_from_detached_ones() {
    check(|| {
        let last = |name| entry(name, "sleep").1;
        let at = |line: u32| format!(" at {}:{line}:", file!());
        let cancel = Cancel::new();
        let sleep = |name: &'static str| {
            let cancel = cancel.clone();
            move || {
                set_name(name);
                cancel.run(|| gopark::sleep(LONG));
            }
        };
        scope(|s| {
            let kept = s.go(sleep("scoped"));
            let line = line!() - 1;
            s.go(sleep("scoped without a handle"));
            for (name, line) in [("scoped", line), ("scoped without a handle", line + 2)] {
                let text = last(name);
                assert!(
                    text.starts_with(&format!("created in a scope{}", at(line))),
                    "{text}"
                );
            }
            thread::scope(|s| {
                let line = line!() + 1;
                s.spawn(sleep("of a thread scope"));
                let text = last("of a thread scope");
                assert!(
                    text.starts_with(&format!("created in a scope{}", at(line))),
                    "{text}"
                );

                let line = line!() + 1;
                let handle = go(sleep("joinable"));
                let text = last("joinable");
                assert!(text.starts_with(&format!("created{}", at(line))), "{text}");
                assert!(!text.contains("detached"), "{text}");
                drop(handle);
                let text = last("joinable");
                assert!(text.starts_with(&format!("created{}", at(line))), "{text}");
                assert!(text.ends_with(", detached"), "{text}");
                cancel.cancel();
            });
            kept.join().unwrap();
        });
    });
}

#[test]
fn goroutines_enter_and_leave_cancels_and_return_while_they_are_dumped() {
    check(|| {
        let seeds = if cfg!(gopark_sanitize = "thread") {
            4
        } else {
            16
        };
        let goroutines: Vec<_> = (0..seeds)
            .map(|seed| {
                go(move || {
                    let dice = Dice::new(seed);
                    for _ in 0..rounds(200) {
                        let (outer, inner) = (Cancel::new(), Cancel::new());
                        let canceller = {
                            let both = [outer.clone(), inner.clone()];
                            go(move || both.map(|cancel| cancel.cancel()))
                        };
                        let short = go(move || {
                            outer.run(|| inner.run(gopark::yield_now));
                        });
                        if dice.below(2) == 0 {
                            gopark::yield_now();
                        }
                        join(short);
                        assert_eq!(join(canceller), [true; 2]);
                    }
                })
            })
            .collect();
        while !goroutines.iter().all(JoinHandle::is_finished) {
            gopark::dump(&mut Vec::new()).unwrap();
            gopark::yield_now();
        }
        goroutines.into_iter().for_each(join);
    });
}
