//! Which key a database gets, and that no two get the same.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use crate::place::{Place, Ran, rows};

/// The prefixes of all stored objects, sorted; each once for every object.
fn prefixes(place: &Place) -> Vec<String> {
    place.objects().iter().map(|o| o.key.rsplit_once('/').unwrap().0.to_owned()).collect()
}

fn once(place: &Place, pattern: &str, more: &[&str]) -> Ran {
    place.replicate(pattern, &[&["--once"], more].concat()).output().unwrap().into()
}

const CLASSIC: &str = "{{project}}/{{database}}/{{branch}}/{{tenant}}";

#[test]
fn the_classic_layout_gives_the_classic_keys() {
    let place = Place::new();
    for project in ["acme", "zenith"] {
        for tenant in ["t1", "t2"] {
            place.make(&format!("{project}/databases/app/branches/main/tenants/{tenant}.db"), "wal", 1);
        }
    }
    place.make("acme/databases/app/branches/main/other/t3.db", "wal", 1);
    once(&place, "data/*/databases/*/branches/*/tenants/*.db", &["--key-template", CLASSIC]).expect_code(0);
    assert_eq!(prefixes(&place), ["acme/app/main/t1", "acme/app/main/t2", "zenith/app/main/t1", "zenith/app/main/t2"]);
}

#[test]
fn named_captures_host_and_path_make_keys() {
    for (pattern, template, expected) in [
        ("data/{who}/{what}.db", "{{what}}-of-{{who}}/{{hostname}}", "app-of-ann/web-1"),
        ("data/**/{what}.db", "v1/{{what}}", "v1/app"),
        ("data/a*n/{file}", "{{ file }}", "app.db"),
        ("data/**/*.db", "{{hostname}}/{{path}}", "web-1/DATA/ann/app.db"),
        ("data/**/*.db", "{{path}}", "DATA/ann/app.db"),
        ("data", "{{path}}", "DATA/ann/app.db"),
    ] {
        let place = Place::new();
        place.make("ann/app.db", "delete", 1);
        once(&place, pattern, &["--key-template", template, "--host", "web-1"]).expect_code(0);
        let data = place.data().strip_prefix("/").unwrap().display().to_string();
        assert_eq!(prefixes(&place), [expected.replace("DATA", &data)], "{pattern} {template}");
    }
}

/// The key that a person sees in the bucket is that of the file, byte by byte, and the standard tool restores it.
#[test]
fn odd_names_get_distinct_keys_and_restore_with_the_lz4_tool() {
    let names: [&[u8]; 12] = [
        b"a b.db",
        b"a+b.db",
        b"a%20b.db",
        b"a\nb.db",
        b"a\xffb.db",
        b"a\xfeb.db",
        "Zürich.db".as_bytes(),
        b"a'\"b.db",
        b" .db",
        b"a#1.db",
        b"a\\b.db",
        b"..db.db",
    ];
    let place = Place::new();
    for (n, name) in names.iter().enumerate() {
        let plain = place.make("plain.db", "delete", u32::try_from(n).unwrap() + 1);
        fs::rename(plain, place.data().join(OsStr::from_bytes(name))).unwrap();
    }
    let ran = once(&place, "data/*.db", &[]).expect_code(0);
    assert_eq!((ran.count("stored"), place.objects().len()), (12, 12));
    for (n, name) in names.iter().enumerate() {
        let folder = place.store().join(place.data().strip_prefix("/").unwrap());
        let folder = folder.join(litesnap::layout::encode_segment(name));
        let key = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
        let decoded = Command::new("lz4").arg("-dc").arg(&key).output().expect("the lz4 tool is installed");
        assert!(decoded.status.success(), "{}", String::from_utf8_lossy(&decoded.stderr));
        assert_eq!(rows(&place.open_image(&decoded.stdout)).len(), n + 1, "{}", folder.display());
        let listed = folder.file_name().unwrap().to_str().unwrap();
        assert_eq!(litesnap::layout::decode_segment(listed).as_deref(), Some(*name));
    }
    let again = once(&place, "data/*.db", &[]).expect_code(0);
    assert_eq!(again.count("requests"), 0);
}

/// T30.
#[test]
fn two_databases_for_one_key_are_both_named_and_neither_is_overwritten() {
    let place = Place::new();
    let template = ["--key-template", "{{name}}"];
    place.make("a/x.db", "delete", 1);
    place.make("b/x.db", "delete", 2);
    place.make("b/y.db", "delete", 3);
    for _ in 0..2 {
        let both = once(&place, "data/*/{name}.db", &template).expect_code(1);
        for (one, other) in [("a", "b"), ("b", "a")] {
            let one = format!("{}/x.db: key-clash: its key x is also that of", place.data().join(one).display());
            let line = both.out.lines().find(|l| l.starts_with(&one)).unwrap_or_else(|| panic!("{both:#?}"));
            assert!(line.contains(&format!("{other}/x.db: ")) && line.contains("--key-template"), "{line}");
        }
        assert_eq!((both.count("failed"), prefixes(&place)), (2, vec!["y".to_owned()]));
    }
    // Once one is out of the way the other is stored.
    fs::rename(place.data().join("b/x.db"), place.path().join("kept")).unwrap();
    assert_eq!(once(&place, "data/*/{name}.db", &template).expect_code(0).count("stored"), 1);
    // And keeps the key: the newcomer is refused, the owner's changes go on.
    fs::rename(place.path().join("kept"), place.data().join("b/x.db")).unwrap();
    let newcomer = once(&place, "data/*/{name}.db", &template).expect_code(1);
    assert_eq!((newcomer.count("failed"), newcomer.count("stored")), (1, 0));
    assert!(newcomer.out.contains("b/x.db: key-clash") && newcomer.out.contains("a/x.db: a --key-template"));
    let owner = rusqlite::Connection::open(place.data().join("a/x.db")).unwrap();
    owner.execute_batch("INSERT INTO t VALUES(99)").unwrap();
    let goes_on = once(&place, "data/*/{name}.db", &template).expect_code(1);
    assert_eq!((goes_on.count("failed"), goes_on.count("stored")), (1, 1), "{goes_on:#?}");
    let newest = place.objects().into_iter().rfind(|o| o.key.starts_with("x/")).unwrap();
    assert_eq!(rows(&place.open_image(&newest.image())), [1, 99]);
    // A template with more names helps, as the message says.
    let told_apart = once(&place, "data/{who}/{name}.db", &["--key-template", "{{who}}/{{name}}"]).expect_code(0);
    assert_eq!(told_apart.count("stored"), 3);
}

