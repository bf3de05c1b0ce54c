//! litesnap's own keys: the options of the command line by their long names, and how to sign in.

use super::section::{Section, normal};
use super::yaml::{Entry, Fault, Kind, Result};
use super::{PATTERNS, Reading, Value};

/// Keys of the file that are no options, for a command line is anybody's to read, and what the environment calls them.
pub const CREDENTIALS: [(&str, &str); 5] = [
    ("access-key-id", "AWS_ACCESS_KEY_ID"),
    ("secret-access-key", "AWS_SECRET_ACCESS_KEY"),
    ("session-token", "AWS_SESSION_TOKEN"),
    ("account-name", "AZURE_STORAGE_ACCOUNT_NAME"),
    ("account-key", "AZURE_STORAGE_ACCOUNT_KEY"),
];

impl Reading<'_> {
    pub(super) fn own(&mut self, top: &mut Section) -> Result<()> {
        for option in self.reader.options {
            let names: Vec<String> = option.names.iter().map(|name| normal(name)).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let Some(entry) = top.take(&names)? else { continue };
            let key = names[0];
            let values = match (key, option.is_list) {
                (PATTERNS, _) => self.patterns(&entry)?,
                (_, true) => self.values(&entry)?,
                (_, false) => vec![self.value(&entry.key, &entry.value)?],
            };
            self.set(key, entry.line, values)?;
        }
        self.credentials(top)
    }

    pub(super) fn credentials(&mut self, section: &mut Section) -> Result<()> {
        for (key, variable) in CREDENTIALS {
            if let Some(value) = self.take(section, &[key])? {
                self.settings.credentials.add(variable, &value)?;
            }
        }
        Ok(())
    }

    /// Patterns; one of them may be a section with `pattern` and names that stand for the same in each of its databases.
    pub(super) fn patterns(&self, entry: &Entry) -> Result<Vec<Value>> {
        let items = match &entry.value.kind {
            Kind::List(items) => items.as_slice(),
            _ => std::slice::from_ref(&entry.value),
        };
        let read = |item: &super::yaml::Node| match &item.kind {
            Kind::Map(entries) => self.pattern_with_names(item.line, entries),
            _ => self.value(&entry.key, item),
        };
        items.iter().map(read).collect()
    }

    fn pattern_with_names(&self, line: usize, entries: &[Entry]) -> Result<Value> {
        let mut pattern = None;
        let mut constants = Vec::new();
        for entry in entries {
            let value = self.value(&entry.key, &entry.value)?;
            if entry.key == "pattern" {
                pattern = Some(value);
            } else {
                // Captures are written with underscores.
                constants.push((entry.key.replace('-', "_"), value.text));
            }
        }
        let example = "name it, such as `- pattern: /data/*.db`";
        let pattern = pattern.ok_or_else(|| Fault::new(line, format!("this has no `pattern`: {example}")))?;
        Ok(Value { constants, ..pattern })
    }
}
