//! Damage of every kind, each found under its own word.

use std::collections::BTreeSet;

use super::*;

/// Below tests/data/damaged a store per kind of damage, and the word it must be found under. Made by
/// `cargo test --test it -- --ignored makes_the_damaged_stores`.
const STORED: &[(&str, &str)] = &[
    ("corrupt", "corrupt"),
    ("foreign-lz4", "foreign"),
    ("foreign-text", "foreign"),
    ("truncated", "truncated"),
    ("truncated-to-nothing", "truncated"),
    ("undecodable", "undecodable"),
    ("undecodable-twice", "undecodable"),
    ("unsupported-version", "unsupported-version"),
    ("wrong-hash-of-content", "wrong-hash"),
    ("wrong-hash-of-description", "wrong-hash"),
    ("wrong-key-of-another-database", "wrong-key"),
    ("wrong-key-of-another-time", "wrong-key"),
];
const NAME: &str = "srv/app.db";
const KEY: &str = "srv/app.db/20261121T063339.123Z.db.lz4";

fn stored_damage() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/damaged")
}

/// The object of a tiny database, its image and its description.
fn tiny() -> (Vec<u8>, Description) {
    let place = Place::new();
    make_tiny(&place, "a.db");
    place.once().expect_code(0);
    parts(&place.objects()[0])
}

fn parts(object: &Object) -> (Vec<u8>, Description) {
    let mut image = Vec::new();
    let description = decode(&object.bytes[..], None, &mut image).unwrap();
    (image, description)
}

/// The same database as an object that belongs under `key`.
fn object_under(key: &str, image: &[u8], description: &Description) -> Vec<u8> {
    let mut object = encode_frame(image).bytes;
    let fixed =
        Description { key: key.into(), host: "web-1".into(), path: "/srv/app.db".into(), ..description.clone() };
    fixed.append_to(&mut object);
    object
}

fn put(store: &Path, key: &str, bytes: &[u8]) {
    let path = store.join(key);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A table of so many rows that it has inner pages, with one of its leaves overwritten.
fn make_corrupt(place: &Place, name: &str, page_size: u32, mode: &str, rows: u32) {
    let path = place.db(name);
    let conn = Connection::open(&path).unwrap();
    conn.pragma_update(None, "page_size", page_size).unwrap();
    conn.pragma_update(None, "journal_mode", mode).unwrap();
    conn.execute_batch("CREATE TABLE t(x)").unwrap();
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) INSERT INTO t SELECT hex(i) FROM n";
    conn.execute(sql, [rows]).unwrap();
    drop(conn);
    let mut bytes = fs::read(&path).unwrap();
    let page = page_size as usize;
    let leaf = bytes.len() / page / 2 * page;
    assert_eq!(bytes[leaf], 13, "not a leaf");
    bytes[leaf + 8..leaf + 24].fill(0xFF);
    fs::write(&path, bytes).unwrap();
    crate::place::age(&path);
}

#[test]
fn every_stored_damage_is_found_under_its_word() {
    let kinds: BTreeSet<String> =
        fs::read_dir(stored_damage()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(kinds, STORED.iter().map(|(kind, _)| (*kind).to_owned()).collect());
    for (kind, word) in STORED {
        let report = look(&stored_damage().join(kind), &options());
        let found = findings(&report);
        assert_eq!(found.iter().map(|f| (&*f.word, &*f.key)).collect::<Vec<_>>(), [(*word, KEY)], "{kind}: {found:?}");
        assert_eq!((found[0].name.as_str(), report.exit_code()), (NAME, 1), "{kind}");
        // A later version is not damage: another program can read it.
        let bad = u64::from(*word != "unsupported-version");
        assert_eq!((report.counts.bad, report.counts.unchecked, report.counts.good), (bad, 1 - bad, 0), "{kind}");
    }
}

#[test]
#[ignore = "makes the test data"]
fn makes_the_damaged_stores() {
    let (image, description) = tiny();
    let good = object_under(KEY, &image, &description);
    let frame = encode_frame(&image).bytes.len();
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        bytes
    };
    let mut other_hash = description.clone();
    other_hash.content_hash.0[0] ^= 1;
    let mut foreign_lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    std::io::Write::write_all(&mut foreign_lz4, &image).unwrap();
    let foreign_lz4 = foreign_lz4.finish().unwrap();
    let place = Place::new();
    make_corrupt(&place, "a.db", 512, "delete", 200);
    place.once().expect_code(0);
    let (corrupt, of_corrupt) = parts(&place.objects()[0]);
    for (kind, _) in STORED {
        let bytes = match *kind {
            "corrupt" => object_under(KEY, &corrupt, &of_corrupt),
            "foreign-lz4" => foreign_lz4.clone(),
            "foreign-text" => b"<html><body>Please log in to use this network</body></html>\n".to_vec(),
            "truncated" => good[..frame / 2].to_vec(),
            "truncated-to-nothing" => Vec::new(),
            "undecodable" => changed(frame / 2, !good[frame / 2]),
            "undecodable-twice" => [good.clone(), good.clone()].concat(),
            "unsupported-version" => changed(good.len() - 24, 2),
            "wrong-hash-of-content" => object_under(KEY, &image, &other_hash),
            "wrong-hash-of-description" => changed(frame + 20, b'X'),
            "wrong-key-of-another-database" => object_under(&KEY.replace("app", "other"), &image, &description),
            "wrong-key-of-another-time" => object_under(&KEY.replace("123Z", "124Z"), &image, &description),
            other => panic!("{other} is made nowhere"),
        };
        put(&stored_damage().join(kind), KEY, &bytes);
    }
}

