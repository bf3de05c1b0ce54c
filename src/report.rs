//! What one cycle did: counts, and every database that could not be protected, by name and reason.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::error::{Failure, Reason};
use crate::fs::shown;
use crate::snapshot::Reads;

/// Named in a report at most; beyond that they are counted, and `state.db` has them all.
pub const NAMED_MAX: usize = 10_000;

/// A database that could not be protected in a cycle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unprotected {
    /// Absolute path.
    pub path: PathBuf,
    /// Why.
    pub failure: Failure,
}

/// Databases that could not be protected: all counted, the first [`NAMED_MAX`] named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures {
    by_reason: BTreeMap<Reason, u64>,
    named: Vec<Unprotected>,
}

impl Failures {
    /// Adds one; false if it was only counted.
    pub fn add(&mut self, path: &Path, failure: Failure) -> bool {
        *self.by_reason.entry(failure.reason).or_default() += 1;
        let room = self.named.len() < NAMED_MAX;
        if room {
            self.named.push(Unprotected { path: path.to_path_buf(), failure });
        }
        room
    }

    /// Count by reason.
    #[must_use]
    pub fn by_reason(&self) -> &BTreeMap<Reason, u64> {
        &self.by_reason
    }

    /// The named ones.
    #[must_use]
    pub fn named(&self) -> &[Unprotected] {
        &self.named
    }

    /// Puts the named ones into the order of their paths.
    pub(crate) fn sort(&mut self) {
        self.named.sort_by(|a, b| a.path.cmp(&b.path));
    }

    /// How many are failures: an empty or vanished file has nothing to lose.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.by_reason.iter().filter(|(reason, _)| reason.is_failure()).map(|(_, n)| n).sum()
    }

    /// How many are counted only.
    pub(crate) fn unnamed(&self) -> u64 {
        self.by_reason.values().sum::<u64>().saturating_sub(u64::try_from(self.named.len()).unwrap_or(u64::MAX))
    }
}

/// What a cycle goes by with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    /// Looking for what changed.
    pub scan: Duration,
    /// Snapshots, compression and uploads, all at once.
    pub work: Duration,
    /// Waiting for the last record.
    pub record: Duration,
}

/// What one cycle did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CycleReport {
    /// Number of the cycle since the start, from 1.
    pub cycle: u64,
    /// Databases found.
    pub databases: u64,
    /// Of these, changed or unknown, and taken up.
    pub changed: u64,
    /// Snapshots stored, durable and recorded.
    pub stored: u64,
    /// Taken up, but their content was stored already.
    pub unchanged_content: u64,
    /// Changed, and waiting for the end of their cooldown.
    pub held: u64,
    /// Known from before and gone from the host.
    pub gone: u64,
    /// Changed, but not tried: the store was unreachable, or a stop came.
    pub untried: u64,
    /// How they were read.
    pub reads: Reads,
    /// Failures by name and reason.
    pub failures: Failures,
    /// Bytes of the databases read.
    pub read_bytes: u64,
    /// Uploads that failed.
    pub uploads_failed: u64,
    /// What could not be looked at, and may hide databases: how much, and the first of it.
    pub unseen: Option<String>,
    /// Confirmed by the store, but not recorded.
    pub unrecorded: u64,
    /// Bytes of the objects stored.
    pub bytes: u64,
    /// Requests made to the store, retries included.
    pub requests: u64,
    /// Duration of the cycle.
    pub elapsed: Duration,
    /// What it went by with.
    pub phases: Phases,
    /// Per pattern, whether anything matched.
    pub matched: Vec<bool>,
    /// Patterns that nothing matched, where that is an error of the person who wrote them.
    pub unmatched: Vec<String>,
    /// Patterns whose folder is not there.
    pub missing_roots: Vec<PathBuf>,
    /// What concerns the cycle as a whole, each one line: too many databases gone, state not recorded.
    pub errors: Vec<String>,
    /// The store could not be reached or refused us, and why.
    pub store_down: Option<Failure>,
    /// The signal that ended it early.
    pub interrupted: Option<i32>,
}

impl CycleReport {
    /// Whether there is anything to tell. A file that is no database, and was none before, is no event.
    #[must_use]
    pub fn is_eventful(&self) -> bool {
        let alive = |reason: &Reason| reason.is_failure() && !reason.is_settled();
        let failing = self.failures.by_reason().keys().any(alive);
        self.changed + self.gone + self.untried > 0 || failing || !self.errors.is_empty()
    }

