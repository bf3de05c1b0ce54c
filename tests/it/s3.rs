//! The real binary against an S3 server: nothing superfluous is asked, every way of failing ends as documented, and a
//! signal in mid-upload loses nothing and claims nothing.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::place::{Place, Ran, Running, eventually};
use crate::s3_server::{ACCESS_KEY_ID, Fault, S3Server, SECRET_ACCESS_KEY, env};

/// A place whose binary stores into a server of its own.
struct Cloud {
    place: Place,
    server: S3Server,
}

impl Cloud {
    /// With `n` small databases.
    fn new(n: usize) -> Self {
        let server = S3Server::start();
        let mut place = Place::new();
        place.env = server.env();
        for n in 0..n {
            place.make(&format!("{n}.db"), "delete", 2);
        }
        Self { place, server }
    }

    fn command(&self, url: &str, more: &[&str]) -> Command {
        let mut command = self.place.litesnap(&["replicate", "data/**/*.db", "--store", url, "--state-dir", "state"]);
        command.args(more);
        command
    }

    fn start(&self, more: &[&str]) -> Running {
        Running::start(self.command(&self.server.url("bucket", "p"), more))
    }

    fn once_at(&self, url: &str, more: &[&str]) -> Ran {
        let ran: Ran = self.command(url, &[&["--once"], more].concat()).output().unwrap().into();
        assert_no_secrets(&ran);
        ran
    }

    fn once(&self, more: &[&str]) -> Ran {
        self.once_at(&self.server.url("bucket", "p"), more)
    }

    /// Objects stored, each decoded with every hash checked against its key.
    fn stored(&self) -> usize {
        let objects = self.server.objects("bucket");
        for (key, bytes) in &objects {
            litesnap::object::decode(&bytes[..], Some(key), &mut Vec::new()).unwrap_or_else(|e| panic!("{key}: {e}"));
        }
        objects.len()
    }

    /// Waits for the `n`th request, which the server may leave unanswered.
    fn wait_for_requests(&self, n: usize) {
        assert!(eventually(Duration::from_secs(20), || self.server.log().len() >= n), "{:?}", self.server.log());
    }
}

fn assert_no_secrets(ran: &Ran) {
    for secret in [SECRET_ACCESS_KEY, ACCESS_KEY_ID, "Signature="] {
        assert!(!ran.out.contains(secret) && !ran.err.contains(secret), "{secret}: {ran:?}");
    }
}

/// The one line that says why the command failed.
fn reason(ran: &Ran) -> &str {
    let lines: Vec<&str> = ran.err.lines().filter(|line| line.starts_with("litesnap:")).collect();
    assert_eq!(lines.len(), 1, "{ran:?}");
    lines[0]
}

#[test]
fn the_first_run_puts_each_database_and_the_second_asks_nothing() {
    let cloud = Cloud::new(7);
    let first = cloud.once(&[]).expect_code(0);
    assert_eq!((first.count("stored"), first.count("requests")), (7, 7));
    assert_eq!((cloud.server.count("PUT"), cloud.server.log().len()), (7, 7));
    assert_eq!(cloud.stored(), 7);
    assert_eq!(cloud.once(&[]).expect_code(0).count("requests"), 0);
    assert_eq!(cloud.server.log().len(), 7);
}

#[test]
fn names_that_urls_change_are_stored_and_found() {
    let cloud = Cloud::new(0);
    let names = ["a b.db", "c+d/e.db", "100%.db", "%41.db", "ä/日本.db", "q?x=1&y.db", "a#1.db", "~/\\'\".db"];
    for name in names {
        cloud.place.make(name, "delete", 2);
    }
    cloud.once(&[]).expect_code(0);
    assert_eq!(cloud.stored(), names.len(), "each under the very key that it was given");
    let paths = cloud
        .server
        .objects("bucket")
        .into_iter()
        .map(|(_, bytes)| litesnap::object::decode(&bytes[..], None, &mut Vec::new()).unwrap().path);
    let mut paths: Vec<_> = paths.collect();
    let mut expected: Vec<_> = names.iter().map(|name| cloud.place.data().join(name)).collect();
    paths.sort();
    expected.sort();
    assert_eq!(paths, expected);
    assert_eq!(cloud.once(&[]).expect_code(0).count("requests"), 0);
}

