//! Applications that work while their databases are read are not locked out, and find nothing that was not theirs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::foreign::{Foreign, WRITER, sidecars, stop_writer};
use crate::place::{Place, age, eventually};
use crate::ways::Way;

/// T14, T53: many readings of databases at rest, while their stamps move under the loop.
#[test]
fn a_loop_over_databases_at_rest_leaves_nothing_beside_them() {
    for way in Way::BOTH {
        let place = Place::new();
        let paths: Vec<PathBuf> = (0..50).map(|n| place.make(&format!("{n}.db"), "wal", 10)).collect();
        let probe = place.make("probe.db", "delete", 1);
        let running = place.start_loop("50ms", way.flags());
        for n in 1..8 {
            assert!(eventually(Duration::from_secs(120), || place.objects_of("probe.db").len() == n));
            paths.iter().for_each(|path| age(path));
            rusqlite::Connection::open(&probe).unwrap().execute("INSERT INTO t VALUES(9)", []).unwrap();
        }
        running.stop().expect_code(0);
        assert_eq!(sidecars(&place.data()), [] as [PathBuf; 0], "{way:?}");
        assert!(paths.iter().all(|path| place.objects_of(path.file_name().unwrap().to_str().unwrap()).len() == 1));
    }
}

/// The price of reading for a rollback-journal application: with a busy timeout of a second it is never locked out.
/// Without one it can be, which `limits` shows; how often is printed.
#[test]
fn an_application_with_a_busy_timeout_is_never_locked_out() {
    for way in Way::BOTH {
        let place = Place::new();
        let with = |name: &str, how: &str| Foreign::start(WRITER, &place.db(name), &[how]);
        let how = [("patient.db", "delete,10,1"), ("hasty.db", "delete,0,1"), ("open-close.db", "wal,10,0")];
        let writers = how.map(|(name, how)| with(name, how));
        let running = place.start_loop("100ms", way.flags());
        let enough = || how.iter().all(|(name, _)| place.objects_of(name).len() >= 8);
        assert!(eventually(Duration::from_secs(240), enough));
        for ((name, _), writer) in how.iter().zip(writers) {
            let written = stop_writer(writer, 1)[0];
            let stored = place.objects_of(name).len();
            println!("{way:?} {name}: {} commits, SQLITE_BUSY {}, {stored} snapshots", written.last, written.busy);
            assert!(*name == "hasty.db" || written.busy == 0, "{name}: locked out {} times", written.busy);
        }
        running.stop().expect_code(0);
    }
}

/// An application opens its database the first time while it is looked at: nothing of ours is in its way.
#[test]
fn sidecars_of_an_application_that_opens_and_closes_beside_us_are_its_own() {
    for way in Way::BOTH {
        let place = Place::new();
        let path = place.db("open-close.db");
        let writer = Foreign::start(WRITER, &path, &["wal,5,0"]);
        let running = place.start_loop("50ms", way.flags());
        assert!(eventually(Duration::from_secs(240), || place.objects_of("open-close.db").len() >= 10));
        running.stop().expect_code(0);
        let written = stop_writer(writer, 1)[0];
        assert!(written.busy == 0 && written.last > 10, "{way:?}: {written:?}");
        assert!(is_left_as_its_application_leaves_it(&path), "{way:?}: {:?}", sidecars(&place.data()));
    }
}

/// Its last close removes both sidecars, for nobody else is connected any more.
fn is_left_as_its_application_leaves_it(path: &Path) -> bool {
    ["-wal", "-shm", "-journal"].iter().all(|suffix| !litesnap::stamps::sidecar(path, suffix).exists())
}
