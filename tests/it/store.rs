//! Stores: every kind does the same, and every way of failing is told apart, without secrets and within its time.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use litesnap::error::{Failure, Reason};
use litesnap::store::{Answer, Kind, Patience, Store, StoreOptions, Verb, classify};
use object_store::{Error, ObjectStoreExt, PutPayload};

use crate::s3_server::{ACCESS_KEY_ID, Fault, S3Server, SECRET_ACCESS_KEY, env};

const QUICK: Patience = Patience { silent: Duration::from_millis(400), busy: Duration::from_secs(2) };

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Opens `url` with little patience, so that tests of failures are short.
fn open(url: &str, env: &[(String, String)]) -> Store {
    let options = StoreOptions { patience: QUICK, request_timeout: Duration::from_secs(1), ..StoreOptions::new(url) };
    Store::open(&options, env).unwrap()
}

async fn create(store: &Store, key: &str, content: &'static [u8]) -> object_store::Result<()> {
    store.inner.put_opts(&store.path(key)?, PutPayload::from_static(content), store.create()).await.map(drop)
}

async fn read(store: &Store, key: &str) -> object_store::Result<Vec<u8>> {
    Ok(store.inner.get(&store.path(key)?).await?.bytes().await?.to_vec())
}

async fn keys(store: &Store) -> object_store::Result<Vec<String>> {
    let metas: Vec<_> = store.inner.list(store.root().as_ref()).try_collect().await?;
    let mut keys: Vec<_> = metas.iter().filter_map(|meta| store.key(&meta.location).map(str::to_owned)).collect();
    keys.sort();
    Ok(keys)
}

/// A failure of `create`, checked for secrets.
fn failure(store: &Store) -> Failure {
    let failure = classify(&block_on(create(store, "k", b"x")).unwrap_err());
    assert_no_secrets(&format!("{failure} {failure:?} {store:?}"));
    failure
}

fn assert_no_secrets(text: &str) {
    for secret in [SECRET_ACCESS_KEY, ACCESS_KEY_ID, "Signature=", "X-Amz-Signature", "\n"] {
        assert!(!text.contains(secret), "{secret:?} in: {text}");
    }
}

async fn conformance(store: &Store) {
    create(store, "a b/c/1.db.lz4", b"one").await.unwrap();
    let again = create(store, "a b/c/1.db.lz4", b"two").await.unwrap_err();
    assert!(matches!(again, Error::AlreadyExists { .. }), "{again:?}");
    assert_eq!(read(store, "a b/c/1.db.lz4").await.unwrap(), b"one");
    let tail = store.inner.get_range(&store.path("a b/c/1.db.lz4").unwrap(), 1..3).await.unwrap();
    assert_eq!(&tail[..], b"ne");
    assert!(matches!(read(store, "none").await.unwrap_err(), Error::NotFound { .. }));

    let big = store.path("big").unwrap();
    let mut upload = store.inner.put_multipart(&big).await.unwrap();
    upload.put_part(vec![1_u8; 5 << 20].into()).await.unwrap();
    upload.put_part(vec![2_u8; 100].into()).await.unwrap();
    upload.complete().await.unwrap();
    assert_eq!(store.inner.head(&big).await.unwrap().size, (5 << 20) + 100);

    let mut upload = store.inner.put_multipart(&store.path("aborted").unwrap()).await.unwrap();
    upload.put_part(vec![1_u8; 5 << 20].into()).await.unwrap();
    upload.abort().await.unwrap();

    assert_eq!(keys(store).await.unwrap(), ["a b/c/1.db.lz4", "big"]);
    store.inner.delete(&big).await.unwrap();
    assert_eq!(keys(store).await.unwrap(), ["a b/c/1.db.lz4"]);
    store.sync().unwrap();
}

#[test]
fn every_kind_conforms() {
    let server = S3Server::start();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("made/by us");
    let urls =
        ["memory://".to_owned(), "memory://p/q".to_owned(), folder.display().to_string(), server.url("bucket", "p/q")];
    for url in urls {
        let store = open(&url, &server.env());
        block_on(conformance(&store));
        let counts = store.requests.snapshot();
        let of = |verb| counts.of(verb);
        // 2 creates and 3 parts; begin twice and complete once.
        assert_eq!((of(Verb::Put), counts.get(Verb::Put, Answer::Refused)), (5, 1), "{url}");
        assert_eq!((of(Verb::Get), of(Verb::Head), of(Verb::List)), (3, 1, 2), "{url}");
        // S3 deletes by POST, and aborts by DELETE.
        let deletes = if store.kind == Kind::S3 { (4, 1) } else { (3, 2) };
        assert_eq!((of(Verb::Post), of(Verb::Delete)), deletes, "{url}");
        assert_eq!(counts.total(), 5 + 3 + 1 + 2 + 5, "{url}");
        if store.kind == Kind::S3 {
            assert_eq!(counts.total(), server.log().len() as u64);
            assert_eq!(server.objects("bucket"), [("p/q/a b/c/1.db.lz4".to_owned(), b"one".to_vec())]);
        }
    }
}

