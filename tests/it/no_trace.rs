//! Reading changes nothing about a database: its files look the same before and after, whoever reads and whoever has
//! it open. And what a reader may not do is said, not tried.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::foreign::{Foreign, WRITER, listing, sidecars, stop_writer};
use crate::place::{Place, Ran, age, eventually};

const NOBODY: u32 = 65_534;

/// Applications that hold their databases open, each in a state that a reader could disturb.
fn live(place: &Place) -> Vec<Foreign> {
    let state = |name: &str, mode: &str, sql: &str| {
        let path = place.make(name, mode, 50);
        let mut app = Foreign::open(&path, mode);
        app.exec(sql);
        age(&path);
        app
    };
    vec![
        state("live/wal.db", "wal", "INSERT INTO t VALUES(1)"),
        state("live/wal-empty.db", "wal", "INSERT INTO t VALUES(1); PRAGMA wal_checkpoint(TRUNCATE)"),
        state("live/wal-reset.db", "wal", "INSERT INTO t VALUES(1); PRAGMA wal_checkpoint(RESTART); SELECT * FROM t"),
        state("live/wal-half.db", "wal", "PRAGMA cache_size=1; BEGIN; UPDATE t SET x=zeroblob(2000)"),
        state("live/wal-reading.db", "wal", "INSERT INTO t VALUES(1); BEGIN; SELECT * FROM t"),
        state("live/delete.db", "delete", "INSERT INTO t VALUES(1)"),
        state("live/delete-reading.db", "delete", "BEGIN; SELECT * FROM t"),
        state("live/delete-reserved.db", "delete", "BEGIN IMMEDIATE; INSERT INTO t VALUES(1)"),
        state("live/persist.db", "persist", "INSERT INTO t VALUES(1)"),
        state("live/memory.db", "memory", "INSERT INTO t VALUES(1)"),
    ]
}

