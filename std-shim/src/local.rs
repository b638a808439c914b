//! Goroutine-local values.
//!
//! A goroutine keeps its values in a [`Storage`], to which its word of the scheduler points. A
//! thread that is no goroutine keeps them in a thread-local. The word is null before the first use.
//! After the destructors have run it says that the values are [`gone`].
#![allow(
    unsafe_code,
    reason = "the goroutine's word is a pointer to its values, and references to them outlive it"
)]

use crate::runtime::started;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether a goroutine may have values: then its end looks for them.
static USED: AtomicBool = AtomicBool::new(false);

/// A key under which each goroutine has its own value: [`std::thread::LocalKey`] for goroutines.
/// The macro [`goroutine_local!`](crate::goroutine_local) makes one.
///
/// A goroutine's value is made when it first uses the key. It is dropped on the goroutine's stack
/// after its closure has returned, and before a `join` returns. A thread that is no goroutine has a
/// value of its own, which is dropped when the thread ends. Work in [`blocking`](crate::blocking)
/// runs on such a thread.
///
/// After that drop no key is accessible in the goroutine. Its result may be dropped later on its
/// stack, if no handle wants it: [`with`](Self::with) panics in a destructor of the result, and a
/// panic in such a destructor aborts the process. Destructors use [`try_with`](Self::try_with).
///
/// In contrast to a `thread_local!`, the initializer and the closure of [`with`](Self::with) may
/// park, and no other goroutine sees the value.
///
/// ```
/// use std::cell::Cell;
///
/// gopark::goroutine_local! {
///     static REQUEST: Cell<u64> = Cell::new(0);
/// }
///
/// fn handle(request: u64) -> u64 {
///     REQUEST.set(request);
///     gopark::yield_now(); // Other goroutines run on this thread.
///     REQUEST.get()
/// }
///
/// let handlers: Vec<_> = (1..=3).map(|n| gopark::go(move || handle(n))).collect();
/// let seen: Vec<_> = handlers.into_iter().map(|handler| handler.join().unwrap()).collect();
/// assert_eq!(seen, [1, 2, 3]);
/// ```
pub struct LocalKey<T: 'static> {
    init: fn() -> T,
    /// Its place in each `Storage`, plus 1. 0 before the first use in the process.
    place: AtomicUsize,
}

/// A value of a [`LocalKey`] was asked for after it was dropped: within a destructor of a
/// goroutine's values or of its result, or of a thread's values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct AccessError;

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the goroutine's value is already dropped")
    }
}

impl Error for AccessError {}

/// The values of one goroutine, or of one thread that is none.
#[derive(Default)]
struct Storage(RefCell<Vec<Slot>>);

#[derive(Default)]
enum Slot {
    #[default]
    Unused,
    Used(Box<dyn Any>),
    Dropped,
}

impl Storage {
    /// The value at `place`, once there is one.
    fn get<T: 'static>(&self, place: usize) -> Result<Option<*const T>, AccessError> {
        match self.0.borrow().get(place) {
            Some(Slot::Used(value)) => Ok(value.downcast_ref().map(std::ptr::from_ref)),
            Some(Slot::Dropped) => Err(AccessError),
            Some(Slot::Unused) | None => Ok(None),
        }
    }

    /// Stores the first value at `place`.
    fn fill<T: 'static>(&self, place: usize, value: T) -> *const T {
        let value = Box::new(value);
        let address = std::ptr::from_ref(&*value);
        let mut slots = self.0.borrow_mut();
        if slots.len() <= place {
            slots.resize_with(place + 1, Slot::default);
        }
        assert!(
            matches!(slots[place], Slot::Unused),
            "the initializer of a goroutine_local uses the same goroutine_local"
        );
        slots[place] = Slot::Used(value);
        address
    }

    /// Drops all values, also those that the destructors make. Later uses of these keys fail.
    fn clear(&self) {
        loop {
            let mut slots = self.0.borrow_mut();
            let used = slots.iter_mut().find(|slot| matches!(slot, Slot::Used(_)));
            let Some(slot) = used else { return };
            let value = std::mem::replace(slot, Slot::Dropped);
            // Destructors may use other keys.
            drop(slots);
            if panic::catch_unwind(AssertUnwindSafe(|| drop(value))).is_err() {
                let text = b"gopark: the destructor of a goroutine_local has panicked\n";
                // A closed stderr is not an error.
                let _ = io::stderr().write_all(text);
                process::abort();
            }
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.clear();
    }
}

