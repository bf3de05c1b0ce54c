//! An object back to a database image, with everything checked.

use std::io::{self, BufReader, Read, Write};

use lz4_flex::frame::FrameDecoder;
use twox_hash::xxhash3_128::Hasher;

use super::description::{
    Description, SKIPPABLE_HEADER_LEN, SKIPPABLE_MAGIC, TRAILER_LEN, check_trailer, parse_description,
};
use super::frame::{LZ4_FLAGS, LZ4_HEADER_LEN, LZ4_MAGIC};
use super::{DESCRIPTION_LEN_MAX, FrameHash, ObjectError};
use crate::content::ContentHasher;
use crate::header::{HEADER_LEN, Header};

/// Bytes at the beginning of an object that [`announced_size`] needs.
pub const HEAD_LEN: usize = LZ4_HEADER_LEN;

/// Size of the database by the account of an object's first bytes; `None` if they are not those of an object of ours.
/// [`decode`] never writes more than that, whatever follows.
#[must_use]
pub fn announced_size(head: &[u8]) -> Option<u64> {
    let is_ours = head.len() >= HEAD_LEN && head.starts_with(&LZ4_MAGIC) && head[4] == LZ4_FLAGS;
    is_ours.then(|| u64::from_le_bytes(head[6..14].try_into().expect("8 bytes")))
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
