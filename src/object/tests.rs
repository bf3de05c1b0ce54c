use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};

use lz4_flex::frame::{BlockMode, BlockSize, FrameInfo};
use proptest::prelude::*;

use super::description::{SKIPPABLE_MAGIC, TRAILER_LEN, TRAILER_MAGIC, trailer_hash};
use super::*;
use crate::content::ContentHasher;
use crate::header::{Header, JournalMode};

/// A database image: a header that SQLite could have written, then pages of which `noise` in 256 bytes are random.
fn image(page_size: u32, pages: u32, noise: u8, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[3]
    };
    let len = page_size as usize * pages as usize;
    let mut image: Vec<u8> =
        (0..len).map(|i| if random() < noise { random() } else { (i / 16).to_le_bytes()[0] }).collect();
    image[..16].copy_from_slice(crate::header::MAGIC);
    image[16..18].copy_from_slice(&u16::try_from(page_size).unwrap_or(1).to_be_bytes());
    image
}

fn describe(image: &[u8], size: u64, hash: FrameHash) -> Description {
    let header = Header::parse(image[..100].try_into().unwrap()).unwrap();
    let page_count = u32::try_from(image.len()).unwrap() / header.page_size;
    let mut hasher = ContentHasher::new(header.page_size, page_count);
    hasher.update(image);
    Description {
        format: FORMAT_VERSION,
        key: "data/app.db/20261121T063339.123Z.db.lz4".into(),
        host: "web-1".into(),
        path: "/data/app.db".into(),
        taken_at: "20261121T063339.123Z".parse().unwrap(),
        page_size: header.page_size,
        page_count,
        raw_size: image.len() as u64,
        content_hash: hasher.finish(1000, 1001, 0o640).unwrap(),
        frame_size: size,
        frame_hash: hash,
        journal_mode: JournalMode::Wal,
        uid: 1000,
        gid: 1001,
        mode: 0o640,
        mtime_ns: 1_795_242_819_123_456_789,
        schema_version: Some(7),
        sqlite_version: None,
        litesnap: "0.1.0".into(),
    }
}

fn object(image: &[u8]) -> (Vec<u8>, Description) {
    let Frame { mut bytes, hash } = encode_frame(image);
    let description = describe(image, bytes.len() as u64, hash);
    description.append_to(&mut bytes);
    (bytes, description)
}

fn decoded(object: &[u8]) -> Result<(Vec<u8>, Description), ObjectError> {
    let mut image = Vec::new();
    decode(object, None, &mut image).map(|description| (image, description))
}

fn word(object: &[u8]) -> &'static str {
    decoded(object).map_or_else(|e| e.word(), |_| "good")
}

/// An object with this JSON, whatever it says, in an otherwise correct tail.
fn with_json(frame: &[u8], json: &[u8]) -> Vec<u8> {
    let mut trailer = [0u8; TRAILER_LEN];
    trailer[..8].copy_from_slice(TRAILER_MAGIC);
    trailer[8] = 1;
    trailer[12..16].copy_from_slice(&u32::try_from(json.len()).unwrap().to_le_bytes());
    let hash = trailer_hash(json, &trailer);
    trailer[16..].copy_from_slice(&hash);
    let len = u32::try_from(json.len() + 32).unwrap().to_le_bytes();
    [frame, &SKIPPABLE_MAGIC, &len, json, &trailer].concat()
}

fn json_of(description: &Description) -> serde_json::Value {
    serde_json::to_value(description).unwrap()
}

#[test]
fn the_json_is_as_documented() {
    let image = image(512, 2, 100, 1);
    let (_, description) = object(&image);
    let json = serde_json::to_string(&description).unwrap();
    let start = r#"{"format":1,"key":"data/app.db/20261121T063339.123Z.db.lz4","host":"web-1","path":"/data/app.db","taken_at":"2026-11-21T06:33:39.123Z","page_size":512,"page_count":2,"raw_size":1024,"content_hash":""#;
    assert!(json.starts_with(start), "{json}");
    let end = r#"","journal_mode":"wal","uid":1000,"gid":1001,"mode":416,"mtime_ns":1795242819123456789,"schema_version":7,"litesnap":"0.1.0"}"#;
    assert!(json.ends_with(end), "{json}");
}

