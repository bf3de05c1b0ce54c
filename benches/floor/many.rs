//! A store of very many objects: an S3 server in memory that takes a given time before every answer, for commands that list.
//!
//! Not a floor: what is measured are the commands. The server is the tests' own, in a process of its own.

#[path = "../../tests/it/big_s3.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "support of the tests, of which this uses a part"
)]
mod big_s3;

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use big_s3::{BigS3, Make};
use bytes::Bytes;
use litesnap::object::{Description, decode};
use serde_json::{Value, json};

const NEWEST: &str = "20261121T063339.123Z";
const OLDER: &str = "20261120T063339.123Z";
/// One in so many objects is an older snapshot of the database before it: what `prune --keep-last 1` removes.
const OLDER_EVERY: u64 = 20;

/// Serves `count` objects below the prefix `b`, all like the stored object in the file `like`. Prints its address, and for each
/// line on standard input what it was asked for since the last: after `counts`; `fill` brings back what was deleted, too.
/// Ends with its input.
pub(crate) fn serve(count: u64, latency: Duration, like: &Path) -> Result<Value> {
    let (len, make) = objects(like)?;
    let s3 = BigS3::start(latency);
    let fill = || s3.put_made((0..count).map(key), len, &make);
    fill();
    let tell = |value: Value| writeln!(std::io::stdout(), "{value}");
    tell(json!({"url": s3.url("b"), "objects": count, "object_bytes": len, "path": path_of(&key(0))}))?;
    for line in std::io::stdin().lock().lines() {
        match line?.as_str() {
            "counts" => {}
            "fill" => fill(),
            other => bail!("'{other}' is neither counts nor fill"),
        }
        tell(counts(&s3))?;
        s3.forget();
    }
    Ok(counts(&s3))
}

fn counts(s3: &BigS3) -> Value {
    let verbs = ["LIST", "GET", "HEAD", "PUT", "POST", "DELETE"];
    let mut counts: serde_json::Map<String, Value> =
        verbs.iter().map(|v| ((*v).to_owned(), s3.count(v).into())).collect();
    counts.insert("at_once".into(), s3.at_once_max().into());
    counts.into()
}

fn key(n: u64) -> String {
    let (tenant, time) = if n % OLDER_EVERY == OLDER_EVERY - 1 { (n - 1, OLDER) } else { (n, NEWEST) };
    format!("b/srv/app/tenants/t{tenant:07}.db/{time}.db.lz4")
}

/// The path of the database whose snapshot lies under `key`.
fn path_of(key: &str) -> PathBuf {
    let prefix = key.rsplit_once('/').map_or(key, |(prefix, _)| prefix);
    Path::new("/").join(prefix.trim_start_matches("b/"))
}

/// The length of each object, and how to make the one of a key: the frame of the object `like` and a description that names the key.
fn objects(like: &Path) -> Result<(usize, Make)> {
    let object = std::fs::read(like).with_context(|| format!("{}", like.display()))?;
    let described = decode(&object[..], None, &mut Vec::new()).context("no object of litesnap")?;
    let frame = object[..usize::try_from(described.frame_size)?].to_vec();
    let make = move |key: &str| {
        let mut bytes = frame.clone();
        Description { key: key.to_owned(), path: path_of(key), ..described.clone() }.append_to(&mut bytes);
        Bytes::from(bytes)
    };
    Ok((make(&key(0)).len(), Arc::new(make)))
}
