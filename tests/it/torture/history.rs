//! What the applications say they committed, and what a snapshot may therefore hold.
//!
//! A commit is real if it was logged as done, or was tried by a process that was killed and is what others built on. In
//! the order in which they were tried, for that is written while the writer's lock is held.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Birth of a database, number and hash of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct State {
    birth: u64,
    n: u64,
    h: u64,
}

impl State {
    /// There is no database.
    const GONE: Self = Self { birth: 0, n: 0, h: 0 };
    /// There is one without a table.
    const EMPTY: Self = Self { birth: 1, n: 0, h: 0 };

    /// `BIRTH N H`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let birth = words.next()?;
        match birth {
            "gone" => return Some(Self::GONE),
            "empty" => return Some(Self::EMPTY),
            _ => {}
        }
        let birth = u64::from_str_radix(birth.strip_suffix('x')?, 16).ok()?;
        Some(Self { birth, n: words.next()?.parse().ok()?, h: words.next()?.parse().ok()? })
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::GONE => f.write_str("gone"),
            Self::EMPTY => f.write_str("empty"),
            Self { birth, n, h } => write!(f, "{birth:012x}x {n} {h}"),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Commit {
    state: State,
    parent: u64,
    tried: i64,
    /// When it was known to be over; `None` for one that a kill left in doubt.
    done: Option<i64>,
}

#[derive(Debug, Default)]
struct Timeline {
    commits: Vec<Commit>,
    /// Where each state stands; only that of an empty database can stand in several places.
    at: HashMap<State, Vec<usize>>,
    undone: HashMap<State, i64>,
    rest: Option<(i64, State)>,
}

#[derive(Debug)]
pub(crate) struct History {
    of: Vec<Timeline>,
    pub(crate) commits: BTreeMap<String, u64>,
    pub(crate) busy: u64,
}

impl History {
    pub(crate) fn new(databases: usize) -> Self {
        let of = std::iter::repeat_with(Timeline::default).take(databases).collect();
        Self { of, commits: BTreeMap::new(), busy: 0 }
    }

    /// Reads what was appended to a log since `offset`.
    pub(crate) fn read(&mut self, log: &Path, offset: &mut u64) {
        let Ok(mut file) = File::open(log) else { return };
        file.seek(SeekFrom::Start(*offset)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        *offset += whole as u64;
        text[..whole].lines().for_each(|line| self.take(line));
    }

    /// `WORD NANOSECONDS ID BIRTH N H PARENT MODE`.
    fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let [word, at, id, birth, n, h, parent, mode] = words[..] else { panic!("a log says {line:?}") };
        if word == "busy" {
            self.busy += 1;
            return;
        }
        let at: i64 = at.parse().unwrap();
        let state = State::parse(&format!("{birth} {n} {h}")).unwrap();
        let timeline = &mut self.of[id.parse::<usize>().unwrap()];
        match word {
            "try" => timeline.commits.push(Commit { state, parent: parent.parse().unwrap(), tried: at, done: None }),
            "done" => {
                let commit = timeline.commits.iter_mut().rev().find(|c| c.state == state);
                commit.unwrap_or_else(|| panic!("done and never tried: {line}")).done = Some(at);
                if state.birth > State::EMPTY.birth {
                    *self.commits.entry(mode.to_owned()).or_default() += 1;
                }
            }
            "rest" if timeline.rest.is_none_or(|(before, _)| before < at) => timeline.rest = Some((at, state)),
            "rest" => {}
            _ => panic!("a log says {line:?}"),
        }
    }

    /// Everybody rests: orders what was read, and tells what the applications themselves lost.
    pub(crate) fn settle(&mut self) -> Vec<(usize, String)> {
        self.of.iter_mut().enumerate().flat_map(|(id, timeline)| timeline.settle().map(|what| (id, what))).collect()
    }

    /// Whether a snapshot whose stamps were taken at `taken_at_ms` may hold `state`.
    pub(crate) fn judge(&self, id: usize, state: State, taken_at_ms: i64) -> Result<(), String> {
        let timeline = &self.of[id];
        let Some(places) = timeline.at.get(&state) else {
            return Err(match timeline.undone.get(&state) {
                Some(tried) => format!("torn: {state} was tried at {tried} and never committed"),
                None => format!("torn: {state} is no commit of this database"),
            });
        };
        // The last place is the one that lasted longest.
        let next = places.last().and_then(|at| timeline.commits.get(at + 1));
        match next {
            Some(next) if next.done.is_some_and(|done| done < taken_at_ms * 1_000_000) => Err(format!(
                "stale: it holds {state}, and {} was committed {} ms before it was taken",
                next.state,
                taken_at_ms - next.done.unwrap_or_default() / 1_000_000
            )),
            _ => Ok(()),
        }
    }

