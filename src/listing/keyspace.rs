//! Where keys lie among all possible ones, so that one can be found in the middle of two, or some way beyond one.
//!
//! A key is taken for a point between 0 and 1: its first character chooses a part of that span, the next one a part of that
//! part, and so on, each part as wide as its character is frequent where keys of the store begin to differ. Between two points
//! there are then about as many keys as they are apart. That is a guess, and where keys are spread unevenly a poor one: it
//! decides how fast a listing is, never what is in it.

use std::collections::BTreeMap;

/// Characters that are told apart; the rest counts as the next one that is known.
const CHARS_MAX: usize = 4096;
/// Part of the whole that every character has which keys hold, be it ever so rare.
const RARE: f64 = 0.002;
/// Characters that are looked at behind the place where two keys begin to differ: beyond that, points are the same.
const PRECISION: usize = 24;

/// How often each character stands where keys begin to differ.
#[derive(Debug, Default)]
pub(crate) struct Spread {
    counts: BTreeMap<char, u32>,
    parts: Vec<Part>,
}

/// The part of a span that keys with one character have, the width of the span being 1. Before the first one are those
/// that end there.
#[derive(Debug)]
struct Part {
    char: char,
    start: f64,
    width: f64,
}

impl Spread {
    /// Learns from keys in their order.
    pub(crate) fn learn(&mut self, keys: &[&str]) {
        for key in keys.first().into_iter().chain(keys.last()) {
            key.chars().for_each(|c| self.count(c, 0));
        }
        for pair in keys.windows(2) {
            let alike = alike(pair[0], pair[1]);
            for key in pair {
                key.chars().skip(alike).take(1).for_each(|c| self.count(c, 1));
            }
        }
        let whole = self.counts.values().map(|n| f64::from(*n)).sum::<f64>().max(1.0);
        let rare = RARE * whole;
        let whole = whole + rare * (self.counts.len() + 1) as f64;
        let mut start = rare / whole;
        self.parts.clear();
        for (char, n) in &self.counts {
            let width = (f64::from(*n) + rare) / whole;
            self.parts.push(Part { char: *char, start, width });
            start += width;
        }
    }

    fn count(&mut self, c: char, n: u32) {
        if self.counts.len() < CHARS_MAX || self.counts.contains_key(&c) {
            *self.counts.entry(c).or_default() += n;
        }
    }

    fn part(&self, c: char) -> Option<&Part> {
        self.parts.get(self.parts.partition_point(|part| part.char < c)).or(self.parts.last())
    }

    /// The point where keys lie that go on with `rest`.
    fn point(&self, rest: impl Iterator<Item = char>) -> f64 {
        let (mut point, mut width) = (0.0, 1.0);
        for part in rest.take(PRECISION).map_while(|c| self.part(c)) {
            point += width * part.start;
            width *= part.width;
        }
        point
    }

    /// How far `a` and `b` are apart in the span of the keys that begin as both do, and the logarithm of its width.
    fn apart(&self, a: &str, b: &str) -> (f64, f64) {
        let alike = alike(a, b);
        let width = a.chars().take(alike).filter_map(|c| self.part(c)).map(|part| part.width.ln()).sum();
        (self.point(b.chars().skip(alike)) - self.point(a.chars().skip(alike)), width)
    }

    /// The logarithm of how many times as far it is from `last` to `until` as from `first` to `last`; the lowest value there
    /// is where that cannot be told.
    pub(super) fn ratio(&self, first: &str, last: &str, until: &str) -> f64 {
        let ((behind, behind_width), (ahead, ahead_width)) = (self.apart(first, last), self.apart(last, until));
        if ahead <= 0.0 || behind <= 0.0 {
            return f64::MIN;
        }
        ahead.ln() + ahead_width - behind.ln() - behind_width
    }

    /// A key at `part` of the way from `last` to `until`, strictly between them.
    pub(crate) fn between(&self, last: &str, until: &str, part: f64) -> Option<String> {
        let alike = alike(last, until);
        let [low, high] = [last, until].map(|key| self.point(key.chars().skip(alike)));
        self.key(last, alike, low + (high - low) * part, Some(until))
    }

