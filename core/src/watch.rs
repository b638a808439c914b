//! Watchers: they read what the scheduler does, for people. The scheduler decides nothing by them
//! and calls them only through the options that a program passes in
//! [`Config`](crate::sched::Config).
//!
//! | module | what it does | runs on |
//! |---|---|---|
//! | `snapshot` | shows each goroutine, what it waits for and its stack | the caller's thread |
//! | `stall` | reports goroutines that keep their threads | sysmon |
//! | `rescue` | ends waits for locks that keep threads from other goroutines | sysmon |
//! | `deadlock` | reports that nothing will ever wake a goroutine | sysmon |
//! | `schedtrace` | reports Go's line about the scheduler every period | sysmon |
//! | `shrink` | returns memory of stacks that is not in use | sysmon |
//! | `report` | writes each report as text | the caller's thread |

mod deadlock;
mod report;
mod rescue;
mod schedtrace;
mod shrink;
mod snapshot;
mod stall;

pub use crate::cancel::Cancellation;
pub use crate::join::Owner;
pub use crate::trace::{Canceller, Identity};
pub use crate::wait_info::{Descriptor, Place, Wait};
pub use rescue::rescue;
pub use snapshot::{Behind, Goroutine, LockBlock, StackCopy, State};
