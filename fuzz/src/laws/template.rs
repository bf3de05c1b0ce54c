//! Key templates. Input: lines with the template, the host, two values of captures; then the path.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use litesnap::error::Error;
use litesnap::fuzzing::{is_made, safe_path};
use litesnap::layout::{Template, Timestamp, parse_key, snapshot_key};
use litesnap::names::decoded;

use super::{fields, is_one_line};

pub fn check(data: &[u8]) {
    let [text, host, first, second, path] = fields(data);
    let (text, host) = (String::from_utf8_lossy(text), String::from_utf8_lossy(host));
    let path = Path::new(OsStr::from_bytes(path));
    every_path_has_its_prefix(path);
    match Template::parse(&text) {
        Ok(template) => rendered(&template, &host, [first, second], path),
        Err(e) => {
            assert!(matches!(e, Error::Usage(_)));
            is_one_line(&e.to_string());
        }
    }
}

fn rendered(template: &Template, host: &str, values: [&[u8]; 2], path: &Path) {
    assert_eq!(Template::parse(template.as_str()).as_ref().ok(), Some(template));
    let names: Vec<&str> = template.names().collect();
    let captures: Vec<(&str, &[u8])> = names.iter().zip(values.iter().cycle()).map(|(n, v)| (*n, *v)).collect();
    assert!(template.check(&names).is_ok());
    if let Err(e) = template.check(&[]) {
        is_one_line(&e.to_string());
    }
    match template.render(path, host, &captures) {
        Ok(prefix) => {
            assert!(is_made(&prefix), "{prefix:?} would be taken for somebody else's");
            let key = snapshot_key(&prefix, Timestamp::MAX);
            assert_eq!(parse_key(&key).map(|key| key.prefix), Some(&*prefix));
            if let Some(head) = template.fixed_head(host) {
                let rest = prefix.strip_prefix(&head);
                assert!(rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')), "{prefix:?} {head:?}");
            }
        }
        Err(e) => is_one_line(&e.to_string()),
    }
}

/// The default template: the path comes back from the prefix, so no two paths share one.
fn every_path_has_its_prefix(path: &Path) {
    let template = Template::parse("{{path}}").expect("the default");
    let Ok(prefix) = template.render(path, "", &[]) else {
        let is_empty = path.as_os_str().as_bytes().iter().all(|b| *b == b'/');
        assert!(!path.is_absolute() || is_empty, "{path:?}");
        return;
    };
    let segments: Vec<&[u8]> = path.as_os_str().as_bytes().split(|b| *b == b'/').filter(|s| !s.is_empty()).collect();
    assert_eq!(decoded(&prefix).as_os_str().as_bytes(), segments.join(&b'/'));
    assert!(is_made(&prefix));
    let is_plain = !segments.iter().any(|s| matches!(*s, b"." | b"..") || s.contains(&0));
    assert_eq!(safe_path(&prefix).is_some(), is_plain, "{path:?}");
}
