//! Single file calls of the real binary that fail: a library of our own (`tests/faultlib/fault.c`), put before the system's
//! with `LD_PRELOAD`, counts the calls below chosen folders and lets the Nth fail, or records what they change. Support for
//! the `fault_*` modules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use crate::place::{Place, Ran};

/// The library, compiled once by each test process and renamed into place, so that two of them do not meet.
static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faultlib/fault.c");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (made, library) = (folder.join(format!("libfault-{}.so", std::process::id())), folder.join("libfault.so"));
    // The C compiler is there: the bundled SQLite was built with it.
    let flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-o"];
    let status = Command::new("cc").args(flags).arg(&made).arg(source).args(["-ldl", "-lpthread"]).status();
    assert!(status.unwrap().success(), "the library that fails file calls does not compile");
    fs::rename(&made, &library).unwrap();
    library
});

/// A run that takes longer hangs: it ends by a signal, which fails the test.
const LONGEST_S: &str = "120";

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// With this error, nothing done.
    Errno(Errno),
    /// Half of what was asked for, which is no error: every caller must go on with the rest.
    Short,
    /// Half of it, and `ENOSPC` from then on: how a disk fills up.
    Torn,
    /// A read finds the end of the file.
    End,
}

impl Kind {
    fn setting(self) -> String {
        match self {
            Self::Errno(errno) => (errno as i32).to_string(),
            Self::Short => "short".into(),
            Self::Torn => "torn".into(),
            Self::End => "eof".into(),
        }
    }
}

/// Every family of calls, with the ways in which each fails.
pub(crate) const FAMILIES: [(&str, &[Kind]); 13] = [
    ("open", &[Kind::Errno(Errno::EIO), Kind::Errno(Errno::EACCES), Kind::Errno(Errno::ENOSPC)]),
    ("read", &[Kind::Errno(Errno::EIO), Kind::Short]),
    ("write", &[Kind::Errno(Errno::ENOSPC), Kind::Errno(Errno::EIO), Kind::Short, Kind::Torn]),
    ("sync", &[Kind::Errno(Errno::EIO), Kind::Errno(Errno::ENOSPC)]),
    ("rename", &[Kind::Errno(Errno::EIO), Kind::Errno(Errno::ENOSPC)]),
    ("unlink", &[Kind::Errno(Errno::EIO), Kind::Errno(Errno::EACCES)]),
    ("truncate", &[Kind::Errno(Errno::EIO)]),
    ("mkdir", &[Kind::Errno(Errno::ENOSPC), Kind::Errno(Errno::EACCES)]),
    ("stat", &[Kind::Errno(Errno::EIO), Kind::Errno(Errno::EACCES)]),
    ("list", &[Kind::Errno(Errno::EIO)]),
    ("lock", &[Kind::Errno(Errno::EIO), Kind::Errno(Errno::ENOLCK)]),
    ("close", &[Kind::Errno(Errno::EIO)]),
    ("map", &[Kind::Errno(Errno::ENOMEM)]),
];

/// Which calls of a process fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) family: &'static str,
    pub(crate) kind: Kind,
    /// The number of the call, from 1.
    pub(crate) at: usize,
    /// All further ones too.
    pub(crate) on: bool,
}

/// What a run under the library did.
pub(crate) struct Watched {
    pub(crate) ran: Ran,
    /// Each counted call: its family, a space and its path; after a `!` if it failed.
    pub(crate) calls: Vec<String>,
}

impl Watched {
    /// How many calls failed on demand.
    pub(crate) fn hits(&self) -> usize {
        self.calls.iter().filter(|call| call.starts_with('!')).count()
    }
}

/// Puts the library before `command`: calls of `families`, separated by commas, below `folders` are counted in the file `log`,
/// and fail as `fault` says.
pub(crate) fn preload(command: &mut Command, folders: &[&Path], families: &str, log: &Path, fault: Option<Fault>) {
    load(command, folders);
    command.env("FAULT_FAMILY", families).env("FAULT_LOG", log);
    let Some(fault) = fault else { return };
    command.env("FAULT_AT", fault.at.to_string()).env("FAULT_KIND", fault.kind.setting());
    if fault.on {
        command.env("FAULT_ON", "1");
    }
}

fn load(command: &mut Command, folders: &[&Path]) {
    let under: Vec<&str> = folders.iter().map(|folder| folder.to_str().unwrap()).collect();
    command.env("LD_PRELOAD", LIBRARY.as_os_str()).env("FAULT_UNDER", under.join(":")).env("FAULT_SECONDS", LONGEST_S);
}

/// Runs `command` to its end; with `fault`, those calls below `folder` fail, else the calls of `family` are only counted.
pub(crate) fn watch(mut command: Command, folder: &Path, family: &str, fault: Option<Fault>) -> Watched {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let n = NUMBER.fetch_add(1, Ordering::Relaxed);
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fault-{}-{n}.log", std::process::id()));
    preload(&mut command, &[folder], family, &log, fault);
    let ran = Ran::from(command.output().unwrap());
    let calls = fs::read_to_string(&log).unwrap_or_default().lines().map(str::to_owned).collect();
    fs::remove_file(&log).ok();
    Watched { ran, calls }
}

