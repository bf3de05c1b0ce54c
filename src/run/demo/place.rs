//! The folder of the demo, what lies where in it, and the commands that say so.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use litesnap::config::{Config, parse_patterns};
use litesnap::error::Error;
use litesnap::fs::{absolute, create_private_dir, shown};
use litesnap::layout::Template;
use litesnap::store::StoreOptions;

use super::tell::{literal, quoted, word};

/// The names come from where the stars stand.
const PATTERN: &str = "data/*/databases/*/branches/*/tenants/*.db";
const TEMPLATE: &str = "{{project}}/{{database}}/{{branch}}/{{tenant}}";

/// Where everything of one demo lies.
#[derive(Debug)]
pub(super) struct Place {
    /// Its folder as it was given, for commands that are typed where this one was.
    pub(super) typed: PathBuf,
    /// The same, absolute.
    root: PathBuf,
}

impl Place {
    /// Makes the folder.
    ///
    /// # Errors
    /// [`Error::Usage`] if something is there already: it is not ours, and stays as it is.
    pub(super) fn make(typed: &Path) -> anyhow::Result<Self> {
        let cwd = std::env::current_dir().context("cannot tell the current folder")?;
        let refused = |what: &str| {
            Error::Usage(format!("{} {what}: name a folder that is not there yet, such as --dir demo-2", shown(typed)))
        };
        if typed.to_str().is_none() {
            return Err(refused("has a name that is not UTF-8").into());
        }
        match std::fs::read_dir(typed).map(|mut inside| inside.next()) {
            Ok(Some(_)) => return Err(refused("is not empty").into()),
            Err(e) if e.kind() == ErrorKind::NotADirectory => return Err(refused("is no folder").into()),
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(refused(&format!("cannot be read ({e})")).into()),
            Ok(None) | Err(_) => create_private_dir(typed)?,
        }
        Ok(Self { typed: typed.to_path_buf(), root: absolute(typed, &cwd) })
    }

    /// Where the databases lie.
    pub(super) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// The folder that is the store.
    pub(super) fn store(&self) -> PathBuf {
        self.root.join("backup")
    }

    /// What replicating remembers.
    pub(super) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Where one database comes back as it was earlier.
    pub(super) fn earlier(&self) -> PathBuf {
        self.root.join("acme-before.db")
    }

    /// How `path`, which lies in the folder, is typed in a command.
    pub(super) fn word(&self, path: &Path) -> String {
        word(&self.as_typed(path))
    }

    /// How `path`, which lies in the folder, is shown.
    pub(super) fn as_typed(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).map_or_else(|_| path.to_path_buf(), |below| self.typed.join(below))
    }

    /// What [`Place::replicate_command`] configures.
    pub(super) fn config(&self) -> anyhow::Result<Config> {
        let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let pattern = format!("{}/{PATTERN}", literal(&self.root.to_string_lossy()));
        Ok(Config {
            patterns: parse_patterns(&[pattern], &self.root)?,
            template: Template::parse(TEMPLATE)?,
            host: name.filter(|name| !name.is_empty()).unwrap_or_else(|| "demo".into()),
            state_dir: self.state(),
            ..Config::new(self.store_options())
        })
    }

    /// The store.
    pub(super) fn store_options(&self) -> StoreOptions {
        StoreOptions::new(self.store().to_string_lossy())
    }

    /// One pass, as it would be typed.
    pub(super) fn replicate_command(&self) -> String {
        let pattern = quoted(&format!("{}/{PATTERN}", literal(&self.typed.to_string_lossy())));
        format!(
            "litesnap replicate {pattern} \\\n      --key-template '{TEMPLATE}' \\\n      {} --state-dir {} --once",
            self.store_option(),
            self.word(&self.state())
        )
    }

    /// `--store FOLDER`.
    pub(super) fn store_option(&self) -> String {
        format!("--store {}", self.word(&self.store()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_or_empty_folder_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = |path: &Path| Place::make(path).unwrap_err().downcast::<Error>().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        for (path, what) in [(dir.path().to_path_buf(), "is not empty"), (dir.path().join("file"), "is no folder")] {
            let error = refusal(&path);
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(what) && error.to_string().contains("--dir demo-2"), "{error}");
        }
        Place::make(&dir.path().join("new/er")).unwrap();
        Place::make(&dir.path().join("new/er")).unwrap();
    }
}
