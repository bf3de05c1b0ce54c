//! Where things lie in the store: the only module that builds or reads keys.
//!
//! ```text
//! {prefix of the database}/{timestamp}.db.lz4        a snapshot
//! {prefix of the database}/{timestamp}.deleted       a tombstone: the database was gone from its host
//! {prefix of the database}/{timestamp}.db.lz4.bad    a marker: that snapshot is known to be bad
//! litesnap-heartbeats/{host}/{timestamp}.heartbeat   how the loop of a host fared
//! ```
//!
//! All keys here lie below the store's own prefix, which is the caller's to add. A database's prefix is
//! made from a [`Template`]; values in it are percent-encoded so that any two values stay different and
//! no store has a reason to change or refuse them. Pure: no file, no store, no clock.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, Result};
pub use crate::timestamp::{Timestamp, next_timestamp};

/// Longest key in bytes that S3, GCS and Azure all take, the store's own prefix included.
pub const KEY_LEN_MAX: usize = 1024;

/// The template unless configured: an absolute path is unique on its host, and widening a pattern later
/// renames nothing.
pub const TEMPLATE_DEFAULT: &str = "{{path}}";

/// The name of a folder in the store that a pattern brings along ([`crate::pattern::Pattern::with_constants`]).
pub const REPLICA: &str = "replica";

const SNAPSHOT: &str = ".db.lz4";
const TOMBSTONE: &str = ".deleted";
const BAD: &str = ".bad";
const HEARTBEAT: &str = ".heartbeat";

/// What heartbeats lie below. Databases may lie there too: their objects have other names.
pub const HEARTBEATS: &str = "litesnap-heartbeats";

/// How the prefix of a database is made: literal text and `{{name}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Name(String),
}

/// Why one database has no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The template wants a name that the pattern which found this database does not capture.
    #[error("the key template wants {{{{{0}}}}}, which the pattern that found this database does not capture")]
    Missing(String),
    /// The value is empty: `a//b` and `a/b` would be hard to tell apart, and some stores take them for one.
    #[error("{{{{{0}}}}} in the key template is empty for this database")]
    Empty(String),
    /// A relative path says nothing without a working directory.
    #[error("the path of the database is not absolute")]
    NotAbsolute,
}

