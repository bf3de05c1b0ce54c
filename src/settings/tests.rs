//! Tables over whole files: what each of the three kinds comes to, and what is refused, by line.

use std::ffi::OsStr;

use super::*;
use crate::layout::Template;
use crate::pattern::Pattern;

const LISTS: [&str; 2] = ["patterns", "exclude"];
const SINGLES: [&str; 18] = [
    "store",
    "endpoint",
    "region",
    "path-style",
    "allow-http",
    "storage-class",
    "sse-kms-key-id",
    "concurrency",
    "interval",
    "key-template",
    "host",
    "keep",
    "keep-daily",
    "keep-yearly",
    "listen",
    "allow-public",
    "heartbeat-url",
    "once",
];

fn read_as(name: &str, text: &str) -> Result<Settings, String> {
    let known = |name: &&str, is_list| Known { names: vec![(*name).to_owned()], is_list };
    let mut options: Vec<Known> = LISTS.iter().map(|name| known(name, true)).collect();
    options.extend(SINGLES.iter().map(|name| known(name, false)));
    options[0].names.push("pattern".into());
    options[2].names.push("to".into());
    let env = |name: &str| {
        let set = [("HOME", "/root"), ("BUCKET", "my-bucket"), ("SECRET", "hunter2!"), ("TIME", "5m")];
        set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    };
    let is_dir = |path: &Path| path == Path::new("/srv/folder");
    let reader =
        Reader { name: Path::new(name), options: &options, env: &env, cwd: Path::new("/cwd"), is_dir: &is_dir };
    read(text.as_bytes(), reader).map_err(|e| e.to_string())
}

/// `key=a,b` of every option, sorted.
fn said(settings: &Settings) -> Vec<String> {
    let values = |setting: &Setting| setting.values.iter().map(|v| v.text.as_str()).collect::<Vec<_>>().join(",");
    let mut all: Vec<String> = settings.options.iter().map(|s| format!("{}={}", s.key, values(s))).collect();
    all.sort();
    all
}

#[track_caller]
fn says(name: &str, text: &str, expected: &[&str]) -> Settings {
    let settings = read_as(name, text).unwrap_or_else(|e| panic!("{text}: {e}"));
    assert_eq!(said(&settings), expected, "{text}");
    settings
}

#[track_caller]
fn refused(name: &str, text: &str, line: usize, part: &str) {
    let message = read_as(name, text).expect_err(text);
    assert!(message.starts_with(&format!("{name}:{line}: ")), "{text}: {message}");
    assert!(message.contains(part) && !message.contains('\n'), "{text}: {message} lacks {part}");
}

