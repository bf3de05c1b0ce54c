//! Power loss at any moment: from the record of every change that a real run made to its state and its folder store, images are
//! made of what the disk may hold afterwards, and litesnap is started on each.
//!
//! What a disk promises, and no more: what was written to a file before it was synced is there; of what was written since, any part
//! may be, the last write torn between sectors of 512 bytes. Names change in the order in which they were changed, as in the journal
//! of ext4 or XFS, up to any moment after the last sync that tells of them. State and store are taken for two file systems,
//! of which each syncs for itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::fault_files::Fleet;
use crate::fault_shim::record;
use crate::place::{Running, eventually};

const SECTOR: usize = 512;

/// One change, as `tests/faultlib/fault.c` records it.
#[derive(Debug)]
struct Change {
    what: u8,
    path: PathBuf,
    other: PathBuf,
    offset: usize,
    inode: u64,
    data: Vec<u8>,
}

impl Change {
    /// Reads the record of a run.
    fn all(record: &Path) -> Vec<Self> {
        let (bytes, mut at, mut all) = (fs::read(record).unwrap(), 0, Vec::new());
        while at < bytes.len() {
            let word = |from: usize| u32::from_ne_bytes(bytes[at + from..][..4].try_into().unwrap()) as usize;
            let long = |from: usize| u64::from_ne_bytes(bytes[at + from..][..8].try_into().unwrap());
            let (path_end, what) = (at + 32 + word(4), bytes[at]);
            let (other_end, end) = (path_end + word(8), path_end + word(8) + word(12));
            let text = |range: std::ops::Range<usize>| PathBuf::from(str::from_utf8(&bytes[range]).unwrap());
            all.push(Self {
                what,
                path: text(at + 32..path_end),
                other: text(path_end..other_end),
                offset: usize::try_from(long(16)).unwrap(),
                inode: long(24),
                data: bytes[other_end..end].to_vec(),
            });
            at = end;
        }
        all
    }

    /// Whether it is a change of names, which the file system's journal keeps in order.
    fn is_of_names(&self) -> bool {
        matches!(self.what, b'c' | b'r' | b'l' | b'u' | b'm')
    }
}

/// What a disk with the file system below one folder holds for certain, of the changes before a cut.
#[derive(Default)]
struct Certain {
    /// Changes of names up to and with this one.
    names: usize,
    /// Changes of content up to and with this one, by file.
    content: BTreeMap<usize, usize>,
}

/// A file system: which file a name leads to, and which changes concern which file. Files are numbered by the change that
/// made them, for inodes are used again.
struct Disk<'a> {
    root: PathBuf,
    changes: &'a [Change],
    /// By change: the file whose content it is about.
    file_of: Vec<Option<usize>>,
}

impl<'a> Disk<'a> {
    fn new(root: PathBuf, changes: &'a [Change]) -> Self {
        let mut by_inode = BTreeMap::new();
        let file_of = changes.iter().enumerate().map(|(n, change)| {
            if !change.path.starts_with(&root) {
                return None;
            }
            if matches!(change.what, b'c' | b'n') {
                by_inode.insert(change.inode, n);
            }
            // A folder may have the inode of a file that is no more.
            if change.path == root || changes[..n].iter().any(|made| made.what == b'm' && made.path == change.path) {
                return None;
            }
            by_inode.get(&change.inode).copied().filter(|_| matches!(change.what, b'c' | b'w' | b't' | b's'))
        });
        let file_of = file_of.collect();
        Self { root, changes, file_of }
    }

    fn mine(&self, cut: usize) -> impl Iterator<Item = (usize, &'a Change)> {
        let root = self.root.clone();
        self.changes[..cut].iter().enumerate().filter(move |(_, change)| change.path.starts_with(&root))
    }

