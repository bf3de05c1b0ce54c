//! Rows read ahead: those of the databases of one wave, a few dozen in one read transaction, for the locks of a transaction cost
//! more than a row does.
//!
//! For rows that nobody changes before they are taken: each database is in a wave once, and what went before is recorded.

use parking_lot::Mutex;

use super::{Row, StateDb};
use crate::error::Result;

/// Rows read at once. The threads of a cycle take databases in runs of neighbours, so nearly all are used by who reads them.
const AT_ONCE: usize = 64;

/// The rows of some databases, each to be taken once.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    db: &'a StateDb,
    ids: Vec<u64>,
    /// [`AT_ONCE`] rows each, once they are read; `None` where they could not be.
    read: Vec<Mutex<Option<Chunk>>>,
}

/// What is left of rows read at once; `None` where there was none, or it was taken.
type Chunk = Vec<Option<Box<Row>>>;

impl<'a> Rows<'a> {
    /// Those of `ids`, which are known by their place from now on.
    pub(crate) fn new(db: &'a StateDb, ids: impl Iterator<Item = u64>) -> Self {
        let ids: Vec<u64> = ids.collect();
        let read = ids.chunks(AT_ONCE).map(|_| Mutex::default()).collect();
        Self { db, ids, read }
    }

    /// Takes the row of the `n`th id, if there is one.
    ///
    /// # Errors
    /// [`Error::State`](crate::error::Error::State) when the file cannot be read.
    pub(crate) fn take(&self, n: usize) -> Result<Option<Row>> {
        let chunk = n / AT_ONCE;
        let mut read = self.read[chunk].lock();
        if read.is_none() {
            // What cannot be read is tried again, one by one: the error is then told of the database that it is about.
            *read = self.db.rows(self.ids.chunks(AT_ONCE).nth(chunk).unwrap_or_default()).ok();
        }
        match &mut *read {
            Some(rows) => Ok(rows[n % AT_ONCE].take().map(|row| *row)),
            None => self.db.row(self.ids[n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::ContentHash;
    use crate::stamps::Stamps;
    use crate::state::{Change, Identity};

    fn db(dir: &std::path::Path) -> StateDb {
        let identity = Identity { store: "s".into(), template: "{{path}}".into(), host: "h".into() };
        StateDb::open(&dir.join("state.db"), &identity, 0).unwrap().0
    }

    fn stored(id: u64) -> Change {
        Change::Stored {
            id,
            path: format!("/{id}").into(),
            prefix: None,
            stamps: Stamps::default(),
            stamped_at: 1,
            content_hash: ContentHash([0; 16]),
            key_ms: 2,
            stored_s: 3,
            bytes: 4,
        }
    }

    #[test]
    fn each_row_is_the_one_of_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let db = db(dir.path());
        let (there, asked) = (|id: &u64| !id.is_multiple_of(3), 0..1000_u64);
        let changes: Vec<Change> = asked.clone().filter(there).map(stored).collect();
        db.apply(&changes.iter().collect::<Vec<_>>()).unwrap();
        let rows = Rows::new(&db, asked.clone());
        for id in asked.rev() {
            let row = rows.take(usize::try_from(id).unwrap()).unwrap();
            assert_eq!(row.as_ref().map(|row| row.id), Some(id).filter(there));
            assert_eq!(row, db.row(id).unwrap());
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error_for_each_that_asks() {
        let dir = tempfile::tempdir().unwrap();
        let db = db(dir.path());
        db.apply(&[&stored(1)]).unwrap();
        let other = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
        other.execute_batch("DROP VIEW snapshots; ALTER TABLE databases RENAME TO gone").unwrap();
        let rows = Rows::new(&db, [1, 2].into_iter());
        assert!(rows.take(0).is_err() && rows.take(1).is_err());
        other.execute_batch("ALTER TABLE gone RENAME TO databases").unwrap();
        assert_eq!(rows.take(0).unwrap().map(|row| row.id), Some(1));
    }
}