#[test]
fn an_unused_store_sends_nothing() {
    let server = S3Server::start();
    let store = open(&server.url("bucket", ""), &server.env());
    assert_eq!(store.name, format!("s3://bucket (endpoint {})", server.endpoint()));
    assert_eq!(store.identity(), format!("s3://bucket?endpoint={}", server.endpoint()));
    assert_eq!((server.log().len(), store.requests.total()), (0, 0));
}

#[test]
fn folder_paths_equal_keys_and_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("new/root");
    for fsync_each in [false, true] {
        let options = StoreOptions { fsync_each, ..StoreOptions::new(root.display().to_string()) };
        let store = Store::open(&options, &[]).unwrap();
        for key in ["100%25/a%2Fb", "spa ce/+/ä/日本", "a#1/b", "q?x=1&y/[z]*", "tilde~/back\\slash", "c:/d;e,'\""] {
            let key = format!("{fsync_each}/{key}");
            block_on(create(&store, &key, b"x")).unwrap();
            assert_eq!(std::fs::read(root.join(&key)).unwrap(), b"x", "{key}");
            assert_eq!(block_on(read(&store, &key)).unwrap(), b"x");
            assert!(block_on(keys(&store)).unwrap().contains(&key), "{key}");
        }
        let mode = |path: &str| std::fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(""), mode(".."), mode(&format!("{fsync_each}/100%25"))), (0o700, 0o700, 0o700));
    }
}

#[test]
fn a_vanished_folder_is_not_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("mount");
    let store = open(root.to_str().unwrap(), &[]);
    std::fs::remove_dir(&root).unwrap();
    assert_eq!(failure(&store).reason, Reason::StoreMissing);
    assert!(!root.exists());
}

/// What an unmount does: the directory under the mount point appears.
#[test]
#[allow(clippy::disallowed_methods, reason = "nothing is published here")]
fn another_folder_of_the_same_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("mount");
    let store = open(root.to_str().unwrap(), &[]);
    std::fs::rename(&root, dir.path().join("away")).unwrap();
    std::fs::create_dir(&root).unwrap();
    assert_eq!(failure(&store).reason, Reason::StoreMissing);
    let listing = classify(&block_on(keys(&store)).unwrap_err());
    assert_eq!(listing.reason, Reason::StoreMissing, "an empty list would say that nothing was ever stored");
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
}

#[test]
fn a_folder_that_refuses_or_is_full() {
    let full = object_store::Error::Generic { store: "x", source: Box::new(std::io::Error::from_raw_os_error(28)) };
    assert_eq!(classify(&full).reason, Reason::NoSpace);
    let refused = object_store::Error::Generic { store: "x", source: Box::new(std::io::Error::from_raw_os_error(13)) };
    assert_eq!(classify(&refused).reason, Reason::StoreRefused);
}

#[test]
fn a_lost_answer_to_a_create_is_already_exists() {
    let server = S3Server::start();
    let store = open(&server.url("bucket", ""), &server.env());
    server.fail_next(1, Fault::DropAfter);
    let error = block_on(create(&store, "k", b"x")).unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error:?}");
    assert_eq!(server.objects("bucket"), [("k".to_owned(), b"x".to_vec())]);
    assert_eq!(store.requests.snapshot().get(Verb::Put, Answer::Nothing), 1);
    assert_eq!(store.requests.snapshot().get(Verb::Put, Answer::Refused), 1);
}

