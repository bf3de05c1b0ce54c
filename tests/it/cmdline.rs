//! The command line: bad input and its answer, flags and variables, dry run, output.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use rusqlite::Connection;

use crate::place::{Place, Ran, Running, eventually};

/// Longer than anything here takes on a busy machine; nothing is measured by it.
const LONG: Duration = Duration::from_secs(60);

/// One line on standard error, from us, holding all of `parts`.
#[track_caller]
fn expect_line(ran: &Ran, code: i32, parts: &[&str]) {
    assert_eq!(ran.code, Some(code), "{ran:#?}");
    assert!(ran.err.starts_with("litesnap: ") && ran.err.lines().count() == 1, "{ran:#?}");
    assert!(!ran.err.trim_end().contains(char::is_control), "{ran:#?}");
    for part in parts {
        assert!(ran.err.contains(part), "{part} is missing: {ran:#?}");
    }
}

#[test]
fn bad_input_gets_one_line_with_the_offending_part_and_an_example() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    let store = ["--store", "store", "--state-dir", "state", "--once"];
    let with = |more: &[&str]| -> Vec<String> {
        ["replicate", "data/*.db"].iter().chain(&store).chain(more).map(|s| (*s).to_owned()).collect()
    };
    let rows: &[(Vec<String>, &[&str])] = &[
        (vec!["replicate".into(), "--store".into(), "store".into()], &["no pattern", "such as '/data/*/tenants/*.db'"]),
        (vec!["replicate".into(), "data/*.db".into()], &["no store", "--store s3://my-bucket/backups"]),
        (vec!["replicat".into()], &["'replicat'", "replicate"]),
        (with(&["data/[a.db"]), &["data/[a.db", "not closed", "[a-z]*.db"]),
        (with(&["data/{a b}.db"]), &["data/{a b}.db"]),
        (with(&["data/{a.db"]), &["data/{a.db"]),
        (
            with(&["data/"]).into_iter().map(|a| if a == "data/*.db" { "data/x*/".into() } else { a }).collect(),
            &["data/x*/", "/data/**/*.db"],
        ),
        (with(&["--interval", "soon"]), &["--interval", "'soon'", "such as 30s"]),
        (with(&["--interval", "1\x1b[2J"]), &["--interval", "such as 30s"]),
        (with(&["--interval", "30"]), &["--interval", "'30'", "such as 30s"]),
        (with(&["--interval", "0s"]), &["--interval", "1s"]),
        (with(&["--interval", "500000000000y"]), &["--interval", "500000000000y", "36500d"]),
        (with(&["--request-timeout", "0s"]), &["--request-timeout", "60s"]),
        (with(&["--cooldown", "1 fortnight"]), &["--cooldown", "fortnight", "such as 30s"]),
        (with(&["--refresh", "-1d"]), &["-1"]),
        (with(&["--memory-limit", "64MiBs"]), &["--memory-limit", "'64MiBs'", "such as 256MiB"]),
        (with(&["--memory-limit", "31MiB"]), &["--memory-limit", "32505856", "32MiB"]),
        (with(&["--limit-upload", "20MiB"]), &["--limit-upload", "'20MiB'", "such as 20MiB/s"]),
        (with(&["--concurrency", "0"]), &["--concurrency", "'0'", "such as 100"]),
        (with(&["--max-gone", "many"]), &["--max-gone", "'many'"]),
        (
            with(&["--key-template", "{{tenannt}}"]),
            &["{{tenannt}}", "known names are", "hostname", "path", "/data/{tenannt}/app.db"],
        ),
        (with(&["--key-template", "{path}"]), &["{path}", "{{path}}"]),
        (with(&["--key-template", "a//b"]), &["a//b", "{{path}}"]),
        (with(&["--key-template", ""]), &["empty", "{{path}}"]),
        (with(&["--exclude", "[x"]), &["[x"]),
        (with(&["--host", "a/b"]), &["'a/b'", "--host web-1"]),
        (with(&["--host", ""]), &["--host web-1"]),
        (with(&["--listen", "somewhere"]), &["--listen", "'somewhere'", "127.0.0.1:9090"]),
        (with(&["--listen", "0.0.0.0:9090"]), &["0.0.0.0:9090", "127.0.0.1:9090", "--allow-public"]),
        (with(&["--heartbeat-url", "file:///etc"]), &["--heartbeat-url", "https://status.example.org"]),
        (with(&["--heartbeat-object", "1s"]), &["--heartbeat-object", "1h"]),
        (with(&["--max-unprotected", "0s"]), &["--max-unprotected", "5m"]),
        (with(&["--intervall", "3s"]), &["--intervall", "tip: ", "'--interval'"]),
        (with(&["--endpoint", "http://x"]), &["--endpoint", "/backups"]),
    ];
    for (args, parts) in rows {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        expect_line(&place.run(&args), 2, parts);
    }
    for (url, parts) in [
        ("ftp://host/x", ["ftp://", "s3://my-bucket/backups"].as_slice()),
        ("s3:bucket", &["s3:bucket", "s3://my-bucket/backups"]),
        ("s3://", &["no bucket", "s3://my-bucket/backups"]),
        ("s3://b?colour=red", &["colour", "region"]),
        ("s3://key:hush@b/p", &["AWS_ACCESS_KEY_ID"]),
        ("file://relative", &["file://relative", "file:///backups"]),
        ("", &["empty", "/backups"]),
    ] {
        let ran = place.run(&["replicate", "data/*.db", "--state-dir", "state", "--once", "--store", url]);
        expect_line(&ran, 2, parts);
        assert!(!ran.err.contains("hush"));
    }
    assert!(!place.state().exists() && !place.store().exists(), "a refused command leaves nothing");
}

