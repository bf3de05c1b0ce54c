//! What was asked for, validated: the only home of defaults and limits.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::detect::Pace;
use crate::error::{Error, Result};
use crate::fs::shown;
use crate::layout::{TEMPLATE_DEFAULT, Template};
use crate::pattern::{Excludes, Pattern};
use crate::retention::Rules;
use crate::store::StoreOptions;
use crate::timestamp::Timestamp;
use crate::verify::Share;

/// Between two cycles.
pub const INTERVAL_DEFAULT: &str = "30s";
/// Requests to the store at once.
pub const CONCURRENCY_DEFAULT: usize = 100;
/// Bytes of snapshots in memory.
pub const MEMORY_LIMIT_DEFAULT: &str = "256MiB";
/// Room for the copy, compression and parts of one large database.
pub const MEMORY_LIMIT_MIN: u64 = 32 << 20;
/// Longest wait for one answer of the store.
pub const REQUEST_TIMEOUT_DEFAULT: &str = "60s";
/// A hundred years: with more, times to come could not be computed.
const DURATION_MAX: Duration = Duration::from_secs(36_500 * 86_400);
/// Each run lists the store: more often than this, it would do nothing else.
const VERIFY_EVERY_MIN: Duration = Duration::from_secs(60);
/// Each heartbeat is an object that is kept: more often would fill the bucket.
const HEARTBEAT_OBJECT_MIN: Duration = Duration::from_secs(60);
/// One in so many of the known databases may be gone in one cycle without anybody asking.
pub const GONE_SHARE_DIVISOR: u64 = 10;
/// And this many may be, whatever their share.
pub const GONE_COUNT_MAX: u64 = 20;

/// Everything `replicate` needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// What to back up.
    pub patterns: Vec<Pattern>,
    /// What not to.
    pub excludes: Excludes,
    /// Where to.
    pub store: StoreOptions,
    /// Under which keys.
    pub template: Template,
    /// This host's name, in keys and descriptions.
    pub host: String,
    /// Directory of the state, one file in it per store and prefix.
    pub state_dir: PathBuf,
    /// From the start of one cycle to the start of the next.
    pub interval: Duration,
    /// Requests to the store at once, at least 1.
    pub concurrency: usize,
    /// Bytes of snapshots in memory, at least [`MEMORY_LIMIT_MIN`].
    pub memory_limit: u64,
    /// Cooldown and refresh.
    pub pace: Pace,
    /// Bytes a second to the store; 0 for no limit.
    pub limit_upload: u64,
    /// Read databases at rest through SQLite, too.
    pub always_sqlite: bool,
    /// Databases that may be gone in one cycle; `None` for the rule of [`gone_max`].
    pub max_gone: Option<u64>,
    /// What is done beside the loop.
    pub upkeep: Schedule,
    /// Whom the loop tells how it fares.
    pub telling: Telling,
}

/// Whom the loop tells how it fares, and what is too late.
#[derive(Clone, Default)]
pub struct Telling {
    /// Answers HTTP here.
    pub listen: Option<SocketAddr>,
    /// `listen` may be an address that other hosts reach.
    pub allow_public: bool,
    /// A change that is not stored for longer than this makes the loop unhealthy.
    pub max_unprotected: Option<Duration>,
    /// Is asked for (GET) after each cycle in which everything is fresh.
    pub heartbeat_url: Option<url::Url>,
    /// A heartbeat object is stored this often.
    pub heartbeat_object: Option<Duration>,
}

/// Not derived: heartbeat services put their secret into the path.
impl std::fmt::Debug for Telling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telling")
            .field("listen", &self.listen)
            .field("allow_public", &self.allow_public)
            .field("max_unprotected", &self.max_unprotected)
            .field("heartbeat_url", &self.heartbeat_url.as_ref().map(|_| "***"))
            .field("heartbeat_object", &self.heartbeat_object)
            .finish()
    }
}

