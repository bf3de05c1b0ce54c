//! A store or a state that fails: nothing is recorded that is not stored, everything is stored in the end, and every
//! limit holds meanwhile.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use litesnap::clock::SystemClock;
use litesnap::config::{Config, parse_patterns};
use litesnap::control::Control;
use litesnap::cycle::Silent;
use litesnap::error::Reason;
use litesnap::layout::{Timestamp, snapshot_key};
use litesnap::replicate::{Replicator, store_error};
use litesnap::report::CycleReport;
use litesnap::store::{Patience, Store, StoreOptions};
use object_store::{ObjectStoreExt, PutMode};
use rusqlite::Connection;

use crate::flaky::{Fate, Flaky, Op};
use crate::place::{Place, age, content};
use crate::s3_server::{Fault, S3Server};

const MIB: u64 = 1 << 20;
const QUICK: Patience = Patience { silent: Duration::from_millis(400), busy: Duration::from_secs(2) };

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Every database below the data folder, into the store at `url`, with the smallest memory limit there is.
pub(crate) fn config(place: &Place, url: &str) -> Config {
    // Long enough for a part of 8 MiB on a loaded machine: a test of silence sets its own.
    let store = StoreOptions { patience: QUICK, request_timeout: Duration::from_secs(20), ..StoreOptions::new(url) };
    Config {
        patterns: parse_patterns(&["data/**/*.db"], place.path()).unwrap(),
        host: "host".into(),
        state_dir: place.state(),
        memory_limit: 32 * MIB,
        ..Config::new(store)
    }
}

/// A place with a store in which calls fail on demand. The store outlives every process (replicator).
struct Rig {
    place: Place,
    /// The store as it is.
    store: Store,
    /// The store as the replicator meets it.
    flaky: Flaky,
    config: Config,
    control: Arc<Control>,
}

impl Rig {
    fn memory(place: Place) -> Self {
        Self::at(place, "memory://", &[])
    }

    fn folder(place: Place) -> Self {
        let url = place.store().display().to_string();
        Self::at(place, &url, &[])
    }

    fn at(place: Place, url: &str, env: &[(String, String)]) -> Self {
        let config = config(&place, url);
        Self::with(place, config, env)
    }

    fn with(place: Place, config: Config, env: &[(String, String)]) -> Self {
        let store = Store::open(&config.store, env).unwrap();
        let flaky = Flaky::new(Arc::clone(&store.inner));
        Self { place, store, flaky, config, control: Arc::default() }
    }

    /// A new process on the same state.
    fn start(&self) -> Replicator {
        let mut store = self.store.clone();
        store.inner = Arc::new(self.flaky.clone());
        let control = Arc::clone(&self.control);
        Replicator::with_store(self.config.clone(), store, Arc::new(SystemClock), control, Arc::new(Silent)).unwrap()
    }

    /// One cycle of a new process; a hang is a failure.
    fn cycle(&self) -> CycleReport {
        within(Duration::from_secs(60), self.start()).0
    }

    /// Contents of the store by key.
    fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        block_on(async {
            let all: Vec<_> = self.store.inner.list(None).try_collect().await.unwrap();
            let mut objects = BTreeMap::new();
            for meta in all {
                let bytes = self.store.inner.get(&meta.location).await.unwrap().bytes().await.unwrap();
                objects.insert(meta.location.to_string(), bytes.to_vec());
            }
            objects
        })
    }

    /// Keys of the snapshots of `data/NAME`, oldest first.
    fn keys(&self, name: &str) -> Vec<String> {
        let prefix = format!("{}/", self.place.data().join(name).strip_prefix("/").unwrap().display());
        self.objects().into_keys().filter(|key| key.starts_with(&prefix)).collect()
    }

    fn state(&self) -> Connection {
        Connection::open(self.place.state_db()).unwrap()
    }

    /// Invariant 3: whatever the state says is stored lies in the store, with that very content. Returns how many.
    fn check_recorded(&self) -> u64 {
        let (state, objects) = (self.state(), self.objects());
        let mut rows = state.prepare("SELECT path, key_ms, content_hash, stored_s FROM databases").unwrap();
        let rows = rows.query_map([], |r| {
            Ok((
                r.get::<_, String>(0)?,
                r.get::<_, Option<i64>>(1)?,
                r.get::<_, Option<[u8; 16]>>(2)?,
                r.get::<_, Option<i64>>(3)?,
            ))
        });
        let mut recorded = 0;
        for (path, key_ms, hash, stored_s) in rows.unwrap().map(Result::unwrap) {
            let Some(key_ms) = key_ms else {
                assert_eq!((hash, stored_s), (None, None), "{path}: all of it or nothing");
                continue;
            };
            let key = snapshot_key(path.strip_prefix('/').unwrap(), Timestamp::from_ms(key_ms).unwrap());
            let object = objects.get(&key).unwrap_or_else(|| panic!("{key} is recorded, but not stored"));
            let mut image = Vec::new();
            let description = litesnap::object::decode(&object[..], Some(&key), &mut image).unwrap();
            assert_eq!(Some(description.content_hash.0), hash, "{key}");
            recorded += 1;
        }
        recorded
    }

    /// The newest object of every database holds what the database holds.
    fn check_all_stored(&self, names: &[&str]) {
        let objects = self.objects();
        for name in names {
            let keys = self.keys(name);
            let newest = keys.last().unwrap_or_else(|| panic!("no snapshot of {name}"));
            let mut image = Vec::new();
            litesnap::object::decode(&objects[newest][..], Some(newest), &mut image).unwrap();
            let live = Connection::open(self.place.data().join(name)).unwrap();
            assert!(content(&self.place.open_image(&image)) == content(&live), "{name}");
        }
    }

    /// What is left of uploads that did not end, in a folder.
    fn unfinished(&self) -> Vec<String> {
        let keys = self.place.objects().into_iter().map(|o| o.key);
        keys.filter(|key| key.contains('#')).collect()
    }
}

