//! From snapshots to confirmed objects: a bounded number of requests, every one with an end.
//!
//! Nothing is claimed here: each job ends as an [`Outcome`], and only [`record`](crate::record) writes it down. Every
//! put is create-only where the store honours that; no key is ever written twice with different content. A crash
//! leaves objects that no state knows: harmless, for the next cycle stores the same content under another key.

mod large;
pub(crate) mod queue;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

pub(crate) use large::part_size;

use bytes::Bytes;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::budget::{Budget, Permit};
use crate::clock::Nanos;
use crate::content::ContentHash;
use crate::control::Control;
use crate::error::{Failure, Reason};
use crate::layout;
use crate::object::Description;
use crate::snapshot::CompressedCopy;
use crate::stamps::Stamps;
use crate::store::{Store, classify};
use crate::timestamp::{Timestamp, next_timestamp};
use crate::window::{Passage, Window};

/// How long uploads in flight may go on after a stop was asked for. The whole process has ten seconds.
const GRACE: Duration = Duration::from_secs(6);
/// So often a wait under the upload limit says that it is one.
const LIMITED_SIGN: Duration = Duration::from_secs(1);
/// One part of the memory limit in so many is for the parts of large objects alone. They wait for memory while they hold
/// a request slot; copies and compressed objects hold memory while they wait for a slot: out of one share, each could
/// wait for the other for ever.
pub const PARTS_SHARE_DIVISOR: u32 = 2;
/// Failures in a row, all of the store as a whole, after which a cycle tries no further: eight, or 64 if they are refusals
/// by a store that has taken others.
const DOWN_AFTER: u32 = 8 * PARTIAL_DIVISOR;
const PARTIAL_DIVISOR: u32 = 8;
/// New keys tried when a key turns out to hold something else.
const KEYS_MAX: u32 = 3;

/// One snapshot on its way to the store.
#[derive(Debug)]
pub struct Job {
    /// Hash of the path; row id in the state.
    pub id: u64,
    /// Absolute path of the main file.
    pub path: PathBuf,
    /// Key prefix below the store's.
    pub prefix: String,
    /// The same, unless the path tells it: what the state keeps.
    pub row_prefix: Option<String>,
    /// The time in its key.
    pub key_time: Timestamp,
    /// Stamps from before the read.
    pub stamps: Stamps,
    /// When they were taken.
    pub stamped_at: Nanos,
    /// Its content.
    pub content_hash: ContentHash,
    /// What the object says of itself; the key is filled in here.
    pub description: Description,
    /// What to store.
    pub body: Body,
    /// Memory held for it.
    pub permit: Permit,
}

/// The content of a [`Job`].
#[derive(Debug)]
pub enum Body {
    /// Compressed already: an LZ4 frame.
    Frame(Bytes),
    /// An LZ4 frame in a temporary file.
    Copy(CompressedCopy),
}

/// How a job ended.
#[derive(Debug)]
pub enum Outcome {
    /// The store confirmed the object of this many bytes; the job's `key_time` is the one in its key.
    Stored(u64),
    /// It did not.
    Failed(Failure),
    /// Not tried, or not to its end: a stop was asked for.
    Untried,
}

/// Uploads jobs to one store. Lives as long as the process; costs nothing while there are none.
#[derive(Debug)]
pub struct Uploader {
    store: Arc<Store>,
    slots: Arc<Semaphore>,
    budget: Arc<Budget>,
    limiter: Limiter,
    control: Arc<Control>,
    time_max: Duration,
    creates: AtomicBool,
    snapshots: Reception,
    /// Apart from the snapshots: a store that will have no tombstones must not keep a snapshot waiting.
    tombstones: Reception,
    window: Arc<Window>,
}

/// How the store takes what is put into it, since this was last counted anew.
#[derive(Debug, Default)]
struct Reception {
    /// Failures in a row that concern the whole store.
    refused_in_a_row: AtomicU32,
    /// Something was stored.
    stores: AtomicBool,
}

impl Reception {
    fn is_down(&self) -> bool {
        self.refused_in_a_row.load(Ordering::Relaxed) >= DOWN_AFTER
    }

    fn forget(&self) {
        self.refused_in_a_row.store(0, Ordering::Relaxed);
        self.stores.store(false, Ordering::Relaxed);
    }

