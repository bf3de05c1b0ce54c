//! One map of a file while its keys are taken out of it, and what is said of those that nobody took.

use super::yaml::{Entry, Fault, Kind, Node, Result};
use super::{Reading, Value, expand};

/// A map, and the keys that it could have.
pub(super) struct Section {
    entries: Vec<Entry>,
    known: Vec<String>,
}

/// A key in its canonical spelling.
pub(super) fn normal(key: &str) -> String {
    key.replace('_', "-")
}

impl Section {
    pub(super) fn new(entries: Vec<Entry>) -> Self {
        Self { entries, known: Vec::new() }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.key.as_str())
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.keys().any(|known| known == key)
    }

    /// Takes the entry that has one of these names; two of them are one key given twice.
    pub(super) fn take(&mut self, names: &[&str]) -> Result<Option<Entry>> {
        self.known.extend(names.iter().map(|name| (*name).to_owned()));
        let mut taken: Option<Entry> = None;
        while let Some(at) = self.entries.iter().position(|entry| names.contains(&entry.key.as_str())) {
            let entry = self.entries.remove(at);
            if let Some(first) = &taken {
                let what = format!("`{}` says the same as `{}` in line {}: keep one", entry.key, first.key, first.line);
                return Err(Fault::new(entry.line, what));
            }
            taken = Some(entry);
        }
        Ok(taken)
    }

    /// Says of the first key that is left that nobody knows it. `inside` names the section, with a space behind it.
    pub(super) fn finish(self, inside: &str) -> Result<()> {
        let Some(entry) = self.entries.first() else { return Ok(()) };
        let nearest = nearest(&entry.key, self.known.iter().map(String::as_str));
        let hint = nearest.map_or_else(
            || "`litesnap config schema` lists all".to_owned(),
            |nearest| format!("did you mean `{nearest}`?"),
        );
        Err(Fault::new(entry.line, format!("unknown key {inside}`{}`: {hint}", entry.key)))
    }
}

/// The known key that is closest to `key`, if it is close at all.
fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // What is very long is no slip of the hand, and comparing takes its square.
    let key = Some(key).filter(|key| key.len() <= 64)?;
    let all = known.map(|name| (strsim::jaro_winkler(key, name), strsim::osa_distance(key, name), name));
    let close = all.filter(|(alike, edits, _)| *edits <= key.len() / 3 || *alike > 0.9);
    close.min_by(|a, b| a.1.cmp(&b.1).then(b.0.total_cmp(&a.0))).map(|(_, _, name)| name)
}

impl Reading<'_> {
    /// The one value of a node, variables replaced; `key` is for messages.
    pub(super) fn value(&self, key: &str, node: &Node) -> Result<Value> {
        let wrong = |what: &str| Fault::new(node.line, format!("`{key}` {what}: write `{key}: VALUE` on one line"));
        match &node.kind {
            Kind::Text(text) => {
                let env = |name: &str| self.variable(name);
                let expanded = expand::expand(text, node.line, self.bare, &env)?;
                let (text, written) =
                    expanded.map_or_else(|| (text.clone(), None), |(text, written)| (text, Some(written)));
                if text.contains('\0') {
                    return Err(Fault::new(node.line, format!("`{key}` holds a NUL byte")));
                }
                Ok(Value { written, ..Value::new(text, node.line) })
            }
            Kind::Nothing => {
                let what = format!("`{key}` has no value: give it one, or take the line out");
                Err(Fault::new(node.line, what))
            }
            Kind::List(_) => Err(wrong("takes one value, not a list")),
            Kind::Map(_) => Err(wrong("takes one value, not a section")),
        }
    }

    /// A variable, whose value no message may have from now on.
    fn variable(&self, name: &str) -> Option<String> {
        let value = (self.reader.env)(name)?;
        let mut known = self.variables.borrow_mut();
        if !known.0.iter().any(|(known, _)| *known == value) {
            known.0.push((value.clone(), format!("${{{name}}}")));
        }
        Some(value)
    }

    /// Takes one value out of a section.
    pub(super) fn take(&self, section: &mut Section, names: &[&str]) -> Result<Option<Value>> {
        let Some(entry) = section.take(names)? else { return Ok(None) };
        self.value(&entry.key, &entry.value).map(Some)
    }

    /// One value or a list of them.
    pub(super) fn values(&self, entry: &Entry) -> Result<Vec<Value>> {
        match &entry.value.kind {
            Kind::List(items) => items.iter().map(|item| self.value(&entry.key, item)).collect(),
            _ => Ok(vec![self.value(&entry.key, &entry.value)?]),
        }
    }

    /// Takes a yes or no out of a section.
    pub(super) fn take_switch(&self, section: &mut Section, names: &[&str]) -> Result<Option<(bool, usize)>> {
        let Some(value) = self.take(section, names)? else { return Ok(None) };
        match value.text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(Some((true, value.line))),
            "false" | "no" | "off" | "0" => Ok(Some((false, value.line))),
            _ => Err(Fault::new(value.line, format!("`{}` says neither yes nor no: write true or false", names[0]))),
        }
    }

    /// Takes a map out of a section.
    pub(super) fn take_section(&self, section: &mut Section, names: &[&str]) -> Result<Option<(Section, usize)>> {
        let Some(entry) = section.take(names)? else { return Ok(None) };
        let Kind::Map(entries) = entry.value.kind else {
            let what = format!("`{}` is a section: write its keys below it, indented", entry.key);
            return Err(Fault::new(entry.value.line, what));
        };
        Ok(Some((Section::new(entries), entry.line)))
    }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn slips_find_their_key_and_strangers_none() {
        let known =
            ["interval", "to", "keep-daily", "keep-yearly", "store", "key-template", "limit-upload", "request-timeout"];
        for (key, expected) in [
            ("intervall", Some("interval")),
            ("keep-dayly", Some("keep-daily")),
            ("stroe", Some("store")),
            ("template", None),
            ("upload-limit", None),
            ("request-time", Some("request-timeout")),
            ("colour", None),
            ("x", None),
            ("a0", None),
        ] {
            assert_eq!(nearest(key, known.into_iter()), expected, "{key}");
        }
    }
}
