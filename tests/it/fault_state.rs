//! A state.db, or the log beside it, of which any page is not what was written: whatever is left of it, no change goes unstored.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use litesnap::content::ContentHash;
use litesnap::layout::parse_key;
use rusqlite::Connection;

use crate::fault_shim::{place, replace};
use crate::place::{Place, Ran, eventually};

/// A process that is killed when this is dropped, also by a test that fails.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Names so long that the rows of these fill several pages.
const FLEET: usize = 24;
const PAGE: usize = 4096;
/// SQLite's log: a header, then frames of a header and a page each.
const WAL_HEADER: usize = 32;
const WAL_FRAME: usize = 24 + PAGE;

/// The same numbers in each run: what fails is to fail again.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

/// A state and its store, and databases of which some have changed since.
struct Known {
    place: Place,
    names: Vec<String>,
    /// What the newest snapshot of each must hold in the end, by key prefix.
    now: BTreeMap<String, ContentHash>,
}

impl Known {
    /// A state at rest: all of it in its main file.
    fn at_rest() -> Self {
        let place = place();
        let names: Vec<String> = (0..FLEET).map(|n| format!("{}{n}.db", "tenant".repeat(20))).collect();
        let template = place.make("template", "delete", 1);
        for name in &names {
            fs::copy(&template, place.db(name)).unwrap();
        }
        let mut known = Self { place, names, now: BTreeMap::new() };
        known.settle();
        known.keep();
        known.change(3..5);
        known
    }

