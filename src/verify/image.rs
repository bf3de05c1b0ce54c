//! One object, from its bytes to SQLite's word on the database in it.
//!
//! Small databases are looked at in memory, within a budget; larger ones go through a file in the temporary folder, held
//! locked while in use, so that the next run can tell and remove what a crash left there. CHECK constraints are not
//! looked at: they tell of the application's rules, and may call functions that only it has.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;
use tempfile::NamedTempFile;

use crate::access::{Access, Body};
use crate::budget::Budget;
use crate::catalogue::Location;
use crate::object::{HEAD_LEN, ObjectError, announced_size};
use crate::restore::check::{distrust, prepare_quick_check};
use crate::state::open_read_only;

/// Databases up to this size are looked at in memory.
const IN_MEMORY_MAX: u64 = 4 << 20;
/// Memory for all that are looked at at once, on however many cores; a small one is there twice for a moment, as decoded and
/// as SQLite's own copy.
const MEMORY: u64 = 16 << 20;
/// What decoding and SQLite's pages need besides, for each.
const BESIDES: u64 = 1 << 20;
/// KiB of pages that SQLite keeps of one database.
const CACHE_KIB: i64 = 512;
/// How our files in the temporary folder begin.
const TEMP_PREFIX: &str = "litesnap-verify-";
/// Where the header says how a database is written and read: 2 for a write-ahead log.
const VERSIONS: std::ops::Range<usize> = 18..20;

/// What SQLite says of a database whose every hash is right.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// All is well.
    Good,
    /// It was stored as it was, and it was corrupt.
    Corrupt(String),
    /// This SQLite lacks something that its schema asks for.
    NotCheckable(String),
}

/// Why an object could not be looked at, or what is wrong with it.
#[derive(Debug)]
pub(super) enum Unread {
    /// Its bytes, or reading or writing them.
    Object(ObjectError),
    /// SQLite, for reasons that are not the database's.
    Sqlite(rusqlite::Error),
    /// A stop was asked for.
    Stopped,
}

impl From<ObjectError> for Unread {
    fn from(error: ObjectError) -> Self {
        Self::Object(error)
    }
}

impl From<rusqlite::Error> for Unread {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Room for databases that are looked at.
#[derive(Debug)]
pub(super) struct Room {
    budget: Arc<Budget>,
    folder: PathBuf,
}

impl Room {
    /// Uses `folder` for large databases, and removes what a crash left there.
    pub(super) fn new(folder: PathBuf) -> Self {
        remove_left_behind(&folder);
        Self { budget: Budget::new(MEMORY), folder }
    }

    /// Decodes the object at `location` and has SQLite look at the database in it.
    pub(super) fn look(&self, access: &Access, location: &Location, mut body: Body) -> Result<Content, Unread> {
        let mut head = Vec::with_capacity(HEAD_LEN);
        body.by_ref().take(HEAD_LEN as u64).read_to_end(&mut head).map_err(ObjectError::Read)?;
        let size = announced_size(&head).unwrap_or(0);
        let bytes = head.as_slice().chain(body);
        if size <= IN_MEMORY_MAX {
            let _held = self.budget.take(2 * size + BESIDES);
            let mut image = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
            decode(access, location, bytes, &mut image)?;
            return Ok(quick_check(&in_memory(image)?)?);
        }
        let _held = self.budget.take(BESIDES);
        let mut file = self.file().map_err(ObjectError::Write)?;
        decode(access, location, bytes, file.as_file_mut())?;
        Ok(quick_check(&open_read_only(file.path(), true)?)?)
    }

