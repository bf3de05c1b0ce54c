//! The commands: from arguments to the library and from its results to standard output.

mod completions;
mod config;
mod demo;
mod explain;
pub(crate) mod file;
mod forget_gone;
mod list;
mod prune;
mod replicate;
mod restore;
mod show;
mod status;
mod telling;
mod verify;

use std::io::Write;
use std::sync::Arc;

use anyhow::Context;
use litesnap::access::Access;
use litesnap::control::Control;
use litesnap::store::StoreOptions;

pub(crate) use completions::{completions, man};
pub(crate) use config::config;
pub(crate) use demo::demo;
pub(crate) use explain::explain;
pub(crate) use forget_gone::forget_gone;
pub(crate) use list::list;
pub(crate) use prune::{prune, purge};
pub(crate) use replicate::replicate;
pub(crate) use restore::restore;
pub(crate) use show::show;
pub(crate) use status::status;
pub(crate) use verify::verify;

use crate::cli::StoreArgs;
use crate::signals;

/// The environment, completed by what the configuration file says about signing in to the store.
fn environment() -> Vec<(String, String)> {
    let mut env = system_environment();
    let settings = &file::given().settings;
    env.extend(settings.credentials.completing(&env, settings.is_litestream));
    env
}

fn system_environment() -> Vec<(String, String)> {
    std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect()
}

fn store_options(args: &StoreArgs) -> StoreOptions {
    StoreOptions {
        endpoint: args.endpoint.clone(),
        region: args.region.clone(),
        path_style: args.path_style,
        allow_http: args.allow_http,
        request_timeout: args.request_timeout,
        ..StoreOptions::new(&args.store)
    }
}

/// Opens the store for a command that looks at what is stored, and listens for signals.
fn access(args: &StoreArgs) -> anyhow::Result<Access> {
    let access = Access::open(&store_options(args), &environment(), args.concurrency, Arc::new(Control::default()))?;
    signals::listen(access.runtime(), &access.control).context("cannot listen for signals")?;
    Ok(access)
}

/// Says of each glob that nothing matches it; the exit code for that.
fn name_unmatched<S: AsRef<str>>(globs: &[S], store: &str) -> u8 {
    for glob in globs {
        log::error!("nothing in {store} matches {}", glob.as_ref());
    }
    u8::from(!globs.is_empty())
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .or_else(ignore_closed)
        .context("cannot write to standard output")
}

/// Whoever reads our output may have seen enough.
pub(crate) fn ignore_closed(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}
