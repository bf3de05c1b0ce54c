//! What a snapshot is made of: pages in memory, or a compressed copy on disk.

use std::path::Path;

use super::large::Taken;
use super::temp::TempCopy;
use crate::content::ContentHash;
use crate::object::Encoded;

/// A consistent image of one database.
#[derive(Debug)]
pub enum Image {
    /// Its pages in memory, for small ones.
    Memory(Vec<u8>),
    /// Compressed in a temporary file, for large ones.
    Compressed(CompressedCopy),
    /// Nothing: a large one whose content is the one that was known.
    Known,
}

/// A temporary file that holds a large database as one LZ4 frame; removed when dropped.
#[derive(Debug)]
pub struct CompressedCopy {
    copy: TempCopy,
    frame: Encoded,
}

impl CompressedCopy {
    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.copy.path()
    }

    /// One with this content, in `dir`, which is its own.
    #[cfg(test)]
    pub(crate) fn for_test(dir: &Path, bytes: &[u8], frame: Encoded) -> Self {
        let space = super::temp::TempSpace::recover(dir).expect("an empty folder");
        let copy = space.reserve(frame.size, &std::sync::atomic::AtomicBool::new(true)).expect("there is room");
        std::fs::write(copy.path(), bytes).expect("there is room");
        Self { copy, frame }
    }

    /// Size and hash of the frame: what was written, whatever the file has by now.
    #[must_use]
    pub fn frame(&self) -> Encoded {
        self.frame
    }
}

impl Image {
    /// Of what was read into `room`, which takes no more of the disk than it needs from here on.
    pub(super) fn of(taken: Taken, mut room: TempCopy) -> (Self, ContentHash) {
        let image = match taken.frame {
            Some(frame) => {
                room.shrink_to(frame.size);
                Self::Compressed(CompressedCopy { copy: room, frame })
            }
            None => Self::Known,
        };
        (image, taken.content_hash)
    }
}
