//! Sidecars are found by name: a file with a second name, and a log that has none any more.

use std::fs;
use std::path::PathBuf;

use super::{ROWS, SPILL, expect_named, is_torn, stored};
use crate::foreign::{Foreign, foreign_rows};
use crate::place::{Place, age};
use crate::ways::{Way, first_run};

/// `data/a.db`, and its other name outside the patterns, which is what its application uses.
fn with_a_name_outside(mode: &str, rows: u32) -> (Place, PathBuf, PathBuf) {
    let place = Place::new();
    let path = place.make("a.db", mode, rows);
    let outside = place.path().join("outside.db");
    fs::hard_link(&path, &outside).unwrap();
    (place, path, outside)
}

/// The `-wal` lies beside the other name. While its application lives it is missed; after a crash nothing tells of it.
#[test]
fn commits_in_a_wal_beside_another_name_are_not_stored_but_the_name_is_warned_of() {
    let (place, path, outside) = with_a_name_outside("wal", 1);
    let mut app = Foreign::open(&outside, "wal");
    app.exec("INSERT INTO t VALUES(2)");
    expect_named(&place, "a.db", "wal-unlinked");
    app.kill();
    assert_eq!(stored(&place, "a.db", false), [[1], [1]], "an earlier commit than the last");
    for way in Way::BOTH {
        let ran = first_run(&place, way);
        assert!(ran.err.contains("one file with 2 names"), "{way:?}: {}", ran.err);
    }
    assert_eq!(foreign_rows(&path).unwrap(), [1], "what SQLite sees under this name");
    assert_eq!(foreign_rows(&outside).unwrap(), [1, 2], "what its application committed");
}

/// The same with a rollback journal: what it would undo is stored.
#[test]
fn half_a_transaction_whose_journal_lies_beside_another_name_is_stored_as_it_lies_there() {
    let (place, path, outside) = with_a_name_outside("delete", ROWS);
    let mut app = Foreign::open(&outside, "delete");
    app.exec(SPILL);
    app.kill();
    age(&path);
    let both = stored(&place, "a.db", false);
    let seen = foreign_rows(&path).unwrap();
    assert!(is_torn(&seen) && both.iter().all(|rows| *rows == seen));
    foreign_rows(&outside).unwrap_err();
}

/// T56: this one is caught. What the application commits is seen by nobody, and it is named as long as it is connected.
#[test]
fn a_wal_unlinked_under_its_application_is_named_both_ways() {
    let place = Place::new();
    let path = place.make("a.db", "wal", 1);
    let mut app = Foreign::open(&path, "wal");
    app.exec("INSERT INTO t VALUES(2)");
    fs::remove_file(place.db("a.db-wal")).unwrap();
    expect_named(&place, "a.db", "wal-unlinked");
    app.exec("INSERT INTO t VALUES(3)");
    expect_named(&place, "a.db", "wal-unlinked");
    // Once nobody is connected nothing tells that there was more: these commits are lost to SQLite itself.
    app.kill();
    fs::remove_file(place.db("a.db-shm")).unwrap();
    age(&path);
    assert_eq!(stored(&place, "a.db", true), [[1], [1]]);
    assert_eq!(foreign_rows(&path).unwrap(), [1]);
}
