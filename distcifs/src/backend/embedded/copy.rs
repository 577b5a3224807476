//! Brings objects from one store's folder into another's: what is there already is left alone, what
//! never changes is linked where that is possible, and everything else is copied aside and renamed
//! into place.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;

use super::files::Files;
use crate::storage::Object;

/// Threads that copy: one waits for the disk while another writes.
const THREADS: usize = 4;

/// What was brought.
#[derive(Debug, Default)]
pub struct Copied {
    /// Chunks and folders brought.
    pub blobs: AtomicU64,
    /// Consoles brought.
    pub consoles: AtomicU64,
    /// Bytes of both.
    pub bytes: AtomicU64,
    /// Objects that were there.
    pub there: AtomicU64,
    /// Objects that could not be found.
    pub missing: AtomicU64,
}

/// From one folder into another.
pub struct Copier {
    from: Files,
    to: Files,
    aside: PathBuf,
    next: AtomicU64,
    /// Whether files that never change may have two names.
    link: AtomicBool,
    me: u32,
    /// Whether what can't be found is passed over.
    pub patient: bool,
    /// What was brought so far.
    pub copied: Copied,
}

impl Copier {
    /// Between two folders that have all that a store's folder has. `link`: what never changes may
    /// be linked.
    pub fn new(from: &Path, to: &Path, link: bool) -> Copier {
        Copier {
            from: Files::new(from),
            to: Files::new(to),
            aside: to.join("tmp"),
            next: AtomicU64::new(0),
            link: AtomicBool::new(link),
            me: nix::unistd::geteuid().as_raw(),
            patient: false,
            copied: Copied::default(),
        }
    }

    /// Brings all of these; `step` is told after each, with the bytes that were brought.
    ///
    /// # Errors
    /// The first that could not be brought, and why.
    pub fn bring(
        &self,
        objects: impl Iterator<Item = Object> + Send,
        step: &(dyn Fn(u64) + Sync),
    ) -> Result<(), (Object, io::Error)> {
        let (objects, failed) = (Mutex::new(objects), Mutex::new(None));
        let next = || objects.lock().unwrap_or_else(PoisonError::into_inner).next();
        let fail = |object, error| {
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert((object, error));
        };
        let over = || failed.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        std::thread::scope(|threads| {
            for _ in 0..THREADS {
                threads.spawn(|| {
                    while !over()
                        && let Some(object) = next()
                    {
                        match self.one(&object) {
                            Ok(bytes) => step(bytes),
                            Err(error) => fail(object, error),
                        }
                    }
                });
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(failed) => Err(failed),
            None => Ok(()),
        }
    }

    /// Brings one; how many bytes that took.
    fn one(&self, object: &Object) -> io::Result<u64> {
        let (Some(from), Some(to)) = (self.from.path(object), self.to.path(object)) else {
            return Ok(0);
        };
        let brought = match object {
            Object::Console(name) => self.console(name, &from, &to),
            _ => self.blob(&from, &to),
        };
        if self.patient && brought.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            self.copied.missing.fetch_add(1, Ordering::Relaxed);
            return Ok(0);
        }
        let brought = brought?;
        let (count, bytes) = match (object, brought) {
            (_, None) => (&self.copied.there, 0),
            (Object::Console(_), Some(bytes)) => (&self.copied.consoles, bytes),
            (_, Some(bytes)) => (&self.copied.blobs, bytes),
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.copied.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(bytes)
    }

    /// Brings a file that never changes; its length if it was not there. One of another length is
    /// what a crash has left.
    fn blob(&self, from: &Path, to: &Path) -> io::Result<Option<u64>> {
        let found = fs::metadata(from)?;
        if fs::symlink_metadata(to).is_ok_and(|there| there.is_file() && there.len() == found.len()) {
            return Ok(None);
        }
        self.bring_file(from, to, &found, 0o400).map(Some)
    }

    /// Brings a console as long as it is now; `None` if it is there as long. It may be removed at any
    /// moment, and is put aside then.
    fn console(&self, name: &str, from: &Path, to: &Path) -> io::Result<Option<u64>> {
        let mut from = from.to_owned();
        let found = match fs::metadata(&from) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                from = self.from.consoles.find(name);
                fs::metadata(&from)?
            }
            found => found?,
        };
        let mode = found.mode() & 0o600;
        if let Ok(there) = fs::symlink_metadata(to)
            && there.is_file()
            && there.len() == found.len()
        {
            // It may have been sealed since.
            if there.mode() & 0o777 != mode {
                fs::set_permissions(to, Permissions::from_mode(mode))?;
            }
            return Ok(None);
        }
        if let Some(folder) = to.parent() {
            match fs::create_dir(folder) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        let brought = self.bring_file(&from, to, &found, mode);
        if brought.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            let aside = self.from.consoles.find(name);
            return self.bring_file(&aside, to, &fs::metadata(&aside)?, mode).map(Some);
        }
        brought.map(Some)
    }

    /// Links or copies a file; its length. One without write permission is never written again.
    fn bring_file(&self, from: &Path, to: &Path, found: &fs::Metadata, mode: u32) -> io::Result<u64> {
        let aside = self.aside.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        // Whose it is may change it still; so one of somebody else's is not shared.
        let still = found.mode() & 0o222 == 0 && found.uid() == self.me;
        if still && self.link.load(Ordering::Relaxed) {
            match fs::hard_link(from, to) {
                Ok(()) => return Ok(found.len()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    // In place of what is there.
                    fs::hard_link(from, &aside)?;
                    fs::rename(&aside, to)?;
                    return Ok(found.len());
                }
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EXDEV | Errno::EPERM | Errno::EOPNOTSUPP) => self.link.store(false, Ordering::Relaxed),
                    // This one has too many names.
                    Some(Errno::EMLINK) => {}
                    _ => return Err(error),
                },
            }
        }
        let length = copy(from, &aside, mode)?;
        if let Err(error) = fs::rename(&aside, to) {
            fs::remove_file(&aside)?;
            return Err(error);
        }
        Ok(length)
    }
}

/// Copies a file to where none is, sharing its blocks where the file system can (copy_file_range); what
/// came of one that fails is removed.
fn copy(from: &Path, to: &Path, mode: u32) -> io::Result<u64> {
    let mut source = File::open(from)?;
    let mut target = OpenOptions::new().write(true).create_new(true).mode(mode).open(to)?;
    let copied = io::copy(&mut source, &mut target);
    if copied.is_err() {
        let _gone = fs::remove_file(to);
    }
    copied
}
