//! Puts heartbeats, in a thread of its own, with a store of its own: its requests are in no cycle's count.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use object_store::{Attributes, ObjectStore, PutMode, PutOptions};
use parking_lot::Mutex;

use super::{Heartbeat, LastHeartbeat, NOTE, timestamp};
use crate::access::{Access, until_given_up};
use crate::clock::{Clock, MILLISECOND, SECOND};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::layout::{heartbeat_key, heartbeats_of};
use crate::monitor::Monitor;
use crate::record::chain;
use crate::state::{StateDb, day_of};
use crate::store::{Env, Store, StoreOptions, classify};
use crate::timestamp::Timestamp;
use crate::upload::is_unsupported;

/// One that could not be put is tried again after this, or sooner where they come more often.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// Longest time between two looks at what is due: the clock may be set meanwhile.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Until the first cycle is over there is little to say.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// Another process may have taken a key of this very millisecond.
const KEYS_TRIED: i64 = 8;

/// Puts heartbeats for one loop.
#[derive(Debug)]
pub struct Heart {
    every: Duration,
    host: String,
    store: StoreOptions,
    env: Vec<(String, String)>,
    db: Arc<StateDb>,
    clock: Arc<dyn Clock>,
    control: Arc<Control>,
    monitor: Arc<Monitor>,
    born: Instant,
    /// The last attempts of this process: where the state takes no note, they are not made again and again.
    tried: Mutex<Tried>,
}

#[derive(Debug, Default)]
struct Tried {
    put: Option<Timestamp>,
    failed: Option<Instant>,
}

/// The thread that puts them; ends with the loop, which must have been asked to stop when this is dropped.
#[derive(Debug)]
pub struct Beside(Option<JoinHandle<()>>);

impl Drop for Beside {
    fn drop(&mut self) {
        if self.0.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread that stores heartbeats has failed");
        }
    }
}

impl Heart {
    /// One that puts what `monitor` says of `host` into the store that `store` and `env` describe.
    #[must_use]
    pub(crate) fn new(
        (every, host): (Duration, &str),
        (store, env): (&StoreOptions, &Env),
        db: Arc<StateDb>,
        clock: Arc<dyn Clock>,
        control: Arc<Control>,
        monitor: Arc<Monitor>,
    ) -> Self {
        let (store, env, host) = (store.clone(), env.to_vec(), host.to_owned());
        Self { every, host, store, env, db, clock, control, monitor, born: Instant::now(), tried: Mutex::default() }
    }

    /// Puts one when it is due, now and from now on, in a thread of its own.
    ///
    /// # Errors
    /// [`Error::Io`] if the system gives no thread.
    pub fn start(self) -> Result<Beside> {
        let work = move || {
            while !self.control.is_stopped() {
                if self.has_something_to_say() {
                    self.run_due();
                    self.control.pause(self.pause());
                } else {
                    self.control.pause(PAUSE_FIRST);
                }
            }
        };
        let thread = std::thread::Builder::new().name("heartbeat".into()).spawn(work);
        thread.map(|thread| Beside(Some(thread))).map_err(|source| Error::Io {
            attempt: "start the thread that stores heartbeats",
            path: PathBuf::new(),
            source,
        })
    }

    /// A cycle is over, or takes longer than the time between two heartbeats.
    fn has_something_to_say(&self) -> bool {
        self.born.elapsed() > self.every || self.monitor.vitals().last.is_some()
    }

