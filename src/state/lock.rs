//! One process per state; and what others may know of it while it works.
//!
//! The lock file holds the process's id and, in a second line, what it says of itself: for people and `litesnap status`,
//! never for the loop. It is written in place and not synced: after a power loss nobody holds the lock.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::LoopNote;
use crate::error::{Error, Result};

/// Whoever only looks holds a shared lock for microseconds; longer than this he is no reason to wait.
const LOOKERS_MAX: Duration = Duration::from_secs(2);
/// What is written has this many bytes, always, so that nothing of an earlier text stays.
const LEN: usize = 512;

/// Held while a process works on one state. The kernel drops it when the process ends, however it ends.
#[derive(Debug)]
pub struct StateLock {
    file: File,
}

/// What the process that holds a lock says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Who it is.
    #[serde(flatten)]
    pub note: LoopNote,
    /// When the cycle under way began, ms since 1970; `None` between cycles.
    pub cycle_since_ms: Option<i64>,
}

/// A lock that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Process id, unless the file does not tell.
    pub pid: Option<u32>,
    /// What the process says of itself, if it has said anything yet.
    pub holder: Option<Holder>,
}

impl StateLock {
    /// Takes the lock `path` and writes this process's id into it.
    ///
    /// # Errors
    /// [`Error::StateLocked`] if another process holds it, [`Error::State`] if the file cannot be made.
    pub fn take(path: &Path) -> Result<Self> {
        let wrong = |what: &str, source: std::io::Error| Error::State {
            path: path.to_path_buf(),
            what: format!("{what}; --state-dir names a directory that this user can write"),
            source: source.into(),
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|e| wrong("cannot open its lock file", e))?;
        match lock_alone(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = read(&mut file).0.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
                return Err(Error::StateLocked { path: PathBuf::from(path), pid });
            }
            Err(TryLockError::Error(e)) => return Err(wrong("cannot lock it", e)),
        }
        let pid = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.write_all_at(pid.as_bytes(), 0))
            .map_err(|e| wrong("cannot write its lock file", e))?;
        Ok(Self { file })
    }

    /// Says of this process what others may know. Best effort: nothing depends on it.
    pub fn tell(&self, holder: &Holder) {
        let json = serde_json::to_string(holder).expect("a note has only text and numbers");
        let text = format!("{}\n{json}", holder.note.pid);
        if text.len() < LEN
            && let Err(e) = self.file.write_all_at(format!("{text:<width$}\n", width = LEN - 1).as_bytes(), 0)
        {
            log::debug!("cannot write into the lock file of the state: {e}");
        }
    }

    /// Who holds the lock `path`; `None` if nobody does. Never in the way of a process that takes it.
    ///
    /// # Errors
    /// [`Error::Io`] if the lock file is there and cannot be opened.
    pub fn look(path: &Path) -> Result<Option<Held>> {
        let failed = |source| Error::State {
            path: path.to_path_buf(),
            what: "its lock file cannot be opened; ask as the loop's user, or as root".into(),
            source: Box::new(source),
        };
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => {
                let (pid, holder) = read(&mut file);
                Ok(Some(Held { pid, holder }))
            }
            Err(TryLockError::Error(e)) => Err(failed(e)),
        }
    }
}

/// Takes the lock, unless a process holds it for itself: one that only looks is waited for.
fn lock_alone(file: &File) -> std::result::Result<(), TryLockError> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            // Where it can be shared, nobody has it for himself.
            Err(TryLockError::WouldBlock) if begun.elapsed() < LOOKERS_MAX => {
                file.try_lock_shared()?;
                std::thread::yield_now();
            }
            other => return other,
        }
    }
}

/// What the lock file says; nothing of a text that is just being written.
fn read(file: &mut File) -> (Option<u32>, Option<Holder>) {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(LEN as u64).read_to_string(&mut text));
    if read.is_err() {
        return (None, None);
    }
    let mut lines = text.lines();
    let pid = lines.next().and_then(|pid| pid.trim().parse().ok());
    (pid, lines.next().and_then(|json| serde_json::from_str(json).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(cycle_since_ms: Option<i64>) -> Holder {
        let note = LoopNote {
            pid: std::process::id(),
            version: "1.2.3".into(),
            started_ms: 5,
            interval_ms: 30_000,
            cooldown_s: 0,
            max_unprotected_s: None,
            last_success_ms: Some(7),
        };
        Holder { note, cycle_since_ms }
    }

    #[test]
    fn who_holds_it_and_what_he_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        assert_eq!(StateLock::look(&path).unwrap(), None);
        let lock = StateLock::take(&path).unwrap();
        let me = Some(std::process::id());
        assert_eq!(StateLock::look(&path).unwrap(), Some(Held { pid: me, holder: None }));
        for said in [holder(Some(1_795_244_400_000)), holder(None)] {
            lock.tell(&said);
            assert_eq!(StateLock::look(&path).unwrap(), Some(Held { pid: me, holder: Some(said) }));
        }
        let refused = StateLock::take(&path).unwrap_err().to_string();
        assert!(refused.contains(&format!("in use by process {}:", std::process::id())), "{refused}");
        drop(lock);
        assert_eq!(StateLock::look(&path).unwrap(), None);
    }

    /// A child that another test starts inherits the descriptor, and holds the lock until it has become another program. So
    /// this runs once more, alone in a process of its own.
    #[test]
    fn looking_keeps_nobody_from_taking_it() {
        const ALONE: &str = "LITESNAP_TEST_ALONE";
        if std::env::var_os(ALONE).is_some() {
            return taken_while_looked_at();
        }
        let name = "state::lock::tests::looking_keeps_nobody_from_taking_it";
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        let ran = alone.args(["--exact", name]).env(ALONE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && said.contains("1 passed"), "{said}");
    }

    fn taken_while_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        drop(StateLock::take(&path).unwrap());
        let (stop, mut refused) = (std::sync::atomic::AtomicBool::new(false), 0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        StateLock::look(&path).unwrap();
                    }
                });
            }
            // Nothing panics in here: those who look would go on for ever.
            refused = (0..300).filter(|_| StateLock::take(&path).is_err()).count();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(refused, 0, "refused, and nobody holds it");
    }
}
