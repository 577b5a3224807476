//! Consoles: files that are appended to under a guard. The sequence number of a console is its
//! length + 1, as one process owns the store; a sealed one has lost its write permission.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::files::{failed, is_past, read_at};
use super::lock;
use crate::storage::contents::SEALED;
use crate::storage::descriptors::spare_now;
use crate::storage::names::CONSOLE;
use crate::storage::{Appended, Object, Result};

/// Parts that the consoles are divided into, each with a lock of its own: a few more than the
/// threads that append at once.
const SHARDS: usize = 16;

/// Descriptors kept open in each part: 128 in all, for as many tasks as one machine runs.
const OPEN_MAX: usize = 8;

/// Mode of a console that may be appended to, and of a sealed one.
const MODES: [u32; 2] = [0o600, 0o400];

/// Where removed consoles are kept, in the store's folder; like all of `tmp` emptied at open.
const KEPT: &str = "tmp/kept";

/// Times that a new console's folder is made again, if a removal takes it away in between.
const FOLDER_TRIES: usize = 3;

/// The folder of consoles, and the ones in use.
#[derive(Debug)]
pub(super) struct Consoles {
    folder: PathBuf,
    /// Where those go that are removed while somebody keeps them.
    kept: PathBuf,
    /// How many keep them.
    keepers: Mutex<usize>,
    shards: Vec<Mutex<Shard>>,
}

/// Consoles in use, the one used last at the end. Nobody else has them open.
#[derive(Debug, Default)]
struct Shard {
    open: Vec<(String, Open)>,
}

/// A console in use.
#[derive(Debug)]
struct Open {
    file: Arc<File>,
    length: u64,
    sealed: bool,
}

impl Open {
    fn sequence(&self) -> u64 {
        if self.sealed { SEALED } else { self.length + 1 }
    }
}

impl Consoles {
    /// In the store's directory.
    pub(super) fn new(dir: &Path) -> Consoles {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Consoles {
            folder: dir.join("consoles"),
            kept: dir.join(KEPT),
            keepers: Mutex::default(),
            shards,
        }
    }

    /// The file of a console. Those named `console.<uid>.<rest>` lie in a folder for each uid;
    /// any other name is kept safe by a sign before it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        match uid_of(name) {
            Some(uid) => self.folder.join(uid).join(name),
            None => self.folder.join(format!("={name}")),
        }
    }

    fn shard(&self, name: &str) -> &Mutex<Shard> {
        let sum = name
            .bytes()
            .fold(0_usize, |sum, b| sum.wrapping_mul(31) + usize::from(b));
        &self.shards[sum % SHARDS]
    }

    /// Appends under the guard, or seals. `wrote` is told, under the lock, of a change, and
    /// whether the name is new.
    pub(super) fn append(
        &self,
        name: &str,
        sequence: u64,
        bytes: &[u8],
        wrote: impl FnOnce(bool),
    ) -> io::Result<Appended> {
        let mut shard = lock(self.shard(name));
        let path = self.path(name);
        let known = shard.find(name, &path)?;
        let standing = known.as_deref().map_or((0, 0), |open| (open.length, open.sequence()));
        let seal = sequence == SEALED && bytes.is_empty();
        if !seal && (standing.1 != sequence || sequence == SEALED) {
            return Ok(Appended::Mismatch {
                length: standing.0,
                sequence: standing.1,
            });
        }
        let made = known.is_none();
        let open = match known {
            Some(open) => open,
            None => shard.keep(name, make(&path)?),
        };
        let done = if seal { set_sealed(open) } else { write(open, bytes) };
        match done {
            Ok(()) => wrote(made),
            Err(error) => {
                shard.forget(name);
                if made {
                    let _absent = fs::remove_file(&path);
                }
                return Err(error);
            }
        }
        Ok(Appended::Done {
            length: open.length,
            sequence: open.sequence(),
        })
    }

    /// Reads a range of what was appended whole.
    pub(super) fn read(&self, name: &str, offset: u64, length: usize) -> Result<Option<Bytes>> {
        let what = || format!("read {name}");
        let found = {
            let mut shard = lock(self.shard(name));
            let found = shard.find(name, &self.path(name)).map_err(|e| failed(what(), &e))?;
            found.map(|open| (Arc::clone(&open.file), open.length))
        };
        let Some((file, size)) = found else {
            return Ok(None);
        };
        read_at(&file, size, offset, length)
            .map(Some)
            .map_err(|e| failed(what(), &e))
    }

    /// The length of what was appended whole.
    pub(super) fn size(&self, name: &str) -> Result<Option<u64>> {
        let mut shard = lock(self.shard(name));
        match shard.find(name, &self.path(name)) {
            Ok(found) => Ok(found.map(|open| open.length)),
            Err(error) => Err(failed(format!("size of {name}"), &error)),
        }
    }

    /// Removes a console, and its folder if that was the last one.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let mut shard = lock(self.shard(name));
        shard.forget(name);
        let path = self.path(name);
        match self.take_away(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(format!("remove {name}"), &error)),
            Ok(()) => {}
        }
        if let Some(folder) = path.parent().filter(|folder| **folder != self.folder) {
            let _not_empty = fs::remove_dir(folder);
        }
        Ok(())
    }

    /// Removes a file, or puts it aside while somebody keeps them.
    fn take_away(&self, path: &Path) -> io::Result<()> {
        let keepers = lock(&self.keepers);
        match path.file_name().filter(|_| *keepers > 0) {
            Some(name) => fs::rename(path, self.kept.join(name)),
            None => fs::remove_file(path),
        }
    }

    /// From now on what is removed is put aside.
    pub(super) fn keep(&self) -> io::Result<()> {
        let mut keepers = lock(&self.keepers);
        match DirBuilder::new().mode(0o700).create(&self.kept) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => *keepers += 1,
        }
        Ok(())
    }

    /// Ends that; after the last one what was put aside is removed.
    pub(super) fn let_go(&self) {
        let mut keepers = lock(&self.keepers);
        *keepers = keepers.saturating_sub(1);
        if *keepers == 0 {
            // What stays is removed when the store is opened.
            let _left = fs::remove_dir_all(&self.kept);
        }
    }

    /// The file of a console, wherever it is.
    pub(super) fn find(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        match path.file_name().filter(|_| !path.exists()) {
            Some(file) => self.kept.join(file),
            None => path,
        }
    }

    /// The names of those that were put aside.
    pub(super) fn aside(&self) -> io::Result<Vec<Object>> {
        let entries = match fs::read_dir(&self.kept) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name().into_string();
            names.extend(name.map(|name| Object::Console(name.trim_start_matches('=').to_owned())));
        }
        Ok(names)
    }

    /// Lists consoles in order of their names.
    pub(super) fn list(&self, after: &str, limit: usize) -> io::Result<Vec<Object>> {
        let mut places = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let Ok(name) = entry?.file_name().into_string() else {
                continue;
            };
            match name.strip_prefix('=') {
                Some(odd) => places.push((odd.to_owned(), None)),
                None => places.push((format!("{CONSOLE}.{name}."), Some(name))),
            }
        }
        places.sort_unstable();
        let mut found: Vec<String> = Vec::new();
        for (prefix, folder) in places {
            if found.len() >= limit {
                break;
            }
            match folder {
                None if prefix.as_str() > after => found.push(prefix),
                Some(folder) if !is_past(&prefix, after) => {
                    let from = found.len();
                    found.extend(names(&self.folder.join(folder), &prefix, after)?);
                    found[from..].sort_unstable();
                }
                _ => {}
            }
        }
        found.truncate(limit);
        Ok(found.into_iter().map(Object::Console).collect())
    }
}

