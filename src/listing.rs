//! LIST, all of it or nothing: what a store holds below the prefixes that are asked for.
//!
//! Where a store lists in the order of keys, several streams share a long listing ([`split`]). Their requests are made on the
//! runtime's thread, and pages wait for the one that puts them into the catalogue: a bounded number of them.

pub(crate) mod keyspace;
mod split;

use std::sync::Arc;

use futures_util::StreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use self::split::{OutOfOrder, Splitter};
use crate::access::Access;
use crate::catalogue::Catalogue;
use crate::error::{Error, Result};
use crate::fs;
use crate::names::Names;
use crate::store::{Kind, Store, classify};

/// Objects that are listed together, as S3 and GCS answer them.
const PAGE: usize = 1000;
/// Streams at once. Stores answer several thousand requests a second; a page takes longer to read than to fetch.
const STREAMS_MAX: usize = 16;

/// Objects as they were listed: key, bytes, and when they were written by the store's clock, ms since 1970.
type Page = Vec<(Path, u64, i64)>;

/// Why a listing is not complete.
enum Broken {
    Store(object_store::Error),
    OutOfOrder,
}

/// Lists what `names` means.
pub(crate) fn list(access: &Access, names: &Names) -> Result<Catalogue> {
    // Azure takes a key to begin behind only since lately; folders and memory are listed as a whole anyway.
    if matches!(access.store.kind, Kind::S3 | Kind::Gcs)
        && let Some(catalogue) = list_with(access, names, true)?
    {
        return Ok(catalogue);
    }
    list_with(access, names, false)?.ok_or_else(|| ended_early(access))
}

/// `None` if the store turns out not to list in the order of keys, or to know no key to begin behind.
fn list_with(access: &Access, names: &Names, is_shared: bool) -> Result<Option<Catalogue>> {
    let mut catalogue = Catalogue::empty()?;
    let passed_over = access.store.passed_over();
    let (sender, mut pages) = mpsc::channel(STREAMS_MAX);
    let heads = heads(access, names, is_shared)?;
    access.runtime().spawn(begin_each(heads.clone(), Arc::new(Semaphore::new(streams_max(access))), sender));
    while let Some(page) = access.runtime().block_on(async {
        tokio::select! {
            biased;
            () = access.control.until_stopped() => None,
            page = pages.recv() => page,
        }
    }) {
        let page = match page {
            Ok(page) => page,
            Err(Broken::Store(e)) => return Err(unlistable(access, &e).unwrap_or_else(|| failed(access, &e))),
            Err(Broken::OutOfOrder) => return Ok(None),
        };
        let keys = page.iter().filter_map(|(path, size, written)| Some((access.store.key(path)?, *size, *written)));
        catalogue.add_written(names, keys)?;
    }
    if let Some(signal) = access.control.stop_signal() {
        return Err(Error::Interrupted { signal });
    }
    // A stream that ended without a word would leave a hole.
    if heads.iter().any(|head| !head.ranges.lock().is_done()) {
        return Err(ended_early(access));
    }
    catalogue.add_foreign(access.store.passed_over() - passed_over);
    Ok(Some(catalogue))
}

fn streams_max(access: &Access) -> usize {
    access.concurrency().clamp(1, STREAMS_MAX)
}

/// Below one prefix: who lists which range of keys.
struct Head {
    store: Arc<Store>,
    prefix: Option<Path>,
    is_shared: bool,
    ranges: Mutex<Splitter>,
}

fn heads(access: &Access, names: &Names, is_shared: bool) -> Result<Vec<Arc<Head>>> {
    let store = &access.store;
    let head = |prefix: Option<Path>| {
        Arc::new(Head { store: Arc::clone(store), prefix, is_shared, ranges: Mutex::new(Splitter::new(PAGE)) })
    };
    let Some(prefixes) = names.heads() else { return Ok(vec![head(store.root())]) };
    let below = |prefix: &String| store.path(prefix).map(Some).map_err(|e| failed(access, &e));
    prefixes.iter().map(|prefix| below(prefix).map(head)).collect()
}

type Pages = mpsc::Sender<Result<Page, Broken>>;

async fn begin_each(heads: Vec<Arc<Head>>, slots: Arc<Semaphore>, pages: Pages) {
    for head in heads {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        begin(Stream { head, number: 0, slots: Arc::clone(&slots), pages: pages.clone() }, None, slot);
    }
}

