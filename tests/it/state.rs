//! What is remembered between cycles: damage, cooldown, refresh, clocks, deletions.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use litesnap::clock::{Clock, FixedClock, SECOND, SystemClock};
use litesnap::config::{Config, MEMORY_LIMIT_MIN, parse_patterns};
use litesnap::control::Control;
use litesnap::cycle::Silent;
use litesnap::detect::Pace;
use litesnap::layout::{KeyKind, parse_key};
use litesnap::replicate::Replicator;
use litesnap::report::CycleReport;
use litesnap::store::{Store, StoreOptions};
use nix::sys::signal::Signal;
use rusqlite::Connection;

use crate::library::once_unlocked;
use crate::place::{Place, Ran, eventually, python, rows};

/// A replicator on a memory store, with a clock that stands.
struct Library {
    place: Place,
    store: Store,
    clock: Arc<FixedClock>,
    config: Config,
    replicator: Option<Replicator>,
}

impl Library {
    /// The clock stands an hour ahead of the system's, so that no stamp of a file just made is racy.
    fn new(place: Place, pace: Pace) -> Self {
        let store = StoreOptions::new("memory://");
        let config = Config {
            patterns: parse_patterns(&[place.data().join("**/*.db")], Path::new("/")).unwrap(),
            host: "web-1".into(),
            state_dir: place.state(),
            memory_limit: MEMORY_LIMIT_MIN,
            pace,
            ..Config::new(store.clone())
        };
        let clock = Arc::new(FixedClock::new(SystemClock.now() + 3600 * SECOND));
        let mut library =
            Self { place, store: Store::open(&store, &Vec::new()).unwrap(), clock, config, replicator: None };
        library.restart();
        library
    }

    fn restart(&mut self) {
        self.replicator = None;
        self.replicator = Some(once_unlocked(|| {
            let (config, store, clock) = (self.config.clone(), self.store.clone(), Arc::clone(&self.clock));
            Replicator::with_store(config, store, clock, Arc::new(Control::default()), Arc::new(Silent))
        }));
    }

    fn cycle(&mut self) -> CycleReport {
        self.replicator.as_mut().unwrap().run_cycle(false)
    }

    /// The times in the keys of all snapshots, in ms, in the order of their keys.
    fn key_times(&self) -> Vec<i64> {
        let list = self.store.inner.list(None).map_ok(|meta| meta.location).try_collect::<Vec<_>>();
        let keys = self.replicator.as_ref().unwrap().runtime().block_on(list).unwrap();
        let time = |key: &str| parse_key(key).filter(|key| key.kind == KeyKind::Snapshot).unwrap().ts.as_ms();
        keys.iter().map(|key| time(key.as_ref())).collect()
    }

    fn insert(&self, name: &str) {
        Connection::open(self.place.db(name)).unwrap().execute_batch("INSERT INTO t VALUES(7)").unwrap();
    }
}

fn once(place: &Place, more: &[&str]) -> Ran {
    place.replicate("data/**/*.db", &[&["--once"], more].concat()).output().unwrap().into()
}

fn fleet(n: u32) -> Place {
    let place = Place::new();
    let template = place.make("0.db", "delete", 1);
    for n in 1..n {
        fs::copy(&template, place.db(&format!("{n}.db"))).unwrap();
    }
    place
}

/// Every database has an object with its present content.
#[track_caller]
fn expect_all_stored(place: &Place, names: &[&str]) {
    for name in names {
        let conn = Connection::open(place.db(name)).unwrap();
        assert_eq!(place.newest_rows(name), rows(&conn), "{name}");
    }
}