    /// The state that a database rests in.
    pub(crate) fn rest(&self, id: usize) -> State {
        self.of[id].rest.expect("it rests").1
    }

    /// Forgets all but the states that the databases rest in.
    pub(crate) fn trim(&mut self) {
        for timeline in &mut self.of {
            let last = timeline.commits.pop();
            timeline.commits.clear();
            timeline.commits.extend(last);
            timeline.undone.clear();
            timeline.index();
        }
    }
}

impl Timeline {
    fn settle(&mut self) -> Option<String> {
        let Some((rested, rest)) = self.rest else { return Some("its application never came to rest".into()) };
        self.commits.sort_by_key(|c| c.tried);
        // What was built upon, and since when it must have been there.
        let mut proven: HashMap<(u64, u64, u64), i64> = HashMap::new();
        proven.insert((rest.birth, rest.n, rest.h), rested);
        for child in self.commits.iter().filter(|c| c.state.n > 0) {
            proven.entry((child.state.birth, child.state.n - 1, child.parent)).or_insert(child.tried);
        }
        for commit in &mut self.commits {
            let key = (commit.state.birth, commit.state.n, commit.state.h);
            commit.done = commit.done.or_else(|| proven.get(&key).copied());
        }
        // A kill between the making of an empty database and the first commit in it; or one after which nobody looked at
        // what was there before he deleted or replaced it: it may have been this.
        let mut next: Option<Commit> = None;
        for commit in self.commits.iter_mut().rev() {
            if let Some(next) = next.filter(|n| commit.state == State::EMPTY || n.state.birth != commit.state.birth) {
                commit.done = commit.done.or(Some(next.tried));
            }
            next = Some(*commit);
        }
        let undone = self.commits.extract_if(.., |c| c.done.is_none());
        self.undone.extend(undone.map(|c| (c.state, c.tried)));
        self.index();
        let lost = self.commits.windows(2).find(|pair| {
            let (a, b) = (pair[0].state, pair[1].state);
            a.birth == b.birth && a.birth > State::EMPTY.birth && (b.n != a.n + 1 || pair[1].parent != a.h)
        });
        let last = self.commits.last().map(|c| c.state);
        match lost {
            Some(pair) => {
                Some(format!("its application lost a commit: {} came after {}", pair[1].state, pair[0].state))
            }
            None if last == Some(rest) => None,
            None => Some(format!(
                "its application lost a commit: it rests in {rest}, its last was {}",
                last.unwrap_or(rest)
            )),
        }
    }

    fn index(&mut self) {
        self.at.clear();
        for (n, commit) in self.commits.iter().enumerate() {
            self.at.entry(commit.state).or_default().push(n);
        }
    }
}

/// A writer killed between its `mv` and the line that says so, and the next one deletes what is there unseen.
#[test]
fn what_a_kill_leaves_in_doubt_may_have_been_there_until_it_is_replaced() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let lines = [
        "try 1000000 0 00000000000ax 1 11 0 wal",
        "done 1000001 0 00000000000ax 1 11 0 wal",
        "try 2000000 0 00000000000bx 2 22 0 delete", // in doubt
        "try 5000000 0 gone 0 0 0 delete",
        "done 5000001 0 gone 0 0 0 delete",
        "try 6000000 0 00000000000cx 1 31 0 wal", // in doubt, and not what the next one is built on
        "try 7000000 0 00000000000cx 1 32 0 wal",
        "done 7000001 0 00000000000cx 1 32 0 wal",
        "rest 9000000 0 00000000000cx 1 32 0 wal",
    ];
    std::fs::write(log.path(), lines.map(|line| format!("{line}\n")).concat()).unwrap();
    let mut history = History::new(1);
    history.read(log.path(), &mut 0);
    assert_eq!(history.settle(), []);
    let judged = |text: &str, at_ms| history.judge(0, State::parse(text).unwrap(), at_ms);
    assert_eq!(judged("00000000000bx 2 22", 3), Ok(()));
    assert_eq!(judged("00000000000ax 1 11", 3), Ok(()), "or it was not there");
    assert!(judged("00000000000bx 2 22", 6).unwrap_err().starts_with("stale"));
    assert!(judged("00000000000cx 1 31", 8).unwrap_err().starts_with("torn"));
    assert_eq!(judged("00000000000cx 1 32", 8), Ok(()));
}
