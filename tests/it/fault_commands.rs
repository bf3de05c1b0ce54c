//! Every file call of the commands that list, verify, restore and prune may fail, once or from then on: what they say is true,
//! a target is the old file or the new one, no good object is called bad, and no newest one goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use litesnap::clock::{Clock, MILLISECOND, SystemClock};
use litesnap::layout::snapshot_key;
use litesnap::timestamp::Timestamp;
use rusqlite::Connection;

use crate::fault_shim::{Fault, Kind, Sweep, Watched, place, replace, watch};
use crate::place::{Place, Ran};

const NAMES: [&str; 3] = ["delete.db", "deep/wal.db", "large.db"];

/// A store with two snapshots of each database, and a folder `kept-back` with their older contents as files.
struct Stored {
    place: Place,
    /// Newest image by target below `back`, and the older one.
    images: BTreeMap<PathBuf, (Vec<u8>, Vec<u8>)>,
}

impl Stored {
    fn new() -> Self {
        let place = place();
        place.make(NAMES[0], "delete", 5);
        place.make(NAMES[1], "wal", 5);
        place.make_random(NAMES[2], 600 << 10);
        place.once().expect_code(0);
        for name in NAMES {
            Connection::open(place.db(name)).unwrap().execute_batch("INSERT INTO t VALUES(7)").unwrap();
        }
        place.once().expect_code(0);
        let image = |name: &str| {
            let target = place.data().join(name).strip_prefix("/").unwrap().to_owned();
            let [older, newer] = &place.objects_of(name)[..] else { panic!("two snapshots of {name}") };
            (target, (newer.image(), older.image()))
        };
        let images = NAMES.map(image).into_iter().collect();
        let stored = Self { place, images };
        replace(&stored.place.store(), &stored.kept("store"));
        stored
    }

    fn kept(&self, what: &str) -> PathBuf {
        self.place.path().join(format!("kept-{what}"))
    }

    fn back(&self) -> PathBuf {
        self.place.path().join("back")
    }

    /// From now on each run begins with the older contents in place, one of them with commits in a `-wal` beside it.
    fn keep_targets(&self) {
        for (target, (_, older)) in &self.images {
            let path = self.kept("back").join(target);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, older).unwrap();
            if target.ends_with("wal.db") {
                fs::write(path.with_extension("db-wal"), OLD_WAL).unwrap();
            }
        }
    }

    fn reset(&self) {
        replace(&self.kept("store"), &self.place.store());
        replace(&self.kept("back"), &self.back());
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.place.run(args)
    }

    /// Each target is the old file, with what belonged to it, or the new one; returns how many are new.
    fn check_targets(&self, what: &str) -> usize {
        let is_new = |(target, (newer, older)): (&PathBuf, &(Vec<u8>, Vec<u8>))| {
            let path = self.back().join(target);
            let (wal, had_wal) = (fs::read(path.with_extension("db-wal")).ok(), self.kept("back").exists());
            let had_wal = had_wal && target.ends_with("wal.db");
            match fs::read(&path) {
                Ok(there) if there == *newer => {
                    assert_eq!(wal, None, "{what}: the new {} beside the old one's log", path.display());
                    true
                }
                Ok(there) => {
                    assert!(there == *older, "{what}: {} is neither old nor new", path.display());
                    let kept = wal.as_deref() == Some(OLD_WAL) || !names(&self.back(), ASIDE).is_empty();
                    assert!(kept || !had_wal, "{what}: {} has lost its log", path.display());
                    false
                }
                Err(e) => {
                    assert!(!self.kept("back").exists(), "{what}: {}: {e}", path.display());
                    false
                }
            }
        };
        self.images.iter().map(is_new).filter(|new| *new).count()
    }

    fn sweep(&self, name: &str, folder: &Path, code: i32, args: &[&str], check: &dyn Fn(&Watched, &str)) {
        let command = || -> Command { self.place.litesnap(args) };
        let (folder, reset) = (folder.to_owned(), || self.reset());
        let sweep = Sweep { name, folder, families: &[], sample: 3, code, reset: &reset, command: &command, check };
        assert!(sweep.run() > 20, "{name}: hardly a call was made to fail");
    }
}

const OLD_WAL: &[u8] = b"what somebody committed";
const ASIDE: &str = ".litesnap-aside-";

/// Files below `dir` in whose names `part` occurs.
fn names(dir: &Path, part: &str) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for path in fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().path()) {
        if path.is_dir() {
            all.extend(names(&path, part));
        } else if path.file_name().unwrap().to_str().unwrap().contains(part) {
            all.push(path);
        }
    }
    all
}

#[test]
fn any_call_of_a_restore_may_fail_and_each_target_is_the_old_file_or_the_new_one() {
    let stored = Stored::new();
    let args = ["restore", "--store", "store", "--into", "back", "--force"];
    let check = |watched: &Watched, what: &str| {
        let new = stored.check_targets(what);
        assert!(watched.ran.code != Some(0) || new == NAMES.len(), "{what}: exit code 0: {:#?}", watched.ran);
        let again = stored.run(&args);
        assert_eq!(again.code, Some(0), "{what}: {:#?}, and then {again:#?}", watched.ran);
        assert_eq!(stored.check_targets(what), NAMES.len(), "{what}");
        assert_eq!(names(&stored.back(), "").len(), NAMES.len(), "{what}: {:?}", names(&stored.back(), ""));
    };
    stored.sweep("restore from a store", &stored.place.store(), 0, &args, &check);
    stored.sweep("restore into nothing", &stored.back(), 0, &args, &check);
    stored.keep_targets();
    stored.sweep("restore over what is there", &stored.back(), 0, &args, &check);
}

