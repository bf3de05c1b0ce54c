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
        let (main, control) = (self.main(), Control::default());
        let how = How { clock: &self.clock, memory_max: self.memory_max, size_max: u64::MAX, control: &control };
        read(&main, &File::open(&main).unwrap(), None, &how, at)
    }

    /// Reads it while `steps` are taken at their moments, and returns why it was given up.
    #[track_caller]
    fn doubt(&self, steps: &[(Moment, &str)]) -> Option<Doubt> {
        let actor = RefCell::new(Actor::on(&self.main()));
        let mtime = || std::fs::metadata(self.main()).unwrap().modified().unwrap();
        for (_, line) in steps.iter().take_while(|(moment, _)| *moment == BEFORE) {
            actor.borrow_mut().act(line);
        }
        let before = mtime();
        let read = self.read(|now| {
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

#[test]
fn what_has_sidecars_with_content_is_not_at_rest() {
    let place = Place::new("CREATE TABLE t(x)");
    for (suffix, content, doubt) in [
        ("-wal", "", None),
        ("-wal", "frames", Some(Doubt::Sidecar)),
        ("-journal", "", None),
        ("-journal", "pages", Some(Doubt::Sidecar)),
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

/// Each byte as it is, in memory and in a temporary copy, and the header's word on the rest.
#[test]
fn a_large_one_goes_to_its_copy_and_is_the_same() {
    let place = Place { memory_max: 1 << 20, ..Place::new(THREE_MIB) };
    let temp = tempfile::tempdir().unwrap();
    let space = TempSpace::recover(temp.path()).unwrap();
    let go_on = std::sync::atomic::AtomicBool::new(false);
    let room = space.reserve(4 << 20, &go_on).unwrap();
    let (main, bytes) = (place.main(), std::fs::read(place.main()).unwrap());
    let file = File::open(&main).unwrap();
    let (going, stopped) = (Control::default(), Control::default());
    stopped.stop(15);
    let how = |control| How { clock: &place.clock, memory_max: place.memory_max, size_max: u64::MAX, control };
    let large = read(&main, &file, Some(&room), &how(&going), |_| {}).unwrap();
    assert_eq!((large.bytes, std::fs::read(room.path()).unwrap()), (None, bytes.clone()));
    assert_eq!(large.header.size_bytes(), bytes.len() as u64);
    assert!(
        matches!(read(&main, &file, None, &how(&going), |_| {}), Err(NotRead::Doubt(Doubt::Moved))),
        "no room for it"
    );
    let stopped = read(&main, &file, Some(&room), &how(&stopped), |_| {});
    assert!(matches!(stopped, Err(NotRead::Failed(_))), "a stop is obeyed");
    let small = Place { memory_max: 8 << 20, ..place }.read(|_| {}).unwrap();
    assert_eq!(small.bytes, Some(bytes));
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
                let how = super::super::sqlite::How {
                    busy_timeout: std::time::Duration::ZERO,
                    memory_max: 8 << 20,
                    temp: &space,
                    control: &control,
                    wal_mode: mode == "wal",
                };
                let through = super::super::sqlite::copy(&place.main(), None, &how).unwrap();
                let header = direct.header;
                let hash = |bytes: &[u8]| {
                    let mut hasher = crate::content::ContentHasher::new(header.page_size, header.page_count);
                    hasher.update(bytes);
                    hasher.finish(0, 0, 0).unwrap()
                };
                let super::super::Image::Memory(image) = &through.image else { panic!("it fits into memory") };
                assert_eq!(hash(&direct.bytes.unwrap()), hash(image), "{sql}");
                assert_eq!(Some(header.schema_cookie), through.schema_version);
                assert_eq!((header.page_size, header.page_count), (through.page_size, through.page_count));
            }
        }
    }
}
