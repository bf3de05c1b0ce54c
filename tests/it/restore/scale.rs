//! By hand, by `scripts/bench-remote`: restoring out of a million objects, with 30 ms before every answer. Counts are asserted,
//! times are printed.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use litesnap::object::Description;

use crate::big_s3::{BigS3, Make};
use crate::place::{Place, Ran};

const TENANTS: usize = 1_000_000;
const TS: &str = "20261121T063339.123Z";

fn key(tenant: usize) -> String {
    format!("b/srv/app/tenants/t{tenant:07}.db/{TS}.db.lz4")
}

/// One real object, and how to make the same for every other key: a frame and a description that names the key.
fn objects(place: &Place) -> (usize, Make) {
    place.make("template.db", "wal", 3000);
    place.once().expect_code(0);
    let object = place.objects_of("template.db").pop().unwrap();
    let described = litesnap::object::decode(&object.bytes[..], None, &mut Vec::new()).unwrap();
    let frame = Bytes::copy_from_slice(&object.bytes[..usize::try_from(described.frame_size).unwrap()]);
    let make = move |key: &str| {
        let path = format!("/{}", key.strip_prefix("b/").unwrap().rsplit_once('/').unwrap().0);
        let mut bytes = frame.to_vec();
        Description { key: key.to_owned(), path: path.into(), ..described.clone() }.append_to(&mut bytes);
        Bytes::from(bytes)
    };
    (make(&key(0)).len(), Arc::new(make))
}

/// Runs the command under `time`; prints what it took.
#[allow(clippy::print_stdout, reason = "a benchmark tells")]
fn timed(place: &Place, what: &str, args: &[&str]) -> Ran {
    let inner = place.litesnap(args);
    let program = std::env::var_os("LITESNAP").unwrap_or_else(|| inner.get_program().to_owned());
    let mut command = Command::new("/usr/bin/time");
    command.args(["-f", "peak_kib=%M cpu=%P"]).arg(program).args(args).env_clear();
    command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?)))).current_dir(place.path());
    let begun = Instant::now();
    let ran: Ran = command.output().unwrap().into();
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{what}: {seconds:.2} s, {}\n  {}",
        ran.err.lines().last().unwrap(),
        ran.out.lines().next().unwrap_or_default()
    );
    ran.expect_code(0)
}

#[test]
#[ignore = "a million objects: scripts/bench-remote runs it"]
fn out_of_a_million() {
    let mut place = Place::new();
    let (len, make) = objects(&place);
    let s3 = BigS3::start(Duration::from_millis(30));
    s3.put_made((0..TENANTS).map(key), len, &make);
    place.env = vec![("AWS_ACCESS_KEY_ID".into(), "a".into()), ("AWS_SECRET_ACCESS_KEY".into(), "b".into())];
    let url = s3.url("b");
    println!("{TENANTS} objects of {len} bytes, 30 ms before every answer");

    for run in 0..5 {
        let tenant = format!("/srv/app/tenants/t{:07}.db", run * 199_999);
        let one = format!("one{run}.db");
        let args = ["restore", "--store", &url, "--match", &tenant, "-o", &one];
        let ran = timed(&place, "one tenant", &args);
        assert_eq!((ran.count("lists"), ran.count("restored")), (1, 1));
    }
    s3.forget();
    for run in 0..3 {
        let into = format!("back{run}");
        let some = "/srv/app/tenants/t00????7.db";
        let args = ["restore", "--store", &url, "--match", some, "--into", &into];
        let ran = timed(&place, "10,000 out of the million", &args);
        assert_eq!((ran.count("restored"), ran.count("gets")), (10_000, 10_000));
        assert!(ran.count("lists") <= 1000 + 1000 / 40 + 12, "{ran:#?}");
    }
    timed(
        &place,
        "prune of the million, which keeps all",
        &["prune", "--store", &url, "--keep-last", "1", "--dry-run", "--json"],
    );
}
