//! The options that say whom the loop tells how it fares.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use litesnap::config::{Telling, parse_duration, parse_heartbeat_url, parse_listen};

use super::parse_switch;

/// Whom the loop tells how it fares.
#[derive(Args)]
pub(crate) struct TellingArgs {
    /// Answer HTTP here while the loop runs (not with --once): /stats, /metrics, /healthz, /readyz; a port alone means
    /// 127.0.0.1, port 0 any that is free
    #[arg(long, value_name = "ADDRESS", value_parser = parse_listen, env = "LITESNAP_LISTEN")]
    pub(crate) listen: Option<SocketAddr>,

    /// Let --listen be an address that other hosts can reach; there is no password
    #[arg(long, value_parser = parse_switch, env = "LITESNAP_ALLOW_PUBLIC")]
    pub(crate) allow_public: bool,

    /// Unhealthy, and no heartbeat, while a change is not stored for longer than this
    #[arg(long, value_name = "TIME", value_parser = parse_duration, env = "LITESNAP_MAX_UNPROTECTED")]
    pub(crate) max_unprotected: Option<Duration>,

    /// Ask for this URL after each pass in which everything is fresh, and not when anything is not
    #[arg(long, value_name = "URL", value_parser = parse_heartbeat_url, env = "LITESNAP_HEARTBEAT_URL", hide_env_values = true)]
    pub(crate) heartbeat_url: Option<url::Url>,

    /// Store a small object with the counts this often, for `litesnap status --store` on another host
    #[arg(long, value_name = "TIME", value_parser = parse_duration, env = "LITESNAP_HEARTBEAT_OBJECT")]
    pub(crate) heartbeat_object: Option<Duration>,
}

/// Not derived: the URL holds a secret.
impl std::fmt::Debug for TellingArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.telling().fmt(f)
    }
}

impl TellingArgs {
    pub(crate) fn telling(&self) -> Telling {
        Telling {
            listen: self.listen,
            allow_public: self.allow_public,
            max_unprotected: self.max_unprotected,
            heartbeat_url: self.heartbeat_url.clone(),
            heartbeat_object: self.heartbeat_object,
        }
    }
}
