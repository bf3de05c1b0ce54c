//! The stored object: one LZ4 frame with the database, then its description in a skippable frame.
//!
//! `lz4 -dc OBJECT` gives the database back without this program; the last few hundred bytes describe
//! the object without the rest of it. Byte tables: docs/FORMAT.md. An object says nothing about where
//! it lies, so it is complete at any offset of a larger file.
//!
//! Pure: bytes in, bytes out. Foreign bytes are errors, never panics, and never make it allocate more
//! than [`DESCRIPTION_LEN_MAX`] and two LZ4 blocks (4 MiB each).

mod blocks;
mod decode;
mod description;
mod encode;
mod frame;
mod known;
mod tombstone;

use std::io;

pub use blocks::{BlockEncoder, Encoded};
pub use decode::{HEAD_LEN, announced_size, decode};
pub use description::{Description, Tail, read_description};
pub use encode::{Frame, encode_frame};
pub(crate) use frame::FrameHasher;
pub use tombstone::Tombstone;

use crate::digest::digest;

/// The version of the format that this program writes, and the only one that it reads.
pub const FORMAT_VERSION: u16 = 1;

/// The version of this program, as descriptions name it.
pub const LITESNAP_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Longest JSON of a description that is read. Path and key are bounded by the system and the store, so real ones
/// have 0.5 to 2 KiB; a larger number is damage or malice.
pub const DESCRIPTION_LEN_MAX: usize = 1 << 20;

/// How many bytes to ask for when reading the end of an object: holds every usual description at once.
pub const TAIL_LEN_USUAL: usize = 4096;

digest! {
    /// The hash of all bytes of an object before its description: of the LZ4 frame as stored.
    FrameHash
}

/// Why bytes are not the object that was asked for. Each kind has one fixed word.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The object ends early.
    #[error("the object ends early")]
    Truncated,
    /// Not an object of ours.
    #[error("not an object of litesnap: {0}")]
    Foreign(&'static str),
    /// Ours by the looks of it, but damaged.
    #[error("the object is damaged: {0}")]
    Undecodable(String),
    /// Something is not what its hash or its size says.
    #[error("the object is damaged: the {0} is not what the description says")]
    WrongHash(&'static str),
    /// An object of ours that belongs under another key.
    #[error("the object belongs under the key {found:?}, not {expected:?}")]
    WrongKey {
        /// The key that it was fetched under.
        expected: String,
        /// The key that its description names.
        found: String,
    },
    /// Written by a later litesnap, in a format that this one does not know.
    #[error("the object has format version {0}, this litesnap reads {FORMAT_VERSION}: use a newer one")]
    UnsupportedVersion(u16),
    /// Reading the object failed; says nothing about the object.
    #[error("cannot read the object")]
    Read(#[source] io::Error),
    /// Writing the image failed; says nothing about the object.
    #[error("cannot write the database image")]
    Write(#[source] io::Error),
}

impl ObjectError {
    /// The fixed word, for counts and logs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Foreign(_) => "foreign",
            Self::Undecodable(_) => "undecodable",
            Self::WrongHash(_) => "wrong-hash",
            Self::WrongKey { .. } => "wrong-key",
            Self::UnsupportedVersion(_) => "unsupported-version",
            Self::Read(_) => "unreadable",
            Self::Write(_) => "unwritable",
        }
    }

    /// Whether the bytes are bad, rather than reading failed or this program is too old for them. `Truncated` may still be
    /// a connection that closed early: compare the size that the store names before an object is called bad for good.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Read(_) | Self::Write(_) | Self::UnsupportedVersion(_))
    }

    fn from_read(error: io::Error) -> Self {
        match error.get_ref().and_then(|e| e.downcast_ref::<lz4_flex::frame::Error>()) {
            Some(lz4) => Self::Undecodable(format!("LZ4 {lz4}")),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Truncated,
            None => Self::Read(error),
        }
    }
}

/// Whether a small object of one line of JSON is not longer than `len_max` and of the version that this program reads; `too_long`
/// and `foreign` say what else it is. The version is read first: a later one need not have the other fields.
pub(crate) fn check_small(
    object: &[u8],
    len_max: usize,
    too_long: &'static str,
    foreign: &'static str,
) -> Result<(), ObjectError> {
    #[derive(serde::Deserialize)]
    struct Version {
        format: u16,
    }
    if object.len() > len_max {
        return Err(ObjectError::Foreign(too_long));
    }
    let version: Version = serde_json::from_slice(object).map_err(|_| ObjectError::Foreign(foreign))?;
    if version.format == FORMAT_VERSION { Ok(()) } else { Err(ObjectError::UnsupportedVersion(version.format)) }
}

#[cfg(test)]
mod tests;
