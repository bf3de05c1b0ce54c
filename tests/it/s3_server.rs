//! An S3 server within the test process, on a loopback port: it checks SigV4, keeps objects as files, serialises writes
//! so that `If-None-Match` is atomic, fails on demand and logs every request. Support for the other modules; synchronous
//! tests can use it, for it runs on threads of its own.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpResponse};

pub(crate) const ACCESS_KEY_ID: &str = "AKIALITESNAPTESTKEY1";
pub(crate) const SECRET_ACCESS_KEY: &str = "s3cr3t+of/the+tests";

/// What happens to a request instead of, or besides, being served.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Answered with this status and body; not applied.
    Answer(u16, String),
    /// Connection closed; not applied.
    DropBefore,
    /// Applied, then the connection is closed without an answer.
    DropAfter,
    /// Never answered; not applied.
    Hang,
    /// Served after this time.
    Delay(Duration),
}

impl Fault {
    pub(crate) fn answer(status: u16, code: &str) -> Self {
        Self::Answer(status, format!("<Error><Code>{code}</Code><Message>on demand</Message></Error>"))
    }
}

/// Requests number `first..=last`, counted from 1, suffer `fault`.
struct Rule {
    first: usize,
    last: usize,
    fault: Fault,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    /// Method, and path with query, of every request in order of arrival.
    log: Vec<(String, String)>,
    /// Headers of the same requests.
    headers: Vec<hyper::HeaderMap>,
    /// Answers 501 to every put with a condition.
    refuses_conditions: bool,
}

pub(crate) struct S3Server {
    runtime: Option<tokio::runtime::Runtime>,
    state: Arc<Mutex<State>>,
    root: tempfile::TempDir,
    port: u16,
}

