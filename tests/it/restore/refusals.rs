//! What is there is the old file or the new one; what is refused is named and untouched.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use rusqlite::Connection;

use super::round_trip::{back, restore};
use crate::foreign::Foreign;
use crate::place::{Place, Running, age, eventually, rows};

/// A place with `a.db` stored.
fn stored() -> Place {
    let place = Place::new();
    place.make("a.db", "wal", 9);
    place.once().expect_code(0);
    place
}

#[test]
fn what_is_there_is_left_unless_force_says_otherwise() {
    let place = stored();
    let target = place.path().join("t.db");
    fs::write(&target, "precious").unwrap();
    let refused = restore(&place, &["-o", "t.db"]).expect_code(1);
    refused.expect_failure(Path::new(shown(&place, "a.db").as_str()), "target-exists");
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    let skipped = restore(&place, &["-o", "t.db", "--if-db-not-exists"]).expect_code(0);
    assert_eq!((skipped.count("skipped"), skipped.count("gets")), (1, 0));
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    restore(&place, &["-o", "t.db", "--force"]).expect_code(0);
    assert_eq!(rows(&Connection::open(&target).unwrap()).len(), 9);
}

/// The name under which `data/NAME` is stored and told.
fn shown(place: &Place, name: &str) -> String {
    place.data().join(name).strip_prefix("/").unwrap().display().to_string()
}

#[test]
fn a_sidecar_beside_the_target_is_refused_and_removed_only_by_force() {
    for suffix in ["-wal", "-journal", "-shm"] {
        let place = stored();
        let target = place.path().join("t.db");
        let sidecar = PathBuf::from(format!("{}{suffix}", target.display()));
        fs::write(&sidecar, vec![7; 4096]).unwrap();
        let ran = restore(&place, &["-o", "t.db"]).expect_code(1);
        ran.expect_failure(Path::new(shown(&place, "a.db").as_str()), "sidecar");
        assert!(sidecar.exists() && !target.exists());
        restore(&place, &["-o", "t.db", "--force"]).expect_code(0);
        assert!(!sidecar.exists());
        assert_eq!(rows(&Connection::open(&target).unwrap()).len(), 9);
    }
}

#[test]
fn a_database_in_use_is_refused_with_who_has_it() {
    let place = stored();
    let target = place.path().join("t.db");
    let mut app = Foreign::open(&target, "wal");
    app.exec("CREATE TABLE t(x)");
    let ran = restore(&place, &["-o", "t.db"]).expect_code(1);
    let failure = ran.failure_of(Path::new(shown(&place, "a.db").as_str())).unwrap();
    assert!(failure.starts_with("in-use") || failure.starts_with("sidecar") || failure.starts_with("target-exists"));
    app.exec("INSERT INTO t VALUES(1)");
    app.close();
    assert_eq!(rows(&Connection::open(&target).unwrap()), [1], "the application never noticed");
}

#[test]
fn names_in_the_store_lead_nowhere_outside() {
    let place = stored();
    let object = place.objects_of("a.db").pop().unwrap();
    let name = object.key.rsplit('/').next().unwrap();
    for evil in ["%2E%2E/%2E%2E/evil.db", "x/%2E%2E/evil.db", "a%2Fb.db", "nul%00.db", "lower%2e.db"] {
        let dir = place.store().join(evil);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name), &object.bytes).unwrap();
    }
    let ran = restore(&place, &["--into", "back"]).expect_code(1);
    assert_eq!((ran.count("restored"), ran.count("unsafe-path")), (1, 5), "{ran:#?}");
    assert!(back(&place, "a.db").exists());
    assert!(!place.path().join("evil.db").exists() && !place.path().parent().unwrap().join("evil.db").exists());
}

