//! `litesnap config`: whether the configuration is right, what it comes to, and what can be in it.

use std::fmt::Write as _;

use clap::Arg;
use litesnap::config::Config;
use litesnap::fs::shown;
use litesnap::settings::{CREDENTIALS, PATTERNS, Value};
use serde_json::{Value as Json, json};

use super::file::given;
use super::{environment, print, replicate};
use crate::cli::file::{Source, is_list, is_switch, key_of, options};
use crate::cli::{Ask, Replicate};

pub(crate) fn config(ask: &Ask) -> anyhow::Result<u8> {
    match ask {
        Ask::Check(args) => check(args),
        Ask::Print(args) => {
            whole(args)?;
            print(&printed())?;
            Ok(0)
        }
        Ask::Schema => {
            print(&(serde_json::to_string_pretty(&schema())? + "\n"))?;
            Ok(0)
        }
    }
}

/// What the file is called, where there is one.
fn name() -> String {
    given().path.as_ref().map_or_else(|| "no file".to_owned(), |path| shown(path).to_string())
}

/// All that `replicate` would look at before it opens anything.
fn whole(args: &Replicate) -> anyhow::Result<(Config, String)> {
    let env = environment();
    let config = replicate::config(args, &env)?;
    let store = litesnap::replicate::check_places(&config, &env)?;
    Ok((config, store.name))
}

fn check(args: &Replicate) -> anyhow::Result<u8> {
    let (config, store) = whole(args)?;
    let patterns = match config.patterns.len() {
        1 => "1 pattern".to_owned(),
        n => format!("{n} patterns"),
    };
    let interval = humantime::format_duration(config.interval);
    let mut text = format!("{}: ok, {patterns}, to {store}, every {interval}\n", name());
    for warning in given().settings.warnings.iter().chain(&config.doubtful()) {
        writeln!(text, "warning: {warning}")?;
    }
    print(&text)?;
    Ok(0)
}

fn printed() -> String {
    let mut text = format!("# {}, variables and options together, and where each value comes from\n", name());
    for arg in &options() {
        text += &entry(arg);
    }
    let env = super::system_environment();
    let added = given().settings.credentials.completing(&env, given().settings.is_litestream);
    for (variable, line) in given().settings.credentials.names() {
        let key = CREDENTIALS.iter().find(|(_, known)| *known == variable).map_or(variable, |(key, _)| key);
        let used = if added.iter().any(|(name, _)| name == variable) {
            ""
        } else {
            ", and not used: the environment has its own"
        };
        text += &format!("# {key}: '***'  # {}:{line}{used}\n", given().settings.name);
    }
    text
}

/// One option: as a comment, where it has no value.
fn entry(arg: &Arg) -> String {
    let key = key_of(arg);
    let said = given().said.get(key).cloned().unwrap_or_default();
    let setting = given().settings.get(key).filter(|_| said.source == Source::File);
    let from = match (&said.source, setting) {
        (Source::Flag, _) => "option".to_owned(),
        (Source::Variable(name), _) => name.clone(),
        (_, Some(_)) => given().settings.place(key).unwrap_or_default(),
        _ => "default".to_owned(),
    };
    let values: Vec<String> = match (setting, &said.source) {
        (Some(setting), _) => setting.values.iter().map(|value| of_file(key, value)).collect(),
        // A value that may hold a secret is left where it is.
        (None, Source::Variable(name)) if !said.values.is_empty() && arg.is_hide_env_values_set() => {
            vec![quoted(&format!("${{{name}}}"))]
        }
        _ => said.values.iter().map(|value| quoted(&masked(key, value).replace('$', "$$"))).collect(),
    };
    match values.as_slice() {
        [] => format!("# {key}:\n"),
        [value] if !is_list(arg) => format!("{key}: {value}  # {from}\n"),
        values => values.iter().fold(format!("{key}:  # {from}\n"), |text, value| text + &format!("  - {value}\n")),
    }
}

