//! Configuration files. Input: a byte that tells whether the file is called litestream.yml, then the file.

use std::path::Path;

use litesnap::settings::{Known, Reader, Settings, read};

use super::{gauge, is_one_line};

const LISTS: [&str; 2] = ["patterns", "exclude"];
const SINGLES: [&str; 12] = [
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
    "listen",
    "host",
];
/// What the one variable holds; nothing that is said may have it.
const SECRET: &str = "hush-hush-hush";

/// A file may be a megabyte, and each of its bytes a value: what is held for it is a multiple, and no more.
const MEMORY_PER_BYTE_MAX: usize = 400;
const MEMORY_MIN: usize = 4 << 20;
/// Aliases stand for what is elsewhere, up to the limit of the reader.
const MEMORY_MAX: usize = 128 << 20;

pub fn check(data: &[u8]) {
    let Some((kind, text)) = data.split_first() else { return };
    let name = if kind % 2 == 0 { "litesnap.yml" } else { "litestream.yml" };
    let (said, taken) = gauge::peak(|| reading(name, text));
    assert!(
        taken <= MEMORY_MIN.max(text.len() * MEMORY_PER_BYTE_MAX).min(MEMORY_MAX),
        "{taken} bytes for {}",
        text.len()
    );
    match said {
        Ok(settings) => right(&settings, text),
        Err(message) => {
            is_one_line(&message);
            assert!(!message.contains(SECRET) || holds_secret(text), "{message}");
            let line =
                message.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')?.split(':').next()?.parse().ok());
            let lines = String::from_utf8_lossy(text).lines().count() + 2;
            assert!(line.is_some_and(|line: usize| (1..=lines).contains(&line)), "{message}");
        }
    }
}

fn reading(name: &str, text: &[u8]) -> Result<Settings, String> {
    let known = |name: &&str, is_list| Known { names: vec![(*name).to_owned()], is_list };
    let mut options: Vec<Known> = LISTS.iter().map(|name| known(name, true)).collect();
    options.extend(SINGLES.iter().map(|name| known(name, false)));
    let env = |name: &str| (name == "S").then(|| SECRET.to_owned());
    let reader =
        Reader { name: Path::new(name), options: &options, env: &env, cwd: Path::new("/cwd"), is_dir: &|_| false };
    read(text, reader).map_err(|e| e.to_string())
}

fn holds_secret(text: &[u8]) -> bool {
    // As it is or escaped: then it is the file that says it.
    let text = String::from_utf8_lossy(text);
    text.contains("hush") || text.contains('\\')
}

fn right(settings: &Settings, text: &[u8]) {
    let lines = String::from_utf8_lossy(text).lines().count() + 2;
    for warning in &settings.warnings {
        is_one_line(warning);
        assert!(!warning.contains(SECRET) || holds_secret(text), "{warning}");
    }
    let mut keys: Vec<&str> = settings.options.iter().map(|setting| setting.key.as_str()).collect();
    let given = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), given, "each option once");
    for setting in &settings.options {
        assert!(LISTS.contains(&&*setting.key) || SINGLES.contains(&&*setting.key), "{}", setting.key);
        assert!(!setting.values.is_empty() && (setting.values.len() == 1 || LISTS.contains(&&*setting.key)));
        for value in &setting.values {
            assert!((1..=lines).contains(&value.line) && !value.text.contains('\0'));
            assert!(
                value.written.is_none() || !value.shown().contains(SECRET) || holds_secret(text),
                "{}",
                value.shown()
            );
        }
    }
    // What comes from Litestream's own keys lies below a folder of ours.
    if settings.is_litestream && settings.get("store").is_some_and(|s| !text_has(text, &s.key)) {
        let stored = settings.get("key-template").or(settings.get("store")).map(|s| s.values[0].text.clone());
        let is_below = stored.is_some_and(|text| text.ends_with("litesnap") || text == "{{replica}}/{{path}}");
        assert!(is_below || text_has(text, "key-template"), "beside Litestream's own objects: {settings:?}");
    }
}

fn text_has(text: &[u8], key: &str) -> bool {
    let text = String::from_utf8_lossy(text).replace('_', "-");
    text.contains(key) || text.contains('\\')
}
