//! Databases that are gone from their host: a tombstone before the record, a snapshot when they are back, and what a
//! person accepts or asks for by a note in the state.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use litesnap::clock::{Clock, FixedClock, MILLISECOND, SECOND, SystemClock};
use litesnap::config::Config;
use litesnap::control::Control;
use litesnap::cycle::Silent;
use litesnap::detect::Pace;
use litesnap::error::{Error, Reason};
use litesnap::layout::{KeyKind, Template, parse_key};
use litesnap::object::Tombstone;
use litesnap::replicate::Replicator;
use litesnap::report::CycleReport;
use litesnap::state::{Identity, StateDb};
use litesnap::store::Store;
use object_store::ObjectStoreExt;
use rusqlite::Connection;

use crate::faults::config;
use crate::flaky::{Fate, Flaky, Op};
use crate::place::{Place, Ran, eventually};
use crate::s3_server::{Fault, S3Server};

/// A replicator over a store that fails on demand, under a clock that stands: an hour ahead of the system's, so that no
/// stamp of a file just made is racy.
struct Rig {
    place: Place,
    store: Store,
    flaky: Flaky,
    clock: Arc<FixedClock>,
    config: Config,
    control: Arc<Control>,
    replicator: Option<Replicator>,
}

impl Rig {
    fn memory(place: Place) -> Self {
        let config = config(&place, "memory://");
        Self::with(place, config, &[])
    }

    fn folder(place: Place) -> Self {
        let config = config(&place, place.store().to_str().unwrap());
        Self::with(place, config, &[])
    }

    fn with(place: Place, config: Config, env: &[(String, String)]) -> Self {
        let store = Store::open(&config.store, env).unwrap();
        let flaky = Flaky::new(Arc::clone(&store.inner));
        let clock = Arc::new(FixedClock::new(SystemClock.now() + 3600 * SECOND));
        let mut rig = Self { place, store, flaky, clock, config, control: Arc::default(), replicator: None };
        rig.restart();
        rig
    }

    fn restart(&mut self) {
        self.replicator = None;
        let mut store = self.store.clone();
        store.inner = Arc::new(self.flaky.clone());
        let mut opened = None;
        // A child that another test just started holds on to the lock until it becomes its program.
        let is_free = eventually(Duration::from_secs(20), || {
            let (config, store, control) = (self.config.clone(), store.clone(), Arc::clone(&self.control));
            let clock: Arc<dyn Clock> = Arc::<FixedClock>::clone(&self.clock);
            opened = Some(Replicator::with_store(config, store, clock, control, Arc::new(Silent)));
            !matches!(opened, Some(Err(Error::StateLocked { .. })))
        });
        assert!(is_free);
        self.replicator = Some(opened.unwrap().unwrap());
    }

    /// A cycle ten seconds after the last one.
    fn cycle(&mut self) -> CycleReport {
        self.clock.advance(10 * SECOND);
        self.replicator.as_mut().unwrap().run_cycle(false)
    }

    /// A cycle in which nothing fails.
    #[track_caller]
    fn good(&mut self) -> CycleReport {
        let report = self.cycle();
        assert_eq!((report.exit_code(), &*report.errors), (0, &[][..]), "{report:#?}");
        report
    }

    /// Nothing changes any more, also over a restart.
    #[track_caller]
    fn expect_idle(&mut self) {
        for _ in 0..2 {
            let report = self.good();
            assert_eq!((report.requests, report.changed, report.gone), (0, 0, 0), "{report:#?}");
            self.restart();
        }
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.place.db(name)).unwrap();
    }

    /// Out of the patterns' sight, as it is.
    fn hide(&self, name: &str) {
        fs::rename(self.place.db(name), self.place.path().join("aside")).unwrap();
    }

    fn bring_back(&self, name: &str) {
        fs::rename(self.place.path().join("aside"), self.place.db(name)).unwrap();
    }

    fn keys(&self) -> Vec<String> {
        let runtime = self.replicator.as_ref().unwrap().runtime();
        let all = runtime.block_on(self.store.inner.list(None).map_ok(|m| m.location).try_collect::<BTreeSet<_>>());
        all.unwrap().into_iter().map(|key| key.to_string()).collect()
    }

    /// Kind and time in ms of each object of `data/NAME`, in the order of their times.
    fn history(&self, name: &str) -> Vec<(KeyKind, i64)> {
        let prefix = self.place.db(name).to_str().unwrap()[1..].to_owned();
        let keys = self.keys();
        let ours = keys.iter().map(|key| parse_key(key).unwrap()).filter(|key| key.prefix == prefix);
        let mut all: Vec<_> = ours.map(|key| (key.kind, key.ts.as_ms())).collect();
        all.sort_by_key(|(_, ms)| *ms);
        assert!(all.is_sorted_by(|a, b| a.1 < b.1), "no two have one time: {all:?}");
        all
    }

    fn kinds(&self, name: &str) -> Vec<KeyKind> {
        self.history(name).into_iter().map(|(kind, _)| kind).collect()
    }

    fn tombstones(&self) -> usize {
        self.keys().iter().filter(|key| key.ends_with(".deleted")).count()
    }

    fn sql(&self, sql: &str) -> i64 {
        Connection::open(self.place.state_db()).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn execute(&self, sql: &str) {
        Connection::open(self.place.state_db()).unwrap().execute_batch(sql).unwrap();
    }

    fn recorded_gone(&self) -> i64 {
        self.sql("SELECT count(*) FROM databases WHERE gone_s IS NOT NULL")
    }
}

