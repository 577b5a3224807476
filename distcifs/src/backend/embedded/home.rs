//! The store's directory: who holds it, which version made it, and what lies in it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// The first line of DIR/format; another line means another version.
pub(super) const FORMAT: &str = "distcifs embedded store, format 1";

/// How the first line of a backup begins; the repository's id follows.
pub(super) const BACKUP: &str = "distcifs backup, format 1, of ";

/// The index.
pub(super) const INDEX: &str = "index.redb";

/// Stands in a directory that a restore has not come to the end with.
pub(super) const RESTORING: &str = "restoring";

/// Longest part of DIR/format and DIR/lock that is read, bytes: both hold one short line.
const LINE_BYTES_MAX: u64 = 256;

/// What may lie in a directory that is no store yet: a new file system's folder, and what an
/// opening that was killed has left.
const NOT_YET_A_STORE: [&str; 6] = ["lock", "format.new", "lost+found", "log", "log.1", "attempts"];

/// Why a directory cannot be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something else has the name.
    #[error("{}: not a directory; give a directory for the store", .0.display())]
    NotADirectory(PathBuf),
    /// It holds files, but no store.
    #[error("{}: holds other files ({example}) and no store; give an empty directory or one that distcifs made", .dir.display())]
    NotAStore {
        /// The directory.
        dir: PathBuf,
        /// One of the files.
        example: String,
    },
    /// Made by a version with another format.
    #[error("{}: made by another version (\"{found}\", this one makes \"{FORMAT}\"); mount it with that version", .dir.display())]
    OtherVersion {
        /// The directory.
        dir: PathBuf,
        /// Its version line.
        found: String,
    },
    /// It is a backup.
    #[error("{}: is a backup; restore it elsewhere: distcifs restore {} SOURCE", .0.display(), .0.display())]
    Backup(PathBuf),
    /// Somebody restores it, or did not come to the end of that.
    #[error("{}: its restore was not finished; run distcifs restore again, or remove it", .0.display())]
    HalfRestored(PathBuf),
    /// A link might lead anywhere.
    #[error("{}: is a symbolic link or no folder; name the folder itself", .0.display())]
    Link(PathBuf),
    /// What stands there might be changed by somebody else at any moment.
    #[error("{}: belongs to user {owner}; give a folder of your own, or none yet", .dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// It holds no backup that came to its end.
    #[error("{}: holds no finished backup of distcifs", .0.display())]
    NoBackup(PathBuf),
    /// It holds the backup of something else.
    #[error("{}: is the backup of another source (repository {found}, not {wanted}); give another folder", .dir.display())]
    OtherSource {
        /// The directory.
        dir: PathBuf,
        /// The repository that it is of.
        found: String,
        /// The one that was to be saved.
        wanted: String,
    },
    /// Another process has it open.
    #[error("{}: is mounted already by process {process}; unmount it first", .dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process number, as that process wrote it.
        process: String,
    },
    /// This user may not write there.
    #[error("{}: not writable ({why}); change its owner or mode, or mount as another user", .dir.display())]
    NotWritable {
        /// The directory.
        dir: PathBuf,
        /// The system's words.
        why: String,
    },
    /// The system failed in another way.
    #[error("{}: can't be opened: {why}", .dir.display())]
    Unusable {
        /// The directory.
        dir: PathBuf,
        /// The system's words.
        why: String,
    },
    /// What lies there cannot be read as a store.
    #[error("{}: the index can't be read: {why}; restore the directory from a copy", .dir.display())]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// How it shows.
        why: String,
    },
}

/// The directory of an open store, held for as long as this lives.
#[derive(Debug)]
pub(super) struct Home {
    dir: PathBuf,
    /// The file of the index.
    index: PathBuf,
    /// Kept only to hold the lock; none where nothing is changed.
    lock: Option<Flock<File>>,
}

