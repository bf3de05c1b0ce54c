//! What a store's URL, its flags and the environment say together: pure, no file or network is touched.
//!
//! Owns the grammar of store URLs and the order of precedence: the URL's query, then the flag, then the
//! environment. Bucket and prefix are taken literally, as the AWS CLI takes them: nothing is decoded.

use std::path::{Path, PathBuf};

use url::Url;

use super::StoreOptions;
use super::query::{Env, Query, check_endpoint, truth, usage, var};
use crate::error::Result;
use crate::fs::shown;

/// The services that speak HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cloud {
    S3,
    Gcs,
    Azure,
}

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A folder, absolute.
    Folder(PathBuf),
    /// Memory of this process; gone with it.
    Memory { prefix: String },
    /// A bucket behind HTTP.
    Bucket(Bucket),
}

/// A bucket and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) cloud: Cloud,
    pub(crate) bucket: String,
    /// Without slashes at its ends; may be empty.
    pub(crate) prefix: String,
    /// Without a slash at its end; `None` for the service's own.
    pub(crate) endpoint: Option<String>,
    pub(crate) region: String,
    /// The bucket's name goes into the host name instead of the path.
    pub(crate) virtual_hosted: bool,
    pub(crate) allow_http: bool,
    pub(crate) storage_class: Option<String>,
    pub(crate) sse_kms_key_id: Option<String>,
    /// Azure only.
    pub(crate) account: Option<String>,
}

impl Cloud {
    pub(super) fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
        }
    }

    pub(super) fn example(self) -> &'static str {
        match self {
            Self::S3 => "s3://my-bucket/backups?region=eu-central-1",
            Self::Gcs => "gs://my-bucket/backups",
            Self::Azure => "az://my-container/backups?account=myaccount",
        }
    }

    pub(super) fn query_keys(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &["endpoint", "region", "path_style", "allow_http", "storage_class", "sse_kms_key_id"],
            Self::Gcs => &["endpoint", "allow_http", "storage_class"],
            Self::Azure => &["endpoint", "allow_http", "storage_class", "account"],
        }
    }

    fn endpoint_vars(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"],
            Self::Gcs => &["GOOGLE_BASE_URL"],
            Self::Azure => &["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"],
        }
    }

    fn allow_http_var(self) -> &'static str {
        match self {
            Self::S3 => "AWS_ALLOW_HTTP",
            Self::Gcs => "GOOGLE_ALLOW_HTTP",
            Self::Azure => "AZURE_ALLOW_HTTP",
        }
    }
}

const FOLDER_EXAMPLE: &str = "/backups or file:///backups";

/// Reads the URL of `options`, completed by its flags and by `env`.
///
/// # Errors
/// [`crate::error::Error::Usage`], one line: the offending part and a correct example. Never a password or key.
pub(crate) fn resolve(options: &StoreOptions, env: &Env) -> Result<Address> {
    let url = options.url.trim();
    let Some((scheme, rest)) = url.split_once("://") else { return plain_path(url, options) };
    let cloud = match scheme {
        "file" => return file_url(url, options),
        "memory" => return Ok(Address::Memory { prefix: prefix(url, rest, "memory://")? }),
        "s3" => Cloud::S3,
        "gs" => Cloud::Gcs,
        "az" => Cloud::Azure,
        _ => {
            let what = format!("{scheme}:// is not known; known are s3://, gs://, az://, file:// and plain paths");
            return Err(usage(&what, Cloud::S3.example()));
        }
    };
    bucket_url(cloud, url, rest, options, env).map(Address::Bucket)
}

fn plain_path(path: &str, options: &StoreOptions) -> Result<Address> {
    if path.is_empty() {
        return Err(usage("its URL is empty", "s3://my-bucket/backups, /backups"));
    }
    if path == "~" || path.starts_with("~/") {
        return Err(usage(&format!("{path}: ~ is expanded by shells only"), FOLDER_EXAMPLE));
    }
    // `s3:bucket` would otherwise become a folder of that name in the current directory.
    if let Some((scheme, _)) = path.split_once(':')
        && ["s3", "gs", "az", "file", "memory", "http", "https"].contains(&scheme)
    {
        return Err(usage(&format!("{path}: two slashes are missing after {scheme}:"), "s3://my-bucket/backups"));
    }
    folder(Path::new(path), options)
}

fn file_url(url: &str, options: &StoreOptions) -> Result<Address> {
    if url.contains('?') {
        return Err(usage(&format!("{url}: a folder takes no query"), FOLDER_EXAMPLE));
    }
    let path = Url::parse(url).ok().and_then(|parsed| parsed.to_file_path().ok());
    let Some(path) = path.filter(|path| path.is_absolute() && path != Path::new("/")) else {
        return Err(usage(&format!("{url}: file:// needs three slashes and an absolute path"), FOLDER_EXAMPLE));
    };
    folder(&path, options)
}

fn folder(path: &Path, options: &StoreOptions) -> Result<Address> {
    let given = [("--endpoint", &options.endpoint), ("--storage-class", &options.storage_class)];
    if let Some((flag, _)) = given.iter().find(|(_, value)| value.is_some()) {
        return Err(usage(&format!("{flag} means nothing for the folder {}", path.display()), FOLDER_EXAMPLE));
    }
    let absolute = std::path::absolute(path)
        .map_err(|e| usage(&format!("{}: cannot be made absolute: {e}", path.display()), FOLDER_EXAMPLE))?;
    Ok(Address::Folder(absolute))
}

