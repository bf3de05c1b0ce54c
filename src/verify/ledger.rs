//! What a run is to look at, what it found, and what a state believes: rows on disk, for a store may hold more snapshots
//! than memory should.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::access::Wanted;
use crate::catalogue::{Database, Location, Snapshot};
use crate::error::Result;
use crate::scratch::{self, failed};
use crate::state::Believed;
use crate::timestamp::Timestamp;

const SCHEMA: &str = "
CREATE TABLE chosen(
  name TEXT, ms INTEGER, size INTEGER, key TEXT, range_start INTEGER, range_end INTEGER,
  marked INTEGER,          -- a marker says already that it is bad
  again INTEGER DEFAULT 0  -- to be fetched once more
);
CREATE TABLE findings(
  name TEXT, ms INTEGER, class INTEGER, word TEXT, detail TEXT, key TEXT,
  wants_marker INTEGER     -- if it is bad
);
CREATE INDEX findings_of ON findings(name, ms);
CREATE TABLE believed(id INTEGER PRIMARY KEY, name TEXT, ms INTEGER, listed INTEGER DEFAULT 0, marked INTEGER DEFAULT 0);
CREATE INDEX believed_of ON believed(name);
";

/// Rows read at once.
const PAGE: i64 = 500;

/// What a finding says, for what is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The bytes are bad, and will be.
    Bad = 0,
    /// There is no object.
    Missing = 1,
    /// It could not be looked at, for reasons of its own.
    Unchecked = 2,
    /// Worth a line, and nothing else.
    Note = 3,
}

/// A snapshot to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    /// Its row.
    row: i64,
    pub(super) name: String,
    pub(super) time: Timestamp,
    pub(super) wanted: Wanted,
    pub(super) marked: bool,
}

/// Something that a run has to tell about a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The database's key prefix.
    pub name: String,
    /// The time in the snapshot's key.
    pub time: Timestamp,
    /// One fixed word for its kind.
    pub word: String,
    /// What was seen.
    pub detail: String,
    /// The object's key below the store's prefix.
    pub key: String,
}

/// A database whose newest snapshot, by the state's account, is missing or bad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Doubt {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) ms: i64,
    pub(super) listed: bool,
}

#[derive(Debug)]
pub(super) struct Ledger(Connection);

impl Ledger {
    pub(super) fn new() -> Result<Self> {
        scratch::open(SCHEMA).map(Self)
    }

