//! The 32-byte record and the table of them.

use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::RwLock;

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
const SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = 10;

/// A slot as it lies in the table: four words, so that threads that scan may mark it under a shared lock.
#[derive(Debug)]
struct Cell {
    id: AtomicU64,
    main: AtomicU64,
    sidecars: AtomicU64,
    /// From the highest bit down: when last stored, scan, flags, failures.
    rest: AtomicU64,
}

const _: () = assert!(size_of::<Cell>() == 32, "the promise is 32 bytes of state a database");

impl Cell {
    fn new(slot: Slot) -> Self {
        let Slot { id, fingerprint: Fingerprint { main, sidecars }, stored_s, scan, flags, failures } = slot;
        let rest = rest_of(stored_s, scan, flags, failures);
        Self { id: id.into(), main: main.into(), sidecars: sidecars.into(), rest: rest.into() }
    }

    fn id(&self) -> u64 {
        self.id.load(Relaxed)
    }

    fn slot(&self) -> Slot {
        let (id, main, sidecars) = (self.id(), self.main.load(Relaxed), self.sidecars.load(Relaxed));
        let [s0, s1, s2, s3, n0, n1, flags, failures] = self.rest.load(Relaxed).to_be_bytes();
        Slot {
            id,
            fingerprint: Fingerprint { main, sidecars },
            stored_s: u32::from_be_bytes([s0, s1, s2, s3]),
            scan: u16::from_be_bytes([n0, n1]),
            flags: Flags(flags),
            failures,
        }
    }

    /// Notes that scan number `scan` met it; of two threads that do so at once, one did before.
    fn see(&self, scan: u16) -> Seen {
        loop {
            let slot = self.slot();
            // A slot enters the table with the scan that first saw it, or from state.db with one that never ran.
            if slot.scan == scan && !slot.flags.has(Flags::MISSING) {
                return Seen { slot, again: true };
            }
            let before = rest_of(slot.stored_s, slot.scan, slot.flags, slot.failures);
            let after = rest_of(slot.stored_s, scan, slot.flags.with(Flags::MISSING, false), slot.failures);
            if self.rest.compare_exchange(before, after, Relaxed, Relaxed).is_ok() {
                return Seen { slot, again: slot.scan == scan };
            }
        }
    }
}

fn rest_of(stored_s: u32, scan: u16, flags: Flags, failures: u8) -> u64 {
    let ([s0, s1, s2, s3], [n0, n1]) = (stored_s.to_be_bytes(), scan.to_be_bytes());
    u64::from_be_bytes([s0, s1, s2, s3, n0, n1, flags.0, failures])
}

/// The slots of all databases, sorted by id within shards: exactly 32 bytes each, plus an eighth of slack while growing.
pub struct Table {
    shards: RwLock<Box<[Vec<Cell>]>>,
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
        Self { shards: RwLock::new((0..SHARDS).map(|_| Vec::new()).collect()), backlog: Backlog::default() }
    }
}

impl Table {
    /// Notes that scan number `scan` met database `id`, making an unknown slot if there is none.
    pub fn see(&self, id: u64, scan: u16) -> Seen {
        self.see_all(&[id], scan)[0]
    }

    /// The same for several, in their order. In a large table each lies where no cache reaches: they are fetched all at once
    /// before any is looked at, which takes a fraction of the time of one after another.
    pub fn see_all(&self, ids: &[u64], scan: u16) -> Vec<Seen> {
        let shards = self.shards.read();
        let near: Vec<usize> = ids.iter().map(|&id| second_guess(shard(&shards, id), id)).collect();
        // Nothing waits for what is read here, but what is near will be at hand.
        let touched =
            ids.iter().zip(&near).filter_map(|(&id, &near)| Some(shard(&shards, id).get(near)?.rest.load(Relaxed)));
        std::hint::black_box(touched.fold(0, u64::wrapping_add));
        let see = |(&id, &near): (&u64, &usize)| {
            let shard = shard(&shards, id);
            find_near(shard, id, near).ok().map(|at| shard[at].see(scan))
        };
        let seen: Vec<Option<Seen>> = ids.iter().zip(&near).map(see).collect();
        drop(shards);
        seen.into_iter().zip(ids).map(|(seen, &id)| seen.unwrap_or_else(|| self.meet(id, scan))).collect()
    }

    /// Sees what was not in the table a moment ago.
    fn meet(&self, id: u64, scan: u16) -> Seen {
        let mut shards = self.shards.write();
        let shard = shard_mut(&mut shards, id);
        match find(shard, id) {
            Ok(at) => shard[at].see(scan),
            Err(at) => {
                let slot = Slot::unknown(id, scan);
                insert(shard, at, slot);
                Seen { slot, again: false }
            }
        }
    }

