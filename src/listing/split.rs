//! One listing shared out among several streams: who lists which range of keys, and where to begin another.
//!
//! The ranges partition all keys at any moment, so every key is listed by exactly one stream, however the guesses fall that
//! place their borders. A border is guessed in one of two ways: while nobody knows where the keys end, far ahead of the
//! last range, further each time; after that, in the middle of what the fullest range has left. A stream begun at a border
//! that lies behind all keys has cost one request for nothing, and one that ends at a border has read part of a page for
//! nothing: so [`Splitter::split`] has a budget, and the requests of a listing are at most its pages and that.
//!
//! Pure: pages in, ranges out.

use std::collections::BTreeMap;

use super::keyspace::Spread;

/// Streams that may be begun early, one for each [`PAGES_PER_EARLY_SPLIT`]; later one for each [`PAGES_PER_SPLIT`].
const SPLITS_EARLY: u64 = 10;
/// What fits into fewer pages is listed by one stream, without a request too many.
const PAGES_PER_EARLY_SPLIT: u64 = 3;
/// Pages for which one more request is worth while.
const PAGES_PER_SPLIT: u64 = 40;
/// How much further each look ahead goes than the one before.
const STRIDE: f64 = 8.0;
/// The furthest look ahead is this power of it, in pages.
const STRIDES_MAX: i32 = 7;
/// Pages that a range must have left for another stream to be worth while.
const WORTHWHILE: f64 = 3.0;
/// A store does not list in the order of keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OutOfOrder;

/// Keys above `after` up to and including `until`, of which those up to `last` have been listed.
#[derive(Debug, Default)]
struct Range {
    after: Option<String>,
    until: Option<String>,
    first: Option<String>,
    last: Option<String>,
    /// In the middle of its newest page; between it and `last` lay `half` keys.
    middle: Option<String>,
    half: usize,
    seen: u64,
    /// Streams begun in it that found nothing.
    dry: u32,
}

/// What is to be done with a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// So many of its keys, from the first, belong to the range.
    pub(super) keys: usize,
    /// There is nothing more in the range.
    pub(super) is_last: bool,
}

/// Who lists what.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    spread: Spread,
    /// The ranges that are not listed to their end, by the number of their stream.
    open: BTreeMap<usize, Range>,
    /// The first key of all.
    first: Option<String>,
    begun: usize,
    pages: u64,
    /// Keys in a full page.
    page_len: usize,
    looked_ahead: i32,
}

impl Splitter {
    /// Begins with one stream, number 0, for everything; `page_len` keys are a full page.
    pub(super) fn new(page_len: usize) -> Self {
        Self { open: BTreeMap::from([(0, Range::default())]), begun: 1, page_len, ..Self::default() }
    }