impl Telling {
    fn check(&self) -> Result<()> {
        if let Some(listen) = self.listen.filter(|listen| !listen.ip().is_loopback() && !self.allow_public) {
            let port = listen.port();
            return Err(Error::Usage(format!(
                "--listen {listen} can be reached by other hosts, and anybody there would be answered: give 127.0.0.1:{port}, or --allow-public if that is meant"
            )));
        }
        if self.heartbeat_object.is_some_and(|every| every < HEARTBEAT_OBJECT_MIN) {
            return Err(Error::Usage("--heartbeat-object is too short: give a minute or more, such as 1h".into()));
        }
        if self.max_unprotected.is_some_and(|age| age.is_zero()) {
            return Err(Error::Usage("--max-unprotected of 0 could never be kept: give a time such as 5m".into()));
        }
        Ok(())
    }
}

/// What is to be done beside the loop.
#[derive(Debug, Clone, Default)]
pub struct Schedule {
    /// Prune by these rules once a day; not at all if there is none.
    pub keep: Rules,
    /// Verify a share of what is stored, this often.
    pub verify: Option<(Duration, Share)>,
}

impl Schedule {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keep.is_empty() && self.verify.is_none()
    }
}

/// Databases of `known` that may be gone in one cycle without anybody asking, as long as others are there.
#[must_use]
pub fn gone_max(known: u64) -> u64 {
    GONE_COUNT_MAX.max(known / GONE_SHARE_DIVISOR)
}

impl Config {
    /// Every default, nothing to back up yet, and no place for the state.
    #[must_use]
    pub fn new(store: StoreOptions) -> Self {
        Self {
            patterns: Vec::new(),
            excludes: Excludes::default(),
            store,
            template: Template::parse(TEMPLATE_DEFAULT).expect("the default is a template"),
            host: String::new(),
            state_dir: PathBuf::new(),
            interval: parse_duration(INTERVAL_DEFAULT).expect("the default is a duration"),
            concurrency: CONCURRENCY_DEFAULT,
            memory_limit: parse_size(MEMORY_LIMIT_DEFAULT).expect("the default is a size"),
            pace: Pace::default(),
            limit_upload: 0,
            always_sqlite: false,
            max_gone: None,
            upkeep: Schedule::default(),
            telling: Telling::default(),
        }
    }

    /// What can be meant, but rarely is; one line each.
    #[must_use]
    pub fn doubtful(&self) -> Vec<String> {
        let cooldown = Duration::from_secs(self.pace.cooldown_s.into());
        let below = self.telling.max_unprotected.filter(|max| !cooldown.is_zero() && *max <= cooldown);
        let said = below.map(|max| {
            let (max, cooldown) = (humantime::format_duration(max), humantime::format_duration(cooldown));
            format!(
                "--max-unprotected {max} is not above --cooldown {cooldown}: a busy database makes this unhealthy for as long as its cooldown holds it back"
            )
        });
        said.into_iter().collect()
    }

    /// Checks what can only be checked together.
    ///
    /// # Errors
    /// [`Error::Usage`] with what is wrong and what would be right.
    pub fn check(&self) -> Result<()> {
        if self.patterns.is_empty() {
            return Err(Error::Usage("no pattern given: name what to back up, such as '/data/*/tenants/*.db'".into()));
        }
        if self.memory_limit < MEMORY_LIMIT_MIN {
            let given = self.memory_limit;
            return Err(Error::Usage(format!("--memory-limit of {given} bytes is too small: give 32MiB or more")));
        }
        if self.interval.is_zero() {
            return Err(Error::Usage(
                "--interval of 0 would never rest: give a time between passes, such as 1s".into(),
            ));
        }
        if self.store.request_timeout.is_zero() {
            return Err(Error::Usage(
                "--request-timeout of 0 leaves no time to answer: give a time such as 60s".into(),
            ));
        }
        if self.upkeep.verify.is_some_and(|(every, _)| every < VERIFY_EVERY_MIN) {
            return Err(Error::Usage("--verify-every is too short: give a minute or more, such as 1d".into()));
        }
        self.telling.check()?;
        for pattern in &self.patterns {
            let mut known = pattern.capture_names();
            known.extend(["path", "hostname"]);
            self.template.check(&known).map_err(|e| match e {
                Error::Usage(what) => Error::Usage(format!("{what} (with the pattern {})", pattern.text())),
                other => other,
            })?;
        }
        Ok(())
    }
}

