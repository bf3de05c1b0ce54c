//! Reading through SQLite: read-only, one read transaction, the online backup API, never a checkpoint.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use super::image::Image;
use super::large::{self, Order, Sink};
use super::pages::{self, RawCopy};
use super::temp::{TempCopy, TempSpace};
use crate::content::ContentHash;
use crate::control::Control;
use crate::error::{Failure, Reason};
use crate::stamps::FileStat;

/// What one read transaction gave.
#[derive(Debug)]
pub(super) struct Copied {
    pub(super) image: Image,
    /// Of a large one, which is hashed while it is read.
    pub(super) content_hash: Option<ContentHash>,
    pub(super) page_size: u32,
    pub(super) page_count: u32,
    pub(super) schema_version: Option<u32>,
    pub(super) sqlite_version: Option<u32>,
}

/// Bytes copied between two looks at the stop flag. The read transaction stays open in between, so that the copy is
/// of one commit all the same.
const STEP_BYTES: u32 = 16 << 20;

/// How a copy is to be made.
pub(super) struct How<'a> {
    pub(super) busy_timeout: Duration,
    pub(super) memory_max: u64,
    pub(super) temp: &'a Arc<TempSpace>,
    pub(super) control: &'a Control,
    /// Whose it is: part of the content's hash.
    pub(super) stat: &'a FileStat,
    /// The content of a large one that need not be compressed again.
    pub(super) known: Option<ContentHash>,
    /// Whether SQLite gives pages: [`pages::are_given`].
    pub(super) by_page: bool,
    /// Whether the header says WAL: tells what SQLite's "cannot open" is about.
    pub(super) wal_mode: bool,
}

/// Copies the database at `main` as of one commit; into `room`, if it is too large for memory.
pub(super) fn copy(main: &Path, room: Option<TempCopy>, how: &How<'_>) -> Result<Copied, Failure> {
    let source = open(main, how.busy_timeout).map_err(|e| failure(main, how.wal_mode, &e))?;
    copy_from(&source, main, room, how)
    // `source` closes here: with NO_CKPT_ON_CLOSE it leaves the log alone even if it is the last connection.
}

