//! What a loop has done and how it fares, as Prometheus reads it: text format 0.0.4.
//!
//! The set of series is the same for three databases and for three million, and the same in the first second as after a
//! year: every reason, verb, answer, phase and age class is there also when it is 0, so that a rule never compares with
//! nothing. Names begin with `litesnap_`, times are seconds, sizes bytes. What is told here is [`Vitals`]; nothing is kept.
//!
//! Written by hand: `prometheus-client` writes OpenMetrics only, in which a counter's `HELP` and `TYPE` name another metric than
//! its samples; `promtool check metrics` refuses that, and scrapers that ask for the old format are to get what they know.

mod text;

use crate::backlog::Ages;
use crate::error::Reason;
use crate::monitor::Vitals;
use crate::report::Phases;
use crate::snapshot::Doubt;
use crate::state::CycleNote;
use crate::store::{Answer, Verb};
use text::{Kind, Text};

/// What the text is, for the header of the answer.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text for `vitals`; `resident_bytes` is the memory that the process takes.
#[must_use]
pub fn text(vitals: &Vitals, resident_bytes: u64) -> String {
    let mut text = Text::default();
    process(&mut text, vitals, resident_bytes);
    health(&mut text, vitals);
    ages(
        &mut text,
        "litesnap_backlog_age_seconds",
        "Changes that are not stored, by how long they wait now.",
        &vitals.backlog,
    );
    ages(
        &mut text,
        "litesnap_snapshot_age_seconds",
        "Databases by the age of their last snapshot, at the end of the last cycle.",
        &vitals.snapshots,
    );
    last_cycle(&mut text, &vitals.last.clone().unwrap_or_default());
    last_failures(&mut text, vitals);
    cycles(&mut text, vitals);
    work(&mut text, vitals);
    failures(&mut text, vitals);
    requests(&mut text, vitals);
    upkeep(&mut text, vitals);
    text.into_string()
}

fn process(text: &mut Text, vitals: &Vitals, resident_bytes: u64) {
    text.family("litesnap_build_info", Kind::Gauge, "Always 1; the version is in the label.");
    text.sample(&[("version", vitals.version)], 1);
    text.gauge("litesnap_start_time_seconds", "When the process began, since 1970.", seconds(vitals.started_ms));
    text.gauge("litesnap_resident_memory_bytes", "Memory that the process takes.", resident_bytes);
    text.gauge("litesnap_state_bytes", "Memory that is remembered of databases.", vitals.state_bytes);
    text.gauge("litesnap_interval_seconds", "From the start of one cycle to the next.", vitals.interval.as_secs_f64());
    let max = vitals.max_unprotected.map_or(0.0, |max| max.as_secs_f64());
    text.gauge(
        "litesnap_max_unprotected_seconds",
        "A change that waits for longer makes unhealthy; 0 for no limit.",
        max,
    );
}

fn health(text: &mut Text, vitals: &Vitals) {
    text.gauge("litesnap_healthy", "1 while /healthz is 200.", u8::from(vitals.is_healthy()));
    text.gauge("litesnap_ready", "1 once a cycle has succeeded since the start.", u8::from(vitals.is_ready));
    let success = vitals.last_success_ms.map_or(0.0, seconds);
    text.gauge(
        "litesnap_last_success_timestamp_seconds",
        "When the last successful cycle began, since 1970; 0 for never.",
        success,
    );
    let running = vitals.running_since_ms.map_or(0.0, |since| seconds((vitals.now_ms - since).max(0)));
    text.gauge(
        "litesnap_cycle_running_seconds",
        "How long the cycle under way has taken so far; 0 between cycles.",
        running,
    );
    text.gauge(
        "litesnap_oldest_unprotected_change_seconds",
        "How long the oldest change that is not stored has waited; 0 if there is none.",
        vitals.backlog.oldest_s,
    );
    let databases = vitals.last.as_ref().map_or(0, |last| last.databases);
    text.gauge("litesnap_databases", "Databases found by the last cycle.", databases);
}

/// As a histogram of what is now: its buckets go down as well as up.
fn ages(text: &mut Text, name: &'static str, help: &str, ages: &Ages) {
    text.family(name, Kind::Histogram, help);
    for (end, n) in crate::backlog::AGES_S.iter().zip(ages.cumulative()) {
        text.part("_bucket", &[("le", &end.to_string())], n);
    }
    text.part("_bucket", &[("le", "+Inf")], ages.count);
    text.part("_sum", &[], ages.sum_s);
    text.part("_count", &[], ages.count);
}

