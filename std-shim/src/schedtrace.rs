//! The setting `GOPARK_SCHEDTRACE`.

use crate::environment;
use gopark_core::os::Nanos;
use std::io::{self, ErrorKind};

const VARIABLE: &str = "GOPARK_SCHEDTRACE";

/// Returns the interval that `GOPARK_SCHEDTRACE` sets. `None` if it is not set or, as in Go, 0.
pub(crate) fn interval(sysmon: bool) -> io::Result<Option<Nanos>> {
    let Some(value) = environment::nonempty(VARIABLE) else {
        return Ok(None);
    };
    match value.to_str().and_then(|text| text.parse::<u32>().ok()) {
        None => Err(environment::invalid(
            VARIABLE,
            &value,
            "a number of milliseconds",
        )),
        Some(0) => Ok(None),
        Some(_) if !sysmon => {
            let text = format!(
                "{VARIABLE}: sysmon prints these lines, and Builder::sysmon(false) turns it off"
            );
            Err(io::Error::new(ErrorKind::InvalidInput, text))
        }
        Some(millis) => Ok(Some(Nanos::from(millis) * 1_000_000)),
    }
}
