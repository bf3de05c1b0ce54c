//! The configuration file through the real binary: precedence, refusals with file and line, check, print, schema, the example.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::place::{Place, Ran};

const SECRET: &str = "hunter2-of-the-file";

fn write(place: &Place, name: &str, text: &str) {
    let path = place.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Where a value comes from, and what it is, by `config print`.
fn printed(place: &Place, key: &str, more: &[&str]) -> (String, String) {
    let ran = place.run(&[&["config", "print", "--config", "c.yml"], more].concat()).expect_code(0);
    let line =
        ran.out.lines().find_map(|line| line.strip_prefix(&format!("{key}: "))).unwrap_or_else(|| panic!("{ran:#?}"));
    let (value, from) = line.split_once("  # ").unwrap();
    (value.to_owned(), from.to_owned())
}

#[track_caller]
fn refused(ran: &Ran, parts: &[&str]) {
    assert_eq!((ran.code, ran.err.lines().count()), (Some(2), 1), "{ran:#?}");
    assert!(ran.err.starts_with("litesnap: ") && ran.out.is_empty(), "{ran:#?}");
    for part in parts {
        assert!(ran.err.contains(part), "{part} is missing: {ran:#?}");
    }
}

#[test]
fn a_file_alone_is_enough_and_the_other_commands_find_the_store() {
    let place = Place::new();
    place.make("a.db", "delete", 3);
    write(&place, "c.yml", "patterns: data/**/*.db\nstore: store\nstate-dir: state\nonce: true\nkeep-last: 2\n");
    let ran = place.run(&["replicate", "--config", "c.yml"]).expect_code(0);
    assert_eq!((ran.count("stored"), place.objects().len()), (1, 1));
    let file = ["--config", "c.yml"];
    for args in [
        &["list"][..],
        &["verify", "--all"],
        &["prune"],
        &["restore", "--into", "back"],
        &["forget-gone"],
        &["explain"],
    ] {
        let ran = place.run(&[args, &file].concat()).expect_code(0);
        assert!(!ran.out.is_empty(), "{args:?}");
    }
    let back = place.path().join("back").join(place.data().join("a.db").strip_prefix("/").unwrap());
    assert!(back.exists());
    // By its variable; and with none, the store is missing.
    let mut by_variable = place;
    by_variable.env.push(("LITESNAP_CONFIG".into(), "c.yml".into()));
    by_variable.run(&["list"]).expect_code(0);
    refused(&by_variable.run(&["list", "--config", ""]), &["no store given"]);
    by_variable.env[0].1 = String::new();
    refused(&by_variable.run(&["list"]), &["no store given"]);
}

/// README: the option wins over its variable, the variable over the file, the file over what is built in.
#[test]
fn precedence_is_option_variable_file_default() {
    let rows = [
        ("interval", "3s", "4s", "5s", "30s"),
        ("concurrency", "3", "4", "5", "100"),
        ("key-template", "'a/{{path}}'", "'b/{{path}}'", "'c/{{path}}'", "'{{path}}'"),
        ("fsync-each", "true", "true", "true", "false"),
        ("sample", "'3%'", "'4%'", "'5%'", "'1%'"),
    ];
    for (key, flag, variable, file, default) in rows {
        let mut place = Place::new();
        let base = "patterns: data/*.db\nstore: store\nverify-every: 1d\n";
        write(&place, "c.yml", base);
        assert_eq!(printed(&place, key, &[]), (default.into(), "default".into()));
        write(&place, "c.yml", &format!("{base}{key}: {file}\n"));
        assert_eq!(printed(&place, key, &[]), (file.into(), "c.yml:4".into()));
        let name = format!("LITESNAP_{}", key.replace('-', "_").to_uppercase());
        place.env.push((name.clone(), variable.trim_matches('\'').into()));
        assert_eq!(printed(&place, key, &[]), (variable.into(), name));
        let option = format!("--{key}");
        let typed = if flag == "true" { vec![option] } else { vec![option, flag.trim_matches('\'').to_owned()] };
        let typed: Vec<&str> = typed.iter().map(String::as_str).collect();
        assert_eq!(printed(&place, key, &typed), (flag.into(), "option".into()));
    }
    // An option that needs another is content with the file's.
    let place = Place::new();
    write(&place, "c.yml", "patterns: data/*.db\nstore: store\n");
    let alone = place.run(&["config", "check", "--config", "c.yml", "--sample", "3%"]);
    refused(&alone, &["--sample", "--verify-every"]);
    // A switch of the file can be switched off by its variable.
    let mut place = Place::new();
    write(&place, "c.yml", "patterns: data/*.db\nstore: store\nstate-dir: state\nonce: true\n");
    place.env.push(("LITESNAP_ONCE".into(), "false".into()));
    assert_eq!(printed(&place, "once", &[]), ("false".into(), "LITESNAP_ONCE".into()));
    // Lists are replaced, not added to.
    write(&place, "c.yml", "patterns: data/*.db\nstore: store\nexclude: [a, b]\n");
    let ran = place.run(&["config", "print", "--config", "c.yml", "--exclude", "c"]).expect_code(0);
    assert!(ran.out.contains("exclude:  # option\n  - c\n# state-dir"), "{}", ran.out);
    // The variables of others, where an option names them.
    write(&place, "c.yml", "patterns: data/*.db\nstore: s3://b\nregion: from-file\nendpoint: https://file.example\n");
    place.env.push(("AWS_ENDPOINT_URL".into(), "https://variable.example".into()));
    let ran = place.run(&["config", "check", "--config", "c.yml"]).expect_code(0);
    assert!(ran.out.contains("https://variable.example"), "{ran:#?}");
    let ran = place.run(&["config", "check", "--config", "c.yml", "--endpoint", "https://option.example"]);
    assert!(ran.out.contains("https://option.example"), "{ran:#?}");
}

#[test]
fn what_is_wrong_is_one_line_with_file_and_line() {
    let place = Place::new();
    let base = "patterns: data/*.db\nstore: store\nstate-dir: state\n";
    for (more, parts) in [
        ("keep-dayly: 3", ["c.yml:4: ", "unknown key `keep-dayly`", "did you mean `keep-daily`?"]),
        ("store: other", ["c.yml:4: ", "`store` is given twice", "line 2"]),
        ("interval: [30s]", ["c.yml:4: ", "`interval` takes one value, not a list", "interval: VALUE"]),
        ("interval: 30", ["c.yml:4: ", "`interval`: '30' is no duration", "such as 30s"]),
        ("interval: 0s", ["c.yml:4: ", "--interval of 0", "such as 1s"]),
        ("memory-limit: 1MiB", ["c.yml:4: ", "too small", "32MiB"]),
        ("memory-limit: lots", ["c.yml:4: ", "'lots' is no size", "256MiB"]),
        ("max-gone: many", ["c.yml:4: ", "`max-gone`", "'many'"]),
        ("keep: everything", ["c.yml:4: ", "`keep`", "standard"]),
        ("once: perhaps", ["c.yml:4: ", "`once`: 'perhaps' is neither yes nor no", "true or false"]),
        ("host: a/b", ["c.yml:4: ", "'a/b'", "--host web-1"]),
        ("interval: ${NOT_SET}", ["c.yml:4: ", "NOT_SET is not set", "${NOT_SET:-default}"]),
        ("exclude: '[x'", ["c.yml:4: ", "[x", "not closed"]),
        ("key-template: '{{tenant}}'", ["c.yml:4: ", "no pattern captures {{tenant}}", "data/*.db"]),
        ("endpoint: https://x", ["c.yml:4: ", "--endpoint", "folder"]),
        ("interval: 30s: x", ["c.yml:4: ", "no YAML", ""]),
        ("heartbeat-url: x", ["c.yml:4: ", "`heartbeat-url`", "http"]),
        ("listen: 0.0.0.0:9090", ["c.yml:4: ", "--allow-public", ""]),
    ] {
        write(&place, "c.yml", &format!("{base}{more}\n"));
        for args in [&["replicate", "--once"][..], &["config", "check"], &["config", "print"]] {
            refused(&place.run(&[args, &["--config", "c.yml"]].concat()), &parts);
        }
    }
    for (text, parts) in [
        (
            "patterns:\n  - data/\n  - data/x/*.db\nstore: store\n",
            ["c.yml:3: ", "finds only what is found already by", "line 2"],
        ),
        ("store: ftp://x\npatterns: data/*.db\n", ["c.yml:1: ", "ftp://", "s3://"]),
        ("store: store\n", ["no pattern given", "such as", ""]),
        ("patterns: data/*.db\n", ["no store given", "", ""]),
    ] {
        write(&place, "c.yml", text);
        refused(&place.run(&["config", "check", "--config", "c.yml", "--state-dir", "state"]), &parts);
    }
    refused(&place.run(&["list", "--config", "none.yml"]), &["cannot read the configuration none.yml", "No such file"]);
    refused(&place.run(&["list", "--config", "data"]), &["cannot read the configuration data", "directory"]);
    // What was typed wrong is not blamed on the file.
    write(&place, "c.yml", &format!("{base}interval: 30s\n"));
    let ran = place.run(&["replicate", "--config", "c.yml", "--interval", "soon"]);
    assert!(ran.code == Some(2) && !ran.err.contains("c.yml"), "{ran:#?}");
    let ran = place.run(&["replicate", "--config", "c.yml", "--interval", "0s"]);
    assert!(ran.code == Some(2) && !ran.err.contains("c.yml"), "{ran:#?}");
    assert!(!place.state().exists() && !place.store().exists(), "what is refused leaves nothing");
}

#[test]
fn secrets_of_a_file_open_the_store_and_are_never_shown() {
    let server = crate::s3_server::S3Server::start();
    let mut place = Place::new();
    place.make("a.db", "delete", 2);
    let env = server.env();
    let of = |name: &str| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()).unwrap();
    let (id, key) = (of("AWS_ACCESS_KEY_ID"), of("AWS_SECRET_ACCESS_KEY"));
    place.env = env.iter().filter(|(k, _)| !k.contains("KEY")).cloned().collect();
    place.env.extend([("RUST_LOG", "trace"), ("TOKEN", SECRET)].map(|(n, v)| (n.to_owned(), v.to_owned())));
    let url = server.url("bucket", "p");
    let secret_parts = |text: &str| {
        for secret in [SECRET, key.as_str()] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    };
    let text = format!(
        "patterns: data/*.db\nstore: {url}\nstate-dir: state\naccess-key-id: {id}\nsecret-access-key: {key}\nheartbeat-url: https://127.0.0.1:9/${{TOKEN}}\n"
    );
    write(&place, "c.yml", &text);
    let ran = place.run(&["replicate", "--config", "c.yml", "--once", "--heartbeat-url", "http://127.0.0.1:9/x"]);
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    secret_parts(&format!("{ran:?}"));
    for args in [&["list"][..], &["config", "check"], &["config", "print"]] {
        let ran = place.run(&[args, &["--config", "c.yml"]].concat()).expect_code(0);
        secret_parts(&format!("{ran:?}"));
        assert!(!ran.out.contains(&id) && !ran.out.contains("everybody on this host"), "{ran:#?}");
    }
    let print = place.run(&["config", "print", "--config", "c.yml"]).out;
    assert!(print.contains("heartbeat-url: 'https://127.0.0.1:9/${TOKEN}'"), "{print}");
    assert!(print.contains("# secret-access-key: '***'  # c.yml:5"), "{print}");
    // Nor in a refusal of the value itself, whoever refuses it.
    for key in [
        "interval",
        "memory-limit",
        "keep",
        "max-gone",
        "once",
        "listen",
        "heartbeat-url",
        "exclude",
        "key-template",
        "store",
    ] {
        let value = if key == "exclude" {
            "'[${TOKEN}'"
        } else if key == "store" {
            "'ftp://${TOKEN}@x'"
        } else {
            "'{${TOKEN}'"
        };
        let rest = if key == "store" { "" } else { "store: store\n" };
        write(&place, "c.yml", &format!("{key}: {value}\npatterns: data/*.db\n{rest}"));
        let ran = place.run(&["config", "check", "--config", "c.yml", "--state-dir", "state"]);
        assert_eq!(ran.code, Some(2), "{key}: {ran:#?}");
        secret_parts(&format!("{ran:?}"));
    }
    // A key in a file that everybody may read is told.
    write(&place, "c.yml", &text);
    fs::set_permissions(place.path().join("c.yml"), fs::Permissions::from_mode(0o644)).unwrap();
    let ran = place.run(&["config", "check", "--config", "c.yml"]).expect_code(0);
    assert!(ran.out.contains("c.yml:5: everybody on this host may read"), "{ran:#?}");
    // A variable with a URL that may hold a secret is named, not shown.
    place.env.push(("LITESNAP_HEARTBEAT_URL".into(), format!("https://127.0.0.1:9/{SECRET}")));
    let print = place.run(&["config", "print", "--config", "c.yml"]).out;
    assert!(print.contains("heartbeat-url: '${LITESNAP_HEARTBEAT_URL}'"), "{print}");
}

