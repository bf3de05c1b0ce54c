//! `litesnap restore`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};

use super::{MatchArgs, StoreArgs};

const AFTER: &str = "Each database is restored as its newest snapshot (with --at: its newest not after that time), consistent \
by itself; two databases are not of one instant. Fetched, checked against every hash, written beside its target, \
made durable, and only then renamed into place. What is there already and identical is left alone, so an interrupted run \
is simply run again. Stop the applications first.

Start with: litesnap restore --store s3://my-bucket/backups --into /restored --dry-run

Exit codes: 0 all that was asked for is there; 1 some database is not, or not as asked, each is named; 2 usage; 3 the store could \
not be reached or refused us; 130/143 interrupted.";

#[derive(Debug, Args)]
#[command(after_help = AFTER, group(ArgGroup::new("target").required(true).args(["into", "in_place", "output"])))]
pub(crate) struct Restore {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Restore below this folder, each database under its name in the store
    #[arg(long, value_name = "DIR")]
    pub(crate) into: Option<PathBuf>,

    /// Restore each database to the path that it was read from
    #[arg(long)]
    pub(crate) in_place: bool,

    /// Restore exactly one database to this file; - writes it to standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) only: MatchArgs,

    /// As of this time, such as 2026-11-21T06:00:00Z, or this long ago, such as 2h: of each database its newest snapshot
    /// not after it
    #[arg(long, visible_alias = "timestamp", value_name = "TIME")]
    pub(crate) at: Option<String>,

    /// Also databases that were gone from their host by then
    #[arg(long)]
    pub(crate) include_deleted: bool,

    /// Also snapshots that `litesnap verify` has marked bad
    #[arg(long)]
    pub(crate) include_bad: bool,

    /// Replace files that are there, in use or not, and remove sidecars beside them
    #[arg(long)]
    pub(crate) force: bool,

    /// Leave files that are there as they are: no error
    #[arg(long, conflicts_with = "force")]
    pub(crate) if_db_not_exists: bool,

    /// That there is no snapshot is no error: for the first start of a container
    #[arg(long)]
    pub(crate) if_replica_exists: bool,

    /// Ask SQLite about each database before it takes its place, by quick_check or integrity_check
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) check: Option<CheckArg>,

    /// The store is a copy of another, in which keys began with this prefix (give '' if with none)
    #[arg(long, value_name = "PREFIX")]
    pub(crate) moved_from: Option<String>,

    /// Print what would be restored where, and restore nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print the result as one JSON object (a line each with --dry-run)
    #[arg(long)]
    pub(crate) json: bool,
}

/// What SQLite is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckArg {
    // No doc comments: they would make every option's help long.
    Quick,
    Full,
}