    /// A key as far behind `last` as `times` the way from `first` to `last`; `None` if that is beyond all keys.
    pub(crate) fn ahead(&self, first: &str, last: &str, times: f64) -> Option<String> {
        let head: Vec<char> = last.chars().take(alike(first, last)).collect();
        let mut way = self.apart(first, last).0 * times;
        let mut point = self.point(last.chars().skip(head.len()));
        for alike in (0..=head.len()).rev() {
            if point + way < 1.0 {
                return self.key(last, alike, point + way, None);
            }
            // Beyond the span of the keys that begin alike: in the wider one of those that begin with one character less.
            let part = self.part(*head.get(alike.checked_sub(1)?)?)?;
            point = part.start + point * part.width;
            way *= part.width;
        }
        None
    }

    /// A key near `point` in the span of the keys that begin with the first `alike` characters of `last`, above `last`, below
    /// `until`, and such that stores take it: without an empty, `.` or `..` part.
    fn key(&self, last: &str, alike: usize, mut point: f64, until: Option<&str>) -> Option<String> {
        let mut chosen = Vec::new();
        let mut followed = last.chars().skip(alike);
        let mut beyond = 0;
        // Up to where it differs from `last`, and one character more.
        while beyond < 2 && chosen.len() < PRECISION {
            let at = self.parts.partition_point(|part| part.start <= point).checked_sub(1);
            let Some(at) = at.filter(|_| point.is_finite()) else { break };
            let part = &self.parts[at];
            beyond += usize::from(beyond > 0 || followed.next() != Some(part.char));
            chosen.push(at);
            point = ((point - part.start) / part.width).clamp(0.0, 1.0);
        }
        let head = |n: usize| last.chars().take(alike).chain(chosen.iter().take(n).map(|at| self.parts[*at].char));
        let key = |n: usize, more: Option<char>| head(n).chain(more).collect::<String>();
        let n = chosen.len();
        let short = n.saturating_sub(1);
        let plain = self.parts.iter().map(|part| part.char).find(|c| !matches!(c, '/' | '.'));
        let next = chosen.get(short).and_then(|at| self.parts.get(at + 1)).map(|part| part.char);
        let mut keys = [key(n, None), key(short, None), key(n, plain), key(short, plain), key(short, next)].into_iter();
        keys.find(|key| {
            key.as_str() > last
                && until.is_none_or(|until| key.as_str() < until)
                && !key.split('/').any(|part| matches!(part, "" | "." | ".."))
        })
    }
}

/// Characters that both begin with.
fn alike(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spread(keys: &[&str]) -> Spread {
        let mut spread = Spread::default();
        spread.learn(keys);
        spread
    }

    #[test]
    fn of_evenly_spread_numbers_it_guesses_well() {
        let keys: Vec<String> = (0..1000).map(|i| format!("srv/{i:05}/x.db")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let spread = spread(&keys);
        let (first, last) = (keys[0], keys[999]);
        let ratio = spread.ratio(first, last, "srv/50").exp();
        assert!((30.0..200.0).contains(&ratio), "{ratio}");
        let middle = spread.between(last, "srv/5", 0.5).unwrap();
        assert!(("srv/2".."srv/35").contains(&middle.as_str()), "{middle}");
        let far = spread.ahead(first, last, 8.0).unwrap();
        assert!(("srv/002".."srv/1").contains(&far.as_str()), "{far}");
    }

    #[test]
    fn a_key_is_made_only_where_there_is_one() {
        let spread = spread(&["srv/abc.db", "srv/v.db"]);
        assert_eq!(spread.between("a", "a", 0.5), None);
        assert_eq!(spread.ahead("a", "v", 1e6), None, "beyond the last of all");
        assert_eq!(Spread::default().between("a", "b", 0.5), None);
        assert_eq!(Spread::default().ahead("a", "b", 1.0), None);
    }

    proptest! {
        #[test]
        fn what_lies_between_lies_between(a in "[a-c./-]{1,12}", b in "[a-cä/.-]{1,12}", part in 0.0..1.0, times in 0.0..9.0) {
            let (low, high) = if a < b { (a, b) } else { (b, a) };
            let spread = spread(&[&low, &high]);
            if let Some(middle) = spread.between(&low, &high, part) {
                prop_assert!(low < middle && middle < high, "{low} {middle} {high}");
            }
            if let Some(far) = spread.ahead(&low, &high, times) {
                prop_assert!(far > high);
                let path = object_store::path::Path::parse(&far).unwrap();
                prop_assert_eq!(path.as_ref(), far.as_str());
            }
            prop_assert!(!spread.ratio(&low, &low, &high).is_nan());
        }
    }
}
