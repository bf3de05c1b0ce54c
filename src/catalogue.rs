//! What there is in a store: databases, and the snapshots of each, with where they lie.
//!
//! Filled from LIST, in whatever order the store lists, into a temporary database on disk, and read from there sorted and one
//! database at a time: memory does not grow with the store. Only this module and [`layout`](crate::layout) know how keys look;
//! whoever uses it goes by [`Location`].

use std::ops::Range;

use rusqlite::Connection;

use crate::content::ContentHash;
use crate::error::{Error, Result};
use crate::layout::{
    KeyKind, ParsedKey, bad_marker_key, is_made, parse_heartbeat, parse_key, snapshot_key, tombstone_key,
};
use crate::names::Names;
use crate::scratch;
use crate::timestamp::Timestamp;

const SCHEMA: &str = "CREATE TABLE objects(name TEXT, ms INTEGER, kind INTEGER, size INTEGER, written INTEGER)";
/// As stored; the order in which those of one time come.
const SNAPSHOT: i64 = 0;
const BAD_MARKER: i64 = 1;
const TOMBSTONE: i64 = 2;

/// Where a snapshot lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Location {
    /// Key below the store's prefix.
    pub key: String,
    /// The bytes of the object under that key which are this snapshot; `None` for all of them.
    pub range: Option<Range<u64>>,
}

/// One snapshot of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The time in its key.
    pub time: Timestamp,
    /// Bytes it takes in the store.
    pub stored_size: u64,
    /// Bytes of the database, where known without reading the snapshot.
    pub raw_size: Option<u64>,
    /// Hash of its content, where known without reading the snapshot.
    pub content_hash: Option<ContentHash>,
    /// A marker says that it is bad.
    pub is_bad: bool,
    /// Where it lies.
    pub location: Location,
}

/// One database and all that is stored of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Database {
    /// Its key prefix below the store's: encoded, as [`decoded`](crate::names::decoded) reads it.
    pub name: String,
    /// Its snapshots, oldest first. May be empty: a tombstone or a marker may be all that is left.
    pub snapshots: Vec<Snapshot>,
    /// When it was found gone from its host, oldest first.
    pub tombstones: Vec<Timestamp>,
    /// When the store was given the newest of them, by its own clock, where it says so: whoever may put can choose the time
    /// in a key, but not this one.
    pub told_gone: Option<Timestamp>,
    /// Times of markers whose snapshot is not there any more, oldest first.
    pub stray_markers: Vec<Timestamp>,
}

impl Database {
    /// The newest snapshot not after `time`.
    #[must_use]
    pub fn newest_at(&self, time: Timestamp) -> Option<&Snapshot> {
        self.snapshots.iter().rev().find(|s| s.time <= time)
    }

    /// The time of the tombstone that says that at `time` the database was gone: one not after it, with no snapshot between.
    #[must_use]
    pub fn gone_at(&self, time: Timestamp) -> Option<Timestamp> {
        let tombstone = self.tombstones.iter().rev().find(|t| **t <= time)?;
        let came_back = self.newest_at(time).is_some_and(|s| s.time > *tombstone);
        (!came_back).then_some(*tombstone)
    }

    /// The key, below the store's prefix, of its tombstone of `time`.
    #[must_use]
    pub fn tombstone_key(&self, time: Timestamp) -> String {
        tombstone_key(&self.name, time)
    }

    /// The key, below the store's prefix, of the marker that says that its snapshot of `time` is bad.
    #[must_use]
    pub fn marker_key(&self, time: Timestamp) -> String {
        bad_marker_key(&snapshot_key(&self.name, time))
    }
}

/// What was listed, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Snapshots.
    pub snapshots: u64,
    /// Bytes they take in the store.
    pub bytes: u64,
    /// Objects that are not of our making; nothing touches them.
    pub foreign: u64,
    /// Heartbeats: of no database.
    pub heartbeats: u64,
}

/// All that there is of the databases asked for.
#[derive(Debug)]
pub struct Catalogue {
    rows: Connection,
    totals: Totals,
    written: Option<Timestamp>,
}

impl Catalogue {
    /// An empty one.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no room for temporary files.
    pub fn empty() -> Result<Self> {
        Ok(Self { rows: scratch::open(SCHEMA)?, totals: Totals::default(), written: None })
    }