fn fleet(n: usize) -> Place {
    let place = Place::new();
    let template = place.make("0.db", "delete", 1);
    for n in 1..n {
        fs::copy(&template, place.db(&format!("{n}.db"))).unwrap();
    }
    place
}

const SNAPSHOT: KeyKind = KeyKind::Snapshot;
const TOMBSTONE: KeyKind = KeyKind::Tombstone;

#[test]
fn what_is_gone_gets_one_tombstone_that_says_so() {
    for make in [Rig::memory, Rig::folder] {
        let mut rig = make(fleet(3));
        assert_eq!(rig.good().stored, 3);
        rig.remove("1.db");
        let report = rig.good();
        assert_eq!((report.gone, report.requests, report.stored), (1, 1, 0), "{report:#?}");
        let key = rig.keys().into_iter().find(|key| key.ends_with(".deleted")).unwrap();
        let path = rig.place.db("1.db");
        assert!(key.starts_with(path.strip_prefix("/").unwrap().to_str().unwrap()), "{key}");
        let location = object_store::path::Path::parse(&key).unwrap();
        let object = rig
            .replicator
            .as_ref()
            .unwrap()
            .runtime()
            .block_on(async { rig.store.inner.get(&location).await.unwrap().bytes().await.unwrap() });
        let tombstone = Tombstone::parse(&object).unwrap();
        assert_eq!((&*tombstone.key, &*tombstone.host, &tombstone.path), (&*key, "host", &path));
        assert_eq!(tombstone.gone_at.as_ms(), rig.clock.now() / MILLISECOND);
        assert_eq!(parse_key(&key).unwrap().ts, tombstone.gone_at);
        rig.expect_idle();
        assert_eq!((rig.tombstones(), rig.recorded_gone()), (1, 1));
    }
}

#[test]
fn the_tombstone_has_the_prefix_of_its_snapshots_and_any_path() {
    let place = Place::new();
    let made = place.make("acme/x.db", "delete", 1);
    let odd = place.data().join(OsStr::from_bytes(b"t\xff/x.db"));
    fs::create_dir(odd.parent().unwrap()).unwrap();
    fs::copy(&made, &odd).unwrap();
    place.make("stays/x.db", "delete", 1);
    let mut config = config(&place, "memory://p/q");
    config.patterns = litesnap::config::parse_patterns(&["data/{tenant}/*.db"], place.path()).unwrap();
    config.template = Template::parse("{{hostname}}/{{tenant}}").unwrap();
    let mut rig = Rig::with(place, config, &[]);
    assert_eq!(rig.good().stored, 3);
    fs::remove_file(&made).unwrap();
    fs::remove_file(&odd).unwrap();
    assert_eq!(rig.good().gone, 2);
    let all = rig.keys();
    let keys: Vec<_> = all.iter().filter(|key| !key.contains("/stays/")).collect();
    let prefixes: Vec<_> = keys.iter().map(|key| key.rsplit_once('/').unwrap().0.to_owned()).collect();
    assert_eq!(prefixes, ["p/q/host/acme", "p/q/host/acme", "p/q/host/t%FF", "p/q/host/t%FF"]);
    let key = object_store::path::Path::parse(*keys.last().unwrap()).unwrap();
    let object = rig
        .replicator
        .as_ref()
        .unwrap()
        .runtime()
        .block_on(async { rig.store.inner.get(&key).await.unwrap().bytes().await.unwrap() });
    assert_eq!(Tombstone::parse(&object).unwrap().path, odd);
    rig.expect_idle();
}

/// What was never stored has nothing in the store that could end.
#[test]
fn what_was_never_stored_gets_no_tombstone() {
    let place = fleet(1);
    fs::write(place.db("bad.db"), "no database").unwrap();
    let mut rig = Rig::memory(place);
    rig.cycle();
    rig.remove("bad.db");
    assert_eq!((rig.good().requests, rig.tombstones()), (0, 0));
    rig.expect_idle();
}