#[test]
fn without_arguments_it_shows_how_to_start_and_exits_2() {
    let place = Place::new();
    let ran = place.run(&[]).expect_code(2);
    assert_eq!(ran.out, "");
    assert!(ran.err.contains("Usage: litesnap") && ran.err.contains("--dry-run"), "{}", ran.err);
    assert!(ran.err.lines().count() < 36, "{}", ran.err);
    let version = place.run(&["--version"]).expect_code(0);
    assert_eq!(version.out, format!("litesnap {}\n", env!("CARGO_PKG_VERSION")));
}

const FLAGS: [&str; 42] = [
    "--config",
    "--store",
    "--endpoint",
    "--region",
    "--path-style",
    "--allow-http",
    "--storage-class",
    "--sse-kms-key-id",
    "--fsync-each",
    "--concurrency",
    "--request-timeout",
    "--once",
    "--interval",
    "--key-template",
    "--host",
    "--exclude",
    "--state-dir",
    "--memory-limit",
    "--cooldown",
    "--refresh",
    "--limit-upload",
    "--max-gone",
    "--always-sqlite",
    "--keep",
    "--keep-last",
    "--keep-within",
    "--keep-hourly",
    "--keep-daily",
    "--keep-weekly",
    "--keep-monthly",
    "--keep-yearly",
    "--verify-every",
    "--sample",
    "--listen",
    "--allow-public",
    "--max-unprotected",
    "--heartbeat-url",
    "--heartbeat-object",
    "--dry-run",
    "--allow-empty",
    "--json",
    "--help",
];

#[test]
fn help_lists_every_flag_with_its_variable() {
    let place = Place::new();
    let help = place.run(&["replicate", "--help"]).expect_code(0).out;
    for flag in FLAGS {
        assert!(help.split_whitespace().any(|word| word == flag), "{flag} is not in the help");
        let variable = format!("LITESNAP_{}", flag.trim_start_matches('-').replace('-', "_").to_uppercase());
        assert!(flag == "--help" || help.contains(&variable), "{variable} is not in the help");
    }
    assert!(help.contains("--to]"), "{help}");
    let listed = help.lines().filter(|line| line.trim_start().starts_with("--") || line.contains("-h, --")).count();
    assert_eq!(listed, FLAGS.len(), "a flag that this test does not know: {help}");
}

