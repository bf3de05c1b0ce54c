//! `litesnap prune` and `litesnap purge` on a folder and on an S3 server: exactly what the rules let go is gone, nothing else
//! is touched, and what fails or is interrupted is said and can be done again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use litesnap::access::Access;
use litesnap::clock::{Clock, MILLISECOND, SystemClock};
use litesnap::control::Control;
use litesnap::cycle::Silent;
use litesnap::error::Error;
use litesnap::layout::{bad_marker_key, snapshot_key, tombstone_key};
use litesnap::names::Names;
use litesnap::prune::{PruneOptions, PruneReport, prune, purge};
use litesnap::retention::Rules;
use litesnap::store::StoreOptions;
use litesnap::timestamp::Timestamp;
use nix::sys::signal::Signal;

use crate::place::{Place, Ran, Running, eventually};
use crate::s3_server::{Fault, S3Server};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const LAST_1: Rules = Rules { last: 1, within: None, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0 };

fn now() -> Timestamp {
    Timestamp::from_ms(SystemClock.now() / MILLISECOND).unwrap()
}

/// `ms` before now.
fn before(ms: i64) -> Timestamp {
    Timestamp::from_ms(now().as_ms() - ms).unwrap()
}

/// A folder store with small files under valid keys: prune reads no content.
struct Stored(Place);

impl Stored {
    fn new() -> Self {
        let place = Place::new();
        fs::create_dir(place.store()).unwrap();
        Self(place)
    }

    fn put(&self, key: &str) -> String {
        let path = self.0.store().join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "content").unwrap();
        key.to_owned()
    }

    fn snapshot(&self, name: &str, time: Timestamp) -> String {
        self.put(&snapshot_key(name, time))
    }

    fn bad(&self, name: &str, time: Timestamp) -> String {
        self.put(&bad_marker_key(&snapshot_key(name, time)));
        self.snapshot(name, time)
    }

    /// Given to the store at the time in its key, as a loop does it.
    fn tombstone(&self, name: &str, time: Timestamp) -> String {
        let key = self.put(&tombstone_key(name, time));
        self.written(&key, time);
        key
    }

    /// Sets when the store was given an object.
    fn written(&self, key: &str, time: Timestamp) {
        let file = fs::File::options().write(true).open(self.0.store().join(key)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_millis(time.as_ms().unsigned_abs())).unwrap();
    }

    fn left(&self) -> BTreeSet<String> {
        self.0.objects().into_iter().map(|o| o.key).collect()
    }

    fn run(&self, command: &str, args: &[&str]) -> Ran {
        self.0.run(&[&[command, "--store", "store"], args].concat())
    }

    fn access(&self) -> Access {
        let options = StoreOptions::new(self.0.store().to_str().unwrap());
        Access::open(&options, &Vec::new(), 10, Arc::new(Control::default())).unwrap()
    }

    fn prune(&self, options: &PruneOptions, now: Timestamp) -> PruneReport {
        prune(&self.access(), options, now, &Silent).unwrap()
    }
}

fn set(keys: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    keys.into_iter().collect()
}

#[track_caller]
fn one_line(ran: &Ran, code: i32, parts: &[&str]) {
    assert_eq!(ran.code, Some(code), "{ran:#?}");
    let lines: Vec<&str> = ran.err.lines().filter(|line| line.starts_with("litesnap: ")).collect();
    assert!(lines.len() == 1 && parts.iter().all(|part| lines[0].contains(part)), "{parts:?}: {ran:#?}");
}

