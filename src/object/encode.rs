//! A database image that lies in memory to an LZ4 frame, at once.

use twox_hash::XxHash32;

use super::frame::FrameHasher;
use super::{FrameHash, frame};

/// A database as one LZ4 frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The frame.
    pub bytes: Vec<u8>,
    /// The hash of these bytes.
    pub hash: FrameHash,
}

/// Compresses a database that lies in memory. Needs less than 350 KiB beside input and output.
#[must_use]
pub fn encode_frame(raw: &[u8]) -> Frame {
    let raw_size = raw.len() as u64;
    let mut bytes = frame::header(raw_size).to_vec();
    for block in raw.chunks(frame::block_len(raw_size)) {
        let start = bytes.len();
        bytes.resize(start + frame::block_room(block.len()), 0);
        let len = frame::write_block(block, &mut bytes[start..]);
        bytes.truncate(start + len);
    }
    bytes.extend_from_slice(&frame::end(XxHash32::oneshot(0, raw)));
    // It waits for its turn at the store: only what it takes is counted.
    bytes.shrink_to_fit();
    let mut hasher = FrameHasher::default();
    hasher.write(&bytes);
    Frame { hash: hasher.finish(), bytes }
}
