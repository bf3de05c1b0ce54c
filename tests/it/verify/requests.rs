//! Beside a state: what it believes stored and is not, or is bad, is asked for again; and a person's word that databases
//! were deleted.

use super::network::look_and_between;
use super::*;

fn with_state(place: &Place, more: &[&str]) -> Ran {
    run(place, &[&["--state-dir", "state"], more].concat())
}

/// Paths that the state was asked to store again.
fn requested(place: &Place) -> Vec<String> {
    let conn = Connection::open(place.state_db()).unwrap();
    let sql = "SELECT path FROM requests JOIN databases USING(id) ORDER BY path";
    let Ok(mut all) = conn.prepare(sql) else { return Vec::new() };
    let names = all.query_map([], |r| r.get::<_, String>(0)).unwrap().map(Result::unwrap);
    names.map(|path| path.rsplit_once('/').unwrap().1.to_owned()).collect()
}

fn state_files(place: &Place) -> Vec<PathBuf> {
    let mut all = walk(&place.state());
    all.sort();
    all
}

#[test]
fn what_the_state_believes_and_is_missing_or_bad_is_asked_for() {
    let place = Place::new();
    let paths: Vec<PathBuf> =
        ["bad.db", "fine.db", "gone.db", "missing.db", "older.db"].iter().map(|name| make_tiny(&place, name)).collect();
    place.once().expect_code(0);
    store_again(&place, &paths[4]);
    fs::remove_file(&paths[2]).unwrap();
    place.once().expect_code(0);
    let of = |name: &str, n: usize| place.store().join(&place.objects_of(name)[n].key);
    for damaged in [of("bad.db", 0), of("older.db", 0)] {
        fs::write(damaged, "").unwrap();
    }
    // Of a database that is gone from its host there is nothing left to store.
    fs::remove_file(of("gone.db", 0)).unwrap();
    fs::remove_file(of("missing.db", 0)).unwrap();
    let before = state_files(&place);

    let other = with_state(&place, &["--all", "--no-mark", "--match", "fine.db"]).expect_code(0);
    assert_eq!((other.count("requested"), requested(&place).len()), (0, 0), "{other:#?}");

    let ran = with_state(&place, &["--all"]).expect_code(1);
    let counts = ["bad", "missing", "requested", "good"].map(|name| ran.count(name));
    assert_eq!(counts, [2, 1, 2, 2], "{ran:#?}");
    assert_eq!(requested(&place), ["bad.db", "missing.db"]);
    assert!(ran.out.contains("2 databases are to be stored again: a running loop"), "{ran:#?}");
    let line = ran.out.lines().find(|line| line.contains(": missing: ")).unwrap();
    assert!(line.contains("data/missing.db 20") && line.contains("believes") && line.contains(".db.lz4)"), "{line}");
    assert_eq!(state_files(&place), before);

    // Marked now, and asked for until it is stored again, even where a sample would not have met it.
    Connection::open(place.state_db()).unwrap().execute_batch("DELETE FROM requests").unwrap();
    let again = with_state(&place, &["--no-mark"]).expect_code(1);
    assert_eq!((again.count("requested"), again.count("known_bad")), (2, 2), "{again:#?}");
    assert_eq!(requested(&place), ["bad.db", "missing.db"]);
}

#[test]
fn a_store_that_lost_everything_is_told_database_by_database() {
    let place = Place::new();
    for n in 0..3 {
        make_tiny(&place, &format!("{n}.db"));
    }
    place.once().expect_code(0);
    fs::remove_dir_all(place.store()).unwrap();
    fs::create_dir(place.store()).unwrap();
    let ran = with_state(&place, &["--all"]).expect_code(1);
    assert_eq!(["snapshots", "missing", "requested"].map(|name| ran.count(name)), [0, 3, 3], "{ran:#?}");
}

#[test]
fn names_of_a_template_with_captures_are_those_of_the_keys() {
    let place = Place::new();
    make_tiny(&place, "acme/x.db");
    let ran: Ran = place
        .replicate("data/{tenant}/x.db", &["--once", "--key-template", "{{hostname}}/{{tenant}}", "--host", "web 1"])
        .output()
        .unwrap()
        .into();
    ran.expect_code(0);
    assert_eq!(with_state(&place, &["--all"]).expect_code(0).count("requested"), 0);
    fs::remove_file(place.store().join(&place.objects()[0].key)).unwrap();
    let ran = with_state(&place, &["--all"]).expect_code(1);
    assert!(ran.out.contains("web 1/acme 20") && ran.out.contains("(web%201/acme/20"), "{ran:#?}");
}

