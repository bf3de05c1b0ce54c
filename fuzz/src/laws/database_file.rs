//! A database on disk, of whatever bytes, read as a live one is: through SQLite, and at rest, without. Input: which sidecars
//! there are (1 `-wal`, 2 `-journal`, 4 `-shm`), the length of their content (2 bytes), that content, then the main file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use litesnap::budget::Budget;
use litesnap::clock::{Clock, FixedClock, SECOND, SystemClock};
use litesnap::control::Control;
use litesnap::error::{Failure, Reason};
use litesnap::restore::check::{Check, check_file};
use litesnap::snapshot::{Image, Reader, Snapshot};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::{is_one_line, objects};

/// Two folders and two readers, for the whole run.
struct Place {
    live: PathBuf,
    copy: PathBuf,
    through_sqlite: Reader,
    /// An hour ahead: nothing is young.
    at_rest: Reader,
    _dir: tempfile::TempDir,
}

fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("there is room for temporary files");
        let [live, copy] = ["live", "copy"].map(|name| dir.path().join(name));
        for folder in [&live, &copy] {
            std::fs::create_dir(folder).expect("a new folder");
        }
        let open = |name: &str, always_sqlite| {
            let clock = Arc::new(FixedClock::new(SystemClock.now() + 24 * 3600 * SECOND));
            let (budget, control) = (Budget::new(64 << 20), Arc::new(Control::default()));
            Reader::open(&dir.path().join(name), always_sqlite, budget, clock, control).expect("a new folder")
        };
        let (through_sqlite, at_rest) = (open("sqlite", true), open("rest", false));
        Place { live, copy, through_sqlite, at_rest, _dir: dir }
    })
}

pub fn check(data: &[u8]) {
    let [sidecars, low, high, rest @ ..] = data else { return };
    let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let (side, main) = rest.split_at(len);
    let mut files = vec![("a.db", main)];
    let names = [(1, "a.db-wal"), (2, "a.db-journal"), (4, "a.db-shm")];
    files.extend(names.iter().filter(|(bit, _)| sidecars & bit != 0).map(|(_, name)| (*name, side)));
    let place = place();
    fill(&place.live, &files);
    fill(&place.copy, &files);
    let through_sqlite = taken(&place.through_sqlite, &place.live);
    let counted = place.at_rest.reads();
    let at_rest = taken(&place.at_rest, &place.live);
    if let Ok(snapshot) = &through_sqlite {
        as_sqlite_sees_it(snapshot, &place.copy.join("a.db"));
    }
    let is_sound = checked(&place.copy);
    if place.at_rest.reads().direct > counted.direct {
        both_see_the_same(&at_rest, &through_sqlite, is_sound);
    }
}

/// What one reader makes of the database, which it leaves as it is.
fn taken(reader: &Reader, live: &Path) -> Result<Snapshot, Failure> {
    let before = contents(live);
    reader.begin_cycle();
    let taken = reader.take(&live.join("a.db"), None);
    untouched(&before, &contents(live));
    assert_eq!(reader.sidecars_left(), 0);
    if let Err(failure) = &taken {
        is_one_line(&failure.to_string());
    }
    taken
}

/// The check of a restored database changes nothing, either, and says on one line what is wrong. Tells whether the quick
/// one found nothing.
fn checked(copy: &Path) -> bool {
    let before = contents(copy);
    let file = std::fs::File::open(copy.join("a.db")).expect("just made");
    let found = [Check::Quick, Check::Full].map(|check| check_file(file.as_fd(), check));
    found.iter().filter_map(|found| found.as_ref().err()).for_each(|what| is_one_line(what));
    untouched(&before, &contents(copy));
    found[0].is_ok()
}

/// What is read without SQLite is what SQLite would read. A schema that SQLite finds corrupt is stored as it is, for nobody
/// looks into it: then the check of what is stored must find that.
fn both_see_the_same(at_rest: &Result<Snapshot, Failure>, through_sqlite: &Result<Snapshot, Failure>, is_sound: bool) {
    if through_sqlite.as_ref().is_err_and(|failure| failure.reason == Reason::Corrupt) {
        assert!(at_rest.is_ok() && !is_sound, "corrupt, and nothing finds it: {through_sqlite:?}");
        return;
    }
    let seen = |read: &Result<Snapshot, Failure>| {
        let told =
            |s: &Snapshot| (s.content_hash, s.page_size, s.page_count, s.wal_mode, s.schema_version, s.sqlite_version);
        read.as_ref().map(told).map_err(ToString::to_string)
    };
    assert_eq!(seen(at_rest), seen(through_sqlite), "without SQLite, and through it");
}

fn fill(folder: &Path, files: &[(&str, &[u8])]) {
    for entry in std::fs::read_dir(folder).expect("our own") {
        std::fs::remove_file(entry.expect("our own").path()).expect("our own");
    }
    for (name, content) in files {
        std::fs::write(folder.join(name), content).expect("there is room");
    }
}

fn contents(folder: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let entries = std::fs::read_dir(folder).expect("our own").map(|entry| entry.expect("our own"));
    entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).expect("our own"))).collect()
}

/// Reading leaves every file as it was, but for the `-shm`, which SQLite rebuilds from the `-wal` as it likes.
fn untouched(before: &BTreeMap<OsString, Vec<u8>>, after: &BTreeMap<OsString, Vec<u8>>) {
    assert!(before.keys().eq(after.keys()), "{:?} became {:?}", before.keys(), after.keys());
    for (name, content) in before.iter().filter(|(name, _)| *name != "a.db-shm") {
        assert!(after[name] == *content, "{name:?} has changed");
    }
}

/// The snapshot is what SQLite by itself reads from the same files, and has the hash of that.
fn as_sqlite_sees_it(snapshot: &Snapshot, copy: &Path) {
    let Image::Memory(image) = &snapshot.image else { return };
    assert_eq!(image.len() as u64, snapshot.raw_size());
    assert_eq!(objects::pages(image), Some((snapshot.page_size, snapshot.page_count)));
    let owner = [snapshot.stat.uid, snapshot.stat.gid, snapshot.stat.mode & 0o7777];
    let hash = |image: &[u8]| objects::content_hash(image, snapshot.page_count, owner);
    assert_eq!(snapshot.content_hash, hash(image));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let seen = Connection::open_with_flags(copy, flags).and_then(|source| {
        let mut target = Connection::open_in_memory()?;
        let step = Backup::new(&source, &mut target)?.step(-1)?;
        assert_eq!(step, StepResult::Done);
        Ok(target.serialize(rusqlite::MAIN_DB)?.to_vec())
    });
    let seen = seen.expect("what can be read once can be read again");
    assert_eq!(hash(&seen), snapshot.content_hash, "SQLite by itself sees another database");
}
