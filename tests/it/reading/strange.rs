//! Files that are no databases, and one database with several names.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rusqlite::Connection;

use crate::foreign::{Foreign, listing};
use crate::place::{Place, Ran, age};

/// Bytes that look random, the same each time.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

/// Sets both format versions in the header of the database at `path`.
fn set_format(path: &Path, version: u8) {
    let mut bytes = fs::read(path).unwrap();
    bytes[18..20].fill(version);
    fs::write(path, bytes).unwrap();
}

/// A place with one database, `good.db`, and what only looks like one to a pattern. No name ends in `.db` twice.
fn strange_place() -> Place {
    let place = Place::new();
    place.make("good.db", "delete", 1);
    fs::write(place.db("text.db"), "Dear diary,\n".repeat(100)).unwrap();
    fs::write(place.db("noise.db"), noise(8192)).unwrap();
    fs::write(place.db("short.db"), b"SQL").unwrap();
    fs::write(place.db("empty.db"), b"").unwrap();
    place
}

/// T24: everything that matched a pattern of files is accounted for, each time, and read only once.
#[test]
fn a_file_that_matches_and_is_no_database_is_named_in_each_run_and_stops_nobody() {
    let place = strange_place();
    set_format(&place.make("wal2.db", "delete", 1), 3);
    fs::write(place.db("cut.db"), b"SQLite format 3\0and then the disk was full").unwrap();
    let expect = |ran: &Ran| {
        for (name, reason) in [
            ("text.db", "not-a-database"),
            ("short.db", "not-a-database"),
            ("cut.db", "not-a-database"),
            ("noise.db", "opaque"),
            ("wal2.db", "opaque"),
            ("empty.db", "empty"),
        ] {
            ran.expect_failure(&place.db(name), reason);
        }
        assert_eq!((ran.count("failed"), ran.count("databases"), ran.count("empty")), (5, 1, 1), "empty is no failure");
    };
    let ran = place.once().expect_code(1);
    assert_eq!(ran.count("stored"), 1);
    expect(&ran);
    let again = place.once().expect_code(1);
    assert_eq!(again.count("requests"), 0);
    expect(&again);
}

/// T24: below a folder, what has no SQLite header is nobody's database.
#[test]
fn below_a_folder_what_is_no_database_is_passed_over_in_silence() {
    let place = strange_place();
    fs::write(place.db("README"), "all my databases").unwrap();
    fs::write(place.db("photo.jpg"), noise(5000)).unwrap();
    let run = || -> Ran { place.replicate("data", &["--once"]).output().unwrap().into() };
    let ran = run().expect_code(0);
    assert_eq!((ran.count("databases"), ran.count("stored"), ran.count("failed")), (1, 1, 0));
    assert_eq!(ran.out.lines().count(), 1, "{}", ran.out);
    assert_eq!(run().expect_code(0).count("requests"), 0);
}

/// T24: a database in a format that SQLite does not know is unprotected, however it was found.
#[test]
fn below_a_folder_a_database_that_cannot_be_read_is_named() {
    let place = Place::new();
    place.make("good.db", "delete", 1);
    let wal2 = place.make("wal2.db", "delete", 1);
    set_format(&wal2, 3);
    let cut = place.db("cut.db");
    fs::write(&cut, b"SQLite format 3\0and then the disk was full").unwrap();
    for _ in 0..2 {
        let ran = Ran::from(place.replicate("data", &["--once"]).output().unwrap()).expect_code(1);
        ran.expect_failure(&wal2, "opaque");
        ran.expect_failure(&cut, "not-a-database");
    }
}

