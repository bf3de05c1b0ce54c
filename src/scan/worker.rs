//! One thread's part of a walk.
//!
//! Folders that are to be entered wait on a stack of the thread's own, each below the folder that it was found in: depth first, so
//! that memory and open folders grow with the depth of the tree and not with its size. What lies deepest in the stack, and so
//! stands for the most, is given away as soon as other threads could do with it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rayon::Scope;
use rustix::fs::{AtFlags, Mode, OFlags, fstat, openat};

use super::folder::{Entry, Lister, Mark, Names};
use super::look::{Base, Listed, Looker, file_stat};
use super::many::{FILES_PER_CHUNK, ManyFiles};
use super::walk::{Place, Walk, add_position};
use crate::pattern::Segment;

/// Folders that all threads together keep open only because some of their subfolders wait; with what else is open, far from the
/// usual limit of 1,024. Subfolders of others are reached by their whole path.
const HELD_MAX: usize = 128;

/// The same for one thread: deeper trees are rare.
const HELD_PER_THREAD_MAX: usize = 16;

/// A folder of which some subfolders are still to be entered.
struct Frame {
    /// Itself, unless too many are open.
    dir: Option<OwnedFd>,
    place: Place,
    /// Bytes of its path, with a slash at its end.
    prefix: usize,
    /// Where its part of the positions begins.
    positions: usize,
    /// Where its part of the folders begins.
    mark: Mark,
    /// The first of its subfolders that is still to be entered; those before were given away.
    first: usize,
}

/// Subfolders of one folder, for another thread.
struct Part {
    dir: Option<OwnedFd>,
    place: Place,
    /// Of the folder, with a slash at its end.
    path: Vec<u8>,
    positions: Vec<usize>,
    folders: Names,
}

pub(super) struct Worker<'w> {
    walk: &'w Walk<'w>,
    looker: Looker<'w>,
    lister: Lister,
    /// From the root of this part down.
    frames: Vec<Frame>,
    /// Frames before this one are not kept open.
    held_from: usize,
    /// How many are.
    held_max: usize,
    /// Subfolders to be entered, frame by frame.
    folders: Names,
    /// Which segments of the pattern's tail the entries of a folder may match, frame by frame: ascending, each once.
    positions: Vec<usize>,
    /// The same for the folder that is being entered.
    here: Vec<usize>,
}

impl<'w> Worker<'w> {
    /// Walks all that lies below the pattern's root.
    pub(super) fn start(walk: &'w Walk<'w>, scope: &Scope<'w>) {
        let root = walk.scanner.patterns[walk.index].root();
        let mut worker = Self::new(walk, root.as_os_str().as_encoded_bytes());
        add_position(&mut worker.here, walk.tail(), 0);
        worker.enter(scope, Base::NONE, Place { real: None, link: true });
        worker.run(scope);
    }

    fn new(walk: &'w Walk<'w>, path: &[u8]) -> Self {
        Self {
            walk,
            looker: Looker::new(walk, path),
            lister: Lister::new(),
            frames: Vec::new(),
            held_from: 0,
            held_max: (HELD_MAX / rayon::current_num_threads()).clamp(1, HELD_PER_THREAD_MAX),
            folders: Names::default(),
            positions: Vec::new(),
            here: Vec::new(),
        }
    }

    /// Goes on with what another thread has given away.
    fn take_up(walk: &'w Walk<'w>, scope: &Scope<'w>, part: Part) {
        let mut worker = Self::new(walk, &part.path);
        let mark = worker.folders.mark();
        worker.positions = part.positions;
        worker.folders = part.folders;
        let prefix = part.path.len();
        worker.frames.push(Frame { dir: part.dir, place: part.place, prefix, positions: 0, mark, first: 0 });
        worker.run(scope);
    }

    /// Enters all folders that wait.
    fn run(&mut self, scope: &Scope<'w>) {
        while !self.frames.is_empty() && !self.walk.stopped() {
            self.share(scope);
            self.next(scope);
        }
    }