fn prefix(url: &str, raw: &str, example: &str) -> Result<String> {
    let trimmed = raw.trim_matches('/');
    match object_store::path::Path::parse(trimmed) {
        Ok(_) => Ok(trimmed.to_owned()),
        Err(e) => Err(usage(&format!("{url}: this prefix is not possible ({e})"), example)),
    }
}

fn bucket_url(cloud: Cloud, url: &str, rest: &str, options: &StoreOptions, env: &Env) -> Result<Bucket> {
    let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, raw_prefix) = location.split_once('/').unwrap_or((location, ""));
    if bucket.contains('@') {
        let what = "credentials do not belong in the URL, where logs and process lists show them: set AWS_ACCESS_KEY_ID \
                    and AWS_SECRET_ACCESS_KEY";
        return Err(usage(what, cloud.example()));
    }
    if bucket.is_empty() {
        return Err(usage(&format!("{}:// has no bucket name", cloud.scheme()), cloud.example()));
    }
    if !bucket.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '$')) {
        return Err(usage(&format!("{bucket:?} is not a bucket name"), cloud.example()));
    }
    let query = Query::parse(cloud, query)?;
    let shown = &url[..url.find('?').unwrap_or(url.len())];
    let allow_http = query.flag("allow_http")?.unwrap_or_default()
        || options.allow_http
        || var(env, cloud.allow_http_var()).and_then(truth).unwrap_or_default();
    let endpoint = query
        .get("endpoint")
        .or(options.endpoint.as_deref())
        .or_else(|| cloud.endpoint_vars().iter().find_map(|name| var(env, name)))
        .map(|endpoint| check_endpoint(endpoint, allow_http))
        .transpose()?;
    let path_style = query.flag("path_style")?.or(options.path_style.then_some(true));
    Ok(Bucket {
        cloud,
        prefix: prefix(shown, raw_prefix, cloud.example())?,
        region: region(&query, options, env, endpoint.as_deref()),
        // A dot in the name would not match the certificate of *.s3.REGION.amazonaws.com.
        virtual_hosted: path_style.map_or(endpoint.is_none() && !bucket.contains('.'), |path_style| !path_style),
        bucket: bucket.to_owned(),
        endpoint,
        allow_http,
        storage_class: query.get("storage_class").or(options.storage_class.as_deref()).map(str::to_owned),
        sse_kms_key_id: query.get("sse_kms_key_id").or(options.sse_kms_key_id.as_deref()).map(str::to_owned),
        account: if cloud == Cloud::Azure { Some(account(&query, env)?) } else { None },
    })
}

fn account(query: &Query, env: &Env) -> Result<String> {
    let emulator = var(env, "AZURE_STORAGE_USE_EMULATOR").and_then(truth).unwrap_or_default();
    query
        .get("account")
        .or_else(|| var(env, "AZURE_STORAGE_ACCOUNT_NAME"))
        .or_else(|| emulator.then_some("devstoreaccount1"))
        .map(str::to_owned)
        .ok_or_else(|| usage("az:// needs an account: set AZURE_STORAGE_ACCOUNT_NAME", Cloud::Azure.example()))
}

fn region(query: &Query, options: &StoreOptions, env: &Env, endpoint: Option<&str>) -> String {
    let fallback = match endpoint {
        Some(endpoint) if endpoint.ends_with(".r2.cloudflarestorage.com") => "auto",
        _ => "us-east-1",
    };
    query
        .get("region")
        .or(options.region.as_deref())
        .or_else(|| var(env, "AWS_REGION"))
        .or_else(|| var(env, "AWS_DEFAULT_REGION"))
        .unwrap_or(fallback)
        .to_owned()
}

impl Address {
    /// For logs, on one line: where it is, and the endpoint if it is not the service's own. No secrets.
    pub(crate) fn name(&self) -> String {
        let name = match self {
            Self::Bucket(b) => match &b.endpoint {
                Some(endpoint) => format!("{} (endpoint {endpoint})", b.location()),
                None => b.location(),
            },
            other => other.identity(),
        };
        shown(Path::new(&name)).to_string()
    }

    /// What makes it this store and no other: scheme, endpoint, account, bucket, prefix. No secrets. Region and
    /// path style are left out: they are ways to the same bucket.
    pub(crate) fn identity(&self) -> String {
        match self {
            Self::Folder(root) => format!("file://{}", root.display()),
            Self::Memory { prefix } => format!("memory://{prefix}"),
            Self::Bucket(b) => match &b.endpoint {
                Some(endpoint) => format!("{}?endpoint={endpoint}", b.location()),
                None => b.location(),
            },
        }
    }
}

impl Bucket {
    fn location(&self) -> String {
        let account = self.account.as_ref().map(|account| format!("{account}/")).unwrap_or_default();
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        format!("{}://{account}{}{slash}{}", self.cloud.scheme(), self.bucket, self.prefix)
    }
}
