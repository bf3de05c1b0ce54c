//! Looking at what is stored: every damage is found under its own word, nothing good is called bad, what is bad is marked
//! and asked for again, and exit codes tell the truth.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use litesnap::access::Access;
use litesnap::cycle::Silent;
use litesnap::layout::Timestamp;
use litesnap::names::Names;
use litesnap::object::{Description, decode, encode_frame};
use litesnap::store::StoreOptions;
use litesnap::verify::{Extent, Finding, VerifyOptions, VerifyReport, verify};
use rusqlite::Connection;

use crate::place::{Object, Place, Ran, Running, eventually};
use crate::s3_server::{Fault, S3Server};

mod damages;
mod network;
mod requests;

const NOW: &str = "20270101T000000.000Z";

fn options() -> VerifyOptions {
    VerifyOptions { names: Names::all(), extent: Extent::All, seed: Some(1), mark: false, state_dir: None }
}

/// Looks at all of a folder store through the library.
fn look(store: &Path, options: &VerifyOptions) -> VerifyReport {
    let url = StoreOptions::new(store.to_str().unwrap());
    let access = Access::open(&url, &Vec::new(), 4, Arc::default()).unwrap();
    verify(&access, options, NOW.parse::<Timestamp>().unwrap(), &Silent).unwrap()
}

fn findings(report: &VerifyReport) -> Vec<Finding> {
    let mut all = Vec::new();
    report
        .each_finding::<litesnap::error::Error>(|f| {
            all.push(f);
            Ok(())
        })
        .unwrap();
    all
}

fn words(report: &VerifyReport) -> Vec<String> {
    findings(report).into_iter().map(|f| f.word).collect()
}

/// `verify --store store` with more arguments.
fn run(place: &Place, more: &[&str]) -> Ran {
    place.run(&[&["verify", "--store", "store"], more].concat())
}

/// A database with pages of 512 bytes: its object has a few hundred bytes.
fn make_tiny(place: &Place, name: &str) -> PathBuf {
    let path = place.db(name);
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("PRAGMA page_size = 512; CREATE TABLE t(x)").unwrap();
    conn.execute("INSERT INTO t VALUES(?1)", [name]).unwrap();
    drop(conn);
    crate::place::age(&path);
    path
}

/// One pass into another store than the place's own.
fn store_at(place: &Place, url: &str) {
    place.run(&["replicate", "data/*.db", "--store", url, "--state-dir", "state", "--once"]).expect_code(0);
}

/// Adds a row and stores the database again.
fn store_again(place: &Place, path: &Path) {
    Connection::open(path).unwrap().execute_batch("INSERT INTO t VALUES('more')").unwrap();
    place.once().expect_code(0);
}

/// Every file below the store with its bytes.
fn files(place: &Place) -> BTreeMap<String, Vec<u8>> {
    place.objects().into_iter().map(|o| (o.key, o.bytes)).collect()
}

#[test]
fn a_good_store_is_good_whatever_is_in_it() {
    let place = Place::new();
    for (name, mode) in [("a.db", "wal"), ("b c.db", "delete"), ("d/ü.db", "wal")] {
        place.make(name, mode, 500);
    }
    make_tiny(&place, "tiny.db");
    // More than is looked at in memory, and at once: through a temporary file.
    place.make_random("random.db", 6_000_000);
    place.make_large("large.db");
    for size in [1024, 8192, 65536] {
        let conn = Connection::open(place.db(&format!("{size}.db"))).unwrap();
        conn.pragma_update(None, "page_size", size).unwrap();
        conn.execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL; CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(200000))",
        )
        .unwrap();
    }
    place.once().expect_code(0);
    let before = files(&place);
    let temp = place.path().join("temp");
    fs::create_dir(&temp).unwrap();
    let all: Ran =
        place.litesnap(&["verify", "--store", "store", "--all"]).env("TMPDIR", &temp).output().unwrap().into();
    let all = all.expect_code(0);
    for (name, n) in [("databases", 9), ("snapshots", 9), ("checked", 9), ("good", 9), ("bad", 0), ("missing", 0)] {
        assert_eq!(all.count(name), n, "{name}: {all:#?}");
    }
    let bytes: usize = before.values().map(Vec::len).sum();
    assert_eq!(all.count("bytes"), bytes as u64, "{all:#?}");
    assert_eq!((all.count("unchecked"), all.out.lines().count()), (0, 1), "{all:#?}");
    assert_eq!(files(&place), before);
    assert_eq!(fs::read_dir(&temp).unwrap().count(), 0);
    // As many requests as objects, and one listing.
    assert_eq!(all.count("requests"), 10, "{all:#?}");
}