/// The newest word of the store on a database must not be that it is gone while it is there.
#[test]
fn what_is_back_as_it_was_is_stored_again_above_its_tombstone() {
    for restarts in [false, true] {
        let mut rig = Rig::memory(fleet(3));
        rig.good();
        rig.hide("0.db");
        assert_eq!(rig.good().gone, 1);
        if restarts {
            rig.restart();
        }
        rig.bring_back("0.db");
        let back = rig.good();
        assert_eq!((back.stored, back.requests, back.unchanged_content), (1, 1, 0), "{back:#?}");
        rig.expect_idle();
        rig.remove("1.db");
        rig.good();
        rig.hide("0.db");
        assert_eq!(rig.good().gone, 1, "gone a second time");
        rig.expect_idle();
        assert_eq!(rig.kinds("0.db"), [SNAPSHOT, TOMBSTONE, SNAPSHOT, TOMBSTONE]);
    }
}

/// A failure in between does not make it forget that.
#[test]
fn what_is_back_is_stored_even_if_that_fails_at_first() {
    for restarts in [false, true] {
        let mut rig = Rig::memory(fleet(2));
        rig.good();
        rig.hide("0.db");
        rig.good();
        rig.bring_back("0.db");
        rig.flaky.plan(|_, _| Fate::Fail);
        assert_eq!(rig.cycle().failed(), 1);
        rig.flaky.heal();
        if restarts {
            rig.restart();
        }
        assert_eq!(rig.good().stored, 1);
        rig.expect_idle();
        assert_eq!(rig.kinds("0.db"), [SNAPSHOT, TOMBSTONE, SNAPSHOT]);
    }
}

/// Back for a moment only, unread: the store knows already that it is gone.
#[test]
fn what_is_gone_again_before_it_was_stored_needs_no_second_tombstone() {
    let mut rig = Rig::memory(fleet(2));
    rig.good();
    rig.hide("0.db");
    rig.good();
    rig.bring_back("0.db");
    rig.flaky.plan(|_, _| Fate::Fail);
    rig.cycle();
    rig.flaky.heal();
    rig.hide("0.db");
    let report = rig.good();
    assert_eq!((report.gone, report.requests, rig.tombstones()), (1, 0, 1), "{report:#?}");
    rig.expect_idle();
}

#[test]
fn what_is_made_anew_or_replaced_under_the_same_name_is_stored() {
    let mut rig = Rig::memory(fleet(2));
    rig.good();
    let copy = rig.place.path().join("copy");
    fs::copy(rig.place.db("0.db"), &copy).unwrap();
    rig.remove("0.db");
    assert_eq!(rig.good().gone, 1);
    // Another file with the very same content.
    fs::rename(&copy, rig.place.db("0.db")).unwrap();
    assert_eq!(rig.good().stored, 1);
    rig.expect_idle();
    assert_eq!(rig.kinds("0.db"), [SNAPSHOT, TOMBSTONE, SNAPSHOT]);
    // Replaced between two cycles: never gone.
    let other = rig.place.make("other", "delete", 5);
    fs::rename(&other, rig.place.db("0.db")).unwrap();
    let report = rig.good();
    assert_eq!((report.stored, report.gone), (1, 0), "{report:#?}");
    assert_eq!(rig.kinds("0.db"), [SNAPSHOT, TOMBSTONE, SNAPSHOT, SNAPSHOT]);
    // Deleted, seen as gone, and replaced by another one.
    rig.remove("0.db");
    rig.good();
    fs::rename(rig.place.make("other", "delete", 9), rig.place.db("0.db")).unwrap();
    assert_eq!(rig.good().stored, 1);
    assert_eq!(rig.kinds("0.db")[4..], [TOMBSTONE, SNAPSHOT]);
    rig.expect_idle();
}

/// T11, for tombstones too.
#[test]
fn with_a_clock_set_back_times_still_go_up() {
    let mut rig = Rig::memory(fleet(2));
    rig.good();
    rig.clock.advance(-7200 * SECOND);
    rig.hide("0.db");
    rig.good();
    rig.bring_back("0.db");
    rig.good();
    rig.hide("0.db");
    rig.restart();
    rig.good();
    let history = rig.history("0.db");
    let first = history[0].1;
    let expected = [(SNAPSHOT, first), (TOMBSTONE, first + 1), (SNAPSHOT, first + 2), (TOMBSTONE, first + 3)];
    assert_eq!(history, expected);
}

