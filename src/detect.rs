//! Whether a database changed, told from stamps alone.
//!
//! Pure: no I/O, no clock of its own. Stamps are compared for equality, never for order, for a time can
//! be set back. Whatever is not certain counts as changed: an extra snapshot costs a request, a missed
//! one loses data.

use crate::clock::{Nanos, SECOND};
use crate::stamps::Stamps;

/// How long a stamp may be older than the data it announces, on a local file system. The kernel sets mtime before the data
/// lands; a stalled write showed stamps 150 ms old while most of its pages were still to come.
pub const RACY_SLACK: Nanos = 2 * SECOND;

/// Stamps condensed to 128 bits: what is kept per database between cycles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fingerprint {
    /// Of the main file's stamps and of what else names the stored object (see [`Fingerprint::of`]).
    pub main: u64,
    /// Of the sidecars' stamps.
    pub sidecars: u64,
}

impl Fingerprint {
    /// The fingerprint of `stamps`, keyed by `seed`. `place` stands for where snapshots of this database go: a
    /// database whose key prefix moves (a changed pattern under a template of captures) counts as changed.
    #[must_use]
    pub fn of(stamps: &Stamps, place: u64, seed: u64) -> Self {
        let m = &stamps.main;
        let main = hash_words(seed, &[m.dev, m.ino, m.size, m.mtime.cast_unsigned(), m.ctime.cast_unsigned(), place]);
        let (wal_there, wal) = match &stamps.wal {
            Some(w) => (1, [w.ino, w.size, w.mtime.cast_unsigned()]),
            None => (0, [0; 3]),
        };
        let (journal_there, journal) = match &stamps.journal {
            Some(j) => (1, [j.size, j.mtime.cast_unsigned()]),
            None => (0, [0; 2]),
        };
        let sidecars = hash_words(seed, &[wal_there, wal[0], wal[1], wal[2], journal_there, journal[0], journal[1]]);
        Self { main, sidecars }
    }
}

fn hash_words<const N: usize>(seed: u64, words: &[u64; N]) -> u64 {
    let mut bytes = [0_u8; 64];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    twox_hash::XxHash3_64::oneshot_with_seed(seed, &bytes[..N * 8])
}

/// What is remembered of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LastSeen {
    /// Fingerprint of the stamps taken before the last confirmed read.
    pub fingerprint: Fingerprint,
    /// Those stamps were too young to trust when they were taken.
    pub racy: bool,
    /// The last attempt failed: nothing was confirmed since.
    pub failed: bool,
}

/// The answer of [`detect`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every stamp is what it was, and was old enough to trust.
    Unchanged,
    /// Something moved, or may have.
    Changed(Why),
    /// Nothing is known of it, which counts as changed.
    Unknown(Why),
}

/// Why a database counts as changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Never stored.
    New,
    /// A stamp of the main file, or the place it is stored at, differs.
    Main,
    /// A stamp of `-wal` or `-journal` differs.
    Sidecars,
    /// The stamps are equal but too young: a write may have landed behind them.
    Racy,
    /// The last attempt failed.
    Retry,
}

impl Why {
    /// The word for logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Main => "main",
            Self::Sidecars => "sidecars",
            Self::Racy => "racy",
            Self::Retry => "retry",
        }
    }
}

/// Tells whether a database changed since it was `last` confirmed. `now` is the fingerprint of `stamps`, which were
/// taken at `taken_at`, `slack` is how long a stamp stays racy.
#[must_use]
pub fn detect(last: Option<&LastSeen>, now: &Fingerprint, stamps: &Stamps, taken_at: Nanos, slack: Nanos) -> Verdict {
    let Some(last) = last else { return Verdict::Unknown(Why::New) };
    if last.failed {
        return Verdict::Changed(Why::Retry);
    }
    if last.fingerprint.main != now.main {
        return Verdict::Changed(Why::Main);
    }
    if last.fingerprint.sidecars != now.sidecars {
        return Verdict::Changed(Why::Sidecars);
    }
    if last.racy || is_racy(stamps, taken_at, slack) {
        return Verdict::Changed(Why::Racy);
    }
    Verdict::Unchanged
}

/// Whether `stamps`, taken at `taken_at`, may hide a write behind them: one of their times is young. A time in the
/// future beyond the slack is a clock's fault, not a race, and would otherwise be racy for ever; each time is judged by
/// itself, for one in the future says nothing about the others.
#[must_use]
pub fn is_racy(stamps: &Stamps, taken_at: Nanos, slack: Nanos) -> bool {
    stamps.times().any(|time| time > taken_at.saturating_sub(slack) && !is_future(time, taken_at, slack))
}

/// Whether a time in `stamps` lies so far in the future that a clock must be wrong.
#[must_use]
pub fn is_clock_suspect(stamps: &Stamps, taken_at: Nanos, slack: Nanos) -> bool {
    stamps.times().any(|time| is_future(time, taken_at, slack))
}

