//! The laws of retention as properties, one example that a person can compute by hand, and a year of daily prunes beside
//! a second, naive implementation.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    Timestamp::from_rfc3339(&format!("{text}:00.000Z")).unwrap()
}

fn ms(ms: i64) -> Timestamp {
    Timestamp::from_ms(ms).unwrap()
}

fn kept(rules: &Rules, now: Timestamp, snapshots: &[Candidate]) -> Vec<Candidate> {
    let verdicts = decide(rules, now, snapshots);
    assert_eq!(verdicts.len(), snapshots.len());
    snapshots.iter().zip(verdicts).filter(|(_, v)| *v != Verdict::Remove).map(|(s, _)| *s).collect()
}

/// keep-last 2, hourly 3, daily 3, weekly 2, monthly 2. `!` is a snapshot known to be bad; an empty reason is removed.
const EXAMPLE: [(&str, &str); 32] = [
    ("2026-09-15T10:00", ""),
    ("2026-09-30T22:00", ""),
    ("2026-10-05T10:00", ""),
    ("2026-10-31T23:30", "monthly"),
    ("2026-11-01T00:10", ""),
    ("2026-11-08T09:00", ""),
    ("2026-11-08T21:00", ""),
    ("2026-11-09T08:00", ""),
    ("2026-11-14T12:00", ""),
    ("2026-11-15T10:00", ""),
    ("2026-11-15T23:59", "weekly"),
    ("2026-11-16T00:01", ""),
    ("2026-11-16T12:00", ""),
    ("2026-11-17T12:00", ""),
    ("2026-11-18T06:00", ""),
    ("2026-11-18T18:00", ""),
    ("2026-11-19T01:00", ""),
    ("2026-11-19T13:00", ""),
    ("2026-11-19T23:00", "daily"),
    ("2026-11-20T08:05", ""),
    ("2026-11-20T08:35", ""),
    ("2026-11-20T09:10", ""),
    ("2026-11-20T20:15", "daily"),
    ("2026-11-20T20:45!", ""),
    ("2026-11-21T05:00", ""),
    ("2026-11-21T09:05", ""),
    ("2026-11-21T09:20", ""),
    ("2026-11-21T09:50", "hourly"),
    ("2026-11-21T10:15", "hourly"),
    ("2026-11-21T11:00", "last"),
    ("2026-11-21T11:20", "newest-good,last,hourly,daily,weekly,monthly"),
    ("2026-11-21T11:40!", "newest,bad-but-newer"),
];

#[test]
fn the_documented_example() {
    let rules = Rules { last: 2, hourly: 3, daily: 3, weekly: 2, monthly: 2, ..Rules::default() };
    let snapshots =
        EXAMPLE.map(|(time, _)| Candidate { time: at(time.trim_end_matches('!')), is_bad: time.ends_with('!') });
    let verdicts = decide(&rules, at("2026-11-21T12:00"), &snapshots);
    for ((time, expected), verdict) in EXAMPLE.iter().zip(verdicts) {
        let found = if let Verdict::Keep(reasons) = verdict { reasons.to_string() } else { String::new() };
        assert_eq!(found, *expected, "{time}");
    }
    assert_eq!(rules.describe(), "last 2, hourly 3, daily 3, weekly 2, monthly 2");
    assert_eq!(Rules::standard().describe(), "within 1h, hourly 24, daily 30, monthly 12");
}

#[test]
fn edges_of_weeks_years_and_within() {
    let good = |text: &str| Candidate { time: at(text), is_bad: false };
    // 2026-12-28 (Monday) to 2027-01-03 (Sunday) is one ISO week over two years.
    let snapshots =
        ["2026-12-27T23:59", "2026-12-28T00:00", "2026-12-31T23:59", "2027-01-01T00:00", "2027-01-03T23:59"];
    let snapshots = snapshots.map(good);
    let now = at("2027-01-04T00:00");
    let weekly = kept(&Rules { weekly: 2, ..Rules::default() }, now, &snapshots);
    assert_eq!(weekly, [snapshots[0], snapshots[4]]);
    let yearly = kept(&Rules { yearly: 2, ..Rules::default() }, now, &snapshots);
    assert_eq!(yearly, [snapshots[2], snapshots[4]]);
    let within = |hours: u64| Rules { within: Some(Duration::from_secs(hours * 3600)), ..Rules::default() };
    assert_eq!(kept(&within(72), now, &snapshots), snapshots[4..], "exactly three days old is not within three days");
    assert_eq!(kept(&within(73), now, &snapshots), snapshots[2..]);
    // A clock that was a year ahead when they were made.
    assert_eq!(kept(&within(1), at("2026-01-01T00:00"), &snapshots), snapshots);
    let zero = Rules { within: Some(Duration::ZERO), ..Rules::default() };
    assert!(zero.is_empty());
    assert_eq!(kept(&zero, now, &snapshots), snapshots, "no rule removes nothing");
    assert_eq!(decide(&Rules::standard(), now, &[]), []);
}

