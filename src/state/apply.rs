//! A batch of confirmed facts into `state.db`, in one transaction.
//!
//! Ids are hashes, so the rows of a batch lie all over the file: a batch of 10,000 touches most of the pages of a hundred
//! thousand rows. They are taken in the order of their ids, so that each page is read, changed and written once.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Transaction, params};

use super::Change;
use crate::backlog::Wait;
use crate::clock::Nanos;
use crate::stamps::Stamps;

const STORED: &str = "
    INSERT INTO databases(id, dev, ino, size, mtime_ns, ctime_ns, wal_ino, wal_size, wal_mtime_ns, journal_size,
      journal_mtime_ns, stamped_ns, path, prefix, content_hash, key_ms, stored_s)
    VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17)
    ON CONFLICT(id) DO UPDATE SET dev=?2, ino=?3, size=?4, mtime_ns=?5, ctime_ns=?6, wal_ino=?7, wal_size=?8,
      wal_mtime_ns=?9, journal_size=?10, journal_mtime_ns=?11, stamped_ns=?12, path=?13, prefix=?14, content_hash=?15,
      key_ms=?16, stored_s=?17, gone_s=NULL, failed_s=NULL, error=NULL";

/// Stamps are recorded only together with success, so this also ends a failure and an absence.
const STAMPS: &str = "
    UPDATE databases SET dev=?2, ino=?3, size=?4, mtime_ns=?5, ctime_ns=?6, wal_ino=?7, wal_size=?8, wal_mtime_ns=?9,
      journal_size=?10, journal_mtime_ns=?11, stamped_ns=?12, gone_s=NULL, failed_s=NULL, error=NULL
    WHERE id=?1";

/// Applies `batch`, the facts of one database in the order in which they are given.
pub(super) fn apply(tx: &Transaction<'_>, batch: &[&Change]) -> rusqlite::Result<()> {
    let mut by_id = batch.to_vec();
    by_id.sort_by_key(|change| change.id().cast_signed());
    let mut batch = Batch::begin(tx)?;
    for change in by_id {
        batch.apply(change)?;
    }
    Ok(())
}

/// What is found out and prepared once for all facts of a batch.
struct Batch<'t> {
    tx: &'t Transaction<'t>,
    stored: CachedStatement<'t>,
    stamps: CachedStatement<'t>,
    /// Whether anything was asked to be stored again: nobody else can ask while the transaction lasts.
    has_requests: bool,
    /// Whether anything waits.
    has_backlog: bool,
}

impl<'t> Batch<'t> {
    fn begin(tx: &'t Transaction<'t>) -> rusqlite::Result<Self> {
        let has_rows = |sql| tx.prepare_cached(sql)?.exists([]);
        Ok(Self {
            tx,
            stored: tx.prepare_cached(STORED)?,
            stamps: tx.prepare_cached(STAMPS)?,
            has_requests: has_rows("SELECT 1 FROM requests LIMIT 1")?,
            has_backlog: has_rows("SELECT 1 FROM backlog LIMIT 1")?,
        })
    }

    fn apply(&mut self, change: &Change) -> rusqlite::Result<()> {
        match change {
            Change::Stored { id, path, prefix, stamps, stamped_at, content_hash, key_ms, stored_s, bytes: _ } => {
                bind_stamps(&mut self.stored, *id, stamps, *stamped_at)?;
                self.stored.raw_bind_parameter(13, path_value(path))?;
                self.stored.raw_bind_parameter(14, prefix)?;
                self.stored.raw_bind_parameter(15, content_hash.0)?;
                self.stored.raw_bind_parameter(16, key_ms)?;
                self.stored.raw_bind_parameter(17, stored_s)?;
                self.stored.raw_execute()?;
                self.is_settled(*id)
            }
            Change::Same { id, stamps, stamped_at, .. } => {
                self.set_stamps(*id, stamps, *stamped_at)?;
                self.end_wait(*id)
            }
            Change::Waiting { id, path, since_s, wait } => self.wait(*id, path, *since_s, *wait),
            Change::Failed { .. } => self.failed(change),
            Change::Forgotten { id } => {
                let sql = "DELETE FROM databases WHERE id=?1 AND key_ms IS NULL";
                self.tx.prepare_cached(sql)?.execute([id.cast_signed()])?;
                self.is_settled(*id)
            }
            Change::Gone { id, at_s, tombstone_ms } => {
                let sql = "UPDATE databases SET gone_s=?2, tombstone_ms=coalesce(?3,tombstone_ms) WHERE id=?1";
                self.tx.prepare_cached(sql)?.execute(params![id.cast_signed(), at_s, tombstone_ms])?;
                self.is_settled(*id)
            }
        }
    }

