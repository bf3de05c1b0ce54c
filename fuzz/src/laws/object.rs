//! Whole objects. Input, by its first byte modulo 3:
//!
//! - 0: the object as it is;
//! - 1: shape, `n`, `n` patches of a place (2 bytes) and a mask, then an image: a good object with its bytes changed;
//! - 2: flags, block size, which field of the description is wrong (0 for none), then blocks: 2 bytes of length, of
//!   which the highest bit says that the block is stored as it is, and the block. A frame made by hand, checksums right.

use std::io::{self, Read, Write};

use litesnap::object::{
    Description, HEAD_LEN, ObjectError, Tail, announced_size, decode, encode_frame, read_description,
};
use lz4_flex::frame::FrameDecoder;
use twox_hash::XxHash32;

use super::{gauge, is_one_line, objects};

/// What the module of objects promises for foreign ones: two blocks of 4 MiB and a description of at most 1 MiB.
const MEMORY_MAX: usize = 9 << 20;
/// Images up to this size are kept and compared, larger ones only counted.
const KEPT_MAX: usize = 1 << 20;

pub fn check(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return laws(data, None) };
    match kind % 3 {
        0 => laws(rest, None),
        1 => laws(&patched(rest), None),
        _ => {
            let made = Made::of(rest);
            laws(&made.object, Some(&made));
        }
    }
}

/// A good object, some of its bytes changed.
fn patched(input: &[u8]) -> Vec<u8> {
    let [shape, n, rest @ ..] = input else { return Vec::new() };
    let (patches, bytes) = rest.split_at((3 * usize::from(n % 8)).min(rest.len()));
    let image = objects::image(*shape, bytes);
    let mut object = encode_frame(&image).bytes;
    let description = objects::describe(&image, &object).expect("made with pages");
    description.append_to(&mut object);
    let len = object.len();
    for patch in patches.as_chunks::<3>().0 {
        object[usize::from(u16::from_le_bytes([patch[0], patch[1]])) % len] ^= patch[2];
    }
    object
}

/// An object made by hand, and what is known of it.
struct Made {
    object: Vec<u8>,
    /// The image, if the object is one that must be read.
    image: Option<Vec<u8>>,
}

impl Made {
    fn of(input: &[u8]) -> Self {
        let [flags, block_size, wrong, rest @ ..] = input else { return Self { object: Vec::new(), image: None } };
        let (blocks, content) = blocks(rest, *block_size);
        // Usually the flags that are asked for, else nearly nothing would be decoded.
        let flags = if flags % 8 == 0 { *flags } else { 0x7C };
        let descriptor = [&[flags, block_size & 0x70], &(content.bytes.len() as u64).to_le_bytes()[..]].concat();
        let header_sum = XxHash32::oneshot(0, &descriptor).to_le_bytes()[1];
        let content_sum = XxHash32::oneshot(0, &content.bytes).to_le_bytes();
        let magic = [0x04, 0x22, 0x4D, 0x18];
        let mut object = [&magic, &descriptor[..], &[header_sum], &blocks, &[0; 4], &content_sum].concat();
        let described = objects::describe(&content.bytes, &object).map(|right| falsified(right, *wrong));
        let is_right = flags == 0x7C && (0x40..=0x70).contains(&(block_size & 0x70)) && content.is_plain && *wrong == 0;
        let image = (is_right && described.is_some()).then_some(content.bytes);
        let json = described.map_or_else(|| b"{}".to_vec(), |d| serde_json::to_vec(&d).expect("text and numbers"));
        object.extend_from_slice(&objects::tail(&json));
        Self { object, image }
    }
}

/// What blocks hold.
struct Content {
    bytes: Vec<u8>,
    /// Every block is one that an encoder may write.
    is_plain: bool,
}

fn blocks(mut input: &[u8], block_size: u8) -> (Vec<u8>, Content) {
    let block_max = match block_size >> 4 & 7 {
        n @ 4..=7 => 1_usize << (2 * n + 8),
        _ => 1 << 16,
    };
    let (mut written, mut content) = (Vec::new(), Content { bytes: Vec::new(), is_plain: true });
    let mut room = vec![0; block_max.min(KEPT_MAX)];
    while let [low, high, rest @ ..] = input {
        let len = usize::from(u16::from_le_bytes([*low, high & 0x7F])).min(rest.len());
        let (block, after) = rest.split_at(len);
        input = after;
        let is_stored = high & 0x80 != 0;
        let mark = if is_stored { 1_u32 << 31 } else { 0 };
        written.extend_from_slice(&(mark | u32::try_from(len).expect("15 bits")).to_le_bytes());
        written.extend_from_slice(block);
        written.extend_from_slice(&XxHash32::oneshot(0, block).to_le_bytes());
        let size = if is_stored { Some(len) } else { lz4_flex::block::decompress_into(block, &mut room).ok() };
        content.is_plain &= size.is_some_and(|n| n > 0);
        content.bytes.extend_from_slice(if is_stored { block } else { &room[..size.unwrap_or(0)] });
        if content.bytes.len() > KEPT_MAX {
            content.is_plain = false;
            break;
        }
    }
    (written, content)
}