#[test]
fn the_rules_leave_what_they_keep_and_a_dry_run_says_so_and_removes_nothing() {
    let stored = Stored::new();
    let keep = [
        stored.snapshot("srv/a.db", before(HOUR)),
        stored.snapshot("srv/a.db", before(40 * DAY)),
        stored.snapshot("srv/my%20b.db", before(400 * DAY)),
    ];
    let go = [stored.snapshot("srv/a.db", before(41 * DAY)), stored.snapshot("srv/a.db", before(DAY * 50))];
    let all = stored.left();
    let dry = stored.run("prune", &["--keep-last", "2", "--dry-run"]).expect_code(0);
    assert_eq!(stored.left(), all);
    let counts = ["databases", "snapshots", "kept", "removed", "removed_bytes", "requests"];
    assert_eq!(counts.map(|name| dry.count(name)), [2, 5, 3, 2, 14, 1], "one LIST, nothing else");
    let lines: Vec<&str> = dry.out.lines().collect();
    assert_eq!(lines.len(), 6, "{dry:?}");
    for (line, (start, end)) in lines.iter().zip([
        ("srv/a.db 20", " remove"),
        ("srv/a.db 20", " remove"),
        ("srv/a.db 20", " keep last"),
        ("srv/a.db 20", " keep newest,last"),
        ("srv/my b.db 20", " keep newest,last"),
        ("databases=2", " dry_run=true"),
    ]) {
        assert!(line.starts_with(start) && line.ends_with(end), "{line}");
    }
    let json = stored.run("prune", &["--keep-last=2", "--dry-run", "--json"]).expect_code(0);
    let rows: Vec<serde_json::Value> = json.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((rows.len(), &rows[4]["database"], &rows[5]["kept"]), (6, &"srv/my b.db".into(), &3.into()));
    assert_eq!(rows[3]["reasons"], serde_json::json!(["newest", "last"]));

    let done = stored.run("prune", &["--keep-last", "2"]).expect_code(0);
    assert_eq!(counts.map(|name| done.count(name)), [2, 5, 3, 2, 14, 3]);
    assert_eq!(stored.left(), set(keep));
    assert!(go.iter().all(|key| !stored.0.store().join(key).exists()));
    assert_eq!(stored.run("prune", &["--keep-last", "2"]).expect_code(0).count("removed"), 0);
}

#[test]
fn only_the_databases_asked_for_and_only_objects_of_ours() {
    let stored = Stored::new();
    let (old, new) = (before(9 * DAY), before(DAY));
    let goes = stored.snapshot("srv/a.db", old);
    for name in ["srv/a.db", "srv/a.db/below", "srv/a-b.db", "srv/b.db"] {
        stored.snapshot(name, new);
    }
    stored.snapshot("srv/a.db/below", old);
    stored.snapshot("srv/b.db", old);
    // Keys that look like ours under names that no template makes, and names that are nearly ours.
    for key in [
        format!("srv/a.db/{old}.db"),
        format!("srv/a.db/{old}.db.lz4.tmp"),
        format!("srv/a.db/x{old}.db.lz4"),
        format!("srv/a.db/{old}.db.lz4#x"),
        "readme.txt".into(),
        format!("My Files/{old}.db.lz4"),
        format!("My Files/{new}.db.lz4"),
        format!("old%2fstore/{old}.deleted"),
        format!("old%2fstore/{new}.deleted"),
    ] {
        stored.put(&key);
    }
    let mut expected = stored.left();
    let ran = stored.run("prune", &["--keep-last", "1", "--match", "srv/a.db", "/srv/a-b.db"]).expect_code(0);
    assert_eq!((ran.count("databases"), ran.count("removed")), (2, 1));
    expected.remove(&goes);
    assert_eq!(stored.left(), expected);
    let ran = stored.run("prune", &["--keep-last", "1", "--deleted-after", "1s"]).expect_code(0);
    assert_eq!((ran.count("databases"), ran.count("removed"), ran.count("foreign")), (4, 2, 9));
    expected.remove(&snapshot_key("srv/a.db/below", old));
    expected.remove(&snapshot_key("srv/b.db", old));
    assert_eq!(stored.left(), expected);
}

#[test]
fn a_newest_that_is_bad_does_not_cost_the_good_one_before_it() {
    let stored = Stored::new();
    let good = stored.snapshot("a.db", before(3 * DAY));
    stored.bad("a.db", before(4 * DAY));
    let newest = stored.bad("a.db", before(DAY));
    stored.put(&bad_marker_key(&snapshot_key("a.db", before(30 * DAY))));
    let ran = stored.run("prune", &["--keep-last", "1", "--keep-within", "1h"]).expect_code(0);
    assert_eq!((ran.count("removed"), ran.count("kept"), ran.count("markers")), (1, 2, 2));
    assert_eq!(stored.left(), set([good, bad_marker_key(&newest), newest]));
}

