//! `litesnap show`: what one object says about itself.

use std::path::Path;

use indicatif::HumanBytes;
use litesnap::access::{Access, FetchError};
use litesnap::error::Error;
use litesnap::fs::shown;
use litesnap::inventory::keys_meant;
use litesnap::layout::{KeyKind, parse_key};
use litesnap::names::decoded;
use litesnap::object::Description;

use super::{access, list::mode_word, print};
use crate::cli::Show;

/// Of a tombstone or a marker, which have a few hundred bytes.
const SMALL_MAX: u64 = 16 << 10;

pub(crate) fn show(args: &Show) -> anyhow::Result<u8> {
    let access = access(&args.store)?;
    let meant = keys_meant(&access.store.prefix, &args.key);
    if meant.is_empty() {
        return Err(Error::Usage(format!(
            "'{}' is no key of litesnap's: give one as `litesnap list --snapshots NAME` shows it, such as \
             srv/app/acme.db/20261121T063339.123Z.db.lz4",
            shown(Path::new(&args.key))
        ))
        .into());
    }
    let mut told = Err(FetchError::Missing);
    for (key, kind) in meant {
        told = tell(&access, key, kind, args.json);
        if !matches!(told, Err(FetchError::Missing)) {
            break;
        }
    }
    match told {
        Ok(text) => {
            print(&text)?;
            Ok(0)
        }
        Err(e) => Err(failed(&access, &args.key, &e)),
    }
}

fn tell(access: &Access, key: &str, kind: KeyKind, json: bool) -> Result<String, FetchError> {
    if kind == KeyKind::Snapshot {
        let (description, size) = access.describe_key(key)?;
        return Ok(if json {
            serde_json::to_string(&description).expect("a description has only text and numbers") + "\n"
        } else {
            text(&fields(key, &description, size))
        });
    }
    let content = access.read_small(key, SMALL_MAX)?;
    Ok(small(key, kind, &String::from_utf8_lossy(&content), json))
}

/// A tombstone or a marker: what it is by its key, and its few bytes.
fn small(key: &str, kind: KeyKind, content: &str, json: bool) -> String {
    let parsed = parse_key(key).expect("only keys that parse are asked for");
    let (word, meaning) = match kind {
        KeyKind::BadMarker => ("marker", "the snapshot of this time is known to be bad"),
        _ => ("tombstone", "the database was gone from its host at this time"),
    };
    let name = shown(&decoded(parsed.prefix)).to_string();
    if json {
        // Its own fields, if it has any, as they are.
        let content = serde_json::from_str(content).unwrap_or_else(|_| serde_json::Value::from(content));
        let time = parsed.ts.to_rfc3339();
        let row = serde_json::json!({"kind": word, "name": name, "time": time, "key": key, "content": content});
        return row.to_string() + "\n";
    }
    text(&[
        ("kind", format!("{word}: {meaning}")),
        ("name", name),
        ("time", parsed.ts.to_rfc3339()),
        ("key", key.to_owned()),
        ("content", content.trim_end().to_owned()),
    ])
}

fn fields(key: &str, d: &Description, size: u64) -> Vec<(&'static str, String)> {
    let bytes = |n: u64| format!("{n} ({})", HumanBytes(n));
    let parsed = parse_key(key).expect("only keys that parse are asked for");
    let mut fields = vec![
        ("kind", "snapshot".to_owned()),
        ("name", shown(&decoded(parsed.prefix)).to_string()),
        ("taken at", d.taken_at.to_rfc3339()),
        ("host", d.host.clone()),
        ("path", shown(&d.path).to_string()),
        ("key", d.key.clone()),
        ("stored size", bytes(size)),
        ("raw size", bytes(d.raw_size)),
        ("pages", format!("{} of {} bytes", d.page_count, d.page_size)),
        ("journal mode", mode_word(d.journal_mode).to_owned()),
        ("owner", format!("{}:{}", d.uid, d.gid)),
        ("mode", format!("{:04o}", d.mode)),
        ("modified at", rfc3339(d.mtime_ns)),
        ("content hash", d.content_hash.to_string()),
        ("frame hash", d.frame_hash.to_string()),
        ("frame size", bytes(d.frame_size)),
    ];
    fields.extend(d.schema_version.map(|version| ("schema version", version.to_string())));
    fields.extend(d.sqlite_version.map(|version| ("written by SQLite", sqlite_version(version))));
    fields.push(("made by", format!("litesnap {}, format {}", d.litesnap, d.format)));
    fields
}

/// `3.54.1` for 3054001.
fn sqlite_version(number: u32) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000)
}

/// A modification time may lie outside the years that keys can tell: then in nanoseconds.
fn rfc3339(ns: i64) -> String {
    let time = litesnap::timestamp::Timestamp::from_ms(ns.div_euclid(litesnap::clock::MILLISECOND));
    time.map_or_else(|| format!("{ns} ns since 1970"), litesnap::timestamp::Timestamp::to_rfc3339)
}

/// `field: value`, values in one column. What a stranger wrote into an object writes no lines of its own.
fn text(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len() + 1).max().unwrap_or_default();
    let line = |(name, value): &(&str, String)| format!("{:width$} {}\n", format!("{name}:"), shown(Path::new(value)));
    fields.iter().map(line).collect()
}

fn failed(access: &Access, key: &str, error: &FetchError) -> anyhow::Error {
    let (key, store) = (shown(Path::new(key)), &access.store.name);
    match (error, access.control.stop_signal()) {
        (FetchError::Untried, Some(signal)) => Error::Interrupted { signal }.into(),
        (FetchError::Store(failure), _) if failure.reason.concerns_store() => {
            Error::Store { what: format!("cannot read {key} from {store}: {failure}") }.into()
        }
        (FetchError::Missing, _) => {
            anyhow::anyhow!("there is no {key} in {store}: `litesnap list --snapshots NAME` shows the keys there are")
        }
        _ => anyhow::anyhow!("{key}: {}: {error}", error.word()),
    }
}
