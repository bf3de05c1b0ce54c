//! What a run found: counts, and every finding, which lie on disk until they are written.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::ledger::{Finding, Ledger};
use crate::error::{Error, Failure};
use crate::fs::shown;
use crate::names::decoded;

/// Counts of a run; in the summary and in JSON they have these names, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Databases with snapshots.
    pub databases: u64,
    /// Their snapshots.
    pub snapshots: u64,
    /// Of these, fetched and judged.
    pub checked: u64,
    /// Judged good.
    pub good: u64,
    /// Judged bad.
    pub bad: u64,
    /// Listed, or believed stored, and not there.
    pub missing: u64,
    /// Chosen, and not judged: the store failed, there was no room, a stop came, a later litesnap wrote them.
    pub unchecked: u64,
    /// Marked as bad by an earlier run, and not looked at again.
    pub known_bad: u64,
    /// Marked as bad by this run.
    pub marked: u64,
    /// Bytes fetched.
    pub bytes: u64,
    /// Requests made to the store, retries included.
    pub requests: u64,
    /// What chose them.
    pub seed: u64,
    /// Duration.
    pub elapsed_ms: u64,
    /// Bad, and without a marker, for it could not be put. Absent from the summary if 0.
    pub unmarked: u64,
    /// Listed at first, and removed on purpose before they could be fetched. Absent from the summary if 0.
    pub removed_meanwhile: u64,
    /// Databases that the state was asked to store again; `None` without a state.
    pub requested: Option<u64>,
}

/// What a run found.
#[derive(Debug)]
pub struct VerifyReport {
    /// Counts.
    pub counts: Counts,
    /// Findings of each word, in the words' order.
    pub by_word: Vec<(String, u64)>,
    /// The last failure of the store, if one kept a snapshot from being judged.
    pub store_failure: Option<Failure>,
    /// The store could not be reached or refused us, and why.
    pub store_down: Option<Failure>,
    /// The signal that ended it early.
    pub interrupted: Option<i32>,
    /// Globs that no stored database matches.
    pub unmatched: Vec<String>,
    pub(super) ledger: Ledger,
}

#[derive(Serialize)]
struct JsonFinding<'a> {
    database: &'a str,
    time: String,
    word: &'a str,
    detail: &'a str,
    key: &'a str,
}

impl VerifyReport {
    pub(super) fn new(
        counts: Counts,
        ledger: Ledger,
        store_failure: Option<Failure>,
        store_down: Option<Failure>,
        interrupted: Option<i32>,
    ) -> crate::error::Result<Self> {
        let by_word = ledger.by_word()?;
        Ok(Self { counts, by_word, store_failure, store_down, interrupted, unmatched: Vec::new(), ledger })
    }

