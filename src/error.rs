//! What can go wrong, sorted by what the caller does about it.
//!
//! [`Error`] ends a command; its variants map to exit codes. [`Failure`] concerns one database: the
//! loop counts it under its [`Reason`], names it, and goes on with the others.

use std::path::PathBuf;

/// An error that ends a command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line, environment or configuration asks for something that cannot be. Exit code 2.
    /// The text says what is wrong, where, and what would be right.
    #[error("{0}")]
    Usage(String),
    /// The state directory or `state.db` cannot be used. Exit code 2.
    #[error("cannot use the state {path}: {what}")]
    State {
        /// File or directory concerned.
        path: PathBuf,
        /// What was attempted and what would help.
        what: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another process works on the same state. Exit code 2.
    #[error("the state {path} is in use by process {pid}: stop it first, or give this one another --state-dir")]
    StateLocked {
        /// The lock file.
        path: PathBuf,
        /// Process id of the holder, as it wrote it; `unknown` if it could not be read.
        pid: String,
    },
    /// The store as a whole cannot be reached, does not exist or refuses us. Exit code 3.
    #[error("{what}")]
    Store {
        /// What was attempted on which store, what came back, and a hint where one is known.
        what: String,
    },
    /// There is nothing of what was asked for. Exit code 1.
    #[error("{what}")]
    Nothing {
        /// What was looked for where, and what would be right.
        what: String,
        /// Nothing at all was ever stored of it.
        is_empty: bool,
    },
    /// The one object that was asked for is missing or not what it should be. Exit code 1.
    #[error("{what}")]
    Object {
        /// Its key, a word for what is wrong, and the detail.
        what: String,
    },
    /// Reading or writing a file of our own failed. Exit code 1.
    #[error("cannot {attempt} {path}")]
    Io {
        /// The verb: `create`, `write`, `sync`.
        attempt: &'static str,
        /// File or directory concerned.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// SIGINT or SIGTERM came before the work was complete. Exit code 128 + the signal's number.
    #[error("interrupted by signal {signal} before the work was complete")]
    Interrupted {
        /// Signal number: 2 or 15.
        signal: i32,
    },
}

impl Error {
    /// The exit code that tells this error to the shell.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::State { .. } | Self::StateLocked { .. } => 2,
            Self::Store { .. } => 3,
            Self::Io { .. } | Self::Nothing { .. } | Self::Object { .. } => 1,
            Self::Interrupted { signal } => u8::try_from(128 + signal).unwrap_or(130),
        }
    }
}

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why one database could not be protected in this cycle. Each has one fixed word for counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The main file has 0 bytes.
    Empty,
    /// The file is not an SQLite database.
    NotADatabase,
    /// No readable header: encrypted, or a format that this SQLite does not know (WAL2).
    Opaque,
    /// Permission denied, or an I/O error, while looking at it or reading it.
    Unreadable,
    /// Its application holds an exclusive lock.
    HeldExclusively,
    /// Locked each time we tried.
    Busy,
    /// A crashed writer left a journal that must be rolled back first.
    HotJournal,
    /// In WAL mode, and its folder does not allow us to make the `-shm` that reading needs.
    CannotOpenWal,
    /// The header says WAL, an application is connected, but the `-wal` has been unlinked.
    WalUnlinked,
    /// One file with several names, and sidecars beside more than one of them.
    Linked,
    /// SQLite reports corruption.
    Corrupt,
    /// It went away between the scan and the read.
    Vanished,
    /// Another database has the same key prefix.
    KeyClash,
    /// Its key is longer than stores allow.
    KeyTooLong,
    /// Not enough room for the temporary copy.
    NoSpace,
    /// It cannot be stored within the memory limit.
    TooLarge,
    /// Another failure while copying it.
    CopyFailed,
    /// The store refused the object (401, 403).
    StoreRefused,
    /// The bucket or folder does not exist.
    StoreMissing,
    /// No connection, or it closed early.
    StoreUnreachable,
    /// No answer in time.
    StoreTimeout,
    /// The store asked us to slow down, or failed by itself (429, 5xx), until the retries were used up.
    StoreBusy,
    /// Any other answer of the store.
    StoreError,
}

