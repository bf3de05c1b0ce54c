//! The section `multi-db:`: patterns and one replica for all of them, under keys of a template.

use super::litestream::BELOW;
use super::replica::{Service, joined};
use super::section::Section;
use super::yaml::{Fault, Result};
use super::{PATTERNS, Reading, Value};

/// Keys of the hot tier, and what they will say when there is one.
const HOT: [(&str, &str); 9] = [
    ("max-hot-databases", "how many databases it follows at once"),
    ("max-active", "how many databases it follows at once"),
    ("hot-duration", "how long it follows a database after a write"),
    ("hot-promotion", "which databases it takes up"),
    ("write-detection", "how a database gets into it"),
    ("idle-timeout", "when it closes a database that is idle"),
    ("cold-sync-interval", "how often the others are stored, which `scan-interval` says until then"),
    ("cold-sync-mode", "whether the others are stored, which they are"),
    ("max-connections", "how many databases it keeps open"),
];

impl Reading<'_> {
    /// Takes the section, if there is one and it is enabled; returns its line.
    pub(super) fn multi(&mut self, top: &mut Section) -> Result<Option<usize>> {
        let Some((mut section, line)) = self.take_section(top, &["multi-db"])? else { return Ok(None) };
        if let Some((false, line)) = self.take_switch(&mut section, &["enabled"])? {
            self.warn(line, "multi-db is not enabled: the section is left out");
            return Ok(None);
        }
        let patterns = section.take(&[PATTERNS, "pattern", "discovery-pattern", "discovery-patterns"])?;
        let patterns = patterns.ok_or_else(|| Fault::new(line, "`multi-db` has no `patterns`: say what to back up"))?;
        let patterns_line = patterns.line;
        let patterns = self.patterns(&patterns)?;
        self.set(PATTERNS, patterns_line, patterns)?;
        if let Some(interval) = self.take(&mut section, &["scan-interval", "sync-interval"])? {
            self.set_one("interval", interval)?;
        }
        if let Some(uploads) = self.take(&mut section, &["max-concurrent-uploads"])? {
            self.set_one("concurrency", uploads)?;
        }
        for (key, will) in HOT {
            if let Some(entry) = section.take(&[key])? {
                let what = format!(
                    "`{key}` has no effect yet: it will tell the hot tier, which is to follow busy databases every second, {will}"
                );
                self.warn(entry.line, &what);
            }
        }
        let template = self.take_section(&mut section, &["replica-template"])?;
        let s3 = self.take_section(&mut section, &["s3"])?;
        section.finish("in `multi-db` ")?;
        match (template, s3) {
            (Some((_, template)), Some((_, s3))) => {
                let (first, second) = (template.min(s3), template.max(s3));
                let what = format!("`s3` and `replica-template` say the same, first in line {first}: keep one");
                return Err(Fault::new(second, what));
            }
            (Some((replica, line)), None) => self.replica_of_all(replica, line, None)?,
            (None, Some((replica, line))) => self.replica_of_all(replica, line, Some(Service::S3))?,
            (None, None) => {}
        }
        Ok(Some(line))
    }

    /// The store, and from the path of the template the keys in it.
    fn replica_of_all(&mut self, mut section: Section, line: usize, service: Option<Service>) -> Result<()> {
        if let Some(uploads) = self.take(&mut section, &["max-concurrent-uploads"])? {
            self.set_one("concurrency", uploads)?;
        }
        let replica = self.replica(section, line, service)?;
        let path = replica.path.trim_matches('/');
        // What is before the first name is a folder of the store where it is one already, on disk; in a bucket all is key.
        let (folder, template) = match (path.find("{{"), replica.service) {
            (None, _) => (replica.path.trim_end_matches('/').to_owned(), None),
            (Some(name), Service::File) => {
                let root = if replica.path.starts_with('/') { "/" } else { "" };
                let end = path[..name].rfind('/').map_or(0, |slash| slash + 1);
                (format!("{root}{}", path[..end].trim_end_matches('/')), Some(&path[end..]))
            }
            (Some(_), _) => (String::new(), Some(path)),
        };
        let below = if self.settings.is_litestream { BELOW } else { "" };
        let Some(template) = template else {
            return self.store(&replica, &joined(&folder, below));
        };
        self.store(&replica, &folder)?;
        self.set_one("key-template", Value::new(joined(template, below), replica.path_line))
    }
}
