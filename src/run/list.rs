//! `litesnap list`: what is stored, one line per database or per object, written while it is read.

use std::io::{BufWriter, StdoutLock, Write};

use anyhow::Context;
use indicatif::HumanBytes;
use litesnap::access::{Access, Wanted};
use litesnap::catalogue::{Catalogue, Database};
use litesnap::clock::{Clock, MILLISECOND, SystemClock};
use litesnap::error::Error;
use litesnap::inventory::{DatabaseRow, Described, ObjectKind, ObjectRow, objects, rounded_age};
use litesnap::names::Names;
use litesnap::timestamp::Timestamp;

use super::{access, ignore_closed};
use crate::cli::List;

/// Rows whose descriptions are asked for together: enough to keep all requests busy, few enough to hold.
const TOGETHER: usize = 1000;

pub(crate) fn list(args: &List) -> anyhow::Result<u8> {
    let readings = match &args.snapshots {
        Some(name) => Names::readings(name)?,
        None => vec![Names::parse(&args.only.globs)?],
    };
    let access = access(&args.store)?;
    let mut listing =
        Listing { access: &access, out: BufWriter::new(std::io::stdout().lock()), args, databases: 0, unreadable: 0 };
    let mut others = readings.into_iter();
    let mut names = others.next().expect("there is a first reading");
    loop {
        let catalogue = access.catalogue(&names)?;
        let written =
            if args.snapshots.is_some() { listing.objects(&catalogue) } else { listing.databases(&catalogue) };
        match written {
            Err(e) if !is_closed(&e) => return Err(e),
            // Whoever reads our output has seen enough.
            _ => {}
        }
        match others.next() {
            Some(other) if listing.databases == 0 => names = other,
            _ => return listing.ended(&catalogue, &names),
        }
    }
}

struct Listing<'a> {
    access: &'a Access,
    out: BufWriter<StdoutLock<'static>>,
    args: &'a List,
    databases: u64,
    /// Objects whose description was asked for and could not be had.
    unreadable: u64,
}

impl Listing<'_> {
    fn databases(&mut self, catalogue: &Catalogue) -> anyhow::Result<()> {
        let now = Timestamp::from_ms(SystemClock.now() / MILLISECOND).unwrap_or(Timestamp::MIN);
        let mut held = Vec::new();
        catalogue.each(|database| {
            self.databases += 1;
            let newest = if self.args.long { database.snapshots.last().map(Wanted::from) } else { None };
            held.push((DatabaseRow::new(&database, now), newest));
            if held.len() < if self.args.long { TOGETHER } else { 1 } {
                return Ok(());
            }
            self.write_databases(std::mem::take(&mut held))
        })?;
        self.write_databases(held)?;
        self.flush()
    }

    fn write_databases(&mut self, held: Vec<(DatabaseRow, Option<Wanted>)>) -> anyhow::Result<()> {
        let (mut rows, wanted): (Vec<_>, Vec<_>) = held.into_iter().unzip();
        self.describe(wanted, |i, described| rows[i].described = Some(described))?;
        for row in &rows {
            let line = if self.args.json { serde_json::to_string(row)? } else { database_line(row) };
            self.line(&line)?;
        }
        Ok(())
    }

    fn objects(&mut self, catalogue: &Catalogue) -> anyhow::Result<()> {
        catalogue.each(|database| {
            self.databases += 1;
            self.write_objects(&database)
        })?;
        self.flush()
    }

    fn write_objects(&mut self, database: &Database) -> anyhow::Result<()> {
        let mut rows = objects(database).peekable();
        while rows.peek().is_some() {
            let mut some: Vec<ObjectRow> = rows.by_ref().take(TOGETHER).collect();
            if self.args.long {
                let wanted = some.iter().map(|row| wanted(database, row)).collect();
                self.describe(wanted, |i, described| some[i].described = Some(described))?;
            }
            for row in &some {
                let line = if self.args.json { serde_json::to_string(row)? } else { object_line(row) };
                self.line(&line)?;
            }
        }
        Ok(())
    }

    /// Asks what each of `wanted` says about itself, and hands it over with its place.
    fn describe(&mut self, wanted: Vec<Option<Wanted>>, mut put: impl FnMut(usize, Described)) -> anyhow::Result<()> {
        let tasks = wanted.into_iter().enumerate().filter_map(|(i, wanted)| Some((i, wanted?)));
        self.access.describe_each(tasks, |i, read| {
            if let Some(signal) = self.access.control.stop_signal() {
                return Err(Error::Interrupted { signal });
            }
            self.unreadable += u64::from(read.is_err());
            put(i, read.into());
            Ok(())
        })?;
        Ok(())
    }

    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        writeln!(self.out, "{line}").context(CANNOT_WRITE)
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.out.flush().context(CANNOT_WRITE)
    }

    /// The summary, and the exit code.
    fn ended(&self, catalogue: &Catalogue, names: &Names) -> anyhow::Result<u8> {
        let (totals, store) = (catalogue.totals(), &self.access.store);
        log::info!(
            "databases={} snapshots={} bytes={} foreign={} requests={}",
            self.databases,
            totals.snapshots,
            totals.bytes,
            totals.foreign,
            store.requests.total()
        );
        if let Some(failure) = self.access.down() {
            return Err(Error::Store { what: format!("cannot read from {}: {failure}", store.name) }.into());
        }
        if self.databases > 0 {
            let unmatched = if self.args.only.globs.len() > 1 { catalogue.unmatched(names)? } else { Vec::new() };
            return Ok(super::name_unmatched(&unmatched, &store.name).max(u8::from(self.unreadable > 0)));
        }
        if names.texts().is_empty() {
            log::info!("{} holds no snapshots", store.name);
            return Ok(0);
        }
        let asked = self.args.snapshots.clone().unwrap_or_else(|| names.texts().join(", nor "));
        anyhow::bail!("nothing in {} matches {asked}: `litesnap list` without it shows all names", store.name)
    }
}