    /// Whether there was nothing that could have been found good or bad: no error of the store's, and never a success.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.checked + self.counts.missing + self.counts.unchecked == 0
    }

    /// The exit code (see [`crate::error`]): 1 for any finding, anything not looked at, and nothing to look at.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let Counts { bad, missing, unchecked, requested, .. } = self.counts;
        match (self.interrupted, &self.store_down) {
            (Some(signal), _) => u8::try_from(128 + signal).unwrap_or(130),
            (None, Some(_)) => 3,
            (None, None) => u8::from(bad + missing + unchecked + requested.unwrap_or(0) > 0 || self.is_empty()),
        }
    }

    /// Calls `visit` with every finding, in the order of name and time. Ends with its first error.
    ///
    /// # Errors
    /// That of `visit`; [`Error::Io`] if the temporary folder fails.
    pub fn each_finding<E: From<Error>>(&self, visit: impl FnMut(Finding) -> Result<(), E>) -> Result<(), E> {
        self.ledger.each_finding(visit)
    }

    /// The summary line.
    #[must_use]
    pub fn line(&self) -> String {
        let Counts {
            databases,
            snapshots,
            checked,
            good,
            bad,
            missing,
            unchecked,
            known_bad,
            marked,
            bytes,
            requests,
            seed,
            elapsed_ms,
            unmarked,
            removed_meanwhile,
            requested,
        } = self.counts;
        let mut line = format!(
            "databases={databases} snapshots={snapshots} checked={checked} good={good} bad={bad} missing={missing} \
             unchecked={unchecked} known_bad={known_bad} marked={marked} bytes={bytes} requests={requests} seed={seed} \
             elapsed_ms={elapsed_ms}"
        );
        let mut add = |name: &str, n: u64| line += &format!(" {name}={n}");
        for (name, n) in [("unmarked", unmarked), ("removed_meanwhile", removed_meanwhile)] {
            if n > 0 {
                add(name, n);
            }
        }
        if let Some(n) = requested {
            add("requested", n);
        }
        // Missing ones are counted already.
        self.by_word.iter().filter(|(word, _)| word != super::MISSING).for_each(|(word, n)| add(word, *n));
        line
    }

    /// Every finding, a line each, then the summary, for people.
    ///
    /// # Errors
    /// Those of `out` and of the temporary folder.
    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.each_finding::<Ended>(|f| {
            let (name, detail) = (shown(&decoded(&f.name)).to_string(), shown(Path::new(&f.detail)).to_string());
            Ok(writeln!(out, "{name} {}: {}: {detail} ({})", f.time.to_rfc3339(), f.word, f.key)?)
        })?;
        if let (Some(failure), None) = (&self.store_failure, &self.store_down) {
            writeln!(out, "not everything could be fetched, for the store failed: {failure}")?;
        }
        if let Some(n @ 1..) = self.counts.requested {
            let are = if n == 1 { "database is" } else { "databases are" };
            writeln!(out, "{n} {are} to be stored again: a running loop does it in its next cycle, else the next run")?;
        }
        writeln!(out, "{}", self.line())
    }

    /// The same for programs: one JSON object on one line.
    ///
    /// # Errors
    /// Those of `out` and of the temporary folder.
    pub fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        #[derive(Serialize)]
        struct Head<'a> {
            #[serde(flatten)]
            counts: &'a Counts,
            by_word: std::collections::BTreeMap<&'a str, u64>,
            store_failure: Option<&'a str>,
            interrupted_by_signal: Option<i32>,
            exit_code: u8,
        }
        let failure = self.store_down.as_ref().or(self.store_failure.as_ref());
        let head = Head {
            counts: &self.counts,
            by_word: self.by_word.iter().map(|(word, n)| (word.as_str(), *n)).collect(),
            store_failure: failure.map(|f| f.detail.as_str()),
            interrupted_by_signal: self.interrupted,
            exit_code: self.exit_code(),
        };
        let head = serde_json::to_string(&head)?;
        // However many there are, the findings are written as they are read.
        write!(out, "{},\"findings\":[", head.trim_end_matches('}'))?;
        let mut separator = "";
        self.each_finding::<Ended>(|f| {
            let database = decoded(&f.name).to_string_lossy().into_owned();
            let (word, detail, key) = (f.word.as_str(), f.detail.as_str(), f.key.as_str());
            let finding = JsonFinding { database: &database, time: f.time.to_rfc3339(), word, detail, key };
            write!(out, "{}{}", separator, serde_json::to_string(&finding).map_err(io::Error::from)?)?;
            separator = ",";
            Ok(())
        })?;
        writeln!(out, "]}}")
    }

    /// What [`write_text`](Self::write_text) writes: for reports known to be small.
    #[must_use]
    pub fn text(&self) -> String {
        written(|out| self.write_text(out))
    }

    /// What [`write_json`](Self::write_json) writes, without the line's end: for reports known to be small.
    #[must_use]
    pub fn json(&self) -> String {
        written(|out| self.write_json(out)).trim_end().to_owned()
    }
}

fn written(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
    let mut text = Vec::new();
    if let Err(e) = write(&mut text) {
        log::error!("cannot tell what was found: {e}");
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Why the findings were not read to their end.
struct Ended(io::Error);

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self(io::Error::other(error))
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl From<Ended> for io::Error {
    fn from(ended: Ended) -> Self {
        ended.0
    }
}
