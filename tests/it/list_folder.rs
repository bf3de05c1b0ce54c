//! Listing a folder: what is in it that is not ours, what cannot be looked at, and links; and a bucket with keys that nobody
//! can list.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use litesnap::store::{Store, StoreOptions};
use nix::sys::stat::Mode;
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::big_s3::BigS3;
use crate::place::{Place, Ran};

const TS: &str = "20261121T063339.123Z.db.lz4";

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn open(root: &Path) -> Store {
    Store::open(&StoreOptions::new(root.to_str().unwrap()), &Vec::new()).unwrap()
}

async fn listed(store: &dyn ObjectStore, prefix: Option<&str>) -> Vec<(String, u64, i64)> {
    let prefix = prefix.map(|prefix| object_store::path::Path::parse(prefix).unwrap());
    let all = store.list(prefix.as_ref()).map_ok(|o| (o.location.into(), o.size, o.last_modified.timestamp_micros()));
    let mut all: Vec<_> = all.try_collect().await.unwrap();
    all.sort();
    all
}

/// A folder store with an object of each database.
fn stored(names: &[&str]) -> Place {
    let place = Place::new();
    for name in names {
        put(&place.store().join(name));
    }
    place
}

fn put(database: &Path) {
    fs::create_dir_all(database).unwrap();
    fs::write(database.join(TS), "content").unwrap();
}

fn list(place: &Place, more: &[&str]) -> Ran {
    place.run(&[&["list", "--store", "store"], more].concat())
}

fn names(ran: &Ran) -> Vec<&str> {
    ran.out.lines().map(|line| line.split_whitespace().last().unwrap()).collect()
}

/// The number in the log's line.
fn foreign(ran: &Ran) -> u64 {
    let word = ran.err.split_whitespace().find_map(|word| word.strip_prefix("foreign="));
    word.unwrap_or_else(|| panic!("{ran:#?}")).parse().unwrap()
}

#[track_caller]
fn refused(ran: Ran, code: i32, parts: &[&str]) {
    let ran = ran.expect_code(code);
    let said: Vec<_> = ran.err.lines().filter(|line| !line.contains("INFO")).collect();
    assert_eq!(said.len(), 1, "{ran:#?}");
    for part in parts {
        assert!(said[0].contains(part), "no {part:?} in {ran:#?}");
    }
}

#[test]
fn what_was_put_is_listed_under_its_key_as_object_store_lists_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut keys: Vec<String> = [
        "%41/%2E/a",
        "a b/c",
        "ä/日本",
        "[x]/{y}",
        "back\\slash",
        "x#y",
        "x#1y",
        "#",
        "x#",
        "~/`^|<>\"?*",
        "a/.hidden/...",
        "\u{85}",
        "tail ",
        "+:@&=;,$",
    ]
    .map(str::to_owned)
    .into();
    keys.sort();
    block_on(async {
        for key in &keys {
            store.inner.put(&store.path(key).unwrap(), "content".into()).await.unwrap();
        }
        // What it is writing at the moment, and anything else that can be no object.
        fs::write(dir.path().join("a b/c#17"), "half").unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), Mode::S_IRUSR).unwrap();
        let found = listed(&*store.inner, None).await;
        assert_eq!(found.iter().map(|(key, ..)| key.as_str()).collect::<Vec<_>>(), keys);
        let theirs = LocalFileSystem::new_with_prefix(dir.path().canonicalize().unwrap()).unwrap();
        assert_eq!(found, listed(&theirs, None).await);
        for prefix in ["ä", "%41/%2E", "%41/%2E/a", "a", "none/such"] {
            assert_eq!(listed(&*store.inner, Some(prefix)).await, listed(&theirs, Some(prefix)).await, "{prefix}");
        }
        let after = store.path("[x]/{y}").unwrap();
        let behind: Vec<_> = store.inner.list_with_offset(None, &after).try_collect().await.unwrap();
        assert_eq!(behind.len(), keys.iter().filter(|key| key.as_str() > after.as_ref()).count());
    });
}