/// `command` with every change that it makes below `folders` appended to the file `record`.
pub(crate) fn record(mut command: Command, folders: &[&Path], record: &Path) -> Command {
    load(&mut command, folders);
    command.env("FAULT_RECORD", record);
    command
}

/// One sweep: which folder's calls fail while which command runs, and what must hold after each.
pub(crate) struct Sweep<'a> {
    pub(crate) name: &'a str,
    pub(crate) folder: PathBuf,
    /// Families to try; all of [`FAMILIES`] if empty.
    pub(crate) families: &'a [&'a str],
    /// Of each family, kind and mode so many calls are tried unless all are asked for.
    pub(crate) sample: usize,
    /// How a run ends in which nothing fails.
    pub(crate) code: i32,
    /// Makes things as they were before the first run.
    pub(crate) reset: &'a dyn Fn(),
    pub(crate) command: &'a dyn Fn() -> Command,
    /// What must hold after a run whose calls failed, and the run after it; told what was done.
    pub(crate) check: &'a dyn Fn(&Watched, &str),
}

impl Sweep<'_> {
    #[allow(clippy::print_stdout, reason = "how many runs there were is what a sweep has to show")]
    /// Goes through families, kinds, once and from then on, and calls. Returns how many runs met a fault.
    pub(crate) fn run(&self) -> usize {
        let mut runs = 0;
        for (family, kinds) in FAMILIES.iter().filter(|(f, _)| self.families.is_empty() || self.families.contains(f)) {
            (self.reset)();
            let counted = watch((self.command)(), &self.folder, family, None);
            (self.check)(&counted, &format!("{}: {family}, no fault", self.name));
            assert_eq!(counted.ran.code, Some(self.code), "{}: {family}, no fault: {:#?}", self.name, counted.ran);
            for (kind, on) in kinds.iter().flat_map(|kind| [(*kind, false), (*kind, true)]) {
                if matches!(kind, Kind::Torn) && on {
                    continue; // it is "from then on" by itself
                }
                for at in picked(counted.calls.len(), self.sample, on) {
                    runs += self.one(Fault { family, kind, at, on });
                }
            }
        }
        println!("{}: {runs} runs with a failing call", self.name);
        runs
    }

    fn one(&self, fault: Fault) -> usize {
        (self.reset)();
        let watched = watch((self.command)(), &self.folder, fault.family, Some(fault));
        let first = watched.calls.iter().find(|call| call.starts_with('!')).map_or("none", String::as_str);
        let what = format!("{}: {fault:?}, the first that failed: {first}", self.name);
        assert!(watched.ran.code.is_some_and(|code| code <= 3), "{what}: {:#?}", watched.ran);
        assert!(!watched.ran.err.contains("panicked"), "{what}: {:#?}", watched.ran);
        (self.check)(&watched, &what);
        usize::from(watched.hits() > 0)
    }
}

/// Which of `count` calls to try: all of them if LITESNAP_TEST_FAULTS=all, else the first, the last, and others evenly between
/// them, not the same ones for both modes.
fn picked(count: usize, sample: usize, on: bool) -> Vec<usize> {
    if count <= sample || std::env::var("LITESNAP_TEST_FAULTS").is_ok_and(|wish| wish == "all") {
        return (1..=count).collect();
    }
    let shift = if on { 0 } else { count / (2 * sample) };
    let mut all: Vec<usize> = (0..sample).map(|n| (1 + shift + n * count / sample).min(count)).collect();
    all.extend((!on).then_some(count));
    all.dedup();
    all
}

/// Everything below `dir`, sorted: what a run may not change, as text. Of main files every stamp but the access time; of sidecars,
/// whose times and sizes an open by any reader moves, the name, inode and owner.
pub(crate) fn look(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let m = fs::symlink_metadata(&path).unwrap();
        if m.is_dir() {
            all.extend(look(&path));
            continue;
        }
        let name = path.display();
        let owner = (m.ino(), m.uid(), m.gid(), m.mode());
        let is_sidecar = ["-wal", "-shm", "-journal"].iter().any(|end| name.to_string().ends_with(end));
        let times = (m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
        all.push(if is_sidecar { format!("{name} {owner:?}") } else { format!("{name} {owner:?} {times:?}") });
    }
    all.sort();
    all
}

/// Makes `to` an exact copy of `from`, or nothing if there is no `from`.
pub(crate) fn replace(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    if from.exists() {
        copy(from, to);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target)
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A place whose file system lies in memory where there is one: a sweep is thousands of runs, and the disk would be the slowest part.
pub(crate) fn place() -> Place {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() && tempfile::tempfile_in(memory).is_ok() { Place::below(memory) } else { Place::new() }
}
