//! What a restore will do: which snapshot of which database goes where. A value on disk, however many they are.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rusqlite::Connection;
use rusqlite::types::{Value, ValueRef};

use super::outcomes::Outcomes;
use super::{RestoreOptions, Target};
use crate::access::{Access, FetchError, Wanted};
use crate::catalogue::{Catalogue, Database, Location, Snapshot};
use crate::error::{Error, Result};
use crate::layout::decode_segment;
use crate::names::decoded;
use crate::scratch;
use crate::timestamp::Timestamp;

const SCHEMA: &str =
    "CREATE TABLE plan(n INTEGER PRIMARY KEY, name TEXT, ms INTEGER, size INTEGER, key TEXT, target BLOB, raw INTEGER)";

/// One database to be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its key prefix below the store's.
    pub name: String,
    /// The time of the snapshot.
    pub time: Timestamp,
    /// The snapshot.
    pub wanted: Wanted,
    /// Where to: relative to the folder it is restored into, absolute if in place.
    pub target: PathBuf,
    /// Bytes of the database, where known.
    pub raw_size: Option<u64>,
}

/// A plan, and why what is not in it is not.
#[derive(Debug)]
pub struct Plan {
    rows: Connection,
    counts: Counts,
    /// For each glob that was given, what it came to.
    globs: Vec<Glob>,
}

/// What came of a glob.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Glob {
    /// Nothing that is stored has such a name.
    #[default]
    Nothing,
    /// All that has one was left out: the word for why, and the detail for the first.
    LeftOut(&'static str, String),
    /// Something was planned, or refused by its own name.
    Something,
}

/// What a plan comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Databases to be restored.
    pub databases: u64,
    /// Bytes that they take in the store.
    pub bytes: u64,
    /// Left out: gone from their host at that time.
    pub deleted: u64,
    /// Left out: their earliest snapshot is later than the time asked for.
    pub later: u64,
    /// Restored from an older snapshot than asked for: the newer ones are marked bad.
    pub older: u64,
    /// The earliest snapshot of those left out as later.
    pub earliest_later: Option<Timestamp>,
    /// Of those left out as deleted, when the last was found gone.
    pub last_deleted: Option<Timestamp>,
}

impl Plan {
    /// Makes the plan of `options` for what is in `catalogue`. What cannot be restored is noted in `outcomes`. In place, one
    /// GET for each database tells where it was.
    pub(super) fn make(
        access: &Access,
        catalogue: &Catalogue,
        options: &RestoreOptions,
        outcomes: &Outcomes,
    ) -> Result<Self> {
        let globs = vec![Glob::Nothing; options.names.texts().len()];
        let mut plan = Self { rows: scratch::open(SCHEMA)?, counts: Counts::default(), globs };
        plan.begin()?;
        catalogue.each::<Error>(|database| plan.consider(&database, options, outcomes))?;
        plan.commit()?;
        if options.target == Target::InPlace {
            plan.find_original_paths(access, outcomes)?;
        }
        plan.refuse_clashes(outcomes)?;
        plan.count()?;
        Ok(plan)
    }