    /// The state of a loop that was killed: its last batches lie in the log beside it.
    fn killed() -> Self {
        let mut known = Self::at_rest();
        known.settle();
        let mut command = known.place.replicate("data/**/*.db", &["--interval", "20ms"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let running = Killed(command.spawn().unwrap());
        for n in 6..12 {
            let before = known.recorded();
            known.change(n..n + 1);
            assert!(eventually(Duration::from_secs(120), || known.recorded() > before));
        }
        drop(running);
        known.keep();
        known.change(8..16);
        known
    }

    /// How many objects the state has counted as stored; a reader beside the loop.
    fn recorded(&self) -> i64 {
        let conn = Connection::open(self.place.state_db()).unwrap();
        conn.busy_timeout(Duration::from_secs(10)).unwrap();
        conn.query_row("SELECT CAST(total(objects) AS INTEGER) FROM days", [], |row| row.get(0)).unwrap()
    }

    fn once(&self) -> Ran {
        self.place.once()
    }

    /// Runs until no stamp is racy, so that what the state believes it believes without a look.
    fn settle(&mut self) {
        assert!(eventually(Duration::from_secs(30), || self.once().expect_code(0).count("changed") == 0));
    }

    fn kept(&self, what: &str) -> PathBuf {
        self.place.path().join(format!("kept-{what}"))
    }

    /// Each case begins with what is in state and store now.
    fn keep(&self) {
        replace(&self.place.state(), &self.kept("state"));
        replace(&self.place.store(), &self.kept("store"));
    }

    fn reset(&self) {
        replace(&self.kept("state"), &self.place.state());
        replace(&self.kept("store"), &self.place.store());
    }

    fn change(&self, some: std::ops::Range<usize>) {
        for name in &self.names[some] {
            Connection::open(self.place.db(name)).unwrap().execute_batch("INSERT INTO t VALUES(7)").unwrap();
        }
    }

    /// Learns from a run with a good state what all must come to.
    fn learn(&mut self) {
        self.reset();
        self.once().expect_code(0);
        self.now = self.newest();
        assert_eq!(self.now.len(), FLEET);
        for name in &self.names {
            let conn = Connection::open(self.place.db(name)).unwrap();
            assert_eq!(self.place.newest_rows(name), crate::place::rows(&conn), "{name}");
        }
    }

    /// Content of the newest snapshot of each database.
    fn newest(&self) -> BTreeMap<String, ContentHash> {
        let of = |object: &crate::place::Object| {
            let description = litesnap::object::decode(&object.bytes[..], Some(&object.key), &mut Vec::new());
            (parse_key(&object.key).unwrap().prefix.to_owned(), description.unwrap().content_hash)
        };
        self.place.objects().iter().map(of).collect()
    }

    /// Whatever `damage` made of the file `name` in the state directory.
    fn survives(&self, name: &str, what: &str, damage: impl FnOnce(&mut Vec<u8>)) -> Ran {
        self.reset();
        let path = self.place.state().join(name);
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let ran = self.once();
        assert!(ran.code == Some(0) && !ran.err.contains("panicked"), "{what}: {ran:#?}");
        assert!(self.newest() == self.now, "{what}: a change is not stored: {ran:#?}");
        let again = self.once().expect_code(0);
        assert_eq!((again.count("stored"), self.newest() == self.now), (0, true), "{what}: {again:#?}");
        ran
    }
}

type Damage = fn(&mut [u8], &mut Noise);

/// Ways to damage some bytes.
fn damages() -> [(&'static str, Damage); 4] {
    [
        ("zeros", |bytes, _| bytes.fill(0)),
        ("noise", |bytes, noise| bytes.fill_with(|| noise.next().to_le_bytes()[0])),
        ("one bit", |bytes, noise| {
            let at = noise.below(bytes.len());
            bytes[at] ^= 1 << noise.below(8);
        }),
        ("its second half of zeros", |bytes, _| {
            let half = bytes.len() / 2;
            bytes[half..].fill(0);
        }),
    ]
}

#[test]
fn any_page_of_the_state_may_be_damaged_or_missing() {
    let mut known = Known::at_rest();
    known.learn();
    let name = known.place.state_db().file_name().unwrap().to_str().unwrap().to_owned();
    let size = fs::metadata(known.kept("state").join(&name)).unwrap().len();
    let pages = usize::try_from(size).unwrap() / PAGE;
    assert!(pages >= 5, "{pages} pages");
    let (mut noise, mut aside, mut cases) = (Noise(0x5eed), 0, 0);
    for page in 0..pages {
        let area = page * PAGE..(page + 1) * PAGE;
        let bits = if page == 0 { 24 } else { 8 };
        for (kind, damage) in damages() {
            for _ in 0..if kind == "one bit" { bits } else { 1 } {
                // Half of the bits of the first page are in its header.
                let area = if kind == "one bit" && page == 0 && noise.below(2) == 0 { 0..100 } else { area.clone() };
                let ran = known.survives(&name, &format!("page {page}: {kind}"), |b| damage(&mut b[area], &mut noise));
                aside += usize::from(ran.err.contains("set aside"));
                cases += 1;
            }
        }
        for len in [page * PAGE, page * PAGE + 512, page * PAGE + PAGE / 2] {
            let ran = known.survives(&name, &format!("cut to {len}"), |bytes| bytes.truncate(len));
            aside += usize::from(ran.err.contains("set aside"));
            cases += 1;
        }
    }
    println!("{cases} damaged states, {aside} of them set aside");
    assert!(aside * 3 > cases, "damage is noticed: {aside} of {cases}");
}

#[test]
fn any_frame_of_the_states_log_may_be_damaged_or_missing() {
    let mut known = Known::killed();
    known.learn();
    let name = known.place.state_db().file_name().unwrap().to_str().unwrap().to_owned() + "-wal";
    let size = usize::try_from(fs::metadata(known.kept("state").join(&name)).unwrap().len()).unwrap();
    let frames = (size - WAL_HEADER) / WAL_FRAME;
    assert!(frames >= 6, "{frames} frames");
    let (mut noise, mut cases) = (Noise(0x5eed), 0);
    let all = std::env::var("LITESNAP_TEST_FAULTS").is_ok_and(|wish| wish == "all");
    let parts = (0..frames).step_by(if all { 1 } else { frames.div_ceil(8) }).flat_map(|frame| {
        let begin = WAL_HEADER + frame * WAL_FRAME;
        [
            (format!("head of frame {frame}"), begin..begin + 24),
            (format!("frame {frame}"), begin + 24..begin + WAL_FRAME),
        ]
    });
    for (part, area) in parts.chain([("header".to_owned(), 0..WAL_HEADER), ("all of it".to_owned(), 0..size)]) {
        for (kind, damage) in damages() {
            known.survives(&name, &format!("{part}: {kind}"), |bytes| damage(&mut bytes[area.clone()], &mut noise));
            cases += 1;
        }
        known.survives(&name, &format!("cut before {part}"), |bytes| bytes.truncate(area.start));
        known.survives(&name, &format!("cut within {part}"), |bytes| bytes.truncate(area.start + area.len() / 2));
        cases += 2;
    }
    // The index of the log is made anew from it.
    let index = name.replace("-wal", "-shm");
    for (kind, damage) in damages() {
        known.survives(&index, &format!("index: {kind}"), |bytes| damage(bytes, &mut noise));
        cases += 1;
    }
    println!("{cases} damaged logs of {frames} frames");
}
