//! The steps of the demo up to the loss: each does something with the library, checks what came of it, and says so with its
//! numbers. How everything comes back: [`back`](super::back).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use indicatif::HumanCount;
use litesnap::clock::{Clock, MILLISECOND, SystemClock};
use litesnap::control::Control;
use litesnap::cycle::Silent;
use litesnap::fs::shown;
use litesnap::replicate::Replicator;
use litesnap::report::CycleReport;
use litesnap::timestamp::Timestamp;

use super::application::Application;
use super::fleet::{self, Content, Member};
use super::place::Place;
use super::tell::{bytes, time};
use crate::run::print;

/// Longer than stamps of files are young.
const YOUNG: Duration = Duration::from_millis(2100);
/// The database whose application keeps it open, and that is brought back as it was earlier.
pub(super) const WATCHED: usize = 0;
/// What happens to others: which, what is said of it, and how.
const CHANGES: [(usize, &str, &str); 3] = [
    (7, "more expensive", "UPDATE records SET cents = cents + 100 WHERE id % 3 = 0"),
    (14, "deleted", "DELETE FROM records WHERE id % 5 = 0"),
    (23, "added", "INSERT INTO records(who, what, cents) SELECT who, what, 0 FROM records WHERE id <= 30"),
];

/// The content of each database, by name.
pub(super) type Contents = BTreeMap<String, Content>;

/// The demo, as far as it has come.
pub(super) struct Steps<'a> {
    pub(super) place: &'a Place,
    pub(super) members: Vec<Member>,
    /// Objects that must lie in the store by now, and their bytes, by the reports.
    pub(super) objects: u64,
    pub(super) object_bytes: u64,
}

impl<'a> Steps<'a> {
    pub(super) fn new(place: &'a Place) -> Self {
        Self { place, members: fleet::members(&place.data()), objects: 0, object_bytes: 0 }
    }

    /// The whole story.
    pub(super) fn all(mut self) -> anyhow::Result<()> {
        let at_first = self.make_fleet()?;
        self.first_pass(&at_first)?;
        self.idle_pass()?;
        let earlier = now();
        let application = self.change_some()?;
        let at_last = self.contents()?;
        self.pass_of_changes()?;
        self.look_inside()?;
        self.lose_everything(application)?;
        self.restore_all(&at_last)?;
        self.restore_earlier(earlier, &at_first, &at_last)
    }

    /// What SQLite reads from each database.
    pub(super) fn contents(&self) -> anyhow::Result<Contents> {
        self.members.iter().map(|member| Ok((member.name.clone(), fleet::content(&member.path)?))).collect()
    }

    fn make_fleet(&self) -> anyhow::Result<Contents> {
        let begun = Instant::now();
        for member in &self.members {
            fleet::make(member).with_context(|| format!("cannot make {}", shown(&member.path)))?;
        }
        let made = begun.elapsed();
        let contents = self.contents()?;
        let (n, size) = fleet::size(&fleet::files(&self.place.data())?);
        ensure!(n == self.members.len() as u64, "{n} files are there instead of {} databases", self.members.len());
        print(&format!(
            "
1. A small fleet
  2 projects x 2 databases x 2 branches x 3 tenants = {n} SQLite databases in WAL mode, {} rows, {}, made in {}:
  {} and so on.
  What was written less than two seconds ago is looked at twice, to be sure: so a pause of {}.
",
            HumanCount(rows(&contents)),
            bytes(size),
            time(made),
            shown(&self.place.as_typed(&self.members[WATCHED].path)),
            time(YOUNG),
        ))?;
        Control::default().wait_until(Instant::now() + YOUNG);
        Ok(contents)
    }