#[test]
fn a_request_that_fails_once() {
    // (fault of the third request, exit code, word of the reason)
    let table = [
        (Fault::answer(503, "SlowDown"), 0, ""),
        (Fault::answer(429, "TooManyRequests"), 0, ""),
        (Fault::answer(500, "InternalError"), 0, ""),
        (Fault::DropBefore, 0, ""),
        (Fault::DropAfter, 0, ""),
        (Fault::answer(403, "AccessDenied"), 1, "store-refused"),
        (Fault::answer(400, "EntityTooLarge"), 1, "store-error"),
        (Fault::Hang, 1, "store-timeout"),
    ];
    for (fault, code, word) in table {
        let cloud = Cloud::new(12);
        cloud.server.fail_nth(3, fault.clone());
        let ran = cloud.once(&["--request-timeout", "2s"]).expect_code(code);
        let failed = u64::from(code == 1);
        assert_eq!((ran.count("stored"), ran.count("failed")), (12 - failed, failed), "{fault:?}: {ran:?}");
        if code == 1 {
            assert_eq!(ran.count(word), 1);
            let named = |text: &str| text.lines().filter(|l| l.contains(".db") && l.contains(word)).count();
            assert_eq!((named(&ran.out), named(&ran.err)), (1, 1), "named in the result and in the log: {ran:?}");
        }
        cloud.server.heal();
        assert_eq!(cloud.once(&[]).expect_code(0).count("stored"), failed);
        assert_eq!(cloud.stored(), 12, "{fault:?}: none twice");
    }
}

#[test]
fn a_store_that_fails_from_some_request_on() {
    // 503 is left to the library's tests, which can shorten the half minute of patience with it.
    let table = [
        (1, Fault::answer(403, "AccessDenied"), "store-refused"),
        (30, Fault::Hang, "store-timeout"),
        (1, Fault::DropBefore, "store-unreachable"),
        (30, Fault::DropAfter, "store-unreachable"),
    ];
    std::thread::scope(|scope| {
        for (nth, fault, word) in table {
            scope.spawn(move || {
                let cloud = Cloud::new(60);
                cloud.server.fail_from(nth, fault.clone());
                let ran = cloud.once(&["--request-timeout", "2s", "--concurrency", "8"]).expect_code(3);
                assert!(reason(&ran).contains(word), "{ran:?}");
                assert_eq!(ran.count("stored"), nth as u64 - 1, "{ran:?}");
                assert!(!ran.out.contains(".db"), "not a line per database: {ran:?}");
                cloud.server.heal();
                let stored = ran.count("stored");
                assert_eq!(cloud.once(&[]).expect_code(0).count("stored"), 60 - stored);
                let twice = cloud.stored() - 60;
                assert!(twice == 0 || (matches!(fault, Fault::DropAfter) && twice <= 16), "{twice}: {ran:?}");
            });
        }
    });
}

/// It may be a policy on some prefix: all are tried, and each is named.
#[test]
fn a_store_that_stores_some_and_refuses_others_is_not_down() {
    let cloud = Cloud::new(60);
    cloud.server.fail_from(30, Fault::answer(403, "AccessDenied"));
    let ran = cloud.once(&["--concurrency", "4"]).expect_code(1);
    assert_eq!((ran.count("stored"), ran.count("store-refused")), (29, 31));
    assert_eq!(ran.out.lines().filter(|line| line.contains(".db: store-refused: ")).count(), 31, "{ran:?}");
    cloud.server.heal();
    assert_eq!(cloud.once(&[]).expect_code(0).count("stored"), 31);
    assert_eq!(cloud.stored(), 60);
}