/// Whatever the store does with a tombstone, nothing is recorded that it did not confirm.
#[test]
fn a_tombstone_that_is_not_confirmed_is_not_recorded_and_tried_again() {
    // (fault, exit code, tombstones there, word of the reason)
    let table = [
        (Fault::answer(500, "InternalError"), 3, 0, Some(Reason::StoreBusy)),
        (Fault::answer(403, "AccessDenied"), 3, 0, Some(Reason::StoreRefused)),
        (Fault::answer(400, "InvalidRequest"), 1, 0, None),
        (Fault::DropBefore, 3, 0, Some(Reason::StoreUnreachable)),
        (Fault::DropAfter, 3, 1, Some(Reason::StoreUnreachable)),
    ];
    std::thread::scope(|scope| {
        for (fault, code, there, reason) in table {
            scope.spawn(move || {
                let server = S3Server::start();
                let place = fleet(3);
                let mut config = config(&place, &server.url("bucket", "p"));
                config.store.patience.busy = Duration::from_millis(600);
                let mut rig = Rig::with(place, config, &server.env());
                rig.good();
                rig.remove("1.db");
                server.fail_from(1, fault.clone());
                for _ in 0..2 {
                    let report = rig.cycle();
                    assert_eq!((report.exit_code(), report.gone), (code, 0), "{fault:?}: {report:#?}");
                    assert_eq!(report.store_down.as_ref().map(|f| f.reason), reason, "{fault:?}");
                    assert!(report.requests > 0 && report.failed() == 0, "{fault:?}: {report:#?}");
                    assert_eq!(rig.recorded_gone(), 0, "{fault:?}");
                }
                server.heal();
                // A lost answer leaves one for each cycle.
                assert_eq!(rig.tombstones(), 2 * there, "{fault:?}");
                assert_eq!(rig.good().gone, 1, "{fault:?}");
                assert_eq!((rig.tombstones(), rig.recorded_gone()), (2 * there + 1, 1), "{fault:?}");
                rig.expect_idle();
                let conditions = server.headers("PUT", "if-none-match");
                assert!(conditions.iter().all(|value| value.as_deref() == Some("*")), "create-only: {conditions:?}");
            });
        }
    });
}

/// A single lost answer or a busy moment is over within the cycle, and costs no second tombstone.
#[test]
fn a_tombstone_whose_answer_is_lost_once_is_confirmed_at_once() {
    for fault in [Fault::DropAfter, Fault::DropBefore, Fault::answer(503, "SlowDown")] {
        let server = S3Server::start();
        let place = fleet(2);
        let config = config(&place, &server.url("bucket", ""));
        let mut rig = Rig::with(place, config, &server.env());
        rig.good();
        rig.remove("1.db");
        server.fail_nth(1, fault.clone());
        let report = rig.good();
        assert_eq!((report.gone, report.requests, server.count("GET")), (1, 2, 0), "{fault:?}: {report:#?}");
        assert_eq!(rig.tombstones(), 1, "{fault:?}");
        rig.expect_idle();
    }
}

/// "Exists already" is a confirmation also where the client did not try again by itself.
#[test]
fn a_tombstone_that_exists_already_is_confirmed() {
    let mut rig = Rig::memory(fleet(2));
    rig.good();
    rig.remove("1.db");
    rig.flaky.plan(|_, _| Fate::Exists);
    assert_eq!((rig.good().gone, rig.tombstones()), (1, 1));
    rig.flaky.heal();
    rig.expect_idle();
}

/// A policy that will have no tombstones must not keep a snapshot from being stored, nor the other way round.
#[test]
fn refused_tombstones_stop_no_snapshot_and_no_other_tombstone() {
    let mut rig = Rig::memory(fleet(60));
    rig.config.concurrency = 4;
    rig.config.max_gone = Some(1000);
    rig.restart();
    rig.good();
    (0..30).for_each(|n| rig.remove(&format!("{n}.db")));
    let change = |rig: &Rig, name: &str| {
        Connection::open(rig.place.db(name)).unwrap().execute_batch("INSERT INTO t VALUES(7)").unwrap();
    };
    change(&rig, "50.db");
    rig.flaky.refuse_keys(".deleted");
    let puts = rig.flaky.count(Op::Put);
    let report = rig.cycle();
    assert_eq!((report.stored, report.gone, report.exit_code()), (1, 0, 1), "{report:#?}");
    assert!(report.errors[0].starts_with("30 databases are gone, but the store could not"), "{:?}", report.errors);
    assert!(report.errors[0].contains("store-refused") && report.errors.len() == 1, "{:?}", report.errors);
    let tried = rig.flaky.count(Op::Put) - puts;
    assert!((8..=14).contains(&tried), "{tried}: eight to know, and what was in flight");
    assert_eq!(rig.recorded_gone(), 0);
    // Only one of them is refused, wherever it stands.
    rig.flaky.refuse_keys("/7.db/");
    let report = rig.cycle();
    assert_eq!((report.gone, report.exit_code()), (29, 1), "{report:#?}");
    rig.flaky.heal();
    assert_eq!((rig.good().gone, rig.tombstones(), rig.recorded_gone()), (1, 30, 30));
    rig.expect_idle();
}

