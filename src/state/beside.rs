//! A state beside the loop that owns it: what it believes stored is read, and two kinds of wishes are left in it for the
//! loop's next cycle.
//!
//! Takes no lock of its own and changes nothing but the table `requests` and rows of `meta`. SQLite keeps both sides apart:
//! each change is one transaction, so a crash leaves it done or not done.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::db::{open_quietly, state_error};
use super::id_of;
use super::schema::{APPLICATION_ID, SCHEMA_VERSION};
use crate::engine::state_path;
use crate::error::{Error, Result};
use crate::layout::Template;

/// States named in an error.
const NAMED_MAX: usize = 5;

/// A database that the state believes stored and not gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Believed {
    /// Its id in the state.
    pub id: u64,
    /// Absolute path of the main file.
    pub path: PathBuf,
    /// Key prefix below the store's.
    pub name: String,
    /// Time in the key of its newest snapshot, ms since 1970.
    pub key_ms: i64,
}

/// Databases that the state knows and whose files are not there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GoneFromHost {
    /// How many the state believes stored.
    pub known: u64,
    /// How many of these are not there.
    pub gone: u64,
    /// The first of them, in no useful order.
    pub named: Vec<PathBuf>,
}

/// The state of one store, opened beside whoever works on it.
#[derive(Debug)]
pub struct Beside {
    path: PathBuf,
    conn: Connection,
    seed: u64,
    template: Template,
    host: String,
}

impl Beside {
    /// Opens the state in `state_dir` of the store with this identity; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::State`] if it is damaged, or may not be read and written.
    pub fn open(state_dir: &Path, store_identity: &str) -> Result<Option<Self>> {
        let path = state_path(state_dir, store_identity);
        if !path.exists() {
            return Ok(None);
        }
        let wrong = |e| state_error(&path, "cannot open it beside a running loop", e);
        let conn = connect(&path).map_err(wrong)?;
        if meta(&conn, "store").map_err(wrong)?.as_deref() != Some(store_identity) {
            return Ok(None);
        }
        let text = |name: &str| Ok(meta(&conn, name)?.unwrap_or_default());
        let seed = conn.query_row("SELECT value FROM meta WHERE name = 'seed'", [], |r| r.get::<_, i64>(0));
        let (seed, template, host) = (seed.map_err(wrong)?, text("template").map_err(wrong)?, text("host"));
        let host = host.map_err(wrong)?;
        let template = Template::parse(&template).map_err(|e| state_error(&path, "it names no key template", e))?;
        Ok(Some(Self { seed: seed.cast_unsigned(), template, host, conn, path }))
    }

