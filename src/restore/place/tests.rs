//! Durability, leftovers of killed runs, owner and mode: what needs a look inside.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::mpsc;

use nix::unistd::{Gid, Uid};

use super::*;
use crate::content::{ContentHash, ContentHasher};
use crate::header::JournalMode;
use crate::object::{FORMAT_VERSION, FrameHash};
use crate::timestamp::Timestamp;

const FORCE: Permissions = Permissions { force: true };
const GENTLE: Permissions = Permissions { force: false };

/// One page that begins as a database does.
fn image(fill: u8) -> Vec<u8> {
    let mut image = vec![fill; 512];
    image[..16].copy_from_slice(b"SQLite format 3\0");
    image
}

fn described_as(image: &[u8], uid: u32, gid: u32, mode: u32) -> Description {
    let mut hasher = ContentHasher::new(512, u32::try_from(image.len() / 512).unwrap());
    hasher.update(image);
    Description {
        format: FORMAT_VERSION,
        key: "a".into(),
        host: "host".into(),
        path: "/a".into(),
        taken_at: Timestamp::from_ms(0).unwrap(),
        page_size: 512,
        page_count: u32::try_from(image.len() / 512).unwrap(),
        raw_size: image.len() as u64,
        content_hash: hasher.finish(uid, gid, mode).unwrap(),
        frame_size: 0,
        frame_hash: FrameHash([0; 16]),
        journal_mode: JournalMode::Rollback,
        uid,
        gid,
        mode,
        mtime_ns: 1_700_000_000_123_456_789,
        schema_version: None,
        sqlite_version: None,
        litesnap: "test".into(),
    }
}

fn described(image: &[u8]) -> Description {
    described_as(image, Uid::effective().as_raw(), Gid::effective().as_raw(), 0o644)
}

fn below(dir: &Path, permissions: Permissions) -> Placer {
    Placer::open(Root::Below(dir.to_owned()), permissions).unwrap()
}

fn restore(placer: &Placer, target: &str, image: &[u8], description: &Description) -> Result<Placed, Refusal> {
    let mut pending = placer.begin(Path::new(target))?;
    pending.write_all(image).unwrap();
    let (done, answer) = mpsc::channel();
    placer.finish(pending, description, move |result| done.send(result).unwrap());
    placer.flush();
    answer.try_recv().expect("flush returns after the answer")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn nothing_changes_at_the_target_before_the_new_file_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    fs::write(&path, "old").unwrap();
    fs::write(dir.path().join("x.db-wal"), "a log").unwrap();
    let placer = below(dir.path(), FORCE);
    let mut pending = placer.begin(Path::new("x.db")).unwrap();
    let temp = pending.path();
    assert_eq!(fs::metadata(&temp).unwrap().mode() & 0o7777, 0o600);
    pending.write_all(&image(1)).unwrap();
    let is_old = || fs::read(&path).unwrap() == b"old" && fs::read(dir.path().join("x.db-wal")).unwrap() == b"a log";
    assert!(is_old());
    pending.restart().unwrap();
    pending.write_all(&[7; 100]).unwrap();
    let (done, answer) = mpsc::channel();
    placer.finish(pending, &described(&image(1)), move |result| done.send(result).unwrap());
    let refusal = answer.try_recv().unwrap().unwrap_err();
    assert!(refusal.detail.contains("100 bytes were written where its description says 512"), "{refusal}");
    assert!(is_old());
    assert_eq!(names(dir.path()), ["x.db", "x.db-wal"]);
}

#[test]
fn owner_mode_and_time_are_the_described_ones_and_never_more_than_permissions() {
    let dir = tempfile::tempdir().unwrap();
    let is_root = Uid::effective().is_root();
    let (uid, gid) = if is_root { (12_345, 23_456) } else { (Uid::effective().as_raw(), Gid::effective().as_raw()) };
    if !is_root {
        println!("SKIPPED: giving files away needs root");
    }
    let placer = below(dir.path(), GENTLE);
    for (name, mode, expected) in [("new/er/a.db", 0o640, 0o640), ("new/b.db", 0o6755, 0o755), ("c.db", 0o1777, 0o777)]
    {
        let placed = restore(&placer, name, &image(1), &described_as(&image(1), uid, gid, mode)).unwrap();
        assert!(placed.owner_kept);
        let meta = fs::metadata(dir.path().join(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (uid, gid, expected), "{name}");
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_700_000_000, 123_456_789));
    }
    for (folder, mode) in [("new", 0o751), ("new/er", 0o750)] {
        let meta = fs::metadata(dir.path().join(folder)).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (uid, gid, mode), "{folder}");
    }
    // One that was there keeps its owner.
    assert_eq!(fs::metadata(dir.path()).unwrap().uid(), Uid::effective().as_raw());
}