/// Deletions that pile up while the store is down are no mass disappearance; one that comes on top of them still is.
#[test]
fn deletions_while_the_store_is_down_do_not_add_up_to_a_mass_disappearance() {
    let mut rig = Rig::memory(fleet(100));
    rig.good();
    rig.flaky.plan(|_, _| Fate::Refuse);
    for ten in 0..4 {
        (ten * 10..ten * 10 + 10).for_each(|n| rig.remove(&format!("{n}.db")));
        for _ in 0..2 {
            let report = rig.cycle();
            assert_eq!((report.exit_code(), report.gone, report.errors.len()), (3, 0, 0), "{report:#?}");
        }
    }
    (40..70).for_each(|n| rig.remove(&format!("{n}.db")));
    assert!(rig.cycle().errors[0].starts_with("30 of 100 known databases are gone"));
    // An acceptance of fewer than all that are gone is not meant for these.
    rig.execute("INSERT INTO meta VALUES('accept_gone', '69')");
    assert_eq!(rig.cycle().errors.len(), 1);
    rig.flaky.heal();
    let report = rig.cycle();
    assert_eq!((report.gone, report.exit_code(), rig.tombstones()), (40, 1, 40), "{report:#?}");
    rig.execute("INSERT INTO meta VALUES('accept_gone', '30')");
    assert_eq!((rig.good().gone, rig.tombstones()), (30, 70));
    rig.expect_idle();
}

/// However many refuse, those that would be taken have their turn.
#[test]
fn each_cycle_begins_with_other_tombstones() {
    let place = fleet(1);
    for n in 0..300 {
        fs::copy(place.db("0.db"), place.db(&format!("refused{n}.db"))).unwrap();
    }
    let mut rig = Rig::memory(place);
    rig.config.concurrency = 4;
    rig.config.max_gone = Some(1000);
    rig.restart();
    rig.good();
    fs::remove_dir_all(rig.place.data()).unwrap();
    fs::create_dir(rig.place.data()).unwrap();
    rig.flaky.refuse_keys("/refused");
    for _ in 0..300 {
        if rig.cycle().gone == 1 {
            return;
        }
    }
    panic!("never tried");
}

/// Invariant 10, and that a store that hangs holds up a cycle no longer than an upload would.
#[test]
fn tombstones_keep_to_the_limit_of_requests_and_of_time() {
    let mut rig = Rig::memory(fleet(50));
    rig.config.concurrency = 5;
    rig.config.max_gone = Some(1000);
    rig.restart();
    rig.good();
    (0..40).for_each(|n| rig.remove(&format!("{n}.db")));
    for n in 40..50 {
        Connection::open(rig.place.db(&format!("{n}.db"))).unwrap().execute_batch("INSERT INTO t VALUES(7)").unwrap();
    }
    rig.flaky.plan(|_, _| Fate::Wait(Duration::from_millis(20)));
    let report = rig.good();
    assert_eq!((report.gone, report.stored), (40, 10), "{report:#?}");
    assert!((2..=5).contains(&rig.flaky.most().0), "{:?}", rig.flaky.most());
}

/// Asked to stop: what is not confirmed is not recorded, and the run is not complete.
#[test]
fn a_stop_leaves_the_other_tombstones_to_the_next_run() {
    let mut rig = Rig::memory(fleet(15));
    rig.config.concurrency = 1;
    rig.restart();
    rig.good();
    (0..10).for_each(|n| rig.remove(&format!("{n}.db")));
    let (control, puts) = (Arc::clone(&rig.control), AtomicUsize::new(0));
    let puts = Arc::new(puts);
    rig.flaky.plan(move |_, _| {
        let (control, nth) = (Arc::clone(&control), puts.fetch_add(1, Ordering::SeqCst));
        if nth == 2 { Fate::Then(Arc::new(move || control.stop(15))) } else { Fate::Serve }
    });
    let report = rig.cycle();
    assert_eq!((report.gone, report.interrupted, report.exit_code()), (3, Some(15), 143), "{report:#?}");
    assert_eq!((rig.tombstones(), rig.recorded_gone()), (3, 3));
    rig.flaky.heal();
    rig.control = Arc::default();
    rig.restart();
    assert_eq!((rig.good().gone, rig.tombstones()), (7, 10));
    rig.expect_idle();
}

/// Killed after the store confirmed and before the state knows: the same again, or one more, and all is well.
#[test]
fn killed_between_tombstone_and_record_it_is_told_again() {
    for later_s in [0, 60] {
        let mut rig = Rig::memory(fleet(2));
        rig.good();
        rig.hide("1.db");
        rig.replicator = None;
        let (state, kept) = (rig.place.state(), rig.place.path().join("kept"));
        let copy = |from: &Path, to: &Path| {
            fs::remove_dir_all(to).ok();
            assert!(std::process::Command::new("cp").arg("-r").args([from, to]).status().unwrap().success());
        };
        copy(&state, &kept);
        rig.restart();
        assert_eq!((rig.good().gone, rig.tombstones()), (1, 1));
        rig.replicator = None;
        copy(&kept, &state);
        // The same moment again, or another one.
        rig.clock.advance((later_s - 10) * SECOND);
        rig.restart();
        assert_eq!(rig.recorded_gone(), 0);
        assert_eq!(rig.good().gone, 1);
        assert_eq!(rig.tombstones(), if later_s == 0 { 1 } else { 2 });
        rig.expect_idle();
        rig.bring_back("1.db");
        assert_eq!(rig.good().stored, 1);
        assert_eq!(rig.kinds("1.db").last(), Some(&SNAPSHOT));
        rig.expect_idle();
    }
}

