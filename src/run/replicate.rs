//! `litesnap replicate`: the loop, one pass, or what one would do.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use litesnap::clock::SystemClock;
use litesnap::config::{Config, Schedule, default_state_dir};
use litesnap::control::Control;
use litesnap::detect::Pace;
use litesnap::error::{Error, Reason};
use litesnap::fs::shown;
use litesnap::heartbeats::Heart;
use litesnap::layout::Template;
use litesnap::pattern::Excludes;
use litesnap::plan::{Planned, dry_run};
use litesnap::replicate::{REPEAT, Replicator, store_error};
use litesnap::report::CycleReport;
use litesnap::store::{StoreOptions, credentials_hint};
use litesnap::upkeep::Upkeep;

use super::telling::Teller;
use super::{environment, ignore_closed, print, store_options};
use crate::cli::Replicate;
use crate::progress::Bar;
use crate::signals;

pub(crate) fn replicate(args: Replicate, bar: Bar) -> anyhow::Result<u8> {
    let env = environment();
    super::file::warn();
    let config = config(&args, &env)?;
    if args.dry_run {
        return plan(config, &env, &args);
    }
    let control = Arc::new(Control::default());
    let mut replicator =
        Replicator::open(config.clone(), &env, Arc::new(SystemClock), Arc::clone(&control), Arc::new(bar))?;
    signals::listen(replicator.runtime(), &control).context("cannot listen for signals")?;
    if args.once {
        let teller = Teller::start(&config, None, replicator.monitor(), &control, &env)?;
        once(&mut replicator, &config, &env, &args, &teller)
    } else {
        let teller = Teller::start(&config, config.telling.listen, replicator.monitor(), &control, &env)?;
        forever(&mut replicator, &config, &env, &teller)
    }
}

pub(super) fn config(args: &Replicate, env: &[(String, String)]) -> anyhow::Result<Config> {
    let cwd = std::env::current_dir().context("cannot tell the current folder")?;
    let var = |name: &str| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
    let state_dir = match &args.state_dir {
        Some(dir) => dir.clone(),
        None => default_state_dir(var, nix::unistd::geteuid().is_root())?,
    };
    let seconds = |time: Option<std::time::Duration>| {
        time.map_or(0, |t| u32::try_from(t.as_millis().div_ceil(1000)).unwrap_or(u32::MAX))
    };
    let config = Config {
        patterns: super::file::patterns(&args.patterns, &cwd)?,
        excludes: Excludes::parse(&args.exclude, &cwd)?,
        store: StoreOptions {
            storage_class: args.put.storage_class.clone(),
            sse_kms_key_id: args.put.sse_kms_key_id.clone(),
            fsync_each: args.put.fsync_each,
            ..store_options(&args.store)
        },
        template: Template::parse(&args.key_template)?,
        host: host_or_system(args.host.as_deref())?,
        state_dir: litesnap::fs::absolute(&state_dir, &cwd),
        interval: args.interval,
        concurrency: args.store.concurrency,
        memory_limit: args.memory_limit,
        pace: Pace { cooldown_s: seconds(args.cooldown), refresh_s: seconds(args.refresh) },
        limit_upload: args.limit_upload.unwrap_or(0),
        always_sqlite: args.always_sqlite,
        max_gone: args.max_gone,
        upkeep: Schedule { keep: args.keep.rules(), verify: args.verify_every.map(|every| (every, args.sample)) },
        telling: args.telling.telling(),
    };
    config.check()?;
    // Not left to clap, for which a time that the file gives is none.
    if args.verify_every.is_none() && super::file::is_typed("sample") {
        return Err(Error::Usage("--sample says nothing by itself: give --verify-every, such as 1d, too".into()).into());
    }
    Ok(config)
}

/// The name given for this host, else the system's.
pub(super) fn host_or_system(given: Option<&str>) -> anyhow::Result<String> {
    let host = match given {
        Some(host) => host.to_owned(),
        None => nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .ok_or_else(|| Error::Usage("cannot tell this host's name: give --host NAME".into()))?,
    };
    if host.is_empty() || host.contains(['/', '\0']) {
        return Err(Error::Usage(format!("'{host}' is no host name: give --host NAME, such as --host web-1")).into());
    }
    Ok(host)
}

fn once(
    replicator: &mut Replicator,
    config: &Config,
    env: &[(String, String)],
    args: &Replicate,
    teller: &Teller,
) -> anyhow::Result<u8> {
    if config.telling.listen.is_some() {
        log::warn!("--listen is for the loop: with --once nothing is answered");
    }
    let mut report = replicator.run_cycle(false);
    if !args.allow_empty {
        report.unmatched = unmatched(&report, config);
    }
    let beat = teller.after(&report);
    print(&if args.json { report.json() + "\n" } else { report.text() })?;
    if report.interrupted.is_none() {
        replicator.heart(env).map(|heart| heart.run_due());
    }
    let (held, named) = replicator.held(20);
    if held > 0 {
        let named: Vec<String> = named.iter().map(|p| shown(p).to_string()).collect();
        log::warn!("{held} changed databases wait for the end of their cooldown: {}", named.join(", "));
    }
    if let Some(signal) = report.interrupted {
        return Err(Error::Interrupted { signal }.into());
    }
    if let Some(error) = store_error(&report, replicator.store_name()) {
        return Err(match (error, hint(&report, env)) {
            (Error::Store { what }, Some(hint)) => Error::Store { what: format!("{what}; {hint}") }.into(),
            (error, _) => error.into(),
        });
    }
    let code = ended(&report)?;
    let upkeep = replicator.upkeep(env)?.map_or(0, |upkeep| upkeep.run_due());
    beat.wait();
    Ok(code.max(upkeep))
}