#[test]
fn a_database_long_gone_loses_its_last_copy_only_when_asked() {
    let stored = Stored::new();
    let (long, short) = (before(31 * DAY), before(29 * DAY));
    stored.snapshot("gone.db", before(90 * DAY));
    stored.bad("gone.db", before(80 * DAY));
    stored.tombstone("gone.db", before(85 * DAY));
    stored.tombstone("gone.db", long);
    let keep = [
        stored.snapshot("just-gone.db", before(90 * DAY)),
        stored.tombstone("just-gone.db", short),
        stored.snapshot("back.db", before(90 * DAY)),
        stored.tombstone("back.db", long),
        stored.snapshot("back.db", short),
    ];
    let all = stored.left();
    assert_eq!(stored.run("prune", &["--keep-yearly", "9", "--keep-last", "9"]).expect_code(0).count("removed"), 0);
    assert_eq!(stored.left(), all);
    let dry = stored.run("prune", &["--deleted-after", "30d", "--dry-run"]).expect_code(0);
    assert_eq!(stored.left(), all);
    assert!(dry.out.contains("gone.db 20") && dry.out.contains(" remove (gone from its host)"), "{dry:?}");
    assert!(dry.out.contains(" keep newest,no-rule"), "{dry:?}");
    let ran = stored.run("prune", &["--deleted-after", "30d"]).expect_code(0);
    let counts = ["removed", "databases_removed", "markers", "tombstones"];
    for ran in [dry, ran] {
        assert_eq!(counts.map(|name| ran.count(name)), [2, 1, 1, 2]);
    }
    assert_eq!(stored.left(), set(keep));
}

/// Whoever may put chooses the times in keys: a database that is idle, as most are, would be erased by a tombstone of long ago.
#[test]
fn a_tombstone_with_a_time_of_long_ago_erases_nothing() {
    let stored = Stored::new();
    stored.snapshot("idle.db", before(90 * DAY));
    let forged = stored.tombstone("idle.db", before(60 * DAY));
    stored.written(&forged, before(29 * DAY));
    stored.snapshot("other.db", before(DAY));
    let all = stored.left();
    let ran = stored.run("prune", &["--deleted-after", "30d"]).expect_code(0);
    assert_eq!((ran.count("databases_removed"), ran.count("waiting"), stored.left()), (0, 1, all));
    assert!(ran.out.contains("the store was given these later"), "{ran:?}");
    // The host alone knows better: the store is a copy, in which everything is new.
    let ran = stored.run("prune", &["--deleted-after", "30d", "--trust-clock"]).expect_code(0);
    assert_eq!((ran.count("databases_removed"), stored.left().len()), (1, 1));
}

/// The store's own time of its newest object is a second opinion.
#[test]
fn a_clock_that_runs_ahead_erases_nothing() {
    let stored = Stored::new();
    stored.snapshot("a.db", before(3 * DAY));
    stored.snapshot("a.db", before(DAY));
    stored.snapshot("gone.db", before(9 * DAY));
    stored.tombstone("gone.db", before(8 * DAY));
    let all = stored.left();
    let next_year = Timestamp::from_ms(now().as_ms() + 365 * DAY).unwrap();
    let options = PruneOptions {
        rules: Rules { within: Some(Duration::from_secs(30 * 86_400)), ..Rules::default() },
        deleted_after: Some(Duration::from_secs(30 * 86_400)),
        ..PruneOptions::default()
    };
    let report = stored.prune(&options, next_year);
    assert_eq!((report.removed, report.waiting, stored.left()), (0, 1, all.clone()));
    assert!(report.text().contains("--trust-clock"), "{}", report.text());
    // A clock that is behind only keeps more, and that is said.
    let report = stored.prune(&options, before(6 * DAY));
    assert_eq!((report.removed, report.ahead, stored.left()), (0, 1, all));
    assert!(report.text().contains("ahead of this host's clock"), "{}", report.text());
    let report = stored.prune(&PruneOptions { trust_clock: true, ..options }, next_year);
    assert_eq!((report.removed, report.databases_removed, stored.left().len()), (2, 1, 1));
}