    /// The same, where there must be one.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the stores of the states there are.
    pub fn expect(state_dir: &Path, store_identity: &str) -> Result<Self> {
        Self::open(state_dir, store_identity)?.ok_or_else(|| {
            let dir = state_dir.display();
            let there = match stores_in(state_dir) {
                none if none.is_empty() => format!("there is no state in {dir}"),
                some => format!("the states in {dir} are of {}", some.join(", ")),
            };
            Error::Usage(format!(
                "no state of {store_identity} in {dir}: {there}; give the --store and --state-dir that replicate was given"
            ))
        })
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Calls `visit` with every database believed stored and not gone, in no useful order. Ends with its first error.
    ///
    /// # Errors
    /// That of `visit`; [`Error::State`] if the file cannot be read. A damaged row is left out, as the loop does.
    pub fn each_believed(&self, mut visit: impl FnMut(Believed) -> Result<()>) -> Result<()> {
        let wrong = |e| self.wrong("cannot read it", e);
        let mut all = self
            .conn
            .prepare("SELECT id, path, prefix, key_ms FROM databases WHERE key_ms IS NOT NULL AND gone_s IS NULL")
            .map_err(wrong)?;
        let mut rows = all.query([]).map_err(wrong)?;
        while let Some(row) = rows.next().map_err(wrong)? {
            if let Some(believed) = self.believed(row) {
                visit(believed)?;
            }
        }
        Ok(())
    }

    /// What a row says; nothing if it is not where its path belongs, or its values cannot be.
    fn believed(&self, row: &rusqlite::Row<'_>) -> Option<Believed> {
        let path = match row.get_ref(1).ok()? {
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => PathBuf::from(OsStr::from_bytes(bytes)),
            _ => return None,
        };
        let (id, prefix) = (row.get::<_, i64>(0).ok()?.cast_unsigned(), row.get::<_, Option<String>>(2).ok()?);
        if id_of(&path, self.seed) != id {
            return None;
        }
        // A template that wants captures has its prefixes in the rows.
        let name = prefix.or_else(|| self.template.render(&path, &self.host, &[]).ok())?;
        Some(Believed { id, path, name, key_ms: row.get(3).ok()? })
    }

    /// The time in the key of the newest snapshot of database `id`, as the state has it now, ms; `None` if it is gone.
    ///
    /// # Errors
    /// [`Error::State`] if the file cannot be read.
    pub fn key_ms(&self, id: u64) -> Result<Option<i64>> {
        let sql = "SELECT key_ms FROM databases WHERE id = ?1 AND gone_s IS NULL";
        let read = || self.conn.prepare_cached(sql)?.query_row([id.cast_signed()], |r| r.get(0)).optional();
        read().map(Option::flatten).map_err(|e| self.wrong("cannot read it", e))
    }

    /// Asks that the databases `ids` are stored again in the next cycle, whatever their stamps say.
    ///
    /// # Errors
    /// [`Error::State`] if that cannot be written down; then none of them is asked for.
    pub fn request(&self, ids: &[u64]) -> Result<()> {
        let run = || -> rusqlite::Result<()> {
            let tx = rusqlite::Transaction::new_unchecked(&self.conn, rusqlite::TransactionBehavior::Immediate)?;
            tx.execute_batch("CREATE TABLE IF NOT EXISTS requests(id INTEGER PRIMARY KEY)")?;
            for id in ids {
                tx.prepare_cached("INSERT OR IGNORE INTO requests VALUES(?1)")?.execute([id.cast_signed()])?;
            }
            tx.commit()
        };
        run().map_err(|e| self.wrong("cannot note in it what is to be stored again", e))
    }

    /// The value of `name` in the table `meta`.
    ///
    /// # Errors
    /// [`Error::State`] if the file cannot be read.
    pub fn meta(&self, name: &str) -> Result<Option<String>> {
        meta(&self.conn, name).map_err(|e| self.wrong("cannot read it", e))
    }

    /// Sets the value of `name` in the table `meta`, as text.
    ///
    /// # Errors
    /// [`Error::State`] if the file cannot be written.
    pub fn set_meta(&self, name: &str, value: &str) -> Result<()> {
        let set = self.conn.execute("INSERT OR REPLACE INTO meta VALUES(?1, ?2)", [name, value]);
        set.map(drop).map_err(|e| self.wrong("cannot note it", e))
    }

    /// Looks for the file of each database believed stored, and counts those that are not there; the first `named_max` are
    /// named. One that cannot be looked at counts as there.
    ///
    /// # Errors
    /// [`Error::State`] if the file cannot be read.
    pub fn gone_from_host(&self, named_max: usize) -> Result<GoneFromHost> {
        use std::io::ErrorKind::{NotADirectory, NotFound};
        let mut found = GoneFromHost::default();
        self.each_believed(|believed| {
            found.known += 1;
            if believed.path.symlink_metadata().is_err_and(|e| matches!(e.kind(), NotFound | NotADirectory)) {
                found.gone += 1;
                if found.named.len() < named_max {
                    found.named.push(believed.path);
                }
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn wrong(&self, what: &str, error: rusqlite::Error) -> Error {
        state_error(&self.path, what, error)
    }
}

/// Opens a state that is there, for reading and writing. One that this user may not write is no use here: what is found
/// could not be asked for.
fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let refused = |code, what: String| rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(what));
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(Duration::from_secs(10))?;
    let id: i32 = conn.pragma_query_value(None, "application_id", |r| r.get(0))?;
    let version: i32 = conn.pragma_query_value(None, "user_version", |r| r.get(0))?;
    if (id, version) != (APPLICATION_ID, SCHEMA_VERSION) {
        let what = format!("application id {id:#x}, version {version}: not a state of this litesnap");
        return Err(refused(rusqlite::ffi::SQLITE_NOTADB, what));
    }
    if conn.is_readonly("main")? {
        return Err(refused(rusqlite::ffi::SQLITE_READONLY, "it can be read but not written".into()));
    }
    conn.pragma_update(None, "synchronous", "FULL")?;
    Ok(conn)
}

fn meta(conn: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    // Whatever type it was noted as.
    let text = conn.query_row("SELECT CAST(value AS TEXT) FROM meta WHERE name = ?1", [name], |r| r.get(0));
    text.optional().map(Option::flatten)
}

/// The stores whose states lie in `dir`, as these name them: the first few.
fn stores_in(dir: &Path) -> Vec<String> {
    let files = std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut states: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|x| x == "db")).collect();
    states.sort();
    let stores = states.iter().filter_map(|path| meta(&open_quietly(path).ok()?, "store").ok()?);
    stores.take(NAMED_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::ContentHash;
    use crate::stamps::{MainStamp, Stamps};
    use crate::state::{Change, Identity, StateDb};

    const STORE: &str = "s3://bucket/prefix";

    fn state(dir: &Path, template: &str) -> StateDb {
        let identity = Identity { store: STORE.into(), template: template.into(), host: "web-1".into() };
        StateDb::open(&state_path(dir, STORE), &identity, 0).unwrap().0
    }

    fn stored(db: &StateDb, path: &Path, prefix: Option<&str>, key_ms: i64) -> u64 {
        let id = id_of(path, db.seed());
        let main = MainStamp { dev: 1, ino: 2, size: 3, mtime: 4, ctime: 5 };
        let stamps = Stamps { main, wal: None, journal: None };
        let prefix = prefix.map(Into::into);
        let (path, content_hash) = (path.to_path_buf(), ContentHash([7; 16]));
        db.apply(&[&Change::Stored {
            id,
            path,
            prefix,
            stamps,
            stamped_at: 9,
            content_hash,
            key_ms,
            stored_s: 1,
            bytes: 1,
        }])
        .unwrap();
        id
    }

    fn all(beside: &Beside) -> Vec<Believed> {
        let mut all = Vec::new();
        beside
            .each_believed(|b| {
                all.push(b);
                Ok(())
            })
            .unwrap();
        all.sort_by(|a, b| a.path.cmp(&b.path));
        all
    }

    #[test]
    fn what_is_believed_is_named_as_its_keys_are() {
        let dir = tempfile::tempdir().unwrap();
        let db = state(dir.path(), "{{hostname}}/{{path}}");
        let odd = Path::new(OsStr::from_bytes(b"/data/\xff.db"));
        let (a, b) = (stored(&db, Path::new("/data/a b.db"), None, 5), stored(&db, odd, Some("p/x"), 6));
        let gone = stored(&db, Path::new("/data/gone.db"), None, 7);
        db.apply(&[&Change::Gone { id: gone, at_s: 1, tombstone_ms: Some(1000) }]).unwrap();
        // While the owner has it open.
        let beside = Beside::open(dir.path(), STORE).unwrap().unwrap();
        let expected = [
            Believed { id: a, path: "/data/a b.db".into(), name: "web-1/data/a%20b.db".into(), key_ms: 5 },
            Believed { id: b, path: odd.into(), name: "p/x".into(), key_ms: 6 },
        ];
        assert_eq!(all(&beside), expected);
        assert_eq!((beside.key_ms(a).unwrap(), beside.key_ms(gone).unwrap(), beside.key_ms(1).unwrap()), {
            (Some(5), None, None)
        });
    }

    #[test]
    fn wishes_arrive_and_nothing_stays_behind_but_the_state() {
        let dir = tempfile::tempdir().unwrap();
        let id = stored(&state(dir.path(), "{{path}}"), Path::new("/a.db"), None, 5);
        let names = || std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        let before = names();
        let beside = Beside::open(dir.path(), STORE).unwrap().unwrap();
        for _ in 0..2 {
            beside.request(&[id, u64::MAX]).unwrap();
        }
        assert_eq!(beside.meta("accept_gone").unwrap(), None);
        beside.set_meta("accept_gone", "30").unwrap();
        assert_eq!(beside.meta("accept_gone").unwrap().as_deref(), Some("30"));
        drop(beside);
        assert_eq!(names(), before);
        let conn = Connection::open(state_path(dir.path(), STORE)).unwrap();
        let requests: i64 = conn.query_row("SELECT count(*) FROM requests", [], |r| r.get(0)).unwrap();
        assert_eq!(requests, 2);
        // The owner still takes it for its own.
        drop(conn);
        assert!(state(dir.path(), "{{path}}").row(id).unwrap().is_some());
    }

    #[test]
    fn files_that_are_not_there_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let db = state(dir.path(), "{{path}}");
        std::fs::write(dir.path().join("there"), "").unwrap();
        for path in ["there", "away", "there/below a file", "missing/x"] {
            stored(&db, &dir.path().join(path), None, 5);
        }
        let found = Beside::open(dir.path(), STORE).unwrap().unwrap().gone_from_host(2).unwrap();
        assert_eq!((found.known, found.gone, found.named.len()), (4, 3, 2));
    }

    #[test]
    fn another_store_has_none_and_the_error_names_those_there_are() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Beside::open(dir.path(), STORE).unwrap().is_none());
        let none = Beside::expect(dir.path(), STORE).unwrap_err();
        assert!(none.exit_code() == 2 && none.to_string().contains("there is no state in"), "{none}");
        drop(state(dir.path(), "{{path}}"));
        let other = Beside::expect(dir.path(), "s3://other").unwrap_err();
        assert!(other.to_string().contains("are of s3://bucket/prefix"), "{other}");
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = state_path(dir.path(), STORE);
        for content in ["", "certainly no database"] {
            std::fs::write(&path, content).unwrap();
            let error = Beside::open(dir.path(), STORE).unwrap_err();
            assert!(matches!(error, Error::State { .. }), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
    }
}
