//! File systems of other kinds, and folders of our own that mounts show elsewhere. Each test has mounts of its own, which takes root.

use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::*;

/// Runs `work` where mounts are nobody else's, with a pool of threads there.
fn with_own_mounts(work: impl FnOnce(&rayon::ThreadPool) + Send) {
    let work = || {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        let alone = unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(None::<&str>, "/", None::<&str>, private, None::<&str>));
        match alone {
            Ok(()) => work(&rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a pool")),
            Err(e) => println!("SKIPPED: cannot have mounts of its own: {e}"),
        }
    };
    std::thread::scope(|scope| scope.spawn(work).join().expect("the test itself"));
}

fn bind(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("create");
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bind");
}

/// Mounts a file system of this kind at `at`, below which nothing lies yet; false if it cannot be had here.
fn mounted(kind: &str, at: &Path) -> bool {
    fs::create_dir_all(at).expect("create");
    let side = |name: &str| at.with_file_name(format!("of-{name}"));
    let done = match kind {
        "as it is" => return true,
        "overlay" => {
            // Where an overlay lies on top of another one, the system refuses it.
            let lower = side("lower");
            mount(None::<&str>, at, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("a tmpfs to lie on");
            fs::create_dir(&lower).ok();
            ["upper", "work"].iter().for_each(|name| fs::create_dir(at.join(name)).expect("create"));
            let options = format!(
                "lowerdir={},upperdir={},workdir={}",
                lower.display(),
                at.join("upper").display(),
                at.join("work").display()
            );
            mount(Some("overlay"), at, Some("overlay"), MsFlags::empty(), Some(&*options)).map_err(|e| e.to_string())
        }
        "tmpfs" => mount(None::<&str>, at, Some("tmpfs"), MsFlags::empty(), None::<&str>).map_err(|e| e.to_string()),
        mkfs => image(mkfs, &side("image"), at),
    };
    if let Err(why) = &done {
        println!("SKIPPED: {kind}: {why}");
    }
    done.is_ok()
}

/// Makes a file system in a file with the command line `mkfs` and mounts it.
fn image(mkfs: &str, image: &Path, at: &Path) -> Result<(), String> {
    fs::File::create(image).and_then(|file| file.set_len(400 << 20)).expect("create");
    let run = |command: &mut Command| match command.output() {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(String::from_utf8_lossy(&done.stderr).into_owned()),
        Err(e) => Err(e.to_string()),
    };
    let mut words = mkfs.split(' ');
    run(Command::new(words.next().expect("a program")).args(words).arg(image))?;
    run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at))
}

#[test]
fn own_folders_are_not_found_where_a_mount_shows_them() {
    for kind in ["as it is", "tmpfs", "overlay", "mkfs.xfs -q", "mkfs.ext4 -q"] {
        with_own_mounts(|pool| {
            let tree = Tree::new(&[]);
            if !mounted(kind, &tree.path("fs")) {
                return;
            }
            ["fs/a.db", "fs/state/state.db", "fs/state/tmp/x.db", "fs/other/b.db"]
                .iter()
                .for_each(|file| tree.file(file));
            let own = OwnFiles::new(&[tree.path("fs/state")]);
            bind(&tree.path("fs/state"), &tree.path("seen/state-elsewhere"));
            bind(&tree.path("fs/other"), &tree.path("seen/other-elsewhere"));
            pool.install(|| {
                let expected = ["fs/a.db", "fs/other/b.db", "seen/other-elsewhere/b.db"];
                tree.scan_without(&["**/*.db"], &[], &own).assert(&expected);
                tree.scan_without(&["seen/*/*.db"], &[], &own).assert(&expected[2..]);
                tree.scan_without(&["seen/state-elsewhere/*.db"], &[], &own).assert(&[]);
            });
        });
    }
}

#[test]
fn a_folder_with_the_inode_of_an_own_one_on_another_device_is_found() {
    use std::os::unix::fs::MetadataExt;
    with_own_mounts(|pool| {
        let tree = Tree::new(&[]);
        if !mounted("tmpfs", &tree.path("ours")) || !mounted("tmpfs", &tree.path("theirs")) {
            return;
        }
        // Each begins to count anew.
        ["ours/state/s.db", "theirs/state/a.db"].iter().for_each(|file| tree.file(file));
        let inode = |name: &str| fs::metadata(tree.path(name)).expect("stat").ino();
        assert_eq!(inode("ours/state"), inode("theirs/state"));
        let own = OwnFiles::new(&[tree.path("ours/state")]);
        pool.install(|| tree.scan_without(&["**/*.db"], &[], &own)).assert(&["theirs/state/a.db"]);
    });
}

#[test]
fn a_file_system_that_does_not_tell_kinds_when_it_lists_is_asked() {
    with_own_mounts(|pool| {
        let tree = Tree::new(&["real/z.db"]);
        if !mounted("mkfs.ext4 -q -O ^filetype", &tree.path("fs")) {
            return;
        }
        let files = ["fs/a.db", "fs/a.db-wal", "fs/d/b.db", "fs/d/b.db-journal", "fs/d/e/c.db", "fs/f.db/g.txt"];
        files.iter().for_each(|file| tree.file(file));
        tree.link("fs/link.db", "../real/z.db");
        tree.link("fs/d/up", "../..");
        nix::unistd::mkfifo(&tree.path("fs/h.db"), Mode::S_IRWXU).expect("fifo");
        let mut dir = Dir::open(&tree.path("fs"), OFlag::O_DIRECTORY, Mode::empty()).expect("open");
        assert!(dir.iter().all(|entry| entry.expect("listed").file_type().is_none()), "it tells kinds");
        pool.install(|| {
            let scan = tree.scan(&["fs/**/*.db"]);
            scan.assert(&["fs/a.db", "fs/d/b.db", "fs/d/e/c.db", "@real/z.db"]);
            assert!(scan.stamps[0].1.wal.is_some() && scan.stamps[1].1.journal.is_some());
            tree.scan(&["fs/*/*.db"]).assert(&["fs/d/b.db"]);
        });
    });
}
