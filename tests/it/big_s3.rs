//! An S3 server in memory, for stores of a million objects: sorted keys, so that a page of a listing costs what it holds, and
//! contents that may be made only when they are asked for. Every request takes a given time. No signatures,
//! one bucket. Support for the other modules and for benchmarks; it runs on threads of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::ops::{Bound, Range};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, RwLock};
use s3s::Body;

pub(crate) const BUCKET: &str = "bucket";
/// Keys in a page at most, as in S3.
const PAGE: usize = 1000;
/// Requests that are remembered one by one; all are counted.
const LOGGED_MAX: usize = 100_000;

/// Makes the content of an object from its key: always the same, of the length that was announced.
pub(crate) type Make = Arc<dyn Fn(&str) -> Bytes + Send + Sync>;

#[derive(Clone)]
enum Content {
    Here(Bytes),
    Made(usize, Make),
}

impl Content {
    fn len(&self) -> usize {
        match self {
            Self::Here(bytes) => bytes.len(),
            Self::Made(len, _) => *len,
        }
    }

    fn bytes(&self, key: &str) -> Bytes {
        match self {
            Self::Here(bytes) => bytes.clone(),
            Self::Made(len, make) => {
                let bytes = make(key);
                assert_eq!(bytes.len(), *len, "{key} has another length than was announced");
                bytes
            }
        }
    }
}

#[derive(Default)]
struct State {
    objects: RwLock<BTreeMap<String, Content>>,
    /// Uploads in parts that are neither completed nor aborted, by their number; each part by its own.
    uploads: Mutex<BTreeMap<String, BTreeMap<u32, Vec<u8>>>>,
    uploads_begun: AtomicUsize,
    /// Method, and path with query, of the first requests; and how many there were of each verb.
    log: Mutex<Vec<(String, String)>>,
    counts: Mutex<BTreeMap<&'static str, usize>>,
    /// Answers as stores do that know no key to begin behind.
    ignores_start_after: AtomicBool,
    /// Refuses every listing after so many; 0 for none.
    lists_max: AtomicUsize,
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
    /// Asked with each request what harm comes to it.
    harm: Mutex<Option<Harm>>,
}

/// What happens to a request instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Harmed {
    /// 503; not applied.
    Refused,
    /// The connection is closed; not applied.
    Dropped,
    /// Applied, then the connection is closed without an answer.
    AnswerLost,
    /// Applied and answered after [`SLOW`], unless the client is gone by then.
    Slow,
}

/// Longer than a batch of confirmed uploads waits to be recorded.
const SLOW: Duration = Duration::from_millis(2000);

/// Decides for each request.
pub(crate) type Harm = Box<dyn FnMut() -> Option<Harmed> + Send>;

pub(crate) struct BigS3 {
    runtime: Option<tokio::runtime::Runtime>,
    state: Arc<State>,
    port: u16,
}

impl BigS3 {
    /// Starts it, empty; every request takes `latency` and what it takes.
    pub(crate) fn start(latency: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::<State>::default();
        runtime.spawn(accept(listener, Arc::clone(&state), latency));
        Self { runtime: Some(runtime), state, port }
    }

