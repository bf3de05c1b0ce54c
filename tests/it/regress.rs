//! One test per defect there was, named for what it did.

use std::fs;

use litesnap::clock::{Clock, SECOND};
use litesnap::detect::Pace;
use rusqlite::Connection;

use crate::foreign::Foreign;
use crate::library::Library;
use crate::place::Place;

/// A folder in which nothing else changes; the file was seen while it was still empty, and never looked at again.
#[test]
fn an_empty_file_that_becomes_a_database_in_an_idle_folder_is_stored() {
    let place = Place::new();
    let path = place.db("new.db");
    fs::write(&path, b"").unwrap();
    let mut library = Library::watching(&place, "data", Pace::default());
    assert_eq!(library.cycle().stored, 0);
    place.make("new.db", "delete", 2);
    assert_eq!(library.cycle().stored, 1);
    assert_eq!(place.newest_rows("new.db"), [1, 2]);
}

/// The first of two names stood for the file, and was read without the `-wal` beside the second.
#[test]
fn a_commit_in_the_wal_beside_another_hard_link_is_stored() {
    let place = Place::new();
    let path = place.make("live/app.db", "wal", 1);
    let first_name = place.db(".snap/app.db");
    fs::hard_link(&path, &first_name).unwrap();
    let mut app = Foreign::open(&path, "wal");
    app.exec("INSERT INTO t VALUES(2)");
    app.kill();
    assert_eq!(place.once().count("stored"), 1);
    assert_eq!(place.newest_rows(".snap/app.db"), [1, 2]);
    // Both names with a log: which holds cannot be told.
    fs::copy(place.data().join("live/app.db-wal"), place.data().join(".snap/app.db-wal")).unwrap();
    let ran = place.once().expect_code(1);
    assert!(ran.out.contains("linked: one file with several names"), "{}", ran.out);
}

/// A clock that had been ahead made the cooldown last until that time came.
#[test]
fn a_snapshot_stored_in_the_future_holds_nothing_back() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    let mut library = Library::watching(&place, "data", Pace { cooldown_s: 60, refresh_s: 0 });
    library.clock.advance(365 * 86_400 * SECOND);
    assert_eq!(library.cycle().stored, 1);
    library.clock.advance(-365 * 86_400 * SECOND);
    Connection::open(place.db("a.db")).unwrap().execute_batch("INSERT INTO t VALUES(2)").unwrap();
    let report = library.replicator.run_cycle(false);
    assert_eq!((report.stored, report.held), (1, 0), "{report:#?}");
}

/// Coming back, a database was taken for one never stored, and its refresh was never due.
#[test]
fn a_database_that_was_gone_and_is_back_is_refreshed_in_time() {
    let place = Place::new();
    let (path, aside) = (place.make("a.db", "delete", 1), place.path().join("aside"));
    place.make("stays.db", "delete", 1);
    let mut library = Library::watching(&place, "data", Pace { cooldown_s: 0, refresh_s: 1000 });
    library.clock.advance(3600 * SECOND);
    assert_eq!(library.cycle().stored, 2);
    fs::rename(&path, &aside).unwrap();
    assert_eq!(library.cycle().gone, 1);
    fs::rename(&aside, &path).unwrap();
    assert_eq!(library.cycle().stored, 1);
    assert_eq!(library.cycle().stored, 0);
    library.clock.advance(1001 * SECOND);
    assert_eq!(library.cycle().stored, 2);
}

/// Stamps that kept moving hid that the content was not stored again for longer than the refresh time.
#[test]
fn a_database_that_is_only_touched_is_refreshed_in_time() {
    let place = Place::new();
    let path = place.make("a.db", "delete", 1);
    let mut library = Library::watching(&place, "data", Pace { cooldown_s: 0, refresh_s: 1000 });
    library.clock.advance(3600 * SECOND);
    let mut stored = library.cycle().stored;
    for _ in 0..10 {
        library.clock.advance(100 * SECOND);
        crate::library::set_mtime(&path, library.clock.now() - 50 * SECOND);
        stored += library.cycle().stored;
    }
    assert_eq!(stored, 2);
}

