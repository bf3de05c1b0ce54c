//! Tombstones. Input: the object.

use litesnap::object::{DESCRIPTION_LEN_MAX, FORMAT_VERSION, Tombstone};

use super::{gauge, is_one_line};

pub fn check(data: &[u8]) {
    let (parsed, taken) = gauge::peak(|| Tombstone::parse(data));
    assert!(taken <= 8 * data.len() + (16 << 10), "{taken} bytes taken for {}", data.len());
    match parsed {
        Ok(tombstone) => {
            assert!(data.len() <= DESCRIPTION_LEN_MAX && tombstone.format == FORMAT_VERSION);
            let line = tombstone.to_bytes();
            assert_eq!(Tombstone::parse(&line).expect("just written"), tombstone);
            assert!(line.ends_with(b"\n") && line.iter().filter(|b| **b == b'\n').count() == 1, "not one line");
            // What is JSON may have spaces around it, and nothing else.
            assert!(Tombstone::parse(&[data, b" \n"].concat()).is_ok());
            assert!(Tombstone::parse(&[data, b"{"].concat()).is_err());
        }
        Err(e) => {
            is_one_line(&super::told(&e));
            assert!(matches!(e.word(), "foreign" | "undecodable" | "unsupported-version"), "{e:?}");
        }
    }
}