    /// What it comes to.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn begin(&self) -> Result<()> {
        self.rows.execute_batch("BEGIN").map_err(scratch::failed)
    }

    fn commit(&self) -> Result<()> {
        self.rows.execute_batch("COMMIT").map_err(scratch::failed)
    }

    fn consider(&mut self, database: &Database, options: &RestoreOptions, outcomes: &Outcomes) -> Result<()> {
        let time = options.at.unwrap_or(Timestamp::MAX);
        let Some(first) = database.snapshots.first() else { return Ok(()) };
        if let Some(gone) = database.gone_at(time).filter(|_| !options.include_deleted) {
            let what = format!("gone from its host since {}; --include-deleted restores it", gone.to_rfc3339());
            self.leave_out(options, database, "deleted", what);
            self.counts.deleted += 1;
            self.counts.last_deleted = self.counts.last_deleted.max(Some(gone));
            return Ok(());
        }
        let Some(newest) = database.newest_at(time) else {
            let what = format!("its earliest snapshot is of {}", first.time.to_rfc3339());
            self.leave_out(options, database, "later", what);
            self.counts.later += 1;
            self.counts.earliest_later = Some(self.counts.earliest_later.map_or(first.time, |t| t.min(first.time)));
            return Ok(());
        };
        for glob in options.names.hits(&database.name) {
            self.globs[glob] = Glob::Something;
        }
        let usable = |s: &&Snapshot| s.time <= time && (options.include_bad || !s.is_bad);
        let Some(snapshot) = database.snapshots.iter().rev().find(usable) else {
            let what = "all its snapshots are marked bad; --include-bad restores the newest of them all the same";
            return outcomes.failed(&database.name, "only-bad", what);
        };
        if snapshot.time < newest.time {
            self.counts.older += 1;
            outcomes.note(
                &database.name,
                "older",
                &format!(
                    "restored as of {}: the snapshot of {} is marked bad (--include-bad restores it)",
                    snapshot.time.to_rfc3339(),
                    newest.time.to_rfc3339()
                ),
            )?;
        }
        let target = match (&options.target, safe_path(&database.name)) {
            (Target::Into(_), Some(path)) => path,
            (Target::Into(_), None) => {
                return outcomes.failed(
                    &database.name,
                    "unsafe-path",
                    "its name in the store is no path below a folder",
                );
            }
            // Found out below, or only one.
            (Target::InPlace | Target::File(_), _) => PathBuf::new(),
        };
        self.add(&database.name, snapshot, &target)
    }

    fn leave_out(&mut self, options: &RestoreOptions, database: &Database, word: &'static str, what: String) {
        for glob in options.names.hits(&database.name) {
            if self.globs[glob] == Glob::Nothing {
                self.globs[glob] = Glob::LeftOut(word, what.clone());
            }
        }
    }

    /// Notes every glob that came to nothing: what was asked for by name is not silently missing.
    pub(super) fn name_globs_without(&self, options: &RestoreOptions, outcomes: &Outcomes) -> Result<()> {
        for (text, glob) in options.names.texts().iter().zip(&self.globs) {
            match glob {
                Glob::Nothing if !options.if_replica_exists => {
                    outcomes.failed(
                        text,
                        "no-match",
                        "nothing is stored under such a name; `litesnap list` shows all names",
                    )?;
                }
                Glob::LeftOut(word, what) => outcomes.failed(text, word, what)?,
                Glob::Nothing | Glob::Something => {}
            }
        }
        Ok(())
    }

    fn add(&self, name: &str, snapshot: &Snapshot, target: &Path) -> Result<()> {
        let key = &snapshot.location.key;
        let insert = || -> rusqlite::Result<usize> {
            self.rows
                .prepare_cached("INSERT INTO plan(name, ms, size, key, target, raw) VALUES(?1,?2,?3,?4,?5,?6)")?
                .execute((
                    name,
                    snapshot.time.as_ms(),
                    snapshot.stored_size.cast_signed(),
                    key,
                    target.as_os_str().as_bytes(),
                    snapshot.raw_size.map(u64::cast_signed),
                ))
        };
        insert().map(drop).map_err(scratch::failed)
    }

    /// Asks each object where its database was.
    fn find_original_paths(&self, access: &Access, outcomes: &Outcomes) -> Result<()> {
        let mut items = self.items();
        let tasks = std::iter::from_fn(|| items.next()).map(|item| {
            let wanted = item.wanted.clone();
            (item, wanted)
        });
        let mut found =
            scratch::open("CREATE TABLE found(name TEXT PRIMARY KEY, target BLOB, raw INTEGER) WITHOUT ROWID")?;
        let tx = found.transaction().map_err(scratch::failed)?;
        access.describe_each::<_, Error>(tasks, |item, description| {
            let description = match description {
                Ok(description) => description,
                // Ends the whole, below.
                Err(FetchError::Untried) => return Ok(()),
                Err(e) => return outcomes.fetch_failed(&item.name, &e),
            };
            if !is_plain_absolute(&description.path) {
                let what = format!("its original path {:?} is no plain absolute path", description.path);
                return outcomes.failed(&item.name, "unsafe-path", &what);
            }
            let path = description.path.as_os_str().as_bytes();
            tx.prepare_cached("INSERT INTO found VALUES(?1,?2,?3)")
                .and_then(|mut insert| insert.execute((&item.name, path, description.raw_size.cast_signed())))
                .map(drop)
                .map_err(scratch::failed)
        })?;
        tx.commit().map_err(scratch::failed)?;
        if let Some(signal) = access.control.stop_signal() {
            return Err(Error::Interrupted { signal });
        }
        if let Some(failure) = access.down() {
            let what = format!("cannot read from {}: {failure}", access.store.name);
            return Err(Error::Store { what });
        }
        items.end()?;
        self.take_over(&found)
    }

    /// Puts the paths found into the plan, and takes out what none was found of.
    fn take_over(&self, found: &Connection) -> Result<()> {
        let run = || -> rusqlite::Result<()> {
            self.rows.execute_batch("BEGIN")?;
            let mut all = found.prepare("SELECT name, target, raw FROM found")?;
            let mut rows = all.query([])?;
            self.rows.execute_batch("CREATE UNIQUE INDEX names ON plan(name)")?;
            let mut update = self.rows.prepare("UPDATE plan SET target=?2, raw=?3 WHERE name=?1")?;
            while let Some(row) = rows.next()? {
                update.execute((row.get::<_, Value>(0)?, row.get::<_, Value>(1)?, row.get::<_, Value>(2)?))?;
            }
            drop(update);
            self.rows.execute_batch("DELETE FROM plan WHERE length(target)=0; COMMIT")
        };
        run().map_err(scratch::failed)
    }

    /// Two databases for one file: neither is written over the other.
    fn refuse_clashes(&self, outcomes: &Outcomes) -> Result<()> {
        const CLASHING: &str = "SELECT name, other FROM (SELECT name, target, \
             coalesce(lag(name) OVER same, lead(name) OVER same) AS other \
             FROM plan WHERE length(target) > 0 WINDOW same AS (PARTITION BY target ORDER BY name)) WHERE other IS NOT NULL";
        let run = || -> Result<(), rusqlite::Error> {
            self.rows.execute_batch(&format!("CREATE TEMP TABLE clashing AS {CLASHING}"))
        };
        run().map_err(scratch::failed)?;
        let mut all = self.rows.prepare("SELECT name, other FROM clashing").map_err(scratch::failed)?;
        let mut rows = all.query([]).map_err(scratch::failed)?;
        while let Some(row) = rows.next().map_err(scratch::failed)? {
            let name: String = row.get(0).map_err(scratch::failed)?;
            let other: String = row.get(1).map_err(scratch::failed)?;
            let what = format!("{} was at the same path: restore each with --into", decoded(&other).display());
            outcomes.failed(&name, "clash", &what)?;
        }
        self.rows
            .execute_batch("DELETE FROM plan WHERE name IN (SELECT name FROM clashing); DROP TABLE clashing")
            .map_err(scratch::failed)
    }

    fn count(&mut self) -> Result<()> {
        let (databases, bytes): (i64, i64) = self
            .rows
            .query_row("SELECT count(*), coalesce(sum(size), 0) FROM plan", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(scratch::failed)?;
        (self.counts.databases, self.counts.bytes) = (databases.cast_unsigned(), bytes.cast_unsigned());
        Ok(())
    }

    /// All that is to be restored, by name. A failure of the temporary database ends it and is told by [`Items::end`].
    pub(super) fn items(&self) -> Items<'_> {
        Items { rows: &self.rows, page: Vec::new().into_iter(), last: 0, failed: None }
    }
}

