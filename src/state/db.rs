//! `state.db`: the rows behind the slots, in an ordinary SQLite database in WAL mode.
//!
//! Written by one connection in batches, each one transaction that survives power loss (`synchronous=FULL`); read by
//! any number of others, those of `sqlite3` shells included. A crash leaves the last whole batch. A file that is
//! damaged or not ours is set aside under another name, never deleted, and everything counts as changed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::schema::{
    APPLICATION_ID, COLUMNS, SCHEMA_VERSION, add_missing, check_pages, check_schema, foreign, is_damage,
};
use super::{Change, apply, cycles, notes, schema};
use crate::clock::Nanos;
use crate::content::ContentHash;
use crate::error::{Error, Result};
use crate::fs::rename_durably;
use crate::stamps::{JournalStamp, MainStamp, Stamps, WalStamp};
use crate::timestamp::Timestamp;

/// How long what must be written waits for somebody else's transaction.
pub(super) const BUSY_WAIT: Duration = Duration::from_secs(10);
/// Pages in the log from which on they are moved into the file as soon as a batch is recorded, while nobody waits for it. SQLite
/// would do it within the commit, after each thousand.
const LOG_PAGES: i64 = 8192;
/// Pages in the log from which on they are moved between cycles.
const LOG_PAGES_AT_REST: i64 = 1000;
/// Pages in the log from which on a commit moves them itself, should nobody else have done it.
const LOG_PAGES_MAX: i64 = 32_768;

/// What a state belongs to. If any part differs, nothing in it says anything about the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Store and prefix, without secrets.
    pub store: String,
    /// Key template.
    pub template: String,
    /// Host name as it goes into keys and descriptions.
    pub host: String,
}

impl Identity {
    fn parts(&self) -> [(&'static str, &str); 3] {
        [("store", &self.store), ("template", &self.template), ("host", &self.host)]
    }
}

/// What [`StateDb::open`] met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// No state yet.
    Fresh,
    /// The state of this very store, template and host.
    Known,
    /// It belonged to another store, template or host, which the text names. All rows were dropped.
    Reset(String),
    /// The file was damaged or not ours; it now lies at this path.
    SetAside(PathBuf, String),
}

/// One row of `databases`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Hash of the path.
    pub id: u64,
    /// Absolute path of the main file.
    pub path: PathBuf,
    /// Key prefix, unless the path tells it.
    pub prefix: Option<String>,
    /// Stamps before the last confirmed read.
    pub stamps: Option<Stamps>,
    /// When they were taken.
    pub stamped_at: Nanos,
    /// Content of the last stored snapshot.
    pub content_hash: Option<ContentHash>,
    /// Timestamp in its key, ms.
    pub key_ms: Option<i64>,
    /// When it was stored, s; 0 for never.
    pub stored_s: u32,
    /// Gone from the host since, s.
    pub gone_s: Option<i64>,
    /// Timestamp in the key of its last tombstone, ms.
    pub tombstone_ms: Option<i64>,
    /// The last failure, if the last attempt failed.
    pub error: Option<String>,
}

impl Row {
    /// The time in the last key of this database, ms: its next one must be above it.
    #[must_use]
    pub fn last_ms(&self) -> Option<i64> {
        self.key_ms.max(self.tombstone_ms)
    }

    /// Whether the store says that it is gone: its last tombstone is not older than its last snapshot.
    #[must_use]
    pub fn is_buried(&self) -> bool {
        self.tombstone_ms.is_some() && self.tombstone_ms >= self.key_ms
    }
}

/// An open `state.db`.
pub struct StateDb {
    pub(super) path: PathBuf,
    pub(super) writer: Mutex<Connection>,
    /// Idle read-only connections; as many as threads ever read at once.
    readers: Mutex<Vec<Connection>>,
    seed: u64,
    writes: bool,
    was_left_open: bool,
}

impl std::fmt::Debug for StateDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateDb").field("path", &self.path).finish_non_exhaustive()
    }
}