fn is_future(time: Nanos, taken_at: Nanos, slack: Nanos) -> bool {
    time > taken_at.saturating_add(slack)
}

/// What to do with a database in this cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing to do.
    Skip,
    /// Read it; upload it if its content differs from what is stored.
    Snapshot,
    /// Read and upload it even if its content is what is stored.
    Refresh,
    /// It changed, but its cooldown is not over.
    Hold,
}

/// When a database may or must be stored again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pace {
    /// At most one snapshot in this many seconds; 0 for no limit.
    pub cooldown_s: u32,
    /// An unchanged database is stored again after this many seconds; 0 for never.
    pub refresh_s: u32,
}

/// Turns a verdict into an action. `stored_s` is when the database was last stored (seconds since the epoch, 0 for
/// never), `now_s` the time now, `id` a value that differs from database to database and spreads refreshes evenly. A
/// database stored in the future, by a clock that was ahead, waits for nothing.
#[must_use]
pub fn schedule(verdict: Verdict, stored_s: u32, now_s: u32, id: u64, pace: Pace) -> Action {
    let since = now_s.checked_sub(stored_s).filter(|_| stored_s != 0);
    let refresh = refresh_is_due(stored_s, now_s, id, pace.refresh_s);
    match verdict {
        Verdict::Changed(_) if since.is_some_and(|since| since < pace.cooldown_s) => Action::Hold,
        _ if refresh => Action::Refresh,
        Verdict::Changed(_) | Verdict::Unknown(_) => Action::Snapshot,
        Verdict::Unchanged => Action::Skip,
    }
}

