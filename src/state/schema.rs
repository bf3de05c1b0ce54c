//! What `state.db` is made of, and how it is told that a file is one.

use rusqlite::Connection;

use super::{cycles, notes};

/// "LSNP": in the header of `state.db`, so that a foreign file is never taken for ours.
pub(super) const APPLICATION_ID: i32 = 0x4C53_4E50;
/// Raised when a released schema changes.
pub(super) const SCHEMA_VERSION: i32 = 1;

/// What most rows have stands first: SQLite leaves out what is NULL at the end of a row (SQLITE_ENABLE_NULL_TRIM), which is
/// a twentieth of a state. States made before have these columns in another order.
const SCHEMA: &str = "
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE databases(
  id INTEGER PRIMARY KEY,  -- keyed hash of the path
  path NOT NULL,           -- TEXT; BLOB where it is not UTF-8
  dev INTEGER, ino INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER,
  stamped_ns INTEGER,      -- when these and the stamps of the sidecars were taken
  content_hash BLOB,       -- of the last stored snapshot
  key_ms INTEGER,          -- the time in the last stored snapshot's key, ms since 1970
  stored_s INTEGER,        -- when the store confirmed it, s since 1970
  prefix TEXT,             -- key prefix below the store's; NULL under the default template, where the path tells it
  wal_ino INTEGER, wal_size INTEGER, wal_mtime_ns INTEGER,
  journal_size INTEGER, journal_mtime_ns INTEGER,
  gone_s INTEGER,          -- since when it is gone from the host
  tombstone_ms INTEGER,    -- the time in the key of the last tombstone, ms since 1970; if not below key_ms, it is in force
  failed_s INTEGER,        -- since when attempts fail
  error TEXT               -- the last failure: word, colon, detail
);
CREATE VIEW snapshots AS SELECT path,
  strftime('%Y%m%dT%H%M%S', key_ms / 1000, 'unixepoch') || printf('.%03dZ.db.lz4', key_ms % 1000) AS last_key,
  datetime(stored_s, 'unixepoch') AS stored_utc, datetime(gone_s, 'unixepoch') AS gone_utc,
  datetime(failed_s, 'unixepoch') AS failing_since_utc, error
  FROM databases;
";

/// What [`read_row`](super::db) takes, in its order.
pub(super) const COLUMNS: &str = "id, path, prefix, dev, ino, size, mtime_ns, ctime_ns, wal_ino, wal_size, wal_mtime_ns, \
                       journal_size, journal_mtime_ns, stamped_ns, content_hash, key_ms, stored_s, gone_s, error, tombstone_ms";

/// Whether rows could be lost from sight: damage met only in the middle of a cycle would fail that cycle and each one
/// after it. Reads the whole file, as loading does anyway.
pub(super) fn check_pages(conn: &Connection) -> rusqlite::Result<()> {
    let found: String = conn.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
    if found != "ok" {
        return Err(foreign(found.replace('\n', " ")));
    }
    Ok(())
}

/// The schema is text on a page like any other: that it still is what we read and write shows only in use.
pub(super) fn check_schema(conn: &Connection) -> rusqlite::Result<()> {
    conn.prepare(&format!("SELECT {COLUMNS}, failed_s FROM databases"))?;
    notes::check(conn)?;
    cycles::check(conn)
}

/// Brings a state of a litesnap that wrote no tombstones up to date.
pub(super) fn add_missing(conn: &mut Connection) -> rusqlite::Result<()> {
    let sql = "SELECT count(*) FROM pragma_table_info('databases') WHERE name = 'tombstone_ms'";
    let is_old = conn.query_row(sql, [], |row| row.get::<_, i64>(0))? == 0;
    let tx = conn.transaction()?;
    if is_old {
        tx.execute_batch("ALTER TABLE databases ADD COLUMN tombstone_ms INTEGER")?;
    }
    tx.execute_batch(notes::SCHEMA)?;
    tx.execute_batch(cycles::SCHEMA)?;
    tx.commit()
}

/// Makes all tables of an empty database.
pub(super) fn make(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(SCHEMA)?;
    conn.execute_batch(notes::SCHEMA)?;
    conn.execute_batch(cycles::SCHEMA)
}

/// An error that says that the file is none of ours.
pub(super) fn foreign(what: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB), Some(what))
}