/// A value of the file as a file would have it: what variables hold is not shown.
fn of_file(key: &str, value: &Value) -> String {
    let text = value.written.clone().unwrap_or_else(|| masked(key, &value.text).replace('$', "$$"));
    let constants = value.constants.iter().map(|(name, value)| format!(", {name}: {}", quoted(&of_constant(value))));
    let constants: String = constants.collect();
    if constants.is_empty() { quoted(&text) } else { format!("{{pattern: {}{constants}}}", quoted(&text)) }
}

/// What a variable holds in it is not shown either.
fn of_constant(value: &str) -> String {
    let masked = given().settings.masked(value);
    if masked == value { value.replace('$', "$$") } else { masked }
}

/// A URL without what may be secret in it: a user, and of a heartbeat all but the host.
fn masked(key: &str, text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = authority.rsplit_once('@').map_or(authority.to_owned(), |(_, host)| format!("***@{host}"));
    let path = if key == "heartbeat-url" && path.len() > 1 { "/***" } else { path };
    format!("{scheme}://{authority}{path}")
}

/// Text as a YAML value that is read as this very text.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_' | '-');
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
    if begins && text.chars().all(is_plain) && !text.eq_ignore_ascii_case("null") {
        text.to_owned()
    } else if text.contains(char::is_control) {
        Json::from(text).to_string()
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

/// What can be in a file of our own, as a JSON schema. Files of Litestream's have their own.
fn schema() -> Json {
    let mut properties: serde_json::Map<String, Json> =
        options().iter().map(|arg| (key_of(arg).to_owned(), property(arg))).collect();
    for (key, variable) in CREDENTIALS {
        let description = format!("{variable}, unless the environment has it");
        properties.insert(key.to_owned(), json!({ "description": description, "type": "string" }));
    }
    let multi = "The section of the multi-database drafts for Litestream";
    properties.insert("multi-db".to_owned(), json!({ "description": multi, "type": "object" }));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "litesnap.yml",
        "description": "Options of litesnap replicate by their long names. Underscores may stand for hyphens, and ${NAME} for a variable.",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}

fn property(arg: &Arg) -> Json {
    let mut property = json!({ "description": arg.get_help().map(ToString::to_string).unwrap_or_default() });
    let names: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if is_switch(arg) {
        property["type"] = json!("boolean");
    } else if is_list(arg) {
        let one = json!({ "type": "string" });
        let named = json!({ "type": "object", "required": ["pattern"], "additionalProperties": { "type": ["string", "number"] } });
        let items = if key_of(arg) == PATTERNS { json!({ "anyOf": [one, named] }) } else { one.clone() };
        property["anyOf"] = json!([one, { "type": "array", "items": items }]);
    } else if names.is_empty() {
        property["type"] = json!(["string", "number"]);
    } else {
        property["enum"] = json!(names);
    }
    if let Some(default) = arg.get_default_values().first().filter(|_| !is_switch(arg)) {
        property["default"] = json!(default.to_string_lossy());
    }
    property
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_what_may_be_secret() {
        for (key, text, expected) in [
            ("store", "s3://bucket/prefix", "s3://bucket/prefix"),
            ("store", "/backups", "/backups"),
            ("endpoint", "https://me:hush@host:9000/x?y", "https://***@host:9000/x?y"),
            ("heartbeat-url", "https://host/token?x=1", "https://host/***"),
            ("heartbeat-url", "https://host?token=1", "https://host/***"),
            ("heartbeat-url", "https://host/", "https://host/"),
        ] {
            assert_eq!(masked(key, text), expected, "{text}");
        }
    }

    #[test]
    fn values_are_quoted_where_yaml_would_read_something_else() {
        for (text, expected) in [
            ("30s", "30s"),
            ("/data/a.db", "/data/a.db"),
            ("null", "'null'"),
            ("", "''"),
            ("~", "'~'"),
            ("{{path}}", "'{{path}}'"),
            ("it's: # x", "'it''s: # x'"),
            ("a\nb", "\"a\\nb\""),
            ("-x", "'-x'"),
        ] {
            assert_eq!(quoted(text), expected, "{text:?}");
        }
    }
}
