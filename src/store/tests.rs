//! The table of URLs, and the parts that need no server.

use std::path::Path as FsPath;

use futures_util::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutPayload,
    PutResult,
};

use super::address::{Address, Bucket, Cloud, resolve};
use super::failure::scrub;
use super::*;

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn bucket(url: &str, pairs: &[(&str, &str)]) -> Bucket {
    match resolve(&StoreOptions::new(url), &env(pairs)) {
        Ok(Address::Bucket(bucket)) => bucket,
        other => panic!("{url}: {other:?}"),
    }
}

fn refusal(url: &str, pairs: &[(&str, &str)]) -> String {
    match resolve(&StoreOptions::new(url), &env(pairs)) {
        Err(Error::Usage(text)) => text,
        other => panic!("{url}: {other:?}"),
    }
}

#[test]
fn identities() {
    let here = std::env::current_dir().unwrap();
    let table: &[(&str, String)] = &[
        ("s3://b", "s3://b".into()),
        ("s3://b/", "s3://b".into()),
        ("s3://b/a/b/", "s3://b/a/b".into()),
        ("s3://b/a b/%41+é", "s3://b/a b/%41+é".into()),
        ("s3://b/p?region=eu-west-1", "s3://b/p".into()),
        ("s3://b/p?endpoint=https%3A%2F%2FMinio:9000/", "s3://b/p?endpoint=https://minio:9000".into()),
        ("s3://b/p?endpoint=http://127.0.0.1:9&allow_http=true", "s3://b/p?endpoint=http://127.0.0.1:9".into()),
        ("gs://b/p", "gs://b/p".into()),
        ("az://c/p?account=me", "az://me/c/p".into()),
        ("memory://", "memory://".into()),
        ("memory://p", "memory://p".into()),
        ("file:///dir/a%20b", "file:///dir/a b".into()),
        ("/dir/a%20b", "file:///dir/a%20b".into()),
        ("dir", format!("file://{}/dir", here.display())),
        ("./dir", format!("file://{}/dir", here.display())),
        (" s3://b/p ", "s3://b/p".into()),
    ];
    for (url, expected) in table {
        let address = resolve(&StoreOptions::new(*url), &[]).unwrap_or_else(|e| panic!("{url}: {e}"));
        assert_eq!(&address.identity(), expected, "{url}");
    }
}

#[test]
fn refusals_show_the_part_and_an_example() {
    let table = [
        ("", "empty"),
        ("ftp://x/y", "ftp://"),
        ("s3://", "no bucket name"),
        ("s3:///prefix", "no bucket name"),
        ("s3://b ad/x", "\"b ad\""),
        ("s3:bucket/x", "s3:"),
        ("s3://b/a//b", "prefix"),
        ("s3://b/../x", "prefix"),
        ("s3://b?endpont=x", "\"endpont\""),
        ("s3://b?path_style=maybe", "path_style=maybe"),
        ("s3://b?endpoint=http://127.0.0.1:9", "http://127.0.0.1:9"),
        ("s3://b?endpoint=minio:9000", "endpoint"),
        ("gs://b?region=x", "\"region\""),
        ("az://c/p", "account"),
        ("file://dir/x", "file://dir/x"),
        ("file:///d?x=1", "query"),
        ("~/backups", "~/backups"),
    ];
    for (url, part) in table {
        let text = refusal(url, &[]);
        assert!(text.contains(part), "{url}: {text}");
        assert!(text.contains("; an example: "), "{url}: {text}");
        assert!(!text.contains('\n'), "{url}: {text}");
    }
}

