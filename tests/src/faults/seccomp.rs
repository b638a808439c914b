//! Kernels and containers that lack a system call.
#![allow(unsafe_code, reason = "a filter is installed through prctl")]

use super::Tally;

/// Puts this process under the profile `name`.
pub fn enter(_name: &str) {}

/// Runs the subject under each profile.
pub fn cases(_tally: &mut Tally) {}
