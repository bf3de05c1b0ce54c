//! The tombstone: a small object that says that a database was gone from its host. One line of JSON, nothing compressed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::description::path_fields;
use super::{DESCRIPTION_LEN_MAX, ObjectError, check_small, known};
use crate::timestamp::Timestamp;

/// What a tombstone says. In JSON the fields have these names; see docs/FORMAT.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// [`FORMAT_VERSION`](super::FORMAT_VERSION).
    pub format: u16,
    /// The full key of the tombstone in its store.
    pub key: String,
    /// The name of the host that it is gone from.
    pub host: String,
    /// The absolute path that the database had there; in JSON as in a [`Description`](super::Description).
    #[serde(flatten, with = "path_fields")]
    pub path: PathBuf,
    /// When it was found gone, by the host's clock; the time in the key is the same, or above it where the last snapshot's
    /// was. In JSON RFC 3339, UTC, with milliseconds.
    pub gone_at: Timestamp,
    /// [`LITESNAP_VERSION`](super::LITESNAP_VERSION) of the program that wrote it.
    pub litesnap: String,
}

/// Every field of a tombstone; others are passed over.
const FIELDS: [&str; 7] = ["format", "key", "host", "path", "path_hex", "gone_at", "litesnap"];

impl Tombstone {
    /// The object: one line, ended.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("a tombstone has only text and numbers");
        line.push(b'\n');
        line
    }

    /// Reads an object that [`Tombstone::to_bytes`] made. Does not look at the key that it was fetched under.
    ///
    /// # Errors
    /// Not ours, or of a later version.
    pub fn parse(object: &[u8]) -> Result<Self, ObjectError> {
        check_small(object, DESCRIPTION_LEN_MAX, "it is too long for a tombstone", "it is no tombstone")?;
        known::from_slice(object, &FIELDS).map_err(|e| ObjectError::Undecodable(format!("tombstone: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use crate::object::FORMAT_VERSION;

    fn of(path: &[u8]) -> Tombstone {
        Tombstone {
            format: FORMAT_VERSION,
            key: "p/srv/a.db/20261121T063339.123Z.deleted".into(),
            host: "web-1".into(),
            path: OsStr::from_bytes(path).into(),
            gone_at: Timestamp::from_rfc3339("2026-11-21T06:33:39.123Z").unwrap(),
            litesnap: "0.1.0".into(),
        }
    }

    #[test]
    fn it_is_one_line_that_comes_back_also_with_a_path_that_is_no_text() {
        let expected = r#"{"format":1,"key":"p/srv/a.db/20261121T063339.123Z.deleted","host":"web-1","path":"/srv/a.db","gone_at":"2026-11-21T06:33:39.123Z","litesnap":"0.1.0"}"#;
        assert_eq!(String::from_utf8(of(b"/srv/a.db").to_bytes()).unwrap(), format!("{expected}\n"));
        for path in [&b"/srv/a.db"[..], b"/srv/a\nb.db", b"/srv/\xff.db"] {
            let bytes = of(path).to_bytes();
            assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 1);
            assert_eq!(Tombstone::parse(&bytes).unwrap(), of(path));
        }
        let odd = String::from_utf8(of(b"/\xff").to_bytes()).unwrap();
        assert!(odd.contains(r#""path_hex":"2fff""#), "{odd}");
    }

    #[test]
    fn what_is_none_is_told_by_its_word() {
        let good = String::from_utf8(of(b"/a").to_bytes()).unwrap();
        let later = good.replace("\"format\":1", "\"format\":2");
        for (bytes, word) in [
            ("", "foreign"),
            ("{}", "foreign"),
            ("[1]", "undecodable"),
            (&*good.replace("\"host\"", "\"hust\""), "undecodable"),
            (&good.replace("2026-11-21T", "2026-11-31T"), "undecodable"),
            (&later, "unsupported-version"),
            (r#"{"format":2}"#, "unsupported-version"),
            (&" ".repeat(DESCRIPTION_LEN_MAX + 1), "foreign"),
        ] {
            let error = Tombstone::parse(bytes.as_bytes()).unwrap_err();
            assert_eq!(error.word(), word, "{}", &bytes[..bytes.len().min(200)]);
        }
    }
}
