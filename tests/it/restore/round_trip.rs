//! The main path: everything comes back, as it was, where it was asked for.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use rusqlite::Connection;

use crate::place::{Place, Ran, age, rows};

/// `restore --store ./store` with more arguments.
pub(super) fn restore(place: &Place, more: &[&str]) -> Ran {
    place.run(&[&["restore", "--store", "store"], more].concat())
}

/// Where `data/NAME` comes back below `--into back`.
pub(super) fn back(place: &Place, name: &str) -> PathBuf {
    place.path().join("back").join(place.data().join(name).strip_prefix("/").unwrap())
}

/// `lz4 -dc` of the newest object of `data/NAME`.
fn lz4(place: &Place, name: &str) -> Vec<u8> {
    let path = place.data().join(name);
    let parts = path.to_str().unwrap().split('/').skip(1).map(|part| litesnap::layout::encode_segment(part.as_bytes()));
    let dir = place.store().join(parts.collect::<Vec<_>>().join("/"));
    let path = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).max().unwrap();
    let out = Command::new("lz4").arg("-dc").arg(path).stderr(Stdio::inherit()).output().expect("these tests need lz4");
    assert!(out.status.success());
    out.stdout
}

#[test]
fn everything_comes_back_with_owner_mode_and_time() {
    let place = Place::new();
    let names = ["a.db", "deep/er/b.db", "wal.db", "odd name %41 ä.db"];
    let root = nix::unistd::geteuid().is_root();
    for (n, name) in names.into_iter().enumerate() {
        let path = place.make(name, if name == "wal.db" { "wal" } else { "delete" }, 5 + u32::try_from(n).unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        if root {
            chown(&path, Some(4321), Some(8765)).unwrap();
        }
    }
    place.once().expect_code(0);
    let before: Vec<_> = names.map(|name| fs::metadata(place.data().join(name)).unwrap()).into();
    fs::rename(place.data(), place.path().join("gone")).unwrap();

    let ran = restore(&place, &["--into", "back", "--check", "full"]).expect_code(0);
    assert_eq!((ran.count("databases"), ran.count("restored"), ran.count("failed")), (4, 4, 0));
    assert_eq!((ran.count("lists"), ran.count("gets"), ran.count("requests")), (1, 4, 5), "one GET each, no HEAD");
    for (n, (name, before)) in names.into_iter().zip(before).enumerate() {
        let path = back(&place, name);
        let now = fs::metadata(&path).unwrap();
        assert_eq!(now.mode() & 0o7777, 0o640, "{name}");
        assert_eq!((now.mtime(), now.mtime_nsec()), (before.mtime(), before.mtime_nsec()), "{name}");
        assert_eq!((now.uid(), now.gid()), (before.uid(), before.gid()), "{name}");
        assert_eq!(fs::read(&path).unwrap(), lz4(&place, name), "{name}");
        assert_eq!(rows(&Connection::open(&path).unwrap()).len(), 5 + n);
    }
    let hidden: Vec<_> = files_below(&place.path().join("back"))
        .into_iter()
        .filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with('.'))
        .collect();
    assert_eq!(hidden, [] as [PathBuf; 0], "nothing is left beside them");
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn in_place_it_comes_back_where_it_was_under_any_template() {
    for template in ["{{path}}", "{{hostname}}/db-{{name}}"] {
        let place = Place::new();
        let paths = [place.make("x/1.db", "wal", 3), place.make("x/2.db", "delete", 4)];
        let pattern = place.data().join("x/{name}.db");
        place.replicate(pattern.to_str().unwrap(), &["--once", "--key-template", template]).status().unwrap();
        fs::remove_dir_all(place.data()).unwrap();
        let ran = restore(&place, &["--in-place"]).expect_code(0);
        assert_eq!(
            (ran.count("restored"), ran.count("gets")),
            (2, 4),
            "{template}: a GET more each tells where it was"
        );
        assert_eq!(paths.map(|p| rows(&Connection::open(p).unwrap()).len()), [3, 4]);
    }
}

#[test]
fn a_second_run_finds_everything_there_and_a_third_mends_one() {
    let place = Place::new();
    for n in 0..5 {
        place.make(&format!("{n}.db"), "wal", 10);
    }
    place.once().expect_code(0);
    restore(&place, &["--into", "back"]).expect_code(0);
    let inode = |name| fs::metadata(back(&place, name)).unwrap().ino();
    let before = inode("1.db");
    let again = restore(&place, &["--into", "back"]).expect_code(0);
    assert_eq!((again.count("restored"), again.count("unchanged")), (0, 5));
    assert_eq!(inode("1.db"), before, "what is identical is not even touched");

    fs::remove_file(back(&place, "3.db")).unwrap();
    let mended = restore(&place, &["--into", "back"]).expect_code(0);
    assert_eq!((mended.count("restored"), mended.count("unchanged")), (1, 4));
}

/// Two snapshots of `a.db`, and the time between them.
fn two_snapshots(place: &Place) -> String {
    let path = place.make("a.db", "delete", 3);
    place.once().expect_code(0);
    let first = place.objects_of("a.db").pop().unwrap().key;
    let between = first.rsplit('/').next().unwrap().strip_suffix(".db.lz4").unwrap().to_owned();
    Connection::open(&path).unwrap().execute_batch("INSERT INTO t VALUES(4)").unwrap();
    age(&path);
    place.once().expect_code(0);
    assert_eq!(place.objects_of("a.db").len(), 2);
    between
}

#[test]
fn at_a_time_it_is_the_newest_snapshot_not_after_it() {
    let place = Place::new();
    let first = two_snapshots(&place);
    for (at, expected) in [(vec!["--at", first.as_str()], 3), (vec![], 4), (vec!["--timestamp", "0s"], 4)] {
        let args = [&["-o", "out.db", "--force"], at.as_slice()].concat();
        restore(&place, &args).expect_code(0);
        assert_eq!(rows(&Connection::open(place.path().join("out.db")).unwrap()).len(), expected, "{at:?}");
    }
    let early = restore(&place, &["--into", "back", "--at", "2001-01-01T00:00:00Z"]).expect_code(1);
    let earliest: litesnap::timestamp::Timestamp = first.parse().unwrap();
    assert!(early.err.contains(&earliest.to_rfc3339()), "it names the earliest: {early:#?}");
    assert_eq!(early.err.lines().filter(|l| l.starts_with("litesnap: ")).count(), 1);
    assert!(!place.path().join("back").exists(), "nothing was done");
}

#[test]
fn one_database_goes_to_a_file_or_to_standard_output() {
    let place = Place::new();
    place.make("a.db", "wal", 7);
    place.make("b.db", "wal", 8);
    place.once().expect_code(0);
    let a = place.data().join("a.db");
    let ran = restore(&place, &["--match", a.to_str().unwrap(), "-o", "one.db"]).expect_code(0);
    assert_eq!((ran.count("lists"), ran.count("gets"), ran.count("requests")), (1, 1, 2));
    assert_eq!(fs::read(place.path().join("one.db")).unwrap(), lz4(&place, "a.db"));

    let out = place.litesnap(&["restore", "--store", "store", "--match", "b.db", "-o", "-"]).output().unwrap();
    assert!(out.status.success());
    assert_eq!(out.stdout, lz4(&place, "b.db"), "the bytes and nothing else");

    for more in [["-o", "two.db"], ["-o", "-"]] {
        let ran = restore(&place, &more).expect_code(2);
        assert!(ran.err.contains("2 are meant") && ran.err.contains("--match"), "{ran:#?}");
    }
    assert!(!place.path().join("two.db").exists());
}

#[test]
fn globs_choose_by_name() {
    let place = Place::new();
    for name in ["p1/t1.db", "p1/t2.db", "p2/t1.db", "p2/deep/t3.db"] {
        place.make(name, "delete", 1);
    }
    place.once().expect_code(0);
    let data = place.data();
    let p1 = format!("{}/p1/*.db", data.display());
    let all = format!("{}/p2/**", data.display());
    for (globs, expected) in [
        (vec!["t1.db"], 2),
        (vec!["t[12].db"], 3),
        (vec![p1.as_str()], 2),
        (vec![all.as_str()], 2),
        (vec![p1.as_str(), "t3.db"], 3),
    ] {
        let args = [&["--into", "back", "--dry-run", "--match"], globs.as_slice()].concat();
        let ran = restore(&place, &args).expect_code(0);
        assert_eq!(ran.out.lines().count(), expected, "{globs:?}: {ran:#?}");
    }
    assert!(!place.path().join("back").exists(), "a dry run makes nothing");
    let none = restore(&place, &["--into", "back", "--match", "nobody.db"]).expect_code(1);
    assert!(none.err.contains("nobody.db") && none.err.contains("litesnap list"), "{none:#?}");
}

#[test]
fn what_is_asked_for_by_name_is_never_silently_missing() {
    let place = Place::new();
    let [a, b] = ["a.db", "b.db"].map(|name| place.make(name, "delete", 1).display().to_string());
    place.once().expect_code(0);
    let typo = format!("{a}x");
    let ran = restore(&place, &["--into", "back", "--match", &a, &typo]).expect_code(1);
    assert_eq!((ran.count("restored"), ran.count("no-match")), (1, 1), "{ran:#?}");
    assert!(ran.out.contains(&format!("{typo}: no-match: ")), "{ran:#?}");
    restore(&place, &["--into", "back", "--match", &a, &typo, "--if-replica-exists"]).expect_code(0);

    let newest = place.objects_of("b.db").pop().unwrap().key;
    let (dir, name) = newest.rsplit_once('/').unwrap();
    let time: litesnap::timestamp::Timestamp = name.strip_suffix(".db.lz4").unwrap().parse().unwrap();
    let gone = litesnap::timestamp::Timestamp::from_ms(time.as_ms() + 1).unwrap();
    fs::write(place.store().join(format!("{dir}/{gone}.deleted")), "{}").unwrap();
    let ran = restore(&place, &["--into", "back", "--match", &a, &b]).expect_code(1);
    assert!(ran.out.contains(&format!("{b}: deleted: ")) && ran.out.contains("--include-deleted"), "{ran:#?}");
    let all = restore(&place, &["--into", "back", "--match", "*.db"]).expect_code(0);
    assert_eq!(all.count("deleted"), 1, "left out of what a wildcard means, and counted");
}

#[test]
fn an_empty_store_is_an_error_unless_a_container_starts() {
    let place = Place::new();
    fs::create_dir(place.store()).unwrap();
    let ran = restore(&place, &["--into", "back"]).expect_code(1);
    assert!(ran.err.contains("no snapshot"), "{ran:#?}");
    restore(&place, &["--into", "back", "--if-replica-exists"]).expect_code(0);
    restore(&place, &["-o", "a.db", "--match", "a.db", "--if-replica-exists"]).expect_code(0);
    fs::remove_dir(place.store()).unwrap();
    let ran = restore(&place, &["--into", "back", "--if-replica-exists"]).expect_code(3);
    assert!(ran.err.contains("no folder"), "a store that is not there is not empty: {ran:#?}");
    assert!(!place.store().exists() && !place.path().join("back").exists());
}

#[test]
fn what_was_gone_by_then_is_left_out_and_counted() {
    let place = Place::new();
    let first = two_snapshots(&place);
    place.make("b.db", "delete", 1);
    place.once().expect_code(0);
    let newest = place.objects_of("a.db").pop().unwrap().key;
    let (dir, name) = newest.rsplit_once('/').unwrap();
    let time: litesnap::timestamp::Timestamp = name.strip_suffix(".db.lz4").unwrap().parse().unwrap();
    let gone = litesnap::timestamp::Timestamp::from_ms(time.as_ms() + 1).unwrap();
    fs::write(place.store().join(format!("{dir}/{gone}.deleted")), "{}").unwrap();

    let ran = restore(&place, &["--into", "back"]).expect_code(0);
    assert_eq!((ran.count("restored"), ran.count("deleted")), (1, 1));
    assert!(!back(&place, "a.db").exists());
    let before = time.to_string();
    for args in [vec!["--include-deleted"], vec!["--at", first.as_str()], vec!["--at", before.as_str()]] {
        let ran = restore(&place, &[&["-o", "a.db", "--force", "--match", "a.db"], args.as_slice()].concat());
        ran.expect_code(0);
    }
    let only = restore(&place, &["--into", "back", "--match", "a.db"]).expect_code(1);
    assert!(only.err.contains(&gone.to_rfc3339()) && only.err.contains("--include-deleted"), "{only:#?}");
}

#[test]
fn json_says_the_same() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    place.once().expect_code(0);
    let ran = restore(&place, &["--into", "back", "--json", "--dry-run"]).expect_code(0);
    let planned: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(planned["target"].as_str().unwrap(), back(&place, "a.db").to_str().unwrap());
    let ran = restore(&place, &["--into", "back", "--json"]).expect_code(0);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&report["restored"], &report["exit_code"]), (&1.into(), &0.into()), "{report}");
    fs::write(back(&place, "a.db"), "something else").unwrap();
    let ran = restore(&place, &["--into", "back", "--json"]).expect_code(1);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["not_as_asked"][0]["word"], "target-exists", "{report}");
}

