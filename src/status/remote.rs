//! How hosts fare, from the heartbeats in a store: for whoever asks from elsewhere.
//!
//! A heartbeat's age is counted from when the store was given it, by the store's clock; what it says is as of then. A host that
//! is dead writes none, so the newest one tells how it was, and its age for how long nobody knows.

use std::time::Duration;

use serde::Serialize;

use super::AHEAD_MAX_MS;
use crate::access::{Access, FetchError};
use crate::error::{Error, Result};
use crate::heartbeats::{Found, Heartbeat, LEN_MAX, newest};
use crate::inventory::rounded_age;
use crate::timestamp::Timestamp;

/// A host's clock and the store's are told apart beyond this.
const CLOCKS_APART_MS: i64 = 300_000;

/// The newest heartbeat of one host. Field names are those of the JSON and stay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Host {
    /// What was asked: always `store`.
    pub asked: &'static str,
    /// The store, for people.
    pub store: String,
    /// The host's name.
    pub host: String,
    /// Key of its newest heartbeat, below the store's prefix.
    pub key: String,
    /// When this was asked.
    pub now: Timestamp,
    /// When the store was given it, by the store's clock.
    pub written: Timestamp,
    /// How old it is, s; negative if this clock is behind the store's.
    pub age_s: i64,
    /// How far the host's clock is ahead of the store's, s, if it is off by more than minutes.
    pub clock_ahead_s: Option<i64>,
    /// What it says.
    pub heartbeat: Option<Heartbeat>,
    /// Why that cannot be read.
    pub unreadable: Option<String>,
}

/// The newest heartbeat of each host in the store, sorted by name; of `host` alone if one is given.
///
/// # Errors
/// [`Error::Store`] if they cannot be listed or read, [`Error::Interrupted`].
pub fn hosts(access: &Access, host: Option<&str>, now: Timestamp) -> Result<Vec<Host>> {
    newest(access, host, now)?.into_iter().map(|found| read(access, found, now)).collect()
}

fn read(access: &Access, found: Found, now: Timestamp) -> Result<Host> {
    let name = &access.store.name;
    let bytes = match found.size {
        size if size <= LEN_MAX as u64 => access.read_all(&found.key, size),
        // Too long to be one: enough of it to say so.
        _ => access.read_small(&found.key, LEN_MAX as u64 + 1),
    };
    let read = match bytes {
        Ok(bytes) => Heartbeat::parse(&bytes).map_err(|e| e.to_string()),
        Err(FetchError::Untried) if access.control.is_stopped() => {
            return Err(Error::Interrupted { signal: access.control.stop_signal().unwrap_or_default() });
        }
        Err(FetchError::Store(failure)) if failure.reason.concerns_store() => {
            return Err(Error::Store { what: format!("cannot read {} from {name}: {failure}", found.key) });
        }
        Err(e) => Err(e.to_string()),
    };
    let ahead_ms = found.time.as_ms() - found.written.as_ms();
    let (heartbeat, unreadable) = match read {
        Ok(heartbeat) => (Some(heartbeat), None),
        Err(why) => (None, Some(why)),
    };
    Ok(Host {
        asked: "store",
        store: name.clone(),
        host: found.host,
        key: found.key,
        now,
        written: found.written,
        age_s: (now.as_ms() - found.written.as_ms()).div_euclid(1000),
        clock_ahead_s: (ahead_ms.abs() > CLOCKS_APART_MS).then_some(ahead_ms / 1000),
        heartbeat,
        unreadable,
    })
}

impl Host {
    /// What is wrong, if a change may be unprotected for `limit`; nothing if all is known to be fresh.
    #[must_use]
    pub fn complaints(&self, limit: Duration) -> Vec<String> {
        let limit_s = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
        let now_age = |then_s: i64| then_s.saturating_add(self.age_s.max(0));
        let mut all = Vec::new();
        if self.age_s.saturating_mul(1000) < -AHEAD_MAX_MS {
            let behind = rounded_age(-self.age_s);
            all.push(format!("its age is not known: this clock is {behind} behind the store's"));
        }
        if self.age_s > limit_s {
            all.push(format!("its newest heartbeat is {} old{}", rounded_age(self.age_s), self.too_rare(limit_s)));
        }
        let Some(said) = &self.heartbeat else {
            all.push(format!(
                "its newest heartbeat cannot be read: {}",
                self.unreadable.as_deref().unwrap_or_default()
            ));
            return all;
        };
        if let Some(oldest_s) = said.oldest_unprotected_s.filter(|oldest_s| now_age(*oldest_s) > limit_s) {
            let then = rounded_age(oldest_s);
            all.push(format!("{} changes were not stored, the oldest for {then} then", said.waiting.count));
        }
        let interval_s = i64::try_from(said.interval_ms.div_ceil(1000)).unwrap_or(i64::MAX);
        match said.known_as_of_age_s {
            None => all.push("no cycle had ended well since its loop began".to_owned()),
            Some(age_s) if now_age(age_s) > limit_s.saturating_add(interval_s) => {
                all.push(format!("nothing is known of changes since {} before it", rounded_age(age_s)));
            }
            Some(_) => {}
        }
        if let Some(error) = said.last_error.as_ref().filter(|_| !all.is_empty()) {
            all.push(format!("its last cycle: {error}"));
        }
        all
    }

