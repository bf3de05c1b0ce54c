//! What cooldowns would have saved: told from the changes that really came.

use std::collections::HashMap;

/// The cooldowns that are tried, in seconds.
pub const COOLDOWNS_S: [u32; 3] = [5 * 60, 30 * 60, 60 * 60];

/// Databases that are followed at most: about 7 MB in all.
pub const DATABASES_MAX: usize = 200_000;

/// Set in a database's time: something changed since, and waits for the end of the cooldown.
const HELD: u32 = 1 << 31;

/// Follows stored changes and counts how many PUTs each of [`COOLDOWNS_S`] would have needed for them.
///
/// The rule is that of the loop: a change is stored at once, unless the database was stored within the cooldown; then it
/// is held to its end, and further changes are stored with it. Takes 24 bytes for a database, and what a hash table
/// leaves free.
#[derive(Debug, Default)]
pub struct WhatIf {
    /// By database, when it would have been stored last under each cooldown: seconds since `start_s`, and [`HELD`].
    stored: HashMap<u64, [u32; COOLDOWNS_S.len()]>,
    start_s: u64,
    now_s: u32,
    changes: u64,
    puts: [u64; COOLDOWNS_S.len()],
    left_out: u64,
}

/// What one cooldown would have needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needed {
    /// The cooldown.
    pub cooldown_s: u32,
    /// PUTs up to the time asked for.
    pub puts: u64,
    /// Databases with a change that would still be held then.
    pub held: u64,
}

impl WhatIf {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The database `id` was stored because it changed, at `time_s` (of any clock, in seconds). A clock that was set back
    /// counts as standing still until it has caught up.
    pub fn add(&mut self, id: u64, time_s: u64) {
        let now = self.tick(time_s);
        self.changes += 1;
        if self.stored.len() >= DATABASES_MAX && !self.stored.contains_key(&id) {
            self.left_out += 1;
            return;
        }
        let mut is_new = false;
        let stored = self.stored.entry(id).or_insert_with(|| {
            is_new = true;
            [now; COOLDOWNS_S.len()]
        });
        for ((stored, cooldown), puts) in stored.iter_mut().zip(COOLDOWNS_S).zip(&mut self.puts) {
            if is_new {
                *puts += 1;
            } else {
                *puts += change(stored, cooldown, now);
            }
        }
    }

    /// Seconds since the first change, and never back.
    fn tick(&mut self, time_s: u64) -> u32 {
        if self.changes == 0 {
            self.start_s = time_s;
        }
        let since = u32::try_from(time_s.saturating_sub(self.start_s)).unwrap_or(u32::MAX).min(HELD - 1);
        self.now_s = self.now_s.max(since);
        self.now_s
    }

    /// Whether every database was followed. If not, the answers leave out the changes of the others.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.left_out == 0
    }

    /// Changes told so far: what no cooldown needs.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Databases followed.
    #[must_use]
    pub fn databases(&self) -> usize {
        self.stored.len()
    }

    /// What each of [`COOLDOWNS_S`] would have needed up to and including `until_s`. To compare with [`WhatIf::changes`], or to
    /// be multiplied for a month, take `puts`; what is held then belongs to the time after it.
    #[must_use]
    pub fn needed(&self, until_s: u64) -> [Needed; COOLDOWNS_S.len()] {
        let since = u32::try_from(until_s.saturating_sub(self.start_s)).unwrap_or(u32::MAX).min(HELD - 1);
        let until = since.max(self.now_s);
        std::array::from_fn(|i| {
            let cooldown_s = COOLDOWNS_S[i];
            let (mut puts, mut held) = (self.puts[i], 0);
            for stored in self.stored.values().map(|all| all[i]).filter(|stored| stored & HELD != 0) {
                if end(stored, cooldown_s) <= until { puts += 1 } else { held += 1 }
            }
            Needed { cooldown_s, puts, held }
        })
    }
}

/// When the cooldown after the snapshot in `stored` ends.
fn end(stored: u32, cooldown: u32) -> u32 {
    (stored & !HELD).saturating_add(cooldown)
}