fn open(main: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let source = Connection::open_with_flags(main, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    source.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Whoever may write the file chose its schema, and this process may be root's.
    source.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    source.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    source.busy_timeout(busy_timeout)?;
    Ok(source)
}

fn copy_from(source: &Connection, main: &Path, room: Option<TempCopy>, how: &How<'_>) -> Result<Copied, Failure> {
    let wrong = |e: rusqlite::Error| failure(main, how.wal_mode, &e);
    source.execute_batch("BEGIN").map_err(wrong)?;
    // The first read takes the lock or fixes the WAL's end: everything below sees this one commit.
    let schema_version: i64 = source.pragma_query_value(None, "schema_version", |r| r.get(0)).map_err(wrong)?;
    let page_size: u32 = source.pragma_query_value(None, "page_size", |r| r.get(0)).map_err(wrong)?;
    let page_count: u32 = source.pragma_query_value(None, "page_count", |r| r.get(0)).map_err(wrong)?;
    if page_count == 0 {
        return Err(Failure::new(Reason::Empty, "SQLite sees no page in it"));
    }
    let raw_size = u64::from(page_size) * u64::from(page_count);
    let (image, content_hash) = if raw_size <= how.memory_max {
        (into_memory(source, main, raw_size, how)?, None)
    } else {
        let (image, hash) = compressed(source, main, (page_size, page_count), room, how)?;
        (image, Some(hash))
    };
    let sqlite_version = last_writer(source);
    source.execute_batch("COMMIT").map_err(wrong)?;
    let schema_version = unsigned(schema_version);
    Ok(Copied { image, content_hash, page_size, page_count, schema_version, sqlite_version })
}

/// The schema cookie as the header has it: the pragma tells it as a signed number.
fn unsigned(schema_version: i64) -> Option<u32> {
    u32::try_from(schema_version.rem_euclid(1 << 32)).ok()
}

/// Version number of the SQLite that wrote last, from page 1 as this transaction sees it: the backup API rewrites the
/// copy's. `None` where SQLite was built without `sqlite_dbpage`, or the schema cannot be read.
fn last_writer(source: &Connection) -> Option<u32> {
    let mut first = source.prepare_cached("SELECT substr(data, 97, 4) FROM sqlite_dbpage WHERE pgno = 1").ok()?;
    first.query_row([], |r| r.get::<_, [u8; 4]>(0)).ok().map(u32::from_be_bytes)
}

fn into_memory(source: &Connection, main: &Path, raw_size: u64, how: &How<'_>) -> Result<Image, Failure> {
    let wrong = |e: rusqlite::Error| failure(main, how.wal_mode, &e);
    let mut target = Connection::open_in_memory().map_err(wrong)?;
    finish(&Backup::new(source, &mut target).map_err(wrong)?, -1, main, how)?;
    let image = target.serialize(rusqlite::MAIN_DB).map_err(wrong)?.to_vec();
    whole(u64::try_from(image.len()).unwrap_or(u64::MAX), raw_size)?;
    Ok(Image::Memory(image))
}

/// Compressed into `room` while it is read.
fn compressed(
    source: &Connection,
    main: &Path,
    (page_size, page_count): (u32, u32),
    room: Option<TempCopy>,
    how: &How<'_>,
) -> Result<(Image, ContentHash), Failure> {
    let raw_size = u64::from(page_size) * u64::from(page_count);
    let room = match room {
        Some(room) => room,
        // It grew since it was looked at: no waiting for room now, with its read transaction open.
        None => how.temp.reserve(large::room_for(raw_size, how.by_page), &AtomicBool::new(true))?,
    };
    let order = Order { page_size, page_count, stat: how.stat, known: how.known, room: &room };
    let taken = if how.by_page {
        let wrong = |e: rusqlite::Error| failure(main, how.wal_mode, &e);
        large::take(order, |sink: &mut dyn Sink| pages::pour(source, page_size, sink, how.control, wrong))?
    } else {
        let copy = raw_copy(source, main, page_size, raw_size, &room, how)?;
        large::take(order, |sink: &mut dyn Sink| copy.pour(sink, how.control))?
    };
    Ok(Image::of(taken, room))
}

/// A raw copy by the backup API.
fn raw_copy(
    source: &Connection,
    main: &Path,
    page_size: u32,
    raw_size: u64,
    room: &TempCopy,
    how: &How<'_>,
) -> Result<RawCopy, Failure> {
    let copy = RawCopy::beside(room);
    let written = write_copy(source, main, page_size, copy.path(), how);
    written.map_err(|f| if f.reason == Reason::NoSpace { room.explain_full() } else { f })?;
    let len = std::fs::metadata(copy.path()).map_or(0, |m| m.len());
    whole(len, raw_size)?;
    Ok(copy)
}

fn write_copy(source: &Connection, main: &Path, page_size: u32, copy: &Path, how: &How<'_>) -> Result<(), Failure> {
    let wrong = |e: rusqlite::Error| target_failure(main, copy, how, &e);
    let mut target = Connection::open(copy).map_err(wrong)?;
    // A copy that a crash interrupts is thrown away: no journal, no sync.
    target
        .execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE")
        .map_err(wrong)?;
    let pages = i32::try_from((STEP_BYTES / page_size).max(1)).unwrap_or(i32::MAX);
    let backup = Backup::new(source, &mut target).map_err(wrong)?;
    finish(&backup, pages, main, how)
}

/// Steps until SQLite says Done. Anything but Done is a failure, for rusqlite reports Busy and Locked as success and
/// the copy is then empty or half.
fn finish(backup: &Backup<'_, '_>, pages: i32, main: &Path, how: &How<'_>) -> Result<(), Failure> {
    loop {
        match backup.step(pages).map_err(|e| failure(main, how.wal_mode, &e))? {
            StepResult::Done => return Ok(()),
            StepResult::More if pages > 0 && how.control.goes_on() => {}
            StepResult::More if pages > 0 => {
                return Err(Failure::new(Reason::CopyFailed, "interrupted while it was copied"));
            }
            StepResult::Busy | StepResult::Locked => {
                return Err(Failure::new(Reason::Busy, "locked by its application while it was copied"));
            }
            other => return Err(Failure::new(Reason::CopyFailed, format!("SQLite ended the copy with {other:?}"))),
        }
    }
}

/// A second look at what Done promised: a copy of the wrong size is never stored.
fn whole(len: u64, raw_size: u64) -> Result<(), Failure> {
    if len == raw_size {
        return Ok(());
    }
    Err(Failure::new(Reason::CopyFailed, format!("its copy has {len} bytes where the database has {raw_size}")))
}

/// What went wrong with the copy's own file.
fn target_failure(main: &Path, copy: &Path, how: &How<'_>, error: &rusqlite::Error) -> Failure {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Failure::new(Reason::NoSpace, ""),
        Some(ErrorCode::CannotOpen) => {
            Failure::new(Reason::CopyFailed, format!("cannot make its temporary copy {}", copy.display()))
        }
        _ => failure(main, how.wal_mode, error),
    }
}

