//! Facts on their way to the thread that records them, handed over in batches: of all facts only the first of a batch and the one
//! that fills it wake that thread.
//!
//! Owns how long a batch is waited for and how many facts may wait; does not look into them. What is in here when the process
//! dies was never counted as stored.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Semaphore, oneshot};

use crate::budget::block_on;

/// Things of kind `T` that wait, and who waits for them.
#[derive(Debug)]
pub(super) struct Inbox<T> {
    waiting: Mutex<Waiting<T>>,
    /// Something came that the taker wants to know of.
    called: Condvar,
    /// Room for more; closed when nobody takes any more.
    room: Semaphore,
    batch_len: usize,
    batch_time: Duration,
}

#[derive(Debug)]
struct Waiting<T> {
    things: Vec<T>,
    /// When the batch is due: so long after its first.
    due: Option<Instant>,
    /// Those who wait until all before them is done.
    flushes: Vec<oneshot::Sender<()>>,
    /// Nobody gives any more.
    closed: bool,
}

/// What is to be done at once.
#[derive(Debug)]
pub(super) struct Batch<T> {
    pub(super) things: Vec<T>,
    /// To be told once `things` are done.
    pub(super) flushes: Vec<oneshot::Sender<()>>,
    /// Nothing comes after it.
    pub(super) is_last: bool,
}

/// The giving end. The taker's last batch comes when all of these are gone.
#[derive(Debug)]
pub(super) struct Giver<T>(Arc<Inbox<T>>);

/// The taking end: while it is there, there is room to come.
#[derive(Debug)]
pub(super) struct Taker<T>(Arc<Inbox<T>>);

/// An inbox whose batches have at most `batch_len` things, and are due at the latest `batch_time` after their first. As many
/// again may wait meanwhile.
pub(super) fn inbox<T>(batch_len: usize, batch_time: Duration) -> (Giver<T>, Taker<T>) {
    let waiting = Waiting { things: Vec::new(), due: None, flushes: Vec::new(), closed: false };
    let (waiting, called, room) = (Mutex::new(waiting), Condvar::new(), Semaphore::new(batch_len));
    let inbox = Arc::new(Inbox { waiting, called, room, batch_len, batch_time });
    (Giver(Arc::clone(&inbox)), Taker(inbox))
}

impl<T> Giver<T> {
    /// Gives `thing`; waits while a whole batch is ahead of it. Lost if nobody takes any more.
    pub(super) async fn give(&self, thing: T) {
        if let Ok(room) = self.0.room.acquire().await {
            room.forget();
            self.put(thing);
        }
    }

    /// The same, blocking its thread: not for asynchronous code.
    pub(super) fn give_blocking(&self, thing: T) {
        block_on(self.give(thing));
    }

    fn put(&self, thing: T) {
        let inbox = &self.0;
        let mut waiting = inbox.waiting.lock();
        waiting.things.push(thing);
        if waiting.due.is_none() {
            waiting.due = Some(Instant::now() + inbox.batch_time);
        } else if waiting.things.len() < inbox.batch_len {
            return;
        }
        inbox.called.notify_one();
    }

    /// Resolves when all that was given before is done; with an error if nobody takes any more.
    pub(super) fn flush(&self) -> oneshot::Receiver<()> {
        let (done, flushed) = oneshot::channel();
        let mut waiting = self.0.waiting.lock();
        if !self.0.room.is_closed() {
            waiting.flushes.push(done);
            self.0.called.notify_one();
        }
        flushed
    }
}

impl<T> Drop for Giver<T> {
    fn drop(&mut self) {
        self.0.waiting.lock().closed = true;
        self.0.called.notify_one();
    }
}

impl<T> Taker<T> {
    /// Waits for the next batch: full, due, asked for, or the last.
    pub(super) fn take(&self) -> Batch<T> {
        let inbox = &self.0;
        let mut waiting = inbox.waiting.lock();
        while !(waiting.closed || !waiting.flushes.is_empty() || waiting.things.len() >= inbox.batch_len) {
            let Some(due) = waiting.due else {
                inbox.called.wait(&mut waiting);
                continue;
            };
            if inbox.called.wait_until(&mut waiting, due).timed_out() {
                break;
            }
        }
        let (things, flushes) = (std::mem::take(&mut waiting.things), std::mem::take(&mut waiting.flushes));
        waiting.due = None;
        inbox.room.add_permits(things.len());
        Batch { things, flushes, is_last: waiting.closed }
    }
}

impl<T> Drop for Taker<T> {
    fn drop(&mut self) {
        // Before the lock: whoever asks for a flush looks at it under the lock.
        self.0.room.close();
        self.0.waiting.lock().flushes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_batch_is_full_or_due_or_asked_for_or_the_last() {
        let (giver, taker) = inbox(3, LONG);
        (0..3).for_each(|n| giver.give_blocking(n));
        assert_eq!(taker.take().things, [0, 1, 2], "full");
        giver.give_blocking(3);
        let mut flushed = giver.flush();
        let batch = taker.take();
        assert_eq!((&batch.things[..], batch.is_last), (&[3][..], false), "asked for");
        assert!(flushed.try_recv().is_err(), "not done yet");
        batch.flushes.into_iter().for_each(|flush| flush.send(()).unwrap());
        flushed.blocking_recv().unwrap();
        giver.give_blocking(4);
        drop(giver);
        let batch = taker.take();
        assert_eq!((&batch.things[..], batch.is_last), (&[4][..], true), "the last");
        let (giver, taker) = inbox(3, Duration::from_millis(1));
        giver.give_blocking(5);
        assert_eq!(taker.take().things, [5], "due");
    }

    #[test]
    fn no_more_than_a_batch_waits_and_all_of_many_threads_arrive() {
        let (giver, taker) = inbox(10, LONG);
        let (each, threads) = (1000, 4);
        let mut got = std::thread::scope(|s| {
            let giver = Arc::new(giver);
            for t in 0..threads {
                let giver = Arc::clone(&giver);
                s.spawn(move || (0..each).for_each(|n| giver.give_blocking(t * each + n)));
            }
            drop(giver);
            let mut got = Vec::new();
            loop {
                let batch = taker.take();
                assert!(batch.things.len() <= 10, "{}", batch.things.len());
                got.extend(batch.things);
                if batch.is_last {
                    return got;
                }
            }
        });
        got.sort_unstable();
        assert_eq!(got, (0..threads * each).collect::<Vec<_>>());
    }

    #[test]
    fn nobody_waits_for_a_taker_that_is_gone() {
        let (giver, taker) = inbox(1, LONG);
        giver.give_blocking(0);
        let before = giver.flush();
        std::thread::scope(|s| {
            // There is no room: it waits until the taker is gone.
            let waits = s.spawn(|| giver.give_blocking(1));
            drop(taker);
            waits.join().unwrap();
        });
        assert!(before.blocking_recv().is_err());
        assert!(giver.flush().blocking_recv().is_err());
        giver.give_blocking(2);
    }
}
