//! What must hold after each round: every new snapshot a commit and no stale one, every last commit stored, nothing left beside a
//! database, no main file touched.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use litesnap::layout::{KeyKind, parse_key};
use litesnap::stamps::sidecar;

use super::checkers::{Checked, Checkers};
use super::fleet::{Fleet, REPLICAS};
use super::history::{History, State};
use super::replicas::Told;
use super::report::{Counts, Report};
use super::{LATE_MAX, Settings};

/// Foreign SQLites that look at snapshots at the same time.
const CHECKERS: usize = 3;
/// Violations that are told one by one.
const TOLD_MAX: usize = 50;

pub(crate) struct Rounds {
    settings: Settings,
    dir: tempfile::TempDir,
    fleet: Fleet,
    history: History,
    checkers: Checkers,
    ids: HashMap<PathBuf, usize>,
    /// The newest snapshot of each database in each store: its key and what it holds; `None` for a tombstone.
    newest: Vec<BTreeMap<usize, (String, Option<State>)>>,
    counts: Counts,
    violations: Vec<String>,
}

/// What the main files look like from outside.
type Looks = Vec<(u64, u64, i64, i64, i64, i64)>;

impl Rounds {
    pub(crate) fn start(settings: Settings) -> Self {
        let dir = tempfile::Builder::new().prefix("litesnap-torture-").tempdir().unwrap();
        let fleet = Fleet::start(&settings, dir.path());
        Self {
            history: History::new(fleet.databases.len()),
            checkers: Checkers::start(CHECKERS, dir.path()),
            ids: fleet.databases.iter().enumerate().map(|(id, d)| (d.path.clone(), id)).collect(),
            newest: vec![BTreeMap::new(); fleet.depots.len()],
            counts: Counts::default(),
            violations: Vec::new(),
            settings,
            dir,
            fleet,
        }
    }

    pub(crate) fn found_nothing(&self) -> bool {
        self.violations.is_empty()
    }

    /// Churn, rest, look.
    pub(crate) fn run(&mut self) {
        let time = self.fleet.between(self.settings.churn);
        let done = self.fleet.churn(time).and_then(|()| self.at_rest());
        if let Err(what) = done {
            self.violations.push(what);
        }
        self.counts.rounds += 1;
    }

    fn at_rest(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let open = self.fleet.rest()?;
        self.fleet.kill_at_last()?;
        for writer in &mut self.fleet.writers {
            self.history.read(&writer.log, &mut writer.log_read);
        }
        for (id, what) in self.history.settle() {
            self.violation(id, &what);
        }
        let (looks, beside) = (self.looks(), self.beside(&open));
        let told = self.fleet.cycles(2)?;
        self.check_new();
        self.check_newest(&told)?;
        self.check_traces(&looks, &beside, &open);
        self.violations.extend(told.into_iter().flat_map(|told| told.alarms));
        self.history.trim();
        println!(
            "round {}: {} s of looking, {} snapshots and {} commits so far",
            self.counts.rounds + 1,
            began.elapsed().as_secs(),
            self.counts.snapshots.iter().sum::<u64>(),
            self.history.commits.values().sum::<u64>()
        );
        self.fleet.go_on();
        Ok(())
    }

    /// Every snapshot stored since the last round.
    fn check_new(&mut self) {
        let jobs = |(replica, depot): (usize, &super::stores::Depot)| -> Vec<(usize, String)> {
            depot.keys().into_iter().map(|key| (replica, key)).collect()
        };
        let found: Vec<(usize, String)> = self.fleet.depots.iter().enumerate().flat_map(jobs).collect();
        let (snapshots, tombstones) = found.into_iter().partition(|(_, key)| key.ends_with(".db.lz4"));
        for checked in self.checkers.check(snapshots, &self.fleet.depots) {
            self.counts.snapshots[checked.replica] += 1;
            self.judge(&checked);
            self.fleet.depots[checked.replica].remove(&checked.key);
        }
        for (replica, key) in tombstones {
            self.note_tombstone(replica, &key);
            self.fleet.depots[replica].remove(&key);
        }
    }

    fn judge(&mut self, checked: &Checked) {
        let Checked { replica, key, of, found } = checked;
        let known = of.as_ref().and_then(|(path, taken_at)| Some((*self.ids.get(path)?, *taken_at)));
        let verdict = match (known, found) {
            (None, Ok(_)) => Err("of a database that is none of ours".to_owned()),
            (_, Err(what)) => Err(what.clone()),
            (Some((id, taken_at)), Ok(state)) => self.history.judge(id, *state, taken_at),
        };
        if let Err(what) = verdict {
            let saved = self.evidence().join(format!("{replica}-{}", key.replace('/', "_")));
            fs::write(saved, self.fleet.depots[*replica].get(key)).unwrap();
            self.violations.push(format!("{}: {key}: {what}", REPLICAS[*replica]));
        }
        if let (Some((id, _)), Ok(state)) = (known, found) {
            self.note_newest(*replica, id, key, Some(*state));
        }
    }

    fn note_tombstone(&mut self, replica: usize, key: &str) {
        let parsed = parse_key(key).filter(|parsed| parsed.kind == KeyKind::Tombstone);
        let id = parsed.and_then(|parsed| self.ids.get(Path::new(&format!("/{}", parsed.prefix))).copied());
        match id {
            Some(id) => self.note_newest(replica, id, key, None),
            None => self.violations.push(format!("{}: {key}: nothing of ours", REPLICAS[replica])),
        }
        self.counts.tombstones += 1;
    }

