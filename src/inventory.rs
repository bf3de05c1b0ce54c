//! What `list` and `show` tell: one row per database, per snapshot, per object. Field names are those of the JSON and stay.
//!
//! Pure: rows are made of what the [`catalogue`](crate::catalogue) and descriptions say. Times are UTC, sizes bytes.

use serde::Serialize;

use crate::access::FetchError;
use crate::catalogue::{Database, Snapshot};
use crate::content::ContentHash;
use crate::fs::shown;
use crate::header::JournalMode;
use crate::layout::{KeyKind, parse_key};
use crate::names::decoded;
use crate::object::Description;
use crate::timestamp::Timestamp;

/// One database and what is stored of it, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatabaseRow {
    /// Its name for people, and for `--match` and `--snapshots`.
    pub name: String,
    /// Its key prefix below the store's, as it stands in keys; `--snapshots` and `purge` take it too.
    pub prefix: String,
    /// The time of its newest snapshot; `None` if there is none, only markers or tombstones.
    pub newest: Option<Timestamp>,
    /// Whole seconds since then; negative if the newest snapshot is of a clock that was ahead of ours.
    pub age_s: Option<i64>,
    /// Bytes that all its snapshots take in the store.
    pub stored_bytes: u64,
    /// How many snapshots there are.
    pub snapshots: u64,
    /// How many of them are marked bad.
    pub bad: u64,
    /// The newest snapshot is marked bad.
    pub newest_is_bad: bool,
    /// Since when it is gone from its host; `None` if it is there, as far as the store knows.
    pub gone_since: Option<Timestamp>,
    /// What the newest snapshot says about itself, if that was asked for.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub described: Option<Described>,
}

impl DatabaseRow {
    /// The row of `database` at `now`.
    #[must_use]
    pub fn new(database: &Database, now: Timestamp) -> Self {
        let newest = database.snapshots.last();
        Self {
            name: shown(&decoded(&database.name)).to_string(),
            prefix: database.name.clone(),
            newest: newest.map(|s| s.time),
            age_s: newest.map(|s| (now.as_ms() - s.time.as_ms()).div_euclid(1000)),
            stored_bytes: database.snapshots.iter().map(|s| s.stored_size).sum(),
            snapshots: database.snapshots.len() as u64,
            bad: database.snapshots.iter().filter(|s| s.is_bad).count() as u64,
            newest_is_bad: newest.is_some_and(|s| s.is_bad),
            gone_since: database.gone_at(Timestamp::MAX),
            described: None,
        }
    }
}

/// What an object says about itself, or why that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Described {
    /// Its description, as far as a listing shows it.
    Read {
        /// Bytes of the database.
        raw_bytes: u64,
        /// Host that it was on.
        host: String,
        /// Its path there.
        path: String,
        /// How it was written to.
        journal_mode: JournalMode,
        /// Hash of its content.
        content_hash: ContentHash,
    },
    /// There is none to be had.
    Unreadable {
        /// The fixed word for why: [`FetchError::word`].
        error: &'static str,
        /// The same for people.
        detail: String,
    },
}

impl From<Result<Description, FetchError>> for Described {
    fn from(read: Result<Description, FetchError>) -> Self {
        match read {
            Ok(d) => Self::Read {
                raw_bytes: d.raw_size,
                host: d.host,
                path: shown(&d.path).to_string(),
                journal_mode: d.journal_mode,
                content_hash: d.content_hash,
            },
            Err(e) => Self::Unreadable { error: e.word(), detail: e.to_string() },
        }
    }
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectKind {
    /// The content of a database.
    Snapshot,
    /// Says that the database was gone from its host.
    Tombstone,
    /// Says that a snapshot, which is not there any more, was bad.
    StrayMarker,
}

/// One object of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectRow {
    /// What it is.
    pub kind: ObjectKind,
    /// The time in its key.
    pub time: Timestamp,
    /// Its key below the store's prefix, as `show` takes it.
    pub key: String,
    /// Bytes it takes in the store; known of snapshots only.
    pub stored_bytes: Option<u64>,
    /// A marker says that it is bad.
    pub is_bad: bool,
    /// What it says about itself, if that was asked for.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub described: Option<Described>,
}

