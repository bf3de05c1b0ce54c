//! What `state.db` keeps for people who ask how the loop fares: its last cycles, what waits, what was asked of the store.
//!
//! Nothing here is read by the loop but the backlog at its start. A cycle is noted without waiting for the disk: a power loss
//! may take the last of them, which then never claimed anything that is stored.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

use super::db::{BUSY_WAIT, StateDb, state_error};
use crate::backlog::Wait;
use crate::error::Result;
use crate::store::{RequestCounts, Verb};

/// How long a note waits for somebody else's transaction: it can be missed.
const NOTE_WAIT: Duration = Duration::from_millis(500);
/// Cycles kept: two hours of them at the default interval.
const CYCLES_KEPT: i64 = 240;
/// The note that holds the [`LoopNote`].
pub const LOOP_NOTE: &str = "loop";
/// The note that is there while a process works on the state, and after one that ended in the middle of it.
const OPEN_NOTE: &str = "open";
/// The note of the time before which records are doubted.
pub(super) const DOUBT_NOTE: &str = "doubt_before_s";

/// What [`StateDb::open`] adds to a state made before there was such a thing.
pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS backlog(
  id INTEGER PRIMARY KEY,  -- of a database whose newest change is not stored
  path NOT NULL,           -- TEXT; BLOB where it is not UTF-8
  since_s INTEGER,         -- since when, s since 1970
  wait INTEGER             -- 0 not tried, 1 held back by its cooldown, 2 failed
);
CREATE TABLE IF NOT EXISTS cycles(
  no INTEGER PRIMARY KEY,  -- counts on over restarts
  started_ms INTEGER, elapsed_ms INTEGER,
  succeeded INTEGER,       -- 0 if the store was down, nothing could be recorded, or a stop came
  databases INTEGER, changed INTEGER, stored INTEGER, unchanged_content INTEGER,
  failed INTEGER, held INTEGER, gone INTEGER, untried INTEGER,
  read_bytes INTEGER, bytes INTEGER,  -- of databases; of objects stored
  requests INTEGER,
  error TEXT               -- what was wrong with it as a whole
);
CREATE TABLE IF NOT EXISTS spent(
  day INTEGER,             -- days since 1970, UTC
  what TEXT,               -- cycle, prune, verify, heartbeat
  verb TEXT,               -- put, post, get, list, head, delete, other
  requests INTEGER,
  PRIMARY KEY(day, what, verb)
) WITHOUT ROWID;
";

/// One row of `cycles`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CycleNote {
    /// When it began, ms since 1970.
    pub started_ms: i64,
    /// How long it took.
    pub elapsed_ms: i64,
    /// The store took what there was, and all of it is recorded.
    pub succeeded: bool,
    /// Databases found.
    pub databases: u64,
    /// Taken up.
    pub changed: u64,
    /// Snapshots stored and recorded.
    pub stored: u64,
    /// Read, and their content was stored already.
    pub unchanged_content: u64,
    /// Could not be protected.
    pub failed: u64,
    /// Held back by their cooldown.
    pub held: u64,
    /// Found gone from the host.
    pub gone: u64,
    /// Changed and not tried.
    pub untried: u64,
    /// Bytes of the databases read.
    pub read_bytes: u64,
    /// Bytes of the objects stored.
    pub bytes: u64,
    /// Requests to the store.
    pub requests: u64,
    /// What was wrong with it as a whole; one line, no secrets.
    pub error: Option<String>,
}

/// Who works, or worked last, on the state, and how; the note called [`LOOP_NOTE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopNote {
    /// Process id.
    pub pid: u32,
    /// Version of litesnap.
    pub version: String,
    /// When it was opened, ms since 1970.
    pub started_ms: i64,
    /// From one cycle to the next, ms.
    pub interval_ms: u64,
    /// Cooldown, s; 0 for none.
    pub cooldown_s: u32,
    /// A change that waits for longer is too late, s.
    pub max_unprotected_s: Option<u64>,
    /// When the last successful cycle began, ms since 1970, whoever ran it.
    pub last_success_ms: Option<i64>,
}

impl StateDb {
    /// Notes a cycle that is over, who ran it, and what it asked of the store. Returns before that would survive power loss.
    ///
    /// # Errors
    /// [`Error::State`](crate::error::Error::State) when the file cannot be written; then nothing of it is noted.
    pub fn note_cycle(&self, cycle: &CycleNote, by: &LoopNote, asked: &RequestCounts, day: i64) -> Result<()> {
        let mut conn = self.writer.lock();
        let mut run = || -> rusqlite::Result<()> {
            conn.busy_timeout(NOTE_WAIT)?;
            conn.pragma_update(None, "synchronous", "NORMAL")?;
            let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            insert(&tx, cycle)?;
            let note = serde_json::to_string(by).expect("a note has only text and numbers");
            tx.execute("INSERT OR REPLACE INTO meta VALUES(?1, ?2)", [LOOP_NOTE, &note])?;
            spend(&tx, "cycle", asked, day)?;
            tx.commit()
        };
        let noted = run();
        // Whatever came of it: what says that something is stored must survive power loss.
        let again = conn.pragma_update(None, "synchronous", "FULL").and_then(|()| conn.busy_timeout(BUSY_WAIT));
        noted.and(again).map_err(|e| state_error(&self.path, "cannot note a cycle in it", e))
    }

    /// Counts what was `asked` of the store by `what` (`prune`, `verify`, `heartbeat`) on `day`.
    ///
    /// # Errors
    /// [`Error::State`](crate::error::Error::State) when the file cannot be written.
    pub fn note_spent(&self, what: &str, asked: &RequestCounts, day: i64) -> Result<()> {
        let mut conn = self.writer.lock();
        let mut run = || -> rusqlite::Result<()> {
            let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            spend(&tx, what, asked, day)?;
            tx.commit()
        };
        run().map_err(|e| state_error(&self.path, "cannot count requests in it", e))
    }

