//! `litesnap explain`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::ArgPredicate;
use clap::{Args, ValueEnum};
use litesnap::config::{INTERVAL_DEFAULT, MEMORY_LIMIT_DEFAULT, parse_duration, parse_rate, parse_size};
use litesnap::cost::model::Spread;
use litesnap::verify::Share;

use super::{KeepArgs, StoreArgs, parse_switch};

const AFTER: &str = "Opens databases for reading only, leaves no trace, sends nothing and writes nothing. Options that replicate \
has, too, mean the same and have the same variables.";

#[derive(Debug, Args)]
#[command(after_help = AFTER)]
// The analysis is of no store in particular.
#[command(mut_arg("store", |store| store
    .required(false)
    .required_unless_present("cost_analysis")
    .default_value_if("cost_analysis", ArgPredicate::Equals("true".into()), Some("."))))]
pub(crate) struct Explain {
    /// What would be backed up: globs such as '/data/{project}/databases/*.db' (quote them), or a folder for every SQLite
    /// database below it, told by its content
    #[arg(value_name = "PATTERN", env = "LITESNAP_PATTERN")]
    pub(crate) patterns: Vec<OsString>,

    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// What not to back up: a name anywhere, or a path if it has a slash; may be given several times
    #[arg(long, value_name = "GLOB", env = "LITESNAP_EXCLUDE")]
    pub(crate) exclude: Vec<String>,

    /// Key of a database below the store: literal text and {{path}}, {{hostname}}, or any name the pattern captures
    #[arg(long, value_name = "TEMPLATE", default_value = litesnap::layout::TEMPLATE_DEFAULT, env = "LITESNAP_KEY_TEMPLATE")]
    pub(crate) key_template: String,

    /// This host's name, for {{hostname}} [default: the system's]
    #[arg(long, value_name = "NAME", env = "LITESNAP_HOST")]
    pub(crate) host: Option<String>,

    /// Where the state would lie: what is below it is not backed up. What it knows is not asked: the first run is told of
    #[arg(long, value_name = "DIR", env = "LITESNAP_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,

    /// From the start of one pass to the start of the next
    #[arg(long, value_name = "TIME", default_value = INTERVAL_DEFAULT, value_parser = parse_duration, env = "LITESNAP_INTERVAL")]
    pub(crate) interval: Duration,

    /// At most one snapshot of a database in this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration, env = "LITESNAP_COOLDOWN")]
    pub(crate) cooldown: Option<Duration>,

    /// Store unchanged databases again after this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration, env = "LITESNAP_REFRESH")]
    pub(crate) refresh: Option<Duration>,

    /// Memory for snapshots on their way: tells which databases are large
    #[arg(long, value_name = "SIZE", default_value = MEMORY_LIMIT_DEFAULT, value_parser = parse_size, env = "LITESNAP_MEMORY_LIMIT")]
    pub(crate) memory_limit: u64,

    #[command(flatten)]
    pub(crate) keep: KeepArgs,

    /// Share of the databases that changes in one interval
    #[arg(long, value_name = "SHARE", default_value = "1%")]
    pub(crate) change_rate: Share,

    /// Which databases change: the same ones again and again, any at random, or all in turn [default: show all three]
    #[arg(long, value_name = "SPREAD")]
    pub(crate) spread: Option<SpreadArg>,

    /// What the line to the store carries
    #[arg(long, value_name = "RATE", default_value = "10MB/s", value_parser = parse_rate)]
    pub(crate) rate: u64,

    /// From a request to its answer
    #[arg(long, value_name = "TIME", default_value = "30ms", value_parser = parse_duration)]
    pub(crate) round_trip: Duration,

    /// Print the result as one JSON object
    #[arg(long, value_parser = parse_switch, env = "LITESNAP_JSON")]
    pub(crate) json: bool,

    /// Print COST_ANALYSIS.md, the costs of an example fleet; needs neither pattern nor store
    #[arg(long)]
    pub(crate) cost_analysis: bool,
}

/// As typed for a [`Spread`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SpreadArg {
    /// The same ones in every pass
    Same,
    /// Any, each with the same chance
    Random,
    /// All, one after the other
    Turn,
}

impl From<SpreadArg> for Spread {
    fn from(spread: SpreadArg) -> Self {
        match spread {
            SpreadArg::Same => Self::Same,
            SpreadArg::Random => Self::Random,
            SpreadArg::Turn => Self::Turn,
        }
    }
}
