//! The steps of the demo from the store's side: what lies in it, the loss, and how everything comes back.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use indicatif::HumanCount;
use litesnap::access::Access;
use litesnap::catalogue::Database;
use litesnap::config::CONCURRENCY_DEFAULT;
use litesnap::control::Control;
use litesnap::cycle::{Observer, Silent};
use litesnap::fs::shown;
use litesnap::names::Names;
use litesnap::restore::check::Check;
use litesnap::restore::{RestoreOptions, RestoreReport, Target, restore};
use litesnap::store::Verb;
use litesnap::timestamp::Timestamp;

use super::application::Application;
use super::fleet;
use super::steps::{Contents, Steps, WATCHED, rows};
use super::tell::{bytes, time, word};
use crate::run::print;

impl Steps<'_> {
    fn access(&self) -> anyhow::Result<Access> {
        let control = Arc::new(Control::default());
        Ok(Access::open(&self.place.store_options(), &Vec::new(), CONCURRENCY_DEFAULT, control)?)
    }

    pub(super) fn look_inside(&self) -> anyhow::Result<()> {
        let access = self.access()?;
        let (mut databases, mut snapshots, mut watched) = (0u64, 0u64, Database::default());
        access.catalogue(&Names::all())?.each::<anyhow::Error>(|database| {
            databases += 1;
            snapshots += database.snapshots.len() as u64;
            if database.name == self.members[WATCHED].name {
                watched = database;
            }
            Ok(())
        })?;
        let expected = (self.members.len() as u64, self.objects);
        ensure!((databases, snapshots) == expected, "the store lists {databases} databases, {snapshots} snapshots");
        let [_, newest] = &watched.snapshots[..] else {
            anyhow::bail!("{} has {} snapshots instead of 2", watched.name, watched.snapshots.len());
        };
        let key = &newest.location.key;
        let (description, size) = access.describe_key(key).with_context(|| format!("cannot read {key}"))?;
        let store = self.place.store_option();
        print(&format!(
            "
5. What lies in the store
  $ litesnap list {store}
  {databases} databases, {snapshots} snapshots, {}. A key says whose and when:
  $ litesnap show {store} {}
  {} stored, a database of {} as of {}, content hash {}.
  It is a standard LZ4 frame, and needs no litesnap to be read:
  $ lz4 -dcq {} > {}
",
            bytes(self.object_bytes),
            word(Path::new(key)),
            bytes(size),
            bytes(description.raw_size),
            description.taken_at.to_rfc3339(),
            description.content_hash,
            self.place.word(&self.place.store().join(key)),
            self.place.word(&self.place.store().with_file_name("by-hand.db")),
        ))
    }

    pub(super) fn lose_everything(&self, application: Application) -> anyhow::Result<()> {
        application.kill()?;
        let (data, state) = (self.place.data(), self.place.state());
        let n = fleet::files(&data)?.len();
        for folder in [&data, &state] {
            std::fs::remove_dir_all(folder).with_context(|| format!("cannot delete {}", shown(folder)))?;
        }
        print(&format!(
            "
6. The host is lost
  The application was killed, all {n} files of the databases were deleted, and all that litesnap remembered. Only the store is left:
  $ rm -r {} {}
",
            self.place.word(&data),
            self.place.word(&state),
        ))
    }

    fn restore(&self, names: Names, at: Option<Timestamp>, target: Target) -> anyhow::Result<RestoreReport> {
        let options = RestoreOptions {
            names,
            at,
            target,
            include_deleted: false,
            include_bad: false,
            force: false,
            skip_existing: false,
            if_replica_exists: false,
            dry_run: false,
            check: Check::None,
        };
        let silent: Arc<dyn Observer> = Arc::new(Silent);
        let report = restore(&self.access()?, &options, &silent, |_| Ok(()))?;
        ensure!(report.exit_code() == 0, "not everything came back: {}", report.line());
        Ok(report)
    }

    pub(super) fn restore_all(&self, as_lost: &Contents) -> anyhow::Result<()> {
        let report = self.restore(Names::all(), None, Target::InPlace)?;
        let n = self.members.len() as u64;
        ensure!(report.restored == n, "{} of {n} databases came back", report.restored);
        let back = self.contents()?;
        let differ: Vec<&str> = back.keys().filter(|name| back[*name] != as_lost[*name]).map(String::as_str).collect();
        ensure!(differ.is_empty(), "these came back other than they were: {}", differ.join(", "));
        print(&format!(
            "  $ litesnap restore {} --in-place
  {} databases, {}, back where they were in {}: {} LIST, {} GET, every hash checked.
  Compared row by row with what was there before the loss: {} rows in {} databases, all the same, integrity_check ok.
",
            self.place.store_option(),
            report.restored,
            bytes(report.bytes),
            time(report.elapsed),
            report.requests.of(Verb::List),
            report.requests.of(Verb::Get),
            HumanCount(rows(&back)),
            back.len(),
        ))
    }

    pub(super) fn restore_earlier(&self, at: Timestamp, at_first: &Contents, at_last: &Contents) -> anyhow::Result<()> {
        let (name, file) = (&self.members[WATCHED].name, self.place.earlier());
        let report = self.restore(Names::exactly(name)?, Some(at), Target::File(file.clone()))?;
        ensure!(report.restored == 1, "{} databases came back instead of 1", report.restored);
        let (earlier, today) = (fleet::content(&file)?, fleet::content(&self.members[WATCHED].path)?);
        ensure!(earlier == at_first[name], "{name} is not as it was at {}", at.to_rfc3339());
        ensure!(today == at_last[name] && today != earlier, "{name} itself was changed");
        print(&format!(
            "
7. One of them as it was before step 4, beside today's
  $ litesnap restore {} --match {name} --at {} -o {}
  {} rows, as then; today's has {}. In {}: {} LIST, {} GET.
",
            self.place.store_option(),
            at.to_rfc3339(),
            self.place.word(&file),
            HumanCount(earlier.rows),
            HumanCount(today.rows),
            time(report.elapsed),
            report.requests.of(Verb::List),
            report.requests.of(Verb::Get),
        ))
    }
}
