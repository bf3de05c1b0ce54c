//! Both ways of reading: the plain one for databases at rest, and SQLite's.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::place::{Place, Ran, eventually};

/// How litesnap is told to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Without SQLite where a database is at rest.
    Default,
    AlwaysSqlite,
}

impl Way {
    pub(crate) const BOTH: [Self; 2] = [Self::Default, Self::AlwaysSqlite];

    /// The arguments that ask for it.
    pub(crate) fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Default => &[],
            Self::AlwaysSqlite => &["--always-sqlite"],
        }
    }

    /// `n` where databases at rest are read without SQLite, else 0.
    pub(crate) fn direct(self, n: u64) -> u64 {
        if self == Self::Default { n } else { 0 }
    }
}

/// One pass over `data/**/*.db`, not yet started, into a store and with a state that remember nothing.
pub(crate) fn first_command(place: &Place, way: Way) -> Command {
    for own in [place.store(), place.state()] {
        fs::remove_dir_all(own).ok();
    }
    place.replicate("data/**/*.db", &[&["--once"], way.flags()].concat())
}

/// Runs [`first_command`].
pub(crate) fn first_run(place: &Place, way: Way) -> Ran {
    first_command(place, way).output().unwrap().into()
}

/// Says why a test, or a part of it, does nothing; not by `eprintln`, which the test harness would swallow.
pub(crate) fn skipped(why: &str) {
    std::io::stderr().write_all(format!("SKIPPED: {why}\n").as_bytes()).unwrap();
}

/// How many databases were read without SQLite.
pub(crate) fn direct(ran: &Ran) -> u64 {
    let found = ran.out.split_whitespace().find_map(|word| word.strip_prefix("direct="));
    found.map_or(0, |n| n.parse().unwrap())
}

/// Waits until nothing below `dir` is young any more: nobody can set a ctime back.
pub(crate) fn settle(dir: &Path) {
    let slack = Duration::from_nanos(litesnap::detect::RACY_SLACK.unsigned_abs());
    let old = newest_ctime(dir) + slack;
    assert!(eventually(Duration::from_secs(60), || SystemTime::UNIX_EPOCH.elapsed().unwrap() > old));
}

/// Since 1970.
fn newest_ctime(dir: &Path) -> Duration {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let newest = entries.map(|path| {
        let m = path.symlink_metadata().unwrap();
        let own = Duration::new(m.ctime().unsigned_abs(), m.ctime_nsec().unsigned_abs().try_into().unwrap());
        if m.is_dir() { own.max(newest_ctime(&path)) } else { own }
    });
    newest.max().unwrap_or_default()
}