    pub(crate) fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{}&region=us-east-1&allow_http=true", self.port)
    }

    pub(crate) fn put(&self, key: impl Into<String>, content: impl Into<Bytes>) {
        self.state.objects.write().insert(key.into(), Content::Here(content.into()));
    }

    /// Objects of `len` bytes each, made by `make` when they are asked for.
    pub(crate) fn put_made(&self, keys: impl IntoIterator<Item = String>, len: usize, make: &Make) {
        let mut objects = self.state.objects.write();
        objects.extend(keys.into_iter().map(|key| (key, Content::Made(len, Arc::clone(make)))));
    }

    pub(crate) fn get(&self, key: &str) -> Option<Bytes> {
        self.state.objects.read().get(key).map(|content| content.bytes(key))
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.state.objects.read().keys().cloned().collect()
    }

    /// Requests so far with this verb: `LIST`, `GET`, `HEAD`, `PUT`, `DELETE` or, to delete many, `POST`.
    pub(crate) fn count(&self, verb: &str) -> usize {
        self.state.counts.lock().get(verb).copied().unwrap_or_default()
    }

    pub(crate) fn remove(&self, key: &str) {
        self.state.objects.write().remove(key);
    }

    /// From now on `harm` is asked with each request.
    pub(crate) fn harm(&self, harm: impl FnMut() -> Option<Harmed> + Send + 'static) {
        *self.state.harm.lock() = Some(Box::new(harm));
    }

    /// From now on `start-after` is ignored.
    pub(crate) fn ignore_start_after(&self) {
        self.state.ignores_start_after.store(true, Ordering::SeqCst);
    }

    /// Refuses every listing after the first `n`.
    pub(crate) fn refuse_lists_after(&self, n: usize) {
        self.state.lists_max.store(n, Ordering::SeqCst);
    }

    /// Requests under way at once, at most.
    pub(crate) fn at_once_max(&self) -> usize {
        self.state.at_once_max.load(Ordering::SeqCst)
    }

    /// Method, and path with query, of the first requests.
    pub(crate) fn log(&self) -> Vec<(String, String)> {
        self.state.log.lock().clone()
    }

    /// Forgets what was asked for so far.
    pub(crate) fn forget(&self) {
        self.state.log.lock().clear();
        self.state.counts.lock().clear();
        self.state.at_once_max.store(0, Ordering::SeqCst);
    }
}

impl Drop for BigS3 {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: tokio::net::TcpListener, state: Arc<State>, latency: Duration) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            stream.set_nodelay(true).unwrap();
            let serve = service_fn(move |request| answer(Arc::clone(&state), latency, request));
            // A client that has seen enough closes its connection.
            http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await.ok();
        });
    }
}

/// A request, read.
struct Asked {
    method: Method,
    bucket: String,
    key: String,
    query: BTreeMap<String, String>,
    range: Option<String>,
    is_create_only: bool,
    body: Vec<u8>,
}

impl Asked {
    fn is_about_parts(&self) -> bool {
        self.query.contains_key("uploads") || self.query.contains_key("uploadId")
    }

    fn verb(&self) -> &'static str {
        match self.method {
            Method::GET if self.query.contains_key("list-type") => "LIST",
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::PUT => "PUT",
            Method::DELETE => "DELETE",
            Method::POST => "POST",
            _ => "OTHER",
        }
    }
}

async fn answer(state: Arc<State>, latency: Duration, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let at_once = state.at_once.fetch_add(1, Ordering::SeqCst) + 1;
    state.at_once_max.fetch_max(at_once, Ordering::SeqCst);
    let target = (request.method().to_string(), request.uri().to_string());
    let asked = read(request).await?;
    {
        let mut log = state.log.lock();
        if log.len() < LOGGED_MAX {
            log.push(target);
        }
        *state.counts.lock().entry(asked.verb()).or_default() += 1;
    }
    tokio::time::sleep(latency).await;
    let lists_max = state.lists_max.load(Ordering::SeqCst);
    let is_refused = lists_max > 0 && asked.verb() == "LIST" && state.counts.lock()["LIST"] > lists_max;
    let harmed = state.harm.lock().as_mut().and_then(|harm| harm());
    let answer = match harmed {
        Some(Harmed::Refused) => Ok(error(503, "SlowDown")),
        Some(Harmed::Dropped) => Err(io::ErrorKind::ConnectionReset.into()),
        Some(Harmed::AnswerLost) => {
            state.serve(&asked);
            Err(io::ErrorKind::ConnectionReset.into())
        }
        Some(Harmed::Slow) => {
            tokio::time::sleep(SLOW).await;
            Ok(state.serve(&asked))
        }
        None if is_refused => Ok(error(403, "AccessDenied")),
        None => Ok(state.serve(&asked)),
    };
    state.at_once.fetch_sub(1, Ordering::SeqCst);
    answer
}

async fn read(request: Request<Incoming>) -> io::Result<Asked> {
    let (head, mut sent) = request.into_parts();
    let mut body = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut sent).poll_frame(cx)).await {
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            body.extend_from_slice(&data);
        }
    }
    let path = percent_decoded(head.uri.path().trim_start_matches('/'));
    let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
    let query = url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let header = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    Ok(Asked {
        method: head.method.clone(),
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        query,
        range: header("range"),
        is_create_only: header("if-none-match").is_some(),
        body,
    })
}

