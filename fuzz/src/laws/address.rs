//! Where the store is. Input: lines with the URL, the endpoint, the region, a letter for each switch; then `NAME=value`.

use litesnap::error::Error;
use litesnap::store::{Env, Store, StoreOptions};

use super::{is_one_line, texts};

/// How the store is called in logs, and what makes it this one.
fn store_names(options: &StoreOptions, env: &Env) -> Result<(String, String), Error> {
    Store::describe(options, env).map(|store| (store.name, store.identity))
}

const SECRET: &str = "hunter2";

pub fn check(data: &[u8]) {
    let [url, endpoint, region, switches, variables] = texts(data);
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let options = StoreOptions {
        endpoint: given(&endpoint),
        region: given(&region),
        path_style: switches.contains('p'),
        allow_http: switches.contains('h'),
        storage_class: switches.contains('c').then(|| "STANDARD_IA".into()),
        ..StoreOptions::new(url.as_str())
    };
    let variables: Vec<(String, String)> =
        variables.lines().filter_map(|line| line.split_once('=').map(|(n, v)| (n.into(), v.into()))).collect();
    match store_names(&options, &variables) {
        Ok((name, identity)) => {
            is_one_line(&name);
            assert!(identity.contains("://"), "{identity:?}");
            told_again(&options, &identity);
        }
        Err(e) => refused(&e),
    }
    if !data.windows(SECRET.len()).any(|text| text == SECRET.as_bytes()) {
        secrets_stay(&options, &variables);
    }
}

fn refused(error: &Error) {
    let Error::Usage(text) = error else { panic!("{error:?}") };
    is_one_line(text);
    assert!(text.contains("; an example: "), "{text}");
}

/// An identity is a URL of the same store: state that is kept under it is found under it again.
fn told_again(options: &StoreOptions, identity: &str) {
    let is_literal = !identity.contains(['%', '+', '&', '?', '#']) && identity.trim() == identity;
    if !is_literal || identity.starts_with("az://") || identity.contains(char::is_control) {
        return;
    }
    // A folder's is for comparing: as a URL it would have to be encoded.
    let url = identity.strip_prefix("file://").unwrap_or(identity);
    if url.starts_with('/') && (url.contains("://") || url.trim() != url) {
        return;
    }
    let again = StoreOptions { endpoint: None, storage_class: None, ..options.clone() };
    let again = StoreOptions { url: url.to_owned(), ..again };
    let (_, second) = store_names(&again, &[]).unwrap_or_else(|e| panic!("{identity:?}: {e}"));
    assert_eq!(second, identity);
}

/// A password where a URL has its place for one, in the store's URL or the endpoint's, is in no message.
fn secrets_stay(options: &StoreOptions, variables: &[(String, String)]) {
    let (scheme, rest) = options.url.split_once("://").unwrap_or(("s3", &options.url));
    if matches!(scheme.trim(), "file" | "memory") {
        return;
    }
    // Without a slash before it, for behind one it is a part of the prefix.
    let with_password = StoreOptions { url: format!("{scheme}://me:{SECRET}@{rest}"), ..options.clone() };
    let endpoint = options.endpoint.as_deref().unwrap_or("https://host");
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("https", endpoint));
    let endpoint = Some(format!("{scheme}://me:{SECRET}@{rest}"));
    let with_endpoint = StoreOptions { endpoint, ..options.clone() };
    for options in [with_password, with_endpoint] {
        let text = match store_names(&options, variables) {
            Ok((name, identity)) => format!("{name} {identity}"),
            Err(e) => e.to_string(),
        };
        assert!(!text.contains(SECRET), "{text}");
        assert!(!format!("{options:?}").contains(SECRET), "{options:?}");
    }
}
