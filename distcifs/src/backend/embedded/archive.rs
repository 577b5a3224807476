//! A folder that a backup is made in, or that one is restored into.
//!
//! A backup has the same files as a store, but for its first line: `fsck` can look at it, and
//! nothing can mount it. Its index is written last, under another name, and renamed into place: so
//! at each moment it is the former backup or the new one.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use super::files::Files;
use super::home::{BACKUP, FORMAT, INDEX, OpenError, RESTORING, make_folders, read_line, take_lock, write_format};
use crate::storage::Object;

/// The index while it is made.
const NEW_INDEX: &str = "index.new";

/// What lies in a new file system's folder, and what an opening that was killed has left.
const EMPTY: [&str; 3] = ["lock", "format.new", "lost+found"];

/// A folder that nobody else has, whatever becomes of its name.
pub struct Archive {
    shown: PathBuf,
    dir: PathBuf,
    _folder: OwnedFd,
    _lock: Flock<File>,
}

/// A backup for reading.
pub struct Placed {
    /// Its folder.
    pub dir: PathBuf,
    /// Its index.
    pub index: PathBuf,
    _lock: Option<Flock<File>>,
}

impl Archive {
    /// The folder of a backup of this repository; made if there is none.
    ///
    /// # Errors
    /// If it can't be used, with the reason and the remedy.
    pub fn of_backup(dir: &Path) -> Result<Archive, OpenError> {
        let archive = Archive::take(dir)?;
        match read_line(&archive.dir.join("format")) {
            Ok(line) if line.starts_with(BACKUP) => {}
            Ok(_) => {
                return Err(OpenError::NotAStore {
                    dir: dir.to_owned(),
                    example: "format".into(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => archive.check_empty(&EMPTY)?,
            Err(error) => return Err(archive.unusable(&error)),
        }
        Ok(archive)
    }

    /// The folder that a backup is restored into; made if there is none. One that was not finished is
    /// gone on with.
    ///
    /// # Errors
    /// If it can't be used, with the reason and the remedy.
    pub fn of_restore(dir: &Path) -> Result<Archive, OpenError> {
        // Before its lock: a mount may have that.
        if dir.join("format").exists() {
            return Err(OpenError::Unusable {
                dir: dir.to_owned(),
                why: "it holds a store or a backup already; give an empty folder, or none yet".into(),
            });
        }
        let archive = Archive::take(dir)?;
        let marker = archive.dir.join(RESTORING);
        if !marker.exists() {
            archive.check_empty(&EMPTY)?;
            let made = File::create(&marker).and_then(|marker| marker.sync_all());
            made.map_err(|error| archive.unusable(&error))?;
        }
        archive.prepare()?;
        Ok(archive)
    }

    fn take(dir: &Path) -> Result<Archive, OpenError> {
        let unusable = |error: &io::Error| OpenError::Unusable {
            dir: dir.to_owned(),
            why: error.to_string(),
        };
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(&error)),
            _ => {}
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let folder = match open(dir, flags, Mode::empty()) {
            Ok(folder) => folder,
            Err(Errno::ELOOP | Errno::ENOTDIR) => return Err(OpenError::Link(dir.to_owned())),
            Err(error) => return Err(unusable(&error.into())),
        };
        // By this name it stays the same folder, whoever renames what.
        let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        let found = fs::metadata(&path).map_err(|error| unusable(&error))?;
        if found.uid() != geteuid().as_raw() {
            let owner = found.uid();
            return Err(OpenError::Foreign {
                dir: dir.to_owned(),
                owner,
            });
        }
        // It holds every secret that the source holds.
        let private = fs::set_permissions(&path, fs::Permissions::from_mode(0o700));
        private.map_err(|error| unusable(&error))?;
        let lock = take_lock(&path).map_err(|error| match error {
            OpenError::InUse { process, .. } => OpenError::Unusable {
                dir: dir.to_owned(),
                why: format!("process {process} works in it; wait for its end"),
            },
            other => other,
        })?;
        Ok(Archive {
            shown: dir.to_owned(),
            dir: path,
            _folder: folder,
            _lock: lock,
        })
    }

    fn unusable(&self, error: &io::Error) -> OpenError {
        OpenError::Unusable {
            dir: self.shown.clone(),
            why: error.to_string(),
        }
    }

    fn check_empty(&self, known: &[&str]) -> Result<(), OpenError> {
        for entry in fs::read_dir(&self.dir).map_err(|error| self.unusable(&error))? {
            let name = entry.map_err(|error| self.unusable(&error))?.file_name();
            if !known.iter().any(|known| name == *known) {
                return Err(OpenError::NotAStore {
                    dir: self.shown.clone(),
                    example: name.to_string_lossy().into_owned(),
                });
            }
        }
        Ok(())
    }

    /// Makes the folders of a store, and throws away what an end in the middle has left.
    fn prepare(&self) -> Result<(), OpenError> {
        match fs::remove_file(self.new_index()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.unusable(&error)),
            _ => {}
        }
        make_folders(&self.dir).map_err(|error| self.unusable(&error))
    }

    /// The folder; its name is good in this process only.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// An error text with the folder as people know it.
    pub fn named(&self, text: &str) -> String {
        text.replace(&*self.dir.to_string_lossy(), &self.shown.to_string_lossy())
    }

    /// Where the new index is made.
    pub fn new_index(&self) -> PathBuf {
        self.dir.join(NEW_INDEX)
    }

    /// Makes it the folder of backups of this repository.
    ///
    /// # Errors
    /// If it is another's.
    pub fn begin(&self, repository: &str) -> Result<(), OpenError> {
        let wanted = format!("{BACKUP}{repository}");
        match read_line(&self.dir.join("format")) {
            Ok(line) if line == wanted => Ok(()),
            Ok(line) => Err(OpenError::OtherSource {
                dir: self.shown.clone(),
                found: line.trim_start_matches(BACKUP).to_owned(),
                wanted: repository.to_owned(),
            }),
            Err(_) => write_format(&self.dir, &wanted).map_err(|error| self.unusable(&error)),
        }
    }

    /// Throws away what is left of one that did not come to its end.
    ///
    /// # Errors
    /// Those of the system.
    pub fn clean(&self) -> Result<(), OpenError> {
        self.prepare()
    }

    /// Makes all that was brought durable, and then the new index the one that counts.
    ///
    /// # Errors
    /// Those of the system: then the former one counts.
    pub fn finish(&self) -> Result<(), OpenError> {
        let finish = || {
            let folder = File::open(&self.dir)?;
            nix::unistd::syncfs(&folder)?;
            fs::rename(self.new_index(), self.dir.join(INDEX))?;
            folder.sync_all()
        };
        finish().map_err(|error| self.unusable(&error))
    }

    /// Makes what was restored a store.
    ///
    /// # Errors
    /// Those of the system.
    pub fn become_store(&self) -> Result<(), OpenError> {
        let become_store = || {
            write_format(&self.dir, FORMAT)?;
            fs::remove_file(self.dir.join(RESTORING))?;
            File::open(&self.dir)?.sync_all()
        };
        become_store().map_err(|error| self.unusable(&error))
    }

    /// Removes the objects that nobody needs any more; how many.
    ///
    /// # Errors
    /// Those of the system; the next backup goes on with it.
    pub fn prune(&self, needed: &dyn Fn(&Object) -> bool) -> io::Result<u64> {
        let (files, mut removed) = (Files::new(&self.dir), 0);
        for kind in ["chunk", "tree"] {
            for first in 0..=u8::MAX {
                for object in files.blobs.list(kind, first)? {
                    if !needed(&object) {
                        files.path(&object).map_or(Ok(()), fs::remove_file)?;
                        removed += 1;
                    }
                }
            }
        }
        let mut after = String::new();
        loop {
            let page = files
                .consoles
                .list(&after, crate::storage::contents::LISTING_PAGE_MAX)?;
            let Some(last) = page.last() else { return Ok(removed) };
            after = last.to_string();
            for object in page.iter().filter(|object| !needed(object)) {
                let path = files.consoles.path(&object.to_string());
                fs::remove_file(&path)?;
                removed += 1;
                if let Some(folder) = path.parent().filter(|folder| *folder != self.dir.join("consoles")) {
                    let _not_empty = fs::remove_dir(folder);
                }
            }
        }
    }
}

impl Placed {
    /// Whether a folder is that of backups.
    pub fn is_one(dir: &Path) -> bool {
        read_line(&dir.join("format")).is_ok_and(|line| line.starts_with(BACKUP))
    }

    /// Opens a backup for reading.
    ///
    /// # Errors
    /// If there is none that came to its end, or one is just being made.
    pub fn open(dir: &Path) -> Result<Placed, OpenError> {
        let index = dir.join(INDEX);
        if !Placed::is_one(dir) || !index.exists() {
            return Err(OpenError::NoBackup(dir.to_owned()));
        }
        let lock = match take_lock(dir) {
            Ok(lock) => Some(lock),
            // On a medium that can't be written nobody writes.
            Err(OpenError::NotWritable { .. }) => None,
            Err(other) => return Err(other),
        };
        Ok(Placed {
            dir: dir.to_owned(),
            index,
            _lock: lock,
        })
    }
}
