//! The replicator: everything a cycle needs, one cycle, and the loop around it.
//!
//! `--once` is [`Replicator::run_cycle`] called once; the loop calls the same.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::budget::Budget;
use crate::clock::{Clock, Nanos, SECOND};
use crate::config::Config;
use crate::control::Control;
use crate::cycle::{Cycle, Observer};
use crate::error::{Error, Failure, Reason, Result};
use crate::fs::{create_private_dir, shown};
use crate::record::{Recorder, chain};
use crate::report::CycleReport;
use crate::scan::OwnFiles;
use crate::snapshot::{Reader, work_dir};
use crate::state::{Flags, Identity, Opened, Slot, StateDb, StateLock, Table, place_of};
use crate::store::{Described, Env, Kind, Store};
use crate::upload::{PARTS_SHARE_DIVISOR, Uploader};
use crate::watch::{Watch, slack};

/// A repeated complaint is logged at most this often.
const REPEAT: Duration = Duration::from_secs(30);
/// Threads for blocking work of the asynchronous side: a folder's files, name look-ups, compression of large copies.
const BLOCKING_THREADS: usize = 8;

/// What the threads of a cycle share.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) watch: Watch,
    pub(crate) store: Arc<Store>,
    pub(crate) reader: Reader,
    pub(crate) uploader: Arc<Uploader>,
    pub(crate) runtime: Runtime,
    /// The patterns are those under which everything known was seen.
    pub(crate) same_patterns: AtomicBool,
}

/// The asynchronous side. Ending it does not wait for calls that hang in a dead file system.
#[derive(Debug)]
pub(crate) struct Runtime(Option<tokio::runtime::Runtime>);

