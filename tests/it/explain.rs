//! `explain`: what it tells agrees with what a run then does; nothing is sent or written; COST_ANALYSIS.md is its output.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use litesnap::cost::model::{Forecast, Load, ObjectCost, Spread};
use litesnap::cost::prices::PROVIDERS;
use litesnap::retention::Rules;
use rusqlite::Connection;
use serde_json::Value;

use crate::place::{Place, Ran};
use crate::s3_server::S3Server;

const STORE: [&str; 4] = ["--store", "store", "--state-dir", "state"];

fn explain(place: &Place, more: &[&str]) -> Ran {
    place.run(&[&["explain"], more].concat())
}

fn json(place: &Place, more: &[&str]) -> Value {
    let ran = explain(place, &[&STORE, more, &["--json"]].concat()).expect_code(0);
    assert_eq!(ran.out.lines().count(), 1, "{ran:#?}");
    serde_json::from_str(&ran.out).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[track_caller]
fn expect_near(told: f64, expected: f64, share: f64) {
    assert!((told - expected).abs() <= expected * share, "{told}, not {expected}");
}

/// Every file below `dir` with what changes when somebody writes, renames or reads it.
fn state_of(dir: &Path) -> BTreeMap<PathBuf, (u64, u64, i64, i64, i64)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let stat = fs::metadata(&path).unwrap();
        if stat.is_dir() {
            all.extend(state_of(&path));
        }
        let time = |s: i64, ns: i64| s * 1_000_000_000 + ns;
        let (mtime, ctime) = (time(stat.mtime(), stat.mtime_nsec()), time(stat.ctime(), stat.ctime_nsec()));
        let atime = if stat.is_dir() { 0 } else { time(stat.atime(), stat.atime_nsec()) };
        all.insert(path, (stat.ino(), stat.size(), mtime, ctime, atime));
    }
    all
}

#[test]
fn the_cost_analysis_is_what_is_committed() {
    let mut place = Place::new();
    let ran = explain(&place, &["--cost-analysis"]).expect_code(0);
    let committed = include_str!("../../COST_ANALYSIS.md");
    assert!(ran.out == committed, "write it anew: litesnap explain --cost-analysis > COST_ANALYSIS.md");
    place.env.push(("LITESNAP_STORE".into(), "s3://bucket".into()));
    place.env.push(("LITESNAP_INTERVAL".into(), "5m".into()));
    assert_eq!(explain(&place, &["--cost-analysis"]).expect_code(0).out, committed, "whatever the environment says");
}

#[test]
fn nothing_is_sent_and_nothing_written_also_beside_a_live_writer() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let place = Place::new();
    place.make("quiet-wal.db", "wal", 200);
    place.make("quiet.db", "delete", 200);
    let live = Connection::open(place.make("live.db", "wal", 10)).unwrap();
    live.execute_batch("PRAGMA wal_autocheckpoint = 0; INSERT INTO t SELECT randomblob(500) FROM t").unwrap();
    fs::write(place.db("notes.db"), "no database").unwrap();
    fs::write(place.db("empty.db"), "").unwrap();
    let before = state_of(&place.path().join("data"));
    assert!(before.keys().any(|path| path.ends_with("live.db-shm")), "the live one has no sidecars: {before:?}");

    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let cloud = ["--store", "s3://bucket/p", "--endpoint", &endpoint, "--allow-http", "--state-dir", "state"];
    for store in [&STORE[..], &cloud] {
        let ran = explain(&place, &[&["data/*.db"], store].concat()).expect_code(0);
        assert!(ran.out.contains("databases    3, "), "{}", ran.out);
        assert!(ran.out.contains("no database  1 files that match: ") && ran.out.contains("notes.db"), "{}", ran.out);
        assert!(ran.out.contains("empty        1 files"), "{}", ran.out);
        assert_eq!(ran.err, "");
    }
    assert_eq!(state_of(&place.path().join("data")), before);
    assert!(!place.store().exists() && !place.state().exists());
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "something was made");
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "somebody connected");
    let wal = fs::metadata(place.db("live.db-wal")).unwrap().len();
    assert_eq!(number(&json(&place, &["data/*.db"])["found"]["wal_bytes"]), wal as f64);
    drop(live);
}

