//! The replicator: everything a cycle needs, one cycle, and the loop around it.
//!
//! `--once` is [`Replicator::run_cycle`] called once; the loop calls the same.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::backlog::Ages;
use crate::budget::Budget;
use crate::clock::{Clock, SECOND};
use crate::config::Config;
use crate::control::Control;
use crate::cycle::{Cycle, Observer};
use crate::engine::{Engine, identity, load, own_files, pool, runtime, state_path};
use crate::error::{Error, Result};
use crate::first_hour::FirstHour;
use crate::fs::{create_private_dir, shown};
use crate::heartbeats::Heart;
use crate::monitor::Monitor;
use crate::record::{Doubt, Recorder, chain};
use crate::report::CycleReport;
use crate::snapshot::{Reader, work_dir};
use crate::state::{Opened, StateDb, StateLock, day_of};
use crate::store::{Described, Env, Kind, RequestCounts, Store};
use crate::upkeep::Upkeep;
use crate::upload::{PARTS_SHARE_DIVISOR, Uploader};
use crate::watch::{Watch, slack};

/// A repeated complaint is logged at most this often.
pub const REPEAT: Duration = Duration::from_secs(30);

/// Backs up what its [`Config`] names. Holds the state's lock as long as it lives.
#[derive(Debug)]
pub struct Replicator {
    recorder: Recorder,
    engine: Arc<Engine>,
    observer: Arc<dyn Observer>,
    monitor: Arc<Monitor>,
    cycles: u64,
    scan_no: u16,
    complaint: Complaint,
    said: Said,
    warned_unmatched: Vec<bool>,
    lock: StateLock,
}

