//! What no reader from outside can catch, SQLite's own included; and what reading costs an application in the worst moment.
//!
//! None of this is protected. Each test says what happens instead, so that nobody has to guess, and so that a change for the
//! better is noticed: what SQLite's own Unix VFS reads is what is stored, even where that is no commit.

mod moments; // an application that meets us at the worst moment
mod names; // one file with two names, a log without one
mod writers; // applications that do not keep to SQLite's locks and journals

use crate::foreign::listing;
use crate::place::Place;
use crate::ways::{Way, direct, first_run, settle};

/// Rows of a database that does not fit a tiny cache.
const ROWS: u32 = 20_000;
/// A transaction that overflows such a cache into the main file, and is not committed.
const SPILL: &str = "PRAGMA cache_size=1; PRAGMA cache_spill=1; BEGIN; UPDATE t SET x=-x";

/// Neither what was committed, nor what would have been: some of the rows are changed.
fn is_torn(rows: &[i64]) -> bool {
    rows.iter().any(|x| *x < 0) && rows.iter().any(|x| *x > 0)
}

/// What is stored of `name` by each way of reading, by a first run that names no failure and leaves no trace.
/// `at_rest` tells whether it passes for a database at rest.
#[track_caller]
fn stored(place: &Place, name: &str, at_rest: bool) -> [Vec<i64>; 2] {
    settle(&place.data());
    let before = listing(&place.data());
    Way::BOTH.map(|way| {
        let ran = first_run(place, way).expect_code(0);
        assert_eq!(direct(&ran), way.direct(at_rest.into()), "{way:?}");
        assert_eq!(listing(&place.data()), before, "{way:?}");
        place.newest_rows(name)
    })
}

/// Fails unless both ways of reading name `name` for `reason` and store nothing.
#[track_caller]
fn expect_named(place: &Place, name: &str, reason: &str) {
    settle(&place.data());
    let before = listing(&place.data());
    for way in Way::BOTH {
        first_run(place, way).expect_code(1).expect_failure(&place.db(name), reason);
        assert_eq!(listing(&place.data()), before, "{way:?}");
        assert_eq!(place.objects(), [], "{way:?}");
    }
}
