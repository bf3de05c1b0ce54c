//! Reading a database at rest without SQLite: a plain read between two looks at its locks and two at its stamps.
//!
//! Nothing is locked, nothing is made beside the database, and it costs a fraction of opening it. That nobody wrote while it was
//! read is shown, not assumed: at the first look at the locks no write was in flight (a rollback-journal writer holds EXCLUSIVE
//! around its writes; in WAL mode the main file is written only while the `-wal` has content), and one that began since
//! then would have moved a stamp or still hold its lock at the second look. Whatever cannot be shown is a [`Doubt`],
//! and the database is read through SQLite.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::libc;

use super::large::{self, Order, Sink, Taken};
use super::locks;
use super::open_with;
use super::temp::TempCopy;
use crate::clock::{Clock, Nanos};
use crate::content::ContentHash;
use crate::control::Control;
use crate::detect::RACY_SLACK;
use crate::error::{Failure, Reason};
use crate::fs::peculiar_behind;
use crate::header::{HEADER_LEN, Header};
use crate::stamps::{FileStat, Stamps, sidecar};

/// Bytes read between two looks at the stop flag.
const CHUNK: usize = 1 << 20;
/// Of a large database, bytes read between two looks at its stamps: one that is being written need not be read to its end.
const LOOK_AGAIN_BYTES: u64 = 64 << 20;

/// Why a database was not, or not to the end, read without SQLite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// Somebody holds a lock for writing.
    Locked,
    /// There is a `-wal` with content, or a `-journal` with content.
    Sidecar,
    /// A stamp is too young: a write may still be landing behind it.
    Young,
    /// It changed, grew or was replaced while it was read.
    Moved,
    /// The header does not vouch for the file's size, or says what only SQLite can judge.
    Header,
    /// The file has several names, and another may have the sidecars.
    Linked,
    /// Locks or times cannot be trusted on its file system.
    FileSystem,
    /// The system would not let us read or look.
    Unreadable,
}

impl Doubt {
    /// Every doubt there is.
    pub const ALL: [Self; 8] = [
        Self::Locked,
        Self::Sidecar,
        Self::Young,
        Self::Moved,
        Self::Header,
        Self::Linked,
        Self::FileSystem,
        Self::Unreadable,
    ];

    /// The word for reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Locked => "locked",
            Self::Sidecar => "sidecar",
            Self::Young => "young",
            Self::Moved => "moved",
            Self::Header => "header",
            Self::Linked => "linked",
            Self::FileSystem => "file-system",
            Self::Unreadable => "unreadable",
        }
    }
}

/// A database read without SQLite.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) content: Content,
    pub(super) header: Header,
    /// Stamps from before the read.
    pub(super) stamps: Stamps,
    /// From before the stamps.
    pub(super) stamped_at: Nanos,
    pub(super) stat: FileStat,
}

/// Where what was read is.
#[derive(Debug)]
pub(super) enum Content {
    Memory(Vec<u8>),
    /// In the room given, if anywhere.
    Large(Taken),
}

/// Why there is no [`Read`].
#[derive(Debug)]
pub(super) enum NotRead {
    /// Through SQLite, then.
    Doubt(Doubt),
    /// SQLite would fail the same way.
    Failed(Failure),
}

impl From<Doubt> for NotRead {
    fn from(doubt: Doubt) -> Self {
        Self::Doubt(doubt)
    }
}

impl From<Failure> for NotRead {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What a system call that fails means here: whoever reads through SQLite will say it better.
impl From<io::Error> for NotRead {
    fn from(_: io::Error) -> Self {
        Self::Doubt(Doubt::Unreadable)
    }
}

/// Where the read is; tests act in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// Nobody was writing.
    Probed,
    /// Stamps are taken.
    Stamped,
    /// So many bytes are read.
    Got(u64),
    /// All is read.
    Complete,
}

/// What it takes.
pub(super) struct How<'a> {
    pub(super) clock: &'a dyn Clock,
    pub(super) memory_max: u64,
    /// What memory and room were taken for, in bytes.
    pub(super) size_max: u64,
    /// The content of a large one that need not be compressed again.
    pub(super) known: Option<ContentHash>,
    pub(super) control: &'a Control,
}

/// Reads the database at `main`, open as `file`, into memory or into `room`, if it is at rest. Closing `file` would drop
/// the locks of a connection of this process: there must be none.
pub(super) fn read(
    main: &Path,
    file: &File,
    room: Option<&TempCopy>,
    how: &How<'_>,
    at: impl Fn(Moment),
) -> Result<Read, NotRead> {
    if peculiar_behind(file)?.is_some() {
        return Err(Doubt::FileSystem.into());
    }
    let stamped_at = how.clock.now();
    nobody_writes(file)?;
    at(Moment::Probed);
    let (stamps, stat) = at_rest(main, stamped_at)?;
    at(Moment::Stamped);
    let (content, header) = match room {
        _ if stat.size > how.size_max => return Err(Doubt::Moved.into()),
        _ if stat.size <= how.memory_max => {
            let bytes = into_memory(file, stat.size, how, &at)?;
            let header = vouching_header(&bytes, stat.size);
            (Content::Memory(bytes), header)
        }
        Some(room) => {
            let header = first_header(file, stat.size)?;
            let look = || still_the_same(main, file, &stamps);
            (Content::Large(into_room(file, (header, &stat), room, how, look, &at)?), Ok(header))
        }
        None => return Err(Doubt::Moved.into()),
    };
    at(Moment::Complete);
    nobody_writes(file)?;
    still_the_same(main, file, &stamps)?;
    Ok(Read { content, header: header?, stamps, stamped_at, stat })
}