impl Replicator {
    /// Opens store and state and cleans up after a crash. Makes no request.
    ///
    /// # Errors
    /// [`Error::Usage`] for what cannot be meant, [`Error::State`] and [`Error::StateLocked`] for the state,
    /// [`Error::Store`] for a folder that cannot be made.
    pub fn open(
        config: Config,
        env: &Env,
        clock: Arc<dyn Clock>,
        control: Arc<Control>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self> {
        let store = Store::open(&config.store, env)?;
        Self::with_store(config, store, clock, control, observer)
    }

    /// The same with a store that is open already: one that is shared, or wrapped to fail.
    ///
    /// # Errors
    /// As [`Replicator::open`].
    pub fn with_store(
        config: Config,
        store: Store,
        clock: Arc<dyn Clock>,
        control: Arc<Control>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self> {
        config.check()?;
        let store = Arc::new(store);
        let identity = identity(&config, store.identity());
        create_private_dir(&config.state_dir).map_err(|e| unusable_state(&config.state_dir, e))?;
        let folder = if let Kind::Folder { root } = &store.kind { Some(root.as_path()) } else { None };
        let own = own_files(&config, folder)?;
        let path = state_path(&config.state_dir, &identity.store);
        let lock = StateLock::take(&path.with_extension("lock"))?;
        let (db, opened) = StateDb::open(&path, &identity, clock.now() / SECOND)?;
        tell_opened(&opened, &path, &store);
        warn_network(&config);
        let table = load(&db, slack(&config))?;
        // Only ever compared: a form that another version writes differently is merely one that changed.
        let seen_under = format!("{:?} without {:?}", config.patterns, config.excludes);
        let same_patterns = AtomicBool::new(db.remember_patterns(&seen_under)?);
        let for_parts = config.memory_limit / u64::from(PARTS_SHARE_DIVISOR);
        let for_copies = Budget::new(config.memory_limit - for_parts);
        let reader =
            Reader::open(&work_dir(&path), config.always_sqlite, for_copies, Arc::clone(&clock), Arc::clone(&control))
                .map_err(|e| unusable_state(&config.state_dir, e))?;
        let uploader = Uploader::new(
            Arc::clone(&store),
            Budget::new(for_parts),
            Arc::clone(&control),
            config.concurrency,
            config.limit_upload,
            config.store.request_timeout,
        );
        let (runtime, pool) = (runtime()?, pool()?);
        let doubt = Arc::new(Doubt::new(Arc::clone(&clock), db.doubt_s(clock.now() / SECOND)?));
        let (db, table) = (Arc::new(db), Arc::new(table));
        if db.was_left_open() {
            doubt.raise();
        }
        let last_success_ms = db.loop_note()?.and_then(|note| note.last_success_ms);
        let (for_monitor, clock_too) = (Arc::clone(&table), Arc::clone(&clock));
        let monitor = Monitor::new(&config, &store, for_monitor, clock_too, Arc::clone(&control), last_success_ms);
        let recorder = Recorder::start(
            Arc::clone(&store),
            Arc::clone(&db),
            Arc::clone(&table),
            slack(&config),
            Arc::clone(&doubt),
        )?;
        let warned_unmatched = vec![false; config.patterns.len()];
        let watch = Watch::new(config, own, table, db, clock, control, pool);
        let engine = Arc::new(Engine {
            watch,
            store,
            reader,
            uploader,
            runtime,
            doubt,
            first_hour: FirstHour::default(),
            same_patterns,
            untold: Mutex::default(),
        });
        Ok(Self {
            recorder,
            engine,
            observer,
            monitor,
            cycles: 0,
            scan_no: 0,
            complaint: Complaint::default(),
            said: Said::default(),
            warned_unmatched,
            lock,
        })
    }

    /// Where the asynchronous side runs.
    #[must_use]
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        self.engine.runtime.handle()
    }

    /// The store's name for people.
    #[must_use]
    pub fn store_name(&self) -> &str {
        &self.engine.store.name
    }

    /// The state's file.
    #[must_use]
    pub fn state_path(&self) -> &Path {
        self.engine.watch.db.path()
    }

    /// Databases known from before, and bytes of memory their slots take.
    #[must_use]
    pub fn known(&self) -> (usize, usize) {
        (self.engine.watch.table.len(), self.engine.watch.table.bytes())
    }

    /// How many objects a day were stored of late; `None` without a full day's history.
    #[must_use]
    pub fn objects_per_day(&self) -> Option<f64> {
        let watch = &self.engine.watch;
        let today = day_of(watch.clock.now() / SECOND);
        watch.db.objects_per_day(today).unwrap_or_else(|e| {
            log::warn!("{}", chain(&e));
            None
        })
    }

    /// What is done beside the loop, if anything is; `env` is what the store was opened with.
    ///
    /// # Errors
    /// [`Error::Usage`] if the key template begins with something that cannot be looked for.
    pub fn upkeep(&self, env: &Env) -> Result<Option<Upkeep>> {
        let watch = &self.engine.watch;
        if watch.config.upkeep.is_empty() {
            return Ok(None);
        }
        let (db, clock, control) = (Arc::clone(&watch.db), Arc::clone(&watch.clock), Arc::clone(&watch.control));
        Upkeep::new(&watch.config, env, db, clock, control, self.monitor()).map(Some)
    }

    /// What puts heartbeat objects, if any are wanted; `env` is what the store was opened with.
    #[must_use]
    pub fn heart(&self, env: &Env) -> Option<Heart> {
        let watch = &self.engine.watch;
        let (db, clock, control) = (Arc::clone(&watch.db), Arc::clone(&watch.clock), Arc::clone(&watch.control));
        let every = (watch.config.telling.heartbeat_object?, &*watch.config.host);
        Some(Heart::new(every, (&watch.config.store, env), db, clock, control, self.monitor()))
    }

    /// One pass over everything: returns when each changed database is stored and recorded, or has failed.
    pub fn run_cycle(&mut self, ignore_cooldown: bool) -> CycleReport {
        let started = Instant::now();
        let asked = self.engine.store.requests.snapshot();
        self.cycles += 1;
        let mut report = CycleReport { cycle: self.cycles, ..CycleReport::default() };
        let cycle =
            Cycle::new(Arc::clone(&self.engine), self.recorder.sender(), Arc::clone(&self.observer), ignore_cooldown);
        self.monitor.begins(Arc::clone(&cycle.tally));
        self.lock.tell(&self.monitor.holder());
        cycle.run(&mut self.scan_no, &mut report);
        let flushing = Instant::now();
        self.recorder.flush();
        report.phases.record = flushing.elapsed();
        cycle.summarise(self.scan_no, &mut report);
        let asked = self.engine.store.requests.snapshot().since(&asked);
        report.requests = asked.total();
        report.elapsed = started.elapsed();
        self.note(&report, &asked);
        self.lock.tell(&self.monitor.holder());
        self.engine.watch.db.rest();
        self.engine.watch.table.backlog.rest();
        self.said.tell(&report.errors);
        report
    }

    /// Tells the monitor and the state. That a cycle cannot be noted says nothing about what is stored.
    fn note(&self, report: &CycleReport, asked: &RequestCounts) {
        let watch = &self.engine.watch;
        let now_s = watch.clock.now() / SECOND;
        let mut ages = Ages::default();
        watch.table.each(|slot| {
            if slot.stored_s != 0 {
                ages.add(now_s - i64::from(slot.stored_s));
            }
        });
        let cycle = self.monitor.ended(report, ages);
        let (requests, stored) = (self.engine.store.requests.snapshot(), (report.stored, report.bytes));
        let cooldown_s = watch.config.pace.cooldown_s;
        let is_over = report.succeeded() && report.untried == 0;
        if let Some(line) = self.engine.first_hour.cycle_ended(now_s, is_over, requests, stored, cooldown_s) {
            log::info!("{line}");
        }
        if let Err(e) = watch.db.note_cycle(&cycle, &self.monitor.loop_note(), asked, day_of(now_s)) {
            log::debug!("{}", chain(&e));
        }
    }

    /// How it fares, for whoever asks, also while a cycle is under way.
    #[must_use]
    pub fn monitor(&self) -> Arc<Monitor> {
        Arc::clone(&self.monitor)
    }

    /// Runs cycles until a stop is asked for, one interval from start to start; a cycle that takes longer is followed
    /// at once by the next. `told` is called after each.
    pub fn run_forever(&mut self, mut told: impl FnMut(&CycleReport)) {
        let control = Arc::clone(&self.engine.watch.control);
        let interval = self.engine.watch.config.interval;
        let mut ignore_cooldown = false;
        while !control.is_stopped() {
            let started = Instant::now();
            let report = self.run_cycle(ignore_cooldown);
            self.complaint.about(&report, &self.engine.store.name);
            self.warn_unmatched(&report);
            told(&report);
            ignore_cooldown = control.wait_until(started + interval);
        }
        self.name_held();
    }

    /// Says once of each pattern that nothing matches it.
    fn warn_unmatched(&mut self, report: &CycleReport) {
        let patterns = &self.engine.watch.config.patterns;
        for ((pattern, matched), warned) in patterns.iter().zip(&report.matched).zip(&mut self.warned_unmatched) {
            if !matched && !*warned {
                log::warn!("nothing matches {} yet; it is looked at again in each cycle", pattern.text());
            }
            *warned = !matched;
        }
    }

    /// Databases whose change a cooldown still holds back: how many, and the first `most` by name.
    #[must_use]
    pub fn held(&self, most: usize) -> (usize, Vec<PathBuf>) {
        let (n, paths) = self.engine.watch.held();
        (n, paths.take(most).collect())
    }

    fn name_held(&self) {
        let (n, named) = self.held(20);
        if n > 0 {
            let named: Vec<String> = named.iter().map(|p| shown(p).to_string()).collect();
            log::warn!("{n} changed databases are not stored yet, held back by their cooldown: {}", named.join(", "));
        }
    }
}

/// What the store confirmed is recorded, and what is in doubt noted; after a crash the next start doubts everything.
impl Drop for Replicator {
    fn drop(&mut self) {
        self.recorder.flush();
        if !std::thread::panicking() {
            let ended = self.engine.watch.db.end_cleanly(self.engine.doubt.before_s());
            ended.unwrap_or_else(|e| log::debug!("{}", chain(&e)));
        }
    }
}

/// Says that the store is down, once and then every half minute, and when it is back.
#[derive(Debug, Default)]
struct Complaint {
    down_since: Option<Instant>,
    last_said: Option<Instant>,
}

impl Complaint {
    fn about(&mut self, report: &CycleReport, store: &str) {
        let now = Instant::now();
        if let Some(failure) = &report.store_down {
            let since = *self.down_since.get_or_insert(now);
            if self.last_said.is_none_or(|said| now - said >= REPEAT) {
                log::error!("{store}: {failure}; trying again each cycle, for {} s now", (now - since).as_secs());
                self.last_said = Some(now);
            }
        } else if report.stored + report.gone > 0 {
            if let Some(since) = self.down_since.take() {
                log::info!("{store} is back after {} s", (now - since).as_secs());
            }
            self.last_said = None;
        }
    }
}

/// Says what is wrong with a cycle as a whole, each thing once and then every half minute while it lasts.
#[derive(Debug, Default)]
struct Said(Vec<(String, Instant)>);

impl Said {
    fn tell(&mut self, errors: &[String]) {
        let now = Instant::now();
        self.0.retain(|(said, at)| now - *at < REPEAT && errors.contains(said));
        for error in errors {
            if !self.0.iter().any(|(said, _)| said == error) {
                log::error!("{error}");
                self.0.push((error.clone(), now));
            }
        }
    }
}

fn unusable_state(dir: &Path, error: Error) -> Error {
    Error::State {
        path: dir.to_path_buf(),
        what: "it must be a directory that this user can write; --state-dir names another".into(),
        source: Box::new(error),
    }
}

fn tell_opened(opened: &Opened, path: &Path, store: &Store) {
    match opened {
        Opened::Known => {}
        Opened::Fresh => {
            let others = std::fs::read_dir(path.parent().unwrap_or(path)).into_iter().flatten().flatten();
            let others = others.filter(|e| e.path() != path && e.path().extension().is_some_and(|x| x == "db")).count();
            if others > 0 {
                log::info!("no state yet for {}: everything is stored there", store.name);
            }
        }
        Opened::Reset(what) => log::warn!("the state was for something else ({what}): everything is stored again"),
        Opened::SetAside(aside, what) => log::warn!(
            "the state was damaged ({what}) and is set aside as {}: everything is stored again",
            aside.display()
        ),
    }
}

/// SQLite's shared memory and locks do not work between the machines of a network file system: a writer elsewhere is
/// not seen.
fn warn_network(config: &Config) {
    for pattern in &config.patterns {
        if let Some(fs) = crate::fs::peculiar_file_system(pattern.root()).filter(|fs| fs.is_network) {
            let root = pattern.root().display();
            log::warn!(
                "{root} is on {}: snapshots are sure to be consistent only if all writers are on this host",
                fs.name
            );
        }
    }
}

/// Checks what `config` asks for as far as that goes without opening or making anything: also that no pattern lies in the state
/// or in a folder store. Returns the store by its names.
///
/// # Errors
/// [`Error::Usage`] for what cannot be meant.
pub fn check_places(config: &Config, env: &Env) -> Result<Described> {
    config.check()?;
    let store = Store::describe(&config.store, env)?;
    own_files(config, store.folder.as_deref())?;
    Ok(store)
}

/// The first lines of `report` that concern the whole run, for a command that ends with it.
#[must_use]
pub fn store_error(report: &CycleReport, store: &str) -> Option<Error> {
    let failure = chain(report.store_down.as_ref()?);
    let what = match report.stored {
        0 => format!("cannot store anything in {store}: {failure}"),
        n => format!("stored {n} databases, then gave up on {store}: {failure}"),
    };
    Some(Error::Store { what })
}