#[test]
fn a_store_that_refuses_500_databases_is_told_in_one_line() {
    let cloud = Cloud::new(500);
    cloud.server.fail_from(1, Fault::answer(403, "AccessDenied"));
    let ran = cloud.once(&[]).expect_code(3);
    assert!(reason(&ran).contains("403 Forbidden: AccessDenied"), "{ran:?}");
    assert!(ran.err.lines().count() <= 2 && ran.out.lines().count() <= 2, "{ran:?}");
    assert!(cloud.server.log().len() <= 110, "{} requests", cloud.server.log().len());
}

#[test]
fn what_is_configured_wrong_is_one_line_without_secrets() {
    let check = |cloud: &Cloud, url: &str, part: &str| {
        let ran = cloud.once_at(url, &[]).expect_code(3);
        assert!(reason(&ran).contains(part), "{part}: {ran:?}");
        assert_eq!(cloud.stored(), 0);
    };
    let mut cloud = Cloud::new(20);
    let url = cloud.server.url("bucket", "");
    check(&cloud, &cloud.server.url("nobucket", ""), "NoSuchBucket");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    check(&cloud, &format!("s3://bucket?endpoint=http://127.0.0.1:{port}&allow_http=true"), "Connection refused");
    cloud.place.env = env(ACCESS_KEY_ID, "wr0ng/secret+of/the+tests");
    check(&cloud, &url, "SignatureDoesNotMatch");
    assert!(!cloud.once_at(&url, &[]).err.contains("wr0ng"));
    cloud.place.env = vec![("AWS_PROFILE".into(), "work".into())];
    check(&cloud, &url, "no credentials");
    check(&cloud, &url, "aws configure export-credentials --profile work");
}

#[test]
fn the_loop_says_once_that_the_store_is_down_and_once_that_it_is_back() {
    let cloud = Cloud::new(10);
    cloud.server.fail_from(1, Fault::answer(403, "AccessDenied"));
    let running = cloud.start(&["--interval", "100ms"]);
    // Three cycles at the least: no cycle asks more than the ten.
    cloud.wait_for_requests(31);
    cloud.server.heal();
    assert!(eventually(Duration::from_secs(20), || cloud.server.objects("bucket").len() == 10));
    // It is recorded and told after that.
    assert!(eventually(Duration::from_secs(20), || recorded(&cloud) == 10));
    let ran = running.stop().expect_code(0);
    assert_no_secrets(&ran);
    let lines = |part: &str| ran.err.lines().filter(|line| line.contains(part)).count();
    assert_eq!((lines("trying again each cycle"), lines("is back after")), (1, 1), "{}", ran.err);
    // And one of the cycle in whose middle it was healed, if there was such a one.
    assert!((1..=2).contains(&lines("store-refused=")), "one line for many cycles: {}", ran.err);
    let named = ran.err.lines().filter(|line| line.contains("ERROR") && line.contains("db=")).count();
    assert_eq!(named, 0, "it is the store's failure, not theirs: {}", ran.err);
    assert_eq!(cloud.stored(), 10);
}

/// Databases that the state says are stored.
fn recorded(cloud: &Cloud) -> i64 {
    let state = rusqlite::Connection::open(cloud.place.state_db()).unwrap();
    state.query_row("SELECT count(*) FROM databases WHERE key_ms IS NOT NULL", [], |r| r.get(0)).unwrap_or(0)
}

#[test]
fn storage_class_and_kms_key_go_with_each_object() {
    let cloud = Cloud::new(3);
    cloud.place.make_random("large.db", 30 << 20);
    let kms = "arn:aws:kms:eu-west-1:111122223333:key/abc";
    // The server knows neither: what matters is that they arrive.
    cloud.server.fail_from(1, Fault::answer(400, "InvalidStorageClass"));
    cloud.once(&["--storage-class", "GLACIER_IR", "--sse-kms-key-id", kms, "--memory-limit", "64MiB"]).expect_code(1);
    for (method, n) in [("PUT", 3), ("POST", 1)] {
        let values = |header| cloud.server.headers(method, header);
        assert_eq!(values("x-amz-storage-class"), vec![Some("GLACIER_IR".to_owned()); n], "{method}");
        assert_eq!(values("x-amz-server-side-encryption"), vec![Some("aws:kms".to_owned()); n], "{method}");
        assert_eq!(values("x-amz-server-side-encryption-aws-kms-key-id"), vec![Some(kms.to_owned()); n], "{method}");
    }
    assert!(cloud.server.headers("PUT", "if-none-match").iter().all(|v| v.as_deref() == Some("*")));
}

