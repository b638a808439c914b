//! hyper 1 on tokio: plain text over HTTP/1.1.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use peers::opts;
use std::convert::Infallible;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"Hello, World!")));
    let kind = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

async fn serve(stream: TcpStream) {
    let mut http = http1::Builder::new();
    http.pipeline_flush(true);
    // A client may leave in the middle of a request.
    _ = http
        .serve_connection(TokioIo::new(stream), service_fn(hello))
        .await;
}

fn main() {
    let o = opts();
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.worker_threads(o.workers).enable_all().build();
    runtime.unwrap().block_on(async move {
        let listener = TcpListener::bind(&o.addr).await.unwrap();
        // A task runs on a worker, `block_on` on a thread of its own.
        let accept = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(stream));
            }
        });
        accept.await.unwrap();
    });
}