/// Each variable is read (a bad value is refused by name, a good one acts), and the flag wins over it.
#[test]
fn every_flag_has_its_variable_and_the_flag_wins() {
    for (variable, bad, flag, good) in [
        ("CONCURRENCY", "0", "--concurrency", "3"),
        ("REQUEST_TIMEOUT", "soon", "--request-timeout", "3s"),
        ("INTERVAL", "soon", "--interval", "3s"),
        ("MEMORY_LIMIT", "much", "--memory-limit", "32MiB"),
        ("COOLDOWN", "soon", "--cooldown", "0s"),
        ("REFRESH", "soon", "--refresh", "30d"),
        ("LIMIT_UPLOAD", "fast", "--limit-upload", "1GiB/s"),
        ("MAX_GONE", "many", "--max-gone", "3"),
        ("KEEP", "all", "--keep", "standard"),
        ("KEEP_LAST", "all", "--keep-last", "3"),
        ("KEEP_WITHIN", "soon", "--keep-within", "3d"),
        ("VERIFY_EVERY", "soon", "--verify-every", "1d"),
        ("LISTEN", "here", "--listen", "127.0.0.1:0"),
        ("MAX_UNPROTECTED", "soon", "--max-unprotected", "5m"),
        ("HEARTBEAT_URL", "ping", "--heartbeat-url", "http://127.0.0.1:1/x"),
        ("HEARTBEAT_OBJECT", "soon", "--heartbeat-object", "1h"),
        ("KEY_TEMPLATE", "{{x", "--key-template", "{{path}}"),
        ("HOST", "a/b", "--host", "web-1"),
        ("EXCLUDE", "[x", "--exclude", "x"),
        ("STORE", "ftp://x", "--store", "store"),
        ("PATTERN", "data/[", "", "data/**/*.db"),
    ] {
        let mut place = Place::new();
        place.make("a.db", "delete", 1);
        let all: [(&str, &[&str]); 3] = [
            ("PATTERN", &["data/**/*.db"]),
            ("STORE", &["--store", "store"]),
            ("", &["--state-dir", "state", "--once"]),
        ];
        let args: Vec<&str> =
            all.iter().filter(|(of, _)| *of != variable).flat_map(|(_, args)| args.iter().copied()).collect();
        place.env.push((format!("LITESNAP_{variable}"), bad.into()));
        let run = |place: &Place, more: &[&str]| place.run(&[&["replicate"], args.as_slice(), more].concat());
        assert_eq!(run(&place, &[]).code, Some(2), "LITESNAP_{variable}={bad} is not read");
        let flag: Vec<&str> = [flag, good].into_iter().filter(|text| !text.is_empty()).collect();
        let ran = run(&place, &flag);
        assert_eq!((ran.code, ran.out.contains("stored=1")), (Some(0), true), "{variable}: {ran:#?}");
        place.env[0].1 = good.into();
        assert_eq!(run(&place, &[]).code, Some(0), "LITESNAP_{variable}={good}");
    }
    // These are not checked, only passed on: a folder refuses them by their flag's name.
    for (variable, flag) in [("ENDPOINT", "--endpoint"), ("STORAGE_CLASS", "--storage-class")] {
        let mut place = Place::new();
        place.env.push((format!("LITESNAP_{variable}"), "x".into()));
        expect_line(&place.once(), 2, &[flag]);
    }
    let mut place = Place::new();
    place.make("a.db", "delete", 1);
    place.env.push(("LITESNAP_STATE_DIR".into(), "elsewhere".into()));
    place.run(&["replicate", "data/*.db", "--to", "store", "--once"]).expect_code(0);
    assert!(place.path().join("elsewhere").exists() && !place.state().exists());
    place.once().expect_code(0);
    assert!(place.state().exists());
}

#[test]
fn switches_take_what_variables_usually_say() {
    let mut place = Place::new();
    place.make("a.db", "delete", 1);
    place.env.push(("LITESNAP_ONCE".into(), String::new()));
    place.env.push(("LITESNAP_DRY_RUN".into(), String::new()));
    for (once, dry, loops) in [("1", "", false), ("true", "0", false), ("YES", "no", false), ("false", "off", true)] {
        place.env[0].1 = once.into();
        place.env[1].1 = dry.into();
        let running = Running::start(place.replicate("data/*.db", &[]));
        if loops {
            assert!(!eventually(Duration::from_millis(500), || !alive(running.pid())), "{once} is no loop");
            let ran = running.stop().expect_code(0);
            assert!(ran.out.is_empty(), "{ran:#?}");
        } else {
            let ran = running.wait(Duration::from_secs(20)).expect_code(0);
            assert!(ran.out.starts_with("cycle=1 "), "LITESNAP_ONCE={once}: {ran:#?}");
        }
    }
    place.env[0].1 = "maybe".into();
    expect_line(
        &place.run(&["replicate", "data/*.db", "--store", "store"]),
        2,
        &["'maybe'", "--once", "true or false"],
    );
}

fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    fs::create_dir(place.state()).unwrap();
    let run = |state: &str| -> Option<Ran> {
        let args = ["replicate", "data/*.db", "--store", "memory://", "--once", "--state-dir", state];
        Some(place.unprivileged(&args)?.output().unwrap().into())
    };
    for state in ["state", "new", "data/a.db"] {
        let path = place.path().join(state);
        let Some(ran) = run(state) else { return };
        expect_line(&ran, 2, &["state", path.to_str().unwrap(), "--state-dir"]);
    }
}

/// The first one's pid is named, and it goes on undisturbed.
#[test]
fn a_second_process_on_the_same_state_is_refused() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    let first = place.start_loop("100ms", &[]);
    assert!(eventually(Duration::from_secs(20), || place.objects().len() == 1));
    for more in [&["--once"][..], &[]] {
        let ran = Running::start(place.replicate("data/**/*.db", more)).wait(Duration::from_secs(20));
        expect_line(&ran, 2, &[&format!("process {}", first.pid()), "--state-dir"]);
    }
    first.stop().expect_code(0);
    place.once().expect_code(0);
}

#[test]
fn a_pattern_that_matches_nothing_is_an_error_once_unless_allowed() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    let run = |pattern: &str, more: &[&str]| -> Ran {
        place.replicate(pattern, &[&["--once"], more].concat()).output().unwrap().into()
    };
    expect_line(&run("data/*.sqlite", &[]), 2, &["data/*.sqlite", "--allow-empty"]);
    expect_line(&run("date/*.db", &[]), 2, &["date/*.db", "no folder", "/date)"]);
    expect_line(&run("data/b.db", &[]), 2, &["data/b.db"]);
    run("data/*.sqlite", &["--allow-empty"]).expect_code(0);
    run("date/*.db", &["--allow-empty"]).expect_code(0);
    let dry = run("data/*.sqlite", &["--dry-run"]).expect_code(2);
    assert!(dry.err.contains("nothing matches data/*.sqlite"), "{dry:#?}");
    // One of two: the other is stored all the same.
    let half = run("data/*.db", &["data/*.sqlite"]);
    expect_line(&half, 2, &["data/*.sqlite"]);
    assert_eq!(half.count("stored"), 1);
    let json = run("data/*.db", &["data/*.sqlite", "--json"]).expect_code(2);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((json["exit_code"].as_u64(), json["unmatched"][0].as_str()), (Some(2), Some("data/*.sqlite")));
    // A folder without any database in it matches nothing, whatever else lies there.
    fs::create_dir(place.data().join("text")).unwrap();
    fs::write(place.data().join("text/notes.txt"), "no database").unwrap();
    expect_line(&run("data/text", &[]), 2, &["data/text", "--allow-empty"]);
    // Together with a failure the failure decides, and both are said.
    fs::write(place.data().join("bad.db"), "no database").unwrap();
    let both = run("data/*.db", &["data/*.sqlite"]).expect_code(1);
    assert!(both.err.contains("nothing matches data/*.sqlite") && both.out.contains("bad.db: "), "{both:#?}");
}

#[test]
fn the_loop_warns_once_and_picks_up_a_database_made_later() {
    let place = Place::new();
    let early = place.make("early/a.db", "wal", 2);
    let more = ["data/late/*.db", "missing/*.db", "--interval", "50ms"];
    let running = Running::start(place.replicate("data/early/*.db", &more));
    assert!(eventually(LONG, || place.objects().len() == 1));
    // Once this is stored too, a whole cycle has seen the others missing, and the next has begun.
    Connection::open(&early).unwrap().execute_batch("INSERT INTO t VALUES (3)").unwrap();
    assert!(eventually(LONG, || place.objects().len() == 2));
    place.make("late/a.db", "wal", 2);
    assert!(eventually(LONG, || place.objects().len() == 3));
    let ran = running.stop().expect_code(0);
    for pattern in ["data/late/*.db", "missing/*.db"] {
        assert_eq!(ran.err.matches(&format!("nothing matches {pattern}")).count(), 1, "{}", ran.err);
    }
    assert!(!ran.err.contains("nothing matches data/early"), "{}", ran.err);
    assert!(!ran.err.contains("litesnap::"), "module names are noise: {}", ran.err);
}

