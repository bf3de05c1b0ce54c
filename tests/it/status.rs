//! `litesnap status`: what waits, what fails and what is too old, from the state of a loop that runs, was killed or never ended
//! a cycle. Heartbeats have a module of their own below.

mod heartbeats;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::place::{Place, Ran, Running, age, eventually};
use crate::s3_server::{Fault, S3Server};

const LONG: Duration = Duration::from_secs(40);

/// `litesnap status --state-dir state` with more arguments.
fn status(place: &Place, more: &[&str]) -> Ran {
    place.run(&[&["status", "--state-dir", "state"], more].concat())
}

fn parsed(ran: &Ran) -> Value {
    assert_eq!(ran.out.lines().count(), 1, "{ran:#?}");
    serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:#?}"))
}

/// The fields at these pointers, as a list.
fn picked<const N: usize>(value: &Value, pointers: [&str; N]) -> Value {
    pointers
        .map(|pointer| value.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {value:#}")).clone())
        .to_vec()
        .into()
}

/// Every file of the state directory with its bytes; without those of temporary copies.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file());
    all.map(|p| (p.clone(), fs::read(p).unwrap())).collect()
}

fn change(path: &Path) {
    Connection::open(path).unwrap().execute_batch("INSERT INTO t VALUES(0)").unwrap();
    age(path);
}

#[test]
fn it_tells_what_there_is_and_leaves_no_trace() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    let bad = place.db("bad.db");
    fs::write(&bad, "certainly no database").unwrap();
    place.once().expect_code(1);
    let before = files(&place.state());

    let ran = status(&place, &[]).expect_code(0);
    assert!(ran.out.starts_with("state state/"), "the first line says what was asked: {ran:#?}");
    for said in ["loop: not running", "2 known, 1 stored, 1 failing", "failing: not-a-database 1", "requests 20"] {
        assert!(ran.out.contains(said), "{said} is not in {ran:#?}");
    }
    assert!(ran.out.contains(&format!("{}: no SQLite header", bad.display())), "an example: {ran:#?}");

    let all = parsed(&status(&place, &["--json"]).expect_code(0));
    assert_eq!(picked(&all, ["/asked", "/loop/is_running", "/loop/was_killed"]), json!(["state", false, false]));
    assert_eq!(picked(&all, ["/databases/known", "/waiting/failed", "/cycles/0/stored"]), json!([2, 1, 1]));
    let failing = picked(&all, ["/failures/0/reason", "/failures/0/count", "/failures/0/examples/0/path"]);
    assert_eq!(failing, json!(["not-a-database", 1, bad.to_str().unwrap()]));
    assert!(all["known_as_of"].is_string() && all["store"].as_str().unwrap().contains("/store"), "{all:#}");

    status(&place, &["--stale", "5m"]).expect_code(0);
    assert_eq!(files(&place.state()), before, "a look changes nothing");
}

#[test]
fn what_waits_too_long_is_listed_with_why() {
    let place = Place::new();
    let held = place.make("held.db", "delete", 1);
    let once = || -> Ran { place.replicate("data/**/*.db", &["--once", "--cooldown", "1h"]).output().unwrap().into() };
    once().expect_code(0);
    assert!(
        status(&place, &["--stale", "5m"]).expect_code(0).out.contains("fresh: no change waits for longer than 5m")
    );
    change(&held);
    fs::write(place.db("bad.db"), "certainly no database").unwrap();
    once().expect_code(1);

    status(&place, &["--stale", "5m"]).expect_code(0);
    let ran = status(&place, &["--stale", "0s"]).expect_code(1);
    let line =
        |name: &str| ran.out.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name}: {ran:#?}"));
    assert!(line("held.db").contains(" held ") && line("bad.db").contains(" failed "), "{ran:#?}");
    assert!(line("bad.db").ends_with("not-a-database: no SQLite header"), "{ran:#?}");
    assert!(ran.out.contains("2 databases have a change that has not been stored"), "{ran:#?}");
    let told = status(&place, &[]).expect_code(0);
    assert!(told.out.contains("waiting: 2 (held back by a cooldown 1, failed 1, not tried 0)"), "{told:#?}");

    let all = parsed(&status(&place, &["--stale", "0s", "--json"]).expect_code(1));
    let listed: Vec<_> = all["stale"].as_array().unwrap().iter().map(|one| one["wait"].as_str().unwrap()).collect();
    assert!(listed.len() == 2 && listed.contains(&"held") && listed.contains(&"failed"), "{all:#}");
    assert_eq!(picked(&all, ["/unknown", "/stale_after_s"]), json!([null, 0]));
}

