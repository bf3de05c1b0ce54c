//! One process per state.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Held while a process works on one state. The kernel drops it when the process ends, however it ends.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
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
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked(path, &mut file)),
            Err(TryLockError::Error(e)) => return Err(wrong("cannot lock it", e)),
        }
        file.set_len(0)
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()))
            .map_err(|e| wrong("cannot write its lock file", e))?;
        Ok(Self { _file: file })
    }
}

fn locked(path: &Path, file: &mut File) -> Error {
    let mut pid = String::new();
    let read = file.rewind().and_then(|()| file.take(32).read_to_string(&mut pid));
    let pid = match read {
        Ok(_) if !pid.trim().is_empty() => pid.trim().to_owned(),
        _ => "unknown".to_owned(),
    };
    Error::StateLocked { path: PathBuf::from(path), pid }
}
