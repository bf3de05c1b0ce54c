//! What is encoded comes back. Input: shape, a number for sizes of parts, a line with the path, one with key and host, the image.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use litesnap::object::{BlockEncoder, Encoded, Tail, decode, encode_frame, read_description};
use lz4_flex::frame::FrameDecoder;

use super::{fields, gauge, objects};

/// What encoding says it needs beside input and output, for small images and for large ones.
const MEMORY_MAX: usize = 1 << 20;

pub fn check(data: &[u8]) {
    let [shape, parts, rest @ ..] = data else { return };
    let [path, key, bytes] = fields(rest);
    any_bytes_come_back(bytes, usize::from(*parts));
    object_comes_back(&objects::image(*shape, bytes), path, &String::from_utf8_lossy(key));
}

/// A frame holds whatever it was given; made by several threads it is the same.
fn any_bytes_come_back(bytes: &[u8], part: usize) {
    let (frame, taken) = gauge::peak(|| encode_frame(bytes));
    // The frame grows by doubling; incompressible input gets a few bytes longer.
    assert!(taken <= MEMORY_MAX + 4 * bytes.len(), "{taken} bytes taken for {}", bytes.len());
    assert_eq!(objects::xxh3(&frame.bytes), frame.hash.0);
    let mut plain = Vec::new();
    FrameDecoder::new(&frame.bytes[..]).read_to_end(&mut plain).expect("any LZ4 program reads it");
    assert_eq!(plain, bytes);

    let workers = part % 4;
    let mut encoder = BlockEncoder::new(Vec::new(), bytes.len() as u64, workers).expect("a Vec takes every byte");
    let mut rest = bytes;
    while let room @ [_, ..] = encoder.room() {
        let n = room.len().min(1 + part * 37);
        let (piece, more) = rest.split_at(n);
        room[..n].copy_from_slice(piece);
        rest = more;
        encoder.advance(n).expect("a Vec takes every byte");
    }
    assert!(rest.is_empty(), "{} bytes too many", rest.len());
    let (whole, Encoded { size, hash }) = encoder.finish().expect("all bytes are there");
    assert_eq!((whole.len() as u64, frame.hash), (size, hash));
    assert_eq!(whole, frame.bytes);
    let longer = BlockEncoder::new(Vec::new(), bytes.len() as u64 + 1, workers).expect("a Vec takes every byte");
    assert!(longer.finish().is_err(), "{} bytes announced, none given", bytes.len() + 1);
}

/// A database comes back, with a description that comes back.
fn object_comes_back(image: &[u8], path: &[u8], key: &str) {
    let mut object = encode_frame(image).bytes;
    let mut description = objects::describe(image, &object).expect("made with pages");
    description.path = OsStr::from_bytes(path).into();
    key.clone_into(&mut description.key);
    description.host = key.chars().rev().collect();
    description.append_to(&mut object);
    let mut back = Vec::new();
    let decoded = decode(&object[..], Some(key), &mut back).expect("just encoded");
    assert_eq!((&decoded, &back[..]), (&description, image));
    let end = &object[object.len().saturating_sub(4096)..];
    match read_description(end).expect("just encoded") {
        Tail::Whole { description: told, object_size } => {
            assert_eq!((*told, object_size), (description, object.len() as u64));
        }
        Tail::NeedMore(wanted) => assert!(wanted > 4096 && wanted <= object.len()),
    }
}