thread_local! {
    /// The values of this thread, outside goroutines.
    static THREAD: Storage = const { Storage(RefCell::new(Vec::new())) };
}

/// Runs `f` with the values of the calling goroutine or thread.
fn with_storage<R>(f: impl FnOnce(&Storage) -> R) -> Result<R, AccessError> {
    let Some((sched, word)) = started().and_then(|sched| Some((sched, sched.local()?))) else {
        return THREAD.try_with(f).map_err(|_| AccessError);
    };
    if word == gone() {
        return Err(AccessError);
    }
    let mut storage = word.cast::<Storage>();
    if storage.is_null() {
        storage = Box::into_raw(Box::default());
        sched.set_local(storage.cast());
        USED.store(true, Ordering::Relaxed);
    }
    // SAFETY: only this module sets the word. Only `drop_values` frees what it points to, at the
    // end of this goroutine, and leaves `gone` there.
    Ok(f(unsafe { &*storage }))
}

/// The word of a goroutine that is about to return and whose values were dropped. Its result may
/// still be dropped on its stack.
fn gone() -> *mut () {
    static GONE: u8 = 0;
    std::ptr::from_ref(&GONE).cast_mut().cast()
}

/// Drops the values of the calling goroutine, which is about to return.
#[inline]
pub(crate) fn drop_values() {
    // A goroutine that has values has set it itself.
    if USED.load(Ordering::Relaxed) {
        drop_values_of_user();
    }
}

#[cold]
fn drop_values_of_user() {
    let Some((sched, word)) = started().and_then(|sched| Some((sched, sched.local()?))) else {
        return;
    };
    let storage = word.cast::<Storage>();
    if storage.is_null() {
        return sched.set_local(gone());
    }
    // SAFETY: as in `with_storage`. The destructors may still use it.
    unsafe { &*storage }.clear();
    sched.set_local(gone());
    // SAFETY: `with_storage` made it by `Box::into_raw`, and the word no longer refers to it.
    drop(unsafe { Box::from_raw(storage) });
}

impl<T: 'static> LocalKey<T> {
    /// For the macro [`goroutine_local!`](crate::goroutine_local).
    #[doc(hidden)]
    pub const fn new(init: fn() -> T) -> Self {
        LocalKey {
            init,
            place: AtomicUsize::new(0),
        }
    }

    fn place(&self) -> usize {
        /// How many keys were used in this process.
        static KEYS: AtomicUsize = AtomicUsize::new(0);
        match self.place.load(Ordering::Relaxed) {
            0 => {
                let fresh = KEYS.fetch_add(1, Ordering::Relaxed) + 1;
                let place = &self.place;
                match place.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => fresh - 1,
                    Err(theirs) => theirs - 1,
                }
            }
            place => place - 1,
        }
    }

    /// Calls `f` with the value of the calling goroutine, after making it if it was not used yet.
    ///
    /// # Panics
    ///
    /// If the value was dropped: in a destructor of another such value, or of the goroutine's
    /// result. A panic in such a destructor aborts the process: use [`try_with`](Self::try_with)
    /// there. If its initializer uses the same key.
    ///
    /// ```
    /// gopark::goroutine_local! {
    ///     static NAME: String = String::from("none yet");
    /// }
    /// assert_eq!(NAME.with(|name| name.len()), 8);
    /// ```
    #[track_caller]
    pub fn with<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        match self.try_with(f) {
            Ok(result) => result,
            Err(error) => panic!("goroutine_local: {error}"),
        }
    }

    /// As [`with`](Self::with), but returns an error if the value was dropped.
    ///
    /// # Errors
    ///
    /// [`AccessError`] in a destructor that runs after the value was dropped.
    ///
    /// # Panics
    ///
    /// If the initializer uses the same key.
    ///
    /// ```
    /// gopark::goroutine_local! {
    ///     static NAME: String = String::from("none yet");
    /// }
    /// assert!(NAME.try_with(|name| name.is_empty()).is_ok_and(|empty| !empty));
    /// ```
    pub fn try_with<R>(&'static self, f: impl FnOnce(&T) -> R) -> Result<R, AccessError> {
        let place = self.place();
        let found = with_storage(|storage| storage.get(place))??;
        let value = match found {
            Some(value) => value,
            None => {
                let value = (self.init)();
                with_storage(|storage| storage.fill(place, value))?
            }
        };
        // SAFETY: the value is boxed, so it stays in place. It is dropped when the goroutine
        // returns or the thread ends, which is after `f`, or in `clear`, which takes each value
        // out before it drops it. `f` can then only run within the destructor of another value.
        Ok(f(unsafe { &*value }))
    }
}

