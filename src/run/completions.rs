//! `litesnap completions` and `litesnap man`: made of the tree of commands that also reads the command line, so that they
//! name what there is.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_complete::aot;

use super::print;
use crate::cli::{Cli, Completions, Man, Shell};

/// Prints what the shell is to read.
pub(crate) fn completions(args: &Completions) -> anyhow::Result<u8> {
    let shell = match args.shell {
        Shell::Bash => aot::Shell::Bash,
        Shell::Zsh => aot::Shell::Zsh,
        Shell::Fish => aot::Shell::Fish,
        Shell::Elvish => aot::Shell::Elvish,
        Shell::Powershell => aot::Shell::PowerShell,
    };
    let mut script = Vec::new();
    aot::generate(shell, &mut without_hidden(Cli::command()), "litesnap", &mut script);
    print(&String::from_utf8(script).context("clap wrote completions that are no text")?)?;
    Ok(0)
}

/// The tree without the demo's hidden option, which the generators would offer.
fn without_hidden(tree: Command) -> Command {
    tree.mut_subcommand("demo", |demo| {
        let shown = demo.get_arguments().filter(|arg| !arg.is_hide_set()).cloned().collect::<Vec<_>>();
        Command::new("demo").about(demo.get_about().cloned().unwrap_or_default()).args(shown)
    })
}

/// Writes the manual pages, over older ones of the same names.
pub(crate) fn man(args: &Man) -> anyhow::Result<u8> {
    let folder = &args.out;
    make_readable_folder(folder).with_context(|| format!("cannot create the folder {}", folder.display()))?;
    let mut tree = Cli::command().disable_help_subcommand(true);
    tree.build();
    let mut written = Vec::new();
    write_pages(&tree, folder, &mut written)?;
    print(&format!("{} pages: man {}\n", written.len(), written[0].display()))?;
    Ok(0)
}

/// Makes `folder`, if it is not there, so that others can read what is in it: what this process makes is otherwise for its
/// user alone.
fn make_readable_folder(folder: &Path) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
}

/// The page of `command`, and those of the commands below it.
fn write_pages(command: &Command, folder: &Path, written: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let mut command = command.clone();
    if let Some(after) = command.get_after_help().map(|after| after.to_string().replace('\n', "\n\n")) {
        // A page runs lines together that are not paragraphs.
        command = command.after_help(after);
    }
    let page = clap_mangen::Man::new(command.clone());
    let mut text = Vec::new();
    page.render(&mut text).context("cannot make a page")?;
    let file = folder.join(page.get_filename());
    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::write(&file, text)
        .and_then(|()| std::fs::set_permissions(&file, readable))
        .with_context(|| format!("cannot write {}", file.display()))?;
    written.push(file);
    command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
        .try_for_each(|below| write_pages(below, folder, written))
}