#[test]
fn a_busy_store_is_asked_again() {
    let server = S3Server::start();
    let store = open(&server.url("bucket", ""), &server.env());
    server.fail_next(1, Fault::answer(503, "SlowDown"));
    server.fail_next(1, Fault::answer(429, "TooManyRequests"));
    server.fail_next(1, Fault::DropBefore);
    block_on(create(&store, "k", b"x")).unwrap();
    assert_eq!(server.count("PUT"), 4);
    let counts = store.requests.snapshot();
    assert_eq!((counts.answered(Answer::Busy), counts.answered(Answer::Nothing), counts.total()), (2, 1, 4));

    server.fail_from(1, Fault::answer(503, "SlowDown"));
    let begun = Instant::now();
    let failure = failure(&store);
    assert_eq!(failure.reason, Reason::StoreBusy, "{failure}");
    assert_eq!(failure.detail, "503 Service Unavailable: SlowDown: on demand");
    assert!((2..8).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[test]
fn refusals() {
    let server = S3Server::start();
    let wrong_secret = open(&server.url("bucket", ""), &env(ACCESS_KEY_ID, "wrong"));
    let failed = failure(&wrong_secret);
    assert_eq!(failed.reason, Reason::StoreRefused, "{failed}");
    assert!(failed.detail.starts_with("403 Forbidden: SignatureDoesNotMatch"), "{failed}");
    let listing = classify(&block_on(keys(&wrong_secret)).unwrap_err());
    assert_eq!(listing.reason, Reason::StoreRefused, "{listing}");
    let unknown_key = open(&server.url("bucket", ""), &env("AKIAUNKNOWNUNKNOWN12", SECRET_ACCESS_KEY));
    assert_eq!(failure(&unknown_key).reason, Reason::StoreRefused);

    let missing = failure(&open(&server.url("nobucket", ""), &server.env()));
    assert_eq!(missing.reason, Reason::StoreMissing, "{missing}");
    let no_object = classify(&block_on(read(&open(&server.url("bucket", ""), &server.env()), "k")).unwrap_err());
    assert_eq!(no_object.reason, Reason::StoreError, "{no_object}");
    assert_eq!(server.count("PUT"), 3, "a refusal is not tried again");
}

/// What AWS answers to a wrong signature holds key id, signature and the string that was signed.
#[test]
fn what_a_store_echoes_is_not_passed_on() {
    let server = S3Server::start();
    let store = open(&server.url("bucket", ""), &server.env());
    let body = format!(
        "<?xml version=\"1.0\"?>\n<Error><Code>SignatureDoesNotMatch</Code><Message>It does not match for {ACCESS_KEY_ID}\n\
         with https://h/b?X-Amz-Signature=abc and Signature=def</Message><AWSAccessKeyId>{ACCESS_KEY_ID}</AWSAccessKeyId>\
         <SignatureProvided>abcdef</SignatureProvided><StringToSign>{SECRET_ACCESS_KEY}</StringToSign></Error>"
    );
    server.fail_next(1, Fault::Answer(403, body));
    let failed = failure(&store);
    assert_eq!(failed.reason, Reason::StoreRefused);
    assert!(failed.detail.contains("SignatureDoesNotMatch: It does not match for ***"), "{failed}");
}

#[test]
fn answers_are_told_apart() {
    let table = [
        (400, "ExpiredToken", Reason::StoreRefused),
        (400, "AccessDenied", Reason::StoreRefused),
        (400, "RequestTimeTooSkewed", Reason::StoreRefused),
        (400, "SignatureDoesNotMatch", Reason::StoreRefused),
        (400, "EntityTooLarge", Reason::StoreError),
        (401, "Whatever", Reason::StoreRefused),
        (403, "RequestTimeTooSkewed", Reason::StoreRefused),
        (404, "NoSuchBucket", Reason::StoreMissing),
        (404, "ContainerNotFound", Reason::StoreMissing),
        (400, "RequestTimeout", Reason::StoreTimeout),
        (301, "PermanentRedirect", Reason::StoreRefused),
        (500, "InternalError", Reason::StoreBusy),
        (501, "NotImplemented", Reason::StoreError),
        (502, "BadGateway", Reason::StoreBusy),
    ];
    let server = S3Server::start();
    let store = open(&server.url("bucket", ""), &server.env());
    for (status, code, reason) in table {
        server.forget();
        server.fail_from(1, Fault::answer(status, code));
        let failed = failure(&store);
        assert_eq!(failed.reason, reason, "{status} {code}: {failed}");
    }
}

#[test]
fn a_store_that_never_answers() {
    let server = S3Server::start();
    let store = open(&server.url("bucket", ""), &server.env());
    server.fail_from(1, Fault::Hang);
    let begun = Instant::now();
    let failed = failure(&store);
    assert_eq!(failed.reason, Reason::StoreTimeout, "{failed}");
    let reading = classify(&block_on(read(&store, "k")).unwrap_err());
    assert_eq!(reading.reason, Reason::StoreTimeout, "{reading}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(server.log().len(), 2, "neither is tried again: the store has been silent for longer than its patience");
    server.heal();
    block_on(create(&store, "k", b"x")).unwrap();
}

#[test]
fn a_closed_port_with_the_default_patience() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let url = format!("s3://bucket?endpoint=http://127.0.0.1:{port}&allow_http=true");
    let store = Store::open(&StoreOptions::new(url), &env(ACCESS_KEY_ID, SECRET_ACCESS_KEY)).unwrap();
    let begun = Instant::now();
    let failed = failure(&store);
    assert_eq!(failed.reason, Reason::StoreUnreachable, "{failed}");
    assert!(failed.detail.contains("Connection refused"), "{failed}");
    assert!((9..16).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    let tried = store.requests.total();
    assert!(tried > 2, "{tried}");
    let begun = Instant::now();
    failure(&store);
    assert!(begun.elapsed() < Duration::from_secs(1), "while it is silent, one attempt is enough");
    assert_eq!(store.requests.total(), tried + 1);
}

#[test]
fn no_credentials_at_all() {
    let server = S3Server::start();
    let nothing = [("AWS_METADATA_ENDPOINT".to_owned(), "http://127.0.0.1:9".to_owned())];
    let store = open(&server.url("bucket", ""), &nothing);
    let failed = failure(&store);
    assert_eq!(failed.reason, Reason::StoreRefused, "{failed}");
    assert!(failed.detail.starts_with("no credentials"), "{failed}");
    let counts = store.requests.snapshot();
    assert_eq!((counts.total(), server.log().len()), (0, 0));
    assert!(counts.credentials() > 0);
}

#[test]
fn the_storage_class_goes_with_each_put() {
    let server = S3Server::start();
    let url = server.url("bucket", "") + "&storage_class=STANDARD_IA";
    let store = open(&url, &server.env());
    assert_eq!(store.put_attributes.len(), 1);
    // The server knows STANDARD only: that it complains shows that the class arrived.
    let failed = failure(&store);
    assert!(failed.detail.contains("InvalidStorageClass"), "{failed}");
}

#[test]
fn any_request_of_a_multipart_upload_may_fail_once() {
    let server = S3Server::start();
    let store = open(&server.url("bucket", ""), &server.env());
    for n in 1..=3 {
        server.forget();
        server.fail_nth(n, Fault::answer(500, "InternalError"));
        server.fail_nth(n + 1, Fault::Delay(Duration::from_millis(300)));
        let key = store.path(&format!("k{n}")).unwrap();
        block_on(async {
            let mut upload = store.inner.put_multipart(&key).await.unwrap();
            upload.put_part("x".into()).await.unwrap();
            upload.complete().await.unwrap();
        });
        assert_eq!(server.log().len(), 4);
    }
    assert_eq!(server.objects("bucket").len(), 3);
    assert_eq!(store.requests.snapshot().answered(Answer::Broken), 3);
}

/// Connections that are never accepted, once the queue is full, are never established either.
#[test]
fn a_connection_that_is_never_established() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let connect = || tokio::time::timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(address));
        let mut queue = Vec::new();
        while let Ok(stream) = connect().await {
            queue.push(stream.unwrap());
        }
        let url = format!("s3://bucket?endpoint=http://{address}&allow_http=true");
        let options = StoreOptions { patience: QUICK, ..StoreOptions::new(url) };
        let store = Store::open(&options, &env(ACCESS_KEY_ID, SECRET_ACCESS_KEY)).unwrap();
        let begun = Instant::now();
        let failed = classify(&create(&store, "k", b"x").await.unwrap_err());
        assert_eq!(failed.reason, Reason::StoreUnreachable, "{failed}");
        assert!((4..8).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    });
}

