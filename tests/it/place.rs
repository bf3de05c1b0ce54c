//! A place to test in: a temporary folder with data, store and state, and the real binary in a clean environment.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;

/// A temporary folder; gone when dropped.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    pub(crate) env: Vec<(String, String)>,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// The number after `name=` in the summary.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let word = format!("{name}=");
        let found = self.out.split_whitespace().find_map(|w| w.strip_prefix(&word)?.parse().ok());
        found.unwrap_or_else(|| panic!("no {name}= in {self:?}"))
    }

    /// `reason: detail` of the database at `path`, if the summary names it.
    pub(crate) fn failure_of(&self, path: &Path) -> Option<&str> {
        let head = format!("{}: ", path.display());
        self.out.lines().find_map(|line| line.strip_prefix(&head))
    }

    /// Fails unless the summary says that `path` could not be protected for `reason`; returns the detail.
    #[track_caller]
    pub(crate) fn expect_failure(&self, path: &Path, reason: &str) -> &str {
        let failure = self.failure_of(path).unwrap_or_else(|| panic!("{} is not named in {self:#?}", path.display()));
        let (word, detail) = failure.split_once(": ").unwrap();
        assert_eq!(word, reason, "{failure}");
        detail
    }

    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }
}

/// One stored object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    /// Key below the store.
    pub(crate) key: String,
    pub(crate) bytes: Vec<u8>,
}

impl Object {
    /// The database in it, decoded by the library, which checks every hash.
    pub(crate) fn image(&self) -> Vec<u8> {
        let mut image = Vec::new();
        litesnap::object::decode(&self.bytes[..], None, &mut image).unwrap();
        image
    }
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// The same in a folder of the test's choice.
    pub(crate) fn below(folder: &Path) -> Self {
        let place = Self { dir: tempfile::tempdir_in(folder).unwrap(), env: Vec::new() };
        fs::create_dir(place.data()).unwrap();
        place
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where the databases lie.
    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// The folder store.
    pub(crate) fn store(&self) -> PathBuf {
        self.path().join("store")
    }

    /// The state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// A database below the data folder, made with parents.
    pub(crate) fn db(&self, name: &str) -> PathBuf {
        let path = self.data().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// Makes a database in `journal_mode` with one table `t(x)` holding `rows` rows, and makes its stamps old enough
    /// not to be racy.
    pub(crate) fn make(&self, name: &str, journal_mode: &str, rows: u32) -> PathBuf {
        let path = self.db(name);
        let conn = Connection::open(&path).unwrap();
        conn.pragma_update(None, "journal_mode", journal_mode).unwrap();
        conn.execute_batch("CREATE TABLE t(x)").unwrap();
        conn.execute("INSERT INTO t SELECT value FROM generate_series(1, ?1)", [rows])
            .or_else(|_| insert_rows(&conn, rows))
            .unwrap();
        drop(conn);
        age(&path);
        path
    }

    /// Makes a WAL-mode database at rest that goes through a temporary file, which takes a while: nothing compresses it.
    pub(crate) fn make_large(&self, name: &str) -> PathBuf {
        let path = self.make(name, "wal", 1);
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA synchronous=OFF; INSERT INTO t VALUES(randomblob(32000000))").unwrap();
        drop(conn);
        age(&path);
        path
    }

    /// Makes a database of `bytes` bytes and a little more that nothing compresses: one table `t(x)` of blobs.
    pub(crate) fn make_random(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.db(name);
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA synchronous = OFF; CREATE TABLE t(x)").unwrap();
        let mut left = bytes;
        while left > 0 {
            let blob = left.min(256 << 10);
            conn.execute("INSERT INTO t VALUES(randomblob(?1))", [blob.cast_signed()]).unwrap();
            left -= blob;
        }
        drop(conn);
        age(&path);
        path
    }

    /// How many temporary copies there are.
    pub(crate) fn temp_copies(&self) -> usize {
        let work = fs::read_dir(self.state()).into_iter().flatten().map(|e| e.unwrap().path()).find(|p| p.is_dir());
        let files = work.into_iter().flat_map(|dir| fs::read_dir(dir).unwrap());
        files.filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|x| x == "copy")).count()
    }

    /// The binary with a clean environment: nothing of the developer's, and no way to the instance metadata.
    pub(crate) fn litesnap(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_litesnap"));
        command.env_clear().env("HOME", self.path()).env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9");
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        command.current_dir(self.path()).args(args).stdin(Stdio::null());
        command
    }

