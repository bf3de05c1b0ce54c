//! What `litesnap status` prints, for people and as JSON.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use indicatif::HumanBytes;
use litesnap::fs::shown;
use litesnap::inventory::rounded_age;
use litesnap::state::{CycleNote, Stale};
use litesnap::status::remote::Host;
use litesnap::status::{AHEAD_MAX_MS, FailureRow, Requested, Status};
use litesnap::timestamp::Timestamp;

/// The first line: what was asked.
pub(super) fn head(status: &Status) -> String {
    format!("state {} of {}, host {}", status.state, one_line(&status.store), one_line(&status.host))
}

/// Everything about one state.
pub(super) fn status(status: &Status) -> String {
    let mut lines = vec![head(status), running(status), known(status)];
    let d = &status.databases;
    lines.push(format!(
        "databases: {} known, {} stored, {} failing; {} gone from the host",
        d.known, d.stored, d.failing, d.gone
    ));
    lines.extend(waiting(status));
    lines.extend(status.failures.iter().map(failing));
    if !status.cycles.is_empty() {
        lines.push(format!(
            "cycles:   {:>24} {:>9} {:>9} {:>8} {:>8} {:>7} {:>7} {:>8} {:>9}",
            "began", "took", "databases", "changed", "stored", "failed", "held", "untried", "requests"
        ));
        lines.extend(status.cycles.iter().map(cycle));
    }
    lines.extend(rates(status));
    for (what, last) in [("prune", &status.last_prune), ("verify", &status.last_verify)] {
        lines.extend(last.as_ref().map(|run| {
            format!(
                "last {what}: {} (exit code {}): {}",
                ago(Some(run.at), status),
                run.exit_code,
                one_line(&run.result)
            )
        }));
    }
    lines.extend(status.last_heartbeat.as_ref().map(|last| format!("last heartbeat: {}", ago(Some(last.at), status))));
    lines.extend(requests(&status.requests));
    lines.extend(status.bill.as_ref().map(|billed| {
        format!(
            "{} (from the last {})",
            billed.bill.line(),
            span(std::time::Duration::from_secs(billed.seconds).as_secs_f64())
        )
    }));
    lines.join("\n") + "\n"
}

fn running(status: &Status) -> String {
    let l = &status.running;
    let of = |text: Option<String>| text.unwrap_or_default();
    let who = of(l.pid.map(|pid| format!(" pid {pid}")))
        + &of(l.litesnap.as_ref().map(|v| format!(", litesnap {}", one_line(v))));
    let every = of(l.interval_s.map(|s| format!(", every {}", span(s))));
    let cooldown = of(l.cooldown_s.filter(|s| *s > 0).map(|s| format!(", cooldown {}", span(f64::from(s)))));
    if !l.is_running {
        let end = if l.was_killed { ", ended in the middle of its work" } else { "" };
        return format!("loop: not running; the last one:{who}{every}{cooldown}{end}");
    }
    let since = of(l.since.map(|_| format!(" since {}", ago(l.since, status))));
    let now = of(l.cycle_for_s.map(|s| format!("; a cycle is under way for {}", span(s))));
    format!("loop: running,{who}{since}{every}{cooldown}{now}")
}

fn known(status: &Status) -> String {
    let mut line = format!("last success: {}", ago(status.last_success, status));
    if status.known_as_of != status.last_success {
        line += &format!("; everything is known as of: {}", ago(status.known_as_of, status));
    }
    if let Some(error) = &status.last_error {
        line += &format!("\nthe last cycle: {}", one_line(error));
    }
    line
}

fn waiting(status: &Status) -> Vec<String> {
    let w = &status.waiting;
    if w.count == 0 {
        return vec!["waiting: none, as of then".to_owned()];
    }
    let oldest = rounded_age(w.oldest_s.unwrap_or_default());
    let mut lines = vec![
        format!(
            "waiting: {} (held back by a cooldown {}, failed {}, not tried {})",
            w.count, w.held, w.failed, w.untried
        ),
        format!("  the oldest for {oldest}: {}", w.oldest.as_deref().unwrap_or_default()),
    ];
    let classes = w.ages.iter().filter(|class| class.count > 0).map(|class| match class.up_to_s {
        Some(end) => format!("up to {} {}", rounded_age(end), class.count),
        None => format!("longer {}", class.count),
    });
    lines.push(format!("  by age: {}", classes.collect::<Vec<_>>().join(", ")));
    lines
}

fn failing(row: &FailureRow) -> String {
    let what = if row.is_failure { "failing" } else { "nothing to lose" };
    let mut line = format!("{what}: {} {}", one_line(&row.reason), row.count);
    for example in &row.examples {
        write!(line, "\n  {}: {}", example.path, one_line(&example.detail)).expect("writing to a string cannot fail");
    }
    if row.count > row.examples.len() as u64 {
        write!(line, "\n  and {} more", row.count - row.examples.len() as u64)
            .expect("writing to a string cannot fail");
    }
    line
}

fn cycle(c: &CycleNote) -> String {
    let began = Timestamp::from_ms(c.started_ms).map_or_else(|| "-".to_owned(), Timestamp::to_rfc3339);
    let mut line = format!(
        "          {began:>24} {:>7}ms {:>9} {:>8} {:>8} {:>7} {:>7} {:>8} {:>9}",
        c.elapsed_ms, c.databases, c.changed, c.stored, c.failed, c.held, c.untried, c.requests
    );
    if !c.succeeded {
        line += "  did not succeed";
    }
    line
}

