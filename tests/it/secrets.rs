//! No secret in anything that litesnap says or keeps, however talkative its log is and however the store fails.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use crate::place::{Place, Ran};
use crate::s3_server::{Fault, S3Server};

const TOKEN: &str = "FwoGZXIvYXdzEXAMPLEt0ken==";
const PASSWORD: &str = "hunter2-in-a-url";
const PROXY_PASSWORD: &str = "hunter2-of-the-proxy";

/// What must appear nowhere: values given, and what is made of them.
fn secrets(place: &Place) -> Vec<String> {
    let given = place.env.iter().filter(|(name, _)| {
        ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"].contains(&name.as_str())
    });
    let made = ["Signature=", "Authorization: AWS4", "authorization: AWS4", "\"authorization\": \"AWS4"];
    let texts = [PASSWORD, PROXY_PASSWORD].into_iter().chain(made).map(str::to_owned);
    given.map(|(_, value)| value.clone()).chain(texts).collect()
}

#[track_caller]
fn assert_silent(place: &Place, ran: &Ran) {
    for secret in secrets(place) {
        assert!(!ran.out.contains(&secret) && !ran.err.contains(&secret), "{secret:?} in {ran:?}");
    }
}

#[track_caller]
fn assert_not_in(place: &Place, bytes: &[u8], what: &str) {
    for secret in secrets(place) {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret:?} in {what}");
    }
}

/// Every byte of the state, its sidecars and notes.
#[track_caller]
fn assert_none_kept(place: &Place, dir: &Path) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            assert_none_kept(place, &path);
        } else {
            assert_not_in(place, &fs::read(&path).unwrap(), &path.display().to_string());
        }
    }
}

/// A place with one database, secrets of every kind in its environment, and everything logged.
fn talkative(endpoint_env: Vec<(String, String)>) -> Place {
    let mut place = Place::new();
    place.make("a.db", "delete", 2);
    place.env = endpoint_env;
    place.env.extend([("AWS_SESSION_TOKEN", TOKEN), ("RUST_LOG", "trace")].map(|(n, v)| (n.to_owned(), v.to_owned())));
    place
}

const KEY: &str = "a/20261121T063339.123Z.db.lz4";

fn once(place: &Place, url: &str) -> Ran {
    let state = ["--state-dir", "state", "--store", url, "--request-timeout", "1s"];
    place.run(&[&["replicate", "data/**/*.db", "--once"], &state[..]].concat())
}

/// Every command that asks a store for something.
fn every_command(place: &Place, url: &str) -> Vec<Ran> {
    let restore = ["restore", "--into", "back"];
    let others: [&[&str]; 6] = [
        &["list", "--long"],
        &restore,
        &["verify", "--all"],
        &["prune", "--keep-last", "1"],
        &["purge", "/a", "--yes"],
        &["show", KEY],
    ];
    let mut runs = vec![once(place, url)];
    runs.extend(others.map(|args| place.run(&[args, &["--store", url, "--request-timeout", "1s"]].concat())));
    runs
}

#[test]
fn nothing_secret_is_said_or_kept_whatever_the_store_answers() {
    let refusals = [Fault::answer(403, "SignatureDoesNotMatch"), Fault::answer(400, "ExpiredToken")];
    let moved = Fault::Answer(301, String::new());
    for fault in [None, Some(Fault::DropAfter)].into_iter().chain(refusals.map(Some)).chain([Some(moved)]) {
        let server = S3Server::start();
        let place = talkative(server.env());
        let url = server.url("bucket", "p");
        // A store that is silent is given ten seconds by each command.
        let is_expired = matches!(fault, Some(Fault::Answer(400, _)));
        let is_slow = matches!(fault, Some(Fault::DropAfter));
        if let Some(fault) = fault {
            server.fail_from(1, fault);
        }
        for ran in if is_slow { vec![once(&place, &url)] } else { every_command(&place, &url) } {
            // What is no secret is said.
            assert!(!is_expired || format!("{ran:?}").contains("ExpiredToken: on demand"), "{ran:?}");
            assert!(ran.err.contains("TRACE") || ran.err.contains("DEBUG"), "it says less than it might: {ran:?}");
            assert_silent(&place, &ran);
        }
        assert_none_kept(&place, &place.state());
        for (key, bytes) in server.objects("bucket") {
            assert_not_in(&place, &bytes, &key);
        }
    }
}

