//! `litesnap demo`: a small fleet, backed up to a folder, lost and brought back, with each step told and checked.
//!
//! What it says is what it saw: every number comes from a report or a file, and what does not come out as told ends it with
//! an error. It uses the library as the commands do that it names. A crash leaves nothing but its folder.

mod application;
mod back;
mod fleet;
mod place;
mod steps;
mod tell;

use std::time::Instant;

use anyhow::Context;
use litesnap::fs::shown;

use super::print;
use crate::cli;
use place::Place;
use steps::Steps;

pub(crate) fn demo(args: &cli::Demo) -> anyhow::Result<u8> {
    if let Some(database) = &args.application {
        return application::run(database);
    }
    // The story tells what there is to tell.
    log::set_max_level(log::LevelFilter::Warn);
    let begun = Instant::now();
    let place = Place::make(&args.dir)?;
    print(&format!(
        "24 databases are backed up to a folder, lost, and brought back. All of it happens in {}.\n",
        shown(&place.typed)
    ))?;
    let left = || format!("the demo did not come out as told (what it made is in {})", shown(&args.dir));
    Steps::new(&place).all().with_context(left)?;
    print(&ending(&place, begun))?;
    Ok(0)
}

fn ending(place: &Place, begun: Instant) -> String {
    let folder = tell::word(&place.typed);
    format!(
        "
Everything came out as told, in {}. All that was made is in {}; this removes it:
  $ rm -r {folder}

How to go on:
  what would be stored of your own databases, and where:  litesnap replicate '/data/**/*.db' --store /backups --dry-run
  the loop, every 30 seconds, to a bucket:                litesnap replicate '/data/**/*.db' --store s3://my-bucket/backups
  practise the loss of a host:                            docs/DISASTER_DRILL.md
  as a service, in a container, beside an application:    contrib/
",
        tell::time(begun.elapsed()),
        shown(&place.typed),
    )
}
