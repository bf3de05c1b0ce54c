//! An S3 server for benchmarks: one thread, everything in memory, nothing checked but what the benchmarks rely on. Puts (also only
//! where there is nothing), reads with ranges, HEAD, listings, deletes, multipart uploads.
//!
//! Signatures are not looked at: it listens on the loopback alone, and holds what benchmarks put.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write as _};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

/// Keys in a page at most, as in S3.
const PAGE: usize = 1000;
const TAG: &str = "\"0\"";
const WHEN: &str = "Sat, 21 Nov 2026 06:33:39 GMT";

type Answer = Response<Full<Bytes>>;
type Query = BTreeMap<String, String>;

#[derive(Default)]
struct Server {
    objects: RefCell<BTreeMap<String, Bytes>>,
    uploads: RefCell<BTreeMap<String, BTreeMap<u32, Bytes>>>,
    counts: RefCell<BTreeMap<&'static str, u64>>,
    /// Each put that was stored: nanoseconds since 1970, just before the answer leaves; `user_version` of the database in
    /// it, or `-`; key.
    log: Option<RefCell<File>>,
    delay: Duration,
}

/// Serves until it is asked to stop. Says where first, and at the end how many requests of each kind there were.
pub(crate) fn serve(delay: Duration, log: Option<&str>) -> Result<()> {
    let log = log.map(File::create).transpose()?.map(RefCell::new);
    let server = Rc::new(Server { log, delay, ..Server::default() });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let mut stop = signal(SignalKind::terminate())?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", json!({"port": listener.local_addr()?.port()}));
        std::io::stdout().flush()?;
        tokio::select! {
            accepted = accept(&listener, &server) => accepted,
            _ = stop.recv() => Ok(()),
        }
    })?;
    println!("{}", json!(*server.counts.borrow()));
    Ok(())
}

async fn accept(listener: &tokio::net::TcpListener, server: &Rc<Server>) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let server = Rc::clone(server);
        tokio::task::spawn_local(async move {
            let answer = service_fn(move |request| answer(Rc::clone(&server), request));
            // A client that has seen enough closes its connection.
            http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await.ok();
        });
    }
}

async fn answer(server: Rc<Server>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return Ok(error(400, "IncompleteBody")) };
    if !server.delay.is_zero() {
        tokio::time::sleep(server.delay).await;
    }
    Ok(server.serve(&head, body.to_bytes()))
}

impl Server {
    fn serve(&self, head: &Parts, body: Bytes) -> Answer {
        let path = percent_decoded(head.uri.path().trim_start_matches('/'));
        let key = path.split_once('/').map_or("", |(_bucket, key)| key);
        let query = head.uri.query().unwrap_or_default().as_bytes();
        let query: Query = url::form_urlencoded::parse(query).into_owned().collect();
        let (verb, answer) = match (head.method.clone(), query.contains_key("uploadId")) {
            (Method::GET, _) if key.is_empty() => ("LIST", self.list(&query)),
            (Method::GET | Method::HEAD, _) => {
                (if head.method == Method::GET { "GET" } else { "HEAD" }, self.get(head, key))
            }
            (Method::PUT, true) => ("PUT", self.part(&query, body)),
            (Method::PUT, false) => ("PUT", self.put(head, key, body)),
            (Method::POST, _) => ("POST", self.multipart(key, &query)),
            (Method::DELETE, true) => {
                self.uploads.borrow_mut().remove(&query["uploadId"]);
                ("DELETE", respond(204, ""))
            }
            (Method::DELETE, false) => {
                self.objects.borrow_mut().remove(key);
                ("DELETE", respond(204, ""))
            }
            _ => ("OTHER", error(501, "NotImplemented")),
        };
        *self.counts.borrow_mut().entry(verb).or_default() += 1;
        answer
    }

