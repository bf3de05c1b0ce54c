//! Fetching what is chosen and judging it, in two turns: what was found wrong in the first is fetched once more, for a
//! transfer may have broken, or something in between have answered in the store's place.

use parking_lot::Mutex;

use super::image::{Content, Room, Unread, temp_folder};
use super::ledger::{Class, Finding, Ledger, Task, Tasks};
use super::{Counts, MARKED_BUT_GOOD, MISSING};
use crate::access::{Access, Body, FetchError};
use crate::cycle::Observer;
use crate::error::{Error, Failure, Result};
use crate::object::ObjectError;
use crate::record::chain;

/// Word of an object that belongs under another key.
pub(super) const WRONG_KEY: &str = "wrong-key";

/// What came of looking at one snapshot.
#[derive(Debug)]
enum Verdict {
    Good,
    /// Good as far as can be told.
    GoodBut(&'static str, String),
    Bad(&'static str, String),
    /// Good, but of a store that began elsewhere: every object of a copy looks like that, and of a store that is given from
    /// a level too high or too low, so none is marked for it.
    Moved(String),
    Missing,
    /// Not looked at, for reasons of its own.
    Unchecked(&'static str, String),
    /// Not looked at, for the store failed.
    StoreFailed(Failure),
    Untried,
}

impl Verdict {
    /// Whether another answer of the store may give another verdict: a transfer may break, and something in between may
    /// answer in the store's place. What passed every hash, or was read from a description that did, arrived as it is.
    fn may_be_the_transfer(&self) -> bool {
        match self {
            Self::Bad(word, _) => !matches!(*word, WRONG_KEY | "corrupt"),
            Self::Unchecked(word, _) => *word == "unreadable",
            Self::StoreFailed(_) => true,
            _ => false,
        }
    }
}

impl From<ObjectError> for Verdict {
    fn from(error: ObjectError) -> Self {
        let (word, detail) = (error.word(), chain(&error));
        if error.is_damage() { Self::Bad(word, detail) } else { Self::Unchecked(word, detail) }
    }
}

/// What stands before `end` in `key`, whole parts of it.
fn before<'a>(key: &'a str, end: &str) -> Option<&'a str> {
    key.strip_suffix(end).and_then(|rest| rest.strip_suffix('/').or(rest.is_empty().then_some(rest)))
}

/// What to say of a good object at `key`, below the store's prefix, that names another. With the end of one being all of the
/// other, name and time are right as far as both go: two objects that changed places differ in one of them.
fn wrong_key(key: &str, expected: String, found: String) -> Verdict {
    let hint = match (before(&found, key), before(key, &found)) {
        (Some(prefix), _) => Some(format!(
            "; if this store is a copy of another, give --moved-from '{prefix}', and if it is a part of one, give that as --store"
        )),
        (None, Some(below)) => Some(format!("; if its store begins at '{below}' below this one, give that as --store")),
        (None, None) => None,
    };
    let error = ObjectError::WrongKey { expected, found };
    match hint {
        Some(hint) => Verdict::Moved(error.to_string() + &hint),
        None => error.into(),
    }
}

/// What the threads of a run share.
pub(super) struct Run<'a> {
    access: &'a Access,
    observer: &'a dyn Observer,
    room: Room,
    ledger: Mutex<Ledger>,
    counts: Mutex<Counts>,
    store_failure: Mutex<Option<Failure>>,
    /// What ends the run.
    failure: Mutex<Option<Error>>,
}

impl<'a> Run<'a> {
    pub(super) fn new(access: &'a Access, ledger: Ledger, observer: &'a dyn Observer, counts: Counts) -> Self {
        Self {
            access,
            observer,
            room: Room::new(temp_folder()),
            ledger: Mutex::new(ledger),
            counts: Mutex::new(counts),
            store_failure: Mutex::default(),
            failure: Mutex::default(),
        }
    }

    /// What was found, the counts, and the last failure of the store.
    pub(super) fn into_parts(self) -> (Ledger, Counts, Option<Failure>) {
        (self.ledger.into_inner(), self.counts.into_inner(), self.store_failure.into_inner())
    }

    /// Looks at all that is chosen, and once more at what is not as it should be.
    pub(super) fn turns(&self) -> Result<()> {
        for is_last in [false, true] {
            let tasks = Tasks::new(&self.ledger, is_last, &self.failure);
            self.access.for_each_object(tasks, |task, body| {
                let verdict = self.judge(&task, body);
                if let Err(e) = self.settle(&task, verdict, is_last) {
                    self.failure.lock().get_or_insert(e);
                }
            });
            if let Some(e) = self.failure.lock().take() {
                return Err(e);
            }
        }
        Ok(())
    }

