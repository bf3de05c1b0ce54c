//! A day of cycles under a clock that the test moves, beside a model that is a plain map; and clocks that jump by a year.
//!
//! The files are real, so what is written gets the time of the clock as its mtime. Databases are written in this process, which closes
//! its connections before each cycle: closing them while a cycle reads would drop its locks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::TryStreamExt;
use litesnap::clock::{Clock, FixedClock, Nanos, SECOND, SystemClock};
use litesnap::config::{Config, MEMORY_LIMIT_MIN, parse_patterns};
use litesnap::control::Control;
use litesnap::cycle::Silent;
use litesnap::detect::Pace;
use litesnap::layout::{KeyKind, parse_key};
use litesnap::replicate::Replicator;
use litesnap::report::CycleReport;
use litesnap::store::{Store, StoreOptions};
use object_store::ObjectStoreExt;
use rusqlite::Connection;

use crate::fault_shim::place;
use crate::flaky::{Fate, Flaky, Op};
use crate::library::{once_unlocked, set_mtime};
use crate::place::{Place, rows};

const YEAR: Nanos = 365 * 86_400 * SECOND;
const HOUR: Nanos = 3600 * SECOND;

/// A replicator on a store in memory that fails on demand, under a clock that stands where it was set.
struct Host {
    place: Place,
    clock: Arc<FixedClock>,
    store: Store,
    flaky: Flaky,
    config: Config,
    replicator: Option<Replicator>,
}

/// What the store holds of one database.
#[derive(Debug, Default)]
struct Held {
    /// Keys of its snapshots, sorted.
    snapshots: Vec<String>,
    tombstones: Vec<String>,
}

impl Held {
    /// Its newest object is a tombstone.
    fn is_buried(&self) -> bool {
        let time = |key: &String| parse_key(key).unwrap().ts;
        self.tombstones.last().map(time) > self.snapshots.last().map(time)
    }
}

impl Host {
    fn new() -> Self {
        let place = place();
        let store = StoreOptions::new("memory://");
        let config = Config {
            patterns: parse_patterns(&["data/**/*.db"], place.path()).unwrap(),
            host: "host".into(),
            state_dir: place.state(),
            memory_limit: MEMORY_LIMIT_MIN,
            ..Config::new(store.clone())
        };
        let store = Store::open(&store, &Vec::new()).unwrap();
        let flaky = Flaky::new(Arc::clone(&store.inner));
        let clock = Arc::new(FixedClock::new(SystemClock.now()));
        let mut host = Self { place, clock, store, flaky, config, replicator: None };
        host.restart();
        host
    }

    /// A new process on the same state.
    fn restart(&mut self) {
        self.replicator = None;
        self.replicator = Some(once_unlocked(|| {
            let mut store = self.store.clone();
            store.inner = Arc::new(self.flaky.clone());
            let clock: Arc<dyn Clock> = Arc::<FixedClock>::clone(&self.clock);
            Replicator::with_store(self.config.clone(), store, clock, Arc::new(Control::default()), Arc::new(Silent))
        }));
    }

    fn cycle(&mut self, ignore_cooldown: bool) -> CycleReport {
        self.replicator.as_mut().unwrap().run_cycle(ignore_cooldown)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.data().join(name)
    }

    /// Commits `value` at the time of the clock; makes the database if there is none.
    fn commit(&self, name: &str, wal: bool, value: i64) {
        let path = self.path(name);
        let is_new = !path.exists();
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA synchronous = OFF").unwrap();
        if is_new {
            conn.pragma_update(None, "journal_mode", if wal { "wal" } else { "delete" }).unwrap();
            conn.execute_batch("CREATE TABLE t(x)").unwrap();
        }
        conn.execute("INSERT INTO t VALUES(?1)", [value]).unwrap();
        drop(conn);
        set_mtime(&path, self.clock.now());
    }

