use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};

use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, mkdirat};

use super::folder::{Lister, Names};
use super::look::{Listed, Looker};
use super::many::FILES_PER_CHUNK;
use super::walk::Place;
use super::*;

mod mounts;
mod parts;

/// A folder tree to scan.
struct Tree {
    dir: tempfile::TempDir,
    root: PathBuf,
}

impl Tree {
    /// With these files, each holding its own name.
    fn new(files: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let root = dir.path().canonicalize().expect("it exists");
        let tree = Self { dir, root };
        files.iter().for_each(|file| tree.file(file));
        tree
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn file(&self, name: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("below the root")).expect("create folders");
        fs::write(path, name).expect("write");
    }

    fn link(&self, name: &str, target: &str) {
        symlink(target, self.path(name)).expect("link");
    }

    fn patterns(&self, patterns: &[&str]) -> Vec<Pattern> {
        let parse = |p: &&str| Pattern::parse_or_directory(OsStr::new(p), &self.root, Path::is_dir).expect("valid");
        patterns.iter().map(parse).collect()
    }

    fn scan(&self, patterns: &[&str]) -> Scan {
        self.scan_without(patterns, &[], &OwnFiles::default())
    }

    fn scan_without(&self, patterns: &[&str], excludes: &[&str], own: &OwnFiles) -> Scan {
        let globs: Vec<String> = excludes.iter().map(ToString::to_string).collect();
        let excludes = Excludes::parse(&globs, &self.root).expect("valid");
        run(&self.root, &Scanner::new(&self.patterns(patterns), &excludes, own))
    }
}

/// What a scan found, by path relative to the tree; `@` marks what a symlink led to.
struct Scan {
    found: Vec<String>,
    stamps: Vec<(PathBuf, Stamps)>,
    report: ScanReport,
}

impl Scan {
    #[track_caller]
    fn assert(&self, expected: &[&str]) {
        assert_eq!(self.found, expected);
        assert!(self.report.errors.is_empty(), "{:?}", self.report.errors);
        assert!(self.report.missing_roots.is_empty(), "{:?}", self.report.missing_roots);
        assert_eq!(self.report.files, expected.len() as u64);
    }
}

fn run(root: &Path, scanner: &Scanner<'_>) -> Scan {
    let seen = Mutex::new(Vec::new());
    let report = scanner.run(&AtomicBool::new(false), &|found: Found<'_>| {
        seen.lock().push((found.pattern, found.path.to_path_buf(), found.symlink, *found.stamps));
    });
    let mut seen = seen.into_inner();
    seen.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let name = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    let found = seen.iter().map(|(_, path, link, _)| format!("{}{}", if *link { "@" } else { "" }, name(path)));
    Scan { found: found.collect(), stamps: seen.into_iter().map(|(_, p, _, s)| (p, s)).collect(), report }
}

#[test]
fn classic_layout() {
    let tree = Tree::new(&[
        "data/p1/databases/d/branches/b/tenants/t1.db",
        "data/p1/databases/d/branches/b/tenants/t2.db",
        "data/p1/databases/d/branches/b/tenants/notes.txt",
        "data/p2/databases/d/branches/b/tenants/t1.db",
        "data/p2/elsewhere/d/branches/b/tenants/t1.db",
        "data/p3/databases",
        "data/stray.db",
    ]);
    let scan = tree.scan(&["data/*/databases/*/branches/*/tenants/*.db"]);
    scan.assert(&[
        "data/p1/databases/d/branches/b/tenants/t1.db",
        "data/p1/databases/d/branches/b/tenants/t2.db",
        "data/p2/databases/d/branches/b/tenants/t1.db",
    ]);
    // Neither p1 nor p2 itself is listed, for `databases` needs no search.
    assert_eq!(scan.report.folders, 1 + 2 + 2 + 2);
}

