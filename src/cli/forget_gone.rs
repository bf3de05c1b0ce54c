//! `litesnap forget-gone`.

use std::path::PathBuf;

use clap::Args;

use super::{StoreArgs, parse_switch};

const AFTER: &str = "Exit codes: 0 accepted, or none is gone; 2 usage or configuration, or --yes is needed. Nothing is asked of \
the store: its snapshots stay.";

#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct ForgetGone {
    #[command(flatten)]
    pub(crate) store: StoreArgs,

    /// Where it is remembered what is stored [default: as for replicate]
    #[arg(long, value_name = "DIR", env = "LITESNAP_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,

    /// They were deleted on purpose: the next cycle takes them for gone
    #[arg(long, value_parser = parse_switch)]
    pub(crate) yes: bool,
}
