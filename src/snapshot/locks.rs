//! SQLite's locks on a main file, looked at and taken from outside, with open-file-description locks.
//!
//! These belong to the descriptor, not to the process: closing another descriptor of the same file does not drop
//! them, and they conflict with the POSIX locks that SQLite takes. (Closing *any* descriptor drops the process's
//! POSIX locks: no file is looked at here while a SQLite connection of this process has it open.)

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// First of SQLite's lock bytes: PENDING; RESERVED follows, then 510 bytes SHARED (sqlite3 os.h).
const PENDING: libc::off_t = 0x4000_0000;
const RESERVED: libc::off_t = PENDING + 1;
const SHARED: libc::off_t = PENDING + 2;
const SHARED_LEN: libc::off_t = 510;

/// Who holds a lock that conflicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Process id; `None` for a lock that belongs to an open file description or another host.
    pub(crate) pid: Option<i32>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}

/// Who, if anybody, keeps readers out: an EXCLUSIVE lock, or PENDING on the way to one. Takes no lock.
pub(super) fn excluding(file: &File) -> io::Result<Option<Holder>> {
    match conflict(file, libc::F_RDLCK, SHARED, SHARED_LEN)? {
        Some(holder) => Ok(Some(holder)),
        None => conflict(file, libc::F_RDLCK, PENDING, 1),
    }
}

/// Who, if anybody, may be writing outside WAL mode or is about to: RESERVED, PENDING or EXCLUSIVE is held. Takes no lock.
pub(super) fn writing(file: &File) -> io::Result<Option<Holder>> {
    conflict(file, libc::F_RDLCK, PENDING, SHARED + SHARED_LEN - PENDING)
}

/// Who, if anybody, holds any lock at all: every WAL-mode connection that has read holds SHARED. Takes no lock.
pub(crate) fn anyone(file: &File) -> io::Result<Option<Holder>> {
    conflict(file, libc::F_WRLCK, PENDING, SHARED + SHARED_LEN - PENDING)
}

/// Takes every lock an exclusive writer would, without waiting: PENDING first, so that no reader slips in between.
/// False if somebody was there. Dropped when `file`, which must be open for writing, is closed.
pub(super) fn exclude_everybody(file: &File) -> io::Result<bool> {
    for (start, len) in [(PENDING, 1), (RESERVED, 1 + SHARED_LEN)] {
        let lock = request(libc::F_WRLCK, start, len);
        match fcntl(file, FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(false),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(true)
}

fn conflict(file: &File, kind: libc::c_int, start: libc::off_t, len: libc::off_t) -> io::Result<Option<Holder>> {
    let mut lock = request(kind, start, len);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    let free = libc::c_int::from(lock.l_type) == libc::F_UNLCK;
    Ok((!free).then_some(Holder { pid: (lock.l_pid > 0).then_some(lock.l_pid) }))
}

fn request(kind: libc::c_int, start: libc::off_t, len: libc::off_t) -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(kind).expect("lock kinds are 0 to 2"),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).expect("SEEK_SET is 0"),
        l_start: start,
        l_len: len,
        l_pid: 0, // must be 0 for open-file-description locks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    #[test]
    fn sees_what_sqlite_holds_and_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let app = Connection::open(&path).unwrap();
        app.execute_batch("CREATE TABLE t(x)").unwrap();
        // Kept open until the end: closing it would drop the locks of `app`, which is of this process.
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let held = |who: io::Result<Option<Holder>>| who.unwrap().is_some();
        let state = || (held(excluding(&file)), held(writing(&file)), held(anyone(&file)));
        assert_eq!(state(), (false, false, false));
        app.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
        assert_eq!(state(), (false, false, true), "a reader holds SHARED");
        app.execute_batch("COMMIT; BEGIN IMMEDIATE").unwrap();
        assert_eq!(state(), (false, true, true), "RESERVED lets readers in");
        app.execute_batch("COMMIT; BEGIN EXCLUSIVE").unwrap();
        assert_eq!(state(), (true, true, true));
        assert_eq!(excluding(&file).unwrap(), Some(Holder { pid: Some(std::process::id().cast_signed()) }));
        assert!(!exclude_everybody(&file).unwrap());
        app.execute_batch("COMMIT").unwrap();
        assert_eq!(state(), (false, false, false));
    }

    #[test]
    fn excludes_everybody_until_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let app = Connection::open(&path).unwrap();
        app.execute_batch("CREATE TABLE t(x)").unwrap();
        let other = Connection::open(&path).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        assert!(exclude_everybody(&file).unwrap());
        assert!(other.execute_batch("INSERT INTO t VALUES(1)").is_err());
        drop(file);
        other.execute_batch("INSERT INTO t VALUES(1)").unwrap();
    }
}
