//! The functions that run once a database and cycle, or once a database read: `cargo bench --bench hot`.
//!
//! To compare two versions: `cargo bench --bench hot -- --save-baseline before`, then `-- --baseline before` with the other.
#![allow(missing_docs, reason = "criterion_group makes a public function")]
#![allow(clippy::unwrap_used, reason = "a program that measures")]

use std::ffi::OsStr;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::{Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use litesnap::content::{ContentHash, ContentHasher};
use litesnap::detect::{Fingerprint, LastSeen, RACY_SLACK, detect};
use litesnap::header::JournalMode;
use litesnap::object::{Description, FORMAT_VERSION, LITESNAP_VERSION, decode, encode_frame};
use litesnap::pattern::Pattern;
use litesnap::retention::{Candidate, Rules, decide};
use litesnap::stamps::{MainStamp, Stamps, WalStamp};
use litesnap::state::{Change, Identity, StateDb, Table, id_of};
use litesnap::timestamp::Timestamp;
use rusqlite::Connection;

/// 2026-11-21T06:33:39Z.
const NOW_NS: i64 = 1_795_242_819_000_000_000;
const SEED: u64 = 0x5eed;
const PATH: &str = "/srv/project-0042/databases/main/branches/main/tenants/tenant-0021007.db";

fn stamps(n: u64) -> Stamps {
    let old = NOW_NS - 3_600_000_000_000;
    let main = MainStamp { dev: 65_024, ino: 1_000_000 + n, size: 20_480, mtime: old, ctime: old };
    Stamps { main, wal: Some(WalStamp { ino: 2_000_000 + n, size: 8_272, mtime: old }), journal: None }
}

fn path_of(n: u64) -> PathBuf {
    format!("/srv/project-{:04}/databases/main/branches/main/tenants/tenant-{n:07}.db", n / 500).into()
}

fn an_idle_database(c: &mut Criterion) {
    let (stamps, path) = (stamps(1), Path::new(PATH));
    let last = LastSeen { fingerprint: Fingerprint::of(&stamps, 0, SEED), racy: false, failed: false };
    c.bench_function("fingerprint and detect", |b| {
        b.iter(|| {
            let stamps = black_box(&stamps);
            detect(Some(&last), &Fingerprint::of(stamps, 0, SEED), stamps, NOW_NS, RACY_SLACK)
        });
    });
    c.bench_function("id_of", |b| b.iter(|| id_of(black_box(path), SEED)));
    let named = "/srv/{project}/databases/*/branches/*/tenants/{tenant}.db";
    for text in ["/srv/**/*.db", named] {
        let pattern = Pattern::parse(OsStr::new(text), Path::new("/")).unwrap();
        assert!(pattern.captures(path).is_some());
        c.bench_with_input(BenchmarkId::new("pattern", text), &pattern, |b, pattern| {
            b.iter(|| pattern.captures(black_box(path)).is_some());
        });
    }
}

fn table(c: &mut Criterion) {
    for count in [100_000, 1_000_000_u64] {
        let ids: Vec<u64> = (0..count).map(|n| id_of(&path_of(n), SEED)).collect();
        let table = Table::default();
        for id in &ids {
            table.see(*id, 0);
        }
        c.bench_with_input(BenchmarkId::new("Table::see", count), &ids, |b, ids| {
            // In the order of a walk, which is none.
            let mut next = ids.iter().zip(1_u64..).cycle();
            b.iter(|| {
                let (id, n) = next.next().unwrap();
                table.see(*id, u16::try_from(n % 2).unwrap())
            });
        });
    }
}

/// A database of 20 KiB as applications have them: text and numbers.
fn image() -> Vec<u8> {
    let mut conn = Connection::open_in_memory().unwrap();
    conn.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT, mail TEXT UNIQUE, seen REAL)").unwrap();
    let size = |conn: &Connection| -> i64 { conn.query_row("PRAGMA page_count", [], |r| r.get(0)).unwrap() };
    for n in 0_u64.. {
        if size(&conn) == 5 {
            break;
        }
        let hash = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let values =
            rusqlite::params![format!("User {hash:x}"), format!("u{hash}@example.org"), f64::from(n as u32) / 7.0];
        conn.execute("INSERT INTO users(name, mail, seen) VALUES(?1,?2,?3)", values).unwrap();
    }
    let image = conn.serialize("main").unwrap().to_vec();
    assert_eq!(image.len(), 20 << 10);
    image
}

fn content_hash(image: &[u8]) -> ContentHash {
    let mut hasher = ContentHasher::new(4096, 5);
    hasher.update(image);
    hasher.finish(1000, 1000, 0o640).unwrap()
}

