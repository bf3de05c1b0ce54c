//! Which databases of a store are meant, by their names in it.
//!
//! A database's name is its key prefix below the store's, decoded: under the default template its absolute path without the
//! leading slash. Globs are those of [`pattern`](crate::pattern). Pure.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::layout::{decode_segment, encode_segment};
use crate::pattern::{Excludes, Pattern};

/// Globs over names; without any, every name.
///
/// One without `/` matches the last part of a name, one with `/` the whole name, whether it begins with `/` or not.
#[derive(Debug, Clone, Default)]
pub struct Names {
    texts: Vec<String>,
    globs: Excludes,
    /// Key prefixes below which everything meant lies; `None` for anywhere.
    heads: Option<Vec<String>>,
}

impl Names {
    /// Every database.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Reads globs.
    ///
    /// # Errors
    /// [`Error::Usage`] with the offending part and an example.
    pub fn parse(globs: &[String]) -> Result<Self> {
        if globs.is_empty() {
            return Ok(Self::all());
        }
        let mut heads = Some(Vec::new());
        for glob in globs {
            let head = if glob.contains('/') { Some(head_of(glob)?) } else { None };
            // A glob that may match anywhere needs everything listed.
            match (head.filter(|head| !head.is_empty()), &mut heads) {
                (Some(head), Some(heads)) => heads.push(head),
                _ => heads = None,
            }
        }
        if let Some(heads) = &mut heads {
            let all = heads.clone();
            heads.retain(|head| !all.iter().any(|other| is_below(head, other)));
            heads.sort();
            heads.dedup();
        }
        let globs_as_paths = Excludes::parse(globs, Path::new("/"))?;
        Ok(Self { texts: globs.to_vec(), globs: globs_as_paths, heads })
    }

    /// Exactly the database called `name`, with or without a leading slash; no character is special.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is empty or has an empty, `.` or `..` part.
    pub fn exactly(name: &str) -> Result<Self> {
        let trimmed = name.trim_start_matches('/');
        if trimmed.is_empty() || trimmed.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(Error::Usage(format!(
                "'{name}' is no name of a database: give it as `litesnap list` shows it, such as srv/app/tenants/acme.db"
            )));
        }
        Self::parse(&[format!("/{}", escaped(trimmed))])
    }

    /// Exactly the database with this key prefix, for a name that [`exactly`](Self::exactly) cannot say because a part of it
    /// holds a slash; `None` for text that is no key prefix.
    pub(crate) fn of_prefix(prefix: &str) -> Option<Self> {
        let is_whole = |part: &str| !part.is_empty() && decode_segment(part).is_some();
        if !prefix.split('/').all(is_whole) {
            return None;
        }
        let names = Self::exactly(decoded(prefix).to_str()?).ok()?;
        Some(Self { heads: Some(vec![prefix.to_owned()]), ..names })
    }

    /// Every database whose key prefix is `head`, as layout encodes it, or lies below it.
    ///
    /// # Errors
    /// As [`Names::parse`].
    pub fn within(head: &str) -> Result<Self> {
        let path = decoded(head);
        let path = escaped(&path.to_string_lossy());
        Self::parse(&[format!("/{path}"), format!("/{path}/**")])
    }

    /// The globs as they were written; none if every database is meant.
    #[must_use]
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Whether the database with this key prefix is meant.
    #[must_use]
    pub fn matches(&self, prefix: &str) -> bool {
        if self.texts.is_empty() {
            return true;
        }
        let path = PathBuf::from("/").join(decoded(prefix));
        let last = path.file_name().unwrap_or_default().as_bytes();
        self.globs.is_excluded(&path, last)
    }

    /// Key prefixes, without slashes at their ends, below which everything meant lies, none below another; `None`
    /// for anywhere.
    #[must_use]
    pub fn heads(&self) -> Option<&[String]> {
        self.heads.as_deref()
    }
}

/// `text` as a glob that matches nothing else.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| "*?[]{}\\".contains(c).then_some('\\').into_iter().chain([c])).collect()
}

