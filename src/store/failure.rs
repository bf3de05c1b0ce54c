//! What a store's error means for the database whose object it concerns.
//!
//! Owns every match on object_store's errors. Its error texts hold URLs and whole answer bodies, and some stores echo
//! access keys and signatures there: nothing but [`classify`] may print them. A library update that changes a text
//! below fails the tests in tests/it/store.rs.

use std::error::Error as StdError;
use std::io;

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

use super::http::{Silence, Unanswered};
use super::local::FolderGone;
use super::walk::Unlisted;
use crate::error::{Failure, Reason};

/// The longest detail, in characters; stores can be talkative.
const DETAIL_LENGTH_MAX: usize = 300;

/// `error` and its causes, outermost first.
pub(super) fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&e| e.source())
}

/// Sorts an error of a store by what the caller does about it. The detail is one line without secrets.
#[must_use]
pub fn classify(error: &Error) -> Failure {
    let (reason, detail) = unanswered(error)
        .or_else(|| answered(error))
        .or_else(|| from_folder(error))
        .or_else(|| broken_off(error))
        .unwrap_or_else(|| from_kind(error));
    Failure::new(reason, one_line(&detail))
}

/// No answer to the request.
fn unanswered(error: &Error) -> Option<(Reason, String)> {
    let unanswered = chain(error).find_map(|e| e.downcast_ref::<Unanswered>())?;
    let cause = root_cause(unanswered);
    if unanswered.for_credentials {
        return Some((Reason::StoreRefused, format!("no credentials: asking for them failed ({cause})")));
    }
    Some(match unanswered.silence {
        Silence::NoConnection => (Reason::StoreUnreachable, format!("no connection: {cause}")),
        Silence::Closed => (Reason::StoreUnreachable, format!("the connection was closed before the answer: {cause}")),
        Silence::TooLate => (Reason::StoreTimeout, "no answer in time".to_owned()),
        Silence::Other => (Reason::StoreError, cause),
    })
}

fn root_cause(error: &(dyn StdError + 'static)) -> String {
    chain(error).last().map(ToString::to_string).unwrap_or_default()
}

/// How object_store's text of an answer that is an error begins.
pub(super) const STATUS: &str = "Server returned non-2xx status code: ";

/// The HTTP status of an error that the store answered with.
pub(crate) fn answered_status(error: &Error) -> Option<u16> {
    chain(error).find_map(|cause| cause.to_string().strip_prefix(STATUS)?.get(..3)?.parse().ok())
}

/// The store answered with an error. object_store keeps the status in a type that is not public, so its text is read.
fn answered(error: &Error) -> Option<(Reason, String)> {
    const BODY: &str = "Server returned error response: ";
    const ONE_OF_MANY: &str = "DeleteObjects request failed for key ";
    const REDIRECT: &str = "Received redirect without LOCATION";
    for cause in chain(error) {
        let text = cause.to_string();
        if let Some(rest) = text.strip_prefix(STATUS) {
            let (status, body) = rest.split_once(": ").unwrap_or((rest, ""));
            return Some(from_answer(status, body));
        }
        if let Some(body) = text.strip_prefix(BODY) {
            return Some(from_answer("200 OK, but the answer is an error", body));
        }
        if let Some(rest) = text.strip_prefix(ONE_OF_MANY) {
            return Some(from_answer_for_one(rest));
        }
        if text.starts_with(REDIRECT) {
            return Some((Reason::StoreRefused, "redirected without a target: is the region right?".to_owned()));
        }
    }
    None
}

/// A request for many objects failed for one: `KEY: MESSAGE (code: CODE)`.
fn from_answer_for_one(text: &str) -> (Reason, String) {
    let (_, answer) = text.split_once(": ").unwrap_or(("", text));
    let (message, code) = answer.rsplit_once(" (code: ").unwrap_or((answer, ""));
    let code = code.trim_end_matches(')');
    let reason = match code {
        "AccessDenied" => Reason::StoreRefused,
        "InternalError" | "SlowDown" | "ServiceUnavailable" => Reason::StoreBusy,
        _ => Reason::StoreError,
    };
    (reason, [code, message].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": "))
}

/// `status` begins with the number; `body` is XML with `<Code>` and `<Message>` where the store is a polite one.
fn from_answer(status: &str, body: &str) -> (Reason, String) {
    let number: u16 = status.get(..3).and_then(|digits| digits.parse().ok()).unwrap_or_default();
    let code = element(body, "Code").unwrap_or_default();
    let reason = match (number, code) {
        (_, "SlowDown" | "ServerBusy" | "TooManyRequests" | "RequestLimitExceeded") => Reason::StoreBusy,
        (429 | 500 | 502..=599, _) => Reason::StoreBusy,
        (_, "NoSuchBucket" | "ContainerNotFound") => Reason::StoreMissing,
        (401 | 403, _)
        | (
            300..=499,
            "AccessDenied"
            | "RequestTimeTooSkewed"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "InvalidAccessKeyId"
            | "AuthorizationHeaderMalformed"
            | "AuthenticationFailed"
            | "PermanentRedirect"
            | "InvalidRegion"
            | "AllAccessDisabled",
        ) => Reason::StoreRefused,
        (408, _) | (_, "RequestTimeout" | "OperationTimedOut") => Reason::StoreTimeout,
        _ => Reason::StoreError,
    };
    let message = element(body, "Message").unwrap_or_default();
    let detail = [status, code, message].map(str::trim).into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
    (reason, detail.join(": "))
}