/// What stays as it is makes no line each cycle.
#[test]
fn the_loop_says_once_what_does_not_change() {
    let place = Place::new();
    fs::write(place.db("bad.db"), "certainly no database").unwrap();
    fs::write(place.db("empty.db"), "").unwrap();
    place.make("good.db", "delete", 1);
    let running = place.start_loop("50ms", &[]);
    // Longer than stamps are racy, in which time each cycle looks again.
    assert!(!eventually(Duration::from_millis(3500), || !alive(running.pid())));
    let ran = running.stop().expect_code(0);
    assert_eq!(ran.err.matches("bad.db not-a-database: no SQLite header").count(), 1, "{}", ran.err);
    assert!(!ran.err.contains("empty.db"), "{}", ran.err);
    let cycles = ran.err.matches(" cycle=").count();
    assert!((1..60).contains(&cycles), "{cycles} lines: {}", ran.err);
    let last = ran.err.lines().rev().find(|line| line.contains(" cycle=")).unwrap();
    assert!(!last.contains("changed=0"), "{last}");
}

/// A folder that cannot be listed is named, once in a loop, and all that can be seen is stored.
#[test]
fn an_unreadable_folder_is_named_once_and_the_others_proceed() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    place.make("x/a.db", "delete", 1);
    place.make("b.db", "delete", 1);
    fs::set_permissions(place.data().join("x"), fs::Permissions::from_mode(0o000)).unwrap();
    let args = ["replicate", "data/**/*.db", "--store", "own/store", "--state-dir", "own/state"];
    let Some(mut command) = place.unprivileged(&args) else { return };
    let dry: Ran = place.unprivileged(&[&args[..], &["--dry-run"]].concat()).unwrap().output().unwrap().into();
    assert!(dry.code == Some(1) && dry.out.contains("data/x: unreadable: "), "{dry:#?}");
    let running = Running::start({
        command.args(["--interval", "20ms"]);
        command
    });
    // From its first put on it heeds signals; then it has time for many cycles.
    let has_put = || fs::read_dir(place.path().join("own/store")).is_ok_and(|all| all.count() > 0);
    assert!(eventually(LONG, has_put));
    assert!(!eventually(Duration::from_millis(1000), || !alive(running.pid())));
    let ran = running.stop().expect_code(0);
    assert_eq!(ran.err.matches("data/x unreadable: ").count(), 1, "{}", ran.err);
    assert!(ran.err.contains("stored=1"), "{}", ran.err);
}

#[test]
fn a_folder_store_that_cannot_be_made_is_exit_3() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    let ran = place.run(&["replicate", "data/*.db", "--store", "/proc/nope", "--state-dir", "state", "--once"]);
    expect_line(&ran, 3, &["/proc/nope", "--store", "/backups"]);
}

/// T26: reached by several patterns, links and names, stored once.
#[test]
fn a_database_reached_by_two_patterns_is_stored_once() {
    let place = Place::new();
    place.make("x/a.db", "delete", 1);
    std::os::unix::fs::symlink(place.data().join("x"), place.data().join("y")).unwrap();
    std::os::unix::fs::symlink(place.data().join("x/a.db"), place.data().join("x/b.db")).unwrap();
    let more = ["data/x/a.db", "data", "data/*/*.db", "--once"];
    let ran: Ran = place.replicate("data/**/*.db", &more).output().unwrap().into();
    let ran = ran.expect_code(0);
    assert_eq!((ran.count("databases"), ran.count("stored"), place.objects().len()), (1, 1, 1), "{ran:#?}");
    fs::hard_link(place.data().join("x/a.db"), place.data().join("x/c.db")).unwrap();
    let linked: Ran = place.replicate("data/**/*.db", &more).output().unwrap().into();
    assert!(linked.err.contains("2 names"), "{linked:#?}");
    assert_eq!((linked.code, place.objects().len()), (Some(0), 1), "{linked:#?}");
}

/// T50, T54: state, temporary copies and the folder store lie inside the pattern.
#[test]
fn our_own_directories_inside_the_pattern_are_left_out() {
    let place = Place::new();
    place.make("a.db", "wal", 1);
    let own = ["--store", "data/store", "--state-dir", "data/state"];
    let run = |pattern: &str, more: &[&str]| place.run(&[&["replicate", pattern], own.as_slice(), more].concat());
    for pattern in ["data", "data/**", "data/**/*.db"] {
        for more in [&["--once"][..], &["--once"], &["--dry-run"]] {
            let ran = run(pattern, more).expect_code(0);
            assert!(more[0] == "--dry-run" || ran.count("databases") == 1, "{pattern}: {ran:#?}");
            assert!(!ran.out.contains("data/st"), "{ran:#?}");
        }
    }
    // The same directories under another name.
    std::os::unix::fs::symlink(place.data().join("state"), place.data().join("alias")).unwrap();
    assert_eq!(run("data/*/*.db", &["--once", "--allow-empty"]).expect_code(0).count("databases"), 0);
    for more in ["--once", "--dry-run"] {
        expect_line(&run("data/state/*.db", &[more]), 2, &["data/state/*.db", "litesnap's own", "--state-dir"]);
    }
}

