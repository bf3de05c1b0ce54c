//! `/stats`: everything as one JSON object. Fields are added, never renamed.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::backlog::{AGES_S, Ages};
use crate::monitor::Vitals;
use crate::state::CycleNote;
use crate::store::{Answer, RequestCounts, Verb};
use crate::timestamp::Timestamp;
use crate::upkeep::LastRun;

/// The object for `vitals`, and a newline.
pub(super) fn json(vitals: &Vitals, resident_bytes: u64) -> String {
    let stats = Stats::new(vitals, resident_bytes);
    serde_json::to_string_pretty(&stats).expect("stats have only text and numbers") + "\n"
}

#[derive(Serialize)]
struct Stats<'a> {
    // What such a tool has always told.
    databases: u64,
    changed_last_cycle: u64,
    uploads_success: u64,
    uploads_failed: u64,
    bytes_uploaded: u64,
    last_scan: Option<Timestamp>,
    // How it fares.
    healthy: bool,
    ready: bool,
    complaints: &'a [String],
    last_success: Option<Timestamp>,
    cycle_running_since: Option<Timestamp>,
    backlog: AgesOut,
    snapshots: AgesOut,
    failing: &'a BTreeMap<&'static str, u64>,
    last_cycle: Option<&'a CycleNote>,
    upkeep: &'a BTreeMap<&'static str, LastRun>,
    // Since the start.
    totals: TotalsOut<'a>,
    requests: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    credential_requests: u64,
    // Who tells it.
    version: &'static str,
    host: &'a str,
    store: &'a str,
    now: Option<Timestamp>,
    started: Option<Timestamp>,
    interval_s: f64,
    max_unprotected_s: Option<f64>,
    state_bytes: usize,
    resident_bytes: u64,
}

#[derive(Serialize)]
struct AgesOut {
    count: u64,
    oldest_s: i64,
    /// How many are at most this old, in seconds.
    at_most_s: BTreeMap<i64, u64>,
}

#[derive(Serialize)]
struct TotalsOut<'a> {
    cycles: u64,
    cycles_failed: u64,
    cycle_seconds: f64,
    scan_seconds: f64,
    work_seconds: f64,
    record_seconds: f64,
    unchanged_content: u64,
    read_bytes: u64,
    direct: u64,
    through_sqlite: u64,
    doubts: BTreeMap<&'static str, u64>,
    failures: &'a BTreeMap<&'static str, u64>,
}

impl<'a> Stats<'a> {
    fn new(vitals: &'a Vitals, resident_bytes: u64) -> Self {
        let last = vitals.last.as_ref();
        Self {
            databases: last.map_or(0, |last| last.databases),
            changed_last_cycle: last.map_or(0, |last| last.changed),
            uploads_success: vitals.totals.stored,
            uploads_failed: vitals.totals.uploads_failed,
            bytes_uploaded: vitals.totals.bytes,
            last_scan: last.and_then(|last| Timestamp::from_ms(last.started_ms)),
            healthy: vitals.is_healthy(),
            ready: vitals.is_ready,
            complaints: &vitals.complaints,
            last_success: vitals.last_success_ms.and_then(Timestamp::from_ms),
            cycle_running_since: vitals.running_since_ms.and_then(Timestamp::from_ms),
            backlog: ages(&vitals.backlog),
            snapshots: ages(&vitals.snapshots),
            failing: &vitals.failing,
            last_cycle: last,
            upkeep: &vitals.upkeep,
            totals: totals(vitals),
            requests: requests(&vitals.requests),
            credential_requests: vitals.requests.credentials(),
            version: vitals.version,
            host: &vitals.host,
            store: &vitals.store,
            now: Timestamp::from_ms(vitals.now_ms),
            started: Timestamp::from_ms(vitals.started_ms),
            interval_s: vitals.interval.as_secs_f64(),
            max_unprotected_s: vitals.max_unprotected.map(|max| max.as_secs_f64()),
            state_bytes: vitals.state_bytes,
            resident_bytes,
        }
    }
}

fn totals(vitals: &Vitals) -> TotalsOut<'_> {
    let totals = &vitals.totals;
    TotalsOut {
        cycles: totals.cycles,
        cycles_failed: totals.cycles_failed,
        cycle_seconds: totals.busy.as_secs_f64(),
        scan_seconds: totals.phases.scan.as_secs_f64(),
        work_seconds: totals.phases.work.as_secs_f64(),
        record_seconds: totals.phases.record.as_secs_f64(),
        unchanged_content: totals.unchanged_content,
        read_bytes: totals.read_bytes,
        direct: totals.reads.direct,
        through_sqlite: totals.reads.through_sqlite,
        doubts: totals.reads.doubts.iter().map(|(doubt, n)| (doubt.word(), *n)).collect(),
        failures: &totals.failures,
    }
}

fn ages(ages: &Ages) -> AgesOut {
    let at_most_s = AGES_S.into_iter().zip(ages.cumulative()).collect();
    AgesOut { count: ages.count, oldest_s: ages.oldest_s, at_most_s }
}

fn requests(counts: &RequestCounts) -> BTreeMap<&'static str, BTreeMap<&'static str, u64>> {
    let by_answer = |verb| Answer::ALL.into_iter().map(|answer| (answer.word(), counts.get(verb, answer))).collect();
    Verb::ALL.into_iter().map(|verb| (verb.word(), by_answer(verb))).collect()
}
