//! Every file call of a replicating process may fail, once or from then on: what it claims is stored, what it says is true,
//! the databases are as they were, and the next run makes everything right.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use litesnap::clock::{Clock, SECOND, SystemClock};
use litesnap::content::{ContentHash, ContentHasher};
use litesnap::layout::{KeyKind, Timestamp, parse_key, snapshot_key};
use litesnap::stamps::FileStat;
use nix::errno::Errno;
use rusqlite::{Connection, OpenFlags};

use crate::fault_shim::{Fault, Kind, Sweep, Watched, look, place, preload, replace};
use crate::place::{Place, Ran, Running, content, eventually};

/// Databases of every format in a place, a state and a store to begin with, and what each database may be stored as.
pub(crate) struct Fleet {
    pub(crate) place: Place,
    /// Below `data`, as they are now.
    names: Vec<String>,
    /// Names that were there when the state to begin with was made, and are no more.
    gone: Vec<String>,
    /// Content before and now, by key prefix.
    known: BTreeMap<String, Vec<ContentHash>>,
    before: Vec<String>,
    reading: &'static [&'static str],
    /// An application that has its database open, with commits that lie in the `-wal` alone.
    _live: Connection,
}

/// By key prefix: key and content of the newest snapshot that the state believes in; none if it believes the database gone.
type Claims = BTreeMap<String, Option<(String, ContentHash)>>;

/// Read as whatever is fit for it, or all through SQLite.
const ANY: &[&str] = &[];
const SQLITE: &[&str] = &["--always-sqlite"];
/// And pruned and verified behind it.
const UPKEEP: &[&str] = &["--keep-last", "1", "--verify-every", "1d", "--sample", "100%"];

