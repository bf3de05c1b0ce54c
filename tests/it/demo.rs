//! `litesnap demo`: what it says is true, what it shows can be typed, and nothing lies outside its folder.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use rusqlite::Connection;

use crate::fault_shim::{Fault, Kind, preload, watch};
use crate::place::{Place, Ran, Running};

/// Every file below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}

fn bytes(files: &[PathBuf]) -> u64 {
    files.iter().map(|file| fs::metadata(file).unwrap().len()).sum()
}

/// The whole number before the first `unit` in the one line that holds `mark`.
#[track_caller]
fn told(text: &str, mark: &str, unit: &str) -> u64 {
    let line = text.lines().find(|line| line.contains(mark)).unwrap_or_else(|| panic!("no {mark:?} in {text}"));
    let before = line.split_once(unit).unwrap_or_else(|| panic!("no {unit:?} in {line:?}")).0;
    let digits = before.rsplit(|c: char| !c.is_ascii_digit() && c != ',').next().unwrap();
    digits.replace(',', "").parse().unwrap_or_else(|_| panic!("no number before {unit:?} in {line:?}"))
}

/// The commands that the text shows, each as it would be typed.
fn commands(text: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for line in text.lines() {
        match (line.trim_start().strip_prefix("$ "), all.last_mut()) {
            (Some(command), _) => all.push(command.to_owned()),
            (None, Some(last)) if last.ends_with('\\') => {
                last.push('\n');
                last.push_str(line);
            }
            _ => {}
        }
    }
    all
}

/// Rows of the database at `path`, which SQLite finds in order.
fn rows(path: &Path) -> u64 {
    let conn = Connection::open(path).unwrap();
    let check: String = conn.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(check, "ok");
    conn.query_row("SELECT count(*) FROM records", [], |r| r.get::<_, i64>(0)).unwrap().cast_unsigned()
}

/// A place with a home and a folder for temporary files of its own, both empty.
fn place() -> Place {
    let mut place = Place::new();
    for (variable, name) in [("HOME", "home"), ("TMPDIR", "tmp"), ("XDG_STATE_HOME", "xdg")] {
        let folder = place.path().join(name);
        fs::create_dir(&folder).unwrap();
        place.env.push((variable.into(), folder.to_str().unwrap().into()));
    }
    place
}

#[test]
fn its_story_is_true() {
    let place = place();
    let ran = place.run(&["demo"]).expect_code(0);
    assert_eq!(ran.err, "");
    let (text, demo) = (&ran.out, place.path().join("litesnap-demo"));
    let (data, objects) = (files(&demo.join("data")), files(&demo.join("backup")));

    assert_eq!(data.len(), 24);
    assert!(data.iter().all(|file| file.extension().is_some_and(|x| x == "db")), "{data:?}");
    assert_eq!(told(text, "2 projects x", " SQLite databases"), 24);
    assert_eq!(told(text, "back where they were", " bytes"), bytes(&data));
    assert_eq!(told(text, "Compared row by row", " rows in 24"), data.iter().map(|db| rows(db)).sum::<u64>());

    let times: BTreeMap<&Path, usize> = objects.iter().fold(BTreeMap::new(), |mut all, object| {
        *all.entry(object.parent().unwrap()).or_default() += 1;
        all
    });
    assert_eq!((objects.len(), times.len()), (28, 24));
    assert_eq!(told(text, "snapshots,", " databases"), 24);
    assert_eq!(told(text, "snapshots,", " snapshots"), 28);
    assert_eq!(told(text, "snapshots,", " bytes"), bytes(&objects));
    let first = told(text, "before LZ4", " bytes");
    assert_eq!(told(text, "before LZ4", " objects") + told(text, "once more", " objects"), 28);
    assert_eq!(first + told(text, "once more", " bytes"), bytes(&objects));
    assert_eq!(told(text, "before LZ4", " requests"), 24);
    assert_eq!(told(text, "An idle fleet", " requests"), 0);
    assert!(told(text, "before LZ4", " before LZ4") > first);

    let watched = demo.join("data/project1/databases/userdb/branches/main/tenants/acme.db");
    assert_eq!(told(text, "as then", " rows, as then"), rows(&demo.join("acme-before.db")));
    assert_eq!(told(text, "as then", ". In "), rows(&watched));
    assert_eq!(rows(&watched) - rows(&demo.join("acme-before.db")), told(text, "keeps it open", " rows added"));
    assert_eq!(
        told(text, "stored, a database of", " bytes stored"),
        bytes(&[newest(&demo, "project1/userdb/main/acme")])
    );
    assert_eq!(told(text, "stored, a database of", " bytes as of"), bytes(&[watched]));
}