/// A change at `now`; returns how many PUTs it needs at once, together with one that was held until before it.
fn change(stored: &mut u32, cooldown: u32, now: u32) -> u64 {
    let mut puts = 0;
    let ended = end(*stored, cooldown);
    if *stored & HELD != 0 && ended <= now {
        puts += 1;
        *stored = ended;
        if ended == now {
            // Stored with what was held.
            return puts;
        }
    }
    if end(*stored, cooldown) <= now {
        *stored = now;
        puts + 1
    } else {
        *stored |= HELD;
        puts
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Second by second, as the loop would with a cycle in each: PUTs up to `until` and databases held then. Changes of one
    /// second come one after the other.
    fn by_force(changes: &[(u64, u64)], cooldown: u64, until: u64) -> (u64, u64) {
        let ids: BTreeSet<u64> = changes.iter().map(|(id, _)| *id).collect();
        let (mut puts, mut held) = (0, 0);
        for id in ids {
            let (mut stored, mut dirty) = (None, false);
            for now in 0..=until {
                let came = changes.iter().filter(|change| **change == (id, now)).count();
                for _ in 0..came.max(1) {
                    dirty |= came > 0;
                    if dirty && stored.is_none_or(|stored| now - stored >= cooldown) {
                        (stored, dirty) = (Some(now), false);
                        puts += 1;
                    }
                }
            }
            held += u64::from(dirty);
        }
        (puts, held)
    }

    /// The times as a clock that never goes back would have shown them.
    fn forwards(changes: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut latest = changes.first().map_or(0, |(_, time)| *time);
        let latest = |time: u64| {
            latest = latest.max(time);
            latest
        };
        changes.iter().map(|(id, _)| *id).zip(changes.iter().map(|(_, time)| *time).map(latest)).collect()
    }

    fn told(changes: &[(u64, u64)], until: u64) -> [Needed; 3] {
        let mut what_if = WhatIf::new();
        changes.iter().for_each(|(id, time)| what_if.add(*id, *time));
        assert!(what_if.is_complete());
        assert_eq!(what_if.changes(), changes.len() as u64);
        what_if.needed(until)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn agrees_with_the_rule_applied_second_by_second(
            raw in proptest::collection::vec((0..4_u64, 0..8_000_u64, any::<bool>()), 0..60),
            more in 0..4_000_u64,
        ) {
            // Mostly in order of time, now and then back; many exactly at the end of a cooldown.
            let mut changes: Vec<(u64, u64)> =
                raw.iter().map(|(id, time, round)| (*id, if *round { time / 300 * 300 } else { *time })).collect();
            changes.sort_by_key(|(_, time)| *time);
            for at in (7..changes.len()).step_by(11) {
                changes.swap(at, at - 3);
            }
            let forwards = forwards(&changes);
            let until = forwards.last().map_or(0, |(_, time)| *time) + more;
            for needed in told(&changes, until) {
                let (puts, held) = by_force(&forwards, u64::from(needed.cooldown_s), until);
                prop_assert_eq!((needed.puts, needed.held), (puts, held), "cooldown {}", needed.cooldown_s);
            }
        }
    }

    #[test]
    fn a_busy_database_is_stored_once_in_each_cooldown() {
        let changes: Vec<(u64, u64)> = (0..120).map(|cycle| (7, 1_795_000_000 + cycle * 30)).collect();
        let puts = told(&changes, 1_795_000_000 + 3599).map(|needed| (needed.cooldown_s, needed.puts, needed.held));
        assert_eq!(puts, [(300, 12, 1), (1800, 2, 1), (3600, 1, 1)]);
    }

    #[test]
    fn beyond_its_bound_it_says_that_it_is_incomplete_and_keeps_counting() {
        let mut what_if = WhatIf::new();
        for id in 0..DATABASES_MAX as u64 {
            what_if.add(id, 1000);
        }
        assert!(what_if.is_complete());
        what_if.add(DATABASES_MAX as u64, 1001);
        what_if.add(3, 1500);
        assert!(!what_if.is_complete() && what_if.databases() == DATABASES_MAX);
        assert_eq!(what_if.changes(), DATABASES_MAX as u64 + 2);
        assert_eq!(what_if.needed(1500).map(|n| n.puts - DATABASES_MAX as u64), [1, 0, 0]);
        assert_eq!(size_of::<(u64, [u32; COOLDOWNS_S.len()])>(), 24);
    }
}
