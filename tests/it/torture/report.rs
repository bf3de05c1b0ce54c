//! The report: what ran, how much of it, and what was wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::fleet::REPLICAS;
use super::replicas::Told;
use crate::big_s3::Harmed;

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) rounds: u64,
    /// Snapshots checked, by replica.
    pub(crate) snapshots: [u64; REPLICAS.len()],
    pub(crate) tombstones: u64,
    /// Databases named as failed in the two cycles, and stored in a later one.
    pub(crate) late: u64,
    /// Sidecars that stayed because several replicas read one database at once.
    pub(crate) left: u64,
}

#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) reading: String,
    pub(crate) took: Duration,
    pub(crate) databases: usize,
    pub(crate) counts: Counts,
    pub(crate) commits: BTreeMap<String, u64>,
    pub(crate) busy: u64,
    pub(crate) kills: u64,
    pub(crate) writer_kills: u64,
    pub(crate) states_lost: u64,
    pub(crate) harmed: BTreeMap<Harmed, u64>,
    pub(crate) puts: usize,
    pub(crate) told: Vec<Told>,
    pub(crate) violations: Vec<String>,
    pub(crate) evidence: PathBuf,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { counts, .. } = self;
        writeln!(f, "# Torture\n")?;
        writeln!(f, "{}\n", machine())?;
        writeln!(
            f,
            "`scripts/torture --minutes {} --seed {} --reading {}`\n",
            self.minutes(),
            self.seed,
            self.reading
        )?;
        writeln!(f, "| | |\n|---|---:|")?;
        let snapshots: u64 = counts.snapshots.iter().sum();
        let rows = [
            ("minutes", self.minutes()),
            ("rounds of churn and rest", counts.rounds.to_string()),
            ("databases", self.databases.to_string()),
            ("commits", self.commits.values().sum::<u64>().to_string()),
            ("snapshots checked", snapshots.to_string()),
            ("SIGKILLs of litesnap", self.kills.to_string()),
            ("SIGKILLs of applications", self.writer_kills.to_string()),
            ("litesnap's state lost", self.states_lost.to_string()),
            ("tombstones of deleted databases", counts.tombstones.to_string()),
            ("**torn**", self.violations_of("torn").to_string()),
            ("**stale**", self.violations_of("stale").to_string()),
            ("**lost**", self.violations_of("lost").to_string()),
            ("**other violations**", self.violations_of("").to_string()),
            ("stored later than in two cycles, and named meanwhile", counts.late.to_string()),
            ("sidecars left where several replicas read at once", counts.left.to_string()),
            ("transactions of applications refused: locked for 5 s", self.busy.to_string()),
        ];
        for (name, value) in rows {
            writeln!(f, "| {name} | {value} |")?;
        }
        self.by_mode(f)?;
        self.by_replica(f)?;
        if !self.violations.is_empty() {
            writeln!(f, "\n## Violations\n\nEvidence in `{}`.\n", self.evidence.display())?;
            self.violations.iter().try_for_each(|what| writeln!(f, "- {what}"))?;
        }
        Ok(())
    }
}

impl Report {
    fn minutes(&self) -> String {
        format!("{:.1}", self.took.as_secs_f64() / 60.0)
    }

    /// Those of a kind; with `""` those of none.
    fn violations_of(&self, kind: &str) -> usize {
        let is = |what: &str, kind: &str| what.contains(&format!(": {kind}: "));
        let of = |what: &&String| match kind {
            "" => !["torn", "stale", "lost"].iter().any(|kind| is(what, kind)),
            kind => is(what, kind),
        };
        self.violations.iter().filter(of).count()
    }

    fn by_mode(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n| journal mode | commits |\n|---|---:|")?;
        self.commits.iter().try_for_each(|(mode, n)| writeln!(f, "| {mode} | {n} |"))
    }

    fn by_replica(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n| litesnap | {} |\n|---{}|", REPLICAS.join(" | "), "|---:".repeat(REPLICAS.len()))?;
        let mut row = |name: &str, values: Vec<u64>| {
            let values: Vec<String> = values.iter().map(u64::to_string).collect();
            writeln!(f, "| {name} | {} |", values.join(" | "))
        };
        row("snapshots checked", self.counts.snapshots.to_vec())?;
        row("cycles", self.told.iter().map(|told| told.cycles).collect())?;
        let mut names: Vec<&String> = self.told.iter().flat_map(|told| told.sums.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            row(name, self.told.iter().map(|told| told.sums.get(name).copied().unwrap_or_default()).collect())?;
        }
        let harmed: u64 = self.harmed.values().sum();
        writeln!(f, "\nThe S3 server had {} PUTs; {harmed} requests came to harm: {:?}.", self.puts, self.harmed)
    }
}

/// The machine and the versions.
fn machine() -> String {
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        output.map_or_else(|_| format!("no {program}"), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let python = said(
        "python3",
        &["-c", "import sqlite3, sys; print(sys.version.split()[0], 'with SQLite', sqlite3.sqlite_version)"],
    );
    let shell = said("sqlite3", &["--version"]);
    let shell = shell.split(' ').next().unwrap_or_default();
    format!(
        "{}, {cores} cores; litesnap {} ({}) with SQLite {}; writing: Python {python}, sqlite3 shell {shell}.",
        said("uname", &["-srm"]),
        env!("CARGO_PKG_VERSION"),
        if cfg!(debug_assertions) { "debug build" } else { "release build" },
        rusqlite::version(),
    )
}
