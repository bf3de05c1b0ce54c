//! `list` and `show` through the command line: what is stored, told; and listings of large stores.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::big_s3::{BigS3, Make};
use crate::place::{Place, Ran, Running};

fn list(place: &Place, more: &[&str]) -> Ran {
    place.run(&[&["list", "--store", "store"], more].concat())
}

fn show(place: &Place, more: &[&str]) -> Ran {
    place.run(&[&["show", "--store", "store"], more].concat())
}

fn json_lines(ran: &Ran) -> Vec<Value> {
    ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The name under which `data/NAME` is listed.
fn listed_name(place: &Place, name: &str) -> String {
    place.data().join(name).to_str().unwrap().trim_start_matches('/').to_owned()
}

/// Three databases; `b.db` with two snapshots.
fn filled() -> Place {
    let place = Place::new();
    place.make("a b.db", "delete", 1);
    place.make("b.db", "wal", 2);
    place.make("sub/c.db", "delete", 3);
    place.once().expect_code(0);
    rusqlite::Connection::open(place.data().join("b.db")).unwrap().execute("INSERT INTO t VALUES(9)", []).unwrap();
    place.once().expect_code(0);
    place
}

#[test]
fn databases_come_sorted_one_line_each_with_their_numbers() {
    let place = filled();
    let ran = list(&place, &[]).expect_code(0);
    let lines: Vec<&str> = ran.out.lines().collect();
    let names = ["a b.db", "b.db", "sub/c.db"].map(|name| listed_name(&place, name));
    assert_eq!(lines.len(), 3, "{ran:#?}");
    for (line, (name, count)) in lines.iter().zip(names.iter().zip(["1 snapshot ", "2 snapshots", "1 snapshot "])) {
        assert!(line.ends_with(&format!("{count}  {name}")), "{line}");
        assert!(line.starts_with("20") && &line[10..11] == "T" && &line[23..24] == "Z", "{line}");
    }
    let column = |line: &str| line.find(" snapshot").unwrap();
    assert!(lines.iter().all(|line| column(line) == column(lines[0])), "{ran:#?}");
    assert!(ran.err.contains("databases=3 snapshots=4 bytes=") && ran.err.contains("foreign=0 requests=1"), "{ran:#?}");

    let json = json_lines(&list(&place, &["--json"]).expect_code(0));
    assert_eq!(json.iter().map(|row| row["name"].as_str().unwrap()).collect::<Vec<_>>(), names);
    assert_eq!(json.iter().map(|row| row["snapshots"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 1]);
    for (row, name) in json.iter().zip(["a b.db", "b.db", "sub/c.db"]) {
        let objects = place.objects();
        let prefix = row["prefix"].as_str().unwrap();
        let of_it: Vec<_> = objects.iter().filter(|o| o.key.rsplit_once('/').unwrap().0 == prefix).collect();
        assert_eq!(row["stored_bytes"].as_u64().unwrap(), of_it.iter().map(|o| o.bytes.len() as u64).sum::<u64>());
        assert!((0..600).contains(&row["age_s"].as_i64().unwrap()), "{name}: {row}");
        assert_eq!((&row["gone_since"], &row["newest_is_bad"], &row["bad"]), (&Value::Null, &false.into(), &0.into()));
        assert!(row.get("raw_bytes").is_none());
    }
}

#[test]
fn gone_and_bad_ones_are_marked() {
    let place = filled();
    let newest = place.objects_of("b.db").pop().unwrap().key;
    fs::write(place.store().join(format!("{newest}.bad")), "{\"error\":\"truncated\"}").unwrap();
    let gone =
        format!("{}/20991121T063339.123Z.deleted", place.objects_of("sub/c.db")[0].key.rsplit_once('/').unwrap().0);
    fs::write(place.store().join(&gone), "").unwrap();
    fs::write(place.store().join("README.txt"), "not ours").unwrap();

    let ran = list(&place, &[]).expect_code(0);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(!lines[0].contains('['), "{ran:#?}");
    assert!(lines[1].ends_with("b.db  [newest is bad]"), "{ran:#?}");
    assert!(lines[2].ends_with("c.db  [gone since 2099-11-21T06:33:39.123Z]"), "{ran:#?}");
    assert!(ran.err.contains("foreign=1"), "{ran:#?}");
    let json = json_lines(&list(&place, &["--json"]).expect_code(0));
    assert_eq!((&json[1]["newest_is_bad"], &json[1]["bad"]), (&true.into(), &1.into()));
    assert_eq!(json[2]["gone_since"], "2099-11-21T06:33:39.123Z");

    // Of one: the tombstone has a line of its own, the marker shows at its snapshot.
    let name = place.data().join("sub/c.db");
    let ran = list(&place, &["--snapshots", name.to_str().unwrap()]).expect_code(0);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines.len() == 2 && lines[1].ends_with(&format!("{gone}  [gone from its host]")), "{ran:#?}");
    let ran = list(&place, &["--snapshots", &listed_name(&place, "b.db")]).expect_code(0);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines.len() == 2 && lines[0].ends_with(".db.lz4"), "{ran:#?}");
    assert!(lines[1].ends_with(&format!("{newest}  [bad]")), "{ran:#?}");

    for (key, parts) in [
        (format!("{newest}.bad"), ["kind:    marker", "truncated"]),
        (gone, ["kind:    tombstone", "time:    2099-11-21T06:33:39.123Z"]),
    ] {
        let ran = show(&place, &[&key]).expect_code(0);
        assert!(parts.iter().all(|part| ran.out.contains(part)), "{ran:#?}");
        let json = json_lines(&show(&place, &[&key, "--json"]).expect_code(0));
        assert_eq!(json[0]["key"], key.as_str());
    }
}