#[test]
fn what_is_told_is_what_the_first_run_then_does() {
    let server = S3Server::start();
    let mut place = Place::new();
    place.env = server.env();
    for n in 0..8 {
        place.make(&format!("a/{n}.db"), if n % 2 == 0 { "wal" } else { "delete" }, 300 * n);
    }
    place.make_random("b/large.db", 30 << 20);
    place.make_random("b/below-a-part.db", 7 << 20);
    let patterns = ["data/a/*.db", "data/b/*.db"];
    let told = json(&place, &patterns);

    let (found, run) = (&told["found"], &told["first_run"]);
    let files = [place.data().join("a"), place.data().join("b")];
    let sizes: Vec<u64> = files.iter().flat_map(state_of_sizes).collect();
    assert_eq!(found["databases"], 10);
    assert_eq!(found["main_bytes"], sizes.iter().sum::<u64>());
    assert_eq!(found["largest_bytes"], *sizes.iter().max().unwrap());
    assert_eq!(found["p99_bytes"], found["largest_bytes"]);
    assert!(found["largest"].as_str().unwrap().ends_with("data/b/large.db"));
    assert_eq!((&found["patterns"][0]["databases"], &found["patterns"][1]["databases"]), (&8.into(), &2.into()));
    let examples = found["patterns"][0]["examples"].as_array().unwrap();
    assert_eq!(examples.len(), 3);
    for (n, example) in examples.iter().enumerate() {
        let path = place.db(&format!("a/{n}.db"));
        assert_eq!(example["path"], path.to_str().unwrap());
        let key = example["key"].as_str().unwrap();
        assert!(key.starts_with(&format!("{}/2", path.to_str().unwrap().trim_start_matches('/'))), "{key}");
    }

    let args =
        [&["replicate"], &patterns[..], &["--store", &server.url("bucket", "p"), "--state-dir", "state", "--once"]];
    let ran = place.run(&args.concat()).expect_code(0);
    assert_eq!(run["requests"], ran.count("requests"), "{ran:?}");
    // A large one is read in pieces, and a description has numbers of other lengths.
    expect_near(number(&run["object_bytes"]), ran.count("bytes") as f64, 0.01);
    assert_eq!(run["sample"]["databases"], 10);
}

fn state_of_sizes(dir: &PathBuf) -> Vec<u64> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).collect()
}

#[test]
fn the_months_are_those_of_the_model_with_what_was_given() {
    let place = Place::new();
    (0..20).for_each(|n| drop(place.make(&format!("{n}.db"), "delete", 50)));
    let given = ["data/*.db", "--change-rate", "5%", "--interval", "1m", "--cooldown", "10m", "--refresh", "30d"];
    let given =
        [&given[..], &["--keep", "standard", "--rate", "1MB/s", "--round-trip", "2s", "--concurrency", "7"]].concat();
    let told = json(&place, &given);
    let run = &told["first_run"];
    expect_near(number(&run["send_s"]), number(&run["object_bytes"]) / 1e6, 1e-9);
    expect_near(number(&run["wait_s"]), 3.0 * 2.0, 1e-9);
    assert_eq!(run["at_least_s"], run["wait_s"]);

    let load = Load { databases: 20, changed: 0.05, interval_s: 60.0, cooldown_s: 600.0, refresh_s: 2_592_000.0 };
    let object = ObjectCost { bytes: number(&run["object_bytes"]) / 20.0, requests: 1.0 };
    let months = told["months"].as_array().unwrap();
    assert_eq!(months.len(), 3);
    for (month, spread) in months.iter().zip(Spread::ALL) {
        let forecast = Forecast { load, spread, object };
        assert_eq!(month["spread"], spread.word());
        expect_near(number(&month["usage"]["puts"]), load.snapshots(spread) + 20.0, 1e-9);
        let held = forecast.held(&Rules::standard(), 12.0);
        expect_near(number(&month["held_bytes_12"]), held.bytes, 1e-9);
        for (charge, provider) in month["providers"].as_array().unwrap().iter().zip(PROVIDERS) {
            assert_eq!(charge["provider"], provider.name);
            let puts = number(&month["usage"]["puts"]);
            expect_near(number(&charge["requests_usd"]), puts / 1e6 * provider.put, 1e-9);
            expect_near(number(&charge["storage_usd_12"]), provider.storage_usd(&held), 1e-9);
        }
    }
    assert_eq!(json(&place, &[&given[..], &["--spread", "turn"]].concat())["months"].as_array().unwrap().len(), 1);
    let without = json(&place, &["data/*.db", "--change-rate", "5%", "--interval", "1m"]);
    expect_near(number(&without["months"][0]["usage"]["puts"]), 43_200.0, 1e-9);
}

