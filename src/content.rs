//! The hash of a database's content: equal for two readings of the same commit, however they were read.
//!
//! A raw read of a quiescent file and a copy through SQLite's backup API differ in a few bytes of
//! page 1 that say nothing about the content. They are hashed as fixed values, so that a checkpoint
//! or a `touch` does not look like a change:
//!
//! | bytes | what | hashed as |
//! |---|---|---|
//! | 24–27 of page 1 | file change counter | zeros |
//! | 28–31 of page 1 | size in pages, stale after old writers | the page count, big-endian |
//! | 40–43 of page 1 | schema cookie: the backup API increments it | zeros |
//! | 92–99 of page 1 | version-valid-for, version of the last writer | zeros |
//! | the page that holds offset 0x40000000 | locked, never used for data | zeros |
//!
//! Owner, group and permission bits follow as three u32 little-endian: a `chmod` alone is worth a new
//! snapshot. The mask hides one change: a `PRAGMA schema_version=…` by itself.
//!
//! XXH3-128 is not a cryptographic hash: it finds accidents, not forgers.

use twox_hash::xxhash3_128::Hasher;

pub use crate::digest::NotADigest;
use crate::digest::digest;
use crate::header::HEADER_LEN;

digest! {
    /// The hash of a database's content, owner and permission bits.
    ContentHash
}

/// Where SQLite places its locks; the page that holds this byte carries no data.
const LOCK_BYTE: u64 = 0x4000_0000;

static ZEROS: [u8; 4096] = [0; 4096];

/// Computes a [`ContentHash`] from the bytes of a database, in order, in chunks of any size. Holds
/// about 1 KiB and copies nothing beyond the header, so it runs at the speed of the memory.
#[derive(Clone)]
pub struct ContentHasher {
    hasher: Hasher,
    page_count: u32,
    /// Bytes expected in all.
    size: u64,
    /// Bytes taken so far.
    at: u64,
    lock_page: std::ops::Range<u64>,
    head: [u8; HEADER_LEN],
}

impl std::fmt::Debug for ContentHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentHasher").field("size", &self.size).field("at", &self.at).finish_non_exhaustive()
    }
}

/// The number of bytes hashed is not page count × page size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{found} bytes of content where page count × page size is {expected}")]
pub struct WrongLength {
    /// Page count × page size.
    pub expected: u64,
    /// Bytes given.
    pub found: u64,
}

impl ContentHasher {
    /// For a database of `page_count` pages of `page_size` bytes each (512..=65536, a power of two).
    #[must_use]
    pub fn new(page_size: u32, page_count: u32) -> Self {
        Self::with_lock_byte(page_size, page_count, LOCK_BYTE)
    }

    fn with_lock_byte(page_size: u32, page_count: u32, lock_byte: u64) -> Self {
        let page = u64::from(page_size.max(1));
        let lock_start = lock_byte - lock_byte % page;
        Self {
            hasher: Hasher::new(),
            page_count,
            size: u64::from(page_count) * u64::from(page_size),
            at: 0,
            lock_page: lock_start..lock_start + page,
            head: [0; HEADER_LEN],
        }
    }

    /// Takes the next bytes of the database.
    pub fn update(&mut self, mut bytes: &[u8]) {
        if let Some(missing) = HEADER_LEN.checked_sub(usize::try_from(self.at).unwrap_or(usize::MAX)) {
            let taken = self.take_header(&bytes[..bytes.len().min(missing)]);
            bytes = &bytes[taken..];
        }
        let before = self.split(&mut bytes, self.lock_page.start);
        self.hasher.write(before);
        let mut locked = self.split(&mut bytes, self.lock_page.end).len();
        while locked > 0 {
            let n = locked.min(ZEROS.len());
            self.hasher.write(&ZEROS[..n]);
            locked -= n;
        }
        self.at += bytes.len() as u64;
        self.hasher.write(bytes);
    }