    /// Whether everything is listed.
    pub(super) fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// Takes note of the next page of `stream`.
    ///
    /// # Errors
    /// Its keys are not in order: then no border means anything.
    pub(super) fn page<'a>(&mut self, stream: usize, keys: &[&'a str]) -> Result<Taken, OutOfOrder> {
        let range = self.open.get_mut(&stream).expect("a stream ends with its range");
        let mut before: Option<&'a str> = None;
        let start = range.last.as_deref().or(range.after.as_deref());
        for key in keys {
            if !before.or(start).is_none_or(|before| follows(before, key)) {
                return Err(OutOfOrder);
            }
            before = Some(key);
        }
        let taken = match &range.until {
            Some(until) => keys.partition_point(|key| *key <= until.as_str()),
            None => keys.len(),
        };
        if let Some(last) = keys[..taken].last() {
            range.first.get_or_insert_with(|| keys[0].to_owned());
            self.first.get_or_insert_with(|| keys[0].to_owned());
            range.middle = Some(keys[taken / 2].to_owned());
            range.last = Some((*last).to_owned());
            range.half = taken - taken / 2;
            range.seen += taken as u64;
            self.pages += 1;
            self.spread.learn(&keys[..taken]);
        }
        let is_last = taken < keys.len();
        if is_last {
            self.end(stream);
        }
        Ok(Taken { keys: taken, is_last })
    }

    /// Takes note that there is nothing more behind the pages of `stream`.
    pub(super) fn end(&mut self, stream: usize) {
        let Some(ended) = self.open.remove(&stream) else { return };
        let before = self.open.values_mut().find(|range| range.until.is_some() && range.until == ended.after);
        if let Some(before) = before {
            // It was begun in the range that lies before it.
            before.dry = if ended.seen == 0 { before.dry + 1 } else { 0 };
        }
    }

    /// Begins another stream, if there is one worth while: its number, and the key behind which it begins.
    pub(super) fn split(&mut self) -> Option<(usize, String)> {
        if self.begun as u64 > (self.pages / PAGES_PER_EARLY_SPLIT).min(SPLITS_EARLY) + self.pages / PAGES_PER_SPLIT {
            return None;
        }
        // While the first page far ahead is on its way, nobody knows where the middle is.
        let looks_ahead = self.open.values().any(|range| range.until.is_none() && range.seen == 0);
        let (stream, border) = if looks_ahead { None } else { self.ahead().or_else(|| self.middle()) }?;
        let range = self.open.get_mut(&stream)?;
        let after = Range { after: Some(border.clone()), until: range.until.take(), ..Range::default() };
        range.until = Some(border.clone());
        let number = self.begun;
        self.begun += 1;
        self.open.insert(number, after);
        Some((number, border))
    }

    /// A border far ahead in the last range: as far again, several times, as everything is that was seen so far; or, where
    /// that would be beyond all keys, for the first ones lay far apart, many times the way of the newest half page.
    fn ahead(&mut self) -> Option<(usize, String)> {
        let (stream, range) = self.open.iter().find(|(_, range)| range.until.is_none())?;
        let (middle, last) = (range.middle.as_deref()?, range.last.as_deref()?);
        let strides = (1..=(self.looked_ahead + 1).min(STRIDES_MAX)).rev();
        let near = strides.map(|n| (middle, 2.0 * STRIDE.powi(n)));
        let mut ways = std::iter::once((self.first.as_deref()?, STRIDE - 1.0)).chain(near);
        let border = ways.find_map(|(from, times)| self.spread.ahead(from, last, times))?;
        self.looked_ahead += 1;
        Some((*stream, border))
    }

    /// A border in the middle of what the range with most to do has left.
    fn middle(&self) -> Option<(usize, String)> {
        let left = |range: &Range| {
            let (middle, last, until) = (range.middle.as_deref()?, range.last.as_deref()?, range.until.as_deref()?);
            let page = self.page_len as f64;
            // As dense as the newest half page, and as all of it so far.
            let near = self.spread.ratio(middle, last, until) + (range.half as f64 / page).ln();
            let all = self.spread.ratio(range.first.as_deref()?, last, until) + (range.seen as f64 / page).ln();
            // Where nothing was found before, it looks again when it has listed twice as much.
            let is_ready = range.seen >= (self.page_len as u64) << range.dry.min(32);
            (is_ready && near.max(all) >= WORTHWHILE.ln()).then_some(near / 2.0 + all / 2.0)
        };
        let fullest = self.open.iter().filter_map(|(stream, range)| Some((left(range)?, stream, range)));
        let (_, stream, range) = fullest.max_by(|a, b| a.0.total_cmp(&b.0))?;
        // The guess was too high where nothing was found: then nearer.
        let part = if range.dry == 0 { 0.5 } else { 1.0 / STRIDE };
        Some((*stream, self.spread.between(range.last.as_deref()?, range.until.as_deref()?, part)?))
    }
}