/// Runs one cycle; one that does not end in `limit` fails the test instead of stopping it.
fn within(limit: Duration, mut replicator: Replicator) -> (CycleReport, Replicator) {
    let (done, waits) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let report = replicator.run_cycle(false);
        done.send((report, replicator)).ok();
    });
    waits.recv_timeout(limit).expect("the cycle ends")
}

/// Names and reasons of what failed, sorted.
fn failed(report: &CycleReport) -> Vec<(String, Reason)> {
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut all: Vec<_> = report.failures.named().iter().map(|f| (name(&f.path), f.failure.reason)).collect();
    all.sort();
    all
}

/// The `n`th eligible call, and with `on` every one after it, meets `fate`. Tells by the counter how often.
fn from_nth(n: usize, on: bool, fate: Fate, eligible: fn(Op) -> bool) -> (Arc<AtomicUsize>, impl FnMut(Op) -> Fate) {
    let (hits, mut seen) = (Arc::new(AtomicUsize::new(0)), 0);
    let counter = Arc::clone(&hits);
    let plan = move |op| {
        seen += usize::from(eligible(op));
        if !eligible(op) || seen < n || (seen > n && !on) {
            return Fate::Serve;
        }
        counter.fetch_add(1, Ordering::SeqCst);
        fate.clone()
    };
    (hits, plan)
}

