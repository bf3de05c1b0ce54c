//! Pruning and verifying beside the loop, each on a schedule of its own and never as part of a cycle.
//!
//! Each run opens the store anew, so its requests are counted apart from the cycles', and between runs nothing is kept. When
//! each last ran is a note in `state.db`: a restart neither repeats nor skips one. A crash in mid-run repeats it.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::access::Access;
use crate::clock::{Clock, MILLISECOND, SECOND};
use crate::config::{Config, Schedule};
use crate::control::Control;
use crate::cycle::Silent;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::names::Names;
use crate::prune::{Heartbeats, PruneOptions, prune};
use crate::state::{StateDb, day_of};
use crate::store::{Env, StoreOptions};
use crate::timestamp::Timestamp;
use crate::verify::{Extent, VerifyOptions, verify};

/// Between two runs of prune.
pub const PRUNE_EVERY: Duration = Duration::from_secs(86_400);
/// A run that could not reach the store is tried again after this.
const RETRY_AFTER: Duration = Duration::from_secs(3600);
/// Shortest and longest time between two looks at what is due.
const PAUSE_MIN: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// Requests at once: the cycles go first.
const CONCURRENCY_MAX: usize = 16;
/// Lines that one run may add to the log.
const LINES_MAX: usize = 20;

/// The names of all that is done beside the loop.
pub const TASKS: [&str; 2] = ["prune", "verify"];

/// One of the things done beside the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Prune,
    Verify,
}

/// What the state remembers of the last run of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// When it began.
    pub at: Timestamp,
    /// As of the command of the same name.
    pub exit_code: u8,
    /// Its summary line, or the error that ended it.
    pub result: String,
}

impl Task {
    fn name(self) -> &'static str {
        match self {
            Self::Prune => "prune",
            Self::Verify => "verify",
        }
    }
}

/// The note of `state.db` that holds the [`LastRun`] of `task` (`prune` or `verify`).
#[must_use]
pub fn note_of(task: &str) -> String {
    format!("last_{task}")
}

/// Does what is due.
#[derive(Debug)]
pub struct Upkeep {
    schedule: Schedule,
    store: StoreOptions,
    env: Vec<(String, String)>,
    concurrency: usize,
    state_dir: PathBuf,
    /// The databases of this host, as far as the key template tells them from others.
    names: Names,
    /// This host's, where others may see to theirs.
    heartbeats: Heartbeats,
    db: Arc<StateDb>,
    clock: Arc<dyn Clock>,
    control: Arc<Control>,
    /// Is told of each run.
    monitor: Arc<Monitor>,
    /// The last runs of this process: where the state takes no note, they are not done again and again.
    ran: Mutex<Vec<(Task, LastRun)>>,
}

/// The thread that waits for what is due; ends with the loop, which must have been asked to stop when this is dropped.
#[derive(Debug)]
pub struct Beside(Option<JoinHandle<()>>);

impl Drop for Beside {
    fn drop(&mut self) {
        if self.0.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread that prunes and verifies has failed");
        }
    }
}

impl Upkeep {
    /// For the loop of `config`, whose state is `db`.
    ///
    /// # Errors
    /// [`Error::Usage`], if the beginning of the key template cannot be looked for.
    pub(crate) fn new(
        config: &Config,
        env: &Env,
        db: Arc<StateDb>,
        clock: Arc<dyn Clock>,
        control: Arc<Control>,
        monitor: Arc<Monitor>,
    ) -> Result<Self> {
        let (names, heartbeats) = match config.template.fixed_head(&config.host) {
            Some(head) => (Names::within(&head)?, Heartbeats::Of(config.host.clone())),
            None => (Names::all(), Heartbeats::All),
        };
        let upkeep = Self {
            schedule: config.upkeep.clone(),
            store: config.store.clone(),
            env: env.to_vec(),
            concurrency: config.concurrency.min(CONCURRENCY_MAX),
            state_dir: config.state_dir.clone(),
            names,
            heartbeats,
            db,
            clock,
            control,
            monitor,
            ran: Mutex::default(),
        };
        for (task, last) in upkeep.tasks().filter_map(|task| Some((task, upkeep.last(task)?))) {
            upkeep.monitor.upkeep_ran(task.name(), last);
        }
        Ok(upkeep)
    }