impl Reason {
    /// Every reason there is.
    pub const ALL: [Self; 23] = [
        Self::Empty,
        Self::NotADatabase,
        Self::Opaque,
        Self::Unreadable,
        Self::HeldExclusively,
        Self::Busy,
        Self::HotJournal,
        Self::CannotOpenWal,
        Self::WalUnlinked,
        Self::Linked,
        Self::Corrupt,
        Self::Vanished,
        Self::KeyClash,
        Self::KeyTooLong,
        Self::NoSpace,
        Self::TooLarge,
        Self::CopyFailed,
        Self::StoreRefused,
        Self::StoreMissing,
        Self::StoreUnreachable,
        Self::StoreTimeout,
        Self::StoreBusy,
        Self::StoreError,
    ];

    /// The fixed word, for counts and logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NotADatabase => "not-a-database",
            Self::Opaque => "opaque",
            Self::Unreadable => "unreadable",
            Self::HeldExclusively => "held-exclusively",
            Self::Busy => "busy",
            Self::HotJournal => "hot-journal",
            Self::CannotOpenWal => "cannot-open-wal",
            Self::WalUnlinked => "wal-unlinked",
            Self::Linked => "linked",
            Self::Corrupt => "corrupt",
            Self::Vanished => "vanished",
            Self::KeyClash => "key-clash",
            Self::KeyTooLong => "key-too-long",
            Self::NoSpace => "no-space",
            Self::TooLarge => "too-large",
            Self::CopyFailed => "copy-failed",
            Self::StoreRefused => "store-refused",
            Self::StoreMissing => "store-missing",
            Self::StoreUnreachable => "store-unreachable",
            Self::StoreTimeout => "store-timeout",
            Self::StoreBusy => "store-busy",
            Self::StoreError => "store-error",
        }
    }

    /// Whether it leaves a database unprotected. An empty or a vanished file has nothing to lose.
    #[must_use]
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Empty | Self::Vanished)
    }

    /// Whether a file with the same stamps would fail the same way: then it is not looked into again.
    #[must_use]
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Empty | Self::NotADatabase | Self::Opaque)
    }

    /// Whether the store may have taken the object all the same: its answer was lost, or is none.
    #[must_use]
    pub fn may_have_stored(self) -> bool {
        matches!(self, Self::StoreUnreachable | Self::StoreTimeout | Self::StoreBusy | Self::StoreError)
    }

    /// Whether it speaks of the store as a whole rather than of one object.
    #[must_use]
    pub fn concerns_store(self) -> bool {
        use Reason::{StoreBusy, StoreMissing, StoreRefused, StoreTimeout, StoreUnreachable};
        matches!(self, StoreRefused | StoreMissing | StoreUnreachable | StoreTimeout | StoreBusy)
    }
}

/// One database that could not be protected, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.word())]
pub struct Failure {
    /// The class, for counting.
    pub reason: Reason,
    /// What was seen and what would help; one line, no secrets.
    pub detail: String,
}

impl Failure {
    /// A failure of class `reason`. What controls a terminal is taken out of `detail`: SQLite's messages quote names in
    /// the database, and a database is anybody's.
    #[must_use]
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        if detail.contains(char::is_control) {
            detail = detail.replace(char::is_control, "\u{fffd}");
        }
        Self { reason, detail }
    }

    /// The failure that this one line tells, as `Display` writes it.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (word, detail) = line.split_once(": ")?;
        let reason = Reason::ALL.into_iter().find(|reason| reason.word() == word)?;
        Some(Self::new(reason, detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_word_of_its_own_and_comes_back_from_it() {
        for reason in Reason::ALL {
            let failure = Failure::new(reason, "a: b");
            assert_eq!(Failure::parse(&failure.to_string()), Some(failure));
        }
        assert_eq!(Failure::parse("no such: thing"), None);
        let odd = Failure::new(Reason::Corrupt, "near \"\u{1b}[2J\n\"");
        assert_eq!(odd.to_string(), "corrupt: near \"\u{fffd}[2J\u{fffd}\"");
    }
}