impl<T: 'static> LocalKey<Cell<T>> {
    /// Sets the value of the calling goroutine.
    ///
    /// # Panics
    ///
    /// As [`with`](Self::with).
    ///
    /// ```
    /// use std::cell::Cell;
    ///
    /// gopark::goroutine_local! {
    ///     static DEPTH: Cell<u32> = Cell::new(0);
    /// }
    /// DEPTH.set(7);
    /// assert_eq!(DEPTH.get(), 7);
    /// ```
    #[track_caller]
    pub fn set(&'static self, value: T) {
        self.with(|cell| cell.set(value));
    }

    /// Returns a copy of the value.
    ///
    /// # Panics
    ///
    /// As [`with`](Self::with).
    ///
    /// ```
    /// use std::cell::Cell;
    ///
    /// gopark::goroutine_local! {
    ///     static DEPTH: Cell<u32> = Cell::new(3);
    /// }
    /// assert_eq!(DEPTH.get(), 3);
    /// ```
    #[track_caller]
    pub fn get(&'static self) -> T
    where
        T: Copy,
    {
        self.with(Cell::get)
    }

    /// Takes the value and leaves `T::default()`.
    ///
    /// # Panics
    ///
    /// As [`with`](Self::with).
    ///
    /// ```
    /// use std::cell::Cell;
    ///
    /// gopark::goroutine_local! {
    ///     static PENDING: Cell<Vec<u32>> = Cell::new(vec![1, 2]);
    /// }
    /// assert_eq!(PENDING.take(), [1, 2]);
    /// assert!(PENDING.take().is_empty());
    /// ```
    #[track_caller]
    pub fn take(&'static self) -> T
    where
        T: Default,
    {
        self.with(Cell::take)
    }

    /// Sets the value, and returns the one before.
    ///
    /// # Panics
    ///
    /// As [`with`](Self::with).
    ///
    /// ```
    /// use std::cell::Cell;
    ///
    /// gopark::goroutine_local! {
    ///     static DEPTH: Cell<u32> = Cell::new(3);
    /// }
    /// assert_eq!(DEPTH.replace(4), 3);
    /// ```
    #[track_caller]
    pub fn replace(&'static self, value: T) -> T {
        self.with(|cell| cell.replace(value))
    }
}

impl<T: 'static> LocalKey<RefCell<T>> {
    /// Calls `f` with the value, borrowed.
    ///
    /// # Panics
    ///
    /// If the value is borrowed mutably. As [`with`](Self::with).
    ///
    /// ```
    /// use std::cell::RefCell;
    ///
    /// gopark::goroutine_local! {
    ///     static LOG: RefCell<Vec<String>> = RefCell::default();
    /// }
    /// assert!(LOG.with_borrow(|log| log.is_empty()));
    /// ```
    #[track_caller]
    pub fn with_borrow<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        self.with(|cell| f(&cell.borrow()))
    }

    /// Calls `f` with the value, borrowed mutably.
    ///
    /// # Panics
    ///
    /// If the value is borrowed. As [`with`](Self::with).
    ///
    /// ```
    /// use std::cell::RefCell;
    ///
    /// gopark::goroutine_local! {
    ///     static LOG: RefCell<Vec<String>> = RefCell::default();
    /// }
    /// LOG.with_borrow_mut(|log| log.push("started".into()));
    /// assert_eq!(LOG.take(), ["started"]);
    /// ```
    #[track_caller]
    pub fn with_borrow_mut<R>(&'static self, f: impl FnOnce(&mut T) -> R) -> R {
        self.with(|cell| f(&mut cell.borrow_mut()))
    }

    /// Sets the value of the calling goroutine.
    ///
    /// # Panics
    ///
    /// If the value is borrowed. As [`with`](Self::with).
    ///
    /// ```
    /// use std::cell::RefCell;
    ///
    /// gopark::goroutine_local! {
    ///     static NAME: RefCell<String> = RefCell::default();
    /// }
    /// NAME.set("importer".into());
    /// assert_eq!(NAME.with_borrow(String::len), 8);
    /// ```
    #[track_caller]
    pub fn set(&'static self, value: T) {
        self.with(|cell| *cell.borrow_mut() = value);
    }

    /// Takes the value and leaves `T::default()`.
    ///
    /// # Panics
    ///
    /// If the value is borrowed. As [`with`](Self::with).
    ///
    /// ```
    /// use std::cell::RefCell;
    ///
    /// gopark::goroutine_local! {
    ///     static NAME: RefCell<String> = RefCell::new("importer".into());
    /// }
    /// assert_eq!(NAME.take(), "importer");
    /// assert_eq!(NAME.take(), "");
    /// ```
    #[track_caller]
    pub fn take(&'static self) -> T
    where
        T: Default,
    {
        self.with(RefCell::take)
    }

    /// Sets the value, and returns the one before.
    ///
    /// # Panics
    ///
    /// If the value is borrowed. As [`with`](Self::with).
    ///
    /// ```
    /// use std::cell::RefCell;
    ///
    /// gopark::goroutine_local! {
    ///     static NAME: RefCell<String> = RefCell::new("importer".into());
    /// }
    /// assert_eq!(NAME.replace("exporter".into()), "importer");
    /// ```
    #[track_caller]
    pub fn replace(&'static self, value: T) -> T {
        self.with(|cell| cell.replace(value))
    }
}