    fn put(&self, head: &Parts, key: &str, body: Bytes) -> Answer {
        if head.headers.contains_key("if-none-match") && self.objects.borrow().contains_key(key) {
            return error(412, "PreconditionFailed");
        }
        let version = self.log.as_ref().map(|_| user_version(&body));
        self.objects.borrow_mut().insert(key.to_owned(), body);
        if let (Some(log), Some(version)) = (&self.log, version) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
            let version = version.map_or("-".to_owned(), |version| version.to_string());
            // A line that is missing is noticed by who reads the log.
            writeln!(log.borrow_mut(), "{now} {version} {key}").ok();
        }
        respond(200, "")
    }

    fn get(&self, head: &Parts, key: &str) -> Answer {
        let Some(object) = self.objects.borrow().get(key).cloned() else { return error(404, "NoSuchKey") };
        if head.method == Method::HEAD {
            let mut answer = respond(200, "");
            answer.headers_mut().insert("content-length", object.len().into());
            return answer;
        }
        let Some(range) = head.headers.get("range") else { return respond(200, object) };
        let Some((from, to)) = range.to_str().ok().and_then(|range| bounds(range, object.len())) else {
            return error(416, "InvalidRange");
        };
        let place = format!("bytes {from}-{}/{}", to.saturating_sub(1), object.len());
        let mut answer = respond(206, object.slice(from..to));
        answer.headers_mut().insert("content-range", place.parse().expect("digits"));
        answer
    }

    fn part(&self, query: &Query, body: Bytes) -> Answer {
        let mut uploads = self.uploads.borrow_mut();
        let number = query.get("partNumber").and_then(|number| number.parse().ok());
        let (Some(parts), Some(number)) = (uploads.get_mut(&query["uploadId"]), number) else {
            return error(404, "NoSuchUpload");
        };
        parts.insert(number, body);
        respond(200, "")
    }

    fn multipart(&self, key: &str, query: &Query) -> Answer {
        let mut uploads = self.uploads.borrow_mut();
        let Some(id) = query.get("uploadId") else {
            let id = format!("{}-{}", key.len(), uploads.len());
            uploads.insert(id.clone(), BTreeMap::new());
            let answer =
                format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>");
            return respond(200, answer);
        };
        let Some(parts) = uploads.remove(id) else { return error(404, "NoSuchUpload") };
        let object: Vec<u8> = parts.into_values().flatten().collect();
        self.objects.borrow_mut().insert(key.to_owned(), object.into());
        respond(200, format!("<CompleteMultipartUploadResult><ETag>{TAG}</ETag></CompleteMultipartUploadResult>"))
    }

    /// ListObjectsV2, without folders.
    fn list(&self, query: &Query) -> Answer {
        let of = |name: &str| query.get(name).map_or("", String::as_str);
        let (prefix, max) = (of("prefix"), of("max-keys").parse().map_or(PAGE, |max: usize| max.min(PAGE)));
        let after = of("continuation-token").max(of("start-after"));
        let objects = self.objects.borrow();
        let from = if after < prefix { std::ops::Bound::Included(prefix) } else { std::ops::Bound::Excluded(after) };
        let mut keys = objects.range::<str, _>((from, std::ops::Bound::Unbounded));
        let page: Vec<_> = keys.by_ref().take_while(|(key, _)| key.starts_with(prefix)).take(max).collect();
        let more = page.len() == max && keys.next().is_some_and(|(key, _)| key.starts_with(prefix));
        let mut xml = format!("<ListBucketResult><IsTruncated>{more}</IsTruncated>");
        if let Some((last, _)) = page.last().filter(|_| more) {
            write!(xml, "<NextContinuationToken>{}</NextContinuationToken>", escaped(last)).expect("a String grows");
        }
        for (key, object) in page {
            let (key, size) = (escaped(key), object.len());
            write!(
                xml,
                "<Contents><Key>{key}</Key><LastModified>2026-11-21T06:33:39.000Z</LastModified><Size>{size}</Size></Contents>"
            )
            .expect("a String grows");
        }
        xml += "</ListBucketResult>";
        respond(200, xml)
    }
}

/// `user_version` of the database that an object holds; none if it holds something else.
fn user_version(object: &[u8]) -> Option<u32> {
    let mut header = [0; 64];
    lz4_flex::frame::FrameDecoder::new(object).read_exact(&mut header).ok()?;
    let (_, version) = header.split_last_chunk::<4>()?;
    header.starts_with(b"SQLite format 3\0").then(|| u32::from_be_bytes(*version))
}

fn bounds(range: &str, len: usize) -> Option<(usize, usize)> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    let bounds = match (from.parse::<usize>(), to.parse::<usize>()) {
        (Ok(from), Ok(to)) => (from, len.min(to.saturating_add(1))),
        (Ok(from), Err(_)) => (from, len),
        (Err(_), Ok(last)) => (len.saturating_sub(last), len),
        _ => return None,
    };
    (bounds.0 < bounds.1).then_some(bounds)
}

fn respond(status: u16, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = StatusCode::from_u16(status).expect("a known status");
    answer.headers_mut().insert("etag", TAG.parse().expect("plain text"));
    answer.headers_mut().insert("last-modified", WHEN.parse().expect("plain text"));
    answer
}

fn error(status: u16, code: &str) -> Answer {
    respond(status, format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>"))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
