//! The pieces of an LZ4 frame as objects have it: header, blocks, end. Byte table: docs/FORMAT.md.
//!
//! Blocks know nothing of each other, so they may be made side by side and in any order.

use lz4_flex::block::{compress_into, get_maximum_output_size};
use twox_hash::XxHash32;
use twox_hash::xxhash3_128::Hasher;

use super::FrameHash;

pub(super) const LZ4_MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();
/// Version 1, independent blocks, block checksums, content size, content checksum, no dictionary.
pub(super) const LZ4_FLAGS: u8 = 0b0111_1100;
pub(super) const LZ4_HEADER_LEN: usize = 15;

/// Images up to this size are stored in blocks of 64 KiB, larger ones in blocks of 256 KiB.
///
/// On a database of 74 MB of text and numbers, blocks of 256 KiB are 0.9 % smaller than those of 64 KiB, and those of
/// 4 MiB again 0.3 %, at the same speed; but several of them are in memory at once.
const SMALL_IMAGE_MAX: u64 = 256 * 1024;

/// The number for a block length in the header's byte 5, and the length.
const SMALL_BLOCK: (u8, usize) = (4, 64 << 10);
const LARGE_BLOCK: (u8, usize) = (5, 256 << 10);

/// Set in the length of a block that is stored as it is.
const NOT_COMPRESSED: u32 = 1 << 31;
/// Length before a block, and checksum behind it.
const BLOCK_EXTRA: usize = 8;

/// Computes a [`FrameHash`] from the bytes of a frame, in order, in chunks of any size.
#[derive(Default)]
pub(crate) struct FrameHasher(Hasher);

impl FrameHasher {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// Of what was written so far.
    pub(crate) fn finish(&self) -> FrameHash {
        FrameHash::of(&self.0)
    }
}

impl std::fmt::Debug for FrameHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FrameHasher").field(&self.finish()).finish()
    }
}

fn block_kind(raw_size: u64) -> (u8, usize) {
    if raw_size <= SMALL_IMAGE_MAX { SMALL_BLOCK } else { LARGE_BLOCK }
}

/// Bytes of all blocks but the last of an image of this size.
pub(super) fn block_len(raw_size: u64) -> usize {
    block_kind(raw_size).1
}

/// What a frame begins with.
pub(super) fn header(raw_size: u64) -> [u8; LZ4_HEADER_LEN] {
    let mut header = [0; LZ4_HEADER_LEN];
    header[..4].copy_from_slice(&LZ4_MAGIC);
    header[4] = LZ4_FLAGS;
    header[5] = block_kind(raw_size).0 << 4;
    header[6..14].copy_from_slice(&raw_size.to_le_bytes());
    // The format takes the second byte of the hash.
    header[14] = XxHash32::oneshot(0, &header[4..14]).to_le_bytes()[1];
    header
}

/// What a frame ends with: `checksum` is the XXH32 of the whole image.
pub(super) fn end(checksum: u32) -> [u8; 8] {
    let mut end = [0; 8];
    end[4..].copy_from_slice(&checksum.to_le_bytes());
    end
}

/// Bytes that [`write_block`] may need for a block of `raw_len` bytes.
pub(super) fn block_room(raw_len: usize) -> usize {
    get_maximum_output_size(raw_len) + BLOCK_EXTRA
}

/// Writes one block as it stands in a frame to the beginning of `out`, which has [`block_room`] for it; returns its length.
/// What does not become smaller is stored as it is.
pub(super) fn write_block(raw: &[u8], out: &mut [u8]) -> usize {
    let compressed = compress_into(raw, &mut out[4..]).expect("there is room for the worst case");
    let (len, flag) = if compressed < raw.len() { (compressed, 0) } else { (raw.len(), NOT_COMPRESSED) };
    if flag == NOT_COMPRESSED {
        out[4..4 + len].copy_from_slice(raw);
    }
    let end = 4 + len;
    let size = u32::try_from(len).expect("a block is far below 4 GiB") | flag;
    out[..4].copy_from_slice(&size.to_le_bytes());
    let checksum = XxHash32::oneshot(0, &out[4..end]);
    out[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
    end + 4
}
