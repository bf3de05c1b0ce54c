//! Which databases there are and which application writes each: what `writer.py` is told.

use std::path::{Path, PathBuf};

use super::random::Random;

/// A database of the fleet.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pub(crate) path: PathBuf,
    /// The only replica that watches it; `None`: all do.
    pub(crate) watched_by: Option<usize>,
}

/// An application: one process, or several with the same databases.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) name: &'static str,
    pub(crate) spec: serde_json::Value,
    /// May be killed at any moment; else only where it says so itself: without a journal on disk, a writer killed in mid-transaction
    /// leaves what nobody can read.
    pub(crate) killable: bool,
    pub(crate) processes: usize,
}

/// A kind of application.
struct Kind {
    name: &'static str,
    engine: &'static str,
    /// Of so many databases, for each unit of scale.
    count: usize,
    keep: &'static [bool],
    modes: &'static [&'static [&'static str]],
    paces: &'static [&'static str],
    /// Rows of padding and bytes in each, at most.
    rows: u64,
    size: u64,
    own: bool,
    attach: bool,
    killable: bool,
    processes: usize,
}

const PLAIN: Kind = Kind {
    name: "",
    engine: "python",
    count: 1,
    keep: &[true, false],
    modes: &[&["wal"]],
    paces: &["hot", "burst", "sleepy", "sleepy"],
    rows: 12,
    size: 3000,
    own: true,
    attach: true,
    killable: true,
    processes: 1,
};
const ROLLBACK: &[&str] = &["delete", "truncate", "persist"];
const KINDS: &[Kind] = &[
    Kind { name: "wal", count: 4, ..PLAIN },
    Kind {
        name: "rollback",
        count: 4,
        modes: &[&["delete"], &["truncate"], &["persist"], &["delete", "truncate", "persist"]],
        ..PLAIN
    },
    Kind { name: "switching", count: 2, modes: &[&["wal", "delete", "truncate", "persist", "wal"]], ..PLAIN },
    Kind {
        name: "memory-off",
        count: 3,
        modes: &[&["memory"], &["off"], &["off", "memory", "delete", "wal"]],
        attach: false,
        killable: false,
        ..PLAIN
    },
    Kind { name: "shell", engine: "shell", count: 2, modes: &[&["wal", "delete"], ROLLBACK], attach: false, ..PLAIN },
    Kind {
        name: "shared",
        count: 2,
        // Nobody leaves WAL mode while another process may commit: see `settle` in writer.py.
        modes: &[&["wal"], &["delete"], ROLLBACK],
        own: false,
        attach: false,
        processes: 2,
        ..PLAIN
    },
    Kind {
        name: "large",
        count: 1,
        modes: &[&["wal", "delete"], &["delete"]],
        paces: &["sleepy"],
        rows: 60,
        size: 80_000,
        ..PLAIN
    },
    Kind {
        name: "ambush",
        count: 3,
        modes: &[&["delete"], &["truncate"], &["memory"], &["wal", "delete"]],

        paces: &["ambush"],
        rows: 60,
        size: 120_000,
        own: false,
        attach: false,
        killable: false,
        ..PLAIN
    },
];

/// The fleet below `data`, for so many replicas: a third of the databases are watched by all, the rest by one each.
pub(crate) fn fleet(
    data: &Path,
    scale: usize,
    replicas: usize,
    random: &mut Random,
) -> (Vec<Database>, Vec<Application>) {
    let (mut databases, mut applications) = (Vec::new(), Vec::new());
    for kind in KINDS {
        let mut spec = Vec::new();
        for n in 0..kind.count * scale {
            let id = databases.len();
            let watched_by = (id % 3 != 0).then_some(id / 3 % replicas);
            let folder = watched_by.map_or_else(|| "all".to_owned(), |replica| replica.to_string());
            let path = data.join(folder).join(format!("{id}-{}.db", kind.name));
            spec.push(serde_json::json!({
                "id": id,
                "path": path,
                "engine": kind.engine,
                "keep": pick(kind.keep, random),
                "modes": kind.modes[n % kind.modes.len()],
                "pace": pick(kind.paces, random),
                "own": kind.own,
                "attach": kind.attach,
                "rows": 4 + random.below(kind.rows),
                "size": kind.size / 4 + random.below(kind.size),
                "page": pick(&[512, 1024, 4096, 4096, 4096, 65536], random),
                "vacuum": random.below(3),
            }));
            databases.push(Database { path, watched_by });
        }
        let (killable, processes) = (kind.killable, kind.processes);
        applications.push(Application { name: kind.name, spec: spec.into(), killable, processes });
    }
    (databases, applications)
}

fn pick<T: Copy>(all: &[T], random: &mut Random) -> T {
    all[usize::try_from(random.below(all.len() as u64)).unwrap()]
}
