//! Scratch files: what editors put beside config.json. Private to this mount, gone with it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;

use super::look::{Facts, NAME_MAX, NOT_AT_ALL};
use super::{Caller, Error, Kind, Result, SetAttr};
use crate::repository::core::lock;
use crate::repository::jobs::Access;

/// Largest scratch file, bytes: a configuration and an editor's notes on it.
const FILE_BYTES_MAX: usize = 4 << 20;
/// All of them together, bytes.
const BYTES_MAX: usize = 64 << 20;
/// Scratch files of one job.
const FILES_MAX: usize = 256;

/// One of them.
#[derive(Debug, Clone)]
pub(crate) struct File {
    job: Arc<str>,
    pub(crate) name: String,
    access: Access,
    modified: SystemTime,
    /// The bytes; of a symbolic link, its target.
    data: Vec<u8>,
    symlink: bool,
}

#[derive(Default)]
struct Table {
    files: HashMap<u64, File>,
    names: BTreeMap<(Arc<str>, String), u64>,
    bytes: usize,
    next: u64,
}

/// The scratch files of this mount.
#[derive(Default)]
pub struct Scratches(Mutex<Table>);

impl Scratches {
    /// The file of that name in a job's folder.
    pub(crate) fn find(&self, job: &Arc<str>, name: &str) -> Option<u64> {
        lock(&self.0).names.get(&(job.clone(), name.to_owned())).copied()
    }

    /// Names in a job's folder with their numbers and types.
    pub(crate) fn list(&self, job: &Arc<str>) -> Vec<(String, u64, Kind)> {
        let table = lock(&self.0);
        let from = (job.clone(), String::new());
        let own = table.names.range(from..).take_while(|((of, _), _)| of == job);
        own.filter_map(|((_, name), id)| table.files.get(id).map(|f| (name.clone(), *id, kind(f))))
            .collect()
    }

    /// Makes a file or symbolic link; the number.
    pub(crate) fn make(
        &self,
        caller: Caller,
        job: &Arc<str>,
        name: &str,
        mode: u32,
        target: Option<&[u8]>,
    ) -> Result<u64> {
        if name.len() > NAME_MAX {
            return Err(Error::NameTooLong(name.to_owned()));
        }
        let mut table = lock(&self.0);
        let key = (job.clone(), name.to_owned());
        if table.names.contains_key(&key) {
            return Err(Error::Exists(format!("{name} exists")));
        }
        let own = table
            .names
            .range((job.clone(), String::new())..)
            .take_while(|((of, _), _)| of == job)
            .count();
        if own >= FILES_MAX {
            return Err(Error::Full(format!(
                "{name}: a job's folder takes {FILES_MAX} scratch files"
            )));
        }
        let data = target.unwrap_or_default().to_vec();
        grow(&mut table, name, data.len())?;
        table.next += 1;
        let id = table.next;
        let access = Access {
            uid: caller.uid,
            gid: caller.gid,
            mode: mode & 0o7777,
        };
        let file = File {
            job: job.clone(),
            name: name.to_owned(),
            access,
            modified: SystemTime::now(),
            data,
            symlink: target.is_some(),
        };
        table.files.insert(id, file);
        table.names.insert(key, id);
        Ok(id)
    }

    /// Removes a name; open files keep their bytes until they are closed.
    pub(crate) fn remove(&self, id: u64) {
        let mut table = lock(&self.0);
        let Some(file) = table.files.remove(&id) else { return };
        table.bytes = table.bytes.saturating_sub(file.data.len());
        let key = (file.job, file.name);
        if table.names.get(&key) == Some(&id) {
            table.names.remove(&key);
        }
    }