#[test]
fn a_folder_of_a_killed_run_still_gets_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    drop(below(dir.path(), GENTLE).begin(Path::new("a/b/x.db")).unwrap());
    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("a"), mode("a/b")), (0o1700, 0o1700), "nobody's yet");
    restore(&below(dir.path(), GENTLE), "a/b/x.db", &image(1), &described(&image(1))).unwrap();
    assert_eq!((mode("a"), mode("a/b")), (0o751, 0o750));
    // What others have made stays as it is.
    fs::create_dir(dir.path().join("theirs")).unwrap();
    fs::set_permissions(dir.path().join("theirs"), fs::Permissions::from_mode(0o700)).unwrap();
    restore(&below(dir.path(), GENTLE), "theirs/x.db", &image(1), &described(&image(1))).unwrap();
    assert_eq!(mode("theirs"), 0o700);
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn of_mode(mode: u32) -> Description {
    Description { mode, ..described(&image(1)) }
}

#[test]
fn folders_that_are_made_are_as_private_as_the_database_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let placer = below(dir.path(), GENTLE);
    let table = [
        (0o600, 0o700),
        (0o640, 0o750),
        (0o660, 0o770),
        (0o644, 0o750),
        (0o666, 0o770),
        (0o604, 0o700),
        (0o620, 0o700),
    ];
    for (mode, expected) in table {
        restore(&placer, &format!("{mode:o}/in/deep/x.db"), &image(1), &of_mode(mode)).unwrap();
        let top = dir.path().join(format!("{mode:o}"));
        let modes = [mode_of(&top), mode_of(&top.join("in")), mode_of(&top.join("in/deep"))];
        assert_eq!(modes, [expected | 0o011, expected | 0o011, expected], "{mode:o}");
        // The first one decided: a more open one gives nothing away.
        restore(&placer, &format!("{mode:o}/in/deep/y.db"), &image(1), &of_mode(0o666)).unwrap();
        assert_eq!(mode_of(&top.join("in/deep")), expected, "{mode:o}");
    }
}

#[test]
fn a_folder_that_holds_a_database_lets_others_pass_to_those_below_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for private in ["theirs", "theirs/in"] {
        fs::create_dir(path(private)).unwrap();
        fs::set_permissions(path(private), fs::Permissions::from_mode(0o700)).unwrap();
    }
    let placer = below(dir.path(), GENTLE);
    restore(&placer, "a/x.db", &image(1), &of_mode(0o600)).unwrap();
    assert_eq!(mode_of(&path("a")), 0o700);
    restore(&placer, "a/b/c/y.db", &image(1), &of_mode(0o640)).unwrap();
    assert_eq!(["a", "a/b", "a/b/c"].map(|name| mode_of(&path(name))), [0o711, 0o751, 0o750]);
    // Both on their way at once: whichever is done first.
    for (folder, deep_first) in [("c", false), ("d", true)] {
        let (upper, lower) = (format!("{folder}/x.db"), format!("{folder}/b/y.db"));
        let order = if deep_first { [&lower, &upper] } else { [&upper, &lower] };
        let begun = order.map(|name| placer.begin(Path::new(name)).unwrap());
        for mut pending in begun {
            pending.write_all(&image(1)).unwrap();
            placer.finish(pending, &of_mode(0o600), |result| assert!(result.is_ok()));
        }
        assert_eq!((mode_of(&path(folder)), mode_of(&path(&format!("{folder}/b")))), (0o711, 0o700), "{folder}");
    }
    // What was there before the run is not opened to anybody.
    restore(&placer, "theirs/in/x.db", &image(1), &of_mode(0o666)).unwrap();
    restore(&placer, "theirs/in/new/x.db", &image(1), &of_mode(0o666)).unwrap();
    assert_eq!(["theirs", "theirs/in", "theirs/in/new"].map(|name| mode_of(&path(name))), [0o700, 0o700, 0o770]);
    // Nor what an earlier run has made: by now it may be as its owner wants it.
    fs::set_permissions(path("a"), fs::Permissions::from_mode(0o700)).unwrap();
    restore(&below(dir.path(), GENTLE), "a/b/z.db", &image(1), &of_mode(0o666)).unwrap();
    assert_eq!(mode_of(&path("a")), 0o700);
}

