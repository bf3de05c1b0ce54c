//! `litesnap status`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use litesnap::config::parse_duration;

use super::StoreArgs;

const AFTER: &str = "Without --store, every state in the state directory is told about, and nothing is asked of any store. With --store, \
the state of that store; if this host has none, or with --from-store, the heartbeats in it (replicate --heartbeat-object).

What changed after the last good cycle is known to nobody: if that is longer ago than --stale and one interval, it is said and \
counts as stale. Two loops under one host name in one store share their heartbeats: give each its own --host.

Exit codes: 0 told, and nothing is stale; 1 something is stale, or there is no heartbeat; 2 usage, no state, or a state that \
cannot be read; 3 the store could not be reached or refused us; 130/143 interrupted.";

/// What the store is called where none is given: nobody can type it, not even an empty variable.
const NO_STORE: &str = "\0";

#[derive(Debug, Args)]
#[command(after_help = AFTER)]
#[command(mut_arg("store", |store| store.required(false).default_value(NO_STORE).hide_default_value(true)))]
pub(crate) struct Status {
    // Not an Option of it: a variable for any of its options would then ask for a store.
    #[command(flatten)]
    pub(crate) maybe_store: StoreArgs,

    /// Where it is remembered what is stored [default: as for replicate]
    #[arg(long, value_name = "DIR", env = "LITESNAP_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,

    /// List every database with a change that has not been stored for longer than this; exit code 1 if there is any
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) stale: Option<Duration>,

    /// Ask the store for heartbeats, even if this host has a state of it
    #[arg(long)]
    pub(crate) from_store: bool,

    /// Ask the store for the heartbeats of this host alone
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Option<String>,

    /// Print one JSON object for each store, or for each host that it has heartbeats of
    #[arg(long)]
    pub(crate) json: bool,
}

impl Status {
    /// The store that is meant; `None` for every one that there is a state of.
    pub(crate) fn store(&self) -> Option<&StoreArgs> {
        (self.maybe_store.store != NO_STORE).then_some(&self.maybe_store)
    }
}