#[test]
fn recursive_and_literal_patterns() {
    let tree = Tree::new(&["a.db", "x/b.db", "x/y/c.db", "x/y/d.txt", "x/.hidden/e.db", "p/q/app.db", "r/q/app.db"]);
    tree.scan(&["**/*.db"]).assert(&["a.db", "p/q/app.db", "r/q/app.db", "x/.hidden/e.db", "x/b.db", "x/y/c.db"]);
    tree.scan(&["x/**/y/**/*.db"]).assert(&["x/y/c.db"]);
    tree.scan(&["x/b.db"]).assert(&["x/b.db"]);
    tree.scan(&["x/absent.db"]).assert(&[]);
    let scan = tree.scan(&["*/q/app.db"]);
    scan.assert(&["p/q/app.db", "r/q/app.db"]);
    assert_eq!(scan.report.folders, 1);
    // Both patterns match: both visit it, in the order given.
    tree.scan(&["x/*.db", "x/b.db"]).assert(&["x/b.db", "x/b.db"]);
}

#[test]
fn a_directory_means_every_file_below_but_sidecars() {
    let tree = Tree::new(&["d/a", "d/a-wal", "d/a-shm", "d/x/b.dat", "d/x/b.dat-journal", "d/x/orphan-wal"]);
    assert!(tree.patterns(&["d"])[0].magic_only());
    tree.scan(&["d"]).assert(&["d/a", "d/x/b.dat", "d/x/orphan-wal"]);
}

#[test]
fn a_folder_named_like_a_database_is_none_and_has_no_sidecars() {
    let tree = Tree::new(&["a.db/b.db", "c-wal"]);
    fs::create_dir(tree.path("c")).expect("create");
    tree.scan(&["*.db"]).assert(&[]);
    tree.scan(&["**/*.db"]).assert(&["a.db/b.db"]);
    tree.scan(&["*"]).assert(&["c-wal"]);
}

#[test]
fn what_is_no_regular_file_is_ignored() {
    let tree = Tree::new(&["a.db"]);
    nix::unistd::mkfifo(&tree.path("f.db"), Mode::S_IRWXU).expect("fifo");
    let _socket = std::os::unix::net::UnixListener::bind(tree.path("s.db")).expect("socket");
    tree.scan(&["*.db"]).assert(&["a.db"]);
    tree.scan(&["f.db"]).assert(&[]);
}

#[test]
fn stamps_are_those_taken_by_path() {
    let tree = Tree::new(&["d/a.db", "d/a.db-wal", "d/a.db-journal", "d/a.db-shm", "d/b.db", "d/b.db-wal", "d/c.db"]);
    fs::write(tree.path("d/b.db-wal"), "").expect("empty");
    for pattern in ["d/*.db", "d/*", "**/*.db", "*/a.db"] {
        let scan = tree.scan(&[pattern]);
        assert!(!scan.stamps.is_empty());
        for (path, stamps) in scan.stamps {
            assert_eq!(stamps, Stamps::take(&path).expect("it is there").0, "{pattern} {}", path.display());
        }
    }
    let first = tree.scan(&["d/*.db"]).stamps[0].1;
    assert!(first.wal.is_some() && first.journal.is_some());
}

#[test]
fn absent_sidecars_cost_no_stat() {
    let tree = Tree::new(&[]);
    (0..50).for_each(|i| tree.file(&format!("d/{i:02}.db")));
    assert_eq!(tree.scan(&["d/*.db"]).report.stat_calls, 50);
    tree.file("d/07.db-wal");
    tree.file("d/07.db-shm");
    assert_eq!(tree.scan(&["d/*.db"]).report.stat_calls, 51);
    tree.file("d/08.db-journal");
    assert_eq!(tree.scan(&["d/*"]).report.stat_calls, 52);
}

