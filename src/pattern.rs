//! Patterns: which paths are databases, and what the parts of such a path are called.
//!
//! Owns the syntax and the matching, both pure: no I/O, and no bytes make it panic. Paths on Linux are
//! bytes, so matching is by bytes; where they are UTF-8, `?` and a class take a whole character.
//!
//! | written | matches |
//! |---|---|
//! | `*` | any bytes within one name, also none; also names with a leading dot, for a database missed is data lost |
//! | `?` | one character |
//! | `[abc]`, `[a-z]`, `[!x]` | one character of these, of this range, not of these |
//! | `{name}` | as `*`, and the value is captured under `name` |
//! | `**` | as a whole segment: any number of folders, also none |
//! | `\x` | `x` itself, whatever it is |

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// One glob over absolute paths: a literal root, and the segments below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    /// Every segment of the absolute path. The last one is never [`Segment::Recursive`].
    segments: Vec<Segment>,
    /// How many leading segments are literal and make up the root; fewer than all.
    root_len: usize,
    root: PathBuf,
    names: Vec<String>,
    magic_only: bool,
    /// Names that no part of the path stands for.
    constants: Vec<(String, String)>,
}

/// What one name of a path must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    /// Exactly this name.
    Literal(Vec<u8>),
    /// A name that these tokens match.
    Wild(Vec<Token>),
    /// `**`: any number of folders.
    Recursive,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    Literal(Vec<u8>),
    AnyChar,
    /// Any bytes; the index of the name under which they are captured. No two stand side by side.
    Star(Option<usize>),
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Pattern {
    /// Reads a pattern. A relative one starts at `cwd`, which must be absolute; `.`, `..` and doubled
    /// slashes are resolved by text alone. A trailing `**` means `**/*`.
    ///
    /// # Errors
    /// [`Error::Usage`] with the offending part and a correct example.
    pub fn parse(text: &OsStr, cwd: &Path) -> Result<Self, Error> {
        let parsed = Self::parse_lenient(text, cwd)?;
        if text.as_bytes().ends_with(b"/") {
            return Err(usage(
                text,
                "it ends in `/` and so names folders; say which files below, such as /data/**/*.db",
            ));
        }
        Ok(parsed)
    }

    /// Reads a pattern as [`parse`](Self::parse) does, but one without any wildcard that ends in `/`, or for
    /// whose path `is_dir` holds, becomes a [`directory`](Self::directory).
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_or_directory(text: &OsStr, cwd: &Path, is_dir: impl Fn(&Path) -> bool) -> Result<Self, Error> {
        if text.as_bytes().iter().all(|&b| b == b'/') && !text.is_empty() {
            return Ok(Self::directory(Path::new("/")));
        }
        let lenient = Self::parse_lenient(text, cwd)?;
        // With a slash at its end it is meant as a folder even while it is absent, as a volume not mounted is.
        let named_as_folder = text.as_bytes().ends_with(b"/");
        match lenient.literal_path() {
            Some(path) if named_as_folder || is_dir(&path) => Ok(Self { text: lenient.text, ..Self::directory(&path) }),
            _ => Self::parse(text, cwd),
        }
    }

    /// Every SQLite database below the absolute folder `path`, told by its content and not by its name.
    /// No byte of `path` is special.
    #[must_use]
    pub fn directory(path: &Path) -> Self {
        let mut segments = Vec::new();
        for name in path.as_os_str().as_bytes().split(|&b| b == b'/') {
            push_literal(&mut segments, name.to_vec());
        }
        segments.push(Segment::Recursive);
        segments.push(Segment::Wild(vec![Token::Star(None)]));
        Self { magic_only: true, ..Self::build(path.as_os_str(), segments, Vec::new()) }
    }

    /// The pattern as it was written, for messages.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The folder below which everything lies that can match: the leading segments without wildcards.
    /// Of a pattern without any wildcard, the folder of that one file.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether a file that matches is a database only if its first bytes say so.
    #[must_use]
    pub fn magic_only(&self) -> bool {
        self.magic_only
    }

    /// The same pattern with names that stand for the same in every path that matches. Only `replica` may hold slashes.
    ///
    /// # Errors
    /// [`Error::Usage`] if a name is none, is given already, or a value could be no part of a key.
    pub fn with_constants(mut self, constants: &[(String, String)]) -> Result<Self, Error> {
        for (name, value) in constants {
            let wrong = |what: &str| usage(OsStr::new(&self.text), what);
            parse_name(format!("{name}}}").as_bytes()).map_err(|what| wrong(&what))?;
            if ["path", "hostname"].contains(&name.as_str()) || self.capture_names().contains(&name.as_str()) {
                return Err(wrong(&format!("the name {{{name}}} stands for something already; take another")));
            }
            let is_part = |part: &str| !part.is_empty() && !matches!(part, "." | "..");
            if !value.split('/').all(is_part) || (value.contains('/') && name != crate::layout::REPLICA) {
                return Err(wrong(&format!("{name} is no part of a key; write a name without slashes, such as prod")));
            }
            self.constants.push((name.clone(), value.clone()));
        }
        Ok(self)
    }

    /// The names given to it, and what they stand for in every path.
    #[must_use]
    pub fn constants(&self) -> &[(String, String)] {
        &self.constants
    }

    /// Whether it is certain that every path which `other` matches matches this one, too. Tells what stands in the text, and
    /// goes no further: two classes of characters are alike only if they are written alike.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        // Nobody writes such patterns, and the work is their product.
        const WORK_MAX: usize = 1 << 20;
        let (ours, theirs) = (&self.segments, &other.segments);
        if ours.len().saturating_mul(theirs.len()) > WORK_MAX {
            return false;
        }
        // Whether our segments from one on cover theirs from another on; from the last to the first.
        let is_end = |segments: &[Segment]| segments.iter().all(|s| *s == Segment::Recursive);
        let mut after: Vec<bool> = vec![false; theirs.len()];
        after.push(true);
        for (at, segment) in ours.iter().enumerate().rev() {
            let mut row = vec![false; theirs.len() + 1];
            row[theirs.len()] = is_end(&ours[at..]);
            for (index, their) in theirs.iter().enumerate().rev() {
                row[index] = match (segment, their) {
                    (Segment::Recursive, _) => after[index] || row[index + 1],
                    (_, Segment::Recursive) => false,
                    (segment, their) => segment.covers(their) && after[index + 1],
                };
            }
            after = row;
        }
        after[0]
    }

    /// The names that [`captures`](Self::captures) gives, in its order: that of the path, then the constant ones.
    #[must_use]
    pub fn capture_names(&self) -> Vec<&str> {
        self.names.iter().chain(self.constants.iter().map(|(name, _)| name)).map(String::as_str).collect()
    }

    /// Whether the absolute path `path` as a whole matches; if so, what each name stands for.
    ///
    /// Besides `{name}`, a segment with a single `*` gets a name from its neighbours: after `projects`
    /// project, after `databases`, `dbs`, `db` or `data` database, after `branches` branch, after
    /// `tenants` tenant, and before `databases` project. Each name is given once: written ones first,
    /// then by the folder before (a plain `db` says little and `data` least, and they come last), leftmost first.
    /// Of several wildcards in one name all but the last take as little as they can.
    #[must_use]
    pub fn captures<'a>(&'a self, path: &'a Path) -> Option<Vec<(&'a str, &'a [u8])>> {
        let bytes = path.as_os_str().as_bytes();
        if bytes.first() != Some(&b'/') {
            return None;
        }
        let mut spans = vec![0..0; self.segments.len()];
        if !match_segments(&self.segments, bytes, |segment, span| spans[segment] = span) {
            return None;
        }
        let mut values: Vec<&[u8]> = vec![&[]; self.names.len()];
        for (segment, span) in self.segments.iter().zip(spans) {
            let Segment::Wild(tokens) = segment else { continue };
            let name = &bytes[span];
            match_tokens(tokens, name, |token, span| {
                if let Token::Star(Some(index)) = tokens[token] {
                    values[index] = &name[span];
                }
            });
        }
        let constants = self.constants.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        Some(self.names.iter().map(String::as_str).zip(values).chain(constants).collect())
    }

    /// The segments below the root; at least one.
    pub(crate) fn tail(&self) -> &[Segment] {
        &self.segments[self.root_len..]
    }

    /// Whether `rest`, a path relative to the root, matches below it.
    pub(crate) fn matches_below_root(&self, rest: &Path) -> bool {
        match_segments(self.tail(), rest.as_os_str().as_bytes(), |_, _| {})
    }

    fn parse_lenient(text: &OsStr, cwd: &Path) -> Result<Self, Error> {
        let mut names = Vec::new();
        let mut segments = parse_segments(text, cwd, &mut names)?;
        match segments.last() {
            None => return Err(usage(text, "it names no file; give one, or a pattern such as /data/**/*.db")),
            Some(Segment::Recursive) => segments.push(Segment::Wild(vec![Token::Star(None)])),
            Some(_) => {}
        }
        give_classic_names(&mut segments, &mut names);
        Ok(Self::build(text, segments, names))
    }

    fn build(text: &OsStr, segments: Vec<Segment>, names: Vec<String>) -> Self {
        let literal = segments.iter().take_while(|s| matches!(s, Segment::Literal(_))).count();
        let root_len = literal.min(segments.len().saturating_sub(1));
        let root = literal_path(&segments[..root_len]);
        let text = text.to_string_lossy().into_owned();
        Self { text, segments, root_len, root, names, magic_only: false, constants: Vec::new() }
    }

    /// The whole path, of a pattern without any wildcard.
    pub(crate) fn literal_path(&self) -> Option<PathBuf> {
        let all = self.segments.iter().all(|s| matches!(s, Segment::Literal(_)));
        all.then(|| literal_path(&self.segments))
    }
}

