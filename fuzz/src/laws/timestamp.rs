//! Times in keys and descriptions. Input: a number (8 bytes), then a text.

use litesnap::timestamp::{Timestamp, next_timestamp};

use super::is_one_line;

pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    read(&text);
    if let Some((number, rest)) = data.split_first_chunk::<8>() {
        let ms = i64::from_le_bytes(*number);
        made(ms);
        read(&String::from_utf8_lossy(rest));
        let last = rest.first_chunk::<8>().map(|last| i64::from_le_bytes(*last));
        follows(ms, last);
    }
}

/// One text for a time, in either form, and no other.
fn read(text: &str) {
    match text.parse::<Timestamp>() {
        Ok(time) => assert_eq!(time.to_string(), text),
        Err(e) => is_one_line(&e.to_string()),
    }
    if let Ok(time) = Timestamp::from_rfc3339(text) {
        assert_eq!(time.to_rfc3339(), text);
        // Another reader of such times sees the same one.
        assert_eq!(humantime::parse_rfc3339(text).ok(), instant(time));
    }
}

fn made(ms: i64) {
    for ms in [ms, ms.rem_euclid(Timestamp::MAX.as_ms() + 1)] {
        let Some(time) = Timestamp::from_ms(ms) else {
            assert!(!(0..=Timestamp::MAX.as_ms()).contains(&ms));
            continue;
        };
        assert_eq!((time.as_ms(), time.to_string().len()), (ms, Timestamp::KEY_FORM_LEN));
        assert_eq!(time.to_string().parse(), Ok(time));
        assert_eq!(Timestamp::from_rfc3339(&time.to_rfc3339()), Ok(time));
        assert_eq!(humantime::parse_rfc3339(&time.to_rfc3339()).ok(), instant(time));
        if let Some(later) = Timestamp::from_ms(ms + 1) {
            assert!(later > time && later.to_string() > time.to_string(), "keys sort as times do");
        }
    }
}

fn instant(time: Timestamp) -> Option<std::time::SystemTime> {
    let ms = u64::try_from(time.as_ms()).expect("not before 1970");
    std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(ms))
}

/// The next one is above the last one and not before now; there is none only at the end of all times.
fn follows(now: i64, last: Option<i64>) {
    match next_timestamp(now, last) {
        Some((next, ahead)) => {
            assert!(last.is_none_or(|last| next.as_ms() > last) && next.as_ms() >= now);
            assert!(next.as_ms() == 0 || next.as_ms() == now || Some(next.as_ms() - 1) == last, "later than need be");
            assert_eq!(ahead, next.as_ms().saturating_sub(now));
        }
        None => assert!(now.max(last.unwrap_or(now)) >= Timestamp::MAX.as_ms(), "{now} {last:?}"),
    }
}
