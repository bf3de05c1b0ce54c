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

mod lz4;
mod scan;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::json;

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
        _ => bail!("usage: floor scan ROOT THREADS | lz4 FILE OUT"),
    };
    println!("{answer}");
    Ok(())
}