#[test]
fn the_state_is_an_ordinary_database_readable_while_the_loop_runs() {
    let place = Place::new();
    let path = place.make("a.db", "wal", 1);
    fs::write(place.db("bad.db"), "certainly no database").unwrap();
    let running = place.start_loop("100ms", &[]);
    assert!(eventually(Duration::from_secs(20), || place.objects().len() == 1));
    let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=10)\n\
                  for row in c.execute('SELECT path, last_key, stored_utc, error FROM snapshots ORDER BY path'): print(row)";
    let read = || {
        let output = python(script, &place.state_db()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(eventually(Duration::from_secs(10), || read().lines().count() == 2), "{}", read());
    let (shown, key) = (read(), place.objects().remove(0).key);
    assert!(shown.contains(path.to_str().unwrap()) && shown.contains(key.rsplit_once('/').unwrap().1), "{shown}");
    assert!(shown.contains("not-a-database: "), "{shown}");
    assert!(running.stop().expect_code(0).err.contains("stored=1"));
}

type Damage = Box<dyn Fn(&Path)>;

/// How a state can be wrong, by name, and what is done to its file.
fn damages(size: u64) -> Vec<(String, Damage)> {
    let mut all: Vec<(String, Damage)> = Vec::new();
    let flip = |at: u64, len: usize| -> Damage {
        Box::new(move |path| {
            let file = fs::File::options().read(true).write(true).open(path).unwrap();
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, at).unwrap();
            bytes.iter_mut().for_each(|b| *b ^= 0xff);
            file.write_all_at(&bytes, at).unwrap();
        })
    };
    for page in 0..size / 4096 {
        all.push((format!("head of page {page}"), flip(page * 4096, 8)));
        all.push((format!("end of page {page}"), flip(page * 4096 + 4000, 64)));
        all.push((format!("middle of page {page}"), flip(page * 4096 + 2000, 100)));
        all.push((format!("all of page {page}"), flip(page * 4096, 4096)));
    }
    for at in [16_u64, 18, 19, 20, 21, 24, 28, 36, 44, 47, 52, 56, 60, 68, 92, 100, 103, 105, 108] {
        all.push((format!("byte {at}"), flip(at, 1)));
    }
    for len in [0, 1, 50, 100, 512, 4096, 4097, size / 2, size - 4096, size - 1] {
        let cut = move |path: &Path| fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
        all.push((format!("cut to {len}"), Box::new(cut)));
    }
    all.push(("text".into(), Box::new(|path| fs::write(path, "not a database at all\n".repeat(500)).unwrap())));
    all.push((
        "foreign".into(),
        Box::new(|path| {
            fs::remove_file(path).unwrap();
            Connection::open(path).unwrap().execute_batch("CREATE TABLE meta(x); CREATE TABLE databases(y)").unwrap();
        }),
    ));
    all.push((
        "later".into(),
        Box::new(|path| Connection::open(path).unwrap().pragma_update(None, "user_version", 99).unwrap()),
    ));
    for (name, sql) in [
        ("other seed", "UPDATE meta SET value = 77 WHERE name = 'seed'"),
        ("no seed", "DELETE FROM meta WHERE name = 'seed'"),
        ("text seed", "UPDATE meta SET value = 'x' WHERE name = 'seed'"),
        ("no meta", "DROP TABLE meta"),
        ("no column", "DROP VIEW snapshots; ALTER TABLE databases DROP COLUMN failed_s"),
        ("odd values", "UPDATE databases SET content_hash = 'x', prefix = x'ff', key_ms = 'soon', stored_s = -1"),
        ("last key", "UPDATE databases SET key_ms = 9223372036854775807, stamped_ns = 0, mtime_ns = 0"),
        ("other ids", "UPDATE databases SET id = id + 1"),
        ("other paths", "UPDATE databases SET path = path || 'x'"),
        ("no stamps", "UPDATE databases SET dev = NULL"),
    ] {
        all.push((name.into(), Box::new(move |path| Connection::open(path).unwrap().execute_batch(sql).unwrap())));
    }
    all
}