impl std::ops::Deref for Runtime {
    type Target = tokio::runtime::Runtime;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref().expect("taken only when dropped")
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Backs up what its [`Config`] names. Holds the state's lock as long as it lives.
#[derive(Debug)]
pub struct Replicator {
    // Before the engine: the recording thread uses the engine's runtime until it ends.
    recorder: Recorder,
    engine: Arc<Engine>,
    observer: Arc<dyn Observer>,
    cycles: u64,
    scan_no: u16,
    complaint: Complaint,
    said: Said,
    warned_unmatched: Vec<bool>,
    _lock: StateLock,
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
        let identity = identity(&config, &store);
        create_private_dir(&config.state_dir).map_err(|e| unusable_state(&config.state_dir, e))?;
        let path = state_path(&config.state_dir, &identity.store);
        let lock = StateLock::take(&path.with_extension("lock"))?;
        let (db, opened) = StateDb::open(&path, &identity, clock.now() / SECOND)?;
        tell_opened(&opened, &path, &store);
        warn_network(&config);
        let table = load(&db, slack(&config))?;
        let folder = if let Kind::Folder { root } = &store.kind { Some(root.as_path()) } else { None };
        let own = own_files(&config, folder)?;
        // Only ever compared: a form that another version writes differently is merely one that changed.
        let seen_under = format!("{:?} without {:?}", config.patterns, config.excludes);
        let same_patterns = AtomicBool::new(db.remember_patterns(&seen_under)?);
        let for_parts = config.memory_limit / u64::from(PARTS_SHARE_DIVISOR);
        let for_copies = Budget::new(config.memory_limit - for_parts);
        let reader = Reader::open(&work_dir(&path), for_copies, Arc::clone(&clock), Arc::clone(&control))
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
        let (db, table) = (Arc::new(db), Arc::new(table));
        let recorder = Recorder::start(
            Arc::clone(&store),
            Arc::clone(&db),
            Arc::clone(&table),
            slack(&config),
            runtime.handle().clone(),
        )?;
        let warned_unmatched = vec![false; config.patterns.len()];
        let watch = Watch::new(config, own, table, db, clock, control, pool);
        let engine = Arc::new(Engine { watch, store, reader, uploader, runtime, same_patterns });
        Ok(Self {
            recorder,
            engine,
            observer,
            cycles: 0,
            scan_no: 0,
            complaint: Complaint::default(),
            said: Said::default(),
            warned_unmatched,
            _lock: lock,
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

    /// One pass over everything: returns when each changed database is stored and recorded, or has failed.
    pub fn run_cycle(&mut self, ignore_cooldown: bool) -> CycleReport {
        let started = Instant::now();
        let requests = self.engine.store.requests.total();
        self.cycles += 1;
        let mut report = CycleReport { cycle: self.cycles, ..CycleReport::default() };
        let cycle =
            Cycle::new(Arc::clone(&self.engine), self.recorder.sender(), Arc::clone(&self.observer), ignore_cooldown);
        cycle.run(&mut self.scan_no, &mut report);
        self.recorder.flush();
        cycle.summarise(self.scan_no, &mut report);
        self.engine.watch.db.rest();
        report.requests = self.engine.store.requests.total() - requests;
        report.elapsed = started.elapsed();
        self.said.tell(&report.errors);
        report
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
        let (n, paths) = held(&self.engine.watch);
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
        } else if report.stored > 0 {
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

/// What a `--dry-run` finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The database.
    pub path: PathBuf,
    /// The key it would get, with the time of this run; or why it gets none.
    pub key: std::result::Result<String, String>,
    /// Why it would be read.
    pub why: &'static str,
}

/// Tells what a cycle would take up, from stamps alone: opens no database, makes no request, writes nothing.
///
/// # Errors
/// As [`Replicator::open`], but the state may be in use.
pub fn dry_run(config: Config, env: &Env, clock: Arc<dyn Clock>, mut tell: impl FnMut(Planned)) -> Result<CycleReport> {
    config.check()?;
    let address = Store::describe(&config.store, env)?;
    let identity = Identity {
        store: address.identity.clone(),
        template: config.template.as_str().to_owned(),
        host: config.host.clone(),
    };
    let path = state_path(&config.state_dir, &identity.store);
    let db = StateDb::open_for_reading(&path, &identity)?;
    let own = own_files(&config, address.folder.as_deref())?;
    let (pace, now_ms) = (config.pace, clock.now() / 1_000_000);
    let table = load(&db, slack(&config))?;
    let watch = Watch::new(config, own, Arc::new(table), Arc::new(db), clock, Arc::default(), pool()?);
    let mut report = CycleReport { cycle: 1, ..CycleReport::default() };
    let mut further = false;
    for scan_no in 1..=u16::MAX {
        let mut wave = watch.scan(scan_no, further, pace);
        if !further {
            report.matched = wave.matched;
            for error in wave.report.errors {
                wave.failures.push((error.path, crate::snapshot::io_failure("look at it", &error.source)));
            }
        }
        report.held = wave.held;
        let mut refused = wave.failures;
        refused.extend(wave.clashing.into_iter().map(|(candidate, failure)| (candidate.path.into(), failure)));
        wave.candidates.sort_by(|a, b| a.path.cmp(&b.path));
        for candidate in wave.candidates {
            let path = candidate.path.to_path_buf();
            match key_of(&watch, &address, &candidate, now_ms) {
                Ok(key) => tell(Planned { path, key: Ok(key), why: why(&candidate) }),
                Err(failure) => {
                    refused.push((path, failure));
                    continue;
                }
            }
            report.changed += 1;
        }
        refused.sort_by(|a, b| a.0.cmp(&b.0));
        for (path, failure) in refused {
            report.failures.add(&path, failure.clone());
            tell(Planned { path, key: Err(failure.to_string()), why: failure.reason.word() });
        }
        if !wave.more {
            break;
        }
        further = true;
    }
    for path in held(&watch).1 {
        tell(Planned { path, key: Err("held back by its cooldown".into()), why: "cooldown" });
    }
    watch.table.each(|slot| {
        report.databases += u64::from(slot.scan != 0 && !slot.flags.has(Flags::NOT_A_DATABASE));
    });
    Ok(report)
}

/// Changed databases whose cooldown is not over: how many, and their paths one by one.
fn held(watch: &Watch) -> (usize, impl Iterator<Item = PathBuf>) {
    let mut ids = Vec::new();
    watch.table.each(|slot| ids.extend(slot.flags.has(Flags::COOLING).then_some(slot.id)));
    (ids.len(), ids.into_iter().filter_map(|id| watch.db.row(id).ok().flatten().map(|row| row.path)))
}

fn why(candidate: &crate::watch::Candidate) -> &'static str {
    match candidate.why {
        // Its content would tell; its name and stamps do not.
        Some(crate::detect::Why::New) if candidate.by_magic => "new, if it is an SQLite database",
        Some(why) => why.word(),
        None => "refresh",
    }
}

fn key_of(
    watch: &Watch,
    address: &Described,
    candidate: &crate::watch::Candidate,
    now_ms: i64,
) -> std::result::Result<String, Failure> {
    let prefix = watch.prefix_of(candidate)?;
    crate::cycle::check_key(&address.prefix, &prefix, address.name_len_max())?;
    let last = watch.db.row(candidate.id).ok().flatten().and_then(|row| row.key_ms);
    let time =
        crate::timestamp::next_timestamp(now_ms, last).or_else(|| crate::timestamp::next_timestamp(now_ms, None));
    let (time, _) = time.ok_or_else(|| Failure::new(Reason::CopyFailed, "this clock is past the year 9999"))?;
    Ok(crate::layout::below(&address.prefix, &crate::layout::snapshot_key(&prefix, time)).into_owned())
}

fn identity(config: &Config, store: &Store) -> Identity {
    Identity {
        store: store.identity().to_owned(),
        template: config.template.as_str().to_owned(),
        host: config.host.clone(),
    }
}

/// One file per store and prefix: a readable part, and a hash that keeps similar ones apart.
fn state_path(dir: &Path, identity: &str) -> PathBuf {
    let mut slug: String = identity
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect::<String>()
        .split('-')
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("-");
    slug.truncate(48);
    let hash = twox_hash::XxHash3_64::oneshot(identity.as_bytes()) >> 32;
    dir.join(format!("{slug}-{hash:08x}.db"))
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

fn load(db: &StateDb, slack: Nanos) -> Result<Table> {
    let table = Table::default();
    db.load(|row| {
        let mut slot = Slot::unknown(row.id, 0);
        slot.stored_s = row.stored_s;
        if let Some(stamps) = row.stamps {
            let place = place_of(row.prefix.as_deref(), db.seed());
            slot.fingerprint = crate::detect::Fingerprint::of(&stamps, place, db.seed());
            let settled =
                row.error.as_deref().and_then(crate::error::Failure::parse).is_some_and(|f| f.reason.is_settled());
            slot.flags = Flags::NONE
                .with(Flags::RACY, crate::detect::is_racy(&stamps, row.stamped_at, slack))
                .with(Flags::NOT_A_DATABASE, settled)
                .with(Flags::FAILED, row.error.is_some() && !settled);
        }
        slot.failures = u8::from(row.error.is_some());
        table.put(slot);
    })?;
    Ok(table)
}

/// The state, with its temporary copies, and a folder store: never backed up, by path and by inode. A pattern below
/// one of them would match nothing, which nobody can mean.
fn own_files(config: &Config, folder_store: Option<&Path>) -> Result<OwnFiles> {
    let mut dirs = vec![config.state_dir.clone()];
    dirs.extend(folder_store.map(Path::to_path_buf));
    for (dir, pattern) in dirs.iter().flat_map(|dir| config.patterns.iter().map(move |p| (dir, p))) {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        if real(pattern.root()).starts_with(real(dir)) {
            return Err(Error::Usage(format!(
                "the pattern {} lies in {}, which is litesnap's own: give --state-dir or --store another folder",
                pattern.text(),
                dir.display()
            )));
        }
    }
    Ok(OwnFiles::new(&dirs))
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("store")
        .enable_all()
        .build()
        .map(|runtime| Runtime(Some(runtime)))
        .map_err(|source| Error::Io { attempt: "start the threads that upload", path: PathBuf::new(), source })
}

/// At least two threads, so that one large database does not stop all others.
fn pool() -> Result<rayon::ThreadPool> {
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).max(2);
    rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("read{n}")).build().map_err(|e| {
        Error::Io { attempt: "start the threads that read", path: PathBuf::new(), source: std::io::Error::other(e) }
    })
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
