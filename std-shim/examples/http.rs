//! An HTTP/1.1 server: one goroutine for each connection, and the crate `httparse` for the heads of
//! requests. It answers all requests that one read brought by one write.
//!
//! ```text
//! cargo run --release --example http -- [--addr 127.0.0.1:7000] [--workers CPUS]
//!     [--timeout-ms 10000]
//! curl -i http://127.0.0.1:7000/
//! ```
//!
//! `--timeout-ms` is how long a client may take for a request, counted from the reply before, and
//! for each write of replies. What the server refuses it answers with the status and closes the
//! connection: a malformed head (400), a method other than GET and HEAD (405), a request that does
//! not come in time (408), a body over 64 KiB (413), a head over 8 KiB or 32 fields (431), a body
//! in chunks (501), another version of HTTP (505).

use gopark::net::{TcpListener, TcpStream};
use httparse::{EMPTY_HEADER, Error as Malformed, Header};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, str};

const OPTIONS: [&str; 3] = ["--addr", "--workers", "--timeout-ms"];
const HEAD_MAX: usize = 8 << 10;
const BODY_MAX: usize = 64 << 10;
const FIELDS_MAX: usize = 32;
const GREETING: &[u8] = b"Hello, World!";

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    if let Some(wrong) = args
        .chunks(2)
        .find(|pair| pair.len() < 2 || !OPTIONS.contains(&pair[0].as_str()))
    {
        return Err(invalid(format!(
            "{}: the options are {}, each with a value",
            wrong[0],
            OPTIONS.join(", ")
        )));
    }
    let mut settings = gopark::Builder::new();
    if let Some(workers) = option("--workers")? {
        settings = settings.max_procs(workers);
    }
    settings.start()?;
    let addr = option("--addr")?.unwrap_or_else(|| "127.0.0.1:7000".to_string());
    let limit = Duration::from_millis(option("--timeout-ms")?.unwrap_or(10_000));
    gopark::run(|| {
        let listener = TcpListener::bind(addr)?;
        println!("listening on {}", listener.local_addr()?);
        loop {
            match listener.accept() {
                Ok((stream, _)) => drop(gopark::go(move || Client::new(stream).serve(limit))),
                // Probably out of descriptors: the connection stays queued until others are closed.
                Err(error) => {
                    eprintln!("accept: {error}");
                    gopark::sleep(Duration::from_millis(10));
                }
            }
        }
    })
}

/// Returns the value after `name` on the command line.
fn option<T: FromStr>(name: &str) -> io::Result<Option<T>> {
    let Some(value) = env::args().skip_while(|arg| arg != name).nth(1) else {
        return Ok(None);
    };
    let wrong = || invalid(format!("{name}: cannot read {value:?}"));
    value.parse().map(Some).map_err(|_| wrong())
}

fn invalid(text: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, text)
}

/// A status other than 200, with which a connection ends.
type Refusal = &'static str;

const BAD_REQUEST: Refusal = "400 Bad Request";
const METHOD_NOT_ALLOWED: Refusal = "405 Method Not Allowed";
const TIMEOUT: Refusal = "408 Request Timeout";
const BODY_TOO_LARGE: Refusal = "413 Content Too Large";
const HEAD_TOO_LARGE: Refusal = "431 Request Header Fields Too Large";
const NOT_IMPLEMENTED: Refusal = "501 Not Implemented";
const WRONG_VERSION: Refusal = "505 HTTP Version Not Supported";

struct Request {
    /// Bytes of the head.
    head: usize,
    /// Bytes of the body, which the server skips.
    body: usize,
    wants_body: bool,
    is_last: bool,
}

impl Request {
    /// The first request in `bytes`. `None` if its head is not complete.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Refusal> {
        let mut fields = [EMPTY_HEADER; FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut fields);
        let head = match parsed.parse(bytes) {
            Ok(httparse::Status::Complete(head)) => head,
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => return Ok(None),
            Ok(httparse::Status::Partial) | Err(Malformed::TooManyHeaders) => {
                return Err(HEAD_TOO_LARGE);
            }
            Err(Malformed::Version) => return Err(WRONG_VERSION),
            Err(_) => return Err(BAD_REQUEST),
        };
        let is_newer = parsed.version == Some(1);
        let mut request = Request {
            head,
            body: 0,
            wants_body: match parsed.method {
                Some("GET") => true,
                Some("HEAD") => false,
                _ => return Err(METHOD_NOT_ALLOWED),
            },
            is_last: !is_newer,
        };
        let hosts = request.read_fields(parsed.headers)?;
        // RFC 9112, 3.2. Two hosts could mean one server to a proxy and another one here.
        if hosts > 1 || (is_newer && hosts == 0) {
            return Err(BAD_REQUEST);
        }
        Ok(Some(request))
    }

    /// Applies the fields that say where the request ends. Returns how many name a host.
    fn read_fields(&mut self, fields: &[Header<'_>]) -> Result<usize, Refusal> {
        let (mut hosts, mut lengths) = (0, 0);
        for field in fields {
            let is = |name| field.name.eq_ignore_ascii_case(name);
            if is("host") {
                hosts += 1;
            } else if is("content-length") {
                // `parse` would take a sign.
                let digits = field.value.iter().all(u8::is_ascii_digit);
                let text = str::from_utf8(field.value).map_err(|_| BAD_REQUEST)?;
                if !digits || lengths > 0 {
                    return Err(BAD_REQUEST);
                }
                lengths += 1;
                self.body = match text.parse() {
                    Ok(body) if body <= BODY_MAX => body,
                    _ if text.is_empty() => return Err(BAD_REQUEST),
                    _ => return Err(BODY_TOO_LARGE),
                };
            } else if is("transfer-encoding") {
                return Err(NOT_IMPLEMENTED);
            } else if is("connection") {
                let mut words = field.value.split(|byte| *byte == b',');
                self.is_last |= words.any(|it| it.trim_ascii().eq_ignore_ascii_case(b"close"));
            }
        }
        Ok(hosts)
    }
}

