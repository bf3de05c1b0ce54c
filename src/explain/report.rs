//! What [`explain`](super::explain) tells, as a value: printed by the binary, as JSON with these names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Sampled;
use crate::cost::model::{Spread, Usage};

/// Everything there is to tell.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// The store, for people.
    pub store: String,
    /// What is there.
    pub found: Found,
    /// The run that stores everything once; `None` without any database.
    pub first_run: Option<FirstRun>,
    /// What months after it cost, one for each spread.
    pub months: Vec<Month>,
    /// Month of the prices.
    pub prices_of: &'static str,
}

/// What is there.
#[derive(Debug, Default, Serialize)]
pub struct Found {
    /// Databases.
    pub databases: u64,
    /// Bytes of their main files.
    pub main_bytes: u64,
    /// Bytes of their `-wal` files.
    pub wal_bytes: u64,
    /// Half of the main files are no larger.
    pub p50_bytes: u64,
    /// 99 in 100 are no larger.
    pub p99_bytes: u64,
    /// The largest one.
    pub largest_bytes: u64,
    /// Its path.
    #[serde(serialize_with = "lossy_option")]
    pub largest: Option<PathBuf>,
    /// By pattern.
    pub patterns: Vec<ByPattern>,
    /// Files that match a pattern and have no SQLite header, or cannot be read: encrypted ones, too.
    pub not_databases: u64,
    /// Some of them.
    #[serde(serialize_with = "lossy_all")]
    pub not_databases_named: Vec<PathBuf>,
    /// Files of 0 bytes that match.
    pub empty: u64,
    /// Databases that would not be stored, by reason.
    pub refused: BTreeMap<&'static str, u64>,
}

/// What one pattern finds first; what two patterns find is the first one's.
#[derive(Debug, Default, Serialize)]
pub struct ByPattern {
    /// As typed.
    pub pattern: String,
    /// Databases.
    pub databases: u64,
    /// The first few by path, with the keys they would get.
    pub examples: Vec<Example>,
}

/// A database and the key that its first snapshot would get now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Example {
    /// The database.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// The key.
    pub key: String,
}

/// The run that stores everything once.
#[derive(Debug, Serialize)]
pub struct FirstRun {
    /// Bytes to read and compress: main files, and what is in `-wal` files at most.
    pub read_bytes: u64,
    /// How the sample compressed.
    pub sample: Sampled,
    /// Bytes of the objects, estimated.
    pub object_bytes: f64,
    /// Requests.
    pub requests: u64,
    /// Bytes a second, as assumed.
    pub rate: u64,
    /// From request to answer, as assumed.
    pub round_trip_s: f64,
    /// Requests at once.
    pub concurrency: usize,
    /// Time to send the bytes.
    pub send_s: f64,
    /// Time that all round trips take.
    pub wait_s: f64,
    /// The longer of both: the run takes no less, and reading comes on top where disk or processor are slower.
    pub at_least_s: f64,
}

/// A month after the first run.
#[derive(Debug, Serialize)]
pub struct Month {
    /// Which databases change.
    pub spread: Spread,
    /// Share of them that changes in one interval.
    pub changed: f64,
    /// Requests.
    pub usage: Usage,
    /// Objects that are stored in it.
    pub objects: f64,
    /// Bytes in the store after a month.
    pub held_bytes_1: f64,
    /// After twelve.
    pub held_bytes_12: f64,
    /// By provider.
    pub providers: Vec<MonthCharge>,
}

/// What one provider charges.
#[derive(Debug, Serialize)]
pub struct MonthCharge {
    /// Its name.
    pub provider: &'static str,
    /// For a month's requests.
    pub requests_usd: f64,
    /// For a month of keeping what lies there after one month.
    pub storage_usd_1: f64,
    /// After twelve.
    pub storage_usd_12: f64,
}

/// A path as text: JSON has no other bytes.
fn lossy<S: serde::Serializer>(path: &Path, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(&path.to_string_lossy())
}

#[allow(clippy::ref_option, reason = "serde gives a reference to the field")]
fn lossy_option<S: serde::Serializer>(path: &Option<PathBuf>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(serializer)
}

fn lossy_all<S: serde::Serializer>(paths: &[PathBuf], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}
