//! Builds the stores behind HTTP: S3, Google Cloud Storage, Azure.
//!
//! Credentials go from the environment given straight into object_store's builders; none is kept here.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{BackoffConfig, Certificate, ClientConfigKey, ClientOptions, HeaderValue, ObjectStore, RetryConfig};

use super::StoreOptions;
use super::address::{Bucket, Cloud};
use super::failure::scrub;
use super::http::CountingConnector;
use super::query::{Env, var};
use super::requests::Requests;
use crate::error::{Error, Result};

/// Time to get a connection, TLS included. A store further away than this is not worth waiting for within a cycle.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections kept for the next cycle: above the default of uploads in flight, so that none is opened anew each time.
const IDLE_CONNECTIONS_MAX: usize = 128;

/// A store, and the same once more where there is another way of deleting: one object a request.
pub(super) type Built = (Arc<dyn ObjectStore>, Option<Arc<dyn ObjectStore>>);

/// Builds the store at `bucket`. Nothing is sent yet.
///
/// # Errors
/// [`Error::Usage`] when the environment holds settings that cannot be.
pub(super) fn build(bucket: &Bucket, options: &StoreOptions, env: &Env, requests: &Arc<Requests>) -> Result<Built> {
    let connector = CountingConnector {
        requests: Arc::clone(requests),
        patience: options.patience.silent,
        credential_hosts: credential_hosts(env),
    };
    match bucket.cloud {
        Cloud::S3 => s3(bucket, options, env, connector),
        Cloud::Gcs => Ok((gcs(bucket, options, env, connector)?, None)),
        Cloud::Azure => Ok((azure(bucket, options, env, connector)?, None)),
    }
}

/// Back-off of 0.2 to 3 s between attempts: 100 uploads in flight then ask at most a few hundred times a second, and the
/// last attempt begins soon after the time is up. The number of retries is no limit of its own; time is.
fn retries(options: &StoreOptions) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(200).min(options.patience.busy / 10),
            max_backoff: Duration::from_secs(3),
            base: 3.0,
        },
        max_retries: 1000,
        retry_timeout: options.patience.busy,
    }
}

/// The client for `bucket`; `from_env` holds proxies and the like.
fn client(bucket: &Bucket, options: &StoreOptions, env: &Env, from_env: ClientOptions) -> Result<ClientOptions> {
    let user_agent = HeaderValue::from_static(concat!("litesnap/", env!("CARGO_PKG_VERSION")));
    let mut client = from_env
        .with_user_agent(user_agent)
        .with_allow_http(bucket.allow_http)
        .with_connect_timeout(CONNECT_TIMEOUT)
        // From the request's first byte to the answer's, then anew for each read of the body. Not `with_timeout`, which
        // would end the download of a large object however well it goes.
        .with_timeout_disabled()
        .with_read_timeout(options.request_timeout)
        .with_pool_max_idle_per_host(IDLE_CONNECTIONS_MAX);
    if bucket.cloud == Cloud::S3
        && let Some(path) = var(env, "AWS_CA_BUNDLE")
    {
        for certificate in ca_bundle(path)? {
            client = client.with_root_certificate(certificate);
        }
    }
    Ok(client)
}

fn ca_bundle(path: &str) -> Result<Vec<Certificate>> {
    let pem = std::fs::read(path).map_err(|e| Error::Usage(format!("AWS_CA_BUNDLE={path} cannot be read: {e}")))?;
    Certificate::from_pem_bundle(&pem)
        .map_err(|_| Error::Usage(format!("AWS_CA_BUNDLE={path} holds no PEM certificates")))
}

/// `host:port` of the services that give credentials, where the environment names others than the well-known ones.
fn credential_hosts(env: &Env) -> Vec<String> {
    ["AWS_METADATA_ENDPOINT", "AWS_ENDPOINT_URL_STS", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AZURE_MSI_ENDPOINT"]
        .iter()
        .filter_map(|name| url::Url::parse(var(env, name)?).ok())
        .map(|url| url.authority().to_owned())
        .collect()
}

/// The settings that `K` knows among the variables whose names begin with `start`, as its builder's `from_env` finds them.
fn settings<'a, K: FromStr>(env: &'a Env, start: &'a str) -> impl Iterator<Item = (K, &'a str)> {
    env.iter()
        .filter(move |(name, value)| name.starts_with(start) && !value.is_empty())
        .filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value.as_str())))
}