    /// Whether the store took what there was, and all of it is recorded. One database that fails is no reason to call the whole
    /// cycle failed.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.store_down.is_none() && self.interrupted.is_none() && self.unrecorded == 0
    }

    /// What was wrong with it as a whole, on one line.
    #[must_use]
    pub fn whole_error(&self) -> Option<String> {
        let down = self.store_down.as_ref().map(ToString::to_string);
        let all: Vec<String> = down.into_iter().chain(self.errors.iter().cloned()).chain(self.unseen.clone()).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Databases that could not be protected.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.failed()
    }

    /// The exit code of a run that consists of this cycle (see [`crate::error`]).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match (self.interrupted, &self.store_down) {
            (Some(signal), _) => u8::try_from(128 + signal).unwrap_or(130),
            (None, Some(_)) => 3,
            (None, None) if self.failed() > 0 || self.untried > 0 || !self.errors.is_empty() => 1,
            (None, None) if !self.unmatched.is_empty() => 2,
            (None, None) => 0,
        }
    }

    /// The summary line.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { cycle, databases, changed, stored, unchanged_content, bytes, requests, .. } = self;
        let mut line = format!(
            "cycle={cycle} databases={databases} changed={changed} stored={stored} \
             unchanged_content={unchanged_content} failed={} bytes={bytes} requests={requests} elapsed_ms={}",
            self.failed(),
            self.elapsed.as_millis()
        );
        let reads = [("direct", self.reads.direct), ("doubts", self.reads.doubted())];
        for (name, n) in reads.into_iter().chain([("held", self.held), ("gone", self.gone), ("untried", self.untried)])
        {
            if n > 0 {
                write!(line, " {name}={n}").expect("writing to a string cannot fail");
            }
        }
        for (reason, n) in self.failures.by_reason() {
            write!(line, " {}={n}", reason.word()).expect("writing to a string cannot fail");
        }
        line
    }

    /// The summary and every database that could not be protected, for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.line();
        text.push('\n');
        // A store that is down is one line, not one per database.
        let told = |u: &&Unprotected| self.store_down.is_none() || !u.failure.reason.concerns_store();
        for Unprotected { path, failure } in self.failures.named().iter().filter(told) {
            writeln!(text, "{}: {failure}", shown(path)).expect("writing to a string cannot fail");
        }
        if self.failures.unnamed() > 0 {
            writeln!(text, "and {} more, in the table databases of the state", self.failures.unnamed())
                .expect("writing to a string cannot fail");
        }
        for error in &self.errors {
            writeln!(text, "{error}").expect("writing to a string cannot fail");
        }
        text
    }

    /// The same for programs: one JSON object.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(&JsonReport::from(self)).expect("a report has only text and numbers")
    }
}

#[derive(Serialize)]
struct JsonReport<'a> {
    cycle: u64,
    databases: u64,
    changed: u64,
    stored: u64,
    unchanged_content: u64,
    failed: u64,
    held: u64,
    gone: u64,
    untried: u64,
    direct: u64,
    through_sqlite: u64,
    doubts: BTreeMap<&'static str, u64>,
    bytes: u64,
    requests: u64,
    elapsed_ms: u128,
    by_reason: BTreeMap<&'static str, u64>,
    unprotected: Vec<JsonUnprotected<'a>>,
    errors: &'a [String],
    unmatched: &'a [String],
    store_down: Option<&'a str>,
    interrupted_by_signal: Option<i32>,
    exit_code: u8,
}

#[derive(Serialize)]
struct JsonUnprotected<'a> {
    path: String,
    reason: &'static str,
    detail: &'a str,
}

impl<'a> From<&'a CycleReport> for JsonReport<'a> {
    fn from(r: &'a CycleReport) -> Self {
        let unprotected = |u: &'a Unprotected| JsonUnprotected {
            path: u.path.to_string_lossy().into_owned(),
            reason: u.failure.reason.word(),
            detail: &u.failure.detail,
        };
        Self {
            cycle: r.cycle,
            databases: r.databases,
            changed: r.changed,
            stored: r.stored,
            unchanged_content: r.unchanged_content,
            failed: r.failed(),
            held: r.held,
            gone: r.gone,
            untried: r.untried,
            direct: r.reads.direct,
            through_sqlite: r.reads.through_sqlite,
            doubts: r.reads.doubts.iter().map(|(doubt, n)| (doubt.word(), *n)).collect(),
            bytes: r.bytes,
            requests: r.requests,
            elapsed_ms: r.elapsed.as_millis(),
            by_reason: r.failures.by_reason().iter().map(|(reason, n)| (reason.word(), *n)).collect(),
            unprotected: r.failures.named().iter().map(unprotected).collect(),
            errors: &r.errors,
            unmatched: &r.unmatched,
            store_down: r.store_down.as_ref().map(|f| f.detail.as_str()),
            interrupted_by_signal: r.interrupted,
            exit_code: r.exit_code(),
        }
    }
}
