//! Which snapshots of one database may go: rules as restic and borg users know them. Pure: no store, no clock.
//!
//! Of the N most recent hours (days, ISO weeks, months, years; all in UTC) that have a good snapshot, the newest one of each
//! stays; `last` keeps the N newest, `within` those of a time before now. Whatever the rules, the newest snapshot
//! stays, and the newest that is not known to be bad. A snapshot known to be bad fills no slot of any rule, so that it
//! never makes an older good one removable; it stays only while nothing good is newer.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Datelike};

use crate::timestamp::Timestamp;

#[cfg(test)]
mod tests;

/// What is to be kept; what any one of them keeps is kept. None of them keeps everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// The newest so many.
    pub last: u32,
    /// All that are younger than this. Zero is no rule.
    pub within: Option<Duration>,
    /// The newest of each of so many hours that have one.
    pub hourly: u32,
    /// The same of days, midnight to midnight UTC.
    pub daily: u32,
    /// The same of ISO weeks, Monday to Sunday UTC.
    pub weekly: u32,
    /// The same of months.
    pub monthly: u32,
    /// The same of years.
    pub yearly: u32,
}

impl Rules {
    /// Everything of the last hour, then the newest of 24 hours, 30 days and 12 months.
    #[must_use]
    pub fn standard() -> Self {
        Self { within: Some(Duration::from_secs(3600)), hourly: 24, daily: 30, monthly: 12, ..Self::default() }
    }

    /// Whether nothing was said: then nothing is removed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.within.is_none_or(|time| time.is_zero()) && self.counts().iter().all(|(_, n, _)| *n == 0)
    }

    /// For people: `within 1h, hourly 24, daily 30, monthly 12`; `everything` without any rule.
    #[must_use]
    pub fn describe(&self) -> String {
        if self.is_empty() {
            return "everything".to_owned();
        }
        let within = self.within.filter(|time| !time.is_zero());
        let within = within.map(|time| format!("within {}", humantime::format_duration(time)));
        let counts = self.counts().into_iter().filter(|(_, n, _)| *n > 0);
        within.into_iter().chain(counts.map(|(why, n, _)| format!("{} {n}", why.word()))).collect::<Vec<_>>().join(", ")
    }

    /// The rules that count, each with what it tells snapshots apart by.
    fn counts(&self) -> [Counted; 6] {
        [
            (Why::Last, self.last, Timestamp::as_ms),
            (Why::Hourly, self.hourly, |time| time.as_ms() / HOUR_MS),
            (Why::Daily, self.daily, |time| time.as_ms() / DAY_MS),
            (Why::Weekly, self.weekly, |time| (time.as_ms() / DAY_MS + DAYS_FROM_MONDAY_TO_EPOCH) / 7),
            (Why::Monthly, self.monthly, |time| month(time)),
            (Why::Yearly, self.yearly, |time| month(time) / 12),
        ]
    }
}

/// A rule that counts: its word, how many, and the number of the slot that a time falls into.
type Counted = (Why, u32, fn(Timestamp) -> i64);

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// 1970-01-01 was a Thursday.
const DAYS_FROM_MONDAY_TO_EPOCH: i64 = 3;

/// Months since the year 0.
fn month(time: Timestamp) -> i64 {
    let date = DateTime::from_timestamp_millis(time.as_ms()).unwrap_or_default();
    i64::from(date.year()) * 12 + i64::from(date.month0())
}

/// What is known of a snapshot when it is decided about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The time in its key.
    pub time: Timestamp,
    /// A marker says that it is bad.
    pub is_bad: bool,
}

/// One reason to keep a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// There is no newer one.
    Newest,
    /// There is no newer good one.
    NewestGood,
    /// Known to be bad, but nothing good is newer: it may be all there is of that time.
    BadButNewer,
    /// One of the newest.
    Last,
    /// Young enough.
    Within,
    /// The newest of its hour.
    Hourly,
    /// The newest of its day.
    Daily,
    /// The newest of its week.
    Weekly,
    /// The newest of its month.
    Monthly,
    /// The newest of its year.
    Yearly,
    /// There are no rules.
    NoRule,
}

impl Why {
    /// Every reason, in the order in which they are told.
    pub const ALL: [Self; 11] = [
        Self::Newest,
        Self::NewestGood,
        Self::BadButNewer,
        Self::Last,
        Self::Within,
        Self::Hourly,
        Self::Daily,
        Self::Weekly,
        Self::Monthly,
        Self::Yearly,
        Self::NoRule,
    ];

    /// The fixed word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::NewestGood => "newest-good",
            Self::BadButNewer => "bad-but-newer",
            Self::Last => "last",
            Self::Within => "within",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::NoRule => "no-rule",
        }
    }
}

/// A set of reasons to keep a snapshot. Displayed as their words, with commas between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reasons(u16);

impl Reasons {
    fn add(&mut self, why: Why) {
        self.0 |= 1 << why as u16;
    }

    /// Whether `why` is one of them.
    #[must_use]
    pub fn has(self, why: Why) -> bool {
        self.0 & (1 << why as u16) != 0
    }

    /// Their words.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        Why::ALL.into_iter().filter(move |why| self.has(*why)).map(Why::word)
    }
}

impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().collect::<Vec<_>>().join(","))
    }
}

/// What becomes of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It stays, for at least one reason.
    Keep(Reasons),
    /// It may go.
    Remove,
}

/// Decides about all snapshots of one database, given oldest first, at `now`; the answer has the same order.
///
/// Times after `now`, of a clock that was ahead, are times like others: among the newest, and within any time before now.
#[must_use]
pub fn decide(rules: &Rules, now: Timestamp, snapshots: &[Candidate]) -> Vec<Verdict> {
    debug_assert!(snapshots.is_sorted_by_key(|s| s.time));
    let mut kept = vec![Reasons::default(); snapshots.len()];
    if rules.is_empty() {
        kept.iter_mut().for_each(|reasons| reasons.add(Why::NoRule));
    }
    if let Some(newest) = kept.last_mut() {
        newest.add(Why::Newest);
    }
    let good_from = snapshots.iter().rposition(|s| !s.is_bad);
    for reasons in &mut kept[good_from.map_or(0, |i| i + 1)..] {
        reasons.add(Why::BadButNewer);
    }
    if let Some(i) = good_from.filter(|i| i + 1 < snapshots.len()) {
        kept[i].add(Why::NewestGood);
    }
    if let Some(within) = rules.within.filter(|time| !time.is_zero()) {
        let since = now.as_ms().saturating_sub(i64::try_from(within.as_millis()).unwrap_or(i64::MAX));
        for (reasons, _) in kept.iter_mut().zip(snapshots).filter(|(_, s)| !s.is_bad && s.time.as_ms() > since) {
            reasons.add(Why::Within);
        }
    }
    for (why, count, slot_of) in rules.counts() {
        let mut slots = 0;
        let mut taken = None;
        for (reasons, snapshot) in kept.iter_mut().zip(snapshots).rev().filter(|(_, s)| !s.is_bad) {
            let slot = slot_of(snapshot.time);
            if taken == Some(slot) {
                continue;
            }
            if slots == count {
                break;
            }
            (slots, taken) = (slots + 1, Some(slot));
            reasons.add(why);
        }
    }
    let verdict =
        |reasons: Reasons| if reasons == Reasons::default() { Verdict::Remove } else { Verdict::Keep(reasons) };
    kept.into_iter().map(verdict).collect()
}
