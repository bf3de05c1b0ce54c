//! The litesnaps under test: the real binary, killed and started again, and the library in this process.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use litesnap::clock::SystemClock;
use litesnap::config::{Config, MEMORY_LIMIT_MIN, parse_patterns};
use litesnap::control::Control;
use litesnap::cycle::Silent;
use litesnap::error::Error;
use litesnap::replicate::Replicator;
use litesnap::report::CycleReport;
use litesnap::store::{Store, StoreOptions};
use parking_lot::Mutex;

pub(crate) const INTERVAL: Duration = Duration::from_millis(100);

/// What cycles said of themselves.
#[derive(Debug, Default, Clone)]
pub(crate) struct Told {
    pub(crate) cycles: u64,
    /// Sums of the numbers in the summaries, and of the reasons for doubts (`doubt:WORD`).
    pub(crate) sums: BTreeMap<String, u64>,
    /// What databases were named for since this was emptied, by path.
    pub(crate) named: BTreeMap<PathBuf, String>,
    /// Lines that no litesnap should ever write.
    pub(crate) alarms: Vec<String>,
}

impl Told {
    fn add(&mut self, name: &str, n: u64) {
        *self.sums.entry(name.to_owned()).or_default() += n;
    }

    /// A line of the log: `[TIME LEVEL MODULE] TEXT`.
    fn hear(&mut self, line: &str) {
        let text = line.split_once("] ").map_or(line, |(_, text)| text);
        if text.starts_with("cycle=") {
            return self.summary(text);
        }
        if line.contains("panicked") || text.contains("defect of litesnap") {
            self.alarms.push(line.to_owned());
        }
        let Some((path, what)) = text.strip_prefix("db=").and_then(|rest| rest.split_once(' ')) else { return };
        match what.strip_prefix("is read through SQLite: ") {
            Some(doubt) => self.add(&format!("doubt:{doubt}"), 1),
            None => drop(self.named.insert(path.into(), what.to_owned())),
        }
    }

    fn summary(&mut self, text: &str) {
        self.cycles += 1;
        for (name, n) in text.split(' ').filter_map(|word| word.split_once('=')) {
            if !["cycle", "databases", "elapsed_ms"].contains(&name) {
                self.add(name, n.parse().unwrap());
            }
        }
    }

    fn report(&mut self, report: &CycleReport) {
        self.summary(&report.line());
        for (doubt, n) in &report.reads.doubts {
            self.add(&format!("doubt:{}", doubt.word()), *n);
        }
        for unprotected in report.failures.named() {
            self.named.insert(unprotected.path.clone(), unprotected.failure.to_string());
        }
    }
}

/// A loop of the real binary.
pub(crate) struct Binary {
    make: Box<dyn Fn() -> Command + Send>,
    state: PathBuf,
    log: PathBuf,
    log_read: u64,
    child: Child,
    told: Told,
}

impl Binary {
    /// `make` gives the command for each start; its state lies in `state`, its log goes to `log`.
    pub(crate) fn start(make: impl Fn() -> Command + Send + 'static, state: PathBuf, log: PathBuf) -> Self {
        let child = spawn(&make, &log);
        Self { make: Box::new(make), state, log, log_read: 0, child, told: Told::default() }
    }

    /// SIGKILL, and another one at once, which has to make do with no state if that is lost. An error if it had ended by itself.
    pub(crate) fn kill_and_restart(&mut self, loses_state: bool) -> Result<(), String> {
        if let Some(status) = self.child.try_wait().unwrap() {
            return Err(format!("litesnap ended by itself with {status}; see {}", self.log.display()));
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        if loses_state {
            match fs::remove_dir_all(&self.state) {
                // Killed before it had made it.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.unwrap(),
            }
        }
        self.child = spawn(&*self.make, &self.log);
        Ok(())
    }

    fn told(&mut self) -> &mut Told {
        let mut file = File::open(&self.log).unwrap();
        file.seek(SeekFrom::Start(self.log_read)).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        bytes.truncate(bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1));
        self.log_read += bytes.len() as u64;
        String::from_utf8_lossy(&bytes).lines().for_each(|line| self.told.hear(line));
        &mut self.told
    }
}

fn spawn(make: &dyn Fn() -> Command, log: &PathBuf) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    make().stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

impl Drop for Binary {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Cycles of the library on a thread of this process.
pub(crate) struct Library {
    told: Arc<Mutex<Told>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Library {
    /// Opened anew, with the same state and store, every so many cycles.
    pub(crate) fn start(
        patterns: Vec<String>,
        state: PathBuf,
        store: Store,
        sqlite: impl Fn() -> bool + Send + 'static,
    ) -> Self {
        let (told, ends) = (Arc::<Mutex<Told>>::default(), Arc::<AtomicBool>::default());
        let (telling, ending) = (Arc::clone(&told), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            while !ending.load(Ordering::SeqCst) {
                let config = Config {
                    patterns: parse_patterns(&patterns, "/".as_ref()).unwrap(),
                    host: "host".into(),
                    state_dir: state.clone(),
                    memory_limit: MEMORY_LIMIT_MIN,
                    always_sqlite: sqlite(),
                    ..Config::new(StoreOptions::new("memory://"))
                };
                let (clock, control) = (Arc::new(SystemClock), Arc::new(Control::default()));
                let silent = Arc::new(Silent);
                let opened = Replicator::with_store(config, store.clone(), clock, Arc::clone(&control), silent);
                let mut replicator = match opened {
                    Ok(replicator) => replicator,
                    // A child that is just being started has inherited the lock of the one before, until its exec.
                    Err(Error::StateLocked { .. }) => {
                        std::thread::yield_now();
                        continue;
                    }
                    Err(e) => panic!("{e}"),
                };
                for _ in 0..50 {
                    let started = Instant::now();
                    telling.lock().report(&replicator.run_cycle(false));
                    control.wait_until(started + INTERVAL);
                    if ending.load(Ordering::SeqCst) {
                        break;
                    }
                }
            }
        });
        Self { told, ends, thread: Some(thread) }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        // Why it ended early, if it did, was noticed and is in the report.
        self.thread.take().map(JoinHandle::join).transpose().ok();
    }
}

pub(crate) enum Replica {
    Binary(Binary),
    Library(Library),
}

impl Replica {
    /// What it told so far.
    pub(crate) fn told(&mut self) -> Told {
        match self {
            Self::Binary(binary) => binary.told().clone(),
            Self::Library(library) => library.told.lock().clone(),
        }
    }

    /// Whether it ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        match self {
            Self::Binary(binary) => binary.child.try_wait().unwrap().is_some(),
            Self::Library(library) => library.thread.as_ref().is_none_or(JoinHandle::is_finished),
        }
    }

    /// Begins anew to note what databases are named for.
    pub(crate) fn forget_named(&mut self) {
        match self {
            Self::Binary(binary) => binary.told().named.clear(),
            Self::Library(library) => library.told.lock().named.clear(),
        }
    }
}
