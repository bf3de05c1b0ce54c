//! How databases compress: told from a sample of real ones, read as plain files and put through the real encoder.
//!
//! What is read may be torn, for nobody is asked to wait; that says as much about compression as a snapshot would. Opened for
//! reading only, without moving the time of last access where we may ask for that. No connection of SQLite in this
//! process may have the file open, for closing a descriptor would drop its locks: `explain` has none.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use crate::content::ContentHash;
use crate::cost::float;
use crate::header::{HEADER_LEN, JournalMode, has_magic};
use crate::object::{Description, FORMAT_VERSION, LITESNAP_VERSION, encode_frame};
use crate::snapshot::open_quietly;
use crate::timestamp::Timestamp;

/// Draws, and databases that are read at most.
const DRAWS: usize = 50;
/// Read of one database at most: of a larger one a piece from somewhere in it.
const PIECE_MAX: u64 = 4 << 20;

/// What the first bytes of a file say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// An SQLite database.
    Database,
    /// There are none.
    Empty,
    /// Something else, or it cannot be read.
    Other,
}

/// Looks at the header of a file of `size` bytes.
pub(super) fn look_at_head(path: &Path, size: u64) -> Head {
    if size == 0 {
        return Head::Empty;
    }
    let mut head = [0; HEADER_LEN];
    let read = open_quietly(path).and_then(|mut file| file.read_exact(&mut head));
    if read.is_ok() && has_magic(&head) { Head::Database } else { Head::Other }
}

/// How the sample compressed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sampled {
    /// Databases that were read.
    pub databases: u64,
    /// Bytes that were read of them.
    pub read_bytes: u64,
    /// Bytes of the objects, descriptions included, for each byte of the main files. 1 if nothing could be read.
    pub ratio: f64,
    /// The ratio of other samples of this size would mostly be no further away than this; 0 if all databases were read.
    pub ratio_error: f64,
    /// All databases were read, each as a whole.
    pub is_complete: bool,
}

/// A database that may be read.
#[derive(Debug, Clone)]
struct Drawn {
    path: PathBuf,
    size: u64,
    key: String,
}

/// Draws databases with a chance in proportion to their size, for it is bytes that are asked about, from as many as
/// come, in memory for a few. The same fleet gives the same sample, in whatever order it is offered.
#[derive(Debug, Default)]
pub(super) struct Sample {
    /// All, while they are few.
    few: Vec<Drawn>,
    offered: u64,
    /// Each with the lowest score so far.
    draws: Vec<(f64, Drawn)>,
}

impl Sample {
    pub(super) fn offer(&mut self, path: &Path, size: u64, key: &str) {
        self.offered += 1;
        let drawn = || Drawn { path: path.to_path_buf(), size, key: key.to_owned() };
        if self.few.len() < DRAWS {
            self.few.push(drawn());
        }
        for draw in 0..DRAWS {
            let score = score(draw, path, size);
            match self.draws.get_mut(draw) {
                None => self.draws.push((score, drawn())),
                Some(lowest) if score < lowest.0 => *lowest = (score, drawn()),
                Some(_) => {}
            }
        }
    }

    /// Reads and compresses what was drawn; on the current rayon pool.
    pub(super) fn compress(self, host: &str) -> Sampled {
        let is_all = self.offered <= DRAWS as u64;
        let mut times: BTreeMap<PathBuf, (Drawn, u32)> = BTreeMap::new();
        let chosen = if is_all { self.few } else { self.draws.into_iter().map(|(_, drawn)| drawn).collect() };
        for drawn in chosen {
            times.entry(drawn.path.clone()).or_insert((drawn, 0)).1 += 1;
        }
        let times: Vec<(Drawn, u32)> = times.into_values().collect();
        let read = times.par_iter().filter_map(|(drawn, times)| Some((drawn.compress(host)?, drawn.size, *times)));
        summed_up(&read.collect::<Vec<_>>(), is_all && times.len() as u64 == self.offered)
    }
}