/// Each owner reaches his own database, and no other.
#[test]
fn two_owners_below_one_folder_reach_their_own_databases_only() {
    use std::os::unix::process::CommandExt;
    if !Uid::effective().is_root() {
        println!("SKIPPED: giving files away needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let placer = below(dir.path(), GENTLE);
    let (one, other) = (12_345, 23_456);
    let files = [("t/top.db", one), ("t/one/x.db", one), ("t/other/x.db", other)];
    for (name, id) in files {
        restore(&placer, name, &image(1), &described_as(&image(1), id, id, 0o644)).unwrap();
    }
    for (name, owner) in files {
        for id in [one, other] {
            let mut cat = std::process::Command::new("cat");
            let read = cat.arg(dir.path().join(name)).uid(id).gid(id).output().unwrap();
            // The folder of the first lets others pass, and this one file of it is readable for all.
            let may = id == owner || name == "t/top.db";
            assert_eq!(read.status.success(), may, "{name} by {id}: {read:?}");
        }
        let above = dir.path().join(name);
        assert_eq!(
            fs::metadata(above.parent().unwrap()).unwrap().uid(),
            if name == "t/other/x.db" { other } else { one }
        );
    }
}

/// A kill between setting the sidecars aside and the rename: the temporary file is still there.
#[test]
fn after_a_kill_before_the_rename_the_old_database_gets_its_sidecars_back() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, content: &str| fs::write(dir.path().join(name), content).unwrap();
    put("x.db", "old");
    put("x.db-wal", "committed");
    put("x.db-shm", "memory");
    let spot = below(dir.path(), FORCE).locate(Path::new("x.db"), true).unwrap().unwrap();
    let temp = below(dir.path(), FORCE).begin(Path::new("x.db")).unwrap().path();
    fs::write(&temp, "whole").unwrap();
    let set = aside::Aside::set(&spot).unwrap();
    assert!(!set.is_empty());
    drop(set);
    let left = names(dir.path());
    assert_eq!(left.iter().filter(|name| name.starts_with(".litesnap-aside-")).count(), 2);
    assert!(!left.contains(&"x.db-wal".to_owned()));
    // Also for those that do not get any further: here, force is missing.
    assert_eq!(below(dir.path(), GENTLE).begin(Path::new("x.db")).unwrap_err().word, "target-exists");
    assert_eq!(names(dir.path()), ["x.db", "x.db-shm", "x.db-wal"]);
    assert_eq!(fs::read(dir.path().join("x.db-wal")).unwrap(), b"committed");
}

/// A kill behind the rename: the temporary file has become the target.
#[test]
fn after_a_kill_behind_the_rename_what_was_set_aside_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, content: &[u8]| fs::write(dir.path().join(name), content).unwrap();
    put("x.db", &image(1));
    put("x.db-wal", b"committed");
    let placer = below(dir.path(), GENTLE);
    let spot = placer.locate(Path::new("x.db"), true).unwrap().unwrap();
    drop(aside::Aside::set(&spot).unwrap());
    assert!(!placer.is_identical(Path::new("x.db"), &described(&image(1))).unwrap(), "not before that is cleaned up");
    placer.keep(Path::new("x.db")).unwrap();
    assert_eq!(names(dir.path()), ["x.db"]);
    assert!(placer.is_identical(Path::new("x.db"), &described(&image(1))).unwrap());
}

#[test]
fn a_failed_rename_gives_the_sidecars_back() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("x.db-wal"), "committed").unwrap();
    let placer = below(dir.path(), FORCE);
    let pending = placer.begin(Path::new("x.db")).unwrap();
    let set = aside::Aside::set(&pending.spot).unwrap();
    set.give_back(&pending.spot).unwrap();
    assert_eq!(fs::read(dir.path().join("x.db-wal")).unwrap(), b"committed");
    // A newer one of an application is not overwritten by the old one, which does not fit it.
    let set = aside::Aside::set(&pending.spot).unwrap();
    fs::write(dir.path().join("x.db-wal"), "newer").unwrap();
    set.give_back(&pending.spot).unwrap();
    drop(pending);
    assert_eq!(fs::read(dir.path().join("x.db-wal")).unwrap(), b"newer");
    assert_eq!(names(dir.path()), ["x.db-wal"]);
}

