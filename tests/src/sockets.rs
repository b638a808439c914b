//! Connections for tests, and checks of their errors.

use gopark::PollError;
use gopark::net::{TcpListener, TcpStream};
use socket2::SockRef;
use std::io::{self, ErrorKind, Read};

/// A listener on a free port of the loopback.
pub fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// Both ends of a connection.
pub fn pair() -> (TcpStream, TcpStream) {
    pair_at(&listener())
}

/// Both ends of a connection to a listener that has no other clients: the end that connected, and
/// the accepted one.
pub fn pair_at(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, peer) = listener.accept().unwrap();
    assert_eq!(peer, near.local_addr().unwrap());
    (near, far)
}

/// Both ends of a connection with small buffers: a writer waits for a reader long before a
/// megabyte.
pub fn narrow_pair() -> (TcpStream, TcpStream) {
    let (near, far) = pair();
    for stream in [&near, &far] {
        SockRef::from(stream)
            .set_send_buffer_size(32 << 10)
            .unwrap();
        SockRef::from(stream)
            .set_recv_buffer_size(32 << 10)
            .unwrap();
    }
    (near, far)
}

/// The poll error that `error` wraps.
pub fn poll_error(error: &io::Error) -> Option<PollError> {
    error.get_ref()?.downcast_ref().copied()
}

/// Fails unless the error is a timeout, in each of its forms.
#[track_caller]
pub fn assert_timeout<T: std::fmt::Debug>(result: io::Result<T>) {
    let error = result.unwrap_err();
    assert_eq!(poll_error(&error), Some(PollError::Timeout), "{error:?}");
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::TimedOut, "i/o timeout")
    );
}

/// Fails unless the error says that the socket was closed, in each of its forms.
#[track_caller]
pub fn assert_closing<T: std::fmt::Debug>(result: io::Result<T>) {
    let error = result.unwrap_err();
    assert_eq!(poll_error(&error), Some(PollError::Closing), "{error:?}");
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (
            ErrorKind::ConnectionAborted,
            "use of closed network connection"
        )
    );
}

/// `len` bytes in which two neighbouring blocks always differ.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251 + i / 4096) as u8).collect()
}

/// Reads to the end of the stream, up to `len` bytes at a time.
pub fn read_to_end(mut stream: &TcpStream, len: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; len];
    let mut all = Vec::new();
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(all),
            n => all.extend_from_slice(&buffer[..n]),
        }
    }
}
