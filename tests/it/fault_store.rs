//! Every request of each command may fail, once or from then on, its answer may be lost: what is said is true, nothing is half
//! done, and the next run makes it right. (The puts of `replicate` fail in `faults`.)

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use litesnap::access::Access;
use litesnap::clock::{Clock, FixedClock, MILLISECOND, SECOND, SystemClock};
use litesnap::config::{Config, MEMORY_LIMIT_MIN, Schedule, parse_patterns};
use litesnap::cycle::{Observer, Silent};
use litesnap::error::Error;
use litesnap::layout::{KeyKind, parse_key};
use litesnap::names::Names;
use litesnap::prune::{PruneOptions, prune};
use litesnap::replicate::Replicator;
use litesnap::restore::check::Check;
use litesnap::restore::{RestoreOptions, Target, restore};
use litesnap::retention::Rules;
use litesnap::store::{Patience, StoreOptions};
use litesnap::timestamp::Timestamp;
use litesnap::verify::{Extent, VerifyOptions, verify};

use crate::fault_shim::place;
use crate::library::once_unlocked;
use crate::place::Place;
use crate::s3_server::{Fault, S3Server};

const LAST_1: Rules = Rules { last: 1, within: None, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0 };
const NAMES: [&str; 3] = ["a.db", "b/c.db", "d.db"];

/// Two snapshots of each of three databases, put on a server of its own for each case.
struct Stored {
    /// Where they were made: into a folder, whose keys are those of the bucket.
    place: Place,
    objects: Vec<(String, Vec<u8>)>,
    newest: BTreeSet<String>,
}

/// One case: a server that holds them, and a folder to work in.
struct Case {
    stored: Arc<Stored>,
    server: S3Server,
    dir: tempfile::TempDir,
    clock: Arc<FixedClock>,
    /// How long a failing request is made again: long where it will succeed, however slow the machine; short where it cannot.
    patience: Cell<Patience>,
}

const LONG: Patience = Patience { silent: Duration::from_secs(30), busy: Duration::from_secs(30) };
const SHORT: Patience = Patience { silent: Duration::from_millis(50), busy: Duration::from_millis(100) };

impl Stored {
    fn new() -> Self {
        let place = place();
        for (name, mode) in NAMES.iter().zip(["delete", "wal", "persist"]) {
            place.make(name, mode, 3);
        }
        place.once().expect_code(0);
        for name in NAMES {
            rusqlite::Connection::open(place.db(name)).unwrap().execute_batch("INSERT INTO t VALUES(7)").unwrap();
        }
        place.once().expect_code(0);
        let newest = NAMES.map(|name| place.objects_of(name).pop().unwrap().key).into();
        let objects = place.objects().into_iter().map(|object| (object.key, object.bytes)).collect::<Vec<_>>();
        assert_eq!(objects.len(), 6);
        Self { place, objects, newest }
    }

    fn case(self: &Arc<Self>) -> Case {
        let server = S3Server::start();
        self.objects.iter().for_each(|(key, bytes)| server.put("bucket", key, bytes));
        let clock = Arc::new(FixedClock::new(SystemClock.now()));
        let (dir, patience) = (tempfile::tempdir().unwrap(), Cell::new(LONG));
        Case { stored: Arc::clone(self), server, dir, clock, patience }
    }
}

impl Case {
    fn options(&self) -> StoreOptions {
        let patience = self.patience.get();
        let request_timeout = Duration::from_secs(20);
        StoreOptions { patience, request_timeout, ..StoreOptions::new(self.server.url("bucket", "")) }
    }

    fn access(&self) -> Result<Access, Error> {
        Access::open(&self.options(), &self.server.env(), 4, Arc::default())
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_ms(self.clock.now() / MILLISECOND).unwrap()
    }

    fn keys(&self, kind: KeyKind) -> BTreeSet<String> {
        let keys = self.server.objects("bucket").into_iter().map(|(key, _)| key);
        keys.filter(|key| parse_key(key).is_some_and(|parsed| parsed.kind == kind)).collect()
    }

    fn restore(&self) -> Result<u8, Error> {
        let options = RestoreOptions {
            names: Names::all(),
            at: None,
            target: Target::Into(self.dir.path().join("back")),
            include_deleted: false,
            include_bad: false,
            force: true,
            skip_existing: false,
            if_replica_exists: false,
            dry_run: false,
            check: Check::Quick,
        };
        let observer: Arc<dyn Observer> = Arc::new(Silent);
        restore(&self.access()?, &options, &observer, |_| Ok(())).map(|report| report.exit_code())
    }

    /// How many databases are back; each of them whole.
    fn restored(&self, what: &str) -> usize {
        let there = |key: &String| {
            let target = self.dir.path().join("back").join(parse_key(key).unwrap().prefix);
            let object = self.stored.objects.iter().find(|(k, _)| k == key).unwrap();
            let mut image = Vec::new();
            litesnap::object::decode(&object.1[..], None, &mut image).unwrap();
            let found = fs::read(&target).ok();
            assert!(found.is_none() || found.as_ref() == Some(&image), "{what}: {} is not whole", target.display());
            found.is_some()
        };
        self.stored.newest.iter().filter(|key| there(key)).count()
    }

    fn list(&self) -> Result<u8, Error> {
        let mut databases = Vec::new();
        self.access()?.catalogue(&Names::all())?.each::<Error>(|database| {
            databases.push(database.snapshots.len());
            Ok(())
        })?;
        // Whatever is listed is all there is.
        assert_eq!(databases, [2; 3]);
        Ok(0)
    }

