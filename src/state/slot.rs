//! The 32-byte record and the table of them.

use parking_lot::Mutex;

use crate::backlog::Backlog;
use crate::detect::{Fingerprint, LastSeen};

/// Bits of [`Slot::flags`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u8);

impl Flags {
    /// The confirmed stamps were too young to trust.
    pub const RACY: Self = Self(1);
    /// It changed and waits for the end of its cooldown.
    pub const COOLING: Self = Self(1 << 1);
    /// The last attempt failed.
    pub const FAILED: Self = Self(1 << 2);
    /// It was not there in the last scan, and that is not yet accepted as a deletion.
    pub const MISSING: Self = Self(1 << 3);
    /// The file with these stamps is not a database, or is empty.
    pub const NOT_A_DATABASE: Self = Self(1 << 4);
    /// It was taken up in the current cycle: a further scan of the same cycle leaves it alone.
    pub const TAKEN: Self = Self(1 << 5);
    /// Nothing was ever confirmed: the fingerprint means nothing.
    pub const UNKNOWN: Self = Self(1 << 6);
    /// It is no database, and nobody said that it were: it matches a folder pattern, and is passed over in silence.
    pub const IGNORED: Self = Self(1 << 7);
    /// No flag.
    pub const NONE: Self = Self(0);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// With the bits of `other` set or cleared.
    #[must_use]
    pub fn with(self, other: Self, on: bool) -> Self {
        if on { Self(self.0 | other.0) } else { Self(self.0 & !other.0) }
    }
}

/// All that is kept in memory of one database between cycles: 32 bytes, no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Slot {
    /// Hash of the path; row id in `state.db`.
    pub id: u64,
    /// Stamps at the last confirmed read.
    pub fingerprint: Fingerprint,
    /// When last stored, seconds since the epoch (until 2106); 0 for never.
    pub stored_s: u32,
    /// Number of the scan that saw it last, modulo 65,536.
    pub scan: u16,
    /// See [`Flags`].
    pub flags: Flags,
    /// Failures in a row, at most 255.
    pub failures: u8,
}

const _: () = assert!(size_of::<Slot>() == 32, "the promise is 32 bytes of state a database");

impl Slot {
    /// The slot of a database of which nothing is known.
    #[must_use]
    pub fn unknown(id: u64, scan: u16) -> Self {
        Self { id, fingerprint: Fingerprint::default(), stored_s: 0, scan, flags: Flags::UNKNOWN, failures: 0 }
    }

    /// What [`detect`](crate::detect::detect) compares with; `None` while nothing was ever confirmed.
    #[must_use]
    pub fn last_seen(&self) -> Option<LastSeen> {
        (!self.flags.has(Flags::UNKNOWN)).then_some(LastSeen {
            fingerprint: self.fingerprint,
            racy: self.flags.has(Flags::RACY),
            failed: self.flags.has(Flags::FAILED),
        })
    }
}

/// What [`Table::see`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The slot as it was before this sight.
    pub slot: Slot,
    /// Another path of the same scan led here already.
    pub again: bool,
}

/// Few enough databases share a shard that inserting by moving the rest up stays under a microsecond at a million.
const SHARDS: usize = 1024;

/// The slots of all databases, sorted by id within shards: exactly 32 bytes each, plus an eighth of slack while growing.
pub struct Table {
    shards: Box<[Mutex<Vec<Slot>>]>,
    /// Those whose newest change is not stored.
    pub backlog: Backlog,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("len", &self.len()).finish()
    }
}

impl Default for Table {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::new(Vec::new())).collect(), backlog: Backlog::default() }
    }
}

impl Table {
    fn shard(&self, id: u64) -> &Mutex<Vec<Slot>> {
        // The top ten bits; ids are hashes, so shards fill evenly.
        &self.shards[usize::try_from(id >> 54).expect("ten bits fit")]
    }

    /// Notes that scan number `scan` met database `id`, making an unknown slot if there is none.
    pub fn see(&self, id: u64, scan: u16) -> Seen {
        let mut shard = self.shard(id).lock();
        match shard.binary_search_by_key(&id, |s| s.id) {
            Ok(at) => {
                let slot = shard[at];
                // A slot enters the table with the scan that first saw it, or from state.db with one that never ran.
                let again = slot.scan == scan;
                shard[at].scan = scan;
                shard[at].flags = slot.flags.with(Flags::MISSING, false);
                Seen { slot, again }
            }
            Err(at) => {
                let slot = Slot::unknown(id, scan);
                insert(&mut shard, at, slot);
                Seen { slot, again: false }
            }
        }
    }

    /// Puts `slot` in, in place of one with the same id.
    pub fn put(&self, slot: Slot) {
        let mut shard = self.shard(slot.id).lock();
        match shard.binary_search_by_key(&slot.id, |s| s.id) {
            Ok(at) => shard[at] = slot,
            Err(at) => insert(&mut shard, at, slot),
        }
    }

    /// Changes the slot of `id`, if there is one.
    pub fn update(&self, id: u64, change: impl FnOnce(&mut Slot)) {
        let mut shard = self.shard(id).lock();
        if let Ok(at) = shard.binary_search_by_key(&id, |s| s.id) {
            change(&mut shard[at]);
        }
    }

    /// The slot of `id`.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<Slot> {
        let shard = self.shard(id).lock();
        shard.binary_search_by_key(&id, |s| s.id).ok().map(|at| shard[at])
    }

    /// Forgets `id`.
    pub fn remove(&self, id: u64) {
        self.backlog.remove(id);
        let mut shard = self.shard(id).lock();
        if let Ok(at) = shard.binary_search_by_key(&id, |s| s.id) {
            shard.remove(at);
        }
    }

    /// Calls `visit` with each slot, one shard locked at a time.
    pub fn each(&self, mut visit: impl FnMut(&mut Slot)) {
        for shard in &self.shards {
            shard.lock().iter_mut().for_each(&mut visit);
        }
    }

    /// Number of slots.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().len()).sum()
    }

    /// Whether there is no slot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held by the slots and the backlog, slack included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let slots: usize = self.shards.iter().map(|s| s.lock().capacity() * size_of::<Slot>()).sum();
        slots + self.backlog.bytes()
    }
}

fn insert(shard: &mut Vec<Slot>, at: usize, slot: Slot) {
    if shard.len() == shard.capacity() {
        // Doubling would let a million databases hold twice the memory promised.
        shard.reserve_exact(shard.len() / 8 + 1);
    }
    shard.insert(at, slot);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(n: u64) -> u64 {
        n.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    #[test]
    fn a_table_of_100_000_holds_little_more_than_32_bytes_each() {
        let table = Table::default();
        for n in 0..100_000 {
            assert!(!table.see(spread(n), 1).again);
        }
        assert_eq!(table.len(), 100_000);
        assert!(table.bytes() < 100_000 * 40, "{} bytes", table.bytes());
        for n in 0..100_000 {
            assert!(table.see(spread(n), 1).again);
            assert!(!table.see(spread(n), 2).again);
        }
        assert_eq!(table.len(), 100_000);
    }

    #[test]
    fn slots_are_found_changed_and_forgotten() {
        let table = Table::default();
        table.put(Slot { stored_s: 5, flags: Flags::NONE, ..Slot::unknown(77, 0) });
        table.update(77, |s| s.flags = s.flags.with(Flags::RACY, true));
        assert!(table.get(77).unwrap().last_seen().unwrap().racy);
        assert_eq!(table.see(78, 1).slot.last_seen(), None, "unknown means changed");
        table.remove(77);
        assert_eq!((table.get(77), table.len()), (None, 1));
    }
}
