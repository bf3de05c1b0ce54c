//! `litesnap prune` and `litesnap purge`.

use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use litesnap::clock::{Clock, MILLISECOND, SystemClock};
use litesnap::error::{Error, Reason};
use litesnap::fs::shown;
use litesnap::layout::KeyKind;
use litesnap::names::{Names, decoded};
use litesnap::prune::{Decided, Heartbeats, Observer, PruneOptions, PruneReport};
use litesnap::retention::{Reasons, Verdict};
use litesnap::state::Beside;
use litesnap::store::credentials_hint;
use litesnap::timestamp::Timestamp;
use parking_lot::Mutex;

use super::{access, environment, ignore_closed, print};
use crate::cli::{Prune, Purge};

pub(crate) fn prune(args: &Prune) -> anyhow::Result<u8> {
    let options = PruneOptions {
        names: Names::parse(&args.only.globs)?,
        rules: args.keep.rules(),
        deleted_after: args.deleted_after,
        trust_clock: args.trust_clock,
        // Whoever names databases means these alone.
        heartbeats: if args.only.globs.is_empty() { Heartbeats::All } else { Heartbeats::None },
        dry_run: args.dry_run,
        delete_rate: args.delete_rate,
    };
    if options.rules.is_empty() && options.deleted_after.is_none() {
        let what = "no rule says what to keep: give for example --keep standard, or --keep-last 3 --keep-daily 30";
        return Err(Error::Usage(what.into()).into());
    }
    let now = Timestamp::from_ms(SystemClock.now() / MILLISECOND)
        .ok_or_else(|| Error::Usage("the clock of this host is before 1970: set it first".into()))?;
    let access = access(&args.store)?;
    let told = Told { out: Mutex::new((BufWriter::new(std::io::stdout()), Ok(()))), args };
    let report = litesnap::prune::prune(&access, &options, now, &told)?;
    told.finish()?;
    print(&if args.json { report.json() + "\n" } else { report.text() })?;
    let unmatched = super::name_unmatched(&report.unmatched, &access.store.name);
    ended(&report, &access.store.name).map(|code| code.max(unmatched))
}

/// The exit code, or the error that ended it.
fn ended(report: &PruneReport, store: &str) -> anyhow::Result<u8> {
    if let Some(signal) = report.interrupted {
        return Err(Error::Interrupted { signal }.into());
    }
    let Some(failure) = &report.store_down else { return Ok(report.exit_code()) };
    let env = environment();
    let home = std::env::home_dir();
    let hint = (failure.reason == Reason::StoreRefused).then(|| credentials_hint(&env, home.as_deref())).flatten();
    let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
    Err(Error::Store { what: format!("cannot delete from {store}: {failure}{hint}") }.into())
}

/// Prints the decisions of a dry run while they are made.
#[derive(Debug)]
struct Told<'a> {
    out: Mutex<(BufWriter<std::io::Stdout>, std::io::Result<()>)>,
    args: &'a Prune,
}

impl Told<'_> {
    fn finish(self) -> anyhow::Result<()> {
        let (mut out, written) = self.out.into_inner();
        written.and_then(|()| out.flush()).or_else(ignore_closed).context("cannot write to standard output")
    }
}

impl Observer for Told<'_> {
    fn decided(&self, decided: &Decided<'_>) {
        if !self.args.dry_run {
            return;
        }
        let mut held = self.out.lock();
        let (out, written) = &mut *held;
        if written.is_ok() {
            *written = writeln!(out, "{}", line(decided, self.args.json));
        }
    }
}

fn line(decided: &Decided<'_>, json: bool) -> String {
    let (name, time) = (decoded(decided.name), decided.time.to_rfc3339());
    let kind = match decided.kind {
        KeyKind::Snapshot => "snapshot",
        KeyKind::BadMarker => "marker",
        KeyKind::Tombstone => "tombstone",
    };
    let kept: Option<Reasons> = if let Verdict::Keep(reasons) = decided.verdict { Some(reasons) } else { None };
    if json {
        return serde_json::json!({
            "database": name.to_string_lossy(),
            "time": time,
            "kind": kind,
            "keep": kept.is_some(),
            "reasons": kept.into_iter().flat_map(Reasons::words).collect::<Vec<_>>(),
            "gone": decided.is_erased,
        })
        .to_string();
    }
    let verdict = match kept {
        Some(reasons) => format!("keep {reasons}"),
        None => format!("remove{}", if decided.is_erased { " (gone from its host)" } else { "" }),
    };
    let kind = if kind == "snapshot" { String::new() } else { format!(" {kind}") };
    format!("{}{kind} {time} {verdict}", shown(&name))
}

pub(crate) fn purge(args: &Purge) -> anyhow::Result<u8> {
    let access = access(&args.store)?;
    // Before anything is removed: a state that is none is a mistake of who asks.
    let state = args.state_dir.as_ref().map(|dir| Beside::expect(dir, access.store.identity())).transpose()?;
    let report = litesnap::prune::purge(&access, &args.name, args.yes, state.as_ref(), &litesnap::cycle::Silent)?;
    let (name, store) = (shown(Path::new(&args.name)).to_string(), &access.store.name);
    if report.holdings.is_empty() {
        if args.json {
            print(&(report.json() + "\n"))?;
        }
        let asked = report
            .requested
            .filter(|n| *n > 0)
            .map(|_| "; the state believes it stored, and was asked to store it again");
        let asked = asked.unwrap_or_default();
        anyhow::bail!(
            "there is no database {name} in {store}: give its name as `litesnap list` shows it, or its prefix as `litesnap list --json` does{asked}"
        );
    }
    if args.json {
        print(&(report.json() + "\n"))?;
    } else if args.yes {
        print(&report.removal.text())?;
        if let Some(1..) = report.requested {
            print("it is to be stored again: a running loop does it in its next cycle, else the next run\n")?;
        }
    } else {
        print(&format!("{name}: {}\n", report.holdings.describe()))?;
    }
    if !args.yes {
        return Err(Error::Usage(format!("nothing was removed: to erase all of {name}, add --yes")).into());
    }
    if args.state_dir.is_none() && report.exit_code() == 0 {
        log::warn!(
            "if {name} is still on its host, it is stored again only when its content changes: --state-dir has it stored in the next cycle"
        );
    }
    ended(&report.removal, store)
}
