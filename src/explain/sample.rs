//! How databases compress: told from a sample of real ones, read as plain files and put through the real encoder.
//!
//! What is read may be torn, for nobody is asked to wait; that says as much about compression as a snapshot would. Opened for
//! reading only, without moving the time of last access where we may ask for that. No connection of SQLite in this
//! process may have the file open, for closing a descriptor would drop its locks: `explain` has none.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
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

/// Databases that are read at most.
const DRAWS_MAX: usize = 200;
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
    /// How far `ratio` may be from that of all databases: two standard deviations; 0 if all were read.
    pub ratio_error: f64,
    /// All databases were read, each as a whole.
    pub is_complete: bool,
}

/// A database that may be read.
#[derive(Debug)]
struct Drawn {
    score: f64,
    path: PathBuf,
    size: u64,
    key: String,
}

/// Draws databases with a chance that grows with their size, for it is bytes that are asked about; from as many as come,
/// keeping few. The same fleet gives the same sample, in whatever order it is offered.
///
/// Each has a score, exponentially distributed with its size as the rate, and the lowest stay. With the lowest score that
/// does not stay, t, a database of n bytes had the chance 1 − e^(−n·t) to be among them, and stands for as many as that
/// makes rare (bottom-k sampling).
#[derive(Debug, Default)]
pub(super) struct Sample {
    /// The [`DRAWS_MAX`] lowest and the next one, the highest of them on top.
    lowest: BinaryHeap<Drawn>,
}

impl Sample {
    pub(super) fn offer(&mut self, path: &Path, size: u64, key: &str) {
        let score = score(path, size);
        let is_full = self.lowest.len() > DRAWS_MAX;
        if is_full && self.lowest.peek().is_some_and(|highest| score >= highest.score) {
            return;
        }
        self.lowest.push(Drawn { score, path: path.to_path_buf(), size, key: key.to_owned() });
        if is_full {
            self.lowest.pop();
        }
    }

    /// Reads and compresses what was drawn; on the current rayon pool.
    pub(super) fn compress(mut self, host: &str) -> Sampled {
        let next = if self.lowest.len() > DRAWS_MAX { self.lowest.pop() } else { None };
        let threshold = next.map_or(f64::INFINITY, |drawn| drawn.score);
        // In one order always: sums of fractions depend on it.
        let lowest = self.lowest.into_sorted_vec();
        let read = lowest.par_iter().map(|drawn| drawn.compress(host, threshold)).collect::<Vec<_>>();
        let is_all = threshold.is_infinite() && read.iter().all(|p| p.as_ref().is_some_and(|p| p.is_whole));
        summed_up(&read.into_iter().flatten().collect::<Vec<_>>(), is_all)
    }
}

impl Ord for Drawn {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score)
    }
}

impl PartialOrd for Drawn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Drawn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Drawn {}

/// From the exponential distribution with the rate `size`, the same for one path always.
fn score(path: &Path, size: u64) -> f64 {
    let hash = twox_hash::XxHash3_64::oneshot(path.as_os_str().as_bytes());
    // Above 0 and below 1.
    let chance = (float(hash >> 12) + 0.5) / float(1 << 52);
    -chance.ln() / float(size)
}

/// What one database compressed to.
struct Piece {
    size: f64,
    read_bytes: u64,
    is_whole: bool,
    /// Bytes of its object.
    object: f64,
    /// Its chance to be drawn.
    chance: f64,
}

