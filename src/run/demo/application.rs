//! The application of the demo: a process of its own that commits to a database and keeps it open until it is killed.
//!
//! It cannot be a thread: locks on a file belong to the process, and end when any descriptor of the file is closed in it.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};

use super::fleet;
use crate::run::print;

/// What it says once its commit is durable.
const COMMITTED: &str = "committed\n";

/// A running application; killed when dropped.
#[derive(Debug)]
pub(super) struct Application(Child);

impl Application {
    /// Starts it on `database`; returns when it has committed.
    pub(super) fn start(database: &Path) -> anyhow::Result<Self> {
        let litesnap = std::env::current_exe().context("cannot tell where litesnap itself lies")?;
        // It ends with us: its standard input does.
        let child = Command::new(litesnap)
            .args(["demo", "--application"])
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the application")?;
        let mut started = Self(child);
        let out = started.0.stdout.take().context("the application has no standard output")?;
        let mut said = String::new();
        BufReader::new(out).read_line(&mut said).context("cannot hear the application")?;
        ensure!(said == COMMITTED, "the application ended before it had committed");
        Ok(started)
    }

    /// Ends it as the loss of its host would.
    pub(super) fn kill(mut self) -> anyhow::Result<()> {
        self.0.kill().and_then(|()| self.0.wait()).map(drop).context("cannot end the application")
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}

/// The application's side.
pub(super) fn run(database: &Path) -> anyhow::Result<u8> {
    let mut conn = fleet::open(database)?;
    fleet::add_rows(&mut conn, fleet::ROWS_OF_APPLICATION)?;
    print(COMMITTED)?;
    // Nothing ever comes: this waits for the end of the demo.
    std::io::stdin().read_to_end(&mut Vec::new()).context("cannot wait for the demo")?;
    Ok(0)
}