    /// The same as a user without any rights, who owns the folder `own`; `None`, said aloud, if we are not root.
    pub(crate) fn unprivileged(&self, args: &[&str]) -> Option<Command> {
        if !nix::unistd::geteuid().is_root() {
            // Not eprintln, which the test harness would swallow.
            std::io::stderr().write_all(b"SKIPPED: giving up rights needs root\n").unwrap();
            return None;
        }
        fs::set_permissions(self.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (own, binary) = (self.path().join("own"), self.path().join("litesnap"));
        fs::create_dir_all(&own).unwrap();
        std::os::unix::fs::chown(&own, Some(65534), Some(65534)).unwrap();
        // The one that was built may lie where this user cannot go. A copy written by this process would be "busy" for
        // as long as a child that another test just started has inherited its descriptor.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_litesnap")).arg(&binary).status().unwrap();
        assert!(copied.success());
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(binary).args(args);
        command.env_clear().current_dir(self.path()).stdin(Stdio::null());
        Some(command)
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.litesnap(args).output().unwrap().into()
    }

    /// `replicate PATTERN --store ./store --state-dir ./state` with more arguments.
    pub(crate) fn replicate(&self, pattern: &str, more: &[&str]) -> Command {
        let mut command = self.litesnap(&["replicate", pattern, "--store", "store", "--state-dir", "state"]);
        command.args(more);
        command
    }

    /// One pass over `data/**/*.db` into the folder store.
    pub(crate) fn once(&self) -> Ran {
        self.replicate("data/**/*.db", &["--once"]).output().unwrap().into()
    }

    /// The loop over `data/**/*.db`, in the background, ended with SIGKILL when dropped.
    pub(crate) fn start_loop(&self, interval: &str, more: &[&str]) -> Running {
        let mut command = self.replicate("data/**/*.db", &["--interval", interval]);
        command.args(more);
        Running::start(command)
    }

    /// All objects in the folder store, sorted by key.
    pub(crate) fn objects(&self) -> Vec<Object> {
        let mut objects = Vec::new();
        collect(&self.store(), &self.store(), &mut objects);
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        objects
    }

    /// The objects of the database `data/NAME`, oldest first.
    pub(crate) fn objects_of(&self, name: &str) -> Vec<Object> {
        let path = self.data().join(name);
        let mut objects = Vec::new();
        collect(&self.store(), &self.store().join(path.strip_prefix("/").unwrap()), &mut objects);
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        objects
    }

    /// Writes `image` to a file of its own and opens it.
    pub(crate) fn open_image(&self, image: &[u8]) -> Connection {
        let file = tempfile::Builder::new().suffix(".restored").tempfile_in(self.path()).unwrap();
        fs::write(file.path(), image).unwrap();
        let (_, path) = file.keep().unwrap();
        Connection::open(path).unwrap()
    }

    /// Checks the newest snapshot of `data/NAME` with SQLite and returns its column `t.x`.
    pub(crate) fn newest_rows(&self, name: &str) -> Vec<i64> {
        let newest = self.objects_of(name).pop().unwrap_or_else(|| panic!("no snapshot of {name}"));
        let conn = self.open_image(&newest.image());
        let check: String = conn.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
        assert_eq!(check, "ok");
        rows(&conn)
    }

    /// The one `state.db`.
    pub(crate) fn state_db(&self) -> PathBuf {
        let all = fs::read_dir(self.state()).unwrap().map(|e| e.unwrap().path());
        all.filter(|p| p.extension().is_some_and(|x| x == "db")).max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap()
    }
}

fn insert_rows(conn: &Connection, rows: u32) -> rusqlite::Result<usize> {
    conn.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) INSERT INTO t SELECT i FROM n",
        [rows],
    )
}

/// Every value of `t`, by row: what two databases must agree in. Checks the integrity first.
pub(crate) fn content(conn: &Connection) -> Vec<(i64, rusqlite::types::Value)> {
    let check: String = conn.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(check, "ok");
    let mut all = conn.prepare("SELECT rowid, x FROM t ORDER BY rowid").unwrap();
    all.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).unwrap().map(Result::unwrap).collect()
}

/// `t.x` in order.
pub(crate) fn rows(conn: &Connection) -> Vec<i64> {
    let mut all = conn.prepare("SELECT x FROM t ORDER BY rowid").unwrap();
    all.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Sets the times of `path` and its sidecars an hour back, so that nothing about them is racy.
pub(crate) fn age(path: &Path) {
    let past = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for suffix in ["", "-wal", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        if let Ok(file) = fs::File::options().write(true).open(&name) {
            file.set_modified(past).unwrap();
        }
    }
}

fn collect(root: &Path, dir: &Path, objects: &mut Vec<Object>) {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, objects);
        } else {
            let key = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if key.contains('#') {
                continue; // still being written
            }
            objects.push(Object { key, bytes: fs::read(&path).unwrap() });
        }
    }
}

/// A process in the background; killed when dropped.
pub(crate) struct Running(Option<Child>);

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self(Some(child))
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.as_ref().unwrap().id().cast_signed()
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for its end, at most `limit`.
    pub(crate) fn wait(mut self, limit: Duration) -> Ran {
        let mut child = self.0.take().unwrap();
        let mut pipes = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let read = std::thread::spawn(move || {
            let (mut out, mut err) = (String::new(), String::new());
            pipes.0.read_to_string(&mut out).unwrap();
            pipes.1.read_to_string(&mut err).unwrap();
            (out, err)
        });
        let mut code = None;
        let ended = eventually(limit, || {
            code = child.try_wait().unwrap();
            code.is_some()
        });
        if !ended {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let (out, err) = read.join().unwrap();
        assert!(ended, "still running after {limit:?}: {err}");
        Ran { code: code.and_then(|c| c.code()), out, err }
    }

    /// Ends it with SIGTERM and waits.
    pub(crate) fn stop(self) -> Ran {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.wait(Duration::from_secs(15))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Asks until it is so, at most `limit`; tells whether it was.
pub(crate) fn eventually(limit: Duration, mut so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !so() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    true
}

/// A foreign SQLite: Python's own, running `script` with `path` as its first argument.
pub(crate) fn python(script: &str, path: &Path) -> Command {
    let mut command = Command::new("python3");
    command.arg("-c").arg(script).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}
