//! What is to be deleted: decided database by database, then kept on disk in the order in which it will go.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::report::PruneReport;
use super::{Decided, Observer};
use crate::catalogue::Database;
use crate::error::{Error, Result};
use crate::layout::{KeyKind, ParsedKey, heartbeat_key};
use crate::retention::{Candidate, Rules, Verdict, decide};
use crate::scratch;
use crate::timestamp::Timestamp;

/// All of tier 0 goes before anything of tier 1. Of the databases in `failed` nothing of tier 1 goes.
const SCHEMA: &str = "
    CREATE TABLE doomed(tier INTEGER, id INTEGER, name TEXT, ms INTEGER, kind INTEGER, size INTEGER, closes INTEGER,
        PRIMARY KEY(tier, id)) WITHOUT ROWID;
    CREATE TABLE failed(name TEXT PRIMARY KEY) WITHOUT ROWID";

/// By their numbers in the column `kind`; the last is a heartbeat, which is of no database.
const KINDS: [Option<KeyKind>; 4] = [Some(KeyKind::Snapshot), Some(KeyKind::BadMarker), Some(KeyKind::Tombstone), None];

/// Snapshots; then what says something about them.
pub(super) const TIERS: [i64; 2] = [0, 1];

/// What becomes of one database.
pub(super) struct Fate {
    /// Everything of it goes.
    pub(super) is_erased: bool,
    /// In the order of its snapshots.
    pub(super) verdicts: Vec<Verdict>,
    /// Its tombstones that go, oldest first.
    pub(super) tombstones: Vec<Timestamp>,
}

/// One object that goes.
#[derive(Debug, Clone)]
pub(super) struct Doomed {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) time: Timestamp,
    /// `None` for a heartbeat.
    pub(super) kind: Option<KeyKind>,
    /// Bytes it takes in the store; 0 but for snapshots.
    pub(super) size: u64,
    /// With it the last of a database is gone.
    pub(super) closes: bool,
}

impl Doomed {
    /// Its key below the store's prefix.
    pub(super) fn key(&self) -> String {
        match self.kind {
            Some(kind) => ParsedKey { prefix: &self.name, ts: self.time, kind }.key(),
            None => heartbeat_key(&self.name, self.time),
        }
    }
}

/// The newest time at which anything happened to it, as far as its keys tell.
pub(super) fn newest_event(database: &Database) -> Option<Timestamp> {
    database.snapshots.last().map(|s| s.time).max(database.tombstones.last().copied())
}

/// Whether it was gone from its host at `time`, for `deleted_after` or longer; and the store has known it for as long, so
/// that nobody who may only put can have a database erased by a tombstone with a time of long ago.
pub(super) fn is_erased(database: &Database, deleted_after: Option<Duration>, time: Timestamp) -> bool {
    let Some(age_ms) = deleted_after.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX)) else {
        return false;
    };
    let gone = database.tombstones.last().filter(|tombstone| Some(**tombstone) == newest_event(database));
    let since = gone.map(|tombstone| database.told_gone.map_or(*tombstone, |told| told.max(*tombstone)));
    since.is_some_and(|since| time.as_ms() - since.as_ms() >= age_ms)
}

/// Everything goes.
pub(super) fn everything(database: &Database) -> Fate {
    Fate {
        is_erased: true,
        verdicts: vec![Verdict::Remove; database.snapshots.len()],
        tombstones: database.tombstones.clone(),
    }
}

/// Decides about one database at `time`. A tombstone stays while a snapshot that stays is older, whose database would
/// else look alive after it, and while it is the newest event.
pub(super) fn judge(database: &Database, rules: &Rules, deleted_after: Option<Duration>, time: Timestamp) -> Fate {
    if is_erased(database, deleted_after, time) {
        return everything(database);
    }
    let candidates: Vec<_> = database.snapshots.iter().map(|s| Candidate { time: s.time, is_bad: s.is_bad }).collect();
    let verdicts = decide(rules, time, &candidates);
    let oldest_kept = candidates.iter().zip(&verdicts).find(|(_, v)| **v != Verdict::Remove).map(|(c, _)| c.time);
    let newest = newest_event(database);
    let stays = |t: &Timestamp| Some(*t) == newest || oldest_kept.is_some_and(|oldest| oldest <= *t);
    let tombstones = database.tombstones.iter().copied().filter(|t| !stays(t)).collect();
    Fate { is_erased: false, verdicts, tombstones }
}

/// Markers that go: of snapshots that go, and those without one.
fn markers<'a>(database: &'a Database, fate: &'a Fate) -> impl Iterator<Item = Timestamp> + 'a {
    let going = database.snapshots.iter().zip(&fate.verdicts).filter(|(s, v)| s.is_bad && **v == Verdict::Remove);
    going.map(|(s, _)| s.time).chain(database.stray_markers.iter().copied())
}