#[test]
fn refusals_keep_secrets() {
    for url in [
        "s3://AKIAABCDEFGHIJKLMNOP:hunter2@bucket/x",
        "s3://b?secret_access_key=hunter2",
        "s3://b?endpoint=https://me:hunter2@host",
        "s3://b?endpoint=me:hunter2@host",
        "s3://b?endpoint=http:s://me:hunter2@host",
    ] {
        let text = refusal(url, &[]);
        assert!(!text.contains("hunter2") && !text.contains("AKIA"), "{text}");
        let shown = format!("{:?}", StoreOptions::new(url));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn precedence_is_query_then_flag_then_environment() {
    let pairs = env(&[
        ("AWS_REGION", "from-env"),
        ("AWS_ENDPOINT_URL", "https://generic.example"),
        ("AWS_ENDPOINT_URL_S3", "https://env.example"),
    ]);
    let mut options = StoreOptions::new("s3://b");
    let resolved = |options: &StoreOptions| match resolve(options, &pairs).unwrap() {
        Address::Bucket(b) => (b.region, b.endpoint.unwrap()),
        other => panic!("{other:?}"),
    };
    assert_eq!(resolved(&options), ("from-env".into(), "https://env.example".into()));
    options.region = Some("from-flag".into());
    options.endpoint = Some("https://flag.example".into());
    assert_eq!(resolved(&options), ("from-flag".into(), "https://flag.example".into()));
    options.url = "s3://b?region=from-url&endpoint=https://url.example".into();
    assert_eq!(resolved(&options), ("from-url".into(), "https://url.example".into()));
}

#[test]
fn defaults_of_region_and_style() {
    assert_eq!(bucket("s3://b", &[]).region, "us-east-1");
    assert_eq!(bucket("s3://b", &[("AWS_DEFAULT_REGION", "eu-west-3")]).region, "eu-west-3");
    assert_eq!(bucket("s3://b?endpoint=https://a.r2.cloudflarestorage.com", &[]).region, "auto");
    assert!(bucket("s3://b", &[]).virtual_hosted);
    assert!(!bucket("s3://b.with.dots", &[]).virtual_hosted, "certificates end at the first dot");
    assert!(!bucket("s3://b?path_style=true", &[]).virtual_hosted);
    assert!(!bucket("s3://b?endpoint=https://minio", &[]).virtual_hosted);
    assert!(bucket("s3://b?endpoint=https://minio&path_style=false", &[]).virtual_hosted);
    let local = bucket("s3://b", &[("AWS_ENDPOINT_URL", "http://127.0.0.1:9"), ("AWS_ALLOW_HTTP", "true")]);
    assert_eq!((local.allow_http, local.endpoint.as_deref()), (true, Some("http://127.0.0.1:9")));
    assert_eq!(bucket("az://c", &[("AZURE_STORAGE_ACCOUNT_NAME", "me")]).cloud, Cloud::Azure);
}

#[test]
fn keys_are_joined_as_they_are() {
    let store = Store::open(&StoreOptions::new("memory://p/q"), &[]).unwrap();
    for key in ["a", "a/b c/%2F+é.db.lz4", "a#1/b"] {
        let path = store.path(key).unwrap();
        assert_eq!(path.as_ref(), format!("p/q/{key}"));
        assert_eq!(store.key(&path), Some(key));
    }
    for key in ["", "/a", "a/", "a//b", "a/../b", "."] {
        assert!(store.path(key).is_err(), "{key}");
    }
    assert_eq!(store.key(&Path::from("p/qq/a")), None);
}

#[test]
fn scrubbed_words() {
    let table = [
        ("https://h/b/k?X-Amz-Signature=abc", "https://h/b/k?***"),
        ("https://me:pw@h/x", "https://***@h/x"),
        ("Signature=abcdef", "***"),
        ("X-Amz-Credential=AKIA/2026", "***"),
        ("'AKIAABCDEFGHIJKLMNOP'", "'***'"),
        ("plain", "plain"),
        ("a=b", "a=b"),
        ("/b/k?X-Amz-Algorithm=AWS4&X-Amz-Signature=abc", "***"),
        ("AKIAABCDEFGHIJKLMNOP,ASIAABCDEFGHIJKLMNOP", "***,***"),
        ("https://me:pw@h/AKIAABCDEFGHIJKLMNOP", "https://***@h/***"),
        ("https://me@h/x&Signature=abc", "***"),
    ];
    for (word, expected) in table {
        assert_eq!(scrub(word), expected);
    }
}

#[test]
fn what_a_store_answers_writes_nothing_else_to_a_terminal() {
    let answer =
        "Server returned non-2xx status code: 403 Forbidden: <Code>No\x1b[2J</Code><Message>a\u{9b}b\nc</Message>";
    let error = object_store::Error::Generic { store: "S3", source: answer.into() };
    assert_eq!(classify(&error).to_string(), "store-refused: 403 Forbidden: No [2J: a b c");
}

#[test]
fn what_is_shown_of_an_address_is_one_line() {
    for url in ["/back\nups", "az://c/p?account=a%0Ab", "memory://a\u{9b}b"] {
        let described = Store::describe(&StoreOptions::new(url), &[]);
        let shown = described.map_or_else(|e| e.to_string(), |store| store.name);
        assert!(!shown.contains(char::is_control), "{shown:?}");
    }
}

#[test]
fn hint_for_profiles() {
    let home = tempfile::tempdir().unwrap();
    let hint = |pairs: &[(&str, &str)], home: &FsPath| credentials_hint(&env(pairs), Some(home));
    assert_eq!(hint(&[], home.path()), None, "no profile, nothing to hint at");
    let line = hint(&[("AWS_PROFILE", "work")], home.path()).unwrap();
    assert_eq!(line, "eval \"$(aws configure export-credentials --profile work --format env)\"");
    assert_eq!(hint(&[("AWS_PROFILE", "work"), ("AWS_ACCESS_KEY_ID", "x")], home.path()), None);
    assert_eq!(hint(&[("AWS_PROFILE", "work"), ("AWS_WEB_IDENTITY_TOKEN_FILE", "x")], home.path()), None);
    assert!(hint(&[("AWS_PROFILE", "it's; rm")], home.path()).unwrap().contains("'it'\\''s; rm'"));
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    std::fs::write(home.path().join(".aws/config"), "[default]\nregion = x\n").unwrap();
    assert_eq!(hint(&[], home.path()), None, "a region is no credential");
    std::fs::write(home.path().join(".aws/config"), "[default]\nsso_session = x\n").unwrap();
    assert!(hint(&[], home.path()).unwrap().contains("--profile default "));
}

/// A folder on a file system without hard links, which is where create-only puts come from.
#[derive(Debug)]
struct WithoutLinks(LocalFileSystem);

impl fmt::Display for WithoutLinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait::async_trait]
impl ObjectStore for WithoutLinks {
    async fn put_opts(&self, key: &Path, data: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        if options.mode == PutMode::Create {
            let source = Box::new(io::Error::from_raw_os_error(nix::errno::Errno::EPERM as i32));
            return Err(object_store::Error::Generic { store: "folder", source });
        }
        self.0.put_opts(key, data, options).await
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.0.get_opts(key, options).await
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.0.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn create_only_without_hard_links() {
    let dir = tempfile::tempdir().unwrap();
    let folder = local::Folder::open(dir.path(), false).unwrap();
    let inner = WithoutLinks(LocalFileSystem::new_with_prefix(dir.path()).unwrap());
    let store = local::Local::new(Arc::new(inner), Arc::default(), Some(folder));
    let key = Path::from("a/b");
    let put = |content: &'static str| store.put_opts(&key, content.into(), PutMode::Create.into());
    put("one").await.unwrap();
    assert!(matches!(put("two").await, Err(object_store::Error::AlreadyExists { .. })));
    assert_eq!(std::fs::read(dir.path().join("a/b")).unwrap(), b"one");
}
