//! What is ours and lies where the patterns look is never backed up.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::place::{Place, Ran};

fn replicate_into(place: &Place, pattern: &str, store: &Path, state: &Path) -> Ran {
    let mut command = place.litesnap(&["replicate", pattern, "--once"]);
    command.arg("--store").arg(store).arg("--state-dir").arg(state);
    Ran::from(command.output().unwrap()).expect_code(0)
}

/// T50, T54: state, temporary copies and folder store lie where the patterns look, under links, too.
#[test]
fn our_own_files_below_the_pattern_are_never_backed_up() {
    for pattern in ["data", "data/**/*.db", "data/**"] {
        let place = Place::new();
        place.make("a.db", "wal", 2);
        let (store, state) = (place.data().join("store"), place.data().join("own.db/state"));
        fs::create_dir_all(&store).unwrap();
        fs::create_dir_all(&state).unwrap();
        symlink(&state, place.data().join("link")).unwrap();
        symlink(&state, place.data().join("link.db")).unwrap();
        // What an earlier version of somebody's backup left in the store looks like a database, too.
        fs::copy(place.db("a.db"), store.join("stray.db")).unwrap();
        assert_eq!(replicate_into(&place, pattern, &store, &state).count("databases"), 1, "{pattern}");
        let again = replicate_into(&place, pattern, &store, &state);
        assert_eq!((again.count("databases"), again.count("requests")), (1, 0), "{pattern}");
        let state_db = fs::read_dir(&state).unwrap().map(|e| e.unwrap().path());
        let state_db = state_db.filter(|p| p.extension().is_some_and(|x| x == "db")).collect::<Vec<_>>();
        assert_eq!(state_db.len(), 1);
        // A link that leads straight to it.
        symlink(&state_db[0], place.data().join("straight.db")).unwrap();
        assert_eq!(replicate_into(&place, pattern, &store, &state).count("databases"), 1, "{pattern}");
    }
}