impl Template {
    /// Reads a template: literal text, `{{name}}` and `/` between segments.
    ///
    /// # Errors
    /// [`Error::Usage`] with an example of what would be right: empty; a leading, trailing or double slash;
    /// a `.` or `..` segment; a brace that is not part of `{{name}}`; a literal character that stores change.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: &str| {
            let example = "write for example {{path}}, {{hostname}}/{{path}} or backups/{{project}}/{{tenant}}";
            Error::Usage(format!("key template {text:?}: {what}; {example}"))
        };
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once("{{") {
            let (name, after) = after.split_once("}}").ok_or_else(|| wrong("{{ without }}"))?;
            let name = name.trim();
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
                return Err(wrong("a name has letters, digits, _ and - only"));
            }
            parts.push(Part::Literal(literal.to_owned()));
            parts.push(Part::Name(name.to_owned()));
            rest = after;
        }
        parts.push(Part::Literal(rest.to_owned()));
        parts.retain(|part| *part != Part::Literal(String::new()));

        for part in &parts {
            let Part::Literal(literal) = part else { continue };
            if literal.contains(['{', '}']) {
                return Err(wrong("a name stands in two braces, {{name}}"));
            }
            if let Some(odd) = literal.chars().find(|c| *c != '/' && !is_kept(*c)) {
                return Err(wrong(&format!("the character {odd:?} is changed or refused by some stores")));
            }
        }
        // The shape is judged with every name replaced by a value, as it will be.
        let shape: String = parts.iter().map(|p| if let Part::Literal(l) = p { l.as_str() } else { "x" }).collect();
        if shape.is_empty() {
            return Err(wrong("it is empty"));
        }
        if shape.split('/').any(str::is_empty) {
            return Err(wrong("a leading, trailing or double slash"));
        }
        if shape.split('/').any(is_dots) {
            return Err(wrong("a segment that is . or .."));
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// The text that the template was read from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The names that the template wants, in order, `path` and `hostname` included.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|p| if let Part::Name(n) = p { Some(n.as_str()) } else { None })
    }

    /// Checks that every name can have a value. `known` are the names that the patterns capture; `path` and
    /// `hostname` are always known.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the first unknown name and lists the known ones.
    pub fn check(&self, known: &[&str]) -> Result<()> {
        let mut known = [&["path", "hostname"], known].concat();
        let Some(unknown) = self.names().find(|name| !known.contains(name)) else { return Ok(()) };
        known.sort_unstable();
        known.dedup();
        Err(Error::Usage(format!(
            "key template {:?}: no pattern captures {{{{{unknown}}}}}; known names are {}. \
             A pattern captures a name with {{{unknown}}}, as in /data/{{{unknown}}}/app.db",
            self.text,
            known.join(", "),
        )))
    }

    /// The prefix of the database at `path`, without the store's own prefix: at least one segment, no slash at
    /// either end, no empty segment, no `.` or `..`.
    ///
    /// `{{path}}` and `{{replica}}` keep their slashes; everywhere else a value is one segment or a part of one. Two databases may
    /// still get the same prefix, where the template leaves out what tells them apart: the caller looks for that.
    ///
    /// # Errors
    /// A value is missing or empty, or the path is not absolute.
    pub fn render(&self, path: &Path, host: &str, captures: &[(&str, &[u8])]) -> Result<String, RenderError> {
        let mut prefix = Prefix::default();
        for part in &self.parts {
            let name = match part {
                Part::Literal(literal) => {
                    prefix.add_segments(literal.as_bytes().split(|b| *b == b'/'));
                    continue;
                }
                Part::Name(name) => name.as_str(),
            };
            let is_empty = match name {
                "path" => prefix.add_path(path)?,
                "hostname" => prefix.add(host.as_bytes()),
                _ => {
                    let value = captures.iter().find(|(captured, _)| *captured == name);
                    let (_, value) = value.ok_or_else(|| RenderError::Missing(name.to_owned()))?;
                    if name == REPLICA {
                        let parts = value.split(|b| *b == b'/').filter(|part| !part.is_empty());
                        prefix.add_segments(parts);
                        value.iter().all(|b| *b == b'/')
                    } else {
                        prefix.add(value)
                    }
                }
            };
            if is_empty {
                return Err(RenderError::Empty(name.to_owned()));
            }
        }
        Ok(prefix.finish())
    }

    /// The leading segments of every prefix that this template gives on `host`, encoded, without slashes at the ends: what
    /// holds all databases of this host. `None` if already the first segment differs from database to database.
    #[must_use]
    pub fn fixed_head(&self, host: &str) -> Option<String> {
        let mut head = Prefix::default();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => head.add_segments(literal.as_bytes().split(|b| *b == b'/')),
                Part::Name(name) if name == "hostname" && !host.is_empty() => {
                    head.add(host.as_bytes());
                }
                // The segment that it is in differs, and all after it.
                Part::Name(_) => return head.done.strip_suffix('/').map(str::to_owned),
            }
        }
        Some(head.finish())
    }
}

/// A prefix in the making. A segment is encoded when it is complete: by itself a part of it may be `.`, or half a
/// character, which in the whole is neither.
#[derive(Default)]
struct Prefix {
    /// The segments before the last one, encoded, each with a slash behind it.
    done: String,
    segment: Vec<u8>,
}

impl Prefix {
    /// Appends to the last segment; tells whether that was nothing.
    fn add(&mut self, value: &[u8]) -> bool {
        self.segment.extend_from_slice(value);
        value.is_empty()
    }

    /// Appends the first to the last segment, and the others as segments of their own.
    fn add_segments<'a>(&mut self, segments: impl Iterator<Item = &'a [u8]>) {
        for (i, segment) in segments.enumerate() {
            if i > 0 {
                push_encoded(&mut self.done, &self.segment);
                self.done.push('/');
                self.segment.clear();
            }
            self.segment.extend_from_slice(segment);
        }
    }

    /// Appends an absolute path without its leading slash; tells whether that was nothing.
    fn add_path(&mut self, path: &Path) -> Result<bool, RenderError> {
        let path = path.as_os_str().as_bytes();
        if !path.starts_with(b"/") {
            return Err(RenderError::NotAbsolute);
        }
        self.add_segments(path.split(|b| *b == b'/').filter(|segment| !segment.is_empty()));
        Ok(path.iter().all(|b| *b == b'/'))
    }

    fn finish(mut self) -> String {
        push_encoded(&mut self.done, &self.segment);
        self.done
    }
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

