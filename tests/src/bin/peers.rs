//! Small servers and clients for `ci/peers.sh`, which runs programs of Debian against them:
//!
//! | arguments | it |
//! |---|---|
//! | `echo-unix PATH` | echoes streams |
//! | `echo-seqpacket PATH` | echoes messages |
//! | `echo-udp ADDRESS` | echoes datagrams |
//! | `http-unix PATH` | answers each request with `hello` |
//! | `activated` | echoes the streams of the listeners that it was started with |
//! | `dial ADDRESS` | sends its standard input, and prints the answer |
//! | `pty COMMAND` | runs a command on a terminal of its own, and prints what it writes |

use gopark::net::{
    Descriptor, Dialer, Shutdown, TcpListener, UdpSocket, UnixListener, UnixSeqpacketListener,
    UnixStream, listeners_from_env,
};
use gopark::process::{Command, Stdio};
use gopark_tests::watch::terminal;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let result = gopark::run(move || match arguments[..] {
        ["echo-unix", path] => echo_unix(path),
        ["echo-seqpacket", path] => echo_seqpacket(path),
        ["echo-udp", addr] => echo_udp(addr),
        ["http-unix", path] => http_unix(path),
        ["activated"] => activated(),
        ["dial", addr] => dial(addr),
        ["pty", command] => on_terminal(command),
        _ => Err(io::Error::other("see the head of peers.rs")),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The script waits for this line.
fn ready() -> io::Result<()> {
    writeln!(gopark::io::stdout(), "ready")
}

fn echo_unix(path: &str) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    ready()?;
    for stream in listener.incoming() {
        let stream = stream?;
        gopark::go(move || gopark::io::copy(&stream, &stream).map_err(io::Error::from));
    }
    Ok(())
}

fn echo_seqpacket(path: &str) -> io::Result<()> {
    let listener = UnixSeqpacketListener::bind(path)?;
    ready()?;
    loop {
        let (connection, _) = listener.accept()?;
        gopark::go(move || {
            let mut buffer = [0; 4096];
            loop {
                match connection.recv(&mut buffer)? {
                    0 => return io::Result::Ok(()),
                    len => connection.send(&buffer[..len])?,
                };
            }
        });
    }
}

fn echo_udp(addr: &str) -> io::Result<()> {
    let socket = UdpSocket::bind(addr)?;
    ready()?;
    let mut buffer = [0; 2048];
    loop {
        let (len, sender) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..len], sender)?;
    }
}

fn http_unix(path: &str) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    ready()?;
    for stream in listener.incoming() {
        let stream = stream?;
        gopark::go(move || answer(&stream));
    }
    Ok(())
}

fn answer(stream: &UnixStream) -> io::Result<()> {
    let request = BufReader::new(stream).lines();
    for line in request {
        if line?.is_empty() {
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n";
            return { stream }.write_all(answer.as_bytes());
        }
    }
    Ok(())
}

fn activated() -> io::Result<()> {
    for inherited in listeners_from_env()? {
        let listener = TcpListener::try_from(inherited)?;
        for stream in listener.incoming() {
            let stream = stream?;
            gopark::go(move || gopark::io::copy(&stream, &stream).map_err(io::Error::from));
        }
    }
    Ok(())
}

fn dial(addr: &str) -> io::Result<()> {
    let mut stream = Dialer::new().timeout(Duration::from_secs(10)).dial(addr)?;
    let mut question = Vec::new();
    gopark::io::stdin().read_to_end(&mut question)?;
    stream.write_all(&question)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    gopark::io::stdout().write_all(&answer)
}

fn on_terminal(command: &str) -> io::Result<()> {
    let (ours, theirs) = terminal();
    let end = || theirs.try_clone().map(Stdio::from);
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(end()?)
        .stdout(end()?)
        .stderr(end()?)
        .spawn()?;
    drop(theirs);
    let mut ours = Descriptor::new(ours)?;
    let mut output = Vec::new();
    // Linux answers with EIO when the last process has closed the terminal.
    match ours.read_to_end(&mut output) {
        Err(error) if error.raw_os_error() != Some(libc::EIO) => return Err(error),
        _ => {}
    }
    gopark::io::stdout().write_all(&output)?;
    match child.wait()?.success() {
        true => Ok(()),
        false => Err(io::Error::other("the command has failed")),
    }
}