impl StateDb {
    /// Opens or makes the state at `path` for `identity`. `now_s` names a damaged file that is set aside.
    ///
    /// # Errors
    /// [`Error::State`] if the directory cannot be written or the disk is full. Damage is no error.
    pub fn open(path: &Path, identity: &Identity, now_s: i64) -> Result<(Self, Opened)> {
        let existed = path.exists();
        // To SQLite a read that fails once can look like damage: what is set aside for it is damaged twice.
        let again = |e| if is_damage(&e) { Self::try_open(path, identity) } else { Err(e) };
        match Self::try_open(path, identity).or_else(again) {
            Ok((db, reset)) => {
                let opened = match (existed, reset) {
                    (_, Some(what)) => Opened::Reset(what),
                    (true, None) => Opened::Known,
                    (false, None) => Opened::Fresh,
                };
                Ok((db, opened))
            }
            Err(e) if is_damage(&e) || (is_read_only(&e) && names_later_format(path)) => {
                let aside = set_aside(path, now_s)?;
                let (db, _) = Self::try_open(path, identity).map_err(|e| state_error(path, "cannot create it", e))?;
                Ok((db, Opened::SetAside(aside, e.to_string())))
            }
            Err(e) => Err(state_error(path, "cannot open it; its directory must be writable and have room", e)),
        }
    }

    /// Opens the state at `path` without writing anything anywhere; an empty one if there is none for `identity`.
    ///
    /// # Errors
    /// [`Error::State`] if it is there and may not be read. A damaged one counts as none, as it would for [`StateDb::open`].
    pub fn open_for_reading(path: &Path, identity: &Identity) -> Result<Self> {
        let wrong = |e| state_error(path, "cannot read it", e);
        let damaged = |e: &rusqlite::Error| is_damage(e) && path.exists();
        match Self::try_open_for_reading(path, identity) {
            Ok(db) => Ok(db),
            Err(e) if damaged(&e) => {
                log::warn!("the state {} is damaged ({e}): a run would set it aside", path.display());
                Self::nothing_known().map_err(wrong)
            }
            Err(e) => Err(wrong(e)),
        }
    }

    fn nothing_known() -> rusqlite::Result<Self> {
        let writer = Mutex::new(empty()?);
        Ok(Self {
            path: PathBuf::from(":memory:"),
            writer,
            readers: Mutex::default(),
            seed: 0,
            writes: false,
            was_left_open: false,
        })
    }

    fn try_open_for_reading(path: &Path, identity: &Identity) -> rusqlite::Result<Self> {
        if !path.exists() {
            return Self::nothing_known();
        }
        let conn = open_quietly(path)?;
        check_pages(&conn)?;
        check_schema(&conn)?;
        let (path, readers) = (path.to_path_buf(), Mutex::default());
        let mut db = Self { path, writer: Mutex::new(conn), readers, seed: 0, writes: false, was_left_open: false };
        if !db.is_of(identity)? {
            return Self::nothing_known();
        }
        db.seed = db.read_seed()?.cast_unsigned();
        Ok(db)
    }

