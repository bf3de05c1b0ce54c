//! The command line as typed. Nothing is decided here: [`litesnap::config`] validates.

mod completions;
mod config;
mod demo;
mod explain;
pub(crate) mod file;
mod forget_gone;
mod keep;
mod list;
mod prune;
mod replicate;
mod restore;
mod status;
mod telling;
mod verify;

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use litesnap::config::{CONCURRENCY_DEFAULT, REQUEST_TIMEOUT_DEFAULT, parse_duration};

pub(crate) use completions::{Completions, Man, Shell};
pub(crate) use config::{Ask, Config};
pub(crate) use demo::Demo;
pub(crate) use explain::Explain;
pub(crate) use forget_gone::ForgetGone;
pub(crate) use keep::KeepArgs;
pub(crate) use list::{List, Show};
pub(crate) use prune::{Prune, Purge};
pub(crate) use replicate::Replicate;
pub(crate) use restore::{CheckArg, Restore};
pub(crate) use status::Status;
pub(crate) use telling::TellingArgs;
pub(crate) use verify::Verify;

const AFTER: &str = "Each option can be given as a variable, switches as true or false: LITESNAP_INTERVAL=5m, \
LITESNAP_ONCE=true; or in the file of --config: `interval: 5m`. The option wins over its variable, the variable over the \
file, the file over what is built in.

Exit codes: 0 everything asked for is done; 1 some database or object failed; 2 usage or \
configuration; 3 the store could not be reached or refused us; 130/143 interrupted before the work was complete.";

const START: &str = "See it work: litesnap demo
Start with: litesnap replicate '/data/**/*.db' --store /backups --dry-run
All options: litesnap replicate --help";

/// Backs up every SQLite database on a host to S3-compatible storage or a folder
#[derive(Debug, Parser)]
#[command(version, about, after_help = START, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Read options from this file; '' for none [default: /etc/litesnap.yml, if it is there]
    #[arg(long, global = true, value_name = "FILE", env = "LITESNAP_CONFIG")]
    pub(crate) config: Option<OsString>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Store every changed database, now and every 30 seconds
    Replicate(Box<Replicate>),
    /// Tell before the first upload: what is found, how long it takes, what it costs
    Explain(Box<Explain>),
    /// Bring one database back, some, or all
    Restore(Box<Restore>),
    /// Tell how backups fare: what waits, what fails, what is too old; with --store, of hosts that are dead
    Status(Box<Status>),
    /// Show what is stored: databases, or the snapshots of one
    List(Box<List>),
    /// Show what one stored object says about itself
    Show(Box<Show>),
    /// Fetch, decode and check snapshots: could they be restored?
    Verify(Box<Verify>),
    /// Remove snapshots that no rule keeps; never the last one of a database
    Prune(Box<Prune>),
    /// Erase everything of one database, the last copy too
    Purge(Box<Purge>),
    /// Accept that known databases were deleted on purpose, where replicate holds back because they are many
    ForgetGone(Box<ForgetGone>),
    /// Check or print the configuration
    Config(Box<Config>),
    /// See it work: a small fleet is backed up to a folder, lost and brought back
    Demo(Demo),
    /// Print completions for a shell
    Completions(Completions),
    /// Write manual pages
    Man(Man),
}

/// Where snapshots are stored, and how it is reached.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// s3://bucket/prefix, a folder or file:///folder, gs://bucket/prefix, az://container/prefix
    #[arg(long, visible_alias = "to", value_name = "URL", env = "LITESNAP_STORE", hide_env_values = true)]
    pub(crate) store: String,

    /// Base URL of an S3-compatible service, such as https://s3.example.org [also: AWS_ENDPOINT_URL]
    #[arg(long, value_name = "URL", env = "LITESNAP_ENDPOINT", hide_env_values = true)]
    pub(crate) endpoint: Option<String>,

    /// Region of the bucket [also: AWS_REGION]
    #[arg(long, value_name = "NAME", env = "LITESNAP_REGION")]
    pub(crate) region: Option<String>,

    /// Put the bucket into the path of the URL instead of the host name
    #[arg(long, value_parser = parse_switch, env = "LITESNAP_PATH_STYLE")]
    pub(crate) path_style: bool,

    /// Allow endpoints without TLS
    #[arg(long, value_parser = parse_switch, env = "LITESNAP_ALLOW_HTTP")]
    pub(crate) allow_http: bool,

    /// Requests to the store at once
    #[arg(long, value_name = "N", default_value_t = CONCURRENCY_DEFAULT, value_parser = parse_count, env = "LITESNAP_CONCURRENCY")]
    pub(crate) concurrency: usize,

    /// Longest wait for one answer of the store
    #[arg(long, value_name = "TIME", default_value = REQUEST_TIMEOUT_DEFAULT, value_parser = parse_duration, env = "LITESNAP_REQUEST_TIMEOUT")]
    pub(crate) request_timeout: Duration,
}

/// Which databases of a store are meant.
#[derive(Debug, Args)]
pub(crate) struct MatchArgs {
    /// Only databases whose name in the store matches: /srv/app/acme.db, '/srv/*/tenants/**', or without a slash the last part
    /// of the name, 'acme*.db'; may be given several times
    #[arg(long = "match", value_name = "GLOB", num_args = 1..)]
    pub(crate) globs: Vec<String>,
}

fn parse_count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|n| (1..=10_000).contains(n));
    count.ok_or_else(|| format!("'{text}' is no count: give a whole number from 1 to 10000, such as 100"))
}

/// What a variable may say for a switch; on the command line it is there or not.
fn parse_switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "" | "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("its variable says neither yes nor no: set it to true or false, or unset it".into()),
    }
}
