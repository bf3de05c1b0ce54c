//! The stored object: one LZ4 frame with the database, then its description in a skippable frame.
//!
//! `lz4 -dc OBJECT` gives the database back without this program; the last few hundred bytes describe
//! the object without the rest of it. Byte tables: docs/FORMAT.md. An object says nothing about where
//! it lies, so it is complete at any offset of a larger file.
//!
//! Pure: bytes in, bytes out. Foreign bytes are errors, never panics, and never make it allocate more
//! than [`DESCRIPTION_LEN_MAX`] or one LZ4 block (4 MiB).

use std::ffi::OsString;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameInfo};
use serde::{Deserialize, Serialize};
use twox_hash::xxhash3_128::Hasher;

use crate::content::{ContentHash, ContentHasher};
use crate::digest::digest;
use crate::header::{HEADER_LEN, Header, JournalMode};
use crate::timestamp::Timestamp;

/// The version of the format that this program writes, and the only one that it reads.
pub const FORMAT_VERSION: u16 = 1;

/// The version of this program, as descriptions name it.
pub const LITESNAP_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Longest JSON of a description that is read. Path and key are bounded by the system and the store, so real ones
/// have 0.5 to 2 KiB; a larger number is damage or malice.
pub const DESCRIPTION_LEN_MAX: usize = 1 << 20;

/// How many bytes to ask for when reading the end of an object: holds every usual description at once.
pub const TAIL_LEN_USUAL: usize = 4096;

const LZ4_MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();
/// Version 1, independent blocks, block checksums, content size, content checksum, no dictionary.
const LZ4_FLAGS: u8 = 0b0111_1100;
const LZ4_HEADER_LEN: usize = 15;
const SKIPPABLE_MAGIC: [u8; 4] = 0x184D_2A50_u32.to_le_bytes();
const SKIPPABLE_HEADER_LEN: usize = 8;

const TRAILER_MAGIC: &[u8; 8] = b"LITESNAP";
const TRAILER_LEN: usize = 32;
/// Where the trailer's own hash begins: all before it is hashed.
const TRAILER_HASH_AT: usize = 16;

/// Images up to this size are stored in blocks of 64 KiB, larger ones in blocks of [`LARGE_BLOCK`].
const SMALL_IMAGE_MAX: u64 = 256 * 1024;
const LARGE_BLOCK: BlockSize = BlockSize::Max256KB;

digest! {
    /// The hash of all bytes of an object before its description: of the LZ4 frame as stored.
    FrameHash
}

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
    /// [`LITESNAP_VERSION`] of the program that made the object.
    pub litesnap: String,
}

/// A path as `path`, and `path_hex` where it is not UTF-8.
mod path_fields {
    use super::{Deserialize, OsStrExt, OsString, OsStringExt, Path, PathBuf, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Fields {
        path: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path_hex: Option<String>,
    }

    pub(super) fn serialize<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = path.as_os_str().as_bytes();
        let path_hex = std::str::from_utf8(bytes).is_err().then(|| bytes.iter().map(|b| format!("{b:02x}")).collect());
        Fields { path: String::from_utf8_lossy(bytes).into_owned(), path_hex }.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
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
        let json_len = u32::try_from(json.len()).expect("key and path are far below 4 GiB");

        let mut trailer = [0u8; TRAILER_LEN];
        trailer[..8].copy_from_slice(TRAILER_MAGIC);
        trailer[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        trailer[12..16].copy_from_slice(&json_len.to_le_bytes());
        let hash = trailer_hash(&json, &trailer);
        trailer[TRAILER_HASH_AT..].copy_from_slice(&hash);

        object.extend_from_slice(&SKIPPABLE_MAGIC);
        object.extend_from_slice(&(json_len + TRAILER_LEN as u32).to_le_bytes());
        object.extend_from_slice(&json);
        object.extend_from_slice(&trailer);
    }
}

fn trailer_hash(json: &[u8], trailer: &[u8; TRAILER_LEN]) -> [u8; 16] {
    let mut hasher = Hasher::new();
    hasher.write(json);
    hasher.write(&trailer[..TRAILER_HASH_AT]);
    hasher.finish_128().to_be_bytes()
}

/// A database as one LZ4 frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The frame.
    pub bytes: Vec<u8>,
    /// The hash of these bytes.
    pub hash: FrameHash,
}

/// Compresses a database that lies in memory. Needs about 150 KiB beside input and output for images up to 256 KiB,
/// about 550 KiB for larger ones.
#[must_use]
pub fn encode_frame(raw: &[u8]) -> Frame {
    const NEVER_FAILS: &str = "a Vec takes every byte and the size is the announced one";
    let mut encoder = lz4_encoder(raw.len() as u64);
    encoder.write_all(raw).expect(NEVER_FAILS);
    let sink = encoder.finish().expect(NEVER_FAILS);
    Frame { hash: FrameHash::of(&sink.hasher), bytes: sink.bytes }
}