#[test]
fn what_is_stored_meanwhile_is_not_missed() {
    let place = Place::new();
    let a = make_tiny(&place, "a.db");
    make_tiny(&place, "b.db");
    place.once().expect_code(0);
    fs::remove_file(place.store().join(&place.objects_of("a.db")[0].key)).unwrap();
    let options = VerifyOptions { state_dir: Some(place.state()), ..options() };
    let report = look_and_between(&place.store(), Arc::default(), &options, || store_again(&place, &a));
    assert_eq!(
        (report.counts.missing, report.counts.requested, report.exit_code()),
        (0, Some(0), 0),
        "{}",
        report.text()
    );
}

#[test]
fn a_running_loop_is_not_disturbed() {
    let place = Place::new();
    let a = make_tiny(&place, "a.db");
    let running = place.start_loop("50ms", &[]);
    let recorded = |n: i64| {
        let conn = Connection::open(place.state_db()).unwrap();
        conn.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
        conn.query_row("SELECT count(*) FROM databases WHERE key_ms IS NOT NULL", [], |r| r.get::<_, i64>(0)) == Ok(n)
    };
    let limit = std::time::Duration::from_secs(30);
    assert!(eventually(limit, || place.state().is_dir() && !place.objects().is_empty() && recorded(1)));
    for _ in 0..5 {
        with_state(&place, &["--all"]).expect_code(0);
    }
    fs::remove_file(place.store().join(&place.objects()[0].key)).unwrap();
    let ran = with_state(&place, &["--all"]).expect_code(1);
    assert_eq!((ran.count("missing"), ran.count("requested")), (1, 1), "{ran:#?}");
    // It goes on storing and recording.
    Connection::open(&a).unwrap().execute_batch("INSERT INTO t VALUES('more')").unwrap();
    make_tiny(&place, "b.db");
    assert!(eventually(limit, || !place.objects_of("b.db").is_empty() && recorded(2)));
    Running::stop(running).expect_code(0);
}

fn forget(place: &Place, more: &[&str]) -> Ran {
    place.run(&[&["forget-gone", "--store", "store", "--state-dir", "state"], more].concat())
}

fn accepted(place: &Place) -> Option<String> {
    let conn = Connection::open(place.state_db()).unwrap();
    conn.query_row("SELECT CAST(value AS TEXT) FROM meta WHERE name = 'accept_gone'", [], |r| r.get(0)).ok()
}

/// T45: what the loop holds back waits for a person's word.
#[test]
fn a_mass_disappearance_is_accepted_by_word() {
    let place = Place::new();
    let paths: Vec<PathBuf> = (0..30).map(|n| make_tiny(&place, &format!("{n}.db"))).collect();
    place.once().expect_code(0);
    let none = forget(&place, &["--yes"]).expect_code(0);
    assert!(none.out.contains("none of 30 known databases is gone") && accepted(&place).is_none(), "{none:#?}");
    for path in &paths[..25] {
        fs::remove_file(path).unwrap();
    }
    // A file that became a folder's neighbour: nothing below it is there.
    let held = place.once().expect_code(1);
    assert!(held.out.contains("25 of 30 known databases are gone"), "{held:#?}");
    let before = state_files(&place);
    let asked = forget(&place, &[]).expect_code(2);
    assert!(
        asked.out.starts_with("25 of 30 known databases are gone:\n") && asked.out.contains("and 5 more"),
        "{asked:#?}"
    );
    assert!(asked.out.lines().filter(|l| l.starts_with('/') && l.ends_with(".db")).count() == 20, "{asked:#?}");
    assert!(asked.err.lines().count() == 1 && asked.err.contains("--yes"), "{asked:#?}");
    assert_eq!(accepted(&place), None);
    let done = forget(&place, &["--yes"]).expect_code(0);
    assert!(done.out.contains("next cycle"), "{done:#?}");
    assert_eq!(accepted(&place).as_deref(), Some("25"));
    assert_eq!(state_files(&place), before);
    let wrong = place.run(&["forget-gone", "--store", "another", "--state-dir", "state"]).expect_code(2);
    assert!(wrong.err.contains("no state of") && wrong.err.lines().count() == 1, "{wrong:#?}");
    assert!(!place.path().join("another").exists());
}

/// Notes in the state do not keep a later pass from working, and what was asked for does not hide a database.
#[test]
fn a_state_with_wishes_in_it_is_still_the_loops_own() {
    let place = Place::new();
    let a = make_tiny(&place, "a.db");
    place.once().expect_code(0);
    fs::write(place.store().join(&place.objects()[0].key), "").unwrap();
    assert_eq!(with_state(&place, &["--all", "--no-mark"]).expect_code(1).count("requested"), 1);
    store_again(&place, &a);
    // Its newest snapshot is good: the older one is told, and nothing is asked for.
    let ran = with_state(&place, &["--all", "--no-mark"]).expect_code(1);
    assert_eq!(["bad", "good", "requested"].map(|name| ran.count(name)), [1, 1, 0], "{ran:#?}");
}
