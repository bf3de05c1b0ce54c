//! Carries a plan out: batches of deletes at a bounded rate, each outcome by key.
//!
//! A stop ends waits at once and a request under way after a short grace; what its answer would have said is then
//! not counted, and the next run finds out by listing.

use std::collections::HashSet;
use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore};

use super::Observer;
use super::plan::{Doomed, Plan, TIERS};
use super::report::PruneReport;
use crate::access::Access;
use crate::error::{Failure, Reason, Result};
use crate::names::decoded;
use crate::store::{Kind, answered_status, classify};

/// What S3 takes in one request.
const BATCH_MAX: u32 = 1000;
/// What Azure takes.
const BATCH_MAX_AZURE: u32 = 256;
/// Batches in a row of which nothing could be deleted, for reasons of the store as a whole, after which the rest is left.
const DOWN_AFTER: u32 = 3;
/// How long a request under way may still take after a stop.
const GRACE: Duration = Duration::from_secs(5);

/// Deletes what a plan says.
pub(super) struct Remover<'a> {
    access: &'a Access,
    observer: &'a dyn Observer,
    rate: u32,
    begun: Instant,
    asked: u64,
    /// The store has shown that it cannot delete many objects with one request.
    one_by_one: bool,
    down_in_a_row: u32,
}

/// What became of a batch.
enum Answer {
    /// Of each key, in order.
    ByKey(Vec<std::result::Result<(), Failure>>),
    /// The request failed; of no key is anything known.
    Failed(Failure),
    /// The store has no such request.
    Unknown,
    /// A stop came.
    Stopped,
}

impl<'a> Remover<'a> {
    pub(super) fn new(access: &'a Access, rate: u32, observer: &'a dyn Observer) -> Self {
        let rate = rate.max(1);
        Self { access, observer, rate, begun: Instant::now(), asked: 0, one_by_one: false, down_in_a_row: 0 }
    }

