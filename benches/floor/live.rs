//! Writers of an application: a connection to each of some databases in WAL mode, kept open, so that each has a `-wal` and
//! a `-shm`. Each commit has a number, which `user_version` tells, so that a snapshot can be told to hold it.
//!
//! Does what standard input says, a line at a time, and answers each line with one of JSON:
//! `burst`: one commit in each database, at once. `spread SECONDS TIMES LOG`: one commit in each database at a random time of each
//! of so many windows of so many seconds; `LOG` gets a line `NANOSECONDS NUMBER PATH` for each, with the time at which it
//! was committed.

use std::fs::File;
use std::io::{BufRead, BufWriter, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rusqlite::{Connection, params};
use serde_json::{Value, json};

struct Writer {
    path: String,
    connection: Connection,
    number: i32,
}

impl Writer {
    fn open(path: &str) -> Result<Self> {
        let connection = Connection::open(path)?;
        let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        if mode != "wal" {
            bail!("its journal mode stays {mode}");
        }
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.set_prepared_statement_cache_capacity(4);
        connection.pragma_update(None, "cache_size", -64)?;
        connection.execute_batch("CREATE TABLE IF NOT EXISTS bench_commits(number INTEGER PRIMARY KEY, note TEXT)")?;
        let last = "SELECT coalesce(max(number), 0) FROM bench_commits";
        let number = connection.query_row(last, [], |row| row.get(0))?;
        Ok(Self { path: path.to_owned(), connection, number })
    }

    fn commit(&mut self) -> Result<()> {
        self.number += 1;
        let tx = self.connection.transaction()?;
        tx.prepare_cached("INSERT INTO bench_commits VALUES(?1, ?2)")?
            .execute(params![self.number, format!("{:0100}", self.number)])?;
        tx.pragma_update(None, "user_version", self.number)?;
        tx.commit()?;
        Ok(())
    }
}

/// Opens the databases named in `list`, one to a line, and does what standard input says until its end.
pub(crate) fn live(list: &str) -> Result<()> {
    let list = std::fs::read_to_string(list).with_context(|| list.to_owned())?;
    let mut writers = Vec::new();
    for path in list.lines() {
        writers.push(Writer::open(path).with_context(|| path.to_owned())?);
    }
    say(&json!({"databases": writers.len()}))?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = match line.split(' ').collect::<Vec<_>>()[..] {
            ["burst"] => burst(&mut writers)?,
            ["spread", seconds, times, log] => spread(&mut writers, seconds.parse()?, times.parse()?, log)?,
            _ => bail!("{line:?} is neither burst nor spread SECONDS TIMES LOG"),
        };
        say(&answer)?;
    }
    Ok(())
}

fn say(answer: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{answer}")?;
    Ok(out.flush()?)
}

fn burst(writers: &mut [Writer]) -> Result<Value> {
    let began = Instant::now();
    writers.iter_mut().try_for_each(Writer::commit)?;
    Ok(json!({"seconds": began.elapsed().as_secs_f64(), "commits": writers.len()}))
}

fn spread(writers: &mut [Writer], seconds: f64, times: u32, log: &str) -> Result<Value> {
    let mut log = BufWriter::new(File::create(log)?);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let (began, mut late_max, mut commits) = (Instant::now(), Duration::ZERO, 0_u64);
    for window in 0..times {
        let mut due: Vec<(Duration, usize)> = Vec::with_capacity(writers.len());
        for n in 0..writers.len() {
            // xorshift64.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let within = (random >> 11) as f64 / (1_u64 << 53) as f64;
            due.push((Duration::from_secs_f64((f64::from(window) + within) * seconds), n));
        }
        due.sort_unstable();
        for (at, n) in due {
            let wait = at.saturating_sub(began.elapsed());
            if wait > Duration::ZERO {
                std::thread::sleep(wait);
            }
            late_max = late_max.max(began.elapsed().saturating_sub(at));
            writers[n].commit()?;
            commits += 1;
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
            writeln!(log, "{now} {} {}", writers[n].number, writers[n].path)?;
        }
    }
    log.flush()?;
    Ok(json!({"seconds": began.elapsed().as_secs_f64(), "commits": commits, "late_s": late_max.as_secs_f64()}))
}
