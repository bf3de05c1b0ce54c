//! One database to wherever bytes can be written: to standard output.

use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::Path;

use super::RestoreOptions;
use super::check::check_file;
use super::outcomes::Outcomes;
use super::plan::Plan;
use super::run::{refuse_nothing, too_many};
use crate::access::{Access, FetchError};
use crate::error::{Error, Failure, Reason, Result};
use crate::fs::shown;
use crate::names::decoded;
use crate::scratch;

/// Writes the one database that `options` mean to `out`: not a byte before all of it is fetched and checked, for which it
/// lies in a temporary file without a name. Tells whether it is all that was asked for, as asked; what is not is logged.
///
/// # Errors
/// As [`restore`](super::restore); and [`Error::Object`] if the object is missing or not what it should be.
pub fn restore_to(access: &Access, options: &RestoreOptions, out: &mut impl Write) -> Result<bool> {
    let catalogue = access.catalogue(&options.names)?;
    let outcomes = Outcomes::new()?;
    let plan = Plan::make(access, &catalogue, options, &outcomes)?;
    refuse_nothing(access, options, &plan, &outcomes)?;
    if plan.counts().databases > 1 {
        return Err(too_many(plan.counts().databases));
    }
    plan.name_globs_without(options, &outcomes)?;
    let mut items = plan.items();
    let Some(item) = items.next() else {
        items.end()?;
        let mut why = None;
        outcomes.each::<Error>(|outcome| {
            why.get_or_insert(outcome.detail);
            Ok(())
        })?;
        return Err(Error::Object { what: why.unwrap_or_default() });
    };
    // There is no report beside the bytes.
    let mut as_asked = true;
    outcomes.each::<Error>(|outcome| {
        as_asked = false;
        log::error!("{}: {}: {}", shown(&decoded(&outcome.name)), outcome.word, shown(Path::new(&outcome.detail)));
        Ok(())
    })?;
    let mut file = tempfile::tempfile().map_err(scratch::no_room)?;
    let fetched = parking_lot::Mutex::new(None);
    let key = item.wanted.location.key.clone();
    let tasks = std::iter::once((item.wanted.location.clone(), item.wanted));
    access.for_each_object(tasks, |location, body| {
        let decoded = body.and_then(|body| Ok(access.decode(&location, body, &mut &file)?));
        *fetched.lock() = Some(decoded);
    });
    match fetched.into_inner() {
        Some(Ok(_)) => {}
        Some(Err(_)) | None if access.control.is_stopped() => {
            return Err(Error::Interrupted { signal: access.control.stop_signal().unwrap_or(15) });
        }
        Some(Err(FetchError::Store(failure))) => return Err(store_failed(access, &failure)),
        Some(Err(e)) => {
            return Err(Error::Object { what: format!("{key}: {}: {}", e.word(), crate::record::chain(&e)) });
        }
        None => return Err(store_failed(access, &Failure::new(Reason::StoreUnreachable, "it was not asked"))),
    };
    check_file(file.as_fd(), options.check)
        .map_err(|found| Error::Object { what: format!("{key}: corrupt: SQLite finds it corrupt: {found}") })?;
    file.seek(SeekFrom::Start(0)).map_err(scratch::no_room)?;
    let written = |source| Error::Io { attempt: "write to", path: "standard output".into(), source };
    std::io::copy(&mut file, out).and_then(|_| out.flush()).map_err(written)?;
    Ok(as_asked)
}

fn store_failed(access: &Access, failure: &Failure) -> Error {
    Error::Store { what: format!("cannot read from {}: {failure}", access.store.name) }
}
