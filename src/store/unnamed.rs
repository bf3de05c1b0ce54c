//! A file that gets its name only when it is complete: made in its folder without one (`O_TMPFILE`), written, then linked under
//! its name, if that is free.
//!
//! One change of the folder instead of three, and a crash leaves nothing. Owns nothing about keys or counts. Not every file
//! system can do this: then it says so, once and for all, and files are made another way.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc;

/// By its descriptor: for root, and on newer kernels for whoever opened it.
const BY_DESCRIPTOR: u8 = 0;
/// By its name below `/proc`.
const BY_PROC: u8 = 1;
const NOT_AT_ALL: u8 = 2;

/// How files without a name get one here, as far as that is known.
#[derive(Debug, Default)]
pub(super) struct Unnamed(AtomicU8);

impl Unnamed {
    /// Whether it is worth trying.
    pub(super) fn is_possible(&self) -> bool {
        self.0.load(Ordering::Relaxed) != NOT_AT_ALL
    }

    /// Makes a file of `parts`, one after the other, at `path`, and its folder (mode 0700) if that is missing. False if that is not
    /// done here: then nothing was made but the folder. Not durable on return.
    ///
    /// # Errors
    /// `AlreadyExists` if something of that name is there: it stays what it is. Else as the system says; nothing is left.
    pub(super) fn make(&self, path: &Path, parts: &[&[u8]]) -> io::Result<bool> {
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let Some(mut file) = self.or_never(open_in(dir))? else { return Ok(false) };
        write_parts(&mut file, parts)?;
        if self.0.load(Ordering::Relaxed) == BY_DESCRIPTOR {
            match nix::unistd::linkat(&file, "", AT_FDCWD, path, AtFlags::AT_EMPTY_PATH) {
                Ok(()) => return Ok(true),
                // Not allowed to this user.
                Err(Errno::ENOENT) => self.0.store(BY_PROC, Ordering::Relaxed),
                Err(e) => return Ok(self.or_never(Err(e.into()))?.unwrap_or(false)),
            }
        }
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        let linked = nix::unistd::linkat(AT_FDCWD, name.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW);
        Ok(self.or_never(linked.map(|()| true).map_err(io::Error::from))?.unwrap_or(false))
    }

    /// `None`, now and from now on, if the error means that this is not possible here at all.
    fn or_never<T>(&self, done: io::Result<T>) -> io::Result<Option<T>> {
        match done {
            Ok(done) => Ok(Some(done)),
            Err(e) if means_never(&e) => {
                self.0.store(NOT_AT_ALL, Ordering::Relaxed);
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

/// A file system without such files, without hard links, or a system without `/proc`.
fn means_never(error: &io::Error) -> bool {
    let Some(code) = error.raw_os_error() else { return false };
    let never =
        [Errno::EOPNOTSUPP, Errno::EISDIR, Errno::EINVAL, Errno::ENOSYS, Errno::EPERM, Errno::ENOENT, Errno::EXDEV];
    never.contains(&Errno::from_raw(code))
}

/// A new file without a name in `dir`, which is made if it is missing.
fn open_in(dir: &Path) -> io::Result<File> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => crate::fs::make_private(dir, false)?,
        // That it is a folder shows in the next call.
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(dir)
}

fn write_parts(file: &mut File, parts: &[&[u8]]) -> io::Result<()> {
    let mut parts: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut left = &mut parts[..];
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match file.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut left, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Of both ways there are; the first is not allowed to everybody.
    #[test]
    fn a_file_is_made_whole_under_a_name_that_is_free_and_no_other() {
        for way in [BY_DESCRIPTOR, BY_PROC] {
            let dir = tempfile::tempdir().unwrap();
            let (unnamed, path) = (Unnamed(AtomicU8::new(way)), dir.path().join("a/b/c"));
            let large = vec![7; 3 << 20];
            assert!(unnamed.make(&path, &[b"", &large, b"", b"end"]).unwrap());
            assert_eq!(std::fs::read(&path).unwrap(), [&large[..], b"end"].concat());
            let taken = unnamed.make(&path, &[b"other"]).unwrap_err();
            assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::metadata(&path).unwrap().len(), (3 << 20) + 3, "it stays what it is");
            assert!(unnamed.make(&dir.path().join("a/b/empty"), &[]).unwrap());
            assert_eq!(names(&dir.path().join("a/b")), ["c", "empty"]);
            assert!(unnamed.is_possible());
        }
    }

    #[test]
    fn a_folder_that_is_a_file_is_an_error_and_no_reason_to_give_up() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "").unwrap();
        let unnamed = Unnamed::default();
        let error = unnamed.make(&dir.path().join("a/b"), &[b"x"]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ENOTDIR as i32));
        assert!(unnamed.is_possible());
    }

    /// `/proc` has no such files, as FAT and most network file systems have none.
    #[test]
    fn where_it_is_not_possible_that_is_found_out_once() {
        let unnamed = Unnamed::default();
        assert!(!unnamed.make(Path::new("/proc/self/x"), &[b"x"]).unwrap());
        assert!(!unnamed.is_possible());
    }
}
