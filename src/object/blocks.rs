//! A large database to an LZ4 frame: blocks are compressed side by side by threads of their own, while more is read and what is
//! done is written. To the byte what [`encode_frame`](super::encode_frame) makes.

use std::hash::Hasher as _;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use twox_hash::XxHash32;

use super::frame::FrameHasher;
use super::{FrameHash, frame};

/// Beyond this, one thread that reads, hashes and writes could not keep them busy.
const WORKERS_MAX: usize = 4;
/// Blocks that each thread has: one that it compresses, and one that waits.
const BLOCKS_EACH: usize = 2;

/// A frame that is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoded {
    /// Bytes of the frame.
    pub size: u64,
    /// Their hash.
    pub hash: FrameHash,
}

/// Compresses a database as its bytes come. Needs 0.6 MiB for each block under way, and at most nine are: less than 6 MiB.
#[derive(Debug)]
pub struct BlockEncoder<W> {
    sink: Hashed<W>,
    team: Team,
    block: Block,
    /// Bytes that the block has so far.
    filled: usize,
    spare: Vec<Block>,
    /// Bytes of the image that are still to come.
    missing: u64,
    content: XxHash32,
}

impl<W: Write> BlockEncoder<W> {
    /// Begins the frame of an image of `raw_size` bytes with `workers` threads, at most four. Without any, and where the system
    /// gives none, blocks are compressed by the caller's.
    ///
    /// # Errors
    /// The sink failed.
    pub fn new(sink: W, raw_size: u64, workers: usize) -> io::Result<Self> {
        let mut sink = Hashed { sink, size: 0, hasher: FrameHasher::default() };
        sink.write(&frame::header(raw_size))?;
        Ok(Self {
            sink,
            team: Team::start(workers),
            block: Block::new(frame::block_len(raw_size)),
            filled: 0,
            spare: Vec::new(),
            missing: raw_size,
            content: XxHash32::with_seed(0),
        })
    }

    /// Where the next bytes of the image belong; empty once all of them are there. Its length is a multiple of 64 KiB as
    /// long as all that was filled in was, but at the image's end.
    pub fn room(&mut self) -> &mut [u8] {
        let len = self.block.raw.len() - self.filled;
        let len = usize::try_from(self.missing).map_or(len, |missing| missing.min(len));
        &mut self.block.raw[self.filled..self.filled + len]
    }

    /// Takes the first `n` bytes of [`room`](Self::room), which must have been filled in.
    ///
    /// # Errors
    /// The sink failed. The frame cannot be continued then.
    pub fn advance(&mut self, n: usize) -> io::Result<()> {
        let n = n.min(self.room().len());
        self.content.write(&self.block.raw[self.filled..self.filled + n]);
        self.filled += n;
        self.missing -= n as u64;
        if n > 0 && (self.filled == self.block.raw.len() || self.missing == 0) { self.hand_over() } else { Ok(()) }
    }

    /// Ends the frame.
    ///
    /// # Errors
    /// Fewer bytes were filled in than announced (`UnexpectedEof`), or the sink failed.
    pub fn finish(mut self) -> io::Result<(W, Encoded)> {
        if self.missing > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the database became shorter"));
        }
        while let Some(done) = self.team.oldest() {
            self.sink.write(done.encoded())?;
        }
        let checksum = u32::try_from(self.content.finish()).expect("XXH32 has 32 bits");
        self.sink.write(&frame::end(checksum))?;
        let Hashed { sink, size, hasher } = self.sink;
        Ok((sink, Encoded { size, hash: hasher.finish() }))
    }

    /// Gives the block away to be compressed, and writes the oldest one if there are as many under way as may be.
    fn hand_over(&mut self) -> io::Result<()> {
        if self.team.is_full()
            && let Some(done) = self.team.oldest()
        {
            self.sink.write(done.encoded())?;
            self.spare.push(done);
        }
        let next = self.spare.pop().unwrap_or_else(|| Block::new(self.block.raw.len()));
        let mut full = std::mem::replace(&mut self.block, next);
        full.raw_len = std::mem::take(&mut self.filled);
        self.team.give(full);
        Ok(())
    }
}

/// Hashes what it writes.
#[derive(Debug)]
struct Hashed<W> {
    sink: W,
    size: u64,
    hasher: FrameHasher,
}

impl<W: Write> Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sink.write_all(bytes)?;
        self.size += bytes.len() as u64;
        self.hasher.write(bytes);
        Ok(())
    }
}

/// A block, raw and as it stands in the frame. Used over and over.
struct Block {
    raw: Vec<u8>,
    raw_len: usize,
    out: Vec<u8>,
    out_len: usize,
}

impl Block {
    fn new(len: usize) -> Self {
        Self { raw: vec![0; len], raw_len: 0, out: vec![0; frame::block_room(len)], out_len: 0 }
    }

    fn compress(&mut self) {
        self.out_len = frame::write_block(&self.raw[..self.raw_len], &mut self.out);
    }

    fn encoded(&self) -> &[u8] {
        &self.out[..self.out_len]
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block").field("raw_len", &self.raw_len).finish_non_exhaustive()
    }
}

/// The threads. Each gets every so manieth block and gives it back compressed, so that they come back in order.
#[derive(Debug)]
struct Team {
    workers: Vec<Worker>,
    given: usize,
    taken: usize,
    /// Compressed by the caller, where there are no threads.
    own: Option<Block>,
}

#[derive(Debug)]
struct Worker {
    /// `None` once it is asked to end.
    blocks: Option<SyncSender<Block>>,
    done: Receiver<Block>,
    thread: Option<JoinHandle<()>>,
}

impl Team {
    fn start(workers: usize) -> Self {
        let workers = (0..workers.min(WORKERS_MAX)).map_while(|_| Worker::start().ok()).collect();
        Self { workers, given: 0, taken: 0, own: None }
    }

    /// Whether nothing may be given before something is taken.
    fn is_full(&self) -> bool {
        self.given - self.taken >= (self.workers.len() * BLOCKS_EACH).max(1)
    }

    fn give(&mut self, mut block: Block) {
        let turn = self.given.checked_rem(self.workers.len());
        self.given += 1;
        match turn.and_then(|turn| self.workers[turn].blocks.as_ref()) {
            Some(blocks) => blocks.send(block).expect("it ends when this sender is gone"),
            None => {
                block.compress();
                self.own = Some(block);
            }
        }
    }

    /// The block that was given first, compressed; waits for it. `None` if none is under way.
    fn oldest(&mut self) -> Option<Block> {
        if self.given == self.taken {
            return None;
        }
        let turn = self.taken.checked_rem(self.workers.len());
        self.taken += 1;
        match turn {
            Some(turn) => Some(self.workers[turn].done.recv().expect("it ends when its blocks are done")),
            None => self.own.take(),
        }
    }
}

impl Worker {
    fn start() -> io::Result<Self> {
        let (blocks, inbox) = sync_channel::<Block>(BLOCKS_EACH);
        let (outbox, done) = sync_channel(BLOCKS_EACH);
        let work = move || {
            for mut block in inbox {
                block.compress();
                if outbox.send(block).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("compress".into()).spawn(work)?;
        Ok(Self { blocks: Some(blocks), done, thread: Some(thread) })
    }
}

/// Waits for the thread: for a block at most, or two.
impl Drop for Worker {
    fn drop(&mut self) {
        self.blocks = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
