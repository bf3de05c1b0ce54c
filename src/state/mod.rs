//! What is remembered of each database: 32 bytes in memory, a row in `state.db`.
//!
//! Order of recording: the store confirms, then `state.db`, then memory. A crash anywhere between leaves a
//! database that counts as changed, never one that counts as stored and is not.

mod apply;
mod beside;
mod change;
mod cycles;
mod db;
mod lock;
mod look;
mod notes;
mod rows;
mod schema;
mod slot;

pub use beside::{Believed, Beside, GoneFromHost};
pub use change::Change;
pub use cycles::{CycleNote, LOOP_NOTE, LoopNote};
pub(crate) use db::open_read_only;
pub use db::{Identity, Opened, Row, StateDb};
pub use lock::{Held, Holder, StateLock};
pub use look::{Days, Failing, Known, Look, Spent, Stale, Waiting, states_in};
pub use notes::{ACCEPT_GONE, day_of};
pub(crate) use rows::Rows;
pub use slot::{Flags, Seen, Slot, Table};

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The id of a database: its path hashed under the state's own random seed. Also its row id in `state.db`. Two
/// paths with one id (odds of 3 in 10^8 for a million databases) make both count as changed each cycle.
#[must_use]
pub fn id_of(path: &Path, seed: u64) -> u64 {
    twox_hash::XxHash3_64::oneshot_with_seed(seed, path.as_os_str().as_bytes())
}

/// The hash of a key prefix, for [`Fingerprint`](crate::detect::Fingerprint) and for finding clashes; `None` (the
/// default template, under which the path is the prefix) is 0.
#[must_use]
pub fn place_of(prefix: Option<&str>, seed: u64) -> u64 {
    prefix.map_or(0, |p| twox_hash::XxHash3_64::oneshot_with_seed(seed, p.as_bytes()))
}