    /// How long the next heartbeat is overdue, s.
    #[must_use]
    pub fn overdue_s(&self) -> Option<i64> {
        let every_s = i64::try_from(self.heartbeat.as_ref()?.every_s).unwrap_or(i64::MAX);
        Some(self.age_s.saturating_sub(every_s)).filter(|s| *s > 0)
    }

    /// Asked for less than lies between two heartbeats, every host is red most of the time.
    fn too_rare(&self, limit_s: i64) -> String {
        let every_s = self.heartbeat.as_ref().and_then(|said| i64::try_from(said.every_s).ok());
        let every_s = every_s.filter(|every_s| *every_s >= limit_s && self.age_s <= every_s.saturating_mul(2));
        every_s
            .map(|s| format!(" (they come every {}: give --stale more than that)", rounded_age(s)))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(age_s: i64, change: impl FnOnce(&mut Heartbeat)) -> Host {
        let now = Timestamp::from_ms(1_795_244_400_000).unwrap();
        let json = r#"{"format":1,"key":"k","host":"h","time":"2026-11-21T06:33:39.123Z","litesnap":"0","started":null,
            "interval_ms":30000,"every_s":3600,"next_due":null,"known_as_of_age_s":5,"last_success_age_s":5,"last_error":null,
            "databases":3,"failing":{},"waiting":{"classes":[0,0,0,0,0,0,0,0,0,0,0],"count":0,"sum_s":0,"oldest_s":0},
            "oldest_unprotected_s":null,"cycles":1,"stored":1,"bytes":1,"read_bytes":1,"uploads_failed":0,"complaints":[]}"#;
        let mut said = Heartbeat::parse(json.as_bytes()).unwrap();
        change(&mut said);
        Host {
            asked: "store",
            store: "s".into(),
            host: "h".into(),
            key: "k".into(),
            now,
            written: now,
            age_s,
            clock_ahead_s: None,
            heartbeat: Some(said),
            unreadable: None,
        }
    }

    #[test]
    fn red_by_table() {
        let red = |host: Host| host.complaints(Duration::from_secs(7200)).join("; ");
        assert_eq!(red(host(3600, |_| {})), "");
        assert_eq!(red(host(7200, |said| said.known_as_of_age_s = Some(0))), "");
        assert!(red(host(7201, |_| {})).contains("is 2h old"));
        assert!(red(host(-61, |_| {})).contains("this clock is 1m 1s behind"));
        assert_eq!(red(host(-59, |_| {})), "");
        // What waited then has waited since.
        assert_eq!(red(host(3600, |said| said.oldest_unprotected_s = Some(3600))), "");
        assert!(red(host(3600, |said| said.oldest_unprotected_s = Some(3601))).contains("the oldest for 1h"));
        assert_eq!(red(host(3600, |said| said.known_as_of_age_s = Some(3630))), "");
        assert!(red(host(3600, |said| said.known_as_of_age_s = Some(3631))).contains("nothing is known of changes"));
        let never = red(host(0, |said| (said.known_as_of_age_s, said.last_error) = (None, Some("down".into()))));
        assert!(never.contains("no cycle had ended well") && never.ends_with("its last cycle: down"), "{never}");
        let unreadable = Host { heartbeat: None, unreadable: Some("it is no heartbeat".into()), ..host(0, |_| {}) };
        assert!(red(unreadable).contains("cannot be read: it is no heartbeat"));
    }

    #[test]
    fn asked_for_less_than_lies_between_two_it_says_so() {
        let short = host(600, |_| {}).complaints(Duration::from_secs(300)).join("; ");
        assert!(short.contains("they come every 1h: give --stale more"), "{short}");
        let dead = host(90_000, |_| {}).complaints(Duration::from_secs(300)).join("; ");
        assert!(!dead.contains("--stale"), "{dead}");
    }
}
