//! The `litesnap` command: parse, start logging, call the library, print, exit code.

mod cli;
mod memory;
mod progress;
mod run;
mod signals;

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

fn main() -> ExitCode {
    // Copies, state and a folder's objects hold other people's data: nobody else's business. SQLite sets the mode of
    // sidecars itself, from the database's.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    memory::return_large_buffers();
    let cli = match run::file::command_line() {
        Ok(cli) => cli,
        Err(e) => return e.downcast_ref().map_or_else(|| failed(&e), usage),
    };
    let bar = progress::Bar::new();
    start_logging(&bar);
    let done = match cli.command {
        cli::Command::Replicate(args) => run::replicate(*args, bar),
        cli::Command::Explain(args) => run::explain(&args),
        cli::Command::Restore(args) => run::restore(*args, bar),
        cli::Command::Prune(args) => run::prune(&args),
        cli::Command::Purge(args) => run::purge(&args),
        cli::Command::Verify(args) => run::verify(&args, &bar),
        cli::Command::ForgetGone(args) => run::forget_gone(&args),
        cli::Command::Status(args) => run::status(&args),
        cli::Command::List(args) => run::list(&args),
        cli::Command::Show(args) => run::show(&args),
        cli::Command::Config(args) => run::config(&args.what),
        cli::Command::Demo(args) => run::demo(&args),
        cli::Command::Completions(args) => run::completions(&args),
        cli::Command::Man(args) => run::man(&args),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    tell(&format!("litesnap: {}", run::file::explained(error)));
    ExitCode::from(error.downcast_ref::<litesnap::error::Error>().map_or(1, litesnap::error::Error::exit_code))
}

/// One line for what is wrong on the command line; help and version as clap prints them.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let printed = error.print().or_else(run::ignore_closed);
            return if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            tell(cli::Cli::command().render_help().to_string().trim_end());
        }
        ErrorKind::MissingRequiredArgument if lacks_store(error) => {
            tell("litesnap: no store given: say where to, such as --store s3://my-bucket/backups or --store /backups");
        }
        _ => tell(&format!("litesnap: {} ({} shows everything)", one_line(error), help_command())),
    }
    ExitCode::from(2)
}

fn lacks_store(error: &clap::Error) -> bool {
    use clap::error::{ContextKind, ContextValue};
    let missing = error.get(ContextKind::InvalidArg);
    // Where it may be left out, but not beside other options of the store, clap names it in its text alone.
    let is_named = error.to_string().contains("not provided: store");
    is_named
        || matches!(missing, Some(ContextValue::Strings(args)) if args.iter().any(|arg| arg.starts_with("--store")))
}

/// What to type to see the options of the command that was typed.
fn help_command() -> String {
    let commands = cli::Cli::command();
    let typed = std::env::args().skip(1).find(|arg| commands.find_subcommand(arg).is_some());
    format!("litesnap {} --help", typed.as_deref().unwrap_or("replicate"))
}

/// What clap says is wrong, and its tip, without the usage that it shows below.
fn one_line(error: &clap::Error) -> String {
    let mut text = error.render().to_string();
    // What may hold a secret is not repeated.
    if let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg)
        && arg.starts_with("--heartbeat-url")
        && let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue)
    {
        text = text.replace(value.as_str(), "***");
    }
    let mut paragraphs = text.split("\n\n").map(|p| p.lines().map(str::trim).collect::<Vec<_>>().join(" "));
    let what = paragraphs.next().unwrap_or_default().replace(char::is_control, "\u{fffd}");
    let tip = paragraphs.find(|p| p.starts_with("tip: ")).map(|tip| format!("; {tip}")).unwrap_or_default();
    format!("{}{tip}", what.strip_prefix("error: ").unwrap_or(&what))
}

/// Nobody may be listening any more: no reason to panic, as `eprintln!` would.
fn tell(text: &str) {
    writeln!(std::io::stderr(), "{text}").ok();
}

fn start_logging(bar: &progress::Bar) {
    // Unset, RUST_LOG would show errors only.
    let env = env_logger::Env::default().default_filter_or("info");
    env_logger::Builder::from_env(env)
        .target(env_logger::Target::Pipe(Box::new(bar.writer())))
        .format_target(false)
        .init();
}