/// Puts `n` objects of one database, changed by `damage(number, bytes)`, beside one that is good, and looks at all.
fn found_of(n: usize, image: &[u8], description: &Description, damage: impl Fn(usize, &mut Vec<u8>)) -> Vec<Finding> {
    let dir = tempfile::tempdir().unwrap();
    let key = |n: usize| {
        let time = Timestamp::from_ms(1_790_000_000_000 + i64::try_from(n).unwrap()).unwrap();
        format!("{NAME}/{time}.db.lz4")
    };
    for number in 0..n {
        let mut bytes = object_under(&key(number), image, description);
        damage(number, &mut bytes);
        put(dir.path(), &key(number), &bytes);
    }
    put(dir.path(), &key(n), &object_under(&key(n), image, description));
    let report = look(dir.path(), &options());
    let found = findings(&report);
    assert_eq!((report.counts.good, report.counts.checked + report.counts.unchecked), (1, n as u64 + 1));
    assert_eq!(found.iter().map(|f| f.key.clone()).collect::<Vec<_>>(), (0..n).map(key).collect::<Vec<_>>());
    found
}

#[test]
fn every_flipped_bit_is_found() {
    let (image, description) = tiny();
    let bits = object_under(KEY, &image, &description).len() * 8;
    let found = found_of(bits, &image, &description, |bit, bytes| bytes[bit / 8] ^= 1 << (bit % 8));
    let words: BTreeSet<&str> = found.iter().map(|f| f.word.as_str()).collect();
    let known = BTreeSet::from(["foreign", "truncated", "undecodable", "unsupported-version", "wrong-hash"]);
    assert!(words.is_subset(&known) && words.contains("wrong-hash"), "{words:?}");
}

#[test]
fn every_truncation_is_found() {
    let (image, description) = tiny();
    let len = object_under(KEY, &image, &description).len();
    let found = found_of(len, &image, &description, |n, bytes| bytes.truncate(n));
    assert!(found.iter().all(|f| f.word == "truncated"), "{found:?}");
}

#[test]
fn what_is_added_is_found() {
    let (image, description) = tiny();
    let good = object_under(KEY, &image, &description);
    let found = found_of(3, &image, &description, |n, bytes| match n {
        0 => bytes.push(0),
        1 => bytes.extend_from_slice(&good),
        _ => bytes.splice(0..0, [0]).for_each(drop),
    });
    let words: Vec<&str> = found.iter().map(|f| f.word.as_str()).collect();
    assert_eq!(words, ["undecodable", "undecodable", "foreign"]);
}

#[test]
fn two_that_changed_places_are_found() {
    let place = Place::new();
    let (a, _) = (make_tiny(&place, "a.db"), make_tiny(&place, "b.db"));
    place.once().expect_code(0);
    store_again(&place, &a);
    let before = files(&place);
    let keys: Vec<&String> = before.keys().collect();
    assert_eq!(keys.len(), 3);
    for (x, y) in [(0, 1), (0, 2), (1, 2)] {
        put(&place.store(), keys[x], &before[keys[y]]);
        put(&place.store(), keys[y], &before[keys[x]]);
        let report = look(&place.store(), &options());
        let found = findings(&report);
        assert_eq!(
            found.iter().map(|f| (&*f.word, &f.key)).collect::<Vec<_>>(),
            [("wrong-key", keys[x]), ("wrong-key", keys[y])]
        );
        assert_eq!(report.counts.good, 1);
        for key in [keys[x], keys[y]] {
            put(&place.store(), key, &before[key]);
        }
    }
    assert!(words(&look(&place.store(), &options())).is_empty());
}

/// T28: the object is what was stored; what was stored was corrupt already.
#[test]
fn a_source_that_was_corrupt_is_named_in_memory_and_through_a_file() {
    let place = Place::new();
    make_corrupt(&place, "rollback.db", 512, "delete", 3000);
    make_corrupt(&place, "wal.db", 4096, "wal", 3000);
    make_corrupt(&place, "large.db", 4096, "wal", 700_000);
    make_tiny(&place, "good.db");
    place.once().expect_code(0);
    assert!(place.objects_of("large.db")[0].image().len() > 4 << 20);
    let ran = run(&place, &["--all"]).expect_code(1);
    assert_eq!((ran.count("bad"), ran.count("corrupt"), ran.count("good")), (3, 3, 1), "{ran:#?}");
    for line in ran.out.lines().filter(|line| line.contains("corrupt: ")) {
        assert!(line.contains("Tree ") && line.contains("page") && !line.contains("***"), "{line}");
    }
    assert_eq!(place.objects().iter().filter(|o| o.key.ends_with(".bad")).count(), 3);
}

#[test]
fn what_cannot_be_stored_by_us_gets_no_finding() {
    let place = Place::new();
    make_tiny(&place, "a.db");
    place.once().expect_code(0);
    put(&place.store(), "readme.txt", b"notes of a person");
    put(&place.store(), "srv/app.db/backup.db.lz4", b"another program's");
    assert_eq!(run(&place, &["--all"]).expect_code(0).count("snapshots"), 1);
}

/// A later version is named, is an error, and gets no marker.
#[test]
fn a_later_version_is_not_called_bad() {
    let place = Place::new();
    put(&place.store(), KEY, &fs::read(stored_damage().join("unsupported-version").join(KEY)).unwrap());
    let ran = run(&place, &["--all"]).expect_code(1);
    assert!(ran.out.contains("unsupported-version: ") && ran.out.contains("use a newer one"), "{ran:#?}");
    assert_eq!(place.objects().len(), 1);
}
