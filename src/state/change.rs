//! Facts to be recorded, each of one database.

use std::path::PathBuf;

use crate::backlog::Wait;
use crate::clock::Nanos;
use crate::content::ContentHash;
use crate::stamps::Stamps;

/// One confirmed fact to be recorded.
#[derive(Debug, Clone)]
pub enum Change {
    /// The store confirmed a snapshot.
    Stored {
        /// Hash of the path.
        id: u64,
        /// Absolute path of the main file.
        path: PathBuf,
        /// Key prefix, unless the path tells it.
        prefix: Option<String>,
        /// Stamps before the read.
        stamps: Stamps,
        /// When they were taken.
        stamped_at: Nanos,
        /// Its content.
        content_hash: ContentHash,
        /// Timestamp in its key.
        key_ms: i64,
        /// When it was confirmed.
        stored_s: u32,
        /// Size of the object.
        bytes: u64,
    },
    /// Read again, and its content is what is stored: only the stamps move.
    Same {
        /// Hash of the path.
        id: u64,
        /// Stamps before the read.
        stamps: Stamps,
        /// When they were taken.
        stamped_at: Nanos,
        /// When its content was stored, as the row has it.
        stored_s: u32,
    },
    /// The attempt failed. `stamps` are kept only where the same stamps would fail the same way (no database).
    Failed {
        /// Hash of the path.
        id: u64,
        /// Absolute path of the main file.
        path: PathBuf,
        /// Key prefix, unless the path tells it.
        prefix: Option<String>,
        /// Stamps that need no second look.
        stamps: Option<(Stamps, Nanos)>,
        /// Word, colon, detail.
        error: String,
        /// When.
        at_s: i64,
        /// Since when a change of it waits, s since 1970; `None` if there is nothing to lose.
        since_s: Option<u32>,
        /// The store may have it all the same: that its content is what was recorded last proves nothing from now on.
        maybe_stored: bool,
    },
    /// It has a change that is not stored, and nothing was tried.
    Waiting {
        /// Hash of the path.
        id: u64,
        /// Absolute path of the main file.
        path: PathBuf,
        /// Since when, s since 1970.
        since_s: u32,
        /// Why.
        wait: Wait,
    },
    /// Nothing was ever stored of it, and nothing more is to be remembered.
    Forgotten {
        /// Hash of the path.
        id: u64,
    },
    /// Gone from its host.
    Gone {
        /// Hash of the path.
        id: u64,
        /// When that was accepted.
        at_s: i64,
        /// Timestamp in the key of the tombstone that the store confirmed; `None` if none was needed.
        tombstone_ms: Option<i64>,
    },
}

impl Change {
    /// The id of the database that it is about.
    pub(super) fn id(&self) -> u64 {
        match self {
            Self::Stored { id, .. }
            | Self::Same { id, .. }
            | Self::Failed { id, .. }
            | Self::Waiting { id, .. }
            | Self::Forgotten { id }
            | Self::Gone { id, .. } => *id,
        }
    }

    /// Whether it says that an object lies in the store, which must be durable there first.
    #[must_use]
    pub fn is_of_an_object(&self) -> bool {
        matches!(self, Self::Stored { .. } | Self::Gone { tombstone_ms: Some(_), .. })
    }
}
