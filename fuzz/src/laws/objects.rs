//! Objects made by hand, as docs/FORMAT.md describes them: what the program writes is one way to make them, this another.

use std::path::PathBuf;

use litesnap::content::ContentHash;
use litesnap::header::JournalMode;
use litesnap::object::{Description, FORMAT_VERSION, FrameHash};
use litesnap::timestamp::Timestamp;
use twox_hash::xxhash3_128::Hasher;

pub(super) const KEY: &str = "srv/a.db/20261121T063339.123Z.db.lz4";

/// The skippable frame with this text as its description, whatever it is; magic, lengths and hash are right.
pub(super) fn tail(json: &[u8]) -> Vec<u8> {
    let length = |n: usize| u32::try_from(n).expect("inputs are small").to_le_bytes();
    let start = [b"LITESNAP".as_slice(), &[1, 0, 0, 0], &length(json.len())].concat();
    let hash = xxh3(&[json, &start].concat());
    [&[0x50, 0x2A, 0x4D, 0x18], &length(json.len() + 32)[..], json, &start, &hash].concat()
}

pub(super) fn xxh3(bytes: &[u8]) -> [u8; 16] {
    Hasher::oneshot(bytes).to_be_bytes()
}

/// Page size and page count of an image, by its header and length.
pub(super) fn pages(image: &[u8]) -> Option<(u32, u32)> {
    if image.len() < 100 || !image.starts_with(b"SQLite format 3\0") {
        return None;
    }
    let page_size = match u32::from(image[16]) << 8 | u32::from(image[17]) {
        1 => 65_536,
        size if size.is_power_of_two() && size >= 512 => size,
        _ => return None,
    };
    let count = u32::try_from(image.len()).ok()? / page_size;
    (count as usize * page_size as usize == image.len()).then_some((page_size, count))
}

/// The content hash by its definition, of images that do not reach the page of the locks.
pub(super) fn content_hash(image: &[u8], page_count: u32, owner: [u32; 3]) -> ContentHash {
    let mut masked = image.to_vec();
    for at in (24..28).chain(40..44).chain(92..100) {
        masked[at] = 0;
    }
    masked[28..32].copy_from_slice(&page_count.to_be_bytes());
    for number in owner {
        masked.extend_from_slice(&number.to_le_bytes());
    }
    ContentHash(xxh3(&masked))
}

/// The right description of `image`, which must have pages, in `frame`.
pub(super) fn describe(image: &[u8], frame: &[u8]) -> Option<Description> {
    let (page_size, page_count) = pages(image)?;
    Some(Description {
        format: FORMAT_VERSION,
        key: KEY.into(),
        host: "web-1".into(),
        path: PathBuf::from("/srv/a.db"),
        taken_at: Timestamp::from_ms(1_795_242_819_123).expect("in 2026"),
        page_size,
        page_count,
        raw_size: image.len() as u64,
        content_hash: content_hash(image, page_count, [1000, 1001, 0o640]),
        frame_size: frame.len() as u64,
        frame_hash: FrameHash(xxh3(frame)),
        journal_mode: JournalMode::Wal,
        uid: 1000,
        gid: 1001,
        mode: 0o640,
        mtime_ns: 1_795_242_819_123_456_789,
        schema_version: Some(7),
        sqlite_version: Some(3_054_001),
        litesnap: "0.1.0".into(),
    })
}

/// Bytes as the image of a database: the header's magic and a page size put in, filled up to whole pages.
pub(super) fn image(shape: u8, bytes: &[u8]) -> Vec<u8> {
    let page_size = 512_usize << (shape % 4);
    let mut image = bytes.to_vec();
    image.resize(image.len().max(1).next_multiple_of(page_size), shape);
    image[..16].copy_from_slice(b"SQLite format 3\0");
    image[16..18].copy_from_slice(&u16::try_from(page_size).expect("at most 4096").to_be_bytes());
    image
}
