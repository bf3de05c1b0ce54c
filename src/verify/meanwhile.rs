//! What was listed and then not there: lost, or removed on purpose by a prune that ran meanwhile.
//!
//! A prune leaves the newest good snapshot of every database. So what is no longer listed, while a newer good one of its
//! database is, was let go by a rule.

use super::ledger::Ledger;
use crate::access::Access;
use crate::catalogue::Database;
use crate::error::{Error, Result};
use crate::names::Names;
use crate::state::Beside;

/// For more databases than this, one listing of everything is cheaper than one of each.
const BY_NAME_MAX: usize = 20;

/// Lists once more what is missing, and takes back the findings of what was removed on purpose; returns how many. What
/// the state still believes the newest stays. If it cannot be listed, all stay.
pub(super) fn removed(access: &Access, names: &Names, ledger: &Ledger, state: Option<&Beside>) -> Result<u64> {
    let missing = ledger.with_missing(BY_NAME_MAX + 1)?;
    if missing.is_empty() || access.down().is_some() {
        return Ok(0);
    }
    let again = if missing.len() > BY_NAME_MAX { names.clone() } else { Names::of_prefixes(missing) };
    let catalogue = match access.catalogue(&again) {
        Ok(catalogue) => catalogue,
        Err(e @ (Error::Store { .. } | Error::Interrupted { .. })) => {
            log::warn!("cannot tell whether what is missing was removed on purpose: {e}");
            return Ok(0);
        }
        Err(e) => return Err(e),
    };
    let mut removed = 0;
    ledger.together(|| {
        catalogue.each(|database| {
            removed += removed_of(&database, ledger, state)?;
            Ok::<(), Error>(())
        })
    })?;
    Ok(removed)
}

fn removed_of(database: &Database, ledger: &Ledger, state: Option<&Beside>) -> Result<u64> {
    let Some(newest) = database.snapshots.iter().rfind(|s| !s.is_bad).map(|s| s.time) else { return Ok(0) };
    let mut removed = 0;
    for (row, time, ids) in ledger.missing_of(&database.name)? {
        let is_listed = database.snapshots.iter().any(|s| s.time == time);
        let mut is_believed = false;
        for id in ids {
            // A loop may have stored a newer one since.
            is_believed |= state.map(|state| state.key_ms(id)).transpose()?.flatten() == Some(time.as_ms());
        }
        if newest > time && !is_listed && !is_believed {
            ledger.unfind(row)?;
            removed += 1;
        }
    }
    Ok(removed)
}
