//! Which databases of a store are meant, by their names in it.
//!
//! A database's name is its key prefix below the store's, decoded: under the default template its absolute path without the
//! leading slash. Globs are those of [`pattern`](crate::pattern). Pure.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fs::shown;
use crate::layout::{decode_segment, encode_segment};
use crate::pattern::{Excludes, Pattern};

/// Globs over names; without any, every name.
///
/// One without `/` matches the last part of a name, one with `/` the whole name, whether it begins with `/` or not; `**`
/// alone matches every name.
#[derive(Debug, Clone, Default)]
pub struct Names {
    texts: Vec<String>,
    /// One for each text.
    globs: Vec<Glob>,
    /// Key prefixes below which everything meant lies; `None` for anywhere.
    heads: Option<Vec<String>>,
}

#[derive(Debug, Clone)]
enum Glob {
    Every,
    Name(Excludes),
    /// This key prefix, as it stands in keys.
    Prefix(String),
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
        let mut parsed = Vec::with_capacity(globs.len());
        for glob in globs {
            let is_every = is_every(glob);
            let head = if glob.contains('/') && !is_every { Some(head_of(glob).map_err(of_match)?) } else { None };
            // A glob that may match anywhere needs everything listed.
            match (head.filter(|head| !head.is_empty()), &mut heads) {
                (Some(head), Some(heads)) => heads.push(head),
                _ => heads = None,
            }
            parsed.push(match is_every {
                true => Glob::Every,
                false => Glob::Name(Excludes::parse(std::slice::from_ref(glob), Path::new("/")).map_err(of_match)?),
            });
        }
        Ok(Self { texts: globs.to_vec(), globs: parsed, heads: heads.map(outermost) })
    }

    /// Exactly the database called `name`, with or without a leading slash; no character is special.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is empty or has an empty, `.` or `..` part.
    pub fn exactly(name: &str) -> Result<Self> {
        let trimmed = name.trim_start_matches('/');
        if trimmed.is_empty() || trimmed.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(Error::Usage(format!(
                "'{}' is no name of a database: give it as `litesnap list` shows it, such as srv/app/tenants/acme.db",
                shown(Path::new(name))
            )));
        }
        Self::parse(&[format!("/{}", escaped(trimmed))])
    }

    /// What `name` may mean, the likeliest first: the database [called](Self::exactly) so; the one with this key prefix, for
    /// a name that text cannot say, because it is not UTF-8, holds control characters, or a part of it holds a slash. The
    /// second is for where the first matches nothing.
    ///
    /// # Errors
    /// As [`Names::exactly`].
    pub fn readings(name: &str) -> Result<Vec<Self>> {
        let prefix = name.trim_start_matches('/');
        let encoded = is_prefix(prefix).then(|| Self::of_prefixes(vec![prefix.to_owned()]));
        Ok([Self::exactly(name)?].into_iter().chain(encoded).collect())
    }

    /// Exactly the databases with these key prefixes, as they stand in keys.
    pub(crate) fn of_prefixes(prefixes: Vec<String>) -> Self {
        let texts = prefixes.iter().map(|prefix| shown(&decoded(prefix)).to_string()).collect();
        let globs = prefixes.iter().cloned().map(Glob::Prefix).collect();
        Self { texts, globs, heads: Some(outermost(prefixes)) }
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
        self.globs.is_empty() || self.hits(prefix).next().is_some()
    }

    /// Which of the globs match the database with this key prefix: their places in [`texts`](Self::texts), in its order.
    pub fn hits(&self, prefix: &str) -> impl Iterator<Item = usize> {
        // Decoding costs, and only globs over names need it.
        let is_named = self.globs.iter().any(|glob| matches!(glob, Glob::Name(_)));
        let path = if is_named { PathBuf::from("/").join(decoded(prefix)) } else { PathBuf::new() };
        self.globs.iter().enumerate().filter(move |(_, glob)| glob.matches(prefix, &path)).map(|(place, _)| place)
    }

    /// Key prefixes, without slashes at their ends, below which everything meant lies, none below another; `None`
    /// for anywhere.
    #[must_use]
    pub fn heads(&self) -> Option<&[String]> {
        self.heads.as_deref()
    }
}