    /// Gives a file another name, replacing what has it.
    pub(crate) fn rename(&self, id: u64, name: &str) -> Result<()> {
        if name.len() > NAME_MAX {
            return Err(Error::NameTooLong(name.to_owned()));
        }
        let job = self.get(id)?.job;
        if let Some(old) = self.find(&job, name).filter(|old| *old != id) {
            self.remove(old);
        }
        let mut table = lock(&self.0);
        let Some(file) = table.files.get_mut(&id) else {
            return Err(gone());
        };
        let old = (file.job.clone(), std::mem::replace(&mut file.name, name.to_owned()));
        table.names.remove(&old);
        table.names.insert((job, name.to_owned()), id);
        Ok(())
    }

    /// A copy of the file.
    pub(crate) fn get(&self, id: u64) -> Result<File> {
        lock(&self.0).files.get(&id).cloned().ok_or_else(gone)
    }

    /// The bytes of a file, or the target of a link.
    pub(crate) fn bytes(&self, id: u64) -> Result<Bytes> {
        Ok(Bytes::from(self.get(id)?.data))
    }

    /// Attributes.
    pub(crate) fn facts(&self, id: u64) -> Result<Facts> {
        let table = lock(&self.0);
        let file = table.files.get(&id).ok_or_else(gone)?;
        let (size, time, kind) = (file.data.len() as u64, file.modified, kind(file));
        Ok(Facts {
            kind,
            access: file.access,
            size,
            time,
            ttl: NOT_AT_ALL,
            nlink: 1,
        })
    }

    /// Changes attributes.
    pub(crate) fn change(&self, id: u64, set: &SetAttr) -> Result<()> {
        if let Some(size) = set.size {
            self.resize(id, usize::try_from(size).unwrap_or(usize::MAX))?;
        }
        let mut table = lock(&self.0);
        let file = table.files.get_mut(&id).ok_or_else(gone)?;
        file.access.mode = set.mode.unwrap_or(file.access.mode) & 0o7777;
        file.access.uid = set.uid.unwrap_or(file.access.uid);
        file.access.gid = set.gid.unwrap_or(file.access.gid);
        if let Some(time) = set.mtime {
            file.modified = time.unwrap_or_else(SystemTime::now);
        }
        Ok(())
    }

    fn resize(&self, id: u64, size: usize) -> Result<()> {
        let mut table = lock(&self.0);
        let file = table.files.get(&id).ok_or_else(gone)?;
        let (name, old) = (file.name.clone(), file.data.len());
        if size > FILE_BYTES_MAX {
            return Err(Error::TooBig(format!(
                "{name}: scratch files hold {FILE_BYTES_MAX} bytes at most"
            )));
        }
        grow(&mut table, &name, size.saturating_sub(old))?;
        table.bytes = table.bytes.saturating_sub(old.saturating_sub(size));
        if let Some(file) = table.files.get_mut(&id) {
            file.data.resize(size, 0);
            file.modified = SystemTime::now();
        }
        Ok(())
    }

    /// Writes at an offset.
    pub(crate) fn write(&self, id: u64, offset: u64, data: &[u8]) -> Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(data.len());
        if end > self.get(id)?.data.len() {
            self.resize(id, end)?;
        }
        let mut table = lock(&self.0);
        let file = table.files.get_mut(&id).ok_or_else(gone)?;
        if let Some(room) = file.data.get_mut(start..end) {
            room.copy_from_slice(data);
            file.modified = SystemTime::now();
        }
        Ok(())
    }

    /// Removes what a job that is gone left behind.
    pub(crate) fn remove_all(&self, job: &Arc<str>) {
        for (_, id, _) in self.list(job) {
            self.remove(id);
        }
    }
}

fn kind(file: &File) -> Kind {
    if file.symlink { Kind::Symlink } else { Kind::File }
}

fn gone() -> Error {
    Error::Stale("a scratch file".into())
}

/// Counts bytes in, within the bound of all.
fn grow(table: &mut Table, name: &str, more: usize) -> Result<()> {
    if table.bytes.saturating_add(more) > BYTES_MAX {
        return Err(Error::Full(format!(
            "{name}: scratch files hold {BYTES_MAX} bytes together"
        )));
    }
    table.bytes += more;
    Ok(())
}