#[test]
fn long_rows_come_from_descriptions_and_say_which_cannot_be_read() {
    let place = filled();
    let long = list(&place, &["--long"]).expect_code(0);
    let path = place.data().join("b.db");
    let line = long.out.lines().nth(1).unwrap();
    assert!(line.contains("  wal  ") && line.contains(&format!(":{}", path.display())), "{long:#?}");
    assert!(long.err.contains("requests=4"), "one LIST and one GET for each: {long:#?}");
    let json = json_lines(&list(&place, &["--long", "--json"]).expect_code(0));
    assert_eq!(json[1]["path"], path.to_str().unwrap());
    assert_eq!(json[1]["journal_mode"], "wal");
    assert_eq!(json[1]["raw_bytes"].as_u64().unwrap(), fs::metadata(&path).unwrap().len());
    assert_eq!(json[1]["content_hash"].as_str().unwrap().len(), 32);

    let newest = place.objects_of("b.db").pop().unwrap();
    fs::write(place.store().join(&newest.key), &newest.bytes[..newest.bytes.len() - 1]).unwrap();
    let ran = list(&place, &["--long"]).expect_code(1);
    assert!(ran.out.lines().count() == 3 && ran.out.lines().nth(1).unwrap().contains("b.db  [foreign: "), "{ran:#?}");
    let json = json_lines(&list(&place, &["--long", "--json"]).expect_code(1));
    assert_eq!((json[1]["error"].as_str(), json[0].get("error")), (Some("foreign"), None));
    let ran = list(&place, &["--long", "--snapshots", &listed_name(&place, "b.db")]).expect_code(1);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(!lines[0].contains('[') && lines[1].contains("[foreign: "), "{ran:#?}");
}

#[test]
fn of_several_globs_each_must_match() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    place.once().expect_code(0);
    let ran = place.run(&["list", "--store", "store", "--match", "a.db", "typo.db"]).expect_code(1);
    assert!(ran.out.lines().count() == 1 && ran.err.contains("matches typo.db"), "{ran:#?}");
    place.run(&["list", "--store", "store", "--match", "a.db", "*.db"]).expect_code(0);
    for command in [&["verify", "--all"][..], &["prune", "--keep-last", "1"]] {
        let args = [command, &["--store", "store", "--match", "a.db", "typo.db"]].concat();
        let ran = place.run(&args).expect_code(1);
        assert!(ran.err.contains("matches typo.db"), "{ran:#?}");
    }
}

#[test]
fn what_is_not_there_is_said_and_an_empty_store_is_no_error() {
    let place = filled();
    for (more, part) in [
        (&["--match", "*.sqlite", "x/y.db"][..], "*.sqlite, nor x/y.db"),
        (&["--snapshots", "no/such.db"], "no/such.db"),
    ] {
        let ran = list(&place, more).expect_code(1);
        let last = ran.err.lines().last().unwrap();
        assert!(ran.out.is_empty() && last.contains(part) && last.contains("`litesnap list`"), "{ran:#?}");
    }
    let ran = list(&place, &["--match", "a*.db", "--match", "c.db"]).expect_code(0);
    assert_eq!(ran.out.lines().count(), 2, "{ran:#?}");
    list(&place, &["--match", "x", "--snapshots", "y"]).expect_code(2);

    let empty = Place::new();
    fs::create_dir(empty.store()).unwrap();
    let ran = list(&empty, &[]).expect_code(0);
    assert!(ran.out.is_empty() && ran.err.contains("holds no snapshots"), "{ran:#?}");
    list(&Place::new(), &[]).expect_code(3);
}