/// Recording comes after the store's disk, for tombstones too.
#[test]
fn a_folder_that_goes_away_after_the_put_has_no_tombstone() {
    let mut rig = Rig::folder(fleet(2));
    rig.good();
    rig.remove("1.db");
    let (root, away) = (rig.place.store(), rig.place.path().join("away"));
    let (from, to) = (root.clone(), away.clone());
    rig.flaky.plan(move |_, _| {
        let (from, to) = (from.clone(), to.clone());
        Fate::Then(Arc::new(move || fs::rename(&from, &to).unwrap()))
    });
    let report = rig.cycle();
    assert_eq!((report.gone, report.exit_code(), rig.recorded_gone()), (0, 1, 0), "{report:#?}");
    assert!(report.errors.iter().any(|e| e.contains("could not be recorded")), "{report:#?}");
    rig.flaky.heal();
    fs::rename(&away, &root).unwrap();
    assert_eq!((rig.good().gone, rig.recorded_gone()), (1, 1));
    rig.expect_idle();
}

/// T45: what looks like a disappearance writes nothing, until a person says that it is none.
#[test]
fn a_mass_disappearance_writes_no_tombstone_until_a_note_accepts_it() {
    let mut rig = Rig::memory(fleet(100));
    rig.good();
    let away = rig.place.path().join("away");
    fs::rename(rig.place.data(), &away).unwrap();
    let missing = rig.cycle();
    assert_eq!((missing.exit_code(), missing.requests), (1, 0), "a missing root: {missing:#?}");
    fs::rename(&away, rig.place.data()).unwrap();
    rig.expect_idle();
    (0..30).for_each(|n| rig.remove(&format!("{n}.db")));
    let note = |rig: &Rig| rig.sql("SELECT count(*) FROM meta WHERE name = 'accept_gone'");
    for accepted in [None, Some("29"), Some("many"), Some("")] {
        if let Some(accepted) = accepted {
            rig.execute(&format!("INSERT INTO meta VALUES('accept_gone', '{accepted}')"));
        }
        let held = rig.cycle();
        assert_eq!((held.gone, held.requests, held.exit_code()), (0, 0, 1), "{accepted:?}: {held:#?}");
        let told = &held.errors[0];
        assert!(told.contains("30 of 100") && told.contains("litesnap forget-gone --yes"), "{told}");
        assert!(told.contains("--max-gone 30"), "{told}");
        assert_eq!(note(&rig), 0, "{accepted:?}: one sweep, whatever it finds");
    }
    // What the store does not confirm leaves the note where it is.
    rig.execute("INSERT INTO meta VALUES('accept_gone', '30')");
    rig.flaky.plan(|_, _| Fate::Fail);
    assert_eq!((rig.cycle().gone, note(&rig)), (0, 1));
    rig.flaky.heal();
    rig.restart();
    let report = rig.good();
    assert_eq!((report.gone, report.requests, note(&rig)), (30, 30, 0), "{report:#?}");
    rig.expect_idle();
    // It was for once.
    (30..60).for_each(|n| rig.remove(&format!("{n}.db")));
    assert_eq!((rig.cycle().gone, rig.tombstones()), (0, 30));
    // A number, as a shell may leave it; more than there are.
    rig.execute("INSERT INTO meta VALUES('accept_gone', 1000)");
    assert_eq!((rig.good().gone, note(&rig)), (30, 0));
    rig.execute("INSERT INTO meta VALUES('accept_gone', '10')");
    rig.good();
    assert_eq!(note(&rig), 0, "nothing is gone: it is spent all the same");
}

/// An empty folder is what a volume that is not mounted leaves: not even one is taken for deleted then, however few they
/// were.
#[test]
fn where_no_database_is_left_nothing_is_concluded_until_accepted() {
    for (n, by_note) in [(1, true), (3, false), (3, true)] {
        let mut rig = Rig::memory(fleet(n));
        rig.good();
        (0..n).for_each(|n| rig.remove(&format!("{n}.db")));
        for strange in [false, true] {
            if strange {
                // What is no database says nothing, not even before it was ever looked into.
                fs::write(rig.place.db("notes.db"), "the volume belongs here").unwrap();
            }
            for _ in 0..2 {
                let held = rig.cycle();
                assert_eq!((held.gone, held.requests, held.exit_code()), (0, 0, 1), "{n}: {held:#?}");
                let told = &held.errors[0];
                assert!(told.contains(&format!("{n} of {n} known databases are gone")), "{told}");
                assert!(told.contains("litesnap forget-gone --yes"), "{told}");
                assert!(told.contains(&format!("--max-gone {n} ")), "{told}");
                rig.restart();
            }
        }
        rig.remove("notes.db");
        assert_eq!((rig.tombstones(), rig.recorded_gone()), (0, 0));
        if by_note {
            rig.execute(&format!("INSERT INTO meta VALUES('accept_gone', '{n}')"));
        } else {
            rig.config.max_gone = Some(n as u64);
            rig.restart();
        }
        assert_eq!(rig.good().gone, n as u64);
        assert_eq!((rig.tombstones(), rig.recorded_gone()), (n, n as i64));
        rig.expect_idle();
    }
}

