//! `litesnap explain`: what backing up would take and cost, for people and programs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use litesnap::clock::SystemClock;
use litesnap::config::{Config, Schedule, default_state_dir};
use litesnap::cost::{analysis, bytes, count, model::Spread, usd};
use litesnap::detect::Pace;
use litesnap::error::Error;
use litesnap::explain::{Assumed, Explanation, FirstRun, Found, Month, MonthCharge};
use litesnap::fs::shown;
use litesnap::layout::Template;
use litesnap::pattern::Excludes;

use super::replicate::{ended, unmatched};
use super::{environment, print, store_options};
use crate::cli::Explain;

pub(crate) fn explain(args: &Explain) -> anyhow::Result<u8> {
    if args.cost_analysis {
        print(&analysis::document())?;
        return Ok(0);
    }
    let env = environment();
    let config = config(args, &env)?;
    let spreads = args.spread.map_or(Spread::ALL.to_vec(), |spread| vec![spread.into()]);
    let assumed = Assumed { rate: args.rate, round_trip: args.round_trip, changed: args.change_rate.as_f64(), spreads };
    let (explained, mut report) = litesnap::explain::explain(&config, &assumed, &env, Arc::new(SystemClock))?;
    report.unmatched = unmatched(&report, &config);
    if report.databases == 0 && report.failed() == 0 {
        // Says which pattern matches nothing; what is left are files that are something else.
        ended(&report)?;
        return Err(nothing_to_store(&explained.found));
    }
    let json = || serde_json::to_string(&explained).context("cannot write this as JSON");
    print(&if args.json { json()? + "\n" } else { text(&explained, &config) })?;
    for named in report.failures.named() {
        log::warn!("{}: {}", shown(&named.path), named.failure);
    }
    ended(&report)
}

fn nothing_to_store(found: &Found) -> anyhow::Error {
    let (others, empty) = (found.not_databases, found.empty);
    let what = format!("no database found: of the files that match, {others} are none and {empty} are empty");
    Error::Usage(format!("{what}; give another pattern, such as '/data/**/*.db'")).into()
}

fn config(args: &Explain, env: &[(String, String)]) -> anyhow::Result<Config> {
    let cwd = std::env::current_dir().context("cannot tell the current folder")?;
    let var = |name: &str| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
    let state_dir = match &args.state_dir {
        Some(dir) => dir.clone(),
        None => default_state_dir(var, nix::unistd::geteuid().is_root())?,
    };
    let seconds =
        |time: Option<Duration>| time.map_or(0, |t| u32::try_from(t.as_millis().div_ceil(1000)).unwrap_or(u32::MAX));
    let config = Config {
        patterns: super::file::patterns(&args.patterns, &cwd)?,
        excludes: Excludes::parse(&args.exclude, &cwd)?,
        template: Template::parse(&args.key_template)?,
        host: super::replicate::host_or_system(args.host.as_deref())?,
        state_dir: litesnap::fs::absolute(&state_dir, &cwd),
        interval: args.interval,
        concurrency: args.store.concurrency,
        memory_limit: args.memory_limit,
        pace: Pace { cooldown_s: seconds(args.cooldown), refresh_s: seconds(args.refresh) },
        upkeep: Schedule { keep: args.keep.rules(), verify: None },
        ..Config::new(store_options(&args.store))
    };
    config.check()?;
    Ok(config)
}

fn text(explained: &Explanation, config: &Config) -> String {
    let mut text = found(&explained.found);
    if let Some(run) = &explained.first_run {
        text += &format!("\nThe first run, to {}\n\n", explained.store);
        text += &first_run(run);
        text += &format!("\n{}\n\n", title(explained, config));
        text += &months(&explained.months);
        text += &format!("\n{}", notes(explained, config));
    }
    text
}

fn found(found: &Found) -> String {
    let all = bytes_of(found.main_bytes + found.wal_bytes);
    let (main, wal) = (bytes_of(found.main_bytes), bytes_of(found.wal_bytes));
    let mut rows = vec![("databases", format!("{}, {all}: main files {main}, -wal {wal}", count_of(found.databases)))];
    if let Some(largest) = &found.largest {
        let [p50, p99, max] = [found.p50_bytes, found.p99_bytes, found.largest_bytes].map(bytes_of);
        rows.push(("sizes", format!("half up to {p50}, 99 in 100 up to {p99}, the largest {max}: {}", shown(largest))));
    }
    if found.not_databases > 0 {
        let named = found.not_databases_named.iter().map(|path| shown(path).to_string()).collect::<Vec<_>>().join(", ");
        let more = if found.not_databases > 3 { ", …" } else { "" };
        rows.push(("no database", format!("{} files that match: {named}{more}", count_of(found.not_databases))));
    }
    if found.empty > 0 {
        rows.push(("empty", format!("{} files that match", count_of(found.empty))));
    }
    if !found.refused.is_empty() {
        let refused = found.refused.iter().map(|(reason, n)| format!("{reason} {n}")).collect::<Vec<_>>().join(", ");
        rows.push(("not stored", refused));
    }
    for by_pattern in &found.patterns {
        rows.push((
            "pattern",
            format!("{}: {}", shown(Path::new(&by_pattern.pattern)), count_of(by_pattern.databases)),
        ));
        let example = |e: &litesnap::explain::Example| ("", format!("  {} -> {}", shown(&e.path), e.key));
        rows.extend(by_pattern.examples.iter().map(example));
    }
    listed(&rows)
}

