//! Every format SQLite has comes back equal: page by page outside the header's counters, and by its dump.

use std::fs;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;

use super::round_trip::{back, restore};
use crate::place::{Place, age};

/// Hash of what the sqlite3 shell dumps, or of its schema and pages for a database that has nothing to dump.
fn dump(path: &Path) -> Vec<u8> {
    // A copy, so that the shell cannot change what is compared byte by byte.
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.db");
    fs::copy(path, &copy).unwrap();
    let out = Command::new("sqlite3").arg(&copy).arg(".dump").output().expect("these tests need sqlite3");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// The image without what a copy through SQLite may move: change counter, schema cookie, version-valid-for, version.
fn comparable(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    bytes[24..28].fill(0);
    bytes[40..44].fill(0);
    bytes[92..100].fill(0);
    bytes
}

fn make(path: &Path, page_size: u32, journal: &str, vacuum: &str, reserved: u8, rows: u32) {
    let conn = Connection::open(path).unwrap();
    let pragmas = format!("PRAGMA synchronous=OFF; PRAGMA page_size={page_size}; PRAGMA auto_vacuum={vacuum}");
    conn.execute_batch(&pragmas).unwrap();
    if reserved > 0 {
        let mut n = std::ffi::c_int::from(reserved);
        // SAFETY: the handle is open and the argument is the int that SQLITE_FCNTL_RESERVE_BYTES wants.
        #[allow(unsafe_code)]
        let code = unsafe {
            rusqlite::ffi::sqlite3_file_control(
                conn.handle(),
                std::ptr::null(),
                rusqlite::ffi::SQLITE_FCNTL_RESERVE_BYTES,
                std::ptr::from_mut(&mut n).cast(),
            )
        };
        assert_eq!(code, 0);
        conn.execute_batch("VACUUM").unwrap();
    }
    conn.pragma_update(None, "journal_mode", journal).unwrap();
    conn.execute_batch("CREATE TABLE t(x PRIMARY KEY, y); CREATE INDEX i ON t(y)").unwrap();
    conn.execute_batch("BEGIN").unwrap();
    for n in 0..rows {
        conn.execute("INSERT INTO t VALUES(?1, hex(randomblob(40)))", [n]).unwrap();
    }
    conn.execute_batch("COMMIT").unwrap();
    if rows > 0 {
        conn.execute_batch("DELETE FROM t WHERE x % 3 = 0").unwrap();
    }
    // In WAL mode all of it is in the main file when the last connection closes.
    drop(conn);
    age(path);
}

#[test]
fn page_sizes_journal_modes_auto_vacuum_and_reserved_bytes() {
    let place = Place::new();
    let mut names = Vec::new();
    for page_size in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        for journal in ["delete", "truncate", "persist", "memory", "off", "wal"] {
            for vacuum in ["none", "full", "incremental"] {
                for (reserved, rows) in [(0, 30), (32, 30), (0, 0)] {
                    let name = format!("{page_size}-{journal}-{vacuum}-{reserved}-{rows}.db");
                    make(&place.db(&name), page_size, journal, vacuum, reserved, rows);
                    names.push(name);
                }
            }
        }
    }
    place.once().expect_code(0);
    restore(&place, &["--into", "back", "--check", "full"]).expect_code(0);
    let header = |path: &Path, at: usize| fs::read(path).unwrap()[at];
    for name in &names {
        let (source, restored) = (place.data().join(name), back(&place, name));
        assert_eq!(comparable(&restored), comparable(&source), "{name}");
        for at in [18, 19, 20] {
            assert_eq!(header(&restored, at), header(&source, at), "{name}: journal mode and reserved bytes");
        }
    }
    // The shell is slow: of each kind one.
    for name in names.iter().filter(|name| name.contains("-none-") || name.starts_with("4096")) {
        assert_eq!(dump(&back(&place, name)), dump(&place.data().join(name)), "{name}");
    }
}

#[test]
fn a_live_wal_comes_back_as_part_of_the_database() {
    let place = Place::new();
    let path = place.make("a.db", "wal", 3);
    let app = Connection::open(&path).unwrap();
    app.execute_batch("PRAGMA wal_autocheckpoint=0; INSERT INTO t VALUES(4)").unwrap();
    place.once().expect_code(0);
    restore(&place, &["--into", "back"]).expect_code(0);
    let restored = Connection::open(back(&place, "a.db")).unwrap();
    assert_eq!(crate::place::rows(&restored), [1, 2, 3, 4]);
}

#[test]
#[ignore = "1 GiB of pages: .ci/run runs it"]
fn beyond_the_lock_byte_page() {
    let place = Place::new();
    let path = place.db("large.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("PRAGMA page_size=65536; PRAGMA synchronous=OFF; PRAGMA journal_mode=OFF; CREATE TABLE t(x)")
        .unwrap();
    for n in 0..1100 {
        conn.execute("INSERT INTO t VALUES(zeroblob(1000000 + ?1))", [n]).unwrap();
    }
    drop(conn);
    age(&path);
    assert!(fs::metadata(&path).unwrap().len() > (1 << 30) + 65536);
    place.once().expect_code(0);
    restore(&place, &["--into", "back", "--check", "quick"]).expect_code(0);
    assert_eq!(comparable(&back(&place, "large.db")), comparable(&path));
}