impl Glob {
    /// Whether it matches the database with this key prefix, which is `path` decoded, absolute.
    fn matches(&self, prefix: &str, path: &Path) -> bool {
        match self {
            Self::Every => true,
            Self::Name(glob) => glob.is_excluded(path, path.file_name().unwrap_or_default().as_bytes()),
            Self::Prefix(wanted) => wanted == prefix,
        }
    }
}

/// Whether `glob` is `**` and nothing else, with whatever slashes.
fn is_every(glob: &str) -> bool {
    glob.contains("**") && glob.split('/').all(|part| matches!(part, "" | "**"))
}

/// Whether `text` is a key prefix as [`layout`](crate::layout) makes them.
fn is_prefix(text: &str) -> bool {
    text.split('/').all(|part| !part.is_empty() && decode_segment(part).is_some())
}

/// Without those below another, sorted.
fn outermost(mut heads: Vec<String>) -> Vec<String> {
    heads.sort();
    heads.dedup();
    let all: HashSet<String> = heads.iter().cloned().collect();
    let has_above = |head: &str| head.match_indices('/').any(|(at, _)| all.contains(&head[..at]));
    heads.retain(|head| !has_above(head));
    heads
}

fn of_match(error: Error) -> Error {
    match error {
        Error::Usage(what) => Error::Usage(format!("--match: {what}")),
        other => other,
    }
}

/// `text` as a glob that matches nothing else.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| "*?[]{}\\".contains(c).then_some('\\').into_iter().chain([c])).collect()
}

/// The literal beginning of `glob`, encoded as keys are.
fn head_of(glob: &str) -> Result<String> {
    let pattern = Pattern::parse(OsStr::new(glob), Path::new("/"))?;
    let head = pattern.literal_path().unwrap_or_else(|| pattern.root().to_owned());
    let parts = head.as_os_str().as_bytes().split(|b| *b == b'/').filter(|part| !part.is_empty());
    Ok(parts.map(encode_segment).collect::<Vec<_>>().join("/"))
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
            ("**", "a.db", true),
            ("/**", "srv/app/acme.db", true),
            ("**/**/", "srv/app/acme.db", true),
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
        assert_eq!(heads(&["/**", "srv/x"]), None);
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

    #[test]
    fn hits_are_the_places_of_the_globs_that_match() {
        let names = names(&["acme.db", "srv/**", "none.db", "**"]);
        let hits = |prefix: &str| names.hits(prefix).collect::<Vec<_>>();
        assert_eq!(hits("srv/app/acme.db"), [0, 1, 3]);
        assert_eq!(hits("acme.db"), [0, 3]);
        assert_eq!(hits("var/%FF"), [3]);
        assert_eq!(Names::all().hits("acme.db").count(), 0);
    }

    #[test]
    fn a_name_is_read_as_text_and_as_a_key_prefix() {
        let readings = |name: &str, prefix: &str| {
            Names::readings(name).unwrap().iter().map(|names| names.matches(prefix)).collect::<Vec<_>>()
        };
        assert_eq!(readings("/srv/a b.db", "srv/a%20b.db"), [true]);
        assert_eq!(readings("srv/a%20b.db", "srv/a%20b.db"), [false, true]);
        assert_eq!(readings("srv/a%20b.db", "srv/a%2520b.db"), [true, false]);
        assert_eq!(readings("srv/%FF%0A.db", "srv/%FF%0A.db"), [false, true]);
        assert_eq!(readings("p/a%2Fb", "p/a%2Fb"), [false, true]);
        // Of two keys that decode alike it is the one that was written.
        assert_eq!(readings("p/a%2Fb", "p/a/b"), [false, false]);
        let last = Names::readings("srv/%FF.db").unwrap().pop().unwrap();
        assert_eq!(last.heads(), Some(["srv/%FF.db".to_owned()].as_slice()));
        assert!(Names::readings("../x").is_err());
    }

    #[test]
    fn errors_are_of_match() {
        for glob in ["[a", "srv/[a", "", "/"] {
            let error = Names::parse(&[glob.to_owned()]).unwrap_err().to_string();
            assert!(error.contains("--match") && !error.contains("exclude"), "{glob}: {error}");
        }
    }
}