impl State {
    fn serve(&self, asked: &Asked) -> Response<Body> {
        if asked.bucket != BUCKET {
            return error(404, "NoSuchBucket");
        }
        match (asked.verb(), asked.key.as_str()) {
            ("LIST", "") => self.list(&asked.query),
            ("GET" | "HEAD", key) if !key.is_empty() => self.read(asked),
            ("PUT", key) if !key.is_empty() && asked.query.is_empty() => {
                let mut objects = self.objects.write();
                if asked.is_create_only && objects.contains_key(key) {
                    return error(412, "PreconditionFailed");
                }
                objects.insert(key.to_owned(), Content::Here(asked.body.clone().into()));
                response(200, "", &[("etag", ETAG)])
            }
            (verb, key) if !key.is_empty() && asked.is_about_parts() => self.serve_parts(verb, asked),
            ("DELETE", key) if asked.query.is_empty() => {
                self.objects.write().remove(key);
                response(204, "", &[])
            }
            ("POST", "") if asked.query.contains_key("delete") => self.delete_many(&asked.body),
            _ => error(501, "NotImplemented"),
        }
    }

    /// An upload in parts: begun, one part of it, completed, aborted.
    fn serve_parts(&self, verb: &str, asked: &Asked) -> Response<Body> {
        let of = |name: &str| asked.query.get(name).cloned();
        let mut uploads = self.uploads.lock();
        match (verb, of("uploadId"), of("partNumber").and_then(|number| number.parse().ok())) {
            ("POST", None, None) => {
                let id = self.uploads_begun.fetch_add(1, Ordering::SeqCst).to_string();
                uploads.insert(id.clone(), BTreeMap::new());
                let told = "InitiateMultipartUploadResult";
                response(200, format!("<{told}><UploadId>{id}</UploadId></{told}>"), &[])
            }
            ("PUT", Some(id), Some(number)) => {
                let Some(parts) = uploads.get_mut(&id) else { return error(404, "NoSuchUpload") };
                parts.insert(number, asked.body.clone());
                response(200, "", &[("etag", ETAG)])
            }
            ("POST", Some(id), None) => {
                let Some(parts) = uploads.remove(&id) else { return error(404, "NoSuchUpload") };
                let object: Vec<u8> = parts.into_values().flatten().collect();
                self.objects.write().insert(asked.key.clone(), Content::Here(object.into()));
                let told = "CompleteMultipartUploadResult";
                response(200, format!("<{told}><ETag>{ETAG}</ETag></{told}>"), &[])
            }
            ("DELETE", Some(id), None) => {
                uploads.remove(&id);
                response(204, "", &[])
            }
            _ => error(501, "NotImplemented"),
        }
    }

    fn read(&self, asked: &Asked) -> Response<Body> {
        let Some(content) = self.objects.read().get(&asked.key).cloned() else { return error(404, "NoSuchKey") };
        let len = content.len();
        let range = match &asked.range {
            None => 0..len,
            Some(text) => match range_of(text, len) {
                Some(range) => range,
                None => return error(416, "InvalidRange"),
            },
        };
        let stands_at = format!("bytes {}-{}/{len}", range.start, range.end.saturating_sub(1));
        let mut headers = vec![("etag", ETAG), ("last-modified", "Sat, 21 Nov 2026 06:33:39 GMT")];
        if asked.range.is_some() {
            headers.push(("content-range", &stands_at));
        }
        let status = if asked.range.is_some() { 206 } else { 200 };
        if asked.method == Method::HEAD {
            let len = len.to_string();
            headers.push(("content-length", &len));
            return response(200, "", &headers);
        }
        response(status, content.bytes(&asked.key).slice(range), &headers)
    }

