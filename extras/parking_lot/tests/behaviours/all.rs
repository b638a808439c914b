//! What holds for goroutines and for ordinary threads. A suite includes this file, runs a behaviour
//! in `check`, and starts those that take part in `spawn`.

pub(crate) mod actors;
mod condvar;
mod exclusion;
mod features;
pub(crate) mod mutex;
mod once;
mod reentrant;
mod rwlock;
mod upgrades;
