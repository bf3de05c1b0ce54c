//! `litesnap replicate`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use litesnap::config::{INTERVAL_DEFAULT, MEMORY_LIMIT_DEFAULT, parse_duration, parse_rate, parse_size};

use litesnap::verify::Share;

use super::{AFTER, KeepArgs, StoreArgs, TellingArgs, parse_switch};

#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct Replicate {
    /// What to back up: globs such as '/data/{project}/databases/*.db' (quote them), or a folder for every SQLite
    /// database below it, told by its content
    #[arg(value_name = "PATTERN", env = "LITESNAP_PATTERN")]
    pub(crate) patterns: Vec<OsString>,

    #[command(flatten)]
    pub(crate) store: StoreArgs,

    #[command(flatten)]
    pub(crate) put: PutArgs,

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

    /// Read databases at rest through SQLite, too: slower, and makes and removes files beside those in WAL mode
    #[arg(long, value_parser = parse_switch, env = "LITESNAP_ALWAYS_SQLITE")]
    pub(crate) always_sqlite: bool,

    /// Known databases that may be gone at once without it being an error [default: a tenth, or 20; none, if no
    /// other is left]
    #[arg(long, value_name = "N", env = "LITESNAP_MAX_GONE")]
    pub(crate) max_gone: Option<u64>,

    #[command(flatten)]
    pub(crate) keep: KeepArgs,

    /// Verify a share of what is stored, this often, beside the loop
    #[arg(long, value_name = "TIME", value_parser = parse_duration, env = "LITESNAP_VERIFY_EVERY")]
    pub(crate) verify_every: Option<Duration>,

    /// With --verify-every: this share
    #[arg(long, value_name = "SHARE", default_value = "1%", env = "LITESNAP_SAMPLE")]
    pub(crate) sample: Share,

    #[command(flatten)]
    pub(crate) telling: TellingArgs,

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

/// How objects are put.
#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// Storage class of the objects, such as STANDARD_IA
    #[arg(long, value_name = "CLASS", env = "LITESNAP_STORAGE_CLASS")]
    pub(crate) storage_class: Option<String>,

    /// Encrypt with this KMS key
    #[arg(long, value_name = "ID", env = "LITESNAP_SSE_KMS_KEY_ID")]
    pub(crate) sse_kms_key_id: Option<String>,

    /// For folders on FUSE and shared disks: sync each object by itself instead of the file system once a batch
    #[arg(long, value_parser = parse_switch, env = "LITESNAP_FSYNC_EACH")]
    pub(crate) fsync_each: bool,
}
