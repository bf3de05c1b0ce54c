//! Cycles of the library in the test process, under a clock that stands still: for what depends on the age of stamps.
//!
//! The databases are read in this process, so a test must close its own connections before each cycle.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use litesnap::clock::{Clock, FixedClock, Nanos, SECOND, SystemClock};
use litesnap::config::{Config, MEMORY_LIMIT_MIN, parse_patterns};
use litesnap::cycle::Silent;
use litesnap::detect::Pace;
use litesnap::error::Error;
use litesnap::replicate::Replicator;
use litesnap::report::CycleReport;
use litesnap::store::StoreOptions;

use crate::place::{Place, eventually};

/// Backs up `data/**/*.db` of a place into its folder store.
pub(crate) struct Library {
    pub(crate) clock: Arc<FixedClock>,
    pub(crate) replicator: Replicator,
}

impl Library {
    /// The clock begins at the system's time.
    pub(crate) fn open(place: &Place) -> Self {
        Self::watching(place, "data/**/*.db", Pace::default())
    }

    /// Another pattern, a pace.
    pub(crate) fn watching(place: &Place, pattern: &str, pace: Pace) -> Self {
        Self::configured(place, pattern, |config| config.pace = pace)
    }

    /// Another pattern, and whatever `change` changes.
    pub(crate) fn configured(place: &Place, pattern: &str, change: impl FnOnce(&mut Config)) -> Self {
        let clock = Arc::new(FixedClock::new(SystemClock.now()));
        let mut config = Config {
            patterns: parse_patterns(&[pattern], place.path()).unwrap(),
            host: "host".into(),
            state_dir: place.state(),
            memory_limit: MEMORY_LIMIT_MIN,
            ..Config::new(StoreOptions::new(place.store().to_str().unwrap()))
        };
        change(&mut config);
        let shown: Arc<dyn Clock> = Arc::<FixedClock>::clone(&clock);
        let replicator = Replicator::open(config, &Vec::new(), shown, Arc::default(), Arc::new(Silent)).unwrap();
        Self { clock, replicator }
    }

    /// An hour later than now: no stamp is racy, so only what differs is a change.
    pub(crate) fn an_hour_later(place: &Place) -> Self {
        let library = Self::open(place);
        library.clock.advance(3600 * SECOND);
        library
    }

    /// One cycle, in which no database may fail.
    #[track_caller]
    pub(crate) fn cycle(&mut self) -> CycleReport {
        let report = self.replicator.run_cycle(false);
        assert_eq!((report.exit_code(), report.failed()), (0, 0), "{report:#?}");
        report
    }
}

/// Opens a replicator on a state that another one of this process has just left. A child that another test starts at that moment
/// inherits the descriptor of the lock, and holds it until it has become another program: so long it is asked again.
#[track_caller]
pub(crate) fn once_unlocked(open: impl Fn() -> Result<Replicator, Error>) -> Replicator {
    let mut opened = open();
    eventually(Duration::from_secs(10), || {
        let is_locked = matches!(opened, Err(Error::StateLocked { .. }));
        if is_locked {
            opened = open();
        }
        !is_locked
    });
    opened.unwrap()
}

/// Sets the mtime of `path`.
pub(crate) fn set_mtime(path: &Path, at: Nanos) {
    let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(at.try_into().unwrap());
    File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
}
