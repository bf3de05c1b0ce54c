//! The first bytes of a file that may be a database. Input: a number for the length of the file, then the bytes.

use litesnap::content::ContentHasher;
use litesnap::header::{HEADER_LEN, Header, JournalMode, has_magic, looks_encrypted};

use super::{is_one_line, objects};

pub fn check(data: &[u8]) {
    let Some((len, first)) = data.split_first() else { return };
    let file_len = u64::from(*len) * 256;
    judged(first, file_len);
    if let Some(bytes) = first.first_chunk::<HEADER_LEN>() {
        parsed(bytes);
    }
    hashed(first, *len);
}

fn judged(first: &[u8], file_len: u64) {
    assert_eq!(has_magic(first), first.len() >= 16 && first[..16] == *b"SQLite format 3\0");
    let may_be = looks_encrypted(first, file_len);
    assert!(
        !may_be || (!has_magic(first) && file_len > 0 && file_len.is_multiple_of(512) && first.len() >= HEADER_LEN)
    );
    // Nothing beyond the first page of 4 KiB counts.
    assert_eq!(may_be, looks_encrypted(&first[..first.len().min(4096)], file_len));
    // All alike is never random, and neither is half of it.
    let mut dull = first[..first.len().min(4096)].to_vec();
    let middle = dull.len() / 2;
    dull[middle..].fill(0);
    assert!(first.is_empty() || !looks_encrypted(&dull, file_len), "half zeros look random");
}

fn parsed(bytes: &[u8; HEADER_LEN]) {
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    match Header::parse(bytes) {
        Ok(header) => {
            // The pages of 1 << 9 to 1 << 16, as another reader tells them.
            let mut whole = bytes.to_vec();
            whole.resize(header.page_size as usize, 0);
            assert_eq!(objects::pages(&whole), Some((header.page_size, 1)));
            assert_eq!((header.change_counter, header.page_count), (number(24), number(28)));
            assert_eq!((header.version_valid_for, header.sqlite_version), (number(92), number(96)));
            assert_eq!(header.size_bytes(), u64::from(number(28)) * u64::from(header.page_size));
            assert!(!header.size_is_valid() || number(24) == number(92));
            let wal = bytes[18..20] == [2, 2];
            assert_eq!(header.journal_mode() == JournalMode::Wal, wal);
        }
        Err(e) => {
            is_one_line(&e.to_string());
            assert!(!has_magic(bytes) || objects::pages(&[&bytes[..], &[0; 65_436]].concat()).is_none());
        }
    }
}

/// The content hash is the same in whatever pieces the bytes come, and refuses a wrong number of them.
fn hashed(bytes: &[u8], seed: u8) {
    let image = objects::image(seed, bytes);
    let (page_size, page_count) = objects::pages(&image).expect("made with pages");
    let by_definition = objects::content_hash(&image, page_count, [1, 2, 0o644]);
    for piece in [image.len(), 1 + usize::from(seed), 99] {
        let mut hasher = ContentHasher::new(page_size, page_count);
        image.chunks(piece).for_each(|piece| hasher.update(piece));
        assert_eq!(hasher.clone().finish(1, 2, 0o100_644), Ok(by_definition));
        hasher.update(b"x");
        assert!(hasher.finish(1, 2, 0o644).is_err());
    }
}
