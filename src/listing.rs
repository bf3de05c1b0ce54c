//! LIST, all of it or nothing: what a store holds below the prefixes that are asked for.

use futures_util::StreamExt;
use object_store::ObjectStore;

use crate::access::Access;
use crate::catalogue::Catalogue;
use crate::error::{Error, Result};
use crate::names::Names;
use crate::store::classify;

/// Objects that are listed together, as S3 answers them.
const PAGE: usize = 1000;

/// Lists what `names` means.
pub(crate) fn list(access: &Access, names: &Names) -> Result<Catalogue> {
    let mut catalogue = Catalogue::empty()?;
    let everything = [String::new()];
    for head in names.heads().unwrap_or(&everything) {
        let store = &access.store;
        let prefix =
            if head.is_empty() { store.root() } else { Some(store.path(head).map_err(|e| failed(access, &e))?) };
        let mut pages = store.inner.list(prefix.as_ref()).ready_chunks(PAGE);
        while let Some(page) = access.runtime().block_on(pages.next()) {
            if let Some(signal) = access.control.stop_signal() {
                return Err(Error::Interrupted { signal });
            }
            let page = page.into_iter().collect::<object_store::Result<Vec<_>>>().map_err(|e| failed(access, &e))?;
            page.iter().for_each(|m| catalogue.note_written(m.last_modified.timestamp_millis()));
            catalogue.add(names, page.iter().filter_map(|m| Some((store.key(&m.location)?, m.size))))?;
        }
    }
    Ok(catalogue)
}

fn failed(access: &Access, error: &object_store::Error) -> Error {
    Error::Store { what: format!("cannot list {}: {}", access.store.name, classify(error)) }
}
