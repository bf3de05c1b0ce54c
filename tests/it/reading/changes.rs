//! Stamps: each kind of change is seen, and what is no change is not stored.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use litesnap::clock::{Clock, Nanos, SECOND, SystemClock};
use litesnap::stamps::Stamps;
use rusqlite::Connection;

use crate::foreign::Foreign;
use crate::library::{Library, set_mtime};
use crate::place::{Place, eventually};

fn sql(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

fn mtime(path: &Path) -> Nanos {
    Stamps::take(path).unwrap().0.main.mtime
}

/// Makes `a.db`, stores it, applies `change` and tells what the next cycle did: (changed, stored).
fn after(change: impl FnOnce(&Place, &Path)) -> (Place, u64, u64) {
    let place = Place::new();
    let path = place.make("a.db", "delete", 3);
    let mut library = Library::an_hour_later(&place);
    assert_eq!(library.cycle().stored, 1);
    assert_eq!(library.cycle().changed, 0);
    change(&place, &path);
    let report = library.cycle();
    assert_eq!(library.cycle().changed, 0, "a change is seen once");
    (place, report.changed, report.stored)
}

/// T7: another file of the same size and time is moved over it.
#[test]
fn a_database_replaced_by_mv_is_stored() {
    let (place, changed, stored) = after(|place, path| {
        let new = place.path().join("new");
        fs::copy(path, &new).unwrap();
        sql(&new, "UPDATE t SET x = x + 5");
        set_mtime(&new, mtime(path));
        assert_eq!(fs::metadata(&new).unwrap().len(), fs::metadata(path).unwrap().len());
        fs::rename(new, path).unwrap();
    });
    assert_eq!((changed, stored, place.newest_rows("a.db")), (1, 1, vec![6, 7, 8]));
}

/// T7: the inode may even be the same one.
#[test]
fn a_database_deleted_and_made_anew_is_stored() {
    let (place, changed, stored) = after(|place, path| {
        let before = mtime(path);
        fs::remove_file(path).unwrap();
        place.make("a.db", "delete", 3);
        sql(path, "UPDATE t SET x = x + 5");
        set_mtime(path, before);
    });
    assert_eq!((changed, stored, place.newest_rows("a.db")), (1, 1, vec![6, 7, 8]));
}

/// T6: `cp -p`, `touch -d`, `rsync -t`: an older time and the same size are a change, too.
#[test]
fn a_change_behind_a_time_set_back_is_stored() {
    for back in [0, 1, 3600 * SECOND] {
        let (place, changed, stored) = after(|_, path| {
            let before = mtime(path);
            sql(path, "UPDATE t SET x = x + 5");
            set_mtime(path, before - back);
        });
        assert_eq!((changed, stored, place.newest_rows("a.db")), (1, 1, vec![6, 7, 8]), "{back}");
    }
}

/// T8: times move, content does not.
#[test]
fn a_touch_and_a_vacuum_of_a_compact_database_store_nothing() {
    assert_eq!(after(|_, path| set_mtime(path, SystemClock.now())).2, 0);
    let (place, changed, stored) = after(|_, path| sql(path, "VACUUM"));
    assert_eq!((changed, stored, place.objects().len()), (1, 0, 1), "its pages lie as VACUUM would put them");
}

/// A VACUUM that moves pages may be stored; the next one moves none.
#[test]
fn a_second_vacuum_stores_nothing() {
    let place = Place::new();
    let path = place.make("a.db", "delete", 5000);
    sql(&path, "CREATE TABLE u(y); INSERT INTO u SELECT x FROM t; DELETE FROM t WHERE x % 3 = 0; VACUUM");
    let mut library = Library::an_hour_later(&place);
    library.cycle();
    sql(&path, "VACUUM");
    let report = library.cycle();
    assert_eq!((report.changed, report.stored, report.unchanged_content), (1, 0, 1));
}

/// A restore gives owner and mode back, so a new mode is worth a new snapshot.
#[test]
fn a_chmod_alone_is_stored() {
    let (place, changed, stored) = after(|_, path| fs::set_permissions(path, Permissions::from_mode(0o640)).unwrap());
    assert_eq!((changed, stored), (1, 1));
    let newest = place.objects_of("a.db").pop().unwrap();
    let described = litesnap::object::decode(&newest.bytes[..], None, &mut Vec::new()).unwrap();
    assert_eq!(described.mode & 0o777, 0o640);
}

/// Two databases alike but for the content of their `-wal`, which has one size in both; nobody has them open.
fn twins(place: &Place) -> (PathBuf, Vec<u8>) {
    let path = place.make("a.db", "wal", 1);
    let wal_with = |x: i64| {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy");
        fs::copy(&path, &copy).unwrap();
        let conn = Connection::open(&copy).unwrap();
        conn.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        conn.execute("INSERT INTO t VALUES(?1)", [x]).unwrap();
        fs::read(dir.path().join("copy-wal")).unwrap()
    };
    let (first, second) = (wal_with(2), wal_with(3));
    assert_eq!(first.len(), second.len());
    fs::write(place.db("a.db-wal"), first).unwrap();
    (path, second)
}

/// Writes `wal` over the `-wal` of `path` so that no stamp tells.
fn overwrite_unseen(path: &Path, wal: &[u8]) {
    let before = Stamps::take(path).unwrap().0;
    let wal_path = litesnap::stamps::sidecar(path, "-wal");
    fs::write(&wal_path, wal).unwrap();
    set_mtime(&wal_path, before.wal.unwrap().mtime);
    assert_eq!(Stamps::take(path).unwrap().0, before);
}

/// T2, T5: two commits within one tick of the kernel's clock, into a reused `-wal`: no stamp differs.
#[test]
fn a_write_behind_a_young_stamp_is_found_in_the_next_cycle() {
    let place = Place::new();
    let (path, second) = twins(&place);
    let mut library = Library::open(&place);
    library.clock.advance(10 * SECOND);
    // Only the -wal is young.
    set_mtime(&place.db("a.db-wal"), library.clock.now() - SECOND);
    assert_eq!(library.cycle().stored, 1);
    assert_eq!(place.newest_rows("a.db"), [1, 2]);
    overwrite_unseen(&path, &second);
    assert_eq!(library.cycle().stored, 1);
    assert_eq!(place.newest_rows("a.db"), [1, 3]);
    library.clock.advance(10 * SECOND);
    assert_eq!(library.cycle().changed, 1, "a look when the stamp is old enough");
    assert_eq!(library.cycle().changed, 0, "and none after that");
}

/// T5, T55: one time in the future must not hide that another is young.
#[test]
fn a_time_in_the_future_does_not_hide_a_young_one() {
    let place = Place::new();
    let (path, second) = twins(&place);
    let mut library = Library::open(&place);
    library.clock.advance(10 * SECOND);
    set_mtime(&path, library.clock.now() + 3600 * SECOND);
    set_mtime(&place.db("a.db-wal"), library.clock.now() - SECOND);
    assert_eq!(library.cycle().stored, 1);
    overwrite_unseen(&path, &second);
    assert_eq!(library.cycle().stored, 1);
    assert_eq!(place.newest_rows("a.db"), [1, 3]);
}

/// T55: a clock that was wrong once.
#[test]
fn a_time_in_the_future_is_not_young_for_ever() {
    let place = Place::new();
    let path = place.make("a.db", "delete", 1);
    let mut library = Library::an_hour_later(&place);
    set_mtime(&path, library.clock.now() + 3600 * SECOND);
    assert_eq!((library.cycle().stored, library.cycle().changed), (1, 0));
}

/// T55: said once, not in each cycle.
#[test]
fn a_time_in_the_future_is_named_once() {
    let place = Place::new();
    let path = place.make("a.db", "delete", 1);
    set_mtime(&path, SystemClock.now() + 3600 * SECOND);
    let other = place.make("other.db", "delete", 1);
    let running = place.start_loop("50ms", &[]);
    for n in 1..6 {
        assert!(eventually(Duration::from_secs(10), || place.objects_of("other.db").len() == n));
        sql(&other, "INSERT INTO t VALUES(9)");
    }
    let ran = running.stop().expect_code(0);
    assert_eq!(ran.err.matches("time in the future").count(), 1, "{}", ran.err);
    assert_eq!(place.objects_of("a.db").len(), 1);
}

/// Commits to a large database while it is copied; how many rows the first snapshot has, and the newest after one more
/// cycle.
fn commit_while_it_is_copied(always_sqlite: bool) -> (u64, i64, i64) {
    let place = Place::new();
    let path = place.make_large("a.db");
    let mut app = Foreign::open(&path, "wal");
    let mut library = Library::configured(&place, "data/**/*.db", |config| config.always_sqlite = always_sqlite);
    library.clock.advance(3600 * SECOND);
    let first = std::thread::scope(|s| {
        let cycle = s.spawn(|| library.cycle());
        assert!(eventually(Duration::from_secs(20), || place.temp_copies() > 0));
        app.exec("PRAGMA synchronous=OFF; INSERT INTO t VALUES(2)");
        cycle.join().unwrap()
    });
    let count = || -> i64 {
        let newest = place.objects_of("a.db").pop().unwrap();
        place.open_image(&newest.image()).query_row("SELECT count(*) FROM t", [], |r| r.get(0)).unwrap()
    };
    let rows = count();
    library.cycle();
    app.close();
    (first.stored, rows, count())
}

/// T9: the stamps to remember are those from before the read, or what is committed during it is never stored.
#[test]
fn a_commit_while_it_is_copied_is_stored_in_the_next_cycle() {
    assert_eq!(commit_while_it_is_copied(true), (1, 2, 3), "the commit came after the copy was begun");
}

/// Read without SQLite, a commit in the middle is seen at the end, and the database is read again; one that comes after
/// the end is seen by the next cycle.
#[test]
fn a_commit_while_it_is_read_without_sqlite_is_stored() {
    assert!(matches!(commit_while_it_is_copied(false), (1, 2 | 3, 3)));
}