    fn certain(&self, cut: usize) -> Certain {
        let mut certain = Certain::default();
        let mut last_in = BTreeMap::new();
        let mut last = 0;
        for (n, change) in self.mine(cut) {
            match (change.what, self.file_of[n]) {
                // Of a file: its content, and the name it was made under.
                (b's', Some(file)) => {
                    certain.content.insert(file, n);
                    certain.names = certain.names.max(file);
                }
                // Of a folder: the names in it.
                (b's', None) => {
                    certain.names = certain.names.max(last_in.get(&change.path).copied().unwrap_or(0));
                }
                // Of the whole file system.
                (b'S', _) => {
                    certain.names = certain.names.max(last);
                    certain.content.extend(self.file_of[..n].iter().flatten().map(|file| (*file, n)));
                }
                _ => {}
            }
            if change.is_of_names() {
                last = n;
                let target = if change.other.as_os_str().is_empty() { &change.path } else { &change.other };
                last_in.insert(target.parent().unwrap().to_owned(), n);
                last_in.insert(change.path.parent().unwrap().to_owned(), n);
            }
        }
        certain
    }

    /// Makes one image of what may be left after a power loss before change `cut`.
    fn image(&self, cut: usize, luck: &mut Luck) {
        let certain = self.certain(cut);
        let names_end = certain.names + luck.below(cut.max(certain.names + 1) - certain.names);
        let (mut folders, mut names) = (Vec::new(), BTreeMap::<&Path, usize>::new());
        // Files without a name, by what their descriptors say: no disk shows them before they are linked.
        let mut nameless = BTreeMap::<&Path, usize>::new();
        let mut content = BTreeMap::<usize, Vec<u8>>::new();
        let newest_write = self.mine(cut).filter(|(_, change)| change.what == b'w').map(|(n, _)| n).last();
        // Of what is not certain: nothing, all of it, or each by chance.
        let odds = [0, 100, 50, 85][luck.below(4)];
        for (n, change) in self.mine(cut) {
            if change.what == b'n' {
                nameless.insert(&change.path, n);
            }
            if change.is_of_names() && n <= names_end {
                match change.what {
                    b'm' => folders.push(change.path.as_path()),
                    b'c' => drop(names.insert(&change.path, n)),
                    b'u' => drop(names.remove(change.path.as_path())),
                    _ => {
                        let path = change.path.as_path();
                        let file = names.get(path).or_else(|| nameless.get(path)).copied();
                        if change.what == b'r' {
                            names.remove(change.path.as_path());
                        }
                        file.map(|file| names.insert(&change.other, file));
                    }
                }
            }
            let Some(file) = self.file_of[n] else { continue };
            let is_certain = certain.content.get(&file).is_some_and(|synced| n < *synced);
            if is_certain || luck.below(100) < odds {
                let torn = (!is_certain && newest_write == Some(n)).then(|| luck.below(change.data.len() / SECTOR + 1));
                apply(content.entry(file).or_default(), change, torn);
            }
        }
        fs::remove_dir_all(&self.root).ok();
        fs::create_dir_all(&self.root).unwrap();
        folders.iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
        for (path, file) in names {
            // SQLite makes the index of its log anew; it is mapped, so that no record tells of it.
            if !path.to_str().unwrap().ends_with("-shm") {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content.get(&file).map_or(&[][..], Vec::as_slice)).unwrap();
            }
        }
    }
}

/// Applies a change of content; of a torn one, so many sectors.
fn apply(bytes: &mut Vec<u8>, change: &Change, torn: Option<usize>) {
    match change.what {
        b'w' => {
            let data = torn.map_or(&change.data[..], |sectors| &change.data[..sectors * SECTOR]);
            let end = change.offset + data.len();
            bytes.resize(bytes.len().max(end), 0);
            bytes[change.offset..end].copy_from_slice(data);
        }
        b't' => bytes.resize(change.offset, 0),
        _ => {}
    }
}

/// The same choices in each run, unless LITESNAP_TEST_SEED says otherwise.
struct Luck(u64);

