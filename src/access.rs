//! A store opened for the commands that look at, bring back or remove what is stored: listing, fetching, and running
//! something over many objects at once, all within limits.
//!
//! Requests are made on one runtime thread; what is fetched is worked on by as many threads as there are cores, and a
//! large object, which arrives in pieces, by a thread of its own.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{StreamExt, stream};
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::budget::{Budget, Permit};
use crate::catalogue::{Catalogue, Location, Snapshot};
use crate::control::Control;
use crate::engine::Runtime;
use crate::error::{Failure, Reason, Result};
use crate::names::Names;
use crate::object::{Description, ObjectError, TAIL_LEN_USUAL, Tail, read_description};
use crate::store::{Env, Kind, Store, StoreOptions, answered_status, classify};

/// Objects up to this size are fetched as a whole before they are worked on.
const WHOLE_MAX: u64 = 2 << 20;
/// Memory for objects fetched and not yet worked on.
const MEMORY: u64 = 24 << 20;
/// Larger objects worked on at once.
const LARGE_AT_ONCE: usize = 3;
/// Pieces of a large object that may wait for the thread that works on it; one is what came in one read from the network.
const PIECES: usize = 16;
/// How long requests under way may go on after a stop was asked for.
const GRACE: Duration = Duration::from_secs(5);
/// Failures in a row, all of the store as a whole, after which nothing further is asked of it.
const DOWN_AFTER: u32 = 8;

/// A store, opened to be looked at.
#[derive(Debug)]
pub struct Access {
    /// The store.
    pub store: Arc<Store>,
    /// Asks to stop.
    pub control: Arc<Control>,
    runtime: Runtime,
    concurrency: usize,
    /// The prefix that keys had where they were written, if this store is a copy of another.
    moved_from: Option<String>,
    health: Arc<Health>,
}

/// Failures of the store as a whole.
#[derive(Debug, Default)]
struct Health {
    in_a_row: AtomicU32,
    last: Mutex<Option<Failure>>,
}

impl Health {
    fn is_down(&self) -> bool {
        self.in_a_row.load(Ordering::Relaxed) >= DOWN_AFTER
    }

    fn note<T>(&self, store: &Store, got: object_store::Result<T>) -> Result<T, FetchError> {
        let failure = match got {
            Ok(got) => {
                self.in_a_row.store(0, Ordering::Relaxed);
                return Ok(got);
            }
            Err(object_store::Error::NotFound { .. }) if is_there(store) => return Err(FetchError::Missing),
            Err(e) => classify(&e),
        };
        if failure.reason.concerns_store() {
            self.in_a_row.fetch_add(1, Ordering::Relaxed);
            *self.last.lock() = Some(failure.clone());
        }
        Err(FetchError::Store(failure))
    }
}

/// Below a folder that is gone every object is missing: that says nothing about the objects.
fn is_there(store: &Store) -> bool {
    !matches!(&store.kind, Kind::Folder { root } if !root.is_dir())
}

/// Why an object could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// There is no object under its key.
    #[error("there is no such object any more")]
    Missing,
    /// The bytes are not the object that was asked for.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The store failed; says nothing about the object.
    #[error("{0}")]
    Store(Failure),
    /// Not tried: a stop was asked for, or the store had failed too often.
    #[error("not tried")]
    Untried,
}

impl FetchError {
    /// The fixed word, for counts and logs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Object(e) => e.word(),
            Self::Store(failure) => failure.reason.word(),
            Self::Untried => "untried",
        }
    }
}

/// The bytes of an object, read as they come.
pub struct Body {
    bytes: Bytewise,
    control: Arc<Control>,
}

enum Bytewise {
    /// In memory; the permit is the budget's.
    Whole(bytes::buf::Reader<Bytes>, #[expect(dead_code, reason = "held for as long as the bytes are")] Option<Permit>),
    /// In a folder.
    File(io::Take<File>),
    /// On their way, in pieces.
    Coming { piece: Bytes, more: mpsc::Receiver<io::Result<Bytes>> },
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").finish_non_exhaustive()
    }
}

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.bytes {
            Bytewise::Whole(bytes, _) => bytes.read(buf),
            // A large one takes its time: a stop need not wait for it.
            _ if self.control.is_stopped() => Err(stopped()),
            Bytewise::File(file) => file.read(buf),
            Bytewise::Coming { piece, more } => {
                while piece.is_empty() {
                    match more.blocking_recv() {
                        Some(next) => *piece = next?,
                        None => return Ok(0),
                    }
                }
                let n = buf.len().min(piece.len());
                piece.copy_to_slice(&mut buf[..n]);
                Ok(n)
            }
        }
    }
}