/// Parses the patterns as typed. A folder means every database below it.
///
/// # Errors
/// [`Error::Usage`] with the offending part.
pub fn parse_patterns<S: AsRef<std::ffi::OsStr>>(texts: &[S], cwd: &Path) -> Result<Vec<Pattern>> {
    texts.iter().map(|text| Pattern::parse_or_directory(text.as_ref(), cwd, Path::is_dir)).collect()
}

/// What somebody typed, on one line.
fn typed(text: &str) -> impl std::fmt::Display {
    shown(Path::new(text))
}

/// A size in bytes: `256MiB`, `20MB`, `4096`. Powers of 1024 with an `i`, of 1000 without.
///
/// # Errors
/// What would be right.
pub fn parse_size(text: &str) -> std::result::Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "k" | "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        _ => 0,
    };
    let size = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).filter(|n| *n > 0);
    size.ok_or_else(|| format!("'{}' is no size: give a whole number and a unit, such as 256MiB", typed(text)))
}

/// A rate in bytes a second: a size followed by `/s`.
///
/// # Errors
/// What would be right.
pub fn parse_rate(text: &str) -> std::result::Result<u64, String> {
    let size = text.strip_suffix("/s").and_then(|size| parse_size(size).ok());
    size.ok_or_else(|| format!("'{}' is no rate: give a size a second, such as 20MiB/s", typed(text)))
}

/// A duration: `30s`, `5m`, `2h`, `30d`.
///
/// # Errors
/// What would be right.
pub fn parse_duration(text: &str) -> std::result::Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|_| {
        format!("'{}' is no duration: give a number and a unit, such as 30s, 5m, 2h or 30d", typed(text))
    })?;
    if duration > DURATION_MAX {
        return Err(format!("'{}' is too long: give at most 36500d, such as 30d", typed(text)));
    }
    Ok(duration)
}

/// An address to listen on: `127.0.0.1:9090`, `[::1]:9090`. A port alone (`9090`, `:9090`) means this host only.
///
/// # Errors
/// What would be right.
pub fn parse_listen(text: &str) -> std::result::Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text).parse::<u16>();
    let local = text.strip_prefix("localhost:").and_then(|port| port.parse::<u16>().ok());
    let address = match (port.ok().or(local), text.parse::<SocketAddr>()) {
        (Some(port), _) => Some(SocketAddr::from(([127, 0, 0, 1], port))),
        (None, parsed) => parsed.ok(),
    };
    address.ok_or_else(|| {
        format!("'{}' is no address: give an IP address and a port, such as 127.0.0.1:9090", typed(text))
    })
}

/// A URL to ask for. What is typed is not repeated: it may hold a secret.
///
/// # Errors
/// What would be right.
pub fn parse_heartbeat_url(text: &str) -> std::result::Result<url::Url, String> {
    let url = url::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| "this is no URL to ask for: give one such as https://status.example.org/ping/my-host".into())
}

/// A time to go back to: `2026-11-21T06:00:00Z`, the form that keys have, or how long before `now_ms`: `2h`.
///
/// # Errors
/// What would be right.
pub fn parse_at(text: &str, now_ms: i64) -> std::result::Result<Timestamp, String> {
    let example = "give a time such as 2026-11-21T06:00:00Z, or how long ago, such as 2h";
    let ms = if let Ok(ago) = humantime::parse_duration(text) {
        i64::try_from(ago.as_millis()).ok().and_then(|ago| now_ms.checked_sub(ago))
    } else if let Ok(time) = text.parse::<Timestamp>() {
        Some(time.as_ms())
    } else {
        chrono::DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_millis())
    };
    ms.and_then(Timestamp::from_ms).ok_or_else(|| format!("--at: '{}' is no time: {example}", typed(text)))
}

