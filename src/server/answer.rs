//! What is answered to which request.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;

use super::stats;
use crate::metrics;
use crate::monitor::{Monitor, Vitals};
use crate::notify::HUNG_AFTER;

const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// However often it is asked, the loop is looked at no more often than this.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Where requests are answered.
#[derive(Debug)]
pub(super) struct Desk {
    monitor: Arc<Monitor>,
    /// Only this host can connect: then only its own names for itself are answered.
    is_local: bool,
    seen: Mutex<Option<(Instant, Arc<Vitals>)>>,
}

/// Status, kind of text, text.
type Answer = (StatusCode, &'static str, String);

impl Desk {
    pub(super) fn new(monitor: Arc<Monitor>, is_local: bool) -> Self {
        Self { monitor, is_local, seen: Mutex::default() }
    }

    pub(super) fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let (status, kind, text) = self.choose(request);
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }

    fn choose<B>(&self, request: &Request<B>) -> Answer {
        if self.is_local && !names_this_host(request) {
            let text = "the Host header names neither localhost nor an IP address\n".into();
            return (StatusCode::FORBIDDEN, PLAIN, text);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return (StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD are answered\n".into());
        }
        match request.uri().path() {
            "/" => (StatusCode::OK, PLAIN, index(&self.vitals())),
            "/stats" => (StatusCode::OK, JSON, stats::json(&self.vitals(), resident_bytes())),
            "/metrics" => (StatusCode::OK, metrics::CONTENT_TYPE, metrics::text(&self.vitals(), resident_bytes())),
            "/healthz" => health(&self.vitals().complaints),
            "/readyz" => health(&unready(&self.vitals())),
            "/livez" => health(&self.hung()),
            _ => (StatusCode::NOT_FOUND, PLAIN, "there is /stats, /metrics, /healthz, /readyz and /livez\n".into()),
        }
    }

    /// What a restart would mend, and nothing else.
    fn hung(&self) -> Vec<String> {
        let hangs = self.monitor.hangs(HUNG_AFTER);
        let said = hangs.then(|| format!("nothing has happened for {} s", HUNG_AFTER.as_secs()));
        said.into_iter().collect()
    }

    fn vitals(&self) -> Arc<Vitals> {
        let mut seen = self.seen.lock();
        if let Some((_, vitals)) = seen.as_ref().filter(|(at, _)| at.elapsed() < LOOK_EVERY) {
            return Arc::clone(vitals);
        }
        let vitals = Arc::new(self.monitor.vitals());
        *seen = Some((Instant::now(), Arc::clone(&vitals)));
        vitals
    }
}

/// Whether the request is for a name that only this host has for itself. A page in somebody's browser may make its own
/// name mean 127.0.0.1; the browser then still says which name it asked for.
fn names_this_host<B>(request: &Request<B>) -> bool {
    let in_uri = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let in_headers = request.headers().get_all(HOST).iter().map(HeaderValue::as_bytes);
    in_headers.chain(in_uri).all(|host| std::str::from_utf8(host).is_ok_and(is_this_host))
}

/// `localhost` or any IP address, with or without a port.
fn is_this_host(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

fn index(vitals: &Vitals) -> String {
    format!(
        "litesnap {} on {}, storing to {}\n\n\
         /stats    counts as JSON\n\
         /metrics  the same for Prometheus\n\
         /healthz  200 while all is well, else 503 and why\n\
         /readyz   the same, and 503 until a first cycle has succeeded\n\
         /livez    503 only while it hangs: what a restart would mend\n",
        vitals.version, vitals.host, vitals.store
    )
}

fn health(complaints: &[String]) -> Answer {
    if complaints.is_empty() {
        return (StatusCode::OK, PLAIN, "ok\n".into());
    }
    let lines = complaints.iter().map(|complaint| complaint.replace(char::is_control, " ") + "\n");
    (StatusCode::SERVICE_UNAVAILABLE, PLAIN, lines.collect())
}

fn unready(vitals: &Vitals) -> Vec<String> {
    let first = (!vitals.is_ready).then(|| "no cycle has succeeded since the start".to_owned());
    first.into_iter().chain(vitals.complaints.iter().cloned()).collect()
}

/// Memory that this process takes, in bytes; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_by_table() {
        for (host, is_local) in [
            ("localhost", true),
            ("LocalHost:9090", true),
            ("127.0.0.1", true),
            ("127.0.0.1:9090", true),
            ("[::1]", true),
            ("[::1]:9090", true),
            ("::1", false),
            ("", false),
            ("evil.example", false),
            ("evil.example:9090", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:80", false),
            ("[evil]:80", false),
        ] {
            assert_eq!(is_this_host(host), is_local, "{host}");
        }
    }

    #[test]
    fn memory_is_told() {
        assert!(resident_bytes() > 1 << 20);
    }
}
