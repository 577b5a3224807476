//! All that is below a folder, at any depth, with two descriptors and no recursion.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStringExt;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};

/// Flags of a folder that is looked through.
const FOLDER_FLAGS: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Shows all that is below a folder: the folder that it is in, its name, what it is. Returns how many
/// levels of folders there are. Nobody may move them meanwhile: a folder is left by its `..`.
pub(super) fn through(root: File, mut met: impl FnMut(&File, &OsStr, &FileStat)) -> nix::Result<usize> {
    let mut at = root;
    let mut levels = vec![folders(&at, &mut met)?];
    let mut deepest = 0;
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.pop() {
            at = File::from(openat(&at, name.as_os_str(), FOLDER_FLAGS, Mode::empty())?);
            deepest = deepest.max(levels.len());
            levels.push(folders(&at, &mut met)?);
            continue;
        }
        levels.pop();
        if !levels.is_empty() {
            at = File::from(openat(&at, "..", FOLDER_FLAGS, Mode::empty())?);
        }
    }
    Ok(deepest)
}

/// Shows what is in one folder; the folders among it.
fn folders(folder: &File, met: &mut impl FnMut(&File, &OsStr, &FileStat)) -> nix::Result<Vec<OsString>> {
    let mut below = Vec::new();
    let stream = openat(folder, ".", FOLDER_FLAGS, Mode::empty())?;
    for entry in Dir::from_fd(stream)?.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let name = OsString::from_vec(name.to_vec());
        let stat = fstatat(folder, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        met(folder, &name, &stat);
        if SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT) == SFlag::S_IFDIR {
            below.push(name);
        }
    }
    Ok(below)
}