#[test]
fn two_databases_of_one_original_path_are_both_refused_in_place() {
    let place = Place::new();
    let path = place.make("a.db", "delete", 1);
    let bystander = place.make("b.db", "delete", 1);
    for host in ["web-1", "web-2"] {
        let args = ["--once", "--host", host, "--key-template", "{{hostname}}/{{path}}"];
        let pattern = if host == "web-1" { "data/*.db" } else { "data/a.db" };
        assert!(place.replicate(pattern, &args).status().unwrap().success());
    }
    fs::remove_dir_all(place.data()).unwrap();
    let ran = restore(&place, &["--in-place"]).expect_code(1);
    assert_eq!((ran.count("restored"), ran.count("clash")), (1, 2), "{ran:#?}");
    assert!(ran.out.contains("web-1/") && ran.out.contains("web-2/"), "both are named: {ran:#?}");
    assert!(!path.exists() && bystander.exists());
    let ran = restore(&place, &["--into", "back"]).expect_code(0);
    assert_eq!(ran.count("restored"), 3, "below a folder each has its own place");
    assert!(ran.err.contains("2 hosts: web-1, web-2"), "{ran:#?}");
}

#[test]
fn a_snapshot_marked_bad_is_passed_over_and_said() {
    let place = stored();
    let path = place.data().join("a.db");
    Connection::open(&path).unwrap().execute_batch("INSERT INTO t VALUES(10)").unwrap();
    age(&path);
    place.once().expect_code(0);
    let objects = place.objects_of("a.db");
    let mark = |key: &str| fs::write(place.store().join(format!("{key}.bad")), "{}").unwrap();
    mark(&objects[1].key);
    let ran = restore(&place, &["-o", "t.db"]).expect_code(1);
    assert_eq!((ran.count("restored"), ran.count("older")), (1, 1));
    ran.expect_failure(Path::new(shown(&place, "a.db").as_str()), "older");
    assert_eq!(rows(&Connection::open(place.path().join("t.db")).unwrap()).len(), 9);
    restore(&place, &["-o", "u.db", "--include-bad"]).expect_code(0);
    assert_eq!(rows(&Connection::open(place.path().join("u.db")).unwrap()).len(), 10);
    let streamed = restore(&place, &["-o", "-"]).expect_code(1);
    assert!(streamed.err.contains("older: ") && !streamed.out.is_empty(), "{streamed:#?}");
    mark(&objects[0].key);
    let ran = restore(&place, &["-o", "v.db"]).expect_code(1);
    ran.expect_failure(Path::new(shown(&place, "a.db").as_str()), "only-bad");
    assert!(!place.path().join("v.db").exists());
}

#[test]
fn interrupted_it_says_so_and_a_second_run_completes() {
    let place = Place::new();
    for n in 0..400 {
        place.make(&format!("{n}.db"), "delete", 200);
    }
    place.once().expect_code(0);
    let running =
        Running::start(place.litesnap(&["restore", "--store", "store", "--into", "back", "--concurrency", "1"]));
    let dir = back(&place, "0.db").parent().unwrap().to_owned();
    assert!(eventually(Duration::from_secs(20), || fs::read_dir(&dir).is_ok_and(|d| d.count() > 3)));
    running.signal(Signal::SIGINT);
    let ran = running.wait(Duration::from_secs(30));
    let restored = match ran.code {
        Some(130) => ran.count("restored"),
        // It was through before the signal came.
        Some(0) => 400,
        _ => panic!("{ran:#?}"),
    };
    let again = restore(&place, &["--into", "back"]).expect_code(0);
    assert_eq!(again.count("unchanged"), restored, "what was counted is there");
    assert_eq!(again.count("restored") + restored, 400);
}