/// The snapshot of `row`, if it is one.
fn wanted(database: &Database, row: &ObjectRow) -> Option<Wanted> {
    let at = database.snapshots.binary_search_by_key(&row.time, |s| s.time);
    at.ok().filter(|_| row.kind == ObjectKind::Snapshot).map(|at| Wanted::from(&database.snapshots[at]))
}

const CANNOT_WRITE: &str = "cannot write to standard output";

fn is_closed(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| ignore_closed(e.kind().into()).is_ok())
}

fn database_line(row: &DatabaseRow) -> String {
    let newest = row.newest.map_or_else(|| "-".to_owned(), Timestamp::to_rfc3339);
    let age = row.age_s.map_or_else(|| "-".to_owned(), rounded_age);
    let noun = if row.snapshots == 1 { "snapshot " } else { "snapshots" };
    let mut line = format!(
        "{newest:24}  {age:>8}  {:>10}  {:>6} {noun}  ",
        HumanBytes(row.stored_bytes).to_string(),
        row.snapshots
    );
    push_described(&mut line, row.described.as_ref());
    line.push_str(&row.name);
    if let Some(Described::Read { host, path, .. }) = &row.described {
        line.push_str(&format!("  from {host}:{path}"));
    }
    if let Some(since) = row.gone_since {
        line.push_str(&format!("  [gone since {}]", since.to_rfc3339()));
    }
    if row.newest_is_bad {
        line.push_str("  [newest is bad]");
    }
    push_unreadable(&mut line, row.described.as_ref());
    line
}

fn object_line(row: &ObjectRow) -> String {
    let size = row.stored_bytes.map_or_else(|| "-".to_owned(), |n| HumanBytes(n).to_string());
    let mut line = format!("{}  {size:>10}  ", row.time.to_rfc3339());
    push_described(&mut line, row.described.as_ref());
    line.push_str(&row.key);
    line.push_str(match (row.kind, row.is_bad) {
        (ObjectKind::Snapshot, false) => "",
        (ObjectKind::Snapshot, true) => "  [bad]",
        (ObjectKind::Tombstone, _) => "  [gone from its host]",
        (ObjectKind::StrayMarker, _) => "  [marker of a bad snapshot that is not there any more]",
    });
    push_unreadable(&mut line, row.described.as_ref());
    line
}

/// Raw size, journal mode and hash, in columns of one width whatever they hold.
fn push_described(line: &mut String, described: Option<&Described>) {
    let columns = match described {
        None => return,
        Some(Described::Read { raw_bytes, journal_mode, content_hash, .. }) => {
            (HumanBytes(*raw_bytes).to_string(), mode_word(*journal_mode), content_hash.to_string())
        }
        Some(Described::Unreadable { .. }) => ("-".to_owned(), "-", "-".to_owned()),
    };
    line.push_str(&format!("{:>10}  {:8}  {:32}  ", columns.0, columns.1, columns.2));
}

fn push_unreadable(line: &mut String, described: Option<&Described>) {
    if let Some(Described::Unreadable { error, detail }) = described {
        line.push_str(&format!("  [{error}: {detail}]"));
    }
}

pub(super) fn mode_word(mode: litesnap::header::JournalMode) -> &'static str {
    use litesnap::header::JournalMode::{Rollback, Unknown, Wal};
    match mode {
        Rollback => "rollback",
        Wal => "wal",
        Unknown => "unknown",
    }
}
