//! What the service manager is told: ready, a line on how it goes, still alive, stopping. The protocol of `sd_notify(3)`.
//!
//! One datagram per message, to the socket that the manager named; there is no answer. Where nobody named one, there is no
//! [`Notifier`]. Still alive means not hung: while the store is down the loop is as alive as ever, and a restart would help nobody.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::control::Control;
use crate::monitor::{Monitor, Vitals};

/// A manager that does not take a message at once is busy; the message is lost after this.
const SEND_TIME_MAX: Duration = Duration::from_secs(1);
/// The line on how it goes has no more characters.
const STATUS_LEN_MAX: usize = 400;
/// Nothing at all has happened for this long in a cycle: it hangs. No single step takes as long: a request ends after its
/// timeout, a look at a file after that of its disk.
pub const HUNG_AFTER: Duration = Duration::from_secs(15 * 60);

/// The way to the service manager.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    to: SocketAddr,
    /// The manager wants to hear that we live at least this often.
    watchdog: Option<Duration>,
    hung_after: Duration,
    said_stopping: AtomicBool,
}

impl Notifier {
    /// The manager that `var` tells of: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`. One request to the store may take
    /// `request_timeout`. `None` if there is no manager; a socket that cannot be used is told once and is none.
    #[must_use]
    pub fn from_env(var: impl Fn(&str) -> Option<String>, request_timeout: Duration) -> Option<Self> {
        let name = var("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
        let opened = address(&name).and_then(|to| {
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(SEND_TIME_MAX))?;
            Ok((socket, to))
        });
        let watchdog = watchdog(&var, std::process::id());
        let hung_after = HUNG_AFTER.max(request_timeout.saturating_mul(3));
        match opened {
            Ok((socket, to)) => Some(Self { socket, to, watchdog, hung_after, said_stopping: AtomicBool::new(false) }),
            Err(e) => {
                log::warn!("the service manager is not told anything: NOTIFY_SOCKET cannot be used: {e}");
                None
            }
        }
    }

    /// All is open and answering; the first cycle begins.
    pub fn ready(&self) {
        self.send("READY=1\nSTATUS=the first pass is under way");
    }

    /// A line on how it goes.
    pub fn status(&self, vitals: &Vitals) {
        let line: String = status_line(vitals).replace(char::is_control, " ").chars().take(STATUS_LEN_MAX).collect();
        self.send(&format!("STATUS={line}"));
    }

    /// A stop was asked for; said once.
    pub fn stopping(&self) {
        if !self.said_stopping.swap(true, Ordering::SeqCst) {
            self.send("STOPPING=1\nSTATUS=stopping: what is under way is finished or aborted, then recorded");
        }
    }

    /// Says that it lives, as often as the manager wants, and that it stops, once it does; for ever.
    pub async fn attend(&self, monitor: &Monitor, control: &Control) {
        let mut stopping = false;
        loop {
            if self.watchdog.is_some() && !monitor.hangs(self.hung_after) {
                self.send("WATCHDOG=1");
            }
            let pause = self.watchdog.map_or(Duration::from_secs(3600), |limit| limit / 2);
            if stopping {
                tokio::time::sleep(pause).await;
            } else {
                // Either is reason enough to look again.
                stopping = tokio::time::timeout(pause, control.until_stopped()).await.is_ok();
                if stopping {
                    self.stopping();
                }
            }
        }
    }

    fn send(&self, message: &str) {
        if let Err(e) = self.socket.send_to_addr(message.as_bytes(), &self.to) {
            log::debug!("the service manager could not be told {}: {e}", message.lines().next().unwrap_or_default());
        }
    }
}

/// A path, or with an `@` in front a name in the abstract namespace.
fn address(name: &str) -> std::io::Result<SocketAddr> {
    match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None if name.starts_with('/') => SocketAddr::from_pathname(name),
        None => Err(std::io::Error::other("it is neither a path nor a name that begins with @")),
    }
}

/// How often process `pid` is to say that it lives.
fn watchdog(var: &impl Fn(&str) -> Option<String>, pid: u32) -> Option<Duration> {
    let is_ours = var("WATCHDOG_PID").is_none_or(|of| of == pid.to_string());
    let limit = var("WATCHDOG_USEC")?.parse().ok().map(Duration::from_micros);
    limit.filter(|limit| is_ours && !limit.is_zero())
}

fn status_line(vitals: &Vitals) -> String {
    let Some(last) = &vitals.last else { return "the first pass is under way".into() };
    let wait = match vitals.backlog.count {
        0 => "every change is stored".into(),
        n => format!("{n} changes not stored, the oldest for {} s", vitals.backlog.oldest_s),
    };
    let trouble = vitals.complaints.first().or(last.error.as_ref()).map(|what| format!("; {what}")).unwrap_or_default();
    let failed = if last.failed > 0 { format!(", {} failing", last.failed) } else { String::new() };
    format!("{} databases{failed}, {wait}, {} snapshots since the start{trouble}", last.databases, vitals.totals.stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(vars: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
        |name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
    }

    #[test]
    fn who_is_told_by_table() {
        let minute = Duration::from_secs(60);
        assert!(Notifier::from_env(env(&[]), minute).is_none());
        assert!(Notifier::from_env(env(&[("NOTIFY_SOCKET", "")]), minute).is_none());
        assert!(Notifier::from_env(env(&[("NOTIFY_SOCKET", "vsock:2:1234")]), minute).is_none());
        let found =
            Notifier::from_env(env(&[("NOTIFY_SOCKET", "/run/x"), ("WATCHDOG_USEC", "5000000")]), minute).unwrap();
        assert_eq!((found.to.as_pathname(), found.watchdog), (Some("/run/x".as_ref()), Some(Duration::from_secs(5))));
        let found = Notifier::from_env(env(&[("NOTIFY_SOCKET", "@x y")]), minute * 30).unwrap();
        assert_eq!((found.to.as_abstract_name(), found.watchdog), (Some(&b"x y"[..]), None));
        assert_eq!((found.hung_after, HUNG_AFTER), (minute * 90, minute * 15));
    }

    #[test]
    fn the_watchdog_of_another_process_is_not_ours() {
        let for_1 = env(&[("WATCHDOG_USEC", "10"), ("WATCHDOG_PID", "1")]);
        assert_eq!(watchdog(&for_1, 1), Some(Duration::from_micros(10)));
        assert_eq!(watchdog(&for_1, 2), None);
        assert_eq!(watchdog(&env(&[("WATCHDOG_USEC", "0")]), 1), None);
        assert_eq!(watchdog(&env(&[("WATCHDOG_USEC", "soon")]), 1), None);
    }
}
