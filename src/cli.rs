//! The command line as typed. Nothing is decided here: [`litesnap::config`] validates.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use litesnap::config::{
    CONCURRENCY_DEFAULT, INTERVAL_DEFAULT, MEMORY_LIMIT_DEFAULT, REQUEST_TIMEOUT_DEFAULT, parse_duration, parse_rate,
    parse_size,
};

const AFTER: &str = "Each option can be given as a variable, switches as true or false: LITESNAP_INTERVAL=5m, \
LITESNAP_ONCE=true. The option wins.

Exit codes: 0 everything asked for is done; 1 some database or object failed; 2 usage or \
configuration; 3 the store could not be reached or refused us; 130/143 interrupted before the work was complete.";

const START: &str = "Start with: litesnap replicate '/data/**/*.db' --store /backups --dry-run
All options: litesnap replicate --help";

/// Backs up every SQLite database on a host to S3-compatible storage or a folder
#[derive(Debug, Parser)]
#[command(version, about, after_help = START, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Store every changed database, now and every 30 seconds
    Replicate(Box<Replicate>),
}

#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct Replicate {
    /// What to back up: globs such as '/data/{project}/databases/*.db' (quote them), or a folder for every SQLite
    /// database below it, told by its content
    #[arg(value_name = "PATTERN", env = "LITESNAP_PATTERN")]
    pub(crate) patterns: Vec<OsString>,

    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// One pass, then exit: for cron and CI
    #[arg(long, value_parser = parse_switch, env = "LITESNAP_ONCE")]
    pub(crate) once: bool,

    /// From the start of one pass to the start of the next
    #[arg(long, value_name = "TIME", default_value = INTERVAL_DEFAULT, value_parser = parse_duration, env = "LITESNAP_INTERVAL")]
    pub(crate) interval: Duration,

    /// Key of a database below the store: literal text and {{path}}, {{hostname}}, or any name the pattern captures
    #[arg(long, value_name = "TEMPLATE", default_value = litesnap::layout::TEMPLATE_DEFAULT, env = "LITESNAP_KEY_TEMPLATE")]
    pub(crate) key_template: String,

    /// This host's name, for {{hostname}} and descriptions (containers change theirs) [default: the system's]
    #[arg(long, value_name = "NAME", env = "LITESNAP_HOST")]
    pub(crate) host: Option<String>,

    /// What not to back up: a name anywhere, or a path if it has a slash; may be given several times
    #[arg(long, value_name = "GLOB", env = "LITESNAP_EXCLUDE")]
    pub(crate) exclude: Vec<String>,

    /// Where it is remembered what is stored [default: $STATE_DIRECTORY, /var/lib/litesnap as root,
    /// $XDG_STATE_HOME/litesnap]
    #[arg(long, value_name = "DIR", env = "LITESNAP_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,

    /// Memory for snapshots on their way; large databases go through a temporary file in the state directory
    #[arg(long, value_name = "SIZE", default_value = MEMORY_LIMIT_DEFAULT, value_parser = parse_size, env = "LITESNAP_MEMORY_LIMIT")]
    pub(crate) memory_limit: u64,

    /// At most one snapshot of a database in this time; its last change is stored when the time is up
    #[arg(long, value_name = "TIME", value_parser = parse_duration, env = "LITESNAP_COOLDOWN")]
    pub(crate) cooldown: Option<Duration>,

    /// Store unchanged databases again after this time, spread evenly: for buckets that expire objects by age
    #[arg(long, value_name = "TIME", value_parser = parse_duration, env = "LITESNAP_REFRESH")]
    pub(crate) refresh: Option<Duration>,

    /// Bytes a second to the store
    #[arg(long, value_name = "RATE", value_parser = parse_rate, env = "LITESNAP_LIMIT_UPLOAD")]
    pub(crate) limit_upload: Option<u64>,

    /// Known databases that may be gone at once without it being an error [default: a tenth, or 20]
    #[arg(long, value_name = "N", env = "LITESNAP_MAX_GONE")]
    pub(crate) max_gone: Option<u64>,

    /// Tell what would be stored and under which keys; open nothing, send nothing, write nothing
    #[arg(long, value_parser = parse_switch, env = "LITESNAP_DRY_RUN")]
    pub(crate) dry_run: bool,

    /// With --once: that a pattern matches nothing is no error
    #[arg(long, value_parser = parse_switch, env = "LITESNAP_ALLOW_EMPTY")]
    pub(crate) allow_empty: bool,

    /// With --once or --dry-run: print the result as one JSON object (a line each with --dry-run)
    #[arg(long, value_parser = parse_switch, env = "LITESNAP_JSON")]
    pub(crate) json: bool,
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

    /// Storage class of the objects, such as STANDARD_IA
    #[arg(long, value_name = "CLASS", env = "LITESNAP_STORAGE_CLASS")]
    pub(crate) storage_class: Option<String>,

    /// Encrypt with this KMS key
    #[arg(long, value_name = "ID", env = "LITESNAP_SSE_KMS_KEY_ID")]
    pub(crate) sse_kms_key_id: Option<String>,

    /// For folders on FUSE and shared disks: sync each object by itself instead of the file system once a batch
    #[arg(long, value_parser = parse_switch, env = "LITESNAP_FSYNC_EACH")]
    pub(crate) fsync_each: bool,

    /// Requests to the store at once
    #[arg(long, value_name = "N", default_value_t = CONCURRENCY_DEFAULT, value_parser = parse_count, env = "LITESNAP_CONCURRENCY")]
    pub(crate) concurrency: usize,

    /// Longest wait for one answer of the store
    #[arg(long, value_name = "TIME", default_value = REQUEST_TIMEOUT_DEFAULT, value_parser = parse_duration, env = "LITESNAP_REQUEST_TIMEOUT")]
    pub(crate) request_timeout: Duration,
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