#[test]
fn big_folders_are_looked_at_in_chunks() {
    let tree = Tree::new(&[]);
    (0..FILES_PER_CHUNK * 2 + 7).for_each(|i| tree.file(&format!("d/{i:05}.db")));
    let scan = tree.scan(&["d/*.db"]);
    let expected: Vec<String> = (0..FILES_PER_CHUNK * 2 + 7).map(|i| format!("d/{i:05}.db")).collect();
    scan.assert(&expected.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn symlinked_folders_are_followed_by_name_but_not_by_recursion() {
    let tree = Tree::new(&["data/p1/dbs/a.db", "mnt/p2/dbs/b.db"]);
    tree.link("data/p2", "../mnt/p2");
    tree.link("data/loop", ".");
    tree.link("data/p1/self", "../p1");
    tree.link("data/dangling", "nowhere");
    tree.link("data/round", "round");
    tree.scan(&["data/*/dbs/*.db"]).assert(&["data/p1/dbs/a.db", "data/p2/dbs/b.db"]);
    tree.scan(&["data/**/*.db"]).assert(&["data/p1/dbs/a.db"]);
    // `*` follows the link, `**` behind it does not go round; a.db is found under its real path.
    tree.scan(&["data/**/*/**/*.db"]).assert(&["data/p1/dbs/a.db", "data/p2/dbs/b.db"]);
    tree.scan(&["data/*/dbs/*.db", "mnt/**/*.db"]).assert(&["data/p1/dbs/a.db", "mnt/p2/dbs/b.db"]);
    tree.link("alias", "data");
    tree.scan(&["alias/*/dbs/*.db"]).assert(&["alias/p1/dbs/a.db", "alias/p2/dbs/b.db"]);
    tree.link("data/p1/other", "dbs");
    tree.scan(&["data/p1/other/a.db"]).assert(&["data/p1/other/a.db"]);
}

#[test]
fn symlinked_files_are_found_once_under_their_real_path() {
    let tree = Tree::new(&["real/a.db", "real/a.db-wal", "d/b.db", "cache/c.db"]);
    tree.link("d/a.db", "../real/a.db");
    tree.link("d/again.db", "../real/a.db");
    tree.link("d/b2.db", "b.db");
    tree.link("d/c.db", "../cache/c.db");
    tree.link("d/gone.db", "nowhere.db");
    tree.link("d/round.db", "round.db");
    tree.link("d/folder.db", "../real");
    let scan = tree.scan(&["d/*.db"]);
    scan.assert(&["@cache/c.db", "d/b.db", "@real/a.db", "@real/a.db"]);
    assert!(scan.stamps[2].1.wal.is_some(), "its sidecars lie beside the real file");
    tree.scan(&["d/a.db"]).assert(&["@real/a.db"]);
    // A pattern that finds the target itself makes the links superfluous, unless it is excluded there.
    tree.scan(&["d/*.db", "real/*.db"]).assert(&["@cache/c.db", "d/b.db", "real/a.db"]);
    let scan = tree.scan_without(&["**/*.db"], &["cache"], &OwnFiles::default());
    scan.assert(&["@cache/c.db", "d/b.db", "real/a.db"]);
    // The root is a link itself: the real paths below it are still known as found.
    tree.link("alias", "d");
    tree.scan(&["alias/b*.db"]).assert(&["alias/b.db"]);
}

#[test]
fn excluded_files_and_folders() {
    let tree = Tree::new(&["d/a.db", "d/a.tmp.db", "d/cache/b.db", "d/x/c.db", "d/x/y/e.db", "cache/f.db"]);
    let scan = |patterns: &[&str], excludes: &[&str]| tree.scan_without(patterns, excludes, &OwnFiles::default());
    scan(&["d/**/*.db"], &["cache", "*.tmp.db", "d/x/**"]).assert(&["d/a.db"]);
    scan(&["d/*/*.db"], &["/**/x"]).assert(&["d/cache/b.db"]);
    scan(&["*/cache/*.db"], &["cache"]).assert(&[]);
    // What the pattern names as its root was named on purpose.
    scan(&["cache/*.db"], &["cache"]).assert(&["cache/f.db"]);
}

#[test]
fn own_files_are_never_found() {
    let tree = Tree::new(&["d/a.db", "d/state/state.db", "d/state/tmp/x.db", "store/s.db", "d/lock.db"]);
    tree.link("d/alias", "state/tmp");
    tree.link("d/direct.db", "state/state.db");
    tree.link("d/outside", "../store");
    fs::hard_link(tree.path("d/lock.db"), tree.path("d/hard.db")).expect("hard link");
    let own = OwnFiles::new(&[tree.path("d/state"), tree.path("store")]).with_files(&[tree.path("d/lock.db")]);
    let patterns = ["d/**/*.db", "d/*/*.db", "d/state/tmp/*.db", "d/state/state.db", "d/alias/x.db", "d/lock.db"];
    let scan = tree.scan_without(&patterns, &[], &own);
    scan.assert(&["d/a.db"]);
    tree.scan_without(&["d"], &[], &own).assert(&["d/a.db"]);
    tree.scan_without(&["d/stat?/*.db"], &[], &OwnFiles::new(&[tree.path("d/st")])).assert(&["d/state/state.db"]);
}

#[test]
fn names_need_not_be_utf8() {
    let tree = Tree::new(&[]);
    let path = tree.root.join(OsStr::from_bytes(b"\xff\xfe")).join(OsStr::from_bytes(b"\x80.db"));
    fs::create_dir(path.parent().expect("parent")).expect("create");
    fs::write(&path, "x").expect("write");
    let scan = tree.scan(&["*/*.db"]);
    assert!(scan.report.errors.is_empty());
    assert_eq!(scan.stamps[0].0, path);
}

#[test]
fn missing_roots_are_named_and_end_nothing() {
    let tree = Tree::new(&["d/a.db", "file"]);
    let scan = tree.scan(&["absent/*.db", "file/*.db", "absent/x/**", "absent/*", "d/*.db"]);
    assert_eq!(scan.found, ["d/a.db"]);
    assert_eq!(scan.report.missing_roots, [tree.path("absent"), tree.path("absent/x"), tree.path("file")]);
    assert!(scan.report.errors.is_empty());
}

/// As root nothing is forbidden, so the threads that scan give up that right.
fn unprivileged<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let nobody = nix::unistd::Uid::from_raw(65_534);
    let give_up = move |_| {
        if nix::unistd::geteuid().is_root() {
            nix::unistd::setfsuid(nobody);
        }
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).start_handler(give_up).build().expect("a pool");
    pool.install(work)
}

#[test]
fn what_may_not_be_looked_at_is_an_error_and_ends_nothing() {
    let tree = Tree::new(&["d/open/a.db", "d/closed/b.db", "d/list/c.db", "d/list/c.db-wal", "shut/in/e.db"]);
    tree.link("d/open/link.db", "../closed/b.db");
    let mode =
        |name: &str, mode| fs::set_permissions(tree.path(name), fs::Permissions::from_mode(mode)).expect("chmod");
    mode("", 0o755);
    mode("d/closed", 0o000);
    mode("d/list", 0o444);
    mode("shut", 0o000);
    let scan = unprivileged(|| tree.scan(&["d/*/*.db", "shut/in/*.db"]));
    ["d/closed", "d/list", "shut"].iter().for_each(|name| mode(name, 0o755));
    assert_eq!(scan.found, ["d/open/a.db"]);
    let failed: Vec<_> = scan.report.errors.iter().map(|e| (e.path.clone(), e.source.kind())).collect();
    let denied = |name| (tree.path(name), io::ErrorKind::PermissionDenied);
    assert_eq!(failed, [denied("d/closed"), denied("d/list/c.db"), denied("d/open/link.db"), denied("shut/in")]);
    assert!(scan.report.missing_roots.is_empty());
}

#[test]
fn errors_are_bounded() {
    let tree = Tree::new(&[]);
    (0..ERRORS_MAX + 5).for_each(|i| tree.file(&format!("d/{i}.db")));
    fs::set_permissions(tree.path(""), fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::set_permissions(tree.path("d"), fs::Permissions::from_mode(0o444)).expect("chmod");
    let report = unprivileged(|| tree.scan(&["d/*.db"])).report;
    fs::set_permissions(tree.path("d"), fs::Permissions::from_mode(0o755)).expect("chmod");
    assert_eq!((report.errors.len(), report.errors_dropped), (ERRORS_MAX, 5));
}

#[test]
fn a_sidecar_that_cannot_be_looked_at_makes_the_database_an_error() {
    let tree = Tree::new(&["d/a.db", "d/b.db"]);
    tree.link("d/a.db-wal", "a.db-wal");
    for pattern in ["d/*.db", "d/a.db"] {
        let scan = tree.scan(&[pattern]);
        assert!(!scan.found.contains(&"d/a.db".to_string()), "{pattern}");
        assert_eq!(scan.report.errors.len(), 1);
        assert_eq!(scan.report.errors[0].path, tree.path("d/a.db"));
        assert_eq!(scan.report.errors[0].source.raw_os_error(), Some(Errno::ELOOP as i32));
    }
    // Dangling, it is absent.
    fs::remove_file(tree.path("d/a.db-wal")).expect("remove");
    tree.link("d/a.db-wal", "nowhere");
    tree.scan(&["d/*.db"]).assert(&["d/a.db", "d/b.db"]);
}

#[test]
fn folders_deeper_than_a_path_can_be_long_are_an_error() {
    let tree = Tree::new(&["a.db"]);
    let name = "n".repeat(250);
    let mut folder = Dir::open(&tree.root, OFlag::O_DIRECTORY, Mode::empty()).expect("open");
    for _ in 0..20 {
        mkdirat(&folder, name.as_str(), Mode::S_IRWXU).expect("mkdir");
        folder = Dir::openat(&folder, name.as_str(), OFlag::O_DIRECTORY, Mode::empty()).expect("open");
    }
    let scan = tree.scan(&["**/*.db"]);
    assert_eq!(scan.found, ["a.db"]);
    assert_eq!(scan.report.errors.len(), 1);
    assert_eq!(scan.report.errors[0].source.raw_os_error(), Some(Errno::ENAMETOOLONG as i32));
    tree.dir.close().expect("remove");
}

#[test]
fn what_vanishes_during_the_walk_was_not_there() {
    let tree = Tree::new(&["d/1/a.db", "d/1/b.db", "d/2/c.db", "e/f.db"]);
    let patterns = tree.patterns(&["e/*.db", "d/*/*.db"]);
    let (excludes, own) = (Excludes::default(), OwnFiles::default());
    let scanner = Scanner::new(&patterns, &excludes, &own);
    let visit = |found: Found<'_>| {
        if found.pattern == 0 {
            fs::remove_dir_all(tree.path("d")).expect("remove");
        }
        assert_eq!(found.path, tree.path("e/f.db"));
    };
    let report = scanner.run(&AtomicBool::new(false), &visit);
    assert!(report.errors.is_empty() && report.missing_roots.is_empty(), "{report:?}");
    assert_eq!(report.files, 1);
}

/// More files than a visitor is told of at once: when it is told of the first, others are listed and not looked at.
fn more_than_a_batch(tree: &Tree, folder: &str) -> usize {
    let files = BATCH_MAX * 3;
    (0..files).for_each(|n| tree.file(&format!("{folder}/{n}.db")));
    files
}

#[test]
fn a_listed_file_that_is_gone_when_looked_at_was_not_there() {
    let tree = Tree::new(&[]);
    let files = more_than_a_batch(&tree, "d");
    let (patterns, excludes, own) = (tree.patterns(&["d/*.db"]), Excludes::default(), OwnFiles::default());
    let gone = AtomicBool::new(false);
    let visit = |_: Found<'_>| {
        if !gone.swap(true, Ordering::Relaxed) {
            fs::remove_dir_all(tree.path("d")).expect("remove");
        }
    };
    let report = Scanner::new(&patterns, &excludes, &own).run(&AtomicBool::new(false), &visit);
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    assert_eq!((report.files, report.stat_calls), (BATCH_MAX as u64, files as u64), "each was listed and asked for");
}