/// The race of exponential clocks: of all offered, one has the lowest score of a draw with a chance in proportion to its
/// size.
fn score(draw: usize, path: &Path, size: u64) -> f64 {
    let hash = twox_hash::XxHash3_64::oneshot_with_seed(draw as u64, path.as_os_str().as_bytes());
    // Above 0 and below 1.
    let chance = (float(hash >> 12) + 0.5) / float(1 << 52);
    -chance.ln() / float(size)
}

/// What one database compressed to.
struct Piece {
    read_bytes: u64,
    is_whole: bool,
    /// Object bytes for each byte of the main file.
    ratio: f64,
}

impl Drawn {
    /// Reads a piece of it and compresses it; `None` if it cannot be read any more.
    fn compress(&self, host: &str) -> Option<Piece> {
        let file = open_quietly(&self.path).ok()?;
        let len = self.size.min(PIECE_MAX);
        let hash = twox_hash::XxHash3_64::oneshot(self.path.as_os_str().as_bytes());
        let offset = if len == self.size { 0 } else { hash % (self.size - len) };
        let mut piece = vec![0; usize::try_from(len).ok()?];
        file.read_exact_at(&mut piece, offset).ok()?;
        let frame = encode_frame(&piece);
        let mut object_end = Vec::new();
        self.description(host, &frame).append_to(&mut object_end);
        let frame_bytes = float(frame.bytes.len() as u64) * float(self.size) / float(len);
        let ratio = (frame_bytes + float(object_end.len() as u64)) / float(self.size);
        Some(Piece { read_bytes: len, is_whole: len == self.size, ratio })
    }

    /// As long as the real one; what is not known has a value of usual length.
    fn description(&self, host: &str, frame: &crate::object::Frame) -> Description {
        Description {
            format: FORMAT_VERSION,
            key: self.key.clone(),
            host: host.to_owned(),
            path: self.path.clone(),
            taken_at: Timestamp::MIN,
            page_size: 4096,
            page_count: u32::try_from(self.size / 4096).unwrap_or(u32::MAX),
            raw_size: self.size,
            content_hash: ContentHash([0; 16]),
            frame_size: frame.bytes.len() as u64,
            frame_hash: frame.hash,
            journal_mode: JournalMode::Rollback,
            uid: 1000,
            gid: 1000,
            mode: 0o640,
            mtime_ns: 1_700_000_000_000_000_000,
            schema_version: Some(10),
            sqlite_version: Some(3_045_001),
            litesnap: LITESNAP_VERSION.to_owned(),
        }
    }
}

/// All of them weighed by size; or of draws that were made by size the average, and how far it may be off.
fn summed_up(read: &[(Piece, u64, u32)], is_all: bool) -> Sampled {
    let databases = read.len() as u64;
    let read_bytes = read.iter().map(|(piece, _, _)| piece.read_bytes).sum();
    let is_complete = is_all && read.iter().all(|(piece, _, _)| piece.is_whole);
    let weight = |size: u64, times: u32| if is_all { float(size) } else { f64::from(times) };
    let weights: f64 = read.iter().map(|(_, size, times)| weight(*size, *times)).sum();
    if weights <= 0.0 {
        return Sampled { databases: 0, read_bytes: 0, ratio: 1.0, ratio_error: 0.0, is_complete: false };
    }
    let average = |of: &dyn Fn(&Piece) -> f64| {
        read.iter().map(|(piece, size, times)| of(piece) * weight(*size, *times)).sum::<f64>() / weights
    };
    let ratio = average(&|piece| piece.ratio);
    let variance = average(&|piece| (piece.ratio - ratio).powi(2));
    let ratio_error = if is_all { 0.0 } else { 2.0 * (variance / weights).sqrt() };
    Sampled { databases, read_bytes, ratio, ratio_error, is_complete }
}
