//! What SQLite alone takes to change and to read as many rows as a state has, of about their size, in a file of the same settings.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use rusqlite::{Connection, TransactionBehavior, params};
use serde_json::{Value, json};

const BATCH: u64 = 10_000;
/// A row of a state without its id, under paths of 75 bytes.
const ROW_BYTES: usize = 140;

/// Makes a table of `count` rows in the new database `file`, then changes 10,000 of them `batches` times, spread over all, and reads
/// all: ms of each batch, by the clock and of CPU, seconds of the reading.
pub(crate) fn run(file: &Path, count: u64, batches: u64) -> Result<Value> {
    let mut conn = Connection::open(file)?;
    conn.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0;
         CREATE TABLE rows(id INTEGER PRIMARY KEY, data BLOB)",
    )?;
    let all = (0..count).step_by(usize::try_from(BATCH)?);
    for first in all {
        write(&mut conn, first..count.min(first + BATCH), 0)?;
    }
    let size = BATCH.min(count);
    let of_round = |round: u64| (0..size).map(move |n| super::state::spread_over(count, round * size + n));
    let ms = (1..=batches).map(|round| write(&mut conn, of_round(round), u8::try_from(round % 256)?));
    let (ms, cpu_ms): (Vec<f64>, Vec<f64>) = ms.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let begun = Instant::now();
    let (mut rows, mut bytes) = (0, 0);
    let mut read = conn.prepare("SELECT data FROM rows")?;
    let mut found = read.query([])?;
    while let Some(row) = found.next()? {
        rows += 1;
        bytes += row.get_ref(0)?.as_blob()?.len();
    }
    Ok(
        json!({"batch_ms": ms, "batch_cpu_ms": cpu_ms, "read_seconds": begun.elapsed().as_secs_f64(), "rows": rows, "bytes": bytes}),
    )
}

/// Writes the rows in one transaction that survives power loss: ms by the clock, and of CPU. What the log holds is moved into the file afterwards.
fn write(conn: &mut Connection, some: impl Iterator<Item = u64>, content: u8) -> Result<(f64, f64)> {
    let mut ids: Vec<i64> = some.map(|n| super::state::spread(n).cast_signed()).collect();
    ids.sort_unstable();
    let data = [content; ROW_BYTES];
    let (begun, cpu) = (Instant::now(), super::state::cpu_ms()?);
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut put = tx.prepare_cached("INSERT INTO rows VALUES(?1,?2) ON CONFLICT(id) DO UPDATE SET data=?2")?;
    ids.iter().try_for_each(|id| put.execute(params![id, data]).map(drop))?;
    drop(put);
    tx.commit()?;
    let took = (begun.elapsed().as_secs_f64() * 1000.0, super::state::cpu_ms()? - cpu);
    conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
    Ok(took)
}