    fn verify(&self) -> Result<u8, Error> {
        let extent = Extent::All;
        let options = VerifyOptions { names: Names::all(), extent, seed: None, mark: true, state_dir: None };
        let report = verify(&self.access()?, &options, self.now(), &Silent)?;
        assert!(report.exit_code() != 0 || report.counts.checked == 6, "{}", report.text());
        Ok(report.exit_code())
    }

    fn prune(&self) -> Result<u8, Error> {
        let options = PruneOptions { rules: LAST_1, ..PruneOptions::default() };
        prune(&self.access()?, &options, self.now(), &Silent).map(|report| report.exit_code())
    }

    /// Pruning and verifying beside a loop, both due.
    fn upkeep(&self) -> Result<u8, Error> {
        let state = self.dir.path().join("state");
        let config = Config {
            patterns: parse_patterns(&[self.stored.place.data().join("**/*.db")], self.dir.path()).unwrap(),
            host: "host".into(),
            state_dir: state,
            memory_limit: MEMORY_LIMIT_MIN,
            upkeep: Schedule { keep: LAST_1, verify: Some((Duration::from_secs(86_400), "100%".parse().unwrap())) },
            ..Config::new(self.options())
        };
        let clock: Arc<dyn Clock> = Arc::<FixedClock>::clone(&self.clock);
        let open = || {
            Replicator::open(config.clone(), &self.server.env(), Arc::clone(&clock), Arc::default(), Arc::new(Silent))
        };
        let replicator = once_unlocked(open);
        Ok(replicator.upkeep(&self.server.env())?.unwrap().run_due())
    }

    fn old_ones_left(&self) -> usize {
        self.keys(KeyKind::Snapshot).difference(&self.stored.newest).count()
    }
}

/// Tries a command with each of its requests failing. `truth` is told the exit code and what was done: after the run with the
/// fault, and after the next one, which must end with 0.
#[allow(clippy::print_stdout, reason = "how many runs there were is what a sweep has to show")]
fn sweep(name: &str, run: impl Fn(&Case) -> Result<u8, Error>, truth: impl Fn(&Case, u8, &str)) {
    let stored = Arc::new(Stored::new());
    let code = |case: &Case| run(case).unwrap_or_else(|e| e.exit_code());
    let clean = stored.case();
    assert_eq!(code(&clean), 0, "{name}");
    truth(&clean, 0, name);
    let requests = clean.server.log().len();
    let faults =
        [Fault::answer(500, "InternalError"), Fault::answer(403, "AccessDenied"), Fault::DropBefore, Fault::DropAfter];
    let mut runs = 0;
    for (fault, on) in faults.iter().flat_map(|fault| [(fault, false), (fault, true)]) {
        for at in 1..=requests {
            let (case, what) = (stored.case(), format!("{name}: request {at} of {requests}, on: {on}, {fault:?}"));
            if on {
                case.server.fail_from(at, fault.clone())
            } else {
                case.server.fail_nth(at, fault.clone())
            }
            case.patience.set(if on { SHORT } else { LONG });
            let ended = code(&case);
            case.patience.set(LONG);
            assert!(matches!(ended, 0 | 1 | 3), "{what}: {ended}");
            // What passes is asked for again, but for a refusal.
            let passes = !on && !matches!(fault, Fault::Answer(403, _));
            assert!(ended == 0 || !passes, "{what}: {ended}: {:?}", case.server.log());
            assert!(ended != 0 || !on, "{what}: a store that fails is no success");
            truth(&case, ended, &what);
            case.server.heal();
            // Beside the loop a run that failed is due again after an hour or a day.
            case.clock.advance(86_401 * SECOND);
            assert_eq!(code(&case), 0, "{what}, and then without");
            truth(&case, 0, &what);
            runs += 1;
        }
    }
    println!("{name}: {runs} runs with a failing request, {requests} requests each");
}

#[test]
fn any_request_of_a_restore_may_fail() {
    sweep("restore", Case::restore, |case, code, what| {
        let back = case.restored(what);
        assert!(code != 0 || back == NAMES.len(), "{what}: {back} are back");
    });
}

#[test]
fn any_request_of_a_listing_may_fail() {
    sweep("list", Case::list, |_, _, _| {});
}

#[test]
fn any_request_of_a_verify_may_fail_and_nothing_is_called_bad_for_it() {
    sweep("verify", Case::verify, |case, _, what| {
        assert_eq!(case.keys(KeyKind::BadMarker), BTreeSet::new(), "{what}");
    });
}

#[test]
fn any_request_of_a_prune_may_fail_and_the_newest_stay() {
    sweep("prune", Case::prune, |case, code, what| {
        assert!(case.stored.newest.is_subset(&case.keys(KeyKind::Snapshot)), "{what}: a newest one is gone");
        assert!(code != 0 || case.old_ones_left() == 0, "{what}");
    });
}

#[test]
fn any_request_of_what_runs_beside_the_loop_may_fail() {
    sweep("upkeep", Case::upkeep, |case, code, what| {
        assert!(case.stored.newest.is_subset(&case.keys(KeyKind::Snapshot)), "{what}: a newest one is gone");
        assert_eq!(case.keys(KeyKind::BadMarker), BTreeSet::new(), "{what}");
        assert!(code != 0 || case.old_ones_left() == 0, "{what}");
    });
}
