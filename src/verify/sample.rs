//! Which snapshots a run looks at. Pure: the same seed chooses the same.

use std::path::Path;
use std::str::FromStr;

use crate::fs::shown;

/// Hundredths of a percent in all.
const WHOLE: u32 = 10_000;

/// A share of all snapshots, from 0.01 % to 100 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u32);

/// Not a share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{}' is no share: give a percentage from 0.01% to 100%, such as 1%", shown(Path::new(.0)))]
pub struct NotAShare(String);

impl FromStr for Share {
    type Err = NotAShare;

    fn from_str(text: &str) -> Result<Self, NotAShare> {
        let hundredths = || {
            let (whole, part) = text.strip_suffix('%')?.split_once('.').unwrap_or((text.strip_suffix('%')?, "0"));
            let digits =
                |s: &str| (!s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse::<u32>().ok());
            // More digits than hundredths would be rounded to something that was not asked for.
            let part = (part.len() <= 2).then(|| digits(part))??? * if part.len() == 1 { 10 } else { 1 };
            digits(whole)??.checked_mul(100)?.checked_add(part)
        };
        hundredths().filter(|n| (1..=WHOLE).contains(n)).map(Self).ok_or_else(|| NotAShare(text.to_owned()))
    }
}

/// Where the snapshot under `key` stands in the order of `seed`: evenly spread over all of `u64`.
pub(super) fn rank(seed: u64, key: &str) -> u64 {
    twox_hash::XxHash3_64::oneshot_with_seed(seed, key.as_bytes())
}

impl Share {
    /// As a number: 0.0001 to 1.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / f64::from(WHOLE)
    }

    /// Whether a snapshot that stands at `rank` belongs to it. Of two shares with one seed the larger holds the smaller.
    pub(super) fn holds(self, rank: u64) -> bool {
        u128::from(rank) * u128::from(WHOLE) < u128::from(self.0) << 64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share(text: &str) -> Share {
        text.parse().unwrap()
    }

    #[test]
    fn shares_by_table() {
        for (text, hundredths) in [
            ("1%", 100),
            ("0.01%", 1),
            ("0.5%", 50),
            ("12.34%", 1234),
            ("100%", WHOLE),
            ("100.00%", WHOLE),
            ("05%", 500),
        ] {
            assert_eq!(text.parse(), Ok(Share(hundredths)), "{text}");
        }
        let wrong = [
            "",
            "%",
            "1",
            "0%",
            "0.001%",
            "100.01%",
            "-1%",
            "1.%",
            ".5%",
            "1,5%",
            "1e1%",
            "101%",
            "99999999999%",
            "+1%",
        ];
        for text in wrong {
            let error = text.parse::<Share>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("such as 1%"), "{error}");
        }
    }

    #[test]
    fn a_share_is_about_as_large_as_it_says() {
        let keys: Vec<String> = (0..20_000).map(|n| format!("srv/{n}.db/20261121T063339.123Z.db.lz4")).collect();
        for (text, expected) in [("1%", 200), ("10%", 2000), ("50%", 10_000)] {
            let chosen = keys.iter().filter(|key| share(text).holds(rank(7, key))).count();
            assert!(chosen.abs_diff(expected) < 3 * expected.isqrt() + 3, "{text}: {chosen}");
        }
        assert!(keys.iter().all(|key| share("100%").holds(rank(7, key))));
        assert!((share("12.34%").as_f64() - 0.1234).abs() < 1e-12 && share("100%").as_f64() >= 1.0);
        assert!(share("100%").holds(u64::MAX) && share("0.01%").holds(0) && !share("99.99%").holds(u64::MAX));
    }

    proptest! {
        #[test]
        fn the_same_seed_chooses_the_same_and_a_larger_share_more(
            seed: u64, key: String, a in 1..=WHOLE, b in 1..=WHOLE,
        ) {
            prop_assert_eq!(rank(seed, &key), rank(seed, &key));
            let (less, more) = (Share(a.min(b)), Share(a.max(b)));
            prop_assert!(!less.holds(rank(seed, &key)) || more.holds(rank(seed, &key)));
        }
    }
}