#[test]
fn a_path_that_is_not_utf8_survives() {
    let image = image(512, 1, 100, 1);
    let (_, mut description) = object(&image);
    description.path = OsString::from_vec(b"/data/\xff\xc3x.db".to_vec()).into();
    let json = json_of(&description);
    assert_eq!(json["path"], "/data/\u{fffd}\u{fffd}x.db");
    assert_eq!(json["path_hex"], "2f646174612fffc3782e6462");
    assert_eq!(serde_json::from_value::<Description>(json.clone()).unwrap(), description);

    for wrong in ["2f64617461", "2f6", "zz", "é"] {
        let mut json = json.clone();
        json["path_hex"] = wrong.into();
        assert!(serde_json::from_value::<Description>(json).is_err(), "{wrong}");
    }
}

#[test]
fn readers_ignore_what_a_later_version_adds() {
    let image = image(512, 1, 100, 1);
    let frame = encode_frame(&image);
    let description = describe(&image, frame.bytes.len() as u64, frame.hash);
    let mut json = json_of(&description);
    json["colour"] = serde_json::json!({"of": ["the", "sky"]});
    json["journal_mode"] = "wal3".into();
    let bytes = with_json(&frame.bytes, json.to_string().as_bytes());
    let expected = Description { journal_mode: JournalMode::Unknown, ..description };
    assert_eq!(decoded(&bytes).unwrap(), (image, expected));
}