#[test]
fn a_sample_is_repeated_by_its_seed_and_never_empty() {
    let place = Place::new();
    for n in 0..12 {
        make_tiny(&place, &format!("{n}.db"));
    }
    place.once().expect_code(0);
    let one = run(&place, &[]).expect_code(0);
    assert_eq!((one.count("checked"), one.count("snapshots")), (1, 12), "{one:#?}");
    let checked = |seed: &str, share: &str| {
        // What was looked at shows where every object is bad.
        let json = run(&place, &["--seed", seed, "--sample", share, "--no-mark", "--json"]);
        let json: serde_json::Value = serde_json::from_str(&json.expect_code(1).out).unwrap();
        json["findings"].as_array().unwrap().iter().map(|f| f["key"].to_string()).collect::<Vec<_>>()
    };
    for object in place.objects() {
        fs::write(place.store().join(object.key), "").unwrap();
    }
    let printed = run(&place, &["--sample", "40%", "--no-mark", "--json"]).expect_code(1);
    let printed: serde_json::Value = serde_json::from_str(&printed.out).unwrap();
    let first: Vec<String> = printed["findings"].as_array().unwrap().iter().map(|f| f["key"].to_string()).collect();
    assert_eq!(checked(&printed["seed"].to_string(), "40%"), first);
    assert_eq!(checked("7", "40%"), checked("7", "40%"));
    assert_eq!(checked("7", "100%").len(), 12);
    // Twenty seeds that all choose alike would be none.
    let choices: Vec<_> = (0..20).map(|seed: u8| checked(&seed.to_string(), "1%")).collect();
    assert!(choices.iter().all(|choice| !choice.is_empty()) && choices.iter().any(|c| *c != choices[0]), "{choices:?}");
}

#[test]
fn nothing_to_verify_is_an_error() {
    let place = Place::new();
    fs::create_dir(place.store()).unwrap();
    let expect = |ran: Ran, code: i32, parts: &[&str]| {
        assert!(ran.code == Some(code) && ran.err.lines().count() == 1, "{ran:#?}");
        assert!(parts.iter().all(|part| ran.err.contains(part)), "{ran:#?}");
    };
    expect(run(&place, &["--all"]), 1, &["nothing to verify", "holds no snapshots"]);
    make_tiny(&place, "a.db");
    place.once().expect_code(0);
    expect(run(&place, &["--match", "b.db"]), 1, &["nothing to verify", "matches b.db"]);
    assert_eq!(run(&place, &["--match", "a.db", "--all"]).expect_code(0).count("good"), 1);
    expect(place.run(&["verify", "--store", "elsewhere"]), 3, &["no folder", "elsewhere"]);
}

#[test]
fn bad_input_gets_one_line() {
    let place = Place::new();
    make_tiny(&place, "a.db");
    place.once().expect_code(0);
    let rows: &[(&[&str], &[&str])] = &[
        (&["--sample", "0%"], &["'0%'", "such as 1%"]),
        (&["--sample", "101%"], &["'101%'", "0.01% to 100%"]),
        (&["--sample", "5"], &["'5'", "percentage"]),
        (&["--sample", "2%", "--all"], &["--sample", "--all"]),
        (&["--seed", "x"], &["--seed", "'x'"]),
        (&["--match", "a[.db"], &["a[.db"]),
        (&["--state-dir", "nowhere"], &["no state of", "nowhere", "there is no state in"]),
    ];
    for (more, parts) in rows {
        let ran = run(&place, more);
        assert!(ran.code == Some(2) && ran.err.lines().count() == 1 && ran.out.is_empty(), "{more:?}: {ran:#?}");
        assert!(parts.iter().all(|part| ran.err.contains(part)), "{more:?}: {ran:#?}");
    }
    // Of another store.
    fs::create_dir(place.path().join("third")).unwrap();
    let ran = place.run(&["verify", "--store", "third", "--state-dir", "state"]);
    assert!(ran.code == Some(2) && ran.err.contains("are of") && ran.err.lines().count() == 1, "{ran:#?}");
}