/// What `config print` prints is a file that comes to the same.
#[test]
fn what_is_printed_reads_back_as_the_same() {
    let mut place = Place::new();
    place.env.push(("LITESNAP_COOLDOWN".into(), "7m".into()));
    let ours = "patterns:\n  - /data/*/{tenant}.db\n  - {pattern: \"/it's #1/{tenant}.db\", env: $$x}\nstore: s3://b/p\nstate-dir: ${HOME}/state\nexclude: ['a: b', '~']\n";
    let theirs = "addr: ':9090'\ndbs:\n  - path: /a{b}.db\n    replica: {url: 's3://b/one'}\n  - path: /c.db\n    replica: {url: 's3://b/two'}\n";
    for (name, text) in [("c.yml", ours), ("litestream.yml", theirs)] {
        write(&place, name, text);
        let values = |text: &str| -> Vec<String> {
            text.lines()
                .map(|line| line.split("  # ").next().unwrap().to_owned())
                .filter(|l| !l.starts_with('#'))
                .collect()
        };
        let first = place.run(&["config", "print", "--config", name, "--interval", "9s"]).expect_code(0).out;
        write(&place, "again.yml", &first);
        place.env[0].0 = "NONE".into();
        let again = place.run(&["config", "print", "--config", "again.yml"]).expect_code(0).out;
        assert_eq!(values(&first), values(&again));
        assert!(
            first.contains("interval: 9s  # option") && first.contains("cooldown: 7m  # LITESNAP_COOLDOWN"),
            "{first}"
        );
        place.env[0].0 = "LITESNAP_COOLDOWN".into();
    }
}

