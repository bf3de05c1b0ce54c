//! Which databases are meant. Input: two lines with globs, the second may be empty; then a key prefix.

use std::path::Path;

use litesnap::fs::shown;
use litesnap::fuzzing::is_made;
use litesnap::layout::encode_segment;
use litesnap::names::{Names, decoded};

use super::{is_one_line, texts};

pub fn check(data: &[u8]) {
    let [first, second, prefix] = texts(data);
    // A prefix as templates make them; other keys are foreign, and only their globs' names are looked at.
    let made = prefix.split('/').map(|part| encode_segment(part.as_bytes())).collect::<Vec<_>>().join("/");
    let globs: Vec<String> = [first.clone(), second].into_iter().filter(|glob| !glob.is_empty()).collect();
    for prefix in [&prefix, &made] {
        match Names::parse(&globs) {
            Ok(names) => meant(&names, &globs, prefix),
            Err(e) => is_one_line(&e.to_string()),
        }
        called(prefix);
    }
    match Names::readings(&first) {
        Ok(readings) => assert!((1..=2).contains(&readings.len())),
        Err(e) => is_one_line(&e.to_string()),
    }
}

/// Several globs mean what each of them means; all that is meant lies below the heads, or it would not be listed.
fn meant(names: &Names, globs: &[String], prefix: &str) {
    assert_eq!(names.texts(), globs);
    let each: Vec<bool> = globs.iter().map(|glob| one(glob).matches(prefix)).collect();
    assert_eq!(names.matches(prefix), each.contains(&true) || globs.is_empty());
    let hits: Vec<usize> = names.hits(prefix).collect();
    assert_eq!(hits, (0..globs.len()).filter(|n| each[*n]).collect::<Vec<_>>());
    let Some(heads) = names.heads() else { return };
    assert!(heads.is_sorted() && heads.iter().all(|head| is_made(head)));
    assert!(heads.iter().all(|a| !heads.iter().any(|b| a != b && is_below(a, b))), "one below another: {heads:?}");
    let is_listed = heads.iter().any(|head| is_below(prefix, head));
    assert!(!names.matches(prefix) || is_listed || !is_made(prefix), "{prefix:?} is meant, and not below {heads:?}");
}

fn one(glob: &str) -> Names {
    Names::parse(&[glob.to_owned()]).expect("valid beside others")
}

fn is_below(prefix: &str, head: &str) -> bool {
    prefix.strip_prefix(head).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A database is found by the name that it is shown under, and by its key prefix.
fn called(prefix: &str) {
    if !is_made(prefix) {
        return;
    }
    let name = decoded(prefix);
    let shown = shown(&name).to_string();
    assert!(!shown.contains(char::is_control));
    // A name that has a `/` in a part, or parts that are `.`, is no path: its prefix is its name.
    let is_path = prefix.split('/').map(str::len).sum::<usize>() > 0
        && name.as_os_str().as_encoded_bytes().split(|b| *b == b'/').count() == prefix.split('/').count();
    let is_plain = is_path && !prefix.split('/').any(|part| matches!(part, "%2E" | "%2E%2E"));
    if is_plain && name.to_str() == Some(&*shown) {
        let exactly = Names::exactly(&shown).expect("a name");
        assert!(exactly.matches(prefix) && !exactly.matches(&format!("{prefix}x")), "{prefix:?}");
        assert_eq!(exactly.heads(), Some([prefix.to_owned()].as_slice()));
    }
    if let Ok(readings) = Names::readings(prefix) {
        assert!(readings.iter().any(|names| names.matches(prefix)), "{prefix:?} is not found by itself");
    }
    if is_plain && name.to_str().is_some() && Path::new("/").join(&name).to_str().is_some() {
        let within = Names::within(prefix).expect("a prefix");
        assert!(within.matches(prefix) && within.matches(&format!("{prefix}/x")) && !within.matches("zz/y"));
    }
}