/// Deleted one after the other: the last one waits, and what was accepted before does not.
#[test]
fn the_last_database_of_a_host_is_held_until_another_is_stored() {
    let mut rig = Rig::memory(fleet(3));
    rig.good();
    rig.flaky.plan(|_, _| Fate::Refuse);
    rig.remove("0.db");
    rig.remove("1.db");
    assert!(rig.cycle().errors.is_empty());
    rig.remove("2.db");
    assert!(rig.cycle().errors[0].starts_with("1 of 3 known databases are gone"));
    rig.flaky.heal();
    let report = rig.cycle();
    assert_eq!((report.gone, report.exit_code(), rig.tombstones()), (2, 1, 2), "{report:#?}");
    rig.place.make("other.db", "delete", 5);
    let report = rig.cycle();
    assert_eq!((report.stored, report.gone, report.exit_code()), (1, 0, 1), "not before it is stored: {report:#?}");
    assert_eq!((rig.good().gone, rig.tombstones()), (1, 3));
    rig.expect_idle();
}

/// With the real binary: an error of the run, not of how it was called, whatever matches nothing.
#[test]
fn an_emptied_folder_is_an_error_until_forget_gone_or_max_gone_accepts_it() {
    for by_word in [false, true] {
        let place = fleet(3);
        let once = |more: &[&str]| {
            let args = [&["--once", "--host", "h"], more].concat();
            Ran::from(place.replicate("data/**/*.db", &args).output().unwrap())
        };
        once(&[]).expect_code(0);
        (0..3).for_each(|n| fs::remove_file(place.db(&format!("{n}.db"))).unwrap());
        for more in [&[][..], &["--allow-empty"], &["--max-gone", "2"]] {
            let held = once(more).expect_code(1);
            assert!(held.out.contains("3 of 3 known databases are gone"), "{held:#?}");
            assert_eq!(held.err.contains("nothing matches"), more != ["--allow-empty"], "{held:#?}");
        }
        assert_eq!(place.objects().len(), 3);
        if by_word {
            let forget = ["forget-gone", "--store", "store", "--state-dir", "state", "--yes"];
            let accepted = place.run(&forget).expect_code(0);
            assert!(accepted.out.contains("3 of 3 known databases are gone"), "{accepted:#?}");
        }
        let more: &[&str] = if by_word { &["--allow-empty"] } else { &["--allow-empty", "--max-gone", "3"] };
        assert_eq!(once(more).expect_code(0).count("gone"), 3);
        assert_eq!(place.objects().iter().filter(|object| object.key.ends_with(".deleted")).count(), 3);
        // Nothing is known any more: a pattern that matches nothing is what is wrong again.
        once(&[]).expect_code(2);
    }
}

/// What somebody asked for is stored again, whatever its stamps, its content and its cooldown say.
#[test]
fn what_is_on_the_request_list_is_stored_again() {
    let mut rig = Rig::memory(fleet(4));
    rig.config.pace = Pace { cooldown_s: 3600, refresh_s: 0 };
    rig.restart();
    rig.good();
    let listed = |rig: &Rig| rig.sql("SELECT count(*) FROM requests");
    let path = rig.place.db("1.db").display().to_string();
    let ask = format!("INSERT INTO requests SELECT id FROM databases WHERE path = '{path}'");
    rig.execute(&ask);
    rig.execute("INSERT INTO requests VALUES(42), (-1)");
    let report = rig.good();
    assert_eq!((report.stored, report.requests, report.unchanged_content), (1, 1, 0), "{report:#?}");
    assert_eq!(listed(&rig), 0, "the unknown ones are dropped");
    assert_eq!(rig.keys().iter().filter(|key| key.contains("/1.db/")).count(), 2);
    rig.expect_idle();
    // Changed, but cooling down.
    Connection::open(&path).unwrap().execute_batch("INSERT INTO t VALUES(7)").unwrap();
    assert_eq!(rig.good().held, 1);
    rig.execute(&ask);
    let report = rig.good();
    assert_eq!((report.stored, report.held, listed(&rig)), (1, 0, 0), "{report:#?}");
    // A failure, and a restart, lose no request.
    rig.execute(&ask);
    rig.flaky.plan(|_, _| Fate::Fail);
    assert_eq!((rig.cycle().failed(), listed(&rig)), (1, 1));
    rig.flaky.heal();
    rig.restart();
    assert_eq!((rig.good().stored, listed(&rig)), (1, 0));
    // Hidden for a while: asked for all the same when it is back; gone for good: dropped.
    rig.execute(&ask);
    rig.hide("1.db");
    rig.flaky.refuse_keys(".deleted");
    rig.cycle();
    assert_eq!(listed(&rig), 1);
    rig.flaky.heal();
    rig.bring_back("1.db");
    assert_eq!((rig.good().stored, listed(&rig)), (1, 0));
    rig.hide("1.db");
    rig.execute(&ask);
    assert_eq!((rig.good().gone, listed(&rig)), (1, 0));
    rig.expect_idle();
}