#[test]
fn a_key_too_long_is_named_and_the_others_proceed() {
    let place = Place::new();
    place.make(&format!("{}.db", "long".repeat(50)), "delete", 1);
    place.make("short.db", "delete", 1);
    let store = format!("memory://{}", "p/".repeat(400));
    let run = |more: &[&str]| {
        place.run(&[&["replicate", "data/{name}.db", "--store", &store, "--state-dir", "state"], more].concat())
    };
    let ran = run(&["--once"]).expect_code(1);
    assert_eq!((ran.count("stored"), ran.count("failed"), ran.count("key-too-long")), (1, 1, 1), "{ran:#?}");
    assert!(ran.out.contains("long.db: key-too-long: ") && ran.out.contains("a shorter --key-template helps"));
    let dry = run(&["--dry-run"]).expect_code(1);
    assert!(dry.out.contains("long.db: key-too-long: "), "{dry:#?}");
    run(&["--once", "--key-template", "{{name}}", "--exclude", "long*"]).expect_code(0);
    // A folder allows 255 bytes a name, which spaces exceed once they are encoded.
    place.make(&format!("{}.db", " ".repeat(200)), "delete", 1);
    let folder = once(&place, "data/*.db", &[]).expect_code(1);
    assert_eq!(
        (folder.count("stored"), folder.count("failed"), folder.count("key-too-long")),
        (2, 1, 1),
        "{folder:#?}"
    );
}

/// T48, T49: what the state was made for is part of it.
#[test]
fn another_template_host_or_store_gets_everything_and_it_is_said_once() {
    let place = Place::new();
    for n in 0..3 {
        place.make(&format!("{n}.db"), "delete", 1);
    }
    let all = "data/**/*.db";
    let mut objects = 0;
    for (more, said) in [
        (&["--host", "web-1"][..], ""),
        (&["--host", "web-2"], "host was web-1, is web-2"),
        (&["--host", "web-2", "--key-template", "v2/{{path}}"], "template was {{path}}, is v2/{{path}}"),
    ] {
        let first = once(&place, all, more).expect_code(0);
        objects += 3;
        assert_eq!((first.count("stored"), place.objects().len()), (3, objects), "{more:?}");
        assert!(first.err.contains(said) && said.is_empty() == first.err.is_empty(), "{first:#?}");
        let again = once(&place, all, more).expect_code(0);
        assert_eq!((again.count("requests"), again.err.as_str()), (0, ""), "{more:?}");
    }
    let elsewhere = ["replicate", all, "--store", "other", "--state-dir", "state", "--host", "web-2", "--once"];
    let first = place.run(&elsewhere).expect_code(0);
    assert_eq!(first.count("stored"), 3);
    assert!(first.err.contains("no state yet for file://") && first.err.lines().count() == 1, "{first:#?}");
    let again = place.run(&elsewhere).expect_code(0);
    assert_eq!((again.count("requests"), again.err.as_str()), (0, ""));
    // The state of the first store is still there.
    let back = once(&place, all, &["--host", "web-2", "--key-template", "v2/{{path}}"]).expect_code(0);
    assert_eq!(back.count("requests"), 0);
}

#[test]
fn widening_the_pattern_renames_nothing() {
    let place = Place::new();
    place.make("x/a.db", "delete", 1);
    once(&place, "data/x/*.db", &[]).expect_code(0);
    let before = prefixes(&place);
    place.make("y/b.db", "delete", 1);
    for (pattern, stored) in [("data/*/*.db", 1), ("data/**", 0), ("data", 0), ("data/{who}/{name}.db", 0)] {
        let ran = once(&place, pattern, &[]).expect_code(0);
        assert_eq!((ran.count("stored"), ran.count("requests")), (stored, stored), "{pattern}");
    }
    assert_eq!(prefixes(&place).first(), before.first());
    // What a narrower pattern or an exclusion leaves out is not gone, and costs nothing when it is back.
    for more in [&["--exclude", "y"][..], &["--exclude", "b.db", "--max-gone", "0"], &["--max-gone", "0"]] {
        let ran = once(&place, "data/**/*.db", more).expect_code(0);
        assert_eq!((ran.count("requests"), ran.out.contains("gone=")), (0, false), "{more:?} {ran:#?}");
    }
}
