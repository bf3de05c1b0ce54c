//! What a restore did: counts, and every database not restored by name and reason.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::outcomes::{Outcome, Outcomes};
use super::plan::Counts;
use crate::error::{Error, Failure};
use crate::fs::shown;
use crate::names::decoded;
use crate::store::{RequestCounts, Verb};

/// Hosts named at most.
pub(super) const HOSTS_MAX: usize = 8;

/// What a restore did.
#[derive(Debug)]
pub struct RestoreReport {
    /// What the plan came to.
    pub plan: Counts,
    /// Databases that were neither there already nor refused from the start: one GET each.
    pub to_do: u64,
    /// Databases that are back, durable under their names.
    pub restored: u64,
    /// That were there already, as they were to be.
    pub unchanged: u64,
    /// Left as they were: something was there, and it was to be left.
    pub skipped: u64,
    /// Not tried: a stop was asked for, or the store failed.
    pub untried: u64,
    /// Bytes of the databases restored.
    pub bytes: u64,
    /// Databases whose owner could not be set: not permitted.
    pub owner_lost: u64,
    /// Hosts that the restored snapshots are of; at most a few.
    pub hosts: BTreeSet<String>,
    /// Failures and notes by name.
    pub outcomes: Outcomes,
    /// Requests made, those for the plan included.
    pub requests: RequestCounts,
    /// How long it took.
    pub elapsed: Duration,
    /// The store could not be reached or refused us, and why.
    pub store_down: Option<Failure>,
    /// The signal that ended it early.
    pub interrupted: Option<i32>,
}

impl RestoreReport {
    /// Databases not restored for a reason of their own.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.outcomes.failed_count()
    }

    /// The exit code (see [`crate::error`]).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match (self.interrupted, &self.store_down) {
            (Some(signal), _) if self.untried > 0 => u8::try_from(128 + signal).unwrap_or(130),
            (_, Some(_)) => 3,
            _ if self.failed() > 0 || self.untried > 0 || self.plan.older > 0 => 1,
            _ => 0,
        }
    }

    /// The summary line.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { plan, restored, bytes, requests, .. } = self;
        let mut line = format!(
            "databases={} restored={restored} unchanged={} failed={} bytes={bytes} lists={} gets={} requests={} elapsed_ms={}",
            plan.databases,
            self.unchanged,
            self.failed(),
            requests.of(Verb::List),
            requests.of(Verb::Get),
            requests.total(),
            self.elapsed.as_millis()
        );
        let more = [
            ("skipped", self.skipped),
            ("deleted", plan.deleted),
            ("later", plan.later),
            ("older", plan.older),
            ("untried", self.untried),
            ("owner_not_set", self.owner_lost),
        ];
        for (name, n) in more.into_iter().filter(|(_, n)| *n > 0) {
            line.push_str(&format!(" {name}={n}"));
        }
        for (word, n) in self.outcomes.by_word() {
            line.push_str(&format!(" {word}={n}"));
        }
        line
    }

    /// Writes the summary and every database that was not restored, or not as asked, for people.
    ///
    /// # Errors
    /// As `out` says, or the temporary database.
    pub fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}", self.line())?;
        self.write_outcomes(out, false)
    }

    /// Writes a line for every database that was not restored, or not as asked; as JSON if `json`.
    ///
    /// # Errors
    /// As `out` says, or the temporary database.
    pub fn write_outcomes(&self, out: &mut impl Write, json: bool) -> io::Result<()> {
        self.outcomes.each::<IoOr>(|outcome| {
            if json {
                serde_json::to_writer(&mut *out, &JsonOutcome::from(&outcome)).map_err(io::Error::other)?;
                return Ok(writeln!(out)?);
            }
            let Outcome { name, word, detail, .. } = outcome;
            let detail = shown(Path::new(&detail));
            Ok(writeln!(out, "{}: {word}: {detail}", shown(&decoded(&name)))?)
        })?;
        Ok(())
    }

    /// What the plan comes to, on one line.
    #[must_use]
    pub fn plan_line(&self) -> String {
        let Counts { databases, bytes, deleted, later, older, .. } = self.plan;
        format!(
            "databases={databases} stored_bytes={bytes} unchanged={} skipped={} failed={} deleted={deleted} later={later} \
             older={older} gets_to_come={} lists={} gets={}",
            self.unchanged,
            self.skipped,
            self.failed(),
            self.to_do,
            self.requests.of(Verb::List),
            self.requests.of(Verb::Get),
        )
    }

    /// Writes one JSON object.
    ///
    /// # Errors
    /// As `out` says, or the temporary database.
    pub fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        let counts = serde_json::to_string(&JsonReport::from(self)).map_err(io::Error::other)?;
        let open = counts.strip_suffix('}').unwrap_or(&counts);
        write!(out, "{open},\"not_as_asked\":[")?;
        let mut comma = "";
        self.outcomes.each::<IoOr>(|outcome| {
            write!(out, "{comma}")?;
            serde_json::to_writer(&mut *out, &JsonOutcome::from(&outcome)).map_err(io::Error::other)?;
            comma = ",";
            Ok(())
        })?;
        writeln!(out, "]}}")
    }
}

/// An error of writing, or of the temporary database, as one.
struct IoOr(io::Error);

impl From<io::Error> for IoOr {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl From<Error> for IoOr {
    fn from(error: Error) -> Self {
        Self(io::Error::other(error))
    }
}

impl From<IoOr> for io::Error {
    fn from(error: IoOr) -> Self {
        error.0
    }
}

#[derive(Serialize)]
struct JsonReport<'a> {
    databases: u64,
    restored: u64,
    unchanged: u64,
    skipped: u64,
    failed: u64,
    deleted: u64,
    later: u64,
    older: u64,
    untried: u64,
    bytes: u64,
    owner_not_set: u64,
    hosts: &'a BTreeSet<String>,
    by_word: BTreeMap<String, u64>,
    lists: u64,
    gets: u64,
    requests: u64,
    elapsed_ms: u128,
    store_down: Option<&'a str>,
    interrupted_by_signal: Option<i32>,
    exit_code: u8,
}

impl<'a> From<&'a RestoreReport> for JsonReport<'a> {
    fn from(r: &'a RestoreReport) -> Self {
        Self {
            databases: r.plan.databases,
            restored: r.restored,
            unchanged: r.unchanged,
            skipped: r.skipped,
            failed: r.failed(),
            deleted: r.plan.deleted,
            later: r.plan.later,
            older: r.plan.older,
            untried: r.untried,
            bytes: r.bytes,
            owner_not_set: r.owner_lost,
            hosts: &r.hosts,
            by_word: r.outcomes.by_word(),
            lists: r.requests.of(Verb::List),
            gets: r.requests.of(Verb::Get),
            requests: r.requests.total(),
            elapsed_ms: r.elapsed.as_millis(),
            store_down: r.store_down.as_ref().map(|f| f.detail.as_str()),
            interrupted_by_signal: r.interrupted,
            exit_code: r.exit_code(),
        }
    }
}

#[derive(Serialize)]
struct JsonOutcome<'a> {
    database: String,
    is_failure: bool,
    word: &'a str,
    detail: &'a str,
}

impl<'a> From<&'a Outcome> for JsonOutcome<'a> {
    fn from(o: &'a Outcome) -> Self {
        Self {
            database: decoded(&o.name).to_string_lossy().into_owned(),
            is_failure: o.is_failure,
            word: &o.word,
            detail: &o.detail,
        }
    }
}
