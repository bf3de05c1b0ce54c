//! What becomes of tombstones and markers, by table; and a year in the life of databases that go and come back.

use std::collections::BTreeSet;

use super::*;
use crate::cycle::Silent;
use crate::layout::{bad_marker_key, snapshot_key, tombstone_key};

const DAY: i64 = DAY_MS;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_ms(ms).unwrap()
}

fn database(keys: &BTreeSet<String>) -> Option<Database> {
    let mut catalogue = Catalogue::empty().unwrap();
    catalogue.add(&Names::all(), keys.iter().map(|k| (k.as_str(), 7))).unwrap();
    let mut found = None;
    catalogue
        .each::<Error>(|d| {
            found = Some(d);
            Ok(())
        })
        .unwrap();
    found
}

/// The keys that go, tier by tier.
fn plan_of(database: &Database, fate: &plan::Fate) -> [Vec<String>; 2] {
    plan::tell(database, fate, &Silent);
    let mut plan = Plan::empty().unwrap();
    plan.add(database, fate).unwrap();
    plan::TIERS.map(|tier| plan.batch(tier, 0, u32::MAX).unwrap().iter().map(plan::Doomed::key).collect())
}

/// One event of a database `d`: a snapshot `s`, a bad one `b`, a tombstone `t`, a stray marker `m`; at a day.
fn keys(events: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for event in events.split_whitespace() {
        let (kind, day) = event.split_at(1);
        let time = at(day.parse::<i64>().unwrap() * DAY);
        let snapshot = snapshot_key("d", time);
        match kind {
            "t" => drop(keys.insert(tombstone_key("d", time))),
            "m" => drop(keys.insert(bad_marker_key(&snapshot))),
            _ => {
                if kind == "b" {
                    keys.insert(bad_marker_key(&snapshot));
                }
                keys.insert(snapshot);
            }
        }
    }
    keys
}

#[test]
fn what_goes_by_table() {
    let last_1 = Rules { last: 1, ..Rules::default() };
    let none = Rules::default();
    for (events, rules, deleted_after, now, goes) in [
        // A tombstone stays while an older snapshot stays, and while it is the newest event.
        ("s1 t2 s3", last_1, None, 4, "s1 t2"),
        ("s1 t2 s3 s4", Rules { last: 3, ..none }, None, 4, ""),
        ("s1 t2", last_1, None, 4000, ""),
        ("s1 s2 t3", last_1, None, 4000, "s1"),
        ("t1 t2", last_1, None, 4000, "t1"),
        ("s1 t2 t3", last_1, None, 4000, ""),
        // Markers go with their snapshots, stray ones always.
        ("b1 s2 b3", last_1, None, 4, "b1"),
        ("m1 s2 m3", last_1, None, 4, "m1 m3"),
        ("s1 b2", last_1, None, 4, ""),
        ("b1 b2", last_1, None, 4, ""),
        ("m1", last_1, None, 4, "m1"),
        // Gone for so long: everything, and only then.
        ("b1 s2 t3 s4 t5 m6", none, Some(30), 35, "b1 s2 t3 s4 t5 m6"),
        ("b1 s2 t3 s4 t5", none, Some(30), 34, ""),
        ("s1 t2 s3", none, Some(30), 4000, ""),
        ("t1 t2", none, Some(30), 4000, "t1 t2"),
        ("s1 t90", none, Some(30), 50, ""),
        ("s1 t2", none, None, 4000, ""),
    ] {
        let database = database(&keys(events)).unwrap();
        let deleted_after = deleted_after.map(|days: u64| Duration::from_secs(days * 86_400));
        let fate = judge(&database, &rules, deleted_after, at(now * DAY));
        let [first, then] = plan_of(&database, &fate);
        let all: BTreeSet<String> = first.iter().chain(&then).cloned().collect();
        assert_eq!(all, keys(goes), "{events} at {now}");
        assert_eq!(fate.is_erased, goes.contains('t') && goes == events && deleted_after.is_some(), "{events}");
        assert!(first.iter().all(|k| k.ends_with(".lz4")) && then.iter().all(|k| !k.ends_with(".lz4")), "{events}");
        assert!(first.is_sorted(), "oldest first");
        if fate.is_erased {
            assert!(then.last().unwrap().ends_with(".deleted"), "the newest tombstone goes last: {then:?}");
        }
    }
}

/// Deletion stopped at any object leaves a database that still looks gone, and the next run finishes.
#[test]
fn an_erasure_cut_short_anywhere_goes_on() {
    let all = keys("b1 s2 t3 s4 b5 t6");
    let doomed = |keys: &BTreeSet<String>| {
        let database = database(keys).unwrap();
        plan_of(&database, &judge(&database, &Rules::standard(), Some(Duration::from_secs(86_400)), at(30 * DAY)))
            .concat()
    };
    let order = doomed(&all);
    assert_eq!(order.len(), all.len());
    for n in 0..order.len() {
        let left: BTreeSet<String> = all.iter().filter(|k| !order[..n].contains(k)).cloned().collect();
        assert!(database(&left).unwrap().gone_at(at(30 * DAY)).is_some(), "{left:?}");
        assert_eq!(doomed(&left).into_iter().collect::<BTreeSet<_>>(), left);
    }
}

/// Databases that are written, go, come back, and go for good, pruned every day for a year: the newest snapshot and the
/// newest good one are always there until a database is long gone; then nothing is.
#[test]
fn a_year_of_databases_that_go_and_come_back() {
    let start = 20_000 * DAY;
    for (seed, rules) in [Rules::standard(), Rules { last: 1, ..Rules::default() }].into_iter().enumerate() {
        for fleet in 0..5_u64 {
            let mut random = fleet * 2 + seed as u64 + 1;
            let mut chance = |of: u64| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33).is_multiple_of(of)
            };
            let (mut stored, mut alive, mut gone_since) = (BTreeSet::new(), true, 0);
            let (mut newest, mut newest_good) = (None, None);
            for day in 0..365 {
                let now = start + day * DAY;
                for hour in 0..if alive { 1 + fleet.cast_signed() * 2 } else { 0 } {
                    let time = at(now + hour * 3_600_000);
                    stored.insert(snapshot_key("d", time));
                    newest = Some(time);
                    if chance(4) {
                        stored.insert(bad_marker_key(&snapshot_key("d", time)));
                    } else {
                        newest_good = Some(time);
                    }
                }
                let now = now + DAY - 1;
                if alive && chance(40) {
                    (alive, gone_since) = (false, now);
                    stored.insert(tombstone_key("d", at(now)));
                } else if !alive && chance(25) {
                    alive = true;
                }
                let Some(found) = database(&stored) else { continue };
                let fate = judge(&found, &rules, Some(Duration::from_secs(30 * 86_400)), at(now));
                plan_of(&found, &fate).concat().iter().for_each(|key| assert!(stored.remove(key), "{key}"));
                let has = |time: Option<Timestamp>| time.is_none_or(|t| stored.contains(&snapshot_key("d", t)));
                if fate.is_erased {
                    assert!(now - gone_since >= 30 * DAY && stored.is_empty(), "{stored:?}");
                    (newest, newest_good) = (None, None);
                }
                assert!(has(newest) && has(newest_good), "day {day} of fleet {fleet}");
                if let Some(found) = database(&stored) {
                    assert!(found.stray_markers.is_empty());
                    let came_back = newest.is_some_and(|t| t.as_ms() > gone_since);
                    assert_eq!(found.gone_at(at(now)).is_some(), gone_since > 0 && !came_back, "day {day}");
                }
            }
        }
    }
}
