//! The HTTP client below object_store's retries: counts every attempt and ends the retries when the store is silent.
//!
//! object_store has one retry budget for all failures. We want two: a store that says "slow down" deserves patience, one
//! that does not answer at all does not, for the next cycle asks again anyway. So this layer marks an attempt as final,
//! by a kind that object_store does not retry, once nothing has been answered for [`Patience::silent`].
//!
//! [`Patience::silent`]: super::Patience::silent

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use parking_lot::Mutex;

use super::requests::{Answer, Requests, Verb};

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    /// No connection: name not found, refused, certificate not trusted, connecting took too long.
    NoConnection,
    /// Connected, then closed or reset before the answer.
    Closed,
    /// Connected, but the answer did not come in time.
    TooLate,
    /// Anything else, such as a URL that the client refuses.
    Other,
}

/// A request that was not answered, or one for credentials that was refused.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) silence: Silence,
    /// It was for credentials, not for the store.
    pub(super) for_credentials: bool,
    source: HttpError,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no answer")
    }
}

impl StdError for Unanswered {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.source)
    }
}

/// The store does not know this kind of request or one of its headers; object_store would ask again and again.
#[derive(Debug)]
struct Unimplemented(String);

impl fmt::Display for Unimplemented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{NOT_IMPLEMENTED} Not Implemented: {}", super::failure::STATUS, self.0)
    }
}

impl StdError for Unimplemented {}

const NOT_IMPLEMENTED: u16 = 501;

/// Makes clients that count.
#[derive(Debug)]
pub(super) struct CountingConnector {
    pub(super) requests: Arc<Requests>,
    pub(super) patience: Duration,
    /// Hosts, as `host:port`, that give credentials besides the well-known ones.
    pub(super) credential_hosts: Vec<String>,
}

impl HttpConnector for CountingConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(CountingService {
            inner: ReqwestConnector::default().connect(options)?,
            requests: Arc::clone(&self.requests),
            patience: self.patience,
            credential_hosts: self.credential_hosts.clone(),
            outage: Mutex::default(),
        }))
    }
}

/// Since when nothing has been answered.
#[derive(Debug, Default)]
struct Outage {
    since: Option<Instant>,
    last_answer: Option<Instant>,
}

impl Outage {
    fn answered(&mut self) {
        *self = Self { since: None, last_answer: Some(Instant::now()) };
    }

    /// Notes that a request begun at `began` was not answered; returns how long the outage has lasted.
    fn unanswered(&mut self, began: Instant) -> Duration {
        let began = self.last_answer.map_or(began, |answer| answer.max(began));
        self.since.get_or_insert(began).elapsed()
    }
}

struct CountingService {
    inner: HttpClient,
    requests: Arc<Requests>,
    patience: Duration,
    credential_hosts: Vec<String>,
    outage: Mutex<Outage>,
}

/// Not derived: the client inside would print proxies and headers.
impl fmt::Debug for CountingService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountingService").finish_non_exhaustive()
    }
}

impl CountingService {
    fn is_for_credentials(&self, request: &HttpRequest) -> bool {
        const KNOWN: [&str; 5] = [
            "metadata.google.internal",
            "metadata",
            "oauth2.googleapis.com",
            "accounts.google.com",
            "iamcredentials.googleapis.com",
        ];
        let Some(authority) = request.uri().authority() else { return false };
        let host = authority.host();
        self.credential_hosts.iter().any(|known| known == authority.as_str())
            || KNOWN.contains(&host)
            || host.starts_with("169.254.")
            || host.starts_with("[fd00:ec2:")
            || (host.starts_with("sts.") && host.contains(".amazonaws.com"))
            || host.starts_with("login.microsoftonline.")
    }
}

/// Counts one request when it is over, also when its future is dropped before the answer.
struct Pending<'a> {
    requests: &'a Requests,
    verb: Verb,
    for_credentials: bool,
    answer: Answer,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.for_credentials {
            self.requests.add_credentials();
        } else {
            self.requests.add(self.verb, self.answer);
        }
    }
}

#[async_trait]
impl HttpService for CountingService {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let for_credentials = self.is_for_credentials(&request);
        let verb = Verb::of_http(request.method().as_str(), request.uri().query());
        let mut pending = Pending { requests: &self.requests, verb, for_credentials, answer: Answer::Nothing };
        let began = Instant::now();
        match self.inner.execute(request).await {
            Ok(response) if for_credentials && refuses(verb, response.status().as_u16()) => {
                let source = HttpError::new(HttpErrorKind::Unknown, io::Error::other(response.status().to_string()));
                let refused = Unanswered { silence: Silence::Other, for_credentials, source };
                Err(HttpError::new(HttpErrorKind::Unknown, refused))
            }
            Ok(response) => {
                pending.answer = Answer::of_status(response.status().as_u16());
                self.outage.lock().answered();
                if response.status().as_u16() != NOT_IMPLEMENTED {
                    return Ok(response);
                }
                let body = response.into_body().bytes().await.unwrap_or_default();
                let text = String::from_utf8_lossy(&body).into_owned();
                Err(HttpError::new(HttpErrorKind::Unknown, Unimplemented(text)))
            }
            Err(source) => {
                let silent = self.outage.lock().unanswered(began);
                let kind = if silent >= self.patience { HttpErrorKind::Unknown } else { source.kind() };
                let silence = silence(&source);
                Err(HttpError::new(kind, Unanswered { silence, for_credentials, source }))
            }
        }
    }
}

/// Whether a service that gives credentials said no. Not for its first request, a PUT, whose 403 object_store
/// understands: then it asks in an older way, if that is allowed.
fn refuses(verb: Verb, status: u16) -> bool {
    verb != Verb::Put && (400..500).contains(&status) && status != 429
}

/// A connect timeout has the kind `Timeout` too: only the text of the client's connection error tells it apart.
fn silence(error: &HttpError) -> Silence {
    let connecting = super::failure::chain(error).any(|e| e.to_string().starts_with("client error (Connect)"));
    match error.kind() {
        _ if connecting => Silence::NoConnection,
        HttpErrorKind::Connect => Silence::NoConnection,
        HttpErrorKind::Request | HttpErrorKind::Interrupted => Silence::Closed,
        HttpErrorKind::Timeout => Silence::TooLate,
        _ => Silence::Other,
    }
}
