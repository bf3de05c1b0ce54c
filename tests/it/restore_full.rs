//! A target whose file system is full or read-only, and one that is a mount point: refused with its word, nothing left behind,
//! what was there as it was.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use litesnap::restore::place::{Placer, Root};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::restore_attack::{FORCE, Field, GENTLE, names};

/// A mount; undone when dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// `None`, having said so, where this user may not mount.
    #[allow(clippy::print_stdout, reason = "a skipped test says so")]
    fn new(
        source: Option<&Path>,
        at: &Path,
        kind: Option<&str>,
        flags: MsFlags,
        options: Option<&str>,
    ) -> Option<Self> {
        match mount(source, at, kind, flags, options) {
            Ok(()) => Some(Self(at.to_owned())),
            Err(e) => {
                println!("SKIPPED: cannot mount: {e}");
                None
            }
        }
    }

    fn small(at: &Path) -> Option<Self> {
        Self::new(None, at, Some("tmpfs"), MsFlags::empty(), Some("size=256k"))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_full_file_system_is_said_and_keeps_what_it_had() {
    let field = Field::new();
    let Some(_mounted) = Mounted::small(&field.root()) else { return };
    fs::write(field.root().join("x.db"), "old").unwrap();
    let placer = field.below(FORCE);
    let mut pending = placer.begin(Path::new("x.db")).unwrap();
    let error = std::iter::repeat_with(|| pending.write_all(&[7; 64 << 10])).take(8).find_map(Result::err).unwrap();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    let refusal = pending.refusal(&error);
    assert_eq!(refusal.word, "no-space", "{refusal}");
    assert!(refusal.detail.contains("make room"), "{refusal}");
    drop(pending);
    assert_eq!(names(&field.root()), ["x.db"]);
    assert_eq!(fs::read(field.root().join("x.db")).unwrap(), b"old");
    // The room is free again.
    field.restore(&placer, "y.db").unwrap();
    field.expect_restored(&field.root().join("y.db"));
}

#[test]
fn a_read_only_file_system_is_said() {
    let field = Field::new();
    let Some(mounted) = Mounted::small(&field.root()) else { return };
    let placer = field.below(GENTLE);
    let mut pending = placer.begin(Path::new("late/x.db")).unwrap();
    pending.write_all(&field.image).unwrap();
    drop(pending);
    mount(None::<&str>, &mounted.0, None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>).unwrap();
    for target in ["x.db", "new/x.db"] {
        let refusal = field.below(FORCE).begin(Path::new(target)).unwrap_err();
        assert_eq!(refusal.word, "unwritable");
        assert!(refusal.detail.contains("read-only"), "{refusal}");
    }
    let below = Placer::open(Root::Below(field.root().join("not/there")), FORCE).unwrap();
    assert!(below.begin(Path::new("x.db")).unwrap_err().detail.contains("read-only"));
}

/// A file that a container has mounted by itself cannot be replaced; its sidecars stay with it.
#[test]
fn a_file_that_is_a_mount_point_is_said_and_keeps_its_sidecars() {
    let field = Field::new();
    let (other, target) = (field.root().join("other"), field.root().join("x.db"));
    for (path, content) in [(&other, "old"), (&target, ""), (&field.root().join("x.db-wal"), "committed")] {
        fs::write(path, content).unwrap();
    }
    let Some(_mounted) = Mounted::new(Some(&other), &target, None, MsFlags::MS_BIND, None) else { return };
    let refusal = field.restore(&field.below(FORCE), "x.db").unwrap_err();
    assert_eq!(refusal.word, "unwritable");
    assert!(refusal.detail.contains("mount point"), "{refusal}");
    assert_eq!(fs::read(&target).unwrap(), b"old");
    assert_eq!(fs::read(field.root().join("x.db-wal")).unwrap(), b"committed");
    assert_eq!(names(&field.root()), ["other", "x.db", "x.db-wal"]);
}
