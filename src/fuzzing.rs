//! Private readers of foreign bytes, for the targets in `fuzz/` and the test of their corpus, and for nothing else: no part
//! of the API. Each function only calls the private one behind it.

use std::path::{Path, PathBuf};

use crate::listing::keyspace::Spread;
use crate::pattern::Pattern;
use crate::restore::plan;
use crate::snapshot::sidecars;

/// The note of an intent to read `main`.
#[must_use]
pub fn intent(main: &Path, wal_was_there: bool, shm_was_there: bool) -> Vec<u8> {
    sidecars::record(main, wal_was_there, shm_was_there)
}

/// Reads such a note.
#[must_use]
pub fn parse_intent(record: &[u8]) -> Option<(PathBuf, bool, bool)> {
    sidecars::parse(record)
}

/// Whether a template makes key prefixes like this one.
#[must_use]
pub fn is_made(prefix: &str) -> bool {
    crate::layout::is_made(prefix)
}

/// The path below a folder that a key prefix stands for.
#[must_use]
pub fn safe_path(prefix: &str) -> Option<PathBuf> {
    plan::safe_path(prefix)
}

/// Whether a database may be restored to the path that its description names.
#[must_use]
pub fn is_plain_absolute(path: &Path) -> bool {
    plan::is_plain_absolute(path)
}

/// Whether `rest` matches below the root of `pattern`.
#[must_use]
pub fn matches_below_root(pattern: &Pattern, rest: &Path) -> bool {
    pattern.matches_below_root(rest)
}

/// Where a listing of `keys` would be split between two of them.
#[must_use]
pub fn key_between(keys: &[&str], low: &str, high: &str, part: f64) -> Option<String> {
    spread(keys).between(low, high, part)
}

/// Where the next stream of a listing of `keys` would begin.
#[must_use]
pub fn key_ahead(keys: &[&str], first: &str, last: &str, times: f64) -> Option<String> {
    spread(keys).ahead(first, last, times)
}

fn spread(keys: &[&str]) -> Spread {
    let mut spread = Spread::default();
    spread.learn(keys);
    spread
}
