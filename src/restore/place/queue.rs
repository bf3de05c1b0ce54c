//! Finished files between the threads that finish them and the one that makes them durable. Bounded by file descriptors.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::batch::Handed;

/// Files in one batch at most.
const FILES_MAX: usize = 1_000;

/// How long a finished file waits for others, and a renamed one for the next sync.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Files to work on.
pub(super) struct Round {
    pub(super) items: Vec<Handed>,
    /// Somebody waits, or nothing more has come: everything is to be made durable now.
    pub(super) is_last: bool,
}

/// The queue.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Something came, somebody waits, or it was closed.
    work: Condvar,
    /// There is room, or something was settled.
    moved: Condvar,
    /// Descriptors that waiting files may hold.
    descriptors_max: usize,
}

#[derive(Default)]
struct State {
    items: Vec<Handed>,
    descriptors: usize,
    /// When the first of `items` came.
    since: Option<Instant>,
    /// Files ever handed over, and of these those that are durable or refused.
    handed: u64,
    settled: u64,
    /// How many wait in [`Queue::flush`].
    flushing: usize,
    is_closed: bool,
    /// Nobody works on it any more.
    is_abandoned: bool,
}

impl Queue {
    /// For files that hold `descriptors_max` file descriptors together. As many again are held by those at work, and by those
    /// that were renamed before.
    pub(super) fn new(descriptors_max: usize) -> Self {
        Self { state: Mutex::default(), work: Condvar::new(), moved: Condvar::new(), descriptors_max }
    }

    /// Adds a file; waits while there is no room. Gives it back if nobody works on the queue any more.
    pub(super) fn push(&self, item: Handed) -> Result<(), Handed> {
        let mut state = self.state.lock();
        while self.is_full(&state) && !state.is_abandoned {
            self.moved.wait(&mut state);
        }
        if state.is_abandoned {
            return Err(item);
        }
        state.descriptors += item.descriptors();
        state.handed += 1;
        state.since.get_or_insert_with(Instant::now);
        state.items.push(item);
        self.work.notify_one();
        Ok(())
    }

    /// The next files, after having waited for a full batch, a second or a reason to hurry. None at the end. `is_waiting`:
    /// renamed files wait to be made durable.
    pub(super) fn next(&self, is_waiting: bool) -> Option<Round> {
        let mut state = self.state.lock();
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let hurry = state.flushing > 0 || state.is_closed;
            let due = state.since.map(|since| since + WAIT_MAX).or(is_waiting.then_some(deadline));
            let has_work = is_waiting || !state.items.is_empty();
            if !has_work && state.is_closed {
                return None;
            }
            if has_work && (hurry || self.is_full(&state) || due.is_some_and(|due| due <= Instant::now())) {
                let items = std::mem::take(&mut state.items);
                state.descriptors = 0;
                state.since = None;
                self.moved.notify_all();
                return Some(Round { is_last: hurry || items.is_empty(), items });
            }
            match due {
                Some(due) => {
                    self.work.wait_until(&mut state, due);
                }
                None => self.work.wait(&mut state),
            }
        }
    }

    fn is_full(&self, state: &State) -> bool {
        state.items.len() >= FILES_MAX || state.descriptors >= self.descriptors_max
    }

    /// So many files are durable or refused, and that was told.
    pub(super) fn settled(&self, count: usize) {
        self.state.lock().settled += count as u64;
        self.moved.notify_all();
    }

    /// Returns when everything that was added before is settled.
    pub(super) fn flush(&self) {
        let mut state = self.state.lock();
        let handed = state.handed;
        state.flushing += 1;
        self.work.notify_one();
        while state.settled < handed && !state.is_abandoned {
            self.moved.wait(&mut state);
        }
        state.flushing -= 1;
    }

    /// Nothing more will be added.
    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.work.notify_one();
    }

    /// Nobody works on it any more: nobody shall wait for that.
    pub(super) fn abandon(&self) {
        self.state.lock().is_abandoned = true;
        self.moved.notify_all();
    }
}
