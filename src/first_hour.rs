//! What the first hour of a loop tells about its bill, said once.
//!
//! The first cycle is left out: a first run stores everything, which no later hour does. Follows each database that is stored
//! again, for an hour and no longer; a restart begins anew, and says it once more.

use parking_lot::Mutex;

use crate::cost::bill::{Bill, Counts, Observed};
use crate::cost::whatif::WhatIf;
use crate::store::RequestCounts;

const HOUR_S: i64 = 3600;

/// The hour, until it is told.
#[derive(Debug, Default)]
pub(crate) struct FirstHour(Mutex<Stage>);

#[derive(Debug, Default)]
enum Stage {
    /// The first cycle is not over.
    #[default]
    Before,
    During(Box<Hour>),
    Told,
}

#[derive(Debug)]
struct Hour {
    began_s: i64,
    requests: RequestCounts,
    objects: u64,
    bytes: u64,
    what_if: WhatIf,
}

impl FirstHour {
    /// Database `id`, which has snapshots already, was stored again at `now_s`.
    pub(crate) fn stored_again(&self, id: u64, now_s: i64) {
        if let Stage::During(hour) = &mut *self.0.lock() {
            hour.what_if.add(id, now_s.unsigned_abs());
        }
    }

    /// A cycle is over at `now_s`, and if `is_over`, nothing of a first run is left; it stored so many objects and bytes, and `requests` are all of the process so far. Returns what is to be
    /// said once the hour is over. Under a `cooldown_s` only what it let through is known: then nothing is said of others.
    pub(crate) fn cycle_ended(
        &self,
        now_s: i64,
        is_over: bool,
        requests: RequestCounts,
        (objects, bytes): (u64, u64),
        cooldown_s: u32,
    ) -> Option<String> {
        let mut stage = self.0.lock();
        let Stage::During(hour) = &mut *stage else {
            if matches!(*stage, Stage::Before) && is_over {
                let what_if = WhatIf::new();
                *stage = Stage::During(Box::new(Hour { began_s: now_s, requests, objects: 0, bytes: 0, what_if }));
            }
            return None;
        };
        hour.objects += objects;
        hour.bytes += bytes;
        // A clock that was set back makes it a longer hour, and one set ahead a wrong one: as its like it is told.
        let seconds = now_s - hour.began_s;
        if seconds < HOUR_S {
            return None;
        }
        let seconds = seconds.unsigned_abs();
        let observed = Observed {
            requests: Counts::from(&requests.since(&hour.requests)),
            bytes: hour.bytes,
            objects: hour.objects,
            seconds,
            ..Observed::default()
        };
        let bill = Bill::from_requests(&observed);
        let line = bill.map(|bill| match cooldown_s {
            0 => bill.line_with(&hour.what_if, seconds, now_s.unsigned_abs()),
            _ => bill.line(),
        });
        *stage = Stage::Told;
        line.map(|line| format!("after the first hour: {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Requests;

    fn put(requests: &Requests, n: usize) {
        (0..n).for_each(|_| requests.add(crate::store::Verb::Put, crate::store::Answer::Done));
    }

    #[test]
    fn an_hour_is_told_once_without_the_first_run() {
        let (first_hour, requests) = (FirstHour::default(), Requests::default());
        put(&requests, 50_000);
        let half = first_hour.cycle_ended(500, false, requests.snapshot(), (50_000, 1 << 29), 0);
        assert_eq!(half, None, "the store went down in a first run: the rest of it is no hour like others");
        put(&requests, 50_000);
        first_hour.stored_again(1, 0);
        assert_eq!(first_hour.cycle_ended(1000, true, requests.snapshot(), (100_000, 1 << 30), 0), None);
        for cycle in 1..=120 {
            put(&requests, 10);
            (0..10).for_each(|id| first_hour.stored_again(id, 1000 + cycle * 30));
            let told = first_hour.cycle_ended(1000 + cycle * 30, true, requests.snapshot(), (10, 1000), 0);
            assert_eq!(told.is_some(), cycle == 120, "{cycle}: {told:?}");
            if let Some(line) = told {
                // 1,200 PUTs an hour are 864,000 a month.
                assert!(line.contains("S3 $4.32+"), "{line}");
                assert!(line.contains("without a cooldown $4.32 (1200), with one of 5m"), "{line}");
            }
        }
        put(&requests, 10);
        assert_eq!(first_hour.cycle_ended(90_000, true, requests.snapshot(), (10, 1000), 0), None, "only once");
    }

    #[test]
    fn under_a_cooldown_nothing_is_said_of_others() {
        let (first_hour, requests) = (FirstHour::default(), Requests::default());
        assert_eq!(first_hour.cycle_ended(0, true, requests.snapshot(), (5, 5), 60), None);
        first_hour.stored_again(1, 60);
        put(&requests, 1);
        let line = first_hour.cycle_ended(3600, true, requests.snapshot(), (1, 5), 60).unwrap();
        assert!(line.contains("S3 <$0.01+"), "{line}");
        assert!(!line.contains("cooldown"), "{line}");
    }
}
