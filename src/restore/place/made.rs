//! Owner and mode of the folders that a run makes: as private as the databases in them.
//!
//! One that directly holds a database is open to the owner, and to the group as far as the database is. One above it has in
//! addition the right to pass for everybody, so that owners of other databases below get to theirs. Which folders were closed to
//! passers is remembered for the run, for a database further down may still come; a run that is killed forgets it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use parking_lot::Mutex;
use rusqlite::Connection;

use super::folder::{Folder, still_unowned};
use super::pending::{chmod, own};
use crate::error::Result;
use crate::object::Description;
use crate::scratch;

/// Passing, for group and others.
const PASS: u32 = 0o011;

/// The folders that this run has made and closed to passers.
#[derive(Debug)]
pub(super) struct Made {
    /// Locked while a folder gets its owner and mode: of two databases that come at once, one is first.
    closed: Mutex<Connection>,
}

impl Made {
    pub(super) fn open() -> Result<Self> {
        let schema = "CREATE TABLE closed(folder BLOB PRIMARY KEY) WITHOUT ROWID";
        Ok(Self { closed: Mutex::new(scratch::open(schema)?) })
    }

    /// Whether this run has made the folder `id` and closed it to passers, going by its present `mode`.
    pub(super) fn is_closed(&self, id: (u64, u64), mode: u32) -> io::Result<bool> {
        if mode & PASS == PASS {
            return Ok(false);
        }
        let closed = self.closed.lock();
        let find = || closed.prepare_cached("SELECT 1 FROM closed WHERE folder = ?1")?.exists([key(id)]);
        find().map_err(no_room)
    }

    /// Gives the folders that were made on the way to `folder` owner and mode for the first database put into them, and lets
    /// others pass through those above `folder`.
    pub(super) fn describe(&self, folder: &Folder, description: &Description) -> io::Result<()> {
        let made = folder.made.get(1..).unwrap_or_default();
        if made.is_empty() {
            return Ok(());
        }
        let closed = self.closed.lock();
        for dir in made {
            let meta = dir.metadata()?;
            let id = (meta.dev(), meta.ino());
            let pass = if id == folder.id { 0 } else { PASS };
            if still_unowned(dir) {
                if pass == 0 {
                    remember(&closed, id).map_err(no_room)?;
                }
                own(dir, description)?;
                chmod(dir, holding(description.mode) | pass)?;
            } else if meta.mode() & pass != pass {
                open_to_passers(dir, meta.mode())?;
            }
        }
        Ok(())
    }
}

/// Mode of a folder for databases of `mode`.
fn holding(mode: u32) -> u32 {
    match mode & 0o060 {
        0o060 => 0o770,
        0o040 => 0o750,
        _ => 0o700,
    }
}

fn open_to_passers(dir: &File, mode: u32) -> io::Result<bool> {
    chmod(dir, mode & 0o777 | PASS)
}

fn remember(closed: &Connection, id: (u64, u64)) -> rusqlite::Result<()> {
    closed.prepare_cached("INSERT OR IGNORE INTO closed VALUES(?1)")?.execute([key(id)])?;
    Ok(())
}

fn key(id: (u64, u64)) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&id.0.to_be_bytes());
    key[8..].copy_from_slice(&id.1.to_be_bytes());
    key
}

fn no_room(error: rusqlite::Error) -> io::Error {
    io::Error::other(scratch::failed(error))
}