/// Six databases, of which one goes through a temporary copy and one, if `large`, is stored in parts.
fn fleet(large: bool) -> (Place, [&'static str; 6]) {
    let place = Place::new();
    for (name, mode) in [("a.db", "wal"), ("b.db", "delete"), ("c/d.db", "truncate"), ("e.db", "persist")] {
        place.make(name, mode, 5);
    }
    place.make_random("copied.db", 2 * MIB + MIB / 2);
    place.make_random("large.db", if large { 9 * MIB } else { 3 * MIB });
    (place, ["a.db", "b.db", "c/d.db", "e.db", "copied.db", "large.db"])
}

/// Lets the Nth call fail for N = 1, 2, … until none does; after each faulty cycle and the clean one that follows it,
/// the promise holds.
fn fail_every_call(rig: impl Fn(Place) -> Rig, large: bool, fate: Fate, on: bool, eligible: fn(Op) -> bool) {
    let (place, names) = fleet(large);
    let mut rig = rig(place);
    for n in 1.. {
        assert!(n < 40, "a cycle over six databases makes fewer calls than that");
        let (hits, mut plan) = from_nth(n, on, fate.clone(), eligible);
        rig.flaky.plan(move |op, _| plan(op));
        let (report, mut replicator) = within(Duration::from_secs(60), rig.start());
        let recorded = rig.check_recorded();
        assert_eq!(report.stored, recorded, "call {n}: {report:?}");
        assert_eq!(report.stored + report.failed() + report.untried, 6, "call {n}: {report:?}");
        assert_eq!(report.exit_code() == 0, recorded == 6, "call {n}: {report:?}");
        rig.flaky.heal();
        if n % 2 == 0 {
            drop(replicator);
            replicator = rig.start();
        }
        let (clean, replicator) = within(Duration::from_secs(60), replicator);
        assert_eq!((clean.stored, clean.exit_code()), (6 - recorded, 0), "call {n}: {clean:?}");
        assert_eq!(rig.check_recorded(), 6);
        rig.check_all_stored(&names);
        drop(replicator);
        assert_eq!(rig.unfinished(), [""; 0], "call {n}");
        if hits.load(Ordering::SeqCst) == 0 {
            return;
        }
        // From the beginning, with the same databases.
        std::fs::remove_dir_all(rig.place.state()).unwrap();
        rig.store = empty(&rig);
        rig.flaky = Flaky::new(Arc::clone(&rig.store.inner));
    }
}

fn empty(rig: &Rig) -> Store {
    if rig.place.store().exists() {
        std::fs::remove_dir_all(rig.place.store()).unwrap();
    }
    Store::open(&rig.config.store, &[]).unwrap()
}

#[test]
fn any_call_may_fail_once() {
    fail_every_call(Rig::memory, true, Fate::Fail, false, |_| true);
}

#[test]
fn from_any_call_on_all_may_fail() {
    fail_every_call(Rig::memory, false, Fate::Fail, true, |_| true);
}

#[test]
fn in_a_folder_any_call_may_fail_once() {
    fail_every_call(Rig::folder, true, Fate::Fail, false, |op| matches!(op, Op::Begin | Op::Part | Op::Complete));
    fail_every_call(Rig::folder, false, Fate::Refuse, true, |op| op == Op::Put);
}

/// T36: an object stored twice under two keys is harmless; one recorded and not stored is not.
#[test]
fn any_answer_may_be_lost_once() {
    fail_every_call(Rig::memory, true, Fate::Lose, false, |_| true);
}

#[test]
fn from_any_call_on_all_answers_may_be_lost() {
    fail_every_call(Rig::memory, false, Fate::Lose, true, |_| true);
}

/// What a client's own retry reports after a lost answer is compared, confirmed and not stored a second time.
#[test]
fn a_lost_answer_that_comes_back_as_already_exists_is_confirmed_once() {
    for on in [false, true] {
        let (place, names) = fleet(false);
        let rig = Rig::memory(place);
        let (hits, mut plan) = from_nth(2, on, Fate::Exists, |op| op == Op::Put);
        rig.flaky.plan(move |op, _| plan(op));
        let report = rig.cycle();
        assert_eq!((report.stored, report.exit_code()), (6, 0), "{report:?}");
        assert!(hits.load(Ordering::SeqCst) > 0);
        assert_eq!(rig.objects().len(), 6, "none is stored twice");
        assert_eq!(rig.flaky.count(Op::Get), hits.load(Ordering::SeqCst), "each is compared once");
        assert_eq!(rig.check_recorded(), 6);
        rig.check_all_stored(&names);
    }
}

/// Invariant 7: a key that holds something else is left alone, and the snapshot goes under the next one.
#[test]
fn a_key_that_is_taken_keeps_its_object() {
    for name in ["small.db", "copied.db"] {
        let place = Place::new();
        let bytes = if name == "small.db" { 64 << 10 } else { 3 * MIB };
        place.make_random(name, bytes);
        let rig = Rig::memory(place);
        let mut taken = false;
        rig.flaky.plan(move |op, _| match op {
            Op::Put if !std::mem::replace(&mut taken, true) => Fate::Foreign,
            _ => Fate::Serve,
        });
        let report = rig.cycle();
        assert_eq!((report.stored, report.exit_code()), (1, 0), "{report:?}");
        let keys = rig.keys(name);
        assert_eq!(keys.len(), 2);
        let other = litesnap::object::decode(&rig.objects()[&keys[0]][..], None, &mut Vec::new());
        assert!(other.is_err(), "the other's object is as it was");
        assert_eq!(rig.check_recorded(), 1);
        rig.check_all_stored(&[name]);
    }
}

/// Invariant 7: with credentials that may put and nothing else, a lost answer costs a second object, not the backup.
#[test]
fn what_may_not_be_compared_is_stored_again_under_a_new_key() {
    for (name, bytes) in [("small.db", 64 << 10), ("copied.db", 3 * MIB)] {
        let place = Place::new();
        place.make_random(name, bytes);
        let rig = Rig::memory(place);
        let mut lost = false;
        rig.flaky.plan(move |op, _| match op {
            Op::Put if !std::mem::replace(&mut lost, true) => Fate::Exists,
            Op::Get => Fate::Refuse,
            _ => Fate::Serve,
        });
        let report = rig.cycle();
        assert_eq!((report.stored, report.exit_code()), (1, 0), "{name}: {report:?}");
        let keys = rig.keys(name);
        assert_eq!(keys.len(), 2);
        assert_eq!(rig.check_recorded(), 1);
        rig.check_all_stored(&[name]);
    }
}

#[test]
fn a_store_without_create_only_puts_is_used_without() {
    let (place, names) = fleet(false);
    let rig = Rig::memory(place);
    rig.flaky.plan(|op, options| match (op, &options.mode) {
        (Op::Put, PutMode::Create) => Fate::Unsupported,
        _ => Fate::Serve,
    });
    let report = rig.cycle();
    assert_eq!((report.stored, report.exit_code()), (6, 0), "{report:?}");
    assert_eq!(rig.check_recorded(), 6);
    rig.check_all_stored(&names);
    // Learnt: the next ones do not ask again.
    let mut replicator = rig.start();
    rig.place.make("more.db", "wal", 1);
    let before = rig.flaky.count(Op::Put);
    assert_eq!(replicator.run_cycle(false).stored, 1);
    assert_eq!(rig.flaky.count(Op::Put) - before, 2, "a new process asks once");
    rig.place.make("still_more.db", "wal", 1);
    assert_eq!(replicator.run_cycle(false).stored, 1);
    assert_eq!(rig.flaky.count(Op::Put) - before, 3);
}

/// Recording comes after the store's disk: a folder that went away between the put and the batch has stored nothing.
#[test]
fn a_folder_that_goes_away_before_the_batch_has_stored_nothing() {
    for replaced in [false, true] {
        let (place, names) = fleet(false);
        let rig = Rig::folder(place);
        let (root, away) = (rig.place.store(), rig.place.path().join("away"));
        let (mut puts, from, to) = (0, root.clone(), away.clone());
        rig.flaky.plan(move |op, _| {
            puts += usize::from(op == Op::Put);
            let (from, to) = (from.clone(), to.clone());
            let go = move || {
                std::fs::rename(&from, &to).unwrap();
                if replaced {
                    std::fs::create_dir(&from).unwrap();
                }
            };
            if puts == 6 { Fate::Then(Arc::new(go)) } else { Fate::Serve }
        });
        // One request at a time, so that the sixth is the last.
        let one_by_one = Rig { config: Config { concurrency: 1, ..rig.config.clone() }, ..rig };
        let (report, replicator) = within(Duration::from_secs(60), one_by_one.start());
        assert!(away.exists());
        assert_eq!((report.stored, report.exit_code()), (0, 1), "replaced: {replaced}: {report:?}");
        assert!(report.errors.iter().any(|e| e.contains("could not be recorded")), "{report:?}");
        let recorded: i64 = one_by_one
            .state()
            .query_row("SELECT count(*) FROM databases WHERE key_ms IS NOT NULL OR stored_s IS NOT NULL", [], |r| {
                r.get(0)
            })
            .unwrap();
        assert_eq!(recorded, 0, "replaced: {replaced}");
        if replaced {
            std::fs::remove_dir(&root).unwrap();
        }
        std::fs::rename(&away, &root).unwrap();
        one_by_one.flaky.heal();
        let (clean, _replicator) = within(Duration::from_secs(60), replicator);
        assert_eq!((clean.stored, clean.exit_code()), (6, 0), "{clean:?}");
        assert_eq!(one_by_one.check_recorded(), 6);
        one_by_one.check_all_stored(&names);
    }
}

/// Nothing is counted as stored that `state.db` does not say.
#[test]
fn what_cannot_be_recorded_is_not_counted_and_stored_again() {
    let (place, names) = fleet(false);
    let rig = Rig::memory(place);
    let replicator = rig.start();
    let other = rig.state();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (report, replicator) = within(Duration::from_secs(90), replicator);
    assert_eq!((report.stored, report.exit_code()), (0, 1), "{report:?}");
    assert!(report.errors[0].starts_with("6 could not be recorded and will be stored again:"), "{report:?}");
    assert!(report.errors[0].contains("locked"), "{report:?}");
    other.execute_batch("COMMIT").unwrap();
    drop(other);
    assert_eq!(rig.check_recorded(), 0);
    let (clean, _replicator) = within(Duration::from_secs(60), replicator);
    assert_eq!((clean.stored, clean.exit_code()), (6, 0), "{clean:?}");
    assert_eq!(rig.check_recorded(), 6);
    rig.check_all_stored(&names);
}

/// The same on a full disk, where the system lets us mount one.
#[test]
fn a_full_disk_under_the_state_records_nothing() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let place = Place::new();
    let names = ["a.db", "b.db", "c.db"];
    // None has a temporary copy, whose end would make room again.
    names.iter().for_each(|name| drop(place.make(name, "wal", 5)));
    std::fs::create_dir(place.state()).unwrap();
    let state = place.state();
    if let Err(e) = mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::empty(), Some("size=192m,mode=0700")) {
        eprintln!("SKIPPED: a full disk under the state: cannot mount a tmpfs: {e}");
        return;
    }
    struct Mounted(std::path::PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            umount2(&self.0, MntFlags::MNT_DETACH).ok();
        }
    }
    let _mounted = Mounted(state.clone());
    let rig = Rig::memory(place);
    let replicator = rig.start();
    // Filled up when the last object is stored and the batch is not.
    let (mut puts, full) = (0, state.join("full"));
    let fills = full.clone();
    rig.flaky.plan(move |op, _| {
        puts += usize::from(op == Op::Put);
        let path = fills.clone();
        let fill = move || {
            use std::io::Write;
            let mut file = std::fs::File::create(&path).unwrap();
            while file.write_all(&[0; 4096]).is_ok() {}
        };
        if puts == 3 { Fate::Then(Arc::new(fill)) } else { Fate::Serve }
    });
    let one_by_one = Rig { config: Config { concurrency: 1, ..rig.config.clone() }, ..rig };
    drop(replicator);
    let (report, replicator) = within(Duration::from_secs(60), one_by_one.start());
    assert!(full.exists());
    assert_eq!(report.exit_code(), 1, "{report:?}");
    assert_eq!(report.stored, one_by_one.check_recorded(), "{report:?}");
    assert!(report.errors[0].contains("full"), "{report:?}");
    std::fs::remove_file(&full).unwrap();
    let (clean, replicator) = within(Duration::from_secs(60), replicator);
    assert_eq!((clean.stored, clean.exit_code()), (3 - report.stored, 0), "{clean:?}");
    assert_eq!(one_by_one.check_recorded(), 3);
    one_by_one.check_all_stored(&names);
    drop(replicator);
}

