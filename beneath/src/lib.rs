//! Folders of which nothing leads out: what lies below one is reached without following links.
//!
//! Names come from configurations, and what they name was left by scripts: a folder may be a link to
//! anywhere, or become one while it is looked at. So each path is resolved by the kernel in one step
//! (openat2 with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS), and whatever is done then is done to the
//! descriptor or to a single name in it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Longest path, bytes: what the kernel takes.
pub const PATH_BYTES_MAX: usize = 4095;

/// Folders may nest this deep in what is copied or removed: as deep as those of a workspace. Each level holds
/// descriptors.
pub const DEPTH_MAX: usize = 2048;

/// Characters that are shown of each end of a long path.
const SHOWN_CHARS: usize = 100;

/// How often a path is resolved again because something was renamed meanwhile, or made again because
/// something else took its place: only who fights against us needs more than one.
const TRIES_MAX: usize = 16;

/// A folder, by its descriptor.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
}

/// A path that stays below the folder that it begins in; `None` if it is absolute, has a `..` or a NUL
/// in it, or is longer than any path can be. `.` and doubled slashes are left out.
pub fn inside(path: &str) -> Option<PathBuf> {
    if path.len() > PATH_BYTES_MAX || path.contains('\0') {
        return None;
    }
    let mut parts = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => parts.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts)
}

/// A path for people: of a long one its beginning and its end, so that what else is said is seen. What ends a line or
/// steers a terminal is escaped: names are whatever scripts have left.
pub fn shown(path: &Path) -> String {
    let plain = |letter: char| match letter.is_control() {
        true => letter.escape_default().to_string(),
        false => letter.to_string(),
    };
    let text: String = path.to_string_lossy().chars().map(plain).collect();
    let text: Vec<char> = text.chars().collect();
    if text.len() <= 2 * SHOWN_CHARS {
        return text.into_iter().collect();
    }
    let (begin, end) = (&text[..SHOWN_CHARS], &text[text.len() - SHOWN_CHARS..]);
    begin.iter().chain(['…'].iter()).chain(end).collect()
}