    /// Does many small steps as one.
    pub(super) fn together<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let tx = self.0.unchecked_transaction().map_err(failed)?;
        let done = work()?;
        tx.commit().map_err(failed)?;
        Ok(done)
    }

    pub(super) fn choose(&self, name: &str, snapshot: &Snapshot) -> Result<()> {
        let Snapshot { time, stored_size, is_bad, location: Location { key, range }, .. } = snapshot;
        let range = range.as_ref().map(|r| (r.start.cast_signed(), r.end.cast_signed())).unzip();
        let sql =
            "INSERT INTO chosen(name, ms, size, key, range_start, range_end, marked) VALUES(?1,?2,?3,?4,?5,?6,?7)";
        let insert = || {
            self.0.prepare_cached(sql)?.execute(params![
                name,
                time.as_ms(),
                stored_size.cast_signed(),
                key,
                range.0,
                range.1,
                is_bad
            ])
        };
        insert().map(drop).map_err(failed)
    }

    /// How many are chosen.
    pub(super) fn chosen(&self) -> Result<u64> {
        self.count("SELECT count(*) FROM chosen")
    }

    /// The next of what is chosen (or, of it, what is to be fetched once more) after `last`, in the order of name and time.
    fn tasks_after(&self, last: i64, again: bool) -> Result<Vec<Task>> {
        let sql = "SELECT rowid, name, ms, size, key, range_start, range_end, marked FROM chosen
                   WHERE rowid > ?1 AND again >= ?2 ORDER BY rowid LIMIT ?3";
        let read = || {
            let mut next = self.0.prepare_cached(sql)?;
            next.query_map(params![last, again, PAGE], task)?.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(failed)
    }

    pub(super) fn once_more(&self, task: &Task) -> Result<()> {
        self.run("UPDATE chosen SET again = 1 WHERE rowid = ?1", params![task.row])
    }

    pub(super) fn find(&self, class: Class, finding: &Finding, wants_marker: bool) -> Result<()> {
        let Finding { name, time, word, detail, key } = finding;
        let values = params![name, time.as_ms(), class as i64, word, detail, key, wants_marker];
        self.run("INSERT INTO findings VALUES(?1,?2,?3,?4,?5,?6,?7)", values)
    }

    pub(super) fn believe(&self, believed: &Believed) -> Result<()> {
        let values = params![believed.id.cast_signed(), believed.name, believed.key_ms];
        self.run("INSERT OR REPLACE INTO believed(id, name, ms) VALUES(?1,?2,?3)", values)
    }

    /// Notes what of `database` is listed, as far as it is believed to be.
    pub(super) fn compare(&self, database: &Database) -> Result<()> {
        let sql = "SELECT id, ms FROM believed WHERE name = ?1";
        let read = || {
            let mut all = self.0.prepare_cached(sql)?;
            all.query_map([&database.name], |r| Ok((r.get(0)?, r.get(1)?)))?
                .collect::<rusqlite::Result<Vec<(i64, i64)>>>()
        };
        for (id, ms) in read().map_err(failed)? {
            if let Some(snapshot) = database.snapshots.iter().find(|s| s.time.as_ms() == ms) {
                self.run("UPDATE believed SET listed = 1, marked = ?2 WHERE id = ?1", params![id, snapshot.is_bad])?;
            }
        }
        Ok(())
    }

    /// The next of the databases after `last` whose newest snapshot is not listed, was found bad or missing, or has a marker
    /// that was not found to be wrong.
    pub(super) fn doubts_after(&self, last: Option<u64>) -> Result<Vec<Doubt>> {
        let sql = "SELECT id, name, ms, listed FROM believed AS b WHERE id > ?1 AND (listed = 0
              OR EXISTS(SELECT 1 FROM findings AS f WHERE (f.name, f.ms) = (b.name, b.ms) AND class <= 1)
              OR marked AND NOT EXISTS(SELECT 1 FROM findings AS f WHERE (f.name, f.ms) = (b.name, b.ms) AND word = ?2))
            ORDER BY id LIMIT ?3";
        // Ids are unsigned here and signed there: only SQLite's order counts.
        let last = last.map_or(i64::MIN, u64::cast_signed);
        let doubt = |r: &Row<'_>| {
            Ok(Doubt { id: r.get::<_, i64>(0)?.cast_unsigned(), name: r.get(1)?, ms: r.get(2)?, listed: r.get(3)? })
        };
        let read = || {
            let mut next = self.0.prepare_cached(sql)?;
            next.query_map(params![last, super::MARKED_BUT_GOOD, PAGE], doubt)?.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(failed)
    }

    /// The next of the bad ones that want a marker, with their rows, after row `last`.
    pub(super) fn wanting_marker_after(&self, last: i64) -> Result<Vec<(i64, Finding)>> {
        let sql = "SELECT name, ms, word, detail, key, rowid FROM findings
                   WHERE rowid > ?1 AND class = 0 AND wants_marker ORDER BY rowid LIMIT ?2";
        let read = || {
            let mut next = self.0.prepare_cached(sql)?;
            next.query_map(params![last, PAGE], |r| Ok((r.get(5)?, finding(r)?)))?.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(failed)
    }

    /// Calls `visit` with every finding, in the order of name and time. Ends with its first error.
    pub(super) fn each_finding<E: From<crate::error::Error>>(
        &self,
        mut visit: impl FnMut(Finding) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |e| E::from(failed(e));
        let sql = "SELECT name, ms, word, detail, key FROM findings ORDER BY name, ms, word";
        let mut sorted = self.0.prepare(sql).map_err(failed)?;
        let mut rows = sorted.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            visit(finding(row).map_err(failed)?)?;
        }
        Ok(())
    }

    /// How many findings there are of `word`.
    pub(super) fn findings_of(&self, word: &str) -> Result<u64> {
        let count = self.0.query_row("SELECT count(*) FROM findings WHERE word = ?1", [word], |r| r.get::<_, i64>(0));
        count.map(i64::cast_unsigned).map_err(failed)
    }

    /// Findings of `word` get no marker.
    pub(super) fn unwant_markers(&self, word: &str) -> Result<()> {
        self.run("UPDATE findings SET wants_marker = 0 WHERE word = ?1", [word])
    }

    /// The first `max` of the databases of which a snapshot is missing.
    pub(super) fn with_missing(&self, max: usize) -> Result<Vec<String>> {
        let sql = "SELECT DISTINCT name FROM findings WHERE class = 1 ORDER BY name LIMIT ?1";
        let read = || {
            let mut all = self.0.prepare(sql)?;
            all.query_map([max as i64], |r| r.get(0))?.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(failed)
    }

    /// The snapshots of the database `name` that are missing, by the rows of their findings; with each the ids of the
    /// databases of which the state believed it the newest.
    pub(super) fn missing_of(&self, name: &str) -> Result<Vec<(i64, Timestamp, Vec<u64>)>> {
        let read = || {
            let mut all = self.0.prepare_cached("SELECT rowid, ms FROM findings WHERE name = ?1 AND class = 1")?;
            let missing = all.query_map([name], |r| Ok((r.get(0)?, r.get(1)?)))?;
            let mut believed = self.0.prepare_cached("SELECT id FROM believed WHERE name = ?1 AND ms = ?2")?;
            let mut with_ids = |(row, ms): (i64, i64)| {
                let ids = believed.query_map(params![name, ms], |r| Ok(r.get::<_, i64>(0)?.cast_unsigned()))?;
                Ok((row, time(ms), ids.collect::<rusqlite::Result<_>>()?))
            };
            missing.map(|found| with_ids(found?)).collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(failed)
    }

    /// Takes back the finding in this row.
    pub(super) fn unfind(&self, row: i64) -> Result<()> {
        self.run("DELETE FROM findings WHERE rowid = ?1", [row])
    }

    /// How many findings there are of each word, in its order.
    pub(super) fn by_word(&self) -> Result<Vec<(String, u64)>> {
        let read = || {
            let mut all = self.0.prepare("SELECT word, count(*) FROM findings GROUP BY word ORDER BY word")?;
            all.query_map([], |r| Ok((r.get(0)?, r.get::<_, i64>(1)?.cast_unsigned())))?
                .collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(failed)
    }

    fn count(&self, sql: &str) -> Result<u64> {
        let n: Option<i64> = self.0.query_row(sql, [], |r| r.get(0)).optional().map_err(failed)?;
        Ok(n.unwrap_or(0).cast_unsigned())
    }

    fn run(&self, sql: &str, values: impl rusqlite::Params) -> Result<()> {
        let run = || self.0.prepare_cached(sql)?.execute(values);
        run().map(drop).map_err(failed)
    }
}

fn time(ms: i64) -> Timestamp {
    Timestamp::from_ms(ms).expect("only times that were parsed were added")
}

fn finding(row: &Row<'_>) -> rusqlite::Result<Finding> {
    Ok(Finding { name: row.get(0)?, time: time(row.get(1)?), word: row.get(2)?, detail: row.get(3)?, key: row.get(4)? })
}

fn task(row: &Row<'_>) -> rusqlite::Result<Task> {
    let range = match (row.get::<_, Option<i64>>(5)?, row.get::<_, Option<i64>>(6)?) {
        (Some(start), Some(end)) => Some(start.cast_unsigned()..end.cast_unsigned()),
        _ => None,
    };
    let wanted = Wanted { location: Location { key: row.get(4)?, range }, size: row.get::<_, i64>(3)?.cast_unsigned() };
    Ok(Task { row: row.get(0)?, name: row.get(1)?, time: time(row.get(2)?), wanted, marked: row.get(7)? })
}

/// The tasks of one turn, a page at a time; others write to the ledger meanwhile.
pub(super) struct Tasks<'a> {
    ledger: &'a parking_lot::Mutex<Ledger>,
    again: bool,
    page: std::vec::IntoIter<Task>,
    last: i64,
    failure: &'a parking_lot::Mutex<Option<crate::error::Error>>,
}

impl<'a> Tasks<'a> {
    /// Those chosen, or of them those to be fetched once more. What goes wrong is left in `failure`.
    pub(super) fn new(
        ledger: &'a parking_lot::Mutex<Ledger>,
        again: bool,
        failure: &'a parking_lot::Mutex<Option<crate::error::Error>>,
    ) -> Self {
        Self { ledger, again, page: Vec::new().into_iter(), last: 0, failure }
    }
}

impl Iterator for Tasks<'_> {
    type Item = (Task, Wanted);

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.len() == 0 {
            match self.ledger.lock().tasks_after(self.last, self.again) {
                Ok(page) => self.page = page.into_iter(),
                Err(e) => {
                    self.failure.lock().get_or_insert(e);
                    return None;
                }
            }
        }
        let task = self.page.next()?;
        self.last = task.row;
        let wanted = task.wanted.clone();
        Some((task, wanted))
    }
}
