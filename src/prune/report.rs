//! What a prune or a purge did.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use super::plan::Doomed;
use crate::catalogue::Database;
use crate::error::Failure;
use crate::fs::shown;
use crate::layout::KeyKind;
use crate::report::{Failures, Unprotected};
use crate::timestamp::Timestamp;

/// What one prune did; of a dry run, what it would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Nothing was done.
    pub dry_run: bool,
    /// Globs that no stored database matches.
    pub unmatched: Vec<String>,
    /// Databases that were decided about.
    pub databases: u64,
    /// Snapshots that were decided about.
    pub snapshots: u64,
    /// Of these, to be kept.
    pub kept: u64,
    /// Of these, removed.
    pub removed: u64,
    /// Bytes that those took in the store.
    pub removed_bytes: u64,
    /// Databases of which nothing is left.
    pub databases_removed: u64,
    /// Markers of bad snapshots removed.
    pub markers: u64,
    /// Tombstones removed.
    pub tombstones: u64,
    /// Heartbeats removed.
    pub heartbeats: u64,
    /// Files of unfinished uploads removed.
    pub leftovers: u64,
    /// Listed objects that are not of our making; never touched.
    pub foreign: u64,
    /// To be removed, but not tried: a stop came, the store failed, or what had to go first could not be removed.
    pub untried: u64,
    /// Databases whose newest snapshot or tombstone lies more than a day ahead of this host's clock.
    pub ahead: u64,
    /// Databases gone for long enough by this host's clock and the time in the tombstone's key, but not by the newest object in
    /// the store, or not since the store was given the tombstone.
    pub waiting: u64,
    /// The time from which ages were counted, where it is more than a day behind this host's clock.
    pub counted_from: Option<Timestamp>,
    /// Objects that could not be removed, by key and reason.
    pub failures: Failures,
    /// Nothing more could be done: the store could not be reached or refused us.
    pub store_down: Option<Failure>,
    /// Requests made to the store, retries included.
    pub requests: u64,
    /// Time it took.
    pub elapsed: Duration,
    /// The signal that ended it early.
    pub interrupted: Option<i32>,
}

impl PruneReport {
    /// Counts one object as removed.
    pub(super) fn add(&mut self, doomed: &Doomed) {
        match doomed.kind {
            Some(KeyKind::Snapshot) => {
                self.removed += 1;
                self.removed_bytes += doomed.size;
            }
            Some(KeyKind::BadMarker) => self.markers += 1,
            Some(KeyKind::Tombstone) => self.tombstones += 1,
            None => self.heartbeats += 1,
        }
        self.databases_removed += u64::from(doomed.closes);
    }

    /// Takes the store for down if it let us remove nothing at all, or was given up.
    pub(super) fn note_if_down(&mut self, is_given_up: bool) {
        let nothing = self.removed + self.markers + self.tombstones + self.heartbeats == 0;
        let all_concern_store = self.failures.by_reason().keys().all(|reason| reason.concerns_store());
        if is_given_up || (nothing && all_concern_store) {
            let last = self.failures.named().iter().rfind(|u| u.failure.reason.concerns_store());
            self.store_down = last.map(|u| u.failure.clone());
        }
    }

    /// Objects that could not be removed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.failed()
    }

    /// The exit code (see [`crate::error`]).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match (self.interrupted, &self.store_down) {
            (Some(signal), _) => u8::try_from(128 + signal).unwrap_or(130),
            (None, Some(_)) => 3,
            (None, None) => u8::from(self.failed() > 0 || self.untried > 0),
        }
    }

    /// The summary line.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { databases, snapshots, kept, removed, removed_bytes, databases_removed, .. } = self;
        let Self { markers, tombstones, requests, .. } = self;
        let mut line = format!(
            "databases={databases} snapshots={snapshots} kept={kept} removed={removed} removed_bytes={removed_bytes} \
             databases_removed={databases_removed} markers={markers} tombstones={tombstones} failed={} \
             requests={requests} elapsed_ms={}",
            self.failed(),
            self.elapsed.as_millis(),
        );
        let more = [
            ("heartbeats", self.heartbeats),
            ("leftovers", self.leftovers),
            ("foreign", self.foreign),
            ("untried", self.untried),
            ("ahead", self.ahead),
            ("waiting", self.waiting),
        ];
        let reasons = self.failures.by_reason().iter().map(|(reason, n)| (reason.word(), *n));
        for (name, n) in more.into_iter().filter(|(_, n)| *n > 0).chain(reasons) {
            write!(line, " {name}={n}").expect("writing to a string cannot fail");
        }
        line + if self.dry_run { " dry_run=true" } else { "" }
    }

    /// What a person should know about clocks.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.ahead > 0 {
            notes.push(format!(
                "of {} databases the newest snapshot or tombstone is more than a day ahead of this host's clock: \
                 check the clocks, for days that a clock did not tell apart no rule can keep apart",
                self.ahead
            ));
        }
        if let Some(time) = self.counted_from.filter(|_| self.waiting > 0) {
            notes.push(format!(
                "{} databases are gone for long enough by this host's clock, but nothing in the store is newer than {}: \
                 they wait until something is, or for --trust-clock",
                self.waiting,
                time.to_rfc3339(),
            ));
        }
        if self.counted_from.is_none() && self.waiting > 0 {
            notes.push(format!(
                "{} databases are gone for long enough by the times in their tombstones' keys, but the store was given these \
                 later: a copied store, or not their host's doing; they wait, or for --trust-clock",
                self.waiting,
            ));
        }
        notes
    }

    /// The summary, every object that could not be removed, and what is odd about clocks, for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.line() + "\n";
        // A store that is down is one line, not one per object.
        let told = |u: &&Unprotected| self.store_down.is_none() || !u.failure.reason.concerns_store();
        for Unprotected { path, failure } in self.failures.named().iter().filter(told) {
            writeln!(text, "{}: {failure}", shown(path)).expect("writing to a string cannot fail");
        }
        if self.failures.unnamed() > 0 {
            writeln!(text, "and {} more", self.failures.unnamed()).expect("writing to a string cannot fail");
        }
        for note in self.notes() {
            writeln!(text, "{note}").expect("writing to a string cannot fail");
        }
        text
    }

    /// The same for programs: one JSON object.
    #[must_use]
    pub fn json(&self) -> String {
        self.value().to_string()
    }

    fn value(&self) -> serde_json::Value {
        let not_removed = self.failures.named().iter().map(|u| {
            json!({ "key": u.path.to_string_lossy(), "reason": u.failure.reason.word(), "detail": u.failure.detail })
        });
        json!({
            "dry_run": self.dry_run,
            "databases": self.databases,
            "snapshots": self.snapshots,
            "kept": self.kept,
            "removed": self.removed,
            "removed_bytes": self.removed_bytes,
            "databases_removed": self.databases_removed,
            "markers": self.markers,
            "tombstones": self.tombstones,
            "heartbeats": self.heartbeats,
            "leftovers": self.leftovers,
            "foreign": self.foreign,
            "failed": self.failed(),
            "untried": self.untried,
            "ahead": self.ahead,
            "waiting": self.waiting,
            "counted_from": self.counted_from,
            "requests": self.requests,
            "elapsed_ms": u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX),
            "not_removed": not_removed.collect::<Vec<_>>(),
            "store_down": self.store_down.as_ref().map(|f| &f.detail),
            "interrupted_by_signal": self.interrupted,
            "exit_code": self.exit_code(),
        })
    }
}