    /// One pass, as `litesnap replicate --once` makes it. Nothing may fail, and nothing beside the databases may change.
    fn pass(&mut self) -> anyhow::Result<CycleReport> {
        let before = fleet::files(&self.place.data())?;
        let (clock, control) = (Arc::new(SystemClock), Arc::new(Control::default()));
        let mut replicator = Replicator::open(self.place.config()?, &Vec::new(), clock, control, Arc::new(Silent))?;
        let report = replicator.run_cycle(false);
        drop(replicator);
        ensure!(report.exit_code() == 0, "the pass did not do everything: {}", report.line());
        let n = self.members.len() as u64;
        ensure!(report.databases == n, "the pass found {} databases instead of {n}", report.databases);
        ensure!(fleet::files(&self.place.data())? == before, "the pass changed files of the databases");
        self.objects += report.stored;
        self.object_bytes += report.bytes;
        let stored = fleet::size(&fleet::files(&self.place.store())?);
        let expected = (self.objects, self.object_bytes);
        ensure!(stored == expected, "{stored:?} objects and bytes lie in the store instead of {expected:?}");
        Ok(report)
    }

    fn first_pass(&mut self, contents: &Contents) -> anyhow::Result<()> {
        let (_, raw) = fleet::size(&fleet::files(&self.place.data())?);
        let report = self.pass()?;
        let n = contents.len() as u64;
        ensure!(report.stored == n, "the first pass stored {} of {n} databases", report.stored);
        print(&format!(
            "
2. The first pass stores them all
  $ {}
  {} databases, {} objects, {} ({} before LZ4), {} requests to the store, in {}.
  {} of them were at rest and read without SQLite; nothing beside them was made or changed.
",
            self.place.replicate_command(),
            report.databases,
            report.stored,
            bytes(report.bytes),
            HumanCount(raw),
            report.requests,
            time(report.elapsed),
            report.reads.direct,
        ))
    }

    fn idle_pass(&mut self) -> anyhow::Result<()> {
        let report = self.pass()?;
        let CycleReport { stored, requests, .. } = report;
        ensure!((stored, requests) == (0, 0), "nothing had changed, and yet {stored} stored, {requests} requests");
        let looked = match report.changed {
            0 => "none has changed".to_owned(),
            n => format!("{n} were read to be sure, their content is stored already"),
        };
        print(&format!(
            "
3. The same again, while nothing changes
  {} databases looked at in {}: {looked}; 0 objects, 0 bytes, 0 requests. An idle fleet costs nothing.
",
            report.databases,
            time(report.elapsed),
        ))
    }

    fn change_some(&self) -> anyhow::Result<Application> {
        let watched = &self.members[WATCHED];
        let main = std::fs::metadata(&watched.path)?;
        let application = Application::start(&watched.path)?;
        let after = std::fs::metadata(&watched.path)?;
        let is_same = (main.len(), main.modified()?) == (after.len(), after.modified()?);
        ensure!(is_same, "the commit went into the main file of {}", watched.name);
        let wal = std::fs::metadata(with_suffix(&watched.path, "-wal"))?.len();
        let mut text = format!(
            "
4. Applications commit
  {}: {} rows added by a process that keeps it open. They are in its -wal ({}), not yet in the main file.
",
            watched.name,
            fleet::ROWS_OF_APPLICATION,
            bytes(wal),
        );
        for (index, what, sql) in CHANGES {
            let member = &self.members[index];
            let n = fleet::change(&member.path, sql).with_context(|| format!("cannot change {}", member.name))?;
            ensure!(n > 0, "no row of {} was changed", member.name);
            writeln!(text, "  {}: {n} rows {what}.", member.name)?;
        }
        print(&text)?;
        Ok(application)
    }

    fn pass_of_changes(&mut self) -> anyhow::Result<()> {
        let report = self.pass()?;
        let expected = CHANGES.len() as u64 + 1;
        ensure!(report.stored == expected, "{expected} databases had changed, {} were stored", report.stored);
        print(&format!(
            "  The same command once more: {} objects, {}, {} requests, in {}; the -wal is still there, byte for byte as long.
",
            report.stored,
            bytes(report.bytes),
            report.requests,
            time(report.elapsed),
        ))
    }
}

fn now() -> Timestamp {
    Timestamp::from_ms(SystemClock.now() / MILLISECOND).unwrap_or(Timestamp::MIN)
}

/// Rows of all of them.
pub(super) fn rows(contents: &Contents) -> u64 {
    contents.values().map(|content| content.rows).sum()
}

fn with_suffix(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