    /// Puts `slot` in, in place of one with the same id.
    pub fn put(&self, slot: Slot) {
        let mut shards = self.shards.write();
        let shard = shard_mut(&mut shards, slot.id);
        match find(shard, slot.id) {
            Ok(at) => shard[at] = Cell::new(slot),
            Err(at) => insert(shard, at, slot),
        }
    }

    /// Changes the slot of `id`, if there is one.
    pub fn update(&self, id: u64, change: impl FnOnce(&mut Slot)) {
        let mut shards = self.shards.write();
        let shard = shard_mut(&mut shards, id);
        if let Ok(at) = find(shard, id) {
            let mut slot = shard[at].slot();
            change(&mut slot);
            shard[at] = Cell::new(slot);
        }
    }

    /// The slot of `id`.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<Slot> {
        let shards = self.shards.read();
        let shard = shard(&shards, id);
        find(shard, id).ok().map(|at| shard[at].slot())
    }

    /// Forgets `id`.
    pub fn remove(&self, id: u64) {
        self.backlog.remove(id);
        let mut shards = self.shards.write();
        let shard = shard_mut(&mut shards, id);
        if let Ok(at) = find(shard, id) {
            shard.remove(at);
        }
    }

    /// Calls `visit` with each slot. Nobody else gets at the table before that is over.
    pub fn each(&self, mut visit: impl FnMut(&mut Slot)) {
        for cell in self.shards.write().iter_mut().flatten() {
            let before = cell.slot();
            let mut slot = before;
            visit(&mut slot);
            if slot != before {
                *cell = Cell::new(slot);
            }
        }
    }

    /// Number of slots.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.read().iter().map(Vec::len).sum()
    }

    /// Whether there is no slot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held by the slots and the backlog, slack included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let slots: usize = self.shards.read().iter().map(|shard| shard.capacity() * size_of::<Cell>()).sum();
        slots + self.backlog.bytes()
    }
}

/// The shard of `id`: by its top bits; ids are hashes, so shards fill evenly.
fn shard(shards: &[Vec<Cell>], id: u64) -> &[Cell] {
    &shards[shard_index(id)]
}

fn shard_mut(shards: &mut [Vec<Cell>], id: u64) -> &mut Vec<Cell> {
    &mut shards[shard_index(id)]
}

fn shard_index(id: u64) -> usize {
    usize::try_from(id >> (64 - SHARD_BITS)).expect("they fit")
}

/// Where `id` is in a shard, or where it belongs. Ids are hashes: how great one is tells nearly where it lies, so that in a
/// large table a search touches two or three cache lines where halving would touch one for each half. Ids that lie otherwise
/// cost no more than twice the halving.
fn find(shard: &[Cell], id: u64) -> Result<usize, usize> {
    find_near(shard, id, second_guess(shard, id))
}

/// Where `id` should be by how great it is, put right by the id found there; an index of `shard` unless that is empty.
fn second_guess(shard: &[Cell], id: u64) -> usize {
    let n = shard.len();
    let Some(last) = n.checked_sub(1) else { return 0 };
    let guess = share_of(id << SHARD_BITS, n);
    let found = shard[guess].id();
    if found < id {
        guess.saturating_add(share_of((id - found) << SHARD_BITS, n)).min(last)
    } else {
        guess.saturating_sub(share_of((found - id) << SHARD_BITS, n))
    }
}

/// `fraction` / 2^64 of `n`, rounded down.
fn share_of(fraction: u64, n: usize) -> usize {
    let share = (u128::from(fraction) * n as u128) >> 64;
    usize::try_from(share).expect("less than n")
}

/// [`find`], from a guess on.
fn find_near(shard: &[Cell], id: u64, guess: usize) -> Result<usize, usize> {
    let near = around(shard, id, guess);
    let at = near.start + shard[near].partition_point(|cell| cell.id() < id);
    if shard.get(at).is_some_and(|cell| cell.id() == id) { Ok(at) } else { Err(at) }
}

/// A range that holds the place of `id` as one that begins or ends there: from `guess` on in steps that double.
fn around(shard: &[Cell], id: u64, guess: usize) -> Range<usize> {
    let mut step = 1;
    if shard.get(guess).is_some_and(|cell| cell.id() < id) {
        let mut low = guess + 1;
        loop {
            let probe = low + step - 1;
            if probe >= shard.len() {
                return low..shard.len();
            }
            if shard[probe].id() >= id {
                return low..probe;
            }
            low = probe + 1;
            step *= 2;
        }
    }
    let mut high = guess.min(shard.len());
    while high > 0 {
        let probe = high.saturating_sub(step);
        if shard[probe].id() < id {
            return probe + 1..high;
        }
        high = probe;
        step *= 2;
    }
    0..0
}