#[test]
fn an_answer_that_breaks_off() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Without an ETag, or object_store would ask for the rest. Ends with the process: accepting has no end of its own.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap();
            assert!(read > 0);
            let head = "HTTP/1.1 200 OK\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n";
            stream.write_all(format!("{head}Content-Length: 100\r\n\r\nabc").as_bytes()).unwrap();
        }
    });
    let url = format!("s3://bucket?endpoint=http://{address}&allow_http=true");
    let store = open(&url, &env(ACCESS_KEY_ID, SECRET_ACCESS_KEY));
    let error = block_on(read(&store, "k")).unwrap_err();
    let failed = classify(&error);
    assert_eq!(failed.reason, Reason::StoreUnreachable, "{failed} {error:?}");
    assert_no_secrets(&failed.to_string());
}

#[test]
fn refused_credentials() {
    let (server, metadata) = (S3Server::start(), S3Server::start());
    let store = open(&server.url("bucket", ""), &[("AWS_METADATA_ENDPOINT".to_owned(), metadata.endpoint())]);
    metadata.fail_nth(1, Fault::Answer(200, "token".to_owned()));
    metadata.fail_from(2, Fault::answer(404, "NotFound"));
    let failed = failure(&store);
    assert_eq!(failed.reason, Reason::StoreRefused, "{failed}");
    assert_eq!(failed.detail, "no credentials: asking for them failed (404 Not Found)");
    assert_eq!((store.requests.total(), server.log().len()), (0, 0));
}

#[test]
fn of_many_creators_one_wins() {
    let server = S3Server::start();
    let store = open(&server.url("bucket", ""), &server.env());
    let won = block_on(async {
        let puts = (0..16).map(|_| create(&store, "k", b"x"));
        futures_util::future::join_all(puts).await.iter().filter(|put| put.is_ok()).count()
    });
    assert_eq!(won, 1);
}
