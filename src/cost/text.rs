//! Numbers for people: dollars, bytes and counts, rounded to what an estimate can say.

/// Dollars: `$0`, `<$0.01`, `$7.20`, `$376`, `$172,958`.
#[must_use]
pub fn usd(usd: f64) -> String {
    match usd {
        n if n <= 0.0 => "$0".to_owned(),
        n if n < 0.005 => "<$0.01".to_owned(),
        n if n < 99.995 => format!("${n:.2}"),
        n => format!("${}", grouped(n)),
    }
}

/// Bytes in powers of 1000, as they are billed: `813 B`, `3.7 KB`, `318 GB`.
#[must_use]
pub fn bytes(bytes: f64) -> String {
    let mut scaled = bytes.max(0.0);
    for unit in ["B", "KB", "MB", "GB", "TB"] {
        // 999.5 would be written as 1000.
        if scaled < 999.5 {
            let short = unit != "B" && scaled < 99.95;
            return if short { format!("{scaled:.1} {unit}") } else { format!("{scaled:.0} {unit}") };
        }
        scaled /= 1000.0;
    }
    format!("{} PB", if scaled < 99.95 { format!("{scaled:.1}") } else { grouped(scaled) })
}

/// A count: `20,012`, `1.44 million`, `86.4 million`, `34.6 billion`.
#[must_use]
pub fn count(n: f64) -> String {
    let scaled = |n: f64| {
        if n < 10.0 {
            format!("{n:.2}")
        } else if n < 100.0 {
            format!("{n:.1}")
        } else {
            grouped(n)
        }
    };
    match n {
        n if n < 999_999.5 => grouped(n),
        n if n < 999.5e6 => format!("{} million", scaled(n / 1e6)),
        n => format!("{} billion", scaled(n / 1e9)),
    }
}

/// Rounded to a whole number, with commas between thousands.
fn grouped(n: f64) -> String {
    let digits = format!("{:.0}", n.max(0.0));
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_for_people() {
        for (n, text) in [
            (0.0, "$0"),
            (0.001, "<$0.01"),
            (0.006, "$0.01"),
            (7.2, "$7.20"),
            (99.994, "$99.99"),
            (99.996, "$100"),
            (376.4, "$376"),
            (172_958.4, "$172,958"),
        ] {
            assert_eq!(usd(n), text);
        }
        for (n, text) in [
            (0.0, "0 B"),
            (813.0, "813 B"),
            (999.6, "1.0 KB"),
            (3_700.0, "3.7 KB"),
            (99_960.0, "100 KB"),
            (318e9, "318 GB"),
            (2.5e15, "2.5 PB"),
            (1.234e18, "1,234 PB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        for (n, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (20_012.0, "20,012"),
            (999_999.4, "999,999"),
            (1.44e6, "1.44 million"),
            (86.4e6, "86.4 million"),
            (259.2e6, "259 million"),
            (34.6e9, "34.6 billion"),
        ] {
            assert_eq!(count(n), text);
        }
    }
}
