//! The databases of the demo: made, changed and compared as applications would, through SQLite.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, ensure};
use litesnap::fs::{create_private_dir, shown};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use twox_hash::xxhash3_128::Hasher;

const PROJECTS: [&str; 2] = ["project1", "project2"];
const DATABASES: [&str; 2] = ["userdb", "orderdb"];
const BRANCHES: [&str; 2] = ["main", "feature"];
/// Each with its number of rows.
const TENANTS: [(&str, u32); 3] = [("acme", 1500), ("globex", 700), ("initech", 250)];

/// Rows that the application commits.
pub(super) const ROWS_OF_APPLICATION: u32 = 40;

/// One database of the fleet.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// `project1/userdb/main/acme`: also its name in the store.
    pub(super) name: String,
    /// Its main file.
    pub(super) path: PathBuf,
    rows: u32,
}

/// Where everybody's database lies below `data`.
pub(super) fn members(data: &Path) -> Vec<Member> {
    let mut all = Vec::new();
    for project in PROJECTS {
        for database in DATABASES {
            for branch in BRANCHES {
                let folder = data.join(project).join("databases").join(database).join("branches").join(branch);
                all.extend(TENANTS.map(|(tenant, rows)| Member {
                    name: format!("{project}/{database}/{branch}/{tenant}"),
                    path: folder.join("tenants").join(format!("{tenant}.db")),
                    rows,
                }));
            }
        }
    }
    all
}

/// Makes the database of `member`, in WAL mode, and fills it.
pub(super) fn make(member: &Member) -> anyhow::Result<()> {
    create_private_dir(member.path.parent().context("a database lies in a folder")?)?;
    let mut conn = Connection::open(&member.path)?;
    conn.pragma_update(None, "journal_mode", "wal")?;
    conn.pragma_update(None, "synchronous", "normal")?;
    conn.execute_batch(
        "CREATE TABLE records(id INTEGER PRIMARY KEY, who TEXT NOT NULL, what TEXT NOT NULL, cents INTEGER);
         CREATE INDEX by_who ON records(who);",
    )?;
    add_rows(&mut conn, member.rows)?;
    conn.close().map_err(|(_, e)| e).context("cannot close it")
}

/// Opens a database that is there.
pub(super) fn open(path: &Path) -> anyhow::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags).with_context(|| format!("cannot open {}", shown(path)))
}

/// Adds `n` rows in one transaction.
pub(super) fn add_rows(conn: &mut Connection, n: u32) -> anyhow::Result<()> {
    const GOODS: [&str; 5] = ["a crate of apples", "two chairs", "a bicycle bell", "forty metres of rope", "a map"];
    let transaction = conn.transaction()?;
    let first: u32 = transaction.query_row("SELECT coalesce(max(id), 0) + 1 FROM records", [], |row| row.get(0))?;
    {
        let mut insert = transaction.prepare("INSERT INTO records VALUES(?1, ?2, ?3, ?4)")?;
        for id in first..first + n {
            let (who, what) = (format!("customer {}", id * 7919 % 997), GOODS[id as usize % GOODS.len()]);
            insert.execute((id, who, what, id * 31 % 10_007))?;
        }
    }
    transaction.commit().context("cannot commit")
}

/// What applications do to a database between two passes.
pub(super) fn change(path: &Path, sql: &str) -> anyhow::Result<usize> {
    let conn = open(path)?;
    let changed = conn.execute(sql, [])?;
    conn.close().map_err(|(_, e)| e)?;
    Ok(changed)
}

/// All that SQLite reads from a database: two of equal content compare equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    /// Rows of all tables.
    pub(super) rows: u64,
    /// Of the schema and of each value of each row, with its type.
    hash: u128,
}

/// Reads everything in the database at `path`, after SQLite has found it in order.
pub(super) fn content(path: &Path) -> anyhow::Result<Content> {
    let conn = open(path)?;
    let verdict: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    ensure!(verdict == "ok", "SQLite says of {}: {verdict}", shown(path));
    let (mut hasher, mut rows) = (Hasher::new(), 0);
    for sql in [
        "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name",
        "SELECT id, who, what, cents FROM records ORDER BY id",
    ] {
        rows = read_into(&mut hasher, &conn, sql)?;
    }
    Ok(Content { rows, hash: hasher.finish_128() })
}

