//! `litesnap status`: from the state directory, or from the heartbeats in a store.

mod text;

use std::io::{BufWriter, StdoutLock, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use litesnap::clock::{Clock, MILLISECOND, SystemClock};
use litesnap::config::default_state_dir;
use litesnap::error::Error;
use litesnap::fs::shown;
use litesnap::state::{Look, states_in};
use litesnap::status::{Status, remote};
use litesnap::store::Store;
use litesnap::timestamp::Timestamp;

use super::{access, environment, ignore_closed, print, store_options};
use crate::cli::{self, StoreArgs};

pub(crate) fn status(args: &cli::Status) -> anyhow::Result<u8> {
    let asks_store = args.from_store || args.host.is_some();
    let Some(store) = args.store() else {
        if asks_store {
            let flag = if args.from_store { "--from-store" } else { "--host" };
            return Err(Error::Usage(format!(
                "{flag} asks a store: give --store, such as --store s3://my-bucket/backups"
            ))
            .into());
        }
        let dir = state_dir(args)?;
        return local(args, &all_in(&dir)?);
    };
    if !asks_store && let Some(state) = state_of(args, store)? {
        return local(args, &[state]);
    }
    hosts(args, store)
}

fn state_dir(args: &cli::Status) -> anyhow::Result<PathBuf> {
    let env = environment();
    let var = |name: &str| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
    match &args.state_dir {
        Some(dir) => Ok(dir.clone()),
        None => Ok(default_state_dir(var, nix::unistd::geteuid().is_root())?),
    }
}

fn all_in(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let states = states_in(dir)?;
    if states.is_empty() {
        let what = format!(
            "there is no state in {}: give the --state-dir that replicate was given, or --store URL to ask a store for heartbeats",
            shown(dir)
        );
        return Err(Error::Usage(what).into());
    }
    Ok(states)
}

/// The state of `store` on this host, if there is one.
fn state_of(args: &cli::Status, store: &StoreArgs) -> anyhow::Result<Option<PathBuf>> {
    let described = Store::describe(&store_options(store), &environment())?;
    // Where there is no place for a state, there is none.
    let Ok(dir) = state_dir(args) else { return Ok(None) };
    let path = litesnap::status::state_path(&dir, &described.identity);
    Ok(path.exists().then_some(path))
}

fn now_ms() -> i64 {
    SystemClock.now() / MILLISECOND
}

/// Tells about each of `states`; the worst exit code.
fn local(args: &cli::Status, states: &[PathBuf]) -> anyhow::Result<u8> {
    let (mut code, mut unreadable) = (0, None);
    for state in states {
        let told =
            Status::read(state, now_ms()).map_err(anyhow::Error::from).and_then(|status| one(args, state, &status));
        match told {
            Ok(one) => code = code.max(one),
            Err(e) if e.downcast_ref::<Error>().is_none() => return Err(e),
            // Named now, for others may be told about; the last one ends the command.
            Err(e) => {
                if let Some(before) = unreadable.replace(e) {
                    log::error!("{before:#}");
                }
            }
        }
    }
    match unreadable {
        None => Ok(code),
        Some(e) if states.len() == 1 => Err(e),
        Some(e) => {
            log::error!("{e:#}");
            Ok(2)
        }
    }
}

/// Tells about one state, which `status` was read from.
fn one(args: &cli::Status, state: &Path, status: &Status) -> anyhow::Result<u8> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let told = match args.stale {
        None if args.json => writeln!(out, "{}", serde_json::to_string(status)?).map(|()| 0).map_err(Into::into),
        None => out.write_all(text::status(status).as_bytes()).map(|()| 0).map_err(Into::into),
        Some(limit) => stale(&mut out, args, (state, status), limit),
    };
    let told = told.and_then(|code| Ok(out.flush().map(|()| code)?));
    told.or_else(|e| match e.downcast::<std::io::Error>() {
        Ok(e) => ignore_closed(e).map(|()| 1).context("cannot write to standard output"),
        Err(e) => Err(e),
    })
}

/// Lists what is stale, while it is read; nothing is held.
fn stale(
    out: &mut BufWriter<StdoutLock<'_>>,
    args: &cli::Status,
    (state, status): (&Path, &Status),
    limit: Duration,
) -> anyhow::Result<u8> {
    let (look, unknown) = (Look::open(state)?, status.unknown(limit));
    let (before_s, after_s) = status.bounds(limit);
    let mut n = 0_u64;
    if args.json {
        let head = serde_json::to_string(status)?;
        let limit_s = limit.as_secs_f64();
        let unknown = serde_json::to_string(&unknown)?;
        write!(
            out,
            "{},\"stale_after_s\":{limit_s},\"unknown\":{unknown},\"stale\":[",
            head.strip_suffix('}').unwrap_or(&head)
        )?;
    } else {
        writeln!(out, "{}", text::head(status))?;
    }
    look.each_stale::<anyhow::Error>(before_s, after_s, |one| {
        let comma = if n == 0 { "" } else { "," };
        n += 1;
        if args.json {
            write!(out, "{comma}{}", text::stale_json(&one, status))?;
        } else {
            writeln!(out, "{}", text::stale(&one, status))?;
        }
        Ok(())
    })?;
    if args.json {
        writeln!(out, "]}}")?;
    } else {
        writeln!(out, "{}", text::stale_end(n, unknown.as_deref(), limit))?;
    }
    Ok(u8::from(n > 0 || unknown.is_some()))
}

/// Tells about the hosts that have heartbeats in the store.
fn hosts(args: &cli::Status, store: &StoreArgs) -> anyhow::Result<u8> {
    let access = access(store)?;
    let now = Timestamp::from_ms(now_ms())
        .ok_or_else(|| Error::Usage("the clock of this host is before 1970: set it first".into()))?;
    let hosts = remote::hosts(&access, args.host.as_deref(), now)?;
    let (mut text, mut code) = (String::new(), 0);
    if !args.json {
        text += &format!("store {}: the newest heartbeat of each host\n", access.store.name);
    }
    for host in &hosts {
        let complaints = args.stale.map(|limit| host.complaints(limit));
        code = code.max(u8::from(complaints.as_ref().is_some_and(|all| !all.is_empty())));
        text += &if args.json { text::host_json(host, complaints) + "\n" } else { text::host(host, complaints) };
    }
    print(&text)?;
    if hosts.is_empty() {
        let whose = args.host.as_ref().map(|host| format!(" of {}", shown(Path::new(host)))).unwrap_or_default();
        log::error!(
            "there is no heartbeat{whose} in {}: nothing is known of any loop; replicate --heartbeat-object 1h writes them",
            access.store.name
        );
        return Ok(1);
    }
    Ok(code)
}