impl Folder {
    /// A folder whose path is trusted.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Folder { fd })
    }

    /// The folder of a descriptor.
    pub fn of(fd: OwnedFd) -> Self {
        Folder { fd }
    }

    /// A second descriptor of it.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn again(&self) -> io::Result<Self> {
        Ok(Folder {
            fd: self.fd.try_clone()?,
        })
    }

    /// The folder at a path below this one, of which no part is a link.
    ///
    /// # Errors
    /// If there is none, or it can't be reached.
    pub fn enter(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        let fd = self.resolve(path.as_ref(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Folder { fd })
    }

    /// The same by a path that may be longer than the kernel takes at once.
    ///
    /// # Errors
    /// If there is none, or it can't be reached.
    pub fn enter_far(&self, path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= PATH_BYTES_MAX {
            return self.enter(path);
        }
        let mut folder = self.again()?;
        for name in path.components() {
            folder = folder.enter(name)?;
        }
        Ok(folder)
    }

    /// The same as `enter`, making what is not there.
    ///
    /// # Errors
    /// If it can't be made, or something else stands there.
    pub fn make(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        let mut folder = self.again()?;
        for name in path.as_ref().components() {
            folder = folder.make_one(name.as_os_str())?;
        }
        Ok(folder)
    }

    fn make_one(&self, name: &OsStr) -> io::Result<Self> {
        for _ in 0..TRIES_MAX {
            match self.enter(name) {
                Err(error) if is(&error, Errno::NOENT) => {}
                other => return other,
            }
            match fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Opens a file below this folder for reading; fifos and devices do not block.
    ///
    /// # Errors
    /// If there is none that can be read.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(File::from(self.resolve(path.as_ref(), flags, Mode::empty())?))
    }

    /// Makes a file in this folder. What stands there by that name goes, but for a folder.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn create(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.in_place_of(name, || {
            fs::openat(&self.fd, name, flags, Mode::from_raw_mode(mode)).map(File::from)
        })
    }

    /// Makes a symbolic link in this folder, like [`Folder::create`].
    ///
    /// # Errors
    /// If it can't be made.
    pub fn link_to(&self, name: &OsStr, target: &OsStr) -> io::Result<()> {
        self.in_place_of(name, || fs::symlinkat(target, &self.fd, name))
    }

    /// Makes `name` another name of a file in the folder `of`, like [`Folder::create`].
    ///
    /// # Errors
    /// If it can't be made.
    pub fn hard_link(&self, name: &OsStr, of: &Folder, old: &OsStr) -> io::Result<()> {
        self.in_place_of(name, || fs::linkat(&of.fd, old, &self.fd, name, AtFlags::empty()))
    }

    /// Does what must be the first of its name; what has the name goes, but for a folder.
    fn in_place_of<T>(&self, name: &OsStr, make: impl Fn() -> rustix::io::Result<T>) -> io::Result<T> {
        for _ in 0..TRIES_MAX {
            match make() {
                Err(Errno::EXIST) => {}
                other => return Ok(other?),
            }
            match fs::unlinkat(&self.fd, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// What a name in this folder is, if it is a link the link itself.
    ///
    /// # Errors
    /// If there is nothing of that name.
    pub fn stat(&self, name: &OsStr) -> io::Result<Stat> {
        Ok(fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Where a link in this folder leads.
    ///
    /// # Errors
    /// If it is none.
    pub fn target(&self, name: &OsStr) -> io::Result<OsString> {
        let target = fs::readlinkat(&self.fd, name, Vec::new())?;
        Ok(OsStr::from_bytes(target.as_bytes()).to_owned())
    }

    /// What is in it, `.` and `..` too.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn entries(&self) -> io::Result<Dir> {
        Ok(Dir::new(self.readable()?)?)
    }

    /// A descriptor of it that can do more than name it.
    ///
    /// # Errors
    /// If this user may not read it.
    pub fn readable(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(fs::openat(&self.fd, c".", flags, Mode::empty())?)
    }

    /// Makes it one that its owner can read and change, whatever its mode was.
    ///
    /// # Errors
    /// If it is somebody else's.
    pub fn open_up(&self) -> io::Result<()> {
        // A descriptor that only names a folder can't change it, but the kernel's name for it can.
        let name = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        Ok(fs::chmod(name, Mode::RWXU)?)
    }

    /// Removes what has this name, folders with all that is in them; nothing is no error.
    ///
    /// # Errors
    /// If something of it can't be removed.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        let mut levels: Vec<Level> = Vec::new();
        let mut next = Some(name.to_owned());
        loop {
            let here = levels.last().map_or(self, |level| &level.folder);
            if let Some(name) = next.take() {
                if let Some(folder) = here.remove_or_enter(&name)? {
                    if levels.len() >= DEPTH_MAX {
                        return Err(io::Error::other(format!("folders nest deeper than {DEPTH_MAX}")));
                    }
                    levels.push(Level::new(folder, name)?);
                }
                continue;
            }
            let Some(level) = levels.last_mut() else {
                return Ok(());
            };
            next = level.next()?;
            if next.is_none()
                && let Some(mut done) = levels.pop()
            {
                let parent = levels.last().map_or(self, |level| &level.folder);
                match fs::unlinkat(&parent.fd, &done.name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    // Not all names are told of a folder that changes while it is read.
                    Err(Errno::NOTEMPTY | Errno::EXIST) if done.tries < TRIES_MAX => {
                        done.tries += 1;
                        done.entries = done.folder.entries()?;
                        levels.push(done);
                    }
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
    }

    /// Removes a file, or gives the folder that must be emptied first.
    fn remove_or_enter(&self, name: &OsStr) -> io::Result<Option<Folder>> {
        let remove = || fs::unlinkat(&self.fd, name, AtFlags::empty());
        let removed = match remove() {
            Err(Errno::ACCESS) => self.open_up().map_or(Err(Errno::ACCESS), |()| remove()),
            other => other,
        };
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(None),
            Err(Errno::ISDIR | Errno::PERM) => self.enter(name).map(Some),
            Err(errno) => Err(errno.into()),
        }
    }

    fn resolve(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let rules = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..TRIES_MAX {
            match fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, mode, rules) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
        Err(Errno::AGAIN.into())
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A folder that is being emptied.
struct Level {
    folder: Folder,
    entries: Dir,
    name: OsString,
    tries: usize,
}

impl Level {
    fn new(folder: Folder, name: OsString) -> io::Result<Self> {
        let entries = match folder.entries() {
            Err(error) if is(&error, Errno::ACCESS) => folder.open_up().and_then(|()| folder.entries()),
            other => other,
        }?;
        Ok(Level {
            folder,
            entries,
            name,
            tries: 0,
        })
    }

    fn next(&mut self) -> io::Result<Option<OsString>> {
        next_name(&mut self.entries).map(|entry| entry.map(|(name, _)| name))
    }
}

/// The next name of a folder that is read, but for `.` and `..`, and what it is if that is told.
///
/// # Errors
/// If it can't be read.
pub fn next_name(entries: &mut Dir) -> io::Result<Option<(OsString, FileType)>> {
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            return Ok(Some((OsStr::from_bytes(name).to_owned(), entry.file_type())));
        }
    }
    Ok(None)
}

/// Whether an error is this one.
pub fn is(error: &io::Error, errno: Errno) -> bool {
    Errno::from_io_error(error) == Some(errno)
}

/// As many descriptors as this process may have: folders that nest deep take one for each level, and each ticket that
/// is held has its folder open.
pub fn more_descriptors() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_shown_is_one_plain_line_and_short() {
        assert_eq!(shown(Path::new("a/b\u{1b}[31m\nc é")), "a/b\\u{1b}[31m\\nc é");
        let long = "\u{1b}".repeat(1000);
        assert_eq!(shown(Path::new(&long)).chars().count(), 2 * SHOWN_CHARS + 1);
    }
}
