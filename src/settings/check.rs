//! What is wrong with patterns, excludes and the key template, told with their lines.

use std::ffi::OsStr;

use super::yaml::{Fault, Result};
use super::{PATTERNS, Reading, Setting, Value};
use crate::error::Error;
use crate::layout::Template;
use crate::pattern::{Excludes, Pattern};

/// Patterns of one file.
const PATTERNS_MAX: usize = 4000;

impl Reading<'_> {
    pub(super) fn check(&self) -> Result<()> {
        let values = |key: &str| self.settings.get(key).map_or(&[][..], |setting: &Setting| &setting.values);
        for exclude in values("exclude") {
            let parsed = Excludes::parse(std::slice::from_ref(&exclude.text), self.reader.cwd);
            parsed.map_err(|e| fault(exclude, &e))?;
        }
        for template in values("key-template") {
            Template::parse(&template.text).map_err(|e| fault(template, &e))?;
        }
        let mut patterns: Vec<(Pattern, &Value)> = Vec::new();
        for value in values(PATTERNS) {
            let parsed = Pattern::parse_or_directory(OsStr::new(&value.text), self.reader.cwd, self.reader.is_dir);
            let parsed = parsed.and_then(|pattern| pattern.with_constants(&value.constants));
            patterns.push((parsed.map_err(|e| fault(value, &e))?, value));
        }
        overlap(&patterns)
    }
}

fn fault(value: &Value, error: &Error) -> Fault {
    Fault::new(value.line, error.to_string())
}

/// Patterns of a file are a list that a person keeps: what is in it twice is a mistake, and which of the two counts would
/// depend on their order.
fn overlap(patterns: &[(Pattern, &Value)]) -> Result<()> {
    // Each is compared with each.
    if let Some((_, value)) = patterns.get(PATTERNS_MAX) {
        return Err(Fault::new(
            value.line,
            format!("more than {PATTERNS_MAX} patterns: a folder or a glob names many databases at once"),
        ));
    }
    for (at, (pattern, value)) in patterns.iter().enumerate() {
        for (earlier, first) in &patterns[..at] {
            let (is_above, is_below) = (earlier.covers(pattern), pattern.covers(earlier));
            let how = match (is_above, is_below) {
                (true, true) => "finds the same as",
                (true, false) => "finds only what is found already by",
                (false, true) => "finds, too, all that is found by",
                (false, false) => continue,
            };
            let what =
                format!("pattern `{}` {how} `{}` in line {}: keep one", value.shown(), first.shown(), first.line);
            return Err(Fault::new(value.line, what));
        }
    }
    Ok(())
}