/// T10, T49: whatever became of the state, nothing crashes, no database is left unstored, and no file is destroyed.
#[test]
fn a_damaged_state_never_leaves_a_database_unstored() {
    const N: usize = 40;
    let place = Place::new();
    let template = place.make("template", "delete", 1);
    let names: Vec<String> = (0..N).map(|n| format!("{}{n}.db", "tenant".repeat(8))).collect();
    for name in &names {
        fs::copy(&template, place.db(name)).unwrap();
    }
    once(&place, &[]).expect_code(0);
    // Past the time in which stamps are racy, so that a row that is believed is believed without a look.
    assert!(eventually(Duration::from_secs(20), || once(&place, &[]).count("changed") == 0));
    let path = place.state_db();
    let (good, size) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().len());
    assert!(size >= 5 * 4096, "{size}: several pages of rows");
    let stored = place.path().join("stored");
    fs::rename(place.store(), &stored).unwrap();
    let (mut changed, mut asides) = (1_i64, 0);
    for (name, damage) in damages(size) {
        for entry in fs::read_dir(place.state()).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()) {
            fs::remove_file(entry).unwrap();
        }
        fs::write(&path, &good).unwrap();
        fs::remove_dir_all(place.store()).ok();
        assert!(std::process::Command::new("cp").arg("-r").arg(&stored).arg(place.store()).status().unwrap().success());
        damage(&path);
        let damaged = fs::read(&path).unwrap();
        // Two of them changed meanwhile.
        for n in [3, 30] {
            let conn = Connection::open(place.db(&names[n])).unwrap();
            conn.execute("INSERT INTO t VALUES(?1)", [changed]).unwrap();
        }
        changed += 1;
        let ran = once(&place, &[]);
        assert!(ran.code == Some(0) && !ran.err.contains("panicked"), "{name}: {ran:#?}");
        assert!(ran.count("stored") >= 2, "{name}: {ran:#?}");
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        expect_all_stored(&place, &all);
        let aside = |p: &PathBuf| p.to_str().unwrap().contains(".db.damaged-") && fs::read(p).unwrap() == damaged;
        if ran.err.contains("set aside") {
            asides += 1;
            assert_eq!(ran.count("stored"), u64::try_from(N).unwrap(), "{name}");
            let kept = fs::read_dir(place.state()).unwrap().map(|e| e.unwrap().path()).any(|p| aside(&p));
            assert!(kept || name == "later", "{name}: the damaged file is kept as it was");
        } else {
            assert!(!["text", "foreign", "later", "no meta", "no seed"].contains(&name.as_str()), "{name}: {ran:#?}");
        }
        // The next run is an ordinary one.
        assert_eq!(once(&place, &[]).expect_code(0).count("stored"), 0, "{name}");
    }
    assert!(asides > 20, "{asides}");
}

/// A held change is named, and stored as soon as its time is up; other databases are not concerned.
#[test]
fn a_change_within_the_cooldown_is_held_and_stored_when_it_is_over() {
    let place = fleet(2);
    let mut library = Library::new(place, Pace { cooldown_s: 1800, refresh_s: 0 });
    assert_eq!(library.cycle().stored, 2);
    library.clock.advance(60 * SECOND);
    library.insert("0.db");
    let held = library.cycle();
    assert_eq!((held.stored, held.held, held.requests, held.exit_code()), (0, 1, 0, 0));
    let (n, named) = library.replicator.as_ref().unwrap().held(20);
    assert_eq!((n, named), (1, vec![library.place.db("0.db")]));
    assert!(held.line().contains("held=1"), "{}", held.line());
    library.clock.advance(1739 * SECOND);
    assert_eq!(library.cycle().held, 1, "one second short");
    // Also over a restart.
    library.restart();
    assert_eq!(library.cycle().held, 1);
    library.clock.advance(SECOND);
    let over = library.cycle();
    assert_eq!((over.stored, over.held), (1, 0));
    assert_eq!(library.replicator.as_ref().unwrap().held(20).0, 0);
    // Asked for by name: at once.
    library.insert("0.db");
    assert_eq!(library.cycle().held, 1);
    assert_eq!(library.replicator.as_mut().unwrap().run_cycle(true).stored, 1);
    // A clock set back a year must not hold a change for a year.
    library.insert("0.db");
    library.clock.advance(-365 * 86_400 * SECOND);
    assert_eq!(library.cycle().stored, 1);
}

