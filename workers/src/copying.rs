//! Copies of files and folders from below one folder to below another, as `cp -a` makes them.
//!
//! Modes, times, links, holes and attributes of users are kept, owners as far as this user may set
//! them. Neither side is trusted: every name is a single one in a folder that is held open, and
//! nothing that is a link is followed. Bytes move by copy_file_range, so none move where both sides
//! are of the tree.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    self, AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom as Hole, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::beneath::{self, DEPTH_MAX, Folder, shown, trouble};
use crate::tree::{self, Trouble};

/// Most files of which it is remembered that they have further names; a copy of more has some of
/// them twice.
const LINKS_MAX: usize = 1 << 20;

/// Longest list of a file's attributes, and longest value, bytes: what the kernel takes.
const ATTRIBUTES_BYTES_MAX: usize = 64 << 10;

/// The bits of a mode that can be set, and those that give rights of the owner away.
const MODE_BITS: u32 = 0o7777;
const SET_ID_BITS: u32 = 0o6000;

/// Copies to one folder; files with several names that are copied by one of these stay one file.
#[derive(Debug)]
pub struct Copying {
    to: Folder,
    links: HashMap<(u64, u64), PathBuf>,
    me: (u32, u32),
    /// How many files and links were copied.
    pub copied: u64,
    /// What was left out, for people.
    pub left_out: Vec<String>,
}

/// Most places that are told of by name when they were left out.
const LEFT_OUT_MAX: usize = 20;

/// A folder that is being copied.
pub struct Level {
    /// The original.
    pub from: Folder,
    /// What is in it.
    pub entries: Dir,
    /// The copy.
    pub to: Folder,
    stat: Stat,
}

impl Copying {
    /// To this folder.
    pub fn new(to: Folder) -> Self {
        let me = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        Copying {
            to,
            links: HashMap::new(),
            me,
            copied: 0,
            left_out: Vec::new(),
        }
    }

    /// Where copies come to.
    pub fn target(&self) -> &Folder {
        &self.to
    }

    /// Copies what has this name in a folder to the same name in a folder of the target; folders with
    /// all that is in them. `path` is its place below the target.
    ///
    /// # Errors
    /// `Refused` with the place, if something can't be read or made.
    pub fn copy(&mut self, from: &Folder, name: &OsStr, to: &Folder, path: &Path) -> tree::Result<()> {
        let mut path = path.to_owned();
        let mut levels: Vec<Level> = Vec::new();
        levels.extend(self.one(from, name, to, &path)?);
        loop {
            let full = levels.len() >= DEPTH_MAX;
            let Some(level) = levels.last_mut() else {
                return Ok(());
            };
            let cant = |error: io::Error| trouble(&format!("can't read '{}'", shown(&path)), &error);
            let Some((name, kind)) = beneath::next_name(&mut level.entries).map_err(cant)? else {
                if let Some(level) = levels.pop() {
                    self.end(&level, &path)?;
                }
                path.pop();
                continue;
            };
            path.push(&name);
            if kind == FileType::Directory && full {
                return Err(too_deep(&path));
            }
            match self.one(&level.from, &name, &level.to, &path)? {
                Some(_) if full => return Err(too_deep(&path)),
                Some(below) => levels.push(below),
                None => {
                    path.pop();
                }
            }
        }
    }

    /// Begins a folder, for a copy of some of what is in it.
    ///
    /// # Errors
    /// `Refused` with the place, if it can't be read or made.
    pub fn begin(&self, from: &Folder, name: &OsStr, to: &Folder, path: &Path) -> tree::Result<Level> {
        let cant = |error: io::Error| trouble(&format!("can't copy '{}'", shown(path)), &error);
        self.folder(from, name, to).map_err(cant)
    }

    /// Gives a folder, when all is in it, what its original is beside that.
    ///
    /// # Errors
    /// `Refused` with the place, if it can't be changed.
    pub fn end(&self, level: &Level, path: &Path) -> tree::Result<()> {
        let settled = self.settle(&level.to, &level.stat);
        settled.map_err(|e| trouble(&format!("can't make '{}'", shown(path)), &e))
    }

