//! What a configuration file says: text → options with their values and lines. Pure: the environment, and whether a path is a
//! folder, are functions. Knows no option by itself: the command line is the one list of them, and is handed in.
//!
//! One reader for three kinds of file, which may be mixed in one:
//!
//! * `litesnap.yml`: keys are the long names of options, with hyphens or underscores;
//! * a section `multi-db:`, as the multi-database drafts for Litestream have it;
//! * a `litestream.yml`: `dbs:` and what stands beside it.
//!
//! A file is Litestream's ([`Settings::is_litestream`]) if it has `dbs:`, if its name begins with `litestream`, or if it has
//! `multi-db:` beside a key of Litestream's that litesnap does not have. From such a file everything is stored below
//! `<path>/litesnap`, never among Litestream's own objects.
//!
//! Values pass through unparsed, as text: whoever owns an option reads its value. Only patterns, excludes and the key
//! template are tried here, because what is wrong with them concerns several lines.

mod check;
mod expand;
mod litestream;
mod multi;
mod own;
mod replica;
mod section;
mod yaml;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use crate::error::Error;
use crate::fs::shown;
use crate::layout::REPLICA;
use expand::Bare;
pub use own::CREDENTIALS;
use section::{Section, normal};
use yaml::{Fault, Kind};

/// The key of what to back up, on the command line the positional argument.
pub const PATTERNS: &str = "patterns";

/// An option that a file may give.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its long name, and other names for it; at least one.
    pub names: Vec<String>,
    /// Whether it takes a list.
    pub is_list: bool,
}

/// What a file is read with.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    /// The file's name, for messages and to tell a `litestream.yml`.
    pub name: &'a Path,
    /// Every option that there is.
    pub options: &'a [Known],
    /// Looks an environment variable up.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// What relative patterns are relative to; absolute.
    pub cwd: &'a Path,
    /// Whether there is a folder at this path.
    pub is_dir: &'a dyn Fn(&Path) -> bool,
}

/// What a file says.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Its name as shown.
    pub name: String,
    /// Options, each once, in no order.
    pub options: Vec<Setting>,
    /// How to sign in to the store, unless the environment says so.
    pub credentials: Credentials,
    /// What is accepted and has no effect, or another one than its writer may think; one line each, with file and line.
    pub warnings: Vec<String>,
    /// Whether it is one of Litestream's.
    pub is_litestream: bool,
    variables: Variables,
}

/// What variables of the file hold, and how they are written: what no message may have, and what it has instead.
#[derive(Clone, Default)]
struct Variables(Vec<(String, String)>);

impl std::fmt::Debug for Variables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(_, written)| written)).finish()
    }
}

impl Variables {
    fn masked(&self, message: &str, more: &[(&str, &str)]) -> String {
        let mut all: Vec<(&str, &str)> =
            self.0.iter().map(|(text, written)| (text.as_str(), written.as_str())).collect();
        all.extend(more);
        // Shorter ones are no secrets, and are parts of words.
        all.retain(|(text, _)| text.len() > 3);
        // The longest first: one may be part of another.
        all.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        all.into_iter().fold(message.to_owned(), |message, (text, written)| message.replace(text, written))
    }
}

/// One option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its long name.
    pub key: String,
    /// Line of the key, from 1.
    pub line: usize,
    /// At least one value; more than one only for a list.
    pub values: Vec<Value>,
}

/// One value.
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    /// With variables replaced.
    pub text: String,
    /// From 1.
    pub line: usize,
    /// As it is written, if that has variables: what may be shown instead of `text`.
    pub written: Option<String>,
    /// Of a pattern: names that stand for the same in each database, see [`crate::pattern::Pattern::with_constants`].
    pub constants: Vec<(String, String)>,
}

impl Value {
    fn new(text: impl Into<String>, line: usize) -> Self {
        Self { text: text.into(), line, written: None, constants: Vec::new() }
    }

    /// What may be shown.
    #[must_use]
    pub fn shown(&self) -> &str {
        self.written.as_deref().unwrap_or(&self.text)
    }
}

