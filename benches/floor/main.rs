//! The floor: what litesnap's work costs at the least, done by programs that do nothing else. Each prints one line of JSON.
//!
//! Built and run by `scripts/bench`, side by side with litesnap.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    unreachable_pub,
    missing_docs,
    reason = "a program that measures"
)]

mod bare;
mod live;
mod lz4;
mod many;
mod put;
mod read;
mod scan;
mod serve;
mod state;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::time::TimeValLike;
use serde_json::json;

const USAGE: &str =
    "usage: floor scan ROOT THREADS | lz4 FILE OUT | read LIST THREADS | backup LIST THREADS | live LIST
       | keep LIST FOLDER THREADS | measured FILE COMMAND ARGUMENT…
       | put ENDPOINT BUCKET PREFIX FOLDER|@LIST AT-ONCE | serve DELAY-MS [LOG] | serve-many COUNT LATENCY_MS OBJECT
       | state FILE COUNT BATCHES | bare FILE COUNT BATCHES";

/// Runs a command, writes to `file` what it cost, and ends as it did. The kernel counts the memory that a process was forked with as
/// its own peak: whoever starts it must be small.
fn measured(file: &Path, command: &str, arguments: &[&str]) -> Result<()> {
    let began = Instant::now();
    let ended = std::process::Command::new(command).args(arguments).status().with_context(|| command.to_owned())?;
    let seconds = began.elapsed().as_secs_f64();
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN)?;
    let time = |time: nix::sys::time::TimeVal| Duration::from_micros(time.num_microseconds().unsigned_abs());
    let cpu = (time(usage.user_time()) + time(usage.system_time())).as_secs_f64();
    let told = json!({"seconds": seconds, "cpu_s": cpu, "peak_mb": usage.max_rss() as f64 / 1024.0});
    std::fs::write(file, told.to_string())?;
    match ended.code() {
        Some(code) => std::process::exit(code),
        None => bail!("{command}: {ended}"),
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let answer = match words[..] {
        ["scan", root, threads] => {
            let threads = threads.parse().context("THREADS")?;
            let began = Instant::now();
            let counts = scan::scan(Path::new(root), threads)?;
            let seconds = began.elapsed().as_secs_f64();
            let count = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
            json!({"seconds": seconds, "folders": count(&counts.folders), "files": count(&counts.files), "sidecars": count(&counts.sidecars)})
        }
        ["lz4", from, to] => {
            let began = Instant::now();
            let (raw_bytes, frame_bytes) = lz4::compress(Path::new(from), Path::new(to))?;
            json!({"seconds": began.elapsed().as_secs_f64(), "raw_bytes": raw_bytes, "frame_bytes": frame_bytes})
        }
        ["put", endpoint, bucket, prefix, source, at_once] => {
            put::put(endpoint, bucket, prefix, source, at_once.parse().context("AT-ONCE")?)?
        }
        ["read", list, threads] => read::read(list, threads.parse().context("THREADS")?, read::plain)?,
        ["backup", list, threads] => read::read(list, threads.parse().context("THREADS")?, read::backup)?,
        ["keep", list, folder, threads] => read::keep(list, Path::new(folder), threads.parse().context("THREADS")?)?,
        ["measured", file, command, ref arguments @ ..] => return measured(Path::new(file), command, arguments),
        ["live", list] => return live::live(list),
        ["serve", delay_ms, ref log @ ..] if log.len() < 2 => {
            let delay = Duration::from_millis(delay_ms.parse().context("DELAY-MS")?);
            return serve::serve(delay, log.first().copied());
        }
        ["serve-many", count, latency_ms, like] => {
            let latency = Duration::from_millis(latency_ms.parse().context("LATENCY_MS")?);
            many::serve(count.parse().context("COUNT")?, latency, Path::new(like))?
        }
        ["state", file, count, batches] => {
            state::run(Path::new(file), count.parse().context("COUNT")?, batches.parse().context("BATCHES")?)?
        }
        ["bare", file, count, batches] => {
            bare::run(Path::new(file), count.parse().context("COUNT")?, batches.parse().context("BATCHES")?)?
        }
        _ => bail!("{USAGE}"),
    };
    println!("{answer}");
    Ok(())
}
