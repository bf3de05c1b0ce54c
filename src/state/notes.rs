//! What `state.db` keeps beside the rows of databases: notes by name, requests to store again, counts by day.
//!
//! Other processes write here too, while the loop runs: `litesnap verify` puts ids on the request list, `litesnap
//! forget-gone` leaves a note. Each is one transaction; nothing here is read into memory that lasts longer than a cycle.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::Change;
use super::db::{StateDb, state_error};
use crate::error::Result;

/// The note by which a person accepts that databases are gone: how many, in digits.
pub const ACCEPT_GONE: &str = "accept_gone";

/// How long counts by day are kept, in days.
pub(super) const DAYS_KEPT: i64 = 400;
/// A rate is told over at most so many full days.
const RATE_DAYS: i64 = 7;
const DAY_S: i64 = 86_400;

/// What [`StateDb::open`] adds to a state made before there was such a thing.
pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS requests(
  id INTEGER PRIMARY KEY   -- of a database to be stored again, whatever its stamps say
);
CREATE TABLE IF NOT EXISTS days(
  day INTEGER PRIMARY KEY, -- days since 1970, UTC
  objects INTEGER, bytes INTEGER  -- stored in it
);
";

impl StateDb {
    /// The note called `name`.
    ///
    /// # Errors
    /// [`Error::State`](crate::error::Error::State) when the file cannot be read.
    pub fn meta(&self, name: &str) -> Result<Option<String>> {
        let conn = self.writer.lock();
        let run = || -> rusqlite::Result<Option<String>> {
            // What a shell put there as a number is as good; bytes that damage left are another text, and no error.
            let mut get = conn.prepare_cached("SELECT CAST(value AS BLOB) FROM meta WHERE name = ?1")?;
            let value = get.query_row([name], |row| row.get::<_, Option<Vec<u8>>>(0)).optional()?.flatten();
            Ok(value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        };
        run().map_err(|e| state_error(&self.path, "cannot read it", e))
    }

    /// Leaves a note under `name`, in place of the one there; returns after it would survive power loss.
    ///
    /// # Errors
    /// [`Error::State`](crate::error::Error::State) when the file cannot be written.
    pub fn set_meta(&self, name: &str, value: &str) -> Result<()> {
        let set = self.writer.lock().execute("INSERT OR REPLACE INTO meta VALUES(?1, ?2)", [name, value]);
        set.map(drop).map_err(|e| state_error(&self.path, "cannot leave a note in it", e))
    }

    /// Takes the note `name` away, if it still says `value`.
    ///
    /// # Errors
    /// [`Error::State`](crate::error::Error::State) when the file cannot be written.
    pub fn clear_meta(&self, name: &str, value: &str) -> Result<()> {
        let sql = "DELETE FROM meta WHERE name = ?1 AND CAST(value AS TEXT) = ?2";
        let cleared = self.writer.lock().execute(sql, [name, value]);
        cleared.map(drop).map_err(|e| state_error(&self.path, "cannot take a note out of it", e))
    }

    /// The ids of the databases that are to be stored again.
    ///
    /// # Errors
    /// [`Error::State`](crate::error::Error::State) when the file cannot be read.
    pub fn requests(&self) -> Result<HashSet<u64>> {
        let conn = self.writer.lock();
        let run = || -> rusqlite::Result<HashSet<u64>> {
            let mut all = conn.prepare_cached("SELECT id FROM requests")?;
            all.query_map([], |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()))?.collect()
        };
        run().map_err(|e| state_error(&self.path, "cannot read it", e))
    }

    /// Asks for the databases `ids` to be stored again in the next cycle; ids asked for already stay so.
    ///
    /// # Errors
    /// [`Error::State`](crate::error::Error::State); then none of them is asked for.
    pub fn request(&self, ids: impl IntoIterator<Item = u64>) -> Result<()> {
        self.for_each_id("INSERT OR IGNORE INTO requests VALUES(?1)", ids, "cannot put requests on its list")
    }

    /// Takes `ids` off the list.
    ///
    /// # Errors
    /// [`Error::State`](crate::error::Error::State); then all of them are still on it.
    pub(crate) fn drop_requests(&self, ids: impl IntoIterator<Item = u64>) -> Result<()> {
        self.for_each_id("DELETE FROM requests WHERE id = ?1", ids, "cannot take requests off its list")
    }

    fn for_each_id(&self, sql: &str, ids: impl IntoIterator<Item = u64>, attempt: &str) -> Result<()> {
        let mut conn = self.writer.lock();
        let mut run = |ids: &mut dyn Iterator<Item = u64>| -> rusqlite::Result<()> {
            let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            for id in ids {
                tx.prepare_cached(sql)?.execute([id.cast_signed()])?;
            }
            tx.commit()
        };
        run(&mut ids.into_iter()).map_err(|e| state_error(&self.path, attempt, e))
    }

    /// How many objects were stored a day over the last seven full days before `today` (days since 1970, UTC), or over as
    /// many as there were since the first. The day on which counting began is not a full one, and its objects are those of
    /// the first run: `None` until a full one is over.
    ///
    /// # Errors
    /// [`Error::State`](crate::error::Error::State) when the file cannot be read.
    pub fn objects_per_day(&self, today: i64) -> Result<Option<f64>> {
        objects_per_day(&self.writer.lock(), today).map_err(|e| state_error(&self.path, "cannot read it", e))
    }
}

/// [`StateDb::objects_per_day`], of any connection.
#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
pub(super) fn objects_per_day(conn: &Connection, today: i64) -> rusqlite::Result<Option<f64>> {
    let Some(begin) = first_full_day(conn, today)? else { return Ok(None) };
    let sum = "SELECT total(objects) FROM days WHERE day >= ?1 AND day < ?2";
    let objects: f64 = conn.query_row(sum, [begin, today], |row| row.get(0))?;
    Ok(Some(objects / (today - begin) as f64))
}

