//! Readers that may not write beside a database, or write at all: databases at rest are read all the same; through
//! SQLite those in WAL mode are named, with what to grant. Nothing is made.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::{Case, MODES, State};
use crate::foreign::{Foreign, listing};
use crate::place::{Place, Ran};
use crate::ways::{Way, direct, first_command, first_run, settle, skipped};

const NOBODY: u32 = 65_534;

/// One pass, with everything to learn, as a user who owns nothing here but state and store.
fn first_run_as_nobody(place: &Place, way: Way) -> Ran {
    let mut command = first_command(place, way);
    for own in [place.state(), place.store()] {
        fs::create_dir(&own).unwrap();
        chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    command.uid(NOBODY).gid(NOBODY);
    command.output().unwrap().into()
}

/// A place that NOBODY can walk through, or `None`, said aloud, where we cannot become NOBODY.
fn place_for_nobody() -> Option<Place> {
    let place = Place::new();
    let able = nix::unistd::geteuid().is_root() && {
        fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
        let mut binary = Command::new(env!("CARGO_BIN_EXE_litesnap"));
        binary.arg("--version").uid(NOBODY).gid(NOBODY);
        binary.output().is_ok_and(|ran| ran.status.success())
    };
    if !able {
        skipped("only root can become another user, who must be able to run the binary");
    }
    able.then_some(place)
}

/// Gives the files and their folder to NOBODY.
fn give_to_nobody(paths: &[&Path]) {
    paths.iter().for_each(|path| chown(path, Some(NOBODY), Some(NOBODY)).unwrap());
}

/// A database no reader can know to be at rest: its stamps are of tomorrow.
fn make_doubtful(place: &Place, name: &str) -> PathBuf {
    let path = place.make(name, "wal", 3);
    let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
    fs::File::options().write(true).open(&path).unwrap().set_modified(tomorrow).unwrap();
    path
}

/// T17, T18: what may be read is stored. Through SQLite a WAL database at rest would need files made beside it, which
/// would then belong to us and lock its application out.
#[test]
fn without_the_right_to_write_nothing_is_made_and_what_to_grant_is_said() {
    let Some(place) = place_for_nobody() else { return };
    let readable = |name: &str, mode: &str| place.make(name, mode, 3);
    let delete = readable("delete.db", "delete");
    // Owned by another user in a folder that anybody may write: sidecars of ours could be made, and could stay.
    let open_folder = readable("open/wal.db", "wal");
    fs::set_permissions(open_folder.parent().unwrap(), Permissions::from_mode(0o777)).unwrap();
    // Ours, but the folder is not.
    let ours = readable("ours/wal.db", "wal");
    give_to_nobody(&[&ours]);
    let closed = readable("closed/wal.db", "wal");
    let doubtful = make_doubtful(&place, "doubtful.db");
    let secret = readable("secret.db", "delete");
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    let mut app = Foreign::open(&readable("live.db", "wal"), "wal");
    app.exec("INSERT INTO t VALUES(4)");
    settle(&place.data());

    let before = listing(&place.data());
    for way in Way::BOTH {
        let ran = first_run_as_nobody(&place, way).expect_code(1);
        for path in [&open_folder, &ours, &closed] {
            match way {
                Way::Default => assert_eq!(ran.failure_of(path), None, "{ran:#?}"),
                Way::AlwaysSqlite => assert!(ran.expect_failure(path, "cannot-open-wal").contains("run as")),
            }
        }
        ran.expect_failure(&doubtful, "cannot-open-wal");
        ran.expect_failure(&secret, "unreadable");
        assert_eq!(ran.failure_of(&delete), None);
        let expected = if way == Way::Default { (5, 2, 4) } else { (2, 5, 0) };
        assert_eq!((ran.count("stored"), ran.count("failed"), direct(&ran)), expected, "{ran:#?}");
        assert_eq!(listing(&place.data()), before);
        assert_eq!(place.newest_rows("live.db"), [1, 2, 3, 4], "a live application's own sidecars serve a reader, too");
        assert_eq!(place.newest_rows("delete.db"), [1, 2, 3]);
    }
}

/// T17: a folder that even its owner may not write.
#[test]
fn a_read_only_folder_of_our_own_is_left_as_it_is() {
    let Some(place) = place_for_nobody() else { return };
    let paths = [place.make("ro/wal.db", "wal", 3), place.make("ro/delete.db", "delete", 3)];
    let folder = paths[0].parent().unwrap();
    give_to_nobody(&[&paths[0], &paths[1], folder]);
    fs::set_permissions(folder, Permissions::from_mode(0o555)).unwrap();
    settle(&place.data());
    let before = listing(&place.data());
    let ran = first_run_as_nobody(&place, Way::Default).expect_code(0);
    assert_eq!((ran.count("stored"), direct(&ran)), (2, 2));
    assert_eq!(place.newest_rows("ro/wal.db"), [1, 2, 3]);
    assert_eq!(listing(&place.data()), before);
    let ran = first_run_as_nobody(&place, Way::AlwaysSqlite).expect_code(1);
    ran.expect_failure(&paths[0], "cannot-open-wal");
    assert_eq!(ran.count("stored"), 1);
    assert_eq!(listing(&place.data()), before);
}

/// The data folder, mounted over itself read-only, in a mount namespace of this thread and what it starts.
struct ReadOnly(PathBuf);

impl ReadOnly {
    /// `None`, said aloud, where this user may not mount.
    fn over(dir: &Path) -> Option<Self> {
        let none = None::<&str>;
        let mounted = unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
            .and_then(|()| mount(Some(dir), dir, none, MsFlags::MS_BIND, none))
            .map(|()| Self(dir.to_owned()))
            .and_then(|guard| {
                let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
                mount(none, dir, none, flags, none).map(|()| guard)
            });
        if let Err(e) = &mounted {
            skipped(&format!("cannot mount: {e}"));
        }
        mounted.ok()
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

/// What SQLite can do on a read-only mount with a WAL-mode database: nothing without its `-shm`, which it cannot make.
fn is_named_there(case: &Case) -> bool {
    case.mode == "wal" && matches!(case.state, State::AtRest | State::EmptyWal | State::LoneShm)
}

/// T17: a volume that is mounted read-only where litesnap runs, while applications have it elsewhere.
#[test]
fn on_a_read_only_mount_databases_at_rest_are_served_and_the_others_named() {
    let place = Place::new();
    let mut cases: Vec<Case> = MODES.map(|mode| Case::make(&place, "at-rest", mode, State::AtRest)).into();
    let more = [
        State::EmptySidecars,
        State::EmptyWal,
        State::LoneShm,
        State::Checkpointed,
        State::Idle,
        State::Reading,
        State::Crashed,
    ];
    cases.extend(more.map(|state| Case::make(&place, "wal", "wal", state)));
    cases.push(Case::make(&place, "live", "delete", State::Idle));
    let lost = Case::make(&place, "crashed", "wal", State::CrashedWithoutShm);
    let lost = place.db(&lost.name);
    settle(&place.data());
    let Some(_mounted) = ReadOnly::over(&place.data()) else { return };
    let refused = fs::write(place.data().join("x"), "").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);

    let before = listing(&place.data());
    for way in Way::BOTH {
        let ran = first_run(&place, way).expect_code(1);
        ran.expect_failure(&lost, "cannot-open-wal");
        for case in &cases {
            if way == Way::AlwaysSqlite && is_named_there(case) {
                ran.expect_failure(&place.db(&case.name), "cannot-open-wal");
            } else {
                case.check(&place, &ran, way);
            }
        }
        let at_rest = cases.iter().filter(|case| case.is_at_rest()).count();
        assert_eq!(direct(&ran), way.direct(at_rest as u64), "{}", ran.out);
        assert_eq!(listing(&place.data()), before);
    }
}
