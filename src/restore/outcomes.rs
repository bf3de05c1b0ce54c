//! What became of single databases, by name: on disk, for all of them may fail.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use rusqlite::Connection;

use crate::access::FetchError;
use crate::error::{Error, Result};
use crate::scratch;

const SCHEMA: &str = "CREATE TABLE outcomes(name TEXT, is_failure INTEGER, word TEXT, detail TEXT)";

/// Failures and notes, shared between threads.
#[derive(Debug)]
pub struct Outcomes {
    rows: Mutex<Connection>,
    /// Counts of failures by word.
    failures: Mutex<BTreeMap<String, u64>>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The database's key prefix.
    pub name: String,
    /// It was not restored; else it is a note about one that was.
    pub is_failure: bool,
    /// The fixed word.
    pub word: String,
    /// One line.
    pub detail: String,
}

impl Outcomes {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { rows: Mutex::new(scratch::open(SCHEMA)?), failures: Mutex::default() })
    }

    /// A database that is not restored.
    pub(super) fn failed(&self, name: &str, word: &str, detail: &str) -> Result<()> {
        *self.failures.lock().entry(word.to_owned()).or_default() += 1;
        self.add(name, true, word, detail)
    }

    /// Something to be known about one that is.
    pub(super) fn note(&self, name: &str, word: &str, detail: &str) -> Result<()> {
        self.add(name, false, word, detail)
    }

    /// A database whose object could not be had.
    pub(super) fn fetch_failed(&self, name: &str, error: &FetchError) -> Result<()> {
        let detail = match error {
            FetchError::Store(failure) => failure.detail.clone(),
            other => crate::record::chain(other),
        };
        self.failed(name, error.word(), &detail)
    }

    fn add(&self, name: &str, is_failure: bool, word: &str, detail: &str) -> Result<()> {
        self.rows
            .lock()
            .prepare_cached("INSERT INTO outcomes VALUES(?1,?2,?3,?4)")
            .and_then(|mut insert| insert.execute((name, is_failure, word, detail)))
            .map(drop)
            .map_err(scratch::failed)
    }

    /// Failures, all of them.
    #[must_use]
    pub fn failed_count(&self) -> u64 {
        self.failures.lock().values().sum()
    }

    /// Counts of failures by word.
    #[must_use]
    pub fn by_word(&self) -> BTreeMap<String, u64> {
        self.failures.lock().clone()
    }

    /// Calls `visit` with each, sorted by name.
    ///
    /// # Errors
    /// That of `visit`; [`Error::Io`] if the temporary database fails.
    pub fn each<E: From<Error>>(&self, mut visit: impl FnMut(Outcome) -> Result<(), E>) -> Result<(), E> {
        let failed = |e| E::from(scratch::failed(e));
        let rows = self.rows.lock();
        let mut sorted = rows
            .prepare("SELECT name, is_failure, word, detail FROM outcomes ORDER BY name, is_failure, word")
            .map_err(failed)?;
        let of = |row: &rusqlite::Row<'_>| {
            Ok(Outcome { name: row.get(0)?, is_failure: row.get(1)?, word: row.get(2)?, detail: row.get(3)? })
        };
        for outcome in sorted.query_map([], of).map_err(failed)? {
            visit(outcome.map_err(failed)?)?;
        }
        Ok(())
    }
}