    /// Does what is due, now and from now on, in a thread of its own.
    ///
    /// # Errors
    /// [`Error::Io`] if the system gives no thread.
    pub fn start(self) -> Result<Beside> {
        let work = move || {
            while !self.control.is_stopped() {
                self.run_due();
                let next_ms = self.tasks().map(|task| self.due_ms(task)).min().unwrap_or(i64::MAX);
                let wait_ms = u64::try_from(next_ms.saturating_sub(self.now_ms())).unwrap_or(0);
                // Not to its end: the clock may be set meanwhile.
                self.control.pause(Duration::from_millis(wait_ms).clamp(PAUSE_MIN, PAUSE_MAX));
            }
        };
        let thread = std::thread::Builder::new().name("upkeep".into()).spawn(work);
        thread.map(|thread| Beside(Some(thread))).map_err(|source| Error::Io {
            attempt: "start the thread that prunes and verifies",
            path: PathBuf::new(),
            source,
        })
    }

    /// Does what is due now; returns the worst exit code of it.
    pub fn run_due(&self) -> u8 {
        let due = self.tasks().filter(|task| self.due_ms(*task) <= self.now_ms());
        due.take_while(|_| !self.control.is_stopped()).map(|task| self.run(task)).max().unwrap_or(0)
    }

    fn tasks(&self) -> impl Iterator<Item = Task> {
        let prune = (!self.schedule.keep.is_empty()).then_some(Task::Prune);
        prune.into_iter().chain(self.schedule.verify.map(|_| Task::Verify))
    }

    fn every(&self, task: Task) -> Duration {
        match (task, self.schedule.verify) {
            (Task::Verify, Some((every, _))) => every,
            _ => PRUNE_EVERY,
        }
    }

    fn now_ms(&self) -> i64 {
        self.clock.now() / MILLISECOND
    }

    fn due_ms(&self, task: Task) -> i64 {
        due_ms(self.last(task).as_ref(), self.every(task), self.now_ms())
    }

    /// Its last run, as the state or this process remembers it.
    fn last(&self, task: Task) -> Option<LastRun> {
        let note = self.db.meta(&note_of(task.name())).ok().flatten();
        let noted = note.and_then(|note| serde_json::from_str::<LastRun>(&note).ok());
        let ran = self.ran.lock().iter().rev().find(|(of, _)| *of == task).map(|(_, last)| last.clone());
        [noted, ran].into_iter().flatten().max_by_key(|last| last.at)
    }

    fn run(&self, task: Task) -> u8 {
        let Some(at) = Timestamp::from_ms(self.now_ms()) else { return 1 };
        let done = match task {
            Task::Prune => self.prune(at),
            Task::Verify => self.verify(at),
        };
        let (exit_code, result) = match done {
            Ok(done) => done,
            // A stop is no result; it is due again after the next start.
            Err(Error::Interrupted { .. }) => return 0,
            Err(e) => {
                log::error!("{}: {}", task.name(), crate::record::chain(&e));
                (e.exit_code(), crate::record::chain(&e))
            }
        };
        let last = LastRun { at, exit_code, result };
        let note = serde_json::to_string(&last).expect("a run has only text and numbers");
        self.monitor.upkeep_ran(task.name(), last.clone());
        let mut ran = self.ran.lock();
        ran.retain(|(of, _)| *of != task);
        ran.push((task, last));
        drop(ran);
        if let Err(e) = self.db.set_meta(&note_of(task.name()), &note) {
            log::error!("{}", crate::record::chain(&e));
        }
        exit_code
    }

