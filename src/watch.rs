//! What is there, and what of it changed: the scan and the judgement of every file it finds.
//!
//! Opens no database, stores nothing, records nothing but sightings in the table of slots.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::backlog::Wait;
use crate::clock::{Clock, Nanos, SECOND};
use crate::config::Config;
use crate::control::Control;
use crate::detect::{Action, Fingerprint, Pace, RACY_SLACK, Verdict, Why, detect, is_clock_suspect, schedule};
use crate::error::{Failure, Reason};
use crate::fs::{peculiar_file_system, shown};
use crate::layout::TEMPLATE_DEFAULT;
use crate::scan::{Batch, Found, OwnFiles, ScanReport, Scanner, Visitor};
use crate::stamps::{FileStat, Stamps};
use crate::state::{Flags, Seen, Slot, StateDb, Table, id_of, place_of};

/// Changed databases taken up by one scan; about 300 bytes each while they wait.
pub const WAVE_MAX: usize = 32_768;
/// Databases that a once-only warning is remembered for.
const NAMED_MAX: usize = 10_000;

/// A changed database, taken up by a scan.
#[derive(Debug)]
pub struct Candidate {
    /// Hash of the path.
    pub id: u64,
    /// Absolute path of the main file.
    pub path: Box<Path>,
    /// Key prefix, unless the path tells it.
    pub prefix: Option<String>,
    /// Why it counts as changed; `None` for the refresh of one that does not.
    pub why: Option<Why>,
    /// Stored again even if its content is stored already.
    pub refresh: bool,
    /// The name to read it under: that of a hard link beside which its sidecars lie.
    pub read_path: Option<Box<Path>>,
    /// Its stamps in the scan.
    pub stamps: Stamps,
    /// When they were taken.
    pub stamped_at: Nanos,
    /// Found below a folder pattern: without an SQLite header it is simply no database.
    pub by_magic: bool,
}

/// A scan's findings.
#[derive(Debug, Default)]
pub struct Wave {
    /// What to take up: at most the room that there was, and in a first scan all with several names, for which a further scan would
    /// not have all names.
    pub candidates: Vec<Candidate>,
    /// There are more.
    pub more: bool,
    /// How many, if nothing was to be taken up.
    pub left: u64,
    /// Changed, but cooling down.
    pub held: u64,
    /// What cannot be protected, told without opening anything.
    pub failures: Vec<(PathBuf, Failure)>,
    /// Candidates refused because their key prefix is another's.
    pub clashing: Vec<(Candidate, Failure)>,
    /// Per pattern, whether anything matched.
    pub matched: Vec<bool>,
    /// What the walk met.
    pub report: ScanReport,
}

/// Told of a database that has a change and is not taken up: its id and path, and why.
pub type Told<'a> = dyn Fn(u64, &Path, Wait) + Sync + 'a;

/// Which scan of a cycle it is.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    /// Not the first: what was told before is not told again, and it may end once there is no more room. Only of a first one are the
    /// report, what matched and what is held back complete.
    pub further: bool,
    /// Databases to take up; with 0, the scan only tells what is left.
    pub room: usize,
    /// Told of what waits.
    pub waits: &'a Told<'a>,
}

/// Everything that looking takes.
#[derive(Debug)]
pub struct Watch {
    /// What was asked for.
    pub config: Config,
    /// Our own directories, excluded from every pattern.
    pub own: OwnFiles,
    /// What is remembered, in memory.
    pub table: Arc<Table>,
    /// What is remembered, on disk.
    pub db: Arc<StateDb>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Stop requests.
    pub control: Arc<Control>,
    /// Threads for scanning and for snapshots.
    pub pool: rayon::ThreadPool,
    /// How long a stamp stays racy.
    pub slack: Nanos,
    /// Databases that a warning was given for.
    named: Mutex<HashSet<u64>>,
}

impl Watch {
    /// Puts it together.
    #[must_use]
    pub fn new(
        config: Config,
        own: OwnFiles,
        table: Arc<Table>,
        db: Arc<StateDb>,
        clock: Arc<dyn Clock>,
        control: Arc<Control>,
        pool: rayon::ThreadPool,
    ) -> Self {
        let slack = slack(&config);
        Self { config, own, table, db, clock, control, pool, slack, named: Mutex::default() }
    }

    /// The key prefix of the database at `path`.
    ///
    /// # Errors
    /// The template cannot be filled in for this path.
    pub fn render(&self, path: &Path, pattern: Option<usize>) -> Result<String, Failure> {
        let captures = pattern.and_then(|at| self.config.patterns[at].captures(path)).unwrap_or_default();
        self.config
            .template
            .render(path, &self.config.host, &captures)
            .map_err(|e| Failure::new(Reason::KeyClash, format!("its key cannot be made: {e}")))
    }

