//! What visitors may see of the tree. Every file is reached by descriptors, a name at a time; no link is
//! followed, and the mount is not left. Unless visitors are asked for a token, only what the modes let
//! everybody read is opened, whoever this program runs as.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Stat, fstat, statat};
use rustix::io::Errno;

use super::address::is_shown;
use crate::beneath::Folder;

/// The bits of a mode that let others pass through a folder, and read.
const PASS: u32 = 0o001;
const READ: u32 = 0o004;

/// What is said to a web that runs as whoever mounted the tree, and asks for no token.
pub const OWN: &str = "whoever mounted this tree reads it as his own, and web runs as him: say --token-file FILE, which \
                       visitors must then know, or run web as another user";

/// Why something is not shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// There is no such thing, or nobody lists it.
    Absent,
    /// Its modes keep it from others.
    Closed,
    /// This one thing can't be read now, and this says why: what else there is may well be read.
    Unreadable(String),
    /// The tree is away.
    Away(String),
    /// Others have all places, and this says of what there are too many.
    Busy(&'static str),
    /// What was asked for makes no sense.
    Asked(String),
}

impl Fault {
    /// Whether it may pass by itself, so that it is tried again.
    pub fn passes(&self) -> bool {
        matches!(self, Fault::Unreadable(_) | Fault::Away(_) | Fault::Busy(_))
    }

    /// The same, with the place of what can't be read.
    pub fn at(self, place: &str) -> Fault {
        match self {
            Fault::Unreadable(why) => Fault::Unreadable(format!("{place}: {why}")),
            other => other,
        }
    }
}

/// What is done with the tree.
pub type Result<T> = std::result::Result<T, Fault>;

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(
                Errno::NOENT
                | Errno::NOTDIR
                | Errno::LOOP
                | Errno::XDEV
                | Errno::NAMETOOLONG
                | Errno::STALE
                | Errno::INVAL
                | Errno::ISDIR
                | Errno::NXIO,
            ) => Fault::Absent,
            Some(Errno::ACCESS | Errno::PERM) => Fault::Closed,
            // What a mount answers whose daemon has gone.
            Some(Errno::NOTCONN | Errno::CONNABORTED | Errno::SHUTDOWN | Errno::NODEV) => {
                Fault::Away(error.to_string())
            }
            // Files are opened without waiting: the owner of one may hold it.
            Some(Errno::AGAIN) => Fault::Unreadable("somebody holds it by a lease".to_owned()),
            _ => Fault::Unreadable(error.to_string()),
        }
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

/// The tree, and with whose eyes it is seen.
#[derive(Debug, Clone)]
pub struct Sight {
    mount: PathBuf,
    /// By a token: what this process may read. Else what others may.
    all: bool,
    /// Whom this process is.
    user: u32,
}

/// A folder that visitors may pass through.
#[derive(Debug)]
pub struct Seen {
    folder: Folder,
    mode: u32,
    device: u64,
    all: bool,
}

/// What kind a name is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A file.
    File,
    /// A symbolic link.
    Link,
    /// Something else, which is not opened.
    Other,
}

/// A file that visitors may read.
#[derive(Debug)]
pub struct Opened {
    /// It, at its beginning.
    pub file: File,
    /// Bytes.
    pub size: u64,
    /// When it was changed last, milliseconds since 1970.
    pub modified: u64,
    /// What tells it from another file and another time of itself.
    pub tag: String,
    /// Its number among all files of the mount.
    pub inode: u64,
}

/// Milliseconds since 1970 of a stat.
pub fn modified(stat: &Stat) -> u64 {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    seconds
        .saturating_mul(1000)
        .saturating_add(stat.st_mtime_nsec / 1_000_000)
}

impl Sight {
    /// Of a mount; `all` if visitors see what this process may read.
    pub fn new(mount: PathBuf, all: bool) -> Self {
        Sight {
            mount,
            all,
            user: rustix::process::geteuid().as_raw(),
        }
    }

    /// Where the tree is mounted.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// The top of the tree.
    ///
    /// # Errors
    /// `Away` if nothing is mounted there; `Unreadable` if whom this process is mounted it, and visitors have no token.
    pub fn top(&self) -> Result<Seen> {
        let away = |error: io::Error| Fault::Away(format!("{}: {error}", self.mount.display()));
        let folder = Folder::open(&self.mount).map_err(away)?;
        let stat = fstat(folder.as_fd()).map_err(|errno| away(errno.into()))?;
        // The folder that it is mounted on is there without it, and empty.
        let jobs = statat(folder.as_fd(), c"jobs", AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| away(errno.into()))?;
        if FileType::from_raw_mode(jobs.st_mode) != FileType::Directory {
            return Err(Fault::Away(format!("{}: it has no folder jobs", self.mount.display())));
        }
        // At the start the tree may have been away, and then nobody could say whose it is.
        if !self.all && stat.st_uid == self.user {
            return Err(Fault::Unreadable(format!("{}: {OWN}", self.mount.display())));
        }
        Ok(Seen {
            folder,
            mode: stat.st_mode,
            device: stat.st_dev,
            all: self.all,
        })
    }

