//! A budget of bytes: what keeps memory bounded whatever the fleet looks like.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes are counted in units of this size.
const UNIT: u64 = 1024;

/// Bytes that may be in memory at once: copies, compressed objects and parts on their way to the store. First come,
/// first served, so that a large request is not starved by small ones.
#[derive(Debug)]
pub struct Budget {
    total: u64,
    free: Arc<Semaphore>,
}

/// A share of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub struct Permit(OwnedSemaphorePermit);

impl Budget {
    /// A budget of `total` bytes, at most 4 TiB.
    #[must_use]
    pub fn new(total: u64) -> Arc<Self> {
        let total = total.min(4 << 40);
        Arc::new(Self {
            total,
            free: Arc::new(Semaphore::new(usize::try_from(total / UNIT).unwrap_or(usize::MAX >> 3))),
        })
    }

    /// The whole budget in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Waits until `bytes` are free and takes them. More than the whole budget counts as the whole, so that one
    /// oversized request waits for everybody else instead of for ever. Blocks its thread: not for asynchronous code.
    #[must_use]
    pub fn take(&self, bytes: u64) -> Permit {
        block_on(self.take_async(bytes))
    }

    /// [`Budget::take`] for asynchronous code.
    pub async fn take_async(&self, bytes: u64) -> Permit {
        let units = u32::try_from(bytes.min(self.total) / UNIT).unwrap_or(u32::MAX);
        let taken = Arc::clone(&self.free).acquire_many_owned(units).await;
        Permit(taken.expect("the semaphore is never closed"))
    }
}

impl Permit {
    /// Gives back what exceeds `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let keep = usize::try_from(bytes.div_ceil(UNIT)).unwrap_or(usize::MAX);
        let back = self.0.num_permits().saturating_sub(keep);
        drop(self.0.split(back));
    }
}

/// Parks this thread until `future` is ready. It must not need a runtime.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn never_more_than_the_total_is_out_and_all_of_it_comes_back() {
        const TOTAL: u64 = 100 * UNIT;
        let budget = Budget::new(TOTAL);
        let (out, worst) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|s| {
            for t in 0..8_u64 {
                let (budget, out, worst) = (&budget, &out, &worst);
                s.spawn(move || {
                    for n in 0..500 {
                        let want = (1 + (t * 37 + n * 11) % 130) * UNIT;
                        let mut permit = budget.take(want);
                        let got = want.min(TOTAL);
                        worst.fetch_max(out.fetch_add(got, Ordering::SeqCst) + got, Ordering::SeqCst);
                        out.fetch_sub(got, Ordering::SeqCst);
                        permit.shrink_to(got / 2);
                    }
                });
            }
        });
        assert!(worst.into_inner() <= TOTAL);
        assert_eq!(budget.free.available_permits(), 100);
    }
}