    /// The key prefix of a database taken up.
    pub(crate) fn prefix_of(&self, candidate: &Candidate) -> Result<String, Failure> {
        candidate.prefix.clone().map_or_else(|| self.render(&candidate.path, None), Ok)
    }

    /// The key prefix, unless the path alone tells it.
    fn prefix(&self, path: &Path, pattern: usize) -> Result<Option<String>, Failure> {
        if self.has_plain_keys() {
            return Ok(None);
        }
        self.render(path, Some(pattern)).map(Some)
    }

    /// Whether the path alone tells the key prefix, and each has its own.
    fn has_plain_keys(&self) -> bool {
        self.config.template.as_str() == TEMPLATE_DEFAULT
    }

    /// The fingerprint of a database with these stamps and this key prefix.
    #[must_use]
    pub fn fingerprint(&self, stamps: &Stamps, prefix: Option<&str>) -> Fingerprint {
        let seed = self.db.seed();
        Fingerprint::of(stamps, place_of(prefix, seed), seed)
    }

    /// Scans once and judges every file found. `scan_no` differs from that of the scan before. Databases in `requested` are taken up whatever their stamps
    /// and cooldown say, to be stored again even if their content is stored already.
    #[must_use]
    pub fn scan(&self, scan_no: u16, pass: Pass<'_>, pace: Pace, requested: &HashSet<u64>) -> Wave {
        let scan = Judging {
            watch: self,
            scan_no,
            pass,
            pace,
            requested,
            started: self.clock.now(),
            wave: Mutex::default(),
            linked: Mutex::default(),
            places: Mutex::default(),
            matched: self.config.patterns.iter().map(|_| AtomicBool::new(false)).collect(),
            enough: AtomicBool::new(false),
        };
        let scanner = Scanner::new(&self.config.patterns, &self.config.excludes, &self.own);
        let stop = if scan.is_short() { &scan.enough } else { self.control.stop_flag() };
        let report = self.pool.install(|| scanner.run(stop, &scan));
        if !pass.further {
            scan.settle_links();
        }
        let mut wave = scan.settle_places();
        wave.report = report;
        wave
    }

    /// Whether the patterns would find a database at `path`.
    pub(crate) fn is_wanted(&self, path: &Path) -> bool {
        let Config { patterns, excludes, .. } = &self.config;
        patterns.iter().any(|p| p.captures(path).is_some() && !excludes.cover(path, p.root()))
    }

    /// Changed databases whose cooldown is not over: how many, and their paths one by one.
    pub fn held(&self) -> (usize, impl Iterator<Item = PathBuf>) {
        let mut ids = Vec::new();
        self.table.each(|slot| ids.extend(slot.flags.has(Flags::COOLING).then_some(slot.id)));
        (ids.len(), ids.into_iter().filter_map(|id| self.db.row(id).ok().flatten().map(|row| row.path)))
    }

    /// Whether this is the first warning about `id`.
    pub(crate) fn first_time(&self, id: u64) -> bool {
        let mut named = self.named.lock();
        named.len() < NAMED_MAX && named.insert(id)
    }
}

/// How long a stamp stays racy: where times are coarse or come from another machine's clock, one interval.
#[must_use]
pub fn slack(config: &Config) -> Nanos {
    let interval = Nanos::try_from(config.interval.as_nanos()).unwrap_or(Nanos::MAX);
    let peculiar = config.patterns.iter().any(|p| peculiar_file_system(p.root()).is_some());
    if peculiar { RACY_SLACK.max(interval) } else { RACY_SLACK }
}

/// A file with several names, put off until all its names are known.
#[derive(Debug)]
struct Linked {
    path: PathBuf,
    stat: FileStat,
    stamps: Stamps,
    stamped_at: Nanos,
    pattern: usize,
}

impl Linked {
    fn new(found: &Found<'_>) -> Self {
        let Found { path, stamps, stamped_at, stat, pattern, .. } = *found;
        Self { path: path.to_path_buf(), stat: *stat, stamps: *stamps, stamped_at, pattern }
    }

    fn file(&self) -> (u64, u64) {
        (self.stat.dev, self.stat.ino)
    }
}