/// Sorts SQLite's errors about a source by what the user can do about them.
fn failure(main: &Path, wal_mode: bool, error: &rusqlite::Error) -> Failure {
    let rusqlite::Error::SqliteFailure(e, text) = error else {
        return Failure::new(Reason::CopyFailed, error.to_string());
    };
    let text = text.clone().unwrap_or_else(|| e.to_string());
    match (e.code, e.extended_code) {
        (_, ffi::SQLITE_READONLY_ROLLBACK) => Failure::new(
            Reason::HotJournal,
            "a crashed writer left its -journal; it is rolled back when the application opens the database for writing",
        ),
        (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed, _) => {
            Failure::new(Reason::Busy, format!("locked by its application ({text})"))
        }
        (ErrorCode::CannotOpen | ErrorCode::ReadOnly, _) if wal_mode && may_not_use_sidecars(main) => {
            cannot_open_wal(main)
        }
        (ErrorCode::CannotOpen, _) => Failure::new(Reason::Unreadable, format!("SQLite cannot open it: {text}")),
        (ErrorCode::NotADatabase, _) => {
            Failure::new(Reason::Opaque, "its pages are not what its header says: encrypted, or damaged")
        }
        (ErrorCode::DatabaseCorrupt, _) => Failure::new(Reason::Corrupt, format!("SQLite says: {text}")),
        (ErrorCode::SystemIoFailure, _) => Failure::new(Reason::Unreadable, format!("SQLite says: {text}")),
        (ErrorCode::DiskFull, _) => Failure::new(Reason::NoSpace, "SQLite found no room to copy it"),
        (ErrorCode::PermissionDenied, _) => Failure::new(Reason::Unreadable, text),
        _ => Failure::new(Reason::CopyFailed, format!("SQLite says: {text}")),
    }
}

/// Whether reading in WAL mode fails for want of permission.
fn may_not_use_sidecars(main: &Path) -> bool {
    use nix::unistd::{AccessFlags, eaccess};
    let dir = main.parent().is_some_and(|dir| eaccess(dir, AccessFlags::W_OK).is_err());
    let refused =
        |suffix| eaccess(&crate::stamps::sidecar(main, suffix), AccessFlags::R_OK) == Err(nix::errno::Errno::EACCES);
    dir || refused("-wal") || refused("-shm")
}

