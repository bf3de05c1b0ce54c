//! `litesnap prune` and `litesnap purge`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use litesnap::config::parse_duration;
use litesnap::prune::DELETE_RATE_DEFAULT;

use super::{KeepArgs, MatchArgs, StoreArgs};

const PRUNE_AFTER: &str = "The newest snapshot of every database stays, and the newest that is not known to be bad, \
whatever the rules say; only --deleted-after lets go of it, and only where the database is gone from its host. \
Hours, days, weeks, months and years are UTC. Ages are counted from now, or from the newest object in the store if \
that is older: a clock that runs ahead removes nothing. A database is gone for no longer than the store has had its \
tombstone.

In a bucket that keeps versions, what is deleted takes room until a rule of the bucket expires old versions.

Exit codes: 0 done; 1 some object could not be removed; 2 usage; 3 the store could not be reached or refused us; \
130/143 interrupted: run it again to go on.";

const PURGE_AFTER: &str =
    "A database that is still on its host is stored again only when its content changes, unless --state-dir is given: \
until then it has no backup. A bucket that keeps versions keeps old versions of what is deleted: remove those there.

Exit codes: 0 nothing of it is left; 1 there is no such database, or some object could not be removed; 2 usage, or \
--yes is missing; 3 the store could not be reached or refused us; 130/143 interrupted: run it again to go on.";

#[derive(Debug, Args)]
#[command(after_help = PRUNE_AFTER)]
pub(crate) struct Prune {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    #[command(flatten)]
    pub(crate) keep: KeepArgs,

    #[command(flatten)]
    pub(crate) only: MatchArgs,

    /// Remove everything, the last copy too, of databases that have been gone from their host for this long
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) deleted_after: Option<Duration>,

    /// Count ages by this host's clock even if nothing in the store is that new, and take tombstones for as old as their
    /// keys say: for a copy of a store
    #[arg(long)]
    pub(crate) trust_clock: bool,

    /// Print what would be kept, and why, and what removed; remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Objects deleted a second, at most
    #[arg(long, value_name = "N", default_value_t = DELETE_RATE_DEFAULT, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) delete_rate: u32,

    /// Print the result as one JSON object (with --dry-run, one more for each snapshot before it)
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = PURGE_AFTER)]
pub(crate) struct Purge {
    /// The database, as `litesnap list` names it, or its prefix as `litesnap list --json` shows it
    #[arg(value_name = "NAME")]
    pub(crate) name: String,

    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Do it; without this, only tell what there is
    #[arg(long)]
    pub(crate) yes: bool,

    /// Have the `replicate` whose state is in this folder store the database again, if it is still on its host
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,

    /// Print the result as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}
