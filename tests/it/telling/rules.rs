//! The alert rules name metrics and labels that there are, and promtool takes them.

use std::collections::BTreeSet;
use std::path::Path;

use super::{LONG, Loop, promtool};
use crate::place::{Place, eventually};

const RULES: &str = "contrib/prometheus/litesnap.rules.yml";

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// What is real: name, label and value of every sample.
fn samples(text: &str) -> BTreeSet<(String, String, String)> {
    let mut all = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let series = line.rsplit_once(' ').unwrap().0;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        all.insert((name.to_owned(), String::new(), String::new()));
        for label in labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()) {
            let (label, value) = label.split_once('=').unwrap();
            all.insert((name.to_owned(), label.to_owned(), value.trim_matches('"').to_owned()));
        }
    }
    all
}

/// What the rules ask for: name, and the text between braces behind it.
fn selectors(rules: &str) -> Vec<(String, String)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in rules.match_indices("litesnap_").filter(|(at, _)| !rules[..*at].ends_with(is_name)) {
        let name: String = rules[at..].chars().take_while(|c| is_name(*c)).collect();
        let rest = &rules[at + name.len()..];
        let labels = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(labels, _)| labels);
        found.push((name, labels.to_owned()));
    }
    found
}

/// `(label, value)` for each value that a matcher names; alternatives apart, `.*` at the end as it is.
fn matchers(labels: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for matcher in labels.split(',').filter(|matcher| !matcher.is_empty()) {
        let (label, values) = matcher.split_once('"').unwrap();
        let (label, values) = (label.trim_end_matches(['=', '!', '~']), values.trim_end_matches('"'));
        all.extend(values.split('|').map(|value| (label.to_owned(), value.to_owned())));
    }
    all
}

fn unknown(rules: &str, metrics: &str) -> Vec<String> {
    let real = samples(metrics);
    let mut unknown = Vec::new();
    for (name, labels) in selectors(rules) {
        if !real.contains(&(name.clone(), String::new(), String::new())) {
            unknown.push(name.clone());
        }
        for (label, value) in matchers(&labels) {
            let fits = |real: &str| value.strip_suffix(".*").map_or(real == value, |head| real.starts_with(head));
            if !real.iter().any(|(n, l, v)| *n == name && *l == label && fits(v)) {
                unknown.push(format!("{name}{{{label}={value}}}"));
            }
        }
    }
    unknown
}

#[test]
fn the_rules_ask_for_what_there_is() {
    let place = Place::new();
    place.make("a.db", "delete", 2);
    let running = Loop::over(&place, "1s", &[]);
    assert!(eventually(LONG, || running.get("/readyz").status == 200));
    let (metrics, rules) = (running.get("/metrics").expect(200).body, file(RULES));
    assert_eq!(unknown(&rules, &metrics), [""; 0]);
    assert!(selectors(&rules).len() >= 10, "the rules were read");
    // The check itself notices.
    for (right, wrong) in
        [("litesnap_healthy", "litesnap_health"), ("store-refused|", "store-denied|"), ("{reason", "{cause")]
    {
        let broken = rules.replace(right, wrong);
        assert_ne!(unknown(&broken, &metrics), [""; 0], "{wrong}");
    }
}

#[test]
fn every_alert_has_a_severity_a_summary_and_a_runbook() {
    let rules = file(RULES);
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 8);
    for alert in alerts {
        for part in ["expr: ", "labels: {severity: ", "summary: ", "runbook: "] {
            assert!(alert.contains(part), "no {part}in {alert}");
        }
    }
}

#[test]
fn promtool_takes_the_rules_and_they_fire_as_they_should() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rules = root.join(RULES);
    let Some((is_fine, said)) = promtool(&["check", "rules", rules.to_str().unwrap()], "") else { return };
    assert!(is_fine && said.contains("rules found"), "{said}");
    let tests = root.join("contrib/prometheus/litesnap.rules.test.yml");
    let (is_fine, said) = promtool(&["test", "rules", tests.to_str().unwrap()], "").unwrap();
    assert!(is_fine && said.contains("SUCCESS"), "{said}");
}
