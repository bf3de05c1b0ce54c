//! Heartbeat objects: when they are put, what another machine reads from them, and that no other command minds them.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use litesnap::access::Access;
use litesnap::clock::{Clock, SECOND};
use litesnap::heartbeats::Heartbeat;
use litesnap::layout::{heartbeat_key, heartbeats_of};
use litesnap::status::remote::hosts;
use litesnap::store::StoreOptions;
use litesnap::timestamp::Timestamp;
use rusqlite::Connection;

use super::{LONG, parsed, picked};
use crate::library::{Library, once_unlocked};
use crate::place::{Place, Ran, eventually};
use crate::s3_server::{Fault, S3Server};

const HOUR: i64 = 3600 * SECOND;

fn beating(place: &Place) -> Library {
    Library::configured(place, "data/**/*.db", |config| {
        config.telling.heartbeat_object = Some(Duration::from_secs(3600));
    })
}

/// The heartbeats in the folder store, oldest first.
fn beats(place: &Place) -> Vec<Heartbeat> {
    let objects = place.objects();
    let ours = objects.iter().filter(|o| o.key.starts_with("litesnap-heartbeats/"));
    ours.map(|o| Heartbeat::parse(&o.bytes).unwrap()).collect()
}

fn access(place: &Place) -> Access {
    Access::open(&StoreOptions::new(place.store().to_str().unwrap()), &Vec::new(), 4, Arc::default()).unwrap()
}

/// Puts a heartbeat of `host` by hand, with its key and the store's time so many seconds before now.
fn forge(place: &Place, host: &str, key_age_s: i64, written_age_s: i64) -> PathBuf {
    let now = litesnap::clock::SystemClock.now();
    let time = Timestamp::from_ms((now - key_age_s * SECOND) / 1_000_000).unwrap();
    let key = heartbeat_key(&heartbeats_of(host), time);
    let path = place.store().join(&key);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let said = serde_json::json!({"format": 1, "key": key, "host": host, "time": time, "litesnap": "0", "started": null,
        "interval_ms": 1000, "every_s": 3600, "next_due": null, "known_as_of_age_s": 0, "last_success_age_s": 0,
        "last_error": null, "databases": 7, "failing": {}, "waiting": litesnap::backlog::Ages::default(),
        "oldest_unprotected_s": null, "cycles": 1, "stored": 1, "bytes": 1, "read_bytes": 1, "uploads_failed": 0,
        "complaints": []});
    fs::write(&path, said.to_string()).unwrap();
    let written = SystemTime::UNIX_EPOCH + Duration::from_nanos((now - written_age_s * SECOND).unsigned_abs());
    File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
    path
}

/// `litesnap status --store store` on a machine that never ran a loop.
fn elsewhere(place: &Place, more: &[&str]) -> Ran {
    place.run(&[&["status", "--store", "store", "--state-dir", "nowhere"], more].concat())
}

#[test]
fn one_is_put_when_it_is_time_also_over_restarts_and_in_no_cycle() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    let mut library = beating(&place);
    let heart = library.replicator.heart(&[]).unwrap();
    assert_eq!(library.cycle().requests, 1);
    assert!(heart.run_due() && !heart.run_due(), "one");
    let first = beats(&place).remove(0);
    assert_eq!((first.databases, first.waiting.count, first.cycles, first.stored), (1, 0, 1, 1), "{first:#?}");
    assert_eq!((&*first.host, first.known_as_of_age_s, first.every_s), ("host", Some(0), 3600), "{first:#?}");
    library.clock.advance(HOUR - SECOND);
    assert_eq!((library.cycle().requests, heart.run_due()), (0, false));
    library.clock.advance(2 * SECOND);
    assert!(heart.run_due());
    assert_eq!(library.cycle().requests, 0, "a heartbeat is in no cycle's count");
    let now = library.clock.now();
    drop((heart, library));

    let again = once_unlocked(|| {
        let config = |config: &mut litesnap::config::Config| {
            config.telling.heartbeat_object = Some(Duration::from_secs(3600));
        };
        let mut made = litesnap::config::Config {
            patterns: litesnap::config::parse_patterns(&["data/**/*.db"], place.path()).unwrap(),
            host: "host".into(),
            state_dir: place.state(),
            ..litesnap::config::Config::new(StoreOptions::new(place.store().to_str().unwrap()))
        };
        config(&mut made);
        let clock = Arc::new(litesnap::clock::FixedClock::new(now + SECOND));
        litesnap::replicate::Replicator::open(
            made,
            &Vec::new(),
            clock,
            Arc::default(),
            Arc::new(litesnap::cycle::Silent),
        )
    });
    assert!(!again.heart(&[]).unwrap().run_due(), "a restart does not repeat it");
    assert_eq!(beats(&place).len(), 2);
    let conn = Connection::open(place.state_db()).unwrap();
    let spent = "SELECT sum(requests) FROM spent WHERE what = 'heartbeat' AND verb = 'put'";
    assert_eq!(conn.query_row(spent, [], |row| row.get::<_, i64>(0)).unwrap(), 2);
}

