//! Writing the text format: a family with its help and type, then its samples.

use std::fmt::{Display, Write};

/// What kind of number it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only goes up, until a restart.
    Counter,
    /// Up and down.
    Gauge,
    /// Counts by class, their sum and their number.
    Histogram,
}

/// Text in the making.
#[derive(Debug, Default)]
pub(super) struct Text {
    text: String,
    /// Name of the family that samples belong to.
    family: &'static str,
}

impl Text {
    /// Begins a family; what follows are its samples.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.family = name;
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// A sample of the family with these labels.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.part("", labels, value);
    }

    /// A sample whose name is the family's and `suffix`.
    pub(super) fn part(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let name = self.family;
        self.push(format_args!("{name}{suffix}{labels} {value}\n"));
    }

    /// A gauge without labels.
    pub(super) fn gauge(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(name, Kind::Gauge, help);
        self.sample(&[], value);
    }

    /// A counter without labels.
    pub(super) fn counter(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(name, Kind::Counter, help);
        self.sample(&[], value);
    }

    pub(super) fn into_string(self) -> String {
        self.text
    }

    fn push(&mut self, what: std::fmt::Arguments<'_>) {
        self.text.write_fmt(what).expect("writing to a string cannot fail");
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Text::default();
        text.family("x_total", Kind::Counter, "Help.");
        text.sample(&[("a", "1"), ("b", "\"\\\n")], 3);
        text.part("_sum", &[], 0.5);
        let expected =
            "# HELP x_total Help.\n# TYPE x_total counter\nx_total{a=\"1\",b=\"\\\"\\\\\\n\"} 3\nx_total_sum 0.5\n";
        assert_eq!(text.into_string(), expected);
    }
}
