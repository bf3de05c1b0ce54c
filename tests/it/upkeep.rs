//! Beside the loop: pruning once a day, verifying on a schedule, each remembered over restarts and counted apart.

use std::fs;
use std::time::Duration;

use rusqlite::Connection;

use crate::place::{Place, age, eventually};

const LONG: Duration = Duration::from_secs(40);

/// Commits to `a.db` and stores it, so that it has one snapshot more.
fn another_snapshot(place: &Place) {
    let path = place.data().join("a.db");
    if path.exists() {
        Connection::open(&path).unwrap().execute_batch("INSERT INTO t VALUES(0)").unwrap();
        age(&path);
    } else {
        place.make("a.db", "delete", 1);
    }
    place.once().expect_code(0);
}

fn note(place: &Place, name: &str) -> Option<String> {
    let conn = Connection::open(place.state_db()).unwrap();
    conn.query_row("SELECT value FROM meta WHERE name = ?1", [name], |r| r.get(0)).ok()
}

fn snapshots(place: &Place) -> usize {
    place.objects_of("a.db").iter().filter(|o| o.key.ends_with(".db.lz4")).count()
}

#[test]
fn a_loop_with_a_rule_prunes_once_a_day_also_over_restarts() {
    let place = Place::new();
    for _ in 0..3 {
        another_snapshot(&place);
    }
    let newest = place.objects_of("a.db").pop().unwrap();
    let running = place.start_loop("1s", &["--keep-last", "1"]);
    assert!(eventually(LONG, || note(&place, "last_prune").is_some()));
    let ran = running.stop().expect_code(0);
    assert_eq!(place.objects_of("a.db"), [newest], "the newest stays: {ran:#?}");
    assert!(ran.err.contains("prune: ") && ran.err.contains("removed=2"), "{ran:#?}");
    assert!(!ran.err.contains("pile up") && !ran.err.contains("nothing is removed"), "{ran:#?}");

    another_snapshot(&place);
    let running = place.start_loop("1s", &["--keep-last", "1"]);
    std::thread::sleep(Duration::from_secs(3));
    running.stop().expect_code(0);
    assert_eq!(snapshots(&place), 2, "not before a day has passed");
}

#[test]
fn one_pass_with_a_rule_prunes_when_a_day_has_passed() {
    let place = Place::new();
    for _ in 0..3 {
        another_snapshot(&place);
    }
    let once = || place.replicate("data/**/*.db", &["--once", "--keep-last", "1"]).output().unwrap();
    assert!(once().status.success());
    assert_eq!(snapshots(&place), 1);
    let conn = Connection::open(place.state_db()).unwrap();
    let spent = "SELECT sum(requests) FROM spent WHERE what = 'prune' AND verb = 'delete'";
    assert_eq!(conn.query_row(spent, [], |r| r.get::<_, i64>(0)).unwrap(), 2, "counted under its own name");
    drop(conn);
    another_snapshot(&place);
    assert!(once().status.success());
    assert_eq!(snapshots(&place), 2);
    // As if the last run had been the day before yesterday.
    let conn = Connection::open(place.state_db()).unwrap();
    let old = r#"{"at":"2020-01-01T00:00:00.000Z","exit_code":0,"result":""}"#;
    conn.execute("UPDATE meta SET value = ?1 WHERE name = 'last_prune'", [old]).unwrap();
    drop(conn);
    assert!(once().status.success());
    assert_eq!(snapshots(&place), 1);
}

#[test]
fn without_a_rule_it_says_what_piles_up_and_removes_nothing() {
    let place = Place::new();
    another_snapshot(&place);
    another_snapshot(&place);
    let running = place.start_loop("1s", &[]);
    std::thread::sleep(Duration::from_secs(2));
    let ran = running.stop().expect_code(0);
    assert!(ran.err.contains("nothing is removed from the store"), "{ran:#?}");
    assert_eq!(snapshots(&place), 2);
}

#[test]
fn a_bad_object_is_found_marked_and_stored_again() {
    let place = Place::new();
    another_snapshot(&place);
    let stored = place.objects_of("a.db").pop().unwrap();
    let mut damaged = stored.bytes.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(place.store().join(&stored.key), damaged).unwrap();

    let running = place.start_loop("1s", &["--verify-every", "1d", "--sample", "100%"]);
    assert!(eventually(LONG, || snapshots(&place) == 2), "the loop stores it again");
    let ran = running.stop().expect_code(0);
    assert!(place.store().join(format!("{}.bad", stored.key)).exists());
    assert!(ran.err.contains("verify: ") && ran.err.contains("bad=1"), "{ran:#?}");
    assert!(note(&place, "last_verify").unwrap().contains("bad=1"));
    let ran = place.run(&["restore", "--store", "store", "--into", "back", "--check", "full"]).expect_code(0);
    assert_eq!(ran.count("restored"), 1);
}

#[test]
fn that_everything_is_marked_is_no_success() {
    let place = Place::new();
    another_snapshot(&place);
    let stored = place.objects_of("a.db").pop().unwrap();
    fs::write(place.store().join(&stored.key), &stored.bytes[..stored.bytes.len() / 2]).unwrap();
    place.run(&["verify", "--store", "store", "--all"]).expect_code(1);
    let once = place.replicate("data/**/*.db", &["--once", "--verify-every", "1d", "--sample", "100%"]);
    let ran: crate::place::Ran = { once }.output().unwrap().into();
    ran.expect_code(1);
    assert!(note(&place, "last_verify").unwrap().contains("\"exit_code\":1"));
}

#[test]
fn too_often_is_refused() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    let ran =
        place.run(&["replicate", "data/*.db", "--store", "store", "--state-dir", "state", "--verify-every", "1s"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("--verify-every") && ran.err.lines().count() == 1, "{ran:#?}");
}

#[test]
fn what_a_restore_has_under_way_is_not_backed_up() {
    let place = Place::new();
    let path = place.make("a.db", "delete", 1);
    fs::copy(&path, place.data().join(".litesnap-restore-0123456789abcdef")).unwrap();
    fs::copy(&path, place.data().join(".litesnap-aside-0123456789abcdef-wal")).unwrap();
    for pattern in ["data", "data/*"] {
        let ran: crate::place::Ran = place.replicate(pattern, &["--once"]).output().unwrap().into();
        assert_eq!(ran.expect_code(0).count("databases"), 1, "{pattern}");
    }
}
