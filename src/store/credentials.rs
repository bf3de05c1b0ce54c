//! Where AWS credentials would come from, and what to run when they are where only the AWS CLI looks.
//!
//! Holds no secret: files are looked at for their presence and for the names of settings, never for values.

use std::path::{Path, PathBuf};

use super::query::{Env, var};

/// The line to run when credentials exist only in a profile, which object_store does not read. `None` when the
/// environment already says where credentials come from, or when there is no profile either.
///
/// For use when a store refused us. `home` is the user's home directory.
#[must_use]
pub fn credentials_hint(env: &Env, home: Option<&Path>) -> Option<String> {
    const READ_BY_US: [&str; 4] = [
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ];
    if READ_BY_US.iter().any(|name| var(env, name).is_some()) {
        return None;
    }
    let profile = var(env, "AWS_PROFILE");
    if profile.is_none() && !has_profiles(env, home) {
        return None;
    }
    let profile = profile.unwrap_or("default");
    Some(format!("eval \"$(aws configure export-credentials --profile {} --format env)\"", quoted(profile)))
}

fn has_profiles(env: &Env, home: Option<&Path>) -> bool {
    let file = |name: &str, below_home: &str| -> Option<PathBuf> {
        var(env, name).map(PathBuf::from).or_else(|| Some(home?.join(below_home)))
    };
    let credentials = file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials").is_some_and(|path| path.exists());
    // A config file alone may hold no more than a region.
    let config = file("AWS_CONFIG_FILE", ".aws/config").and_then(|path| std::fs::read_to_string(path).ok());
    let gives_credentials = |line: &str| {
        ["sso_", "credential_process", "role_arn", "aws_access_key_id"].iter().any(|k| line.trim_start().starts_with(k))
    };
    credentials || config.is_some_and(|text| text.lines().any(gives_credentials))
}

fn quoted(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '@'));
    if plain { name.to_owned() } else { format!("'{}'", name.replace('\'', "'\\''")) }
}