    fn is_of(&self, identity: &Identity) -> rusqlite::Result<bool> {
        let conn = self.writer.lock();
        for (name, value) in identity.parts() {
            let known: Option<String> =
                conn.query_row("SELECT value FROM meta WHERE name = ?1", [name], |r| r.get(0)).optional()?;
            if known.as_deref() != Some(value) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read_seed(&self) -> rusqlite::Result<i64> {
        self.writer.lock().query_row("SELECT value FROM meta WHERE name = 'seed'", [], |r| r.get(0))
    }

    fn try_open(path: &Path, identity: &Identity) -> rusqlite::Result<(Self, Option<String>)> {
        let mut conn = Connection::open(path)?;
        conn.busy_timeout(BUSY_WAIT)?;
        let id: i32 = conn.pragma_query_value(None, "application_id", |r| r.get(0))?;
        let version: i32 = conn.pragma_query_value(None, "user_version", |r| r.get(0))?;
        let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
        if tables > 0 && (id, version) != (APPLICATION_ID, SCHEMA_VERSION) {
            return Err(foreign(format!("application id {id:#x}, version {version}: not a state of this litesnap")));
        }
        conn.pragma_update(None, "journal_mode", "WAL")?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        conn.pragma_update(None, "wal_autocheckpoint", LOG_PAGES_MAX)?;
        // Readers that a shell leaves open keep the log from being reused; past this size it is cut down again.
        conn.pragma_update(None, "journal_size_limit", 16 << 20)?;
        if tables == 0 {
            let made = conn.transaction()?;
            schema::make(&made)?;
            made.pragma_update(None, "application_id", APPLICATION_ID)?;
            made.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            made.execute("INSERT INTO meta VALUES('seed', random())", [])?;
            made.commit()?;
        }
        check_pages(&conn)?;
        add_missing(&mut conn)?;
        check_schema(&conn)?;
        if conn.is_readonly("main")? {
            let what = "it can be read but not written".to_owned();
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_READONLY),
                Some(what),
            ));
        }
        let seed: i64 = conn.query_row("SELECT value FROM meta WHERE name = 'seed'", [], |r| r.get(0))?;
        let reset = adopt(&mut conn, identity)?;
        let was_left_open = cycles::begin(&conn)?;
        let db = Self {
            path: path.to_path_buf(),
            writer: Mutex::new(conn),
            readers: Mutex::new(Vec::new()),
            seed: seed.cast_unsigned(),
            writes: true,
            was_left_open,
        };
        Ok((db, reset))
    }

    /// The key under which paths and stamps are hashed; random per state.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Whether the process that worked on it last ended in the middle of it: the store may hold more than is recorded here.
    #[must_use]
    pub fn was_left_open(&self) -> bool {
        self.was_left_open
    }

    /// Remembers the patterns in use; tells whether they are the same as before.
    ///
    /// # Errors
    /// [`Error::State`] when the file cannot be written.
    pub fn remember_patterns(&self, patterns: &str) -> Result<bool> {
        let conn = self.writer.lock();
        let run = || -> rusqlite::Result<bool> {
            // By its bytes: what damage made of them is other patterns, and no reason to stop.
            let is_same =
                |row: &rusqlite::Row<'_>| Ok(row.get_ref(0)?.as_bytes().is_ok_and(|b| b == patterns.as_bytes()));
            let sql = "SELECT value FROM meta WHERE name = 'patterns'";
            let same = conn.query_row(sql, [], is_same).optional()?.unwrap_or(false);
            if !same {
                conn.execute("INSERT OR REPLACE INTO meta VALUES('patterns', ?1)", [patterns])?;
            }
            Ok(same)
        };
        run().map_err(|e| state_error(&self.path, "cannot note the patterns in it", e))
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Calls `visit` with every row of a database not gone, in no useful order.
    ///
    /// # Errors
    /// [`Error::State`] when the file cannot be read. A damaged row is left out: unknown means changed.
    pub fn load(&self, mut visit: impl FnMut(Row)) -> Result<()> {
        let conn = self.writer.lock();
        let mut run = || -> rusqlite::Result<()> {
            let mut all = conn.prepare(&format!("SELECT {COLUMNS} FROM databases WHERE gone_s IS NULL"))?;
            let mut rows = all.query([])?;
            while let Some(row) = rows.next()? {
                // A row that is not where its path belongs says nothing about any database.
                if let Ok(row) = read_row(row)
                    && super::id_of(&row.path, self.seed) == row.id
                {
                    visit(row);
                }
            }
            Ok(())
        };
        run().map_err(|e| state_error(&self.path, "cannot read it", e))
    }

    /// The row of `id`.
    ///
    /// # Errors
    /// [`Error::State`] when the file cannot be read.
    pub fn row(&self, id: u64) -> Result<Option<Row>> {
        self.reading(|conn| row_from(conn, id))
    }

    /// The rows of `ids`, in their order, as of one moment.
    ///
    /// # Errors
    /// [`Error::State`] when the file cannot be read.
    pub(super) fn rows(&self, ids: &[u64]) -> Result<Vec<Option<Box<Row>>>> {
        self.reading(|conn| {
            let tx = conn.unchecked_transaction()?;
            let rows = ids.iter().map(|id| Ok(row_from(&tx, *id)?.map(Box::new))).collect::<rusqlite::Result<_>>()?;
            tx.commit()?;
            Ok(rows)
        })
    }

    /// Reads with an idle connection, or one more. One that fails is not used again.
    fn reading<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        if !self.writes {
            return read(&self.writer.lock()).map_err(|e| state_error(&self.path, "cannot read it", e));
        }
        let pooled = self.readers.lock().pop();
        let run = || -> rusqlite::Result<(Connection, T)> {
            let conn = match pooled {
                Some(conn) => conn,
                None => self.reader()?,
            };
            let got = read(&conn)?;
            Ok((conn, got))
        };
        let (conn, got) = run().map_err(|e| state_error(&self.path, "cannot read it", e))?;
        self.readers.lock().push(conn);
        Ok(got)
    }

    fn reader(&self) -> rusqlite::Result<Connection> {
        let conn = Connection::open_with_flags(
            &self.path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        conn.busy_timeout(Duration::from_secs(10))?;
        conn.pragma_update(None, "cache_size", -256)?;
        Ok(conn)
    }

    /// Closes the readers: between cycles nothing but the writer's connection is kept, and a log of no great length.
    pub fn rest(&self) {
        self.readers.lock().clear();
        self.shorten_log(LOG_PAGES_AT_REST);
        self.writer.lock().release_memory().ok();
    }

    /// Moves what the log holds into the file, if it is much. To be called when a batch is recorded and told.
    pub fn settle(&self) {
        self.shorten_log(LOG_PAGES);
    }

    fn shorten_log(&self, pages: i64) {
        let conn = self.writer.lock();
        let not_moved = |how: &str| conn.query_row(how, [], |row| Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?));
        // Nothing depends on it: what cannot be moved stays in the log, where it is as safe and as readable.
        if not_moved("PRAGMA wal_checkpoint(NOOP)").is_ok_and(|n| n >= pages)
            && let Err(e) = not_moved("PRAGMA wal_checkpoint(PASSIVE)")
        {
            log::debug!("the log of {} stays as it is: {e}", self.path.display());
        }
    }

    /// Records `batch` in one transaction; returns after it would survive power loss.
    ///
    /// # Errors
    /// [`Error::State`]; then nothing of the batch is recorded.
    pub fn apply(&self, batch: &[&Change]) -> Result<()> {
        let mut conn = self.writer.lock();
        let mut run = || -> rusqlite::Result<()> {
            let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            apply::apply(&tx, batch)?;
            notes::count_days(&tx, batch)?;
            tx.commit()
        };
        run().map_err(|e| state_error(&self.path, "cannot record what was stored", e))
    }
}