#[test]
fn force_removes_no_database_that_has_the_name_of_a_sidecar() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("x.db-journal"), image(9)).unwrap();
    let placer = below(dir.path(), FORCE);
    let refusal = placer.begin(Path::new("x.db")).unwrap_err();
    assert_eq!(refusal.word, "sidecar", "{refusal}");
    fs::create_dir(dir.path().join("y.db-wal")).unwrap();
    assert_eq!(placer.begin(Path::new("y.db")).unwrap_err().word, "not-a-file");
    assert_eq!(names(dir.path()), ["x.db-journal", "y.db-wal"]);
}

#[test]
fn identical_means_size_content_owner_mode_and_nothing_beside() {
    let dir = tempfile::tempdir().unwrap();
    let placer = below(dir.path(), GENTLE);
    let target = Path::new("x.db");
    let path = dir.path().join(target);
    let description = described_as(&image(1), Uid::effective().as_raw(), Gid::effective().as_raw(), 0o4640);
    let is_identical = |description: &Description| placer.is_identical(target, description).unwrap();
    assert!(!is_identical(&description), "there is none");
    restore(&placer, "x.db", &image(1), &description).unwrap();
    assert!(is_identical(&description), "set-user-id was left out, which is what restoring does");

    assert!(!is_identical(&described(&image(1))), "another mode");
    assert!(!is_identical(&Description { content_hash: ContentHash([0; 16]), ..description.clone() }));
    assert!(!is_identical(&Description { page_count: 2, raw_size: 1024, ..description.clone() }));
    fs::write(dir.path().join("x.db-shm"), "memory").unwrap();
    fs::write(dir.path().join("x.db-wal"), "").unwrap();
    assert!(is_identical(&description), "an empty log has no transactions");
    for sidecar in ["x.db-wal", "x.db-journal"] {
        fs::write(dir.path().join(sidecar), "transactions").unwrap();
        assert!(!is_identical(&description), "{sidecar}");
        fs::remove_file(dir.path().join(sidecar)).unwrap();
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!is_identical(&description));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(is_identical(&description));
    fs::write(&path, image(2)).unwrap();
    assert!(!is_identical(&description), "another content");
    if Uid::effective().is_root() {
        fs::write(&path, image(1)).unwrap();
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        assert!(!is_identical(&description), "another owner, which root could have set");
    }
}

/// More than fit into one batch, from several threads, into few and into many folders.
#[test]
fn many_are_placed_in_batches_and_each_is_answered_once() {
    let dir = tempfile::tempdir().unwrap();
    let placer = below(dir.path(), GENTLE);
    let (done, answers) = mpsc::channel();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (placer, done) = (&placer, done.clone());
            scope.spawn(move || {
                for n in 0..400 {
                    let folder = if n % 2 == 0 { "one".to_owned() } else { format!("{thread}-{n}/deep") };
                    let target = PathBuf::from(format!("{folder}/{thread}-{n}.db"));
                    let mut pending = placer.begin(&target).unwrap();
                    pending.write_all(&image(7)).unwrap();
                    let done = done.clone();
                    let path = dir_path(placer).join(&target);
                    placer.finish(pending, &described(&image(7)), move |result| {
                        result.unwrap();
                        assert!(fs::read(&path).unwrap() == image(7), "it is there when that is told");
                        done.send(target).unwrap();
                    });
                }
            });
        }
    });
    placer.flush();
    drop(done);
    let mut told: Vec<_> = answers.try_iter().collect();
    told.sort();
    told.dedup();
    assert_eq!(told.len(), 1600);
    assert_eq!(names(&dir.path().join("one")).len(), 800, "no temporary file is left");
    assert_eq!(placer.begin(&told[7]).unwrap_err().word, "clash");
    placer.flush();
}

fn dir_path(placer: &Placer) -> PathBuf {
    match &placer.root {
        Root::Below(dir) => dir.clone(),
        _ => unreachable!("these tests restore below a folder"),
    }
}