/// Whether a character stands for itself in keys. The ASCII ones are those that S3, GCS, Azure and file systems
/// all take and that no client escapes on its own.
fn is_kept(c: char) -> bool {
    match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' => true,
        '-' | '_' | '.' | '~' | '!' | '\'' | '(' | ')' | '@' | '=' | ',' => true,
        // XML, in which stores answer, cannot carry the last two; white space is trimmed here and there.
        c => !c.is_ascii() && !c.is_control() && !c.is_whitespace() && !matches!(c, '\u{FFFE}' | '\u{FFFF}'),
    }
}

/// Encodes any bytes as text for one segment of a key: what a store would change as `%XX`, the rest as it is.
/// Different bytes give different text. `.` and `..` alone become `%2E` and `%2E%2E`.
#[must_use]
pub fn encode_segment(value: &[u8]) -> String {
    let mut text = String::with_capacity(value.len());
    push_encoded(&mut text, value);
    text
}

fn push_encoded(text: &mut String, value: &[u8]) {
    let escape = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            write!(text, "%{byte:02X}").expect("a String takes any text");
        }
    };
    if matches!(value, b"." | b"..") {
        return escape(text, value);
    }
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_kept(c) {
                text.push(c);
            } else {
                escape(text, c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        escape(text, chunk.invalid());
    }
}

/// The inverse of [`encode_segment`]; `None` for text that it does not produce.
#[must_use]
pub fn decode_segment(segment: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, after @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let [high, low, after @ ..] = after else { return None };
        let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        bytes.push(digit(*high)? << 4 | digit(*low)?);
        rest = after;
    }
    // Refuses in one go lower-case digits, needless escapes, and characters that had to be escaped.
    (encode_segment(&bytes) == segment).then_some(bytes)
}

/// What an object in the store is, by its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// The content of a database.
    Snapshot,
    /// Says that the database was gone from its host.
    Tombstone,
    /// Says that the snapshot of the same prefix and time is known to be bad.
    BadMarker,
}

/// A key of ours, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParsedKey<'a> {
    /// The database's prefix, with whatever came before it in the text.
    pub prefix: &'a str,
    /// When the snapshot was taken, or the database found gone.
    pub ts: Timestamp,
    /// What it is.
    pub kind: KeyKind,
}

impl ParsedKey<'_> {
    /// Puts the key together again: the inverse of [`parse_key`].
    #[must_use]
    pub fn key(&self) -> String {
        match self.kind {
            KeyKind::Snapshot => snapshot_key(self.prefix, self.ts),
            KeyKind::Tombstone => tombstone_key(self.prefix, self.ts),
            KeyKind::BadMarker => bad_marker_key(&snapshot_key(self.prefix, self.ts)),
        }
    }
}

/// The key of the snapshot taken at `ts` of the database with this prefix.
#[must_use]
pub fn snapshot_key(prefix: &str, ts: Timestamp) -> String {
    format!("{prefix}/{ts}{SNAPSHOT}")
}

/// The key of the tombstone that says that the database with this prefix was gone at `ts`.
#[must_use]
pub fn tombstone_key(prefix: &str, ts: Timestamp) -> String {
    format!("{prefix}/{ts}{TOMBSTONE}")
}

/// The key of the marker that says that the snapshot under `snapshot_key` is bad.
#[must_use]
pub fn bad_marker_key(snapshot_key: &str) -> String {
    format!("{snapshot_key}{BAD}")
}