fn last_cycle(text: &mut Text, last: &CycleNote) {
    text.gauge(
        "litesnap_last_cycle_timestamp_seconds",
        "When the last cycle began, since 1970; 0 before the first.",
        seconds(last.started_ms),
    );
    text.gauge("litesnap_last_cycle_duration_seconds", "How long the last cycle took.", seconds(last.elapsed_ms));
    text.gauge(
        "litesnap_last_cycle_succeeded",
        "1 if the store took what there was and all of it is recorded.",
        u8::from(last.succeeded),
    );
    let error = u8::from(last.error.is_some());
    text.gauge(
        "litesnap_last_cycle_error",
        "1 if something was wrong with the last cycle as a whole; /stats says what.",
        error,
    );
    text.family("litesnap_last_cycle_databases", Kind::Gauge, "Databases in the last cycle, by what became of them.");
    for (outcome, n) in [
        ("changed", last.changed),
        ("stored", last.stored),
        ("unchanged-content", last.unchanged_content),
        ("failed", last.failed),
        ("held", last.held),
        ("gone", last.gone),
        ("untried", last.untried),
    ] {
        text.sample(&[("outcome", outcome)], n);
    }
    text.gauge("litesnap_last_cycle_read_bytes", "Bytes of databases read by the last cycle.", last.read_bytes);
    text.gauge("litesnap_last_cycle_uploaded_bytes", "Bytes of objects stored by the last cycle.", last.bytes);
    text.gauge("litesnap_last_cycle_requests", "Requests that the last cycle made to the store.", last.requests);
}

fn last_failures(text: &mut Text, vitals: &Vitals) {
    text.family("litesnap_failing_databases", Kind::Gauge, "Databases that failed in the last cycle, by reason.");
    for reason in Reason::ALL {
        let n = vitals.failing.get(reason.word()).copied().unwrap_or(0);
        text.sample(&[("reason", reason.word())], n);
    }
}

fn cycles(text: &mut Text, vitals: &Vitals) {
    let totals = &vitals.totals;
    text.family("litesnap_cycles_total", Kind::Counter, "Cycles that ended, by how.");
    text.sample(&[("result", "succeeded")], totals.cycles.saturating_sub(totals.cycles_failed));
    text.sample(&[("result", "failed")], totals.cycles_failed);
    text.counter("litesnap_cycle_seconds_total", "Time in cycles that ended.", totals.busy.as_secs_f64());
    text.family("litesnap_cycle_phase_seconds_total", Kind::Counter, "Time in cycles that ended, by phase.");
    let Phases { scan, work, record } = totals.phases;
    for (phase, time) in [("scan", scan), ("work", work), ("record", record)] {
        text.sample(&[("phase", phase)], time.as_secs_f64());
    }
}

fn work(text: &mut Text, vitals: &Vitals) {
    let totals = &vitals.totals;
    text.counter("litesnap_snapshots_stored_total", "Snapshots stored and recorded.", totals.stored);
    text.counter("litesnap_uploaded_bytes_total", "Bytes of their objects.", totals.bytes);
    text.counter("litesnap_uploads_failed_total", "Uploads that failed.", totals.uploads_failed);
    text.counter(
        "litesnap_unchanged_content_total",
        "Databases read whose content was stored already.",
        totals.unchanged_content,
    );
    text.counter("litesnap_read_bytes_total", "Bytes of databases read.", totals.read_bytes);
    text.family("litesnap_reads_total", Kind::Counter, "Databases read in cycles that ended, by way.");
    text.sample(&[("way", "direct")], totals.reads.direct);
    text.sample(&[("way", "sqlite")], totals.reads.through_sqlite);
    text.family("litesnap_read_doubts_total", Kind::Counter, "Direct reads given up in favour of SQLite, by why.");
    for doubt in Doubt::ALL {
        text.sample(&[("doubt", doubt.word())], totals.reads.doubts.get(&doubt).copied().unwrap_or(0));
    }
}

fn failures(text: &mut Text, vitals: &Vitals) {
    text.family("litesnap_failures_total", Kind::Counter, "Failures in cycles that ended, by reason.");
    for reason in Reason::ALL {
        let n = vitals.totals.failures.get(reason.word()).copied().unwrap_or(0);
        text.sample(&[("reason", reason.word())], n);
    }
}

fn requests(text: &mut Text, vitals: &Vitals) {
    text.family(
        "litesnap_requests_total",
        Kind::Counter,
        "Requests of the cycles to the store, by verb and answer; each retry counts.",
    );
    for verb in Verb::ALL {
        for answer in Answer::ALL {
            text.sample(&[("verb", verb.word()), ("answer", answer.word())], vitals.requests.get(verb, answer));
        }
    }
    let credentials = vitals.requests.credentials();
    text.counter("litesnap_credential_requests_total", "Requests for credentials, in no other count.", credentials);
}

fn upkeep(text: &mut Text, vitals: &Vitals) {
    let (at, failed) = ("litesnap_upkeep_last_run_timestamp_seconds", "litesnap_upkeep_last_run_failed");
    text.family(at, Kind::Gauge, "When pruning and verifying last began beside the loop, since 1970; 0 if not done.");
    for task in crate::upkeep::TASKS {
        text.sample(&[("task", task)], vitals.upkeep.get(task).map_or(0.0, |last| seconds(last.at.as_ms())));
    }
    text.family(failed, Kind::Gauge, "1 if the last run found something wrong or could not be made.");
    for task in crate::upkeep::TASKS {
        text.sample(&[("task", task)], u8::from(vitals.upkeep.get(task).is_some_and(|last| last.exit_code != 0)));
    }
}

/// Precise enough for a time since 1970: 52 bits hold ms for 140,000 years.
#[allow(clippy::cast_precision_loss, reason = "times in ms fit")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

#[cfg(test)]
mod tests;
