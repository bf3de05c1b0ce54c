//! A state as somebody sees it who only looks: whether a loop runs or not, in the middle of its first cycle, on a disk that
//! is read-only.
//!
//! Writes nothing, makes no file, takes no lock that a loop would notice. While nobody runs, the file is read as it lies; should
//! a loop begin just then, what was read may be half of this and half of that: [`Look::is_still_so`] tells.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};

use super::db::{Identity, open_quietly, state_error};
use super::schema::{APPLICATION_ID, SCHEMA_VERSION};
use super::{CycleNote, cycles, notes};
use crate::backlog::{Ages, Wait};
use crate::error::{Error, Failure, Result};

/// How long a look waits for whoever writes.
const PATIENCE: Duration = Duration::from_secs(5);

/// The states in `dir`, by name; none if there is no such folder.
///
/// # Errors
/// [`Error::State`] if the folder may not be read.
pub fn states_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| Error::State {
        path: dir.to_path_buf(),
        what: "the state directory cannot be looked into; ask as the loop's user, or as root".into(),
        source: Box::new(source) as Box<dyn std::error::Error + Send + Sync>,
    };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut states = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|x| x == "db") && !path.is_dir() {
            states.push(path);
        }
    }
    states.sort();
    Ok(states)
}

/// Databases by what is known of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Known {
    /// On the host, as far as is known.
    pub known: u64,
    /// Of these, with a snapshot in the store.
    pub stored: u64,
    /// Of these, those whose last attempt failed.
    pub failing: u64,
    /// Gone from the host, with snapshots in the store.
    pub gone: u64,
}

/// Databases that fail for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// How many.
    pub count: u64,
    /// Some of them: path, what exactly, since when (s since 1970).
    pub examples: Vec<(PathBuf, String, Option<i64>)>,
}

/// What waits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Waiting {
    /// By how long.
    pub ages: Ages,
    /// How many for each reason: not tried, held back by a cooldown, failed.
    pub by_wait: BTreeMap<&'static str, u64>,
    /// The one that waits longest, and since when, s since 1970.
    pub oldest: Option<(PathBuf, i64)>,
}

/// A database whose change has not been stored for too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    /// Its path.
    pub path: PathBuf,
    /// Since when, s since 1970.
    pub since_s: i64,
    /// Why.
    pub wait: Wait,
    /// Its last failure.
    pub error: Option<String>,
}

/// Requests of one day: the day (since 1970), by what, the verb, how many.
pub type Spent = (i64, String, String, u64);

/// What was stored in a time and asked for it: seconds, objects, bytes, requests by verb.
pub type Days = (u64, u64, u64, Vec<(String, u64)>);

/// What tells that a file is the one that was read.
type Stamp = (u64, u64, i64, i64, u64);

/// A state that is looked at.
#[derive(Debug)]
pub struct Look {
    path: PathBuf,
    conn: Connection,
    stamp: Stamp,
}

impl Look {
    /// Opens the state at `path`, which is there.
    ///
    /// # Errors
    /// [`Error::State`] if it may not be read, is damaged, or is none.
    pub fn open(path: &Path) -> Result<Self> {
        let stamp = stamp(path);
        let open = || -> rusqlite::Result<Connection> {
            let conn = open_quietly(path)?;
            conn.busy_timeout(PATIENCE)?;
            let id: i32 = conn.pragma_query_value(None, "application_id", |r| r.get(0))?;
            let version: i32 = conn.pragma_query_value(None, "user_version", |r| r.get(0))?;
            if (id, version) != (APPLICATION_ID, SCHEMA_VERSION) {
                let what = format!("application id {id:#x}, version {version}: not a state of this litesnap");
                let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB);
                return Err(rusqlite::Error::SqliteFailure(code, Some(what)));
            }
            // One view of it all, from the first read on: from now.
            conn.execute_batch("BEGIN; SELECT count(*) FROM meta")?;
            notes::check(&conn)?;
            cycles::check(&conn)?;
            Ok(conn)
        };
        // What may not be opened is not damaged for that.
        let is_refused = |e: &rusqlite::Error| e.sqlite_error_code() == Some(rusqlite::ErrorCode::CannotOpen);
        let conn = open().map_err(|e| match is_refused(&e) {
            true => state_error(path, "it cannot be opened; ask as the loop's user, or as root", e),
            false => state_error(path, "cannot read it; a run of replicate would set a damaged one aside", e),
        })?;
        Ok(Self { path: path.to_path_buf(), conn, stamp })
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what was read so far was one state: nobody began to write to a file that lay still.
    #[must_use]
    pub fn is_still_so(&self) -> bool {
        // With a log there was, SQLite itself keeps the view.
        self.stamp.4 > 0 || self.stamp == stamp(&self.path)
    }