    /// Collects header bytes; once complete, hashes them with the mask applied. Returns how many it took.
    fn take_header(&mut self, bytes: &[u8]) -> usize {
        let at = usize::try_from(self.at).unwrap_or(HEADER_LEN);
        self.head[at..at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len() as u64;
        if !bytes.is_empty() && at + bytes.len() == HEADER_LEN {
            self.head[24..28].fill(0);
            self.head[28..32].copy_from_slice(&self.page_count.to_be_bytes());
            self.head[40..44].fill(0);
            self.head[92..100].fill(0);
            self.hasher.write(&self.head);
        }
        bytes.len()
    }

    /// Splits off the part of `bytes` that lies before offset `end` of the database.
    fn split<'a>(&mut self, bytes: &mut &'a [u8], end: u64) -> &'a [u8] {
        let n = usize::try_from(end.saturating_sub(self.at)).unwrap_or(usize::MAX).min(bytes.len());
        let (before, after) = bytes.split_at(n);
        self.at += n as u64;
        *bytes = after;
        before
    }

    /// Ends the hash with the owner, the group and the permission bits of `mode` (`mode & 0o7777`).
    ///
    /// # Errors
    /// More or fewer bytes were given than page count × page size.
    pub fn finish(mut self, uid: u32, gid: u32, mode: u32) -> Result<ContentHash, WrongLength> {
        if self.at != self.size {
            return Err(WrongLength { expected: self.size, found: self.at });
        }
        for number in [uid, gid, mode & 0o7777] {
            self.hasher.write(&number.to_le_bytes());
        }
        Ok(ContentHash::of(&self.hasher))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::*;
    use crate::header::Header;

    fn hash_chunks<'a>(mut hasher: ContentHasher, chunks: impl IntoIterator<Item = &'a [u8]>) -> ContentHash {
        for chunk in chunks {
            hasher.update(chunk);
        }
        hasher.finish(1, 2, 0o644).unwrap()
    }

    fn hash_file(path: &Path) -> ContentHash {
        let bytes = std::fs::read(path).unwrap();
        let page_size = Header::parse(bytes[..100].try_into().unwrap()).unwrap().page_size;
        let pages = u32::try_from(bytes.len()).unwrap() / page_size;
        hash_chunks(ContentHasher::new(page_size, pages), [bytes.as_slice()])
    }

    fn make(path: &Path, page_size: u32, mode: &str, vacuum: &str) -> Connection {
        let db = Connection::open(path).unwrap();
        db.execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA auto_vacuum={vacuum}; PRAGMA journal_mode={mode};
             CREATE TABLE t(id INTEGER PRIMARY KEY, x); CREATE INDEX i ON t(x);
             WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<500)
             INSERT INTO t SELECT n, hex(randomblob(60)) FROM c;
             DELETE FROM t WHERE id BETWEEN 100 AND 200;"
        ))
        .unwrap();
        checkpoint(&db);
        db
    }

    fn checkpoint(db: &Connection) {
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    }

    fn copy(from: &Connection, to: &mut Connection) {
        let backup = rusqlite::backup::Backup::new(from, to).unwrap();
        assert_eq!(backup.step(-1).unwrap(), rusqlite::backup::StepResult::Done);
    }

    #[test]
    fn raw_file_and_backup_copy_agree() {
        let dir = tempfile::tempdir().unwrap();
        for page_size in [512u32, 1024, 4096, 65536] {
            for (mode, vacuum) in [("delete", "none"), ("wal", "none"), ("wal", "full"), ("persist", "incremental")] {
                let path = dir.path().join(format!("{page_size}-{mode}-{vacuum}.db"));
                // Reads through a connection of its own: the writer's cache holds free pages that it never wrote.
                drop(make(&path, page_size, mode, vacuum));
                let db = Connection::open(&path).unwrap();
                let raw = hash_file(&path);

                let to = path.with_extension("copy");
                copy(&db, &mut Connection::open(&to).unwrap());
                assert_eq!(hash_file(&to), raw, "file copy, {page_size} {mode} {vacuum}");

                let mut memory = Connection::open_in_memory().unwrap();
                copy(&db, &mut memory);
                let image = memory.serialize("main").unwrap();
                let pages = u32::try_from(image.len()).unwrap() / page_size;
                let of_memory = hash_chunks(ContentHasher::new(page_size, pages), [&*image]);
                assert_eq!(of_memory, raw, "memory copy, {page_size} {mode} {vacuum}");
            }
        }
    }

    #[test]
    fn each_change_shows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let db = make(&path, 4096, "wal", "none");
        let mut seen = vec![hash_file(&path)];
        for change in
            ["UPDATE t SET x='y' WHERE id=7", "PRAGMA user_version=5", "PRAGMA application_id=5", "DROP INDEX i"]
        {
            db.execute_batch(change).unwrap();
            checkpoint(&db);
            let now = hash_file(&path);
            assert!(!seen.contains(&now), "{change}");
            seen.push(now);
        }
        db.execute_batch("BEGIN; UPDATE t SET x=x WHERE id=7; COMMIT").unwrap();
        checkpoint(&db);
        assert_eq!(seen.last(), Some(&hash_file(&path)), "a commit that changes nothing");
    }

    #[test]
    fn owner_and_mode_count_and_file_type_does_not() {
        let hash = |uid, gid, mode| {
            let mut hasher = ContentHasher::new(512, 1);
            hasher.update(&[7; 512]);
            hasher.finish(uid, gid, mode).unwrap()
        };
        let base = hash(1000, 1000, 0o644);
        assert_eq!(hash(1000, 1000, 0o100_644), base);
        for other in [hash(0, 1000, 0o644), hash(1000, 0, 0o644), hash(1000, 1000, 0o600), hash(1000, 1000, 0o4644)] {
            assert_ne!(other, base);
        }
    }

    #[test]
    fn a_wrong_number_of_bytes_is_an_error() {
        for len in [0usize, 50, 1023, 1025, 4096] {
            let mut hasher = ContentHasher::new(512, 2);
            hasher.update(&vec![1; len]);
            assert_eq!(hasher.finish(0, 0, 0), Err(WrongLength { expected: 1024, found: len as u64 }));
        }
        assert!(ContentHasher::new(4096, 0).finish(0, 0, 0).is_ok(), "a database without pages");
    }

    /// The definition, written as plainly as can be: what the format document says.
    fn by_definition(image: &[u8], page_size: u32, lock_byte: usize) -> ContentHash {
        let mut masked = image.to_vec();
        let pages = u32::try_from(image.len()).unwrap() / page_size;
        for at in (24..28).chain(40..44).chain(92..100) {
            masked[at] = 0;
        }
        masked[28..32].copy_from_slice(&pages.to_be_bytes());
        let page = page_size as usize;
        if let Some(locked) = masked.chunks_mut(page).nth(lock_byte / page) {
            locked.fill(0);
        }
        for number in [1u32, 2, 0o644] {
            masked.extend_from_slice(&number.to_le_bytes());
        }
        ContentHash(Hasher::oneshot(&masked).to_be_bytes())
    }

    /// The values that every later version must reproduce.
    #[test]
    fn the_definition_has_not_moved() {
        let image: Vec<u8> = (0..8192u32).map(|i| (i % 251).to_le_bytes()[0]).collect();
        let hash = hash_chunks(ContentHasher::new(4096, 2), [image.as_slice()]);
        assert_eq!(hash.to_string(), "f88dbc47aeb7417b5886a6ee6abc18f8");
        assert_eq!(hash.to_string().parse(), Ok(hash));
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(
            seed: u64,
            pages in 2u32..9,
            lock_byte in 512usize..5000,
            cuts in proptest::collection::vec(0usize..4096, 0..12),
        ) {
            let image: Vec<u8> = (0..u64::from(pages) * 512)
                .map(|i| twox_hash::XxHash3_64::oneshot_with_seed(seed, &i.to_le_bytes()).to_le_bytes()[0])
                .collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c % image.len()).collect();
            cuts.extend([0, image.len()]);
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|w| &image[w[0]..w[1]]);
            let hasher = ContentHasher::with_lock_byte(512, pages, lock_byte as u64);
            prop_assert_eq!(hash_chunks(hasher, chunks), by_definition(&image, 512, lock_byte));
        }
    }
}
