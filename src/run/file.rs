//! The configuration file: found, read, and kept for as long as the process runs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches};
use litesnap::config::parse_patterns;
use litesnap::error::Error;
use litesnap::pattern::Pattern;
use litesnap::settings::{PATTERNS, Reader, Setting, Settings, read};

use crate::cli::Cli;
use crate::cli::file::{Said, Source, first_look, known, merge, said, takes};

/// Read if it is there and no other is named.
const DEFAULT: &str = "/etc/litesnap.yml";

/// More than any file may have: the reader refuses it.
const READ_MAX: u64 = (1 << 20) + 1;

/// What was said where.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub(crate) settings: Settings,
    /// `None` without a file.
    pub(crate) path: Option<PathBuf>,
    /// Of each option, by its name in the file.
    pub(crate) said: BTreeMap<String, Said>,
}

static GIVEN: OnceLock<Given> = OnceLock::new();

/// What the process was given; nothing before the command line is parsed.
pub(crate) fn given() -> &'static Given {
    static NOTHING: OnceLock<Given> = OnceLock::new();
    GIVEN.get().unwrap_or_else(|| NOTHING.get_or_init(Given::default))
}

/// Parses the command line, completed by the file.
pub(crate) fn command_line() -> anyhow::Result<Cli> {
    let args: Vec<OsString> = std::env::args_os().collect();
    let env = super::system_environment();
    let (file, command) = first_look(&args)?;
    let (settings, path) = match (found(file)?, &command) {
        (Some((path, is_named)), Some(name)) if takes_file(name, &args) => {
            (load_for(name, &path, is_named, &env)?, Some(path))
        }
        _ => (Settings::default(), None),
    };
    let mut whole = Cli::command();
    if let (Some(_), Some(name)) = (&path, &command) {
        whole = merge(whole, name, &settings, &env)?;
    }
    let matches = whole.try_get_matches_from(args)?;
    let said = said(&matches, &settings, &env);
    let cli = Cli::from_arg_matches(&matches)?;
    GIVEN.set(Given { settings, path, said }).ok();
    Ok(cli)
}

/// Whether a command looks at the file at all: some have nothing that could stand there.
fn takes_file(command: &str, args: &[OsString]) -> bool {
    let is_schema = command == "config" && args.iter().any(|arg| arg == "schema");
    !is_schema && !["help", "demo", "completions", "man"].contains(&command)
}

/// A variable that only the service has must not keep a shell from restoring: what is unset counts only where the command takes it.
fn load_for(command: &str, path: &Path, is_named: bool, env: &[(String, String)]) -> anyhow::Result<Settings> {
    let refused = match load(path, is_named, env) {
        Ok(settings) => return Ok(settings),
        Err(refused) => refused,
    };
    if ["replicate", "explain", "config"].contains(&command) {
        return Err(refused);
    }
    let unset = RefCell::new(Vec::new());
    let tolerant = |name: &str| {
        let value = env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
        value.or_else(|| {
            unset.borrow_mut().push(format!("${{{name}}}"));
            Some(String::from("unset"))
        })
    };
    let refused =
        |why: anyhow::Error| anyhow::Error::from(Error::Usage(format!("{why:#} (--config '' does without the file)")));
    let settings = load_with(path, is_named, &tolerant).map_err(refused)?;
    let needs = |setting: &Setting| {
        let written = setting.values.iter().filter_map(|value| value.written.as_deref());
        takes(command, &setting.key)
            && written.clone().any(|text| unset.borrow().iter().any(|name| text.contains(name)))
    };
    if settings.options.iter().any(needs) || settings.credentials.names().next().is_some() {
        // Whether a credential is one of them cannot be told from here: what opens the store must be whole.
        return load(path, is_named, env).map_err(refused);
    }
    Ok(settings)
}