fn row_from(conn: &Connection, id: u64) -> rusqlite::Result<Option<Row>> {
    let row = conn
        .prepare_cached(&format!("SELECT {COLUMNS} FROM databases WHERE id = ?1"))?
        .query_row([id.cast_signed()], |row| Ok(read_row(row)))
        .optional()?;
    // A row whose values cannot be is as good as none, here as in `load`.
    Ok(row.and_then(std::result::Result::ok))
}

fn read_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let int = |at: usize| row.get::<_, Option<i64>>(at);
    let unsigned = |at: usize| int(at).map(|v| v.map(i64::cast_unsigned));
    let main = match (unsigned(3)?, unsigned(4)?, unsigned(5)?, int(6)?, int(7)?) {
        (Some(dev), Some(ino), Some(size), Some(mtime), Some(ctime)) => {
            Some(MainStamp { dev, ino, size, mtime, ctime })
        }
        _ => None,
    };
    let wal = match (unsigned(8)?, unsigned(9)?, int(10)?) {
        (Some(ino), Some(size), Some(mtime)) => Some(WalStamp { ino, size, mtime }),
        _ => None,
    };
    let journal = match (unsigned(11)?, int(12)?) {
        (Some(size), Some(mtime)) => Some(JournalStamp { size, mtime }),
        _ => None,
    };
    let path = match row.get_ref(1)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => PathBuf::from(OsStr::from_bytes(bytes)),
        _ => return Err(foreign("a path that is neither text nor blob".into())),
    };
    Ok(Row {
        id: row.get::<_, i64>(0)?.cast_unsigned(),
        path,
        prefix: row.get(2)?,
        stamps: main.map(|main| Stamps { main, wal, journal }),
        stamped_at: int(13)?.unwrap_or(0),
        content_hash: row.get::<_, Option<[u8; 16]>>(14)?.map(ContentHash),
        key_ms: int(15)?,
        stored_s: u32::try_from(int(16)?.unwrap_or(0)).unwrap_or(0),
        gone_s: int(17)?,
        error: row.get(18)?,
        // One that can be in no key, as damage leaves it, would have the database stored in each cycle for ever.
        tombstone_ms: int(19)?.filter(|ms| Timestamp::from_ms(*ms).is_some()),
    })
}

fn empty() -> rusqlite::Result<Connection> {
    let conn = Connection::open_in_memory()?;
    schema::make(&conn)?;
    conn.execute("INSERT INTO meta VALUES('seed', 0)", [])?;
    Ok(conn)
}

/// Opens a state for reading, leaving nothing behind.
pub(super) fn open_quietly(path: &Path) -> rusqlite::Result<Connection> {
    let log = crate::stamps::sidecar(path, "-wal");
    // A reader of a database at rest would leave a -wal and a -shm behind. A running loop has both.
    let at_rest = std::fs::metadata(&log).map_or(true, |m| m.len() == 0);
    open_read_only(path, at_rest)
}

