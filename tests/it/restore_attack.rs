//! Paths and folders that would make a restore write somewhere else (T41), through the library: nothing outside the folder
//! is ever made, changed or removed, and what is refused leaves nothing inside either.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use litesnap::content::ContentHasher;
use litesnap::header::JournalMode;
use litesnap::object::{Description, FORMAT_VERSION, FrameHash};
use litesnap::restore::place::{Found, Permissions, Placed, Placer, Refusal, Root};
use litesnap::timestamp::Timestamp;
use rusqlite::Connection;

use crate::foreign::{Foreign, listing};

pub(crate) const FORCE: Permissions = Permissions { force: true };
pub(crate) const GENTLE: Permissions = Permissions { force: false };

/// A folder to restore into, and beside it one that nobody may touch.
pub(crate) struct Field {
    dir: tempfile::TempDir,
    pub(crate) image: Vec<u8>,
}

impl Field {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["into", "outside"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("outside/precious"), "precious").unwrap();
        let image = image(&dir.path().join("image.db"));
        Self { dir, image }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("into")
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    pub(crate) fn below(&self, permissions: Permissions) -> Placer {
        Placer::open(Root::Below(self.root()), permissions).unwrap()
    }

    pub(crate) fn restore(&self, placer: &Placer, target: impl AsRef<Path>) -> Result<Placed, Refusal> {
        let mut pending = placer.begin(target.as_ref())?;
        pending.write_all(&self.image).unwrap();
        self.end(placer, pending)
    }

    pub(crate) fn end(&self, placer: &Placer, pending: litesnap::restore::place::Pending) -> Result<Placed, Refusal> {
        let (done, answer) = mpsc::channel();
        placer.finish(pending, &described(&self.image), move |result| done.send(result).unwrap());
        placer.flush();
        answer.try_recv().expect("flush returns after the answer")
    }

    /// The target must be refused with `word`, looked at or restored, with force or without; nothing may change by it.
    #[track_caller]
    fn expect_refused(&self, target: impl AsRef<Path>, word: &str) {
        let target = target.as_ref();
        let before = listing(self.dir.path());
        for permissions in [GENTLE, FORCE] {
            let placer = self.below(permissions);
            assert_eq!(placer.look(target).unwrap_err().word, word, "{}", target.display());
            let refusal = placer.begin(target).unwrap_err();
            assert_eq!(refusal.word, word, "{refusal}");
            assert!(!refusal.detail.contains('\n'), "{refusal}");
        }
        assert_eq!(listing(self.dir.path()), before);
    }

    #[track_caller]
    pub(crate) fn expect_restored(&self, path: &Path) {
        assert!(fs::read(path).unwrap() == self.image, "{}", path.display());
        assert_eq!(fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777, 0o640);
    }
}

fn image(path: &Path) -> Vec<u8> {
    Connection::open(path).unwrap().execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES('restored')").unwrap();
    let image = fs::read(path).unwrap();
    fs::remove_file(path).unwrap();
    image
}

