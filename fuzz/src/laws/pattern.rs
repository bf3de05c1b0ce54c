//! Patterns and exclusions. Input: a line with the pattern, then the path.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use litesnap::fuzzing::matches_below_root;
use litesnap::pattern::{Excludes, Pattern};

use super::{fields, gauge, is_one_line};

const CWD: &str = "/cwd/folder";
/// The oracle tries every way, one inside the other.
const STARS_MAX: usize = 6;

pub fn check(data: &[u8]) {
    let [text, path] = fields(data);
    let (os_text, path) = (OsStr::from_bytes(text), Path::new(OsStr::from_bytes(path)));
    let (parsed, taken) = gauge::peak(|| Pattern::parse(os_text, Path::new(CWD)));
    // A token of one byte is a few words.
    assert!(taken <= 512 * text.len() + 8192, "{taken} bytes taken for {}", text.len());
    match parsed {
        Ok(pattern) => {
            matched(&pattern, text, path);
            let or_directory = Pattern::parse_or_directory(os_text, Path::new(CWD), |_| false);
            assert_eq!(or_directory.ok().as_ref(), Some(&pattern));
        }
        Err(e) => is_one_line(&e.to_string()),
    }
    if let Ok(text) = std::str::from_utf8(text) {
        excluded(text, path);
    }
    literal(path);
}

fn names(path: &Path) -> impl Iterator<Item = &[u8]> {
    path.as_os_str().as_bytes().split(|b| *b == b'/')
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute() && names(path).skip(1).all(|name| !matches!(name, b"" | b"." | b".."))
}

fn matched(pattern: &Pattern, text: &[u8], path: &Path) {
    assert_eq!(pattern.text(), String::from_utf8_lossy(text));
    assert!(is_plain(pattern.root()) || pattern.root() == Path::new("/"));
    let captured = pattern.captures(path);
    if let Some(values) = &captured {
        assert!(values.iter().map(|(name, _)| *name).eq(pattern.capture_names()));
        assert!(values.iter().all(|(_, value)| !value.contains(&b'/')));
        assert!(path.starts_with(pattern.root()), "{path:?} is outside {:?}", pattern.root());
    }
    if is_plain(path) {
        let below = path.strip_prefix(pattern.root()).is_ok_and(|rest| matches_below_root(pattern, rest));
        assert_eq!(captured.is_some(), below);
        if let Some(values) = &captured {
            with_values(text, path, values);
        }
        agrees_with_glob(text, path, captured.is_some());
    }
}

/// With each `{name}` replaced by what it stood for, the pattern still matches; with a star in its place, too.
fn with_values(text: &[u8], path: &Path, values: &[(&str, &[u8])]) {
    let (mut by_value, mut by_star, mut at) = (Vec::new(), Vec::new(), 0);
    while at < text.len() {
        let len = match text[at] {
            b'\\' => 2,
            b'[' => class_len(&text[at..]),
            b'{' => {
                let len = text[at..].iter().position(|b| *b == b'}').expect("it was parsed") + 1;
                let name = &text[at + 1..at + len - 1];
                let (_, value) = values.iter().find(|(n, _)| n.as_bytes() == name).expect("it is captured");
                by_value.extend(escaped(value));
                by_star.push(b'*');
                at += len;
                continue;
            }
            _ => 1,
        };
        by_value.extend_from_slice(&text[at..at + len]);
        by_star.extend_from_slice(&text[at..at + len]);
        at += len;
    }
    for text in [by_value, by_star] {
        let pattern = Pattern::parse(OsStr::from_bytes(&text), Path::new(CWD));
        let pattern = pattern.unwrap_or_else(|e| panic!("{}: {e}", text.escape_ascii()));
        assert!(pattern.captures(path).is_some(), "{} does not match {path:?}", text.escape_ascii());
    }
}

/// The length of the class that `text` begins with, in a pattern that has been parsed.
fn class_len(text: &[u8]) -> usize {
    let start = 1 + usize::from(text.get(1) == Some(&b'!'));
    let mut at = start;
    while at == start || text[at] != b']' {
        at += 1 + usize::from(text[at] == b'\\');
    }
    at + 1
}

fn escaped(value: &[u8]) -> Vec<u8> {
    value.iter().flat_map(|b| [b'\\', *b].into_iter().skip(usize::from(!b"*?[]{}\\".contains(b)))).collect()
}

/// The glob crate, where both read the same syntax.
fn agrees_with_glob(text: &[u8], path: &Path, ours: bool) {
    let (Ok(text), Some(path)) = (std::str::from_utf8(text), path.to_str()) else { return };
    let is_shared = text.starts_with('/')
        && !text.contains(['{', '}', '\\'])
        && !text[1..].split('/').any(|part| matches!(part, "" | "." | ".."))
        && text.matches('*').count() <= STARS_MAX;
    // It reads a class as it is written, we refuse `[b-a]` and one that holds a `/`.
    let Some(Ok(theirs)) = is_shared.then(|| glob::Pattern::new(text)) else { return };
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: false,
    };
    assert_eq!(ours, theirs.matches_with(path, options), "{text:?} on {path:?}");
}

/// What excludes a folder covers all below it.
fn excluded(text: &str, path: &Path) {
    let globs = [text.to_owned()];
    match Excludes::parse(&globs, Path::new(CWD)) {
        Ok(excludes) if is_plain(path) => {
            assert!(!excludes.is_empty());
            let name = path.file_name().unwrap_or_default().as_bytes();
            let itself = excludes.is_excluded(path, name);
            let covered = excludes.cover(path, Path::new("/"));
            assert!(covered || !itself);
            let below = path.join("x");
            assert!(excludes.cover(&below, Path::new("/")) || !covered);
            let again = Excludes::parse(&[text.to_owned(), text.to_owned()], Path::new(CWD)).expect("valid once");
            assert_eq!(again.is_excluded(path, name), itself);
        }
        Ok(_) => {}
        Err(e) => is_one_line(&e.to_string()),
    }
}

/// Any path, escaped, is a pattern that matches it and nothing else.
fn literal(path: &Path) {
    let bytes = path.as_os_str().as_bytes();
    if !is_plain(path) || bytes.contains(&0) {
        return;
    }
    let text = escaped(bytes);
    let pattern = Pattern::parse(OsStr::from_bytes(&text), Path::new("/")).expect("nothing in it is special");
    assert_eq!(pattern.captures(path), Some(Vec::new()));
    for other in [[bytes, b"x"].concat(), [bytes, b"/x"].concat(), bytes[..bytes.len() - 1].to_vec()] {
        assert_eq!(pattern.captures(Path::new(OsStr::from_bytes(&other))), None);
    }
    let folder = Pattern::directory(path);
    assert_eq!(folder.root(), path);
    assert!(folder.captures(&path.join("a/b")).is_some() && folder.captures(path).is_none());
}
