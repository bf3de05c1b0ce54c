//! SIGKILL at any moment: no change is lost, nothing stays beside a database, and work done is not done again.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use litesnap::clock::{Clock, SystemClock};
use rusqlite::Connection;

use crate::foreign::{Foreign, WRITER, check_committed, sidecars, stop_writer};
use crate::place::{Place, Ran, Running, age, eventually};

/// A loop in the background; its log goes to a file, so that it can grow. Killed with SIGKILL when dropped.
struct Loop(std::process::Child);

impl Loop {
    fn start(place: &Place, interval: &str, more: &[&str]) -> Self {
        let log = File::options().create(true).append(true).open(place.path().join("log")).unwrap();
        let mut command = place.replicate("data/**/*.db", &["--interval", interval]);
        Self(command.args(more).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    fn kill(self) {}
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A generator of numbers; LITESNAP_TEST_SEED gives a seed that was printed before.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let now = SystemClock.now().cast_unsigned();
        Self(std::env::var("LITESNAP_TEST_SEED").map_or(now, |seed| seed.parse().unwrap()) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Fails if any snapshot of `name` is not a commit of its writer, or a later one shows an earlier commit; returns the
/// newest one's number.
#[track_caller]
fn check_history(place: &Place, name: &str) -> i64 {
    let seen: Vec<i64> =
        place.objects_of(name).iter().map(|o| check_committed(&place.open_image(&o.image()))).collect();
    assert!(seen.is_sorted(), "{name}: {seen:?}");
    *seen.last().unwrap_or_else(|| panic!("no snapshot of {name}"))
}

/// Databases that get one commit around each kill and then none: what was not stored when it came must not count as
/// stored afterwards. Half of them are in WAL mode, held open.
struct Steps {
    paths: Vec<PathBuf>,
    open: Vec<Connection>,
    rows: Vec<Vec<i64>>,
}

impl Steps {
    fn make(place: &Place, count: usize) -> Self {
        let mode = |n: usize| if n.is_multiple_of(2) { "wal" } else { "delete" };
        let paths: Vec<PathBuf> = (0..count).map(|n| place.make(&format!("step/{n}.db"), mode(n), 1)).collect();
        let open = paths.iter().step_by(2).map(|path| Connection::open(path).unwrap()).collect();
        Self { paths, open, rows: vec![vec![1]; count] }
    }

    fn commit(&mut self, n: usize, value: i64) {
        let insert = |conn: &Connection| {
            conn.busy_timeout(Duration::from_secs(5)).unwrap();
            conn.execute("INSERT INTO t VALUES(?1)", [value]).unwrap();
        };
        match n % 2 {
            0 => insert(&self.open[n / 2]),
            _ => insert(&Connection::open(&self.paths[n]).unwrap()),
        }
        self.rows[n].push(value);
    }

    fn check(&self, place: &Place) {
        for (n, rows) in self.rows.iter().enumerate() {
            assert_eq!(place.newest_rows(&format!("step/{n}.db")), *rows, "step/{n}.db: a commit is not stored");
        }
    }
}

/// T9, T10, T12, T14, T18, T53: killed again and again while foreign applications write, some through connections that
/// stay, some through one for each commit, beside databases at rest that are read over and over.
#[test]
fn killed_at_any_moment_it_loses_nothing_and_leaves_nothing_behind() {
    let kills: i64 = std::env::var("LITESNAP_TEST_KILLS").map_or(12, |n| n.parse().unwrap());
    let mut random = Random::new();
    println!("LITESNAP_TEST_SEED={}", random.0);
    let place = Place::new();
    let resting: Vec<PathBuf> = (0..150).map(|n| place.make(&format!("rest/{n}.db"), "wal", 200)).collect();
    let mut steps = Steps::make(&place, 30);
    let kinds = ["wal,5,1", "wal,5,0", "delete,5,0"];
    let written: Vec<(PathBuf, &str)> =
        (0..24).map(|n| (place.db(&format!("app/{n}.db")), kinds[n % kinds.len()])).collect();
    let args: Vec<&str> = written.iter().flat_map(|(path, kind)| [path.to_str().unwrap(), kind]).skip(1).collect();
    let writer = Foreign::start(WRITER, &written[0].0, &args);

    let (mut left, mut busy) = (0, 0);
    for kill in 0..kills {
        resting.iter().for_each(|path| age(path));
        let running = Loop::start(&place, "10ms", &[]);
        std::thread::park_timeout(Duration::from_millis(5 + random.below(150)));
        (0..random.below(30)).for_each(|n| steps.commit(usize::try_from(n).unwrap(), kill));
        std::thread::park_timeout(Duration::from_millis(random.below(100)));
        running.kill();
        left += usize::from(!sidecars(&place.data().join("rest")).is_empty());
        // The next start removes what the killed one left, and cleans up behind itself.
        let ran = place.once();
        assert!(matches!(ran.code, Some(0 | 1)), "kill {kill}: {ran:#?}");
        busy += ran.count("failed");
        assert_eq!(sidecars(&place.data().join("rest")), [] as [PathBuf; 0], "kill {kill}: {}", ran.err);
        steps.check(&place);
    }
    let last = stop_writer(writer, written.len());
    assert_eq!(place.once().expect_code(0).count("failed"), 0);
    for ((path, kind), written) in written.iter().zip(last) {
        let name = format!("app/{}", path.file_name().unwrap().to_str().unwrap());
        assert_eq!(check_history(&place, &name), written.last, "{name} ({kind}): its last commit is not stored");
    }
    for n in 0..resting.len() {
        // Its content never changes, its stamps do: stored again if the first kill came between store and record, and twice
        // at most after each kill, for what the killed one may have stored and not recorded: records are told apart by seconds.
        let stored = i64::try_from(place.objects_of(&format!("rest/{n}.db")).len()).unwrap();
        assert!((1..=2 + 2 * kills).contains(&stored), "{n}: {stored} snapshots");
    }
    place.objects().iter().for_each(|object| drop(object.image()));
    steps.open.clear();
    assert_eq!(sidecars(&place.data()), [] as [PathBuf; 0]);
    println!("{kills} kills, {left} of them in the middle of a read, {busy} busy; {} snapshots", place.objects().len());
}

/// Starts the binary over `path` and kills it as soon as it has the database open.
fn kill_in_the_middle(command: Command, path: &Path) {
    let shm = litesnap::stamps::sidecar(path, "-shm");
    let running = Running::start(command);
    // Made, then given to the database's owner, then given a size: before that it may still be ours.
    while fs::metadata(&shm).map_or(0, |m| m.len()) == 0 {
        std::hint::spin_loop();
    }
    drop(running);
    assert!(shm.exists(), "it was to be killed while it reads");
}

/// T18, T53: the sidecars a killed process leaves belong to the database's owner, and the next start removes them,
/// whatever the state directory is called.
#[test]
fn what_a_process_killed_in_the_middle_of_a_read_left_is_removed_at_the_next_start() {
    for state in ["state", "my.copy/state"] {
        let place = Place::new();
        let path = place.make_large("a.db");
        let is_root = nix::unistd::geteuid().is_root();
        if is_root {
            chown(&path, Some(1234), Some(5678)).unwrap();
        }
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let command = || {
            let mut command = place.litesnap(&["replicate", "data/*.db", "--once", "--store", "store"]);
            command.arg("--state-dir").arg(state);
            command
        };
        kill_in_the_middle(command(), &path);
        let main = fs::metadata(&path).unwrap();
        for left in sidecars(&place.data()) {
            let m = fs::metadata(&left).unwrap();
            assert_eq!((m.uid(), m.gid(), m.mode()), (main.uid(), main.gid(), main.mode()), "{}", left.display());
        }
        // A start that does not read it: what goes now goes because it was noted.
        age(&path);
        let mut elsewhere = command();
        elsewhere.args(["--exclude", "a.db", "--allow-empty"]);
        Ran::from(elsewhere.output().unwrap()).expect_code(0);
        assert_eq!(sidecars(&place.data()), [] as [PathBuf; 0], "{state}");
        assert_eq!(Ran::from(command().output().unwrap()).expect_code(0).count("stored"), 1);
    }
}

/// T53: what was left is in use by now: it is the application's, and it stays.
#[test]
fn what_was_left_and_is_in_use_by_now_stays() {
    let place = Place::new();
    let path = place.make_large("a.db");
    kill_in_the_middle(place.replicate("data/*.db", &["--once"]), &path);
    let mut app = Foreign::open(&path, "wal");
    app.exec("INSERT INTO t VALUES(2)");
    let ran = place.replicate("data/*.db", &["--once"]).output().map(Ran::from).unwrap().expect_code(0);
    assert!(ran.err.contains("in use"), "{}", ran.err);
    assert_eq!(sidecars(&place.data()).len(), 2);
    app.exec("INSERT INTO t VALUES(3)");
    app.close();
    assert_eq!(sidecars(&place.data()), [] as [PathBuf; 0]);
    let conn = Connection::open(&path).unwrap();
    let n: i64 = conn.query_row("SELECT count(*) FROM t", [], |r| r.get(0)).unwrap();
    assert_eq!(n, 4, "no row of the application is lost");
}

/// T46, T47: a temporary copy of a large database, left by a kill.
#[test]
fn temporary_copies_left_by_a_kill_are_removed_at_the_next_start() {
    let place = Place::new();
    place.make_large("a.db");
    let running = Loop::start(&place, "10s", &["--limit-upload", "1KiB/s"]);
    assert!(eventually(Duration::from_secs(20), || place.temp_copies() == 1));
    running.kill();
    assert_eq!(place.temp_copies(), 1);
    let ran = place.replicate("data/**/*.db", &["--once", "--exclude", "a.db", "--allow-empty"]).output().unwrap();
    Ran::from(ran).expect_code(0);
    assert_eq!(place.temp_copies(), 0);
    assert_eq!(place.once().expect_code(0).count("stored"), 1);
    assert_eq!(place.temp_copies(), 0);
}

/// T10: a first run over many databases does not begin again after a kill, and a restart of an idle fleet is free.
#[test]
fn a_first_run_killed_half_way_goes_on_from_there() {
    const FLEET: usize = 2000;
    let place = Place::new();
    let first = place.make("0.db", "wal", 3);
    let second = place.make("1.db", "delete", 3);
    for n in 2..FLEET {
        let path = place.db(&format!("{n}.db"));
        fs::copy(if n % 2 == 0 { &first } else { &second }, &path).unwrap();
        age(&path);
    }
    // About 700 bytes each: half of them take some three seconds, and so there are batches.
    let running = Loop::start(&place, "10s", &["--limit-upload", "250kB/s"]);
    assert!(eventually(Duration::from_secs(60), || place.objects().len() >= FLEET / 2));
    running.kill();
    let there = place.objects().len();
    assert!(there < FLEET, "it was to be killed half way");

    let ran = place.once().expect_code(0);
    let stored = usize::try_from(ran.count("stored")).unwrap();
    println!("{there} objects of {FLEET} when killed, {stored} stored by the second run");
    assert_eq!(ran.count("databases"), FLEET as u64);
    assert!((FLEET - there..FLEET - FLEET / 5).contains(&stored), "{stored} stored again, {there} were there");
    let objects = place.objects();
    assert_eq!(objects.len(), there + stored);
    objects.iter().for_each(|object| drop(object.image()));
    for _ in 0..2 {
        let again = place.once().expect_code(0);
        assert_eq!((again.count("requests"), again.count("stored")), (0, 0));
    }
    assert_eq!(sidecars(&place.data()), [] as [PathBuf; 0]);
}