    /// The folder at these names.
    ///
    /// # Errors
    /// As `top` and `Seen::enter`.
    pub fn at<N: AsRef<OsStr>>(&self, names: &[N]) -> Result<Seen> {
        let mut seen = self.top()?;
        for name in names {
            seen = seen.enter(name.as_ref())?;
        }
        Ok(seen)
    }
}

impl Seen {
    /// Whether what has this mode may be seen with these bits.
    fn may(&self, mode: u32, bits: u32) -> Result<()> {
        match self.all || mode & bits == bits {
            true => Ok(()),
            false => Err(Fault::Closed),
        }
    }

    /// A folder in this one.
    ///
    /// # Errors
    /// It is not there, no folder, another mount, or closed to others.
    pub fn enter(&self, name: impl AsRef<OsStr>) -> Result<Seen> {
        let name = name.as_ref();
        self.may(self.mode, PASS)?;
        if !is_shown(name) {
            return Err(Fault::Absent);
        }
        let folder = self.folder.enter(Path::new(name))?;
        let stat = fstat(folder.as_fd())?;
        if stat.st_dev != self.device {
            return Err(Fault::Absent);
        }
        self.may(stat.st_mode, PASS)?;
        Ok(Seen {
            folder,
            mode: stat.st_mode,
            device: self.device,
            all: self.all,
        })
    }

    /// A file in this folder.
    ///
    /// # Errors
    /// It is not there, no file, or closed to others.
    pub fn open(&self, name: impl AsRef<OsStr>) -> Result<Opened> {
        let name = name.as_ref();
        self.may(self.mode, PASS)?;
        if !is_shown(name) {
            return Err(Fault::Absent);
        }
        // A fifo or a device is not even opened: some do something then.
        let before = self.folder.stat(name)?;
        if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
            return Err(Fault::Absent);
        }
        self.may(before.st_mode, READ)?;
        let file = self.folder.read(Path::new(name))?;
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_dev != self.device {
            return Err(Fault::Absent);
        }
        self.may(stat.st_mode, READ)?;
        let (size, time) = (u64::try_from(stat.st_size).unwrap_or(0), modified(&stat));
        Ok(Opened {
            file,
            size,
            modified: time,
            tag: format!("\"{:x}-{size:x}-{time:x}\"", stat.st_ino),
            inode: stat.st_ino,
        })
    }

    /// The bytes of a file, of which there may be so many.
    ///
    /// # Errors
    /// As `open`; `Absent` if it is longer.
    pub fn bytes(&self, name: impl AsRef<OsStr>, most: u64) -> Result<Vec<u8>> {
        let opened = self.open(name)?;
        let mut bytes = Vec::new();
        opened.file.take(most + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > most {
            true => Err(Fault::Absent),
            false => Ok(bytes),
        }
    }

    /// The text of a small file without space at its ends; empty where there is none that may be read.
    ///
    /// # Errors
    /// It can't be read now, or the tree is away.
    pub fn text(&self, name: &str) -> Result<String> {
        match self.bytes(name, SMALL_BYTES_MAX) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim().to_owned()),
            Err(fault) if fault.passes() => Err(fault.at(name)),
            Err(_) => Ok(String::new()),
        }
    }

    /// The same for people: why, where it can't be read now.
    ///
    /// # Errors
    /// The tree is away.
    pub fn text_or_why(&self, name: &str) -> Result<String> {
        match self.text(name) {
            Err(Fault::Unreadable(why)) => Ok(format!("can't be read: {why}")),
            text => text,
        }
    }

    /// The target of a link in this folder.
    ///
    /// # Errors
    /// It is none.
    pub fn target(&self, name: &str) -> Result<String> {
        self.may(self.mode, PASS)?;
        Ok(self.folder.target(OsStr::new(name))?.to_string_lossy().into_owned())
    }

    /// The stat of a name in this folder, of a link the link's own.
    ///
    /// # Errors
    /// It is not there.
    pub fn stat(&self, name: impl AsRef<OsStr>) -> Result<Stat> {
        self.may(self.mode, PASS)?;
        Ok(self.folder.stat(name.as_ref())?)
    }

    /// The names in it that are listed, at most so many, and whether there are more.
    ///
    /// # Errors
    /// Others may not list it.
    pub fn names(&self, most: usize) -> Result<(Vec<(OsString, Kind)>, bool)> {
        self.may(self.mode, READ)?;
        let mut names = Vec::new();
        for entry in self.folder.entries()? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if !is_shown(name) {
                continue;
            }
            if names.len() == most {
                return Ok((names, true));
            }
            let kind = match entry.file_type() {
                FileType::Unknown => self.folder.stat(name).map_or(Kind::Other, |stat| kind(&stat)),
                found => of_type(found),
            };
            names.push((OsString::from_vec(name.as_bytes().to_vec()), kind));
        }
        Ok((names, false))
    }
}

/// Longest small file, bytes: a `why` with the last lines of a console has some 2 KiB.
const SMALL_BYTES_MAX: u64 = 64 << 10;

/// What a stat is of.
pub fn kind(stat: &Stat) -> Kind {
    of_type(FileType::from_raw_mode(stat.st_mode))
}

fn of_type(found: FileType) -> Kind {
    match found {
        FileType::Directory => Kind::Folder,
        FileType::RegularFile => Kind::File,
        FileType::Symlink => Kind::Link,
        _ => Kind::Other,
    }
}
