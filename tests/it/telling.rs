//! Who is told how the loop fares: HTTP, heartbeats, the service manager; that health turns, and turns back.

mod abuse; // clients that are slow, huge or many
mod health; // what turns health red, and what does not
mod heartbeat; // beats while everything is fresh, and only then
mod http; // each path, each method, who may ask
mod notify; // the service manager: ready, status, alive, stopping
mod rules; // the alert rules name what there is

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::place::{Place, eventually};

/// Longer than anything here takes on a busy machine; nothing is measured by it.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A loop that answers HTTP, its log in a file; killed when dropped.
pub(crate) struct Loop {
    child: Child,
    log: PathBuf,
    port: u16,
}

impl Loop {
    /// Starts `command` and waits until it says where it listens.
    pub(crate) fn start(place: &Place, command: Command) -> Self {
        let mut started = Self::silent(place, command);
        let mut port = None;
        let listens = eventually(LONG, || {
            port = started
                .log()
                .lines()
                .find_map(|line| line.split_once("answering HTTP on http://127.0.0.1:"))
                .and_then(|(_, port)| port.parse().ok());
            port.is_some()
        });
        assert!(listens, "{}", started.log());
        started.port = port.unwrap();
        started
    }

    /// The same without HTTP.
    pub(crate) fn silent(place: &Place, mut command: Command) -> Self {
        let log = place.path().join("log");
        let file = std::fs::File::create(&log).unwrap();
        let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        Self { child, log, port: 0 }
    }

    /// Over the folder store, with more arguments.
    pub(crate) fn over(place: &Place, interval: &str, more: &[&str]) -> Self {
        Self::start(
            place,
            place.replicate("data/**/*.db", &[&["--interval", interval, "--listen", "0"], more].concat()),
        )
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Lines of the log that contain `what`.
    pub(crate) fn said(&self, what: &str) -> usize {
        self.log().lines().filter(|line| line.contains(what)).count()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        stream
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", self.port))
    }

    /// Sends `request` as it is; returns all that is answered until the connection ends.
    pub(crate) fn ask(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        Answer::parse(&text)
    }

    /// The value of the series `name` (with its labels) in `/metrics`.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Ends it with SIGTERM; returns its exit code and its log.
    pub(crate) fn stop(mut self) -> (Option<i32>, String) {
        self.signal(Signal::SIGTERM);
        let mut code = None;
        assert!(eventually(LONG, || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        }));
        (code.unwrap().code(), self.log())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

/// Commits to `data/NAME` once more.
pub(crate) fn commit(place: &Place, name: &str) {
    let conn = rusqlite::Connection::open(place.data().join(name)).unwrap();
    conn.busy_timeout(LONG).unwrap();
    conn.execute_batch("INSERT INTO t VALUES(0)").unwrap();
}

/// Runs promtool, from Debian's package prometheus, on `input`; `None`, said aloud, where there is none.
pub(crate) fn promtool(args: &[&str], input: &str) -> Option<(bool, String)> {
    let spawned =
        Command::new("promtool").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = spawned else {
        // Not eprintln, which the test harness would swallow.
        std::io::stderr().write_all(b"SKIPPED: promtool is not there (apt-get install prometheus)\n").unwrap();
        return None;
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    let done = child.wait_with_output().unwrap();
    Some((done.status.success(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()))
}
