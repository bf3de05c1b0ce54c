//! Words of the demo: numbers, times, and commands that can be typed as they stand.

use std::path::Path;
use std::time::Duration;

use indicatif::HumanCount;

/// `1,234 bytes`.
pub(super) fn bytes(n: u64) -> String {
    format!("{} bytes", HumanCount(n))
}

/// `0.41 ms`, `12 ms`, `2.1 s`: two digits that count.
pub(super) fn time(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    match ms {
        ms if ms < 1.0 => format!("{ms:.2} ms"),
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}

/// `path` as one word for a shell.
pub(super) fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) { text } else { quoted(&text) }
}

/// `text` in the quotes in which a shell takes every character as it is.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// `path` for the start of a pattern: what is special in a pattern stands for itself.
pub(super) fn literal(path: &str) -> String {
    let special = |c: char| r"\*?[]{}".contains(c);
    path.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_two_digits_that_count() {
        for (us, text) in
            [(412, "0.41 ms"), (1500, "1.5 ms"), (12_400, "12 ms"), (312_000, "312 ms"), (2_140_000, "2.1 s")]
        {
            assert_eq!(time(Duration::from_micros(us)), text);
        }
    }

    #[test]
    fn names_are_quoted_where_a_shell_or_a_pattern_would_read_them() {
        for (path, typed) in [
            ("litesnap-demo/data", "litesnap-demo/data"),
            ("/srv/a b", "'/srv/a b'"),
            ("it's", r"'it'\''s'"),
            ("$HOME", "'$HOME'"),
            ("", "''"),
        ] {
            assert_eq!(word(Path::new(path)), typed);
        }
        assert_eq!(literal("/a[1]/{x}*?\\"), r"/a\[1\]/\{x\}\*\?\\");
    }
}