/// The first of the last seven days before `today` that were counted in full; `None` until one was.
pub(super) fn first_full_day(conn: &Connection, today: i64) -> rusqlite::Result<Option<i64>> {
    let first: Option<i64> = conn.query_row("SELECT min(day) FROM days", [], |row| row.get(0))?;
    let begin = first.unwrap_or(today).saturating_add(1).max(today - RATE_DAYS);
    Ok((begin < today).then_some(begin))
}

/// The day of a time in seconds since 1970.
#[must_use]
pub fn day_of(time_s: i64) -> i64 {
    time_s.div_euclid(DAY_S)
}

/// Counts what `batch` says was stored, in the transaction that records it.
pub(super) fn count_days(tx: &Transaction<'_>, batch: &[&Change]) -> rusqlite::Result<()> {
    let mut days = std::collections::BTreeMap::<i64, (i64, i64)>::new();
    for change in batch {
        if let Change::Stored { stored_s, bytes, .. } = change {
            let (objects, sum) = days.entry(day_of(i64::from(*stored_s))).or_default();
            *objects += 1;
            *sum = sum.saturating_add(i64::try_from(*bytes).unwrap_or(i64::MAX));
        }
    }
    for (day, (objects, bytes)) in &days {
        tx.prepare_cached(
            "INSERT INTO days VALUES(?1,?2,?3) ON CONFLICT(day) DO UPDATE SET objects=objects+?2, bytes=bytes+?3",
        )?
        .execute(params![day, objects, bytes])?;
    }
    if let Some((today, _)) = days.last_key_value() {
        tx.prepare_cached("DELETE FROM days WHERE day < ?1")?.execute([today - DAYS_KEPT])?;
    }
    Ok(())
}

/// That everything here can be read; what is of another shape is damage.
pub(super) fn check(conn: &Connection) -> rusqlite::Result<()> {
    conn.prepare("SELECT id FROM requests")?;
    conn.prepare("SELECT day, objects, bytes FROM days")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Identity;

    fn open(dir: &std::path::Path) -> StateDb {
        let identity = Identity { store: "s".into(), template: "t".into(), host: "h".into() };
        StateDb::open(&dir.join("state.db"), &identity, 0).unwrap().0
    }

    fn stored(id: u64, day: i64, bytes: u64) -> Change {
        Change::Stored {
            id,
            path: format!("/{id}").into(),
            prefix: None,
            stamps: crate::stamps::Stamps::new(&crate::stamps::FileStat::default(), None, None),
            stamped_at: 0,
            content_hash: crate::content::ContentHash([0; 16]),
            key_ms: 1,
            stored_s: u32::try_from(day * DAY_S + 7).unwrap(),
            bytes,
        }
    }

    #[test]
    fn notes_are_left_replaced_and_taken_away_if_they_still_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path());
        assert_eq!(db.meta("x").unwrap(), None);
        db.set_meta("x", "1").unwrap();
        db.set_meta("x", "2").unwrap();
        db.clear_meta("x", "1").unwrap();
        assert_eq!(open(dir.path()).meta("x").unwrap().as_deref(), Some("2"));
        db.clear_meta("x", "2").unwrap();
        assert_eq!(db.meta("x").unwrap(), None);
    }

    #[test]
    fn a_request_ends_with_the_record_of_its_snapshot_and_with_its_database() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path());
        let ids: Vec<u64> = vec![1, 2, 3, 4, u64::MAX];
        open(dir.path()).request(ids.clone()).unwrap();
        db.request([1, 2]).unwrap();
        assert_eq!(db.requests().unwrap(), ids.into_iter().collect());
        let gone = Change::Gone { id: 3, at_s: 9, tombstone_ms: None };
        db.apply(&[&stored(u64::MAX, 1, 1), &gone, &Change::Forgotten { id: 4 }]).unwrap();
        assert_eq!(db.requests().unwrap(), HashSet::from([1, 2]));
        db.drop_requests([2]).unwrap();
        assert_eq!(db.requests().unwrap(), HashSet::from([1]));
    }

    #[test]
    fn objects_a_day_are_told_over_the_full_days_of_the_last_week() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path());
        let rate = |today| db.objects_per_day(today).unwrap();
        assert_eq!(rate(1000), None, "no history");
        // A first run over a hundred, then three a day, but none on day 1003.
        let first: Vec<Change> = (0..100).map(|id| stored(id, 1000, 10)).collect();
        db.apply(&first.iter().collect::<Vec<_>>()).unwrap();
        for day in [1001, 1002, 1004, 1005, 1006, 1007, 1008, 1009, 1010] {
            db.apply(&[&stored(1, day, 10), &stored(2, day, 20)]).unwrap();
            db.apply(&[&stored(3, day, 30)]).unwrap();
        }
        let expected = [(1000, None), (1001, None), (1002, Some(3.0)), (1003, Some(3.0)), (1004, Some(2.0))];
        for (today, per_day) in expected {
            assert_eq!(rate(today), per_day, "{today}");
        }
        assert_eq!((rate(1011), rate(1009)), (Some(3.0), Some(18.0 / 7.0)));
        assert_eq!((rate(1014), rate(1100)), (Some(12.0 / 7.0), Some(0.0)));
        let count = |sql: &str| db.writer.lock().query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap();
        assert_eq!(count("SELECT bytes FROM days WHERE day = 1001"), 60);
        db.apply(&[&stored(1, 1405, 1)]).unwrap();
        assert_eq!(count("SELECT min(day) FROM days"), 1005, "400 days are kept");
    }
}
