//! Everything that runs: applications, litesnaps, stores; churn, and how it comes to rest.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use litesnap::store::{Store, StoreOptions};
use parking_lot::Mutex;

use super::Settings;
use super::plan::{self, Database};
use super::random::Random;
use super::replicas::{Binary, INTERVAL, Library, Replica, Told};
use super::stores::Depot;
use super::writers::Writer;
use crate::big_s3::{BigS3, Harmed};
use crate::s3_server;

/// Between the kills of one replica.
const KILL_REPLICA: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(4000));
/// Between the kills of one application.
const KILL_WRITER: (Duration, Duration) = (Duration::from_millis(1500), Duration::from_millis(9000));
/// Of a hundred requests to the S3 server so many come to harm: in churn, and while the last commits are stored.
const HARMED_PERCENT: u64 = 4;
const HARMED_PERCENT_LAST: u64 = 40;
/// So often are all replicas killed while they store the last commits, and after so long.
const LAST_KILLS: usize = 3;
const KILL_LAST: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(2500));
/// One of so many restarts finds no state.
const STATE_LOST: u64 = 12;
/// Cycles take a tenth of a second; on a machine that does much else, a hundred times as long.
const CYCLES_WAIT_MAX: Duration = Duration::from_secs(180);

/// What came to harm in the S3 server, by kind, and how much of it does now.
#[derive(Debug, Default)]
struct Harms {
    percent: u64,
    counts: BTreeMap<Harmed, u64>,
}

pub(crate) struct Fleet {
    pub(crate) databases: Vec<Database>,
    pub(crate) writers: Vec<Writer>,
    pub(crate) replicas: Vec<Replica>,
    /// The store of each replica.
    pub(crate) depots: Vec<Depot>,
    pub(crate) kills: u64,
    pub(crate) writer_kills: u64,
    pub(crate) states_lost: u64,
    pub(crate) server: Arc<BigS3>,
    harms: Arc<Mutex<Harms>>,
    random: Random,
}

/// What the replicas are called, in this order.
pub(crate) const REPLICAS: [&str; 3] = ["binary, folder", "binary, S3", "library, memory"];

impl Fleet {
    /// Everything lies below `dir`.
    pub(crate) fn start(settings: &Settings, dir: &Path) -> Self {
        let mut random = Random::new(settings.seed);
        let (data, logs) = (dir.join("data"), dir.join("logs"));
        let (databases, applications) = plan::fleet(&data, settings.scale, REPLICAS.len(), &mut random);
        for folder in databases.iter().map(|d| d.path.parent().unwrap()).chain([&*logs]) {
            fs::create_dir_all(folder).unwrap();
        }
        let server = Arc::new(BigS3::start(Duration::ZERO));
        let harms = harm(&server, random.clone());
        let memory = Store::open(&StoreOptions::new("memory://"), &[]).unwrap();
        let depots = vec![
            Depot::Folder(dir.join("store")),
            Depot::S3(Arc::clone(&server)),
            Depot::Memory(Arc::clone(&memory.inner)),
        ];
        let writers = applications.iter().flat_map(|a| Writer::start_all(a, &logs, settings.seed)).collect();
        let choose = Arc::new(Mutex::new((settings.reading, random.clone())));
        let sqlite = move || {
            let (reading, random) = &mut *choose.lock();
            reading.always_sqlite(random)
        };
        let urls = [dir.join("store").to_str().unwrap().to_owned(), server.url("")];
        let mut replicas: Vec<Replica> = Vec::new();
        for (n, url) in urls.into_iter().enumerate() {
            let (state, sqlite) = (dir.join(format!("state-{n}")), sqlite.clone());
            let (patterns, at) = (patterns(&data, n), state.clone());
            let make = move || command(&patterns, &url, &at, sqlite());
            replicas.push(Replica::Binary(Binary::start(make, state, logs.join(format!("litesnap-{n}.log")))));
        }
        replicas.push(Replica::Library(Library::start(patterns(&data, 2), dir.join("state-2"), memory, sqlite)));
        Self { databases, writers, replicas, depots, server, harms, random, kills: 0, writer_kills: 0, states_lost: 0 }
    }