    /// What it belongs to.
    ///
    /// # Errors
    /// [`Error::State`] if it cannot be read.
    pub fn identity(&self) -> Result<Identity> {
        let part = |name| Ok::<String, Error>(self.meta(name)?.unwrap_or_default());
        Ok(Identity { store: part("store")?, template: part("template")?, host: part("host")? })
    }

    /// The note called `name`.
    ///
    /// # Errors
    /// [`Error::State`] if it cannot be read.
    pub fn meta(&self, name: &str) -> Result<Option<String>> {
        self.read(|conn| {
            let sql = "SELECT CAST(value AS TEXT) FROM meta WHERE name = ?1";
            Ok(conn.query_row(sql, [name], |row| row.get(0)).optional()?.flatten())
        })
    }

    /// Databases by what is known of them, and what fails, by the word of its reason, with `named_max` examples of each. What
    /// is no failure (an empty file) is among the words, and in no count.
    ///
    /// # Errors
    /// [`Error::State`] if it cannot be read.
    pub fn databases(&self, named_max: usize) -> Result<(Known, BTreeMap<String, Failing>)> {
        self.read(|conn| {
            let (mut known, mut failing) = (counts(conn)?, BTreeMap::<String, Failing>::new());
            let mut all =
                conn.prepare("SELECT path, error, failed_s FROM databases WHERE error IS NOT NULL AND gone_s IS NULL")?;
            let mut rows = all.query([])?;
            while let Some(row) = rows.next()? {
                let error: String = row.get(1)?;
                let parsed = Failure::parse(&error);
                known.failing += u64::from(parsed.as_ref().is_none_or(|f| f.reason.is_failure()));
                let (word, detail) = error.split_once(": ").unwrap_or((&error, ""));
                let of = failing.entry(word.to_owned()).or_insert(Failing { count: 0, examples: Vec::new() });
                of.count += 1;
                if of.examples.len() < named_max {
                    of.examples.push((path_of(row.get_ref(0)?), detail.to_owned(), row.get(2)?));
                }
            }
            Ok((known, failing))
        })
    }

    /// What waits at `now_s`.
    ///
    /// # Errors
    /// [`Error::State`] if it cannot be read.
    pub fn waiting(&self, now_s: i64) -> Result<Waiting> {
        self.read(|conn| {
            let mut waiting = Waiting::default();
            let mut all = conn.prepare("SELECT since_s, wait, path FROM backlog")?;
            let mut rows = all.query([])?;
            while let Some(row) = rows.next()? {
                let since_s: i64 = row.get(0)?;
                waiting.ages.add(now_s - since_s);
                *waiting.by_wait.entry(wait_of(row.get(1)?).word()).or_default() += 1;
                if waiting.oldest.as_ref().is_none_or(|(_, oldest_s)| since_s < *oldest_s) {
                    waiting.oldest = Some((path_of(row.get_ref(2)?), since_s));
                }
            }
            Ok(waiting)
        })
    }

    /// Calls `visit` with each database that waits since before `before_s` (s since 1970), or since a time after `after_s`, which
    /// cannot be; the oldest first. Ends with its first error. All is read before the first is told.
    ///
    /// # Errors
    /// That of `visit`; [`Error::State`] if it cannot be read, or a loop began while it was.
    pub fn each_stale<E: From<Error>>(
        &self,
        before_s: i64,
        after_s: i64,
        mut visit: impl FnMut(Stale) -> Result<(), E>,
    ) -> Result<(), E> {
        let wrong = |e| E::from(self.wrong(e));
        let sql = "SELECT b.path, b.since_s, b.wait, d.error FROM backlog b LEFT JOIN databases d ON d.id = b.id
                   WHERE b.since_s < ?1 OR b.since_s > ?2 OR b.since_s IS NULL ORDER BY b.since_s, b.path";
        let mut all = self.conn.prepare(sql).map_err(wrong)?;
        let mut rows = all.query([before_s, after_s]).map_err(wrong)?;
        let mut is_first = true;
        while let Some(row) = rows.next().map_err(wrong)? {
            if std::mem::take(&mut is_first) && !self.is_still_so() {
                return Err(E::from(self.disturbed()));
            }
            let stale = || -> rusqlite::Result<Stale> {
                let (path, wait) = (path_of(row.get_ref(0)?), wait_of(row.get(2)?));
                Ok(Stale { path, since_s: row.get::<_, Option<i64>>(1)?.unwrap_or(0), wait, error: row.get(3)? })
            };
            visit(stale().map_err(wrong)?)?;
        }
        if is_first && !self.is_still_so() {
            return Err(E::from(self.disturbed()));
        }
        Ok(())
    }

