//! Large databases: compressed into a temporary file while they are read, by threads of their own.
//!
//! Neither memory nor disk ever holds a raw copy. Nothing here is sent: what is stored is known to be consistent first, and a slow
//! store makes no read any longer. A crash leaves a temporary file, which the next start removes.

use std::fs::File;
use std::io;

use super::temp::TempCopy;
use crate::content::{ContentHash, ContentHasher};
use crate::error::{Failure, Reason};
use crate::object::{BlockEncoder, Encoded};
use crate::stamps::FileStat;

/// Bytes hashed at once where nothing is compressed.
const HASHED_AT_ONCE: usize = 256 << 10;

/// Takes the pages of a database, in order.
pub(super) trait Sink {
    /// Where the next bytes belong: whole pages; empty once all are there.
    fn room(&mut self) -> &mut [u8];

    /// Takes the first `n` bytes of [`room`](Self::room), which have been filled in.
    fn advance(&mut self, n: usize) -> Result<(), Failure>;
}

/// What is read, and where to.
#[derive(Clone, Copy)]
pub(super) struct Order<'a> {
    pub(super) page_size: u32,
    pub(super) page_count: u32,
    /// Whose it is: part of the content's hash.
    pub(super) stat: &'a FileStat,
    /// Content that need not be compressed again.
    pub(super) known: Option<ContentHash>,
    pub(super) room: &'a TempCopy,
}

/// A large database, read to its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) content_hash: ContentHash,
    /// The frame in the temporary file; `None` if the content is the one that was known.
    pub(super) frame: Option<Encoded>,
}

/// Reads a database by `pour`, which fills a sink and can do so again with the same content. With a known content it is hashed
/// first: that takes a tenth of the time, and more often than not a stamp has moved and nothing else.
pub(super) fn take<E: From<Failure>>(
    order: Order<'_>,
    mut pour: impl FnMut(&mut dyn Sink) -> Result<(), E>,
) -> Result<Taken, E> {
    if let Some(known) = order.known {
        let mut sink = Hashing::new(&order);
        pour(&mut sink)?;
        let content_hash = hash_of(sink.hasher, order.stat)?;
        if content_hash == known {
            return Ok(Taken { content_hash, frame: None });
        }
    }
    let mut sink = Compressing::new(&order)?;
    pour(&mut sink)?;
    let Compressing { encoder, hasher, room } = sink;
    let content_hash = hash_of(hasher, order.stat)?;
    let (_, frame) = encoder.finish().map_err(|e| not_written(room, &e))?;
    Ok(Taken { content_hash, frame: Some(frame) })
}

/// Bytes of room that a database of `raw_size` bytes may need: what does not compress grows by eight for each block. Twice that, where
/// SQLite does not give pages and there is a raw copy beside it.
pub(super) fn room_for(raw_size: u64, by_page: bool) -> u64 {
    let compressed = raw_size.saturating_add(raw_size / 8192).saturating_add(4096);
    if by_page { compressed } else { compressed.saturating_add(raw_size) }
}

fn hash_of(hasher: ContentHasher, stat: &FileStat) -> Result<ContentHash, Failure> {
    let hash = hasher.finish(stat.uid, stat.gid, stat.mode);
    hash.map_err(|e| Failure::new(Reason::CopyFailed, format!("its copy is not whole: {e}")))
}

fn not_written(room: &TempCopy, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => room.explain_full(),
        _ => {
            let path = room.path().display();
            Failure::new(Reason::CopyFailed, format!("cannot write its temporary copy {path}: {error}"))
        }
    }
}

struct Hashing {
    hasher: ContentHasher,
    chunk: Vec<u8>,
    missing: u64,
}

impl Hashing {
    fn new(order: &Order<'_>) -> Self {
        let missing = u64::from(order.page_size) * u64::from(order.page_count);
        let hasher = ContentHasher::new(order.page_size, order.page_count);
        Self { hasher, chunk: vec![0; HASHED_AT_ONCE], missing }
    }
}

impl Sink for Hashing {
    fn room(&mut self) -> &mut [u8] {
        let len = usize::try_from(self.missing).map_or(HASHED_AT_ONCE, |missing| missing.min(HASHED_AT_ONCE));
        &mut self.chunk[..len]
    }

    fn advance(&mut self, n: usize) -> Result<(), Failure> {
        self.hasher.update(&self.chunk[..n]);
        self.missing -= n as u64;
        Ok(())
    }
}

struct Compressing<'a> {
    encoder: BlockEncoder<File>,
    hasher: ContentHasher,
    room: &'a TempCopy,
}

impl<'a> Compressing<'a> {
    fn new(order: &Order<'a>) -> Result<Self, Failure> {
        let (room, raw_size) = (order.room, u64::from(order.page_size) * u64::from(order.page_count));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let encoder = File::create(room.path()).and_then(|file| BlockEncoder::new(file, raw_size, threads));
        let encoder = encoder.map_err(|e| not_written(room, &e))?;
        Ok(Self { encoder, hasher: ContentHasher::new(order.page_size, order.page_count), room })
    }
}

impl Sink for Compressing<'_> {
    fn room(&mut self) -> &mut [u8] {
        self.encoder.room()
    }

    fn advance(&mut self, n: usize) -> Result<(), Failure> {
        self.hasher.update(&self.encoder.room()[..n]);
        self.encoder.advance(n).map_err(|e| not_written(self.room, &e))
    }
}
