use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::monitor::Totals;
use crate::snapshot::Reads;
use crate::store::RequestCounts;
use crate::timestamp::Timestamp;
use crate::upkeep::LastRun;

fn failed_run() -> LastRun {
    LastRun { at: Timestamp::from_ms(1_000).unwrap(), exit_code: 3, result: "z".repeat(10_000) }
}

/// A loop for which everything is as large as it can be, and fails in every way.
fn worst() -> Vitals {
    let many: BTreeMap<&'static str, u64> = Reason::ALL.iter().map(|reason| (reason.word(), u64::MAX)).collect();
    let long = Duration::from_secs(u64::from(u32::MAX)) + Duration::from_nanos(123_456_789);
    let ages: Ages = [0, 0, 100, 400, 1000, 2000, 9000, 50_000, 90_000, 700_000, i64::MAX].into_iter().collect();
    Vitals {
        host: "h".repeat(255),
        store: "s3://bucket/prefix".into(),
        version: "1000.1000.1000",
        now_ms: i64::MAX,
        started_ms: i64::MAX / 2,
        interval: long,
        max_unprotected: Some(long),
        totals: Totals {
            cycles: u64::MAX,
            stored: u64::MAX,
            bytes: u64::MAX,
            read_bytes: u64::MAX,
            reads: Reads {
                direct: u64::MAX,
                through_sqlite: u64::MAX,
                doubts: Doubt::ALL.map(|d| (d, u64::MAX)).into(),
            },
            failures: many.clone(),
            phases: Phases { scan: long, work: long, record: long },
            busy: long,
            ..Totals::default()
        },
        last: Some(CycleNote { databases: u64::MAX, error: Some("x".repeat(10_000)), ..CycleNote::default() }),
        failing: many,
        running_since_ms: Some(1),
        known_as_of_ms: None,
        last_success_ms: Some(1),
        backlog: ages.clone(),
        snapshots: ages,
        requests: RequestCounts::default(),
        state_bytes: usize::MAX,
        upkeep: crate::upkeep::TASKS.map(|task| (task, failed_run())).into(),
        complaints: vec!["y".repeat(10_000)],
        is_ready: true,
    }
}

/// A loop that was just opened.
fn newborn() -> Vitals {
    Vitals {
        totals: Totals::default(),
        last: None,
        failing: BTreeMap::new(),
        running_since_ms: None,
        last_success_ms: None,
        backlog: Ages::default(),
        snapshots: Ages::default(),
        upkeep: BTreeMap::new(),
        complaints: Vec::new(),
        max_unprotected: None,
        is_ready: false,
        ..worst()
    }
}

/// Names and labels, without values.
fn series(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap().0).collect()
}

#[test]
fn the_series_are_the_same_whatever_happens_and_each_is_there_once() {
    let (worst, newborn) = (text(&worst(), u64::MAX), text(&newborn(), 0));
    let all = series(&worst);
    assert_eq!(all, series(&newborn));
    let mut once = all.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), all.len());
    for reason in Reason::ALL {
        let label = format!("litesnap_failures_total{{reason=\"{}\"}}", reason.word());
        assert!(all.contains(&label.as_str()), "{label}");
    }
    assert!(worst.contains("litesnap_upkeep_last_run_failed{task=\"prune\"} 1\n"), "{worst}");
    assert!(newborn.contains("litesnap_upkeep_last_run_failed{task=\"prune\"} 0\n"), "{newborn}");
    for (verb, answer) in Verb::ALL.iter().flat_map(|verb| Answer::ALL.map(|answer| (verb.word(), answer.word()))) {
        let label = format!("litesnap_requests_total{{verb=\"{verb}\",answer=\"{answer}\"}}");
        assert!(all.contains(&label.as_str()), "{label}");
    }
}

#[test]
fn the_largest_text_is_far_below_64_kb() {
    let text = text(&worst(), u64::MAX);
    assert!(text.len() < 32 << 10, "{} bytes", text.len());
}

#[test]
fn every_family_has_help_and_type_and_a_base_unit() {
    let text = text(&newborn(), 0);
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(name.starts_with("litesnap_"), "{name}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        assert!(!name.contains("_ms") && !name.contains("_kb"), "{name}");
    }
}

#[test]
fn buckets_are_cumulative_and_end_with_all() {
    let text = text(&worst(), 0);
    let values = text.lines().filter_map(|line| line.strip_prefix("litesnap_backlog_age_seconds_bucket"));
    let values: Vec<u64> = values.map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect();
    assert_eq!(values, [2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    assert!(text.contains("litesnap_backlog_age_seconds_count 11\n"));
    assert!(text.contains("litesnap_backlog_age_seconds_bucket{le=\"+Inf\"} 11\n"));
}
