//! The first 100 bytes of an SQLite database: what they say, and what else a file may be.
//!
//! Pure: reads no file and never panics, whatever the bytes. Layout: <https://www.sqlite.org/fileformat2.html>.

use serde::{Deserialize, Serialize};

/// What the first 16 bytes of every unencrypted SQLite database are.
pub const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 100;

/// Whether `bytes` begin as an SQLite database does. Fewer than 16 bytes do not.
#[must_use]
pub fn has_magic(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// How an SQLite database is written to, as its header says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JournalMode {
    /// A rollback journal: delete, truncate, persist, memory or off; the file does not say which.
    Rollback,
    /// A write-ahead log.
    Wal,
    /// Something newer: WAL2, or what a later version of this program wrote in a description.
    #[serde(other)]
    Unknown,
}

/// The fields of the header, read as they are: only magic and page size are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes per page: a power of two, 512..=65536.
    pub page_size: u32,
    /// Offset 18: 1 rollback, 2 WAL; a writer must not touch a file with another value.
    pub write_version: u8,
    /// Offset 19: 1 rollback, 2 WAL; a reader must not read a file with another value.
    pub read_version: u8,
    /// Bytes at the end of each page that SQLite leaves to extensions.
    pub reserved: u8,
    /// Offsets 21 to 23: 64, 32, 32 in every database that SQLite reads.
    pub payload_fractions: [u8; 3],
    /// Incremented by each commit outside WAL mode; in WAL mode it need not move.
    pub change_counter: u32,
    /// Pages in the database; to be trusted only if [`Header::size_is_valid`].
    pub page_count: u32,
    /// `PRAGMA schema_version`.
    pub schema_cookie: u32,
    /// Version of the schema's format, at most 4; 0 in a database without content.
    pub schema_format: u32,
    /// 1 UTF-8, 2 UTF-16le, 3 UTF-16be; 0 in a database without content.
    pub text_encoding: u32,
    /// `PRAGMA user_version`.
    pub user_version: i32,
    /// `PRAGMA application_id`.
    pub application_id: i32,
    /// The change counter when the last writer's version was recorded.
    pub version_valid_for: u32,
    /// The last writer's version, 3054001 for 3.54.1; 0 if it was older than 3.7.0.
    pub sqlite_version: u32,
}

/// Why bytes are not the header of an SQLite database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSqlite {
    /// They do not begin with the magic.
    #[error("does not begin with \"SQLite format 3\"")]
    Magic,
    /// The page size is not a power of two in 512..=65536.
    #[error("the header names an impossible page size")]
    PageSize,
}

impl Header {
    /// Reads the header.
    ///
    /// # Errors
    /// No magic, or an impossible page size. All other fields are taken as they are.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self, NotSqlite> {
        if !has_magic(bytes) {
            return Err(NotSqlite::Magic);
        }
        let page_size = match u16::from_be_bytes([bytes[16], bytes[17]]) {
            1 => 65_536,
            size if size >= 512 && size.is_power_of_two() => u32::from(size),
            _ => return Err(NotSqlite::PageSize),
        };
        let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        Ok(Self {
            page_size,
            write_version: bytes[18],
            read_version: bytes[19],
            reserved: bytes[20],
            payload_fractions: [bytes[21], bytes[22], bytes[23]],
            change_counter: u32::from_be_bytes(word(24)),
            page_count: u32::from_be_bytes(word(28)),
            schema_cookie: u32::from_be_bytes(word(40)),
            schema_format: u32::from_be_bytes(word(44)),
            text_encoding: u32::from_be_bytes(word(56)),
            user_version: i32::from_be_bytes(word(60)),
            application_id: i32::from_be_bytes(word(68)),
            version_valid_for: u32::from_be_bytes(word(92)),
            sqlite_version: u32::from_be_bytes(word(96)),
        })
    }

    /// Whether [`page_count`](Self::page_count) is what the last writer left: versions before 3.7.0
    /// do not maintain it, and show that by a change counter that has moved on.
    #[must_use]
    pub fn size_is_valid(&self) -> bool {
        self.page_count > 0 && self.change_counter == self.version_valid_for
    }

    /// Size of the database in bytes by its own account; to be trusted only if [`Header::size_is_valid`].
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        u64::from(self.page_count) * u64::from(self.page_size)
    }

    /// Whether SQLite would read a database with this header: versions it knows of file and schema, pages with room for
    /// content, the payload fractions that are part of the format, a known text encoding.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let is_known = matches!((self.write_version, self.read_version), (1, 1) | (2, 2));
        let has_room = self.page_size - u32::from(self.reserved) >= 480;
        let is_readable = self.schema_format <= 4 && self.text_encoding <= 3;
        is_known && has_room && is_readable && self.payload_fractions == [64, 32, 32]
    }

    /// How the database is written to.
    #[must_use]
    pub fn journal_mode(&self) -> JournalMode {
        match (self.write_version, self.read_version) {
            (1, 1) => JournalMode::Rollback,
            (2, 2) => JournalMode::Wal,
            _ => JournalMode::Unknown,
        }
    }
}

