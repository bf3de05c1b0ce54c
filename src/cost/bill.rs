//! The bill from what really happened, extrapolated to a month.

use std::fmt::Write as _;

use serde::Serialize;

use super::model::Usage;
use super::prices::{Class, Held, PRICES_OF, PROVIDERS, class_of};
use super::whatif::WhatIf;
use super::{MONTH_S, float, usd};
use crate::store::{RequestCounts, Verb};

/// Requests by verb, whatever their answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// PUT.
    pub puts: u64,
    /// POST.
    pub posts: u64,
    /// GET.
    pub gets: u64,
    /// HEAD.
    pub heads: u64,
    /// Pages of listings.
    pub lists: u64,
    /// DELETE.
    pub deletes: u64,
    /// Any other.
    pub other: u64,
}

impl Counts {
    /// The requests of `verb`.
    #[must_use]
    pub fn of(&self, verb: Verb) -> u64 {
        match verb {
            Verb::Put => self.puts,
            Verb::Post => self.posts,
            Verb::Get => self.gets,
            Verb::Head => self.heads,
            Verb::List => self.lists,
            Verb::Delete => self.deletes,
            Verb::Other => self.other,
        }
    }
}

impl From<&RequestCounts> for Counts {
    fn from(counts: &RequestCounts) -> Self {
        Self {
            puts: counts.of(Verb::Put),
            posts: counts.of(Verb::Post),
            gets: counts.of(Verb::Get),
            heads: counts.of(Verb::Head),
            lists: counts.of(Verb::List),
            deletes: counts.of(Verb::Delete),
            other: counts.of(Verb::Other),
        }
    }
}

/// What was seen in a time. A first run in it would be taken for what every such time brings: begin after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Observed {
    /// Requests made.
    pub requests: Counts,
    /// Bytes of the objects stored.
    pub bytes: u64,
    /// How many objects these are.
    pub objects: u64,
    /// In so many seconds.
    pub seconds: u64,
    /// Bytes that lay in the store before; 0 if that is not known, then only what is added is billed.
    pub held_bytes: u64,
    /// In so many objects.
    pub held_objects: u64,
}

/// What a month like the time observed costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bill {
    /// Month of the prices.
    pub prices_of: &'static str,
    /// Requests in 30 days.
    pub month: Usage,
    /// Bytes stored in 30 days.
    pub month_bytes: f64,
    /// Objects stored in 30 days.
    pub month_objects: f64,
    /// By provider.
    pub providers: Vec<Charge>,
}

/// What one provider charges for a month.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Charge {
    /// Its name.
    pub provider: &'static str,
    /// For requests.
    pub requests_usd: f64,
    /// For a month of keeping all that lies there at its end, if nothing is removed.
    pub storage_usd: f64,
}

impl Bill {
    /// The bill of a month like the time observed; `None` if that was no time at all.
    #[must_use]
    pub fn from_requests(observed: &Observed) -> Option<Self> {
        if observed.seconds == 0 {
            return None;
        }
        let times = float(MONTH_S) / float(observed.seconds);
        let of = |class| {
            let counted = Verb::ALL.into_iter().filter(|verb| class_of(*verb) == class);
            counted.map(|verb| float(observed.requests.of(verb))).sum::<f64>() * times
        };
        let month = Usage { puts: of(Class::Put), lists: of(Class::List), gets: of(Class::Get) };
        let (month_bytes, month_objects) = (float(observed.bytes) * times, float(observed.objects) * times);
        let held = Held {
            bytes: float(observed.held_bytes) + month_bytes,
            objects: float(observed.held_objects) + month_objects,
            monthly_bytes: month_bytes,
            monthly_objects: month_objects,
            months: 1.0,
        };
        let charge = |provider: &super::prices::Provider| Charge {
            provider: provider.name,
            requests_usd: provider.requests_usd(&month),
            storage_usd: provider.storage_usd(&held),
        };
        let providers = PROVIDERS.iter().map(charge).collect();
        Some(Self { prices_of: PRICES_OF, month, month_bytes, month_objects, providers })
    }

    /// The charge of the provider of this name.
    #[must_use]
    pub fn charge(&self, provider: &str) -> Option<&Charge> {
        self.providers.iter().find(|charge| charge.provider == provider)
    }