fn refused(bucket: &Bucket, error: &object_store::Error) -> Error {
    let text: Vec<String> = error.to_string().split_whitespace().map(scrub).collect();
    Error::Usage(format!("cannot use the bucket {}: {}", bucket.bucket, text.join(" ")))
}

fn s3(bucket: &Bucket, options: &StoreOptions, env: &Env, connector: CountingConnector) -> Result<Built> {
    use AmazonS3ConfigKey as Key;
    let mut builder = AmazonS3Builder::new();
    let mut from_env = ClientOptions::new();
    for (key, value) in settings::<Key>(env, "AWS_") {
        match key {
            Key::Client(key) => from_env = from_env.with_config(key, value),
            // Resolved already, by our order of precedence.
            Key::Bucket | Key::Endpoint | Key::S3Endpoint | Key::Region | Key::DefaultRegion => {}
            Key::VirtualHostedStyleRequest => {}
            key => builder = builder.with_config(key, value),
        }
    }
    builder = builder
        .with_bucket_name(&bucket.bucket)
        .with_region(&bucket.region)
        .with_virtual_hosted_style_request(bucket.virtual_hosted)
        .with_client_options(client(bucket, options, env, from_env)?)
        .with_retry(retries(options))
        .with_http_connector(connector);
    if let Some(endpoint) = &bucket.endpoint {
        builder = builder.with_endpoint(s3_endpoint(endpoint, bucket));
    }
    if let Some(key) = &bucket.sse_kms_key_id {
        builder = builder.with_sse_kms_encryption(key);
    }
    let singly = builder.clone().with_disable_bulk_delete(true).build().map_err(|e| refused(bucket, &e))?;
    Ok((Arc::new(builder.build().map_err(|e| refused(bucket, &e))?), Some(Arc::new(singly))))
}

/// object_store wants the bucket's name within a virtual-hosted endpoint.
fn s3_endpoint(endpoint: &str, bucket: &Bucket) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) if bucket.virtual_hosted => format!("{scheme}://{}.{host}", bucket.bucket),
        _ => endpoint.to_owned(),
    }
}

fn gcs(
    bucket: &Bucket,
    options: &StoreOptions,
    env: &Env,
    connector: CountingConnector,
) -> Result<Arc<dyn ObjectStore>> {
    use GoogleConfigKey as Key;
    let mut builder = GoogleCloudStorageBuilder::new();
    let mut from_env = ClientOptions::new();
    for (key, value) in settings::<Key>(env, "GOOGLE_") {
        match key {
            Key::Client(key) => from_env = from_env.with_config(key, value),
            Key::Bucket | Key::BaseUrl => {}
            key => builder = builder.with_config(key, value),
        }
    }
    if let Some(endpoint) = &bucket.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    let store = builder
        .with_bucket_name(&bucket.bucket)
        .with_client_options(client(bucket, options, env, from_env)?)
        .with_retry(retries(options))
        .with_http_connector(connector)
        .build();
    Ok(Arc::new(store.map_err(|e| refused(bucket, &e))?))
}

fn azure(
    bucket: &Bucket,
    options: &StoreOptions,
    env: &Env,
    connector: CountingConnector,
) -> Result<Arc<dyn ObjectStore>> {
    use AzureConfigKey as Key;
    let mut builder = MicrosoftAzureBuilder::new();
    let mut from_env = ClientOptions::new();
    for (key, value) in settings::<Key>(env, "AZURE_") {
        match key {
            Key::Client(ClientConfigKey::AllowHttp) | Key::ContainerName | Key::Endpoint | Key::AccountName => {}
            Key::Client(key) => from_env = from_env.with_config(key, value),
            key => builder = builder.with_config(key, value),
        }
    }
    if let Some(account) = &bucket.account {
        builder = builder.with_account(account);
    }
    if let Some(endpoint) = &bucket.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    let store = builder
        .with_container_name(&bucket.bucket)
        .with_client_options(client(bucket, options, env, from_env)?)
        .with_retry(retries(options))
        .with_http_connector(connector)
        .build();
    Ok(Arc::new(store.map_err(|e| refused(bucket, &e))?))
}