/// A walk for one pattern, for tests that take it apart.
fn with_walk(tree: &Tree, pattern: &str, visitor: &dyn Visitor, work: impl FnOnce(&Walk<'_>)) -> ScanReport {
    let (patterns, excludes, own) = (tree.patterns(&[pattern]), Excludes::default(), OwnFiles::default());
    let (totals, stop) = (Totals::default(), AtomicBool::new(false));
    let roots = [Some(patterns[0].root().to_path_buf())];
    work(&Walk::new(Scanner::new(&patterns, &excludes, &own), 0, &roots, &stop, visitor, &totals));
    totals.into_report(Vec::new(), false)
}

/// Lists the folder `dir` of a tree and looks at its files; `complete` is what its listing is said to be.
fn look(tree: &Tree, between: impl FnOnce(), complete: bool) -> Vec<(PathBuf, Stamps)> {
    let seen = Mutex::new(Vec::new());
    let visitor = |found: Found<'_>| seen.lock().push((found.path.to_path_buf(), *found.stamps));
    let report = with_walk(tree, "d/*.db", &visitor, |walk| {
        let dir = fs::File::open(tree.path("d")).expect("open").into();
        let mut looker = Looker::new(walk, tree.path("d").as_os_str().as_bytes());
        let mut lister = Lister::new();
        assert!(lister.list(AsFd::as_fd(&dir), &looker, &[0], &mut Names::default()).complete);
        lister.keep_wanted();
        between();
        looker.open_path();
        let place = Place { real: None, link: false };
        let folder = Listed { dir: &dir, prefix: looker.path.len(), place: &place, complete };
        looker.files(folder, &lister.files, 0..usize::MAX);
    });
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    seen.into_inner()
}

#[test]
fn a_listed_sidecar_that_is_gone_when_looked_at_was_not_there() {
    let tree = Tree::new(&["d/a.db", "d/a.db-wal", "d/a.db-journal"]);
    let seen = look(&tree, || fs::remove_file(tree.path("d/a.db-wal")).expect("remove"), true);
    assert_eq!(seen.len(), 1);
    assert!(seen[0].1.wal.is_none() && seen[0].1.journal.is_some());
}

#[test]
fn where_a_listing_broke_off_sidecars_that_were_not_listed_are_asked_for() {
    let tree = Tree::new(&["d/a.db"]);
    let appear = || ["d/a.db-wal", "d/a.db-journal"].iter().for_each(|name| tree.file(name));
    let seen = look(&tree, appear, false);
    assert!(seen[0].1.wal.is_some() && seen[0].1.journal.is_some());
    assert_eq!(look(&tree, || {}, true)[0].1, seen[0].1, "as if they had been listed");
    fs::remove_file(tree.path("d/a.db-wal")).expect("remove");
    assert!(look(&tree, || {}, false)[0].1.wal.is_none());
}

#[test]
fn a_listing_that_fails_is_an_error_and_known_to_be_incomplete() {
    let tree = Tree::new(&["d/a.db"]);
    let report = with_walk(&tree, "d/*.db", &|_: Found<'_>| {}, |walk| {
        // No folder at all: the system refuses to list it.
        let file = fs::File::open(tree.path("d/a.db")).expect("open");
        let looker = Looker::new(walk, tree.path("d").as_os_str().as_bytes());
        let told = Lister::new().list(file.as_fd(), &looker, &[0], &mut Names::default());
        assert_eq!((told.complete, told.inode), (false, None));
        // One that is gone is listed to its end.
        let dir = fs::File::open(tree.path("d")).expect("open");
        fs::remove_dir_all(tree.path("d")).expect("remove");
        assert!(Lister::new().list(dir.as_fd(), &looker, &[0], &mut Names::default()).complete);
    });
    let errors: Vec<_> = report.errors.iter().map(|e| (e.path.clone(), e.source.raw_os_error())).collect();
    assert_eq!(errors, [(tree.path("d"), Some(Errno::ENOTDIR as i32))]);
}