/// A store that refuses everything ends the cycle early: exit 3, and the number of requests does not grow with the fleet.
#[test]
fn a_store_that_refuses_everything_ends_the_cycle() {
    let place = Place::new();
    for n in 0..500 {
        place.make(&format!("{n}.db"), "delete", 1);
    }
    let rig = Rig::memory(place);
    rig.flaky.plan(|_, _| Fate::Refuse);
    let report = rig.cycle();
    assert_eq!((report.changed, report.stored, report.exit_code()), (500, 0, 3), "{report:?}");
    assert_eq!(report.failed() + report.untried, 500);
    let puts = rig.flaky.count(Op::Put);
    assert!((8..=110).contains(&puts), "{puts} requests: what was in flight, and eight to know");
    let error = store_error(&report, "it").unwrap().to_string();
    assert!(error.contains("store-refused") && !error.contains('\n'), "{error}");
    assert_eq!(rig.check_recorded(), 0);
    rig.flaky.heal();
    let clean = rig.cycle();
    assert_eq!((clean.stored, clean.exit_code()), (500, 0));
}

/// Invariant 5: databases that the store refuses (a policy by prefix) do not keep the others from being stored for ever.
#[test]
fn refused_databases_do_not_stop_the_others() {
    let place = Place::new();
    for n in 0..200 {
        place.make(&format!("refused{n}.db"), "delete", 1);
    }
    for n in 0..3 {
        place.make(&format!("welcome{n}.db"), "delete", 1);
    }
    let rig = Rig::memory(place);
    let mut rig = rig;
    rig.config.concurrency = 4;
    rig.flaky.refuse_keys("/refused");
    let mut replicator = rig.start();
    for _ in 0..40 {
        let (report, next) = within(Duration::from_secs(60), replicator);
        assert_ne!(report.exit_code(), 0);
        replicator = next;
        if rig.objects().len() == 3 {
            return;
        }
    }
    panic!("{} of 3 are stored", rig.objects().len());
}