/// A file of Litestream's as it is: everything below its paths, nothing beside.
#[test]
fn a_litestream_file_is_stored_below_its_paths() {
    let place = Place::new();
    place.make("a.db", "wal", 1);
    place.make("more/b.db", "delete", 1);
    let (data, store) = (place.data(), place.store());
    let text = format!(
        "addr: ':9090'\nsnapshot: {{interval: 1h}}\ndbs:\n  - path: {data}/a.db\n    replica: {{type: file, path: {store}/one}}\n  - dir: {data}/more\n    pattern: '*.db'\n    replica: {{type: file, path: {store}/two}}\n",
        data = data.display(),
        store = store.display()
    );
    write(&place, "litestream.yml", &text);
    let args = ["replicate", "--config", "litestream.yml", "--state-dir", "state"];
    let ran = place.run(&[&args[..], &["--once", "--dry-run"]].concat()).expect_code(0);
    let warned: Vec<&str> = ran.err.lines().filter(|line| line.contains("litestream.yml:")).collect();
    assert_eq!(warned.len(), 2, "{ran:#?}");
    assert!(warned[0].contains("litestream.yml:1: `addr` listens on 127.0.0.1:9090"), "{warned:?}");
    let plan = |name: &str, below: &str| format!("{below}/litesnap{}/{name}/", data.display());
    for (name, below) in [("a.db", "one"), ("more/b.db", "two")] {
        assert!(ran.out.contains(&format!(" -> {}", plan(name, below))), "{ran:#?}");
    }
    place.run(&[&args[..], &["--once"]].concat()).expect_code(0);
    let keys: Vec<String> = place.objects().into_iter().map(|object| object.key).collect();
    assert_eq!(keys.len(), 2);
    assert!(keys[0].starts_with(&plan("a.db", "one")) && keys[1].starts_with(&plan("more/b.db", "two")), "{keys:?}");
    // Unchanged, nothing is stored again; and both come back.
    let again = place.run(&[&args[..], &["--once"]].concat()).expect_code(0);
    assert_eq!((again.count("stored"), place.objects().len()), (0, 2));
    fs::remove_file(data.join("a.db")).unwrap();
    place.run(&["restore", "--in-place", "--config", "litestream.yml"]).expect_code(0);
    assert!(data.join("a.db").exists());
}