    fn judge(&self, task: &Task, body: Result<Body, FetchError>) -> Verdict {
        let body = match body {
            Ok(body) => body,
            Err(FetchError::Missing) => return Verdict::Missing,
            Err(FetchError::Object(e)) => return e.into(),
            Err(FetchError::Store(failure)) => return Verdict::StoreFailed(failure),
            Err(FetchError::Untried) => return Verdict::Untried,
        };
        self.counts.lock().bytes += task.wanted.size;
        match self.room.look(self.access, &task.wanted.location, body) {
            Ok(Content::Good) => Verdict::Good,
            Ok(Content::Corrupt(found)) => {
                Verdict::Bad("corrupt", format!("stored as it was, and it was corrupt: {found}"))
            }
            Ok(Content::NotCheckable(why)) => {
                Verdict::GoodBut("not-checkable", format!("every hash is right, but SQLite cannot check it: {why}"))
            }
            Err(Unread::Object(ObjectError::WrongKey { expected, found })) => {
                wrong_key(&task.wanted.location.key, expected, found)
            }
            Err(Unread::Object(e)) => e.into(),
            Err(Unread::Sqlite(e)) => Verdict::Unchecked("unreadable", format!("SQLite: {e}")),
            Err(Unread::Stopped) => Verdict::Untried,
        }
    }

    /// Counts a verdict, or leaves it to the next turn.
    fn settle(&self, task: &Task, verdict: Verdict, is_last: bool) -> Result<()> {
        let ledger = self.ledger.lock();
        if !is_last && verdict.may_be_the_transfer() {
            log::debug!("{} is fetched once more: {verdict:?}", task.wanted.location.key);
            return ledger.once_more(task);
        }
        let wants_marker = !task.marked && !matches!(verdict, Verdict::Moved(_));
        let find = |class, word: &str, detail: String| {
            let (name, time, key) = (task.name.clone(), task.time, task.wanted.location.key.clone());
            ledger.find(class, &Finding { name, time, word: word.to_owned(), detail, key }, wants_marker)
        };
        let marked_but = |what: &str| format!("an earlier run marked it as bad, and {what}");
        let mut counts = self.counts.lock();
        match verdict {
            Verdict::Good | Verdict::GoodBut(..) => {
                counts.checked += 1;
                counts.good += 1;
                if task.marked {
                    find(
                        Class::Note,
                        MARKED_BUT_GOOD,
                        marked_but("now it is good: delete the marker if that was the store"),
                    )?;
                }
                if let Verdict::GoodBut(word, detail) = verdict {
                    find(Class::Note, word, detail)?;
                }
            }
            Verdict::Bad(word, detail) => {
                counts.checked += 1;
                counts.bad += 1;
                find(Class::Bad, word, detail)?;
            }
            Verdict::Moved(detail) => {
                counts.checked += 1;
                counts.bad += 1;
                find(Class::Bad, WRONG_KEY, detail)?;
            }
            Verdict::Missing => {
                counts.missing += 1;
                find(Class::Missing, MISSING, "it was listed, but there is no object".into())?;
            }
            Verdict::Unchecked(word, detail) => {
                counts.unchecked += 1;
                find(Class::Unchecked, word, detail)?;
            }
            Verdict::StoreFailed(failure) => {
                counts.unchecked += 1;
                *self.store_failure.lock() = Some(failure);
            }
            Verdict::Untried => counts.unchecked += 1,
        }
        self.observer.done(task.wanted.size);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_a_store_that_begins_elsewhere_are_told_from_those_that_changed_places() {
        // Key below the store's prefix, key that the object names, what the hint says.
        for (key, found, hint) in [
            ("a.db/T1", "host/a.db/T1", Some("--moved-from 'host'")),
            ("a.db/T1", "a.db/T1", Some("--moved-from ''")),
            ("host/a.db/T1", "a.db/T1", Some("begins at 'host'")),
            ("bk/host/srv/a.db/T1", "srv/a.db/T1", Some("begins at 'bk/host'")),
            ("a.db/T1", "srv/aa.db/T1", None),
            ("srv/aa.db/T1", "a.db/T1", None),
            ("a.db/T1", "b.db/T1", None),
            ("host/a.db/T1", "a.db/T2", None),
            ("a.db/T1", "host/a.db/T2", None),
        ] {
            match (wrong_key(key, format!("p/{key}"), found.to_owned()), hint) {
                (Verdict::Moved(detail), Some(hint)) => assert!(detail.contains(hint), "{key} {found}: {detail}"),
                (Verdict::Bad(word, _), None) => assert_eq!(word, WRONG_KEY),
                (verdict, _) => panic!("{key} {found}: {verdict:?}"),
            }
        }
    }
}