    fn access(&self) -> Result<Access> {
        Access::open(&self.store, &self.env, self.concurrency, Arc::clone(&self.control))
    }

    /// What it asked of the store is counted under its name, also where it failed.
    fn count(&self, task: Task, access: &Access) {
        let day = day_of(self.clock.now() / SECOND);
        if let Err(e) = self.db.note_spent(task.name(), &access.store.requests.snapshot(), day) {
            log::debug!("{}", crate::record::chain(&e));
        }
    }

    fn prune(&self, now: Timestamp) -> Result<(u8, String)> {
        let options = PruneOptions {
            names: self.names.clone(),
            rules: self.schedule.keep,
            heartbeats: self.heartbeats.clone(),
            ..PruneOptions::default()
        };
        let access = self.access()?;
        let report = prune(&access, &options, now, &Silent);
        self.count(Task::Prune, &access);
        let report = report?;
        if let Some(signal) = report.interrupted {
            return Err(Error::Interrupted { signal });
        }
        tell("prune", report.exit_code(), &report.text());
        Ok((report.exit_code(), report.line()))
    }

    fn verify(&self, now: Timestamp) -> Result<(u8, String)> {
        let Some((_, share)) = self.schedule.verify else { return Ok((0, String::new())) };
        let options = VerifyOptions {
            names: self.names.clone(),
            extent: Extent::Sample(share),
            seed: None,
            mark: true,
            state_dir: Some(self.state_dir.clone()),
        };
        let access = self.access()?;
        let report = verify(&access, &options, now, &Silent);
        self.count(Task::Verify, &access);
        let report = report?;
        if let Some(signal) = report.interrupted {
            return Err(Error::Interrupted { signal });
        }
        // Before the first snapshot there is nothing to look at, and nothing wrong with that here.
        let nothing_yet =
            report.is_empty() && report.counts.snapshots == 0 && report.counts.requested.unwrap_or(0) == 0;
        let exit_code = if nothing_yet { 0 } else { report.exit_code().max(u8::from(report.is_empty())) };
        tell("verify", exit_code, &report.text());
        Ok((exit_code, report.line()))
    }
}

/// Logs a summary line and, if something is wrong, the first lines of what.
fn tell(task: &str, exit_code: u8, text: &str) {
    for line in text.lines().take(if exit_code == 0 { 1 } else { LINES_MAX }) {
        if exit_code == 0 { log::info!("{task}: {line}") } else { log::error!("{task}: {line}") }
    }
}

/// When a task is due that ran as `last` says. A run in the future was one under another clock: it says nothing.
fn due_ms(last: Option<&LastRun>, every: Duration, now_ms: i64) -> i64 {
    let Some(last) = last.filter(|last| last.at.as_ms() <= now_ms) else { return now_ms };
    let every = if last.exit_code > 1 { every.min(RETRY_AFTER) } else { every };
    last.at.as_ms().saturating_add(i64::try_from(every.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_has_its_name() {
        assert_eq!([Task::Prune, Task::Verify].map(Task::name), TASKS);
    }

    #[test]
    fn due_by_table() {
        let (day, hour, now) = (Duration::from_secs(86_400), 3_600_000, 1_000_000_000_000);
        let ran = |ago_ms: i64, exit_code| LastRun {
            at: Timestamp::from_ms(now - ago_ms).unwrap(),
            exit_code,
            result: String::new(),
        };
        for (last, due_in_ms) in [
            (None, 0),
            (Some(ran(0, 0)), 24 * hour),
            (Some(ran(23 * hour, 1)), hour),
            (Some(ran(25 * hour, 0)), -hour),
            (Some(ran(0, 3)), hour),
            (Some(ran(-hour, 0)), 0),
        ] {
            assert_eq!(due_ms(last.as_ref(), day, now) - now, due_in_ms, "{last:?}");
        }
    }
}
