//! The calls of a scan fail, one after the other: it makes them without the C library, so the library that makes file calls fail
//! does not reach them, and `strace` does.

use std::path::PathBuf;
use std::process::Command;

use crate::fault_files::Fleet;
use crate::fault_shim::Watched;
use crate::place::Ran;
use crate::ways::skipped;

/// Which calls on a folder of databases fail, and how. Each thread counts its own.
const FAULTS: [(&str, &str); 3] = [("openat", "EMFILE"), ("getdents64", "EIO"), ("newfstatat", "EIO")];
/// The first calls of each thread one by one, then all.
const WHEN: [&str; 7] = ["1", "2", "3", "4", "6", "9", "1+"];

/// `command`, in which the `when`th `call` on one of `folders` fails with `error`; the failures are written to `log`.
fn injected(command: &Command, folders: &[PathBuf], (call, error): (&str, &str), when: &str, log: &PathBuf) -> Command {
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-Z", "-o"]).arg(log);
    for folder in folders {
        traced.arg("-P").arg(folder);
    }
    traced.args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:error={error}:when={when}")]);
    traced.arg(command.get_program()).args(command.get_args());
    traced.current_dir(command.get_current_dir().unwrap());
    traced
}

/// What cannot be looked at is an error that is named, and nothing is called gone for it; the next run makes everything right.
#[test]
fn any_call_of_a_scan_may_fail() {
    if !Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status().is_ok_and(|s| s.success()) {
        return skipped("needs strace, and the right to trace");
    }
    let fleet = Fleet::later(&[]);
    let data = fleet.place.data();
    let folders = [data.clone(), data.join("deep"), data.join("deep/er")];
    for fault in FAULTS {
        let mut hits = 0;
        for when in WHEN {
            let what = format!("{fault:?}, {when}");
            fleet.reset();
            let log = fleet.place.path().join("failed-calls");
            let ran: Ran = injected(&fleet.command(), &folders, fault, when, &log).output().unwrap().into();
            let failed = std::fs::read_to_string(&log).unwrap().matches("(INJECTED)").count();
            assert!(failed == 0 || ran.code == Some(1), "{what}: {failed} calls failed: {ran:#?}");
            assert!(failed == 0 || ran.err.contains("cannot look at it"), "{what}: {ran:#?}");
            hits += failed;
            fleet.check(&Watched { ran, calls: Vec::new() }, &what);
        }
        assert!(hits >= 3, "{fault:?}: {hits} calls failed");
    }
}
