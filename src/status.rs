//! How a host's backups fare, from its state: whether a loop runs, what waits and for how long, what fails, what it costs.
//!
//! Owns what is told and when it is too late; [`state::Look`](crate::state::Look) reads, the binary prints. Changes nothing. What
//! is not known is never called fresh: a state says nothing about changes made after the last cycle that saw everything.

mod gather;
pub mod remote;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::cost::Bill;
use crate::error::{Error, Result};
use crate::fs::shown;
use crate::heartbeats::LastHeartbeat;
use crate::state::{CycleNote, Known, Look, LoopNote, StateLock, day_of};
use crate::timestamp::Timestamp;
use crate::upkeep::{LastRun, note_of};
use gather::{backlog, bill, failure_row, last, loop_of, requested, throughput};

/// Cycles shown.
const CYCLES_SHOWN: usize = 10;
/// Cycles over which rates are told: all that are kept.
const CYCLES_READ: u32 = 10_000;
/// Examples of each kind of failure.
const EXAMPLES_MAX: usize = 3;
/// Days of requests shown, today included.
const DAYS_SHOWN: i64 = 3;
/// A time so far ahead of the clock is one under another clock.
pub const AHEAD_MAX_MS: i64 = 60_000;
/// How often a state is read again when a loop began in the middle of it.
const TRIES: u32 = 3;

/// All that is told of one state. Field names are those of the JSON and stay; times are RFC 3339, UTC.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// What was asked: always `state`.
    pub asked: &'static str,
    /// The state's file.
    pub state: String,
    /// The store, without secrets.
    pub store: String,
    /// The host's name in keys.
    pub host: String,
    /// The key template.
    pub template: String,
    /// When this was asked.
    pub now: Option<Timestamp>,
    /// Who works on it.
    #[serde(rename = "loop")]
    pub running: Loop,
    /// When the last cycle began that the store and the state took as a whole.
    pub last_success: Option<Timestamp>,
    /// When the last cycle began after which everything is known: what changed before it is stored, or waits.
    pub known_as_of: Option<Timestamp>,
    /// What was wrong with the last cycle as a whole.
    pub last_error: Option<String>,
    /// Databases by what is known of them.
    pub databases: Known,
    /// Changes that are not stored.
    pub waiting: Backlog,
    /// Failures by reason, the most frequent first; what has nothing to lose (an empty file) is among them.
    pub failures: Vec<FailureRow>,
    /// The last cycles, the newest first.
    pub cycles: Vec<CycleNote>,
    /// How much is done in an hour.
    pub throughput: Option<Throughput>,
    /// Objects stored a day, over the last full days.
    pub objects_per_day: Option<f64>,
    /// The last prune of the loop.
    pub last_prune: Option<LastRun>,
    /// The last verify of the loop.
    pub last_verify: Option<LastRun>,
    /// The last heartbeat object.
    pub last_heartbeat: Option<LastHeartbeat>,
    /// Requests by day, what for, and verb.
    pub requests: Vec<Requested>,
    /// What a month like the last days costs; nothing until an hour is over.
    pub bill: Option<Billed>,
    #[serde(skip)]
    now_ms: i64,
}

/// Whoever works on a state, or did last.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Loop {
    /// A process holds the state.
    pub is_running: bool,
    /// Its id; of the last one, if none runs.
    pub pid: Option<u32>,
    /// Since when it runs, or ran.
    pub since: Option<Timestamp>,
    /// Its version of litesnap.
    pub litesnap: Option<String>,
    /// From one cycle to the next, s.
    pub interval_s: Option<f64>,
    /// Its cooldown, s; 0 for none.
    pub cooldown_s: Option<u32>,
    /// A change that waits for longer is too late, s.
    pub max_unprotected_s: Option<u64>,
    /// For how long a cycle is under way, s; `None` between cycles.
    pub cycle_for_s: Option<f64>,
    /// None runs, and the last one was ended in the middle of its work.
    pub was_killed: bool,
}

/// Changes that are not stored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Backlog {
    /// How many databases have one.
    pub count: u64,
    /// Held back by their cooldown.
    pub held: u64,
    /// Failed.
    pub failed: u64,
    /// Not tried: the store was down, or a stop came.
    pub untried: u64,
    /// How long the oldest waits, s.
    pub oldest_s: Option<i64>,
    /// The database that has it.
    pub oldest: Option<String>,
    /// How many wait for how long: at most `up_to_s`, longer than the class before; the last has no end.
    pub ages: Vec<AgeClass>,
}

/// One class of ages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AgeClass {
    /// Its end, s.
    pub up_to_s: Option<i64>,
    /// How many.
    pub count: u64,
}

/// What fails for one reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailureRow {
    /// The word for it.
    pub reason: String,
    /// Whether something is not protected for it.
    pub is_failure: bool,
    /// How many databases.
    pub count: u64,
    /// Some of them.
    pub examples: Vec<Example>,
}

/// One database that fails.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Example {
    /// Its path.
    pub path: String,
    /// What exactly.
    pub detail: String,
    /// Since when.
    pub since: Option<Timestamp>,
}

/// What is done in an hour, over the cycles that are kept; without the very first, which stores everything.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Throughput {
    /// From when to when, s.
    pub seconds: f64,
    /// Cycles in it.
    pub cycles: u64,
    /// Objects stored in an hour.
    pub objects_per_hour: f64,
    /// Their bytes.
    pub bytes_per_hour: f64,
    /// Bytes of databases read for it.
    pub read_bytes_per_hour: f64,
    /// Requests to the store in an hour.
    pub requests_per_hour: f64,
}

