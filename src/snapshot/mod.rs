//! A consistent copy of one live database, leaving no trace of the reading.
//!
//! Order: stamps, then looks that take no lock, then the plain read of a database at rest (`direct`); where that leaves a
//! doubt, SQLite's own read (`sqlite`), then the directory as found. Large ones are compressed while they are read, either
//! way (`large`). What a crash leaves (a temporary copy, an
//! empty `-wal` and a `-shm`) is removed at the next start by [`Reader::open`]. The content hash is defined so that both
//! ways agree.

mod direct;
mod image;
mod in_flight;
mod large;
pub(crate) mod locks;
mod pages;
mod reads;
pub(crate) mod sidecars;
mod sqlite;
mod temp;

pub use direct::Doubt;
pub use image::{CompressedCopy, Image};
pub use reads::Reads;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::budget::{Budget, Permit};
use crate::clock::{Clock, Nanos};
use crate::content::{ContentHash, ContentHasher};
use crate::control::Control;
use crate::error::{Error, Failure, Reason, Result};
use crate::fs::create_private_dir;
use crate::header::{self, Header};
use crate::stamps::{FileStat, Stamps, sidecar, stat_if_there};

use direct::{Content, NotRead};
use in_flight::InFlight;
use reads::Count;
use sidecars::{Before, Cleaned, Intents};
use temp::{TempCopy, TempSpace};

/// How long one database may keep us waiting for its lock.
const BUSY_MAX: Duration = Duration::from_millis(100);
/// How long all databases of one cycle together may: a fleet of locked ones must not stop the others.
const BUSY_PER_CYCLE: Duration = Duration::from_secs(20);
/// Between two looks at a lock.
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// So often, a pause apart, a missing `-wal` is looked for under a connection: an application that is just opening, on a
/// loaded machine, is not one whose log was deleted.
const WAL_LOOKS: u32 = 20;

/// A snapshot: what one database held at one commit.
#[derive(Debug)]
pub struct Snapshot {
    /// The database's pages.
    pub image: Image,
    /// Page size in bytes.
    pub page_size: u32,
    /// Number of pages; image bytes = page size × page count.
    pub page_count: u32,
    /// Hash of the content (see [`crate::content`]).
    pub content_hash: ContentHash,
    /// Stamps from before the read: the ones to record.
    pub stamps: Stamps,
    /// When they were taken.
    pub stamped_at: Nanos,
    /// Owner, mode and times of the main file.
    pub stat: FileStat,
    /// Whether the header says WAL.
    pub wal_mode: bool,
    /// Schema cookie of the source.
    pub schema_version: Option<u32>,
    /// Number of the SQLite version that wrote last.
    pub sqlite_version: Option<u32>,
    /// Memory held for it.
    pub permit: Permit,
}

impl Snapshot {
    /// Size of the image in bytes.
    #[must_use]
    pub fn raw_size(&self) -> u64 {
        u64::from(self.page_size) * u64::from(self.page_count)
    }
}

/// Takes snapshots; shared by all worker threads.
#[derive(Debug)]
pub struct Reader {
    temp: Arc<TempSpace>,
    intents: Intents,
    budget: Arc<Budget>,
    memory_max: u64,
    busy_left_ms: AtomicU64,
    open: InFlight,
    clock: Arc<dyn Clock>,
    control: Arc<Control>,
    left: AtomicU64,
    always_sqlite: bool,
    count: Count,
}

/// What was seen of a database before it was read.
struct Seen {
    stamps: Stamps,
    stamped_at: Nanos,
    stat: FileStat,
    wal_mode: bool,
}

/// A database read, whichever way.
struct Got {
    copied: sqlite::Copied,
    seen: Seen,
}

impl Reader {
    /// Works in `dir`, which belongs to the holder of the state's lock, and removes what a crash left there and
    /// beside the databases it was reading.
    ///
    /// With `always_sqlite` databases at rest are read through SQLite, too.
    ///
    /// # Errors
    /// [`Error::Io`] if `dir` cannot be made or read.
    pub fn open(
        dir: &Path,
        always_sqlite: bool,
        budget: Arc<Budget>,
        clock: Arc<dyn Clock>,
        control: Arc<Control>,
    ) -> Result<Self> {
        create_private_dir(dir)?;
        let wrong = |source| Error::Io { attempt: "clean up", path: dir.to_path_buf(), source };
        let temp = TempSpace::recover(dir).map_err(wrong)?;
        let (intents, left) = Intents::recover(dir).map_err(wrong)?;
        for main in left {
            log::warn!(
                "db={} is in use: the -wal and -shm beside it stay until its application closes",
                main.display()
            );
        }
        let memory_max = (budget.total() / 8).min(8 << 20);
        Ok(Self {
            temp,
            intents,
            budget,
            memory_max,
            busy_left_ms: AtomicU64::new(0),
            open: InFlight::default(),
            clock,
            control,
            left: AtomicU64::new(0),
            always_sqlite,
            count: Count::default(),
        })
    }