/// The literal beginning of `glob`, encoded as keys are.
fn head_of(glob: &str) -> Result<String> {
    let pattern = Pattern::parse(OsStr::new(glob), Path::new("/")).map_err(|e| match e {
        Error::Usage(what) => Error::Usage(format!("--match: {what}")),
        other => other,
    })?;
    let head = pattern.literal_path().unwrap_or_else(|| pattern.root().to_owned());
    let parts = head.as_os_str().as_bytes().split(|b| *b == b'/').filter(|part| !part.is_empty());
    Ok(parts.map(encode_segment).collect::<Vec<_>>().join("/"))
}

fn is_below(head: &str, other: &str) -> bool {
    head.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'))
}

/// A key prefix as the path it stands for, relative; a part that is not of our encoding stays as it is.
#[must_use]
pub fn decoded(prefix: &str) -> PathBuf {
    let parts = prefix.split('/').map(|part| decode_segment(part).map_or(Cow::Borrowed(part.as_bytes()), Cow::Owned));
    PathBuf::from(OsStr::from_bytes(&parts.collect::<Vec<_>>().join(&b'/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(globs: &[&str]) -> Names {
        Names::parse(&globs.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn matches_by_table() {
        for (glob, prefix, expected) in [
            ("acme.db", "srv/app/acme.db", true),
            ("acme.db", "acme.db", true),
            ("app", "srv/app/acme.db", false),
            ("a*.db", "srv/app/acme.db", true),
            ("srv/app/acme.db", "srv/app/acme.db", true),
            ("/srv/app/acme.db", "srv/app/acme.db", true),
            ("srv/app", "srv/app/acme.db", false),
            ("srv/**", "srv/app/acme.db", true),
            ("srv/*/a?me.db", "srv/app/acme.db", true),
            ("app/acme.db", "srv/app/acme.db", false),
            ("**/app/acme.db", "srv/app/acme.db", true),
            ("my app.db", "srv/my%20app.db", true),
            ("/srv/%2E%2E/x.db", "srv/%2E%2E/x.db", false),
        ] {
            assert_eq!(names(&[glob]).matches(prefix), expected, "{glob} {prefix}");
        }
        assert!(Names::all().matches("anything"));
    }

    #[test]
    fn heads_are_the_literal_parts_none_below_another() {
        let heads = |globs: &[&str]| names(globs).heads().map(<[String]>::to_vec);
        assert_eq!(heads(&["srv/app/acme.db"]), Some(vec!["srv/app/acme.db".into()]));
        assert_eq!(heads(&["/srv/a b/*.db"]), Some(vec!["srv/a%20b".into()]));
        assert_eq!(heads(&["srv/app/*", "srv/app/acme.db", "var/x"]), Some(vec!["srv/app".into(), "var/x".into()]));
        assert_eq!(heads(&["srv/ap", "srv/app"]), Some(vec!["srv/ap".into(), "srv/app".into()]));
        assert_eq!(heads(&["srv/app/*", "acme.db"]), None);
        assert_eq!(heads(&["/*/acme.db"]), None);
        assert_eq!(Names::all().heads(), None);
    }

    #[test]
    fn within_a_head_is_all_that_it_begins() {
        let names = Names::within("web-1/a%20b").unwrap();
        for (prefix, expected) in [
            ("web-1/a%20b", true),
            ("web-1/a%20b/c/d.db", true),
            ("web-1/a%20bc", false),
            ("web-1", false),
            ("web-2/x", false),
        ] {
            assert_eq!(names.matches(prefix), expected, "{prefix}");
        }
        assert_eq!(names.heads(), Some(["web-1/a%20b".to_owned()].as_slice()));
    }

    #[test]
    fn an_exact_name_has_no_wildcards() {
        let exact = Names::exactly("/srv/a[1]*.db").unwrap();
        assert!(exact.matches("srv/a%5B1%5D%2A.db") && !exact.matches("srv/a1x.db"));
        assert_eq!(exact.heads(), Some(["srv/a%5B1%5D%2A.db".to_owned()].as_slice()));
        for wrong in ["", "/", "a//b", "../a", "a/."] {
            assert!(Names::exactly(wrong).unwrap_err().to_string().contains("litesnap list"), "{wrong}");
        }
    }
}