    fn pause(&self) -> Duration {
        let wait_ms = self.due_ms().saturating_sub(self.clock.now() / MILLISECOND);
        Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0)).clamp(Duration::from_secs(1), PAUSE_MAX)
    }

    /// When the next one is due, ms since 1970. A last one in the future is one under another clock: it says nothing.
    fn due_ms(&self) -> i64 {
        let note = self.db.meta(NOTE).ok().flatten();
        let noted = note.and_then(|note| serde_json::from_str::<LastHeartbeat>(&note).ok());
        // Under another name it was another host's.
        let noted =
            noted.filter(|last| last.key.rsplit_once('/').is_some_and(|(of, _)| of == heartbeats_of(&self.host)));
        let noted = noted.map(|last| last.at);
        let now_ms = self.clock.now() / MILLISECOND;
        let last = [noted, self.tried.lock().put].into_iter().flatten().filter(|at| at.as_ms() <= now_ms).max();
        let every_ms = i64::try_from(self.every.as_millis()).unwrap_or(i64::MAX);
        last.map_or(now_ms, |last| last.as_ms().saturating_add(every_ms))
    }

    /// Puts one if it is due; tells whether it did. Failures are logged: nothing depends on it.
    pub fn run_due(&self) -> bool {
        let failed = self.tried.lock().failed;
        let is_early = failed.is_some_and(|failed| failed.elapsed() < RETRY_AFTER.min(self.every));
        if is_early || self.due_ms() > self.clock.now() / MILLISECOND {
            return false;
        }
        match self.run() {
            Ok(done) => done,
            Err(e) => {
                self.tried.lock().failed = Some(Instant::now());
                log::warn!("the heartbeat object is not stored: {}", chain(&e));
                false
            }
        }
    }

    fn run(&self) -> Result<bool> {
        let access = Access::open(&self.store, &self.env, 1, Arc::clone(&self.control))?;
        let put = self.put(&access);
        let asked = access.store.requests.snapshot();
        if let Err(e) = self.db.note_spent("heartbeat", &asked, day_of(self.clock.now() / SECOND)) {
            log::debug!("{}", chain(&e));
        }
        let Some(last) = put? else { return Ok(false) };
        log::debug!("heartbeat key={}", last.key);
        *self.tried.lock() = Tried { put: Some(last.at), failed: None };
        let note = serde_json::to_string(&last).expect("a note has only text and numbers");
        self.db.set_meta(NOTE, &note)?;
        Ok(true)
    }

    /// Puts one; `None` if a stop came first.
    fn put(&self, access: &Access) -> Result<Option<LastHeartbeat>> {
        let now = timestamp(self.clock.now())
            .ok_or_else(|| Error::Usage("the clock of this host is before 1970 or after 9999".into()))?;
        let (store, prefix) = (&access.store, heartbeats_of(&self.host));
        let failed = |e: &object_store::Error| Error::Store { what: format!("{}: {}", store.name, classify(e)) };
        for n in 0..KEYS_TRIED {
            let Some(time) = Timestamp::from_ms(now.as_ms() + n) else { break };
            let key = heartbeat_key(&prefix, time);
            let path = store.path(&key).map_err(|e| failed(&e))?;
            let said = Heartbeat::of(&self.monitor.vitals(), path.to_string(), self.every.as_secs());
            let put = put_new(store, &path, said.to_bytes());
            match access.runtime().block_on(until_given_up(&self.control, put)) {
                None => return Ok(None),
                Some(Ok(())) => return Ok(Some(LastHeartbeat { at: now, key })),
                // Ours, perhaps, after a lost answer: one more does no harm.
                Some(Err(object_store::Error::AlreadyExists { .. })) => {}
                Some(Err(e)) => return Err(failed(&e)),
            }
        }
        Err(Error::Store { what: format!("{}: every key of this moment is taken", store.name) })
    }
}

/// Creates an object, where the store can tell; in no storage class, for it is to be read at once.
async fn put_new(store: &Store, path: &object_store::path::Path, object: Vec<u8>) -> object_store::Result<()> {
    let options = PutOptions { attributes: Attributes::new(), ..store.create() };
    match store.inner.put_opts(path, object.clone().into(), options.clone()).await {
        Err(e) if is_unsupported(&e) => {
            let options = PutOptions { mode: PutMode::Overwrite, ..options };
            store.inner.put_opts(path, object.into(), options).await.map(drop)
        }
        other => other.map(drop),
    }
}