/// Patterns that match nothing: most often a typing error. Below a folder only databases count.
pub(super) fn unmatched(report: &CycleReport, config: &Config) -> Vec<String> {
    let nothing = report.databases == 0 && report.failures.by_reason().is_empty() && report.errors.is_empty();
    let none = config.patterns.iter().zip(&report.matched);
    let none = none.filter(|(pattern, matched)| !**matched || (nothing && pattern.magic_only()));
    none.map(|(pattern, _)| {
        let root = pattern.root();
        let why = if root.is_dir() { String::new() } else { format!(" (there is no folder {})", shown(root)) };
        pattern.text().to_owned() + &why
    })
    .collect()
}

/// The exit code, or the error that is the only thing wrong.
pub(super) fn ended(report: &CycleReport) -> anyhow::Result<u8> {
    let code = report.exit_code();
    if report.unmatched.is_empty() {
        return Ok(code);
    }
    let what = format!("nothing matches {}", report.unmatched.join(", nor "));
    if code != 2 {
        log::error!("{what}");
        return Ok(code);
    }
    Err(Error::Usage(format!("{what}: check it with --dry-run, or give --allow-empty if there may be none")).into())
}

/// Where credentials may be the cause of the store being down, how to hand them over.
fn hint(report: &CycleReport, env: &[(String, String)]) -> Option<String> {
    let refused = report.store_down.as_ref().is_some_and(|f| f.reason == Reason::StoreRefused);
    let home = env.iter().find(|(k, _)| k == "HOME").map(|(_, v)| PathBuf::from(v));
    refused.then(|| credentials_hint(env, home.as_deref())).flatten()
}

fn forever(
    replicator: &mut Replicator,
    config: &Config,
    env: &[(String, String)],
    teller: &Teller,
) -> anyhow::Result<u8> {
    let (known, _) = replicator.known();
    log::info!(
        "replicating {} to {} every {}; the state {} knows {known} databases",
        config.patterns.iter().map(|p| p.text().to_owned()).collect::<Vec<_>>().join(" "),
        replicator.store_name(),
        humantime::format_duration(config.interval),
        replicator.state_path().display(),
    );
    for doubtful in config.doubtful() {
        log::warn!("{doubtful}");
    }
    if config.upkeep.keep.is_empty() {
        log::info!("{}", piling_up(replicator.objects_per_day()));
    } else {
        log::info!("removing once a day what this does not keep: {}", config.upkeep.keep.describe());
    }
    let beside = replicator.upkeep(env)?.map(Upkeep::start).transpose()?;
    let heart = replicator.heart(env).map(Heart::start).transpose()?;
    let mut hinted = false;
    let mut said_down: Option<Instant> = None;
    replicator.run_forever(|report| {
        // That the store is down is said once and then every half minute, however short the interval.
        let again = report.store_down.is_some() && said_down.is_some_and(|said| said.elapsed() < REPEAT);
        if report.store_down.is_none() {
            said_down = None;
        } else if !again {
            said_down = Some(Instant::now());
        }
        if report.is_eventful() && !again {
            log::info!("{}", report.line());
        } else {
            log::debug!("{}", report.line());
        }
        if let Some(hint) = hint(report, env).filter(|_| !hinted) {
            log::error!("{hint}");
            hinted = true;
        }
        teller.after(report);
        if report.changed > 0 {
            crate::memory::return_freed();
        }
    });
    drop((beside, heart));
    log::info!("stopped: all that is stored is recorded");
    Ok(0)
}

/// What happens in a store that nobody prunes.
fn piling_up(objects_per_day: Option<f64>) -> String {
    let how_many = objects_per_day.map_or_else(String::new, |n| format!(": about {n:.0} objects a day pile up"));
    format!("nothing is removed from the store{how_many} (litesnap prune, or --keep standard)")
}

fn plan(config: Config, env: &[(String, String)], args: &Replicate) -> anyhow::Result<u8> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut written = Ok(());
    let checked = config.clone();
    let mut report = dry_run(config, env, Arc::new(SystemClock), |planned| {
        if written.is_ok() {
            written = writeln!(out, "{}", planned_line(&planned, args.json));
        }
    })?;
    written.and_then(|()| out.flush()).or_else(ignore_closed).context("cannot write to standard output")?;
    drop(out);
    let summary = format!("would store {} of {} databases", report.changed, report.databases);
    let more = [(report.held, "held back"), (report.failed(), "that cannot be")];
    let more = more.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(", {n} {what}")).collect::<String>();
    log::info!("{summary}{more}");
    if !args.allow_empty {
        report.unmatched = unmatched(&report, &checked);
    }
    ended(&report)
}

fn planned_line(planned: &Planned, json: bool) -> String {
    let path = shown(&planned.path);
    match (&planned.key, json) {
        (Ok(key), false) => format!("{path} -> {key} ({})", planned.why),
        (Err(why_not), false) => format!("{path}: {why_not}"),
        (key, true) => serde_json::json!({
            "path": planned.path.to_string_lossy(),
            "key": key.as_ref().ok(),
            "error": key.as_ref().err(),
            "why": planned.why,
        })
        .to_string(),
    }
}
