//! A store that fails on demand: wraps another, decides each call's fate, and measures what is in flight.
//! Support for the other modules.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use parking_lot::Mutex;

/// What was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Put,
    Begin,
    Part,
    Complete,
    Abort,
    Get,
}

/// What becomes of a call.
#[derive(Clone)]
pub(crate) enum Fate {
    /// Passed on.
    Serve,
    /// Not applied; an error of this object.
    Fail,
    /// Not applied; refused as by a store that does not let us in.
    Refuse,
    /// Not applied; the store does not know create-only puts.
    Unsupported,
    /// Applied, then an error.
    Lose,
    /// Applied, then "already exists": what a retry after a lost answer reports.
    Exists,
    /// Passed on after this time.
    Wait(Duration),
    /// Passed on, but somebody else took the key just before, for content of the same length.
    Foreign,
    /// Never answered, not applied.
    Hang,
    /// Passed on, then this is run.
    Then(Arc<dyn Fn() + Send + Sync>),
}

type Plan = Box<dyn FnMut(Op, &PutOptions) -> Fate + Send>;

#[derive(Default)]
struct Shared {
    plan: Option<Plan>,
    calls: Vec<Op>,
    in_flight: usize,
    in_flight_max: usize,
    bytes: usize,
    bytes_max: usize,
    parts: Vec<usize>,
    refused: Option<&'static str>,
}

/// The wrapper. Clones share everything.
#[derive(Clone)]
pub(crate) struct Flaky {
    inner: Arc<dyn ObjectStore>,
    shared: Arc<Mutex<Shared>>,
}

/// A call under way, however it ends.
struct UnderWay {
    shared: Arc<Mutex<Shared>>,
    bytes: usize,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut shared = self.shared.lock();
        shared.in_flight -= 1;
        shared.bytes -= self.bytes;
    }
}

impl Flaky {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, shared: Arc::default() }
    }

    /// From now on `plan` decides.
    pub(crate) fn plan(&self, plan: impl FnMut(Op, &PutOptions) -> Fate + Send + 'static) {
        self.shared.lock().plan = Some(Box::new(plan));
    }

    /// From now on puts of keys with `part` in them are refused.
    pub(crate) fn refuse_keys(&self, part: &'static str) {
        self.shared.lock().refused = Some(part);
    }

    /// From now on everything is passed on.
    pub(crate) fn heal(&self) {
        let mut shared = self.shared.lock();
        (shared.plan, shared.refused) = (None, None);
    }

    /// All calls so far.
    pub(crate) fn calls(&self) -> Vec<Op> {
        self.shared.lock().calls.clone()
    }

    /// Calls of `op` so far.
    pub(crate) fn count(&self, op: Op) -> usize {
        self.calls().into_iter().filter(|o| *o == op).count()
    }

    /// The most calls, and the most bytes in puts, that were under way at once.
    pub(crate) fn most(&self) -> (usize, usize) {
        let shared = self.shared.lock();
        (shared.in_flight_max, shared.bytes_max)
    }

    /// Sizes of the parts put so far.
    pub(crate) fn parts(&self) -> Vec<usize> {
        self.shared.lock().parts.clone()
    }

    fn begin(&self, op: Op, key: &str, bytes: usize, options: &PutOptions) -> (Fate, UnderWay) {
        let mut shared = self.shared.lock();
        shared.calls.push(op);
        if op == Op::Part {
            shared.parts.push(bytes);
        }
        shared.in_flight += 1;
        shared.bytes += bytes;
        shared.in_flight_max = shared.in_flight_max.max(shared.in_flight);
        shared.bytes_max = shared.bytes_max.max(shared.bytes);
        let fate = match shared.refused {
            Some(part) if key.contains(part) => Fate::Refuse,
            _ => shared.plan.as_mut().map_or(Fate::Serve, |plan| plan(op, options)),
        };
        (fate, UnderWay { shared: Arc::clone(&self.shared), bytes })
    }
}

fn failed(what: &'static str) -> Error {
    Error::Generic { store: "flaky", source: what.into() }
}

/// Lets `fate` happen to the call that `serve` would make. A part or an end cannot "exist already": that is a loss.
async fn suffer<T>(fate: Fate, key: &str, serve: impl Future<Output = Result<T>>) -> Result<T> {
    match fate {
        Fate::Serve | Fate::Foreign => serve.await,
        Fate::Fail => Err(failed("failed on demand")),
        Fate::Refuse => Err(Error::PermissionDenied { path: key.into(), source: "refused on demand".into() }),
        Fate::Unsupported => Err(Error::NotImplemented { operation: "create".into(), implementer: "flaky".into() }),
        Fate::Lose => serve.await.and_then(|_| Err(failed("answer lost on demand"))),
        Fate::Exists => {
            serve.await.and_then(|_| Err(Error::AlreadyExists { path: key.into(), source: "on demand".into() }))
        }
        Fate::Wait(time) => {
            tokio::time::sleep(time).await;
            serve.await
        }
        Fate::Hang => std::future::pending().await,
        Fate::Then(run) => {
            let served = serve.await;
            run();
            served
        }
    }
}

impl fmt::Debug for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("flaky")
    }
}

impl fmt::Display for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("flaky")
    }
}

#[async_trait]
impl ObjectStore for Flaky {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (fate, _under_way) = self.begin(Op::Put, key.as_ref(), payload.content_length(), &options);
        if matches!(fate, Fate::Foreign) {
            let mut other = Bytes::from(payload.clone()).to_vec();
            other[100] ^= 1;
            self.inner.put_opts(key, other.into(), PutOptions::default()).await?;
        }
        suffer(fate, key.as_ref(), self.inner.put_opts(key, payload, options)).await
    }

    async fn put_multipart_opts(&self, key: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let (fate, _under_way) = self.begin(Op::Begin, key.as_ref(), 0, &PutOptions::default());
        let inner = suffer(fate, key.as_ref(), self.inner.put_multipart_opts(key, options)).await?;
        Ok(Box::new(FlakyUpload { inner, flaky: self.clone(), key: key.to_string() }))
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        let (fate, _under_way) = self.begin(Op::Get, key.as_ref(), 0, &PutOptions::default());
        suffer(fate, key.as_ref(), self.inner.get_opts(key, options)).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FlakyUpload {
    inner: Box<dyn MultipartUpload>,
    flaky: Flaky,
    key: String,
}

#[async_trait]
impl MultipartUpload for FlakyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (fate, under_way) = self.flaky.begin(Op::Part, &self.key, data.content_length(), &PutOptions::default());
        let (key, part) = (self.key.clone(), self.inner.put_part(data));
        async move {
            let _under_way = under_way;
            suffer(fate, &key, part).await
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (fate, _under_way) = self.flaky.begin(Op::Complete, &self.key, 0, &PutOptions::default());
        suffer(fate, &self.key.clone(), self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        let (fate, _under_way) = self.flaky.begin(Op::Abort, &self.key, 0, &PutOptions::default());
        suffer(fate, &self.key.clone(), self.inner.abort()).await
    }
}