    fn failed(&mut self, change: &Change) -> rusqlite::Result<()> {
        let Change::Failed { id, path, prefix, stamps, error, at_s, since_s, maybe_stored } = change else {
            return Ok(());
        };
        if let Some((stamps, stamped_at)) = stamps {
            let sql = "INSERT INTO databases(id, path, prefix) VALUES(?1,?2,?3) ON CONFLICT(id) DO NOTHING";
            self.tx.prepare_cached(sql)?.execute(params![id.cast_signed(), path_value(path), prefix])?;
            self.set_stamps(*id, stamps, *stamped_at)?;
        }
        let sql = "INSERT INTO databases(id, path, failed_s, error) VALUES(?1,?2,?3,?4)
                   ON CONFLICT(id) DO UPDATE SET failed_s=coalesce(failed_s,?3), error=?4, gone_s=NULL,
                   content_hash=iif(?5, NULL, content_hash)";
        let values = params![id.cast_signed(), path_value(path), at_s, error, maybe_stored];
        self.tx.prepare_cached(sql)?.execute(values)?;
        match since_s {
            Some(since_s) => self.wait(*id, path, *since_s, Wait::Failed),
            None => self.end_wait(*id),
        }
    }

    fn set_stamps(&mut self, id: u64, stamps: &Stamps, stamped_at: Nanos) -> rusqlite::Result<()> {
        bind_stamps(&mut self.stamps, id, stamps, stamped_at)?;
        self.stamps.raw_execute().map(drop)
    }

    /// What was asked for is done, or cannot be done any more, and nothing waits.
    fn is_settled(&self, id: u64) -> rusqlite::Result<()> {
        if self.has_requests {
            self.tx.prepare_cached("DELETE FROM requests WHERE id=?1")?.execute([id.cast_signed()])?;
        }
        self.end_wait(id)
    }

    fn end_wait(&self, id: u64) -> rusqlite::Result<()> {
        if self.has_backlog {
            self.tx.prepare_cached("DELETE FROM backlog WHERE id=?1")?.execute([id.cast_signed()])?;
        }
        Ok(())
    }

    fn wait(&mut self, id: u64, path: &Path, since_s: u32, wait: Wait) -> rusqlite::Result<()> {
        self.has_backlog = true;
        let sql = "INSERT OR REPLACE INTO backlog VALUES(?1,?2,?3,?4)";
        self.tx.prepare_cached(sql)?.execute(params![id.cast_signed(), path_value(path), since_s, wait.code()])?;
        Ok(())
    }
}

/// Binds the first twelve parameters, of [`STORED`] and [`STAMPS`] alike.
fn bind_stamps(to: &mut CachedStatement<'_>, id: u64, stamps: &Stamps, stamped_at: Nanos) -> rusqlite::Result<()> {
    let (m, w, j) = (&stamps.main, stamps.wal.as_ref(), stamps.journal.as_ref());
    let values = [
        Some(id.cast_signed()),
        Some(m.dev.cast_signed()),
        Some(m.ino.cast_signed()),
        Some(m.size.cast_signed()),
        Some(m.mtime),
        Some(m.ctime),
        w.map(|w| w.ino.cast_signed()),
        w.map(|w| w.size.cast_signed()),
        w.map(|w| w.mtime),
        j.map(|j| j.size.cast_signed()),
        j.map(|j| j.mtime),
        Some(stamped_at),
    ];
    values.iter().zip(1_usize..).try_for_each(|(value, at)| to.raw_bind_parameter(at, value))
}