/// With force and sidecars everywhere, in one batch, beside one that is refused.
#[test]
fn a_batch_replaces_databases_with_their_sidecars() {
    let dir = tempfile::tempdir().unwrap();
    let placer = below(dir.path(), FORCE);
    let (done, answers) = mpsc::channel();
    for n in 0..50 {
        let name = format!("{n}.db");
        fs::write(dir.path().join(&name), "old").unwrap();
        fs::write(dir.path().join(format!("{n}.db-wal")), "committed").unwrap();
        let mut pending = placer.begin(Path::new(&name)).unwrap();
        pending.write_all(&image(3)).unwrap();
        if n == 20 {
            fs::remove_file(dir.path().join(&name)).unwrap();
            fs::create_dir(dir.path().join(&name)).unwrap();
        }
        let done = done.clone();
        placer.finish(pending, &described(&image(3)), move |result| done.send((n, result)).unwrap());
    }
    placer.flush();
    for (n, result) in answers.try_iter() {
        assert_eq!(result.map_err(|refusal| refusal.word).err(), (n == 20).then_some("not-a-file"), "{n}");
    }
    let left = names(dir.path());
    assert_eq!(left.len(), 51, "{left:?}");
    assert!(left.contains(&"20.db-wal".to_owned()), "what is refused keeps what lies beside it");
    assert!((0..50).filter(|n| *n != 20).all(|n| fs::read(dir.path().join(format!("{n}.db"))).unwrap() == image(3)));
}

#[test]
fn a_dropped_placer_finishes_what_was_handed_over() {
    let dir = tempfile::tempdir().unwrap();
    let placer = below(dir.path(), GENTLE);
    let mut pending = placer.begin(Path::new("x.db")).unwrap();
    pending.write_all(&image(1)).unwrap();
    let (done, answer) = mpsc::channel();
    placer.finish(pending, &described(&image(1)), move |result| done.send(result).unwrap());
    drop(placer);
    assert!(answer.try_recv().unwrap().is_ok());
    assert_eq!(names(dir.path()), ["x.db"]);
}

#[test]
fn one_file_goes_exactly_where_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made/out.db");
    let placer = Placer::open(Root::File(path.clone()), GENTLE).unwrap();
    assert_eq!(placer.look(Path::new("ignored/../x")).unwrap(), Found::Nothing);
    restore(&placer, "ignored", &image(1), &described(&image(1))).unwrap();
    assert_eq!(fs::read(&path).unwrap(), image(1));
    assert_eq!(placer.begin(Path::new("")).unwrap_err().word, "clash");
    assert_eq!(Placer::open(Root::File(path.clone()), GENTLE).unwrap().begin(&path).unwrap_err().word, "target-exists");
    for wrong in ["/", "..", "", "folder/"] {
        let placer = Placer::open(Root::File(wrong.into()), GENTLE).unwrap();
        assert_eq!(placer.look(&path).unwrap_err().word, "not-a-file", "'{wrong}'");
    }
}

#[test]
fn the_links_of_the_host_are_followed_in_place() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("real")).unwrap();
    std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
    let placer = Placer::open(Root::InPlace, GENTLE).unwrap();
    let target = dir.path().join("link/new/x.db");
    restore(&placer, target.to_str().unwrap(), &image(1), &described(&image(1))).unwrap();
    assert_eq!(fs::read(dir.path().join("real/new/x.db")).unwrap(), image(1));
    for wrong in ["x.db", "", "/a/../x.db", "//x.db", "/", "/./x.db"] {
        assert_eq!(placer.begin(Path::new(wrong)).unwrap_err().word, "unsafe-path", "'{wrong}'");
    }
}

#[test]
fn every_errno_has_its_word_and_one_line() {
    use nix::errno::Errno;
    for (errno, word) in [
        (Errno::ENOSPC, "no-space"),
        (Errno::EDQUOT, "no-space"),
        (Errno::EROFS, "unwritable"),
        (Errno::EACCES, "unwritable"),
        (Errno::EBUSY, "unwritable"),
        (Errno::ENOTDIR, "not-a-file"),
        (Errno::EIO, "io-error"),
        (Errno::ELOOP, "unwritable"),
    ] {
        let refusal = Refusal::of("write", Path::new("/a\nb"), &errno.into());
        assert_eq!(refusal.word, word, "{errno}");
        assert!(refusal.detail.starts_with("cannot write /a\\nb: "), "{refusal}");
    }
}
