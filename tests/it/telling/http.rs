//! Each path, each method, who may ask; what is refused at the start.

use std::collections::BTreeSet;
use std::net::TcpListener;

use super::{LONG, Loop, promtool};
use crate::place::{Place, eventually};

fn three() -> Place {
    let place = Place::new();
    for name in ["a.db", "b.db", "c.db"] {
        place.make(name, "delete", 2);
    }
    place
}

fn is_ready(running: &Loop) -> bool {
    eventually(LONG, || running.get("/readyz").status == 200)
}

#[test]
fn stats_tell_what_was_done() {
    let place = three();
    let running = Loop::over(&place, "1s", &["--host", "web-1", "--max-unprotected", "5m"]);
    assert!(is_ready(&running), "{}", running.log());
    assert!(eventually(LONG, || running.metric("litesnap_cycles_total{result=\"succeeded\"}") >= 2.0));
    let answer = running.get("/stats").expect(200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let stats: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let stored: usize = place.objects().iter().map(|object| object.bytes.len()).sum();
    for (field, expected) in
        [("databases", 3), ("uploads_success", 3), ("uploads_failed", 0), ("bytes_uploaded", stored)]
    {
        assert_eq!(stats[field], expected, "{field} in {stats:#}");
    }
    assert!(stats["changed_last_cycle"].is_u64() && stats["last_scan"].as_str().unwrap().ends_with('Z'), "{stats:#}");
    assert_eq!((stats["healthy"].as_bool(), stats["host"].as_str()), (Some(true), Some("web-1")));
    assert_eq!((stats["max_unprotected_s"].as_f64(), stats["snapshots"]["count"].as_u64()), (Some(300.0), Some(3)));
    assert_eq!(stats["requests"]["put"]["done"], 3);
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn paths_and_methods_by_table() {
    let place = three();
    let running = Loop::over(&place, "1s", &[]);
    assert!(is_ready(&running));
    for (path, status) in [
        ("/", 200),
        ("/stats", 200),
        ("/stats?pretty", 200),
        ("/metrics", 200),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/stats/", 404),
        ("/Stats", 404),
        ("/../etc/passwd", 404),
        ("/%2e%2e/", 404),
        ("//", 404),
    ] {
        let got = running.get(path).expect(status);
        let head = running.ask(&format!("HEAD {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")).expect(status);
        assert_eq!(head.body, "", "{path}");
        assert_eq!(head.header("content-type"), got.header("content-type"), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        let request = format!("{method} /stats HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        let answer = running.ask(&request).expect(405);
        assert_eq!(answer.header("allow"), Some("get, head"), "{method}");
    }
    running.ask("GET /healthz HTTP/1.0\r\n\r\n").expect(200);
    running.ask("nonsense\r\n\r\n").expect(400);
}

/// What a page in a browser on this host could do that makes its own name mean 127.0.0.1.
#[test]
fn only_names_of_this_host_are_answered_on_loopback() {
    let place = three();
    let running = Loop::over(&place, "1s", &[]);
    let asked = |lines: &str| running.ask(&format!("GET /stats HTTP/1.1\r\n{lines}\r\n\r\n"));
    asked("Host: [::1]:9090").expect(200);
    for lines in ["Host: evil.example", "Host: localhost\r\nHost: evil.example", "Host: localhost.evil.example:80"] {
        let answer = asked(lines).expect(403);
        assert!(!answer.body.contains("databases"), "{answer:?}");
    }
    running.ask("GET http://evil.example/stats HTTP/1.1\r\nHost: localhost\r\n\r\n").expect(403);
}

fn series(text: &str) -> BTreeSet<&str> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap().0).collect()
}

#[test]
fn the_series_are_the_same_for_3_and_for_3000_databases_and_promtool_likes_them() {
    let (small, large) = (three(), Place::new());
    let first = large.make("0.db", "delete", 2);
    for n in 1..3000 {
        std::fs::copy(&first, large.data().join(format!("{n}.db"))).unwrap();
    }
    // One that fails, for its reason must add nothing.
    std::fs::write(large.data().join("bad.db"), "no database at all, but long enough to look at").unwrap();
    let texts = [(&small, 3.0), (&large, 3000.0)].map(|(place, databases)| {
        let running = Loop::over(place, "1s", &[]);
        assert!(eventually(LONG, || running.metric("litesnap_databases") >= databases), "{}", running.log());
        let answer = running.get("/metrics").expect(200);
        assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        answer.body
    });
    assert_eq!(series(&texts[0]), series(&texts[1]));
    assert!(texts[1].contains("litesnap_failing_databases{reason=\"not-a-database\"} 1\n"), "{}", texts[1]);
    assert!(texts.iter().all(|text| text.len() < 64 << 10), "{} bytes", texts[1].len());
    if let Some((is_fine, said)) = promtool(&["check", "metrics"], &texts[1]) {
        assert!(is_fine && said.trim().is_empty(), "{said}");
    }
}

#[test]
fn an_address_in_use_is_one_line_before_the_first_cycle() {
    let place = three();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran: crate::place::Ran = place.replicate("data/*.db", &["--listen", &address]).output().unwrap().into();
    let ran = ran.expect_code(2);
    assert_eq!(ran.err.lines().count(), 1, "{ran:#?}");
    assert!(ran.err.contains(&format!("cannot listen on {address}")) && ran.err.contains("another port"), "{ran:#?}");
    assert!(place.objects().is_empty(), "nothing was stored");
    // One pass does not listen.
    place
        .replicate("data/*.db", &["--once", "--listen", &address])
        .output()
        .map(crate::place::Ran::from)
        .unwrap()
        .expect_code(0);
}

#[test]
fn other_hosts_are_answered_only_if_that_is_meant() {
    let place = three();
    let refused: crate::place::Ran = place.replicate("data/*.db", &["--listen", "0.0.0.0:0"]).output().unwrap().into();
    let refused = refused.expect_code(2);
    assert!(refused.err.contains("--allow-public") && refused.err.lines().count() == 1, "{refused:#?}");
    let mut running = Loop::silent(&place, place.replicate("data/*.db", &["--listen", "0.0.0.0:0", "--allow-public"]));
    assert!(eventually(LONG, || running.said("answering HTTP on http://0.0.0.0:") == 1), "{}", running.log());
    let port = running.log().lines().find_map(|line| line.split_once("http://0.0.0.0:")?.1.parse().ok());
    running.port = port.unwrap();
    // Whoever is to be reached by its name must answer to it.
    running.ask("GET /stats HTTP/1.1\r\nHost: backup.example.org\r\n\r\n").expect(200);
}

#[test]
fn the_last_prune_is_told_also_after_a_restart() {
    let place = three();
    for _ in 0..2 {
        let running = Loop::over(&place, "1s", &["--keep-last", "1"]);
        let ran = || running.metric("litesnap_upkeep_last_run_timestamp_seconds{task=\"prune\"}") > 0.0;
        assert!(eventually(LONG, ran), "{}", running.log());
        assert_eq!(running.metric("litesnap_upkeep_last_run_failed{task=\"prune\"}"), 0.0);
        assert_eq!(running.metric("litesnap_upkeep_last_run_timestamp_seconds{task=\"verify\"}"), 0.0);
        let stats: serde_json::Value = serde_json::from_str(&running.get("/stats").body).unwrap();
        assert_eq!(stats["upkeep"]["prune"]["exit_code"], 0, "{stats:#}");
        running.stop();
    }
}
