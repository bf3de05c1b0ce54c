//! Live foreign writers, all formats of files, crashed writers: the stored image is a committed state, byte by byte.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use crate::foreign::{Foreign, WRITER, check_committed, listing, sidecars, stop_writer};
use crate::place::{Object, Place, age, eventually};

/// Longer than anything here takes on a busy machine; nothing is measured by it.
const LONG: Duration = Duration::from_secs(300);

/// T12, T21, T22: a foreign SQLite commits without a pause in each journal mode while the loop runs at 100 ms.
#[test]
fn every_snapshot_under_a_busy_foreign_writer_is_one_of_its_commits_and_the_last_one_is_stored() {
    const MODES: [&str; 3] = ["wal", "delete", "truncate"];
    let place = Place::new();
    let paths = MODES.map(|mode| place.db(&format!("{mode}.db")));
    let start = |(path, mode): (&PathBuf, &str)| Foreign::start(WRITER, path, &[&format!("{mode},5,1")]);
    let writers: Vec<Foreign> = paths.iter().zip(MODES).map(start).collect();
    let running = place.start_loop("100ms", &[]);
    let stored = |mode: &str| place.objects_of(&format!("{mode}.db"));
    assert!(eventually(LONG, || MODES.iter().all(|mode| stored(mode).len() >= 12)));

    for (mode, writer) in MODES.iter().zip(writers) {
        let written = stop_writer(writer, 1)[0];
        let is_last = |o: &Object| check_committed(&place.open_image(&o.image())) == written.last;
        assert!(
            eventually(LONG, || stored(mode).last().is_some_and(is_last)),
            "{mode}: the last commit, {}, is not stored",
            written.last
        );
        let seen: Vec<i64> = stored(mode).iter().map(|o| check_committed(&place.open_image(&o.image()))).collect();
        assert!(seen.is_sorted(), "{mode}: a later snapshot shows an earlier commit: {seen:?}");
        println!("{mode}: {} commits, {} snapshots, {} busy", written.last, seen.len(), written.busy);
    }
    running.stop().expect_code(0);
    // In its mode a journal stays, with no content.
    assert_eq!(sidecars(&place.data()), [place.db("truncate.db-journal")]);
}

/// What SQL says of a database: its settings, its schema, every row of every table.
fn dump(conn: &Connection) -> Vec<String> {
    let text = |sql: &str| -> Vec<String> {
        let mut select = conn.prepare(sql).unwrap();
        let columns = select.column_count();
        let row = |r: &rusqlite::Row<'_>| (0..columns).map(|i| r.get_ref(i).map(|v| format!("{v:?}"))).collect();
        select.query_map([], row).unwrap().map(|r: rusqlite::Result<Vec<String>>| r.unwrap().join("|")).collect()
    };
    let mut all = Vec::new();
    for pragma in ["page_size", "page_count", "auto_vacuum", "user_version", "encoding", "freelist_count"] {
        all.extend(text(&format!("PRAGMA {pragma}")));
    }
    all.extend(text("SELECT * FROM sqlite_schema ORDER BY name"));
    let mut tables = conn.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").unwrap();
    let tables: Vec<String> = tables.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect();
    for table in tables {
        all.extend(text(&format!("SELECT rowid, * FROM \"{table}\" ORDER BY rowid")));
    }
    all
}

/// Fails unless `image` equals the file `main`, which nobody has open, in every page and in what SQL says of it.
#[track_caller]
fn assert_same_database(place: &Place, main: &Path, image: &[u8]) {
    let masked = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        for hidden in [24..28, 40..44, 92..100] {
            bytes[hidden].fill(0);
        }
        bytes
    };
    let source = fs::read(main).unwrap();
    assert_eq!(image.len(), source.len(), "{}", main.display());
    let page_size = usize::from(u16::from_be_bytes([source[16], source[17]]));
    let page_size = if page_size == 1 { 65_536 } else { page_size };
    let (ours, theirs) = (masked(image), masked(&source));
    for (n, (ours, theirs)) in ours.chunks(page_size).zip(theirs.chunks(page_size)).enumerate() {
        assert!(ours == theirs, "page {} of {} differs", n + 1, main.display());
    }
    let (ours, theirs) = (place.open_image(image), Connection::open(main).unwrap());
    let check: String = ours.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(check, "ok", "{}", main.display());
    assert_eq!(dump(&ours), dump(&theirs), "{}", main.display());
}