/// Files and folders that no pattern finds. A folder excluded is not entered.
///
/// A glob without `/` matches the name of any file or folder; one with `/` the whole path, from `cwd` if
/// relative, anywhere if it begins with `**/`. A trailing `/` is ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Excludes {
    names: Vec<Segment>,
    paths: Vec<Vec<Segment>>,
}

impl Excludes {
    /// Reads the globs; `cwd` must be absolute.
    ///
    /// # Errors
    /// [`Error::Usage`] as for [`Pattern::parse`].
    pub fn parse(globs: &[String], cwd: &Path) -> Result<Self, Error> {
        let mut excludes = Self::default();
        for glob in globs {
            let trimmed = glob.trim_end_matches('/');
            let base = if trimmed.starts_with("**/") { Path::new("/") } else { cwd };
            let mut segments = parse_segments(OsStr::new(trimmed), base, &mut Vec::new())?;
            if !segments.iter().any(|s| !matches!(s, Segment::Recursive)) {
                let what = "it would exclude everything; name what to leave out, such as cache or /data/tmp/**";
                return Err(usage(OsStr::new(glob), what));
            }
            if trimmed.contains('/') {
                excludes.paths.push(segments);
            } else if let Some(name) = segments.pop() {
                excludes.names.push(name);
            }
        }
        Ok(excludes)
    }