    fn held(&self) -> BTreeMap<String, Held> {
        let list = self.store.inner.list(None).map_ok(|meta| meta.location.to_string()).try_collect::<Vec<_>>();
        let mut keys = self.block_on(list).unwrap();
        keys.sort();
        let mut held = BTreeMap::<String, Held>::new();
        let data = format!("{}/", self.place.data().strip_prefix("/").unwrap().display());
        for key in keys {
            let parsed = parse_key(&key).unwrap();
            let of = held.entry(parsed.prefix.strip_prefix(&data).unwrap().to_owned()).or_default();
            match parsed.kind {
                KeyKind::Snapshot => of.snapshots.push(key),
                _ => of.tombstones.push(key),
            }
        }
        held
    }

    /// The rows in the object under `key`.
    fn rows_in(&self, key: &str) -> Vec<i64> {
        let path = object_store::path::Path::parse(key).unwrap();
        let bytes = async { self.store.inner.get(&path).await?.bytes().await };
        let mut image = Vec::new();
        litesnap::object::decode(&self.block_on(bytes).unwrap()[..], Some(key), &mut image).unwrap();
        let scratch = self.place.path().join("image");
        fs::write(&scratch, &image).unwrap();
        rows(&Connection::open(scratch).unwrap())
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.replicator.as_ref().unwrap().runtime().block_on(future)
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What a host should come to: a map, and counts.
struct Day {
    host: Host,
    random: Random,
    /// Rows of each database that is there.
    live: BTreeMap<String, Vec<i64>>,
    /// Databases that were seen in a cycle and are gone since.
    buried: BTreeSet<String>,
    /// Written since the last cycle that had nothing left to do.
    is_quiet: bool,
    outage_left: usize,
    next: i64,
    stored: u64,
    gone: u64,
    checked: usize,
    quiet: usize,
    events: BTreeMap<&'static str, usize>,
}

/// A day of cycles, 30 s apart.
const CYCLES: usize = 2880;

impl Day {
    fn new(seed: u64) -> Self {
        let mut host = Host::new();
        host.config.pace = Pace { cooldown_s: 90, refresh_s: 0 };
        host.restart();
        let mut day = Self {
            host,
            random: Random(seed | 1),
            live: BTreeMap::new(),
            buried: BTreeSet::new(),
            is_quiet: false,
            outage_left: 0,
            next: 0,
            stored: 0,
            gone: 0,
            checked: 0,
            quiet: 0,
            events: BTreeMap::new(),
        };
        (0..40).for_each(|_| day.create());
        day
    }

    fn did(&mut self, what: &'static str) {
        *self.events.entry(what).or_default() += 1;
        self.is_quiet = false;
    }

    fn any(&mut self) -> Option<String> {
        let n = self.live.len();
        (n > 20).then(|| self.live.keys().nth(self.random.below(n)).unwrap().clone())
    }

    fn create(&mut self) {
        self.next += 1;
        let name = format!("{}.db", self.next);
        self.write(&name);
    }

    fn write(&mut self, name: &str) {
        self.next += 1;
        self.host.commit(name, self.next % 2 == 0, self.next);
        self.live.entry(name.to_owned()).or_default().push(self.next);
        self.buried.remove(name);
    }

    fn delete(&mut self, name: &str) {
        for suffix in ["", "-wal", "-shm"] {
            fs::remove_file(self.host.path(&format!("{name}{suffix}"))).ok();
        }
        self.live.remove(name);
        self.buried.insert(name.to_owned());
    }

    fn rename(&mut self, from: &str, to: &str) {
        fs::rename(self.host.path(from), self.host.path(to)).unwrap();
        let rows = self.live.remove(from).unwrap();
        self.live.insert(to.to_owned(), rows);
        self.buried.insert(from.to_owned());
        self.buried.remove(to);
    }

    /// What may happen between two cycles.
    fn happen(&mut self) {
        for _ in 0..self.random.below(3) {
            let Some(name) = self.any() else { break };
            if self.random.one_in(3) {
                self.write(&name);
                self.did("write");
            }
        }
        if self.random.one_in(60) {
            self.create();
            self.did("create");
        }
        if self.random.one_in(90)
            && let Some(name) = self.any()
        {
            self.delete(&name);
            self.did("delete");
        }
        if self.random.one_in(60)
            && let Some(from) = self.any()
        {
            // Back to a name it had, or to a new one, or over another database.
            let to = match self.random.below(3) {
                0 => self.buried.first().cloned().unwrap_or_else(|| format!("moved-{from}")),
                1 => self.any().unwrap(),
                _ => format!("moved-{from}"),
            };
            if to != from && to.len() < 40 {
                self.rename(&from, &to);
                self.did("rename");
            }
        }
        if self.outage_left == 0 && self.random.one_in(200) {
            self.outage_left = 1 + self.random.below(10);
            self.did("outage");
            let refuse = self.random.one_in(2);
            let mut odds = Random(self.next.unsigned_abs() | 1);
            self.host.flaky.plan(move |op, _| match op {
                Op::Get => Fate::Serve,
                // Refused as a whole, or every other put fails.
                _ if refuse => Fate::Refuse,
                _ if odds.one_in(2) => Fate::Fail,
                _ => Fate::Serve,
            });
        }
        if self.random.one_in(150) {
            self.host.restart();
            self.did("restart");
        }
    }

    fn cycle(&mut self, n: usize) {
        let was_quiet = self.is_quiet && self.outage_left == 0;
        let report = self.host.cycle(false);
        let what = format!("cycle {n}: {}", report.text());
        self.stored += report.stored;
        self.gone += report.gone;
        assert_eq!(report.databases, self.live.len() as u64, "{what}");
        if was_quiet && self.host.config.pace.refresh_s == 0 {
            assert_eq!((report.requests, report.stored), (0, 0), "nothing changed: {what}");
            self.quiet += 1;
        }
        assert!(self.outage_left > 0 || report.exit_code() == 0, "{what}");
        self.is_quiet = report.exit_code() == 0 && report.held == 0 && self.outage_left == 0;
        if self.outage_left > 0 {
            self.outage_left -= 1;
            if self.outage_left == 0 {
                self.host.flaky.heal();
                self.is_quiet = false;
            }
        }
    }

    /// With the store up and the cooldown over: the store holds what the model says, and as much as was counted.
    fn checkpoint(&mut self, n: usize) {
        self.host.flaky.heal();
        self.outage_left = 0;
        let report = self.host.cycle(true);
        (self.stored, self.gone) = (self.stored + report.stored, self.gone + report.gone);
        assert_eq!((report.exit_code(), report.held), (0, 0), "cycle {n}: {}", report.text());
        let held = self.host.held();
        for (name, rows) in &self.live {
            let of = held.get(name).unwrap_or_else(|| panic!("cycle {n}: nothing is stored of {name}"));
            let newest = of.snapshots.last().unwrap_or_else(|| panic!("cycle {n}: no snapshot of {name}"));
            assert_eq!(self.host.rows_in(newest), *rows, "cycle {n}: {name}: {newest}");
            assert!(!of.is_buried(), "cycle {n}: {name} is there, and called gone");
        }
        for name in &self.buried {
            // One that came and went between two cycles was never seen.
            assert!(held.get(name).is_none_or(Held::is_buried), "cycle {n}: {name} is gone, and not called so");
        }
        let count = |of: fn(&Held) -> usize| held.values().map(of).sum::<usize>() as u64;
        let counts = (count(|of| of.snapshots.len()), count(|of| of.tombstones.len()));
        assert_eq!(counts, (self.stored, self.gone), "cycle {n}: objects, and what was counted");
        self.checked += self.live.len() + self.buried.len();
        self.is_quiet = true;
    }
}

#[test]
fn a_day_of_cycles_ends_as_a_plain_map_says() {
    let seed = std::env::var("LITESNAP_TEST_SEED").map_or(0x000d_a7e5_eed1, |seed| seed.parse().unwrap());
    println!("LITESNAP_TEST_SEED={seed}");
    let mut day = Day::new(seed);
    for n in 1..=CYCLES {
        day.host.clock.advance(30 * SECOND);
        // The clock is set an hour back, and later forth again.
        match n {
            900 => day.host.clock.advance(-HOUR),
            1800 => day.host.clock.advance(HOUR),
            // The second half of the day everything is stored again every two hours.
            1440 => {
                day.host.config.pace = Pace { cooldown_s: 90, refresh_s: 7200 };
                day.host.restart();
            }
            _ => {}
        }
        // Half of the time the fleet is at rest.
        if n / 40 % 2 == 0 {
            day.happen();
        }
        day.cycle(n);
        if n % 240 == 0 {
            day.checkpoint(n);
        }
    }
    println!("{CYCLES} cycles, {} stored, {} gone, {:?}", day.stored, day.gone, day.events);
    println!("{} of them quiet; {} databases compared with the model", day.quiet, day.checked);
    assert!(day.quiet > CYCLES / 8 && day.checked > 300);
    assert!(["write", "create", "delete", "rename", "outage", "restart"].iter().all(|e| day.events.contains_key(e)));
}

/// The times in the keys of `name`, in the order of its commits; each holds one row more than the one before it.
fn check_order(host: &Host, name: &str) -> usize {
    let keys = host.held().remove(name).unwrap().snapshots;
    let lengths: Vec<usize> = keys.iter().map(|key| host.rows_in(key).len()).collect();
    assert!(lengths.is_sorted(), "{name}: a later key holds an older commit: {keys:?}, {lengths:?}");
    *lengths.last().unwrap()
}

/// T11, T55: a clock that jumps between cycles, by whatever.
#[test]
fn a_clock_that_jumps_between_cycles_loses_nothing_and_keys_go_up() {
    let jumps = [YEAR, -YEAR, -YEAR, 2 * YEAR, -HOUR, HOUR, -2 * SECOND, 3 * 86_400 * SECOND, -30 * YEAR, 30 * YEAR];
    for pace in [Pace::default(), Pace { cooldown_s: 600, refresh_s: 86_400 }] {
        let mut host = Host::new();
        host.config.pace = pace;
        host.restart();
        host.commit("a.db", true, 0);
        host.commit("still.db", false, 0);
        assert_eq!(host.cycle(false).stored, 2);
        for (n, jump) in jumps.into_iter().enumerate() {
            host.clock.advance(jump);
            host.commit("a.db", true, 1);
            if n % 2 == 0 {
                host.restart();
            }
            let first = host.cycle(false);
            // Held back at most for the cooldown from now on, whatever the clock said before.
            host.clock.advance(601 * SECOND);
            let second = host.cycle(false);
            assert_eq!(first.failed() + second.failed(), 0, "{jump}: {first:?}, {second:?}");
            assert_eq!(check_order(&host, "a.db"), n + 2, "{jump}: {}, {}", first.text(), second.text());
            assert_eq!(check_order(&host, "still.db"), 1);
            let quiet = host.cycle(false);
            assert_eq!((quiet.requests, quiet.exit_code()), (0, 0), "{jump}: {}", quiet.text());
        }
    }
}

/// The same in the middle of a cycle: while an object is on its way.
#[test]
fn a_clock_that_jumps_during_a_cycle_loses_nothing_and_keys_go_up() {
    for jump in [YEAR, -YEAR, HOUR, -HOUR, -2 * SECOND] {
        let mut host = Host::new();
        for n in 0..5 {
            host.commit(&format!("{n}.db"), n % 2 == 0, 0);
        }
        for round in 1..4 {
            let (clock, mut puts) = (Arc::clone(&host.clock), 0);
            host.flaky.plan(move |op, _| {
                puts += usize::from(op == Op::Put);
                let clock = Arc::clone(&clock);
                if puts == 2 { Fate::Then(Arc::new(move || clock.advance(jump))) } else { Fate::Serve }
            });
            let report = host.cycle(false);
            assert_eq!((report.stored, report.failed()), (5, 0), "{jump}: {}", report.text());
            host.flaky.heal();
            for n in 0..5 {
                assert_eq!(check_order(&host, &format!("{n}.db")), round, "{jump}");
                host.commit(&format!("{n}.db"), n % 2 == 0, 1);
            }
            host.restart();
        }
    }
}