/// Variables may hold secrets.
impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = if self.written.is_some() { "***" } else { &self.text };
        f.debug_struct("Value").field("text", &text).field("line", &self.line).finish_non_exhaustive()
    }
}

/// Names and values as the environment would have them, such as `AWS_SECRET_ACCESS_KEY`, each with its line.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials(Vec<Credential>);

#[derive(Clone, PartialEq, Eq)]
struct Credential {
    name: &'static str,
    value: String,
    line: usize,
    /// Whether the file has only the name of a variable.
    is_variable: bool,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.0.iter().map(|c| (c.name, "***"))).finish()
    }
}

impl Credentials {
    /// Names, and the lines in which their values stand.
    pub fn names(&self) -> impl Iterator<Item = (&'static str, usize)> {
        self.0.iter().map(|c| (c.name, c.line))
    }

    /// What to add to `env`, which wins: nothing of a service for which it has a key already, for half of one pair and half
    /// of another open no store. `LITESTREAM_*` count as the environment, behind `AWS_*`, if `litestream` holds.
    #[must_use]
    pub fn completing(&self, env: &[(String, String)], litestream: bool) -> Vec<(String, String)> {
        let var = |name: &str| env.iter().find(|(k, v)| k == name && !v.is_empty()).map(|(_, v)| v.clone());
        let mut added = Vec::new();
        let has_aws = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].iter().any(|name| var(name).is_some());
        let has_azure = env.iter().any(|(k, v)| k.starts_with("AZURE_") && k.ends_with("_KEY") && !v.is_empty());
        let theirs = (var("LITESTREAM_ACCESS_KEY_ID"), var("LITESTREAM_SECRET_ACCESS_KEY"));
        let is_litestream_pair = litestream && !has_aws && theirs.0.is_some() && theirs.1.is_some();
        if let (true, (Some(id), Some(secret))) = (is_litestream_pair, theirs) {
            added.push(("AWS_ACCESS_KEY_ID".to_owned(), id));
            added.push(("AWS_SECRET_ACCESS_KEY".to_owned(), secret));
        }
        let has_aws = has_aws || is_litestream_pair;
        let wanted = self.0.iter().filter(|c| match c.name {
            "AZURE_STORAGE_ACCOUNT_NAME" => var(c.name).is_none(),
            name if name.starts_with("AZURE_") => !has_azure,
            _ => !has_aws,
        });
        added.extend(wanted.map(|c| (c.name.to_owned(), c.value.clone())));
        added
    }

    /// Takes one; the same value twice is no contradiction.
    fn add(&mut self, name: &'static str, value: &Value) -> yaml::Result<()> {
        if let Some(known) = self.0.iter().find(|known| known.name == name) {
            if known.value == value.text {
                return Ok(());
            }
            let line = known.line;
            let what = format!(
                "credentials other than those in line {line}: one process signs in once; run one for each, or leave them to the environment"
            );
            return Err(Fault::new(value.line, what));
        }
        let (value, line, is_variable) = (value.text.clone(), value.line, value.written.is_some());
        self.0.push(Credential { name, value, line, is_variable });
        Ok(())
    }
}

/// Reads a file.
///
/// # Errors
/// [`Error::Usage`], one line: `FILE:LINE: what is wrong, and what would be right`. Never the value of a variable or a
/// credential.
pub fn read(bytes: &[u8], reader: Reader<'_>) -> Result<Settings, Error> {
    let name = shown(reader.name).to_string();
    let settings = Settings { name: name.clone(), ..Settings::default() };
    let (warned, variables) = (BTreeSet::new(), RefCell::default());
    let mut reading = Reading { reader, bare: Bare::Refused, settings, warned, variables };
    let done = reading.file(bytes);
    let Reading { mut settings, variables, .. } = reading;
    settings.variables = variables.into_inner();
    if let Err(fault) = done {
        let what = settings.masked(&fault.what).replace(char::is_control, "\u{fffd}");
        return Err(Error::Usage(format!("{name}:{}: {what}", fault.line)));
    }
    for warning in &mut settings.warnings {
        *warning = settings.variables.masked(warning, &[]);
    }
    Ok(settings)
}

