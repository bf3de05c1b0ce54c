//! The small parts of a store's address: environment, query, endpoint, and how a refusal reads.

use url::Url;

use super::address::Cloud;
use crate::error::{Error, Result};

/// Environment variables as name and value, in any order. An empty value counts as absent.
pub type Env = [(String, String)];

/// Looks `name` up in `env`.
pub(super) fn var<'a>(env: &'a Env, name: &str) -> Option<&'a str> {
    env.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
}

/// A refusal: what is wrong, and what would be right, on one line.
pub(super) fn usage(what: &str, example: &str) -> Error {
    let what: String = what.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Error::Usage(format!("cannot use this store: {what}; an example: {example}"))
}

/// Returns `endpoint` in its canonical spelling, without a slash at its end.
pub(super) fn check_endpoint(endpoint: &str, allow_http: bool) -> Result<String> {
    const EXAMPLE: &str = "--endpoint https://minio.example.com:9000";
    let url = Url::parse(endpoint).ok().filter(Url::has_host);
    let Some(url) = url.filter(|url| matches!(url.scheme(), "http" | "https")) else {
        // Not echoed whole: what does not parse may hold a password anywhere.
        let start = endpoint.split(['@', '?']).next().filter(|_| !endpoint.contains('@')).unwrap_or("it");
        return Err(usage(&format!("the endpoint is not an http or https URL: {start}"), EXAMPLE));
    };
    // Mistyped, as in `http:s://me:password@host`, a user is read as part of the path.
    let holds_user = !url.username().is_empty() || url.password().is_some() || endpoint.contains('@');
    if holds_user || url.query().is_some() || url.fragment().is_some() {
        return Err(usage("the endpoint holds more than scheme, host, port and path", EXAMPLE));
    }
    let canonical = url.as_str().trim_end_matches('/').to_owned();
    if url.scheme() == "http" && !allow_http {
        let what = format!("{canonical} is not encrypted: use https, or add --allow-http if that is meant");
        return Err(usage(&what, EXAMPLE));
    }
    Ok(canonical)
}

/// A yes or no as people write them.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// The query of a store URL; every key is known to its scheme.
pub(super) struct Query {
    cloud: Cloud,
    pairs: Vec<(String, String)>,
}

impl Query {
    pub(super) fn parse(cloud: Cloud, text: &str) -> Result<Self> {
        let pairs: Vec<_> = url::form_urlencoded::parse(text.as_bytes()).into_owned().collect();
        if let Some((key, _)) = pairs.iter().find(|(key, _)| !cloud.query_keys().contains(&key.as_str())) {
            let known = cloud.query_keys().join(", ");
            return Err(usage(
                &format!("{key:?} is not a key of a {}:// URL ({known})", cloud.scheme()),
                cloud.example(),
            ));
        }
        Ok(Self { cloud, pairs })
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(k, v)| k == key && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let value = truth(text)
            .ok_or_else(|| usage(&format!("{key}={text} is neither true nor false"), self.cloud.example()))?;
        Ok(Some(value))
    }
}
