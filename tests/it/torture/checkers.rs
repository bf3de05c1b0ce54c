//! Stored snapshots brought back and handed to foreign SQLites, which say what commit each is.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use parking_lot::Mutex;

use super::history::State;
use super::stores::Depot;
use super::writers::program;

/// A snapshot, brought back and looked at.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) replica: usize,
    pub(crate) key: String,
    /// Of what database, and when its stamps were taken; `None` if it cannot even be decoded.
    pub(crate) of: Option<(PathBuf, i64)>,
    /// The commit that it is, or why it is none.
    pub(crate) found: Result<State, String>,
}

/// A `checker.py`, and a file for it to look at.
struct Checker {
    child: Child,
    stdin: ChildStdin,
    out: BufReader<ChildStdout>,
    file: PathBuf,
}

/// A few of them.
pub(crate) struct Checkers(Vec<Mutex<Checker>>);

impl Checkers {
    /// Their files lie in `dir`.
    pub(crate) fn start(count: usize, dir: &Path) -> Self {
        Self((0..count).map(|n| Mutex::new(Checker::start(dir.join(format!("restored-{n}"))))).collect())
    }

    /// Checks every object in `jobs`: number of a replica, and a key in its store. In their order.
    pub(crate) fn check(&self, jobs: Vec<(usize, String)>, depots: &[Depot]) -> Vec<Checked> {
        let jobs = Mutex::new(jobs.into_iter().enumerate());
        let done = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for checker in &self.0 {
                scope.spawn(|| {
                    let mut checker = checker.lock();
                    loop {
                        let Some((n, (replica, key))) = jobs.lock().next() else { return };
                        let checked = checker.check(replica, key, &depots[replica]);
                        done.lock().push((n, checked));
                    }
                });
            }
        });
        let mut done = done.into_inner();
        done.sort_by_key(|(n, _)| *n);
        done.into_iter().map(|(_, checked)| checked).collect()
    }
}

impl Checker {
    fn start(file: PathBuf) -> Self {
        let mut child = Command::new("python3")
            .arg(program("checker.py"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this needs python3");
        let (stdin, out) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, stdin, out, file }
    }

    fn check(&mut self, replica: usize, key: String, depot: &Depot) -> Checked {
        let mut image = Vec::new();
        match litesnap::object::decode(&depot.get(&key)[..], Some(&key), &mut image) {
            Err(e) => Checked { replica, key, of: None, found: Err(format!("no snapshot: {e}")) },
            Ok(description) => {
                let found = self.ask(&image);
                Checked { replica, key, of: Some((description.path, description.taken_at.as_ms())), found }
            }
        }
    }

    fn ask(&mut self, image: &[u8]) -> Result<State, String> {
        fs::write(&self.file, image).unwrap();
        writeln!(self.stdin, "{}", self.file.display()).unwrap();
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        let (word, rest) = line.trim_end().split_once(' ').unwrap_or_else(|| panic!("the checker says {line:?}"));
        if word == "ok" { Ok(State::parse(rest).unwrap()) } else { Err(format!("torn: {rest}")) }
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