/// Whether a store that lists in order may list `key` after `before`. A key with a slash at its end, which some tools make
/// for a folder, is shown without it, and stands as if it had one.
fn follows(before: &str, key: &str) -> bool {
    key > before || before.strip_prefix(key).is_some_and(|rest| !rest.is_empty() && rest < "/")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::listing::PAGE;

    /// A store with these keys, in order.
    struct Simulated {
        keys: Vec<String>,
        page: usize,
    }

    /// What a listing of it came to.
    #[derive(Debug, Default)]
    struct Listed {
        keys: Vec<String>,
        requests: usize,
        streams: usize,
        /// Requests that follow one another, if all streams are equally fast.
        rounds: usize,
    }

    impl Simulated {
        fn new(mut keys: Vec<String>, page: usize) -> Self {
            keys.sort();
            keys.dedup();
            Self { keys, page }
        }

        /// Lists it with at most `streams_max` streams, of which `chance` says which one is answered next.
        fn list(&self, streams_max: usize, mut chance: impl FnMut(usize) -> Option<usize>) -> Listed {
            let mut splitter = Splitter::new(self.page);
            let mut listed = Listed { streams: 1, ..Listed::default() };
            // Where each stream is, and in which round it is answered.
            let mut streams = vec![(0, 0, 1)];
            while !streams.is_empty() {
                let earliest = (0..streams.len()).min_by_key(|i| streams[*i].2).unwrap();
                let which = chance(streams.len()).unwrap_or(earliest);
                let (number, at, round) = streams[which];
                let page = &self.keys[at..self.keys.len().min(at + self.page)];
                listed.requests += 1;
                listed.rounds = listed.rounds.max(round);
                let keys: Vec<&str> = page.iter().map(String::as_str).collect();
                let taken = splitter.page(number, &keys).unwrap();
                listed.keys.extend_from_slice(&page[..taken.keys]);
                if !taken.is_last && at + page.len() == self.keys.len() {
                    splitter.end(number);
                }
                if taken.is_last || at + page.len() == self.keys.len() {
                    streams.remove(which);
                } else {
                    streams[which] = (number, at + page.len(), round + 1);
                }
                while streams.len() < streams_max
                    && let Some((number, after)) = splitter.split()
                {
                    listed.streams += 1;
                    streams.push((number, self.keys.partition_point(|key| *key <= after), round + 1));
                }
                assert!(listed.requests <= self.keys.len() / self.page + listed.streams + 1, "{listed:?}");
            }
            assert!(splitter.is_done());
            listed
        }
    }

    fn in_turn(_: usize) -> Option<usize> {
        None
    }

    fn check(name: &str, keys: Vec<String>) {
        let store = Simulated::new(keys, PAGE);
        let listed = store.list(16, in_turn);
        let pages = store.keys.len().div_ceil(PAGE);
        let mut found = listed.keys.clone();
        found.sort();
        assert!(found == store.keys, "{name}: not every key exactly once");
        let summary = format!("{name}: {pages} pages, {} requests, {} rounds", listed.requests, listed.rounds);
        assert!(listed.requests <= pages + pages / 40 + 12, "{summary}");
        assert!(listed.rounds * 2 <= pages, "{summary}");
    }

    /// Deterministic noise.
    fn noise(i: usize) -> u64 {
        twox_hash::XxHash3_64::oneshot(&i.to_le_bytes())
    }

    const TS: &str = "20261121T063339.123Z.db.lz4";

    #[test]
    fn fleets_of_every_shape_are_listed_in_few_rounds_and_hardly_more_requests_than_pages() {
        let n = 150_000;
        let tenants = "srv/app/tenants";
        check("numbers", (0..n).map(|i| format!("{tenants}/t{i:06}.db/{TS}")).collect());
        check("numbers without zeros", (0..n).map(|i| format!("{tenants}/t{i}.db/{TS}")).collect());
        check("hashes", (0..n).map(|i| format!("{tenants}/{:016x}.db/{TS}", noise(i))).collect());
        let words = |i: usize| {
            let letter = |at: usize| char::from(b'a' + u8::try_from((noise(i) >> (5 * at)) % 19).unwrap());
            (0..8).map(letter).collect::<String>()
        };
        check("words", (0..n).map(|i| format!("{tenants}/{}.db/{TS}", words(i))).collect());
        let umlauts = |i: usize| words(i).replace('a', "ä").replace('e', "日").replace('i', "本");
        check("words beyond ASCII", (0..n).map(|i| format!("{tenants}/{}.db/{TS}", umlauts(i))).collect());
        let levels =
            |i: usize| format!("data/{:03}/databases/app/tenants/{:05}.db/{TS}", noise(i) % 90, noise(i + n) % 100_000);
        check("levels", (0..n).map(levels).collect());
        let ts = |i: usize| {
            format!(
                "2026{:02}{:02}T{:02}{:02}{:02}.{:03}Z",
                i / 60_000 + 1,
                i / 2000 % 28 + 1,
                i / 90 % 24,
                i / 60 % 60,
                i % 60,
                noise(i) % 1000
            )
        };
        check("one database", (0..100_000).map(|i| format!("srv/app.db/{}.db.lz4", ts(i))).collect());
        check("few databases", (0..n).map(|i| format!("srv/{}.db/{}.db.lz4", i % 7, ts(i / 7))).collect());
        let hosts =
            |i: usize| format!("{}/srv/x{:05}.db/{TS}", ["web-1", "db.internal", "日本"][i % 3], noise(i) % 90_000);
        check("hosts", (0..n).map(hosts).collect());
        // One folder holds nearly everything, the others hardly anything.
        let skewed = |i: usize| {
            if i.is_multiple_of(1000) { format!("{}/x.db/{TS}", words(i)) } else { format!("srv/{i:06}.db/{TS}") }
        };
        check("skewed", (0..n).map(skewed).collect());
    }

    #[test]
    fn a_store_of_one_page_takes_one_request() {
        for n in [0, 1, 999, 1000] {
            let store = Simulated::new((0..n).map(|i| format!("a/{i:04}.db/{TS}")).collect(), PAGE);
            let mut splitter = Splitter::new(PAGE);
            let keys: Vec<&str> = store.keys.iter().map(String::as_str).collect();
            assert_eq!(splitter.page(0, &keys), Ok(Taken { keys: n, is_last: false }));
            splitter.end(0);
            assert!(splitter.is_done() && splitter.split().is_none());
        }
    }

    #[test]
    fn a_store_that_lists_out_of_order_is_told() {
        let page = |keys: &[&str]| Splitter::new(PAGE).page(0, keys);
        assert_eq!(page(&["b", "a"]), Err(OutOfOrder));
        assert_eq!(page(&["a", "a"]), Err(OutOfOrder));
        assert!(page(&["a-1/x", "a", "a/b", "a0"]).is_ok(), "'a' stands for a key 'a/'");
        assert_eq!(page(&["a0", "a"]), Err(OutOfOrder));
        let mut splitter = Splitter::new(PAGE);
        splitter.page(0, &["b", "c"]).unwrap();
        assert_eq!(splitter.page(0, &["a"]), Err(OutOfOrder), "a page that repeats what was before");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Whatever the keys, the pages, and who is answered first.
        #[test]
        fn every_key_is_listed_exactly_once(
            keys in proptest::collection::vec("(a|ab|b|ä|日)(/|-|0)?[ab/é]{0,3}[0-9]{0,3}", 0..400),
            page in 1..40_usize,
            streams in 1..20_usize,
            seed: u64,
        ) {
            let valid = |key: &String| !key.split('/').any(str::is_empty);
            let store = Simulated::new(keys.into_iter().filter(valid).collect(), page);
            let mut turn = 0;
            let listed = store.list(streams, |n| {
                turn += 1;
                Some(usize::try_from(noise(turn) ^ seed).unwrap() % n)
            });
            let mut found = listed.keys;
            found.sort();
            prop_assert_eq!(&found, &store.keys);
            let pages = store.keys.len() / page + 1;
            prop_assert!(listed.requests <= pages + listed.streams);
        }
    }
}