/// The file, and whether somebody named it.
fn found(named: Option<OsString>) -> anyhow::Result<Option<(PathBuf, bool)>> {
    match named {
        // Named as nothing: none is wanted, not even the one that is there.
        Some(name) if name.is_empty() => Ok(None),
        Some(name) => Ok(Some((name.into(), true))),
        None => {
            let is_there = Path::new(DEFAULT).try_exists();
            let is_there = is_there.map_err(|e| refused(Path::new(DEFAULT), &e, false))?;
            Ok(is_there.then(|| (DEFAULT.into(), false)))
        }
    }
}

fn refused(path: &Path, why: &std::io::Error, is_named: bool) -> Error {
    let else_none = if is_named { "" } else { "; --config '' does without it" };
    Error::Usage(format!("cannot read the configuration {}: {why}{else_none}", litesnap::fs::shown(path)))
}

fn load(path: &Path, is_named: bool, env: &[(String, String)]) -> anyhow::Result<Settings> {
    load_with(path, is_named, &|name: &str| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
}

fn load_with(path: &Path, is_named: bool, var: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Settings> {
    let wrong = |e| refused(path, &e, is_named);
    let file = File::open(path).map_err(wrong)?;
    let mode = file.metadata().map_err(wrong)?.permissions().mode();
    let mut bytes = Vec::new();
    file.take(READ_MAX).read_to_end(&mut bytes).map_err(wrong)?;
    let cwd = std::env::current_dir().context("cannot tell the current folder")?;
    let reader = Reader { name: path, options: &known(), env: var, cwd: &cwd, is_dir: &Path::is_dir };
    let mut settings = read(&bytes, reader)?;
    let others_may_read = mode & 0o004 != 0;
    let secret = settings.secrets().next();
    if let Some((_, line)) = secret.filter(|_| others_may_read) {
        let what = format!("everybody on this host may read what is secret here: chmod o-r {}", settings.name);
        settings.warnings.push(format!("{}:{line}: {what}", settings.name));
    }
    Ok(settings)
}

/// Logs what the file says in vain.
pub(crate) fn warn() {
    for warning in &given().settings.warnings {
        log::warn!("{warning}");
    }
}

/// Whether somebody gave this option for this one run: on the command line, or by its variable.
pub(crate) fn is_typed(key: &str) -> bool {
    given().said.get(key).is_some_and(|said| matches!(said.source, Source::Flag | Source::Variable(_)))
}

/// Parses patterns; if they are the file's, each brings along the names that the file gives it.
pub(crate) fn patterns(texts: &[OsString], cwd: &Path) -> Result<Vec<Pattern>, Error> {
    let patterns = parse_patterns(texts, cwd)?;
    let given = given();
    let is_file = given.said.get(PATTERNS).is_some_and(|said| said.source == Source::File);
    match given.settings.get(PATTERNS).filter(|_| is_file) {
        Some(setting) => {
            patterns.into_iter().zip(&setting.values).map(|(p, value)| p.with_constants(&value.constants)).collect()
        }
        None => Ok(patterns),
    }
}

/// What an error says, with the place in the file of the option that it is about, and without what variables hold.
pub(crate) fn explained(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let given = given();
    if !matches!(error.downcast_ref::<Error>(), Some(Error::Usage(_))) {
        return given.settings.masked(&text);
    }
    // The text is for people; that it names the option is for them, and looked for only to add where that stands.
    let about = given.said.iter().filter(|(_, said)| said.source == Source::File).find(|(key, _)| names(&text, key));
    let place = about.and_then(|(key, _)| given.settings.place(key));
    let text = given.settings.masked(&text);
    place.map_or(text.clone(), |place| format!("{place}: {text}"))
}

fn names(text: &str, key: &str) -> bool {
    let flag = format!("--{key}");
    let is_end = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
    let named = text.match_indices(&flag).any(|(at, _)| is_end(&text[at + flag.len()..]));
    // Messages that name no option begin with what they are about.
    let beginning = match key {
        "key-template" => "key template",
        "store" => "cannot use this store",
        PATTERNS => "pattern ",
        _ => return named,
    };
    text.starts_with(beginning) || (named && key != "store")
}