impl Fleet {
    /// Nothing is stored yet.
    pub(crate) fn new(reading: &'static [&'static str]) -> Self {
        let place = place();
        for (name, mode) in
            [("delete.db", "delete"), ("rest.db", "wal"), ("persist.db", "persist"), ("owned.db", "wal")]
        {
            place.make(name, mode, 5);
        }
        fs::set_permissions(place.db("owned.db"), fs::Permissions::from_mode(0o640)).unwrap();
        if nix::unistd::geteuid().is_root() {
            chown(place.db("owned.db"), Some(1234), Some(5678)).unwrap();
        }
        // Above an eighth of half the smallest memory limit: it goes through a temporary copy. Its object is small all the same.
        let large = place.make("deep/er/large.db", "delete", 5);
        Connection::open(&large).unwrap().execute_batch("INSERT INTO t VALUES(zeroblob(2500000))").unwrap();
        let live = Connection::open(place.make("live.db", "wal", 5)).unwrap();
        live.execute_batch("PRAGMA wal_autocheckpoint = 0; INSERT INTO t VALUES(6)").unwrap();
        let names = ["delete.db", "rest.db", "persist.db", "owned.db", "deep/er/large.db", "live.db"];
        let names = names.map(str::to_owned).to_vec();
        let (gone, known, before) = (Vec::new(), BTreeMap::new(), Vec::new());
        let mut fleet = Self { place, names, gone, known, before, reading, _live: live };
        fleet.settle();
        fleet
    }

    /// The same after a first run, since which half of the databases have changed and one is gone.
    pub(crate) fn later(reading: &'static [&'static str]) -> Self {
        let mut fleet = Self::new(reading);
        fleet.place.make("gone.db", "delete", 2);
        fleet.once().expect_code(0);
        fleet.keep();
        for name in ["delete.db", "rest.db", "owned.db"] {
            let conn = Connection::open(fleet.place.db(name)).unwrap();
            conn.execute_batch("INSERT INTO t VALUES(7)").unwrap();
        }
        fs::remove_file(fleet.place.db("gone.db")).unwrap();
        fleet.gone.push(fleet.prefix("gone.db"));
        fleet.settle();
        fleet
    }

    fn prefix(&self, name: &str) -> String {
        self.place.data().join(name).strip_prefix("/").unwrap().to_str().unwrap().to_owned()
    }

    fn state_to_begin_with(&self) -> PathBuf {
        self.place.path().join("kept-state")
    }

    fn store_to_begin_with(&self) -> PathBuf {
        self.place.path().join("kept-store")
    }

    /// What state and store hold now is what each run begins with.
    fn keep(&self) {
        replace(&self.place.state(), &self.state_to_begin_with());
        replace(&self.place.store(), &self.store_to_begin_with());
    }

    pub(crate) fn reset(&self) {
        replace(&self.state_to_begin_with(), &self.place.state());
        replace(&self.store_to_begin_with(), &self.place.store());
    }

    /// Learns what each database is stored as now, and what their files look like; waits until no stamp is young, so that
    /// databases at rest are read without SQLite. That needs a real clock: the change time of a file cannot be set.
    fn settle(&mut self) {
        let young = SystemClock.now();
        while SystemClock.now() < young + 2 * SECOND + SECOND / 4 {
            std::thread::park_timeout(Duration::from_millis(50));
        }
        self.once().expect_code(0);
        for (key, hash, image) in self.stored() {
            let known = self.known.entry(parse_key(&key).unwrap().prefix.to_owned()).or_default();
            if !known.contains(&hash) {
                known.push(hash);
            }
            // That it can be read proves little: each has the row that its writer committed.
            drop(content(&self.place.open_image(&image)));
        }
        for name in &self.names {
            let newest = self.place.objects_of(name).pop().unwrap().image();
            let uri = format!("file:{}?mode=ro", self.place.db(name).display());
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            if name != "live.db" {
                let now = Connection::open_with_flags(uri.replace("mode=ro", "mode=ro&immutable=1"), flags).unwrap();
                assert!(content(&now) == content(&self.place.open_image(&newest)), "{name}");
            }
        }
        self.reset();
        self.before = look(&self.place.data());
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = self.place.replicate("data/**/*.db", &["--once", "--memory-limit", "32MiB"]);
        command.args(self.reading);
        command
    }

    pub(crate) fn once(&self) -> Ran {
        self.command().output().unwrap().into()
    }

    /// Key, content hash and image of every object; each decodes, or the test fails.
    fn stored(&self) -> Vec<(String, ContentHash, Vec<u8>)> {
        let snapshots = self.place.objects().into_iter().filter(|object| object.key.ends_with(".lz4"));
        let decoded = |object: crate::place::Object| {
            let mut image = Vec::new();
            let description = litesnap::object::decode(&object.bytes[..], Some(&object.key), &mut image)
                .unwrap_or_else(|e| panic!("{}: {e}", object.key));
            (object.key, description.content_hash, image)
        };
        snapshots.map(decoded).collect()
    }

    /// What the state claims: key prefix and content of each database it believes stored and not gone; nothing of one whose last
    /// upload may or may not be there. Read from a copy, so that looking changes nothing.
    fn claims(&self) -> Claims {
        let copy = self.place.path().join("copy-of-state");
        replace(&self.place.state(), &copy);
        let dbs = fs::read_dir(&copy).into_iter().flatten().map(|e| e.unwrap().path());
        let Some(db) = dbs.filter(|p| p.extension().is_some_and(|x| x == "db")).max() else { return BTreeMap::new() };
        let conn = Connection::open(db).unwrap();
        let sql = "SELECT path, key_ms, content_hash, gone_s IS NOT NULL FROM databases
             WHERE key_ms IS NOT NULL AND (content_hash IS NOT NULL OR gone_s IS NOT NULL)";
        // A state that has no tables yet claims nothing.
        let Ok(mut rows) = conn.prepare(sql) else { return BTreeMap::new() };
        let claim = |row: &rusqlite::Row<'_>| {
            let (path, ms): (String, i64) = (row.get(0)?, row.get(1)?);
            let prefix = path.trim_start_matches('/').to_owned();
            let key = snapshot_key(&prefix, Timestamp::from_ms(ms).unwrap());
            Ok((prefix, if row.get(3)? { None } else { Some((key, ContentHash(row.get(2)?))) }))
        };
        rows.query_map([], claim).unwrap().map(Result::unwrap).collect()
    }

    /// Keys of databases that the store calls gone.
    fn buried(&self) -> Vec<String> {
        let keys: Vec<String> = self.place.objects().into_iter().map(|object| object.key).collect();
        let tombstones = keys.iter().filter_map(|key| parse_key(key).filter(|key| key.kind == KeyKind::Tombstone));
        tombstones.map(|key| key.prefix.to_owned()).collect()
    }

    /// How many claims the state makes, and which of them are not true: the object is missing, damaged, or holds something else.
    /// What is not claimed may be anything.
    pub(crate) fn claimed(&self) -> (usize, Vec<String>) {
        let (claims, buried) = (self.claims(), self.buried());
        let wrong = claims.iter().filter_map(|(prefix, claim)| match claim {
            None => (!buried.contains(prefix)).then(|| format!("{prefix} is recorded as gone without a tombstone")),
            Some((key, hash)) => self.wrong_with(key, *hash),
        });
        (claims.len(), wrong.collect())
    }

    fn wrong_with(&self, key: &str, hash: ContentHash) -> Option<String> {
        let decoded = fs::read(self.place.store().join(key)).map_err(|e| e.to_string());
        let decoded = decoded.and_then(|object| {
            litesnap::object::decode(&object[..], Some(key), &mut Vec::new()).map_err(|e| e.to_string())
        });
        match decoded {
            Ok(description) if description.content_hash == hash => {
                let known = &self.known[parse_key(key).unwrap().prefix];
                (!known.contains(&hash)).then(|| format!("{key} was never committed like that"))
            }
            Ok(_) => Some(format!("{key} is claimed with another content")),
            Err(e) => Some(format!("{key} is claimed, but: {e}")),
        }
    }

    /// Whether the state claims all that is there now to be stored, and all that is gone to be called so.
    pub(crate) fn is_all_claimed(&self) -> bool {
        self.all_claimed(&self.claims(), &self.buried())
    }

    fn all_claimed(&self, claims: &Claims, buried: &[String]) -> bool {
        let is_claimed = |name: &String| {
            let prefix = self.prefix(name);
            let claim = claims.get(&prefix).and_then(Option::as_ref);
            claim.is_some_and(|(_, hash)| self.known[&prefix].last() == Some(hash))
        };
        self.names.iter().all(is_claimed) && self.gone.iter().all(|prefix| buried.contains(prefix))
    }

    /// Every object is a state that was committed, every claim is of one of them, and nothing is called gone that is not. Returns
    /// whether the state claims all that is there now.
    fn check_truth(&self, what: &str) -> bool {
        let stored = self.stored();
        for (key, hash, _) in &stored {
            let prefix = parse_key(key).unwrap().prefix;
            assert!(self.known[prefix].contains(hash), "{what}: {key} was never committed");
        }
        let (claims, buried) = (self.claims(), self.buried());
        assert!(buried.iter().all(|prefix| self.gone.contains(prefix)), "{what}: called gone: {buried:?}");
        for (prefix, claim) in &claims {
            let is_so = match claim {
                Some((key, hash)) => {
                    stored.iter().any(|(k, h, _)| (k, h) == (key, hash)) || self.is_outlived(key, &stored)
                }
                None => buried.contains(prefix),
            };
            assert!(is_so, "{what}: {prefix} is claimed, but not stored: {claim:?}");
        }
        self.all_claimed(&claims, &buried)
    }

    /// A newer snapshot was stored that could not be recorded, and pruning let the recorded one go for it: its database still counts
    /// as changed.
    fn is_outlived(&self, key: &str, stored: &[(String, ContentHash, Vec<u8>)]) -> bool {
        let (prefix, now) = (parse_key(key).unwrap().prefix, |prefix: &str| self.known[prefix].last().copied());
        let newest = stored.iter().rfind(|(k, ..)| parse_key(k).is_some_and(|k| k.prefix == prefix));
        self.reading == UPKEEP && newest.is_some_and(|(k, hash, _)| k.as_str() > key && Some(*hash) == now(prefix))
    }

    /// Commits one row more to each of `names`, which count as known from then on.
    pub(crate) fn commit(&mut self, names: &[&str]) {
        for name in names {
            Connection::open(self.place.db(name)).unwrap().execute_batch("INSERT INTO t VALUES(7)").unwrap();
            let hash = litesnap_hash(&self.place.db(name));
            let prefix = self.prefix(name);
            self.known.get_mut(&prefix).unwrap().push(hash);
        }
    }

    /// What must hold after a run in which calls failed, and that the next one makes everything right.
    pub(crate) fn check(&self, watched: &Watched, what: &str) {
        let all = self.check_truth(what);
        assert!(watched.ran.code != Some(0) || all, "{what}: exit code 0, and not all is stored: {:#?}", watched.ran);
        let after = look(&self.place.data());
        assert!(self.before.iter().all(|file| after.contains(file)), "{what}: {:#?} became {after:#?}", self.before);
        let strays: Vec<&String> = after.iter().filter(|file| !self.before.contains(file)).collect();
        assert!(strays.iter().all(|file| file.contains(".db-wal ") || file.contains(".db-shm ")), "{what}: {strays:?}");
        let clean = self.once();
        assert_eq!(clean.code, Some(0), "{what}: {:#?}, and then {clean:#?}", watched.ran);
        assert!(self.check_truth(what), "{what}: the next run did not store all: {clean:#?}");
        let after = look(&self.place.data());
        assert!(after == self.before, "{what}: left behind: {after:#?}; {:#?}, and then {clean:#?}", watched.ran);
        assert_eq!(self.place.temp_copies(), 0, "{what}");
    }

    fn sweep(&self, name: &str, folder: &Path, sample: usize) -> usize {
        let sweep = Sweep {
            name,
            folder: folder.to_owned(),
            families: &[],
            sample,
            code: 0,
            reset: &|| self.reset(),
            command: &|| self.command(),
            check: &|watched, what| self.check(watched, what),
        };
        sweep.run()
    }
}

