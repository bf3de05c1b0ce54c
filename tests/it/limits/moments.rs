//! What an application can meet while it is read, in the worst moment: made to last by stopping the reader in it.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::Signal;

use crate::foreign::{Foreign, sidecars};
use crate::place::{Place, Ran, Running, eventually};
use crate::ways::{Way, direct, first_command, settle, skipped};

/// A reader that is stopped in the middle of copying the large database of `place`.
fn stopped_in_mid_copy(place: &Place, path: &Path, way: Way) -> Running {
    let whole = fs::metadata(path).unwrap().len();
    for _ in 0..100 {
        let running = Running::start(first_command(place, way));
        assert!(eventually(Duration::from_secs(120), || copied(place) > 0 || place.objects().len() == 1));
        running.signal(Signal::SIGSTOP);
        assert!(eventually(Duration::from_secs(120), || is_stopped(running.pid())));
        if (1..whole).contains(&copied(place)) {
            return running;
        }
        running.signal(Signal::SIGCONT);
        running.wait(Duration::from_secs(60)).expect_code(0);
    }
    panic!("it was never caught in the middle");
}

/// Bytes of the temporary copy.
fn copied(place: &Place) -> u64 {
    let folders = fs::read_dir(place.state()).into_iter().flatten().map(|e| e.unwrap().path()).filter(|p| p.is_dir());
    let files = folders.flat_map(|dir| fs::read_dir(dir).unwrap()).map(|e| e.unwrap().path());
    files.filter(|p| p.extension().is_some_and(|x| x == "copy")).map(|p| fs::metadata(p).map_or(0, |m| m.len())).sum()
}

fn is_stopped(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
}

fn go_on(running: Running) -> Ran {
    running.signal(Signal::SIGCONT);
    running.wait(Duration::from_secs(60)).expect_code(0)
}

/// An application that closes last finds itself not the last while SQLite reads, and leaves to others what it would have
/// removed. Nothing is lost: whoever opens the database next cleans up.
#[test]
fn a_last_close_during_a_read_through_sqlite_leaves_its_sidecars_behind() {
    for way in Way::BOTH {
        let place = Place::new();
        let path = place.make_large("a.db");
        let mut app = Foreign::open(&path, "wal");
        app.exec("INSERT INTO t VALUES(2); PRAGMA wal_checkpoint(TRUNCATE)");
        settle(&place.data());
        let running = stopped_in_mid_copy(&place, &path, way);
        app.close();
        let ran = go_on(running);
        let left = sidecars(&place.data());
        match way {
            // No connection of ours: the application was the last.
            Way::Default => assert_eq!((left.len(), ran.count("stored")), (0, 1), "{left:?}"),
            Way::AlwaysSqlite => assert_eq!(left, [place.db("a.db-shm"), place.db("a.db-wal")]),
        }
        Foreign::open(&path, "wal").close();
        assert_eq!(sidecars(&place.data()), [] as [&Path; 0], "the next application cleans up");
    }
}

/// What is not checkpointed at that close is read through SQLite either way, and stays in the `-wal`.
#[test]
fn what_a_last_close_leaves_in_its_wal_is_still_there_for_everybody() {
    for way in Way::BOTH {
        let place = Place::new();
        let path = place.make_large("a.db");
        let mut app = Foreign::open(&path, "wal");
        app.exec("INSERT INTO t VALUES(2)");
        let running = stopped_in_mid_copy(&place, &path, way);
        app.close();
        assert_eq!(direct(&go_on(running)), 0);
        assert!(fs::metadata(place.db("a.db-wal")).unwrap().len() > 0, "{way:?}");
        let conn = rusqlite::Connection::open(&path).unwrap();
        let rows: i64 = conn.query_row("SELECT count(*) FROM t", [], |r| r.get(0)).unwrap();
        assert_eq!(rows, 3, "{way:?}");
    }
}

/// Outside WAL mode SQLite's reading is a SHARED lock, for as long as the copy takes. The plain reading is none: the
/// commit goes through, is noticed, and the database is read once more.
#[test]
fn a_rollback_journal_writer_waits_for_a_large_copy_through_sqlite_only() {
    for way in Way::BOTH {
        let place = Place::new();
        let path = place.make_large("a.db");
        drop(rusqlite::Connection::open(&path).unwrap().pragma_update(None, "journal_mode", "delete"));
        let mut app = Foreign::open(&path, "delete");
        app.exec("PRAGMA busy_timeout=0");
        settle(&place.data());
        let running = stopped_in_mid_copy(&place, &path, way);
        app.say("exec INSERT INTO t VALUES(2)");
        let heard = app.hear();
        let ran = go_on(running);
        let newest = place.objects_of("a.db").pop().unwrap();
        let count = "SELECT count(*) FROM t";
        let rows: i64 = place.open_image(&newest.image()).query_row(count, [], |r| r.get(0)).unwrap();
        match way {
            Way::Default => assert_eq!((&*heard, rows, direct(&ran)), ("done", 3, 0)),
            Way::AlwaysSqlite => assert_eq!((&*heard, rows), ("database is locked", 2)),
        }
    }
}

/// Opens the database in `sys.argv[1]` when told to, with a busy timeout of `sys.argv[2]` seconds, and reads it.
const OPENS: &str = r#"
import sqlite3, sys
print("ready", flush=True)
sys.stdin.readline()
try:
    sqlite3.connect(sys.argv[1], timeout=float(sys.argv[2])).execute("SELECT count(*) FROM t").fetchall()
    print("done", flush=True)
except sqlite3.Error as e:
    print(e, flush=True)
"#;

/// Whether somebody holds EXCLUSIVE. Takes no lock, and no connection of this process is there to lose its own.
fn is_held_exclusively(file: &File) -> bool {
    let mut lock = libc::flock {
        l_type: libc::c_short::try_from(libc::F_RDLCK).unwrap(),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap(),
        l_start: 0x4000_0002,
        l_len: 510,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
    libc::c_int::from(lock.l_type) != libc::F_UNLCK
}

/// The sidecars that SQLite's reading made are removed under a lock held for two `unlink` calls, here made to last two
/// seconds each: an application that opens in that very instant waits, or is refused if it has no busy timeout.
#[test]
fn an_application_without_a_busy_timeout_that_opens_while_we_clean_up_is_refused() {
    let place = Place::new();
    let path = place.make("a.db", "wal", 1);
    let [mut hasty, mut patient] = ["0", "30"].map(|timeout| Foreign::start(OPENS, &path, &[timeout]));
    let inner = first_command(&place, Way::AlwaysSqlite);
    let mut slowed = Command::new("strace");
    slowed.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=unlink", "-e", "inject=unlink:delay_enter=2000000"]);
    slowed.arg(inner.get_program()).args(inner.get_args()).current_dir(place.path());
    if !Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status().is_ok_and(|s| s.success()) {
        return skipped("needs strace, and the right to trace");
    }
    let running = Running::start(slowed);
    let file = File::open(&path).unwrap();
    assert!(eventually(Duration::from_secs(30), || is_held_exclusively(&file)));
    patient.say("go");
    hasty.say("go");
    assert_eq!(hasty.hear(), "database is locked");
    assert_eq!(patient.hear(), "done");
    drop((hasty, patient));
    running.wait(Duration::from_secs(60)).expect_code(0);
}