/// Both forms: as it is, and with every example in it taken as meant.
#[test]
fn the_example_has_every_option_and_is_right_in_both_forms() {
    let place = Place::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/litesnap.yml");
    let text = fs::read_to_string(&example).unwrap();
    let whole: String = text
        .lines()
        .map(|line| {
            let indent = line.len() - line.trim_start().len();
            let is_example = line.trim_start().strip_prefix('#').is_some_and(|rest| !rest.is_empty());
            let is_list = line.starts_with("#  - ");
            let is_example = is_example && (is_list || !line.trim_start().starts_with("# "));
            if is_example { format!("{}{}\n", &line[..indent], &line.trim_start()[1..]) } else { format!("{line}\n") }
        })
        .collect();
    write(&place, "litesnap.yml", &text);
    write(&place, "whole.yml", &whole);
    for name in ["litesnap.yml", "whole.yml"] {
        let ran = place.run(&["config", "check", "--config", name, "--state-dir", "state"]).expect_code(0);
        assert!(ran.out.contains(": ok, ") && !ran.out.contains("warning"), "{ran:#?}");
    }
    let print = place.run(&["config", "print", "--config", "whole.yml"]).expect_code(0).out;
    let given = |text: &str| text.contains("  # whole.yml:");
    let not: Vec<&str> = print.lines().filter(|l| !l.starts_with("  - ") && !given(l)).collect();
    assert_eq!(not.len(), 1, "only the heading is not given by the example: {not:#?}");
    // As it is, it changes nothing but what must be said.
    let print = place.run(&["config", "print", "--config", "litesnap.yml"]).expect_code(0).out;
    assert_eq!(print.lines().filter(|l| l.contains("  # litesnap.yml:")).count(), 2, "{print}");
}

