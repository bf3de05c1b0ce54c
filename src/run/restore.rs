//! `litesnap restore`: databases back from the store.

use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use litesnap::access::Access;
use litesnap::clock::{Clock, MILLISECOND, SystemClock};
use litesnap::config::parse_at;
use litesnap::error::Error;
use litesnap::fs::{absolute, shown};
use litesnap::names::{Names, decoded};
use litesnap::restore::check::Check;
use litesnap::restore::plan::{Counts, Item};
use litesnap::restore::{
    RestoreOptions, RestoreReport, Target, ToDo, lies_in_store, restore as bring_back, restore_to,
};

use super::{access, ignore_closed};
use crate::cli::{CheckArg, Restore};
use crate::progress::Bar;

pub(crate) fn restore(args: Restore, bar: Bar) -> anyhow::Result<u8> {
    let options = options(&args)?;
    let access = access(&args.store)?.moved_from(args.moved_from.as_deref());
    outside_the_store(&options.target, &access)?;
    let to_stdout = args.output.as_deref() == Some(Path::new("-"));
    if to_stdout && !args.dry_run {
        let written = restore_to(&access, &options, &mut std::io::stdout().lock());
        return nothing_may_be(&args, written.map(|as_asked| u8::from(!as_asked)));
    }
    let observer = Arc::new(bar) as Arc<dyn litesnap::cycle::Observer>;
    let done = bring_back(&access, &options, &observer, |to_do| {
        if args.dry_run {
            return print_plan(to_do, &args, &options.target);
        }
        let Counts { databases, bytes, .. } = to_do.counts();
        log::info!("to be restored from {}: databases={databases} stored_bytes={bytes}", access.store.name);
        Ok(())
    });
    let report = match done {
        Ok(report) => report,
        Err(e) => return nothing_may_be(&args, Err(e)),
    };
    print_report(&report, &args)?;
    if report.hosts.len() > 1 {
        let hosts = report.hosts.iter().cloned().collect::<Vec<_>>().join(", ");
        log::warn!("what was restored is of {} hosts: {hosts}", report.hosts.len());
    }
    if let Some(failure) = &report.store_down {
        let what = format!("gave up on {} after {} databases: {failure}", access.store.name, report.restored);
        return Err(Error::Store { what }.into());
    }
    if let Some(signal) = report.interrupted.filter(|_| report.untried > 0) {
        return Err(Error::Interrupted { signal }.into());
    }
    Ok(report.exit_code())
}

fn options(args: &Restore) -> anyhow::Result<RestoreOptions> {
    let cwd = std::env::current_dir().context("cannot tell the current folder")?;
    let now_ms = SystemClock.now() / MILLISECOND;
    let target = match (&args.into, &args.output) {
        (Some(dir), _) if dir == Path::new("-") => {
            return Err(
                Error::Usage("--into names a folder; -o - writes one database to standard output".into()).into()
            );
        }
        (Some(dir), _) => Target::Into(absolute(dir, &cwd)),
        (None, Some(file)) if file.as_os_str().as_bytes().ends_with(b"/") => {
            let what = format!("-o names a file, and {} names a folder: give -o FILE or --into DIR", file.display());
            return Err(Error::Usage(what).into());
        }
        (None, Some(file)) if file == Path::new("-") => Target::File(file.clone()),
        (None, Some(file)) => Target::File(absolute(file, &cwd)),
        (None, None) => Target::InPlace,
    };
    Ok(RestoreOptions {
        names: Names::parse(&args.only.globs)?,
        at: args.at.as_deref().map(|at| parse_at(at, now_ms)).transpose().map_err(Error::Usage)?,
        target,
        include_deleted: args.include_deleted,
        include_bad: args.include_bad,
        force: args.force,
        skip_existing: args.if_db_not_exists,
        if_replica_exists: args.if_replica_exists,
        dry_run: args.dry_run,
        check: match args.check {
            None => Check::None,
            Some(CheckArg::Quick) => Check::Quick,
            Some(CheckArg::Full) => Check::Full,
        },
    })
}

/// Restored databases in the store's own folder would be foreign objects there, or be written over its own.
fn outside_the_store(target: &Target, access: &Access) -> anyhow::Result<()> {
    let (path, option) = match target {
        Target::Into(dir) => (dir, "--into"),
        Target::File(file) => (file, "-o"),
        // Each is looked at by itself.
        Target::InPlace => return Ok(()),
    };
    if !lies_in_store(path, &access.store) {
        return Ok(());
    }
    let what = format!(
        "{option} {} lies in the store {}: name a place outside it, such as /tmp/restored",
        shown(path),
        access.store.name
    );
    Err(Error::Usage(what).into())
}

/// An empty store is no error for a container that starts for the first time.
fn nothing_may_be(args: &Restore, done: litesnap::error::Result<u8>) -> anyhow::Result<u8> {
    match done {
        Err(Error::Nothing { what, is_empty: true }) if args.if_replica_exists => {
            log::info!("{what}; nothing to do");
            Ok(0)
        }
        other => Ok(other?),
    }
}

fn print_plan(to_do: &ToDo<'_>, args: &Restore, target: &Target) -> litesnap::error::Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut written = Ok(());
    to_do.each(|item| {
        if written.is_ok() {
            written = writeln!(out, "{}", planned_line(&item, args.json, target));
        }
    })?;
    written.and_then(|()| out.flush()).or_else(ignore_closed).map_err(|source| Error::Io {
        attempt: "write to",
        path: "standard output".into(),
        source,
    })
}

fn planned_line(item: &Item, json: bool, target: &Target) -> String {
    let to = match target {
        Target::Into(dir) => dir.join(&item.target),
        Target::InPlace => item.target.clone(),
        Target::File(file) => file.clone(),
    };
    let (name, time) = (decoded(&item.name), item.time.to_rfc3339());
    if json {
        return serde_json::json!({
            "database": name.to_string_lossy(),
            "time": time,
            "key": item.wanted.location.key,
            "stored_bytes": item.wanted.size,
            "target": to.to_string_lossy(),
        })
        .to_string();
    }
    format!("{} of {time} -> {} ({} bytes stored)", shown(&name), shown(&to), item.wanted.size)
}

fn print_report(report: &RestoreReport, args: &Restore) -> anyhow::Result<()> {
    if args.dry_run {
        log::info!("nothing was restored: {}", report.plan_line());
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    let written = match (args.json, args.dry_run) {
        (true, false) => report.write_json(&mut out),
        (false, false) => report.write_text(&mut out),
        (_, true) => report.write_outcomes(&mut out, args.json),
    };
    written.and_then(|()| out.flush()).or_else(ignore_closed).context("cannot write to standard output")
}
