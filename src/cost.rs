//! What replication costs: prices, a model of how many requests there will be, and bills.
//!
//! Pure: numbers in, numbers and text out; no I/O, no clock. Dollars and shares are `f64`, times are seconds, sizes are
//! bytes, a GB is 10⁹ bytes and a month is [`MONTH_S`]. What a month will bring is told by [`model`] before the first
//! upload and by [`bill`] from what happened; [`whatif`] tells what cooldowns would have saved; [`analysis`] is the text
//! of `COST_ANALYSIS.md`.

pub mod analysis;
pub mod bill;
pub mod model;
pub mod prices;
mod text;
pub mod whatif;

pub use bill::{Bill, Counts, Observed};
pub use text::{bytes, count, usd};

/// A day in seconds.
pub const DAY_S: u64 = 86_400;

/// A month of 30 days in seconds: what every bill here is for.
pub const MONTH_S: u64 = 30 * DAY_S;

/// A whole number as `f64`. Exact below 2⁵³, far beyond any count of requests or bytes that is paid for.
pub(crate) fn float(n: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "an estimate in dollars does not see the 54th bit")]
    let float = n as f64;
    float
}
