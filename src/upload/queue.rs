//! From the threads that read to the uploads: so many at a time, and whoever finds the queue full sleeps until half of it is gone.
//!
//! Where uploads are what takes longest the queue is always full: woken for each single one that leaves, a thread would be put to
//! sleep and woken as often as it reads a database.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::mpsc;

/// The sending end; the receiving one ends when all of these are gone.
#[derive(Debug)]
pub(crate) struct Sender<T> {
    things: mpsc::UnboundedSender<T>,
    gate: Arc<Gate>,
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Receiver<T> {
    things: mpsc::UnboundedReceiver<T>,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct Gate {
    waiting: Mutex<Waiting>,
    opened: Condvar,
    max: usize,
}

#[derive(Debug)]
struct Waiting {
    things: usize,
    /// Senders that wait for room.
    asleep: usize,
    /// Nobody receives any more.
    closed: bool,
}

/// A queue in which at most `max` things wait.
pub(crate) fn queue<T>(max: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Mutex::new(Waiting { things: 0, asleep: 0, closed: false });
    let gate = Arc::new(Gate { waiting, opened: Condvar::new(), max });
    (Sender { things: sender, gate: Arc::clone(&gate) }, Receiver { things: receiver, gate })
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { things: self.things.clone(), gate: Arc::clone(&self.gate) }
    }
}

impl<T> Sender<T> {
    /// Sends `thing`; blocks its thread while the queue is full. Gives it back if nobody receives any more.
    pub(crate) fn send(&self, thing: T) -> Result<(), T> {
        let mut waiting = self.gate.waiting.lock();
        if waiting.things >= self.gate.max {
            waiting.asleep += 1;
            self.gate.opened.wait_while(&mut waiting, |now| !now.closed && now.things > self.gate.max / 2);
            waiting.asleep -= 1;
        }
        waiting.things += 1;
        drop(waiting);
        self.things.send(thing).map_err(|unsent| unsent.0)
    }
}

impl<T> Receiver<T> {
    /// The next one; `None` when all senders are gone.
    pub(crate) async fn recv(&mut self) -> Option<T> {
        let thing = self.things.recv().await?;
        let mut waiting = self.gate.waiting.lock();
        waiting.things -= 1;
        if waiting.things == self.gate.max / 2 {
            self.gate.opened.notify_all();
        }
        Some(thing)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.things.close();
        self.gate.waiting.lock().closed = true;
        self.gate.opened.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn all_of_many_threads_arrive_and_no_more_than_allowed_wait() {
        const EACH: usize = 1000;
        let (sender, mut receiver) = queue(10);
        let sent = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (sender, sent) = (sender.clone(), &sent);
                scope.spawn(move || {
                    for n in 0..EACH {
                        sender.send(thread * EACH + n).unwrap();
                        sent.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            drop(sender);
            let mut got = Vec::new();
            while let Some(thing) = crate::budget::block_on(receiver.recv()) {
                got.push(thing);
                // Those that were let in at the same time, and one for each thread that was told of and is not counted yet.
                let waiting = sent.load(Ordering::SeqCst).saturating_sub(got.len());
                assert!(waiting <= 10 + 4, "{waiting}");
            }
            got.sort_unstable();
            assert_eq!(got, (0..4 * EACH).collect::<Vec<_>>());
        });
    }

    #[test]
    fn a_full_queue_lets_nobody_in_before_half_of_it_is_gone() {
        let (sender, mut receiver) = queue(4);
        (0..4).for_each(|n| sender.send(n).unwrap());
        std::thread::scope(|scope| {
            let asleep = || sender.gate.waiting.lock().asleep;
            let late = scope.spawn(|| sender.send(4));
            while asleep() == 0 {
                std::thread::yield_now();
            }
            let mut next = || crate::budget::block_on(receiver.recv());
            assert_eq!((next(), asleep()), (Some(0), 1));
            assert_eq!(next(), Some(1));
            late.join().unwrap().unwrap();
            assert_eq!((next(), next(), next()), (Some(2), Some(3), Some(4)));
        });
    }

    #[test]
    fn nobody_waits_for_a_receiver_that_is_gone() {
        let (sender, receiver) = queue(1);
        sender.send(0).unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| sender.send(1));
            drop(receiver);
            assert_eq!(waits.join().unwrap(), Err(1));
        });
        assert_eq!(sender.send(2), Err(2));
    }
}
