//! `litesnap completions` and `litesnap man`: what is made of the command line's own description.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Whose completions to print
    pub(crate) shell: Shell,
}

/// The shells that completions are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    /// `litesnap completions bash > /etc/bash_completion.d/litesnap`
    Bash,
    /// `litesnap completions zsh > /usr/local/share/zsh/site-functions/_litesnap`
    Zsh,
    /// `litesnap completions fish > ~/.config/fish/completions/litesnap.fish`
    Fish,
    /// `litesnap completions elvish >> ~/.config/elvish/rc.elv`
    Elvish,
    /// `litesnap completions powershell >> $PROFILE`
    Powershell,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Folder for the pages, one for each command: litesnap.1, litesnap-replicate.1 and so on; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}