/// Reads a key, with or without the store's prefix; `None` for anything that is not exactly of our making, which
/// nothing may touch.
#[must_use]
pub fn parse_key(key: &str) -> Option<ParsedKey<'_>> {
    let (prefix, name) = key.rsplit_once('/')?;
    if prefix.split('/').any(|segment| segment.is_empty() || is_dots(segment)) {
        return None;
    }
    let (ts, rest) = name.split_at_checked(Timestamp::KEY_FORM_LEN)?;
    let kind = match (rest, rest.strip_prefix(SNAPSHOT)) {
        (SNAPSHOT, _) => KeyKind::Snapshot,
        (TOMBSTONE, _) => KeyKind::Tombstone,
        (_, Some(BAD)) => KeyKind::BadMarker,
        _ => return None,
    };
    Some(ParsedKey { prefix, ts: ts.parse().ok()?, kind })
}

/// What the heartbeats of the host called `host` lie below.
#[must_use]
pub fn heartbeats_of(host: &str) -> String {
    format!("{HEARTBEATS}/{}", encode_segment(host.as_bytes()))
}

/// The key of the heartbeat of `ts` below `prefix`, as [`heartbeats_of`] gives it.
#[must_use]
pub fn heartbeat_key(prefix: &str, ts: Timestamp) -> String {
    format!("{prefix}/{ts}{HEARTBEAT}")
}

/// Reads the key of a heartbeat, with or without the store's prefix: its prefix and its time. `None` for anything else,
/// every object of a database among it.
#[must_use]
pub fn parse_heartbeat(key: &str) -> Option<(&str, Timestamp)> {
    let (prefix, name) = key.rsplit_once('/')?;
    let (below, host) = prefix.rsplit_once('/')?;
    if below.rsplit('/').next() != Some(HEARTBEATS)
        || prefix.split('/').any(|segment| segment.is_empty() || is_dots(segment))
    {
        return None;
    }
    decode_segment(host)?;
    let (ts, rest) = name.split_at_checked(Timestamp::KEY_FORM_LEN)?;
    Some((prefix, ts.parse().ok().filter(|_| rest == HEARTBEAT)?))
}

/// The name of the host whose heartbeats lie below `prefix`, as text for people.
#[must_use]
pub fn host_of_heartbeats(prefix: &str) -> String {
    let segment = prefix.rsplit('/').next().unwrap_or(prefix);
    decode_segment(segment).map_or_else(|| segment.to_owned(), |name| String::from_utf8_lossy(&name).into_owned())
}

/// Whether a template makes key prefixes like this one: under another, objects are foreign even if their names look like ours.
pub(crate) fn is_made(prefix: &str) -> bool {
    prefix.split('/').all(|segment| !segment.is_empty() && decode_segment(segment).is_some())
}

/// Whether every key that a database with this prefix will ever have, below the store's own prefix (empty if
/// there is none), is within [`KEY_LEN_MAX`].
#[must_use]
pub fn fits(store_prefix: &str, prefix: &str) -> bool {
    let longest_name = Timestamp::KEY_FORM_LEN + SNAPSHOT.len() + BAD.len();
    store_prefix.len() + 1 + prefix.len() + 1 + longest_name <= KEY_LEN_MAX
}