#[test]
fn a_reader_that_has_seen_enough_lets_go_of_the_walk() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..7000 {
        fs::write(dir.path().join(format!("{i}")), "").unwrap();
    }
    let store = open(dir.path());
    // The runtime waits for what runs on its threads.
    block_on(async {
        let mut listing = store.inner.list(None);
        assert!(listing.next().await.unwrap().is_ok());
    });
    assert_eq!(block_on(listed(&*store.inner, None)).len(), 7000);
}

#[test]
fn names_that_are_no_keys_are_foreign_and_hide_nothing() {
    let place = stored(&["srv/a.db", "srv/b.db"]);
    let srv = place.store().join("srv");
    symlink(".", srv.join("loop")).unwrap();
    symlink("itself", srv.join("itself")).unwrap();
    fs::write(srv.join("a\nb"), "").unwrap();
    put(&srv.join(OsStr::from_bytes(b"\xff.db")));
    symlink("nothing", srv.join("tab\tlink")).unwrap();
    fs::write(srv.join("notes.txt"), "").unwrap();
    let ran = list(&place, &[]).expect_code(0);
    assert_eq!((names(&ran), foreign(&ran)), (vec!["srv/a.db", "srv/b.db"], 6), "{ran:#?}");
}

#[test]
fn links_are_followed_but_never_in_a_circle() {
    let place = stored(&["srv/a.db"]);
    let elsewhere = place.path().join("elsewhere");
    put(&elsewhere.join("x.db"));
    symlink(&elsewhere, place.store().join("disk2")).unwrap();
    // Back into the store, where the same folders come by their own names.
    symlink(place.path(), elsewhere.join("up")).unwrap();
    fs::create_dir(place.store().join("f.db")).unwrap();
    symlink(elsewhere.join("x.db").join(TS), place.store().join("f.db").join(TS)).unwrap();
    let found = list(&place, &["--match", "/disk2/x.db", "/srv/**", "/f.db"]).expect_code(0);
    assert_eq!(names(&found), ["disk2/x.db", "f.db", "srv/a.db"], "{found:#?}");
    let ran = list(&place, &[]).expect_code(0);
    assert!(names(&ran).iter().all(|name| name.matches("disk2").count() <= 1), "{ran:#?}");
    assert!(names(&ran).contains(&"disk2/x.db"), "{ran:#?}");
}

#[test]
fn a_link_to_nothing_is_an_error_that_names_it() {
    let place = stored(&["srv/a.db"]);
    symlink("/no/such/disk", place.store().join("disk2")).unwrap();
    let disk2 = place.store().canonicalize().unwrap().join("disk2").display().to_string();
    let parts = ["cannot list", &disk2, "a symbolic link to nothing: is something not mounted?"];
    refused(list(&place, &[]), 3, &parts);
    refused(list(&place, &["--match", "/disk2/tenants/**"]), 3, &parts);
    refused(place.run(&["restore", "--store", "store", "--into", "out"]), 3, &parts);
    refused(place.run(&["prune", "--store", "store", "--keep-last", "1"]), 3, &parts);
    let ran = list(&place, &["--match", "/srv/**"]).expect_code(0);
    assert_eq!(names(&ran), ["srv/a.db"]);
}

#[test]
fn a_folder_that_may_not_be_read_is_an_error_that_names_it() {
    let place = stored(&["srv/a.db", "srv/closed/b.db", "lost+found"]);
    for closed in ["srv/closed", "lost+found"] {
        fs::set_permissions(place.store().join(closed), fs::Permissions::from_mode(0o700)).unwrap();
    }
    let Some(mut command) = place.unprivileged(&["list", "--store", "store"]) else { return };
    let closed = place.store().canonicalize().unwrap().join("srv/closed").display().to_string();
    refused(command.output().unwrap().into(), 3, &["cannot list", &closed, "Permission denied"]);
    // A file system's own folder, in its root, holds nothing of ours.
    fs::remove_dir_all(place.store().join("srv/closed")).unwrap();
    let ran = Ran::from(command.output().unwrap()).expect_code(0);
    assert_eq!(names(&ran), ["srv/a.db"], "{ran:#?}");
}