#[test]
fn the_schema_is_the_one_that_is_committed() {
    let place = Place::new();
    let made = place.run(&["config", "schema"]).expect_code(0).out;
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/litesnap.schema.json");
    let committed = fs::read_to_string(committed).unwrap();
    assert!(made == committed, "it is another: litesnap config schema > contrib/litesnap.schema.json");
    let schema: serde_json::Value = serde_json::from_str(&made).unwrap();
    let help = place.run(&["replicate", "--help"]).out;
    for flag in help.split_whitespace().filter_map(|word| word.strip_prefix("--")) {
        let flag = flag.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_option = help.lines().any(|line| line.trim_start().starts_with(&format!("--{flag}")));
        let is_ours = !is_option || flag == "config" || schema["properties"][flag].is_object();
        assert!(is_ours, "{flag} is not in the schema");
    }
}

/// The default place, in a mount namespace of its own: the host's /etc stays as it is.
#[test]
fn the_default_place_is_read_unless_another_is_named() {
    use std::io::Write;
    if !nix::unistd::geteuid().is_root() {
        std::io::stderr().write_all(b"SKIPPED: a file in /etc of a mount namespace needs root\n").unwrap();
        return;
    }
    let place = Place::new();
    place.make("a.db", "delete", 1);
    fs::create_dir(place.path().join("etc")).unwrap();
    let yml = format!("store: {}\n", place.store().display());
    fs::write(place.path().join("etc/litesnap.yml"), yml).unwrap();
    fs::write(place.path().join("other.yml"), "store: elsewhere\n").unwrap();
    place.once().expect_code(0);
    let run = |args: &str| -> Ran {
        let script = format!("mount --bind etc /etc && exec '{}' {args}", env!("CARGO_BIN_EXE_litesnap"));
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("HOME", place.path());
        command.current_dir(place.path()).output().unwrap().into()
    };
    if run("--version").code != Some(0) {
        std::io::stderr().write_all(b"SKIPPED: no mount namespace can be made here\n").unwrap();
        return;
    }
    assert!(run("list").expect_code(0).out.contains("a.db"));
    refused(&run("list --config ''"), &["no store given"]);
    assert!(run("list --config other.yml").err.contains("elsewhere"));
    fs::write(place.path().join("etc/litesnap.yml"), "stor: x\n").unwrap();
    refused(&run("list"), &["/etc/litesnap.yml:1: unknown key `stor`: did you mean `store`?"]);
}
