//! When stamps were taken, and the further scans of a cycle that has more to take up than goes at once.

use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::clock::{FixedClock, SystemClock};
use crate::config::parse_patterns;
use crate::detect::is_racy;
use crate::layout::Template;
use crate::scan::BATCH_MAX;
use crate::state::Identity;
use crate::store::StoreOptions;

/// A watch over `*/*.db` below `dir`, with one thread, that knows nothing.
fn watch(dir: &TempDir, template: &str) -> Watch {
    let config = Config {
        patterns: parse_patterns(&["*/*.db"], dir.path()).unwrap(),
        template: Template::parse(template).unwrap(),
        host: "h".into(),
        ..Config::new(StoreOptions::new("memory://"))
    };
    let identity = Identity { store: String::new(), template: String::new(), host: String::new() };
    let db = StateDb::open_for_reading(Path::new(""), &identity).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let (own, clock) = (OwnFiles::new(&[]), Arc::new(SystemClock));
    Watch::new(config, own, Arc::default(), Arc::new(db), clock, Arc::default(), pool)
}

/// So many files in three folders, and a second name for two of them.
fn files(count: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = |n: usize| dir.path().join(format!("{}/{n:04}.db", n % 3));
    for n in 0..count {
        std::fs::create_dir_all(path(n).parent().unwrap()).unwrap();
        std::fs::write(path(n), "x").unwrap();
    }
    for n in [0, count - 1] {
        std::fs::hard_link(path(n), path(n + count)).unwrap();
    }
    dir
}

/// Scans until nothing is left, with `room` for so many at a time: what was taken up and how many files were looked at, by scan.
fn waves(watch: &Watch, room: usize) -> Vec<(Vec<PathBuf>, u64)> {
    let mut waves = Vec::new();
    for scan_no in 1.. {
        let pass = Pass { further: scan_no > 1, room, waits: &|_, _, _| () };
        let wave = watch.scan(scan_no, pass, Pace::default(), &HashSet::new());
        waves.push((wave.candidates.iter().map(|c| c.path.to_path_buf()).collect(), wave.report.stat_calls));
        if !wave.more {
            break;
        }
    }
    waves
}

/// Beyond its room a scan may have looked at one batch from each folder that it had begun.
#[test]
fn further_scans_pass_over_what_was_taken_up_and_end_when_they_have_no_more_room() {
    const COUNT: usize = 1000;
    let dir = files(COUNT);
    let watch = watch(&dir, TEMPLATE_DEFAULT);
    let waves = waves(&watch, 200);
    assert_eq!(waves[0].0.len(), 200 + 2, "those with several names as well, once each");
    assert_eq!(waves[0].1, COUNT as u64 + 2, "a first scan looks at all");
    for (taken, looked) in &waves[1..] {
        assert!(taken.len() <= 200 && *looked <= 200 + 3 * BATCH_MAX as u64, "{} of {looked}", taken.len());
    }
    let mut all: Vec<_> = waves.iter().flat_map(|(taken, _)| taken).collect();
    all.sort();
    let twice = all.windows(2).find(|pair| pair[0] == pair[1]);
    assert_eq!((all.len(), twice), (COUNT, None));
    assert_eq!(waves.len(), 5);
}

/// That two have one key prefix shows only when both are seen.
#[test]
fn further_scans_look_at_all_where_keys_may_clash() {
    let dir = files(300);
    let waves = waves(&watch(&dir, "{{hostname}}/x{{path}}"), 100);
    assert!(waves.len() > 2);
    assert!(waves.iter().all(|(_, looked)| *looked == 302), "{:?}", waves.iter().map(|w| w.1).collect::<Vec<_>>());
    assert_eq!(waves.iter().map(|(taken, _)| taken.len()).sum::<usize>(), 300);
}

/// Whoever is asked to stop need not wait for a further scan to find enough.
#[test]
fn a_further_scan_can_be_stopped() {
    let dir = files(1000);
    let watch = watch(&dir, TEMPLATE_DEFAULT);
    let pass = |further| Pass { further, room: 10, waits: &|_, _, _| () };
    assert!(watch.scan(1, pass(false), Pace::default(), &HashSet::new()).more);
    watch.control.stop(15);
    let wave = watch.scan(2, Pass { room: 0, ..pass(true) }, Pace::default(), &HashSet::new());
    assert!(wave.report.stopped && wave.report.stat_calls <= 100, "{}", wave.report.stat_calls);
}

#[test]
fn what_was_written_while_it_was_looked_for_is_young_however_late_it_is_judged() {
    let (began, looked, judged) = (1000 * SECOND, 1005 * SECOND, 1100 * SECOND);
    let clock = FixedClock::new(judged);
    let stamps = |time| {
        let mut stamps = Stamps::default();
        (stamps.main.mtime, stamps.main.ctime) = (time, 0);
        stamps
    };
    let rows = [
        // Before the scan: by its age when that began.
        (990 * SECOND, began, false),
        (999 * SECOND, began, true),
        (began, began, true),
        // Before its batch.
        (1001 * SECOND, looked, false),
        (1004 * SECOND, looked, true),
        // Meanwhile: nobody knows how long after that it was looked at.
        (1006 * SECOND, 1006 * SECOND, true),
        (1099 * SECOND, 1099 * SECOND, true),
        // In the future: no more than a clock can be wrong, or more.
        (1101 * SECOND, judged, true),
        (1200 * SECOND, looked, false),
    ];
    for (time, expected, racy) in rows {
        let taken_at = taken_at(&stamps(time), began, looked, RACY_SLACK, &clock);
        assert_eq!((taken_at, is_racy(&stamps(time), taken_at, RACY_SLACK)), (expected, racy), "{time}");
    }
    // One far in the future hides nothing of the others.
    let mut both = stamps(1200 * SECOND);
    both.main.ctime = 1006 * SECOND;
    let taken_at = taken_at(&both, began, looked, RACY_SLACK, &clock);
    assert!(is_racy(&both, taken_at, RACY_SLACK), "taken at {taken_at}");
}