#[test]
fn what_vanishes_while_it_is_listed_is_no_error() {
    let place = stored(&["srv/stays.db"]);
    let churn = place.store().join("srv/churn");
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                for i in 0..50 {
                    put(&churn.join(format!("{i}.db")));
                }
                fs::remove_dir_all(&churn).unwrap();
            }
        });
        let store = open(&place.store());
        for _ in 0..200 {
            let found = block_on(store.inner.list(None).try_collect::<Vec<_>>());
            let is_there =
                found.as_ref().is_ok_and(|found| found.iter().any(|o| o.location.as_ref().contains("stays")));
            if !is_there {
                over.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            assert!(is_there, "{found:?}");
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn an_object_that_no_client_can_list_is_named_with_a_way_around_it() {
    for (key, shown) in [("srv/a//b.txt", "'srv/a//b.txt'"), ("srv/x\u{1}y", "x\\u{1}y'"), ("srv/../c", "'srv/../c'")] {
        let s3 = BigS3::start(Duration::ZERO);
        s3.put(format!("srv/ok.db/{TS}"), "content");
        s3.put(key, "");
        let mut place = Place::new();
        place.env = crate::s3_server::env("id", "secret");
        let list = |more: &[&str]| place.run(&[&["list", "--store", &s3.url("")], more].concat());
        refused(
            list(&[]),
            3,
            &["cannot list s3://bucket", "no litesnap makes", shown, "remove it", "--match /full/path"],
        );
        let ran = list(&["--match", "/srv/ok.db"]).expect_code(0);
        assert_eq!(names(&ran), ["srv/ok.db"]);
    }
}

#[test]
fn nothing_is_restored_into_the_store() {
    let place = stored(&["srv/a.db"]);
    symlink("store", place.path().join("link")).unwrap();
    fs::create_dir(place.path().join("store2")).unwrap();
    for into in ["store", "store/new/folder", "link/srv", "store2/../store", "./link"] {
        let ran = place.run(&["restore", "--store", "store", "--into", into, "--dry-run"]);
        refused(ran, 2, &["--into", "lies in the store", "name a place outside it"]);
    }
    let object = place.objects().pop().unwrap().key;
    let over = format!("store/{object}");
    for file in ["store/x.db", "link/x.db", over.as_str()] {
        let ran = place.run(&["restore", "--store", "store", "-o", file, "--force"]);
        refused(ran, 2, &["-o", "lies in the store", "name a place outside it"]);
    }
    for into in ["store2", "store-new/x", "."] {
        place.run(&["restore", "--store", "store", "--into", into, "--dry-run"]).expect_code(0);
    }
}

#[test]
fn a_second_name_within_the_store_is_no_database_of_its_own() {
    let place = Place::new();
    place.make("a.db", "delete", 1);
    place.make("b.db", "delete", 1);
    place.once().expect_code(0);
    let dir = place.store().join(place.data().strip_prefix("/").unwrap());
    symlink("b.db", dir.join("b2.db")).unwrap();
    symlink(place.data().components().nth(1).unwrap(), place.store().join("cur")).unwrap();
    let before = place.objects();
    let listed = place.run(&["list", "--store", "store"]).expect_code(0);
    assert_eq!(listed.out.lines().count(), 2, "{listed:#?}");
    place.run(&["verify", "--store", "store", "--all"]).expect_code(0);
    let b2 = place.data().join("b2.db").display().to_string();
    place.run(&["purge", "--store", "store", &b2, "--yes"]).expect_code(1);
    let again = place.run(&["list", "--store", "store", "--match", &b2]).expect_code(1);
    assert!(again.out.is_empty());
    assert_eq!(place.objects().len(), before.len(), "nothing was marked, nothing removed");
}

#[test]
fn a_name_too_long_for_any_file_is_not_there() {
    let place = stored(&["srv/a.db"]);
    let name = format!("/srv/{}.db", "x".repeat(300));
    let ran = place.run(&["list", "--store", "store", "--match", &name]).expect_code(1);
    assert!(ran.err.contains("matches"), "{ran:#?}");
}