fn falsified(mut d: Description, wrong: u8) -> Description {
    match wrong {
        1 => (d.page_count, d.raw_size) = (d.page_count + 1, d.raw_size + u64::from(d.page_size)),
        2 => (d.page_size, d.page_count) = (d.page_size * 2, d.page_count / 2),
        3 => d.frame_size += 1,
        4 => d.frame_hash.0[7] ^= 1,
        5 => d.content_hash.0[0] ^= 0x80,
        6 => d.uid ^= 1,
        7 => d.gid ^= 1,
        8 => d.mode ^= 1,
        9 => d.format = 2,
        _ => {}
    }
    d
}

/// Keeps what is written up to [`KEPT_MAX`], and counts.
struct Sink {
    bytes: Vec<u8>,
    written: u64,
}

impl Sink {
    /// Takes its memory now, so that none of it is counted as the decoder's.
    fn of(object: &[u8]) -> Self {
        let announced = announced_size(object).and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
        Self { bytes: Vec::with_capacity(announced.min(KEPT_MAX)), written: 0 }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written += bytes.len() as u64;
        let kept = bytes.len().min(self.bytes.capacity() - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..kept]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives a few bytes at a time.
struct Drops<'a>(&'a [u8]);

impl Read for Drops<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = buf.len().min(1 + self.0.len() % 61);
        self.0.read(&mut buf[..n])
    }
}

fn laws(object: &[u8], made: Option<&Made>) {
    let mut sink = Sink::of(object);
    let (decoded, taken) = gauge::peak(|| decode(object, None, &mut sink));
    assert!(taken <= MEMORY_MAX, "{taken} bytes taken for an object of {}", object.len());
    let announced = announced_size(&object[..object.len().min(HEAD_LEN)]);
    assert_eq!(announced, announced_size(object));
    assert!(sink.written <= announced.unwrap_or(0), "{} bytes written, {announced:?} announced", sink.written);
    same_in_drops(object, &decoded, &sink);
    let image = made.and_then(|made| made.image.as_ref());
    match &decoded {
        Ok(description) => {
            assert!(image.is_some() || made.is_none(), "an object that is wrong was read");
            assert!(image.is_none_or(|image| *image == sink.bytes), "another image than was stored");
            whole(object, description, &sink);
        }
        Err(e) => {
            assert!(image.is_none(), "a good object is refused: {e}");
            assert!(!matches!(e, ObjectError::Read(_) | ObjectError::Write(_)), "bytes cannot fail: {e:?}");
            is_one_line(&super::told(e));
        }
    }
}

/// How the bytes come makes no difference.
fn same_in_drops(object: &[u8], decoded: &Result<Description, ObjectError>, sink: &Sink) {
    let mut again = Sink::of(object);
    let other = decode(Drops(object), None, &mut again);
    assert_eq!((again.written, &again.bytes), (sink.written, &sink.bytes));
    let word = |r: &Result<Description, ObjectError>| r.as_ref().map_or_else(ToString::to_string, |d| format!("{d:?}"));
    assert_eq!(word(&other), word(decoded));
}

/// What decodes is what its hashes say, by other code than decoded it; and nothing may be missing or added.
fn whole(object: &[u8], description: &Description, sink: &Sink) {
    assert_eq!(sink.written, description.raw_size);
    let frame_size = usize::try_from(description.frame_size).expect("no larger than the object");
    assert_eq!(objects::xxh3(&object[..frame_size]), description.frame_hash.0);
    if sink.bytes.len() as u64 == sink.written {
        let owner = [description.uid, description.gid, description.mode & 0o7777];
        let by_definition = objects::content_hash(&sink.bytes, description.page_count, owner);
        assert_eq!(by_definition, description.content_hash);
        assert_eq!(objects::pages(&sink.bytes), Some((description.page_size, description.page_count)));
        let mut plain = Vec::new();
        FrameDecoder::new(&object[..frame_size]).read_to_end(&mut plain).expect("any LZ4 program reads it");
        assert!(plain == sink.bytes, "another LZ4 reader sees another database");
    }
    match read_description(object).expect("it has an end") {
        Tail::Whole { description: told, object_size } => {
            assert_eq!((&*told, object_size), (description, object.len() as u64));
        }
        Tail::NeedMore(_) => panic!("the whole object is there"),
    }
    let word =
        |object: &[u8], key: Option<&str>| decode(object, key, &mut io::sink()).map_or_else(|e| e.word(), |_| "good");
    assert_eq!(word(object, Some(&description.key)), "good");
    assert_eq!(word(object, Some(&format!("{}x", description.key))), "wrong-key");
    assert_ne!(word(&object[..object.len() - 1], None), "good");
    assert_ne!(word(&[object, b"x"].concat(), None), "good");
}