    /// Whether there is nothing to exclude.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.paths.is_empty()
    }

    /// Whether the file at the absolute path `path`, or a folder on the way to it below `root`, is excluded.
    #[must_use]
    pub fn cover(&self, path: &Path, root: &Path) -> bool {
        let below = path.ancestors().take_while(|p| *p != root);
        !self.is_empty() && below.into_iter().any(|p| self.is_excluded(p, p.file_name().unwrap_or_default().as_bytes()))
    }

    /// Whether the entry at the absolute path `path`, whose last segment is `name`, is itself excluded.
    /// Says nothing about the folders above it.
    #[must_use]
    pub fn is_excluded(&self, path: &Path, name: &[u8]) -> bool {
        self.names.iter().any(|s| s.matches(name))
            || self.paths.iter().any(|p| match_segments(p, path.as_os_str().as_bytes(), |_, _| {}))
    }
}

impl Segment {
    /// Whether one name matches.
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Literal(literal) => literal == name,
            Self::Wild(tokens) => match_tokens(tokens, name, |_, _| {}),
            Self::Recursive => true,
        }
    }

    /// Whether it is certain that every name which `other` matches matches this, too.
    fn covers(&self, other: &Self) -> bool {
        let Self::Wild(ours) = self else { return self == other };
        let theirs = match other {
            Self::Literal(name) => return self.matches(name),
            Self::Recursive => return false,
            Self::Wild(theirs) => theirs,
        };
        let (before, behind): (&[u8], &[u8]) = match ours.as_slice() {
            [Token::Star(_)] => return true,
            [Token::Star(_), Token::Literal(end)] => (&[], end),
            [Token::Literal(start), Token::Star(_)] => (start, &[]),
            [Token::Literal(start), Token::Star(_), Token::Literal(end)] => (start, end),
            _ => return ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| a.is_like(b)),
        };
        // Their first and last token are two where both are literal: something stands between.
        let starts = |t: &Token| matches!(t, Token::Literal(start) if start.starts_with(before));
        let ends = |t: &Token| matches!(t, Token::Literal(end) if end.ends_with(behind));
        (before.is_empty() || theirs.first().is_some_and(starts))
            && (behind.is_empty() || theirs.last().is_some_and(ends))
    }

    /// The star of a segment that has exactly one, if it is not named yet.
    fn lone_unnamed_star(&mut self) -> Option<&mut Option<usize>> {
        let Self::Wild(tokens) = self else { return None };
        let mut stars = tokens.iter_mut().filter_map(|t| if let Token::Star(name) = t { Some(name) } else { None });
        match (stars.next(), stars.next()) {
            (Some(star), None) if star.is_none() => Some(star),
            _ => None,
        }
    }
}

impl Token {
    /// Whether both match the same, whatever a star is called.
    fn is_like(&self, other: &Self) -> bool {
        self == other || matches!((self, other), (Self::Star(_), Self::Star(_)))
    }

    /// How many bytes of `name` from `at` on this token takes; `None` if it does not match there.
    fn takes(&self, name: &[u8], at: usize) -> Option<usize> {
        let rest = name.get(at..).filter(|rest| !rest.is_empty())?;
        match self {
            Self::Literal(literal) => rest.starts_with(literal).then_some(literal.len()),
            Self::AnyChar => Some(char_at(rest).1),
            Self::Class { negated, ranges } => {
                let (char, length) = char_at(rest);
                let inside = char.is_some_and(|c| ranges.iter().any(|&(from, to)| from <= c && c <= to));
                (inside != *negated).then_some(length)
            }
            Self::Star(_) => None,
        }
    }
}

/// The character that `bytes`, which must not be empty, begin with, and its length; one byte and no
/// character where they are not UTF-8.
fn char_at(bytes: &[u8]) -> (Option<char>, usize) {
    let length = match bytes[0] {
        ascii @ 0..0x80 => return (Some(char::from(ascii)), 1),
        0xc2..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0..0xf5 => 4,
        _ => return (None, 1),
    };
    let char = bytes.get(..length).and_then(|b| std::str::from_utf8(b).ok()).and_then(|s| s.chars().next());
    (char, if char.is_some() { length } else { 1 })
}

/// Whether `tokens` match all of `name`. `record` gets the token index and span of each star; only what it
/// got last for a token holds, and only if the answer is true.
///
/// One backtrack point suffices: what a later star can reach by letting an earlier one take more, it can
/// reach by taking more itself.
fn match_tokens(tokens: &[Token], name: &[u8], mut record: impl FnMut(usize, Range<usize>)) -> bool {
    let (mut token, mut at) = (0, 0);
    // The last star met: its token, where it began, and where it ends at present.
    let mut star: Option<(usize, usize, usize)> = None;
    loop {
        let current = tokens.get(token);
        if matches!(current, Some(Token::Star(_))) || (current.is_none() && at == name.len()) {
            // The star before this point has its final length.
            if let Some((token, from, to)) = star {
                record(token, from..to);
            }
        }
        match current {
            None if at == name.len() => return true,
            Some(Token::Star(_)) => {
                // `*` and `*.db`, which nearly all patterns end in, need no search.
                let suffix: &[u8] = match &tokens[token + 1..] {
                    [] => &[],
                    [Token::Literal(literal)] => literal,
                    _ => {
                        star = Some((token, at, at));
                        token += 1;
                        continue;
                    }
                };
                record(token, at..name.len().saturating_sub(suffix.len()).max(at));
                return name[at..].ends_with(suffix);
            }
            Some(other) => {
                if let Some(length) = other.takes(name, at) {
                    token += 1;
                    at += length;
                    continue;
                }
            }
            None => {}
        }
        let Some((star_token, _, to)) = &mut star else { return false };
        if *to >= name.len() {
            return false;
        }
        *to += char_at(&name[*to..]).1;
        (token, at) = (*star_token + 1, *to);
    }
}

