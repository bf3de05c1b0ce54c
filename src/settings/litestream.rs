//! `dbs:` and what stands beside it in a `litestream.yml`.

use super::replica::{Replica, Service, joined};
use super::section::Section;
use super::yaml::{Entry, Fault, Kind, Result};
use super::{PATTERNS, REPLICA, Reading, Value};

/// What lies in a folder of Litestream's and is ours.
pub(super) const BELOW: &str = "litesnap";

/// Keys of Litestream's that have no meaning here, and what litesnap does instead.
const FOREIGN: [(&str, &str); 54] = [
    ("auto-recover", "nothing is kept between passes that would need it"),
    ("busy-timeout", "no lock is held that others would wait for"),
    ("checkpoint-interval", "checkpoints are left to the application"),
    ("client-cert", UNUSED),
    ("client-key", UNUSED),
    ("concurrency", "the option of the command line says how many requests there are at once"),
    ("concurrent-writes", UNUSED),
    ("creds", UNUSED),
    ("exec", "start the application by itself"),
    ("heartbeat-interval", "heartbeat-url is called after each pass in which everything is fresh"),
    ("host-key", UNUSED),
    ("jwt", UNUSED),
    ("key-path", UNUSED),
    ("l0-retention", KEEP),
    ("l0-retention-check-interval", KEEP),
    ("levels", "each snapshot is whole: nothing is compacted"),
    ("logging", "RUST_LOG says what is logged"),
    ("max-checkpoint-page-count", "checkpoints are left to the application"),
    ("max-reconnects", UNUSED),
    ("max-sync-ltx-files", WHOLE),
    ("max-sync-wal-bytes", WHOLE),
    ("mcp-addr", "there is no such server"),
    ("meta-dir", "--state-dir says where it is remembered what is stored"),
    ("meta-path", "--state-dir says where it is remembered what is stored"),
    ("min-checkpoint-page-count", "checkpoints are left to the application"),
    ("monitor-interval", "--interval says how often databases are looked at"),
    ("name", "a replica needs no name"),
    ("nkey", UNUSED),
    ("part-size", "the size of parts follows from the size of the database"),
    ("password", UNUSED),
    ("persist-replica-id", "there is no such id"),
    ("reconnect-wait", UNUSED),
    ("require-content-md5", "objects carry hashes of their own"),
    ("restore-if-db-not-exists", "use litesnap restore --if-db-not-exists"),
    ("retention", KEEP),
    ("retention-check-interval", KEEP),
    ("root-cas", UNUSED),
    ("sas-token", "give account-name and account-key, or AZURE_STORAGE_SAS_KEY in the environment"),
    ("seed", UNUSED),
    ("shutdown-sync-interval", "what is on its way at the end is completed"),
    ("shutdown-sync-timeout", "what is on its way at the end is completed"),
    ("sign-payload", "requests are signed as the service wants"),
    ("skip-verify", "certificates are always verified: SSL_CERT_FILE names one of your own"),
    ("snapshot", "each change is stored as a snapshot of its own; --keep says how long"),
    ("snapshot-interval", "each change is stored as a snapshot of its own; --keep says how long"),
    ("socket", "there is no such socket"),
    (
        "sync-interval",
        "it belongs to the hot tier, which is to follow busy databases every second; --interval is what counts until then",
    ),
    ("timeout", UNUSED),
    ("truncate-page-n", "checkpoints are left to the application"),
    ("user", UNUSED),
    ("validation", "litesnap verify, or --verify-every, looks at what is stored"),
    ("validation-interval", "litesnap verify, or --verify-every, looks at what is stored"),
    ("verify-compaction", "each snapshot is whole: nothing is compacted"),
    ("watch", "folders are always looked through anew"),
];
const UNUSED: &str = "it is for a service that litesnap does not store to";
const KEEP: &str = "nothing is removed unless --keep, or litesnap prune, is given";
const WHOLE: &str = "a database is stored whole";

/// Keys at the top of a file that are defaults of each replica.
const DEFAULTS: [&str; 10] = [
    "access-key-id",
    "secret-access-key",
    "account-name",
    "account-key",
    "bucket",
    "endpoint",
    "region",
    "force-path-style",
    "storage-class",
    "sse-kms-key-id",
];

/// Whether it is a key of Litestream's, at the top of a file, that litesnap reads or passes over.
pub(super) fn knows(key: &str) -> bool {
    key == "addr" || key == "dbs" || FOREIGN.iter().any(|(known, _)| *known == key)
}

/// What one entry of `dbs` finds, and where it goes.
struct Database {
    pattern: Value,
    replica: Replica,
}

