//! Reading changes nothing about a database: its files look the same before and after, whichever way it is read, whoever
//! reads and whoever has it open.

mod alongside; // applications that work while they are read: never locked out, nothing left behind
mod own; // what is ours is no database to back up
mod rights; // readers that may not write: what is served, what is named, nothing made
mod watched; // nothing happens at any moment in between, either

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use crate::foreign::{Foreign, listing};
use crate::place::{Place, Ran, age};
use crate::ways::{Way, direct, first_run, settle, skipped};

const MODES: [&str; 6] = ["delete", "truncate", "persist", "memory", "off", "wal"];
/// Rows of each database before its state is made.
const ROWS: i64 = 200;

/// What a database's application has done, or is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    AtRest,
    /// What a reader with read-only rights left: an empty `-wal` and a `-shm`; then one of both; an empty `-journal`.
    EmptySidecars,
    EmptyWal,
    LoneShm,
    EmptyJournal,
    /// Connected, its last commit not yet checkpointed.
    Idle,
    /// Connected, and its `-wal` is empty.
    Checkpointed,
    /// In a transaction that has read; that will write; that has written to the files already.
    Reading,
    Reserved,
    Spilled,
    /// In exclusive locking mode.
    Exclusive,
    /// Killed after a commit; the same, and its `-shm` is gone; killed in a transaction that had written to the files.
    Crashed,
    CrashedWithoutShm,
    CrashedSpilled,
}
use State::*;

const FOR_EVERY_MODE: [State; 8] = [AtRest, Idle, Reading, Reserved, Spilled, Exclusive, Crashed, CrashedSpilled];
const FOR_WAL: [State; 5] = [EmptySidecars, EmptyWal, LoneShm, Checkpointed, CrashedWithoutShm];

/// What must come of it.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Rows(i64),
    /// Whatever lies in the file: nobody can know that it is no commit (see `limits`).
    Stored,
    Named(&'static str),
}

/// One database in one state, with its application.
struct Case {
    mode: &'static str,
    state: State,
    name: String,
    _app: Option<Foreign>,
}

const SPILL: &str =
    "PRAGMA cache_size=1; PRAGMA cache_spill=1; BEGIN; UPDATE t SET x=-x; INSERT INTO t SELECT zeroblob(500) FROM t";

impl Case {
    fn make(place: &Place, folder: &str, mode: &'static str, state: State) -> Self {
        let name = format!("{folder}/{mode}-{state:?}.db");
        let path = place.make(&name, mode, u32::try_from(ROWS).unwrap());
        let app = state.begin(&path, mode);
        state.arrange(&path);
        age(&path);
        Self { mode, state, name, _app: app }
    }

    fn is_journalled(&self) -> bool {
        ["delete", "truncate", "persist"].contains(&self.mode)
    }

    fn outcome(&self) -> Outcome {
        match self.state {
            Exclusive => Outcome::Named("held-exclusively"),
            Spilled if self.mode != "wal" => Outcome::Named("held-exclusively"),
            CrashedSpilled if self.is_journalled() => Outcome::Named("hot-journal"),
            CrashedSpilled if self.mode != "wal" => Outcome::Stored,
            Idle | Checkpointed | Crashed | CrashedWithoutShm => Outcome::Rows(ROWS + 1),
            _ => Outcome::Rows(ROWS),
        }
    }

    /// Whether it can be shown from outside that nobody is writing it.
    fn is_at_rest(&self) -> bool {
        match self.state {
            AtRest | Reading | EmptySidecars | EmptyWal | LoneShm | EmptyJournal | Checkpointed => true,
            Idle | Crashed => self.mode != "wal",
            // In WAL mode nothing is written, and no lock of the main file taken, before the commit.
            Reserved => self.mode == "wal",
            _ => false,
        }
    }

    /// Fails unless what was promised of this case is what `ran` did.
    fn check(&self, place: &Place, ran: &Ran, way: Way) {
        let path = place.db(&self.name);
        let what = format!("{way:?}: {}", self.name);
        match self.outcome() {
            Outcome::Named(reason) => {
                ran.expect_failure(&path, reason);
                assert_eq!(place.objects_of(&self.name), [], "{what}");
            }
            outcome => {
                assert_eq!(ran.failure_of(&path), None, "{what}");
                let image = place.objects_of(&self.name).pop().expect(&what).image();
                if let Outcome::Rows(rows) = outcome {
                    let count = "SELECT count(*) FROM t";
                    let found: i64 = place.open_image(&image).query_row(count, [], |r| r.get(0)).unwrap();
                    assert_eq!(found, rows, "{what}");
                }
            }
        }
    }
}

