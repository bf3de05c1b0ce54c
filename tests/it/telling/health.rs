//! What turns health red, what turns it back, and what does not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use litesnap::clock::{Clock, FixedClock, SECOND, SystemClock};
use litesnap::config::{Config, parse_patterns};
use litesnap::control::Control;
use litesnap::cycle::Silent;
use litesnap::replicate::Replicator;
use litesnap::store::StoreOptions;

use super::{LONG, Loop, commit};
use crate::place::{Place, eventually};
use crate::s3_server::{Fault, S3Server};

/// A loop into an S3 server.
struct Cloud {
    server: S3Server,
    place: Place,
}

impl Cloud {
    fn new(databases: usize) -> Self {
        let server = S3Server::start();
        let mut place = Place::new();
        place.env = server.env();
        for n in 0..databases {
            place.make(&format!("{n}.db"), "delete", 2);
        }
        Self { server, place }
    }

    fn start(&self, interval: &str, more: &[&str]) -> Loop {
        let url = self.server.url("bucket", "p");
        let args = ["replicate", "data/**/*.db", "--store", &url, "--state-dir", "state", "--interval", interval];
        let mut command = self.place.litesnap(&args);
        command.args(["--listen", "0"]).args(more);
        Loop::start(&self.place, command)
    }
}

fn failed_cycles(running: &Loop) -> f64 {
    running.metric("litesnap_cycles_total{result=\"failed\"}")
}

#[test]
fn credentials_that_break_turn_it_red_within_three_intervals_and_it_turns_back() {
    let cloud = Cloud::new(3);
    let running = cloud.start("1s", &[]);
    assert!(eventually(LONG, || running.get("/readyz").status == 200), "{}", running.log());
    cloud.server.fail_from(1, Fault::answer(403, "AccessDenied"));
    let broken = Instant::now();
    commit(&cloud.place, "0.db");
    let turned = eventually(LONG, || {
        // The fourth failed cycle began three intervals after the first, which was after the last success.
        let is_due = failed_cycles(&running) >= 4.0;
        let health = running.get("/healthz");
        assert!(!is_due || health.status == 503, "{health:?} after three intervals");
        health.status == 503
    });
    assert!(turned, "{}", running.log());
    let red = running.get("/healthz").expect(503);
    assert!(red.body.contains("no cycle has succeeded for") && red.body.contains("store-refused"), "{red:?}");
    assert_eq!(red.body.lines().count(), 1);
    running.get("/readyz").expect(503);
    assert_eq!(running.metric("litesnap_healthy"), 0.0);
    assert!(running.metric("litesnap_failing_databases{reason=\"store-refused\"}") >= 1.0);
    assert!(running.metric("litesnap_requests_total{verb=\"put\",answer=\"refused\"}") >= 1.0);
    let times = 1 + usize::try_from(broken.elapsed().as_secs()).unwrap() / 30;
    assert!((1..=times).contains(&running.said("trying again each cycle")), "{}", running.log());

    cloud.server.heal();
    assert!(eventually(LONG, || running.get("/healthz").status == 200), "{}", running.log());
    assert!(eventually(LONG, || running.said("is back after") == 1), "{}", running.log());
    // The next cycle may be looking once more at one whose stamps were young.
    let waits = || running.metric("litesnap_oldest_unprotected_change_seconds");
    assert!(eventually(LONG, || waits() == 0.0), "{} s: {}", waits(), running.log());
    running.get("/readyz").expect(200);
}

#[test]
fn a_change_that_waits_too_long_is_red_though_cycles_succeed() {
    let place = Place::new();
    place.make("a.db", "delete", 2);
    let running = Loop::over(&place, "1s", &["--cooldown", "1h", "--max-unprotected", "2s"]);
    assert!(eventually(LONG, || running.get("/readyz").status == 200));
    commit(&place, "a.db");
    assert!(eventually(LONG, || running.get("/healthz").status == 503), "{}", running.get("/stats").body);
    let red = running.get("/healthz").expect(503);
    assert!(red.body.contains("a change has not been stored for"), "{red:?}");
    assert_eq!(failed_cycles(&running), 0.0);
    assert!(running.metric("litesnap_oldest_unprotected_change_seconds") > 2.0);
    assert_eq!(running.metric("litesnap_backlog_age_seconds_count"), 1.0);
    // A cycle asked for pays no regard to cooldowns.
    running.signal(nix::sys::signal::Signal::SIGUSR1);
    assert!(eventually(LONG, || running.get("/healthz").status == 200), "{}", running.log());
}