/// A description of `image`, owned by this user, with mode 0640.
fn described(image: &[u8]) -> Description {
    let page_size = u32::from(u16::from_be_bytes([image[16], image[17]]));
    let page_count = u32::try_from(image.len()).unwrap() / page_size;
    let (uid, gid, mode) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw(), 0o640);
    let mut hasher = ContentHasher::new(page_size, page_count);
    hasher.update(image);
    Description {
        format: FORMAT_VERSION,
        key: "a/20261121T063339.123Z.db.lz4".into(),
        host: "host".into(),
        path: "/a".into(),
        taken_at: Timestamp::from_ms(1_795_243_000_000).unwrap(),
        page_size,
        page_count,
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

#[test]
fn paths_that_leave_the_folder_are_refused() {
    let field = Field::new();
    let absolute = field.outside().join("x.db");
    for path in [
        "../outside/x.db",
        "..",
        ".",
        "",
        "/",
        "a/../../outside/x.db",
        "a/..",
        "a//b.db",
        "a/",
        "./x.db",
        "a/./b",
        "a\0b",
        "a\0/b",
    ] {
        field.expect_refused(path, "unsafe-path");
    }
    field.expect_refused(absolute, "unsafe-path");
    field.expect_refused(".litesnap-restore-0123456789abcdef", "unsafe-path");
    field.expect_refused("a/.litesnap-aside-0123456789abcdef-wal", "unsafe-path");
}

#[test]
fn links_on_the_way_are_refused() {
    let field = Field::new();
    symlink(field.outside(), field.root().join("link")).unwrap();
    symlink("../outside", field.root().join("relative")).unwrap();
    symlink("nowhere", field.root().join("dangling")).unwrap();
    fs::create_dir(field.root().join("real")).unwrap();
    symlink("real", field.root().join("harmless")).unwrap();
    symlink(field.outside(), field.root().join("real/link")).unwrap();
    for path in ["link/x.db", "relative/x.db", "link/new/x.db", "dangling/x.db", "harmless/x.db", "real/link/x.db"] {
        field.expect_refused(path, "unsafe-path");
    }
}

#[test]
fn what_is_no_file_is_neither_followed_nor_replaced() {
    let field = Field::new();
    symlink(field.outside().join("precious"), field.root().join("link.db")).unwrap();
    symlink(field.outside().join("new"), field.root().join("dangling.db")).unwrap();
    fs::create_dir(field.root().join("folder.db")).unwrap();
    nix::unistd::mkfifo(&field.root().join("pipe.db"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(field.root().join("socket.db")).unwrap();
    for path in ["link.db", "dangling.db", "folder.db", "socket.db"] {
        field.expect_refused(path, "not-a-file");
    }
    // A listing would wait for the other end of the pipe.
    for permissions in [GENTLE, FORCE] {
        assert_eq!(field.below(permissions).begin(Path::new("pipe.db")).unwrap_err().word, "not-a-file");
    }
    fs::remove_file(field.root().join("pipe.db")).unwrap();
    fs::write(field.root().join("file"), "a file where a folder is needed").unwrap();
    field.expect_refused("file/x.db", "not-a-file");
}

#[test]
fn a_device_is_left_alone() {
    let placer = Placer::open(Root::InPlace, FORCE).unwrap();
    assert_eq!(placer.begin(Path::new("/dev/null")).unwrap_err().word, "not-a-file");
    let placer = Placer::open(Root::File("/dev/null".into()), FORCE).unwrap();
    assert_eq!(placer.look(Path::new("")).unwrap_err().word, "not-a-file");
}

#[test]
fn a_folder_swapped_for_a_link_while_it_is_written_leads_nowhere_else() {
    let field = Field::new();
    let placer = field.below(FORCE);
    let mut pending = placer.begin(Path::new("a/b/x.db")).unwrap();
    pending.write_all(&field.image).unwrap();
    fs::rename(field.root().join("a/b"), field.root().join("a/moved")).unwrap();
    symlink(field.outside(), field.root().join("a/b")).unwrap();
    field.end(&placer, pending).unwrap();
    field.expect_restored(&field.root().join("a/moved/x.db"));
    assert_eq!(names(&field.outside()), ["precious"]);
    // The next one meets the link.
    assert_eq!(placer.begin(Path::new("a/b/y.db")).unwrap_err().word, "unsafe-path");
}

#[test]
fn a_target_that_turns_into_something_else_is_refused_and_nothing_is_left() {
    let field = Field::new();
    type Swap = fn(&Field, &Path);
    let swaps: [(&str, Swap, &str); 4] = [
        ("link.db", |field, path| symlink(field.outside().join("precious"), path).unwrap(), "not-a-file"),
        ("folder.db", |_, path| fs::create_dir(path).unwrap(), "not-a-file"),
        ("made.db", |_, path| fs::write(path, "made meanwhile").unwrap(), "target-exists"),
        ("wal.db", |_, path| fs::write(path.with_file_name("wal.db-wal"), "a log").unwrap(), "sidecar"),
    ];
    for (name, swap, word) in swaps {
        let placer = field.below(GENTLE);
        let mut pending = placer.begin(Path::new(name)).unwrap();
        pending.write_all(&field.image).unwrap();
        swap(&field, &field.root().join(name));
        assert_eq!(field.end(&placer, pending).unwrap_err().word, word, "{name}");
    }
    assert_eq!(names(&field.root()), ["folder.db", "link.db", "made.db", "wal.db-wal"]);
    assert_eq!(fs::read(field.outside().join("precious")).unwrap(), b"precious");
}

#[test]
fn a_temporary_file_replaced_by_a_stranger_is_not_published() {
    let field = Field::new();
    let placer = field.below(GENTLE);
    let mut pending = placer.begin(Path::new("x.db")).unwrap();
    pending.write_all(&field.image).unwrap();
    let temp = pending.path();
    fs::remove_file(&temp).unwrap();
    fs::write(&temp, "a stranger's").unwrap();
    assert_eq!(field.end(&placer, pending).unwrap_err().word, "unwritable");
    assert_eq!(names(&field.root()), [temp.file_name().unwrap().to_str().unwrap()], "the stranger's file is his");
}

#[test]
fn what_lies_under_the_temporary_name_is_never_written_to() {
    let field = Field::new();
    let temp = field.below(GENTLE).begin(Path::new("x.db")).unwrap().path();
    assert!(!temp.exists(), "dropped, it is gone");
    let precious = field.outside().join("precious");

    symlink(&precious, &temp).unwrap();
    assert_eq!(field.below(FORCE).begin(Path::new("x.db")).unwrap_err().word, "unsafe-path");
    fs::remove_file(&temp).unwrap();

    fs::hard_link(&precious, &temp).unwrap();
    assert_eq!(field.below(FORCE).begin(Path::new("x.db")).unwrap_err().word, "unsafe-path");
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
    fs::remove_file(&temp).unwrap();

    fs::create_dir(&temp).unwrap();
    assert_eq!(field.below(FORCE).begin(Path::new("x.db")).unwrap_err().word, "unsafe-path");
    fs::remove_dir(&temp).unwrap();

    // A killed run's: removed and made anew, so that who has it open does not see what is restored.
    fs::write(&temp, "half a database").unwrap();
    let spy = fs::File::open(&temp).unwrap();
    field.restore(&field.below(GENTLE), "x.db").unwrap();
    field.expect_restored(&field.root().join("x.db"));
    assert_ne!(spy.metadata().unwrap().ino(), fs::metadata(field.root().join("x.db")).unwrap().ino());
    assert_eq!(names(&field.root()), ["x.db"]);
}

#[test]
fn two_restores_of_one_target_do_not_meet() {
    let field = Field::new();
    let (one, other) = (field.below(FORCE), field.below(FORCE));
    let mut pending = one.begin(Path::new("x.db")).unwrap();
    let refusal = other.begin(Path::new("x.db")).unwrap_err();
    assert_eq!(refusal.word, "in-use");
    assert!(refusal.detail.contains("another restore"), "{refusal}");
    pending.write_all(&field.image).unwrap();
    field.end(&one, pending).unwrap();
    field.expect_restored(&field.root().join("x.db"));
    // By another way to the same folder.
    let in_place = Placer::open(Root::InPlace, FORCE).unwrap();
    let pending = in_place.begin(&field.root().join("y.db")).unwrap();
    assert_eq!(field.below(FORCE).begin(Path::new("y.db")).unwrap_err().word, "in-use");
    drop(pending);
    field.restore(&field.below(FORCE), "y.db").unwrap();
}

#[test]
fn two_databases_of_one_run_for_one_target_clash_whatever_became_of_the_first() {
    let field = Field::new();
    symlink(field.root(), field.dir.path().join("alias")).unwrap();
    let placer = Placer::open(Root::InPlace, FORCE).unwrap();
    drop(placer.begin(&field.root().join("x.db")).unwrap());
    for again in [field.root().join("x.db"), field.dir.path().join("alias/x.db")] {
        assert_eq!(placer.begin(&again).unwrap_err().word, "clash");
        assert_eq!(placer.keep(&again).unwrap_err().word, "clash");
    }
    // One would be the other's sidecar, in either order.
    for (first, second) in [("a.db", "a.db-journal"), ("b.db-wal", "b.db")] {
        field.restore(&placer, field.root().join(first)).unwrap();
        assert_eq!(placer.begin(&field.root().join(second)).unwrap_err().word, "clash", "{second}");
    }
    field.restore(&placer, field.root().join("captains-journal")).unwrap();
    // And in another run, where the first is found in the folder.
    let next = field.below(FORCE);
    assert_eq!(next.begin(Path::new("a.db-journal")).unwrap_err().word, "sidecar");
    assert_eq!(next.begin(Path::new("b.db")).unwrap_err().word, "sidecar");
    field.expect_restored(&field.root().join("b.db-wal"));
}

#[test]
fn unusual_names_are_restored() {
    let field = Field::new();
    let placer = field.below(GENTLE);
    let longest = "n".repeat(255);
    let bytes = OsStr::from_bytes(b"caf\xe9 \n\xff.db");
    for name in [Path::new(&longest), Path::new(bytes), Path::new("...db"), Path::new("..a/b..")] {
        field.restore(&placer, name).unwrap();
        field.expect_restored(&field.root().join(name));
    }
    let too_long = "n".repeat(256);
    assert_eq!(placer.begin(Path::new(&too_long)).unwrap_err().word, "unwritable");
    assert_eq!(placer.begin(&Path::new(&too_long).join("x.db")).unwrap_err().word, "unwritable");
}

#[test]
fn the_folder_itself_may_be_a_link_and_is_made_on_first_use_only() {
    let field = Field::new();
    let link = field.dir.path().join("link");
    symlink(field.root(), &link).unwrap();
    let placer = Placer::open(Root::Below(link), GENTLE).unwrap();
    field.restore(&placer, "a/x.db").unwrap();
    field.expect_restored(&field.root().join("a/x.db"));

    let new = field.dir.path().join("new/er");
    let placer = Placer::open(Root::Below(new.clone()), GENTLE).unwrap();
    assert_eq!(placer.look(Path::new("a/x.db")).unwrap(), Found::Nothing);
    assert_eq!(placer.permit(Path::new("a/x.db")).unwrap(), Found::Nothing);
    assert!(!new.parent().unwrap().exists());
    field.restore(&placer, "a/x.db").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&new), mode(&new.join("a"))), (0o700, 0o750));
}