#[test]
fn without_the_option_there_is_none() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    assert!(Library::open(&place).replicator.heart(&[]).is_none());
    let ran = elsewhere(&place, &["--stale", "2h"]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.out.starts_with("store file://") && ran.err.contains("there is no heartbeat"), "{ran:#?}");
    assert!(ran.err.contains("--heartbeat-object"), "{ran:#?}");
}

#[test]
fn a_loop_puts_one_and_another_machine_sees_it_turn_red_when_the_process_is_stopped() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    fs::write(place.db("bad.db"), "certainly no database").unwrap();
    let running = place.start_loop("1s", &["--heartbeat-object", "1h", "--host", "web 1"]);
    assert!(eventually(LONG, || !place.store().exists() || !beats(&place).is_empty()));
    assert!(eventually(LONG, || !beats(&place).is_empty()));
    drop(running);
    let ran = elsewhere(&place, &["--stale", "2h"]).expect_code(0);
    assert!(ran.out.contains("fresh web 1: heartbeat ") && ran.out.contains("not-a-database=1"), "{ran:#?}");

    let at =
        |hours: i64| Timestamp::from_ms(litesnap::clock::SystemClock.now() / 1_000_000 + hours * 3_600_000).unwrap();
    let complaints = |hours: i64| {
        let found = hosts(&access(&place), None, at(hours)).unwrap();
        assert_eq!((found.len(), &*found[0].host), (1, "web 1"));
        found[0].complaints(Duration::from_secs(7200)).join("; ")
    };
    assert_eq!(complaints(1), "");
    assert!(complaints(3).contains("its newest heartbeat is 3h"), "{}", complaints(3));
    // Asked for less: what waited then waits still.
    assert!(eventually(LONG, || elsewhere(&place, &["--stale", "0s"]).code == Some(1)));
    let ran = elsewhere(&place, &["--stale", "0s"]);
    assert!(ran.out.contains("stale web 1") && ran.out.contains("changes were not stored"), "{ran:#?}");
    let all = parsed(&elsewhere(&place, &["--stale", "2h", "--json"]).expect_code(0));
    assert_eq!(picked(&all, ["/asked", "/host", "/heartbeat/databases"]), serde_json::json!(["store", "web 1", 1]));
    assert_eq!(all["stale"], serde_json::json!([]));
    // This host has a state: it is asked, unless the store is asked for.
    let here = |more: &[&str]| place.run(&[&["status", "--store", "store", "--state-dir", "state"], more].concat());
    assert!(here(&[]).out.starts_with("state "));
    assert!(here(&["--from-store"]).out.starts_with("store "));
    here(&["--host", "web 1", "--stale", "2h"]).expect_code(0);
    let other = here(&["--host", "web 2", "--stale", "2h"]).expect_code(1);
    assert!(other.err.contains("there is no heartbeat of web 2"), "{other:#?}");
}

