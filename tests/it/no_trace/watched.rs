//! Before and after alike is not enough: what happens to the files in between, as the kernel tells it.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::{Case, State};
use crate::foreign::sidecars;
use crate::place::{Place, Ran};
use crate::ways::{Way, direct, first_command, first_run, settle, skipped};

/// The kernel's account of what is done to some folders and the files in them.
struct Watch {
    inotify: Inotify,
    folders: Vec<(WatchDescriptor, PathBuf)>,
}

/// What was done, and to which path.
type Event = (AddWatchFlags, PathBuf);

impl Watch {
    fn below(dir: &Path) -> Self {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
        let mut watch = Self { inotify, folders: Vec::new() };
        watch.add(dir);
        watch
    }

    fn add(&mut self, dir: &Path) {
        let descriptor = self.inotify.add_watch(dir, AddWatchFlags::IN_ALL_EVENTS).unwrap();
        self.folders.push((descriptor, dir.to_owned()));
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).for_each(|path| self.add(&path));
    }

    /// Everything since the last call; none is lost.
    fn events(&self) -> Vec<Event> {
        let mut all = Vec::new();
        loop {
            match self.inotify.read_events() {
                Ok(events) => all.extend(events),
                Err(Errno::EAGAIN) => break,
                Err(e) => panic!("{e}"),
            }
        }
        let event = |event: nix::sys::inotify::InotifyEvent| {
            assert!(!event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW), "more events than the kernel keeps");
            let folder = &self.folders.iter().find(|(descriptor, _)| *descriptor == event.wd).unwrap().1;
            (event.mask, event.name.map_or_else(|| folder.clone(), |name| folder.join(name)))
        };
        all.into_iter().map(event).collect()
    }
}

/// Whether it is more than reading: anything made, removed, renamed, written, opened for writing, or given other attributes.
fn is_a_trace(event: &Event) -> bool {
    use AddWatchFlags as F;
    !(F::IN_OPEN | F::IN_ACCESS | F::IN_CLOSE_NOWRITE | F::IN_ISDIR).contains(event.0)
}

fn happened(events: &[Event], what: AddWatchFlags, path: &Path) -> bool {
    events.iter().any(|(mask, of)| mask.contains(what) && of == path)
}

/// Databases that nobody is writing, in every journal mode that leaves nothing but perhaps empty files.
fn quiescent(place: &Place) -> Vec<Case> {
    let modes = ["delete", "truncate", "memory", "off", "wal"];
    let mut all: Vec<Case> = modes.map(|mode| Case::make(place, mode, mode, State::AtRest)).into();
    let more = [State::EmptySidecars, State::EmptyWal, State::LoneShm, State::Checkpointed, State::Reading];
    all.extend(more.map(|state| Case::make(place, "wal/more", "wal", state)));
    all.extend([State::Idle, State::Reading, State::EmptyJournal].map(|s| Case::make(place, "delete", "delete", s)));
    settle(&place.data());
    all
}

#[test]
fn nothing_is_made_or_changed_beside_databases_at_rest_at_any_moment() {
    let place = Place::new();
    let cases = quiescent(&place);
    let watch = Watch::below(&place.data());
    let ran = first_run(&place, Way::Default).expect_code(0);
    let events = watch.events();
    let traces: Vec<&Event> = events.iter().filter(|event| is_a_trace(event)).collect();
    assert!(traces.is_empty(), "{traces:?}");
    for case in &cases {
        assert!(happened(&events, AddWatchFlags::IN_OPEN, &place.db(&case.name)), "{} was not even read", case.name);
        case.check(&place, &ran, Way::Default);
    }
    assert_eq!((ran.count("stored"), direct(&ran)), (cases.len() as u64, cases.len() as u64));

    // Nothing changed: nothing is opened.
    place.once().expect_code(0);
    let events = watch.events();
    assert!(!cases.iter().any(|case| happened(&events, AddWatchFlags::IN_OPEN, &place.db(&case.name))), "{events:?}");
}

/// The same eyes on the other way of reading: they see what it makes and takes away again.
#[test]
fn through_sqlite_the_sidecars_of_a_moment_are_seen_and_gone() {
    let place = Place::new();
    let cases = quiescent(&place);
    let before = sidecars(&place.data());
    let watch = Watch::below(&place.data());
    let ran = first_run(&place, Way::AlwaysSqlite).expect_code(0);
    let events = watch.events();
    for suffix in ["-wal", "-shm"] {
        let path = place.db(&format!("wal/wal-AtRest.db{suffix}"));
        assert!(happened(&events, AddWatchFlags::IN_CREATE, &path), "{events:?}");
        assert!(happened(&events, AddWatchFlags::IN_DELETE, &path), "{events:?}");
    }
    assert!(events.iter().any(is_a_trace));
    assert_eq!((ran.count("stored"), direct(&ran)), (cases.len() as u64, 0));
    assert_eq!(sidecars(&place.data()), before);
}

/// Every system call that concerns `path` while it is stored for the first time; `None`, said aloud, where calls cannot
/// be traced.
fn calls(place: &Place, path: &Path, way: Way) -> Option<String> {
    let told = place.path().join("calls");
    let inner = first_command(place, way);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-P"]).arg(path).arg("-o").arg(&told);
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(place.path());
    if !Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status().is_ok_and(|s| s.success()) {
        skipped("needs strace, and the right to trace");
        return None;
    }
    assert_eq!(Ran::from(command.output().unwrap()).expect_code(0).count("stored"), 1);
    Some(std::fs::read_to_string(told).unwrap())
}

/// A lock, however short, would be one more that an application meets. (SQLite's reading needs them; so this test sees some.)
#[test]
fn a_database_at_rest_is_read_without_a_lock() {
    let place = Place::new();
    let path = place.make("a.db", "wal", 3);
    settle(&place.data());
    let locks = |calls: &str| calls.lines().filter(|line| line.contains("SETLK")).count();
    let Some(direct) = calls(&place, &path, Way::Default) else { return };
    assert_eq!(locks(&direct), 0, "{direct}");
    assert!(direct.matches("F_OFD_GETLK").count() >= 2, "two looks at the locks: {direct}");
    assert!(!direct.contains("O_RDWR") && !direct.contains("O_CREAT"), "{direct}");
    let through_sqlite = calls(&place, &path, Way::AlwaysSqlite).unwrap();
    assert!(locks(&through_sqlite) > 0, "{through_sqlite}");
}
