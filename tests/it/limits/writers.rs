//! Applications that write without a journal that others could roll back, or without the locks that others look at.

use std::path::{Path, PathBuf};

use super::{ROWS, SPILL, expect_named, is_torn, stored};
use crate::foreign::{Foreign, foreign_rows};
use crate::place::{Place, age};

/// A large database and an application in the middle of a transaction that spilled into it.
fn in_mid_transaction(vfs: &str, mode: &str) -> (Place, PathBuf, Foreign) {
    let place = Place::new();
    let path = place.make("a.db", "delete", ROWS);
    let mut app = Foreign::open_through(vfs, &path, mode);
    app.exec(SPILL);
    age(&path);
    (place, path, app)
}

/// Fails unless half a transaction is what SQLite sees, and what is stored, both ways.
#[track_caller]
fn expect_half_a_transaction(place: &Place, path: &Path) {
    let both = stored(place, "a.db", true);
    let seen = foreign_rows(path).unwrap();
    assert!(is_torn(&seen), "now a reader can tell: documents, and this test, should say so");
    assert!(both.iter().all(|rows| *rows == seen), "what SQLite sees is what is stored");
}

/// The journal was in memory, or nowhere, and is gone: what reached the file stays in it.
#[test]
fn half_a_transaction_of_a_killed_writer_without_a_journal_file_is_stored_as_it_lies_there() {
    for mode in ["memory", "off"] {
        let (place, path, app) = in_mid_transaction("unix", mode);
        expect_named(&place, "a.db", "held-exclusively");
        app.kill();
        expect_half_a_transaction(&place, &path);
    }
}

/// With a journal file the same death is noticed: the difference to the test above.
#[test]
fn half_a_transaction_of_a_killed_writer_with_a_journal_file_is_named() {
    for mode in ["delete", "truncate", "persist"] {
        let (place, path, app) = in_mid_transaction("unix", mode);
        app.kill();
        expect_named(&place, "a.db", "hot-journal");
        foreign_rows(&path).unwrap_err();
    }
}

/// Nothing is there to roll back from: what SQLite's documentation calls undefined.
#[test]
fn what_a_rollback_without_a_journal_leaves_is_stored_as_it_lies_there() {
    let (place, path, mut app) = in_mid_transaction("unix", "off");
    app.exec("ROLLBACK");
    expect_half_a_transaction(&place, &path);
    // The application itself sees no more of what it had.
    app.close();
    assert!(is_torn(&foreign_rows(&path).unwrap()));
}

/// No locks, or locks of another kind: a writer in mid-transaction looks like nobody.
#[test]
fn half_a_transaction_of_a_writer_without_locks_is_stored_while_it_is_made() {
    for vfs in ["unix-none", "unix-dotfile"] {
        let (place, path, mut app) = in_mid_transaction(vfs, "memory");
        expect_half_a_transaction(&place, &path);
        // The end of the transaction moves the stamps: the next snapshot is a commit again.
        app.exec("COMMIT");
        app.close();
        age(&path);
        let committed: Vec<i64> = (1..=i64::from(ROWS)).map(|x| -x).collect();
        assert_eq!(stored(&place, "a.db", true), [committed.clone(), committed], "{vfs}");
    }
}

/// Without locks a journal in use looks like one of a dead writer, which is named: the database is not protected while
/// a transaction is open, and no transaction is stored in halves.
#[test]
fn a_journal_of_a_writer_without_locks_passes_for_a_dead_writers() {
    for vfs in ["unix-none", "unix-dotfile"] {
        let (place, path, mut app) = in_mid_transaction(vfs, "delete");
        expect_named(&place, "a.db", "hot-journal");
        foreign_rows(&path).unwrap_err();
        app.exec("ROLLBACK");
        age(&path);
        let committed: Vec<i64> = (1..=i64::from(ROWS)).collect();
        assert_eq!(stored(&place, "a.db", true), [committed.clone(), committed], "{vfs}");
    }
}
