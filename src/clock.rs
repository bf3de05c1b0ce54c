//! The time, as a value that tests can set.
//!
//! Owns the only calls of `SystemTime::now`. Everything that decides by time takes a [`Clock`] or a
//! time already read from one.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970-01-01T00:00:00Z; negative before it. Range: ±292 years.
pub type Nanos = i64;

/// One second in [`Nanos`].
pub const SECOND: Nanos = 1_000_000_000;

/// One millisecond in [`Nanos`].
pub const MILLISECOND: Nanos = 1_000_000;

/// Where the wall time comes from.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Now, in nanoseconds since the epoch, UTC.
    fn now(&self) -> Nanos;
}

/// The clock of the system.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the one home of the system clock")]
    fn now(&self) -> Nanos {
        let now = SystemTime::now();
        match now.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_nanos()).unwrap_or(i64::MAX),
        }
    }
}

/// A clock that stands where it was set: for tests.
#[derive(Debug)]
pub struct FixedClock(AtomicI64);

impl FixedClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn new(now: Nanos) -> Self {
        Self(AtomicI64::new(now))
    }

    /// Moves the clock by `by` nanoseconds; backwards when negative.
    pub fn advance(&self, by: Nanos) {
        self.0.fetch_add(by, Ordering::SeqCst);
    }

    /// Sets the clock to `now`.
    pub fn set(&self, now: Nanos) {
        self.0.store(now, Ordering::SeqCst);
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Nanos {
        self.0.load(Ordering::SeqCst)
    }
}
