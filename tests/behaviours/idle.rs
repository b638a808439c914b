//! Connections that wait without a stack.

use crate::check;
use gopark::chan::{self, Receiver};
use gopark::net::{TcpStream, UdpSocket, UnixStream, on_readable};
use gopark::{PollError, go, metrics, yield_now};
use gopark_tests::sockets::{assert_closing, assert_timeout, poll_error, tcp_pair};
use gopark_tests::until;
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
