//! The laws, one module for each target: what holds for every input. A law that does not hold is a panic.
//!
//! The targets feed them what libFuzzer thinks of, the tests (tests/it/fuzz_corpus.rs) what has been kept in `corpus/`.

#![allow(unreachable_pub, reason = "the targets reach it; the tests have it as a module of their own")]

pub mod address;
pub mod config;
pub mod database_file;
pub mod description;
pub mod failure;
pub mod gauge;
pub mod header;
pub mod intent;
pub mod keys;
pub mod listing;
pub mod names;
pub mod object;
mod objects;
pub mod pattern;
pub mod round_trip;
pub mod settings;
pub mod template;
pub mod timestamp;
pub mod tombstone;

/// Panics where a law does not hold for these bytes.
pub type Check = fn(&[u8]);

/// Every target by its name.
pub const ALL: [(&str, Check); 17] = [
    ("address", address::check),
    ("config", config::check),
    ("database_file", database_file::check),
    ("description", description::check),
    ("failure", failure::check),
    ("header", header::check),
    ("intent", intent::check),
    ("keys", keys::check),
    ("listing", listing::check),
    ("names", names::check),
    ("object", object::check),
    ("pattern", pattern::check),
    ("round_trip", round_trip::check),
    ("settings", settings::check),
    ("template", template::check),
    ("timestamp", timestamp::check),
    ("tombstone", tombstone::check),
];

/// The fields of an input, separated by line ends; the last one has all that is left.
fn fields<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut parts = data.splitn(N, |b| *b == b'\n');
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// The same as text; what is not UTF-8 is replaced.
fn texts<const N: usize>(data: &[u8]) -> [String; N] {
    fields(data).map(|field| String::from_utf8_lossy(field).into_owned())
}

/// An error is one line, says something, and writes nothing to a terminal but characters.
#[track_caller]
fn is_one_line(text: &str) {
    assert!(!text.trim().is_empty(), "an error that says nothing");
    assert!(!text.contains(char::is_control), "control characters in {text:?}");
}

/// The whole of an error, causes included, as the command prints it.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string);
    causes.collect::<Vec<_>>().join(": ")
}
