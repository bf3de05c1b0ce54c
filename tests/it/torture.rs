//! Torture: foreign applications commit in every way there is and are killed, litesnap runs beside them in every way there is
//! and is killed; then each snapshot stored is brought back and must be a commit, no older than when it was taken, and
//! each database's last commit must be in each store.
//!
//! A round: churn for a while; then the applications come to rest, and litesnap is killed a few times more while it stores what they
//! committed last. Then nobody is killed and no store harmed any more. The summary that a
//! replica writes next may be of a cycle that began before, and does not count; by the end of the two cycles after that one
//! the last commit of every database is in its store. One that is not, and that litesnap named as failed in these
//! cycles, is late and not lost, if it is there [`LATE_MAX`] cycles later: counted, and in the report.

#![allow(clippy::print_stdout, reason = "a run of hours tells how far it is, and ends with its report")]

mod checkers; // snapshots brought back, and foreign SQLites that look at them
mod fleet; // everything that runs: applications, replicas, stores; churn and rest
mod history; // what was committed, and so what a snapshot may hold
mod plan; // which databases there are, and who writes them how
mod random; // choices that a seed repeats
mod replicas; // litesnap, as a binary and as a library
mod report; // the report
mod rounds; // what must hold after each round
mod stores; // the stores, looked into from outside
mod writers; // the applications' processes

use std::path::PathBuf;
use std::time::{Duration, Instant};

use litesnap::clock::{Clock, SECOND, SystemClock};

use random::Random;

/// Cycles after the two within which a database that was named as failed must be stored all the same.
const LATE_MAX: u64 = 20;

/// How the replicas read databases at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Fast,
    Sqlite,
    Mixed,
}

impl Reading {
    /// Whether a replica that is about to start reads all databases through SQLite.
    fn always_sqlite(self, random: &mut Random) -> bool {
        match self {
            Self::Fast => false,
            Self::Sqlite => true,
            Self::Mixed => random.one_in(2),
        }
    }
}

#[derive(Debug, Clone)]
struct Settings {
    seed: u64,
    reading: Reading,
    /// Rounds end after this time.
    time: Duration,
    churn: (Duration, Duration),
    /// Times the smallest fleet.
    scale: usize,
    report: Option<PathBuf>,
}

impl Settings {
    /// `LITESNAP_TEST_SEED` repeats the choices of a run, not its timing.
    fn seed() -> u64 {
        let now = u64::try_from(SystemClock.now() / SECOND).unwrap();
        std::env::var("LITESNAP_TEST_SEED").map_or(now, |seed| seed.parse().expect("LITESNAP_TEST_SEED is a number"))
    }
}

fn run(settings: Settings) {
    println!("LITESNAP_TEST_SEED={}", settings.seed);
    let started = Instant::now();
    let mut rounds = rounds::Rounds::start(settings.clone());
    while started.elapsed() < settings.time && rounds.found_nothing() {
        rounds.run();
    }
    let report = rounds.end(started.elapsed());
    println!("{report}");
    if let Some(path) = &settings.report {
        std::fs::write(path, report.to_string()).unwrap();
    }
    assert!(
        report.violations.is_empty(),
        "{} violations; evidence in {}",
        report.violations.len(),
        report.evidence.display()
    );
}

/// What CI has time for.
#[test]
fn for_half_a_minute() {
    run(Settings {
        seed: Settings::seed(),
        reading: Reading::Mixed,
        time: Duration::from_secs(20),
        churn: (Duration::from_secs(8), Duration::from_secs(10)),
        scale: 1,
        report: None,
    });
}

/// The same for hours.
#[test]
#[ignore = "hours: scripts/torture runs it"]
fn for_hours() {
    let var = |name: &str| std::env::var(name).ok();
    let minutes: f64 = var("TORTURE_MINUTES").map_or(30.0, |text| text.parse().expect("TORTURE_MINUTES is a number"));
    let reading = match var("TORTURE_READING").as_deref() {
        None | Some("mixed") => Reading::Mixed,
        Some("fast") => Reading::Fast,
        Some("sqlite") => Reading::Sqlite,
        Some(other) => panic!("TORTURE_READING is fast, sqlite or mixed, not {other:?}"),
    };
    run(Settings {
        seed: Settings::seed(),
        reading,
        time: Duration::from_secs_f64(60.0 * minutes),
        churn: (Duration::from_secs(20), Duration::from_secs(40)),
        scale: var("TORTURE_SCALE").map_or(3, |text| text.parse().expect("TORTURE_SCALE is a number")),
        report: var("TORTURE_REPORT").map(PathBuf::from),
    });
}