/// Invariant 10: whatever the store does, bytes in flight stay below the limit and requests at their number.
#[test]
fn memory_and_concurrency_hold_while_the_store_is_slow() {
    let place = Place::new();
    for n in 0..300 {
        place.make_random(&format!("{n}.db"), MIB - 64 * 1024);
    }
    place.make_random("large.db", 30 * MIB);
    place.make_random("larger.db", 45 * MIB);
    let mut rig = Rig::memory(place);
    rig.config.concurrency = 12;
    rig.flaky.plan(|_, _| Fate::Wait(Duration::from_millis(60)));
    let report = rig.cycle();
    assert_eq!((report.stored, report.exit_code()), (302, 0), "{report:?}");
    let (in_flight, bytes) = rig.flaky.most();
    assert!(bytes as u64 <= 32 * MIB, "{bytes} bytes in puts at once");
    assert!((2..=12).contains(&in_flight), "{in_flight} requests at once");
    let parts = rig.flaky.parts();
    assert!(parts.len() > 9, "{parts:?}");
}

/// Large databases that wait for memory and small ones that wait for a request must not wait for each other.
#[test]
fn large_and_small_databases_do_not_wait_for_each_other() {
    for concurrency in [1, 2] {
        let place = Place::new();
        for n in 0..60 {
            place.make_random(&format!("{n}.db"), 900 * 1024);
        }
        for n in 0..6 {
            place.make_random(&format!("large{n}.db"), 9 * MIB);
        }
        let mut rig = Rig::memory(place);
        rig.config.concurrency = concurrency;
        rig.flaky.plan(|_, _| Fate::Wait(Duration::from_millis(20)));
        let report = rig.cycle();
        assert_eq!((report.stored, report.exit_code()), (66, 0), "{report:?}");
        assert_eq!(rig.flaky.most().0, concurrency);
    }
}