#[test]
fn a_large_database_comes_back_through_little_memory() {
    let place = Place::new();
    let path = place.make_random("large.db", 150 << 20);
    let hash = |path: &Path| twox(&fs::read(path).unwrap());
    place.once().expect_code(0);
    let mut command = Command::new("bash");
    command.env_clear().env("PATH", std::env::var("PATH").unwrap()).current_dir(place.path()).stdin(Stdio::null());
    let script = r#""$0" "$@" & pid=$!; peak=0
while read -r _ kib _ 2>/dev/null < <(grep VmHWM /proc/$pid/status 2>/dev/null); do peak=$kib; read -rt 0.02 <> <(:); done; wait $pid; echo "peak=$peak code=$?""#;
    command.args(["-c", script, env!("CARGO_BIN_EXE_litesnap"), "restore", "--store", "store", "-o", "large.db"]);
    let ran: Ran = command.output().unwrap().into();
    assert_eq!(ran.count("code"), 0, "{ran:#?}");
    assert!(ran.count("peak") < 64 << 10, "KiB at its peak: {ran:#?}");
    assert_eq!(hash(&place.path().join("large.db")), hash(&path), "only blobs: no header counter moved");
}

fn twox(bytes: &[u8]) -> u128 {
    // Bytes 24..28 and 92..100 are counters that a copy through SQLite moves.
    let mut bytes = bytes.to_vec();
    bytes[24..28].fill(0);
    bytes[92..100].fill(0);
    litesnap_hash(&bytes)
}

fn litesnap_hash(bytes: &[u8]) -> u128 {
    use std::hash::Hasher;
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    hasher.write(bytes);
    u128::from(hasher.finish())
}

#[test]
fn mtimes_before_1970_and_odd_modes_survive() {
    let place = Place::new();
    let path = place.make("a.db", "delete", 1);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4600)).unwrap();
    let early = UNIX_EPOCH - Duration::from_millis(86_400_500);
    fs::File::options().write(true).open(&path).unwrap().set_modified(early).unwrap();
    place.once().expect_code(0);
    restore(&place, &["--into", "back"]).expect_code(0);
    let restored = fs::metadata(back(&place, "a.db")).unwrap();
    assert_eq!(restored.mode() & 0o7777, 0o600, "nothing becomes setuid by what a store says");
    assert_eq!(restored.modified().unwrap(), early);
}