/// A database as one scan met it.
struct Sight<'a> {
    id: u64,
    path: &'a Path,
    /// The name to read it under, where that is another one.
    read_path: Option<&'a Path>,
    prefix: Option<String>,
    stamps: &'a Stamps,
    stamped_at: Nanos,
    by_magic: bool,
    /// It has several names.
    linked: bool,
}

impl Sight<'_> {
    fn candidate(self, why: Option<Why>, refresh: bool) -> Candidate {
        Candidate {
            id: self.id,
            path: self.path.into(),
            read_path: self.read_path.map(Box::from),
            prefix: self.prefix,
            why,
            refresh,
            stamps: *self.stamps,
            stamped_at: self.stamped_at,
            by_magic: self.by_magic,
        }
    }
}

/// One scan under way; visited from all threads.
struct Judging<'a> {
    watch: &'a Watch,
    scan_no: u16,
    pass: Pass<'a>,
    pace: Pace,
    requested: &'a HashSet<u64>,
    started: Nanos,
    wave: Mutex<Wave>,
    linked: Mutex<Vec<Linked>>,
    /// (hash of the key prefix, id), where the template could give two databases one prefix.
    places: Mutex<Vec<(u64, u64)>>,
    matched: Vec<AtomicBool>,
    /// Of a short scan: it may end.
    enough: AtomicBool,
}

impl Visitor for Judging<'_> {
    fn found(&self, files: &Batch) {
        let seed = self.watch.db.seed();
        // Which name stands for a file with several must not depend on which thread came first.
        let (linked, single) = files.iter().partition::<Vec<_>, _>(|found| found.stat.nlink > 1);
        let ids: Vec<u64> = single.iter().map(|found| id_of(found.path, seed)).collect();
        let seen = self.watch.table.see_all(&ids, self.scan_no);
        for ((found, id), seen) in single.iter().zip(ids).zip(seen) {
            self.judge(found, id, seen, None);
        }
        // A first scan takes up all of these, whatever the room.
        if !linked.is_empty() && !self.pass.further {
            self.linked.lock().extend(linked.iter().map(Linked::new));
        }
    }

    fn now(&self) -> Nanos {
        self.watch.clock.now()
    }

    fn gets_on(&self) {
        self.watch.control.gets_on();
        if self.pass.further && self.watch.control.is_stopped() {
            self.enough.store(true, Ordering::Relaxed);
        }
    }

    fn skips_some(&self) -> bool {
        self.is_short()
    }

    fn skips(&self, path: &Path) -> bool {
        let slot = self.watch.table.get(id_of(path, self.watch.db.seed()));
        slot.is_some_and(|slot| slot.flags.has(Flags::TAKEN))
    }
}