/// A stop in the middle of the scan is no complete cycle, even if it came before anything was found.
#[test]
fn a_stop_before_the_scan_is_over_is_told() {
    let (place, _) = fleet(false);
    let rig = Rig::memory(place);
    let replicator = rig.start();
    rig.control.stop(15);
    let (report, _replicator) = within(Duration::from_secs(60), replicator);
    assert_eq!((report.stored, report.interrupted, report.exit_code()), (0, Some(15), 143), "{report:?}");
}

/// At a kilobyte a second the second database would have its turn in an hour.
#[test]
fn a_stop_does_not_wait_for_the_upload_limit() {
    for bytes in [512 << 10, 3 * MIB] {
        let place = Place::new();
        place.make_random("a.db", bytes);
        place.make_random("b.db", bytes);
        let mut rig = Rig::memory(place);
        rig.config.limit_upload = 1 << 10;
        let control = Arc::clone(&rig.control);
        rig.flaky.plan(move |_, _| {
            let control = Arc::clone(&control);
            Fate::Then(Arc::new(move || control.stop(2)))
        });
        let (report, _replicator) = within(Duration::from_secs(20), rig.start());
        assert_eq!((report.stored, report.untried, report.exit_code()), (1, 1, 130), "{report:?}");
        assert_eq!(rig.check_recorded(), 1);
    }
}

/// The first database whose store answers "not this one" among others that are stored is named, each with its reason.
#[test]
fn a_failed_one_is_named_and_stored_in_the_next_cycle() {
    let (place, names) = fleet(false);
    let rig = Rig::memory(place);
    rig.flaky.refuse_keys("/e.db/");
    let (report, replicator) = within(Duration::from_secs(60), rig.start());
    assert_eq!((report.stored, report.exit_code()), (5, 1), "{report:?}");
    assert_eq!(failed(&report), [("e.db".to_owned(), Reason::StoreRefused)]);
    rig.flaky.heal();
    let (clean, _replicator) = within(Duration::from_secs(60), replicator);
    assert_eq!((clean.stored, clean.exit_code()), (1, 0), "{clean:?}");
    rig.check_all_stored(&names);
}

/// T9: stamps recorded are those from before the read. A commit between read and confirmation is seen next cycle.
#[test]
fn a_commit_during_the_upload_is_stored_in_the_next_cycle() {
    let place = Place::new();
    let path = place.make("a.db", "wal", 1);
    let rig = Rig::memory(place);
    let commit = path.clone();
    rig.flaky.plan(move |_, _| {
        let path = commit.clone();
        Fate::Then(Arc::new(move || {
            Connection::open(&path).unwrap().execute_batch("INSERT INTO t VALUES(2)").unwrap();
            age(&path);
        }))
    });
    let (report, replicator) = within(Duration::from_secs(60), rig.start());
    assert_eq!(report.stored, 1);
    rig.flaky.heal();
    let (next, _replicator) = within(Duration::from_secs(60), replicator);
    assert_eq!(next.stored, 1, "{next:?}");
    rig.check_all_stored(&["a.db"]);
}

