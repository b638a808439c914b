//! The channels that a clock sends to: `after`, `at` and `tick`.
//!
//! They have neither a timer nor a buffer. A receive computes from the clock whether a message is
//! there, and waits for the time if not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A channel whose messages are times. `None` for a time that the clock cannot show: it never
/// comes.
pub(crate) enum Clock {
    Once {
        when: Option<Instant>,
        taken: AtomicBool,
    },
    Ticks {
        /// When the next message comes. Locked for a few instructions, without calls of gopark.
        next: Mutex<Option<Instant>>,
        period: Duration,
    },
}

impl Clock {
    /// One message, at `when`.
    pub(crate) fn once(when: Option<Instant>) -> Self {
        Clock::Once {
            when,
            taken: AtomicBool::new(false),
        }
    }

    /// A message after each `period`.
    pub(crate) fn ticks(period: Duration) -> Self {
        Clock::Ticks {
            next: Mutex::new(Instant::now().checked_add(period)),
            period,
        }
    }

    /// When the next message comes, or has come.
    pub(crate) fn due(&self) -> Option<Instant> {
        match self {
            Clock::Once { when, taken } => when.filter(|_| !taken.load(Ordering::Relaxed)),
            Clock::Ticks { next, .. } => *next.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Returns whether a message is there.
    pub(crate) fn is_ready(&self) -> bool {
        self.due().is_some_and(|due| due <= Instant::now())
    }

    /// Takes the message of `due`, whose time has come. Returns false if another receiver has it.
    /// The receive began at `began`.
    ///
    /// The next tick comes one period after this one, or after `began` if that is later: so a
    /// receiver that waits for each tick gets them in phase, and one that is late misses the ticks
    /// in between.
    pub(crate) fn take(&self, due: Instant, began: Instant) -> bool {
        match self {
            // Relaxed: the message is the time alone, and publishes nothing.
            Clock::Once { taken, .. } => !taken.swap(true, Ordering::Relaxed),
            Clock::Ticks { next, period } => {
                let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
                let is_there = *next == Some(due);
                if is_there {
                    *next = due.max(began).checked_add(*period);
                }
                is_there
            }
        }
    }
}
