//! `litesnap list` and `litesnap show`.

use clap::Args;

use super::{MatchArgs, StoreArgs};

const AFTER: &str = "Exit codes: 0 everything asked for was shown; 1 some object could not be read, or nothing matches; 2 usage or \
configuration; 3 the store could not be reached or refused us; 130/143 interrupted.";

/// One line per database, sorted by name: time of its newest snapshot, age, bytes stored, snapshots, name.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    #[command(flatten)]
    pub(crate) only: MatchArgs,

    /// Every snapshot of this one database, oldest first: its name as it is listed, its path on its host, or its prefix as
    /// --json shows it
    #[arg(long, value_name = "NAME", conflicts_with = "globs")]
    pub(crate) snapshots: Option<String>,

    /// Read what the newest snapshot says about itself (each one, with --snapshots): one request more for each
    #[arg(long)]
    pub(crate) long: bool,

    /// Print one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

/// What one stored object says about itself: host, path, time, sizes, hashes, owner.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct Show {
    /// The object's key, as `litesnap list --snapshots` shows it
    #[arg(value_name = "KEY")]
    pub(crate) key: String,

    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Print it as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}
