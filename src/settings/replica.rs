//! Where Litestream's files say that a database goes, as an address of ours: a URL, or type, bucket and path.

use super::section::Section;
use super::yaml::{Fault, Result};
use super::{Reading, Value};

/// Who keeps the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    S3,
    Gcs,
    Azure,
    File,
}

/// One replica.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) service: Service,
    /// Or container; empty for a folder.
    pub(super) bucket: String,
    /// With variables replaced: where objects lie is no secret. May be empty.
    pub(super) path: String,
    pub(super) path_line: usize,
    /// Options of litesnap that say how the store is reached.
    pub(super) options: Vec<(&'static str, Value)>,
    pub(super) line: usize,
}

/// Services of Litestream's that are none of ours.
const OTHERS: [&str; 5] = ["sftp", "nats", "webdav", "webdavs", "oss"];

/// Keys of the same meaning here and there.
const SAME: [(&str, &str); 4] = [
    ("endpoint", "endpoint"),
    ("region", "region"),
    ("storage-class", "storage-class"),
    ("sse-kms-key-id", "sse-kms-key-id"),
];

/// Ends of host names before which the first part is the bucket, in URLs such as `s3://bucket.s3.eu-west-1.amazonaws.com/x`.
const BUCKET_HOSTS: [&str; 6] = [
    ".digitaloceanspaces.com",
    ".backblazeb2.com",
    ".filebase.com",
    ".scw.cloud",
    ".linodeobjects.com",
    ".your-objectstorage.com",
];

/// Keys that make objects unreadable to others. To drop one in silence would store in the clear what was encrypted.
const ENCRYPTION: [&str; 4] = ["age", "sse-customer-algorithm", "sse-customer-key", "sse-customer-key-path"];

/// Two parts of a path, of which either may be empty.
pub(super) fn joined(a: &str, b: &str) -> String {
    match (a, b) {
        ("", b) => b.to_owned(),
        (a, "") => a.to_owned(),
        (a, b) => format!("{}/{b}", a.trim_end_matches('/')),
    }
}

