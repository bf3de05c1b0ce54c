//! Counts of requests, by verb and by how they were answered.
//!
//! For network stores every attempt counts, retries too, because each is paid for; for folders and memory every
//! operation counts once. Requests for credentials (instance metadata, STS, OAuth) count apart and are in no total.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a request does, as stores price it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Store an object or a part.
    Put,
    /// Begin or complete a multipart upload; delete many.
    Post,
    /// Read an object or a range of it.
    Get,
    /// List a page of keys.
    List,
    /// Describe an object.
    Head,
    /// Delete an object or abort a multipart upload.
    Delete,
    /// Any other.
    Other,
}

/// How a request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// 2xx or 3xx.
    Done,
    /// 4xx, but for 429.
    Refused,
    /// 429 or 503: slow down.
    Busy,
    /// 5xx, but for 503.
    Broken,
    /// None: no connection, closed early, timed out or given up.
    Nothing,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 7] = [Self::Put, Self::Post, Self::Get, Self::List, Self::Head, Self::Delete, Self::Other];

    /// The fixed word, for metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Post => "post",
            Self::Get => "get",
            Self::List => "list",
            Self::Head => "head",
            Self::Delete => "delete",
            Self::Other => "other",
        }
    }

    /// The verb of an HTTP request. Listings are told apart by their query: `list-type` (S3, GCS), `comp=list` (Azure).
    pub(super) fn of_http(method: &str, query: Option<&str>) -> Self {
        match method {
            "PUT" => Self::Put,
            "POST" => Self::Post,
            "HEAD" => Self::Head,
            "DELETE" => Self::Delete,
            "GET" if query.is_some_and(|q| q.contains("list-type=") || q.contains("comp=list")) => Self::List,
            "GET" => Self::Get,
            _ => Self::Other,
        }
    }
}

impl Answer {
    /// Every class of answer.
    pub const ALL: [Self; 5] = [Self::Done, Self::Refused, Self::Busy, Self::Broken, Self::Nothing];

    /// The fixed word, for metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::Broken => "broken",
            Self::Nothing => "nothing",
        }
    }

    pub(super) fn of_status(status: u16) -> Self {
        match status {
            429 | 503 => Self::Busy,
            400..=499 => Self::Refused,
            500.. => Self::Broken,
            _ => Self::Done,
        }
    }

    pub(super) fn of_result<T>(result: &object_store::Result<T>) -> Self {
        use object_store::Error::{AlreadyExists, NotFound, NotModified, Precondition};
        match result {
            Ok(_) => Self::Done,
            Err(AlreadyExists { .. } | NotFound { .. } | NotModified { .. } | Precondition { .. }) => Self::Refused,
            Err(_) => Self::Broken,
        }
    }
}

/// The live counters of one store.
#[derive(Debug, Default)]
pub struct Requests {
    counts: [[AtomicU64; Answer::ALL.len()]; Verb::ALL.len()],
    credentials: AtomicU64,
}

impl Requests {
    pub(crate) fn add(&self, verb: Verb, answer: Answer) {
        self.counts[verb as usize][answer as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_credentials(&self) {
        self.credentials.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts so far.
    #[must_use]
    pub fn snapshot(&self) -> RequestCounts {
        RequestCounts {
            counts: std::array::from_fn(|v| std::array::from_fn(|a| self.counts[v][a].load(Ordering::Relaxed))),
            credentials: self.credentials.load(Ordering::Relaxed),
        }
    }

    /// Requests to the store so far, whatever their answer; without those for credentials.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.snapshot().total()
    }
}

/// Counts at one moment, or between two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestCounts {
    counts: [[u64; Answer::ALL.len()]; Verb::ALL.len()],
    credentials: u64,
}

impl RequestCounts {
    /// Requests of `verb` that were answered with `answer`.
    #[must_use]
    pub fn get(&self, verb: Verb, answer: Answer) -> u64 {
        self.counts[verb as usize][answer as usize]
    }

    /// Requests of `verb`, whatever their answer.
    #[must_use]
    pub fn of(&self, verb: Verb) -> u64 {
        self.counts[verb as usize].iter().sum()
    }

    /// Requests with `answer`, whatever their verb.
    #[must_use]
    pub fn answered(&self, answer: Answer) -> u64 {
        self.counts.iter().map(|by_answer| by_answer[answer as usize]).sum()
    }

    /// Requests to the store, whatever their verb and answer; without those for credentials.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    /// Requests for credentials: to instance metadata, STS and OAuth services.
    #[must_use]
    pub fn credentials(&self) -> u64 {
        self.credentials
    }

    /// What was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            counts: std::array::from_fn(|v| {
                std::array::from_fn(|a| self.counts[v][a].saturating_sub(earlier.counts[v][a]))
            }),
            credentials: self.credentials.saturating_sub(earlier.credentials),
        }
    }
}
