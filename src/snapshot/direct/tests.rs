//! What each look is for: somebody acts between two of them, in a process of his own, and the read must not be taken for
//! one of a database at rest.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use rusqlite::Connection;

use super::super::temp::TempSpace;
use super::*;
use crate::clock::{FixedClock, SECOND, SystemClock};
use crate::control::Control;

/// Does as told, one line each, to the database in `sys.argv[1]`. `lock` and `unlock` are those of an exclusive writer.
/// `dirty` makes the file's last page a dirty one of the page cache, which moves its mtime; `land N` then fills it with bytes
/// N, which moves nothing: a write that lands behind its mtime, as a stalled one does.
const ACTOR: &str = r#"
import fcntl, mmap, os, sqlite3, sys
path = sys.argv[1]
file = open(path, "r+b")
memory = mmap.mmap(file.fileno(), 0)
print("ready", flush=True)
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word in ("lock", "unlock"):
        fcntl.lockf(file, fcntl.LOCK_EX if word == "lock" else fcntl.LOCK_UN, 512, 0x40000000)
    elif word == "dirty":
        memory[-1:] = memory[-1:]
    elif word == "land":
        memory[-100:] = bytes([int(rest)]) * 100
    elif word == "sql":
        c = sqlite3.connect(path, isolation_level=None)
        c.execute("PRAGMA synchronous=off")
        for statement in rest.split(";"): c.execute(statement).fetchall()
        c.close()
    elif word == "replace":
        os.rename(rest, path)
    print("done", flush=True)
"#;