/// As in `litesnap list | head -1`.
#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let place = Place::new();
    let name = place.store().join("x".repeat(200));
    for i in 0..2000 {
        let database = name.join(format!("{i}.db"));
        fs::create_dir_all(&database).unwrap();
        fs::write(database.join("20261121T063339.123Z.db.lz4"), "").unwrap();
    }
    let mut command = place.litesnap(&["list", "--store", "store"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert!(ran.code == Some(0) && !ran.err.contains("cannot write"), "{ran:#?}");
    assert!(first.contains("1 snapshot "), "{first}");
}

#[test]
fn an_object_is_shown_by_its_key_in_every_form() {
    let place = filled();
    let object = place.objects_of("b.db").pop().unwrap();
    let text = show(&place, &[&object.key]).expect_code(0).out;
    for part in [
        "kind:              snapshot\n",
        &format!("path:              {}\n", place.data().join("b.db").display()),
        &format!("stored size:       {} (", object.bytes.len()),
        "journal mode:      wal\n",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(show(&place, &[&format!("/{}", object.key)]).expect_code(0).out, text);
    let json = json_lines(&show(&place, &[&object.key, "--json"]).expect_code(0));
    assert_eq!((json[0]["key"].as_str(), json[0]["format"].as_u64()), (Some(object.key.as_str()), Some(1)));
}

#[test]
fn what_cannot_be_shown_is_one_line_each() {
    let place = filled();
    let object = place.objects_of("b.db").pop().unwrap();
    let other = place.objects_of("sub/c.db").pop().unwrap();
    let [missing, cut, empty, swapped] =
        ["20200101T000000.000Z", "20200101T000000.001Z", "20200101T000000.002Z", "20200101T000000.003Z"]
            .map(|ts| format!("{}/{ts}.db.lz4", object.key.rsplit_once('/').unwrap().0));
    fs::write(place.store().join(&cut), &object.bytes[..object.bytes.len() / 2]).unwrap();
    fs::write(place.store().join(&empty), "").unwrap();
    fs::write(place.store().join(&swapped), &other.bytes).unwrap();
    for (key, code, part) in [
        (missing.as_str(), 1, "there is no "),
        (&cut, 1, "foreign: "),
        (&empty, 1, "truncated: "),
        (&swapped, 1, "wrong-key: "),
        ("srv/app.db", 2, "list --snapshots"),
        ("", 2, "list --snapshots"),
    ] {
        let ran = show(&place, &[key]).expect_code(code);
        assert!(ran.out.is_empty() && ran.err.lines().count() == 1 && ran.err.contains(part), "{ran:#?}");
    }
}

const TS: &str = "20261121T063339.123Z.db.lz4";

/// A place with credentials, which the server does not look at.
fn client() -> Place {
    let mut place = Place::new();
    place.env = crate::s3_server::env("id", "secret");
    place
}

/// `list` over a large store that lies in this process.
fn list_big(place: &Place, s3: &BigS3, prefix: &str, more: &[&str]) -> std::process::Command {
    place.litesnap(&[&["list", "--store", &s3.url(prefix)], more].concat())
}

fn big(latency: Duration, keys: impl IntoIterator<Item = String>) -> BigS3 {
    let s3 = BigS3::start(latency);
    let make: Make = Arc::new(|_| b"0123456789".as_slice().into());
    s3.put_made(keys, 10, &make);
    s3
}

fn names(out: &str) -> Vec<&str> {
    out.lines().map(|line| line.rsplit_once("snapshots  ").or(line.rsplit_once("snapshot   ")).unwrap().1).collect()
}

/// All of them, each once, whatever their names, with one LIST per 1,000 and a few more, several at once.
#[test]
fn a_large_store_is_listed_completely_with_hardly_more_requests_than_pages() {
    let place = client();
    let odd = |i: usize| match i % 4 {
        0 => format!("b/srv/app/tenants/t{i:06}.db"),
        1 => format!("b/srv/app/tenants/Zürich-{i}.db"),
        2 => format!("b/web-1/日本/{:08x}.db", i.wrapping_mul(2_654_435_761) & 0xffff_ffff),
        _ => format!("b/srv/it's & co/<{i}>.db").replace(' ', "%20").replace('&', "%26").replace(['<', '>'], "%3C"),
    };
    let mut expected: Vec<String> = (0..50_000).map(odd).collect();
    // Beside the prefix, before and after it.
    let beside = ["a/x.db", "b0/x.db", "b-/x.db"].map(|name| format!("{name}/{TS}"));
    let s3 = big(Duration::from_millis(5), expected.iter().map(|name| format!("{name}/{TS}")).chain(beside));
    let ran: Ran = list_big(&place, &s3, "b", &["--json"]).output().unwrap().into();
    let ran = ran.expect_code(0);
    expected.sort();
    let found = json_lines(&ran).into_iter().map(|row| format!("b/{}", row["prefix"].as_str().unwrap()));
    assert!(found.eq(expected.iter().cloned()), "{}", ran.err);
    let lists = s3.count("LIST");
    assert!((50..=62).contains(&lists), "{lists} requests for 50 pages");
    assert!((2..=16).contains(&s3.at_once_max()), "{} at once", s3.at_once_max());
    assert!(ran.err.contains(&format!("databases=50000 snapshots=50000 bytes=500000 foreign=0 requests={lists}")));

    // A part of it: only what may match is listed.
    s3.forget();
    let ran: Ran = list_big(&place, &s3, "b", &["--match", "srv/app/tenants/t0000*"]).output().unwrap().into();
    assert_eq!(names(&ran.expect_code(0).out).len(), 25);
    assert!(s3.count("LIST") <= 25 + 12, "{}", s3.count("LIST"));
    s3.forget();
    let ran: Ran = list_big(&place, &s3, "b", &["--snapshots", "srv/app/tenants/t000004.db"]).output().unwrap().into();
    assert_eq!((ran.expect_code(0).out.lines().count(), s3.count("LIST")), (1, 1));
}

#[test]
fn up_to_a_page_one_request_suffices() {
    let place = client();
    for n in [0, 1, 999, 1000] {
        let s3 = big(Duration::ZERO, (0..n).map(|i| format!("a/{i:04}.db/{TS}")));
        let ran: Ran = list_big(&place, &s3, "a", &[]).output().unwrap().into();
        assert_eq!(ran.expect_code(0).out.lines().count(), n);
        assert_eq!(s3.count("LIST"), 1, "{n} objects");
    }
}

#[test]
fn one_database_with_many_snapshots_is_listed_by_time() {
    let place = client();
    let ts = |i: usize| {
        format!("202601{:02}T{:02}{:02}{:02}.{:03}Z", i / 3600 + 1, i / 150 % 24, i / 60 % 60, i % 60, i % 997)
    };
    let mut keys: Vec<String> = (0..40_000).map(|i| format!("srv/app.db/{}.db.lz4", ts(i))).collect();
    keys.sort();
    keys.dedup();
    let s3 = big(Duration::from_millis(5), keys.clone());
    let ran: Ran = list_big(&place, &s3, "", &["--snapshots", "/srv/app.db"]).output().unwrap().into();
    let ran = ran.expect_code(0);
    assert!(ran.out.lines().map(|line| line.rsplit_once(' ').unwrap().1).eq(keys.iter().map(String::as_str)));
    let pages = keys.len() / 1000 + 1;
    assert!((pages..=pages + 12).contains(&s3.count("LIST")), "{}", s3.count("LIST"));
}

#[test]
fn an_object_of_a_bucket_is_described_with_one_request() {
    let place = filled();
    let s3 = BigS3::start(Duration::ZERO);
    for object in place.objects() {
        s3.put(object.key, object.bytes);
    }
    let object = place.objects_of("b.db").pop().unwrap();
    let client = client();
    let run = |args: &[&str]| -> Ran { client.run(&[args, &["--store", &s3.url("")]].concat()) };
    let ran = run(&["show", &object.key]).expect_code(0);
    assert_eq!(ran.out, show(&place, &[&object.key]).out);
    assert_eq!((s3.count("GET"), s3.count("HEAD"), s3.count("LIST")), (1, 0, 0));
    s3.forget();
    s3.put(format!("x.db/{TS}"), "");
    let ran = run(&["show", &format!("x.db/{TS}")]).expect_code(1);
    assert!(ran.err.contains("truncated: "), "{ran:#?}");
    run(&["show", &format!("y.db/{TS}")]).expect_code(1);
    s3.forget();
    let ran = run(&["list", "--long"]).expect_code(1);
    assert_eq!((ran.out.lines().count(), s3.count("LIST"), s3.count("GET")), (4, 1, 4), "{ran:#?}");
}

/// Half a list would be a wrong one.
#[test]
fn a_listing_of_which_a_part_is_refused_shows_nothing() {
    let place = client();
    let s3 = big(Duration::ZERO, (0..20_000).map(|i| format!("a/{i:05}.db/{TS}")));
    for n in [1, 2, 7, 15] {
        s3.forget();
        s3.refuse_lists_after(n);
        let ran: Ran = list_big(&place, &s3, "a", &[]).output().unwrap().into();
        let ran = ran.expect_code(3);
        assert!(ran.out.is_empty() && ran.err.contains("cannot list s3://bucket/a"), "{ran:#?}");
    }
}

/// It is told by its answers, and listed in one stream.
#[test]
fn a_store_that_knows_no_key_to_begin_behind_is_listed_all_the_same() {
    let place = client();
    let s3 = big(Duration::ZERO, (0..5000).map(|i| format!("a/{i:05}.db/{TS}")));
    s3.ignore_start_after();
    let ran: Ran = list_big(&place, &s3, "a", &[]).output().unwrap().into();
    let ran = ran.expect_code(0);
    assert!(names(&ran.out).into_iter().eq((0..5000).map(|i| format!("{i:05}.db"))));
    assert!(ran.err.contains("databases=5000 snapshots=5000 "), "{ran:#?}");
    assert!(s3.log().iter().any(|(_, target)| target.contains("start-after=")), "nothing was tried");
}

/// In the middle of a long listing.
#[test]
fn a_listing_can_be_interrupted() {
    let place = client();
    let s3 = big(Duration::from_secs(2), (0..20_000).map(|i| format!("a/{i:05}.db/{TS}")));
    let running = Running::start(list_big(&place, &s3, "a", &[]));
    assert!(crate::place::eventually(Duration::from_secs(20), || s3.count("LIST") > 2));
    let asked = Instant::now();
    let ran = running.stop().expect_code(143);
    assert!(asked.elapsed() < Duration::from_secs(15) && ran.out.is_empty(), "{ran:#?}");
}

/// By hand: `cargo test --test it list::a_million -- --ignored --nocapture`. Tells requests, seconds and memory.
#[test]
#[ignore = "takes a minute and a gigabyte: run by hand"]
fn a_million_objects_in_little_time_and_memory() {
    let place = client();
    let n = 1_000_000;
    for (shape, key) in [
        ("numbers", (|i| format!("b/srv/app/tenants/t{i:07}.db/{TS}")) as fn(usize) -> String),
        ("hashes", |i| format!("b/srv/app/tenants/{:016x}.db/{TS}", (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))),
        ("levels", |i| format!("b/data/{:03}/databases/app/tenants/{:05}.db/{TS}", i % 97, i / 97)),
    ] {
        let s3 = big(Duration::from_millis(30), (0..n).map(key));
        let begun = Instant::now();
        let mut command = std::process::Command::new("/usr/bin/time");
        let inner = list_big(&place, &s3, "b", &[]);
        command.args(["-f", "peak_kib=%M user_s=%U sys_s=%S"]).arg(inner.get_program()).args(inner.get_args());
        command.env_clear().envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?)))).current_dir(place.path());
        let ran: Ran = command.output().unwrap().into();
        let told = format!(
            "{shape}: {} LIST, {} at once, {:.1} s, {}",
            s3.count("LIST"),
            s3.at_once_max(),
            begun.elapsed().as_secs_f64(),
            ran.err.lines().last().unwrap()
        );
        println!("{told}");
        assert_eq!((ran.code, ran.out.lines().count()), (Some(0), n), "{told}");
        assert!(s3.count("LIST") <= 1000 + 1000 / 40 + 12, "{told}");
        let peak = ran.err.split("peak_kib=").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        assert!(peak.unwrap() <= 64 << 10, "{told}");
    }
}
