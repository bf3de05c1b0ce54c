//! How a person or a service manager talks to a running loop: stop, or look now.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Requests to a running cycle or loop. Shared between the signal handler, the loop and all its workers.
#[derive(Debug)]
pub struct Control {
    born: Instant,
    /// When something last got on, in ms since `born`.
    progress_ms: AtomicU64,
    /// When the store last took something.
    stored_ms: AtomicU64,
    stop: AtomicBool,
    signal: AtomicI32,
    cycle_now: AtomicBool,
    moved: Mutex<()>,
    waker: Condvar,
    /// Wakes the asynchronous side when a stop is asked for.
    pub(crate) stopped: tokio::sync::Notify,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            progress_ms: AtomicU64::new(0),
            stored_ms: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            signal: AtomicI32::new(0),
            cycle_now: AtomicBool::new(false),
            moved: Mutex::default(),
            waker: Condvar::default(),
            stopped: tokio::sync::Notify::default(),
        }
    }
}

impl Control {
    /// Something got on: a step of a copy, a part or an object stored, a batch recorded. A cycle may take hours; that it does
    /// not hang is told by this.
    pub fn gets_on(&self) {
        let now_ms = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        // All threads look at it: it is not taken away from them for nothing.
        if self.progress_ms.load(Ordering::Relaxed) != now_ms {
            self.progress_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    /// The store took a part or an object: whatever was wrong with it, it is no longer.
    pub fn stored(&self) {
        self.gets_on();
        self.stored_ms.store(self.progress_ms.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// When the store last took something.
    #[must_use]
    pub fn last_stored(&self) -> Instant {
        self.born + Duration::from_millis(self.stored_ms.load(Ordering::Relaxed))
    }

    /// Notes that something got on; false if a stop was asked for.
    pub fn goes_on(&self) -> bool {
        self.gets_on();
        !self.is_stopped()
    }

    /// When something last got on.
    #[must_use]
    pub fn progress(&self) -> Instant {
        self.born + Duration::from_millis(self.progress_ms.load(Ordering::Relaxed))
    }

    /// Asks to stop: what is in flight is finished or aborted, then recorded. `signal` is what asked.
    pub fn stop(&self, signal: i32) {
        self.signal.store(signal, Ordering::SeqCst);
        self.stop.store(true, Ordering::SeqCst);
        self.wake();
        self.stopped.notify_waiters();
    }

    /// Asks for a cycle at once, without regard to cooldowns.
    pub fn cycle_now(&self) {
        self.cycle_now.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        let _held = self.moved.lock();
        self.waker.notify_all();
    }

    /// The signal that asked to stop, if one did.
    #[must_use]
    pub fn stop_signal(&self) -> Option<i32> {
        self.is_stopped().then(|| self.signal.load(Ordering::SeqCst))
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// The flag behind [`Control::is_stopped`], for code that polls.
    #[must_use]
    pub fn stop_flag(&self) -> &AtomicBool {
        &self.stop
    }

    /// Waits until `deadline`, a stop, or a request for a cycle, which it takes: true if there was one.
    pub fn wait_until(&self, deadline: Instant) -> bool {
        let mut held = self.moved.lock();
        loop {
            if self.cycle_now.swap(false, Ordering::SeqCst) {
                return true;
            }
            if self.is_stopped() || self.waker.wait_until(&mut held, deadline).timed_out() {
                return self.cycle_now.swap(false, Ordering::SeqCst);
            }
        }
    }

    /// Resolves when a stop was asked for.
    pub async fn until_stopped(&self) {
        let notified = self.stopped.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !self.is_stopped() {
            notified.await;
        }
    }

    /// Waits `pause`, or less if a stop is asked for.
    pub fn pause(&self, pause: Duration) {
        let deadline = Instant::now() + pause;
        let mut held = self.moved.lock();
        while !self.is_stopped() && !self.waker.wait_until(&mut held, deadline).timed_out() {}
    }
}