    /// Enters the next subfolder of the innermost frame, and drops that with its last one: a chain of folders keeps none open.
    fn next(&mut self, scope: &Scope<'w>) {
        let index = self.frames.len() - 1;
        let frame = &mut self.frames[index];
        if self.folders.entries.len() == frame.first {
            return self.drop_frame();
        }
        let entry = self.folders.entries.pop().expect("the innermost frame has one left");
        let (name, prefix) = (self.folders.name(entry), frame.prefix);
        self.looker.path.truncate(prefix);
        self.looker.path.extend_from_slice(name);
        self.walk.below(&self.positions[frame.positions..], name, entry.link, &mut self.here);
        let (dir, place) = (frame.dir.take(), frame.place.clone());
        if self.folders.entries.len() == frame.first {
            self.drop_frame();
            return self.subfolder(scope, dir.as_ref(), prefix, entry, place);
        }
        self.subfolder(scope, dir.as_ref(), prefix, entry, place);
        if index >= self.held_from {
            self.frames[index].dir = dir;
        }
    }

    /// Enters the subfolder at the path, which lies in `dir`, if it is to be entered.
    fn subfolder(&mut self, scope: &Scope<'w>, dir: Option<&OwnedFd>, prefix: usize, entry: Entry, mut place: Place) {
        let (walk, path) = (self.walk, self.looker.path());
        let name = &path.as_os_str().as_encoded_bytes()[prefix..];
        if walk.excluded(path, name) {
            return;
        }
        if entry.link {
            match path.metadata() {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => return,
                Err(e) => return walk.fail_unless_gone(path, e),
            }
        }
        if walk.step(path, &mut place, name, entry.link) {
            let base = dir.map_or(Base::NONE, |dir| Base { dir: dir.as_fd(), from: prefix });
            self.enter(scope, base, place);
        }
    }

    /// Goes into the folder at the path: along literal segments without listing, then into the one that must be listed.
    fn enter(&mut self, scope: &Scope<'w>, base: Base<'_>, mut place: Place) {
        let (walk, tail) = (self.walk, self.walk.tail());
        while let [position] = self.here[..]
            && let Segment::Literal(name) = &tail[position]
        {
            self.looker.open_path();
            self.looker.path.extend_from_slice(name);
            if walk.excluded(self.looker.path(), name) {
                return;
            }
            if position + 1 == tail.len() {
                return self.looker.single_file(base, &place);
            }
            let stat = match self.looker.stat(base, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(e) => return walk.fail_unless_gone(self.looker.path(), e),
            };
            if !walk.step(self.looker.path(), &mut place, name, stat.is_symlink()) {
                return;
            }
            self.here.clear();
            add_position(&mut self.here, tail, position + 1);
        }
        if !walk.stopped() {
            self.list(scope, base, place);
        }
    }

    /// Lists the folder at the path and looks at its files; its subfolders wait.
    fn list(&mut self, scope: &Scope<'w>, base: Base<'_>, place: Place) {
        let walk = self.walk;
        self.looker.step();
        if walk.scanner.own.covers(self.looker.path()) {
            return;
        }
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        flags.set(OFlags::NOFOLLOW, !place.link);
        let opened = self.looker.call(base, |dir, path| openat(dir, path, flags, Mode::empty()));
        let dir = match opened {
            Ok(dir) => dir,
            Err(e) => return walk.fail_unless_gone(self.looker.path(), e),
        };
        let mark = self.folders.mark();
        let told = self.lister.list(dir.as_fd(), &self.looker, &self.here, &mut self.folders);
        if self.is_ours(&dir, told.inode) {
            return self.folders.shrink(mark);
        }
        self.looker.folders += 1;
        self.looker.open_path();
        self.lister.keep_wanted();
        let (prefix, complete) = (self.looker.path.len(), told.complete);
        let subfolders = (self.folders.entries.len() > mark.entries).then_some(mark);
        if self.lister.files.entries.len() > FILES_PER_CHUNK {
            return self.many_files(scope, dir, place, complete, subfolders);
        }
        let folder = Listed { dir: &dir, prefix, place: &place, complete };
        self.looker.files(folder, &self.lister.files, 0..FILES_PER_CHUNK);
        if let Some(mark) = subfolders {
            self.push_frame(Some(dir), place, prefix, mark);
        }
    }