/// Adds what `sql` finds to `hasher`; how many rows that were.
fn read_into(hasher: &mut Hasher, conn: &Connection, sql: &str) -> anyhow::Result<u64> {
    let mut statement = conn.prepare(sql)?;
    let (columns, mut n) = (statement.column_count(), 0);
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        for column in 0..columns {
            let (kind, bytes) = match row.get_ref(column)? {
                ValueRef::Null => (0, Vec::new()),
                ValueRef::Integer(i) => (1, i.to_le_bytes().to_vec()),
                ValueRef::Real(r) => (2, r.to_le_bytes().to_vec()),
                ValueRef::Text(text) => (3, text.to_vec()),
                ValueRef::Blob(blob) => (4, blob.to_vec()),
            };
            hasher.write(&[kind]);
            hasher.write(&bytes.len().to_le_bytes());
            hasher.write(&bytes);
        }
        n += 1;
    }
    Ok(n)
}

/// Each file below a folder, with its length and time; of a `-shm`, which readers write their marks into, only that it is there.
pub(super) type Files = BTreeMap<PathBuf, Option<(u64, SystemTime)>>;

/// Looks at every file below `folder`.
pub(super) fn files(folder: &Path) -> anyhow::Result<Files> {
    let mut all = Files::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", shown(&folder)))?;
        for entry in entries {
            let path = entry?.path();
            let meta = std::fs::symlink_metadata(&path)?;
            if meta.is_dir() {
                folders.push(path);
            } else {
                let is_shm = path.as_os_str().as_encoded_bytes().ends_with(b"-shm");
                let stamps = (!is_shm).then_some((meta.len(), meta.modified()?));
                all.insert(path, stamps);
            }
        }
    }
    Ok(all)
}

/// Their number and their bytes; a `-shm` has none that count.
pub(super) fn size(files: &Files) -> (u64, u64) {
    (files.len() as u64, files.values().flatten().map(|(len, _)| len).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(dir: &Path) -> PathBuf {
        let member = Member { name: "x".into(), path: dir.join("x.db"), rows: 20 };
        make(&member).unwrap();
        member.path
    }

    #[test]
    fn there_are_24_and_each_has_its_own_place() {
        let all = members(Path::new("/data"));
        assert_eq!(all.len(), 24);
        let paths: std::collections::BTreeSet<_> = all.iter().map(|m| &m.path).collect();
        assert_eq!(paths.len(), 24);
        assert_eq!(all[0].path, Path::new("/data/project1/databases/userdb/branches/main/tenants/acme.db"));
    }

    /// A comparison that cannot fail would verify nothing: each kind of difference must show.
    #[test]
    fn any_difference_in_content_shows() {
        let dir = tempfile::tempdir().unwrap();
        let path = made(dir.path());
        let before = content(&path).unwrap();
        assert_eq!(before.rows, 20);
        assert_eq!(content(&path).unwrap(), before);
        for sql in [
            "UPDATE records SET cents = cents + 1 WHERE id = 20",
            "UPDATE records SET who = CAST(who AS BLOB) WHERE id = 3",
            "UPDATE records SET who = who || 'x', what = substr(what, 2) WHERE id = 1",
            "UPDATE records SET id = 21 WHERE id = 20",
            "DELETE FROM records WHERE id = 7",
            "CREATE TABLE more(x)",
        ] {
            let before = content(&path).unwrap();
            change(&path, sql).unwrap();
            assert_ne!(content(&path).unwrap(), before, "{sql}");
        }
    }

    #[test]
    fn a_damaged_database_has_no_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = made(dir.path());
        let mut image = std::fs::read(&path).unwrap();
        let last_page = image.len() - 4096;
        image[last_page..].fill(0x5a);
        std::fs::write(&path, image).unwrap();
        content(&path).unwrap_err();
    }
}
