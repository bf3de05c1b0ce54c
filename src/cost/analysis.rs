//! The text of `COST_ANALYSIS.md`: every figure in it is computed from the price table and the model, or is one of the
//! measurements below.

mod markdown;

use markdown::{table, wrapped};

use super::model::{Forecast, Load, ObjectCost, Spread, Usage};
use super::prices::{GB, Held, PRICES_OF, PROVIDERS, Provider, provider};
use super::{DAY_S, MONTH_S, bytes, count, float, usd};

/// Databases of the example.
const DATABASES: u64 = 100_000;
/// Its interval.
const INTERVAL_S: u64 = 30;
/// Its cooldown.
const COOLDOWN_S: u64 = 1800;
/// Share that changes in a cycle.
const CHANGED: f64 = 0.01;
/// Bytes of a database of `scripts/generate-fixtures`, sidecars included, and of the object it becomes; measured.
const RAW_BYTES: f64 = 22.4 * 1024.0;
const OBJECT_BYTES: f64 = 3_700.0;
/// LIST requests of Litestream 0.5.16 for one idle database in a day; measured.
const LITESTREAM_LISTS_A_DAY: u64 = 11_534;

const CYCLES: u64 = MONTH_S / INTERVAL_S;
const CYCLES_A_DAY: u64 = DAY_S / INTERVAL_S;

fn load(changed: f64, cooldown_s: u64) -> Load {
    let (interval_s, cooldown_s) = (float(INTERVAL_S), float(cooldown_s));
    Load { databases: DATABASES, changed, interval_s, cooldown_s, refresh_s: 0.0 }
}

fn s3() -> &'static Provider {
    provider("S3").expect("S3 is in the table")
}

fn puts_usd(provider: &Provider, puts: f64) -> String {
    usd(provider.requests_usd(&Usage { puts, ..Usage::default() }))
}

/// The whole document.
#[must_use]
pub fn document() -> String {
    let sections = [intro(), prices(), requests(), claim(), cooldown(), storage(), traffic(), pack(), comparison()];
    sections.map(|section| wrapped(&section)).join("\n")
}

fn names() -> Vec<&'static str> {
    PROVIDERS.iter().map(|provider| provider.name).collect()
}

fn intro() -> String {
    "# What it costs

Written by `litesnap explain --cost-analysis` from the prices and the model in `src/cost`; a test compares the two. What
your own databases will cost, before the first upload: `litesnap explain '/data/**/*.db' --store URL`.
"
    .to_owned()
}

fn prices() -> String {
    let row = |what: &str, price: fn(&Provider) -> f64| -> Vec<String> {
        let prices = PROVIDERS.iter().map(|provider| match price(provider) {
            0.0 => "0".to_owned(),
            n if (n * 100.0).fract().abs() < 1e-9 || n > 1.0 => format!("{n:.2}"),
            n => format!("{n:.5}").trim_end_matches('0').to_owned(),
        });
        std::iter::once(what.to_owned()).chain(prices).collect()
    };
    let head: Vec<&str> = std::iter::once("per month").chain(names()).collect();
    let rows = vec![
        row("million PUT, POST", |p| p.put),
        row("million LIST", |p| p.list),
        row("million GET, HEAD", |p| p.get),
        row("GB stored", |p| p.gb_month),
    ];
    let free = PROVIDERS.iter().filter(|p| !p.free.is_empty()).map(|p| format!("{}: {}", p.name, p.free));
    let minimums = PROVIDERS.iter().filter_map(|p| {
        let minimum = p.minimum?;
        let (total, object) = (bytes(float(minimum.total_bytes)), minimum.object_bytes);
        Some(format!(
            "{} bills at least {} days and {object} bytes an object, and at least {total} in all",
            p.name, minimum.days
        ))
    });
    format!(
        "## Prices

List prices of {PRICES_OF} in USD, first tier (Azure: hot, its LIST taken at the price of a write); look them up before you
rely on them. A GB is 10⁹ bytes, a month 30 days. DELETE is free.

{}
{}. Free in each month and account, and not deducted here: {}.
",
        table(&head, rows),
        minimums.collect::<Vec<_>>().join("; "),
        free.collect::<Vec<_>>().join("; "),
    )
}

/// The size of the parts of all but the largest databases.
fn part() -> String {
    format!("{} MiB", crate::upload::part_size(0) >> 20)
}