/// One object to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where it lies.
    pub location: Location,
    /// Bytes it takes in the store.
    pub size: u64,
}

impl From<&Snapshot> for Wanted {
    fn from(snapshot: &Snapshot) -> Self {
        Self { location: snapshot.location.clone(), size: snapshot.stored_size }
    }
}

impl Wanted {
    /// What to ask the store for to get the bytes `range` of it.
    fn options(&self, range: Range<u64>) -> GetOptions {
        let whole = range == (0..self.size) && self.location.range.is_none();
        let start = self.location.range.as_ref().map_or(0, |r| r.start);
        let range = (!whole).then(|| GetRange::Bounded(start + range.start..start + range.end));
        GetOptions { range, ..GetOptions::default() }
    }
}

impl Access {
    /// Opens the store that `options` and `env` describe; a folder must be there. Nothing is sent yet. At most
    /// `concurrency` requests are under way at once.
    ///
    /// # Errors
    /// [`crate::error::Error::Usage`] for what cannot be meant, [`crate::error::Error::Store`] for a folder that is not there.
    pub fn open(options: &StoreOptions, env: &Env, concurrency: usize, control: Arc<Control>) -> Result<Self> {
        Self::with_store(Arc::new(Store::open_existing(options, env)?), concurrency, control)
    }

    /// The same with a store that is open already.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`] if the system gives no thread.
    pub fn with_store(store: Arc<Store>, concurrency: usize, control: Arc<Control>) -> Result<Self> {
        let runtime = crate::engine::runtime()?;
        Ok(Self { store, control, runtime, concurrency, moved_from: None, health: Arc::default() })
    }

    /// Takes the store for a copy of one whose keys began with `prefix` (no prefix if it is empty).
    #[must_use]
    pub fn moved_from(mut self, prefix: Option<&str>) -> Self {
        self.moved_from = prefix.map(|prefix| prefix.trim_matches('/').to_owned());
        self
    }

