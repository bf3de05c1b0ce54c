//! From an S3 server: what is asked of it, and what comes of its failures.

use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use rusqlite::Connection;

use crate::place::{Place, Ran, Running, eventually, rows};
use crate::s3_server::{Fault, S3Server};

/// A place whose databases are stored on a server of its own.
pub(super) struct Cloud {
    pub(super) place: Place,
    pub(super) server: S3Server,
}

impl Cloud {
    pub(super) fn stored(n: usize) -> Self {
        let server = S3Server::start();
        let mut place = Place::new();
        place.env = server.env();
        for n in 0..n {
            place.make(&format!("{n}.db"), "wal", 5);
        }
        let cloud = Self { place, server };
        let args = ["replicate", "data/**/*.db", "--store", &cloud.url(), "--state-dir", "state", "--once"];
        cloud.place.run(&args).expect_code(0);
        cloud.server.forget();
        cloud
    }

    pub(super) fn url(&self) -> String {
        self.server.url("bucket", "p")
    }

    fn command(&self, more: &[&str]) -> Command {
        self.place.litesnap(&[&["restore", "--store", &self.url()], more].concat())
    }

    fn restore(&self, more: &[&str]) -> Ran {
        let ran: Ran = self.command(more).output().unwrap().into();
        assert!(!ran.err.contains("Signature="), "{ran:?}");
        ran
    }

    fn name(&self, name: &str) -> String {
        self.place.data().join(name).display().to_string()
    }
}

#[test]
fn one_named_database_is_one_list_and_one_get() {
    let cloud = Cloud::stored(30);
    let ran = cloud.restore(&["--match", &cloud.name("7.db"), "-o", "t.db"]).expect_code(0);
    assert_eq!(ran.count("requests"), 2);
    let log = cloud.server.log();
    assert_eq!(log.len(), 2, "{log:?}");
    assert!(log.iter().all(|(method, _)| method == "GET"), "no HEAD: {log:?}");
    assert_eq!(rows(&Connection::open(cloud.place.path().join("t.db")).unwrap()).len(), 5);
}

#[test]
fn all_are_one_get_each() {
    let cloud = Cloud::stored(30);
    let ran = cloud.restore(&["--into", "back"]).expect_code(0);
    assert_eq!((ran.count("restored"), ran.count("gets"), ran.count("lists")), (30, 30, 1));
    assert_eq!(cloud.server.log().len(), 31);
}

#[test]
fn names_that_urls_change_come_back() {
    let server = S3Server::start();
    let mut place = Place::new();
    place.env = server.env();
    // Not `+` and `%`, which the server under this one changes in its listings.
    for name in ["a b.db", "ä/日本.db", "q!x=1.db", "~/'.db"] {
        place.make(name, "delete", 2);
    }
    let url = server.url("bucket", "p");
    place.run(&["replicate", "data/**/*.db", "--store", &url, "--state-dir", "state", "--once"]).expect_code(0);
    let escaped = ["a b.db"];
    let ran = place.run(&["restore", "--store", &url, "--into", "back"]);
    // The server decodes what it lists: a name with an escape is found under another.
    assert!(ran.count("restored") + escaped.len() as u64 >= 4, "{ran:#?}");
}

#[test]
fn passing_failures_are_ridden_out() {
    for fault in [Fault::answer(503, "SlowDown"), Fault::DropBefore, Fault::DropAfter] {
        let cloud = Cloud::stored(6);
        cloud.server.fail_nth(1, fault.clone());
        cloud.server.fail_nth(4, fault.clone());
        let ran = cloud.restore(&["--into", "back"]).expect_code(0);
        assert_eq!(ran.count("restored"), 6, "{fault:?}");
    }
}

#[test]
fn lasting_failures_end_with_3_and_nothing_half() {
    for (first, fault) in [(1, Fault::answer(403, "AccessDenied")), (3, Fault::answer(403, "AccessDenied"))] {
        let cloud = Cloud::stored(6);
        cloud.server.fail_from(first, fault);
        let ran = cloud.restore(&["--into", "back", "--concurrency", "1"]).expect_code(if first == 1 { 3 } else { 1 });
        if first == 1 {
            assert!(ran.err.contains("cannot list") && ran.err.contains("AccessDenied"), "{ran:#?}");
        } else {
            assert_eq!((ran.count("restored"), ran.count("failed")), (1, 5), "{ran:#?}");
            assert_eq!(ran.out.matches("store-refused: ").count(), 5, "each is named: {ran:#?}");
        }
    }
    let cloud = Cloud::stored(20);
    cloud.server.fail_from(2, Fault::answer(403, "AccessDenied"));
    let ran = cloud.restore(&["--into", "back", "--concurrency", "1"]).expect_code(3);
    assert!(ran.count("untried") > 0 && cloud.server.log().len() < 15, "it does not ask for ever: {ran:#?}");
}

#[test]
fn a_copy_of_a_store_under_another_prefix_is_told_and_restored() {
    let cloud = Cloud::stored(3);
    let copy = cloud.place.path().join("copy");
    for (key, bytes) in cloud.server.objects("bucket") {
        let path = copy.join(key.strip_prefix("p/").unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let refused = cloud.place.run(&["restore", "--store", "copy", "--into", "back"]).expect_code(1);
    assert_eq!(refused.count("wrong-key"), 3);
    assert!(refused.out.contains("--moved-from"), "{refused:#?}");
    let ran = cloud.place.run(&["restore", "--store", "copy", "--into", "back", "--moved-from", "p"]).expect_code(0);
    assert_eq!(ran.count("restored"), 3);
}

#[test]
fn a_stop_does_not_wait_for_a_server_that_hangs() {
    for target in
        [&["--into", "back"][..], &["--in-place"], &["--in-place", "--dry-run"], &["-o", "-", "--match", "0.db"]]
    {
        let cloud = Cloud::stored(3);
        cloud.server.fail_from(2, Fault::Hang);
        let running = Running::start(cloud.command(target));
        assert!(eventually(Duration::from_secs(20), || cloud.server.log().len() >= 2));
        running.signal(Signal::SIGINT);
        let ran = running.wait(Duration::from_secs(30));
        assert_eq!(ran.code, Some(130), "{target:?}: {ran:#?}");
        assert!(!ran.out.contains("untried: "), "a stop is no failure of a database: {ran:#?}");
        assert!(!cloud.place.path().join("back").join(cloud.name("0.db").trim_start_matches('/')).exists());
    }
}