    /// Adds what a listing gave, keys below the store's prefix with their sizes, as far as `names` wants it; in any order.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no room for temporary files.
    pub fn add<'a>(&mut self, names: &Names, listed: impl IntoIterator<Item = (&'a str, u64)>) -> Result<()> {
        self.add_written(names, listed.into_iter().map(|(key, size)| (key, size, i64::MIN)))
    }

    /// The same with when, by the store's own clock, each object was written, in milliseconds since the epoch.
    pub(crate) fn add_written<'a>(
        &mut self,
        names: &Names,
        listed: impl IntoIterator<Item = (&'a str, u64, i64)>,
    ) -> Result<()> {
        let tx = self.rows.transaction().map_err(scratch::failed)?;
        for (key, size, written_ms) in listed {
            let Some(ParsedKey { prefix, ts, kind }) = parse_key(key) else {
                // A heartbeat is ours, and nothing of a database.
                let is_heartbeat = parse_heartbeat(key).is_some();
                self.totals.heartbeats += u64::from(is_heartbeat);
                self.totals.foreign += u64::from(!is_heartbeat);
                continue;
            };
            if !names.matches(prefix) {
                continue;
            }
            // Somebody else's file may bear any time.
            let written = self.written.max(Timestamp::from_ms(written_ms));
            if written > self.written && is_made(prefix) {
                self.written = written;
            }
            let kind = match kind {
                KeyKind::Snapshot => SNAPSHOT,
                KeyKind::BadMarker => BAD_MARKER,
                KeyKind::Tombstone => TOMBSTONE,
            };
            if kind == SNAPSHOT {
                self.totals.snapshots += 1;
                self.totals.bytes += size;
            }
            tx.prepare_cached("INSERT INTO objects VALUES(?1,?2,?3,?4,?5)")
                .and_then(|mut insert| insert.execute((prefix, ts.as_ms(), kind, size.cast_signed(), written_ms)))
                .map_err(scratch::failed)?;
        }
        tx.commit().map_err(scratch::failed)
    }

    /// The globs of `names` that no database matches.
    ///
    /// # Errors
    /// [`Error::Io`] if the temporary database fails.
    pub fn unmatched<'n>(&self, names: &'n Names) -> Result<Vec<&'n str>> {
        let mut hit = vec![false; names.texts().len()];
        self.each::<Error>(|database| {
            names.hits(&database.name).for_each(|glob| hit[glob] = true);
            Ok(())
        })?;
        Ok(names.texts().iter().zip(hit).filter(|(_, hit)| !hit).map(|(text, _)| text.as_str()).collect())
    }

    /// What was listed, counted.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Counts `n` things that a listing could not show, for they can be no objects.
    pub(crate) fn add_foreign(&mut self, n: u64) {
        self.totals.foreign += n;
    }

    /// When the newest of the listed objects of ours was written, by the store's own clock: no later than the time it is now.
    #[must_use]
    pub fn newest_written(&self) -> Option<Timestamp> {
        self.written
    }

    /// Calls `visit` with every database in the order of the names' bytes. Ends with its first error.
    ///
    /// # Errors
    /// That of `visit`; [`Error::Io`] if there is no room for temporary files.
    pub fn each<E: From<Error>>(&self, mut visit: impl FnMut(Database) -> Result<(), E>) -> Result<(), E> {
        let failed = |e| E::from(scratch::failed(e));
        let mut sorted = self
            .rows
            .prepare("SELECT name, ms, kind, size, written FROM objects ORDER BY name, ms, kind, written")
            .map_err(failed)?;
        let mut rows = sorted.query([]).map_err(failed)?;
        let mut database = Database::default();
        while let Some(row) = rows.next().map_err(failed)? {
            let name = row.get_ref(0).and_then(|v| Ok(v.as_str()?)).map_err(failed)?;
            if name != database.name {
                let next = Database { name: name.to_owned(), ..Database::default() };
                let done = std::mem::replace(&mut database, next);
                if !done.name.is_empty() {
                    visit(done)?;
                }
            }
            let numbers = (row.get(1), row.get(2), row.get::<_, i64>(3));
            let (ms, kind, size) = (numbers.0.map_err(failed)?, numbers.1.map_err(failed)?, numbers.2.map_err(failed)?);
            let time = Timestamp::from_ms(ms).expect("only times that were parsed were added");
            take(&mut database, time, kind, size.cast_unsigned());
            if kind == TOMBSTONE {
                database.told_gone = Timestamp::from_ms(row.get(4).map_err(failed)?);
            }
        }
        if !database.name.is_empty() {
            visit(database)?;
        }
        Ok(())
    }
}