/// The items of a plan, a page at a time: the plan can be read while others write elsewhere.
pub(super) struct Items<'a> {
    rows: &'a Connection,
    page: std::vec::IntoIter<Item>,
    last: i64,
    failed: Option<rusqlite::Error>,
}

const PAGE: i64 = 500;

impl Items<'_> {
    /// Whether all were read.
    pub(super) fn end(self) -> Result<()> {
        self.failed.map_or(Ok(()), |e| Err(scratch::failed(e)))
    }

    fn read(&mut self) -> rusqlite::Result<Vec<Item>> {
        let mut page = self
            .rows
            .prepare_cached("SELECT n, name, ms, size, key, target, raw FROM plan WHERE n > ?1 ORDER BY n LIMIT ?2")?;
        let mut rows = page.query((self.last, PAGE))?;
        let mut items = Vec::new();
        while let Some(row) = rows.next()? {
            self.last = row.get(0)?;
            let target = match row.get_ref(5)? {
                ValueRef::Blob(bytes) | ValueRef::Text(bytes) => PathBuf::from(OsStr::from_bytes(bytes)),
                _ => PathBuf::new(),
            };
            items.push(Item {
                name: row.get(1)?,
                time: Timestamp::from_ms(row.get(2)?).unwrap_or(Timestamp::MIN),
                wanted: Wanted {
                    location: Location { key: row.get(4)?, range: None },
                    size: row.get::<_, i64>(3)?.cast_unsigned(),
                },
                target,
                raw_size: row.get::<_, Option<i64>>(6)?.map(i64::cast_unsigned),
            });
        }
        Ok(items)
    }
}

impl Iterator for Items<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        if let Some(item) = self.page.next() {
            return Some(item);
        }
        match self.read() {
            Ok(items) => self.page = items.into_iter(),
            Err(e) => self.failed = Some(e),
        }
        self.page.next()
    }
}

/// The path below a folder that a key prefix stands for; `None` unless every part decodes to the name of one file.
pub(crate) fn safe_path(name: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for part in name.split('/') {
        let bytes = decode_segment(part)?;
        if bytes.is_empty() || matches!(bytes.as_slice(), b"." | b"..") || bytes.contains(&b'/') || bytes.contains(&0) {
            return None;
        }
        path.push(OsStr::from_bytes(&bytes));
    }
    Some(path)
}

/// Whether `path` is absolute, names a file, and goes nowhere by `..`.
pub(crate) fn is_plain_absolute(path: &Path) -> bool {
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    path.is_absolute() && plain && path.file_name().is_some() && !path.as_os_str().as_bytes().contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_become_paths() {
        for (name, expected) in [
            ("srv/app/acme.db", Some("srv/app/acme.db")),
            ("srv/my%20app.db", Some("srv/my app.db")),
            ("a", Some("a")),
            ("a/%2E%2E/b", None),
            ("%2E/b", None),
            ("a/b%2Fc", None),
            ("a/%00", None),
            ("a/%zz", None),
            ("a//b", None),
        ] {
            assert_eq!(safe_path(name), expected.map(PathBuf::from), "{name}");
        }
        for (path, expected) in [("/a/b.db", true), ("a/b.db", false), ("/a/../b.db", false), ("/", false), ("", false)]
        {
            assert_eq!(is_plain_absolute(Path::new(path)), expected, "{path}");
        }
    }
}
