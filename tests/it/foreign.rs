//! Other people's processes: a foreign SQLite that writes, holds locks or dies, and what a folder looks like from outside.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout};

use rusqlite::Connection;

use crate::place::python;

/// Opens the database in `sys.argv[1]` in the mode of `sys.argv[2]` through the VFS of `sys.argv[3]`, then does as told,
/// one line each: `exec SQL` answers `done` or the error, `close` closes and ends.
const SHELL: &str = r#"
import sqlite3, sys, urllib.parse
where = "file:" + urllib.parse.quote(sys.argv[1]) + "?vfs=" + sys.argv[3]
c = sqlite3.connect(where, uri=True, isolation_level=None, timeout=5)
c.execute("PRAGMA journal_mode=" + sys.argv[2]).fetchall()
print("ready", flush=True)
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word == "close":
        c.close()
        print("closed", flush=True)
        break
    try:
        for statement in rest.split(";"):
            c.execute(statement).fetchall()
        print("done", flush=True)
    except sqlite3.Error as e:
        print(e, flush=True)
"#;

/// A Python process with its own SQLite; killed when dropped.
pub(crate) struct Foreign {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Foreign {
    /// Runs `script` with `path` and `args` as its arguments and waits for its first line.
    pub(crate) fn start(script: &str, path: &Path, args: &[&str]) -> Self {
        let mut child = python(script, path).args(args).spawn().expect("these tests need python3");
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut foreign = Self { child, out };
        assert_eq!(foreign.hear(), "ready");
        foreign
    }

    /// An application that has `path` open in `journal_mode`.
    pub(crate) fn open(path: &Path, journal_mode: &str) -> Self {
        Self::open_through("unix", path, journal_mode)
    }