/// Whether `segments` match all names of `path`, as [`match_tokens`] does one level below: `**` is the
/// star here. `record` gets the index and span of each other segment.
fn match_segments(segments: &[Segment], path: &[u8], mut record: impl FnMut(usize, Range<usize>)) -> bool {
    let (mut segment, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        match (segments.get(segment), next_name(path, at)) {
            (None, None) => return true,
            (Some(Segment::Recursive), _) => {
                segment += 1;
                star = Some((segment, at));
                continue;
            }
            (Some(other), Some(name)) if other.matches(&path[name.clone()]) => {
                at = name.end;
                record(segment, name);
                segment += 1;
                continue;
            }
            _ => {}
        }
        let Some((resume, to)) = &mut star else { return false };
        let Some(name) = next_name(path, *to) else { return false };
        *to = name.end;
        (segment, at) = (*resume, name.end);
    }
}

/// Where the first name of `path` at or after `at` lies.
fn next_name(path: &[u8], at: usize) -> Option<Range<usize>> {
    let from = at + path.get(at..)?.iter().position(|&b| b != b'/')?;
    let length = path[from..].iter().position(|&b| b == b'/').unwrap_or(path.len() - from);
    Some(from..from + length)
}

fn literal_path(segments: &[Segment]) -> PathBuf {
    let mut path = vec![b'/'];
    for segment in segments {
        let Segment::Literal(name) = segment else { continue };
        if path.len() > 1 {
            path.push(b'/');
        }
        path.extend_from_slice(name);
    }
    PathBuf::from(OsString::from_vec(path))
}

/// Appends a literal name; resolves the empty one, `.` and `..`. Returns false if `..` meets a wildcard.
fn push_literal(segments: &mut Vec<Segment>, name: Vec<u8>) -> bool {
    match name.as_slice() {
        b"" | b"." => {}
        b".." => match segments.last() {
            Some(Segment::Literal(_)) => drop(segments.pop()),
            Some(_) => return false,
            None => {}
        },
        _ => segments.push(Segment::Literal(name)),
    }
    true
}

fn parse_segments(text: &OsStr, cwd: &Path, names: &mut Vec<String>) -> Result<Vec<Segment>, Error> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Err(usage(text, "it is empty; give a file, a folder or a pattern such as /data/**/*.db"));
    }
    if bytes.contains(&0) {
        return Err(usage(text, "it contains a NUL byte, which no path can; give one such as /data/**/*.db"));
    }
    let mut segments = Vec::new();
    if bytes[0] != b'/' {
        for name in cwd.as_os_str().as_bytes().split(|&b| b == b'/') {
            push_literal(&mut segments, name.to_vec());
        }
    }
    for part in bytes.split(|&b| b == b'/') {
        match parse_segment(part, names).map_err(|what| usage(text, &what))? {
            Segment::Literal(name) => {
                if !push_literal(&mut segments, name) {
                    return Err(usage(text, "`..` follows a wildcard; write the path without it, such as /data/*.db"));
                }
            }
            Segment::Recursive if segments.last() == Some(&Segment::Recursive) => {}
            other => segments.push(other),
        }
    }
    Ok(segments)
}

/// Reads one segment; the error says what is wrong and what would be right.
fn parse_segment(part: &[u8], names: &mut Vec<String>) -> Result<Segment, String> {
    if part == b"**" {
        return Ok(Segment::Recursive);
    }
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&byte) = part.get(at) {
        at += 1;
        match byte {
            b'\\' => {
                let &escaped = part.get(at).ok_or("`\\` has nothing after it to escape; write \\\\ for a backslash")?;
                push_byte(&mut tokens, escaped);
                at += 1;
            }
            b'*' if part.get(at) == Some(&b'*') => {
                let part = String::from_utf8_lossy(part);
                return Err(format!("`**` must be a whole segment, not part of `{part}`, such as /data/**/*.db"));
            }
            b'*' => push_star(&mut tokens, None)?,
            b'?' => tokens.push(Token::AnyChar),
            b'[' => {
                let (class, length) = parse_class(&part[at..])?;
                tokens.push(class);
                at += length;
            }
            b'{' => {
                let (name, length) = parse_name(&part[at..])?;
                if names.contains(&name) {
                    return Err(format!(
                        "the name {{{name}}} is given twice; name each part once, such as /data/{{project}}/{{tenant}}.db"
                    ));
                }
                names.push(name);
                push_star(&mut tokens, Some(names.len() - 1))?;
                at += length;
            }
            b'}' => return Err("`}` has no `{` before it; write {tenant}.db, or \\} for the character itself".into()),
            other => push_byte(&mut tokens, other),
        }
    }
    Ok(match tokens.as_mut_slice() {
        [] => Segment::Literal(Vec::new()),
        [Token::Literal(literal)] => Segment::Literal(std::mem::take(literal)),
        _ => Segment::Wild(tokens),
    })
}