#[test]
fn json_is_one_object_with_counts_and_the_unprotected() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    fs::write(place.db("bad\nname.db"), "certainly no database").unwrap();
    let ran: Ran = place.replicate("data/*.db", &["--once", "--json"]).output().unwrap().into();
    let ran = ran.expect_code(1);
    assert_eq!(ran.out.lines().count(), 1);
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let names =
        ["cycle", "databases", "changed", "stored", "unchanged_content", "failed", "bytes", "requests", "elapsed_ms"];
    for name in names {
        assert!(json[name].is_u64(), "{name}: {json}");
    }
    assert_eq!(
        (json["stored"].as_u64(), json["failed"].as_u64(), json["exit_code"].as_u64()),
        (Some(1), Some(1), Some(1))
    );
    let bad = &json["unprotected"][0];
    assert_eq!(bad["path"].as_str(), place.data().join("bad\nname.db").to_str());
    assert_eq!(bad["reason"].as_str(), Some("not-a-database"));
    // For people, each on one line; the summary's keys in their order.
    let again: Ran = place.replicate("data/*.db", &["--once"]).output().unwrap().into();
    let lines: Vec<&str> = again.out.lines().collect();
    let keys: Vec<&str> = lines[0].split(' ').map(|pair| pair.split('=').next().unwrap()).collect();
    assert_eq!(keys[..9], names, "{}", lines[0]);
    assert!(lines.len() == 2 && lines[1].contains("bad\\nname.db: not-a-database: "), "{lines:?}");
}