    /// ListObjectsV2.
    fn list(&self, query: &BTreeMap<String, String>) -> Response<Body> {
        let of = |name: &str| query.get(name).map(String::as_str);
        let (prefix, delimiter) = (of("prefix").unwrap_or_default(), of("delimiter").filter(|d| !d.is_empty()));
        let max = of("max-keys").and_then(|n| n.parse().ok()).unwrap_or(PAGE).min(PAGE);
        let token = of("continuation-token").map(|token| String::from_utf8(from_hex(token)).unwrap());
        let start_after = of("start-after").filter(|_| !self.ignores_start_after.load(Ordering::SeqCst));
        let after = token.as_deref().or(start_after).unwrap_or_default().to_owned();
        let text = |key: &str| if of("encoding-type") == Some("url") { percent_encoded(key) } else { escaped(key) };

        let objects = self.objects.read();
        let (mut contents, mut folders) = (String::new(), String::new());
        let (mut count, mut at, mut is_truncated) = (0, after, false);
        loop {
            let from = if at.as_str() < prefix { Bound::Included(prefix) } else { Bound::Excluded(at.as_str()) };
            let mut keys = objects.range::<str, _>((from, Bound::Unbounded)).take_while(|(k, _)| k.starts_with(prefix));
            // Whole folders are skipped at once, all else is read on.
            let mut skip_to = None;
            for (key, content) in &mut keys {
                if count == max {
                    is_truncated = true;
                    break;
                }
                count += 1;
                let folder = delimiter.and_then(|d| Some(prefix.len() + key[prefix.len()..].find(d)? + d.len()));
                if let Some(end) = folder {
                    write!(folders, "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", text(&key[..end])).unwrap();
                    skip_to = Some(format!("{}{}", &key[..end], char::MAX));
                    break;
                }
                write!(
                    contents,
                    "<Contents><Key>{}</Key><LastModified>2026-11-21T06:33:39.000Z</LastModified><ETag>{ETAG}</ETag>\
                     <Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                    text(key),
                    content.len()
                )
                .unwrap();
                if count == max {
                    at.clone_from(key);
                }
            }
            match skip_to {
                Some(next) => at = next,
                None => break,
            }
        }
        let next = if is_truncated {
            format!("<NextContinuationToken>{}</NextContinuationToken>", hex(at.as_bytes()))
        } else {
            String::new()
        };
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>{BUCKET}</Name>\
             <Prefix>{}</Prefix><KeyCount>{count}</KeyCount><MaxKeys>{max}</MaxKeys>\
             <IsTruncated>{is_truncated}</IsTruncated>{next}{contents}{folders}</ListBucketResult>",
            text(prefix)
        );
        response(200, body, &[("content-type", "application/xml")])
    }

    fn delete_many(&self, body: &[u8]) -> Response<Body> {
        let body = String::from_utf8_lossy(body);
        let mut objects = self.objects.write();
        let mut deleted = String::new();
        for key in body.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()) {
            objects.remove(&unescaped(key));
            write!(deleted, "<Deleted><Key>{key}</Key></Deleted>").unwrap();
        }
        response(200, format!("<DeleteResult>{deleted}</DeleteResult>"), &[("content-type", "application/xml")])
    }
}

/// No client of these tests compares it.
const ETAG: &str = "\"d41d8cd98f00b204e9800998ecf8427e\"";

fn response(status: u16, body: impl Into<Bytes>, headers: &[(&str, &str)]) -> Response<Body> {
    let mut response = Response::builder().status(StatusCode::from_u16(status).unwrap());
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Body::from(body.into())).unwrap()
}

fn error(status: u16, code: &str) -> Response<Body> {
    response(status, format!("<Error><Code>{code}</Code></Error>"), &[("content-type", "application/xml")])
}

/// `bytes=1-2`, `bytes=1-` and `bytes=-2`; `None` for one that lies outside.
fn range_of(text: &str, len: usize) -> Option<Range<usize>> {
    let (start, end) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (start, end) {
        ("", last) => len.saturating_sub(last.parse().ok()?)..len,
        (start, "") => start.parse().ok()?..len,
        (start, end) => start.parse().ok()?..len.min(end.parse::<usize>().ok()? + 1),
    };
    (range.start < range.end).then_some(range)
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            c if c.is_control() => write!(out, "&#{};", u32::from(c)).unwrap(),
            c => out.push(c),
        }
    }
    out
}

fn unescaped(text: &str) -> String {
    let named = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    named.iter().fold(text.to_owned(), |text, (entity, c)| text.replace(entity, c))
}

fn percent_encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if let (b'%', Some(hex)) = (first, after.get(..2)) {
            bytes.extend(from_hex(std::str::from_utf8(hex).unwrap()));
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}