/// Opens a database for reading; one `at_rest`, which nobody writes meanwhile, without looking for sidecars or locks.
pub(crate) fn open_read_only(path: &Path, at_rest: bool) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if !at_rest {
        return Connection::open_with_flags(path, flags);
    }
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => uri.push(char::from(*byte)),
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)
}

/// Makes the state that of `identity`; tells what differed, if anything did.
fn adopt(conn: &mut Connection, identity: &Identity) -> rusqlite::Result<Option<String>> {
    let mut differing = Vec::new();
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for (name, value) in identity.parts() {
        let known: Option<String> =
            tx.query_row("SELECT value FROM meta WHERE name = ?1", [name], |r| r.get(0)).optional()?;
        match known {
            Some(known) if known == value => continue,
            Some(known) => differing.push(format!("{name} was {known}, is {value}")),
            None => {}
        }
        tx.execute("INSERT OR REPLACE INTO meta VALUES(?1, ?2)", params![name, value])?;
    }
    if !differing.is_empty() {
        tx.execute_batch(
            "DELETE FROM databases; DELETE FROM requests; DELETE FROM days; DELETE FROM backlog;
             DELETE FROM cycles; DELETE FROM spent;",
        )?;
        for note in [notes::ACCEPT_GONE, cycles::LOOP_NOTE, cycles::DOUBT_NOTE] {
            tx.execute("DELETE FROM meta WHERE name = ?1", [note])?;
        }
    }
    tx.commit()?;
    Ok((!differing.is_empty()).then(|| differing.join("; ")))
}

fn is_read_only(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::ReadOnly)
}

/// SQLite writes to no file whose header names a later format, as a damaged one may. It opens one for reading as well when opening
/// it for writing fails, be it once, for the disk's sake: that says nothing about what the file holds.
fn names_later_format(path: &Path) -> bool {
    let mut byte = [0];
    // Opened for writing, too: one that this user may not write is not set aside.
    let file = std::fs::File::options().read(true).write(true).open(path);
    let read = file.and_then(|file| file.read_exact_at(&mut byte, WRITE_VERSION_AT));
    read.is_ok() && byte[0] > 2
}

/// The write version in SQLite's header.
const WRITE_VERSION_AT: u64 = 18;

fn set_aside(path: &Path, now_s: i64) -> Result<PathBuf> {
    let named = |path: &Path, suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let aside = (0..)
        .map(|n| named(path, &format!(".damaged-{}", now_s + n)))
        .find(|aside| !aside.exists())
        .expect("some name of so many is free");
    for suffix in ["", "-wal", "-shm"] {
        let from = named(path, suffix);
        if from.exists() {
            let to = named(&aside, suffix);
            rename_durably(&from, &to).map_err(|e| state_error(path, "cannot set the damaged file aside", e))?;
        }
    }
    Ok(aside)
}

pub(super) fn state_error(path: &Path, what: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::State { path: path.to_path_buf(), what: what.to_owned(), source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backlog::Wait;

    #[test]
    fn what_a_batch_leaves_in_the_log_is_moved_when_nobody_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let identity = Identity { store: "s".into(), template: "t".into(), host: "h".into() };
        let (db, _) = StateDb::open(&path, &identity, 0).unwrap();
        let in_log = || {
            let conn = db.writer.lock();
            let in_log = conn.query_row("PRAGMA wal_checkpoint(NOOP)", [], |r| Ok((r.get(1)?, r.get(2)?)));
            in_log.map(|(all, moved): (i64, i64)| all - moved).unwrap()
        };
        let long = |n: u64| PathBuf::from(format!("/{n}/{}", "x".repeat(3500)));
        let waits = |n| Change::Waiting { id: n, path: long(n), since_s: 1, wait: Wait::Held };
        let batch: Vec<Change> = (0..1200).map(waits).collect();
        db.apply(&batch.iter().collect::<Vec<_>>()).unwrap();
        assert!(in_log() > LOG_PAGES_AT_REST, "{} pages", in_log());
        db.settle();
        assert!(in_log() > LOG_PAGES_AT_REST, "it is not that long yet");
        // Somebody who reads does not keep it from being moved, and reads on.
        let reader = open_quietly(&path).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM backlog").unwrap();
        db.rest();
        assert_eq!(in_log(), 0);
        let count: i64 = reader.query_row("SELECT count(*) FROM backlog", [], |r| r.get(0)).unwrap();
        assert_eq!(count, 1200);
    }
}
