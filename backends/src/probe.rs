//! Whether a sandbox permits a poller's wait.

use crate::linux::retry_or_abort;
use core::fmt;
use gopark_core::os::Errno;

/// Makes a wait that returns at once, with which a new poller finds out whether a sandbox permits
/// it. Returns the error of a sandbox, which refuses the call each time. Other failures are handled
/// as in the poller's own waits.
pub(crate) fn probe(
    call: fmt::Arguments<'_>,
    mut wait: impl FnMut() -> Result<usize, Errno>,
) -> Result<(), Errno> {
    let mut failures = 0;
    loop {
        match wait().map_err(Errno::raw) {
            Ok(_) => return Ok(()),
            Err(libc::EINTR) => {}
            Err(errno @ (libc::ENOSYS | libc::EPERM | libc::EACCES)) if failures > 0 => {
                return Err(Errno::new(errno));
            }
            Err(errno) => retry_or_abort(call, Errno::new(errno), &mut failures),
        }
    }
}
