//! A listing, as a store may give it. Input: a line with a glob, or none for every name; then a key in each line.

use std::collections::{BTreeMap, BTreeSet};

use litesnap::catalogue::{Catalogue, Database};
use litesnap::error::Error;
use litesnap::fuzzing::{key_ahead, key_between};
use litesnap::layout::{KeyKind, Timestamp, parse_heartbeat, parse_key};
use litesnap::names::Names;

use super::fields;

pub fn check(data: &[u8]) {
    let [glob, rest] = fields(data);
    let (glob, rest) = (String::from_utf8_lossy(glob), String::from_utf8_lossy(rest));
    let names = if glob.is_empty() { Ok(Names::all()) } else { Names::parse(&[glob.into_owned()]) };
    let keys: Vec<&str> = rest.split('\n').collect();
    if let Ok(names) = names {
        catalogued(&keys, &names);
    }
    guessed(keys);
}

/// What there is of one name, as sets: the plainest account of a listing.
#[derive(Default, PartialEq, Eq, Debug)]
struct Account {
    snapshots: BTreeSet<Timestamp>,
    tombstones: BTreeSet<Timestamp>,
    markers: BTreeSet<Timestamp>,
}

fn catalogued(keys: &[&str], names: &Names) {
    let mut expected: BTreeMap<&str, Account> = BTreeMap::new();
    let mut foreign = 0;
    for key in keys {
        let Some(key) = parse_key(key) else {
            foreign += u64::from(parse_heartbeat(key).is_none());
            continue;
        };
        if names.matches(key.prefix) {
            let account = expected.entry(key.prefix).or_default();
            match key.kind {
                KeyKind::Snapshot => account.snapshots.insert(key.ts),
                KeyKind::Tombstone => account.tombstones.insert(key.ts),
                KeyKind::BadMarker => account.markers.insert(key.ts),
            };
        }
    }
    let mut catalogue = Catalogue::empty().expect("there is room for temporary files");
    catalogue.add(names, keys.iter().map(|key| (*key, 7))).expect("there is room");
    assert_eq!(catalogue.totals().foreign, foreign);
    let mut found = Vec::new();
    let visited = catalogue.each::<Error>(|database| {
        found.push(database);
        Ok(())
    });
    visited.expect("nothing ends it");
    assert_eq!(found.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), expected.keys().copied().collect::<Vec<_>>());
    for (database, account) in found.iter().zip(expected.values()) {
        whole(database, account);
    }
}

fn whole(database: &Database, account: &Account) {
    assert!(database.snapshots.iter().map(|s| s.time).eq(account.snapshots.iter().copied()), "{database:?}");
    assert!(database.tombstones.iter().eq(&account.tombstones), "{database:?}");
    let stray = account.markers.difference(&account.snapshots);
    assert!(database.stray_markers.iter().eq(stray), "{database:?}");
    for snapshot in &database.snapshots {
        assert_eq!(snapshot.is_bad, account.markers.contains(&snapshot.time));
        let key = parse_key(&snapshot.location.key).expect("one of ours");
        assert_eq!((key.prefix, key.ts), (&*database.name, snapshot.time));
    }
    for time in account.snapshots.iter().chain(&account.tombstones) {
        let newest = account.snapshots.range(..=time).next_back().copied();
        let gone = account.tombstones.range(..=time).next_back().copied();
        assert_eq!(database.newest_at(*time).map(|s| s.time), newest);
        assert_eq!(database.gone_at(*time), gone.filter(|gone| newest.is_none_or(|newest| newest <= *gone)));
    }
}

/// Where a listing is split for speed: always between the keys it is split between, and always a key that stores take.
fn guessed(mut keys: Vec<&str>) {
    keys.sort_unstable();
    keys.dedup();
    let [first, .., last] = keys[..] else { return };
    for part in [0.0, 0.3, 0.999] {
        if let Some(middle) = key_between(&keys, first, last, part) {
            assert!(first < &*middle && &*middle < last, "{first:?} {middle:?} {last:?}");
            takes(&middle);
        }
        if let Some(far) = key_ahead(&keys, first, last, part * 100.0) {
            assert!(&*far > last, "{last:?} {far:?}");
            takes(&far);
        }
    }
}

fn takes(key: &str) {
    assert!(!key.split('/').any(|part| matches!(part, "" | "." | "..")), "{key:?}");
}
