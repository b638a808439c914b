//! All goroutines share one thread: a wait that blocked it would never end.

use crossbeam::channel::{Receiver, Sender, after, bounded, unbounded};
use gopark::Builder;
use lsp_server::{Connection, ErrorCode, Message, Notification, Request, RequestId, Response};
use serde_json::json;
use std::sync::Once;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Longer than any wait of a test.
const LONG: Duration = Duration::from_secs(60);

/// Runs `program` in a goroutine. Fails if it panics or hangs.
fn check(program: impl FnOnce() + Send + 'static) {
    static START: Once = Once::new();
    START.call_once(|| {
        Builder::new()
            .max_procs(1)
            .start()
            .expect("the runtime starts")
    });
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(gopark::go(program).join().is_ok()));
    let passed = receiver.recv_timeout(2 * LONG);
    assert_eq!(passed, Ok(true), "the program has panicked, or hangs");
}

#[test]
fn crossbeam_has_the_channels_of_goroutines() {
    check(|| {
        // The handles of `crossbeam` are those of the crate that replaces crossbeam-channel.
        let (sender, receiver): (Sender<u32>, Receiver<u32>) = bounded(0);
        let goroutine = gopark::go_local(move || {
            gopark::sleep(Duration::from_millis(2));
            (0..100).for_each(|i| sender.send(i).unwrap());
        });
        for i in 0..100 {
            crossbeam::select! {
                recv(receiver) -> message => assert_eq!(message, Ok(i)),
                recv(after(LONG)) -> _ => panic!("too late"),
            }
        }
        goroutine.join().unwrap();
    });
}

#[test]
fn selects_of_crossbeam_serve_goroutines() {
    check(|| {
        let (requests, from_requests) = bounded::<(u32, Sender<u32>)>(1);
        let (stop, from_stop) = bounded::<()>(0);
        let server = gopark::go(move || {
            loop {
                crossbeam::channel::select! {
                    recv(from_requests) -> request => {
                        let (number, reply) = request.unwrap();
                        reply.send(number + 1).unwrap();
                    }
                    recv(from_stop) -> _ => break,
                    default(LONG) => panic!("too late"),
                }
            }
        });
        let clients: Vec<_> = (0..20)
            .map(|number| {
                let requests = requests.clone();
                gopark::go(move || {
                    let (reply, from_reply) = unbounded();
                    requests.send((number, reply)).unwrap();
                    assert_eq!(from_reply.recv(), Ok(number + 1));
                })
            })
            .collect();
        clients
            .into_iter()
            .for_each(|client| client.join().unwrap());
        drop(stop);
        server.join().unwrap();
    });
}

/// A language server that replies to each request with its parameters.
fn serve(connection: Connection) {
    let capabilities = json!({ "hoverProvider": true });
    connection.initialize(capabilities).unwrap();
    for message in &connection.receiver {
        let Message::Request(request) = message else {
            continue;
        };
        if connection.handle_shutdown(&request).unwrap() {
            return;
        }
        let Request { id, method, params } = request;
        let reply = match method.as_str() {
            "echo" => Response::new_ok(id, params),
            _ => Response::new_err(id, ErrorCode::MethodNotFound as i32, method),
        };
        connection.sender.send(reply.into()).unwrap();
    }
    panic!("the client went without a shutdown");
}

#[test]
fn a_language_server_and_its_client_share_a_thread() {
    fn call(client: &Connection, id: i32, method: &str, params: serde_json::Value) -> Response {
        let request = Request::new(id.into(), method.into(), params);
        client.sender.send(request.into()).unwrap();
        match client.receiver.recv_timeout(LONG) {
            Ok(Message::Response(response)) => {
                assert_eq!(response.id, RequestId::from(id));
                response
            }
            other => panic!("no response: {other:?}"),
        }
    }
    fn notify(client: &Connection, method: &str) {
        let note = Notification::new(method.into(), json!({}));
        client.sender.send(note.into()).unwrap();
    }
    check(|| {
        let (server, client) = Connection::memory();
        let server = gopark::go(move || serve(server));
        let initialized = call(&client, 0, "initialize", json!({ "capabilities": {} }));
        let capabilities = &initialized.result.unwrap()["capabilities"];
        assert_eq!(capabilities["hoverProvider"], true);
        notify(&client, "initialized");
        for id in 1..50 {
            let response = call(&client, id, "echo", json!([id, "text"]));
            assert_eq!(response.result, Some(json!([id, "text"])));
        }
        assert!(call(&client, 50, "unknown", json!(null)).error.is_some());
        assert!(call(&client, 51, "shutdown", json!(null)).error.is_none());
        notify(&client, "exit");
        server.join().unwrap();
    });
}