/// T52.
#[test]
fn once_and_a_drain_name_what_is_held_and_sigusr1_stores_it() {
    let place = fleet(2);
    once(&place, &[]).expect_code(0);
    let insert = |name: &str| {
        Connection::open(place.db(name)).unwrap().execute_batch("INSERT INTO t VALUES(7)").unwrap();
    };
    insert("0.db");
    let held = once(&place, &["--cooldown", "1h"]).expect_code(0);
    assert!(held.out.contains(" held=") && held.count("stored") == 0, "{held:#?}");
    assert!(held.err.contains("cooldown: ") && held.err.contains(place.db("0.db").to_str().unwrap()), "{held:#?}");
    let running = place.start_loop("1h", &["--cooldown", "1h"]);
    assert!(eventually(Duration::from_secs(20), || place.state_db().with_extension("db-wal").exists()));
    let stored = |name: &str, n: usize| eventually(Duration::from_secs(10), || place.objects_of(name).len() == n);
    // The handler is in place as soon as the loop is: its log says so, but a pipe is read at the end only.
    assert!(eventually(Duration::from_secs(10), || signals_caught(running.pid(), Signal::SIGUSR1)));
    running.signal(Signal::SIGUSR1);
    assert!(stored("0.db", 2), "the signal stores what is held");
    insert("0.db");
    // A cycle that is held: the loop would only look again in an hour.
    let ran = running.stop().expect_code(0);
    assert!(ran.err.contains("stopping"), "{ran:#?}");
    let running = place.start_loop("200ms", &["--cooldown", "1h"]);
    assert!(!stored("0.db", 3) && place.objects_of("0.db").len() == 2);
    let ran = running.stop().expect_code(0);
    assert!(ran.err.contains("held back by their cooldown: ") && ran.err.contains("0.db"), "{ran:#?}");
    assert_eq!(ran.err.matches("cycle=").count(), 0, "what is only held makes no line each cycle: {}", ran.err);
}

/// Whether the process catches `signal`.
fn signals_caught(pid: i32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0);
    mask & (1 << (signal as i32 - 1)) != 0
}

/// T51: each unchanged database is stored again once in each period, not all at once, and its newest copy is never
/// older than that.
#[test]
fn refresh_stores_unchanged_databases_again_spread_over_the_period() {
    const DAY: u32 = 86_400;
    let mut library = Library::new(fleet(60), Pace { cooldown_s: 0, refresh_s: 30 * DAY });
    assert_eq!(library.cycle().stored, 60);
    let mut each_day = Vec::new();
    for day in 1..=60 {
        library.clock.advance(i64::from(DAY) * SECOND);
        if day % 20 == 0 {
            library.restart();
        }
        let report = library.cycle();
        assert_eq!((report.stored, report.exit_code()), (report.requests, 0));
        each_day.push(report.stored);
    }
    assert_eq!(each_day[..30].iter().sum::<u64>(), 60, "{each_day:?}");
    assert_eq!(each_day[30..].iter().sum::<u64>(), 60, "{each_day:?}");
    assert!(each_day.iter().all(|n| *n <= 10), "spread: {each_day:?}");
}