impl Judging<'_> {
    /// Whether it passes over what was taken up before, and ends when it has no more room: of very many databases, each further
    /// scan would else look at them all. Not where two may be found to have one key prefix: for that all must be seen.
    fn is_short(&self) -> bool {
        self.pass.further && self.watch.has_plain_keys()
    }

    /// One file with several names is stored once, under the first of its names, and read under the one beside which
    /// its sidecars lie: what is committed is in them.
    fn settle_links(&self) {
        let mut linked = std::mem::take(&mut *self.linked.lock());
        linked.sort_by(|a, b| (a.file(), a.pattern, &a.path).cmp(&(b.file(), b.pattern, &b.path)));
        for names in linked.chunk_by(|a, b| a.file() == b.file()) {
            let first = &names[0];
            names.iter().for_each(|name| self.matched[name.pattern].store(true, Ordering::Relaxed));
            let mut lively = names.iter().filter(|n| n.stamps.wal.is_some() || n.stamps.journal.is_some());
            match (lively.next(), lively.next()) {
                (Some(one), Some(other)) if one.path != other.path => self.refuse_linked(first, one, other),
                (Some(one), _) => self.judge_linked(first, one, Some(&one.path)),
                (None, _) => self.judge_linked(first, first, None),
            }
            if self.watch.first_time(id_of(&first.path, self.watch.db.seed())) {
                log::warn!(
                    "db={} is one file with {} names; a -wal or -journal beside a name outside the patterns is not seen",
                    shown(&first.path),
                    first.stat.nlink
                );
            }
        }
    }

    fn refuse_linked(&self, first: &Linked, one: &Linked, other: &Linked) {
        let seen = self.watch.table.see(id_of(&first.path, self.watch.db.seed()), self.scan_no);
        if seen.again {
            return;
        }
        let (one, other) = (shown(&one.path), shown(&other.path));
        let what = format!(
            "one file with several names, and a -wal or -journal beside both {one} and {other}: which holds cannot be told"
        );
        self.fail(&first.path, Failure::new(Reason::Linked, what));
    }

    /// Judges a file under the first of its names, by the stamps that it has under `one`.
    fn judge_linked(&self, first: &Linked, one: &Linked, read_path: Option<&Path>) {
        let id = id_of(&first.path, self.watch.db.seed());
        let Linked { stat, stamps, stamped_at, .. } = one;
        let (path, stamped_at, pattern) = (&*first.path, *stamped_at, first.pattern);
        let found = Found { path, stamps, stamped_at, stat, pattern, symlink: false };
        self.judge(&found, id, self.watch.table.see(id, self.scan_no), read_path);
    }

    fn judge(&self, found: &Found<'_>, id: u64, seen: Seen, read_path: Option<&Path>) {
        let watch = self.watch;
        let Found { path, stamps, pattern, .. } = *found;
        if !self.matched[pattern].load(Ordering::Relaxed) {
            self.matched[pattern].store(true, Ordering::Relaxed);
        }
        if seen.again {
            return;
        }
        let prefix = match watch.prefix(path, pattern) {
            Ok(prefix) => prefix,
            Err(failure) => return self.fail(path, failure),
        };
        let place = place_of(prefix.as_deref(), watch.db.seed());
        if place != 0 {
            self.places.lock().push((place, id));
        }
        if seen.slot.flags.has(Flags::TAKEN) {
            return;
        }
        let taken_at = taken_at(stamps, self.started, found.stamped_at, watch.slack, &*watch.clock);
        if is_clock_suspect(stamps, taken_at, watch.slack) && watch.first_time(id) {
            log::warn!("db={} has a time in the future: its clock or ours is wrong", shown(path));
        }
        let fingerprint = Fingerprint::of(stamps, place, watch.db.seed());
        let verdict = detect(seen.slot.last_seen().as_ref(), &fingerprint, stamps, taken_at, watch.slack);
        let by_magic = watch.config.patterns[pattern].magic_only();
        let linked = found.stat.nlink > 1;
        let sight = Sight { id, path, read_path, prefix, stamps, stamped_at: taken_at, by_magic, linked };
        self.act(&seen.slot, verdict, sight);
    }

    fn act(&self, slot: &Slot, verdict: Verdict, sight: Sight<'_>) {
        if slot.flags.has(Flags::NOT_A_DATABASE) && verdict == Verdict::Unchanged {
            return self.still_no_database(slot, &sight);
        }
        let now_s = u32::try_from(self.started / SECOND).unwrap_or(u32::MAX);
        let action = if self.requested.contains(&slot.id) {
            Action::Refresh
        } else {
            schedule(verdict, slot.stored_s, now_s, slot.id, self.pace)
        };
        let why = match verdict {
            Verdict::Changed(why) | Verdict::Unknown(why) => Some(why),
            Verdict::Unchanged => None,
        };
        if let Some(why) = why {
            self.watch.table.backlog.add(slot.id, self.since_s(slot, why, sight.stamps));
        }
        match action {
            Action::Skip => {}
            Action::Hold => {
                self.wave.lock().held += 1;
                (self.pass.waits)(slot.id, sight.path, Wait::Held);
                self.watch.table.update(slot.id, |slot| slot.flags = slot.flags.with(Flags::COOLING, true));
            }
            Action::Snapshot | Action::Refresh => {
                let has_room_anyway = sight.linked;
                self.take_up(sight.candidate(why, action == Action::Refresh), has_room_anyway);
            }
        }
    }

    /// Since when the change that a scan sees waits, s since 1970: since the youngest of its stamps, but not from before its last
    /// snapshot. Of what nobody ever protected, since it is seen.
    fn since_s(&self, slot: &Slot, why: Why, stamps: &Stamps) -> u32 {
        let seconds = |time: Nanos| u32::try_from(time / SECOND).unwrap_or(0);
        let now_s = seconds(self.started);
        let changed = stamps.times().max().map_or(now_s, seconds);
        if why == Why::New || slot.stored_s == 0 { now_s } else { changed.max(slot.stored_s).min(now_s) }
    }

    fn take_up(&self, candidate: Candidate, has_room_anyway: bool) {
        let mut wave = self.wave.lock();
        if wave.candidates.len() >= self.pass.room && !has_room_anyway {
            wave.more = true;
            self.enough.store(self.pass.room > 0, Ordering::Relaxed);
            if self.pass.room == 0 {
                wave.left += 1;
                drop(wave);
                (self.pass.waits)(candidate.id, &candidate.path, Wait::Untried);
            }
            return;
        }
        self.watch.table.update(candidate.id, |slot| slot.flags = slot.flags.with(Flags::TAKEN, true));
        wave.candidates.push(candidate);
    }

    /// A file that matched and is known to be no database is named in each cycle, without being opened.
    fn still_no_database(&self, slot: &Slot, file: &Sight<'_>) {
        if self.pass.further || (file.by_magic && slot.stored_s == 0) {
            return;
        }
        let has_room = self.wave.lock().failures.len() < crate::report::NAMED_MAX;
        let row = has_room.then(|| self.watch.db.row(slot.id).ok().flatten()).flatten();
        let known = row.and_then(|row| row.error).and_then(|error| Failure::parse(&error));
        self.fail(file.path, known.unwrap_or_else(|| Failure::new(Reason::NotADatabase, "no SQLite header")));
    }

    fn fail(&self, path: &Path, failure: Failure) {
        if !self.pass.further {
            self.wave.lock().failures.push((path.to_path_buf(), failure));
        }
    }

    /// Takes out what would share a key prefix: the one that has snapshots there goes on, the others are refused.
    fn settle_places(self) -> Wave {
        let mut wave = self.wave.into_inner();
        wave.matched = self.matched.into_iter().map(AtomicBool::into_inner).collect();
        let mut places = self.places.into_inner();
        places.sort_unstable();
        if places.windows(2).all(|pair| pair[0].0 != pair[1].0) {
            return wave;
        }
        let paths: HashMap<u64, &Path> = wave.candidates.iter().map(|c| (c.id, &*c.path)).collect();
        let clashes: HashMap<u64, Clash> = places
            .chunk_by(|a, b| a.0 == b.0)
            .filter(|same| same.len() > 1)
            .map(|same| (same[0].0, Clash::look(self.watch, same, &paths)))
            .collect();
        let seed = self.watch.db.seed();
        let refused = |c: &mut Candidate| {
            clashes.get(&place_of(c.prefix.as_deref(), seed)).is_some_and(|clash| clash.owner != Some(c.id))
        };
        let refused: Vec<Candidate> = wave.candidates.extract_if(.., refused).collect();
        for candidate in refused {
            let failure = clashes[&place_of(candidate.prefix.as_deref(), seed)].failure(&candidate);
            wave.clashing.push((candidate, failure));
        }
        wave
    }
}

