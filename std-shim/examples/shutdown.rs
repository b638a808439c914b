//! A server that shuts down gracefully. When its standard input ends it stops accepting, and
//! connections without a request end. Requests in flight have two more seconds, and are then
//! cancelled. Their clients are told in any case.
//!
//! ```text
//! cargo run --example shutdown -- 127.0.0.1:7000   # Ctrl-D shuts it down.
//! nc 127.0.0.1 7000   # A request is a line with the milliseconds of work that it takes.
//! ```

use gopark::net::{TcpListener, TcpStream};
use gopark::sync::Cancel;
use gopark::{check_cancel, go, scope, shield, sleep};
use std::io::{self, BufRead, BufReader, Write};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

const GRACE: Duration = Duration::from_secs(2);

static ANSWERED: AtomicU32 = AtomicU32::new(0);
static CUT_OFF: AtomicU32 = AtomicU32::new(0);

fn main() -> io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or("127.0.0.1:7000".into());
    gopark::run(|| {
        let listener = TcpListener::bind(addr)?;
        println!("listening on {}", listener.local_addr()?);
        scope(|requests| {
            let stop = requests.token().child();
            go({
                let stop = stop.clone();
                move || {
                    _ = gopark::blocking(|| io::copy(&mut io::stdin(), &mut io::sink()));
                    stop.cancel();
                }
            });
            loop {
                match stop.run(|| listener.accept()) {
                    Ok((conn, _)) => {
                        let stop = stop.clone();
                        requests.go(move || serve(&conn, &stop));
                    }
                    Err(_) if stop.is_cancelled() => break,
                    Err(error) => eprintln!("accept: {error}"),
                }
            }
            drop(listener);
            println!("no more requests are accepted");
            requests.token().set_timeout(GRACE);
        });
        println!("{ANSWERED:?} requests were answered, {CUT_OFF:?} cut off");
        Ok(())
    })
}

/// Serves a client until it leaves, or the server stops between two requests.
fn serve(mut conn: &TcpStream, stop: &Cancel) -> io::Result<()> {
    // A client that does not read its replies must not hold up the end.
    conn.set_write_timeout(Some(GRACE))?;
    let mut lines = BufReader::new(conn).lines();
    while let Some(line) = stop.run(|| lines.next()) {
        let millis = line?.trim().parse().map_err(io::Error::other)?;
        writeln!(conn, "working for {millis} ms")?;
        sleep(Duration::from_millis(millis));
        let (outcome, count) = match check_cancel() {
            Ok(()) => ("done", &ANSWERED),
            Err(_) => ("cut off: the server shuts down", &CUT_OFF),
        };
        count.fetch_add(1, Relaxed);
        shield(|| writeln!(conn, "{outcome}"))?;
    }
    Ok(())
}