    /// Where the asynchronous side runs.
    #[must_use]
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        self.runtime.handle()
    }

    /// Requests that may be under way at once.
    #[must_use]
    pub fn concurrency(&self) -> usize {
        self.concurrency
    }

    /// Lists what there is of the databases that `names` means: one LIST per 1,000 objects.
    ///
    /// # Errors
    /// [`crate::error::Error::Store`] if any part could not be listed: half a list would be a wrong one.
    /// [`crate::error::Error::Interrupted`].
    pub fn catalogue(&self, names: &Names) -> Result<Catalogue> {
        crate::listing::list(self, names)
    }

    /// The key that the description of an object at `key` (below the store's prefix) must name.
    #[must_use]
    pub fn described_key(&self, key: &str) -> String {
        let prefix = self.moved_from.as_deref().unwrap_or(&self.store.prefix);
        if prefix.is_empty() { key.to_owned() } else { format!("{prefix}/{key}") }
    }

    /// Decodes the object at `location`, of which `body` gives the bytes, and writes the database to `image`, which must be
    /// thrown away on any error. Everything is checked.
    ///
    /// # Errors
    /// See [`crate::object::decode`].
    pub fn decode(
        &self,
        location: &Location,
        body: impl Read,
        image: &mut impl io::Write,
    ) -> Result<Description, ObjectError> {
        crate::object::decode(body, Some(&self.described_key(&location.key)), image)
    }

    /// What an object says about itself: one GET of its end. The key that it names is checked, and its size; its content
    /// is not.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub fn describe(&self, wanted: &Wanted) -> Result<Description, FetchError> {
        self.runtime.block_on(self.describe_async(wanted))
    }

    async fn describe_async(&self, wanted: &Wanted) -> Result<Description, FetchError> {
        let len = (TAIL_LEN_USUAL as u64).min(wanted.size);
        let end = self.get(wanted, wanted.size - len..wanted.size).await?;
        self.read_described(wanted, end).await
    }

    /// Reads the description in `end`, the last bytes of the object; asks for more where these do not hold it.
    async fn read_described(&self, wanted: &Wanted, mut end: Bytes) -> Result<Description, FetchError> {
        let size = wanted.size;
        let (description, object_size) = loop {
            let len = end.len() as u64;
            match read_description(&end)? {
                Tail::Whole { description, object_size } => break (*description, object_size),
                Tail::NeedMore(more) if len < size => {
                    let len = (more as u64).clamp(len + 1, size);
                    end = self.get(wanted, size - len..size).await?;
                }
                Tail::NeedMore(_) => return Err(ObjectError::Truncated.into()),
            }
        };
        if object_size != size {
            return Err(ObjectError::WrongHash("size of the object").into());
        }
        let expected = self.described_key(&wanted.location.key);
        if description.key != expected {
            return Err(ObjectError::WrongKey { expected, found: description.key }.into());
        }
        Ok(description)
    }

    /// What the object at `key` (below the store's prefix) says about itself, and its size in the store, which nobody knows
    /// yet: one GET of its end. Checked as by [`Access::describe`].
    ///
    /// # Errors
    /// See [`FetchError`].
    pub fn describe_key(&self, key: &str) -> Result<(Description, u64), FetchError> {
        let describe = async {
            let (end, size) = self.end(key, TAIL_LEN_USUAL as u64).await?;
            let description = self.read_described(&Self::at(key, size), end).await?;
            Ok((description, size))
        };
        let described = self.runtime.block_on(until_given_up(&self.control, describe));
        described.unwrap_or(Err(FetchError::Untried))
    }

    /// The bytes of an object that is known to have `size` of them: in one request without a range, which not every server knows.
    ///
    /// # Errors
    /// See [`FetchError`]; never [`FetchError::Object`].
    pub fn read_all(&self, key: &str, size: u64) -> Result<Bytes, FetchError> {
        let wanted = Self::at(key, size);
        let read = self.runtime.block_on(until_given_up(&self.control, self.get(&wanted, 0..size)));
        read.unwrap_or(Err(FetchError::Untried))
    }

    /// The bytes of a small object, a tombstone or a marker: the last `len_max` of them if there are more.
    ///
    /// # Errors
    /// See [`FetchError`]; never [`FetchError::Object`].
    pub fn read_small(&self, key: &str, len_max: u64) -> Result<Bytes, FetchError> {
        let end = self.runtime.block_on(until_given_up(&self.control, self.end(key, len_max)));
        end.unwrap_or(Err(FetchError::Untried)).map(|(end, _)| end)
    }

    fn at(key: &str, size: u64) -> Wanted {
        Wanted { location: Location { key: key.to_owned(), range: None }, size }
    }

    /// The last `len` bytes of the object at `key`, or all if there are fewer, and its size.
    async fn end(&self, key: &str, len: u64) -> Result<(Bytes, u64), FetchError> {
        if self.stops() {
            return Err(FetchError::Untried);
        }
        // Azure knows no range that is counted from the end.
        if self.store.kind == Kind::Azure {
            let options = GetOptions { head: true, ..GetOptions::default() };
            let size = self.health.note(&self.store, self.ask(key, options).await)?.meta.size;
            return if size == 0 {
                Ok((Bytes::new(), 0))
            } else {
                Ok((self.get(&Self::at(key, size), size.saturating_sub(len)..size).await?, size))
            };
        }
        let options = GetOptions { range: Some(GetRange::Suffix(len)), ..GetOptions::default() };
        let got = match self.ask(key, options).await {
            // An object without bytes has no range in it.
            Err(e) if answered_status(&e) == Some(416) => return Ok((Bytes::new(), 0)),
            Err(e) => Err(e),
            Ok(got) => {
                let size = got.meta.size;
                got.bytes().await.map(|end| (end, size))
            }
        };
        self.health.note(&self.store, got)
    }

    async fn ask(&self, key: &str, options: GetOptions) -> object_store::Result<GetResult> {
        self.store.inner.get_opts(&self.store.path(key)?, options).await
    }

    async fn get(&self, wanted: &Wanted, range: Range<u64>) -> Result<Bytes, FetchError> {
        if self.stops() {
            return Err(FetchError::Untried);
        }
        let get = async {
            match open(&self.store, wanted, range).await {
                Ok(got) => got.bytes().await,
                Err(e) => Err(e),
            }
        };
        let got = until_given_up(&self.control, get).await.ok_or(FetchError::Untried)?;
        self.health.note(&self.store, got)
    }

    /// Calls `visit` with what each object says about itself, in the order of `tasks`; many are asked for at once. After a
    /// stop, or when the store has failed too often, the rest gets [`FetchError::Untried`].
    ///
    /// # Errors
    /// The first of `visit`.
    pub fn describe_each<T, E>(
        &self,
        tasks: impl IntoIterator<Item = (T, Wanted)>,
        mut visit: impl FnMut(T, Result<Description, FetchError>) -> Result<(), E>,
    ) -> Result<(), E> {
        let described = tasks.into_iter().map(|(task, wanted)| async move {
            let description = self.describe_async(&wanted).await;
            (task, description)
        });
        let mut described = stream::iter(described).buffered(self.concurrency);
        while let Some((task, description)) = self.runtime.block_on(described.next()) {
            visit(task, description)?;
        }
        Ok(())
    }

    /// The failure of the store as a whole after which nothing further is asked of it, if there was one.
    #[must_use]
    pub fn down(&self) -> Option<Failure> {
        self.health.is_down().then(|| self.health.last.lock().clone()).flatten()
    }

    /// The last failure of the store as a whole, whether or not it worked again afterwards.
    #[must_use]
    pub fn last_failure(&self) -> Option<Failure> {
        self.health.last.lock().clone()
    }

    fn stops(&self) -> bool {
        self.control.is_stopped() || self.health.is_down()
    }

    /// Fetches what each of `tasks` names, many at once, and calls `work` with each and its bytes, on several threads;
    /// returns when all are done. One GET each, and another where an answer broke off. After a stop, or when the store
    /// has failed too often, the rest gets [`FetchError::Untried`].
    pub fn for_each_object<T, W>(&self, tasks: impl IntoIterator<Item = (T, Wanted)>, work: W)
    where
        T: Send + 'static,
        W: Fn(T, Result<Body, FetchError>) + Sync,
    {
        let threads = thread::available_parallelism().map_or(2, std::num::NonZero::get).max(2);
        let (fetched, inbox) = mpsc::channel::<(T, Result<Body, FetchError>)>(threads * 2);
        // Belongs to those who work: if a defect ended all of them, what is fetched would wait for nobody.
        let inbox = Arc::new(Mutex::new(inbox));
        let budget = Budget::new(MEMORY);
        let slots = Arc::new(Semaphore::new(self.concurrency));
        let large = Arc::new(Semaphore::new(LARGE_AT_ONCE));
        thread::scope(|scope| {
            for _ in 0..threads {
                let (inbox, work) = (Arc::clone(&inbox), &work);
                scope.spawn(move || {
                    loop {
                        let next = inbox.lock().blocking_recv();
                        let Some((task, body)) = next else { break };
                        work(task, body);
                    }
                });
            }
            drop(inbox);
            for (task, wanted) in tasks {
                if self.stops() {
                    work(task, Err(FetchError::Untried));
                } else if wanted.size > WHOLE_MAX {
                    let turn = self.wait_for(&large);
                    let body = self.stream(wanted, self.wait_for(&slots));
                    let work = &work;
                    scope.spawn(move || {
                        work(task, body);
                        drop(turn);
                    });
                } else {
                    let permit = budget.take(wanted.size.max(1));
                    let slot = self.wait_for(&slots);
                    self.fetch_whole(wanted, permit, slot, |body| (task, body), fetched.clone());
                }
            }
            drop(fetched);
        });
    }

    fn wait_for(&self, slots: &Arc<Semaphore>) -> OwnedSemaphorePermit {
        self.runtime.block_on(Arc::clone(slots).acquire_owned()).expect("the semaphore is never closed")
    }

    /// Fetches a small object and hands it over.
    fn fetch_whole<F: Send + 'static>(
        &self,
        wanted: Wanted,
        permit: Permit,
        slot: OwnedSemaphorePermit,
        ready: impl FnOnce(Result<Body, FetchError>) -> F + Send + 'static,
        fetched: mpsc::Sender<F>,
    ) {
        let (store, health, control) = (Arc::clone(&self.store), Arc::clone(&self.health), Arc::clone(&self.control));
        self.runtime.spawn(async move {
            let fetch = async {
                let body = whole(&store, &wanted).await;
                if is_broken_off(&body, wanted.size) { whole(&store, &wanted).await } else { body }
            };
            let body = match until_given_up(&control, fetch).await {
                Some(body) => {
                    let is_broken_off = is_broken_off(&body, wanted.size);
                    let whole = |arrived| if is_broken_off { Err(ended_early()) } else { Ok(arrived) };
                    health.note(&store, body).and_then(whole)
                }
                None => Err(FetchError::Untried),
            };
            let body = body.map(|arrived| match arrived {
                Arrived::File(file) => Bytewise::File(file),
                Arrived::Bytes(bytes) => Bytewise::Whole(bytes.reader(), Some(permit)),
            });
            let body = body.map(|bytes| Body { bytes, control });
            // Whoever works on them is there until the last sender is gone.
            fetched.send(ready(body)).await.ok();
            // Not before: what waits to be worked on may be an open file.
            drop(slot);
        });
    }

    /// Begins to fetch a large object; its pieces arrive while it is read.
    fn stream(&self, wanted: Wanted, slot: OwnedSemaphorePermit) -> Result<Body, FetchError> {
        let opening = until_given_up(&self.control, open(&self.store, &wanted, 0..wanted.size));
        let got = self.runtime.block_on(opening).ok_or(FetchError::Untried)?;
        let got = self.health.note(&self.store, got)?;
        let body = |bytes| Body { bytes, control: Arc::clone(&self.control) };
        if let GetResultPayload::File(file, _) = got.payload {
            return file_part(file, got.range).map(|file| body(Bytewise::File(file))).map_err(unreadable);
        }
        let (pieces, more) = mpsc::channel(PIECES);
        let control = Arc::clone(&self.control);
        self.runtime.spawn(async move {
            let mut arriving = got.into_stream();
            let mut missing = wanted.size;
            loop {
                let piece = tokio::select! {
                    piece = arriving.next() => piece,
                    () = control.until_stopped() => {
                        pieces.send(Err(stopped())).await.ok();
                        return;
                    }
                };
                let Some(piece) = piece else { break };
                let piece = piece.map_err(|e| io::Error::other(classify(&e).to_string()));
                missing = missing.saturating_sub(piece.as_ref().map_or(0, |p| p.len() as u64));
                if pieces.send(piece).await.is_err() {
                    return; // nobody reads any further
                }
            }
            if missing > 0 {
                pieces.send(Err(io::Error::other("the answer ended early"))).await.ok();
            }
            drop(slot);
        });
        Ok(body(Bytewise::Coming { piece: Bytes::new(), more }))
    }
}