impl<T: 'static> fmt::Debug for LocalKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKey").finish_non_exhaustive()
    }
}

/// Declares values that each goroutine has for itself, as [`std::thread_local!`] does for threads.
/// See [`LocalKey`], also for destructors, which use [`LocalKey::try_with`].
///
/// ```
/// use std::cell::{Cell, RefCell};
///
/// gopark::goroutine_local! {
///     /// The request that this goroutine serves.
///     pub static REQUEST: Cell<u64> = Cell::new(0);
///     static NOTES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
/// }
///
/// REQUEST.set(7);
/// NOTES.with_borrow_mut(|notes| notes.push("begun".into()));
/// assert_eq!(gopark::go(|| REQUEST.get()).join().unwrap(), 0);
/// assert_eq!((REQUEST.get(), NOTES.take().len()), (7, 1));
/// ```
#[macro_export]
macro_rules! goroutine_local {
    () => {};
    ($(#[$meta:meta])* $vis:vis static $name:ident: $type:ty = const $init:block
        $(; $($rest:tt)*)?) => {
        $(#[$meta])*
        $vis static $name: $crate::LocalKey<$type> = $crate::LocalKey::new(|| const $init);
        $($crate::goroutine_local! { $($rest)* })?
    };
    ($(#[$meta:meta])* $vis:vis static $name:ident: $type:ty = $init:expr
        $(; $($rest:tt)*)?) => {
        $(#[$meta])*
        $vis static $name: $crate::LocalKey<$type> = $crate::LocalKey::new(|| $init);
        $($crate::goroutine_local! { $($rest)* })?
    };
}