/// Files that are no databases made a fleet that disappears look small.
#[test]
fn files_that_are_no_databases_do_not_hide_that_a_fleet_is_gone() {
    let place = Place::new();
    for n in 0..30 {
        place.make(&format!("fleet/{n}.db"), "delete", 1);
    }
    for n in 0..400 {
        fs::write(place.db(&format!("notes/{n}.txt")), "text").unwrap();
    }
    let mut library = Library::watching(&place, "data", Pace::default());
    assert_eq!(library.cycle().stored, 30);
    fs::remove_dir_all(place.data().join("fleet")).unwrap();
    let report = library.replicator.run_cycle(false);
    assert_eq!((report.gone, report.exit_code()), (0, 1), "{report:#?}");
    assert!(report.errors[0].contains("30 of 30 known databases are gone"), "{:?}", report.errors);
}

/// Under a template of its own the fingerprint of what is no database was recorded without its key, and never matched.
#[test]
fn what_is_no_database_is_looked_into_once_under_any_template() {
    let place = Place::new();
    fs::write(place.db("a.db"), "text").unwrap();
    crate::place::age(&place.db("a.db"));
    let run = || {
        let mut command = place.replicate("data/*.db", &["--once", "--key-template", "{{hostname}}/{{path}}"]);
        crate::place::Ran::from(command.output().unwrap()).expect_code(1)
    };
    run();
    // By its ctime it may still be young.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    run();
    assert_eq!(run().count("changed"), 0);
}

/// What was stored and, for a crash, not recorded stayed the newest for ever when the file went back to the content before it.
#[test]
fn a_file_that_goes_back_to_what_was_stored_before_the_crash_is_stored_again() {
    let place = Place::new();
    let path = place.make("a.db", "delete", 1);
    let first = fs::read(&path).unwrap();
    let mut library = Library::watching(&place, "data", Pace::default());
    assert_eq!(library.cycle().stored, 1);
    let before = place.path().join("before");
    copy_all(&place.state(), &before);
    Connection::open(&path).unwrap().execute_batch("INSERT INTO t VALUES(2)").unwrap();
    assert_eq!(library.cycle().stored, 1);
    drop(library);
    // What a crash leaves between the store's answer and the record of it.
    fs::remove_dir_all(place.state()).unwrap();
    copy_all(&before, &place.state());
    fs::write(&path, first).unwrap();
    let mut library = Library::an_hour_later(&place);
    assert_eq!(library.cycle().stored, 1);
    assert_eq!(place.newest_rows("a.db"), [1]);
    // Once is enough: what is recorded since then is beyond doubt, also after another start.
    fs::write(&path, fs::read(&path).unwrap()).unwrap();
    assert_eq!(library.cycle().stored, 0);
    drop(library);
    fs::write(&path, fs::read(&path).unwrap()).unwrap();
    assert_eq!(Library::an_hour_later(&place).cycle().stored, 0);
}

fn copy_all(from: &std::path::Path, to: &std::path::Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// Notes that are no text, as damage leaves them, ended every start.
#[test]
fn notes_that_are_no_text_are_as_good_as_none() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    place.once().expect_code(0);
    let conn = Connection::open(place.state_db()).unwrap();
    for note in ["loop", "doubt_before_s", "open", "accept_gone", "last_prune"] {
        conn.execute("INSERT OR REPLACE INTO meta VALUES(?1, CAST(x'ff7b' AS TEXT))", [note]).unwrap();
    }
    drop(conn);
    place.once().expect_code(0);
}

/// What a scan alone refused went on waiting for ever when there was no reason to refuse it any more.
#[test]
fn what_was_refused_by_a_scan_waits_no_longer_than_the_reason_lasts() {
    let place = Place::new();
    let path = place.make("app.db", "delete", 1);
    let mut library = Library::watching(&place, "data", Pace::default());
    assert_eq!(library.cycle().stored, 1);
    fs::hard_link(&path, place.db("second.db")).unwrap();
    let sidecars = [place.data().join("app.db-wal"), place.data().join("second.db-wal")];
    sidecars.iter().for_each(|path| fs::write(path, b"no log").unwrap());
    library.clock.advance(60 * SECOND);
    assert_eq!(library.replicator.run_cycle(false).failed(), 1);
    let waits = |library: &Library| library.replicator.monitor().vitals().backlog;
    library.clock.advance(60 * SECOND);
    assert_eq!((waits(&library).count, waits(&library).oldest_s), (1, 60));
    sidecars.iter().for_each(|path| fs::remove_file(path).unwrap());
    fs::remove_file(place.db("second.db")).unwrap();
    library.clock.advance(60 * SECOND);
    library.cycle();
    assert_eq!(waits(&library).count, 0);
    let conn = Connection::open(place.state_db()).unwrap();
    assert_eq!(conn.query_row("SELECT count(*) FROM backlog", [], |r| r.get::<_, i64>(0)).unwrap(), 0);
}
