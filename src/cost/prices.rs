//! What stores charge: one table with a date, and which request is billed in which class.
//!
//! List prices of the first tier, in USD, without taxes, free allowances and discounts. An allowance is for a whole
//! account and everything in it, so it is named and never deducted.

use super::{float, model::Usage};
use crate::store::Verb;

/// The month in which the table was put together.
pub const PRICES_OF: &str = "2026-11";

/// Bytes in the GB that is priced here. Those who bill by GiB are 7 % cheaper than told.
pub const GB: f64 = 1e9;

/// What one provider charges.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Provider {
    /// Short name, as in tables.
    pub name: &'static str,
    /// USD for a million requests that store: PUT, and the POSTs that begin and complete a multipart upload.
    pub put: f64,
    /// USD for a million pages of a listing.
    pub list: f64,
    /// USD for a million GET and HEAD.
    pub get: f64,
    /// USD for a GB kept for a month.
    pub gb_month: f64,
    /// What is billed at least.
    pub minimum: Option<Minimum>,
    /// What an account has free each month, for people; empty if nothing is known.
    pub free: &'static str,
}

/// What is billed however little is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Minimum {
    /// Each object for so many days, also when it is deleted earlier.
    pub days: u64,
    /// Each object with so many bytes.
    pub object_bytes: u64,
    /// All objects together with so many bytes.
    pub total_bytes: u64,
}

/// Whoever is compared.
pub const PROVIDERS: [Provider; 7] = [
    Provider { name: "S3", put: 5.00, list: 5.00, get: 0.40, gb_month: 0.023, minimum: None, free: "" },
    Provider {
        name: "R2",
        put: 4.50,
        list: 4.50,
        get: 0.36,
        gb_month: 0.015,
        minimum: None,
        free: "1 million PUT and LIST, 10 million GET, 10 GB",
    },
    Provider {
        name: "B2",
        put: 0.0,
        list: 4.00,
        get: 0.40,
        gb_month: 0.00695,
        minimum: None,
        free: "2,500 LIST and 2,500 GET a day, 10 GB",
    },
    Provider { name: "GCS", put: 5.00, list: 5.00, get: 0.40, gb_month: 0.020, minimum: None, free: "" },
    Provider { name: "Azure", put: 5.50, list: 5.50, get: 0.44, gb_month: 0.018, minimum: None, free: "" },
    Provider {
        name: "Tigris",
        put: 5.00,
        list: 5.00,
        get: 0.50,
        gb_month: 0.020,
        minimum: None,
        free: "10,000 PUT and LIST, 100,000 GET, 5 GB",
    },
    Provider {
        name: "Wasabi",
        put: 0.0,
        list: 0.0,
        get: 0.0,
        gb_month: 0.008,
        minimum: Some(Minimum { days: 90, object_bytes: 4096, total_bytes: 1_000_000_000_000 }),
        free: "",
    },
];

/// The provider of this name.
#[must_use]
pub fn provider(name: &str) -> Option<&'static Provider> {
    PROVIDERS.iter().find(|provider| provider.name == name)
}

/// How a request is billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// As one that stores.
    Put,
    /// As a page of a listing.
    List,
    /// As one that reads.
    Get,
    /// Not at all.
    Free,
}

/// The class of a request. POST begins or completes a multipart upload; a POST that deletes many is free with most, but
/// cannot be told apart here and counts as if it were paid for. So does what has no class of its own.
#[must_use]
pub fn class_of(verb: Verb) -> Class {
    match verb {
        Verb::Put | Verb::Post | Verb::Other => Class::Put,
        Verb::List => Class::List,
        Verb::Get | Verb::Head => Class::Get,
        Verb::Delete => Class::Free,
    }
}

impl Provider {
    /// USD for the requests in `usage`.
    #[must_use]
    pub fn requests_usd(&self, usage: &Usage) -> f64 {
        (usage.puts * self.put + usage.lists * self.list + usage.gets * self.get) / 1e6
    }

    /// USD for keeping `held` for one month.
    #[must_use]
    pub fn storage_usd(&self, held: &Held) -> f64 {
        let billed = match self.minimum {
            None => held.bytes,
            Some(minimum) => minimum.billed(held),
        };
        billed / GB * self.gb_month
    }
}

/// What lies in a store, and how it comes and goes: what a minimum needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Held {
    /// Bytes that lie there.
    pub bytes: f64,
    /// In so many objects.
    pub objects: f64,
    /// Bytes put there each month.
    pub monthly_bytes: f64,
    /// In so many objects.
    pub monthly_objects: f64,
    /// For so many months already.
    pub months: f64,
}

impl Minimum {
    /// Bytes that are billed for `held`: what is young is billed even if it is gone, what is small as if it were larger.
    fn billed(&self, held: &Held) -> f64 {
        let recent = (float(self.days) / 30.0).min(held.months);
        let objects = held.objects.max(held.monthly_objects * recent);
        let bytes = held.bytes.max(held.monthly_bytes * recent);
        bytes.max(objects * float(self.object_bytes)).max(float(self.total_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_billed_by_their_class() {
        let usage = Usage { puts: 2e6, lists: 3e6, gets: 5e6 };
        for (name, usd) in [
            ("S3", 10.0 + 15.0 + 2.0),
            ("R2", 9.0 + 13.5 + 1.8),
            ("B2", 12.0 + 2.0),
            ("GCS", 27.0),
            ("Azure", 11.0 + 16.5 + 2.2),
            ("Tigris", 10.0 + 15.0 + 2.5),
            ("Wasabi", 0.0),
        ] {
            let told = provider(name).unwrap().requests_usd(&usage);
            assert!((told - usd).abs() < 1e-9, "{name}: {told}");
        }
        assert_eq!(PROVIDERS.map(|p| p.name).len(), 7);
        let classes = Verb::ALL.map(class_of);
        use Class::{Free, Get, List, Put};
        assert_eq!(classes, [Put, Put, Get, List, Get, Free, Put], "put, post, get, list, head, delete, other");
    }

    #[test]
    fn storage_is_billed_by_the_gb_and_minimums_where_there_are_some() {
        let held = |bytes, objects, monthly_bytes, monthly_objects, months| Held {
            bytes,
            objects,
            monthly_bytes,
            monthly_objects,
            months,
        };
        let usd = |name: &str, held: Held| provider(name).unwrap().storage_usd(&held);
        assert!((usd("S3", held(1e12, 1e6, 0.0, 0.0, 1.0)) - 23.0).abs() < 1e-9);
        for (why, held, expected) in [
            ("at least 1 TB", held(1.0, 1.0, 0.0, 0.0, 1.0), 8.0),
            ("as it is", held(5e12, 1e6, 0.0, 0.0, 1.0), 40.0),
            ("at least 4 KiB an object", held(1e12, 1e9, 0.0, 0.0, 1.0), 4096.0 * 0.008),
            ("deleted within 90 days", held(1e12, 1e6, 2e12, 1e6, 12.0), 6.0 * 8.0),
            ("no older than it is", held(1e12, 1e6, 2e12, 1e6, 1.0), 2.0 * 8.0),
        ] {
            let told = usd("Wasabi", held);
            assert!((told - expected).abs() < 1e-6, "{why}: {told}");
        }
    }
}