#[test]
fn one_pass_puts_one_and_a_store_that_refuses_it_changes_nothing_else() {
    let server = S3Server::start();
    let mut place = Place::new();
    place.env = server.env();
    place.make("a.db", "delete", 1);
    let url = server.url("bucket", "p");
    let once = || -> Ran {
        place.run(&["replicate", "data", "--store", &url, "--state-dir", "state", "--once", "--heartbeat-object", "1h"])
    };
    // The second request of the run.
    server.fail_nth(2, Fault::answer(403, "AccessDenied"));
    let ran = once().expect_code(0);
    assert!(ran.err.contains("the heartbeat object is not stored") && ran.err.contains("AccessDenied"), "{ran:#?}");
    assert_eq!((ran.count("requests"), server.objects("bucket").len()), (1, 1));
    once().expect_code(0);
    let keys: Vec<String> = server.objects("bucket").into_iter().map(|(key, _)| key).collect();
    let put: Vec<_> = keys.iter().filter(|key| key.starts_with("p/litesnap-heartbeats/")).collect();
    assert!(put.len() == 1 && put[0].ends_with(".heartbeat"), "{keys:?}");
    once().expect_code(0);
    assert_eq!(server.objects("bucket").len(), 2, "not again within the hour");
    // Created only, like everything else.
    assert!(server.headers("PUT", "if-none-match").iter().all(|value| value.as_deref() == Some("*")));
}

#[test]
fn the_newest_is_found_without_a_listing_of_all_and_by_the_stores_clock() {
    let server = S3Server::start();
    let mut place = Place::new();
    place.env = server.env();
    for days in 1..=50 {
        let path = forge(&place, "web-1", days * 86_400, days * 86_400);
        let key = path.strip_prefix(place.store()).unwrap().to_str().unwrap().to_owned();
        server.put("bucket", &format!("p/{key}"), &fs::read(path).unwrap());
    }
    let newest = forge(&place, "web-1", 600, 600);
    let key = newest.strip_prefix(place.store()).unwrap().to_str().unwrap().to_owned();
    server.put("bucket", &format!("p/{key}"), &fs::read(&newest).unwrap());
    server.forget();
    let url = server.url("bucket", "p");
    let ran = place.run(&["status", "--store", &url, "--state-dir", "nowhere", "--json"]).expect_code(0);
    assert_eq!(parsed(&ran)["key"], key);
    let lists: Vec<String> =
        server.log().into_iter().map(|(_, path)| path).filter(|path| path.contains("list-type")).collect();
    assert_eq!(lists.len(), 2, "one for the hosts, one for this one: {lists:?}");
    assert!(lists[1].contains("start-after="), "{lists:?}");
}

#[test]
fn clocks_that_differ_are_told_and_the_stores_counts() {
    let place = Place::new();
    // A day ahead, and a day behind; and one that was a year ahead once, and is right now.
    forge(&place, "ahead", -86_400, 60);
    forge(&place, "behind", 86_400, 60);
    forge(&place, "cured", -365 * 86_400, 30 * 86_400);
    forge(&place, "cured", 10_800, 10_800);
    let found =
        hosts(&access(&place), None, Timestamp::from_ms(litesnap::clock::SystemClock.now() / 1_000_000).unwrap());
    let found = found.unwrap();
    let told: Vec<_> = found
        .iter()
        .map(|h| (&*h.host, h.age_s / 3600, h.clock_ahead_s.map(|s| (s as f64 / 3600.0).round())))
        .collect();
    assert_eq!(told, [("ahead", 0, Some(24.0)), ("behind", 0, Some(-24.0)), ("cured", 3, None)]);
    let ran = elsewhere(&place, &["--stale", "1h"]).expect_code(1);
    assert!(ran.out.contains("fresh ahead") && ran.out.contains("its clock is 1d ahead of the store's"), "{ran:#?}");
    assert!(ran.out.contains("stale cured"), "{ran:#?}");
}

#[test]
fn one_that_cannot_be_read_is_no_sign_of_life() {
    let place = Place::new();
    fs::write(forge(&place, "web-1", 60, 60), "no heartbeat\u{1b}[2J").unwrap();
    let ran = elsewhere(&place, &["--stale", "2h"]).expect_code(1);
    assert!(ran.out.contains("its newest heartbeat cannot be read") && !ran.out.contains('\u{1b}'), "{ran:#?}");
}