fn first_run(run: &FirstRun) -> String {
    let sample = &run.sample;
    let share = format!("{:.1} % of the main files", sample.ratio * 100.0);
    let of = match (sample.databases, sample.is_complete) {
        (0, _) => "nothing could be read: taken to be what is read".to_owned(),
        (n, true) => format!("{share}; all {n} were read and compressed"),
        (n, false) => format!(
            "{share} (± {:.1}); estimated from {} of {n} databases, drawn by size, read and compressed",
            sample.ratio_error * 100.0,
            bytes_of(sample.read_bytes)
        ),
    };
    let round_trip = humantime::format_duration(Duration::from_secs_f64(run.round_trip_s));
    listed(&[
        ("to read", format!("{} at most", bytes_of(run.read_bytes))),
        ("to send", format!("{} in {} requests: {of}", bytes(run.object_bytes), count_of(run.requests))),
        (
            "time",
            format!(
                "{} at least: {} to send at {}/s (--rate), {} for round trips of {round_trip} (--round-trip), {} at once",
                time(run.at_least_s),
                time(run.send_s),
                bytes_of(run.rate),
                time(run.wait_s),
                run.concurrency
            ),
        ),
    ])
}

fn title(explained: &Explanation, config: &Config) -> String {
    let changed = explained.months.first().map_or(0.0, |month| month.changed);
    let often = |seconds: u32| humantime::format_duration(Duration::from_secs(seconds.into())).to_string();
    let mut title = format!(
        "A month of 30 days, if {} % of the databases change in each {} (--change-rate)",
        // As typed: it has two decimals at most.
        (changed * 10_000.0).round() / 100.0,
        humantime::format_duration(config.interval)
    );
    title += &match config.pace.cooldown_s {
        0 => ", no cooldown".to_owned(),
        seconds => format!(", cooldown {}", often(seconds)),
    };
    if config.pace.refresh_s > 0 {
        title += &format!(", refresh {}", often(config.pace.refresh_s));
    }
    title + &format!(", keep {}", config.upkeep.keep.describe())
}

/// What a line of the table says, and of which charge.
type Line = (&'static str, fn(&MonthCharge) -> f64);

fn months(months: &[Month]) -> String {
    let mut rows =
        vec![strings(&["which databases change", "requests", "objects", "stored after 1 month", "12 months"])];
    rows.extend(months.iter().map(|month| {
        let who = month.spread.describe().to_owned();
        let (requests, objects) = (count(month.usage.puts), count(month.objects));
        vec![who, requests, objects, bytes(month.held_bytes_1), bytes(month.held_bytes_12)]
    }));
    let mut text = table(&rows);
    text.push('\n');
    let mut rows = Vec::new();
    for month in months {
        let head = [format!("USD, {}", month.spread.describe())];
        rows.push(head.into_iter().chain(month.providers.iter().map(|c| c.provider.to_owned())).collect());
        let lines: [Line; 3] = [
            ("  requests a month", |c| c.requests_usd),
            ("  storage a month, after 1 month", |c| c.storage_usd_1),
            ("  storage a month, after 12 months", |c| c.storage_usd_12),
        ];
        for (what, charge) in lines {
            rows.push(std::iter::once(what.to_owned()).chain(month.providers.iter().map(|c| usd(charge(c)))).collect());
        }
    }
    text + &table(&rows)
}

fn notes(explained: &Explanation, config: &Config) -> String {
    let keep = if config.upkeep.keep.is_empty() {
        "Nothing is removed without a --keep rule."
    } else {
        "With --keep storage is at most this; listing and deleting once a day come on top (DELETE is free)."
    };
    format!(
        "List prices of {}, first tier; free allowances are not deducted, Wasabi bills at least 1 TB and 90 days. Databases that \
         change are taken to be of average size. {keep}\nHow this is worked out: litesnap explain --cost-analysis\n",
        explained.prices_of
    )
}

fn strings(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

fn bytes_of(n: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "rounded to three digits anyway")]
    bytes(n as f64)
}

fn count_of(n: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "rounded to three digits above a million")]
    count(n as f64)
}

/// `30 ms`, `6.8 s`, `12 s`, `3h 5m`.
fn time(seconds: f64) -> String {
    if seconds < 0.9995 {
        return format!("{:.0} ms", seconds * 1000.0);
    }
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    if seconds < 59.5 {
        return format!("{seconds:.0} s");
    }
    let whole = Duration::try_from_secs_f64(seconds.round()).unwrap_or(Duration::from_secs(u32::MAX.into()));
    // Days and seconds together are more than anybody wants to know.
    let text = humantime::format_duration(whole).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Lines of a name and what it stands for, one below the other.
fn listed(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, what)| format!("{name:width$}  {what}").trim_end().to_owned() + "\n").collect()
}

/// The first column to the left, all others to the right.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| rows.iter().filter_map(|row| Some(row.get(at)?.chars().count())).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let cell = |(at, cell): (usize, &String)| match at {
        0 => format!("{cell:<w$}", w = widths[0]),
        at => format!("  {cell:>w$}", w = widths[at]),
    };
    rows.iter().map(|row| row.iter().enumerate().map(cell).collect::<String>().trim_end().to_owned() + "\n").collect()
}