/// Where state lies unless told otherwise: what systemd gives, else what root or a user has.
///
/// # Errors
/// [`Error::Usage`] when there is no home directory either.
pub fn default_state_dir(env: impl Fn(&str) -> Option<String>, is_root: bool) -> Result<PathBuf> {
    let set = |name: &str| env(name).filter(|v| !v.is_empty());
    if let Some(dirs) = set("STATE_DIRECTORY") {
        // systemd gives several, separated by colons, if the unit names several.
        return Ok(PathBuf::from(dirs.split(':').next().unwrap_or(&dirs)));
    }
    if is_root {
        return Ok(PathBuf::from("/var/lib/litesnap"));
    }
    let base =
        set("XDG_STATE_HOME").map(PathBuf::from).or_else(|| set("HOME").map(|h| Path::new(&h).join(".local/state")));
    base.map(|base| base.join("litesnap")).ok_or_else(|| {
        Error::Usage("no place for the state: give --state-dir, such as --state-dir /var/lib/litesnap".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_rates_and_durations() {
        for (text, bytes) in [("1", 1), ("4096B", 4096), ("256MiB", 256 << 20), ("2 GiB", 2 << 30), ("5MB", 5_000_000)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "-1", "1.5GiB", "MiB", "10XB", "99999999999GiB"] {
            assert!(parse_size(text).unwrap_err().contains("such as 256MiB"), "{text}");
        }
        assert_eq!(parse_rate("20MiB/s"), Ok(20 << 20));
        assert!(parse_rate("20MiB").unwrap_err().contains("such as 20MiB/s"));
        assert_eq!(parse_duration("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert!(parse_duration("500000000000y").unwrap_err().contains("at most 36500d"));
        assert!(parse_duration("soon").unwrap_err().contains("such as 30s"));
        let odd = "1\x1b[2J\n";
        let share = odd.parse::<Share>().map_err(|e| e.to_string()).map(drop);
        for refused in [
            parse_size(odd).map(drop),
            parse_rate(odd).map(drop),
            parse_duration(odd).map(drop),
            parse_at(odd, 0).map(drop),
            share,
        ] {
            let text = refused.unwrap_err();
            assert!(!text.contains(char::is_control), "{text:?}");
        }
    }

    #[test]
    fn times_to_go_back_to() {
        let (now, at) = (1_795_244_400_000, |text: &str| parse_at(text, 1_795_244_400_000).map(Timestamp::as_ms));
        for (text, ms) in [
            ("2h", now - 7_200_000),
            ("1d 30m", now - 88_200_000),
            ("2026-11-21T06:00:00Z", 1_795_240_800_000),
            ("2026-11-21T06:00:00.123Z", 1_795_240_800_123),
            ("2026-11-21T07:00:00+01:00", 1_795_240_800_000),
            ("2026-11-21 06:00:00Z", 1_795_240_800_000),
            ("20261121T060000.123Z", 1_795_240_800_123),
        ] {
            assert_eq!(at(text), Ok(ms), "{text}");
        }
        for text in ["", "yesterday", "2026-11-21", "2026-11-21T06:00:00", "2026-13-01T00:00:00Z", "100y", "-2h"] {
            assert!(at(text).unwrap_err().contains("such as 2026-11-21T06:00:00Z"), "{text}");
        }
    }

    #[test]
    fn the_state_lies_where_the_service_manager_says_else_by_user() {
        let dir = |vars: &[(&str, &str)], root| {
            let vars: Vec<(String, String)> = vars.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            default_state_dir(|k| vars.iter().find(|(n, _)| n == k).map(|(_, v)| v.clone()), root)
                .map(|p| p.display().to_string())
                .map_err(|e| e.to_string())
        };
        assert_eq!(dir(&[("STATE_DIRECTORY", "/a:/b"), ("HOME", "/h")], true).unwrap(), "/a");
        assert_eq!(dir(&[("HOME", "/h")], true).unwrap(), "/var/lib/litesnap");
        assert_eq!(dir(&[("HOME", "/h"), ("XDG_STATE_HOME", "/x")], false).unwrap(), "/x/litesnap");
        assert_eq!(dir(&[("HOME", "/h")], false).unwrap(), "/h/.local/state/litesnap");
        assert!(dir(&[], false).unwrap_err().contains("--state-dir"));
    }
}
