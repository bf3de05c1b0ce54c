//! How many bytes may be on their way to the store at once: as many as the line carries in time.
//!
//! All uploads share one line. With everything under way that memory allows, a slow line would let each of them time
//! out and none arrive, in every cycle. So it begins with little, and grows as long as uploads arrive early.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Before anything is known of the line: thousands of small objects, one part of a large one.
const BYTES_FIRST: u64 = 8 << 20;
/// However slow it is: below this it is not the bytes that take the time.
const BYTES_MIN: u64 = 256 << 10;

/// The bytes on their way, and how many there may be.
#[derive(Debug)]
pub(crate) struct Window {
    /// The time within which a request must be answered.
    patience: Duration,
    state: Mutex<State>,
    /// First come, first served: a large part is not kept out by small objects for ever.
    turn: tokio::sync::Mutex<()>,
    room: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    limit: u64,
    used: u64,
}

/// Bytes on their way; over when dropped.
#[derive(Debug)]
pub(crate) struct Passage {
    window: Arc<Window>,
    bytes: u64,
    since: Instant,
}

impl Window {
    /// For requests that are given up after `patience`.
    pub(crate) fn new(patience: Duration) -> Arc<Self> {
        let state = Mutex::new(State { limit: BYTES_FIRST, used: 0 });
        Arc::new(Self { patience, state, turn: tokio::sync::Mutex::new(()), room: Notify::new() })
    }

    /// Waits until `bytes` more may be on their way. One request always may.
    pub(crate) async fn enter(self: &Arc<Self>, bytes: u64) -> Passage {
        let _turn = self.turn.lock().await;
        loop {
            let left = self.room.notified();
            if self.state.lock().enter(bytes) {
                return Passage { window: Arc::clone(self), bytes, since: Instant::now() };
            }
            left.await;
        }
    }
}

impl Passage {
    /// The store answered.
    pub(crate) fn arrived(self) {
        let took = self.since.elapsed();
        self.window.state.lock().arrived(self.bytes, took, self.window.patience);
    }

    /// The time was up.
    pub(crate) fn timed_out(self) {
        self.window.state.lock().timed_out();
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.window.state.lock().used -= self.bytes;
        self.window.room.notify_one();
    }
}

impl State {
    fn enter(&mut self, bytes: u64) -> bool {
        let may = self.used == 0 || self.used.saturating_add(bytes) <= self.limit;
        if may {
            self.used += bytes;
        }
        may
    }

    /// Early arrivals make room for as much again, late ones take half of it away.
    fn arrived(&mut self, bytes: u64, took: Duration, patience: Duration) {
        if took < patience / 4 {
            self.limit = self.limit.saturating_add(bytes);
        } else if took > patience / 2 {
            self.limit = (self.limit / 2).max(BYTES_MIN);
        }
    }

    fn timed_out(&mut self) {
        self.limit = (self.limit / 4).max(BYTES_MIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A line of `rate` bytes a second that all uploads in flight share: bytes arrived and timed out within an hour.
    fn an_hour(rate: u64, each: u64, memory: u64) -> (u64, u64) {
        let (mut state, mut arrived, mut lost) = (State { limit: BYTES_FIRST, used: 0 }, 0, 0);
        let mut now = Duration::ZERO;
        while now < Duration::from_secs(3600) {
            let mut batch = 0;
            while state.used + each <= memory && state.enter(each) {
                batch += 1;
            }
            // All of a batch end together, as they share the line.
            let took = Duration::from_secs(batch * each) / u32::try_from(rate).unwrap();
            now += took.min(PATIENCE);
            for _ in 0..batch {
                state.used -= each;
                if took < PATIENCE {
                    arrived += each;
                    state.arrived(each, took, PATIENCE);
                } else {
                    lost += each;
                    state.timed_out();
                }
            }
        }
        (arrived, lost)
    }

    #[test]
    fn a_slow_line_is_filled_without_uploads_timing_out() {
        for rate in [200 << 10, 1 << 20, 4 << 20, 40 << 20] {
            for each in [3 << 10, 100 << 10, 6 << 20, 8 << 20] {
                let (arrived, lost) = an_hour(rate, each, 256 << 20);
                assert!(lost <= arrived / 10, "{rate} B/s, {each} bytes each: {arrived} arrived, {lost} lost");
                assert!(arrived > rate * 3600 / 2, "{rate} B/s, {each} bytes each: {arrived} arrived");
            }
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_waits_its_turn_and_one_request_always_may() {
        let window = Window::new(PATIENCE);
        let large = window.enter(1 << 30).await;
        let waiting = [window.enter(1), window.enter(BYTES_FIRST)];
        let [mut first, mut second] = waiting.map(Box::pin);
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(large);
        let small = first.await;
        assert!(futures_util::poll!(&mut second).is_pending(), "together they are too many");
        small.arrived();
        second.await.timed_out();
        assert_eq!(*window.state.lock(), State { limit: (BYTES_FIRST + 1) / 4, used: 0 });
    }
}