/// The object of `image` under `key`.
fn object(image: &[u8], key: &str) -> Vec<u8> {
    let frame = encode_frame(image);
    let description = Description {
        format: FORMAT_VERSION,
        key: key.to_owned(),
        host: "web-1".to_owned(),
        path: PATH.into(),
        taken_at: Timestamp::from_ms(NOW_NS / 1_000_000).unwrap(),
        page_size: 4096,
        page_count: 5,
        raw_size: image.len() as u64,
        content_hash: content_hash(image),
        frame_size: frame.bytes.len() as u64,
        frame_hash: frame.hash,
        journal_mode: JournalMode::Rollback,
        uid: 1000,
        gid: 1000,
        mode: 0o640,
        mtime_ns: NOW_NS,
        schema_version: Some(1),
        sqlite_version: Some(3_054_001),
        litesnap: LITESNAP_VERSION.to_owned(),
    };
    let mut object = frame.bytes;
    description.append_to(&mut object);
    object
}

fn a_database_read(c: &mut Criterion) {
    let (image, key) = (image(), format!("{}/20261121T063339.000Z.db.lz4", &PATH[1..]));
    let object = object(&image, &key);
    let mut group = c.benchmark_group("20 KiB");
    group.throughput(Throughput::Bytes(image.len() as u64));
    group.bench_function("content hash", |b| b.iter(|| content_hash(black_box(&image))));
    group.bench_function("encode_frame", |b| b.iter(|| encode_frame(black_box(&image))));
    group.bench_function("decode", |b| {
        let mut back = Vec::with_capacity(image.len());
        b.iter(|| {
            back.clear();
            decode(black_box(&object[..]), Some(&key), &mut back).unwrap()
        });
        assert_eq!(back, image);
    });
    group.finish();
}

fn stored(db: &StateDb, n: u64, round: i64) -> Change {
    let (path, now) = (path_of(n), NOW_NS + round);
    Change::Stored {
        id: id_of(&path, db.seed()),
        path,
        prefix: None,
        stamps: stamps(n),
        stamped_at: now,
        content_hash: ContentHash((u128::from(n) * 7_919 * now.unsigned_abs() as u128).to_le_bytes()),
        key_ms: now / 1_000_000,
        stored_s: u32::try_from(now / 1_000_000_000).unwrap(),
        bytes: 3000,
    }
}

/// Time of `b`'s rounds, each a batch of 10,000 out of the 100,000, as the recording thread writes them.
fn record(b: &mut Bencher<'_>, db: &StateDb, round: &mut i64) {
    b.iter_custom(|rounds| {
        let mut took = Duration::ZERO;
        for _ in 0..rounds {
            *round += 1;
            let batch: Vec<Change> =
                (0..10_000).map(|n| stored(db, n * 10 + round.unsigned_abs() % 10, *round)).collect();
            let batch: Vec<&Change> = batch.iter().collect();
            let begun = Instant::now();
            db.apply(&batch).unwrap();
            took += begun.elapsed();
            db.settle();
        }
        took
    });
}

fn state(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity { store: "file:///backup".into(), template: "{{path}}".into(), host: "web-1".into() };
    let (db, _) = StateDb::open(&dir.path().join("state.db"), &identity, 0).unwrap();
    let all: Vec<Change> = (0..100_000).map(|n| stored(&db, n, 0)).collect();
    db.apply(&all.iter().collect::<Vec<_>>()).unwrap();
    let mut group = c.benchmark_group("state of 100,000");
    group.sample_size(10);
    let mut round = 0;
    group.bench_function("StateDb::apply of 10,000", |b| record(b, &db, &mut round));
    group.bench_function("StateDb::load", |b| {
        b.iter(|| {
            let mut rows = 0;
            db.load(|row| rows += u32::from(row.stamps.is_some())).unwrap();
            assert_eq!(rows, 100_000);
        });
    });
    group.finish();
}

fn retention(c: &mut Criterion) {
    let now = NOW_NS / 1_000_000;
    let at = |hour: i64| Timestamp::from_ms(now - hour * 3_600_000).unwrap();
    let year: Vec<Candidate> =
        (0..365 * 24).rev().map(|hour| Candidate { time: at(hour), is_bad: hour % 1000 == 7 }).collect();
    c.bench_function("retention of a year, hourly", |b| b.iter(|| decide(&Rules::standard(), at(0), black_box(&year))));
}

fn short() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3))
}

criterion_group! { name = hot; config = short(); targets = an_idle_database, table, a_database_read, state, retention }
criterion_main!(hot);