#[test]
fn own_keys_are_the_names_of_options() {
    says("litesnap.yml", "", &[]);
    let text = "patterns:\n  - /data/*.db\n  - x.db\nto: s3://b/p\nkeep_daily: 7\nonce: yes\ninterval: ${TIME}\nexclude: tmp\n";
    let settings = says(
        "litesnap.yml",
        text,
        &["exclude=tmp", "interval=5m", "keep-daily=7", "once=yes", "patterns=/data/*.db,x.db", "store=s3://b/p"],
    );
    let lines: Vec<usize> = settings.get("patterns").expect("given").values.iter().map(|v| v.line).collect();
    assert_eq!((lines, settings.place("store").as_deref()), (vec![2, 3], Some("litesnap.yml:4")));
    assert_eq!(settings.get("interval").expect("given").values[0].shown(), "${TIME}");
    assert!(settings.warnings.is_empty() && !settings.is_litestream);
    says("litesnap.yml", "pattern: /srv/folder\n", &["patterns=/srv/folder"]);
    says(
        "litesnap.yml",
        "patterns: []\nkey-template: '{{path}}/$$'\n".replace("/$$", "").as_str(),
        &["key-template={{path}}"],
    );
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    for (text, line, part) in [
        ("store: a\nkeep-dayly: 3\n", 2, "unknown key `keep-dayly`: did you mean `keep-daily`?"),
        ("colour: red\n", 1, "unknown key `colour`: `litesnap config schema` lists all"),
        ("addr: ':9090'\n", 1, "unknown key `addr`"),
        ("store: a\nstore: b\n", 2, "`store` is given twice, first in line 1"),
        ("store: a\nto: b\n", 2, "`to` says the same as `store` in line 1"),
        ("interval:\n  - 30s\n", 2, "`interval` takes one value, not a list"),
        ("interval:\n  time: 30s\n", 2, "`interval` takes one value, not a section"),
        ("interval:\nstore: a\n", 1, "`interval` has no value"),
        ("store: ${NONE}\n", 1, "the variable NONE is not set"),
        ("store: $BUCKET\n", 1, "${BUCKET}"),
        ("patterns:\n  - /data/[a.db\n", 2, "not closed"),
        ("patterns:\n  - [a]\n", 2, "takes one value"),
        ("exclude:\n  - cache\n  - '[x'\n", 3, "not closed"),
        ("\nkey-template: '{path}'\n", 2, "{{path}}"),
        ("- a\n- b\n", 1, "such as store: /backups"),
        ("patterns:\n  - /a/*.db\n  - /b/*.db\n  - /a/./*.db\n", 4, "finds the same as `/a/*.db` in line 2"),
        ("patterns:\n  - /srv/folder\n  - /srv/folder/x/*.db\n", 3, "finds only what is found already by"),
        (
            "patterns:\n  - /srv/folder/x/\n  - /srv/folder\n",
            3,
            "finds, too, all that is found by `/srv/folder/x/` in line 2",
        ),
        ("patterns:\n  - /a/**/*.db\n  - /a/b/*.db\n", 3, "in line 2: keep one"),
        ("patterns:\n  - {name: x}\n", 2, "this has no `pattern`"),
        ("patterns:\n  - {pattern: '/a/{x}.db', x: y}\n", 2, "{x} stands for something already"),
        ("store: a\n---\nstore: b\n", 2, "second document"),
        ("multi-db: 5\n", 1, "`multi-db` is a section"),
        ("multi-db: {enabled: perhaps}\n", 1, "`enabled` says neither yes nor no"),
        ("multi-db: {enabled: true}\n", 1, "`multi-db` has no `patterns`"),
        (
            "multi-db:\n  pattern: /a/*.db\n  scan-intervall: 5s\n",
            3,
            "unknown key in `multi-db` `scan-intervall`: did you mean `scan-interval`",
        ),
        ("patterns: a.db\nmulti-db:\n  patterns: /a/*.db\n", 1, "`patterns`, which line 3 gives already"),
        ("multi-db:\n  patterns: /a/*.db\n  s3: {bucket: b}\n  replica-template: {bucket: b}\n", 4, "first in line 3"),
        (
            "multi-db:\n  patterns: /a/*.db\n  replica-template: {type: sftp}\n",
            3,
            "Litestream stores there, litesnap does not",
        ),
        (
            "multi-db:\n  patterns: /a/*.db\n  replica-template: {bucket: b, age: {recipients: [x]}}\n",
            3,
            "without this encryption",
        ),
        ("multi-db:\n  patterns: /a/*.db\n  s3: {region: x}\n", 3, "no bucket"),
    ] {
        refused("litesnap.yml", text, line, part);
    }
    let (long, bad) = ("#".repeat((1 << 20) + 1), [b"a: b\nc: ".as_slice(), &[0xff]].concat());
    refused("litesnap.yml", &long, 1, "1 MiB");
    let known = [Known { names: vec!["a".into()], is_list: false }];
    let reader =
        Reader { name: Path::new("x"), options: &known, env: &|_| None, cwd: Path::new("/"), is_dir: &|_| false };
    assert!(read(&bad, reader).expect_err("no text").to_string().starts_with("x:2: it is not UTF-8"));
    let many: String = (0..=4000).map(|n| format!("  - /d{n}/*.db\n")).collect();
    refused("litesnap.yml", &format!("patterns:\n{many}"), 4002, "more than 4000 patterns");
}