fn push_byte(tokens: &mut Vec<Token>, byte: u8) {
    if let Some(Token::Literal(literal)) = tokens.last_mut() {
        literal.push(byte);
    } else {
        tokens.push(Token::Literal(vec![byte]));
    }
}

/// Side by side, the first of two stars would always be empty: surely not what was meant.
fn push_star(tokens: &mut Vec<Token>, name: Option<usize>) -> Result<(), String> {
    if matches!(tokens.last(), Some(Token::Star(_))) {
        return Err(
            "two wildcards stand side by side; put something between them, such as {project}-{tenant}.db".into()
        );
    }
    tokens.push(Token::Star(name));
    Ok(())
}

/// Reads `name}`; returns the name and how many bytes it took.
fn parse_name(rest: &[u8]) -> Result<(String, usize), String> {
    let Some(end) = rest.iter().position(|&b| b == b'}') else {
        return Err("`{` is not closed; write {tenant}.db, or \\{ for the character itself".into());
    };
    let name = String::from_utf8_lossy(&rest[..end]).into_owned();
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    if !first || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        return Err(format!("{{{name}}} is not a name; use lower-case letters, digits and `_`, such as {{tenant}}"));
    }
    Ok((name, end + 1))
}

/// Reads what follows `[`, up to and including `]`; returns the class and how many bytes it took. A `]`
/// that comes first, or first after `!`, is a member.
fn parse_class(rest: &[u8]) -> Result<(Token, usize), String> {
    let unclosed = || "`[` is not closed; write [a-z]*.db, or \\[ for the character itself".to_string();
    let negated = rest.first() == Some(&b'!');
    let start = usize::from(negated);
    let mut at = start;
    let mut ranges = Vec::new();
    loop {
        match rest.get(at) {
            None => return Err(unclosed()),
            Some(b']') if at > start => return Ok((Token::Class { negated, ranges }, at + 1)),
            Some(_) => {}
        }
        let (from, length) = class_char(&rest[at..]).ok_or_else(unclosed)?;
        at += length;
        let mut to = from;
        if rest.get(at) == Some(&b'-') && rest.get(at + 1).is_some_and(|&b| b != b']') {
            let (end, length) = class_char(&rest[at + 1..]).ok_or_else(unclosed)?;
            (to, at) = (end, at + 1 + length);
        }
        if from > to {
            return Err(format!("the range `{from}-{to}` holds nothing; write [{to}-{from}]"));
        }
        ranges.push((from, to));
    }
}

fn class_char(rest: &[u8]) -> Option<(char, usize)> {
    let escape = usize::from(rest.first() == Some(&b'\\'));
    let rest = rest.get(escape..).filter(|rest| !rest.is_empty())?;
    let (char, length) = char_at(rest);
    Some((char?, escape + length))
}

/// A name for the star in a segment, from the folders before and after it.
type NameRule = fn(Option<&[u8]>, Option<&[u8]>) -> Option<&'static str>;

/// In order of strength.
const NAME_RULES: [NameRule; 4] = [
    |before, _| match before? {
        b"projects" => Some("project"),
        b"databases" | b"dbs" => Some("database"),
        b"branches" => Some("branch"),
        b"tenants" => Some("tenant"),
        _ => None,
    },
    |_, after| (after? == b"databases").then_some("project"),
    |before, _| (before? == b"db").then_some("database"),
    |before, _| (before? == b"data").then_some("database"),
];

/// Names stars by their neighbours; the rule stands at [`Pattern::captures`].
fn give_classic_names(segments: &mut [Segment], names: &mut Vec<String>) {
    let written = names.len();
    for rule in NAME_RULES {
        for at in 0..segments.len() {
            let previous = at.checked_sub(1).and_then(|at| segments.get(at));
            let Some(name) = rule(literal(previous), literal(segments.get(at + 1))) else { continue };
            if names.iter().any(|n| n == name) {
                continue;
            }
            if let Some(star) = segments[at].lone_unnamed_star() {
                *star = Some(names.len());
                names.push(name.to_string());
            }
        }
    }
    if names.len() > written {
        number_by_place(segments, names);
    }
}

/// Brings the names into the order in which they stand in the path.
fn number_by_place(segments: &mut [Segment], names: &mut Vec<String>) {
    let mut ordered = Vec::with_capacity(names.len());
    let tokens = segments.iter_mut().filter_map(|s| if let Segment::Wild(tokens) = s { Some(tokens) } else { None });
    for token in tokens.flatten() {
        if let Token::Star(Some(index)) = token {
            ordered.push(std::mem::take(&mut names[*index]));
            *index = ordered.len() - 1;
        }
    }
    *names = ordered;
}

fn literal(segment: Option<&Segment>) -> Option<&[u8]> {
    if let Some(Segment::Literal(name)) = segment { Some(name) } else { None }
}