/// T28, T24: what was a database and is overwritten is no longer protected, and that is said until it is mended.
#[test]
fn a_stored_database_that_is_overwritten_with_junk_is_named_in_each_run() {
    for pattern in ["data", "data/*.db"] {
        let place = Place::new();
        let path = place.make("a.db", "delete", 3);
        let saved = fs::read(&path).unwrap();
        let run = || -> Ran { place.replicate(pattern, &["--once"]).output().unwrap().into() };
        assert_eq!(run().expect_code(0).count("stored"), 1);
        for (junk, reason) in [(b"junk".repeat(50), "not-a-database"), (noise(8192), "opaque")] {
            fs::write(&path, &junk).unwrap();
            run().expect_code(1).expect_failure(&path, reason);
            run().expect_code(1).expect_failure(&path, reason);
        }
        fs::write(&path, saved).unwrap();
        assert_eq!(run().expect_code(0).count("stored"), 0, "its content is stored already");
        assert_eq!(place.objects().len(), 1);
    }
}

/// T24: even a read-only open of a 0-byte main file deletes the `-wal` beside it.
#[test]
fn the_wal_beside_an_empty_main_file_survives() {
    let place = Place::new();
    place.make("good.db", "wal", 1);
    let donor = place.path().join("donor");
    let mut app = Foreign::open(&donor, "wal");
    app.exec("CREATE TABLE t(x); INSERT INTO t VALUES(1)");
    let empty = place.db("a.db");
    fs::write(&empty, b"").unwrap();
    fs::copy(place.path().join("donor-wal"), place.db("a.db-wal")).unwrap();
    let before = listing(&place.data());
    for pattern in ["data", "data/*.db"] {
        let ran = Ran::from(place.replicate(pattern, &["--once"]).output().unwrap()).expect_code(0);
        assert_eq!(ran.count("databases"), 1);
        assert_eq!(listing(&place.data()), before);
    }
    assert_eq!(place.objects_of("good.db").len(), 1);
    // What would have happened, so that this test is known to bite.
    Connection::open(&empty).unwrap().query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).unwrap();
    assert!(!place.db("a.db-wal").exists());
}

/// T26: two names of one file have two journals, and SQLite sees only one of them.
#[test]
fn a_hard_linked_database_is_stored_once_with_a_warning() {
    let place = Place::new();
    let path = place.make("b.db", "delete", 2);
    fs::hard_link(&path, place.db("a/second.db")).unwrap();
    let ran = place.once().expect_code(0);
    assert_eq!((ran.count("databases"), ran.count("stored"), place.objects().len()), (1, 1, 1));
    assert!(ran.err.contains("one file with 2 names"), "{}", ran.err);
    assert_eq!(place.newest_rows("a/second.db"), [1, 2], "under the first of its names");
    assert_eq!(place.once().expect_code(0).count("stored"), 0);
}

/// T26: links to files and to folders, and a loop.
#[test]
fn a_database_reached_through_symlinks_is_stored_once_and_loops_end() {
    let place = Place::new();
    let path = place.make("real/a.db", "wal", 2);
    symlink(&path, place.db("link.db")).unwrap();
    symlink("link.db", place.db("link-of-link.db")).unwrap();
    symlink(place.data(), place.data().join("real/loop")).unwrap();
    symlink("nowhere.db", place.db("dangling.db")).unwrap();
    symlink("self.db", place.db("self.db")).unwrap();
    let outside = place.path().join("outside.db");
    fs::copy(&path, &outside).unwrap();
    age(&outside);
    symlink(&outside, place.db("out1.db")).unwrap();
    symlink(&outside, place.db("out2.db")).unwrap();
    for pattern in ["data/**/*.db", "data/*/*.db", "data"] {
        let ran = Ran::from(place.replicate(pattern, &["--once"]).output().unwrap()).expect_code(0);
        let found = if pattern == "data/*/*.db" { 1 } else { 2 };
        assert_eq!(ran.count("databases"), found, "{pattern}: {ran:#?}");
    }
    let keys: Vec<String> = place.objects().into_iter().map(|o| o.key).collect();
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert!(
        keys.iter().any(|k| k.contains("/real/a.db/")) && keys.iter().any(|k| k.contains("/outside.db/")),
        "{keys:?}"
    );
}