    fn file(&self) -> io::Result<NamedTempFile> {
        let file = tempfile::Builder::new().prefix(TEMP_PREFIX).tempfile_in(&self.folder)?;
        file.as_file().lock()?;
        Ok(file)
    }
}

/// Where large databases go: as SQLite's own temporary files, not into memory, which `/tmp` may be.
pub(super) fn temp_folder() -> PathBuf {
    let var_tmp = Path::new("/var/tmp");
    match std::env::var_os("TMPDIR") {
        None if var_tmp.is_dir() => var_tmp.to_owned(),
        _ => std::env::temp_dir(),
    }
}

/// Removes files of runs that ended before they could: those of this user that nobody holds locked.
fn remove_left_behind(folder: &Path) {
    use std::os::unix::fs::MetadataExt;
    let own = nix::unistd::geteuid().as_raw();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(TEMP_PREFIX)
            && entry.metadata().is_ok_and(|m| m.is_file() && m.uid() == own);
        if is_ours && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            // Whoever else cleans up may have been faster.
            std::fs::remove_file(entry.path()).ok();
        }
    }
}

fn decode(access: &Access, location: &Location, bytes: impl Read, image: &mut impl Write) -> Result<(), Unread> {
    let mut image = Stoppable { image, access };
    match access.decode(location, bytes, &mut image) {
        Ok(_) => Ok(()),
        Err(ObjectError::Write(_)) if access.control.is_stopped() => Err(Unread::Stopped),
        Err(e) => Err(e.into()),
    }
}

/// Takes no more bytes after a stop: a large database takes a while.
struct Stoppable<'a, W> {
    image: &'a mut W,
    access: &'a Access,
}

impl<W: Write> Write for Stoppable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.access.control.is_stopped() {
            return Err(io::Error::other("a stop was asked for"));
        }
        self.image.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.image.flush()
    }
}

/// Opens a database in memory. It has no write-ahead log there, so the header must not ask for one.
fn in_memory(mut image: Vec<u8>) -> rusqlite::Result<Connection> {
    if let Some(versions) = image.get_mut(VERSIONS).filter(|v| **v == [2, 2]) {
        versions.fill(1);
    }
    let mut conn = Connection::open_in_memory()?;
    conn.deserialize_read_exact("main", image.as_slice(), image.len(), true)?;
    Ok(conn)
}