    /// That a loop began in the middle of it.
    #[must_use]
    pub fn disturbed(&self) -> Error {
        let source = std::io::Error::other("it was written to while it was read");
        Error::Io {
            attempt: "read the state, which a loop has just begun to use: ask again,",
            path: self.path.clone(),
            source,
        }
    }

    /// The last cycles, the newest first, with their numbers; at most `most`.
    ///
    /// # Errors
    /// [`Error::State`] if it cannot be read.
    pub fn cycles(&self, most: u32) -> Result<Vec<(i64, CycleNote)>> {
        self.read(|conn| {
            let mut all = conn.prepare(
                "SELECT no, started_ms, elapsed_ms, succeeded, databases, changed, stored, unchanged_content, failed, held, gone,
                 untried, read_bytes, bytes, requests, error FROM cycles ORDER BY no DESC LIMIT ?1",
            )?;
            let rows = all.query_map([most], |row| Ok((row.get(0)?, cycle_of(row)?)))?;
            rows.collect()
        })
    }

    /// When the newest cycle began that ended well and saw everything, ms since 1970: what was changed before it is stored, or
    /// waits.
    ///
    /// # Errors
    /// [`Error::State`] if it cannot be read.
    pub fn known_as_of(&self) -> Result<Option<i64>> {
        let sql = "SELECT started_ms FROM cycles WHERE succeeded = 1 AND error IS NULL ORDER BY no DESC LIMIT 1";
        self.read(|conn| conn.query_row(sql, [], |row| row.get(0)).optional())
    }

    /// Objects stored a day, over the last full days.
    ///
    /// # Errors
    /// [`Error::State`] if it cannot be read.
    pub fn objects_per_day(&self, today: i64) -> Result<Option<f64>> {
        self.read(|conn| notes::objects_per_day(conn, today))
    }

    /// What was stored in the last full days, at most seven, and asked for it; `None` until there was one.
    ///
    /// # Errors
    /// [`Error::State`] if it cannot be read.
    pub fn full_days(&self, today: i64) -> Result<Option<Days>> {
        self.read(|conn| {
            let Some(begin) = notes::first_full_day(conn, today)? else { return Ok(None) };
            let sum =
                "SELECT coalesce(sum(objects), 0), coalesce(sum(bytes), 0) FROM days WHERE day >= ?1 AND day < ?2";
            let (objects, bytes): (i64, i64) = conn.query_row(sum, [begin, today], |r| Ok((r.get(0)?, r.get(1)?)))?;
            let mut by_verb =
                conn.prepare("SELECT verb, sum(requests) FROM spent WHERE day >= ?1 AND day < ?2 GROUP BY verb")?;
            let rows = by_verb.query_map([begin, today], |r| Ok((r.get(0)?, r.get::<_, i64>(1)?.unsigned_abs())))?;
            let requests = rows.collect::<rusqlite::Result<_>>()?;
            let seconds = (today - begin).unsigned_abs() * 86_400;
            Ok(Some((seconds, objects.unsigned_abs(), bytes.unsigned_abs(), requests)))
        })
    }

    /// What was asked of the store since the day `from`, the newest first.
    ///
    /// # Errors
    /// [`Error::State`] if it cannot be read.
    pub fn spent(&self, from: i64) -> Result<Vec<Spent>> {
        self.read(|conn| {
            let mut all = conn
                .prepare("SELECT day, what, verb, requests FROM spent WHERE day >= ?1 ORDER BY day DESC, what, verb")?;
            let rows =
                all.query_map([from], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get::<_, i64>(3)?.unsigned_abs())))?;
            rows.collect()
        })
    }

    fn read<T>(&self, run: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        run(&self.conn).map_err(|e| self.wrong(e))
    }

    fn wrong(&self, error: rusqlite::Error) -> Error {
        state_error(&self.path, "cannot read all of it: is it damaged?", error)
    }
}