    /// Deletes tier after tier and counts in `report`.
    ///
    /// # Errors
    /// No room for temporary files; what was deleted until then is deleted.
    pub(super) fn carry_out(mut self, plan: &Plan, report: &mut PruneReport) -> Result<()> {
        self.observer.planned(plan.len());
        let mut settled = 0;
        'all: for tier in TIERS {
            let mut after = 0;
            loop {
                let batch = plan.batch(tier, after, self.batch_len())?;
                let Some(last) = batch.last() else { break };
                after = last.id;
                let batch = if tier == 0 { batch } else { without_failed(batch, plan)? };
                self.wait();
                if self.access.control.is_stopped() || self.down_in_a_row >= DOWN_AFTER {
                    break 'all;
                }
                if !batch.is_empty() {
                    settled += self.remove(&batch, plan, report)?;
                }
            }
        }
        report.untried = plan.len() - settled;
        report.note_if_down(self.down_in_a_row >= DOWN_AFTER);
        Ok(())
    }

    fn batch_len(&self) -> u32 {
        let most = if self.access.store.kind == Kind::Azure { BATCH_MAX_AZURE } else { BATCH_MAX };
        most.min(self.rate)
    }

    /// Waits until the rate allows more, or a stop.
    fn wait(&self) {
        let due = Duration::from_secs_f64(self.asked as f64 / f64::from(self.rate));
        self.access.control.pause(due.saturating_sub(self.begun.elapsed()));
    }

    /// Returns how many came to an end, be it a failure.
    fn remove(&mut self, batch: &[Doomed], plan: &Plan, report: &mut PruneReport) -> Result<u64> {
        self.asked += batch.len() as u64;
        let outcomes = match self.ask_again(batch) {
            Answer::ByKey(outcomes) => outcomes,
            Answer::Failed(failure) => vec![Err(failure); batch.len()],
            Answer::Unknown => {
                let what = "the store can neither delete many objects at once nor one by one";
                vec![Err(Failure::new(Reason::StoreError, what)); batch.len()]
            }
            Answer::Stopped => return Ok(0),
        };
        let is_down = outcomes.iter().all(|o| o.as_ref().is_err_and(|failure| failure.reason.concerns_store()));
        self.down_in_a_row = if is_down { self.down_in_a_row + 1 } else { 0 };
        for (doomed, outcome) in batch.iter().zip(outcomes) {
            match outcome {
                Ok(()) => report.add(doomed),
                Err(failure) => {
                    plan.note_failed(&doomed.name)?;
                    report.failures.add(FsPath::new(&decoded(&doomed.key())), failure);
                }
            }
        }
        self.observer.done(batch.len() as u64);
        Ok(batch.len() as u64)
    }

    /// Deleting again what may be deleted already is harmless: a request without an answer is made once more, and one that
    /// the store does not know is made object by object.
    fn ask_again(&mut self, batch: &[Doomed]) -> Answer {
        let mut answer = self.ask(batch);
        if matches!(answer, Answer::Unknown) && !self.one_by_one {
            self.one_by_one = true;
            answer = self.ask(batch);
        }
        if self.is_refused_at_once(&answer) {
            answer = self.try_singly(batch).unwrap_or(answer);
        }
        match &answer {
            Answer::Failed(f) if matches!(f.reason, Reason::StoreUnreachable | Reason::StoreTimeout) => self.ask(batch),
            _ => answer,
        }
    }

    /// Some stores (Ceph) want, for a request that deletes many objects, a right on the bucket besides that on each object.
    fn is_refused_at_once(&self, answer: &Answer) -> bool {
        let is_refused = matches!(answer, Answer::Failed(f) if f.reason == Reason::StoreRefused);
        is_refused && !self.one_by_one && self.access.store.singly.is_some()
    }

    /// Deletes one by one, if the first of `batch` can be deleted so.
    fn try_singly(&mut self, batch: &[Doomed]) -> Option<Answer> {
        let (first, others) = batch.split_at(1.min(batch.len()));
        self.one_by_one = true;
        match self.ask(first) {
            Answer::ByKey(mut outcomes) if outcomes.iter().all(std::result::Result::is_ok) => {
                match self.ask(others) {
                    Answer::ByKey(more) => outcomes.extend(more),
                    Answer::Failed(failure) => outcomes.extend(others.iter().map(|_| Err(failure.clone()))),
                    stopped => return Some(stopped),
                }
                Some(Answer::ByKey(outcomes))
            }
            _ => {
                self.one_by_one = false;
                None
            }
        }
    }

    fn ask(&self, batch: &[Doomed]) -> Answer {
        let store = &self.access.store;
        let paths = batch.iter().map(|doomed| store.path(&doomed.key())).collect::<object_store::Result<Vec<_>>>();
        let paths = match paths {
            Ok(paths) => paths,
            Err(e) => return Answer::Failed(classify(&e)),
        };
        let singly = store.singly.as_ref().filter(|_| self.one_by_one);
        let (inner, expected) = (Arc::clone(singly.unwrap_or(&store.inner)), paths.len());
        // In a task of its own: object_store panics over an answer that names a key it was not asked about.
        let mut deleting = self.access.runtime().spawn(delete(inner, paths));
        let control = &self.access.control;
        let answers = self.access.runtime().block_on(async {
            let stopped = async {
                control.until_stopped().await;
                tokio::time::sleep(GRACE).await;
            };
            tokio::select! {
                answers = &mut deleting => Some(answers),
                () = stopped => None,
            }
        });
        match answers {
            None => {
                deleting.abort();
                Answer::Stopped
            }
            Some(Err(_)) => Answer::Failed(Failure::new(Reason::StoreError, "the answer makes no sense")),
            Some(Ok(answers)) => self.understand(answers, expected),
        }
    }

    fn understand(&self, answers: Vec<object_store::Result<Path>>, expected: usize) -> Answer {
        // A request for many that fails gives one error; per key they come in the order of the keys.
        let is_many = !self.one_by_one && matches!(self.access.store.kind, Kind::S3 | Kind::Azure);
        if answers.len() != expected || (is_many && expected == 1) {
            match answers.iter().find_map(|answer| answer.as_ref().err()) {
                Some(e) if is_many && knows_no_such_request(e) => return Answer::Unknown,
                Some(e) => return Answer::Failed(classify(e)),
                None if answers.len() != expected => {
                    return Answer::Failed(Failure::new(Reason::StoreError, "the answer leaves objects out"));
                }
                None => {}
            }
        }
        Answer::ByKey(answers.into_iter().map(|answer| answer.map(|_| ()).or_else(|e| unless_gone(&e))).collect())
    }
}

/// Whether the store answered as those do that cannot delete many objects with one request.
fn knows_no_such_request(error: &StoreError) -> bool {
    let is_answer = matches!(answered_status(error), Some(400 | 404 | 405 | 501));
    is_answer && classify(error).reason == Reason::StoreError
}

/// What another has deleted in the meantime is as it should be; below a bucket or folder that is gone nothing is.
fn unless_gone(error: &StoreError) -> std::result::Result<(), Failure> {
    let failure = classify(error);
    let is_gone = matches!(error, StoreError::NotFound { .. }) && failure.reason != Reason::StoreMissing;
    if is_gone { Ok(()) } else { Err(failure) }
}

/// The rest of a batch, of whose databases everything went well so far.
fn without_failed(batch: Vec<Doomed>, plan: &Plan) -> Result<Vec<Doomed>> {
    let mut failed = HashSet::new();
    for doomed in &batch {
        if !failed.contains(&doomed.name) && plan.has_failed(&doomed.name)? {
            failed.insert(doomed.name.clone());
        }
    }
    Ok(batch.into_iter().filter(|doomed| !failed.contains(&doomed.name)).collect())
}

async fn delete(store: Arc<dyn ObjectStore>, paths: Vec<Path>) -> Vec<object_store::Result<Path>> {
    store.delete_stream(stream::iter(paths.into_iter().map(Ok)).boxed()).collect().await
}
