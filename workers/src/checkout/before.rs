//! What stood in the folder before a checkout: it is removed where it would steer git, and otherwise
//! only where an earlier checkout brought it and this commit has it no more.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use super::bounds::Kept;
use super::{ENTRY_BYTES_MAX, Repository, items};
use crate::beneath::{Folder, is, next_name, trouble};
use crate::task::desk::say;
use crate::tree;

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;

/// Largest list of an earlier checkout's files that is looked at, bytes: half a million files.
const INDEX_BYTES_MAX: u64 = 64 << 20;

/// The name of that list while it is looked at; git has no file of this name.
const OLD_INDEX: &str = "index.before";

/// What was there.
pub(super) struct Before {
    /// Whether there was anything.
    pub(super) had_files: bool,
    /// What an earlier checkout said which files it brought. A script may have written it: it decides
    /// about nothing but which files of the folder go.
    index: Option<Vec<u8>>,
}

impl Before {
    /// Looks at the folder, and removes its `.git`, whatever that is.
    pub(super) fn take(folder: &Folder) -> tree::Result<Self> {
        let cant = |e: io::Error| trouble("can't remove the .git that is there", &e);
        let had_files = next_name(&mut folder.entries().map_err(cant)?).map_err(cant)?.is_some();
        let index = folder.read(".git/index").ok().and_then(whole);
        folder.remove(OsStr::new(".git")).map_err(cant)?;
        Ok(Before { had_files, index })
    }

    /// Removes the files of the earlier checkout that the one at hand does not have.
    pub(super) fn clean_up(&self, repository: &Repository<'_>) -> tree::Result<()> {
        let Some(index) = &self.index else {
            return Ok(());
        };
        let cant = |e: io::Error| trouble("can't remove what an earlier checkout left", &e);
        let git = repository.folder.enter(".git").map_err(cant)?;
        let mut file = git.create(OsStr::new(OLD_INDEX), 0o600).map_err(cant)?;
        io::Write::write_all(&mut file, index).map_err(cant)?;
        drop(file);
        let (mut old, mut kept) = (HashSet::new(), Kept::default());
        // A list of a few bytes may stand for more than the node has room for: names in it share their beginnings.
        let told = repository.files(Some(OLD_INDEX), |path| {
            kept.add(path.as_os_str().as_bytes(), true)?;
            old.insert(path.to_owned());
            Ok(())
        });
        // One that git can't read says nothing.
        let told = told.unwrap_or_else(|trouble| {
            say(&format!(
                "git-checkout: the files of an earlier checkout stay: its .git/index can't be used: {trouble}"
            ));
            false
        });
        let told = told
            && repository.files(None, |path| {
                // What the commit has may be more than is to be kept in mind.
                old.remove(path);
                Ok(())
            })?;
        git.remove(OsStr::new(OLD_INDEX)).map_err(cant)?;
        if told {
            for path in &old {
                remove_file(repository.folder, path).map_err(cant)?;
            }
        }
        Ok(())
    }
}

/// A regular file that is not too long.
fn whole(file: File) -> Option<Vec<u8>> {
    let meta = file.metadata().ok()?;
    let mut bytes = Vec::new();
    let fits = meta.is_file() && meta.len() <= INDEX_BYTES_MAX;
    fits.then(|| file.take(INDEX_BYTES_MAX).read_to_end(&mut bytes).ok())??;
    Some(bytes)
}

/// Removes a file, and the folders that it leaves empty.
fn remove_file(top: &Folder, path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let nothing = |error: &io::Error| {
        [
            Errno::NOENT,
            Errno::NOTDIR,
            Errno::LOOP,
            Errno::ISDIR,
            Errno::PERM,
            Errno::XDEV,
            Errno::ACCESS,
        ]
        .into_iter()
        .any(|errno| is(error, errno))
    };
    let removed = top
        .enter(parent)
        .and_then(|folder| Ok(unlinkat(&folder, name, AtFlags::empty())?));
    match removed {
        Err(error) if nothing(&error) => return Ok(()),
        other => other?,
    }
    let mut folder = parent;
    while let (Some(above), Some(name)) = (folder.parent(), folder.file_name()) {
        let emptied = top
            .enter(above)
            .and_then(|above| Ok(unlinkat(&above, name, AtFlags::REMOVEDIR)?));
        if emptied.is_err() {
            break;
        }
        folder = above;
    }
    Ok(())
}

impl Repository<'_> {
    /// The files of a list of git's, one after the other; whether it could be read.
    fn files(&self, index: Option<&str>, mut found: impl FnMut(&Path) -> io::Result<()>) -> tree::Result<bool> {
        let index = format!(".git/{}", index.unwrap_or("index"));
        let git = self.git();
        git.read_with(&[("GIT_INDEX_FILE", &index)], &["ls-files", "-z"], |out| {
            items(out, ENTRY_BYTES_MAX, |item| {
                // A script may have written the list: no other way through the folder is taken.
                let path = Path::new(OsStr::from_bytes(item));
                if path.components().all(|part| matches!(part, Component::Normal(_))) {
                    found(path)?;
                }
                Ok(())
            })
        })
    }
}