    /// Calls `visit` with id, since when (s since 1970) and why, of each database that waited when the state was left.
    ///
    /// # Errors
    /// [`Error::State`](crate::error::Error::State) when the file cannot be read. A row that cannot be is left out.
    pub fn load_backlog(&self, mut visit: impl FnMut(u64, u32, Wait)) -> Result<()> {
        let conn = self.writer.lock();
        let mut run = || -> rusqlite::Result<()> {
            let mut all = conn.prepare("SELECT id, since_s, wait FROM backlog")?;
            let mut rows = all.query([])?;
            while let Some(row) = rows.next()? {
                let int = |at: usize| row.get::<_, i64>(at).ok();
                let since = int(1).and_then(|s| u32::try_from(s).ok());
                if let (Some(id), Some(since), Some(wait)) = (int(0), since, int(2).and_then(Wait::from_code)) {
                    visit(id.cast_unsigned(), since, wait);
                }
            }
            Ok(())
        };
        run().map_err(|e| state_error(&self.path, "cannot read it", e))
    }

    /// The note of who worked on the state last.
    ///
    /// # Errors
    /// [`Error::State`](crate::error::Error::State) when the file cannot be read. One that cannot be understood is none.
    pub fn loop_note(&self) -> Result<Option<LoopNote>> {
        Ok(self.meta(LOOP_NOTE)?.and_then(|note| serde_json::from_str(&note).ok()))
    }

    /// What was recorded before this time (s since 1970; 0 for nothing) may not be the newest that the store has. At most just
    /// after `now_s`: a clock that was ahead would else leave a doubt without end, and damage one that nobody knows.
    ///
    /// # Errors
    /// [`Error::State`](crate::error::Error::State) when the file cannot be read.
    pub fn doubt_s(&self, now_s: i64) -> Result<i64> {
        let note = self.meta(DOUBT_NOTE)?;
        Ok(note.map_or(0, |note| note.parse().unwrap_or(i64::MAX).min(now_s + 1)))
    }

    /// All that the store confirmed is recorded; what is not known of it goes back before `doubt_s`. The next start need
    /// doubt no more than that.
    ///
    /// # Errors
    /// [`Error::State`](crate::error::Error::State) when the file cannot be written.
    pub fn end_cleanly(&self, doubt_s: i64) -> Result<()> {
        let mut conn = self.writer.lock();
        let mut run = || -> rusqlite::Result<()> {
            // The last thing that a process does: whoever asked it to stop is waiting.
            conn.busy_timeout(NOTE_WAIT)?;
            let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            if doubt_s != 0 {
                tx.execute("INSERT OR REPLACE INTO meta VALUES(?1, ?2)", params![DOUBT_NOTE, doubt_s])?;
            }
            tx.execute("DELETE FROM meta WHERE name = ?1", [OPEN_NOTE])?;
            tx.commit()
        };
        run().map_err(|e| state_error(&self.path, "cannot note in it that all is recorded", e))
    }
}

/// Notes that a process works on the state; tells whether the last one ended in the middle of it.
pub(super) fn begin(conn: &Connection) -> rusqlite::Result<bool> {
    let known = conn.query_row("SELECT 1 FROM meta WHERE name = ?1", [OPEN_NOTE], |_| Ok(())).optional()?;
    conn.execute("INSERT OR REPLACE INTO meta VALUES(?1, 1)", [OPEN_NOTE])?;
    Ok(known.is_some())
}

fn insert(tx: &Transaction<'_>, cycle: &CycleNote) -> rusqlite::Result<()> {
    let int = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    tx.prepare_cached("INSERT INTO cycles VALUES(NULL,?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)")?.execute(
        params![
            cycle.started_ms,
            cycle.elapsed_ms,
            cycle.succeeded,
            int(cycle.databases),
            int(cycle.changed),
            int(cycle.stored),
            int(cycle.unchanged_content),
            int(cycle.failed),
            int(cycle.held),
            int(cycle.gone),
            int(cycle.untried),
            int(cycle.read_bytes),
            int(cycle.bytes),
            int(cycle.requests),
            cycle.error,
        ],
    )?;
    let oldest = tx.last_insert_rowid().saturating_sub(CYCLES_KEPT);
    tx.prepare_cached("DELETE FROM cycles WHERE no <= ?1")?.execute([oldest])?;
    Ok(())
}

fn spend(tx: &Transaction<'_>, what: &str, asked: &RequestCounts, day: i64) -> rusqlite::Result<()> {
    for verb in Verb::ALL {
        let n = i64::try_from(asked.of(verb)).unwrap_or(i64::MAX);
        if n > 0 {
            tx.prepare_cached("INSERT INTO spent VALUES(?1,?2,?3,?4) ON CONFLICT DO UPDATE SET requests=requests+?4")?
                .execute(params![day, what, verb.word(), n])?;
            tx.prepare_cached("DELETE FROM spent WHERE day < ?1")?.execute([day - super::notes::DAYS_KEPT])?;
        }
    }
    Ok(())
}

/// That everything here can be read; what is of another shape is damage.
pub(super) fn check(conn: &Connection) -> rusqlite::Result<()> {
    conn.prepare("SELECT id, path, since_s, wait FROM backlog")?;
    conn.prepare(
        "SELECT no, started_ms, elapsed_ms, succeeded, databases, changed, stored, unchanged_content, failed, held, gone,
         untried, read_bytes, bytes, requests, error FROM cycles",
    )?;
    conn.prepare("SELECT day, what, verb, requests FROM spent")?;
    Ok(())
}
