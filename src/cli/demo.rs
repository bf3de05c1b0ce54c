//! `litesnap demo`.

use std::path::PathBuf;

use clap::Args;

const AFTER: &str = "Takes a few seconds and touches nothing outside its folder, which it leaves for you to look at: remove it when you \
are done.

Exit codes: 0 everything came out as told; 1 something did not, and it is said what; 2 the folder is there already and not \
empty, or is no folder.";

#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct Demo {
    /// Where to play it: a folder that is not there yet, or is empty
    #[arg(long, value_name = "DIR", default_value = "litesnap-demo")]
    pub(crate) dir: PathBuf,

    /// Be the application of the demo, which holds this database open: it must be a process of its own, for locks on a
    /// file end when any descriptor of it is closed in the same process
    #[arg(long, value_name = "DATABASE", hide = true)]
    pub(crate) application: Option<PathBuf>,
}