/// Somebody else's file that claims to be of next year says nothing about the time.
#[test]
fn only_objects_of_ours_vouch_for_the_clock() {
    let stored = Stored::new();
    stored.snapshot("a.db", before(3 * DAY));
    stored.snapshot("a.db", before(DAY));
    let other = stored.snapshot("other.db", before(DAY));
    let next_year = Timestamp::from_ms(now().as_ms() + 365 * DAY).unwrap();
    let foreign =
        [stored.put("notes.txt"), stored.put("a.db/copy.lz4"), stored.snapshot("a%zz.db", before(DAY)), other];
    for key in foreign {
        stored.written(&key, next_year);
    }
    let all = stored.left();
    let options = PruneOptions {
        names: Names::parse(&["a*.db".to_owned()]).unwrap(),
        rules: Rules { within: Some(Duration::from_secs(30 * 86_400)), ..Rules::default() },
        ..PruneOptions::default()
    };
    assert_eq!((stored.prune(&options, next_year).removed, stored.left()), (0, all));
}

#[test]
fn what_unfinished_puts_left_goes_after_a_day() {
    let stored = Stored::new();
    let age = |key: &str, days: u64| {
        let file = fs::File::options().write(true).open(stored.0.store().join(stored.put(key))).unwrap();
        file.set_modified(
            SystemTime::UNIX_EPOCH + Duration::from_millis(now().as_ms().cast_unsigned())
                - Duration::from_secs(days * 86_400),
        )
        .unwrap();
    };
    let key = stored.snapshot("srv/a.db", before(HOUR));
    let (old, young, foreign) = (format!("{key}#1"), format!("{key}#2"), "srv/notes#1".to_owned());
    age(&old, 2);
    age(&young, 0);
    age(&foreign, 2);
    age(&format!("{key}#x"), 2);
    let there = |key: &String| stored.0.store().join(key).exists();
    assert_eq!(stored.run("prune", &["--keep-last", "1", "--dry-run"]).expect_code(0).count("leftovers"), 1);
    assert!(there(&old));
    stored.run("prune", &["--keep-last", "1", "--match", "other.db"]).expect_code(1);
    assert!(there(&old));
    assert_eq!(stored.run("prune", &["--keep-last", "1"]).expect_code(0).count("leftovers"), 1);
    assert!(!there(&old) && there(&young) && there(&foreign) && there(&key) && there(&format!("{key}#x")));
}

#[test]
fn bad_input_gets_one_line() {
    let stored = Stored::new();
    stored.snapshot("a.db", before(DAY));
    for (args, parts) in [
        (["prune"].as_slice(), ["no rule", "--keep standard"].as_slice()),
        (&["prune", "--keep-last", "0"], &["no rule", "--keep standard"]),
        (&["prune", "--keep", "all"], &["'all'", "standard"]),
        (&["prune", "--keep-last", "-1"], &["-1"]),
        (&["prune", "--keep-within", "24"], &["'24'", "such as 30s"]),
        (&["prune", "--keep-last", "1", "--delete-rate", "0"], &["--delete-rate"]),
        (&["prune", "--keep-last", "1", "--match", "[a"], &["[a"]),
        (&["purge", "../x"], &["../x", "litesnap list"]),
        (&["purge"], &["NAME"]),
    ] {
        let ran = stored.run(args[0], &args[1..]);
        one_line(&ran, 2, parts);
        assert_eq!(ran.out, "", "{args:?}");
    }
    let ran = stored.0.run(&["prune", "--store", "nowhere", "--keep-last", "1"]);
    one_line(&ran, 3, &["there is no folder"]);
    assert_eq!(stored.left().len(), 1);
}