impl Shard {
    /// The console, opened if it is not; `None` if there is none.
    fn find(&mut self, name: &str, path: &Path) -> io::Result<Option<&mut Open>> {
        if let Some(at) = self.open.iter().position(|(known, _)| known == name) {
            self.open[at..].rotate_left(1);
            return Ok(self.open.last_mut().map(|(_, open)| open));
        }
        Ok(open(path)?.map(|open| self.keep(name, open)))
    }

    /// Keeps a console open, instead of the one unused for longest.
    fn keep(&mut self, name: &str, open: Open) -> &mut Open {
        if self.open.len() >= OPEN_MAX {
            self.open.remove(0);
        }
        let at = self.open.len();
        self.open.push((name.to_owned(), open));
        &mut self.open[at].1
    }

    fn forget(&mut self, name: &str) {
        self.open.retain(|(known, _)| known != name);
    }
}

/// The uid in `console.<uid>.<rest>`, if it can be the name of a folder.
fn uid_of(name: &str) -> Option<&str> {
    let (uid, rest) = name.strip_prefix(CONSOLE)?.strip_prefix('.')?.split_once('.')?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (!uid.is_empty() && !rest.is_empty() && uid.bytes().all(plain)).then_some(uid)
}

/// Names in a folder after `after`; nothing if the folder has gone.
fn names(folder: &Path, prefix: &str, after: &str) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        if name.starts_with(prefix) && name.as_str() > after {
            found.push(name);
        }
    }
    Ok(found)
}

fn open(path: &Path) -> io::Result<Option<Open>> {
    let opened = match spare_now(|| OpenOptions::new().read(true).append(true).open(path)) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => spare_now(|| File::open(path)),
        opened => opened,
    };
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let found = file.metadata()?;
    let sealed = found.permissions().mode() & 0o200 == 0;
    Ok(Some(Open {
        file: Arc::new(file),
        length: found.len(),
        sealed,
    }))
}

fn make(path: &Path) -> io::Result<Open> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create_new(true).mode(MODES[0]);
    let mut made = spare_now(|| options.open(path));
    for _ in 0..FOLDER_TRIES {
        if !made.as_ref().is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            break;
        }
        if let Some(folder) = path.parent() {
            let _exists = DirBuilder::new().mode(0o700).create(folder);
        }
        made = spare_now(|| options.open(path));
    }
    Ok(Open {
        file: Arc::new(made?),
        length: 0,
        sealed: false,
    })
}

fn set_sealed(open: &mut Open) -> io::Result<()> {
    open.file.set_permissions(Permissions::from_mode(MODES[1]))?;
    open.sealed = true;
    Ok(())
}

/// Appends all of it or nothing: what a full disk took of it is cut off again.
fn write(open: &mut Open, bytes: &[u8]) -> io::Result<()> {
    if let Err(error) = (&*open.file).write_all(bytes) {
        open.file.set_len(open.length)?;
        return Err(error);
    }
    open.length += bytes.len() as u64;
    Ok(())
}
