//! Reads a site by its links: over four connections at most, each page once, and for two seconds at
//! most. It serves the site itself. One page of it takes an hour.
//!
//! ```text
//! cargo run --example crawler
//! ```

use gopark::net::{SocketAddr, TcpListener, TcpStream};
use gopark::sync::{Mutex, Semaphore};
use gopark::{Scope, go, scope, sleep, with_timeout};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Error, Result, Write};
use std::time::Duration;

struct Crawl {
    site: SocketAddr,
    connections: Semaphore,
    found: Mutex<BTreeSet<u32>>,
    read: Mutex<BTreeSet<u32>>,
}

impl Crawl {
    /// Starts a goroutine that reads a page and visits its links, if the page is new.
    fn visit<'scope>(&'scope self, s: &'scope Scope<'scope, '_>, page: u32) {
        if self.found.lock().unwrap().insert(page) {
            s.go(move || {
                // Fails if the time is over.
                let links = self.links(page)?;
                self.read.lock().unwrap().insert(page);
                links.into_iter().for_each(|link| self.visit(s, link));
                Ok::<(), Error>(())
            });
        }
    }

    fn links(&self, page: u32) -> Result<Vec<u32>> {
        let _one_of_four = self.connections.acquire().map_err(Error::other)?;
        let mut conn = TcpStream::connect(self.site)?;
        writeln!(conn, "{page}")?;
        let links = std::io::read_to_string(conn)?;
        links.split_whitespace().map(parse).collect()
    }
}

fn main() -> Result<()> {
    gopark::run(|| {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let crawl = Crawl {
            site: listener.local_addr()?,
            connections: Semaphore::new(4),
            found: Mutex::default(),
            read: Mutex::default(),
        };
        go(move || {
            for conn in listener.incoming().flatten() {
                go(|| serve(conn));
            }
        });
        let crawled = with_timeout(Duration::from_secs(2), || scope(|s| crawl.visit(s, 1)));
        let (found, read) = (crawl.found.lock().unwrap(), crawl.read.lock().unwrap());
        let (in_time, pages, missing) = (crawled.is_ok(), read.len(), &*found - &*read);
        println!("in time: {in_time}; {pages} pages, without {missing:?}");
        Ok(())
    })
}

/// Serves a page: the numbers of two further pages and of the first one.
fn serve(mut conn: TcpStream) -> Result<()> {
    let request = BufReader::new(&conn).lines().next();
    match parse(&request.unwrap_or(Ok(String::new()))?)? {
        77 => Ok(sleep(Duration::from_secs(3600))),
        page @ 1..50 => write!(conn, "{} {} 1", 2 * page, 2 * page + 1),
        _ => write!(conn, "1"),
    }
}

fn parse(page: &str) -> Result<u32> {
    page.parse().map_err(Error::other)
}
