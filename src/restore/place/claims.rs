//! Which targets this run has taken: a second database for one of them is refused, whatever became of the first.
//!
//! By folder and name, not by path: one folder may be reached by several. Memory is bounded for any number of them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension};
use twox_hash::xxhash3_128::Hasher;

use super::refusal::{CLASH, NO_SPACE, Refusal};
use super::target::{SUFFIXES, Spot};
use crate::error::Result;
use crate::fs::shown;
use crate::scratch;

#[derive(Debug)]
pub(super) struct Claims {
    /// `is_target` is 0 for a name whose sidecar, by its name, is a target.
    taken: Mutex<Connection>,
}

impl Claims {
    pub(super) fn open() -> Result<Self> {
        let schema = "CREATE TABLE taken(hash BLOB PRIMARY KEY, is_target INTEGER NOT NULL) WITHOUT ROWID";
        Ok(Self { taken: Mutex::new(scratch::open(schema)?) })
    }

    /// Takes the target.
    ///
    /// # Errors
    /// `clash` if it is taken, or if one of the two would be the other's sidecar.
    pub(super) fn take(&self, spot: &Spot) -> Result<(), Refusal> {
        let taken = self.taken.lock();
        let free = take(&taken, spot).map_err(|e| Refusal::new(NO_SPACE, chain(&scratch::failed(e))))?;
        if free {
            return Ok(());
        }
        let path = spot.path();
        let what = "another database of this run goes there, or to a file that is its sidecar by name: restore them apart, with --match";
        Err(Refusal::new(CLASH, format!("{}: {what}", shown(&path))))
    }
}

fn take(taken: &Connection, spot: &Spot) -> rusqlite::Result<bool> {
    let name = spot.name.as_bytes();
    let insert = |hash: [u8; 16], is_target: bool| {
        taken.prepare_cached("INSERT OR IGNORE INTO taken VALUES(?1, ?2)")?.execute((hash, is_target))
    };
    if insert(hash(spot, name), true)? == 0 {
        return Ok(false);
    }
    let Some(stem) = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix.as_bytes())) else { return Ok(true) };
    let mut find = taken.prepare_cached("SELECT is_target FROM taken WHERE hash = ?1")?;
    let is_target: Option<bool> = find.query_row([hash(spot, stem)], |row| row.get(0)).optional()?;
    insert(hash(spot, stem), false)?;
    Ok(is_target != Some(true))
}

fn hash(spot: &Spot, name: &[u8]) -> [u8; 16] {
    let mut hasher = Hasher::new();
    hasher.write(&spot.folder.id.0.to_le_bytes());
    hasher.write(&spot.folder.id.1.to_le_bytes());
    hasher.write(OsStr::from_bytes(name).as_bytes());
    hasher.finish_128().to_be_bytes()
}

fn chain(error: &crate::error::Error) -> String {
    let cause = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", cause.unwrap_or_default())
}