#[test]
fn a_reader_that_leaves_early_is_no_panic() {
    let place = Place::new();
    for n in 0..300 {
        fs::write(place.db(&format!("bad{n}.db")), "certainly no database, and a name for a line").unwrap();
    }
    for args in [&["replicate", "--help"][..], &["--help"], &[]] {
        let mut child = place.litesnap(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        let code = child.wait().unwrap().code();
        assert_eq!(code, Some(if args.is_empty() { 2 } else { 0 }), "{args:?}");
    }
    for (more, expected) in [("--once", 1), ("--dry-run", 0), ("--json", 1), ("--interval=0s", 2)] {
        let once = if more == "--json" { "--once" } else { "--allow-empty" };
        let mut command = place.replicate("data/*.db", &[more, once]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = child.stdout.take().unwrap();
        let mut first = [0];
        if expected == 1 {
            out.read_exact(&mut first).unwrap();
        }
        drop((out, child.stderr.take()));
        let code = child.wait().unwrap().code();
        // What is known to be no database is named by a dry run as well.
        assert!(code == Some(expected) || (more == "--dry-run" && code == Some(1)), "{more}: {code:?}");
    }
}

/// Every entry below `dir` with all that a write would move.
fn listing(dir: &Path) -> BTreeMap<PathBuf, [i128; 7]> {
    let mut all = BTreeMap::new();
    let mut rest = vec![dir.to_path_buf()];
    while let Some(path) = rest.pop() {
        let m = path.symlink_metadata().unwrap();
        if m.is_dir() {
            rest.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        // As root, SQLite sets the owner of the log and the index that it opens, to what it is: only ctime moves.
        let (ctime, nsec) = if own_log(&path) { (0, 0) } else { (m.ctime(), m.ctime_nsec()) };
        let stamps = [m.mtime(), m.mtime_nsec(), ctime, nsec].map(i128::from);
        let [mtime, mtime_nsec, ctime, nsec] = stamps;
        all.insert(path, [m.ino().into(), m.size().into(), m.mode().into(), mtime, mtime_nsec, ctime, nsec]);
    }
    all
}

fn own_log(path: &Path) -> bool {
    let name = path.to_str().unwrap();
    name.contains("/state/") && (name.ends_with(".db-wal") || name.ends_with(".db-shm"))
}

/// The lines `path -> key` as a map of path to key prefix.
fn plan(ran: &Ran) -> BTreeMap<String, String> {
    let pairs = ran.out.lines().filter_map(|line| line.split_once(" -> "));
    pairs.map(|(path, key)| (path.to_owned(), key.rsplit_once('/').unwrap().0.to_owned())).collect()
}

#[test]
fn a_dry_run_writes_nothing_and_agrees_with_the_run() {
    let place = Place::new();
    for (name, mode) in [("a.db", "wal"), ("b c%.db", "delete"), ("d/e.db", "wal")] {
        place.make(name, mode, 2);
    }
    let app = Connection::open(place.db("d/e.db")).unwrap();
    app.execute_batch("INSERT INTO t VALUES(7)").unwrap();
    let dry = |more: &[&str]| -> Ran {
        place.replicate("data/**/*.db", &[&["--dry-run"], more].concat()).output().unwrap().into()
    };
    let before = listing(place.path());
    let first = dry(&[]).expect_code(0);
    assert_eq!(listing(place.path()), before, "no state, no store, no -shm, no time moved");
    let planned = plan(&first);
    assert_eq!(planned.len(), 3, "{first:#?}");
    assert!(first.err.contains("would store 3 of 3 databases"), "{}", first.err);
    place.once().expect_code(0);
    let stored: Vec<String> = place.objects().iter().map(|o| o.key.rsplit_once('/').unwrap().0.to_owned()).collect();
    let mut prefixes: Vec<String> = planned.into_values().collect();
    prefixes.sort();
    assert_eq!(prefixes, stored);
    // With a state at rest.
    place.once().expect_code(0);
    app.execute_batch("INSERT INTO t VALUES(8)").unwrap();
    let before = listing(place.path());
    let changed = dry(&[]).expect_code(0);
    assert_eq!(listing(place.path()), before, "a state at rest stays so");
    assert!(plan(&changed).keys().any(|path| path.ends_with("d/e.db")), "{changed:#?}");
    let held = dry(&["--cooldown", "1h"]).expect_code(0);
    assert!(held.out.contains("d/e.db: held back by its cooldown") && held.err.contains("held back"), "{held:#?}");
    // As JSON, a line each.
    let json = dry(&["--json"]).expect_code(0);
    for line in json.out.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["path"].is_string() && line["key"].is_string(), "{line}");
    }
    // While a loop holds the state, stopped so that it writes nothing in between.
    let running = place.start_loop("200ms", &[]);
    assert!(eventually(Duration::from_secs(20), || dry(&[]).err.contains("would store 0 of 3")), "{:#?}", dry(&[]));
    running.signal(Signal::SIGSTOP);
    app.execute_batch("INSERT INTO t VALUES(9)").unwrap();
    let before = listing(place.path());
    let seen = dry(&[]).expect_code(0);
    assert_eq!(listing(place.path()), before);
    assert_eq!(plan(&seen).len(), 1, "{seen:#?}");
    running.signal(Signal::SIGCONT);
    running.stop().expect_code(0);
}

#[test]
fn a_dry_run_names_what_a_run_would_refuse() {
    let place = Place::new();
    for name in ["a/x.db", "b/x.db", "c/y.db"] {
        place.make(name, "delete", 1);
    }
    let more = ["--key-template", "{{name}}"];
    let dry: Ran = place.replicate("data/*/{name}.db", &[&more[..], &["--dry-run"]].concat()).output().unwrap().into();
    let dry = dry.expect_code(1);
    assert_eq!(plan(&dry).len(), 1, "{dry:#?}");
    for name in ["a/x.db", "b/x.db"] {
        assert!(dry.out.lines().any(|l| l.contains(&format!("{name}: key-clash"))), "{dry:#?}");
    }
    let run: Ran = place.replicate("data/*/{name}.db", &[&more[..], &["--once"]].concat()).output().unwrap().into();
    assert_eq!((run.code, place.objects().len()), (Some(1), 1));
    // A damaged state: said, and not touched.
    fs::write(place.state_db(), vec![b'x'; 8192]).unwrap();
    let before = listing(place.path());
    let dry: Ran =
        place.replicate("data/c/*.db", &["--dry-run", "--key-template", "{{name}}"]).output().unwrap().into();
    assert_eq!(dry.code, Some(2), "{dry:#?}");
    let dry: Ran = place.replicate("data/*/{name}.db", &[&more[..], &["--dry-run"]].concat()).output().unwrap().into();
    assert!(dry.err.contains("is damaged") && plan(&dry).len() == 1, "{dry:#?}");
    assert_eq!(listing(place.path()), before);
}
