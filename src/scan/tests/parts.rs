//! Walks that several threads share: each file is found exactly once, and few folders are open at any moment.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;

/// How often each file is found by `pattern` with this many threads, by path below the tree.
fn found_by(tree: &Tree, pattern: &str, threads: usize) -> (BTreeMap<String, usize>, ScanReport) {
    let (patterns, excludes, own) = (tree.patterns(&[pattern]), Excludes::default(), OwnFiles::default());
    let seen = Mutex::new(BTreeMap::new());
    let visit = |found: Found<'_>| {
        let name = found.path.strip_prefix(&tree.root).expect("below the tree").to_string_lossy().into_owned();
        assert_eq!(*found.stamps, Stamps::take(found.path).expect("it is there").0, "{name}");
        *seen.lock().entry(name).or_default() += 1;
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    let report = pool.install(|| Scanner::new(&patterns, &excludes, &own).run(&AtomicBool::new(false), &visit));
    (seen.into_inner(), report)
}

#[track_caller]
fn assert_each_once(tree: &Tree, pattern: &str, files: &[String], folders: u64) {
    let expected: BTreeMap<String, usize> = files.iter().map(|file| (file.clone(), 1)).collect();
    for threads in [1, 2, 3, 8] {
        let (found, report) = found_by(tree, pattern, threads);
        assert_eq!(found, expected, "{pattern} with {threads} threads");
        assert!(report.errors.is_empty(), "{:?}", report.errors);
        assert_eq!(report.folders, folders, "{pattern} with {threads} threads");
        assert_eq!(report.files, files.len() as u64);
    }
}

#[test]
fn whatever_is_given_away_each_file_is_found_once() {
    let tree = Tree::new(&[]);
    let mut files = Vec::new();
    for a in 0..12 {
        files.push(format!("t/{a}.db"));
        for b in 0..6 {
            files.push(format!("t/{a}/{b}.db"));
            files.extend((0..3).map(|c| format!("t/{a}/{b}/data/{c}.db")));
        }
    }
    files.iter().for_each(|file| tree.file(file));
    files.iter().step_by(5).for_each(|file| tree.file(&format!("{file}-wal")));
    assert_each_once(&tree, "t/**/*.db", &files, 1 + 12 + 72 + 72);
    let deep: Vec<String> = files.iter().filter(|file| file.contains("data")).cloned().collect();
    assert_each_once(&tree, "t/*/*/data/*.db", &deep, 1 + 12 + 72);
    assert_each_once(&tree, "t/**/data/*.db", &deep, 1 + 12 + 72 + 72);
    let single: Vec<String> = deep.iter().filter(|file| file.ends_with("/1.db")).cloned().collect();
    assert_each_once(&tree, "t/*/*/data/1.db", &single, 1 + 12);
}

#[test]
fn folders_with_files_and_subfolders_of_every_number() {
    let tree = Tree::new(&[]);
    let mut files = Vec::new();
    for n in [0, 1, BATCH_MAX, FILES_PER_CHUNK, FILES_PER_CHUNK + 1, FILES_PER_CHUNK * 3 + 5] {
        files.extend((0..n).map(|i| format!("t/{n}/{i}.db")));
        // In front of and behind the files, whichever way a folder is listed.
        files.extend((0..4).map(|i| format!("t/{n}/{i}/x/{i}.db")));
    }
    files.iter().for_each(|file| tree.file(file));
    assert_each_once(&tree, "t/**/*.db", &files, 1 + 6 + 24 + 24);
}

/// The most folders below the tree that are open at once whenever a file is found, with two threads.
fn most_open(tree: &Tree, pattern: &str) -> (usize, ScanReport) {
    let (patterns, excludes, own) = (tree.patterns(&[pattern]), Excludes::default(), OwnFiles::default());
    let most = AtomicUsize::new(0);
    let visit = |_: Found<'_>| {
        let open = fs::read_dir("/proc/self/fd").expect("list").flatten();
        let ours = open.filter_map(|fd| fs::read_link(fd.path()).ok()).filter(|path| path.starts_with(&tree.root));
        most.fetch_max(ours.count(), Ordering::Relaxed);
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a pool");
    let report = pool.install(|| Scanner::new(&patterns, &excludes, &own).run(&AtomicBool::new(false), &visit));
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    (most.into_inner(), report)
}

