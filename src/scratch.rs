//! Room for more rows than memory should hold: a private SQLite database that has no name.
//!
//! SQLite keeps it in its page cache until that is full, then in a file in `$SQLITE_TMPDIR`, `$TMPDIR`, `/var/tmp` or `/tmp`
//! that is unlinked from the start: nothing stays behind, whatever ends the process.

use rusqlite::Connection;

use crate::error::{Error, Result};

/// KiB of page cache, which also bounds what a sort holds in memory.
const CACHE_KIB: i64 = 8 << 10;

/// Opens one with `schema`.
///
/// # Errors
/// [`Error::Io`], as for [`failed`].
pub(crate) fn open(schema: &str) -> Result<Connection> {
    let open = || -> rusqlite::Result<Connection> {
        let conn = Connection::open("")?;
        conn.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA temp_store=FILE")?;
        conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
        conn.execute_batch(schema)?;
        Ok(conn)
    };
    open().map_err(failed)
}

/// What a failure of it means: there is no room, or no folder, for temporary files.
pub(crate) fn failed(error: rusqlite::Error) -> Error {
    no_room(std::io::Error::other(error))
}

/// The same for a temporary file.
pub(crate) fn no_room(source: std::io::Error) -> Error {
    let path =
        ["SQLITE_TMPDIR", "TMPDIR"].iter().find_map(std::env::var_os).map_or_else(|| "/var/tmp".into(), Into::into);
    Error::Io { attempt: "keep something in the temporary folder", path, source }
}
