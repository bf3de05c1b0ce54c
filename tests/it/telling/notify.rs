//! The service manager, a real datagram socket: ready, status, alive, stopping; and what counts as hung.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use litesnap::store::StoreOptions;
use nix::sys::signal::Signal;

use super::health::library;
use super::{LONG, Loop};
use crate::place::{Place, eventually};
use crate::s3_server::{Fault, S3Server};

/// A service manager that listens.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &Path) -> Self {
        Self::new(UnixDatagram::bind(path).unwrap())
    }

    fn new(socket: UnixDatagram) -> Self {
        socket.set_read_timeout(Some(LONG)).unwrap();
        Self(socket)
    }

    #[track_caller]
    fn next(&self) -> String {
        let mut message = [0; 4096];
        let n = self.0.recv(&mut message).expect("a message in time");
        String::from_utf8(message[..n].to_vec()).unwrap()
    }

    /// The next message that begins with `head`; others are passed over.
    #[track_caller]
    fn until(&self, head: &str) -> String {
        loop {
            let message = self.next();
            if message.starts_with(head) {
                return message;
            }
        }
    }
}

fn place_told(socket: &str, watchdog_usec: Option<&str>) -> Place {
    let mut place = Place::new();
    place.make("a.db", "delete", 2);
    place.env.push(("NOTIFY_SOCKET".into(), socket.into()));
    place.env.extend(watchdog_usec.map(|usec| ("WATCHDOG_USEC".into(), usec.into())));
    place
}

#[test]
fn ready_when_it_answers_then_status_then_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = Manager::at(&path);
    let place = place_told(path.to_str().unwrap(), None);
    let running = Loop::silent(&place, place.replicate("data/*.db", &["--interval", "1s", "--listen", "0"]));
    assert!(manager.next().starts_with("READY=1\nSTATUS="), "the first message");
    // Where it said that it listens, somebody answers by now.
    let log = running.log();
    let (_, address) = log.lines().next().unwrap().split_once("answering HTTP on http://").expect("told before");
    drop(std::net::TcpStream::connect(address).unwrap());
    assert_eq!(manager.next(), "STATUS=1 databases, every change is stored, 1 snapshots since the start");
    running.signal(Signal::SIGTERM);
    let stopping = manager.until("STOPPING=1");
    assert!(stopping.contains("\nSTATUS=stopping"), "{stopping}");
}

#[test]
fn a_name_in_the_abstract_namespace_is_as_good() {
    let name = format!("litesnap-test-{}", std::process::id());
    let manager = Manager::new(UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap());
    let place = place_told(&format!("@{name}"), None);
    place.once().expect_code(0);
    assert!(manager.next().starts_with("READY=1"));
    manager.until("STATUS=1 databases");
}

#[test]
fn it_lives_while_the_store_is_down_and_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let (manager, server) = (Manager::at(&path), S3Server::start());
    server.fail_from(1, Fault::answer(403, "AccessDenied"));
    let mut place = place_told(path.to_str().unwrap(), Some("200000"));
    place.env.extend(server.env());
    let url = server.url("bucket", "p");
    let args = ["replicate", "data/*.db", "--store", &url, "--state-dir", "state", "--interval", "1s"];
    let running = Loop::silent(&place, place.litesnap(&args));
    manager.until("READY=1");
    let status = manager.until("STATUS=1 databases");
    assert!(status.contains("1 failing, 1 changes not stored") && status.contains("store-refused"), "{status}");
    for _ in 0..10 {
        assert_eq!(manager.until("WATCHDOG"), "WATCHDOG=1");
    }
    let unhealthy = eventually(LONG, || manager.until("STATUS=").contains("no cycle has succeeded for"));
    assert!(unhealthy, "{}", running.log());
    manager.until("WATCHDOG=1");
}

#[test]
fn the_watchdog_of_another_process_is_left_to_it_and_a_socket_that_is_none_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = Manager::at(&path);
    let mut place = place_told(path.to_str().unwrap(), Some("1000"));
    place.env.push(("WATCHDOG_PID".into(), "1".into()));
    place.once().expect_code(0);
    manager.0.set_nonblocking(true).unwrap();
    let mut message = [0; 4096];
    while let Ok(n) = manager.0.recv(&mut message) {
        assert!(!message[..n].starts_with(b"WATCHDOG"));
    }
    for socket in ["/nowhere/at/all", "vsock:2:1234", "relative"] {
        place_told(socket, None).once().expect_code(0);
    }
}

#[test]
fn hung_is_a_cycle_in_which_nothing_happens_and_not_a_store_that_refuses() {
    let (place, server) = (Place::new(), S3Server::start());
    place.make("a.db", "delete", 2);
    let (mut replicator, control) = library(&place, StoreOptions::new(server.url("bucket", "p")), &server.env());
    let monitor = replicator.monitor();
    let patience = Duration::from_secs(2);
    server.fail_from(1, Fault::answer(403, "AccessDenied"));
    let cycles = std::cell::Cell::new(0);
    assert!(eventually(LONG, || {
        assert!(!monitor.hangs(patience), "cycle after cycle fails, which is life");
        assert!(replicator.run_cycle(false).store_down.is_some());
        cycles.set(cycles.get() + 1);
        cycles.get() == 5
    }));
    server.heal();
    server.fail_from(1, Fault::Hang);
    std::thread::scope(|scope| {
        let cycle = scope.spawn(|| replicator.run_cycle(false));
        assert!(eventually(LONG, || monitor.hangs(patience)), "nothing happens at all");
        assert!(monitor.vitals().running_since_ms.is_some(), "in the middle of a cycle");
        control.stop(15);
        assert_eq!(cycle.join().unwrap().stored, 0);
    });
    assert!(!monitor.hangs(patience), "it ended");
}
