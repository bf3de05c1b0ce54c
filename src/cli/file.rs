//! How a configuration file reaches the command line: as defaults of the arguments, put in before they are parsed. So the
//! option wins over its variable, the variable over the file and the file over what is built in, by clap's own rules, and
//! there is one list of options.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::builder::{Resettable, ValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, CommandFactory, Id};
use litesnap::error::Error;
use litesnap::settings::{Known, PATTERNS, Setting, Settings};

use super::{Cli, KeepArgs, Replicate, StoreArgs};

/// Variables of others that say the same as an option of ours, and win over the file as our own do.
const ALSO: [(&str, &[&str]); 2] = [
    ("region", &["AWS_REGION", "AWS_DEFAULT_REGION"]),
    ("endpoint", &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]),
];

/// Which options of the file a command takes: those that say the same in each command. What prune keeps is what replicate
/// keeps; a dry run, or what is printed, is each command's own affair.
pub(crate) fn takes(command: &str, key: &str) -> bool {
    let of = |args: Command| args.get_arguments().any(|arg| arg.get_id() != "help" && key_of(arg) == key);
    let of_store = || of(StoreArgs::augment_args(Command::new("store")));
    match command {
        "replicate" | "config" => true,
        // What replicate would do is explained by what replicate would take.
        "explain" => key != "json",
        "prune" => of_store() || of(KeepArgs::augment_args(Command::new("keep"))),
        "forget-gone" => of_store() || key == "state-dir",
        // Without a store it tells of every one that the state directory knows.
        "status" => key == "state-dir" || (of_store() && key != "store"),
        _ => of_store(),
    }
}

/// The arguments of `replicate`, which are the options that a file can give.
pub(crate) fn options() -> Vec<Arg> {
    let command = Replicate::augment_args(Command::new("replicate"));
    command.get_arguments().filter(|arg| arg.get_id() != "help").cloned().collect()
}

/// The name of an option in the file.
pub(crate) fn key_of(arg: &Arg) -> &str {
    if arg.is_positional() { PATTERNS } else { arg.get_long().unwrap_or_default() }
}

pub(crate) fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

pub(crate) fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// What the library needs to know of the options.
pub(crate) fn known() -> Vec<Known> {
    let named = |arg: &Arg| {
        let mut names = vec![key_of(arg).to_owned()];
        names.extend(arg.get_all_aliases().into_iter().flatten().map(str::to_owned));
        if arg.is_positional() {
            names.push("pattern".to_owned());
        }
        Known { names, is_list: is_list(arg) }
    };
    options().iter().map(named).collect()
}

/// What was typed of `--config`, or its variable says, and the command. Nothing is refused here: the second look does that.
/// `Err` for what needs no file, such as help.
pub(crate) fn first_look(args: &[OsString]) -> Result<(Option<OsString>, Option<String>), clap::Error> {
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(args)?;
    let file = matches.try_get_one::<OsString>("config").ok().flatten().cloned();
    Ok((file, matches.subcommand_name().map(str::to_owned)))
}

/// Checks what the file gives, and puts it into the arguments of `name` that take it.
///
/// # Errors
/// [`Error::Usage`] with file and line for a value that its option does not take.
pub(crate) fn merge(
    command: Command,
    name: &str,
    settings: &Settings,
    env: &[(String, String)],
) -> Result<Command, Error> {
    let options = options();
    let mut given = BTreeMap::new();
    for setting in &settings.options {
        let Some(arg) = options.iter().find(|arg| key_of(arg) == setting.key) else {
            let what = format!("{}:{}: this litesnap has no option {}", settings.name, setting.line, setting.key);
            return Err(Error::Usage(what));
        };
        check(arg, setting, settings)?;
        let is_set = |name: &str| env.iter().any(|(k, v)| k == name && !v.is_empty());
        let also = ALSO.iter().find(|(key, _)| *key == setting.key);
        if takes(name, &setting.key) && !also.is_some_and(|(_, names)| names.iter().any(|name| is_set(name))) {
            given.insert(arg.get_id().to_string(), setting);
        }
    }
    Ok(command.mut_subcommand(name, |command| with_defaults(command, &given)))
}