/// Puts content in: `rows` with a free list behind it, `tables` without rows, or nothing but the first page.
fn fill(conn: &Connection, with: &str) {
    let sql = match with {
        "rows" => {
            "PRAGMA user_version = 7; CREATE TABLE t(id INTEGER PRIMARY KEY, x); CREATE INDEX i ON t(x);
             WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 300)
             INSERT INTO t SELECT n, hex(randomblob(n)) FROM c; INSERT INTO t VALUES(1000, randomblob(200000));
             DELETE FROM t WHERE id BETWEEN 100 AND 200;"
        }
        "tables" => "CREATE TABLE t(id INTEGER PRIMARY KEY, x); CREATE INDEX i ON t(x); CREATE TABLE u(y)",
        _ => "PRAGMA user_version = 7",
    };
    conn.execute_batch(sql).unwrap();
}

/// T14, T25: page sizes, journal modes, a live `-wal`, auto-vacuum, free lists, empty tables.
#[test]
fn every_page_of_every_format_is_stored_as_it_is() {
    let place = Place::new();
    let (mut paths, mut open) = (Vec::new(), Vec::new());
    for page_size in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        for (mode, vacuum) in
            [("delete", "none"), ("wal", "none"), ("live", "full"), ("wal", "incremental"), ("live", "none")]
        {
            for with in ["rows", "tables", "header"] {
                let path = place.db(&format!("{page_size}-{mode}-{vacuum}-{with}.db"));
                let conn = Connection::open(&path).unwrap();
                conn.execute_batch(&format!(
                    "PRAGMA page_size={page_size}; PRAGMA auto_vacuum={vacuum}; PRAGMA synchronous=OFF;
                     PRAGMA journal_mode={}; PRAGMA wal_autocheckpoint=0;",
                    if mode == "live" { "wal" } else { mode }
                ))
                .unwrap();
                fill(&conn, with);
                // A live one keeps all its content in its -wal.
                open.extend((mode == "live").then_some(conn));
                paths.push(path);
            }
        }
    }
    let live = sidecars(&place.data()).len();
    assert_eq!(live, open.len() * 2);
    let ran = place.once().expect_code(0);
    assert_eq!((ran.count("databases"), ran.count("stored")), (120, 120));
    assert_eq!(sidecars(&place.data()).len(), live, "a -wal or -shm beside a database at rest");
    drop(open);
    for path in paths {
        let image = place.objects_of(path.file_name().unwrap().to_str().unwrap())[0].image();
        assert_same_database(&place, &path, &image);
    }
}

/// T25: bytes at the end of each page that SQLite leaves to extensions. There is no SQL for that: the one page of an
/// empty database is given them by hand.
#[test]
fn reserved_bytes_at_the_end_of_each_page_are_kept() {
    let place = Place::new();
    let sizes = [(512_usize, 32_u8), (4096, 16), (65536, 255)];
    for (page_size, reserved) in sizes {
        let path = place.db(&format!("{page_size}.db"));
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch(&format!("PRAGMA page_size={page_size}; PRAGMA user_version=1")).unwrap();
        drop(conn);
        let mut page = fs::read(&path).unwrap();
        assert_eq!(page.len(), page_size);
        page[20] = reserved;
        // Where the content of this empty leaf begins: at its end, which is now earlier.
        page[105..107].copy_from_slice(&u16::try_from(page_size - usize::from(reserved)).unwrap().to_be_bytes());
        fs::write(&path, page).unwrap();
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA journal_mode=wal").ok();
        fill(&conn, "rows");
        let check: String = conn.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
        assert_eq!(check, "ok");
    }
    assert_eq!(place.once().expect_code(0).count("stored"), 3);
    for (page_size, reserved) in sizes {
        let image = place.objects_of(&format!("{page_size}.db"))[0].image();
        assert_eq!(image[20], reserved);
        assert_same_database(&place, &place.db(&format!("{page_size}.db")), &image);
    }
}

/// T14, T15: an application killed with content in its `-wal`: that content is committed.
#[test]
fn what_a_killed_application_left_in_its_wal_is_stored_and_stays_there() {
    let place = Place::new();
    for (name, keep_shm) in [("with-shm.db", true), ("without-shm.db", false)] {
        let path = place.make(name, "wal", 1);
        let mut app = Foreign::open(&path, "wal");
        app.exec("PRAGMA wal_autocheckpoint=0; INSERT INTO t VALUES(2); BEGIN; INSERT INTO t VALUES(3)");
        app.kill();
        age(&path);
        let shm = path.with_extension("db-shm");
        if !keep_shm {
            fs::remove_file(shm).unwrap();
        }
    }
    let before = listing(&place.data());
    assert_eq!(place.once().expect_code(0).count("stored"), 2);
    assert_eq!(listing(&place.data()), before);
    for name in ["with-shm.db", "without-shm.db"] {
        assert_eq!(place.newest_rows(name), [1, 2], "{name}");
    }
}