/// T11: keys of one database only ever go up.
#[test]
fn a_clock_set_back_gives_keys_above_the_last() {
    let mut library = Library::new(fleet(1), Pace::default());
    assert_eq!(library.cycle().stored, 1);
    let first = library.key_times();
    library.insert("0.db");
    library.clock.advance(-3600 * SECOND);
    let report = library.cycle();
    assert_eq!((report.stored, report.exit_code()), (1, 0));
    assert_eq!(library.key_times(), [first[0], first[0] + 1]);
    library.restart();
    library.insert("0.db");
    assert_eq!(library.cycle().stored, 1);
    assert_eq!(library.key_times(), [first[0], first[0] + 1, first[0] + 2]);
}

/// T55.
#[test]
fn a_clock_more_than_a_day_behind_the_last_key_is_an_alarm() {
    let mut library = Library::new(fleet(30), Pace::default());
    let good = library.clock.now();
    library.clock.advance(3 * 86_400 * SECOND);
    assert_eq!(library.cycle().stored, 30);
    for n in 0..30 {
        library.insert(&format!("{n}.db"));
    }
    library.clock.set(good);
    let report = library.cycle();
    assert_eq!((report.stored, report.exit_code()), (30, 1), "stored all the same");
    assert_eq!(report.errors.len(), 21, "named, within a limit: {:?}", report.errors);
    assert!(report.errors[0].contains("days ahead of this clock") && report.errors[0].contains(".db "));
    assert!(report.text().contains("10 more databases"), "{}", report.text());
    assert_eq!(library.cycle().exit_code(), 0, "and said once");
}

/// T45.
#[test]
fn many_databases_gone_at_once_are_an_error_until_accepted() {
    let place = fleet(100);
    once(&place, &[]).expect_code(0);
    for n in 0..5 {
        fs::remove_file(place.db(&format!("{n}.db"))).unwrap();
    }
    let few = once(&place, &[]).expect_code(0);
    assert_eq!((few.count("gone"), few.count("databases"), few.count("requests")), (5, 95, 5));
    assert!(!once(&place, &[]).expect_code(0).out.contains("gone="), "counted once");
    for n in 10..40 {
        fs::remove_file(place.db(&format!("{n}.db"))).unwrap();
    }
    let gone = || {
        let state = Connection::open(place.state_db()).unwrap();
        state
            .query_row("SELECT count(*) FROM snapshots WHERE gone_utc IS NOT NULL", [], |r| r.get::<_, i64>(0))
            .unwrap()
    };
    for _ in 0..2 {
        let many = once(&place, &[]).expect_code(1);
        assert!(
            many.out.contains("30 of 95 known databases are gone") && many.out.contains("--max-gone 30"),
            "{many:#?}"
        );
        assert_eq!((many.out.contains(" gone="), gone()), (false, 5), "nothing is recorded");
    }
    let short = once(&place, &["--max-gone", "29"]).expect_code(1);
    assert!(short.out.contains("--max-gone 30"));
    assert_eq!((once(&place, &["--max-gone", "30"]).expect_code(0).count("gone"), gone()), (30, 35));
    once(&place, &[]).expect_code(0);
    let tombstones = place.objects().iter().filter(|o| o.key.ends_with(".deleted")).count();
    assert_eq!((place.objects().len(), tombstones), (135, 35), "their snapshots stay");
}

/// T45: an unmounted volume, and what it costs when it is back.
#[test]
fn a_missing_root_is_an_error_and_costs_nothing_when_it_is_back() {
    let place = fleet(3);
    assert!(eventually(Duration::from_secs(20), || once(&place, &[]).count("changed") == 0));
    let away = place.path().join("away");
    fs::rename(place.data(), &away).unwrap();
    for n in 0..2 {
        let missing = once(&place, &["--max-gone", "1000", "--allow-empty"]).expect_code(1);
        assert!(missing.out.contains("3 known databases could not be seen: the folder"), "{n}: {missing:#?}");
        assert!(missing.out.contains("data is missing"), "{missing:#?}");
    }
    fs::rename(&away, place.data()).unwrap();
    let back = once(&place, &[]).expect_code(0);
    assert_eq!((back.count("requests"), back.count("changed"), back.count("databases")), (0, 0, 3));
    // In a loop it is said once, not each cycle.
    fs::rename(place.data(), &away).unwrap();
    let running = place.start_loop("20ms", &[]);
    assert!(!eventually(Duration::from_secs(1), || !place.state().exists()));
    fs::rename(&away, place.data()).unwrap();
    let ran = running.stop().expect_code(0);
    assert_eq!(ran.err.matches("could not be seen").count(), 1, "{}", ran.err);
}

