//! The description of an object and the skippable frame that carries it.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use twox_hash::xxhash3_128::Hasher;

use super::{DESCRIPTION_LEN_MAX, FORMAT_VERSION, FrameHash, ObjectError, TAIL_LEN_USUAL, known};
use crate::content::ContentHash;
use crate::header::JournalMode;
use crate::timestamp::Timestamp;

pub(super) const SKIPPABLE_MAGIC: [u8; 4] = 0x184D_2A50_u32.to_le_bytes();
pub(super) const SKIPPABLE_HEADER_LEN: usize = 8;

pub(super) const TRAILER_MAGIC: &[u8; 8] = b"LITESNAP";
pub(super) const TRAILER_LEN: usize = 32;
/// Where the trailer's own hash begins: all before it is hashed.
const TRAILER_HASH_AT: usize = 16;

/// What an object says about itself. In JSON the fields have these names; see docs/FORMAT.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// [`FORMAT_VERSION`].
    pub format: u16,
    /// The full key of the object in its store, so that objects cannot be swapped unseen.
    pub key: String,
    /// The name of the host, as given by `--host` or the system.
    pub host: String,
    /// The absolute path of the database on its host. In JSON `path` is text; where the path is not UTF-8, `path` has
    /// it with replacement characters and `path_hex` has its bytes.
    #[serde(flatten, with = "path_fields")]
    pub path: PathBuf,
    /// When the snapshot was taken; in JSON RFC 3339, UTC, with milliseconds.
    pub taken_at: Timestamp,
    /// Bytes per page.
    pub page_size: u32,
    /// Number of pages.
    pub page_count: u32,
    /// Size of the database image in bytes: `page_size` × `page_count`.
    pub raw_size: u64,
    /// Hash of content, owner and permission bits.
    pub content_hash: ContentHash,
    /// Bytes of the object before the description: the size of the LZ4 frame.
    pub frame_size: u64,
    /// Hash of these bytes.
    pub frame_hash: FrameHash,
    /// How the database was written to.
    pub journal_mode: JournalMode,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits: `st_mode & 0o7777`.
    pub mode: u32,
    /// Modification time of the main file, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// `PRAGMA schema_version` of the source: a restored copy has another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<u32>,
    /// The SQLite that wrote the source last, 3054001 for 3.54.1: a restored copy names another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqlite_version: Option<u32>,
    /// [`LITESNAP_VERSION`](super::LITESNAP_VERSION) of the program that made the object.
    pub litesnap: String,
}

/// Every field of a description; others are passed over.
const FIELDS: [&str; 20] = [
    "format",
    "key",
    "host",
    "path",
    "path_hex",
    "taken_at",
    "page_size",
    "page_count",
    "raw_size",
    "content_hash",
    "frame_size",
    "frame_hash",
    "journal_mode",
    "uid",
    "gid",
    "mode",
    "mtime_ns",
    "schema_version",
    "sqlite_version",
    "litesnap",
];

/// A path as `path`, and `path_hex` where it is not UTF-8.
pub(super) mod path_fields {
    use super::{Deserialize, OsStrExt, OsString, OsStringExt, Path, PathBuf, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Fields {
        path: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path_hex: Option<String>,
    }

    pub(in crate::object) fn serialize<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = path.as_os_str().as_bytes();
        let path_hex = std::str::from_utf8(bytes).is_err().then(|| bytes.iter().map(|b| format!("{b:02x}")).collect());
        Fields { path: String::from_utf8_lossy(bytes).into_owned(), path_hex }.serialize(serializer)
    }

    pub(in crate::object) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<PathBuf, D::Error> {
        let Fields { path, path_hex } = Fields::deserialize(deserializer)?;
        let Some(hex) = path_hex else { return Ok(path.into()) };
        let bytes = from_hex(&hex).ok_or_else(|| serde::de::Error::custom("path_hex is not hex"))?;
        if String::from_utf8_lossy(&bytes) != path {
            return Err(serde::de::Error::custom("path and path_hex differ"));
        }
        Ok(OsString::from_vec(bytes).into())
    }

    fn from_hex(hex: &str) -> Option<Vec<u8>> {
        let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
        pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
    }
}

