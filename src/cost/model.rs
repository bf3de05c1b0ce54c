//! How many requests a month will bring and how much will lie in the store, from a stated rate of change.
//!
//! The rule is that of [`schedule`](crate::detect::schedule): a database that changed is stored in the next cycle, but for
//! one stored within its cooldown, whose change is held and stored when the cooldown ends. The forms below are exact for
//! cycles that come on time; the tests compare them with that rule at work. Confirmed a moment after its cycle began, a
//! snapshot whose cooldown is a multiple of the interval may wait one cycle more: then a little less is paid than told.

use serde::Serialize;

use super::prices::Held;
use super::{DAY_S, MONTH_S, float};
use crate::retention::Rules;

#[cfg(test)]
mod tests;

/// Images up to this size are put at once, whatever they compress to.
const SMALL_MAX: u64 = 8 << 20;
/// Less, where the memory limit is small: one part in so many.
const SMALL_DIVISOR: u64 = 16;

/// Requests of one month. DELETE is free and not among them.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Usage {
    /// PUT, and POST of multipart uploads.
    pub puts: f64,
    /// Pages of listings.
    pub lists: f64,
    /// GET and HEAD.
    pub gets: f64,
}

/// Which databases the changes of a cycle are spread over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// The same ones in every cycle.
    Same,
    /// Any, each with the same chance in every cycle.
    Random,
    /// All in turn, evenly.
    Turn,
}

impl Spread {
    /// Every spread, the cheapest first.
    pub const ALL: [Self; 3] = [Self::Same, Self::Random, Self::Turn];

    /// The word for options and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Random => "random",
            Self::Turn => "turn",
        }
    }

    /// For people.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Same => "the same again and again",
            Self::Random => "any, at random",
            Self::Turn => "all in turn",
        }
    }
}

/// A fleet and how it is replicated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Databases in all.
    pub databases: u64,
    /// Share of them that changes in one cycle, 0 to 1.
    pub changed: f64,
    /// From the start of one cycle to that of the next; above 0.
    pub interval_s: f64,
    /// At most one snapshot of a database in this time; 0 for no limit.
    pub cooldown_s: f64,
    /// Unchanged databases are stored again after this time; 0 for never.
    pub refresh_s: f64,
}

impl Load {
    /// Cycles in a month.
    #[must_use]
    pub fn cycles(&self) -> f64 {
        float(MONTH_S) / self.interval_s
    }

    /// Cycles from one snapshot of a database to the next one allowed, at least 1.
    fn cooldown_cycles(&self) -> f64 {
        (self.cooldown_s / self.interval_s).ceil().max(1.0)
    }

    /// Snapshots a month of databases that changed.
    ///
    /// The same: each is stored whenever its cooldown of k cycles ends. All in turn: each changes every 1/p cycles, and the
    /// longer of both counts. At random, with chance p in a cycle: after a snapshot, something changes within k cycles with
    /// probability 1 − (1 − p)^k and is stored at their end; else the next change is waited for, 1/p cycles on average.
    /// That is one snapshot in k + (1 − p)^k / p cycles.
    #[must_use]
    pub fn snapshots(&self, spread: Spread) -> f64 {
        let (p, k) = (self.changed.clamp(0.0, 1.0), self.cooldown_cycles());
        if p == 0.0 {
            return 0.0;
        }
        let gap = match spread {
            Spread::Same => k,
            Spread::Random => k + (1.0 - p).powf(k) / p,
            Spread::Turn => k.max(1.0 / p),
        };
        self.active(spread) * self.cycles() / gap
    }

    /// Databases that change at all.
    #[must_use]
    pub fn active(&self, spread: Spread) -> f64 {
        match spread {
            Spread::Same => float(self.databases) * self.changed.clamp(0.0, 1.0),
            Spread::Random | Spread::Turn if self.changed > 0.0 => float(self.databases),
            Spread::Random | Spread::Turn => 0.0,
        }
    }

    /// Snapshots a month of databases only because they are to be refreshed: exact for those that do not change, at most so
    /// many for the others.
    #[must_use]
    pub fn refreshes(&self) -> f64 {
        if self.refresh_s <= 0.0 {
            return 0.0;
        }
        float(self.databases) * float(MONTH_S) / self.refresh_s.max(self.interval_s)
    }
}

/// Requests that storing one database takes: one, or for a large one a request for each part and two more. `raw_bytes` is
/// the size of its image, `object_bytes` of what it compresses to.
#[must_use]
pub fn requests_of(raw_bytes: u64, object_bytes: u64, memory_limit: u64) -> u64 {
    if raw_bytes <= SMALL_MAX.min(memory_limit / SMALL_DIVISOR) {
        return 1;
    }
    match object_bytes.div_ceil(crate::upload::part_size(object_bytes)) {
        0 | 1 => 1,
        parts => parts + 2,
    }
}

/// What one snapshot takes, on average.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ObjectCost {
    /// Bytes of the object.
    pub bytes: f64,
    /// Requests that storing it takes.
    pub requests: f64,
}

/// A month of a [`Load`], and what lies in the store after it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// The fleet.
    pub load: Load,
    /// Who changes.
    pub spread: Spread,
    /// An average snapshot.
    pub object: ObjectCost,
}

impl Forecast {
    /// Requests of a month, after the first run.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage { puts: self.objects_a_month() * self.object.requests, ..Usage::default() }
    }

    /// Objects stored in a month, after the first run.
    #[must_use]
    pub fn objects_a_month(&self) -> f64 {
        self.load.snapshots(self.spread) + self.load.refreshes()
    }

    /// What lies in the store `months` after the first run. With rules it is what there can be at most, just before the
    /// daily pruning.
    #[must_use]
    pub fn held(&self, rules: &Rules, months: f64) -> Held {
        let monthly_objects = self.objects_a_month();
        let all = float(self.load.databases) + monthly_objects * months;
        let objects = if rules.is_empty() { all } else { all.min(self.kept_max(rules)) };
        let bytes = |objects: f64| objects * self.object.bytes;
        Held { bytes: bytes(objects), objects, monthly_bytes: bytes(monthly_objects), monthly_objects, months }
    }

    /// Objects that `rules` can keep at most: of each database what is counted and its newest, of all what is young, and what
    /// comes in the day until they are applied again.
    fn kept_max(&self, rules: &Rules) -> f64 {
        let load = &self.load;
        let databases = float(load.databases);
        let growing = if load.refresh_s > 0.0 { databases } else { load.active(self.spread) };
        let in_seconds = |s: f64| self.objects_a_month() * s / float(MONTH_S);
        let young = in_seconds(rules.within.unwrap_or_default().as_secs_f64());
        let counted = [rules.last, rules.hourly, rules.daily, rules.weekly, rules.monthly, rules.yearly];
        let of_one = 1.0 + counted.into_iter().map(f64::from).sum::<f64>();
        growing * of_one + (databases - growing) + young + in_seconds(float(DAY_S))
    }
}