    /// Lets everybody run for `time`, and kills. What ended by itself is an error.
    pub(crate) fn churn(&mut self, time: Duration) -> Result<(), String> {
        self.harms.lock().percent = HARMED_PERCENT;
        let end = Instant::now() + time;
        let next = |random: &mut Random, (from, to)| Instant::now() + random.between(from, to);
        let mut replicas: Vec<Instant> = self.replicas.iter().map(|_| next(&mut self.random, KILL_REPLICA)).collect();
        let mut writers: Vec<Instant> = self.writers.iter().map(|_| next(&mut self.random, KILL_WRITER)).collect();
        while Instant::now() < end {
            for (replica, due) in self.replicas.iter_mut().zip(&mut replicas).filter(|(_, due)| **due < Instant::now())
            {
                if let Replica::Binary(binary) = replica {
                    let loses_state = self.random.one_in(STATE_LOST);
                    binary.kill_and_restart(loses_state)?;
                    self.kills += 1;
                    self.states_lost += u64::from(loses_state);
                }
                *due = next(&mut self.random, KILL_REPLICA);
            }
            for (writer, due) in self.writers.iter_mut().zip(&mut writers).filter(|(_, due)| **due < Instant::now()) {
                writer.kill_and_restart()?;
                self.writer_kills += 1;
                *due = next(&mut self.random, KILL_WRITER);
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        Ok(())
    }

    /// All applications come to rest; the databases that they keep open.
    pub(crate) fn rest(&mut self) -> Result<BTreeMap<usize, String>, String> {
        self.writers.iter_mut().for_each(Writer::ask_to_rest);
        let mut open = BTreeMap::new();
        for writer in &mut self.writers {
            let kept = writer.resting()?;
            open.extend(kept.into_iter().map(|(id, mode)| (id.parse().unwrap(), mode)));
        }
        Ok(open)
    }

    /// Kills the replicas while they store what was committed last, in a store that does much harm: what they recorded too early is
    /// not stored now, and nothing will change any more to have it stored. From then on nobody is killed and nothing comes to harm.
    pub(crate) fn kill_at_last(&mut self) -> Result<(), String> {
        self.harms.lock().percent = HARMED_PERCENT_LAST;
        for _ in 0..LAST_KILLS {
            std::thread::park_timeout(self.random.between(KILL_LAST.0, KILL_LAST.1));
            for replica in &mut self.replicas {
                if let Replica::Binary(binary) = replica {
                    binary.kill_and_restart(false)?;
                    self.kills += 1;
                }
            }
        }
        self.harms.lock().percent = 0;
        Ok(())
    }

    /// Waits until each replica has ended a cycle, and `whole` ones after it. What each was told in the latter.
    pub(crate) fn cycles(&mut self, whole: u64) -> Result<Vec<Told>, String> {
        let deadline = Instant::now() + CYCLES_WAIT_MAX;
        let mut told = Vec::new();
        for (replica, name) in self.replicas.iter_mut().zip(REPLICAS) {
            let before = replica.told().cycles;
            let mut begun = false;
            loop {
                let now = replica.told();
                if !begun && now.cycles > before {
                    replica.forget_named();
                    begun = true;
                }
                if now.cycles > before + whole {
                    told.push(now);
                    break;
                }
                if replica.has_ended() {
                    return Err(format!("{name}: litesnap ended by itself; see its log and standard error"));
                }
                if Instant::now() > deadline {
                    return Err(format!("{name}: no {whole} cycles in {CYCLES_WAIT_MAX:?}"));
                }
                std::thread::park_timeout(Duration::from_millis(10));
            }
        }
        Ok(told)
    }

    pub(crate) fn go_on(&mut self) {
        self.writers.iter_mut().for_each(Writer::go_on);
    }

    pub(crate) fn harmed(&self) -> BTreeMap<Harmed, u64> {
        self.harms.lock().counts.clone()
    }

    /// The databases that a replica watches.
    pub(crate) fn watched(&self, replica: usize) -> impl Iterator<Item = (usize, &PathBuf)> {
        let all = self.databases.iter().enumerate();
        all.filter(move |(_, d)| d.watched_by.is_none_or(|by| by == replica)).map(|(id, d)| (id, &d.path))
    }

    /// A number that the seed repeats.
    pub(crate) fn between(&mut self, (from, to): (Duration, Duration)) -> Duration {
        self.random.between(from, to)
    }
}

fn harm(server: &BigS3, mut random: Random) -> Arc<Mutex<Harms>> {
    let harms = Arc::<Mutex<Harms>>::default();
    let shared = Arc::clone(&harms);
    server.harm(move || {
        let mut harms = shared.lock();
        if random.below(100) >= harms.percent {
            return None;
        }
        let kinds = [Harmed::Refused, Harmed::Dropped, Harmed::AnswerLost, Harmed::Slow];
        let harmed = kinds[usize::try_from(random.below(4)).unwrap()];
        *harms.counts.entry(harmed).or_default() += 1;
        Some(harmed)
    });
    harms
}

fn patterns(data: &Path, replica: usize) -> Vec<String> {
    ["all".to_owned(), replica.to_string()].map(|folder| format!("{}/*.db", data.join(folder).display())).to_vec()
}

/// The loop in a clean environment; its log has a line for each cycle.
fn command(patterns: &[String], store: &str, state: &Path, always_sqlite: bool) -> Command {
    let built = || env!("CARGO_BIN_EXE_litesnap").into();
    let mut command = Command::new(std::env::var_os("LITESNAP").unwrap_or_else(built));
    command.env_clear().envs(s3_server::env(s3_server::ACCESS_KEY_ID, s3_server::SECRET_ACCESS_KEY));
    command.env("RUST_LOG", "warn,litesnap=debug").env("HOME", state.parent().unwrap());
    command.arg("replicate").args(patterns).args(["--store", store, "--memory-limit", "32MiB", "--host", "host"]);
    command.arg("--state-dir").arg(state).args(["--interval", &format!("{}ms", INTERVAL.as_millis())]);
    if always_sqlite {
        command.arg("--always-sqlite");
    }
    command
}