/// A key below the store's own prefix, which may be empty: `{store prefix}/{key}` or `{key}`.
#[must_use]
pub fn below<'a>(store_prefix: &str, key: &'a str) -> Cow<'a, str> {
    if store_prefix.is_empty() { Cow::Borrowed(key) } else { Cow::Owned(format!("{store_prefix}/{key}")) }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use proptest::prelude::*;

    use super::*;

    fn render(template: &str, path: &str, captures: &[(&str, &[u8])]) -> Result<String, RenderError> {
        Template::parse(template).unwrap().render(Path::new(path), "web-1", captures)
    }

    #[test]
    fn a_heartbeat_is_no_object_of_a_database_wherever_that_lies() {
        let ts: Timestamp = "20261121T063339.123Z".parse().unwrap();
        for host in ["web-1", "a b/c", "..", "%", "Zürich"] {
            let prefix = heartbeats_of(host);
            let key = heartbeat_key(&prefix, ts);
            assert_eq!((parse_heartbeat(&key), host_of_heartbeats(&prefix)), (Some((&*prefix, ts)), host.to_owned()));
            assert!(parse_heartbeat(&below("store/prefix", &key)).is_some() && parse_key(&key).is_none(), "{key}");
            // A database of that very prefix.
            for of_database in
                [snapshot_key(&prefix, ts), tombstone_key(&prefix, ts), bad_marker_key(&snapshot_key(&prefix, ts))]
            {
                assert!(parse_heartbeat(&of_database).is_none() && parse_key(&of_database).is_some());
            }
        }
        for foreign in [
            "litesnap-heartbeats/20261121T063339.123Z.heartbeat",
            "x/web-1/20261121T063339.123Z.heartbeat",
            "litesnap-heartbeats/web-1/x/20261121T063339.123Z.heartbeat",
            "litesnap-heartbeats/we b/20261121T063339.123Z.heartbeat",
            "litesnap-heartbeats/web-1/20261121T063339.123Z.heartbeat.bad",
            "litesnap-heartbeats/web-1/20261321T063339.123Z.heartbeat",
            "../litesnap-heartbeats/web-1/20261121T063339.123Z.heartbeat",
        ] {
            assert_eq!(parse_heartbeat(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn renders() {
        for (template, path, expected) in [
            ("{{path}}", "/data/a/app.db", "data/a/app.db"),
            ("{{ path }}", "/app.db", "app.db"),
            ("{{path}}", "//data///app.db", "data/app.db"),
            ("{{path}}", "/data/my app+1%.db", "data/my%20app%2B1%25.db"),
            ("{{path}}", "/data/../x/.hidden/...", "data/%2E%2E/x/.hidden/..."),
            ("{{path}}", "/Zürich/日本.db", "Zürich/日本.db"),
            ("{{path}}", "/a\nb\u{85}c\u{FFFE}d\u{2028}e\u{a0}", "a%0Ab%C2%85c%EF%BF%BEd%E2%80%A8e%C2%A0"),
            ("v1/{{hostname}}/{{path}}", "/app.db", "v1/web-1/app.db"),
            ("{{project}}/{{tenant}}.x", "/app.db", "p/a%2Fb%5Cc%3A%2A.x"),
            ("{{dot}}", "/app.db", "%2E"),
            ("{{dot}}{{dot}}", "/app.db", "%2E%2E"),
            // A part of a segment is not encoded as if it were one: it could not be read back.
            ("{{dot}}-x/{{tenant}}{{dot}}", "/app.db", ".-x/a%2Fb%5Cc%3A%2A."),
            ("a{{high}}{{low}}", "/app.db", "aé"),
            ("a-~!'()@=,_.b", "/app.db", "a-~!'()@=,_.b"),
        ] {
            let captures: [(&str, &[u8]); 5] =
                [("project", b"p"), ("tenant", b"a/b\\c:*"), ("dot", b"."), ("high", b"\xc3"), ("low", b"\xa9")];
            assert_eq!(render(template, path, &captures).as_deref(), Ok(expected), "{template} {path}");
            assert!(is_made(expected), "{expected} would be taken for somebody else's");
        }
        let odd = Path::new(OsStr::from_bytes(b"/a\xff\xc3.db"));
        assert_eq!(Template::parse("{{path}}").unwrap().render(odd, "", &[]).as_deref(), Ok("a%FF%C3.db"));
    }

    #[test]
    fn the_fixed_head_is_what_all_databases_of_a_host_lie_below() {
        for (template, host, head) in [
            ("{{path}}", "web-1", None),
            ("{{hostname}}/{{path}}", "web-1", Some("web-1")),
            ("{{hostname}}/{{path}}", "a b..", Some("a%20b..")),
            ("{{hostname}}/{{path}}", ".", Some("%2E")),
            ("backups/{{hostname}}/v1/{{path}}", "web-1", Some("backups/web-1/v1")),
            ("backups/{{project}}/{{hostname}}/{{tenant}}", "web-1", Some("backups")),
            ("h-{{hostname}}.d/x{{path}}", "web-1", Some("h-web-1.d")),
            ("h-{{hostname}}{{path}}", "web-1", None),
            ("a/h-{{hostname}}-{{tenant}}/b", "web-1", Some("a")),
            ("a/{{tenant}}", "web-1", Some("a")),
            ("v1-{{tenant}}", "web-1", None),
            ("one/{{hostname}}", "web-1", Some("one/web-1")),
            ("one", "web-1", Some("one")),
            ("a/{{hostname}}/{{path}}", "", Some("a")),
        ] {
            let read = Template::parse(template).unwrap();
            assert_eq!(read.fixed_head(host).as_deref(), head, "{template}");
            let captures: [(&str, &[u8]); 2] = [("project", b"p"), ("tenant", b"t")];
            for path in ["/a/x.db", "/b/x.db"] {
                let prefix = read.render(Path::new(path), host, &captures).unwrap_or_default();
                let head = head.unwrap_or_default();
                let below = prefix.strip_prefix(head).unwrap_or("outside");
                assert!(host.is_empty() || head.is_empty() || below.is_empty() || below.starts_with('/'), "{prefix}");
            }
        }
    }

    #[test]
    fn a_database_without_a_value_has_no_prefix() {
        assert_eq!(render("{{tenant}}", "/a.db", &[]), Err(RenderError::Missing("tenant".into())));
        assert_eq!(render("{{tenant}}", "/a.db", &[("tenant", b"")]), Err(RenderError::Empty("tenant".into())));
        assert_eq!(render("{{path}}", "/", &[]), Err(RenderError::Empty("path".into())));
        assert_eq!(render("{{path}}", "a.db", &[]), Err(RenderError::NotAbsolute));
        assert_eq!(
            RenderError::Missing("tenant".into()).to_string(),
            "the key template wants {{tenant}}, which the pattern that found this database does not capture"
        );
    }

    #[test]
    fn refuses_templates_with_an_example() {
        for (text, reason) in [
            ("", "it is empty"),
            ("/{{path}}", "slash"),
            ("{{path}}/", "slash"),
            ("a//{{path}}", "slash"),
            ("/", "slash"),
            ("./{{path}}", "segment that is . or .."),
            ("a/../{{path}}", "segment that is . or .."),
            ("{{path", "{{ without }}"),
            ("{path}", "two braces"),
            ("{{path}}}", "two braces"),
            ("{{}}", "letters, digits"),
            ("{{a b}}", "letters, digits"),
            ("{{a{{b}}", "letters, digits"),
            ("my backups/{{path}}", "' '"),
            ("a%20b", "'%'"),
            ("a\u{1}b", "'\\u{1}'"),
        ] {
            let Err(Error::Usage(message)) = Template::parse(text) else { panic!("accepted {text:?}") };
            assert!(message.contains(reason), "{text:?}: {message}");
            assert!(message.contains("{{hostname}}/{{path}}"), "{message}");
        }
    }

    #[test]
    fn unknown_names_are_named_and_the_known_listed() {
        let template = Template::parse("{{hostname}}/{{project}}/{{tennant}}").unwrap();
        assert_eq!(template.names().collect::<Vec<_>>(), ["hostname", "project", "tennant"]);
        let Err(Error::Usage(message)) = template.check(&["project", "tenant", "project"]) else { panic!() };
        assert!(message.contains("no pattern captures {{tennant}}"), "{message}");
        assert!(message.contains("known names are hostname, path, project, tenant."), "{message}");
        assert!(template.check(&["project", "tennant"]).is_ok());
        assert!(Template::parse(TEMPLATE_DEFAULT).unwrap().check(&[]).is_ok());
    }

    #[test]
    fn decodes_only_what_it_encodes() {
        for (text, bytes) in
            [("a%20b", b"a b".as_slice()), ("%2E", b"."), ("%2E%2E", b".."), ("...", b"..."), ("", b"")]
        {
            assert_eq!(decode_segment(text).as_deref(), Some(bytes), "{text}");
        }
        for foreign in ["a b", "%2e", "%41", "%", "%2", "%2G", "%+1", ".", "..", "%2E%2Ex", "a/b", "%C3%BC", "\u{1}"] {
            assert_eq!(decode_segment(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn keys_come_apart_as_they_were_put_together() {
        let ts: Timestamp = "20261121T063339.123Z".parse().unwrap();
        for (key, kind) in [
            ("data/app.db/20261121T063339.123Z.db.lz4", KeyKind::Snapshot),
            ("data/app.db/20261121T063339.123Z.deleted", KeyKind::Tombstone),
            ("data/app.db/20261121T063339.123Z.db.lz4.bad", KeyKind::BadMarker),
        ] {
            let parsed = parse_key(key).unwrap();
            assert_eq!(parsed, ParsedKey { prefix: "data/app.db", ts, kind });
            assert_eq!(parsed.key(), key);
        }
    }

    #[test]
    fn foreign_keys_are_left_alone() {
        for key in [
            "",
            "/",
            "20261121T063339.123Z.db.lz4",
            "/20261121T063339.123Z.db.lz4",
            "a//20261121T063339.123Z.db.lz4",
            "a/../20261121T063339.123Z.db.lz4",
            "a/20261121T063339.123Z",
            "a/20261121T063339.123Z.db",
            "a/20261121T063339.123Z.db.lz4.tmp",
            "a/20261121T063339.123Z.db.lz4.bad.bad",
            "a/20261121T063339.123Z.deleted.bad",
            "a/20261121T063339Z.db.lz4",
            "a/20261321T063339.123Z.db.lz4",
            "a/x20261121T063339.123Z.db.lz4",
            "a/20261121T063339.12éZ.db.lz4",
            "a/20261121T063339.123Z.db.lz4/b",
        ] {
            assert_eq!(parse_key(key), None, "{key}");
        }
    }

    #[test]
    fn the_longest_key_fits_exactly() {
        let name = "/20261121T063339.123Z.db.lz4.bad".len();
        assert!(fits("s", &"x".repeat(KEY_LEN_MAX - name - 2)));
        assert!(!fits("s", &"x".repeat(KEY_LEN_MAX - name - 1)));
        assert_eq!(below("", "a/b"), "a/b");
        assert_eq!(below("s/t", "a/b"), "s/t/a/b");
    }

    /// Bytes as file names have them, the awkward ones often.
    fn name() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..12),
            proptest::collection::vec(proptest::sample::select(b"./%2Ee +a\\\xc3\xbc".as_slice()), 0..6),
            any::<String>().prop_map(String::into_bytes),
        ]
    }

    proptest! {
        #[test]
        fn encoding_is_reversible_and_safe(value in name()) {
            let text = encode_segment(&value);
            prop_assert_eq!(decode_segment(&text), Some(value));
            prop_assert!(!text.contains('/') && !is_dots(&text));
            // The store's client takes it as it is, and would not encode it once more.
            let path = object_store::path::Path::parse(&text).unwrap();
            prop_assert_eq!(path.as_ref(), text.as_str());
        }

        #[test]
        fn encoding_is_injective(a in name(), b in name()) {
            prop_assert_eq!(a == b, encode_segment(&a) == encode_segment(&b));
        }

        #[test]
        fn paths_keep_their_differences(a in proptest::collection::vec(name(), 1..4), b in proptest::collection::vec(name(), 1..4)) {
            let split = |names: &[Vec<u8>]| -> Vec<Vec<u8>> {
                names.join(&b'/').split(|b| *b == b'/').filter(|s| !s.is_empty()).map(<[u8]>::to_vec).collect()
            };
            let prefix = |names: &[Vec<u8>]| {
                let path = [b"/".as_slice(), &names.join(&b'/')].concat();
                Template::parse("{{path}}").unwrap().render(Path::new(OsStr::from_bytes(&path)), "", &[])
            };
            let (a_prefix, b_prefix) = (prefix(&a), prefix(&b));
            prop_assert_eq!(split(&a) == split(&b), a_prefix == b_prefix);
            if let Ok(prefix) = a_prefix {
                let key = snapshot_key(&prefix, Timestamp::MIN);
                let parsed = parse_key(&key).unwrap();
                prop_assert_eq!(parsed.prefix, &prefix);
                prop_assert_eq!(parsed.key(), key);
            }
        }

        #[test]
        fn any_text_is_read_without_panic(text in any::<String>(), segment in "[%/.{}a-z0-9]{0,20}") {
            for text in [text.as_str(), segment.as_str()] {
                if let Ok(template) = Template::parse(text) {
                    prop_assert_eq!(template.as_str(), text);
                }
                if let Some(parsed) = parse_key(text) {
                    prop_assert_eq!(parsed.key(), text);
                }
                if let Some(bytes) = decode_segment(text) {
                    prop_assert_eq!(encode_segment(&bytes), text);
                }
            }
        }
    }
}