#[test]
fn json_has_the_summary_and_the_findings() {
    let place = Place::new();
    for name in ["a.db", "b.db", "line\nend.db"] {
        make_tiny(&place, name);
    }
    place.once().expect_code(0);
    for object in place.objects().iter().skip(1) {
        fs::write(place.store().join(&object.key), &object.bytes[..object.bytes.len() - 1]).unwrap();
    }
    let ran = run(&place, &["--all", "--json", "--no-mark"]).expect_code(1);
    assert_eq!(ran.out.lines().count(), 1);
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let text = run(&place, &["--all", "--no-mark"]).expect_code(1);
    let lines: Vec<&str> = text.out.lines().collect();
    for pair in lines[2].split(' ').take(12) {
        let (name, value) = pair.split_once('=').unwrap();
        let same = json[name].as_u64() == value.parse().ok();
        assert!(json[name].is_u64() && (same || matches!(name, "seed" | "elapsed_ms")), "{name}: {json}");
    }
    assert_eq!((json["bad"].as_u64(), json["exit_code"].as_u64()), (Some(2), Some(1)));
    assert_eq!(json["by_word"]["truncated"].as_u64(), Some(2));
    let found = json["findings"].as_array().unwrap();
    assert_eq!(found.len(), 2);
    assert!(found[0]["database"].as_str().unwrap().ends_with("data/b.db") && found[0]["word"] == "truncated");
    // A name cannot write lines of its own.
    assert!(
        lines.len() == 3 && lines[1].contains("line\\nend.db 20") && lines[1].contains("Z: truncated: "),
        "{lines:?}"
    );
    assert!(lines[2].ends_with(" truncated=2"), "{lines:?}");
}

#[test]
fn a_marked_snapshot_is_not_fetched_again_unless_all_are() {
    let place = Place::new();
    let (a, b) = (make_tiny(&place, "a.db"), make_tiny(&place, "b.db"));
    place.once().expect_code(0);
    store_again(&place, &a);
    drop(b);
    let bad = place.objects_of("a.db")[0].clone();
    fs::write(place.store().join(&bad.key), "not what was stored").unwrap();
    let before = files(&place);

    run(&place, &["--all", "--no-mark"]).expect_code(1);
    assert_eq!(files(&place), before, "--no-mark only looks");
    run(&place, &["--all"]).expect_code(1);
    let marker = format!("{}.bad", bad.key);
    let after = files(&place);
    let made: Vec<&String> = after.keys().filter(|key| !before.contains_key(*key)).collect();
    assert_eq!(made, [&marker]);
    let content = String::from_utf8(after[&marker].clone()).unwrap();
    let json: serde_json::Value = serde_json::from_str(&content).unwrap();
    assert!(content.ends_with("}\n") && content.lines().count() == 1, "{content}");
    assert!(json["word"] == "foreign" && json["detail"].is_string() && json["litesnap"].is_string(), "{json}");
    assert!(json["checked_at"].as_str().unwrap().ends_with('Z'), "{json}");

    let sample = run(&place, &["--sample", "100%"]).expect_code(0);
    assert_eq!(
        (sample.count("known_bad"), sample.count("checked"), sample.count("requests")),
        (1, 2, 3),
        "{sample:#?}"
    );
    let all = run(&place, &["--all"]).expect_code(1);
    assert_eq!((all.count("known_bad"), all.count("checked"), all.count("bad")), (0, 3, 1), "{all:#?}");
    assert_eq!(files(&place), after, "the marker is not written again");
    // All that is left is marked: nothing was looked at, which is no success.
    let only = run(&place, &["--match", "a.db", "--sample", "100%"]).expect_code(0);
    assert_eq!(only.count("checked"), 1);
    fs::remove_file(place.store().join(&place.objects_of("a.db").pop().unwrap().key)).unwrap();
    let none = run(&place, &["--match", "a.db", "--sample", "100%"]).expect_code(1);
    assert!(none.err.contains("marked as bad") && none.err.contains("--all"), "{none:#?}");

    fs::write(place.store().join(&bad.key), &bad.bytes).unwrap();
    let good = run(&place, &["--all"]).expect_code(0);
    assert!(good.out.contains(": marked-but-good: ") && place.store().join(&marker).exists(), "{good:#?}");
    assert_eq!((good.count("good"), good.count("bad"), good.count("marked-but-good")), (2, 0, 1), "{good:#?}");
}

