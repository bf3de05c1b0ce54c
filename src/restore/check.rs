//! Asking SQLite whether a restored file is in order.

use std::os::fd::{AsRawFd, BorrowedFd};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

/// What SQLite is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Check {
    /// Nothing: the hashes say that the file is what was stored.
    #[default]
    None,
    /// `PRAGMA quick_check`: every page, without comparing indexes with their tables.
    Quick,
    /// `PRAGMA integrity_check`.
    Full,
}

/// Most characters of what SQLite finds wrong that are passed on.
const TEXT_MAX: usize = 300;

/// Has SQLite take nothing on trust from a file that whoever could write to the store may have made: what its schema calls is
/// what SQLite holds harmless, its shadow tables are not written to, and the sizes of cells are checked before they are used.
pub(crate) fn distrust(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.execute_batch("PRAGMA cell_size_check = ON")
}

/// Makes `quick_check` ask about the file alone. It looks at no order of keys, so that any order does for collations that only
/// the application has; and whether rows keep to CHECK constraints is the application's business.
pub(crate) fn prepare_quick_check(conn: &Connection) -> rusqlite::Result<()> {
    conn.collation_needed(|conn, name| conn.create_collation(name, str::cmp))?;
    conn.execute_batch("PRAGMA ignore_check_constraints = ON")
}

/// Asks about the database in `file`, which nobody else writes to. Leaves nothing beside it.
///
/// # Errors
/// What SQLite finds wrong, on one line.
pub fn check_file(file: BorrowedFd<'_>, check: Check) -> Result<(), String> {
    let pragma = match check {
        Check::None => return Ok(()),
        Check::Quick => "PRAGMA quick_check(1)",
        Check::Full => "PRAGMA integrity_check(1)",
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // Immutable: no locks, no -wal and no -shm, in whatever journal mode it is.
    let uri = format!("file:/proc/self/fd/{}?immutable=1", file.as_raw_fd());
    let ask = || -> rusqlite::Result<String> {
        let conn = Connection::open_with_flags(uri, flags)?;
        distrust(&conn)?;
        if check == Check::Quick {
            prepare_quick_check(&conn)?;
        }
        conn.query_row(pragma, [], |row| row.get(0))
    };
    let found = ask().unwrap_or_else(|e| e.to_string());
    if found == "ok" {
        return Ok(());
    }
    // It quotes names in the database, which may hold anything.
    let words = found.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    Err(line.chars().take(TEXT_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_checked_is_not_trusted() {
        let conn = Connection::open_in_memory().unwrap();
        distrust(&conn).unwrap();
        assert!(conn.db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE).unwrap());
        assert!(!conn.db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA).unwrap());
        assert_eq!(conn.pragma_query_value(None, "cell_size_check", |row| row.get(0)), Ok(1));
    }
}