fn rates(status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(t) = &status.throughput {
        lines.push(format!(
            "in an hour: {:.0} objects, {} stored, {} read, {:.0} requests (over {} cycles in {})",
            t.objects_per_hour,
            bytes(t.bytes_per_hour),
            bytes(t.read_bytes_per_hour),
            t.requests_per_hour,
            t.cycles,
            span(t.seconds)
        ));
    }
    lines.extend(status.objects_per_day.map(|n| format!("in a day: {n:.0} objects pile up, unless they are pruned")));
    lines
}

/// One line per day and purpose.
fn requests(all: &[Requested]) -> Vec<String> {
    let mut lines: Vec<(String, String)> = Vec::new();
    for one in all {
        let head = format!("requests {} for {}:", one.day, one_line(&one.what));
        let verb = format!(" {}={}", one_line(&one.verb), one.requests);
        match lines.last_mut().filter(|(last, _)| *last == head) {
            Some((_, verbs)) => *verbs += &verb,
            None => lines.push((head, verb)),
        }
    }
    lines.into_iter().map(|(head, verbs)| head + &verbs).collect()
}

/// One database that is stale.
pub(super) fn stale(one: &Stale, status: &Status) -> String {
    let since =
        Timestamp::from_ms(one.since_s.saturating_mul(1000)).map_or_else(|| "-".to_owned(), Timestamp::to_rfc3339);
    let age_ms = status.now_ms() - one.since_s.saturating_mul(1000);
    let age = if age_ms < -AHEAD_MAX_MS { "ahead of this clock".to_owned() } else { rounded_age(age_ms / 1000) };
    let error = one.error.as_ref().map(|e| format!(": {}", one_line(e))).unwrap_or_default();
    format!("stale {age:>8} since {since} {} {}{error}", one.wait.word(), shown(&one.path))
}

pub(super) fn stale_json(one: &Stale, status: &Status) -> serde_json::Value {
    serde_json::json!({
        "path": one.path.to_string_lossy(),
        "since": Timestamp::from_ms(one.since_s.saturating_mul(1000)),
        "age_s": status.now_ms().div_euclid(1000) - one.since_s,
        "wait": one.wait.word(),
        "error": one.error,
    })
}

/// The last line of what is stale.
pub(super) fn stale_end(n: u64, unknown: Option<&str>, limit: Duration) -> String {
    let limit = span(limit.as_secs_f64());
    let mut line = match unknown {
        Some(why) => format!("stale: {}\n", one_line(why)),
        None => String::new(),
    };
    line += &match (n, unknown) {
        (0, None) => format!("fresh: no change waits for longer than {limit}"),
        (0, Some(_)) => format!("no change is known to wait for longer than {limit}"),
        (n, _) => format!("{n} databases have a change that has not been stored for longer than {limit}"),
    };
    line
}

/// One host, by its newest heartbeat.
pub(super) fn host(host: &Host, complaints: Option<Vec<String>>) -> String {
    let word = match &complaints {
        None => "",
        Some(all) if all.is_empty() => "fresh ",
        Some(_) => "stale ",
    };
    let mut text = format!("{word}{}: heartbeat {} old", one_line(&host.host), rounded_age(host.age_s));
    if let Some(overdue) = host.overdue_s() {
        text += &format!(", the next one overdue for {}", rounded_age(overdue));
    }
    if let Some(said) = &host.heartbeat {
        let failing = said.failing.iter().map(|(word, n)| format!(" {}={n}", one_line(word))).collect::<String>();
        let oldest =
            said.oldest_unprotected_s.map(|s| format!(", the oldest for {}", rounded_age(s))).unwrap_or_default();
        let known = said.known_as_of_age_s.map_or_else(|| "-".to_owned(), |s| format!("{} before", rounded_age(s)));
        text += &format!(
            "; then: {} databases, {} waiting{oldest}, last good cycle {known}, litesnap {}",
            said.databases,
            said.waiting.count,
            one_line(&said.litesnap)
        );
        if !failing.is_empty() {
            text += &format!(", failing:{failing}");
        }
    }
    if let Some(ahead) = host.clock_ahead_s {
        let way = if ahead > 0 { "ahead of" } else { "behind" };
        text += &format!("\n  its clock is {} {way} the store's", rounded_age(ahead.abs()));
    }
    for why in complaints.into_iter().flatten() {
        text += &format!("\n  {}", one_line(&why));
    }
    text + "\n"
}

pub(super) fn host_json(host: &Host, complaints: Option<Vec<String>>) -> String {
    let mut value = serde_json::to_value(host).expect("a host has only text and numbers");
    value["overdue_s"] = host.overdue_s().into();
    value["stale"] = complaints.into();
    value.to_string()
}

/// What was said by others writes no lines of its own.
fn one_line(text: &str) -> String {
    shown(Path::new(text)).to_string()
}

fn ago(time: Option<Timestamp>, status: &Status) -> String {
    let Some(time) = time else { return "never".to_owned() };
    let age_ms = status.now_ms() - time.as_ms();
    let age =
        if age_ms < -AHEAD_MAX_MS { "ahead of this clock".to_owned() } else { rounded_age(age_ms / 1000) + " ago" };
    format!("{} ({age})", time.to_rfc3339())
}

#[allow(clippy::cast_possible_truncation, reason = "a span for people")]
fn span(seconds: f64) -> String {
    if seconds < 10.0 { format!("{seconds:.1}s") } else { rounded_age(seconds as i64) }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size for people")]
fn bytes(bytes: f64) -> HumanBytes {
    HumanBytes(bytes as u64)
}
