//! Beats while everything is fresh, and only then; no beat delays a cycle or tells the secret in its URL.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::{LONG, Loop, commit};
use crate::place::{Place, Ran, eventually};

const SECRET: &str = "0b1c2d3e-secret";

/// What a heartbeat service does with a request.
#[derive(Debug, Clone)]
enum How {
    Answer(&'static str),
    /// To another path of the same host, which answers.
    Redirect(&'static str),
    /// To itself, for ever.
    Circle,
    Hang,
}

#[derive(Debug)]
struct Seen {
    how: Mutex<How>,
    requests: Mutex<Vec<Vec<String>>>,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

/// A heartbeat service: HTTP on a thread for each connection.
struct Service {
    port: u16,
    seen: Arc<Seen>,
}

impl Service {
    fn start(how: How) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Seen {
            how: Mutex::new(how),
            requests: Mutex::default(),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
        });
        let served = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let served = Arc::clone(&served);
                std::thread::spawn(move || served.serve(stream.unwrap()));
            }
        });
        Self { port, seen }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/ping/{SECRET}?token={SECRET}", self.port)
    }

    fn beats(&self) -> usize {
        self.seen.requests.lock().len()
    }

    fn now(&self, how: How) {
        *self.seen.how.lock() = how;
    }
}

impl Seen {
    fn serve(&self, mut stream: TcpStream) {
        let open = 1 + self.open.fetch_add(1, Ordering::SeqCst);
        self.most_open.fetch_max(open, Ordering::SeqCst);
        let reader = BufReader::new(stream.try_clone().unwrap());
        let head: Vec<String> = reader.lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let path = head.first().cloned().unwrap_or_default();
        self.requests.lock().push(head);
        let how = self.how.lock().clone();
        match how {
            How::Answer(status) => {
                write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap()
            }
            How::Redirect(to) if !path.contains(to) => redirect(&mut stream, to),
            How::Circle => redirect(&mut stream, "/round"),
            How::Redirect(_) => write!(stream, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap(),
            How::Hang => {
                // Until the other side gives up.
                std::io::copy(&mut stream, &mut std::io::sink()).ok();
            }
        }
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn redirect(stream: &mut TcpStream, to: &str) {
    let head = format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
}

fn cycles(running: &Loop) -> f64 {
    running.metric("litesnap_cycles_total{result=\"succeeded\"}")
}

/// A loop with a heartbeat that says everything it could say.
fn beating(place: &mut Place, service: &Service, more: &[&str]) -> Loop {
    place.env.push(("RUST_LOG".into(), "trace".into()));
    Loop::over(place, "1s", &[&["--heartbeat-url", &service.url()], more].concat())
}

#[test]
fn it_beats_while_all_is_fresh_and_not_while_anything_fails() {
    let (mut place, service) = (Place::new(), Service::start(How::Answer("200 OK")));
    place.make("a.db", "delete", 2);
    let running = beating(&mut place, &service, &[]);
    assert!(eventually(LONG, || service.beats() >= 3), "{}", running.log());
    assert!(service.seen.requests.lock()[0][0].starts_with("GET /ping/"));

    let bad = place.data().join("bad.db");
    std::fs::write(&bad, "this was a database once, or so they say").unwrap();
    assert!(eventually(LONG, || running.metric("litesnap_last_cycle_databases{outcome=\"failed\"}") == 1.0));
    let (beats, before) = (service.beats(), cycles(&running));
    assert!(eventually(LONG, || cycles(&running) >= before + 3.0));
    // One may have been under way.
    assert!(service.beats() <= beats + 1, "no beat in cycles with a failure");

    std::fs::remove_file(&bad).unwrap();
    assert!(eventually(LONG, || service.beats() > beats + 2), "{}", running.log());
    let (code, log) = running.stop();
    assert_eq!(code, Some(0));
    assert!(!log.contains(SECRET), "the URL is a secret, also with RUST_LOG=trace");
}

#[test]
fn what_a_cooldown_holds_back_is_fresh_until_it_is_too_old() {
    let (mut place, service) = (Place::new(), Service::start(How::Answer("200 OK")));
    place.make("a.db", "delete", 2);
    let running = beating(&mut place, &service, &["--cooldown", "1h", "--max-unprotected", "6s"]);
    assert!(eventually(LONG, || service.beats() >= 1));
    commit(&place, "a.db");
    assert!(eventually(LONG, || running.metric("litesnap_last_cycle_databases{outcome=\"held\"}") == 1.0));
    let beats = service.beats();
    assert!(eventually(LONG, || service.beats() > beats || running.get("/healthz").status == 503));
    assert!(service.beats() > beats, "it beats while the change is young");
    assert!(eventually(LONG, || running.get("/healthz").status == 503));
    let (beats, before) = (service.beats(), cycles(&running));
    assert!(eventually(LONG, || cycles(&running) >= before + 3.0));
    assert!(service.beats() <= beats + 1);
}

#[test]
fn a_service_that_fails_is_named_once_by_its_host_and_so_is_its_recovery() {
    let (mut place, service) = (Place::new(), Service::start(How::Answer("500 Broken")));
    place.make("a.db", "delete", 2);
    let running = beating(&mut place, &service, &[]);
    // Each failing beat is two requests.
    assert!(eventually(LONG, || service.beats() >= 4), "{}", running.log());
    let said = running.said("the heartbeat at 127.0.0.1 fails: the answer was 500");
    assert_eq!(said, 1, "{}", running.log());
    assert!(cycles(&running) >= 1.0);
    service.now(How::Answer("200 OK"));
    assert!(eventually(LONG, || running.said("the heartbeat at 127.0.0.1 works again") == 1), "{}", running.log());
    assert!(!running.log().contains(SECRET));
}

#[test]
fn a_service_that_hangs_or_is_not_there_delays_no_cycle() {
    let (mut place, service) = (Place::new(), Service::start(How::Hang));
    place.make("a.db", "delete", 2);
    let running = beating(&mut place, &service, &[]);
    assert!(eventually(LONG, || service.beats() == 1));
    let before = cycles(&running);
    assert!(eventually(LONG, || cycles(&running) >= before + 3.0));
    assert_eq!(service.seen.most_open.load(Ordering::SeqCst), 1, "one beat at a time");
    let (code, _) = running.stop();
    assert_eq!(code, Some(0), "and it delays no stop");

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{closed}/{SECRET}");
    let running = Loop::over(&place, "1s", &["--heartbeat-url", &url]);
    assert!(
        eventually(LONG, || running.said("the heartbeat at 127.0.0.1 fails: Connection refused") == 1),
        "{}",
        running.log()
    );
    assert!(!running.log().contains(SECRET));
}

#[test]
fn redirects_are_followed_a_few_times_and_told_nothing() {
    let (mut place, service) = (Place::new(), Service::start(How::Redirect("/else")));
    place.make("a.db", "delete", 2);
    let running = beating(&mut place, &service, &[]);
    assert!(eventually(LONG, || service.beats() >= 4), "{}", running.log());
    let redirected = service.seen.requests.lock()[1].clone();
    assert!(redirected[0].starts_with("GET /else "), "{redirected:?}");
    assert!(!redirected.iter().any(|line| line.contains(SECRET)), "{redirected:?}");
    assert_eq!(running.said("the heartbeat at"), 0, "{}", running.log());
    service.now(How::Circle);
    assert!(eventually(LONG, || running.said("fails: it is redirected again and again") == 1), "{}", running.log());
    assert!(!running.log().contains(SECRET));
}

#[test]
fn one_pass_beats_if_all_of_it_went_well() {
    let (place, service) = (Place::new(), Service::start(How::Answer("200 OK")));
    place.make("a.db", "delete", 2);
    let once = |pattern: &str| -> Ran {
        place.replicate(pattern, &["--once", "--heartbeat-url", &service.url()]).output().unwrap().into()
    };
    let ran = once("data/*.db").expect_code(0);
    assert_eq!((service.beats(), ran.err.contains(SECRET)), (1, false), "{ran:#?}");
    once("nothing/*.db").expect_code(2);
    assert_eq!(service.beats(), 1, "nothing was found");
    std::fs::write(place.data().join("bad.db"), "this was a database once, or so they say").unwrap();
    once("data/*.db").expect_code(1);
    assert_eq!(service.beats(), 1, "something failed");
}