fn newest(demo: &Path, name: &str) -> PathBuf {
    files(&demo.join("backup").join(name)).into_iter().max().unwrap()
}

/// In whatever folder: each command of the text does what it says, in their order, from the first pass to removing it all.
#[test]
fn what_it_shows_can_be_typed() {
    for (dir, by_hand) in [("litesnap-demo", true), ("it's a [demo]* {of} $mine", false)] {
        let place = place();
        let ran = place.run(&["demo", "--dir", dir]).expect_code(0);
        let mut commands = commands(&ran.out);
        assert_eq!(commands.len(), 8, "{commands:?}");
        assert!(commands[7].starts_with("rm -r ") && commands[4].starts_with("rm -r "), "{commands:?}");
        let lacking =
            ["lz4", "sqlite3"].iter().find(|program| Command::new(program).arg("--version").output().is_err());
        if let Some(program) = lacking {
            let skipped = format!("SKIPPED: {program} is not there to open an object without litesnap\n");
            std::io::stderr().write_all(skipped.as_bytes()).unwrap();
            commands.retain(|command| !command.starts_with("lz4 "));
        }
        let remove = commands.pop().unwrap();
        let said = shell(&place, &commands.join("\n"));
        assert!(said.contains("stored=24") && said.contains("unchanged=0"), "{said}");
        assert!(said.contains("restored=24") && said.contains("restored=0 unchanged=1"), "{said}");
        let demo = place.path().join(dir);
        assert!(fs::exists(demo.join("acme-before.db")).unwrap());
        if lacking.is_none() && by_hand {
            let opened =
                shell(&place, "sqlite3 litesnap-demo/by-hand.db 'PRAGMA integrity_check; SELECT max(id) FROM records'");
            assert_eq!(opened, "ok\n1540\n");
        }
        shell(&place, &remove);
        assert!(!demo.exists());
    }
}

