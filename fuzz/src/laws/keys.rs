//! Keys that a listing gives, and the paths that they stand for. Input: a line with the store's prefix, then a key.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use litesnap::fuzzing;
use litesnap::inventory::keys_meant;
use litesnap::layout::{
    KEY_LEN_MAX, KeyKind, Timestamp, bad_marker_key, below, decode_segment, encode_segment, fits, parse_key,
    snapshot_key, tombstone_key,
};
use litesnap::names::decoded;

use super::{fields, gauge};

pub fn check(data: &[u8]) {
    let [store, key] = fields(data);
    let (store, text) = (String::from_utf8_lossy(store), String::from_utf8_lossy(key));
    segment(key, &text);
    let (_, taken) = gauge::peak(|| parse_key(&text));
    assert_eq!(taken, 0, "reading a key takes no memory");
    match parse_key(&text) {
        Some(parsed) => {
            assert_eq!(parsed.key(), text);
            prefix(parsed.prefix, parsed.ts);
            if !store.split('/').any(|part| matches!(part, "" | "." | "..")) {
                let whole = below(&store, &text);
                assert_eq!(parse_key(&whole).map(|p| (p.ts, p.kind)), Some((parsed.ts, parsed.kind)));
                assert!(keys_meant(&store, &whole).contains(&(&*text, parsed.kind)));
            }
        }
        None => prefix(&text, Timestamp::MIN),
    }
    assert!(keys_meant(&store, &text).iter().all(|(key, kind)| parse_key(key).is_some_and(|p| p.kind == *kind)));
}

/// Any bytes become one segment that no store changes, and come back; no other text gives them.
fn segment(bytes: &[u8], text: &str) {
    let encoded = encode_segment(bytes);
    assert_eq!(decode_segment(&encoded).as_deref(), Some(bytes));
    assert!(!encoded.contains('/') && !encoded.contains(char::is_control) && !encoded.contains(char::is_whitespace));
    assert!(!matches!(&*encoded, "." | ".."));
    if !encoded.is_empty() {
        let path = object_store::path::Path::parse(&encoded).expect("a segment of a key");
        assert_eq!(path.as_ref(), encoded);
    }
    assert_eq!(decode_segment(text).is_some_and(|bytes| encode_segment(&bytes) != text), false, "two texts for {text:?}");
}

/// A prefix, ours or not: what keys below it say, and which file it stands for.
fn prefix(prefix: &str, ts: Timestamp) {
    let keys = [snapshot_key(prefix, ts), tombstone_key(prefix, ts), bad_marker_key(&snapshot_key(prefix, ts))];
    let is_made = fuzzing::is_made(prefix);
    for (key, kind) in keys.iter().zip([KeyKind::Snapshot, KeyKind::Tombstone, KeyKind::BadMarker]) {
        match parse_key(key) {
            Some(parsed) => assert_eq!((parsed.prefix, parsed.ts, parsed.kind), (prefix, ts, kind)),
            None => assert!(!is_made, "{prefix} is ours and cannot be read"),
        }
        assert!(!fits("store", prefix) || below("store", key).len() <= KEY_LEN_MAX);
    }
    path(prefix, is_made);
}

/// The path that a prefix stands for never leads out of the folder that it is restored into.
fn path(prefix: &str, is_made: bool) {
    let Some(path) = fuzzing::safe_path(prefix) else { return };
    assert!(is_made && path == decoded(prefix));
    assert!(path.is_relative() && path.components().all(|part| matches!(part, Component::Normal(_))));
    let again: Vec<_> = path.iter().map(|name| encode_segment(name.as_bytes())).collect();
    assert_eq!(again.join("/"), prefix, "two prefixes for {path:?}");
    let absolute = Path::new("/").join(&path);
    assert!(fuzzing::is_plain_absolute(&absolute) && !fuzzing::is_plain_absolute(&path));
    assert!(!fuzzing::is_plain_absolute(&absolute.join("../x")));
}