/// Nothing is made of less than an hour; full days are worth more than the hours that cycles are kept for.
#[test]
fn the_bill_is_of_what_was_asked() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    place.once().expect_code(0);
    let bill = || parsed(&status(&place, &["--json"]).expect_code(0))["bill"].clone();
    assert_eq!(bill(), Value::Null);
    let sql = |sql: &str| Connection::open(place.state_db()).unwrap().execute_batch(sql).unwrap();
    // Two hours in which a hundred requests stored a hundred objects, after the first cycle, which counts for nothing.
    sql("UPDATE cycles SET requests = 1000000;
         INSERT INTO cycles SELECT NULL, started_ms + 1000, 0, 1, 1, 1, 50, 0, 0, 0, 0, 0, 9, 9, 50, NULL FROM cycles WHERE no = 1;
         INSERT INTO cycles SELECT NULL, started_ms + 7201000, 0, 1, 1, 1, 50, 0, 0, 0, 0, 0, 9, 9, 50, NULL FROM cycles WHERE no = 1");
    let of_cycles = bill();
    assert_eq!(picked(&of_cycles, ["/seconds", "/month/puts"]), json!([7200, 36_000.0]), "{of_cycles:#}");
    // Two full days, after the one on which counting began.
    sql("DELETE FROM spent; DELETE FROM days;
         INSERT INTO days SELECT unixepoch() / 86400 - value, 10 * value, 1000 FROM (SELECT 1 AS value UNION SELECT 2 UNION SELECT 3);
         INSERT INTO spent SELECT unixepoch() / 86400 - value, 'cycle', 'put', 10 * value FROM (SELECT 0 AS value UNION SELECT 1 UNION SELECT 2 UNION SELECT 3);
         INSERT INTO spent VALUES(unixepoch() / 86400 - 1, 'prune', 'list', 7)");
    let of_days = bill();
    assert_eq!(
        picked(&of_days, ["/seconds", "/month/puts", "/month/lists"]),
        json!([172_800, 450.0, 105.0]),
        "{of_days:#}"
    );
    assert_eq!(of_days["month_objects"], json!(450.0), "{of_days:#}");
    assert!(status(&place, &[]).out.contains("(from the last 2d)"));
}

/// What was untried has no failure of its own; before any cycle has ended well nothing is called fresh.
#[test]
fn with_the_store_down_all_that_changed_is_stale_and_nothing_else_is_known() {
    let server = S3Server::start();
    let mut place = Place::new();
    place.env = server.env();
    let first = place.make("0.db", "delete", 1);
    for n in 1..30 {
        fs::copy(&first, place.db(&format!("{n}.db"))).unwrap();
    }
    let url = server.url("bucket", "p");
    let once =
        || place.run(&["replicate", "data", "--store", &url, "--state-dir", "state", "--once", "--concurrency", "1"]);
    server.fail_from(1, Fault::answer(403, "AccessDenied"));
    once().expect_code(3);
    let ran = status(&place, &["--stale", "1h"]).expect_code(1);
    assert!(ran.out.contains("nothing is known yet: no cycle has ended well"), "{ran:#?}");
    assert!(ran.out.contains("store-refused"), "why: {ran:#?}");

    let all = parsed(&status(&place, &["--stale", "0s", "--json", "--store", &url]).expect_code(1));
    let wait = |word: &str| all["stale"].as_array().unwrap().iter().filter(|one| one["wait"] == word).count();
    assert_eq!((wait("failed") + wait("untried"), wait("held")), (30, 0), "{all:#}");
    assert!(wait("untried") > 0 && wait("failed") >= 8, "{all:#}");

    server.heal();
    once().expect_code(0);
    status(&place, &["--stale", "1h", "--store", &url]).expect_code(0);
}

#[test]
fn a_running_loop_is_told_from_one_that_was_killed() {
    let place = Place::new();
    let path = place.make("a.db", "wal", 1);
    let running = place.start_loop("1s", &[]);
    let seen = eventually(LONG, || {
        let ran = status(&place, &["--json"]);
        ran.code == Some(0) && parsed(&ran)["known_as_of"].is_string()
    });
    assert!(seen);
    let now = parsed(&status(&place, &["--json"]));
    assert_eq!(picked(&now, ["/loop/is_running", "/loop/pid"]), json!([true, running.pid()]));
    assert_eq!(picked(&now, ["/loop/interval_s", "/loop/litesnap"]), json!([1.0, env!("CARGO_PKG_VERSION")]));
    status(&place, &["--stale", "5m"]).expect_code(0);

    running.signal(Signal::SIGKILL);
    running.wait(LONG);
    let before = files(&place.state());
    let ran = status(&place, &[]).expect_code(0);
    assert!(ran.out.contains("loop: not running") && ran.out.contains("ended in the middle of its work"), "{ran:#?}");
    change(&path);
    // Longer ago than an interval: nobody knows that anything changed, and nobody may call it fresh.
    let red = eventually(LONG, || status(&place, &["--stale", "0s"]).code == Some(1));
    assert!(red);
    let ran = status(&place, &["--stale", "0s"]);
    assert!(ran.out.contains("nothing is known of changes since") && ran.out.contains("was killed"), "{ran:#?}");
    let left: Vec<_> = files(&place.state()).into_keys().collect();
    assert_eq!(left, before.into_keys().collect::<Vec<_>>(), "no file made, none removed");
}

#[test]
fn in_the_middle_of_a_first_run_nothing_is_called_fresh() {
    let server = S3Server::start();
    let mut place = Place::new();
    place.env = server.env();
    place.make("a.db", "delete", 1);
    server.fail_from(1, Fault::Hang);
    let running = Running::start(place.litesnap(&[
        "replicate",
        "data",
        "--store",
        &server.url("bucket", "p"),
        "--state-dir",
        "state",
    ]));
    assert!(eventually(LONG, || server.count("PUT") > 0), "it is storing");
    let ran = status(&place, &[]).expect_code(0);
    assert!(ran.out.contains("loop: running") && ran.out.contains("a cycle is under way"), "{ran:#?}");
    assert!(ran.out.contains(&format!("pid {}", running.pid())) && ran.out.contains("last success: never"), "{ran:#?}");
    let ran = status(&place, &["--stale", "1h"]).expect_code(1);
    assert!(ran.out.contains("nothing is known yet") && ran.out.contains("a loop is running"), "{ran:#?}");
}

/// A folder that cannot be seen is no failure of a database, and still nobody knows what is in it.
#[test]
fn a_cycle_that_could_not_see_everything_says_nothing_about_freshness() {
    let place = Place::new();
    for name in ["a/1.db", "b/2.db"] {
        place.make(name, "delete", 1);
    }
    place.once().expect_code(0);
    fs::rename(place.data(), place.path().join("away")).unwrap();
    fs::create_dir(place.data()).unwrap();
    place.once();
    // The first cycle is not old enough to be stale by itself: make it so.
    let conn = Connection::open(place.state_db()).unwrap();
    conn.execute_batch("UPDATE cycles SET started_ms = started_ms - 3600000").unwrap();
    drop(conn);
    let ran = status(&place, &["--stale", "5m"]).expect_code(1);
    assert!(ran.out.contains("nothing is known of changes since") && ran.out.contains("are gone"), "{ran:#?}");
}

#[test]
fn a_clock_that_was_set_back_proves_nothing() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    place.once().expect_code(0);
    let conn = Connection::open(place.state_db()).unwrap();
    conn.execute_batch("UPDATE cycles SET started_ms = started_ms + 86400000").unwrap();
    conn.execute_batch("INSERT INTO backlog SELECT id, path, stored_s + 86400, 1 FROM databases").unwrap();
    drop(conn);
    let ran = status(&place, &["--stale", "5m"]).expect_code(1);
    assert!(ran.out.contains("is ahead of this clock") && ran.out.contains("stale ahead of this clock"), "{ran:#?}");
}