    fn note(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Failed(f) if f.reason.concerns_store() => {
                // A store that takes some and refuses others is not down: a policy or a folder's rights tell them apart.
                let is_partial = f.reason == Reason::StoreRefused && self.stores.load(Ordering::Relaxed);
                let weight = if is_partial { 1 } else { PARTIAL_DIVISOR };
                self.refused_in_a_row.fetch_add(weight, Ordering::Relaxed);
            }
            Outcome::Untried => {}
            Outcome::Stored(_) if !self.stores.swap(true, Ordering::Relaxed) => self.note(outcome),
            // Once a cycle has given up, an answer that comes late does not change what it left out.
            _ => {
                let reset = |n| (n < DOWN_AFTER).then_some(0);
                self.refused_in_a_row.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reset).ok();
            }
        }
    }
}

/// A request slot, held while bytes are on their way.
pub(crate) type Slot = OwnedSemaphorePermit;

impl Uploader {
    /// `budget` is for the parts of large objects alone. At most `concurrency` requests at once, `bytes_per_s` bytes a
    /// second (0 for no limit), each upload done or given up within a time that `request_timeout` sets.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        budget: Arc<Budget>,
        control: Arc<Control>,
        concurrency: usize,
        bytes_per_s: u64,
        request_timeout: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            slots: Arc::new(Semaphore::new(concurrency)),
            budget,
            limiter: Limiter::new(bytes_per_s),
            control,
            // A hung attempt ends after the request timeout; the retries of a busy store take half a minute, a last pause
            // of 3 s and a last attempt: what they end with says more than that the time was up.
            time_max: request_timeout * 2 + Duration::from_secs(40),
            creates: AtomicBool::new(true),
            snapshots: Reception::default(),
            tombstones: Reception::default(),
            window: Window::new(request_timeout),
        })
    }

    /// Whether so many uploads in a row failed because of the store as a whole that no more are tried.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.snapshots.is_down()
    }

    /// Whether no more tombstones are tried, for the same reason.
    pub(crate) fn takes_no_tombstones(&self) -> bool {
        self.tombstones.is_down() || self.is_down()
    }

    /// Starts counting anew.
    pub fn forget_refusals(&self) {
        self.snapshots.forget();
        self.tombstones.forget();
    }

    /// Waits for a request slot.
    pub(crate) async fn slot(&self) -> Slot {
        Arc::clone(&self.slots).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Puts a tombstone, create-only. What is there already under its key says the same, for such a key means one thing
    /// only: most likely it is our own, and an answer was lost. The caller holds a [`Slot`].
    pub(crate) async fn put_tombstone(&self, path: &object_store::path::Path, object: Bytes) -> Outcome {
        if self.control.is_stopped() || self.takes_no_tombstones() {
            return Outcome::Untried;
        }
        let bytes = u64::try_from(object.len()).unwrap_or(u64::MAX);
        let outcome = match self.in_time(bytes, self.put_once(path, object.into(), &self.store.create())).await {
            Ok(Put::Done | Put::Exists) => Outcome::Stored(bytes),
            Err(Stopped::Failed(failure)) => Outcome::Failed(failure),
            Err(Stopped::Interrupted) => Outcome::Untried,
        };
        self.tombstones.note(&outcome);
        outcome
    }

    /// Uploads all `jobs` until their sender is dropped, and hands each one's end to `ended`.
    pub(crate) async fn run<F, R>(self: Arc<Self>, mut jobs: queue::Receiver<Job>, ended: F)
    where
        F: Fn(Job, Outcome) -> R + Clone + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let mut under_way = JoinSet::new();
        while let Some(job) = jobs.recv().await {
            while under_way.try_join_next().is_some() {}
            let slot = self.slot().await;
            let (uploader, ended) = (Arc::clone(&self), ended.clone());
            under_way.spawn(async move {
                let mut job = job;
                let outcome = uploader.one(&mut job, slot, &uploader.store.create()).await;
                uploader.snapshots.note(&outcome);
                ended(job, outcome).await;
            });
        }
        while under_way.join_next().await.is_some() {}
    }

    /// Whether `job` had better be [put here](Self::put_here): it is in memory, and the store waits for no answer.
    #[must_use]
    pub fn takes_here(&self, job: &Job) -> bool {
        matches!(job.body, Body::Frame(_)) && self.store.puts_at_once()
    }

    /// Uploads `job` on the thread that polls this, which may be blocked meanwhile: handing a few system calls to another thread
    /// would cost as much as they do.
    pub async fn put_here(&self, job: &mut Job) -> Outcome {
        let slot = self.slot().await;
        let outcome = self.one(job, slot, &self.store.create_here()).await;
        self.snapshots.note(&outcome);
        outcome
    }

    async fn one(&self, job: &mut Job, slot: Slot, options: &PutOptions) -> Outcome {
        if self.control.is_stopped() || self.is_down() {
            return Outcome::Untried;
        }
        let body = std::mem::replace(&mut job.body, Body::Frame(Bytes::new()));
        let ended = match body {
            Body::Frame(frame) => self.put_frame(job, frame, options).await,
            Body::Copy(copy) => self.put_copy(job, copy, slot).await,
        };
        match ended {
            Ok(bytes) => Outcome::Stored(bytes),
            Err(Stopped::Failed(failure)) => Outcome::Failed(failure),
            Err(Stopped::Interrupted) => Outcome::Untried,
        }
    }

    async fn grace_is_over(&self) {
        self.control.until_stopped().await;
        tokio::time::sleep(GRACE).await;
    }

    fn timed_out(&self) -> Failure {
        Failure::new(Reason::StoreTimeout, format!("no answer from {} within {:?}", self.store.name, self.time_max))
    }

    /// Puts an object that is in memory as a whole.
    async fn put_frame(&self, job: &mut Job, frame: Bytes, options: &PutOptions) -> Result<u64, Stopped> {
        for _ in 0..KEYS_MAX {
            let path = self.name(job)?;
            let mut tail = Vec::with_capacity(1024);
            job.description.append_to(&mut tail);
            let object: PutPayload = [frame.clone(), Bytes::from(tail)].into_iter().collect();
            if let Some(bytes) = self.put_whole(&path, object, options).await? {
                return Ok(bytes);
            }
            next_key(job)?;
        }
        Err(no_free_key())
    }

    /// The job's path in the store, written into its description.
    fn name(&self, job: &mut Job) -> Result<object_store::path::Path, Failure> {
        let key = layout::snapshot_key(&job.prefix, job.key_time);
        let path = self.store.path(&key).map_err(|e| Failure::new(Reason::KeyTooLong, e.to_string()))?;
        job.description.key = path.to_string();
        Ok(path)
    }

    /// One create-only put within its time; the object's size, or `None` if the key is taken by something else.
    async fn put_whole(
        &self,
        path: &object_store::path::Path,
        object: PutPayload,
        options: &PutOptions,
    ) -> Result<Option<u64>, Stopped> {
        let bytes = u64::try_from(object.content_length()).unwrap_or(u64::MAX);
        let put = async {
            match self.put_once(path, object.clone(), options).await? {
                Put::Done => Ok(true),
                // An answer that was lost and a retry look like this: the object may be our own.
                Put::Exists => Ok(self.holds(path, &object).await),
            }
        };
        Ok(self.in_time(bytes, put).await?.then_some(bytes))
    }

    /// Makes a `put` of so many bytes in its turn and within its time.
    async fn in_time<T>(&self, bytes: u64, put: impl Future<Output = Result<T, Stopped>>) -> Result<T, Stopped> {
        let passage = self.may_send(bytes).await?;
        let put = tokio::select! {
            put = tokio::time::timeout(self.time_max, put) => {
                put.unwrap_or_else(|_| Err(self.timed_out().into()))
            }
            () = self.grace_is_over() => Err(Stopped::Interrupted),
        };
        match &put {
            Ok(_) => passage.arrived(),
            Err(Stopped::Failed(f)) if f.reason == Reason::StoreTimeout => passage.timed_out(),
            Err(_) => drop(passage),
        }
        put
    }

    /// Waits for its turn under the upload limit, and for room on the line. That takes as long as it takes: it is not the
    /// store's time.
    async fn may_send(&self, bytes: u64) -> Result<Passage, Stopped> {
        let turn = async {
            // Waiting for one's turn under a limit that was asked for is no hang.
            let mut waited = std::pin::pin!(self.limiter.wait_for(bytes));
            while tokio::time::timeout(LIMITED_SIGN, &mut waited).await.is_err() {
                self.control.gets_on();
            }
            self.window.enter(bytes).await
        };
        tokio::select! {
            biased;
            passage = turn => Ok(passage),
            () = self.control.until_stopped() => Err(Stopped::Interrupted),
        }
    }

    /// One create-only put.
    async fn put_once(
        &self,
        path: &object_store::path::Path,
        object: PutPayload,
        options: &PutOptions,
    ) -> Result<Put, Stopped> {
        let create = self.creates.load(Ordering::Relaxed);
        let mode = if create { PutMode::Create } else { PutMode::Overwrite };
        let with_mode = PutOptions { mode, ..options.clone() };
        match self.store.inner.put_opts(path, object.clone(), with_mode).await {
            Ok(_) => Ok(Put::Done),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) if create => {
                Ok(Put::Exists)
            }
            Err(e) if create && is_unsupported(&e) => {
                // Of all puts that learn it at the same time, one says so.
                if self.creates.swap(false, Ordering::Relaxed) {
                    let (name, detail) = (&self.store.name, classify(&e).detail);
                    log::warn!("{name} does not do create-only puts ({detail}); keys are unique without them");
                }
                Box::pin(self.put_once(path, object, options)).await
            }
            Err(e) => Err(classify(&e).into()),
        }
    }

    /// Whether the object at `path` is `ours`, where we may read it.
    async fn holds(&self, path: &object_store::path::Path, ours: &PutPayload) -> bool {
        let theirs = match self.store.inner.get(path).await {
            Ok(got) if got.meta.size == u64::try_from(ours.content_length()).unwrap_or(u64::MAX) => got.bytes().await,
            _ => return false,
        };
        theirs.is_ok_and(|theirs| theirs == Bytes::from(ours.clone()))
    }
}

