//! The backlog: databases whose newest change is not stored, and since when.
//!
//! In memory, beside the table of slots, an entry for each database that counts as changed, from the scan that sees it until
//! its snapshot is recorded; in `state.db` only what outlasts its cycle. It decides nothing: it is what people are told.
//! A crash loses nothing that the next scan does not find again.

use std::collections::HashMap;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::state::Table;

/// Why a change is still not stored when its cycle is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// It was not its turn: the store was down, or a stop came.
    Untried,
    /// Its cooldown is not over.
    Held,
    /// The attempt failed.
    Failed,
}

impl Wait {
    /// Its number in `state.db`.
    #[must_use]
    pub fn code(self) -> i64 {
        match self {
            Self::Untried => 0,
            Self::Held => 1,
            Self::Failed => 2,
        }
    }

    /// The wait with this number.
    #[must_use]
    pub fn from_code(code: i64) -> Option<Self> {
        [Self::Untried, Self::Held, Self::Failed].into_iter().find(|wait| wait.code() == code)
    }

    /// The fixed word, for people and metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Untried => "untried",
            Self::Held => "held",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    since_s: u32,
    /// What `state.db` says of it.
    noted: Option<Wait>,
}

/// Databases that wait, by id: 16 bytes each, as many as are changed and not stored.
#[derive(Debug, Default)]
pub struct Backlog(Mutex<HashMap<u64, Entry>>);

impl Backlog {
    /// Database `id` has a change of the time `since_s` (s since 1970); one that waits already goes on waiting since then.
    pub fn add(&self, id: u64, since_s: u32) {
        self.0.lock().entry(id).or_insert(Entry { since_s, noted: None });
    }

    /// What `state.db` remembers.
    pub fn load(&self, id: u64, since_s: u32, wait: Wait) {
        self.0.lock().insert(id, Entry { since_s, noted: Some(wait) });
    }

    /// Since when `id` waits.
    #[must_use]
    pub fn since(&self, id: u64) -> Option<u32> {
        self.0.lock().get(&id).map(|entry| entry.since_s)
    }

    /// That `id` waits as `wait` says is to be written down: since when, unless that is written already.
    #[must_use]
    pub fn to_note(&self, id: u64, wait: Wait) -> Option<u32> {
        let mut all = self.0.lock();
        let entry = all.get_mut(&id).filter(|entry| entry.noted != Some(wait))?;
        entry.noted = Some(wait);
        Some(entry.since_s)
    }

    /// It could not be written down.
    pub fn not_noted(&self, id: u64) {
        if let Some(entry) = self.0.lock().get_mut(&id) {
            entry.noted = None;
        }
    }

    /// Whether `state.db` says that `id` waits.
    #[must_use]
    pub fn is_noted(&self, id: u64) -> bool {
        self.0.lock().get(&id).is_some_and(|entry| entry.noted.is_some())
    }

    /// `id` is stored, or is nothing that could be.
    pub fn remove(&self, id: u64) {
        self.0.lock().remove(&id);
    }

    /// Those that the `table` of slots does not know: they went away while nobody looked.
    #[must_use]
    pub fn strangers(&self, table: &Table) -> Vec<u64> {
        let ids: Vec<u64> = self.0.lock().keys().copied().collect();
        ids.into_iter().filter(|id| table.get(*id).is_none()).collect()
    }

    /// Gives memory back that a burst left.
    pub fn rest(&self) {
        let mut all = self.0.lock();
        if all.len() < all.capacity() / 4 {
            all.shrink_to_fit();
        }
    }

    /// How long each has waited at `now_s`.
    #[must_use]
    pub fn ages(&self, now_s: i64) -> Ages {
        let all = self.0.lock();
        all.values().map(|entry| now_s - i64::from(entry.since_s)).collect()
    }

    /// Bytes of memory held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.lock().capacity() * (size_of::<(u64, Entry)>() + 1)
    }
}

/// Upper ends of the age classes, in seconds: half a minute to thirty days.
pub const AGES_S: [i64; 10] = [30, 60, 300, 900, 1800, 3600, 21_600, 86_400, 604_800, 2_592_000];

/// How old things are: counts by class, and the extremes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ages {
    /// How many are at most as old as the class of [`AGES_S`] with the same number, and older than the one before; the
    /// last is of all that are older.
    pub classes: [u64; AGES_S.len() + 1],
    /// How many there are.
    pub count: u64,
    /// Sum of the ages, s.
    pub sum_s: i64,
    /// The greatest age, s; 0 where there is none.
    pub oldest_s: i64,
}

impl Ages {
    /// Adds one of `age_s` seconds; an age below zero, as a clock that was set leaves it, counts as zero.
    pub fn add(&mut self, age_s: i64) {
        let age_s = age_s.max(0);
        let class = AGES_S.iter().position(|end| age_s <= *end).unwrap_or(AGES_S.len());
        self.classes[class] += 1;
        self.count += 1;
        self.sum_s = self.sum_s.saturating_add(age_s);
        self.oldest_s = self.oldest_s.max(age_s);
    }

    /// How many are at most as old as each end of [`AGES_S`].
    #[must_use]
    pub fn cumulative(&self) -> [u64; AGES_S.len()] {
        let mut sum = 0;
        std::array::from_fn(|class| {
            sum += self.classes[class];
            sum
        })
    }
}

impl FromIterator<i64> for Ages {
    fn from_iter<T: IntoIterator<Item = i64>>(ages: T) -> Self {
        let mut all = Self::default();
        ages.into_iter().for_each(|age| all.add(age));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_waits_since_its_first_sight_until_it_is_stored() {
        let backlog = Backlog::default();
        backlog.add(7, 100);
        backlog.add(7, 130);
        backlog.add(8, 190);
        assert_eq!((backlog.since(7), backlog.ages(200).oldest_s), (Some(100), 100));
        backlog.remove(7);
        backlog.add(7, 195);
        assert_eq!((backlog.since(7), backlog.ages(200).count), (Some(195), 2));
    }

    #[test]
    fn each_wait_is_written_down_once() {
        let backlog = Backlog::default();
        backlog.add(7, 100);
        assert_eq!(backlog.to_note(7, Wait::Held), Some(100));
        assert_eq!(backlog.to_note(7, Wait::Held), None);
        assert_eq!(backlog.to_note(7, Wait::Failed), Some(100), "it waits for another reason");
        assert_eq!(backlog.to_note(8, Wait::Held), None, "it does not wait");
        backlog.load(9, 50, Wait::Untried);
        assert_eq!(backlog.to_note(9, Wait::Untried), None, "a restart writes nothing again");
    }

    #[test]
    fn ages_by_class() {
        let ages: Ages = [-5, 0, 30, 31, 300, 3600, 3601, 9_999_999].into_iter().collect();
        assert_eq!(ages.cumulative(), [3, 4, 5, 5, 5, 6, 7, 7, 7, 7]);
        assert_eq!((ages.count, ages.oldest_s, ages.classes[10]), (8, 9_999_999, 1));
        assert_eq!(Ages::default().oldest_s, 0);
    }

    #[test]
    fn every_wait_has_a_number_and_a_word() {
        for wait in [Wait::Untried, Wait::Held, Wait::Failed] {
            assert_eq!(Wait::from_code(wait.code()), Some(wait));
        }
        assert_eq!(Wait::from_code(3), None);
    }
}