    /// One line: requests and storage at each provider, `S3 $7.20+$0.12 R2 …`.
    #[must_use]
    pub fn line(&self) -> String {
        let each = self.providers.iter();
        let each = each.map(|c| format!("{} {}+{}", c.provider, usd(c.requests_usd), usd(c.storage_usd)));
        format!(
            "30 days like this (requests+storage, list prices of {}): {}",
            self.prices_of,
            each.collect::<Vec<_>>().join(", ")
        )
    }

    /// The same, and what cooldowns would have needed: what a loop logs once. `seconds` is the time in which `what_if`
    /// was told of changes, `until_s` its end by the same clock.
    #[must_use]
    pub fn line_with(&self, what_if: &WhatIf, seconds: u64, until_s: u64) -> String {
        let mut line = self.line();
        if seconds == 0 || what_if.changes() == 0 {
            return line;
        }
        let s3 = PROVIDERS[0];
        let requests_usd = |puts: u64| {
            let puts = float(puts) * float(MONTH_S) / float(seconds);
            usd(s3.requests_usd(&Usage { puts, ..Usage::default() }))
        };
        let tried = what_if.needed(until_s).map(|needed| {
            let time = humantime::format_duration(std::time::Duration::from_secs(needed.cooldown_s.into()));
            format!("{time} {} ({} PUT)", requests_usd(needed.puts), needed.puts)
        });
        let told = write!(
            line,
            "; PUTs on {} without a cooldown {} ({}), with one of {}",
            s3.name,
            requests_usd(what_if.changes()),
            what_if.changes(),
            tried.join(", ")
        );
        told.expect("a String takes every text");
        if !what_if.is_complete() {
            line.push_str(" (not all databases were followed: at least so much)");
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_a_thirtieth_of_a_month_and_every_verb_has_its_class() {
        let requests =
            Counts { puts: 90_000, posts: 6_000, gets: 1_000, heads: 500, lists: 70, deletes: 1 << 40, other: 4_000 };
        let observed =
            Observed { requests, bytes: 1_000_000_000, objects: 88_000, seconds: 86_400, ..Observed::default() };
        let bill = Bill::from_requests(&observed).unwrap();
        assert_eq!(bill.month, Usage { puts: 3e6, gets: 45_000.0, lists: 2_100.0 });
        let near = |told: f64, expected: f64| assert!((told - expected).abs() < 1e-9, "{told} {expected}");
        let s3 = bill.charge("S3").unwrap();
        near(s3.requests_usd, 15.0 + 0.018 + 0.0105);
        near(s3.storage_usd, 30.0 * 0.023);
        near(bill.charge("B2").unwrap().requests_usd, 0.018 + 0.0084);
        near(bill.charge("Wasabi").unwrap().storage_usd, 8.0);
        assert_eq!(bill.providers.len(), PROVIDERS.len());
        // What lay there before is kept, too.
        let held = Observed { held_bytes: 70_000_000_000, ..observed };
        near(Bill::from_requests(&held).unwrap().charge("S3").unwrap().storage_usd, 100.0 * 0.023);
        assert_eq!(Bill::from_requests(&Observed { seconds: 0, ..observed }), None);
        assert!(bill.line().contains("S3 $15.03+$0.69, R2 "), "{}", bill.line());
    }

    #[test]
    fn counts_are_taken_over_by_verb() {
        let store = crate::store::Requests::default();
        let counts = Counts::from(&store.snapshot());
        assert_eq!(counts, Counts::default());
        let each = Counts { puts: 1, posts: 2, gets: 3, heads: 4, lists: 5, deletes: 6, other: 7 };
        assert_eq!(Verb::ALL.map(|verb| each.of(verb)), [1, 2, 3, 5, 4, 6, 7]);
    }

    #[test]
    fn the_line_of_the_first_hour_says_what_cooldowns_would_have_needed() {
        let mut what_if = WhatIf::new();
        for cycle in 0..120 {
            (0..1000).for_each(|id| what_if.add(id, 5_000 + cycle * 30));
        }
        let requests = Counts { puts: 120_000, ..Counts::default() };
        let bill = Bill::from_requests(&Observed { requests, seconds: 3600, ..Observed::default() }).unwrap();
        let line = bill.line_with(&what_if, 3600, 5_000 + 3599);
        let expected = "without a cooldown $432 (120000), with one of 5m $43.20 (12000 PUT), 30m $7.20 (2000 PUT), 1h $3.60 (1000 PUT)";
        assert!(line.ends_with(expected), "{line}");
        assert!(!line.contains('\n'));
    }
}