#[test]
fn a_long_first_cycle_that_gets_on_is_healthy_and_not_ready() {
    let cloud = Cloud::new(30);
    cloud.server.fail_from(1, Fault::Delay(Duration::from_millis(500)));
    let running = cloud.start("2s", &["--concurrency", "1"]);
    let mut seen_running = 0.0_f64;
    let done = eventually(LONG, || {
        let health = running.get("/healthz");
        assert_eq!(health.status, 200, "{health:?}");
        seen_running = seen_running.max(running.metric("litesnap_cycle_running_seconds"));
        let ready = running.get("/readyz");
        assert!(ready.status == 200 || ready.body == "no cycle has succeeded since the start\n", "{ready:?}");
        ready.status == 200
    });
    assert!(done, "{}", running.log());
    assert!(seen_running > 6.0, "the cycle took longer than three intervals: {seen_running} s");
}

#[test]
fn while_a_cycle_hangs_everything_is_answered_and_health_turns() {
    let cloud = Cloud::new(3);
    cloud.server.fail_from(1, Fault::Hang);
    let running = cloud.start("1s", &[]);
    assert!(eventually(LONG, || cloud.server.count("PUT") >= 3));
    assert!(eventually(LONG, || running.get("/healthz").status == 503), "{}", running.log());
    assert!(running.metric("litesnap_cycle_running_seconds") > 0.0, "it hangs still");
    assert_eq!(running.metric("litesnap_cycles_total{result=\"succeeded\"}"), 0.0);
    let stats: serde_json::Value = serde_json::from_str(&running.get("/stats").expect(200).body).unwrap();
    assert!(stats["cycle_running_since"].is_string() && stats["last_cycle"].is_null(), "{stats:#}");
    assert_eq!(stats["backlog"]["count"], 3);
}

/// The library's loop over the databases of `place`, and what controls it.
pub(super) fn library(place: &Place, options: StoreOptions, env: &[(String, String)]) -> (Replicator, Arc<Control>) {
    let control = Arc::new(Control::default());
    let config = Config {
        patterns: parse_patterns(&["data/*.db"], place.path()).unwrap(),
        host: "host".into(),
        state_dir: place.state(),
        interval: Duration::from_millis(1),
        ..Config::new(options)
    };
    let clock: Arc<dyn Clock> = Arc::new(FixedClock::new(SystemClock.now() + 3600 * SECOND));
    let replicator = Replicator::open(config, env, clock, Arc::clone(&control), Arc::new(Silent)).unwrap();
    (replicator, control)
}

#[test]
fn a_scan_alone_is_progress() {
    let place = Place::new();
    place.make("a.db", "delete", 2);
    let (mut replicator, control) = library(&place, StoreOptions::new("memory://"), &[]);
    assert_eq!(replicator.run_cycle(false).stored, 1);
    let before = control.progress();
    assert!(eventually(LONG, || before.elapsed() > Duration::from_millis(5)));
    assert_eq!(replicator.run_cycle(false).changed, 0, "only the scan happens");
    assert!(control.progress() > before);
}

#[test]
fn where_no_database_is_found_nothing_is_fresh() {
    let place = Place::new();
    let (mut replicator, _) = library(&place, StoreOptions::new("memory://"), &[]);
    replicator.run_cycle(false);
    let vitals = replicator.monitor().vitals();
    assert!(vitals.is_healthy() && !vitals.is_fresh(), "{vitals:?}");
    place.make("a.db", "delete", 2);
    replicator.run_cycle(false);
    assert!(replicator.monitor().vitals().is_fresh());
}

/// Cycles succeed and nothing is known to wait, because nothing can be seen.
#[test]
fn a_fleet_that_cannot_be_seen_is_red_before_long_and_no_reason_to_restart() {
    let place = Place::new();
    place.make("a.db", "delete", 2);
    let running = Loop::over(&place, "200ms", &["--max-unprotected", "1s"]);
    assert!(eventually(LONG, || running.get("/readyz").status == 200));
    let away = place.path().join("away");
    std::fs::rename(place.data(), &away).unwrap();
    assert!(eventually(LONG, || running.get("/healthz").status == 503), "{}", running.get("/stats").body);
    let red = running.get("/healthz").expect(503);
    assert!(red.body.contains("it has not been known what changed"), "{red:?}");
    assert_eq!(failed_cycles(&running), 0.0);
    assert_eq!(running.get("/livez").status, 200);
    std::fs::rename(&away, place.data()).unwrap();
    assert!(eventually(LONG, || running.get("/healthz").status == 200), "{}", running.log());
}
