//! The time of a snapshot, to the millisecond, UTC, and its two forms as text.
//!
//! In keys `20261121T063339.123Z`, which sorts as text in the order of time; for people and in
//! descriptions `2026-11-21T06:33:39.123Z` (RFC 3339). Reads no clock.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, Timelike};

/// Each digit names the field it belongs to: year, month, day, hour, minute, second, millisecond.
const KEY_FORM: &[u8] = b"00001122T334455.666Z";
const RFC3339_FORM: &[u8] = b"0000-11-22T33:44:55.666Z";

/// A time in milliseconds since 1970-01-01T00:00:00Z, in the years 1970 to 9999: what four digits
/// of year can tell and sort. Displayed in the form that keys have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest: 1970-01-01T00:00:00.000Z.
    pub const MIN: Self = Self(0);
    /// The latest: 9999-12-31T23:59:59.999Z.
    pub const MAX: Self = Self(253_402_300_799_999);
    /// Length of the form that keys have, in bytes.
    pub const KEY_FORM_LEN: usize = KEY_FORM.len();

    /// The time `ms` milliseconds after the epoch; `None` outside the years 1970 to 9999.
    #[must_use]
    pub fn from_ms(ms: i64) -> Option<Self> {
        (Self::MIN.0..=Self::MAX.0).contains(&ms).then_some(Self(ms))
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub fn as_ms(self) -> i64 {
        self.0
    }

    /// `2026-11-21T06:33:39.123Z`.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        let [year, month, day, hour, minute, second, ms] = self.fields();
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
    }

    /// Reads exactly the form that [`to_rfc3339`](Self::to_rfc3339) writes.
    ///
    /// # Errors
    /// Anything else: another zone, fewer digits, a day that does not exist.
    pub fn from_rfc3339(text: &str) -> Result<Self, NotATimestamp> {
        parse(RFC3339_FORM, text).ok_or(NotATimestamp)
    }

    fn fields(self) -> [u32; 7] {
        let time = DateTime::from_timestamp_millis(self.0).unwrap_or_default().naive_utc();
        let ms = time.and_utc().timestamp_subsec_millis();
        [time.year_ce().1, time.month(), time.day(), time.hour(), time.minute(), time.second(), ms]
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [year, month, day, hour, minute, second, ms] = self.fields();
        write!(f, "{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{ms:03}Z")
    }
}

impl FromStr for Timestamp {
    type Err = NotATimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(KEY_FORM, text).ok_or(NotATimestamp)
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_rfc3339())
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::from_rfc3339(&text).map_err(serde::de::Error::custom)
    }
}

/// The text is not a time in the expected form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a time: expected the form 20261121T063339.123Z, in descriptions 2026-11-21T06:33:39.123Z")]
pub struct NotATimestamp;

fn parse(form: &[u8], text: &str) -> Option<Timestamp> {
    if text.len() != form.len() {
        return None;
    }
    let mut fields = [0u32; 7];
    for (expected, found) in form.iter().zip(text.bytes()) {
        if expected.is_ascii_digit() {
            let field = &mut fields[usize::from(expected - b'0')];
            *field = *field * 10 + char::from(found).to_digit(10)?;
        } else if *expected != found {
            return None;
        }
    }
    let [year, month, day, hour, minute, second, ms] = fields;
    let date = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day)?;
    Timestamp::from_ms(date.and_hms_milli_opt(hour, minute, second, ms)?.and_utc().timestamp_millis())
}

/// The time under which to store a snapshot taken at `now_ms`: above `last_ms`, the database's last
/// one, always, whatever the clock does. Also tells by how many milliseconds it lies above
/// `now_ms`: 0 normally; much when a clock was once far ahead.
///
/// `None` only if there is no later time left before the year 10000.
#[must_use]
pub fn next_timestamp(now_ms: i64, last_ms: Option<i64>) -> Option<(Timestamp, i64)> {
    let earliest = last_ms.map_or(Timestamp::MIN.0, |last| last.saturating_add(1)).max(Timestamp::MIN.0);
    let ms = now_ms.max(earliest);
    Timestamp::from_ms(ms).map(|ts| (ts, ms.saturating_sub(now_ms)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times() {
        for (ms, key, rfc) in [
            (0, "19700101T000000.000Z", "1970-01-01T00:00:00.000Z"),
            (1_795_242_819_123, "20261121T063339.123Z", "2026-11-21T06:33:39.123Z"),
            (951_782_400_001, "20000229T000000.001Z", "2000-02-29T00:00:00.001Z"),
            (Timestamp::MAX.0, "99991231T235959.999Z", "9999-12-31T23:59:59.999Z"),
        ] {
            let ts = Timestamp::from_ms(ms).unwrap();
            assert_eq!(ts.to_string(), key);
            assert_eq!(ts.to_rfc3339(), rfc);
            assert_eq!(key.parse(), Ok(ts));
            assert_eq!(Timestamp::from_rfc3339(rfc), Ok(ts));
        }
        assert_eq!(Timestamp::from_ms(-1), None);
        assert_eq!(Timestamp::from_ms(Timestamp::MAX.0 + 1), None);
    }

    #[test]
    fn refuses_what_is_not_a_time() {
        for text in [
            "",
            "20261121T063339Z",
            "20261121T063339.123",
            "20261121T063339.123z",
            "20261121T063339.1234Z",
            "20260229T000000.000Z",
            "20261301T000000.000Z",
            "20261121T240000.000Z",
            "20261121T000060.000Z",
            "19691231T235959.999Z",
            "2026 121T063339.123Z",
            "2026112١063339.123Z",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(NotATimestamp), "{text}");
        }
    }

    #[test]
    fn next_is_above_the_last() {
        let next = |now, last| next_timestamp(now, last).map(|(ts, bump)| (ts.as_ms(), bump));
        assert_eq!(next(1000, None), Some((1000, 0)));
        assert_eq!(next(1000, Some(999)), Some((1000, 0)));
        assert_eq!(next(1000, Some(1000)), Some((1001, 1)));
        assert_eq!(next(1000, Some(90_000)), Some((90_001, 89_001)));
        assert_eq!(next(-5, None), Some((0, 5)), "a clock before 1970");
        assert_eq!(next(1000, Some(Timestamp::MAX.0)), None);
        assert_eq!(next(i64::MAX, None), None);
        assert_eq!(next(i64::MIN, Some(i64::MAX)), None);
    }

    proptest! {
        #[test]
        fn both_forms_round_trip_and_keys_sort(a in 0..=Timestamp::MAX.0, b in 0..=Timestamp::MAX.0) {
            let (a, b) = (Timestamp(a), Timestamp(b));
            prop_assert_eq!(a.to_string().parse(), Ok(a));
            prop_assert_eq!(Timestamp::from_rfc3339(&a.to_rfc3339()), Ok(a));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn any_text_is_read_without_panic(text in ".{0,30}") {
            if let Ok(ts) = text.parse::<Timestamp>() {
                prop_assert_eq!(ts.to_string(), text);
            }
        }
    }
}