impl Home {
    /// Takes the directory, and makes what is missing in it.
    pub(super) fn open(dir: &Path) -> Result<Home, OpenError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        if fs::metadata(dir).is_ok_and(|found| !found.is_dir()) {
            return Err(OpenError::NotADirectory(dir.to_owned()));
        }
        made.map_err(|e| unusable(dir, &e))?;
        let dir = &fs::canonicalize(dir).map_err(|e| unusable(dir, &e))?;
        let format = dir.join("format");
        if !format.exists() {
            if dir.join(RESTORING).exists() {
                return Err(OpenError::HalfRestored(dir.clone()));
            }
            check_empty(dir)?;
        }
        let lock = take_lock(dir)?;
        if format.exists() {
            check_format(dir, &format)?;
        } else {
            write_format(dir, FORMAT).map_err(|e| unusable(dir, &e))?;
        }
        make_folders(dir).map_err(|e| unusable(dir, &e))?;
        Ok(Home {
            dir: dir.clone(),
            index: dir.join(INDEX),
            lock: Some(lock),
        })
    }

    /// A directory that others may use, or nobody: nothing in it is made or changed.
    pub(super) fn frozen(dir: &Path, index: &Path) -> Home {
        let (dir, index) = (dir.to_owned(), index.to_owned());
        Home { dir, index, lock: None }
    }

    /// Whether nothing is changed in it by this process.
    pub(super) fn is_frozen(&self) -> bool {
        self.lock.is_none()
    }

    /// The directory, absolute.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file of the index.
    pub(super) fn index(&self) -> PathBuf {
        self.index.clone()
    }

    /// Makes the name of a new index durable.
    pub(super) fn settle(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    /// The error for an index that cannot be opened.
    pub(super) fn damaged(&self, why: &dyn std::error::Error) -> OpenError {
        OpenError::Damaged {
            dir: self.dir.clone(),
            why: why.to_string(),
        }
    }

    /// The error for a system call that failed.
    pub(super) fn unusable(&self, error: io::Error) -> OpenError {
        unusable(&self.dir, &error)
    }
}

fn unusable(dir: &Path, error: &io::Error) -> OpenError {
    let (dir, why) = (dir.to_owned(), error.to_string());
    match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => OpenError::NotADirectory(dir),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => OpenError::NotWritable { dir, why },
        _ => OpenError::Unusable { dir, why },
    }
}

/// Refuses a directory that holds something else, lest a slip of the pen spread a store there.
fn check_empty(dir: &Path) -> Result<(), OpenError> {
    for entry in fs::read_dir(dir).map_err(|e| unusable(dir, &e))? {
        let name = entry.map_err(|e| unusable(dir, &e))?.file_name();
        if !NOT_YET_A_STORE.iter().any(|known| name == *known) {
            let example = name.to_string_lossy().into_owned();
            return Err(OpenError::NotAStore {
                dir: dir.to_owned(),
                example,
            });
        }
    }
    Ok(())
}

/// Takes a directory for this process.
pub(super) fn take_lock(dir: &Path) -> Result<Flock<File>, OpenError> {
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(|e| unusable(dir, &e))?;
    let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, Errno::EWOULDBLOCK)) => {
            let process = read_line(&path).unwrap_or_default();
            return Err(OpenError::InUse {
                dir: dir.to_owned(),
                process,
            });
        }
        Err((_, errno)) => return Err(unusable(dir, &errno.into())),
    };
    let pid = format!("{}\n", std::process::id());
    lock.set_len(0)
        .and_then(|()| lock.write_all(pid.as_bytes()))
        .map_err(|e| unusable(dir, &e))?;
    Ok(lock)
}

/// The first line of a short file, without its end.
pub(super) fn read_line(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LINE_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn check_format(dir: &Path, format: &Path) -> Result<(), OpenError> {
    let found = read_line(format).map_err(|e| unusable(dir, &e))?;
    if found == FORMAT {
        return Ok(());
    }
    if found.starts_with(BACKUP) {
        return Err(OpenError::Backup(dir.to_owned()));
    }
    Err(OpenError::OtherVersion {
        dir: dir.to_owned(),
        found,
    })
}

/// Says, durably, what a directory is.
pub(super) fn write_format(dir: &Path, line: &str) -> io::Result<()> {
    let new = dir.join("format.new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&new)?;
    writeln!(file, "{line}")?;
    file.sync_all()?;
    fs::rename(&new, dir.join("format"))?;
    File::open(dir)?.sync_all()
}

/// Makes the folders of the objects all at once, so that making an object durable never needs
/// more than its own folder.
pub(super) fn make_folders(dir: &Path) -> io::Result<()> {
    let tmp = dir.join("tmp");
    match fs::remove_dir_all(&tmp) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => make_folder(&tmp)?,
    };
    make_folder(&dir.join("consoles"))?;
    let objects = dir.join("objects");
    let mut made = make_folder(&objects)?;
    for kind in ["chunk", "tree"] {
        let kind = objects.join(kind);
        made |= make_folder(&kind)?;
        for shard in 0..=u8::MAX {
            made |= make_folder(&kind.join(format!("{shard:02x}")))?;
        }
    }
    if made {
        nix::unistd::syncfs(File::open(dir)?)?;
    }
    Ok(())
}

/// Whether it was made now.
fn make_folder(path: &Path) -> io::Result<bool> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}
