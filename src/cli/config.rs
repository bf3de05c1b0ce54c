//! `litesnap config`.

use clap::{Args, Subcommand};

use super::Replicate;

const AFTER: &str =
    "The file is that of --config or LITESNAP_CONFIG, else /etc/litesnap.yml if it is there. Nothing is asked of \
the store.

Exit codes: 0 it is right; 2 it is not, and what is wrong is said with file and line.";

#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    pub(crate) what: Ask,
}

/// What is asked of a configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum Ask {
    /// Tell whether `replicate` would take file, environment and options as they are
    #[command(after_help = AFTER)]
    Check(Box<Replicate>),
    /// Print every option with its value and where that comes from, as a file that says the same; secrets are left out
    #[command(after_help = AFTER)]
    Print(Box<Replicate>),
    /// Print a JSON schema of the file, for editors
    Schema,
}