/// The hash of the content of a database at rest, as a snapshot of it has it.
fn litesnap_hash(path: &Path) -> ContentHash {
    let (bytes, stat) = (fs::read(path).unwrap(), FileStat::from(&fs::metadata(path).unwrap()));
    let page_size = match u16::from_be_bytes([bytes[16], bytes[17]]) {
        1 => 65_536,
        size => u32::from(size),
    };
    let mut hasher = ContentHasher::new(page_size, u32::try_from(bytes.len()).unwrap() / page_size);
    hasher.update(&bytes);
    hasher.finish(stat.uid, stat.gid, stat.mode).unwrap()
}

#[test]
fn any_call_on_the_databases_may_fail_when_they_are_read_through_sqlite() {
    let fleet = Fleet::new(SQLITE);
    assert!(fleet.sweep("databases, through SQLite", &fleet.place.data(), 3) > 50);
}

#[test]
fn any_call_on_the_databases_may_fail_when_those_at_rest_are_read_without_sqlite() {
    let fleet = Fleet::later(ANY);
    assert!(fleet.sweep("databases, at rest", &fleet.place.data(), 3) > 50);
}

#[test]
fn any_call_on_the_state_may_fail_when_there_is_none_yet() {
    let fleet = Fleet::new(ANY);
    assert!(fleet.sweep("a new state", &fleet.place.state(), 3) > 50);
}