impl Description {
    /// Appends the skippable frame with this description to `object`: what follows the LZ4 frame. A description
    /// with another key can be appended to the same frame without compressing again.
    pub fn append_to(&self, object: &mut Vec<u8>) {
        let json = serde_json::to_vec(self).expect("a description has only text and numbers");
        let len_u32 = |len: usize| u32::try_from(len).expect("key and path are far below 4 GiB");

        let mut trailer = [0u8; TRAILER_LEN];
        trailer[..8].copy_from_slice(TRAILER_MAGIC);
        trailer[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        trailer[12..16].copy_from_slice(&len_u32(json.len()).to_le_bytes());
        let hash = trailer_hash(&json, &trailer);
        trailer[TRAILER_HASH_AT..].copy_from_slice(&hash);

        object.extend_from_slice(&SKIPPABLE_MAGIC);
        object.extend_from_slice(&len_u32(json.len() + TRAILER_LEN).to_le_bytes());
        object.extend_from_slice(&json);
        object.extend_from_slice(&trailer);
    }
}

pub(super) fn trailer_hash(json: &[u8], trailer: &[u8; TRAILER_LEN]) -> [u8; 16] {
    let mut hasher = Hasher::new();
    hasher.write(json);
    hasher.write(&trailer[..TRAILER_HASH_AT]);
    hasher.finish_128().to_be_bytes()
}

/// What the end of an object tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tail {
    /// The description, and the size of the whole object by its account: the store's must be the same.
    Whole {
        /// The description.
        description: Box<Description>,
        /// Bytes of LZ4 frame and description together.
        object_size: u64,
    },
    /// The description begins earlier: read this many bytes from the end. If the object has fewer, it is not ours.
    NeedMore(usize),
}

/// Reads the description from the last bytes of an object. Checks it against its own hash, and nothing else: neither
/// the key nor the rest of the object.
///
/// # Errors
/// Not ours, damaged, or of a later version. An object cut short at its end is `Foreign` here: what says that it is
/// ours is gone.
pub fn read_description(tail: &[u8]) -> Result<Tail, ObjectError> {
    let Some((before, trailer)) = tail.split_last_chunk::<TRAILER_LEN>() else {
        return Ok(Tail::NeedMore(TAIL_LEN_USUAL));
    };
    let json_len = check_trailer(trailer)?;
    let Some(start) = before.len().checked_sub(json_len + SKIPPABLE_HEADER_LEN) else {
        return Ok(Tail::NeedMore(SKIPPABLE_HEADER_LEN + json_len + TRAILER_LEN));
    };
    let (header, json) = before[start..].split_at(SKIPPABLE_HEADER_LEN);
    if header[..4] != SKIPPABLE_MAGIC || header[4..] != ((json_len + TRAILER_LEN) as u64).to_le_bytes()[..4] {
        return Err(ObjectError::Undecodable("the description is not in a skippable frame of its size".into()));
    }
    let description = parse_description(json, trailer)?;
    let tail_len = (SKIPPABLE_HEADER_LEN + json_len + TRAILER_LEN) as u64;
    let object_size = description.frame_size.checked_add(tail_len);
    let object_size = object_size.ok_or_else(|| ObjectError::Undecodable("an impossible frame_size".into()))?;
    Ok(Tail::Whole { description: Box::new(description), object_size })
}

/// Checks magic and version of a trailer and returns the length of the JSON before it.
pub(super) fn check_trailer(trailer: &[u8; TRAILER_LEN]) -> Result<usize, ObjectError> {
    if !trailer.starts_with(TRAILER_MAGIC) {
        return Err(ObjectError::Foreign("it does not end in the trailer of a description"));
    }
    let version = u16::from_le_bytes([trailer[8], trailer[9]]);
    if version != FORMAT_VERSION {
        return Err(ObjectError::UnsupportedVersion(version));
    }
    let json_len = u32::from_le_bytes([trailer[12], trailer[13], trailer[14], trailer[15]]);
    usize::try_from(json_len)
        .ok()
        .filter(|len| *len <= DESCRIPTION_LEN_MAX)
        .ok_or_else(|| ObjectError::Undecodable(format!("a description of {json_len} bytes")))
}

pub(super) fn parse_description(json: &[u8], trailer: &[u8; TRAILER_LEN]) -> Result<Description, ObjectError> {
    if trailer[TRAILER_HASH_AT..] != trailer_hash(json, trailer) {
        return Err(ObjectError::WrongHash("description"));
    }
    let description: Description =
        known::from_slice(json, &FIELDS).map_err(|e| ObjectError::Undecodable(format!("description: {e}")))?;
    if description.format != FORMAT_VERSION {
        return Err(ObjectError::UnsupportedVersion(description.format));
    }
    if u64::from(description.page_size) * u64::from(description.page_count) != description.raw_size {
        return Err(ObjectError::Undecodable("page_size × page_count is not raw_size".into()));
    }
    Ok(description)
}