#[test]
fn purge_erases_one_database_and_nothing_else() {
    let stored = Stored::new();
    let (old, new) = (before(9 * DAY), before(DAY));
    stored.snapshot("srv/my%20a.db", old);
    stored.bad("srv/my%20a.db", new);
    stored.tombstone("srv/my%20a.db", before(HOUR));
    stored.put(&format!("{}#1", snapshot_key("srv/my%20a.db", new)));
    let keep = [
        stored.snapshot("srv/my%20a.db/below", old),
        stored.snapshot("srv/my%20a.db2", old),
        stored.put("srv/my%20a.db/notes.txt"),
    ];
    let all = stored.left();
    let ran = stored.run("purge", &["srv/my a.db"]);
    one_line(&ran, 2, &["--yes", "srv/my a.db"]);
    for part in ["2 snapshots", "1 tombstones", "1 markers", "1 unfinished", &old.to_rfc3339(), &new.to_rfc3339()] {
        assert!(ran.out.contains(part), "{part}: {ran:?}");
    }
    assert_eq!(stored.left(), all);
    one_line(&stored.run("purge", &["srv/your.db", "--yes"]), 1, &["no database srv/your.db", "litesnap list"]);
    let ran = stored.run("purge", &["/srv/my a.db", "--yes", "--json"]).expect_code(0);
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&json["found"]["snapshots"], &json["removal"]["removed"]), (&2.into(), &2.into()), "{json}");
    assert_eq!(stored.left(), set(keep));
    let names: Vec<_> =
        fs::read_dir(stored.0.store().join("srv/my%20a.db")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "what is below and what is foreign: {names:?}");
    one_line(&stored.run("purge", &["srv/my a.db", "--yes"]), 1, &["no database"]);

    // A value with a slash is one part of a key; so such a database is named by its key.
    stored.snapshot("p/a%2Fb.db", old);
    stored.put(&format!("{}#7", snapshot_key("p/a%2Fb.db", new)));
    stored.run("purge", &["p/a%2Fb.db", "--yes"]).expect_code(0);
    assert!(!stored.0.store().join("p/a%2Fb.db").exists(), "not even its name is left");
}

/// What text cannot say, and what is shown escaped, is named by its prefix.
#[test]
fn names_that_no_text_says_are_listed_and_purged_by_their_prefix() {
    let stored = Stored::new();
    let other = stored.snapshot("srv/a%20b.db", before(DAY));
    for prefix in ["srv/%FF.db", "srv/a%0Ab.db"] {
        let key = stored.snapshot(prefix, before(DAY));
        let json = stored.run("list", &["--match", "srv/*", "--json"]).expect_code(0).out;
        let row: serde_json::Value = serde_json::from_str(json.lines().find(|l| l.contains(prefix)).unwrap()).unwrap();
        assert_eq!(row["prefix"], prefix);
        for name in [prefix.to_owned(), format!("/{prefix}")] {
            let listed = stored.run("list", &["--snapshots", &name]).expect_code(0);
            assert!(listed.out.lines().count() == 1 && listed.out.contains(&key), "{listed:?}");
        }
        one_line(&stored.run("purge", &[prefix]), 2, &["--yes"]);
        stored.run("purge", &[prefix, "--yes"]).expect_code(0);
        assert_eq!(stored.left(), set([other.clone()]));
        one_line(&stored.run("purge", &[prefix, "--yes"]), 1, &["no database"]);
        assert_eq!(stored.run("list", &["--snapshots", prefix]).code, Some(1));
    }
}

#[test]
fn what_is_purged_and_still_there_is_stored_again_if_the_state_is_told() {
    let place = Place::new();
    let path = place.make("a.db", "delete", 3);
    place.make("b.db", "delete", 3);
    place.once().expect_code(0);
    let name = path.to_str().unwrap();
    let purge = |more: &[&str]| place.run(&[&["purge", name, "--store", "store"], more].concat());
    let asked = |ran: &Ran| ran.out.contains("stored again");

    let wrong = purge(&["--yes", "--state-dir", "nowhere"]).expect_code(2);
    assert!(wrong.err.contains("no state of") && place.objects_of("a.db").len() == 1, "{wrong:?}");
    purge(&["--state-dir", "state"]).expect_code(2);
    assert_eq!(place.once().expect_code(0).count("stored"), 0, "nothing was asked for");

    let without = purge(&["--yes"]).expect_code(0);
    assert!(without.err.contains("--state-dir") && !asked(&without), "{without:?}");
    place.once().expect_code(0);
    assert!(place.objects_of("a.db").is_empty());

    // It is not too late to ask.
    let late = purge(&["--yes", "--state-dir", "state"]).expect_code(1);
    assert!(late.err.contains("asked to store it again"), "{late:?}");
    place.once().expect_code(0);
    assert_eq!((place.objects_of("a.db").len(), place.objects_of("b.db").len()), (1, 1));

    let with = purge(&["--yes", "--state-dir", "state"]).expect_code(0);
    assert!(asked(&with) && !with.err.contains("--state-dir") && place.objects_of("a.db").is_empty(), "{with:?}");
    place.once().expect_code(0);
    assert_eq!((place.newest_rows("a.db"), place.objects_of("b.db").len()), (vec![1, 2, 3], 1));
}

