//! All pages of a large database, as SQLite sees them within one read transaction.
//!
//! By the virtual table `sqlite_dbpage`, which gives each page as it is, from the main file or the `-wal`, at the speed of a plain
//! read; the backup API takes several times as long to write a file, and everything that it writes would have to be read again.
//! Where SQLite was built without it, as in a program that embeds this crate, there is the backup API's raw copy.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::large::Sink;
use super::temp::TempCopy;
use crate::control::Control;
use crate::error::{Failure, Reason};

const PAGES: &str = "SELECT pgno, data FROM sqlite_dbpage";

/// Whether this SQLite gives pages.
pub(super) fn are_given() -> bool {
    static GIVEN: LazyLock<bool> =
        LazyLock::new(|| Connection::open_in_memory().is_ok_and(|memory| memory.prepare(PAGES).is_ok()));
    *GIVEN
}

/// Fills `sink` with all pages of `source`, whose read transaction is open. `wrong` sorts SQLite's errors.
pub(super) fn pour(
    source: &Connection,
    page_size: u32,
    sink: &mut dyn Sink,
    control: &Control,
    wrong: impl Fn(rusqlite::Error) -> Failure,
) -> Result<(), Failure> {
    let page_size = usize::try_from(page_size).unwrap_or(usize::MAX);
    let mut pages = source.prepare_cached(PAGES).map_err(&wrong)?;
    let mut rows = pages.query([]).map_err(&wrong)?;
    let mut number = 0;
    while let room @ [_, ..] = sink.room() {
        goes_on(control)?;
        let len = room.len();
        for page in room.chunks_mut(page_size) {
            number += 1;
            let row = rows.next().map_err(&wrong)?;
            page.copy_from_slice(row.and_then(|row| data(row, number, page.len())).ok_or_else(|| not_whole(number))?);
        }
        sink.advance(len)?;
    }
    if rows.next().map_err(&wrong)?.is_some() { Err(not_whole(number + 1)) } else { Ok(()) }
}

/// The content of a page, if it is that of the one expected and of the size that all have.
fn data<'r>(row: &'r Row<'_>, number: i64, page_size: usize) -> Option<&'r [u8]> {
    match (row.get_ref(0), row.get_ref(1)) {
        (Ok(ValueRef::Integer(n)), Ok(ValueRef::Blob(data))) if n == number && data.len() == page_size => Some(data),
        _ => None,
    }
}

fn not_whole(number: i64) -> Failure {
    Failure::new(Reason::CopyFailed, format!("SQLite did not give its page {number} as it should be"))
}

fn goes_on(control: &Control) -> Result<(), Failure> {
    if control.goes_on() { Ok(()) } else { Err(Failure::new(Reason::CopyFailed, "interrupted while it was copied")) }
}

/// A raw copy beside the compressed one; removed when dropped.
pub(super) struct RawCopy(PathBuf);

impl RawCopy {
    /// Nothing is made yet. The name is one that the next start knows.
    pub(super) fn beside(room: &TempCopy) -> Self {
        Self(crate::stamps::sidecar(room.path(), "-raw"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Fills `sink` with all of it.
    pub(super) fn pour(&self, sink: &mut dyn Sink, control: &Control) -> Result<(), Failure> {
        let unreadable =
            |e: std::io::Error| Failure::new(Reason::CopyFailed, format!("cannot read its temporary copy: {e}"));
        let mut file = File::open(&self.0).map_err(unreadable)?;
        while let room @ [_, ..] = sink.room() {
            goes_on(control)?;
            let len = room.len();
            file.read_exact(room).map_err(unreadable)?;
            sink.advance(len)?;
        }
        Ok(())
    }
}

impl Drop for RawCopy {
    fn drop(&mut self) {
        super::temp::remove(&self.0);
    }
}
