//! What people write on the command line and in variables. Input: the time now (8 bytes), then the text.

use std::time::Duration;

use litesnap::config::{parse_at, parse_duration, parse_rate, parse_size};
use litesnap::verify::Share;

use super::is_one_line;

pub fn check(data: &[u8]) {
    let (now, text) = data.split_first_chunk::<8>().map_or((0, data), |(now, text)| (i64::from_le_bytes(*now), text));
    let text = String::from_utf8_lossy(text);
    size(&text);
    duration(&text);
    at(&text, now);
    share(&text);
}

/// A refusal names the text and shows what would be right.
fn refused(error: &str, text: &str) {
    is_one_line(error);
    assert!(error.contains("such as "), "{error}");
    assert!(error.contains(text) || text.contains(char::is_control), "{error}");
}

fn size(text: &str) {
    match parse_size(text) {
        Ok(bytes) => {
            assert!(bytes > 0);
            for again in [bytes.to_string(), format!("{bytes}B"), format!("0{text}")] {
                assert_eq!(parse_size(&again), Ok(bytes), "{again}");
            }
            if let Ok(more) = parse_size(&format!("1{text}")) {
                assert!(more > bytes);
            }
        }
        Err(e) => refused(&e, text),
    }
    assert_eq!(parse_rate(&format!("{text}/s")).ok(), parse_size(text).ok());
    if let Err(e) = parse_rate(text) {
        refused(&e, text);
    }
}

fn duration(text: &str) {
    match parse_duration(text) {
        Ok(time) => {
            assert!(time <= Duration::from_secs(36_500 * 86_400));
            assert_eq!(parse_duration(&humantime::format_duration(time).to_string()), Ok(time));
        }
        Err(e) => refused(&e, text),
    }
}

fn at(text: &str, now: i64) {
    match parse_at(text, now) {
        Ok(time) => {
            assert_eq!(parse_at(&time.to_string(), now), Ok(time));
            assert_eq!(parse_at(&time.to_rfc3339(), now), Ok(time));
            if let Ok(ago) = parse_duration(text) {
                assert_eq!(i128::from(now) - i128::from(time.as_ms()), ago.as_millis().cast_signed());
            }
        }
        Err(e) => refused(&e, text),
    }
}

fn share(text: &str) {
    match text.parse::<Share>() {
        Ok(share) => {
            let digits = text.strip_suffix('%').expect("a percentage");
            let percent: f64 = digits.parse().expect("a decimal number");
            assert!((0.01..=100.0).contains(&percent), "{text}");
            assert_eq!(format!("{share:?}"), format!("Share({})", (percent * 100.0).round()));
            assert_eq!(format!("0{text}").parse(), Ok(share));
        }
        Err(e) => refused(&e.to_string(), text),
    }
}