/// Answers every request with 403 and, as stores do when a signature is wrong, with what they were sent.
fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer_with_the_request(stream));
        }
    });
    endpoint.to_string()
}

fn answer_with_the_request(mut stream: std::net::TcpStream) {
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(n) if n > 0 => request.extend_from_slice(&piece[..n]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&request).into_owned();
    let head = head.split("\r\n\r\n").next().unwrap_or_default();
    let body = format!(
        "<Error><Code>SignatureDoesNotMatch</Code><Message>The signature is wrong: {head}</Message>\
         <StringToSign>{head}</StringToSign></Error>"
    );
    let answer = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).ok();
}

#[test]
fn a_store_that_repeats_what_it_was_sent_gets_nothing_into_the_log() {
    let endpoint = echo();
    let place = talkative(crate::s3_server::env("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"));
    let url = format!("s3://bucket/p?endpoint=http://{endpoint}&allow_http=true");
    for ran in every_command(&place, &url) {
        assert_eq!(ran.code, Some(3), "{ran:?}");
        assert!(ran.err.contains("403"), "{ran:?}");
        assert_silent(&place, &ran);
    }
    assert_none_kept(&place, &place.state());
}

#[test]
fn passwords_in_urls_are_said_by_nobody() {
    let server = S3Server::start();
    let mut place = talkative(server.env());
    let with_user = server.endpoint().replace("http://", &format!("http://user:{PASSWORD}@"));
    let closed = format!("http://user:{PASSWORD}@127.0.0.1:9");
    for endpoint in [with_user.as_str(), &closed] {
        for url in [
            format!("s3://bucket/p?endpoint={endpoint}&allow_http=true"),
            format!("s3://user:{PASSWORD}@bucket/p"),
            format!("s3://bucket/p?endpoint={endpoint}&allow_http=true&X-Amz-Signature={PASSWORD}"),
            format!("{endpoint}/bucket/key?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE&X-Amz-Signature={PASSWORD}"),
        ] {
            for ran in every_command(&place, &url) {
                assert_eq!(ran.code, Some(2), "{ran:?}");
                assert_silent(&place, &ran);
            }
        }
    }
    let proxy = format!("http://user:{PROXY_PASSWORD}@127.0.0.1:9");
    place.env.push(("AWS_PROXY_URL".to_owned(), proxy));
    let ran = once(&place, &server.url("bucket", "p"));
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert_silent(&place, &ran);
    assert_none_kept(&place, &place.state());
}

/// Whoever may read none of the databases may not read them in what litesnap makes either, whatever the umask it is started with.
#[test]
fn state_and_folder_store_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let main = place.make("a.db", "wal", 2);
    fs::set_permissions(main, fs::Permissions::from_mode(0o666)).unwrap();
    place.make_large("large.db");
    let open = "umask 0; exec \"$0\" replicate 'data/**/*.db' --once --store store --state-dir state";
    let ran = std::process::Command::new("sh")
        .args(["-c", open, env!("CARGO_BIN_EXE_litesnap")])
        .current_dir(place.path())
        .output()
        .unwrap();
    assert_eq!(Ran::from(ran).expect_code(0).count("stored"), 2);
    let mut seen = 0;
    for top in [place.state(), place.store()] {
        each_below(&top, &mut |path| {
            let mode = fs::symlink_metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{} is {mode:o}", path.display());
            seen += 1;
        });
    }
    assert!(seen > 6, "{seen}");
}

fn each_below(path: &Path, visit: &mut impl FnMut(&Path)) {
    visit(path);
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| each_below(&entry.unwrap().path(), visit));
    }
}