fn s3(place: Place, server: &S3Server) -> Rig {
    Rig::at(place, &server.url("bucket", ""), &server.env())
}

fn aborted(server: &S3Server) -> usize {
    server.log().iter().filter(|(method, path)| method == "DELETE" && path.contains("uploadId=")).count()
}

/// Some stores insist on parts of one size.
#[test]
fn a_large_database_is_stored_in_equal_parts() {
    let server = S3Server::start();
    let place = Place::new();
    place.make_random("large.db", 40 * MIB);
    let rig = s3(place, &server);
    let report = rig.cycle();
    assert_eq!((report.stored, report.exit_code()), (1, 0), "{report:?}");
    let parts = rig.flaky.parts();
    let (last, others) = parts.split_last().unwrap();
    assert_eq!(parts.len(), 6);
    assert!(others.iter().all(|p| *p == others[0]) && *last <= others[0], "{parts:?}");
    assert_eq!(rig.check_recorded(), 1);
    rig.check_all_stored(&["large.db"]);
    assert_eq!(aborted(&server), 0);
}

/// T35: parts that nobody completes are paid for, for ever.
#[test]
fn a_failing_part_aborts_the_upload() {
    for (nth, fault) in [(1, 403), (3, 403), (4, 400)] {
        let server = S3Server::start();
        let place = Place::new();
        place.make_random("large.db", 18 * MIB);
        let rig = s3(place, &server);
        server.fail_nth(nth, Fault::answer(fault, "AccessDenied"));
        let (report, replicator) = within(Duration::from_secs(60), rig.start());
        assert_eq!(report.stored, 0, "{report:?}");
        assert_eq!(failed(&report).len(), 1, "{report:?}");
        assert_eq!(aborted(&server), usize::from(nth > 1), "request {nth}: {:?}", server.log());
        assert_eq!(server.objects("bucket"), []);
        server.heal();
        let (clean, _replicator) = within(Duration::from_secs(60), replicator);
        assert_eq!((clean.stored, clean.exit_code()), (1, 0), "{clean:?}");
        rig.check_all_stored(&["large.db"]);
    }
}

/// T35, and within the grace of a stop: whatever request of a large upload is under way when the stop comes.
#[test]
fn a_stop_in_mid_upload_aborts_it() {
    for nth in 1..=5 {
        let server = S3Server::start();
        let place = Place::new();
        place.make_random("large.db", 18 * MIB);
        let mut config = config(&place, &server.url("bucket", ""));
        config.store.request_timeout = Duration::from_secs(60);
        let rig = Rig::with(place, config, &server.env());
        server.fail_nth(nth, Fault::Hang);
        let (control, log) = (Arc::clone(&rig.control), rig.flaky.clone());
        let stopper = std::thread::spawn(move || {
            let reached = crate::place::eventually(Duration::from_secs(20), || log.calls().len() >= nth);
            std::thread::park_timeout(Duration::from_millis(100));
            control.stop(15);
            reached
        });
        let (report, _replicator) = within(Duration::from_secs(30), rig.start());
        assert!(stopper.join().unwrap());
        assert_eq!((report.stored, report.interrupted), (0, Some(15)), "request {nth}: {report:?}");
        assert_eq!(aborted(&server), usize::from(nth > 1), "request {nth}: {:?}", server.log());
    }
}

#[test]
fn a_failed_upload_leaves_no_file_in_a_folder() {
    let place = Place::new();
    place.make_random("large.db", 18 * MIB);
    let rig = Rig::folder(place);
    for nth in 2..=5 {
        let (_, mut plan) = from_nth(nth, false, Fate::Fail, |_| true);
        rig.flaky.plan(move |op, _| plan(op));
        let report = rig.cycle();
        assert_eq!((report.stored, report.exit_code()), (0, 1), "call {nth}: {report:?}");
        assert_eq!(rig.unfinished(), [""; 0], "call {nth}");
        assert_eq!(rig.place.objects(), [], "call {nth}");
    }
}

/// What S3 answers to a header that it does not implement.
#[test]
fn a_server_without_create_only_puts_is_used_without() {
    let server = S3Server::start();
    let (place, names) = fleet(false);
    server.refuse_conditions();
    let rig = s3(place, &server);
    let begun = std::time::Instant::now();
    let report = rig.cycle();
    assert_eq!((report.stored, report.exit_code()), (6, 0), "{report:?}");
    // That a header is not implemented does not change by asking again.
    assert!(server.count("PUT") <= 12, "{:?}", server.log());
    assert!(begun.elapsed() < QUICK.busy, "{:?}", begun.elapsed());
    rig.check_all_stored(&names);
}

