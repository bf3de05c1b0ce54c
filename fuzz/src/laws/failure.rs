//! Failures as `state.db` keeps them, and what stores answer. Input: the text.

use std::fmt;

use litesnap::error::{Failure, Reason};
use litesnap::store::classify;

use super::{gauge, is_one_line};

/// Beside a text that has all kinds of errors in it, so that each is found by its beginning.
const BEGINNINGS: [&str; 4] = [
    "",
    "Server returned non-2xx status code: ",
    "Server returned error response: ",
    "DeleteObjects request failed for key ",
];
const SECRET: &str = "hunter2hunter2";

pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(failure) = Failure::parse(&text) {
        assert_eq!(failure.to_string(), text);
    }
    for beginning in BEGINNINGS {
        answered(format!("{beginning}{text}"));
        if !text.contains(SECRET) {
            secrets_stay(beginning, &text);
        }
    }
}

#[derive(Debug)]
struct Answer(String);

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Answer {}

fn classified(answer: String) -> Failure {
    classify(&object_store::Error::Generic { store: "S3", source: Box::new(Answer(answer)) })
}

/// One line of bounded length, whatever the store says; it comes back from `state.db`.
fn answered(answer: String) {
    let len = answer.len();
    let (failure, taken) = gauge::peak(|| classified(answer));
    assert!(taken <= 64 * len + (16 << 10), "{taken} bytes taken for {len}");
    is_one_line(&failure.to_string());
    assert!(failure.detail.chars().count() <= 301, "{}", failure.detail);
    assert_eq!(Failure::parse(&failure.to_string()).as_ref(), Some(&failure));
    let is_key_id = |part: &str| part.len() == 20 && (part.starts_with("AKIA") || part.starts_with("ASIA"));
    let mut words = failure.detail.split(|c: char| !c.is_ascii_alphanumeric());
    assert!(!words.any(is_key_id), "a key id in {:?}", failure.detail);
    assert!(failure.reason != Reason::Empty && failure.reason.is_failure());
}

/// Stores echo what was asked for: a signature in it is not told, wherever it stands.
fn secrets_stay(beginning: &str, text: &str) {
    let middle = (0..=text.len() / 2).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let (before, after) = text.split_at(middle);
    for begin in [" X-Amz-Signature=", "?X-Amz-Security-Token=", "&sig=", "https://me:"] {
        let end = if begin.ends_with(':') { "@host " } else { "& " };
        let failure = classified(format!("{beginning}{before}{begin}{SECRET}{end}{after}"));
        assert!(!failure.detail.contains(SECRET), "{begin}: {:?}", failure.detail);
    }
}
