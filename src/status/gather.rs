//! The parts of a [`Status`](super::Status), each from what the state says of it.

use serde::de::DeserializeOwned;

use super::{AgeClass, Backlog, Billed, Example, FailureRow, Loop, Requested, Throughput};
use crate::backlog::AGES_S;
use crate::cost::{Bill, Counts, Observed};
use crate::error::{Failure, Result};
use crate::fs::shown;
use crate::state::{CycleNote, Failing, Held, Look, LoopNote, Spent, Waiting};
use crate::store::Verb;
use crate::timestamp::Timestamp;

const HOUR_S: f64 = 3600.0;
const DAY_MS: i64 = 86_400_000;
/// Less says nothing about a month.
const BILL_S_MIN: u64 = 3600;

/// Who works on it: the lock tells, the note of the last cycle only what the holder has not said itself.
pub(super) fn loop_of(held: Option<Held>, note: Option<LoopNote>, is_open: bool, now_ms: i64) -> Loop {
    let is_running = held.is_some();
    let (pid, holder) = held.map_or((None, None), |held| (held.pid, held.holder));
    let cycle_since_ms = holder.as_ref().and_then(|holder| holder.cycle_since_ms);
    // The note in the state is of whoever ended a cycle last: not of another process that holds it now.
    let note = holder.map(|h| h.note).or(note.filter(|note| !is_running || Some(note.pid) == pid));
    Loop {
        is_running,
        pid: pid.or(note.as_ref().map(|note| note.pid)),
        since: note.as_ref().and_then(|note| Timestamp::from_ms(note.started_ms)),
        interval_s: note.as_ref().map(|note| seconds(i64::try_from(note.interval_ms).unwrap_or(i64::MAX))),
        cooldown_s: note.as_ref().map(|note| note.cooldown_s),
        max_unprotected_s: note.as_ref().and_then(|note| note.max_unprotected_s),
        litesnap: note.map(|note| note.version),
        cycle_for_s: cycle_since_ms.map(|since_ms| seconds((now_ms - since_ms).max(0))),
        was_killed: is_open && !is_running,
    }
}

pub(super) fn backlog(waiting: &Waiting, now_s: i64) -> Backlog {
    let of = |wait| waiting.by_wait.get(wait).copied().unwrap_or_default();
    let ends = AGES_S.into_iter().map(Some).chain([None]);
    Backlog {
        count: waiting.ages.count,
        held: of("held"),
        failed: of("failed"),
        untried: of("untried"),
        oldest_s: waiting.oldest.as_ref().map(|(_, since_s)| (now_s - since_s).max(0)),
        oldest: waiting.oldest.as_ref().map(|(path, _)| shown(path).to_string()),
        ages: ends.zip(waiting.ages.classes).map(|(up_to_s, count)| AgeClass { up_to_s, count }).collect(),
    }
}

pub(super) fn failure_row((word, failing): (String, Failing)) -> FailureRow {
    let reason = Failure::parse(&format!("{word}: ")).map(|failure| failure.reason);
    let examples = failing.examples.into_iter().map(|(path, detail, since_s)| Example {
        path: shown(&path).to_string(),
        detail,
        since: since_s.and_then(|s| Timestamp::from_ms(s.saturating_mul(1000))),
    });
    FailureRow {
        is_failure: reason.is_none_or(|reason| reason.is_failure()),
        count: failing.count,
        examples: examples.collect(),
        reason: word,
    }
}

/// Over `cycles`, the newest first, without number 1, which stores everything.
#[allow(clippy::cast_precision_loss, reason = "rates for people")]
pub(super) fn throughput(cycles: &[(i64, CycleNote)]) -> Option<Throughput> {
    let counted: Vec<&CycleNote> = cycles.iter().filter(|(no, _)| *no > 1).map(|(_, cycle)| cycle).collect();
    let (newest, oldest) = (counted.first()?, counted.last()?);
    let span_ms = newest.started_ms.saturating_add(newest.elapsed_ms).saturating_sub(oldest.started_ms);
    if span_ms <= 0 {
        return None;
    }
    let seconds = seconds(span_ms);
    let sum = |of: fn(&CycleNote) -> u64| counted.iter().map(|c| of(c)).sum::<u64>() as f64 / seconds * HOUR_S;
    Some(Throughput {
        seconds,
        cycles: counted.len() as u64,
        objects_per_hour: sum(|c| c.stored),
        bytes_per_hour: sum(|c| c.bytes),
        read_bytes_per_hour: sum(|c| c.read_bytes),
        requests_per_hour: sum(|c| c.requests),
    })
}

pub(super) fn requested((day, what, verb, requests): Spent) -> Requested {
    let time = Timestamp::from_ms(day.saturating_mul(DAY_MS)).unwrap_or(Timestamp::MIN).to_rfc3339();
    Requested { day: time.split('T').next().unwrap_or_default().to_owned(), what, verb, requests }
}

/// The note called `name`; one that cannot be understood is none.
pub(super) fn last<T: DeserializeOwned>(look: &Look, name: &str) -> Result<Option<T>> {
    Ok(look.meta(name)?.and_then(|note| serde_json::from_str(&note).ok()))
}

/// What a month like the last full days costs; without one, like the time of `cycles`, the newest first, if that was an hour.
pub(super) fn bill(look: &Look, today: i64, cycles: &[(i64, CycleNote)]) -> Result<Option<Billed>> {
    let observed = match look.full_days(today)? {
        Some((seconds, objects, bytes, by_verb)) => {
            let of = |verb: Verb| by_verb.iter().filter(|(word, _)| word == verb.word()).map(|(_, n)| n).sum();
            let requests = Counts {
                puts: of(Verb::Put),
                posts: of(Verb::Post),
                gets: of(Verb::Get),
                heads: of(Verb::Head),
                lists: of(Verb::List),
                deletes: of(Verb::Delete),
                other: of(Verb::Other),
            };
            Observed { requests, bytes, objects, seconds, ..Observed::default() }
        }
        None => of_cycles(cycles),
    };
    let bill = Bill::from_requests(&observed).filter(|_| observed.seconds >= BILL_S_MIN);
    Ok(bill.map(|bill| Billed { seconds: observed.seconds, bill }))
}

/// Cycles put, and hardly ask for anything else. The first, which stores everything, is no measure.
fn of_cycles(cycles: &[(i64, CycleNote)]) -> Observed {
    let counted = || cycles.iter().filter(|(no, _)| *no > 1).map(|(_, cycle)| cycle);
    let (Some(newest), Some(oldest)) = (counted().next(), counted().next_back()) else { return Observed::default() };
    let span_ms = newest.started_ms.saturating_add(newest.elapsed_ms).saturating_sub(oldest.started_ms);
    Observed {
        requests: Counts { puts: counted().map(|c| c.requests).sum(), ..Counts::default() },
        bytes: counted().map(|c| c.bytes).sum(),
        objects: counted().map(|c| c.stored).sum(),
        seconds: u64::try_from(span_ms / 1000).unwrap_or(0),
        ..Observed::default()
    }
}

#[allow(clippy::cast_precision_loss, reason = "a time for people")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}
