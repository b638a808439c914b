//! Networks that delay, lose and swallow.

use super::Tally;
use std::process::ExitCode;

/// A program.
pub fn main(_program: &str) -> ExitCode {
    ExitCode::SUCCESS
}

/// Cases.
pub fn cases(_tally: &mut Tally) {}