#[test]
fn people_get_aligned_tables_with_every_assumption_named() {
    let place = Place::new();
    (0..100).for_each(|n| drop(place.make(&format!("{n:03}.db"), "delete", 5)));
    let more = ["data/*.db", "--cooldown", "30m", "--host", "web-1", "--key-template", "{{hostname}}/{{path}}"];
    let out = explain(&place, &[&more[..], &STORE].concat()).expect_code(0).out;
    for part in [
        "100, ",
        " -> web-1/",
        "/002.db -> ",
        "all 100 were read and compressed",
        "to send at 10.0 MB/s (--rate)",
        "30 ms for round trips of 30ms (--round-trip), 100 at once",
        "if 1 % of the databases change in each 30s (--change-rate), cooldown 30m, keep everything",
        "USD, any, at random",
        "Nothing is removed without a --keep rule",
    ] {
        assert!(out.contains(part), "{part} is missing:\n{out}");
    }
    let busy: Vec<&str> = out.lines().find(|l| l.starts_with("the same")).unwrap().split_whitespace().collect();
    assert_eq!(busy[5..7], ["1,440", "1,440"], "{out}");
    assert!(!out.contains("/003.db -> ") && !out.contains('\x1b') && !out.contains("NaN"), "{out}");
    let head: Vec<&str> = out.lines().filter(|line| line.starts_with("USD, ")).collect();
    let column = head[0].find("Wasabi").unwrap() + "Wasabi".len();
    assert!(head.len() == 3 && head.iter().all(|line| line.len() == column), "{out}");
    assert_eq!(out.lines().filter(|line| line.starts_with("  storage") && line.len() == column).count(), 6, "{out}");
    let kept = explain(&place, &[&more[..], &STORE, &["--keep-last", "3"]].concat()).expect_code(0).out;
    assert!(kept.contains("keep last 3") && kept.contains("With --keep storage is at most this"), "{kept}");
}

#[test]
fn a_folder_means_its_databases_and_what_cannot_be_stored_is_named() {
    let place = Place::new();
    place.make("one/a.sqlite", "delete", 5);
    place.make("two/a.sqlite", "delete", 5);
    fs::write(place.db("one/readme.txt"), "text").unwrap();
    let told = json(&place, &["data"]);
    assert_eq!((&told["found"]["databases"], &told["found"]["not_databases"]), (&2.into(), &0.into()));
    let clash = ["data/{folder}/a.sqlite", "--key-template", "x/{{hostname}}"];
    let ran = explain(&place, &[&clash[..], &STORE].concat()).expect_code(1);
    assert!(ran.out.contains("not stored  key-clash 2"), "{ran:#?}");
    assert!(ran.err.contains("one/a.sqlite: key-clash") && ran.err.contains("two/a.sqlite: key-clash"), "{ran:#?}");
    // What is ours is not backed up, and what is stored already makes no difference.
    place.run(&["replicate", "data", "--store", "data/store", "--state-dir", "data/state", "--once"]).expect_code(0);
    let ran = explain(&place, &["data", "--store", "data/store", "--state-dir", "data/state"]).expect_code(0);
    assert!(ran.out.contains("databases  2, "), "{}", ran.out);
}

#[test]
fn bad_input_gets_one_line_and_exit_code_2() {
    let place = Place::new();
    fs::write(place.db("notes.txt"), "no database").unwrap();
    fs::write(place.db("empty.txt"), "").unwrap();
    place.make("a.db", "delete", 1);
    let with = |more: &[&'static str]| [&["data/*.db"], &STORE[..], more].concat();
    let rows: &[(Vec<&str>, &[&str])] = &[
        (vec![], &["no store given", "--store s3://my-bucket/backups"]),
        (vec!["data/*.db"], &["no store given"]),
        (STORE.to_vec(), &["no pattern given", "such as '/data/*/tenants/*.db'"]),
        (with(&["--change-rate", "0%"]), &["--change-rate", "'0%'", "such as 1%"]),
        (with(&["--change-rate", "101%"]), &["--change-rate", "'101%'"]),
        (with(&["--spread", "even"]), &["--spread", "'even'", "same, random, turn"]),
        (with(&["--rate", "10MiB"]), &["--rate", "'10MiB'", "such as 20MiB/s"]),
        (with(&["--round-trip", "soon"]), &["--round-trip", "'soon'", "such as 30s"]),
        (with(&["--interval", "0s"]), &["--interval", "1s"]),
        (with(&["--keep", "most"]), &["--keep", "'most'"]),
        (with(&["--host", "a/b"]), &["'a/b'", "--host web-1"]),
        (with(&["--key-template", "{{tenannt}}"]), &["{{tenannt}}", "known names are"]),
        (with(&["--once"]), &["--once", "litesnap explain --help"]),
        ([&["data/x*.db"], &STORE[..]].concat(), &["nothing matches", "data/x*.db", "--dry-run"]),
        ([&["none/**/*.db"], &STORE[..]].concat(), &["nothing matches", "there is no folder"]),
        ([&["data/*.txt"], &STORE[..]].concat(), &["no database found", "1 are none and 1 are empty"]),
    ];
    for (args, parts) in rows {
        let ran = explain(&place, args).expect_code(2);
        assert!(ran.err.starts_with("litesnap: ") && ran.err.lines().count() == 1 && ran.out.is_empty(), "{ran:#?}");
        for part in *parts {
            assert!(ran.err.contains(part), "{part} is missing: {ran:#?}");
        }
    }
    assert!(!place.store().exists() && !place.state().exists());
}