#[test]
fn any_call_of_a_verify_may_fail_and_nothing_good_is_called_bad() {
    let stored = Stored::new();
    let args = ["verify", "--store", "store", "--all"];
    for is_bad in [false, true] {
        let bad = stored.place.objects_of(NAMES[0]).remove(0);
        if is_bad {
            fs::write(stored.kept("store").join(&bad.key), &bad.bytes[..bad.bytes.len() / 2]).unwrap();
        }
        let marker = stored.place.store().join(format!("{}.bad", bad.key));
        let check = |watched: &Watched, what: &str| {
            // Not what a put that did not end left of one.
            let mut marked = names(&stored.place.store(), ".bad");
            marked.retain(|path| path.extension().is_some_and(|x| x == "bad"));
            assert!(marked.iter().all(|m| is_bad && *m == marker), "{what}: {marked:?}: {:#?}", watched.ran);
            assert!(watched.ran.code != Some(0) || !is_bad, "{what}: {:#?}", watched.ran);
            // What it did not look at is no success either.
            assert!(watched.ran.code != Some(0) || watched.ran.count("checked") == 6, "{what}: {:#?}", watched.ran);
            let again = stored.run(&args);
            assert_eq!(again.code, Some(i32::from(is_bad)), "{what}: {again:#?}");
            assert_eq!(marker.exists(), is_bad, "{what}");
        };
        let name = if is_bad { "verify, one of them bad" } else { "verify" };
        stored.sweep(name, &stored.place.store(), i32::from(is_bad), &args, &check);
    }
}

/// What looks like the end of an object, once, is the transfer's fault: it is fetched once more before it is called bad.
#[test]
fn any_read_of_a_verify_may_end_early_once_and_nothing_is_called_bad() {
    let stored = Stored::new();
    let run = |fault| {
        watch(stored.place.litesnap(&["verify", "--store", "store", "--all"]), &stored.place.store(), "read", fault)
    };
    let reads = run(None).calls.len();
    assert!(reads >= 6, "{reads}");
    for at in 1..=reads {
        let watched = run(Some(Fault { family: "read", kind: Kind::End, at, on: false }));
        assert_eq!((watched.ran.code, watched.ran.count("good")), (Some(0), 6), "read {at}: {:#?}", watched.ran);
        assert_eq!(names(&stored.place.store(), ".bad"), [] as [PathBuf; 0], "read {at}");
    }
}

#[test]
fn any_call_of_a_listing_may_fail_and_what_is_shown_is_all_there_is() {
    let stored = Stored::new();
    let args = ["list", "--store", "store", "--json"];
    // An age is another in each second.
    let rows = |ran: &Ran| -> Vec<serde_json::Value> {
        let mut rows: Vec<_> =
            ran.out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect();
        rows.iter_mut().for_each(|row| drop(row.as_object_mut().unwrap().remove("age_s")));
        rows
    };
    let all = rows(&stored.run(&args).expect_code(0));
    assert_eq!(all.len(), NAMES.len());
    let check = |watched: &Watched, what: &str| {
        let ran = &watched.ran;
        assert!(ran.code != Some(0) || rows(ran) == all, "{what}: exit code 0: {ran:#?}");
        assert!(ran.code == Some(0) || !ran.err.is_empty(), "{what}: it does not say why: {ran:#?}");
    };
    stored.sweep("list", &stored.place.store(), 0, &args, &check);
}

#[test]
fn any_call_of_a_prune_may_fail_and_the_newest_stays() {
    let stored = Stored::new();
    // Prune reads no content.
    let now_ms = SystemClock.now() / MILLISECOND;
    let key = |name: &str, hours: i64| snapshot_key(name, Timestamp::from_ms(now_ms - hours * 3_600_000).unwrap());
    let (mut newest, mut all) = (BTreeSet::new(), 0);
    fs::remove_dir_all(stored.kept("store")).unwrap();
    for name in ["a.db", "b/c.db", "b/d.db"] {
        for hours in 1..=4 {
            let path = stored.kept("store").join(key(name, hours));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "content").unwrap();
            all += 1;
        }
        newest.insert(key(name, 1));
    }
    let left = || -> BTreeSet<String> { stored.place.objects().into_iter().map(|object| object.key).collect() };
    let args = ["prune", "--store", "store", "--keep-last", "1"];
    let check = |watched: &Watched, what: &str| {
        let there = left();
        assert!(newest.is_subset(&there), "{what}: a newest one is gone: {:#?}", watched.ran);
        assert!(watched.ran.code != Some(0) || there == newest, "{what}: exit code 0: {:#?}", watched.ran);
        if watched.ran.out.contains("removed=") {
            // Said to be removed is removed; a delete that failed after all is a lie in the safe direction, and none here.
            assert_eq!(
                usize::try_from(watched.ran.count("removed")).unwrap() + there.len(),
                all,
                "{what}: {:#?}",
                watched.ran
            );
        }
        stored.run(&args).expect_code(0);
        assert_eq!(left(), newest, "{what}");
    };
    stored.sweep("prune", &stored.place.store(), 0, &args, &check);
}
