//! `litesnap verify`.

use std::path::PathBuf;

use clap::Args;
use litesnap::verify::Share;

use super::{MatchArgs, StoreArgs, parse_switch};

const AFTER: &str = "Words of findings: missing, truncated, wrong-hash, wrong-key, undecodable, foreign, corrupt (stored as it \
was, and it was corrupt), unsupported-version (use a newer litesnap). Each but the first and the last gets a marker object, \
which keeps older snapshots from being pruned for a bad one; wrong-key only where it is not the whole store that lies, or \
is given, elsewhere than where it was written.

Exit codes: 0 all that was looked at is good; 1 something is missing, bad or could not be looked at, or there is nothing to \
look at; 2 usage or configuration; 3 the store could not be reached or refused us; 130/143 interrupted.";

#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Look at this share of the snapshots, from 0.01% to 100%, chosen at random; at least at one
    #[arg(long, value_name = "SHARE", default_value = "1%", conflicts_with = "all")]
    pub(crate) sample: Share,

    /// Look at every snapshot, those marked as bad too
    #[arg(long, value_parser = parse_switch)]
    pub(crate) all: bool,

    #[command(flatten)]
    pub(crate) only: MatchArgs,

    /// Choose the same snapshots as the run that printed this seed
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,

    /// Put no marker objects beside bad snapshots: only look
    #[arg(long, value_parser = parse_switch)]
    pub(crate) no_mark: bool,

    /// Compare with the state of `replicate` in this folder, and have it store again what is missing or bad
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,

    /// The store is a copy of one whose keys began with this prefix
    #[arg(long, value_name = "PREFIX")]
    pub(crate) moved_from: Option<String>,

    /// Print the result as one JSON object
    #[arg(long, value_parser = parse_switch)]
    pub(crate) json: bool,
}
