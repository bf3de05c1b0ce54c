//! `state.db` at work, through the library: what a batch of confirmations takes, and how large the file is.
//!
//! Not a floor: litesnap itself does the work, but nothing around it. The databases need not exist.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use litesnap::content::ContentHash;
use litesnap::stamps::{MainStamp, Stamps, WalStamp};
use litesnap::state::{Change, Look, StateDb, id_of};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::{Value, json};

/// As many as the recording thread puts into one batch.
const BATCH: u64 = 10_000;

/// Records `count` databases in the state `file`, which litesnap has made, in batches, as a first run does; then confirms 10,000 of
/// them `batches` times, spread over all. Ms of each batch, by the clock and of CPU; bytes a database.
pub(crate) fn run(file: &Path, count: u64, batches: u64) -> Result<Value> {
    let identity = Look::open(file)?.identity()?;
    let (db, _) = StateDb::open(file, &identity, 0)?;
    let size = BATCH.min(count);
    for first in (0..count).step_by(usize::try_from(BATCH)?) {
        apply(&db, first..count.min(first + BATCH))?;
    }
    let batches = (1..=batches).map(|round| apply(&db, (0..size).map(|n| spread_over(count, round * size + n))));
    let batches = batches.collect::<Result<Vec<_>>>()?;
    let (ms, cpu_ms): (Vec<f64>, Vec<f64>) = batches.into_iter().unzip();
    db.end_cleanly(0)?;
    drop(db);
    let bytes = std::fs::metadata(file)?.len();
    #[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
    let each = bytes as f64 / count as f64;
    Ok(json!({"batch_ms": ms, "batch_cpu_ms": cpu_ms, "bytes": bytes, "bytes_per_database": each}))
}

/// Of any two numbers about as far apart as their hashes.
pub(crate) fn spread(n: u64) -> u64 {
    n.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Which of `count` comes `n`th, if all are to come before one comes again.
pub(crate) fn spread_over(count: u64, n: u64) -> u64 {
    // A prime beyond any count shares no divisor with it.
    n.wrapping_mul(1_000_000_007) % count
}

/// Ms by the clock, and of CPU.
fn apply(db: &StateDb, some: impl Iterator<Item = u64>) -> Result<(f64, f64)> {
    let batch: Vec<Change> = some.map(|n| stored(db.seed(), n)).collect::<Result<_>>()?;
    let batch: Vec<&Change> = batch.iter().collect();
    let (begun, cpu) = (Instant::now(), cpu_ms()?);
    db.apply(&batch)?;
    let took = (begun.elapsed().as_secs_f64() * 1000.0, cpu_ms()? - cpu);
    db.settle();
    Ok(took)
}

/// What this thread has used of CPU.
pub(crate) fn cpu_ms() -> Result<f64> {
    let used = getrusage(UsageWho::RUSAGE_THREAD)?;
    #[allow(clippy::cast_precision_loss, reason = "ms for people")]
    let ms = (used.user_time() + used.system_time()).num_microseconds() as f64 / 1000.0;
    Ok(ms)
}

fn stored(seed: u64, n: u64) -> Result<Change> {
    let path = path_of(n);
    let spread = spread(n);
    // Of the time of day, or a second measurement would confirm what is recorded already.
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
    let modified = now - i64::try_from(spread >> 16).context("48 bits")?;
    let main =
        MainStamp { dev: 65_024, ino: 1_000_000 + n, size: 20_480, mtime: modified, ctime: modified + 1_234_567 };
    // One in eight has a log.
    let wal = n.is_multiple_of(8).then_some(WalStamp { ino: 9_000_000 + n, size: 8_272, mtime: modified });
    let stamps = Stamps { main, wal, journal: None };
    let content_hash = ContentHash((u128::from(spread) * now.unsigned_abs() as u128).to_le_bytes());
    let (key_ms, stored_s) = (now / 1_000_000, u32::try_from(now / 1_000_000_000).context("a time before 2106")?);
    Ok(Change::Stored {
        id: id_of(&path, seed),
        path,
        prefix: None,
        stamps,
        stamped_at: now,
        content_hash,
        key_ms,
        stored_s,
        bytes: 3000,
    })
}

/// As `scripts/generate-fixtures` names them in its layout `classic`.
fn path_of(n: u64) -> PathBuf {
    let folder = n / 500;
    let database = if (folder / 2).is_multiple_of(2) { "main" } else { "analytics" };
    let branch = if folder.is_multiple_of(2) { "main" } else { "dev" };
    let project = folder / 4;
    format!("/srv/project-{project:04}/databases/{database}/branches/{branch}/tenants/tenant-{n:07}.db").into()
}
