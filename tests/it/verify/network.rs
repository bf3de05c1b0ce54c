//! Stores that fail while they are looked at: what is the object's fault, what is the store's, and what is tried again.

use parking_lot::Mutex;

use litesnap::control::Control;
use litesnap::cycle::Observer;

use super::*;

/// A server with `n` tiny databases stored.
fn stored(n: usize) -> (Place, S3Server, String) {
    let server = S3Server::start();
    let mut place = Place::new();
    place.env = server.env();
    for n in 0..n {
        make_tiny(&place, &format!("{n}.db"));
    }
    let url = server.url("bucket", "p");
    store_at(&place, &url);
    server.forget();
    (place, server, url)
}

fn all(place: &Place, url: &str) -> Ran {
    place.run(&["verify", "--store", url, "--all", "--concurrency", "1"])
}

#[test]
fn one_listing_and_one_request_each() {
    let (place, server, url) = stored(5);
    let ran = all(&place, &url).expect_code(0);
    assert_eq!((ran.count("good"), ran.count("requests"), server.log().len()), (5, 6, 6), "{ran:#?}");
    assert!(server.log().iter().all(|(method, _)| method == "GET"));
}

#[test]
fn a_store_that_refuses_is_exit_3_and_says_nothing_about_objects() {
    for n in [3, 30] {
        let (place, server, url) = stored(n);
        server.fail_from(2, Fault::answer(403, "AccessDenied"));
        let ran = all(&place, &url).expect_code(3);
        let counts = ["unchecked", "checked", "bad", "missing"].map(|name| ran.count(name));
        assert_eq!(counts, [n as u64, 0, 0, 0], "{ran:#?}");
        assert!(ran.err.lines().count() == 1 && ran.err.contains("cannot fetch from s3://bucket/p"), "{ran:#?}");
        assert!(ran.err.contains("403") && !ran.err.contains("AKIA"), "{ran:#?}");
        // It is not asked for all of thirty.
        assert!(server.log().len() < 12, "{}", server.log().len());
        assert_eq!(server.count("PUT"), 0);
        server.forget();
        server.fail_from(1, Fault::answer(403, "AccessDenied"));
        assert!(all(&place, &url).expect_code(3).err.contains("cannot list"));
    }
}

#[test]
fn one_answer_that_is_not_the_objects_is_asked_for_again() {
    let (place, server, url) = stored(3);
    for answer in [Fault::Answer(200, "x".repeat(5000)), Fault::Answer(200, "short".into()), Fault::DropAfter] {
        server.fail_nth(3, answer.clone());
        let ran = all(&place, &url).expect_code(0);
        assert_eq!((ran.count("good"), ran.count("requests")), (3, 5), "{answer:?}: {ran:#?}");
    }
    assert_eq!(server.count("PUT"), 0, "nothing was marked");
}

#[test]
fn one_that_cannot_be_fetched_is_unchecked_and_the_others_are_looked_at() {
    let (place, server, url) = stored(3);
    server.fail_nth(3, Fault::answer(403, "AccessDenied"));
    server.fail_nth(5, Fault::answer(403, "AccessDenied"));
    let ran = all(&place, &url).expect_code(1);
    assert_eq!(["good", "unchecked", "bad"].map(|name| ran.count(name)), [2, 1, 0], "{ran:#?}");
    assert!(ran.out.contains("not everything could be fetched") && ran.out.contains("403"), "{ran:#?}");
    assert_eq!(server.count("PUT"), 0);
}

#[test]
fn one_deleted_after_the_listing_is_missing() {
    let (place, server, url) = stored(2);
    server.fail_nth(2, Fault::answer(404, "NoSuchKey"));
    let ran = all(&place, &url).expect_code(1);
    assert_eq!(["good", "missing", "bad", "unchecked"].map(|name| ran.count(name)), [1, 1, 0, 0], "{ran:#?}");
    assert!(ran.out.contains(": missing: it was listed"), "{ran:#?}");
    assert_eq!(server.count("PUT"), 0, "what is not there needs no marker");
}

/// Does something between the listing and the first request.
struct Between<F>(Mutex<Option<F>>);

impl<F> std::fmt::Debug for Between<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Between")
    }
}

impl<F: FnOnce() + Send> Observer for Between<F> {
    fn planned(&self, _: u64) {
        if let Some(work) = self.0.lock().take() {
            work();
        }
    }
}

pub(super) fn look_and_between(
    store: &Path,
    control: Arc<Control>,
    options: &VerifyOptions,
    between: impl FnOnce() + Send,
) -> VerifyReport {
    let url = StoreOptions::new(store.to_str().unwrap());
    let access = Access::open(&url, &Vec::new(), 4, control).unwrap();
    verify(&access, options, NOW.parse::<Timestamp>().unwrap(), &Between(Mutex::new(Some(between)))).unwrap()
}

#[test]
fn what_goes_away_meanwhile_is_missing_unless_all_of_it_does() {
    let place = Place::new();
    for n in 0..3 {
        make_tiny(&place, &format!("{n}.db"));
    }
    place.once().expect_code(0);
    let (store, away) = (place.store(), place.path().join("away"));
    let first = store.join(&place.objects()[0].key);
    let report = look_and_between(&store, Arc::default(), &options(), || fs::remove_file(first).unwrap());
    assert_eq!((report.counts.missing, report.counts.good, report.exit_code()), (1, 2, 1), "{}", report.text());
    // Unmounted: nothing is known about any object.
    let report = look_and_between(&store, Arc::default(), &options(), || fs::rename(&store, &away).unwrap());
    assert_eq!((report.counts.missing, report.counts.unchecked), (0, 2), "{}", report.text());
    assert!(report.exit_code() == 3 && report.store_down.is_some());
}