fn insert(shard: &mut Vec<Cell>, at: usize, slot: Slot) {
    if shard.len() == shard.capacity() {
        // Doubling would let a million databases hold twice the memory promised.
        shard.reserve_exact(shard.len() / 8 + 1);
    }
    shard.insert(at, Cell::new(slot));
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
    fn every_id_is_found_where_halving_finds_it_however_ids_lie() {
        let top = u64::MAX >> SHARD_BITS;
        let even: Vec<u64> = (0..999).map(|n| spread(n) >> SHARD_BITS).collect();
        let crowded: Vec<u64> = (0..500).chain((0..500).map(|n| top - n * n)).collect();
        let lonely = vec![0, 1, top / 2, top];
        for mut ids in [Vec::new(), vec![5], lonely, even, crowded, (0..40).map(|n| 1 << n).collect()] {
            ids.sort_unstable();
            ids.dedup();
            // In the first shard and in the last: their bits differ, what lies within does not.
            for shard_bits in [0, !top] {
                let shard: Vec<Cell> = ids.iter().map(|id| Cell::new(Slot::unknown(id | shard_bits, 0))).collect();
                let near = ids.iter().flat_map(|id| [id.saturating_sub(1), *id, (id + 1).min(top)]);
                for id in near.chain([0, top]).map(|id| id | shard_bits) {
                    let halved = shard.binary_search_by_key(&id, Cell::id);
                    assert_eq!(find(&shard, id), halved, "{id} among {}", ids.len());
                }
            }
        }
    }

    #[test]
    fn several_are_seen_as_one_after_another() {
        let table = Table::default();
        let known: Vec<u64> = (0..5000).map(spread).collect();
        known.iter().for_each(|&id| table.put(Slot { stored_s: 9, flags: Flags::RACY, ..Slot::unknown(id, 0) }));
        table.update(known[7], |slot| slot.flags = slot.flags.with(Flags::MISSING, true));
        // Known ones, one twice, and one that is new, twice.
        let ids: Vec<u64> = known.iter().copied().chain([known[3], 1, 1]).collect();
        for scan in [1, 2] {
            let seen: Vec<Seen> = ids.chunks(64).flat_map(|ids| table.see_all(ids, scan)).collect();
            let again: Vec<usize> = (0..ids.len()).filter(|&at| seen[at].again).collect();
            assert_eq!(again, [5000, 5002]);
            assert!(seen.iter().zip(&ids).all(|(seen, id)| seen.slot.id == *id));
            assert!(seen[..5000].iter().all(|seen| seen.slot.stored_s == 9 && seen.slot.flags.has(Flags::RACY)));
            // As it was before this sight.
            assert_eq!((seen[7].slot.flags.has(Flags::MISSING), seen[0].slot.scan), (scan == 1, scan - 1));
            table.each(|slot| assert!(slot.scan == scan && !slot.flags.has(Flags::MISSING)));
        }
        assert_eq!(table.see_all(&[], 3), []);
    }

    #[test]
    fn of_threads_that_see_one_at_once_one_was_first_and_no_change_is_lost() {
        let table = Table::default();
        let ids: Vec<u64> = (0..2000).map(spread).collect();
        ids.iter().step_by(2).for_each(|&id| table.put(Slot::unknown(id, 0)));
        let first = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for ids in ids.chunks(50) {
                        let seen = table.see_all(ids, 1);
                        first.fetch_add(seen.iter().filter(|seen| !seen.again).count() as u64, Relaxed);
                        ids.iter().for_each(|&id| table.update(id, |slot| slot.failures += 1));
                    }
                });
            }
        });
        assert_eq!(first.into_inner(), 2000);
        let mut slots = Vec::new();
        table.each(|slot| slots.push(*slot));
        assert!(slots.len() == 2000 && slots.iter().all(|slot| slot.failures == 4 && slot.scan == 1));
    }

    #[test]
    fn a_slot_lies_in_the_table_as_it_was_put() {
        let fingerprint = Fingerprint { main: u64::MAX - 1, sidecars: 3 };
        let flags = Flags::RACY.with(Flags::IGNORED, true);
        let slot = Slot { id: u64::MAX, fingerprint, stored_s: 0x8765_4321, scan: 0xfedc, flags, failures: 0x9a };
        let table = Table::default();
        table.put(slot);
        assert_eq!(table.get(u64::MAX), Some(slot));
        table.each(|slot| slot.failures = 1);
        assert_eq!(table.get(u64::MAX), Some(Slot { failures: 1, ..slot }));
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