/// One of those that list below a prefix.
struct Stream {
    head: Arc<Head>,
    number: usize,
    slots: Arc<Semaphore>,
    pages: Pages,
}

fn begin(stream: Stream, after: Option<Path>, slot: OwnedSemaphorePermit) {
    tokio::spawn(async move {
        if let Err(broken) = stream.list(after.as_ref()).await {
            // Nobody listens any more if another was broken before.
            stream.pages.send(Err(broken)).await.ok();
        }
        drop(slot);
        stream.share();
    });
}

impl Stream {
    async fn list(&self, after: Option<&Path>) -> Result<(), Broken> {
        let (store, prefix) = (&self.head.store.inner, self.head.prefix.as_ref());
        let listing = match after {
            Some(after) => store.list_with_offset(prefix, after),
            None => store.list(prefix),
        };
        let mut pages = listing.ready_chunks(PAGE);
        let mut next = pages.next().await;
        while let Some(page) = next {
            let page = page.into_iter().map(|found| {
                found.map(|object| (object.location, object.size, object.last_modified.timestamp_millis()))
            });
            let mut page = page.collect::<object_store::Result<Page>>().map_err(Broken::Store)?;
            let is_last = self.take(&mut page)?;
            // Whether there is another page is known at once; then it is asked for before this one is handed over.
            let coming = if is_last { None } else { Some(futures_util::poll!(pages.next())) };
            let is_over = matches!(coming, None | Some(std::task::Poll::Ready(None)));
            if is_over {
                self.head.ranges.lock().end(self.number);
            } else if page.len() == PAGE {
                self.share();
            }
            if self.pages.send(Ok(page)).await.is_err() || is_over {
                return Ok(());
            }
            next = match coming {
                Some(std::task::Poll::Ready(page)) => page,
                _ => pages.next().await,
            };
        }
        self.head.ranges.lock().end(self.number);
        Ok(())
    }

    /// Leaves of `page` what belongs to this stream; tells whether it was its last.
    fn take(&self, page: &mut Page) -> Result<bool, Broken> {
        if !self.head.is_shared {
            return Ok(false);
        }
        let keys: Vec<&str> = page.iter().map(|(path, ..)| path.as_ref()).collect();
        let taken = self.head.ranges.lock().page(self.number, &keys);
        let taken = taken.map_err(|OutOfOrder| Broken::OutOfOrder)?;
        page.truncate(taken.keys);
        Ok(taken.is_last)
    }

    /// Begins as many others as there may be and is worth while.
    fn share(&self) {
        while self.head.is_shared
            && !self.pages.is_closed()
            && let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned()
        {
            let Some((number, after)) = self.head.ranges.lock().split() else { return };
            let Self { head, slots, pages, .. } = self;
            let stream = Self { head: Arc::clone(head), number, slots: Arc::clone(slots), pages: pages.clone() };
            // Its characters are those of listed keys, its parts neither empty nor dots.
            begin(stream, Some(Path::parse(&after).unwrap_or_default()), slot);
        }
    }
}

fn failed(access: &Access, error: &object_store::Error) -> Error {
    Error::Store { what: format!("cannot list {}: {}", access.store.name, classify(error)) }
}

/// A store lists keys that the client cannot read: one such object makes its whole page unreadable.
fn unlistable(access: &Access, error: &object_store::Error) -> Option<Error> {
    use object_store::path::Error as KeyError;
    let object_store::Error::InvalidPath { source } = error else { return None };
    let which = match source {
        KeyError::EmptySegment { path } | KeyError::BadSegment { path, .. } => shown_key(path),
        _ => "one that is no text".to_owned(),
    };
    let what = format!(
        "cannot list {}: an object lies there whose key no litesnap makes and none can list: {which}; remove it, or keep \
         out of its way: --match /full/path, or a --store with another prefix",
        access.store.name
    );
    Some(Error::Store { what })
}

/// A key of somebody else's, in quotes, on one line, not endless.
fn shown_key(key: &str) -> String {
    const LEN_MAX: usize = 200;
    let dots = if key.chars().nth(LEN_MAX).is_some() { "…" } else { "" };
    let start: String = key.chars().take(LEN_MAX).collect();
    format!("'{}{dots}'", fs::shown(std::path::Path::new(&start)))
}

fn ended_early(access: &Access) -> Error {
    Error::Store { what: format!("cannot list {}: the listing ended early", access.store.name) }
}