/// A database that was recorded as gone and lies there again as it was: its tombstone is newer than its snapshot.
#[test]
fn a_database_back_with_the_same_stamps_is_stored_once() {
    let place = Place::new();
    place.make("volume/a.db", "wal", 1);
    place.make("b.db", "delete", 1);
    assert!(eventually(Duration::from_secs(20), || once(&place, &[]).count("changed") == 0));
    let (here, away) = (place.data().join("volume"), place.path().join("away"));
    fs::rename(&here, &away).unwrap();
    assert_eq!(once(&place, &[]).expect_code(0).count("gone"), 1);
    fs::rename(&away, &here).unwrap();
    let back = once(&place, &[]).expect_code(0);
    assert_eq!((back.count("databases"), back.count("requests"), back.count("stored")), (2, 1, 1));
    assert_eq!(once(&place, &[]).expect_code(0).count("changed"), 0);
    // One that is back with other content is stored.
    fs::rename(&here, &away).unwrap();
    once(&place, &[]).expect_code(0);
    fs::rename(&away, &here).unwrap();
    Connection::open(here.join("a.db")).unwrap().execute_batch("INSERT INTO t VALUES(2)").unwrap();
    assert_eq!(once(&place, &[]).expect_code(0).count("stored"), 1);
    assert_eq!(place.newest_rows("volume/a.db"), [1, 2]);
}

/// What a folder that cannot be read hides is not gone.
#[test]
fn an_unreadable_folder_hides_databases_but_loses_none() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    place.make("x/a.db", "delete", 1);
    place.make("b.db", "delete", 1);
    let Some(mut first) = place.unprivileged(&["replicate", "data/**/*.db", "--store", "own/store", "--once"]) else {
        return;
    };
    let stored: Ran = first.args(["--state-dir", "own/state"]).output().unwrap().into();
    assert_eq!(stored.expect_code(0).count("stored"), 2);
    let locked = fs::Permissions::from_mode(0o000);
    fs::set_permissions(place.data().join("x"), locked).unwrap();
    let ran: Ran = first.arg("--max-gone=100").output().unwrap().into();
    fs::set_permissions(place.data().join("x"), fs::Permissions::from_mode(0o755)).unwrap();
    let ran = ran.expect_code(1);
    assert!(
        ran.out.contains("1 known databases could not be seen: cannot read") && !ran.out.contains("gone="),
        "{ran:#?}"
    );
    assert!(ran.out.contains("data/x: unreadable: "), "{ran:#?}");
    let back: Ran = first.output().unwrap().into();
    assert_eq!(back.expect_code(0).count("requests"), 0);
}

/// Below the 40 bytes that growing may take; 32 each for what a restart loads.
#[test]
fn three_thousand_databases_take_at_most_40_bytes_each() {
    let place = Place::new();
    let template = place.make("template", "delete", 1);
    for n in 0..3000 {
        fs::copy(&template, place.db(&format!("{}/{n}.db", n % 10))).unwrap();
    }
    let mut library = Library::new(place, Pace::default());
    assert_eq!(library.cycle().stored, 3000);
    for _ in 0..2 {
        let (known, bytes) = library.replicator.as_ref().unwrap().known();
        assert_eq!(known, 3000);
        assert!(bytes <= 40 * known, "{bytes} bytes");
        library.restart();
        assert_eq!(library.cycle().requests, 0);
    }
}