/// Runs `script` as a person would type it where the demo was run.
#[track_caller]
fn shell(place: &Place, script: &str) -> String {
    let binary = Path::new(env!("CARGO_BIN_EXE_litesnap"));
    let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let out = Command::new("bash")
        .args(["-euc", script])
        .env_clear()
        .envs(place.env.iter().map(|(k, v)| (k, v)))
        .env("PATH", path)
        .current_dir(place.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let ran = Ran::from(out).expect_code(0);
    ran.out
}

/// Not even for a moment: every write, new folder, rename and removal of the process and its application is below the folder.
#[test]
fn it_touches_nothing_outside_its_folder() {
    let place = place();
    let log = place.path().join("calls.log");
    let of_the_kernel = ["proc", "sys", "dev"];
    let top = fs::read_dir("/").unwrap().map(|entry| entry.unwrap().path());
    let top: Vec<PathBuf> = top.filter(|p| !of_the_kernel.iter().any(|name| p.ends_with(name))).collect();
    let top: Vec<&Path> = top.iter().map(PathBuf::as_path).collect();
    let mut command = place.litesnap(&["demo", "--dir", "new/demo"]);
    preload(&mut command, &top, "write,mkdir,rename,unlink,truncate", &log, None);
    Ran::from(command.output().unwrap()).expect_code(0);

    let calls = fs::read_to_string(&log).unwrap();
    let demo = place.path().join("new");
    let outside: Vec<&str> =
        calls.lines().filter(|call| !Path::new(call.split_once(' ').unwrap().1).starts_with(&demo)).collect();
    assert!(outside.is_empty(), "{outside:#?}");
    assert!(calls.lines().filter(|call| call.starts_with("write ")).count() > 100, "the calls were watched");
    for empty in ["home", "tmp", "xdg", "data"] {
        assert!(files(&place.path().join(empty)).is_empty(), "something is left in {empty}");
    }
    let here: Vec<_> = fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(here.len(), 6, "the four folders, the log and the demo's: {here:?}");
}

#[test]
fn a_folder_with_something_in_it_is_left_alone() {
    let place = place();
    for (name, what) in [("full", "is not empty"), ("file", "is no folder")] {
        let path = place.path().join(name);
        let mine = if name == "full" { path.join("mine") } else { path.clone() };
        fs::create_dir_all(mine.parent().unwrap()).unwrap();
        fs::write(&mine, "mine").unwrap();
        let ran = place.run(&["demo", "--dir", name]).expect_code(2);
        assert!(
            ran.err.starts_with(&format!("litesnap: {name} {what}")) && ran.err.contains("--dir demo-2"),
            "{ran:#?}"
        );
        assert_eq!((ran.err.lines().count(), ran.out.as_str()), (1, ""));
        assert_eq!(fs::read_to_string(&mine).unwrap(), "mine");
        assert_eq!(files(&path).len(), usize::from(name == "full"));
    }
}

/// It verifies, and does not pretend: whatever fails in the middle of the story ends it with one line and exit code 1.
#[test]
fn what_does_not_come_out_as_told_is_said() {
    let once = |family, kind| Fault { family, kind, at: 1, on: false };
    for (below, fault, said) in [
        // A disk that fills up below the store; a store that loses a name; a database that cannot take its place.
        ("backup", once("write", Kind::Torn), "the pass did not do everything"),
        ("backup", once("rename", Kind::Errno(Errno::EIO)), "the pass did not do everything"),
        ("data", once("rename", Kind::Errno(Errno::EIO)), "not everything came back"),
        ("acme-before.db", once("read", Kind::Errno(Errno::EIO)), "disk I/O error"),
    ] {
        let place = place();
        let folder = place.path().join("demo").join(below);
        let watched = watch(place.litesnap(&["demo", "--dir", "demo"]), &folder, fault.family, Some(fault));
        let what = format!("{fault:?} below {below}");
        assert!(watched.hits() > 0, "{what}: nothing failed");
        let ran = watched.ran;
        assert_eq!(ran.code, Some(1), "{what}: {ran:#?}");
        let last = ran.err.lines().last().unwrap();
        assert!(
            last.starts_with("litesnap: the demo did not come out as told (what it made is in demo): "),
            "{ran:#?}"
        );
        assert!(last.contains(said), "{what}: {ran:#?}");
        assert!(!ran.out.contains("Everything came out as told"), "{ran:#?}");
    }
}

/// The application of the demo ends with it, however that ends: its standard input does.
#[test]
fn its_application_does_not_outlive_it() {
    let place = place();
    let path = place.data().join("x.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE records(id INTEGER PRIMARY KEY, a, b, c)").unwrap();
    let mut command = place.litesnap(&["demo", "--application", "data/x.db"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "committed\n");
    assert_eq!(child.try_wait().unwrap(), None, "it keeps the database open");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(rows(&path), 40);
}

/// Whoever reads its output may have seen enough: no panic, and the story goes to its end.
#[test]
fn nobody_needs_to_listen() {
    let place = place();
    let mut command = Command::new("bash");
    let script = format!("set -o pipefail; '{}' demo | head -n 1", env!("CARGO_BIN_EXE_litesnap"));
    command.args(["-c", &script]).current_dir(place.path()).stdin(Stdio::null());
    let ran = Running::start(command).wait(Duration::from_secs(60));
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:#?}");
    assert!(place.path().join("litesnap-demo/acme-before.db").exists());
}
