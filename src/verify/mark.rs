//! Markers: small objects beside snapshots that are known to be bad, so that no rule lets an older good one go for them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::{StreamExt, stream};
use object_store::{ObjectStore, PutMode, PutOptions};

use super::ledger::{Finding, Ledger};
use crate::access::{Access, until_given_up};
use crate::catalogue::Database;
use crate::error::{Reason, Result};
use crate::object::LITESNAP_VERSION;
use crate::store::classify;
use crate::timestamp::Timestamp;
use crate::upload::is_unsupported;

/// Puts a marker for every bad snapshot in the ledger that wants one; tells how many there are now, and how many could not be
/// put. Once the store has
/// refused one, as it does where credentials may only read, no more are tried.
pub(super) fn mark(access: &Access, ledger: &Ledger, now: Timestamp) -> Result<(u64, u64)> {
    let (done, failed, refused) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let mut last = 0;
    loop {
        let page = ledger.wanting_marker_after(last)?;
        let Some((row, _)) = page.last() else { break };
        last = *row;
        let puts = stream::iter(page).map(|(_, finding)| {
            let (done, failed, refused) = (&done, &failed, &refused);
            async move {
                let is_there = put(access, &finding, now, refused).await;
                if is_there { done } else { failed }.fetch_add(1, Ordering::Relaxed);
            }
        });
        access.runtime().block_on(puts.buffer_unordered(access.concurrency()).for_each(|()| async {}));
    }
    Ok((done.into_inner(), failed.into_inner()))
}

/// Puts one; false if it is not there afterwards.
async fn put(access: &Access, finding: &Finding, now: Timestamp, refused: &AtomicBool) -> bool {
    if refused.load(Ordering::Relaxed) || access.control.is_stopped() || access.down().is_some() {
        return false;
    }
    let Some(put) = until_given_up(&access.control, try_put(access, finding, now)).await else { return false };
    match put {
        Ok(()) | Err(object_store::Error::AlreadyExists { .. }) => true,
        Err(e) => {
            let failure = classify(&e);
            let is_refused = failure.reason == Reason::StoreRefused;
            if !is_refused || !refused.swap(true, Ordering::Relaxed) {
                log::warn!("cannot mark {} as bad: {failure}", finding.key);
            }
            false
        }
    }
}

async fn try_put(access: &Access, finding: &Finding, now: Timestamp) -> object_store::Result<()> {
    let store = &access.store;
    let database = Database { name: finding.name.clone(), ..Database::default() };
    let path = store.path(&database.marker_key(finding.time))?;
    let content = serde_json::json!({
        "word": finding.word,
        "detail": finding.detail,
        "checked_at": now.to_rfc3339(),
        "litesnap": LITESNAP_VERSION,
    });
    let content = content.to_string() + "\n";
    match store.inner.put_opts(&path, content.clone().into(), store.create()).await {
        Err(e) if is_unsupported(&e) => {
            // Two markers of one snapshot say the same.
            let options = PutOptions { mode: PutMode::Overwrite, ..store.create() };
            store.inner.put_opts(&path, content.into(), options).await.map(drop)
        }
        other => other.map(drop),
    }
}
