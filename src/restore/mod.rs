//! Bringing databases back: a plan first, then exactly that plan.
//!
//! Each database is fetched, checked and written to a file beside its target, and only then takes its place
//! ([`place`]). A crash or a stop leaves each target as it was or as it was to be, and at most one hidden file beside
//! it, which the next run takes over. Needs nothing but the store.

pub mod check;
mod outcomes;
pub mod place;
pub mod plan;
pub mod report;
mod run;
mod single;

use std::path::{Path, PathBuf};

pub use report::RestoreReport;
pub use run::{ToDo, restore};
pub use single::restore_to;

use crate::names::Names;
use crate::store::{Kind, Store};
use crate::timestamp::Timestamp;
use check::Check;

/// Where restored databases go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Below this folder, each under its name in the store.
    Into(PathBuf),
    /// Each to the path that it was read from.
    InPlace,
    /// The only one, to this file.
    File(PathBuf),
}

/// What is to be restored, and how.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Which databases.
    pub names: Names,
    /// Each as its newest snapshot not after this time; `None` for its newest.
    pub at: Option<Timestamp>,
    /// Where to.
    pub target: Target,
    /// Also databases that were gone from their host at that time.
    pub include_deleted: bool,
    /// Also snapshots that are marked bad.
    pub include_bad: bool,
    /// Replace what is there.
    pub force: bool,
    /// Leave what is there, and count it.
    pub skip_existing: bool,
    /// That nothing is stored under a name that is asked for is no error.
    pub if_replica_exists: bool,
    /// Only find out what would be done.
    pub dry_run: bool,
    /// What SQLite is asked about each before it takes its place.
    pub check: Check,
}

/// Whether what would be made at the absolute `path` would lie in the folder of `store`.
#[must_use]
pub fn lies_in_store(path: &Path, store: &Store) -> bool {
    let Kind::Folder { root } = &store.kind else { return false };
    // What is not there yet will lie in what is.
    let there = path.ancestors().find_map(|above| Some((above.canonicalize().ok()?, path.strip_prefix(above).ok()?)));
    there.map_or_else(|| path.to_path_buf(), |(above, rest)| above.join(rest)).starts_with(root)
}
