//! Deleting a folder with all below it, whatever claimants have made of it: any depth, any modes, paths
//! longer than the system takes.
//!
//! Folders are not descended into: what is found in one is moved up into the topmost first. So it
//! takes three descriptors and no stack, and never a path of more than one name.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::repository::descriptors::spare_nix;

/// What its owner needs to empty a folder.
const OWNER_ALL: Mode = Mode::S_IRWXU;

/// Folders that are listed again because something was still in them: somebody else puts files there.
const ROUNDS_MAX: usize = 100;

/// Deletes a folder with all below it. Nothing is followed, and what is gone already is no error.
pub(super) fn remove_tree(dir: &Path) -> io::Result<()> {
    let Some(top) = open(AT_FDCWD, dir.as_os_str())? else {
        return Ok(());
    };
    let mut moved = 0;
    for _ in 0..ROUNDS_MAX {
        let mut names = self::names(&top)?;
        while let Some(name) = names.pop() {
            remove(&top, OsStr::from_bytes(&name), &mut names, &mut moved)?;
        }
        match unlinkat(AT_FDCWD, dir, UnlinkatFlags::RemoveDir) {
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::ENOTEMPTY.into())
}

/// Deletes what has this name in the topmost folder; the folders that are in it are moved there.
fn remove(top: &File, name: &OsStr, names: &mut Vec<Box<[u8]>>, moved: &mut u64) -> io::Result<()> {
    if unlink(top, name)? {
        return Ok(());
    }
    let Some(folder) = open(top, name)? else { return Ok(()) };
    for below in self::names(&folder)? {
        let below = OsStr::from_bytes(&below);
        if !unlink(&folder, below)? {
            names.push(lift(&folder, below, top, moved)?);
        }
    }
    match unlinkat(top, name, UnlinkatFlags::RemoveDir) {
        // What came meanwhile is met in the next round.
        Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes a name of anything but a folder; `false` for a folder.
fn unlink(dir: &File, name: &OsStr) -> io::Result<bool> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::EISDIR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Moves a folder up into the topmost one, under a name that is free there.
fn lift(from: &File, name: &OsStr, top: &File, moved: &mut u64) -> io::Result<Box<[u8]>> {
    // Who moves a folder changes its `..`, and needs to be allowed to write to it.
    let _refused = fchmodat(from, name, OWNER_ALL, FchmodatFlags::FollowSymlink);
    loop {
        *moved += 1;
        let free = format!("{moved}.moved");
        match renameat2(from, name, top, free.as_str(), RenameFlags::RENAME_NOREPLACE) {
            Err(Errno::EEXIST | Errno::ENOTEMPTY) => {}
            Ok(()) | Err(Errno::ENOENT) => return Ok(free.into_bytes().into()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Opens a folder, and lets its owner empty it; `None` if there is none.
fn open(dir: impl AsFd, name: &OsStr) -> io::Result<Option<File>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let open = || spare_nix(|| openat(&dir, name, flags, Mode::empty()));
    let opened = match open() {
        Err(Errno::EACCES) => {
            fchmodat(&dir, name, OWNER_ALL, FchmodatFlags::FollowSymlink)?;
            open()
        }
        opened => opened,
    };
    let folder = match opened {
        Ok(folder) => File::from(folder),
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    if !nix::unistd::geteuid().is_root() {
        nix::sys::stat::fchmod(&folder, OWNER_ALL)?;
    }
    Ok(Some(folder))
}

/// The names in a folder.
fn names(folder: &File) -> io::Result<Vec<Box<[u8]>>> {
    let here = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let fd = spare_nix(|| openat(folder, ".", here, Mode::empty()))?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(fd)?.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.into());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use nix::fcntl::open as open_path;
    use nix::sys::stat::mkdirat;

    use super::*;

    /// On the small stack of a thread that waits, with few descriptors: a recursion would end the process.
    #[test]
    fn folders_of_any_depth_go_and_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        fs::create_dir(&tree).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "k").unwrap();
        for shut in ["shut", "shut/below", "shut/below/far"] {
            fs::create_dir(tree.join(shut)).unwrap();
            fs::write(tree.join(shut).join("file"), "f").unwrap();
        }
        for shut in ["shut/below/far", "shut/below", "shut"] {
            fs::set_permissions(tree.join(shut), fs::Permissions::from_mode(0o000)).unwrap();
        }
        std::os::unix::fs::symlink(&outside, tree.join("link")).unwrap();
        fs::create_dir(tree.join("1.moved")).unwrap();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let mut at = open_path(&tree, flags, Mode::empty()).unwrap();
        let name = "d".repeat(200);
        for _ in 0..20_000 {
            mkdirat(&at, name.as_str(), Mode::S_IRWXU).unwrap();
            at = openat(&at, name.as_str(), flags, Mode::empty()).unwrap();
        }
        drop(at);
        let removed = tree.clone();
        let thread = std::thread::Builder::new().stack_size(256 << 10);
        thread
            .spawn(move || remove_tree(&removed))
            .unwrap()
            .join()
            .unwrap()
            .unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(outside.join("kept").exists());
        remove_tree(&tree).unwrap();
    }
}
