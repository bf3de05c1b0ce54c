//! The main path through the command line: what is stored, and that nothing else is.

use std::time::Duration;

use rusqlite::Connection;

use crate::place::{Place, eventually, rows};

#[test]
fn every_database_is_stored_and_a_second_run_makes_no_request() {
    let place = Place::new();
    for (name, mode) in [("a.db", "wal"), ("b/c.db", "delete"), ("b/d.db", "truncate"), ("e.db", "persist")] {
        place.make(name, mode, 3);
    }
    let first = place.once().expect_code(0);
    assert_eq!((first.count("databases"), first.count("stored"), first.count("requests")), (4, 4, 4));
    let again = place.once();
    // The creation just now is racy by its ctime: read again perhaps, but stored only once.
    assert_eq!((again.count("stored"), again.count("requests"), again.code), (0, 0, Some(0)));
    assert_eq!(place.objects().len(), 4);
    for name in ["a.db", "b/c.db", "b/d.db", "e.db"] {
        assert_eq!(place.newest_rows(name), [1, 2, 3]);
    }
}

/// T1, T2, T8: a commit in the WAL is stored in the next cycle, its checkpoint is not.
#[test]
fn an_insert_in_an_open_wal_is_stored_next_cycle_and_its_checkpoint_is_not() {
    let place = Place::new();
    let path = place.make("a.db", "wal", 1);
    let app = Connection::open(&path).unwrap();
    app.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    assert_eq!(rows(&app), [1]);
    let running = place.start_loop("100ms", &[]);
    assert!(eventually(Duration::from_secs(10), || place.objects_of("a.db").len() == 1));
    app.execute_batch("INSERT INTO t VALUES(2)").unwrap();
    assert!(eventually(Duration::from_secs(10), || place.objects_of("a.db").len() == 2));
    assert_eq!(place.newest_rows("a.db"), [1, 2]);
    app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let ran = running.stop().expect_code(0);
    assert!(ran.err.contains("stored=1"), "{}", ran.err);
    assert_eq!(place.once().expect_code(0).count("stored"), 0, "the checkpoint changed no content");
    assert_eq!(place.objects_of("a.db").len(), 2);
}

/// `--once` is one cycle of the loop: over the same fleet both do and count the same.
#[test]
fn once_and_the_first_cycle_of_the_loop_are_the_same() {
    let fleet = || {
        let place = Place::new();
        place.make("a.db", "wal", 3);
        place.make("b/c.db", "delete", 3);
        std::fs::write(place.db("b/text.db"), "no database").unwrap();
        std::fs::write(place.db("empty.db"), "").unwrap();
        place
    };
    let counts = |text: &str| {
        let line = text.lines().find_map(|l| l.find("cycle=1 ").map(|at| l[at..].to_owned())).unwrap();
        let counts = line.split(' ').filter(|w| !w.starts_with("bytes=") && !w.starts_with("elapsed_ms="));
        counts.map(str::to_owned).collect::<Vec<_>>()
    };
    let (one, other) = (fleet(), fleet());
    let once = one.once().expect_code(1);
    let running = other.start_loop("1h", &[]);
    assert!(eventually(Duration::from_secs(10), || other.objects().len() == 2));
    let looped = running.stop().expect_code(0);
    assert_eq!(counts(&once.out), counts(&looped.err));
    assert_eq!(one.objects().len(), 2);
}