/// The same rules in the plainest words, by calendar fields instead of arithmetic.
fn naive(rules: &Rules, now: Timestamp, snapshots: &[Candidate]) -> BTreeSet<i64> {
    let date = |s: &Candidate| DateTime::from_timestamp_millis(s.time.as_ms()).unwrap().naive_utc();
    let good: Vec<&Candidate> = snapshots.iter().filter(|s| !s.is_bad).collect();
    let newest_good = good.last().map_or(-1, |s| s.time.as_ms());
    let mut kept: BTreeSet<i64> = snapshots.iter().map(|s| s.time.as_ms()).filter(|t| *t >= newest_good).collect();
    kept.extend(good.iter().rev().take(rules.last as usize).map(|s| s.time.as_ms()));
    let within = rules.within.map_or(0, |w| i64::try_from(w.as_millis()).unwrap());
    if within > 0 {
        kept.extend(good.iter().map(|s| s.time.as_ms()).filter(|t| now.as_ms() - t < within));
    }
    type Fields = fn(chrono::NaiveDateTime) -> (i32, u32, u32);
    let of_hour: Fields = |d| (d.year(), d.ordinal(), chrono::Timelike::hour(&d));
    let of_day: Fields = |d| (d.year(), d.ordinal(), 0);
    let of_week: Fields = |d| (d.iso_week().year(), d.iso_week().week(), 0);
    let of_month: Fields = |d| (d.year(), d.month(), 0);
    let of_year: Fields = |d| (d.year(), 0, 0);
    let counts = [rules.hourly, rules.daily, rules.weekly, rules.monthly, rules.yearly];
    for (count, fields) in counts.into_iter().zip([of_hour, of_day, of_week, of_month, of_year]) {
        let newest: BTreeMap<_, _> = good.iter().map(|s| (fields(date(s)), s.time.as_ms())).collect();
        kept.extend(newest.values().rev().take(count as usize));
    }
    kept
}

fn times(snapshots: &[Candidate]) -> BTreeSet<i64> {
    snapshots.iter().map(|s| s.time.as_ms()).collect()
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let n = || prop_oneof![2 => Just(0_u32), 5 => 0..6_u32];
    (n(), proptest::option::of(0..5_000_000_u64), n(), n(), n(), n(), n()).prop_map(
        |(last, within, hourly, daily, weekly, monthly, yearly)| Rules {
            last,
            within: within.map(Duration::from_secs),
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
        },
    )
}

/// Around the turn of a year, minutes to months apart.
fn any_snapshots() -> impl Strategy<Value = Vec<Candidate>> {
    let start = at("2026-12-01T00:00").as_ms();
    let gap = prop_oneof![1..10_000_i64, 1..4_000_000_i64, 1..100_000_000_i64, 1..4_000_000_000_i64];
    proptest::collection::vec((gap, proptest::bool::weighted(0.2)), 0..60).prop_map(move |steps| {
        let mut time = start;
        let next = |(gap, is_bad)| {
            time += gap;
            Candidate { time: ms(time), is_bad }
        };
        steps.into_iter().map(next).collect()
    })
}

fn any_now() -> impl Strategy<Value = Timestamp> {
    let start = at("2026-12-01T00:00").as_ms();
    (-1_000_000_000..100_000_000_000_i64).prop_map(move |after| ms(start + after))
}