/// When `stamps` were taken: not before the scan `began`, and not before `looked`. A long scan meets files written since; asked
/// only for these, the clock costs nothing. When one was looked at that was written after `looked` is not known: it counts as
/// written just then. A time beyond `slack` in the future is a clock's fault, and says nothing about the others.
fn taken_at(stamps: &Stamps, began: Nanos, looked: Nanos, slack: Nanos, clock: &dyn Clock) -> Nanos {
    if stamps.times().all(|time| time <= began) {
        return began;
    }
    if stamps.times().all(|time| time <= looked) {
        return looked;
    }
    let now = clock.now();
    let youngest = stamps.times().filter(|time| *time <= now.saturating_add(slack)).max().unwrap_or(now);
    youngest.max(looked).min(now)
}

/// Databases that the template gives one key prefix.
struct Clash {
    paths: Vec<(u64, PathBuf)>,
    /// The one that has snapshots there already.
    owner: Option<u64>,
}

impl Clash {
    fn look(watch: &Watch, same: &[(u64, u64)], candidates: &HashMap<u64, &Path>) -> Self {
        let (mut paths, mut owner) = (Vec::new(), None);
        for (place, id) in same {
            let row = watch.db.row(*id).ok().flatten();
            let stored = row.as_ref().is_some_and(|r| r.key_ms.is_some());
            if stored && row.as_ref().is_some_and(|r| place_of(r.prefix.as_deref(), watch.db.seed()) == *place) {
                owner = Some(*id);
            }
            let found = candidates.get(id).map(|path| path.to_path_buf());
            if let Some(path) = found.or(row.map(|r| r.path)) {
                paths.push((*id, path));
            }
        }
        Self { paths, owner }
    }

    fn failure(&self, candidate: &Candidate) -> Failure {
        let other = self.paths.iter().find(|(id, _)| *id != candidate.id);
        let other = other.map_or_else(|| "another database".into(), |(_, path)| shown(path).to_string());
        let key = candidate.prefix.as_deref().unwrap_or_default();
        let what = format!("its key {key} is also that of {other}: a --key-template with more names tells them apart");
        Failure::new(Reason::KeyClash, what)
    }
}

#[cfg(test)]
mod tests;