fn lz4_encoder(raw_size: u64) -> lz4_flex::frame::FrameEncoder<Sink> {
    let block = if raw_size <= SMALL_IMAGE_MAX { BlockSize::Max64KB } else { LARGE_BLOCK };
    let info = FrameInfo::new()
        .block_mode(BlockMode::Independent)
        .block_size(block)
        .block_checksums(true)
        .content_checksum(true)
        .content_size(Some(raw_size));
    lz4_flex::frame::FrameEncoder::with_frame_info(info, Sink::default())
}

/// Collects what the LZ4 encoder writes, and hashes it.
#[derive(Default)]
struct Sink {
    bytes: Vec<u8>,
    size: u64,
    hasher: Hasher,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        self.size += bytes.len() as u64;
        self.hasher.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses a database while it is read, a part at a time. Needs less than 1 MiB, whatever its size.
pub struct FrameEncoder<R> {
    reader: R,
    lz4: lz4_flex::frame::FrameEncoder<Sink>,
    chunk: Box<[u8]>,
    missing: u64,
    done: bool,
}

impl<R: Read> FrameEncoder<R> {
    /// Compresses the `raw_size` bytes that `reader` gives.
    pub fn new(reader: R, raw_size: u64) -> Self {
        let chunk = vec![0; 64 * 1024].into_boxed_slice();
        Self { reader, lz4: lz4_encoder(raw_size), chunk, missing: raw_size, done: false }
    }

    /// Appends to `out` until it has at least `want` bytes, or the frame is complete: then returns true. `out`
    /// exceeds `want` by less than 512 KiB, so a caller can cut parts of equal size and keep the rest for the next.
    ///
    /// # Errors
    /// The reader failed, ended early (`UnexpectedEof`) or has more than `raw_size` bytes (`InvalidData`). The
    /// frame cannot be continued then.
    pub fn fill(&mut self, out: &mut Vec<u8>, want: usize) -> io::Result<bool> {
        while !self.done && out.len() < want {
            std::mem::swap(&mut self.lz4.get_mut().bytes, out);
            let step = self.step();
            std::mem::swap(&mut self.lz4.get_mut().bytes, out);
            step?;
        }
        Ok(self.done)
    }

    /// Size and hash of what has been produced: of the whole frame once [`fill`](Self::fill) returned true.
    #[must_use]
    pub fn produced(&self) -> (u64, FrameHash) {
        let sink = self.lz4.get_ref();
        (sink.size, FrameHash::of(&sink.hasher))
    }

    fn step(&mut self) -> io::Result<()> {
        let n = match self.reader.read(&mut self.chunk) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(e) => return Err(e),
        };
        if n == 0 {
            if self.missing > 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the database became shorter"));
            }
            self.lz4.try_finish()?;
            self.done = true;
            return Ok(());
        }
        self.missing = self
            .missing
            .checked_sub(n as u64)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the database became longer"))?;
        self.lz4.write_all(&self.chunk[..n])
    }
}