/// In a command, and those below it.
fn with_defaults(mut command: Command, given: &BTreeMap<String, &Setting>) -> Command {
    let ids: Vec<String> = command.get_arguments().map(|arg| arg.get_id().to_string()).collect();
    for id in ids {
        let Some(setting) = given.get(&id) else { continue };
        let values: Vec<OsString> = setting.values.iter().map(|value| value.text.clone().into()).collect();
        command = command.mut_arg(id, |arg| {
            arg.required(false).required_unless_present(Resettable::<Id>::Reset).default_values(values)
        });
    }
    let below: Vec<String> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    below.into_iter().fold(command, |command, name| command.mut_subcommand(name, |below| with_defaults(below, given)))
}

/// Has the option's own parser look at each value, alone: so that it is known where a refused one stands.
fn check(arg: &Arg, setting: &Setting, settings: &Settings) -> Result<(), Error> {
    for value in &setting.values {
        let parser: ValueParser = arg.get_value_parser().clone();
        let alone = Arg::new("value").long("value").value_name("VALUE").value_parser(parser).allow_hyphen_values(true);
        let typed = [OsString::from("x"), "--value".into(), value.text.clone().into()];
        let Err(error) = Command::new("x").disable_help_flag(true).arg(alone).try_get_matches_from(typed) else {
            continue;
        };
        let why = match std::error::Error::source(&error) {
            _ if is_switch(arg) => format!("'{}' is neither yes nor no: write true or false", value.shown()),
            // Parsers of ours name the value and say what would be right; the standard library's do neither.
            Some(source) if source.to_string().contains('\'') => source.to_string(),
            _ => crate::one_line(&error).replace(" for '--value <VALUE>'", ""),
        };
        let what = format!("{}:{}: `{}`: {}", settings.name, value.line, setting.key, settings.masked(&why));
        return Err(Error::Usage(what.replace(char::is_control, "\u{fffd}")));
    }
    Ok(())
}

/// Where the value of an option comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Source {
    /// Typed.
    Flag,
    /// Its variable, by name.
    Variable(String),
    /// The file.
    File,
    /// Built in; also where there is none.
    #[default]
    Default,
}

/// The value of an option before it was parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) source: Source,
    /// None of an option that has no value, or that the command has not.
    pub(crate) values: Vec<String>,
}

/// What is said of each option in the command that was typed, by the option's name in the file.
pub(crate) fn said(matches: &ArgMatches, settings: &Settings, env: &[(String, String)]) -> BTreeMap<String, Said> {
    let mut matches = matches;
    while let Some((_, below)) = matches.subcommand() {
        matches = below;
    }
    let is_set = |name: &&&str| env.iter().any(|(k, v)| k == **name && !v.is_empty());
    let said = |arg: &Arg| {
        let (id, key) = (arg.get_id().as_str(), key_of(arg));
        if matches.try_contains_id(id).is_err() {
            return Said::default();
        }
        let also = ALSO.iter().find(|(known, _)| *known == key).map_or(&[][..], |(_, names)| names);
        let source = match (matches.value_source(id), also.iter().find(is_set)) {
            (Some(ValueSource::CommandLine), _) => Source::Flag,
            (Some(ValueSource::EnvVariable), _) => Source::Variable(variable(arg)),
            (_, Some(name)) => Source::Variable((*name).to_owned()),
            (Some(_), None) if settings.get(key).is_some() => Source::File,
            _ => Source::Default,
        };
        let values = matches.get_raw(id).into_iter().flatten();
        Said { source, values: values.map(|value| value.to_string_lossy().into_owned()).collect() }
    };
    options().iter().map(|arg| (key_of(arg).to_owned(), said(arg))).collect()
}

fn variable(arg: &Arg) -> String {
    arg.get_env().unwrap_or_default().to_string_lossy().into_owned()
}
