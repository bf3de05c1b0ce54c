//! Clients that are slow, huge, many, or never stop: they neither hold nor grow the process, nor stop the cycles.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use litesnap::server::CONNECTIONS_MAX;

use super::{Answer, LONG, Loop};
use crate::place::{Place, eventually};

fn ready() -> (Place, Loop) {
    let place = Place::new();
    place.make("a.db", "delete", 2);
    let running = Loop::over(&place, "1s", &[]);
    assert!(eventually(LONG, || running.get("/readyz").status == 200));
    (place, running)
}

fn cycles(running: &Loop) -> f64 {
    running.metric("litesnap_cycles_total{result=\"succeeded\"}")
}

/// Whether the other side has ended the connection; what it answered before is read and dropped.
fn ends(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(e) => matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
    }
}

#[test]
fn clients_that_never_finish_their_request_are_dropped_and_others_answered() {
    let (_place, running) = ready();
    let before = cycles(&running);
    // As many as there are places, and some more that wait for one.
    let mut slow: Vec<TcpStream> = (0..CONNECTIONS_MAX + 16).map(|_| running.connect()).collect();
    for (n, stream) in slow.iter_mut().enumerate() {
        let part = &b"GET /stats HTTP/1.1\r\nHost: localhost\r\nX-Slow: "[..];
        // None at all, a part of a line, a part of the headers.
        stream.write_all(&part[..(n % 3) * part.len() / 2]).unwrap();
    }
    running.get("/healthz").expect(200);
    assert!(slow.iter_mut().all(ends), "each is ended by the other side");
    assert!(cycles(&running) > before, "cycles went on");
}

#[test]
fn a_client_that_sends_on_and_on_does_not_keep_its_place() {
    let (_place, running) = ready();
    let mut drip = running.connect();
    drip.write_all(b"GET /stats HTTP/1.1\r\n").unwrap();
    // One header after the other, faster than any pause between two reads.
    let ended = eventually(LONG, || drip.write_all(b"a: b\r\n").is_err());
    assert!(ended, "headers are limited in number and in time");
    running.get("/healthz").expect(200);
}

#[test]
fn huge_requests_are_refused_and_leave_nothing() {
    let (_place, running) = ready();
    let memory = || running.metric("litesnap_resident_memory_bytes");
    let before = memory();
    let huge = "x".repeat(1 << 20);
    for request in [
        format!("GET /{huge} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET /stats HTTP/1.1\r\nHost: localhost\r\nX: {huge}\r\n\r\n"),
        format!("GET /stats HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(100_000)),
        huge.clone(),
    ] {
        for _ in 0..64 {
            let mut stream = running.connect();
            // It may be ended while we still send, and its answer lost with that.
            stream.write_all(request.as_bytes()).ok();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).ok();
            if !answer.is_empty() {
                let answer = Answer::parse(&String::from_utf8(answer).unwrap());
                assert!([400, 414, 431].contains(&answer.status), "{answer:?}");
            }
        }
    }
    // 256 MiB were sent.
    let grown = memory() - before;
    assert!(grown < 16e6, "{grown} bytes more");
}

#[test]
fn a_body_is_not_read_and_a_connection_is_one_request() {
    let (_place, running) = ready();
    let mut stream = running.connect();
    stream.write_all(b"POST /stats HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000000\r\n\r\n").unwrap();
    let block = [0_u8; 64 << 10];
    let mut sent = 0_u64;
    let ended = eventually(LONG, || {
        sent += stream.write(&block).map_or(0, |n| u64::try_from(n).unwrap());
        stream.write(b"x").is_err()
    });
    assert!(ended, "{sent} bytes were taken");
    let answer = running.ask(&"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(3));
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"), "one request, one answer");
}

/// Who opens connections and says nothing holds no place against those who ask.
#[test]
fn probes_are_answered_however_many_connections_say_nothing() {
    let (_place, running) = ready();
    let mut silent: Vec<TcpStream> = (0..CONNECTIONS_MAX * 3).map(|_| running.connect()).collect();
    for _ in 0..20 {
        assert_eq!(running.get("/healthz").status, 200);
        assert_eq!(running.get("/livez").status, 200);
        silent.push(running.connect());
    }
    assert!(ends(&mut silent[0]), "the oldest made room");
}