#[test]
fn a_copy_of_a_store_elsewhere_is_told_where_it_was() {
    let server = S3Server::start();
    let mut place = Place::new();
    place.env = server.env();
    make_tiny(&place, "a.db");
    let url = server.url("bucket", "old/place");
    store_at(&place, &url);
    for (key, bytes) in server.objects("bucket") {
        let path = place.store().join(key.strip_prefix("old/place/").unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let ran = run(&place, &["--all"]).expect_code(1);
    assert!(ran.out.contains(": wrong-key: ") && ran.out.contains("--moved-from 'old/place'"), "{ran:#?}");
    // A whole store must not be called bad for a forgotten option.
    assert_eq!(place.objects().len(), 1);
    assert_eq!(run(&place, &["--all", "--moved-from", "old/place"]).expect_code(0).count("good"), 1);
}

/// Two databases: too few for what most of a store tells about itself.
#[test]
fn a_store_that_is_given_from_a_level_too_high_or_too_low_is_not_called_bad() {
    let place = Place::new();
    for name in ["a.db", "b.db"] {
        make_tiny(&place, name);
    }
    store_at(&place, "bk/host1");
    let top = place.db("a.db").components().nth(1).unwrap().as_os_str().to_str().unwrap().to_owned();
    let before = walk(&place.path().join("bk"));
    for (store, hint) in
        [("bk", "begins at 'host1'".to_owned()), (&*format!("bk/host1/{top}"), format!("--moved-from '{top}'"))]
    {
        let ran = place.run(&["verify", "--store", store, "--all"]).expect_code(1);
        let counts = ["checked", "bad", "marked", "unmarked", "wrong-key"].map(|n| ran.out.contains(&format!(" {n}=")));
        assert_eq!(counts, [true, true, true, false, true], "{ran:#?}");
        assert_eq!(["bad", "marked", "wrong-key"].map(|name| ran.count(name)), [2, 0, 2], "{ran:#?}");
        assert_eq!(ran.out.matches(&hint).count(), 2, "{ran:#?}");
    }
    assert_eq!(walk(&place.path().join("bk")), before);
    assert_eq!(place.run(&["verify", "--store", "bk/host1", "--all"]).expect_code(0).count("good"), 2);
}

#[test]
fn what_most_of_a_store_has_wrong_is_where_the_store_lies() {
    let place = Place::new();
    for n in 0..3 {
        make_tiny(&place, &format!("x/{n}.db"));
    }
    for n in 0..3 {
        make_tiny(&place, &format!("{n}.db"));
    }
    store_at(&place, "store");
    place.run(&["replicate", "data/x/*.db", "--store", "store", "--state-dir", "state2", "--once"]).expect_code(0);
    let key = place.objects_of("x/0.db").pop().unwrap().key;
    let folder = place.store().join(&key[..key.find("/x/").unwrap()]);
    fs::rename(folder.join("x"), folder.join("y")).unwrap();
    let verify = |more: &[&str]| run(&place, &[&["--all"], more].concat()).expect_code(1);
    let before = files(&place);
    let most = verify(&["--match", "**/y/*"]);
    assert_eq!(["bad", "marked"].map(|name| most.count(name)), [3, 0], "{most:#?}");
    assert!(most.err.contains("none is marked as bad"), "{most:#?}");
    assert_eq!(files(&place), before);
    // Half of it is no more than that.
    let half = verify(&["--match", "**"]);
    assert_eq!(["good", "bad", "marked"].map(|name| half.count(name)), [3, 3, 3], "{half:#?}");
    assert_eq!(files(&place).len(), before.len() + 3);
}

/// Where credentials may only read, that is one warning, and what was found is told all the same.
#[test]
fn a_marker_that_is_refused_is_a_warning() {
    let place = Place::new();
    for n in 0..3 {
        make_tiny(&place, &format!("{n}.db"));
    }
    place.once().expect_code(0);
    for object in place.objects() {
        fs::write(place.store().join(object.key), "not what was stored").unwrap();
    }
    let Some(mut command) = place.unprivileged(&["verify", "--store", "store", "--all", "--concurrency", "1"]) else {
        return;
    };
    use std::os::unix::fs::PermissionsExt;
    for (path, mode) in walk(&place.store()).into_iter().map(|p| (p.clone(), if p.is_dir() { 0o755 } else { 0o644 })) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let ran: Ran = command.output().unwrap().into();
    let ran = ran.expect_code(1);
    assert_eq!(
        (ran.count("bad"), ran.count("unmarked"), ran.err.matches("cannot mark").count()),
        (3, 3, 1),
        "{ran:#?}"
    );
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() { all.extend(walk(&entry)) } else { all.push(entry) }
    }
    all
}