impl Settings {
    /// What is written out in the file and should be read by nobody else: names and lines.
    pub fn secrets(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let is_secret = |name: &str| !matches!(name, "AWS_ACCESS_KEY_ID" | "AZURE_STORAGE_ACCOUNT_NAME");
        self.credentials.0.iter().filter(move |c| is_secret(c.name) && !c.is_variable).map(|c| (c.name, c.line))
    }

    /// The setting of an option, by its long name.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Setting> {
        self.options.iter().find(|setting| setting.key == key)
    }

    /// `FILE:LINE` of an option.
    #[must_use]
    pub fn place(&self, key: &str) -> Option<String> {
        self.get(key)
            .map(|setting| format!("{}:{}", self.name, setting.values.first().map_or(setting.line, |v| v.line)))
    }

    /// Puts what is written in place of what variables and credentials hold, wherever that stands in `message`.
    #[must_use]
    pub fn masked(&self, message: &str) -> String {
        let keys: Vec<(&str, &str)> = self.credentials.0.iter().map(|c| (c.value.as_str(), "***")).collect();
        self.variables.masked(message, &keys)
    }
}

/// A file on its way to [`Settings`].
struct Reading<'a> {
    reader: Reader<'a>,
    bare: Bare,
    settings: Settings,
    /// Keys of which it was said that they have no effect.
    warned: BTreeSet<&'static str>,
    variables: RefCell<Variables>,
}

impl Reading<'_> {
    fn file(&mut self, bytes: &[u8]) -> yaml::Result<()> {
        if bytes.len() > yaml::SIZE_MAX {
            return Err(Fault::new(1, "it has more than 1 MiB: a folder or a glob names many databases in one line"));
        }
        let text = std::str::from_utf8(bytes).map_err(|e| {
            let before = &bytes[..e.valid_up_to()];
            let line = 1 + before.split(|b| *b == b'\n').count().saturating_sub(1);
            Fault::new(line, "it is not UTF-8 text")
        })?;
        let Some(root) = yaml::parse(text)? else { return Ok(()) };
        let Kind::Map(entries) = root.kind else {
            return Err(Fault::new(
                root.line,
                "it is no list of settings: write each as `name: value`, such as store: /backups",
            ));
        };
        let mut top = Section::new(entries);
        self.settings.is_litestream = self.is_litestream(&top);
        if self.settings.is_litestream {
            self.bare = Bare::Variable;
        }
        let multi = self.multi(&mut top)?;
        let dbs = self.litestream(&mut top)?;
        if let (Some(multi), Some(dbs)) = (multi, dbs) {
            let what = format!(
                "`multi-db` is enabled beside `dbs` in line {dbs}, and a process has one key template: write enabled: false, or use two files"
            );
            return Err(Fault::new(multi, what));
        }
        self.own(&mut top)?;
        top.finish("")?;
        self.check()
    }

    fn is_litestream(&self, top: &Section) -> bool {
        let file = self.reader.name.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let has_theirs = || {
            let is_ours = |key: &str| self.option(key).is_some();
            top.keys().any(|key| !is_ours(key) && litestream::knows(key))
        };
        top.has("dbs") || file.starts_with("litestream") || (top.has("multi-db") && has_theirs())
    }

    /// The option with this name.
    fn option(&self, key: &str) -> Option<&Known> {
        self.reader.options.iter().find(|known| known.names.iter().any(|name| normal(name) == key))
    }

    /// Notes an option; whoever gives it a second time is told both lines.
    fn set(&mut self, key: &str, line: usize, values: Vec<Value>) -> yaml::Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        if let Some(first) = self.settings.get(key) {
            let what = format!("this gives `{key}`, which line {} gives already: keep one", first.line);
            return Err(Fault::new(line, what));
        }
        self.settings.options.push(Setting { key: key.to_owned(), line, values });
        Ok(())
    }

    fn set_one(&mut self, key: &str, value: Value) -> yaml::Result<()> {
        self.set(key, value.line, vec![value])
    }

    fn warn(&mut self, line: usize, what: &str) {
        let warning = format!("{}:{line}: {what}", self.settings.name);
        self.settings.warnings.push(warning.replace(char::is_control, "\u{fffd}"));
    }
}

#[cfg(test)]
mod tests;