#[test]
fn purge_goes_on_where_it_was_cut_short_and_takes_leftovers_alone() {
    let stored = Stored::new();
    stored.put(&format!("{}#1", snapshot_key("a.db", before(DAY))));
    let report = purge(&stored.access(), "a.db", true, None, &Silent).unwrap();
    assert_eq!((report.holdings.leftovers, report.removal.leftovers, report.exit_code()), (1, 1, 0));
    assert!(fs::read_dir(stored.0.store()).unwrap().next().is_none());
}

#[test]
fn the_report_of_a_folder_that_refuses_is_exit_code_3() {
    let stored = Stored::new();
    stored.snapshot("a.db", before(2 * DAY));
    stored.snapshot("a.db", before(DAY));
    let Some(mut command) = stored.0.unprivileged(&["prune", "--store", "store", "--keep-last", "1"]) else { return };
    let ran: Ran = command.output().unwrap().into();
    one_line(&ran, 3, &["cannot delete from", "store-refused"]);
    assert_eq!(stored.left().len(), 2);
}

/// Paced so slowly that it would take minutes: the wait ends with the signal, and another run does the rest.
#[test]
fn interrupted_it_says_so_and_another_run_goes_on() {
    let stored = Stored::new();
    let newest = stored.snapshot("a.db", before(HOUR));
    for n in 2..400 {
        stored.snapshot("a.db", before(n * HOUR));
    }
    let command = stored.0.litesnap(&["prune", "--store", "store", "--keep-last", "1", "--delete-rate", "2"]);
    let running = Running::start(command);
    // Only counted: what is read may go meanwhile.
    let count = || fs::read_dir(stored.0.store().join("a.db")).unwrap().count();
    assert!(eventually(Duration::from_secs(30), || count() < 399));
    running.signal(Signal::SIGINT);
    let ran = running.wait(Duration::from_secs(30)).expect_code(130);
    let left = stored.left();
    assert!(left.contains(&newest) && left.len() > 1, "{}", left.len());
    assert_eq!(ran.count("removed") + u64::try_from(left.len()).unwrap(), 399, "{ran:?}");
    assert_eq!(ran.count("untried"), u64::try_from(left.len()).unwrap() - 1);
    stored.run("prune", &["--keep-last", "1"]).expect_code(0);
    assert_eq!(stored.left(), set([newest]));
}

/// An S3 server with `n` snapshots of `p/a.db`, an hour apart.
struct Cloud {
    server: S3Server,
    place: Place,
}

impl Cloud {
    fn new(n: i64) -> Self {
        let server = S3Server::start();
        let mut place = Place::new();
        place.env = server.env();
        let cloud = Self { server, place };
        let access = cloud.access();
        for n in 1..=n {
            cloud.put(&access, &snapshot_key("a.db", before(n * HOUR)));
        }
        cloud.server.forget();
        cloud
    }

    fn put(&self, access: &Access, key: &str) {
        let path = access.store.path(key).unwrap();
        let put = access.store.inner.put_opts(&path, "x".into(), access.store.create());
        access.runtime().block_on(put).unwrap();
    }

    fn access(&self) -> Access {
        let options = StoreOptions::new(self.server.url("bucket", "p"));
        Access::open(&options, &self.server.env(), 10, Arc::new(Control::default())).unwrap()
    }

    fn prune(&self, more: &[&str]) -> Ran {
        let url = self.server.url("bucket", "p");
        self.place.run(&[&["prune", "--store", &url, "--keep-last", "1"], more].concat())
    }

    fn left(&self) -> usize {
        self.server.objects("bucket").len()
    }
}