/// Requests of one kind on one day.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Requested {
    /// The day, UTC.
    pub day: String,
    /// What for: `cycle`, `prune`, `verify`, `heartbeat`.
    pub what: String,
    /// The verb.
    pub verb: String,
    /// How many.
    pub requests: u64,
}

/// What a month like the time before costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Billed {
    /// From so many seconds: full days if there was one, else what the cycles tell that are kept.
    pub seconds: u64,
    /// The bill.
    #[serde(flatten)]
    pub bill: Bill,
}

/// Where the state of the store with this identity lies, if there is one.
#[must_use]
pub fn state_path(state_dir: &Path, store_identity: &str) -> PathBuf {
    crate::engine::state_path(state_dir, store_identity)
}

impl Status {
    /// Reads the state at `path` as it is at `now_ms` (ms since 1970).
    ///
    /// # Errors
    /// [`Error::State`] if it cannot be read, [`Error::Io`] if loops kept beginning to use it meanwhile.
    pub fn read(path: &Path, now_ms: i64) -> Result<Self> {
        for _ in 1..TRIES {
            let look = Look::open(path);
            let status = look.and_then(|look| Ok((Self::of(&look, now_ms)?, look.is_still_so())));
            match status {
                Ok((status, true)) => return Ok(status),
                // What a loop was writing just then may look like damage.
                Ok((_, false)) | Err(Error::State { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        let look = Look::open(path)?;
        let status = Self::of(&look, now_ms)?;
        if look.is_still_so() { Ok(status) } else { Err(look.disturbed()) }
    }

    fn of(look: &Look, now_ms: i64) -> Result<Self> {
        let (identity, now_s) = (look.identity()?, now_ms.div_euclid(1000));
        let held = StateLock::look(&look.path().with_extension("lock"))?;
        let note = look.meta(crate::state::LOOP_NOTE)?.and_then(|note| serde_json::from_str::<LoopNote>(&note).ok());
        let last_success_ms = note.as_ref().and_then(|note| note.last_success_ms);
        let cycles = look.cycles(CYCLES_READ)?;
        let (databases, failing) = look.databases(EXAMPLES_MAX)?;
        let mut failures: Vec<FailureRow> = failing.into_iter().map(failure_row).collect();
        failures.sort_by_key(|row| std::cmp::Reverse((row.is_failure, row.count)));
        let today = day_of(now_s);
        Ok(Self {
            asked: "state",
            state: shown(look.path()).to_string(),
            store: identity.store,
            host: identity.host,
            template: identity.template,
            now: Timestamp::from_ms(now_ms),
            running: loop_of(held, note, look.meta("open")?.is_some(), now_ms),
            last_success: last_success_ms.and_then(Timestamp::from_ms),
            known_as_of: look.known_as_of()?.and_then(Timestamp::from_ms),
            last_error: cycles.first().and_then(|(_, cycle)| cycle.error.clone()),
            databases,
            waiting: backlog(&look.waiting(now_s)?, now_s),
            failures,
            throughput: throughput(&cycles),
            objects_per_day: look.objects_per_day(today)?,
            last_prune: last(look, &note_of("prune"))?,
            last_verify: last(look, &note_of("verify"))?,
            last_heartbeat: last(look, crate::heartbeats::NOTE)?,
            requests: look.spent(today - DAYS_SHOWN + 1)?.into_iter().map(requested).collect(),
            bill: bill(look, today, &cycles)?,
            cycles: cycles.into_iter().take(CYCLES_SHOWN).map(|(_, cycle)| cycle).collect(),
            now_ms,
        })
    }

    /// Why nothing is known of the databases that are not among those that wait, if a change may be `limit` old; `None` if
    /// all others are fresh.
    #[must_use]
    pub fn unknown(&self, limit: Duration) -> Option<String> {
        let interval_ms = self.running.interval_s.map_or(0.0, |s| s * 1000.0);
        let who = match (&self.running, self.running.pid) {
            (running, Some(pid)) if running.is_running => format!("a loop is running (pid {pid})"),
            (running, _) if running.is_running => "a loop is running".to_owned(),
            (running, _) if running.was_killed => "no loop is running, the last one was killed".to_owned(),
            _ => "no loop is running".to_owned(),
        };
        let why = self.last_error.as_ref().map(|e| format!("; the last cycle: {e}")).unwrap_or_default();
        let Some(known) = self.known_as_of else {
            return Some(format!("nothing is known yet: no cycle has ended well; {who}{why}"));
        };
        let age_ms = self.now_ms - known.as_ms();
        if age_ms < -AHEAD_MAX_MS {
            return Some(format!(
                "nothing is known: the last good cycle began at {}, which is ahead of this clock; {who}",
                known.to_rfc3339()
            ));
        }
        #[allow(clippy::cast_precision_loss, reason = "a limit in ms")]
        let is_too_old = age_ms as f64 > limit.as_millis() as f64 + interval_ms;
        is_too_old.then(|| {
            let age = crate::inventory::rounded_age(age_ms / 1000);
            format!(
                "nothing is known of changes since {} ({age} ago), when the last good cycle began; {who}{why}",
                known.to_rfc3339()
            )
        })
    }

    /// Before when (s since 1970) a change that still waits is too old, and after when its time is none.
    #[must_use]
    pub fn bounds(&self, limit: Duration) -> (i64, i64) {
        let limit_ms = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        let before_ms = self.now_ms.saturating_sub(limit_ms);
        (before_ms.saturating_add(999).div_euclid(1000), (self.now_ms + AHEAD_MAX_MS).div_euclid(1000))
    }

    /// When it was asked, ms since 1970.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }
}