/// T3, T14, T15, T18: all journal modes, at rest and open, also with an owner who is not us.
#[test]
fn every_file_looks_the_same_before_and_after() {
    let place = Place::new();
    for mode in ["delete", "truncate", "persist", "memory", "off", "wal"] {
        place.make(&format!("rest/{mode}.db"), mode, 500);
    }
    let apps = live(&place);
    for crashed in ["crashed/a.db", "crashed/b.db"] {
        let path = place.make(crashed, "wal", 1);
        let mut app = Foreign::open(&path, "wal");
        app.exec("INSERT INTO t VALUES(2)");
        app.kill();
    }
    fs::remove_file(place.db("crashed/b.db-shm")).unwrap();
    if nix::unistd::geteuid().is_root() {
        let path = place.make("other/wal.db", "wal", 1);
        chown(&path, Some(1234), Some(5678)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let mut app = Foreign::open(&place.make("other/live.db", "wal", 1), "wal");
        app.exec("INSERT INTO t VALUES(2)");
        app.kill();
        for file in ["other/live.db", "other/live.db-wal", "other/live.db-shm"] {
            chown(place.db(file), Some(1234), Some(5678)).unwrap();
        }
    } else {
        println!("SKIPPED: databases of another owner: only root can make them");
    }
    let before = listing(&place.data());
    for _ in 0..2 {
        place.once().expect_code(0);
        let after = listing(&place.data());
        for (name, seen) in &before {
            assert_eq!(after.get(name), Some(seen), "{}", name.display());
        }
        assert_eq!(after.len(), before.len(), "{:?}", after.keys());
    }
    drop(apps);
}

/// T14, T53: many readings of databases at rest, while their stamps move under the loop.
#[test]
fn a_loop_over_databases_at_rest_leaves_nothing_beside_them() {
    let place = Place::new();
    let paths: Vec<PathBuf> = (0..50).map(|n| place.make(&format!("{n}.db"), "wal", 10)).collect();
    let probe = place.make("probe.db", "delete", 1);
    let running = place.start_loop("50ms", &[]);
    for n in 1..8 {
        assert!(eventually(Duration::from_secs(20), || place.objects_of("probe.db").len() == n));
        paths.iter().for_each(|path| age(path));
        rusqlite::Connection::open(&probe).unwrap().execute("INSERT INTO t VALUES(9)", []).unwrap();
    }
    running.stop().expect_code(0);
    assert_eq!(sidecars(&place.data()), [] as [PathBuf; 0]);
    assert!(paths.iter().all(|path| place.objects_of(path.file_name().unwrap().to_str().unwrap()).len() == 1));
}

/// One pass as a user who owns nothing here but state and store.
fn once_as_nobody(place: &Place) -> Ran {
    let mut command = place.replicate("data/**/*.db", &["--once"]);
    command.uid(NOBODY).gid(NOBODY);
    command.output().unwrap().into()
}

/// A place that NOBODY can walk through, or `None` where we cannot become NOBODY.
fn place_for_nobody() -> Option<Place> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let place = Place::new();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    for own in [place.state(), place.store()] {
        fs::create_dir(&own).unwrap();
        chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let mut binary = std::process::Command::new(env!("CARGO_BIN_EXE_litesnap"));
    binary.arg("--version").uid(NOBODY).gid(NOBODY);
    binary.output().is_ok_and(|ran| ran.status.success()).then_some(place)
}

/// T17, T18: what may be read is stored; a WAL database at rest would need files made beside it, which would then
/// belong to us and lock its application out.
#[test]
fn without_the_right_to_write_nothing_is_made_and_what_to_grant_is_said() {
    let Some(place) = place_for_nobody() else {
        return println!("SKIPPED: only root can become another user, who must be able to run the binary");
    };
    let readable = |name: &str, mode: &str| place.make(name, mode, 3);
    let delete = readable("delete.db", "delete");
    // Owned by another user in a folder that anybody may write: sidecars of ours could be made, and could stay.
    let open_folder = readable("open/wal.db", "wal");
    fs::set_permissions(open_folder.parent().unwrap(), Permissions::from_mode(0o777)).unwrap();
    // Ours, but the folder is not.
    let ours = readable("ours/wal.db", "wal");
    chown(&ours, Some(NOBODY), Some(NOBODY)).unwrap();
    let closed = readable("closed/wal.db", "wal");
    let secret = readable("secret.db", "delete");
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    let mut app = Foreign::open(&readable("live.db", "wal"), "wal");
    app.exec("INSERT INTO t VALUES(4)");

    let before = listing(&place.data());
    let ran = once_as_nobody(&place).expect_code(1);
    for path in [&open_folder, &ours, &closed] {
        let detail = ran.expect_failure(path, "cannot-open-wal");
        assert!(detail.contains("run as"), "{detail}");
    }
    ran.expect_failure(&secret, "unreadable");
    assert_eq!(ran.failure_of(&delete), None);
    assert_eq!((ran.count("stored"), ran.count("failed")), (2, 4), "{ran:#?}");
    assert_eq!(listing(&place.data()), before);
    assert_eq!(place.newest_rows("live.db"), [1, 2, 3, 4], "a live application's own sidecars serve a reader, too");
    assert_eq!(place.newest_rows("delete.db"), [1, 2, 3]);
}

/// T17: a folder that even its owner may not write, as on a read-only mount.
#[test]
fn a_read_only_folder_of_our_own_is_left_as_it_is() {
    let Some(place) = place_for_nobody() else {
        return println!("SKIPPED: only root can become another user, who must be able to run the binary");
    };
    let paths = [place.make("ro/wal.db", "wal", 3), place.make("ro/delete.db", "delete", 3)];
    let folder = paths[0].parent().unwrap();
    paths.iter().map(PathBuf::as_path).chain([folder]).for_each(|p| chown(p, Some(NOBODY), Some(NOBODY)).unwrap());
    fs::set_permissions(folder, Permissions::from_mode(0o555)).unwrap();
    let before = listing(&place.data());
    let ran = once_as_nobody(&place).expect_code(1);
    ran.expect_failure(&paths[0], "cannot-open-wal");
    assert_eq!(ran.count("stored"), 1);
    assert_eq!(listing(&place.data()), before);
}

fn replicate_into(place: &Place, pattern: &str, store: &Path, state: &Path) -> Ran {
    let mut command = place.litesnap(&["replicate", pattern, "--once"]);
    command.arg("--store").arg(store).arg("--state-dir").arg(state);
    Ran::from(command.output().unwrap()).expect_code(0)
}

/// T50, T54: state, temporary copies and folder store lie where the patterns look, under links, too.
#[test]
fn our_own_files_below_the_pattern_are_never_backed_up() {
    for pattern in ["data", "data/**/*.db", "data/**"] {
        let place = Place::new();
        place.make("a.db", "wal", 2);
        let (store, state) = (place.data().join("store"), place.data().join("own.db/state"));
        fs::create_dir_all(&store).unwrap();
        fs::create_dir_all(&state).unwrap();
        symlink(&state, place.data().join("link")).unwrap();
        symlink(&state, place.data().join("link.db")).unwrap();
        // What an earlier version of somebody's backup left in the store looks like a database, too.
        fs::copy(place.db("a.db"), store.join("stray.db")).unwrap();
        assert_eq!(replicate_into(&place, pattern, &store, &state).count("databases"), 1, "{pattern}");
        let again = replicate_into(&place, pattern, &store, &state);
        assert_eq!((again.count("databases"), again.count("requests")), (1, 0), "{pattern}");
        let state_db = fs::read_dir(&state).unwrap().map(|e| e.unwrap().path());
        let state_db = state_db.filter(|p| p.extension().is_some_and(|x| x == "db")).collect::<Vec<_>>();
        assert_eq!(state_db.len(), 1);
        // A link that leads straight to it.
        symlink(&state_db[0], place.data().join("straight.db")).unwrap();
        assert_eq!(replicate_into(&place, pattern, &store, &state).count("databases"), 1, "{pattern}");
    }
}

/// The price of reading for a rollback-journal application: with a busy timeout of a second it is never locked out.
/// Without one it can be, which READING names; how often is printed.
#[test]
fn an_application_with_a_busy_timeout_is_never_locked_out() {
    let place = Place::new();
    let (patient, hasty, open_close) = (place.db("patient.db"), place.db("hasty.db"), place.db("open-close.db"));
    let with = |path: &Path, how: &str| Foreign::start(WRITER, path, &[how]);
    let writers = [with(&patient, "delete,1,1"), with(&hasty, "delete,0,1"), with(&open_close, "wal,1,0")];
    let running = place.start_loop("100ms", &[]);
    let names = ["patient.db", "hasty.db", "open-close.db"];
    let enough = || names.iter().all(|name| place.objects_of(name).len() >= 12);
    assert!(eventually(Duration::from_secs(60), enough));
    for (name, writer) in names.iter().zip(writers) {
        let written = stop_writer(writer, 1)[0];
        let stored = place.objects_of(name).len();
        println!("{name}: {} commits, SQLITE_BUSY {}, {stored} snapshots", written.last, written.busy);
        assert!(*name == "hasty.db" || written.busy == 0, "{name}: locked out {} times", written.busy);
    }
    running.stop().expect_code(0);
}