impl S3Server {
    /// Starts it with the bucket `bucket`.
    pub(crate) fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("bucket")).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY_ID, SECRET_ACCESS_KEY));
        let served = Served {
            service: builder.build(),
            root: root.path().into(),
            state: Arc::default(),
            writes: Arc::default(),
        };
        let state = Arc::clone(&served.state);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(accept(listener, served));
        Self { runtime: Some(runtime), state, root, port }
    }

    pub(crate) fn url(&self, bucket: &str, prefix: &str) -> String {
        format!("s3://{bucket}/{prefix}?endpoint={}&region=us-east-1&allow_http=true", self.endpoint())
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Credentials that the server accepts, and nothing that leads off this machine.
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        env(ACCESS_KEY_ID, SECRET_ACCESS_KEY)
    }

    /// Keys and contents of the bucket's objects, sorted by key.
    pub(crate) fn objects(&self, bucket: &str) -> Vec<(String, Vec<u8>)> {
        let root = self.root.path().join(bucket);
        let mut objects = Vec::new();
        walk(&root, &root, &mut objects);
        objects.sort();
        objects
    }

    /// Replaces the content of an object, as a disk would, or makes it.
    pub(crate) fn put(&self, bucket: &str, key: &str, bytes: &[u8]) {
        let path = self.root.path().join(bucket).join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Removes an object.
    pub(crate) fn remove(&self, bucket: &str, key: &str) {
        std::fs::remove_file(self.root.path().join(bucket).join(key)).unwrap();
    }

    /// The next `n` requests, after those that earlier calls are about, suffer `fault`.
    pub(crate) fn fail_next(&self, n: usize, fault: Fault) {
        let mut state = self.state.lock();
        let planned = state.rules.iter().map(|rule| rule.last).filter(|last| *last < usize::MAX).max();
        let first = planned.unwrap_or(0).max(state.log.len()) + 1;
        state.rules.push(Rule { first, last: first + n - 1, fault });
    }

    /// Exactly the `n`th request from now on suffers `fault`; the next is the first.
    pub(crate) fn fail_nth(&self, n: usize, fault: Fault) {
        let mut state = self.state.lock();
        let at = state.log.len() + n;
        state.rules.push(Rule { first: at, last: at, fault });
    }

    /// Every request from the `n`th from now on suffers `fault`.
    pub(crate) fn fail_from(&self, n: usize, fault: Fault) {
        let mut state = self.state.lock();
        let first = state.log.len() + n;
        state.rules.push(Rule { first, last: usize::MAX, fault });
    }

    /// From now on everything is served.
    pub(crate) fn heal(&self) {
        self.state.lock().rules.clear();
    }

    /// Method, and path with query, of every request since the start or [`Self::forget`].
    pub(crate) fn log(&self) -> Vec<(String, String)> {
        self.state.lock().log.clone()
    }

    /// The values of `header` in all requests with `method`.
    pub(crate) fn headers(&self, method: &str, header: &str) -> Vec<Option<String>> {
        let state = self.state.lock();
        let value = |headers: &hyper::HeaderMap| headers.get(header).map(|v| v.to_str().unwrap().to_owned());
        let all = state.log.iter().zip(&state.headers);
        all.filter(|((m, _), _)| m == method).map(|(_, headers)| value(headers)).collect()
    }

    /// From now on the server does not implement `If-None-Match`, and says so.
    pub(crate) fn refuse_conditions(&self) {
        self.state.lock().refuses_conditions = true;
    }

    /// Requests with `method` in the log.
    pub(crate) fn count(&self, method: &str) -> usize {
        self.state.lock().log.iter().filter(|(m, _)| m == method).count()
    }

    /// Empties the log and forgets what was to fail.
    pub(crate) fn forget(&self) {
        *self.state.lock() = State::default();
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An environment with these credentials; instance metadata would be asked for on a closed port of this machine.
pub(crate) fn env(access_key_id: &str, secret: &str) -> Vec<(String, String)> {
    [
        ("AWS_ACCESS_KEY_ID", access_key_id),
        ("AWS_SECRET_ACCESS_KEY", secret),
        ("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// Names that begin with a dot are the server's own.
fn walk(root: &Path, dir: &Path, objects: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(root, &path, objects);
        } else if !path.file_name().unwrap().to_string_lossy().starts_with('.') {
            let key = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            objects.push((key, std::fs::read(&path).unwrap()));
        }
    }
}

async fn accept(listener: tokio::net::TcpListener, served: Served) {
    while let Ok((stream, _)) = listener.accept().await {
        let served = served.clone();
        tokio::spawn(async move {
            stream.set_nodelay(true).unwrap();
            let answer = service_fn(move |request| served.clone().answer(request));
            // A connection ends with an error whenever a fault closes it.
            http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await.ok();
        });
    }
}

#[derive(Clone)]
struct Served {
    service: S3Service,
    root: Arc<Path>,
    state: Arc<Mutex<State>>,
    writes: Arc<tokio::sync::Mutex<()>>,
}

impl Served {
    async fn answer(self, request: Request<Incoming>) -> io::Result<HttpResponse> {
        let fault = self.record(&request);
        match &fault {
            Some(Fault::Answer(status, body)) => {
                // As real servers do: a client that is still sending would see a reset instead of the answer.
                let mut sent = request.into_body();
                while std::future::poll_fn(|cx| Pin::new(&mut sent).poll_frame(cx)).await.is_some() {}
                return Ok(answer(*status, body));
            }
            Some(Fault::DropBefore) => return Err(io::ErrorKind::ConnectionReset.into()),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Delay(time)) => tokio::time::sleep(*time).await,
            Some(Fault::DropAfter) | None => {}
        }
        // The service itself would make the bucket.
        let bucket = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
        if !self.root.join(bucket).is_dir() {
            return Ok(answer(404, "<Error><Code>NoSuchBucket</Code></Error>"));
        }
        let writes = matches!(*request.method(), Method::PUT | Method::POST | Method::DELETE);
        let _alone = if writes { Some(self.writes.lock().await) } else { None };
        let answer = self.service.call(request.map(Body::from)).await;
        if matches!(fault, Some(Fault::DropAfter)) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        answer.map_err(|e| io::Error::other(format!("{e:?}")))
    }

    /// Logs the request; returns what it is to suffer.
    fn record(&self, request: &Request<Incoming>) -> Option<Fault> {
        let mut state = self.state.lock();
        state.log.push((request.method().to_string(), request.uri().to_string()));
        state.headers.push(request.headers().clone());
        if state.refuses_conditions && request.headers().contains_key("if-none-match") {
            return Some(Fault::answer(501, "NotImplemented"));
        }
        let number = state.log.len();
        state.rules.iter().find(|rule| (rule.first..=rule.last).contains(&number)).map(|rule| rule.fault.clone())
    }
}

fn answer(status: u16, body: &str) -> HttpResponse {
    let mut response = HttpResponse::new(Body::from(body.to_owned()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}