    /// Copies one name; of a folder, begins it.
    fn one(&mut self, from: &Folder, name: &OsStr, to: &Folder, path: &Path) -> tree::Result<Option<Level>> {
        let cant = |error: io::Error| trouble(&format!("can't copy '{}'", shown(path)), &error);
        let stat = from.stat(name).map_err(cant)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return self.folder(from, name, to).map(Some).map_err(cant),
            FileType::RegularFile => self.file(from, name, to, path).map_err(cant)?,
            FileType::Symlink => self.link(from, name, to, &stat).map_err(cant)?,
            _ => {
                if self.left_out.len() < LEFT_OUT_MAX {
                    let place = shown(path);
                    self.left_out
                        .push(format!("'{place}' is neither file, folder nor link: left out"));
                }
                return Ok(None);
            }
        }
        self.copied += 1;
        Ok(None)
    }

    fn folder(&self, from: &Folder, name: &OsStr, to: &Folder) -> io::Result<Level> {
        let from = from.enter(name)?;
        let stat = fs::fstat(from.readable()?)?;
        let entries = from.entries()?;
        let to = match fs::mkdirat(to, name, Mode::RWXU) {
            Ok(()) => to.enter(name)?,
            Err(Errno::EXIST) => {
                let there = to.enter(name)?;
                if self.me.0 != 0 && fs::accessat(&there, c".", fs::Access::WRITE_OK, AtFlags::EACCESS).is_err() {
                    // It gets its mode in the end.
                    there.open_up()?;
                }
                there
            }
            Err(errno) => return Err(errno.into()),
        };
        Ok(Level {
            from,
            entries,
            to,
            stat,
        })
    }

    fn file(&mut self, from: &Folder, name: &OsStr, to: &Folder, path: &Path) -> io::Result<()> {
        let mut source = from.read(name)?;
        let stat = fs::fstat(&source)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it became something else while it was copied"));
        }
        let several = stat.st_nlink > 1;
        if several && self.same_file(&stat, to, name) {
            return Ok(());
        }
        // Readable by its owner alone until it is what it is to be.
        let mut copy = to.create(name, 0o600)?;
        copy_bytes(&mut source, &mut copy, &stat)?;
        copy_attributes(&source, &copy);
        self.settle(&copy, &stat)?;
        // A full disk is told by the close.
        nix::unistd::close(copy)?;
        if several && self.links.len() < LINKS_MAX {
            self.links.insert((stat.st_dev, stat.st_ino), path.to_owned());
        }
        Ok(())
    }

    /// Makes a further name of a file that was copied already; whether that went well.
    fn same_file(&self, stat: &Stat, to: &Folder, name: &OsStr) -> bool {
        let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) else {
            return false;
        };
        let (Some(folder), Some(old)) = (first.parent(), first.file_name()) else {
            return false;
        };
        let linked = self
            .to
            .enter_far(folder)
            .and_then(|folder| to.hard_link(name, &folder, old));
        linked.is_ok()
    }

    fn link(&self, from: &Folder, name: &OsStr, to: &Folder, stat: &Stat) -> io::Result<()> {
        let target: OsString = from.target(name)?;
        to.link_to(name, &target)?;
        if self.changes_owner(stat) {
            let (uid, gid) = owner(stat);
            ignore_denial(fs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW))?;
        }
        fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// Gives a copy what its original is beside its bytes.
    fn settle(&self, copy: impl AsFd, stat: &Stat) -> io::Result<()> {
        let folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let opened;
        let fd = if folder {
            opened = fs::openat(
                &copy,
                c".",
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            opened.as_fd()
        } else {
            copy.as_fd()
        };
        if self.changes_owner(stat) {
            let (uid, gid) = owner(stat);
            ignore_denial(fs::fchown(fd, uid, gid))?;
        }
        let mut mode = stat.st_mode & MODE_BITS;
        // A program that lends the rights of its owner must not lend those of another.
        if mode & SET_ID_BITS != 0 {
            let now = fs::fstat(fd)?;
            if (now.st_uid, now.st_gid) != (stat.st_uid, stat.st_gid) {
                mode &= !SET_ID_BITS;
            }
        }
        fs::fchmod(fd, Mode::from_raw_mode(mode))?;
        fs::futimens(fd, &times(stat))?;
        Ok(())
    }

    /// Whether owners are kept: only root can, and its own files need nothing.
    fn changes_owner(&self, stat: &Stat) -> bool {
        self.me.0 == 0 && (stat.st_uid, stat.st_gid) != self.me
    }
}

/// What is said of folders that nest too deep.
pub fn too_deep(path: &Path) -> Trouble {
    Trouble::Refused(format!("'{}': folders nest deeper than {DEPTH_MAX}", shown(path)))
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// As `cp -a`, which keeps owners only where it may.
fn ignore_denial(done: rustix::io::Result<()>) -> io::Result<()> {
    match done {
        Err(Errno::PERM | Errno::INVAL) => Ok(()),
        other => Ok(other?),
    }
}

/// Copies the bytes of a file, and its holes as holes.
fn copy_bytes(source: &mut File, copy: &mut File, stat: &Stat) -> io::Result<()> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let stored = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
    if stored >= size {
        io::copy(source, copy)?;
        return Ok(());
    }
    let mut at = 0;
    while at < size {
        let data = match fs::seek(&*source, Hole::Data(at)) {
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            other => other?,
        };
        let hole = fs::seek(&*source, Hole::Hole(data)).unwrap_or(size).max(data);
        source.seek(SeekFrom::Start(data))?;
        copy.seek(SeekFrom::Start(data))?;
        if io::copy(&mut (&*source).take(hole - data), copy)? == 0 {
            break;
        }
        at = hole;
    }
    copy.set_len(size)
}

/// Copies the attributes that users may set. What can't be set is left out, as by `cp -a`.
fn copy_attributes(source: &File, copy: &File) {
    let Some(names) = attribute(|buffer| fs::flistxattr(source, buffer)) else {
        return;
    };
    for name in names.split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")) {
        let name = OsStr::from_bytes(name);
        if let Some(value) = attribute(|buffer| fs::fgetxattr(source, name, buffer)) {
            let _ = fs::fsetxattr(copy, name, &value, XattrFlags::empty());
        }
    }
}

/// Reads what tells its length when it is given no room; `None` if there is nothing.
fn attribute(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> Option<Vec<u8>> {
    let length = read(&mut []).ok().filter(|length| *length > 0)?;
    let mut bytes = vec![0; length.min(ATTRIBUTES_BYTES_MAX)];
    let length = read(&mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}