fn requests() -> String {
    let part = part();
    let shares = [0.0, 0.0001, 0.001, CHANGED];
    let row = |changed: &f64| {
        let puts = load(*changed, 0).snapshots(Spread::Random);
        let label = match changed {
            0.0 => "none".to_owned(),
            share => format!("{} % ({})", share * 100.0, count(share * float(DATABASES))),
        };
        let cost = PROVIDERS.iter().map(|provider| puts_usd(provider, puts));
        [label, count(puts)].into_iter().chain(cost).collect()
    };
    let first = format!("{} databases, changed per cycle", count(float(DATABASES)));
    let head: Vec<&str> = [first.as_str(), "PUT a month"].into_iter().chain(names()).collect();
    format!(
        "## Requests

- A database that did not change: none. A fleet in which nothing changes: none, whatever its size and interval.
- A database whose files moved but whose content did not (a checkpoint, a `touch`, `VACUUM` of what was compact): none.
- A changed database: one PUT a cycle; one that compresses to more than {part}: one request for each part of {part}, and two more.
- No LIST, no HEAD, and no GET, except the one that compares an object whose confirmation was lost. Every further attempt at
  a request is billed like the first.

With `--interval {INTERVAL_S}s` a month has {} cycles:

    PUT a month = databases changed per cycle × {}

{}",
        count(float(CYCLES)),
        count(float(CYCLES)),
        table(&head, shares.iter().map(row).collect())
    )
}

fn claim() -> String {
    let changed = CHANGED * float(DATABASES);
    let cycles_claimed = 48.0;
    let a_day = |puts: f64| puts_usd(s3(), puts);
    format!(
        "## Where \"$432 a day → $0.24 a day\" went wrong

A well-known sketch of this design promises that. {} a day is {} PUT, as many as {} databases need that are each
stored every second. Stored every {INTERVAL_S} s instead, they need a thirtieth. But the sketch counts {cycles_claimed} cycles of {INTERVAL_S} s in a day, and there are {}:

| {} databases a cycle | PUT a day | a day | a month |
|---|---:|---:|---:|
| as claimed | {} | {} | {} |
| as it is | {} | {} | {} |

Nor do names help that are the same until the next hour: such a PUT overwrites the object before it, which saves storage, but
each PUT is paid for. litesnap never overwrites.
",
        a_day(changed * float(DAY_S)),
        count(changed * float(DAY_S)),
        count(changed),
        count(float(CYCLES_A_DAY)),
        count(changed),
        count(changed * cycles_claimed),
        a_day(changed * cycles_claimed),
        a_day(changed * cycles_claimed * 30.0),
        count(changed * float(CYCLES_A_DAY)),
        a_day(changed * float(CYCLES_A_DAY)),
        a_day(changed * float(CYCLES)),
    )
}

fn cooldown() -> String {
    let load = load(CHANGED, COOLDOWN_S);
    let minutes = |cycles: f64| cycles * float(INTERVAL_S) / 60.0;
    let row = |spread: Spread| {
        let puts = load.snapshots(spread);
        let who = match spread {
            Spread::Same => format!("the same {} again and again", count(CHANGED * float(DATABASES))),
            Spread::Random => "any, at random".to_owned(),
            Spread::Turn => format!("all in turn, each every {:.0} minutes", minutes(1.0 / CHANGED)),
        };
        vec![who, count(puts), puts_usd(s3(), puts)]
    };
    let cooldown_cycles = float(COOLDOWN_S / INTERVAL_S);
    let quiet = (1.0 - CHANGED).powf(cooldown_cycles);
    let (pause, wait) = (minutes(cooldown_cycles), minutes(1.0 / CHANGED));
    let each = load.snapshots(Spread::Random) / float(DATABASES);
    let dropped = float(MONTH_S) / 60.0 / (pause + wait);
    format!(
        "## What a cooldown saves depends on who changes

`--cooldown 30m` stores a database at most once in 30 minutes. At {} % of {} per cycle, on S3:

{}
The middle row: after a snapshot the cooldown runs {pause:.0} minutes. With probability 1 − {:.2}^{cooldown_cycles:.0} = {:.0} % a change comes in
that time, is held and is stored at its end; otherwise the next one is waited for, {wait:.0} minutes on average. That is one
snapshot in {pause:.0} + {quiet:.2} × {wait:.0} = {:.1} minutes, {each:.0} a month for each database. (Whoever drops the changes of a cooldown instead of
holding them waits for another one after each: one snapshot in {pause:.0} + {wait:.0} minutes, {} a month, and a last change that is never stored.)

A cooldown pays where few databases are busy, which is how most fleets are; it costs recovery point: up to the
cooldown instead of up to one interval. After its first hour the loop says what cooldowns of 5 minutes, 30 minutes and 1 hour would have cost.
",
        CHANGED * 100.0,
        count(float(DATABASES)),
        table(&["which databases change", "PUT a month", "S3"], Spread::ALL.map(row).to_vec()),
        1.0 - CHANGED,
        (1.0 - quiet) * 100.0,
        pause + quiet * wait,
        puts_usd(s3(), dropped * float(DATABASES)),
    )
}