/// Whether an error says that the file's content is wrong, rather than that the file system refuses us.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, SchemaChanged, TypeMismatch, Unknown};
    match error {
        rusqlite::Error::SqliteFailure(e, _) => {
            matches!(e.code, DatabaseCorrupt | NotADatabase | SchemaChanged | TypeMismatch | Unknown)
        }
        // Our own SQL fits our own schema.
        rusqlite::Error::SqlInputError { .. }
        | rusqlite::Error::QueryReturnedNoRows
        | rusqlite::Error::Utf8Error(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::FromSqlConversionFailure(..) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::ContentHash;
    use crate::stamps::{FileStat, Stamps, WalStamp};
    use crate::state::{Change, Identity, Opened, Row, StateDb, id_of};
    use std::path::{Path, PathBuf};

    /// The columns as they stood until prefix and sidecars moved behind what each row has.
    const BEFORE: &str = "
      id INTEGER PRIMARY KEY, path NOT NULL, prefix TEXT, dev INTEGER, ino INTEGER, size INTEGER, mtime_ns INTEGER,
      ctime_ns INTEGER, wal_ino INTEGER, wal_size INTEGER, wal_mtime_ns INTEGER, journal_size INTEGER,
      journal_mtime_ns INTEGER, stamped_ns INTEGER, content_hash BLOB, key_ms INTEGER, stored_s INTEGER, gone_s INTEGER,
      tombstone_ms INTEGER, failed_s INTEGER, error TEXT";

    fn open(path: &Path) -> (StateDb, Opened) {
        let identity = Identity { store: "s".into(), template: "t".into(), host: "h".into() };
        StateDb::open(path, &identity, 0).unwrap()
    }

    fn stored(db: &StateDb, name: &str, key_ms: i64) {
        let main = FileStat { ino: 3, size: 4096, mtime: key_ms, ..FileStat::default() };
        let wal = (key_ms % 2 == 0).then_some(WalStamp { ino: 5, size: 32, mtime: 6 });
        let path = PathBuf::from(name);
        let change = Change::Stored {
            id: id_of(&path, db.seed()),
            path,
            prefix: None,
            stamps: Stamps { wal, ..Stamps::new(&main, None, None) },
            stamped_at: 9,
            content_hash: ContentHash([7; 16]),
            key_ms,
            stored_s: 1,
            bytes: 1,
        };
        db.apply(&[&change]).unwrap();
    }

    fn rows(db: &StateDb) -> Vec<Row> {
        let mut rows = Vec::new();
        db.load(|row| rows.push(row)).unwrap();
        rows
    }

    #[test]
    fn a_state_made_with_another_order_of_columns_is_read_and_written_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let (db, _) = open(&path);
        ["/a.db", "/b.db", "/c.db"].iter().zip(1..).for_each(|(name, key_ms)| stored(&db, name, key_ms));
        let known = rows(&db);
        drop(db);
        let columns = format!("{COLUMNS}, failed_s");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch(&format!(
            "DROP VIEW snapshots; ALTER TABLE databases RENAME TO later; CREATE TABLE databases({BEFORE});
             INSERT INTO databases({columns}) SELECT {columns} FROM later; DROP TABLE later;"
        ))
        .unwrap();
        drop(conn);

        let (db, opened) = open(&path);
        assert_eq!((opened, known.len(), rows(&db)), (Opened::Known, 3, known));
        stored(&db, "/b.db", 7);
        stored(&db, "/d.db", 8);
        let times: Vec<Option<i64>> = rows(&open(&path).0).iter().map(|row| row.key_ms).collect();
        assert_eq!((times.len(), times.contains(&Some(7)), times.contains(&Some(2))), (4, true, false));
    }

    #[test]
    fn what_a_row_does_not_have_takes_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let (db, _) = open(&path);
        let name = |n: u32| format!("/data/tenants/{n:06}.db");
        let all: Vec<String> = (0..2000).map(name).collect();
        all.iter().for_each(|name| stored(&db, name, 1_795_245_600_001));
        drop(db);
        let conn = Connection::open(&path).unwrap();
        let leaves = "SELECT sum(payload), sum(ncell) FROM dbstat WHERE name = 'databases' AND pagetype = 'leaf'";
        let (payload, rows): (u32, u32) = conn.query_row(leaves, [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
        // Path, hash, two times, inode, size, when stamped; 0 and 1 are in the head, which has a byte for itself and for each column.
        assert_eq!((rows, payload / rows, payload % rows), (2000, 23 + 16 + 2 * 6 + 1 + 2 + 1 + 12, 0));
    }
}