/// One row for each pattern and template in the background texts and in the repository that they describe: the key of an
/// example path, or the name that the template wants and the pattern has not.
#[test]
fn every_pattern_and_template_of_the_drafts_gives_its_key_or_names_what_it_lacks() {
    const CLASSIC: &str = "/data/*/databases/*/branches/*/tenants/*.db";
    const FOUR: &str = "{{project}}/{{database}}/{{branch}}/{{tenant}}";
    let path = "/data/p/databases/d/branches/b/tenants/t.db";
    for (pattern, template, path, expected) in [
        // litestreampp-readme: a tenant that no part of the path stands for.
        ("/data/*/databases/*.db", "{{project}}/{{database}}/{{tenant}}", "/data/p/databases/d.db", Err("tenant")),
        // litestreampp-readme: without a template.
        ("/path/to/databases/*.db", "{{path}}", "/path/to/databases/d.db", Ok("path/to/databases/d.db")),
        // multi-database-example and integration guide, step 1; the final design and the command line's default.
        (CLASSIC, FOUR, path, Ok("p/d/b/t")),
        // integration guide, basic multi-tenant set-up.
        (
            "/data/tenants/*/databases/*.db",
            "tenants/{{tenant}}/{{database}}",
            "/data/tenants/t/databases/d.db",
            Ok("tenants/t/d"),
        ),
        // integration guide, complex structure: two patterns, of which the second has no project and no branch.
        (
            "/data/*/projects/*/branches/*/db/*.sqlite",
            "{{project}}/{{branch}}/{{database}}",
            "/data/x/projects/p/branches/b/db/d.sqlite",
            Ok("p/b/d"),
        ),
        (
            "/var/lib/apps/*/data/*.db",
            "{{project}}/{{branch}}/{{database}}",
            "/var/lib/apps/a/data/d.db",
            Err("project"),
        ),
        // the repository's example file: its second pattern.
        ("/var/lib/projects/*/data/*.db", FOUR, "/var/lib/projects/p/data/d.db", Err("branch")),
        // the repository's demos: a slash at the end.
        (
            "/data/*/databases/*.db",
            "litestream/{{project}}/{{database}}/",
            "/data/p/databases/d.db",
            Ok("litestream/p/d"),
        ),
        // the usage page of the standalone tool.
        ("/var/lib/myapp/*/data/*.db", "myapp/{{project}}/{{database}}", "/var/lib/myapp/p/data/d.db", Err("project")),
        ("/data/tenants/*/databases/*.db", FOUR, "/data/tenants/t/databases/d.db", Err("project")),
        ("./test-data/**/*.db", FOUR, "/cwd/test-data/x/d.db", Err("project")),
    ] {
        for (name, below) in [("litesnap.yml", ""), ("litestream.yml", "/litesnap")] {
            let text = format!(
                "multi-db:\n  enabled: true\n  patterns:\n    - \"{pattern}\"\n  replica-template:\n    type: s3\n    bucket: b\n    path: \"{template}\"\n"
            );
            let settings = read_as(name, &text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let given = |key: &str| settings.get(key).expect(key).values[0].text.clone();
            assert_eq!(given("store"), "s3://b");
            let found = Pattern::parse(OsStr::new(&given("patterns")), Path::new("/cwd")).expect(pattern);
            let template = Template::parse(&given("key-template")).expect(template);
            let captures = found.captures(Path::new(path)).unwrap_or_else(|| panic!("{pattern} on {path}"));
            match expected {
                Ok(key) => {
                    template.check(&found.capture_names()).expect(pattern);
                    let rendered = template.render(Path::new(path), "host", &captures).expect(pattern);
                    assert_eq!(rendered, format!("{key}{below}"), "{pattern}");
                }
                Err(lacking) => {
                    let mut config = crate::config::Config::new(crate::store::StoreOptions::new("s3://b"));
                    (config.template, config.patterns) = (template, vec![found]);
                    let message = config.check().expect_err(pattern).to_string();
                    assert!(message.contains(&format!("no pattern captures {{{{{lacking}}}}}")), "{message}");
                    assert!(message.contains(pattern), "{message}");
                }
            }
        }
    }
}

#[test]
fn the_section_of_the_drafts_by_table() {
    let example = "multi_db:\n  discovery_pattern: \"/data/*.db\"\n  max_active: 1000\n  scan_interval: 30s\n  replica_template:\n    type: s3\n    bucket: my-backup-bucket\n    path: \"{{database}}\"\n";
    let plain = ["interval=30s", "key-template={{database}}", "patterns=/data/*.db", "store=s3://my-backup-bucket"];
    let settings = says("litesnap.yml", example, &plain);
    assert_eq!(settings.warnings.len(), 1);
    assert!(
        settings.warnings[0].starts_with("litesnap.yml:3: `max-active` has no effect yet: it will tell the hot tier")
    );

    // The one-second interval is the hot tier's, and never ours.
    let hot = "multi-db:\n  enabled: true\n  patterns: [/data/*.db]\n  max-hot-databases: 1000\n  hot-promotion:\n    access-count-threshold: 10\n  cold-sync-interval: 30s\n  replica-template:\n    bucket: b\n    path: '{{database}}'\n    region: us-east-1\n    sync-interval: 1s\n";
    let settings = says(
        "litesnap.yml",
        hot,
        &["key-template={{database}}", "patterns=/data/*.db", "region=us-east-1", "store=s3://b"],
    );
    let told = settings.warnings.join("\n");
    assert_eq!(settings.warnings.len(), 4, "{told}");
    for key in ["`max-hot-databases`", "`hot-promotion`", "`cold-sync-interval`", "12: `sync-interval` has no effect"] {
        assert!(told.contains(key), "{told}");
    }

    let design = "multi_db:\n  enabled: true\n  discovery_pattern: '/data/*.db'\n  sync_interval: 45s\n  s3:\n    region: us-east-1\n    bucket: b\n    path: '{{database}}'\n    max_concurrent_uploads: 50\n    access-key-id: AKIA\n    secret-access-key: ${SECRET}\n";
    let settings = says(
        "litesnap.yml",
        design,
        &[
            "concurrency=50",
            "interval=45s",
            "key-template={{database}}",
            "patterns=/data/*.db",
            "region=us-east-1",
            "store=s3://b",
        ],
    );
    let added = settings.credentials.completing(&[], false);
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    assert_eq!(added, [pair("AWS_ACCESS_KEY_ID", "AKIA"), pair("AWS_SECRET_ACCESS_KEY", "hunter2!")]);
    assert!(!format!("{settings:?}").contains("hunter2!") && !format!("{settings:?}").contains("AKIA"));
    assert_eq!(settings.masked("it was hunter2! of AKIA"), "it was ${SECRET} of ***");

    let off = "patterns: /x/*.db\nmulti-db:\n  enabled: false\n  patterns: [/data/*.db]\n  colour: red\n";
    let settings = says("litesnap.yml", off, &["patterns=/x/*.db"]);
    assert!(settings.warnings[0].contains(":3: multi-db is not enabled"));

    for (path, expected) in [
        ("/backups/x/{{database}}", vec!["key-template={{database}}", "patterns=/data/*.db", "store=/backups/x"]),
        ("/backups/a{{database}}/b/", vec!["key-template=a{{database}}/b", "patterns=/data/*.db", "store=/backups"]),
        ("/backups", vec!["patterns=/data/*.db", "store=/backups"]),
    ] {
        let text =
            format!("multi-db:\n  patterns: [/data/*.db]\n  replica-template:\n    type: file\n    path: '{path}'\n");
        says("litesnap.yml", &text, &expected);
    }
    // In one of Litestream's files, below its path.
    let text =
        example.replace("multi_db:", "addr: ':9090'\nlogging:\n  level: info\nsnapshot: {interval: 1h}\nmulti_db:");
    let below = [
        "interval=30s",
        "key-template={{database}}/litesnap",
        "listen=127.0.0.1:9090",
        "patterns=/data/*.db",
        "store=s3://my-backup-bucket",
    ];
    let settings = says("any.yml", &text, &below);
    assert!(settings.is_litestream && settings.warnings.len() == 4, "{:?}", settings.warnings);
}

#[test]
fn a_litestream_file_by_table() {
    for (text, expected) in [
        (
            "dbs:\n  - path: /var/lib/db\n    replica:\n      url: s3://mybkt/db\n",
            vec!["patterns=/var/lib/db", "store=s3://mybkt/db/litesnap"],
        ),
        (
            "dbs:\n  - path: ~/a{1}.db\n    replicas:\n      - type: s3\n        bucket: $BUCKET\n        path: db/\n        endpoint: minio.example.org\n        region: eu\n        force-path-style: true\n",
            vec![
                "endpoint=https://minio.example.org",
                "path-style=true",
                "patterns=/root/a\\{1\\}.db",
                "region=eu",
                "store=s3://my-bucket/db/litesnap",
            ],
        ),
        (
            "dbs:\n  - dir: /srv/x\n    pattern: '*.db'\n    replica: {type: file, path: /backups/x}\n",
            vec!["patterns=/srv/x/*.db", "store=/backups/x/litesnap"],
        ),
        (
            "dbs:\n  - dir: /srv/x/\n    pattern: 'a[^b]*.db'\n    recursive: true\n    watch: true\n    replica: {url: 'gs://b/p'}\n",
            vec!["patterns=/srv/x/**/a[!b]*.db", "store=gs://b/p/litesnap"],
        ),
        (
            "dbs:\n  - dir: /srv/x\n    pattern: '*'\n    recursive: true\n    replica: {url: 'abs://acc@cont/p'}\n",
            vec!["patterns=/srv/x/", "store=az://cont/p/litesnap"],
        ),
        (
            "dbs:\n  - path: /a.db\n    replica: {url: 's3://b.s3.eu-west-1.amazonaws.com/p'}\n",
            vec!["patterns=/a.db", "region=eu-west-1", "store=s3://b/p/litesnap"],
        ),
        (
            "dbs:\n  - path: /a.db\n    replica: {url: 's3://b.fra1.digitaloceanspaces.com/p?forcePathStyle=true'}\n",
            vec![
                "endpoint=https://fra1.digitaloceanspaces.com",
                "path-style=true",
                "patterns=/a.db",
                "store=s3://b/p/litesnap",
            ],
        ),
        (
            "region: eu\naddr: localhost:9090\nheartbeat-url: https://h/x\ninterval: 10s\ndbs:\n  - path: /a.db\n    replica: {url: 's3://b'}\n",
            vec![
                "heartbeat-url=https://h/x",
                "interval=10s",
                "listen=127.0.0.1:9090",
                "patterns=/a.db",
                "region=eu",
                "store=s3://b/litesnap",
            ],
        ),
        (
            "x: &s3 {type: s3, bucket: b}\ndbs:\n  - path: /a.db\n    replica: {<<: *s3, path: p}\n"
                .replace("x: &s3", "exec: &s3")
                .leak(),
            vec!["patterns=/a.db", "store=s3://b/p/litesnap"],
        ),
    ] {
        let settings = says("any.yml", text, &expected);
        assert!(settings.is_litestream);
    }
}

/// Each below its own path, in one store.
#[test]
fn databases_with_paths_of_their_own_bring_them_along() {
    let text = "dbs:\n  - path: /data/a.db\n    replica: {url: 's3://b/x/one'}\n  - dir: /data/more\n    pattern: '*.db'\n    replica: {url: 's3://b/x/two/deep'}\n  - path: /data/c.db\n    replica: {url: 's3://b/x'}\n";
    let settings = says(
        "litestream.yml",
        text,
        &["key-template={{replica}}/{{path}}", "patterns=/data/a.db,/data/more/*.db,/data/c.db", "store=s3://b/x"],
    );
    let template = Template::parse("{{replica}}/{{path}}").expect("valid");
    let patterns = &settings.get(PATTERNS).expect("given").values;
    for (value, path, key) in [
        (&patterns[0], "/data/a.db", "one/litesnap/data/a.db"),
        (&patterns[1], "/data/more/m.db", "two/deep/litesnap/data/more/m.db"),
        (&patterns[2], "/data/c.db", "litesnap/data/c.db"),
    ] {
        let pattern = Pattern::parse(OsStr::new(&value.text), Path::new("/")).expect("valid");
        let pattern = pattern.with_constants(&value.constants).expect("valid");
        let captures = pattern.captures(Path::new(path)).expect("matches");
        assert_eq!(template.render(Path::new(path), "h", &captures).as_deref(), Ok(key));
    }
    // Nothing in common but the bucket; names that begin alike are not one folder.
    let apart = "dbs:\n  - path: /a.db\n    replica: {url: 's3://b/one'}\n  - path: /b.db\n    replica: {url: 's3://b/one-more'}\n";
    says("x.yml", apart, &["key-template={{replica}}/{{path}}", "patterns=/a.db,/b.db", "store=s3://b"]);
    // The same in a file of our own.
    let own = "patterns:\n  - pattern: /a/*.db\n    env: prod\n  - /b/*.db\n";
    let settings = says("litesnap.yml", own, &["patterns=/a/*.db,/b/*.db"]);
    assert_eq!(settings.options[0].values[0].constants, [("env".to_owned(), "prod".to_owned())]);
}

#[test]
fn what_is_wrong_with_a_litestream_file_is_told_with_its_line() {
    let db = |more: &str| format!("dbs:\n  - path: /a.db\n    replica: {{url: 's3://b/p'}}\n{more}");
    for (text, line, part) in [
        ("dbs: []\n".to_owned(), 1, "`dbs` is empty"),
        ("dbs: {path: x}\n".to_owned(), 1, "`dbs` is a list"),
        ("dbs:\n  - /a.db\n".to_owned(), 2, "a database is a section"),
        ("dbs:\n  - path: /a.db\n".to_owned(), 2, "no `replica`"),
        ("dbs:\n  - replica: {url: 's3://b'}\n".to_owned(), 2, "neither `path` nor `dir`"),
        ("dbs:\n  - path: /a.db\n    dir: /b\n".to_owned(), 3, "keep one"),
        ("dbs:\n  - dir: /b\n    replica: {url: 's3://b'}\n".to_owned(), 2, "wants a `pattern`"),
        ("dbs:\n  - dir: /b\n    pattern: a/b\n".to_owned(), 3, "a name without folders"),
        ("dbs:\n  - path: /a.db\n    replicas:\n      - url: s3://b/p\n      - url: s3://c/p\n".to_owned(), 5, "a second replica"),
        ("dbs:\n  - path: /a.db\n    replica: {url: 'sftp://h/p'}\n".to_owned(), 3, "litesnap does not"),
        ("dbs:\n  - path: /a.db\n    replica: {url: 's3://me:hush@b/p'}\n".to_owned(), 3, "holds credentials"),
        ("dbs:\n  - path: /a.db\n    replica: {url: 's3://b.localhost:9000/p'}\n".to_owned(), 3, "holds a port"),
        ("dbs:\n  - path: /a.db\n    replica: {type: s3}\n".to_owned(), 3, "no bucket"),
        ("dbs:\n  - path: /a.db\n    replica: {type: file}\n".to_owned(), 3, "says not where"),
        (db("  - path: /b.db\n    replica: {url: 's3://other/p'}\n"), 5, "another store, or reached in another way, than the one in line 3"),
        (db("  - path: /b.db\n    replica: {url: 's3://b/p', region: eu}\n"), 5, "another store"),
        (db("  - path: /a.db\n    replica: {url: 's3://b/q'}\n"), 4, "finds the same as `/a.db` in line 2"),
        (db("    monitor-intervall: 1s\n"), 4, "unknown key of a database `monitor-intervall`: did you mean `monitor-interval`"),
        (db("    busy-timeout: 1s\nwhat: 1\n"), 5, "unknown key `what`"),
        (db("store: /x\n"), 5, "gives `store`, which line"),
        (db("multi-db:\n  patterns: /x/*.db\n"), 1, "gives `patterns`, which line 5 gives already"),
        (
            "dbs:\n  - path: /a.db\n    replica: {bucket: b, access-key-id: x}\n  - path: /b.db\n    replica: {bucket: b, access-key-id: y}\n".to_owned(),
            5,
            "credentials other than those in line 3",
        ),
    ] {
        let message = read_as("any.yml", &text).expect_err(&text);
        assert!(!message.contains("hush"), "{message}");
        if text.contains("store: /x") {
            assert!(message.contains(part), "{message}");
            continue;
        }
        refused("any.yml", &text, line, part);
    }
}

/// Each key that means nothing here has one warning, whatever the number of databases that have it.
#[test]
fn keys_without_a_meaning_are_told_once() {
    let text = "snapshot: {interval: 1h}\nlevels: [{interval: 30s}]\ndbs:\n  - path: /a.db\n    monitor-interval: 1s\n    replica: {url: 's3://b/p', sync-interval: 1s}\n  - path: /b.db\n    monitor-interval: 2s\n    replica: {url: 's3://b/p', sync-interval: 2s, endpoint: 'http://h:1'}\n";
    let text = text.replace("sync-interval: 1s}", "sync-interval: 1s, endpoint: 'http://h:1'}");
    let settings = read_as("litestream.yml", &text).expect("right");
    let lines: Vec<&str> = settings.warnings.iter().map(|w| w.split('`').nth(1).unwrap_or(w)).collect();
    assert_eq!(lines.len(), 5, "{lines:?}");
    for key in ["levels", "monitor-interval", "snapshot", "sync-interval"] {
        assert_eq!(lines.iter().filter(|line| **line == key).count(), 1, "{key}: {lines:?}");
    }
    assert!(settings.get("interval").is_none(), "no interval of the hot tier is ours");
    assert_eq!(settings.get("allow-http").map(|s| s.values[0].text.as_str()), Some("true"));
    for (addr, listen, warned) in [
        (":9090", "127.0.0.1:9090", true),
        ("0.0.0.0:9090", "127.0.0.1:9090", true),
        ("9090", "127.0.0.1:9090", true),
        ("localhost:9090", "127.0.0.1:9090", false),
        ("10.0.0.5:9090", "10.0.0.5:9090", false),
    ] {
        let settings = read_as("litestream.yml", &format!("addr: '{addr}'\n")).expect("right");
        assert_eq!(settings.get("listen").map(|s| s.values[0].text.as_str()), Some(listen), "{addr}");
        assert_eq!(settings.warnings.len(), usize::from(warned), "{addr}");
    }
}

/// Half a pair of the environment and half a pair of the file open no store.
#[test]
fn credentials_come_from_one_place() {
    let text = "access-key-id: file-id\nsecret-access-key: file-secret\n";
    let settings = read_as("litesnap.yml", text).expect("right");
    let pairs = |vars: &[(&str, &str)], litestream| {
        let env: Vec<_> = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let added = settings.credentials.completing(&env, litestream);
        added.into_iter().map(|(_, value)| value).collect::<Vec<_>>().join(",")
    };
    let theirs = [("LITESTREAM_ACCESS_KEY_ID", "li"), ("LITESTREAM_SECRET_ACCESS_KEY", "ls")];
    assert_eq!(pairs(&[], false), "file-id,file-secret");
    assert_eq!(pairs(&[("AWS_ACCESS_KEY_ID", "")], false), "file-id,file-secret");
    assert_eq!(pairs(&[("AWS_ACCESS_KEY_ID", "env")], false), "");
    assert_eq!(pairs(&theirs, true), "li,ls");
    assert_eq!(pairs(&theirs, false), "file-id,file-secret");
    assert_eq!(pairs(&theirs[..1], true), "file-id,file-secret");
    assert_eq!(pairs(&[theirs[0], theirs[1], ("AWS_SECRET_ACCESS_KEY", "x")], true), "");
    assert_eq!(settings.secrets().collect::<Vec<_>>(), [("AWS_SECRET_ACCESS_KEY", 2)]);
}