#[test]
fn an_interrupted_run_says_so_and_keeps_what_was_confirmed() {
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let cloud = Cloud::new(60);
        cloud.server.fail_from(1, Fault::Delay(Duration::from_millis(150)));
        let running = cloud.start(&["--once", "--concurrency", "4"]);
        cloud.wait_for_requests(9);
        running.signal(signal);
        let ran = running.wait(Duration::from_secs(10)).expect_code(code);
        assert!(reason(&ran).contains("interrupted"), "{ran:?}");
        let stored = ran.count("stored");
        assert!((4..60).contains(&stored), "{ran:?}");
        assert_eq!((cloud.stored() as u64, recorded(&cloud).cast_unsigned()), (stored, stored), "{ran:?}");
        cloud.server.heal();
        assert_eq!(cloud.once(&[]).expect_code(0).count("stored"), 60 - stored);
        assert_eq!(cloud.stored(), 60, "none is stored twice");
    }
}

#[test]
fn a_loop_asked_to_stop_ends_in_time_with_a_server_that_does_not_answer() {
    let cloud = Cloud::new(30);
    cloud.place.make_random("large.db", 20 << 20);
    cloud.server.fail_from(1, Fault::Hang);
    let running = cloud.start(&["--memory-limit", "32MiB", "--concurrency", "10"]);
    cloud.wait_for_requests(10);
    let asked = Instant::now();
    let ran = running.stop().expect_code(0);
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}: {ran:?}", asked.elapsed());
    assert_eq!(recorded(&cloud), 0);
}

#[test]
fn a_second_signal_ends_at_once() {
    let cloud = Cloud::new(5);
    cloud.server.fail_from(1, Fault::Hang);
    let running = cloud.start(&[]);
    cloud.wait_for_requests(5);
    running.signal(Signal::SIGTERM);
    std::thread::park_timeout(Duration::from_millis(300));
    let asked = Instant::now();
    running.signal(Signal::SIGTERM);
    running.wait(Duration::from_secs(5)).expect_code(143);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}

/// T52: a signal that comes while the last object is confirmed.
#[test]
fn a_signal_at_the_very_end_claims_nothing_that_is_not_stored() {
    let cloud = Cloud::new(3);
    cloud.server.fail_from(1, Fault::Delay(Duration::from_millis(500)));
    let running = cloud.start(&["--once"]);
    cloud.wait_for_requests(3);
    running.signal(Signal::SIGTERM);
    let ran = running.wait(Duration::from_secs(10));
    assert!(matches!(ran.code, Some(0 | 143)), "{ran:?}");
    assert_eq!((ran.count("stored"), recorded(&cloud), cloud.stored()), (3, 3, 3), "in flight is finished: {ran:?}");
    cloud.server.heal();
    assert_eq!(cloud.once(&[]).expect_code(0).count("stored"), 0);
}

/// T35: the binary aborts what it cannot finish.
#[test]
fn a_signal_in_mid_upload_of_a_large_database_aborts_it() {
    let cloud = Cloud::new(0);
    cloud.place.make_random("large.db", 40 << 20);
    cloud.server.fail_from(3, Fault::Delay(Duration::from_millis(700)));
    let running = cloud.start(&["--once", "--memory-limit", "32MiB"]);
    cloud.wait_for_requests(3);
    running.signal(Signal::SIGTERM);
    running.wait(Duration::from_secs(10)).expect_code(143);
    let aborts = cloud.server.log().iter().filter(|(m, path)| m == "DELETE" && path.contains("uploadId=")).count();
    assert_eq!(aborts, 1, "{:?}", cloud.server.log());
    assert_eq!(cloud.stored(), 0);
    cloud.server.heal();
    assert_eq!(cloud.once(&[]).expect_code(0).count("stored"), 1);
    assert_eq!(cloud.stored(), 1);
}
