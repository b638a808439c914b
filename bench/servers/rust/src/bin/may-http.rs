//! may_minihttp: plain text over HTTP/1.1.

use may_minihttp::{HttpService, HttpServiceFactory, Request, Response};
use peers::opts;
use std::io;

#[derive(Clone)]
struct Hello;

impl HttpService for Hello {
    fn call(&mut self, _: Request<'_, '_, '_>, response: &mut Response<'_>) -> io::Result<()> {
        response
            .header("Content-Type: text/plain")
            .body("Hello, World!");
        Ok(())
    }
}

struct Factory;

impl HttpServiceFactory for Factory {
    type Service = Hello;

    fn new_service(&self, _: usize) -> Hello {
        Hello
    }
}

fn main() {
    let o = opts();
    may::config().set_workers(o.workers);
    Factory.start(&o.addr).unwrap().wait();
}
