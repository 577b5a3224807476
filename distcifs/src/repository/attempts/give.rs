//! Giving a folder with all below it to a user, at any depth: with two descriptors, no recursion and
//! never a path of more than one name.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, fchown, fchownat};

use crate::repository::descriptors::spare_nix;

/// Gives a folder and all below it to a user; symbolic links are not followed.
pub(super) fn give_to(dir: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    let mut at = open(AT_FDCWD, dir.as_os_str())?;
    fchown(&at, uid, gid)?;
    let mut levels = vec![give_names(&at, uid, gid)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.pop() {
            at = open(&at, &name)?;
            levels.push(give_names(&at, uid, gid)?);
            continue;
        }
        levels.pop();
        if !levels.is_empty() {
            at = open(&at, OsStr::new(".."))?;
        }
    }
    Ok(())
}

fn open(dir: impl std::os::fd::AsFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = spare_nix(|| openat(&dir, name, flags, Mode::empty()))?;
    Ok(File::from(opened))
}

/// Gives what is in one folder; the folders among it.
fn give_names(folder: &File, uid: Option<Uid>, gid: Option<Gid>) -> io::Result<Vec<OsString>> {
    let mut below = Vec::new();
    let stream = open(folder, OsStr::new("."))?;
    for entry in Dir::from_fd(stream.into())?.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let name = OsString::from_vec(name.to_vec());
        fchownat(folder, name.as_os_str(), uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let folder_or_unknown = matches!(entry.file_type(), None | Some(nix::dir::Type::Directory));
        if folder_or_unknown && is_folder(folder, &name) {
            below.push(name);
        }
    }
    Ok(below)
}

fn is_folder(folder: &File, name: &OsStr) -> bool {
    nix::sys::stat::fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}