/// The same commands with and without heartbeats say and do the same.
#[test]
fn no_other_command_minds_them() {
    let place = Place::new();
    for name in ["a.db", "b.db"] {
        place.make(name, "delete", 1);
    }
    place.once().expect_code(0);
    let said = |into: &str| -> Vec<String> {
        let runs = [
            place.run(&["list", "--store", "store", "--json"]),
            place.run(&["verify", "--store", "store", "--all", "--seed", "7"]),
            place.run(&["prune", "--store", "store", "--keep-last", "1"]),
            place.run(&["restore", "--store", "store", "--into", into]),
        ];
        let timeless = |text: String| {
            let kept = text
                .split([' ', ','])
                .filter(|w| !w.contains("elapsed") && !w.contains("age_s") && !w.contains("requests"));
            kept.collect::<Vec<_>>().join(" ")
        };
        runs.into_iter().map(|ran| timeless(ran.expect_code(0).out)).collect()
    };
    let before = said("back1");
    forge(&place, "web-1", 60, 60);
    forge(&place, "web-1", 3600, 3600);
    assert_eq!(said("back2"), before);
    let listed = place.run(&["list", "--store", "store"]);
    assert!(listed.err.contains("foreign=0") && !listed.out.contains("heartbeat"), "{listed:#?}");
}

#[test]
fn prune_removes_those_older_than_a_month_but_never_the_newest() {
    const DAY: i64 = 86_400;
    let place = Place::new();
    place.make("a.db", "delete", 1);
    place.once().expect_code(0);
    let goes = forge(&place, "web-1", 40 * DAY, 40 * DAY);
    let stays = [
        forge(&place, "web-1", 35 * DAY, DAY),
        forge(&place, "web-1", 20 * DAY, 20 * DAY),
        forge(&place, "dead", 90 * DAY, 90 * DAY),
    ];
    let foreign = place.store().join("litesnap-heartbeats/web-1/notes.txt");
    fs::write(&foreign, "somebody else's").unwrap();
    let prune =
        |more: &[&str]| place.run(&[&["prune", "--store", "store", "--keep-last", "1"], more].concat()).expect_code(0);
    let ran = prune(&["--match", "a.db"]);
    assert!(!ran.out.contains("heartbeats=") && goes.exists(), "whoever names databases means these: {ran:#?}");
    assert_eq!(prune(&["--dry-run"]).count("heartbeats"), 1);
    assert!(goes.exists());
    assert_eq!(prune(&[]).count("heartbeats"), 1);
    assert!(!goes.exists() && stays.iter().all(|path| path.exists()) && foreign.exists());
    assert!(!prune(&[]).out.contains("heartbeats="));
}

/// A database may lie where heartbeats do: the ends of their names tell them apart.
#[test]
fn a_database_in_their_place_is_a_database() {
    let place = Place::new();
    place.make("x.db", "delete", 1);
    let template = format!("{}/x.db", heartbeats_of("web-1"));
    let once = || -> Ran {
        let more = ["--once", "--key-template", &template, "--host", "web-1", "--heartbeat-object", "1h"];
        place.replicate("data/x.db", &more).output().unwrap().into()
    };
    once().expect_code(0);
    let direct = format!("--key-template={}", heartbeats_of("web-1"));
    let ran: Ran = place.replicate("data/x.db", &["--once", &direct, "--host", "web-1"]).output().unwrap().into();
    ran.expect_code(0);
    let listed = place.run(&["list", "--store", "store"]).expect_code(0);
    let names: Vec<_> = listed.out.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(names, ["litesnap-heartbeats/web-1", "litesnap-heartbeats/web-1/x.db"], "{listed:#?}");
    elsewhere(&place, &["--stale", "2h"]).expect_code(0);
    place.run(&["restore", "--store", "store", "--match", "x.db", "--into", "back"]).expect_code(0);
}
