//! No damage to a stored object makes restore replace a good file.

use std::fs;
use std::path::Path;

use super::round_trip::restore;
use crate::place::{Object, Place, age};

/// The smallest database, stored twice with different content, and a good file in the way of its restore.
fn place() -> (Place, Vec<Object>) {
    let place = Place::new();
    let path = place.db("a.db");
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute_batch("PRAGMA page_size=512; CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
    drop(conn);
    age(&path);
    place.once().expect_code(0);
    rusqlite::Connection::open(&path).unwrap().execute_batch("INSERT INTO t VALUES(2)").unwrap();
    age(&path);
    place.once().expect_code(0);
    let objects = place.objects_of("a.db");
    assert_eq!(objects.len(), 2);
    (place, objects)
}

/// Restores over a good file, by force, and expects that this file stays; returns the word for why.
#[track_caller]
fn refused(place: &Place, what: &str) -> String {
    let target = place.path().join("t.db");
    fs::write(&target, "a good file").unwrap();
    let ran = restore(place, &["-o", "t.db", "--force"]);
    assert_eq!(ran.code, Some(1), "{what}: {ran:#?}");
    assert_eq!(fs::read(&target).unwrap(), b"a good file", "{what}");
    assert_eq!((ran.count("restored"), ran.count("failed")), (0, 1), "{what}: {ran:#?}");
    let name = place.data().join("a.db");
    let failure = ran.failure_of(name.strip_prefix("/").unwrap()).unwrap_or_else(|| panic!("{ran:#?}"));
    failure.split_once(": ").unwrap().0.to_owned()
}

fn put(place: &Place, key: &str, bytes: &[u8]) {
    fs::write(place.store().join(key), bytes).unwrap();
}

#[test]
fn flipped_bits_truncations_swaps_and_strangers_are_refused() {
    let (place, objects) = place();
    let newest = &objects[1];
    let len = newest.bytes.len();
    // Every bit is tried through the library, below; here the command, at a few of each part of the object.
    for at in [0, 5, 9, 20, len / 2, len - 200, len - 40, len - 20, len - 1] {
        let mut bytes = newest.bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        put(&place, &newest.key, &bytes);
        refused(&place, &format!("bit at {at} of {len}"));
    }
    for cut in [0, 3, 19, len / 2, len - 33, len - 1] {
        put(&place, &newest.key, &newest.bytes[..cut]);
        refused(&place, &format!("cut to {cut} of {len}"));
    }
    put(&place, &newest.key, &objects[0].bytes);
    assert_eq!(refused(&place, "the older one in the place of the newer"), "wrong-key");
    put(&place, &newest.key, b"hello");
    refused(&place, "a stranger");
    put(&place, &newest.key, &[&newest.bytes[..], b"x"].concat());
    refused(&place, "something behind it");

    put(&place, &newest.key, &newest.bytes);
    restore(&place, &["-o", "t.db", "--force"]).expect_code(0);
}

#[test]
fn every_single_bit_matters() {
    let (_, objects) = place();
    let Object { key, bytes } = &objects[1];
    let mut damaged = bytes.clone();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            damaged[at] ^= 1 << bit;
            let decoded = litesnap::object::decode(&damaged[..], Some(key), &mut Vec::new());
            assert!(decoded.is_err(), "bit {bit} of byte {at}");
            damaged[at] ^= 1 << bit;
        }
    }
    for len in 0..bytes.len() {
        assert!(litesnap::object::decode(&bytes[..len], Some(key), &mut Vec::new()).is_err(), "{len} bytes");
    }
}

#[test]
fn a_faithful_copy_of_a_corrupt_database_is_refused_only_where_sqlite_is_asked() {
    let place = Place::new();
    let path = place.make("a.db", "delete", 2000);
    let mut bytes = fs::read(&path).unwrap();
    // The cell pointers of a leaf in the middle.
    let page = 4096 * (bytes.len() / 4096 / 2);
    bytes[page + 8..page + 64].fill(0xFF);
    fs::write(&path, bytes).unwrap();
    age(&path);
    place.once().expect_code(0);
    let name = path.strip_prefix("/").unwrap();
    for check in ["quick", "full"] {
        let ran = restore(&place, &["-o", "t.db", "--check", check]).expect_code(1);
        ran.expect_failure(name, "corrupt");
        assert!(!Path::new(&place.path().join("t.db")).exists());
        let out = restore(&place, &["-o", "-", "--check", check]).expect_code(1);
        assert!(out.out.is_empty() && out.err.contains("corrupt"), "{out:#?}");
    }
    restore(&place, &["-o", "t.db"]).expect_code(0);
}

#[test]
fn a_collation_that_only_the_application_has_is_no_corruption() {
    let place = Place::new();
    let path = place.db("a.db");
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.create_collation("mine", |a, b| b.cmp(a)).unwrap();
    conn.execute_batch("CREATE TABLE t(x COLLATE mine PRIMARY KEY); INSERT INTO t VALUES('a'), ('b')").unwrap();
    drop(conn);
    age(&path);
    place.once().expect_code(0);
    restore(&place, &["-o", "t.db", "--check", "quick"]).expect_code(0);
}