/// How compressed files and media begin: random to the eye, yet not encrypted databases.
const COMPRESSED: [&[u8]; 11] = [
    b"\x1f\x8b",             // gzip
    b"PK\x03\x04",           // zip and what is built on it
    b"\x28\xb5\x2f\xfd",     // zstd
    b"\x04\x22\x4d\x18",     // LZ4 frame
    b"\xfd7zXZ\0",           // xz
    b"BZh",                  // bzip2
    b"7z\xbc\xaf\x27\x1c",   // 7-zip
    b"\xff\xd8\xff",         // JPEG
    b"\x89PNG",              // PNG
    b"Salted__",             // openssl enc: a file somebody encrypted, not a database
    b"age-encryption.org/v", // age
];

/// Whether a file that begins with `first_bytes` and is `file_len` bytes long may well be an encrypted
/// SQLite database (SQLCipher, SEE, SQLite3 Multiple Ciphers). A guess, for wording a message only.
///
/// Encryption keeps whole pages, so the length is a positive multiple of 512, and leaves no magic. What is
/// left must look random: two bytes picked from the first 4,096 are equal at most twice as often as in
/// random bytes, that is, with a chance of at most 2 in 256. English text has 17 in 256, base64 has 4, and
/// programs and media with their runs of zeros have more. Fewer than 100 bytes say nothing. Formats that are
/// compressed and known by their first bytes are excepted.
#[must_use]
pub fn looks_encrypted(first_bytes: &[u8], file_len: u64) -> bool {
    let sample = &first_bytes[..first_bytes.len().min(4096)];
    if file_len == 0 || !file_len.is_multiple_of(512) || sample.len() < HEADER_LEN || has_magic(sample) {
        return false;
    }
    if COMPRESSED.iter().any(|magic| sample.starts_with(magic)) {
        return false;
    }
    let mut counts = [0u64; 256];
    for byte in sample {
        counts[usize::from(*byte)] += 1;
    }
    let equal_pairs: u64 = counts.iter().map(|c| c * c.saturating_sub(1) / 2).sum();
    let n = sample.len() as u64;
    equal_pairs * 256 <= 2 * (n * (n - 1) / 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header_of(path: &std::path::Path) -> Header {
        let bytes = std::fs::read(path).unwrap();
        Header::parse(bytes[..100].try_into().unwrap()).unwrap()
    }

    #[test]
    fn agrees_with_sqlite() {
        let dir = tempfile::tempdir().unwrap();
        for page_size in [512u32, 1024, 4096, 32768, 65536] {
            for (mode, expected) in [("delete", JournalMode::Rollback), ("wal", JournalMode::Wal)] {
                let path = dir.path().join(format!("{page_size}-{mode}.db"));
                let db = rusqlite::Connection::open(&path).unwrap();
                db.execute_batch(&format!(
                    "PRAGMA page_size={page_size}; PRAGMA journal_mode={mode}; CREATE TABLE t(x); \
                     INSERT INTO t VALUES (zeroblob(100000)); PRAGMA user_version=-7; PRAGMA application_id=77;"
                ))
                .unwrap();
                db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
                let pragma = |name: &str| db.query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, u32>(0)).unwrap();
                let header = header_of(&path);
                assert_eq!(header.page_size, page_size);
                assert_eq!(header.journal_mode(), expected);
                assert_eq!(header.schema_cookie, pragma("schema_version"));
                assert_eq!(header.page_count, pragma("page_count"));
                assert!(header.size_is_valid());
                assert_eq!(header.size_bytes(), std::fs::metadata(&path).unwrap().len());
                assert_eq!((header.user_version, header.application_id), (-7, 77));
                assert_eq!((header.text_encoding, header.reserved), (1, 0));
                assert_eq!(i64::from(header.sqlite_version), i64::from(rusqlite::version_number()));
            }
        }
    }

    #[test]
    fn what_is_usable_is_read_by_sqlite() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
        let image = std::fs::read(&path).unwrap();
        let mut usable = 0;
        for at in [21, 22, 23, 44, 45, 46, 47] {
            for value in 0..=255 {
                let mut image = image.clone();
                image[at] = value;
                if !Header::parse(image[..100].try_into().unwrap()).unwrap().is_usable() {
                    continue;
                }
                let mut db = rusqlite::Connection::open_in_memory().unwrap();
                db.deserialize_read_exact("main", image.as_slice(), image.len(), true).unwrap();
                let tables: u32 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
                assert_eq!(tables, 1, "{value} at {at}");
                usable += 1;
            }
        }
        assert_eq!(usable, 3 + 3 + 5);
    }

    #[test]
    fn refuses_what_is_not_a_database() {
        let mut bytes = [0u8; 100];
        assert_eq!(Header::parse(&bytes), Err(NotSqlite::Magic));
        bytes[..16].copy_from_slice(MAGIC);
        for wrong in [0u16, 2, 256, 511, 513, 1000, 4097, 65535] {
            bytes[16..18].copy_from_slice(&wrong.to_be_bytes());
            assert_eq!(Header::parse(&bytes), Err(NotSqlite::PageSize), "{wrong}");
        }
        bytes[16..18].copy_from_slice(&[0x10, 0]);
        bytes[18..20].copy_from_slice(&[3, 3]);
        assert_eq!(Header::parse(&bytes).unwrap().journal_mode(), JournalMode::Unknown);
    }

    /// Bytes without pattern, the same each time.
    fn noise(len: usize) -> Vec<u8> {
        (0..len as u64).map(|i| twox_hash::XxHash3_64::oneshot(&i.to_le_bytes()).to_le_bytes()[0]).collect()
    }

    #[test]
    fn tells_encrypted_from_other_files() {
        assert!(looks_encrypted(&noise(4096), 8192));
        assert!(looks_encrypted(&noise(100), 512));
        let mut page_size_in_clear = noise(4096);
        page_size_in_clear[16..24].copy_from_slice(&[0x10, 0, 1, 1, 0, 0x40, 0x20, 0x20]);
        assert!(looks_encrypted(&page_size_in_clear, 8192), "SEE and others leave bytes 16..24 readable");

        assert!(!looks_encrypted(&noise(4096), 0));
        assert!(!looks_encrypted(&noise(4096), 8191));
        assert!(!looks_encrypted(&noise(99), 512));
        assert!(!looks_encrypted(&[0; 4096], 4096));
        let text = b"The quick brown fox jumps over the lazy dog, again and again, until it is bored. ".repeat(60);
        assert!(!looks_encrypted(&text[..4096], 4096));
        let base64: Vec<u8> = noise(4096).iter().map(|b| b'0' + b % 64).collect();
        assert!(!looks_encrypted(&base64, 4096));
        assert!(!looks_encrypted(&[MAGIC.as_slice(), &noise(4000)].concat(), 4096));
        assert!(!looks_encrypted(&[b"\x1f\x8b\x08\0".as_slice(), &noise(4000)].concat(), 10240), "a tar.gz is padded");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(mut bytes in proptest::array::uniform32(any::<u8>()), magic: bool) {
            let mut header = [0u8; 100];
            if magic {
                header[..16].copy_from_slice(MAGIC);
                bytes[0] &= 1;
            }
            header[16..48].copy_from_slice(&bytes);
            header[68..100].copy_from_slice(&bytes);
            if let Ok(h) = Header::parse(&header) {
                prop_assert!(h.page_size.is_power_of_two() && (512..=65536).contains(&h.page_size));
                prop_assert!(h.size_bytes() <= u64::from(u32::MAX) * 65536);
            }
        }

        #[test]
        fn any_file_is_judged_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..5000), len: u64) {
            if looks_encrypted(&bytes, len) {
                prop_assert!(!has_magic(&bytes));
            }
        }
    }
}