/// One line, whatever the pattern holds.
fn usage(text: &OsStr, what: &str) -> Error {
    let line = format!("pattern `{}`: {what}", text.to_string_lossy());
    Error::Usage(line.replace(char::is_control, "\u{fffd}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Pattern {
        Pattern::parse(OsStr::new(text), Path::new("/cwd")).expect("a valid pattern")
    }

    fn captures<'a>(pattern: &'a Pattern, path: &'a str) -> Option<Vec<(&'a str, &'a str)>> {
        let values = pattern.captures(Path::new(path))?;
        Some(values.into_iter().map(|(name, value)| (name, std::str::from_utf8(value).expect("UTF-8"))).collect())
    }

    #[test]
    fn matches_by_table() {
        for (pattern, path, expected) in [
            ("/data/*.db", "/data/a.db", true),
            ("/data/*.db", "/data/.db", true),
            ("/data/*.db", "/data/.hidden.db", true),
            ("/data/*.db", "/data/x/a.db", false),
            ("/data/*.db", "/data/a.db-wal", false),
            ("/data/*.db", "data/a.db", false),
            ("/data/**/*.db", "/data/a.db", true),
            ("/data/**/*.db", "/data/x/y/z/a.db", true),
            ("/data/**/**/*.db", "/data/a.db", true),
            ("/data/**/x/**/a.db", "/data/x/y/x/a.db", true),
            ("/data/**/x/*.db", "/data/x/y/a.db", false),
            ("/data/**", "/data/x/y", true),
            ("/data/**", "/data", false),
            ("/**/*.db", "/a.db", true),
            ("/d/a?c", "/d/abc", true),
            ("/d/a?c", "/d/a\u{e9}c", true),
            ("/d/a??c", "/d/a\u{e9}c", false),
            ("/d/*??", "/d/\u{20ac}", false),
            ("/d/a[bc]d", "/d/acd", true),
            ("/d/a[a-c]d", "/d/add", false),
            ("/d/a[!x]d", "/d/a\u{e9}d", true),
            ("/d/a[!x]d", "/d/axd", false),
            ("/d/[]]", "/d/]", true),
            ("/d/[!]]", "/d/]", false),
            ("/d/[a-]", "/d/-", true),
            ("/d/[\\]]", "/d/]", true),
            ("/d/[{]", "/d/{", true),
            ("/d/\\*", "/d/*", true),
            ("/d/\\*", "/d/x", false),
            ("/d/a*b*c*d.db", "/d/abcbcxbcd.db", true),
            ("/d/a*b*c*d.db", "/d/abcbcxbc.db", false),
            ("rel/./x//../*.db", "/cwd/rel/a.db", true),
            ("../*.db", "/a.db", true),
            ("/../../d/a.db", "/d/a.db", true),
        ] {
            let matched = parse(pattern).captures(Path::new(path)).is_some();
            assert_eq!(matched, expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn names_need_not_be_utf8() {
        let pattern = Pattern::parse(OsStr::from_bytes(b"/d/\xff?{x}[!a].db"), Path::new("/")).expect("valid");
        let path = Path::new(OsStr::from_bytes(b"/d/\xff\xfe\xc3\xa9\x80.db"));
        assert_eq!(pattern.captures(path), Some(vec![("x", "\u{e9}".as_bytes())]));
    }

    #[test]
    fn captures_by_table() {
        let classic = "/data/*/databases/*/branches/*/tenants/*.db";
        for (pattern, path, expected) in [
            (
                classic,
                "/data/p1/databases/main/branches/dev/tenants/t.7.db",
                vec![("project", "p1"), ("database", "main"), ("branch", "dev"), ("tenant", "t.7")],
            ),
            (
                "/data/tenants/*/databases/*.db",
                "/data/tenants/t/databases/d.db",
                vec![("tenant", "t"), ("database", "d")],
            ),
            ("/x/projects/*/*.db", "/x/projects/p/d.db", vec![("project", "p")]),
            ("/srv/*/dbs/*.sqlite", "/srv/a/dbs/b.sqlite", vec![("database", "b")]),
            ("/data/*.db", "/data/a.db", vec![("database", "a")]),
            ("/data/*/dbs/*.db", "/data/a/dbs/b.db", vec![("database", "b")]),
            ("/data/*/x/{database}.db", "/data/a/x/b.db", vec![("database", "b")]),
            ("/data/*/db/*.sqlite", "/data/a/db/b.sqlite", vec![("database", "b")]),
            ("/a/databases/*/databases/*.db", "/a/databases/x/databases/y.db", vec![("database", "x")]),
            ("/a/tenants/*-*.db", "/a/tenants/x-y.db", vec![]),
            ("/a/tenants/x?*.db", "/a/tenants/xyz.db", vec![("tenant", "z")]),
            ("/a/tenants/**/*.db", "/a/tenants/x/y.db", vec![]),
            ("/a/{x}-{y}.db", "/a/1-2-3.db", vec![("x", "1"), ("y", "2-3")]),
            ("/a/{x}-?{y}z.db", "/a/1--2z-3z.db", vec![("x", "1"), ("y", "2z-3")]),
            ("/a/**/{x}/b/{y}.db", "/a/b/b/c/b/d.db", vec![("x", "c"), ("y", "d")]),
            ("/a/**/{y}.db", "/a/d.db", vec![("y", "d")]),
            (
                "/a/tenants/*/{b}/projects/*",
                "/a/tenants/1/2/projects/3",
                vec![("tenant", "1"), ("b", "2"), ("project", "3")],
            ),
        ] {
            let pattern = parse(pattern);
            assert_eq!(captures(&pattern, path), Some(expected.clone()), "{}", pattern.text());
            assert_eq!(pattern.capture_names(), expected.iter().map(|&(n, _)| n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn covers_by_table() {
        for (ours, theirs, expected) in [
            ("/data/*.db", "/data/*.db", true),
            ("/data/{a}.db", "/data/*.db", true),
            ("/data//./*.db", "/data/*.db", true),
            ("/data/*", "/data/*.db", true),
            ("/data/*.db", "/data/*", false),
            ("/data/*.db", "/data/a*.db", true),
            ("/data/a*.db", "/data/*.db", false),
            ("/data/*.db", "/data/a.db", true),
            ("/data/*.db", "/data/a.sqlite", false),
            ("/data/*", "/data/x/*", false),
            ("/data/**/*.db", "/data/*.db", true),
            ("/data/**/*.db", "/data/x/y/*.db", true),
            ("/data/**/*.db", "/data/x/**/*.db", true),
            ("/data/**/*.db", "/data/**/*.sqlite", false),
            ("/data/x/**/*.db", "/data/**/*.db", false),
            ("/data/**", "/data/a.db", true),
            ("/data/**", "/data", false),
            ("/data/*/x/*.db", "/data/y/x/*.db", true),
            ("/data/y/x/*.db", "/data/*/x/*.db", false),
            ("/data/[ab].db", "/data/[ab].db", true),
            ("/data/[ab].db", "/data/[a].db", false),
            ("/data/ab*ba", "/data/ab*aba", true),
            ("/data/ab*ba", "/data/aba", false),
            ("/**", "/data/**", true),
        ] {
            assert_eq!(parse(ours).covers(&parse(theirs)), expected, "{ours} over {theirs}");
        }
        let folder = Pattern::directory(Path::new("/data"));
        assert!(folder.covers(&parse("/data/x/*.db")) && folder.covers(&Pattern::directory(Path::new("/data/x"))));
        assert!(!folder.covers(&parse("/date/*.db")) && !parse("/data/**/*.db").covers(&folder));
    }

    #[test]
    fn constants_are_captured_from_every_path() {
        let given = |constants: &[(&str, &str)]| {
            let constants: Vec<_> = constants.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            parse("/data/{tenant}.db").with_constants(&constants)
        };
        let pattern = given(&[("env", "prod"), ("replica", "a/litesnap")]).expect("valid");
        assert_eq!(pattern.capture_names(), ["tenant", "env", "replica"]);
        let expected = vec![("tenant", "t"), ("env", "prod"), ("replica", "a/litesnap")];
        assert_eq!(captures(&pattern, "/data/t.db"), Some(expected));
        for (constants, part) in [
            ([("tenant", "x")], "{tenant} stands for something already"),
            ([("path", "x")], "{path} stands for something"),
            ([("Env", "x")], "{Env} is not a name"),
            ([("env", "")], "no part of a key"),
            ([("env", "a/b")], "no part of a key"),
            ([("replica", "a//b")], "no part of a key"),
            ([("replica", "../b")], "no part of a key"),
        ] {
            let message = given(&constants).expect_err("refused").to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn root_is_the_literal_part() {
        for (pattern, root, tail) in [
            ("/data/*/x.db", "/data", 2),
            ("/data/a.db", "/data", 1),
            ("/*", "/", 1),
            ("/**", "/", 2),
            ("a\\*/b/[c]", "/cwd/a*/b", 1),
        ] {
            let pattern = parse(pattern);
            assert_eq!((pattern.root(), pattern.tail().len()), (Path::new(root), tail), "{}", pattern.text());
        }
    }

    #[test]
    fn folders_become_directory_patterns() {
        let choose = |text: &str| {
            Pattern::parse_or_directory(OsStr::new(text), Path::new("/cwd"), |p| p == Path::new("/data/[x]"))
        };
        let directory = choose("/data/\\[x]").expect("valid");
        assert!(directory.magic_only());
        assert_eq!((directory.root(), directory.text()), (Path::new("/data/[x]"), "/data/\\[x]"));
        assert!(directory.captures(Path::new("/data/[x]/a/b")).is_some());
        assert!(directory.captures(Path::new("/data/[x]")).is_none());
        assert!(choose("/absent/").expect("valid").magic_only());
        assert!(choose("/").expect("valid").magic_only());
        assert!(!choose("/absent").expect("valid").magic_only());
        assert!(!choose("/data/*").expect("valid").magic_only());
        assert!(choose("/data/*/").is_err());
        assert_eq!(Pattern::directory(Path::new("/")).root(), Path::new("/"));
    }

    #[test]
    fn refusals_name_the_part_and_an_example() {
        for (pattern, part) in [
            ("", "empty"),
            ("/", "names no file"),
            ("/data/", "ends in `/`"),
            ("/d/a**", "part of `a**`"),
            ("/d/***", "part of `***`"),
            ("/d/{a", "not closed"),
            ("/d/a}", "no `{`"),
            ("/d/{}", "{} is not a name"),
            ("/d/{A}", "{A} is not a name"),
            ("/d/{1a}", "{1a} is not a name"),
            ("/d/{a}/{a}", "{a} is given twice"),
            ("/d/{a}{b}", "side by side"),
            ("/d/{a}*", "side by side"),
            ("/d/[a", "not closed"),
            ("/d/[]", "not closed"),
            ("/d/[!]", "not closed"),
            ("/d/[a/b]", "not closed"),
            ("/d/[z-a]", "`z-a` holds nothing"),
            ("/d/a\\", "nothing after it"),
            ("/d/*/../x", "`..` follows a wildcard"),
            ("/d/\n{", "not closed"),
            ("/d/\0", "NUL"),
        ] {
            let error = Pattern::parse(OsStr::new(pattern), Path::new("/cwd")).expect_err(pattern).to_string();
            assert!(error.contains(part), "{error}");
            assert!(!error.contains(char::is_control), "{error}");
        }
    }

    #[test]
    fn excludes_by_table() {
        let globs = ["cache", "*.tmp", "/data/old/**", "rel/*.db", "**/x/y", "folder/"].map(String::from);
        let excludes = Excludes::parse(&globs, Path::new("/cwd")).expect("valid");
        for (path, expected) in [
            ("/a/cache", true),
            ("/a/cache/b", false),
            ("/a/b.tmp", true),
            ("/data/old", true),
            ("/data/old/a/b", true),
            ("/data/older", false),
            ("/cwd/rel/a.db", true),
            ("/rel/a.db", false),
            ("/p/q/x/y", true),
            ("/x/y", true),
            ("/a/folder", true),
        ] {
            let name = path.rsplit('/').next().expect("a name").as_bytes();
            assert_eq!(excludes.is_excluded(Path::new(path), name), expected, "{path}");
        }
        assert!(Excludes::parse(&["**".into()], Path::new("/")).is_err());
        assert!(Excludes::parse(&["[".into()], Path::new("/")).is_err());
    }

    /// Segments of the syntax that the `glob` crate shares, without two stars side by side.
    fn shared_segment() -> impl Strategy<Value = String> {
        let token = prop_oneof![
            "[ab.\u{e9}]",
            Just("?".into()),
            Just("[a-b]".into()),
            Just("[!a\u{e9}]".into()),
            Just("[]x]".into())
        ];
        let run = proptest::collection::vec(token, 1..3).prop_map(|tokens| tokens.concat());
        let starred = (run.clone(), proptest::option::of(run.clone()), any::<bool>())
            .prop_map(|(a, b, lead)| format!("{}{a}*{}", if lead { "*" } else { "" }, b.unwrap_or_default()));
        prop_oneof![Just("**".to_string()), Just("*".to_string()), run, starred]
            .prop_filter("not `.` or `..`", |s| s != "." && s != "..")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn agrees_with_the_glob_crate(
            pattern in proptest::collection::vec(shared_segment(), 1..5),
            path in proptest::collection::vec("[abx.\u{e9}]{1,5}", 1..6),
        ) {
            let (pattern, path) = (format!("/{}", pattern.join("/")), format!("/{}", path.join("/")));
            let options = glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };
            let theirs = glob::Pattern::new(&pattern).expect("valid for glob").matches_with(&path, options);
            let ours = parse(&pattern).captures(Path::new(&path)).is_some();
            prop_assert_eq!(ours, theirs, "{} on {}", pattern, path);
        }

        #[test]
        fn what_is_covered_is_matched(
            ours in r"(/([ab]{1,2}|\*|[ab]\*|\*[ab]|\?|\*\*|[ab]\*[ab]|[ab]\?)){1,4}",
            theirs in r"(/([ab]{1,2}|\*|[ab]\*|\*[ab]|\?|\*\*|[ab]\*[ab]|[ab]\?)){1,4}",
            paths in proptest::collection::vec("(/[ab]{1,3}){1,5}", 20),
        ) {
            let (ours, theirs) = (parse(&ours), parse(&theirs));
            for path in &paths {
                let path = Path::new(path);
                prop_assert!(!ours.covers(&theirs) || theirs.captures(path).is_none() || ours.captures(path).is_some());
            }
            prop_assert!(ours.covers(&ours));
        }

        #[test]
        fn no_bytes_make_it_panic(pattern: Vec<u8>, path: Vec<u8>, cwd in "[/a.]{0,6}") {
            let path = Path::new(OsStr::from_bytes(&path));
            if let Ok(pattern) = Pattern::parse_or_directory(OsStr::from_bytes(&pattern), Path::new(&cwd), |_| false) {
                prop_assert_eq!(pattern.captures(path).map(|c| c.len()).unwrap_or(pattern.names.len()), pattern.names.len());
            }
        }

        #[test]
        fn syntax_soup_does_not_panic(pattern in r"[\[\]{}*?!ab\\/.é-]{0,20}", path in "/[ab/.\u{e9}-]{0,20}") {
            let parsed = Pattern::parse(OsStr::new(&pattern), Path::new("/"));
            // `strip_prefix` drops `.`, which no path of a scan has.
            if let Ok(pattern) = parsed && path.split('/').all(|name| name != ".") {
                let whole = pattern.captures(Path::new(&path)).is_some();
                let rest = Path::new(&path).strip_prefix(pattern.root());
                prop_assert_eq!(whole, rest.is_ok_and(|rest| pattern.matches_below_root(rest)));
            }
        }

        #[test]
        fn captures_put_the_path_together_again(a in "[a-z-]{0,6}", b in "[a-z-]{0,6}", c in "[a-z-]{1,6}") {
            let path = format!("/r/{a}-{b}/{c}.db");
            let pattern = parse("/r/{x}-{y}/{z}.db");
            let values = captures(&pattern, &path).expect("matches");
            prop_assert_eq!(format!("/r/{}-{}/{}.db", values[0].1, values[1].1, values[2].1), path);
        }
    }
}