/// What `PRAGMA quick_check` says first.
fn quick_check(conn: &Connection) -> rusqlite::Result<Content> {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, Unknown};
    let run = || -> rusqlite::Result<String> {
        distrust(conn)?;
        prepare_quick_check(conn)?;
        conn.execute_batch("PRAGMA temp_store = MEMORY")?;
        conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
        conn.query_row("PRAGMA quick_check(1)", [], |row| {
            row.get_ref(0).and_then(|value| Ok(String::from_utf8_lossy(value.as_bytes()?).into_owned()))
        })
    };
    match run() {
        Ok(word) if word == "ok" => Ok(Content::Good),
        Ok(found) => Ok(Content::Corrupt(found.trim_start_matches("*** in database main ***").trim().to_owned())),
        Err(e) => match e.sqlite_error_code() {
            Some(DatabaseCorrupt | NotADatabase) => Ok(Content::Corrupt(e.to_string())),
            // Such as a function that only the application has, in a generated column.
            Some(Unknown) => Ok(Content::NotCheckable(e.to_string())),
            _ => Err(e),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database of `rows` rows, as bytes.
    fn image(page_size: u32, journal_mode: &str, rows: u32) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let conn = Connection::open(&path).unwrap();
        conn.pragma_update(None, "page_size", page_size).unwrap();
        conn.pragma_update(None, "journal_mode", journal_mode).unwrap();
        conn.execute_batch("CREATE TABLE t(x); CREATE INDEX i ON t(x)").unwrap();
        conn.execute_batch("BEGIN").unwrap();
        for n in 0..rows {
            conn.execute("INSERT INTO t VALUES(?1)", [format!("row number {n} of the table")]).unwrap();
        }
        conn.execute_batch("COMMIT").unwrap();
        drop(conn);
        std::fs::read(path).unwrap()
    }

    fn both_ways(image: &[u8]) -> [Content; 2] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        std::fs::write(&path, image).unwrap();
        let file = quick_check(&open_read_only(&path, true).unwrap()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no sidecars");
        [quick_check(&in_memory(image.to_vec()).unwrap()).unwrap(), file]
    }

    #[test]
    fn a_damaged_page_is_seen_in_memory_and_in_a_file() {
        for page_size in [512, 4096, 65536] {
            for mode in ["wal", "delete"] {
                let mut image = image(page_size, mode, 3000);
                assert_eq!(both_ways(&image), [Content::Good, Content::Good], "{page_size} {mode}");
                let page = page_size as usize;
                let at = image.len() / page / 2 * page;
                image[at..at + 12].fill(0xAA);
                for content in both_ways(&image) {
                    let Content::Corrupt(found) = content else { panic!("{page_size} {mode}: {content:?}") };
                    assert!(!found.is_empty() && !found.contains("***"), "{found}");
                }
            }
        }
    }

    #[test]
    fn a_schema_that_makes_no_sense_is_corrupt() {
        let mut image = image(512, "delete", 1);
        let at = image.windows(8).position(|w| w == b"CREATE T").unwrap();
        image[at..at + 6].copy_from_slice(b"CRATER");
        assert!(both_ways(&image).iter().all(|c| matches!(c, Content::Corrupt(_))), "{:?}", both_ways(&image));
        let mut later = super::tests::image(512, "delete", 1);
        later[VERSIONS].fill(9);
        assert!(both_ways(&later).iter().all(|c| matches!(c, Content::Corrupt(_))), "{:?}", both_ways(&later));
    }

    #[test]
    fn what_only_the_application_has_is_no_corruption() {
        // Made with what SQLite has, under a name of the same length that it does not know.
        let make = |sql: &str, known: &str, unknown: &str| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.db");
            let conn = Connection::open(&path).unwrap();
            conn.execute_batch(sql).unwrap();
            drop(conn);
            let mut image = std::fs::read(path).unwrap();
            while let Some(at) = image.windows(known.len()).position(|w| w == known.as_bytes()) {
                image[at..at + known.len()].copy_from_slice(unknown.as_bytes());
            }
            image
        };
        let checked = "CREATE TABLE t(x CHECK(instr(x, 'a'))); INSERT INTO t VALUES('a')";
        assert_eq!(both_ways(&make(checked, "instr", "ourfn")), [Content::Good, Content::Good]);
        let broken = "CREATE TABLE t(x CHECK(x > 5)); PRAGMA ignore_check_constraints = ON; INSERT INTO t VALUES(1)";
        assert_eq!(both_ways(&make(broken, "never there", "")), [Content::Good, Content::Good]);
        let sorted = "CREATE TABLE t(x COLLATE RTRIM); CREATE INDEX i ON t(x); INSERT INTO t VALUES('a'), ('b')";
        assert_eq!(both_ways(&make(sorted, "RTRIM", "OURS1")), [Content::Good, Content::Good]);
        let keyed = "CREATE TABLE t(x COLLATE NOCASE PRIMARY KEY) WITHOUT ROWID; INSERT INTO t VALUES('a'), ('B')";
        assert_eq!(both_ways(&make(keyed, "NOCASE", "OURS12")), [Content::Good, Content::Good]);
        let made = "CREATE TABLE t(x, y AS (instr(x, 'a')) NOT NULL); INSERT INTO t VALUES('a')";
        for content in both_ways(&make(made, "instr", "ourfn")) {
            assert!(matches!(&content, Content::NotCheckable(why) if why.contains("ourfn")), "{content:?}");
        }
    }

    #[test]
    fn only_what_nobody_holds_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new(dir.path().into());
        let held = room.file().unwrap();
        std::fs::write(dir.path().join(format!("{TEMP_PREFIX}crashed")), "").unwrap();
        std::fs::write(dir.path().join("another.db"), "").unwrap();
        drop(Room::new(dir.path().into()));
        assert!(held.path().exists() && dir.path().join("another.db").exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        drop(held);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