impl ObjectRow {
    fn of_snapshot(snapshot: &Snapshot) -> Self {
        Self {
            kind: ObjectKind::Snapshot,
            time: snapshot.time,
            key: snapshot.location.key.clone(),
            stored_bytes: Some(snapshot.stored_size),
            is_bad: snapshot.is_bad,
            described: None,
        }
    }

    fn other(kind: ObjectKind, time: Timestamp, key: String) -> Self {
        Self { kind, time, key, stored_bytes: None, is_bad: kind == ObjectKind::StrayMarker, described: None }
    }
}

/// Every object of `database`, oldest first, but for markers of snapshots that are there: those show as bad.
pub fn objects(database: &Database) -> impl Iterator<Item = ObjectRow> {
    let mut others: Vec<ObjectRow> = Vec::new();
    others.extend(
        database.tombstones.iter().map(|t| ObjectRow::other(ObjectKind::Tombstone, *t, database.tombstone_key(*t))),
    );
    others.extend(
        database.stray_markers.iter().map(|t| ObjectRow::other(ObjectKind::StrayMarker, *t, database.marker_key(*t))),
    );
    others.sort_by_key(|row| (row.time, row.kind));
    let (mut snapshots, mut others) = (database.snapshots.iter().peekable(), others.into_iter().peekable());
    std::iter::from_fn(move || match (snapshots.peek(), others.peek()) {
        (Some(snapshot), Some(other)) if other.time < snapshot.time => others.next(),
        (Some(_), _) => snapshots.next().map(ObjectRow::of_snapshot),
        (None, _) => others.next(),
    })
}

/// `key` as a person gives it, in the forms it may be meant in: below the store's prefix, and, where it begins with that,
/// as the store has it. Both without a slash at the beginning; only keys of ours.
#[must_use]
pub fn keys_meant<'a>(store_prefix: &str, key: &'a str) -> Vec<(&'a str, KeyKind)> {
    let key = key.trim_start_matches('/');
    let below = key.strip_prefix(store_prefix).and_then(|rest| rest.strip_prefix('/'));
    let below = below.filter(|_| !store_prefix.is_empty());
    [Some(key), below].into_iter().flatten().filter_map(|key| Some((key, parse_key(key)?.kind))).collect()
}

