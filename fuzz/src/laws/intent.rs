//! The note of a read under way, found at the next start. Input: the file.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use litesnap::fuzzing;

pub fn check(data: &[u8]) {
    let Some((main, wal, shm)) = fuzzing::parse_intent(data) else {
        // What is written is read: nothing of that kind is refused.
        let path = [b"/", data].concat();
        let written = fuzzing::intent(Path::new(OsStr::from_bytes(&path)), true, false);
        let (main, wal, shm) = fuzzing::parse_intent(&written).expect("just written");
        assert_eq!((main.as_os_str().as_bytes(), wal, shm), (&path[..], true, false));
        return;
    };
    let path = main.as_os_str().as_bytes();
    assert!(path.starts_with(b"/"), "files beside {main:?} would be removed");
    let again = fuzzing::intent(&main, wal, shm);
    assert_eq!(again[2..], data[2..again.len()], "another path than was noted");
    assert_eq!(fuzzing::parse_intent(&again), Some((main.clone(), wal, shm)));
    // A shorter note over a longer one: the rest of that is not read.
    assert_eq!(fuzzing::parse_intent(&[&again, &b"rest"[..]].concat()), Some((main.clone(), wal, shm)));
    // Taken back, and cut short.
    let mut done = data.to_vec();
    done[0] = 0;
    assert_eq!(fuzzing::parse_intent(&done), None);
    assert_eq!(fuzzing::parse_intent(&again[..again.len() - 1]), None);
}
