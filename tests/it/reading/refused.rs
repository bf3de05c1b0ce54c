//! What cannot be read now is named with its reason, never stored as something else, stops nobody, and is stored later.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use crate::foreign::{Foreign, listing, sidecars};
use crate::place::{Place, age, eventually, rows};

/// Runs once while `path` cannot be read: it is named for `reason`, nothing of it is stored, and `others` are.
#[track_caller]
fn expect_refused(place: &Place, path: &Path, reason: &str, others: u64) -> String {
    let ran = place.once().expect_code(1);
    let detail = ran.expect_failure(path, reason).to_owned();
    assert_eq!((ran.count("failed"), ran.count("stored")), (1, others), "{ran:#?}");
    assert_eq!(place.objects_of(path.file_name().unwrap().to_str().unwrap()), [], "{reason}");
    detail
}

/// T19: a transaction that spilled from the cache into the main file, and then the power went.
#[test]
fn a_hot_journal_is_named_and_its_database_is_stored_once_it_is_rolled_back() {
    let place = Place::new();
    let path = place.make("hot.db", "delete", 2000);
    place.make("good.db", "delete", 1);
    let mut app = Foreign::open(&path, "delete");
    // SQLite syncs the journal before it spills; then the main file holds what was never committed.
    app.exec("PRAGMA cache_size=1; PRAGMA cache_spill=1; BEGIN; UPDATE t SET x = -x; INSERT INTO t SELECT zeroblob(500) FROM t");
    app.kill();
    let journal = place.db("hot.db-journal");
    assert_eq!(fs::read(&journal).unwrap()[..8], *b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7", "a synced journal");
    age(&path);
    let before = listing(&place.data());
    let detail = expect_refused(&place, &path, "hot-journal", 1);
    assert!(detail.contains("rolled back"), "{detail}");
    expect_refused(&place, &path, "hot-journal", 0);
    assert_eq!(listing(&place.data()), before);

    let app = Connection::open(&path).unwrap();
    assert_eq!(rows(&app).len(), 2000);
    drop(app);
    assert!(!journal.exists());
    assert_eq!(place.once().expect_code(0).count("stored"), 1);
    assert_eq!(place.newest_rows("hot.db"), (1..=2000).collect::<Vec<i64>>());
}

/// T20: an application in exclusive locking mode. A copy that fails half way must not become an empty snapshot.
#[test]
fn a_database_held_in_exclusive_mode_is_named_with_its_holder_and_stored_after_release() {
    for mode in ["delete", "wal"] {
        let place = Place::new();
        let path = place.make("held.db", mode, 1);
        place.make("good.db", "wal", 1);
        let mut app = Foreign::open(&path, mode);
        app.exec("PRAGMA locking_mode=EXCLUSIVE; INSERT INTO t VALUES(2)");
        let before = listing(&place.data());
        let detail = expect_refused(&place, &path, "held-exclusively", 1);
        assert!(detail.ends_with(&format!("process {}", app.pid())), "{mode}: {detail}");
        expect_refused(&place, &path, "held-exclusively", 0);
        assert_eq!(listing(&place.data()), before, "{mode}");
        app.close();
        assert_eq!(place.once().expect_code(0).count("stored"), 1, "{mode}");
        assert_eq!(place.newest_rows("held.db"), [1, 2], "{mode}");
    }
}

/// T20: one long exclusive transaction, while the loop goes on with all others.
#[test]
fn a_transaction_that_locks_readers_out_for_many_cycles_stops_nobody_and_is_stored_in_the_end() {
    let place = Place::new();
    let path = place.make("held.db", "delete", 1);
    let other = place.make("other.db", "wal", 1);
    let mut app = Foreign::open(&path, "delete");
    app.exec("BEGIN EXCLUSIVE; INSERT INTO t VALUES(2)");
    let running = place.start_loop("100ms", &[]);
    for n in 1..4 {
        assert!(eventually(Duration::from_secs(10), || place.objects_of("other.db").len() == n));
        Connection::open(&other).unwrap().execute("INSERT INTO t VALUES(9)", []).unwrap();
    }
    assert_eq!(place.objects_of("held.db"), []);
    app.exec("COMMIT");
    assert!(eventually(Duration::from_secs(10), || place.objects_of("held.db").len() == 1));
    assert_eq!(place.newest_rows("held.db"), [1, 2]);
    let ran = running.stop().expect_code(0);
    assert!(ran.err.contains(&format!("held exclusively by process {}", app.pid())), "{}", ran.err);
    assert!(ran.err.contains("held.db recovered after"), "{}", ran.err);
    assert_eq!(ran.err.matches("ERROR").count(), 1, "named when it begins, not in each cycle: {}", ran.err);
}

/// T21: a writer that is locked out itself, waiting with PENDING for our end, and one that holds RESERVED.
#[test]
fn a_transaction_that_lets_readers_in_is_no_reason_not_to_read() {
    let place = Place::new();
    let path = place.make("reserved.db", "delete", 1);
    let wal = place.make("wal.db", "wal", 1);
    let mut apps = [Foreign::open(&path, "delete"), Foreign::open(&wal, "wal")];
    apps[0].exec("BEGIN IMMEDIATE; INSERT INTO t VALUES(2)");
    apps[1].exec("BEGIN EXCLUSIVE; INSERT INTO t VALUES(2)");
    assert_eq!(place.once().expect_code(0).count("stored"), 2);
    assert_eq!((place.newest_rows("reserved.db"), place.newest_rows("wal.db")), (vec![1], vec![1]));
}

/// T56: commits into a `-wal` without a name are seen by nobody.
#[test]
fn a_wal_unlinked_under_its_application_is_named_and_not_replaced() {
    let place = Place::new();
    let path = place.make("a.db", "wal", 1);
    place.make("good.db", "wal", 1);
    let mut app = Foreign::open(&path, "wal");
    app.exec("INSERT INTO t VALUES(2)");
    fs::remove_file(place.db("a.db-wal")).unwrap();
    let before = listing(&place.data());
    expect_refused(&place, &path, "wal-unlinked", 1);
    assert_eq!(listing(&place.data()), before);
    app.exec("INSERT INTO t VALUES(3)");
    expect_refused(&place, &path, "wal-unlinked", 0);
    app.close();
    assert_eq!(sidecars(&place.data()), [] as [PathBuf; 0]);
    place.once().expect_code(0);
    assert_eq!(place.objects_of("a.db").len(), 1);
}

/// T28: what SQLite calls corrupt is named, and what was stored before stays.
#[test]
fn a_database_cut_short_is_named_and_its_snapshot_stays() {
    let place = Place::new();
    let path = place.make("a.db", "delete", 5000);
    place.once().expect_code(0);
    let stored = place.objects_of("a.db");
    let len = fs::metadata(&path).unwrap().len();
    fs::File::options().write(true).open(&path).unwrap().set_len(len / 2).unwrap();
    let ran = place.once().expect_code(1);
    ran.expect_failure(&path, "corrupt");
    assert_eq!(place.objects_of("a.db"), stored);
}