/// How a cycle ends for each way in which a server fails: (every, from the 30th of 60, the third) request.
#[test]
fn exit_codes_by_fault() {
    let table = [
        (Fault::answer(503, "SlowDown"), 3, 3, 0, Reason::StoreBusy),
        (Fault::answer(429, "TooManyRequests"), 3, 3, 0, Reason::StoreBusy),
        (Fault::answer(500, "InternalError"), 3, 3, 0, Reason::StoreBusy),
        // A store that takes some and refuses others is not down: each that it refused is named.
        (Fault::answer(403, "AccessDenied"), 3, 1, 1, Reason::StoreRefused),
        (Fault::Hang, 3, 3, 1, Reason::StoreTimeout),
        (Fault::DropBefore, 3, 3, 0, Reason::StoreUnreachable),
        (Fault::DropAfter, 3, 3, 0, Reason::StoreUnreachable),
    ];
    std::thread::scope(|scope| {
        for (fault, every, from_30th, third, reason) in table {
            scope.spawn(move || {
                let place = Place::new();
                for n in 0..60 {
                    place.make(&format!("{n}.db"), "delete", 1);
                }
                let place = ends_with(place, &fault, |server| server.fail_from(1, fault.clone()), every, reason);
                let place = ends_with(place, &fault, |server| server.fail_from(30, fault.clone()), from_30th, reason);
                ends_with(place, &fault, |server| server.fail_nth(3, fault.clone()), third, reason);
            });
        }
    });
}

/// One faulty cycle over 60 databases that ends with `code`, and a clean one.
fn ends_with(place: Place, fault: &Fault, plan: impl Fn(&S3Server), code: u8, reason: Reason) -> Place {
    let server = S3Server::start();
    std::fs::remove_dir_all(place.state()).ok();
    let mut config = config(&place, &server.url("bucket", ""));
    config.store.patience.busy = Duration::from_millis(600);
    config.store.request_timeout = Duration::from_secs(2);
    // Few at a time, so that the successes are over before the eighth failure.
    config.concurrency = 4;
    let rig = Rig::with(place, config, &server.env());
    plan(&server);
    let (report, replicator) = within(Duration::from_secs(60), rig.start());
    let what = format!("{fault:?}: {}", report.line());
    assert_eq!(report.exit_code(), code, "{what}");
    assert!(report.failures.named().iter().all(|f| f.failure.reason == reason), "{what}");
    server.heal();
    let recorded = rig.check_recorded();
    assert_eq!(report.stored, recorded, "{what}");
    let (clean, replicator) = within(Duration::from_secs(60), replicator);
    assert_eq!((clean.stored, clean.exit_code()), (60 - recorded, 0), "{what}, then {}", clean.line());
    drop(replicator);
    assert_eq!(rig.check_recorded(), 60);
    // Only what was applied without an answer to say so is there twice.
    let twice = rig.objects().len() - 60;
    let lost = matches!(fault, Fault::DropAfter);
    assert!(twice == 0 || (lost && twice <= 16), "{twice} stored twice: {what}");
    rig.place
}

/// The store may have what it did not confirm: equal to what was recorded before is then no reason to store nothing.
#[test]
fn a_file_that_goes_back_after_an_upload_whose_answer_was_lost_is_stored_again() {
    let place = Place::new();
    let path = place.make("0.db", "delete", 1);
    let rig = Rig::folder(place);
    let first = std::fs::read(&path).unwrap();
    assert_eq!(rig.cycle().stored, 1);
    rusqlite::Connection::open(&path).unwrap().execute_batch("INSERT INTO t VALUES(2)").unwrap();
    rig.flaky.plan(|op, _| if op == Op::Put { Fate::Lose } else { Fate::Serve });
    assert_eq!(rig.cycle().failed(), 1);
    rig.flaky.heal();
    // That it fails for another reason in between does not make it forgotten.
    let mut app = crate::foreign::Foreign::open(&path, "delete");
    app.exec("BEGIN EXCLUSIVE");
    let report = rig.cycle();
    assert_eq!((report.failed(), report.uploads_failed), (1, 0), "{report:#?}");
    app.kill();
    std::fs::write(&path, first).unwrap();
    assert_eq!(rig.cycle().stored, 1);
    assert_eq!(rig.place.newest_rows("0.db"), [1]);
}