/// A span of time in its two largest units, rounded down: `41s`, `3h 12m`, `2y 17d`. Nothing is negative here: a time ahead
/// of our clock was just now.
#[must_use]
pub fn rounded_age(seconds: i64) -> String {
    const UNITS: [(i64, &str); 5] = [(365 * 86_400, "y"), (86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let seconds = seconds.max(0);
    let first = UNITS.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(UNITS.len() - 1);
    let (unit, letter) = UNITS[first];
    let larger = format!("{}{letter}", seconds / unit);
    match UNITS.get(first + 1) {
        Some((smaller, letter)) if seconds % unit >= *smaller => {
            format!("{larger} {}{letter}", seconds % unit / smaller)
        }
        _ => larger,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;
    use crate::error::Error;
    use crate::layout::{bad_marker_key, snapshot_key, tombstone_key};
    use crate::names::Names;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms).unwrap()
    }

    fn database(keys: &[String]) -> Database {
        let mut catalogue = Catalogue::empty().unwrap();
        catalogue.add(&Names::all(), keys.iter().map(|k| (k.as_str(), 100))).unwrap();
        let mut found = Database::default();
        catalogue
            .each::<Error>(|d| {
                found = d;
                Ok(())
            })
            .unwrap();
        found
    }

    #[test]
    fn a_row_counts_what_there_is() {
        let newest = snapshot_key("a%20b.db", at(7000));
        let row = |more: &[String], now| {
            let mut keys = vec![snapshot_key("a%20b.db", at(1000)), newest.clone()];
            keys.extend_from_slice(more);
            DatabaseRow::new(&database(&keys), at(now))
        };
        let plain = row(&[], 10_500);
        assert_eq!((plain.name.as_str(), plain.prefix.as_str()), ("a b.db", "a%20b.db"));
        assert_eq!((plain.newest, plain.age_s), (Some(at(7000)), Some(3)));
        assert_eq!((plain.snapshots, plain.stored_bytes, plain.bad), (2, 200, 0));
        assert_eq!((plain.gone_since, plain.newest_is_bad), (None, false));
        assert_eq!(row(&[], 6999).age_s, Some(-1), "a clock ahead of ours");

        let gone = row(&[tombstone_key("a%20b.db", at(8000)), bad_marker_key(&newest)], 9000);
        assert_eq!((gone.gone_since, gone.newest_is_bad, gone.bad), (Some(at(8000)), true, 1));
        let back = row(&[tombstone_key("a%20b.db", at(2000))], 9000);
        assert_eq!(back.gone_since, None, "it came back after that");

        let empty = DatabaseRow::new(&database(&[tombstone_key("x", at(5))]), at(9));
        assert_eq!((empty.newest, empty.age_s, empty.snapshots, empty.gone_since), (None, None, 0, Some(at(5))));
    }

    #[test]
    fn objects_come_in_the_order_of_time_with_keys_that_can_be_shown() {
        let keys = [
            snapshot_key("a", at(3)),
            snapshot_key("a", at(1)),
            tombstone_key("a", at(2)),
            tombstone_key("a", at(3)),
            bad_marker_key(&snapshot_key("a", at(0))),
            bad_marker_key(&snapshot_key("a", at(1))),
        ];
        let rows: Vec<ObjectRow> = objects(&database(&keys)).collect();
        let told: Vec<_> = rows.iter().map(|r| (r.time.as_ms(), r.kind, r.is_bad)).collect();
        use ObjectKind::{Snapshot, StrayMarker, Tombstone};
        assert_eq!(
            told,
            [
                (0, StrayMarker, true),
                (1, Snapshot, true),
                (2, Tombstone, false),
                (3, Snapshot, false),
                (3, Tombstone, false)
            ]
        );
        for row in rows {
            assert_eq!(keys_meant("", &row.key).len(), 1, "{}", row.key);
        }
    }

    #[test]
    fn keys_are_meant_with_or_without_the_prefix() {
        let key = snapshot_key("srv/a.db", at(1));
        let meant = |prefix: &str, key: &str| -> Vec<String> {
            keys_meant(prefix, key).into_iter().map(|(key, _)| key.to_owned()).collect()
        };
        assert_eq!(meant("", &key), [key.as_str()]);
        assert_eq!(meant("", &format!("/{key}")), [key.as_str()]);
        assert_eq!(meant("v1/x", &format!("v1/x/{key}")), [format!("v1/x/{key}"), key.clone()]);
        // Both are possible: as it is shown comes first.
        assert_eq!(meant("srv", &key), [key.clone(), snapshot_key("a.db", at(1))]);
        assert_eq!(meant("sr", &key), [key]);
        assert!(meant("", "srv/a.db").is_empty());
    }

    #[test]
    fn ages_have_two_units_at_most() {
        for (seconds, text) in [
            (-5, "0s"),
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (61, "1m 1s"),
            (3600, "1h"),
            (3659, "1h"),
            (11_579, "3h 12m"),
            (86_399, "23h 59m"),
            (90_000, "1d 1h"),
            (366 * 86_400, "1y 1d"),
        ] {
            assert_eq!(rounded_age(seconds), text);
        }
    }
}