    /// The same through another of SQLite's VFSs, which locks in its own way or not at all.
    pub(crate) fn open_through(vfs: &str, path: &Path, journal_mode: &str) -> Self {
        Self::start(SHELL, path, &[journal_mode, vfs])
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Executes `sql`, which must succeed.
    #[track_caller]
    pub(crate) fn exec(&mut self, sql: &str) {
        self.say(&format!("exec {sql}"));
        assert_eq!(self.hear(), "done", "{sql}");
    }

    /// Closes its connection and waits for its end.
    pub(crate) fn close(mut self) {
        self.say("close");
        assert_eq!(self.hear(), "closed");
        self.child.wait().unwrap();
    }

    /// `kill -9`, and waits until it is dead.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Commits numbered transactions to each database in `sys.argv[1:]`, in turn, until a line comes. Arguments are
/// `PATH`, then `MODE,TIMEOUT,KEEP` (KEEP 1: one connection for all; 0: one for each commit), then further pairs.
/// Ends with `N BUSY` per database: its last number and how often it was locked out.
///
/// Whatever commit is looked at: table `b` repeats `a`, each row's `h` goes on from the row before, and `meta` has the
/// last row's number and `h`. Page padding, a tiny cache and deletions make transactions spill and pages move.
pub(crate) const WRITER: &str = r#"
import random, sqlite3, sys, threading
M = 2**61 - 1
class Db:
    def __init__(self, path, how):
        mode, timeout, keep = how.split(",")
        self.path, self.mode, self.timeout, self.keep = path, mode, float(timeout), keep == "1"
        self.n = self.h = self.busy = 0
        self.c = None
        c = self.connect()
        c.execute("CREATE TABLE IF NOT EXISTS a(n INTEGER PRIMARY KEY, x, h, pad)")
        c.execute("CREATE TABLE IF NOT EXISTS b(n INTEGER PRIMARY KEY, x)")
        c.execute("CREATE TABLE IF NOT EXISTS meta(n, h)")
        c.execute("INSERT INTO meta SELECT 0, 0 WHERE NOT EXISTS (SELECT * FROM meta)")
        c.execute("CREATE INDEX IF NOT EXISTS i ON a(x)")
        self.release(c)
    def connect(self):
        if self.c: return self.c
        c = sqlite3.connect(self.path, isolation_level=None, timeout=self.timeout)
        try:
            if c.execute("PRAGMA journal_mode").fetchone()[0] != self.mode:
                c.execute("PRAGMA journal_mode=" + self.mode).fetchall()
            c.execute("PRAGMA cache_size=10")
        except sqlite3.Error:
            c.close()
            raise
        if self.keep: self.c = c
        return c
    def release(self, c):
        if not self.keep: c.close()
    def commit(self):
        n, x = self.n + 1, random.randrange(1 << 40)
        h = (self.h * 1000003 + x) % M
        try:
            c = self.connect()
        except sqlite3.OperationalError:
            self.busy += 1
            return
        try:
            c.execute("BEGIN IMMEDIATE")
            c.execute("UPDATE meta SET n=?, h=?", (n, h))
            pad = random.choice((0, 100, 100, 3000, 3000, 60000))
            c.execute("INSERT INTO a VALUES(?,?,?,randomblob(?))", (n, x, h, pad))
            c.execute("DELETE FROM a WHERE n <= ?", (n - 50,))
            c.execute("UPDATE a SET pad=randomblob(length(pad)) WHERE n > ?", (n - 10,))
            c.execute("INSERT INTO b VALUES(?,?)", (n, x))
            c.execute("DELETE FROM b WHERE n <= ?", (n - 50,))
            c.execute("COMMIT")
            self.n, self.h = n, h
        except sqlite3.OperationalError as e:
            if "locked" not in str(e): raise
            self.busy += 1
            if c.in_transaction: c.execute("ROLLBACK")
        finally:
            self.release(c)
stop = threading.Event()
dbs = [Db(p, how) for p, how in zip(sys.argv[1::2], sys.argv[2::2])]
print("ready", flush=True)
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
while not stop.is_set():
    for db in random.sample(dbs, len(dbs)):
        if stop.is_set(): break
        db.commit()
for db in dbs:
    print(db.n, db.busy, flush=True)
    if db.c: db.c.close()
print("closed", flush=True)
"#;

/// Says every `t.x` of the database in `sys.argv[1]`, read as the foreign SQLite reads it, or its error.
const READER: &str = r#"
import sqlite3, sys, urllib.parse
try:
    c = sqlite3.connect("file:" + urllib.parse.quote(sys.argv[1]) + "?mode=ro", uri=True)
    print("rows", *(x for x, in c.execute("SELECT x FROM t ORDER BY rowid")))
except sqlite3.Error as e:
    print("error", e)
"#;

/// What a foreign SQLite sees at `path` when it only reads: `t.x` in order, or its error. It leaves its sidecars behind.
pub(crate) fn foreign_rows(path: &Path) -> Result<Vec<i64>, String> {
    let output = python(READER, path).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    match said.trim_end().split_once(' ') {
        Some(("rows", all)) => Ok(all.split_whitespace().map(|x| x.parse().unwrap()).collect()),
        Some(("error", why)) => Err(why.to_owned()),
        _ => panic!("the reader says {said:?}"),
    }
}

/// What a writer says of one database at its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) last: i64,
    pub(crate) busy: u64,
}

/// Stops a [`WRITER`] of `count` databases: all its connections are closed on return.
pub(crate) fn stop_writer(mut writer: Foreign, count: usize) -> Vec<Written> {
    writer.say("stop");
    let written = (0..count).map(|_| {
        let line = writer.hear();
        let (last, busy) = line.split_once(' ').unwrap_or_else(|| panic!("the writer says {line:?}"));
        Written { last: last.parse().unwrap(), busy: busy.parse().unwrap() }
    });
    let written = written.collect();
    assert_eq!(writer.hear(), "closed");
    writer.child.wait().unwrap();
    written
}

/// Checks that `conn` shows a state that some commit of a [`WRITER`] left; returns the number of that commit.
#[track_caller]
pub(crate) fn check_committed(conn: &Connection) -> i64 {
    const M: i128 = (1 << 61) - 1;
    let one = |sql: &str| conn.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap();
    let check: String = conn.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(check, "ok");
    if one("SELECT count(*) FROM sqlite_schema WHERE name IN ('a', 'b', 'meta', 'i')") < 4
        || one("SELECT count(*) FROM meta") == 0
    {
        return 0; // taken while the writer was still making its tables
    }
    let (n, h): (i64, i64) = conn.query_row("SELECT n, h FROM meta", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
    let mut select = conn.prepare("SELECT n, x, h FROM a ORDER BY n").unwrap();
    let rows: Vec<[i64; 3]> =
        select.query_map([], |r| Ok([r.get(0)?, r.get(1)?, r.get(2)?])).unwrap().map(Result::unwrap).collect();
    for pair in rows.windows(2) {
        let next = i64::try_from((i128::from(pair[0][2]) * 1_000_003 + i128::from(pair[1][1])) % M).unwrap();
        assert_eq!((pair[1][0], pair[1][2]), (pair[0][0] + 1, next), "a row that does not follow from the one before");
    }
    assert_eq!(rows.last().map_or((0, 0), |row| (row[0], row[2])), (n, h), "table a and meta are of different commits");
    assert_eq!(one("SELECT count(*) FROM a"), n.min(50));
    assert_eq!(one("SELECT count(*) FROM (SELECT n, x FROM a EXCEPT SELECT n, x FROM b)"), 0);
    assert_eq!(one("SELECT count(*) FROM (SELECT n, x FROM b EXCEPT SELECT n, x FROM a)"), 0);
    n
}

/// All that can be seen of the files below `dir` from outside, by relative path. Of sidecars without ctime, for as
/// root SQLite chowns what it opens; of `-shm` without size and mtime, for it is memory. Reads every file: no connection
/// of this process may be open.
pub(crate) fn listing(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    list_into(dir, dir, &mut all);
    all
}

fn list_into(root: &Path, dir: &Path, all: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let m = path.symlink_metadata().unwrap();
        let name = path.to_str().unwrap();
        let mut seen = format!("mode={:o} owner={}:{} inode={}", m.mode(), m.uid(), m.gid(), m.ino());
        if m.is_file() && !name.ends_with("-shm") {
            let content = twox(&fs::read(&path).unwrap());
            seen += &format!(" size={} mtime={}.{:09} content={content:x}", m.len(), m.mtime(), m.mtime_nsec());
        }
        if m.is_file() && !["-shm", "-wal", "-journal"].iter().any(|s| name.ends_with(s)) {
            seen += &format!(" ctime={}.{:09}", m.ctime(), m.ctime_nsec());
        }
        all.insert(path.strip_prefix(root).unwrap().to_path_buf(), seen);
        if m.is_dir() {
            list_into(root, &path, all);
        }
    }
}

fn twox(bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(bytes)
}

/// The sidecars below `dir`, sorted.
pub(crate) fn sidecars(dir: &Path) -> Vec<PathBuf> {
    let is_sidecar = |p: &PathBuf| ["-wal", "-shm", "-journal"].iter().any(|s| p.to_str().unwrap().ends_with(s));
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(sidecars(&path)) } else { found.extend(Some(path).filter(is_sidecar)) }
    }
    found.sort();
    found
}