    /// Gives a new cycle its share of waiting, and counts its reads from zero. Removes what an earlier one could not remove.
    pub fn begin_cycle(&self) {
        self.intents.retry();
        self.count.begin_cycle();
        self.busy_left_ms.store(u64::try_from(BUSY_PER_CYCLE.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Databases since the start beside which a sidecar that reading made had to stay, because it was in use.
    #[must_use]
    pub fn sidecars_left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// How the databases of this cycle were read.
    #[must_use]
    pub fn reads(&self) -> Reads {
        self.count.reads()
    }

    /// Takes a snapshot of the database at `main`. A large one whose content turns out to be `known` is not compressed: its image
    /// is [`Image::Known`].
    ///
    /// # Errors
    /// A [`Failure`] that says why this database cannot be read now. Nothing is left behind in any case.
    pub fn take(&self, main: &Path, known: Option<ContentHash>) -> Result<Snapshot, Failure> {
        let stat = FileStat::from(&std::fs::metadata(main).map_err(|e| io_failure("look at it", &e))?);
        let _only_one = self.open.enter((stat.dev, stat.ino));
        let (file, header) = self.probe(main, &stat)?;
        let wal = if is_wal(&header) { stat_if_there(&sidecar(main, "-wal")) } else { Ok(None) };
        let wal = wal.map_err(|e| io_failure("look at its -wal", &e))?;
        let estimate = stat.size.saturating_add(wal.map_or(0, |wal| wal.size));
        let is_large = estimate > self.memory_max;
        let room = large::room_for(estimate, pages::are_given());
        let room = is_large.then(|| self.temp.reserve(room, self.control.stop_flag())).transpose()?;
        // A copy in memory, its serialised form and its compressed form are there together. A large database takes as
        // much: the blocks that are compressed need less, but its -wal may be what is large, and then it is copied in memory
        // all the same.
        let permit = self.budget.take(3 * estimate.min(self.memory_max) + (256 << 10));
        let Got { copied, seen } = self.read(main, file, &stat, is_wal(&header), room, known)?;
        let content_hash = copied.content_hash.map_or_else(|| hash(&copied, &seen.stat), Ok)?;
        Ok(Snapshot {
            image: copied.image,
            page_size: copied.page_size,
            page_count: copied.page_count,
            content_hash,
            stamps: seen.stamps,
            stamped_at: seen.stamped_at,
            stat: seen.stat,
            wal_mode: seen.wal_mode,
            schema_version: copied.schema_version,
            sqlite_version: copied.sqlite_version,
            permit,
        })
    }

    /// Everything that can be told without SQLite and without taking a lock.
    fn probe(&self, main: &Path, stat: &FileStat) -> Result<(File, Header), Failure> {
        if stat.size == 0 {
            // Never opened through SQLite: even a read-only open deletes a valid -wal beside it.
            return Err(Failure::new(Reason::Empty, "the main file has 0 bytes"));
        }
        let mut file = open_quietly(main).map_err(|e| io_failure("open it", &e))?;
        let header = read_header(&mut file, stat.size)?;
        // Where nobody holds any lock, which is most often so, nobody keeps readers out and nobody has a log.
        if locks::anyone(&file).map_err(|e| io_failure("look at its locks", &e))?.is_some() {
            self.wait_for_exclusive(&file)?;
            if is_wal(&header) {
                self.check_wal(main, &file)?;
            }
        }
        Ok((file, header))
    }

    /// A commit holds its exclusive lock for moments; an application in exclusive locking mode holds it for ever.
    fn wait_for_exclusive(&self, file: &File) -> Result<(), Failure> {
        let started = Instant::now();
        let patience = self.patience();
        loop {
            let holder = locks::excluding(file).map_err(|e| io_failure("look at its locks", &e))?;
            let Some(holder) = holder else { break };
            if started.elapsed() >= patience || self.control.is_stopped() {
                self.spend(started.elapsed());
                return Err(Failure::new(Reason::HeldExclusively, format!("held exclusively by {holder}")));
            }
            self.control.pause(BUSY_PAUSE);
        }
        self.spend(started.elapsed());
        Ok(())
    }

    /// A connection in WAL mode always has a `-wal`. If one is connected and there is none, somebody unlinked it, and
    /// what that connection commits cannot be seen by anybody. Looked at for a while: it may be just opening, and with every
    /// look that the file is still the one of this name, for the connection may be to one that was deleted or replaced.
    fn check_wal(&self, main: &Path, file: &File) -> Result<(), Failure> {
        for _ in 0..WAL_LOOKS {
            let there = Before::look(main).map_err(|e| io_failure("look at its sidecars", &e))?;
            let holder = locks::anyone(file).map_err(|e| io_failure("look at its locks", &e))?;
            if there.wal.is_some() || holder.is_none() {
                return Ok(());
            }
            match std::fs::metadata(main) {
                Ok(named) if is_same(&FileStat::from(&named), file) => {}
                Ok(_) => return Err(replaced()),
                Err(e) => return Err(io_failure("look at it again", &e)),
            }
            self.control.pause(BUSY_PAUSE);
        }
        Err(Failure::new(
            Reason::WalUnlinked,
            "its application is connected but its -wal was deleted: commits go nowhere; restart the application",
        ))
    }

    /// Without SQLite, if the database is shown to be at rest; else through it. `file` is the main file, open, and `stat` what was
    /// seen of it.
    fn read(
        &self,
        main: &Path,
        file: File,
        stat: &FileStat,
        wal_mode: bool,
        room: Option<TempCopy>,
        known: Option<ContentHash>,
    ) -> Result<Got, Failure> {
        if !self.always_sqlite {
            let how = direct::How {
                clock: self.clock.as_ref(),
                memory_max: self.memory_max,
                size_max: stat.size,
                known,
                control: &self.control,
            };
            match direct::read(main, &file, room.as_ref(), &how, |_| {}) {
                Ok(read) => {
                    self.count.direct();
                    return got(read, room);
                }
                Err(NotRead::Failed(failure)) => return Err(failure),
                Err(NotRead::Doubt(doubt)) => {
                    log::debug!("db={} is read through SQLite: {}", main.display(), doubt.word());
                    self.count.doubt(doubt);
                }
            }
        }
        // Before SQLite opens it: closing a descriptor drops all locks that this process has on the file. And only this
        // file: another that took its name since may be open in another thread.
        let stamped_at = self.clock.now();
        let (stamps, named) = Stamps::take(main).map_err(|e| io_failure("look at it again", &e))?;
        let is_same = is_same(&named, &file);
        drop(file);
        if !is_same || (named.dev, named.ino) != (stat.dev, stat.ino) {
            return Err(replaced());
        }
        let seen = Seen { stamps, stamped_at, stat: named, wal_mode };
        if let Some(room) = &room {
            room.empty()
                .map_err(|e| Failure::new(Reason::CopyFailed, format!("cannot empty its temporary copy: {e}")))?;
        }
        let copied = self.read_through_sqlite(main, room, &seen, known)?;
        self.count.through_sqlite();
        Ok(Got { copied, seen })
    }

    fn read_through_sqlite(
        &self,
        main: &Path,
        room: Option<TempCopy>,
        seen: &Seen,
        known: Option<ContentHash>,
    ) -> Result<sqlite::Copied, Failure> {
        let before = Before::look(main).map_err(|e| io_failure("look at its sidecars", &e))?;
        if seen.wal_mode {
            check_writable(main, before)?;
        }
        let intent = self.intents.note(main, before).map_err(|e| {
            Failure::new(Reason::CopyFailed, format!("cannot note the intent to read it in the state directory: {e}"))
        })?;
        let started = Instant::now();
        let how = sqlite::How {
            busy_timeout: self.patience(),
            memory_max: self.memory_max,
            temp: &self.temp,
            control: &self.control,
            stat: &seen.stat,
            known,
            by_page: pages::are_given(),
            wal_mode: seen.wal_mode,
        };
        let copied = sqlite::copy(main, room, &how);
        if copied.as_ref().is_err_and(|f| f.reason == Reason::Busy) {
            self.spend(started.elapsed());
        }
        match sidecars::clean(main, before.wal.is_some(), before.shm) {
            Ok(Cleaned::AsFound) => {}
            Ok(Cleaned::Left) => {
                self.left.fetch_add(1, Ordering::Relaxed);
            }
            Err(e) => {
                log::warn!("db={} cannot remove the -wal and -shm that reading it made: {e}", main.display());
                intent.postpone(main, before);
                return copied;
            }
        }
        if let Err(e) = intent.done() {
            log::warn!("db={} cannot take back the intent to read it: {e}", main.display());
        }
        copied
    }

    fn patience(&self) -> Duration {
        BUSY_MAX.min(Duration::from_millis(self.busy_left_ms.load(Ordering::Relaxed)))
    }

    fn spend(&self, waited: Duration) {
        let ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        let spent = |left: u64| Some(left.saturating_sub(ms));
        self.busy_left_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent).ok();
    }
}

/// What was read without SQLite, in the form of what comes from it.
fn got(read: direct::Read, room: Option<TempCopy>) -> Result<Got, Failure> {
    let direct::Read { content, header, stamps, stamped_at, stat } = read;
    let (image, content_hash) = match (content, room) {
        (Content::Memory(bytes), _) => (Image::Memory(bytes), None),
        (Content::Large(taken), Some(room)) => {
            let (image, hash) = Image::of(taken, room);
            (image, Some(hash))
        }
        (Content::Large(_), None) => return Err(Failure::new(Reason::CopyFailed, "its copy is nowhere")),
    };
    let copied = sqlite::Copied {
        image,
        content_hash,
        page_size: header.page_size,
        page_count: header.page_count,
        schema_version: Some(header.schema_cookie),
        sqlite_version: Some(header.sqlite_version),
    };
    Ok(Got { copied, seen: Seen { stamps, stamped_at, stat, wal_mode: is_wal(&header) } })
}

/// Opens `main` for reading, without moving its time of last access where we may ask for that.
pub(crate) fn open_quietly(main: &Path) -> io::Result<File> {
    open_with(main, 0)
}

/// The same, with more `flags`.
fn open_with(path: &Path, flags: i32) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let open = |flags| File::options().read(true).custom_flags(flags).open(path);
    match open(flags | nix::libc::O_NOATIME) {
        // Only its owner and root may.
        Err(e) if e.raw_os_error() == Some(nix::libc::EPERM) => open(flags),
        opened => opened,
    }
}

/// The name stands for another file than when it was first looked at.
fn replaced() -> Failure {
    Failure::new(Reason::Busy, "it was replaced when it was about to be read")
}

/// Whether `file` is the one of which `named` tells.
fn is_same(named: &FileStat, file: &File) -> bool {
    file.metadata().is_ok_and(|open| (named.dev, named.ino) == (open.dev(), open.ino()))
}

/// Reading a WAL-mode database makes the sidecars that are missing, and only somebody who may write the main file can
/// take them away again; owned by us, they would lock its application out. So then it is not opened at all.
fn check_writable(main: &Path, there: Before) -> Result<(), Failure> {
    let makes_files = there.wal.is_none() || !there.shm;
    let may_not_write = nix::unistd::eaccess(main, nix::unistd::AccessFlags::W_OK).is_err();
    if makes_files && may_not_write { Err(sqlite::cannot_open_wal(main)) } else { Ok(()) }
}

/// Reads the header and names what is not an SQLite database.
fn read_header(file: &mut File, len: u64) -> Result<Header, Failure> {
    let mut first = Vec::with_capacity(4096);
    file.take(4096).read_to_end(&mut first).map_err(|e| io_failure("read it", &e))?;
    if !header::has_magic(&first) {
        return Err(if header::looks_encrypted(&first, len) {
            Failure::new(Reason::Opaque, "no SQLite header, and its bytes look random: encrypted")
        } else {
            Failure::new(Reason::NotADatabase, "no SQLite header")
        });
    }
    let Some(bytes) = first.first_chunk::<100>() else {
        return Err(Failure::new(Reason::NotADatabase, "it ends within the SQLite header"));
    };
    let header = Header::parse(bytes).map_err(|e| Failure::new(Reason::Opaque, e.to_string()))?;
    if header.read_version > 2 {
        let what = format!("its header asks for file format {}: unknown to this SQLite", header.read_version);
        return Err(Failure::new(Reason::Opaque, what));
    }
    Ok(header)
}

/// Whether the file begins as an SQLite database does; false if it cannot be read. Not while it is open in SQLite.
pub(crate) fn has_magic(main: &Path) -> bool {
    let mut first = [0; header::MAGIC.len()];
    File::open(main).and_then(|mut file| file.read_exact(&mut first)).is_ok_and(|()| header::has_magic(&first))
}

/// Reading version 2 alone is what makes SQLite open the `-wal`.
fn is_wal(header: &Header) -> bool {
    header.read_version == 2
}

/// Of one in memory: large ones are hashed while they are read.
fn hash(copied: &sqlite::Copied, stat: &FileStat) -> Result<ContentHash, Failure> {
    let mut hasher = ContentHasher::new(copied.page_size, copied.page_count);
    if let Image::Memory(bytes) = &copied.image {
        hasher.update(bytes);
    }
    hasher
        .finish(stat.uid, stat.gid, stat.mode)
        .map_err(|e| Failure::new(Reason::CopyFailed, format!("its copy is not whole: {e}")))
}

/// Sorts the system's errors about a database's files.
pub(crate) fn io_failure(attempt: &str, error: &io::Error) -> Failure {
    let reason = match error.kind() {
        io::ErrorKind::NotFound => Reason::Vanished,
        _ => Reason::Unreadable,
    };
    Failure::new(reason, format!("cannot {attempt}: {error}"))
}

/// Where a state's temporary copies and intents lie.
#[must_use]
pub fn work_dir(state: &Path) -> PathBuf {
    state.with_extension("work")
}