#[test]
fn a_database_in_use_is_replaced_only_by_force() {
    let field = Field::new();
    for (name, mode) in [("wal.db", "wal"), ("rollback.db", "delete")] {
        let path = field.root().join(name);
        let mut app = Foreign::open(&path, mode);
        app.exec("CREATE TABLE t(x)");
        app.exec("BEGIN");
        app.exec("SELECT * FROM t");
        let refusal = field.below(GENTLE).begin(Path::new(name)).unwrap_err();
        assert_eq!(refusal.word, "in-use");
        assert!(refusal.detail.contains(&format!("process {}", app.pid())), "{refusal}");
        app.exec("COMMIT");
        app.exec("INSERT INTO t VALUES(1)");
        field.restore(&field.below(FORCE), name).unwrap();
        field.expect_restored(&path);
        app.kill();
    }
    assert_eq!(names(&field.root()), ["rollback.db", "wal.db"], "no sidecars, nothing set aside");
}

#[test]
fn the_sidecars_of_what_is_replaced_are_not_applied_to_what_replaces_it() {
    let field = Field::new();
    let path = field.root().join("x.db");
    let mut app = Foreign::open(&path, "wal");
    app.exec("CREATE TABLE other(y)");
    app.exec("INSERT INTO other VALUES(1)");
    app.kill();
    assert!(fs::metadata(field.root().join("x.db-wal")).unwrap().len() > 0);
    let before = listing(&field.root());
    assert_eq!(field.below(GENTLE).begin(Path::new("x.db")).unwrap_err().word, "target-exists");
    // Also without the database itself.
    fs::rename(&path, field.dir.path().join("kept")).unwrap();
    let refusal = field.below(GENTLE).begin(Path::new("x.db")).unwrap_err();
    assert_eq!(refusal.word, "sidecar", "{refusal}");
    fs::rename(field.dir.path().join("kept"), &path).unwrap();
    let without_ctime = |text: &str| text.split(" ctime").next().unwrap().to_owned();
    for (file, seen) in listing(&field.root()) {
        assert_eq!(without_ctime(&seen), without_ctime(&before[&file]), "refusing changes nothing");
    }

    field.restore(&field.below(FORCE), "x.db").unwrap();
    field.expect_restored(&path);
    assert_eq!(names(&field.root()), ["x.db"]);
    let shown: String = Connection::open(&path).unwrap().query_row("SELECT x FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(shown, "restored");
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