fn counts(conn: &Connection) -> rusqlite::Result<Known> {
    let sql =
        "SELECT count(*) FILTER (WHERE gone_s IS NULL), count(*) FILTER (WHERE gone_s IS NULL AND key_ms IS NOT NULL),
               count(*) FILTER (WHERE gone_s IS NOT NULL AND key_ms IS NOT NULL) FROM databases";
    conn.query_row(sql, [], |row| {
        let count = |at: usize| Ok::<u64, rusqlite::Error>(row.get::<_, i64>(at)?.unsigned_abs());
        Ok(Known { known: count(0)?, stored: count(1)?, gone: count(2)?, failing: 0 })
    })
}

fn cycle_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<CycleNote> {
    let count = |at: usize| Ok::<u64, rusqlite::Error>(row.get::<_, i64>(at)?.unsigned_abs());
    Ok(CycleNote {
        started_ms: row.get(1)?,
        elapsed_ms: row.get(2)?,
        succeeded: row.get(3)?,
        databases: count(4)?,
        changed: count(5)?,
        stored: count(6)?,
        unchanged_content: count(7)?,
        failed: count(8)?,
        held: count(9)?,
        gone: count(10)?,
        untried: count(11)?,
        read_bytes: count(12)?,
        bytes: count(13)?,
        requests: count(14)?,
        error: row.get(15)?,
    })
}

/// What damage made of it is as good as not tried.
fn wait_of(code: Option<i64>) -> Wait {
    code.and_then(Wait::from_code).unwrap_or(Wait::Untried)
}

fn path_of(value: ValueRef<'_>) -> PathBuf {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => PathBuf::from(OsStr::from_bytes(bytes)),
        _ => PathBuf::from("(a path that cannot be read)"),
    }
}

fn stamp(path: &Path) -> Stamp {
    let log = std::fs::metadata(crate::stamps::sidecar(path, "-wal")).map_or(0, |m| m.len());
    std::fs::metadata(path).map_or((0, 0, 0, 0, log), |m| (m.ino(), m.len(), m.mtime(), m.mtime_nsec(), log))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Change, StateDb, id_of};

    fn state(path: &Path) -> StateDb {
        let identity = Identity { store: "s".into(), template: "{{path}}".into(), host: "h".into() };
        StateDb::open(path, &identity, 0).unwrap().0
    }

    fn waits(db: &StateDb, name: &str, since_s: u32) {
        let path = PathBuf::from(name);
        let id = id_of(&path, db.seed());
        db.apply(&[&Change::Waiting { id, path, since_s, wait: Wait::Held }]).unwrap();
    }

    fn stale(look: &Look, before_s: i64) -> Result<Vec<(PathBuf, i64)>> {
        let mut all = Vec::new();
        look.each_stale::<Error>(before_s, 10_000, |one| {
            all.push((one.path, one.since_s));
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn a_state_at_rest_that_a_loop_takes_up_meanwhile_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        let db = state(&path);
        waits(&db, "/a.db", 100);
        drop(db);
        let look = Look::open(&path).unwrap();
        assert!(look.is_still_so());
        assert_eq!(stale(&look, 200).unwrap(), [("/a.db".into(), 100)]);
        let db = state(&path);
        waits(&db, "/b.db", 50);
        assert!(!look.is_still_so());
        let disturbed = stale(&look, 200).unwrap_err();
        assert!(disturbed.to_string().contains("a loop has just begun to use"), "{disturbed}");
        // With the loop's log there, what was looked at stays one view.
        let beside = Look::open(&path).unwrap();
        waits(&db, "/c.db", 10);
        assert!(beside.is_still_so());
        assert_eq!(stale(&beside, 200).unwrap(), [("/b.db".into(), 50), ("/a.db".into(), 100)]);
    }

    #[test]
    fn what_is_too_old_and_what_cannot_be_by_table() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        let db = state(&path);
        for (name, since_s) in [("/old.db", 199), ("/just.db", 200), ("/future.db", 10_001), ("/now.db", 10_000)] {
            waits(&db, name, since_s);
        }
        let look = Look::open(&path).unwrap();
        assert_eq!(stale(&look, 200).unwrap(), [("/old.db".into(), 199), ("/future.db".into(), 10_001)]);
        let waiting = look.waiting(10_000).unwrap();
        assert_eq!(
            (waiting.ages.count, waiting.by_wait["held"], waiting.oldest),
            (4, 4, Some(("/old.db".into(), 199)))
        );
    }
}