/// Adds one row to the database it belongs to; rows come in the order of time, a marker after its snapshot. A key that was
/// listed twice counts once: of two snapshots a rule could let one go.
fn take(database: &mut Database, time: Timestamp, kind: i64, stored_size: u64) {
    match kind {
        SNAPSHOT if database.snapshots.last().is_some_and(|s| s.time == time) => {}
        TOMBSTONE if database.tombstones.last() == Some(&time) => {}
        BAD_MARKER if database.stray_markers.last() == Some(&time) => {}
        TOMBSTONE => database.tombstones.push(time),
        BAD_MARKER => match database.snapshots.last_mut() {
            Some(snapshot) if snapshot.time == time => snapshot.is_bad = true,
            _ => database.stray_markers.push(time),
        },
        _ => database.snapshots.push(Snapshot {
            time,
            stored_size,
            raw_size: None,
            content_hash: None,
            is_bad: false,
            location: Location { key: snapshot_key(&database.name, time), range: None },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{heartbeat_key, heartbeats_of};

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms).unwrap()
    }

    fn all(catalogue: &Catalogue) -> Vec<Database> {
        let mut all = Vec::new();
        catalogue
            .each::<Error>(|d| {
                all.push(d);
                Ok(())
            })
            .unwrap();
        all
    }

    #[test]
    fn whatever_the_order_of_the_listing_databases_come_sorted_and_whole() {
        // One name below another, as after a file became a folder; a sibling that sorts between them as text.
        let (a, below, sibling) = ("x/a", "x/a/2.db", "x/a-b");
        let mut keys = vec![
            "x/readme.txt".to_owned(),
            "x/a/20261121T063339.123Z.db".to_owned(),
            bad_marker_key(&snapshot_key(a, at(9))),
            heartbeat_key(&heartbeats_of("x"), at(5)),
        ];
        for name in [a, below, sibling] {
            keys.extend([3, 1, 2].map(|ms| snapshot_key(name, at(ms))));
        }
        keys.extend([tombstone_key(a, at(4)), bad_marker_key(&snapshot_key(a, at(2)))]);
        for seed in 0..4_usize {
            keys.rotate_left(seed);
            let mut catalogue = Catalogue::empty().unwrap();
            // Listed twice, as no store should: counted once.
            for _ in 0..2 {
                catalogue.add(&Names::all(), keys.iter().map(|k| (k.as_str(), 10))).unwrap();
            }
            let found = all(&catalogue);
            assert_eq!(found.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), [a, sibling, below]);
            for database in &found {
                assert_eq!(database.snapshots.iter().map(|s| s.time.as_ms()).collect::<Vec<_>>(), [1, 2, 3]);
                assert!(database.snapshots.iter().all(|s| parse_key(&s.location.key).unwrap().prefix == database.name));
            }
            assert_eq!(found[0].snapshots.iter().map(|s| s.is_bad).collect::<Vec<_>>(), [false, true, false]);
            assert_eq!((&found[0].tombstones, &found[0].stray_markers), (&vec![at(4)], &vec![at(9)]));
            assert_eq!(catalogue.totals().foreign, 4, "heartbeats are not foreign");
        }
    }

    #[test]
    fn at_a_time_it_is_what_it_was() {
        let mut catalogue = Catalogue::empty().unwrap();
        let keys = [
            snapshot_key("a", at(10)),
            tombstone_key("a", at(20)),
            snapshot_key("a", at(30)),
            tombstone_key("a", at(40)),
        ];
        catalogue.add(&Names::all(), keys.iter().map(|k| (k.as_str(), 1))).unwrap();
        let a = &all(&catalogue)[0];
        for (time, newest, gone) in [
            (9, None, None),
            (10, Some(10), None),
            (19, Some(10), None),
            (20, Some(10), Some(20)),
            (30, Some(30), None),
            (99, Some(30), Some(40)),
        ] {
            assert_eq!(a.newest_at(at(time)).map(|s| s.time.as_ms()), newest, "{time}");
            assert_eq!(a.gone_at(at(time)).map(Timestamp::as_ms), gone, "{time}");
        }
    }
}
