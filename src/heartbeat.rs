//! The heartbeat: a URL that is asked for while everything is fresh, so that somebody else notices when that ends.
//!
//! Whether to beat is decided elsewhere. A beat never delays a cycle: it runs beside it, for a few seconds, and while one is under way
//! there is no other. The URL is a secret (such services put theirs into the path): only its host is ever named.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::redirect::{Attempt, Policy};
use url::Url;

use crate::error::{Error, Result};
use crate::object::LITESNAP_VERSION;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// For one attempt, redirects included.
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(10);
/// Before the second and last attempt.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const REDIRECTS_MAX: usize = 3;
/// A repeated complaint is logged at most this often.
const REPEAT: Duration = Duration::from_secs(30);

/// Where beats go.
pub struct Heartbeat {
    client: reqwest::Client,
    url: Url,
    under_way: AtomicBool,
    trouble: Mutex<Trouble>,
}

#[derive(Debug, Default)]
struct Trouble {
    since: Option<Instant>,
    last_said: Option<Instant>,
}

/// Not derived: the URL is a secret.
impl std::fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heartbeat").field("host", &self.host()).finish_non_exhaustive()
    }
}

impl Heartbeat {
    /// Beats at `url`. Asks nobody yet.
    ///
    /// # Errors
    /// [`Error::Usage`] when no client can be made, for want of trusted certificates for example.
    pub fn new(url: Url) -> Result<Self> {
        let client = reqwest::Client::builder()
            .user_agent(format!("litesnap/{LITESNAP_VERSION}"))
            .connect_timeout(CONNECT_TIME_MAX)
            .timeout(ATTEMPT_TIME_MAX)
            .redirect(Policy::custom(follow))
            // It would tell the place that we are sent to where we come from: the secret.
            .referer(false)
            .http1_only()
            // The next beat is half a minute away.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|e| Error::Usage(format!("--heartbeat-url cannot be asked for: {}", cause(&e))))?;
        Ok(Self { client, url, under_way: AtomicBool::new(false), trouble: Mutex::default() })
    }

    /// The host that is asked, for people.
    #[must_use]
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// Asks for the URL, once more if that fails; nothing if a beat is under way. Says when it fails, at most every half minute, and when
    /// it works again.
    pub async fn beat(&self) {
        if self.under_way.swap(true, Ordering::SeqCst) {
            return;
        }
        let _over = Over(&self.under_way);
        let mut beaten = self.ask().await;
        if beaten.is_err() {
            tokio::time::sleep(RETRY_PAUSE).await;
            beaten = self.ask().await;
        }
        match beaten {
            Ok(()) => self.works(),
            Err(why) => self.fails(&why),
        }
    }

    async fn ask(&self) -> std::result::Result<(), String> {
        let answer = self.client.get(self.url.clone()).send().await.map_err(|e| cause(&e))?;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(format!("the answer was {}", status.as_u16())) }
    }

    fn works(&self) {
        let mut trouble = self.trouble.lock();
        if let Some(since) = trouble.since.take() {
            log::info!("the heartbeat at {} works again after {} s", self.host(), since.elapsed().as_secs());
        }
        trouble.last_said = None;
    }

    fn fails(&self, why: &str) {
        let mut trouble = self.trouble.lock();
        trouble.since.get_or_insert_with(Instant::now);
        if trouble.last_said.is_none_or(|said| said.elapsed() >= REPEAT) {
            log::warn!("the heartbeat at {} fails: {why}; tried again after each pass", self.host());
            trouble.last_said = Some(Instant::now());
        }
    }
}

/// Ends a beat also when it is dropped in the middle.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

fn follow(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let was_safe = attempt.previous().last().is_some_and(|from| from.scheme() == "https");
    if attempt.previous().len() > REDIRECTS_MAX {
        return attempt.error("it is redirected again and again");
    }
    if was_safe && attempt.url().scheme() != "https" {
        return attempt.error("it is redirected to a place without TLS");
    }
    attempt.follow()
}

/// What lies at the bottom of a failure: never the URL, which only the layers above name.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", ATTEMPT_TIME_MAX.as_secs());
    }
    let mut bottom: &dyn StdError = error;
    while let Some(below) = bottom.source() {
        bottom = below;
    }
    // Without anything below, the outermost would tell itself, URL and all.
    if std::ptr::addr_eq(bottom, error) { "the request could not be made".into() } else { bottom.to_string() }
}