#[test]
fn killed_at_any_moment_each_target_is_the_old_file_or_the_new_one() {
    let place = Place::new();
    for n in 0..60 {
        place.make(&format!("{n}.db"), "delete", 300);
    }
    place.once().expect_code(0);
    let names: Vec<String> = (0..60).map(|n| format!("{n}.db")).collect();
    let new: Vec<Vec<u8>> = names.iter().map(|n| place.objects_of(n).pop().unwrap().image()).collect();
    let mut seen_half_way = 0;
    for attempt in 0..12_u64 {
        fs::remove_dir_all(place.path().join("back")).ok();
        fs::create_dir_all(back(&place, "0.db").parent().unwrap()).unwrap();
        for name in &names {
            fs::write(back(&place, name), "the old file").unwrap();
        }
        let running = Running::start(place.litesnap(&["restore", "--store", "store", "--into", "back", "--force"]));
        std::thread::sleep(Duration::from_millis(5 + attempt * 9));
        running.signal(Signal::SIGKILL);
        running.wait(Duration::from_secs(20));
        let is_new = |(name, new): (&String, &Vec<u8>)| {
            let found = fs::read(back(&place, name)).unwrap();
            assert!(found == *new || found == b"the old file", "{name} is neither");
            found == *new
        };
        let done = names.iter().zip(&new).filter(|pair| is_new(*pair)).count();
        seen_half_way += usize::from(done > 0 && done < names.len());
        let again = restore(&place, &["--into", "back", "--force"]).expect_code(0);
        assert_eq!(again.count("restored") + again.count("unchanged"), 60);
        let left = fs::read_dir(back(&place, "0.db").parent().unwrap()).unwrap().count();
        assert_eq!(left, 60, "nothing is left beside them");
    }
    // Not asserted: on a loaded machine every kill may come before or after. Said, so that it can be seen.
    println!("killed half way in {seen_half_way} of 12 attempts");
}

#[test]
fn a_dry_run_tells_what_the_run_would_refuse() {
    let place = stored();
    place.make("b.db", "delete", 1);
    place.once().expect_code(0);
    let dry = ["--into", "back", "--dry-run"];
    restore(&place, &["--into", "back"]).expect_code(0);
    let all_there = restore(&place, &dry).expect_code(0);
    assert!(all_there.out.is_empty() && all_there.err.contains("unchanged=2"), "{all_there:#?}");
    fs::write(back(&place, "a.db"), "something else").unwrap();
    let refused = restore(&place, &dry).expect_code(1);
    refused.expect_failure(Path::new(shown(&place, "a.db").as_str()), "target-exists");
    assert!(refused.err.contains("gets_to_come=0"), "{refused:#?}");
    fs::remove_file(back(&place, "a.db")).unwrap();
    fs::write(format!("{}-wal", back(&place, "a.db").display()), "x").unwrap();
    restore(&place, &dry).expect_code(1).expect_failure(Path::new(shown(&place, "a.db").as_str()), "sidecar");
    let forced = restore(&place, &["--into", "back", "--dry-run", "--force"]).expect_code(0);
    assert!(forced.out.lines().count() == 1 && forced.err.contains("gets_to_come=1"), "{forced:#?}");
    assert!(!back(&place, "a.db").exists());
}

#[test]
fn bad_input_gets_one_line() {
    let place = stored();
    for (args, part) in [
        (vec![], "--into"),
        (vec!["--into", "back", "--in-place"], "--in-place"),
        (vec!["--into", "back", "-o", "x"], "--into"),
        (vec!["--into", "-"], "-o -"),
        (vec!["-o", "folder/"], "--into DIR"),
        (vec!["--into", "back", "--at", "yesterday"], "such as 2026-11-21T06:00:00Z"),
        (vec!["--into", "back", "--match", "[a"], "[a"),
        (vec!["--into", "back", "--check", "hard"], "quick"),
        (vec!["--into", "back", "--force", "--if-db-not-exists"], "--if-db-not-exists"),
    ] {
        let ran = restore(&place, &args).expect_code(2);
        assert!(ran.err.starts_with("litesnap: ") && ran.err.lines().count() == 1, "{ran:#?}");
        assert!(ran.err.contains(part) && ran.err.contains("litesnap"), "{part}: {ran:#?}");
    }
    let ran = place.run(&["restore", "--into", "back"]).expect_code(2);
    assert!(ran.err.contains("no store"), "{ran:#?}");
    assert!(!place.path().join("back").exists());
}
