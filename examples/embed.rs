//! A supervisor that backs up the databases of the applications it runs: the loop in a thread, a snapshot at once after
//! something important, a look at how it fares, and a stop that leaves nothing unrecorded.
//!
//! The application is a process of its own, and must be: a process that has a database open itself must not back it up too,
//! for closing any descriptor of a file drops all locks that the process has on it.
//!
//! `cargo run --example embed`
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use litesnap::clock::SystemClock;
use litesnap::config::{Config, parse_patterns};
use litesnap::control::Control;
use litesnap::cycle::Silent;
use litesnap::monitor::Monitor;
use litesnap::replicate::Replicator;
use litesnap::store::StoreOptions;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Some(path) = std::env::args().nth(1) {
        return application(&path);
    }
    let folder = tempfile::tempdir()?;
    let tenants = folder.path().join("tenants");
    std::fs::create_dir(&tenants)?;
    let acme = tenants.join("acme.db");
    run_application(&acme)?;

    let store = folder.path().join("backup");
    let config = Config {
        patterns: parse_patterns(&["tenants/*.db"], folder.path())?,
        host: "app-1".into(),
        state_dir: folder.path().join("state"),
        interval: Duration::from_secs(1),
        ..Config::new(StoreOptions::new(store.to_string_lossy()))
    };
    // What the store needs of the environment is handed over, never read: AWS_ACCESS_KEY_ID and so on.
    let env: Vec<(String, String)> = Vec::new();
    let control = Arc::new(Control::default());
    let mut replicator = Replicator::open(config, &env, Arc::new(SystemClock), Arc::clone(&control), Arc::new(Silent))?;
    let monitor = replicator.monitor();
    let looping = std::thread::spawn(move || replicator.run_forever(|report| println!("{}", report.line())));

    wait_until(&monitor, |stored| stored == 1)?;
    run_application(&acme)?;
    // After something important: not in a second, now, whatever the cooldown says.
    control.cycle_now();
    wait_until(&monitor, |stored| stored == 2)?;

    let vitals = monitor.vitals();
    println!(
        "healthy: {}; {} snapshots, {} bytes; {} databases wait",
        vitals.is_healthy(),
        vitals.totals.stored,
        vitals.totals.bytes,
        vitals.backlog.count
    );
    control.stop(15);
    looping.join().map_err(|_| "the loop failed")?;
    Ok(())
}

/// What the application does: an order more.
fn application(path: &str) -> Result<(), Box<dyn std::error::Error>> {
    let conn = rusqlite::Connection::open(path)?;
    conn.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS orders(id INTEGER PRIMARY KEY)")?;
    conn.execute("INSERT INTO orders DEFAULT VALUES", [])?;
    Ok(())
}

/// The application, in a process of its own.
fn run_application(path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let ended = Command::new(std::env::current_exe()?).arg(path).status()?;
    if ended.success() { Ok(()) } else { Err(format!("the application ended with {ended}").into()) }
}

/// Waits until so many snapshots are stored and recorded.
fn wait_until(monitor: &Monitor, enough: impl Fn(u64) -> bool) -> Result<(), String> {
    let began = Instant::now();
    while !enough(monitor.vitals().totals.stored) {
        if began.elapsed() > Duration::from_secs(30) {
            return Err(format!("nothing stored: {:?}", monitor.vitals().complaints));
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}