/// Tells `observer` what was decided.
pub(super) fn tell(database: &Database, fate: &Fate, observer: &dyn Observer) {
    let tell = |time, kind, verdict| {
        observer.decided(&Decided { name: &database.name, time, kind, verdict, is_erased: fate.is_erased });
    };
    database.snapshots.iter().zip(&fate.verdicts).for_each(|(s, verdict)| tell(s.time, KeyKind::Snapshot, *verdict));
    markers(database, fate).for_each(|time| tell(time, KeyKind::BadMarker, Verdict::Remove));
    fate.tombstones.iter().for_each(|time| tell(*time, KeyKind::Tombstone, Verdict::Remove));
}

/// Everything that is to go.
pub(super) struct Plan {
    rows: Connection,
    len: i64,
}

impl Plan {
    pub(super) fn empty() -> Result<Self> {
        Ok(Self { rows: scratch::open(SCHEMA)?, len: 0 })
    }

    /// How many objects will go.
    pub(super) fn len(&self) -> u64 {
        self.len.cast_unsigned()
    }

    /// Adds what goes of `database`.
    pub(super) fn add(&mut self, database: &Database, fate: &Fate) -> Result<()> {
        let going = database.snapshots.iter().zip(&fate.verdicts).filter(|(_, v)| **v == Verdict::Remove);
        for (snapshot, _) in going {
            self.push(0, &database.name, snapshot.time, KeyKind::Snapshot, snapshot.stored_size, false)?;
        }
        for time in markers(database, fate) {
            self.push(1, &database.name, time, KeyKind::BadMarker, 0, false)?;
        }
        let last = fate.tombstones.last();
        for time in &fate.tombstones {
            let closes = fate.is_erased && last == Some(time);
            self.push(1, &database.name, *time, KeyKind::Tombstone, 0, closes)?;
        }
        Ok(())
    }

    /// Adds the heartbeat of `time` below `prefix`.
    pub(super) fn add_heartbeat(&mut self, prefix: &str, time: Timestamp) -> Result<()> {
        self.push(0, prefix, time, None, 0, false)
    }

    fn push(
        &mut self,
        tier: i64,
        name: &str,
        time: Timestamp,
        kind: impl Into<Option<KeyKind>>,
        size: u64,
        closes: bool,
    ) -> Result<()> {
        self.len += 1;
        let kind = kind.into();
        let number = KINDS.iter().position(|known| *known == kind).expect("every kind is among them");
        self.rows
            .prepare_cached("INSERT INTO doomed VALUES(?1,?2,?3,?4,?5,?6,?7)")
            .and_then(|mut insert| {
                insert.execute((tier, self.len, name, time.as_ms(), number.cast_signed(), size.cast_signed(), closes))
            })
            .map_err(scratch::failed)
            .map(|_| ())
    }

    /// At most `n` of a tier, after the one whose id is `after`.
    pub(super) fn batch(&self, tier: i64, after: i64, n: u32) -> Result<Vec<Doomed>> {
        let select = "SELECT id, name, ms, kind, size, closes FROM doomed WHERE tier=?1 AND id>?2 ORDER BY id LIMIT ?3";
        let read = || -> rusqlite::Result<Vec<Doomed>> {
            let mut select = self.rows.prepare_cached(select)?;
            let rows = select.query_map((tier, after, n), |row| {
                let kind: u8 = row.get(3)?;
                Ok(Doomed {
                    id: row.get(0)?,
                    name: row.get(1)?,
                    time: Timestamp::from_ms(row.get(2)?).expect("only times that were parsed were added"),
                    kind: KINDS[usize::from(kind)],
                    size: row.get::<_, i64>(4)?.cast_unsigned(),
                    closes: row.get(5)?,
                })
            })?;
            rows.collect()
        };
        read().map_err(scratch::failed)
    }

    /// Something of the database `name` could not be deleted.
    pub(super) fn note_failed(&self, name: &str) -> Result<()> {
        let noted = self.rows.execute("INSERT OR IGNORE INTO failed VALUES(?1)", [name]);
        noted.map(|_| ()).map_err(scratch::failed)
    }

    /// Whether something of the database `name` could not be deleted.
    pub(super) fn has_failed(&self, name: &str) -> Result<bool> {
        let found = self.rows.query_row("SELECT 1 FROM failed WHERE name=?1", [name], |_| Ok(())).optional();
        found.map(|found| found.is_some()).map_err(scratch::failed)
    }

    /// Counts all of it as if it were done.
    pub(super) fn add_to(&self, report: &mut PruneReport) -> Result<()> {
        for tier in TIERS {
            let mut after = 0;
            loop {
                let batch = self.batch(tier, after, 1000)?;
                let Some(last) = batch.last() else { break };
                after = last.id;
                batch.iter().for_each(|doomed| report.add(doomed));
            }
        }
        Ok::<(), Error>(())
    }
}