impl<R> std::fmt::Debug for FrameEncoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameEncoder").field("missing", &self.missing).field("done", &self.done).finish_non_exhaustive()
    }
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

    /// Whether the object itself is bad, rather than the way to it or this program too old for it.
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
fn check_trailer(trailer: &[u8; TRAILER_LEN]) -> Result<usize, ObjectError> {
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

fn parse_description(json: &[u8], trailer: &[u8; TRAILER_LEN]) -> Result<Description, ObjectError> {
    if trailer[TRAILER_HASH_AT..] != trailer_hash(json, trailer) {
        return Err(ObjectError::WrongHash("description"));
    }
    let description: Description =
        serde_json::from_slice(json).map_err(|e| ObjectError::Undecodable(format!("description: {e}")))?;
    if description.format != FORMAT_VERSION {
        return Err(ObjectError::UnsupportedVersion(description.format));
    }
    if u64::from(description.page_size) * u64::from(description.page_count) != description.raw_size {
        return Err(ObjectError::Undecodable("page_size × page_count is not raw_size".into()));
    }
    Ok(description)
}

/// Decodes a whole object in one pass and writes the database to `image`. Everything is checked: LZ4's checksums, that
/// there is one frame and one description and nothing else, the hash of the frame, of the description and of the content,
/// all sizes, and, if `key` is given, that the object belongs there. Needs about 600 KiB for objects of this program, at
/// most about 9 MiB for foreign ones.
///
/// # Errors
/// What has been written to `image` must be thrown away on any error; most are found only at the end.
pub fn decode(object: impl Read, key: Option<&str>, image: &mut impl Write) -> Result<Description, ObjectError> {
    let mut object = Hashed { reader: BufReader::new(object), hasher: Hasher::new(), size: 0 };
    let content = decode_frame(&mut object, image)?;
    let (frame_size, frame_hash) = (object.size, FrameHash::of(&object.hasher));
    let description = decode_tail(&mut object)?;

    let wrong = |what| Err(ObjectError::WrongHash(what));
    if description.frame_size != frame_size {
        return wrong("frame_size");
    }
    if description.frame_hash != frame_hash {
        return wrong("frame_hash");
    }
    if description.page_size != content.page_size || description.raw_size != content.raw_size {
        return wrong("size of the database");
    }
    match content.hasher.finish(description.uid, description.gid, description.mode) {
        Ok(hash) if hash == description.content_hash => {}
        _ => return wrong("content_hash"),
    }
    match key {
        Some(expected) if expected != description.key => {
            Err(ObjectError::WrongKey { expected: expected.to_owned(), found: description.key })
        }
        _ => Ok(description),
    }
}

/// What was learnt from the image while it was written.
struct Content {
    page_size: u32,
    raw_size: u64,
    hasher: ContentHasher,
}

/// Decodes the LZ4 frame, and reads not one byte beyond its end.
fn decode_frame(object: &mut impl Read, image: &mut impl Write) -> Result<Content, ObjectError> {
    let mut lz4_header = [0u8; LZ4_HEADER_LEN];
    object.read_exact(&mut lz4_header).map_err(ObjectError::from_read)?;
    if lz4_header[..4] != LZ4_MAGIC {
        return Err(ObjectError::Foreign("it does not begin with an LZ4 frame"));
    }
    if lz4_header[4] != LZ4_FLAGS {
        return Err(ObjectError::Foreign("its LZ4 frame lacks checksums or size, or needs what we never write"));
    }
    let raw_size = u64::from_le_bytes(lz4_header[6..14].try_into().expect("8 bytes"));

    let mut frame = FrameDecoder::new(lz4_header.as_slice().chain(object));
    let mut head = [0u8; HEADER_LEN];
    frame.read_exact(&mut head).map_err(ObjectError::from_read)?;
    let header = Header::parse(&head).map_err(|e| ObjectError::Undecodable(format!("the content {e}")))?;
    let page_count = (raw_size % u64::from(header.page_size) == 0)
        .then_some(raw_size / u64::from(header.page_size))
        .and_then(|pages| u32::try_from(pages).ok())
        .ok_or_else(|| ObjectError::Undecodable(format!("{raw_size} bytes are not a whole number of pages")))?;

    let mut hasher = ContentHasher::new(header.page_size, page_count);
    let mut missing = raw_size;
    let mut take = |bytes: &[u8]| {
        let more = || ObjectError::Undecodable("more content than the LZ4 frame announces".into());
        missing = missing.checked_sub(bytes.len() as u64).ok_or_else(more)?;
        hasher.update(bytes);
        image.write_all(bytes).map_err(ObjectError::Write)
    };
    take(&head)?;
    loop {
        let bytes = io::BufRead::fill_buf(&mut frame).map_err(ObjectError::from_read)?;
        if bytes.is_empty() {
            break;
        }
        take(bytes)?;
        let n = bytes.len();
        io::BufRead::consume(&mut frame, n);
    }
    // lz4_flex reports the end of its input between two blocks as the end of the frame.
    if missing > 0 {
        return Err(ObjectError::Truncated);
    }
    Ok(Content { page_size: header.page_size, raw_size, hasher })
}

/// Reads the skippable frame, which must be all that is left.
fn decode_tail(object: &mut impl Read) -> Result<Description, ObjectError> {
    let mut header = [0u8; SKIPPABLE_HEADER_LEN];
    object.read_exact(&mut header).map_err(ObjectError::from_read)?;
    if header[..4] != SKIPPABLE_MAGIC {
        return Err(ObjectError::Undecodable("no description follows the LZ4 frame".into()));
    }
    let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if !(TRAILER_LEN..=DESCRIPTION_LEN_MAX + TRAILER_LEN).contains(&len) {
        return Err(ObjectError::Undecodable(format!("a description of {len} bytes")));
    }
    let mut payload = Vec::new();
    object.take(len as u64 + 1).read_to_end(&mut payload).map_err(ObjectError::from_read)?;
    match payload.len() {
        n if n < len => return Err(ObjectError::Truncated),
        n if n > len => return Err(ObjectError::Undecodable("something follows the description".into())),
        _ => {}
    }
    let (json, trailer) = payload.split_last_chunk::<TRAILER_LEN>().ok_or(ObjectError::Truncated)?;
    if check_trailer(trailer)? != json.len() {
        return Err(ObjectError::Undecodable("two lengths of the description".into()));
    }
    parse_description(json, trailer)
}

/// Hashes and counts what is read through it.
struct Hashed<R> {
    reader: R,
    hasher: Hasher,
    size: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buf)?;
        self.hasher.write(&buf[..n]);
        self.size += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