    /// Whether a folder is one of our own; `inode` is what its listing tells. One that cannot be asked is passed over, too.
    fn is_ours(&self, dir: &OwnedFd, inode: Option<u64>) -> bool {
        let own = self.walk.scanner.own;
        if !own.may_hold(inode) {
            return false;
        }
        match fstat(dir) {
            Ok(stat) => {
                let stat = file_stat(&stat);
                own.holds(stat.dev, stat.ino)
            }
            Err(e) => {
                self.walk.fail_unless_gone(self.looker.path(), e);
                true
            }
        }
    }

    /// Looks at more files than one thread should look at alone.
    fn many_files(&mut self, scope: &Scope<'w>, dir: OwnedFd, place: Place, complete: bool, subfolders: Option<Mark>) {
        let path = self.looker.path.clone();
        if let Some(mark) = subfolders {
            self.push_frame(dir.try_clone().ok(), place.clone(), path.len(), mark);
            self.share(scope);
        }
        let files = std::mem::take(&mut self.lister.files);
        Arc::new(ManyFiles::new(dir, path, place, complete, files)).look(&mut self.looker, scope);
    }

    /// Lets the subfolders behind `mark`, which lie in `dir`, wait. The first `prefix` bytes of the path lead there.
    fn push_frame(&mut self, dir: Option<OwnedFd>, place: Place, prefix: usize, mark: Mark) {
        let positions = self.positions.len();
        self.positions.extend_from_slice(&self.here);
        self.frames.push(Frame { dir, place, prefix, positions, mark, first: mark.entries });
        if self.frames.len() - self.held_from > self.held_max {
            self.frames[self.held_from].dir = None;
            self.held_from += 1;
        }
    }

    fn drop_frame(&mut self) {
        let frame = self.frames.pop().expect("there is one");
        self.folders.shrink(frame.mark);
        self.positions.truncate(frame.positions);
        self.held_from = self.held_from.min(self.frames.len());
    }

    /// Gives work away while other threads could do with it.
    fn share(&mut self, scope: &Scope<'w>) {
        while self.walk.wants_parts()
            && let Some(part) = self.split()
        {
            let walk = self.walk;
            walk.part_waits();
            scope.spawn(move |scope| {
                walk.part_begins();
                Self::take_up(walk, scope, part);
            });
        }
    }

    /// Half of what waits in the outermost frame in which anything does; of the last one left, this thread keeps at least one.
    fn split(&mut self) -> Option<Part> {
        let last = self.frames.len().checked_sub(1)?;
        let give = |index: usize| {
            let end = self.frames.get(index + 1).map_or(self.folders.entries.len(), |next| next.mark.entries);
            let wait = end - self.frames[index].first;
            (index, if index == last { wait / 2 } else { wait.div_ceil(2) })
        };
        let (index, given) = (0..=last).map(give).find(|&(_, given)| given > 0)?;
        let positions_end = self.frames.get(index + 1).map_or(self.positions.len(), |next| next.positions);
        let frame = &mut self.frames[index];
        let entries = frame.first..frame.first + given;
        frame.first = entries.end;
        Some(Part {
            dir: frame.dir.as_ref().and_then(|dir| dir.try_clone().ok()),
            place: frame.place.clone(),
            path: self.looker.path[..frame.prefix].to_vec(),
            positions: self.positions[frame.positions..positions_end].to_vec(),
            folders: self.folders.copy(&self.folders.entries[entries]),
        })
    }
}