struct Client {
    stream: TcpStream,
    /// What was read and not handled yet: the first `filled` bytes.
    buffer: Vec<u8>,
    filled: usize,
    /// Bytes of the current request's body that have not come yet.
    body: usize,
    replies: Vec<u8>,
    date: Date,
}

impl Client {
    fn new(stream: TcpStream) -> Self {
        Client {
            stream,
            buffer: vec![0; HEAD_MAX],
            filled: 0,
            body: 0,
            replies: Vec::new(),
            date: Date::default(),
        }
    }

    fn serve(mut self, limit: Duration) -> io::Result<()> {
        self.stream.set_write_timeout(Some(limit))?;
        self.expect_request(limit)?;
        loop {
            match self.stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Ok(()),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == ErrorKind::TimedOut && self.is_amid_request() => {
                    return self.refuse(TIMEOUT);
                }
                Err(error) => return Err(error),
            }
            let answered = self.answer();
            if !self.replies.is_empty() {
                self.stream.write_all(&self.replies)?;
                self.replies.clear();
                self.expect_request(limit)?;
            }
            match answered {
                Ok(false) => {}
                Ok(true) => return self.close(),
                Err(status) => return self.refuse(status),
            }
        }
    }

    /// Sets when the next request must be complete. Each byte of it does not get more time: a
    /// client could send one a second.
    fn expect_request(&self, limit: Duration) -> io::Result<()> {
        self.stream.set_read_deadline(Some(Instant::now() + limit))
    }

    fn is_amid_request(&self) -> bool {
        self.filled > 0 || self.body > 0
    }

    /// Adds the replies to all complete requests in the buffer. Returns whether the last of them
    /// ends the connection.
    fn answer(&mut self) -> Result<bool, Refusal> {
        let mut done = 0;
        let outcome = loop {
            let skipped = self.body.min(self.filled - done);
            self.body -= skipped;
            done += skipped;
            if done == self.filled {
                break Ok(false);
            }
            match Request::parse(&self.buffer[done..self.filled]) {
                Ok(Some(request)) => {
                    done += request.head;
                    self.body = request.body;
                    self.reply(&request);
                    if request.is_last {
                        break Ok(true);
                    }
                }
                Ok(None) => break Ok(false),
                Err(status) => break Err(status),
            }
        };
        self.buffer.copy_within(done..self.filled, 0);
        self.filled -= done;
        outcome
    }

    fn reply(&mut self, request: &Request) {
        let connection = if request.is_last {
            "Connection: close\r\n"
        } else {
            ""
        };
        let date = self.date.now();
        for part in [
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\nDate: ",
            date.as_bytes(),
            b"\r\n",
            connection.as_bytes(),
            b"\r\n",
        ] {
            self.replies.extend_from_slice(part);
        }
        if request.wants_body {
            self.replies.extend_from_slice(GREETING);
        }
    }

    fn refuse(mut self, status: Refusal) -> io::Result<()> {
        let allow = match status {
            METHOD_NOT_ALLOWED => "Allow: GET, HEAD\r\n",
            _ => "",
        };
        let date = self.date.now();
        write!(
            self.stream,
            "HTTP/1.1 {status}\r\nContent-Length: 0\r\nDate: {date}\r\n{allow}\
             Connection: close\r\n\r\n"
        )?;
        self.close()
    }

    /// Reads for up to a second what the client still sends. A close with unread bytes would reset
    /// the connection, and the client might lose the last reply (RFC 9112, 9.6).
    fn close(mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        let end = Instant::now() + Duration::from_secs(1);
        self.stream.set_read_deadline(Some(end))?;
        while self.stream.read(&mut self.buffer)? != 0 {}
        Ok(())
    }
}

/// The time as HTTP writes it. It is made once for each second.
#[derive(Default)]
struct Date {
    second: u64,
    text: String,
}

impl Date {
    fn now(&mut self) -> &str {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let second = now.map_or(0, |since| since.as_secs());
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text = http_date(second);
        }
        &self.text
    }
}

/// `seconds` after 1970 as in RFC 9110, 5.6.7.
fn http_date(seconds: u64) -> String {
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let weekday = WEEKDAYS[(days % 7) as usize];
    let (mut year, mut day) = (1970, days);
    let is_leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 0;
    loop {
        let length = match month {
            1 => 28 + u64::from(is_leap(year)),
            3 | 5 | 8 | 10 => 30,
            _ => 31,
        };
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    format!(
        "{weekday}, {:02} {} {year} {:02}:{:02}:{:02} GMT",
        day + 1,
        MONTHS[month],
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}