#[test]
fn a_listed_folder_that_became_a_symlink_is_not_followed() {
    let tree = Tree::new(&["d/x/a.db", "elsewhere/b.db"]);
    more_than_a_batch(&tree, "d");
    let (patterns, excludes, own) = (tree.patterns(&["d/**/*.db"]), Excludes::default(), OwnFiles::default());
    let moved = AtomicBool::new(false);
    let visit = |found: Found<'_>| {
        assert!(!found.path.ends_with("a.db") && !found.path.ends_with("b.db"), "found {}", found.path.display());
        if !moved.swap(true, Ordering::Relaxed) {
            fs::remove_dir_all(tree.path("d/x")).expect("remove");
            tree.link("d/x", "../elsewhere");
        }
    };
    let report = Scanner::new(&patterns, &excludes, &own).run(&AtomicBool::new(false), &visit);
    assert!(report.errors.is_empty() && report.folders == 1, "{report:?}");
}

#[test]
fn stops_when_told() {
    let tree = Tree::new(&["e/c.db"]);
    let files = more_than_a_batch(&tree, "d");
    let (patterns, excludes, own) = (tree.patterns(&["d/*.db", "e/*.db"]), Excludes::default(), OwnFiles::default());
    let stop = AtomicBool::new(false);
    let visit = |_: Found<'_>| stop.store(true, Ordering::Relaxed);
    let report = Scanner::new(&patterns, &excludes, &own).run(&stop, &visit);
    assert!(report.stopped);
    // What was looked at already is still told.
    assert_eq!((report.files, report.stat_calls), (BATCH_MAX as u64, BATCH_MAX as u64), "of {files}");
}