/// What to grant, for a WAL-mode database whose `-shm` cannot be made or opened.
pub(super) fn cannot_open_wal(main: &Path) -> Failure {
    let dir = main.parent().unwrap_or(main).display();
    Failure::new(
        Reason::CannotOpenWal,
        format!("it is in WAL mode, and reading it needs to write {dir} and the files beside it: run as their owner"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database of about 50 pages, and a file for its copy.
    fn source(dir: &Path) -> (Connection, Connection) {
        let source = Connection::open(dir.join("source")).unwrap();
        source.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(200000))").unwrap();
        let target = Connection::open(dir.join("target")).unwrap();
        target.busy_timeout(Duration::ZERO).unwrap();
        (source, target)
    }

    fn stat(path: &Path) -> FileStat {
        FileStat::from(&std::fs::metadata(path).unwrap())
    }

    /// Everything is large.
    fn how<'a>(
        temp: &'a Arc<TempSpace>,
        control: &'a Control,
        stat: &'a FileStat,
        by_page: bool,
        known: Option<ContentHash>,
    ) -> How<'a> {
        let busy_timeout = Duration::ZERO;
        How { busy_timeout, memory_max: 0, temp, control, stat, known, by_page, wal_mode: true }
    }

    fn finished(source: &Connection, target: &mut Connection, pages: i32, stop: bool) -> Result<(), Reason> {
        let dir = tempfile::tempdir().unwrap();
        let temp = TempSpace::recover(dir.path()).unwrap();
        let control = Control::default();
        if stop {
            control.stop(15);
        }
        let stat = stat(dir.path());
        let how = how(&temp, &control, &stat, true, None);
        let backup = Backup::new(source, target).unwrap();
        finish(&backup, pages, Path::new("source"), &how).map_err(|f| f.reason)
    }

    /// T21: rusqlite reports Busy as success, and the copy has not even begun.
    #[test]
    fn a_copy_that_is_locked_out_is_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let (source, mut target) = source(dir.path());
        let other = Connection::open(dir.path().join("target")).unwrap();
        other.execute_batch("CREATE TABLE old(x); BEGIN; SELECT * FROM old").unwrap();
        assert_eq!(finished(&source, &mut target, -1, false), Err(Reason::Busy));
        assert_eq!(finished(&source, &mut target, 1, false), Err(Reason::Busy));
        other.execute_batch("COMMIT").unwrap();
        assert_eq!(finished(&source, &mut target, -1, false), Ok(()));
    }

    /// A lock within a shared cache comes as an error of the step, and means the same.
    #[test]
    fn a_copy_that_a_shared_cache_locks_out_is_a_failure() {
        let uri = "file:locked_out?mode=memory&cache=shared";
        let dir = tempfile::tempdir().unwrap();
        let (source, _) = source(dir.path());
        let (mut target, other) = (Connection::open(uri).unwrap(), Connection::open(uri).unwrap());
        target.busy_timeout(Duration::ZERO).unwrap();
        other.execute_batch("CREATE TABLE old(x); INSERT INTO old VALUES(1); BEGIN").unwrap();
        other.query_row("SELECT x FROM old", [], |r| r.get::<_, i64>(0)).unwrap();
        assert_eq!(finished(&source, &mut target, -1, false), Err(Reason::Busy));
    }

    /// More is not Done: all steps are taken, or the copy has failed.
    #[test]
    fn a_copy_in_steps_is_whole_or_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let (source, mut target) = source(dir.path());
        assert_eq!(finished(&source, &mut target, 1, true), Err(Reason::CopyFailed), "stopped after one page");
        assert_eq!(finished(&source, &mut target, 1, false), Ok(()));
        let len: i64 = target.query_row("SELECT length(x) FROM t", [], |r| r.get(0)).unwrap();
        assert_eq!(len, 200_000);
    }

    #[test]
    fn a_copy_of_the_wrong_size_is_refused() {
        assert!(whole(4096, 4096).is_ok());
        assert_eq!(whole(0, 4096).unwrap_err().reason, Reason::CopyFailed);
    }

    /// A WAL-mode database of a few blocks, a committed row still in its `-wal`, and the connection of its application.
    fn live(dir: &Path) -> (std::path::PathBuf, Connection) {
        let main = dir.join("a.db");
        let app = Connection::open(&main).unwrap();
        app.execute_batch(
            "PRAGMA journal_mode=wal; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x);
             INSERT INTO t VALUES(randomblob(900000)); PRAGMA wal_checkpoint; INSERT INTO t VALUES('in the -wal')",
        )
        .unwrap();
        (main, app)
    }

    /// What a compressed copy holds.
    fn image(copied: &Copied) -> Vec<u8> {
        let Image::Compressed(copy) = &copied.image else { panic!("{copied:?}") };
        let mut image = Vec::new();
        let frame = std::fs::read(copy.path()).unwrap();
        assert_eq!(frame.len() as u64, copy.frame().size);
        std::io::Read::read_to_end(&mut lz4_flex::frame::FrameDecoder::new(&frame[..]), &mut image).unwrap();
        image
    }

    fn rows(image: Vec<u8>, dir: &Path) -> i64 {
        let path = dir.join("image");
        std::fs::write(&path, image).unwrap();
        let image = Connection::open(&path).unwrap();
        assert_eq!(image.query_row("PRAGMA integrity_check", [], |r| r.get::<_, String>(0)).unwrap(), "ok");
        image.query_row("SELECT count(*) FROM t", [], |r| r.get(0)).unwrap()
    }

    /// What was committed when the read began is there, from the `-wal` or the main file; what was committed since is not, even
    /// though it lies in the files before they are read.
    #[test]
    fn a_large_one_is_of_one_commit_whoever_commits_meanwhile() {
        for by_page in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let temp = TempSpace::recover(dir.path()).unwrap();
            let (main, app) = live(dir.path());
            let (control, stat) = (Control::default(), stat(&main));
            let how = how(&temp, &control, &stat, by_page, None);
            let source = open(&main, Duration::ZERO).unwrap();
            app.execute_batch("INSERT INTO t VALUES(3)").unwrap();
            let before = copy_within(&source, &main, &how, || {
                app.execute_batch("DELETE FROM t; INSERT INTO t VALUES(zeroblob(3000000))").unwrap();
            });
            assert_eq!(rows(image(&before), dir.path()), 3, "by page: {by_page}");
            let after = copy_from(&source, &main, None, &how).unwrap();
            assert_eq!(rows(image(&after), dir.path()), 1, "by page: {by_page}");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().filter(is_copy).count(), 2, "{by_page}");
            drop((before, after));
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().filter(is_copy).count(), 0, "{by_page}");
        }
    }

    fn is_copy(entry: &std::io::Result<std::fs::DirEntry>) -> bool {
        entry.as_ref().unwrap().file_name().to_str().unwrap().contains(".copy")
    }

    /// Copies with `meanwhile` run once the transaction has begun.
    fn copy_within(source: &Connection, main: &Path, how: &How<'_>, meanwhile: impl Fn()) -> Copied {
        source.execute_batch("BEGIN").unwrap();
        let (page_size, page_count) = (4096, source.pragma_query_value(None, "page_count", |r| r.get(0)).unwrap());
        meanwhile();
        let (image, hash) = compressed(source, main, (page_size, page_count), None, how).unwrap();
        source.execute_batch("COMMIT").unwrap();
        let content_hash = Some(hash);
        Copied { image, content_hash, page_size, page_count, schema_version: None, sqlite_version: None }
    }

    #[test]
    fn a_large_one_whose_content_is_known_is_not_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let temp = TempSpace::recover(dir.path()).unwrap();
        let (main, app) = live(dir.path());
        let (control, stat) = (Control::default(), stat(&main));
        for by_page in [true, false] {
            let first = copy(&main, None, &how(&temp, &control, &stat, by_page, None)).unwrap();
            let again = copy(&main, None, &how(&temp, &control, &stat, by_page, first.content_hash)).unwrap();
            assert!(matches!(again.image, Image::Known), "{again:?}");
            assert_eq!(again.content_hash, first.content_hash);
            app.execute_batch("INSERT INTO t VALUES(1)").unwrap();
            let changed = copy(&main, None, &how(&temp, &control, &stat, by_page, first.content_hash)).unwrap();
            assert_ne!(changed.content_hash, first.content_hash);
            assert!(matches!(changed.image, Image::Compressed(_)), "{changed:?}");
        }
    }

    #[test]
    fn a_stop_ends_a_large_copy_and_nothing_is_left_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let temp = TempSpace::recover(dir.path()).unwrap();
        let (main, _app) = live(dir.path());
        let (control, stat) = (Control::default(), stat(&main));
        control.stop(15);
        for by_page in [true, false] {
            let stopped = copy(&main, None, &how(&temp, &control, &stat, by_page, None)).unwrap_err();
            assert_eq!(stopped.reason, Reason::CopyFailed, "{stopped}");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().filter(is_copy).count(), 0, "{by_page}");
        }
    }

    /// T12: more or fewer pages than the transaction said is no copy.
    #[test]
    fn a_large_copy_of_another_number_of_pages_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let temp = TempSpace::recover(dir.path()).unwrap();
        let (main, _app) = live(dir.path());
        let (control, stat) = (Control::default(), stat(&main));
        let source = open(&main, Duration::ZERO).unwrap();
        source.execute_batch("BEGIN").unwrap();
        let pages: u32 = source.pragma_query_value(None, "page_count", |r| r.get(0)).unwrap();
        let how = how(&temp, &control, &stat, true, None);
        let copied = |size, pages| compressed(&source, &main, (size, pages), None, &how).map_err(|f| f.reason);
        assert!(copied(4096, pages).is_ok());
        for wrong in [(4096, pages - 1), (4096, pages + 1), (2048, 2 * pages), (8192, pages / 2)] {
            assert_eq!(copied(wrong.0, wrong.1).unwrap_err(), Reason::CopyFailed, "{wrong:?}");
        }
    }
}