#[test]
fn any_call_on_the_state_may_fail_when_there_is_one() {
    let fleet = Fleet::later(SQLITE);
    assert!(fleet.sweep("a state", &fleet.place.state(), 3) > 50);
}

#[test]
fn any_call_on_a_folder_store_may_fail() {
    for (name, fleet) in [("a new store", Fleet::new(ANY)), ("a store", Fleet::later(ANY))] {
        assert!(fleet.sweep(name, &fleet.place.store(), 2) > 20);
    }
}

#[test]
fn any_call_on_the_state_may_fail_while_it_is_pruned_and_verified() {
    let fleet = Fleet::later(UPKEEP);
    // Both are due.
    let kept = fs::read_dir(fleet.state_to_begin_with()).unwrap().map(|entry| entry.unwrap().path());
    let state = kept.into_iter().find(|path| path.extension().is_some_and(|x| x == "db")).unwrap();
    Connection::open(state).unwrap().execute_batch("DELETE FROM meta WHERE name LIKE 'last_%'").unwrap();
    let sweep = Sweep {
        name: "beside the loop",
        folder: fleet.place.state(),
        families: &["open", "write", "sync", "lock"],
        sample: 3,
        code: 0,
        reset: &|| fleet.reset(),
        command: &|| fleet.command(),
        check: &|watched, what| {
            let left = fleet.place.objects_of("delete.db").len();
            assert!(watched.ran.code != Some(0) || left == 1, "{what}: {left} left: {:#?}", watched.ran);
            fleet.check(watched, what);
        },
    };
    assert!(sweep.run() > 20);
}

/// A `-wal` that could not be removed once is not there for good: in a loop the next cycle removes it, without a restart.
#[test]
fn what_could_not_be_removed_beside_a_database_is_removed_in_the_next_cycle() {
    let place = place();
    let path = place.make("a.db", "wal", 1);
    let before = look(&place.data());
    let mut command = place.replicate("data/**/*.db", &["--interval", "100ms", "--always-sqlite"]);
    let log = place.path().join("calls");
    let fault = Fault { family: "unlink", kind: Kind::Errno(Errno::EIO), at: 1, on: false };
    preload(&mut command, &[&place.data()], "unlink", &log, Some(fault));
    let running = Running::start(command);
    let calls = || fs::read_to_string(&log).unwrap_or_default();
    assert!(eventually(Duration::from_secs(30), || calls().lines().count() >= 3), "{}", calls());
    let ran = running.stop().expect_code(0);
    assert!(calls().starts_with('!') && ran.err.contains("cannot remove"), "{}, {ran:#?}", calls());
    assert_eq!(look(&place.data()), before, "{}", path.display());
}
