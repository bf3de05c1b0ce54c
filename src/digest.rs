//! 128-bit hashes as types of their own, so that one kind cannot be taken for another.
//!
//! All of them are XXH3-128 in its canonical form: the 16 bytes big-endian, 32 hex digits as text.

/// Defines a hash type: 16 bytes, shown and read as 32 hex digits, the same in JSON.
macro_rules! digest {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Takes the value of a finished XXH3-128.
            fn of(hasher: &twox_hash::xxhash3_128::Hasher) -> Self {
                Self(hasher.finish_128().to_be_bytes())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{:032x}", u128::from_be_bytes(self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::digest::NotADigest;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                crate::digest::parse(text).map(Self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use digest;

/// The text is not 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a hash: expected 32 hex digits")]
pub struct NotADigest;

/// Reads 32 hex digits of either case.
pub(crate) fn parse(text: &str) -> Result<[u8; 16], NotADigest> {
    // `from_str_radix` alone would also take a sign.
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(NotADigest);
    }
    u128::from_str_radix(text, 16).map(u128::to_be_bytes).map_err(|_| NotADigest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hex_digits_only() {
        assert_eq!(
            parse("000102030405060708090a0b0c0d0e0f"),
            Ok([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])
        );
        for wrong in ["", "00", "+00102030405060708090a0b0c0d0e0f", "000102030405060708090a0b0c0d0e0g", "é"] {
            assert_eq!(parse(wrong), Err(NotADigest), "{wrong}");
        }
    }
}
