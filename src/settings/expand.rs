//! `${VAR}` in values. Pure: the environment is a function.

use super::yaml::{Fault, Result};

/// What a dollar sign before a name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bare {
    /// An error, for nobody can tell which of both was meant.
    Refused,
    /// A variable, as in Litestream's files.
    Variable,
}

/// Replaces variables in one value: `${NAME}`, `${NAME:-what stands for an unset or empty one}`, and `$$` for a dollar sign.
/// Returns also what is written, with every variable in braces. `None` if there is nothing to replace. An unset variable is a fault, and no value is ever part of one.
pub(super) fn expand(
    text: &str,
    line: usize,
    bare: Bare,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<(String, String)>> {
    if !text.contains('$') {
        return Ok(None);
    }
    let (mut out, mut written) = (String::new(), String::new());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out += before;
        written += before;
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            written += "$$";
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let unclosed = "`${` is not closed: write ${NAME}, or $$ for a dollar sign";
            let (inside, after) = after.split_once('}').ok_or_else(|| Fault::new(line, unclosed))?;
            out += &variable(inside, line, env)?;
            written += &format!("${{{inside}}}");
            rest = after;
        } else {
            let length = name_length(after);
            let (name, after) = after.split_at(length);
            match bare {
                _ if length == 0 => {
                    out.push('$');
                    written += "$$";
                }
                Bare::Variable => {
                    out += &variable(name, line, env)?;
                    written += &format!("${{{name}}}");
                }
                Bare::Refused => {
                    let what = format!("`${name}`: write ${{{name}}} for the variable, or $$ for a dollar sign");
                    return Err(Fault::new(line, what));
                }
            }
            rest = after;
        }
    }
    Ok(Some((out + rest, written + rest)))
}

fn variable(inside: &str, line: usize, env: &dyn Fn(&str) -> Option<String>) -> Result<String> {
    let (name, fallback) = inside.split_once(":-").map_or((inside, None), |(name, fallback)| (name, Some(fallback)));
    if name.is_empty() || name_length(name) != name.len() {
        let what = "`${` is not followed by a name: write ${NAME}, or $$ for a dollar sign";
        return Err(Fault::new(line, what));
    }
    match (env(name), fallback) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(fallback)) => Ok(fallback.to_owned()),
        (None, None) => {
            let what = format!("the variable {name} is not set: set it, or write ${{{name}:-default}}");
            Err(Fault::new(line, what))
        }
    }
}

/// Bytes of the name that `text` begins with.
fn name_length(text: &str) -> usize {
    let is_name = |(at, b): (usize, u8)| b == b'_' || b.is_ascii_alphabetic() || (at > 0 && b.is_ascii_digit());
    text.bytes().enumerate().take_while(|&pair| is_name(pair)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        [("A", "1"), ("B_2", "two"), ("EMPTY", ""), ("NEST", "${A}")]
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn by_table() {
        for (text, expected) in [
            ("plain", None),
            ("{{path}}", None),
            ("${A}", Some("1")),
            ("x${A}y${B_2}z", Some("x1ytwoz")),
            ("$${A}", Some("${A}")),
            ("a$$", Some("a$")),
            ("${EMPTY}", Some("")),
            ("${EMPTY:-d}", Some("d")),
            ("${NONE:-d:-e}", Some("d:-e")),
            ("${NONE:-}", Some("")),
            ("${NEST}", Some("${A}")),
            ("5$", Some("5$")),
            ("$1 $-", Some("$1 $-")),
        ] {
            for bare in [Bare::Refused, Bare::Variable] {
                let read = expand(text, 1, bare, &env).expect(text);
                assert_eq!(read.as_ref().map(|(text, _)| text.as_str()), expected, "{text}");
                let again =
                    read.map(|(_, written)| expand(&written, 1, Bare::Refused, &env).expect(text).expect(text).0);
                assert_eq!(again.as_deref(), expected, "{text}");
            }
        }
        let bare = expand("$A/$B_2.", 1, Bare::Variable, &env).expect("set");
        assert_eq!(bare, Some(("1/two.".to_owned(), "${A}/${B_2}.".to_owned())));
    }

    #[test]
    fn refusals_name_line_and_variable_and_no_value() {
        for (text, part) in [
            ("${NONE}", "NONE is not set"),
            ("${A", "not closed"),
            ("${}", "not followed by a name"),
            ("${a b}", "not followed by a name"),
            ("${1A}", "not followed by a name"),
            ("$A", "${A}"),
        ] {
            let fault = expand(text, 7, Bare::Refused, &env).expect_err(text);
            assert!(fault.line == 7 && fault.what.contains(part), "{text}: {fault:?}");
        }
        assert!(expand("$NONE", 1, Bare::Variable, &env).is_err());
    }
}
