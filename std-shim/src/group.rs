//! A group: goroutines that borrow from one frame, which waits for them.
#![allow(
    unsafe_code,
    reason = "goroutines borrow from a frame that waits for them"
)]

use crate::builder::sched;
use crate::global::Global;
use crate::park::{Thread, attachment};
use gopark_core::join::{Join, Options};
use gopark_core::semaphore::RawSemaphore;
use gopark_core::stack::Exhausted;
use gopark_core::wait_group::RawWaitGroup;
use gopark_core::watch::Wait;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::{Arc, OnceLock};

/// The goroutines that borrow from one frame. What they share is used last when the frame may have
/// gone on.
pub(crate) struct Group(Arc<Shared>);

struct Shared {
    running: RawWaitGroup<Global>,
    /// How many may run at once. Unset: any number.
    places: OnceLock<RawSemaphore<Global>>,
}

impl Group {
    pub(crate) fn new() -> Self {
        Group(Arc::new(Shared {
            running: RawWaitGroup::new(Global),
            places: OnceLock::new(),
        }))
    }

    /// Waits until all goroutines have returned and have dropped the results that no handle wants.
    pub(crate) fn wait(&self) {
        self.0.running.wait_as(Wait::Scope);
    }

    /// Starts a goroutine that runs `f`. Waits for a place first, if there is a limit.
    ///
    /// # Safety
    ///
    /// [`wait`](Self::wait) is called before `'scope` ends, whether or not the caller unwinds.
    pub(crate) unsafe fn start<'scope, F, R>(
        &self,
        options: Options,
        f: F,
        site: &'static Location<'static>,
    ) -> Result<Handle<'scope, R>, Exhausted>
    where
        F: FnOnce() -> R + Send + 'scope,
        R: Send + 'scope,
    {
        let running = Running::new(self.0.clone());
        // SAFETY: `wait` returns after `running` was dropped, and `'scope` ends after that. The
        // handle cannot outlive `'scope`.
        let join = unsafe { sched().go_scoped(options, move || (f(), running), site) }?;
        Ok(Handle::new(join))
    }

    /// As [`start`](Self::start), on the current M.
    ///
    /// # Panics
    ///
    /// On an ordinary thread.
    ///
    /// # Safety
    ///
    /// As `start`.
    pub(crate) unsafe fn start_local<'scope, F, R>(
        &self,
        f: F,
        site: &'static Location<'static>,
    ) -> Result<Handle<'scope, R>, Exhausted>
    where
        F: FnOnce() -> R + 'scope,
        R: 'scope,
    {
        let running = Running::new(self.0.clone());
        // SAFETY: as in `start`.
        let join = unsafe { sched().go_local_scoped(move || (f(), running), site) }?;
        Ok(Handle::new(join))
    }

    /// How many are running.
    pub(crate) fn count(&self) -> usize {
        self.0.running.count()
    }

    /// Lets at most `n` run at once. Returns false if there is a limit.
    pub(crate) fn limit(&self, n: usize) -> bool {
        self.0.places.set(RawSemaphore::new(n, Global)).is_ok()
    }
}

/// One that a group waits for. Its goroutine drops this last.
struct Running(Arc<Shared>);

impl Running {
    fn new(group: Arc<Shared>) -> Self {
        if let Some(places) = group.places.get() {
            places.acquire(1);
        }
        group.running.add(1);
        Running(group)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(places) = self.0.places.get() {
            places.release(1);
        }
        self.0.running.done();
    }
}

/// A handle to a goroutine of a group.
pub(crate) struct Handle<'scope, R> {
    pub(crate) join: Join<R>,
    scope: PhantomData<&'scope ()>,
}

impl<R> Handle<'_, R> {
    fn new(join: Join<R>) -> Self {
        Handle {
            join,
            scope: PhantomData,
        }
    }

    pub(crate) fn thread(&self) -> &Thread {
        self.join.attached(attachment)
    }
}