/// What a create-only put found.
enum Put {
    Done,
    /// Something lies under the key already.
    Exists,
}

/// Why an upload did not end in an object.
enum Stopped {
    Failed(Failure),
    Interrupted,
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The key holds another object, or one that we may not read: never overwritten, stored under the next key.
fn next_key(job: &mut Job) -> Result<(), Failure> {
    let later = next_timestamp(0, Some(job.key_time.as_ms()));
    job.key_time = later.ok_or_else(|| Failure::new(Reason::StoreError, "no later key is left"))?.0;
    Ok(())
}

fn no_free_key() -> Stopped {
    Failure::new(Reason::StoreError, format!("{KEYS_MAX} keys in a row were taken already")).into()
}

/// Whether a store says that it does not know conditional puts: 501 is what S3 has for a header not implemented.
pub(crate) fn is_unsupported(error: &object_store::Error) -> bool {
    use object_store::Error::{NotImplemented, NotSupported};
    matches!(error, NotImplemented { .. } | NotSupported { .. }) || crate::store::answered_status(error) == Some(501)
}

/// Spaces uploads out so that no more than a given number of bytes leaves in a second.
#[derive(Debug)]
struct Limiter {
    bytes_per_s: u64,
    /// When the next upload may begin; `None` before the first.
    next: Mutex<Option<Instant>>,
}

impl Limiter {
    fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, next: Mutex::default() }
    }

    async fn wait_for(&self, bytes: u64) {
        if self.bytes_per_s > 0 {
            let start = self.begin(bytes, Instant::now());
            tokio::time::sleep_until(start).await;
        }
    }

    /// When an upload of `bytes` that is ready `now` may begin: after those before it had their time.
    fn begin(&self, bytes: u64, now: Instant) -> Instant {
        let mut next = self.next.lock();
        let start = next.map_or(now, |next| next.max(now));
        let rate = u32::try_from(self.bytes_per_s).unwrap_or(u32::MAX);
        *next = Some(start + Duration::from_secs(bytes) / rate);
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upload_limit_gives_each_its_time_in_turn() {
        let (limiter, t0) = (Limiter::new(1000), Instant::now());
        let at = |ms| t0 + Duration::from_millis(ms);
        // (ready, bytes, begins), in ms.
        let table = [
            (0, 500, 0),
            (0, 1500, 500),
            (100, 1, 2000),
            (100, 0, 2001),
            (2001, 4_000_000, 2001),
            (2002, 1, 4_002_001),
            // A pause is not saved up for a burst.
            (5_000_000, 1000, 5_000_000),
            (5_000_000, 1000, 5_001_000),
        ];
        for (ready, bytes, begins) in table {
            assert_eq!(limiter.begin(bytes, at(ready)), at(begins), "{bytes} bytes ready at {ready} ms");
        }
        let fast = Limiter::new(1 << 40);
        fast.begin(1 << 32, t0);
        assert!(fast.begin(1, t0) <= at(1001), "above 4 GiB/s nobody looks that closely");
    }
}