impl Luck {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap()
    }
}

/// A first run, a second one after changes, and a loop in which each database changes: every change of state and store.
fn recorded(fleet: &mut Fleet) -> Vec<Change> {
    let (state, store) = (fleet.place.state(), fleet.place.store());
    let file = fleet.place.path().join("record");
    let watched = |command| record(command, &[&state, &store], &file);
    assert!(watched(fleet.command()).status().unwrap().success());
    fleet.commit(&["delete.db", "rest.db"]);
    assert!(watched(fleet.command()).status().unwrap().success());
    let mut command = watched(fleet.place.replicate("data/**/*.db", &["--interval", "50ms"]));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running::start(command);
    for name in ["owned.db", "persist.db", "delete.db", "rest.db"] {
        let before = fleet.place.objects().len();
        fleet.commit(&[name]);
        assert!(eventually(Duration::from_secs(120), || fleet.place.objects().len() > before));
    }
    running.stop().expect_code(0);
    fleet.commit(&["delete.db", "owned.db"]);
    Change::all(&file)
}

#[test]
fn whatever_a_power_loss_leaves_claims_nothing_that_is_not_stored() {
    let seed = std::env::var("LITESNAP_TEST_SEED").map_or(0x1057_9023, |seed| seed.parse().unwrap());
    println!("LITESNAP_TEST_SEED={seed}");
    let mut luck = Luck(seed | 1);
    let mut fleet = Fleet::new(&[]);
    let changes = recorded(&mut fleet);
    let syncs = |what| changes.iter().filter(|change| change.what == what).count();
    assert!(syncs(b's') > 10 && syncs(b'S') > 3, "{} and {} syncs", syncs(b's'), syncs(b'S'));
    let (images, claims, untrue) = tried(&fleet, &changes, &mut luck, true);
    println!("{} changes, {images} images, {claims} claims in them", changes.len());
    assert_eq!(untrue, [""; 0]);
    assert!(claims > images, "most images claim something");
    // And if the store's disk had not been synced before the state's: then this finds claims that are not true.
    let unsynced: Vec<Change> = changes.into_iter().filter(|change| change.what != b'S').collect();
    let (_, _, untrue) = tried(&fleet, &unsynced, &mut luck, false);
    assert!(!untrue.is_empty(), "it could not fail");
}

/// Makes images of what is left of `changes`, and looks at what each claims; with `start`, litesnap is started on every other one, and must
/// have everything stored. Returns how many images there were, how many claims in them, and which were not true.
fn tried(fleet: &Fleet, changes: &[Change], luck: &mut Luck, start: bool) -> (usize, usize, Vec<String>) {
    let disks = [Disk::new(fleet.place.state(), changes), Disk::new(fleet.place.store(), changes)];
    let all = std::env::var("LITESNAP_TEST_FAULTS").is_ok_and(|wish| wish == "all");
    let (step, each) = if all { (1, 4) } else { (changes.len().div_ceil(100), 2) };
    let (mut images, mut claims, mut untrue) = (0, 0, Vec::new());
    for cut in (1..=changes.len()).step_by(step) {
        for n in 0..each {
            disks.iter().for_each(|disk| disk.image(cut, luck));
            let what = format!("power loss before change {cut} of {}, image {n}", changes.len());
            let (count, wrong) = fleet.claimed();
            untrue.extend(wrong.into_iter().map(|wrong| format!("{what}: {wrong}")));
            (images, claims) = (images + 1, claims + count);
            if n == 0 && start {
                let ran = fleet.once();
                assert!(ran.code == Some(0) && !ran.err.contains("panicked"), "{what}: {ran:#?}");
                assert_eq!(fleet.claimed().1, [""; 0], "{what}, and a run after it");
                assert!(fleet.is_all_claimed(), "{what}: {ran:#?}");
            }
        }
    }
    (images, claims, untrue)
}