#[test]
fn the_time_of_a_batch_is_not_after_its_files_were_looked_at() {
    /// Counts the times it was asked for the time, and what it was told meanwhile.
    #[derive(Default)]
    struct Asked {
        clock: AtomicU64,
        told: Mutex<Vec<(usize, i64)>>,
        steps: AtomicU64,
    }
    impl Visitor for Asked {
        fn found(&self, files: &Batch) {
            assert!(files.iter().all(|found| Some(found.stamped_at) == files.iter().next().map(|f| f.stamped_at)));
            self.told.lock().push((files.len(), files.iter().next().expect("one").stamped_at));
        }
        fn now(&self) -> i64 {
            self.clock.fetch_add(1, Ordering::Relaxed).try_into().expect("few")
        }
        fn gets_on(&self) {
            self.steps.fetch_add(1, Ordering::Relaxed);
        }
    }
    let tree = Tree::new(&[]);
    let files = more_than_a_batch(&tree, "d");
    let (patterns, excludes, own) = (tree.patterns(&["d/*.db"]), Excludes::default(), OwnFiles::default());
    let asked = Asked::default();
    Scanner::new(&patterns, &excludes, &own).run(&AtomicBool::new(false), &asked);
    // Asked before the first, and again when a batch was told.
    assert_eq!(*asked.told.lock(), [(BATCH_MAX, 0), (BATCH_MAX, 1), (BATCH_MAX, 2)]);
    assert!(asked.steps.into_inner() >= files as u64 / 16);
}