/// As by a prune that runs beside it.
#[test]
fn what_a_rule_lets_go_meanwhile_is_not_missed() {
    let place = Place::new();
    let paths: Vec<PathBuf> = (0..22).map(|n| make_tiny(&place, &format!("{n:02}.db"))).collect();
    for path in &paths {
        Connection::open(path).unwrap().execute_batch("INSERT INTO t VALUES('first')").unwrap();
    }
    place.once().expect_code(0);
    paths.iter().for_each(|path| Connection::open(path).unwrap().execute_batch("DELETE FROM t").unwrap());
    place.once().expect_code(0);
    let with_state = VerifyOptions { state_dir: Some(place.state()), ..options() };
    let (all, store) = (files(&place), place.store());
    let keys = |n: usize| place.objects_of(&format!("{n:02}.db")).into_iter().map(|o| o.key).collect::<Vec<_>>();
    let keys: Vec<Vec<String>> = (0..22).map(keys).collect();
    // One database by name, more by listing all again.
    for n in [1, 22] {
        let gone = || keys[..n].iter().for_each(|of| fs::remove_file(store.join(&of[0])).unwrap());
        let report = look_and_between(&store, Arc::default(), &with_state, gone);
        let counts = &report.counts;
        let seen = (counts.removed_meanwhile, counts.missing, counts.requested, report.exit_code());
        assert_eq!(seen, (n as u64, 0, Some(0), 0), "{}", report.text());
        assert!(report.text().contains(&format!(" removed_meanwhile={n} ")), "{}", report.text());
        all.iter().for_each(|(key, bytes)| fs::write(store.join(key), bytes).unwrap());
    }
    // No rule lets the newest go, nor a good one for the sake of one that is marked.
    let marker = store.join(format!("{}.bad", keys[1][1]));
    fs::write(&marker, "{}").unwrap();
    let gone = || [&keys[0][1], &keys[1][0]].into_iter().for_each(|key| fs::remove_file(store.join(key)).unwrap());
    let report = look_and_between(&store, Arc::default(), &options(), gone);
    let counts = &report.counts;
    assert_eq!((counts.removed_meanwhile, counts.missing, report.exit_code()), (0, 2, 1), "{}", report.text());
}

#[test]
fn a_stop_tells_what_was_found_and_marks_nothing() {
    let place = Place::new();
    for n in 0..50 {
        make_tiny(&place, &format!("{n}.db"));
    }
    place.once().expect_code(0);
    fs::write(place.store().join(&place.objects()[0].key), "").unwrap();
    let control = Arc::new(Control::default());
    let stop = Arc::clone(&control);
    let marking = VerifyOptions { mark: true, ..options() };
    let report = look_and_between(&place.store(), control, &marking, || stop.stop(15));
    assert_eq!((report.interrupted, report.exit_code(), report.counts.unchecked), (Some(15), 143, 50));
    assert_eq!(place.objects().len(), 50);
}

/// Small objects that wait to be looked at, large ones that arrive in pieces, and images that are far larger than their
/// objects: all of it within the limit, which the system counts.
#[test]
fn memory_is_bounded_whatever_the_sizes() {
    const COUNTED: &str = "import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print('maxrss=%d' % resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)";
    let server = S3Server::start();
    let mut place = Place::new();
    place.env = server.env();
    for n in 0..40 {
        place.make_random(&format!("{n}.db"), 1_900_000);
        let conn = Connection::open(place.db(&format!("zero{n}.db"))).unwrap();
        conn.execute_batch("PRAGMA synchronous = OFF; CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(3900000))")
            .unwrap();
    }
    for n in 0..5 {
        place.make_random(&format!("large{n}.db"), 12_000_000);
    }
    place.make_large("larger.db");
    let url = server.url("bucket", "p");
    store_at(&place, &url);
    let command = place.litesnap(&["verify", "--store", &url, "--all"]);
    let mut counted = std::process::Command::new("python3");
    counted.args(["-c", COUNTED]).arg(command.get_program()).args(command.get_args()).current_dir(place.path());
    counted.env_clear().envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
    counted.env("PATH", std::env::var_os("PATH").unwrap());
    let ran: Ran = counted.output().unwrap().into();
    let ran = ran.expect_code(0);
    assert_eq!(ran.count("good"), 86, "{ran:#?}");
    assert!(ran.count("maxrss") <= 64 << 10, "{ran:#?}");
}

/// A store that does not know conditional puts gets its markers all the same.
#[test]
fn markers_are_put_over_the_network() {
    let (place, server, url) = stored(2);
    let (key, bytes) = server.objects("bucket")[0].clone();
    for (refuses, word) in [(false, "truncated"), (true, "truncated")] {
        server.forget();
        if refuses {
            server.refuse_conditions();
        }
        server.put("bucket", &key, &bytes[..bytes.len() - 1]);
        let ran = all(&place, &url).expect_code(1);
        assert!(ran.out.contains(&format!(": {word}: ")) && !ran.err.contains("cannot mark"), "{ran:#?}");
        let marker = format!("{key}.bad");
        assert!(server.objects("bucket").iter().any(|(k, _)| *k == marker), "{:?}", server.log());
        assert_eq!(server.count("PUT"), 1 + usize::from(refuses));
        server.remove("bucket", &marker);
    }
}
