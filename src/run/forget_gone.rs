//! `litesnap forget-gone`: a person's word that databases were deleted on purpose.

use litesnap::config::default_state_dir;
use litesnap::error::Error;
use litesnap::fs::shown;
use litesnap::state::Beside;
use litesnap::store::Store;

use super::{environment, print, store_options};
use crate::cli::ForgetGone;

/// Databases named at most.
const NAMED_MAX: usize = 20;

pub(crate) fn forget_gone(args: &ForgetGone) -> anyhow::Result<u8> {
    let env = environment();
    let var = |name: &str| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
    let state_dir = match &args.state_dir {
        Some(dir) => dir.clone(),
        None => default_state_dir(var, nix::unistd::geteuid().is_root())?,
    };
    // Nothing is asked of the store, and a folder that is not mounted need not be.
    let store = Store::describe(&store_options(&args.store), &env)?;
    let beside = Beside::expect(&state_dir, &store.identity)?;
    let found = beside.gone_from_host(NAMED_MAX)?;
    let (gone, known) = (found.gone, found.known);
    if gone == 0 {
        print(&format!("none of {known} known databases is gone\n"))?;
        return Ok(0);
    }
    let mut text = format!("{gone} of {known} known databases are gone:\n");
    text.extend(found.named.iter().map(|path| format!("{}\n", shown(path))));
    let unnamed = gone.saturating_sub(NAMED_MAX as u64);
    if unnamed > 0 {
        text += &format!("and {unnamed} more\n");
    }
    if !args.yes {
        print(&text)?;
        let what = format!("nothing was changed: if these {gone} were deleted on purpose, give --yes");
        return Err(Error::Usage(what).into());
    }
    beside.set_meta("accept_gone", &gone.to_string())?;
    print(&format!("{text}a running loop takes them for gone in its next cycle, else the next run does\n"))?;
    Ok(0)
}