/// That a stranger's object takes little memory is a law of its fuzz target; here, that nothing of ours is passed over.
#[test]
fn every_field_is_read_and_none_twice() {
    let image = image(512, 1, 100, 1);
    let frame = encode_frame(&image);
    let mut description = describe(&image, frame.bytes.len() as u64, frame.hash);
    description.path = OsString::from_vec(b"/\xff".to_vec()).into();
    description.sqlite_version = Some(3_054_001);
    let json = serde_json::to_string(&description).unwrap();
    let read = |json: &str| decoded(&with_json(&frame.bytes, json.as_bytes())).map(|(_, description)| description);
    assert_eq!(read(&json).unwrap(), description);
    for wrong in [r#"{"uid":1000,"#, r#"{"uid":[],"#, r#"{"host":{"a":"b"},"#] {
        let wrong = json.replacen('{', wrong, 1);
        assert_eq!(read(&wrong).unwrap_err().word(), "undecodable", "{wrong}");
    }
    assert_eq!(read(&json.replacen('{', r#"{"more":[{"a":[1,null,"x"]}],"more":true,"#, 1)).unwrap(), description);
}

#[test]
fn refuses_descriptions_that_do_not_fit() {
    let image = image(512, 2, 100, 1);
    let frame = encode_frame(&image);
    let json = json_of(&describe(&image, frame.bytes.len() as u64, frame.hash));
    let with = |field: &str, value: serde_json::Value| {
        let mut json = json.clone();
        json[field] = value;
        word(&with_json(&frame.bytes, json.to_string().as_bytes()))
    };
    assert_eq!(with("host", "web-2".into()), "good");
    assert_eq!(with("format", 2.into()), "unsupported-version");
    assert_eq!(with("page_count", 3.into()), "undecodable");
    assert_eq!(with("frame_size", 3.into()), "wrong-hash");
    assert_eq!(with("frame_size", u64::MAX.into()), "wrong-hash");
    assert_eq!(with("frame_hash", "00".repeat(16).into()), "wrong-hash");
    assert_eq!(with("content_hash", "00".repeat(16).into()), "wrong-hash");
    assert_eq!(with("content_hash", "00".into()), "undecodable");
    assert_eq!(with("mode", 0o644.into()), "wrong-hash");
    assert_eq!(with("taken_at", "yesterday".into()), "undecodable");
    assert_eq!(word(&with_json(&frame.bytes, b"{}")), "undecodable");
    assert_eq!(word(&with_json(&frame.bytes, b"")), "undecodable");
    assert_eq!(word(&with_json(&frame.bytes, &[b'['; 100_000])), "undecodable");
    assert_eq!(word(&with_json(&frame.bytes, &[b' '; DESCRIPTION_LEN_MAX + 1])), "undecodable");
    let mut other_sizes = json.clone();
    other_sizes["page_size"] = 1024.into();
    other_sizes["page_count"] = 1.into();
    assert_eq!(word(&with_json(&frame.bytes, other_sizes.to_string().as_bytes())), "wrong-hash");
}

#[test]
fn a_later_version_is_named() {
    let (mut bytes, _) = object(&image(512, 1, 100, 1));
    let at = bytes.len() - TRAILER_LEN + 8;
    bytes[at] = 2;
    let error = decoded(&bytes).unwrap_err();
    assert_eq!(error.word(), "unsupported-version");
    assert_eq!(error.to_string(), "the object has format version 2, this litesnap reads 1: use a newer one");
    assert_eq!(read_description(&bytes).unwrap_err().word(), "unsupported-version");
}

#[test]
fn a_swapped_object_is_noticed() {
    let (bytes, description) = object(&image(512, 1, 100, 1));
    let get = |key| decode(bytes.as_slice(), Some(key), &mut io::sink());
    assert_eq!(get(&description.key).unwrap(), description);
    let error = get("data/other.db/20261121T063339.123Z.db.lz4").unwrap_err();
    assert_eq!(error.word(), "wrong-key");
}

/// An object as the first version wrote it: every later one must read it. Its frame may differ from what today's
/// encoder makes.
#[test]
fn the_first_object_is_still_read() {
    let bytes = include_bytes!("v1.db.lz4");
    let (back, description) = decoded(bytes).unwrap();
    assert!(back == image(512, 3, 60, 1));
    assert_eq!(description.content_hash.to_string(), "4d44a84d437226fb532b959c43810ee8");
    assert_eq!(description, describe(&back, description.frame_size, description.frame_hash));
}

#[test]
fn another_key_needs_no_second_compression() {
    let image = image(4096, 3, 100, 1);
    let frame = encode_frame(&image);
    let first = describe(&image, frame.bytes.len() as u64, frame.hash);
    let second = Description { key: "b/20261121T063339.124Z.db.lz4".into(), ..first.clone() };
    for description in [first, second] {
        let mut bytes = frame.bytes.clone();
        description.append_to(&mut bytes);
        assert_eq!(decoded(&bytes).unwrap().1, description);
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let (mut bytes, _) = object(&image(512, 2, 60, 3));
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(decoded(&bytes).is_err(), "bit {bit} of {}", bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert_eq!(word(&bytes), "good");
}

#[test]
fn every_truncation_is_noticed() {
    let (bytes, _) = object(&image(512, 2, 60, 3));
    for len in 0..bytes.len() {
        assert_eq!(word(&bytes[..len]), "truncated", "{len} of {}", bytes.len());
        assert!(!matches!(read_description(&bytes[..len]), Ok(Tail::Whole { .. })), "{len}");
    }
}

#[test]
fn nothing_but_one_frame_and_one_description() {
    let raw = image(512, 2, 60, 3);
    let (bytes, _) = object(&raw);
    let frame = encode_frame(&raw).bytes;
    let tail = &bytes[frame.len()..];
    assert_eq!(word(&[&bytes, b"x".as_slice()].concat()), "undecodable");
    assert_eq!(word(&[&bytes, bytes.as_slice()].concat()), "undecodable");
    assert_eq!(word(&[&bytes, tail].concat()), "undecodable");
    assert_eq!(word(&[&frame, bytes.as_slice()].concat()), "undecodable");
    assert_eq!(word(&[tail, &bytes].concat()), "foreign");
    assert_eq!(word(b"plain text, of which there is a lot in buckets"), "foreign");
    assert_eq!(word(b""), "truncated");
}

#[test]
fn frames_of_other_programs_are_foreign() {
    let raw = image(512, 2, 60, 3);
    for info in [
        FrameInfo::new(),
        FrameInfo::new()
            .content_size(Some(1024))
            .block_checksums(true)
            .content_checksum(true)
            .block_mode(BlockMode::Linked),
        FrameInfo::new().content_size(Some(1024)).content_checksum(true),
    ] {
        let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(&raw).unwrap();
        assert_eq!(word(&encoder.finish().unwrap()), "foreign");
    }
    let not_a_database = encode_frame(&[b'x'; 1024]).bytes;
    assert_eq!(word(&not_a_database), "undecodable");
}

#[test]
fn a_suffix_describes_the_object() {
    let (bytes, description) = object(&image(4096, 9, 200, 1));
    let whole = Tail::Whole { description: Box::new(description), object_size: bytes.len() as u64 };
    let suffix = |n: usize| read_description(&bytes[bytes.len() - n..]).unwrap();
    let Tail::NeedMore(needed) = suffix(TRAILER_LEN) else { panic!() };
    assert!(needed < TAIL_LEN_USUAL);
    assert_eq!(suffix(needed), whole);
    assert_eq!(suffix(needed + 1), whole);
    assert_eq!(suffix(bytes.len()), whole);
    assert_eq!(suffix(needed - 1), Tail::NeedMore(needed));
    assert_eq!(suffix(TRAILER_LEN - 1), Tail::NeedMore(TAIL_LEN_USUAL));
    assert_eq!(read_description(&[0; 100]).unwrap_err().word(), "foreign");
}

#[test]
fn io_errors_are_not_damage() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the cable"))
        }
    }
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk"))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (bytes, _) = object(&image(512, 2, 60, 3));
    for cut in [0, 20, 100, bytes.len() - 5] {
        let error = decode(bytes[..cut].chain(Broken), None, &mut io::sink()).unwrap_err();
        assert_eq!((error.word(), error.is_damage()), ("unreadable", false), "{cut}");
    }
    let error = decode(bytes.as_slice(), None, &mut Broken).unwrap_err();
    assert_eq!((error.word(), error.is_damage()), ("unwritable", false));
}

/// Compresses `raw` with so many threads, filled in in pieces of `step` bytes.
fn encoded(raw: &[u8], workers: usize, step: usize) -> (Vec<u8>, Encoded) {
    let mut encoder = BlockEncoder::new(Vec::new(), raw.len() as u64, workers).unwrap();
    let mut rest = raw;
    while let room @ [_, ..] = encoder.room() {
        let n = room.len().min(step);
        let (piece, more) = rest.split_at(n);
        room[..n].copy_from_slice(piece);
        rest = more;
        encoder.advance(n).unwrap();
    }
    assert_eq!(rest, [0; 0], "it takes what was announced");
    encoder.finish().unwrap()
}

#[test]
fn a_large_image_becomes_the_same_frame_with_any_number_of_threads() {
    // Beyond 256 KiB, and of several blocks for each thread; noise, so that blocks differ in how well they compress.
    for (raw, step) in
        [(image(4096, 1100, 200, 9), 70_000), (image(512, 3, 60, 1), 512), (image(65536, 4, 250, 3), usize::MAX)]
    {
        for workers in [0, 1, 2, 3, 4, 99] {
            let (mut bytes, Encoded { size, hash }) = encoded(&raw, workers, step);
            assert_eq!(size, bytes.len() as u64);
            assert_eq!(
                Frame { bytes: bytes.clone(), hash },
                encode_frame(&raw),
                "both ways of encoding agree to the byte"
            );
            describe(&raw, size, hash).append_to(&mut bytes);
            assert_eq!(decoded(&bytes).unwrap().0, raw);
        }
    }
}

#[test]
fn an_image_that_is_shorter_than_announced_is_no_frame() {
    let mut encoder = BlockEncoder::new(Vec::new(), 600_000, 2).unwrap();
    while encoder.room().len() > 50_000 {
        encoder.advance(50_000).unwrap();
    }
    assert_eq!(encoder.finish().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

/// Takes so many bytes, and then none.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_ends_the_frame_at_whatever_moment() {
    let raw = image(4096, 500, 255, 4);
    let whole = encode_frame(&raw).bytes.len();
    let write = |room: usize, workers| -> io::Result<Encoded> {
        let mut encoder = BlockEncoder::new(Full(room), raw.len() as u64, workers)?;
        let mut at = 0;
        while let room @ [_, ..] = encoder.room() {
            let n = room.len();
            room.copy_from_slice(&raw[at..at + n]);
            at += n;
            encoder.advance(n)?;
        }
        Ok(encoder.finish()?.1)
    };
    for workers in [0, 2] {
        for room in [0, 14, 15, 300_000, whole / 2, whole - 1] {
            assert_eq!(write(room, workers).unwrap_err().kind(), io::ErrorKind::StorageFull, "{room} bytes");
        }
        assert_eq!(write(whole, workers).unwrap().size, whole as u64);
    }
}

#[test]
fn the_lz4_program_restores_the_database() {
    let Ok(found) = Command::new("lz4").arg("--version").stdout(Stdio::null()).status() else {
        eprintln!("skipped: there is no lz4 program here");
        return;
    };
    assert!(found.success());
    let dir = tempfile::tempdir().unwrap();
    for raw in [image(4096, 5, 60, 3), image(65536, 40, 60, 3), image(512, 1, 255, 3)] {
        let path = dir.path().join("object.lz4");
        std::fs::write(&path, object(&raw).0).unwrap();
        let output = Command::new("lz4").arg("-dc").arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == raw, "{} bytes, expected {}", output.stdout.len(), raw.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_trip(size in 9u32..17, pages in 1u32..20, noise: u8, seed: u64, want in 1usize..400_000) {
        let raw = image(1 << size, pages, noise, seed);
        let (bytes, description) = object(&raw);
        let (back, read) = decoded(&bytes).unwrap();
        prop_assert!(back == raw);
        prop_assert_eq!(&read, &description);

        let (streamed, told) = encoded(&raw, want % 4, want);
        prop_assert!(streamed == bytes[..streamed.len()]);
        prop_assert_eq!(told, Encoded { size: description.frame_size, hash: description.frame_hash });
    }

    #[test]
    fn damaged_objects_are_refused_without_panic(
        seed: u64,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (good, _) = object(&image(1024, 3, 90, seed));
        let mut bytes = good.clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        prop_assert_eq!(decoded(&bytes).is_ok(), bytes == good);
        let _whatever = read_description(&bytes);
    }

    #[test]
    fn any_bytes_are_refused_without_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000), header: bool, trailer: bool,
    ) {
        let mut bytes = bytes;
        if header && bytes.len() > 20 {
            let frame = encode_frame(&image(512, 1, 255, 1)).bytes;
            bytes[..20].copy_from_slice(&frame[..20]);
        }
        if trailer && bytes.len() > 60 {
            let at = bytes.len() - TRAILER_LEN;
            bytes[at..at + 8].copy_from_slice(TRAILER_MAGIC);
            bytes[at + 8..at + 16].copy_from_slice(&[1, 0, 0, 0, 20, 0, 0, 0]);
        }
        prop_assert!(decoded(&bytes).is_err());
        let whole = matches!(read_description(&bytes), Ok(Tail::Whole { .. }));
        prop_assert!(!whole);
    }
}

/// Past 2 GiB the LZ4 encoder renumbers its positions, past 4 GiB sizes leave 32 bits, and at 1 GiB lies the lock-byte page.
/// `cargo test --release --lib -- --ignored five_gib`
#[test]
#[ignore = "takes a minute, in a release build"]
fn five_gib() {
    struct Repeat(Vec<u8>, u64);
    impl Read for Repeat {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let at = usize::try_from(self.1 % self.0.len() as u64).unwrap();
            let n = (&self.0[at..]).read(buf)?;
            self.1 += n as u64;
            // Numbers each megabyte, so that no two are the same.
            if at == 0 && n > 208 {
                buf[200..208].copy_from_slice(&self.1.to_le_bytes());
            }
            Ok(n)
        }
    }
    let (page_size, page_count) = (65536, 81920);
    let raw_size = u64::from(page_size) * u64::from(page_count);
    let source = || Repeat(image(page_size, 16, 20, 1), 0).take(raw_size);

    let mut hasher = ContentHasher::new(page_size, page_count);
    let (mut chunk, mut reader) = (vec![0; 65536], source());
    while let n @ 1.. = reader.read(&mut chunk).unwrap() {
        hasher.update(&chunk[..n]);
    }
    let mut encoder = BlockEncoder::new(Vec::new(), raw_size, 2).unwrap();
    let mut reader = source();
    while let room @ [_, ..] = encoder.room() {
        let n = reader.read(room).unwrap();
        encoder.advance(n).unwrap();
    }
    let (mut bytes, Encoded { size, hash }) = encoder.finish().unwrap();
    let description = describe(&image(page_size, 16, 20, 1), size, hash);
    let content_hash = hasher.finish(description.uid, description.gid, description.mode).unwrap();
    let description = Description { page_count, raw_size, content_hash, ..description };
    description.append_to(&mut bytes);
    assert_eq!(decode(bytes.as_slice(), None, &mut io::sink()).unwrap(), description);
}

/// `cargo test --release --lib -- --ignored --nocapture speed`, optionally with `LITESNAP_SPEED_IMAGE=some.db`.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let raw = std::env::var_os("LITESNAP_SPEED_IMAGE")
        .map_or_else(|| image(4096, 16384, 60, 1), |p| std::fs::read(p).unwrap());
    let time = |what: &str, run: &mut dyn FnMut() -> usize| {
        let start = std::time::Instant::now();
        let (mut rounds, mut size) = (0u32, 0);
        while rounds < 3 || start.elapsed().as_secs_f64() < 1.5 {
            size = run();
            rounds += 1;
        }
        let rate = raw.len() as f64 * f64::from(rounds) / start.elapsed().as_secs_f64() / 1e6;
        eprintln!("{what:40} {rate:8.0} MB/s  {size} bytes of {}", raw.len());
    };
    for (name, block) in [
        ("64 KiB", BlockSize::Max64KB),
        ("256 KiB", BlockSize::Max256KB),
        ("1 MiB", BlockSize::Max1MB),
        ("4 MiB", BlockSize::Max4MB),
    ] {
        let info = FrameInfo::new().block_size(block).block_checksums(true).content_checksum(true);
        time(&format!("LZ4 in blocks of {name}"), &mut || {
            let mut lz4 = lz4_flex::frame::FrameEncoder::with_frame_info(info.clone(), Vec::new());
            lz4.write_all(&raw).unwrap();
            lz4.finish().unwrap().len()
        });
    }
    time("encode_frame", &mut || encode_frame(&raw).bytes.len());
    time("encode_frame, images of 64 KiB", &mut || {
        raw.chunks(64 * 1024).map(|small| encode_frame(small).bytes.len()).sum()
    });
    for workers in [0, 1, 2] {
        time(&format!("BlockEncoder, {workers} threads"), &mut || encoded(&raw, workers, usize::MAX).0.len());
    }
    let (bytes, _) = object(&raw);
    time("decode", &mut || decode(bytes.as_slice(), None, &mut io::sink()).map(|_| bytes.len()).unwrap());
    time("ContentHasher", &mut || {
        let mut hasher = ContentHasher::new(4096, u32::try_from(raw.len() / 4096).unwrap());
        hasher.update(&raw);
        hasher.finish(0, 0, 0).unwrap().0.len()
    });
}