/// Each database has its own phase within the refresh period, so that a fleet stored in one hour is not refreshed in
/// one hour. No object is ever older than one period.
fn refresh_is_due(stored_s: u32, now_s: u32, id: u64, refresh_s: u32) -> bool {
    if refresh_s == 0 || stored_s == 0 {
        return false;
    }
    let (period, stored, now) = (u64::from(refresh_s), u64::from(stored_s), u64::from(now_s));
    let phase = id % period;
    now < stored || (now + phase) / period != (stored + phase) / period
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamps::{JournalStamp, MainStamp, WalStamp};
    use proptest::prelude::*;

    const NOW: Nanos = 1_000_000 * SECOND;
    const OLD: Nanos = NOW - 60 * SECOND;

    fn stamps() -> Stamps {
        Stamps {
            main: MainStamp { dev: 1, ino: 2, size: 4096, mtime: OLD, ctime: OLD },
            wal: Some(WalStamp { ino: 3, size: 8272, mtime: OLD }),
            journal: Some(JournalStamp { size: 512, mtime: OLD }),
        }
    }

    fn seen(stamps: &Stamps) -> LastSeen {
        LastSeen { fingerprint: Fingerprint::of(stamps, 0, 7), racy: false, failed: false }
    }

    fn judge(last: &LastSeen, now: &Stamps) -> Verdict {
        detect(Some(last), &Fingerprint::of(now, 0, 7), now, NOW, RACY_SLACK)
    }

    #[test]
    fn every_single_field_counts() {
        type Row = (&'static str, fn(&mut Stamps), Why);
        let rows: &[Row] = &[
            ("main device", |s| s.main.dev += 1, Why::Main),
            ("main inode", |s| s.main.ino += 1, Why::Main),
            ("main size", |s| s.main.size += 1, Why::Main),
            ("main mtime forwards", |s| s.main.mtime += 1, Why::Main),
            ("main mtime set back", |s| s.main.mtime -= 3600 * SECOND, Why::Main),
            ("main ctime", |s| s.main.ctime -= 1, Why::Main),
            ("wal appears", |s| s.wal = Some(WalStamp { ino: 4, size: 32, mtime: OLD }), Why::Sidecars),
            ("wal goes", |s| s.wal = None, Why::Sidecars),
            ("wal inode", |s| s.wal.as_mut().unwrap().ino += 1, Why::Sidecars),
            ("wal size", |s| s.wal.as_mut().unwrap().size += 1, Why::Sidecars),
            ("wal reused: same size, new mtime", |s| s.wal.as_mut().unwrap().mtime += 1, Why::Sidecars),
            ("journal goes", |s| s.journal = None, Why::Sidecars),
            ("journal size", |s| s.journal.as_mut().unwrap().size += 1, Why::Sidecars),
            ("journal mtime", |s| s.journal.as_mut().unwrap().mtime += 1, Why::Sidecars),
        ];
        for (name, change, why) in rows {
            let mut now = stamps();
            change(&mut now);
            assert_eq!(judge(&seen(&stamps()), &now), Verdict::Changed(*why), "{name}");
        }
        assert_eq!(judge(&seen(&stamps()), &stamps()), Verdict::Unchanged);
    }

    #[test]
    fn unknown_failed_racy_and_moved_count_as_changed() {
        let s = stamps();
        let fp = Fingerprint::of(&s, 0, 7);
        assert_eq!(detect(None, &fp, &s, NOW, RACY_SLACK), Verdict::Unknown(Why::New));
        let failed = LastSeen { failed: true, ..seen(&s) };
        assert_eq!(judge(&failed, &s), Verdict::Changed(Why::Retry));
        let racy = LastSeen { racy: true, ..seen(&s) };
        assert_eq!(judge(&racy, &s), Verdict::Changed(Why::Racy));
        let moved = Fingerprint::of(&s, 1, 7);
        assert_eq!(detect(Some(&seen(&s)), &moved, &s, NOW, RACY_SLACK), Verdict::Changed(Why::Main));
    }

    #[test]
    fn a_young_stamp_is_racy_and_one_in_the_future_is_not() {
        for (age, racy, suspect) in [
            (0, true, false),
            (SECOND, true, false),
            (2 * SECOND - 1, true, false),
            (2 * SECOND, false, false),
            (-SECOND, true, false),
            (-2 * SECOND, true, false),
            (-2 * SECOND - 1, false, true),
        ] {
            let fields: [fn(&mut Stamps) -> &mut Nanos; 4] = [
                |s| &mut s.main.mtime,
                |s| &mut s.main.ctime,
                |s| &mut s.wal.as_mut().unwrap().mtime,
                |s| &mut s.journal.as_mut().unwrap().mtime,
            ];
            for (n, field) in fields.iter().enumerate() {
                let mut s = stamps();
                *field(&mut s) = NOW - age;
                assert_eq!(is_racy(&s, NOW, RACY_SLACK), racy, "field {n}, age {age}");
                assert_eq!(is_clock_suspect(&s, NOW, RACY_SLACK), suspect, "field {n}, age {age}");
                // One in the future hides nothing of the others.
                *fields[(n + 1) % 4](&mut s) = NOW + 3600 * SECOND;
                assert_eq!(is_racy(&s, NOW, RACY_SLACK), racy, "field {n}, age {age}");
            }
        }
    }

    #[test]
    fn an_empty_wal_is_no_wal_and_an_empty_journal_is_one() {
        let file = |size| crate::stamps::FileStat { ino: 9, size, mtime: OLD, ..Default::default() };
        let main = file(4096);
        let without = Stamps::new(&main, None, None);
        assert_eq!(Stamps::new(&main, Some(&file(0)), None), without);
        assert_ne!(Stamps::new(&main, Some(&file(32)), None), without);
        assert_ne!(Stamps::new(&main, None, Some(&file(0))), without);
    }

    #[test]
    fn cooldown_holds_changes_and_never_loses_them() {
        let pace = Pace { cooldown_s: 1800, refresh_s: 0 };
        let changed = Verdict::Changed(Why::Main);
        assert_eq!(schedule(changed, 1000, 1001, 5, pace), Action::Hold);
        assert_eq!(schedule(changed, 1000, 2799, 5, pace), Action::Hold);
        assert_eq!(schedule(changed, 1000, 2800, 5, pace), Action::Snapshot);
        assert_eq!(schedule(changed, 0, 1, 5, pace), Action::Snapshot, "never stored: no cooldown");
        assert_eq!(schedule(Verdict::Unknown(Why::New), 1000, 1001, 5, pace), Action::Snapshot);
        assert_eq!(schedule(Verdict::Unchanged, 1000, 1001, 5, pace), Action::Skip);
    }

    #[test]
    fn refreshes_of_a_fleet_stored_at_once_are_spread_over_the_period() {
        let pace = Pace { cooldown_s: 0, refresh_s: 1000 };
        let stored = 50_000;
        let due_at = |id: u64| {
            (stored..=stored + 1000).find(|now| schedule(Verdict::Unchanged, stored, *now, id, pace) == Action::Refresh)
        };
        let mut per_tenth = [0; 11];
        for id in 0..1000_u64 {
            let due = due_at(id.wrapping_mul(0x9E37_79B9_7F4A_7C15)).expect("due within one period");
            per_tenth[((due - stored) / 100) as usize] += 1;
        }
        assert!(per_tenth[..10].iter().all(|n| (60..160).contains(n)), "{per_tenth:?}");
    }

    proptest! {
        /// The law: stamps that differ in any field are never Unchanged.
        #[test]
        fn any_changed_stamp_is_never_unchanged(field in 0..11_usize, by in 1..i64::from(u32::MAX)) {
            let (before, mut now) = (stamps(), stamps());
            let u = by.cast_unsigned();
            let (wal, journal) = (now.wal.as_mut().unwrap(), now.journal.as_mut().unwrap());
            match field {
                0 => now.main.dev ^= u, 1 => now.main.ino ^= u, 2 => now.main.size ^= u,
                3 => now.main.mtime ^= by, 4 => now.main.ctime ^= by,
                5 => wal.ino ^= u, 6 => wal.size ^= u, 7 => wal.mtime ^= by,
                8 => journal.size ^= u, 9 => journal.mtime ^= by, _ => now.wal = None,
            }
            prop_assert!(judge(&seen(&before), &now) != Verdict::Unchanged);
        }
    }
}