#[test]
fn bad_input_gets_one_line() {
    let place = Place::new();
    fs::create_dir(place.state()).unwrap();
    for (args, said) in [
        (
            &["--state-dir", "nowhere"][..],
            "there is no state in nowhere: give the --state-dir that replicate was given",
        ),
        (&["--state-dir", "state"], "there is no state in state"),
        (&["--from-store"], "--from-store asks a store: give --store"),
        (&["--host", "web-1"], "--host asks a store: give --store"),
        (&["--store", ""], "store"),
        (&["--stale", "soon"], "such as 30s, 5m, 2h"),
    ] {
        let ran = place.run(&[&["status"], args].concat()).expect_code(2);
        assert!(ran.err.contains(said) && ran.err.lines().count() == 1 && ran.out.is_empty(), "{said}: {ran:#?}");
    }
}

/// Variables that other commands want are no question about a store; the one that names a store is.
#[test]
fn variables_of_a_service_do_not_change_the_question() {
    let mut place = Place::new();
    place.make("a.db", "delete", 1);
    place.once().expect_code(0);
    place.env.push(("LITESNAP_CONCURRENCY".into(), "7".into()));
    assert!(status(&place, &[]).expect_code(0).out.starts_with("state "));
    place.env.push(("LITESNAP_STORE".into(), "store".into()));
    assert!(status(&place, &[]).expect_code(0).out.starts_with("state "));
    place.env.push(("LITESNAP_STATE_DIR".into(), "nowhere".into()));
    assert!(place.run(&["status"]).expect_code(1).out.starts_with("store "));
}