/// Held by each of two threads and listed by it, and waiting for them.
const OPEN_MAX: usize = 2 * (16 + 2) + 3;

#[test]
fn a_tree_nearly_as_deep_as_a_path_can_be_long_keeps_few_folders_open() {
    let tree = Tree::new(&[]);
    let deep = (4000 - tree.root.as_os_str().len()) / 2;
    let mut dir = Dir::open(&tree.root, OFlag::O_DIRECTORY, Mode::empty()).expect("open");
    for _ in 0..deep {
        // Both are still to be entered when either is.
        for name in ["a", "b"] {
            mkdirat(&dir, name, Mode::S_IRWXU).expect("mkdir");
        }
        let b = Dir::openat(&dir, "b", OFlag::O_DIRECTORY, Mode::empty()).expect("open");
        let flags = OFlag::O_CREAT | OFlag::O_WRONLY;
        nix::fcntl::openat(&b, "x.db", flags, Mode::S_IRWXU).expect("create");
        dir = Dir::openat(&dir, "a", OFlag::O_DIRECTORY, Mode::empty()).expect("open");
    }
    let (most, report) = most_open(&tree, "**/*.db");
    assert_eq!((report.files, report.folders), (deep as u64, 2 * deep as u64 + 1));
    assert!(most <= OPEN_MAX, "{most}");
    fs::remove_dir_all(tree.path("a")).expect("remove");
}

#[test]
fn many_folders_with_many_files_each_keep_few_folders_open() {
    let tree = Tree::new(&[]);
    for folder in 0..14 {
        fs::create_dir_all(tree.path(&format!("{folder}/x"))).expect("create");
        (0..=FILES_PER_CHUNK)
            .for_each(|n| drop(fs::File::create(tree.path(&format!("{folder}/{n}.db"))).expect("create")));
    }
    let (most, report) = most_open(&tree, "**/*.db");
    assert_eq!(report.files, 14 * (FILES_PER_CHUNK as u64 + 1));
    // By each of two threads the root, the folder and the same once more for its subfolder; two parts that wait.
    assert!(most <= 2 * 3 + 2, "{most}");
}

/// What the rule says, looked up the slow way: which files are found, and which of their sidecars are listed.
fn paired(names: &[&str], wanted: impl Fn(&str) -> bool) -> BTreeMap<String, (bool, bool)> {
    let has = |name: &str| names.contains(&name);
    let is_sidecar = |name: &str| {
        ["-wal", "-shm", "-journal"]
            .iter()
            .any(|end| name.strip_suffix(end).is_some_and(|main| !main.is_empty() && has(main)))
    };
    let found = names.iter().filter(|name| wanted(name) && !is_sidecar(name));
    found.map(|name| (name.to_string(), (has(&format!("{name}-wal")), has(&format!("{name}-journal"))))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// However sidecars and sidecars of sidecars are called, each goes to its own file.
    #[test]
    fn sidecars_go_to_their_files(
        names in prop::collection::btree_set(r"[ab](\.db)?(-wal|-shm|-journal){0,2}", 0..24),
    ) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let tree = Tree::new(&[]);
        fs::create_dir(tree.path("d")).expect("create");
        names.iter().for_each(|name| tree.file(&format!("d/{name}")));
        type Wanted = fn(&str) -> bool;
        let patterns: [(&str, Wanted); 3] =
            [("d/*", |_| true), ("d/*.db", |n| n.ends_with(".db")), ("d/*-wal", |n| n.ends_with("-wal"))];
        for (pattern, wanted) in patterns {
            let scan = tree.scan(&[pattern]);
            let of = |(path, stamps): &(PathBuf, Stamps)| {
                let name = path.file_name().expect("a name").to_string_lossy().into_owned();
                (name, (stamps.wal.is_some(), stamps.journal.is_some()))
            };
            let found: BTreeMap<_, _> = scan.stamps.iter().map(of).collect();
            prop_assert_eq!(found, paired(&names, wanted), "{}", pattern);
        }
    }
}