/// A look that takes no lock. Needed before the read for a write that lands after its mtime, and after it for one that
/// began since and has not moved a stamp yet.
fn nobody_writes(file: &File) -> Result<(), NotRead> {
    if locks::writing(file)?.is_some() { Err(Doubt::Locked.into()) } else { Ok(()) }
}

/// Stamps that leave no doubt: no log with content, no journal that is to be rolled back, nothing young, one name. A time in the
/// future is young: how old it is cannot be told.
fn at_rest(main: &Path, probed_at: Nanos) -> Result<(Stamps, FileStat), NotRead> {
    let (stamps, stat) = Stamps::take(main)?;
    if stat.nlink != 1 {
        return Err(Doubt::Linked.into());
    }
    if stamps.wal.is_some() {
        return Err(Doubt::Sidecar.into());
    }
    if stamps.times().any(|time| time > probed_at.saturating_sub(RACY_SLACK)) {
        return Err(Doubt::Young.into());
    }
    if stamps.main.size == 0 {
        return Err(Doubt::Header.into());
    }
    if stamps.journal.is_some_and(|j| j.size > 0) && !is_spent(&sidecar(main, "-journal"))? {
        return Err(Doubt::Sidecar.into());
    }
    Ok((stamps, stat))
}

/// Whether SQLite, too, would pass over this journal: it goes by the first byte, which a commit in `journal_mode=PERSIST` sets to
/// zero, and which a transaction sets before it writes to the main file (hasHotJournal, syncJournal in its pager.c). Between the
/// looks at locks and stamps that tells of the whole read: nobody was in a transaction, and who begins one moves a time.
fn is_spent(journal: &Path) -> io::Result<bool> {
    // Whatever it may be: to open it must not wait.
    let file = open_with(journal, libc::O_NONBLOCK)?;
    let mut first = [0xff];
    file.read_exact_at(&mut first, 0)?;
    Ok(first == [0])
}

/// By path, for the file may have been replaced; and by descriptor, for it may have been before the first stamps.
fn still_the_same(main: &Path, file: &File, before: &Stamps) -> Result<(), NotRead> {
    let (after, _) = Stamps::take(main)?;
    let open = FileStat::from(&file.metadata()?);
    if after != *before || Stamps::new(&open, None, None).main != before.main {
        return Err(Doubt::Moved.into());
    }
    Ok(())
}

/// The header of what was read, if it vouches for the size and SQLite would find nothing to object to.
fn vouching_header(bytes: &[u8], size: u64) -> Result<Header, NotRead> {
    let (header, rest) = bytes.split_first_chunk().ok_or(Doubt::Header)?;
    let header = Header::parse(header).map_err(|_| Doubt::Header)?;
    let is_plain = header.size_is_valid() && header.size_bytes() == size && header.is_usable();
    // A table's leaf or inner page: what page 1, the root of the schema, always is.
    let is_schema = matches!(rest, [0x0d | 0x05, ..]);
    if is_plain && is_schema { Ok(header) } else { Err(Doubt::Header.into()) }
}

/// The same of a large one, before the rest is read: between the same looks, so it is that of the content.
fn first_header(file: &File, size: u64) -> Result<Header, NotRead> {
    let mut first = [0; HEADER_LEN + 1];
    file.read_exact_at(&mut first, 0)?;
    vouching_header(&first, size)
}

fn into_memory(file: &File, size: u64, how: &How<'_>, at: &impl Fn(Moment)) -> Result<Vec<u8>, NotRead> {
    let mut bytes = vec![0; usize::try_from(size).map_err(|_| Doubt::Header)?];
    let mut offset = 0;
    for chunk in bytes.chunks_mut(CHUNK) {
        offset = got(file, chunk, offset, how, at)?;
    }
    Ok(bytes)
}

/// Compressed into `room`; given up where a `look` on the way tells that it changes.
fn into_room(
    file: &File,
    (header, stat): (Header, &FileStat),
    room: &TempCopy,
    how: &How<'_>,
    look: impl Fn() -> Result<(), NotRead>,
    at: &impl Fn(Moment),
) -> Result<Taken, NotRead> {
    let Header { page_size, page_count, .. } = header;
    large::take(Order { page_size, page_count, stat, known: how.known, room }, |sink: &mut dyn Sink| {
        let mut offset = 0;
        while let chunk @ [_, ..] = sink.room() {
            let len = chunk.len();
            offset = got(file, chunk, offset, how, at)?;
            sink.advance(len)?;
            if offset % LOOK_AGAIN_BYTES < len as u64 {
                look()?;
            }
        }
        Ok(())
    })
}

/// Reads the next chunk; returns where it ends.
fn got(file: &File, chunk: &mut [u8], offset: u64, how: &How<'_>, at: &impl Fn(Moment)) -> Result<u64, NotRead> {
    if !how.control.goes_on() {
        return Err(NotRead::Failed(Failure::new(Reason::CopyFailed, "interrupted while it was copied")));
    }
    file.read_exact_at(chunk, offset)?;
    let end = offset + chunk.len() as u64;
    at(Moment::Got(end));
    Ok(end)
}

#[cfg(test)]
mod tests;