    fn note_newest(&mut self, replica: usize, id: usize, key: &str, state: Option<State>) {
        let newest = &mut self.newest[replica];
        if newest.get(&id).is_none_or(|(before, _)| before.as_str() < key) {
            newest.insert(id, (key.to_owned(), state));
        }
    }

    /// The last commit before the rest of every database is the newest snapshot in every store.
    fn check_newest(&mut self, told: &[Told]) -> Result<(), String> {
        let missing = self.missing();
        let (late, lost): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|(replica, id)| self.named_for(&told[*replica], *id).is_some());
        for (replica, id) in lost {
            self.lost(replica, id, "after two cycles");
        }
        if !late.is_empty() {
            self.counts.late += late.len() as u64;
            for (replica, id) in &late {
                let why = self.named_for(&told[*replica], *id).unwrap_or_default();
                println!("late: {}: {}: {why}", REPLICAS[*replica], self.fleet.databases[*id].path.display());
            }
            self.fleet.cycles(LATE_MAX)?;
            self.check_new();
            for (replica, id) in self.missing() {
                self.lost(replica, id, "though it was named, and had time");
            }
        }
        Ok(())
    }

    fn missing(&self) -> Vec<(usize, usize)> {
        let is_missing = |replica: usize, id: usize| {
            let newest = self.newest[replica].get(&id).and_then(|(_, state)| *state);
            newest != Some(self.history.rest(id))
        };
        let of = |replica: usize| {
            self.fleet.watched(replica).map(move |(id, _)| (replica, id)).filter(move |(r, id)| is_missing(*r, *id))
        };
        (0..self.newest.len()).flat_map(of).collect()
    }

    fn named_for(&self, told: &Told, id: usize) -> Option<String> {
        told.named.get(&self.fleet.databases[id].path).filter(|what| !what.starts_with("recovered")).cloned()
    }

    fn lost(&mut self, replica: usize, id: usize, when: &str) {
        let newest = self.newest[replica].get(&id);
        let newest = newest.map_or_else(
            || "nothing".to_owned(),
            |(key, state)| {
                format!("{} in {key}", state.map_or_else(|| "a tombstone".to_owned(), |state| state.to_string()))
            },
        );
        let rest = self.history.rest(id);
        let what = format!("{}: lost: it rests in {rest}, and {when} the newest stored is {newest}", REPLICAS[replica]);
        self.violation(id, &what);
    }

    /// Nothing that only litesnap can have done since everybody came to rest.
    fn check_traces(&mut self, looks: &Looks, beside: &[Vec<PathBuf>], open: &BTreeMap<usize, String>) {
        let (looks_now, beside_now) = (self.looks(), self.beside(open));
        for id in 0..looks.len() {
            if looks[id] != looks_now[id] {
                self.violation(id, &format!("its main file was touched: {:?}, now {:?}", looks[id], looks_now[id]));
            }
            for path in beside_now[id].iter().filter(|path| !beside[id].contains(path)) {
                // Of several readers at once the one that made a sidecar may find it in use, and leaves it.
                if self.fleet.databases[id].watched_by.is_some() {
                    self.violation(id, &format!("{} was left beside it", path.display()));
                } else {
                    self.counts.left += 1;
                }
            }
        }
    }

    fn looks(&self) -> Looks {
        let look = |path: &PathBuf| {
            let m = fs::metadata(path).unwrap();
            (m.ino(), m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec())
        };
        self.fleet.databases.iter().map(|d| look(&d.path)).collect()
    }

    /// Sidecars beside databases that no application has open.
    fn beside(&self, open: &BTreeMap<usize, String>) -> Vec<Vec<PathBuf>> {
        let of = |(id, path): (usize, &PathBuf)| -> Vec<PathBuf> {
            let ends = ["-wal", "-shm", "-journal"].map(|end| sidecar(path, end));
            if open.contains_key(&id) { Vec::new() } else { ends.into_iter().filter(|p| p.exists()).collect() }
        };
        self.fleet.databases.iter().map(|d| &d.path).enumerate().map(of).collect()
    }

    fn violation(&mut self, id: usize, what: &str) {
        let path = &self.fleet.databases[id].path;
        for end in ["", "-wal", "-journal"] {
            let name = path.file_name().unwrap().to_string_lossy().into_owned() + end;
            fs::copy(sidecar(path, end), self.evidence().join(name)).ok();
        }
        self.violations.push(format!("{}: {what}", path.display()));
    }

    fn evidence(&self) -> PathBuf {
        let evidence = self.dir.path().join("evidence");
        fs::create_dir_all(&evidence).unwrap();
        evidence
    }

    /// Ends everything and tells what came of it. What is found wrong keeps all there is.
    pub(crate) fn end(mut self, took: Duration) -> Report {
        let told: Vec<Told> = self.fleet.replicas.iter_mut().map(super::replicas::Replica::told).collect();
        let unnamed = self.violations.len().saturating_sub(TOLD_MAX);
        self.violations.truncate(TOLD_MAX);
        if unnamed > 0 {
            self.violations.push(format!("and {unnamed} more"));
        }
        let report = Report {
            seed: self.settings.seed,
            reading: format!("{:?}", self.settings.reading).to_lowercase(),
            took,
            databases: self.fleet.databases.len(),
            counts: self.counts,
            commits: self.history.commits,
            busy: self.history.busy,
            kills: self.fleet.kills,
            writer_kills: self.fleet.writer_kills,
            states_lost: self.fleet.states_lost,
            harmed: self.fleet.harmed(),
            puts: self.fleet.server.count("PUT"),
            told,
            violations: self.violations,
            evidence: self.dir.path().to_path_buf(),
        };
        drop(self.fleet);
        if !report.violations.is_empty() {
            let _kept = self.dir.keep();
        }
        report
    }
}