#[test]
fn objects_of_a_bucket_go_a_thousand_a_request() {
    let cloud = Cloud::new(2100);
    let outside = cloud.server.objects("bucket").len();
    let dry = cloud.prune(&["--dry-run"]).expect_code(0);
    assert_eq!((dry.count("removed"), dry.count("requests"), cloud.left()), (2099, 3, outside));
    assert_eq!(cloud.server.count("GET"), cloud.server.log().len(), "LIST only");
    cloud.server.forget();
    let ran = cloud.prune(&["--delete-rate", "100000"]).expect_code(0);
    assert_eq!((ran.count("removed"), ran.count("requests"), cloud.left()), (2099, 6, 1));
    assert_eq!((cloud.server.count("POST"), cloud.server.count("DELETE")), (3, 0));
    assert!(cloud.server.log().iter().filter(|(m, _)| m == "POST").all(|(_, url)| url.contains("?delete")));
}

#[test]
fn a_listing_that_fails_deletes_nothing() {
    let cloud = Cloud::new(1500);
    cloud.server.fail_nth(2, Fault::answer(403, "AccessDenied"));
    one_line(&cloud.prune(&[]), 3, &["cannot list", "store-refused"]);
    assert_eq!((cloud.left(), cloud.server.count("POST")), (1500, 0));
}

#[test]
fn deletes_that_fail() {
    let failing = |fault: Fault, forever: bool| {
        let cloud = Cloud::new(5);
        let first = 2; // the LIST is served
        if forever {
            cloud.server.fail_from(first, fault)
        } else {
            cloud.server.fail_nth(first, fault)
        }
        let ran = cloud.prune(&["--request-timeout", "2s"]);
        let again = || {
            cloud.server.heal();
            cloud.prune(&[]).expect_code(0);
            cloud.left()
        };
        (ran, cloud.left(), again())
    };
    // Once: made again.
    for fault in [Fault::answer(500, "InternalError"), Fault::DropBefore, Fault::DropAfter] {
        let (ran, left, again) = failing(fault.clone(), false);
        assert_eq!((ran.code, left, again), (Some(0), 1, 1), "{fault:?}: {ran:?}");
    }
    // For ever: said in one line, nothing deleted, and the next run does it.
    for (fault, part) in [
        (Fault::answer(403, "AccessDenied"), "store-refused"),
        (Fault::DropBefore, "store-unreachable"),
        (Fault::Hang, "store-timeout"),
    ] {
        let (ran, left, again) = failing(fault.clone(), true);
        one_line(&ran, 3, &["cannot delete from", part]);
        assert_eq!((ran.count("failed"), ran.count("removed"), left, again), (4, 0, 5, 1), "{fault:?}: {ran:?}");
    }
}

/// One object is refused, as under an object lock: it is named, with it stays its database's tombstone, the rest goes.
#[test]
fn an_object_that_is_refused_is_named_and_the_others_go() {
    let cloud = Cloud::new(0);
    let access = cloud.access();
    let (old, new) = (before(3 * DAY), before(DAY));
    let keys =
        ["a.db", "b.db"].map(|n| [snapshot_key(n, old), tombstone_key(n, before(2 * DAY)), snapshot_key(n, new)]);
    keys.iter().flatten().for_each(|key| cloud.put(&access, key));
    // The answer that S3 gives; of the objects it does not name, object_store takes it that they are deleted.
    let refused = format!("p/{}", keys[0][0]);
    let body = format!(
        "<DeleteResult><Error><Key>{refused}</Key><Code>AccessDenied</Code><Message>locked</Message></Error></DeleteResult>"
    );
    cloud.server.forget();
    cloud.server.fail_nth(2, Fault::Answer(200, body));
    let ran = cloud.prune(&[]).expect_code(1);
    assert!(ran.out.contains(&format!("{}: store-refused: AccessDenied: locked", keys[0][0])), "{ran:?}");
    assert_eq!(["removed", "failed", "tombstones", "untried"].map(|n| ran.count(n)), [1, 1, 1, 1], "{ran:?}");
    let left: Vec<String> = cloud.server.objects("bucket").into_iter().map(|(key, _)| key).collect();
    assert!(left.contains(&format!("p/{}", keys[0][1])) && !left.contains(&format!("p/{}", keys[1][1])), "{left:?}");

    // An answer about a key that was not asked about: object_store panics over it; we do not.
    cloud.server.forget();
    cloud.server.fail_nth(
        2,
        Fault::Answer(
            200,
            "<DeleteResult><Error><Key>other</Key><Code>X</Code><Message>y</Message></Error></DeleteResult>".into(),
        ),
    );
    let ran = cloud.prune(&[]).expect_code(1);
    assert!(ran.out.contains("makes no sense"), "{ran:?}");
}