proptest! {
    #[test]
    fn the_newest_and_the_newest_good_always_stay(rules in any_rules(), now in any_now(), snapshots in any_snapshots()) {
        let kept = kept(&rules, now, &snapshots);
        prop_assert_eq!(kept.last(), snapshots.last());
        let newest_good = |all: &[Candidate]| all.iter().rfind(|s| !s.is_bad).copied();
        prop_assert_eq!(newest_good(&kept), newest_good(&snapshots));
    }

    #[test]
    fn it_agrees_with_the_naive_one(rules in any_rules(), now in any_now(), snapshots in any_snapshots()) {
        if !rules.is_empty() {
            prop_assert_eq!(times(&kept(&rules, now, &snapshots)), naive(&rules, now, &snapshots));
        }
    }

    #[test]
    fn another_rule_never_removes_more(
        rules in any_rules(), more in any_rules(), now in any_now(), snapshots in any_snapshots()
    ) {
        let both = Rules {
            last: rules.last.max(more.last),
            within: rules.within.max(more.within),
            hourly: rules.hourly.max(more.hourly),
            daily: rules.daily.max(more.daily),
            weekly: rules.weekly.max(more.weekly),
            monthly: rules.monthly.max(more.monthly),
            yearly: rules.yearly.max(more.yearly),
        };
        if !rules.is_empty() {
            prop_assert!(times(&kept(&both, now, &snapshots)).is_superset(&times(&kept(&rules, now, &snapshots))));
        }
    }

    #[test]
    fn deciding_again_removes_nothing(rules in any_rules(), now in any_now(), snapshots in any_snapshots()) {
        let once = kept(&rules, now, &snapshots);
        prop_assert_eq!(kept(&rules, now, &once), once);
    }

    #[test]
    fn a_bad_marker_never_removes_a_good_one(
        rules in any_rules(), now in any_now(), snapshots in any_snapshots(), which in any::<prop::sample::Index>()
    ) {
        if snapshots.is_empty() {
            return Ok(());
        }
        let before: Vec<_> = kept(&rules, now, &snapshots).into_iter().filter(|s| !s.is_bad).collect();
        let marked = snapshots[which.index(snapshots.len())].time;
        let mut after = snapshots.clone();
        after.iter_mut().filter(|s| s.time == marked).for_each(|s| s.is_bad = true);
        let after = times(&kept(&rules, now, &after));
        let lost: Vec<_> = before.iter().filter(|s| s.time != marked && !after.contains(&s.time.as_ms())).collect();
        prop_assert!(lost.is_empty(), "{lost:?}");
    }
}

/// Every kind of fleet for a year, pruned daily: the newest is always there, and what is there is what the rules, applied
/// by the naive implementation every day, leave.
#[test]
fn a_year_of_daily_prunes() {
    const DAY: i64 = 86_400_000;
    let start = at("2026-01-01T00:07").as_ms();
    let rule_sets = [
        Rules::standard(),
        Rules { last: 1, ..Rules::default() },
        Rules { within: Some(Duration::from_secs(7 * 86_400)), weekly: 5, yearly: 1, ..Rules::default() },
        Rules { last: 3, hourly: 6, daily: 7, weekly: 4, monthly: 12, ..Rules::default() },
    ];
    // (changes of a day, as minutes; every how many days; every how many of them is bad)
    let hourly: Vec<i64> = (0..24).map(|hour| hour * 60 + 3).collect();
    let burst: Vec<i64> = (0..40).map(|i| 600 + i).collect();
    let fleets: [(&[i64], i64, usize); 5] =
        [(&[5], 1000, 0), (&hourly, 1, 0), (&hourly, 1, 7), (&burst, 9, 5), (&[0, 1439], 30, 2)];
    for rules in rule_sets {
        for (minutes, every, bad) in fleets {
            let (mut stored, mut expected) = (Vec::<Candidate>::new(), Vec::<Candidate>::new());
            let mut made = 0;
            for day in 0..365 {
                for minute in minutes.iter().filter(|_| day % every == 0) {
                    made += 1;
                    let is_bad = bad > 0 && made % bad == 0;
                    stored.push(Candidate { time: ms(start + day * DAY + minute * 60_000), is_bad });
                    expected.push(stored[stored.len() - 1]);
                }
                let now = ms(start + (day + 1) * DAY);
                let (newest, good) = (stored.last().copied(), stored.iter().rfind(|s| !s.is_bad).copied());
                stored = kept(&rules, now, &stored);
                let stays = naive(&rules, now, &expected);
                expected.retain(|s| stays.contains(&s.time.as_ms()));
                assert_eq!(stored, expected, "{rules:?} day {day}");
                assert!(newest.is_some() && stored.last().copied() == newest);
                assert_eq!(stored.iter().rfind(|s| !s.is_bad).copied(), good);
            }
        }
    }
}