impl Reading<'_> {
    /// Takes what is Litestream's; returns the line of `dbs`, if there is any.
    pub(super) fn litestream(&mut self, top: &mut Section) -> Result<Option<usize>> {
        if !self.settings.is_litestream {
            return Ok(None);
        }
        self.address(top)?;
        let Some(dbs) = top.take(&["dbs"])? else {
            self.foreign_but_options(top)?;
            return Ok(None);
        };
        let defaults = DEFAULTS.iter().filter_map(|key| top.take(&[key]).transpose()).collect::<Result<Vec<_>>>()?;
        self.foreign(top)?;
        let Kind::List(items) = dbs.value.kind else {
            return Err(Fault::new(dbs.value.line, "`dbs` is a list: begin each database with `- path: /data/app.db`"));
        };
        let mut databases = Vec::new();
        for item in items {
            let Kind::Map(entries) = item.kind else {
                return Err(Fault::new(item.line, "a database is a section: write `- path: /data/app.db`"));
            };
            databases.push(self.database(Section::new(entries), item.line, &defaults)?);
        }
        self.databases(databases, dbs.line)?;
        Ok(Some(dbs.line))
    }

    /// One address for metrics: what means every interface there means this host alone here.
    fn address(&mut self, top: &mut Section) -> Result<()> {
        let Some(addr) = self.take(top, &["addr"])? else { return Ok(()) };
        let (host, port) = addr.text.rsplit_once(':').unwrap_or(("", &addr.text));
        if !matches!(host, "" | "0.0.0.0" | "[::]" | "localhost") {
            return self.set_one("listen", addr);
        }
        let local = format!("127.0.0.1:{port}");
        if host != "localhost" {
            let what = format!("`addr` listens on {local}: to others only with listen: ADDRESS and allow-public: true");
            self.warn(addr.line, &what);
        }
        self.set_one("listen", Value::new(local, addr.line))
    }

    /// Passes over keys that mean nothing here, with one warning for each.
    pub(super) fn foreign(&mut self, section: &mut Section) -> Result<()> {
        for (key, instead) in FOREIGN {
            if let Some(entry) = section.take(&[key])? {
                self.warn_once(key, entry.line, &format!("`{key}` has no effect: {instead}"));
            }
        }
        Ok(())
    }

    /// The same where no `dbs` are: what is an option of ours, too, is meant as one.
    fn foreign_but_options(&mut self, top: &mut Section) -> Result<()> {
        for (key, instead) in FOREIGN {
            if self.option(key).is_none()
                && let Some(entry) = top.take(&[key])?
            {
                self.warn_once(key, entry.line, &format!("`{key}` has no effect: {instead}"));
            }
        }
        Ok(())
    }

    pub(super) fn warn_once(&mut self, key: &'static str, line: usize, what: &str) {
        if self.warned.insert(key) {
            self.warn(line, what);
        }
    }

    fn database(&mut self, mut section: Section, line: usize, defaults: &[Entry]) -> Result<Database> {
        let (path, dir) = (self.take(&mut section, &["path"])?, self.take(&mut section, &["dir"])?);
        let (name, recursive) =
            (self.take(&mut section, &["pattern"])?, self.take_switch(&mut section, &["recursive"])?);
        let pattern = match (path, dir) {
            (Some(path), None) => {
                let text = escaped(&self.absolute(&path.text));
                Value::new(text, path.line)
            }
            (None, Some(dir)) => self.folder(dir, name, recursive.is_some_and(|(recursive, _)| recursive))?,
            (Some(_), Some(dir)) => return Err(Fault::new(dir.line, "`dir` and `path` name two things: keep one")),
            (None, None) => return Err(Fault::new(line, "this database has neither `path` nor `dir`: name it")),
        };
        let replica = self.one_replica(&mut section, line)?;
        self.foreign(&mut section)?;
        section.finish("of a database ")?;
        let Some((mut entries, line)) = replica else {
            return Err(Fault::new(
                line,
                "this database has no `replica`: say where it goes, such as `url: s3://my-bucket/app`",
            ));
        };
        let missing = defaults.iter().filter(|default| !entries.iter().any(|entry| entry.key == default.key));
        let missing: Vec<Entry> = missing.cloned().collect();
        entries.extend(missing);
        let replica = self.replica(Section::new(entries), line, None)?;
        Ok(Database { pattern, replica })
    }

    /// `replica`, or `replicas` with one entry. A second destination is no detail to be passed over.
    fn one_replica(&self, section: &mut Section, line: usize) -> Result<Option<(Vec<Entry>, usize)>> {
        let Some(entry) = section.take(&["replica", "replicas"])? else { return Ok(None) };
        let mut nodes = match entry.value.kind {
            Kind::List(items) => items,
            _ => vec![entry.value],
        };
        if let [_, second, ..] = nodes.as_slice() {
            let what =
                "a second replica: litesnap stores to one place; keep one, and run another litesnap for the other";
            return Err(Fault::new(second.line, what));
        }
        match nodes.pop() {
            Some(super::yaml::Node { line, kind: Kind::Map(entries) }) => Ok(Some((entries, line))),
            Some(node) => {
                Err(Fault::new(node.line, "a replica is a section: write `url: s3://my-bucket/app` below it"))
            }
            None => Err(Fault::new(line, "`replicas` is empty: say where this database goes")),
        }
    }

    fn folder(&self, dir: Value, name: Option<Value>, is_recursive: bool) -> Result<Value> {
        let example = "such as pattern: \"*.db\"";
        let name = name.ok_or_else(|| Fault::new(dir.line, format!("`dir` wants a `pattern` beside it, {example}")))?;
        if name.text.is_empty() || name.text.contains('/') {
            return Err(Fault::new(name.line, format!("`pattern` is a name without folders, {example}")));
        }
        let folder = escaped(&self.absolute(&dir.text));
        let folder = folder.trim_end_matches('/');
        let text = match (is_recursive, name.text.as_str()) {
            // All databases, told by their content, as it is there.
            (true, "*") => format!("{folder}/"),
            (true, name) => format!("{folder}/**/{}", glob(name)),
            (false, name) => format!("{folder}/{}", glob(name)),
        };
        Ok(Value::new(text, dir.line))
    }

    /// A path as Litestream reads it: `~` is the home folder, and SQLite's URL schemes are taken off.
    fn absolute(&self, path: &str) -> String {
        let path = path.strip_prefix("sqlite3://").or_else(|| path.strip_prefix("sqlite://")).unwrap_or(path);
        let home = || (self.reader.env)("HOME");
        match path.strip_prefix("~/").and_then(|rest| Some(format!("{}/{rest}", home()?))) {
            Some(path) => path,
            None => path.to_owned(),
        }
    }

    /// One store for all of them. Where their paths differ, each pattern brings its own along.
    fn databases(&mut self, mut databases: Vec<Database>, line: usize) -> Result<()> {
        let Some(first) = databases.first() else {
            return Err(Fault::new(line, "`dbs` is empty: name what to back up, such as `- path: /data/app.db`"));
        };
        if let Some(other) = databases.iter().find(|db| !db.replica.is_beside(&first.replica)) {
            let what = format!(
                "this replica is in another store, or reached in another way, than the one in line {}: a process has one store; run one for each",
                first.replica.line
            );
            return Err(Fault::new(other.replica.line, what));
        }
        let paths: Vec<String> = databases.iter().map(|db| db.replica.path.trim_end_matches('/').to_owned()).collect();
        let head = common_folder(&paths);
        let is_one = paths.iter().all(|path| *path == paths[0]);
        let folder = if is_one { joined(&head, BELOW) } else { head.clone() };
        if folder.is_empty() && first.replica.service == Service::File {
            let what = "these replicas lie in folders that have only the root in common, and litesnap would take that for its store: \
                        put them below one folder, or give --store";
            return Err(Fault::new(line, what));
        }
        self.store(&first.replica, &folder)?;
        if !is_one {
            for (db, path) in databases.iter_mut().zip(&paths) {
                let own = joined(path[head.len()..].trim_start_matches('/'), BELOW);
                db.pattern.constants.push((REPLICA.to_owned(), own));
            }
            let template = format!("{{{{{REPLICA}}}}}/{{{{path}}}}");
            self.set_one("key-template", Value::new(template, line))?;
        }
        self.set(PATTERNS, line, databases.into_iter().map(|db| db.pattern).collect())
    }
}

/// The folder that all paths have in common, without a slash at its end.
fn common_folder(paths: &[String]) -> String {
    let mut head = paths[0].as_str();
    let holds =
        |head: &str, path: &String| path == head || path.strip_prefix(head).is_some_and(|rest| rest.starts_with('/'));
    while !head.is_empty() && !paths.iter().all(|path| holds(head, path)) {
        head = head.rsplit_once('/').map_or("", |(head, _)| head);
    }
    head.to_owned()
}

/// A path in which nothing is a wildcard.
fn escaped(path: &str) -> String {
    let special = |c| matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\');
    path.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

/// A name's wildcards as ours are written: braces are no captures there, and a class is negated by `^`.
fn glob(name: &str) -> String {
    let mut out = String::new();
    let mut before = ' ';
    for c in name.chars() {
        match c {
            '{' | '}' if before != '\\' => out.extend(['\\', c]),
            '^' if before == '[' => out.push('!'),
            _ => out.push(c),
        }
        before = c;
    }
    out
}
