//! Heartbeats: small objects by which a loop says how it fares, for whoever looks from elsewhere when its host is dead.
//!
//! One per host and time, put beside the loop: never part of a cycle, never waited for by one, and written when things are bad
//! above all. When the last one was put is a note in `state.db`, so that a restart does not put another. What is in them is for
//! people and `litesnap status`; nothing is restored from it. A crash leaves one more or one less.

pub(crate) mod find;
mod writer;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::backlog::Ages;
use crate::clock::MILLISECOND;
use crate::monitor::Vitals;
use crate::object::{FORMAT_VERSION, LITESNAP_VERSION, ObjectError, check_small};
use crate::timestamp::Timestamp;

pub use find::{Found, newest};
pub use writer::{Beside, Heart};

/// The note of `state.db` that holds the [`LastHeartbeat`].
pub const NOTE: &str = "last_heartbeat";
/// Real ones have 1 to 2 KiB.
pub const LEN_MAX: usize = 64 << 10;
/// Complaints kept in one, and characters of each.
const COMPLAINTS_MAX: usize = 8;
const COMPLAINT_LEN_MAX: usize = 500;

/// What the state remembers of the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastHeartbeat {
    /// When it was put, by this host's clock.
    pub at: Timestamp,
    /// Its key below the store's prefix.
    pub key: String,
}

/// What a heartbeat says. In JSON the fields have these names; see docs/FORMAT.md. Ages are as of `time`, in seconds: they hold
/// whatever the host's clock says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// [`FORMAT_VERSION`].
    pub format: u16,
    /// The full key of the object in its store.
    pub key: String,
    /// The host's name in keys.
    pub host: String,
    /// When it was made, by the host's clock.
    pub time: Timestamp,
    /// [`LITESNAP_VERSION`] of the program that made it.
    pub litesnap: String,
    /// When the process began.
    pub started: Option<Timestamp>,
    /// From one cycle to the next, ms.
    pub interval_ms: u64,
    /// From one heartbeat to the next, s.
    pub every_s: u64,
    /// When the next one is due, by the host's clock.
    pub next_due: Option<Timestamp>,
    /// How long ago the last cycle began after which everything was known; `None` if there was none since the start.
    pub known_as_of_age_s: Option<i64>,
    /// How long ago the last cycle began that the store and the state took.
    pub last_success_age_s: Option<i64>,
    /// What was wrong with the last cycle as a whole.
    pub last_error: Option<String>,
    /// Databases found by the last cycle.
    pub databases: u64,
    /// Of these, how many failed, by the word of their reason.
    pub failing: BTreeMap<String, u64>,
    /// Changes that are not stored, by how long they wait.
    pub waiting: Ages,
    /// How long the oldest of them waits.
    pub oldest_unprotected_s: Option<i64>,
    /// Cycles since the start.
    pub cycles: u64,
    /// Snapshots stored since then.
    pub stored: u64,
    /// Bytes of their objects.
    pub bytes: u64,
    /// Bytes of databases read.
    pub read_bytes: u64,
    /// Uploads that failed.
    pub uploads_failed: u64,
    /// What the loop complains of.
    pub complaints: Vec<String>,
}

impl Heartbeat {
    /// What `vitals` say, for the object under `key`, where one is put every `every_s` seconds.
    #[must_use]
    pub fn of(vitals: &Vitals, key: String, every_s: u64) -> Self {
        let time = Timestamp::from_ms(vitals.now_ms).unwrap_or(Timestamp::MIN);
        let age_s = |then_ms: i64| (vitals.now_ms - then_ms).div_euclid(1000).max(0);
        let every_ms = i64::try_from(every_s).unwrap_or(i64::MAX).saturating_mul(1000);
        let short = |text: &String| text.chars().take(COMPLAINT_LEN_MAX).collect::<String>();
        Self {
            format: FORMAT_VERSION,
            key,
            host: vitals.host.clone(),
            time,
            litesnap: LITESNAP_VERSION.to_owned(),
            started: Timestamp::from_ms(vitals.started_ms),
            interval_ms: u64::try_from(vitals.interval.as_millis()).unwrap_or(u64::MAX),
            every_s,
            next_due: Timestamp::from_ms(vitals.now_ms.saturating_add(every_ms)),
            known_as_of_age_s: vitals.known_as_of_ms.map(age_s),
            last_success_age_s: vitals.last_success_ms.map(age_s),
            last_error: vitals.last.as_ref().and_then(|last| last.error.as_ref().map(short)),
            databases: vitals.last.as_ref().map_or(0, |last| last.databases),
            failing: vitals.failing.iter().map(|(word, n)| ((*word).to_owned(), *n)).collect(),
            oldest_unprotected_s: (vitals.backlog.count > 0).then_some(vitals.backlog.oldest_s),
            waiting: vitals.backlog.clone(),
            cycles: vitals.totals.cycles,
            stored: vitals.totals.stored,
            bytes: vitals.totals.bytes,
            read_bytes: vitals.totals.read_bytes,
            uploads_failed: vitals.totals.uploads_failed,
            complaints: vitals.complaints.iter().take(COMPLAINTS_MAX).map(short).collect(),
        }
    }

    /// The object: one line, ended.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("a heartbeat has only text and numbers");
        line.push(b'\n');
        line
    }

    /// Reads an object that [`Heartbeat::to_bytes`] made. Does not look at the key that it was fetched under.
    ///
    /// # Errors
    /// Not ours, or of a later version.
    pub fn parse(object: &[u8]) -> Result<Self, ObjectError> {
        check_small(object, LEN_MAX, "it is too long for a heartbeat", "it is no heartbeat")?;
        serde_json::from_slice(object).map_err(|e| ObjectError::Undecodable(format!("heartbeat: {e}")))
    }
}

/// `time_ns` as a time that keys can tell.
fn timestamp(time_ns: i64) -> Option<Timestamp> {
    Timestamp::from_ms(time_ns / MILLISECOND)
}