/// Paths are text wherever they can be, so that a shell shows them.
fn path_value(path: &Path) -> ToSqlOutput<'_> {
    let bytes = path.as_os_str().as_bytes();
    ToSqlOutput::Borrowed(if path.to_str().is_some() { ValueRef::Text(bytes) } else { ValueRef::Blob(bytes) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::ContentHash;
    use crate::stamps::{FileStat, JournalStamp, WalStamp};
    use crate::state::{Identity, StateDb};

    fn open(dir: &Path) -> StateDb {
        let identity = Identity { store: "s".into(), template: "t".into(), host: "h".into() };
        StateDb::open(&dir.join("state.db"), &identity, 0).unwrap().0
    }

    fn stamps(ino: u64) -> Stamps {
        Stamps {
            wal: Some(WalStamp { ino, size: 32, mtime: 4 }),
            journal: Some(JournalStamp { size: 512, mtime: 5 }),
            ..Stamps::new(&FileStat { ino, size: 4096, mtime: 3, ..FileStat::default() }, None, None)
        }
    }

    fn stored(id: u64, key_ms: i64) -> Change {
        Change::Stored {
            id,
            path: format!("/{id}.db").into(),
            prefix: Some("p".into()),
            stamps: stamps(key_ms.unsigned_abs()),
            stamped_at: key_ms,
            content_hash: ContentHash([7; 16]),
            key_ms,
            stored_s: 9,
            bytes: 1,
        }
    }

    fn failed(id: u64) -> Change {
        Change::Failed {
            id,
            path: format!("/{id}.db").into(),
            prefix: None,
            stamps: None,
            error: "busy: x".into(),
            at_s: 5,
            since_s: Some(4),
            maybe_stored: false,
        }
    }

    fn waiting(db: &StateDb) -> Vec<u64> {
        let mut ids = Vec::new();
        db.load_backlog(|id, _, _| ids.push(id)).unwrap();
        ids
    }

    #[test]
    fn what_is_stored_is_read_back_field_by_field_also_over_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path());
        for (round, id) in [(1, 5), (2, 5), (3, u64::MAX)] {
            db.apply(&[&failed(id), &Change::Gone { id, at_s: 3, tombstone_ms: Some(2) }]).unwrap();
            db.apply(&[&stored(id, round)]).unwrap();
            let row = db.row(id).unwrap().unwrap();
            assert_eq!((row.path.to_str().unwrap(), row.prefix.as_deref()), (&*format!("/{id}.db"), Some("p")));
            assert_eq!((row.stamps, row.stamped_at), (Some(stamps(round.unsigned_abs())), round));
            assert_eq!((row.content_hash, row.key_ms, row.stored_s), (Some(ContentHash([7; 16])), Some(round), 9));
            assert_eq!((row.gone_s, row.tombstone_ms, row.error), (None, Some(2), None));
        }
    }

    #[test]
    fn facts_of_one_database_are_applied_in_their_order_whatever_lies_between_them() {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path());
        let (high, low) = (u64::MAX, 1);
        db.apply(&[&failed(low), &stored(high, 1), &failed(high), &stored(low, 2), &stored(high, 3), &failed(low)])
            .unwrap();
        let errors = [low, high].map(|id| db.row(id).unwrap().unwrap().error);
        assert_eq!(errors, [Some("busy: x".to_owned()), None]);
        assert_eq!(db.row(high).unwrap().unwrap().key_ms, Some(3));
        assert_eq!(waiting(&db), [low], "what waited at first in the very batch that ended it waits no longer");
    }

    #[test]
    fn what_is_not_unicode_is_kept_byte_by_byte() {
        use std::ffi::OsStr;
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path());
        let odd = Path::new(OsStr::from_bytes(b"/data/\xff.db")).to_path_buf();
        let Change::Stored { id, prefix, stamps, stamped_at, content_hash, key_ms, stored_s, bytes, .. } = stored(1, 1)
        else {
            unreachable!("made so")
        };
        let path = odd.clone();
        let change = Change::Stored { id, path, prefix, stamps, stamped_at, content_hash, key_ms, stored_s, bytes };
        db.apply(&[&change]).unwrap();
        assert_eq!(db.row(1).unwrap().unwrap().path, odd);
    }
}