#[test]
fn a_store_that_cannot_delete_many_at_once_is_asked_one_by_one() {
    // Ceph refuses it where a policy allows each single one.
    let answers = [(501, "NotImplemented"), (405, "MethodNotAllowed"), (403, "AccessDenied")];
    for fault in answers.map(|(status, code)| Fault::answer(status, code)) {
        let cloud = Cloud::new(6);
        cloud.server.fail_nth(2, fault);
        let ran = cloud.prune(&["--delete-rate", "3"]).expect_code(0);
        assert_eq!((ran.count("removed"), cloud.left()), (5, 1), "{ran:?}");
        assert_eq!((cloud.server.count("POST"), cloud.server.count("DELETE")), (1, 5));
    }
}

#[test]
fn purge_in_a_bucket_takes_the_last_copy_and_nothing_outside_its_prefix() {
    let cloud = Cloud::new(3);
    let access = cloud.access();
    cloud.put(&access, &snapshot_key("a.db2", before(DAY)));
    let options = StoreOptions::new(cloud.server.url("bucket", "p2"));
    let other = Access::open(&options, &cloud.server.env(), 10, Arc::new(Control::default())).unwrap();
    cloud.put(&other, &snapshot_key("a.db", before(DAY)));
    let report = purge(&access, "a.db", true, None, &Silent).unwrap();
    assert_eq!((report.holdings.snapshots, report.removal.removed, report.exit_code()), (3, 3, 0));
    let left: Vec<String> = cloud.server.objects("bucket").into_iter().map(|(key, _)| key).collect();
    assert!(left.len() == 2 && left[0].starts_with("p/a.db2/") && left[1].starts_with("p2/a.db/"), "{left:?}");
}

/// Real snapshots, made by the loop: the newest of each is restorable after a prune.
#[test]
fn what_stays_of_real_snapshots_is_the_newest() {
    let place = Place::new();
    for rows in 1..4 {
        let path = place.db("a.db");
        let conn = rusqlite::Connection::open(path).unwrap();
        conn.execute_batch("CREATE TABLE IF NOT EXISTS t(x)").unwrap();
        conn.execute("INSERT INTO t VALUES(?1)", [rows]).unwrap();
        drop(conn);
        place.once().expect_code(0);
    }
    assert_eq!(place.objects_of("a.db").len(), 3);
    let ran = place.run(&["prune", "--store", "store", "--keep-last", "1"]).expect_code(0);
    assert_eq!(ran.count("removed"), 2);
    assert_eq!((place.objects_of("a.db").len(), place.newest_rows("a.db")), (1, vec![1, 2, 3]));
}

#[test]
fn without_any_rule_the_library_refuses_too() {
    let stored = Stored::new();
    let refused = prune(&stored.access(), &PruneOptions::default(), now(), &Silent).unwrap_err();
    assert!(matches!(refused, Error::Usage(_)), "{refused}");
    stored.snapshot("a.db", before(2 * DAY));
    let newest = stored.snapshot("a.db", before(DAY));
    let options = PruneOptions { rules: LAST_1, names: Names::all(), ..PruneOptions::default() };
    let access = stored.access();
    access.control.stop(15);
    assert!(matches!(prune(&access, &options, now(), &Silent), Err(Error::Interrupted { signal: 15 })));
    assert_eq!(stored.left().len(), 2);
    assert_eq!(stored.prune(&options, now()).removed, 1);
    assert_eq!(stored.left(), set([newest]));
    assert!(Path::new(&stored.0.store()).is_dir());
}