/// The text of the first `<name>` in `xml`.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split('<').next()
}

/// A folder failed.
fn from_folder(error: &Error) -> Option<(Reason, String)> {
    use nix::errno::Errno;
    if let Some(gone) = chain(error).find_map(|e| e.downcast_ref::<FolderGone>()) {
        return Some((Reason::StoreMissing, gone.to_string()));
    }
    if matches!(error, Error::NotFound { .. } | Error::AlreadyExists { .. }) {
        return None;
    }
    let unlisted = chain(error).find_map(|e| e.downcast_ref::<Unlisted>());
    let io = chain(error).find_map(|e| e.downcast_ref::<io::Error>())?;
    let reason = match io.raw_os_error().map(Errno::from_raw)? {
        Errno::ENOSPC | Errno::EDQUOT => Reason::NoSpace,
        Errno::EACCES | Errno::EPERM | Errno::EROFS => Reason::StoreRefused,
        Errno::ETIMEDOUT => Reason::StoreTimeout,
        Errno::ECONNRESET | Errno::ECONNREFUSED | Errno::ENOTCONN | Errno::EHOSTUNREACH => Reason::StoreUnreachable,
        Errno::ESTALE => Reason::StoreMissing,
        _ => Reason::StoreError,
    };
    Some((reason, unlisted.map_or_else(|| io.to_string(), ToString::to_string)))
}

/// Whether an answer had begun, and then its body stopped.
pub(crate) fn is_broken_off(error: &Error) -> bool {
    unanswered(error).is_none() && answered(error).is_none() && chain(error).any(|e| e.is::<HttpError>())
}

/// An answer had begun, then its body stopped.
fn broken_off(error: &Error) -> Option<(Reason, String)> {
    let http = chain(error).find_map(|e| e.downcast_ref::<HttpError>())?;
    let cause = root_cause(http);
    Some(match http.kind() {
        HttpErrorKind::Timeout => (Reason::StoreTimeout, "the answer stopped".to_owned()),
        HttpErrorKind::Connect => (Reason::StoreUnreachable, format!("no connection: {cause}")),
        HttpErrorKind::Request | HttpErrorKind::Interrupted => {
            (Reason::StoreUnreachable, format!("the connection was closed within the answer: {cause}"))
        }
        _ => (Reason::StoreError, cause),
    })
}

fn from_kind(error: &Error) -> (Reason, String) {
    match error {
        Error::PermissionDenied { .. } => (Reason::StoreRefused, "permission denied".to_owned()),
        Error::Unauthenticated { .. } => (Reason::StoreRefused, "the credentials are not accepted".to_owned()),
        Error::NotFound { path, .. } => (Reason::StoreError, format!("there is no object {path}")),
        Error::AlreadyExists { path, .. } => (Reason::StoreError, format!("there is already an object {path}")),
        other => (Reason::StoreError, root_cause(other)),
    }
}

/// `text` on one line, of bounded length, without secrets.
fn one_line(text: &str) -> String {
    // A store could write to a terminal with what else controls it.
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut before = "";
    let words = words.map(|word| {
        let is_secret = announces_secret(std::mem::replace(&mut before, word));
        if is_secret && !announces_secret(word) { "***".to_owned() } else { scrub(word) }
    });
    let mut line = words.collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(DETAIL_LENGTH_MAX) {
        line.truncate(end);
        line.push('…');
    }
    line
}

/// What the name of a secret ends with.
const SIGNING: [&str; 6] = ["signature", "credential", "token", "secret", "password", "sig"];

/// Whether the word after this one is secret: it is a header's name, as in answers that repeat the request, or a kind of
/// authorization.
fn announces_secret(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    let name = word.strip_suffix(':').unwrap_or_default();
    // Not `ExpiredToken:`, which is a store's word for an error.
    let ends_in = |last: &str| name.strip_suffix(last).is_some_and(|head| head.is_empty() || head.ends_with('-'));
    matches!(word.as_str(), "bearer" | "sharedkey") || ends_in("authorization") || SIGNING.into_iter().any(ends_in)
}

/// Takes out of one word what may be secret: a URL's query and user, values of parameters that sign, access key ids.
pub(super) fn scrub(word: &str) -> String {
    let mut word = word;
    let mut tail = "";
    if let Some((start, _)) = word.split_once('?').filter(|(start, _)| start.contains("://")) {
        (word, tail) = (start, "?***");
    }
    let is_signing = |name: &str| SIGNING.iter().any(|signing| name.to_ascii_lowercase().ends_with(signing));
    // Any of several parameters; a URL without its scheme is none.
    if word.match_indices('=').any(|(at, _)| is_signing(&word[..at])) {
        return "***".to_owned();
    }
    let user = word.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?)));
    let mut shown = user.map_or_else(|| word.to_owned(), |(scheme, (_, host))| format!("{scheme}://***@{host}"));
    let is_key_id = |part: &&str| part.len() == 20 && (part.starts_with("AKIA") || part.starts_with("ASIA"));
    for key_id in word.split(|c: char| !c.is_ascii_alphanumeric()).filter(is_key_id) {
        shown = shown.replace(key_id, "***");
    }
    shown + tail
}