impl State {
    /// The application that brings the database into this state, if one is still alive.
    fn begin(self, path: &Path, mode: &str) -> Option<Foreign> {
        let sql = match self {
            AtRest | EmptySidecars | EmptyWal | LoneShm | EmptyJournal => return None,
            Idle | Crashed | CrashedWithoutShm => "INSERT INTO t VALUES(0)",
            Checkpointed => "INSERT INTO t VALUES(0); PRAGMA wal_checkpoint(TRUNCATE)",
            Reading => "BEGIN; SELECT * FROM t",
            Reserved => "BEGIN IMMEDIATE; INSERT INTO t VALUES(0)",
            Spilled | CrashedSpilled => SPILL,
            Exclusive => "PRAGMA locking_mode=EXCLUSIVE; INSERT INTO t VALUES(0)",
        };
        let mut app = Foreign::open(path, mode);
        app.exec(sql);
        if matches!(self, Crashed | CrashedWithoutShm | CrashedSpilled) {
            app.kill();
            return None;
        }
        Some(app)
    }

    /// What is done to the sidecars besides.
    fn arrange(self, path: &Path) {
        let sidecar = |suffix| litesnap::stamps::sidecar(path, suffix);
        if matches!(self, EmptySidecars | EmptyWal | LoneShm) {
            let reader = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
            reader.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
            drop(reader);
            assert!(sidecar("-wal").exists() && sidecar("-shm").exists());
        }
        match self {
            EmptyWal | CrashedWithoutShm => fs::remove_file(sidecar("-shm")).unwrap(),
            LoneShm => fs::remove_file(sidecar("-wal")).unwrap(),
            EmptyJournal => fs::write(sidecar("-journal"), "").unwrap(),
            _ => {}
        }
    }
}

/// Every state of each of `modes`, below `folder`.
fn cases(place: &Place, folder: &str, modes: &[&'static str]) -> Vec<Case> {
    let mut all = Vec::new();
    for mode in modes {
        let more: &[State] = match *mode {
            "wal" => &FOR_WAL,
            "delete" => &[EmptyJournal],
            _ => &[],
        };
        all.extend(FOR_EVERY_MODE.iter().chain(more).map(|state| Case::make(place, folder, mode, *state)));
    }
    all
}

/// Gives everything below `dir` to somebody else.
fn give_away(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        chown(&path, Some(1234), Some(5678)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    }
}

/// Names of `before` that are gone or look different now, and new ones.
fn differences(place: &Place, before: &std::collections::BTreeMap<PathBuf, String>) -> Vec<String> {
    let after = listing(&place.data());
    let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
    let differ = names.filter(|name| before.get(*name) != after.get(*name));
    differ.map(|name| format!("{}: {:?} -> {:?}", name.display(), before.get(name), after.get(name))).collect()
}

/// T3, T14, T15, T18: all journal modes, at rest, open, in mid-transaction and crashed; also with an owner who is not us;
/// while its stamps are young, and read both ways when they no longer are.
#[test]
fn every_file_looks_the_same_before_and_after() {
    let place = Place::new();
    let mut all = cases(&place, "ours", &MODES);
    if nix::unistd::geteuid().is_root() {
        all.extend(cases(&place, "theirs", &["persist", "wal"]));
        give_away(&place.data().join("theirs"));
    } else {
        skipped("databases of another owner: only root can make them");
    }
    let before = listing(&place.data());
    let young = first_run(&place, Way::Default).expect_code(1);
    assert_eq!(differences(&place, &before), [] as [String; 0], "young");
    all.iter().for_each(|case| case.check(&place, &young, Way::Default));
    settle(&place.data());
    for way in [Way::Default, Way::AlwaysSqlite, Way::Default] {
        let ran = first_run(&place, way).expect_code(1);
        assert_eq!(differences(&place, &before), [] as [String; 0], "{way:?}");
        all.iter().for_each(|case| case.check(&place, &ran, way));
        let at_rest = all.iter().filter(|case| case.is_at_rest()).count();
        assert_eq!(direct(&ran), way.direct(at_rest as u64), "{}", ran.out);
        let again = place.replicate("data/**/*.db", &[&["--once"], way.flags()].concat()).output().unwrap().into();
        assert_eq!(Ran::expect_code(again, 1).count("stored"), 0, "{way:?}");
        assert_eq!(differences(&place, &before), [] as [String; 0], "{way:?}, again");
    }
}
