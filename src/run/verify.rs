//! `litesnap verify`: whether what is stored could be restored.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use litesnap::clock::{Clock, MILLISECOND, SystemClock};
use litesnap::error::{Error, Failure, Reason};
use litesnap::layout::Timestamp;
use litesnap::names::Names;
use litesnap::store::credentials_hint;
use litesnap::verify::{Extent, VerifyOptions, VerifyReport};

use super::{access, environment, ignore_closed};
use crate::cli::Verify;
use crate::progress::Bar;

pub(crate) fn verify(args: &Verify, bar: &Bar) -> anyhow::Result<u8> {
    let options = VerifyOptions {
        names: Names::parse(&args.only.globs)?,
        extent: if args.all { Extent::All } else { Extent::Sample(args.sample) },
        seed: args.seed,
        mark: !args.no_mark,
        state_dir: args.state_dir.clone(),
    };
    let access = access(&args.store)?.moved_from(args.moved_from.as_deref());
    let now = Timestamp::from_ms(SystemClock.now() / MILLISECOND).unwrap_or(Timestamp::MIN);
    let report = litesnap::verify::verify(&access, &options, now, bar)?;

    let mut out = BufWriter::new(std::io::stdout().lock());
    let written = if args.json { report.write_json(&mut out) } else { report.write_text(&mut out) };
    written.and_then(|()| out.flush()).or_else(ignore_closed).context("cannot write to standard output")?;
    let code = ended(&report, &access.store.name, args)?;
    Ok(code.max(super::name_unmatched(&report.unmatched, &access.store.name)))
}

/// The exit code, or the error that is to be told besides.
fn ended(report: &VerifyReport, store: &str, args: &Verify) -> anyhow::Result<u8> {
    if let Some(signal) = report.interrupted {
        return Err(Error::Interrupted { signal }.into());
    }
    if let Some(failure) = &report.store_down {
        return Err(Error::Store { what: format!("cannot fetch from {store}: {failure}{}", hint(failure)) }.into());
    }
    match (report.is_empty(), report.counts.snapshots) {
        (false, _) => Ok(report.exit_code()),
        (true, 0) if args.only.globs.is_empty() => bail!("there is nothing to verify: {store} holds no snapshots"),
        (true, 0) => bail!("there is nothing to verify: no snapshot in {store} matches {}", args.only.globs.join(" ")),
        (true, _) if report.counts.removed_meanwhile > 0 => {
            bail!("nothing was verified: what was chosen was removed from {store} meanwhile; run it again")
        }
        (true, n) => {
            bail!("nothing was verified: all {n} snapshots in {store} are marked as bad; give --all to look again")
        }
    }
}

/// Where credentials may be the cause, how to hand them over.
fn hint(failure: &Failure) -> String {
    let env = environment();
    let home = env.iter().find(|(k, _)| k == "HOME").map(|(_, v)| PathBuf::from(v));
    let is_refused = failure.reason == Reason::StoreRefused;
    let hint = is_refused.then(|| credentials_hint(&env, home.as_deref())).flatten();
    hint.map(|hint| format!("; {hint}")).unwrap_or_default()
}
