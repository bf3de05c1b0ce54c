//! Finding heartbeats: the newest of each host without a listing of all, and all that may go.

use futures_util::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore};

use crate::access::{Access, until_given_up};
use crate::error::{Error, Result};
use crate::layout::{HEARTBEATS, heartbeat_key, heartbeats_of, host_of_heartbeats, parse_heartbeat};
use crate::store::classify;
use crate::timestamp::Timestamp;

const HOUR_MS: i64 = 3_600_000;
/// Looked for in the last three hours, else two days, else a month, else everything.
const WINDOWS_MS: [i64; 3] = [3 * HOUR_MS, 48 * HOUR_MS, 31 * 24 * HOUR_MS];
/// A key so far in the future is of a clock that was wrong.
const AHEAD_MS: i64 = 24 * HOUR_MS;
/// Hosts looked at together.
const TOGETHER: usize = 16;
/// Prune leaves those of this time, and the newest.
pub(crate) const KEPT_MS: i64 = 30 * 24 * HOUR_MS;

/// A heartbeat in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The host's name.
    pub host: String,
    /// Its key below the store's prefix.
    pub key: String,
    /// Its bytes.
    pub size: u64,
    /// The time in its key, by the host's clock.
    pub time: Timestamp,
    /// When it was written, by the store's clock.
    pub written: Timestamp,
}

impl Found {
    fn of(access: &Access, object: &ObjectMeta) -> Option<Self> {
        let key = access.store.key(&object.location)?;
        let (prefix, time) = parse_heartbeat(key)?;
        let written = Timestamp::from_ms(object.last_modified.timestamp_millis()).unwrap_or(Timestamp::MIN);
        (prefix.split('/').count() == 2).then(|| Self {
            host: host_of_heartbeats(prefix),
            key: key.to_owned(),
            size: object.size,
            time,
            written,
        })
    }
}

/// The newest heartbeat of each host, by the store's clock, in the order of their names; of `host` alone if one is given. One
/// LIST for the hosts, and one or a few for each, however many there are.
///
/// # Errors
/// [`Error::Store`] if they cannot be listed, [`Error::Interrupted`].
pub fn newest(access: &Access, host: Option<&str>, now: Timestamp) -> Result<Vec<Found>> {
    let prefixes = match host {
        Some(host) => vec![heartbeats_of(host)],
        None => hosts(access)?,
    };
    let each = futures_util::stream::iter(prefixes).map(|prefix| async move { newest_of(access, &prefix, now).await });
    let found = each.buffered(access.concurrency().clamp(1, TOGETHER)).try_collect::<Vec<_>>();
    let found = ask(access, found)?;
    Ok(found.into_iter().flatten().collect())
}

/// The prefixes that heartbeats lie below, one for each host.
fn hosts(access: &Access) -> Result<Vec<String>> {
    let top = access.store.path(HEARTBEATS).map_err(|e| failed(access, &e))?;
    let listed = ask(access, access.store.inner.list_with_delimiter(Some(&top)))?;
    let mut prefixes: Vec<String> =
        listed.common_prefixes.iter().filter_map(|path| access.store.key(path).map(str::to_owned)).collect();
    prefixes.sort();
    Ok(prefixes)
}

async fn newest_of(access: &Access, prefix: &str, now: Timestamp) -> object_store::Result<Option<Found>> {
    let mut best = None;
    for window in WINDOWS_MS.into_iter().map(Some).chain([None]) {
        let after = window.map(|ms| Timestamp::from_ms(now.as_ms().saturating_sub(ms)).unwrap_or(Timestamp::MIN));
        let mut listed = list(access, prefix, after)?;
        let mut is_settled = false;
        while let Some(object) = listed.try_next().await? {
            let Some(found) = Found::of(access, &object) else { continue };
            // One of a clock that ran ahead is found in every window, and says nothing about those between.
            is_settled |= found.time.as_ms() <= now.as_ms().saturating_add(AHEAD_MS);
            if best.as_ref().is_none_or(|best: &Found| (found.written, found.time) > (best.written, best.time)) {
                best = Some(found);
            }
        }
        if is_settled {
            break;
        }
    }
    Ok(best)
}

type Listed<'a> = futures_util::stream::BoxStream<'a, object_store::Result<ObjectMeta>>;

fn list<'a>(access: &'a Access, prefix: &str, after: Option<Timestamp>) -> object_store::Result<Listed<'a>> {
    let (store, below) = (&access.store, access.store.path(prefix)?);
    Ok(match after {
        Some(after) => store.inner.list_with_offset(Some(&below), &store.path(&heartbeat_key(prefix, after))?),
        None => store.inner.list(Some(&below)),
    })
}

/// Those that may go at `time`: older than a month by their keys and by the store's clock, and not the newest of their host by
/// either; by their keys alone, if they are trusted. Of `host` alone if one is given; else of all.
pub(crate) fn expired(
    access: &Access,
    host: Option<&str>,
    time: Timestamp,
    trust_keys: bool,
) -> Result<Vec<(String, Timestamp)>> {
    let prefixes = match host {
        Some(host) => vec![heartbeats_of(host)],
        None => hosts(access)?,
    };
    let mut expired = Vec::new();
    for prefix in prefixes {
        let mut found = Vec::new();
        let listed = list(access, &prefix, None).map_err(|e| failed(access, &e))?;
        ask(access, async {
            let mut listed = listed;
            while let Some(object) = listed.try_next().await? {
                found.extend(Found::of(access, &object).map(|f| (f.time, f.written)));
            }
            Ok(())
        })?;
        let (by_key, by_store) = (found.iter().map(|f| f.0).max(), found.iter().map(|f| f.1).max());
        let is_old = |t: Timestamp| time.as_ms() - t.as_ms() > KEPT_MS;
        let goes = |(by_own, by_stores): &&(Timestamp, Timestamp)| {
            let is_by_keys = is_old(*by_own) && Some(*by_own) != by_key;
            is_by_keys && (trust_keys || (is_old(*by_stores) && Some(*by_stores) != by_store))
        };
        expired.extend(found.iter().filter(goes).map(|f| (prefix.clone(), f.0)));
    }
    expired.sort();
    Ok(expired)
}

/// What `request` gives, unless a stop comes.
fn ask<T>(access: &Access, request: impl Future<Output = object_store::Result<T>>) -> Result<T> {
    match access.runtime().block_on(until_given_up(&access.control, request)) {
        Some(answer) => answer.map_err(|e| failed(access, &e)),
        None => Err(Error::Interrupted { signal: access.control.stop_signal().unwrap_or_default() }),
    }
}

fn failed(access: &Access, error: &object_store::Error) -> Error {
    let what = format!("cannot list the heartbeats in {}: {}", access.store.name, classify(error));
    Error::Store { what }
}