fn storage() -> String {
    let object = ObjectCost { bytes: OBJECT_BYTES, requests: 1.0 };
    let forecast = Forecast { load: load(CHANGED, 0), spread: Spread::Random, object };
    let month = forecast.objects_a_month();
    let month_bytes = month * OBJECT_BYTES;
    let stored = |bytes: f64| usd(s3().storage_usd(&Held { bytes, ..Held::default() }));
    let standard = crate::retention::Rules::standard();
    let kept = forecast.held(&standard, 12.0);
    let all = forecast.held(&crate::retention::Rules::default(), 12.0);
    let refresh = Load { refresh_s: float(MONTH_S), ..load(0.0, 0) }.refreshes();
    format!(
        "## Storage

Without a `--keep` rule nothing is deleted: every snapshot stays.

    GB after a month = PUT a month × average object size

The {} test databases ({:.1} KiB on average) compress to {} an object: {:.2} GB, {} a month, for one snapshot of each.
{} such objects, a month of {} % per cycle, are {}: {} for S3 in the month after, and as much again for each
month that is kept. After a year that is {}, {} a month; with `--keep standard` it is at most {}, {} a month. For small
databases requests dominate, for large ones storage does.

A bucket rule that expires objects by age also expires the *only* snapshot of an idle database: use one only with
`--refresh`, at half its age or less, which costs

    PUT a month for refresh = databases × 30 days / refresh time

{} databases with `--refresh 30d`: {} PUT a month, {}.

Incomplete multipart uploads are billed until they are aborted. litesnap aborts its own; after a power cut only a bucket
rule does (`AbortIncompleteMultipartUpload`, 1 day).
",
        count(float(DATABASES)),
        RAW_BYTES / 1024.0,
        bytes(OBJECT_BYTES),
        float(DATABASES) * OBJECT_BYTES / GB,
        stored(float(DATABASES) * OBJECT_BYTES),
        count(month),
        CHANGED * 100.0,
        bytes(month_bytes),
        stored(month_bytes),
        bytes(all.bytes),
        stored(all.bytes),
        bytes(kept.bytes),
        stored(kept.bytes),
        count(float(DATABASES)),
        count(refresh),
        puts_usd(s3(), refresh),
    )
}

fn traffic() -> String {
    "## Traffic

Upload is free at all of these providers. `--limit-upload` is for the line, not for the bill. Restoring costs a GET a database
(in place two), and what the provider asks for download.
"
    .to_owned()
}

fn pack() -> String {
    let (part, puts) = (part(), 2.0 * float(CYCLES));
    let now = load(CHANGED, 0).snapshots(Spread::Random);
    format!(
        "## What packs would give

Not built: all changed databases of a cycle in one object, and one index beside it, are two PUTs a cycle whatever changes,
at most {} a month and {} on S3, where one object each takes {} and {}. Packs of more than {part} take a request for each part
besides; storage stays the same, and removing single snapshots from a pack would mean to write it anew.
",
        count(puts),
        puts_usd(s3(), puts),
        count(now),
        puts_usd(s3(), now),
    )
}

fn comparison() -> String {
    let lists = float(LITESTREAM_LISTS_A_DAY) * 30.0 * float(DATABASES);
    format!(
        "## For comparison

Litestream 0.5.16 was seen to make {} LIST requests a day for one idle database: {} of them would be {} a month, {} at S3's
list price, before anything is stored.
",
        count(float(LITESTREAM_LISTS_A_DAY)),
        count(float(DATABASES)),
        count(lists),
        usd(s3().requests_usd(&Usage { lists, ..Usage::default() })),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures worked out by hand, once: the document must go on saying them as long as prices and example do not change.
    #[test]
    fn the_document_says_what_was_worked_out_by_hand() {
        let document = document();
        for figure in [
            "| 1 % (1,000) | 86.4 million | $432 | $389 | $0 | $432 | $475 | $432 | $0 |",
            "| as claimed | 48,000 | $0.24 | $7.20 |",
            "| as it is | 2.88 million | $14.40 | $432 |",
            "| the same 1,000 again and again | 1.44 million | $7.20 |",
            "| any, at random | 75.3 million | $377 |",
            "| all in turn, each every 50 minutes | 86.4 million | $432 |",
            "$270 a month",
            "172,800 a month and $0.86 on S3",
            "$173,010",
            "100,000 PUT a month, $0.50",
        ] {
            assert!(document.contains(figure), "{figure} is not in:\n{document}");
        }
        assert!(!document.contains("NaN") && !document.contains("inf"));
    }
}