impl Reading<'_> {
    /// Reads the section of one replica; `service` is what it is unless it says otherwise.
    pub(super) fn replica(&mut self, mut section: Section, line: usize, service: Option<Service>) -> Result<Replica> {
        for key in ENCRYPTION {
            if let Some(entry) = section.take(&[key])? {
                let what = format!(
                    "`{key}`: litesnap would store without this encryption: use sse-kms-key-id, or take the line out"
                );
                return Err(Fault::new(entry.line, what));
            }
        }
        let mut replica = match (self.take(&mut section, &["url"])?, self.take(&mut section, &["type"])?) {
            (Some(url), kind) => {
                if let Some(kind) = kind {
                    self.service(&kind)?;
                }
                self.url(&url)?
            }
            (None, kind) => {
                let named = kind.map(|kind| self.service(&kind)).transpose()?;
                let guessed = if section.has("bucket") { Service::S3 } else { Service::File };
                Replica::new(named.or(service).unwrap_or(guessed), line)
            }
        };
        if let Some(bucket) = self.take(&mut section, &["bucket"])? {
            replica.bucket = bucket.text;
        }
        if let Some(path) = self.take(&mut section, &["path"])? {
            (replica.path_line, replica.path) = (path.line, path.text);
        }
        for (theirs, ours) in SAME {
            if let Some(value) = self.take(&mut section, &[theirs])? {
                replica.give(ours, value);
            }
        }
        if let Some((force, line)) = self.take_switch(&mut section, &["force-path-style"])? {
            replica.give("path-style", Value::new(force.to_string(), line));
        }
        self.credentials(&mut section)?;
        self.foreign(&mut section)?;
        section.finish("of a replica ")?;
        self.complete(replica)
    }

    fn service(&self, kind: &Value) -> Result<Service> {
        match kind.text.as_str() {
            "s3" => Ok(Service::S3),
            "gs" | "gcs" => Ok(Service::Gcs),
            "abs" | "azure" => Ok(Service::Azure),
            "file" => Ok(Service::File),
            other => {
                let whose = if OTHERS.contains(&other) {
                    "Litestream stores there, litesnap does not"
                } else {
                    "it is not known"
                };
                let what = format!("replica of type `{}`: {whose}; known are s3, gs, abs and file", kind.shown());
                Err(Fault::new(kind.line, what))
            }
        }
    }

    fn url(&mut self, url: &Value) -> Result<Replica> {
        // Not echoed: a URL may hold a password.
        let wrong = |what: &str| {
            Fault::new(url.line, format!("the replica's url {what}; write for example s3://my-bucket/backups"))
        };
        let (scheme, rest) = url.text.split_once("://").ok_or_else(|| wrong("has no scheme"))?;
        let service = self.service(&Value::new(scheme, url.line))?;
        let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
        if location.split('/').next().is_some_and(|host| host.contains('@')) && service != Service::Azure {
            return Err(wrong("holds credentials: give access-key-id and secret-access-key"));
        }
        let mut replica = Replica::new(service, url.line);
        if service == Service::File {
            location.clone_into(&mut replica.path);
            return Ok(replica);
        }
        let (host, path) = location.split_once('/').unwrap_or((location, ""));
        path.clone_into(&mut replica.path);
        replica.host(host, &wrong)?;
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let value = Value::new(value, url.line);
            match normal_query(&key).as_str() {
                "endpoint" => replica.give("endpoint", value),
                "region" => replica.give("region", value),
                "forcepathstyle" => replica.give("path-style", value),
                _ => self.warn(url.line, &format!("`{key}` in the url means nothing to litesnap and is left out")),
            }
        }
        Ok(replica)
    }

    /// Looks at what can only be looked at together.
    fn complete(&mut self, mut replica: Replica) -> Result<Replica> {
        let line = replica.line;
        match replica.service {
            Service::File if replica.path.is_empty() => {
                return Err(Fault::new(
                    line,
                    "the replica says not where: give it a url, or a bucket, or type file and a path",
                ));
            }
            Service::File => {}
            _ if replica.bucket.is_empty() => return Err(Fault::new(line, "the replica has no bucket: give its name")),
            _ => {}
        }
        if replica.service == Service::File {
            replica.options.clear();
            return Ok(replica);
        }
        let Some((_, endpoint)) = replica.options.iter_mut().find(|(key, _)| *key == "endpoint") else {
            return Ok(replica);
        };
        if !endpoint.text.contains("://") {
            endpoint.text = format!("https://{}", endpoint.text);
        }
        if endpoint.text.starts_with("http://") {
            let line = endpoint.line;
            replica.give("allow-http", Value::new("true", line));
            self.warn_once("endpoint", line, "the endpoint is http://: databases go over the network unencrypted");
        }
        Ok(replica)
    }

    /// Gives the options of a store at `folder` of the replica's bucket, or on disk.
    pub(super) fn store(&mut self, replica: &Replica, folder: &str) -> Result<()> {
        let url = match replica.service {
            Service::File => folder.to_owned(),
            _ => joined(&format!("{}://{}", replica.service.scheme(), replica.bucket), folder.trim_matches('/')),
        };
        self.set_one("store", Value::new(url, replica.line))?;
        replica.options.iter().try_for_each(|(key, value)| self.set_one(key, value.clone()))
    }
}

fn normal_query(key: &str) -> String {
    key.to_ascii_lowercase().replace(['-', '_'], "")
}

impl Service {
    pub(super) fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
            Self::File => "file",
        }
    }
}

impl Replica {
    fn new(service: Service, line: usize) -> Self {
        let (bucket, path) = (String::new(), String::new());
        Self { service, bucket, path, path_line: line, options: Vec::new(), line }
    }

    /// The last word wins: what a key says over what the URL says.
    fn give(&mut self, key: &'static str, value: Value) {
        self.options.retain(|(known, _)| *known != key);
        self.options.push((key, value));
    }

    /// Takes a URL's host apart: a bucket, or a bucket before the name of its service.
    fn host(&mut self, host: &str, wrong: &dyn Fn(&str) -> Fault) -> Result<()> {
        if host.contains(':') {
            return Err(wrong("holds a port: give bucket, path and endpoint instead"));
        }
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        let (bucket, service) = host.split_once('.').unwrap_or((host, ""));
        if let Some(region) = service.strip_prefix("s3.").and_then(|rest| rest.strip_suffix(".amazonaws.com")) {
            self.give("region", Value::new(region, self.line));
        } else if BUCKET_HOSTS.iter().any(|end| host.ends_with(end)) {
            self.give("endpoint", Value::new(format!("https://{service}"), self.line));
        } else {
            host.clone_into(&mut self.bucket);
            return Ok(());
        }
        bucket.clone_into(&mut self.bucket);
        Ok(())
    }

    /// Whether both are one store, whatever their paths.
    pub(super) fn is_beside(&self, other: &Self) -> bool {
        let options = |replica: &Self| {
            let mut options: Vec<_> = replica.options.iter().map(|(key, value)| (*key, value.text.clone())).collect();
            options.sort_unstable();
            options
        };
        self.service == other.service && self.bucket == other.bucket && options(self) == options(other)
    }
}