impl Drawn {
    /// Reads a piece of it and compresses it; `None` if it cannot be read any more.
    fn compress(&self, host: &str, threshold: f64) -> Option<Piece> {
        let file = open_quietly(&self.path).ok()?;
        let len = self.size.min(PIECE_MAX);
        let somewhere = twox_hash::XxHash3_64::oneshot_with_seed(1, self.path.as_os_str().as_bytes());
        let offset = if len == self.size { 0 } else { somewhere % (self.size - len) };
        let mut piece = vec![0; usize::try_from(len).ok()?];
        file.read_exact_at(&mut piece, offset).ok()?;
        let frame = encode_frame(&piece);
        let mut object_end = Vec::new();
        self.description(host, &frame).append_to(&mut object_end);
        let size = float(self.size);
        let frame_bytes = float(frame.bytes.len() as u64) * size / float(len);
        let chance = -(-size * threshold).exp_m1();
        let object = frame_bytes + float(object_end.len() as u64);
        Some(Piece { size, read_bytes: len, is_whole: len == self.size, object, chance })
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

/// Objects to main files, each counted for as many as it stands for, and how far that may be off: two standard deviations.
fn summed_up(read: &[Piece], is_complete: bool) -> Sampled {
    let databases = read.len() as u64;
    let read_bytes = read.iter().map(|piece| piece.read_bytes).sum();
    let size: f64 = read.iter().map(|piece| piece.size / piece.chance).sum();
    if size <= 0.0 {
        return Sampled { databases: 0, read_bytes: 0, ratio: 1.0, ratio_error: 0.0, is_complete: false };
    }
    let ratio = read.iter().map(|piece| piece.object / piece.chance).sum::<f64>() / size;
    let off = |piece: &Piece| {
        let residual = piece.object - ratio * piece.size;
        (1.0 - piece.chance) / piece.chance.powi(2) * residual.powi(2)
    };
    let ratio_error = 2.0 * read.iter().map(off).sum::<f64>().sqrt() / size;
    Sampled { databases, read_bytes, ratio, ratio_error, is_complete }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of which the larger ones compress worse, so that a sample that ignores sizes would be wrong.
    fn fleet(dir: &Path, count: u64) -> Vec<(PathBuf, u64)> {
        let file = |n: u64| {
            let (path, size) = (dir.join(format!("{n}.db")), 1000 + n * n % 9_000);
            let random = (0..size).map(|i| {
                let word = twox_hash::XxHash3_64::oneshot_with_seed(n, &i.to_le_bytes());
                if i < size * size / 10_000 { word.to_le_bytes()[0] } else { 7 }
            });
            std::fs::write(&path, random.collect::<Vec<u8>>()).unwrap();
            (path, size)
        };
        (0..count).map(file).collect()
    }

    fn sampled<'a>(files: impl Iterator<Item = &'a (PathBuf, u64)>) -> Sampled {
        let mut sample = Sample::default();
        files.for_each(|(path, size)| sample.offer(path, *size, "key"));
        sample.compress("web-1")
    }

    #[test]
    fn a_sample_tells_what_all_would_and_how_far_it_may_be_off() {
        let dir = tempfile::tempdir().unwrap();
        let files = fleet(dir.path(), 1200);
        let told = sampled(files.iter());
        assert_eq!((told.databases, told.is_complete), (DRAWS_MAX as u64, false));
        // In any order the same.
        assert_eq!(sampled(files.iter().rev()).ratio, told.ratio);
        let all = files.iter().map(|(path, size)| {
            let one = sampled(std::iter::once(&(path.clone(), *size)));
            assert!(one.is_complete && one.ratio_error == 0.0);
            one.ratio * float(*size)
        });
        let (objects, bytes) = (all.sum::<f64>(), files.iter().map(|(_, size)| float(*size)).sum::<f64>());
        let apart = (told.ratio - objects / bytes).abs();
        // Four deviations: the folder has another name in each run, and that makes another sample.
        assert!(apart <= 2.0 * told.ratio_error && told.ratio_error < 0.05, "{told:?}, really {}", objects / bytes);
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_nothing_is_taken_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = fleet(dir.path(), 3);
        std::fs::remove_file(&files[1].0).unwrap();
        let told = sampled(files.iter());
        assert_eq!((told.databases, told.is_complete), (2, false));
        files.iter().filter(|(path, _)| path.exists()).for_each(|(path, _)| std::fs::remove_file(path).unwrap());
        files.truncate(2);
        assert_eq!(sampled(files.iter()).ratio, 1.0);
    }

    #[test]
    fn of_a_large_database_a_piece_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large.db");
        let size = 3 * PIECE_MAX;
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        let told = sampled(std::iter::once(&(path, size)));
        assert_eq!((told.databases, told.read_bytes, told.is_complete), (1, PIECE_MAX, false));
        assert!(told.ratio < 0.01, "{told:?}");
    }
}