/// What there is of one database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Snapshots.
    pub snapshots: u64,
    /// Bytes that they take in the store.
    pub bytes: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Markers of bad snapshots.
    pub markers: u64,
    /// Files of unfinished uploads.
    pub leftovers: u64,
    /// The time of the oldest snapshot.
    pub oldest: Option<Timestamp>,
    /// The time of the newest snapshot.
    pub newest: Option<Timestamp>,
}

impl Holdings {
    pub(super) fn add(&mut self, database: &Database) {
        self.snapshots += database.snapshots.len() as u64;
        self.bytes += database.snapshots.iter().map(|s| s.stored_size).sum::<u64>();
        self.tombstones += database.tombstones.len() as u64;
        let bad = database.snapshots.iter().filter(|s| s.is_bad).count();
        self.markers += (bad + database.stray_markers.len()) as u64;
        let times = database.snapshots.iter().map(|s| s.time);
        self.oldest = self.oldest.into_iter().chain(times.clone()).min();
        self.newest = self.newest.into_iter().chain(times).max();
    }

    /// There is no such database in the store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.snapshots + self.tombstones + self.markers + self.leftovers == 0
    }

    /// For people: `3 snapshots (1234 bytes) of 2026-… to 2026-…, 1 tombstones, 0 markers`.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self { snapshots, bytes, tombstones, markers, leftovers, oldest, newest } = self;
        let times = match (oldest, newest) {
            (Some(oldest), Some(newest)) => format!(" of {} to {}", oldest.to_rfc3339(), newest.to_rfc3339()),
            _ => String::new(),
        };
        let more = [(tombstones, "tombstones"), (markers, "markers"), (leftovers, "unfinished uploads")];
        let more = more.iter().filter(|(n, _)| **n > 0).map(|(n, what)| format!(", {n} {what}")).collect::<String>();
        format!("{snapshots} snapshots ({bytes} bytes){times}{more}")
    }
}

/// What one purge found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeReport {
    /// What there was.
    pub holdings: Holdings,
    /// Whether it was to be removed.
    pub is_confirmed: bool,
    /// What was removed.
    pub removal: PruneReport,
    /// Databases that the state was asked to store again; `None` without a state, or if nothing was to be removed.
    pub requested: Option<u64>,
}

impl PurgeReport {
    /// The exit code (see [`crate::error`]); 2 if there was something, and nobody said yes.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match (self.holdings.is_empty(), self.is_confirmed) {
            (true, _) => 1,
            (false, false) => 2,
            (false, true) => self.removal.exit_code(),
        }
    }

    /// For programs: one JSON object.
    #[must_use]
    pub fn json(&self) -> String {
        let Holdings { snapshots, bytes, tombstones, markers, leftovers, oldest, newest } = self.holdings;
        json!({
            "found": {
                "snapshots": snapshots, "bytes": bytes, "tombstones": tombstones, "markers": markers,
                "leftovers": leftovers, "oldest": oldest, "newest": newest,
            },
            "confirmed": self.is_confirmed,
            "removal": self.is_confirmed.then(|| self.removal.value()),
            "requested": self.requested,
            "exit_code": self.exit_code(),
        })
        .to_string()
    }
}