struct Actor {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Actor {
    fn on(path: &Path) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", ACTOR])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("these tests need python3");
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut actor = Self { child, out };
        assert_eq!(actor.hear(), "ready");
        actor
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn act(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
        assert_eq!(self.hear(), "done", "{line}");
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A folder with one database, `a.db`, as `sql` makes it; read under a clock a minute ahead, so that its stamps are old.
struct Place {
    dir: tempfile::TempDir,
    clock: FixedClock,
    memory_max: u64,
}

/// Three chunks: what is changed in mid-read is torn.
const THREE_MIB: &str = "CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(3 << 20))";

impl Place {
    fn new(sql: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = FixedClock::new(SystemClock.now() + 60 * SECOND);
        let place = Self { dir, clock, memory_max: 8 << 20 };
        place.make("a.db", sql);
        place
    }

    fn make(&self, name: &str, sql: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        path
    }

    fn main(&self) -> PathBuf {
        self.dir.path().join("a.db")
    }

    fn read(&self, at: impl Fn(Moment)) -> Result<Read, NotRead> {
        self.read_into(None, None, &Control::default(), at)
    }

    fn read_into(
        &self,
        room: Option<&TempCopy>,
        known: Option<ContentHash>,
        control: &Control,
        at: impl Fn(Moment),
    ) -> Result<Read, NotRead> {
        let (main, clock) = (self.main(), &self.clock);
        let how = How { clock, memory_max: self.memory_max, size_max: u64::MAX, known, control };
        read(&main, &File::open(&main).unwrap(), room, &how, at)
    }

    /// Reads it while `steps` are taken at their moments, and returns why it was given up.
    #[track_caller]
    fn doubt(&self, steps: &[(Moment, &str)]) -> Option<Doubt> {
        let temp = tempfile::tempdir().unwrap();
        let room = TempSpace::recover(temp.path()).unwrap().reserve(8 << 20, Control::default().stop_flag()).unwrap();
        let actor = RefCell::new(Actor::on(&self.main()));
        let mtime = || std::fs::metadata(self.main()).unwrap().modified().unwrap();
        for (_, line) in steps.iter().take_while(|(moment, _)| *moment == BEFORE) {
            actor.borrow_mut().act(line);
        }
        let before = mtime();
        let read = self.read_into(Some(&room), None, &Control::default(), |now| {
            for (_, line) in steps.iter().filter(|(moment, _)| *moment == now) {
                actor.borrow_mut().act(line);
            }
        });
        let lands = steps.iter().any(|(_, line)| line.starts_with("land"));
        assert!(!lands || mtime() == before, "the kernel wrote back in between: nothing is shown");
        match read {
            Ok(_) => None,
            Err(NotRead::Doubt(doubt)) => Some(doubt),
            Err(NotRead::Failed(failure)) => panic!("{failure}"),
        }
    }
}

/// Before anything is looked at.
const BEFORE: Moment = Moment::Got(0);
const MIDWAY: Moment = Moment::Got(1 << 20);

#[test]
fn what_is_at_rest_is_read() {
    assert_eq!(Place::new(THREE_MIB).doubt(&[]), None);
}

/// The first look at the locks: a writer whose write lands behind its mtime while he holds his lock, and who is done before
/// the second look.
#[test]
fn a_write_that_lands_after_its_mtime_is_no_rest() {
    let steps = [(BEFORE, "dirty"), (BEFORE, "lock"), (MIDWAY, "land 7"), (Moment::Complete, "unlock")];
    assert_eq!(Place::new(THREE_MIB).doubt(&steps), Some(Doubt::Locked));
}

/// The second look at the locks: a writer who began after the first, and whose stamps have not moved.
#[test]
fn a_writer_who_is_in_the_middle_at_the_end_is_no_rest() {
    let steps = [(BEFORE, "dirty"), (Moment::Stamped, "lock"), (MIDWAY, "land 7")];
    assert_eq!(Place::new(THREE_MIB).doubt(&steps), Some(Doubt::Locked));
}

/// The second stamps: a whole transaction between two chunks, over before the second look at the locks.
#[test]
fn a_commit_between_two_chunks_is_no_rest() {
    let place = Place::new(THREE_MIB);
    let sql = "sql UPDATE t SET x=randomblob(3 << 20)";
    assert_eq!(place.doubt(&[(MIDWAY, sql)]), Some(Doubt::Moved));
    assert_eq!(place.doubt(&[(MIDWAY, "sql PRAGMA journal_mode=wal; DELETE FROM t")]), Some(Doubt::Moved));
}

/// The second stamps go by path, and the descriptor is compared: a file moved over it, late or early.
#[test]
fn a_file_moved_over_it_is_no_rest() {
    for moment in [Moment::Probed, Moment::Stamped, MIDWAY, Moment::Complete] {
        let place = Place::new(THREE_MIB);
        let other = place.make("b.db", THREE_MIB);
        let line = format!("replace {}", other.display());
        assert_eq!(place.doubt(&[(moment, &line)]), Some(Doubt::Moved), "{moment:?}");
    }
}

/// Racy: how far a young stamp's write has got cannot be told.
#[test]
fn a_young_stamp_is_no_rest() {
    let now = SystemClock.now();
    for (age, doubt) in [(-SECOND, true), (0, true), (SECOND, true), (60 * SECOND, false)] {
        let place = Place { clock: FixedClock::new(now + age), ..Place::new("CREATE TABLE t(x)") };
        assert_eq!(place.doubt(&[]), doubt.then_some(Doubt::Young), "stamps {age} ns old");
    }
}

/// A journal whose first byte is zero is what a commit in `journal_mode=PERSIST` leaves, and SQLite passes over it.
#[test]
fn what_has_sidecars_with_content_is_not_at_rest() {
    let place = Place::new("CREATE TABLE t(x)");
    for (suffix, content, doubt) in [
        ("-wal", "", None),
        ("-wal", "frames", Some(Doubt::Sidecar)),
        ("-wal", "\0frames", Some(Doubt::Sidecar)),
        ("-journal", "", None),
        ("-journal", "pages", Some(Doubt::Sidecar)),
        ("-journal", "\0pages", None),
    ] {
        let path = crate::stamps::sidecar(&place.main(), suffix);
        std::fs::write(&path, content).unwrap();
        let young = place.read(|_| {}).err();
        std::fs::remove_file(path).unwrap();
        assert_eq!(
            young.map(|e| if let NotRead::Doubt(doubt) = e { doubt } else { panic!("{e:?}") }),
            doubt,
            "{suffix} {content:?}"
        );
    }
}

/// The journal that a database in `journal_mode=PERSIST` keeps: spent after each commit, and no longer once somebody writes.
#[test]
fn a_spent_journal_is_passed_over_until_a_transaction_uses_it() {
    let persist = format!("PRAGMA journal_mode=persist; {THREE_MIB}; UPDATE t SET x=randomblob(3 << 20)");
    let sql = "sql PRAGMA journal_mode=persist; UPDATE t SET x=randomblob(3 << 20)";
    let place = Place::new(&persist);
    let journal = crate::stamps::sidecar(&place.main(), "-journal");
    assert!(std::fs::metadata(&journal).unwrap().len() > 4096, "it is kept");
    assert_eq!(place.doubt(&[]), None);
    assert_eq!(place.doubt(&[(MIDWAY, sql)]), Some(Doubt::Moved));
    assert_eq!(place.doubt(&[(Moment::Stamped, sql)]), Some(Doubt::Moved));
    // Its writer was killed in mid-transaction: pages of it are in the main file.
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes[..8].copy_from_slice(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7");
    std::fs::write(&journal, bytes).unwrap();
    assert_eq!(place.doubt(&[]), Some(Doubt::Sidecar));
    // What is no file, and what is no regular one, is not waited for.
    std::fs::remove_file(&journal).unwrap();
    std::fs::create_dir(&journal).unwrap();
    assert_eq!(place.doubt(&[]), Some(Doubt::Unreadable));
}

#[test]
fn what_only_sqlite_can_judge_is_left_to_it() {
    type Damage = fn(&mut Vec<u8>);
    let rows: &[(&str, Damage)] = &[
        ("an old writer left its size stale", |b| b[27] ^= 1),
        ("it is longer than it says", |b| b.extend([0; 4096])),
        ("it is shorter", |b| b.truncate(4096)),
        ("its pages have no room", |b| b[20] = 255),
        ("its payload fractions are not the format's", |b| b[21] = 65),
        ("its text encoding is unknown", |b| b[59] = 9),
        ("it is of another version", |b| b[18] = 3),
        ("its schema is of a format to come", |b| b[47] = 5),
        ("its schema is no table", |b| b[100] = 0),
        ("it is no database", |b| b[0] = 0),
    ];
    for (name, damage) in rows {
        let place = Place::new("PRAGMA page_size=512; CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(5000))");
        let small = Place::new("PRAGMA page_size=4096; CREATE TABLE t(x)");
        for place in [small, place] {
            let mut bytes = std::fs::read(place.main()).unwrap();
            if bytes[16..18] == [16, 0] && (*name).contains("room") {
                continue; // A large page has room whatever is reserved.
            }
            damage(&mut bytes);
            std::fs::write(place.main(), bytes).unwrap();
            assert_eq!(place.doubt(&[]), Some(Doubt::Header), "{name}");
        }
    }
}

#[test]
fn a_file_with_two_names_is_left_to_sqlite() {
    let place = Place::new("CREATE TABLE t(x)");
    std::fs::hard_link(place.main(), place.dir.path().join("b.db")).unwrap();
    assert_eq!(place.doubt(&[]), Some(Doubt::Linked));
}

/// The bytes of what is in memory.
fn bytes(read: &Read) -> &[u8] {
    let Content::Memory(bytes) = &read.content else { panic!("it fits into memory: {read:?}") };
    bytes
}

/// A database that does not fit into memory, and room for its copy.
fn large(sql: &str) -> (Place, TempCopy, tempfile::TempDir) {
    let place = Place { memory_max: 1 << 20, ..Place::new(sql) };
    let temp = tempfile::tempdir().unwrap();
    let space = TempSpace::recover(temp.path()).unwrap();
    let room = space.reserve(4 << 20, Control::default().stop_flag()).unwrap();
    (place, room, temp)
}

/// Each byte as it is, in memory and compressed in a temporary copy, and the header's word on the rest.
#[test]
fn a_large_one_is_compressed_into_its_copy_and_is_the_same() {
    let (place, room, _temp) = large(THREE_MIB);
    let file = std::fs::read(place.main()).unwrap();
    let read = place.read_into(Some(&room), None, &Control::default(), |_| {}).unwrap();
    let Content::Large(Taken { content_hash, frame: Some(frame) }) = read.content else { panic!("{read:?}") };
    let whole = crate::object::encode_frame(&file);
    assert!(std::fs::read(room.path()).unwrap() == whole.bytes);
    assert_eq!((frame.size, frame.hash), (whole.bytes.len() as u64, whole.hash));
    assert_eq!(read.header.size_bytes(), file.len() as u64);
    let mut hasher = crate::content::ContentHasher::new(read.header.page_size, read.header.page_count);
    hasher.update(&file);
    assert_eq!(hasher.finish(read.stat.uid, read.stat.gid, read.stat.mode), Ok(content_hash));
    let small = Place { memory_max: 8 << 20, ..place }.read(|_| {}).unwrap();
    assert_eq!(bytes(&small), file);
}

#[test]
fn a_large_one_without_room_is_not_read_and_a_stop_is_obeyed_within_a_block() {
    let (place, room, _temp) = large(THREE_MIB);
    let read = |room, control: &Control, at: &dyn Fn(Moment)| place.read_into(room, None, control, at);
    let nowhere = read(None, &Control::default(), &|_| {});
    assert!(matches!(nowhere, Err(NotRead::Doubt(Doubt::Moved))), "{nowhere:?}");
    let (control, last) = (Control::default(), RefCell::new(BEFORE));
    let stopped = read(Some(&room), &control, &|now| {
        last.replace(now);
        if now == MIDWAY {
            control.stop(15);
        }
    });
    assert!(matches!(stopped, Err(NotRead::Failed(_))), "{stopped:?}");
    assert_eq!(last.into_inner(), MIDWAY);
}

/// Content that is known already is hashed, between the same looks, and nothing is written.
#[test]
fn a_large_one_that_is_as_it_was_is_not_compressed() {
    let (place, room, _temp) = large(THREE_MIB);
    let read = |known, at: &dyn Fn(Moment)| place.read_into(Some(&room), known, &Control::default(), at);
    let Content::Large(first) = read(None, &|_| {}).unwrap().content else { panic!() };
    room.empty().unwrap();
    let known = Some(first.content_hash);
    let Content::Large(again) = read(known, &|_| {}).unwrap().content else { panic!() };
    assert_eq!((again.content_hash, again.frame), (first.content_hash, None));
    assert!(!room.path().exists());
    // Another content than the known one: compressed after all.
    let Content::Large(other) = read(Some(ContentHash([7; 16])), &|_| {}).unwrap().content else { panic!() };
    assert_eq!((other.content_hash, other.frame), (first.content_hash, first.frame));
    // Known, but somebody came in between: no word of it is believed.
    let actor = RefCell::new(Actor::on(&place.main()));
    let moved = read(known, &|now| {
        if now == Moment::Complete {
            actor.borrow_mut().act("sql UPDATE t SET x=randomblob(3 << 20)");
        }
    });
    assert!(matches!(moved, Err(NotRead::Doubt(Doubt::Moved))), "{moved:?}");
}

/// The same looks guard a large one: whoever acts while it is compressed is noticed.
#[test]
fn a_large_one_that_is_written_meanwhile_is_no_rest() {
    let other = "sql UPDATE t SET x=randomblob(3 << 20)";
    let landed: &[(Moment, &str)] =
        &[(BEFORE, "dirty"), (BEFORE, "lock"), (MIDWAY, "land 7"), (Moment::Complete, "unlock")];
    let in_the_middle: &[(Moment, &str)] = &[(BEFORE, "dirty"), (Moment::Stamped, "lock"), (MIDWAY, "land 7")];
    for (steps, doubt) in [(landed, Doubt::Locked), (in_the_middle, Doubt::Locked), (&[(MIDWAY, other)], Doubt::Moved)]
    {
        assert_eq!(large(THREE_MIB).0.doubt(steps), Some(doubt), "{steps:?}");
    }
}

/// One that is written need not be read to its end: after 64 MiB its stamps are looked at.
#[test]
fn a_very_large_one_that_is_written_is_given_up_on_the_way() {
    const MANY_MIB: &str = "CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(70 << 20))";
    let (place, room, _temp) = large(MANY_MIB);
    let (actor, last) = (RefCell::new(Actor::on(&place.main())), RefCell::new(BEFORE));
    let moved = place.read_into(Some(&room), None, &Control::default(), |now| {
        last.replace(now);
        if now == MIDWAY {
            actor.borrow_mut().act("sql INSERT INTO t VALUES(1)");
        }
    });
    assert!(matches!(moved, Err(NotRead::Doubt(Doubt::Moved))), "{moved:?}");
    assert_eq!(last.into_inner(), Moment::Got(64 << 20));
}

/// What SQLite's own reader would make of it: the same content hash, whatever the format.
#[test]
fn both_ways_of_reading_agree() {
    let (temp, control) = (tempfile::tempdir().unwrap(), Control::default());
    let space: Arc<TempSpace> = TempSpace::recover(temp.path()).unwrap();
    for page_size in [512, 1024, 4096, 65536] {
        for mode in ["delete", "wal"] {
            for vacuum in ["none", "full", "incremental"] {
                let sql = format!(
                    "PRAGMA page_size={page_size}; PRAGMA auto_vacuum={vacuum}; PRAGMA journal_mode={mode}; \
                     PRAGMA user_version=7; CREATE TABLE t(x); CREATE INDEX i ON t(x); \
                     WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<500) \
                     INSERT INTO t SELECT randomblob(i) FROM n; DELETE FROM t WHERE rowid%3=0"
                );
                let place = Place::new(&sql);
                let direct = place.read(|_| {}).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
                let how = |memory_max, by_page| super::super::sqlite::How {
                    busy_timeout: std::time::Duration::ZERO,
                    memory_max,
                    temp: &space,
                    control: &control,
                    stat: &direct.stat,
                    known: None,
                    by_page,
                    wal_mode: mode == "wal",
                };
                let through = super::super::sqlite::copy(&place.main(), None, &how(8 << 20, true)).unwrap();
                let header = direct.header;
                let hash = |bytes: &[u8]| {
                    let mut hasher = crate::content::ContentHasher::new(header.page_size, header.page_count);
                    hasher.update(bytes);
                    hasher.finish(direct.stat.uid, direct.stat.gid, direct.stat.mode).unwrap()
                };
                let super::super::Image::Memory(image) = &through.image else { panic!("it fits into memory") };
                assert_eq!(hash(bytes(&direct)), hash(image), "{sql}");
                // As a large one, by page and by a raw copy; and without room yet, as one that has grown.
                for by_page in [true, false] {
                    let large = super::super::sqlite::copy(&place.main(), None, &how(0, by_page)).unwrap();
                    assert_eq!(large.content_hash, Some(hash(image)), "{sql}");
                    let told = (large.schema_version, large.sqlite_version, large.page_size, large.page_count);
                    let same = (through.schema_version, through.sqlite_version, through.page_size, through.page_count);
                    assert_eq!(told, same, "{sql}");
                }
                assert_eq!(Some(header.schema_cookie), through.schema_version);
                assert_eq!((header.page_size, header.page_count), (through.page_size, through.page_count));
            }
        }
    }
}