#[test]
fn a_damaged_state_is_named_and_the_others_are_told() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    place.once().expect_code(0);
    let damaged = place.state().join("damaged-0.db");
    for content in [&b"certainly no database"[..], b""] {
        fs::write(&damaged, content).unwrap();
        let ran = status(&place, &["--stale", "5m"]).expect_code(2);
        assert!(ran.out.contains("fresh: ") && ran.err.contains("damaged-0.db"), "{ran:#?}");
        assert_eq!(fs::read(&damaged).unwrap(), content, "left as it is");
    }
    fs::remove_file(&damaged).unwrap();
    // Of the right kind, with a table that is none any more.
    let conn = Connection::open(place.state_db()).unwrap();
    conn.execute_batch("DROP TABLE backlog").unwrap();
    drop(conn);
    let ran = status(&place, &["--stale", "5m"]).expect_code(2);
    assert!(ran.err.contains("cannot use the state") && !ran.out.contains("fresh"), "{ran:#?}");
}

/// A page of the backlog that is garbage is no empty backlog.
#[test]
fn a_damaged_page_is_never_taken_for_nothing_that_waits() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    place.once().expect_code(0);
    let path = place.state_db();
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("INSERT INTO backlog SELECT id, path, 1000, 2 FROM databases; PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    let page: i64 =
        conn.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'backlog'", [], |r| r.get(0)).unwrap();
    let size: i64 = conn.query_row("PRAGMA page_size", [], |r| r.get(0)).unwrap();
    drop(conn);
    status(&place, &["--stale", "5m"]).expect_code(1);
    let mut bytes = fs::read(&path).unwrap();
    let at = usize::try_from((page - 1) * size).unwrap();
    bytes[at..at + 100].fill(0xAA);
    fs::write(&path, bytes).unwrap();
    let ran = status(&place, &["--stale", "5m"]).expect_code(2);
    assert!(ran.err.contains("cannot use the state") && !ran.out.contains("fresh"), "{ran:#?}");
}

/// A folder that may not be read hides what lies in it, from the very first pass on.
#[test]
fn a_folder_that_cannot_be_read_leaves_nothing_fresh() {
    let place = Place::new();
    let args =
        ["replicate", "own/**/*.db", "--store", "own/store", "--state-dir", "own/state", "--once", "--allow-empty"];
    let Some(mut command) = place.unprivileged(&args) else { return };
    let hidden = place.path().join("own/hidden");
    fs::create_dir(&hidden).unwrap();
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o000)).unwrap();
    assert!(!command.output().unwrap().status.success());
    let ran = place.run(&["status", "--state-dir", "own/state", "--stale", "1h"]).expect_code(1);
    assert!(ran.out.contains("own/hidden") && ran.out.contains("nothing is known"), "{ran:#?}");
}