/// More requests than one wave takes are all met in one cycle, each once.
#[test]
fn a_request_for_everything_stores_everything_once() {
    let mut rig = Rig::memory(fleet(300));
    rig.good();
    rig.execute("INSERT INTO requests SELECT id FROM databases");
    let report = rig.good();
    assert_eq!((report.stored, report.requests), (300, 300));
    rig.expect_idle();
}

/// As another process asks for it, with the real binary and `--once`.
#[test]
fn once_meets_requests_and_writes_tombstones() {
    let place = fleet(3);
    let once =
        || Ran::from(place.replicate("data/**/*.db", &["--once", "--host", "h"]).output().unwrap()).expect_code(0);
    once();
    assert!(eventually(Duration::from_secs(20), || once().count("changed") == 0));
    let meta = |name: &str| -> String {
        let state = Connection::open(place.state_db()).unwrap();
        state.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0)).unwrap()
    };
    let identity = Identity { store: meta("store"), template: meta("template"), host: meta("host") };
    let (db, _) = StateDb::open(&place.state_db(), &identity, 0).unwrap();
    let id = litesnap::state::id_of(&place.db("0.db").canonicalize().unwrap(), db.seed());
    db.request([id]).unwrap();
    drop(db);
    fs::remove_file(place.db("2.db")).unwrap();
    let ran = once();
    assert_eq!((ran.count("stored"), ran.count("gone"), ran.count("requests")), (1, 1, 2), "{ran:#?}");
    assert_eq!((place.objects_of("0.db").len(), place.objects_of("2.db").len()), (2, 2));
    assert!(place.objects_of("2.db")[1].key.ends_with(".deleted"));
    assert_eq!(once().count("requests"), 0);
}

/// A state of a litesnap that wrote no tombstones is taken over.
#[test]
fn a_state_without_tombstones_is_taken_over() {
    let mut rig = Rig::memory(fleet(3));
    rig.good();
    rig.remove("2.db");
    rig.good();
    rig.replicator = None;
    rig.execute(
        "ALTER TABLE databases DROP COLUMN tombstone_ms; DROP TABLE requests; DROP TABLE days; \
         DELETE FROM meta WHERE name = 'accept_gone'",
    );
    rig.restart();
    rig.expect_idle();
    rig.remove("1.db");
    assert_eq!(rig.good().gone, 1);
    rig.expect_idle();
    assert_eq!(rig.tombstones(), 2);
}

/// The state counts what is stored each day, and the loop says what that comes to.
#[test]
fn the_loop_says_how_many_objects_a_day_pile_up() {
    let mut rig = Rig::memory(fleet(20));
    assert_eq!(rig.good().stored, 20);
    let bytes: i64 = rig.keys().len().try_into().unwrap();
    assert_eq!((rig.sql("SELECT sum(objects) FROM days"), bytes), (20, 20));
    let mut stored = 0;
    for n in 0..3 {
        rig.clock.advance(86_400 * SECOND);
        Connection::open(rig.place.db("0.db")).unwrap().execute("INSERT INTO t VALUES(?1)", [n]).unwrap();
        stored += rig.good().bytes;
        rig.remove(&format!("{}.db", 5 + n));
        rig.good();
    }
    assert_eq!((rig.sql("SELECT count(*) FROM days"), rig.sql("SELECT sum(objects) FROM days")), (4, 23));
    let later = "SELECT sum(bytes) FROM days WHERE day > (SELECT min(day) FROM days)";
    assert_eq!(u64::try_from(rig.sql(later)).unwrap(), stored);
    assert_eq!(rig.replicator.as_ref().unwrap().objects_per_day(), Some(1.0));

    let place = fleet(1);
    let first = place.start_loop("1h", &[]);
    assert!(eventually(Duration::from_secs(20), || place.objects().len() == 1));
    let ran = first.stop().expect_code(0);
    assert!(ran.err.contains("nothing is removed from the store (litesnap prune, or --keep standard)"), "{}", ran.err);
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9) \
               INSERT INTO days SELECT unixepoch() / 86400 - i, 250, 1 FROM n";
    Connection::open(place.state_db()).unwrap().execute_batch(sql).unwrap();
    Connection::open(place.db("0.db")).unwrap().execute_batch("INSERT INTO t VALUES(7)").unwrap();
    let second = place.start_loop("1h", &[]);
    assert!(eventually(Duration::from_secs(20), || place.objects().len() == 2));
    let ran = second.stop().expect_code(0);
    assert!(ran.err.contains("store: about 250 objects a day pile up (litesnap prune"), "{}", ran.err);
}