/// What `request` gives, unless a stop was asked for and it has not come a while after that.
pub(crate) async fn until_given_up<F: Future>(control: &Control, request: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        got = request => Some(got),
        () = async {
            control.until_stopped().await;
            tokio::time::sleep(GRACE).await;
        } => None,
    }
}

fn stopped() -> io::Error {
    io::Error::other("stopped before it was complete")
}

/// What came of one request for a whole object.
enum Arrived {
    Bytes(Bytes),
    File(io::Take<File>),
}

async fn open(store: &Store, wanted: &Wanted, range: Range<u64>) -> object_store::Result<GetResult> {
    store.inner.get_opts(&store.path(&wanted.location.key)?, wanted.options(range)).await
}

async fn whole(store: &Store, wanted: &Wanted) -> object_store::Result<Arrived> {
    let got = open(store, wanted, 0..wanted.size).await?;
    // A file is read by whoever works on it, without a detour through memory.
    if let GetResultPayload::File(file, _) = got.payload {
        let part = file_part(file, got.range);
        return part
            .map(Arrived::File)
            .map_err(|e| object_store::Error::Generic { store: "folder", source: Box::new(e) });
    }
    got.bytes().await.map(Arrived::Bytes)
}

fn file_part(mut file: File, range: Range<u64>) -> io::Result<io::Take<File>> {
    file.seek(SeekFrom::Start(range.start))?;
    Ok(file.take(range.end - range.start))
}

/// An answer that ended early, or fewer bytes than the store listed: asked for once more, and never the object's fault.
fn is_broken_off(body: &object_store::Result<Arrived>, size: u64) -> bool {
    match body {
        Ok(Arrived::Bytes(bytes)) => (bytes.len() as u64) < size,
        Ok(Arrived::File(_)) => false,
        Err(e) => crate::store::is_broken_off(e),
    }
}

fn ended_early() -> FetchError {
    FetchError::Store(Failure::new(Reason::StoreUnreachable, "the answer ended early, twice"))
}

fn unreadable(error: io::Error) -> FetchError {
    ObjectError::Read(error).into()
}
